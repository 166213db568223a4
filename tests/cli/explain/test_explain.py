"""bitnet explain as a program: what bitnet.cpp recorded, exit codes, both formats, and recordings that are damaged."""

import io
import json
import os
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]
SMALL = ROOT / "tests/data/small.gguf"
RECORDING = ROOT / "tests/data/bitnetcpp.npz"
PROGRAM = os.environ["BITNET_PROGRAM"]


def run(*arguments, expect=None):
    done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, timeout=120)
    if expect is not None:
        assert done.returncode == expect, done.stderr.decode(errors="replace")
    return done


def explain(recording, *options, expect):
    done = run("explain", recording, "-m", SMALL, "--format", "json", *options, expect=expect)
    return json.loads(done.stdout)


def error_of(recording, *options):
    done = run("explain", recording, "-m", SMALL, *options, expect=2)
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("bitnet: "), lines
    return lines[0]


@pytest.fixture
def arrays():
    with np.load(RECORDING) as file:
        return dict(file.items())


def saved(path, arrays, how=np.savez):
    how(path, **arrays)
    return path


# ---- what bitnet.cpp recorded ----


def test_bitnetcpp_is_right():
    report = explain(RECORDING, expect=0)
    assert report["verdict"] == "reproduced"
    assert report["counts"]["reproduced"] == 51
    assert report["counts"]["wrong"] == report["counts"]["uncompared"] == 0
    (group,) = report["groups"]
    assert (group["outcome"], group["semantics"]) == ("legal", "kv=f16,attn_q=f16")
    assert [(o["layer"], o["stage"]) for o in group["operations"]] == [(i, "attn_context") for i in range(3)]
    assert group["distance"] < 1e-6
    stages = {(o["layer"], o["stage"]): o for o in report["operations"]}
    assert all(o["distance"] <= o["allowed"] for o in stages.values() if o["outcome"] == "reproduced")
    linears = [o for (_, stage), o in stages.items() if stage in ("q_proj", "ffn_out")]
    assert all(o["equal"] for o in linears)  # the same integers in the same order of f32 operations


def test_text_names_the_class():
    text = run("explain", RECORDING, "-m", SMALL, expect=0).stdout.decode()
    assert text.startswith("REPRODUCED: all 54 operations")
    assert "attn_context of layers 0-2" in text
    assert "F16 KV cache and queries (kv=f16,attn_q=f16)" in text


def test_two_faults_in_one_pass(tmp_path, arrays):
    """A fault behind another one is not hidden by it: each operation is judged on its own inputs."""
    arrays["0/q_rope"] = -arrays["0/q_rope"]
    arrays["2/ffn_out"] = arrays["2/ffn_out"] * np.float32(1.5)
    report = explain(saved(tmp_path / "a.npz", arrays), expect=1)
    wrong = [o for o in report["operations"] if o["outcome"] == "wrong"]
    # What is computed from a changed row does not follow from it either, and is named too: it was changed afterwards.
    assert [(o["layer"], o["stage"]) for o in wrong] == [
        (0, "q_rope"),
        (0, "attn_context"),
        (2, "ffn_out"),
        (2, "layer_out"),
    ]
    assert all(not o["causes"] for o in wrong)
    text = run("explain", tmp_path / "a.npz", "-m", SMALL, expect=1).stdout.decode()
    assert "cause not found" in text


def test_inputs_that_were_not_recorded_are_no_verdict(tmp_path, arrays):
    del arrays["1/attn_norm"], arrays["1/k_rope"]
    report = explain(saved(tmp_path / "a.npz", arrays), expect=0)
    silent = {(o["layer"], o["stage"]): o["why_not"] for o in report["operations"] if o["outcome"] == "uncompared"}
    assert silent == {
        (1, "q_proj"): "its input attn_norm was not recorded",
        (1, "k_proj"): "its input attn_norm was not recorded",
        (1, "v_proj"): "its input attn_norm was not recorded",
        (1, "attn_context"): "its input k_rope was not recorded",
    }


