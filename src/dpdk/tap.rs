//! net_tap's trigger.
//!
//! The driver reads its descriptor only after a realtime signal from the kernel (one for each frame) has raised a
//! number that all taps of the process share. Left so, each frame interrupts system calls somewhere in the process, a
//! full queue of signals turns into SIGIO, which kills, and two threads that handle signals at once can lose one. So
//! the kernel is asked for no signals, and a receiver that found nothing asks the descriptor and, when there is
//! something to read, raises the driver's signal on its own thread.

use std::ffi::c_int;
use std::os::fd::RawFd;

/// From `fcntl(2)`; the crate libc has it for some systems only.
const F_GETSIG: c_int = 11;

pub(super) struct Trigger {
    descriptor: RawFd,
    signal: c_int,
}

impl Trigger {
    /// Stops the signals of this queue's descriptor, if its driver works by them. The driver keeps the descriptor
    /// open as long as the queue lives.
    pub(super) fn take_over(descriptor: RawFd) -> Option<Trigger> {
        // SAFETY: reads a setting of an open descriptor.
        let signal = unsafe { libc::fcntl(descriptor, F_GETSIG) };
        // SAFETY: as above.
        let flags = unsafe { libc::fcntl(descriptor, libc::F_GETFL) };
        if signal <= 0 || flags < 0 || !is_handled(signal) {
            return None;
        }
        // SAFETY: changes a flag of the queue's own descriptor, which nothing but signalling depends on.
        let result = unsafe { libc::fcntl(descriptor, libc::F_SETFL, flags & !libc::O_ASYNC) };
        (result == 0).then_some(Trigger { descriptor, signal })
    }

    /// Whether there was something to read, and the driver has been told.
    pub(super) fn pull(&self) -> bool {
        let mut entry = libc::pollfd { fd: self.descriptor, events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, and no waiting.
        let ready = unsafe { libc::poll(&mut entry, 1, 0) } > 0 && entry.revents & libc::POLLIN != 0;
        if ready {
            // SAFETY: the signal has a handler (`take_over`), which the driver wrote to run on any thread; `raise`
            // comes back after it has run on this one.
            unsafe { libc::raise(self.signal) };
        }
        ready
    }
}

fn is_handled(signal: c_int) -> bool {
    // SAFETY: all zeroes is a valid sigaction to be written over.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: asks only.
    let result = unsafe { libc::sigaction(signal, std::ptr::null(), &mut action) };
    result == 0 && action.sa_sigaction != libc::SIG_DFL && action.sa_sigaction != libc::SIG_IGN
}
