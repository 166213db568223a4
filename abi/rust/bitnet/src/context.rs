//! A conversation with a model: its state, and evaluating tokens.

use std::os::raw::c_void;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::{fmt, mem};

use crate::error::{check, Error, Result};
use crate::model::Model;
use crate::sink::{self, Attached, Sink, TraceStats};
use crate::{panics, sys, text};

/// Counters of the certified head, as the header describes them.
pub use bitnet_sys::bitnet_head_stats as HeadStats;
/// Of dense weights, as the header describes them.
pub use bitnet_sys::bitnet_weight_stats as WeightStats;

/// One conversation with a model: key/value cache, scratch, logits, trace sinks. One thread at a time; it may move between threads.
pub struct Context {
    raw: NonNull<sys::bitnet_ctx_t>,
    pub(crate) n_vocab: usize,
    pub(crate) n_embd: usize,
    sinks: Vec<Arc<Attached>>, // freed after the handle, which delivers a last event
}

// A context may move between threads, and so may the closures of its sinks. Not Sync: one thread at a time.
unsafe impl Send for Context {}

/// Precision of the key/value cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum KvType {
    /// What the semantics say: f32 unless a profile says f16.
    #[default]
    Default,
    /// f32
    F32,
    /// f16
    F16,
}

/// How a generation finds a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Head {
    /// Every logit is computed.
    #[default]
    Full,
    /// Only logits that can still win are, with the same tokens; see `BITNET_HEAD_CERTIFIED` of the header.
    Certified,
}

/// Which ternary weights a decoded token is computed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Weights {
    /// The file's.
    #[default]
    InPlace,
    /// A smaller copy with the same results, where this CPU reads it faster; see `BITNET_WEIGHTS_DENSE` of the header.
    Dense,
}

/// How to make a context; results depend on none of it but `kv`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ContextOptions {
    /// Positions; 0: those the model was trained for.
    pub n_ctx: i32,
    /// 1 to 256; 0: the processors this process may run on.
    pub n_threads: i32,
    /// Rows computed together, 1 to 4096; 0: 512.
    pub n_batch: i32,
    /// Precision of the key/value cache.
    pub kv: KvType,
    /// How a generation finds a token.
    pub head: Head,
    /// Which ternary weights a decoded token is computed from.
    pub weights: Weights,
}

/// Rows of logits that an evaluation keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Keep {
    /// that of the last token
    #[default]
    Last,
    /// those of all tokens
    All,
    /// none
    None,
}

/// How to evaluate; the default keeps the last row.
#[derive(Default)]
pub struct Eval<'a> {
    /// Rows of logits to keep.
    pub keep: Keep,
    /// Asked between layers; `true` cancels.
    pub cancel: Option<&'a mut dyn FnMut() -> bool>,
}

unsafe extern "C" fn on_cancel(user: *mut c_void) -> i32 {
    panics::catch(|| {
        let cancel = &mut *user.cast::<&mut dyn FnMut() -> bool>();
        cancel() as i32
    })
    .unwrap_or(1)
}

impl Context {
    /// A context of default size. The variable `BITNET_TRACE_PLUGIN` attaches plugins to it.
    pub fn new(model: &Model) -> Result<Context> {
        Context::with_options(model, &ContextOptions::default())
    }

    /// A context as the options say.
    ///
    /// # Errors
    ///
    /// `Invalid`, `NoMemory`.
    pub fn with_options(model: &Model, options: &ContextOptions) -> Result<Context> {
        let params = sys::bitnet_context_params_t {
            struct_size: mem::size_of::<sys::bitnet_context_params_t>() as u32,
            n_ctx: options.n_ctx,
            n_threads: options.n_threads,
            n_batch: options.n_batch,
            kv_type: match options.kv {
                KvType::Default => sys::BITNET_KV_DEFAULT,
                KvType::F32 => sys::BITNET_KV_F32,
                KvType::F16 => sys::BITNET_KV_F16,
            },
            head: match options.head {
                Head::Full => sys::BITNET_HEAD_FULL,
                Head::Certified => sys::BITNET_HEAD_CERTIFIED,
            },
            weights: match options.weights {
                Weights::InPlace => sys::BITNET_WEIGHTS_IN_PLACE,
                Weights::Dense => sys::BITNET_WEIGHTS_DENSE,
            },
            ..Default::default()
        };
        let info = model.info();
        Context::made(info.n_vocab as usize, info.n_embd as usize, |out| unsafe {
            sys::bitnet_context_create(model.raw(), &params, out)
        })
    }

