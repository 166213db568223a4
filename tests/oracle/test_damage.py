"""The damaged files themselves: enough of them, all different, and each damaged as its name says."""

import pytest

from bitnet_oracle import Oracle
from damage import BIT_FLIPS, DATA_CUTS, HEADER_CUTS, damaged_files
from gguf_document import parse
from gguf_file import GGUFFile
from make_gguf import Spec, model_document

# Damages that the `gguf` package refuses too, so that they need not be taken on trust.
REFUSED_BY_THE_PACKAGE = (
    "header/magic",
    "header/version_1",
    "header/key_count_one_more",
    "entries/value_type_13",
    "entries/duplicate_key_general.architecture",
    "entries/alignment_0",
    "entries/alignment_3",
)


@pytest.fixture(scope="module")
def valid():
    return model_document(Spec(seed=5)).to_bytes()


@pytest.fixture(scope="module")
def damages(valid):
    return {damage.name: damage for damage in damaged_files(valid)}


def test_document_round_trip(valid, small_gguf):
    assert parse(valid).to_bytes() == valid
    assert parse(small_gguf.read_bytes()).to_bytes() == small_gguf.read_bytes()


def test_number_and_variety(valid, damages):
    listed = list(damaged_files(valid))
    assert len(listed) == len(damages)  # no name twice
    assert len({damage.data for damage in listed} | {valid}) == len(listed) + 1
    kinds = [damage.name.split("/")[0] for damage in listed]
    assert kinds.count("bit_flips") == BIT_FLIPS >= 100
    assert kinds.count("truncations") == HEADER_CUTS + DATA_CUTS == 100
    assert len(kinds) - BIT_FLIPS - 100 >= 150


def test_same_seed_same_files(valid, damages):
    assert all(damages[damage.name] == damage for damage in damaged_files(valid, seed=0))
    assert any(damage.name not in damages for damage in damaged_files(valid, seed=1))


def test_expectations(damages):
    for name, damage in damages.items():
        assert (damage.expected is None) or all(damage.expected), name
        if name.startswith("bit_flips/"):
            assert damage.expected is None
        if name.startswith("truncations/"):
            assert damage.expected is not None


@pytest.mark.parametrize("name", REFUSED_BY_THE_PACKAGE)
def test_package_refuses_it(tmp_path, damages, name):
    path = tmp_path / "damaged.gguf"
    path.write_bytes(damages[name].data)
    with pytest.raises((ValueError, KeyError, IndexError)):
        GGUFFile(path)


@pytest.mark.parametrize("name", [f"shapes/no_blk.0.{tensor}.weight" for tensor in ("attn_norm", "attn_q", "ffn_down")])
def test_missing_tensor_stops_the_oracle(tmp_path, damages, name):
    path = tmp_path / "damaged.gguf"
    path.write_bytes(damages[name].data)
    with pytest.raises(KeyError, match=damages[name].expected[0]):
        Oracle(path).run([0])


def test_cut_names_the_tensor_that_is_missed(valid, damages):
    document = parse(valid)
    header = len(document.header_bytes())
    cuts = [damage for name, damage in damages.items() if name.startswith("truncations/data_")]
    for cut in cuts:
        tensor = document.tensor(cut.expected[0].encode())
        later = [t.offset for t in document.tensors if t.offset > tensor.offset]
        assert tensor.offset <= len(cut.data) - header < min(later, default=len(document.data))
