#!/usr/bin/env python3
"""The cells of a sweep: models x prompts x token counts, each one run of `bitnet crossval`. Standard library alone.

    sweep.py init OUT --bitnet B --model M... --prompts FILE --tokens N,N --against SPEC [-- CROSSVAL OPTIONS]
    sweep.py pending OUT       names of the cells that have no valid result, one a line; removes results that are not valid
    sweep.py cell OUT NAME     runs a cell and writes its result, whole or not at all; exit 0 when there is a result
    sweep.py summary OUT       writes OUT/summary.json and OUT/summary.md
    sweep.py verdict OUT       exit 0: every cell matches, 1: some diverge, 2: some failed or are missing

scripts/crossval_sweep.sh and scripts/sweep/Snakefile run these, on one machine and on many. A summary depends on results alone,
not on when, where and in which order they came.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

MATCH, DIVERGENCE, ERROR = 0, 1, 2
VERDICTS = ("match", "divergence", "error")
PLACES = ("{model}", "{prompt}", "{tokens}")  # in --against: the model's name, the prompt's and the tokens' number
# Nothing of the caller's environment may steer a cell.
DETERMINISTIC = {"BITNET_DETERMINISTIC": "1", "BITNET_SEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
                 "LC_ALL": "C"}


class SweepError(Exception):
    pass


def write_atomically(path, text):
    """The file appears whole or not at all, whenever the process is killed."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def as_json(value):
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def read_prompts(path):
    """One a line: text, or JSON objects when the first line begins with '{'."""
    try:
        data = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SweepError(f"{path}: {error}") from None
    lines = [line for line in data.split("\n") if line.strip("\r")]
    if not lines:
        raise SweepError(f"{path}: no prompt in it: one a line is expected")
    if not data.startswith("{"):
        return [{"prompt": line.rstrip("\r"), "id": str(i)} for i, line in enumerate(lines)]
    prompts = []
    for i, line in enumerate(lines):
        try:
            prompt = json.loads(line)
        except ValueError as error:
            raise SweepError(f"{path}: prompt {i}: {error}") from None
        if not isinstance(prompt, dict) or ("prompt" in prompt) == ("tokens" in prompt):
            raise SweepError(f"{path}: prompt {i}: expected an object with \"prompt\" or \"tokens\"")
        prompts.append({**prompt, "id": str(prompt.get("id", i))})
    return prompts


# --- the plan --------------------------------------------------------------------------------------------------------

def init(arguments):
    parser = argparse.ArgumentParser(prog="sweep.py init", allow_abbrev=False)
    parser.add_argument("out", type=Path)
    parser.add_argument("--bitnet", required=True)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--tokens", required=True)
    parser.add_argument("--against", required=True)
    own, options = arguments, []
    if "--" in arguments:
        at = arguments.index("--")
        own, options = arguments[:at], arguments[at + 1:]
    given = parser.parse_args(own)
    counts = given.tokens.split(",")
    if not all(count.isdigit() for count in counts) or len(set(map(int, counts))) != len(counts):
        raise SweepError(f"--tokens: found '{given.tokens}', expected different whole numbers, \"0,4,16\"")
    if len(set(given.model)) != len(given.model):
        raise SweepError("--model: a model is there twice")
    for path in (given.bitnet, *given.model):
        if not Path(path).is_file():
            raise SweepError(f"{path}: no such file")
    plan = {"bitnet": str(Path(given.bitnet).resolve()), "models": given.model,
            "folder": str(Path.cwd()), "prompts": read_prompts(given.prompts), "tokens": [int(count) for count in counts],
            "against": given.against, "options": options}
    (given.out / "cells").mkdir(parents=True, exist_ok=True)
    text = as_json(plan)
    path = given.out / "sweep.json"
    # Untouched when it is the same: its time says when cells have to be run again.
    if not path.is_file() or path.read_text() != text:
        write_atomically(path, text)


def read_plan(out):
    try:
        return json.loads((out / "sweep.json").read_text())
    except OSError as error:
        raise SweepError(f"{out}/sweep.json: {error.strerror}: sweep.py init makes it") from None


def cell_names(plan):
    return [f"{model:03}-{prompt:05}-{tokens:05}" for model in range(len(plan["models"]))
            for prompt in range(len(plan["prompts"])) for tokens in plan["tokens"]]


def cell_of(plan, name):
    if name not in cell_names(plan):
        raise SweepError(f"{name}: no cell of this sweep")
    model, prompt, tokens = map(int, name.split("-"))
    against = plan["against"]
    for place, value in zip(PLACES, (Path(plan["models"][model]).stem, str(prompt), str(tokens))):
        against = against.replace(place, value)
    path = Path(plan["folder"]) / plan["models"][model]
    state = path.stat()
    key = [plan["bitnet"], Path(plan["bitnet"]).stat().st_mtime_ns, str(path), state.st_size, state.st_mtime_ns,
           plan["prompts"][prompt], tokens, against, plan["options"]]
    return {"model": plan["models"][model], "path": str(path), "prompt": plan["prompts"][prompt], "tokens": tokens,
            "against": against, "key": hashlib.sha256(json.dumps(key).encode()).hexdigest()}


def result_path(out, name):
    return out / "cells" / f"{name}.json"


def read_result(out, name):
    try:
        return json.loads(result_path(out, name).read_text())
    except (OSError, ValueError):
        return None


