#!/usr/bin/env python3
"""What numpy, the numpy oracle and llama.cpp say: python test_metrics.py BITNET LIBBITNET [unittest options]

The metrics of the ABI's section 12 against numpy in long double; `bitnet crossval` against two engines that share nothing
with this one. The structs are written here once more, on purpose.
"""

import ctypes
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np

SOURCE = Path(__file__).resolve().parents[3]
ADAPTERS = SOURCE / "scripts" / "adapters"
PEER = SOURCE / "build" / "deps" / "peer" / "node_modules" / "@node-llama-cpp" / "linux-x64"
TIMEOUT_SECONDS = 300
ROW = np.dtype([("struct_size", "<u4"), ("measured", "<u4"), ("failed", "<u4"), ("warned", "<u4"), ("n", "<u8"),
                ("n_masked", "<u8"), ("n_nonfinite", "<u8"), ("n_not_close", "<u8"), ("worst_index", "<u8"),
                ("worst_a", "<f4"), ("worst_b", "<f4"), ("cosine", "<f8"), ("l2", "<f8"), ("max_abs", "<f8"),
                ("mse", "<f8"), ("nmse", "<f8"), ("kl", "<f8"), ("top_k", "<f8"), ("top1_lead", "<f8"),
                ("rms_difference", "<f8"), ("top1_a", "<i4"), ("top1_b", "<i4")])
BITNET = LIBRARY = None


def long_softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def expected(a, b, k=5):
    x, y = a.astype(np.longdouble), b.astype(np.longdouble)
    d = x - y
    p, q = long_softmax(x), long_softmax(y)
    log_ratio = (x - x.max() - np.log(np.exp(x - x.max()).sum())) - (y - y.max() - np.log(np.exp(y - y.max()).sum()))
    top = [set(np.argsort(-row, kind="stable")[:k]) for row in (a, b)]
    return {"cosine": (x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()), "l2": np.sqrt((d * d).sum()),
            "max_abs": np.abs(d).max(), "mse": (d * d).mean(), "nmse": (d * d).sum() / (x * x).sum(),
            "kl": (p * log_ratio).sum(), "top_k": len(top[0] & top[1]) / k, "rms_difference": np.sqrt((d * d).mean()),
            "top1_lead": x.max() - x[b.argmax()]}


class Metrics(unittest.TestCase):
    def setUp(self):
        self.library = ctypes.CDLL(str(LIBRARY))
        self.library.bitnet_last_error.restype = ctypes.c_char_p

    def measure(self, a, b):
        rows = np.zeros(a.shape[0], ROW)
        rows["struct_size"] = ROW.itemsize
        pointer = ctypes.POINTER(ctypes.c_float)
        status = self.library.bitnet_compare_logits(
            a.ctypes.data_as(pointer), b.ctypes.data_as(pointer), ctypes.c_size_t(a.shape[0]), ctypes.c_size_t(a.shape[1]),
            None, rows.ctypes.data_as(ctypes.c_void_p), None)
        self.assertEqual(status, 0, self.library.bitnet_last_error())
        return rows

    def test_random_rows(self):
        random = np.random.default_rng(20240611)
        for n_vocab, spread, noise in ((7, 1, 0.1), (512, 8, 0.5), (128256, 3, 1e-3), (32000, 30, 20), (1000, 200, 1)):
            a = (random.standard_normal((3, n_vocab)) * spread).astype("<f4")
            b = (a + random.standard_normal((3, n_vocab)) * noise).astype("<f4")
            for row, x, y in zip(self.measure(a, b), a, b):
                for name, value in expected(x, y).items():
                    self.assertLessEqual(abs(row[name] - float(value)), 1e-11 * abs(float(value)) + 1e-13, (name, n_vocab))
                self.assertEqual((row["top1_a"], row["top1_b"]), (x.argmax(), y.argmax()))
                self.assertEqual(row["worst_index"], np.abs(x.astype("f8") - y).argmax())
                self.assertEqual((row["worst_a"], row["worst_b"]), (x[row["worst_index"]], y[row["worst_index"]]))


class Engines(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="bitnet-engines-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def crossval(self, code, *arguments):
        clean = {key: value for key, value in os.environ.items() if not key.startswith("BITNET_")}
        result = subprocess.run([BITNET, "crossval", "--format", "json", *map(str, arguments)], capture_output=True, text=True,
                                cwd=self.folder, env=clean, timeout=TIMEOUT_SECONDS)
        self.assertEqual(result.returncode, code, result.stderr)
        return json.loads(result.stdout)

    def test_the_numpy_oracle(self):
        oracle = f"cmd:{sys.executable} {ADAPTERS / 'oracle.py'}"
        report = self.crossval(0, "-p", "What is 2+2?", "--against", oracle)
        self.assertGreater(report["compared"], 5)
        report = self.crossval(1, "-p", "What is 2+2?", "--against", f"{oracle} activation=silu")
        self.assertIsNotNone(report["first_divergence_token"])
        self.crossval(0, "-p", "What is 2+2?", "--as", "activation=silu", "--against", f"{oracle} activation=silu")

    @unittest.skipUnless(PEER.is_dir(), "the prebuilt llama.cpp is not here: scripts/adapters/llama.sh fetches it")
    def test_llama(self):
        for kind in ("i2_s", "tq2_0"):
            subprocess.run([BITNET, "make-model", "--preset", "tiny", "--ff", "512", "--type", kind, "-o", f"{kind}.gguf"],
                           cwd=self.folder, check=True, capture_output=True)
        arguments = ("-m", "i2_s.gguf", "--tokens", "1,2,3,4,5,6,7", "--against", f"cmd:{ADAPTERS / 'llama.sh'}",
                     "--against-model", "tq2_0.gguf")
        # Its activations are scaled by blocks of 256 and its cache is f16: close, but outside the class of one arithmetic.
        report = self.crossval(0, *arguments, "--as", "activation=silu", "--nmse", "0.1")
        self.assertTrue(all(0.97 <= c < 0.999999 for c in report["per_token_cosine_sim"]), report["per_token_cosine_sim"])


if __name__ == "__main__":
    BITNET, LIBRARY = (Path(path).resolve() for path in sys.argv[1:3])
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
