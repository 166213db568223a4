#!/usr/bin/env python3
"""Where does trace B leave trace A? What `bitnet diff` decides, with Python's standard library alone.

    trace_diff.py A B [--tolerance auto|exact|NUMBER] [--ignore KEY]... [--allow-missing] [--format text|json]

A and B are traces in JSONL (schema 1 of plugins/TRACE_FORMAT.md): a file, or a folder whose *.jsonl are read in name order.
BitNet-rs's records serve as well: a folder of *.trace files, one JSON object each, or JSONL of such objects. They have a hash
and a root mean square but no sketch, so between them and other records equal bits agree, sizes too far apart differ, and
nothing else can be judged. Verdict, exit code and first difference are those of `bitnet diff` (abi/cli/diff/DIFF.md);
what goes beyond them, the operation at fault, the growth over the layers and envelopes (--envelope), is `bitnet diff`'s alone.

Exit codes: 0 match, 1 divergence, 2 error. The report goes to stdout, errors to stderr.
"""

import argparse
import base64
import ctypes
import json
import math
import re
import sys
from pathlib import Path

SCHEMA = 1
MAX_RUNS, MAX_POSITIONS, MAX_LAYERS = 1 << 16, 1 << 28, 4096
UINT32_MAX, UINT64_MAX = (1 << 32) - 1, (1 << 64) - 1
ALL_LAYERS_OUT, ALL_LAYERS_OUT_LAYER = "all_layers_out", -2
OUTSIDE_LAYERS = ("embeddings", "final_norm", "logits")
# In execution order: a stage's accumulators come before it, its scale and its codes after it.
STAGES = (
    "embeddings attn_norm attn_norm.scale attn_norm.codes q_proj.acc q_proj k_proj.acc k_proj v_proj.acc v_proj q_rope "
    "k_rope attn_scores attn_scores_softmax attn_context attn_sub_norm attn_sub_norm.scale attn_sub_norm.codes "
    "attn_out.acc attn_out attn_residual ffn_norm ffn_norm.scale ffn_norm.codes ffn_gate.acc ffn_gate ffn_up.acc ffn_up "
    "ffn_act ffn_sub_norm ffn_sub_norm.scale ffn_sub_norm.codes ffn_out.acc ffn_out layer_out final_norm logits"
).split()
NODE = {name: i for i, name in enumerate(STAGES)}
LAYER_OUT, LOGITS = NODE["layer_out"], NODE["logits"]
AFTER_LAYERS = MAX_LAYERS + 1  # slot of what comes behind every layer
LOGITS_MAX_DISTANCE = 0.1      # relative L2 that free-running logits may be apart
RMS_ROUNDING = 1e-3            # what a root mean square that was summed in f32 may be off by
PREFLIGHT_KEYS = {"model_hash": False, "tokens": False, "hyperparameters": True, "semantics": True, "kv_type": False,
                  "architecture": False, "stages": False, "overridden": False, "runs": False}
MATCH, DIVERGENCE, ERROR = 0, 1, 2
VERDICTS = ("match", "divergence", "error")
SKETCH = re.compile(r"[A-Za-z0-9+/]{342}==\Z")
PROBLEMS_SHOWN = 8


class LineError(Exception):
    """What is wrong with a line, without its file and number."""


def f32(value):
    return ctypes.c_float(value).value


def printable(text, limit=200):
    shown = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    return shown if len(shown) <= limit else shown[:limit] + "..."


# --- JSON as strict as the format ------------------------------------------------------------------------------------

class Pairs(list):
    """An object with its keys in file order, each as often as it is there."""

    def first(self, key):
        for name, value in self:
            if name == key:
                return value
        return None


def refuse(name):
    raise LineError(f"not JSON: {name}")


def parse_float(text):
    value = float(text)
    return value if math.isfinite(value) else refuse(text)


def parse_int(text):
    value = int(text)
    return value if -(1 << 63) <= value <= UINT64_MAX else refuse(text)


def parse_object(line):
    try:
        text = line.decode()
        value = json.loads(text, object_pairs_hook=Pairs, parse_constant=refuse, parse_float=parse_float,
                           parse_int=parse_int)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no character
    except (ValueError, RecursionError) as error:
        raise LineError(f"not JSON: {error}") from None
    if not isinstance(value, Pairs):
        raise LineError("a JSON object expected")
    return value


def bad(field, value, expected):
    raise LineError(f'"{field}": {printable(json.dumps(value), 40)} found, {expected} expected')


def is_int(value):
    return isinstance(value, int) and not isinstance(value, bool)


def count(field, value, limit=UINT64_MAX):
    if not is_int(value) or not 0 <= value <= limit:
        bad(field, value, f"an integer from 0 to {limit}")
    return value


def integer(field, value):
    if not is_int(value) or value >= 1 << 63:
        bad(field, value, "an integer")
    return value


def text_of(field, value):
    if not isinstance(value, str):
        bad(field, value, "a string")
    return value


