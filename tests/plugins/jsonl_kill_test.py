#!/usr/bin/env python3
"""Traces of a process that is killed: python3 jsonl_kill_test.py PATH_OF_BITNET [unittest options]

Whatever has reached the file is whole records, up to a last one that may be cut; `bitnet diff` says that it was cut.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

PROGRAM = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else None
KILLS = 25  # of each kind of file
DEADLINE_SECONDS = 60


def refuse(constant):
    raise ValueError(f"{constant} is not JSON")


class Kill(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="bitnet-kill-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.random = random.Random(7)

    def killed(self, name, n_bytes):
        """A trace whose process was killed when its file had so many bytes."""
        path = self.folder / name
        path.unlink(missing_ok=True)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("BITNET_")}
        command = [PROGRAM, "trace", "-p", "hello", "-n", "400", "--select", "**,*.*", "-t", "1",
                   "--plugin", f"jsonl:path={path}"]
        said = self.folder / "stderr"
        with open(said, "wb") as errors, subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors,
                                                          env=environment, cwd=self.folder) as process:
            deadline = time.monotonic() + DEADLINE_SECONDS
            while not (path.exists() and path.stat().st_size > n_bytes):
                self.assertIsNone(process.poll(), f"it ended before it was killed: {said.read_text()}")
                self.assertLess(time.monotonic(), deadline)
            process.send_signal(signal.SIGKILL)
        self.assertEqual(process.returncode, -signal.SIGKILL)
        return path

    def diff(self, path):
        """The problems of a trace that is compared with itself."""
        result = subprocess.run([PROGRAM, "diff", path, path, "--format", "json"], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, timeout=DEADLINE_SECONDS)
        self.assertEqual(result.returncode, 2, result.stderr)
        return json.loads(result.stdout), result.stderr.decode()

    def test_lines(self):
        n_records = 0
        for _ in range(KILLS):
            path = self.killed("a.jsonl", self.random.randrange(2_000_000))
            whole, _, rest = path.read_bytes().rpartition(b"\n")
            records = [json.loads(line, parse_constant=refuse) for line in whole.decode().split("\n")]
            self.assertEqual(records[0]["record"], "run")
            self.assertNotIn("run_end", {record["record"] for record in records})
            events = [record["event"] for record in records[1:]]
            self.assertEqual(events, sorted(events))
            n_records += len(records)
            _, problems = self.diff(path)
            self.assertIn("cut short: run 0 has no run_end", problems)
            self.assertEqual("the last line is cut" in problems, bool(rest))
        self.assertGreater(n_records, KILLS * 20)

    def test_compressed_lines(self):
        n_records = 0
        for _ in range(KILLS):
            path = self.killed("a.jsonl.zst", self.random.randrange(250_000))
            report, problems = self.diff(path)
            self.assertIn("cut short: its zstd stream has no end", problems)
            self.assertNotIn("damaged", problems)
            n_records += report["a"]["records"]
        self.assertGreater(n_records, KILLS * 20)


if __name__ == "__main__":
    if PROGRAM is None or not os.access(PROGRAM, os.X_OK):
        sys.exit("usage: jsonl_kill_test.py PATH_OF_BITNET [unittest options]")
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]])
