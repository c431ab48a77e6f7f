//! One frame in DPDK's memory, owned.

use std::ptr::NonNull;
use std::slice;

use dpdk_sys::rte_mbuf;

use crate::packet::Frame;

/// The two MAC addresses, which a VLAN tag follows.
const ADDRESSES: usize = 12;
const TAG: usize = 4;
const TAG_TYPE: [u8; 2] = [0x81, 0x00];

/// An owned chain of segments; dropping it gives them all back. Transparent, so that a burst of these is the array of
/// pointers that drivers fill and take.
///
/// Invariant: each segment's `data_off + data_len <= buf_len`, and `pkt_len` is the sum of them. Drivers vouch for it,
/// and every method keeps it.
#[repr(transparent)]
pub struct Mbuf(NonNull<rte_mbuf>);

// SAFETY: the sole owner of its segments, and pools take buffers back from any thread.
unsafe impl Send for Mbuf {}

impl Mbuf {
    /// # Safety
    /// `raw` is a valid chain that the caller owns and gives away.
    pub(super) unsafe fn from_raw(raw: NonNull<rte_mbuf>) -> Mbuf {
        Mbuf(raw)
    }

    fn header(&self) -> &rte_mbuf {
        // SAFETY: owned and alive until drop.
        unsafe { self.0.as_ref() }
    }

    fn header_mut(&mut self) -> &mut rte_mbuf {
        // SAFETY: owned, alive until drop, and borrowed exclusively.
        unsafe { self.0.as_mut() }
    }

    /// How many bytes fit in front.
    pub fn headroom(&self) -> usize {
        usize::from(self.header().data_off)
    }

    /// How many bytes fit behind the first segment.
    pub fn tailroom(&self) -> usize {
        let header = self.header();
        usize::from(header.buf_len) - usize::from(header.data_off) - usize::from(header.data_len)
    }

    pub fn segments(&self) -> usize {
        usize::from(self.header().nb_segs)
    }

    /// Makes room for `count` bytes in front and answers whether there was any. What they hold is left over from
    /// before; write them.
    #[must_use]
    pub fn prepend(&mut self, count: usize) -> bool {
        let fits = count <= self.headroom() && count <= usize::from(u16::MAX - self.header().data_len);
        if fits {
            let header = self.header_mut();
            header.data_off -= count as u16;
            header.data_len += count as u16;
            header.pkt_len += count as u32;
        }
        fits
    }

    /// Takes `count` bytes off the front, and answers whether the first segment had them.
    #[must_use]
    pub fn trim_front(&mut self, count: usize) -> bool {
        let fits = count <= usize::from(self.header().data_len);
        if fits {
            let header = self.header_mut();
            header.data_off += count as u16;
            header.data_len -= count as u16;
            header.pkt_len -= count as u32;
        }
        fits
    }

    /// Shortens a frame of one segment to `length`; longer ones and chains stay as they are.
    pub fn truncate(&mut self, length: usize) {
        let header = self.header_mut();
        if header.nb_segs == 1 && length < usize::from(header.data_len) {
            header.data_len = length as u16;
            header.pkt_len = length as u32;
        }
    }

    /// Adds `bytes` to the end of a frame of one segment, and answers whether they fitted.
    #[must_use]
    pub fn append(&mut self, bytes: &[u8]) -> bool {
        let fits = self.header().nb_segs == 1 && bytes.len() <= self.tailroom();
        if fits {
            let end = usize::from(self.header().data_len);
            let header = self.header_mut();
            header.data_len += bytes.len() as u16;
            header.pkt_len += bytes.len() as u32;
            self.bytes_mut()[end..].copy_from_slice(bytes);
        }
        fits
    }

    /// Puts an 802.1Q tag behind the MAC addresses, and answers whether there was room.
    #[must_use]
    pub fn insert_vlan_tag(&mut self, control: u16) -> bool {
        if self.bytes().len() < ADDRESSES || !self.prepend(TAG) {
            return false;
        }
        let bytes = self.bytes_mut();
        bytes.copy_within(TAG..TAG + ADDRESSES, 0);
        bytes[ADDRESSES..ADDRESSES + 2].copy_from_slice(&TAG_TYPE);
        bytes[ADDRESSES + 2..ADDRESSES + TAG].copy_from_slice(&control.to_be_bytes());
        true
    }

    /// Takes the 802.1Q tag out and answers with its control field; none when there is no tag.
    pub fn remove_vlan_tag(&mut self) -> Option<u16> {
        let bytes = self.bytes_mut();
        let tag = bytes.get(ADDRESSES..ADDRESSES + TAG)?;
        if tag[..2] != TAG_TYPE {
            return None;
        }
        let control = u16::from_be_bytes([tag[2], tag[3]]);
        bytes.copy_within(..ADDRESSES, TAG);
        self.trim_front(TAG).then_some(control)
    }

    /// Copies the frame, all its segments, as far as `into` reaches; answers with how much was copied.
    pub fn copy_to(&self, into: &mut [u8]) -> usize {
        let mut copied = 0;
        let mut segment = Some(self.header());
        while let Some(header) = segment {
            let data = data(header);
            let count = data.len().min(into.len() - copied);
            into[copied..copied + count].copy_from_slice(&data[..count]);
            copied += count;
            // SAFETY: null, or the next segment of a chain that we own.
            segment = unsafe { header.next.as_ref() };
        }
        copied
    }

    /// Forgets what the receiving driver noted about the frame, so that the sending one does not take it for a request.
    pub fn clear_notes(&mut self) {
        self.header_mut().ol_flags &= dpdk_sys::DROVER_MBUF_HELD;
        self.header_mut().tx_offload = 0;
    }
}

/// One segment's bytes.
fn data(header: &rte_mbuf) -> &[u8] {
    // SAFETY: by the invariant of `Mbuf`, within the segment's buffer, which is memory from the kernel and never
    // uninitialised.
    unsafe {
        let start = header.buf_addr.cast::<u8>().add(usize::from(header.data_off));
        slice::from_raw_parts(start, usize::from(header.data_len))
    }
}

impl Frame for Mbuf {
    fn bytes(&self) -> &[u8] {
        data(self.header())
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        let header = self.header();
        // SAFETY: as in `data`; owned and borrowed exclusively.
        unsafe {
            let start = header.buf_addr.cast::<u8>().add(usize::from(header.data_off));
            slice::from_raw_parts_mut(start, usize::from(header.data_len))
        }
    }

    fn wire_len(&self) -> usize {
        self.header().pkt_len as usize
    }

    fn copy_to(&self, into: &mut [u8]) -> usize {
        Mbuf::copy_to(self, into)
    }
}

impl Drop for Mbuf {
    fn drop(&mut self) {
        // SAFETY: owned; frees the whole chain, once.
        unsafe { dpdk_sys::rte_pktmbuf_free(self.0.as_ptr()) };
    }
}
