#!/usr/bin/env python3
"""bitnet report from outside: python3 test_report.py BITNET [unittest options]

Pages of real comparisons and of made-up ones: well-formed, complete in themselves, nothing of a file becomes markup, and
what Chromium shows of them in both colour schemes. BITNET_REPORT_KEEP names a folder for the pages and the screenshots.
"""

import copy
import html.parser
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as xml
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import png

SOURCE = Path(__file__).resolve().parents[3]
SMALL = SOURCE / "tests" / "data" / "small.gguf"
RECORDING = SOURCE / "tests" / "data" / "bitnetcpp.npz"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
STAGES = ["embeddings", "attn_norm", "q_proj", "k_proj", "v_proj", "q_rope", "k_rope", "attn_scores", "attn_scores_softmax",
          "attn_context", "attn_sub_norm", "attn_out", "attn_residual", "ffn_norm", "ffn_gate", "ffn_up", "ffn_act",
          "ffn_sub_norm", "ffn_out", "layer_out", "final_norm", "logits"]
EVIL = "<script>alert('x')</script>\"'&amp;</title><img src=x onerror=alert(1)>\u202egnp\x1b[31m"
BITNET = None


def run(*arguments, expect=None):
    done = subprocess.run([BITNET, *map(str, arguments)], capture_output=True, timeout=300)
    if b"Sanitizer" in done.stderr or b"runtime error" in done.stderr:
        raise AssertionError(done.stderr.decode(errors="replace"))
    if expect is not None and done.returncode != expect:
        raise AssertionError(f"{arguments}: exit {done.returncode}, expected {expect}: {done.stderr.decode()}")
    return done


def distance(layer, i, position=0):
    """Some value of every class of colours."""
    return 0 if layer == 0 else 1e-8 * 3.7 ** ((layer + i + position) % 17)


def place(layer, stage, seq, **more):
    return {"run": 0, "seq": seq, "layer": layer, "stage": stage, **more}


def map_row(part, layer, cells, **more):
    status = "".join("." if cell is None else "=" if cell == 0 else "d" if isinstance(cell, str) or cell > 1e-3 else "w"
                     for cell in cells)
    relative = [None if cell in (None, "nan") else cell for cell in cells]
    return {"part": part, "layer": layer, "to_layer": layer, "status": status, "relative": relative,
            **{key: [None if cell is None else value for cell in cells] for key, value in more.items()}}


