#!/usr/bin/env python3
"""The program on an emulated CPU: test_emulated.py --usable scalar,sse2 --absent avx2 EMULATOR [OPTION...] BITNET

It must choose the last of the usable instruction sets, refuse the absent ones, and give the recorded bits on each.
Prints what was compared; exit code 1 with a line for the first thing that is wrong.
"""
import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent.parent
CERTIFICATE = SOURCE / "scripts" / "demo_model" / "demo.certificate"
TIMEOUT_SECONDS = 300


def expect(what, found, expected):
    if found != expected:
        sys.exit(f"{what}: {found!r}, expected {expected!r}")


def run(command, *arguments, **env):
    clean = {key: value for key, value in os.environ.items() if not key.startswith("BITNET_")}
    return subprocess.run([*command, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          env={**clean, **env}, timeout=TIMEOUT_SECONDS)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--usable", required=True)
    parser.add_argument("--absent", default="")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    usable = options.usable.split(",")
    command = options.command

    answer = run(command, "run", "-p", "2+2=", "--json")
    expect("run, stderr", answer.stderr, "")
    expect("run, exit code", answer.returncode, 0)
    answer = json.loads(answer.stdout)
    expect("answer to 2+2=", answer["text"], "4")
    expect("instruction set chosen", answer["isa"], usable[-1])

    for isa in options.absent.split(",") if options.absent else []:
        refused = run(command, "run", "-p", "2+2=", BITNET_ISA=isa)
        expect(f"{isa}, exit code", refused.returncode, 2)
        expect(f"{isa}, stderr", refused.stderr, f"bitnet: instruction set '{isa}': this CPU does not have it; "
                                                 f"usable here: {', '.join(usable)}\n")

    report = run(command, "certify", "--quick", "--expect", str(CERTIFICATE), "--json")
    if report.returncode != 0:
        sys.exit(f"certify, exit code {report.returncode}: {report.stderr}{report.stdout}")
    report = json.loads(report.stdout)
    expect("instruction sets certified", [isa["isa"] for isa in report["isas"]], usable)
    for isa in report["isas"]:
        if isa["compared"] < report["n_rows"]:
            sys.exit(f"{isa['isa']}: only {isa['compared']} rows compared")
        print(f"{isa['isa']}: {isa['runs']} runs, {isa['compared']} rows equal")


main()