def test_nothing_to_compare_is_an_error(tmp_path, arrays):
    path = saved(tmp_path / "a.npz", {"2/q_proj": arrays["2/q_proj"]})
    assert "nothing could be compared: q_proj of layer 2: its input attn_norm was not recorded" in error_of(path)
    path = saved(tmp_path / "b.npz", {"2/mystery": arrays["2/q_proj"]})
    assert "no stage of a layer among 1 arrays" in error_of(path)


def test_nan_on_one_side_is_wrong(tmp_path, arrays):
    arrays["0/ffn_norm"] = arrays["0/ffn_norm"].copy()
    arrays["0/layer_out"] = arrays["0/layer_out"].copy()
    arrays["0/layer_out"][3, 7] = np.nan
    report = explain(saved(tmp_path / "a.npz", arrays), expect=1)
    wrong = {(o["layer"], o["stage"]): o for o in report["operations"] if o["outcome"] == "wrong"}
    assert wrong[0, "layer_out"]["distance"] == "Infinity"
    assert (wrong[0, "layer_out"]["position"], wrong[0, "layer_out"]["index"]) == (3, 7)
    assert wrong[0, "layer_out"]["recorded"] is None


def test_other_shapes_are_wrong_not_a_crash(tmp_path, arrays):
    arrays["1/ffn_act"] = arrays["1/ffn_act"][:, :-1]
    report = explain(saved(tmp_path / "a.npz", arrays), expect=1)
    (wrong,) = [o for o in report["operations"] if o["outcome"] == "wrong"]
    assert (wrong["layer"], wrong["stage"], wrong["distance"]) == (1, "ffn_act", "Infinity")
    (silent,) = [o for o in report["operations"] if o["outcome"] == "uncompared"]
    assert silent["stage"] == "ffn_sub_norm" and "767 elements of ffn_act: expected 768" in silent["why_not"]


def test_one_bad_element(tmp_path, arrays):
    arrays["1/ffn_up"] = arrays["1/ffn_up"].copy()
    arrays["1/ffn_up"][5, 700] *= np.float32(1.001)
    report = explain(saved(tmp_path / "a.npz", arrays), expect=1)
    first = next(o for o in report["operations"] if o["outcome"] == "wrong")
    assert (first["layer"], first["stage"], first["position"], first["index"]) == (1, "ffn_up", 5, 700)


def test_rules(tmp_path, arrays):
    assert explain(RECORDING, "--tolerance", "exact", expect=1)["counts"]["wrong"] > 0
    assert explain(RECORDING, "--factor", "1e4", expect=0)["groups"] == []
    assert explain(RECORDING, "--factor", "0", expect=1)["counts"]["wrong"] > 0
    wrong = explain(RECORDING, "--as", "activation=silu", expect=1)
    assert [(g["outcome"], g["semantics"]) for g in wrong["groups"]] == [
        ("wrong", "activation=relu2"),
        ("legal", "kv=f16,attn_q=f16"),
    ]
    assert explain(RECORDING, "--as", "kv=f16,attn_q=f16", expect=0)["groups"] == []
    assert "expected one of auto, exact, bitnet" in error_of(RECORDING, "--tolerance", "loose")


def test_double_bos_is_a_fact(tmp_path, arrays):
    assert not any("BOS" in fact for fact in explain(RECORDING, expect=0)["facts"])
    arrays["ids"][1] = arrays["ids"][0]  # the model's BOS
    report = explain(saved(tmp_path / "a.npz", arrays), expect=1)
    assert any(fact.startswith("double BOS: the tokens begin with 509 twice") for fact in report["facts"])
    first = next(o for o in report["operations"] if o["outcome"] == "wrong")
    assert (first["stage"], first["position"]) == ("embeddings", 1)


# ---- files ----


@pytest.mark.parametrize("how", [np.savez, np.savez_compressed])
def test_both_kinds_of_npz(tmp_path, arrays, how):
    assert explain(saved(tmp_path / "a.npz", arrays, how), expect=0)["counts"]["reproduced"] == 51