def made_up_diff(layers=30, positions=500, engine="other"):
    """What bitnet diff prints of a large comparison, as DIFF.md documents it."""
    columns = min(positions, 125)
    step = positions // columns
    outside = {"embeddings", "final_norm", "logits"}
    by_stage = [map_row("embeddings", -1, [0 if s == "embeddings" else None for s in STAGES], run=0, seq=0)]
    by_position = [map_row("embeddings", -1, [0] * columns, stage="embeddings")]
    for layer in range(layers):
        cells = [None if s in outside else "nan" if (layer, s) == (7, "attn_out") else "Infinity" if (layer, s) == (8, "ffn_act")
                 else distance(layer, i) for i, s in enumerate(STAGES)]
        by_stage.append(map_row("layers", layer, cells, run=0, seq=3))
        by_position.append(map_row("layers", layer, [distance(layer, 0, p) for p in range(columns)], stage="ffn_out"))
    by_stage.append(map_row("output", -1, [0.2 if s in ("final_norm", "logits") else None for s in STAGES], run=0, seq=4))
    by_position.append(map_row("output", -1, [0.2] * columns, stage="logits"))
    record = {"line": 3, "event": 4, "rms": 0.5, "mean": 0.1, "min": "-Infinity", "max": 2, "absmax": 2, "l2": 9, "nan": 0, "inf": 1,
              "zeros": 0, "num_elements": 2560}
    first = place(2, "ffn_act", 3, token=11, inputs="equal", inputs_recorded=["ffn_gate", "ffn_up"], inputs_unrecorded=[], a=record,
                  b=record, top={"index": 5, "a": 1.5, "b": None}, relative=0.3, allowed=None, hints=["one value differs"])
    side = {"path": "a.jsonl", "files": ["a.jsonl"], "runs": 1, "records": layers * 19 * positions, "engine": engine,
            "engine_version": "1", "isa": "avx2", "kv_type": "f32", "model_path": "m.gguf", "model_hash": "ab" * 32, "tokens": positions}
    return {"verdict": "divergence", "exit": 1, "text": "first difference at token 3, layer 2, ffn_act.", "errors": [], "a": side,
            "b": dict(side, path="b.jsonl"), "rule": "distance", "tolerance": 1e-3, "would_pass": None,
            "preflight": [{"key": "semantics.activation", "a": "relu2", "b": "silu", "text": "semantics: activation", "mismatch": False,
                           "ignored": False}],
            "counts": {"compared": 1000, "equal": 10, "within": 90, "unjudged": 0, "different": 900, "missing_in_a": 0,
                       "missing_in_b": 0, "unparsable": 0, "duplicate": 0},
            "first": first, "causes": ["semantics: activation relu2 against silu"],
            "origins": [place(2, "ffn_act", 3, inputs="equal", inputs_recorded=["ffn_gate"], inputs_unrecorded=[], relative=0.3,
                              worst_relative="Infinity", positions=positions)], "origins_total": 1,
            "growth": [{"layer": i, "stage": "layer_out", "relative": [0, 1e-6, None, "Infinity"][i % 4], "worst": 0.1 * (i + 1),
                        "worst_seq": 4} for i in range(layers)], "jump": None,
            "logits": {"compared": positions, "run": 0, "seq": 3, "relative": 0.2, "allowed": 1e-3, "top1_a": 5, "top1_b": 9,
                       "top1_equal": False, "top1_inside_noise": False, "top_common": 6, "top_listed": 8, "worst_relative": None,
                       "worst_seq": 7},
            "input_errors": 0, "allow_missing": False,
            "automatic": {"rule": "logits", "logits": positions, "unjudged": 0, "different": 0, "first": None},
            "map": {"stages": [{"name": s, "in_a": True, "in_b": True} for s in STAGES],
                    "columns": [{"run": 0, "seq": c * step, "to_run": 0, "to_seq": c * step + step - 1} for c in range(columns)],
                    "by_stage": by_stage, "by_position": by_position,
                    "logits": [None if c == 5 else {"run": 0, "seq": c * step, "status": "d", "relative": None if c == 6 else 0.2, "top1_a": 5,
                                                    "top1_b": None if c == 7 else 9} for c in range(columns)]}}


def made_up_crossval(prompts, positions, name="other", text="2+2="):
    row = {"verdict": "diverged", "failed": ["cosine"], "cosine": 0.5, "l2": 1.0, "max_abs": 0.25, "mse": 0.01, "nmse": 0.1, "kl": 0.3,
           "top_k": 0.8, "top1": 3, "top1_against": 4, "top1_lead": 0.5, "not_close": 0, "elements": 512, "nonfinite": 0,
           "worst": {"index": 3, "ours": 1.0, "against": "Infinity"}}
    return {"verdict": "divergence", "exit": 1, "text": "", "errors": [],
            "ours": {"engine": "bitnet-c", "model_path": "m.gguf", "model_hash": "ab", "semantics": "", "isa": "avx2", "kv_type": "f32"},
            "against": {"name": name, "limitation": None}, "preset": "bitnet", "limits": {"cosine": 0.97, "nmse": 0.01, "kl": 0.1},
            "top_k": 5, "ladder": "positions", "compared": prompts * positions,
            "prompts": [{"index": i, "id": f"{text} {i}", "prompt": text, "verdict": "divergence", "error": None, "tokens": list(range(positions)),
                         "n_prompt": positions, "token_parity": "equal", "token_difference": None, "first_divergence": 0,
                         "compared": positions, "missing": 0, "missing_allowed": False, "complete": True, "summary": None,
                         "rows": [dict(row, position=p, token=p, nmse="Infinity" if p == 3 else 0.1, nonfinite=1 if p == 2 else 0)
                                  for p in range(positions)]} for i in range(prompts)]}


