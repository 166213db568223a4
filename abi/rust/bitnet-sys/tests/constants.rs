//! Constants of the header that bindgen alone would leave out or give another type.

use bitnet_sys as sys;
use std::ffi::CStr;

#[test]
fn statuses_are_the_librarys() {
    let name = |status| unsafe { CStr::from_ptr(sys::bitnet_status_name(status)) }.to_str().unwrap();
    for (status, expected) in [
        (sys::BITNET_OK, "BITNET_OK"),
        (sys::BITNET_E_INVALID, "BITNET_E_INVALID"),
        (sys::BITNET_E_NOMEM, "BITNET_E_NOMEM"),
        (sys::BITNET_E_IO, "BITNET_E_IO"),
        (sys::BITNET_E_FORMAT, "BITNET_E_FORMAT"),
        (sys::BITNET_E_UNSUPPORTED, "BITNET_E_UNSUPPORTED"),
        (sys::BITNET_E_BUFFER, "BITNET_E_BUFFER"),
        (sys::BITNET_E_ISA, "BITNET_E_ISA"),
        (sys::BITNET_E_ABI, "BITNET_E_ABI"),
        (sys::BITNET_E_PLUGIN, "BITNET_E_PLUGIN"),
        (sys::BITNET_E_BUSY, "BITNET_E_BUSY"),
        (sys::BITNET_E_OVERFLOW, "BITNET_E_OVERFLOW"),
        (sys::BITNET_E_CANCELLED, "BITNET_E_CANCELLED"),
        (sys::BITNET_E_USER, "BITNET_E_USER"),
        (sys::BITNET_E_INTERNAL, "BITNET_E_INTERNAL"),
        (1, "BITNET_E_UNKNOWN"),
    ] {
        assert_eq!(name(status), expected);
    }
}

#[test]
fn types_are_those_of_their_use() {
    let abi: u32 = sys::BITNET_ABI_VERSION;
    let (major, minor): (i32, i32) = (sys::BITNET_ABI_MAJOR, sys::BITNET_ABI_MINOR);
    assert_eq!(abi, (major << 16 | minor) as u32);
    let stage: i32 = sys::BITNET_STAGE_Q_PROJ | sys::BITNET_STAGE_ACC;
    let name = unsafe { CStr::from_ptr(sys::bitnet_stage_name(stage)) };
    assert_eq!(name.to_bytes(), b"q_proj.acc");
    let flag: u32 = sys::BITNET_LOAD_COPY;
    assert_eq!(flag, 1);
    assert_eq!(sys::BITNET_TRACE_PLUGIN_SYMBOL, b"bitnet_trace_plugin_v1\0");
}
