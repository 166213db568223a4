//! Text to tokens and back, and what the vocabulary says.

use crate::error::Result;
use crate::model::Model;
use crate::{sys, text};

/// A token's role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Special {
    /// beginning of a sequence
    Bos,
    /// end of a sequence
    Eos,
    /// end of a turn
    Eot,
    /// padding
    Pad,
}

/// A token's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TokenType {
    /// text
    Normal,
    /// stands for what is not in the vocabulary
    Unknown,
    /// control token, such as BOS
    Control,
    /// added by the model's makers
    UserDefined,
    /// not in use
    Unused,
    /// a single byte
    Byte,
}

impl Model {
    /// The tokens of any bytes. `add_bos`: begin with BOS, if the model has one; `parse_special`: "<|eot_id|>" in the text becomes
    /// that control token.
    pub fn tokenize(&self, text: impl AsRef<[u8]>, add_bos: bool, parse_special: bool) -> Result<Vec<i32>> {
        let text = text.as_ref();
        let mut flags = 0;
        if add_bos {
            flags |= sys::BITNET_TOKENIZE_ADD_BOS;
        }
        if parse_special {
            flags |= sys::BITNET_TOKENIZE_PARSE_SPECIAL;
        }
        let bound = unsafe { sys::bitnet_tokenize_bound(text.len()) };
        text::filled(bound, |out, n| unsafe {
            sys::bitnet_tokenize_text(self.raw(), text.as_ptr().cast(), text.len(), flags, out, n)
        })
    }

    /// The bytes of a token sequence, not necessarily valid UTF-8. `special`: control tokens as their text, otherwise they are
    /// skipped.
    pub fn detokenize(&self, tokens: &[i32], special: bool) -> Result<Vec<u8>> {
        let flags = if special { sys::BITNET_DETOKENIZE_SPECIAL } else { 0 };
        text::sized_text(|out, n| unsafe {
            sys::bitnet_detokenize(self.raw(), text::data_of(tokens), tokens.len(), flags, out, n)
        })
    }

    /// A token as the vocabulary spells it; none when out of range.
    pub fn token_text(&self, token: i32) -> Option<&[u8]> {
        text::bytes(unsafe { sys::bitnet_token_text(self.raw(), token) })
    }

    /// None when out of range.
    pub fn token_type(&self, token: i32) -> Option<TokenType> {
        match unsafe { sys::bitnet_token_type(self.raw(), token) } {
            sys::BITNET_TOKEN_NORMAL => Some(TokenType::Normal),
            sys::BITNET_TOKEN_UNKNOWN => Some(TokenType::Unknown),
            sys::BITNET_TOKEN_CONTROL => Some(TokenType::Control),
            sys::BITNET_TOKEN_USER_DEFINED => Some(TokenType::UserDefined),
            sys::BITNET_TOKEN_UNUSED => Some(TokenType::Unused),
            sys::BITNET_TOKEN_BYTE => Some(TokenType::Byte),
            _ => None,
        }
    }

    /// 0 when there is none.
    pub fn token_score(&self, token: i32) -> f32 {
        unsafe { sys::bitnet_token_score(self.raw(), token) }
    }

    /// The token of a role, if the model has one.
    pub fn special_token(&self, role: Special) -> Option<i32> {
        let role = match role {
            Special::Bos => sys::BITNET_SPECIAL_BOS,
            Special::Eos => sys::BITNET_SPECIAL_EOS,
            Special::Eot => sys::BITNET_SPECIAL_EOT,
            Special::Pad => sys::BITNET_SPECIAL_PAD,
        };
        let token = unsafe { sys::bitnet_token_special(self.raw(), role) };
        (token >= 0).then_some(token)
    }

    /// All tokens that end a generation, ascending.
    pub fn end_tokens(&self) -> Result<Vec<i32>> {
        text::sized(|out, n| unsafe { sys::bitnet_token_end_ids(self.raw(), out, n) })
    }

    /// Whether the file asks for a BOS at the front of a prompt.
    pub fn wants_bos(&self) -> bool {
        unsafe { sys::bitnet_token_wants_bos(self.raw()) == 1 }
    }

    /// The file's chat template (Jinja); "" when there is none.
    pub fn chat_template(&self) -> String {
        text::owned(unsafe { sys::bitnet_chat_template(self.raw()) })
    }
}
