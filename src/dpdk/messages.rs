//! What DPDK says goes to the log under the target `dpdk`, and its last complaint into our errors.
//!
//! All of it is at debug level or below: what goes wrong comes back as a result, and drivers complain on every good
//! start too (net_tap about kernel options that nobody needs).

use std::ffi::{c_char, c_int, c_void};

use parking_lot::Mutex;

/// From `rte_log.h`: errors are numbered up to here, warnings up to there.
const ERROR: c_int = 4;
const WARNING: c_int = 5;

static COMPLAINT: Mutex<String> = Mutex::new(String::new());

/// From `stdio.h` of the GNU C library.
#[repr(C)]
struct CookieFunctions {
    read: Option<unsafe extern "C" fn(*mut c_void, *mut c_char, usize) -> isize>,
    write: Option<unsafe extern "C" fn(*mut c_void, *const c_char, usize) -> isize>,
    seek: Option<unsafe extern "C" fn(*mut c_void, *mut i64, c_int) -> c_int>,
    close: Option<unsafe extern "C" fn(*mut c_void) -> c_int>,
}

unsafe extern "C" {
    fn fopencookie(cookie: *mut c_void, mode: *const c_char, functions: CookieFunctions) -> *mut libc::FILE;
}

/// From now on, and for good: DPDK may say something until the process ends.
pub(super) fn redirect() {
    let functions = CookieFunctions { read: None, write: Some(written), seek: None, close: None };
    // SAFETY: the function ignores the cookie; the stream is never closed.
    let stream = unsafe { fopencookie(std::ptr::null_mut(), c"w".as_ptr(), functions) };
    if !stream.is_null() {
        // SAFETY: an open stream, which stays open.
        unsafe { dpdk_sys::rte_openlog_stream(stream.cast()) };
    }
}

/// # Safety
/// As the C library calls it: `text` points to `length` bytes.
unsafe extern "C" fn written(_: *mut c_void, text: *const c_char, length: usize) -> isize {
    // SAFETY: by contract.
    let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), length) };
    // SAFETY: reads what DPDK noted for this thread before it wrote.
    let level = unsafe { dpdk_sys::rte_log_cur_msg_loglevel() };
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim();
    if level <= ERROR {
        text.clone_into(&mut COMPLAINT.lock());
    }
    log::log!(target: "dpdk", if level <= WARNING { log::Level::Debug } else { log::Level::Trace }, "{text}");
    length as isize
}

/// The last complaint, once.
pub(super) fn take_complaint() -> String {
    std::mem::take(&mut COMPLAINT.lock())
}