def text_or_empty(field, value):
    return "" if value is None else text_of(field, value)


def number(field, value):
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if value in ("NaN", "Infinity", "-Infinity"):
        return float(value)
    return bad(field, value, "a number")


def metric(field, value):
    out = number(field, value)
    return out if math.isfinite(out) else bad(field, value, "a finite number")


def size_metric(field, value):
    out = metric(field, value)
    return out if out >= 0 else bad(field, value, "a number that is not negative")


def hex_digits(field, value, n):
    if not re.fullmatch(f"[0-9a-fA-F]{{{n}}}", text_of(field, value)):
        bad(field, value, f"{n} hex digits")
    return value.lower()


def token_ids(value):
    """None for null: embeddings were given."""
    if value is None:
        return None
    if not isinstance(value, list) or isinstance(value, Pairs):
        bad("tokens", value, "an array of token ids or null")
    return [count("tokens", item, (1 << 31) - 1) for item in value]


def text_pairs(field, value):
    if not isinstance(value, Pairs):
        bad(field, value, "an object")
    return [(key, item if isinstance(item, str) else json.dumps(item)) for key, item in value]


def top_entries(value):
    if not isinstance(value, list) or isinstance(value, Pairs) or len(value) > 8:
        bad("top", value, "at most 8 [index, value] pairs")
    entries = []
    for pair in value:
        if not isinstance(pair, list) or isinstance(pair, Pairs) or len(pair) != 2:
            bad("top", pair, "[index, value]")
        entry = count("top", pair[0], UINT32_MAX), number("top", pair[1])
        if math.isnan(entry[1]):
            bad("top", pair, "a value that is not NaN")
        entries.append((entry[0], f32(entry[1])))
    return entries


def sketch_floats(value):
    if not SKETCH.match(text_of("sketch", value)):
        bad("sketch", value, "base64 of 64 f32")
    return list((ctypes.c_float * 64).from_buffer_copy(base64.b64decode(value)))


def mandatory(fields, names):
    """The value of each name, which must be there once."""
    found = {}
    for key, value in fields:
        if key in names:
            if key in found:
                raise LineError(f'"{key}" is there twice')
            found[key] = value
    for name in names:
        if name not in found:
            raise LineError(f'no "{name}"')
    return found


# --- a trace in memory -----------------------------------------------------------------------------------------------

class Record:
    __slots__ = ("key", "blake3", "n", "dtype", "nan", "inf", "zeros", "rms", "mean", "min", "max", "absmax", "l2", "top",
                 "sketch", "argmax", "place", "bare", "position_assumed")

    def __init__(self):
        self.bare = self.position_assumed = False  # BitNet-rs's fields alone; it names no position


class Run:
    def __init__(self):
        self.engine = self.engine_version = self.model_hash = self.kv_type = self.architecture = ""
        self.hyperparameters, self.semantics = [], []
        self.tokens = []  # (position, id), ascending
        self.n_records = 0
        self.max_layer = -1
        self.bare = False  # of BitNet-rs's records, which name no run


class Trace:
    def __init__(self, path):
        self.path = path
        self.runs, self.records = [], []
        self.problems, self.incomplete = [], []
        self.n_unparsable = self.n_duplicate = 0

    def bare_run(self):
        """BitNet-rs's records name no run: all of a trace are of one."""
        for i, run in enumerate(self.runs):
            if run.bare:
                return i
        if len(self.runs) >= MAX_RUNS:
            raise LineError(f"more than {MAX_RUNS} runs in one trace")
        self.runs.append(Run())
        self.runs[-1].bare = True
        return len(self.runs) - 1

    def add(self, record):
        run = self.runs[record.key[0]]
        run.n_records += 1
        run.max_layer = max(run.max_layer, layer_of(record.key))
        self.records.append(record)

    def settle_last_layers(self, other):
        """Outputs of the last layer get its number; one that is there under it too is the same value twice."""
        known = {record.key for record in self.records if not is_last_layer_key(record.key)}
        kept = []
        for record in self.records:
            if is_last_layer_key(record.key):
                run, position = record.key[:2]
                layers = [trace.runs[run].max_layer for trace in (self, other) if run < len(trace.runs)]
                key = make_key(run, position, max(0, *layers) if len(layers) > 1 else max(0, layers[0]), LAYER_OUT)
                if key in known:
                    continue
                record.key = key
            kept.append(record)
        self.records = kept

    def sort(self):
        self.records.sort(key=lambda record: record.key)
        unique = []
        for record in self.records:
            if unique and unique[-1].key == record.key:
                self.n_duplicate += 1
                self.problems.append(f"{record.place}: duplicate of {record_name(record.key)}, first in {unique[-1].place}")
            else:
                unique.append(record)
        self.records = unique
        if not unique and not self.problems:
            self.problems.append(f"{printable(self.path)}: no tensor record")


