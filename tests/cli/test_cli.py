#!/usr/bin/env python3
"""The program from outside: python3 test_cli.py PATH_OF_BITNET [unittest options]

Outputs, exit codes, environment variables and failure paths of every command.
"""

import ctypes
import hashlib
import json
import os
import pty
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

PROGRAM = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else None
SMALL = Path(__file__).resolve().parent.parent / "data" / "small.gguf"
TIMEOUT_SECONDS = 300
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2

# `bitnet make-model --preset tiny`: the same bytes on every machine.
TINY_SHA256 = "ff364615842f68649e6cedb58266502f94320bea8de7e61c079ea70a054c9453"

OFFICIAL_KEYS = [
    "general.architecture", "general.name", "bitnet-b1.58.vocab_size", "bitnet-b1.58.context_length",
    "bitnet-b1.58.embedding_length", "bitnet-b1.58.block_count", "bitnet-b1.58.feed_forward_length",
    "bitnet-b1.58.rope.dimension_count", "bitnet-b1.58.attention.head_count", "bitnet-b1.58.attention.head_count_kv",
    "tokenizer.ggml.add_bos_token", "bitnet-b1.58.attention.layer_norm_rms_epsilon", "bitnet-b1.58.rope.freq_base",
    "general.file_type", "tokenizer.ggml.model", "tokenizer.ggml.tokens", "tokenizer.ggml.scores",
    "tokenizer.ggml.token_type", "tokenizer.ggml.merges", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.padding_token_id", "tokenizer.chat_template", "general.quantization_version"]


def refuse_constant(name):
    raise ValueError(f"{name} is not JSON")


def strict_json(text):
    return json.loads(text, parse_constant=refuse_constant)


def clean_environment(extra):
    kept = {key: value for key, value in os.environ.items() if not key.startswith("BITNET_") and key != "NO_COLOR"}
    return {**kept, **extra}


def without_file_privileges():
    """In the child: root must obey file modes too."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
            if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
                raise OSError(ctypes.get_errno(), "cannot drop a capability of root")


def limit_file_size(n_bytes):
    """In the child: a disk that is full after so many bytes."""
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))
    return limit


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="bitnet-cli-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def bitnet(self, *arguments, stdin=b"", env=None, **options):
        options.setdefault("stdout", subprocess.PIPE)
        return subprocess.run([PROGRAM, *map(str, arguments)], input=stdin, stderr=subprocess.PIPE, cwd=self.folder,
                              env=clean_environment(env or {}), timeout=TIMEOUT_SECONDS, **options)

    def good(self, *arguments, **options):
        """stdout as bytes of a run that must succeed."""
        result = self.bitnet(*arguments, **options)
        self.assertEqual(result.returncode, 0, result.stderr[-2000:])
        return result.stdout

    def json(self, *arguments, **options):
        return strict_json(self.good(*arguments, **options).decode())

    def bad(self, expected, *arguments, **options):
        """A run that must fail with exit code 2, nothing on stdout and one line that contains `expected`."""
        result = self.bitnet(*arguments, **options)
        text = result.stderr.decode()
        self.assertEqual(result.returncode, 2, (arguments, text))
        self.assertFalse(result.stdout, arguments)
        self.assertRegex(text, r"\Abitnet: [^\n]+\n\Z")
        self.assertIn(expected, text)

    def small(self, command, *arguments, **options):
        return self.good(command, "-m", SMALL, *arguments, **options)

    def ids(self, *arguments, **options):
        return [int(item) for item in self.small("tokenize", *arguments, **options).split()]

    def usable_isas(self):
        line = self.good("--version").decode().splitlines()[1]
        found = re.findall(r" ([\w-]+)( \(not on this CPU\))?", line.split(":")[1])
        return [name for name, unusable in found if not unusable]

    def on_terminal(self, stream, *arguments, env=None):
        """The bytes the program writes to `stream` when that is a terminal."""
        ours, theirs = pty.openpty()
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: theirs}
        with subprocess.Popen([PROGRAM, *map(str, arguments)], cwd=self.folder, env=clean_environment(env or {}),
                              stdin=subprocess.DEVNULL, **streams) as process:
            os.close(theirs)
            written = b""
            while True:
                try:
                    chunk = os.read(ours, 65536)
                except OSError:  # the other side is closed
                    chunk = b""
                if not chunk:
                    break
                written += chunk
            os.close(ours)
            process.communicate(timeout=TIMEOUT_SECONDS)
        self.assertEqual(process.returncode, 0, written)
        return written


class Program(Case):
    def test_help_lists_commands_and_environment(self):
        text = self.good("--help").decode()
        for word in ("run", "trace", "diff", "certify", "tokenize", "inspect", "make-model", "bench", "BITNET_ISA",
                     "BITNET_TRACE_PLUGIN", "BITNET_TRACE_SELECT", "BITNET_TRACE_DIR", "BITNET_PLUGIN_PATH",
                     "BITNET_TRACE_VERBOSE", "BITNET_SEED", "BITNET_DETERMINISTIC", "BITNET_DEBUG_LOGITS"):
            self.assertRegex(text, rf"(?m)^  {re.escape(word)} ")

    def test_every_command_has_help(self):
        for command in ("run", "trace", "diff", "certify", "tokenize", "inspect", "make-model", "bench"):
            self.assertIn(f"Usage: bitnet {command}", self.good(command, "--help").decode())

    def test_version(self):
        lines = self.good("--version").decode().splitlines()
        self.assertRegex(lines[0], r"^bitnet \d+\.\d+\.\d+ \(ABI \d+\.\d+\)$")
        self.assertRegex(lines[1], r"^instruction sets: scalar\b")

    def test_wrong_commands(self):
        self.bad("no command")
        self.bad("unknown command 'fly': expected one of run,", "fly")
        self.bad("unknown command '--fly'", "--fly")
        self.bad("unknown command ''", "")
        self.bad("--fly", "run", "-p", "x", "--fly")
        self.bad("--a\\x0Ab", "run", "-p", "x", "--a\nb")
        self.bad("--prompt=: an empty value is its own argument: --prompt ''", "run", "--prompt=", "-n", "1")

    def test_stdout_that_cannot_be_written(self):
        with open("/dev/full", "wb") as full:
            for arguments in (["run", "-m", SMALL, "-p", "x", "-n", "2"], ["tokenize", "-m", SMALL, "-p", "x"],
                              ["inspect", "-m", SMALL], ["--help"], ["--version"]):
                self.bad("stdout: cannot write: No space left on device", *arguments, stdout=full)


class Models(Case):
    """Failures that every command with a model has."""

    def test_files_that_are_no_models(self):
        empty = self.folder / "empty.gguf"
        empty.write_bytes(b"")
        text = self.folder / "text.gguf"
        text.write_bytes(b"this is no model " * 100)
        cut = self.folder / "cut.gguf"
        cut.write_bytes(SMALL.read_bytes()[:10000])
        secret = self.folder / "secret.gguf"
        secret.write_bytes(SMALL.read_bytes())
        secret.chmod(0)
        for command in (["run", "-p", "x"], ["trace", "-p", "x", "-o", "t.jsonl"], ["tokenize", "-p", "x"],
                        ["inspect"]):
            self.bad("nothere.gguf: cannot open: No such file or directory", *command, "-m", "nothere.gguf")
            self.bad("Is a directory", *command, "-m", self.folder)
            self.bad("secret.gguf: cannot open: Permission denied", *command, "-m", secret,
                     preexec_fn=without_file_privileges)
            for path in (empty, text, cut):
                self.bad(path.name, *command, "-m", path)
            self.assertEqual(list(self.folder.glob("*.jsonl*")), [])

    def test_option_values(self):
        prompt = ["run", "-m", SMALL, "-p", "x"]
        self.bad("activation 'foo'", *prompt, "--as", "activation=foo")
        self.bad("'nonsense'", *prompt, "--as", "nonsense=1")
        self.bad("'nobody'", *prompt, "--profile", "nobody")
        self.bad("'sse9'", *prompt, "--isa", "sse9")
        self.bad("'sse9'", *prompt, env={"BITNET_ISA": "sse9"})
        for option in ("-t", "--threads"):
            for value in ("0", "-1", "257", "1x", "", "1.5"):
                self.bad(f"--threads: found '{value}', expected a whole number from 1 to 256", *prompt, option, value)
        for value in ("0", "-1", "many"):
            self.bad(f"--ctx: found '{value}'", *prompt, "-c", value)
        self.bad("--kv: found 'f8', expected one of f32, f16", *prompt, "--kv", "f8")
        self.bad("the context holds 1 positions", *prompt, "-c", "1")

    def test_semantics_join_and_the_last_wins(self):
        semantics = lambda *options: self.json("inspect", "-m", SMALL, "--json", *options)["semantics"]
        self.assertIn("activation=silu", semantics("--as", "activation=silu"))
        both = semantics("--as", "activation=silu,eps=1e-6", "--as", "activation=gelu")
        self.assertIn("activation=gelu", both)
        self.assertIn("eps=1e-06", both)
        self.assertEqual(semantics("--profile", "bitnetcpp"), semantics("--as", "profile=bitnetcpp"))
        self.assertIn("kv=f32", semantics("--as", "kv=f32", "--profile", "bitnetcpp"))


class Run(Case):
    def test_the_demo_model_answers(self):
        self.assertEqual(self.good("run", "-p", "2+2="), b"4\n")

    def test_text_alone_on_stdout(self):
        report = self.json("run", "-m", SMALL, "-p", "hello", "-n", 12, "--json")
        result = self.bitnet("run", "-m", SMALL, "-p", "hello", "-n", 12)
        self.assertEqual(result.returncode, 0)
        self.assertEqual(result.stderr, b"")
        self.assertEqual(result.stdout.decode(errors="replace"), report["text"] + "\n")
        decoded = self.small("tokenize", "--decode", ",".join(map(str, report["tokens"])))
        self.assertEqual(result.stdout, decoded + b"\n")

    def test_json_report(self):
        report = self.json("run", "-m", SMALL, "-p", "hello", "-n", 5, "--json", "-t", 2)
        self.assertEqual(list(report)[:5], ["prompt", "prompt_tokens", "tokens", "text", "stop_reason"])
        self.assertEqual(report["prompt"], "hello")
        self.assertEqual(report["prompt_tokens"], self.ids("-p", "hello"))
        self.assertEqual(len(report["tokens"]), 5)
        self.assertEqual(report["stop_reason"], "max_tokens")
        self.assertEqual(report["model"], str(SMALL))
        self.assertRegex(report["model_hash"], r"^[0-9a-f]{64}$")
        self.assertIn(report["isa"], self.usable_isas())
        self.assertEqual(report["threads"], 2)
        self.assertGreater(report["seconds"]["prefill"], 0)
        self.assertGreater(report["tokens_per_second"]["decode"], 0)

    def test_sources_of_text_agree(self):
        path = self.folder / "prompt.txt"
        path.write_bytes(b"some text\n\xff")
        from_file = self.small("run", "-f", path, "-n", 6)
        self.assertEqual(self.small("run", "-", "-n", 6, stdin=path.read_bytes()), from_file)
        self.assertEqual(self.small("run", "-f", "-", "-n", 6, stdin=path.read_bytes()), from_file)
        ids = ",".join(map(str, self.ids("-f", path)))
        self.assertEqual(self.small("run", "--tokens", ids, "-n", 6), from_file)
        self.assertEqual(self.small("run", "--tokens", ids.replace(",", " "), "-n", 6), from_file)

    def test_text_is_never_taken_for_an_option_or_a_list(self):
        for text in ("-5+3=", "[a,b]", "{}", "a%%b", "--json", "\"quoted\"", ""):
            report = self.json("run", "-m", SMALL, "-p", text, "-n", 1, "--json")
            self.assertEqual(report["prompt"], text)
            self.assertEqual(report["prompt_tokens"], self.ids("-p", text))
        self.assertEqual(self.json("run", "-m", SMALL, "--prompt=-n 1", "-n", 1, "--json")["prompt"], "-n 1")

    def test_missing_and_contradicting_text(self):
        self.bad("no text: give one of -p TEXT, -f FILE, - (standard input), --tokens IDS", "run")
        self.bad("more than one text", "run", "-p", "x", "-f", "y")
        self.bad("more than one text", "run", "-p", "x", "-")
        self.bad("more than one text", "run", "-p", "x", "--tokens", "1")
        self.bad("--chat: needs text", "run", "--chat", "--tokens", "1")
        self.bad("found 'x', expected -", "run", "x")
        self.bad("nothere: cannot open: No such file or directory", "run", "-f", "nothere")
        self.bad("cannot read: Is a directory", "run", "-f", self.folder)
        self.bad("cannot read: Input/output error", "run", "-f", "/proc/self/mem")
        self.bad("the prompt has no tokens", "run", "-m", SMALL, "-p", "", "--no-bos")

    def test_bad_token_ids(self):
        for ids, item, found in (("1,x", 2, "x"), ("1,,2", 2, ""), ("1,2,", 3, ""), (",1", 1, ""), ("512", 1, "512"),
                                 ("-1", 1, "-1"), ("99999999999", 1, "99999999999"), ("1;2", 1, "1;2"),
                                 ("1.0", 1, "1.0")):
            self.bad(f"--tokens: item {item} is '{found}', expected a token id from 0 to 511", "run", "-m", SMALL,
                     "--tokens=" + ids)
        self.bad("the prompt has no tokens", "run", "-m", SMALL, "--tokens", "")

    def test_bad_sampling_options(self):
        prompt = ["run", "-m", SMALL, "-p", "x"]
        for option, values in (("--temperature", ["-1", "nan", "inf", "warm", ""]), ("--top-p", ["-0.1", "1.1", "nan"]),
                               ("--min-p", ["2"]), ("--top-k", ["-1", "1.5"]), ("--repeat-penalty", ["-1", "nan"]),
                               ("--seed", ["-1", "x", "18446744073709551616"]), ("--max-tokens", ["-1", "x"]),
                               ("--stop", [""])):
            for value in values:
                self.bad(f"{option}: found '{value}', expected", *prompt, option, value)
        self.bad("BITNET_SEED: found '-1'", *prompt, env={"BITNET_SEED": "-1"})

    def test_same_text_on_every_isa_and_thread_count(self):
        expected = self.small("run", "-p", "same", "-n", 16, "--isa", "scalar", "-t", 1)
        for isa in self.usable_isas():
            for threads in (1, 2, 3, 7):
                self.assertEqual(self.small("run", "-p", "same", "-n", 16, "--isa", isa, "-t", threads), expected)
            report = self.json("run", "-m", SMALL, "-p", "x", "-n", 1, "--json", env={"BITNET_ISA": isa})
            self.assertEqual(report["isa"], isa)

    def test_seeds(self):
        sample = lambda *options, **env: self.small("run", "-p", "x", "-n", 24, "--temperature", 2, *options, env=env)
        self.assertEqual(sample("--seed", 7), sample("--seed", 7))
        self.assertNotEqual(sample("--seed", 7), sample("--seed", 8))
        self.assertEqual(sample(), sample("--seed", 0))
        self.assertEqual(sample(BITNET_SEED="7"), sample("--seed", 7))
        self.assertEqual(sample("--seed", 7, BITNET_SEED="8"), sample("--seed", 7))
        self.assertEqual(sample(BITNET_DETERMINISTIC="1"), sample("--seed", 0))

    def test_greedy_options(self):
        greedy = self.small("run", "-p", "x", "-n", 12)
        self.assertEqual(self.small("run", "-p", "x", "-n", 12, "--temperature", 3, "--top-k", 1, "--seed", 5), greedy)
        longer = self.small("run", "-p", "x", "-n", 24)
        self.assertNotEqual(self.small("run", "-p", "x", "-n", 24, "--repeat-penalty", 100), longer)

    def test_stop_strings_are_not_printed(self):
        full = self.json("run", "-m", SMALL, "-p", "hello", "-n", 20, "--json")
        pieces = self.json("tokenize", "-m", SMALL, "--decode", " ".join(map(str, full["tokens"])), "--json")["pieces"]
        text = lambda piece: piece.isascii() and piece.isprintable() and piece != ""
        index = next(i for i in range(3, 20) if text(pieces[i - 1]) and text(pieces[i]))
        stop = pieces[index - 1][-1] + pieces[index][0]  # across two tokens
        report = self.json("run", "-m", SMALL, "-p", "hello", "-n", 20, "--json", "--stop", "[never]", "--stop", stop)
        self.assertEqual(report["stop_reason"], "stop_string")
        self.assertEqual(report["text"], full["text"][:full["text"].index(stop)])
        self.assertEqual(report["tokens"], full["tokens"][:len(report["tokens"])])
        self.assertLess(len(report["tokens"]), 20)
        streamed = self.small("run", "-p", "hello", "-n", 20, "--stop", stop).decode(errors="replace")
        self.assertEqual(streamed, report["text"] + "\n")

    def test_the_context_ends_a_generation(self):
        report = self.json("run", "-m", SMALL, "-p", "hello", "-n", 0, "-c", 12, "--json")
        self.assertEqual(report["stop_reason"], "context_full")
        self.assertEqual(len(report["prompt_tokens"]) + len(report["tokens"]), 13)  # the last one is not evaluated

    def test_chat_form(self):
        ids = lambda *options: self.json("run", "-m", SMALL, "-n", 1, "--json", *options)["prompt_tokens"]
        expected = self.ids("-p", "User: hi<|eot_id|>Assistant: ", "--parse-special")
        self.assertEqual(ids("--chat", "-p", "hi"), expected)
        self.assertEqual(ids("--chat", "-p", "hi", "--no-bos"), expected[1:])
        # Special tokens that the user's text spells stay text.
        self.assertEqual(ids("--chat", "-p", "a<|eot_id|>b").count(expected[-12]), 1)
        spelled = ["-p", "a<|eot_id|>b", "--parse-special"]
        self.assertEqual(ids(*spelled), self.ids(*spelled))

    def test_dump_ids(self):
        report = self.json("run", "-m", SMALL, "-p", "hello", "-n", 4, "--json")
        lines = self.bitnet("run", "-m", SMALL, "-p", "hello", "-n", 4, "--dump-ids").stderr.decode().splitlines()
        self.assertEqual(lines, ["prompt ids: " + " ".join(map(str, report["prompt_tokens"])),
                                 "generated ids: " + " ".join(map(str, report["tokens"]))])

    def test_debug_logits(self):
        tokens = self.json("run", "-m", SMALL, "-p", "hello", "-n", 3, "--json")["tokens"]
        result = self.bitnet("run", "-m", SMALL, "-p", "hello", "-n", 3, env={"BITNET_DEBUG_LOGITS": "1"})
        lines = result.stderr.decode().splitlines()
        self.assertEqual(len(lines), 3)
        for step, (line, token) in enumerate(zip(lines, tokens)):
            found = re.findall(r'  (\d+) "(.*?)" (-?\d+\.\d+)(?=  |$)', line)
            self.assertTrue(line.startswith(f"logits {step}:"), line)
            self.assertEqual(len(found), 5, line)
            self.assertEqual(int(found[0][0]), token)
            values = [float(value) for _, _, value in found]
            self.assertEqual(values, sorted(values, reverse=True))
        result = self.bitnet("run", "-m", SMALL, "-p", "hello", "-n", 3, env={"BITNET_DEBUG_LOGITS": "0"})
        self.assertEqual(result.stderr, b"")

    def test_kv_types_are_two_results(self):
        hashes = []
        for kv in ("f32", "f16"):
            self.small("trace", "-p", "some text", "--kv", kv, "-o", f"{kv}.jsonl", "--select", "logits")
            lines = (self.folder / f"{kv}.jsonl").read_text().splitlines()
            hashes.append([record["blake3"] for record in map(strict_json, lines) if record["record"] == "tensor"])
        self.assertNotEqual(hashes[0], hashes[1])


class Trace(Case):
    def records(self, path="bitnet-trace.jsonl"):
        return [strict_json(line) for line in (self.folder / path).read_text().splitlines()]

    def tensors(self, path="bitnet-trace.jsonl"):
        return [record for record in self.records(path) if record["record"] == "tensor"]

    def trace(self, *arguments, **options):
        """stderr of a successful trace of the small model."""
        result = self.bitnet("trace", "-m", SMALL, *arguments, **options)
        self.assertEqual(result.returncode, 0, result.stderr[-2000:])
        self.assertEqual(result.stdout, b"")
        return result.stderr.decode()

    def test_default_file_and_summary(self):
        summary = self.trace("-p", "hello")
        found = re.fullmatch(r"trace: ([\d,]+) records of (\d+) tokens, ([\d,]+) bytes of values, [\d.]+ s "
                             r"\([\d.]+ s of it tracing\), bitnet-trace.jsonl \(([\d,]+) bytes\)\n", summary)
        self.assertTrue(found, summary)
        numbers = [int(text.replace(",", "")) for text in found.groups()]
        records = self.records()
        ids = self.ids("-p", "hello")
        self.assertEqual(numbers[0], len(self.tensors()))
        self.assertEqual(numbers[1], len(ids))
        self.assertEqual(numbers[2], sum(4 * record["num_elements"] for record in self.tensors()))
        self.assertEqual(numbers[3], (self.folder / "bitnet-trace.jsonl").stat().st_size)
        self.assertEqual(records[0]["record"], "run")
        self.assertEqual(records[0]["prompt"], "hello")
        self.assertEqual(records[0]["tokens"], ids)
        self.assertEqual(records[-1]["record"], "run_end")

    def test_decoding_adds_positions(self):
        tokens = self.json("run", "-m", SMALL, "-p", "hello", "-n", 3, "--json")["tokens"]
        self.trace("-p", "hello", "-n", 3, "--select", "logits")
        steps = [record["tokens"] for record in self.records() if record["record"] == "step"]
        self.assertEqual(steps[1:], [[token] for token in tokens])
        self.assertEqual([record["seq"] for record in self.tensors()], list(range(len(self.ids("-p", "hello")) + 3)))

    def test_equal_settings_give_equal_hashes(self):
        content = []
        for isa in self.usable_isas():
            for threads in (1, 3):
                self.trace("-p", "hello world", "--isa", isa, "-t", threads)
                content.append([(record["name"], record["blake3"]) for record in self.tensors()])
        self.assertTrue(all(other == content[0] for other in content))
        self.trace("-p", "hello world", "--as", "activation=silu")
        self.assertNotEqual([(record["name"], record["blake3"]) for record in self.tensors()], content[0])

    def test_selection(self):
        self.trace("-p", "hello", "--select", "2:1:{q_proj;q_r*}")
        self.assertEqual([record["name"] for record in self.tensors()], ["t2/blk1/q_proj", "t2/blk1/q_rope"])
        self.trace("-p", "hello", env={"BITNET_TRACE_SELECT": "0:*:logits"})
        self.assertEqual([record["name"] for record in self.tensors()], ["t0/logits"])
        self.trace("-p", "hello", "--select", "1:*:logits", env={"BITNET_TRACE_SELECT": "0:*:logits"})
        self.assertEqual([record["name"] for record in self.tensors()], ["t1/logits"])

    def test_a_good_file_survives_every_failure(self):
        self.trace("-p", "hello", "-o", "good.jsonl")
        before = (self.folder / "good.jsonl").read_bytes()
        output = ["-o", "good.jsonl"]
        self.bad("cannot open", "trace", "-m", "nothere.gguf", "-p", "x", *output)
        small = ["trace", "-m", SMALL, *output]
        self.bad("no text", *small)
        self.bad("--threads", *small, "-p", "x", "-t", "0")
        self.bad("'foo'", *small, "-p", "x", "--as", "activation=foo")
        self.bad("no stage is named 'nope'", *small, "-p", "x", "--select", "*:*:nope")
        self.bad("no stage is named 'nope'", *small, "-p", "x", env={"BITNET_TRACE_SELECT": "*:*:nope"})
        self.bad("nothing recorded", *small, "-p", "x", "--select", "400:*:*")
        self.bad("'nope'", *small, "-p", "x", "--plugin", "nope")
        self.bad("the context holds 2 positions", *small, "-p", "hello", "-c", "2")
        self.bad("item 2", *small, "--tokens", "1,x")
        self.assertEqual((self.folder / "good.jsonl").read_bytes(), before)
        self.assertEqual([path.name for path in self.folder.iterdir()], ["good.jsonl"])

    def test_where_it_cannot_write(self):
        for path, expected in (("nothere/t.jsonl", "nothere/t.jsonl: cannot create: No such file or directory"),
                               (self.folder, "is a directory, expected a file"),
                               ("/dev/full", "No space left on device")):
            self.bad(expected, "trace", "-m", SMALL, "-p", "x", "-o", path)

    def test_awkward_file_names(self):
        for name in ("a,b.jsonl", "50%.jsonl", "%p;x.jsonl", "a=b c.jsonl"):
            self.trace("-p", "x", "-o", name, "--select", "logits")
            self.assertEqual(self.records(name)[-1]["record"], "run_end")

    def test_a_pipe_as_file(self):
        result = self.bitnet("trace", "-m", SMALL, "-p", "x", "-o", "/dev/stdout", "--select", "logits")
        self.assertEqual(result.returncode, 0, result.stderr[-2000:])
        self.assertEqual(strict_json(result.stdout.decode().splitlines()[-1])["record"], "run_end")

    def test_plugins(self):
        self.assertIn("records", self.trace("-p", "x", "--plugin", "null"))
        self.assertFalse((self.folder / "bitnet-trace.jsonl").exists())
        self.trace("-p", "x", "--plugin", "jsonl:path=a.jsonl", "--plugin", "jsonl:path=b.jsonl", "-o", "c.jsonl")
        self.assertEqual([r["blake3"] for r in self.tensors("a.jsonl")], [r["blake3"] for r in self.tensors("c.jsonl")])
        self.assertEqual([r["blake3"] for r in self.tensors("b.jsonl")], [r["blake3"] for r in self.tensors("c.jsonl")])
        self.bad("unknown configuration", "trace", "-m", SMALL, "-p", "x", "--plugin", "jsonl:colour=red")

    def test_plugin_path_and_verbose(self):
        folder = self.folder / "plugins"
        folder.mkdir()
        shutil.copy(PROGRAM.parent.parent / "lib" / "bitnet" / "plugins" / "libjsonl.so", folder / "libmine.so")
        env = {"BITNET_PLUGIN_PATH": str(folder), "BITNET_TRACE_VERBOSE": "1"}
        text = self.trace("-p", "x", "--plugin", "mine:path=mine.jsonl", env=env)
        self.assertIn(str(folder / "libmine.so"), text)
        self.assertEqual(self.records("mine.jsonl")[-1]["record"], "run_end")

    def test_plugins_of_the_environment(self):
        self.small("run", "-p", "hello", "-n", 2, env={"BITNET_TRACE_PLUGIN": "jsonl:path=env.jsonl"})
        self.assertEqual(self.records("env.jsonl")[-1]["record"], "run_end")
        # A plugin that fails changes nothing but the exit code.
        text = self.small("run", "-p", "hello", "-n", 2)
        for plugin, reason in (("nope", "nope"), ("jsonl:path=/dev/full", "No space left on device")):
            result = self.bitnet("run", "-m", SMALL, "-p", "hello", "-n", 2, env={"BITNET_TRACE_PLUGIN": plugin})
            self.assertEqual(result.returncode, 2)
            self.assertEqual(result.stdout, text)
            self.assertRegex(result.stderr.decode(),
                             rf"\Abitnet: trace: 1 of its plugins failed, the last one with: .*{reason}.*\n\Z")

    def test_folder_of_the_environment(self):
        folder = self.folder / "made" / "here"
        env = {"BITNET_TRACE_DIR": str(folder)}
        self.small("run", "-p", "hello", "-n", 2, env=env)
        self.trace("-p", "hello", env=env)
        files = list(folder.iterdir())
        self.assertEqual(len(files), 2)
        for path in files:
            self.assertRegex(path.name, r"^bitnet-\d{8}T\d{6}Z-\d+\.jsonl$")
            self.assertEqual(self.records(path)[-1]["record"], "run_end")
        self.trace("-p", "x", "-o", "named.jsonl", env=env)
        self.assertEqual(len(list(folder.iterdir())), 2)
        self.small("run", "-p", "x", "-n", 1, env={**env, "BITNET_TRACE_PLUGIN": "jsonl:path=env.jsonl"})
        self.assertEqual(len(list(folder.iterdir())), 2)
        (self.folder / "file").write_text("")
        self.bad("BITNET_TRACE_DIR: cannot make the folder", "run", "-m", SMALL, "-p", "x",
                 env={"BITNET_TRACE_DIR": str(self.folder / "file" / "below")})

    def test_diff_takes_what_trace_writes(self):
        self.trace("-p", "hello", "-o", "a.jsonl")
        self.trace("-p", "hello", "-o", "b.jsonl", "-t", "1")
        self.trace("-p", "hello", "-o", "c.jsonl", "--as", "activation=silu")
        self.assertEqual(self.bitnet("diff", "a.jsonl", "b.jsonl").returncode, 0)
        self.assertEqual(self.bitnet("diff", "a.jsonl", "c.jsonl").returncode, 1)
        self.assertEqual(self.bitnet("diff", "a.jsonl", "nothere.jsonl").returncode, 2)


class Tokenize(Case):
    def test_round_trip_of_any_bytes(self):
        generator = random.Random(1)
        path = self.folder / "bytes"
        for size in (0, 1, 2, 100, 5000):
            path.write_bytes(generator.randbytes(size))
            ids = self.small("tokenize", "-f", path)
            self.assertEqual(self.small("tokenize", "--decode", "-", stdin=ids), path.read_bytes())

    def test_bos(self):
        bos = self.json("inspect", "-m", SMALL, "--json")["bos"]
        self.assertEqual(self.ids("-p", "hi"), [bos, *self.ids("-p", "hi", "--no-bos")])
        self.assertEqual(self.ids("-p", ""), [bos])
        self.assertEqual(self.small("tokenize", "-p", "", "--no-bos"), b"\n")

    def test_special_tokens(self):
        eot = self.json("inspect", "-m", SMALL, "--json")["eot"]
        self.assertEqual(self.ids("-p", "<|eot_id|>", "--no-bos", "--parse-special"), [eot])
        self.assertNotIn(eot, self.ids("-p", "<|eot_id|>"))
        self.assertEqual(self.small("tokenize", "--decode", eot), b"")
        self.assertEqual(self.small("tokenize", "--decode", eot, "--parse-special"), b"<|eot_id|>")

    def test_json_and_pieces(self):
        report = self.json("tokenize", "-m", SMALL, "-p", "a\u00e9\n", "--no-bos", "--json")
        self.assertEqual(report["text"], "a\u00e9\n")
        self.assertEqual(report["n_bytes"], 4)
        self.assertEqual(report["tokens"], self.ids("-p", "a\u00e9\n", "--no-bos"))
        self.assertEqual(report["n_tokens"], len(report["tokens"]))
        self.assertEqual(len(report["pieces"]), report["n_tokens"])
        lines = self.small("tokenize", "-p", "a\n\u00e9", "--no-bos", "--pieces").decode().splitlines()
        self.assertEqual([line.split(maxsplit=1)[1] for line in lines], ['"a"', '"\\n"', '"\\xC3"', '"\\xA9"'])
        self.json("tokenize", "-m", SMALL, "-f", "-", "--json", stdin=b"\xff\x00\xfe")

    def test_failures(self):
        self.bad("no text: give one of -p TEXT, -f FILE, - (standard input), --decode IDS", "tokenize")
        self.bad("--decode stands in place of", "tokenize", "-p", "x", "--decode", "1")
        self.bad("--decode: item 2 is 'x', expected a token id from 0 to 511", "tokenize", "-m", SMALL,
                 "--decode", "1 x")
        self.bad("--decode: item 1 is '512'", "tokenize", "-m", SMALL, "--decode", "-", stdin=b"512\n")
        self.bad("nothere: cannot open", "tokenize", "-f", "nothere")


class Inspect(Case):
    def test_summary(self):
        text = self.small("inspect").decode()
        for expected in (str(SMALL), "bitnet-b1.58", "3 layers", "n_embd 256", "512 tokens", "semantics",
                         "things to know", "I2_S", "883,328 bytes"):
            self.assertIn(expected, text)
        self.assertNotIn("output_norm.weight", text)
        self.assertIn("output_norm.weight", self.small("inspect", "--tensors").decode())
        self.assertIn("tokenizer.ggml.merges", self.small("inspect", "--keys").decode())
        self.assertLess(max(len(line) for line in self.small("inspect", "--keys").decode().splitlines()), 200)

    def test_json(self):
        report = self.json("inspect", "-m", SMALL, "--json")
        self.assertEqual(report["hyperparameters"]["n_layer"], 3)
        self.assertEqual(report["n_bytes"], SMALL.stat().st_size)
        self.assertEqual(len(report["tensors"]), 35)
        embedding = next(tensor for tensor in report["tensors"] if tensor["name"] == "token_embd.weight")
        self.assertEqual((embedding["type"], embedding["dims"], embedding["bytes"]), ("F16", [256, 512], 262144))
        tokens = next(key for key in report["keys"] if key["name"] == "tokenizer.ggml.tokens")
        self.assertEqual((tokens["type"], tokens["length"]), ("arr[str]", 512))
        self.assertTrue(any("attn_norm" in warning for warning in report["warnings"]))

    def test_colour_only_on_a_terminal(self):
        self.assertIn(b"\x1b[1m", self.on_terminal("stdout", "inspect", "-m", SMALL))
        self.assertNotIn(b"\x1b", self.on_terminal("stdout", "inspect", "-m", SMALL, env={"NO_COLOR": "1"}))
        self.assertNotIn(b"\x1b", self.small("inspect"))


class MakeModel(Case):
    def make(self, name, *options):
        self.good("make-model", "-o", name, *options)
        return self.folder / name

    def test_the_same_bytes_everywhere(self):
        first = self.make("a.gguf", "--preset", "tiny").read_bytes()
        self.assertEqual(hashlib.sha256(first).hexdigest(), TINY_SHA256)
        self.assertEqual(self.make("a.gguf", "--preset", "tiny", "--seed", 0).read_bytes(), first)
        other = self.make("b.gguf", "--preset", "tiny", "--seed", 1).read_bytes()
        self.assertEqual(len(other), len(first))
        self.assertNotEqual(other, first)

    def test_it_runs(self):
        path = self.make("tiny.gguf", "--preset", "tiny", "--layers", 3)
        report = self.json("inspect", "-m", path, "--json")
        self.assertEqual(report["hyperparameters"]["n_layer"], 3)
        self.assertEqual(report["n_bytes"], path.stat().st_size)
        self.assertEqual(len(self.json("run", "-m", path, "-p", "abc", "-n", 4, "--json")["tokens"]), 4)
        self.good("trace", "-m", path, "-p", "abc def", "-o", "t.jsonl")
        for line in (self.folder / "t.jsonl").read_text().splitlines():
            record = strict_json(line)
            if record["record"] == "tensor":
                self.assertEqual((record["nan"], record["inf"]), (0, 0))
                self.assertLess(record["absmax"], 1000)

    def test_the_large_preset_has_the_official_keys(self):
        path = self.make("narrow.gguf", "--preset", "2b-4t", "--layers", 1, "--embd", 128, "--ff", 128, "--heads", 2,
                         "--kv-heads", 1)
        report = self.json("inspect", "-m", path, "--json")
        self.assertEqual([key["name"] for key in report["keys"]], [*OFFICIAL_KEYS, "tokenizer.ggml.pre"])
        lengths = {key["name"]: key["length"] for key in report["keys"]}
        self.assertEqual(lengths["tokenizer.ggml.tokens"], 128256)
        self.assertEqual(lengths["tokenizer.ggml.merges"], 280147)
        self.assertEqual((report["bos"], report["eos"], report["eot"]), (128000, 128001, 128009))
        types = [tensor["type"] for tensor in report["tensors"]]
        self.assertEqual((types.count("F32"), types.count("F16"), types.count("I2_S")), (5, 1, 7))
        ids = self.good("tokenize", "-m", path, "-p", "abcd zzzz<|eot_id|>", "--parse-special")
        self.assertEqual(self.good("tokenize", "-m", path, "--decode", "-", "--parse-special", stdin=ids),
                         b"<|begin_of_text|>abcd zzzz<|eot_id|>")

    def test_failures_leave_nothing_behind(self):
        tiny = ["make-model", "--preset", "tiny", "-o", "x.gguf"]
        self.bad("--output", "make-model", "--preset", "tiny")
        self.bad("--preset", "make-model", "-o", "x.gguf")
        self.bad("--preset: found 'huge', expected one of 2b-4t, tiny", "make-model", "--preset", "huge",
                 "-o", "x.gguf")
        for option, value in (("--layers", "0"), ("--layers", "-1"), ("--embd", "100"), ("--embd", "200"),
                              ("--ff", "129"), ("--heads", "3"), ("--kv-heads", "3"), ("--ctx", "0"), ("--seed", "-1"),
                              ("--seed", "x")):
            self.bad(f"{option}: found", *tiny, option, value)
        self.bad("--type: found 'q4_0', expected one of i2_s, tq2_0", *tiny, "--type", "q4_0")
        self.bad("--ff: found 384, expected a multiple of 256 for tq2_0", *tiny, "--type", "tq2_0")
        self.bad("--embd: found 128, expected a multiple of 256 for tq2_0", *tiny, "--type", "tq2_0", "--embd", 128)
        self.bad("cannot create: No such file or directory", "make-model", "--preset", "tiny", "-o", "nothere/x.gguf")
        self.bad("is there and is no regular file", "make-model", "--preset", "tiny", "-o", self.folder)
        self.bad("x.gguf: cannot write: File too large (after 300,000 bytes)", *tiny,
                 preexec_fn=limit_file_size(300000))
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_a_good_file_survives_a_failure(self):
        path = self.make("x.gguf", "--preset", "tiny")
        before = path.read_bytes()
        self.bad("File too large", "make-model", "--preset", "tiny", "--seed", "1", "-o", "x.gguf",
                 preexec_fn=limit_file_size(1000))
        self.assertEqual(path.read_bytes(), before)
        self.assertEqual([found.name for found in self.folder.iterdir()], ["x.gguf"])

    def test_progress_only_on_a_terminal(self):
        options = ["make-model", "--preset", "2b-4t", "--layers", 1, "-o", "x.gguf"]
        self.assertIn(b"writing x.gguf", self.on_terminal("stderr", *options))
        result = self.bitnet(*options)
        self.assertRegex(result.stderr.decode(), r"\Amake-model: x.gguf: [\d,]+ bytes, 13 tensors, [\d.]+ s\n\Z")


if __name__ == "__main__":
    if PROGRAM is None or not PROGRAM.is_file():
        sys.exit("usage: test_cli.py PATH_OF_BITNET [unittest options]")
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]])
