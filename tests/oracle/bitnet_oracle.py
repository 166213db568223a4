"""An independent forward pass of BitNet b1.58 models in numpy.

It is written from the published formulas and shares nothing with the engine that it judges:

    h = embed[token]
    per layer: a = RMSNorm(h; attn_norm); q, k, v = BitLinear(a); q, k = RoPE(q, k)
               o = softmax(q k^T / sqrt(head_dim) + causal) v
               h = h + BitLinear(RMSNorm(o; attn_sub_norm); Wo)
               b = RMSNorm(h; ffn_norm); m = act(BitLinear(b; Wgate)) * BitLinear(b; Wup)
               h = h + BitLinear(RMSNorm(m; ffn_sub_norm); Wdown)
    logits = E . RMSNorm(h; output_norm)

Each stage is computed by one function from its recorded inputs. The free-running pass is nothing but
those functions in order, so a comparison with forced inputs judges the same code.

Arrays have one row per token. float64 gives the value to measure against; in float32 the quantiser and the
ternary linears follow the f32 rule operation by operation, so their results are the exact bits.
"""

import dataclasses
from typing import ClassVar

import numpy as np

from gguf_file import GGUFFile

QUANT_MAX = 127  # int8 activation codes are symmetric
QUANT_ABSMAX_MIN = 1e-5  # keeps the scale finite for a row of zeros
HEAD_ROWS = 8192  # vocabulary rows converted at once: bounds the memory of a large head

# Stage -> the stages it is computed from. "layer_in" is the previous block's layer_out, or the embeddings.
# With sub-norms off, their consumers read the sub-norm's own input.
LAYER_STAGES = {
    "attn_norm": ("layer_in",),
    "q_proj": ("attn_norm",),
    "k_proj": ("attn_norm",),
    "v_proj": ("attn_norm",),
    "q_rope": ("q_proj",),
    "k_rope": ("k_proj",),
    "attn_scores": ("q_rope", "k_rope"),
    "attn_scores_softmax": ("q_rope", "k_rope"),
    "attn_context": ("q_rope", "k_rope", "v_proj"),
    "attn_sub_norm": ("attn_context",),
    "attn_out": ("attn_sub_norm",),
    "attn_residual": ("layer_in", "attn_out"),
    "ffn_norm": ("attn_residual",),
    "ffn_gate": ("ffn_norm",),
    "ffn_up": ("ffn_norm",),
    "ffn_act": ("ffn_gate", "ffn_up"),
    "ffn_sub_norm": ("ffn_act",),
    "ffn_out": ("ffn_sub_norm",),
    "layer_out": ("attn_residual", "ffn_out"),
}
SUB_NORMS = {"attn_sub_norm": "attn_context", "ffn_sub_norm": "ffn_act"}  # -> what they normalise

LINEAR_TENSORS = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "attn_out": "attn_output",
    "ffn_gate": "ffn_gate",
    "ffn_up": "ffn_up",
    "ffn_out": "ffn_down",
}


@dataclasses.dataclass(frozen=True)
class Semantics:
    """What a file does not say, or says and an experiment wants otherwise."""

    activation: str = "relu2"  # relu2 | silu | gelu | relu
    eps: float = 1e-5
    rope: str = "neox"  # neox: pairs (i, i + d/2) | norm: pairs (2i, 2i + 1)
    theta: float = 10000.0
    sub_norms: bool = True
    kv: str = "f32"  # f32 | f16: rounding of the K and V rows that attention reads
    act_quant: str = "int8"  # int8 | none: the linear's input as it is
    scale: str = "multiply"  # multiply | divide: what the weight scale does to the output
    head: str = "tied"  # tied | dedicated
    # ggml may round the other operand of a product with an f16 tensor to f16 as well; which one depends on its kernel.
    f16_q: bool = False  # q of q k^T
    f16_probabilities: bool = False  # the softmax output
    f16_head_input: bool = False  # the final norm, where the head is f16

    CHOICES: ClassVar = {
        "activation": ("relu2", "silu", "gelu", "relu"),
        "rope": ("neox", "norm"),
        "kv": ("f32", "f16"),
        "act_quant": ("int8", "none"),
        "scale": ("multiply", "divide"),
        "head": ("tied", "dedicated"),
    }

    def __post_init__(self):
        for name, choices in self.CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"semantics: {name}={getattr(self, name)!r} is not one of {', '.join(choices)}")

    def with_text(self, text):
        """Overrides written as in "activation=silu,eps=1e-6"."""
        types = {field.name: field.type for field in dataclasses.fields(self)}
        changes = {}
        for item in filter(None, text.split(",")):
            name, _, value = item.partition("=")
            if name not in types:
                raise ValueError(f"semantics: unknown name {name!r}")
            changes[name] = value in ("1", "on", "true") if types[name] is bool else types[name](value)
        return dataclasses.replace(self, **changes)


