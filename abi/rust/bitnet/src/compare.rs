//! Whether the logits of two engines agree, position by position: the numbers and the verdict that every language gets.

use std::ops::{Deref, DerefMut};
use std::{fmt, mem, ptr};

use crate::error::{check, Error, Result};
use crate::{library, sys, text};

/// What was measured of one position, as the header describes it.
pub use bitnet_sys::bitnet_logits_row as LogitsRow;
/// What was measured of all positions, as the header describes it.
pub use bitnet_sys::bitnet_logits_summary as LogitsSummary;

/// Limits of a verdict; a value exactly at its limit passes. The fields are those of `bitnet_logits_limits` in the header, which
/// this dereferences to. The default is the preset "bitnet".
#[derive(Debug, Clone, Copy)]
pub struct Limits(sys::bitnet_logits_limits_t);

impl Limits {
    /// The limits of a preset by name.
    ///
    /// # Errors
    ///
    /// `Invalid`, naming the presets, when there is none of that name.
    pub fn preset(name: &str) -> Result<Limits> {
        library::ready()?;
        let name = text::c_string("preset", name)?;
        let mut limits = Limits::default();
        check(unsafe { sys::bitnet_compare_preset(name.as_ptr(), &mut limits.0) })?;
        Ok(limits)
    }

    /// Names of the presets.
    pub fn presets() -> Result<Vec<String>> {
        library::ready()?;
        let name = |index| unsafe { sys::bitnet_compare_preset_name(index) };
        Ok((0..).map(name).take_while(|name| !name.is_null()).map(text::owned).collect())
    }
}

impl Default for Limits {
    fn default() -> Limits {
        // Nothing judged: the library takes the preset "bitnet" instead.
        Limits(sys::bitnet_logits_limits_t {
            struct_size: mem::size_of::<sys::bitnet_logits_limits_t>() as u32,
            ..Default::default()
        })
    }
}

impl Deref for Limits {
    type Target = sys::bitnet_logits_limits_t;
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Limits {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Every row is inside its limits.
    Match,
    /// At least one is not.
    Diverged,
    /// There was nothing to compare, or a row had no limit that could be judged: no match.
    Nothing,
}

impl Verdict {
    /// 0 match, 1 divergence, 2 nothing compared: the exit code of programs.
    pub const fn exit_code(self) -> i32 {
        match self {
            Verdict::Match => 0,
            Verdict::Diverged => 1,
            Verdict::Nothing => 2,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Match => "match",
            Verdict::Diverged => "diverged",
            Verdict::Nothing => "nothing compared",
        })
    }
}

/// A comparison of two buffers of logits.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// One for each position.
    pub rows: Vec<LogitsRow>,
    /// Over all of them.
    pub summary: LogitsSummary,
}

impl Comparison {
    /// The answer.
    pub fn verdict(&self) -> Verdict {
        match self.summary.verdict {
            sys::BITNET_COMPARE_MATCH => Verdict::Match,
            sys::BITNET_COMPARE_DIVERGED => Verdict::Diverged,
            _ => Verdict::Nothing,
        }
    }

    /// The first position that diverges.
    pub fn first_diverged(&self) -> Option<usize> {
        let first = self.summary.first_failed as usize;
        (first < self.rows.len()).then_some(first)
    }
}

/// Compares rows of `n_vocab` floats each, one after another on either side; `reference` is the side that differences are relative
/// to. A divergence is no error.
///
/// # Errors
///
/// `Invalid`: the two lengths differ, or are no multiple of `n_vocab`; a limit is out of range.
///
/// ```
/// use bitnet::{compare_logits, Limits, Verdict};
///
/// let ours = [1.0, 2.0, 3.0, /* row 1 */ 4.0, 5.0, 6.0];
/// let theirs = [1.0, 2.0, 3.0, /* row 1 */ 6.0, 5.0, 4.0];
/// let comparison = compare_logits(&ours, &theirs, 3, &Limits::preset("bitnet")?)?;
/// assert_eq!(comparison.verdict(), Verdict::Diverged);
/// assert_eq!(comparison.first_diverged(), Some(1));
/// # Ok::<(), bitnet::Error>(())
/// ```
pub fn compare_logits(reference: &[f32], other: &[f32], n_vocab: usize, limits: &Limits) -> Result<Comparison> {
    library::ready()?;
    if reference.len() != other.len() || n_vocab == 0 || reference.len() % n_vocab != 0 {
        return Err(Error::Invalid(format!(
            "{} and {} logits: expected the same number of rows of {n_vocab}",
            reference.len(),
            other.len()
        )));
    }
    let row = LogitsRow { struct_size: mem::size_of::<LogitsRow>() as u32, ..Default::default() };
    let mut rows = vec![row; reference.len() / n_vocab];
    let mut summary = LogitsSummary { struct_size: mem::size_of::<LogitsSummary>() as u32, ..Default::default() };
    let (n_rows, limits) = (rows.len(), ptr::addr_of!(limits.0));
    check(unsafe {
        let rows = rows.as_mut_ptr();
        sys::bitnet_compare_logits(reference.as_ptr(), other.as_ptr(), n_rows, n_vocab, limits, rows, &mut summary)
    })?;
    Ok(Comparison { rows, summary })
}

/// Natural logarithm of the probability of `tokens[j]` in row j of any engine's logits, `n_vocab` floats each; NaN for a row with NaN
/// or +Inf. The same numbers as [`Context::log_probabilities`](crate::Context::log_probabilities).
///
/// # Errors
///
/// `Invalid`: not one token for each row, or one out of range.
pub fn log_probabilities(logits: &[f32], n_vocab: usize, tokens: &[i32]) -> Result<Vec<f64>> {
    library::ready()?;
    if tokens.len().checked_mul(n_vocab) != Some(logits.len()) {
        let (n, rows) = (logits.len(), tokens.len());
        return Err(Error::Invalid(format!("{n} logits: expected {rows} rows of {n_vocab}, one for each token")));
    }
    let mut out = vec![0.0; tokens.len()];
    check(unsafe { sys::bitnet_logprobs(logits.as_ptr(), tokens.len(), n_vocab, tokens.as_ptr(), out.as_mut_ptr()) })?;
    Ok(out)
}
