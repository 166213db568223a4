#!/usr/bin/env python3
"""Damaged copies of a valid BitNet GGUF file: python3 damage.py valid.gguf [folder to write them to]

`damaged_files(blob)` yields Damage(name, data, expected):
  expected is a tuple  the file must be refused, with a one-line message that contains every word (case aside);
                       an empty tuple where several messages would be right
  expected is None     loading may fail or succeed, but must do so cleanly
"""

import random
import struct
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import gguf_document as gguf
from gguf_document import ARRAY, F32, I32, STRING, U32, Entry, int64, parse, value_bytes

HUGE = 2**60
NAME_BYTES_MAX = 63
UNKNOWN_VALUE_TYPE = 13
UNKNOWN_TENSOR_TYPE = 200
TENSOR_TYPES_PER_KERNEL = {38: "TL1", 39: "TL2"}  # laid out for one generated kernel, not portable
TENSOR_I2_S = 36

HEADER_CUTS, DATA_CUTS = 60, 40
BIT_FLIPS = 120
MISSING_NUMBERS = ("block_count", "embedding_length", "feed_forward_length", "attention.head_count")


class Damage(NamedTuple):
    name: str
    data: bytes
    expected: tuple[str, ...] | None


def damaged_files(blob, seed=0):
    """All damaged copies of a valid file, each made when it is asked for."""
    document = parse(blob)
    for make in (_header, _entries, _hyperparameters, _tokenizer, _tensor_infos, _shapes, _contents):
        for name, damaged, expected in make(document):
            yield Damage(f"{make.__name__[1:]}/{name}", damaged.to_bytes(), expected)
    yield from _truncations(blob, document)
    yield from _bit_flips(blob, document, seed)


# Each function below yields (name, damaged document, expected words).


def _header(document):
    def header(**changes):
        return replace(document, **changes)

    yield "magic", header(magic=b"GGML"), ("magic",)
    yield "magic_zero", header(magic=bytes(4)), ("magic",)
    for version in (0, 1, 4):
        yield f"version_{version}", header(version=struct.pack("<I", version)), ("version", str(version))
    yield "version_byteswapped", header(version=struct.pack(">I", 3)), ("byte-swapped",)
    n_tensors, n_entries = len(document.tensors), len(document.entries)
    for name, count in (("huge", HUGE), ("max", 2**63 - 1), ("negative", -1)):
        yield f"tensor_count_{name}", header(tensor_count=count), ("tensor", str(count))
        yield f"key_count_{name}", header(entry_count=count), ("key", str(count))
    yield "tensor_count_one_more", header(tensor_count=n_tensors + 1), ()
    without_last = None if _may_be_absent(document.tensors[-1]) else ()
    yield "tensor_count_one_less", header(tensor_count=n_tensors - 1), without_last
    yield "tensor_count_zero", header(tensor_count=0), ()
    yield "key_count_one_more", header(entry_count=n_entries + 1), ()
    yield "key_count_one_less", header(entry_count=n_entries - 1), ()
    yield "key_count_zero", header(entry_count=0), ()
    yield "empty", _Raw(b""), ()
    yield "only_magic", _Raw(gguf.MAGIC), ()


class _Raw(NamedTuple):
    """Bytes in the place of a document."""

    blob: bytes

    def to_bytes(self):
        return self.blob


