#!/usr/bin/env python3
"""Envelopes against numpy: test_oracle.py LIBBITNET_SO BITNET [unittest options]

Every number of an envelope is computed again from raw values: of the plain variations from what the npy plugin wrote, of the
seeded ones with flips, roundings and held codes that are written here once more, after ENVELOPE.md. And what bitnet.cpp
recorded is judged.
"""

import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np

import controls
from controls import DEMO, QUANTISED, ROOT, SMALL, Envelope, measured, relative
from library import Library, _Sink

RECORDING = ROOT / "tests/data/bitnetcpp.npz"
IDS = [477, 10, 20, 30, 40, 21]
STAGES = {name: i + 1 for i, name in enumerate(
    "embeddings attn_norm q_proj k_proj v_proj q_rope k_rope attn_scores attn_scores_softmax attn_context attn_sub_norm "
    "attn_out attn_residual ffn_norm ffn_gate ffn_up ffn_act ffn_sub_norm ffn_out layer_out final_norm logits".split())}
PLAIN = {"f16-kv": ["kv=f16", "kv=f16,attn_q=f16", "profile=bitnetcpp"], "bf16": ["profile=hf-bf16"],
         "block256": ["quant=block256_int8", "quant=block256_int8,kv=f16,attn_q=f16"]}
LIBRARY = BITNET = None


def mixed(x):
    """SplitMix64's finaliser."""
    mask = 2**64 - 1
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


def row_seed(position, layer, stage, seed):
    return mixed(((position << 32 | (layer + 1) << 16 | STAGES[stage]) + seed * 0x9E3779B97F4A7C15) & (2**64 - 1))


def flipped(row, seed):
    row = row.copy()
    scale = 127 / np.abs(row).max().astype(np.float64)
    steps = np.abs(row.astype(np.float64)) * scale
    distance = np.abs(steps - np.floor(steps) - 0.5)
    distance[np.abs(row) == np.abs(row).max()] = 9
    i = np.argsort(distance, kind="stable")[:4][seed % 4]
    tie = np.floor(steps[i]) + 0.5
    moved = tie + 1e-3 if steps[i] < tie or (steps[i] == tie and tie % 2 == 0.5) else tie - 1e-3
    row[i] = np.copysign(np.float32(moved / scale), row[i])
    return row


def rounded(row, seed):
    return (row.astype(np.float64) * (1 + (-2, -1, 1, 2)[seed % 4] * 2.0**-23)).astype(np.float32)


def held(row, own):
    most = np.abs(own).max()
    scaled, other = (x.astype(np.float64) * (127 / most.astype(np.float64)) for x in (own, row))
    tie = np.abs(np.abs(scaled) % 1 - 0.5) < 1e-3
    largest = (np.abs(own) == most) | (np.abs(row) >= most)
    return np.where(tie | largest | (np.rint(scaled) != np.rint(other)), own, row).astype(np.float32)


