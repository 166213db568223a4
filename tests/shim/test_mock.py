#!/usr/bin/env python3
"""The interposer in a made-up llama.cpp whose memory is recycled at once: layouts, ways of loading, lifecycle."""

import os
import platform
import re
import signal
import subprocess
import sys
import unittest
from pathlib import Path

from support import ALL_STAGES, AUDIT, EMULATOR, LIBRARIES, MOCK, RUNTIME, SHIM, ShimTest, kinds, read_trace, tensors

SOURCE = Path(__file__).resolve().parent

LOADER = MOCK / "bitnet_shim_loader"
LINKED = MOCK / "bitnet_shim_program"


def addon(layout):
    return MOCK / f"libmock_addon{layout}.so"


class Layouts(ShimTest):
    def test_every_known_layout_gives_the_same_trace(self):
        expected = None
        for layout in (1, 2, 3):
            command = (LOADER, addon(layout), "prompt", "decode", "all")
            plain = self.plain(*command)
            for mode in ("retain", "callback", "auto"):
                run, records = self.traced(*command, BITNET_SHIM_MODE=mode, BITNET_TRACE_SELECT="**")
                self.assert_same(plain, run)
                found = tensors(records)
                expected = expected or found
                self.assertEqual(expected, found, (layout, mode))
        self.assertEqual({stage for _, _, _, stage in expected}, ALL_STAGES)
        # 8 positions, 2 layers of 19 stages, 3 outside
        self.assertEqual(len(expected), 8 * (2 * 19 + 3))

    def test_an_unknown_layout_is_left_alone(self):
        command = (LOADER, addon(4), "prompt", "decode")
        run, records = self.traced(*command)
        self.assert_same(self.plain(*command), run)
        self.assertEqual((records, run.err), ([], ""))
        run, _ = self.traced(*command, BITNET_TRACE_VERBOSE="1")
        self.assertRegex(run.err, r"^bitnet shim: \S+4.so: not traced: no dimensions found in its tensors\n$")  # one line

    def test_memory_that_is_not_this_process_is_copied(self):
        command = (LOADER, addon(1), "prompt", "decode")
        _, host = self.traced(*command, BITNET_TRACE_SELECT="**")
        _, device = self.traced(*command, BITNET_TRACE_SELECT="**", MOCK_DEVICE="1")
        self.assertEqual(tensors(host), tensors(device))
        self.assertGreater(len(tensors(host)), 100)


class Loading(ShimTest):
    def test_every_way_of_loading(self):
        plain = self.plain(LINKED, "prompt", "decode")
        linked, expected = self.traced(LINKED, "prompt", "decode")
        self.assert_same(plain, linked)
        self.assertGreater(len(tensors(expected)), 100)
        for scope in ("local", "global"):
            run, records = self.traced(LOADER, scope, addon(1), "prompt", "decode")
            self.assert_same(plain, run)
            self.assertEqual(tensors(expected), tensors(records), scope)

    @unittest.skipIf(RUNTIME, "a sanitizer's runtime allows neither RTLD_DEEPBIND nor auditors")
    def test_deepbind_escapes_unless_audited(self):
        command = (LOADER, "deepbind", addon(1), "prompt", "decode")
        plain = self.plain(*command)
        run, records = self.traced(*command)
        self.assert_same(plain, run)
        self.assertEqual(records, [])
        _, expected = self.traced(LINKED, "prompt", "decode")
        run, records = self.traced(*command, LD_AUDIT=str(AUDIT))
        self.assert_same(plain, run)
        self.assertEqual(tensors(expected), tensors(records))
        # The auditor alone changes nothing.
        self.assert_same(plain, self.plain(*command, LD_AUDIT=str(AUDIT)))

    def test_the_program_filter(self):
        for globs, traced in (("nothing", False), ("x;*_loader", True), ("*", True), ("loader", False)):
            _, records = self.traced(LOADER, addon(1), "prompt", BITNET_SHIM_PROGRAMS=globs)
            self.assertEqual(bool(records), traced, globs)