def repacked(path, level):
    """The recording again with other deflate settings: stored, fixed and dynamic blocks."""
    packing = {"compression": zipfile.ZIP_DEFLATED, "compresslevel": level}
    with zipfile.ZipFile(RECORDING) as source, zipfile.ZipFile(path, "w", **packing) as out:
        for name in source.namelist():
            out.writestr(name, source.read(name))
        out.writestr("tiny.npy", _npy(np.zeros(1, np.float32)))  # so small that its block has the fixed codes
    return path


def _npy(array):
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


@pytest.mark.parametrize("level", [0, 1, 9])
def test_deflate_levels(tmp_path, level):
    report = explain(repacked(tmp_path / "a.npz", level), expect=0)
    assert report["counts"]["reproduced"] == 51
    assert any("'tiny'" in fact for fact in report["facts"])


def test_damaged_archives_are_errors_of_one_line(tmp_path):
    good = RECORDING.read_bytes()
    rng = np.random.default_rng(3)
    path = tmp_path / "damaged.npz"
    outcomes = set()
    for i in range(60):
        data = bytearray(good)
        if i % 3 == 0:
            data = data[: int(rng.integers(len(data)))]
        else:
            for at in rng.integers(len(data), size=1 + i % 5):
                data[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        done = run("explain", path, "-m", SMALL)
        assert done.returncode in (0, 1, 2), done.returncode
        outcomes.add(done.returncode)
        if done.returncode == 2:
            assert len(done.stderr.decode(errors="replace").splitlines()) == 1
    assert 2 in outcomes


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "too short for a ZIP archive"),
        (b"x" * 100, "not a ZIP archive"),
    ],
)
def test_no_archive(tmp_path, content, words):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    assert words in error_of(path)
    assert str(path) in error_of(path)


def test_arrays_that_cannot_be_used(tmp_path, arrays):
    for array, words in (
        (np.zeros((8, 256), np.complex64), "type '<c8'"),
        (np.asfortranarray(np.zeros((8, 256), np.float32)), "Fortran order"),
        (np.zeros((0, 256), np.float32), "has no rows"),
    ):
        path = saved(tmp_path / "a.npz", {**arrays, "0/q_proj": array})
        assert words in error_of(path)
        assert "0/q_proj" in error_of(path)


def test_float64_and_float16_arrays(tmp_path, arrays):
    path = saved(tmp_path / "a.npz", {k: v.astype(np.float64) if k != "ids" else v for k, v in arrays.items()})
    assert explain(path, expect=0)["counts"]["reproduced"] == 51


def test_missing_files():
    assert "no_such.npz: no such file or folder" in error_of("no_such.npz")
    assert "/dev/null: too short" in error_of("/dev/null")


# ---- a folder, as the npy plugin writes it ----


@pytest.fixture
def folder(tmp_path):
    ids = ",".join(str((i * 37 + 11) % 512) for i in range(6))

    def trace(*options, select="**,*.*"):
        run("trace", "-m", SMALL, "--tokens", ids, "--select", select, "--plugin", f"npy:dir={tmp_path}/raw,raw=all",
            *options, expect=0)
        return tmp_path / "raw"

    return trace


def test_our_own_engine_to_the_bit(folder):
    path = folder()
    report = explain(path, expect=0)
    assert report["rule"] == "bits"
    assert report["trace"]["engine"] == "bitnet-c"
    assert report["counts"]["wrong"] == report["counts"]["uncompared"] == report["counts"]["unrecorded"] == 0
    assert all(o["equal"] for o in report["operations"])


def test_one_wrong_layer_to_the_bit(folder):
    report = explain(folder("--as", "rope_offset@1=1,scale_type@2=bf16"), expect=1)
    assert [(g["semantics"], g["distance"]) for g in report["groups"]] == [("rope_offset=1", 0), ("scale_type=bf16", 0)]
    assert {(o["layer"], o["stage"]) for o in report["groups"][0]["operations"]} == {(1, "q_rope"), (1, "k_rope")}
    assert {o["layer"] for o in report["groups"][1]["operations"]} == {2}


