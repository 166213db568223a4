"""Events of a trace as a sink in Python sees them."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass, replace as dataclass_replace
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple, Union

from . import _library as c
from ._buffers import DTYPES, HAS_NUMPY, Array, Values, Window, copy_array, np, packed_strides
from ._errors import InvalidError, UnsupportedError
from ._loader import decode, lib, text


@dataclass(frozen=True)
class Event:
    """What all events have."""

    layer: int  #: -1: of no block
    position: int  #: first token position it is about
    run: int  #: number of the run within its context, from 0
    seq: int  #: number of the event within its context, in execution order
    time_ns: int  #: CLOCK_MONOTONIC
    flags: int  #: BITNET_EVENT_FLAG_...

    @property
    def overridden(self) -> bool:
        """A sink replaced values of this run before this event."""
        return bool(self.flags & c.BITNET_EVENT_FLAG_OVERRIDDEN)


@dataclass(frozen=True)
class RunBegin(Event):
    """A context begins anew. Texts are "" when unknown."""

    engine: str
    engine_version: str
    model_path: str
    model_hash: str
    architecture: str
    hyperparameters: str
    semantics: str
    isa: str
    kv_type: str
    selection: str
    prompt: Optional[bytes]
    n_threads: int
    n_batch: int
    tokens: Optional[List[int]]


@dataclass(frozen=True)
class Step(Event):
    """StepBegin and StepEnd: one evaluation."""

    tokens: Optional[List[int]]  #: None when embeddings were given


@dataclass(frozen=True)
class StepBegin(Step):
    """An evaluation begins."""


@dataclass(frozen=True)
class StepEnd(Step):
    """It has ended."""

    status: int  #: 0: as it should


@dataclass(frozen=True)
class KvState(Event):
    """What the key/value cache holds after a step, in positions."""

    n_valid: int
    n_max: int
    oldest: int
    n_bytes: int  #: allocated
    n_bytes_used: int
    n_hits: int
    n_misses: int
    n_evicted: int


@dataclass(frozen=True)
class RunEnd(Event):
    """Counts of the run."""

    n_tensors: int
    n_rows: int
    n_tokens: int


@dataclass(frozen=True)
class TensorInput:
    """What an operation read, from engines that tell. `data`: (n_rows, *row shape)."""

    name: str
    dtype: str
    data: Array


@dataclass(frozen=True)
class Tensor(Event):
    """One stage of consecutive token rows; row r is at `position` + r.

    `data`: (n_rows, *row shape), read-only, where the engine has it: valid until the sink returns. `copy()` what you keep: a sink
    that keeps a window is detached with BufferError. bf16 values are shown as their bits (uint16): `float32()` converts.
    """

    stage: str  #: "q_proj"
    stage_id: int  #: BITNET_STAGE_..., 0 for a name that is not one of the format
    dtype: str  #: "f32", "f16", "bf16", "i8", "i32"
    data: Array
    kernel: str  #: what computed it, "ternary.avx2"; "" when unknown
    first_row: int  #: index of row 0 in its evaluation
    ns: int  #: time the engine took for the stage, of all rows of the batch; 0: unknown
    inputs: Tuple[TensorInput, ...]
    _source: "Optional[_Source]" = None

    def copy(self) -> "Tensor":
        """The event with memory of its own."""
        inputs = tuple(TensorInput(i.name, i.dtype, copy_array(i.data)) for i in self.inputs)
        return dataclass_replace(self, data=copy_array(self.data), inputs=inputs, _source=None)

    def float32(self) -> Array:
        """The values as float32 of their own memory (needs numpy)."""
        if not HAS_NUMPY:
            raise UnsupportedError("float32() needs numpy")
        if self.dtype == "bf16":
            return (self.data.astype(np.uint32) << 16).view(np.float32)
        return self.data.astype(np.float32)

    def _host(self) -> "_Source":
        if self._source is None or self._source.over:
            raise InvalidError("the event is over: ask for hashes and replace values before the sink returns")
        return self._source

    def blake3(self, row: int = 0) -> str:
        """BLAKE3 of a row's raw little-endian values, 64 hex digits: the hash of the traces."""
        source = self._host()
        table = source.extension(c.BITNET_EXT_HASH, c.bitnet_ext_hash_t)
        digest = table.blake3(source.host, source.event, row)
        if not digest:
            raise InvalidError(f"row {row}: the event has {self.data.shape[0]} rows")
        return ctypes.string_at(digest, 32).hex()

    def replace(self, values: Any, row: int = 0) -> None:
        """Gives the engine other values of a row to go on with: as many as the row has, of its dtype. f32 stages of our own
        engine."""
        source = self._host()
        given = Values(values, "values", self.dtype)
        n = 1
        for length in given.shape:
            n *= length
        table = source.extension(c.BITNET_EXT_OVERRIDE, c.bitnet_ext_override_t)
        status = table.replace(source.host, source.event, row, given.address, n)
        if status == c.BITNET_E_UNSUPPORTED:
            raise UnsupportedError(f"{self.stage}: its values cannot be replaced")
        if status != 0:
            raise InvalidError(
                f"{self.stage}, row {row}: {n} values do not replace {self.data.shape[0]} rows of "
                f"{source.event.contents.row_elements}"
            )

    def stop(self, reason: str) -> None:
        """Ends the evaluation under way, before its next layer at the latest: it raises UserError with `reason`."""
        stop_evaluation(self._host().host, reason)


