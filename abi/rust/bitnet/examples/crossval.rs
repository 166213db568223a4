//! Does another engine compute the same logits? Feeds tokens to the reference, compares the logits of every position with a
//! candidate's, and exits with 0 (match), 1 (divergence) or 2 (error).
//!
//! ```text
//! crossval MODEL (--prompt TEXT | --tokens 1,2,3) (--candidate FILE | --as SEMANTICS) [--limits PRESET] [--save FILE]
//!
//!   --candidate FILE  the other engine's logits: rows of n_vocab little-endian f32, one for each token, raw or as .npy
//!   --as SEMANTICS    the same model under other semantics as the candidate, such as activation=silu
//!   --limits PRESET   what counts as equal (default: bitnet)
//!   --save FILE       writes the reference's logits, raw, in the form that --candidate reads
//! ```

use std::process::ExitCode;
use std::{env, fs};

use bitnet::{compare_logits, Comparison, Context, Limits, LoadOptions, Model, Verdict};

const USAGE: &str = "usage: crossval MODEL (--prompt TEXT | --tokens 1,2,3) (--candidate FILE | --as SEMANTICS) \
                     [--limits PRESET] [--save FILE]";

type Failure = Box<dyn std::error::Error>;

#[derive(Default)]
struct Arguments {
    model: String,
    prompt: Option<String>,
    tokens: Option<String>,
    candidate: Option<String>,
    semantics: Option<String>,
    limits: Option<String>,
    save: Option<String>,
}

fn arguments() -> Result<Arguments, Failure> {
    let mut given = env::args().skip(1);
    let mut arguments = Arguments { model: given.next().ok_or(USAGE)?, ..Default::default() };
    while let Some(option) = given.next() {
        let place = match option.as_str() {
            "--prompt" => &mut arguments.prompt,
            "--tokens" => &mut arguments.tokens,
            "--candidate" => &mut arguments.candidate,
            "--as" => &mut arguments.semantics,
            "--limits" => &mut arguments.limits,
            "--save" => &mut arguments.save,
            other => return Err(format!("unknown option '{other}'; {USAGE}").into()),
        };
        *place = Some(given.next().ok_or_else(|| format!("{option} expects a value"))?);
    }
    if arguments.prompt.is_some() == arguments.tokens.is_some()
        || arguments.candidate.is_some() == arguments.semantics.is_some()
    {
        return Err(USAGE.into());
    }
    Ok(arguments)
}

/// Logits of every position, row after row.
fn logits_of(model: &Model, tokens: &[i32]) -> Result<Vec<f32>, Failure> {
    let mut context = Context::new(model)?;
    context.eval_all(tokens)?;
    Ok(context.logits_rows().flatten().copied().collect())
}

/// The data of an .npy file of little-endian f32 in C order; other bytes as they are.
fn values_in<'a>(path: &str, bytes: &'a [u8]) -> Result<&'a [u8], Failure> {
    if !bytes.starts_with(b"\x93NUMPY") {
        return Ok(bytes);
    }
    let short = || format!("{path}: an .npy file that ends in its header");
    let version = *bytes.get(6).ok_or_else(short)?;
    let length = match version {
        1 => bytes.get(8..10).map(|n| (10, usize::from(u16::from_le_bytes([n[0], n[1]])))),
        _ => bytes.get(8..12).map(|n| (12, u32::from_le_bytes([n[0], n[1], n[2], n[3]]) as usize)),
    };
    let (start, length) = length.ok_or_else(short)?;
    let header = bytes.get(start..start + length).map(String::from_utf8_lossy).ok_or_else(short)?;
    if !header.contains("'<f4'") || !header.contains("'fortran_order': False") {
        return Err(format!("{path}: {}: expected '<f4' in C order", header.trim()).into());
    }
    Ok(&bytes[start + length..])
}

fn candidate(path: &str, n_rows: usize, n_vocab: usize) -> Result<Vec<f32>, Failure> {
    let bytes = fs::read(path).map_err(|error| format!("{path}: {error}"))?;
    let values = values_in(path, &bytes)?;
    if values.len() != n_rows * n_vocab * 4 {
        let found = values.len();
        return Err(format!("{path}: {found} bytes of logits: expected {n_rows} rows of {n_vocab} f32").into());
    }
    Ok(values.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

fn report(tokens: &[i32], comparison: &Comparison) {
    println!("position   token      cosine     max abs          KL       top-1");
    for (position, (token, row)) in tokens.iter().zip(&comparison.rows).enumerate() {
        let top =
            if row.top1_a == row.top1_b { row.top1_a.to_string() } else { format!("{}/{}", row.top1_a, row.top1_b) };
        let mark = if row.failed != 0 { "  diverged" } else { "" };
        println!("{position:8} {token:7} {:11.8} {:11.4e} {:11.4e} {top:>11}{mark}", row.cosine, row.max_abs, row.kl);
    }
    let summary = &comparison.summary;
    match (comparison.verdict(), comparison.first_diverged()) {
        (Verdict::Diverged, Some(first)) => {
            println!("diverged: {} of {} positions, first at {first}", summary.n_failed, summary.n_rows)
        }
        (Verdict::Diverged, None) => {
            println!("diverged: mean KL {:.4e} over {} positions", summary.kl_mean, summary.n_rows)
        }
        (Verdict::Match, _) => {
            println!("match: {} positions, least cosine {:.8}", summary.n_rows, summary.cosine_least)
        }
        (Verdict::Nothing, _) => println!("nothing compared"),
    }
}

fn run() -> Result<Verdict, Failure> {
    let arguments = arguments()?;
    let limits = Limits::preset(arguments.limits.as_deref().unwrap_or("bitnet"))?;
    let model = Model::load(&arguments.model)?;
    let tokens: Vec<i32> = match (&arguments.prompt, &arguments.tokens) {
        (Some(prompt), _) => model.tokenize(prompt, model.wants_bos(), true)?,
        (_, ids) => {
            let ids = ids.as_deref().unwrap_or_default();
            let id = |id: &str| id.trim().parse().map_err(|_| format!("--tokens: '{id}': expected a token id"));
            ids.split(',').map(id).collect::<Result<_, _>>()?
        }
    };
    let reference = logits_of(&model, &tokens)?;
    let n_vocab = model.info().n_vocab as usize;
    if let Some(path) = &arguments.save {
        let bytes: Vec<u8> = reference.iter().flat_map(|value| value.to_le_bytes()).collect();
        fs::write(path, bytes).map_err(|error| format!("{path}: {error}"))?;
    }
    let other = match (&arguments.candidate, &arguments.semantics) {
        (Some(path), _) => candidate(path, tokens.len(), n_vocab)?,
        (_, semantics) => {
            let options = LoadOptions { semantics: semantics.as_deref(), ..Default::default() };
            logits_of(&Model::load_with(&arguments.model, options)?, &tokens)?
        }
    };
    let comparison = compare_logits(&reference, &other, n_vocab, &limits)?;
    report(&tokens, &comparison);
    Ok(comparison.verdict())
}

fn main() -> ExitCode {
    match run() {
        Ok(verdict) => ExitCode::from(verdict.exit_code() as u8),
        Err(error) => {
            eprintln!("crossval: {error}");
            ExitCode::from(2)
        }
    }
}
