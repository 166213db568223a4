//! Models shared by threads, contexts that move, and dropping in every order.

mod common;

use bitnet::{Context, Model, Replay, Sink, Trace};
use common::{all_bits, context, model, SMALL};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread;

const TOKENS: [i32; 6] = [9, 1, 77, 400, 2, 31];

fn send<T: Send>() {}
fn send_and_sync<T: Send + Sync>() {}

#[test]
fn what_may_cross_threads() {
    send_and_sync::<Model>();
    send_and_sync::<Trace>();
    send_and_sync::<bitnet::Error>();
    send::<Context>(); // the documentation of the crate has a test that it is not Sync
    send::<Replay>();
    send::<Sink>();
}

#[test]
fn threads_share_a_model_and_get_the_same_bits() {
    let model = model(SMALL);
    let expected = all_bits(&mut context(&model), &TOKENS);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let mut ctx = context(&model);
                    assert_eq!(all_bits(&mut ctx, &TOKENS), expected);
                    assert_eq!(model.tokenize("words", true, false).unwrap().len(), 6);
                }
            });
        }
    });
}

#[test]
fn a_context_moves_between_threads() {
    let model = model(SMALL);
    let expected = all_bits(&mut context(&model), &TOKENS);
    let mut ctx = context(&model);
    let mut found = Vec::new();
    for token in TOKENS {
        let (back, row) = thread::spawn(move || {
            let row = all_bits(&mut ctx, &[token]).remove(0);
            (ctx, row)
        })
        .join()
        .unwrap();
        ctx = back;
        found.push(row);
    }
    assert_eq!(found, expected);
}

#[test]
fn a_model_may_go_before_its_contexts() {
    let first = model(SMALL);
    let expected = all_bits(&mut context(&first), &TOKENS);
    let mut ctx = context(&first);
    let mut replay = Replay::new(&first, None).unwrap();
    let mut fork = ctx.fork().unwrap();
    drop(first);
    assert_eq!(all_bits(&mut ctx, &TOKENS), expected);
    drop(ctx);
    assert_eq!(all_bits(&mut fork, &TOKENS), expected);
    drop(fork);
    assert!(!replay.operations().unwrap().is_empty());
    replay.run(&replay.operations().unwrap()[0].clone(), &[], None).unwrap_err();
}

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Resident bytes of this process.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn nothing_is_left_behind() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let mut after_warming = 0;
    for round in 0..150 {
        let model = model(SMALL);
        let mut ctx = context(&model);
        let owned = Counted(Arc::clone(&dropped));
        ctx.attach(Sink::new(move |_event| {
            let _ = &owned;
        }))
        .unwrap();
        if round % 2 == 0 {
            drop(model);
            ctx.eval(&TOKENS).unwrap();
        } else {
            ctx.eval(&TOKENS).unwrap();
            ctx.detach_sinks().unwrap();
            assert_eq!(dropped.load(Ordering::SeqCst), round + 1); // with the sink, not with the context
        }
        drop(ctx);
        assert_eq!(dropped.load(Ordering::SeqCst), round + 1);
        if round == 50 {
            after_warming = resident_bytes();
        }
    }
    // A leaked context or model would be some 100 times its size, far above what an allocator keeps.
    let grown = resident_bytes().saturating_sub(after_warming);
    assert!(grown < 16 << 20, "{grown} bytes more after 100 rounds");
}
