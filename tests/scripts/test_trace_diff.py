#!/usr/bin/env python3
"""scripts/trace_diff.py against `bitnet diff`: python3 test_trace_diff.py BITNET [unittest options]

Two programs that share no line of code must give the same exit code, the same first difference and the same counts on every
case, BitNet-rs's records included.
"""

import base64
import contextlib
import importlib.util
import io
import json
import os
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]
SMALL = SOURCE / "tests" / "data" / "small.gguf"
SCRIPT = SOURCE / "scripts" / "trace_diff.py"
TIMEOUT_SECONDS = 120
IDS = [509, 17, 300, 42]
BITNET = None
MATCH, DIVERGENCE, ERROR = 0, 1, 2


def clean_environment():
    return {key: value for key, value in os.environ.items() if not key.startswith("BITNET_") and key != "NO_COLOR"}


def run(*command, cwd=None):
    return subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=cwd,
                          env=clean_environment(), timeout=TIMEOUT_SECONDS)


def load_script():
    spec = importlib.util.spec_from_file_location("trace_diff", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TRACE_DIFF = load_script()


def run_script(*arguments):
    """Exit code, stdout and stderr of the script, without a new interpreter for each case."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = TRACE_DIFF.main([str(argument) for argument in arguments])
        except SystemExit as exit_:
            code = exit_.code
    return code, out.getvalue(), err.getvalue()


def trace_lines(folder, *arguments, ids=IDS):
    path = Path(folder) / "made.jsonl"
    result = run(BITNET, "trace", "-m", SMALL, "--tokens", ",".join(map(str, ids)), "-o", path, *arguments)
    assert result.returncode == 0, result.stderr
    return path.read_text().splitlines(keepends=True)


def index_of(lines, name):
    return next(i for i, line in enumerate(lines) if f'"name":"{name}"' in line)


def edited(lines, index, change):
    """A copy of `lines` with one record changed."""
    record = json.loads(lines[index])
    change(record)
    return lines[:index] + [json.dumps(record) + "\n"] + lines[index + 1:]


def setting(**values):
    return lambda record: record.update(values)


def other_values(scale=0.0, bucket=5):
    """A row of other bits, its sketch away by `scale` times its size."""
    def change(record):
        sketch = list(struct.unpack("<64f", base64.b64decode(record["sketch"])))
        sketch[bucket] += scale * record["l2"]
        record["sketch"] = base64.b64encode(struct.pack("<64f", *sketch)).decode()
        record["blake3"] = "0" * 64
    return change


class Matrix(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="bitnet-trace-diff-")
        cls.addClassCleanup(cls.folder.cleanup)
        cls.path = Path(cls.folder.name)
        cls.base = trace_lines(cls.path)
        cls.silu = trace_lines(cls.path, "--as", "activation=silu")
        cls.few = trace_lines(cls.path, "--select", "ffn_act,layer_out,logits")

    def write(self, name, lines):
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        if lines is not None:
            path.write_bytes(lines if isinstance(lines, bytes) else "".join(lines).encode())
        return path

    def same(self, code, a, b, *options):
        """Both programs end with `code` and say the same; lines or paths."""
        paths = [item if isinstance(item, Path) else self.write(name, item) for name, item in (("a.jsonl", a), ("b.jsonl", b))]
        theirs = run(BITNET, "diff", *paths, "--format", "json", *options)
        our_code, out, err = run_script(*paths, "--format", "json", *options)
        self.assertEqual((theirs.returncode, our_code), (code, code), theirs.stderr + err)
        if code != ERROR:
            text_code, text, _ = run_script(*paths, *options)
            self.assertEqual(text_code, code)
            self.assertIn(("match: ", "divergence: ")[code], text)
        x, y = json.loads(theirs.stdout), json.loads(out)
        self.assertEqual(bool(y["errors"]), code == ERROR)
        self.assertEqual(bool(err), code == ERROR)
        for key in ("verdict", "exit", "rule", "tolerance", "counts"):
            self.assertEqual(x[key], y[key], key)
        self.assertEqual(x["first"] is None, y["first"] is None)
        if x["first"]:
            for key in ("run", "seq", "layer", "stage"):
                self.assertEqual(x["first"][key], y["first"][key])
            self.assertAlmostEqual(number(x["first"]["relative"]), number(y["first"]["relative"]), places=6)
        if code != ERROR:
            self.assertAlmostEqual(number(x["would_pass"]), number(y["would_pass"]), places=6)
        mismatches = [fact["key"] for fact in x["preflight"] if fact["mismatch"]]
        self.assertEqual(sorted(mismatches), sorted(fact["key"] for fact in y["preflight"]))
        return y

    def test_an_envelope_is_refused(self):
        """It is no other verdict in silence."""
        code, out, err = run_script(self.write("a.jsonl", self.base), self.write("b.jsonl", self.base), "--envelope", "e.json")
        self.assertEqual((code, out, err), (ERROR, "", "trace_diff: --envelope: bitnet diff alone judges by envelopes\n"))

    def test_the_process_ends_with_the_verdict(self):
        a, b = self.write("p.jsonl", self.base), self.write("q.jsonl", self.silu)
        for code, other in ((MATCH, a), (DIVERGENCE, b), (ERROR, self.path / "absent")):
            result = run(sys.executable, SCRIPT, a, other)
            self.assertEqual((result.returncode, bool(result.stderr)), (code, code == ERROR))

    def test_equal(self):
        self.same(MATCH, self.base, self.base)
        self.same(MATCH, self.base, self.base, "--tolerance", "exact")
        self.same(MATCH, self.base, self.base, "--tolerance", "0")

    def test_prefill_equals_decode(self):
        self.same(MATCH, self.base, trace_lines(self.path, "-t", "1"))

    def test_one_row(self):
        for name in ("t0/embeddings", "t2/blk1/attn_out", "t3/blk2/ffn_act", "t3/logits"):
            report = self.same(DIVERGENCE, self.base, edited(self.base, index_of(self.base, name), other_values(0.01)))
            self.assertEqual(report["first"]["stage"], name.split("/")[-1])

    def test_another_semantic(self):
        self.same(DIVERGENCE, self.base, self.silu)
        self.same(DIVERGENCE, self.base, self.silu, "--tolerance", "1e-3")
        self.same(MATCH, self.base, self.silu, "--tolerance", "1e9")

    def test_missing_records(self):
        at = index_of(self.base, "t1/blk0/q_proj")
        cut = self.base[:at] + self.base[at + 1:]
        self.same(ERROR, self.base, cut)
        self.same(ERROR, cut, self.base)
        self.same(MATCH, self.base, cut, "--allow-missing")
        selected = trace_lines(self.path, "--select", "!q_proj")
        self.same(ERROR, self.base, selected)
        self.same(ERROR, selected, self.base)
        self.same(MATCH, selected, self.base, "--allow-missing")
        # A divergence stays one whatever is missing.
        worse = edited(selected, index_of(selected, "t3/logits"), other_values(1))
        self.same(DIVERGENCE, self.base, worse)

    def test_cut_files(self):
        self.same(ERROR, self.base, self.base[:-1])
        self.same(ERROR, self.base, self.base[:40])
        self.same(ERROR, self.base, "".join(self.base).encode()[:-30])
        self.same(ERROR, self.base, self.base[1:])
        self.same(ERROR, self.base, b"")
        self.same(ERROR, self.base, b"\n")
        self.same(MATCH, self.base, "".join(self.base).rstrip("\n").encode())  # the last line needs no line end
        self.same(ERROR, self.base, self.base + self.base[:5])  # a second run without an end

    def test_absent_and_empty(self):
        self.same(ERROR, self.base, self.path / "absent.jsonl")
        (self.path / "empty").mkdir(exist_ok=True)
        self.same(ERROR, self.base, self.path / "empty")

    def test_lines_that_are_no_records(self):
        at = index_of(self.few, "t1/blk1/ffn_act")
        for line in ("nonsense\n", "\n", "{}\n", "[]\n", '{"record":"tensor"}\n', '{"record":"other"}\n', '{"record":3}\n',
                     "{\"record\":\"run_end\",\"run\":7,\"records\":0}\n", self.few[at][:-20] + "\n", '{"a":NaN}\n',
                     self.few[at].replace("{", '{"a":1e999,', 1), self.few[at].replace("{", '{"a":"\\ud800",', 1)):
            self.same(ERROR, self.few, self.few[:at] + [line] + self.few[at + 1:])
        data = "".join(self.few[:at]).encode() + b'{"record":"\xff"}\n' + "".join(self.few[at:]).encode()
        self.same(ERROR, self.few, data)

    def test_fields_that_are_wrong(self):
        at = index_of(self.few, "t1/blk1/ffn_act")
        for name, values in {"run": (1, -1, "0", 0.0, True), "event": (-1, None), "seq": (-1, 1 << 28, 0.5),
                             "layer": (-1, 5000, "1", -2), "stage": ("ffn", 3, "logits", "all_layers_out"),
                             "dtype": ("F64", 1), "num_elements": (-1, 7, "a"), "blake3": ("0" * 63, "g" * 64, 0),
                             "multiset": ("0" * 15,), "rms": (-1, "NaN", "x"), "mean": ("Infinity", None), "min": ([],),
                             "max": ("NaN",), "absmax": (-0.5,), "l2": ("Infinity", True), "nan": (10 ** 9, -1),
                             "inf": (-1,), "zeros": (10 ** 9, 1.5), "argmax": (1 << 32, "0"),
                             "top": ([[0, "NaN"]], [[10 ** 6, 1]], [[0]], 3, [[0, 1]] * 9, {"a": 1}),
                             "sketch": ("AAAA", 0, "=" * 344)}.items():
            for value in values:
                self.same(ERROR, self.few, edited(self.few, at, setting(**{name: value})))
            if name != "argmax":
                self.same(ERROR, self.few, edited(self.few, at, lambda record, name=name: record.pop(name)))
        twice = self.few[at].replace('"seq":1,', '"seq":1,"seq":1,', 1)
        self.same(ERROR, self.few, self.few[:at] + [twice] + self.few[at + 1:])
        self.same(MATCH, self.few, edited(self.few, at, setting(unknown={"a": [1]}, kernel="other", ns=5, row=7)))

    def test_duplicates(self):
        at = index_of(self.base, "t1/blk1/ffn_act")
        end = json.loads(self.base[-1])
        end["records"] += 1
        self.same(ERROR, self.base, self.base[:at] + [self.base[at]] + self.base[at:-1] + [json.dumps(end) + "\n"])

    def test_run_end(self):
        for records in (0, 10 ** 6):
            changed = edited(self.few, len(self.few) - 1, setting(records=records))
            self.same(ERROR, self.few, changed)
            self.same(MATCH, self.few, changed, "--allow-missing")
        self.same(ERROR, self.few, edited(self.few, len(self.few) - 1, setting(overridden="no")))

    def test_preflight(self):
        run_record = json.loads(self.few[0])
        self.same(DIVERGENCE, self.few, edited(self.few, 0, setting(model_hash="0" * 64)))
        self.same(MATCH, self.few, edited(self.few, 0, setting(model_hash="0" * 64)), "--ignore", "model_hash")
        self.same(MATCH, self.few, edited(self.few, 0, setting(model_hash="")))
        hyper = dict(run_record["hyperparameters"], n_layer=30)
        self.same(DIVERGENCE, self.few, edited(self.few, 0, setting(hyperparameters=hyper)))
        for key in ("hyperparameters", "hyperparameters.n_layer"):
            self.same(MATCH, self.few, edited(self.few, 0, setting(hyperparameters=hyper)), "--ignore", key)
        self.same(DIVERGENCE, self.few, edited(self.few, 0, setting(hyperparameters=hyper)), "--ignore", "hyperparameters.x")
        more = dict(run_record["hyperparameters"], other=1)
        self.same(MATCH, self.few, edited(self.few, 0, setting(hyperparameters=more)))
        for other in ({"rms_eps": 0.00001}, {"rms_eps": "1e-05"}, {"rms_eps": 9.999999747378752e-06}):
            same = edited(self.few, 0, setting(hyperparameters=dict(run_record["hyperparameters"], **other)))
            first = edited(self.few, 0, setting(hyperparameters=dict(run_record["hyperparameters"], rms_eps=1e-05)))
            self.same(MATCH, first, same)
        self.same(MATCH, self.few, edited(self.few, 0, setting(kv_type="f16", architecture="x", semantics={"eps": "1"})))
        for field, value in (("schema", 2), ("engine", None), ("model_hash", 3), ("hyperparameters", []), ("tokens", "1"),
                             ("tokens", [-1]), ("run", "0"), ("kv_type", 3)):
            self.same(ERROR, self.few, edited(self.few, 0, setting(**{field: value})))

    def test_tokens(self):
        for ids in ([509, 509, 17, 300, 42], [17, 300, 42], [509, 17, 301, 42], [1]):
            self.same(DIVERGENCE, self.base, trace_lines(self.path, ids=ids))
        longer = trace_lines(self.path, ids=IDS + [5])
        self.same(DIVERGENCE, self.base, longer)
        self.same(MATCH, self.base, longer, "--allow-missing")
        self.same(ERROR, self.base, longer, "--ignore", "tokens")
        at = next(i for i, line in enumerate(self.base) if '"record":"step"' in line)
        self.same(ERROR, self.base, edited(self.base, at, setting(n=3)))
        self.same(ERROR, self.base, edited(self.base, at, setting(seq=-1)))
        self.same(MATCH, self.base, self.base[:at] + self.base[at + 1:])  # those of the run record serve
        self.same(MATCH, self.base, edited(edited(self.base, at, setting(tokens=None)), 0, setting(tokens=None)))

    def test_not_finite(self):
        at = index_of(self.few, "t2/blk1/layer_out")

        def with_nan(record):
            record.update(nan=1, blake3="1" * 64)
        bad = edited(self.few, at, with_nan)
        for options in ((), ("--tolerance", "1e9")):
            self.same(DIVERGENCE, self.few, bad, *options)
            self.same(DIVERGENCE, bad, self.few, *options)
        self.same(MATCH, bad, bad)
        nan_sketch = base64.b64encode(struct.pack("<64f", *[float("nan")] * 64)).decode()
        self.same(ERROR, self.few, edited(self.few, at, setting(sketch=nan_sketch, blake3="1" * 64)), "--tolerance", "1e9")
        self.same(DIVERGENCE, self.few, edited(self.few, at, setting(num_elements=1000, blake3="1" * 64)), "--tolerance", "9")

    def test_equal_hashes_with_other_statistics(self):
        at = index_of(self.few, "t2/blk1/layer_out")
        record = json.loads(self.few[at])
        self.same(DIVERGENCE, self.few, edited(self.few, at, setting(rms=record["rms"] * 1.1)))
        self.same(MATCH, self.few, edited(self.few, at, setting(rms=record["rms"] * (1 + 1e-7))))
        self.same(DIVERGENCE, self.few, edited(self.few, at, setting(top=record["top"][:-1])))
        self.same(DIVERGENCE, self.few, edited(self.few, at, setting(dtype="F16")))

    def foreign(self, lines):
        return edited(lines, 0, setting(engine="other"))

    def test_two_engines(self):
        self.same(MATCH, self.base, self.foreign(self.base))
        at = index_of(self.base, "t1/blk1/ffn_act")
        self.same(MATCH, self.base, self.foreign(edited(self.base, at, other_values(5))))  # layers are not judged
        logits = index_of(self.base, "t1/logits")
        for scale, code in ((0.05, MATCH), (0.099, MATCH), (0.11, DIVERGENCE)):
            self.same(code, self.base, self.foreign(edited(self.base, logits, other_values(scale))))
        self.same(DIVERGENCE, self.base, self.foreign(self.silu))
        no_logits = trace_lines(self.path, "--select", "!logits")
        changed = edited(no_logits, index_of(no_logits, "t1/blk1/ffn_act"), other_values(1))
        self.same(ERROR, no_logits, self.foreign(changed))
        self.same(MATCH, no_logits, self.foreign(changed), "--tolerance", "2")

    def test_ties_are_the_rule_between_engines(self):
        at = index_of(self.base, "t1/blk1/ffn_act")
        other = edited(self.base, at, other_values(5))
        self.same(DIVERGENCE, self.base, other)
        self.same(MATCH, self.base, other, "--tolerance", "ties")  # layers are not judged
        self.same(DIVERGENCE, self.base, self.silu, "--tolerance", "ties")
        self.same(ERROR, *([line for line in lines if "logits" not in line] for lines in (self.base, other)), "--tolerance", "ties")

    def test_another_top_token(self):
        logits = index_of(self.base, "t1/logits")
        record = json.loads(self.base[logits])
        rival = next(index for index, value in record["top"] if index != record["argmax"])

        def change(scale, **values):
            def apply(record):
                other_values(scale)(record)
                record.update(values)
            return self.foreign(edited(self.base, logits, apply))
        self.same(DIVERGENCE, self.base, change(0.0001, argmax=rival))
        self.same(DIVERGENCE, self.base, change(0.0001, argmax=0))
        self.same(MATCH, self.base, change(0.0001))

        def without_argmax(record):
            other_values(0.0001)(record)
            del record["argmax"]
        self.same(MATCH, self.base, self.foreign(edited(self.base, logits, without_argmax)))

    def test_nothing_in_common(self):
        a, b = (trace_lines(self.path, "--select", stage) for stage in ("logits", "embeddings"))
        self.same(ERROR, a, b)
        self.same(ERROR, a, b, "--allow-missing")

    def test_aliases_and_companions(self):
        at = index_of(self.base, "t1/blk2/layer_out")
        alias = edited(self.base, at, setting(layer=-2, stage="all_layers_out", name="t1/all_layers_out"))
        self.same(MATCH, self.base, alias)
        self.same(ERROR, self.base, edited(alias, 0, setting(hyperparameters={})), "--ignore", "hyperparameters")
        everything = trace_lines(self.path, "--select", "**,*.*")
        self.same(MATCH, everything, everything)
        self.same(DIVERGENCE, everything, edited(everything, index_of(everything, "t1/blk1/q_proj.acc"), other_values()))

    def test_folders_and_runs(self):
        both = [self.path / "runs_a", self.path / "runs_b"]
        for folder in both:
            self.write(folder / "1.jsonl", self.base)
            self.write(folder / "2.jsonl", self.silu)
            self.write(folder / "other.txt", b"junk")
        self.same(MATCH, *both)
        self.same(ERROR, both[0], self.base)
        self.same(MATCH, both[0], self.base + self.silu)  # two runs of one file
        self.write(both[1] / "2.jsonl", edited(self.silu, index_of(self.silu, "t0/blk0/q_proj"), other_values(0.5)))
        self.assertEqual(self.same(DIVERGENCE, *both)["first"]["run"], 1)

    def test_bad_options(self):
        a = self.write("a.jsonl", self.base)
        for options in (("--tolerance", "nan"), ("--tolerance=-1",), ("--tolerance", "1e-3x"), ("--ignore", "everything"),
                        ("--ignore", "tokens.x"), ("--format", "xml")):
            self.assertEqual(run(BITNET, "diff", a, a, *options).returncode, ERROR, options)
            result = run(sys.executable, SCRIPT, a, a, *options)
            self.assertEqual((result.returncode, result.stdout), (ERROR, ""), options)
        self.assertEqual(run(sys.executable, SCRIPT, a).returncode, ERROR)

    def test_compressed(self):
        path = self.write("c.jsonl.zst", b"\x28\xb5\x2f\xfd")
        result = run(sys.executable, SCRIPT, self.write("a.jsonl", self.base), path)
        self.assertEqual(result.returncode, ERROR)
        self.assertIn("zstd -d", result.stderr)

    def test_a_full_disk(self):
        a = self.write("a.jsonl", self.base)
        with open("/dev/full", "w") as full:
            result = subprocess.run([sys.executable, SCRIPT, a, a], stdout=full, stderr=subprocess.PIPE)
        self.assertEqual(result.returncode, ERROR)


def number(value):
    return {None: -1.0, "Infinity": float("inf")}.get(value, value)


NINE = ("name", "shape", "dtype", "blake3", "rms", "num_elements", "seq", "layer", "stage")
BOTH = ("verdict", "exit", "rule", "counts")


class BitnetRs(unittest.TestCase):
    """Its records: nine fields, no run, no sketch. One object a file, or one a line."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="bitnet-trace-folder-")
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name)
        self.lines = trace_lines(self.path)
        self.ours = self.path / "ours.jsonl"
        self.ours.write_text("".join(self.lines))

    def records(self, change=None, skip=None):
        for line in self.lines:
            record = json.loads(line)
            if record["record"] != "tensor" or record["name"] == skip:
                continue
            nine = {key: record[key] for key in NINE}
            if change:
                change(nine)
            yield nine

    def folder(self, name, change=None, skip=None, indent=None):
        out = self.path / name
        out.mkdir(exist_ok=True)
        for i, nine in enumerate(self.records(change, skip)):
            (out / f"{i}.trace").write_text(json.dumps(nine, indent=indent))
        return out

    def jsonl(self, name, change=None, skip=None):
        out = self.path / name
        out.write_text("".join(json.dumps(nine) + "\n" for nine in self.records(change, skip)))
        return out

    def diff(self, code, a, b, *options):
        """What both programs say."""
        theirs = run(BITNET, "diff", a, b, "--format", "json", *options)
        our_code, out, err = run_script(a, b, "--format", "json", *options)
        self.assertEqual((theirs.returncode, our_code), (code, code), theirs.stdout + theirs.stderr + out + err)
        x, y = json.loads(theirs.stdout), json.loads(out)
        for key in BOTH:
            self.assertEqual(x[key], y[key], key)
        self.assertEqual(len(x["errors"]), len(y["errors"]), (x["errors"], y["errors"]))
        for side in (x, y):
            if side["first"]:
                side["first"] = {key: side["first"][key] for key in ("run", "seq", "layer", "stage")}
        self.assertEqual(x["first"], y["first"])
        return x

    @staticmethod
    def hashes(*names, **more):
        """Other bits under these names; all when there are none."""
        def change(record):
            if not names or record["name"] in names:
                record["blake3"] = "0" * 64
                for key, factor in more.items():
                    record[key] *= factor
        return change

    def test_each_other(self):
        a = self.folder("a")
        n = len(self.lines) - 3
        self.assertEqual(self.diff(MATCH, a, a)["counts"]["compared"], n)
        self.assertEqual(self.diff(MATCH, a, self.jsonl("a.jsonl"))["counts"]["equal"], n)
        self.assertEqual(self.diff(MATCH, a, self.folder("indented", indent=2))["counts"]["equal"], n)
        self.diff(ERROR, a, self.folder("missing", skip="t1/blk0/q_proj"))
        self.diff(MATCH, a, self.folder("missing2", skip="t1/blk0/q_proj"), "--allow-missing")
        for other in (self.folder("other", self.hashes("t2/blk1/ffn_act", "t3/logits")),
                      self.jsonl("other.jsonl", self.hashes("t2/blk1/ffn_act", "t3/logits"))):
            report = self.diff(DIVERGENCE, a, other)
            self.assertEqual((report["rule"], report["first"]), ("hashes", {"run": 0, "seq": 2, "layer": 1, "stage": "ffn_act"}))
            self.assertEqual(report["counts"]["different"], 2)

    def test_a_tolerance_needs_more_than_they_hold(self):
        a = self.folder("a")
        self.diff(MATCH, a, a, "--tolerance", "0.1")
        report = self.diff(ERROR, a, self.folder("b", self.hashes("t2/blk1/ffn_act")), "--tolerance", "0.1")
        self.assertEqual(report["counts"]["unjudged"], 1)
        self.assertIn("1 of 228 records differ and cannot be judged, the first is t2/blk1/ffn_act", report["text"])
        # The root mean squares prove that they are too far apart, never that they are close.
        report = self.diff(DIVERGENCE, a, self.folder("c", self.hashes("t2/blk1/ffn_act", rms=1.5)), "--tolerance", "0.1")
        self.assertEqual((report["first"]["stage"], report["counts"]["different"]), ("ffn_act", 1))
        self.diff(ERROR, a, self.folder("d", self.hashes("t2/blk1/ffn_act", rms=1.5)), "--tolerance", "0.6")

    def test_against_ours(self):
        for theirs in (self.folder("a"), self.jsonl("a.jsonl")):
            self.assertEqual(self.diff(MATCH, self.ours, theirs)["counts"]["equal"], 228)
            self.diff(MATCH, theirs, self.ours)
        other = self.folder("b", self.hashes())
        # Engines run freely: layers are not judged, and logits of nearly the same size are no verdict.
        report = self.diff(ERROR, self.ours, other)
        self.assertEqual((report["rule"], report["counts"]["unjudged"]), ("logits", 228))
        self.assertIn("4 of 4 logits differ and cannot be judged", report["text"])
        report = self.diff(DIVERGENCE, self.ours, self.folder("c", self.hashes("t1/logits", rms=2)))
        self.assertEqual(report["first"], {"run": 0, "seq": 1, "layer": -1, "stage": "logits"})
        self.diff(DIVERGENCE, self.ours, other, "--tolerance", "exact")

    def test_places_from_names(self):
        def by_name(record):
            for key in ("seq", "layer", "stage"):
                del record[key]

        def nulls(record):
            record.update(seq=None, layer=None, stage=None)
        self.diff(MATCH, self.folder("a"), self.folder("named", by_name))
        self.diff(MATCH, self.ours, self.folder("nulls", nulls))

    def test_no_position(self):
        def without(record):
            record["name"] = record["name"].split("/", 1)[1]
            del record["seq"]
        first = [line for line in self.lines if '"seq":0,' in line or "tensor" not in line]
        self.lines = first
        self.ours.write_text("".join(first))
        placed, unplaced = self.folder("placed"), self.folder("unplaced", without)
        # Equal bits are equal whatever the position; other bits may be another position's.
        self.diff(MATCH, placed, unplaced)
        self.diff(MATCH, unplaced, unplaced)

        def other(record):
            without(record)
            record.update(blake3="0" * 64, rms=record["rms"] * 3)
        report = self.diff(ERROR, placed, self.folder("other", other))
        self.assertEqual(report["counts"]["unjudged"], report["counts"]["compared"])
        self.assertTrue(any("name no position" in fact["text"] for fact in report["preflight"]))
        self.diff(DIVERGENCE, unplaced, self.folder("other2", other))

    def test_all_rows_in_one_record(self):
        def rows(record):
            if record["name"] == "t0/logits":
                record.update(num_elements=4 * record["num_elements"], blake3="1" * 64)
        report = self.diff(ERROR, self.ours, self.folder("rows", rows), "--tolerance", "exact")
        self.assertEqual(report["counts"]["unjudged"], 1)

        def shape(record):
            if record["name"] == "t0/logits":
                record.update(num_elements=record["num_elements"] + 1, blake3="1" * 64)
        self.diff(DIVERGENCE, self.ours, self.folder("shape", shape), "--tolerance", "exact")

    def test_all_layers_out(self):
        def last(record):
            if record["stage"] == "layer_out" and record["layer"] == 2:
                record.update(name=f"t{record['seq']}/all_layers_out", layer=-2, stage="all_layers_out")
        self.assertEqual(self.diff(MATCH, self.ours, self.folder("a", last))["counts"]["equal"], 228)
        # The same value under both names is no duplicate; twice under one name it is.
        both = self.folder("b")
        for i, record in enumerate(self.records(last)):
            if record["stage"] == "all_layers_out":
                (both / f"more{i}.trace").write_text(json.dumps(record))
        self.assertEqual(self.diff(MATCH, self.ours, both)["counts"]["duplicate"], 0)
        twice = self.folder("c", last)
        (twice / "again.trace").write_text(next(file for file in map(Path.read_text, twice.iterdir()) if "all_layers_out" in file))
        self.assertEqual(self.diff(ERROR, self.ours, twice)["counts"]["duplicate"], 1)

    def test_not_finite(self):
        def null(record):
            if record["name"] == "t1/blk1/ffn_out":
                record.update(rms=None, blake3="2" * 64)
        theirs = self.folder("nan", null)
        report = self.diff(DIVERGENCE, self.ours, theirs, "--tolerance", "10")
        self.assertEqual(report["first"]["stage"], "ffn_out")
        self.diff(MATCH, theirs, theirs)

    def test_integers_are_hashed_as_floats(self):
        lines = [line.replace('"dtype":"F32"', '"dtype":"I8"') if '"name":"t0/logits"' in line else line for line in self.lines]
        self.ours.write_text("".join(lines))
        report = self.diff(ERROR, self.ours, self.folder("a"), "--tolerance", "exact")
        self.assertEqual(report["counts"]["unjudged"], 1)

    def test_damage(self):
        a = self.folder("a")
        self.diff(ERROR, a, self.folder("unknown", lambda r: r.update(stage="what")))
        self.diff(ERROR, a, self.folder("hash", lambda r: r.update(blake3="short")))
        for name, text in (("cut", None), ("empty", ""), ("array", "[]"), ("nothing", "{}"), ("negative", "rms")):
            with self.subTest(name):
                folder = self.folder(name)
                file = folder / "7.trace"
                good = file.read_text()
                file.write_text(good[: len(good) // 2] if text is None else
                                good.replace('"rms": ', '"rms": -') if text == "rms" else text)
                report = self.diff(ERROR, a, folder)
                self.assertEqual(report["counts"]["unparsable"], 1)
        twice = self.folder("twice")
        (twice / "again.trace").write_text((twice / "7.trace").read_text())
        self.assertEqual(self.diff(ERROR, a, twice)["counts"]["duplicate"], 1)
        cut = self.jsonl("cut.jsonl")
        cut.write_text(cut.read_text()[:-20])
        self.assertEqual(self.diff(ERROR, a, cut)["counts"]["unparsable"], 1)
        (self.path / "none").mkdir()
        self.diff(ERROR, a, self.path / "none")
        single = a / "7.trace"
        self.assertEqual(self.diff(MATCH, single, single)["counts"]["compared"], 1)
        self.diff(ERROR, a, single)
        self.diff(MATCH, a, single, "--allow-missing")

    def test_what_the_plugin_writes(self):
        """The tracedir sink, both layouts, against the jsonl sink of the same run."""
        for layout in ("", ",layout=bitnet-rs"):
            with self.subTest(layout):
                folder = self.path / f"dir{len(layout)}"
                result = run(BITNET, "trace", "-m", SMALL, "--tokens", ",".join(map(str, IDS)),
                             "--plugin", f"tracedir:dir={folder}{layout}")
                self.assertEqual(result.returncode, 0, result.stderr)
                self.assertEqual(self.diff(MATCH, self.ours, folder)["counts"]["equal"], 228)
                self.assertEqual(self.diff(MATCH, folder, self.folder("a"))["counts"]["equal"], 228)


if __name__ == "__main__":
    BITNET = Path(sys.argv[1]).resolve()
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]])
