//! The models of the source tree that the tests use.
#![allow(dead_code)] // each test program uses a part

use bitnet::{Context, ContextOptions, Keep, Model};

/// A model of a few layers with random weights.
pub const SMALL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../tests/data/small.gguf");
/// A trained model that can add.
pub const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../scripts/demo_model/demo.gguf");

pub fn model(path: &str) -> Model {
    Model::load(path).unwrap_or_else(|error| panic!("{error}"))
}

/// A context with one thread: the tests are small.
pub fn context(model: &Model) -> Context {
    Context::with_options(model, &ContextOptions { n_threads: 1, ..Default::default() }).unwrap()
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// The bits of every position's logits.
pub fn all_bits(context: &mut Context, tokens: &[i32]) -> Vec<Vec<u32>> {
    let how = bitnet::Eval { keep: Keep::All, cancel: None };
    context.eval_with(tokens, how).unwrap();
    context.logits_rows().map(bits).collect()
}
