"""Generation as an iterator.

The library generates in one call that hands each token to a callback. That call runs on a thread of its own, which waits in the
callback until the next token is asked for: so an iterator has every setting of the call, draws the same tokens, and computes
nothing that nobody asks for.
"""

from __future__ import annotations

import codecs
import ctypes
import threading
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Iterable, List, Optional, Sequence

from . import _library as c
from ._buffers import Array, token_ids
from ._errors import BusyError, CancelledError
from ._loader import check, lib, sized, text

if TYPE_CHECKING:
    from ._context import Context


@dataclass(frozen=True)
class Token:
    """A new token."""

    id: int
    bytes: bytes  #: what it stands for; b"" for a control token
    text: str  #: the text that became complete with it: characters may take several tokens
    #: (n_vocab,) float32: the row it was drawn from, not copied: stale once the next token is asked for. None when the certified
    #: head found the token without it.
    logits: Optional[Array]


class _Worker:
    """The call, its thread, and the turns that both sides take. Knows nothing of the iterator, which may go away."""

    def __init__(self, context: "Context", params: Any, keep: Sequence[object]) -> None:
        self.context, self.params, self.keep = context, params, keep
        self.asked, self.answered = threading.Semaphore(0), threading.Semaphore(0)
        self.token: Optional[int] = None  # None: the call has ended
        self.logits = 0  # address
        self.stopping = False
        self.error: Optional[BaseException] = None
        self.n = 0
        self.callback = c.bitnet_token_fn(self._on_token)
        self.thread = threading.Thread(target=self._run, name="bitnet generate", daemon=True)

    def _on_token(self, user: object, token: int, logits: Any, n_vocab: int) -> int:
        self.token, self.n = token, self.n + 1
        self.logits = ctypes.cast(logits, ctypes.c_void_p).value or 0
        self.answered.release()
        self.asked.acquire()
        return 1 if self.stopping else 0

    def _run(self) -> None:
        self.asked.acquire()
        try:
            if not self.stopping:
                self.params.on_token = self.callback
                n = ctypes.c_size_t(0)
                check(lib.bitnet_generate(self.context._pointer, ctypes.byref(self.params), None, ctypes.byref(n)))
        except CancelledError as error:
            self.error = None if self.stopping else error
        except BaseException as error:
            self.error = error
        self.token = None
        self.answered.release()

    def stop(self) -> None:
        """Ends the call before its next token. From any thread but its own."""
        if not self.thread.is_alive() or threading.current_thread() is self.thread:
            return
        self.stopping = True
        self.asked.release()
        self.thread.join()


class Generation:
    """New tokens that continue the context's last eval. Iterate; leaving the loop, `close()`, or letting go of it ends it, at the
    position that was reached: all but the last token have been evaluated. In between the context is busy.

    `max_tokens`: None for until an end token or the context is full. `temperature`: 0 is greedy, ties to the lowest id. `top_k`,
    `top_p`, `min_p`, `repeat_penalty`: 0 is off; the penalty looks at the last `repeat_last_n` tokens. `seed`: the same seed gives
    the same tokens on every machine. `stop`: texts, `stop_tokens`: ids that end it, besides the model's end tokens, unless
    `ignore_end`.
    """

    def __init__(
        self,
        context: "Context",
        *,
        max_tokens: Optional[int] = None,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 0.0,
        min_p: float = 0.0,
        repeat_penalty: float = 0.0,
        repeat_last_n: int = 64,
        seed: int = 0,
        stop: Iterable[str] = (),
        stop_tokens: Iterable[int] = (),
        ignore_end: bool = False,
    ) -> None:
        texts = [text(one, "stop") for one in ([stop] if isinstance(stop, str) else stop)]
        strings = (ctypes.c_char_p * len(texts))(*texts)
        ids = token_ids(stop_tokens)
        params = sized(
            c.bitnet_generate_params_t,
            max_tokens=max_tokens or 0,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repeat_penalty=repeat_penalty,
            repeat_last_n=repeat_last_n,
            seed=seed % 2**64,
            flags=c.BITNET_GENERATE_IGNORE_END if ignore_end else 0,
        )
        params.stop_strings = ctypes.cast(strings, type(params.stop_strings))
        params.n_stop_strings = len(texts)
        params.stop_tokens = ctypes.cast(ids, type(params.stop_tokens))
        params.n_stop_tokens = len(ids)
        context._end_generation()  # the one before, if it was left in the middle
        self.context = context
        self.tokens: List[int] = []  #: ids so far
        self.text = ""  #: what they say so far
        self.stopped_by: Optional[str] = None  #: "end", "stop", "length", "full", "closed"; None while it goes on
        self._limit = max_tokens
        self._stops = set(ids)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._worker = _Worker(context, params, (strings, ids))
        # Also when the program ends: a thread must not be left inside the library.
        self._finalizer = weakref.finalize(self, self._worker.stop)
        context._generation = weakref.ref(self)
        if max_tokens == 0:
            self._end("length")

    def __iter__(self) -> "Generation":
        return self

    def __next__(self) -> Token:
        worker = self._worker
        if self.stopped_by is not None:
            raise StopIteration
        if threading.current_thread() is worker.thread:
            raise BusyError("the generation is under way: a sink cannot ask for its next token")
        if worker.thread.ident is None:
            worker.thread.start()
        worker.asked.release()
        try:
            worker.answered.acquire()
        except BaseException:  # Ctrl-C: whose turn it is would no longer be known
            self.close()
            raise
        if worker.token is None:
            worker.thread.join()
            self._end(self._reason())
            if worker.error is not None:
                raise worker.error
            raise StopIteration
        return self._token(worker.token)

    def _token(self, token: int) -> Token:
        context = self.context
        data = context.model.detokenize_bytes([token])
        complete = self._decoder.decode(data)
        self.tokens.append(token)
        self.text += complete
        logits = context._window(self._worker.logits, (context.model.info.n_vocab,)) if self._worker.logits else None
        return Token(token, data, complete, logits)

    def _reason(self) -> str:
        if self._worker.error is not None:
            return "error"
        last = self.tokens[-1] if self.tokens else None
        if last in self._stops:
            return "stop"
        if not self._worker.params.flags and last in self.context.model.end_ids:
            return "end"
        if self._limit is not None and len(self.tokens) == self._limit:
            return "length"
        return "full" if self.context.position == self.context.capacity else "stop"

    def _end(self, reason: str) -> None:
        self.stopped_by = reason
        self.text += self._decoder.decode(b"", True)
        self._finalizer()

    def close(self) -> None:
        """Ends it; the context can be used again. Twice is once."""
        if self.stopped_by is None:
            self._end("closed")

    def __enter__(self) -> "Generation":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<bitnet.Generation, {len(self.tokens)} tokens, {self.stopped_by or 'under way'}>"
