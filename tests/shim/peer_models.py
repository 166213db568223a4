"""The same ternary weights in two files: I2_S for this engine, and a type that llama.cpp reads."""

import dataclasses
import struct
import sys
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import quantize

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "oracle"))
from gguf_document import ALIGNMENT, Document  # noqa: E402
from gguf_file import unpack_i2_s  # noqa: E402
from make_gguf import TENSOR_I2_S, Spec, model_document, pack_i2_s  # noqa: E402

TYPES = ("TQ1_0", "TQ2_0", "F16")


def with_tensors(document, blob_of):
    """The document with other tensors: blob_of(info, bytes) is (type id, bytes)."""
    infos, parts, offset = [], [], 0
    ends = [info.offset for info in document.tensors[1:]] + [len(document.data)]
    for info, end in zip(document.tensors, ends):
        kind, blob = blob_of(info, document.data[info.offset : end])
        infos.append(dataclasses.replace(info, type=kind, offset=offset))
        blob += bytes(-len(blob) % ALIGNMENT)
        parts.append(blob)
        offset += len(blob)
    return Document(document.entries, tuple(infos), b"".join(parts))


def ternary(info, blob):
    """(weights [n_out, n_in], scale), the scale rounded to F16: other types hold nothing longer."""
    count = info.dims[0] * info.dims[1]
    scale = np.float32(np.float16(struct.unpack_from("<f", blob, count // 4)[0]))
    return unpack_i2_s(np.frombuffer(blob, np.uint8, count // 4)).reshape(info.dims[1], info.dims[0]), scale


def write_pair(folder, name, kind, damage=None, **options):
    """Returns (file for llama.cpp, file for us). `damage`: (tensor, change of its weights) in theirs alone."""
    document = model_document(Spec(**options))

    def ours(info, blob):
        if info.type != TENSOR_I2_S:
            return info.type, blob
        weights, scale = ternary(info, blob)
        return TENSOR_I2_S, pack_i2_s(weights.reshape(-1), scale)

    def theirs(info, blob):
        if info.type != TENSOR_I2_S:
            return info.type, blob
        weights, scale = ternary(info, blob)
        values = weights.astype(np.float32) * scale
        if damage and info.name.decode() == damage[0]:
            damage[1](values)
        to = GGMLQuantizationType[kind]
        return int(to), values.astype("<f2").tobytes() if kind == "F16" else quantize(values, to).tobytes()

    paths = Path(folder) / f"{name}-theirs.gguf", Path(folder) / f"{name}-ours.gguf"
    for path, blob_of in zip(paths, (theirs, ours)):
        path.write_bytes(with_tensors(document, blob_of).to_bytes())
    return paths
