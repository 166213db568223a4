//! An engine that is not the library's, and emits what it computes into the same traces: the embedding of each token and the first
//! RMSNorm, with plain loops over the file's bytes, a thread for each position. Its trace can be compared with the reference's:
//!
//! ```text
//! BITNET_TRACE_PLUGIN=jsonl:path=engine.jsonl  engine MODEL 11,48,85 [INDEX]
//! bitnet trace -m MODEL --tokens 11,48,85 --select "embeddings,0:attn_norm" -o reference.jsonl
//! bitnet diff reference.jsonl engine.jsonl
//! ```
//!
//! With INDEX the value there is wrong in the last token's attn_norm, which `bitnet diff` names.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::ExitCode;
use std::{io, thread};

use bitnet::{Model, Stage, Trace, TraceOptions, TraceTensor};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What the engine reads of a model file, and where it reports. Shared by its threads.
struct Engine {
    file: File,
    embeddings_offset: u64,
    norm: Vec<f32>,
    eps: f32,
    trace: Trace,
}

fn half(bits: u16) -> f32 {
    let (sign, exponent, fraction) = (bits >> 15, i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    let size = match exponent {
        0 => fraction * 2f32.powi(-24),
        31 => f32::INFINITY, // no such weights
        _ => (fraction + 1024.0) * 2f32.powi(exponent - 25),
    };
    if sign == 1 {
        -size
    } else {
        size
    }
}

fn read(file: &File, offset: u64, n_bytes: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; n_bytes];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

impl Engine {
    fn open(path: &str, tokens: &[i32]) -> Result<Engine, Failure> {
        let model = Model::load(path)?;
        let info = model.info();
        let tensors = model.tensors()?;
        let offset = |name: &str, kind: &str| {
            let found = tensors.iter().find(|tensor| tensor.name == name && tensor.type_name == kind);
            found.map(|tensor| tensor.file_offset).ok_or_else(|| format!("{path}: no {name} of type {kind}"))
        };
        let file = File::open(path)?;
        let norm = read(&file, offset("blk.0.attn_norm.weight", "F32")?, info.n_embd as usize * 4)?;
        let hyperparameters = format!("n_layer={},n_embd={},n_vocab={}", info.n_layer, info.n_embd, info.n_vocab);
        let trace = Trace::open(&TraceOptions {
            engine: "example-engine",
            engine_version: env!("CARGO_PKG_VERSION"),
            model_path: path,
            model_hash: &model.hash()?,
            hyperparameters: &hyperparameters,
            tokens,
            ..TraceOptions::default()
        })?;
        Ok(Engine {
            embeddings_offset: offset("token_embd.weight", "F16")?,
            norm: norm.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            eps: info.rms_eps,
            file,
            trace,
        })
    }

    fn embed(&self, token: i32) -> Result<Vec<f32>, Failure> {
        let n_bytes = self.norm.len() * 2;
        let row = u64::try_from(token).map_err(|_| format!("token {token}: expected 0 or more"))?;
        let bytes = read(&self.file, self.embeddings_offset + row * n_bytes as u64, n_bytes)?;
        Ok(bytes.chunks_exact(2).map(|b| half(u16::from_le_bytes([b[0], b[1]]))).collect())
    }

    /// The sum in the order that the reference defines (core/DESIGN.md), so that the bits are the same.
    fn attn_norm(&self, x: &[f32]) -> Vec<f32> {
        let mut lanes = [0f64; 16];
        for (i, value) in x.iter().enumerate() {
            lanes[i % 16] += f64::from(*value) * f64::from(*value);
        }
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                lanes[i] += lanes[i + half];
            }
        }
        let scale = (1.0 / (lanes[0] / x.len() as f64 + f64::from(self.eps)).sqrt()) as f32;
        x.iter().zip(&self.norm).map(|(value, weight)| value * scale * weight).collect()
    }

    fn position(&self, position: i32, token: i32, wrong: Option<usize>) -> Result<(), Failure> {
        let shape = [self.norm.len() as u64];
        let x = self.embed(token)?;
        self.trace.emit(&TraceTensor::new(Stage::EMBEDDINGS, None, position, &shape, &x[..]))?;
        if self.trace.wants(Stage::ATTN_NORM, Some(0), position) {
            let mut normed = self.attn_norm(&x);
            if let Some(value) = wrong.and_then(|index| normed.get_mut(index)) {
                *value += 0.5;
            }
            self.trace.emit(&TraceTensor::new(Stage::ATTN_NORM, Some(0), position, &shape, &normed[..]))?;
        }
        Ok(())
    }
}

fn run() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (path, ids, wrong) = match arguments.as_slice() {
        [path, ids] => (path, ids, None),
        [path, ids, index] => (path, ids, Some(index.parse().map_err(|_| format!("'{index}': expected an index"))?)),
        _ => return Err("usage: engine MODEL TOKEN,TOKEN,... [INDEX]".into()),
    };
    let id = |id: &str| id.parse().map_err(|_| format!("'{id}': expected a token id"));
    let tokens: Vec<i32> = ids.split(',').map(id).collect::<Result<_, _>>()?;
    let engine = Engine::open(path, &tokens)?;
    engine.trace.step(0, &tokens)?;
    let last = tokens.len() - 1;
    thread::scope(|scope| {
        let engine = &engine;
        let start = |(position, token): (usize, &i32)| {
            let (token, wrong) = (*token, wrong.filter(|_| position == last));
            scope.spawn(move || engine.position(position as i32, token, wrong))
        };
        let threads: Vec<_> = tokens.iter().enumerate().map(start).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no thread panics"))
    })?;
    engine.trace.end()?;
    let stats = engine.trace.stats()?;
    println!("{} events, {} bytes", stats.n_events, stats.n_bytes);
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("engine: {error}");
            ExitCode::from(2)
        }
    }
}
