"""A GGUF file as an editable document: every field is kept, so that a file can be written right or wrong on purpose.

Layout: magic, u32 version, i64 tensor count, i64 key count, keys, tensor infos, padding to the alignment, data.
"""

import struct
from dataclasses import dataclass, field, replace

MAGIC = b"GGUF"
VERSION = struct.pack("<I", 3)
ALIGNMENT = 32

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
SCALAR_FORMATS = {
    U8: "B",
    I8: "b",
    U16: "H",
    I16: "h",
    U32: "I",
    I32: "i",
    F32: "f",
    BOOL: "?",
    U64: "Q",
    I64: "q",
    F64: "d",
}


def int64(number):
    """Eight little-endian bytes of a signed or unsigned number."""
    return struct.pack("<Q", number % 2**64)


def text(value, length=None):
    """A GGUF string; `length` is what its length field claims, where that is to be a lie."""
    return int64(len(value) if length is None else length) + value


def value_bytes(type_id, value):
    """A scalar or string value without its type id."""
    return text(value.encode()) if type_id == STRING else struct.pack("<" + SCALAR_FORMATS[type_id], value)


def array_bytes(type_id, values, length=None):
    """An array value: element type, length, elements."""
    head = struct.pack("<I", type_id) + int64(len(values) if length is None else length)
    return head + b"".join(value_bytes(type_id, value) for value in values)


@dataclass(frozen=True)
class Entry:
    key: bytes
    type: int
    value: bytes  # as in the file, after the type id
    key_length: int | None = None  # None: the true one

    def to_bytes(self):
        return text(self.key, self.key_length) + struct.pack("<I", self.type) + self.value


@dataclass(frozen=True)
class TensorInfo:
    name: bytes
    dims: tuple[int, ...]  # ne[0], the contiguous dimension, first
    type: int
    offset: int  # from the start of the data
    n_dims: int | None = None  # None: the true one
    name_length: int | None = None  # None: the true one

    def to_bytes(self):
        n_dims = len(self.dims) if self.n_dims is None else self.n_dims
        dims = b"".join(int64(n) for n in self.dims)
        return (
            text(self.name, self.name_length)
            + struct.pack("<I", n_dims)
            + dims
            + struct.pack("<I", self.type)
            + int64(self.offset)
        )


@dataclass(frozen=True)
class Document:
    entries: tuple[Entry, ...] = ()
    tensors: tuple[TensorInfo, ...] = ()
    data: bytes = field(default=b"", repr=False)
    magic: bytes = MAGIC
    version: bytes = VERSION
    tensor_count: int | None = None  # None: the true one
    entry_count: int | None = None  # None: the true one

    def header_bytes(self):
        """Everything before the data, padded."""
        tensor_count = len(self.tensors) if self.tensor_count is None else self.tensor_count
        entry_count = len(self.entries) if self.entry_count is None else self.entry_count
        parts = [self.magic, self.version, int64(tensor_count), int64(entry_count)]
        parts += [item.to_bytes() for item in (*self.entries, *self.tensors)]
        header = b"".join(parts)
        return header + bytes(-len(header) % ALIGNMENT)

    def to_bytes(self):
        return self.header_bytes() + self.data

    def entry(self, key):
        return next(entry for entry in self.entries if entry.key == key)

    def tensor(self, name):
        return next(tensor for tensor in self.tensors if tensor.name == name)

    def with_entry(self, key, /, **changes):
        """A copy in which the entry of this key is changed."""
        return replace(self, entries=tuple(replace(e, **changes) if e.key == key else e for e in self.entries))

    def with_tensor(self, name, /, **changes):
        """A copy in which the info of this tensor is changed."""
        return replace(self, tensors=tuple(replace(t, **changes) if t.name == name else t for t in self.tensors))


def parse(blob):
    """The document of a valid file with the default alignment."""
    cursor = _Cursor(blob)
    magic, version = cursor.take(4), cursor.take(4)
    tensor_count, entry_count = cursor.scalar("q"), cursor.scalar("q")
    entries = tuple(cursor.entry() for _ in range(entry_count))
    tensors = tuple(cursor.tensor() for _ in range(tensor_count))
    data_start = cursor.position + -cursor.position % ALIGNMENT
    return Document(entries, tensors, blob[data_start:], magic, version)


class _Cursor:
    def __init__(self, blob):
        self.blob = blob
        self.position = 0

    def take(self, n_bytes):
        start, self.position = self.position, self.position + n_bytes
        if self.position > len(self.blob):
            raise ValueError("the file ends inside its header")
        return self.blob[start : self.position]

    def scalar(self, form):
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def entry(self):
        key, type_id = self.take(self.scalar("Q")), self.scalar("I")
        start = self.position
        self._skip_value(type_id)
        return Entry(key, type_id, self.blob[start : self.position])

    def _skip_value(self, type_id):
        if type_id == ARRAY:
            element_type, length = self.scalar("I"), self.scalar("Q")
            for _ in range(length):
                self._skip_value(element_type)
        elif type_id == STRING:
            self.take(self.scalar("Q"))
        else:
            self.scalar(SCALAR_FORMATS[type_id])

    def tensor(self):
        name, n_dims = self.take(self.scalar("Q")), self.scalar("I")
        dims = tuple(self.scalar("q") for _ in range(n_dims))
        return TensorInfo(name, dims, self.scalar("I"), self.scalar("Q"))
