//! A frame in somebody's buffer, and the queues it comes from and goes to. Two kinds live: DPDK's mbufs and queues
//! (`crate::dpdk`) and plain memory (`crate::sim`).

use arrayvec::ArrayVec;

/// The most frames that one turn takes from a queue.
pub const BURST: usize = 32;

pub type Burst<F> = ArrayVec<F, BURST>;

/// One received frame, owned: dropping it frees its buffer.
pub trait Frame: Send {
    /// The frame's first segment: all headers, and nearly always the whole frame.
    fn bytes(&self) -> &[u8];
    fn bytes_mut(&mut self) -> &mut [u8];
    /// The length on the wire, of all segments.
    fn wire_len(&self) -> usize;
    /// Copies as much as there is room for, of all segments, and says how much that was.
    fn copy_to(&self, into: &mut [u8]) -> usize;
}

/// One receive and one transmit queue of a port, owned by one worker.
pub trait Queue {
    type Frame: Frame;
    /// Takes what has arrived, at most as much as `into` has room for.
    fn receive(&mut self, into: &mut Burst<Self::Frame>);
    /// Hands frames over from the front; what the port did not take stays in `from`.
    fn send(&mut self, from: &mut Burst<Self::Frame>);
}
