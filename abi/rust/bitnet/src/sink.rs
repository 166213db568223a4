//! Closures as trace sinks: the table of functions that the library calls, and what it leads to.

use std::ffi::CString;
use std::fmt;
use std::mem;
use std::os::raw::{c_char, c_void};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use crate::error::{check, Result};
use crate::event::{Event, EventKind, Services};
use crate::{panics, sys, text};

type Call = Box<dyn FnMut(&Event<'_>) -> std::result::Result<(), String> + Send>;

/// What a sink's closure may return: `()`, or a result whose error detaches the sink.
pub trait IntoOutcome {
    /// As the text of a failure.
    fn into_outcome(self) -> std::result::Result<(), String>;
}

impl IntoOutcome for () {
    fn into_outcome(self) -> std::result::Result<(), String> {
        Ok(())
    }
}

impl<E: fmt::Display> IntoOutcome for std::result::Result<(), E> {
    fn into_outcome(self) -> std::result::Result<(), String> {
        self.map_err(|error| error.to_string())
    }
}

/// A closure that gets the events of a trace, on the thread that evaluates, in order.
///
/// An error that it returns detaches it, is counted in [`TraceStats`], and changes nothing else; neither does a panic, which goes on
/// in the caller after the evaluation. Whatever the closure owns is dropped when it is detached.
///
/// ```
/// # const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../scripts/demo_model/demo.gguf");
/// use bitnet::{Context, Event, Model, Sink};
/// use std::sync::mpsc;
///
/// let model = Model::load(MODEL)?;
/// let mut context = Context::new(&model)?;
/// let (sender, receiver) = mpsc::channel();
/// context.select("*:*:attn_norm")?;
/// context.attach(Sink::new(move |event| {
///     if let Event::Tensor(tensor) = event {
///         let largest = tensor.row_f32(0).unwrap().iter().fold(0f32, |most, x| most.max(x.abs()));
///         sender.send((tensor.layer(), largest)).unwrap();
///     }
/// }))?;
/// context.eval(&[1, 2, 3])?;
/// drop(context);
/// assert_eq!(receiver.iter().count(), model.info().n_layer as usize);
/// # Ok::<(), bitnet::Error>(())
/// ```
pub struct Sink {
    name: String,
    want: u64,
    overriding: bool,
    call: Call,
}

impl Sink {
    /// A sink that gets every kind of event.
    pub fn new<F, R>(mut closure: F) -> Sink
    where
        F: FnMut(&Event<'_>) -> R + Send + 'static,
        R: IntoOutcome,
    {
        Sink {
            name: "closure".to_string(),
            want: !0,
            overriding: false,
            call: Box::new(move |event| closure(event).into_outcome()),
        }
    }

    /// Its name in messages.
    pub fn named(mut self, name: &str) -> Sink {
        self.name = name.to_string();
        self
    }

    /// Only these kinds of events.
    pub fn only(mut self, kinds: &[EventKind]) -> Sink {
        self.want = kinds.iter().fold(0, |want, kind| want | 1 << kind.raw());
        self
    }

    /// Asks for the means to replace values ([`TensorEvent::replace`](crate::TensorEvent::replace)); the trace's records then say so.
    pub fn overriding(mut self) -> Sink {
        self.overriding = true;
        self
    }

    /// Ready to be attached.
    pub(crate) fn attached(self) -> Result<Arc<Attached>> {
        let name = text::c_string("sink name", self.name)?;
        let table = sys::bitnet_trace_sink_t {
            struct_size: mem::size_of::<sys::bitnet_trace_sink_t>() as u32,
            abi_version: sys::BITNET_ABI_VERSION,
            name: name.as_ptr(),
            want: self.want,
            open: Some(on_open),
            event: Some(on_event),
            flush: None,
            close: Some(on_close),
        };
        let state = State { services: None, call: self.call };
        Ok(Arc::new(Attached { table, _name: name, overriding: self.overriding, state: Mutex::new(Some(state)) }))
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").field("name", &self.name).finish_non_exhaustive()
    }
}

struct State {
    services: Option<Services>,
    call: Call,
}

/// A sink as the library knows it, at an address that stays.
pub(crate) struct Attached {
    table: sys::bitnet_trace_sink_t,
    _name: CString,
    overriding: bool,
    state: Mutex<Option<State>>, // none once it is closed
}

// The table and its name never change; the closure and the services, which belong to one host, are behind the lock.
unsafe impl Send for Attached {}
unsafe impl Sync for Attached {}

impl Attached {
    pub(crate) fn table(&self) -> *const sys::bitnet_trace_sink_t {
        &self.table
    }

    pub(crate) fn user(self: &Arc<Self>) -> *mut c_void {
        Arc::as_ptr(self) as *mut c_void
    }
}

/// What `user` gave.
unsafe fn attached<'a>(state: *mut c_void) -> &'a Attached {
    &*state.cast::<Attached>()
}

unsafe extern "C" fn on_open(
    state: *mut *mut c_void,
    host: *const sys::bitnet_trace_host_t,
    _config: *const c_char,
) -> sys::bitnet_status_t {
    panics::catch(|| {
        let sink = attached(*state);
        let services = Services::of(host, sink.overriding);
        if let Some(state) = sink.state.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            state.services = Some(services);
        }
        sys::BITNET_OK
    })
    .unwrap_or(sys::BITNET_E_USER)
}

unsafe extern "C" fn on_event(state: *mut c_void, event: *const sys::bitnet_event_t) -> sys::bitnet_status_t {
    let mut services = None;
    let outcome = panics::catch(|| {
        // Events come one after another; the closure itself has no way to cause one.
        let mut locked = match attached(state).state.try_lock() {
            Ok(locked) => locked,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return sys::BITNET_E_BUSY,
        };
        let (state, of_host) = match locked.as_mut() {
            Some(state) => match state.services {
                Some(of_host) => (state, of_host),
                None => return sys::BITNET_E_USER,
            },
            None => return sys::BITNET_E_USER,
        };
        services = Some(of_host);
        let event = Event::of(event, of_host);
        if let Err(text) = (state.call)(&event).and_then(|()| event.apply_replacements()) {
            of_host.log(sys::BITNET_LOG_ERROR, &text);
            return sys::BITNET_E_USER;
        }
        sys::BITNET_OK
    });
    outcome.unwrap_or_else(|| {
        if let Some(services) = services {
            services.log(sys::BITNET_LOG_ERROR, "the closure panicked");
        }
        sys::BITNET_E_USER
    })
}

unsafe extern "C" fn on_close(state: *mut c_void) {
    panics::catch(|| {
        let state = attached(state).state.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(state);
    });
}

/// What a trace has delivered, and what went wrong.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TraceStats {
    /// Attached now.
    pub n_sinks: u32,
    /// Delivered to at least one sink.
    pub n_events: u64,
    /// Bytes of tensors in them.
    pub n_bytes: u64,
    /// Plugins that could not be attached, and sinks that were detached for failing.
    pub n_failures: u64,
    /// Spent in sinks and services.
    pub seconds: f64,
    /// "" when there was none.
    pub last_failure: String,
}

/// Reads the statistics that `get` fills in.
pub(crate) fn stats(get: impl FnOnce(*mut sys::bitnet_trace_stats_t) -> sys::bitnet_status_t) -> Result<TraceStats> {
    let mut raw = sys::bitnet_trace_stats_t {
        struct_size: mem::size_of::<sys::bitnet_trace_stats_t>() as u32,
        ..Default::default()
    };
    check(get(&mut raw))?;
    Ok(TraceStats {
        n_sinks: raw.n_sinks,
        n_events: raw.n_events,
        n_bytes: raw.n_bytes,
        n_failures: raw.n_failures,
        seconds: raw.seconds,
        last_failure: text::owned(raw.last_failure.as_ptr()),
    })
}
