//! What the generated methods share: errors, text and arrays across the C API, the check of the library, cancel handles.
//!
//! Everything unsafe that is not a plain call stands here. A closure given to a function of this module makes exactly one call
//! of the C API with the pointers that it is given.
use std::ffi::CStr;
use std::os::raw::{c_char, c_void};
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::sys;
use crate::{Error, ErrorKind, Result};

/// What one call of the C API is given for its error.
type ErrorOut = *mut *mut sys::nbl_error;

/// The text that a `const char *` and a length lend, copied.
///
/// # Safety
/// `data` is NULL or points to `size` readable bytes.
unsafe fn copied(data: *const c_char, size: usize) -> String {
    if data.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise. The library gives valid UTF-8; should it ever not, nothing worse than U+FFFD follows.
    String::from_utf8_lossy(unsafe { std::slice::from_raw_parts(data.cast::<u8>(), size) }).into_owned()
}

/// Makes an [`Error`] of a failed status and its error object, and releases the object.
fn error_of(status: sys::nbl_status, error: *mut sys::nbl_error) -> Error {
    let mut size = 0;
    // SAFETY: `error` is NULL, which these functions take, or an error that the library has just given us; what they lend is
    // copied before it is released.
    unsafe {
        let data = sys::nbl_error_message(error, &mut size);
        let mut message = copied(data, size);
        let data = sys::nbl_error_detail(error, &mut size);
        let detail = copied(data, size);
        sys::nbl_error_release(error);
        if message.is_empty() {
            message = static_text(sys::nbl_status_name(status)).to_owned();
        }
        Error::new(status, message, detail)
    }
}

/// One call; its status where it is no failure.
#[inline]
pub(crate) fn check(call: impl FnOnce(ErrorOut) -> sys::nbl_status) -> Result<sys::nbl_status> {
    let mut error = ptr::null_mut();
    let status = call(&mut error);
    if status < 0 {
        return Err(error_of(status, error));
    }
    Ok(status)
}

/// A text that lives as long as the library is loaded.
///
/// # Safety
/// `text` is NULL, or ends in NUL and is never freed.
pub(crate) unsafe fn static_text(text: *const c_char) -> &'static str {
    if text.is_null() {
        return "";
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_str().unwrap_or("")
}

/// A path as the UTF-8 that the C API takes.
pub(crate) fn path(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::binding(ErrorKind::Argument, format!("the path {} is not UTF-8", path.display())))
}

/// Arrays that belong together have one length.
pub(crate) fn same_length(first: (&str, usize), second: (&str, usize)) -> Result<()> {
    if first.1 == second.1 {
        return Ok(());
    }
    Err(Error::binding(
        ErrorKind::Argument,
        format!("\"{}\" has {} entries and \"{}\" has {}; expected as many", first.0, first.1, second.0, second.1),
    ))
}

/// `None` waits for ever. Rounded up, so that a short wait is not a busy loop.
pub(crate) fn milliseconds(timeout: Option<Duration>) -> i32 {
    timeout.map_or(-1, |time| i32::try_from((time.as_nanos() + 999_999) / 1_000_000).unwrap_or(i32::MAX))
}

/// A vector of zeros; out of memory is an error, not the end of the process.
pub(crate) fn zeros<T: Copy + Default>(count: usize) -> Result<Vec<T>> {
    let mut out = Vec::new();
    out.try_reserve_exact(count).map_err(|_| Error::binding(ErrorKind::NoMemory, format!("no memory for {count} values")))?;
    out.resize(count, T::default());
    Ok(out)
}

/// A function with `char **out, size_t *out_len`.
pub(crate) fn owned_text(call: impl FnOnce(*mut *mut c_char, *mut usize, ErrorOut) -> sys::nbl_status) -> Result<String> {
    let mut data: *mut c_char = ptr::null_mut();
    let mut size = 0;
    check(|error| call(&mut data, &mut size, error))?;
    // SAFETY: on success the library has given `size` bytes, which are ours until nbl_free.
    unsafe {
        let text = copied(data, size);
        sys::nbl_free(data.cast());
        Ok(text)
    }
}

/// A function that makes a handle.
pub(crate) fn new_handle<T>(call: impl FnOnce(*mut *mut T, ErrorOut) -> sys::nbl_status) -> Result<NonNull<T>> {
    let mut handle = ptr::null_mut();
    check(|error| call(&mut handle, error))?;
    NonNull::new(handle).ok_or_else(|| Error::binding(ErrorKind::Internal, "the library gave no handle".to_owned()))
}

