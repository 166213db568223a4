#!/usr/bin/env python3
"""bitnet explain on engines that are known to be wrong: our own, made to do what another engine or a known fault does.

Every alternative is run on two models, in all layers and in one, and recorded as raw values without saying by whom.
Explain must name the place in every case and the cause in nearly every one; legal alternatives must raise no alarm.

Usage: corpus.py LIBBITNET_SO BITNET [--table FILE]      exit 0: as promised, 1: not
"""
import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests" / "oracle"))
from gguf_file import GGUFFile  # noqa: E402
from library import EVERYTHING, Library  # noqa: E402
from make_gguf import write_model  # noqa: E402

LAYER = 1  # where a single layer is wrong
TOKENS = 10
CAUSES_NAMED_MIN = 0.95

NORMS = {"attn_norm", "attn_sub_norm", "ffn_norm", "ffn_sub_norm", "final_norm"}
LINEARS = {"q_proj", "k_proj", "v_proj", "attn_out", "ffn_gate", "ffn_up", "ffn_out"}
ROPE = {"q_rope", "k_rope"}
ATTENTION = {"attn_scores_softmax", "attn_context"}
ACT = {"ffn_act"}
ALL = NORMS | LINEARS | ROPE | ATTENTION | ACT | {"embeddings", "attn_residual", "layer_out", "logits"}
WHOLE_MODEL = {"head_input=f16"}  # cannot be of one layer

# (semantics, stages that may be named, legal)
CASES = [
    ("activation=silu", ACT, False),
    ("activation=gelu", ACT, False),
    ("activation=relu", ACT, False),
    ("norm=unweighted", NORMS, False),
    ("norm=weighted_twice", NORMS, False),
    ("norm=centred", NORMS, False),
    ("norm=skipped", NORMS, False),
    ("eps=1e-6", NORMS, False),
    ("eps=1e-3", NORMS, False),
    ("sub_norms=off", {"attn_out", "ffn_out"}, False),
    ("rope=norm", ROPE, False),
    ("rope_offset=1", ROPE, False),
    ("rope_offset=-1", ROPE, False),
    ("theta=10000", ROPE, False),
    ("kv_heads=interleaved", ATTENTION, False),
    ("kv_swap=attention", ATTENTION, False),
    ("attn_scale=none", ATTENTION, False),
    ("attn_scale=full", ATTENTION, False),
    ("kv_swap=weights", {"k_proj", "v_proj"}, False),
    ("scale=none", LINEARS, False),
    ("scale=divide", LINEARS, False),
    ("scale_type=f16", LINEARS, False),
    ("scale_type=bf16", LINEARS, False),
    ("i2s=block64", LINEARS, False),
    ("i2s=block32", LINEARS, False),
    ("i2s=sequential", LINEARS, False),
    ("i2s=sequential,i2s_bits=low_first", LINEARS, False),
    ("i2s_bits=low_first", LINEARS, False),
    ("i2s_map=+0-", LINEARS, False),
    ("i2s_map=0+-", LINEARS, False),
    ("i2s_map=0-+", LINEARS, False),
    ("i2s_map=-+0", LINEARS, False),
    ("i2s_map=+-0", LINEARS, False),
    ("round=truncate", LINEARS, False),
    ("quant=tensor_int8", LINEARS, False),
    ("quant=block32_int8", LINEARS, False),
    ("quant=none", LINEARS, False),
    ("attn_scale=full,kv=f16,attn_q=f16", ATTENTION, False),
    ("kv=f16", ATTENTION, True),
    ("kv=f16,attn_q=f16", ATTENTION, True),
    ("kv=f16,attn_q=f16,attn_p=f16", ATTENTION, True),
    ("kv=f16,attn_q=f16,attn_sum=f16", ATTENTION, True),
    ("quant=f16", LINEARS, True),
    ("rope_angle=steps_f32", ROPE, True),
    ("head_input=f16", {"logits"}, True),
    ("quant=block256_int8", LINEARS, True),
    ("quant=dequantised", LINEARS, True),
    ("stage_type=bf16,quant=dequantised", ALL, True),
]
# Where codes, scales and accumulators were recorded too, they are what is wrong.
INTEGER_CASES = [
    ("round=truncate", NORMS, False),
    ("quant=tensor_int8", NORMS, False),
    ("quant=block32_int8", NORMS | LINEARS, False),
    ("i2s=block64", LINEARS, False),
    ("i2s_map=0-+", LINEARS, False),
    ("scale=none", LINEARS, False),
    ("kv_swap=weights", {"k_proj", "v_proj"}, False),
    ("sub_norms=off", NORMS | {"attn_out", "ffn_out"}, False),
    ("quant=block256_int8", NORMS | LINEARS, True),
]