def rms_norm(x, weight, eps):
    """x / sqrt(mean(x^2) + eps) * weight; x [n, width], weight [width]."""
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + x.dtype.type(eps)) * weight


def activation_scale(x):
    """x [n, width] -> 127 / max|x| of each row, [n, 1]."""
    absmax = np.maximum(np.max(np.abs(x), axis=-1, keepdims=True), x.dtype.type(QUANT_ABSMAX_MIN))
    return x.dtype.type(QUANT_MAX) / absmax


def quantize_activations(x):
    """x [n, width] -> (codes int8 [n, width], scale [n, 1]); code = rint(x * scale), half to even."""
    scale = activation_scale(x)
    return np.clip(np.rint(x * scale), -QUANT_MAX, QUANT_MAX).astype(np.int8), scale


def accumulate(codes, weights):
    """Exact integer products: codes [n, n_in] int8, weights [n_out, n_in] {-1, 0, 1} -> int32 [n, n_out]."""
    # Every partial sum is an integer below 2^24, so float32 is exact in any order and BLAS may do the work.
    if QUANT_MAX * codes.shape[1] >= 2**24:
        raise ValueError(f"{codes.shape[1]} inputs leave the exact range of float32")
    return (codes.astype(np.float32) @ weights.T.astype(np.float32)).astype(np.int32)


def apply_weight_scale(y, weight_scale, mode):
    """The last step of a linear: multiply or divide by the tensor's one scale."""
    weight_scale = y.dtype.type(weight_scale)
    return y * weight_scale if mode == "multiply" else y / weight_scale


def linear_from_codes(codes, scale, weights, weight_scale, mode="multiply"):
    """(acc / scale) * weight_scale; codes int8 [n, n_in], scale [n, 1] -> [n, n_out] in the scale's dtype."""
    acc = accumulate(codes, weights).astype(scale.dtype)
    return apply_weight_scale(acc / scale, weight_scale, mode)


def bit_linear(x, weights, weight_scale, act_quant="int8", mode="multiply"):
    """x [n, n_in], weights [n_out, n_in] -> [n, n_out]."""
    if act_quant == "none":
        return apply_weight_scale(x @ weights.T.astype(x.dtype), weight_scale, mode)
    codes, scale = quantize_activations(x)
    return linear_from_codes(codes, scale, weights, weight_scale, mode)


def rope(x, positions, theta, layout="neox"):
    """Rotate x [n, heads, head_dim] by position * theta^(-2i/head_dim); the angle is always float64, rounded once."""
    half = x.shape[-1] // 2
    angle = np.outer(positions, float(theta) ** (-np.arange(half) / half))[:, None, :]  # [n, 1, half]
    cos, sin = np.cos(angle).astype(x.dtype), np.sin(angle).astype(x.dtype)
    first, second = (slice(0, half), slice(half, None)) if layout == "neox" else (slice(0, None, 2), slice(1, None, 2))
    out = np.empty_like(x)
    out[..., first] = x[..., first] * cos - x[..., second] * sin
    out[..., second] = x[..., first] * sin + x[..., second] * cos
    return out