/// A function with the caller's bytes: `char *buf, size_t buf_capacity, size_t *buf_len`. Short ones, as those of a token are,
/// need no memory but their own; for longer ones the call is made again, which by the C API's promise loses nothing.
#[inline]
pub(crate) fn bytes(
    mut call: impl FnMut(*mut c_char, usize, *mut usize, ErrorOut) -> sys::nbl_status,
) -> Result<(sys::nbl_status, Vec<u8>)> {
    let mut short = [0u8; 128];
    let mut size = 0;
    let mut error = ptr::null_mut();
    let mut status = call(short.as_mut_ptr().cast(), short.len(), &mut size, &mut error);
    if status >= 0 {
        return Ok((status, short[..size.min(short.len())].to_vec()));
    }
    let mut long: Vec<u8> = Vec::new();
    // A text may grow between two calls, where several threads read the log.
    while status == sys::NBL_E_BUFFER && size > long.len() {
        // SAFETY: an error that the library gave for this call.
        unsafe { sys::nbl_error_release(error) };
        error = ptr::null_mut();
        long = zeros(size)?;
        status = call(long.as_mut_ptr().cast(), long.len(), &mut size, &mut error);
    }
    if status < 0 {
        return Err(error_of(status, error));
    }
    long.truncate(size);
    Ok((status, long))
}

/// The same where the bytes are text.
#[inline]
pub(crate) fn text(call: impl FnMut(*mut c_char, usize, *mut usize, ErrorOut) -> sys::nbl_status) -> Result<(sys::nbl_status, String)> {
    let (status, bytes) = bytes(call)?;
    let text = String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
    Ok((status, text))
}

/// A function with the caller's arrays, up to three of one length; `()` stands for one that it does not have. `guess` is the
/// capacity of the first try.
pub(crate) fn arrays<A: Copy + Default, B: Copy + Default, C: Copy + Default>(
    guess: usize,
    mut call: impl FnMut(*mut A, *mut B, *mut C, usize, *mut usize, ErrorOut) -> sys::nbl_status,
) -> Result<(Vec<A>, Vec<B>, Vec<C>)> {
    let mut capacity = guess;
    loop {
        let (mut first, mut second, mut third) = (zeros(capacity)?, zeros(capacity)?, zeros(capacity)?);
        let mut count = 0;
        let mut error = ptr::null_mut();
        let status = call(first.as_mut_ptr(), second.as_mut_ptr(), third.as_mut_ptr(), capacity, &mut count, &mut error);
        if status == sys::NBL_E_BUFFER && count > capacity {
            // SAFETY: an error that the library gave for this call.
            unsafe { sys::nbl_error_release(error) };
            capacity = count;
            continue;
        }
        if status < 0 {
            return Err(error_of(status, error));
        }
        first.truncate(count);
        second.truncate(count);
        third.truncate(count);
        return Ok((first, second, third));
    }
}

/// Compares the library with what this binding was generated for, once; every way into the library goes through it.
#[inline]
pub(crate) fn ready() -> Result<()> {
    static FITS: AtomicBool = AtomicBool::new(false);
    if FITS.load(Ordering::Acquire) {
        return Ok(());
    }
    compare_with_library()?;
    FITS.store(true, Ordering::Release);
    Ok(())
}

#[cold]
fn compare_with_library() -> Result<()> {
    static REFUSED: Mutex<Option<Error>> = Mutex::new(None);
    let mut refused = REFUSED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(error) = &*refused {
        return Err(error.clone());
    }
    let result = check(|err| unsafe { sys::nbl_abi_check(sys::NBL_ABI_VERSION, err) }).and_then(|_| {
        let info = crate::build_info()?;
        let hash = text_of_key(&info, "api_hash").unwrap_or("missing");
        // A library of a later minor version has a hash of its own: its API is this one with more behind it.
        if hash == sys::NBL_API_HASH || crate::abi_version() != sys::NBL_ABI_VERSION {
            return Ok(());
        }
        Err(Error::new(
            sys::NBL_E_ABI,
            format!(
                "this program was built with the nibble crate {} (API {}), the library that it found is nibble {} (API {hash}); \
                 use a crate and a library of one release",
                sys::NBL_VERSION,
                sys::NBL_API_HASH,
                crate::version()
            ),
            format!("{{\"built_against\":\"{}\",\"library\":\"{}\"}}", sys::NBL_VERSION, crate::version()),
        ))
    });
    if let Err(error) = &result {
        *refused = Some(error.clone());
    }
    result
}