def at_layer(semantics, layer):
    return ",".join("@{}=".format(layer).join(item.split("=")) for item in semantics.split(","))


def items(semantics):
    return frozenset(semantics.split(","))


def save(path, record):
    arrays = {"ids" if stage == "ids" else f"{layer}/{stage}": rows for (layer, stage), rows in record.items()}
    np.savez(path, **arrays)


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key], equal_nan=True) for key in a)


class Corpus:
    def __init__(self, library, program, folder):
        self.library, self.program, self.folder = Library(library), program, Path(folder)
        self.rows, self.problems = [], []

    def explain(self, model, record, *options):
        path = self.folder / "recording.npz"
        save(path, record)
        run = subprocess.run([self.program, "explain", str(path), "-m", str(model), "--format", "json", *options],
                             capture_output=True, text=True, timeout=120)
        if run.returncode not in (0, 1):
            raise RuntimeError(run.stderr)
        report = json.loads(run.stdout)
        assert report["exit"] == run.returncode
        return report

    def record(self, model, semantics, select="*"):
        loaded = self.library.load(model, semantics=semantics)
        ids = np.random.default_rng(7).integers(loaded.info.n_vocab, size=TOKENS).tolist()
        return loaded.context(n_ctx=TOKENS).trace(ids, select=select)

    def case(self, name, model, reference, semantics, stages, legal, layer, select="*"):
        text = semantics if layer is None else at_layer(semantics, layer)
        record = self.record(model, text, select)
        row = {"model": name, "semantics": text, "legal": legal, "place": True, "cause": True, "alarm": False}
        self.rows.append(row)
        if same(record, reference):
            row["place"] = row["cause"] = False
            self.problems.append(f"{name} {text}: changes nothing, so there is nothing to explain")
            return
        report = self.explain(model, record)
        outcome = "legal" if legal else "wrong"
        groups = report["groups"]
        places = [(o["layer"], o["stage"]) for g in groups for o in g["operations"] if g["outcome"] == outcome]
        others = [g for g in groups if g["outcome"] != outcome]
        row["alarm"] = legal and report["exit"] != 0
        # Within the tolerances there is nothing to name. A fault with a legal variation beside it is a fault, and where
        # the variation alone is seen it is legal.
        named = bool(places) or (legal and not groups)
        row["place"] = (named and all(stage.split(".")[0] in stages for _, stage in places)
                        and (layer is None or all(at == layer for at, _ in places))
                        and report["exit"] == (0 if legal else 1)
                        and (not others or "kv=f16" in semantics))
        row["cause"] = row["place"] and all(items(g["semantics"]) <= items(semantics) and g["semantics"]
                                            for g in groups)
        row["named"] = sorted({g["semantics"] or "?" for g in groups})
        row["operations"] = len(places)
        if not row["place"]:
            self.problems.append(f"{name} {text}: named {sorted(places)}, exit {report['exit']}")
        elif not row["cause"]:
            self.problems.append(f"{name} {text}: cause {row['named']}")

    def clean(self, name, model, reference):
        """The reference itself: nothing to say, in bits too, with companions too."""
        for select in ("*", EVERYTHING):
            record = self.record(model, None, select)
            for options in ((), ("--tolerance", "exact")):
                report = self.explain(model, record, *options)
                if report["exit"] != 0 or report["groups"] or report["counts"]["reproduced"] == 0:
                    self.problems.append(f"{name}: an alarm for nothing: {report['text']} {report['groups']}")

    def wrapping(self, model):
        """Rows of weights with the signs of a token's codes: sums that leave 16 bits, which no random model has."""
        places = GGUFFile(model).by_name
        norm, weights = (places[f"blk.{LAYER}.{name}.weight"].offset for name in ("attn_norm", "attn_q"))
        gguf = bytearray(model.read_bytes())
        width = places[f"blk.{LAYER}.attn_norm.weight"].shape[-1]
        gguf[norm : norm + 4 * width] = np.ones(width, np.float32).tobytes()
        model.write_bytes(gguf)
        codes = self.record(model, None, EVERYTHING)[LAYER, "attn_norm.codes"][3].astype(int)
        packed = np.zeros(width // 4, np.uint8)
        for i, code in enumerate(codes):
            packed[i // 128 * 32 + i % 32] |= (0 if code < 0 else 2) << (6 - i % 128 // 32 * 2)
        gguf[weights : weights + len(packed)] = packed.tobytes()
        model.write_bytes(gguf)
        reference = self.record(model, None)
        for layer in (None, LAYER):
            self.case("wide", model, reference, "acc=int16", {"q_proj"}, False, layer)

    def integers(self, name, model):
        reference = self.record(model, None, EVERYTHING)
        for semantics, stages, legal in INTEGER_CASES:
            for layer in (None, LAYER):
                self.case(name, model, reference, semantics, stages, legal, layer, EVERYTHING)

    def run(self):
        random = write_model(self.folder / "random.gguf", seed=5, n_embd=256, n_head=8, n_kv=4, head_dim=80, n_ff=896,
                             n_layer=3)
        models = {"demo": ROOT / "scripts/demo_model/demo.gguf", "random": random}
        for name, model in models.items():
            reference = self.record(model, None)
            self.clean(name, model, reference)
            for semantics, stages, legal in CASES:
                for layer in (None, LAYER):
                    if layer is None or semantics not in WHOLE_MODEL:
                        self.case(name, model, reference, semantics, stages, legal, layer)
        self.integers("random", random)
        self.wrapping(write_model(self.folder / "wide.gguf", seed=6, n_embd=2048, n_head=4, n_kv=2, head_dim=32,
                                  n_ff=128, n_layer=2))

    def table(self):
        out = ["| model | semantics | operations named | cause named |", "|---|---|---|---|"]
        for row in self.rows:
            named = "; ".join(f"`{name}`" for name in row.get("named", []))
            out.append(f"| {row['model']} | `{row['semantics']}`{' (legal)' if row['legal'] else ''} | "
                       f"{row.get('operations', 0)} | {named} |")
        return "\n".join(out) + "\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("library")
    parser.add_argument("program")
    parser.add_argument("--table")
    arguments = parser.parse_args()
    begin = time.time()
    with tempfile.TemporaryDirectory() as folder:
        corpus = Corpus(arguments.library, arguments.program, folder)
        corpus.run()
    n = len(corpus.rows)
    places = sum(row["place"] for row in corpus.rows)
    causes = sum(row["cause"] for row in corpus.rows)
    alarms = sum(row["alarm"] for row in corpus.rows)
    clean = not any("alarm for nothing" in problem for problem in corpus.problems)
    for problem in corpus.problems:
        print(problem)
    seconds = time.time() - begin
    print(f"{n} engines: place named in {places}, cause in {causes}, false alarms {alarms}; {seconds:.1f} s")
    if arguments.table:
        Path(arguments.table).write_text(corpus.table())
    return 0 if n >= 150 and places == n and causes >= CAUSES_NAMED_MIN * n and alarms == 0 and clean else 1


if __name__ == "__main__":
    sys.exit(main())
