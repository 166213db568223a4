"""The library through its C ABI, as far as the tests need it: load, evaluate, trace every stage, force values.

    library = Library("build/release/lib/libbitnet.so")
    context = library.load("model.gguf", semantics="activation=silu").context(threads=2, kv="f16")
    logits = context.eval([1, 2, 3])                      # (3, n_vocab) float32
    record = context.trace([1, 2, 3], parts=[2, 1])       # {(layer, stage): (3, width)}
    context.trace([1, 2, 3], forced={(0, "layer_out"): h})  # every stage after layer 0 is computed from h

The structs are written here once more, on purpose: check_layouts() asks the library for its own sizes.
"""

import ctypes
import re
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    byref,
    c_char_p,
    c_double,
    c_float,
    c_int32,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
)

import numpy as np

STAGE_COUNT = 22
COMPANIONS = (0x100, 0x200, 0x300)
LOGITS_LAST, LOGITS_ALL, LOGITS_NONE = 0, 1, 2
KV_TYPES = {None: 0, "f32": 1, "f16": 2}
EVENT_RUN_BEGIN, EVENT_STEP_BEGIN, EVENT_TENSOR, EVENT_STEP_END, EVENT_RUN_END = range(1, 6)
DTYPES = {0: np.float32, 3: np.int8, 4: np.int32}
E_USER = -13
OVERRIDE = b"bitnet.override/1"
EVERYTHING = "*,attn_scores,*.codes,*.scale,*.acc"  # a bare '*' leaves out what is off by default
PADDING = {"attn_scores": -np.inf, "attn_scores_softmax": 0.0}  # of the positions that a row does not see
GENERATE_IGNORE_END = 1


class LoadParams(Structure):
    _fields_ = (
        ("struct_size", c_uint32),
        ("flags", c_uint32),
        ("isa", c_char_p),
        ("semantics", c_char_p),
        ("progress", c_void_p),
        ("progress_user", c_void_p),
    )


class ModelInfo(Structure):
    _fields_ = (
        ("struct_size", c_uint32),
        ("n_vocab", c_int32),
        ("n_ctx_train", c_int32),
        ("n_embd", c_int32),
        ("n_layer", c_int32),
        ("n_ff", c_int32),
        ("n_head", c_int32),
        ("n_head_kv", c_int32),
        ("head_dim", c_int32),
        ("n_rot", c_int32),
        ("rms_eps", c_float),
        ("head_tied", c_int32),
        ("rope_theta", c_double),
        ("n_params", c_uint64),
        ("n_bytes", c_uint64),
    )


class ContextParams(Structure):
    _fields_ = (
        ("struct_size", c_uint32),
        ("n_ctx", c_int32),
        ("n_threads", c_int32),
        ("n_batch", c_int32),
        ("kv_type", c_uint32),
        ("device_id", c_int32),
        ("head", c_uint32),
        ("reserved", c_uint32),
    )


class EvalParams(Structure):
    _fields_ = (
        ("struct_size", c_uint32),
        ("logits", c_uint32),
        ("embeddings", c_void_p),
        ("cancel", c_void_p),
        ("cancel_user", c_void_p),
    )


class GenerateParams(Structure):
    _fields_ = (
        ("struct_size", c_uint32),
        ("max_tokens", c_int32),
        ("temperature", c_float),
        ("top_k", c_int32),
        ("top_p", c_float),
        ("min_p", c_float),
        ("repeat_penalty", c_float),
        ("repeat_last_n", c_int32),
        ("seed", c_uint64),
        ("stop_tokens", c_void_p),
        ("n_stop_tokens", c_size_t),
        ("stop_strings", c_void_p),
        ("n_stop_strings", c_size_t),
        ("flags", c_uint32),
        ("reserved", c_uint32),
        ("on_token", c_void_p),
        ("on_token_user", c_void_p),
    )


class Event(Structure):
    _fields_ = (
        ("size", c_uint32),
        ("type", c_uint32),
        ("flags", c_uint32),
        ("layer", c_int32),
        ("position", c_int32),
        ("run", c_uint32),
        ("seq", c_uint64),
        ("time_ns", c_uint64),
    )


class TensorEvent(Structure):
    _fields_ = (
        ("header", Event),
        ("stage", c_int32),
        ("dtype", c_int32),
        ("stage_name", c_char_p),
        ("kernel", c_char_p),
        ("n_rows", c_uint32),
        ("first_row", c_uint32),
        ("n_dims", c_uint32),
        ("n_inputs", c_uint32),
        ("shape", c_uint64 * 4),
        ("row_elements", c_uint64),
        ("row_stride", c_uint64),
        ("data", c_void_p),
        ("ns", c_uint64),
        ("inputs", c_void_p),
    )


