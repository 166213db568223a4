#!/usr/bin/env python3
"""The tests' numpy oracle as an engine for `bitnet crossval`: an independent forward pass in float32 or float64.

    bitnet crossval -p "Hello" --against 'cmd:build/deps/venv/bin/python scripts/adapters/oracle.py [SEMANTICS [float64]]'

Needs numpy and gguf (scripts/setup.sh tests). SEMANTICS as `--as`: "activation=silu". It takes ids alone.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "oracle"))
from bitnet_logits import main, model_path  # noqa: E402


class OracleEngine:
    def __init__(self, semantics="", dtype="float32"):
        import numpy
        from bitnet_oracle import Oracle

        self.name = f"numpy oracle, {dtype}"
        self.numpy, self.dtype = numpy, numpy.dtype(dtype)
        self.oracle = Oracle(model_path(), semantics)

    def eval(self, ids):
        rows = self.oracle.run(ids, dtype=self.dtype)[-1, "logits"]
        return self.numpy.ascontiguousarray(rows, dtype="<f4")


if __name__ == "__main__":
    sys.exit(main(lambda: OracleEngine(*sys.argv[1:])))
