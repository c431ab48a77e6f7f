//! The C compiler is the judge of every structure whose fields are read or written from Rust.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int};
use std::mem::{offset_of, size_of};

use dpdk_sys::{rte_eth_conf, rte_eth_dev_info, rte_eth_stats, rte_mbuf};

#[repr(C)]
struct Row {
    name: *const c_char,
    offset: usize,
    size: usize,
}

#[link(name = "drover_dpdk_layout", kind = "static")]
unsafe extern "C" {
    fn drover_layout_row(index: usize) -> *const Row;
    fn drover_layout_size(which: c_int) -> usize;
}

fn from_c() -> BTreeMap<String, (usize, usize)> {
    let mut rows = BTreeMap::new();
    // SAFETY: the table is static, and ends with NULL.
    while let Some(row) = unsafe { drover_layout_row(rows.len()).as_ref() } {
        // SAFETY: a string literal of C.
        let name = unsafe { CStr::from_ptr(row.name) };
        rows.insert(name.to_str().unwrap().to_owned(), (row.offset, row.size));
    }
    rows
}

fn size_of_field<S, F>(_: fn(&S) -> &F) -> usize {
    size_of::<F>()
}

macro_rules! from_rust {
    ($($of:ident { $($field:ident),+ $(,)? })+) => {
        BTreeMap::from([$($((
            concat!(stringify!($of), ".", stringify!($field)).to_owned(),
            (offset_of!($of, $field), size_of_field(|it: &$of| &it.$field)),
        )),+),+])
    };
}

#[test]
fn every_field_lies_where_c_says() {
    let ours = from_rust! {
        rte_mbuf {
            buf_addr, buf_iova, data_off, refcnt, nb_segs, port, ol_flags, packet_type, pkt_len, data_len, vlan_tci,
            hash, vlan_tci_outer, buf_len, pool, next, tx_offload,
        }
        rte_eth_conf { rxmode, txmode, rx_adv_conf }
        rte_eth_dev_info { driver_name, if_index, max_rx_queues, flow_type_rss_offloads, default_rxportconf }
        rte_eth_stats { ipackets, rx_nombuf }
    };
    assert_eq!(ours, from_c());
}

#[test]
fn every_structure_is_as_large_as_c_says() {
    let ours =
        [size_of::<rte_mbuf>(), size_of::<rte_eth_conf>(), size_of::<rte_eth_dev_info>(), size_of::<rte_eth_stats>()];
    for (which, ours) in ours.into_iter().enumerate() {
        // SAFETY: takes a number, returns a number.
        assert_eq!(ours, unsafe { drover_layout_size(which as c_int) }, "structure {which}");
    }
}
