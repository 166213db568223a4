//! Panics in closures: they never cross the library, and go on in the caller once it has returned.

mod common;

use bitnet::{
    Context, Eval, Event, GenerateOptions, Keep, LoadOptions, Model, Sink, Stage, Trace, TraceOptions, TraceTensor,
};
use common::{all_bits, context, model, DEMO, SMALL};
use std::panic::{catch_unwind, AssertUnwindSafe};

const TOKENS: [i32; 3] = [9, 1, 77];

/// The text of the panic that `body` ends with.
fn panic_of<R>(body: impl FnOnce() -> R) -> String {
    let payload = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(_) => panic!("expected a panic"),
        Err(payload) => payload,
    };
    payload
        .downcast_ref::<&str>()
        .map(|text| text.to_string())
        .unwrap_or_else(|| *payload.downcast::<String>().unwrap())
}

#[test]
fn of_callbacks() {
    let mut progress = |_, _| panic!("in progress");
    let options = LoadOptions { progress: Some(&mut progress), ..Default::default() };
    assert_eq!(panic_of(|| Model::load_with(SMALL, options)), "in progress");

    let model = model(SMALL);
    let mut ctx = context(&model);
    let mut cancel = || panic!("in cancel");
    let how = Eval { keep: Keep::Last, cancel: Some(&mut cancel) };
    assert_eq!(panic_of(|| ctx.eval_with(&TOKENS, how)), "in cancel");
    assert_eq!(ctx.position(), 0);
    let expected = all_bits(&mut context(&model), &TOKENS);
    assert_eq!(all_bits(&mut ctx, &TOKENS), expected); // as if nothing had been

    let demo = common::model(DEMO);
    let mut ctx = context(&demo);
    ctx.eval(&TOKENS).unwrap();
    let text = panic_of(|| ctx.generate_with(&GenerateOptions::default(), |token, _| panic!("at token {token}")));
    assert!(text.starts_with("at token "), "{text}");
}

fn panicking(ctx: &mut Context) {
    ctx.attach(Sink::new(|event| {
        if let Event::Tensor(tensor) = event {
            panic!("in {}", tensor.stage_name());
        }
    }))
    .unwrap();
}

#[test]
fn of_sinks() {
    let model = model(SMALL);
    let expected = all_bits(&mut context(&model), &TOKENS);
    let mut ctx = context(&model);
    panicking(&mut ctx);
    assert_eq!(panic_of(|| ctx.eval_all(&TOKENS)), "in embeddings");
    // The evaluation itself went on to its end; the sink is gone.
    assert_eq!(ctx.position(), TOKENS.len() as i32);
    let rows: Vec<_> = ctx.logits_rows().map(common::bits).collect();
    assert_eq!(rows, expected);
    let stats = ctx.trace_stats().unwrap();
    assert_eq!((stats.n_sinks, stats.n_failures), (0, 1));
    assert!(stats.last_failure.contains("the closure panicked"), "{}", stats.last_failure);
    ctx.eval(&TOKENS).unwrap();

    // Of several, the first goes on. Sinks beside them are untouched, also when they use the crate themselves, and one that fails
    // in order has its own reason.
    panicking(&mut ctx);
    panicking(&mut ctx);
    let mut other = context(&model);
    ctx.attach(Sink::new(move |event| {
        if let Event::StepEnd(_) = event {
            drop(other.fork().unwrap());
            other.eval(&TOKENS).unwrap();
        }
    }))
    .unwrap();
    ctx.attach(Sink::new(|event| if let Event::Tensor(_) = event { Err("of its own") } else { Ok(()) })).unwrap();
    assert_eq!(panic_of(|| ctx.eval(&TOKENS)), "in embeddings");
    let stats = ctx.trace_stats().unwrap();
    assert_eq!((stats.n_sinks, stats.n_failures), (1, 4));
    assert!(stats.last_failure.ends_with("of its own"), "{}", stats.last_failure);
}

#[test]
fn of_a_foreign_engines_sinks() {
    let trace = Trace::open(&TraceOptions { engine: "e", ..Default::default() }).unwrap();
    trace.attach(Sink::new::<_, ()>(|_| panic!("in the sink"))).unwrap();
    let tensor = TraceTensor::new(Stage::FINAL_NORM, None, 0, &[1], &[1f32][..]);
    assert_eq!(panic_of(|| trace.emit(&tensor)), "in the sink");
    trace.emit(&tensor).unwrap();
}

struct PanicsInDrop;

impl Drop for PanicsInDrop {
    fn drop(&mut self) {
        panic!("in drop");
    }
}

#[test]
fn at_the_end_of_a_context() {
    let model = model(SMALL);
    let mut ctx = context(&model);
    ctx.attach(Sink::new(|event| {
        if let Event::RunEnd(_) = event {
            panic!("at the end");
        }
    }))
    .unwrap();
    let owned = PanicsInDrop;
    ctx.attach(Sink::new(move |_| {
        let _ = &owned;
    }))
    .unwrap();
    ctx.eval(&TOKENS).unwrap();
    drop(ctx); // both panics end here
    let mut next = context(&model);
    next.eval(&TOKENS).unwrap(); // and do not come back
    panicking(&mut next);
    assert_eq!(panic_of(|| next.eval(&TOKENS)), "in embeddings");
}

#[test]
fn of_the_log() {
    bitnet::set_log(Some(Box::new(|_, text| {
        if text.contains("told to fail") {
            panic!("in the log");
        }
    })))
    .unwrap();
    let model = model(SMALL);
    let mut ctx = context(&model);
    ctx.attach(Sink::new(|_| Err("told to fail"))).unwrap();
    assert_eq!(panic_of(|| ctx.eval(&TOKENS)), "in the log");
    assert_eq!(ctx.position(), TOKENS.len() as i32);
    bitnet::set_log(None).unwrap();
}
