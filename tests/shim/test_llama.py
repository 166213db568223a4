#!/usr/bin/env python3
"""The interposer in a real llama.cpp, the pinned prebuilt one: from C in every way of evaluating, and from Node; its trace
against our own engine's of the same weights.

Usage: test_llama.py FOLDER_OF_THE_PREBUILT [unittest options]
"""

import base64
import itertools
import math
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from support import ALL_STAGES, AUDIT, MOCK, PROGRAM, Run, ShimTest, clean_environment, kinds, read_trace, tensors

FOLDER = Path(sys.argv.pop(1))
DRIVER = MOCK / "bitnet_shim_llama"
SOURCE = Path(__file__).resolve().parent


def make_models(folder):
    """The same weights for llama.cpp and for us."""
    for kind in ("tq2_0", "i2_s"):
        subprocess.run([PROGRAM, "make-model", "--preset", "tiny", "--ff", "512", "--layers", "3", "--type", kind, "-o",
                        folder / f"{kind}.gguf"], check=True, capture_output=True)


class LlamaTest(ShimTest):
    @classmethod
    def setUpClass(cls):
        if not list(FOLDER.glob("libllama.*")):
            raise AssertionError(f"no libllama in {FOLDER}: scripts/setup.sh tests installs it")
        cls.models = tempfile.TemporaryDirectory()
        make_models(Path(cls.models.name))

    @classmethod
    def tearDownClass(cls):
        cls.models.cleanup()

    def model(self, kind="tq2_0"):
        return Path(self.models.name) / f"{kind}.gguf"

    def command(self, **options):
        return (DRIVER, *[f"{k}={v}" for k, v in options.items()], FOLDER, self.model())


