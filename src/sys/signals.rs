//! Waiting for the signals that ask a program to end, without a handler.

use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

/// What a terminal, a supervisor or a person sends to end us in order.
const ENDING: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// While this lives the ending signals wait for [`EndingSignals::wait`] instead of killing. Take it on the main thread
/// before others are started: they inherit it, and so do children.
pub struct EndingSignals {
    set: libc::sigset_t,
    before: libc::sigset_t,
}

impl EndingSignals {
    pub fn block() -> io::Result<EndingSignals> {
        let mut set = MaybeUninit::uninit();
        let mut before = MaybeUninit::uninit();
        // SAFETY: `sigemptyset` initialises `set`, and `pthread_sigmask` fills `before` when it answers 0; neither is
        // read before that.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in ENDING {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            let error = libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), before.as_mut_ptr());
            if error != 0 {
                return Err(io::Error::from_raw_os_error(error));
            }
            Ok(EndingSignals { set: set.assume_init(), before: before.assume_init() })
        }
    }

    /// The signal that came within this time, if one did.
    pub fn wait(&self, patience: Duration) -> Option<i32> {
        let time = libc::timespec {
            tv_sec: libc::time_t::try_from(patience.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: patience.subsec_nanos().into(),
        };
        // SAFETY: the set is initialised, the details of the signal are not asked for, and the time is ours.
        let signal = unsafe { libc::sigtimedwait(&self.set, std::ptr::null_mut(), &time) };
        (signal > 0).then_some(signal)
    }
}

impl Drop for EndingSignals {
    fn drop(&mut self) {
        // SAFETY: `before` was filled by `block`.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_waits_until_it_is_asked_for() {
        let signals = EndingSignals::block().unwrap();
        assert_eq!(signals.wait(Duration::ZERO), None);
        // SAFETY: the signal goes to this thread, which has just blocked it.
        assert_eq!(unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGTERM) }, 0);
        assert_eq!(signals.wait(Duration::from_secs(5)), Some(libc::SIGTERM));
    }
}