class Host(Structure):
    pass


Host._fields_ = (
    ("struct_size", c_uint32),
    ("abi_version", c_uint32),
    ("self", c_void_p),
    ("log", CFUNCTYPE(None, POINTER(Host), c_int32, c_char_p)),
    ("get_extension", CFUNCTYPE(c_void_p, POINTER(Host), c_char_p)),
)


class OverrideExtension(Structure):
    _fields_ = (
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("replace", CFUNCTYPE(c_int32, POINTER(Host), POINTER(TensorEvent), c_uint32, c_void_p, c_size_t)),
    )


OPEN = CFUNCTYPE(c_int32, POINTER(c_void_p), POINTER(Host), c_char_p)
ON_EVENT = CFUNCTYPE(c_int32, c_void_p, POINTER(Event))
FLUSH = CFUNCTYPE(c_int32, c_void_p)
CLOSE = CFUNCTYPE(None, c_void_p)


class SinkTable(Structure):
    _fields_ = (
        ("struct_size", c_uint32),
        ("abi_version", c_uint32),
        ("name", c_char_p),
        ("want", c_uint64),
        ("open", OPEN),
        ("event", ON_EVENT),
        ("flush", FLUSH),
        ("close", CLOSE),
    )


FUNCTIONS = {
    "bitnet_abi_version": (c_uint32,),
    "bitnet_last_error": (c_char_p,),
    "bitnet_status_name": (c_char_p, c_int32),
    "bitnet_isa_count": (c_int32,),
    "bitnet_isa_name": (c_char_p, c_int32),
    "bitnet_isa_usable": (c_int32, c_int32),
    "bitnet_stage_name": (c_char_p, c_int32),
    "bitnet_load": (c_int32, c_char_p, POINTER(LoadParams), POINTER(c_void_p)),
    "bitnet_model_free": (None, c_void_p),
    "bitnet_model_get_info": (c_int32, c_void_p, POINTER(ModelInfo)),
    "bitnet_model_semantics": (c_char_p, c_void_p),
    "bitnet_tokenize_text": (c_int32, c_void_p, c_char_p, c_size_t, c_uint32, POINTER(c_int32), POINTER(c_size_t)),
    "bitnet_context_create": (c_int32, c_void_p, POINTER(ContextParams), POINTER(c_void_p)),
    "bitnet_context_free": (None, c_void_p),
    "bitnet_context_reset": (c_int32, c_void_p),
    "bitnet_eval_tokens": (c_int32, c_void_p, POINTER(c_int32), c_size_t, POINTER(EvalParams)),
    "bitnet_logits_count": (c_int32, c_void_p),
    "bitnet_copy_logits": (c_int32, c_void_p, c_int32, POINTER(c_float), POINTER(c_size_t)),
    "bitnet_generate": (c_int32, c_void_p, POINTER(GenerateParams), POINTER(c_int32), POINTER(c_size_t)),
    "bitnet_trace_set_sink": (c_int32, c_void_p, POINTER(SinkTable), c_void_p),
    "bitnet_trace_select": (c_int32, c_void_p, c_char_p),
}


class LibraryError(RuntimeError):
    pass


class Library:
    def __init__(self, path):
        self.dll = ctypes.CDLL(str(path))
        for name, (result, *arguments) in FUNCTIONS.items():
            function = getattr(self.dll, name)
            function.restype, function.argtypes = result, arguments
        self.check_layouts()

    def check(self, status):
        if status != 0:
            name = self.dll.bitnet_status_name(status).decode()
            raise LibraryError(f"{name}: {self.dll.bitnet_last_error().decode(errors='replace')}")

    def usable_isas(self):
        isas = range(self.dll.bitnet_isa_count())
        return [self.dll.bitnet_isa_name(i).decode() for i in isas if self.dll.bitnet_isa_usable(i)]

    def stage_names(self):
        """Every stage and companion by name."""
        ids = [base | companion for companion in (0, *COMPANIONS) for base in range(1, STAGE_COUNT + 1)]
        return [name.decode() for name in map(self.dll.bitnet_stage_name, ids) if name]

    def check_layouts(self):
        """A struct of size 0 is refused with the size that the library expects."""
        out = c_void_p()
        self._check_layout(LoadParams, lambda p: self.dll.bitnet_load(b"no such file", byref(p), byref(out)))

    def _check_layout(self, struct, call):
        if call(struct(struct_size=0)) == 0:
            raise LibraryError(f"{struct.__name__}: a struct_size of 0 was accepted")
        text = self.dll.bitnet_last_error().decode()
        expected = re.search(r"struct_size is 0: expected (\d+) to \d+$", text)
        if not expected or int(expected[1]) != ctypes.sizeof(struct):
            raise LibraryError(f"{struct.__name__} has {ctypes.sizeof(struct)} bytes here, but: {text}")

    def load(self, path, isa=None, semantics=None):
        return Model(self, path, isa, semantics)


