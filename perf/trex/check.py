#!/usr/bin/env python3
"""Builds the packets that vip.py describes, without TRex, and writes them to a pcap file.

    pip install scapy
    perf/trex/check.py tests/data/trex.pcap          # some of each stream: what the test in tests/trex.rs reads
    perf/trex/check.py --all /tmp/trex.pcap          # every one of a million clients, in every size
    DROVER_TREX_PCAP=/tmp/trex.pcap cargo test --test trex

The profile runs as it is, with a double of TRex's API that records its streams; their field engine programs are then
carried out here. What scapy makes of each packet must agree: addresses, lengths and the IP checksum.
"""

import argparse
import importlib.util
import ipaddress
import pathlib
import struct
import sys
import types

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

HERE = pathlib.Path(__file__).resolve().parent
DIRECTOR = "02:00:00:00:00:10"
GENERATOR = "02:00:00:00:00:01"
OFFSETS = {"IP.src": (26, ">I"), "UDP.sport": (34, ">H"), "TCP.sport": (34, ">H")}


class Recorded:
    """What a call of TRex's API said."""

    def __init__(self, *arguments, **named):
        self.arguments, self.named = arguments, named

    def __getattr__(self, name):
        try:
            return self.__dict__["named"][name]
        except KeyError:
            raise AttributeError(name)


def double_of_trex():
    names = "STLScVmRaw STLVmTupleGen STLVmWrFlowVar STLVmFixIpv4 STLPktBuilder STLStream STLTXCont STLFlowLatencyStats"
    api = types.ModuleType("trex_stl_lib.api")
    for name in names.split():
        setattr(api, name, type(name, (Recorded,), {}))
    api.Ether, api.IP, api.UDP, api.TCP = Ether, IP, UDP, TCP
    sys.modules["trex_stl_lib"] = types.ModuleType("trex_stl_lib")
    sys.modules["trex_stl_lib.api"] = api


def profile():
    double_of_trex()
    spec = importlib.util.spec_from_file_location("vip", HERE / "vip.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.register()


def checksum(header):
    total = sum(struct.unpack(">10H", header))
    while total > 0xffff:
        total = (total & 0xffff) + (total >> 16)
    return total ^ 0xffff


class Stream:
    """A stream's packets, by number."""

    def __init__(self, stream):
        packet = stream.packet.pkt.copy()
        packet[Ether].dst, packet[Ether].src = DIRECTOR, GENERATOR
        self.template = bytes(packet)
        vm = stream.packet.named.get("vm")
        self.steps = vm.arguments[0] if vm else []
        tuples = [step for step in self.steps if type(step).__name__ == "STLVmTupleGen"]
        assert len(tuples) <= 1, "one source of clients"
        self.clients = tuples[0] if tuples else None

    def count(self):
        if not self.clients:
            return 1
        addresses = int(ipaddress.ip_address(self.clients.ip_max)) - int(ipaddress.ip_address(self.clients.ip_min)) + 1
        return addresses * (self.clients.port_max - self.clients.port_min + 1)

    def values(self, number):
        ports = self.clients.port_max - self.clients.port_min + 1
        name, first = self.clients.name, int(ipaddress.ip_address(self.clients.ip_min))
        return {name + ".ip": first + number // ports, name + ".port": self.clients.port_min + number % ports}

    def packet(self, number):
        frame = bytearray(self.template)
        for step in self.steps:
            kind = type(step).__name__
            if kind == "STLVmWrFlowVar":
                offset, form = OFFSETS[step.pkt_offset]
                struct.pack_into(form, frame, offset, self.values(number)[step.fv_name])
            elif kind == "STLVmFixIpv4":
                frame[24:26] = b"\0\0"
                struct.pack_into(">H", frame, 24, checksum(bytes(frame[14:34])))
            else:
                assert kind == "STLVmTupleGen", kind
        return bytes(frame)


def agree(frame, vip):
    """What scapy would have sent is what the field engine makes."""
    seen = Ether(frame)
    again = seen.copy()
    del again[IP].chksum
    del again[IP].len
    assert bytes(again) == frame, seen.show(dump=True)
    assert seen[IP].dst == vip and 60 <= len(frame) <= 1514, seen.show(dump=True)


def chosen(count, every):
    """All, or both ends and some between."""
    if every or count <= 8:
        return range(count)
    return sorted({0, 1, 15, 16, 17, count // 3, count // 2, count - 17, count - 16, count - 1})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pcap")
    parser.add_argument("--all", action="store_true", help="every packet, not some of each stream")
    parser.add_argument("--flows", default="1000000")
    options = parser.parse_args()
    made = 0
    with open(options.pcap, "wb") as file:
        file.write(struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for size in ("64", "imix"):
            vip = profile()
            streams = vip.get_streams(tunables=["--size", size, "--flows", options.flows, "--syn", "1"])
            for stream in map(Stream, streams):
                for number in chosen(stream.count(), options.all):
                    frame = stream.packet(number)
                    # scapy is slow; the ends and every thousandth are enough for it.
                    if number % 1000 == 0 or number + 1 == stream.count() or not options.all:
                        agree(frame, vip.vip)
                    file.write(struct.pack("<IIII", 0, made % 1000000, len(frame), len(frame)) + frame)
                    made += 1
    print("%d packets in %s" % (made, options.pcap))


if __name__ == "__main__":
    main()
