//! A closure as a trace sink: the largest activation of each stage, over all layers and positions of a prompt.
//!
//! ```text
//! trace MODEL PROMPT [SELECTION]
//! ```

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use bitnet::{Context, Event, Model, Sink, Stage};

/// Where the largest value of a stage was found.
struct Largest {
    value: f32,
    layer: Option<u32>,
    position: i32,
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (path, prompt, selection) = match arguments.as_slice() {
        [path, prompt] => (path, prompt, ""),
        [path, prompt, selection] => (path, prompt, selection.as_str()),
        _ => return Err("usage: trace MODEL PROMPT [SELECTION]".into()),
    };
    let model = Model::load(path)?;
    let mut context = Context::new(&model)?;
    let found: Arc<Mutex<BTreeMap<Stage, Largest>>> = Arc::default();
    let largest = Arc::clone(&found);
    context.select(selection)?;
    context.attach(Sink::new(move |event| -> Result<(), String> {
        let tensor = match event {
            Event::Tensor(tensor) => tensor,
            _ => return Ok(()),
        };
        let mut largest = largest.lock().map_err(|error| error.to_string())?;
        for row in 0..tensor.n_rows() {
            // Computed once by the host, and shared with every other sink.
            let value = tensor.stats(row).ok_or("no statistics")?.absmax;
            let position = tensor.position() + row as i32;
            let here = Largest { value, layer: tensor.layer(), position };
            match largest.get(&tensor.stage()) {
                Some(known) if known.value >= value => {}
                _ => drop(largest.insert(tensor.stage(), here)),
            }
        }
        Ok(())
    }))?;
    context.eval(&model.tokenize(prompt, model.wants_bos(), false)?)?;
    let stats = context.trace_stats()?;
    if stats.n_failures > 0 {
        return Err(stats.last_failure.into());
    }
    println!("{:<20} {:>12} {:>6} {:>9}", "stage", "largest", "layer", "position");
    for (stage, Largest { value, layer, position }) in found.lock().map_err(|error| error.to_string())?.iter() {
        let layer = layer.map_or("-".to_string(), |layer| layer.to_string());
        println!("{:<20} {value:12.5} {layer:>6} {position:9}", stage.name().unwrap_or("?"));
    }
    println!("{} events, {} bytes, {:.3} ms in the closure", stats.n_events, stats.n_bytes, stats.seconds * 1e3);
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("trace: {error}");
            ExitCode::from(2)
        }
    }
}