    fn made(
        n_vocab: usize,
        n_embd: usize,
        make: impl FnOnce(*mut *mut sys::bitnet_ctx_t) -> sys::bitnet_status_t,
    ) -> Result<Context> {
        let mut raw = ptr::null_mut();
        let status = make(&mut raw);
        let context = NonNull::new(raw).map(|raw| Context { raw, n_vocab, n_embd, sinks: Vec::new() });
        check(status)?;
        Ok(context.expect("a made context has a handle"))
    }

    pub(crate) fn raw(&self) -> *mut sys::bitnet_ctx_t {
        self.raw.as_ptr()
    }

    /// Evaluates tokens after the current position and keeps the last row of logits.
    ///
    /// # Errors
    ///
    /// `Invalid` (no tokens, one out of range), `Overflow` (the context is full), `User` (a sink asked to stop); the position is
    /// then unchanged.
    pub fn eval(&mut self, tokens: &[i32]) -> Result<()> {
        self.eval_with(tokens, Eval::default())
    }

    /// The same, and keeps the row of every token.
    pub fn eval_all(&mut self, tokens: &[i32]) -> Result<()> {
        self.eval_with(tokens, Eval { keep: Keep::All, cancel: None })
    }

    /// Evaluates tokens as `how` says.
    ///
    /// # Errors
    ///
    /// Those of [`Context::eval`], `Cancelled`, `NoMemory`; the position is then unchanged.
    pub fn eval_with(&mut self, tokens: &[i32], how: Eval<'_>) -> Result<()> {
        self.evaluate(Some(tokens), &[], tokens.len(), how)
    }

    /// Evaluates rows of `n_embd` floats each, one after another, in place of token embeddings.
    pub fn eval_embeddings(&mut self, embeddings: &[f32], how: Eval<'_>) -> Result<()> {
        if embeddings.len() % self.n_embd != 0 {
            return Err(Error::Invalid(format!(
                "{} floats of embeddings: expected a multiple of n_embd, {}",
                embeddings.len(),
                self.n_embd
            )));
        }
        self.evaluate(None, embeddings, embeddings.len() / self.n_embd, how)
    }

    fn evaluate(&mut self, tokens: Option<&[i32]>, embeddings: &[f32], n: usize, mut how: Eval<'_>) -> Result<()> {
        let mut params = sys::bitnet_eval_params_t {
            struct_size: mem::size_of::<sys::bitnet_eval_params_t>() as u32,
            logits: match how.keep {
                Keep::Last => sys::BITNET_LOGITS_LAST,
                Keep::All => sys::BITNET_LOGITS_ALL,
                Keep::None => sys::BITNET_LOGITS_NONE,
            },
            embeddings: text::data_of(embeddings),
            ..Default::default()
        };
        if let Some(cancel) = &mut how.cancel {
            params.cancel = Some(on_cancel);
            params.cancel_user = ptr::addr_of_mut!(*cancel).cast();
        }
        // Not NULL for no tokens: the library's message then is about their number.
        let tokens = tokens.map_or(ptr::null(), <[i32]>::as_ptr);
        check(unsafe { sys::bitnet_eval_tokens(self.raw(), tokens, n, &params) })
    }

    /// Forgets all positions.
    pub fn reset(&mut self) -> Result<()> {
        check(unsafe { sys::bitnet_context_reset(self.raw()) })
    }

    /// Keeps the first `n_positions`.
    pub fn truncate(&mut self, n_positions: i32) -> Result<()> {
        check(unsafe { sys::bitnet_context_truncate(self.raw(), n_positions) })
    }

    /// An independent copy at the same position, without sinks and without logits.
    pub fn fork(&self) -> Result<Context> {
        Context::made(self.n_vocab, self.n_embd, |out| unsafe { sys::bitnet_context_fork(self.raw(), out) })
    }

    /// Positions evaluated so far.
    pub fn position(&self) -> i32 {
        unsafe { sys::bitnet_context_position(self.raw()) }
    }

    /// Positions there is room for.
    pub fn capacity(&self) -> i32 {
        unsafe { sys::bitnet_context_capacity(self.raw()) }
    }

    /// Bytes this context has allocated.
    pub fn memory(&self) -> u64 {
        unsafe { sys::bitnet_context_memory(self.raw()) }
    }