class Text(html.parser.HTMLParser):
    """The texts of a page by where they stand, as a browser's parser reads it."""

    def __init__(self, page):
        super().__init__()
        self.inside, self.h1, self.all, self.tags, self.attributes = [], "", "", [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]
        if tag not in ("meta", "br"):
            self.inside.append(tag)

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        self.all += data
        if "h1" in self.inside:
            self.h1 += data


def chromium(page, *options, width=1280, height=800):
    with tempfile.TemporaryDirectory(prefix="bitnet-chromium-") as profile:
        done = subprocess.run(
            [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-extensions", f"--user-data-dir={profile}",
             "--enable-logging=stderr", "--virtual-time-budget=5000", f"--window-size={width},{height}", *options, Path(page).as_uri()],
            capture_output=True, timeout=180, env={**os.environ, "HOME": profile})
    return done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if keep := os.environ.get("BITNET_REPORT_KEEP"):
            cls.folder = Path(keep)
            cls.folder.mkdir(parents=True, exist_ok=True)
            return
        temporary = tempfile.TemporaryDirectory(prefix="bitnet-report-")
        cls.addClassCleanup(temporary.cleanup)
        cls.folder = Path(temporary.name)

    def save(self, name, document):
        path = self.folder / name
        path.write_text(json.dumps(document))
        return path

    def report(self, name, *options, expect):
        path = self.folder / f"{name}.html"
        path.unlink(missing_ok=True)
        done = run("report", *options, "-o", path, "--svg", self.folder / f"{name}.svg", expect=expect)
        page = path.read_text()
        self.check_page(page)
        xml.fromstring((self.folder / f"{name}.svg").read_text())
        self.assertIn(str(path), done.stdout.decode())
        return page, Text(page)

    def check_page(self, page):
        """Well-formed, and nothing in it that would load or run anything."""
        xml.fromstring(page.replace("<!DOCTYPE html>", "", 1))
        text = Text(page)
        self.assertEqual(set(text.tags) & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "a", "image", "use"}, set())
        for tag, name, value in text.attributes:
            self.assertNotIn(name, ("src", "href", "xlink:href", "srcset", "action", "data", "style"), tag)
            self.assertFalse(name.startswith("on"), (tag, name))
        for style in re.findall(r"<style>(.*?)</style>", page, re.S):
            self.assertNotRegex(style, r"url\(|@import|@font-face|https?:")
        self.assertIn("default-src 'none'", page)
        self.assertNotRegex(page, "[\x00-\x08\x0b-\x1f\x7f\u200b-\u200f\u202a-\u202e]")

    def error_of(self, *options):
        path = self.folder / "none.html"
        done = run("report", *options, "-o", path, expect=2)
        lines = done.stderr.decode().splitlines()
        self.assertEqual(len(lines), 1, lines)
        self.assertFalse(path.exists())
        return lines[0]