def _entries(document):
    first, last = document.entries[0].key, document.entries[-1].key
    tokens = document.entry(b"tokenizer.ggml.tokens")
    n_tokens = _array_length(tokens)
    yield "key_length_huge", document.with_entry(first, key_length=HUGE), (str(HUGE),)
    n_file = len(document.to_bytes())
    yield "key_length_over_the_end", document.with_entry(last, key_length=n_file), (str(n_file),)
    yield "key_length_negative", document.with_entry(first, key_length=-1), ()
    yield "value_length_huge", document.with_entry(first, value=gguf.text(b"x", HUGE)), (first.decode(), str(HUGE))
    yield "value_length_negative", document.with_entry(first, value=gguf.text(b"x", -1)), (first.decode(),)
    for type_id in (UNKNOWN_VALUE_TYPE, 2**32 - 1):
        yield f"value_type_{type_id}", document.with_entry(last, type=type_id), (last.decode(), str(type_id))
        elements = document.with_entry(tokens.key, value=struct.pack("<I", type_id) + tokens.value[4:])
        yield f"element_type_{type_id}", elements, (tokens.key.decode(), str(type_id))
    nested = Entry(b"nested", ARRAY, struct.pack("<I", ARRAY) + int64(1) + gguf.array_bytes(U32, [1]))
    yield "array_of_arrays", replace(document, entries=(*document.entries, nested)), ("nested", "array")
    for name, length in (("huge", HUGE), ("max", 2**64 - 1), ("product_overflow", 2**62)):
        value = tokens.value[:4] + int64(length) + tokens.value[12:]
        yield f"array_length_{name}", document.with_entry(tokens.key, value=value), (tokens.key.decode(),)
    value = tokens.value[:4] + int64(n_tokens + 1) + tokens.value[12:]
    yield "array_length_one_more", document.with_entry(tokens.key, value=value), ()
    for entry in (document.entries[0], tokens, document.entries[-1]):
        doubled = replace(document, entries=(*document.entries, entry))
        yield f"duplicate_key_{entry.key.decode()}", doubled, (entry.key.decode(),)
    alignment = b"general.alignment"
    for number in (0, 3, 48):
        yield f"alignment_{number}", _added(document, alignment, U32, number), (alignment.decode(), str(number))
    yield "alignment_beyond_the_file", _added(document, alignment, U32, 2**31), ()
    yield "alignment_text", _added(document, alignment, STRING, "32"), (alignment.decode(),)


def _hyperparameters(document):
    arch = _architecture(document)
    yield "no_architecture", _without_entry(document, b"general.architecture"), ("general.architecture",)
    yield "unknown_architecture", _set(document, b"general.architecture", STRING, "abacus"), ("abacus",)
    yield "architecture_number", _set(document, b"general.architecture", U32, 7), ("general.architecture",)
    n_head = _number(document, f"{arch}.attention.head_count")
    embedding = document.tensor(b"token_embd.weight")
    numbers = {
        "block_count": (0, 2**31),
        "embedding_length": (0, 2**31),
        "feed_forward_length": (0, 2**31),
        "attention.head_count": (0, 7, 2**31),
        "attention.head_count_kv": (0, n_head + 1, 2 * n_head, 2**31),
        "rope.dimension_count": (63, 2**31),
        "vocab_size": (0, 1, 2**31),
        "context_length": (0,),
    }
    for name, values in numbers.items():
        key = f"{arch}.{name}"
        for value in values:
            # An enormous size is an error of its own, or of the first tensor that does not have it.
            expected = () if value == 2**31 else (name, str(value))
            if (name, value) == ("vocab_size", 1):  # possible by itself: the embedding is what contradicts it
                expected = ("token_embd.weight", str(embedding.dims[1]))
            yield f"{name}_{value}", _set(document, key.encode(), U32, value), expected
    for name in MISSING_NUMBERS:
        key = f"{arch}.{name}"
        yield f"no_{name}", _without_entry(document, key.encode()), (key,)
        yield f"{name}_text", _set(document, key.encode(), STRING, "3"), (key,)
        yield (
            f"{name}_array",
            document.with_entry(key.encode(), type=ARRAY, value=gguf.array_bytes(STRING, ["3"])),
            (key,),
        )
        yield f"{name}_float", _set(document, key.encode(), F32, 2.5), (key,)
        yield f"{name}_negative", _set(document, key.encode(), I32, -2), (key,)
    for name in ("attention.layer_norm_rms_epsilon", "rope.freq_base"):
        key = f"{arch}.{name}"
        for value in (float("nan"), float("inf"), -1.0):
            yield f"{name}_{value}", _set(document, key.encode(), F32, value), (key,)
        yield f"{name}_text", _set(document, key.encode(), STRING, "1"), (key,)
    yield "rope.freq_base_0", _set(document, f"{arch}.rope.freq_base".encode(), F32, 0.0), ("rope.freq_base",)