class LinkedIntoTheProgram(ShimTest):
    """No call goes through the dynamic linker: calls are led in memory when asked for, or when the program was linked."""

    WORDS = ("prompt", "decode", "all", "watch")

    def patched(self, program, **environment):
        return self.traced(program, *self.WORDS, BITNET_SHIM_PATCH_STATIC="1", BITNET_TRACE_SELECT="**", **environment)

    def expected(self):
        return tensors(self.traced(LINKED, *self.WORDS, BITNET_TRACE_SELECT="**", name="expected.jsonl")[1])

    def test_calls_are_led_to_the_hooks_when_asked(self):
        expected = self.expected()
        for kind in ("pie", "fixed", "exported"):
            program = MOCK / f"bitnet_mock_{kind}"
            plain = self.plain(program, *self.WORDS)
            self.assertRegex(plain.out, "seen [1-9]")
            for mode in ("retain", "callback"):
                run, records = self.patched(program, BITNET_SHIM_MODE=mode)
                self.assert_same(plain, run)
                self.assertEqual(run.err, "")
                self.assertEqual(tensors(records), expected, (kind, mode))
                self.assertRegex(records[0]["engine_version"], f"^bitnet_mock_{kind}, ggml mock")
            run, _ = self.patched(program, BITNET_TRACE_VERBOSE="1")
            self.assertRegex(run.err, rf"bitnet shim: bitnet_mock_{kind}: \d+ calls of ggml patched(, 1 unclear ones left alone)?\n")
            for environment in ({}, {"BITNET_SHIM_PATCH_STATIC": "0"}):
                run, records = self.traced(program, *self.WORDS, **environment)
                self.assert_same(plain, run)
                self.assertEqual(records, [], "unasked")

    @unittest.skipUnless(platform.machine() == "x86_64" and not EMULATOR, "AArch64's instructions cannot be taken for others")
    def test_what_only_looks_like_a_call_is_left_alone(self):
        for kind in ("pie", "fixed"):
            command = (MOCK / f"bitnet_mock_{kind}", "prompt", "lookalike")
            plain = self.plain(*command)
            self.assertRegex(plain.out, "lookalike [1-9a-f][0-9a-f]+e8\n")
            run, records = self.traced(*command, BITNET_SHIM_PATCH_STATIC="1", BITNET_TRACE_VERBOSE="1")
            self.assert_same(plain, run)
            self.assertRegex(run.err, r"\d+ calls of ggml patched, 1 unclear ones left alone\n")
            self.assertGreater(len(tensors(records)), 100)

    def test_functions_that_the_linker_made_one_of_are_not_hooked(self):
        steps = {}
        for kind in ("pie", "exported"):  # in the latter another function lies where llama_set_warmup does
            command = (MOCK / f"bitnet_mock_{kind}", "warmup", "prompt")
            run, records = self.traced(*command, BITNET_SHIM_PATCH_STATIC="1")
            self.assert_same(self.plain(*command), run)
            steps[kind] = len(kinds(records, "step"))
        self.assertEqual(steps, {"pie": 1, "exported": 2})

    def test_threads_and_a_forked_child(self):
        for word in ("threads", "fork"):
            plain = self.plain(MOCK / "bitnet_mock_pie", "prompt", word)
            run, records = self.traced(MOCK / "bitnet_mock_pie", "prompt", word, BITNET_SHIM_PATCH_STATIC="1")
            self.assert_same(plain, run)
            self.assertEqual(tensors(records), tensors(self.traced(LINKED, "prompt")[1]))

    def test_why_not_in_one_line(self):
        def why(program, *words, **environment):
            plain = self.plain(program, *words)
            run, records = self.traced(program, *words, BITNET_SHIM_PATCH_STATIC="1", BITNET_TRACE_VERBOSE="1", **environment)
            self.assert_same(plain, run)
            self.assertEqual(records, [])
            return [line for line in run.err.splitlines() if "calls were not patched" in line]

        def stripped(kind, program):
            subprocess.run([os.environ.get("BITNET_TEST_STRIP", "strip"), "-o", self.folder / kind, program], check=True)
            return self.folder / kind
        no_names = "it was stripped, so that no function of ggml is found in it"
        self.assertEqual(why(stripped("bare", MOCK / "bitnet_mock_pie"), "prompt"),
                         ["bitnet shim: bare: calls were not patched: " + no_names])
        if not EMULATOR:
            self.assertEqual(why("/bin/true"), ["bitnet shim: true: calls were not patched: " + no_names])
        self.assertEqual(why(MOCK / "bitnet_shim_loader", addon(1)),
                         ["bitnet shim: bitnet_shim_loader: calls were not patched: no function of ggml is linked into it"])
        # Another program than those that were named is not even looked at.
        self.assertEqual(why(MOCK / "bitnet_mock_pie", "prompt", BITNET_SHIM_PROGRAMS="other"), [])
        # What is left for the dynamic linker in a stripped program that exports its functions is enough.
        _, records = self.patched(stripped("exporting", MOCK / "bitnet_mock_exported"))
        self.assertEqual(tensors(records), self.expected())

    @unittest.skipIf(RUNTIME, "made without a sanitizer alone")
    def test_a_program_that_was_linked_with_it(self):
        program = MOCK / "bitnet_mock_linked"
        quiet = self.plain(program, *self.WORDS)
        self.assert_same(self.plain(MOCK / "bitnet_mock_pie", *self.WORDS), quiet)
        path = self.folder / "linked.jsonl"
        run = self.plain(program, *self.WORDS, BITNET_TRACE_PLUGIN=f"jsonl:path={path}", BITNET_TRACE_SELECT="**",
                         BITNET_PLUGIN_PATH=str(LIBRARIES / "bitnet/plugins"))
        self.assert_same(quiet, run)
        self.assertEqual(tensors(read_trace(path)), self.expected())
        defined = subprocess.run([os.environ.get("BITNET_TEST_NM", "nm"), "--defined-only", "-g",
                                  LIBRARIES / "bitnet/bitnet_shim_linked.o"], check=True, capture_output=True, text=True).stdout
        self.assertEqual({line.split()[2][:7] for line in defined.splitlines()}, {"__wrap_"}, "nothing else to collide with")

    def test_a_program_that_names_the_interposer_before_libllama(self):
        """Link order alone, for a host whose libraries are shared."""
        program = self.folder / "ordered"
        made = subprocess.run([os.environ.get("BITNET_TEST_CC", "cc"), "-DPROGRAM", "-o", program, SOURCE / "mock_addon.c",
                               "-Wl,--no-as-needed", SHIM, MOCK / "libmock_llama1.so", MOCK / "libmock_ggml1.so", "-pthread",
                               f"-Wl,-rpath,{MOCK}:{SHIM.parent}"], capture_output=True, text=True)
        self.assertEqual(made.returncode, 0, made.stderr)
        path = self.folder / "ordered.jsonl"
        run = self.plain(program, *self.WORDS, BITNET_TRACE_PLUGIN=f"jsonl:path={path}", BITNET_TRACE_SELECT="**")
        self.assert_same(self.plain(LINKED, *self.WORDS), run)
        self.assertEqual(tensors(read_trace(path)), self.expected())


