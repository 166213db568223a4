#!/usr/bin/env python3
"""Codes, scales and sums of two engines in `bitnet diff` and scripts/trace_diff.py: python3 test_integers.py BITNET [options]

The engines are numpy's: an RMSNorm row, the paper's quantiser (s = 127 / max|x|, q = round(x s)), a ternary matrix. What differs is
put in by hand, and what must be said of it is counted here, in f64, from the definition of a tie.
"""

import contextlib
import importlib.util
import io
import json
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np

SOURCE = Path(__file__).resolve().parents[3]
BITNET = None
MATCH, DIVERGENCE, ERROR = 0, 1, 2
TIE = 4e-5    # code steps
SCALE = 2.4e-7  # relative
N, N_OUT = 64, 48


def load_script():
    spec = importlib.util.spec_from_file_location("trace_diff", SOURCE / "scripts" / "trace_diff.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TRACE_DIFF = load_script()


def quantise(x):
    """The paper's per-row quantiser, in f32 as engines compute it."""
    scale = np.float32(127) / np.maximum(np.float32(1e-5), np.abs(x).max())
    return np.clip(np.rint(x * scale), -127, 127).astype(np.int8), scale


def row_with_ties(ties=(), seed=0, n=N):
    """Values whose scale is 64; at `ties` = {index: (k, off)} the real value is k + 0.5 + off."""
    x = np.random.default_rng(seed).uniform(-1.9, 1.9, n).astype(np.float32)
    steps = x.astype(np.float64) * 64
    near = np.abs(steps - np.floor(steps) - 0.5) < 0.01  # no tie that nobody asked for
    x[near] += np.float32(0.1 / 64)
    x[0] = np.float32(127 / 64)
    for index, (k, off) in dict(ties).items():
        x[index] = np.float32((k + 0.5 + off) / 64)
    return x


class Engine:
    """One position of one layer, from the norm to the q projection. `change` names arrays to put in place of computed ones."""

    def __init__(self, x, weights, flips=(), scale=None, codes=None):
        self.x = x
        self.codes, self.s = quantise(x)
        if scale is not None:
            self.s = np.float32(scale)
        if codes is not None:
            self.codes = codes
        for index, step in dict(flips).items():
            self.codes[index] += step
        self.acc = weights.astype(np.int32) @ self.codes.astype(np.int32)
        self.out = (self.acc.astype(np.float32) / self.s * np.float32(0.7)).astype(np.float32)

    def rows(self, layer=0, position=0):
        return {(position, layer, "attn_norm"): self.x, (position, layer, "attn_norm.scale"): np.array([self.s]),
                (position, layer, "attn_norm.codes"): self.codes, (position, layer, "q_proj.acc"): self.acc,
                (position, layer, "q_proj"): self.out}


def run_record(engine):
    return {"record": "run", "schema": 1, "run": 0, "engine": engine, "engine_version": "1", "model_path": "m.gguf",
            "model_hash": "a" * 64, "architecture": "bitnet-b1.58", "hyperparameters": {"n_layer": 2}, "semantics": {},
            "isa": "", "kv_type": "f32", "threads": 1, "batch": 1, "selection": "", "tokens": None, "prompt": None,
            "time": "", "host": "", "pid": 1}


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="bitnet-integers-")
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name)
        self.weights = np.random.default_rng(3).integers(-1, 2, (N_OUT, N))

    def folder(self, name, rows, engine=None, run_json=True, **changes):
        """As the npy plugin writes it."""
        out = self.path / name / "run-000000"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        order = ("embeddings", "attn_norm", "attn_norm.codes", "attn_norm.scale", "q_proj.acc", "q_proj", "logits")
        for event, ((position, layer, stage), values) in enumerate(
                sorted(rows.items(), key=lambda row: (row[0][0], row[0][1] if row[0][1] >= 0 else 99, order.index(row[0][2])))):
            block = f"-blk{layer:03d}" if layer >= 0 else ""
            np.save(out / f"{event:012d}-t{position:06d}{block}-{stage}.npy", values)
        if run_json:
            n_tokens = 1 + max(position for position, _, _ in rows)
            record = {"format": 1, "complete": True, "run": run_record(engine or name), "first_position": 0,
                      "tokens": list(range(n_tokens)), "steps": [], "window": None, "records": len(rows), "bytes": 0, **changes}
            (out / "run.json").write_text(json.dumps(record))
        return self.path / name

    def diff(self, code, a, b, *options):
        """What both programs say; they must say the same."""
        theirs = subprocess.run([BITNET, "diff", a, b, "--format", "json", *options], capture_output=True, text=True, timeout=60)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            our_code = TRACE_DIFF.main([str(a), str(b), "--format", "json", *options])
        self.assertEqual((theirs.returncode, our_code), (code, code), theirs.stdout + theirs.stderr + err.getvalue())
        x, y = json.loads(theirs.stdout), json.loads(out.getvalue())
        if x["integers"]:
            self.text = x["integers"].pop("text")
        for key in ("verdict", "exit", "rule", "counts", "would_pass", "integers"):
            self.assertEqual(x[key], y[key], key)
        self.assertEqual(len(x["errors"]), len(y["errors"]))
        self.assertEqual(x["first"] is None, y["first"] is None)
        for key in y["first"] or ():
            self.assertEqual(x["first"][key], y["first"][key], key)
        screen = subprocess.run([BITNET, "diff", a, b, *options], capture_output=True, text=True, timeout=60)
        self.assertEqual(screen.returncode, code)
        self.screen, self.errors = screen.stdout, theirs.stderr
        return x

    def pair(self, a, b, code, *options, name_b="b"):
        return self.diff(code, self.folder("a", a), self.folder(name_b, b), *options)

    def rechecked(self, a, b):
        """What was saved by any rule is judged by any other as the traces themselves are."""
        saved = self.path / "saved.json"
        tolerances = ("auto", "exact", "ties", "0", "1e-3", "1e3")
        codes = {}
        for tolerance in tolerances:
            done = subprocess.run([BITNET, "diff", a, b, "--tolerance", tolerance], capture_output=True, timeout=60)
            codes[tolerance] = done.returncode
        for by in tolerances:
            saved.write_bytes(subprocess.run([BITNET, "diff", a, b, "--tolerance", by, "--format", "json"], capture_output=True).stdout)
            for tolerance in tolerances:
                done = subprocess.run([BITNET, "recheck", saved, "--tolerance", tolerance], capture_output=True, text=True)
                self.assertEqual(done.returncode, codes[tolerance], (by, tolerance, done.stdout, done.stderr))
        return codes

    # --- ties ---

    def test_all_ties(self):
        ties = {5: (3, 0), 17: (-8, 1e-5), 40: (20, -2e-5)}
        x = row_with_ties(ties)
        a = Engine(x, self.weights)
        # What the reference made of a tie, and the code on the other side.
        flips = {i: 1 if a.codes[i] == k else -1 for i, (k, _) in ties.items()}
        b = Engine(x, self.weights, flips)
        report = self.pair(a.rows(), b.rows(), MATCH)
        codes = report["integers"]["codes"]
        self.assertEqual([codes[key] for key in ("rows", "values", "differ", "rounding", "wrong", "unknown")], [1, N, 3, 3, 0, 0])
        self.assertLessEqual(abs(codes["farthest_tie"] - 2e-5), 1e-6)
        self.assertIn(f"3 of {N} codes differ, all explained by rounding ties", report["text"])
        self.assertIn("as their effect", report["text"])
        sums = report["integers"]["sums"]
        self.assertEqual((sums["differ"], sums["open"]), (int((a.acc != b.acc).sum()),) * 2)
        self.assertIn("not judged", self.text)
        self.assertEqual(report["integers"]["records_behind"], 2)  # the sums and what is made of them
        self.assertEqual(report["counts"], {**report["counts"], "equal": 2, "within": 1, "unjudged": 2, "different": 0})
        self.assertEqual(set(self.rechecked(self.path / "a", self.path / "b").values()), {MATCH, DIVERGENCE})
        # Equal bits are another question.
        strict = self.pair(a.rows(), b.rows(), DIVERGENCE, "--tolerance", "exact")
        self.assertEqual(strict["first"]["stage"], "attn_norm.codes")
        self.assertEqual(strict["first"]["integers"]["outcome"], "rounding")
        self.assertIn("Between different engines that is legal", strict["text"])

    def test_an_engine_against_itself_has_no_ties(self):
        x = row_with_ties({5: (3, 0)})
        a, b = Engine(x, self.weights), Engine(x, self.weights, {5: -1})
        one, other = self.folder("a", a.rows(), "same"), self.folder("b", b.rows(), "same")
        self.assertEqual(self.diff(DIVERGENCE, one, other)["rule"], "hashes")
        self.diff(MATCH, one, other, "--tolerance", "ties")

    def test_a_code_without_a_tie(self):
        x = row_with_ties({5: (3, 0), 9: (7, 0.2)})
        a = Engine(x, self.weights)
        b = Engine(x, self.weights, {5: -1 if a.codes[5] == 4 else 1, 9: -1})
        report = self.pair(a.rows(), b.rows(), DIVERGENCE)
        first = report["first"]
        self.assertEqual((first["stage"], first["layer"], first["inputs"]), ("attn_norm.codes", 0, "equal"))
        shown = first["integers"]
        self.assertEqual([shown[key] for key in ("outcome", "differ", "rounding", "wrong", "index", "a", "b")],
                         ["wrong", 2, 1, 1, 9, 8, 7])
        self.assertAlmostEqual(shown["real_a"], 7.7, places=5)
        self.assertEqual(report["origins"][0]["stage"], "attn_norm.codes")
        self.assertIn("1 without a tie", report["text"])
        self.rechecked(self.path / "a", self.path / "b")
        page = self.path / "page.html"
        done = subprocess.run([BITNET, "report", self.path / "a", self.path / "b", "-o", page], capture_output=True, text=True)
        self.assertEqual(done.returncode, DIVERGENCE, done.stderr)
        self.assertIn("<h3>Integers</h3>\n<p>2 of 64 codes differ: 1 explained by rounding ties, 1 without a tie", page.read_text())
        self.assertIn("[9]: 8 against 7; value x scale is 7.6999998", self.screen)

    def test_the_width_of_a_tie(self):
        for off, code in ((0.9 * TIE, MATCH), (-0.9 * TIE, MATCH), (1.2 * TIE, DIVERGENCE), (-1.2 * TIE, DIVERGENCE)):
            x = row_with_ties({5: (3, off)})
            self.assertLess(abs(float(x[5]) * 64 - 3.5 - off), 0.05 * TIE)  # f32 can say it
            b = Engine(x, self.weights, {5: -1 if off > 0 else 1})
            self.pair(Engine(x, self.weights).rows(), b.rows(), code)

    def test_off_by_two(self):
        x = row_with_ties({5: (3, 0)})
        report = self.pair(Engine(x, self.weights).rows(), Engine(x, self.weights, {5: -2}).rows(), DIVERGENCE)
        self.assertEqual((report["first"]["integers"]["outcome"], report["first"]["integers"]["largest"]), ("wrong", 2))

        # On both sides of the right code: the real value lies next to their middle, which is no tie.
        x = row_with_ties({5: (2, 0.5)})
        self.assertEqual(Engine(x, self.weights).codes[5], 3)
        sides = [Engine(x, self.weights, {5: step}).rows() for step in (-1, 1)]
        self.assertEqual(self.pair(*sides, DIVERGENCE)["first"]["integers"]["wrong"], 1)

    # --- scales ---

    def test_a_scale_an_ulp_away(self):
        x = row_with_ties({5: (3, 0)})
        a = Engine(x, self.weights)
        b = Engine(x, self.weights, {5: -1 if a.codes[5] == 4 else 1}, scale=np.nextafter(np.float32(64), np.float32(65)))
        report = self.pair(a.rows(), b.rows(), MATCH)
        scales = report["integers"]["scales"]
        self.assertEqual((scales["differ"], scales["rounding"]), (1, 1))
        self.assertEqual(scales["largest"], 2.0 ** -23)
        self.assertIn("1 of 1 scale differs, in the last bit", self.text)
        far = Engine(x, self.weights, scale=np.float32(64 * (1 + 3e-7)))
        report = self.pair(a.rows(), far.rows(), DIVERGENCE)
        self.assertEqual((report["first"]["stage"], report["first"]["integers"]["real_b"]), ("attn_norm.scale", 64.0))

    def test_scales_of_rows_that_differ(self):
        """Each is held against its own row; of two that both do something else nothing is said."""
        x = row_with_ties()
        y = x.copy()
        y[0] *= np.float32(1 + 1e-4)
        own = [Engine(row, self.weights).s for row in (x, y)]
        self.assertGreater(abs(float(own[0]) / float(own[1]) - 1), SCALE)
        for scales, outcome in ((own, "inputs"), ((own[0], np.float32(50)), "wrong"), ((np.float32(50), own[1]), "wrong"),
                                ((np.float32(50), np.float32(40)), "open")):
            rows = [{(0, 0, "attn_norm"): row, (0, 0, "attn_norm.scale"): np.array([scale])} for row, scale in zip((x, y), scales)]
            report = self.pair(*rows, DIVERGENCE if outcome == "wrong" else ERROR)
            self.assertEqual([report["integers"]["scales"][key] for key in ("differ", outcome)], [1, 1])
        # Of one row both cannot be right, whatever quantiser it is.
        rows = [{(0, 0, "attn_norm"): x, (0, 0, "attn_norm.scale"): np.array([np.float32(scale)])} for scale in (50, 40)]
        self.assertEqual(self.pair(*rows, DIVERGENCE)["first"]["stage"], "attn_norm.scale")

    def test_without_scales_the_formula_serves(self):
        x = row_with_ties({5: (3, 0)})
        a, b = Engine(x, self.weights).rows(), Engine(x, self.weights, {5: -1 if quantise(x)[0][5] == 4 else 1}).rows()
        for rows in (a, b):
            del rows[0, 0, "attn_norm.scale"]
        self.assertEqual(self.pair(a, b, MATCH)["integers"]["codes"]["rounding"], 1)

    def test_scales_of_blocks(self):
        """A scale for each half of the row, as engines with activation blocks have them."""
        def rows(flip=0):
            x = row_with_ties({40: (9, 0)})
            x[:32] *= np.float32(4)  # its own largest value: scale 16
            codes = np.concatenate([quantise(half)[0] for half in (x[:32], x[32:])])
            x[33] = np.float32(127 / 64)
            codes = np.concatenate([quantise(half)[0] for half in (x[:32], x[32:])])
            codes[40] += flip
            return {(0, 0, "attn_norm"): x, (0, 0, "attn_norm.codes"): codes,
                    (0, 0, "attn_norm.scale"): np.array([quantise(x[:32])[1], quantise(x[32:])[1]])}
        step = -1 if rows()[0, 0, "attn_norm.codes"][40] == 10 else 1
        self.pair(rows(), rows(step), MATCH)
        self.pair(rows(), rows(-step), DIVERGENCE)

    # --- what is not known ---

    def test_nan_in_the_input(self):
        x = row_with_ties()
        a, b = Engine(x, self.weights), Engine(x, self.weights, {7: 1})
        for engine in (a, b):
            engine.x = x.copy()
            engine.x[7] = np.nan
        report = self.pair(a.rows(), b.rows(), DIVERGENCE)
        self.assertEqual((report["first"]["stage"], report["first"]["integers"]["outcome"]), ("attn_norm.codes", "wrong"))
        self.assertIsNone(report["first"]["integers"]["real_a"])
        # On one side only it is that row which differs.
        b.x = x
        self.assertEqual(self.pair(a.rows(), b.rows(), DIVERGENCE)["first"]["stage"], "attn_norm")

    def test_an_input_that_was_not_recorded(self):
        x = row_with_ties({5: (3, 0)})
        a, b = Engine(x, self.weights).rows(), Engine(x, self.weights, {5: -1}).rows()
        for rows in (a, b):
            del rows[0, 0, "attn_norm"]
        report = self.pair(a, b, ERROR)
        self.assertIn("unexplained because the input was not recorded: attn_norm was not recorded", self.errors)
        self.assertEqual(report["integers"]["codes"]["unknown"], 1)
        self.assertEqual(report["integers"]["first_unknown"]["stage"], "attn_norm.codes")
        self.rechecked(self.path / "a", self.path / "b")
        self.pair(a, b, ERROR, "--allow-missing")  # there are no logits either
        for rows in (a, b):
            rows[0, -1, "logits"] = np.linspace(-1, 1, 9, dtype=np.float32)
        self.pair(a, b, ERROR)
        self.pair(a, b, MATCH, "--allow-missing")
        b[0, 0, "attn_norm.codes"] = a[0, 0, "attn_norm.codes"]
        self.pair(a, b, DIVERGENCE)  # sums that differ at equal codes
        b[0, 0, "q_proj.acc"], b[0, 0, "q_proj"] = a[0, 0, "q_proj.acc"], a[0, 0, "q_proj"]
        self.pair(a, b, MATCH)

    def test_an_input_of_one_side(self):
        x = row_with_ties({5: (3, 0), 9: (7, 0.2)})
        a = Engine(x, self.weights)
        for flips, code in (({5: -1 if a.codes[5] == 4 else 1}, MATCH), ({9: -1}, DIVERGENCE)):
            b = Engine(x, self.weights, flips).rows()
            del b[0, 0, "attn_norm"]
            self.pair(a.rows(), b, code, "--allow-missing")
            b = Engine(x, self.weights, flips).rows()
            lacking = a.rows()
            del lacking[0, 0, "attn_norm"]
            report = self.pair(lacking, b, code, "--allow-missing")
            self.assertEqual(report["first"] and report["first"]["inputs"], "unrecorded" if code else None)
        # Behind another difference what went in need not be the same.
        b = Engine(x, self.weights, {9: -1}).rows()
        del b[0, 0, "attn_norm"]
        extra = {(0, -1, "embeddings"): np.ones(8, np.float32)}
        other = {(0, -1, "embeddings"): np.full(8, 1.5, np.float32)}
        report = self.pair({**a.rows(), **extra}, {**b, **other}, ERROR, "--allow-missing")
        self.assertEqual(report["integers"]["codes"]["unknown"], 1)

    def test_lengths(self):
        x = row_with_ties()
        a, b = Engine(x, self.weights).rows(), Engine(x, self.weights).rows()
        b[0, 0, "attn_norm.codes"] = b[0, 0, "attn_norm.codes"][:-1]
        report = self.pair(a, b, DIVERGENCE)
        self.assertEqual(report["first"]["stage"], "attn_norm.codes")
        self.assertIn(f"shapes differ: {N} elements against {N - 1}", report["first"]["hints"])
        self.assertIsNone(report["first"]["integers"])

    def test_raw_against_hashes(self):
        """Of our own engine: raw rows and records agree in every statistic, and where codes differ nothing is excused."""
        model = SOURCE / "tests" / "data" / "small.gguf"
        base = [BITNET, "trace", "-m", str(model), "--tokens", "509,17,300"]
        for extra, folder in (((), "raw"), (("--as", "kv=f16"), "raw16")):
            subprocess.run([*base, *extra, "--select", "**,*.*", "--plugin", f"npy:dir={self.path / folder},raw=all"], check=True,
                           capture_output=True)
        jsonl = self.path / "hashes.jsonl"
        subprocess.run([*base, "--select", "**,*.*", "-o", jsonl], check=True, capture_output=True)
        report = self.diff(MATCH, self.path / "raw", jsonl)
        self.assertEqual(report["counts"]["equal"], report["counts"]["compared"])
        self.assertIsNone(report["integers"])
        # A scale and its codes are of one operation, whichever is told first.
        self.assertNotIn("order", [fact["key"] for fact in report["preflight"]])
        self.diff(MATCH, jsonl, self.path / "raw")
        self.assertIsNone(self.diff(DIVERGENCE, jsonl, self.path / "raw16")["integers"])
        self.assertIsNotNone(self.diff(MATCH, self.path / "raw", self.path / "raw16", "--tolerance", "ties")["integers"])
        # Codes whose hashes differ cannot be judged between engines, and nothing says that they agree.
        lines = [json.loads(line) for line in jsonl.read_text().splitlines()]
        lines[0]["engine"] = "other"
        for line in lines:
            if line.get("name") == "t0/blk1/attn_norm.codes":
                line["blake3"] = "0" * 64
            if line.get("name") == "t2/logits":
                line["blake3"] = "1" * 64
        jsonl.write_text("".join(json.dumps(line) + "\n" for line in lines))
        report = self.diff(MATCH, self.path / "raw", jsonl)
        self.assertEqual((report["rule"], report["counts"]["unjudged"], report["integers"]), ("logits", 1, None))
        self.assertIn("raw=all", subprocess.run([BITNET, "diff", self.path / "raw", jsonl, "--tolerance", "exact"],
                                                capture_output=True, text=True).stdout)

    # --- sums ---

    def test_sums_at_equal_codes(self):
        x = row_with_ties()
        a, b = Engine(x, self.weights).rows(), Engine(x, self.weights).rows()
        b[0, 0, "q_proj.acc"] = b[0, 0, "q_proj.acc"].copy()
        b[0, 0, "q_proj.acc"][11] += 1
        report = self.pair(a, b, DIVERGENCE)
        self.assertEqual((report["first"]["stage"], report["first"]["inputs"]), ("q_proj.acc", "equal"))
        self.assertIn("beyond what their codes make", report["text"])

    def test_sums_beyond_what_flipped_codes_make(self):
        x = row_with_ties({5: (3, 0), 6: (9, 0)})
        a = Engine(x, self.weights)
        flips = {i: -1 if a.codes[i] == k + 1 else 1 for i, k in ((5, 3), (6, 9))}
        b = Engine(x, self.weights, flips)
        for off, code in ((2, MATCH), (3, DIVERGENCE)):
            b.acc[11] = a.acc[11] + off
            b.out[11] = np.float32(b.acc[11]) / b.s * np.float32(0.7)
            self.assertEqual(self.pair(a.rows(), b.rows(), code)["integers"]["sums"]["wrong"], off > 2)

    # --- engines that run freely ---

    def test_codes_follow_from_inputs_that_differ(self):
        """Each side's codes are right for what that side was given: nobody's quantiser is wrong, and nothing is proven."""
        x = row_with_ties({5: (3, 0.003)})
        y = x.copy()
        y[5] = np.float32(3.497 / 64)
        a, b = Engine(x, self.weights), Engine(y, self.weights)
        report = self.pair(a.rows(), b.rows(), ERROR)
        self.assertEqual((report["integers"]["codes"]["inputs"], report["integers"]["codes"]["wrong"]), (1, 0))
        self.assertIn("no logits were recorded", report["errors"][0])
        rows = a.rows(), b.rows()
        for each, off in zip(rows, (0, 0.01)):
            each[0, -1, "logits"] = np.linspace(-1, 1 + off, 9, dtype=np.float32)
        self.assertIn("by inputs that differ", self.pair(*rows, MATCH)["text"])
        # A code of B that B's own input does not give.
        b.codes[30] += 1
        report = self.pair(a.rows(), b.rows(), DIVERGENCE)
        self.assertEqual((report["first"]["inputs"], report["first"]["integers"]["index"]), ("own", 30))

    def test_an_effect_has_a_cause(self):
        """A row that differs with nothing before it is not the effect of a tie elsewhere, nor is a leap."""
        x, y = row_with_ties({5: (3, 0)}), row_with_ties(seed=1)
        flip = {5: -1 if quantise(x)[0][5] == 4 else 1}
        a = {**Engine(x, self.weights).rows(0), **Engine(y, self.weights).rows(1)}
        b = {**Engine(x, self.weights, flip).rows(0), **Engine(y, self.weights).rows(1)}
        self.pair(a, b, MATCH)
        broken = {**b, (0, 1, "q_proj"): b[0, 1, "q_proj"] * np.float32(1.001)}
        report = self.pair(a, broken, ERROR)
        self.assertEqual(report["integers"]["first_other"], {"run": 0, "seq": 0, "layer": 1, "stage": "q_proj"})
        leap = {**b, (0, 0, "q_proj"): b[0, 0, "q_proj"][::-1].copy()}
        self.assertEqual(self.pair(a, leap, ERROR)["integers"]["first_other"]["stage"], "q_proj")
        # The last bits of an operation at equal inputs are no cause for alarm either.
        last_bit = {**b, (0, 1, "q_proj"): np.nextafter(b[0, 1, "q_proj"], np.float32(np.inf))}
        self.assertEqual(self.pair(a, last_bit, MATCH)["integers"]["records_rounding"], 2)

    def test_the_last_bits_of_a_row_and_no_other_code(self):
        x = row_with_ties()
        y = x.copy()
        y[1:] = np.nextafter(x[1:], np.float32(9))
        a, b = Engine(x, self.weights).rows(), Engine(y, self.weights).rows()
        report = self.pair(a, b, MATCH)
        self.assertIn(f"all {N} codes are equal", report["text"])
        self.rechecked(self.path / "a", self.path / "b")
        for rows in (a, b):  # nothing tells what the bits do to codes
            del rows[0, 0, "attn_norm.codes"], rows[0, 0, "q_proj.acc"]
        self.pair(a, b, ERROR)

    def test_a_number(self):
        x = row_with_ties({5: (3, 0)})
        a = Engine(x, self.weights)
        b = Engine(x, self.weights, {5: -1 if a.codes[5] == 4 else 1}).rows()
        for stage in ("q_proj.acc", "q_proj"):
            b[0, 0, stage] = a.rows()[0, 0, stage]
        report = self.pair(a.rows(), b, MATCH, "--tolerance", "0")
        self.assertEqual((report["counts"]["within"], report["would_pass"]), (1, 0))
        # Distances of raw values are exact, not estimated.
        b[0, 0, "q_proj"] = a.out + np.random.default_rng(4).normal(0, 0.01, N_OUT).astype(np.float32)
        exact = np.linalg.norm(b[0, 0, "q_proj"].astype(float) - a.out.astype(float)) / np.linalg.norm(a.out.astype(float))
        report = self.pair(a.rows(), b, DIVERGENCE, "--tolerance", "0")
        self.assertAlmostEqual(report["first"]["relative"] / exact, 1, places=12)
        self.assertEqual(report["would_pass"], report["first"]["relative"])

    def test_against_the_definition(self):
        """Random rows, noise on what went in and random damage: every count is the oracle's."""
        random = np.random.default_rng(12)
        seen = dict.fromkeys(("rounding", "inputs", "wrong"), 0)
        for case in range(30):
            a, b, expected = {}, {}, dict.fromkeys(("rounding", "inputs", "wrong"), 0)
            for position in range(3):
                x = row_with_ties({int(i): (int(random.integers(-60, 60)), random.choice([0, 2e-5, -3e-5, 3e-4]))
                                   for i in random.integers(1, N, 6)}, seed=100 * case + position)
                y = x.copy()
                if case % 3:
                    y[1:] += (random.normal(0, 3e-5 if case % 3 == 1 else 3e-3, N - 1) / 64).astype(np.float32)
                one, other = Engine(x, self.weights), Engine(y, self.weights)
                for index in random.integers(1, N, case % 4):
                    other.codes[index] += random.choice([-2, -1, 1])
                for index in range(N):
                    ca, cb = int(one.codes[index]), int(other.codes[index])
                    if ca == cb:
                        continue
                    real = [float(v[index]) * float(s) for v, s in ((x, one.s), (y, other.s))]
                    if abs(ca - cb) == 1 and all(abs(r - (ca + cb) / 2) <= TIE for r in real):
                        expected["rounding"] += 1
                    elif all(abs(r - c) <= 0.5 + TIE for r, c in zip(real, (ca, cb))):
                        expected["inputs"] += 1
                    else:
                        expected["wrong"] += 1
                other.acc = self.weights.astype(np.int32) @ other.codes.astype(np.int32)
                a.update(one.rows(0, position))
                b.update(other.rows(0, position))
            seen = {key: seen[key] + n for key, n in expected.items()}
            # Noise of 3e-5 steps is in the last bits of a row; that of 3e-3 is not, and no logits say whether it matters.
            code = DIVERGENCE if expected["wrong"] else ERROR if case % 3 == 2 else MATCH
            found = self.diff(code, self.folder("a", a), self.folder("b", b))["integers"]["codes"]
            self.assertEqual({key: found[key] for key in expected}, expected, case)
            self.assertEqual(found["differ"], sum(expected.values()))
        self.assertTrue(all(n > 5 for n in seen.values()), seen)

    # --- files ---

    def test_npz(self):
        x = row_with_ties({5: (3, 0)})
        a, b = Engine(x, self.weights), Engine(x, self.weights, {5: -1 if quantise(x)[0][5] == 4 else 1})
        paths = []
        for name, engine in (("a", a), ("b", b)):
            paths.append(self.path / f"{name}.npz")
            np.savez(paths[-1], ids=np.array([0]), **{f"0/{stage}": values[None] for (_, _, stage), values in engine.rows().items()})
        self.assertEqual(self.diff(DIVERGENCE, *paths)["rule"], "hashes")  # of engines that nobody names
        self.assertEqual(self.diff(MATCH, *paths, "--tolerance", "ties")["integers"]["codes"]["rounding"], 1)
        self.assertEqual(self.diff(MATCH, self.folder("a", a.rows()), paths[1])["rule"], "logits")
        bitnetcpp = SOURCE / "tests" / "data" / "bitnetcpp.npz"
        self.diff(MATCH, bitnetcpp, bitnetcpp)
        np.savez_compressed(self.path / "c.npz", **{"0/mystery": x[None]})
        self.diff(ERROR, paths[0], self.path / "c.npz")
        whole = paths[0].read_bytes()
        # Some of these Python's zipfile would repair.
        for damaged in (whole[:-30], b"more" + whole, whole[:200] + b"more" + whole[200:], whole.replace(b"PK\1\2", b"PK\1\3", 1),
                        whole[:150] + bytes([whole[150] ^ 1]) + whole[151:]):
            (self.path / "d.npz").write_bytes(damaged)
            self.diff(ERROR, paths[0], self.path / "d.npz")

    def test_types(self):
        """Every type that NPY files may have, of values that all of them can say: multiples of 1/128, at a scale of 64."""
        random = np.random.default_rng(8)
        steps = random.integers(-250, 250, N)
        steps[0], steps[9] = 254, 7  # 3.5 code steps
        x = (steps / 128).astype(np.float32)
        a = Engine(x, self.weights)
        b = Engine(x, self.weights, {9: -1 if a.codes[9] == 4 else 1})
        bf16 = (x.view(np.uint32) >> 16).astype(np.uint16)
        for of_x in (x, x.astype(np.float64), x.astype(np.float16), bf16):
            for dtype in (np.int8, np.int32, np.int64, np.float32):
                rows = [{**engine.rows(), (0, 0, "attn_norm"): of_x, (0, 0, "attn_norm.codes"): engine.codes.astype(dtype)}
                        for engine in (a, b)]
                self.assertEqual(self.pair(*rows, MATCH)["integers"]["codes"]["rounding"], 1, (of_x.dtype, dtype))
        rows = a.rows(), {**a.rows(), (0, 0, "attn_norm.codes"): np.array([1 << 40] * N)}
        self.pair(*rows, ERROR)

    def test_damaged_folders(self):
        a = Engine(row_with_ties(), self.weights).rows()
        good = self.folder("a", a)

        def damaged(name, change, **changes):
            folder = self.folder(name, a, "a", **changes)
            change(folder / "run-000000")
            return folder
        codes = "000000000001-t000000-blk000-attn_norm.codes.npy"
        self.diff(MATCH, good, damaged("same", lambda run: None))
        self.diff(MATCH, good, damaged("others", lambda run: [(run / name).write_bytes(b"x") for name in (
            "notes.txt", ".unfinished.npy", codes.replace(".npy", ".in-attn_norm.npy"))]))
        self.diff(MATCH, good, damaged("no_json", lambda run: None, run_json=False), "--tolerance", "exact")
        for name, change in {
                "cut": lambda run: (run / codes).write_bytes((run / codes).read_bytes()[:-1]),
                "no_npy": lambda run: (run / codes).write_bytes(b"nonsense"),
                "empty": lambda run: (run / codes).write_bytes(b""),
                "stage": lambda run: np.save(run / "000000000009-t000000-blk000-mystery.npy", np.ones(3, np.float32)),
                "name": lambda run: np.save(run / "row.npy", np.ones(3, np.float32)),
                "layer": lambda run: np.save(run / "000000000009-t000000-logits.codes.npy", np.ones(3, np.float32)),
                "no_layer": lambda run: np.save(run / "000000000009-t000000-attn_norm.npy", np.ones(3, np.float32)),
                "type": lambda run: np.save(run / codes, np.ones(N, np.complex64)),
                "order": lambda run: np.save(run / codes, np.asfortranarray(np.ones((8, 8), np.float32))),
                "twice": lambda run: np.save(run / codes.replace("001-", "008-", 1), a[0, 0, "attn_norm.codes"]),
                "missing": lambda run: (run / codes).unlink(),
                "json": lambda run: (run / "run.json").write_text("{"),
                "record": lambda run: (run / "run.json").write_text((run / "run.json").read_text().replace('"run",', '"step",', 1)),
        }.items():
            self.diff(ERROR, good, damaged(name, change))
        # Bytes of a header: what one program reads the other reads too.
        data = (good / "run-000000" / codes).read_bytes()
        for at in (*range(0, 70, 3), 118, 126, 127, 128):
            for byte in (b" ", b"1", b"'"):
                folder = damaged("byte", lambda run: (run / codes).write_bytes(data[:at] + byte + data[at + 1:]))
                options = good, folder, "--tolerance", "1e9"
                theirs = subprocess.run([BITNET, "diff", *options], capture_output=True, timeout=60).returncode
                with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                    self.assertEqual(TRACE_DIFF.main([str(option) for option in options]), theirs, (at, byte))
        self.diff(ERROR, good, damaged("unfinished", lambda run: None, complete=False))
        self.diff(ERROR, good, damaged("count", lambda run: None, records=9))
        self.diff(MATCH, good, damaged("count", lambda run: None, records=9), "--allow-missing")
        self.diff(DIVERGENCE, good, damaged("tokens", lambda run: None, tokens=[7]))

    def test_several_runs(self):
        x = row_with_ties({5: (3, 0)})
        flip = {5: -1 if quantise(x)[0][5] == 4 else 1}
        for name, engines in (("a", [Engine(x, self.weights)] * 2),
                              ("b", [Engine(x, self.weights), Engine(x, self.weights, flip)])):
            for run, engine in enumerate(engines):
                self.folder(name, engine.rows())
                if run == 0:
                    (self.path / name / "run-000000").rename(self.path / name / "run-first")
            (self.path / name / "run-000000").rename(self.path / name / "run-second")
        report = self.diff(MATCH, self.path / "a", self.path / "b")
        self.assertEqual(report["integers"]["first_rounding"]["run"], 1)


if __name__ == "__main__":
    BITNET = str(Path(sys.argv.pop(1)).resolve())
    unittest.main()
