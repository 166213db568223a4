//! One operation of a layer, recomputed from recorded inputs.

use std::ptr::NonNull;
use std::{fmt, mem, ptr};

use crate::error::{check, Error, Result};
use crate::model::Model;
use crate::stage::{Dtype, Stage};
use crate::trace::Data;
use crate::{sys, text};

/// A model's operations under one set of semantics, each computed from inputs that the caller gives. Keeps its model alive; one thread
/// at a time.
pub struct Replay {
    raw: NonNull<sys::bitnet_replay_t>,
}

// Scratch of its own, one thread at a time; it may move.
unsafe impl Send for Replay {}

/// One operation of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Operation {
    /// What it computes, companions included.
    pub stage: Stage,
    /// None: of no block.
    pub layer: Option<u32>,
    /// Of the output.
    pub dtype: Dtype,
    /// Of the output; 0: n_head * (position + 1).
    pub row_elements: u64,
    /// What it reads; empty: the token ids alone.
    pub inputs: Vec<OperationInput>,
}

/// What an operation reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct OperationInput {
    /// Which stage.
    pub stage: Stage,
    /// Where it is recorded.
    pub layer: Option<u32>,
    /// Needed for all positions from 0 to the last, whichever rows are computed.
    pub every_position: bool,
}

/// Recorded rows of one stage, row after row; [`Stage::NONE`] for token ids.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// Which stage.
    pub stage: Stage,
    /// How many rows the values are.
    pub n_rows: usize,
    /// Row after row.
    pub data: Data<'a>,
}

/// What an operation gave, in its type.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Values {
    /// values
    F32(Vec<f32>),
    /// codes
    I8(Vec<i8>),
    /// accumulators
    I32(Vec<i32>),
}

fn layer(raw: i32) -> Option<u32> {
    u32::try_from(raw).ok()
}

impl Replay {
    /// `semantics`: overrides on top of the model's, in the syntax of [`LoadOptions::semantics`](crate::LoadOptions::semantics).
    ///
    /// # Errors
    ///
    /// `Invalid`: they are wrong, name a layer or a sub-norm that the model has not, or change head_tied.
    pub fn new(model: &Model, semantics: Option<&str>) -> Result<Replay> {
        let semantics = text::optional("semantics", semantics)?;
        let mut raw = ptr::null_mut();
        check(unsafe { sys::bitnet_replay_create(model.raw(), text::pointer_to(&semantics), &mut raw) })?;
        Ok(Replay { raw: NonNull::new(raw).expect("a made replay has a handle") })
    }

    /// The semantics in full.
    pub fn semantics(&self) -> String {
        text::owned(unsafe { sys::bitnet_replay_semantics(self.raw.as_ptr()) })
    }

    /// Every operation of the model in execution order.
    pub fn operations(&self) -> Result<Vec<Operation>> {
        let count = unsafe { sys::bitnet_replay_operation_count(self.raw.as_ptr()) };
        (0..count)
            .map(|index| {
                let mut raw = sys::bitnet_operation_t {
                    struct_size: mem::size_of::<sys::bitnet_operation_t>() as u32,
                    ..Default::default()
                };
                check(unsafe { sys::bitnet_replay_operation(self.raw.as_ptr(), index, &mut raw) })?;
                Ok(Operation {
                    stage: Stage(raw.stage),
                    layer: layer(raw.layer),
                    dtype: Dtype::of(raw.dtype),
                    row_elements: raw.row_elements,
                    inputs: (0..raw.n_inputs as usize)
                        .map(|i| OperationInput {
                            stage: Stage(raw.input_stage[i]),
                            layer: layer(raw.input_layer[i]),
                            every_position: raw.every_position >> i & 1 == 1,
                        })
                        .collect(),
                })
            })
            .collect()
    }

    /// Computes one of [`Replay::operations`] for rows at `positions` (none: 0, 1, 2, ...). The header says which inputs may stand for
    /// which.
    ///
    /// # Errors
    ///
    /// `Invalid`: an input is missing, given twice, not one of the operation's, or of another size or type; a row has no position.
    pub fn run(&mut self, operation: &Operation, inputs: &[Rows<'_>], positions: Option<&[i32]>) -> Result<Values> {
        let rows = inputs.iter().map(rows_of).collect::<Result<Vec<_>>>()?;
        // One position for each row that can be asked for, so that the library reads no further; it refuses the -1.
        let most = inputs.iter().map(|input| input.n_rows).max().unwrap_or(0);
        let positions = positions.map(|given| {
            let missing = std::iter::repeat(-1).take(most.saturating_sub(given.len()));
            given.iter().copied().chain(missing).collect::<Vec<i32>>()
        });
        let params = sys::bitnet_replay_params_t {
            struct_size: mem::size_of::<sys::bitnet_replay_params_t>() as u32,
            stage: operation.stage.0,
            layer: operation.layer.map_or(-1, |layer| i32::try_from(layer).unwrap_or(i32::MAX)),
            n_inputs: rows.len() as u32,
            inputs: text::data_of(&rows),
            positions: positions.as_ref().map_or(ptr::null(), |positions| positions.as_ptr()),
        };
        let raw = self.raw.as_ptr();
        Ok(match operation.dtype {
            Dtype::I8 => Values::I8(text::sized(|out: *mut i8, n| unsafe {
                sys::bitnet_replay_run(raw, &params, out.cast(), n)
            })?),
            Dtype::I32 => Values::I32(text::sized(|out: *mut i32, n| unsafe {
                sys::bitnet_replay_run(raw, &params, out.cast(), n)
            })?),
            _ => Values::F32(text::sized(|out: *mut f32, n| unsafe {
                sys::bitnet_replay_run(raw, &params, out.cast(), n)
            })?),
        })
    }
}

fn rows_of(rows: &Rows<'_>) -> Result<sys::bitnet_rows_t> {
    let n = rows.data.len();
    if rows.n_rows == 0 || n == 0 || n % rows.n_rows != 0 {
        return Err(Error::Invalid(format!("{n} values of {} rows: expected whole rows", rows.n_rows)));
    }
    let row_elements = (n / rows.n_rows) as u64;
    Ok(sys::bitnet_rows_t {
        stage: rows.stage.0,
        dtype: rows.data.dtype().raw(),
        n_rows: rows.n_rows as u64,
        row_elements,
        row_stride: row_elements * rows.data.dtype().size() as u64,
        data: rows.data.pointer(),
    })
}

impl Drop for Replay {
    fn drop(&mut self) {
        unsafe { sys::bitnet_replay_free(self.raw.as_ptr()) };
    }
}

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay").field("semantics", &self.semantics()).finish()
    }
}
