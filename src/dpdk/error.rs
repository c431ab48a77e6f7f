//! What DPDK answers when it says no.

use std::ffi::{CStr, c_char, c_int};
use std::fmt;

use super::messages;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    what: String,
    number: i32,
    /// What DPDK said about it, if anything.
    said: String,
}

impl Error {
    /// Found here, not by DPDK.
    pub(super) fn plain(what: impl Into<String>) -> Error {
        Error { what: what.into(), number: 0, said: String::new() }
    }

    /// Found here, with an errno for the caller to tell it by.
    pub(super) fn refused(what: impl Into<String>, number: c_int) -> Error {
        Error { what: what.into(), number, said: String::new() }
    }

    /// Answered by DPDK, with an errno of either sign.
    pub(super) fn answered(what: impl Into<String>, number: c_int) -> Error {
        Error { what: what.into(), number: number.saturating_abs(), said: messages::take_complaint() }
    }

    /// With the calling thread's `rte_errno`.
    pub(super) fn last(what: impl Into<String>) -> Error {
        // SAFETY: reads a thread-local.
        Error::answered(what, unsafe { dpdk_sys::drover_errno() })
    }

    /// The errno, 0 when there is none.
    pub fn number(&self) -> i32 {
        self.number
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number {
            0 => f.write_str(&self.what)?,
            // SAFETY: answers with a string for any number, valid until this thread asks again.
            number => write!(f, "{}: {}", self.what, unsafe { text(dpdk_sys::rte_strerror(number)) })?,
        }
        if self.said.is_empty() { Ok(()) } else { write!(f, " (DPDK says: {})", self.said) }
    }
}

impl std::error::Error for Error {}

/// Turns the C convention (negative: an errno) into ours.
pub(super) fn check(result: c_int, what: impl FnOnce() -> String) -> Result<(), Error> {
    if result < 0 {
        return Err(Error::answered(what(), result));
    }
    // What was said meanwhile did no harm; it must not appear in a later error.
    messages::take_complaint();
    Ok(())
}

/// # Safety
/// `string` is null or a C string that stays valid during the call.
pub(super) unsafe fn text(string: *const c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: not null, and the caller vouches for the rest.
    unsafe { CStr::from_ptr(string) }.to_string_lossy().into_owned()
}
