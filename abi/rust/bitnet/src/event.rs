//! What a sink is given: the events of a trace, borrowed for the call.

use std::borrow::Cow;
use std::cell::RefCell;
use std::ffi::CString;
use std::marker::PhantomData;
use std::os::raw::c_char;
use std::slice;

use crate::stage::{Dtype, Stage};
use crate::{sys, text};

/// Statistics of a row, as the header describes them.
pub use bitnet_sys::bitnet_stats as Stats;

/// The kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventKind {
    /// A run begins.
    RunBegin,
    /// An evaluation begins.
    StepBegin,
    /// Rows of a stage.
    Tensor,
    /// What the key/value cache holds after an evaluation.
    KvState,
    /// An evaluation ends.
    StepEnd,
    /// A run ends.
    RunEnd,
}

impl EventKind {
    pub(crate) fn raw(self) -> i32 {
        match self {
            EventKind::RunBegin => sys::BITNET_EVENT_RUN_BEGIN,
            EventKind::StepBegin => sys::BITNET_EVENT_STEP_BEGIN,
            EventKind::Tensor => sys::BITNET_EVENT_TENSOR,
            EventKind::KvState => sys::BITNET_EVENT_KV_STATE,
            EventKind::StepEnd => sys::BITNET_EVENT_STEP_END,
            EventKind::RunEnd => sys::BITNET_EVENT_RUN_END,
        }
    }
}

/// An event; everything in it lives during the call of the sink.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A run begins: what computes, from what, how.
    RunBegin(RunBeginEvent<'a>),
    /// An evaluation begins.
    StepBegin(StepEvent<'a>),
    /// Rows of a stage.
    Tensor(TensorEvent<'a>),
    /// What the key/value cache holds after an evaluation.
    KvState(KvEvent<'a>),
    /// An evaluation ends.
    StepEnd(StepEvent<'a>),
    /// A run ends.
    RunEnd(RunEndEvent<'a>),
    /// Of a kind that this crate does not know, of a newer library.
    Other(&'a sys::bitnet_event_t),
}

/// What the host of a sink offers; lives as long as the sink is attached.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Services {
    host: *const sys::bitnet_trace_host_t,
    hash: *const sys::bitnet_ext_hash_t,
    stats: *const sys::bitnet_ext_stats_t,
    sketch: *const sys::bitnet_ext_sketch_t,
    stop: *const sys::bitnet_ext_stop_t,
    replace: *const sys::bitnet_ext_override_t, // NULL unless the sink asked for it
}

// Used by one thread at a time, under the lock of the sink they belong to.
unsafe impl Send for Services {}

impl Services {
    /// The host's pointers; valid while it lives.
    pub(crate) unsafe fn of(host: *const sys::bitnet_trace_host_t, overriding: bool) -> Services {
        let find = |id: &[u8]| match (*host).get_extension {
            Some(get) => get(host, id.as_ptr().cast()),
            None => std::ptr::null(),
        };
        Services {
            host,
            hash: find(sys::BITNET_EXT_HASH).cast(),
            stats: find(sys::BITNET_EXT_STATS).cast(),
            sketch: find(sys::BITNET_EXT_SKETCH).cast(),
            stop: find(sys::BITNET_EXT_STOP).cast(),
            replace: if overriding { find(sys::BITNET_EXT_OVERRIDE).cast() } else { std::ptr::null() },
        }
    }

    /// Text for the user, and the reason of a failure that is about to be returned.
    pub(crate) unsafe fn log(&self, level: i32, line: &str) {
        let line = CString::new(line.replace('\0', "?")).expect("no NUL byte is left");
        if let Some(log) = (*self.host).log {
            log(self.host, level, line.as_ptr());
        }
    }
}

fn text_of<'a>(text: *const c_char) -> Cow<'a, str> {
    String::from_utf8_lossy(text::bytes(text).unwrap_or(b""))
}

unsafe fn slice_of<'a, T>(data: *const T, n: u64) -> Option<&'a [T]> {
    (!data.is_null()).then(|| slice::from_raw_parts(data, n as usize))
}

/// Methods that every event has.
macro_rules! of_every_event {
    ($($name:ident = $raw:ident;)*) => {
        $(impl<'a> $name<'a> {
            /// The event as the header describes it.
            pub fn raw(&self) -> &'a sys::$raw {
                self.raw
            }

            /// Number of the run within this context or trace, from 0.
            pub fn run(&self) -> u32 {
                self.raw.header.run
            }

            /// Number of the event, from 0, in execution order.
            pub fn seq(&self) -> u64 {
                self.raw.header.seq
            }

            /// First token position it is about; of a tensor that of row 0.
            pub fn position(&self) -> i32 {
                self.raw.header.position
            }
        })*
    };
}

of_every_event! {
    RunBeginEvent = bitnet_run_begin_event_t;
    StepEvent = bitnet_step_event_t;
    TensorEvent = bitnet_tensor_event_t;
    KvEvent = bitnet_kv_event_t;
    RunEndEvent = bitnet_run_end_event_t;
}

/// A run begins: with the first evaluation, and anew after the position moved back, after an evaluation failed, and after a sink
/// was attached or the selection changed.
#[derive(Debug)]
pub struct RunBeginEvent<'a> {
    raw: &'a sys::bitnet_run_begin_event_t,
}

/// An evaluation begins or ends.
#[derive(Debug)]
pub struct StepEvent<'a> {
    raw: &'a sys::bitnet_step_event_t,
}

/// What the key/value cache holds.
#[derive(Debug)]
pub struct KvEvent<'a> {
    raw: &'a sys::bitnet_kv_event_t,
}

/// A run ends.
#[derive(Debug)]
pub struct RunEndEvent<'a> {
    raw: &'a sys::bitnet_run_end_event_t,
}

macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        impl<'a> RunBeginEvent<'a> {
            $($(#[$doc])* pub fn $name(&self) -> Cow<'a, str> {
                text_of(self.raw.$name)
            })*
        }
    };
}

texts! {
    /// "bitnet-c", or the foreign engine's name.
    engine;
    /// Its version.
    engine_version;
    /// "" when unknown, likewise below.
    model_path;
    /// BLAKE3 of the file, 64 hex digits.
    model_hash;
    /// "bitnet-b1.58"
    architecture;
    /// "n_layer=30,n_embd=2560,..."
    hyperparameters;
    /// As [`Model::semantics`](crate::Model::semantics).
    semantics;
    /// Instruction set.
    isa;
    /// "f32" or "f16"
    kv_type;
    /// What is traced, as given; "" for the default.
    selection;
}

impl<'a> RunBeginEvent<'a> {
    /// Text of the prompt; none when unknown.
    pub fn prompt(&self) -> Option<&'a [u8]> {
        unsafe { slice_of(self.raw.prompt.cast(), self.raw.n_prompt_bytes) }
    }

    /// Tokens of the first evaluation; none when it was given embeddings.
    pub fn tokens(&self) -> Option<&'a [i32]> {
        unsafe { slice_of(self.raw.tokens, self.raw.n_tokens) }
    }
}

impl<'a> StepEvent<'a> {
    /// Tokens of the evaluation; none when it was given embeddings.
    pub fn tokens(&self) -> Option<&'a [i32]> {
        unsafe { slice_of(self.raw.tokens, self.raw.n_tokens) }
    }
}

/// One stage of consecutive token rows; row r is at `position() + r`.
#[derive(Debug)]
pub struct TensorEvent<'a> {
    raw: &'a sys::bitnet_tensor_event_t,
    services: Services,
    // Written after the closure has returned: until then its slices show what was there.
    replacements: RefCell<Vec<(u32, Vec<f32>)>>,
    _not_send: PhantomData<*const ()>,
}

