//! Tracing an engine that is not the library's: its tensors, into the same plugins and closures. Needs no model.

use std::ffi::CString;
use std::os::raw::c_void;
use std::sync::{Arc, Mutex, PoisonError};
use std::{fmt, mem, ptr};

use crate::error::{check, Error, Result};
use crate::sink::{self, Attached, Sink, TraceStats};
use crate::stage::{Dtype, Stage};
use crate::{library, panics, sys, text};

/// State of a key/value cache, as the header describes it.
pub use bitnet_sys::bitnet_kv_state as KvState;

/// A trace that a foreign engine writes. Any number of threads may use it at once; events keep the order in which the calls come.
///
/// ```
/// use bitnet::{Event, Sink, Stage, Trace, TraceOptions, TraceTensor};
/// use std::sync::{Arc, Mutex};
///
/// let seen = Arc::new(Mutex::new(Vec::new()));
/// let trace = Trace::open(&TraceOptions { engine: "my-engine", ..TraceOptions::default() })?;
/// let names = Arc::clone(&seen);
/// trace.attach(Sink::new(move |event| {
///     if let Event::Tensor(tensor) = event {
///         names.lock().unwrap().push(tensor.stage_name().into_owned());
///     }
/// }))?;
/// trace.step(0, &[17, 42])?; // before each evaluation
/// let q = vec![0.5f32; 2 * 64]; // two rows
/// trace.emit(&TraceTensor::new(Stage::Q_PROJ, Some(3), 0, &[4, 16], &q[..]))?;
/// trace.end()?;
/// assert_eq!(*seen.lock().unwrap(), ["q_proj"]);
/// # Ok::<(), bitnet::Error>(())
/// ```
pub struct Trace {
    raw: *mut sys::bitnet_trace_t, // NULL: nothing is attached, and every function does nothing
    sinks: Mutex<Vec<Arc<Attached>>>, // freed after the handle
}

// Any number of threads may use a trace at once.
unsafe impl Send for Trace {}
unsafe impl Sync for Trace {}

/// What a run record says of the engine, and where the trace goes; empty texts are unknown.
#[derive(Debug, Clone, Default)]
pub struct TraceOptions<'a> {
    /// Required: "my-engine".
    pub engine: &'a str,
    /// Its version.
    pub engine_version: &'a str,
    /// Of the model file.
    pub model_path: &'a str,
    /// BLAKE3 of the model file, 64 hex digits ([`blake3`](crate::blake3)), so that traces can be compared.
    pub model_hash: &'a str,
    /// "bitnet-b1.58"
    pub architecture: &'a str,
    /// "n_layer=30,n_embd=2560,..."
    pub hyperparameters: &'a str,
    /// "activation=relu2,...", as far as they are known.
    pub semantics: &'a str,
    /// Instruction set.
    pub isa: &'a str,
    /// "f32", "f16"
    pub kv_type: &'a str,
    /// "jsonl:path=a.jsonl;npy:dir=raw"; none: what `BITNET_TRACE_PLUGIN` says.
    pub plugins: Option<&'a str>,
    /// As [`Context::select`](crate::Context::select); none: what `BITNET_TRACE_SELECT` says.
    pub selection: Option<&'a str>,
    /// Text of the prompt; none: unknown.
    pub prompt: Option<&'a [u8]>,
    /// Ids from position 0 on, as far as they are known.
    pub tokens: &'a [i32],
    /// Threads that compute.
    pub n_threads: i32,
    /// Rows computed together.
    pub n_batch: i32,
}

