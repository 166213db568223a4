#!/usr/bin/env python3
"""bitnet recheck from outside: python3 test_recheck.py BITNET LIBBITNET-ROWS [unittest options]

The oracle is the comparison itself, run again with the thresholds that recheck is asked for: verdict and exit code must be
the same without the traces and the engine. What a saved file cannot judge is an error, never a pass.
"""

import copy
import json
import math
import random
import re
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[3]
SMALL = SOURCE / "tests" / "data" / "small.gguf"
IDS = [1, 17, 300, 42, 5]
PRESETS = ["bitnet", "bitnet-same-class", "seed", "trueno", "polygraphy", "ggml", "msprobe"]
BITNET = ROWS = None


def run(*arguments, expect=None):
    done = subprocess.run([BITNET, *map(str, arguments)], capture_output=True, timeout=120)
    if b"Sanitizer" in done.stderr or b"runtime error" in done.stderr:
        raise AssertionError(done.stderr.decode(errors="replace"))
    if expect is not None and done.returncode != expect:
        raise AssertionError(f"{arguments}: exit {done.returncode}, expected {expect}: {done.stderr.decode()}")
    return done


def own_rows():
    out = subprocess.run([ROWS, SMALL, ",".join(map(str, IDS))], capture_output=True, check=True).stdout
    n_vocab = len(out) // 4 // len(IDS)
    return [list(struct.unpack_from(f"<{n_vocab}f", out, i * n_vocab * 4)) for i in range(len(IDS))]


def npy(rows):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({len(rows)}, {len(rows[0])}), }}\n".encode()
    data = b"".join(struct.pack(f"<{len(row)}f", *row) for row in rows)
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        temporary = tempfile.TemporaryDirectory(prefix="bitnet-recheck-")
        cls.addClassCleanup(temporary.cleanup)
        cls.folder = Path(temporary.name)

    def save(self, name, value):
        path = self.folder / name
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return path

    def recheck(self, path, *options, expect):
        return json.loads(run("recheck", path, "--format", "json", *options, expect=expect).stdout)

    def error_of(self, path, *options):
        done = run("recheck", path, *options, expect=2)
        self.assertEqual(done.stdout, b"")
        lines = done.stderr.decode().splitlines()
        self.assertEqual(len(lines), 1, lines)
        self.assertTrue(lines[0].startswith("bitnet: "), lines)
        return lines[0]