impl<'a> TensorEvent<'a> {
    /// None for embeddings, final norm and logits.
    pub fn layer(&self) -> Option<u32> {
        u32::try_from(self.raw.header.layer).ok()
    }

    /// [`Stage::NONE`] for a foreign name.
    pub fn stage(&self) -> Stage {
        Stage(self.raw.stage)
    }

    /// "q_proj"
    pub fn stage_name(&self) -> Cow<'a, str> {
        text_of(self.raw.stage_name)
    }

    /// What computed it, "ternary.avx2"; "" when unknown.
    pub fn kernel(&self) -> Cow<'a, str> {
        text_of(self.raw.kernel)
    }

    /// Type of its elements.
    pub fn dtype(&self) -> Dtype {
        Dtype::of(self.raw.dtype)
    }

    /// Shape of one row, outermost first.
    pub fn shape(&self) -> &'a [u64] {
        &self.raw.shape[..(self.raw.n_dims as usize).min(4)]
    }

    /// Rows in this event.
    pub fn n_rows(&self) -> u32 {
        self.raw.n_rows
    }

    /// Nanoseconds the engine took for this stage of all rows of the batch; 0: unknown.
    pub fn ns(&self) -> u64 {
        self.raw.ns
    }

    /// The raw little-endian values of a row; none when there is no such row.
    pub fn row_bytes(&self, row: u32) -> Option<&'a [u8]> {
        if row >= self.raw.n_rows {
            return None;
        }
        let n = self.raw.row_elements as usize * self.dtype().size();
        let offset = u64::from(row) * self.raw.row_stride;
        Some(unsafe { slice::from_raw_parts(self.raw.data.cast::<u8>().add(offset as usize), n) })
    }

    /// The values of a row of F32, borrowed when they lie as they must; none for other types, or when there is no such row.
    pub fn row_f32(&self, row: u32) -> Option<Cow<'a, [f32]>> {
        if self.dtype() != Dtype::F32 {
            return None;
        }
        let bytes = self.row_bytes(row)?;
        // Every pattern of bits is an f32.
        Some(match unsafe { bytes.align_to::<f32>() } {
            ([], values, []) => Cow::Borrowed(values),
            _ => bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect(),
        })
    }

    /// BLAKE3 of a row's raw values, computed once for all sinks; none without memory or without such a row.
    pub fn blake3(&self, row: u32) -> Option<[u8; 32]> {
        let blake3 = unsafe { self.services.hash.as_ref() }?.blake3?;
        let digest = unsafe { blake3(self.services.host, self.raw, row).cast::<[u8; 32]>().as_ref() };
        digest.copied()
    }

    /// Hash of the same values in any order; 0 without such a row.
    pub fn multiset(&self, row: u32) -> Option<u64> {
        let multiset = unsafe { self.services.hash.as_ref() }?.multiset?;
        Some(unsafe { multiset(self.services.host, self.raw, row) })
    }

    /// Statistics of a row, computed once for all sinks.
    pub fn stats(&self, row: u32) -> Option<&Stats> {
        let stats = unsafe { self.services.stats.as_ref() }?.stats?;
        unsafe { stats(self.services.host, self.raw, row).as_ref() }
    }

    /// The 64 signed bucket sums of a row.
    pub fn sketch(&self, row: u32) -> Option<&[f32]> {
        let sketch = unsafe { self.services.sketch.as_ref() }?.sketch?;
        unsafe { slice_of(sketch(self.services.host, self.raw, row), sys::BITNET_SKETCH_BUCKETS as u64) }
    }

    /// Replaces the values of a row when the closure has returned, before the engine goes on. A stage whose values cannot be
    /// replaced is then a failure of the sink.
    ///
    /// # Errors
    ///
    /// The sink is not [`overriding`](crate::Sink::overriding), there is no such row, or its elements are another number.
    pub fn replace(&self, row: u32, values: &[f32]) -> std::result::Result<(), String> {
        if self.services.replace.is_null() {
            return Err(
                "values cannot be replaced: expected a sink made with overriding(), on an engine of the library".into(),
            );
        }
        if row >= self.raw.n_rows || values.len() as u64 != self.raw.row_elements {
            return Err(format!(
                "{}: {} values for row {row}: expected {} for a row below {}",
                self.stage_name(),
                values.len(),
                self.raw.row_elements,
                self.raw.n_rows
            ));
        }
        self.replacements.borrow_mut().push((row, values.to_vec()));
        Ok(())
    }

    /// Ends the evaluation under way, before its next layer at the latest, with [`Error::User`](crate::Error::User) and this reason.
    pub fn stop(&self, reason: &str) {
        let reason = CString::new(reason.replace('\0', "?")).expect("no NUL byte is left");
        if let Some(stop) = unsafe { self.services.stop.as_ref() }.and_then(|stop| stop.stop) {
            unsafe { stop(self.services.host, reason.as_ptr()) };
        }
    }

    fn apply_replacements(&self) -> std::result::Result<(), String> {
        for (row, values) in self.replacements.borrow_mut().drain(..) {
            let replace = unsafe { self.services.replace.as_ref() }.and_then(|service| service.replace);
            let status = replace.map_or(sys::BITNET_E_UNSUPPORTED, |replace| unsafe {
                replace(self.services.host, self.raw, row, values.as_ptr().cast(), values.len())
            });
            if status != sys::BITNET_OK {
                return Err(format!("{}: its values could not be replaced", self.stage_name()));
            }
        }
        Ok(())
    }
}