def pending(out):
    """A result is valid when it is of these very inputs; one that failed is tried again."""
    plan = read_plan(out)
    for name in cell_names(plan):
        result = read_result(out, name)
        if result and result.get("key") == cell_of(plan, name)["key"] and result["exit"] != ERROR:
            continue
        result_path(out, name).unlink(missing_ok=True)
        print(name)
    for left_over in (out / "cells").glob(".*"):
        left_over.unlink(missing_ok=True)


# --- one cell --------------------------------------------------------------------------------------------------------

def crossval(plan, cell):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("BITNET_")}
    with tempfile.TemporaryDirectory(prefix="bitnet-sweep-") as folder:
        prompts = Path(folder) / "prompt.jsonl"
        prompts.write_text(json.dumps(cell["prompt"]) + "\n")
        command = [plan["bitnet"], "crossval", "-m", cell["path"], "-t", "1", "--prompts", str(prompts), "--max-tokens",
                   str(cell["tokens"]), "--against", cell["against"], "--format", "json", *plan["options"]]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, cwd=plan["folder"],
                              env={**environment, **DETERMINISTIC})


def run_cell(out, name):
    plan = read_plan(out)
    cell = cell_of(plan, name)
    ended = crossval(plan, cell)
    result = {"cell": name, "model": cell["model"], "prompt": cell["prompt"]["id"], "tokens": cell["tokens"], "exit": ERROR,
              "text": "", "compared": 0, "first_divergence": None, "model_hash": None, "summary": None, "key": cell["key"]}
    try:
        report = json.loads(ended.stdout)
        [prompt] = report["prompts"]
        result.update(exit=ended.returncode, text=report["text"], compared=report["compared"],
                      first_divergence=prompt["first_divergence"], model_hash=report["ours"]["model_hash"],
                      summary=prompt["summary"])
    except (ValueError, KeyError, TypeError):
        lines = ended.stderr.decode(errors="replace").strip().splitlines() or ["no output"]
        result["text"] = lines[-1]
    if result["exit"] not in (MATCH, DIVERGENCE, ERROR) or ended.returncode < 0:
        result.update(exit=ERROR, text=f"bitnet crossval ended with {ended.returncode}")
    write_atomically(result_path(out, name), as_json(result))


# --- the whole -------------------------------------------------------------------------------------------------------

def results_of(out, plan):
    return {name: read_result(out, name) for name in cell_names(plan)}


def counts_of(results):
    counts = dict.fromkeys(VERDICTS, 0)
    for result in results.values():
        if result:
            counts[VERDICTS[result["exit"]]] += 1
    return {"cells": len(results), **counts, "missing": sum(result is None for result in results.values())}


def exit_code(counts):
    if counts["error"] or counts["missing"] or not counts["cells"]:
        return ERROR
    return DIVERGENCE if counts["divergence"] else MATCH


def markdown(plan, results, counts):
    def shown(text):
        return str(text).replace("|", "\\|").replace("\n", " ")

    def figure(result, key):
        value = result["summary"][key] if result["summary"] else None
        return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    lines = ["# Cross-validation sweep", "", f"Against `{shown(plan['against'])}`, options `{shown(' '.join(plan['options']))}`.", "",
             ", ".join(f"{name} {n}" for name, n in counts.items()) + f": **{VERDICTS[exit_code(counts)]}**", "",
             "| model | prompt | tokens | verdict | positions | first | least cosine | largest NMSE | mean KL | |",
             "|---|---|---|---|---|---|---|---|---|---|"]
    for name, result in results.items():
        if result is None:
            lines.append(f"| | | | missing | | | | | | cell {name} |")
            continue
        verdict = VERDICTS[result["exit"]]
        cells = [result["model"], result["prompt"], result["tokens"], verdict if result["exit"] == MATCH else f"**{verdict}**",
                 result["compared"], "" if result["first_divergence"] is None else result["first_divergence"],
                 figure(result, "cosine_least"), figure(result, "nmse_largest"), figure(result, "kl_mean"),
                 "" if result["exit"] == MATCH else result["text"]]
        lines.append("| " + " | ".join(shown(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def summary(out):
    plan = read_plan(out)
    results = results_of(out, plan)
    counts = counts_of(results)
    rows = [{key: value for key, value in result.items() if key != "key"} if result else {"cell": name, "exit": None}
            for name, result in results.items()]
    whole = {"verdict": VERDICTS[exit_code(counts)], "exit": exit_code(counts), "counts": counts, "against": plan["against"],
             "options": plan["options"], "models": plan["models"], "tokens": plan["tokens"], "cells": rows}
    write_atomically(out / "summary.json", as_json(whole))
    write_atomically(out / "summary.md", markdown(plan, results, counts))


def verdict(out):
    counts = counts_of(results_of(out, read_plan(out)))
    print(", ".join(f"{name} {n}" for name, n in counts.items()) + f": {VERDICTS[exit_code(counts)]}")
    return exit_code(counts)


def main(arguments):
    commands = {"pending": pending, "cell": run_cell, "summary": summary, "verdict": verdict}
    try:
        if arguments[:1] == ["init"]:
            return init(arguments[1:]) or MATCH
        if len(arguments) != (3 if arguments[:1] == ["cell"] else 2) or arguments[0] not in commands:
            print(__doc__.strip(), file=sys.stderr)
            return ERROR
        return commands[arguments[0]](Path(arguments[1]), *arguments[2:]) or MATCH
    except SweepError as error:
        print(f"sweep: {error}", file=sys.stderr)
    except OSError as error:
        print(f"sweep: {error.filename}: {error.strerror}", file=sys.stderr)
    return ERROR


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
