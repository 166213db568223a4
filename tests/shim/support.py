"""Runs programs with and without the interposer, and reads what it traced."""

import json
import os
import subprocess
import tempfile
import unittest
from pathlib import Path

MOCK = Path(os.environ["BITNET_TEST_MOCK"])
LIBRARIES = Path(os.environ["BITNET_TEST_LIBRARIES"])
PROGRAM = os.environ["BITNET_TEST_PROGRAM"]
RUNTIME = os.environ.get("BITNET_TEST_RUNTIME", "")
SUPPRESSIONS = Path(__file__).resolve().parent / "tsan.supp"
EMULATOR = os.environ.get("BITNET_TEST_EMULATOR", "").split()  # of another CPU: what it preloads itself is of this one
SHIM = LIBRARIES / "bitnet" / "libbitnet_shim.so"
AUDIT = LIBRARIES / "bitnet" / "libbitnet_audit.so"
TIMEOUT_SECONDS = 120

ALL_STAGES = {
    "embeddings", "attn_norm", "q_proj", "k_proj", "v_proj", "q_rope", "k_rope", "attn_scores", "attn_scores_softmax",
    "attn_context", "attn_sub_norm", "attn_out", "attn_residual", "ffn_norm", "ffn_gate", "ffn_up", "ffn_act",
    "ffn_sub_norm", "ffn_out", "layer_out", "final_norm", "logits"}


def clean_environment(extra):
    """Of a program that is not traced; leaks of what a killed program held are nobody's business."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("BITNET_", "LD_", "LLAMA_"))}
    return {**kept, "ASAN_OPTIONS": "detect_leaks=0", "TSAN_OPTIONS": f"exitcode=66 suppressions={SUPPRESSIONS}", **extra}


def preload(*libraries):
    return {"LD_PRELOAD": ":".join(str(library) for library in ([RUNTIME] if RUNTIME else []) + list(libraries))}


class Run:
    def __init__(self, command, environment, **options):
        command = [str(part) for part in command]
        if EMULATOR:
            # Meant for the program's loader, not for the emulator's own.
            of_loader = {k: v for k, v in environment.items() if k.startswith("LD_")}
            command = [*EMULATOR, *[part for item in of_loader.items() for part in ("-E", "=".join(item))], *command]
            environment = {k: v for k, v in environment.items() if k not in of_loader}
        done = subprocess.run(command, env=clean_environment(environment), capture_output=True, text=True,
                              timeout=TIMEOUT_SECONDS, **options)
        self.status, self.out, self.err = done.returncode, done.stdout, done.stderr


def read_trace(path, cut=False):
    """`cut`: the writer may have been killed in the middle of its last line."""
    lines = Path(path).read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n") or not cut]


def tensors(records):
    """(run, position, layer, stage) to hash; a second record of the same is an error."""
    found = {}
    for r in records:
        if r["record"] != "tensor":
            continue
        key = (r["run"], r["seq"], r["layer"], r["stage"])
        assert key not in found, f"twice: {key}"
        found[key] = r["blake3"]
    return found


def kinds(records, kind):
    return [r for r in records if r["record"] == kind]


class ShimTest(unittest.TestCase):
    WHERE = None  # its files are: the usual place

    def setUp(self):
        folder = tempfile.TemporaryDirectory(dir=self.WHERE)
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def plain(self, *command, **environment):
        return Run(command, {**(preload() if RUNTIME else {}), **environment})

    def shimmed(self, *command, **environment):
        return Run(command, {**preload(SHIM), **environment})

    def traced(self, *command, name="trace.jsonl", cut=False, **environment):
        """What the program did, and the records of its trace: none when it left no file."""
        path = self.folder / name
        path.unlink(missing_ok=True)
        run = self.shimmed(*command, BITNET_TRACE_PLUGIN=f"jsonl:path={path}", **environment)
        return run, read_trace(path, cut) if path.exists() else []

    def assert_same(self, expected, found):
        self.assertEqual((expected.status, expected.out), (found.status, found.out), found.err)
