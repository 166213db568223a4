//! Errors: one variant a status of the library, with the library's line of text.

use std::fmt;

use crate::sys;

/// What a call of this crate gives.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure: the library's status and its one line, which names the thing, what was found and what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// An argument is wrong.
    Invalid(String),
    /// Memory could not be had.
    NoMemory(String),
    /// A file could not be opened, read or written.
    Io(String),
    /// A file is damaged or breaks its format's rules.
    Format(String),
    /// Well-formed, but not something the library does.
    Unsupported(String),
    /// A buffer was too small. This crate sizes its buffers, so this would be a bug.
    Buffer(String),
    /// The instruction set is unknown or not on this CPU.
    Isa(String),
    /// A saved state, struct or plugin of an incompatible version.
    Abi(String),
    /// A trace plugin could not be loaded, declined or failed.
    Plugin(String),
    /// The context is in use by a callback.
    Busy(String),
    /// The context is full.
    Overflow(String),
    /// A callback asked to stop.
    Cancelled(String),
    /// A callback or sink returned a failure of its own.
    User(String),
    /// A bug in the library: please report the text.
    Internal(String),
    /// A status that this crate does not know, of a newer library.
    Unknown(i32, String),
    /// The library could not be loaded at run time.
    Library(String),
}

impl Error {
    /// The error of a status, with this thread's last line of text.
    pub(crate) fn last(status: sys::bitnet_status_t) -> Self {
        let text = crate::text::owned(unsafe { sys::bitnet_last_error() });
        match status {
            sys::BITNET_E_INVALID => Error::Invalid(text),
            sys::BITNET_E_NOMEM => Error::NoMemory(text),
            sys::BITNET_E_IO => Error::Io(text),
            sys::BITNET_E_FORMAT => Error::Format(text),
            sys::BITNET_E_UNSUPPORTED => Error::Unsupported(text),
            sys::BITNET_E_BUFFER => Error::Buffer(text),
            sys::BITNET_E_ISA => Error::Isa(text),
            sys::BITNET_E_ABI => Error::Abi(text),
            sys::BITNET_E_PLUGIN => Error::Plugin(text),
            sys::BITNET_E_BUSY => Error::Busy(text),
            sys::BITNET_E_OVERFLOW => Error::Overflow(text),
            sys::BITNET_E_CANCELLED => Error::Cancelled(text),
            sys::BITNET_E_USER => Error::User(text),
            sys::BITNET_E_INTERNAL => Error::Internal(text),
            other => Error::Unknown(other, text),
        }
    }

    /// The library's status, `BITNET_E_...`; none for [`Error::Library`].
    pub fn status(&self) -> Option<sys::bitnet_status_t> {
        Some(match self {
            Error::Invalid(_) => sys::BITNET_E_INVALID,
            Error::NoMemory(_) => sys::BITNET_E_NOMEM,
            Error::Io(_) => sys::BITNET_E_IO,
            Error::Format(_) => sys::BITNET_E_FORMAT,
            Error::Unsupported(_) => sys::BITNET_E_UNSUPPORTED,
            Error::Buffer(_) => sys::BITNET_E_BUFFER,
            Error::Isa(_) => sys::BITNET_E_ISA,
            Error::Abi(_) => sys::BITNET_E_ABI,
            Error::Plugin(_) => sys::BITNET_E_PLUGIN,
            Error::Busy(_) => sys::BITNET_E_BUSY,
            Error::Overflow(_) => sys::BITNET_E_OVERFLOW,
            Error::Cancelled(_) => sys::BITNET_E_CANCELLED,
            Error::User(_) => sys::BITNET_E_USER,
            Error::Internal(_) => sys::BITNET_E_INTERNAL,
            Error::Unknown(status, _) => *status,
            Error::Library(_) => return None,
        })
    }

    /// The line of text.
    pub fn text(&self) -> &str {
        match self {
            Error::Invalid(text)
            | Error::NoMemory(text)
            | Error::Io(text)
            | Error::Format(text)
            | Error::Unsupported(text)
            | Error::Buffer(text)
            | Error::Isa(text)
            | Error::Abi(text)
            | Error::Plugin(text)
            | Error::Busy(text)
            | Error::Overflow(text)
            | Error::Cancelled(text)
            | Error::User(text)
            | Error::Internal(text)
            | Error::Unknown(_, text)
            | Error::Library(text) => text,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for Error {}

/// A status as a result. Call it right after the function that returned the status, on the same thread; a panic that one of the
/// function's callbacks left goes on first.
pub(crate) fn check(status: sys::bitnet_status_t) -> Result<()> {
    crate::panics::resume();
    if status == sys::BITNET_OK {
        Ok(())
    } else {
        Err(Error::last(status))
    }
}
