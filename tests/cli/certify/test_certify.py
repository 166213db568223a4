#!/usr/bin/env python3
"""bitnet certify from outside: python3 test_certify.py PATH_OF_BITNET [--faulty-engine MODULE] [unittest options]

The certificate recomputed from a trace, engines that are wrong in one way, golden files, failure paths.
"""

import argparse
import collections
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent.parent.parent
SMALL = SOURCE / "tests" / "data" / "small.gguf"
DEMO = SOURCE / "scripts" / "demo_model" / "demo.gguf"
GOLDEN = SOURCE / "scripts" / "demo_model" / "demo.certificate"
TIMEOUT_SECONDS = 300
# The certificate does not depend on what was run: this is enough where it alone matters.
FEW = ["--quick", "--isa", "scalar", "-t", "1"]
PROGRAM = FAULTY_ENGINE = None


def b3sum(data):
    return subprocess.run(["b3sum", "--no-names"], input=data, capture_output=True, check=True).stdout.decode().strip()


def fields(line):
    magic, *pairs = line.split()
    assert magic == "bitnet-certificate/1", line
    return dict(pair.split("=", 1) for pair in pairs)


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="bitnet-certify-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def bitnet(self, *arguments, env=None):
        clean = {key: value for key, value in os.environ.items() if not key.startswith("BITNET_") and key != "NO_COLOR"}
        return subprocess.run([PROGRAM, *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              cwd=self.folder, env={**clean, **(env or {})}, timeout=TIMEOUT_SECONDS)

    def certify(self, *arguments, code=0, env=None):
        """stdout of a run that must end with `code`, and have said so on stderr only when it is 2."""
        result = self.bitnet("certify", *arguments, env=env)
        self.assertEqual(result.returncode, code, result.stdout + result.stderr)
        self.assertRegex(result.stderr, r"\Abitnet: [^\n]+\n\Z" if code == 2 else r"\A\Z")
        return result.stdout

    def bad(self, expected, *arguments, env=None):
        result = self.bitnet("certify", *arguments, env=env)
        self.assertEqual(result.returncode, 2, result.stdout)
        self.assertRegex(result.stderr, r"\Abitnet: [^\n]+\n\Z")
        self.assertIn(expected, result.stderr)
        self.assertNotIn("bitnet-certificate/1 ", result.stdout)

    def line(self, *arguments, **options):
        return self.certify(*arguments, **options).splitlines()[-1]


class Certificate(Case):
    def records(self, path):
        with open(path, encoding="utf-8") as file:
            return [record for record in map(json.loads, file) if record["record"] == "tensor"]

    @unittest.skipUnless(shutil.which("b3sum"), "b3sum is not installed")
    def test_recomputed_from_a_trace(self):
        for model in (DEMO, SMALL):
            report = json.loads(self.certify(*FEW, "-m", model, "-n", 5, "--json"))
            ids = report["tokens"]
            self.assertEqual(len(ids), report["n_prompt"] + 5)
            self.bitnet("trace", "-m", model, "--tokens", ",".join(map(str, ids)), "--select", "**,*.*",
                        "-o", "t.jsonl")
            records = self.records(self.folder / "t.jsonl")
            self.assertEqual(len(records), report["n_rows"])
            per_position = collections.Counter(record["seq"] for record in records)
            self.assertEqual(sorted(per_position), list(range(len(ids))))
            self.assertEqual(len(set(per_position.values())), 1)
            records.sort(key=lambda record: (record["seq"], record["event"]))
            text = "".join(f"{r['seq']} {r['layer']} {r['stage']} {r['blake3']}\n" for r in records)
            certificate = report["certificate"]
            self.assertEqual(certificate["result"], b3sum(text.encode()))
            self.assertEqual(certificate["tokens"], b3sum(struct.pack(f"<{len(ids)}i", *ids)))
            self.assertEqual(certificate["model"], b3sum(model.read_bytes()))

    @unittest.skipUnless(shutil.which("b3sum") and shutil.which("jq"), "b3sum or jq is not installed")
    def test_the_recipe_of_the_help(self):
        text = self.bitnet("certify", "--help").stdout
        recipe = text[text.index("bitnet trace --tokens IDS"):text.index("\n\nExit codes")]
        report = json.loads(self.certify(*FEW, "-n", 2, "--json"))
        recipe = recipe.replace("bitnet trace", f"'{PROGRAM}' trace")
        recipe = recipe.replace("IDS", ",".join(map(str, report["tokens"])))
        result = subprocess.run(["sh", "-ec", recipe], cwd=self.folder, capture_output=True, text=True, check=True)
        self.assertEqual(result.stdout.split()[0], report["certificate"]["result"], recipe)

    def test_is_a_function_of_model_tokens_and_semantics(self):
        line = self.line(*FEW)
        self.assertEqual(line, self.line("--isa", "scalar"))
        self.assertEqual(line, self.line("--quick"))
        self.assertEqual(line, self.line(*FEW, "-m", DEMO))
        self.assertEqual(line, self.line("--quick", env={"BITNET_ISA": "scalar"}))
        others = [self.line(*FEW, *change) for change in
                  (["-n", 7], ["-p", "x"], ["--as", "activation=silu"], ["--as", "kv=f16"], ["-m", SMALL])]
        self.assertEqual(len({line, *others}), 6)
        result = {fields(other)["result"] for other in (line, *others)}
        self.assertEqual(len(result), 6)
        self.assertEqual(fields(others[2])["as"], "activation=silu")
        # Prompt or decoded: the same tokens, the same certificate.
        ids = json.loads(self.certify(*FEW, "--json"))["tokens"]
        self.assertEqual(line, self.line(*FEW, "-n", 0, "--tokens", ",".join(map(str, ids))))

    def test_the_environments_plugins_are_left_out(self):
        env = {"BITNET_TRACE_PLUGIN": "jsonl:path=env.jsonl;nothere", "BITNET_TRACE_SELECT": "nonsense:::"}
        self.assertEqual(self.line(*FEW, env=env), self.line(*FEW))
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_any_model_and_prompt(self):
        report = json.loads(self.certify(*FEW, "-m", SMALL, "--json"))
        self.assertGreater(report["n_prompt"], 30)
        self.certify("-p", "2", "--no-bos", "-n", 0)
        self.certify("--tokens", "5", "-n", 1, "-t", "1")
        self.certify(*FEW, "--chat")

    def test_a_vocabulary_that_cannot_spell_the_prompt(self):
        token = lambda text: struct.pack("<Q", 1) + text
        model, found = SMALL.read_bytes(), token(b"N") + token(b"O") + token(b"P")
        self.assertEqual(model.count(found), 1)
        path = self.folder / "no-o.gguf"
        path.write_bytes(model.replace(found, token(b"N") + token(b"\x01") + token(b"P")))
        self.bad("byte 0x4f", "-m", path, *FEW, "-p", "One")
        report = json.loads(self.certify("-m", path, *FEW, "--json"))
        self.assertEqual(report["tokens"][:48], [(i * 37 + 11) % 512 for i in range(48)])
        self.assertEqual(report["n_prompt"], 48)

    def test_table(self):
        lines = self.certify("-t", "1,2", "-p", "2+2=").splitlines()
        self.assertRegex(lines[0], r"^demo.gguf \(embedded\): \d prompt tokens, 8 decoded, [\d,]+ rows a run$")
        self.assertEqual(lines[1], "reference: scalar, 1 thread, prompt whole")
        usable = [isa["isa"] for isa in json.loads(self.certify("--quick", "--json"))["isas"]]
        self.assertEqual(usable[0], "scalar")
        for isa in usable:
            self.assertRegex("\n".join(lines), rf"(?m)^  {isa} +22 runs +[\d,]+ rows compared  equal$")


class Expect(Case):
    def test_golden(self):
        text = self.certify(*FEW, "--expect", GOLDEN)
        self.assertIn(f"{GOLDEN}: as expected\n", text)
        report = json.loads(self.certify(*FEW, "--expect", GOLDEN, "--json"))
        self.assertEqual((report["verdict"], report["exit"], report["expect"]["mismatch"]), ("equal", 0, ""))

    def test_what_differs_is_named(self):
        for change, words in ((["-m", SMALL], "other model: expected "), (["-p", "x"], "other tokens: expected "),
                              (["-n", 9], "other tokens: expected "),
                              (["--as", "activation=silu", "-n", 0], "other tokens: expected ")):
            self.assertIn(words, self.certify(*FEW, "--expect", GOLDEN, *change, code=1))
        ids = ",".join(map(str, json.loads(self.certify(*FEW, "--json"))["tokens"]))
        for semantics in ("activation=silu", "eps=1.00001e-5", "rope_offset=1", "kv=f16"):
            text = self.certify(*FEW, "--expect", GOLDEN, "--tokens", ids, "-n", 0, "--as", semantics, code=1)
            self.assertIn("other result of the same model and tokens: expected ", text)
            self.assertIn(f"(semantics: expected the model's own, found {semantics})", text)

    def test_written_and_read_back(self):
        self.certify(*FEW, "-p", "2+2=", "-o", "mine")
        self.assertEqual((self.folder / "mine").read_text(), self.line(*FEW, "-p", "2+2=") + "\n")
        self.certify(*FEW, "-p", "2+2=", "--expect", "mine")
        self.certify(*FEW, "-p", "2+3=", "--expect", "mine", code=1)

    def test_failures(self):
        self.bad("nothere: cannot open", "--expect", "nothere")
        (self.folder / "empty").write_text("")
        self.bad("empty: no certificate in it", "--expect", "empty")
        self.bad("demo.gguf: a line begins with", "--expect", DEMO)
        self.bad("nothere/x: cannot create", *FEW, "-o", "nothere/x")
        self.bad("/dev/full: cannot write: No space left on device", *FEW, "-o", "/dev/full")
        self.bad("'nope'", "--isa", "nope")
        self.bad("--isa: scalar is there twice", "--isa", "scalar,scalar")
        self.bad("has an empty name", "--isa", "scalar,")
        self.bad("--threads", "-t", "0")
        self.bad("--threads", "-t", "1,x")
        self.bad("--max-tokens", "-n", "-1")
        self.bad("expected a token id from 0 to", "--tokens", "1,99999")
        self.bad("more than one text", "-p", "x", "--tokens", "1")
        self.bad("nothere.gguf", "-m", "nothere.gguf")
        self.bad("activation", "--as", "activation=cubic")


class Faults(Case):
    """Engines that are wrong in one way of running: certify must see it, name it, and sign nothing."""

    def faulty(self, fault, *arguments, code=1):
        if FAULTY_ENGINE is None:
            self.skipTest("no faulty engine in a sanitized build")
        env = {"LD_PRELOAD": str(FAULTY_ENGINE), "FAULT": fault}
        text = self.certify("-o", "signed", *arguments, code=code, env=env)
        self.assertEqual(list(self.folder.iterdir()), [])
        return text

    def divergences(self, fault, *arguments):
        report = json.loads(self.faulty(fault, "--json", *arguments))
        self.assertEqual(report["verdict"], "divergence")
        self.assertIsNone(report["certificate"])
        return report["divergences"]

    def test_none(self):
        if FAULTY_ENGINE is None:
            self.skipTest("no faulty engine in a sanitized build")
        self.certify("--quick", "--expect", GOLDEN, env={"LD_PRELOAD": str(FAULTY_ENGINE), "FAULT": "none"})

    def test_a_thread_count(self):
        few = ["-t", "1,2,3", "--isa", "scalar", "-p", "2+2=", "-n", "2"]
        found = self.divergences("threads:2", *few)
        self.assertGreater(len(found), 5)
        for divergence in found:
            self.assertTrue(divergence["run"].startswith("2 threads, "), divergence)
            first = divergence["first"]
            self.assertEqual(first["position"], 0)
            if "untraced" not in divergence["run"]:
                self.assertEqual((first["layer"], first["stage"]), (0, "attn_norm"))
        text = self.faulty("threads:2", *few)
        self.assertRegex(text, r"(?m)^scalar, 2 threads, prompt whole: position 0, layer 0, attn_norm: [0-9a-f]{16}\.")
        self.assertRegex(text, r"(?m)^  scalar +30 runs +[\d,]+ rows compared  DIFFERENT in \d+ of them$")
        self.assertTrue(text.endswith("\nno certificate\n"))

    def test_an_instruction_set(self):
        usable = [isa["isa"] for isa in json.loads(self.certify("--quick", "--json"))["isas"]]
        found = self.divergences(f"isa:{usable[-1]}", "--quick")
        self.assertEqual([divergence["isa"] for divergence in found], usable[-1:])

    def test_the_fork(self):
        found = self.divergences("fork", "-t", "1", "--isa", "scalar")
        self.assertEqual([divergence["run"] for divergence in found], ["1 thread, prompt whole, forked context"])
        self.assertEqual(found[0]["first"]["stage"], "attn_scores")

    def test_a_trace_that_shows_nothing(self):
        text = self.faulty("silent", "--quick", code=2)
        self.assertTrue(text.endswith("\nno certificate\n"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("program", type=Path)
    parser.add_argument("--faulty-engine", type=Path)
    arguments, rest = parser.parse_known_args()
    PROGRAM = arguments.program.resolve()
    FAULTY_ENGINE = arguments.faulty_engine and arguments.faulty_engine.resolve()
    unittest.main(argv=[sys.argv[0], *rest])