    /// How often the certified head was enough; zero in contexts without one.
    pub fn head_stats(&self) -> Result<HeadStats> {
        let mut stats = HeadStats { struct_size: mem::size_of::<HeadStats>() as u32, ..Default::default() };
        check(unsafe { sys::bitnet_context_get_head_stats(self.raw(), &mut stats) })?;
        Ok(stats)
    }

    /// Whether this context decodes from dense weights, and what they take.
    pub fn weight_stats(&self) -> Result<WeightStats> {
        let mut stats = WeightStats { struct_size: mem::size_of::<WeightStats>() as u32, ..Default::default() };
        check(unsafe { sys::bitnet_context_get_weight_stats(self.raw(), &mut stats) })?;
        Ok(stats)
    }

    /// The key/value state as a versioned, checksummed blob, without logits.
    pub fn save(&self) -> Result<Vec<u8>> {
        text::sized(|out: *mut u8, n| unsafe { sys::bitnet_context_save(self.raw(), out.cast(), n) })
    }

    /// Takes a saved state back: of the same model file, semantics and KV type. On any failure the context is as it was.
    ///
    /// # Errors
    ///
    /// `Format` (damaged), `Invalid` (of something else), `Abi` (another version), `Overflow` (larger than the context).
    pub fn restore(&mut self, state: &[u8]) -> Result<()> {
        check(unsafe { sys::bitnet_context_restore(self.raw(), state.as_ptr().cast(), state.len()) })
    }

    /// Attaches a closure to the trace, until [`Context::detach_sinks`] or the context's end.
    ///
    /// # Errors
    ///
    /// `NoMemory`, `Plugin`.
    pub fn attach(&mut self, sink: Sink) -> Result<()> {
        let attached = sink.attached()?;
        let status = unsafe { sys::bitnet_trace_set_sink(self.raw(), attached.table(), attached.user()) };
        if status == sys::BITNET_OK {
            self.sinks.push(attached);
        }
        check(status)
    }

    /// Attaches a plugin by its name, "jsonl", or a path with '/'; `config`: "key=value,...".
    ///
    /// # Errors
    ///
    /// `Plugin`: which step of loading failed, and why.
    pub fn load_plugin(&mut self, name: &str, config: &str) -> Result<()> {
        let (name, config) = (text::c_string("plugin", name)?, text::c_string("config", config)?);
        check(unsafe { sys::bitnet_trace_load_plugin(self.raw(), name.as_ptr(), config.as_ptr()) })
    }

    /// Closes and detaches every closure and plugin.
    pub fn detach_sinks(&mut self) -> Result<()> {
        let status = unsafe { sys::bitnet_trace_set_sink(self.raw(), ptr::null(), ptr::null_mut()) };
        if status == sys::BITNET_OK {
            self.sinks.clear();
        }
        check(status)
    }

    /// What is traced: "seq:layer:stage" with ranges, lists, globs, '!'; "": every stage that is on by default.
    ///
    /// # Errors
    ///
    /// `Invalid`, naming the stages there are, when nothing can match; the selection is then unchanged.
    pub fn select(&mut self, selection: &str) -> Result<()> {
        let selection = text::c_string("selection", selection)?;
        check(unsafe { sys::bitnet_trace_select(self.raw(), selection.as_ptr()) })
    }

    /// Text of the prompt for the next run record; empty clears it.
    pub fn set_prompt(&mut self, prompt: impl AsRef<[u8]>) -> Result<()> {
        let prompt = prompt.as_ref();
        let text = text::data_of(prompt).cast();
        check(unsafe { sys::bitnet_trace_set_prompt(self.raw(), text, prompt.len()) })
    }

    /// Ends the run if one is open and flushes every sink; they stay attached.
    ///
    /// # Errors
    ///
    /// `Plugin`: a sink failed.
    pub fn end_run(&mut self) -> Result<()> {
        check(unsafe { sys::bitnet_trace_end_run(self.raw()) })
    }

    /// What the sinks were given, and how many failed.
    pub fn trace_stats(&self) -> Result<TraceStats> {
        sink::stats(|out| unsafe { sys::bitnet_trace_get_stats(self.raw(), out) })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        unsafe { sys::bitnet_context_free(self.raw()) };
        panics::discard();
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("position", &self.position()).field("capacity", &self.capacity()).finish()
    }
}
