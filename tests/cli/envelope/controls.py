#!/usr/bin/env python3
"""Legal engines and faulty ones against envelopes: which are inside a class, and what is outside every class.

Our own engine does what each of them does, freely, on the prompts of the demo model, on tests/data/small.gguf and on a random
model. Distances are computed here, with numpy, from the values that the library hands over; only the envelopes come from the
program. No legal engine may be outside every class on any prompt, and of the faults only those may be inside one that drown.

Usage: controls.py LIBBITNET_SO BITNET [--prompts N] [--tables]     exit 0: as promised, 1: not
"""
import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests" / "oracle"))
from library import Library, _Sink  # noqa: E402
from make_gguf import write_model  # noqa: E402

DEMO = ROOT / "scripts/demo_model/demo.gguf"
SMALL = ROOT / "tests/data/small.gguf"
MARGIN = 2.5
FLOOR = 5e-6
LAYER = 1
QUANTISED = {"attn_norm", "attn_sub_norm", "ffn_norm", "ffn_sub_norm"}

# (semantics, the smallest class that may be named). Those that an envelope itself runs are among them, and as many that it
# does not. "rounded" is no semantics: every element of a norm is off by up to an ulp.
LEGAL = [
    ("rounded", "f32"), ("quant=dequantised", "f32"), ("rope_angle=steps_f32", "f32"), ("round=away", "f32"),
    ("kv=f16", "f16-kv"), ("kv=f16,attn_q=f16", "f16-kv"), ("profile=bitnetcpp", "f16-kv"),
    ("profile=bitnetcpp,head_input=f32", "f16-kv"), ("kv=f16,round=away", "f16-kv"),
    ("kv=f16,quant=dequantised", "f16-kv"), ("profile=hf-bf16", "bf16"), ("stage_type=bf16", "bf16"),
    ("profile=hf-bf16,rope_angle=steps_f32", "bf16"), ("quant=block256_int8", "block256"),
    ("quant=block256_int8,round=away", "block256"), ("quant=block256_int8,profile=bitnetcpp", "block256"),
]
FAULTS = [
    "activation=silu", "activation=gelu", "activation=relu", "norm=unweighted", "norm=weighted_twice", "norm=centred",
    "norm=skipped", "eps=1e-6", "eps=1e-3", "sub_norms=off", "rope=norm", "rope_offset=1", "rope_offset=-1", "theta=10000",
    "kv_heads=interleaved", "kv_swap=attention", "kv_swap=weights", "attn_scale=none", "attn_scale=full", "scale=none",
    "scale=divide", "scale_type=f16", "scale_type=bf16", "i2s=block64", "i2s=block32", "i2s=sequential",
    "i2s_bits=low_first", "i2s_map=0-+", "i2s_map=+0-", "round=truncate", "quant=tensor_int8", "quant=block32_int8",
    "quant=none",
]
# On the demo model these move nothing farther than a legal variation does, on some prompts or on all.
DROWNING = {"eps=1e-6", "eps@1=1e-6", "eps@1=1e-3", "scale_type=f16", "scale_type@1=f16", "scale_type=bf16",
            "scale_type@1=bf16", "round=truncate", "round@1=truncate", "quant=tensor_int8", "quant@1=tensor_int8", "quant=block32_int8",
            "quant@1=block32_int8", "quant=none", "quant@1=none"}


def prompts(n):
    """In the demo model's ways."""
    rng = random.Random(11)
    days = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
    out = []
    for i in range(n):
        a, b = rng.randrange(100), rng.randrange(100)
        forms = [f"{a}+{b}=", f"What is {a}+{b}?", f"User: What is {a}+{b}?", f"Count from {a} to {a + 5}: {a} {a + 1}",
                 " ".join(days[(a + k) % 7] for k in range(rng.randrange(2, 6))),
                 f"{a}+{b}={a + b}\n{b}+{a}=", "The quick brown fox " * rng.randrange(1, 4), chr(97 + a % 26) * (1 + b % 9)]
        out.append(forms[i % len(forms)])
    return out


