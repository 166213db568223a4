// What a file says about its tokenizer, checked but not yet indexed.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer.h"

namespace bitnet {

class GgufFile;

struct Vocabulary {
    std::vector<std::string_view> tokens;  // by id, as spelled; borrowed
    std::vector<TokenType> types;          // by id; empty: all normal
    std::vector<float> scores;             // by id; empty: none
    std::vector<std::string_view> merges;  // by rank, "left right"; borrowed
    int32_t bos = -1;                      // -1: none; likewise below
    int32_t eos = -1;
    int32_t eot = -1;
    int32_t pad = -1;
    bool add_bos = false;
    std::string chat_template;
};

// Reads the tokenizer.ggml.* keys of a byte-level BPE with the LLaMA-3 pre-tokenizer; the views point into the file's
// bytes. What had to be assumed is appended to `warnings`, one line each. Throws Error(format) for keys that are
// missing, mistyped or out of range, Error(unsupported) for another kind of tokenizer.
Vocabulary read_vocabulary(const GgufFile &file, const std::string &architecture, std::vector<std::string> &warnings);

}  // namespace bitnet
