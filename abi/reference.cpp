#include "abi/reference.h"

#include <algorithm>

#include "core/forward.h"

namespace bitnet {

static std::shared_ptr<const Model> without_quantisation(const Model &model, const std::string &semantics) {
    LoadOptions options;
    options.overrides = semantics + ",quant=none";
    options.check_codes = false;  // the model was checked when it was loaded
    return Model::load(model.file().shared_bytes(), options);
}

static StateConfig one_row_at_a_time(StateConfig config) {
    config.n_batch = 1;
    return config;
}

Reference::Reference(const Model &model, const std::string &semantics, const Kernels &kernels,
                     const StateConfig &config)
    : state_(without_quantisation(model, semantics), kernels, one_row_at_a_time(config)) {}

const float *Reference::logits(const std::vector<int32_t> &tokens, int position) {
    const auto differs = std::mismatch(evaluated_.begin(), evaluated_.end(), tokens.begin(), tokens.end());
    const int known = std::min(int(differs.first - evaluated_.begin()), position);
    evaluated_.resize(size_t(known));
    state_.position = known;
    for (int p = known; p <= position; ++p) {
        EvalRequest request;
        request.tokens = &tokens[size_t(p)];
        request.n = 1;
        request.keep = p == position ? KeepLogits::last : KeepLogits::none;
        eval(state_, request);
        evaluated_.push_back(tokens[size_t(p)]);
    }
    return state_.logits.data();
}

}  // namespace bitnet