def make_key(run, position, layer, node):
    outside = STAGES[node] in OUTSIDE_LAYERS
    slot = (0 if node == 0 else AFTER_LAYERS) if outside else layer + 1
    return run, position, slot, node


def make_last_layer_key(run, position):
    """Of the last layer's output while the number of layers is unknown."""
    return run, position, AFTER_LAYERS, LAYER_OUT


def is_last_layer_key(key):
    return key[2:] == (AFTER_LAYERS, LAYER_OUT)


def layer_of(key):
    return -1 if key[2] in (0, AFTER_LAYERS) else key[2] - 1


def record_name(key):
    layer = layer_of(key)
    return f"t{key[1]}/" + (f"blk{layer}/" if layer >= 0 else "") + STAGES[key[3]]


def check_layer(stage, layer):
    fits = layer == -1 if stage in OUTSIDE_LAYERS else 0 <= layer < MAX_LAYERS
    if not fits:
        raise LineError(f'stage "{printable(stage)}": layer {layer} found, '
                        f'{-1 if stage in OUTSIDE_LAYERS else "the index of a block"} expected')


TENSOR_FIELDS = ("run", "event", "seq", "layer", "stage", "dtype", "num_elements", "blake3", "multiset", "rms", "mean", "min",
                 "max", "absmax", "l2", "nan", "inf", "zeros", "top", "sketch")


def parse_tensor(fields):
    """(run as it stands there, position, layer, node, record without key and place)"""
    for key, value in fields:
        if key == "argmax":
            count(key, value, UINT32_MAX)
    v = mandatory(fields, TENSOR_FIELDS)
    record = Record()
    run, position = count("run", v["run"]), count("seq", v["seq"], MAX_POSITIONS - 1)
    count("event", v["event"])
    layer, stage = integer("layer", v["layer"]), text_of("stage", v["stage"])
    record.dtype = text_of("dtype", v["dtype"])
    if record.dtype not in ("F32", "F16", "BF16", "I8", "I32"):
        bad("dtype", record.dtype, "F32, F16, BF16, I8 or I32")
    record.n = count("num_elements", v["num_elements"])
    record.blake3 = hex_digits("blake3", v["blake3"], 64)
    hex_digits("multiset", v["multiset"], 16)
    for name in ("mean", "min", "max"):
        setattr(record, name, metric(name, v[name]))
    for name in ("rms", "absmax", "l2"):
        setattr(record, name, size_metric(name, v[name]))
    for name in ("nan", "inf", "zeros"):
        setattr(record, name, count(name, v[name]))
    record.top, record.sketch = top_entries(v["top"]), sketch_floats(v["sketch"])
    record.argmax = fields.first("argmax")
    all_layers = layer == ALL_LAYERS_OUT_LAYER and stage == ALL_LAYERS_OUT
    if all_layers:
        stage = "layer_out"
    elif stage not in NODE:
        raise LineError(f'"stage": unknown stage "{printable(stage)}"')
    else:
        check_layer(stage, layer)
    if any(index >= record.n for index, _ in record.top):
        raise LineError(f'"top": an index found, below {record.n} expected')
    if record.nan + record.inf + record.zeros > record.n:
        raise LineError('"nan", "inf" and "zeros" together: more than "num_elements"')
    return run, position, layer, NODE[stage], record


def layer_count(run):
    for key, value in run.hyperparameters:
        match = re.match(r"\d+", value) if key == "n_layer" else None
        if match and 0 < int(match[0]) <= MAX_LAYERS:
            return int(match[0])
    return 0


