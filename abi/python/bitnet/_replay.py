"""One operation of a layer, recomputed from recorded inputs."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, List, Mapping, Optional, Sequence, Tuple

from . import _library as c
from ._buffers import DTYPES, Array, Values, new_array, token_ids
from ._errors import InvalidError
from ._events import stage_id
from ._loader import Handle, check, decode, lib, optional_text, sized
from ._model import Model


@dataclass(frozen=True)
class OperationInput:
    """What an operation reads, and where it is recorded."""

    stage: str
    layer: int
    every_position: bool  #: needed for all positions from 0 to the last, whichever rows are computed


@dataclass(frozen=True)
class Operation:
    """What computes a stage."""

    stage: str
    layer: int  #: -1: of no block
    dtype: str  #: of the output
    row_elements: Optional[int]  #: of the output; None: n_head * (position + 1), as attn_scores
    inputs: Tuple[OperationInput, ...]  #: (): the token ids alone


class Replay:
    """A model under one set of semantics ("activation=silu"; None: the model's). One thread at a time.

    Whether another engine's operation is right does not depend on what happened before it: give the operation that engine's own
    recorded inputs, and compare the output.
    """

    def __init__(self, model: Model, semantics: Optional[str] = None) -> None:
        pointer = ctypes.c_void_p()
        changes = optional_text(semantics, "semantics")
        check(lib.bitnet_replay_create(model._handle.pointer, changes, ctypes.byref(pointer)))
        self.model = model
        self._handle = Handle(pointer, lib.bitnet_replay_free, model._handle)

    @property
    def semantics(self) -> str:
        """In full."""
        return decode(lib.bitnet_replay_semantics(self._handle.pointer))

    @property
    def operations(self) -> List[Operation]:
        """Every operation of the model in execution order."""
        out = []
        for i in range(lib.bitnet_replay_operation_count(self._handle.pointer)):
            o = sized(c.bitnet_operation_t)
            check(lib.bitnet_replay_operation(self._handle.pointer, i, ctypes.byref(o)))
            inputs = tuple(
                OperationInput(
                    decode(lib.bitnet_stage_name(o.input_stage[j])), o.input_layer[j], bool(o.every_position >> j & 1)
                )
                for j in range(o.n_inputs)
            )
            out.append(
                Operation(
                    decode(lib.bitnet_stage_name(o.stage)), o.layer, DTYPES[o.dtype][0], o.row_elements or None, inputs
                )
            )
        return out

    def run(
        self, stage: str, layer: int, inputs: Mapping[str, Any], positions: Optional[Sequence[int]] = None
    ) -> Array:
        """Computes an operation for rows of inputs that the caller gives, by stage ("tokens": ids): (n_rows, elements) each;
        float32, float16 or uint16 (bf16), of codes int8, of scales float32, of accumulators int32. A linear also takes the codes and scales
        of what it reads, or its own accumulators and scales.

        `positions` of the rows; None: 0, 1, 2, .... Returns the rows, (n_rows, elements) in the operation's dtype; of attn_scores
        and attn_scores_softmax, whose rows have different lengths, all elements one after another.
        """
        number = stage_id(stage)
        keep: List[Values] = []
        rows = (c.bitnet_rows_t * len(inputs))()
        for item, (name, data) in zip(rows, inputs.items()):
            values = Values(data, name, "bf16" if str(getattr(data, "dtype", "")) == "uint16" else None)
            shape = values.shape if len(values.shape) > 1 else ((values.shape[0], 1) if values.shape else (1, 1))
            item.stage = 0 if name == "tokens" else stage_id(name)
            item.dtype, item.n_rows, item.data, item.row_elements = values.dtype, shape[0], values.address, 1
            for length in shape[1:]:
                item.row_elements *= length
            item.row_stride = item.row_elements * DTYPES[values.dtype][1]
            keep.append(values)
        ids = token_ids(positions) if positions is not None else None
        params = sized(
            c.bitnet_replay_params_t,
            stage=number,
            layer=layer,
            n_inputs=len(inputs),
            inputs=ctypes.cast(rows, ctypes.POINTER(c.bitnet_rows_t)),
        )
        if ids is not None:
            params.positions = ctypes.cast(ids, type(params.positions))
        operation = self._operation(stage, layer)
        n = ctypes.c_size_t()
        check(lib.bitnet_replay_run(self._handle.pointer, ctypes.byref(params), None, ctypes.byref(n)))
        width = operation.row_elements
        shape = (n.value // width, width) if width else (n.value,)
        out, address = new_array({v[0]: k for k, v in DTYPES.items()}[operation.dtype], shape)
        check(lib.bitnet_replay_run(self._handle.pointer, ctypes.byref(params), address, ctypes.byref(n)))
        return out

    def _operation(self, stage: str, layer: int) -> Operation:
        for operation in self.operations:
            if (operation.stage, operation.layer) == (stage, layer):
                return operation
        raise InvalidError(f"there is no operation '{stage}' of layer {layer}")

    def __repr__(self) -> str:
        return f"<bitnet.Replay of {self.model!r} under {self.semantics}>"
