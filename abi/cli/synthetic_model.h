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
    int n_embd;  // multiple of 128, as I2_S rows must be
    int n_ff;    // likewise
    int n_head;
    int n_head_kv;
    int n_ctx;
    int n_vocab;
    size_t merges_max;
};

// The same shape and seed give the same bytes on every machine: integers and basic IEEE operations only. Keys are those
// of Microsoft's 2B-4T file in their order, then the pre-tokenizer, which that file lacks.
GgufWriter make_synthetic_model(const SyntheticShape &shape, uint64_t seed);

}  // namespace bitnet
