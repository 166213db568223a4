//! Closures and plugins as sinks, of contexts and of a foreign engine.

mod common;

use bitnet::{Data, Error, Event, EventKind, Sink, Stage, Trace, TraceInput, TraceOptions, TraceTensor};
use common::{all_bits, bits, context, model, SMALL};
use std::sync::{Arc, Mutex};

const TOKENS: [i32; 4] = [9, 1, 77, 400];

type Shared<T> = Arc<Mutex<Vec<T>>>;

fn shared<T>() -> (Shared<T>, Shared<T>) {
    let shared = Arc::new(Mutex::new(Vec::new()));
    (Arc::clone(&shared), shared)
}

#[test]
fn events_come_in_order_with_the_values() {
    let model = model(SMALL);
    let mut ctx = context(&model);
    let (events, sink) = shared();
    let (logits, rows) = shared();
    ctx.set_prompt("a prompt").unwrap();
    ctx.attach(Sink::new(move |event| {
        let text = match event {
            Event::RunBegin(run) => {
                assert_eq!((run.engine(), run.prompt()), ("bitnet-c".into(), Some(&b"a prompt"[..])));
                assert_eq!(run.tokens(), Some(&TOKENS[..]));
                "run".to_string()
            }
            Event::StepBegin(step) => format!("step of {}", step.tokens().unwrap().len()),
            Event::Tensor(tensor) => {
                assert_eq!(tensor.n_rows() as usize, TOKENS.len());
                assert_eq!(tensor.row_bytes(tensor.n_rows()), None);
                assert_eq!(Some(&*tensor.stage_name()), tensor.stage().name());
                let row = tensor.row_f32(0).unwrap();
                assert_eq!(row.len() as u64, tensor.shape().iter().product::<u64>());
                let stats = tensor.stats(0).unwrap();
                assert_eq!(stats.absmax, row.iter().fold(0f32, |most, x| most.max(x.abs())));
                assert_eq!(tensor.sketch(0).unwrap().len(), 64);
                let hash: String = tensor.blake3(0).unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
                assert_eq!(hash, bitnet::blake3(tensor.row_bytes(0).unwrap()).unwrap());
                if tensor.stage() == Stage::LOGITS {
                    let all = (0..tensor.n_rows()).map(|row| bits(&tensor.row_f32(row).unwrap()));
                    rows.lock().unwrap().extend(all);
                }
                format!("{} {:?}", tensor.stage_name(), tensor.layer())
            }
            Event::KvState(kv) => format!("{} positions", kv.raw().kv.n_valid),
            Event::StepEnd(step) => format!("step ended with {}", step.raw().status),
            Event::RunEnd(run) => format!("{} rows", run.raw().n_rows),
            other => panic!("{other:?}"),
        };
        sink.lock().unwrap().push(text);
    }))
    .unwrap();
    ctx.select("*:*:{attn_norm;logits}").unwrap();
    let expected = all_bits(&mut ctx, &TOKENS);
    ctx.end_run().unwrap();
    let n_layer = model.info().n_layer;
    let mut order = vec!["run".to_string(), "step of 4".to_string()];
    order.extend((0..n_layer).map(|layer| format!("attn_norm Some({layer})")));
    let rows = TOKENS.len() as i32 * (n_layer + 1);
    order.extend(["logits None", "4 positions", "step ended with 0"].map(String::from));
    order.push(format!("{rows} rows"));
    assert_eq!(*events.lock().unwrap(), order);
    assert_eq!(*logits.lock().unwrap(), expected);
    let stats = ctx.trace_stats().unwrap();
    assert_eq!((stats.n_sinks, stats.n_failures, stats.n_events), (1, 0, order.len() as u64));
    assert!(matches!(ctx.select("*:*:no_such_stage"), Err(Error::Invalid(text)) if text.contains("attn_norm")));
}

