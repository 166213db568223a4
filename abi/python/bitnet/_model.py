"""A model file, as the library sees it."""

from __future__ import annotations

import ctypes
import html
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Tuple, Union

from . import _library as c
from ._buffers import bytes_at, token_ids
from ._loader import Handle, check, decode, int32, lib, optional_text, read_ids, read_text, sized, text

if TYPE_CHECKING:
    from ._context import Context
    from ._generate import Generation
    from ._trace import ModelTracing, Sink

Progress = Callable[[int, int], Any]


@dataclass(frozen=True)
class ModelInfo:
    """Hyperparameters, as run: overrides of the semantics included."""

    n_vocab: int
    n_ctx_train: int  #: positions the model was trained for
    n_embd: int
    n_layer: int
    n_ff: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_rot: int  #: dimensions of a head that RoPE turns
    rms_eps: float
    head_tied: bool  #: the output head is the token embedding
    rope_theta: float
    n_params: int
    n_bytes: int  #: of the file


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of the file."""

    name: str
    type_name: str  #: "F32", "F16", "BF16", "I2_S"
    shape: Tuple[int, ...]  #: outermost first, as numpy writes it (GGUF lists the contiguous dimension first)
    file_offset: int  #: of its first byte in the file, bytes
    n_bytes: int


class Metadata(Mapping[str, Any]):
    """The keys of a GGUF file in file order. Numbers, bools, text, and lists of them; read when asked for."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        n = lib.bitnet_model_key_count(handle.pointer)
        self._index: Dict[str, int] = {decode(lib.bitnet_model_key_name(handle.pointer, i)): i for i in range(n)}

    def __getitem__(self, key: str) -> Any:
        i, pointer = self._index[key], self._handle.pointer
        kind = self.type(key)
        value = decode(read_text(lambda out, n: lib.bitnet_model_key_text(pointer, i, 0, out, n)))
        if kind == "str":
            return value
        if kind in ("f32", "f64"):
            return float(value)
        try:
            return json.loads(value)
        except ValueError:  # a list of floats with a NaN or infinity in it
            return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def type(self, key: str) -> str:
        """Type of a key's value as GGUF calls it, "u32", "str", "arr[str]"."""
        return decode(lib.bitnet_model_key_type(self._handle.pointer, self._index[key]))

    def length(self, key: str) -> int:
        """Items of a list, 1 for anything else."""
        return int(lib.bitnet_model_key_length(self._handle.pointer, self._index[key]))

    def __repr__(self) -> str:
        return f"<{len(self)} GGUF keys: {', '.join(list(self)[:3])}, ...>"


