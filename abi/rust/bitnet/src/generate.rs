//! Generating tokens.

use std::ffi::CString;
use std::ops::ControlFlow;
use std::os::raw::c_void;
use std::{mem, ptr, slice};

use crate::context::Context;
use crate::error::{Error, Result};
use crate::{panics, sys, text};

/// How to choose tokens, and when to stop; the default is greedy, until an end token or the context is full.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GenerateOptions {
    /// 0: until an end token or the context is full.
    pub max_tokens: i32,
    /// 0: greedy, ties to the lowest id.
    pub temperature: f32,
    /// 0: off.
    pub top_k: i32,
    /// 0 or >= 1: off.
    pub top_p: f32,
    /// 0: off.
    pub min_p: f32,
    /// 0 or 1: off.
    pub repeat_penalty: f32,
    /// Tokens the penalty looks at; 0: 64.
    pub repeat_last_n: i32,
    /// Same seed, same tokens, on every machine.
    pub seed: u64,
    /// Besides the model's end tokens.
    pub stop_tokens: Vec<i32>,
    /// The generation ends once the text contains one.
    pub stop_strings: Vec<String>,
    /// Do not stop at the model's end tokens.
    pub ignore_end: bool,
}

/// What a generation gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    /// The new tokens, the end token included. All but the last have been evaluated.
    pub tokens: Vec<i32>,
    /// Whether the closure stopped it.
    pub cancelled: bool,
}

type OnToken<'a> = &'a mut dyn FnMut(i32, Option<&[f32]>) -> ControlFlow<()>;

unsafe extern "C" fn on_token(user: *mut c_void, token: i32, logits: *const f32, n_vocab: i32) -> i32 {
    panics::catch(|| {
        let logits = (!logits.is_null()).then(|| slice::from_raw_parts(logits, n_vocab as usize));
        let closure = &mut *user.cast::<OnToken<'_>>();
        closure(token, logits).is_break() as i32
    })
    .unwrap_or(1)
}

impl Context {
    /// Continues from the last row of the last evaluation.
    ///
    /// # Errors
    ///
    /// `Invalid`: an option is out of range, or there is no row to continue from.
    pub fn generate(&mut self, options: &GenerateOptions) -> Result<Vec<i32>> {
        Ok(self.generate_with(options, |_, _| ControlFlow::Continue(()))?.tokens)
    }

    /// The same with a closure that is called for each new token before it is evaluated, with the row it was drawn from (none when
    /// the certified head found the token without it). `Break` stops the generation, and is no error.
    ///
    /// ```
    /// # const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../scripts/demo_model/demo.gguf");
    /// # use std::ops::ControlFlow;
    /// # use bitnet::{Context, GenerateOptions, Model};
    /// # let model = Model::load(MODEL)?;
    /// # let mut context = Context::new(&model)?;
    /// context.eval(&model.tokenize("2+2=", model.wants_bos(), false)?)?;
    /// let mut seen = Vec::new();
    /// let generated = context.generate_with(&GenerateOptions::default(), |token, _logits| {
    ///     seen.push(token);
    ///     if seen.len() == 1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    /// })?;
    /// assert!(generated.cancelled);
    /// assert_eq!(generated.tokens, seen);
    /// # Ok::<(), bitnet::Error>(())
    /// ```
    pub fn generate_with(
        &mut self,
        options: &GenerateOptions,
        mut closure: impl FnMut(i32, Option<&[f32]>) -> ControlFlow<()>,
    ) -> Result<Generated> {
        let strings: Vec<CString> = options
            .stop_strings
            .iter()
            .map(|text| text::c_string("stop string", text.as_str()))
            .collect::<Result<_>>()?;
        let pointers: Vec<_> = strings.iter().map(|text| text.as_ptr()).collect();
        let mut user: OnToken<'_> = &mut closure;
        let params = sys::bitnet_generate_params_t {
            struct_size: mem::size_of::<sys::bitnet_generate_params_t>() as u32,
            max_tokens: options.max_tokens,
            temperature: options.temperature,
            top_k: options.top_k,
            top_p: options.top_p,
            min_p: options.min_p,
            repeat_penalty: options.repeat_penalty,
            repeat_last_n: options.repeat_last_n,
            seed: options.seed,
            stop_tokens: text::data_of(&options.stop_tokens),
            n_stop_tokens: options.stop_tokens.len(),
            stop_strings: text::data_of(&pointers),
            n_stop_strings: pointers.len(),
            flags: if options.ignore_end { sys::BITNET_GENERATE_IGNORE_END } else { 0 },
            on_token: Some(on_token),
            on_token_user: ptr::addr_of_mut!(user).cast(),
            ..Default::default()
        };
        // Each token but the last takes a position.
        let room = (self.capacity() - self.position()).max(0) as usize + 1;
        let room = if options.max_tokens > 0 { room.min(options.max_tokens as usize) } else { room };
        let mut tokens: Vec<i32> = Vec::with_capacity(room);
        let mut n = room;
        let status = unsafe { sys::bitnet_generate(self.raw(), &params, tokens.as_mut_ptr(), &mut n) };
        panics::resume();
        match status {
            // Both leave n tokens, which fit.
            sys::BITNET_OK | sys::BITNET_E_CANCELLED => unsafe { tokens.set_len(n) },
            _ => return Err(Error::last(status)),
        }
        Ok(Generated { tokens, cancelled: status == sys::BITNET_E_CANCELLED })
    }
}
