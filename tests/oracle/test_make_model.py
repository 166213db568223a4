"""`bitnet make-model --type tq2_0`: what the gguf package reads from it are the weights of the I2_S file."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize

from gguf_file import F16, F32, I2_S, GGUFFile

SHAPE = ["--preset", "tiny", "--layers", "2", "--ff", "512", "--seed", "7"]
LINEARS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    program = os.environ.get("BITNET_PROGRAM")
    if not program:
        pytest.fail("which bitnet? Set BITNET_PROGRAM")
    folder = tmp_path_factory.mktemp("make-model")
    for kind in ("i2_s", "tq2_0"):
        subprocess.run([program, "make-model", *SHAPE, "--type", kind, "-o", folder / kind], check=True)
    return GGUFFile(folder / "i2_s"), GGUFReader(folder / "tq2_0"), folder / "tq2_0"


def tensors_of(reader):
    return {tensor.name: tensor for tensor in reader.tensors}


def test_linears_are_the_same_weights(files):
    ours, theirs, _ = files
    tensors = tensors_of(theirs)
    codes = {-1: 0, 0: 0, 1: 0}
    for layer in range(2):
        for linear in LINEARS:
            name = f"blk.{layer}.{linear}"
            weights, scale = ours.ternary(name + ".weight")
            tensor = tensors[name + ".weight"]
            assert tensor.tensor_type == GGMLQuantizationType.TQ2_0
            values = dequantize(tensor.data, tensor.tensor_type)
            assert values.shape == weights.shape
            np.testing.assert_array_equal(values, weights.astype(np.float32), name)
            scales = tensors[name + ".scale"]
            assert scales.tensor_type == GGMLQuantizationType.F32 and list(scales.shape) == [1]
            assert scales.data[0] == scale > 0
            for code in codes:
                codes[code] += int((weights == code).sum())
    assert min(codes.values()) > 100_000  # equal because both are all zeros is not equal


def test_everything_else_is_equal(files):
    ours, theirs, _ = files
    tensors = tensors_of(theirs)
    others = [tensor for tensor in ours.tensors if tensor.type != I2_S]
    assert len(others) == 2 + 4 * 2
    assert len(tensors) == len(others) + 2 * 2 * len(LINEARS)
    for tensor in others:
        found = tensors[tensor.name]
        assert int(found.tensor_type) == tensor.type in (F32, F16)
        np.testing.assert_array_equal(found.data, ours.floats(tensor.name), tensor.name)
    assert [name for name in tensors if not name.endswith(".scale")] == [tensor.name for tensor in ours.tensors]


def test_keys_are_those_of_the_other_architecture(files):
    ours, theirs, _ = files
    assert theirs.fields["general.architecture"].contents() == "bitnet"
    assert theirs.fields["general.file_type"].contents() == 37  # mostly TQ2_0
    for name, field in ours.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        other = theirs.fields[name.replace("bitnet-b1.58.", "bitnet.")]
        assert other.types == field.types
        assert other.contents() == field.contents(), name
    assert set(theirs.fields) == {name.replace("bitnet-b1.58.", "bitnet.") for name in ours.fields}


def test_our_own_reader_names_the_type(files, library):
    _, _, path = files
    with pytest.raises(Exception, match="35|TQ2_0"):
        library.load(str(path))