class Instructions(unittest.TestCase):
    @unittest.skipUnless(platform.machine() == "x86_64" and not EMULATOR, "AArch64's are all as long")
    def test_lengths_are_a_disassemblers(self):
        listing = subprocess.run(["objdump", "-d", "-w", "--section=.text", SHIM, os.path.realpath(sys.executable), "/bin/sh"],
                                 check=True, capture_output=True, text=True).stdout
        records = []
        for line in listing.splitlines():
            fields = line.split("\t")
            if len(fields) == 3 and fields[0].endswith(":") and "(bad)" not in fields[2]:
                code = bytes.fromhex(fields[1].replace(" ", ""))
                records.append(bytes([len(code)]) + code.ljust(15, b"\0"))
        self.assertGreater(len(records), 20000)
        run = subprocess.run([MOCK / "bitnet_shim_lengths"], input=b"".join(records), capture_output=True)
        self.assertEqual((run.returncode, run.stdout.decode()), (0, f"{len(records)} instructions, 0 wrong\n"))


class Runs(ShimTest):
    def test_going_back_begins_a_new_run(self):
        _, records = self.traced(LOADER, addon(1), "prompt", "decode", "again")
        self.assertEqual([r["run"] for r in kinds(records, "run")], [0, 1])
        self.assertEqual([r["tokens"] for r in kinds(records, "run_end")], [8, 8])
        by_run = [{k[1:]: v for k, v in tensors(records).items() if k[0] == run} for run in (0, 1)]
        self.assertEqual(by_run[0], by_run[1])
        self.assertEqual(kinds(records, "step")[0]["tokens"], [4, 7, 10, 13, 16])

    def test_a_split_prompt_is_one_run_of_the_same_rows(self):
        _, whole = self.traced(LOADER, addon(1), "prompt", "all")
        _, split = self.traced(LOADER, addon(1), "split")
        self.assertEqual([(r["seq"], r["n"]) for r in kinds(split, "step")], [(0, 3), (3, 2)])
        self.assertEqual(len(kinds(split, "run")), 1)
        whole, split = tensors(whole), tensors(split)
        # The last layer keeps the rows of outputs alone: of each batch its last.
        self.assertEqual({k[1] for k in split if k[3] == "logits"}, {2, 4})
        self.assertEqual({k: v for k, v in whole.items() if k in split}, split)

    def test_warm_ups_are_dropped(self):
        _, expected = self.traced(LOADER, addon(1), "prompt", "decode")
        for word in ("warmup", "oldwarmup"):
            plain = self.plain(LOADER, addon(1), word, "prompt", "decode")
            run, records = self.traced(LOADER, addon(1), word, "prompt", "decode")
            self.assert_same(plain, run)
            self.assertEqual(tensors(expected), tensors(records), word)

    def test_sequences_in_turn_have_runs_of_their_own(self):
        # Positions 0 1 2 | 0 1 2 | 3 | 3 | 4 of sequences A B A B B: where the positions alone would go on, the cells do not.
        for select in ("**", "layer_out"):
            plain = self.plain(LOADER, addon(1), "turns")
            run, records = self.traced(LOADER, addon(1), "turns", BITNET_TRACE_SELECT=select)
            self.assert_same(plain, run)
            steps = [(r["run"], r["seq"], r["n"]) for r in kinds(records, "step")]
            self.assertEqual(steps, [(0, 0, 3), (1, 0, 3), (2, 3, 1), (3, 3, 1), (3, 4, 1)])
            self.assertEqual([r["tokens"] for r in kinds(records, "run_end")], [3, 3, 1, 2])

    def test_several_sequences_in_one_batch_are_left_out(self):
        run, records = self.traced(LOADER, addon(1), "mixed", BITNET_TRACE_SELECT="**")
        self.assert_same(self.plain(LOADER, addon(1), "mixed"), run)
        self.assertEqual([(r["run"], r["seq"], r["n"]) for r in kinds(records, "step")], [(0, 0, 3), (1, 0, 2)])

    def test_positions_with_gaps_are_left_out(self):
        command = (LOADER, addon(1), "prompt", "gaps")
        run, records = self.traced(*command)
        self.assert_same(self.plain(*command), run)
        self.assertEqual(records, [])

    def test_what_is_overwritten_in_place(self):
        plain = self.plain(LOADER, addon(1), "prompt", "decode", "inplace")
        auto, automatic = self.traced(LOADER, addon(1), "prompt", "decode", "inplace")
        retain, retained = self.traced(LOADER, addon(1), "prompt", "decode", "inplace", BITNET_SHIM_MODE="retain")
        for run in (auto, retain):
            self.assert_same(plain, run)
        automatic, retained = tensors(automatic), tensors(retained)
        self.assertIn("attn_residual", {k[3] for k in automatic})
        self.assertNotIn("attn_residual", {k[3] for k in retained})
        self.assertEqual({k: v for k, v in automatic.items() if k in retained}, retained)
        _, expected = self.traced(LOADER, addon(1), "prompt", "decode")
        self.assertEqual(tensors(expected), automatic)

    def test_without_memory_to_retain_callbacks_see_the_same(self):
        _, expected = self.traced(LOADER, addon(1), "prompt", "decode", BITNET_TRACE_SELECT="**")
        run, found = self.traced(LOADER, addon(1), "prompt", "decode", BITNET_TRACE_SELECT="**", BITNET_SHIM_MEMORY_MB="0")
        self.assertEqual(tensors(expected), tensors(found))

    def test_a_callback_of_the_programs_own_is_asked_as_before(self):
        plain = self.plain(LOADER, addon(1), "prompt", "decode", "watch")
        self.assertRegex(plain.out, r"seen [1-9]\d")
        _, expected = self.traced(LOADER, addon(1), "prompt", "decode")
        for mode in ("retain", "callback"):
            run, records = self.traced(LOADER, addon(1), "prompt", "decode", "watch", BITNET_SHIM_MODE=mode)
            self.assert_same(plain, run)
            self.assertEqual(tensors(expected), tensors(records), mode)

    def test_a_selection_is_a_part_of_the_whole(self):
        _, whole = self.traced(LOADER, addon(1), "prompt", "decode", BITNET_TRACE_SELECT="**")
        whole = tensors(whole)
        for select, wanted in (("layer_out,logits", lambda p, l, s: s in ("layer_out", "logits")),
                               ("2-6:1:*", lambda p, l, s: 2 <= p <= 6 and l == 1 and s != "attn_scores"),
                               ("*:0:attn_scores", lambda p, l, s: l == 0 and s == "attn_scores")):
            _, part = self.traced(LOADER, addon(1), "prompt", "decode", BITNET_TRACE_SELECT=select)
            self.assertEqual(tensors(part), {k: v for k, v in whole.items() if wanted(*k[1:])}, select)


