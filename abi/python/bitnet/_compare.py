"""Comparing the logits of two engines, position by position: the library's own metrics, limits and verdict."""

from __future__ import annotations

import ctypes
import html
from dataclasses import dataclass
from typing import Any, Callable, Dict, FrozenSet, List, Optional, Sequence, Tuple, Union

from . import _library as c
from ._buffers import Array, doubles, floats, token_ids
from ._context import Context
from ._errors import InvalidError
from ._loader import check, decode, lib, sized, text
from ._model import Model

METRICS = {
    "cosine": c.BITNET_METRIC_COSINE,
    "l2": c.BITNET_METRIC_L2,
    "max_abs": c.BITNET_METRIC_MAX_ABS,
    "close": c.BITNET_METRIC_CLOSE,
    "mse": c.BITNET_METRIC_MSE,
    "nmse": c.BITNET_METRIC_NMSE,
    "kl": c.BITNET_METRIC_KL,
    "mean_kl": c.BITNET_METRIC_MEAN_KL,
    "top1": c.BITNET_METRIC_TOP1,
    "top_k": c.BITNET_METRIC_TOP_K,
    "either": c.BITNET_METRIC_EITHER,
    "finite": c.BITNET_METRIC_FINITE,
}
# A limit that is given on its own makes its metric count.
_JUDGES = {
    "cosine_min": "cosine",
    "l2_max": "l2",
    "max_abs_max": "max_abs",
    "atol": "close",
    "rtol": "close",
    "mse_max": "mse",
    "nmse_max": "nmse",
    "kl_max": "kl",
    "mean_kl_max": "mean_kl",
    "top_k_min": "top_k",
    "top1_noise": "top1",
    "either_cosine_min": "either",
    "either_max_abs_max": "either",
}
_VERDICTS = {
    c.BITNET_COMPARE_MATCH: "match",
    c.BITNET_COMPARE_DIVERGED: "divergence",
    c.BITNET_COMPARE_NOTHING: "nothing",
}

#: What an engine is to crossval(): a Model or Context of ours, a function from a list of token ids to logits
#: (n_tokens, n_vocab), or such logits.
Engine = Union[Model, Context, Callable[[List[int]], Any], Any]


def _names(bits: int) -> FrozenSet[str]:
    return frozenset(name for name, bit in METRICS.items() if bits & bit)


@dataclass(frozen=True)
class LogitsRow:
    """One position; `a` is the reference. Sums in float64. NaN where a metric was not measured."""

    measured: FrozenSet[str]
    failed: FrozenSet[str]  #: metrics outside their limits; not empty: this position diverges
    warned: FrozenSet[str]
    n: int  #: elements compared: finite on both sides
    n_masked: int  #: -inf on both sides: left out
    n_nonfinite: int  #: NaN, +inf, or -inf on one side: left out, and a divergence
    n_not_close: int
    worst_index: int  #: token of max_abs, or the first that is not finite
    worst_a: float
    worst_b: float
    cosine: float
    l2: float
    max_abs: float
    mse: float
    nmse: float
    kl: float  #: nats
    top_k: float  #: 0..1: share of the k largest of `a` that are of the k largest of `b`
    top1_lead: float
    rms_difference: float
    top1_a: int
    top1_b: int