class JsonlReader:
    """Puts the lines of one file into the trace."""

    def __init__(self, trace, path):
        self.trace, self.path = trace, str(path)
        self.line, self.n_runs, self.n_bare, self.n_bad = 0, 0, 0, 0
        self.open_run, self.step_tokens = None, []  # number of the open run as the file has it

    def problem(self, text):
        self.trace.problems.append(f"{printable(self.path)}: {text}")

    def read(self):
        try:
            data = Path(self.path).read_bytes()
        except OSError as error:
            return self.problem(error.strerror)
        if self.path.endswith(".zst") or data[:4] == b"\x28\xb5\x2f\xfd":
            return self.problem("is compressed, which Python's standard library cannot read: unpack it with `zstd -d`")
        lines = data.split(b"\n")
        unterminated = lines[-1] != b""
        for self.line, line in enumerate(lines if unterminated else lines[:-1], 1):
            try:
                self.take(parse_object(line))
            except LineError as error:
                self.trace.n_unparsable += 1
                self.n_bad += 1
                cut = " (the last line is cut)" if unterminated and self.line == len(lines) else ""
                self.trace.problems.append(f"{printable(self.path)}:{self.line}: {printable(str(error))}{cut}")
        if self.line == 0:
            return self.problem("is empty: a trace begins with a run record")
        if self.open_run is not None:
            self.problem(f"cut short: run {self.open_run} has no run_end after line {self.line}")
            self.finish_run(None)
        elif self.n_runs == 0 and self.n_bare == 0:
            self.problem(f"no valid run record in {self.line} lines: not a trace")
        return None

    def take(self, fields):
        kinds = {"run": self.take_run, "step": self.take_step, "tensor": self.take_tensor, "run_end": self.take_run_end}
        names = {key for key, _ in fields}
        if "record" not in names:
            if self.open_run is not None or not {"name", "blake3"} <= names:
                raise LineError('no "record"')
            self.trace.add(parse_bare(self.trace, fields, f"{printable(self.path)}:{self.line}"))
            self.n_bare += 1
            return
        kind = text_of("record", fields.first("record"))
        if kind not in kinds:
            bad("record", kind, "run, step, tensor or run_end")
        kinds[kind](fields)

    def take_run(self, fields):
        v = mandatory(fields, ("run", "schema", "engine", "engine_version", "model_hash", "hyperparameters", "semantics",
                               "tokens"))
        run, number_in_file = Run(), count("run", v["run"])
        if integer("schema", v["schema"]) != SCHEMA:
            bad("schema", v["schema"], str(SCHEMA))
        run.engine, run.engine_version = text_of("engine", v["engine"]), text_of("engine_version", v["engine_version"])
        run.model_hash = text_or_empty("model_hash", v["model_hash"])
        run.hyperparameters = text_pairs("hyperparameters", v["hyperparameters"])
        run.semantics = text_pairs("semantics", v["semantics"])
        run.tokens = list(enumerate(token_ids(v["tokens"]) or []))
        for name in ("model_path", "architecture", "isa", "kv_type"):
            for key, value in fields:
                if key == name:
                    setattr(run, name, text_or_empty(name, value))
        if self.open_run is not None:
            self.problem(f"cut short: run {self.open_run} has no run_end before line {self.line}")
            self.finish_run(None)
        if len(self.trace.runs) >= MAX_RUNS:
            raise LineError(f"more than {MAX_RUNS} runs in one trace")
        self.trace.runs.append(run)
        self.open_run, self.step_tokens = number_in_file, []
        self.n_runs += 1
        self.n_bad = 0

    def the_run(self, number_in_file):
        if self.open_run is None:
            raise LineError(f"no run is open, run {number_in_file} named")
        if number_in_file != self.open_run:
            raise LineError(f'"run": {number_in_file} found, {self.open_run} is open')
        return self.trace.runs[-1]

    def take_step(self, fields):
        v = mandatory(fields, ("run", "seq", "n", "tokens"))
        run, position = count("run", v["run"]), count("seq", v["seq"], MAX_POSITIONS - 1)
        n, tokens = count("n", v["n"], MAX_POSITIONS), token_ids(v["tokens"])
        if tokens is not None and len(tokens) != n:
            raise LineError(f'"tokens": {len(tokens)} found, "n" says {n}')
        self.the_run(run)
        self.step_tokens += [(position + i, token) for i, token in enumerate(tokens or [])]

    def take_tensor(self, fields):
        number_in_file, position, layer, node, record = parse_tensor(fields)
        run = self.the_run(number_in_file)
        if layer == ALL_LAYERS_OUT_LAYER:
            layer = layer_count(run) - 1
            if layer < 0:
                raise LineError("layer -2: the run record's hyperparameters have no n_layer")
        record.key = make_key(len(self.trace.runs) - 1, position, layer, node)
        record.place = f"{printable(self.path)}:{self.line}"
        self.trace.add(record)

    def take_run_end(self, fields):
        v = mandatory(fields, ("run", "records"))
        for key, value in fields:
            if key == "overridden" and not isinstance(value, bool):
                bad(key, value, "true or false")
        number_in_file, n_records = count("run", v["run"]), count("records", v["records"])
        self.the_run(number_in_file)
        self.finish_run(n_records)

    def finish_run(self, n_said):
        run, self.open_run = self.trace.runs[-1], None
        # A line that could not be read may have been a record: it is reported already.
        if n_said is not None and not run.n_records <= n_said <= run.n_records + self.n_bad:
            self.trace.incomplete.append(f"{printable(self.path)}:{self.line}: run_end says {n_said} tensor records, "
                                         f"{run.n_records} are there")
        if self.step_tokens:  # of two steps at one position the later one counts
            run.tokens = sorted(dict(self.step_tokens).items())


BARE_FIELDS = ("name", "shape", "dtype", "blake3", "rms", "num_elements")
NAME = re.compile(r"(?:t(?P<seq>[0-9]+)/)?(?:blk(?P<layer>[0-9]+)/)?(?P<stage>.*)\Z", re.DOTALL)


