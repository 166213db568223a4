//! Loading a model, and looking at it.

use std::ops::ControlFlow;
use std::os::raw::c_void;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::{fmt, mem};

use crate::error::{check, Result};
use crate::{library, panics, sys, text};

/// Hyperparameters and sizes, as the header describes them.
pub use bitnet_sys::bitnet_model_info as ModelInfo;

/// A loaded model: immutable, shared by any number of threads. Dropping it leaves the contexts that were made from it intact.
pub struct Model {
    raw: NonNull<sys::bitnet_model_t>,
    info: ModelInfo,
}

// A `const bitnet_model_t *` may be used by many threads at once, and freed by any.
unsafe impl Send for Model {}
unsafe impl Sync for Model {}

/// How to load a model; the default is what [`Model::load`] does.
#[derive(Default)]
pub struct LoadOptions<'a> {
    /// Read the file into memory, on huge pages where the system has them, instead of mapping it: it may change afterwards, and
    /// decoding is faster, but loading takes longer and nothing is shared between processes.
    pub copy: bool,
    /// Skip the scan of every ternary code; the structure is always checked.
    pub unchecked_codes: bool,
    /// Instruction set by name; none: `BITNET_ISA`, else the best usable one.
    pub isa: Option<&'a str>,
    /// Overrides, "activation=silu,eps=1e-6" or "profile=bitnetcpp"; none: the file's.
    pub semantics: Option<&'a str>,
    /// Called with `done` of `total` steps; `Break` cancels the load.
    pub progress: Option<&'a mut dyn FnMut(u64, u64) -> ControlFlow<()>>,
}

/// A GGUF key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Key {
    /// "general.architecture"
    pub name: String,
    /// "u32", "str", "arr\[str\]"
    pub kind: String,
    /// Items of an array, else 1.
    pub length: u64,
}

/// A tensor of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tensor {
    /// "blk.0.attn_q.weight"
    pub name: String,
    /// "F32", "F16", "BF16", "I2_S"
    pub type_name: String,
    /// The first dimension is the contiguous (input) one, as in GGUF.
    pub dims: Vec<u64>,
    /// Of its first byte in the file.
    pub file_offset: u64,
    /// In the file.
    pub n_bytes: u64,
}

unsafe extern "C" fn on_progress(user: *mut c_void, done: u64, total: u64) -> i32 {
    panics::catch(|| {
        let progress = &mut *user.cast::<&mut dyn FnMut(u64, u64) -> ControlFlow<()>>();
        progress(done, total).is_break() as i32
    })
    .unwrap_or(1)
}

impl Model {
    /// Loads a GGUF file, mapped read-only.
    ///
    /// The file must not change while the model or one of its contexts lives; [`LoadOptions::copy`] is for files that may.
    ///
    /// # Errors
    ///
    /// `Io`, `Format`, `Unsupported`, `Isa`, `NoMemory`.
    pub fn load(path: impl AsRef<Path>) -> Result<Model> {
        Model::load_with(path, LoadOptions::default())
    }

    /// Loads a GGUF file as the options say.
    ///
    /// # Errors
    ///
    /// Those of [`Model::load`], `Invalid` (semantics), `Cancelled`.
    pub fn load_with(path: impl AsRef<Path>, options: LoadOptions<'_>) -> Result<Model> {
        let path = text::c_string("path", path.as_ref().as_os_str().as_bytes())?;
        Model::make(options, |params, out| unsafe { sys::bitnet_load(path.as_ptr(), params, out) })
    }

    /// Loads a copy of a GGUF file's bytes. `name` stands for the path in messages and traces.
    pub fn from_bytes(data: &[u8], name: &str, options: LoadOptions<'_>) -> Result<Model> {
        Model::of_memory(data, name, LoadOptions { copy: true, ..options })
    }

    /// Loads a GGUF file's bytes in place, such as those of `include_bytes!`.
    pub fn from_static(data: &'static [u8], name: &str, options: LoadOptions<'_>) -> Result<Model> {
        Model::of_memory(data, name, options)
    }

    fn of_memory(data: &[u8], name: &str, options: LoadOptions<'_>) -> Result<Model> {
        let name = text::c_string("name", name)?;
        Model::make(options, |params, out| unsafe {
            sys::bitnet_load_memory(data.as_ptr().cast(), data.len(), name.as_ptr(), params, out)
        })
    }

