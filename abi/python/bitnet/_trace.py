"""Tracing a context: callables of Python and plugins as sinks."""

from __future__ import annotations

import ctypes
import os
import sys
import traceback
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple, Union

from . import _library as c
from ._errors import InvalidError, PluginError
from ._events import EVENTS, TensorWindow, simple_event, stop_evaluation
from ._loader import Handle, check, decode, lib, sized, text

if TYPE_CHECKING:
    from ._context import Context
    from ._model import Model

#: A callable that takes events (the tensors' type is Tensor), or a plugin, "jsonl:path=a.jsonl".
Sink = Union[str, Callable[[Any], Any]]


@dataclass(frozen=True)
class TraceStats:
    """What tracing did and cost."""

    n_sinks: int  #: attached now
    n_events: int
    n_bytes: int  #: tensor bytes in them
    n_failures: int  #: plugins that could not be attached, and sinks that were detached for failing
    seconds: float  #: spent in sinks and services
    last_failure: str


def stats_of(function: Callable[[Any, Any], int], pointer: Any) -> TraceStats:
    stats = sized(c.bitnet_trace_stats_t)
    check(function(pointer, ctypes.byref(stats)))
    return TraceStats(
        stats.n_sinks, stats.n_events, stats.n_bytes, stats.n_failures, stats.seconds, decode(stats.last_failure)
    )


def plugin_of(sink: str) -> Tuple[bytes, bytes]:
    """(name, configuration) of "name:configuration"."""
    name, _, config = sink.partition(":")
    return text(name, "plugin"), text(config, "configuration")


def _wanted(events: Union[str, Iterable[str]]) -> int:
    names = (list(EVENTS) if events == "all" else [events]) if isinstance(events, str) else list(events)
    want = 0
    for name in names:
        if name not in EVENTS:
            raise InvalidError(f"there is no event '{name}': the events are {', '.join(EVENTS)}, or 'all'")
        want |= 1 << EVENTS[name]
    return want


class CallableSink:
    """The library's table of functions for a callable. Must outlive its attachment."""

    def __init__(self, function: Callable[[Any], Any], events: Union[str, Iterable[str]], copy: bool) -> None:
        if not callable(function):
            raise InvalidError(f"a sink is {function!r}: expected a callable or a plugin as text, 'jsonl:path=a.jsonl'")
        self.function: Optional[Callable[[Any], Any]] = function
        self.copy = copy
        self.error: Optional[BaseException] = None
        self.owner: Optional[Handle] = None  # of the memory that events show, as far as anybody owns it
        self._host: Any = None
        table = {name: kind for name, kind in c.bitnet_trace_sink_t._fields_}  # type: ignore[misc]
        name = getattr(function, "__qualname__", type(function).__name__)
        self.table = sized(
            c.bitnet_trace_sink_t,
            abi_version=c.BITNET_ABI_VERSION,
            name=f"python {name}".encode(),
            want=_wanted(events),
            open=table["open"](self._open),
            event=table["event"](self._event),
        )

    def _open(self, state: Any, host: Any, config: Any) -> int:
        self._host = host
        return int(c.BITNET_OK)

    def _event(self, state: Any, pointer: Any) -> int:
        if self.function is None:
            return int(c.BITNET_OK)
        handled = sys.exc_info()[1]  # what the caller's own code is dealing with
        try:
            if pointer.contents.type == c.BITNET_EVENT_TENSOR:
                self._tensor(TensorWindow(self._host, pointer, self.owner))
            else:
                self.function(simple_event(pointer))
        except BaseException as error:  # it must not unwind through C: raised at the end of the `with`
            _forget_locals(error, handled)
            self.error = error
            if not isinstance(error, Exception):  # Ctrl-C: nobody wants the rest of the evaluation
                stop_evaluation(self._host, "interrupted")
            return int(c.BITNET_E_USER)
        return int(c.BITNET_OK)

    def _tensor(self, window: TensorWindow) -> None:
        assert self.function is not None
        try:
            event = window.event()
            self.function(event.copy() if self.copy else event)
            del event
        finally:
            window.end()
        left = [weakref.ref(memory) for memory in window.windows]
        window.windows.clear()
        # Reference counts tell at once; other Pythons cannot.
        if sys.implementation.name == "cpython" and any(memory() is not None for memory in left):
            raise BufferError("a sink kept an array of an event beyond its call: copy() it, or trace with copy=True")


def _forget_locals(error: Optional[BaseException], handled: Optional[BaseException]) -> None:
    """The functions that an error went through may hold the event, whose memory will be gone when somebody looks at them."""
    while error is not None and error is not handled:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def raise_first(sinks: Sequence[CallableSink], failures_before: int, after: TraceStats) -> None:
    for sink in sinks:
        if sink.error is not None:
            raise sink.error
    if after.n_failures > failures_before:
        raise PluginError(after.last_failure)