class Real(Case):
    """Traces of the demo model, and what bitnet.cpp recorded."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.a, cls.b = cls.folder / "a.jsonl", cls.folder / "b"
        cls.b.mkdir(exist_ok=True)
        prompt = ["trace", "-p", "The answer to 2+2 is"]
        run(*prompt, "-o", cls.a, expect=0)
        run(*prompt, "--as", "activation@1=silu", "-o", cls.b / "b.jsonl", expect=0)

    def values_of(self, document):
        return [cell for row in document["map"]["by_stage"] for cell in row["relative"] if cell]

    def test_a_divergence(self):
        page, text = self.report("divergence", self.a, self.b, expect=1)
        document = json.loads(run("diff", self.a, self.b, "--format", "json", expect=1).stdout)
        self.assertTrue(text.h1.startswith("DIVERGENCE "), text.h1)
        self.assertIn(document["text"][1:], text.h1)  # its first letter is a capital
        self.assertIn("layer 1, ffn_act", text.h1)
        # Every value of the map stands in the page as text.
        tables = Text(re.sub("<svg.*?</svg>", "", page, flags=re.S)).all
        values = self.values_of(document)
        self.assertGreater(len(values), 30)
        for value in values:
            for where in (tables, text.all):
                self.assertIn(f"{value:.2g}", where)
        self.assertEqual(page, self.report("again", self.a, self.b, expect=1)[0])  # the same bytes
        saved = self.save("saved_diff.json", document)
        from_file = self.report("from_file", "--diff", saved, expect=1)[1]
        self.assertEqual(from_file.h1, text.h1)
        for missing in ("no raw values were given", "no cross-validation was given"):
            self.assertIn("Not recorded: " + missing, text.all)

    def test_an_envelope_judges_as_it_does_in_diff(self):
        """F16 keys and values are noise, SiLU is not: in the sentence, the noise classes, the map, and the exit code."""
        envelope, f16 = self.folder / "e.json", self.folder / "f16.jsonl"
        prompt = ["-p", "The answer to 2+2 is"]
        run("envelope", *prompt, "--seeds", 1, "-o", envelope, expect=0)
        run("trace", *prompt, "--kv", "f16", "-o", f16, expect=0)
        for other, code, word in ((f16, 0, "MATCH "), (self.b, 1, "DIVERGENCE ")):
            document = json.loads(run("diff", self.a, other, "--envelope", envelope, "--format", "json", expect=code).stdout)
            page, text = self.report(f"envelope_{code}", self.a, other, "--envelope", envelope, expect=code)
            self.assertTrue(text.h1.startswith(word), text.h1)
            self.assertIn(document["text"][1:], text.h1)
            self.assertEqual(page, self.report("saved_envelope", "--diff", self.save("e_diff.json", document), expect=code)[0]
                             .replace(str(self.folder / "e_diff.json"), f"bitnet diff {self.a} {other}"))
            self.assertIn("Noise classes", text.all)
            outside = document["envelope"]["records"]["outside"]
            self.assertIn(f"Outside every class: {outside:,}.", text.all)
            self.assertEqual(outside > 0, code == 1)
            # Without it the bits would decide.
            run("report", self.a, other, "-o", self.folder / "bits.html", expect=1)
        # Measured where the cache has none, with the model that is named.
        cache = {"XDG_CACHE_HOME": str(self.folder / "cache")}
        done = subprocess.run([BITNET, "report", self.a, f16, "--envelope", "auto", "-m", SOURCE / "scripts/demo_model/demo.gguf", "-o",
                               self.folder / "auto.html"], capture_output=True, env={**os.environ, **cache}, timeout=300)
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        self.assertEqual(len(list((self.folder / "cache/bitnet/envelopes").iterdir())), 1)
        self.assertIn("expected A and B", self.error_of("--envelope", envelope, "--recording", RECORDING, "-m", SMALL))
        self.assertIn("--no-cache", self.error_of(self.a, f16, "--no-cache"))
        self.assertIn("--envelope", run("report", self.a, f16, "--envelope", envelope, "--tolerance", "1", expect=2).stderr.decode())
        other = self.folder / "other.jsonl"
        run("trace", "-p", "Another one", "-o", other, expect=0)
        self.assertIn("an envelope of something else", self.error_of(other, other, "--envelope", envelope))

    def test_the_figure_in_the_repository(self):
        """As REPORT.md says how it is made; the engine's bits are the same on every machine."""
        self.report("figure", self.a, self.b, expect=1)
        self.assertEqual((self.folder / "figure.svg").read_text(), (SOURCE / "abi/cli/report/report.svg").read_text())

    def test_a_match(self):
        _, text = self.report("match", self.a, self.a, expect=0)
        self.assertTrue(text.h1.startswith("MATCH "), text.h1)
        self.assertIn("no record differs", text.all)

    def test_a_preflight_that_does_not_fit_stands_in_front(self):
        other = self.folder / "other_tokens.jsonl"
        run("trace", "-p", "Another one", "-o", other, expect=0)
        page, text = self.report("preflight", self.a, other, expect=1)
        self.assertIn("before any number", text.h1.lower())
        self.assertLess(page.index("<h2>Preflight"), page.index("<h2>Layers and stages"))
        self.assertIn("Not recorded: nothing was compared", text.all)

    def test_nothing_compared_is_a_page_too(self):
        # The reference has only embeddings, the other one only logits.
        for name, select in (("only_a", "embeddings"), ("only_b", "logits")):
            run("trace", "-p", "2+2=", "--select", select, "-o", self.folder / f"{name}.jsonl", expect=0)
        _, text = self.report("nothing", self.folder / "only_a.jsonl", self.folder / "only_b.jsonl", expect=2)
        self.assertTrue(text.h1.startswith("ERROR "), text.h1)
        self.assertIn("nothing was compared", text.h1.lower())
        self.assertNotIn("svg", text.tags)
        self.assertNotIn("No record is judged different", text.all)
        _, text = self.report("no_file", self.a, self.folder / "nowhere.jsonl", expect=2)
        self.assertIn(str(self.folder / "nowhere.jsonl"), text.h1)

    def test_what_bitnetcpp_recorded(self):
        page, text = self.report("bitnetcpp", "--recording", RECORDING, "-m", SMALL, expect=0)
        self.assertTrue(text.h1.startswith("MATCH "), text.h1)
        self.assertIn("kv=f16,attn_q=f16", text.all)
        self.assertIn("Not recorded: no two traces were given", text.all)
        document = json.loads(run("explain", RECORDING, "-m", SMALL, "--format", "json", expect=0).stdout)
        self.assertIn(document["text"][4:].rstrip("."), text.h1)
        self.assertEqual(page.count("<title>layer"), sum(o["layer"] >= 0 for o in document["operations"]))
        saved = self.save("saved_explain.json", document)
        self.assertEqual(self.report("explain_file", "--explain", saved, expect=0)[1].h1, text.h1)

    def test_a_fault_that_is_explained(self):
        """Raw values beside the trace are found; the cause is the sentence."""
        folder = self.folder / "with_raw"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        ids = ["--tokens", "1,17,300,42"]
        subprocess.run([BITNET, "trace", "-m", SMALL, *ids, "--as", "activation=silu,rope_offset@2=1", "-o", folder / "b.jsonl",
                        "--plugin", f"npy:dir={folder}/raw,raw=all"], check=True, capture_output=True, timeout=120,
                       env={**os.environ, "BITNET_TRACE_SELECT": "**,*.*"})
        run("trace", "-m", SMALL, *ids, "-o", self.folder / "small.jsonl", expect=0)
        page, text = self.report("explained", self.folder / "small.jsonl", folder, "-m", SMALL, expect=1)
        self.assertIn("activation=silu", page)
        self.assertIn("rope_offset=1", page)
        self.assertIn("ffn_act of layers 0-2: SiLU (activation=silu)", text.h1)
        self.assertIn("q_rope of layer 2, k_rope of layer 2: RoPE one position too far (rope_offset=1)", text.h1)
        self.assertLess(page.index("What is wrong, and why"), page.index("Layers and stages"))
        without_model = self.report("no_model", self.folder / "small.jsonl", folder, expect=1)[1]
        self.assertIn("their model was not given", without_model.all)

    def test_options_that_make_no_report(self):
        self.assertIn("nothing to report", self.error_of())
        self.assertIn("one trace", self.error_of(self.a))
        self.assertIn("stands in place", self.error_of(self.a, self.b, "--diff", "x.json"))
        self.assertIn("there are none", self.error_of(self.a, self.b, "-m", SMALL))
        saved = self.save("a_diff.json", made_up_diff(2, 4))
        self.assertIn("found the JSON of bitnet diff, expected that of bitnet explain", self.error_of("--explain", saved))
        self.assertIn("found the JSON of bitnet diff, expected that of bitnet crossval", self.error_of("--crossval", saved))
        self.assertIn("cannot open", self.error_of("--diff", self.folder / "nothing"))
        done = run("report", "--diff", saved, "-o", self.folder / "no" / "folder.html", expect=2)
        self.assertEqual(len(done.stderr.splitlines()), 1)

    def test_standard_output(self):
        done = run("report", self.a, self.b, "-o", "-", expect=1)
        self.check_page(done.stdout.decode())


