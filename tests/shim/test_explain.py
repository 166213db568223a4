#!/usr/bin/env python3
"""`bitnet explain` and `bitnet diff` on what the interposer recorded of the pinned prebuilt llama.cpp: every operation of
it is reproduced from its recorded inputs, with what it does in another way named, and damaged weights are found.

Usage: test_explain.py FOLDER_OF_THE_PREBUILT [unittest options]      needs numpy and gguf
"""

import json
import os
import shutil
import sys
import unittest
from pathlib import Path

from peer_models import write_pair
from support import MOCK, PROGRAM, Run, ShimTest

FOLDER = Path(sys.argv.pop(1))
DRIVER = MOCK / "bitnet_shim_llama"
SOURCE = Path(__file__).resolve().parent
SHAPE = dict(n_embd=256, n_ff=512, n_layer=3, n_head=4, n_kv=2, vocab=512)
ATTENTION = {"attn_scores", "attn_scores_softmax", "attn_context"}
LINEARS = {"q_proj", "k_proj", "v_proj", "attn_out", "ffn_gate", "ffn_up", "ffn_out"}
STEP_BY_STEP = "kv=f16,attn_q=f16,attn_p=f16"
ONE_PASS = "kv=f16,attn_q=f16,attn_sum=f16"


class ExplainTest(ShimTest):
    WHERE = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # thousands of small files

    def models(self, kind, arch="bitnet", **options):
        return write_pair(self.folder, f"{arch}-{kind}", kind, arch=arch, sub_norms=arch != "llama", **SHAPE, **options)

    def record(self, theirs, select="**", **options):
        """Raw values, as the interposer gives them to the npy plugin."""
        options = {"outputs": "all", "prompt": 9, "decode": 4, **options}
        name = f"raw-{theirs.stem}"
        run = self.shimmed(DRIVER, *[f"{k}={v}" for k, v in options.items()], FOLDER, theirs,
                           BITNET_TRACE_PLUGIN=f"npy:dir={self.folder / name},raw=all", BITNET_TRACE_SELECT=select)
        self.assertEqual(run.status, 0, run.err)
        return self.folder / name

    def explain(self, folder, ours, semantics, status=0):
        run = Run((PROGRAM, "explain", folder, "-m", ours, "--as", semantics, "--allow-other-model", "--format", "json"), {})
        self.assertEqual(run.status, status, run.out[:2000] + run.err)
        report = json.loads(run.out)
        groups = {}
        for group in report["groups"]:
            key = (group["outcome"], group["semantics"])
            groups[key] = {(o["layer"], o["stage"]) for o in group["operations"]}
        return report, groups


def everywhere(*stages):
    return {(layer, stage) for stage in stages for layer in range(SHAPE["n_layer"])}


class EveryOperation(ExplainTest):
    def check(self, kind, arch, flash):
        theirs, ours = self.models(kind, arch)
        quantised = kind != "F16"
        report, groups = self.explain(self.record(theirs, flash=flash), ours,
                                      "activation=silu" + (",profile=q8k" if quantised else ""))
        expected = {("legal", "head_input=f16"): {(-1, "logits")},
                    ("legal", STEP_BY_STEP if flash == 0 else ONE_PASS):
                        everywhere(*(ATTENTION if flash == 0 else {"attn_context"}))}
        if not quantised:
            expected["legal", "quant=f16"] = everywhere(*LINEARS)
        self.assertEqual(groups, expected)
        self.assertEqual((report["counts"]["wrong"], report["counts"]["uncompared"]), (0, 0))
        n_stages = 19 - (2 if arch == "llama" else 0) - (2 if flash else 0)
        self.assertEqual(len(report["operations"]), 3 * n_stages + 3)
        # Single precision in another order, and no more than that.
        self.assertLess(max(group["distance"] for group in report["groups"]), 1e-6 if flash == 0 else 2e-4)

    def test_tq2_0(self):
        self.check("TQ2_0", "bitnet", 0)

    def test_tq2_0_with_flash_attention(self):
        self.check("TQ2_0", "bitnet", -1)

    def test_tq1_0(self):
        self.check("TQ1_0", "bitnet", 0)

    def test_f16(self):
        self.check("F16", "bitnet", -1)

    def test_the_llama_architecture(self):
        self.check("TQ1_0", "llama", -1)
        self.check("F16", "llama", 0)

    def test_flash_attention_of_a_batch_differs_from_that_of_one_token(self):
        """From 64 rows on it takes another way, in f32: rows of one operation follow two alternatives."""
        theirs, ours = self.models("TQ2_0")
        report, groups = self.explain(self.record(theirs, prompt=66, decode=3), ours, "activation=silu,profile=q8k")
        self.assertEqual(set(groups), {("legal", "head_input=f16"), ("legal", f"kv=f16|{ONE_PASS}")})
        group = next(g for g in report["groups"] if "|" in g["semantics"])
        self.assertIn("for 3 rows from position 66 on, and for the rest: F16 KV cache", group["text"])

    def test_probabilities_next_to_a_tie(self):
        """Rounded to F16, some of this many would go the other way: the recorded ones count, not ours."""
        theirs, ours = self.models("TQ2_0")
        folder = self.record(theirs, flash=0, prompt=120, decode=0, outputs="last", select="*:0:attn_scores_softmax,*:0:q_rope,"
                             "*:0:k_rope,*:0:v_proj,*:0:attn_context")
        report, groups = self.explain(folder, ours, "activation=silu,profile=q8k")
        self.assertEqual(groups, {("legal", STEP_BY_STEP): {(0, "attn_scores_softmax"), (0, "attn_context")}})
        self.assertLess(report["groups"][0]["distance"], 1e-6)

    def test_threads_that_share_a_sum(self):
        theirs, ours = self.models("TQ2_0")
        for threads, text in ((1, "one pass with F16 sums"), (2, "F16 sums in parts (flash attention of several threads)")):
            folder = self.record(theirs, prompt=514, decode=3, outputs="last", threads=threads,
                                 select="*:0:q_rope,*:0:k_rope,*:0:v_proj,*:0:attn_context")
            report, groups = self.explain(folder, ours, "activation=silu,profile=q8k")
            self.assertEqual(groups, {("legal", f"kv=f16|{ONE_PASS}"): {(0, "attn_context")}})
            self.assertIn(text, report["groups"][0]["text"])
            shutil.rmtree(folder)


