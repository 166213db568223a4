"""The reference engine for BitNet b1.58 models, in Python: a client of libbitnet's C ABI.

    import bitnet
    model = bitnet.Model("demo.gguf")
    ctx = model.context()
    with ctx.trace(lambda event: print(event.position, event.layer, event.stage, event.data.shape)):
        ctx.eval("2+2=")
    print(ctx.logits[-1].argmax())

Arrays are numpy's where numpy is installed, else memoryviews; `logits` are not copied (see Context).
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional

from . import _library
from ._buffers import bytes_at
from ._compare import Comparison, LogitsRow, compare_logits, crossval, logprobs, presets
from ._context import Context, HeadStats, WeightStats
from ._diff import Diff, DiffError, diff
from ._errors import (
    AbiError,
    BitnetError,
    BufferTooSmallError,
    BusyError,
    CancelledError,
    ContextFullError,
    FormatError,
    InternalError,
    InvalidError,
    IoError,
    IsaError,
    NoMemoryError,
    PluginError,
    UnsupportedError,
    UserError,
)
from ._events import (
    Event,
    KvState,
    RunBegin,
    RunEnd,
    StepBegin,
    StepEnd,
    Tensor,
    TensorInput,
    stages,
)
from ._foreign import Trace
from ._generate import Generation, Token
from ._loader import decode, lib, library_path, read_text
from ._model import Metadata, Model, ModelInfo, TensorInfo
from ._program import program_path
from ._replay import Operation, OperationInput, Replay
from ._trace import ModelTracing, TraceStats, Tracing

__version__ = decode(lib.bitnet_version())
#: (major, minor) of the library's ABI
abi_version = (lib.bitnet_abi_version() >> 16, lib.bitnet_abi_version() & 0xFFFF)


def isas() -> Dict[str, bool]:
    """Instruction sets compiled into the library, from plain to best, and whether this CPU has them."""
    return {decode(lib.bitnet_isa_name(i)): bool(lib.bitnet_isa_usable(i)) for i in range(lib.bitnet_isa_count())}


def blake3(data: Any) -> str:
    """BLAKE3 of any bytes (an array's are its values), 64 hex digits: the hash of models and traces."""
    address, n_bytes, _keep = bytes_at(data)
    return decode(read_text(lambda out, n: lib.bitnet_blake3(address, n_bytes, out, n)))


_log: List[Any] = []


def set_log(function: Optional[Callable[[int, str], Any]]) -> None:
    """Calls `function(level, text)` for what the library has to say (1 error, 2 warning, 3 information), on any thread that calls
    in; None (the default) for silence. What it raises goes to sys.unraisablehook."""
    callback = _library.bitnet_log_fn()
    if function is not None:
        callback = _library.bitnet_log_fn(lambda user, level, text: function(level, decode(text)) and None)
    lib.bitnet_set_log(callback, None)
    _log[:] = [callback]


__all__ = [
    "AbiError",
    "BitnetError",
    "BufferTooSmallError",
    "BusyError",
    "CancelledError",
    "Comparison",
    "Context",
    "ContextFullError",
    "Diff",
    "DiffError",
    "Event",
    "FormatError",
    "Generation",
    "HeadStats",
    "WeightStats",
    "InternalError",
    "InvalidError",
    "IoError",
    "IsaError",
    "KvState",
    "LogitsRow",
    "Metadata",
    "Model",
    "ModelInfo",
    "ModelTracing",
    "NoMemoryError",
    "Operation",
    "OperationInput",
    "PluginError",
    "Replay",
    "RunBegin",
    "RunEnd",
    "StepBegin",
    "StepEnd",
    "Tensor",
    "TensorInfo",
    "TensorInput",
    "Token",
    "Trace",
    "TraceStats",
    "Tracing",
    "UnsupportedError",
    "UserError",
    "abi_version",
    "blake3",
    "compare_logits",
    "crossval",
    "diff",
    "isas",
    "library_path",
    "logprobs",
    "presets",
    "program_path",
    "set_log",
    "stages",
]
