"""The sinks of a real evaluation, read by what their users read them with: numpy, DuckDB, BitNet-rs's rules."""

import base64
import json
import math
import os
import re
import struct
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import duckdb
import numpy
import pytest

PROGRAM = os.environ["BITNET_PROGRAM"]
ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "tests/data/small.gguf"
DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "|i1", "I32": "<i4"}


def strict_json(text):
    def refuse(name):
        raise ValueError(f"{name} is not JSON")
    return json.loads(text, parse_constant=refuse)


def run(plugins, select="", n=4, check=True):
    kept = {key: value for key, value in os.environ.items() if not key.startswith("BITNET_")}
    environment = {**kept, "BITNET_TRACE_PLUGIN": ";".join(plugins), "BITNET_TRACE_SELECT": select}
    command = [PROGRAM, "run", "-m", str(MODEL), "-p", "Hello world", "-n", str(n)]
    done = subprocess.run(command, env=environment, timeout=120, capture_output=True, text=True, errors="replace")
    if check:
        assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """One evaluation with every sink and every stage."""
    folder = tmp_path_factory.mktemp("all sinks \u00e9")
    run([f"jsonl:path={folder}/a.jsonl", f"npy:dir={folder}/raw,raw=all", f"tracedir:dir={folder}/rs,layout=bitnet-rs",
         f"tracedir:dir={folder}/own", f"timeline:path={folder}/a.json"], select="**,*.*")
    return folder


@pytest.fixture(scope="module")
def records(traced):
    return [strict_json(line) for line in (traced / "a.jsonl").read_text().splitlines()]


def b3sum(data, folder):
    path = folder / "row"
    path.write_bytes(data)
    return subprocess.run(["b3sum", "--no-names", path], check=True, capture_output=True, text=True).stdout.strip()


def test_npy_files_are_the_traced_rows(traced, records, tmp_path):
    rows = [record for record in records if record["record"] == "tensor"]
    folder = traced / "raw/run-000000"
    names = sorted(path.name for path in folder.glob("*.npy"))
    assert len(names) == len(rows) > 200
    dtypes = set()
    for number, (name, row) in enumerate(zip(names, rows)):  # sorted by name: in the order of the records
        event, seq, *layer, stage = name.removesuffix(".npy").split("-")
        assert (int(event), int(seq[1:]), stage) == (row["event"], row["seq"], row["stage"])
        assert (int(layer[0][3:]) if layer else -1) == row["layer"]
        array = numpy.load(folder / name, allow_pickle=False)
        assert array.dtype == numpy.dtype(DTYPES[row["dtype"]]) and list(array.shape) == row["shape"]
        assert array.flags.c_contiguous
        dtypes.add(row["dtype"])
        values = array.astype("f8")
        assert math.isclose(math.sqrt(numpy.mean(values ** 2)), row["rms"], rel_tol=1e-6, abs_tol=1e-12)
        if number % 41 == 0:
            assert b3sum(array.tobytes(), tmp_path) == row["blake3"]
    assert dtypes == {"F32", "I8", "I32"}


def test_npy_run_json(traced, records):
    about = strict_json((traced / "raw/run-000000/run.json").read_text())
    assert about["format"] == 1 and about["complete"] and about["window"] is None
    tokens = [token for record in records if record["record"] == "step" for token in record["tokens"]]
    assert about["tokens"] == tokens and about["first_position"] == 0
    assert about["run"]["model_hash"] == records[0]["model_hash"]
    assert about["run"]["semantics"] == records[0]["semantics"]
    assert about["records"] == records[-1]["records"]
    assert about["bytes"] == sum(path.stat().st_size for path in (traced / "raw/run-000000").glob("*.npy"))


def test_npy_window_of_a_real_run(tmp_path):
    run([f"npy:dir={tmp_path},at=2:1:ffn_out,layers=0"])
    names = sorted(path.name for path in (tmp_path / "run-000000").glob("*.npy"))
    places = {(int(name.split("-t")[1][:6]), name.split("-")[-1]) for name in names}
    assert {stage for seq, stage in places if seq < 2} == {"k_rope.npy", "v_proj.npy"}
    at = {stage.removesuffix(".npy") for seq, stage in places if seq == 2}
    assert {"attn_norm", "q_rope", "attn_context", "ffn_out", "layer_out"} <= at and len(at) == 18
    assert not [seq for seq, _ in places if seq > 2]
    assert all("-blk001-" in name for name in names)


@pytest.mark.parametrize("config, text", [
    ("", "say at=SEQ:LAYER:STAGE for a window around that point, or raw=all"),
    (",at=0:0:nonsense", "no 'nonsense' of layer 0 at position 0 in this run"),
    (",raw=all,max_mb=1", "max_mb=1 is reached"),
])
def test_npy_failures_end_in_the_exit_status(tmp_path, config, text):
    done = run([f"npy:dir={tmp_path}{config}"], select="**", n=64, check=False)
    assert done.returncode == 2 and text in done.stderr