class _Source:
    """The event as the host gave it, for what is asked of the host while it lasts."""

    def __init__(self, host: Any, event: Any) -> None:
        self.host, self.event, self.over = host, event, False

    def extension(self, name: bytes, table: Any) -> Any:
        return _extension(self.host, name, table)


def _extension(host: Any, name: bytes, table: Any) -> Any:
    found = host.contents.get_extension(host, name)
    if not found:
        raise UnsupportedError(f"this engine does not offer {name.decode()}")
    return ctypes.cast(found, ctypes.POINTER(table)).contents


def stop_evaluation(host: Any, reason: str) -> None:
    _extension(host, c.BITNET_EXT_STOP, c.bitnet_ext_stop_t).stop(host, text(reason, "reason"))


def _head(event: Any) -> Dict[str, Any]:
    header = getattr(event, "header", event)
    return {
        "layer": header.layer,
        "position": header.position,
        "run": header.run,
        "seq": header.seq,
        "time_ns": header.time_ns,
        "flags": header.flags,
    }


def _tokens(pointer: Any, n: int) -> Optional[List[int]]:
    return list(pointer[:n]) if pointer else None


def _run_begin(event: Any) -> RunBegin:
    names = (
        "engine",
        "engine_version",
        "model_path",
        "model_hash",
        "architecture",
        "hyperparameters",
        "semantics",
        "isa",
        "kv_type",
        "selection",
    )
    prompt = ctypes.string_at(event.prompt, event.n_prompt_bytes) if event.prompt else None
    texts: Dict[str, Any] = {name: decode(getattr(event, name)) for name in names}
    return RunBegin(
        **_head(event),
        **texts,
        prompt=prompt,
        n_threads=event.n_threads,
        n_batch=event.n_batch,
        tokens=_tokens(event.tokens, event.n_tokens),
    )


def _kv_state(event: Any) -> KvState:
    return KvState(**_head(event), **{name: getattr(event.kv, name) for name, _ in event.kv._fields_[1:]})