@pytest.mark.parametrize(
    "semantics, stage, first, expected",
    [
        ("head_input=f16", "logits", 4, "|head_input=f16"),  # legal, and the other rows are as here
        ("kv@1=f16,attn_q@1=f16,attn_p@1=f16", "attn_context", 3, "|kv=f16,attn_q=f16,attn_p=f16"),
        ("attn_scale@1=full", "attn_context", 3, ""),  # a fault is none the less one for being seen in some rows alone
    ],
)
def test_rows_of_one_operation_that_follow_two_semantics(tmp_path, semantics, stage, first, expected):
    ids = ",".join(str((i * 37 + 11) % 512) for i in range(8))
    for name, options in (("raw", ()), ("other", ("--as", semantics))):
        run("trace", "-m", SMALL, "--tokens", ids, "--select", "**", "--plugin", f"npy:dir={tmp_path / name},raw=all", *options,
            expect=0)
    places = ["logits"] if stage == "logits" else [f"blk001-{stage}", "blk001-attn_scores_softmax"]
    for position in range(first, 8):
        for place in places:
            files = [list((tmp_path / name).glob(f"*/*-t{position:06}-{place}.npy")) for name in ("raw", "other")]
            files[0][0].write_bytes(files[1][0].read_bytes())
    report = explain(tmp_path / "raw", "--tolerance", "bitnet", expect=0 if stage == "logits" else 1)
    group = next(g for g in report["groups"] if stage in {o["stage"] for o in g["operations"]})
    assert (group["semantics"], group["outcome"]) == (expected, "legal" if expected else "wrong")
    assert not expected or f"for {8 - first} rows from position {first} on" in group["text"]


def test_a_window(tmp_path):
    """What the npy plugin writes around one point is enough to judge its block at that position, attention included."""
    raw = tmp_path / "raw"
    ids = ",".join(str((i * 37 + 11) % 512) for i in range(6))
    run("trace", "-m", SMALL, "--tokens", ids, "--as", "attn_scale@1=full", "--plugin",
        f"npy:dir={raw},at=5:1:attn_context,layers=0", expect=0)
    report = explain(raw, expect=1)
    (group,) = report["groups"]
    assert group["semantics"] == "attn_scale=full"
    assert (1, "attn_context") in {(o["layer"], o["stage"]) for o in group["operations"]}
    assert {o["layer"] for o in report["operations"]} == {1}
    assert report["counts"]["reproduced"] >= 12


def test_folder_problems(folder, tmp_path):
    path = folder() / "run-000000"
    assert "another model" in error_of_model(path, ROOT / "scripts/demo_model/demo.gguf")
    json_path = path / "run.json"
    text = json_path.read_text()
    json_path.write_text(json.dumps({**json.loads(text), "complete": False}))
    assert "cut short" in error_of(path)
    json_path.write_text(text[: len(text) // 2])
    assert "run.json" in error_of(path)
    json_path.write_text(text)
    one = next(path.glob("*q_proj.npy"))
    data = one.read_bytes()
    one.write_bytes(data[:-4])
    assert one.name in error_of(path)
    one.write_bytes(data)
    (path / "run-of-another-kind.npy").write_bytes(data)
    assert explain(path, expect=0)["facts"] == ["1 arrays are of no stage, the first 'run-of-another-kind.npy'"]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "expected *.npy files" in error_of(empty)


def error_of_model(path, model):
    done = run("explain", path, "-m", model, expect=2)
    return done.stderr.decode()


# ---- a program that is run twice ----


def rerun(*program, expect):
    done = run("explain", "--rerun", "-m", SMALL, "--format", "json", "--", *program, expect=expect)
    return json.loads(done.stdout), done.stderr.decode(errors="replace")


def test_a_program_is_run_twice():
    report, err = rerun(PROGRAM, "run", "-m", SMALL, "-p", "one two", "-n", "3", "--as", "rope_offset@1=1", expect=1)
    (group,) = report["groups"]
    assert (group["semantics"], group["distance"]) == ("rope_offset=1", 0)
    assert {(o["layer"], o["stage"]) for o in group["operations"]} == {(1, "q_rope"), (1, "k_rope")}
    assert {o["layer"] for o in report["operations"]} == {-1, 0, 1, 2}
    assert any(fact.startswith("run twice, the second time for the raw values of position 0, the first") for fact in report["facts"])
    assert "nothing was traced" not in err
    right, _ = rerun(PROGRAM, "run", "-m", SMALL, "-p", "one two", "-n", "3", expect=0)
    assert right["verdict"] == "reproduced"
    assert right["counts"]["reproduced"] > 50


def test_a_program_that_does_something_else_the_second_time(tmp_path):
    mark = tmp_path / "once"
    script = tmp_path / "program"
    script.write_text(f"#!/bin/sh\ntext=one; [ -e {mark} ] && text=three\ntouch {mark}\n"
                      f'exec {PROGRAM} run -m {SMALL} -n 1 -p "$text"\n')
    script.chmod(0o755)
    done = run("explain", "--rerun", "-m", SMALL, "--", script, expect=2)
    assert b"evaluated other tokens when it was run again" in done.stderr


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--rerun"], "a program after -- is missing"),
        ([], "TRACE is missing"),
        (["a", "b"], "unexpected b"),
        (["--rerun", "--", "/bin/true"], "the program recorded nothing"),
        (["--rerun", "--", "/no/such/program"], "cannot run '/no/such/program'"),
    ],
)
def test_rerun_problems(arguments, words):
    done = run("explain", "-m", SMALL, *arguments, expect=2)
    assert words in done.stderr.decode()


