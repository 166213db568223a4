#!/usr/bin/env python3
"""What tracing a llama.cpp costs: tests/shim/llama_driver.c evaluates the same tokens one at a time, in several ways. A
process for each way waits for its turn; in each round every one has a turn, in another order, and is compared with the
plain ones of that round. The median of the rounds counts, and an interval around it says how far it can be trusted; "plain,
once more" shows what this machine makes of no difference at all. Where a process's memory comes to lie matters as well:
all of them are started anew several times.

CPU time is of the process, with the thread that writes the trace. What happens once (loading plugins, reading a graph for
the first time) falls before the first turn, and is not counted.

Exit 0: measured, 2: not (the reason on stderr).
"""
import argparse
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path


def ways_of(build, scratch):
    ask = build / "tests/shim/mock/bitnet_shim_ask_services.so"
    preloaded = {"LD_PRELOAD": str(build / "lib/bitnet/libbitnet_shim.so"), "BITNET_SHIM_HASH_MODEL": "0"}

    def traced(plugin, selection):
        return {**preloaded, "BITNET_TRACE_PLUGIN": str(plugin), "BITNET_TRACE_SELECT": selection}

    jsonl = f"jsonl:path={scratch}/trace.jsonl"
    return {
        "plain": {},
        "plain, once more": {},
        "preloaded, no plugin": preloaded,
        "nothing selected, null": traced("null", "999:layer_out"),
        "nothing selected, jsonl": traced(jsonl, "999:layer_out"),
        "layer_out at no position, jsonl": traced(jsonl, "9999:*:layer_out"),
        "layer_out and logits, asking for nothing": traced(ask, "layer_out,logits"),
        "layer_out and logits, hash and statistics": traced(f"{ask}:hash+stats", "layer_out,logits"),
        "layer_out and logits, jsonl": traced(jsonl, "layer_out,logits"),
        "every stage, asking for nothing": traced(ask, "**"),
        "every stage, hash and statistics": traced(f"{ask}:hash+stats", "**"),
        "every stage, jsonl": traced(jsonl, "**"),
    }


def interval_of_median(values):
    """Two of the values, between which the median of what they are a sample of lies in 95 of 100 cases."""
    n, outside, first = len(values), 0.0, 0
    while first < n // 2 and outside + math.comb(n, first) / 2**n <= 0.025:
        outside += math.comb(n, first) / 2**n
        first += 1
    ordered = sorted(values)
    return ordered[max(0, first - 1)], ordered[min(n - 1, n - first)]


class Runner:
    """A process that evaluates when it is told to."""

    def __init__(self, command, environment):
        self.process = subprocess.Popen(command, env={**os.environ, **environment}, text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def turn(self):
        """Seconds of CPU time, and of the clock."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.process.stderr.readline()
        words = line.split()
        if len(words) != 2:
            raise RuntimeError(line.strip() or f"the program ended with status {self.process.wait()}")
        return tuple(float(word) for word in words)

    def end(self):
        self.process.stdin.close()
        self.process.stderr.close()
        if self.process.wait() != 0:
            raise RuntimeError(f"the program ended with status {self.process.returncode}")


def measure(command, ways, n_starts, n_rounds):
    """For each round, by way, what its turn took."""
    rounds = []
    for start in range(n_starts):
        runners = {name: Runner(command, environment) for name, environment in ways.items()}
        try:
            for runner in runners.values():  # a turn that does not count: all have begun then
                runner.turn()
            for i in range(n_rounds):
                order = random.Random(start * n_rounds + i).sample(sorted(runners), len(runners))
                rounds.append({name: runners[name].turn() for name in order})
        except (OSError, RuntimeError):
            for runner in runners.values():
                runner.process.kill()
            raise
        for runner in runners.values():
            runner.end()
    return rounds


def reference(times, name, which):
    """What a way is compared with: both plain runs of its round, or the other one."""
    return statistics.mean(times[other][which] for other in ("plain", "plain, once more") if other != name)


def report(rounds, ways, n_tokens):
    print(f"{'':44}{'ms a token':>10} {'CPU time more':>14}  {'95 % of such medians':>20} {'clock':>8}")
    for name in ways:
        took = f"{name:44}{1e3 / n_tokens * statistics.median(r[name][0] for r in rounds):10.3f}"
        if name == "plain":
            print(took)
            continue
        cpu, clock = ([100 * (r[name][which] / reference(r, name, which) - 1) for r in rounds] for which in (0, 1))
        low, high = interval_of_median(cpu)
        print(f"{took} {statistics.median(cpu):+12.2f} %  {f'{low:+.2f} to {high:+.2f} %':>20} {statistics.median(clock):+6.2f} %")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path, help="with the targets bitnet_shim, bitnet_plugin_jsonl, bitnet_plugin_null, "
                                                 "bitnet_shim_llama, bitnet_shim_ask_services")
    parser.add_argument("llama", type=Path, help="folder of the prebuilt llama.cpp's libraries")
    parser.add_argument("model", type=Path)
    parser.add_argument("-s", "--starts", type=int, default=5, help="how often processes are started (default: %(default)s)")
    parser.add_argument("-r", "--rounds", type=int, default=12, help="for each start (default: %(default)s)")
    parser.add_argument("-n", "--tokens", type=int, default=48, help="of a turn (default: %(default)s)")
    parser.add_argument("-w", "--way", action="append", default=[], help="only ways whose name has this in it")
    parser.add_argument("--flash", type=int, default=0, help="1: attention in one operation")
    options = parser.parse_args()
    driver = options.build / "tests/shim/mock/bitnet_shim_llama"
    command = [driver, f"flash={options.flash}", "turns=1", "prompt=1", f"decode={options.tokens - 1}", options.llama, options.model]
    with tempfile.TemporaryDirectory() as scratch:
        ways = {name: environment for name, environment in ways_of(options.build, scratch).items()
                if name.startswith("plain") or not options.way or any(part in name for part in options.way)}
        try:
            rounds = measure(command, ways, options.starts, options.rounds)
        except (OSError, RuntimeError) as failure:
            print(f"shim_overhead.py: {failure}", file=sys.stderr)
            return 2
    report(rounds, ways, options.tokens)
    return 0


sys.exit(main())
