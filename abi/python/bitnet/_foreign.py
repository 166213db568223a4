"""The trace of an engine that is not ours: a port in Python writes the same records, into the same plugins."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

from . import _library as c
from ._buffers import Values, token_ids
from ._errors import InvalidError
from ._events import stage_id
from ._loader import Handle, check, int32, lib, optional_text, sized, text
from ._trace import CallableSink, Sink, TraceStats, plugin_of, raise_first, stats_of

if TYPE_CHECKING:
    from ._model import Model


def _row(values: Values, one_row: bool) -> Tuple[int, Tuple[int, ...], int]:
    """(rows, shape of one row, bytes from row to row)."""
    if one_row:
        return 1, values.shape, 0
    return values.shape[0], values.shape[1:], values.strides[0]


class Trace:
    """A trace that a foreign engine writes.

        with bitnet.Trace("my port", "jsonl:path=port.jsonl", model=model) as trace:
            trace.step(0, tokens)
            trace.emit("q_proj", q, layer=3)        # q: (n_tokens, n_head, head_dim)

    `sinks` as in Context.trace; without any, those of BITNET_TRACE_PLUGIN. `model`: a bitnet.Model of the same file fills in path,
    hash, architecture, hyperparameters and semantics, without which traces cannot be told to be of the same model; each can be
    given by itself. `hyperparameters`, `semantics`: text "n_layer=30,..." or a mapping. `tokens`: ids from position 0 on, as far as they
    are known. Any number of threads may emit at once.
    """

    def __init__(
        self,
        engine: str,
        *sinks: Sink,
        engine_version: str = "",
        model: Optional["Model"] = None,
        model_path: Optional[str] = None,
        model_hash: Optional[str] = None,
        architecture: Optional[str] = None,
        hyperparameters: Union[str, Mapping[str, Any], None] = None,
        semantics: Union[str, Mapping[str, Any], None] = None,
        isa: Optional[str] = None,
        kv_type: Optional[str] = None,
        select: Optional[str] = None,
        prompt: Union[str, bytes, None] = None,
        tokens: Iterable[int] = (),
        n_threads: int = 0,
        n_batch: int = 0,
        events: Union[str, Iterable[str]] = "tensor",
        copy: bool = False,
    ) -> None:
        if model is not None:
            model_path = model.path if model_path is None else model_path
            model_hash = model.hash if model_hash is None else model_hash
            architecture = model.architecture if architecture is None else architecture
            semantics = model.semantics if semantics is None else semantics
            if hyperparameters is None:
                names = (
                    "n_vocab",
                    "n_ctx_train",
                    "n_embd",
                    "n_layer",
                    "n_ff",
                    "n_head",
                    "n_head_kv",
                    "head_dim",
                    "n_rot",
                )
                hyperparameters = {name: getattr(model.info, name) for name in names}
        data = prompt.encode() if isinstance(prompt, str) else prompt
        ids = token_ids(tokens)
        keep = [data, ids]
        texts = {
            "engine": engine,
            "engine_version": engine_version,
            "model_path": model_path,
            "model_hash": model_hash,
            "architecture": architecture,
            "hyperparameters": _joined(hyperparameters),
            "semantics": _joined(semantics),
            "isa": isa,
            "kv_type": kv_type,
            "selection": select,
            "plugins": "" if sinks else None,
        }
        params = sized(
            c.bitnet_trace_params_t,
            n_threads=n_threads,
            n_batch=n_batch,
            n_tokens=len(ids),
            n_prompt_bytes=len(data) if data else 0,
            **{name: optional_text(value, name) for name, value in texts.items()},
        )
        params.tokens = ctypes.cast(ids, type(params.tokens)) if len(ids) else None
        params.prompt = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p) if data is not None else None
        events = events if isinstance(events, str) else list(events)
        self._callables: List[CallableSink] = []
        self._handle: Optional[Handle] = None
        self._position = 0
        pointer = ctypes.c_void_p()
        check(lib.bitnet_trace_open(ctypes.byref(params), ctypes.byref(pointer)))
        del keep
        self._handle = Handle(pointer, lib.bitnet_trace_close, self._callables)
        for sink in sinks:
            if isinstance(sink, str):
                check(lib.bitnet_trace_add_plugin(pointer, *plugin_of(sink)))
            else:
                self._callables.append(CallableSink(sink, events, copy))
                check(lib.bitnet_trace_add_sink(pointer, ctypes.byref(self._callables[-1].table), None))

    @property
    def _pointer(self) -> ctypes.c_void_p:
        if self._handle is None:
            raise InvalidError("the trace is closed")
        return self._handle.pointer

    @property
    def enabled(self) -> bool:
        """A sink is attached: ask before work that only a trace needs."""
        return bool(lib.bitnet_trace_enabled(self._pointer))

    def wants(self, stage: Union[str, int], layer: int, position: int) -> bool:
        """A sink is attached and the selection has this stage of the format, layer and position."""
        return bool(
            lib.bitnet_trace_wants(self._pointer, stage_id(stage), int32(layer, "layer"), int32(position, "position"))
        )

    def select(self, selection: Optional[str]) -> None:
        """Another selection; ends the run that is open."""
        check(lib.bitnet_trace_reselect(self._pointer, optional_text(selection, "selection")))

    def step(self, position: int, tokens: Union[Sequence[int], int]) -> None:
        """An evaluation of these tokens (or of this many) begins at `position`; the one before it ends. A position that was
        evaluated before begins a new run."""
        ids, n = (None, tokens) if isinstance(tokens, int) else self._counted(tokens)
        check(lib.bitnet_trace_step(self._pointer, int32(position, "position"), ids, n))
        self._position = position

    @staticmethod
    def _counted(tokens: Sequence[int]) -> Tuple[Any, int]:
        ids = token_ids(tokens)
        return ids, len(ids)

    def emit(
        self,
        stage: Union[str, int],
        data: Any,
        *,
        layer: int = -1,
        position: Optional[int] = None,
        dtype: Optional[str] = None,
        inputs: Optional[Mapping[str, Any]] = None,
        kernel: Optional[str] = None,
        ns: int = 0,
    ) -> None:
        """Rows of one stage, as they are: float32, float16, int8, int32, or bf16 as uint16 with dtype="bf16". Nothing is converted,
        because the values' bytes are hashed.

        `data`: (n_rows, *shape of a row), or (n,) for a single row. `stage`: a name, "q_proj" or "t0/blk3/q_proj" (which sets
        position and layer), or a number. `position`: of row 0; None for that of the step. `inputs`: what the operation read, by
        name, as many rows. `ns`: time it took; 0 is since the call before. UserError when a sink asks to stop.
        """
        values = Values(data, str(stage), dtype, packed=False)
        if not values.shape:
            raise InvalidError(f"{stage}: a number: expected an array")
        n_rows, shape, stride = _row(values, len(values.shape) == 1)
        read, keep = self._inputs(inputs or {}, n_rows)
        t = sized(
            c.bitnet_trace_tensor_t,
            layer=layer,
            position=self._position if position is None else position,
            dtype=values.dtype,
            n_rows=n_rows,
            n_dims=len(shape),
            row_stride=stride,
            data=values.address,
            ns=ns,
            n_inputs=len(read),
            kernel=optional_text(kernel, "kernel"),
        )
        if isinstance(stage, str):
            t.name = text(stage, "stage")
        else:
            t.stage = stage
        self._shape(t, shape, str(stage))
        t.inputs = ctypes.cast(read, type(t.inputs)) if len(read) else None
        check(lib.bitnet_trace_emit(self._pointer, ctypes.byref(t)))
        del keep

    @staticmethod
    def _shape(t: Any, shape: Tuple[int, ...], what: str) -> None:
        if not 1 <= len(shape) <= 4:
            raise InvalidError(f"{what}: a row has {len(shape)} axes: expected 1 to 4")
        for axis, length in enumerate(shape):
            t.shape[axis] = length

    def _inputs(self, inputs: Mapping[str, Any], n_rows: int) -> Tuple[Any, List[Values]]:
        read = (c.bitnet_tensor_input_t * len(inputs))()
        keep = []
        for item, (name, data) in zip(read, inputs.items()):
            values = Values(data, name, packed=False)
            n, shape, stride = _row(values, len(values.shape) == 1)
            if n != n_rows and len(values.shape) != 1:
                raise InvalidError(f"input {name} has {n} rows: expected {n_rows}, as the output, or one row for all")
            self._shape(item, shape, name)
            item.name, item.dtype, item.n_dims, item.row_stride = text(name, "input"), values.dtype, len(shape), stride
            item.row_elements = 1
            for length in shape:
                item.row_elements *= length
            item.data = values.address
            keep.append(values)
        return read, keep

    def kv(self, **state: int) -> None:
        """The state of the key/value cache inside a step: n_valid, n_max, oldest, n_bytes, n_bytes_used, n_hits, n_misses,
        n_evicted (positions, bytes)."""
        check(lib.bitnet_trace_kv(self._pointer, ctypes.byref(sized(c.bitnet_kv_state_t, **state))))

    def end(self) -> None:
        """Ends the run and flushes every sink; what comes next begins a new run. PluginError if a sink failed."""
        check(lib.bitnet_trace_end(self._pointer))

    @property
    def stats(self) -> TraceStats:
        return stats_of(lib.bitnet_trace_statistics, self._pointer)

    def close(self) -> None:
        """Ends the run, closes the sinks. Raises what a callable has raised, or PluginError for a plugin that failed."""
        if self._handle is None:
            return
        lib.bitnet_trace_end(self._pointer)  # what fails is counted
        stats = self.stats
        self._handle = None
        raise_first(self._callables, 0, stats)

    def __enter__(self) -> "Trace":
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if error is None:
            self.close()
        else:
            self._handle = None

    def __repr__(self) -> str:
        if self._handle is None:
            return "<bitnet.Trace, closed>"
        s = self.stats
        return f"<bitnet.Trace, {s.n_sinks} sinks, {s.n_events} events>"


def _joined(values: Union[str, Mapping[str, Any], None]) -> Optional[str]:
    if values is None or isinstance(values, str):
        return values
    return ",".join(f"{name}={value}" for name, value in values.items())
