#!/usr/bin/env python3
"""An engine of bitnet-logits/1 whose rows are in a file, and its ways to be wrong: fake_engine.py ROWS N_VOCAB MODE"""
import base64
import os
import sys
import time

rows, n_vocab, mode = open(sys.argv[1], "rb").read(), int(sys.argv[2]), sys.argv[3]
out = sys.stdout.buffer


def say(line):
    out.write(line.encode() + b"\n")
    out.flush()


greeting = {"version": "bitnet-logits 2 x", "garbage": "hello", "refuse": "error there is no model"}
if mode == "silent":
    time.sleep(1000)
say(greeting.get(mode, "bitnet-logits 1 fake engine 1.0"))
assert os.path.exists(os.environ["BITNET_CROSSVAL_MODEL"])
for line in sys.stdin:
    words = line.split()
    if words[0] == "tokenize":
        text = base64.b64decode(words[3]).decode() if len(words) > 3 else ""
        # The texts of the tests are lists of ids, for this engine.
        say("ids " + text[4:] if mode == "tokens" else "ids 1 x" if mode == "bad ids" else "unsupported")
    elif mode == "die":
        say(f"logits {len(words) - 1} {n_vocab}")
        out.write(rows[:5])
        out.flush()
        os._exit(3)
    elif mode == "kill":
        os.kill(os.getpid(), 9)
    elif mode == "error":
        say("error cannot do this")
    elif mode == "other":
        say("ids 1 2 3")
    elif mode == "shape":
        say(f"logits {len(words)} {n_vocab}")
    else:
        n = len(words) - 1
        say(f"logits {n} {n_vocab}")
        out.write(rows[:n * n_vocab * 4])
        out.flush()