impl<'a> Event<'a> {
    /// The event at `raw`, which lives during the call, of the size and type that its header says.
    pub(crate) unsafe fn of(raw: *const sys::bitnet_event_t, services: Services) -> Event<'a> {
        /// An event that is at least as large as this crate knows it.
        unsafe fn whole<'a, T>(raw: *const sys::bitnet_event_t) -> Option<&'a T> {
            ((*raw).size as usize >= std::mem::size_of::<T>()).then(|| &*raw.cast::<T>())
        }
        let known = match (*raw).type_ as i32 {
            sys::BITNET_EVENT_RUN_BEGIN => whole(raw).map(|raw| Event::RunBegin(RunBeginEvent { raw })),
            sys::BITNET_EVENT_STEP_BEGIN => whole(raw).map(|raw| Event::StepBegin(StepEvent { raw })),
            sys::BITNET_EVENT_TENSOR => whole(raw).map(|raw| {
                let replacements = RefCell::new(Vec::new());
                Event::Tensor(TensorEvent { raw, services, replacements, _not_send: PhantomData })
            }),
            sys::BITNET_EVENT_KV_STATE => whole(raw).map(|raw| Event::KvState(KvEvent { raw })),
            sys::BITNET_EVENT_STEP_END => whole(raw).map(|raw| Event::StepEnd(StepEvent { raw })),
            sys::BITNET_EVENT_RUN_END => whole(raw).map(|raw| Event::RunEnd(RunEndEvent { raw })),
            _ => None,
        };
        known.unwrap_or_else(|| Event::Other(&*raw))
    }

    pub(crate) fn apply_replacements(&self) -> std::result::Result<(), String> {
        match self {
            Event::Tensor(tensor) => tensor.apply_replacements(),
            _ => Ok(()),
        }
    }

    /// The header that every event has.
    pub fn header(&self) -> &'a sys::bitnet_event_t {
        match self {
            Event::RunBegin(event) => &event.raw.header,
            Event::StepBegin(event) | Event::StepEnd(event) => &event.raw.header,
            Event::Tensor(event) => &event.raw.header,
            Event::KvState(event) => &event.raw.header,
            Event::RunEnd(event) => &event.raw.header,
            Event::Other(header) => header,
        }
    }
}
