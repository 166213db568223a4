// A vocabulary of LLaMA-3's form and size that holds no text of anybody: bytes, short made-up words, special tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace bitnet {

inline constexpr int byte_tokens = 256;
inline constexpr int special_tokens = 256;

struct SyntheticVocabulary {
    std::vector<std::string> tokens;  // bytes in GPT-2's order, words, specials under their LLaMA-3 names
    std::vector<int32_t> types;       // 1 normal, 3 control
    std::vector<std::string>
        merges;  // "left right", lowest rank first; every token of several letters is reached by them
    int32_t bos = 0;
    int32_t eos = 0;
};

// `n_vocab`: at least byte_tokens + special_tokens, at most 128256. At most `merges_max` merges.
SyntheticVocabulary make_vocabulary(int n_vocab, size_t merges_max);

}  // namespace bitnet