/// Values of a tensor, row after row.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Data<'a> {
    /// single precision
    F32(&'a [f32]),
    /// half precision, as bits
    F16(&'a [u16]),
    /// bfloat16, as bits
    Bf16(&'a [u16]),
    /// codes
    I8(&'a [i8]),
    /// accumulators
    I32(&'a [i32]),
}

impl<'a> From<&'a [f32]> for Data<'a> {
    fn from(values: &'a [f32]) -> Self {
        Data::F32(values)
    }
}

impl<'a> From<&'a [i8]> for Data<'a> {
    fn from(values: &'a [i8]) -> Self {
        Data::I8(values)
    }
}

impl<'a> From<&'a [i32]> for Data<'a> {
    fn from(values: &'a [i32]) -> Self {
        Data::I32(values)
    }
}

impl Data<'_> {
    pub(crate) fn dtype(&self) -> Dtype {
        match self {
            Data::F32(_) => Dtype::F32,
            Data::F16(_) => Dtype::F16,
            Data::Bf16(_) => Dtype::Bf16,
            Data::I8(_) => Dtype::I8,
            Data::I32(_) => Dtype::I32,
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Data::F32(values) => values.len(),
            Data::F16(values) | Data::Bf16(values) => values.len(),
            Data::I8(values) => values.len(),
            Data::I32(values) => values.len(),
        }
    }

    pub(crate) fn pointer(&self) -> *const c_void {
        match self {
            Data::F32(values) => text::data_of(values).cast(),
            Data::F16(values) | Data::Bf16(values) => text::data_of(values).cast(),
            Data::I8(values) => text::data_of(values).cast(),
            Data::I32(values) => text::data_of(values).cast(),
        }
    }

    /// Rows of this shape in it, checked: the library reads as many.
    fn rows(&self, what: &str, shape: &[u64]) -> Result<u32> {
        let elements = shape.iter().try_fold(1u64, |product, n| product.checked_mul(*n)).unwrap_or(0);
        let n = self.len() as u64;
        if elements == 0 || shape.len() > 4 || n == 0 || n % elements != 0 || n / elements > u64::from(u32::MAX) {
            return Err(Error::Invalid(format!(
                "{what}: {n} values for rows of shape {shape:?}: expected 1 to 4 dimensions, and whole rows"
            )));
        }
        Ok((n / elements) as u32)
    }
}

/// What an operation read, for engines that can tell.
#[derive(Debug, Clone, Copy)]
pub struct TraceInput<'a> {
    /// Stage name where it is one, else "k_cache", "v_cache", or the engine's own.
    pub name: &'a str,
    /// [`Stage::NONE`] where it is none.
    pub stage: Stage,
    /// Of one row, outermost first.
    pub shape: &'a [u64],
    /// As many rows as the tensor has, or one that all of them read.
    pub data: Data<'a>,
}

/// Rows of a stage that an engine has computed.
#[derive(Debug, Clone, Copy)]
pub struct TraceTensor<'a> {
    /// [`Stage::NONE`]: `name` says it.
    pub stage: Stage,
    /// With [`Stage::NONE`]: "q_proj", or "t0/blk3/q_proj", which also sets position and layer.
    pub name: &'a str,
    /// None for embeddings, final norm and logits.
    pub layer: Option<u32>,
    /// Of row 0; the rows are at consecutive positions.
    pub position: i32,
    /// Of one row, outermost first.
    pub shape: &'a [u64],
    /// Row after row.
    pub data: Data<'a>,
    /// What the operation read.
    pub inputs: &'a [TraceInput<'a>],
    /// What computed it; "" when unknown.
    pub kernel: &'a str,
    /// Time it took; 0: unknown, then the time since the call before.
    pub ns: u64,
}

impl<'a> TraceTensor<'a> {
    /// Rows of a known stage.
    pub fn new(stage: Stage, layer: Option<u32>, position: i32, shape: &'a [u64], data: impl Into<Data<'a>>) -> Self {
        TraceTensor { stage, name: "", layer, position, shape, data: data.into(), inputs: &[], kernel: "", ns: 0 }
    }

    /// Rows under the name that the engine gives them, such as "t0/blk3/q_proj".
    pub fn named(name: &'a str, position: i32, shape: &'a [u64], data: impl Into<Data<'a>>) -> Self {
        TraceTensor { name, ..TraceTensor::new(Stage::NONE, None, position, shape, data) }
    }
}

fn four(shape: &[u64]) -> [u64; 4] {
    let mut dims = [0; 4];
    for (dim, n) in dims.iter_mut().zip(shape) {
        *dim = *n;
    }
    dims
}

