"""The generator of random models: its packing, what readers make of its files, and that its models compute."""

import subprocess
import sys
from pathlib import Path

import gguf as gguf_package
import numpy as np
import pytest

from bitnet_oracle import Oracle
from gguf_document import parse
from gguf_file import I2_S, GGUFFile, unpack_i2_s
from make_gguf import SPECIALS, Spec, float_bytes, model_document, pack_i2_s, write_model

VARIANTS = [
    {},
    {"embd_type": "F32", "dedicated_head": True},
    {"embd_type": "BF16", "transposed_embd": True},
    {"sub_norms": False, "n_kv": 4, "arch": "llama", "dedicated_head": True},
    {"n_layer": 1, "n_head": 2, "n_kv": 1, "head_dim": 64, "vocab": 259},
    {"n_layer": 1, "vocab": 32002, "n_embd": 128, "n_ff": 128, "n_head": 2},
]


def test_packing_vectors():
    row, col = np.mgrid[:4, :256]
    weights = ((7 * row + col**2 + 3 * col + col // 5) % 3 - 1).astype(np.int8)
    packed = pack_i2_s(weights.reshape(-1), 1.25)
    assert len(packed) == 288
    assert packed[:16].hex() == "154a562958a462908840210184051215"
    assert packed[256:] == bytes.fromhex("0000a03f") + bytes(28)
    assert np.array_equal(unpack_i2_s(np.frombuffer(packed[:256], np.uint8)), weights.reshape(-1))


def test_unpacking_refuses_code_3():
    with pytest.raises(ValueError, match="code 3"):
        unpack_i2_s(np.full(32, 0b11, np.uint8))


def test_bf16_rounds_to_nearest_even():
    ties_and_others = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -3.0], np.float32)
    expected = np.array([0x3F80, 0x3F80, 0x3F82, 0x3F81, 0xC040], "<u2")
    assert float_bytes(ties_and_others, "BF16") == expected.tobytes()


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_readers_agree(tmp_path, options):
    spec = Spec(**options)
    path = write_model(tmp_path / "m.gguf", **options)
    listed = GGUFFile(path)
    document = parse(path.read_bytes())
    assert [t.name for t in listed.tensors] == [t.name.decode() for t in document.tensors]
    assert [t.shape[::-1] for t in listed.tensors] == [t.dims for t in document.tensors]
    assert sum(t.type == I2_S for t in listed.tensors) == 7 * spec.n_layer
    tokens = listed.key("tokenizer.ggml.tokens")
    known = set(tokens)
    assert len(known) == len(tokens) == listed.key(f"{spec.arch}.vocab_size") == spec.vocab
    assert tuple(tokens[listed.key(f"tokenizer.ggml.{role}_token_id")] for role in ("bos", "eos", "eot")) == SPECIALS
    for merge in listed.key("tokenizer.ggml.merges"):
        assert {*merge.split(" "), merge.replace(" ", "")} <= known


def test_gguf_package_lists_everything_but_i2_s(tmp_path):
    """The package itself stops at type 36; with those tensors relabelled as bytes it reads the rest."""
    document = model_document(Spec(n_layer=1))
    for tensor in document.tensors:
        if tensor.type == I2_S:
            document = document.with_tensor(
                tensor.name, type=gguf_package.GGMLQuantizationType.I8, dims=(tensor.dims[0],)
            )
    path = tmp_path / "m.gguf"
    path.write_bytes(document.to_bytes())
    reader = gguf_package.GGUFReader(path)
    assert [t.name.encode() for t in reader.tensors] == [t.name for t in document.tensors]
    assert reader.fields["bitnet-b1.58.block_count"].contents() == 1


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_models_compute(tmp_path, options):
    oracle = Oracle(write_model(tmp_path / "m.gguf", **options))
    record = oracle.run([1, 2, 3])
    masked = {"attn_scores"}
    assert all(np.isfinite(values).all() for (_, stage), values in record.items() if stage not in masked)
    assert record[-1, "logits"].shape == (3, oracle.n_vocab)
    codes = [values for (_, stage), values in record.items() if stage.endswith(".codes")]
    assert all(np.unique(values).size > 20 for values in codes)  # outliers must not flatten the rest to zero


def test_transposed_embedding_is_the_same_model(tmp_path):
    plain = Oracle(write_model(tmp_path / "a.gguf", n_layer=1)).run([5, 6])
    transposed = Oracle(write_model(tmp_path / "b.gguf", n_layer=1, transposed_embd=True)).run([5, 6])
    np.testing.assert_allclose(plain[-1, "logits"], transposed[-1, "logits"], rtol=0, atol=1e-9)  # of about 10


def test_vocabulary_decides_the_activation(tmp_path):
    small = {"n_layer": 1, "n_embd": 128, "n_ff": 128, "n_head": 2}
    assert Oracle(write_model(tmp_path / "a.gguf", **small)).semantics.activation == "relu2"
    assert Oracle(write_model(tmp_path / "b.gguf", vocab=32002, **small)).semantics.activation == "silu"


def test_command_line_is_reproducible(tmp_path):
    script = Path(__file__).parent / "make_gguf.py"
    path = tmp_path / "m.gguf"
    subprocess.run([sys.executable, script, path, "--n-layer", "1", "--seed", "3", "--no-sub-norms"], check=True)
    assert path.read_bytes() == model_document(Spec(n_layer=1, seed=3, sub_norms=False)).to_bytes()
    assert path.read_bytes() != model_document(Spec(n_layer=1, seed=4, sub_norms=False)).to_bytes()


@pytest.mark.parametrize("options, word", [({"n_ff": 100}, "n_ff"), ({"n_kv": 3}, "n_kv"), ({"vocab": 258}, "vocab")])
def test_impossible_models_are_refused(options, word):
    with pytest.raises(ValueError, match=word):
        Spec(**options)
