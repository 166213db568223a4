#!/usr/bin/env python3
"""bitnet explain on engines that are known to be wrong: our own, made to do what another engine or a known fault does.

Every fault of corpus_faults.py, alone and two at once, in all layers and in one, on models of several shapes, recorded as raw
values without saying by whom. Explain must name the place of every single fault and the cause of nearly every one, both
faults of most pairs, and raise no alarm for a legal variation, whatever the prompt.

    corpus.py LIBBITNET_SO BITNET             a sample, and whether the tables in README.md and EXPLAIN.md are corpus.json's
    corpus.py LIBBITNET_SO BITNET --all       everything; its results must be those of corpus.json
    corpus.py LIBBITNET_SO BITNET --all --write   writes corpus.json and the tables

Exit 0: as promised, 1: not.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

import corpus_table
from corpus_faults import (ALL, BESIDE_LEGAL, DOUBLE_BOS, INTEGER_CASES, LEGAL, PROFILE_ITEMS, PROFILES, SHAPES, WHOLE_MODEL,
                           WRAPPING, at_layer, faults_of, items, pairs_of)

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests" / "oracle"))
from gguf_file import GGUFFile  # noqa: E402
from library import EVERYTHING, Library  # noqa: E402
from make_gguf import write_model  # noqa: E402

LAYER = 1  # where a single layer is wrong
TOKENS = 10
PROMPTS = 200       # of each legal variation, on the demo model
PROMPTS_OTHER = 50  # and on each of the others
TOKENIZE_ADD_BOS = 1
PROMPT_TOKENS_MAX = 12
CAUSES_NAMED_MIN, PAIRS_NAMED_MIN = 0.95, 0.90


def save(path, record):
    arrays = {"ids" if stage == "ids" else f"{layer}/{stage}": rows for (layer, stage), rows in record.items()}
    np.savez(path, **arrays)


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key], equal_nan=True) for key in a)


def prompt_ids(n_vocab, seed):
    """Prompt number `seed` of the controls: another length and other tokens each time."""
    random = np.random.default_rng([11, seed])
    return random.integers(n_vocab, size=int(random.integers(2, PROMPT_TOKENS_MAX + 1))).tolist()


class Worker:
    """Runs tasks: each returns a row {kind, model, semantics, ok, cause, note}."""

    def __init__(self, library, program, folder):
        self.library, self.program, self.folder = Library(library), program, Path(folder)
        self.known = {}

    def path(self, name):
        return ROOT / "scripts/demo_model/demo.gguf" if name == "demo" else self.folder / f"{name}.gguf"

    def explain(self, name, record, *options):
        path = self.folder / f"recording-{os.getpid()}.npz"
        save(path, record)
        base = SHAPES[name]["base"] if name in SHAPES else ""
        run = subprocess.run([self.program, "explain", str(path), "-m", str(self.path(name)), "--format", "json",
                              *(["--as", base] if base else []), *options], capture_output=True, text=True, timeout=600)
        if run.returncode not in (0, 1):
            raise RuntimeError(run.stderr)
        report = json.loads(run.stdout)
        assert report["exit"] == run.returncode
        return report

    def record(self, name, semantics, select="*", prompt=None):
        base = SHAPES[name]["base"] if name in SHAPES else ""
        loaded = self.library.load(self.path(name), semantics=",".join(filter(None, (base, semantics))) or None)
        n_vocab = loaded.info.n_vocab
        ids = (np.random.default_rng(7).integers(n_vocab, size=TOKENS).tolist() if prompt is None
               else prompt if isinstance(prompt, list) else prompt_ids(n_vocab, prompt))
        return loaded.context(n_ctx=64).trace(ids, select=select)

    def reference(self, name, select="*"):
        if (name, select) not in self.known:
            self.known[name, select] = self.record(name, "", select)
        return self.known[name, select]

    def single(self, kind, name, semantics, stages, legal, layer, select="*"):
        text = semantics if layer is None else at_layer(semantics, layer)
        record = self.record(name, text, select)
        row = {"kind": kind, "model": name, "semantics": text, "place": True, "cause": True, "note": ""}
        if same(record, self.reference(name, select)):
            return {**row, "unchanged": True}  # not a bit: there is nothing that anyone could explain
        report = self.explain(name, record)
        outcome = "legal" if legal else "wrong"
        groups = report["groups"]
        places = [(o["layer"], o["stage"]) for g in groups for o in g["operations"] if g["outcome"] == outcome]
        others = [g for g in groups if g["outcome"] != outcome]
        # Within the tolerances there is nothing to name. A fault with a legal variation beside it is a fault, and where
        # the variation alone is seen it is legal.
        named = bool(places) or (legal and not groups)
        row["place"] = (named and all(stage.split(".")[0] in stages for _, stage in places)
                        and (layer is None or all(at == layer for at, _ in places))
                        and report["exit"] == (0 if legal else 1)
                        and (not others or "kv=f16" in semantics))
        row["cause"] = row["place"] and all(items(g["semantics"]) <= items(semantics) and g["semantics"] for g in groups)
        found = sorted({g["semantics"] or "?" for g in groups})
        if not row["place"]:
            row["note"] = f"named {found} at {sorted(places)[:4]}, exit {report['exit']}"
        elif not row["cause"]:
            row["note"] = f"named {found}"
        return row

    def pair(self, name, one, other, layer):
        """Hidden when the record is that of one fault alone: nobody can see the other in it."""
        texts = [semantics if layer is None else at_layer(semantics, layer) for _, semantics, _ in (one, other)]
        record = self.record(name, ",".join(texts))
        for text, unseen in zip(texts, reversed(texts)):
            if same(record, self.single_record(name, text)):
                return {"kind": "pairs", "model": name, "semantics": f"{text} hides {unseen}", "hidden": True}
        report = self.explain(name, record)
        named = set().union(*(items(g["semantics"]) for g in report["groups"] if g["outcome"] == "wrong"), set())
        both = [items(one[1]), items(other[1])]
        row = {"kind": "pairs", "model": name, "semantics": " + ".join(texts), "place": report["exit"] == 1,
               "cause": report["exit"] == 1 and all(fault <= named for fault in both), "note": ""}
        if not row["cause"]:
            row["note"] = f"named {sorted({g['semantics'] or '?' for g in report['groups']})}"
        return row

    def single_record(self, name, text):
        key = name, "single", text
        if key not in self.known:
            self.known[key] = self.record(name, text)
        return self.known[key]

    def control(self, name, semantics, prompt):
        """A legal variation, or the reference itself (""), on one prompt: no alarm, and nothing else named."""
        allowed = PROFILE_ITEMS.get(semantics.removeprefix("profile="), semantics)
        report = self.explain(name, self.record(name, semantics, prompt=prompt))
        foreign = [g["semantics"] for g in report["groups"] if not (g["semantics"] and items(g["semantics"]) <= items(allowed))]
        fine = report["exit"] == 0 and report["counts"]["wrong"] == 0
        note = "" if fine and not foreign else f"exit {report['exit']}, named {[g['semantics'] or '?' for g in report['groups']]}"
        return {"kind": "control", "model": name, "semantics": semantics or "the reference", "place": fine,
                "cause": not foreign, "note": note and f"prompt {prompt}: {note}"}

    def clean(self, name):
        """The reference itself to the bit, with and without companions."""
        problems = []
        for select in ("*", EVERYTHING):
            for options in ((), ("--tolerance", "exact")):
                report = self.explain(name, self.reference(name, select), *options)
                if report["exit"] != 0 or report["groups"] or report["counts"]["reproduced"] == 0:
                    problems.append(report["text"])
        return {"kind": "control", "model": name, "semantics": "the reference, in bits", "place": not problems, "cause": True,
                "note": "; ".join(problems)}

    def double_bos(self, name):
        model = self.library.load(self.path(name))
        bos = model.tokenize("", TOKENIZE_ADD_BOS)[0]
        facts = [self.explain(name, self.record(name, "", prompt=[bos, *more, 5, 9]))["facts"] for more in ((bos,), ())]
        twice, once = (any(fact.startswith("double BOS") for fact in each) for each in facts)
        return {"kind": DOUBLE_BOS, "model": name, "semantics": "", "place": twice and not once,
                "cause": twice and not once, "note": "" if twice and not once else f"facts {facts}"}

    def wrapping(self, layer):
        return self.single(WRAPPING, "wide", "acc=int16", {"q_proj"}, False, layer)


def make_wide_model(worker, path):
    """Rows of weights with the signs of a token's codes: sums that leave 16 bits, which no random model has."""
    write_model(path, seed=6, n_embd=2048, n_head=4, n_kv=2, head_dim=32, n_ff=128, n_layer=2)
    places = GGUFFile(path).by_name
    norm, weights = (places[f"blk.{LAYER}.{name}.weight"].offset for name in ("attn_norm", "attn_q"))
    gguf = bytearray(path.read_bytes())
    width = places[f"blk.{LAYER}.attn_norm.weight"].shape[-1]
    gguf[norm : norm + 4 * width] = np.ones(width, np.float32).tobytes()
    path.write_bytes(gguf)
    codes = worker.record("wide", "", EVERYTHING)[LAYER, "attn_norm.codes"][3].astype(int)
    packed = np.zeros(width // 4, np.uint8)
    for i, code in enumerate(codes):
        packed[i // 128 * 32 + i % 32] |= (0 if code < 0 else 2) << (6 - i % 128 // 32 * 2)
    gguf[weights : weights + len(packed)] = packed.tobytes()
    path.write_bytes(gguf)


def tasks_of(everything):
    """(method of Worker, arguments). The sample is a part of everything, spread over shapes and faults."""
    tasks = [("wrapping", (layer,)) for layer in (None, LAYER)]
    for name, shape in SHAPES.items():
        tasks += [("clean", (name,)), ("double_bos", (name,))]
        for kind, semantics, stages in faults_of(shape):
            tasks += [("single", (kind, name, semantics, stages, False, layer)) for layer in (None, LAYER)]
        for semantics, stages in BESIDE_LEGAL:
            tasks += [("single", ("a fault beside F16 KV", name, semantics, stages, False, layer)) for layer in (None, LAYER)]
        for semantics, stages in LEGAL:
            tasks += [("single", ("legal", name, semantics, stages, True, layer)) for layer in (None, LAYER)
                      if layer is None or semantics not in WHOLE_MODEL]
    for semantics, stages, legal in INTEGER_CASES:
        kind = "legal" if legal else "codes and sums recorded too"
        tasks += [("single", (kind, "random", semantics, stages, legal, layer, EVERYTHING)) for layer in (None, LAYER)]
    # Every pair on one shape, in all layers and in one; every fifth on the others.
    for name, shape in SHAPES.items():
        step = 1 if name == "random" else 5
        tasks += [("pair", (name, one, other, layer)) for layer in (None, LAYER)
                  for one, other in pairs_of(shape)[layer or 0 :: step]]
    variations = ["", *(semantics for semantics, _ in LEGAL), *(f"profile={name}" for name in PROFILES)]
    tasks += [("control", (name, semantics, prompt)) for semantics in variations for name in SHAPES
              for prompt in range(PROMPTS if name == "demo" else PROMPTS_OTHER)]
    if everything:
        return tasks
    steps = {"single": 2, "pair": 37, "control": 109, "wrapping": 1, "clean": 1, "double_bos": 2}
    return [task for method, step in steps.items() for task in [t for t in tasks if t[0] == method][::step]]


worker = None


def start(library, program, folder):
    global worker
    worker = Worker(library, program, folder)


def run_task(task):
    method, arguments = task
    try:
        return getattr(worker, method)(*arguments)
    except Exception as error:
        return {"kind": method, "model": str(arguments[0]), "semantics": str(arguments[1:]), "place": False, "cause": False,
                "note": f"{type(error).__name__}: {error}"}


def summary(rows):
    """What corpus.json holds: counts by kind, and everything that was not named."""
    kinds = {}
    unchanged, hidden = (sorted(f"{row['model']}: {row['semantics']}" for row in rows if row.get(why))
                         for why in ("unchanged", "hidden"))
    rows = [row for row in rows if not row.get("unchanged") and not row.get("hidden")]
    for row in rows:
        of_kind = kinds.setdefault(row["kind"], {"engines": 0, "place": 0, "cause": 0})
        of_kind["engines"] += 1
        of_kind["place"] += bool(row["place"])
        of_kind["cause"] += bool(row["cause"])
    missed = [f"{row['model']}: {row['semantics']}: {row['note']}" for row in rows if not (row["place"] and row["cause"])]
    return {"prompts": PROMPTS, "prompts_other": PROMPTS_OTHER, "shapes": len(SHAPES), "kinds": kinds, "missed": sorted(missed),
            "unchanged": unchanged, "hidden": hidden}


def promises(result):
    """What is not as promised."""
    kinds = result["kinds"]
    singles = {kind: n for kind, n in kinds.items() if kind not in ("pairs", "control", "legal")}
    n, places, causes = (sum(k[key] for k in singles.values()) for key in ("engines", "place", "cause"))
    broken = []
    if places < n:
        broken.append(f"the place of {n - places} of {n} single faults is not named")
    if causes < CAUSES_NAMED_MIN * n:
        broken.append(f"the cause of {n - causes} of {n} single faults is not named")
    if kinds["pairs"]["cause"] < PAIRS_NAMED_MIN * kinds["pairs"]["engines"]:
        broken.append(f"both faults named in {kinds['pairs']['cause']} of {kinds['pairs']['engines']} pairs")
    for kind in ("control", "legal"):
        if kinds[kind]["place"] < kinds[kind]["engines"]:
            broken.append(f"{kinds[kind]['engines'] - kinds[kind]['place']} false alarms ({kind})")
    return broken


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("program")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--write", action="store_true", help="with --all: corpus.json and the tables anew")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="methods of tasks, for trying out")
    arguments = parser.parse_args()
    begin = time.time()
    tasks = [task for task in tasks_of(arguments.all) if not arguments.only or task[0] in arguments.only.split(",")]
    with tempfile.TemporaryDirectory(prefix="bitnet-corpus-") as folder:
        for name, shape in SHAPES.items():
            if "spec" in shape:
                write_model(Path(folder) / f"{name}.gguf", **shape["spec"])
        make_wide_model(Worker(arguments.library, arguments.program, folder), Path(folder) / "wide.gguf")
        with ProcessPoolExecutor(arguments.jobs, initializer=start,
                                 initargs=(arguments.library, arguments.program, folder)) as pool:
            rows = list(pool.map(run_task, tasks, chunksize=4))
    result = summary(rows)
    for missed in result["missed"]:
        print(missed)
    for hidden in result["hidden"]:
        print(f"left out: {hidden}")
    for kind, counts in result["kinds"].items():
        print(f"{kind}: {counts['engines']} engines, place {counts['place']}, cause {counts['cause']}")
    print(f"{len(result['hidden'])} pairs left out, as one fault hides the other")
    print(f"{len(rows)} engines, {time.time() - begin:.1f} s")
    if arguments.only:
        return 0
    if arguments.write and arguments.all:
        corpus_table.write(result)
    committed = corpus_table.committed()
    problems = []
    if arguments.all and result != committed:
        problems.append("corpus.json is not what this run found: --all --write")
    problems += [f"not named, though corpus.json says so: {missed}" for missed in result["missed"]
                 if missed not in committed["missed"]]
    problems += promises(committed) + corpus_table.differences(committed)
    for problem in problems:
        print(f"WRONG: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