def _tokenizer(document):
    tokens, types = document.entry(b"tokenizer.ggml.tokens"), document.entry(b"tokenizer.ggml.token_type")
    n_tokens = _array_length(tokens)
    one_more = gguf.array_bytes(STRING, ["surplus"])[12:]
    longer = tokens.value[:4] + int64(n_tokens + 1) + tokens.value[12:] + one_more
    yield "one_token_more", document.with_entry(tokens.key, value=longer), ("token", str(n_tokens), str(n_tokens + 1))
    no_tokens = document.with_entry(tokens.key, value=gguf.array_bytes(STRING, []))
    yield "empty_tokens", no_tokens, (tokens.key.decode(), "0")
    yield "tokens_text", _set(document, tokens.key, STRING, "a b c"), (tokens.key.decode(),)
    yield (
        "tokens_numbers",
        document.with_entry(tokens.key, value=gguf.array_bytes(U32, range(n_tokens))),
        (tokens.key.decode(),),
    )
    shorter = document.with_entry(types.key, value=gguf.array_bytes(I32, [1] * (n_tokens - 1)))
    yield "one_token_type_less", shorter, (types.key.decode(), str(n_tokens - 1), str(n_tokens))
    merges = b"tokenizer.ggml.merges"
    yield "merges_numbers", document.with_entry(merges, value=gguf.array_bytes(I32, [1, 2])), (merges.decode(),)
    yield "merge_without_space", document.with_entry(merges, value=gguf.array_bytes(STRING, ["ab"])), (merges.decode(),)
    yield "unknown_model", _set(document, b"tokenizer.ggml.model", STRING, "runes"), None
    for role in ("bos", "eos"):
        key = f"tokenizer.ggml.{role}_token_id"
        for token in (n_tokens, 2**31):
            yield f"{role}_{token}", _set(document, key.encode(), U32, token), (key, str(token))
        yield f"{role}_text", _set(document, key.encode(), STRING, "<s>"), (key,)
    yield "add_bos_text", _set(document, b"tokenizer.ggml.add_bos_token", STRING, "yes"), ("add_bos_token",)


def _tensor_infos(document):
    ternary = _ternary(document)
    first, second, last = ternary[0], ternary[1], ternary[-1]
    name = first.name.decode()

    def changed(**changes):
        return document.with_tensor(first.name, **changes)

    yield "duplicate", document.with_tensor(second.name, name=first.name), (name,)
    for length in (NAME_BYTES_MAX + 1, 1000):
        yield f"name_{length}_bytes", changed(name=b"n" * length), (str(length), str(NAME_BYTES_MAX))
    yield "name_length_huge", changed(name_length=HUGE), (str(HUGE),)
    yield "n_dims_0", changed(dims=()), (name,)
    yield "n_dims_5", changed(dims=(*first.dims, 1, 1, 1)), (name, "5")
    yield "n_dims_huge", changed(n_dims=2**32 - 1), (name, str(2**32 - 1))
    for n in (0, -1, -(2**63)):
        yield f"ne0_{n}", changed(dims=(n, first.dims[1])), (name, str(n))
        yield f"ne1_{n}", changed(dims=(first.dims[0], n)), (name, str(n))
    yield "product_overflow", changed(dims=(2**32, 2**32)), (name,)
    inverse = pow(7, -1, 2**64)  # below 2^63
    yield "product_wraps_to_the_true_size", changed(dims=(*first.dims, 7, inverse)), (name,)
    yield "byte_size_overflow", document.with_tensor(b"token_embd.weight", dims=(2**31, 2**31)), ("token_embd.weight",)
    for n in (1, 100, first.dims[0] + 1):
        yield f"ne0_{n}_no_block_multiple", changed(dims=(n, first.dims[1])), (name, str(n))
    yield "offset_unaligned", changed(offset=first.offset + 1), (name, str(first.offset + 1))
    overlapping = second.offset + gguf.ALIGNMENT
    yield "overlap_inside", changed(offset=overlapping), (name,)
    yield "overlap_same_offset", document.with_tensor(last.name, offset=second.offset), ()
    end = len(document.data) // gguf.ALIGNMENT * gguf.ALIGNMENT
    offsets = {"across_the_end": end - 32, "beyond_the_end": end + 32, "huge": HUGE, "max": 2**64 - 32}
    for where, offset in offsets.items():
        yield f"offset_{where}", document.with_tensor(last.name, offset=offset), (last.name.decode(),)
    yield f"type_{UNKNOWN_TENSOR_TYPE}", changed(type=UNKNOWN_TENSOR_TYPE), (name, str(UNKNOWN_TENSOR_TYPE))
    yield "type_max", changed(type=2**32 - 1), (name,)
    for type_id, label in TENSOR_TYPES_PER_KERNEL.items():
        yield f"type_{type_id}", changed(type=type_id), (name, label)
    yield "ternary_norm", document.with_tensor(b"output_norm.weight", type=TENSOR_I2_S), ("output_norm.weight",)