#[test]
fn a_sink_that_fails_is_detached_and_changes_nothing() {
    let model = model(SMALL);
    let expected = all_bits(&mut context(&model), &TOKENS);
    let mut ctx = context(&model);
    let owned = Arc::new(());
    let held = Arc::clone(&owned);
    let failing = move |event: &Event<'_>| match event {
        Event::Tensor(tensor) if tensor.layer() == Some(1) => {
            let _ = &held;
            Err("the disk is full")
        }
        _ => Ok(()),
    };
    ctx.attach(Sink::new(failing).named("writer").only(&[EventKind::Tensor])).unwrap();
    assert_eq!(all_bits(&mut ctx, &TOKENS), expected);
    let stats = ctx.trace_stats().unwrap();
    assert_eq!((stats.n_sinks, stats.n_failures), (0, 1));
    assert!(stats.last_failure.contains("the disk is full"), "{}", stats.last_failure);
    assert_eq!(Arc::strong_count(&owned), 1, "the closure of a detached sink is dropped");
}

#[test]
fn a_sink_replaces_values_and_stops() {
    let model = model(SMALL);
    let expected = all_bits(&mut context(&model), &TOKENS);
    let zero = |event: &Event<'_>| match event {
        Event::Tensor(tensor) if tensor.stage() == Stage::FINAL_NORM => {
            let before = tensor.row_f32(0).unwrap();
            tensor.replace(0, &vec![0.0; before.len()])?;
            assert!(before.iter().any(|x| *x != 0.0)); // what was there, until the closure returns
            tensor.replace(9, &[]).unwrap_err();
            Ok::<(), String>(())
        }
        _ => Ok(()),
    };
    let mut ctx = context(&model);
    ctx.attach(Sink::new(zero).overriding()).unwrap();
    let found = all_bits(&mut ctx, &TOKENS);
    assert!(found[0].iter().all(|bits| f32::from_bits(*bits) == 0.0));
    assert_eq!(found[1..], expected[1..]);
    // Without asking for it, it is an error of the sink.
    ctx.detach_sinks().unwrap();
    ctx.reset().unwrap();
    ctx.attach(Sink::new(zero)).unwrap();
    assert_eq!(all_bits(&mut ctx, &TOKENS), expected);
    assert!(ctx.trace_stats().unwrap().last_failure.contains("overriding"));

    ctx.reset().unwrap();
    ctx.attach(Sink::new(|event| {
        if let Event::Tensor(tensor) = event {
            tensor.stop("seen enough");
        }
    }))
    .unwrap();
    assert!(matches!(ctx.eval(&TOKENS), Err(Error::User(text)) if text.contains("seen enough")));
    assert_eq!(ctx.position(), 0);
}

#[test]
fn plugins_by_name() {
    let model = model(SMALL);
    let mut ctx = context(&model);
    assert!(
        matches!(ctx.load_plugin("no_such_plugin", ""), Err(Error::Plugin(text)) if text.contains("no_such_plugin"))
    );
    let path = std::env::temp_dir().join(format!("bitnet-rust-{}.jsonl", std::process::id()));
    ctx.load_plugin("jsonl", &format!("path={}", path.display())).unwrap();
    ctx.eval(&TOKENS).unwrap();
    ctx.end_run().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(text.lines().next().unwrap().contains("\"record\":\"run\""), "{text:.200}");
    assert!(text.lines().last().unwrap().contains("\"record\":\"run_end\""));
}

#[test]
fn a_foreign_engine_from_many_threads() {
    let options = TraceOptions { engine: "threads", hyperparameters: "n_layer=4", ..Default::default() };
    let trace = Trace::open(&options).unwrap();
    assert!(!trace.enabled());
    trace.emit(&TraceTensor::named("whatever", -1, &[], &[1f32][..])).unwrap(); // nothing is looked at when nobody looks
    let (seen, sink) = shared();
    let record = move |event: &Event<'_>| {
        if let Event::Tensor(tensor) = event {
            let values: Vec<f32> =
                (0..tensor.n_rows()).flat_map(|row| tensor.row_f32(row).unwrap().into_owned()).collect();
            sink.lock().unwrap().push((tensor.layer(), tensor.position(), values));
        }
    };
    trace.attach(Sink::new(record)).unwrap();
    assert!(trace.enabled());
    trace.step(0, &[1, 2]).unwrap();
    std::thread::scope(|scope| {
        for layer in 0..4 {
            let trace = &trace;
            scope.spawn(move || {
                for turn in 0..25 {
                    let values = [layer as f32, turn as f32, -1.0, 0.5];
                    trace.emit(&TraceTensor::new(Stage::ATTN_NORM, Some(layer), 0, &[2], &values[..])).unwrap();
                }
            });
        }
    });
    trace.end().unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 100);
    for layer in 0..4 {
        let mine = seen.iter().filter(|(at, ..)| *at == Some(layer));
        let turns: Vec<f32> = mine.map(|(_, _, values)| values[1]).collect();
        assert_eq!(turns, (0..25).map(|turn| turn as f32).collect::<Vec<_>>()); // in the order of the thread's calls
    }
}

