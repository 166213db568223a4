"""Finds libbitnet, checks its ABI and declares its functions. Importing this module loads the library."""

from __future__ import annotations

import ctypes
import ctypes.util
import operator
import os
from pathlib import Path
from typing import Any, Callable, List, Optional

from . import _library as c
from ._errors import InvalidError, error_of

_FILE = "libbitnet.so.1"
_PACKAGE = Path(__file__).resolve().parent


def _candidates() -> List[Path]:
    """In the wheel, then in the build tree of the sources that this file lies in."""
    bundled = sorted((_PACKAGE / "prefix").glob(f"lib*/{_FILE}"))
    root = _PACKAGE.parent.parent.parent
    built = [root / "build" / "release" / "lib" / _FILE] if (root / "include" / "bitnet_c.h").is_file() else []
    return [path for path in (*bundled, *built) if path.is_file()]


def _open() -> ctypes.CDLL:
    chosen = os.environ.get("BITNET_LIBRARY")
    if chosen:
        try:
            return ctypes.CDLL(chosen)
        except OSError as error:
            raise ImportError(f"bitnet: BITNET_LIBRARY is '{chosen}', which cannot be loaded: {error}") from None
    found = _candidates()
    name = str(found[0]) if found else ctypes.util.find_library("bitnet") or _FILE
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        raise ImportError(
            f"bitnet: no usable {_FILE}: not in {_PACKAGE / 'prefix'}, not in a build tree around it, and the system says: "
            f"{error}. Set BITNET_LIBRARY to its path"
        ) from None


def _declare(library: ctypes.CDLL) -> None:
    path = library._name
    try:
        version = int(library.bitnet_abi_version())
    except AttributeError:
        raise ImportError(f"bitnet: '{path}' has no bitnet_abi_version: not a libbitnet") from None
    major, minor = version >> 16, version & 0xFFFF
    if major != c.BITNET_ABI_MAJOR or minor < c.BITNET_ABI_MINOR:
        raise ImportError(
            f"bitnet: '{path}' has ABI {major}.{minor}: this package needs {c.BITNET_ABI_MAJOR}.{c.BITNET_ABI_MINOR} "
            f"or a later {c.BITNET_ABI_MAJOR}.x"
        )
    for name, (result, parameters) in c.FUNCTIONS.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise ImportError(
                f"bitnet: '{path}' has ABI {major}.{minor}, but no {name}: built from other sources?"
            ) from None
        function.restype, function.argtypes = result, parameters


lib = _open()
_declare(lib)


def library_path() -> str:
    """Path of the libbitnet in use, as the system's loader was given it."""
    return str(lib._name)


def decode(text: Optional[bytes]) -> str:
    return (text or b"").decode("utf-8", "replace")


def check(status: int) -> None:
    """Raises the exception of a status that is not 0. On the thread that made the call: the error's text is that thread's."""
    if status != 0:
        raise error_of(status, decode(lib.bitnet_last_error()))


def read_text(call: Callable[[Any, Any], int]) -> bytes:
    """`call(out, n)` of a function that fills a text buffer, twice: for its size, then for its text."""
    n = ctypes.c_size_t()
    check(call(None, ctypes.byref(n)))
    out = ctypes.create_string_buffer(n.value)
    check(call(out, ctypes.byref(n)))
    return out.raw[: n.value - 1]


def read_ids(call: Callable[[Any, Any], int]) -> List[int]:
    """The same for token ids."""
    n = ctypes.c_size_t()
    check(call(None, ctypes.byref(n)))
    out = (ctypes.c_int32 * n.value)()
    check(call(out, ctypes.byref(n)))
    return list(out[: n.value])


def sized(struct: Any, **fields: Any) -> Any:
    """A struct with its struct_size set. ctypes would cut numbers that do not fit."""
    out = struct(struct_size=ctypes.sizeof(struct), **fields)
    for name, value in fields.items():
        if isinstance(value, int) and getattr(out, name) not in (value, None):
            raise InvalidError(f"{name} is {value}: out of range")
    return out


def int32(value: int, what: str) -> int:
    """A number that fits an argument of 32 bits, likewise."""
    number = operator.index(value)
    if not -(2**31) <= number < 2**31:
        raise InvalidError(f"{what} is {number}: out of range")
    return number


def text(value: str, what: str) -> bytes:
    """Text as C reads it, up to its NUL."""
    data = os.fsencode(value)
    if b"\0" in data:
        raise InvalidError(f"{what} is {value!r}: a NUL would end it")
    return data


def optional_text(value: Optional[str], what: str) -> Optional[bytes]:
    return None if value is None else text(value, what)


class Handle:
    """Owns a handle of the library: whatever refers to it keeps the memory behind it."""

    def __init__(self, pointer: ctypes.c_void_p, free: Callable[[ctypes.c_void_p], None], *keep: object) -> None:
        self.pointer = pointer
        self.keep = list(keep)  # what the memory needs to stay where it is
        self._free = free

    def __del__(self) -> None:
        if self.pointer:
            self._free(self.pointer)
            self.pointer = ctypes.c_void_p()
