"""One conversation with a model."""

from __future__ import annotations

import atexit
import ctypes
import threading
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Iterable, List, Optional, Sequence, Tuple, Union

from . import _library as c
from ._buffers import Array, Window, bytes_at, doubles, floats, new_array, token_ids
from ._errors import InternalError, InvalidError
from ._loader import Handle, check, int32, lib, sized

if TYPE_CHECKING:
    from ._generate import Generation
    from ._model import Model
    from ._trace import Sink, Tracing

_KEEP = {"last": c.BITNET_LOGITS_LAST, "all": c.BITNET_LOGITS_ALL, "none": c.BITNET_LOGITS_NONE}
_KV = {None: c.BITNET_KV_DEFAULT, "f32": c.BITNET_KV_F32, "f16": c.BITNET_KV_F16}
_HEAD = {"full": c.BITNET_HEAD_FULL, "certified": c.BITNET_HEAD_CERTIFIED}
_WEIGHTS = {"in-place": c.BITNET_WEIGHTS_IN_PLACE, "dense": c.BITNET_WEIGHTS_DENSE}

# A program that ends with contexts alive still ends their traces, as one in C does by freeing them.
_alive: "weakref.WeakSet[Handle]" = weakref.WeakSet()


@atexit.register
def _end_traces() -> None:
    for handle in list(_alive):
        lib.bitnet_trace_set_sink(handle.pointer, None, None)


def choice(name: str, value: Any, choices: Any) -> int:
    try:
        return int(choices[value])
    except (KeyError, TypeError):
        raise InvalidError(f"{name} is {value!r}: expected {', '.join(map(repr, choices))}") from None


@dataclass(frozen=True)
class HeadStats:
    """What the certified head did; zero in contexts without it."""

    n_certified: int  #: tokens found without the full head
    n_full: int  #: tokens for which it was read after all
    n_rows_computed: int  #: logits computed exactly for the certified tokens
    n_bytes: int  #: of the compact copy
    build_ns: int  #: time it took to make


@dataclass(frozen=True)
class WeightStats:
    """Of the dense weights that a context decodes from; zero in others."""

    dense: bool  #: it does
    n_bytes: int  #: of the copy
    build_ns: int  #: time it took to make