class MadeUp(Case):
    def test_a_large_model(self):
        saved = self.save("large.json", made_up_diff())
        _, text = self.report("large", "--diff", saved, expect=1)
        self.assertLess((self.folder / "large.html").stat().st_size, 4 << 20)
        self.assertIn("A column covers several positions", text.all)
        for said in ("not measurable", "infinite", "only A" if False else "layer 29", "not listed in B"):
            self.assertIn(said, text.all)

    def test_a_large_crossval(self):
        saved = self.save("crossval.json", made_up_crossval(20, 200))
        _, text = self.report("crossval", "--crossval", saved, expect=1)
        self.assertIn("2000 of 4000", text.all)
        self.assertIn("Curves of 4 of 20 prompts", text.all)

    def test_noise_classes_of_prompts(self):
        document = made_up_crossval(4, 3, text="p")
        document["envelope"] = {"class": None, "margin": 2.5}
        envelope = {"classes": [], "limits": {"nmse": 0.125}}
        document["prompts"][0]["envelope"] = dict(envelope, **{"class": "f16-kv"})
        document["prompts"][1]["envelope"] = dict(envelope, **{"class": None})
        document["prompts"][2].update(envelope=dict(envelope, **{"class": None}), compared=0, rows=[], error="gone")
        page, text = self.report("classes", "--crossval", self.save("classes.json", document), expect=2)
        table = next(t for t in xml.fromstring(page.split("\n", 1)[1]).iter("table") if "Prompts" in "".join(t[0].itertext()))
        rows = [["".join(cell.itertext()) for cell in row] for row in table.iter("tr")]
        self.assertEqual([row[-1] for row in rows], ["noise class", "f16-kv", "outside", "-", "-"])
        self.assertIn("what legal variations of our engine do to each prompt", text.all)
        self.assertIn("NMSE at most 0.125", text.all)  # the prompt's own limit in its chart
        page, _ = self.report("plain", "--crossval", self.save("plain.json", made_up_crossval(1, 3)), expect=1)
        self.assertNotIn("noise class", page)

    def test_noise_classes_of_stages(self):
        document = made_up_diff(3, 4)
        document["rule"] = "envelope"
        document["first"]["inputs"] = "inside"
        stage = {"worst_relative": 0.25, "allowed": 0.125}
        document["envelope"] = {"class": None, "classes": ["threads", "f16-kv"], "margin": 2.5,
                                "records": {"threads": 1234, "f16-kv": 56, "outside": 7},
                                "stages": [dict(stage, layer=-1, stage="embeddings", **{"class": "threads"}),
                                           dict(stage, layer=2, stage="q_proj", **{"class": "f16-kv"}),
                                           dict(stage, layer=2, stage="ffn_act", **{"class": None})]}
        page, text = self.report("noise", "--diff", self.save("noise.json", document), expect=1)
        table = next(t for t in xml.fromstring(page.split("\n", 1)[1]).iter("table") if "smallest class" in "".join(t[0].itertext()))
        rows = [["".join(cell.itertext()) for cell in row] for row in table.iter("tr")]
        self.assertEqual([row[:3] for row in rows], [["layer", "stage", "noise class"], ["-", "embeddings", "threads"],
                                                     ["2", "q_proj", "f16-kv"], ["2", "ffn_act", "outside"]])
        self.assertIn("leaves every class although its inputs are inside one", text.all)
        for said in ("Inside threads: 1,234.", "Inside f16-kv: 56.", "Outside every class: 7."):
            self.assertIn(said, text.all)
        document["envelope"]["stages"][0]["class"] = 3
        self.assertIn("stages[0]: class: found 3", self.error_of("--diff", self.save("bad.json", document)))
        page, _ = self.report("no-noise", "--diff", self.save("no-noise.json", made_up_diff(3, 4)), expect=1)
        self.assertNotIn("Noise classes", page)

    def test_everything_is_escaped(self):
        """Every text of every document is made markup: none of it may become an element."""
        def evil(value, keep):
            if isinstance(value, dict):
                return {key: item if key in keep else evil(item, keep) for key, item in value.items()}
            if isinstance(value, list):
                return [evil(item, keep) for item in value]
            return EVIL if isinstance(value, str) else value

        keep = {"part", "status", "outcome", "inputs", "relative", "worst", "worst_relative", "min", "verdict", "rule", "token_parity",
                "failed", "limits", "cosine", "nmse", "against_value", "ladder"}
        diff = evil(made_up_diff(4, 6), keep | {"growth"})
        explain = evil(json.loads(run("explain", RECORDING, "-m", SMALL, "--format", "json", expect=0).stdout), keep | {"distance"})
        crossval = evil(made_up_crossval(2, 4), keep | {"worst"})
        page, text = self.report("evil", "--diff", self.save("e1.json", diff), "--explain", self.save("e2.json", explain), "--crossval",
                                 self.save("e3.json", crossval), "--title", EVIL.replace("\x1b", ""), expect=1)
        self.assertNotIn("<script", page)
        self.assertNotIn("<img", page)
        self.assertIn("<script>alert('x')</script>", text.all)  # as text it is there
        self.assertIn("\\u{202e}", text.all)
        self.assertIn("\\x1b[31m", text.all)

    def test_missing_parts_are_said(self):
        document = made_up_diff(3, 4)
        document.update(map=None, first=None, logits=None, growth=[], origins=[], preflight=[], causes=[])
        _, text = self.report("bare", "--diff", self.save("bare.json", document), expect=1)
        self.assertNotIn("svg", text.tags)
        self.assertGreaterEqual(text.all.count("Not recorded:"), 5, text.all)
        old = made_up_diff(3, 4)
        del old["map"]
        _, text = self.report("old", "--diff", self.save("old.json", old), expect=1)
        self.assertIn("did not write maps yet", text.all)

    def test_damaged_documents(self):
        for change, said in ((lambda d: d.pop("counts"), 'no "counts"'),
                             (lambda d: d["map"]["by_stage"][1].update(status="="), "letters"),
                             (lambda d: d["map"]["by_stage"][1]["relative"].pop(), "found 21 items, expected 22"),
                             (lambda d: d["map"]["by_position"][1].update(part="roof"), "embeddings, layers or output"),
                             (lambda d: d["map"]["logits"].append(None), "items"),
                             (lambda d: d["map"]["by_stage"].extend(d["map"]["by_stage"] * 60), "at most 130"),
                             (lambda d: d["growth"][0].update(relative="far"), "expected a number"),
                             (lambda d: d["first"].update(inputs="maybe"), "equal, token"),
                             (lambda d: d.update(exit=7), "expected 0, 1 or 2")):
            document = copy.deepcopy(made_up_diff(3, 4))
            change(document)
            line = self.error_of("--diff", self.save("damaged.json", document))
            self.assertIn(said, line)
            self.assertIn("damaged.json", line)
        # One value of another type at a time, everywhere: a page or a line.
        document = made_up_diff(2, 3)
        for key in document:
            for value in (None, -1, [], {}, "x", True):
                broken = dict(document, **{key: value})
                path = self.folder / "mutated.html"
                path.unlink(missing_ok=True)
                done = run("report", "--diff", self.save("mutated.json", broken), "-o", path)
                self.assertIn(done.returncode, (0, 1, 2), (key, value))
                if path.exists():
                    self.check_page(path.read_text())
                else:
                    self.assertEqual(len(done.stderr.splitlines()), 1, (key, value))

    def test_contrast(self):
        """WCAG AA, 4.5 to 1, for the texts of both schemes: every number in a cell is legible on its colour."""
        page, _ = self.report("contrast", "--diff", self.save("contrast.json", made_up_diff(2, 3)), expect=1)
        style = re.search(r"<style>(.*?)</style>", page, re.S).group(1)
        schemes = [dict(re.findall(r"--([\w-]+):\s*(#[0-9a-f]{6})", part)) for part in style.split("@media (prefers-color-scheme: dark)")[:2]]
        self.assertEqual(*(set(scheme) for scheme in schemes))

        def luminance(colour):
            parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
            linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
            return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

        pairs = [(f"h{c}t", f"h{c}") for c in "012345678nx"]
        pairs += [(text, "bg") for text in ("text", "soft", "link", "good", "bad", "odd", "s1", "s2", "s3")]
        pairs += [("soft", "panel"), ("text", "good-bg"), ("text", "bad-bg"), ("text", "odd-bg"), ("good", "good-bg"), ("bad", "bad-bg"),
                  ("odd", "odd-bg")]
        for scheme in schemes:
            for text, ground in pairs:
                light, dark = sorted((luminance(scheme[text]), luminance(scheme[ground])), reverse=True)
                self.assertGreaterEqual((light + 0.05) / (dark + 0.05), 4.5, (text, ground, scheme[text], scheme[ground]))