def load_as_struct(path):
    """As crates/bitnet-trace/src/lib.rs declares its record: the first six fields are required, others may be there."""
    record = strict_json(path.read_text())
    kinds = {"name": str, "dtype": str, "blake3": str, "rms": (int, float), "num_elements": int, "seq": int,
             "layer": int, "stage": str, "shape": list}
    assert list(record) == ["name", "shape", "dtype", "blake3", "rms", "num_elements", "seq", "layer", "stage"]
    assert all(isinstance(record[key], kind) for key, kind in kinds.items())
    assert record["num_elements"] == math.prod(record["shape"])
    return record


def load_traces(folder):
    """As scripts/trace_diff.py does: any line of any .trace file, found by (seq, layer, stage)."""
    traces = {}
    for path in Path(folder).glob("*.trace"):
        for line in path.read_text().splitlines():
            if line.strip():
                record = json.loads(line)
                traces[record["seq"], record["layer"], record["stage"]] = record
    return traces


def test_tracedir_by_the_rules_of_bitnet_rs(traced, records):
    expected = {(r["seq"], r["layer"], r["stage"]): r for r in records if r["record"] == "tensor"}
    own, rs = load_traces(traced / "own"), load_traces(traced / "rs")
    assert own.keys() == rs.keys() == expected.keys()
    for path in (traced / "rs").iterdir():
        record = load_as_struct(path)
        assert path.name == record["name"].replace("/", "_") + ".trace"
    for key, record in expected.items():
        assert own[key]["shape"] == record["shape"]
        assert rs[key]["shape"][0] == 1 and math.prod(rs[key]["shape"]) == record["num_elements"]
        assert own[key]["name"] == rs[key]["name"] == record["name"]
        assert own[key]["rms"] == rs[key]["rms"] == record["rms"]
        assert own[key]["blake3"] == rs[key]["blake3"]
        assert (own[key]["blake3"] == record["blake3"]) == (record["dtype"] == "F32")
    assert (traced / "rs/t0_blk1_attn_norm.trace").exists() and (traced / "rs/t2_logits.trace").exists()
    some = rs[1, 0, "attn_scores_softmax"]["shape"]
    assert len(some) == 4 and some[0] == some[2] == 1 and some[3] == 2  # batch, head, token, position


def test_tracedir_hashes_codes_as_f32(traced, tmp_path):
    [path] = (traced / "raw/run-000000").glob("*-t000001-blk000-attn_norm.codes.npy")
    codes = numpy.load(path)
    record = strict_json((traced / "rs/t1_blk0_attn_norm.codes.trace").read_text())
    assert record["dtype"] == "I8"
    assert record["blake3"] == b3sum(codes.astype("<f4").tobytes(), tmp_path)