class Inputs(ShimTest):
    def check(self, **environment):
        result = self.folder / "checked.txt"
        self.shimmed(LOADER, addon(1), "prompt", "decode", BITNET_TRACE_SELECT="**",
                     BITNET_TRACE_PLUGIN=f"{MOCK}/bitnet_shim_input_check.so:{result}", **environment)
        return result.read_text().splitlines()

    def test_inputs_are_what_the_operations_read(self):
        for mode in ("retain", "callback"):
            self.assertEqual(self.check(BITNET_SHIM_MODE=mode, BITNET_SHIM_INPUTS="all"),
                             ["rows 316 cache 48 attention 16 wrong 0", ""])
        self.assertEqual(self.check(), ["rows 316 cache 32 attention 0 wrong 0", ""])
        self.assertEqual(self.check(BITNET_SHIM_INPUTS="0"), ["rows 0 cache 0 attention 0 wrong 0", ""])
        # Memory that is recycled may hold something else by then: such inputs are left out, never wrong.
        line = self.check(BITNET_SHIM_INPUTS="all", BITNET_SHIM_MEMORY_MB="0")[0]
        self.assertRegex(line, r"^rows [1-9]\d\d .* wrong 0$")


class Lifecycle(ShimTest):
    def test_models_on_threads_have_a_trace_each(self):
        command = (LOADER, addon(1), "threads", "prompt", "decode")
        run, _ = self.traced(*command)
        self.assert_same(self.plain(*command), run)
        _, expected = self.traced(LOADER, addon(1), "prompt", "decode", name="single.jsonl")
        for name in ("trace.jsonl", "trace-1.jsonl", "trace-2.jsonl", "trace-3.jsonl"):
            records = read_trace(self.folder / name)
            self.assertEqual(tensors(expected), tensors(records), name)
            self.assertEqual(len(kinds(records, "run_end")), 1)

    def test_a_forked_child_is_passed_through(self):
        command = (LOADER, addon(1), "prompt", "decode", "fork")
        plain = self.plain(*command)
        run, records = self.traced(*command)
        self.assert_same(plain, run)
        _, expected = self.traced(LOADER, addon(1), "prompt", "decode")
        self.assertEqual(tensors(expected), tensors(records))
        self.assertEqual(len(kinds(records, "run_end")), 1)

    @unittest.skipIf(EMULATOR, "the emulator cannot become another program")
    def test_an_executed_program_traces_for_itself(self):
        command = (LOADER, addon(1), "prompt", "decode", "exec")
        environment = {"MOCK_ADDON": str(addon(1))}
        plain = self.plain(*command, **environment)
        run = self.shimmed(*command, BITNET_TRACE_PLUGIN=f"jsonl:path={self.folder}/%p.jsonl", **environment)
        self.assert_same(plain, run)
        self.assertEqual(len(list(self.folder.glob("*.jsonl"))), 1, "the same process, so the same name")

    def test_every_way_to_end(self):
        _, expected = self.traced(LOADER, addon(1), "prompt", "decode")
        for word, status in (("_exit", 0), ("abort", -signal.SIGABRT)):
            command = (LOADER, addon(1), "prompt", "decode", word)
            plain = self.plain(*command)
            run, records = self.traced(*command, cut=True)
            self.assert_same(plain, run)
            self.assertEqual(run.status, status)
            self.assertEqual(kinds(records, "run_end"), [])  # cut short, and says so
            # What the plugin had not written yet is lost, the rest is whole and right.
            self.assertLessEqual(set(tensors(records).items()), set(tensors(expected).items()))
        # Returned from main without freeing the model.
        _, records = self.traced(LOADER, addon(1), "prompt", "decode", "exit")
        self.assertEqual(tensors(expected), tensors(records))
        self.assertEqual(len(kinds(records, "run_end")), 1)