class Context:
    """Key/value cache, position and logits of one conversation. One thread at a time; it may move between threads. Long calls
    release the GIL; Ctrl-C ends an evaluation between two layers.

    `n_ctx`: positions, 0 for what the model was trained for. `n_threads`: 0 for the processors this process may run on. `n_batch`:
    rows computed together, 0 for 512. `kv_type`: "f32" or "f16", None for what the semantics say. `head`: "full" or "certified"
    (generation finds the same tokens without reading the whole output head). `weights`: "in-place" or "dense" (one token at a
    time is computed from a smaller copy of the ternary weights where this CPU has AVX-512 VBMI). Results depend on none but
    `kv_type`.

    **Arrays** (`logits`, `hidden`) are read-only windows on the context's memory, not copies. They keep that memory alive, also
    after `close()` or when the context is gone. The next call that evaluates, resets, truncates or restores makes their content
    stale: they then show what the library writes there. `.copy()` what you keep. An evaluation that has to move the memory (it
    keeps more rows than any before) while arrays are left raises BufferError before it does anything.
    """

    def __init__(
        self,
        model: "Model",
        *,
        n_ctx: int = 0,
        n_threads: int = 0,
        n_batch: int = 0,
        kv_type: Optional[str] = None,
        head: str = "full",
        weights: str = "in-place",
        device_id: int = 0,
    ) -> None:
        params = sized(
            c.bitnet_context_params_t,
            n_ctx=n_ctx,
            n_threads=n_threads,
            n_batch=n_batch,
            kv_type=choice("kv_type", kv_type, _KV),
            head=choice("head", head, _HEAD),
            weights=choice("weights", weights, _WEIGHTS),
            device_id=device_id,
        )
        pointer = ctypes.c_void_p()
        check(lib.bitnet_context_create(model._handle.pointer, ctypes.byref(params), ctypes.byref(pointer)))
        self._adopt(model, pointer)

    def _adopt(self, model: "Model", pointer: ctypes.c_void_p) -> None:
        self.model = model
        self._handle: Optional[Handle] = Handle(pointer, lib.bitnet_context_free, model._handle)
        _alive.add(self._handle)
        self._windows: List["weakref.ref[Any]"] = []
        self._rows_most = 1  # rows of logits that the memory has room for, as far as is known
        self._generation: Optional["weakref.ref[Generation]"] = None
        self.tracing: Optional["Tracing"] = None  #: what traces this context now

    @property
    def _pointer(self) -> ctypes.c_void_p:
        if self._handle is None:
            raise InvalidError("the context is closed")
        return self._handle.pointer

    # Evaluation

    def eval(
        self,
        tokens: Union[str, bytes, Iterable[int], None] = None,
        *,
        logits: str = "last",
        embeddings: Optional[Any] = None,
        cancel: Optional[Callable[[], Any]] = None,
        add_bos: Optional[bool] = None,
        parse_special: bool = False,
    ) -> List[int]:
        """Evaluates tokens after the current position and moves it; returns their ids.

        `tokens`: ids, or a text, which is tokenized (`add_bos`: None for what the file asks at position 0, never later).
        `logits`: the rows to keep, "last", "all" or "none". `embeddings`: (n, n_embd) float32 in place of tokens. `cancel`: asked
        between layers; True ends the evaluation with CancelledError. After a failure the position is what it was.
        """
        keep = choice("logits", logits, _KEEP)
        if (tokens is None) == (embeddings is None):
            raise InvalidError("eval wants either tokens or embeddings")
        params = sized(c.bitnet_eval_params_t, logits=keep)
        if embeddings is not None:
            rows = floats(embeddings, "embeddings", self.model.info.n_embd)
            params.embeddings = ctypes.cast(rows.address, type(params.embeddings))
            ids, n, pointer = [], rows.shape[0], None
        else:
            assert tokens is not None
            pointer = token_ids(
                self._prompt(tokens, add_bos, parse_special) if isinstance(tokens, (str, bytes)) else tokens
            )
            ids, n = list(pointer), len(pointer)
        n_rows = n if keep == c.BITNET_LOGITS_ALL else 1
        self._make_room(n_rows)
        self._run(params, cancel, lambda: lib.bitnet_eval_tokens(self._pointer, pointer, n, ctypes.byref(params)))
        self._rows_most = max(self._rows_most, n_rows)
        return ids

    def _prompt(self, text: Union[str, bytes], add_bos: Optional[bool], parse_special: bool) -> List[int]:
        start = self.position == 0
        bos = add_bos if add_bos is not None or start else False
        ids = self.model.tokenize(text, add_bos=bos, parse_special=parse_special)
        if start and self.tracing is not None:
            data = text.encode() if isinstance(text, str) else text
            check(lib.bitnet_trace_set_prompt(self._pointer, data, len(data)))
        return ids

    def _run(self, params: Any, cancel: Optional[Callable[[], Any]], call: Callable[[], int]) -> None:
        raised: List[BaseException] = []

        def ask(user: object) -> int:  # on the main thread this is also where Python sees a Ctrl-C
            try:
                return 1 if cancel is not None and cancel() else 0
            except BaseException as error:  # it must not unwind through C: raised below
                raised.append(error)
                return 1

        if cancel is not None or threading.current_thread() is threading.main_thread():
            params.cancel = c.bitnet_cancel_fn(ask)
        status = call()
        if raised:
            raise raised[0]
        if status != c.BITNET_OK and self.tracing is not None and self.tracing.interrupt is not None:
            raise self.tracing.interrupt
        check(status)

    @property
    def position(self) -> int:
        """Positions evaluated so far."""
        return int(lib.bitnet_context_position(self._pointer))

    @property
    def capacity(self) -> int:
        """Positions there is room for."""
        return int(lib.bitnet_context_capacity(self._pointer))

    @property
    def memory(self) -> int:
        """Bytes allocated: cache, scratch, logits."""
        return int(lib.bitnet_context_memory(self._pointer))

    @property
    def head_stats(self) -> HeadStats:
        stats = sized(c.bitnet_head_stats_t)
        check(lib.bitnet_context_get_head_stats(self._pointer, ctypes.byref(stats)))
        return HeadStats(stats.n_certified, stats.n_full, stats.n_rows_computed, stats.n_bytes, stats.build_ns)

    @property
    def weight_stats(self) -> WeightStats:
        stats = sized(c.bitnet_weight_stats_t)
        check(lib.bitnet_context_get_weight_stats(self._pointer, ctypes.byref(stats)))
        return WeightStats(bool(stats.dense), stats.n_bytes, stats.build_ns)

    def reset(self) -> None:
        """Forgets all positions."""
        check(lib.bitnet_context_reset(self._pointer))

    def truncate(self, n_positions: int) -> None:
        """Keeps the first `n_positions`."""
        check(lib.bitnet_context_truncate(self._pointer, int32(n_positions, "n_positions")))

    def fork(self) -> "Context":
        """An independent copy at the same position, without sinks and without logits."""
        pointer = ctypes.c_void_p()
        check(lib.bitnet_context_fork(self._pointer, ctypes.byref(pointer)))
        copy = Context.__new__(Context)
        copy._adopt(self.model, pointer)
        return copy

    def save(self) -> bytes:
        """The key/value state as a versioned, checksummed blob. Logits are not part of it."""
        n = ctypes.c_size_t()
        check(lib.bitnet_context_save(self._pointer, None, ctypes.byref(n)))
        out = ctypes.create_string_buffer(n.value)
        check(lib.bitnet_context_save(self._pointer, out, ctypes.byref(n)))
        return out.raw[: n.value]

    def restore(self, data: Any) -> None:
        """Takes a saved state back: of the same model file, semantics and KV type. On failure the context is as it was."""
        address, n_bytes, _keep = bytes_at(data)
        check(lib.bitnet_context_restore(self._pointer, address, n_bytes))

    # Results

    def _live_windows(self) -> int:
        self._windows = [window for window in self._windows if window() is not None]
        return len(self._windows)

    def _make_room(self, n_rows: int) -> None:
        if n_rows > self._rows_most and self._live_windows():
            raise BufferError(
                f"this evaluation keeps {n_rows} rows of logits, more than the {self._rows_most} there is room for, so their "
                f"memory has to move: arrays of `logits` or `hidden` are left; copy() them, or del them first"
            )

    def _rows(self, ith: Callable[..., Any], width: int) -> Array:
        """Every kept row, (n_rows, width) float32, where the library has it."""
        n_rows = int(lib.bitnet_logits_count(self._pointer))
        first, last = ith(self._pointer, 0), ith(self._pointer, n_rows - 1)
        if not first or not last:  # without a status: its sister has one
            n = ctypes.c_size_t()
            check(lib.bitnet_copy_logits(self._pointer, -1, None, ctypes.byref(n)))
            raise InternalError("rows of the last eval cannot be read")
        begin = ctypes.cast(first, ctypes.c_void_p).value or 0
        end = (ctypes.cast(last, ctypes.c_void_p).value or 0) + 4 * width
        if end - begin != 4 * width * n_rows:
            raise InternalError(
                f"{n_rows} rows of {width} floats lie in {end - begin} bytes: this package cannot show them"
            )
        return self._window(begin, (n_rows, width))

    def _window(self, address: int, shape: Tuple[int, ...]) -> Array:
        n_bytes = 4
        for length in shape:
            n_bytes *= length
        window = Window(address, n_bytes, self._handle)
        self._live_windows()
        self._windows.append(weakref.ref(window.memory))
        return window.array(c.BITNET_DTYPE_F32, shape)

    @property
    def logits(self) -> Array:
        """Logits of the rows that the last eval kept: (n_rows, n_vocab) float32, read-only, not copied. See Arrays above."""
        return self._rows(lib.bitnet_get_logits_ith, self.model.info.n_vocab)

    @property
    def hidden(self) -> Array:
        """Output of the final norm of the same rows: (n_rows, n_embd) float32, likewise."""
        return self._rows(lib.bitnet_get_hidden_ith, self.model.info.n_embd)

    def logprobs(self, tokens: Sequence[int]) -> Array:
        """(n,) float64: the natural log-probability of tokens[j] in row j of the kept rows, for the first n of them."""
        ids = token_ids(tokens)
        out = (ctypes.c_double * len(ids))()
        check(lib.bitnet_token_logprobs(self._pointer, ids, len(ids), out))
        return doubles(out)

    def top(self, k: int = 5, row: int = -1) -> List[Tuple[int, float]]:
        """The k largest logits of a kept row (negative: from the end) as (token, logit), largest first, ties to the lowest id."""
        k = int(k)
        if not 1 <= k <= self.model.info.n_vocab:
            raise InvalidError(f"k is {k}: expected 1 to {self.model.info.n_vocab}")
        tokens, logits = (ctypes.c_int32 * k)(), (ctypes.c_float * k)()
        check(lib.bitnet_top_logits(self._pointer, int32(row, "row"), k, tokens, logits))
        return list(zip(tokens, logits))

    def copy_logits(self, row: int = -1) -> Array:
        """One row of logits, (n_vocab,) float32, in memory of its own."""
        out, address = new_array(c.BITNET_DTYPE_F32, (self.model.info.n_vocab,))
        n = ctypes.c_size_t(self.model.info.n_vocab)
        row = int32(row, "row")
        check(
            lib.bitnet_copy_logits(
                self._pointer, row, ctypes.cast(address, ctypes.POINTER(ctypes.c_float)), ctypes.byref(n)
            )
        )
        return out

    # Generation and traces

    def generate(self, prompt: Union[str, bytes, Iterable[int], None] = None, **params: Any) -> "Generation":
        """An iterator over new tokens; `prompt` is evaluated first. Its parameters are those of Generation."""
        from ._generate import Generation

        if prompt is not None:
            self.eval(prompt)
        return Generation(self, **params)

    def trace(
        self,
        *sinks: "Sink",
        select: Optional[str] = None,
        events: Union[str, Iterable[str]] = "tensor",
        copy: bool = False,
        prompt: Union[str, bytes, None] = None,
    ) -> "Tracing":
        """`with ctx.trace(sink, ...):` shows every intermediate tensor to sinks. See Tracing."""
        from ._trace import Tracing

        return Tracing(self, sinks, select=select, events=events, copy=copy, prompt=prompt)

    def _end_generation(self) -> None:
        generation = self._generation() if self._generation is not None else None
        if generation is not None:
            generation.close()

    def close(self) -> None:
        """Ends traces and gives the memory back, which waits for arrays that still show it. Twice is once."""
        if self._handle is None:
            return
        self._end_generation()
        check(lib.bitnet_trace_set_sink(self._pointer, None, None))
        self._handle = None

    def __enter__(self) -> "Context":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._handle is None:
            return "<bitnet.Context, closed>"
        return f"<bitnet.Context at position {self.position} of {self.capacity}, {self.memory / 1e6:.1f} MB>"
