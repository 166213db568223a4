//! Loading, tokens, evaluation, logits, state, generation: what they give, and what they refuse.

mod common;

use bitnet::{
    Context, ContextOptions, Error, Eval, GenerateOptions, Head, Keep, KvType, LoadOptions, Model, Special, Weights,
};
use common::{all_bits, bits, context, model, DEMO, SMALL};
use std::ops::ControlFlow;

const TOKENS: [i32; 7] = [5, 3, 200, 41, 7, 7, 300];

#[test]
fn a_model_says_what_it_is() {
    let model = model(SMALL);
    let info = model.info();
    assert!(info.n_vocab > 300 && info.n_layer >= 1 && info.n_embd % info.n_head == 0, "{info:?}");
    assert_eq!(model.path(), SMALL);
    assert_eq!(model.hash().unwrap(), bitnet::blake3(&std::fs::read(SMALL).unwrap()).unwrap());
    assert!(model.semantics().contains("activation=relu2"), "{}", model.semantics());
    assert!(bitnet::instruction_sets().iter().any(|isa| isa.usable && isa.name == model.isa()));
    let keys = model.keys();
    let architecture = keys.iter().find(|key| key.name == "general.architecture").unwrap();
    assert_eq!((architecture.kind.as_str(), architecture.length), ("str", 1));
    assert_eq!(model.key_text("general.architecture", 0).unwrap().unwrap(), model.architecture());
    assert_eq!(model.key_text("no.such.key", 0).unwrap(), None);
    let tensors = model.tensors().unwrap();
    let embeddings = tensors.iter().find(|tensor| tensor.name == "token_embd.weight").unwrap();
    assert_eq!(embeddings.dims, [info.n_embd as u64, info.n_vocab as u64]);
}

