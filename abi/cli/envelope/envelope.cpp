#include "abi/cli/envelope/envelope.h"

#include <algorithm>

#include "abi/cli/session.h"
#include "abi/cli/terminal.h"

namespace bitnet::envelope {

namespace {

constexpr double top1_noise = 6;  // as preset "bitnet": two values, each off by up to three standard deviations

}  // namespace

std::string mismatch(const Subject &found, const Subject &wanted) {
    const auto differs = [](const char *what, const std::string &a, const std::string &b) {
        return text_of("%s %s, expected %s", what, printable(a).c_str(), printable(b).c_str());
    };
    if (found.engine_version != wanted.engine_version)
        return differs("engine version", found.engine_version, wanted.engine_version);
    if (found.model_hash != wanted.model_hash) return differs("model", found.model_hash, wanted.model_hash);
    if (found.semantics != wanted.semantics) return differs("semantics", found.semantics, wanted.semantics);
    const auto [a, b] =
        std::mismatch(found.tokens.begin(), found.tokens.end(), wanted.tokens.begin(), wanted.tokens.end());
    if (b == wanted.tokens.end()) return "";
    const std::string there = a == found.tokens.end() ? "none" : std::to_string(*a);
    return text_of("token %td is %s, expected %d", b - wanted.tokens.begin(), there.c_str(), *b);
}

Judge::Judge(Envelope envelope) : envelope_(std::move(envelope)) {
    for (const ClassReach &reach : envelope_.classes) {
        for (const StageReach &stage : reach.stages) {
            std::vector<double> &allowed = allowed_[{stage.layer, stage.stage}];
            const double floor = stage.stage == "embeddings" ? 0 : float32_floor;
            allowed.push_back(std::max({margin * stage.relative, floor, allowed.empty() ? 0 : allowed.back()}));
        }
    }
}

std::optional<double> Judge::allowed(size_t index, int layer, std::string_view stage) const {
    const auto at = allowed_.find(std::pair<int, std::string>(layer, stage));
    if (at == allowed_.end()) return std::nullopt;
    return at->second[index];
}

std::optional<size_t> Judge::smallest(int layer, std::string_view stage, double relative) const {
    const auto at = allowed_.find(std::pair<int, std::string>(layer, stage));
    if (at == allowed_.end()) return std::nullopt;
    const auto holds = [&](double allowed) { return relative <= allowed; };  // NaN is in none
    return size_t(std::find_if(at->second.begin(), at->second.end(), holds) - at->second.begin());
}

bitnet_logits_limits_t Judge::limits(size_t index) const {
    LogitsReach most;
    for (size_t i = 0; i <= index; i++) {
        for (const LogitsReach &reach : envelope_.classes[i].logits) {
            most.cosine_distance = std::max(most.cosine_distance, reach.cosine_distance);
            most.nmse = std::max(most.nmse, reach.nmse);
            most.kl = std::max(most.kl, reach.kl);
            most.max_abs = std::max(most.max_abs, reach.max_abs);
        }
    }
    constexpr double squared = margin * margin, floor = float32_floor * float32_floor;
    bitnet_logits_limits_t limits = {};
    limits.struct_size = sizeof limits;
    limits.judged =
        BITNET_METRIC_COSINE | BITNET_METRIC_NMSE | BITNET_METRIC_KL | BITNET_METRIC_MAX_ABS | BITNET_METRIC_TOP1;
    limits.cosine_min = limits.cosine_warn = 1 - squared * std::max(most.cosine_distance, floor);
    limits.nmse_max = squared * std::max(most.nmse, floor);
    limits.kl_max = squared * std::max(most.kl, floor);
    limits.max_abs_max = margin * most.max_abs;
    limits.top1_noise = top1_noise;
    return limits;
}

size_t Judge::smallest(const bitnet_logits_row_t &row) const {
    for (size_t i = 0; i < n_classes(); i++) {
        bitnet_logits_row_t judged = row;
        const bitnet_logits_limits_t of_class = limits(i);
        check(bitnet_compare_rows(&judged, 1, &of_class, nullptr));
        if (judged.failed == 0) return i;
    }
    return n_classes();
}

}  // namespace bitnet::envelope