    fn make(
        mut options: LoadOptions<'_>,
        load: impl FnOnce(*const sys::bitnet_load_params_t, *mut *mut sys::bitnet_model_t) -> sys::bitnet_status_t,
    ) -> Result<Model> {
        library::ready()?;
        let isa = text::optional("isa", options.isa)?;
        let semantics = text::optional("semantics", options.semantics)?;
        let mut params = sys::bitnet_load_params_t {
            struct_size: mem::size_of::<sys::bitnet_load_params_t>() as u32,
            isa: text::pointer_to(&isa),
            semantics: text::pointer_to(&semantics),
            ..Default::default()
        };
        if options.copy {
            params.flags |= sys::BITNET_LOAD_COPY;
        }
        if options.unchecked_codes {
            params.flags |= sys::BITNET_LOAD_UNCHECKED_CODES;
        }
        if let Some(progress) = &mut options.progress {
            params.progress = Some(on_progress);
            params.progress_user = ptr::addr_of_mut!(*progress).cast();
        }
        let mut raw = ptr::null_mut();
        let status = load(&params, &mut raw);
        // Owned first: a panic of the closure goes on in `check`.
        let model = NonNull::new(raw).map(|raw| Model { raw, info: ModelInfo::default() });
        check(status)?;
        let mut model = model.expect("a loaded model has a handle");
        model.info.struct_size = mem::size_of::<ModelInfo>() as u32;
        check(unsafe { sys::bitnet_model_get_info(model.raw(), &mut model.info) })?;
        Ok(model)
    }

    pub(crate) fn raw(&self) -> *const sys::bitnet_model_t {
        self.raw.as_ptr()
    }

    /// Hyperparameters and sizes.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// "bitnet-b1.58".
    pub fn architecture(&self) -> String {
        text::owned(unsafe { sys::bitnet_model_architecture(self.raw()) })
    }

    /// Where it was loaded from, or the name it was given.
    pub fn path(&self) -> String {
        text::owned(unsafe { sys::bitnet_model_path(self.raw()) })
    }

    /// The instruction set in use.
    pub fn isa(&self) -> String {
        text::owned(unsafe { sys::bitnet_model_isa(self.raw()) })
    }

    /// The semantics as run, in the syntax of [`LoadOptions::semantics`].
    pub fn semantics(&self) -> String {
        text::owned(unsafe { sys::bitnet_model_semantics(self.raw()) })
    }

    /// BLAKE3 of the whole file as 64 hex digits. Computed at the first call (about 0.3 s per GB from the page cache), then kept.
    pub fn hash(&self) -> Result<String> {
        let hash = text::sized_text(|out, n| unsafe { sys::bitnet_model_hash(self.raw(), out, n) })?;
        Ok(String::from_utf8_lossy(&hash).into_owned())
    }

    /// What a user should see about this file, one line each.
    pub fn warnings(&self) -> Vec<String> {
        let count = unsafe { sys::bitnet_model_warning_count(self.raw()) };
        (0..count).map(|index| text::owned(unsafe { sys::bitnet_model_warning(self.raw(), index) })).collect()
    }

    /// The GGUF keys in file order.
    pub fn keys(&self) -> Vec<Key> {
        let count = unsafe { sys::bitnet_model_key_count(self.raw()) };
        (0..count)
            .map(|index| Key {
                name: text::owned(unsafe { sys::bitnet_model_key_name(self.raw(), index) }),
                kind: text::owned(unsafe { sys::bitnet_model_key_type(self.raw(), index) }),
                length: unsafe { sys::bitnet_model_key_length(self.raw(), index) },
            })
            .collect()
    }

    /// A key's value as text: scalars plainly, arrays as "\[1, 2, ...\]" of at most `max_items` items (0: all). None: no such key.
    pub fn key_text(&self, name: &str, max_items: u64) -> Result<Option<String>> {
        let count = unsafe { sys::bitnet_model_key_count(self.raw()) };
        let is_it = |index: &usize| {
            text::bytes(unsafe { sys::bitnet_model_key_name(self.raw(), *index) }) == Some(name.as_bytes())
        };
        let index = match (0..count).find(is_it) {
            Some(index) => index,
            None => return Ok(None),
        };
        let value =
            text::sized_text(|out, n| unsafe { sys::bitnet_model_key_text(self.raw(), index, max_items, out, n) })?;
        Ok(Some(String::from_utf8_lossy(&value).into_owned()))
    }

    /// The tensors in file order.
    pub fn tensors(&self) -> Result<Vec<Tensor>> {
        let count = unsafe { sys::bitnet_model_tensor_count(self.raw()) };
        (0..count)
            .map(|index| {
                let mut info = sys::bitnet_tensor_info_t {
                    struct_size: mem::size_of::<sys::bitnet_tensor_info_t>() as u32,
                    ..Default::default()
                };
                check(unsafe { sys::bitnet_model_tensor(self.raw(), index, &mut info) })?;
                Ok(Tensor {
                    name: text::owned(info.name),
                    type_name: text::owned(info.type_name),
                    dims: info.dims.iter().take(info.n_dims as usize).copied().collect(),
                    file_offset: info.file_offset,
                    n_bytes: info.n_bytes,
                })
            })
            .collect()
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        unsafe { sys::bitnet_model_free(self.raw.as_ptr()) };
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model")
            .field("path", &self.path())
            .field("architecture", &self.architecture())
            .field("n_layer", &self.info.n_layer)
            .field("n_embd", &self.info.n_embd)
            .field("n_vocab", &self.info.n_vocab)
            .field("isa", &self.isa())
            .field("semantics", &self.semantics())
            .finish()
    }
}