def _shapes(document):
    for tensor in document.tensors:
        without = replace(document, tensors=tuple(t for t in document.tensors if t is not tensor))
        if tensor.name.startswith(b"blk.0.") or not tensor.name.startswith(b"blk."):
            yield f"no_{tensor.name.decode()}", without, None if _may_be_absent(tensor) else (tensor.name.decode(),)
    for tensor in document.tensors:
        if tensor.name.startswith(b"blk.0.") and tensor.dims[0] > 128:
            wrong = (tensor.dims[0] - 128, *tensor.dims[1:])
            yield (
                f"narrow_{tensor.name.decode()}",
                document.with_tensor(tensor.name, dims=wrong),
                (tensor.name.decode(), str(wrong[0])),
            )
    for tensor in _ternary(document):
        if tensor.name.startswith(b"blk.0.") and tensor.dims[0] != tensor.dims[1]:
            turned = document.with_tensor(tensor.name, dims=tensor.dims[::-1])
            yield f"transposed_{tensor.name.decode()}", turned, (tensor.name.decode(),)
    embedding = document.tensor(b"token_embd.weight")
    one_row_less = document.with_tensor(embedding.name, dims=(embedding.dims[0], embedding.dims[1] - 1))
    yield "embedding_one_row_less", one_row_less, (embedding.name.decode(), str(embedding.dims[1] - 1))
    stranger = document.with_tensor(b"output_norm.weight", name=b"output_norm.wieght")
    yield "misspelt", stranger, ("output_norm",)


def _contents(document):
    for tensor in (_ternary(document)[0], _ternary(document)[-1]):
        name, n_weight_bytes = tensor.name.decode(), tensor.dims[0] * tensor.dims[1] // 4
        for where, byte in (("first", 0), ("last", n_weight_bytes - 1)):
            yield f"code_3_{where}_{name}", _patched(document, tensor.offset + byte, b"\xff"), (name, "3")
        for value in (float("nan"), float("inf"), float("-inf")):
            scale = _patched(document, tensor.offset + n_weight_bytes, struct.pack("<f", value))
            yield f"scale_{value}_{name}", scale, (name, "scale")


def _truncations(blob, document):
    """Cuts spread over the header and over the data."""
    n_header = len(document.header_bytes())
    for i in range(HEADER_CUTS):
        size = 1 + i * (n_header - 1) // HEADER_CUTS
        yield Damage(f"truncations/header_{size}", blob[:size], ())
    n_data = len(document.data)
    for i in range(DATA_CUTS):
        size = i * n_data // DATA_CUTS if i < DATA_CUTS - 1 else n_data - 1
        # Tensors lie in the order of their infos, so this is the first that a reader misses.
        missed = next((t.name.decode() for t in reversed(document.tensors) if t.offset <= size), None)
        yield Damage(f"truncations/data_{size}", blob[: n_header + size], (missed,))


def _bit_flips(blob, document, seed):
    """Single flipped bits: half of them in the header, where most of the meaning is."""
    rng = random.Random(seed)
    n_header = len(document.header_bytes())
    for i in range(BIT_FLIPS):
        position = rng.randrange(n_header) if i % 2 == 0 else rng.randrange(len(blob))
        bit = rng.randrange(8)
        damaged = bytearray(blob)
        damaged[position] ^= 1 << bit
        yield Damage(f"bit_flips/{i}_byte_{position}_bit_{bit}", bytes(damaged), None)


# Edits


def _set(document, key, type_id, value):
    return document.with_entry(key, type=type_id, value=value_bytes(type_id, value))


def _added(document, key, type_id, value):
    return replace(document, entries=(*document.entries, Entry(key, type_id, value_bytes(type_id, value))))


def _without_entry(document, key):
    return replace(document, entries=tuple(entry for entry in document.entries if entry.key != key))


def _patched(document, offset, new_bytes):
    return replace(document, data=document.data[:offset] + new_bytes + document.data[offset + len(new_bytes) :])


def _architecture(document):
    return document.entry(b"general.architecture").value[8:].decode()


def _number(document, key):
    return struct.unpack("<I", document.entry(key.encode()).value)[0]


def _array_length(entry):
    return struct.unpack("<Q", entry.value[4:12])[0]


def _may_be_absent(tensor):
    """Without a head of its own a model is tied, which is another valid file."""
    return tensor.name == b"output.weight"


def _ternary(document):
    return [tensor for tensor in document.tensors if tensor.type == TENSOR_I2_S]


def main(path, folder=None):
    """List the damages, and write each to `folder` where one is given."""
    for number, damage in enumerate(damaged_files(Path(path).read_bytes())):
        print(number, damage.name, "may load" if damage.expected is None else f"must fail: {' '.join(damage.expected)}")
        if folder is not None:
            Path(folder, f"{number:03d}.gguf").write_bytes(damage.data)


if __name__ == "__main__":
    main(*sys.argv[1:])
