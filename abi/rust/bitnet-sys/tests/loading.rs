//! Run-time loading: what is refused, and that a refusal leaves the process as it was. One test, because a process loads one
//! library. BITNET_TEST_LIBRARY is a path to the library.
#![cfg(feature = "runtime-loading")]

use std::ffi::CStr;
use std::path::Path;

fn refusal(path: &str) -> String {
    bitnet_sys::load(Some(Path::new(path))).unwrap_err().to_string()
}

#[test]
fn one_library_of_this_abi() {
    let library = std::env::var("BITNET_TEST_LIBRARY").expect("BITNET_TEST_LIBRARY names the library");
    assert!(refusal("/nonexistent/libbitnet.so").contains("/nonexistent/libbitnet.so"));
    assert_eq!(refusal("libm.so.6"), "libm.so.6: has no function bitnet_abi_version: expected a libbitnet");
    assert!(refusal("a\0b").contains("expected a path without a NUL byte"));
    if let Ok(old) = std::env::var("BITNET_TEST_OLD_LIBRARY") {
        assert!(refusal(&old).ends_with(": ABI 0.9: expected 1.0 or a later minor version"), "{}", refusal(&old));
    }
    if let Ok(partial) = std::env::var("BITNET_TEST_PARTIAL_LIBRARY") {
        assert!(refusal(&partial).contains("has no function bitnet_version: expected all of bitnet_c.h"));
    }
    assert_eq!(bitnet_sys::loaded_path(), None);

    bitnet_sys::load(Some(Path::new(&library))).unwrap();
    assert_eq!(bitnet_sys::loaded_path(), Some(Path::new(&library)));
    bitnet_sys::load(Some(Path::new(&library))).unwrap();
    bitnet_sys::load(None).unwrap();
    assert!(refusal("/another/libbitnet.so").ends_with("is loaded already: expected one library a process"));
    let version = unsafe { CStr::from_ptr(bitnet_sys::bitnet_version()) };
    assert!(version.to_str().unwrap().starts_with(char::is_numeric), "{version:?}");
    assert_eq!(unsafe { bitnet_sys::bitnet_abi_version() } >> 16, 1);
}
