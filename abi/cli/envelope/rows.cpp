#include "abi/cli/envelope/rows.h"

#include <algorithm>
#include <cmath>

#include "abi/cli/envelope/codes.h"
#include "abi/cli/session.h"
#include "abi/cli/terminal.h"

namespace bitnet::envelope {

namespace {

constexpr const char *default_selection = "";

// Bits, high to low: position 32, layer + 1 16, stage 16.
uint64_t key_of(int32_t stage, int32_t layer, int32_t position) {
    return uint64_t(uint32_t(position)) << 32 | uint64_t(uint32_t(layer + 1)) << 16 | uint64_t(uint32_t(stage));
}

std::string place(int32_t stage, int32_t layer, int32_t position) {
    return text_of("position %d, ", position) + (layer < 0 ? "" : text_of("layer %d, ", layer)) +
           bitnet_stage_name(stage);
}

bool is_quantised(int32_t stage) {
    return stage == BITNET_STAGE_ATTN_NORM || stage == BITNET_STAGE_ATTN_SUB_NORM || stage == BITNET_STAGE_FFN_NORM ||
           stage == BITNET_STAGE_FFN_SUB_NORM;
}

}  // namespace

const bitnet_trace_sink_t RowSink::table = {sizeof(bitnet_trace_sink_t),
                                            BITNET_ABI_VERSION,
                                            "bitnet-envelope",
                                            uint64_t{1} << BITNET_EVENT_TENSOR,
                                            RowSink::open,
                                            RowSink::event,
                                            nullptr,
                                            nullptr};

void RowSink::attach(bitnet_ctx_t *ctx) {
    check(bitnet_trace_select(ctx, default_selection));
    check(bitnet_trace_set_sink(ctx, &table, this));
}

void RowSink::rethrow() const {
    if (failure_) std::rethrow_exception(failure_);
}

void RowSink::replace(const bitnet_tensor_event_t &event, uint32_t r, const std::vector<float> &values) const {
    if (override_->replace(host_, &event, r, values.data(), values.size()) != BITNET_OK)
        throw CommandError(std::string("the trace host could not replace a row of ") + event.stage_name);
}

bitnet_status_t RowSink::open(void **state, const bitnet_trace_host_t *host, const char *) {
    auto *self = static_cast<RowSink *>(*state);
    self->host_ = host;
    if (!self->replaces_) return BITNET_OK;
    self->override_ = static_cast<const bitnet_ext_override_t *>(host->get_extension(host, BITNET_EXT_OVERRIDE));
    return self->override_ ? BITNET_OK : BITNET_E_UNSUPPORTED;
}

bitnet_status_t RowSink::event(void *state, const bitnet_event_t *header) {
    if (header->type != BITNET_EVENT_TENSOR) return BITNET_OK;
    auto *self = static_cast<RowSink *>(state);
    try {
        const auto &event = *reinterpret_cast<const bitnet_tensor_event_t *>(header);
        if (event.dtype != BITNET_DTYPE_F32)
            throw CommandError(std::string(event.stage_name) + ": expected float32 rows");
        for (uint32_t r = 0; r < event.n_rows; r++) {
            const char *at = static_cast<const char *>(event.data) + r * event.row_stride;
            self->row(event, r, reinterpret_cast<const float *>(at));
        }
        return BITNET_OK;
    } catch (...) {
        self->failure_ = std::current_exception();
        return BITNET_E_USER;
    }
}

const std::vector<float> *KeptRows::find(int32_t stage, int32_t layer, int32_t position) const {
    const auto at = rows_.find(key_of(stage, layer, position));
    return at == rows_.end() ? nullptr : &at->second;
}

void KeptRows::row(const bitnet_tensor_event_t &event, uint32_t r, const float *values) {
    const int32_t layer = event.header.layer, position = event.header.position + int32_t(r);
    const auto finite = [](float x) { return std::isfinite(x); };
    if (!std::all_of(values, values + event.row_elements, finite))
        throw CommandError("no envelope: the model computes NaN or infinities at " +
                           place(event.stage, layer, position));
    rows_[key_of(event.stage, layer, position)].assign(values, values + event.row_elements);
    if (!seen_.try_emplace(key_of(event.stage, layer, 0), true).second) return;
    StageReach stage;
    stage.layer = layer;
    stage.stage = bitnet_stage_name(event.stage);
    stages_.push_back(stage);
}

ComparedRows::ComparedRows(const KeptRows &kept, std::string variation, Noise noise, ClassReach &reach)
    : RowSink(noise.held || noise.seed > 0), kept_(kept), variation_(std::move(variation)), noise_(noise),
      reach_(reach) {}

void ComparedRows::row(const bitnet_tensor_event_t &event, uint32_t r, const float *values) {
    const int32_t layer = event.header.layer, position = event.header.position + int32_t(r);
    const auto where = [&] { return variation_ + " at " + place(event.stage, layer, position); };
    const std::vector<float> *kept = kept_.find(event.stage, layer, position);
    if (kept == nullptr || kept->size() != event.row_elements)
        throw CommandError("no envelope: the engine itself has no such row as " + where());
    const auto [at, is_new] = index_.try_emplace(key_of(event.stage, layer, 0), 0);
    if (is_new) {
        const auto same = [&](const StageReach &s) { return s.layer == layer && s.stage == event.stage_name; };
        at->second = size_t(std::find_if(reach_.stages.begin(), reach_.stages.end(), same) - reach_.stages.begin());
    }
    const Distance distance = distance_of(kept->data(), values, kept->size());
    if (std::isnan(distance.relative)) throw CommandError("no envelope: NaN or infinities in " + where());
    n_rows_++;
    const bool has_distance = !std::isinf(distance.relative);  // a row of zeros has none that is relative
    if (has_distance) note(distance, position, reach_.stages[at->second]);
    if (event.stage == BITNET_STAGE_LOGITS) {
        LogitsReach &logits = reach_.logits[size_t(position)];
        logits.position = position;
        if (has_distance) compare_logits(distance, *kept, values, logits);
    }
    if ((noise_.held || noise_.seed > 0) && is_quantised(event.stage)) disturb(event, r, *kept, values);
}

void ComparedRows::note(const Distance &distance, int32_t position, StageReach &stage) {
    if (distance.relative > stage.relative) {
        stage.relative = distance.relative;
        stage.position = position;
    }
    stage.cosine_distance = std::max(stage.cosine_distance, distance.cosine_distance);
}

void ComparedRows::compare_logits(const Distance &distance, const std::vector<float> &kept, const float *values,
                                  LogitsReach &reach) {
    bitnet_logits_row_t row = {};
    row.struct_size = sizeof row;
    check(bitnet_compare_logits(kept.data(), values, 1, kept.size(), nullptr, &row, nullptr));
    reach.relative = std::max(reach.relative, distance.relative);
    reach.cosine_distance = std::max(reach.cosine_distance, distance.cosine_distance);
    reach.nmse = std::max(reach.nmse, row.nmse);
    reach.kl = std::max(reach.kl, row.kl);
    reach.max_abs = std::max(reach.max_abs, row.max_abs);
    reach.top1_equal = reach.top1_equal && row.top1_a == row.top1_b;
}

void ComparedRows::disturb(const bitnet_tensor_event_t &event, uint32_t r, const std::vector<float> &kept,
                           const float *values) {
    constexpr uint64_t stride = 0x9e3779b97f4a7c15u;  // 2^64 over the golden ratio: seeds far from each other
    const uint64_t key = key_of(event.stage, event.header.layer, event.header.position + int32_t(r));
    const uint64_t seed = key + uint64_t(noise_.seed) * stride;
    disturbed_.assign(values, values + event.row_elements);
    if (!noise_.held) {
        flip_one_code(disturbed_.data(), disturbed_.size(), seed);
    } else {
        if (noise_.seed > 0) round_otherwise(disturbed_.data(), disturbed_.size(), seed);
        hold_codes(disturbed_.data(), kept.data(), kept.size());
    }
    replace(event, r, disturbed_);
}

}  // namespace bitnet::envelope
