// Logits of the same tokens with no activation quantised anywhere, for sinks that measure what quantisation costs
// (bitnet.reference/1): a second state of the same file, made when first asked.
#pragma once

#include <memory>
#include <vector>

#include "core/state.h"
#include "model/model.h"

namespace bitnet {

class Reference {
public:
    // Made for a model and the settings of the context that is traced. Throws.
    Reference(const Model &model, const std::string &semantics, const Kernels &kernels, const StateConfig &config);

    // n_vocab logits at `position` of `tokens`, which begin at position 0. Throws.
    const float *logits(const std::vector<int32_t> &tokens, int position);

private:
    std::vector<int32_t> evaluated_;
    State state_;
};

}  // namespace bitnet