class Model:
    def __init__(self, library, path, isa, semantics):
        self.library, self.dll, self.handle = library, library.dll, c_void_p()
        params = LoadParams(
            struct_size=ctypes.sizeof(LoadParams),
            isa=isa.encode() if isa else None,
            semantics=semantics.encode() if semantics else None,
        )
        library.check(self.dll.bitnet_load(str(path).encode(), byref(params), byref(self.handle)))
        library._check_layout(ModelInfo, lambda p: self.dll.bitnet_model_get_info(self.handle, byref(p)))
        out = c_void_p()
        library._check_layout(
            ContextParams, lambda p: self.dll.bitnet_context_create(self.handle, byref(p), byref(out))
        )
        self.info = ModelInfo(struct_size=ctypes.sizeof(ModelInfo))
        library.check(self.dll.bitnet_model_get_info(self.handle, byref(self.info)))
        self.semantics = self.dll.bitnet_model_semantics(self.handle).decode()

    def __del__(self):
        self.dll.bitnet_model_free(self.handle)

    def tokenize(self, text, flags=0):
        """ids of the text's UTF-8 bytes."""
        text = text.encode()
        n = c_size_t()
        self.library.check(self.dll.bitnet_tokenize_text(self.handle, text, len(text), flags, None, byref(n)))
        ids = (c_int32 * n.value)()
        self.library.check(self.dll.bitnet_tokenize_text(self.handle, text, len(text), flags, ids, byref(n)))
        return list(ids)

    def context(self, threads=1, batch=0, kv=None, n_ctx=0, certified=False):
        return Context(self, threads, batch, kv, n_ctx, certified)


class Context:
    def __init__(self, model, threads, batch, kv, n_ctx, certified):
        self.library, self.dll, self.model, self.handle = model.library, model.dll, model, c_void_p()
        params = ContextParams(ctypes.sizeof(ContextParams), n_ctx, threads, batch, KV_TYPES[kv], 0, int(certified))
        self.library.check(self.dll.bitnet_context_create(model.handle, byref(params), byref(self.handle)))
        token = (c_int32 * 1)()
        n = c_size_t(0)
        for struct, call in {
            EvalParams: lambda p: self.dll.bitnet_eval_tokens(self.handle, token, 1, byref(p)),
            GenerateParams: lambda p: self.dll.bitnet_generate(self.handle, byref(p), token, byref(n)),
        }.items():
            self.library._check_layout(struct, call)

    def __del__(self):
        self.dll.bitnet_context_free(self.handle)

    def reset(self):
        self.library.check(self.dll.bitnet_context_reset(self.handle))

    def eval(self, tokens, logits=LOGITS_ALL):
        """Append tokens; the kept rows of logits as (rows, n_vocab) float32."""
        ids = (c_int32 * len(tokens))(*map(int, tokens))
        params = EvalParams(struct_size=ctypes.sizeof(EvalParams), logits=logits)
        self.library.check(self.dll.bitnet_eval_tokens(self.handle, ids, len(tokens), byref(params)))
        out = np.empty((self.dll.bitnet_logits_count(self.handle), self.model.info.n_vocab), np.float32)
        for i, row in enumerate(out):
            n = c_size_t(row.size)
            pointer = row.ctypes.data_as(POINTER(c_float))
            self.library.check(self.dll.bitnet_copy_logits(self.handle, i, pointer, byref(n)))
        return out

    def greedy(self, max_tokens, ignore_end=False):
        """Tokens that follow the last eval, each the most likely one."""
        params = GenerateParams(struct_size=ctypes.sizeof(GenerateParams), max_tokens=max_tokens)
        params.flags = GENERATE_IGNORE_END if ignore_end else 0
        out, n = (c_int32 * max_tokens)(), c_size_t(max_tokens)
        self.library.check(self.dll.bitnet_generate(self.handle, byref(params), out, byref(n)))
        return list(out[: n.value])

    def trace(self, tokens, parts=None, select=EVERYTHING, forced=None):
        """Evaluate tokens from position 0, in parts of these sizes, and record the selected stages.

        -> {(layer, stage): [n_tokens, width]}, and the ids under (-1, "ids"). Rows of attention scores are padded to
        the last position. `forced` {(layer, stage): [n_tokens, width]} replaces what the engine goes on with; the
        record still holds what it had computed itself.
        """
        forced = {key: np.ascontiguousarray(rows, np.float32) for key, rows in (forced or {}).items()}
        sink = _Sink(forced)
        self.reset()
        check, dll = self.library.check, self.dll
        check(dll.bitnet_trace_set_sink(self.handle, byref(sink.table), None))
        try:
            check(dll.bitnet_trace_select(self.handle, select.encode()))
            begin = 0
            for size in parts or [len(tokens)]:
                self.eval(tokens[begin : begin + size], LOGITS_NONE)
                begin += size
        finally:
            check(dll.bitnet_trace_set_sink(self.handle, None, None))
        if sink.error is not None:
            raise sink.error
        if begin != len(tokens):
            raise ValueError(f"parts {parts} are {begin} tokens, not {len(tokens)}")
        missed = forced.keys() - sink.replaced
        if missed:
            raise ValueError(f"forced, but never evaluated or not selected: {sorted(missed)}")
        return {(-1, "ids"): np.asarray(tokens), **sink.record(len(tokens))}