def at_layer(semantics, layer):
    return ",".join(f"@{layer}=".join(item.split("=")) for item in semantics.split(","))


class Rounded(_Sink):
    """Every element of a norm moved by up to an ulp: what any other implementation of it may do."""

    def __init__(self):
        super().__init__({})
        self.random = np.random.default_rng(5)

    def _tensor(self, pointer):
        super()._tensor(pointer)
        event = pointer.contents
        key = event.header.layer, event.stage_name.decode()
        if key[1] not in QUANTISED:
            return
        for r in range(event.n_rows):
            row = self.rows[key][event.header.position + r]
            noise = self.random.integers(-1, 2, row.size) * np.spacing(np.abs(row))
            self.forced = {key: {event.header.position + r: (row + noise).astype(np.float32)}}
            self._force(pointer, key, r, event.header.position + r)


def traced(library, path, ids, semantics):
    model = library.load(path, semantics=None if semantics == "rounded" else semantics or None)
    context = model.context(n_ctx=len(ids))
    if semantics != "rounded":
        return context.trace(ids, select="*")
    sink = Rounded()
    library.check(library.dll.bitnet_trace_set_sink(context.handle, sink.table, None))
    library.check(library.dll.bitnet_trace_select(context.handle, b"*"))
    context.eval(ids, 2)
    library.check(library.dll.bitnet_trace_set_sink(context.handle, None, None))
    if sink.error:
        raise sink.error
    return {(-1, "ids"): np.asarray(ids), **sink.record(len(ids))}


