//! The reference engine for BitNet b1.58 models: feed tokens, read the logits of every position and every intermediate tensor,
//! and ask whether another engine agrees. A safe interface to `libbitnet`; the same model and tokens give the same bits on every
//! machine, instruction set and number of threads.
//!
//! ```
//! # const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../scripts/demo_model/demo.gguf");
//! use bitnet::{Context, Model};
//!
//! let model = Model::load(MODEL)?;
//! let mut context = Context::new(&model)?;
//! let tokens = model.tokenize("2+2=", model.wants_bos(), false)?;
//! context.eval(&tokens)?;
//! let logits: &[f32] = context.last_logits()?; // one for each token of the vocabulary
//! assert_eq!(logits.len(), model.info().n_vocab as usize);
//! let best = context.top_logits(0, 1)?[0].token;
//! assert_eq!(model.detokenize(&[best], false)?, b"4");
//! # Ok::<(), bitnet::Error>(())
//! ```
//!
//! # Threads and lifetimes
//!
//! A [`Model`] is shared by any number of threads (`Send + Sync`); each has a [`Context`] of its own, which may move between threads
//! but not be shared (`Send`, not `Sync`). A context keeps what it needs of its model alive: they may be dropped in any order.
//! Logits are borrowed from the context, so the compiler refuses to read them after the next evaluation:
//!
//! ```compile_fail,E0502
//! # fn f(mut context: bitnet::Context) -> bitnet::Result<()> {
//! let logits = context.last_logits()?;
//! context.eval(&[1])?; // cannot borrow `context` as mutable because it is also borrowed as immutable
//! println!("{}", logits[0]);
//! # Ok(())
//! # }
//! ```
//!
//! nor do they outlive it:
//!
//! ```compile_fail,E0505
//! # fn f(context: bitnet::Context) -> bitnet::Result<()> {
//! let logits = context.last_logits()?;
//! drop(context); // cannot move out of `context` because it is borrowed
//! println!("{}", logits[0]);
//! # Ok(())
//! # }
//! ```
//!
//! and a context is not shared:
//!
//! ```compile_fail,E0277
//! fn shareable<T: Sync>() {}
//! shareable::<bitnet::Context>(); // cannot be shared between threads safely
//! ```
//!
//! # Closures
//!
//! Closures given to this crate run on the thread that called, during the call. A panic in one never crosses the library: it is
//! held, the library ends its work in order, and the panic goes on in the caller when the library has returned (in a `drop`, where
//! nothing can be raised, it ends there).
//!
//! # Finding the library
//!
//! Linked by default: at build time through `BITNET_LIB_DIR` or `pkg-config`, at run time by the system's loader. With the
//! feature `runtime-loading` nothing is linked and the library is opened at first use: the variable `BITNET_LIBRARY`, else
//! `libbitnet.so.1`.
#![cfg_attr(feature = "runtime-loading", doc = "[`load_library`] opens a certain one.")]
#![warn(missing_docs)]

mod compare;
mod context;
mod error;
mod event;
mod generate;
mod library;
mod logits;
mod model;
mod panics;
mod replay;
mod sink;
mod stage;
mod text;
mod tokens;
mod trace;

pub use bitnet_sys as sys;

pub use compare::{compare_logits, log_probabilities, Comparison, Limits, LogitsRow, LogitsSummary, Verdict};
pub use context::{Context, ContextOptions, Eval, Head, HeadStats, Keep, KvType, WeightStats, Weights};
pub use error::{Error, Result};
pub use event::{Event, EventKind, KvEvent, RunBeginEvent, RunEndEvent, Stats, StepEvent, TensorEvent};
pub use generate::{GenerateOptions, Generated};
#[cfg(feature = "runtime-loading")]
pub use library::load_library;
pub use library::{abi_version, blake3, instruction_sets, set_log, version, InstructionSet, LogLevel};
pub use logits::TopLogit;
pub use model::{Key, LoadOptions, Model, ModelInfo, Tensor};
pub use replay::{Operation, OperationInput, Replay, Rows, Values};
pub use sink::{IntoOutcome, Sink, TraceStats};
pub use stage::{Dtype, Stage};
pub use tokens::{Special, TokenType};
pub use trace::{Data, KvState, Trace, TraceInput, TraceOptions, TraceTensor};