class Tracing:
    """Shows every selected tensor of a context to sinks while the `with` lasts.

    A sink is a callable, called with events on the thread that evaluates, in execution order, or a plugin as text. `select`: what
    is traced, "seq:layer:stage" with ranges, lists and globs ("*:0-3:*_norm"); None for what BITNET_TRACE_SELECT says, else every
    stage but attention scores and integer companions. `events`: what callables get: "tensor", other names ("run_begin",
    "step_begin", "kv_state", "step_end", "run_end"), several, or "all". `copy`: give callables events with memory of their own,
    which they may keep. `prompt`: text of the prompt for the run's record; a text given to eval at position 0 is noted by itself.

    A callable that raises is detached and changes nothing else; leaving the `with` raises what it raised, or PluginError for a
    plugin that failed, unless the body raised something itself (then see `error`). Leaving it detaches the sinks; plugins only
    stay, until the context is closed, when BITNET_TRACE_PLUGIN had attached others before.
    """

    def __init__(
        self,
        context: "Context",
        sinks: Sequence[Sink],
        *,
        select: Optional[str] = None,
        events: Union[str, Iterable[str]] = "tensor",
        copy: bool = False,
        prompt: Union[str, bytes, None] = None,
    ) -> None:
        if not sinks:
            raise InvalidError("trace() without a sink: give a callable or a plugin as text, 'jsonl:path=a.jsonl'")
        events = events if isinstance(events, str) else list(events)
        self.context = context
        self._sinks: List[Union[str, CallableSink]] = [
            sink if isinstance(sink, str) else CallableSink(sink, events, copy) for sink in sinks
        ]
        self._select = select
        self._prompt = prompt.encode() if isinstance(prompt, str) else prompt
        self._before: Optional[TraceStats] = None
        self._after: Optional[TraceStats] = None

    @property
    def _callables(self) -> List[CallableSink]:
        return [sink for sink in self._sinks if isinstance(sink, CallableSink)]

    @property
    def error(self) -> Optional[BaseException]:
        """What the first callable that raised has raised."""
        return next((sink.error for sink in self._callables if sink.error is not None), None)

    @property
    def interrupt(self) -> Optional[BaseException]:
        """A Ctrl-C, or what else is no Exception, that met a callable."""
        return None if isinstance(self.error, Exception) else self.error

    @property
    def stats(self) -> TraceStats:
        """So far, or as it ended: of the context."""
        return self._after or stats_of(lib.bitnet_trace_get_stats, self.context._pointer)

    def __enter__(self) -> "Tracing":
        context = self.context
        if context.tracing is not None:
            raise InvalidError("the context is being traced already: give one trace() several sinks")
        if self._before is not None:
            raise InvalidError("a trace is entered once: make another")
        pointer = context._pointer
        self._before = stats_of(lib.bitnet_trace_get_stats, pointer)
        try:
            if self._select is not None:
                check(lib.bitnet_trace_select(pointer, text(self._select, "select")))
            if self._prompt is not None:
                check(lib.bitnet_trace_set_prompt(pointer, self._prompt, len(self._prompt)))
            for sink in self._sinks:
                if isinstance(sink, str):
                    check(lib.bitnet_trace_load_plugin(pointer, *plugin_of(sink)))
                else:
                    self._handle.keep.append(sink)
                    sink.owner = self._handle
                    check(lib.bitnet_trace_set_sink(pointer, ctypes.byref(sink.table), None))
        except BaseException:
            self._detach()
            raise
        context.tracing = self
        return self

    @property
    def _handle(self) -> Handle:
        handle = self.context._handle
        if handle is None:
            raise InvalidError("the context is closed")
        return handle

    def __exit__(self, kind: object, error: Optional[BaseException], trace: object) -> None:
        self.context.tracing = None
        if self.context._handle is not None:
            self.context._end_generation()
            lib.bitnet_trace_end_run(self.context._pointer)  # what fails is counted
            self._after = self._detach()
        if error is None and self._before is not None and self._after is not None:
            raise_first(self._callables, self._before.n_failures, self._after)

    def _detach(self) -> TraceStats:
        """Numbers at the end, of before the sinks were gone."""
        pointer, handle = self.context._pointer, self._handle
        stats = stats_of(lib.bitnet_trace_get_stats, pointer)
        if self._select is not None:
            lib.bitnet_trace_select(pointer, os.environ.get("BITNET_TRACE_SELECT", "").encode())
        for sink in self._callables:
            sink.function = sink.owner = None
        if self._before is not None and self._before.n_sinks:
            return stats  # others were there before: ours stay attached, and silent
        check(lib.bitnet_trace_set_sink(pointer, None, None))
        handle.keep = [kept for kept in handle.keep if not any(kept is sink for sink in self._sinks)]
        return stats

    def __repr__(self) -> str:
        s = self.stats
        size = f"{s.n_events} events, {s.n_bytes / 1e6:.1f} MB"
        return f"<bitnet.Tracing, {size}, {s.n_failures} failures, {s.seconds:.3f} s in sinks>"


class ModelTracing:
    """The same for a new context: `with model.trace(...) as ctx:`, closed at the end."""

    def __init__(self, model: "Model", sinks: Sequence[Sink], context: Dict[str, Any], params: Dict[str, Any]) -> None:
        self._context = model.context(**context)
        self._tracing = Tracing(self._context, sinks, **params)

    def __enter__(self) -> "Context":
        self._tracing.__enter__()
        return self._context

    def __exit__(self, kind: object, error: Optional[BaseException], trace: object) -> None:
        try:
            self._tracing.__exit__(kind, error, trace)
        finally:
            self._context.close()