@unittest.skipUnless(shutil.which("node"), "no node")
class Node(ExplainTest):
    def test_every_operation_of_a_node_program(self):
        theirs, ours = self.models("TQ2_0")
        addon = FOLDER / "llama-addon.node"
        run = self.shimmed("node", SOURCE / "node_addon.mjs", addon, theirs, "9", "4", BITNET_TRACE_SELECT="**",
                           BITNET_TRACE_PLUGIN=f"npy:dir={self.folder / 'raw'},raw=all")
        self.assertEqual(run.status, 0, run.err)
        report, groups = self.explain(self.folder / "raw", ours, "activation=silu,profile=q8k")
        self.assertEqual(groups, {("legal", "head_input=f16"): {(-1, "logits")},
                                  ("legal", ONE_PASS): everywhere("attn_context")})
        self.assertEqual((report["counts"]["wrong"], report["counts"]["uncompared"]), (0, 0))


class Rerun(ExplainTest):
    """bitnet explain runs the program itself, twice, with the interposer preloaded."""

    def rerun(self, theirs, ours, status):
        run = Run((PROGRAM, "explain", "--rerun", "-m", ours, "--as", "activation=silu,profile=q8k", "--allow-other-model",
                   "--no-flash", "--format", "json", "--", DRIVER, "outputs=all", "prompt=9", "decode=4", FOLDER, theirs), {})
        self.assertEqual(run.status, status, run.out[:2000] + run.err)
        return json.loads(run.out)

    def test_every_operation_of_llama_cpp(self):
        theirs, ours = self.models("TQ2_0")
        report = self.rerun(theirs, ours, 0)
        self.assertEqual({(g["outcome"], g["semantics"]) for g in report["groups"]},
                         {("legal", "head_input=f16"), ("legal", STEP_BY_STEP)})
        self.assertGreater(report["counts"]["reproduced"], 40)
        self.assertTrue(any(fact.startswith("run twice, the second time for the raw values of position ")
                            for fact in report["facts"]), report["facts"])

    def test_damaged_weights(self):
        def negate(weights):
            weights[7, :256] *= -1
        theirs, ours = self.models("TQ2_0", damage=("blk.1.ffn_up.weight", negate))
        report = self.rerun(theirs, ours, 1)
        self.assertEqual([(o["layer"], o["stage"]) for o in report["operations"] if o["outcome"] == "wrong"], [(1, "ffn_up")])


class Damage(ExplainTest):
    """A block of weights with the other sign in the file that llama.cpp reads."""

    def test_explain_names_layer_and_operation(self):
        def negate(weights):
            weights[7, :256] *= -1
        theirs, ours = self.models("TQ2_0", damage=("blk.1.ffn_up.weight", negate))
        report, groups = self.explain(self.record(theirs, flash=0), ours, "activation=silu,profile=q8k", status=1)
        self.assertEqual(groups["wrong", ""], {(1, "ffn_up")})
        self.assertEqual(len(groups), 3)
        (wrong,) = [o for o in report["operations"] if o["outcome"] == "wrong"]
        self.assertEqual(wrong["index"], 7)

    def test_diff_names_layer_and_operation(self):
        def other_scale(weights):
            weights[:, :] *= 2
        traces = []
        command = (DRIVER, "flash=0", "outputs=all", "prompt=9", "decode=0", FOLDER)
        for name, damage in (("good", None), ("damaged", ("blk.2.attn_output.weight", other_scale))):
            (theirs, ours) = self.models("TQ2_0", damage=damage)
            self.traced(*command, theirs, name=f"{name}.jsonl", BITNET_TRACE_SELECT="**")
            traces.append(self.folder / f"{name}.jsonl")
        for first in (traces[0], self.ours(ours, traces[0])):
            run = Run((PROGRAM, "diff", first, traces[1], "--ignore", "model_hash", "--format", "json"), {})
            self.assertEqual(run.status, 1, run.out + run.err)
            origins = json.loads(run.out)["origins"]
            self.assertEqual([(o["layer"], o["stage"]) for o in origins], [(2, "attn_out")], first)
            self.assertAlmostEqual(origins[0]["relative"], 1, delta=0.2)  # twice as large
        run = Run((PROGRAM, "diff", self.folder / "ours.jsonl", traces[0], "--ignore", "model_hash", "--tolerance", "3e-4"), {})
        self.assertEqual(run.status, 0, run.out)  # without damage every record of the two engines

    def ours(self, model, theirs):
        """This engine on the same tokens, as llama.cpp computes."""
        tokens = [t for line in theirs.read_text().splitlines() if '"step"' in line for t in json.loads(line)["tokens"]]
        path = self.folder / "ours.jsonl"
        run = Run((PROGRAM, "trace", "-m", model, "--tokens", ",".join(map(str, tokens)), "--as",
                   f"activation=silu,profile=q8k,head_input=f16,{STEP_BY_STEP}", "--select", "**", "-o", path), {})
        self.assertEqual(run.status, 0, run.err)
        return path


if __name__ == "__main__":
    unittest.main()