class Traces(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        trace = ["trace", "-m", SMALL, "--tokens", ",".join(map(str, IDS))]
        run(*trace, "-o", cls.folder / "a.jsonl", expect=0)
        run(*trace, "--as", "activation@1=silu", "-o", cls.folder / "b.jsonl", expect=0)
        lines = (cls.folder / "b.jsonl").read_text()
        # The same arithmetic under another name: engines that run freely.
        (cls.folder / "c.jsonl").write_text(lines.replace('"engine":"bitnet-c"', '"engine":"other"'))
        (cls.folder / "d.jsonl").write_text((cls.folder / "a.jsonl").read_text().replace('"engine":"bitnet-c"', '"engine":"other"'))

    def diff(self, b, *options):
        done = run("diff", self.folder / "a.jsonl", self.folder / b, "--format", "json", *options)
        return json.loads(done.stdout), done.returncode

    def test_every_tolerance_from_every_tolerance(self):
        needed = self.diff("b.jsonl")[0]["would_pass"]
        tolerances = ["exact", "auto", "0", "1e-9", repr(needed), repr(math.nextafter(needed, 0)), repr(needed * 2), "1e3"]
        for b in ("a.jsonl", "b.jsonl", "c.jsonl", "d.jsonl"):
            codes = {tolerance: self.diff(b, "--tolerance", tolerance) for tolerance in tolerances}
            for saved_by in ("exact", "auto", "1e-9", "1e3"):
                path = self.save("saved.json", codes[saved_by][0])
                for tolerance in tolerances:
                    with self.subTest(b=b, saved_by=saved_by, tolerance=tolerance):
                        found = self.recheck(path, "--tolerance", tolerance, expect=codes[tolerance][1])
                        self.assertEqual(found["verdict"], codes[tolerance][0]["verdict"])
                        self.assertEqual(found["would_pass"], codes[tolerance][0]["would_pass"])
        self.assertEqual(codes["exact"][1], 0)  # d: the same values
        self.assertEqual(self.diff("b.jsonl", "--tolerance", "exact")[1], 1)

    def test_the_places_outside_are_those_of_the_comparison(self):
        saved = self.save("places.json", self.diff("b.jsonl")[0])
        tolerance = 0.05
        found = self.recheck(saved, "--tolerance", tolerance, expect=1)
        at_all = self.diff("b.jsonl", "--tolerance", str(tolerance))[0]
        expected = {(row["layer"], stage["name"])
                    for row in at_all["map"]["by_stage"]
                    for stage, status in zip(at_all["map"]["stages"], row["status"]) if status == "d"}
        self.assertTrue(expected)
        self.assertEqual({(o["layer"], o["stage"]) for o in found["outside"]}, expected)
        self.assertTrue(all(o["relative"] > tolerance for o in found["outside"]))

    def test_without_options_as_saved(self):
        for b in ("a.jsonl", "b.jsonl", "c.jsonl", "d.jsonl"):
            for tolerance in ("auto", "exact", "0.01", "100"):
                document, code = self.diff(b, "--tolerance", tolerance)
                self.assertEqual(self.recheck(self.save("same.json", document), expect=code)["verdict"], document["verdict"])

    def test_text(self):
        path = self.save("text.json", self.diff("b.jsonl")[0])
        self.assertTrue(run("recheck", path, expect=1).stdout.decode().startswith("DIVERGENCE: "))
        self.assertTrue(run("recheck", path, "--tolerance", "1e3", expect=0).stdout.decode().startswith("MATCH: "))

    def test_what_no_threshold_changes(self):
        cut = self.folder / "cut.jsonl"
        lines = (self.folder / "b.jsonl").read_text().splitlines(True)
        cut.write_text("".join(lines[:-1]))
        document, code = self.diff("cut.jsonl", "--tolerance", "1e3")
        self.assertEqual(code, 2)
        self.recheck(self.save("cut.json", document), "--tolerance", "1e6", expect=2)
        other = self.folder / "other.jsonl"
        other.write_text("".join(lines).replace('"model_hash":"', '"model_hash":"0', 1))
        document, code = self.diff("other.jsonl")
        if code == 1 and any(fact["mismatch"] for fact in document["preflight"]):
            self.recheck(self.save("other.json", document), "--tolerance", "1e6", expect=1)

    def test_missing_records_are_an_error_once_nothing_else_is_wrong(self):
        fewer = self.folder / "fewer.jsonl"
        kept = [line for line in (self.folder / "b.jsonl").read_text().splitlines(True) if '"stage":"ffn_up"' not in line]
        # A whole trace all the same: its end counts what is there.
        n = sum('"record":"tensor"' in line for line in kept)
        fewer.write_text(re.sub('"records":\\d+', f'"records":{n}', "".join(kept)))
        for options, expected in ((["--allow-missing"], 0), ([], 2)):
            document, _ = self.diff("fewer.jsonl", "--tolerance", "exact", *options)
            self.assertEqual((document["input_errors"], document["counts"]["missing_in_a"]), (0, 0))
            again = self.diff("fewer.jsonl", "--tolerance", "1e3", *options)[1]
            self.assertEqual(again, expected)
            self.recheck(self.save("fewer.json", document), "--tolerance", "1e3", expect=expected)

    def test_a_file_that_does_not_say_what_auto_needs(self):
        document = self.diff("c.jsonl")[0]
        del document["automatic"]
        path = self.save("old.json", document)
        self.assertIn("auto cannot be judged", self.error_of(path, "--tolerance", "auto"))
        self.recheck(path, "--tolerance", "1e3", expect=0)

    def test_a_rule_that_is_not_known(self):
        path = self.save("rule.json", dict(self.diff("b.jsonl")[0], rule="envelope"))
        self.assertIn("needs more than the file holds", self.error_of(path))
        self.recheck(path, "--tolerance", "exact", expect=1)

    def test_limits_of_logits_cannot_be_judged(self):
        path = self.save("diff.json", self.diff("a.jsonl")[0])
        self.assertIn("--tolerance", self.error_of(path, "--cos-tol", "0.5"))
        self.assertIn("--tolerance", self.error_of(path, "--preset", "seed"))
        self.assertIn("found", self.error_of(path, "--tolerance", "nan"))

    def test_damaged_files(self):
        document = self.diff("b.jsonl")[0]
        text = json.dumps(document)
        self.assertIn("cut short", self.error_of(self.save("x.json", text[:-20])))
        self.assertIn("empty", self.error_of(self.save("x.json", "")))
        self.assertIn("no JSON", self.error_of(self.save("x.json", "<html>")))
        self.assertIn("no saved comparison", self.error_of(self.save("x.json", "[1, 2]")))
        self.assertIn("no saved comparison", self.error_of(self.save("x.json", '{"verdict": "match", "exit": 0}')))
        self.assertIn("cannot open", self.error_of(self.folder / "nothing.json"))
        self.assertIn("cannot read", self.error_of(self.folder))
        for key, value, said in (("counts", None, "expected an object"), ("would_pass", "low", "expected a number"),
                                 ("rule", 3, "expected a text"), ("errors", {}, "expected a list")):
            broken = dict(document, **{key: value})
            self.assertIn(said, self.error_of(self.save("x.json", broken), "--tolerance", "0.1"), key)
        # Everything of the wrong type, one key at a time: a line or a verdict, never a crash.
        generator = random.Random(5)
        for key in document:
            for value in (None, -1, [], {}, "x", 1e300, True):
                broken = copy.deepcopy(document)
                broken[key] = value
                code = run("recheck", self.save("x.json", broken), "--tolerance", generator.choice(["exact", "auto", "1"])).returncode
                self.assertIn(code, (0, 1, 2), key)
        for _ in range(30):
            data = bytearray(text.encode())
            data[generator.randrange(len(data))] = generator.randrange(256)
            (self.folder / "x.json").write_bytes(data)
            self.assertIn(run("recheck", self.folder / "x.json", "--tolerance", "0.1").returncode, (0, 1, 2))


class Logits(Case):
    FREE = ["--cos-tol", "-1", "--nmse", "1e9", "--top1", "off", "--mean-kl", "off"]

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        rows = own_rows()
        generator = random.Random(1)
        cls.near = [[x + generator.gauss(0, 2e-2) for x in row] for row in rows]
        far = [list(row) for row in rows]
        far[3] = [x * 0.2 for x in reversed(far[3])]
        nan = [list(row) for row in rows]
        nan[2][7] = math.nan
        # Another largest logit, whose lead is inside what the noise of all of them explains.
        tie = [list(row) for row in rows]
        first, second = sorted(range(len(tie[1])), key=lambda i: -tie[1][i])[:2]
        lead = tie[1][first] - tie[1][second]
        tie[1] = [x + generator.gauss(0, 0.3 * lead) for x in tie[1]]
        tie[1][first], tie[1][second] = min(tie[1][first], tie[1][second]) - lead / 9, max(tie[1]) + lead / 9
        for name, values in (("tie", tie), ("same", rows), ("near", cls.near), ("far", far), ("nan", nan)):
            (cls.folder / f"{name}.npy").write_bytes(npy(values))
        run("trace", "-m", SMALL, "--tokens", ",".join(map(str, IDS)), "--as", "activation@1=silu", "-o",
            cls.folder / "t.jsonl", expect=0)

    def crossval(self, against, *options):
        done = run("crossval", "-m", SMALL, "--tokens", ",".join(map(str, IDS)), "--against", self.folder / against, "--format",
                   "json", *options)
        return json.loads(done.stdout), done.returncode

    def test_presets_and_limits(self):
        limits = [["--cos-tol", "0.9999999"], ["--cos-tol", "-1", "--nmse", "off", "--mean-kl", "off", "--top1", "off"],
                  ["--kl", "1e-7"], ["--mean-kl", "1e-9"], ["--max-abs", "0.05"], ["--max-abs", "0.5"], ["--l2-tol", "0.1"], ["--l2-tol", "10"], ["--top1", "exact"],
                  ["--top1", "noise"], ["--mse", "1e-5", "--metrics", "mse"], ["--top-k-min", "0.9"], ["--nmse", "1e-7", "--preset", "ggml"]]
        tie = self.crossval("tie.npy", "--top1", "noise")[0]["prompts"][0]["rows"][1]
        self.assertNotEqual(tie["top1"], tie["top1_against"])
        self.assertNotIn("top1", tie["failed"])
        for against in ("same.npy", "near.npy", "far.npy", "nan.npy", "tie.npy"):
            path = self.save("saved.json", self.crossval(against)[0])
            for options in [["--preset", preset] for preset in PRESETS] + limits:
                with self.subTest(against=against, options=options):
                    document, code = self.crossval(against, *options)
                    found = self.recheck(path, *options, expect=code)
                    self.assertEqual(found["verdict"], document["verdict"])
                    self.assertEqual(found["text"], document["text"])
                    self.assertEqual(found["limits"], document["limits"])
                    self.assertEqual(found["prompts"][0]["summary"], document["prompts"][0]["summary"])

    def test_without_options_the_same_object(self):
        for against in ("same.npy", "near.npy", "far.npy", "nan.npy", "t.jsonl"):
            for options in ([], ["--preset", "torch-f16"], ["--preset", "msprobe"]):
                document, code = self.crossval(against, *options)
                if code == 2:
                    continue
                self.assertEqual(self.recheck(self.save("same.json", document), expect=code), document, (against, options))

    def test_a_chain_of_rechecks(self):
        path = self.save("one.json", self.crossval("near.npy")[0])
        second = self.save("two.json", self.recheck(path, "--cos-tol", "0.999999999", expect=1))
        self.recheck(second, "--cos-tol", "0.9", expect=0)

    def test_what_was_not_measured_is_no_pass(self):
        path = self.save("trace.json", self.crossval("t.jsonl")[0])
        for options in (["--kl", "1e9"], ["--max-abs", "1e9"], ["--preset", "seed"], ["--mean-kl", "1e9"]):
            self.assertIn("not measured", self.error_of(path, *options))
        self.recheck(path, "--cos-tol", "-1", "--nmse", "1e9", "--top1", "off", expect=0)
        path = self.save("near.json", self.crossval("near.npy")[0])
        for options in (["--preset", "torch-f32"], ["--atol", "1"], ["--rtol", "1"]):
            self.assertIn("not saved", self.error_of(path, *options))
        self.assertIn("the file has it of 5", self.error_of(path, "--top-k", "9", "--top-k-min", "0.1"))
        self.assertIn("every limit is off", self.error_of(path, "--cos-tol", "off", "--metrics", "kl", "--mean-kl", "off"))

    def test_a_lead_that_was_not_saved(self):
        document = self.crossval("far.npy")[0]
        for row in document["prompts"][0]["rows"]:
            del row["top1_lead"]
        path = self.save("old.json", document)
        self.assertIn("top1 cannot be judged", self.error_of(path, "--top1", "exact"))

    def test_missing_positions(self):
        fewer = self.folder / "fewer.jsonl"
        lines = (self.folder / "t.jsonl").read_text().splitlines(True)
        fewer.write_text("".join(re.sub('"records":(\\d+)', lambda m: f'"records":{int(m[1]) - 1}', line) for line in lines
                                 if not ('"stage":"logits"' in line and '"seq":4' in line)))
        document, code = self.crossval("fewer.jsonl", *self.FREE)
        self.assertEqual((code, document["prompts"][0]["missing"]), (2, 1), document["text"])
        path = self.save("fewer.json", document)
        self.recheck(path, expect=2)
        self.recheck(path, "--nmse", "1e6", expect=2)
        document, code = self.crossval("fewer.jsonl", "--allow-missing", *self.FREE)
        self.assertEqual(code, 0)
        self.recheck(self.save("fewer.json", document), "--nmse", "1e6", expect=0)
        # A divergence hides that they are missing; without it that is an error again.
        document, code = self.crossval("fewer.jsonl", "--cos-tol", "1")
        self.assertEqual(code, 1)
        self.recheck(self.save("fewer.json", document), *self.FREE, expect=2)

    def test_prompts_with_limits_of_their_own(self):
        document = self.crossval("near.npy")[0]
        document["envelope"] = {"class": None, "margin": 4}
        document["prompts"][0]["envelope"] = {"limits": {"l2": 1e-3}}
        path = self.save("envelope.json", document)
        self.assertIn("judged by envelopes", self.error_of(path))
        self.assertIn("judged by envelopes", self.error_of(path, "--nmse", "1"))
        self.recheck(path, "--preset", "bitnet", expect=0)
        page = run("report", "--crossval", path, "-o", "-", expect=1).stdout.decode()
        self.assertIn("DIVERGENCE", page)

    def test_token_ids_decide_first(self):
        document = self.crossval("same.npy")[0]
        document["prompts"][0].update(rows=[], compared=0, summary=None, complete=False, token_parity="different",
                                      tokens_against=[1, 2], token_difference={"position": 1, "ours": "17", "against": "2", "text": "x"})
        self.recheck(self.save("ids.json", document), "--cos-tol", "-1", expect=1)
        document["ladder"] = "tokens"
        self.assertIn("token ids alone", self.error_of(self.save("ids.json", document), "--cos-tol", "-1"))
        self.recheck(self.save("ids.json", document), expect=1)

    def test_tolerance_cannot_be_judged(self):
        self.assertIn("--cos-tol", self.error_of(self.save("x.json", self.crossval("same.npy")[0]), "--tolerance", "1"))

    def test_damaged_files(self):
        document = self.crossval("far.npy")[0]
        for change, said in ((lambda d: d["prompts"][0]["rows"][0].update(cosine="high"), "expected a number"),
                             (lambda d: d["prompts"][0]["rows"][0].pop("position"), 'no "position"'),
                             (lambda d: d["limits"].update(beauty=1), "no limit of that name"),
                             (lambda d: d["prompts"][0]["tokens"].append(2**40), "32 bits"),
                             (lambda d: d["ours"].clear(), 'no "engine"')):
            broken = copy.deepcopy(document)
            change(broken)
            self.assertIn(said, self.error_of(self.save("x.json", broken)))

    def test_what_explain_printed(self):
        done = run("explain", SOURCE / "tests/data/bitnetcpp.npz", "-m", SMALL, "--format", "json", expect=0)
        self.assertIn("no thresholds", self.error_of(self.save("e.json", done.stdout.decode())))


class Receipts(Logits):
    """Only what a receipt holds; the tests of objects are not repeated."""

    def receipt(self, against, *options):
        path = self.folder / "receipt.json"
        code = run("crossval", "-m", SMALL, "--tokens", ",".join(map(str, IDS)), "--against", self.folder / against, "--receipt", path,
                   *options).returncode
        return path, code

    def test_presets_and_limits(self):
        for against in ("same.npy", "near.npy", "far.npy", "nan.npy"):
            path, code = self.receipt(against)
            for options in (["--mse", "1e-5"], ["--kl", "1e-7"], ["--max-abs", "0.05"], ["--cos-tol", "0.99999999"], ["--nmse", "1"],
                            ["--top-k-min", "0.9"]):
                options = [*options, "--top1", "off"]
                with self.subTest(against=against, options=options):
                    self.recheck(path, *options, expect=self.crossval(against, *options)[1])

    def test_without_options_the_same_object(self):
        for against in ("same.npy", "near.npy"):
            path, code = self.receipt(against)
            self.recheck(path, expect=code)

    def test_prompts_with_limits_of_their_own(self):
        """The one set of limits that it holds is the loosest of them."""
        document = json.loads(self.receipt("near.npy")[0].read_text())
        document["prompts"][0]["envelope"] = {"limits": {"l2": 1e-3}}
        path = self.save("envelope.json", document)
        self.assertIn("judged by envelopes", self.error_of(path))
        self.assertIn("judged by envelopes", self.error_of(path, "--nmse", "1"))
        self.recheck(path, "--preset", "seed", "--top1", "off", expect=0)

    def test_what_was_not_measured_is_no_pass(self):
        path, _ = self.receipt("t.jsonl")
        for options in (["--kl", "1e9"], ["--max-abs", "1e9"]):
            self.assertIn("not measured", self.error_of(path, *options))

    def test_of_bitnet_rs(self):
        """Its own fields alone, NaN written as null."""
        row = {"pos": 0, "mse": 1e-6, "max_abs": 0.01, "kl": 1e-5, "topk_agree": 1.0, "top5_rust": [3, 1], "top5_cpp": [3, 2]}
        receipt = {"version": 1, "timestamp": "2025-10-01T00:00:00Z", "model": "m.gguf", "backend": "bitnet", "prompt": "p",
                   "positions": 2, "thresholds": {"mse": 1e-4, "kl": 0.1, "topk": 0.8}, "rows": [row, dict(row, pos=1, mse=2e-4)],
                   "summary": {"all_passed": False, "first_divergence": 1, "mean_mse": 1e-4}}
        path = self.save("rs.json", receipt)
        self.recheck(path, expect=1)
        self.recheck(path, "--mse", "1e-3", expect=0)
        self.recheck(path, "--mse", "1e-3", "--max-abs", "0.005", expect=1)
        for options in (["--preset", "bitnet"], ["--cos-tol", "0"]):
            self.assertIn("not measured", self.error_of(path, *options))
        receipt["rows"][0]["mse"] = None
        self.recheck(self.save("rs.json", receipt), "--mse", "1e-3", expect=1)
        receipt["rows"] = []
        self.recheck(self.save("rs.json", receipt), expect=2)

    # Of objects, above.
    test_a_chain_of_rechecks = test_a_lead_that_was_not_saved = test_missing_positions = test_token_ids_decide_first = test_prompts_with_limits_of_their_own = None
    test_tolerance_cannot_be_judged = test_damaged_files = test_what_explain_printed = None


if __name__ == "__main__":
    BITNET, ROWS = sys.argv[1:3]
    unittest.main(argv=sys.argv[:1] + sys.argv[3:])
