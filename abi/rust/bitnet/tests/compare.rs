//! The verdict, held against the formulas.

use bitnet::{compare_logits, Error, Limits, Verdict};

const N_VOCAB: usize = 16;

fn rows() -> (Vec<f32>, Vec<f32>) {
    let a: Vec<f32> = (0..3 * N_VOCAB).map(|i| ((i * 37 % 23) as f32 - 11.0) * 0.3).collect();
    let b = a.iter().enumerate().map(|(i, x)| x + 0.001 * (i % 5) as f32).collect();
    (a, b)
}

#[test]
fn numbers_are_the_formulas() {
    let (a, b) = rows();
    let comparison = compare_logits(&a, &b, N_VOCAB, &Limits::default()).unwrap();
    assert_eq!(comparison.rows.len(), 3);
    for (row, found) in comparison.rows.iter().enumerate() {
        let pairs = || (0..N_VOCAB).map(|i| (f64::from(a[row * N_VOCAB + i]), f64::from(b[row * N_VOCAB + i])));
        let dot: f64 = pairs().map(|(x, y)| x * y).sum();
        let norms = pairs().map(|(x, _)| x * x).sum::<f64>().sqrt() * pairs().map(|(_, y)| y * y).sum::<f64>().sqrt();
        let l2 = pairs().map(|(x, y)| (x - y) * (x - y)).sum::<f64>().sqrt();
        let most = pairs().map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
        let (sum_a, sum_b) = pairs().fold((0.0, 0.0), |(p, q), (x, y)| (p + x.exp(), q + y.exp()));
        let kl: f64 = pairs().map(|(x, y)| x.exp() / sum_a * ((x - sum_a.ln()) - (y - sum_b.ln()))).sum();
        let close = |found: f64, expected: f64| (found - expected).abs() < 1e-12;
        assert!(
            close(found.cosine, dot / norms)
                && close(found.l2, l2)
                && close(found.max_abs, most)
                && close(found.kl, kl)
        );
    }
    assert_eq!(comparison.verdict(), Verdict::Match);
    assert_eq!(comparison.first_diverged(), None);
}

#[test]
fn verdicts() {
    let (a, mut b) = rows();
    b[2 * N_VOCAB + 1] = f32::NAN;
    let diverged = compare_logits(&a, &b, N_VOCAB, &Limits::default()).unwrap();
    assert_eq!((diverged.verdict(), diverged.first_diverged()), (Verdict::Diverged, Some(2)));
    let nothing = compare_logits(&[], &[], N_VOCAB, &Limits::default()).unwrap();
    assert_eq!(nothing.verdict(), Verdict::Nothing);
    assert_eq!([Verdict::Match, Verdict::Diverged, Verdict::Nothing].map(Verdict::exit_code), [0, 1, 2]);
    // A limit of one's own.
    let (a, b) = rows();
    let mut limits = Limits::preset("bitnet").unwrap();
    limits.judged = bitnet::sys::BITNET_METRIC_MAX_ABS;
    limits.max_abs_max = 0.001;
    assert_eq!(compare_logits(&a, &b, N_VOCAB, &limits).unwrap().first_diverged(), Some(0));
}

#[test]
fn refusals() {
    assert!(Limits::presets().unwrap().contains(&"bitnet".to_string()));
    assert!(matches!(Limits::preset("none"), Err(Error::Invalid(text)) if text.contains("bitnet-same-class")));
    for (a, b, n_vocab) in [(4, 4, 0), (4, 4, 3), (4, 8, 4)] {
        let error = compare_logits(&vec![0.0; a], &vec![0.0; b], n_vocab, &Limits::default()).unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error}");
    }
}
