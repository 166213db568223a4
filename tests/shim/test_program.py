#!/usr/bin/env python3
"""What the interposer needs and exports, that it is nowhere to be seen in other programs, and `bitnet trace -- PROGRAM`."""

import os
import re
import shutil
import subprocess
import sys
import unittest

from support import AUDIT, MOCK, PROGRAM, SHIM, Run, ShimTest, preload, read_trace, tensors

LOADER, LINKED = MOCK / "bitnet_shim_loader", MOCK / "bitnet_shim_program"
ADDON = MOCK / "libmock_addon1.so"
HOOKED = {
    "ggml_backend_sched_alloc_graph", "ggml_backend_sched_reserve", "ggml_backend_sched_reserve_size",
    "ggml_backend_sched_reset",
    "ggml_backend_sched_graph_compute", "ggml_backend_sched_graph_compute_async", "ggml_backend_sched_set_eval_callback",
    "ggml_backend_sched_free", "ggml_backend_sched_get_tensor_backend", "ggml_backend_get_device", "gguf_init_from_file",
    "llama_set_warmup"}


def output_of(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class Libraries(unittest.TestCase):
    def test_they_need_the_c_library_alone(self):
        for library in (SHIM, AUDIT):
            needed = re.findall(r"\(NEEDED\).*\[(.*)\]", output_of("readelf", "-dW", str(library)))
            self.assertIn("libc.so.6", needed)
            self.assertLessEqual({name for name in needed if not name.startswith("ld-linux")}, {"libc.so.6"}, library)

    def test_they_export_what_is_hooked(self):
        def exported(library):
            return {line.split()[-1] for line in output_of("nm", "-D", "--defined-only", str(library)).splitlines()}
        self.assertEqual(exported(SHIM), HOOKED)
        self.assertEqual(exported(AUDIT), {"la_version", "la_objopen", "la_symbind64"})

    def test_constructors_do_nothing(self):
        # One function of ours runs before main, which looks at one variable (static_program.cpp).
        sections = output_of("readelf", "-SW", str(SHIM))
        size = re.search(r"\.init_array\s+INIT_ARRAY\s+\S+\s+\S+\s+(\S+)", sections)
        self.assertLessEqual(int(size.group(1), 16), 24, "more than that and the compiler's own two")


class Bystanders(ShimTest):
    COMMANDS = [("/bin/true",), ("/bin/sh", "-c", "echo a; exit 3"), (sys.executable, "-c", "print('b')"), ("/bin/ls", "/")]

    def test_programs_without_llama_are_the_same(self):
        commands = self.COMMANDS + ([("node", "-e", "console.log(1)")] if shutil.which("node") else [])
        for command in commands:
            plain = Run(command, {})
            run = Run(command, {**preload(SHIM), "BITNET_TRACE_PLUGIN": f"jsonl:path={self.folder}/x.jsonl",
                                "BITNET_TRACE_VERBOSE": "1"})
            self.assertEqual((plain.status, plain.out, plain.err), (run.status, run.out, run.err), command)
        self.assertEqual(list(self.folder.iterdir()), [])

    @unittest.skipUnless(shutil.which("strace"), "no strace")
    def test_they_open_no_file_more(self):
        def opened(command, environment):
            run = Run(("strace", "-f", "-e", "trace=open,openat,creat", "-E", "A=1",
                       *[x for k, v in environment.items() for x in ("-E", f"{k}={v}")], *command), {})
            paths = re.findall(r'"([^"]*)"', "".join(line for line in run.err.splitlines() if "open" in line))
            self.assertTrue(paths, run.err)
            return sorted(path for path in paths if path != str(SHIM))
        commands = [("/bin/true",), (os.path.realpath(sys.executable), "-c", "pass")]
        commands += [("node", "-e", "1")] if shutil.which("node") else []
        for command in commands:
            self.assertEqual(opened(command, {}), opened(command, {**preload(SHIM), "BITNET_TRACE_PLUGIN": "null"}), command)


class TraceCommand(ShimTest):
    def trace(self, *arguments, **environment):
        return Run((PROGRAM, "trace", *arguments), environment, cwd=self.folder)

    def test_it_says_what_was_traced(self):
        run = self.trace("--", LOADER, ADDON, "prompt", "decode")
        self.assertEqual((run.status, run.out), (0, self.plain(LOADER, ADDON, "prompt", "decode").out))
        self.assertRegex(run.err, r"^trace: bitnet_shim_loader \(pid \d+\): 4 steps, \d+ events, libmock_llama1.so, ggml mock, "
                                  r".*/bitnet-trace.jsonl \([\d,]+ bytes\)\n$")
        self.assertGreater(len(tensors(read_trace(self.folder / "bitnet-trace.jsonl"))), 100)

    def test_it_says_what_was_left_out(self):
        run = self.trace("--", LOADER, ADDON, "mixed")
        self.assertRegex(run.err, r": 2 steps, .*; 1 batches of several sequences, or of positions with gaps, left out")
        run = self.trace("--", LOADER, ADDON, "oldwarmup", "prompt")
        self.assertRegex(run.err, r": 1 steps, .*; 1 warm-ups left out")

    def test_options_reach_the_program(self):
        self.trace("-o", "a,b.jsonl", "--select", "logits", "--", LOADER, ADDON, "prompt")
        self.assertEqual({k[3] for k in tensors(read_trace(self.folder / "a,b.jsonl"))}, {"logits"})
        run = self.trace("--plugin", "null", "--", LOADER, ADDON, "prompt")
        self.assertIn("1 steps", run.err)
        self.assertFalse((self.folder / "bitnet-trace.jsonl").exists())

    def test_the_programs_exit_status_is_ours(self):
        self.assertEqual(self.trace("--", "/bin/sh", "-c", "exit 7").status, 7)
        self.assertEqual(self.trace("--", LOADER, ADDON, "prompt", "abort").status, 128 + 6)

    def test_it_says_why_nothing_was_traced(self):
        static = self.folder / "static"
        source = self.folder / "static.c"
        source.write_text("int main(void) { return 5; }\n")
        static_made = subprocess.run(["cc", "-static", "-o", static, source], capture_output=True).returncode == 0
        cases = [
            (("/bin/true",), 0, r"true \(pid \d+\): no libllama or libggml was loaded; a program that they are linked into "
                                r"needs --patch-static"),
            ((LOADER, MOCK / "libmock_addon4.so", "prompt"), 0, r"libmock_\w+4.so: no dimensions found in its tensors"),
            ((LOADER, ADDON, "prompt", "gaps"), 0, r"all 1 batches hold several sequences, or positions with gaps"),
            ((LOADER, ADDON, "oldwarmup"), 0, r"warm-ups alone"),
        ] + ([((static,), 5, r"static is statically linked: nothing can be preloaded")] if static_made else [])
        for command, status, why in cases:
            run = self.trace("--", *command)
            self.assertEqual(run.status, status, run.err)
            self.assertRegex(run.err, r"^trace: nothing was traced: .*" + why)
            self.assertEqual(len(run.err.splitlines()), 1)
        run = self.trace("--select", "99:*:*", "--", LOADER, ADDON, "prompt")
        self.assertRegex(run.err, r"1 steps, but nothing in them was selected")
        run = self.trace("--plugin", "nosuch", "--", LOADER, ADDON, "prompt")
        self.assertRegex(run.err, r"plugin 'nosuch': no libnosuch.so")
        run = self.trace("--", LOADER, "deepbind", ADDON, "prompt")
        self.assertRegex(run.err, r"none of its calls arrived: it was opened with RTLD_DEEPBIND \(try --deep\)|no libllama")

    def test_deep_reaches_deepbind(self):
        run = self.trace("--deep", "--", LOADER, "deepbind", ADDON, "prompt")
        self.assertRegex(run.err, r"1 steps, \d+ events")

    def test_patch_static(self):
        program = MOCK / "bitnet_mock_pie"
        run = self.trace("--", program, "prompt")
        self.assertRegex(run.err, r"nothing was traced: bitnet_mock_pie \(pid \d+\): no libllama or libggml was loaded; a "
                                  r"program that they are linked into needs --patch-static\n$")
        run = self.trace("--patch-static", "--", program, "prompt")
        self.assertEqual((run.status, run.out), (0, self.plain(program, "prompt").out))
        self.assertRegex(run.err, r"1 steps, \d+ events, bitnet_mock_pie, ggml mock")
        run = self.trace("--patch-static", "--self-check", "--", program, "prompt", "decode")
        self.assertRegex(run.err, r"self-check passed: .* 4 rows of logits")
        run = self.trace("--patch-static", "--", "/bin/true")
        self.assertRegex(run.err, r"no libllama or libggml was loaded, and calls were not patched: it was stripped, so that no "
                                  r"function of ggml is found in it\n$")
        static = self.folder / "static"
        source = self.folder / "static.c"
        source.write_text("int main(void) { return 5; }\n")
        if subprocess.run(["cc", "-static", "-o", static, source], capture_output=True).returncode == 0:
            run = self.trace("--patch-static", "--", static)
            self.assertEqual(run.status, 5)
            self.assertRegex(run.err, r"static is statically linked: nothing can be preloaded, so that its calls cannot be "
                                      r"patched either \(link it with bitnet_shim_linked.o\)\n$")

    def test_self_check_passes(self):
        run = self.trace("--self-check", "--", LOADER, ADDON, "prompt", "decode", "all", "again")
        self.assertEqual(run.status, 0, run.err)
        self.assertEqual(run.out, self.plain(LOADER, ADDON, "prompt", "decode", "all", "again").out)
        self.assertRegex(run.err, r"self-check passed: the same \d+ bytes of output and exit status 0 without and with the "
                                  r"interposer; the same bits in 16 rows of logits, read alone and with all that was traced\n$")
        # Also of the callback mode, of what is not selected, of threads, and of a program that fails.
        run = self.trace("--self-check", "--select", "layer_out", "--", LOADER, ADDON, "prompt", "threads",
                         BITNET_SHIM_MODE="callback")
        self.assertRegex(run.err, r"self-check passed: .* 4 rows of logits")
        run = self.trace("--self-check", "--", LOADER, ADDON, "prompt", "abort")
        self.assertRegex(run.err, r"self-check passed: .* exit status 134 .* 1 rows of logits")
        self.assertEqual(run.status, 0)

    def test_self_check_fails(self):
        run = self.trace("--self-check", "--", "/bin/sh", "-c", "echo ${LD_PRELOAD:+x}; " + f"{LOADER} {ADDON} prompt")
        self.assertEqual(run.status, 1)
        self.assertRegex(run.err, r"self-check failed: output differs from byte 0 on \(\d+ bytes without, \d+ with\)\n$")
        run = self.trace("--self-check", "--", "/bin/sh", "-c", f"{LOADER} {ADDON} prompt; exit ${{LD_PRELOAD:+7}}")
        self.assertEqual(run.status, 1)
        self.assertRegex(run.err, r"self-check failed: exit status 0 without and 7 with\n$")
        # An engine whose logits depend on who looks, in a program that says nothing: only their hashes can tell.
        script = f"{LOADER} {ADDON} prompt decode >/dev/null"
        run = self.trace("--self-check", "--", "/bin/sh", "-c", script, MOCK_SENSITIVE="1")
        self.assertEqual(run.status, 1)
        self.assertRegex(run.err, r"self-check failed: logits at position 4 have other bits when all is traced than when they "
                                  r"are read alone\n$")
        self.assertEqual(self.trace("--self-check", "--", "/bin/sh", "-c", script).status, 0)

    def test_self_check_says_nothing(self):
        run = self.trace("--self-check", "--", "/bin/sh", "-c", "echo $$; " + f"{LOADER} {ADDON} prompt")
        self.assertEqual(run.status, 2)
        self.assertRegex(run.err, r"self-check says nothing: the program does not repeat itself without the interposer either")
        run = self.trace("--self-check", "--", "/bin/true")
        self.assertEqual(run.status, 2)
        self.assertRegex(run.err, r"self-check says nothing: the same 0 bytes .*, but nothing was traced\n$")

    def test_several_processes(self):
        script = f"{LOADER} {ADDON} prompt; {LOADER} {ADDON} prompt"
        run = self.trace("--", "/bin/sh", "-c", script)
        self.assertRegex(run.err, r"2 processes wrote to one file")
        run = self.trace("-o", "t-%p.jsonl", "--", "/bin/sh", "-c", script)
        self.assertEqual(len(list(self.folder.glob("t-*.jsonl"))), 2, run.err)

    def test_wrong_usage(self):
        for arguments, text in ((("--typo", "x"), "unexpected --typo"), (("--",), "no program after --"),
                                (("x",), "unexpected x"), (("--", "./nosuch"), "cannot run './nosuch': No such file")):
            run = self.trace(*arguments)
            self.assertEqual(run.status, 2)
            self.assertIn(text, run.err)


if __name__ == "__main__":
    unittest.main()
