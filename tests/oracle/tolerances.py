"""Default tolerances (preset `bitnet`) for stages recomputed from the same inputs, and their verdicts.

Every comparison returns a Verdict and refuses to compare nothing or arrays of different shapes.
`reference` is the oracle's value, `other` the judged engine's; both [n_tokens, width].
"""

import itertools
from typing import NamedTuple

import numpy as np

from bitnet_oracle import LINEAR_TENSORS, activation_scale, quantize_activations

# Relative L2 of a token's row, at equal input.
REL_L2_MAX = {
    "embedding": 0.0,  # an exact conversion
    "norm": 2e-6,
    "linear": 5e-7,  # at equal codes and scales
    "activation": 2e-6,
    "residual": 2e-6,
    "attention": 5e-6,
    "attention_kv_f16": 5e-3,
    "head": 2e-6,  # a float dot product like the norm's, not a ternary linear
}
ROPE_REL_L2_MAX = 2e-6
ROPE_REL_L2_MAX_PER_POSITION = 1e-7  # a float32 angle loses precision in proportion to the position
SCALE_REL_MAX = 2.4e-7
TIE_DISTANCE_MAX = 4e-5  # code steps: a flip farther from a rounding tie is not explained by float32

STAGE_CLASS = {
    "embeddings": "embedding",
    "attn_norm": "norm",
    "q_rope": "rope",
    "k_rope": "rope",
    "attn_scores": "attention",
    "attn_scores_softmax": "attention",
    "attn_context": "attention",
    "attn_sub_norm": "norm",
    "attn_residual": "residual",
    "ffn_norm": "norm",
    "ffn_act": "activation",
    "ffn_sub_norm": "norm",
    "layer_out": "residual",
    "final_norm": "norm",
    "logits": "head",
    **dict.fromkeys(LINEAR_TENSORS, "linear"),
}

TIES_TRIED_MAX = 8  # per row: all 2^8 ways to flip them are tried


class Verdict(NamedTuple):
    ok: bool
    measured: float
    allowed: float
    text: str


def compare_rel_l2(name, reference, other, allowed):
    """Relative L2 row by row; `allowed` is a number or one per row. The worst row decides."""
    reference, other = _checked(name, reference, other)
    finite = np.isfinite(reference) & np.isfinite(other)
    disagreeing = ~finite & (reference != other)  # NaN equals nothing: on both sides it is still no agreement
    if disagreeing.any():
        return _verdict_at(name, reference, other, disagreeing, np.inf, np.max(allowed), "non-finite values")
    error = np.subtract(other, reference, out=np.zeros(finite.shape), where=finite)
    rows = _ratio(_l2(error), _l2(np.where(finite, reference, 0)))
    allowed = np.broadcast_to(allowed, rows.shape)
    worst = int(np.argmax(_ratio(rows, allowed)))
    error[np.arange(len(rows)) != worst] = 0
    return _verdict_at(name, reference, other, np.abs(error), rows[worst], allowed[worst], f"rel. L2 of row {worst}")


def compare_rope(name, reference, other, positions):
    """As compare_rel_l2, with an allowance that grows with the position."""
    allowed = ROPE_REL_L2_MAX + ROPE_REL_L2_MAX_PER_POSITION * np.asarray(positions)
    return compare_rel_l2(name, reference, other, allowed)


def compare_equal(name, reference, other):
    """Bit for bit the same number: integer accumulators, weight codes, token ids."""
    reference, other = _checked(name, reference, other)
    unequal = reference != other
    return _verdict_at(name, reference, other, unequal, float(unequal.sum()), 0.0, "unequal elements")


def compare_scale(name, x, scale):
    """Another engine's activation scales [n, 1] for the input x [n, width]."""
    reference, scale = _checked(name, activation_scale(np.asarray(x, np.float64)), np.reshape(scale, (len(x), -1)))
    error = np.abs(scale - reference) / reference
    return _verdict_at(name, reference, scale, error, error.max(), SCALE_REL_MAX, "relative error")


def compare_codes(name, x, codes):
    """Another engine's int8 codes for the input x [n, width]: equal, or one step off at a rounding tie.

    `measured` is the largest distance from a tie, in code steps, among the codes that differ.
    """
    x = np.asarray(x, np.float64)
    reference, codes = _checked(name, quantize_activations(x)[0], codes)
    flipped = codes != reference
    from_tie = np.abs(x * activation_scale(x) - (codes + reference) / 2)  # at least 1/2 where they are further apart
    distance = np.where(flipped, from_tie, 0.0)
    explained = int(np.sum(flipped & (distance <= TIE_DISTANCE_MAX)))
    what = f"code steps from a tie, {explained} of {int(flipped.sum())} flips explained"
    return _verdict_at(name, reference, codes, distance, distance.max(), TIE_DISTANCE_MAX, what)


