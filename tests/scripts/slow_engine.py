#!/usr/bin/env python3
"""An engine of bitnet-logits/1 for sweeps: slow_engine.py LOG ROWS N_VOCAB. Notes each evaluation in LOG. A first id that
SLOW_ENGINE_FAILS names makes it fail, the evaluation of the number SLOW_ENGINE_HANGS_AT makes it hang."""
import os
import sys
import time

log, rows, n_vocab = sys.argv[1], open(sys.argv[2], "rb").read(), int(sys.argv[3])
out = sys.stdout.buffer
out.write(b"bitnet-logits 1 slow engine\n")
out.flush()
for line in sys.stdin:
    words = line.split()
    if words[0] != "eval":
        out.write(b"unsupported\n")
    else:
        with open(log, "a") as file:
            file.write(line)
        if os.environ.get("SLOW_ENGINE_HANGS_AT") == str(len(open(log).readlines())):
            time.sleep(1000)
        if words[1] in os.environ.get("SLOW_ENGINE_FAILS", "").split():
            sys.exit(3)
        n = len(words) - 1
        out.write(f"logits {n} {n_vocab}\n".encode() + rows[:n * n_vocab * 4])
    out.flush()
