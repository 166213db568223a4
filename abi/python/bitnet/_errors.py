"""One exception for each status of the library; the text is that of bitnet_last_error()."""

from __future__ import annotations

from typing import Dict, Type

from . import _library as c


class BitnetError(Exception):
    """A call of the library failed. `status` is its BITNET_E_... number."""

    status: int = 0


class InvalidError(BitnetError, ValueError):
    """An argument is wrong."""

    status = c.BITNET_E_INVALID


class NoMemoryError(BitnetError, MemoryError):
    """Memory could not be had."""

    status = c.BITNET_E_NOMEM


class IoError(BitnetError, OSError):
    """A file could not be opened, read or written."""

    status = c.BITNET_E_IO


class FormatError(BitnetError):
    """A file is damaged or breaks its format's rules."""

    status = c.BITNET_E_FORMAT


class UnsupportedError(BitnetError):
    """Well-formed, but not something the library does."""

    status = c.BITNET_E_UNSUPPORTED


class BufferTooSmallError(BitnetError):
    """A buffer is too small."""

    status = c.BITNET_E_BUFFER


class IsaError(BitnetError):
    """The instruction set is unknown or not on this CPU."""

    status = c.BITNET_E_ISA


class AbiError(BitnetError):
    """A struct or plugin of an incompatible version."""

    status = c.BITNET_E_ABI


class PluginError(BitnetError):
    """A trace plugin could not be loaded, declined or failed."""

    status = c.BITNET_E_PLUGIN


class BusyError(BitnetError):
    """The context is in use: by another thread, a callback, or a generation that has not ended."""

    status = c.BITNET_E_BUSY


class ContextFullError(BitnetError):
    """The context has no room for so many positions."""

    status = c.BITNET_E_OVERFLOW


class CancelledError(BitnetError):
    """A callback asked to stop."""

    status = c.BITNET_E_CANCELLED


class UserError(BitnetError):
    """A callback or sink returned a failure of its own."""

    status = c.BITNET_E_USER


class InternalError(BitnetError):
    """A bug in the library: please report the text."""

    status = c.BITNET_E_INTERNAL


def _leaves() -> Dict[int, Type[BitnetError]]:
    return {error.status: error for error in BitnetError.__subclasses__()}


def error_of(status: int, text: str) -> BitnetError:
    """The exception for a failed call; an unknown status of a newer library becomes a plain BitnetError."""
    error = _leaves().get(status, BitnetError)(text)
    error.status = status
    return error