def parse_bare(trace, fields, place):
    """BitNet-rs: nine fields, of which the last three may be missing or null; the name says the same."""
    v = mandatory(fields, BARE_FIELDS)
    record = Record()
    record.bare, record.place = True, place
    named = NAME.match(text_of("name", v["name"])).groupdict()
    if not isinstance(v["shape"], list) or isinstance(v["shape"], Pairs):
        bad("shape", v["shape"], "an array")
    record.dtype = text_of("dtype", v["dtype"]).upper()
    if not 0 < len(record.dtype) < 5:
        bad("dtype", v["dtype"], "a type such as F32")
    record.blake3 = hex_digits("blake3", v["blake3"], 64)
    record.n = count("num_elements", v["num_elements"])
    # Rust writes null for a number that is not finite.
    record.rms = math.nan if v["rms"] is None else number("rms", v["rms"])
    if record.rms < 0:
        raise LineError('"rms": a negative number found')
    record.nan = record.inf = record.zeros = 0
    position, layer = (int(named[key]) if named[key] else -1 for key in ("seq", "layer"))
    stage = named["stage"]
    for key, value in fields:
        if value is None:
            continue
        if key == "seq":
            position = count("seq", value, MAX_POSITIONS - 1)
        elif key == "layer":
            layer = integer("layer", value)
        elif key == "stage":
            stage = text_of("stage", value) or stage
    if position >= MAX_POSITIONS:
        raise LineError('"name": the position is too large')
    if position < 0:
        record.position_assumed, position = True, 0
    if stage == ALL_LAYERS_OUT:
        record.key = make_last_layer_key(trace.bare_run(), position)
        return record
    if stage not in NODE:
        raise LineError(f'"stage": unknown stage "{printable(stage)}"')
    check_layer(stage, layer)
    record.key = make_key(trace.bare_run(), position, layer, NODE[stage])
    return record


def read_trace_file(trace, path):
    """A *.trace file: one object, over as many lines as it likes; also several, one in each line."""
    try:
        text = path.read_bytes().rstrip(b" \t\r\n")
    except OSError as error:
        trace.problems.append(f"{printable(str(path))}: {error.strerror}")
        return
    for line, part in enumerate(text.split(b"\n") if b"\n{" in text else [text], 1):
        try:
            if not part:
                raise LineError("is empty: a record expected")
            fields = parse_object(part)
            names = {key for key, _ in fields}
            if "record" in names or not {"name", "blake3"} <= names:
                raise LineError('no "name" and "blake3"')
            trace.add(parse_bare(trace, fields, f"{printable(str(path))}:{line}"))
        except LineError as error:
            trace.n_unparsable += 1
            trace.problems.append(f"{printable(str(path))}:{line}: {printable(str(error))}")


def read_trace(path):
    trace = Trace(path)
    folder = Path(path)
    if not folder.is_dir():
        read_trace_file(trace, folder) if folder.name.endswith(".trace") else JsonlReader(trace, path).read()
        return trace
    files = {suffix: sorted(file for file in folder.iterdir() if file.name.endswith(suffix))
             for suffix in (".jsonl", ".trace", ".zst")}
    for file in files[".jsonl"]:
        JsonlReader(trace, file).read()
    if not files[".jsonl"]:
        for file in files[".trace"]:
            read_trace_file(trace, file)
        if files[".zst"] and not files[".trace"]:
            JsonlReader(trace, files[".zst"][0]).read()
    if not any(files.values()):
        trace.problems.append(f"{printable(path)}: no *.jsonl and no *.trace in this folder, at least one expected")
    return trace


# --- preflight -------------------------------------------------------------------------------------------------------

