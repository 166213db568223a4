#!/usr/bin/env python3
"""Where does trace B leave trace A? What `bitnet diff` decides, with Python's standard library alone.

    trace_diff.py A B [--tolerance auto|exact|ties|NUMBER] [--ignore KEY]... [--allow-missing] [--format text|json]

A and B are traces in JSONL (schema 1 of plugins/TRACE_FORMAT.md): a file, or a folder whose *.jsonl are read in name order.
BitNet-rs's records serve as well: a folder of *.trace files, one JSON object each, or JSONL of such objects. They have a hash
and a root mean square but no sketch, so between them and other records equal bits agree, sizes too far apart differ, and
nothing else can be judged. So do raw values: a folder of the npy plugin, or an .npz of arrays. Where both sides have them,
distances are exact, and codes that differ are explained by rounding ties or are not. Verdict, exit code, first difference and
what is said of integers are those of `bitnet diff` (abi/cli/diff/DIFF.md); what goes beyond them, the operation at fault, the
growth over the layers and envelopes (--envelope), is `bitnet diff`'s alone. One file, so that it can be copied to where it is needed.

Exit codes: 0 match, 1 divergence, 2 error. The report goes to stdout, errors to stderr.
"""

import argparse
import base64
import ctypes
import json
import math
import re
import struct
import sys
import zlib
from array import array
from functools import cached_property
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
# How far from k + 0.5 the real value of a code may lie for either neighbour to be right, in steps; what the last bit of its
# largest value leaves to a scale; leaps over the inputs that rounding never makes.
TIE_DISTANCE, SCALE_DISTANCE = 4e-5, 2.4e-7
CODE_MAX, ABSMAX_MIN = 127.0, 1e-5
FLIP_NOISE, JUMP_FACTOR, SKETCH_FLOOR = 1e-2, 100.0, 1e-7
RAW_POSITIONS_MAX = 1 << 20


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
        self.path, self.raw = path, None  # rows by key, of a side that holds raw values
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


def parse_run(fields):
    """The run and its number in the file."""
    v = mandatory(fields, ("run", "schema", "engine", "engine_version", "model_hash", "hyperparameters", "semantics", "tokens"))
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
    return run, number_in_file


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
        run, number_in_file = parse_run(fields)
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


# --- raw values ------------------------------------------------------------------------------------------------------

PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
BLAKE3_IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8
MIXED = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15), (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13),
         (3, 4, 9, 14))


def blake3_compress(chaining, words, counter, length, flags):
    s = [*chaining, *BLAKE3_IV[:4], counter & UINT32_MAX, counter >> 32, length, flags]
    for turn in range(7):
        for i, (a, b, c, d) in enumerate(MIXED):
            for word, first, second in ((words[2 * i], 16, 12), (words[2 * i + 1], 8, 7)):
                s[a] = (s[a] + s[b] + word) & UINT32_MAX
                x = s[d] ^ s[a]
                s[d] = (x >> first | x << (32 - first)) & UINT32_MAX
                s[c] = (s[c] + s[d]) & UINT32_MAX
                x = s[b] ^ s[c]
                s[b] = (x >> second | x << (32 - second)) & UINT32_MAX
        if turn < 6:
            words = [words[i] for i in PERMUTATION]
    return [s[i] ^ s[i + 8] for i in range(8)]


def blake3_chunk(data, counter, root):
    """Chaining value of at most 1024 bytes."""
    value, blocks = list(BLAKE3_IV), [data[i:i + 64] for i in range(0, len(data), 64)] or [b""]
    for i, block in enumerate(blocks):
        flags = CHUNK_START * (i == 0) | (CHUNK_END | ROOT * root) * (i == len(blocks) - 1)
        value = blake3_compress(value, struct.unpack("<16I", block.ljust(64, b"\0")), counter, len(block), flags)
    return value


