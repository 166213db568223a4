#!/usr/bin/env python3
"""Writes small random BitNet b1.58 models as GGUF: python3 make_gguf.py out.gguf --n-layer 2 --seed 3

Weights are uniform in {-1, 0, 1} with one random scale for each tensor. Every tensor has its own random stream, made of
the seed and its name, so an option that changes one tensor leaves the others as they are.
"""

import argparse
import dataclasses
import struct
import zlib

import numpy as np

import gguf_document as gguf
from gguf_document import Document, Entry, TensorInfo

TENSOR_F32, TENSOR_F16, TENSOR_BF16, TENSOR_I2_S = 0, 1, 30, 36  # ggml type ids
FLOAT_TYPES = {"F32": TENSOR_F32, "F16": TENSOR_F16, "BF16": TENSOR_BF16}

I2_S_BLOCK = 128
FILE_TYPE_I2_S = 40
TOKEN_NORMAL, TOKEN_CONTROL = 1, 3
SPECIALS = ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")
COMMON_MERGES = ("Ġ t", "h e", "i n", "e r", "Ġt he", "a n", "Ġ a", "r e", "o n", "Ġ w", "l l", "o r", "e ll", "Ġ H")
PIECE_CHARS_MAX = 8  # longer tokens exist but are not merged further

EMBEDDING_STD = 0.1  # gives logits of a size that sampling can tell apart
OUTLIER_CHANNELS = 3  # of each norm
OUTLIER_FACTOR = 24.0
DEAD_CHANNEL = 1e-32  # trained sub-norms have some of this size


