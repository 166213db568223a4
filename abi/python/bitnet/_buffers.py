"""Memory of the library as arrays of Python, without copying, and the way back. numpy where it is installed, else memoryview."""

from __future__ import annotations

import ctypes
from array import array
from typing import TYPE_CHECKING, Any, Iterable, List, Optional, Sequence, Tuple

from . import _library as c
from ._errors import InvalidError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]
else:
    Array = Any
    try:
        import numpy as np
    except ImportError:
        np = None

HAS_NUMPY = np is not None
__all__ = [
    "DTYPES",
    "HAS_NUMPY",
    "Array",
    "Values",
    "Window",
    "bytes_at",
    "copy_array",
    "doubles",
    "floats",
    "new_array",
    "np",
    "packed_strides",
    "token_ids",
]

# dtype: (name, bytes, numpy's name, memoryview's format). bfloat16 has no type in either, float16 none in memoryview: their bits.
DTYPES = {
    c.BITNET_DTYPE_F32: ("f32", 4, "float32", "f"),
    c.BITNET_DTYPE_F16: ("f16", 2, "float16", "H"),
    c.BITNET_DTYPE_BF16: ("bf16", 2, "uint16", "H"),
    c.BITNET_DTYPE_I8: ("i8", 1, "int8", "b"),
    c.BITNET_DTYPE_I32: ("i32", 4, "int32", "i"),
}
_BY_NAME = {name: dtype for dtype, (name, _, _, _) in DTYPES.items()}
_BY_FORMAT = {"f": 0, "e": 1, "b": 3, "i": 4, "float32": 0, "float16": 1, "int8": 3, "int32": 4}


class Window:
    """`n_bytes` at an address of the library's, which stay as long as `owner`. A weak reference to `memory` tells whether any
    array on it is left, those that were made from others included."""

    def __init__(self, address: int, n_bytes: int, owner: object) -> None:
        memory: Any = (ctypes.c_char * n_bytes).from_address(address)
        memory.owner = owner
        self.memory = memory

    def array(self, dtype: int, shape: Sequence[int], strides: Optional[Sequence[int]] = None) -> Array:
        """Read-only, of `shape`; strides in bytes, None for one element after another."""
        _, n_bytes, name, form = DTYPES[dtype]
        view = memoryview(self.memory).cast("B").toreadonly()
        if HAS_NUMPY:
            # By way of an array: given a memoryview, numpy would go to the writable memory behind it.
            return np.ndarray(tuple(shape), dtype=name, buffer=np.frombuffer(view, dtype=np.uint8), strides=strides)
        packed = packed_strides(shape, n_bytes)
        if strides is not None and tuple(strides) != packed:  # a memoryview has no gaps: this one is a copy
            view = memoryview(b"".join(view[row * strides[0] :][: packed[0]] for row in range(shape[0])))
        return _shaped(view, form, shape)


def _shaped(view: Any, form: str, shape: Sequence[int]) -> Array:
    """Bytes as a memoryview of `shape`; memoryview cannot shape nothing."""
    shaped: Array = view.cast(form, list(shape)) if 0 not in shape else view[:0].cast(form)
    return shaped


def packed_strides(shape: Sequence[int], n_bytes: int) -> Tuple[int, ...]:
    out: List[int] = []
    for length in reversed(shape):
        out.insert(0, n_bytes)
        n_bytes *= length
    return tuple(out)


def copy_array(values: Array) -> Array:
    """An array of its own memory."""
    if HAS_NUMPY:
        return np.array(values)
    view: Any = memoryview(values)  # type: ignore[arg-type]
    return _shaped(memoryview(bytearray(view.tobytes())), view.format, view.shape)


def new_array(dtype: int, shape: Sequence[int]) -> Tuple[Array, int]:
    """An array of Python's own memory for the library to fill, and its address."""
    _, n_bytes, name, form = DTYPES[dtype]
    if HAS_NUMPY:
        out = np.empty(tuple(shape), dtype=name)
        return out, int(out.ctypes.data)
    n = n_bytes
    for length in shape:
        n *= length
    memory = (ctypes.c_char * max(n, 1))()
    return _shaped(memoryview(memory).cast("B"), form, shape), ctypes.addressof(memory)


