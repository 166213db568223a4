#!/usr/bin/env python3
"""`bitnet bench` from outside: python3 test_bench.py PATH_OF_BITNET [unittest options]

What it measures is there and makes sense; how fast anything is, is not asked.
"""

import math
import os
import sys
import unittest
from pathlib import Path

from test_cli import PROGRAM, SMALL, Case

SECTIONS = ["memory", "limits", "prefill", "kernels in prefill", "kernels in decode", "decode", "deep", "tracing",
            "regions", "load"]
QUICK = ["bench", "--prefill", "64,7", "--decode", 2, "--depth", 50]


class Bench(Case):
    def lines(self, report, section):
        return {(line["name"], line["threads"]): line for line in report["sections"][section]}

    def test_every_section_has_figures(self):
        report = self.json(*QUICK, "-r", 2, "--threads", "1,2", "--json")
        certified = ["certified head"] if report["isa"].startswith("avx") else []  # others read the full head
        dense = ["dense weights"] if report["isa"] == "avx512vnni" and "avx512_vbmi" in Path("/proc/cpuinfo").read_text() else []
        self.assertCountEqual(report["sections"], SECTIONS + certified + dense)
        self.assertEqual(report["threads"], [1, 2])
        for section, lines in report["sections"].items():
            for line in lines:
                if line["name"].endswith("at least"):  # a difference of two measurements
                    self.assertGreaterEqual(line["median"], 0)
                    continue
                if line["name"].endswith(", more"):  # likewise, and either may be the larger one
                    self.assertTrue(-100 < line["lowest"] <= line["median"] <= line["highest"], line)
                    continue
                for figure in ("median", "lowest", "highest"):
                    self.assertTrue(math.isfinite(line[figure]) and line[figure] > 0, (section, line))
                self.assertLessEqual(line["lowest"], line["median"])
                self.assertLessEqual(line["median"], line["highest"])
                if section in ("prefill", "decode", "deep", "load") and line["unit"] != "times":
                    self.assertIn("fraction", line)
                if "fraction" in line:  # of the limit's best: a busy machine may have spoilt its median
                    unit = {"read": "GB/s", "int8": "GMAC/s"}[line["limit"]]
                    best = max(found["highest"] for found in report["sections"]["limits"]
                               if found["unit"] == unit and found["threads"] == line["threads"])
                    self.assertTrue(0 < line["rate"] / 1e9 / best <= 1.5, (section, line))
                    self.assertGreater(line["fraction"], 0)
        for limit in report["limits"]:
            self.assertGreater(limit["read"], 1e8)
            self.assertGreater(limit["int8"], 1e8)

    def test_the_work_is_the_models(self):
        """Of tests/data/small.gguf: shapes and sizes as bitnet inspect lists them."""
        tensors = self.json("inspect", "-m", SMALL, "--json")
        shape = tensors["hyperparameters"]
        ternary = [tensor for tensor in tensors["tensors"] if tensor["type"] == "I2_S"]
        self.assertEqual(len(ternary), 7 * shape["n_layer"])
        report = self.json("bench", "-m", SMALL, "-r", 1, "--only", "limits", "--threads", 1, "--json")
        self.assertEqual(report["per_token"], {
            "ternary_macs": sum(math.prod(tensor["dims"]) for tensor in ternary),
            "ternary_bytes": sum(tensor["bytes"] for tensor in ternary),
            "head_bytes": next(t["bytes"] for t in tensors["tensors"] if t["name"] == "token_embd.weight"),
            "norm_bytes": sum(t["bytes"] for t in tensors["tensors"] if t["name"].endswith("norm.weight")),
            "kv_bytes_per_position": shape["n_layer"] * 2 * shape["n_head_kv"] * shape["head_dim"] * 4})

    def test_fractions_are_of_the_best_limit(self):
        report = self.json(*QUICK, "-r", 3, "--only", "kernels", "--threads", 1, "--json")
        best = max(line["median"] for line in report["sections"]["limits"] if line["unit"] == "GB/s") * 1e9
        self.assertAlmostEqual(report["limits"][0]["read"] / best, 1, places=9)
        for line in report["sections"]["kernels in decode"]:
            if "fraction" in line:
                self.assertAlmostEqual(line["rate"] / best, line["fraction"], places=9)
                self.assertNotIn("limit_then", line)
        self.assertIn("fraction", self.lines(report, "kernels in decode")["head", 1])

    def test_decoding_is_held_against_reading_at_that_moment(self):
        report = self.json(*QUICK, "-r", 1, "--only", "decode,deep", "--threads", "1,2", "--json")
        work = report["per_token"]
        always = work["ternary_bytes"] + work["norm_bytes"]
        for n_threads in (1, 2):
            decode = self.lines(report, "decode")
            for name, head in (("all logits, position 32", work["head_bytes"]), ("no logits, position 32", 0)):
                line = decode[name, n_threads]
                n_bytes = always + head + work["kv_bytes_per_position"] * 33.5  # sees 33 positions, then 34
                self.assertAlmostEqual(line["rate"] / (line["median"] * n_bytes), 1, places=6)
                self.assertGreater(line["limit_then"], 1e8)
                self.assertAlmostEqual(line["rate"] / line["limit_then"], line["fraction"], places=9)
            for section, position in (("decode", 32), ("deep", 50)):
                lines = self.lines(report, section)
                times = lines[f"certified against full head, position {position}", n_threads]
                self.assertEqual(times["unit"], "times")
                self.assertAlmostEqual(
                    lines[f"greedy, certified head, position {position}", n_threads]["median"]
                    / lines[f"greedy, full head, position {position}", n_threads]["median"] / times["median"], 1, places=9)
            deep = self.lines(report, "deep")["a token, position 50 against 32", n_threads]
            self.assertEqual(deep["unit"], "times")
            self.assertNotIn("fraction", deep)

    def test_prefill_counts_the_ternary_products(self):
        report = self.json(*QUICK, "-r", 1, "--only", "prefill,kernels", "--threads", "2", "--json")
        self.assertCountEqual(report["sections"], ["limits", "prefill", "kernels in prefill", "kernels in decode"])
        self.assertCountEqual(self.lines(report, "prefill"), [("64 tokens", 2), ("7 tokens", 2)])
        line = self.lines(report, "prefill")["64 tokens", 2]
        self.assertAlmostEqual(line["rate"] / (line["median"] * report["per_token"]["ternary_macs"]), 1, places=6)
        for section, shared in (("kernels in prefill", 7), ("kernels in decode", 8)):
            shares = [line["median"] for line in report["sections"][section] if line["name"].startswith("share of ")]
            self.assertEqual(len(shares), shared)
            self.assertTrue(90 < sum(shares) <= 100.0001, shares)

    def test_tracing_is_held_against_nothing_attached(self):
        report = self.json(*QUICK, "-r", 1, "--only", "tracing", "--threads", "1,2", "--json",
                           env={"TMPDIR": str(self.folder)})
        lines = self.lines(report, "tracing")
        nothing = lines["nothing attached", 2]
        self.assertEqual(nothing["unit"], "ns/token")
        sinks = ("null sink with everything", "jsonl with the default stages", "jsonl with everything")
        for sink in sinks:
            more = lines[f"{sink}, more", 2]
            self.assertEqual(more["unit"], "%")
            self.assertAlmostEqual(lines[sink, 2]["median"] / nothing["median"], 1 + more["median"] / 100, places=9)
        services = ("BLAKE3", "statistics", "sketch", "multiset")
        for service in services:
            self.assertEqual(lines[service, 1]["unit"], "GB/s")
            self.assertGreater(lines[service, 1]["median"], 0)
        self.assertEqual(len(lines), 1 + 2 * len(sinks) + len(services))
        self.assertEqual(list(self.folder.iterdir()), [])  # the trace is gone

    def test_the_instruction_set_can_be_chosen(self):
        report = self.json(*QUICK, "-r", 1, "--only", "kernels", "--threads", 1, "--isa", "scalar", "--json")
        self.assertEqual(report["isa"], "scalar")
        self.assertIn(("ternary.scalar, all linears", 1), self.lines(report, "kernels in prefill"))
        self.bad("nosuch", "bench", "--isa", "nosuch")

    def test_the_table(self):
        text = self.good(*QUICK, "-r", 2, "--threads", 1, "--only", "decode").decode()
        self.assertRegex(text, r"(?m)^limits +threads +median +lowest +highest +unit +of limit$")
        self.assertRegex(text, r"(?m)^  all logits, position 32 +1 +[\d.]+ +[\d.]+ +[\d.]+  tokens/s +[\d.]+ % read$")
        self.assertNotIn("prefill", text)

    def test_plugins_of_the_environment_are_left_out(self):
        self.good(*QUICK, "-r", 1, "--only", "tracing", "--threads", 1,
                  env={"BITNET_TRACE_PLUGIN": "jsonl:path=t.jsonl"})
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_wrong_values(self):
        for value in ("0", "257", "1,,2", "1,x", "-1", "1.5", ","):
            self.bad("--threads: found '", "bench", f"--threads={value}")
        for value in ("0", "257", "9999999999", "64,"):  # the demo model holds 256 positions
            self.bad("--prefill: found '", "bench", f"--prefill={value}")
        self.bad("--decode: found '0'", "bench", "--decode", "0")
        self.bad("--decode: found 256, expected fewer than the model's 256 positions", "bench", "--decode", "256")
        self.bad("--depth: found '0'", "bench", "--depth", "0")
        self.bad("--depth: found 250, expected at most 240: the model holds 256 positions, 16 are decoded", "bench",
                 "--depth", "250")
        self.bad("--repetitions: found '0'", "bench", "-r", "0")
        self.bad("--only: found 'speed', expected some of memory, limits, prefill, kernels, decode, deep, tracing, "
                 "regions, load", "bench", "--only", "decode,speed")
        self.bad("nothere.gguf", "bench", "-m", "nothere.gguf")

    def test_stdout_that_cannot_be_written(self):
        with open("/dev/full", "wb") as full:
            result = self.bitnet(*QUICK, "-r", 1, "--only", "memory", stdout=full)
        self.assertEqual(result.returncode, 2)
        self.assertRegex(result.stderr.decode(), r"\Abitnet: stdout: [^\n]+\n\Z")


if __name__ == "__main__":
    if PROGRAM is None or not os.access(PROGRAM, os.X_OK):
        sys.exit("usage: test_bench.py PATH_OF_BITNET [unittest options]")
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]])