class Evaluation(LlamaTest):
    def test_every_way_of_evaluating(self):
        for flash, ubatch, outputs in itertools.product((0, -1), (512, 4), ("last", "all")):
            command = self.command(flash=flash, ubatch=ubatch, outputs=outputs, prompt=11, decode=4, repeat=1)
            plain = self.plain(*command)
            self.assertEqual((plain.status, len(plain.out.splitlines())), (0, 8), plain.err)
            traces = []
            for mode in ("retain", "callback"):
                run, records = self.traced(*command, BITNET_SHIM_MODE=mode, BITNET_TRACE_SELECT="**")
                self.assert_same(plain, run)
                self.assertEqual([r["tokens"] for r in kinds(records, "run_end")], [15, 15])
                traces.append(tensors(records))
            self.assertEqual(*traces)
            hidden = {"attn_scores", "attn_scores_softmax"} if flash else set()
            self.assertEqual({k[3] for k in traces[0]}, ALL_STAGES - hidden)

    def test_two_threads(self):
        # Few tokens: where other programs compute as well, each node's threads wait for each other.
        _, expected = self.traced(*self.command(flash=0, prompt=3, decode=1))
        command = self.command(flash=0, prompt=3, decode=1, threads=2)
        plain = self.plain(*command)
        for mode in ("retain", "callback"):
            run, records = self.traced(*command, BITNET_SHIM_MODE=mode)
            self.assert_same(plain, run)
            self.assertEqual(tensors(expected), tensors(records))

    def test_a_long_conversation(self):
        command = self.command(flash=0, ubatch=16, prompt=50, decode=32, outputs="all")
        plain = self.plain(*command)
        run, records = self.traced(*command, BITNET_TRACE_SELECT="**")
        self.assert_same(plain, run)
        self.assertEqual([(r["run"], r["n"]) for r in kinds(records, "step")], [(0, n) for n in [16, 16, 16, 2] + [1] * 32])
        found = tensors(records)
        outside = {"embeddings", "final_norm", "logits"}
        self.assertEqual(set(found), {(0, position, layer, stage) for position in range(82) for stage in ALL_STAGES
                                      for layer in ([-1] if stage in outside else range(3))})
        again, other = self.traced(*command, BITNET_TRACE_SELECT="**", BITNET_SHIM_MODE="callback", name="other.jsonl")
        self.assert_same(plain, again)
        self.assertEqual(tensors(other), found)
        softmax = [r for r in kinds(records, "tensor") if r["stage"] == "attn_scores_softmax"]
        self.assertTrue(all(r["shape"] == [4, r["seq"] + 1] for r in softmax))

    def test_the_self_check(self):
        command = self.command(ubatch=4, outputs="all", prompt=11, decode=4)
        run = Run((PROGRAM, "trace", "--self-check", "-o", self.folder / "checked.jsonl", "--", *command), {})
        self.assertEqual((run.status, run.out), (0, self.plain(*command).out), run.err)
        self.assertRegex(run.err, r"self-check passed: .*; the same bits in 15 rows of logits, read alone and with all that")

    def test_what_the_run_record_says(self):
        _, records = self.traced(*self.command(flash=0))
        run = records[0]
        self.assertEqual((run["engine"], run["architecture"], run["kv_type"]), ("llama.cpp", "bitnet", "f16"))
        self.assertEqual(run["model_path"], str(self.model()))
        self.assertEqual(run["tokens"], [1, 752, 479, 206, 957])
        self.assertEqual(run["hyperparameters"], {"n_vocab": 1024, "n_ctx_train": 512, "n_embd": 256, "n_layer": 3, "n_ff": 512,
                                                  "n_head": 4, "n_head_kv": 2, "head_dim": 64, "n_rot": 64})
        self.assertEqual(run["semantics"], {"eps": "1e-05", "theta": "500000"})
        self.assertRegex(run["isa"], "^ggml-cpu-")
        self.assertRegex(run["engine_version"], r"^libllama\..*, ggml \d+\.\d+")
        b3sum = shutil.which("b3sum")
        if b3sum:
            expected = subprocess.run([b3sum, "--no-names", self.model()], capture_output=True, text=True).stdout.strip()
            self.assertEqual(run["model_hash"], expected)
        _, records = self.traced(*self.command(flash=0), BITNET_SHIM_HASH_MODEL="0")
        self.assertEqual(records[0]["model_hash"], "")

    def test_inputs_are_what_the_operations_read(self):
        result = self.folder / "checked.txt"
        for flash, attention in ((0, 24), (-1, 0)):
            for mode in ("retain", "callback"):
                run = self.shimmed(*self.command(flash=flash, ubatch=3, outputs="all"), BITNET_TRACE_SELECT="**",
                                   BITNET_SHIM_MODE=mode, BITNET_SHIM_INPUTS="all",
                                   BITNET_TRACE_PLUGIN=f"{MOCK}/bitnet_shim_input_check.so:{result}")
                self.assertEqual(run.status, 0, run.err)
                self.assertRegex(result.read_text(), rf"^rows [1-9]\d\d cache [1-9]\d attention {attention} wrong 0\n")

    def test_flash_attention_is_avoided_when_asked(self):
        plain = self.plain(*self.command(flash=0))
        run, records = self.traced(*self.command(flash=-1), BITNET_SHIM_NO_FLASH="1")
        self.assert_same(plain, run)
        self.assertIn("attn_scores_softmax", {k[3] for k in tensors(records)})

    def test_a_callback_of_the_programs_own(self):
        plain = self.plain(*self.command(callback=1))
        self.assertRegex(plain.out, r"seen 12\n$")
        for mode in ("retain", "callback"):
            run, records = self.traced(*self.command(callback=1), BITNET_SHIM_MODE=mode)
            self.assert_same(plain, run)
            self.assertGreater(len(tensors(records)), 100)

    def test_contexts_on_threads(self):
        command = self.command(contexts=3, flash=0)
        run, _ = self.traced(*command)
        self.assert_same(self.plain(*command), run)
        expected = []
        for first in (1, 2, 3):
            _, records = self.traced(*self.command(first=first, flash=0), name=f"single{first}.jsonl")
            expected.append(tensors(records))
        found = [tensors(read_trace(self.folder / name)) for name in ("trace.jsonl", "trace-1.jsonl", "trace-2.jsonl")]
        for trace in expected:
            self.assertIn(trace, found)

    def test_scopes_and_ends(self):
        plain = self.plain(*self.command())
        _, expected = self.traced(*self.command())
        for scope in ("local", "global"):
            for leave in ("free", "exit"):
                run, records = self.traced(*self.command(scope=scope, leave=leave))
                self.assert_same(plain, run)
                self.assertEqual(tensors(expected), tensors(records))
                self.assertEqual(len(kinds(records, "run_end")), 1)
        for leave in ("_exit", "abort"):
            run, records = self.traced(*self.command(leave=leave), cut=True)
            self.assertEqual(plain.out, run.out)
            self.assertLessEqual(set(tensors(records).items()), set(tensors(expected).items()))
        run, records = self.traced(*self.command(scope="deepbind"))
        self.assert_same(plain, run)
        self.assertEqual(records, [])
        run, records = self.traced(*self.command(scope="deepbind"), LD_AUDIT=str(AUDIT))
        self.assert_same(plain, run)
        self.assertEqual(tensors(expected), tensors(records))
        command = self.command(fork=1)
        run, records = self.traced(*command)
        self.assert_same(self.plain(*command), run)
        self.assertEqual(tensors(expected), tensors(records))


class AgainstOurEngine(LlamaTest):
    def test_the_same_weights_give_the_same_stages(self):
        _, theirs = self.traced(*self.command(flash=0, outputs="all"), BITNET_TRACE_SELECT="**")
        steps = kinds(theirs, "step")
        tokens = [str(t) for step in steps for t in step["tokens"]]
        path = self.folder / "ours.jsonl"
        subprocess.run([PROGRAM, "trace", "-m", self.model("i2_s"), "--tokens", ",".join(tokens), "--as", "activation=silu",
                        "--kv", "f16", "--select", "**", "-o", path], check=True, capture_output=True, env=clean_environment({}))

        def by_key(records):
            return {(r["seq"], r["layer"], r["stage"]): r for r in kinds(records, "tensor")}
        ours, theirs = by_key(read_trace(path)), by_key(theirs)
        self.assertEqual(set(ours), set(theirs))
        self.assertEqual({k: r["shape"] for k, r in ours.items()}, {k: r["shape"] for k, r in theirs.items()})

        def sketch(record):
            return struct.unpack("<64f", base64.b64decode(record["sketch"]))
        for key, record in ours.items():
            distance = math.dist(sketch(record), sketch(theirs[key])) / record["l2"]
            if key[2] == "embeddings":
                allowed = 0  # no arithmetic
            elif key[1] == 0 and key[2] in ("attn_norm", "q_proj", "k_proj", "v_proj", "q_rope", "k_rope"):
                allowed = 2e-6  # one block of activations: the scales are the same
            else:
                allowed = 0.15  # scales of 256 values there, of a row here
            self.assertLessEqual(distance, allowed, key)