def relative(a, b):
    """By row: |a - b| / |a|."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(all="ignore"):
        return np.linalg.norm(a - b, axis=1) / np.linalg.norm(a, axis=1)


def measured(program, path, ids, *options):
    run = subprocess.run([program, "envelope", "-m", path, "--tokens", ",".join(map(str, ids)), "--format", "json",
                          "--no-cache", *options], capture_output=True, text=True, timeout=300)
    if run.returncode != 0:
        raise RuntimeError(run.stderr)
    return json.loads(run.stdout)


class Envelope:
    """What ENVELOPE.md says follows from the file."""

    def __init__(self, document):
        self.names = [c["name"] for c in document["classes"]]
        self.reach = {}
        for c in document["classes"]:
            for stage in c["stages"]:
                key = stage["layer"], stage["stage"]
                before = self.reach.setdefault(key, [])
                floor = 0 if key[1] == "embeddings" else FLOOR / MARGIN
                before.append(max([stage["relative"], floor, *before[-1:]]))

    def place(self, own, other):
        """(index of the smallest class, len(names): none; worst distance over what the largest class allows; first outside)."""
        largest, worst, first = 0, 0.0, None
        for (layer, stage), rows in own.items():  # in execution order of a batch
            if stage == "ids" or (layer, stage) not in self.reach or (layer, stage) not in other:
                continue
            reach = np.array(self.reach[layer, stage])
            if rows.shape != other[layer, stage].shape:
                distances = np.full(len(rows), np.inf)
            else:
                distances = relative(rows, other[layer, stage])
                distances[np.all(rows == other[layer, stage], axis=1)] = 0
            smallest = (distances[:, None] > MARGIN * reach[None, :]).sum(axis=1)
            smallest[np.isnan(distances)] = len(self.names)
            largest = max(largest, int(smallest.max()))
            with np.errstate(all="ignore"):
                ratio = np.max(np.where(distances == 0, 0, np.nan_to_num(distances / reach[-1], nan=np.inf, posinf=np.inf)))
            worst = max(worst, float(ratio))
            for position in np.flatnonzero(smallest == len(self.names)):
                if first is None or position < first[0]:
                    first = int(position), layer, stage
        return largest, worst, first


class Controls:
    def __init__(self, library, program, folder):
        self.library, self.program, self.folder = Library(library), program, Path(folder)
        self.named = {text: Counter() for text, _ in LEGAL}
        self.worst = {text: [] for text, _ in LEGAL}
        self.problems = []
        self.faults = []

    def cases(self, n_prompts):
        demo = self.library.load(DEMO)
        for text in prompts(n_prompts):
            yield "demo", DEMO, demo.tokenize(text, 1)
        rng = np.random.default_rng(3)
        yield "small", SMALL, rng.integers(512, size=10).tolist()
        wide = write_model(self.folder / "wide.gguf", seed=5, n_embd=512, n_head=8, n_kv=4, head_dim=64, n_ff=1280, n_layer=3)
        yield "random", wide, rng.integers(self.library.load(wide).info.n_vocab, size=10).tolist()

    def legal(self, name, path, ids, own, envelope):
        for semantics, smallest in LEGAL:
            index, worst, first = envelope.place(own, traced(self.library, path, ids, semantics))
            label = envelope.names[index] if index < len(envelope.names) else "outside"
            self.named[semantics][label] += 1
            self.worst[semantics].append(worst)
            if index == len(envelope.names):
                self.problems.append(f"{name} {ids}: {semantics} is outside every class at {first}, {worst:.2f} times")

    def fault(self, name, path, ids, own, envelope, semantics):
        index, worst, first = envelope.place(own, traced(self.library, path, ids, semantics))
        self.faults.append((name, semantics, index, worst, first))
        if first is None and name == "demo" and semantics not in DROWNING:
            self.problems.append(f"{name} {ids}: {semantics} is inside a class, {worst:.2f} times")

    def run(self, n_prompts, n_fault_prompts):
        for i, (name, path, ids) in enumerate(self.cases(n_prompts)):
            own = traced(self.library, path, ids, "")
            envelope = Envelope(measured(self.program, path, ids))
            self.legal(name, path, ids, own, envelope)
            if i < n_fault_prompts or name != "demo":
                for semantics in FAULTS:
                    self.fault(name, path, ids, own, envelope, semantics)
                    self.fault(name, path, ids, own, envelope, at_layer(semantics, LAYER))

    def tables(self):
        out = ["| legal engine | named, prompts | farthest, of what the largest class measured |", "|---|---|---|"]
        for semantics, _ in LEGAL:
            named = ", ".join(f"{label} {n}" for label, n in self.named[semantics].most_common())
            out.append(f"| `{semantics}` | {named} | {max(self.worst[semantics]):.2f} |")
        out += ["", "| fault | outside | farthest, of what the largest class measured | first seen at |", "|---|---|---|---|"]
        for text in dict.fromkeys(f[1] for f in self.faults if f[0] == "demo"):
            rows = [f for f in self.faults if f[1] == text and f[0] == "demo"]
            n_outside = sum(f[4] is not None for f in rows)
            places = Counter(f"layer {f[4][1]}, {f[4][2]}" if f[4][1] >= 0 else f[4][2] for f in rows if f[4])
            first = places.most_common(1)[0][0] if places else ""
            out.append(f"| `{text}` | {n_outside} of {len(rows)} | {np.median([f[3] for f in rows]):.3g} | {first} |")
        return "\n".join(out)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("library")
    parser.add_argument("program")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--faults", type=int, default=2, help="of the prompts, those that faults are tried on")
    parser.add_argument("--tables", action="store_true")
    arguments = parser.parse_args()
    begin = time.time()
    with tempfile.TemporaryDirectory() as folder:
        controls = Controls(arguments.library, arguments.program, folder)
        controls.run(arguments.prompts, arguments.faults)
    if arguments.tables:
        print(controls.tables())
    for problem in controls.problems:
        print(problem)
    n_alarms = sum(named["outside"] for named in controls.named.values())
    print(f"{sum(map(len, controls.worst.values()))} legal runs, {n_alarms} outside every class; "
          f"{len(controls.faults)} faulty runs, {sum(f[4] is not None for f in controls.faults)} outside; "
          f"{time.time() - begin:.1f} s")
    return 1 if controls.problems else 0


if __name__ == "__main__":
    sys.exit(main())
