#!/usr/bin/env python3
"""Writing and reading the demo model's GGUF file; `--self-test` checks the I2_S packing."""
import argparse
import struct

import numpy as np

from corpus import BOS, EOS, EOT, SPECIALS

U32, I32, F32, BOOL, STR, ARRAY = 4, 5, 6, 7, 8, 9
FORMATS = {U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}
TYPE_F32, TYPE_F16, TYPE_I2_S = 0, 1, 36
DTYPES = {TYPE_F32: np.dtype("<f4"), TYPE_F16: np.dtype("<f2")}
FILE_TYPE_I2_S = 40
NORMAL_TOKEN, CONTROL_TOKEN = 1, 3
ALIGNMENT = 32
TAIL_SIZE = 32
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize + ': ' + message['content'] "
    "| trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}")


def pack_i2s(codes, scale):
    """codes: -1, 0, +1, a multiple of 128 of them; byte p of 32 holds p, p+32, p+64, p+96."""
    groups = (codes.astype(np.int8).reshape(-1, 4, 32) + 1).astype(np.uint8)
    packed = groups[:, 0] << 6 | groups[:, 1] << 4 | groups[:, 2] << 2 | groups[:, 3]
    return packed.tobytes() + struct.pack("<f", scale).ljust(TAIL_SIZE, b"\0")


def unpack_i2s(data, shape):
    count = shape[0] * shape[1]
    packed = np.frombuffer(data, np.uint8, count // 4).reshape(-1, 1, 32)
    groups = packed >> np.array([6, 4, 2, 0], np.uint8)[:, None] & 3
    scale, = struct.unpack_from("<f", data, count // 4)
    return (groups.astype(np.int8) - 1).reshape(shape), scale


def pack_string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def pack_value(kind, value):
    if kind == STR:
        return pack_string(value)
    return struct.pack(FORMATS[kind], value)


def pack_key(key, kind, value):
    head = pack_string(key)
    if not isinstance(value, list):
        return head + struct.pack("<I", kind) + pack_value(kind, value)
    head += struct.pack("<IIQ", ARRAY, kind, len(value))
    return head + b"".join(pack_value(kind, item) for item in value)


def metadata(config, tokenizer, name):
    """The keys of Microsoft's BitNet b1.58 2B-4T file in its order, then two that it lacks."""
    arch = "bitnet-b1.58"
    types = [CONTROL_TOKEN if token in SPECIALS else NORMAL_TOKEN for token in tokenizer.tokens]
    return [
        ("general.architecture", STR, arch),
        ("general.name", STR, name),
        (f"{arch}.vocab_size", U32, config.vocab_size),
        (f"{arch}.context_length", U32, config.context_length),
        (f"{arch}.embedding_length", U32, config.n_embd),
        (f"{arch}.block_count", U32, config.n_layer),
        (f"{arch}.feed_forward_length", U32, config.n_ff),
        (f"{arch}.rope.dimension_count", U32, config.head_dim),
        (f"{arch}.attention.head_count", U32, config.n_head),
        (f"{arch}.attention.head_count_kv", U32, config.n_head_kv),
        ("tokenizer.ggml.add_bos_token", BOOL, True),
        (f"{arch}.attention.layer_norm_rms_epsilon", F32, config.rms_eps),
        (f"{arch}.rope.freq_base", F32, config.rope_theta),
        ("general.file_type", U32, FILE_TYPE_I2_S),
        ("tokenizer.ggml.model", STR, "gpt2"),
        ("tokenizer.ggml.tokens", STR, tokenizer.tokens),
        ("tokenizer.ggml.scores", F32, [0.0] * len(tokenizer.tokens)),
        ("tokenizer.ggml.token_type", I32, types),
        ("tokenizer.ggml.merges", STR, [" ".join(pair) for pair in tokenizer.merges]),
        ("tokenizer.ggml.bos_token_id", U32, tokenizer.ids[BOS]),
        ("tokenizer.ggml.eos_token_id", U32, tokenizer.ids[EOS]),
        ("tokenizer.ggml.padding_token_id", U32, tokenizer.ids[EOS]),
        ("tokenizer.chat_template", STR, CHAT_TEMPLATE),
        ("general.quantization_version", U32, 2),
        ("tokenizer.ggml.pre", STR, "llama-bpe"),
        ("tokenizer.ggml.eot_token_id", U32, tokenizer.ids[EOT]),
    ]


def padded(data):
    return data + bytes(-len(data) % ALIGNMENT)


def write_gguf(path, keys, tensors):
    """tensors: (name, type, shape with the rows first, bytes)."""
    head = b"GGUF" + struct.pack("<Iqq", 3, len(tensors), len(keys))
    head += b"".join(pack_key(*key) for key in keys)
    offset = 0
    for name, kind, shape, data in tensors:
        head += pack_string(name) + struct.pack("<I", len(shape))
        head += struct.pack(f"<{len(shape)}q", *reversed(shape))
        head += struct.pack("<IQ", kind, offset)
        offset += len(padded(data))
    with open(path, "wb") as file:
        file.write(padded(head))
        for *_, data in tensors:
            file.write(padded(data))


class Reader:
    def __init__(self, path):
        with open(path, "rb") as file:
            self.data = file.read()
        self.at = 0

    def take(self, layout):
        values = struct.unpack_from(layout, self.data, self.at)
        self.at += struct.calcsize(layout)
        return values if len(values) > 1 else values[0]

    def string(self):
        size = self.take("<Q")
        self.at += size
        return self.data[self.at - size:self.at].decode()

    def value(self, kind):
        if kind == STR:
            return self.string()
        if kind == ARRAY:
            item, count = self.take("<IQ")
            return [self.value(item) for _ in range(count)]
        return self.take(FORMATS[kind])

    def tensor_info(self):
        name = self.string()
        shape = tuple(self.take("<q") for _ in range(self.take("<I")))
        return name, shape[::-1], *self.take("<IQ")


def read_gguf(path):
    """(keys, tensors); a ternary tensor is (codes, scale)."""
    reader = Reader(path)
    _, _, tensor_count, key_count = reader.take("<4sIqq")
    keys = {reader.string(): reader.value(reader.take("<I")) for _ in range(key_count)}
    infos = [reader.tensor_info() for _ in range(tensor_count)]
    base = reader.at + -reader.at % ALIGNMENT
    tensors = {}
    for name, shape, kind, offset in infos:
        data = memoryview(reader.data)[base + offset:]
        if kind == TYPE_I2_S:
            tensors[name] = unpack_i2s(data, shape)
        else:
            tensors[name] = np.frombuffer(data, DTYPES[kind], int(np.prod(shape))).reshape(shape)
    return keys, tensors


def self_test():
    r, c = np.mgrid[:4, :256]
    codes = (7 * r + c * c + 3 * c + c // 5) % 3 - 1
    data = pack_i2s(codes, 1.25)
    assert len(data) == 288
    assert data[:16].hex() == "154a562958a462908840210184051215"
    assert data[256:] == bytes.fromhex("0000a03f") + bytes(28)
    unpacked, scale = unpack_i2s(data, codes.shape)
    assert (unpacked == codes).all() and scale == 1.25
    print("I2_S packing: ok")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--self-test", action="store_true", required=True)
    parser.parse_args()
    self_test()
