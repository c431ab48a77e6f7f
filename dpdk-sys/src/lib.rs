//! Bindings to the system's DPDK (22.11 or newer), made by bindgen from `wrapper.h`. No logic.
//!
//! Static inlines (`rte_eth_rx_burst`, `rte_pktmbuf_free`, …) are compiled once with symbols: a call for each burst or
//! buffer. What is read for each packet are fields of [`rte_mbuf`], without a call.

#![allow(non_camel_case_types, non_snake_case, non_upper_case_globals, unsafe_op_in_unsafe_fn)]
#![allow(clippy::all, clippy::pedantic)]

use std::ffi::c_void;
use std::mem::{align_of, offset_of, size_of};

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));

/// A packet buffer's header. Written by hand: its C form is unions within unions whose generated names change from one
/// DPDK to the next, while the places of these fields have not changed since 18.05.
#[repr(C, align(64))]
pub struct rte_mbuf {
    pub buf_addr: *mut c_void,
    pub buf_iova: u64,
    pub data_off: u16,
    pub refcnt: u16,
    pub nb_segs: u16,
    pub port: u16,
    pub ol_flags: u64,
    pub packet_type: u32,
    pub pkt_len: u32,
    pub data_len: u16,
    pub vlan_tci: u16,
    pub hash: [u32; 2],
    pub vlan_tci_outer: u16,
    pub buf_len: u16,
    pub pool: *mut rte_mempool,
    pub next: *mut rte_mbuf,
    pub tx_offload: u64,
    reserved: [u64; 6],
}

macro_rules! pin {
    ($($field:ident = $offset:ident,)+) => {
        $(const _: () = assert!(offset_of!(rte_mbuf, $field) == $offset as usize);)+
    };
}

const _: () = assert!(size_of::<rte_mbuf>() == 128 && DROVER_SIZE_MBUF == 128 && align_of::<rte_mbuf>() == 64);
pin! {
    buf_addr = DROVER_OFFSET_buf_addr,
    buf_iova = DROVER_OFFSET_buf_iova,
    data_off = DROVER_OFFSET_data_off,
    refcnt = DROVER_OFFSET_refcnt,
    nb_segs = DROVER_OFFSET_nb_segs,
    port = DROVER_OFFSET_port,
    ol_flags = DROVER_OFFSET_ol_flags,
    packet_type = DROVER_OFFSET_packet_type,
    pkt_len = DROVER_OFFSET_pkt_len,
    data_len = DROVER_OFFSET_data_len,
    vlan_tci = DROVER_OFFSET_vlan_tci,
    hash = DROVER_OFFSET_hash,
    buf_len = DROVER_OFFSET_buf_len,
    pool = DROVER_OFFSET_pool,
    next = DROVER_OFFSET_next,
    tx_offload = DROVER_OFFSET_tx_offload,
}
