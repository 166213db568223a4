//! Reading what an evaluation has left: logits, hidden states, log-probabilities.

use std::slice;

use crate::context::Context;
use crate::error::{check, Error, Result};
use crate::sys;

/// One of the largest logits of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TopLogit {
    /// Token id.
    pub token: i32,
    /// Its logit.
    pub logit: f32,
}

/// Rows beyond this are beyond what any context holds.
fn row_index(row: usize) -> i32 {
    i32::try_from(row).unwrap_or(i32::MAX)
}

impl Context {
    /// Rows of logits that the last evaluation kept.
    pub fn logits_count(&self) -> usize {
        unsafe { sys::bitnet_logits_count(self.raw()) }.max(0) as usize
    }

    /// Row `row` of them, `n_vocab` floats.
    ///
    /// # Errors
    ///
    /// `Invalid`: there is no such row.
    pub fn logits(&self, row: usize) -> Result<&[f32]> {
        self.logits_row(row_index(row))
    }

    /// The last of them.
    pub fn last_logits(&self) -> Result<&[f32]> {
        self.logits_row(-1)
    }

    /// All of them, in order.
    pub fn logits_rows(&self) -> impl Iterator<Item = &[f32]> + '_ {
        (0..self.logits_count()).map(move |row| self.logits(row).expect("a row that was kept"))
    }

    fn logits_row(&self, row: i32) -> Result<&[f32]> {
        // Written before this returns, and not again before a call that takes the context mutably.
        let data = unsafe { sys::bitnet_get_logits_ith(self.raw(), row) };
        self.borrowed(data, self.n_vocab)
    }

    /// Output of the final norm of row `row`, `n_embd` floats.
    pub fn hidden(&self, row: usize) -> Result<&[f32]> {
        let data = unsafe { sys::bitnet_get_hidden_ith(self.raw(), row_index(row)) };
        self.borrowed(data, self.n_embd)
    }

    fn borrowed(&self, data: *const f32, n: usize) -> Result<&[f32]> {
        if data.is_null() {
            return Err(Error::last(sys::BITNET_E_INVALID));
        }
        Ok(unsafe { slice::from_raw_parts(data, n) })
    }

    /// Natural logarithm of the probability of `tokens[j]` after the kept row j, for each of the tokens.
    ///
    /// # Errors
    ///
    /// `Invalid`: more tokens than rows, or one out of range.
    pub fn log_probabilities(&self, tokens: &[i32]) -> Result<Vec<f64>> {
        let mut out = vec![0.0; tokens.len()];
        check(unsafe { sys::bitnet_token_logprobs(self.raw(), tokens.as_ptr(), tokens.len(), out.as_mut_ptr()) })?;
        Ok(out)
    }

    /// The `k` largest logits of row `row`, largest first, ties to the lowest id.
    pub fn top_logits(&self, row: usize, k: usize) -> Result<Vec<TopLogit>> {
        let room = k.min(self.n_vocab); // a larger k is the library's to refuse
        let (mut tokens, mut logits) = (vec![0; room], vec![0.0; room]);
        check(unsafe {
            sys::bitnet_top_logits(
                self.raw(),
                row_index(row),
                i32::try_from(k).unwrap_or(i32::MAX),
                tokens.as_mut_ptr(),
                logits.as_mut_ptr(),
            )
        })?;
        Ok(tokens.into_iter().zip(logits).map(|(token, logit)| TopLogit { token, logit }).collect())
    }
}