class _Sink:
    """Collects rows of tensor events and replaces the forced ones."""

    def __init__(self, forced):
        self.forced, self.replaced, self.error = forced, set(), None
        self.rows = {}  # (layer, stage): {position: row}
        self.callbacks = OPEN(self._open), ON_EVENT(self._event)  # must outlive the attachment
        self.table = SinkTable(
            struct_size=ctypes.sizeof(SinkTable),
            abi_version=1 << 16,
            name=b"test",
            want=1 << EVENT_TENSOR,
            open=self.callbacks[0],
            event=self.callbacks[1],
        )

    def _open(self, state, host, config):
        self.host = host
        extension = host.contents.get_extension(host, OVERRIDE)
        self.override = ctypes.cast(extension, POINTER(OverrideExtension)).contents
        return 0

    def _event(self, state, event):
        try:
            self._tensor(ctypes.cast(event, POINTER(TensorEvent)))
            return 0
        except Exception as error:  # noqa: BLE001 - must not unwind through C; trace() raises it
            self.error = error
            return E_USER

    def _tensor(self, pointer):
        event = pointer.contents
        if event.header.size != ctypes.sizeof(TensorEvent):
            raise LibraryError(f"a tensor event has {event.header.size} bytes, here {ctypes.sizeof(TensorEvent)}")
        dtype = np.dtype(DTYPES[event.dtype])
        key = event.header.layer, event.stage_name.decode()
        rows = self.rows.setdefault(key, {})
        for r in range(event.n_rows):
            position = event.header.position + r
            if position in rows:
                raise LibraryError(f"{key} of position {position} came twice")
            raw = ctypes.string_at(event.data + r * event.row_stride, event.row_elements * dtype.itemsize)
            rows[position] = np.frombuffer(raw, dtype)
            if key in self.forced:
                self._force(pointer, key, r, position)

    def _force(self, pointer, key, r, position):
        row = self.forced[key][position]
        if key[1] in PADDING:
            row = np.ascontiguousarray(row.reshape(int(pointer.contents.shape[0]), -1)[:, : position + 1]).reshape(-1)
        status = self.override.replace(self.host, pointer, r, row.ctypes.data, row.size)
        if status != 0:
            raise LibraryError(f"{key} of position {position} with {row.size} values: override failed with {status}")
        self.replaced.add(key)

    def record(self, n_tokens):
        """The rows as arrays. All positions of a stage, or none: a row's place in its array is its position."""
        record = {}
        for key, rows in self.rows.items():
            if sorted(rows) != list(range(n_tokens)):
                raise ValueError(f"{key} has positions {sorted(rows)} of {n_tokens}: select all of them or none")
            ordered = [rows[position] for position in sorted(rows)]
            if key[1] in PADDING:
                ordered = [
                    self._padded(row, position, n_tokens, PADDING[key[1]]) for position, row in sorted(rows.items())
                ]
            record[key] = np.stack(ordered)
        return record

    @staticmethod
    def _padded(row, position, n_tokens, value):
        heads = row.reshape(-1, position + 1)
        out = np.full((len(heads), n_tokens), value, row.dtype)
        out[:, : position + 1] = heads
        return out.reshape(-1)
