#!/usr/bin/env python3
"""bitnet crossval from outside: python3 test_crossval.py BITNET LIBBITNET ROWS FAKE_PLAIN FAKE_CONTEXT [unittest options]

Every kind of other side, right and wrong in each way; verdicts, exit codes, JSON, receipts, JUnit, SARIF.
"""

import json
import math
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as xml
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[3]
SMALL = SOURCE / "tests" / "data" / "small.gguf"
FAKE_ENGINE = Path(__file__).resolve().parent / "fake_engine.py"
TIMEOUT_SECONDS = 300
N_VOCAB = 512
BOS = 509
IDS = [1, 17, 300, 42, 5, 99]
BITNET = LIBRARY = ROWS = FAKE_PLAIN = FAKE_CONTEXT = None


def refuse_constant(name):
    raise ValueError(f"{name} is not JSON")


def own_rows(ids=IDS, model=SMALL):
    """Our logits, a list of rows."""
    out = subprocess.run([ROWS, model, ",".join(map(str, ids))], capture_output=True, check=True).stdout
    n_vocab = len(out) // 4 // len(ids)
    return [list(struct.unpack_from(f"<{n_vocab}f", out, i * n_vocab * 4)) for i in range(len(ids))]


def packed(rows):
    return b"".join(struct.pack(f"<{len(row)}f", *row) for row in rows)


def npy(rows, shape=None, descr="<f4", fortran=False, version=1, data=None):
    shape = shape or (len(rows), len(rows[0]))
    header = f"{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()
    size = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + size + header + (packed(rows) if data is None else data)