REAL = re.compile(r"-?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def same_value(a, b):
    """1e-05 and 0.00001 are the same number; so are an f32 and the double it was read from."""
    if a == b:
        return True
    real = [bool(REAL.fullmatch(text)) and any(c in text for c in ".eE") for text in (a, b)]
    if not any(real):
        return False
    begin = [REAL.match(text) for text in (a, b)]
    x, y = (float(match[0]) if match else 0.0 for match in begin)
    return f32(x) == f32(y)


def has_one_in_front(longer, shorter):
    if len(longer) < 2 or not shorter:
        return False
    n = min(len(longer) - 1, len(shorter))
    if n == 1 and len(longer) != len(shorter) + 1:
        return False
    return longer[1:1 + n] == shorter[:n]


def bos_text(a, b):
    for longer, shorter, name, other in ((b, a, "B", "A"), (a, b, "A", "B")):
        if has_one_in_front(longer, shorter):
            if longer[0] == longer[1]:
                return f"{name} begins with BOS {longer[0]} twice (double BOS)"
            return f"{name} has BOS {longer[0]}, {other} has none"
    return ""


def compare_tokens(a, b, allow_missing):
    """The mismatch in words, None when there is none."""
    if not a.tokens or not b.tokens or a.tokens == b.tokens:
        return None
    n = next((i for i, (x, y) in enumerate(zip(a.tokens, b.tokens)) if x != y), min(len(a.tokens), len(b.tokens)))
    position = min(tokens[n][0] for tokens in (a.tokens, b.tokens) if n < len(tokens))
    bos = bos_text([token for _, token in a.tokens], [token for _, token in b.tokens])
    one_ends = position > min(a.tokens[-1][0], b.tokens[-1][0])
    if one_ends and not bos and allow_missing:
        return None
    ids = [dict(tokens).get(position, "none") for tokens in (a.tokens, b.tokens)]
    return f"token ids: {bos + '; ' if bos else ''}position {position} has {ids[0]} in A, {ids[1]} in B"


def preflight(a, b, options):
    """What the run records say that ends the comparison before any number: (key, text)."""
    found = []
    for x, y in zip(a.runs, b.runs):
        if x.model_hash and y.model_hash and x.model_hash != y.model_hash:
            found.append(("model_hash", f"different model files: hash {x.model_hash[:12]} against {y.model_hash[:12]}"))
        tokens = compare_tokens(x, y, options.allow_missing)
        if tokens:
            found.append(("tokens", tokens))
        theirs = {}
        for key, value in y.hyperparameters:
            theirs.setdefault(key, value)
        for key, value in x.hyperparameters:
            if key in theirs and not same_value(value, theirs[key]):
                found.append((f"hyperparameters.{key}",
                              f"hyperparameters: {printable(key, 40)} {printable(value, 40)} against "
                              f"{printable(theirs[key], 40)}"))
    ignored = set(options.ignore)
    return [(key, text) for key, text in found if key not in ignored and key.split(".")[0] not in ignored]


# --- records ---------------------------------------------------------------------------------------------------------

def is_nonfinite(record):
    return not math.isfinite(record.rms) if record.bare else record.nan + record.inf > 0


def has_nonfinite(a, b):
    return is_nonfinite(a) or is_nonfinite(b)


def comparable(a, b):
    """Nothing is guessed: both name their position, hold one row and hash the same kind of bytes."""
    if a.position_assumed != b.position_assumed:
        return False
    if a.bare == b.bare:
        return True
    # BitNet-rs writes all rows of a prefill as one record, and hashes integers as f32.
    whole, part = (a.n, b.n) if a.bare else (b.n, a.n)
    return a.dtype == "F32" and (whole == part or not part or not whole or whole % part != 0)


def at_least(a, b):
    """The distance is at least that of the root mean squares."""
    difference = abs(a.rms - b.rms)
    return difference / a.rms if difference and a.rms else math.inf if difference else 0.0


def same_bits(a, b):
    return a.blake3 == b.blake3 and a.n == b.n and a.dtype == b.dtype


def relative_distance(a, b):
    if a.n != b.n or a.nan != b.nan or a.inf != b.inf:
        return math.nan
    total = 0.0
    for x, y in zip(a.sketch, b.sketch):
        total += (x - y) * (x - y)
    distance = math.sqrt(total)
    if distance == 0 or math.isnan(distance):
        return distance
    return distance / a.l2 if a.l2 else math.inf


def statistics_agree(a, b):
    def near(x, y, size):
        return abs(x - y) <= 1e-5 * size

    def close(x, y):
        return near(x, y, max(abs(x), abs(y)))
    if a.bare or b.bare:  # BitNet-rs sums squares in f32
        return is_nonfinite(a) == is_nonfinite(b) and (is_nonfinite(a) or near(a.rms, b.rms, RMS_ROUNDING / 1e-5
                                                                                * max(a.rms, b.rms)))
    return ((a.nan, a.inf, a.zeros, a.top, a.sketch) == (b.nan, b.inf, b.zeros, b.top, b.sketch)
            and all(close(getattr(a, name), getattr(b, name)) for name in ("rms", "l2", "absmax", "min", "max"))
            and near(a.mean, b.mean, a.rms))


def largest(record):
    if record.argmax is not None:
        return record.argmax
    return next((index for index, value in record.top if value == f32(record.max)), None)


def logits_differ(a, b, distance):
    if not distance <= LOGITS_MAX_DISTANCE:
        return True
    top_a, top_b = largest(a), largest(b)
    if top_a is None or top_b is None or top_a == top_b or a.n == 0 or not a.top:
        return False
    # A difference of two values, each off by up to three standard deviations of the error.
    noise = 6 * distance * a.l2 / math.sqrt(a.n)
    rival = dict(a.top).get(top_b, abs(a.top[-1][1]))
    return a.max - rival > noise


class Comparison:
    def __init__(self, a, b, options):
        self.a, self.b = a, b
        self.rule, self.max_distance = self.choose_rule(options.tolerance)
        self.counts = dict.fromkeys(("compared", "equal", "within", "unjudged", "different", "missing_in_a", "missing_in_b"), 0)
        self.first = self.first_missing_in_a = self.first_missing_in_b = None
        self.n_logits, self.n_logits_unjudged, self.first_unjudged = 0, 0, None
        self.would_pass, self.problems = 0.0, []
        self.match_records()

    def choose_rule(self, tolerance):
        if tolerance == "exact":
            return "hashes", 0.0
        if tolerance != "auto":
            return "distance", float(tolerance)
        same = all((x.engine, x.engine_version) == (y.engine, y.engine_version) for x, y in zip(self.a.runs, self.b.runs))
        return ("hashes" if same else "logits"), 0.0

    def match_records(self):
        rows_a, rows_b = iter(self.a.records), iter(self.b.records)
        x, y = next(rows_a, None), next(rows_b, None)
        while x or y:
            if y is None or (x is not None and x.key < y.key):
                self.counts["missing_in_b"] += 1
                self.first_missing_in_b = self.first_missing_in_b or x.key
                x = next(rows_a, None)
            elif x is None or y.key < x.key:
                self.counts["missing_in_a"] += 1
                self.first_missing_in_a = self.first_missing_in_a or y.key
                y = next(rows_b, None)
            else:
                self.compare(x, y)
                x, y = next(rows_a, None), next(rows_b, None)

    def compare(self, x, y):
        distance = 0.0
        if not same_bits(x, y):
            distance = math.nan if x.bare or y.bare else relative_distance(x, y)
        relation = self.judge(x, y, distance)
        finite = not has_nonfinite(x, y)
        if self.rule != "hashes" and x.n == y.n and finite and math.isnan(distance) and not (x.bare or y.bare):
            self.problems.append(f"{x.place} and {y.place}: {record_name(x.key)}: the distance is NaN: a sketch holds a "
                                 "value that is not finite")
        self.counts["compared"] += 1
        self.counts[relation] += 1
        self.n_logits += x.key[3] == LOGITS
        if relation == "unjudged":
            self.n_logits_unjudged += x.key[3] == LOGITS
            self.first_unjudged = self.first_unjudged or x.key
        if relation == "different" and self.first is None:
            self.first = (x, y, distance)
        if relation != "equal" and self.would_pass is not None:
            # Equal bits that are told differently: one record was altered, and no distance speaks for it.
            measurable = math.isfinite(distance) and finite and not same_bits(x, y)
            self.would_pass = max(self.would_pass, distance) if measurable else None

    def judge(self, x, y, distance):
        if same_bits(x, y):
            return "equal" if statistics_agree(x, y) else "different"
        if not comparable(x, y):
            return "unjudged"
        if self.rule == "hashes" or x.n != y.n or has_nonfinite(x, y):
            return "different"
        if self.rule == "logits" and x.key[3] != LOGITS:
            return "unjudged"
        if x.bare or y.bare:
            allowed = LOGITS_MAX_DISTANCE if self.rule == "logits" else self.max_distance
            return "different" if at_least(x, y) > allowed + RMS_ROUNDING else "unjudged"
        if self.rule == "distance":
            return "within" if distance <= self.max_distance else "different"
        return "different" if logits_differ(x, y, distance) else "within"


# --- the whole -------------------------------------------------------------------------------------------------------

class Report:
    def __init__(self, a, b, options):
        self.a, self.b = a, b
        a.settle_last_layers(b)
        b.settle_last_layers(a)
        a.sort()
        b.sort()
        self.mismatches = preflight(a, b, options)
        self.comparison = Comparison(a, b, options)
        self.first = None if self.mismatches else self.comparison.first
        self.errors = []
        self.collect_errors(options)
        self.collect_unjudged()
        self.collect_missing(options)
        self.conclude()

    def collect_errors(self, options):
        comparison = self.comparison
        for trace in (self.a, self.b):
            self.add_problems(trace.problems)
            if not options.allow_missing:
                self.add_problems(trace.incomplete)
        self.add_problems(comparison.problems)
        if self.mismatches or self.errors:
            return
        if comparison.counts["compared"] == 0:
            self.errors.append("nothing was compared: the traces have no record in common")
        elif comparison.counts["unjudged"] and comparison.n_logits == 0:
            self.errors.append("no verdict: the engines differ, so --tolerance auto looks at logits only, and no logits were "
                               "recorded on both sides (give --tolerance a number)")

    def add_problems(self, problems):
        self.errors += problems[:PROBLEMS_SHOWN]
        if len(problems) > PROBLEMS_SHOWN:
            self.errors.append(f"... and {len(problems) - PROBLEMS_SHOWN} more like these")

    def collect_unjudged(self):
        """What could not be judged is no match: an error, unless something wrong was found."""
        comparison = self.comparison
        logits = comparison.rule == "logits"
        n = comparison.n_logits_unjudged if logits else comparison.counts["unjudged"]
        if n and not self.first and not self.mismatches and not self.errors:
            self.errors.append(f"no verdict: {n} of {comparison.n_logits if logits else comparison.counts['compared']} "
                               f"{'logits' if logits else 'records'} differ and cannot be judged, the first is "
                               f"{record_name(comparison.first_unjudged)}: without sketches, or without a position of their own, "
                               "only equal hashes and very different sizes say anything")

    def collect_missing(self, options):
        """Records on one side only: an error, unless something wrong was found that no further record can undo."""
        if options.allow_missing or self.first or self.mismatches:
            return
        comparison = self.comparison
        for side, other, trace, first in (("a", "b", self.a, comparison.first_missing_in_a),
                                          ("b", "a", self.b, comparison.first_missing_in_b)):
            n = comparison.counts[f"missing_in_{side}"]
            if n and not trace.problems:
                self.errors.append(f"{side.upper()} lacks {n} of {other.upper()}'s records, the first is "
                                   f"{record_name(first)}: an incomplete comparison cannot match (--allow-missing accepts it)")

    def conclude(self):
        counts = self.comparison.counts
        if self.errors:
            self.verdict, self.text = ERROR, self.errors[0]
        elif self.mismatches:
            self.verdict = DIVERGENCE
            self.text = "before any number: " + "; ".join(text for _, text in self.mismatches) + "."
        elif self.first:
            key = self.first[0].key
            self.verdict = DIVERGENCE
            self.text = f"first difference at run {key[0]}, {record_name(key)}."
        elif counts["equal"] == counts["compared"]:
            self.verdict, self.text = MATCH, f"all {counts['compared']} records are equal, bit for bit."
        else:
            self.verdict = MATCH
            self.text = f"{counts['compared']} records agree ({counts['equal']} of them bit for bit)."

    def place(self):
        if not self.first:
            return None
        a, _, distance = self.first
        relative = None if math.isnan(distance) else "Infinity" if math.isinf(distance) else distance
        return {"run": a.key[0], "seq": a.key[1], "layer": layer_of(a.key), "stage": STAGES[a.key[3]], "relative": relative}

    def as_json(self):
        comparison = self.comparison
        counts = {**comparison.counts, "unparsable": self.a.n_unparsable + self.b.n_unparsable,
                  "duplicate": self.a.n_duplicate + self.b.n_duplicate}
        out = {"verdict": VERDICTS[self.verdict], "exit": self.verdict, "text": self.text, "errors": self.errors,
               "rule": comparison.rule, "tolerance": comparison.max_distance if comparison.rule == "distance" else None,
               "would_pass": comparison.would_pass, "preflight": [{"key": key, "text": text} for key, text in self.mismatches],
               "counts": counts, "first": self.place()}
        return json.dumps(out, indent=2) + "\n"

    def as_text(self):
        counts = self.comparison.counts
        lines = [f"A  {printable(self.a.path)}: {len(self.a.runs)} runs, {len(self.a.records)} records",
                 f"B  {printable(self.b.path)}: {len(self.b.runs)} runs, {len(self.b.records)} records",
                 "counts  " + ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in counts.items())]
        if self.first:
            a, b, distance = self.first
            lines += [f"first   {record_name(a.key)}, relative L2 {distance:.3g}", f"  A  {a.place}  blake3 {a.blake3[:16]}...",
                      f"  B  {b.place}  blake3 {b.blake3[:16]}..."]
        return "\n".join(lines + [f"{VERDICTS[self.verdict]}: {self.text}", ""])


