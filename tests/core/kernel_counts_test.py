#!/usr/bin/env python3
"""Instructions that the hot kernels execute, counted by callgrind: time varies with the machine, this does not. A bound is
what was measured with GCC 12.2 plus 10 %: a spill in an inner loop, or a loop that is no longer vectorised, is beyond it.
callgrind knows no AVX-512.

Usage: kernel_counts_test.py VALGRIND DRIVER      exit 0: all within their bounds, 1: not
"""
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# Instructions per 1000 weights (ternary_rows), products (the other ternary, dot and mix) or elements.
BOUNDS = {
    ("avx2", "ternary_rows"): 187,
    ("avx2", "ternary_batch"): 81,
    ("avx2", "dot_rows_f16"): 663,
    ("avx2", "dot_rows_f32"): 556,
    ("avx2", "mix_rows_f32"): 468,
    ("avx2", "softmax"): 6577,
    ("avx2", "quantize"): 1663,
    ("sse2", "ternary_rows"): 641,
    ("sse2", "ternary_batch"): 162,
    ("sse2", "dot_rows_f16"): 4418,
    ("sse2", "dot_rows_f32"): 1324,
    ("sse2", "mix_rows_f32"): 1290,
    ("sse2", "softmax"): 18023,
    ("sse2", "quantize"): 2627,
}


def measure(valgrind, driver, isa, kernel):
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([valgrind, "--tool=callgrind", f"--callgrind-out-file={Path(folder) / 'out'}",
                               "--collect-atstart=no", f"--toggle-collect=bitnet::{isa}::{kernel}(*", driver, isa, kernel],
                              capture_output=True, text=True)
    collected = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or not collected or int(collected.group(1)) == 0:
        sys.exit(f"{isa} {kernel}: nothing was counted (exit {done.returncode}): {done.stderr}")
    return 1000 * int(collected.group(1)) / int(done.stdout)


def main():
    valgrind, driver = sys.argv[1:]
    beyond = 0
    for (isa, kernel), bound in BOUNDS.items():
        count = measure(valgrind, driver, isa, kernel)
        verdict = "" if count <= bound else "  BEYOND"
        beyond += count > bound
        print(f"{isa:5} {kernel:14} {count:8.1f} instructions per 1000, bound {bound}{verdict}", flush=True)
    print(f"{len(BOUNDS)} kernels, {beyond} beyond their bound")
    return 1 if beyond else 0


sys.exit(main())
