//! Panics of callbacks: caught before they reach C, kept for the thread, and raised again when C has returned.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};

type Payload = Box<dyn Any + Send>;

thread_local! {
    static CAUGHT: RefCell<Option<Payload>> = RefCell::new(None);
}

/// At the thread's end, without its storage, nobody is left to raise anything.
fn exchange(payload: Option<Payload>) -> Option<Payload> {
    CAUGHT.try_with(|caught| caught.replace(payload)).ok().flatten()
}

/// Runs a callback; none when it panicked. The first panic of a call into C is the one that goes on.
pub(crate) fn catch<R>(callback: impl FnOnce() -> R) -> Option<R> {
    // The callback may use this crate itself, and must not meet the panic of one before it.
    let before = exchange(None);
    let (result, panicked) = match catch_unwind(AssertUnwindSafe(callback)) {
        Ok(result) => (Some(result), None),
        Err(payload) => (None, Some(payload)),
    };
    exchange(before.or(panicked));
    result
}

/// Raises what `catch` kept since the last call on this thread.
pub(crate) fn resume() {
    if let Some(payload) = exchange(None) {
        resume_unwind(payload);
    }
}

/// Forgets it, where nothing can be raised.
pub(crate) fn discard() {
    exchange(None);
}