class OtherModels(LlamaTest):
    def test_the_llama_architecture(self):
        path = self.folder / "llama.gguf"
        write_llama(path, self.model())
        command = (DRIVER, "flash=0", FOLDER, path)
        plain = self.plain(*command)
        self.assertEqual(plain.status, 0, plain.err)
        traces = []
        for mode in ("retain", "callback"):
            run, records = self.traced(*command, BITNET_TRACE_SELECT="**", BITNET_SHIM_MODE=mode)
            self.assert_same(plain, run)
            self.assertEqual(records[0]["architecture"], "llama")
            traces.append(tensors(records))
        self.assertEqual(*traces)
        self.assertEqual({k[3] for k in traces[0]}, ALL_STAGES - {"attn_sub_norm", "ffn_sub_norm"})


def write_llama(path, source):
    """The tokenizer of `source` and random F16 weights of the architecture llama."""
    data = Path(source).read_bytes()
    n_tensors, n_keys = struct.unpack_from("<QQ", data, 8)
    at = 24
    keys = []

    def skip(kind, at):
        sizes = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
        if kind == 8:
            return at + 8 + struct.unpack_from("<Q", data, at)[0]
        if kind == 9:
            item, n = struct.unpack_from("<IQ", data, at)
            at += 12
            for _ in range(n):
                at = skip(item, at)
            return at
        return at + sizes[kind]
    for _ in range(n_keys):
        n = struct.unpack_from("<Q", data, at)[0]
        name = data[at + 8:at + 8 + n]
        kind = struct.unpack_from("<I", data, at + 8 + n)[0]
        end = skip(kind, at + 12 + n)
        value = data[at + 8 + n:end]
        name = name.replace(b"bitnet.", b"llama.")
        if name == b"general.architecture":
            value = struct.pack("<IQ", 8, 5) + b"llama"
        keys.append(struct.pack("<Q", len(name)) + name + value)
        at = end
    embd, ff, heads, heads_kv, layers, vocab = 256, 512, 4, 2, 2, 1024
    keys = [k.replace(struct.pack("<Q", 17) + b"llama.block_count" + struct.pack("<II", 4, 3),
                      struct.pack("<Q", 17) + b"llama.block_count" + struct.pack("<II", 4, layers)) for k in keys]
    shapes = [("token_embd.weight", (embd, vocab)), ("output_norm.weight", (embd,)), ("output.weight", (embd, vocab))]
    for layer in range(layers):
        for name, shape in (("attn_norm", (embd,)), ("attn_q", (embd, embd)), ("attn_k", (embd, embd // heads * heads_kv)),
                            ("attn_v", (embd, embd // heads * heads_kv)), ("attn_output", (embd, embd)), ("ffn_norm", (embd,)),
                            ("ffn_gate", (embd, ff)), ("ffn_up", (embd, ff)), ("ffn_down", (ff, embd))):
            shapes.append((f"blk.{layer}.{name}.weight", shape))
    infos, body, state = b"", b"", 1
    for name, shape in shapes:
        is_norm = len(shape) == 1
        n = math.prod(shape)
        values = []
        for _ in range(64):  # enough to be no two rows alike
            state = (state * 1103515245 + 12345) % 2**31
            values.append(1.0 if is_norm else (state / 2**30 - 1) * 0.1)
        packed = b"".join(struct.pack("<f" if is_norm else "<e", values[(i * 31 + i // 64) % 64]) for i in range(n))
        infos += struct.pack("<Q", len(name)) + name.encode() + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        infos += struct.pack("<IQ", 0 if is_norm else 1, len(body))
        body += packed + bytes(-len(packed) % 32)
    header = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(keys)) + b"".join(keys) + infos
    Path(path).write_bytes(header + bytes(-len(header) % 32) + body)


@unittest.skipUnless(shutil.which("node"), "no node")
class Node(LlamaTest):
    def test_an_addon_of_node(self):
        command = ("node", SOURCE / "node_addon.mjs", FOLDER / "llama-addon.node", self.model(), "9", "32")
        plain = self.plain(*command)
        self.assertEqual(plain.status, 0, plain.err)
        self.assertEqual(len(plain.out.split()), 33)
        run, records = self.traced(*command)
        self.assert_same(plain, run)
        found = tensors(records)
        self.assertEqual({k[1] for k in found if k[3] == "k_rope"}, set(range(9 + 32)))
        self.assertEqual(kinds(records, "step")[0]["n"], 9)


if __name__ == "__main__":
    unittest.main()
