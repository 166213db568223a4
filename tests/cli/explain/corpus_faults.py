"""What the corpus makes engines do: faults and legal variations as semantics, and where each may show."""

NORMS = {"attn_norm", "attn_sub_norm", "ffn_norm", "ffn_sub_norm", "final_norm"}
LINEARS = {"q_proj", "k_proj", "v_proj", "attn_out", "ffn_gate", "ffn_up", "ffn_out"}
ROPE = {"q_rope", "k_rope"}
ATTENTION = {"attn_scores_softmax", "attn_context"}
ACT = {"ffn_act"}
ALL = NORMS | LINEARS | ROPE | ATTENTION | ACT | {"embeddings", "attn_residual", "layer_out", "logits"}
WHOLE_MODEL = {"head_input=f16"}  # cannot be of one layer
PROFILES = ("bitnetcpp", "hf-f32", "hf-bf16", "q8k")

# name -> (semantics of the model itself, faults that only this one can have, what it has not)
SHAPES = {
    "demo": dict(base="", grouped=True, sub_norms=True),
    "random": dict(base="", grouped=True, sub_norms=True,
                   spec=dict(seed=5, n_embd=256, n_head=8, n_kv=4, head_dim=80, n_ff=896, n_layer=3)),
    # No sub-norms, a key and a value for each query, two layers.
    "plain": dict(base="", grouped=False, sub_norms=False,
                  spec=dict(seed=8, n_embd=256, n_head=4, n_kv=4, head_dim=32, n_ff=384, n_layer=3, sub_norms=False)),
    # Everything the other way round, so that what is right elsewhere is a fault here.
    "silu": dict(base="activation=silu,rope=norm,scale=divide,i2s=block64,eps=1e-6,theta=10000", grouped=True,
                 sub_norms=True,
                 spec=dict(seed=9, n_embd=384, n_head=6, n_kv=2, head_dim=64, n_ff=512, n_layer=3)),
}

# kind -> [(semantics, stages that may be named)]
FAULTS = {
    "activation: SiLU, GELU, ReLU, squared ReLU": [(f"activation={name}", ACT) for name in ("silu", "gelu", "relu", "relu2")],
    "norm: weight missing or twice, mean subtracted, skipped": [
        (f"norm={name}", NORMS) for name in ("unweighted", "weighted_twice", "centred", "skipped")],
    "norm: eps": [(f"eps={value}", NORMS) for value in ("1e-6", "1e-5", "1e-3")],
    "sub-norms skipped": [("sub_norms=off", {"attn_out", "ffn_out"})],
    "RoPE: pairs, position, theta": [
        (item, ROPE) for item in ("rope=norm", "rope=neox", "rope_offset=1", "rope_offset=-1", "theta=10000",
                                  "theta=500000")],
    "attention: heads, K and V swapped, scale": [
        (item, ATTENTION) for item in ("kv_heads=interleaved", "kv_swap=attention", "attn_scale=none", "attn_scale=full")]
        + [("kv_swap=weights", {"k_proj", "v_proj"})],
    "weight scale: missing, inverted, rounded": [
        (item, LINEARS) for item in ("scale=none", "scale=divide", "scale=multiply", "scale_type=f16", "scale_type=bf16")],
    "weight codes: block, order, map, bits": [
        (item, LINEARS) for item in ("i2s=block128", "i2s=block64", "i2s=block32", "i2s=sequential",
                                     "i2s=sequential,i2s_bits=low_first", "i2s_bits=low_first", "i2s_map=+0-",
                                     "i2s_map=0+-", "i2s_map=0-+", "i2s_map=-+0", "i2s_map=+-0")],
    "activation codes: by tensor, by 32, none, truncated": [
        (item, LINEARS) for item in ("quant=tensor_int8", "quant=block32_int8", "quant=none", "round=truncate")],
}
WRAPPING = "sums wrap at 16 bits"    # on a model of its own
DOUBLE_BOS = "double BOS"            # a fact about the tokens

LEGAL = [
    ("kv=f16", ATTENTION),
    ("kv=f16,attn_q=f16", ATTENTION),
    ("attn_q=f16", ATTENTION),
    ("kv=f16,attn_q=f16,attn_p=f16", ATTENTION),
    ("kv=f16,attn_q=f16,attn_sum=f16", ATTENTION),
    ("quant=f16", LINEARS),
    ("rope_angle=steps_f32", ROPE),
    ("head_input=f16", {"logits"}),
    ("round=away", LINEARS),
    ("quant=block256_int8", LINEARS),
    ("quant=dequantised", LINEARS),
    ("stage_type=bf16,quant=dequantised", ALL),
]
# What a profile sets, as explain names it.
PROFILE_ITEMS = {
    "bitnetcpp": "kv=f16,attn_q=f16,head_input=f16,rope_angle=steps_f32",
    "hf-f32": "quant=dequantised",
    "hf-bf16": "stage_type=bf16,quant=dequantised",
    "q8k": "quant=block256_int8",
}
# A legal variation beside a fault: the fault is named.
BESIDE_LEGAL = [("attn_scale=full,kv=f16,attn_q=f16", ATTENTION)]
# Where codes, scales and accumulators were recorded too, they are what is wrong.
INTEGER_CASES = [
    ("round=truncate", NORMS, False),
    ("quant=tensor_int8", NORMS, False),
    ("quant=block32_int8", NORMS | LINEARS, False),
    ("i2s=block64", LINEARS, False),
    ("i2s_map=0-+", LINEARS, False),
    ("scale=none", LINEARS, False),
    ("kv_swap=weights", {"k_proj", "v_proj"}, False),
    ("sub_norms=off", NORMS | {"attn_out", "ffn_out"}, False),
    ("quant=block256_int8", NORMS | LINEARS, True),
]


def items(semantics):
    return frozenset(item for item in semantics.split(",") if item)


def keys(semantics):
    return frozenset(item.split("=")[0] for item in items(semantics))


def applies(semantics, shape):
    """Whether this shape can do it, and does not do it anyway."""
    if items(semantics) & items(shape["base"]) or ("sub_norms" in keys(semantics) and not shape["sub_norms"]):
        return False
    if semantics == "kv_heads=interleaved" and not shape["grouped"]:
        return False
    ordinary = {"activation=relu2", "rope=neox", "theta=500000", "scale=multiply", "i2s=block128", "eps=1e-5"}
    return bool(keys(semantics) & keys(shape["base"])) or not items(semantics) & ordinary


def faults_of(shape):
    """(kind, semantics, stages)"""
    return [(kind, semantics, stages) for kind, cases in FAULTS.items() for semantics, stages in cases
            if applies(semantics, shape)]


def pairs_of(shape):
    """Two faults that do not set the same switch."""
    faults = faults_of(shape)
    return [(a, b) for i, a in enumerate(faults) for b in faults[i + 1:] if not keys(a[1]) & keys(b[1])]


def at_layer(semantics, layer):
    return ",".join("@{}=".format(layer).join(item.split("=")) for item in semantics.split(","))
