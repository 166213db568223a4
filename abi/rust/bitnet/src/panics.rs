//! Panics of callbacks: caught before they reach C, kept for the thread, and raised again when C has returned.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};

thread_local! {
    static CAUGHT: RefCell<Option<Box<dyn Any + Send>>> = RefCell::new(None);
}

/// Runs a callback; `fallback` is what C gets when it panics. The first panic of a call is the one that goes on.
pub(crate) fn catch<R>(fallback: R, callback: impl FnOnce() -> R) -> R {
    catch_unwind(AssertUnwindSafe(callback)).unwrap_or_else(|payload| {
        // Without the thread's storage, at the thread's end, nobody is left to raise it.
        let _ = CAUGHT.try_with(|caught| {
            caught.borrow_mut().get_or_insert(payload);
        });
        fallback
    })
}

/// Raises what `catch` kept since the last call on this thread.
pub(crate) fn resume() {
    if let Some(payload) = CAUGHT.with(|caught| caught.borrow_mut().take()) {
        resume_unwind(payload);
    }
}

/// Forgets it, where nothing can be raised.
pub(crate) fn discard() {
    let _ = CAUGHT.try_with(|caught| caught.borrow_mut().take());
}

/// Whether one is kept.
pub(crate) fn caught() -> bool {
    CAUGHT.try_with(|caught| caught.borrow().is_some()).unwrap_or(false)
}