def saved_logits(chunks, rows_of, n_vocab=N_VOCAB):
    """As llama-perplexity --save-all-logits writes them; `rows_of` the logits of a chunk's ids."""
    n_ctx = len(chunks[0])
    out = b"_logits_" + struct.pack("<3i", n_ctx, n_vocab, len(chunks))
    out += b"".join(struct.pack(f"<{n_ctx}i", *chunk) for chunk in chunks)
    for chunk in chunks:
        for row in rows_of(chunk)[n_ctx // 2:n_ctx - 1]:
            most = max(row)
            least = max(min(row), most - 16)
            log_sum = math.log(sum(math.exp(x - most) for x in row))
            scale = (most - least) / 65535
            out += struct.pack("<2f", scale, least - most - log_sum)
            out += struct.pack(f"<{n_vocab}H", *(round((x - least) / scale) if x > least else 0 for x in row))
            out += b"\0\0" * (n_vocab % 2)
    return out


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.rows = own_rows()

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="bitnet-crossval-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def write(self, name, data):
        path = self.folder / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    def bitnet(self, *arguments, env=None):
        clean = {key: value for key, value in os.environ.items() if not key.startswith("BITNET_") and key != "NO_COLOR"}
        return subprocess.run([BITNET, *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              cwd=self.folder, env={**clean, **(env or {})}, timeout=TIMEOUT_SECONDS)

    def crossval(self, code, *arguments, model=SMALL, env=None):
        """The JSON of a run that ends with `code`, as its text form does."""
        call = ["crossval", "-m", model, *arguments]
        text, out = self.bitnet(*call, env=env), self.bitnet(*call, "--format", "json", env=env)
        self.assertEqual((text.returncode, out.returncode), (code, code), text.stdout + text.stderr + out.stderr)
        report = json.loads(out.stdout, parse_constant=refuse_constant)
        self.assertEqual(report["exit"], code)
        self.assertEqual(report["status"], ("ok", "diverged", "error")[code])
        self.assertIn(("match: ", "divergence: ", "error: ")[code], text.stdout)
        self.assertEqual(report["errors"] != [], code == 2)
        return report

    def ids(self, code, against, *arguments, ids=None, **options):
        return self.crossval(code, "--tokens", ",".join(map(str, ids or IDS)), "--against", against, *arguments, **options)

    def bad(self, expected, *arguments, env=None):
        """No comparison at all: one line on stderr, nothing on stdout."""
        result = self.bitnet("crossval", "-m", SMALL, *arguments, env=env)
        self.assertEqual((result.returncode, result.stdout), (2, ""), result.stderr)
        self.assertRegex(result.stderr, r"\Abitnet: [^\n]+\n\Z")
        self.assertIn(expected, result.stderr)

    def changed(self, position, index, value):
        rows = [list(row) for row in self.rows]
        rows[position][index] = value
        return rows


class Files(Case):
    def test_npy_equal(self):
        for version in (1, 2):
            report = self.ids(0, self.write("a.npy", npy(self.rows, version=version)))
        self.assertEqual(report["per_token_cosine_sim"], [1.0] * len(IDS))
        self.assertEqual(report["per_token_l2_dist"], [0.0] * len(IDS))
        self.assertEqual((report["first_divergence_token"], report["max_absolute_diff"]), (None, 0))
        self.assertEqual(report["threshold"], 0.97)
        self.assertEqual(report["compared"], len(IDS))
        self.assertEqual(report["prompts"][0]["token_parity"], "unknown")

    def test_one_value(self):
        report = self.ids(1, "npy:" + str(self.write("a", npy(self.changed(3, 77, self.rows[3][77] + 50)))))
        row = report["prompts"][0]["rows"][3]
        self.assertEqual(report["first_divergence_token"], 3)
        self.assertEqual((row["verdict"], row["worst"]["index"], row["position"], row["token"]), ("diverged", 77, 3, 42))
        self.assertAlmostEqual(row["max_abs"], 50, places=4)
        self.assertIn("nmse", row["failed"])
        self.assertEqual([r["verdict"] for r in report["prompts"][0]["rows"]].count("diverged"), 1)
        self.assertIn("position 3 (token 42)", report["text"])

    def test_not_finite(self):
        for value in (math.nan, math.inf, -math.inf):
            report = self.ids(1, self.write("a.npy", npy(self.changed(2, 9, value))))
            self.assertEqual(report["first_divergence_token"], 2)
            self.assertIn("finite", report["prompts"][0]["rows"][2]["failed"])
            self.assertEqual(report["prompts"][0]["rows"][2]["nonfinite"], 1)

    def test_last_row_alone(self):
        for data in (npy(self.rows[-1:]), npy(self.rows[-1:], shape=(N_VOCAB,))):
            report = self.ids(0, self.write("a.npy", data))
            self.assertEqual([row["position"] for row in report["prompts"][0]["rows"]], [len(IDS) - 1])
            self.assertEqual(report["prompts"][0]["missing"], len(IDS) - 1)
        self.ids(2, self.write("a.npy", npy(self.rows[-1:])), "--positions", 2)  # it has none of those

    def test_raw(self):
        self.ids(0, f"raw:{self.write('a.f32', packed(self.rows))}")
        self.assertEqual(self.ids(1, f"raw:{self.write('a.f32', packed(self.changed(0, 0, 60)))}")["first_divergence_token"], 0)
        self.assertIn("multiple of 2048", self.ids(2, f"raw:{self.write('a.f32', packed(self.rows)[:-4])}")["errors"][0])
        self.ids(2, f"raw:{self.write('a.f32', b'')}")

    def test_damaged_npy(self):
        good = npy(self.rows)
        for data, expected in ((good[:-1], "cut short"), (b"PK", "no NumPy file"), (good[:9], "no NumPy file"),
                               (good[:40], "damaged"), (npy(self.rows, descr="<f8"), "'<f8'"),
                               (npy(self.rows, fortran=True), "Fortran"), (npy(self.rows, shape=(6, 511)), "(6, 511)"),
                               (npy(self.rows[:4]), "4 rows"), (npy(self.rows, shape=(2, 3, N_VOCAB)), "expected (positions, 512)"),
                               (npy(self.rows, shape=(10 ** 17, N_VOCAB)), "cut short"), (b"", "no NumPy file")):
            self.assertIn(expected, self.ids(2, self.write("a.npy", data))["errors"][0])
        self.assertIn("cannot open", self.ids(2, "npy:absent")["errors"][0])

    def test_a_batch_of_one_is_no_batch(self):
        self.ids(0, self.write("a.npy", npy(self.rows, shape=(1, len(IDS), N_VOCAB))))

    def test_a_file_for_each_prompt(self):
        prompts = self.write("p.jsonl", '{"tokens": [1, 2]}\n{"tokens": [3], "id": "three"}\n')
        for i, ids in enumerate(([1, 2], [3])):
            self.write(f"r{i}.npy", npy(own_rows(ids)))
        report = self.crossval(0, "--prompts", prompts, "--against", "r{}.npy")
        self.assertEqual([p["id"] for p in report["prompts"]], ["0", "three"])
        self.bad("put {} where", "--prompts", prompts, "--against", "r0.npy")
        self.write("r1.npy", npy(own_rows([4])))
        report = self.crossval(1, "--prompts", prompts, "--against", "r{}.npy")
        self.assertEqual([p["verdict"] for p in report["prompts"]], ["match", "divergence"])
        self.assertEqual(report["first_divergence_token"], 2)  # index over both prompts' positions


def with_bos(chunk):
    return [BOS] + chunk[1:]


class SavedLogits(Case):
    # The model wants a BOS: the file holds the text's own ids, but the first of each chunk was evaluated as BOS.
    CHUNKS = [[BOS, 17, 300, 42, 5, 99, 7, 8], [2, 3, 4, 9, 10, 11, 12, 13]]

    def test_equal_within_its_16_bits(self):
        path = self.write("a.kld", saved_logits(self.CHUNKS, lambda ids: own_rows(with_bos(ids))))
        for spec in (path, f"logits:{path}"):
            report = self.crossval(0, "--against", spec)
        self.assertEqual([[r["position"] for r in p["rows"]] for p in report["prompts"]], [[4, 5, 6]] * 2)
        self.assertEqual([p["missing"] for p in report["prompts"]], [5, 5])
        self.assertEqual([p["token_parity"] for p in report["prompts"]], ["equal"] * 2)
        self.assertLess(report["max_absolute_diff"], 16 / 65535)
        self.assertIn("16 bits", report["against"]["limitation"])

    def test_divergence(self):
        def shifted(ids):
            return own_rows(with_bos(ids[:5] + [200] + ids[6:]))  # another token at position 5
        report = self.crossval(1, "--against", self.write("a.kld", saved_logits(self.CHUNKS, shifted)))
        self.assertEqual(report["prompts"][0]["first_divergence"], 5)

    def test_a_prompt_must_be_its_tokens(self):
        path = self.write("a.kld", saved_logits(self.CHUNKS, lambda ids: own_rows(with_bos(ids))))
        self.crossval(0, "--tokens", ",".join(map(str, self.CHUNKS[0])), "--against", path)
        self.crossval(0, "--tokens", f"{BOS},17", "--against", path)  # the file goes on
        report = self.crossval(1, "--tokens", f"{BOS},18", "--against", path)
        self.assertEqual(report["prompts"][0]["token_difference"]["position"], 1)
        self.assertEqual(report["compared"], 0)

    def test_damage(self):
        good = saved_logits(self.CHUNKS, lambda ids: own_rows(with_bos(ids)))
        for data, expected in ((good[:-1], "cut short"), (good[:15], "cut short"), (b"_logits_" + struct.pack("<3i", 8, 511, 1) +
                               bytes(1 << 16), "n_vocab is 511"), (b"_logits_" + struct.pack("<3i", 1 << 30, 512, 1 << 30), "cut short"),
                               (b"_logits_" + struct.pack("<3i", -8, 512, 1), "n_ctx -8")):
            self.bad(expected, "--against", self.write("a.kld", data))
        self.bad("does not begin with _logits_", "--against", f"logits:{self.write('b', b'nonsense nonsense')}")


class Traces(Case):
    def trace(self, name, *arguments):
        result = self.bitnet("trace", "-m", SMALL, "--tokens", ",".join(map(str, IDS)), "-o", name, *arguments)
        self.assertEqual(result.returncode, 0, result.stderr)
        return self.folder / name

    def test_equal_hashes(self):
        report = self.crossval(0, "--against", self.trace("t.jsonl", "--select", "logits"))
        self.assertEqual(report["prompts"][0]["tokens"], IDS)
        self.assertEqual(report["per_token_cosine_sim"], [1.0] * len(IDS))
        self.crossval(0, "--preset", "torch-f32", "--against", "t.jsonl")

    def test_distance_from_sketches(self):
        path = self.trace("t.jsonl", "--as", "activation=silu")
        report = self.crossval(1, "--against", path)
        rows = report["prompts"][0]["rows"]
        exact = self.ids(1, f"lib:{LIBRARY}", "--against-as", "activation=silu")["prompts"][0]["rows"]
        for row, true in zip(rows, exact):
            self.assertLess(abs(row["l2"] / true["l2"] - 1), 0.5)
            self.assertEqual(row["top1_against"], true["top1_against"])
            self.assertIsNone(row["kl"])
            self.assertIsNone(row["max_abs"])
        self.assertEqual(report["prompts"][0]["summary"]["unmeasured"], ["mean_kl"])

    def test_limits_that_a_trace_cannot_judge(self):
        path = self.trace("t.jsonl", "--as", "activation=silu")
        self.assertIn("none of the limits", self.crossval(2, "--preset", "torch-f32", "--against", path)["errors"][0])

    def test_tokens_first(self):
        path = self.trace("t.jsonl")
        self.assertEqual(self.crossval(0, "--tokens", "1,17", "--against", path)["prompts"][0]["tokens"], IDS)
        report = self.crossval(1, "--tokens", "17,300,42,5,99", "--against", path)
        self.assertIn("theirs has 1 (BOS?) in front, ours has none", report["text"])
        report = self.crossval(1, "--tokens", "1,1,17,300,42,5,99", "--against", path)
        self.assertIn("ours begins with 1 twice (double BOS)", report["text"])
        self.assertEqual(report["compared"], 0)

    def test_damage(self):
        path = self.trace("t.jsonl", "--select", "logits")
        lines = path.read_text().splitlines(keepends=True)
        self.bad("cut short", "--against", self.write("cut.jsonl", "".join(lines[:-1])))
        self.bad("not JSON", "--against", self.write("junk.jsonl", "".join(lines[:2] + ["junk\n"] + lines[2:])))
        self.bad("another model", "--against", self.write("m.jsonl", lines[0].replace('"model_hash":"', '"model_hash":"0') +
                                                          "".join(lines[1:])))
        self.bad("no logits", "--against", self.trace("n.jsonl", "--select", "embeddings"))
        self.bad("No such file", "--against", "absent.jsonl")

    def test_missing_positions(self):
        path = self.trace("t.jsonl", "--select", "{1;2;3}:*:logits")
        self.assertIn("3 of 6 positions are missing", self.crossval(2, "--against", path)["errors"][0])
        self.assertEqual(self.crossval(0, "--allow-missing", "--against", path)["compared"], 3)


class Libraries(Case):
    def test_this_very_library(self):
        report = self.ids(0, f"lib:{LIBRARY}")
        self.assertIn("bitnet-c", report["against"]["name"])
        self.assertEqual(report["max_absolute_diff"], 0)

    def test_other_semantics_diverge(self):
        report = self.ids(1, f"lib:{LIBRARY}", "--against-as", "activation=silu")
        self.assertEqual(report["first_divergence_token"], next(
            row["position"] for row in report["prompts"][0]["rows"] if row["verdict"] == "diverged"))

    def test_text_goes_through_both_tokenizers(self):
        for spec in (f"lib:{LIBRARY}", f"crossval:{FAKE_PLAIN}", f"crossval:{FAKE_CONTEXT}"):
            report = self.crossval(0, "-p", "some text, 12", "--against", spec)
            self.assertEqual(report["prompts"][0]["token_parity"], "equal")
            self.assertEqual(self.crossval(0, "-p", "some text, 12", "--ladder", "tokens", "--against", spec)["compared"], 0)

    def test_the_demo_model_reaches_the_other_side(self):
        for spec in (f"lib:{LIBRARY}", f"crossval:{FAKE_CONTEXT}"):
            result = self.bitnet("crossval", "-p", "What is 2+2?", "--against", spec)
            self.assertEqual(result.returncode, 0, result.stderr)

    def test_another_model_on_the_other_side(self):
        shutil.copyfile(SMALL, self.folder / "copy.gguf")
        self.ids(0, f"lib:{LIBRARY}", "--against-model", "copy.gguf")
        self.assertEqual(self.bitnet("make-model", "--preset", "tiny", "-o", "tiny.gguf").returncode, 0)
        self.ids(2, f"lib:{LIBRARY}", "--against-model", "tiny.gguf")

    def test_what_cannot_be_loaded(self):
        self.bad("cannot load", "--tokens", "1", "--against", "lib:/absent.so")
        self.bad("has no function crossval_bitnet_tokenize", "--tokens", "1", "--against", "crossval:libm.so.6")
        self.ids(0, f"crossval:{LIBRARY}")  # this library has that interface too
        self.bad("cannot load", "--tokens", "1", "--against", f"lib:{SMALL}")
        self.bad("absent.gguf", "--tokens", "1", "--against", f"lib:{LIBRARY}", "--against-model", "absent.gguf")

    def test_crossval_interface(self):
        for path in (FAKE_PLAIN, FAKE_CONTEXT):
            report = self.ids(0, f"crossval:{path}")
            self.assertEqual(report["max_absolute_diff"], 0)
            for mode, code, expected in (("nan", 1, "NaN"), ("value", 1, "position 1"),
                                         ("error", 2, "the fake engine wants to fail"), ("crash", 2, "signal 6"),
                                         ("short", 2, "5 x 512"), ("narrow", 2, "6 x 511"), ("print", 0, "agree")):
                report = self.ids(code, f"crossval:{path}", env={"FAKE_MODE": mode})
                self.assertIn(expected, report["text"], mode)

    def test_tokenizers_that_differ(self):
        report = self.crossval(1, "-p", "some text", "--against", f"crossval:{FAKE_PLAIN}", env={"FAKE_MODE": "token"})
        self.assertEqual(report["prompts"][0]["token_parity"], "different")
        self.assertEqual((report["compared"], report["first_divergence_token"]), (0, None))
        self.assertIn("token ids differ", report["text"])

    def test_one_that_hangs(self):
        report = self.ids(2, f"crossval:{FAKE_PLAIN}", "--timeout", "0.3", env={"FAKE_MODE": "hang"})
        self.assertIn("no answer within 0.3 s", report["text"])


class Commands(Case):
    def command(self, mode, rows=None):
        path = self.write("rows", packed(rows or self.rows))
        return f"cmd:{sys.executable} {FAKE_ENGINE} {path} {N_VOCAB} {mode}"

    def test_good(self):
        report = self.ids(0, self.command("good"))
        self.assertIn("(fake engine 1.0)", report["against"]["name"])
        self.assertEqual(report["prompts"][0]["token_parity"], "unknown")

    def test_ways_to_fail(self):
        for mode, expected in (("die", "ended with exit code 3"), ("kill", "exit code 137"), ("error", "cannot do this"),
                               ("other", "answers 'ids', expected 'logits'"), ("shape", "7 x 512")):
            self.assertIn(expected, self.ids(2, self.command(mode))["text"], mode)
        for mode, expected in (("version", "version 2"), ("garbage", "begins with 'hello'"), ("refuse", "there is no model")):
            self.bad(expected, "--tokens", "1", "--against", self.command(mode))
        self.bad("no answer within", "--tokens", "1", "--timeout", "0.3", "--against", self.command("silent"))
        self.bad("exit code 127", "--tokens", "1", "--against", "cmd:exec 2>/dev/null; /no/such/program")

    def test_tokenize(self):
        good = self.command("good", own_rows([BOS, ord("x")]))
        report = self.crossval(0, "-p", "x", "--against", good)  # unsupported: unknown ids, not different ones
        self.assertEqual(report["prompts"][0]["token_parity"], "unknown")
        self.crossval(2, "-p", "x", "--ladder", "tokens", "--against", self.command("good"))
        self.assertIn("expected a token id", self.crossval(2, "-p", "x", "--against", self.command("bad ids").replace(
            "bad ids", "'bad ids'"))["text"])
        report = self.crossval(1, "-p", "x", "--against", self.command("tokens"))
        self.assertEqual(report["prompts"][0]["tokens_against"], [])

    def test_rows_nobody_wants_are_skipped(self):
        prompts = self.write("p.jsonl", '{"tokens": [1, 17, 300]}\n{"tokens": [1, 17]}\n')
        report = self.crossval(0, "--prompts", prompts, "--positions", 1, "--against", self.command("good"))
        self.assertEqual(report["compared"], 2)


class Limits(Case):
    def setUp(self):
        super().setUp()
        rows = [[x + 0.01 * ((i * 7919 + j) % 11 - 5) for j, x in enumerate(row)] for i, row in enumerate(self.rows)]
        self.near = self.write("near.npy", npy(rows))

    def test_presets(self):
        verdicts = {"bitnet": 0, "bitnet-same-class": 0, "trueno": 0, "torch-f32": 1, "torch-f16": 1, "seed": 1,
                    "polygraphy": 1, "ggml": 0, "msprobe": 0}
        for preset, code in verdicts.items():
            self.assertEqual(self.ids(code, self.near, "--preset", preset)["preset"], preset)
        self.bad("bitnet-same-class, seed", "--tokens", "1", "--against", "a.npy", "--preset", "none")

    def test_the_tolerance_that_would_pass(self):
        options = ("--preset", "torch-f32", "--rtol", "off", "--cos-tol", "off")
        report = self.ids(1, self.near, *options, "--max-abs", "0")
        worst = max(row["max_abs"] for row in report["prompts"][0]["rows"])
        self.assertEqual(report["limits"], {"max_abs": 0.0})
        self.ids(0, self.near, *options, "--max-abs", repr(worst))
        self.ids(1, self.near, *options, "--max-abs", repr(math.nextafter(worst, 0)))
        text = self.ids(1, self.near, *options, "--max-abs", "0")["text"]
        first = report["prompts"][0]["rows"][report["first_divergence_token"]]
        self.assertIn(f"--max-abs {first['max_abs']:.17g} would pass", text)

    def test_every_option(self):
        def ggml(option):  # with every limit off but the one
            return () if option == "--nmse" else ("--nmse", "off")

        for option, strict, loose, name in (("--cos-tol", "1", "0.9", "cosine"), ("--l2-tol", "0", "100", "l2"),
                                            ("--mse", "0", "1", "mse"), ("--nmse", "0", "1", "nmse"),
                                            ("--kl", "0", "1", "kl"), ("--mean-kl", "0", "1", "mean_kl"),
                                            ("--atol", "1e-9", "1", "close"), ("--rtol", "1e-9", "1e9", "close")):
            base = ("--preset", "ggml", *ggml(option))
            self.assertIn(name, self.ids(1, self.near, *base, option, strict)["limits"])
            self.ids(0, self.near, *base, option, loose)
        swapped = [list(row) for row in self.rows]
        order = sorted(range(N_VOCAB), key=lambda i: -swapped[0][i])
        a, b = order[0], order[1]
        swapped[0][a], swapped[0][b] = swapped[0][b], swapped[0][a]
        path = self.write("s.npy", npy(swapped))
        self.assertEqual(self.ids(1, path, *base, "--top1", "exact")["prompts"][0]["rows"][0]["failed"], ["top1"])
        self.ids(0, path, *base, "--top-k-min", "1", "--top-k", "2")
        self.ids(1, path, *base, "--top-k-min", "1", "--top-k", "1")
        self.bad("every limit is off", "--tokens", "1", "--against", "a.npy", *base)
        self.bad("expected a number, or off", "--tokens", "1", "--against", "a.npy", "--kl", "nan")

    def test_metrics(self):
        report = self.ids(0, self.near, "--metrics", "kl")
        self.assertEqual(set(report["limits"]), {"cosine", "cosine_warn", "mean_kl"})
        self.ids(0, self.near, "--metrics", "mse", "--mean-kl", "0")
        self.bad("'cosines'", "--tokens", "1", "--against", "a.npy", "--metrics", "mse,cosines")

    def test_a_warning_is_a_match(self):
        report = self.ids(0, self.near, "--cos-warn", "1")
        self.assertEqual(report["prompts"][0]["summary"]["warned"], len(IDS))


class Scope(Case):
    def test_ladder(self):
        spec = f"lib:{LIBRARY}"
        report = self.ids(0, spec, "--ladder", "first-logit")
        self.assertEqual([row["position"] for row in report["prompts"][0]["rows"]], [len(IDS) - 1])
        report = self.ids(0, spec, "--ladder", "decode")
        n_decoded = len(report["prompts"][0]["tokens"]) - len(IDS)
        self.assertTrue(1 <= n_decoded <= 4)
        self.assertEqual([row["position"] for row in report["prompts"][0]["rows"]],
                         list(range(len(IDS) - 1, len(IDS) + n_decoded)))
        report = self.ids(0, spec, "--max-tokens", 2, "--positions", 3)
        self.assertEqual(report["compared"], 3)
        self.bad("masks do not show in logits", "--tokens", "1", "--against", spec, "--ladder", "masks")

    def test_long_prompts_go_in_pieces(self):
        ids = [(37 * i + 11) % N_VOCAB for i in range(70)]
        self.assertEqual(self.ids(0, f"lib:{LIBRARY}", ids=ids)["compared"], 70)

    def test_prompt_files(self):
        spec = f"lib:{LIBRARY}"
        report = self.crossval(0, "--prompts", self.write("p.txt", "one\n\ntwo words\r\n"), "--against", spec)
        self.assertEqual([p["prompt"] for p in report["prompts"]], ["one", "two words"])
        for text, expected in (("", "no prompt in it"), ("\n\n", "no prompt in it"), ('{"prompt": 3}', "no string"),
                               ('{"a": 1}', "found neither"), ('{"prompt": "a"}\nplain', "p:2: expected a JSON object"),
                               ('{"prompt": "a", "tokens": [1]}', "found both"), ('{"tokens": ["a"]}', "no array of token ids")):
            self.bad(expected, "--prompts", self.write("p", text), "--against", spec)
        report = self.crossval(2, "--prompts", self.write("p", '{"tokens": [512]}\n{"tokens": [1]}\n{"tokens": []}'),
                               "--against", spec)
        self.assertEqual([p["verdict"] for p in report["prompts"]], ["error", "match", "error"])
        self.assertIn("token 0 is 512", report["errors"][0])

    def test_bad_options(self):
        self.bad("--against", "--tokens", "1")
        self.bad("expected npy:, raw:", "--tokens", "1", "--against", "what")
        self.bad("names nothing", "--tokens", "1", "--against", "lib:")
        self.bad("no prompt", "--against", "a.npy")
        self.bad("stands in place of", "--tokens", "1", "--prompts", "p", "--against", "a.npy")
        self.bad("expected raw or chat", "--prompt-template", "llama3-chat", "-p", "x", "--against", "a.npy")
        self.bad("only a library of this ABI", "--tokens", "1", "--against", "a.npy", "--against-as", "eps=1")

    def test_dump_ids(self):
        result = self.bitnet("crossval", "-m", SMALL, "--tokens", "1,17", "--against", f"lib:{LIBRARY}", "--dump-ids",
                             "--format", "json")
        self.assertEqual(result.stderr, "prompt 0: ours:   1 17\nprompt 0: theirs: unknown\n")
        json.loads(result.stdout)


class Reports(Case):
    def setUp(self):
        super().setUp()
        self.other = self.write("a.npy", npy(self.changed(3, 77, self.rows[3][77] + 50)))

    def test_receipt(self):
        report = self.ids(1, self.other, "--receipt", "r.json", "--mse", "1")
        receipt = json.loads((self.folder / "r.json").read_text(), parse_constant=refuse_constant)
        self.assertEqual((receipt["version"], receipt["positions"], receipt["backend"]), (1, len(IDS), f"npy:{self.other}"))
        self.assertEqual([row["pos"] for row in receipt["rows"]], list(range(len(IDS))))
        for row, true in zip(receipt["rows"], report["prompts"][0]["rows"]):
            self.assertEqual((row["mse"], row["max_abs"], row["kl"]), (true["mse"], true["max_abs"], true["kl"]))
            self.assertEqual(row["top5_rust"][0], true["top1"])
            self.assertEqual(row["top5_cpp"][0], true["top1_against"])
            self.assertEqual(len(row["top5_rust"]), 5)
        self.assertEqual(receipt["thresholds"]["mse"], 1)
        self.assertEqual(receipt["summary"]["first_divergence"], 3)
        self.assertFalse(receipt["summary"]["all_passed"])
        self.assertAlmostEqual(receipt["summary"]["mean_mse"], 2500 / N_VOCAB / len(IDS), places=4)
        self.assertRegex(receipt["timestamp"], r"\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")

    def test_junit(self):
        prompts = self.write("p.jsonl", '{"id": "a<&\\"b", "tokens": [1, 17, 300, 42, 5, 99]}\n{"tokens": [999]}\n')
        shutil.copyfile(self.other, self.folder / "r0.npy")
        self.crossval(2, "--prompts", prompts, "--against", "r{}.npy", "--junit", "j.xml")
        suites = xml.parse(self.folder / "j.xml").getroot()
        first, second = suites.findall("testsuite")
        self.assertEqual(first.get("name"), 'prompt a<&"b')
        self.assertEqual((first.get("tests"), first.get("failures"), first.get("errors")), ("7", "2", "0"))  # + mean KL
        self.assertEqual([c.get("name") for c in first if c.find("failure") is not None], ["position 3", "mean KL"])
        self.assertIn("NMSE", first.findall("testcase")[3].find("failure").get("message"))
        self.assertEqual((second.get("tests"), second.get("errors")), ("1", "1"))

    def test_sarif(self):
        prompts = self.write("p 1.jsonl", '{"tokens": [1, 17, 300, 42, 5, 99]}\n')
        self.crossval(1, "--prompts", prompts, "--against", self.other, "--sarif", "s.json")
        run = json.loads((self.folder / "s.json").read_text())["runs"][0]
        rules = {rule["id"] for rule in run["tool"]["driver"]["rules"]}
        self.assertTrue(run["results"])
        for result in run["results"]:
            self.assertIn(result["ruleId"], rules)
            self.assertEqual(result["level"], "error")
            place = result["locations"][0]["physicalLocation"]
            self.assertTrue(place["artifactLocation"]["uri"].endswith("/p%201.jsonl"))
            self.assertEqual(place["region"]["startLine"], 1)
        self.assertIn("nmse", {result["ruleId"] for result in run["results"]})
        self.ids(0, self.write("b.npy", npy(self.rows)), "--sarif", "s.json")
        self.assertEqual(json.loads((self.folder / "s.json").read_text())["runs"][0]["results"], [])

    def test_files_that_cannot_be_written(self):
        for option in ("--receipt", "--junit", "--sarif"):
            self.bad("cannot create", "--tokens", "1", "--against", self.other, option, "absent/x")
            self.bad("is a directory", "--tokens", "1", "--against", self.other, option, ".")
        with open("/dev/full", "w") as full:
            result = subprocess.run([BITNET, "crossval", "-m", SMALL, "--tokens", "1,17,300,42,5,99", "--against", self.other],
                                    stdout=full, stderr=subprocess.PIPE, timeout=TIMEOUT_SECONDS)
        self.assertEqual(result.returncode, 2)


if __name__ == "__main__":
    BITNET, LIBRARY, ROWS, FAKE_PLAIN, FAKE_CONTEXT = (Path(path).resolve() for path in sys.argv[1:6])
    unittest.main(argv=[sys.argv[0], *sys.argv[6:]])
