#!/usr/bin/env python3
"""scripts/check_tokenizer_parity.sh: python3 test_tokenizer_parity.py BITNET [unittest options]"""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]
SCRIPT = SOURCE / "scripts" / "check_tokenizer_parity.sh"
SMALL = SOURCE / "tests" / "data" / "small.gguf"
BITNET = None


class Parity(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="bitnet-parity-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def check(self, code, *arguments, command, stdin=""):
        result = subprocess.run(["sh", SCRIPT, "-m", SMALL, *arguments, "--", *command], input=stdin, capture_output=True,
                                text=True, cwd=self.folder, env={**os.environ, "BITNET": str(BITNET)}, timeout=60)
        self.assertEqual(result.returncode, code, result.stdout + result.stderr)
        return result.stdout if code != 2 else result.stderr

    def ours(self, *options):
        return [str(BITNET), "tokenize", "-m", str(SMALL), *options, "-"]

    def test_equal(self):
        self.assertIn("1 texts: 1 equal", self.check(0, "-p", "some text", command=self.ours()))
        self.check(0, "-p", "", command=self.ours())
        self.check(0, "-p", "x", "--no-bos", command=self.ours("--no-bos"))
        self.check(0, "-p", "<|eot_id|>", "--parse-special", command=self.ours("--parse-special"))
        pretty = f"{BITNET} tokenize -m {SMALL} --json - | jq .tokens"  # ids between brackets, commas and line ends
        self.check(0, "-p", "some text", command=["sh", "-c", pretty])

    def test_different(self):
        out = self.check(1, "-p", "some text", command=self.ours("--no-bos"))
        self.assertIn("text 0: position 0: ours 509, theirs", out)
        out = self.check(1, "-p", "ab", command=["sh", "-c", f"{' '.join(self.ours())}; echo 7"])
        self.assertIn("ours none, theirs 7", out)
        self.check(1, "-p", "ab", command=["true"])

    def test_batteries(self):
        texts = ["one", "  two  ", "caf\u00e9 \u2603", "\\n \"quoted\" 'and'"]
        (self.folder / "lines").write_text("\n".join(texts) + "\n\n")
        self.assertIn("4 texts: 4 equal", self.check(0, "--battery", "lines", command=self.ours()))
        self.assertIn("4 texts: 4 equal", self.check(0, "--battery", "-", command=self.ours(), stdin="\n".join(texts)))
        for key in ("text", "prompt"):
            lines = "".join(json.dumps({key: text}) + "\n" for text in [*texts, "two\nlines"])
            self.assertIn("5 texts: 5 equal", self.check(0, "--battery", "-", command=self.ours(), stdin=lines))
        wrong = f"read -r line; case $line in one) echo 1;; *) printf %s \"$line\" | {' '.join(self.ours())};; esac"
        out = self.check(1, "--battery", "-", command=["sh", "-c", wrong], stdin="one\ntwo\n")
        self.assertIn("2 texts: 1 equal, 1 different, 0 failed", out)

    def test_errors(self):
        self.assertIn("the command failed", self.check(2, "-p", "x", command=["false"]))
        self.assertIn("something that is no id", self.check(2, "-p", "x", command=["echo", "1 a"]))
        self.assertIn("something that is no id", self.check(2, "-p", "x", command=["echo", "-5"]))
        self.assertIn("no text in it", self.check(2, "--battery", "-", command=["cat"]))
        self.assertIn("No such file", self.check(2, "--battery", "absent", command=["cat"]))
        self.assertIn("Expecting property", self.check(2, "--battery", "-", command=["cat"], stdin="{x\n"))
        self.assertIn("one of them", self.check(2, "--battery", "a", "-p", "x", command=["cat"]))
        self.assertIn("no text: give", self.check(2, command=["cat"]))
        self.assertIn("found '--what'", self.check(2, "--what", command=["cat"]))
        self.assertIn("cannot", self.check(2, "-m", "absent.gguf", "-p", "x", command=["cat"]))


if __name__ == "__main__":
    BITNET = Path(sys.argv[1]).resolve()
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]])