def compare_linear(name, x, other, linear, codes=None):
    """Another engine's linear output for the input x [n, n_in].

    `linear(codes, scale)` is the oracle's. Without the engine's `codes`, flips at ties are found from its output.
    """
    x = np.asarray(x, np.float64)
    if codes is None:
        codes = explaining_codes(x, other, linear)
    else:
        verdict = compare_codes(f"{name} codes", x, codes)
        if not verdict.ok:
            return verdict
    flips = int(np.sum(codes != quantize_activations(x)[0]))
    label = f"{name} ({flips} explained flips)" if flips else name
    return compare_rel_l2(label, linear(codes, activation_scale(x)), other, REL_L2_MAX["linear"])


def explaining_codes(x, other, linear):
    """Codes for x [n, n_in] with those ties flipped that bring the linear's output closest to `other` [n, n_out]."""
    codes, scale = quantize_activations(x)
    scaled = x * scale
    from_tie = np.abs(np.abs(scaled - np.trunc(scaled)) - 0.5)
    across_the_tie = 2 * np.trunc(scaled) + np.sign(scaled) - codes
    for row in np.flatnonzero((from_tie <= TIE_DISTANCE_MAX).any(axis=1)):
        ties = [i for i in np.argsort(from_tie[row])[:TIES_TRIED_MAX] if from_tie[row, i] <= TIE_DISTANCE_MAX]
        trials = np.repeat(codes[row : row + 1], 2 ** len(ties), axis=0)
        for number, flips in enumerate(itertools.product((False, True), repeat=len(ties))):
            flipped = list(itertools.compress(ties, flips))
            trials[number, flipped] = across_the_tie[row, flipped]
        outputs = linear(trials, np.repeat(scale[row : row + 1], len(trials), axis=0))
        codes[row] = trials[int(np.argmin(_l2(outputs - other[row])))]
    return codes


def compare_stage(oracle, layer, stage, recorded, positions=None, kv_f16=False):
    """Judge one recorded stage by the oracle's value for that stage's recorded inputs.

    `kv_f16` says that the other engine keeps K and V in f16 while the oracle does not imitate it.
    """
    name = f"layer {layer} {stage}"
    other = np.asarray(recorded[layer, stage])
    other = other.reshape(len(other), -1)
    kind = STAGE_CLASS[stage]
    if kind == "linear" and oracle.semantics.act_quant == "int8":
        (key,) = oracle.inputs_of(layer, stage)
        codes = recorded.get((key[0], f"{key[1]}.codes"))
        x = np.asarray(recorded[key]).reshape(len(other), -1)
        return compare_linear(name, x, other, lambda c, s: oracle.linear_from_codes(layer, stage, c, s), codes)
    reference = oracle.stage_from_inputs(layer, stage, recorded, positions)
    if kind == "rope":
        return compare_rope(name, reference, other, np.arange(len(other)) if positions is None else positions)
    if kind == "attention" and kv_f16:
        kind = "attention_kv_f16"
    return compare_rel_l2(name, reference, other, REL_L2_MAX[kind])


def _checked(name, reference, other):
    """Both as float64 (exact for int32, int8 and float32), after refusing an empty or mismatched comparison."""
    reference, other = np.asarray(reference), np.asarray(other)
    if reference.shape != other.shape:
        raise ValueError(f"{name}: shape {other.shape} against {reference.shape}")
    if reference.size == 0:
        raise ValueError(f"{name}: nothing to compare")
    return reference.astype(np.float64), other.astype(np.float64)


def _l2(rows):
    return np.sqrt(np.sum(rows * rows, axis=-1))


def _ratio(error, size):
    """error / size, where no error of nothing is 0 and any error of nothing is infinite."""
    return np.divide(error, size, out=np.where(error > 0, np.inf, 0.0), where=size > 0)


def _verdict_at(name, reference, other, badness, measured, allowed, what):
    """A verdict whose text shows the worst element by `badness`."""
    index = np.unravel_index(int(np.argmax(badness)), badness.shape)
    ok = bool(measured <= allowed)
    where = ", ".join(str(int(i)) for i in index)
    values = f"[{where}] {other[index]:.9g} against {reference[index]:.9g}"
    text = f"{name}: {what} {measured:.3g}, allowed {allowed:.3g}; {values}"
    return Verdict(ok, float(measured), float(allowed), text)
