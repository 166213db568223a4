#!/usr/bin/env python3
"""What tracing a llama.cpp costs, in CPU time: tests/shim/llama_driver.c decodes the same tokens in several ways, one way
after the other, many times. Of each token the least time counts that any repetition took for it, so that what else a
machine does falls out; the file system's own threads do not count, the plugin's writer does.

Usage: shim_overhead.py BUILD LLAMA_FOLDER MODEL.gguf [REPETITIONS [TOKENS]]     default: 15 repetitions of 48 tokens
Exit 0: measured, 2: not (the reason on stderr).
"""
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def main():
    if not 4 <= len(sys.argv) <= 6:
        sys.exit(__doc__)
    build, folder, model = (Path(argument) for argument in sys.argv[1:4])
    repetitions, n_tokens = int((sys.argv + ["15"])[4] if len(sys.argv) > 4 else 15), int(sys.argv[5] if len(sys.argv) > 5 else 48)
    mock = build / "tests/shim/mock"
    shim = {"LD_PRELOAD": str(build / "lib/bitnet/libbitnet_shim.so"), "BITNET_SHIM_HASH_MODEL": "0"}
    ask = f"{mock}/bitnet_shim_ask_services.so"
    with tempfile.TemporaryDirectory() as scratch:
        jsonl = {**shim, "BITNET_TRACE_PLUGIN": f"jsonl:path={scratch}/trace.jsonl"}
        ways = {
            "plain": {},
            "plain, once more": {},
            "preloaded, no plugin": {"LD_PRELOAD": shim["LD_PRELOAD"]},
            "plugin, nothing selected": {**jsonl, "BITNET_TRACE_SELECT": "999:layer_out"},
            "layer_out and logits, asking for nothing": {**shim, "BITNET_TRACE_PLUGIN": ask, "BITNET_TRACE_SELECT": "layer_out,logits"},
            "layer_out and logits, jsonl": {**jsonl, "BITNET_TRACE_SELECT": "layer_out,logits"},
            "every stage, asking for nothing": {**shim, "BITNET_TRACE_PLUGIN": ask, "BITNET_TRACE_SELECT": "**"},
            "every stage, hash and statistics": {**shim, "BITNET_TRACE_PLUGIN": f"{ask}:hash+stats", "BITNET_TRACE_SELECT": "**"},
            "every stage, jsonl": {**jsonl, "BITNET_TRACE_SELECT": "**"},
        }
        least = {way: [] for way in ways}
        for _ in range(repetitions):
            for way, environment in ways.items():
                done = subprocess.run([mock / "bitnet_shim_llama", "flash=0", "prompt=16", f"decode={n_tokens + 1}", "time=2", folder, model],
                                      env={**os.environ, **environment}, capture_output=True, text=True)
                times = [float(line) for line in done.stderr.split()] if done.returncode == 0 else []
                if len(times) != n_tokens:
                    print(f"shim_overhead.py: {way}: {done.stderr.strip() or done.returncode}", file=sys.stderr)
                    return 2
                least[way] = [min(pair) for pair in zip(times, least[way] or times)]
        plain = sum(least["plain"])
        for way, times in least.items():
            print(f"{way:42} {1e3 * sum(times) / n_tokens:8.3f} ms a token {100 * (sum(times) / plain - 1):+7.2f} %")
    return 0


sys.exit(main())