def tolerance(text):
    if text in ("auto", "exact"):
        return text
    if not re.fullmatch(r"(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text) or not math.isfinite(float(text)):
        raise argparse.ArgumentTypeError(f'"{text}" found; auto, exact or a number that is not negative expected')
    return text


def preflight_key(text):
    name, dot, _ = text.partition(".")
    if name not in PREFLIGHT_KEYS or (dot and not PREFLIGHT_KEYS[name]):
        raise argparse.ArgumentTypeError(f'"{text}" found; one of {", ".join(PREFLIGHT_KEYS)} expected')
    return text


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("A", help="reference trace: a file, or a folder of *.jsonl or *.trace")
    parser.add_argument("B", help="the other trace")
    parser.add_argument("--tolerance", type=tolerance, default="auto", help="auto (default), exact or a relative L2 distance")
    parser.add_argument("--ignore", type=preflight_key, action="append", default=[], metavar="KEY",
                        help="difference of the run records to accept; repeatable")
    parser.add_argument("--allow-missing", action="store_true", help="records that only one trace has are no error")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--envelope", metavar="FILE", help="refused: bitnet diff alone judges by envelopes")
    options = parser.parse_args(arguments)
    if options.envelope is not None:
        print("trace_diff: --envelope: bitnet diff alone judges by envelopes", file=sys.stderr)
        return ERROR
    report = Report(read_trace(options.A), read_trace(options.B), options)
    for error in report.errors:
        print(f"trace_diff: {printable(error, 1000)}", file=sys.stderr)
    try:
        sys.stdout.write(report.as_json() if options.format == "json" else report.as_text())
        sys.stdout.flush()
    except OSError as error:
        print(f"trace_diff: the report cannot be written: {error.strerror}", file=sys.stderr)
        return ERROR
    return report.verdict


if __name__ == "__main__":
    sys.exit(main())