@unittest.skipUnless(CHROMIUM, "no Chromium on this machine: scripts/setup.sh tests installs it")
class Browser(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        case = cls("check_page")
        case.report("shown", "--diff", case.save("shown.json", made_up_diff()), "--explain", case.explained(), "--crossval",
                    case.save("shown_crossval.json", made_up_crossval(2, 40)), expect=1)
        cls.page = cls.folder / "shown.html"

    def explained(self):
        return self.save("shown_explain.json", json.loads(run("explain", RECORDING, "-m", SMALL, "--format", "json", expect=0).stdout))

    def test_screenshots(self):
        grounds = {}
        for scheme, value in (("light", 1), ("dark", 0)):
            shot = self.folder / f"{scheme}.png"
            _, log = chromium(self.page, f"--screenshot={shot}", f"--blink-settings=preferredColorScheme={value}")
            self.assertNotIn("CONSOLE", log)
            counts = png.colours(shot.read_bytes())
            self.assertEqual(sum(counts.values()), 1280 * 800)
            self.assertGreater(len(counts), 100, "blank, or nearly")
            grounds[scheme] = max(counts, key=counts.get)
        self.assertEqual(grounds, {"light": bytes.fromhex("ffffff"), "dark": bytes.fromhex("14171b")})

    def test_the_browser_shows_the_verdict_and_complains_of_nothing(self):
        dom, log = chromium(self.page, "--dump-dom")
        self.assertNotIn("CONSOLE", log)
        text = Text(dom)
        self.assertEqual(text.h1, Text(self.page.read_text()).h1)
        self.assertIn("First difference at token 3, layer 2, ffn_act", text.h1)
        # That a complaint would be seen, and what the page forbids itself is forbidden.
        bad = self.folder / "bad.html"
        bad.write_text(self.page.read_text().replace("<main>", "<main><script>document.title = 'run'</script>", 1))
        dom, log = chromium(bad, "--dump-dom")
        self.assertIn("CONSOLE", log)
        self.assertNotIn("<title>run</title>", dom)

    def test_no_sideways_scrolling(self):
        measured = self.folder / "measured.html"
        page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", self.page.read_text())
        script = "<script>document.title = [innerWidth, document.documentElement.scrollWidth].join(' ')</script>"
        measured.write_text(page.replace("</body>", script + "</body>").replace("<details>", '<details open="">'))
        for width in (1280, 600):
            dom, _ = chromium(measured, "--dump-dom", width=width)
            inner, scroll = map(int, re.search(r"<title>(\d+) (\d+)</title>", dom).groups())
            self.assertEqual(inner, width)
            self.assertLessEqual(scroll, inner)


if __name__ == "__main__":
    BITNET = sys.argv[1]
    unittest.main(argv=sys.argv[:1] + sys.argv[2:])