def test_timeline_of_a_real_run(traced, records):
    events = strict_json((traced / "a.json").read_text())
    assert isinstance(events, list) and len({event["pid"] for event in events}) == 1
    steps = [event for event in events if event["ph"] in "BE" and event["cat"] == "step"]
    assert [event["ph"] for event in steps] == ["B", "E"] * (len(steps) // 2)
    n_steps = sum(record["record"] == "step" for record in records)
    assert len(steps) == 2 * n_steps and steps[0]["name"] == "prefill" and steps[2]["name"] == "decode"
    slices = [event for event in events if event["ph"] == "X" and event["cat"] == "stage"]
    assert len(slices) == len({record["event"] for record in records if record["record"] == "tensor"})
    assert sum(event["args"]["n_rows"] for event in slices) == records[-1]["records"]
    blocks = [event for event in events if event["ph"] == "B" and event["cat"] == "block"]
    assert len(blocks) == n_steps * records[0]["hyperparameters"]["n_layer"]
    for event in slices:
        assert {"layer", "position", "n_rows", "bytes", "kernel", "ns"} <= event["args"].keys()
        inside = [step for step in range(0, len(steps), 2)
                  if steps[step]["ts"] <= event["ts"] and event["ts"] + event["dur"] <= steps[step + 1]["ts"] + 1e-3]
        assert len(inside) == 1
    order = sorted(slices, key=lambda event: event["ts"])
    assert all(a["ts"] + a["dur"] <= b["ts"] + 1e-3 for a, b in zip(order, order[1:]))


def draw(*arguments):
    return subprocess.run([ROOT / "scripts/timeline_svg.py", *map(str, arguments)], capture_output=True, text=True, timeout=60)


def test_timeline_as_a_picture(traced, tmp_path):
    picture = tmp_path / "a.svg"
    assert draw(traced / "a.json", picture, 0, 1).returncode == 0
    root = ElementTree.parse(picture).getroot()
    titles = [element.text for element in root.iter("{http://www.w3.org/2000/svg}title")]
    assert [title.split(":")[0] for title in titles if title.startswith("blk ")] == ["blk 0", "blk 1", "blk 2"]
    assert any(title.startswith("ffn_gate: ") for title in titles) and any(title.startswith("logits: ") for title in titles)
    text = "".join(root.itertext())
    assert "prefill of" in text and "blk 1: " in text
    for element in root.iter("{http://www.w3.org/2000/svg}rect"):
        assert 0 <= float(element.get("x", 0)) <= 1000 and float(element.get("width")) <= 1000
    # Its process was killed: the last ']' is missing.
    cut = tmp_path / "cut.json"
    cut.write_text((traced / "a.json").read_text().rstrip().removesuffix("]"))
    assert draw(cut, picture).returncode == 0


@pytest.mark.parametrize("arguments, text", [((), "expected TRACE.json"), (("missing.json", "a.svg"), "No such file"),
                                             ((MODEL.with_name("README.md"), "a.svg"), "no trace of the timeline plugin")])
def test_timeline_pictures_of_nothing(arguments, text):
    done = draw(*arguments)
    assert done.returncode == 2 and text in done.stderr and done.stderr.count("\n") == 1, done.stderr


def parquet_query(source, target):
    """The one that is documented."""
    text = (ROOT / "plugins/TRACE_FORMAT.md").read_text()
    [query] = re.findall(r"```sql\n(.*?)```", text, re.S)
    assert "'trace.jsonl'" in query and "'trace.parquet'" in query
    return query.replace("'trace.jsonl'", f"'{source}'").replace("'trace.parquet'", f"'{target}'")


def rows_of(path):
    relation = duckdb.sql(f"SELECT * FROM '{path}'")
    return [dict(zip(relation.columns, row)) for row in relation.fetchall()]


def test_parquet_has_every_record_and_key(traced, records, tmp_path):
    target = tmp_path / "a.parquet"
    duckdb.sql(parquet_query(traced / "a.jsonl", target))
    rows = rows_of(target)
    assert len(rows) == len(records)
    for row, record in zip(rows, records):
        if record["record"] == "run_end":
            record = {**record, "tokens_evaluated": record["tokens"], "tokens": None}
        assert {key for key in row if row[key] is not None} == {key for key in record if record[key] is not None}
        for key, value in record.items():
            got = row[key]
            if key == "multiset":
                assert got == int(value, 16)
            elif key == "sketch":
                assert bytes(got) == base64.b64decode(value) and len(got) == 256
            elif key == "top":
                assert [[item["index"], item["value"]] for item in got] == value
            elif key in ("hyperparameters", "semantics"):
                assert {name: text for name, text in got.items()} == {name: str(text) for name, text in value.items()}
            elif key == "time":
                assert got.isoformat(timespec="milliseconds") + "Z" == value
            else:
                assert got == value, key


def test_parquet_of_a_compressed_trace_and_the_times(tmp_path):
    source, target = tmp_path / "a.jsonl.zst", tmp_path / "a.parquet"
    run([f"jsonl:path={source}"])
    duckdb.sql(parquet_query(source, target))
    assert {row["record"] for row in rows_of(target)} == {"run", "step", "tensor", "run_end"}
    [query] = re.findall(r"(    SELECT stage, sum\(ns\).*?;)", (ROOT / "plugins/TRACE_FORMAT.md").read_text(), re.S)
    times = duckdb.sql(query.replace("'trace.parquet'", f"'{target}'")).fetchall()
    assert len(times) == 21 and all(a[1] >= b[1] > 0 for a, b in zip(times, times[1:]))


def test_parquet_reads_what_is_not_finite(tmp_path):
    record = {"record": "tensor", "run": 0, "event": 2 ** 63, "seq": 0, "layer": -1, "stage": "logits", "shape": [2, 3],
              "multiset": "ffffffffffffffff", "rms": "NaN", "mean": "Infinity", "std": "-Infinity", "min": -1, "max": 1e-45,
              "top": [[1, "Infinity"], [4294967295, "-Infinity"], [3, 2.5]], "sketch": "AABgwg=="}
    empty = {"record": "tensor", "run": 0, "event": 3, "top": [], "sketch": ""}
    begin = {"record": "run", "run": 0, "prompt": "\u00e9\n\"\u6f22", "tokens": None, "hyperparameters": {}}
    source, target = tmp_path / "b.jsonl", tmp_path / "b.parquet"
    source.write_text("".join(json.dumps(line) + "\n" for line in (begin, record, empty)))
    duckdb.sql(parquet_query(source, target))
    first, row, last = rows_of(target)
    assert first["prompt"] == begin["prompt"] and first["tokens"] is None and first["hyperparameters"] == {}
    assert row["event"] == 2 ** 63 and row["multiset"] == 2 ** 64 - 1 and row["layer"] == -1 and row["shape"] == [2, 3]
    assert math.isnan(row["rms"]) and row["mean"] == math.inf and row["std"] == -math.inf and row["max"] == 1e-45
    assert row["top"] == [{"index": 1, "value": math.inf}, {"index": 4294967295, "value": -math.inf},
                          {"index": 3, "value": 2.5}]
    assert bytes(row["sketch"]) == struct.pack("<f", -56.0)
    assert last["top"] == [] and bytes(last["sketch"]) == b"" and last["rms"] is None


def test_a_damaged_trace_is_refused(tmp_path):
    source = tmp_path / "c.jsonl"
    source.write_text('{"record":"tensor","run":0,"rms":"a lot"}\n')
    with pytest.raises(duckdb.Error):
        duckdb.sql(parquet_query(source, tmp_path / "c.parquet"))