class Model:
    """A model: immutable, shareable between threads. Contexts made from it keep what they need of it alive.

    `isa`: instruction set by name ("avx2"), None for the best; all give the same bits. `semantics`: overrides of the
    mathematics, "activation=silu,eps=1e-6". `copy`: read the file instead of mapping it. `check_codes`: scan every ternary code.
    `progress(done, total)`: called while loading; returning True cancels.
    """

    def __init__(
        self,
        path: Union[str, "os.PathLike[str]"],
        *,
        isa: Optional[str] = None,
        semantics: Optional[str] = None,
        copy: bool = False,
        check_codes: bool = True,
        progress: Optional[Progress] = None,
    ) -> None:
        name = text(os.fspath(path), "path")
        self._load(lambda params, out: lib.bitnet_load(name, params, out), isa, semantics, copy, check_codes, progress)

    @classmethod
    def from_memory(
        cls,
        data: Any,
        name: str = "memory",
        *,
        isa: Optional[str] = None,
        semantics: Optional[str] = None,
        copy: bool = False,
        check_codes: bool = True,
        progress: Optional[Progress] = None,
    ) -> "Model":
        """The same from the bytes of a file: bytes, bytearray, mmap, numpy array. Without `copy` they are used where they are: the
        model and its contexts keep them alive, and they must not change."""
        model = cls.__new__(cls)
        address, n_bytes, keep = bytes_at(data)
        label = text(name, "name")
        model._load(
            lambda params, out: lib.bitnet_load_memory(address, n_bytes, label, params, out),
            isa,
            semantics,
            copy,
            check_codes,
            progress,
            keep,
        )
        return model

    def _load(
        self,
        call: Callable[[Any, Any], int],
        isa: Optional[str],
        semantics: Optional[str],
        copy: bool,
        check_codes: bool,
        progress: Optional[Progress],
        *keep: object,
    ) -> None:
        raised: List[BaseException] = []

        def on_progress(user: object, done: int, total: int) -> int:
            try:
                return 1 if progress is not None and progress(done, total) else 0
            except BaseException as error:  # it must not unwind through C: raised below
                raised.append(error)
                return 1

        flags = (c.BITNET_LOAD_COPY if copy else 0) | (0 if check_codes else c.BITNET_LOAD_UNCHECKED_CODES)
        params = sized(
            c.bitnet_load_params_t,
            flags=flags,
            isa=optional_text(isa, "isa"),
            semantics=optional_text(semantics, "semantics"),
        )
        if progress is not None:
            params.progress = c.bitnet_progress_fn(on_progress)
        pointer = ctypes.c_void_p()
        status = call(ctypes.byref(params), ctypes.byref(pointer))
        if raised:
            raise raised[0]
        check(status)
        self._handle = Handle(pointer, lib.bitnet_model_free, *keep)
        info = sized(c.bitnet_model_info_t)
        check(lib.bitnet_model_get_info(pointer, ctypes.byref(info)))
        values = {name: getattr(info, name) for name, _ in info._fields_[1:]}
        self.info = ModelInfo(**{**values, "head_tied": bool(info.head_tied)})

    # What the file is

    @property
    def path(self) -> str:
        return decode(lib.bitnet_model_path(self._handle.pointer))

    @property
    def architecture(self) -> str:
        return decode(lib.bitnet_model_architecture(self._handle.pointer))

    @property
    def isa(self) -> str:
        """The instruction set in use."""
        return decode(lib.bitnet_model_isa(self._handle.pointer))

    @property
    def semantics(self) -> str:
        """The mathematics as run, "activation=relu2,eps=1e-05,..."."""
        return decode(lib.bitnet_model_semantics(self._handle.pointer))

    @property
    def hash(self) -> str:
        """BLAKE3 of the whole file, 64 hex digits. Computed at the first call: about 0.3 s a GB."""
        return decode(read_text(lambda out, n: lib.bitnet_model_hash(self._handle.pointer, out, n)))

    @property
    def warnings(self) -> List[str]:
        """What a user should know about this file: what was assumed, what is unusual."""
        n = lib.bitnet_model_warning_count(self._handle.pointer)
        return [decode(lib.bitnet_model_warning(self._handle.pointer, i)) for i in range(n)]

    @property
    def metadata(self) -> Metadata:
        """The GGUF keys."""
        return Metadata(self._handle)

    @property
    def tensors(self) -> List[TensorInfo]:
        """The tensors in file order."""
        out = []
        for i in range(lib.bitnet_model_tensor_count(self._handle.pointer)):
            t = sized(c.bitnet_tensor_info_t)
            check(lib.bitnet_model_tensor(self._handle.pointer, i, ctypes.byref(t)))
            shape = tuple(reversed(t.dims[: t.n_dims]))
            out.append(TensorInfo(decode(t.name), decode(t.type_name), shape, t.file_offset, t.n_bytes))
        return out

    # Tokens

    def tokenize(
        self, text: Union[str, bytes], *, add_bos: Optional[bool] = None, parse_special: bool = False
    ) -> List[int]:
        """Token ids of a text (str: its UTF-8 bytes). `add_bos`: None for what the file asks. `parse_special`: "<|eot_id|>" in the
        text becomes that control token."""
        data = text.encode() if isinstance(text, str) else bytes(text)
        bos = self.wants_bos if add_bos is None else add_bos
        flags = (c.BITNET_TOKENIZE_ADD_BOS if bos else 0) | (c.BITNET_TOKENIZE_PARSE_SPECIAL if parse_special else 0)
        return read_ids(lambda out, n: lib.bitnet_tokenize_text(self._handle.pointer, data, len(data), flags, out, n))

    def detokenize_bytes(self, tokens: Iterable[int], *, special: bool = False) -> bytes:
        """The bytes of token ids, which need not be valid UTF-8. `special`: control tokens too, as their text."""
        ids = token_ids(tokens)
        flags = c.BITNET_DETOKENIZE_SPECIAL if special else 0
        return read_text(lambda out, n: lib.bitnet_detokenize(self._handle.pointer, ids, len(ids), flags, out, n))

    def detokenize(self, tokens: Iterable[int], *, special: bool = False) -> str:
        """The text of token ids; what is no valid UTF-8 becomes U+FFFD."""
        return self.detokenize_bytes(tokens, special=special).decode("utf-8", "replace")

    def token_text(self, token: int) -> Optional[str]:
        """A token as the vocabulary spells it; None when out of range."""
        spelled = lib.bitnet_token_text(self._handle.pointer, int32(token, "token"))
        return None if spelled is None else decode(spelled)

    def token_type(self, token: int) -> int:
        """GGUF's type of a token: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte; 0 when out of range."""
        return int(lib.bitnet_token_type(self._handle.pointer, int32(token, "token")))

    def token_score(self, token: int) -> float:
        """0 when the file has none."""
        return float(lib.bitnet_token_score(self._handle.pointer, int32(token, "token")))

    def _special(self, role: int) -> Optional[int]:
        token = int(lib.bitnet_token_special(self._handle.pointer, role))
        return None if token < 0 else token

    @property
    def bos(self) -> Optional[int]:
        return self._special(c.BITNET_SPECIAL_BOS)

    @property
    def eos(self) -> Optional[int]:
        return self._special(c.BITNET_SPECIAL_EOS)

    @property
    def eot(self) -> Optional[int]:
        return self._special(c.BITNET_SPECIAL_EOT)

    @property
    def pad(self) -> Optional[int]:
        return self._special(c.BITNET_SPECIAL_PAD)

    @property
    def end_ids(self) -> List[int]:
        """All tokens that end a generation, ascending."""
        return read_ids(lambda out, n: lib.bitnet_token_end_ids(self._handle.pointer, out, n))

    @property
    def wants_bos(self) -> bool:
        """The file asks for a BOS at the front of a prompt."""
        return bool(lib.bitnet_token_wants_bos(self._handle.pointer))

    @property
    def chat_template(self) -> str:
        """The file's chat template (Jinja); "" when there is none."""
        return decode(lib.bitnet_chat_template(self._handle.pointer))

    # What is made from it

    def context(self, **params: Any) -> "Context":
        """A new Context on this model; its parameters are those of Context."""
        from ._context import Context

        return Context(self, **params)

    def generate(self, prompt: Union[str, bytes, Iterable[int]], **params: Any) -> "Generation":
        """Tokens that follow a prompt, in a context of their own: see Context.generate."""
        return self.context().generate(prompt, **params)

    def trace(self, *sinks: "Sink", context: Optional[Mapping[str, Any]] = None, **params: Any) -> "ModelTracing":
        """`with model.trace("jsonl:path=a.jsonl") as ctx:`: a new context (`context`: its parameters) that is traced, closed at the
        end. The other parameters are those of Context.trace."""
        from ._trace import ModelTracing

        return ModelTracing(self, sinks, dict(context or {}), params)

    def __repr__(self) -> str:
        i = self.info
        return (
            f"<bitnet.Model {os.path.basename(self.path)!r}: {self.architecture}, {i.n_params:,} parameters, {i.n_layer} layers, "
            f"n_embd {i.n_embd}, n_vocab {i.n_vocab}, {self.isa}>"
        )

    def _repr_html_(self) -> str:
        rows: Dict[str, Any] = {
            "architecture": self.architecture,
            "path": self.path,
            **self.info.__dict__,
            "isa": self.isa,
            "semantics": self.semantics,
        }
        cells = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(str(v))}</td></tr>" for k, v in rows.items())
        notes = "".join(f"<li>{html.escape(w)}</li>" for w in self.warnings)
        return f"<table>{cells}</table>" + (f"<p>Worth knowing:</p><ul>{notes}</ul>" if notes else "")