/// `"key": "value"` in a JSON object of the library's own making, whose value needs no unescaping.
fn text_of_key<'a>(json: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = json.split_once(&format!("\"{key}\""))?;
    let rest = rest.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
    rest.split_once('"').map(|(value, _)| value)
}

/// What a handle and its [`CancelHandle`]s share: the handle, until it is released.
struct Target {
    handle: AtomicPtr<c_void>,
    /// Calls of `cancel` that may have read `handle`.
    callers: AtomicUsize,
    cancel: fn(*mut c_void),
}

/// The side of the handle's owner.
pub(crate) struct Canceller(Arc<Target>);

impl Canceller {
    pub(crate) fn new(handle: *mut c_void, cancel: fn(*mut c_void)) -> Self {
        Canceller(Arc::new(Target { handle: AtomicPtr::new(handle), callers: AtomicUsize::new(0), cancel }))
    }

    pub(crate) fn handle(&self) -> CancelHandle {
        CancelHandle(Arc::clone(&self.0))
    }

    /// From here on no cancel handle touches the handle; to be called before it is released.
    pub(crate) fn close(&self) {
        self.0.handle.store(ptr::null_mut(), Ordering::SeqCst);
        // Sequentially consistent with cancel(): a caller that still read the handle is counted here.
        while self.0.callers.load(Ordering::SeqCst) != 0 {
            std::thread::yield_now();
        }
    }
}

/// Ends what a [`Session`](crate::Session) or a [`Job`](crate::Job) is doing, from any thread.
///
/// It may be cloned, sent, kept in a static, and outlive what it cancels: then it does nothing. The call that it ends
/// returns [`ErrorKind::Cancelled`].
///
/// ```
/// # fn main() -> nibble::Result<()> {
/// # let dir = "../../samples/models/story-6m-awq";
/// use nibble::{Config, ErrorKind, Model, Session};
/// let model = Model::load(dir, &Config::new())?;
/// let mut session = Session::new(&model, &Config::new())?;
/// session.append_text("Once upon a time", nibble::Tokenize::ADD_SPECIAL)?;
/// let cancel = session.cancel_handle();
/// let mut stream = session.begin(-1)?;
/// stream.next().unwrap()?;
/// std::thread::spawn(move || cancel.cancel()).join().unwrap();
/// assert_eq!(stream.next().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct CancelHandle(Arc<Target>);

impl CancelHandle {
    /// Asks the running call to end. It takes no lock and no memory, so a signal handler may call it.
    pub fn cancel(&self) {
        self.0.callers.fetch_add(1, Ordering::SeqCst);
        let handle = self.0.handle.load(Ordering::SeqCst);
        if !handle.is_null() {
            (self.0.cancel)(handle);
        }
        self.0.callers.fetch_sub(1, Ordering::SeqCst);
    }
}

impl std::fmt::Debug for CancelHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CancelHandle").field("released", &self.0.handle.load(Ordering::Relaxed).is_null()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_key_of_the_build_info() {
        let json = r#"{"version":"1.0.0", "api_hash" : "f92", "compiler":"12"}"#;
        assert_eq!(text_of_key(json, "api_hash"), Some("f92"));
        assert_eq!(text_of_key(json, "missing"), None);
    }

    #[test]
    fn rounds_a_wait_up_and_keeps_it_in_range() {
        assert_eq!(milliseconds(None), -1);
        assert_eq!(milliseconds(Some(Duration::from_nanos(0))), 0);
        assert_eq!(milliseconds(Some(Duration::from_nanos(1))), 1);
        assert_eq!(milliseconds(Some(Duration::from_millis(1500))), 1500);
        assert_eq!(milliseconds(Some(Duration::MAX)), i32::MAX);
    }

    #[test]
    fn a_vector_that_cannot_be_is_an_error() {
        assert_eq!(zeros::<u64>(usize::MAX).unwrap_err().kind(), ErrorKind::NoMemory);
    }
}
