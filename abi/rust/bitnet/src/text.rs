//! Texts across the boundary, and buffers whose size the library says.

use std::ffi::{CStr, CString};
use std::os::raw::c_char;
use std::ptr;

use crate::error::{check, Error, Result};
use crate::sys;

/// A text for C. `what` names it in the error for a NUL inside.
pub(crate) fn c_string(what: &str, text: impl Into<Vec<u8>>) -> Result<CString> {
    CString::new(text)
        .map_err(|error| Error::Invalid(format!("{what} has a NUL byte at {}: expected none", error.nul_position())))
}

/// The same for a text that may be absent; keep it alive while `pointer_to` its content is used.
pub(crate) fn optional(what: &str, text: Option<&str>) -> Result<Option<CString>> {
    text.map(|text| c_string(what, text)).transpose()
}

pub(crate) fn pointer_to(text: &Option<CString>) -> *const c_char {
    text.as_ref().map_or(ptr::null(), |text| text.as_ptr())
}

/// A copy of a text of the library; "" for NULL. The library's texts are UTF-8 unless a file holds something else.
pub(crate) fn owned(text: *const c_char) -> String {
    String::from_utf8_lossy(bytes(text).unwrap_or(b"")).into_owned()
}

/// The bytes of a text of the library, for as long as its function says; the caller ties the lifetime to its owner.
pub(crate) fn bytes<'a>(text: *const c_char) -> Option<&'a [u8]> {
    if text.is_null() {
        return None;
    }
    // The library's texts end with a NUL.
    Some(unsafe { CStr::from_ptr(text) }.to_bytes())
}

/// A slice for C: NULL when it is empty.
pub(crate) fn data_of<T>(slice: &[T]) -> *const T {
    if slice.is_empty() {
        ptr::null()
    } else {
        slice.as_ptr()
    }
}

/// Asks a function of the header's buffer rule for the size, then for the content.
pub(crate) fn sized<T: Copy>(mut call: impl FnMut(*mut T, *mut usize) -> sys::bitnet_status_t) -> Result<Vec<T>> {
    let mut need = 0;
    check(call(ptr::null_mut(), &mut need))?;
    filled(need, call)
}

/// Calls it once with room for `capacity` elements.
pub(crate) fn filled<T: Copy>(
    capacity: usize,
    mut call: impl FnMut(*mut T, *mut usize) -> sys::bitnet_status_t,
) -> Result<Vec<T>> {
    let mut content = Vec::with_capacity(capacity);
    let mut n = content.capacity();
    check(call(content.as_mut_ptr(), &mut n))?;
    // With BITNET_OK the function has written n elements, which fit.
    unsafe { content.set_len(n) };
    Ok(content)
}

/// The same for text, whose count has a NUL in it.
pub(crate) fn sized_text(call: impl FnMut(*mut c_char, *mut usize) -> sys::bitnet_status_t) -> Result<Vec<u8>> {
    let mut content: Vec<u8> = sized(call)?.into_iter().map(|c: c_char| c as u8).collect();
    content.pop();
    Ok(content)
}
