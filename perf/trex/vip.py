"""TRex stateless profile: many clients to one virtual address, as drover's benchmarks have it.

    start -f perf/trex/vip.py -m 100% -p 0 -t --size imix --flows 1000000

perf/trex/README.md says how the two ports are wired and what the director's configuration is. Every packet that this
describes is built by check.py, and drover's own test gives it to the director.
"""

import argparse

from trex_stl_lib.api import *

# Lengths without the Ethernet checksum, and their shares of the packets.
SIZES = {
    "64": [(60, 1)],
    "imix": [(60, 28), (590, 20), (1514, 4)],
}
PORTS_A_CLIENT = 16
FIRST_CLIENT = "20.0.0.1"
FIRST_PORT = 1024
LATENCY_CLIENT = "21.0.0.1"


def address(first, number):
    """The address so many behind the first."""
    value = 0
    for part in first.split("."):
        value = value << 8 | int(part)
    value += number
    return ".".join(str(value >> shift & 255) for shift in (24, 16, 8, 0))


class Vip:
    def packet(self, client, size, syn):
        # TRex fills in the MAC addresses: its own port's, and the director's (dest_mac in its configuration).
        network = Ether() / IP(src=client, dst=self.vip, ttl=64)
        # A checksum of zero is none, and stays right when the port changes.
        transport = TCP(sport=FIRST_PORT, dport=80, flags="S") if syn else UDP(sport=FIRST_PORT, dport=53, chksum=0)
        packet = network / transport
        return packet / (b"x" * max(0, size - len(packet)))

    def clients(self, transport):
        """Each packet another client: 16 ports of an address, then the next address."""
        last = address(FIRST_CLIENT, self.flows // PORTS_A_CLIENT - 1)
        return STLScVmRaw([
            STLVmTupleGen(
                name="client",
                ip_min=FIRST_CLIENT,
                ip_max=last,
                port_min=FIRST_PORT,
                port_max=FIRST_PORT + PORTS_A_CLIENT - 1,
            ),
            STLVmWrFlowVar(fv_name="client.ip", pkt_offset="IP.src"),
            STLVmWrFlowVar(fv_name="client.port", pkt_offset=transport + ".sport"),
            STLVmFixIpv4(offset="IP"),
        ])

    def load(self):
        streams = []
        for size, share in SIZES[self.size]:
            builder = STLPktBuilder(pkt=self.packet(FIRST_CLIENT, size, False), vm=self.clients("UDP"))
            streams.append(STLStream(packet=builder, mode=STLTXCont(pps=share)))
        if self.syn:
            builder = STLPktBuilder(pkt=self.packet(FIRST_CLIENT, 60, True), vm=self.clients("TCP"))
            streams.append(STLStream(packet=builder, mode=STLTXCont(pps=self.syn)))
        # One client whose packets carry a time stamp, whatever the load: -m scales the others only.
        latency = STLPktBuilder(pkt=self.packet(LATENCY_CLIENT, 64, False))
        streams.append(
            STLStream(packet=latency, mode=STLTXCont(pps=1000), flow_stats=STLFlowLatencyStats(pg_id=1)))
        return streams

    def get_streams(self, tunables=(), **kwargs):
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("--vip", default="10.9.0.100", help="the virtual address")
        parser.add_argument("--size", choices=sorted(SIZES), default="64")
        parser.add_argument("--flows", type=int, default=1_000_000, help="a multiple of %d" % PORTS_A_CLIENT)
        parser.add_argument("--syn", type=int, default=0, help="share of TCP SYNs, beside the sizes' shares")
        parser.parse_args(tunables, namespace=self)
        if self.flows % PORTS_A_CLIENT or self.flows < PORTS_A_CLIENT:
            parser.error("flows come %d to a client" % PORTS_A_CLIENT)
        return self.load()


def register():
    return Vip()