#[test]
fn failures_are_the_librarys() {
    let status_and_text = |error: Error| (error.status().unwrap(), error.to_string());
    match Model::load("/nonexistent/model.gguf").unwrap_err() {
        Error::Io(text) => assert!(text.contains("/nonexistent/model.gguf"), "{text}"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(Model::from_bytes(b"GGUF", "damaged", LoadOptions::default()), Err(Error::Format(_))));
    let wrong = LoadOptions { semantics: Some("activation=tanh"), ..Default::default() };
    let (status, text) = status_and_text(Model::load_with(SMALL, wrong).unwrap_err());
    assert_eq!(status, bitnet::sys::BITNET_E_INVALID);
    assert!(text.contains("tanh"), "{text}");
    let wrong = LoadOptions { isa: Some("mmx"), ..Default::default() };
    assert!(matches!(Model::load_with(SMALL, wrong), Err(Error::Isa(_))));
    match Model::load("a\0b").unwrap_err() {
        Error::Invalid(text) => assert_eq!(text, "path has a NUL byte at 1: expected none"),
        other => panic!("{other:?}"),
    }

    let model = model(SMALL);
    let mut ctx = context(&model);
    assert!(matches!(ctx.eval(&[]), Err(Error::Invalid(_))));
    assert!(matches!(ctx.eval(&[-1]), Err(Error::Invalid(_))));
    assert!(matches!(ctx.last_logits(), Err(Error::Invalid(_))));
    assert!(matches!(ctx.eval(&vec![1; ctx.capacity() as usize + 1]), Err(Error::Overflow(_))));
    assert!(matches!(ctx.truncate(1), Err(Error::Invalid(_))));
    assert_eq!(ctx.position(), 0);
    ctx.eval(&TOKENS).unwrap();
    assert!(matches!(ctx.logits(1), Err(Error::Invalid(_))));
    assert!(matches!(ctx.logits(usize::MAX), Err(Error::Invalid(_))));
    assert!(matches!(ctx.top_logits(0, 0), Err(Error::Invalid(_))));
    assert!(matches!(ctx.top_logits(0, usize::MAX), Err(Error::Invalid(_))));
    assert!(matches!(ctx.log_probabilities(&[1, 2]), Err(Error::Invalid(_))));
    assert!(matches!(ctx.eval_embeddings(&[0.0; 3], Eval::default()), Err(Error::Invalid(_))));
    assert!(matches!(ctx.restore(b"no state"), Err(Error::Format(_))));
    let options = ContextOptions { n_threads: -1, ..Default::default() };
    assert!(matches!(Context::with_options(&model, &options), Err(Error::Invalid(_))));
}

#[test]
fn tokens_and_back() {
    let model = model(DEMO);
    for text in ["2+2=", "", "caf\u{e9} \u{2603} \u{1f600}", "tabs\tand\nlines"] {
        let tokens = model.tokenize(text, false, false).unwrap();
        assert_eq!(model.detokenize(&tokens, false).unwrap(), text.as_bytes());
    }
    let bytes = [b'a', 0, 0xff, 0xfe, b'b']; // no valid UTF-8, a NUL inside
    let tokens = model.tokenize(bytes, false, false).unwrap();
    assert_eq!(model.detokenize(&tokens, false).unwrap(), bytes);
    let bos = model.special_token(Special::Bos).unwrap();
    assert_eq!(model.tokenize("2", true, false).unwrap()[0], bos);
    assert_eq!(model.token_type(bos), Some(bitnet::TokenType::Control));
    let spelled = model.token_text(bos).unwrap().to_vec();
    assert_eq!(model.tokenize(&spelled, false, true).unwrap(), [bos]);
    assert_eq!(model.detokenize(&[bos], true).unwrap(), spelled);
    assert!(model.detokenize(&[bos], false).unwrap().is_empty());
    assert_eq!((model.token_text(-1), model.token_type(model.info().n_vocab)), (None, None));
    let ends = model.end_tokens().unwrap();
    assert!(!ends.is_empty() && ends.windows(2).all(|pair| pair[0] < pair[1]), "{ends:?}");
    assert!(matches!(model.detokenize(&[-5], false), Err(Error::Invalid(_))));
}

#[test]
fn the_same_bits_however_they_are_computed() {
    let model = model(SMALL);
    let rows = all_bits(&mut context(&model), &TOKENS);
    assert_eq!(rows.len(), TOKENS.len());
    let mut one_by_one = context(&model);
    for (token, row) in TOKENS.iter().zip(&rows) {
        one_by_one.eval(&[*token]).unwrap();
        assert_eq!(&bits(one_by_one.last_logits().unwrap()), row);
    }
    for options in [
        ContextOptions { n_threads: 3, ..Default::default() },
        ContextOptions { n_batch: 2, n_ctx: 16, ..Default::default() },
    ] {
        let mut other = Context::with_options(&model, &options).unwrap();
        assert_eq!(all_bits(&mut other, &TOKENS), rows, "{options:?}");
    }
    for isa in bitnet::instruction_sets().into_iter().filter(|isa| isa.usable) {
        let model = Model::load_with(SMALL, LoadOptions { isa: Some(&isa.name), ..Default::default() }).unwrap();
        assert_eq!(all_bits(&mut context(&model), &TOKENS), rows, "{}", isa.name);
    }
    let file = std::fs::read(SMALL).unwrap();
    let copied = Model::from_bytes(&file, "copied", LoadOptions::default()).unwrap();
    drop(file);
    assert_eq!(all_bits(&mut context(&copied), &TOKENS), rows);
    assert_eq!(copied.path(), "copied");
    let silu = LoadOptions { semantics: Some("activation=silu"), ..Default::default() };
    let silu = Model::load_with(SMALL, silu).unwrap();
    assert_ne!(all_bits(&mut context(&silu), &TOKENS), rows);
}

#[test]
fn probabilities_and_the_largest_logits() {
    let model = model(SMALL);
    let mut ctx = context(&model);
    ctx.eval_all(&TOKENS).unwrap();
    let probabilities = ctx.log_probabilities(&TOKENS[1..]).unwrap();
    let flat: Vec<f32> = ctx.logits_rows().take(TOKENS.len() - 1).flatten().copied().collect();
    let n_vocab = model.info().n_vocab as usize;
    assert_eq!(bitnet::log_probabilities(&flat, n_vocab, &TOKENS[1..]).unwrap(), probabilities);
    assert!(matches!(bitnet::log_probabilities(&flat, n_vocab, &TOKENS), Err(Error::Invalid(_))));
    for (row, (token, found)) in TOKENS[1..].iter().zip(&probabilities).enumerate() {
        let logits = ctx.logits(row).unwrap();
        let sum: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
        let expected = f64::from(logits[*token as usize]) - sum.ln();
        assert!((found - expected).abs() < 1e-12 * expected.abs().max(1.0), "row {row}: {found}, expected {expected}");
    }
    let logits = ctx.logits(2).unwrap();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
    let top = ctx.top_logits(2, 9).unwrap();
    assert_eq!(top.iter().map(|top| top.token as usize).collect::<Vec<_>>(), order[..9]);
    assert!(top.iter().all(|top| top.logit.to_bits() == logits[top.token as usize].to_bits()));
    assert_eq!(ctx.hidden(2).unwrap().len(), model.info().n_embd as usize);
    ctx.eval_with(&[1], Eval { keep: Keep::None, cancel: None }).unwrap();
    assert_eq!((ctx.logits_count(), ctx.position()), (0, TOKENS.len() as i32 + 1));
}

#[test]
fn state_is_saved_restored_forked_and_moved_back() {
    let model = model(SMALL);
    let rows = all_bits(&mut context(&model), &TOKENS);
    let mut ctx = context(&model);
    ctx.eval(&TOKENS[..4]).unwrap();
    let state = ctx.save().unwrap();
    let mut fork = ctx.fork().unwrap();
    assert_eq!((fork.position(), fork.logits_count()), (4, 0));
    assert_eq!(all_bits(&mut fork, &TOKENS[4..]), rows[4..]);
    assert_eq!(bits(ctx.last_logits().unwrap()), rows[3]); // untouched by its fork
    let mut restored = context(&model);
    restored.restore(&state).unwrap();
    assert_eq!(all_bits(&mut restored, &TOKENS[4..]), rows[4..]);
    restored.truncate(4).unwrap();
    assert_eq!(all_bits(&mut restored, &TOKENS[4..]), rows[4..]);
    restored.reset().unwrap();
    assert_eq!(all_bits(&mut restored, &TOKENS), rows);
    let mut damaged = state.clone();
    *damaged.last_mut().unwrap() ^= 1;
    assert!(matches!(restored.restore(&damaged), Err(Error::Format(_))));
    assert_eq!(restored.position(), TOKENS.len() as i32);
    let f16 = ContextOptions { kv: KvType::F16, ..Default::default() };
    assert!(matches!(Context::with_options(&model, &f16).unwrap().restore(&state), Err(Error::Invalid(_))));
}

#[test]
fn generation_is_what_its_steps_are() {
    let model = model(DEMO);
    let prompt = model.tokenize("12+30=", model.wants_bos(), false).unwrap();
    let mut steps = context(&model);
    let ends = model.end_tokens().unwrap();
    let mut expected = Vec::new();
    let mut tokens = prompt.clone();
    while expected.len() < 12 {
        steps.eval(&tokens).unwrap();
        let token = steps.top_logits(0, 1).unwrap()[0].token;
        expected.push(token);
        if ends.contains(&token) {
            break;
        }
        tokens = vec![token];
    }
    let options = GenerateOptions { max_tokens: 12, ..Default::default() };
    let mut ctx = context(&model);
    ctx.eval(&prompt).unwrap();
    assert_eq!(ctx.generate(&options).unwrap(), expected);
    let certified = ContextOptions { head: Head::Certified, ..Default::default() };
    let mut certified = Context::with_options(&model, &certified).unwrap();
    certified.eval(&prompt).unwrap();
    assert_eq!(certified.generate(&options).unwrap(), expected);
    certified.head_stats().unwrap();
    let dense = ContextOptions { weights: Weights::Dense, ..Default::default() };
    let mut dense = Context::with_options(&model, &dense).unwrap();
    dense.eval(&prompt).unwrap();
    assert_eq!(dense.generate(&options).unwrap(), expected);
    let stats = dense.weight_stats().unwrap();
    assert_eq!(stats.dense == 1, stats.n_bytes > 0);
    assert_eq!(String::from_utf8(model.detokenize(&expected, false).unwrap()).unwrap().trim_end(), "42");

    ctx.reset().unwrap();
    ctx.eval(&prompt).unwrap();
    let mut rows = 0;
    let stopped = ctx
        .generate_with(&options, |token, logits| {
            assert_eq!(token, expected[rows]);
            assert_eq!(logits.unwrap().len(), model.info().n_vocab as usize);
            rows += 1;
            if rows == 2 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
        .unwrap();
    assert!(stopped.cancelled);
    assert_eq!(stopped.tokens, expected[..2]);

    let stop = GenerateOptions { stop_strings: vec!["4".into()], ..options.clone() };
    ctx.reset().unwrap();
    ctx.eval(&prompt).unwrap();
    assert_eq!(ctx.generate(&stop).unwrap(), expected[..1]);
    let seeded = GenerateOptions { temperature: 2.0, seed: 7, ignore_end: true, ..options };
    let draws: Vec<Vec<i32>> = (0..2)
        .map(|_| {
            ctx.reset().unwrap();
            ctx.eval(&prompt).unwrap();
            ctx.generate(&seeded).unwrap()
        })
        .collect();
    assert_eq!((draws[0].len(), &draws[0]), (12, &draws[1]));
    let wrong = GenerateOptions { temperature: f32::NAN, ..Default::default() };
    assert!(matches!(ctx.generate(&wrong), Err(Error::Invalid(_))));
    // Until the context is full: the buffer holds what fits.
    let small = ContextOptions { n_ctx: prompt.len() as i32 + 3, n_threads: 1, ..Default::default() };
    let mut small = Context::with_options(&model, &small).unwrap();
    small.eval(&prompt).unwrap();
    assert_eq!(small.generate(&GenerateOptions { ignore_end: true, ..Default::default() }).unwrap().len(), 4);
}

#[test]
fn closures_cancel() {
    let mut calls = 0;
    let mut progress = |_done: u64, _total: u64| {
        calls += 1;
        ControlFlow::Break(())
    };
    let options = LoadOptions { progress: Some(&mut progress), ..Default::default() };
    assert!(matches!(Model::load_with(SMALL, options), Err(Error::Cancelled(_))));
    assert_eq!(calls, 1);
    let model = model(SMALL);
    let mut ctx = context(&model);
    let mut asked = 0;
    let mut cancel = || {
        asked += 1;
        asked == 2
    };
    let how = Eval { keep: Keep::All, cancel: Some(&mut cancel) };
    assert!(matches!(ctx.eval_with(&TOKENS, how), Err(Error::Cancelled(_))));
    assert_eq!((asked, ctx.position()), (2, 0));
    let embeddings = vec![0.25; model.info().n_embd as usize * 2];
    ctx.eval_embeddings(&embeddings, Eval { keep: Keep::All, cancel: None }).unwrap();
    assert_eq!((ctx.position(), ctx.logits_count()), (2, 2));
    assert_eq!(bits(ctx.logits(0).unwrap()).len(), model.info().n_vocab as usize);
}
