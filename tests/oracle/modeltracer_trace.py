"""The modeltracer plugin attached to a context, what it wrote as records, and models damaged on purpose.

with Tracer(library.load(path).context(), tmp_path) as tracer:
    tracer.context.eval([1, 2, 3])
tracer.of("activation")          # records of one kind
"""

import json
from ctypes import c_char_p, c_int32, c_void_p
from dataclasses import replace

import gguf_document as gguf
from library import LOGITS_LAST

ZERO_CODES = 0x55  # four ternary weights of 0


class Tracer:
    def __init__(self, context, folder, config="positions=all", select=None, name="trace"):
        self.context, self.check = context, context.library.check
        self.dll, self.records = context.dll, []
        self.path, self.text_path = folder / f"{name}.modeltracer.json", folder / f"{name}.txt"
        self.config = ",".join(filter(None, [config, f"path={self.path}", f"text={self.text_path}"]))
        self.select = select
        self.dll.bitnet_trace_load_plugin.argtypes = (c_void_p, c_char_p, c_char_p)
        self.dll.bitnet_trace_load_plugin.restype = c_int32
        self.dll.bitnet_context_truncate.argtypes = (c_void_p, c_int32)
        self.dll.bitnet_context_truncate.restype = c_int32

    def __enter__(self):
        if self.select is not None:
            self.check(self.dll.bitnet_trace_select(self.context.handle, self.select.encode()))
        self.check(self.dll.bitnet_trace_load_plugin(self.context.handle, b"modeltracer", self.config.encode()))
        return self

    def __exit__(self, kind, value, traceback):
        self.check(self.dll.bitnet_trace_set_sink(self.context.handle, None, None))
        if kind is None:
            self.records = read_records(self.path)

    def truncate(self, n_positions):
        self.check(self.dll.bitnet_context_truncate(self.context.handle, n_positions))

    def of(self, kind):
        return [record for record in self.records if record["record"] == kind]

    def classes(self):
        """{(class, layer, stage)} of the anomalies."""
        return {(record["class"], record["layer"], record["stage"]) for record in self.of("anomaly")}

    def summary(self):
        (record,) = self.of("summary")
        return record


def read_records(path):
    """Every line is strict JSON."""

    def refuse(word):
        raise ValueError(f"{word} is no JSON")

    text = path.read_text()
    assert text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def trace(model, tokens, folder, config="positions=all", parts=None, **options):
    """Evaluate tokens in parts of these sizes with the plugin attached."""
    with Tracer(model.context(threads=1), folder, config, **options) as tracer:
        begin = 0
        for size in parts or [len(tokens)]:
            tracer.context.eval(tokens[begin : begin + size], LOGITS_LAST)
            begin += size
    return tracer


# Damage


class Patient:
    """A copy of a GGUF file whose tensors can be changed."""

    def __init__(self, path):
        self.document = gguf.parse(path.read_bytes())

    def patch(self, tensor, new_bytes, at=0):
        start = self.document.tensor(tensor.encode()).offset + at
        data = self.document.data
        self.document = replace(self.document, data=data[:start] + new_bytes + data[start + len(new_bytes) :])
        return self

    def n_weights(self, tensor):
        n = 1
        for dim in self.document.tensor(tensor.encode()).dims:
            n *= dim
        return n

    def zero_codes(self, tensor):
        return self.patch(tensor, bytes([ZERO_CODES]) * (self.n_weights(tensor) // 4))

    def zero_column(self, tensor, column):
        """The weights of one input: of each block of 128, byte p holds elements p, p+32, p+64, p+96, the first highest."""
        n_in, n_out = self.document.tensor(tensor.encode()).dims
        offset, data = self.document.tensor(tensor.encode()).offset, self.document.data
        shift = 6 - 2 * (column % 128 // 32)
        for row in range(n_out):
            at = (row * n_in + column // 128 * 128) // 4 + column % 32
            byte = data[offset + at] & ~(3 << shift) | 1 << shift
            self.patch(tensor, bytes([byte]), at)
        return self

    def write(self, path):
        path.write_bytes(self.document.to_bytes())
        return path
