"""Read access to the tensors and keys of a BitNet GGUF file.

The container is parsed by the `gguf` package; only the tensor types are read here, because
the package does not know I2_S (type 36, the ternary type of bitnet.cpp).
"""

from typing import NamedTuple

import numpy as np
from gguf import GGUFReader

F32, F16, BF16, I2_S = 0, 1, 30, 36  # ggml type ids

I2_S_BLOCK = 128  # elements that share 32 bytes
I2_S_TAIL_BYTES = 32  # one f32 scale, then padding


class TensorInfo(NamedTuple):
    name: str
    shape: tuple[int, ...]  # slowest dimension first, so ne[0] comes last
    type: int
    offset: int  # from the start of the file


class GGUFFile(GGUFReader):
    """A GGUF file whose tensors are decoded on request, so that a large model need not fit twice."""

    def _build_tensors(self, start_offs, fields):
        # The package's own version of this step refuses every type id that is missing from its enum.
        self.tensors = []
        for field in fields:
            _, name, _, dims, type_id, offset = field.parts
            shape = tuple(int(n) for n in reversed(dims))
            self.tensors.append(TensorInfo(bytes(name).decode(), shape, int(type_id[0]), start_offs + int(offset[0])))
        self.by_name = {tensor.name: tensor for tensor in self.tensors}

    def key(self, name, default=None):
        """The value of a metadata key, or `default` where the file has none."""
        field = self.fields.get(name)
        return default if field is None else field.contents()

    def floats(self, name):
        """A tensor of an ordinary type in its own precision, BF16 as float32; shape as stored."""
        tensor = self.by_name[name]
        count = int(np.prod(tensor.shape))
        if tensor.type == F32:
            values = self._get(tensor.offset, np.float32, count)
        elif tensor.type == F16:
            values = self._get(tensor.offset, np.float16, count)
        elif tensor.type == BF16:
            upper_half = self._get(tensor.offset, np.uint16, count).astype(np.uint32)
            values = (upper_half << 16).view(np.float32)
        else:
            raise ValueError(f"{name}: type {tensor.type} is not F32, F16 or BF16")
        return np.asarray(values).reshape(tensor.shape)

    def ternary(self, name):
        """An I2_S tensor as (weights {-1, 0, 1} int8 [n_out, n_in], scale float32)."""
        tensor = self.by_name[name]
        if tensor.type != I2_S:
            raise ValueError(f"{name}: type {tensor.type} is not I2_S")
        count = int(np.prod(tensor.shape))
        packed = self._get(tensor.offset, np.uint8, count // 4)
        scale = self._get(tensor.offset + count // 4, np.float32)[0]
        return unpack_i2_s(np.asarray(packed)).reshape(tensor.shape), np.float32(scale)


def unpack_i2_s(packed):
    """I2_S bytes [n/4] -> weights [n] int8.

    Byte p of a 32-byte block holds elements p, p+32, p+64, p+96, the first in the highest bits.
    """
    blocks = packed.reshape(-1, 1, I2_S_BLOCK // 4)
    shifts = np.array([6, 4, 2, 0], dtype=np.uint8).reshape(1, 4, 1)
    codes = (blocks >> shifts) & 3  # [blocks, 4, 32]: the four quarters in element order
    if codes.max(initial=0) == 3:
        raise ValueError("code 3 in ternary data")
    return codes.reshape(-1).astype(np.int8) - 1
