// Runs the legal variations of an engine and measures how far each moves what the engine itself computes.
#pragma once

#include <string>
#include <vector>

#include "abi/cli/envelope/envelope.h"
#include "abi/cli/session.h"

namespace bitnet::envelope {

// What runs: the file and the machine's side of it. The semantics are the subject's.
struct Engine {
    std::string model_path;  // "": the embedded demo model
    std::string isa;         // "": the best one
    bool copy = false;
    int n_threads = 0;  // 0: every processor
};

// What an envelope of this model is of. `kv`: the context's KV type, "": what the semantics say; a negative n_seeds:
// the default for so many tokens.
Subject subject_of(const bitnet_model_t *model, const std::string &kv, std::vector<int32_t> tokens, int n_seeds);
// `semantics` with the KV cache of a context; "" leaves it as it is.
std::string with_kv(std::string semantics, const std::string &kv);

// Throws CommandError: the model is not the subject's, computes values that are not finite, or does not know a token.
// Memory: two contexts for the tokens, and the rows of as many positions as 128 MB hold, at least of one.
Envelope measure(const Engine &engine, const Subject &subject);

}  // namespace bitnet::envelope