#[test]
fn what_a_foreign_engine_gets_wrong() {
    assert!(matches!(Trace::open(&TraceOptions::default()), Err(Error::Invalid(_))));
    let plugins = TraceOptions { engine: "e", plugins: Some("no_such_plugin"), ..Default::default() };
    assert!(matches!(Trace::open(&plugins), Err(Error::Plugin(_))));
    let trace = Trace::open(&TraceOptions { engine: "e", hyperparameters: "n_layer=2", ..Default::default() }).unwrap();
    trace.attach(Sink::new(|_| ())).unwrap();
    let values = [1f32; 6];
    let ok = TraceTensor::new(Stage::Q_PROJ, Some(0), 0, &[3], &values[..]);
    trace.emit(&ok).unwrap();
    for wrong in [
        TraceTensor { shape: &[4], ..ok },           // half a row
        TraceTensor { shape: &[u64::MAX, 2], ..ok }, // more than there can be
        TraceTensor { shape: &[], ..ok },
        TraceTensor { data: Data::F32(&[]), ..ok },
        TraceTensor { layer: Some(2), ..ok },
        TraceTensor { stage: Stage(999), ..ok },
        TraceTensor::named("no_such_stage", 0, &[6], &values[..]),
        TraceTensor {
            inputs: &[TraceInput { name: "x", stage: Stage::NONE, shape: &[2], data: Data::I8(&[1; 6]) }],
            ..ok
        },
    ] {
        assert!(matches!(trace.emit(&wrong), Err(Error::Invalid(_))), "{wrong:?}");
    }
    let input = [TraceInput { name: "attn_norm", stage: Stage::ATTN_NORM, shape: &[2], data: Data::F32(&values[..4]) }];
    trace.emit(&TraceTensor { inputs: &input, kernel: "mine", ns: 5, ..ok }).unwrap();
    trace.emit(&TraceTensor { data: Data::Bf16(&[0; 6]), ..ok }).unwrap();
    trace.emit(&TraceTensor::named("t0/blk1/v_proj", 0, &[6], &values[..])).unwrap();
    assert!(trace.wants(Stage::Q_PROJ, Some(1), 0) && !trace.wants(Stage::ATTN_SCORES, Some(1), 0));
    trace.select("*:0:*").unwrap();
    assert!(!trace.wants(Stage::Q_PROJ, Some(1), 0));
    let at_the_end = |event: &Event<'_>| if let Event::RunEnd(_) = event { Err("no") } else { Ok(()) };
    trace.attach(Sink::new(at_the_end)).unwrap();
    trace.emit(&ok).unwrap();
    assert!(matches!(trace.end(), Err(Error::Plugin(_))));
    assert_eq!(trace.stats().unwrap().n_failures, 1);
    let none = Trace::none();
    none.step(0, &[]).unwrap();
    none.attach(Sink::new::<_, ()>(|_| panic!("nobody calls"))).unwrap();
    none.emit(&ok).unwrap();
    assert!(!none.enabled() && none.stats().unwrap().n_sinks == 0);
}

#[test]
fn a_sink_may_not_use_the_trace_that_calls_it() {
    let trace = Arc::new(Trace::open(&TraceOptions { engine: "e", ..Default::default() }).unwrap());
    let inner = Arc::downgrade(&trace);
    let (errors, sink) = shared();
    trace
        .attach(Sink::new(move |_| {
            if let Some(trace) = inner.upgrade() {
                sink.lock().unwrap().push(trace.end().unwrap_err());
            }
        }))
        .unwrap();
    trace.emit(&TraceTensor::new(Stage::FINAL_NORM, None, 0, &[1], &[1f32][..])).unwrap();
    assert!(matches!(errors.lock().unwrap()[0], Error::Busy(_)));
}