fn input_of(input: &TraceInput<'_>, n_rows: u32, name: &CString) -> Result<sys::bitnet_tensor_input_t> {
    let rows = input.data.rows(input.name, input.shape)?;
    if rows != 1 && rows != n_rows {
        return Err(Error::Invalid(format!("{}: {rows} rows: expected 1 or {n_rows}", input.name)));
    }
    let row_elements = input.data.len() as u64 / u64::from(rows);
    Ok(sys::bitnet_tensor_input_t {
        name: name.as_ptr(),
        stage: input.stage.0,
        dtype: input.data.dtype().raw(),
        n_dims: input.shape.len() as u32,
        shape: four(input.shape),
        row_elements,
        row_stride: if rows == 1 { 0 } else { row_elements * input.data.dtype().size() as u64 },
        data: input.data.pointer(),
        ..Default::default()
    })
}

impl Trace {
    /// Opens a trace.
    ///
    /// # Errors
    ///
    /// `Invalid` (no engine, wrong selection, hash or hyperparameters), `Plugin` (of `plugins`; what the environment names never
    /// fails the call), `NoMemory`.
    pub fn open(options: &TraceOptions<'_>) -> Result<Trace> {
        library::ready()?;
        let texts = [
            ("engine", options.engine),
            ("engine version", options.engine_version),
            ("model path", options.model_path),
            ("model hash", options.model_hash),
            ("architecture", options.architecture),
            ("hyperparameters", options.hyperparameters),
            ("semantics", options.semantics),
            ("isa", options.isa),
            ("kv type", options.kv_type),
        ];
        let texts: Vec<CString> =
            texts.iter().map(|(what, text)| text::c_string(what, *text)).collect::<Result<_>>()?;
        let plugins = text::optional("plugins", options.plugins)?;
        let selection = text::optional("selection", options.selection)?;
        let params = sys::bitnet_trace_params_t {
            struct_size: mem::size_of::<sys::bitnet_trace_params_t>() as u32,
            engine: texts[0].as_ptr(),
            engine_version: texts[1].as_ptr(),
            model_path: texts[2].as_ptr(),
            model_hash: texts[3].as_ptr(),
            architecture: texts[4].as_ptr(),
            hyperparameters: texts[5].as_ptr(),
            semantics: texts[6].as_ptr(),
            isa: texts[7].as_ptr(),
            kv_type: texts[8].as_ptr(),
            plugins: text::pointer_to(&plugins),
            selection: text::pointer_to(&selection),
            prompt: options.prompt.map_or(ptr::null(), |prompt| prompt.as_ptr().cast()),
            n_prompt_bytes: options.prompt.map_or(0, <[u8]>::len),
            tokens: text::data_of(options.tokens),
            n_tokens: options.tokens.len(),
            n_threads: options.n_threads,
            n_batch: options.n_batch,
            ..Default::default()
        };
        let mut trace = Trace::none();
        check(unsafe { sys::bitnet_trace_open(&params, &mut trace.raw) })?;
        Ok(trace)
    }

    /// A trace with nothing attached, for an engine that is not traced: every function accepts it and does nothing.
    pub const fn none() -> Trace {
        Trace { raw: ptr::null_mut(), sinks: Mutex::new(Vec::new()) }
    }

    /// Whether a sink is attached; asks before work that only a trace needs.
    pub fn enabled(&self) -> bool {
        !self.raw.is_null() && unsafe { sys::bitnet_trace_enabled(self.raw) != 0 }
    }

    /// Whether a sink is attached and the selection has this stage, layer and position.
    pub fn wants(&self, stage: Stage, layer: Option<u32>, position: i32) -> bool {
        !self.raw.is_null() && unsafe { sys::bitnet_trace_wants(self.raw, stage.0, layer_of(layer), position) != 0 }
    }

    /// Attaches a closure, until the trace's end.
    ///
    /// # Errors
    ///
    /// `Busy` from within a sink, `Plugin`, `NoMemory`.
    pub fn attach(&self, sink: Sink) -> Result<()> {
        if self.raw.is_null() {
            return Ok(());
        }
        let attached = sink.attached()?;
        let status = unsafe { sys::bitnet_trace_add_sink(self.raw, attached.table(), attached.user()) };
        if status == sys::BITNET_OK {
            self.sinks.lock().unwrap_or_else(PoisonError::into_inner).push(attached);
        }
        check(status)
    }

