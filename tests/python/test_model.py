"""Model: what is in a file, against the oracle's own reader; loading, tokens, errors."""

import gc
import json
import mmap
import weakref

import numpy as np
import pytest

import bitnet
from bitnet_oracle import Oracle
from conftest import DEMO, SMALL, cli
from gguf_file import F16, F32, I2_S, GGUFFile


def test_hyperparameters_are_the_files(model):
    oracle = Oracle(SMALL)
    info = model.info
    assert (info.n_vocab, info.n_layer, info.head_dim) == (oracle.n_vocab, oracle.n_layer, oracle.head_dim)
    assert info.n_bytes == SMALL.stat().st_size
    assert info.n_embd == oracle.embedding_table().shape[1]
    assert info.head_tied is (oracle.semantics.head != "dedicated")
    assert model.architecture == "bitnet-b1.58" and model.path == str(SMALL)
    assert model.isa in bitnet.isas() and bitnet.isas()[model.isa]
    assert model.semantics.startswith("activation=relu2,")


def test_hash_is_of_the_whole_file(model):
    assert model.hash == bitnet.blake3(SMALL.read_bytes())
    # The published test vector of BLAKE3 for no input.
    assert bitnet.blake3(b"") == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert bitnet.blake3(np.arange(3, dtype=np.int32)) == bitnet.blake3(bytes([0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]))


def test_metadata_and_tensors_are_the_ones_gguf_reads(model):
    file = GGUFFile(str(SMALL))
    expected = {name: field.contents() for name, field in file.fields.items() if not name.startswith("GGUF.")}
    metadata = model.metadata
    assert list(metadata) == list(expected)
    for name, value in expected.items():
        found = metadata[name]
        assert found == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value), name
        assert metadata.length(name) == (len(value) if isinstance(value, list) else 1)
    tokens = metadata["tokenizer.ggml.tokens"]
    assert metadata.type("tokenizer.ggml.tokens") == "arr[str]" and len(tokens) == model.info.n_vocab
    assert metadata.type("general.architecture") == "str"
    with pytest.raises(KeyError):
        metadata["no.such.key"]
    names = {F32: "F32", F16: "F16", I2_S: "I2_S"}
    ours = [(t.name, t.shape, t.type_name, t.file_offset) for t in model.tensors]
    assert ours == [(t.name, t.shape, names[t.type], t.offset) for t in file.tensors]
    for t in model.tensors:
        if t.type_name != "I2_S":
            assert t.n_bytes == file.floats(t.name).nbytes


def test_warnings_are_text(model):
    assert any("relu2" in warning for warning in model.warnings)


def test_from_memory_is_the_same_and_keeps_its_bytes(ids):
    want = bitnet.Model(SMALL).context().generate(ids, max_tokens=5)
    want = [t.id for t in want]
    data = SMALL.read_bytes()
    with open(SMALL, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    for given in (data, bytearray(data), memoryview(data), np.frombuffer(data, np.uint8), mapped):
        model = bitnet.Model.from_memory(given, "in memory")
        assert model.path == "in memory"
        assert [t.id for t in model.generate(ids, max_tokens=5)] == want

    class Bytes(bytearray):
        pass

    kept = Bytes(data)
    alive = weakref.ref(kept)
    context = bitnet.Model.from_memory(kept).context()
    del kept
    gc.collect()
    assert alive() is not None  # the context reads it
    assert [t.id for t in context.generate(ids, max_tokens=5)] == want
    context.eval(ids)
    logits = context.logits
    del context
    gc.collect()
    assert alive() is not None  # so does the library's context, which the array keeps
    del logits
    gc.collect()
    assert alive() is None


def test_failures_are_exceptions_by_status(tmp_path):
    with pytest.raises(bitnet.IoError, match="no_such_file") as caught:
        bitnet.Model(tmp_path / "no_such_file")
    assert isinstance(caught.value, OSError) and caught.value.status == -3
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(SMALL.read_bytes()[:5000])
    with pytest.raises(bitnet.FormatError, match="damaged.gguf"):
        bitnet.Model(damaged)
    with pytest.raises(bitnet.FormatError):
        bitnet.Model.from_memory(b"")
    with pytest.raises(bitnet.IsaError, match="no-such-isa"):
        bitnet.Model(SMALL, isa="no-such-isa")
    with pytest.raises(bitnet.InvalidError, match="nonsense") as invalid:
        bitnet.Model(SMALL, semantics="nonsense=1")
    assert isinstance(invalid.value, ValueError)


def test_progress_may_cancel_and_raise():
    seen = []
    bitnet.Model(SMALL, progress=lambda done, total: seen.append((done, total)))
    assert seen and seen == sorted(seen) and all(0 <= done <= total for done, total in seen)
    with pytest.raises(bitnet.CancelledError):
        bitnet.Model(SMALL, progress=lambda done, total: True)

    def broken(done, total):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        bitnet.Model(SMALL, progress=broken)


def test_options_reach_the_library():
    model = bitnet.Model(SMALL, isa="scalar", semantics="activation=silu,eps=1e-6", copy=True, check_codes=False)
    assert model.isa == "scalar" and "activation=silu" in model.semantics and model.info.rms_eps == pytest.approx(1e-6)


def test_tokens(demo):
    text = "What is 2+2? Größe ☃"
    ids = demo.tokenize(text)
    printed = cli("tokenize", "-m", DEMO, "-p", text, "--json")
    assert ids == json.loads(printed)["tokens"]
    assert (ids[0] == demo.bos) is demo.wants_bos
    assert demo.detokenize(ids) == text and demo.detokenize_bytes(ids) == text.encode()
    without = demo.tokenize(text.encode(), add_bos=False)
    assert without == ids[1:] if demo.wants_bos else ids
    assert demo.tokenize("", add_bos=False) == [] and demo.detokenize([]) == ""
    end = demo.token_text(demo.end_ids[0])
    assert demo.tokenize(end, add_bos=False, parse_special=True) == [demo.end_ids[0]]
    assert demo.detokenize([demo.end_ids[0]]) == "" and demo.detokenize([demo.end_ids[0]], special=True) == end
    assert demo.token_type(demo.end_ids[0]) == 3 and demo.token_type(-1) == 0 and demo.token_text(10**6) is None
    assert isinstance(demo.chat_template, str) and demo.pad is None or demo.pad >= 0
    snowman = demo.tokenize("☃", add_bos=False)
    assert demo.detokenize_bytes(snowman) == "☃".encode()
    with pytest.raises(bitnet.InvalidError):
        demo.detokenize([demo.info.n_vocab])
    with pytest.raises(bitnet.InvalidError, match="32 bits"):
        demo.detokenize([2**40])


def test_repr(model):
    assert repr(model).startswith("<bitnet.Model 'small.gguf': bitnet-b1.58, ")
    assert "<th>n_layer</th><td>3</td>" in model._repr_html_() and "<li>" in model._repr_html_()
    assert "22 GGUF keys" in repr(model.metadata)


def test_log_reaches_a_callable():
    lines = []
    bitnet.set_log(lambda level, text: lines.append((level, text)))
    try:
        with bitnet.Model(SMALL).context() as ctx:
            with pytest.raises(bitnet.PluginError):
                ctx.trace("no_such_plugin").__enter__()
    finally:
        bitnet.set_log(None)
    assert any("no_such_plugin" in text for _, text in lines), lines
