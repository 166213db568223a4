#!/usr/bin/env python3
"""Every damaged file through damage_runner: refused with a message that says why, or used without a crash.

Usage: damage_test.py DAMAGE_RUNNER ORACLE_FOLDER     exit 0: all as expected, 1: not
"""

import subprocess
import sys
import tempfile
from pathlib import Path

FILES_MIN = 200
FILES_PER_PROCESS = 50
FLAG_COPY, FLAG_UNCHECKED_CODES = 1, 2
RUN_SECONDS_MAX = 600
STATUSES = {"BITNET_E_FORMAT", "BITNET_E_UNSUPPORTED"}  # of a file that is refused


def run(runner, paths):
    """-> ({file name: {flags: (step, status, message)}}, problems)"""
    done = subprocess.run(
        [runner, *paths], capture_output=True, text=True, errors="replace", timeout=RUN_SECONDS_MAX, check=False
    )
    results = {}
    for line in done.stdout.splitlines():
        name, flags, step, status, message = line.split("\t", 4)
        results.setdefault(name, {})[int(flags)] = step, status, message
    if done.returncode == 0 and len(results) == len(paths) and all(len(r) == 3 for r in results.values()):
        return results, []
    last = done.stdout.splitlines()[-1:] or ["nothing"]
    return results, [f"the runner ended with {done.returncode} after: {last[0]}\n{done.stderr[-4000:]}"]


def judge(damage, answers):
    """Problems of one file."""
    problems = []
    for flags, (step, status, message) in answers.items():
        found = f"{damage.name} (flags {flags}): {step} gave {status} {message!r}"
        unseen = flags == FLAG_UNCHECKED_CODES and damage.name.startswith("contents/code_3")
        if damage.expected is None or unseen:
            if status not in {"BITNET_OK", *STATUSES}:
                problems.append(f"{found}, expected success or one of {sorted(STATUSES)}")
        elif step != "load" or status not in STATUSES:
            problems.append(f"{found}, expected to be refused with one of {sorted(STATUSES)}")
        missing = [word for word in damage.expected or () if word.lower() not in message.lower()]
        if missing and not unseen:
            problems.append(f"{found}, expected to mention {missing}")
        if status != "BITNET_OK" and (not message or not message.isprintable()):
            problems.append(f"{found}, expected one printable line")
    if len({answers[flags] for flags in (0, FLAG_COPY) if flags in answers}) > 1:
        problems.append(f"{damage.name}: mapped {answers[0]}, copied {answers[FLAG_COPY]}: expected the same")
    return problems


def main(runner, oracle_folder):
    sys.path.insert(0, oracle_folder)
    from damage import damaged_files
    from make_gguf import Spec, model_document

    valid = model_document(Spec(seed=5)).to_bytes()
    problems, loaded, refused, n = [], 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        batch = []

        def finish():
            nonlocal loaded, refused
            results, failed = run(runner, [str(path) for _, path in batch])
            problems.extend(failed)
            for damage, path in batch:
                answers = results.get(path.name, {})
                problems.extend(judge(damage, answers))
                loaded += answers.get(0, ("",) * 3)[1] == "BITNET_OK"
                refused += answers.get(0, ("",) * 3)[0] == "load"
                path.unlink()
            batch.clear()

        whole = Path(folder, "valid.gguf")
        whole.write_bytes(valid)
        results, failed = run(runner, [str(whole)])
        problems += failed
        if any(answer[1] != "BITNET_OK" for answer in results.get("valid.gguf", {0: ("", "nothing", "")}).values()):
            problems.append(f"the undamaged file: {results}")
        for damage in damaged_files(valid):
            path = Path(folder, f"{n:03d}.gguf")
            path.write_bytes(damage.data)
            batch.append((damage, path))
            n += 1
            if len(batch) == FILES_PER_PROCESS:
                finish()
        if batch:
            finish()
    for problem in problems:
        print(problem)
    if n < FILES_MIN:
        problems.append("too few files")
    print(f"{n} damaged files: {refused} refused, {loaded} loaded and evaluated, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
