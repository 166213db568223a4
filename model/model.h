// A loaded model: hyperparameters, semantics, typed views of the weights, tokenizer. Immutable; shared by contexts.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "model/gguf.h"
#include "model/semantics.h"
#include "model/tokenizer.h"

namespace bitnet {

struct Hyperparameters {
    int n_vocab = 0;
    int n_ctx_train = 0;
    int n_embd = 0;
    int n_layer = 0;
    int n_ff = 0;
    int n_head = 0;
    int n_head_kv = 0;
    int head_dim = 0;
    int n_rot = 0;  // dimensions of a head that RoPE turns, even
    int n_q() const { return n_head * head_dim; }
    int n_kv() const { return n_head_kv * head_dim; }
};

// A ternary matrix in I2_S, in place: row r is n_in/4 bytes at codes + r * n_in/4; code = weight + 1.
struct TernaryMatrix {
    const uint8_t *codes = nullptr;  // (n_out, n_in/4)
    int n_out = 0;
    int n_in = 0;  // multiple of 128
    float scale = 0;
    int number = 0;  // among the model's ternary matrices
};

// A matrix of 16- or 32-bit floats, in place, row-major.
struct FloatMatrix {
    const void *data = nullptr;  // (n_rows, n_cols)
    TensorType type = TensorType::f32;
    int n_rows = 0;
    int n_cols = 0;
    size_t row_bytes() const { return size_t(n_cols) * (type == TensorType::f32 ? 4 : 2); }
};

struct LayerWeights {
    const float *attn_norm = nullptr;      // (n_embd)
    TernaryMatrix wq;                      // (n_head * head_dim, n_embd)
    TernaryMatrix wk;                      // (n_head_kv * head_dim, n_embd)
    TernaryMatrix wv;                      // (n_head_kv * head_dim, n_embd)
    const float *attn_sub_norm = nullptr;  // (n_head * head_dim), nullptr where the model has none
    TernaryMatrix wo;                      // (n_embd, n_head * head_dim)
    const float *ffn_norm = nullptr;       // (n_embd)
    TernaryMatrix w_gate;                  // (n_ff, n_embd)
    TernaryMatrix w_up;                    // (n_ff, n_embd)
    const float *ffn_sub_norm = nullptr;   // (n_ff), nullptr where the model has none
    TernaryMatrix w_down;                  // (n_embd, n_ff)
};

struct LoadOptions {
    std::string overrides;                                        // semantics, see semantics.h
    bool check_codes = true;                                      // scan every ternary code for the invalid value 3
    std::function<bool(uint64_t done, uint64_t total)> progress;  // true cancels; may be empty
};

class Model {
public:
    // Throws Error: format, unsupported, invalid (overrides), cancelled.
    static std::shared_ptr<const Model> load(std::shared_ptr<const Mapping> bytes, const LoadOptions &options);

    const GgufFile &file() const { return *file_; }
    std::string architecture;
    Hyperparameters hp;
    Semantics semantics;
    FloatMatrix token_embd;              // (n_vocab, n_embd)
    FloatMatrix head;                    // (n_vocab, n_embd); token_embd when tied
    const float *output_norm = nullptr;  // (n_embd)
    std::vector<LayerWeights> layers;
    Tokenizer tokenizer;
    std::vector<std::string> warnings;  // one line each, for a user
    uint64_t n_params = 0;

private:
    friend class ModelLoader;
    std::unique_ptr<GgufFile> file_;
    std::vector<std::unique_ptr<uint8_t[]>> converted_;  // what could not be used in place
};

}  // namespace bitnet
