//! Every operation of a model, recomputed from what a closure recorded: the same bits.

mod common;

use bitnet::{Data, Error, Event, Operation, Replay, Rows, Sink, Stage, Values};
use common::{context, model, SMALL};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

const TOKENS: [i32; 5] = [9, 1, 77, 400, 2];

type Recorded = HashMap<(Stage, Option<u32>), Vec<f32>>;

fn record() -> Recorded {
    let model = model(SMALL);
    let mut ctx = context(&model);
    let recorded: Arc<Mutex<Recorded>> = Arc::default();
    let sink = Arc::clone(&recorded);
    ctx.select("**").unwrap();
    ctx.attach(Sink::new(move |event| {
        if let Event::Tensor(tensor) = event {
            let values =
                (0..tensor.n_rows()).flat_map(|row| tensor.row_f32(row).unwrap().into_owned()).collect::<Vec<_>>();
            sink.lock().unwrap().entry((tensor.stage(), tensor.layer())).or_default().extend(values);
        }
    }))
    .unwrap();
    ctx.eval_all(&TOKENS).unwrap();
    drop(ctx);
    let mut recorded = recorded.lock().unwrap();
    std::mem::take(&mut *recorded)
}

fn inputs<'a>(operation: &Operation, recorded: &'a Recorded) -> Vec<Rows<'a>> {
    if operation.inputs.is_empty() {
        return vec![Rows { stage: Stage::NONE, n_rows: TOKENS.len(), data: Data::I32(&TOKENS) }];
    }
    let of = |input: &bitnet::OperationInput| Rows {
        stage: input.stage,
        n_rows: TOKENS.len(),
        data: Data::F32(&recorded[&(input.stage, input.layer)]),
    };
    operation.inputs.iter().map(of).collect()
}

#[test]
fn recomputed_bits() {
    let recorded = record();
    let model = model(SMALL);
    let mut replay = Replay::new(&model, None).unwrap();
    assert_eq!(replay.semantics(), model.semantics());
    let mut compared = 0;
    for operation in replay.operations().unwrap() {
        let expected = match recorded.get(&(operation.stage, operation.layer)) {
            Some(expected) if operation.row_elements != 0 => expected,
            _ => continue, // companions, and scores, whose rows differ in length
        };
        match replay.run(&operation, &inputs(&operation, &recorded), None).unwrap() {
            Values::F32(found) => assert_eq!(common::bits(&found), common::bits(expected), "{operation:?}"),
            other => panic!("{other:?}"),
        }
        compared += 1;
    }
    assert!(compared > 20, "{compared} operations compared");
}

#[test]
fn other_semantics_and_refusals() {
    let recorded = record();
    let model = model(SMALL);
    let mut silu = Replay::new(&model, Some("activation=silu")).unwrap();
    let operations = silu.operations().unwrap();
    let of = |stage| operations.iter().find(|operation| operation.stage == stage).unwrap();
    let activation = of(Stage::FFN_ACT);
    let found = match silu.run(activation, &inputs(activation, &recorded), None).unwrap() {
        Values::F32(found) => found,
        other => panic!("{other:?}"),
    };
    assert_ne!(common::bits(&found), common::bits(&recorded[&(Stage::FFN_ACT, Some(0))]));
    assert!(matches!(Replay::new(&model, Some("activation=tanh")), Err(Error::Invalid(_))));
    assert!(matches!(silu.run(activation, &[], None), Err(Error::Invalid(_))));
    // Fewer positions than rows: refused, not read beyond.
    let rope = of(Stage::Q_ROPE);
    assert!(matches!(silu.run(rope, &inputs(rope, &recorded), Some(&[0, 1])), Err(Error::Invalid(_))));
    let mut halves = inputs(rope, &recorded);
    halves[0].n_rows = 2 * TOKENS.len() + 1;
    assert!(matches!(silu.run(rope, &halves, None), Err(Error::Invalid(_))));
}