def test_a_program_that_fails_after_it_was_recorded(tmp_path):
    """What it recorded counts; that it failed is said, both times."""
    script = tmp_path / "program"
    script.write_text(f"#!/bin/sh\n{PROGRAM} run -m {SMALL} -p one -n 1 --as activation=silu\nexit 3\n")
    script.chmod(0o755)
    report, err = rerun(script, expect=1)
    (group,) = report["groups"]
    assert group["semantics"] == "activation=silu"
    assert {(o["layer"], o["stage"]) for o in group["operations"]} == {(layer, "ffn_act") for layer in range(3)}
    assert err.count("explain: the program ended with status 3") == 2


# ---- what diff says to record ----


@pytest.mark.parametrize(
    "semantics, select, place",
    [
        ("round@1=truncate", "**,*.*", (1, "attn_norm.codes")),
        ("attn_scale@2=full", "**", (2, "attn_scores")),
        ("eps@0=1e-3", "*", (0, "attn_norm")),
        ("theta@1=10000", "!embeddings", (1, "q_rope")),
        ("head_input=f16", "*", (-1, "logits")),
    ],
)
def test_what_diff_says_to_record_is_enough(tmp_path, semantics, select, place):
    common = ["trace", "-m", SMALL, "--tokens", "509,17,300,42"]
    run(*common, "--select", select, "-o", tmp_path / "a.jsonl", expect=0)
    run(*common, "--select", select, "-o", tmp_path / "b.jsonl", "--as", semantics, expect=0)
    done = run("diff", tmp_path / "a.jsonl", tmp_path / "b.jsonl", "--tolerance", "exact", "--format", "json", expect=1)
    first = json.loads(done.stdout)["first"]
    text = run("diff", tmp_path / "a.jsonl", tmp_path / "b.jsonl", "--tolerance", "exact", expect=1).stdout.decode()
    assert f"BITNET_TRACE_SELECT='{first['select']}'" in text
    run(*common, "--select", first["select"], "--plugin", f"npy:dir={tmp_path / 'raw'},raw=all", "--as", semantics, expect=0)
    legal = semantics == "head_input=f16"  # named, but no fault
    report = explain(tmp_path / "raw", expect=0 if legal else 1)
    assert place in {(o["layer"], o["stage"]) for g in report["groups"] for o in g["operations"]}
    assert {g["semantics"] for g in report["groups"]} == {semantics.replace("@0", "").replace("@1", "").replace("@2", "")}