def through_f16(x):
    """x with the precision of f16, in its own dtype."""
    return x.astype(np.float16).astype(x.dtype)


def attention_scores(q, k, positions):
    """q [n, n_head, d], k [n, n_kv_head, d] -> scaled scores [n, n_head, n], -inf where the key is later."""
    k = np.repeat(k, q.shape[1] // k.shape[1], axis=1)  # KV head g serves query heads g*r .. g*r + r-1
    scores = np.einsum("qhd,khd->qhk", q, k) / np.sqrt(q.dtype.type(q.shape[-1]))
    later = np.asarray(positions)[None, :] > np.asarray(positions)[:, None]  # [query, key]
    return np.where(later[:, None, :], q.dtype.type(-np.inf), scores)


def softmax(scores):
    """Along the last axis; masked entries come out as zero."""
    weights = np.exp(scores - np.max(scores, axis=-1, keepdims=True))
    return weights / np.sum(weights, axis=-1, keepdims=True)


def attention(probabilities, v):
    """probabilities [n, n_head, n], v [n, n_kv_head, d] -> [n, n_head, d]."""
    v = np.repeat(v, probabilities.shape[1] // v.shape[1], axis=1)
    return np.einsum("qhk,khd->qhd", probabilities, v)


def ffn_activation(gate, up, kind):
    """activation(gate) * up; both [n, n_ff]. GELU is the tanh form."""
    if kind == "relu2":
        return np.maximum(gate, 0) ** 2 * up
    if kind == "relu":
        return np.maximum(gate, 0) * up
    if kind == "silu":
        with np.errstate(over="ignore"):  # exp(-gate) = inf is the right limit: the result is 0
            return gate / (1 + np.exp(-gate)) * up
    inner = np.sqrt(gate.dtype.type(2 / np.pi)) * (gate + gate.dtype.type(0.044715) * gate**3)
    return gate / 2 * (1 + np.tanh(inner)) * up


def valid_scores(stage_array, token, n_head):
    """Row `token` of attn_scores or attn_scores_softmax without the masked tail: [n_head, token + 1]."""
    return stage_array[token].reshape(n_head, -1)[:, : token + 1]


class Oracle:
    """One model file with its semantics. Records are dicts (layer, stage) -> array [n_tokens, width]."""

    def __init__(self, path, semantics="", **overrides):
        """`semantics` is a text such as "activation=silu,eps=1e-6"; keywords override single fields too."""
        self.file = GGUFFile(path)
        self.arch = self.file.key("general.architecture")
        self.n_layer = self._hyper("block_count")
        self.n_embd = self._hyper("embedding_length")
        self.n_head = self._hyper("attention.head_count")
        self.n_kv_head = self._hyper("attention.head_count_kv", self.n_head)
        self.head_dim = self._hyper("attention.key_length", self.n_embd // self.n_head)
        self.n_vocab = self._hyper("vocab_size", None) or len(self.file.key("tokenizer.ggml.tokens"))
        self.semantics = dataclasses.replace(self._file_semantics().with_text(semantics), **overrides)
        self._check_known()

    _REQUIRED = object()

    def _hyper(self, name, default=_REQUIRED):
        value = self.file.key(f"{self.arch}.{name}", default)
        if value is self._REQUIRED:
            raise ValueError(f"{self.arch}.{name} is missing")
        return value

    def _file_semantics(self):
        """What the file implies. The activation is not recorded anywhere: architecture and vocabulary decide."""
        bitnet = self.arch in ("bitnet-b1.58", "bitnet-25")
        return Semantics(
            activation="relu2" if bitnet and self.n_vocab != 32002 else "silu",
            eps=float(self._hyper("attention.layer_norm_rms_epsilon")),
            rope="norm" if self.arch == "llama" else "neox",
            theta=float(self._hyper("rope.freq_base", 10000.0)),
            sub_norms="blk.0.attn_sub_norm.weight" in self.file.by_name,
            head="dedicated" if "output.weight" in self.file.by_name else "tied",
        )

    def _check_known(self):
        """Refuse what would silently change the result: partial rotation and tensors that no formula here uses."""
        if self._hyper("rope.dimension_count", self.head_dim) != self.head_dim:
            raise ValueError(f"rope.dimension_count differs from head_dim {self.head_dim}")
        roles = {*LINEAR_TENSORS.values(), *SUB_NORMS, "attn_norm", "ffn_norm"}
        known = {"token_embd.weight", "output_norm.weight", "output.weight"}
        known |= {f"blk.{layer}.{role}.weight" for layer in range(self.n_layer) for role in roles}
        unknown = sorted(self.file.by_name.keys() - known)
        if unknown:
            raise ValueError(f"tensor {unknown[0]} has no place in this model")

    # Stages of a block

    def block_stages(self):
        """Names of the stages of a block in execution order."""
        return [stage for stage in LAYER_STAGES if self.semantics.sub_norms or stage not in SUB_NORMS]

    def inputs_of(self, layer, stage):
        """Record keys of the inputs that `stage` is computed from."""
        if stage == "embeddings":
            return [(-1, "ids")]
        if stage == "final_norm":
            return [(self.n_layer - 1, "layer_out")]
        if stage == "logits":
            return [(-1, "final_norm")]
        return [self._input_key(layer, name) for name in LAYER_STAGES[stage]]

    def _input_key(self, layer, name):
        if name == "layer_in":
            return (layer - 1, "layer_out") if layer else (-1, "embeddings")
        if not self.semantics.sub_norms:
            name = SUB_NORMS.get(name, name)
        return layer, name

    def stage_from_inputs(self, layer, stage, recorded, positions=None, dtype=np.float64):
        """Recompute one stage from the recorded inputs of any engine's trace.

        `recorded` maps (layer, stage) to [n_tokens, width]; all rows of a stage share `positions` (default 0, 1, ...).
        `embeddings` reads the token ids from (-1, "ids").
        """
        keys = self.inputs_of(layer, stage)
        missing = [key for key in keys if key not in recorded]
        if missing:
            raise KeyError(f"{stage} of layer {layer} needs {missing[0][1]} of layer {missing[0][0]}")
        inputs = [np.asarray(recorded[key]) for key in keys]
        if stage == "embeddings":
            return self.embed(inputs[0], dtype)
        n_tokens = len(inputs[0])
        inputs = [x.astype(dtype).reshape(n_tokens, -1) for x in inputs]
        return self._compute(layer, stage, inputs, np.arange(n_tokens) if positions is None else positions)

    def _compute(self, layer, stage, inputs, positions):
        if stage == "logits":
            return self.head(inputs[0])
        if stage == "final_norm":
            return self._norm(inputs[0], "output_norm")
        if stage.endswith("_norm"):
            return self._norm(inputs[0], f"blk.{layer}.{stage}")
        if stage in LINEAR_TENSORS:
            return self.linear(layer, stage, inputs[0])
        if stage in ("q_rope", "k_rope"):
            rotated = rope(self._heads(inputs[0]), positions, self.semantics.theta, self.semantics.rope)
            return rotated.reshape(inputs[0].shape)
        if stage in ("attn_residual", "layer_out"):
            return inputs[0] + inputs[1]
        if stage == "ffn_act":
            return ffn_activation(inputs[0], inputs[1], self.semantics.activation)
        return self._attend(stage, inputs, positions)

    def _attend(self, stage, inputs, positions):
        """attn_scores, attn_scores_softmax or attn_context from q_rope, k_rope and, for the last, v_proj."""
        n_tokens = len(inputs[0])
        q, *kv = (self._heads(x) for x in inputs)
        if self.semantics.f16_q:
            q = through_f16(q)
        if self.semantics.kv == "f16":
            kv = [through_f16(x) for x in kv]
        scores = attention_scores(q, kv[0], positions)
        if stage == "attn_scores":
            return scores.reshape(n_tokens, -1)
        probabilities = softmax(scores)
        if stage == "attn_scores_softmax":
            return probabilities.reshape(n_tokens, -1)
        if self.semantics.f16_probabilities:
            probabilities = through_f16(probabilities)
        return attention(probabilities, kv[1]).reshape(n_tokens, -1)

    def _heads(self, x):
        return x.reshape(len(x), -1, self.head_dim)

    def _norm(self, x, tensor):
        return rms_norm(x, self.file.floats(f"{tensor}.weight").astype(x.dtype), self.semantics.eps)

    # Linears, embedding and head

    def weights(self, layer, stage):
        """(weights {-1, 0, 1} int8 [n_out, n_in], weight scale) of one of the seven linears."""
        return self.file.ternary(f"blk.{layer}.{LINEAR_TENSORS[stage]}.weight")

    def linear(self, layer, stage, x):
        """One of the seven linears of a block on its own input: [n, n_in] -> [n, n_out]."""
        return bit_linear(x, *self.weights(layer, stage), self.semantics.act_quant, self.semantics.scale)

    def linear_from_codes(self, layer, stage, codes, scale):
        """The same from given codes int8 [n, n_in] and scales [n, 1]: how another engine's codes are judged."""
        return linear_from_codes(codes, scale, *self.weights(layer, stage), self.semantics.scale)

    def integers(self, layer, stage, x):
        """The integer side of a linear with input x: (codes int8, scale [n, 1], acc int32 [n, n_out])."""
        codes, scale = quantize_activations(x)
        return codes, scale, accumulate(codes, self.weights(layer, stage)[0])

    def embedding_table(self):
        """Embedding in its own precision [n_vocab, n_embd]; some files store the transpose."""
        table = self.file.floats("token_embd.weight")
        return table if table.shape == (self.n_vocab, self.n_embd) else table.T

    def embed(self, ids, dtype=np.float64):
        """ids [n] -> [n, n_embd], an exact conversion."""
        return self.embedding_table()[np.asarray(ids)].astype(dtype)

    def head(self, x):
        """x [n, n_embd] -> logits [n, n_vocab]."""
        dedicated = self.semantics.head == "dedicated"
        table = self.file.floats("output.weight") if dedicated else self.embedding_table()
        if self.semantics.f16_head_input and table.dtype == np.float16:
            x = through_f16(x)
        parts = [x @ table[row : row + HEAD_ROWS].astype(x.dtype).T for row in range(0, len(table), HEAD_ROWS)]
        return np.concatenate(parts, axis=1)

    # Whole passes

    def layer(self, layer, h_in, positions=None, dtype=np.float64):
        """All stages of one block from its input h_in [n, n_embd]: {(layer, stage): array}."""
        layer_in = self._input_key(layer, "layer_in")
        record = {layer_in: np.asarray(h_in, dtype)}
        for stage in self.block_stages():
            record[layer, stage] = self.stage_from_inputs(layer, stage, record, positions, dtype)
            if stage in LINEAR_TENSORS and self.semantics.act_quant == "int8":
                self._add_integers(layer, stage, record)
        del record[layer_in]
        return record

    def _add_integers(self, layer, stage, record):
        """Companions of a linear: <input>.codes, <input>.scale and <linear>.acc."""
        (key,) = self.inputs_of(layer, stage)
        codes, scale, acc = self.integers(layer, stage, record[key])
        record[layer, f"{key[1]}.codes"] = codes
        record[layer, f"{key[1]}.scale"] = scale
        record[layer, f"{stage}.acc"] = acc

    def run(self, ids, dtype=np.float64):
        """All stages of a free-running pass over ids [n] from position 0, in execution order."""
        record = {(-1, "embeddings"): self.embed(ids, dtype)}
        h = record[-1, "embeddings"]
        for layer in range(self.n_layer):
            record.update(self.layer(layer, h, dtype=dtype))
            h = record[layer, "layer_out"]
        for stage in ("final_norm", "logits"):
            record[-1, stage] = self.stage_from_inputs(-1, stage, record, dtype=dtype)
        return record
