#!/usr/bin/env python3
"""bitnet envelope, and crossval and diff with one, from outside: test_envelope.py BITNET LIBBITNET [unittest options]

Verdicts, exit codes, the three formats of a report, the cache in every state, and what is refused.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as xml
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[3]
SMALL = SOURCE / "tests" / "data" / "small.gguf"
TIMEOUT_SECONDS = 300
IDS = "1,17,300,42,5,99"
CLASSES = ["f32", "f16-kv", "bf16", "block256"]
BITNET = LIBRARY = None


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="bitnet-envelope-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.cache = self.folder / "cache"

    def bitnet(self, *arguments, env=None):
        clean = {key: value for key, value in os.environ.items() if not key.startswith("BITNET_") and key != "NO_COLOR"}
        return subprocess.run([BITNET, *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              cwd=self.folder, env={**clean, "XDG_CACHE_HOME": str(self.cache), **(env or {})},
                              timeout=TIMEOUT_SECONDS)

    def good(self, *arguments, code=0, stderr="", env=None):
        result = self.bitnet(*arguments, env=env)
        self.assertEqual((result.returncode, result.stderr), (code, stderr), result.stdout)
        return result.stdout

    def bad(self, expected, *arguments, env=None):
        """One line on stderr, nothing on stdout."""
        result = self.bitnet(*arguments, env=env)
        self.assertEqual((result.returncode, result.stdout), (2, ""), result.stderr)
        self.assertRegex(result.stderr, r"\Abitnet: [^\n]+\n\Z")
        self.assertIn(expected, result.stderr)

    def envelope(self, *options, env=None, stderr=""):
        return json.loads(self.good("envelope", "-m", SMALL, "--tokens", IDS, "--seeds", 1, "--format", "json", *options,
                                    env=env, stderr=stderr))

    def entries(self):
        return sorted(self.cache.rglob("*"), key=str)

    def trace(self, name, *options, model=SMALL, ids=IDS):
        self.good_or_chatty("trace", "-m", model, "--tokens", ids, "-o", name, *options)
        return self.folder / name

    def good_or_chatty(self, *arguments):
        result = self.bitnet(*arguments)
        self.assertEqual(result.returncode, 0, result.stderr)


class Command(Case):
    def test_document(self):
        document = self.envelope()
        self.assertEqual((document["kind"], document["schema"], document["engine"]), ("bitnet-envelope", 1, "bitnet-c"))
        self.assertEqual(document["tokens"], [int(i) for i in IDS.split(",")])
        self.assertEqual([c["name"] for c in document["classes"]], CLASSES)
        self.assertRegex(document["checksum"], r"\A[0-9a-f]{64}\Z")
        n_layers, per_layer = 3, 18
        for c in document["classes"]:
            self.assertEqual(len(c["stages"]), n_layers * per_layer + 3)
            self.assertEqual((c["stages"][0]["stage"], c["stages"][-1]["stage"]), ("embeddings", "logits"))
            self.assertEqual([r["position"] for r in c["logits"]], list(range(6)))
        reach = {c["name"]: {(s["layer"], s["stage"]): s["relative"] for s in c["stages"]} for c in document["classes"]}
        self.assertEqual(reach["f16-kv"][0, "q_proj"] > 1e-4, True)  # flipped codes
        self.assertLess(max(reach["f32"].values()), 1e-5)
        self.assertEqual(reach["f16-kv"][-1, "embeddings"], 0)
        self.assertGreater(reach["bf16"][-1, "embeddings"], 0)

    def test_the_same_numbers_every_time_and_with_any_threads(self):
        first = self.envelope("--no-cache", "-t", 1)
        self.assertEqual(self.envelope("--no-cache", "-t", 3), first)
        isas = self.good("--version").splitlines()[1].split(":")[1].replace(" (not on this CPU)", "!").split()
        self.assertEqual(self.envelope("--no-cache", "--isa", [i for i in isas if not i.endswith("!")][0]), first)
        self.assertEqual(self.entries(), [])

    def test_text(self):
        text = self.good("envelope", "-p", "2+2=", "--seeds", 1)
        for name in CLASSES:
            self.assertRegex(text, rf"\n  {name} +\d")
        self.assertIn("measured now", text)
        self.assertIn(str(self.cache), self.good("envelope", "-p", "2+2=", "--seeds", 1))

    def test_output_is_the_document(self):
        document = self.envelope("-o", "e.json")
        self.assertEqual(json.loads((self.folder / "e.json").read_text()), document)

    def test_around_another_engine(self):
        """What the engine does already is varied the other way round."""
        document = self.envelope("--profile", "bitnetcpp")
        f16 = document["classes"][1]
        self.assertEqual(f16["variations"][:2], ["kv=f32", "kv=f32,attn_q=f32"])
        self.assertGreater(max(s["relative"] for s in f16["stages"]), 1e-4)
        self.assertIn("kv=f16", document["semantics"])
        self.assertEqual(self.envelope("--kv", "f16")["semantics"],
                         self.envelope("--as", "kv=f16")["semantics"])

    def test_refused(self):
        self.bad("no text: give one of", "envelope")
        self.bad("cannot open", "envelope", "-m", "nothing.gguf", "-p", "x")
        self.bad("item 1 is '512'", "envelope", "-m", SMALL, "--tokens", "512")
        self.bad("--seeds: found '-1'", "envelope", "-p", "x", "--seeds", "-1")
        self.bad("--format: found 'xml'", "envelope", "-p", "x", "--format", "xml")
        self.bad("is a directory", "envelope", "-p", "x", "--seeds", 0, "-o", ".")
        self.bad("activation 'x'", "envelope", "-p", "x", "--as", "activation=x")


class Cache(Case):
    def entry(self):
        found = [path for path in self.entries() if path.is_file()]
        self.assertEqual(len(found), 1, found)
        self.assertEqual(found[0].parent, self.cache / "bitnet" / "envelopes")
        self.assertRegex(found[0].name, r"\A[0-9a-f]{64}\.json\Z")
        return found[0]

    def test_read_again(self):
        document = self.envelope()
        entry = self.entry()
        before = entry.stat()
        self.assertEqual(json.loads(entry.read_text()), document)
        self.assertEqual(self.envelope(), document)
        self.assertEqual((entry.stat().st_mtime_ns, entry.stat().st_ino), (before.st_mtime_ns, before.st_ino))

    def test_keys(self):
        """Another prompt, model, semantics or number of seeds is another entry; threads are not."""
        for options in ((), ("-t", 2), ("--as", "eps=1e-3"), ("--kv", "f16"), ("--seeds", 2)):
            self.good("envelope", "-m", SMALL, "--tokens", IDS, "--seeds", 1, *options) if "--seeds" not in options else \
                self.good("envelope", "-m", SMALL, "--tokens", IDS, *options)
        self.good("envelope", "-m", SMALL, "--tokens", "1,17", "--seeds", 1)
        self.assertEqual(len([p for p in self.entries() if p.is_file()]), 5)

    def changed_entry(self, change, expected):
        document = self.envelope()
        entry = self.entry()
        change(entry)
        result = self.bitnet("envelope", "-m", SMALL, "--tokens", IDS, "--seeds", 1, "--format", "json")
        self.assertEqual(result.returncode, 0)
        self.assertRegex(result.stderr, r"\Abitnet: envelope: [^\n]+: measured again\n\Z")
        self.assertIn(expected, result.stderr)
        self.assertEqual(json.loads(result.stdout), document)
        self.assertEqual(self.envelope(), document)  # repaired
        entry.unlink()

    def test_damaged_entries_are_measured_again(self):
        def edited(path):
            path.write_text(path.read_text().replace('"position": 3', '"position": 4', 1))

        def older(path):
            document = json.loads(path.read_text())
            document["schema"] = 0
            path.write_text(json.dumps(document))

        self.changed_entry(lambda path: path.write_text(path.read_text()[:5000]), "no JSON")
        self.changed_entry(lambda path: path.write_bytes(b""), "no JSON")
        self.changed_entry(lambda path: path.write_bytes(os.urandom(300)), "no JSON")
        self.changed_entry(edited, "its checksum is another one")
        self.changed_entry(older, "schema 0, expected 1")

    def test_an_entry_of_something_else(self):
        self.good("envelope", "-m", SMALL, "--tokens", "1,17", "--seeds", 1)
        other = self.entry().read_bytes()
        self.entry().unlink()
        self.changed_entry(lambda path: path.write_bytes(other), "token 2 is none, expected 300")

    @unittest.skipIf(os.geteuid() == 0, "root reads everything")
    def test_unreadable(self):
        self.changed_entry(lambda path: path.chmod(0), "cannot open")

    def test_a_folder_in_its_place(self):
        self.envelope()
        entry = self.entry()
        entry.unlink()
        entry.mkdir()
        result = self.bitnet("envelope", "-m", SMALL, "--tokens", IDS, "--seeds", 1)
        self.assertEqual(result.returncode, 0)
        self.assertEqual(len(result.stderr.splitlines()), 2)  # cannot be read, and cannot be kept
        self.assertIn("measured again", result.stderr)
        self.assertIn("not kept", result.stderr)

    def test_nowhere_to_keep_it(self):
        self.cache.write_text("a file")
        result = self.bitnet("envelope", "-m", SMALL, "--tokens", IDS, "--seeds", 0)
        self.assertEqual(result.returncode, 0)
        self.assertRegex(result.stderr, r"\Abitnet: envelope: not kept: cannot make the folder [^\n]+\n\Z")
        result = self.bitnet("envelope", "-m", SMALL, "--tokens", IDS, "--seeds", 0, env={"XDG_CACHE_HOME": "", "HOME": ""})
        self.assertEqual(result.returncode, 0)
        self.assertIn("neither XDG_CACHE_HOME nor HOME", result.stderr)

    def test_home(self):
        self.envelope(env={"XDG_CACHE_HOME": "", "HOME": str(self.folder / "home")})
        self.assertEqual(len(list((self.folder / "home/.cache/bitnet/envelopes").iterdir())), 1)
        self.envelope(env={"XDG_CACHE_HOME": "relative", "HOME": str(self.folder / "home")})  # to be ignored
        self.assertFalse((self.folder / "relative").exists())

    def test_no_cache_neither_reads_nor_writes(self):
        self.envelope("--no-cache")
        self.assertEqual(self.entries(), [])
        document = self.envelope()
        self.entry().write_bytes(b"damaged")
        self.assertEqual(self.envelope("--no-cache"), document)
        self.assertEqual(self.entry().read_bytes(), b"damaged")


class Diff(Case):
    def diff(self, code, *arguments):
        text = self.bitnet("diff", *arguments)
        out = self.bitnet("diff", *arguments, "--format", "json")
        self.assertEqual((text.returncode, out.returncode), (code, code), text.stdout + text.stderr)
        report = json.loads(out.stdout)
        self.assertTrue(text.stdout.startswith(("MATCH", "DIVERGENCE", "ERROR")[code]))
        self.assertEqual(report["exit"], code)
        return report, text.stdout

    def test_legal_engines_are_named(self):
        own = self.trace("a.jsonl")
        for options, allowed in ((("--profile", "hf-f32"), CLASSES), (("--kv", "f16"), CLASSES[1:]),
                                 (("--profile", "bitnetcpp"), CLASSES[1:]), (("--profile", "hf-bf16"), CLASSES[2:]),
                                 (("--profile", "q8k"), CLASSES[1:])):
            report, text = self.diff(0, own, self.trace("b.jsonl", *options), "--envelope", "auto")
            found = report["envelope"]
            self.assertIn(found["class"], allowed, options)
            self.assertEqual(report["rule"], "envelope")
            self.assertEqual(found["records"]["outside"], 0)
            self.assertEqual(sum(found["records"].values()), report["counts"]["within"])
            self.assertIn(f"inside {found['class']} noise", text)
            worst = {(s["layer"], s["stage"]): s for s in found["stages"]}
            self.assertEqual(len(worst), 3 * 18 + 3)
            self.assertTrue(all(s["worst_relative"] <= s["allowed"] for s in worst.values()))
            self.assertEqual(found["stages"][0]["stage"], "embeddings")
            self.assertEqual(found["stages"][-1]["stage"], "logits")

    def test_a_fault_is_outside_where_it_arises(self):
        own = self.trace("a.jsonl")
        for fault, layer, stage in (("activation@1=silu", 1, "ffn_act"), ("rope_offset@2=1", 2, "q_rope"),
                                    ("i2s@1=block64", 1, "q_proj"), ("norm@0=centred", 0, "attn_norm"),
                                    ("kv_swap@2=attention", 2, "attn_context")):
            report, text = self.diff(1, own, self.trace("b.jsonl", "--as", fault), "--envelope", "auto")
            self.assertIsNone(report["envelope"]["class"])
            if fault != "kv_swap@2=attention":  # which at token 0 is no attention at all
                self.assertEqual((report["first"]["layer"], report["first"]["stage"]), (layer, stage), fault)
            self.assertEqual((report["origins"][0]["layer"], report["origins"][0]["stage"]), (layer, stage), fault)
            self.assertGreater(report["first"]["relative"], report["first"]["allowed"])
            self.assertIn("outside every class", text)
            self.assertGreater(report["envelope"]["records"]["outside"], 0)

    def test_a_fault_that_drowns(self):
        """An eps of 1e-6 on this model moves nothing as far as a legal variation does: inside, and said so."""
        report, _ = self.diff(0, self.trace("a.jsonl"), self.trace("b.jsonl", "--as", "eps@1=1e-6"), "--envelope", "auto")
        self.assertIsNotNone(report["envelope"]["class"])

    def test_equal_traces(self):
        report, text = self.diff(0, self.trace("a.jsonl"), self.trace("b.jsonl"), "--envelope", "auto")
        self.assertEqual(report["envelope"]["class"], "equal")
        self.assertIn("bit for bit", text)

    def test_without_one_nothing_changes(self):
        report, _ = self.diff(1, self.trace("a.jsonl"), self.trace("b.jsonl", "--kv", "f16"))
        self.assertIsNone(report["envelope"])
        self.assertEqual(report["rule"], "hashes")

    def test_from_a_file(self):
        own, other = self.trace("a.jsonl"), self.trace("b.jsonl", "--kv", "f16")
        self.good("envelope", "-m", SMALL, "--tokens", IDS, "-o", "e.json", "--no-cache", "--format", "json")
        shutil.rmtree(self.cache, ignore_errors=True)
        self.diff(0, own, other, "--envelope", "e.json")
        self.assertEqual(self.entries(), [])
        longer = IDS + ",7"
        self.good("envelope", "-m", SMALL, "--tokens", longer, "-o", "longer.json", "--no-cache", "--format", "json")
        self.diff(0, own, other, "--envelope", "longer.json")
        self.bad("token 6 is none, expected 7", "diff", self.trace("c.jsonl", ids=longer), self.trace("d.jsonl", ids=longer),
                 "--envelope", "e.json")
        self.bad("an envelope of something else: semantics", "diff", self.trace("c.jsonl", "--as", "activation=silu"),
                 self.trace("d.jsonl", "--as", "activation=silu"), "--envelope", "e.json")

    def test_the_model_is_found_and_checked(self):
        moved = self.folder / "moved.gguf"
        shutil.copy(SMALL, moved)
        own, other = self.trace("a.jsonl", model=moved), self.trace("b.jsonl", "--kv", "f16", model=moved)
        moved.unlink()
        self.bad("moved.gguf", "diff", own, other, "--envelope", "auto")
        self.bad("expected", "diff", own, other, "--envelope", "auto", "-m", SOURCE / "scripts/demo_model/demo.gguf")
        self.diff(0, own, other, "--envelope", "auto", "-m", SMALL)
        moved.write_bytes(b"now the cache holds it")
        self.diff(0, own, other, "--envelope", "auto")

    def test_foreign_sides(self):
        own, other = self.trace("a.jsonl"), self.trace("b.jsonl", "--kv", "f16")
        renamed = other.read_text().replace('"engine":"bitnet-c"', '"engine":"other"')
        self.assertNotEqual(renamed, other.read_text())
        other.write_text(renamed)
        self.assertEqual(self.diff(0, own, other, "--envelope", "auto")[0]["envelope"]["class"], "f16-kv")
        self.assertEqual(self.diff(0, other, own, "--envelope", "auto")[0]["envelope"]["class"], "f16-kv")
        self.bad("one of them must be of bitnet-c", "diff", other, other, "--envelope", "auto")

    def test_preflight_needs_no_envelope(self):
        report, _ = self.diff(1, self.trace("a.jsonl"), self.trace("b.jsonl", ids="1,17,301,42,5,99"), "--envelope", "auto")
        self.assertIn("tokens", report["text"])
        self.assertEqual(self.entries(), [])

    def test_refused(self):
        own = self.trace("a.jsonl")
        self.bad("excludes", "diff", own, own, "--envelope", "auto", "--tolerance", "exact")
        self.bad("--no-cache: needs --envelope auto", "diff", own, own, "--no-cache")
        self.bad("cannot open", "diff", own, own, "--envelope", "nothing.json")
        (self.folder / "x.json").write_text("{}")
        self.bad("its kind is not", "diff", own, own, "--envelope", "x.json")


class Crossval(Case):
    def crossval(self, code, *arguments):
        call = ["crossval", "-m", SMALL, "--against", f"lib:{LIBRARY}", *arguments]
        text, out = self.bitnet(*call), self.bitnet(*call, "--format", "json")
        self.assertEqual((text.returncode, out.returncode), (code, code), text.stdout + text.stderr)
        return json.loads(out.stdout), text.stdout

    def test_classes(self):
        for profile, allowed in (("hf-f32", CLASSES), ("bitnetcpp", CLASSES[1:]), ("hf-bf16", CLASSES[1:]),
                                 ("q8k", CLASSES[1:])):
            report, text = self.crossval(0, "--tokens", IDS, "--against-as", f"profile={profile}", "--envelope", "auto")
            self.assertIn(report["envelope"]["class"], allowed)
            self.assertEqual(report["preset"], "envelope")
            self.assertIn(f"inside {report['envelope']['class']} noise", text)
            prompt = report["prompts"][0]
            self.assertEqual([c["name"] for c in prompt["envelope"]["classes"]], CLASSES)
            self.assertEqual(prompt["envelope"]["class"], report["envelope"]["class"])
            self.assertEqual(report["limits"], prompt["envelope"]["limits"])
            for row in prompt["rows"]:
                self.assertIn(row["class"], CLASSES)
                limits = prompt["envelope"]["classes"][CLASSES.index(row["class"])]["limits"]
                self.assertLessEqual(row["nmse"], limits["nmse"])
                self.assertGreaterEqual(row["cosine"], limits["cosine"])

    def test_a_fault_diverges(self):
        report, text = self.crossval(1, "--tokens", IDS, "--against-as", "activation=silu", "--envelope", "auto",
                                     "--junit", "j.xml", "--sarif", "s.sarif", "--receipt", "r.json")
        self.assertIsNone(report["envelope"]["class"])
        self.assertIn("outside every class of legal variations: ", report["text"])
        self.assertIn("(outside)", text)
        suite = xml.parse(self.folder / "j.xml").find("testsuite")
        self.assertEqual(suite.find("properties/property").attrib, {"name": "envelope", "value": "outside every class"})
        self.assertIn("outside every class", suite.find("testcase/failure").attrib["message"])
        results = json.loads((self.folder / "s.sarif").read_text())["runs"][0]["results"]
        self.assertTrue(all(r["level"] == "error" and "outside every class" in r["message"]["text"] for r in results))
        self.assertEqual(json.loads((self.folder / "r.json").read_text())["prompts"][0]["envelope"]["class"], None)

    def test_reports_of_a_match(self):
        self.crossval(0, "--tokens", IDS, "--against-as", "kv=f16", "--envelope", "auto", "--junit", "j.xml", "--sarif", "s.sarif")
        suite = xml.parse(self.folder / "j.xml").find("testsuite")
        self.assertEqual(suite.find("properties/property").attrib["value"], "f16-kv")
        (result,) = json.loads((self.folder / "s.sarif").read_text())["runs"][0]["results"]
        self.assertEqual((result["ruleId"], result["kind"], result["level"]), ("envelope", "pass", "none"))

    def test_limits_of_the_command_line_stand_over_it(self):
        against = ("--tokens", IDS, "--against-as", "kv=f16", "--envelope", "auto")
        report, _ = self.crossval(1, *against, "--max-abs", "1e-9")
        self.assertEqual(report["limits"]["max_abs"], 1e-9)
        self.assertEqual(report["envelope"]["class"], "f16-kv")  # the class is of the envelope alone
        report, _ = self.crossval(0, "--tokens", IDS, "--against-as", "activation=silu", "--envelope", "auto", "--cos-tol", "off",
                                  "--nmse", "off", "--kl", "off", "--max-abs", "1e9", "--top1", "off")
        self.assertIsNone(report["envelope"]["class"])

    def test_prompts_each_have_their_own(self):
        (self.folder / "p.jsonl").write_text('{"tokens": [1, 2, 3]}\n{"tokens": [4, 5, 6, 7]}\n')
        report, _ = self.crossval(0, "--prompts", "p.jsonl", "--against-as", "kv=f16", "--envelope", "auto")
        own = [p["envelope"]["limits"]["nmse"] for p in report["prompts"]]
        self.assertEqual(report["limits"]["nmse"], max(own))
        self.assertEqual(len([p for p in self.entries() if p.is_file()]), 2)

    def test_decoded_tokens_belong_to_it(self):
        report, _ = self.crossval(0, "--tokens", "1,2,3", "-n", 2, "--against-as", "kv=f16", "--envelope", "auto")
        self.assertEqual(len(report["prompts"][0]["rows"]), 5)

    def test_from_a_file(self):
        self.good("envelope", "-m", SMALL, "--tokens", IDS, "-o", "e.json", "--format", "json")
        self.crossval(0, "--tokens", IDS, "--against-as", "kv=f16", "--envelope", "e.json")
        report, _ = self.crossval(2, "--tokens", "1,2", "--against-as", "kv=f16", "--envelope", "e.json")
        self.assertIn("an envelope of something else: token 1 is 17, expected 2", report["errors"][0])

    def test_a_trace_is_judged_by_what_it_holds(self):
        trace = self.trace("b.jsonl", "--kv", "f16")
        report = json.loads(self.good("crossval", "-m", SMALL, "--against", trace, "--envelope", "auto", "--format", "json"))
        self.assertEqual(report["envelope"]["class"], "f16-kv")

    def test_without_one_nothing_changes(self):
        """The preset alarms here: its mean KL is too little for what an F16 cache does to this random model."""
        report, _ = self.crossval(1, "--tokens", IDS, "--against-as", "kv=f16")
        self.assertIn("mean KL", report["text"])
        self.assertIsNone(report["envelope"])
        self.assertEqual(report["preset"], "bitnet")
        self.assertNotIn("envelope", report["prompts"][0])
        self.assertNotIn("class", report["prompts"][0]["rows"][0])

    def test_refused(self):
        call = ("crossval", "-m", SMALL, "--tokens", IDS, "--against", "x.npy")
        self.bad("--envelope: stands in place of --preset", *call, "--envelope", "auto", "--preset", "seed")
        self.bad("--no-cache: needs --envelope auto", *call, "--no-cache")
        self.bad("cannot open", *call, "--envelope", "nothing.json")


if __name__ == "__main__":
    BITNET, LIBRARY = (Path(path).resolve() for path in sys.argv[1:3])
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
