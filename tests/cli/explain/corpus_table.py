"""corpus.json, and the tables in README.md and EXPLAIN.md that are made of it."""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
RESULTS = Path(__file__).with_name("corpus.json")
BEGIN, END = "<!-- corpus: made by tests/cli/explain/corpus.py -->", "<!-- corpus: end -->"


def committed():
    return json.loads(RESULTS.read_text())


def table(result):
    """A row for each kind."""
    kinds = result["kinds"]
    out = ["| what the engine does wrong | engines | operation named | cause named |", "|---|---|---|---|"]
    for kind, n in kinds.items():
        if kind not in ("pairs", "control", "legal"):
            out.append(f"| {kind} | {n['engines']} | {n['place']} | {n['cause']} |")
    pairs, control, legal = kinds["pairs"], kinds["control"], kinds["legal"]
    out.append(f"| two of these at once | {pairs['engines']} | {pairs['place']} | both: {pairs['cause']} |")
    alarms = control["engines"] - control["place"] + legal["engines"] - legal["place"]
    out.append(f"| nothing: legal variations, each {result['prompts']} prompts on the demo model, {result['prompts_other']} on each "
               f"other | {control['engines'] + legal['engines']} | "
               f"false alarms: {alarms} | |")
    return out


def missed(result):
    lines = [f"What was missed ({len(result['missed'])}):", "", *(f"    {line}" for line in result["missed"])]
    if not result["missed"]:
        lines = ["Nothing was missed."]
    if result["unchanged"]:
        lines += ["", "Left out, as they change no bit of what was recorded: " + "; ".join(f"`{x}`" for x in result["unchanged"]) + "."]
    if result["hidden"]:
        lines += ["", f"Not among the pairs: {len(result['hidden'])} of which one fault hides the other to the bit "
                  "(`corpus.json` lists them)."]
    return lines


def blocks(result):
    return {ROOT / "README.md": table(result), ROOT / "abi/cli/explain/EXPLAIN.md": [*table(result), "", *missed(result)]}


def parts(path):
    """The text before, between and behind the markers."""
    text = path.read_text()
    before, begin, rest = text.partition(BEGIN + "\n")
    between, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{path}: no markers {BEGIN} ... {END}")
    return before, between, after


def differences(result):
    return [f"{path.name} has another table than corpus.json: corpus.py --all --write" for path, lines in blocks(result).items()
            if parts(path)[1] != "\n".join(lines) + "\n"]


def write(result):
    RESULTS.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    for path, lines in blocks(result).items():
        before, _, after = parts(path)
        path.write_text(before + BEGIN + "\n" + "\n".join(lines) + "\n" + END + after)