@dataclass(frozen=True)
class Comparison:
    """Verdict on two engines' logits: "match", "divergence", or "nothing" (no row, or a row that no limit could judge). True in a
    condition only for a match."""

    verdict: str
    rows: List[LogitsRow]
    failed: FrozenSet[str]  #: metrics of any row, and mean_kl
    warned: FrozenSet[str]
    unmeasured: FrozenSet[str]
    n_failed: int  #: rows
    n_warned: int
    first_failed: Optional[int]  #: row; None: none
    n_top1_equal: int
    cosine_least: float
    l2_largest: float
    max_abs_largest: float
    mse_mean: float
    nmse_largest: float
    kl_mean: float
    kl_largest: float
    top_k_mean: float
    limits: Dict[str, Any]
    tokens: Optional[List[int]] = None  #: crossval(): what was evaluated

    def __bool__(self) -> bool:
        return self.verdict == "match"

    @property
    def text(self) -> str:
        """The verdict in a sentence."""
        n = len(self.rows)
        figures = (
            f"least cosine {self.cosine_least:.6g}, largest |a - b| {self.max_abs_largest:.3g}, "
            f"mean KL {self.kl_mean:.3g} nats"
        )
        if self.verdict == "nothing":
            return f"nothing compared: {n} positions, unmeasured {', '.join(sorted(self.unmeasured)) or 'nothing'}"
        if self.verdict == "match":
            return f"match: {n} positions, {figures}" + (f"; {self.n_warned} warned" if self.n_warned else "")
        where = f", first at {self.first_failed}" if self.first_failed is not None else ""
        return f"divergence: {self.n_failed} of {n} positions{where} ({', '.join(sorted(self.failed))}); {figures}"

    def __repr__(self) -> str:
        return f"<bitnet.Comparison {self.text}>"

    def _repr_html_(self) -> str:
        names = ("cosine", "max_abs", "kl", "top_k")
        head = "".join(f"<th>{name}</th>" for name in ("position", *names, "top-1", "outside"))
        rows = []
        for i, row in enumerate(self.rows):
            cells = [
                str(i),
                *(f"{getattr(row, name):.6g}" for name in names),
                f"{row.top1_a} / {row.top1_b}",
                html.escape(", ".join(sorted(row.failed))),
            ]
            mark = ' style="background:#fdd"' if row.failed else ""
            rows.append(f"<tr{mark}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
        return f"<p><b>{html.escape(self.text)}</b></p><table><tr>{head}</tr>{''.join(rows)}</table>"


def presets() -> List[str]:
    """Names of the limits there are: "bitnet" for two engines that run freely, "bitnet-same-class", and those of others."""
    out: List[str] = []
    while True:
        name = lib.bitnet_compare_preset_name(len(out))
        if name is None:
            return out
        out.append(decode(name))


def _limits(preset: str, given: Dict[str, Any]) -> Any:
    limits = sized(c.bitnet_logits_limits_t)
    check(lib.bitnet_compare_preset(text(preset, "preset"), ctypes.byref(limits)))
    known = {name for name, _ in limits._fields_} - {"struct_size", "reserved", "judged"}
    for name, value in given.items():
        if name not in known:
            raise InvalidError(f"there is no limit '{name}': the limits are {', '.join(sorted(known))}")
        setattr(limits, name, value)
        if name in _JUDGES:
            limits.judged |= METRICS[_JUDGES[name]]
    return limits


def compare_logits(a: Any, b: Any, preset: str = "bitnet", **limits: Any) -> Comparison:
    """Compares logits (positions, n_vocab) float32 of two engines; `a` is the reference. A single row may be (n_vocab,).

    `preset`: the limits, see presets(); others may be given by name, `cosine_min=0.999`, `max_abs_max=1e-3`, `top_k=10`: they then
    count, whatever the preset says.
    """
    left, right = floats(a, "a"), floats(b, "b")
    if left.shape != right.shape:
        raise InvalidError(f"a has shape {tuple(left.shape)}, b has {tuple(right.shape)}: expected the same")
    chosen = _limits(preset, limits)
    n_rows, n_vocab = left.shape
    rows = (c.bitnet_logits_row_t * n_rows)()
    for row in rows:
        row.struct_size = ctypes.sizeof(row)
    summary = sized(c.bitnet_logits_summary_t)
    pointer = ctypes.POINTER(ctypes.c_float)
    check(
        lib.bitnet_compare_logits(
            ctypes.cast(left.address, pointer),
            ctypes.cast(right.address, pointer),
            n_rows,
            n_vocab,
            ctypes.byref(chosen),
            rows,
            ctypes.byref(summary),
        )
    )
    return _result(rows, summary, chosen)


def _result(rows: Any, summary: Any, limits: Any) -> Comparison:
    def values(struct: Any, skip: Tuple[str, ...]) -> Dict[str, Any]:
        return {
            name: getattr(struct, name) for name, _ in struct._fields_ if name not in ("struct_size", "reserved", *skip)
        }

    def names(struct: Any, *fields: str) -> Dict[str, Any]:
        return {name: _names(getattr(struct, name)) for name in fields}

    bits = ("measured", "failed", "warned")
    made = [LogitsRow(**values(row, bits), **names(row, *bits)) for row in rows]
    bits = ("failed", "warned", "unmeasured")
    out = values(summary, ("verdict", "n_rows", "first_failed", *bits))
    first = None if summary.first_failed == summary.n_rows else int(summary.first_failed)
    return Comparison(
        verdict=_VERDICTS[summary.verdict],
        rows=made,
        first_failed=first,
        limits={**values(limits, ("judged",)), "judged": _names(limits.judged)},
        **names(summary, *bits),
        **out,
    )


def logprobs(logits: Any, tokens: Sequence[int]) -> Array:
    """(n,) float64: the natural log-probability of tokens[j] in row j of any engine's logits, (n, n_vocab) float32, in the
    library's arithmetic. NaN for a row with NaN or +inf, or of -inf alone."""
    rows, ids = floats(logits, "logits"), token_ids(tokens)
    if len(ids) != rows.shape[0]:
        raise InvalidError(f"{len(ids)} tokens for {rows.shape[0]} rows of logits: expected one for each")
    out = (ctypes.c_double * len(ids))()
    pointer = ctypes.cast(rows.address, ctypes.POINTER(ctypes.c_float))
    check(lib.bitnet_logprobs(pointer, rows.shape[0], rows.shape[1], ids, out))
    return doubles(out)


def crossval(
    reference: Engine,
    candidate: Engine,
    prompt: Union[str, bytes, Sequence[int]],
    preset: str = "bitnet",
    **limits: Any,
) -> Comparison:
    """Evaluates a prompt with two engines and compares the logits of every position; the first is the reference.

    An engine is a Model (a new context), a Context (from its position on), a function from token ids to logits (n_tokens, n_vocab),
    or such logits. A text is tokenized by the first Model or Context there is; ids are taken as they are. `bitnet crossval` also
    holds tokenizers against each other and runs engines that are programs.
    """
    models = [
        engine.model if isinstance(engine, Context) else engine
        for engine in (reference, candidate)
        if isinstance(engine, (Model, Context))
    ]
    if isinstance(prompt, (str, bytes)):
        if not models:
            raise InvalidError("a text needs a Model or Context that makes token ids of it")
        prompt = models[0].tokenize(prompt)
    tokens = list(token_ids(prompt))
    if not tokens:
        raise InvalidError("the prompt has no tokens: at least one is needed")
    result = compare_logits(
        _logits(reference, tokens, "reference"), _logits(candidate, tokens, "candidate"), preset, **limits
    )
    return Comparison(**{**result.__dict__, "tokens": tokens})


def _logits(engine: Engine, tokens: List[int], what: str) -> Any:
    if isinstance(engine, Model):
        engine = engine.context()
    if isinstance(engine, Context):
        engine.eval(tokens, logits="all")
        return engine.logits
    out = engine(list(tokens)) if callable(engine) else engine
    n = floats(out, what).shape[0]
    if n != len(tokens):
        raise InvalidError(f"{what} gave {n} rows of logits for {len(tokens)} tokens")
    return out
