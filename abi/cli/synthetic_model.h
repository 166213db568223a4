// A BitNet b1.58 model of any shape with made-up weights: for measuring, and for tests of files of full size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "abi/cli/gguf_writer.h"

namespace bitnet {

struct SyntheticShape {
    std::string name;
    int n_layer;
    int n_embd;  // a multiple of row_multiple()
    int n_ff;    // likewise
    int n_head;
    int n_head_kv;
    int n_ctx;
    int n_vocab;
    size_t merges_max;
};

// How the ternary weights are stored. Either file holds the same weights; tq2_0 is what llama.cpp reads: its
// architecture `bitnet`, with each scale in a tensor of its own.
enum class TernaryFormat { i2_s, tq2_0 };

// Elements that a row of weights must be a multiple of.
constexpr int row_multiple(TernaryFormat format) { return format == TernaryFormat::i2_s ? 128 : 256; }

// The same shape, seed and format give the same bytes on every machine: integers and basic IEEE operations only. Keys
// are those of Microsoft's 2B-4T file in their order, then the pre-tokenizer, which that file lacks.
GgufWriter make_synthetic_model(const SyntheticShape &shape, uint64_t seed, TernaryFormat format);

}  // namespace bitnet