    /// Attaches a plugin by its name, "jsonl", or a path with '/'; `config`: "key=value,...".
    pub fn load_plugin(&self, name: &str, config: &str) -> Result<()> {
        let (name, config) = (text::c_string("plugin", name)?, text::c_string("config", config)?);
        self.call(|raw| unsafe { sys::bitnet_trace_add_plugin(raw, name.as_ptr(), config.as_ptr()) })
    }

    /// Changes what is traced.
    pub fn select(&self, selection: &str) -> Result<()> {
        let selection = text::c_string("selection", selection)?;
        self.call(|raw| unsafe { sys::bitnet_trace_reselect(raw, selection.as_ptr()) })
    }

    /// An evaluation of these tokens begins at `position`; the one before it ends. A position that was evaluated before begins a new
    /// run.
    pub fn step(&self, position: i32, tokens: &[i32]) -> Result<()> {
        self.call(|raw| unsafe { sys::bitnet_trace_step(raw, position, tokens.as_ptr(), tokens.len()) })
    }

    /// Delivers the selected rows. Without a [`Trace::step`] that covers its position, a step begins by itself.
    ///
    /// # Errors
    ///
    /// `Invalid` (no such stage, a stage that cannot be at this layer, a shape that the values do not fill), `User` (a sink asked to
    /// stop: the text is its reason).
    pub fn emit(&self, tensor: &TraceTensor<'_>) -> Result<()> {
        if !self.enabled() {
            return Ok(());
        }
        let name = text::c_string("tensor name", tensor.name)?;
        let kernel = text::c_string("kernel", tensor.kernel)?;
        let shown = if tensor.name.is_empty() { tensor.stage.name().unwrap_or("tensor") } else { tensor.name };
        let n_rows = tensor.data.rows(shown, tensor.shape)?;
        let names: Vec<CString> =
            tensor.inputs.iter().map(|input| text::c_string("input name", input.name)).collect::<Result<_>>()?;
        let inputs: Vec<sys::bitnet_tensor_input_t> = tensor
            .inputs
            .iter()
            .zip(&names)
            .map(|(input, name)| input_of(input, n_rows, name))
            .collect::<Result<_>>()?;
        let raw = sys::bitnet_trace_tensor_t {
            struct_size: mem::size_of::<sys::bitnet_trace_tensor_t>() as u32,
            stage: tensor.stage.0,
            name: name.as_ptr(),
            layer: layer_of(tensor.layer),
            position: tensor.position,
            dtype: tensor.data.dtype().raw(),
            n_rows,
            n_dims: tensor.shape.len() as u32,
            n_inputs: inputs.len() as u32,
            shape: four(tensor.shape),
            data: tensor.data.pointer(),
            inputs: text::data_of(&inputs),
            kernel: kernel.as_ptr(),
            ns: tensor.ns,
            ..Default::default()
        };
        self.call(|trace| unsafe { sys::bitnet_trace_emit(trace, &raw) })
    }

    /// The state of the key/value cache, inside a step.
    pub fn kv(&self, state: &KvState) -> Result<()> {
        let state = KvState { struct_size: mem::size_of::<KvState>() as u32, ..*state };
        self.call(|raw| unsafe { sys::bitnet_trace_kv(raw, &state) })
    }

    /// Ends the step and the run, and flushes every sink; what comes next begins a new run.
    ///
    /// # Errors
    ///
    /// `Plugin`: a sink failed.
    pub fn end(&self) -> Result<()> {
        self.call(|raw| unsafe { sys::bitnet_trace_end(raw) })
    }

    /// What the sinks were given, and how many failed.
    pub fn stats(&self) -> Result<TraceStats> {
        library::ready()?;
        sink::stats(|out| unsafe { sys::bitnet_trace_statistics(self.raw, out) })
    }

    fn call(&self, function: impl FnOnce(*mut sys::bitnet_trace_t) -> sys::bitnet_status_t) -> Result<()> {
        if self.raw.is_null() {
            return Ok(());
        }
        check(function(self.raw))
    }
}

fn layer_of(layer: Option<u32>) -> i32 {
    layer.map_or(-1, |layer| i32::try_from(layer).unwrap_or(i32::MAX))
}

impl Drop for Trace {
    fn drop(&mut self) {
        if !self.raw.is_null() {
            unsafe { sys::bitnet_trace_close(self.raw) };
            panics::discard();
        }
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace").field("enabled", &self.enabled()).finish()
    }
}
