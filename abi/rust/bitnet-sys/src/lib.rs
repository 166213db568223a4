//! Raw bindings to `libbitnet`, the reference engine for BitNet b1.58 models: the C header `bitnet_c.h`, name for name. The
//! crate `bitnet` is the safe interface on top of them.
//!
//! What the functions promise about ownership, threads and errors is said at each of them, in the header's words.
//!
//! # Linked
//!
//! By default the build script finds the library to link: a folder in the variable `BITNET_LIB_DIR`, else what `pkg-config`
//! says of `bitnet`. At run time the system's loader has to find `libbitnet.so.1` (installed, in `LD_LIBRARY_PATH`, or by a
//! run path).
//!
//! # Loaded at run time
//!
//! With the feature `runtime-loading` nothing is linked, and no library is needed to build. The functions have the same names
//! and types; `load` opens the library, and the first call of a function does when `load` was not called.
#![cfg_attr(feature = "runtime-loading", doc = "See [`load`].")]
//!
//! ```
//! let abi = unsafe { bitnet_sys::bitnet_abi_version() };
//! assert_eq!(abi >> 16, bitnet_sys::BITNET_ABI_MAJOR as u32);
//! ```

#[allow(non_camel_case_types, clippy::all, rustdoc::all)]
#[cfg_attr(feature = "runtime-loading", allow(dead_code))] // the functions to link
mod bindings {
    include!("bindings.rs");
}
pub use bindings::*;

#[cfg(feature = "runtime-loading")]
#[macro_use]
mod loading;
#[cfg(feature = "runtime-loading")]
pub use loading::{load, loaded_path, LoadError};
// Items of this module go before those of the glob above: the functions called are the loaded ones.
#[cfg(feature = "runtime-loading")]
include!("functions.rs");
