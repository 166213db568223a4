// The model file that a graph's weights came from.
#pragma once

#include "shim/engine.h"

namespace bitnet::shim {

struct ModelFile {
    char path[4096];
    char architecture[64];
    char hash[65];  // "" until asked for, or when it may not be computed
    bool hash_tried;
    int32_t bos, eos;  // -1: unknown
    uint32_t n_ctx_train, n_ff;
};

// The engine has opened `path`; what is asked of its keys is asked now, with the engine's own functions.
void model_file_opened(const Engine &engine, const char *path, const Gguf *gguf);
// By the memory that the weight is mapped to, else the only file that was opened. NULL: unknown. Lives on.
ModelFile *model_file_of(const Engine &engine, const Tensor *weight);
// BLAKE3 of the file as 64 hex digits, if the settings allow it. "": not.
const char *model_file_hash(ModelFile *file);

}  // namespace bitnet::shim
