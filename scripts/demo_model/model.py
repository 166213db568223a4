"""BitNet b1.58 forward pass for training (straight-through) and for evaluating exported weights.

Parameters are a dict by GGUF tensor name. A linear is an f32 master tensor while training and a
Ternary pair when read from the file; both give the arithmetic ((q . codes) / s) * scale."""
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Config:
    vocab_size: int
    n_layer: int = 4
    n_embd: int = 256
    n_ff: int = 512
    n_head: int = 4
    n_head_kv: int = 2
    context_length: int = 256
    rms_eps: float = 1e-5
    rope_theta: float = 500000.0

    @property
    def head_dim(self):
        return self.n_embd // self.n_head


class Ternary(NamedTuple):
    codes: torch.Tensor  # (n_out, n_in), values -1, 0, +1 as f32
    scale: torch.Tensor  # multiplies


def linear_shapes(config):
    kv = config.n_head_kv * config.head_dim
    d, ff = config.n_embd, config.n_ff
    return {"attn_q": (d, d), "attn_k": (kv, d), "attn_v": (kv, d), "attn_output": (d, d),
            "ffn_gate": (ff, d), "ffn_up": (ff, d), "ffn_down": (d, ff)}


def norm_sizes(config):
    return {"attn_norm": config.n_embd, "attn_sub_norm": config.n_embd,
            "ffn_norm": config.n_embd, "ffn_sub_norm": config.n_ff}


def init_params(config):
    params = {"token_embd.weight": torch.randn(config.vocab_size, config.n_embd) * 0.05,
              "output_norm.weight": torch.ones(config.n_embd)}
    for layer in range(config.n_layer):
        for name, (n_out, n_in) in linear_shapes(config).items():
            params[f"blk.{layer}.{name}.weight"] = torch.randn(n_out, n_in) / math.sqrt(n_in)
        for name, size in norm_sizes(config).items():
            params[f"blk.{layer}.{name}.weight"] = torch.ones(size)
    return {name: tensor.requires_grad_() for name, tensor in params.items()}


def ternarise(weight):
    scale = weight.abs().mean().clamp(min=1e-5)
    return Ternary((weight / scale).round_().clamp_(-1, 1), scale)


def quantise_rows(x):
    s = 127.0 / x.abs().amax(-1, keepdim=True).clamp(min=1e-5)
    return (x * s).round_().clamp_(-127, 127), s


def ternary_linear(q, s, ternaries):
    """All linears that share one quantised input, as one product."""
    codes = torch.cat([t.codes for t in ternaries])
    scales = torch.cat([t.scale.expand(len(t.codes)) for t in ternaries])
    return (q @ codes.T).div_(s).mul_(scales), codes, scales


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, *masters):
        q, s = quantise_rows(x)
        y, codes, scales = ternary_linear(q, s, [ternarise(w) for w in masters])
        ctx.save_for_backward(q, s, codes, scales)
        ctx.rows = [len(w) for w in masters]
        return y

    @staticmethod
    def backward(ctx, grad):
        q, s, codes, scales = ctx.saved_tensors
        grad_masters = grad.flatten(0, -2).T @ (q / s).flatten(0, -2)
        return (grad * scales) @ codes, *grad_masters.split(ctx.rows)


def linear(x, *weights):
    if isinstance(weights[0], Ternary):
        return ternary_linear(*quantise_rows(x), weights)[0]
    return StraightThrough.apply(x, *weights)


class RoundF16(torch.autograd.Function):
    """The file holds the embedding as F16; training sees the rounded values."""
    @staticmethod
    def forward(ctx, weight):
        return weight.half().float()

    @staticmethod
    def backward(ctx, grad):
        return grad


class RmsNorm(torch.autograd.Function):
    """Written out because autograd's chain of small operations takes twice the time."""
    @staticmethod
    def forward(ctx, x, weight, eps):
        root = torch.sqrt((x * x).mean(-1, keepdim=True) + eps)
        unit = x / root
        ctx.save_for_backward(unit, root, weight)
        return unit * weight

    @staticmethod
    def backward(ctx, grad):
        unit, root, weight = ctx.saved_tensors
        product = grad * unit
        grad_weight = product.flatten(0, -2).sum(0)
        along = product.mul_(weight).mean(-1, keepdim=True)
        return (grad * weight).sub_(unit * along).div_(root), grad_weight, None


def rope_tables(config, length):
    half = config.head_dim // 2
    freq = config.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * freq
    return angle.cos().float(), angle.sin().float()


def rope(x, tables):
    cos, sin = tables
    a, b = x.chunk(2, -1)  # NEOX pairs (i, i + head_dim / 2)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def attention(config, qkv, bias, tables):
    rows, length, _ = qkv.shape
    kv, dim = config.n_head_kv, config.head_dim
    heads = qkv.view(rows, length, -1, dim).transpose(1, 2)
    q, k, v = heads.split((config.n_head, kv, kv), 1)
    # kv head g serves query heads g*r .. g*r + r-1: they become extra rows of one product
    q = (rope(q, tables) / math.sqrt(dim)).reshape(rows, kv, -1, dim)
    scores = (q @ rope(k, tables).transpose(2, 3)).view(rows, config.n_head, length, length)
    weights = F.softmax(scores + bias, -1).view(rows, kv, -1, length)
    out = (weights @ v).view(rows, config.n_head, length, dim)
    return out.transpose(1, 2).reshape(rows, length, -1)


def forward(config, params, tokens, documents):
    """Logits; a position sees earlier positions with its own document number only."""
    length = tokens.shape[1]
    tables = rope_tables(config, length)
    visible = (documents[:, :, None] == documents[:, None, :]).tril()
    bias = torch.zeros(visible.shape).masked_fill(~visible, -math.inf)[:, None]
    embedding = RoundF16.apply(params["token_embd.weight"])
    h = F.embedding(tokens, embedding)
    for layer in range(config.n_layer):
        def w(name):
            return params[f"blk.{layer}.{name}.weight"]

        def norm(x, name):
            return RmsNorm.apply(x, w(name), config.rms_eps)

        qkv = linear(norm(h, "attn_norm"), w("attn_q"), w("attn_k"), w("attn_v"))
        o = attention(config, qkv, bias, tables)
        h = h + linear(norm(o, "attn_sub_norm"), w("attn_output"))
        gate, up = linear(norm(h, "ffn_norm"), w("ffn_gate"), w("ffn_up")).chunk(2, -1)
        gate = gate.relu()
        h = h + linear(norm(gate * gate * up, "ffn_sub_norm"), w("ffn_down"))
    return RmsNorm.apply(h, params["output_norm.weight"], config.rms_eps) @ embedding.T
