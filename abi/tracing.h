// Connects a context to the trace host: implements core's Tracer, begins and ends runs and steps.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "abi/reference.h"
#include "bitnet_c.h"
#include "core/forward.h"
#include "core/trace.h"

struct TraceHost;

namespace bitnet {

struct LoadedModel;

class Tracing final : public Tracer {
public:
    Tracing(const LoadedModel &loaded, State &state) : loaded_(loaded), state_(state) {}
    ~Tracing() override;

    void attach_environment();  // BITNET_TRACE_PLUGIN and BITNET_TRACE_SELECT, now and for a host made later
    void set_sink(const bitnet_trace_sink_t *sink, void *user);
    void load_plugin(const char *path, const char *config);
    void select(const char *selection);
    void set_prompt(const char *text, size_t n_bytes);
    bitnet_trace_stats_t stats() const;
    bitnet_status_t end_run();

    // Evaluates; with sinks attached the eval is a step of a run.
    void eval(const EvalRequest &request);

    bool wants(int stage, int layer, int first_position, int n_rows) noexcept override;
    void emit(const StageRows &rows) noexcept override;
    const char *stop_reason() noexcept override;

    // What sinks ask through the host (TraceEngine); null when it cannot be had.
    const float *lens(const float *hidden) noexcept;
    const float *reference_linear(int stage, int layer, int row) noexcept;
    const float *reference_logits(int position) noexcept;

private:
    TraceHost *host();
    void begin_run(const EvalRequest &request);
    void update();
    void show_kv_state(int position_before);

    const LoadedModel &loaded_;
    State &state_;
    bool environment_ = false;
    TraceHost *host_ = nullptr;  // made when first needed
    int held_ = 0;               // positions in the cache after the step before
    bool knows_tokens_ = false;  // of the run, from position 0 on
    std::vector<int32_t> tokens_;
    std::vector<float> lens_, linear_;  // results that a sink borrows
    std::unique_ptr<Reference> reference_;
};

}  // namespace bitnet
