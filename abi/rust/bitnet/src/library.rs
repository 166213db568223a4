//! The library itself: versions, instruction sets, hashes, log lines.

use std::os::raw::{c_char, c_void};
use std::ptr;
use std::sync::RwLock;

use crate::error::Result;
use crate::{panics, sys, text};

/// Opens the library at a path, as dlopen takes it, for the process and for good. Needed only to choose one: whatever is used first
/// opens the one that `BITNET_LIBRARY` names, else `libbitnet.so.1`.
///
/// # Errors
///
/// [`Error::Library`](crate::Error::Library): it cannot be opened, is of another ABI, or another one is loaded already.
#[cfg(feature = "runtime-loading")]
pub fn load_library(path: impl AsRef<std::path::Path>) -> Result<()> {
    sys::load(Some(path.as_ref())).map_err(|error| crate::Error::Library(error.to_string()))
}

/// Makes sure that functions of the library can be called: what a first call of this crate does.
pub(crate) fn ready() -> Result<()> {
    #[cfg(feature = "runtime-loading")]
    sys::load(None).map_err(|error| crate::Error::Library(error.to_string()))?;
    Ok(())
}

/// Release of the library, "0.1.0".
#[cfg_attr(feature = "runtime-loading", doc = "\n\n# Panics\n\nWhen no library can be loaded.")]
pub fn version() -> String {
    text::owned(unsafe { sys::bitnet_version() })
}

/// ABI of the library: major and minor.
#[cfg_attr(feature = "runtime-loading", doc = "\n\n# Panics\n\nWhen no library can be loaded.")]
pub fn abi_version() -> (u32, u32) {
    let version = unsafe { sys::bitnet_abi_version() };
    (version >> 16, version & 0xffff)
}

/// An instruction set that the library was compiled for. All of them give the same bits.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InstructionSet {
    /// "avx2"; for [`LoadOptions::isa`](crate::LoadOptions::isa).
    pub name: String,
    /// Whether this machine has it.
    pub usable: bool,
}

/// The instruction sets of the library, from plain to best.
#[cfg_attr(feature = "runtime-loading", doc = "\n\n# Panics\n\nWhen no library can be loaded.")]
pub fn instruction_sets() -> Vec<InstructionSet> {
    let count = unsafe { sys::bitnet_isa_count() };
    (0..count)
        .map(|index| InstructionSet {
            name: text::owned(unsafe { sys::bitnet_isa_name(index) }),
            usable: unsafe { sys::bitnet_isa_usable(index) } != 0,
        })
        .collect()
}

/// BLAKE3 of any bytes as 64 hex digits: the hash of models, and of a trace's rows.
pub fn blake3(data: &[u8]) -> Result<String> {
    ready()?;
    let hash =
        text::sized_text(|out, n| unsafe { sys::bitnet_blake3(text::data_of(data).cast(), data.len(), out, n) })?;
    Ok(String::from_utf8_lossy(&hash).into_owned())
}

/// How serious a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something a user should see.
    Warn,
    /// Anything else.
    Info,
}

type Log = Box<dyn Fn(LogLevel, &str) + Send + Sync>;

static LOG: RwLock<Option<Log>> = RwLock::new(None);

/// Takes the library's log lines, for the whole process; `None`, the default, drops them. The closure may be called from any thread
/// that calls in, and must not call `set_log`. Its panics are those of the call that logged.
pub fn set_log(log: Option<Log>) -> Result<()> {
    ready()?;
    *LOG.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = log;
    // Always the same function: the library may be in use on other threads.
    unsafe { sys::bitnet_set_log(Some(on_log), ptr::null_mut()) };
    Ok(())
}

unsafe extern "C" fn on_log(_user: *mut c_void, level: i32, line: *const c_char) {
    panics::catch(|| {
        let level = match level {
            sys::BITNET_LOG_ERROR => LogLevel::Error,
            sys::BITNET_LOG_WARN => LogLevel::Warn,
            _ => LogLevel::Info,
        };
        let log = LOG.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(log) = log.as_ref() {
            log(level, &text::owned(line));
        }
    });
}
