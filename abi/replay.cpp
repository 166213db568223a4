// Section 13 of the header: replay.
#include "core/replay.h"

#include "abi/boundary.h"

struct bitnet_replay {
    bitnet_replay(const bitnet::LoadedModel &loaded, bitnet::Semantics semantics)
        : replay(loaded.model, *loaded.kernels, std::move(semantics)), text(to_text(replay.semantics())) {}

    const bitnet::Replay replay;
    const std::string text;
    std::atomic<bool> busy{false};
};

namespace bitnet {

namespace {

// Marks the replay as in use; Error(busy) when it is already.
class Turn {
public:
    explicit Turn(bitnet_replay_t &replay) : replay_(replay) {
        if (replay.busy.exchange(true, std::memory_order_acquire))
            fail(Status::busy, "the replay is in use by another thread");
    }
    ~Turn() { replay_.busy.store(false, std::memory_order_release); }
    Turn(const Turn &) = delete;
    Turn &operator=(const Turn &) = delete;

private:
    bitnet_replay_t &replay_;
};

bitnet_replay_t *create(const bitnet_model_t &model, const char *overrides) {
    Semantics semantics = model.loaded->model->semantics;
    if (overrides) apply_overrides(semantics, overrides);
    return new bitnet_replay(*model.loaded, std::move(semantics));
}

bitnet_operation_t describe(const OperationInfo &info) {
    bitnet_operation_t out{};
    out.stage = info.stage;
    out.layer = info.layer;
    out.dtype = info.dtype;
    out.row_elements = info.row_elements;
    out.n_inputs = uint32_t(info.n_inputs);
    for (int i = 0; i < info.n_inputs; ++i) {
        out.input_stage[i] = info.inputs[i].stage;
        out.input_layer[i] = info.inputs[i].layer;
        if (info.inputs[i].every_position) out.every_position |= 1u << i;
    }
    return out;
}

void run(const Replay &replay, const bitnet_replay_params_t &params, void *out, size_t *n) {
    require(n, "n");
    if (params.n_inputs > 0) require(params.inputs, "params->inputs");
    std::vector<RecordedRows> inputs;
    for (uint32_t i = 0; i < params.n_inputs; ++i) {
        const bitnet_rows_t &rows = params.inputs[i];
        inputs.push_back({rows.stage, rows.dtype, rows.n_rows, rows.row_elements, rows.row_stride, rows.data});
    }
    const ReplayRequest request = {params.stage, params.layer, inputs, params.positions};
    const size_t capacity = *n, need = replay.size_of(request);
    *n = need;
    if (!out) return;
    if (capacity < need) fail(Status::buffer, "the buffer holds %zu: expected at least %zu", capacity, need);
    replay.run(request, out);
}

}  // namespace

}  // namespace bitnet

using namespace bitnet;

extern "C" {

bitnet_status_t bitnet_replay_create(const bitnet_model_t *model, const char *semantics, bitnet_replay_t **out) {
    if (out) *out = nullptr;
    return guarded("bitnet_replay_create", [&] {
        require(out, "out");
        require(model, "model");
        *out = create(*model, semantics);
    });
}

void bitnet_replay_free(bitnet_replay_t *replay) { delete replay; }

const char *bitnet_replay_semantics(const bitnet_replay_t *replay) { return replay ? replay->text.c_str() : nullptr; }

size_t bitnet_replay_operation_count(const bitnet_replay_t *replay) {
    return replay ? replay->replay.operations().size() : 0;
}

bitnet_status_t bitnet_replay_operation(const bitnet_replay_t *replay, size_t index, bitnet_operation_t *out) {
    return guarded("bitnet_replay_operation", [&] {
        require(replay, "replay");
        const size_t count = bitnet_replay_operation_count(replay);
        if (index >= count) fail(Status::invalid, "index is %zu: there are %zu operations", index, count);
        fill(out, describe(replay->replay.operations()[index]), "out");
    });
}

bitnet_status_t bitnet_replay_run(bitnet_replay_t *replay, const bitnet_replay_params_t *given, void *out, size_t *n) {
    return guarded("bitnet_replay_run", [&] {
        require(replay, "replay");
        require(given, "params");
        const Turn turn(*replay);
        run(replay->replay, parameters(given, "params"), out, n);
    });
}

}  // extern "C"
