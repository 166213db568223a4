"""Every comparison must be able to fail, and must refuse to compare nothing."""

import numpy as np
import pytest

from bitnet_oracle import activation_scale, linear_from_codes, quantize_activations
from tolerances import (
    compare_codes,
    compare_equal,
    compare_linear,
    compare_rel_l2,
    compare_rope,
    compare_scale,
)


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((3, 64))


def test_rel_l2_is_judged_by_its_worst_row(x):
    other = x.copy()
    other[1] *= 1 + 3e-6
    verdict = compare_rel_l2("x", x, other, 2e-6)
    assert not verdict.ok and verdict.measured == pytest.approx(3e-6)
    assert "row 1" in verdict.text and verdict.allowed == 2e-6
    assert compare_rel_l2("x", x, other, 4e-6).ok


def test_text_names_the_worst_element(x):
    other = x.copy()
    other[2, 40] += 1
    assert f"[2, 40] {other[2, 40]:.9g} against {x[2, 40]:.9g}" in compare_rel_l2("x", x, other, 1e-6).text


def test_rope_allows_more_at_later_positions(x):
    other = x * (1 + 5e-6)
    assert compare_rope("x", x, other, [40, 41, 42]).ok
    assert not compare_rope("x", x, other, [40, 41, 20]).ok


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_on_one_side_is_a_divergence(x, bad):
    other = x.copy()
    other[0, 3] = bad
    for pair in ((x, other), (other, x)):
        verdict = compare_rel_l2("x", *pair, 1.0)
        assert not verdict.ok and "[0, 3]" in verdict.text


def test_infinities_agree_but_nan_never_does(x):
    x[0, 3] = -np.inf
    assert compare_rel_l2("x", x, x.copy(), 0.0).ok
    x[0, 3] = np.nan
    assert not compare_rel_l2("x", x, x.copy(), 1.0).ok
    assert not compare_equal("x", x, x.copy()).ok


def test_error_of_nothing():
    zero = np.zeros((1, 4))
    assert compare_rel_l2("x", zero, zero, 0.0).ok
    assert not compare_rel_l2("x", zero, zero + 1e-30, 1.0).ok


def test_empty_and_mismatched_are_errors(x):
    with pytest.raises(ValueError, match="nothing to compare"):
        compare_rel_l2("x", x[:0], x[:0], 1.0)
    with pytest.raises(ValueError, match="shape"):
        compare_equal("x", x, x[:2])


def test_scale(x):
    scale = activation_scale(x)
    assert compare_scale("s", x, scale.astype(np.float32)).ok
    assert compare_scale("s", x, scale[:, 0] * (1 + 2.2e-7)).ok
    assert not compare_scale("s", x, scale * (1 + 2.6e-7)).ok


def near_tie(x, distance):
    """x with one element `distance` code steps below the tie above its code, and codes that went over it."""
    codes, scale = quantize_activations(x)
    x[1, 7] = (codes[1, 7] + 0.5 - distance) / scale[1, 0]
    flipped = quantize_activations(x)[0]
    flipped[1, 7] += 1
    return x, flipped


def test_codes_at_a_tie_are_explained(x):
    assert compare_codes("c", x, quantize_activations(x)[0]).measured == 0
    verdict = compare_codes("c", *near_tie(x, 3.6e-5))
    assert verdict.ok and "1 of 1 flips explained" in verdict.text
    assert not compare_codes("c", *near_tie(x, 4.4e-5)).ok


def test_codes_two_off_are_not_explained(x):
    x, codes = near_tie(x, 0.0)
    codes[1, 7] += 1
    assert not compare_codes("c", x, codes).ok


@pytest.mark.parametrize("sign", [1, -1])
def test_linear_finds_the_flips_from_the_output(x, sign):
    weights = np.random.default_rng(1).integers(-1, 2, (32, 64), dtype=np.int8)
    x, codes = near_tie(x, 1e-5)

    def linear(codes, scale):
        return linear_from_codes(codes, scale, weights, 1.5)

    x, codes = sign * x, sign * codes
    other = linear(codes, activation_scale(x)).astype(np.float32)
    assert "1 explained flips" in compare_linear("l", x, other, linear).text
    assert compare_linear("l", x, other, linear).ok
    assert compare_linear("l", x, other, linear, codes).ok
    assert not compare_linear("l", x, other, linear, quantize_activations(x)[0]).ok
    assert not compare_linear("l", x, other * np.float32(1 + 1e-6), linear).ok