def blake3_tree(data, first_chunk, root):
    if len(data) <= 1024:
        return blake3_chunk(data, first_chunk, root)
    left = 1024
    while left * 2 < len(data):  # the left side is the largest power of two that leaves something
        left *= 2
    words = blake3_tree(data[:left], first_chunk, False) + blake3_tree(data[left:], first_chunk + left // 1024, False)
    return blake3_compress(BLAKE3_IV, words, 0, 64, PARENT | ROOT * root)


def blake3_hex(data):
    return struct.pack("<8I", *blake3_tree(data, 0, True)).hex()


def mix(x):
    z = (x + 1) * 0x9E3779B97F4A7C15 & UINT64_MAX
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & UINT64_MAX
    z = (z ^ z >> 27) * 0x94D049BB133111EB & UINT64_MAX
    return z ^ z >> 31


def to_f32(value):
    try:
        return f32(value)
    except OverflowError:
        return math.copysign(math.inf, value)


# NPY's name: dtype of a record, bytes of an element there
NPY_TYPES = {"<f4": ("F32", 4), "<f2": ("F16", 2), "<u2": ("BF16", 2), "|i1": ("I8", 1), "<i4": ("I32", 4), "<i8": ("I32", 8),
             "<f8": ("F32", 8)}


NPY_SHAPE = re.compile(r"\([ ,]*([0-9]+[ ,]+)*([0-9]+)?\)")


def header_value(header, key):
    """What stands after 'key': in the header, a Python literal."""
    _, found, rest = header.partition(f"'{key}':")
    if not found:
        raise LineError(f"its header has no '{key}'")
    return rest.lstrip(" ")


def parse_npy(data):
    """(dtype, shape, bytes of the values)"""
    if len(data) < 12 or data[:6] != b"\x93NUMPY":
        raise LineError("not an NPY file")
    begin = 12 if data[6] > 1 else 10
    n_header = int.from_bytes(data[8:begin], "little")
    if n_header > len(data) - begin:
        raise LineError("it ends inside its header")
    header = data[begin:begin + n_header].decode("latin-1")
    if not header_value(header, "fortran_order").startswith("False"):
        raise LineError("it is in Fortran order: expected C order")
    match = NPY_SHAPE.match(header_value(header, "shape"))
    shape = [int(size) for size in re.findall("[0-9]+", match[0])] if match else []
    if not match or math.prod(shape) > 1 << 32:
        raise LineError("the shape in its header is damaged")
    quoted = header_value(header, "descr")[:5]
    if quoted[1:4] not in NPY_TYPES or quoted != f"'{quoted[1:4]}'":
        raise LineError(f"type {quoted}: expected {', '.join(NPY_TYPES)}")
    dtype, n_bytes = NPY_TYPES[quoted[1:4]]
    values = data[begin + n_header:]
    if len(values) != n_bytes * math.prod(shape):
        raise LineError(f"{len(values)} bytes of values: expected {n_bytes * math.prod(shape)}, by its header")
    if quoted == "'<i8'":
        wide = struct.unpack(f"<{len(values) // 8}q", values)
        if any(not -(1 << 31) <= value < 1 << 31 for value in wide):
            raise LineError("a number in it does not fit in 32 bits")
        values = struct.pack(f"<{len(wide)}i", *wide)
    elif quoted == "'<f8'":
        wide = struct.unpack(f"<{len(values) // 8}d", values)
        values = struct.pack(f"<{len(wide)}f", *map(to_f32, wide))
    return dtype, shape, values


ELEMENT_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1, "I32": 4}