class Disturbed(_Sink):
    """Replaces the inputs of the quantisers by `change(row, key, position)`."""

    def __init__(self, change):
        super().__init__({})
        self.change = change

    def _tensor(self, pointer):
        super()._tensor(pointer)
        event = pointer.contents
        key = event.header.layer, event.stage_name.decode()
        for r in range(event.n_rows if key[1] in QUANTISED else 0):
            position = event.header.position + r
            self.forced = {key: {position: np.ascontiguousarray(self.change(self.rows[key][position], key, position))}}
            self._force(pointer, key, r, position)


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="bitnet-envelope-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def raw(self, semantics=None):
        """{(layer, stage): {position: row}} of the npy plugin."""
        folder = Path(tempfile.mkdtemp(dir=self.folder)) / "raw"
        override = ["--as", semantics] if semantics else []
        subprocess.run([BITNET, "trace", "-m", DEMO, "--tokens", ",".join(map(str, IDS)), *override, "--plugin",
                        f"npy:dir={folder},raw=all"], check=True, capture_output=True)
        record = {}
        for path in sorted(folder.glob("run-000000/*.npy")):
            name = re.fullmatch(r"\d+-t(\d+)(?:-blk(\d+))?-([a-z_]+)", path.stem)
            layer = -1 if name[2] is None else int(name[2])
            record.setdefault((layer, name[3]), {})[int(name[1])] = np.load(path).reshape(-1)
        return record

    def check_class(self, found, own, others):
        """Every number of a class is the largest over `others`, records of its variations."""
        self.assertEqual({(s["layer"], s["stage"]) for s in found["stages"]}, set(own))
        for s in found["stages"]:
            key = s["layer"], s["stage"]
            rows = [(a.astype("f8"), other[key][position].astype("f8"), position) for other in others
                    for position, a in own[key].items()]
            distances = [np.linalg.norm(a - b) / np.linalg.norm(a) for a, b, _ in rows]
            units = [((a / np.linalg.norm(a) - b / np.linalg.norm(b)) ** 2).sum() / 2 for a, b, _ in rows]
            self.assertLessEqual(abs(s["relative"] - max(distances)), 1e-12 * max(distances), (found["name"], key))
            self.assertLessEqual(abs(s["one_minus_cosine"] - max(units)), 1e-6 * max(units) + 1e-28, (found["name"], key))
            if max(distances) > 0:
                at = {p for (_, _, p), d in zip(rows, distances) if d >= max(distances) * (1 - 1e-12)}
                self.assertIn(s["position"], at)
        for reach in found["logits"]:
            position = reach["position"]
            want = [controls_metrics(own[-1, "logits"][position], other[-1, "logits"][position]) for other in others]
            for name in ("nmse", "kl", "max_abs"):
                most = max(w[name] for w in want)
                self.assertLessEqual(abs(reach[name] - most), 1e-9 * most + 1e-15, (found["name"], position, name))
            self.assertEqual(reach["top1_equal"], all(w["top1"] for w in want))

    def test_plain_variations_from_npy_traces(self):
        document = measured(BITNET, DEMO, IDS, "--seeds", "0")
        self.assertEqual(document["seeds"], 0)
        own = self.raw()
        for found in document["classes"][1:]:
            self.assertEqual(found["variations"], PLAIN[found["name"]])
            self.check_class(found, own, [self.raw(semantics) for semantics in PLAIN[found["name"]]])

    def disturbed(self, semantics, change):
        model = Library(LIBRARY).load(DEMO, semantics=semantics)
        context, sink = model.context(n_ctx=len(IDS)), Disturbed(change)
        check, dll = context.library.check, context.dll
        check(dll.bitnet_trace_set_sink(context.handle, sink.table, None))
        check(dll.bitnet_trace_select(context.handle, b"*"))
        context.eval(IDS, 2)
        check(dll.bitnet_trace_set_sink(context.handle, None, None))
        if sink.error:
            raise sink.error
        return sink.rows

    def test_seeded_variations(self):
        document = measured(BITNET, DEMO, IDS, "--seeds", "2")
        own = self.raw()
        f32 = [self.disturbed(semantics, lambda row, key, position: held(row, own[key][position]))
               for semantics in ("rope_angle=steps_f32", "quant=dequantised")]
        f32 += [self.disturbed(None, lambda row, key, position, seed=seed: held(
            rounded(row, row_seed(position, *key, seed)), own[key][position])) for seed in (1, 2)]
        self.check_class(document["classes"][0], own, f32)
        for found, semantics in zip(document["classes"][1:], ("profile=bitnetcpp", "profile=hf-bf16", PLAIN["block256"][1])):
            flips = [self.disturbed(semantics, lambda row, key, position, seed=seed: flipped(row, row_seed(position, *key, seed)))
                     for seed in (1, 2)]
            self.assertEqual(found["variations"][-2:], [f"{semantics}, codes flipped, seed {i}" for i in (1, 2)])
            self.check_class(found, own, [self.raw(s) for s in PLAIN[found["name"]]] + flips)

    def test_what_bitnetcpp_recorded_is_f16_kv_noise(self):
        with np.load(RECORDING) as file:
            recording = dict(file.items())
        ids = recording["ids"].tolist()
        own = controls.traced(Library(LIBRARY), SMALL, ids, "")
        theirs = {}
        for key in own:
            name = f"{key[0]}/{key[1]}"
            if key[1] != "ids" and name in recording:
                theirs[key] = recording[name].reshape(len(ids), -1)
        self.assertGreater(len(theirs), 50)
        envelope = Envelope(measured(BITNET, SMALL, ids))
        index, worst, first = envelope.place(own, theirs)
        self.assertEqual((envelope.names[index], first), ("f16-kv", None))
        self.assertLess(worst, 1)
        theirs[1, "q_rope"] = -theirs[1, "q_rope"]
        self.assertEqual(envelope.place(own, theirs)[2], (0, 1, "q_rope"))


def controls_metrics(a, b):
    x, y = a.astype(np.longdouble), b.astype(np.longdouble)
    log_p = x - x.max() - np.log(np.exp(x - x.max()).sum())
    log_q = y - y.max() - np.log(np.exp(y - y.max()).sum())
    return {"nmse": float(((x - y) ** 2).sum() / (x * x).sum()), "kl": float((np.exp(log_p) * (log_p - log_q)).sum()),
            "max_abs": float(np.abs(x - y).max()), "top1": a.argmax() == b.argmax()}


if __name__ == "__main__":
    LIBRARY, BITNET = (Path(path).resolve() for path in sys.argv[1:3])
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
