//! Stages of the forward pass, and what their values are made of.

use crate::{sys, text};

/// A stage of the forward pass. [`Stage::NONE`] stands for a foreign engine's own names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stage(pub i32);

macro_rules! stages {
    ($($(#[$doc:meta])* $name:ident = $value:ident;)*) => {
        impl Stage {
            $($(#[$doc])* pub const $name: Stage = Stage(sys::$value);)*

            /// Every stage in execution order.
            pub const ALL: [Stage; sys::BITNET_STAGE_COUNT as usize] = [$(Stage::$name),*];
        }
    };
}

stages! {
    /// `(n_embd)`
    EMBEDDINGS = BITNET_STAGE_EMBEDDINGS;
    /// `(n_embd)`
    ATTN_NORM = BITNET_STAGE_ATTN_NORM;
    /// `(n_head, head_dim)` before RoPE
    Q_PROJ = BITNET_STAGE_Q_PROJ;
    /// `(n_head_kv, head_dim)`
    K_PROJ = BITNET_STAGE_K_PROJ;
    /// `(n_head_kv, head_dim)`
    V_PROJ = BITNET_STAGE_V_PROJ;
    /// `(n_head, head_dim)`
    Q_ROPE = BITNET_STAGE_Q_ROPE;
    /// `(n_head_kv, head_dim)`
    K_ROPE = BITNET_STAGE_K_ROPE;
    /// `(n_head, n_kv)` scaled, before softmax; off by default
    ATTN_SCORES = BITNET_STAGE_ATTN_SCORES;
    /// `(n_head, n_kv)`, n_kv = position + 1
    ATTN_SCORES_SOFTMAX = BITNET_STAGE_ATTN_SCORES_SOFTMAX;
    /// `(n_head, head_dim)` probabilities times V
    ATTN_CONTEXT = BITNET_STAGE_ATTN_CONTEXT;
    /// `(n_head, head_dim)`
    ATTN_SUB_NORM = BITNET_STAGE_ATTN_SUB_NORM;
    /// `(n_embd)`
    ATTN_OUT = BITNET_STAGE_ATTN_OUT;
    /// `(n_embd)`
    ATTN_RESIDUAL = BITNET_STAGE_ATTN_RESIDUAL;
    /// `(n_embd)`
    FFN_NORM = BITNET_STAGE_FFN_NORM;
    /// `(n_ff)`
    FFN_GATE = BITNET_STAGE_FFN_GATE;
    /// `(n_ff)`
    FFN_UP = BITNET_STAGE_FFN_UP;
    /// `(n_ff)` activation(gate) * up
    FFN_ACT = BITNET_STAGE_FFN_ACT;
    /// `(n_ff)`
    FFN_SUB_NORM = BITNET_STAGE_FFN_SUB_NORM;
    /// `(n_embd)`
    FFN_OUT = BITNET_STAGE_FFN_OUT;
    /// `(n_embd)`
    LAYER_OUT = BITNET_STAGE_LAYER_OUT;
    /// `(n_embd)`
    FINAL_NORM = BITNET_STAGE_FINAL_NORM;
    /// `(n_vocab)`
    LOGITS = BITNET_STAGE_LOGITS;
}

impl Stage {
    /// A foreign engine's own name.
    pub const NONE: Stage = Stage(0);

    /// The int8 activation codes that the quantiser makes of this stage.
    pub const fn codes(self) -> Stage {
        Stage(self.0 | sys::BITNET_STAGE_CODES)
    }

    /// Their scale, s = 127 / max|x|.
    pub const fn scale(self) -> Stage {
        Stage(self.0 | sys::BITNET_STAGE_SCALE)
    }

    /// The int32 accumulators of this linear.
    pub const fn acc(self) -> Stage {
        Stage(self.0 | sys::BITNET_STAGE_ACC)
    }

    /// "q_proj", "attn_norm.codes"; none when there is no such stage or companion.
    pub fn name(self) -> Option<&'static str> {
        crate::library::ready().ok()?;
        // Static in the library, which is never unloaded, and ASCII.
        text::bytes(unsafe { sys::bitnet_stage_name(self.0) }).and_then(|name| std::str::from_utf8(name).ok())
    }
}

/// Type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dtype {
    /// IEEE 754 single precision
    F32,
    /// IEEE 754 half precision
    F16,
    /// the upper half of an F32
    Bf16,
    /// signed bytes
    I8,
    /// signed 32-bit integers
    I32,
    /// One that this crate does not know, of a newer library.
    Other(i32),
}

impl Dtype {
    pub(crate) fn of(raw: i32) -> Dtype {
        match raw {
            sys::BITNET_DTYPE_F32 => Dtype::F32,
            sys::BITNET_DTYPE_F16 => Dtype::F16,
            sys::BITNET_DTYPE_BF16 => Dtype::Bf16,
            sys::BITNET_DTYPE_I8 => Dtype::I8,
            sys::BITNET_DTYPE_I32 => Dtype::I32,
            other => Dtype::Other(other),
        }
    }

    pub(crate) fn raw(self) -> i32 {
        match self {
            Dtype::F32 => sys::BITNET_DTYPE_F32,
            Dtype::F16 => sys::BITNET_DTYPE_F16,
            Dtype::Bf16 => sys::BITNET_DTYPE_BF16,
            Dtype::I8 => sys::BITNET_DTYPE_I8,
            Dtype::I32 => sys::BITNET_DTYPE_I32,
            Dtype::Other(raw) => raw,
        }
    }

    /// Bytes of an element; 0 for one that this crate does not know.
    pub const fn size(self) -> usize {
        match self {
            Dtype::F32 | Dtype::I32 => 4,
            Dtype::F16 | Dtype::Bf16 => 2,
            Dtype::I8 => 1,
            Dtype::Other(_) => 0,
        }
    }
}