class KeptPlans(ShimTest):
    """A graph that is built anew where the one before was is not planned again, unless it differs in what stages depend on."""

    CHANGES = ("other_sources", "other_names", "other_operation", "other_scale", "other_heads", "other_view", "other_order")

    def setUp(self):
        super().setUp()
        (self.folder / "status").mkdir()

    def counted(self):
        """What the one process left in the folder of statuses."""
        file = next((self.folder / "status").iterdir())
        counted = dict(line.split("=", 1) for line in file.read_text().split("\n") if "=" in line)
        file.unlink()
        return counted

    def traces(self, *words, **environment):
        """Of graphs each in memory of its own, and of the same graphs in the same memory: what is in the records."""
        found = []
        plain = self.plain(LOADER, addon(1), "prompt", "decode", *words)
        for memory in ((), ("same",)):
            run, records = self.traced(LOADER, addon(1), "prompt", "decode", *words, *memory, BITNET_TRACE_SELECT="**",
                                       BITNET_SHIM_STATUS=str(self.folder / "status"), **environment)
            self.assert_same(plain, run)
            counted = self.counted()
            found.append(({(r["seq"], r["layer"], r["stage"]): (r["blake3"], r["shape"]) for r in kinds(records, "tensor")},
                          int(counted["graphs"]), int(counted["plans"])))
        return found

    def test_the_same_graph_is_planned_once(self):
        for mode in ("retain", "callback"):
            (apart, graphs, plans), (same, graphs_of_same, plans_of_same) = self.traces(BITNET_SHIM_MODE=mode)
            self.assertEqual(apart, same)
            self.assertEqual((graphs, plans), (4, 4))
            self.assertEqual((graphs_of_same, plans_of_same), (4, 2))  # the prompt, a token

    def test_a_graph_that_differs_is_planned_anew(self):
        (usual, _, _), _ = self.traces()
        for change in self.CHANGES:
            for mode in ("auto", "callback"):
                (apart, _, _), (same, _, plans) = self.traces(change, BITNET_SHIM_MODE=mode)
                self.assertEqual(apart, same, (change, mode))
                self.assertEqual(plans, 3, change)  # the prompt, a token, a token of the other kind
                if change not in ("other_order", "other_view"):  # those compute the same
                    self.assertNotEqual(apart, usual, change)

    def test_what_interests_no_sink_is_passed_through(self):
        for plugin, looked_at in (("null", False), (f"jsonl:path={self.folder}/trace.jsonl", True)):  # which wants steps too
            for select in ("999:layer_out", "layer_out"):
                command = (LOADER, addon(1), "prompt", "gaps")  # positions that are left out, when somebody looks at them
                run = self.shimmed(*command, BITNET_TRACE_PLUGIN=plugin, BITNET_TRACE_SELECT=select,
                                   BITNET_SHIM_STATUS=str(self.folder / "status"))
                self.assert_same(self.plain(*command), run)
                left_out = looked_at or select == "layer_out"
                counted = self.counted()
                self.assertEqual((counted["steps"], counted["several_sequences"]), ("0", "1") if left_out else ("1", "0"), select)

    def test_memory_that_is_allotted_unseen(self):
        for how in ("unseen", "within"):
            for change in ((), ("other_sources",), ("other_view",)):
                for mode in ("auto", "callback"):
                    (apart, _, _), (same, _, _) = self.traces(how, *change, BITNET_SHIM_MODE=mode)
                    self.assertEqual(apart, same, (how, change, mode))
                    self.assertGreater(len(apart), 100)