class RawRecord:
    """A row's values, and on demand what a record says of them."""
    bare = position_assumed = False

    def __init__(self, key, dtype, data, place):
        self.key, self.dtype, self.data, self.place = key, dtype, data, place
        self.n = len(data) // ELEMENT_BYTES[dtype]

    @cached_property
    def values(self):
        if self.dtype == "BF16":
            bits = array("I", [half << 16 for half in struct.unpack(f"<{self.n}H", self.data)])
            return struct.unpack(f"<{self.n}f", struct.pack(f"<{self.n}I", *bits))
        return struct.unpack(f"<{self.n}{ {'F32': 'f', 'F16': 'e', 'I8': 'b', 'I32': 'i'}[self.dtype]}", self.data)

    @cached_property
    def finite(self):
        return [value for value in self.values if math.isfinite(value)]

    @cached_property
    def blake3(self):
        return blake3_hex(self.data)

    nan = cached_property(lambda self: sum(value != value for value in self.values))
    inf = cached_property(lambda self: self.n - len(self.finite) - self.nan)
    zeros = cached_property(lambda self: sum(value == 0 for value in self.finite))
    min = cached_property(lambda self: min(self.finite, default=0.0))
    max = cached_property(lambda self: max(self.finite, default=0.0))
    absmax = cached_property(lambda self: max(abs(self.min), abs(self.max)))

    @cached_property
    def squares(self):
        total = 0.0
        for value in self.finite:
            total += value * value
        return total

    l2 = cached_property(lambda self: math.sqrt(self.squares))
    rms = cached_property(lambda self: math.sqrt(self.squares / len(self.finite)) if self.finite else 0.0)
    mean = cached_property(lambda self: math.fsum(self.finite) / len(self.finite) if self.finite else 0.0)

    @cached_property
    def argmax(self):
        return self.values.index(self.max) if self.finite else None

    @cached_property
    def top(self):
        order = sorted((i for i, value in enumerate(self.values) if value == value), key=lambda i: (-abs(self.values[i]), i))
        return [(i, to_f32(self.values[i])) for i in order[:8]]

    @cached_property
    def sketch(self):
        buckets = [0.0] * 64
        for block in range((self.n + 63) // 64):
            signs, mask = mix(2 * block), mix(2 * block + 1) & 63
            for p, value in enumerate(self.values[64 * block:64 * block + 64]):
                if math.isfinite(value):
                    buckets[p ^ mask] += -value if signs >> p & 1 else value
        return [to_f32(value) for value in buckets]


def exact_distance(a, b):
    """L2 distance over A's L2, of what is finite."""
    if a.n != b.n:
        return math.nan
    error = size = 0.0
    for x, y in zip(a.values, b.values):
        if math.isfinite(x) != math.isfinite(y):
            return math.nan
        if math.isfinite(x):
            error += (x - y) * (x - y)
            size += x * x
    return 0.0 if error == 0 else math.sqrt(error) / math.sqrt(size) if size else math.inf


ROW_NAME = re.compile(r"([0-9]+)-t([0-9]+)(?:-blk([0-9]+))?-([^-]+)\.npy\Z")


class RawReader:
    """Puts the rows of one side into its trace."""

    def __init__(self, trace):
        self.trace = trace
        trace.raw = {}

    def unparsable(self, text):
        self.trace.n_unparsable += 1
        self.trace.problems.append(printable(text, 400))

    def add(self, layer, stage, position, dtype, data, place):
        fits = layer == -1 if stage in OUTSIDE_LAYERS else 0 <= layer < MAX_LAYERS
        if not fits or not 0 <= position < MAX_POSITIONS:
            raise LineError(f"layer {layer} or position {position}: none of this stage")
        record = RawRecord(make_key(len(self.trace.runs) - 1, position, layer, NODE[stage]), dtype, data, place)
        self.trace.raw.setdefault(record.key, record)
        self.trace.add(record)

    def set_tokens(self, first, tokens):
        self.trace.runs[-1].tokens = [(first + i, token) for i, token in enumerate(tokens) if token is not None and token >= 0]

    def read_run_json(self, path):
        """How many rows it says there are."""
        try:
            fields = parse_object(path.read_bytes())
            complete, record, first, tokens = (fields.first(key) for key in ("complete", "run", "first_position", "tokens"))
            if not (isinstance(complete, bool) and isinstance(record, Pairs) and is_int(first) and isinstance(tokens, list)):
                raise LineError("complete, run, first_position or tokens: not as expected")
            if first < 0 or first > RAW_POSITIONS_MAX or len(tokens) > RAW_POSITIONS_MAX:
                raise LineError("more positions than there can be")
            if not all(token is None or is_int(token) for token in tokens):
                raise LineError("tokens: ids or null expected")
            if text_of("record", record.first("record")) != "run":
                bad("record", record.first("record"), "run")
            self.trace.runs[-1] = parse_run(record)[0]
            self.set_tokens(first, tokens)
            if not complete:
                self.trace.problems.append(f"{printable(str(path.parent))}: cut short: its run.json says that the run is not "
                                           "complete")
            return fields.first("records") or 0
        except (OSError, LineError) as error:
            self.unparsable(f"{path}: {error}")
            return 0

    def read_run(self, folder):
        self.trace.runs.append(Run())
        names = sorted(os_name for os_name in (file.name for file in folder.iterdir())
                       if not os_name.startswith(".") and ".in-" not in os_name)
        said = self.read_run_json(folder / "run.json") if "run.json" in names else 0
        n = 0
        for name in names:
            if not name.endswith(".npy"):
                continue
            match = ROW_NAME.match(name)
            if not match or match[4] not in NODE:
                self.unparsable(f"{folder / name}: of no known stage, or no name of a row")
                continue
            n += 1
            try:
                dtype, _, data = parse_npy((folder / name).read_bytes())
                self.add(int(match[3] or -1), match[4], int(match[2]), dtype, data, str(folder / name))
            except (OSError, LineError) as error:
                self.unparsable(f"{folder / name}: {error}")
        if said and said != n:
            self.trace.incomplete.append(f"{printable(str(folder / 'run.json'))} says {said} rows, {n} are there")

    def read_npz(self, path):
        self.trace.runs.append(Run())
        arrays, tokens, passed_by = [], (), []
        try:
            for entry, data in zip_entries(Path(path).read_bytes()):
                name = entry[:-4] if entry.endswith(".npy") else None
                match = name and re.fullmatch(r"(-?[0-9]+)/(.*)", name, re.DOTALL)
                array_of = parse_npy(data) if name is not None else None
                if name == "ids":
                    tokens = self.parse_ids(*array_of)
                elif match and match[2] in NODE and -(1 << 31) <= int(match[1]) < 1 << 31:
                    if not array_of[1] or not 0 < array_of[1][0] <= RAW_POSITIONS_MAX:
                        raise LineError(f"array '{entry}': no rows, or too many")
                    arrays.append((entry, int(match[1]), match[2], *array_of))
                else:
                    passed_by.append(entry)
        except (OSError, LineError) as error:
            self.unparsable(f"{path}: {error}")
            return
        self.set_tokens(0, tokens)
        for entry in passed_by:
            self.unparsable(f"{path}: array '{entry}': of no known stage")
        for entry, layer, stage, dtype, shape, values in arrays:
            try:
                self.add_rows(f"{path}: {entry}", layer, stage, dtype, shape[0], values)
            except LineError as error:
                self.unparsable(f"{path}: array '{entry}': {error}")

    @staticmethod
    def parse_ids(dtype, _, values):
        if dtype != "I32":
            raise LineError("array 'ids': expected integers")
        return struct.unpack(f"<{len(values) // 4}i", values)

    def add_rows(self, place, layer, stage, dtype, n, values):
        """One row for each token from position 0."""
        element, n_bytes = ELEMENT_BYTES[dtype], len(values) // n
        for r in range(n):
            row = values[r * n_bytes:(r + 1) * n_bytes]
            if stage in ("attn_scores", "attn_scores_softmax"):  # filled up to the last position
                line = n * element
                row = b"".join(row[at:at + (r + 1) * element] for at in range(0, n_bytes - line + 1, line))
            self.add(layer, stage, r, dtype, row, f"{place}[{r}]")


def zip_entries(archive):
    """(name, bytes) of each file, as strict as `bitnet diff`: zipfile repairs some archives that are damaged."""
    def numbers(layout, at):
        if at + struct.calcsize(layout) > len(archive):
            raise LineError("the archive ends early")
        return struct.unpack_from(layout, archive, at)
    end = archive.rfind(b"PK\5\6", 0, max(0, len(archive) - 18))
    if end < 0:
        raise LineError("not a ZIP archive")
    (n,), (at,) = numbers("<H", end + 10), numbers("<I", end + 16)
    for _ in range(n):
        if numbers("<4s", at) != (b"PK\1\2",):
            raise LineError("the archive's directory is damaged")
        (method,), (crc, packed, size) = numbers("<H", at + 10), numbers("<3I", at + 16)
        (n_name, n_extra, n_comment), (local,) = numbers("<3H", at + 28), numbers("<I", at + 42)
        (name,) = numbers(f"{n_name}s", at + 46)
        at += 46 + n_name + n_extra + n_comment
        if numbers("<4s", local) != (b"PK\3\4",):
            raise LineError(f"{name!r}: its header is damaged")
        (data,) = numbers(f"{packed}s", local + 30 + sum(numbers("<2H", local + 26)))
        if method == 8:
            try:
                inflater = zlib.decompressobj(-15)
                data = inflater.decompress(data, size + 1)
            except zlib.error as error:
                raise LineError(f"{name!r}: {error}") from None
            if len(data) != size or not inflater.eof:
                raise LineError(f"{name!r}: it is of another size than it says")
        elif method != 0:
            raise LineError(f"{name!r}: compression method {method}: expected 0 (stored) or 8 (deflate)")
        if zlib.crc32(data) != crc:
            raise LineError(f"{name!r}: its checksum is wrong")
        yield name.decode(errors="backslashreplace"), data


def raw_folders(folder):
    """The folder itself when it holds a run, else those named run-... in it."""
    if any(file.name.endswith(".npy") or file.name == "run.json" for file in folder.iterdir()):
        return [folder]
    return sorted(file for file in folder.iterdir() if file.is_dir() and file.name.startswith("run-"))


def read_raw(path):
    """None when `path` holds no raw values."""
    place = Path(path)
    if not place.is_dir():
        try:
            with open(place, "rb") as file:
                if file.read(4) != b"PK\3\4" and not path.endswith(".npz"):
                    return None
        except OSError:
            return None
        trace = Trace(path)
        RawReader(trace).read_npz(path)
        return trace
    if any(file.name.endswith((".jsonl", ".jsonl.zst", ".trace")) for file in place.iterdir()):
        return None
    folders = raw_folders(place)
    if not folders:
        return None
    trace = Trace(path)
    reader = RawReader(trace)
    for folder in folders:
        reader.read_run(folder)
    return trace


def read_trace(path):
    try:
        return read_raw(path) or read_records(path)
    except OSError as error:  # a folder that cannot be listed
        trace = Trace(path)
        trace.problems.append(f"{printable(path)}: {error.strerror}")
        return trace


def read_records(path):
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
        trace.problems.append(f"{printable(path)}: no *.jsonl, *.trace or *.npy and no run-... in this folder, at least one "
                              "expected")
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


def both_raw(a, b):
    return isinstance(a, RawRecord) and isinstance(b, RawRecord)


def same_bits(a, b):
    if both_raw(a, b):
        return a.dtype == b.dtype and a.data == b.data
    return a.blake3 == b.blake3 and a.n == b.n and a.dtype == b.dtype


def relative_distance(a, b):
    if both_raw(a, b):
        return exact_distance(a, b)
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
    if both_raw(a, b):
        return True

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


# --- codes, scales and sums ------------------------------------------------------------------------------------------

ROUNDING, INPUTS, OPEN, UNKNOWN, WRONG = "rounding", "inputs", "open", "unknown", "wrong"
OUTCOMES = (ROUNDING, INPUTS, OPEN, UNKNOWN, WRONG)  # from the best to the worst
KINDS = {"codes": "codes", "scale": "scales", "acc": "sums"}
LINEARS = {"q_proj": "attn_norm", "k_proj": "attn_norm", "v_proj": "attn_norm", "attn_out": "attn_sub_norm",
           "ffn_gate": "ffn_norm", "ffn_up": "ffn_norm", "ffn_out": "ffn_sub_norm"}
RESIDUAL, EVERY_POSITION = "residual", "every position"


def inputs_of(stage):
    """What a stage is computed from: names, (name, EVERY_POSITION), or RESIDUAL, the stream that the layer before left."""
    base, _, companion = stage.partition(".")
    if companion:
        return {"scale": (base,), "codes": (base, base + ".scale"), "acc": (LINEARS.get(base, "") + ".codes",)}[companion]
    if base in LINEARS:
        return base + ".acc", LINEARS[base] + ".scale"
    return {"embeddings": (), "attn_norm": (RESIDUAL,), "q_rope": ("q_proj",), "k_rope": ("k_proj",),
            "attn_scores": ("q_rope", ("k_rope", EVERY_POSITION)), "attn_scores_softmax": ("attn_scores",),
            "attn_context": ("attn_scores_softmax", ("v_proj", EVERY_POSITION)), "attn_sub_norm": ("attn_context",),
            "attn_residual": (RESIDUAL, "attn_out"), "ffn_norm": ("attn_residual",), "ffn_act": ("ffn_gate", "ffn_up"),
            "ffn_sub_norm": ("ffn_act",), "layer_out": ("attn_residual", "ffn_out"), "final_norm": (RESIDUAL,),
            "logits": ("final_norm",)}[base]


def rounding_distance(stage, position):
    """What the last bits of an operation at equal inputs may be apart."""
    if stage in LINEARS:
        return 5e-7
    if stage.endswith("_rope"):
        return 2e-6 + 1e-7 * position
    return 5e-6 if stage in ("attn_scores", "attn_scores_softmax", "attn_context") else 2e-6


def scale_by_formula(x, begin, end):
    """127 over the largest magnitude, in f32."""
    largest = f32(ABSMAX_MIN)
    for value in x.values[begin:end]:
        if abs(value) > largest:
            largest = to_f32(abs(value))
    return f32(CODE_MAX / largest)


def relative(a, b):
    return 0.0 if a == b else abs(a - b) / abs(a) if a else math.inf if b == b else math.nan


class Quantised:
    """What one engine's quantiser was given."""

    def __init__(self, x, scale=None):
        self.x, self.scale = x, scale

    @cached_property
    def formula(self):
        return scale_by_formula(self.x, 0, self.x.n)

    def real(self, i, n):
        """The real value of code `i` of `n`."""
        if not self.x or self.x.n != n:
            return None
        if not self.scale:
            return self.x.values[i] * self.formula
        if self.scale.n == 0 or n % self.scale.n:
            return None
        return self.x.values[i] * self.scale.values[i // (n // self.scale.n)]

    def own_scale(self, i, n):
        if not self.x or n == 0 or self.x.n % n:
            return None
        block = self.x.n // n
        return scale_by_formula(self.x, i * block, (i + 1) * block)


class IntegerPair:
    """Two rows of integers or scales that differ: how many elements, by outcome."""

    def __init__(self, a, b, differs_before):
        self.a, self.b, self.n = a, b, a.n
        self.one_sided = UNKNOWN if differs_before else WRONG
        self.counts = dict.fromkeys(OUTCOMES, 0)
        self.largest = self.farthest_tie = self.bound = 0.0
        self.inputs_equal, self.missing, self.shown, self.outcome = False, "", None, ROUNDING

    def run(self, classify):
        for i, (a, b) in enumerate(zip(self.a.values, self.b.values)):
            if a == b or (a != a and b != b):
                continue
            outcome, real_a, real_b = classify(i, a, b)
            self.counts[outcome] += 1
            if self.shown is None or OUTCOMES.index(outcome) > OUTCOMES.index(self.outcome):
                self.outcome, self.shown = outcome, (i, a, b, real_a, real_b)
        return self

    def code(self, x_a, x_b):
        def follows(real, code):
            return abs(min(max(real, -CODE_MAX), CODE_MAX) - code) <= 0.5 + TIE_DISTANCE

        def classify(i, a, b):
            step, tie = abs(a - b), 0.5 * (a + b)
            self.largest = max(self.largest, float(step))
            real_a, real_b = x_a.real(i, self.n), x_b.real(i, self.n)
            known = [real for real in (real_a, real_b) if real is not None]
            if not known:
                return UNKNOWN, None, None
            off = [abs(real - tie) for real in known]
            if step == 1 and all(distance <= TIE_DISTANCE for distance in off):
                self.farthest_tie = max(self.farthest_tie, *off)
                return ROUNDING, real_a, real_b
            if len(known) == 1:
                return self.one_sided, real_a, real_b
            return INPUTS if follows(real_a, a) and follows(real_b, b) else WRONG, real_a, real_b
        return self.run(classify)

    def scale(self, x_a, x_b):
        def classify(i, a, b):
            off = relative(a, b)
            self.largest = math.inf if math.isnan(off) else max(self.largest, off)
            real_a, real_b = x_a.own_scale(i, self.n), x_b.own_scale(i, self.n)
            if off <= SCALE_DISTANCE:
                return ROUNDING, real_a, real_b
            if real_a is None and real_b is None:
                return UNKNOWN, None, None
            if real_a is None or real_b is None:
                return self.one_sided, real_a, real_b
            follow = [relative(real, own) <= SCALE_DISTANCE for real, own in ((real_a, a), (real_b, b))]
            if self.inputs_equal or follow[0] != follow[1]:
                return WRONG, real_a, real_b
            return INPUTS if follow[0] else OPEN, real_a, real_b
        return self.run(classify)

    def sum(self):
        """A weight is -1, 0 or 1: a sum cannot move farther than its codes did."""
        def classify(_, a, b):
            self.largest = max(self.largest, float(abs(a - b)))
            return OPEN if abs(a - b) <= self.bound else WRONG, None, None
        return self.run(classify)

    def as_json(self):
        index, a, b, real_a, real_b = self.shown or (0, 0.0, 0.0, None, None)
        shown = {"a": float(a), "b": float(b), "real_a": real_a, "real_b": real_b}
        return {"outcome": self.outcome, "values": self.n, "differ": sum(self.counts.values()), **self.counts,
                "largest": finite_json(self.largest), "farthest_tie": self.farthest_tie, "index": index,
                **{key: finite_json(value) for key, value in shown.items()}}


def finite_json(value):
    if value is None or math.isnan(value):
        return None
    return value if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"


def integer_pair(raw_a, raw_b, key, differs_before):
    """Of two rows that differ, None when they are of no integers."""
    base, _, companion = STAGES[key[3]].partition(".")
    if companion not in KINDS or raw_a[key].n != raw_b[key].n:
        return None

    def siblings(stage):
        at = (*key[:3], NODE[stage])
        return raw_a.get(at), raw_b.get(at)
    pair = IntegerPair(raw_a[key], raw_b[key], differs_before)
    source = LINEARS[base] + ".codes" if companion == "acc" else base
    a, b = siblings(source)
    pair.missing = source + (" of A" if b else " of B" if a else "") if not (a and b) else ""
    if companion == "acc":
        if not a or not b or a.n != b.n:
            return pair.run(lambda i, x, y: (UNKNOWN, None, None))
        pair.bound = float(sum(abs(x - y) for x, y in zip(a.values, b.values)))
        return pair.sum()
    pair.inputs_equal = bool(a and b) and a.dtype == b.dtype and a.data == b.data
    if companion == "scale":
        return pair.scale(Quantised(a), Quantised(b))
    scale_a, scale_b = siblings(base + ".scale")
    return pair.code(Quantised(a, scale_a), Quantised(b, scale_b))


class Integers:
    """Totals over all rows of integers that are raw on both sides, and what differs because of rounding."""

    def __init__(self, comparison):
        self.comparison = comparison
        names = ("rows", "rows_equal", "values", "differ", *OUTCOMES)
        self.totals = {kind: {**dict.fromkeys(names, 0), "largest": 0.0, "farthest_tie": 0.0} for kind in KINDS.values()}
        self.first_rounding = self.first_unknown = self.first_other = None
        self.n_rounding = self.n_behind = self.n_other = 0
        for x, _, relation, _ in comparison.pairs:
            kind = KINDS.get(STAGES[x.key[3]].partition(".")[2])
            if kind:
                self.add(self.totals[kind], x, relation, comparison.integers.get(x.key))
        if self.any():
            self.trace_rounding()

    def any(self):
        return any(totals["rows"] for totals in self.totals.values())

    def sum(self, outcome):
        return sum(totals[outcome] for totals in self.totals.values())

    def explain_all(self):
        """Codes were compared, and everything that differs is explained by rounding or lies behind what is."""
        return self.totals["codes"]["rows"] > 0 and self.n_other == 0 and self.sum(UNKNOWN) == 0

    def add(self, totals, x, relation, pair):
        totals["rows"] += 1
        totals["values"] += x.n
        totals["rows_equal"] += relation == "equal"
        if not pair:
            return
        totals["differ"] += sum(pair.counts.values())
        for outcome, n in pair.counts.items():
            totals[outcome] += n
        totals["largest"] = max(totals["largest"], pair.largest)
        totals["farthest_tie"] = max(totals["farthest_tie"], pair.farthest_tie)
        if pair.counts[ROUNDING] and not self.first_rounding:
            self.first_rounding = x.key
        if pair.outcome == UNKNOWN and not self.first_unknown:
            self.first_unknown = x.key

    def trace_rounding(self):
        """Walks the stages in execution order with what is known of each value: (by rounding, by something else, distance)."""
        cache, known, at, residual = {}, {}, None, (False, False, 0.0)
        pairs = {x.key: (relation, distance) for x, _, relation, distance in self.comparison.pairs}
        layers = {run: 1 + max(x.max_layer, y.max_layer)
                  for run, (x, y) in enumerate(zip(self.comparison.a.runs, self.comparison.b.runs))}
        for run, position in sorted({key[:2] for key in pairs}):
            if at != run:
                at, cache = run, {}
            residual = known["embeddings"] = self.visit((run, position, 0, 0), [], pairs)
            for layer in range(layers[run]):
                for stage in STAGES:
                    if stage in OUTSIDE_LAYERS:
                        continue
                    inputs = [residual if source == RESIDUAL else cache.get((layer, source[0]), (False, False, 0.0))
                              if isinstance(source, tuple) else known[source] for source in inputs_of(stage)]
                    known[stage] = self.visit(make_key(run, position, layer, NODE[stage]), inputs, pairs)
                    if stage in ("k_rope", "v_proj"):
                        cache[layer, stage] = joined([cache.get((layer, stage), (False, False, 0.0)), known[stage]])
                residual = known["layer_out"]
            known["final_norm"] = self.visit(make_key(run, position, -1, NODE["final_norm"]), [residual], pairs)
            self.visit(make_key(run, position, -1, LOGITS), [known["final_norm"]], pairs)

    def visit(self, key, inputs, pairs):
        rounding, other, distance_in = joined(inputs)
        if key not in pairs:
            return rounding, other, distance_in
        relation, distance = pairs[key]
        if relation == "equal":
            return False, False, 0.0
        pair = self.comparison.integers.get(key)
        size = distance if math.isfinite(distance) else math.inf
        if pair and pair.outcome == ROUNDING:
            self.n_rounding += 1
            return True, False, size
        leaps = size > max(FLIP_NOISE, JUMP_FACTOR * max(distance_in, SKETCH_FLOOR))
        wrong = pair and pair.outcome in (UNKNOWN, WRONG)
        if wrong or other or math.isinf(size) or leaps or not (rounding or size <= rounding_distance(STAGES[key[3]], key[1])):
            self.n_other += 1
            self.first_other = self.first_other or key
            return False, True, size
        self.n_behind += rounding
        self.n_rounding += not rounding
        return True, False, size

    def as_json(self):
        if not self.any():
            return None
        return {**self.totals, "first_rounding": place_json(self.first_rounding), "first_unknown": place_json(self.first_unknown),
                "records_rounding": self.n_rounding, "records_behind": self.n_behind, "records_other": self.n_other,
                "first_other": place_json(self.first_other)}


def joined(known):
    return (any(k[0] for k in known), any(k[1] for k in known), max((k[2] for k in known), default=0.0))


def place_json(key):
    return key and {"run": key[0], "seq": key[1], "layer": layer_of(key), "stage": STAGES[key[3]]}


class Comparison:
    def __init__(self, a, b, options):
        self.a, self.b = a, b
        self.rule, self.max_distance = self.choose_rule(options.tolerance)
        self.counts = dict.fromkeys(("compared", "equal", "within", "unjudged", "different", "missing_in_a", "missing_in_b"), 0)
        self.first = self.first_missing_in_a = self.first_missing_in_b = None
        self.n_logits, self.n_logits_unjudged, self.first_unjudged = 0, 0, None
        self.would_pass, self.problems = 0.0, []
        # Of raw values: (row of A, row of B, relation, distance) and, by key, the integers that differ.
        self.pairs, self.integers = [], {}
        self.run, self.differs_before = None, False
        self.match_records()

    def choose_rule(self, tolerance):
        if tolerance == "exact":
            return "hashes", 0.0
        if tolerance == "ties":
            return "logits", 0.0
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
        relation = self.judge_integers(x, y, distance, self.judge(x, y, distance))
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
        pair = self.integers.get(x.key)
        if pair and pair.outcome == ROUNDING:
            return  # it passes under every number
        if relation != "equal" and self.would_pass is not None:
            # Equal bits that are told differently: one record was altered, and no distance speaks for it.
            measurable = math.isfinite(distance) and finite and not same_bits(x, y)
            self.would_pass = max(self.would_pass, distance) if measurable else None

    def judge_integers(self, x, y, distance, relation):
        """What rounding explains is within; what it does not is wrong under a rule that leaves engines some freedom."""
        if self.a.raw is None or self.b.raw is None:
            return relation
        if x.key[0] != self.run:
            self.run, self.differs_before = x.key[0], False
        pair = None if same_bits(x, y) else integer_pair(self.a.raw, self.b.raw, x.key, self.differs_before)
        self.differs_before = self.differs_before or not same_bits(x, y)
        if pair:
            self.integers[x.key] = pair
            if self.rule != "hashes" and pair.outcome == ROUNDING:
                relation = "within"
            elif self.rule == "logits":
                relation = "different" if pair.outcome == WRONG else "unjudged"
        self.pairs.append((x, y, relation, distance))
        return relation

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
        self.integers = Integers(self.comparison)
        self.first = None if self.mismatches else self.comparison.first
        self.errors = []
        self.collect_errors(options)
        self.collect_unjudged()
        self.collect_unexplained(options)
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
        elif (comparison.rule == "logits" and comparison.counts["unjudged"] and comparison.n_logits == 0
              and not comparison.counts["different"] and (options.allow_missing or not self.integers.sum(UNKNOWN))
              and not self.integers.explain_all()):
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

    def collect_unexplained(self, options):
        """Integers whose inputs were not recorded: likewise, unless missing records are allowed."""
        key = self.integers.first_unknown
        if self.comparison.rule != "logits" or not key or options.allow_missing or self.first or self.mismatches or self.errors:
            return
        pair = self.comparison.integers[key]
        self.errors.append(f"no verdict: {record_name(key)}: {pair.counts[UNKNOWN]} of {pair.n} values differ, unexplained because "
                           f"{pair.missing} was not recorded (--allow-missing accepts it)")

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
        elif self.comparison.rule == "logits" and self.comparison.n_logits == 0:
            self.verdict = MATCH
            self.text = (f"{self.integers.totals['codes'][ROUNDING]} codes differ, all explained by rounding ties; "
                         f"{self.integers.n_behind} records lie behind them as their effect; no logits were recorded.")
        else:
            self.verdict = MATCH
            self.text = f"{counts['compared']} records agree ({counts['equal']} of them bit for bit)."

    def place(self):
        if not self.first:
            return None
        a, _, distance = self.first
        relative = None if math.isnan(distance) else "Infinity" if math.isinf(distance) else distance
        pair = self.comparison.integers.get(a.key)
        return {**place_json(a.key), "relative": relative, "integers": pair.as_json() if pair else None}

    def as_json(self):
        comparison = self.comparison
        counts = {**comparison.counts, "unparsable": self.a.n_unparsable + self.b.n_unparsable,
                  "duplicate": self.a.n_duplicate + self.b.n_duplicate}
        out = {"verdict": VERDICTS[self.verdict], "exit": self.verdict, "text": self.text, "errors": self.errors,
               "rule": comparison.rule, "tolerance": comparison.max_distance if comparison.rule == "distance" else None,
               "would_pass": comparison.would_pass, "preflight": [{"key": key, "text": text} for key, text in self.mismatches],
               "counts": counts, "first": self.place(), "integers": self.integers.as_json()}
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
    if text in ("auto", "exact", "ties"):
        return text
    if not re.fullmatch(r"(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text) or not math.isfinite(float(text)):
        raise argparse.ArgumentTypeError(f'"{text}" found; auto, exact, ties or a number that is not negative expected')
    return text


def preflight_key(text):
    name, dot, _ = text.partition(".")
    if name not in PREFLIGHT_KEYS or (dot and not PREFLIGHT_KEYS[name]):
        raise argparse.ArgumentTypeError(f'"{text}" found; one of {", ".join(PREFLIGHT_KEYS)} expected')
    return text


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("A", help="reference trace: a file, or a folder of *.jsonl, of *.trace or of *.npy")
    parser.add_argument("B", help="the other trace")
    parser.add_argument("--tolerance", type=tolerance, default="auto",
                        help="auto (default), exact, ties or a relative L2 distance")
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