_SIMPLE: Mapping[int, Tuple[Any, Callable[[Any], Event]]] = {
    c.BITNET_EVENT_RUN_BEGIN: (c.bitnet_run_begin_event_t, _run_begin),
    c.BITNET_EVENT_STEP_BEGIN: (
        c.bitnet_step_event_t,
        lambda e: StepBegin(**_head(e), tokens=_tokens(e.tokens, e.n_tokens)),
    ),
    c.BITNET_EVENT_STEP_END: (
        c.bitnet_step_event_t,
        lambda e: StepEnd(**_head(e), tokens=_tokens(e.tokens, e.n_tokens), status=e.status),
    ),
    c.BITNET_EVENT_KV_STATE: (c.bitnet_kv_event_t, _kv_state),
    c.BITNET_EVENT_RUN_END: (
        c.bitnet_run_end_event_t,
        lambda e: RunEnd(**_head(e), n_tensors=e.n_tensors, n_rows=e.n_rows, n_tokens=e.n_tokens),
    ),
}

#: name: number of the events there are
EVENTS = {
    "run_begin": c.BITNET_EVENT_RUN_BEGIN,
    "step_begin": c.BITNET_EVENT_STEP_BEGIN,
    "tensor": c.BITNET_EVENT_TENSOR,
    "step_end": c.BITNET_EVENT_STEP_END,
    "run_end": c.BITNET_EVENT_RUN_END,
    "kv_state": c.BITNET_EVENT_KV_STATE,
}


def simple_event(pointer: Any) -> Event:
    """An event that is no tensor: everything in it is copied."""
    struct, make = _SIMPLE[pointer.contents.type]
    return make(ctypes.cast(pointer, ctypes.POINTER(struct)).contents)


class TensorWindow:
    """A tensor event and the memory it shows, while the host waits."""

    def __init__(self, host: Any, pointer: Any, owner: object) -> None:
        self.owner = owner
        self.source = _Source(host, ctypes.cast(pointer, ctypes.POINTER(c.bitnet_tensor_event_t)))
        self.windows: List[Any] = []  # the memories, so that it can be told whether arrays on them are left

    def event(self) -> Tensor:
        e = self.source.event.contents
        data = self._array(e.data, e.dtype, e.n_rows, e.shape[: e.n_dims], e.row_elements, e.row_stride)
        inputs = tuple(
            TensorInput(
                decode(i.name),
                DTYPES[i.dtype][0],
                self._array(i.data, i.dtype, e.n_rows, i.shape[: i.n_dims], i.row_elements, i.row_stride),
            )
            for i in (e.inputs[: e.n_inputs] if e.n_inputs else ())
            if i.data
        )
        return Tensor(
            **_head(e),
            stage=decode(e.stage_name),
            stage_id=e.stage,
            dtype=DTYPES[e.dtype][0],
            data=data,
            kernel=decode(e.kernel),
            first_row=e.first_row,
            ns=e.ns,
            inputs=inputs,
            _source=self.source,
        )

    def _array(self, address: int, dtype: int, n_rows: int, shape: List[int], n: int, stride: int) -> Array:
        n_bytes = DTYPES[dtype][1]
        window = Window(address, (n_rows - 1) * stride + n * n_bytes, self.owner)
        self.windows.append(window.memory)
        inner = packed_strides(shape, n_bytes)
        return window.array(dtype, (n_rows, *shape), (stride, *inner))

    def end(self) -> None:
        self.source.over = True


@functools.lru_cache(maxsize=None)
def _stage_ids() -> Dict[str, int]:
    out = {}
    for companion in (0, c.BITNET_STAGE_CODES, c.BITNET_STAGE_SCALE, c.BITNET_STAGE_ACC):
        for number in range(1, c.BITNET_STAGE_COUNT + 1):
            name = lib.bitnet_stage_name(number | companion)
            if name:
                out[decode(name)] = number | companion
    return out


def stages() -> List[str]:
    """Names of all stages in execution order, then of the integer companions."""
    return list(_stage_ids())


def stage_id(stage: Union[str, int]) -> int:
    """Number of a stage by its name."""
    ids = _stage_ids()
    if isinstance(stage, int):
        return stage
    if stage not in ids:
        raise InvalidError(f"there is no stage '{stage}': the stages are {', '.join(ids)}")
    return ids[stage]