class Failures(ShimTest):
    def test_a_plugin_that_fails_changes_nothing(self):
        command = (LOADER, addon(1), "prompt", "decode")
        plain = self.plain(*command)
        for plugin, why in (
            ("nosuch", "no libnosuch.so in BITNET_PLUGIN_PATH"),
            ("/nonexistent/libx.so", "plugin 'libx.so': cannot be loaded: .*No such file"),
            (f"{MOCK}/bitnet_shim_wrong_abi.so", r"plugin 'bitnet_shim_wrong_abi.so': .*ABI 2\.0"),
            (str(addon(1)), "does not export bitnet_trace_plugin_v1"),
            ("jsonl:path", "plugin 'jsonl': open failed: unknown configuration 'path'"),
            ("jsonl:path=/nonexistent/a.jsonl", "sink 'jsonl': cannot open '/nonexistent/a.jsonl'"),
            (";", None)):
            run = self.shimmed(*command, BITNET_TRACE_PLUGIN=plugin)
            self.assert_same(plain, run)
            self.assertEqual(run.err, "", plugin)
            run = self.shimmed(*command, BITNET_TRACE_PLUGIN=plugin, BITNET_TRACE_VERBOSE="1")
            self.assert_same(plain, run)
            said = [line for line in run.err.splitlines() if re.search("^bitnet shim: .*" + (why or "plugin"), line)]
            self.assertEqual(len(said), 1 if why else 0, run.err)

    def test_wrong_settings_change_nothing(self):
        command = (LOADER, addon(1), "prompt", "decode")
        plain = self.plain(*command)
        for name, value in (("BITNET_SHIM_MODE", "sideways"), ("BITNET_SHIM_MEMORY_MB", "-1"), ("BITNET_TRACE_SELECT", "bogus"),
                            ("BITNET_SHIM_STATUS", "/nonexistent")):
            run, records = self.traced(*command, **{name: value})
            self.assert_same(plain, run)
            self.assertEqual((run.err, bool(records)), ("", name != "BITNET_TRACE_SELECT"), name)


if __name__ == "__main__":
    unittest.main()