@dataclasses.dataclass(frozen=True)
class Spec:
    n_layer: int = 2
    n_embd: int = 256
    n_ff: int = 384
    n_head: int = 4
    n_kv: int = 2
    head_dim: int | None = None  # None: n_embd / n_head
    vocab: int = 320  # 32002 makes readers assume SiLU, other sizes squared ReLU
    seed: int = 0
    embd_type: str = "F16"  # of the embedding and of a dedicated head
    dedicated_head: bool = False
    transposed_embd: bool = False  # stored [n_embd, vocab] in place of [vocab, n_embd]
    sub_norms: bool = True
    arch: str = "bitnet-b1.58"
    n_ctx: int = 512
    eps: float = 1e-5
    theta: float = 500000.0

    def __post_init__(self):
        if self.head_dim is None:
            object.__setattr__(self, "head_dim", self.n_embd // self.n_head)
        for name in ("n_embd", "n_ff", "n_attn"):
            if getattr(self, name) % I2_S_BLOCK:
                raise ValueError(
                    f"{name} = {getattr(self, name)} is not a multiple of {I2_S_BLOCK}, as I2_S rows must be"
                )
        if self.n_head % self.n_kv:
            raise ValueError(f"n_head = {self.n_head} is not a multiple of n_kv = {self.n_kv}")
        if self.vocab < 256 + len(SPECIALS):
            raise ValueError(f"vocab = {self.vocab} leaves no room for 256 bytes and {len(SPECIALS)} specials")

    @property
    def n_attn(self):
        return self.n_head * self.head_dim


def model_document(spec):
    """The whole file as a document."""
    entries = [*_general_entries(spec), *_hyperparameter_entries(spec), *_tokenizer_entries(spec)]
    tensors, parts, offset = [], [], 0
    for name, dims, type_id, blob in _tensors(spec):
        blob += bytes(-len(blob) % gguf.ALIGNMENT)
        tensors.append(TensorInfo(name.encode(), dims, type_id, offset))
        parts.append(blob)
        offset += len(blob)
    return Document(tuple(entries), tuple(tensors), b"".join(parts))


# Keys


def _entry(key, type_id, value):
    return Entry(key.encode(), type_id, gguf.value_bytes(type_id, value))


def _array(key, element_type, values):
    return Entry(key.encode(), gguf.ARRAY, gguf.array_bytes(element_type, values))


def _general_entries(spec):
    yield _entry("general.architecture", gguf.STRING, spec.arch)
    yield _entry("general.name", gguf.STRING, f"random-{spec.seed}")
    yield _entry("general.file_type", gguf.U32, FILE_TYPE_I2_S)
    yield _entry("general.quantization_version", gguf.U32, 2)


def _hyperparameter_entries(spec):
    numbers = {
        "vocab_size": spec.vocab,
        "context_length": spec.n_ctx,
        "embedding_length": spec.n_embd,
        "block_count": spec.n_layer,
        "feed_forward_length": spec.n_ff,
        "rope.dimension_count": spec.head_dim,
        "attention.head_count": spec.n_head,
        "attention.head_count_kv": spec.n_kv,
    }
    if spec.n_attn != spec.n_embd:
        numbers["attention.key_length"] = numbers["attention.value_length"] = spec.head_dim
    for name, value in numbers.items():
        yield _entry(f"{spec.arch}.{name}", gguf.U32, value)
    yield _entry(f"{spec.arch}.attention.layer_norm_rms_epsilon", gguf.F32, spec.eps)
    yield _entry(f"{spec.arch}.rope.freq_base", gguf.F32, spec.theta)


def _tokenizer_entries(spec):
    merges = _merges(spec)
    tokens = [*_byte_tokens(), *(merge.replace(" ", "") for merge in merges), *SPECIALS]
    first_special = len(tokens) - len(SPECIALS)
    types = [TOKEN_NORMAL] * first_special + [TOKEN_CONTROL] * len(SPECIALS)
    yield _entry("tokenizer.ggml.model", gguf.STRING, "gpt2")
    yield _entry("tokenizer.ggml.pre", gguf.STRING, "llama-bpe")
    yield _array("tokenizer.ggml.tokens", gguf.STRING, tokens)
    yield _array("tokenizer.ggml.token_type", gguf.I32, types)
    yield _array("tokenizer.ggml.merges", gguf.STRING, merges)
    for offset, role in enumerate(("bos", "eos", "eot")):
        yield _entry(f"tokenizer.ggml.{role}_token_id", gguf.U32, first_special + offset)
    yield _entry("tokenizer.ggml.add_bos_token", gguf.BOOL, True)


def _byte_tokens():
    """GPT-2's 256 byte tokens in id order: printable bytes as themselves, then the rest as U+0100 and up."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]


def _merges(spec):
    """As many merges as the vocabulary has room for: common ones, then random ones of letters."""
    room = spec.vocab - 256 - len(SPECIALS)
    merges = list(COMMON_MERGES[:room])
    rng = _stream(spec, "merges")
    pieces = [chr(c) for c in range(ord("a"), ord("z") + 1)] + [merge.replace(" ", "") for merge in merges]
    taken = set(pieces)
    while len(merges) < room:
        left, right = (pieces[i] for i in rng.integers(len(pieces), size=2))
        merged = left + right
        if merged in taken or "Ġ" in right:
            continue
        merges.append(f"{left} {right}")
        taken.add(merged)
        if len(merged) <= PIECE_CHARS_MAX:
            pieces.append(merged)
    return merges


# Tensors


def _stream(spec, name):
    return np.random.default_rng([spec.seed, zlib.crc32(name.encode())])


def _tensors(spec):
    """(name, dims with ne[0] first, type id, bytes) in the order of the official file."""
    yield _table(spec, "token_embd.weight", spec.transposed_embd)
    for layer in range(spec.n_layer):
        yield from _block_tensors(spec, f"blk.{layer}")
    yield _norm(spec, "output_norm.weight", spec.n_embd, 0.5, 3.0)
    if spec.dedicated_head:
        yield _table(spec, "output.weight")


def _block_tensors(spec, block):
    n_kv_rows = spec.n_kv * spec.head_dim
    yield _norm(spec, f"{block}.attn_norm.weight", spec.n_embd, 0.008, 0.04)  # small, as in the trained model
    yield _ternary(spec, f"{block}.attn_q.weight", spec.n_embd, spec.n_attn)
    yield _ternary(spec, f"{block}.attn_k.weight", spec.n_embd, n_kv_rows)
    yield _ternary(spec, f"{block}.attn_v.weight", spec.n_embd, n_kv_rows)
    if spec.sub_norms:
        yield _norm(spec, f"{block}.attn_sub_norm.weight", spec.n_attn, 0.1, 3.0, dead=True)
    yield _ternary(spec, f"{block}.attn_output.weight", spec.n_attn, spec.n_embd)
    yield _norm(spec, f"{block}.ffn_norm.weight", spec.n_embd, 0.5, 2.0)
    yield _ternary(spec, f"{block}.ffn_gate.weight", spec.n_embd, spec.n_ff)
    yield _ternary(spec, f"{block}.ffn_up.weight", spec.n_embd, spec.n_ff)
    if spec.sub_norms:
        yield _norm(spec, f"{block}.ffn_sub_norm.weight", spec.n_ff, 0.1, 3.0, dead=True)
    yield _ternary(spec, f"{block}.ffn_down.weight", spec.n_ff, spec.n_embd)


def _table(spec, name, transposed=False):
    """An embedding or head, normally distributed."""
    values = np.float32(EMBEDDING_STD) * _stream(spec, name).standard_normal(
        (spec.vocab, spec.n_embd), dtype=np.float32
    )
    if transposed:
        values = np.ascontiguousarray(values.T)
    return name, values.shape[::-1], FLOAT_TYPES[spec.embd_type], float_bytes(values, spec.embd_type)


def _norm(spec, name, width, low, high, dead=False):
    """Log-uniform weights with a few outliers; `dead` adds one channel that is next to zero."""
    rng = _stream(spec, name)
    weights = np.exp(rng.uniform(np.log(low), np.log(high), width))
    channels = rng.choice(width, OUTLIER_CHANNELS + 1, replace=False)
    weights[channels[:OUTLIER_CHANNELS]] *= OUTLIER_FACTOR
    if dead:
        weights[channels[-1]] = DEAD_CHANNEL
    return name, (width,), TENSOR_F32, float_bytes(weights.astype(np.float32), "F32")


def _ternary(spec, name, n_in, n_out):
    rng = _stream(spec, name)
    weights = rng.integers(-1, 2, n_in * n_out, dtype=np.int8)
    scale = np.float32(np.exp(rng.uniform(np.log(0.5), np.log(2.0))))
    return name, (n_in, n_out), TENSOR_I2_S, pack_i2_s(weights, scale)


def float_bytes(values, type_name):
    """float32 values in the given type, rounded to nearest even."""
    if type_name == "BF16":
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
    return values.astype({"F32": "<f4", "F16": "<f2"}[type_name]).tobytes()


def pack_i2_s(weights, scale):
    """weights [n] in {-1, 0, 1} -> n/4 bytes, then the scale and 28 zero bytes.

    Of each 128 elements, byte p holds elements p, p+32, p+64, p+96, the first in the highest two bits.
    """
    quarters = (weights.reshape(-1, 4, I2_S_BLOCK // 4) + 1).astype(np.uint8)
    packed = quarters[:, 0] << 6 | quarters[:, 1] << 4 | quarters[:, 2] << 2 | quarters[:, 3]
    return packed.tobytes() + struct.pack("<f28x", scale)


def write_model(path, **options):
    """Write a random model; `options` are the fields of Spec. Returns the path."""
    with open(path, "wb") as out:
        out.write(model_document(Spec(**options)).to_bytes())
    return path


def _parse_arguments():
    parser = argparse.ArgumentParser(description="Write a small random BitNet b1.58 model as GGUF.")
    parser.add_argument("path")
    for field in dataclasses.fields(Spec):
        flag = "--" + field.name.replace("_", "-")
        if isinstance(field.default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=field.default)
        else:
            kind = int if field.default is None else type(field.default)
            choices = FLOAT_TYPES if field.name == "embd_type" else None
            parser.add_argument(flag, type=kind, default=field.default, choices=choices)
    return vars(parser.parse_args())


if __name__ == "__main__":
    arguments = _parse_arguments()
    write_model(arguments.pop("path"), **arguments)