def doubles(values: Any) -> Array:
    """A C array of doubles as an array of its own memory."""
    return np.array(values) if HAS_NUMPY else _shaped(memoryview(values).cast("B"), "d", (len(values),))


class Values:
    """A caller's array as the library reads it: `address`, `shape`, `strides` (bytes) and `dtype`. Keeps it alive."""

    def __init__(self, values: Any, what: str, dtype: Optional[str] = None, packed: bool = True) -> None:
        self.shape: Tuple[int, ...]
        if HAS_NUMPY:
            given = np.asarray(values)
            self.dtype = self._dtype(given.dtype.name, what, dtype)
            inner = packed_strides(given.shape, given.dtype.itemsize)[1:]
            if packed or given.strides[1:] != inner or (given.ndim and given.strides[0] <= 0):
                given = np.ascontiguousarray(given).reshape(given.shape)
            self.keep: Any = given
            self.shape, self.strides, self.address = given.shape, given.strides, int(given.ctypes.data)
            return
        view: Any = memoryview(values)
        self.dtype = self._dtype(view.format, what, dtype)
        self.shape, self.strides = view.shape, packed_strides(view.shape, view.itemsize)
        data = view.tobytes()
        self.keep = (ctypes.c_char * max(len(data), 1)).from_buffer_copy(data or b"\0")
        self.address = ctypes.addressof(self.keep)

    @staticmethod
    def _dtype(found: str, what: str, wanted: Optional[str]) -> int:
        if wanted == "bf16" and found in ("uint16", "H"):
            return c.BITNET_DTYPE_BF16
        if found not in _BY_FORMAT or (wanted is not None and _BY_FORMAT[found] != _BY_NAME.get(wanted)):
            expected = wanted or "float32, float16, int8, int32, or uint16 with dtype='bf16'"
            raise InvalidError(f"{what} has values of type {found}: expected {expected}")
        return _BY_FORMAT[found]


def floats(values: Any, what: str, columns: Optional[int] = None) -> Values:
    """Rows of float32, (n, columns), converted when they are of another floating type; a single row may lack its first axis."""
    if HAS_NUMPY:
        given = np.asarray(values)
        if given.dtype.kind != "f":
            raise InvalidError(f"{what} has values of type {given.dtype}: expected float32")
        values = np.asarray(given, dtype=np.float32)
    out = Values(values, what, "f32")
    if len(out.shape) == 1:
        out.shape = (1, *out.shape)
    if len(out.shape) != 2 or (columns is not None and out.shape[1] != columns):
        expected = f"(n, {columns})" if columns is not None else "(positions, n_vocab)"
        raise InvalidError(f"{what} has shape {tuple(out.shape)}: expected {expected}")
    return out


def token_ids(tokens: Iterable[int]) -> Any:
    """A C array of token ids. Whether they are in the vocabulary is for the library to say."""
    if isinstance(tokens, (str, bytes)):
        raise InvalidError("tokens are text: expected ids; Model.tokenize() makes them of text")
    try:
        ids = array("i", tokens)
    except OverflowError:
        raise InvalidError("a token is not a number of 32 bits") from None
    except TypeError as error:
        raise InvalidError(f"tokens: {error}") from None
    return (ctypes.c_int32 * len(ids)).from_buffer(ids) if ids else (ctypes.c_int32 * 0)()


def bytes_at(data: Any) -> Tuple[int, int, object]:
    """(address, bytes, what keeps them) of anything with a buffer, without copying where Python can tell the address."""
    if isinstance(data, bytes):
        return ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0, len(data), data
    view = memoryview(data).cast("B")
    if not view.readonly:
        memory = (ctypes.c_char * view.nbytes).from_buffer(view)
        return ctypes.addressof(memory), view.nbytes, memory
    if HAS_NUMPY:
        values = np.frombuffer(view, dtype=np.uint8)
        return int(values.ctypes.data), view.nbytes, values
    return bytes_at(view.tobytes())
