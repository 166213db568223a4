// A host driven by hand, and a sink that keeps what it is given.
#pragma once

#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "plugins/host/trace_host.h"

namespace bitnet::test {

inline std::vector<std::string> &logged() {
    static std::vector<std::string> lines;
    return lines;
}

// Declare it after the sinks: its end still delivers to them.
struct Host {
    TraceHost *host;
    char error[TRACE_ERROR_BYTES] = "";

    explicit Host(const char *library_dir = nullptr) {
        logged().clear();
        host = trace_host_create(
            library_dir, [](void *, int32_t, const char *text) { logged().push_back(text); }, nullptr);
    }
    ~Host() { trace_host_destroy(host); }
    Host(const Host &) = delete;

    bitnet_trace_stats_t stats() const {
        bitnet_trace_stats_t out = {};
        trace_host_stats(host, &out);
        return out;
    }

    void begin_run(const std::vector<int32_t> &tokens = {1, 2}) {
        TraceRun run = {};
        run.engine = "test-engine";
        run.engine_version = "9.9";
        run.model_path = "/models/tiny.gguf";
        run.model_hash = "00ff";
        run.architecture = "bitnet-b1.58";
        run.hyperparameters = "n_layer=4,eps=1e-05,name=abc,bad=01,neg=-3.5E+2,dot=1.,empty=";
        run.semantics = "activation=relu2,eps=1e-05";
        run.isa = "scalar";
        run.kv_type = "f32";
        run.n_threads = 3;
        run.n_batch = 256;
        run.tokens = tokens.data();
        run.n_tokens = tokens.size();
        trace_host_begin_run(host, &run);
    }

    // One stage of rows stored one after another.
    void tensor(int32_t stage, int32_t layer, int32_t position, std::vector<float> &values, uint32_t n_rows,
                uint32_t first_row = 0) {
        bitnet_tensor_event_t rows = {};
        rows.header.layer = layer;
        rows.header.position = position;
        rows.stage = stage;
        rows.dtype = BITNET_DTYPE_F32;
        rows.kernel = "test.kernel";
        rows.n_rows = n_rows;
        rows.first_row = first_row;
        rows.n_dims = 1;
        rows.row_elements = rows.shape[0] = values.size() / n_rows;
        rows.row_stride = rows.row_elements * sizeof(float);
        rows.data = values.data();
        trace_host_tensor(host, &rows, values.data());
    }
};

// Owned copies of events.
struct Seen {
    uint32_t type, flags, run;
    uint64_t seq;
    int32_t layer, position, stage;
    uint32_t n_rows, first_row;
    std::string stage_name;
    std::vector<float> values;
    uint64_t ns;
};

struct Recorder {
    bitnet_trace_sink_t table;
    std::vector<Seen> seen;
    const bitnet_trace_host_t *host = nullptr;
    int n_closed = 0, n_flushed = 0;
    std::function<bitnet_status_t(const bitnet_event_t *)> on_event;

    explicit Recorder(uint64_t want = ~uint64_t(0)) {
        table = {sizeof table, BITNET_ABI_VERSION, "recorder", want, open, event, flush, close};
    }

    static bitnet_status_t open(void **state, const bitnet_trace_host_t *host, const char *) {
        static_cast<Recorder *>(*state)->host = host;
        return BITNET_OK;
    }
    static bitnet_status_t event(void *state, const bitnet_event_t *header) {
        Recorder *self = static_cast<Recorder *>(state);
        Seen seen = {
            header->type, header->flags, header->run, header->seq, header->layer, header->position, 0, 0, 0, "", {}, 0};
        if (header->type == BITNET_EVENT_TENSOR) {
            const auto *tensor = reinterpret_cast<const bitnet_tensor_event_t *>(header);
            seen.stage = tensor->stage;
            seen.n_rows = tensor->n_rows;
            seen.first_row = tensor->first_row;
            seen.stage_name = tensor->stage_name;
            seen.ns = tensor->ns;
            for (uint32_t r = 0; tensor->dtype == BITNET_DTYPE_F32 && r < tensor->n_rows; ++r) {
                const char *row = static_cast<const char *>(tensor->data) + r * tensor->row_stride;
                const float *values = reinterpret_cast<const float *>(row);
                seen.values.insert(seen.values.end(), values, values + tensor->row_elements);
            }
        }
        self->seen.push_back(seen);
        return self->on_event ? self->on_event(header) : BITNET_OK;
    }
    static bitnet_status_t flush(void *state) {
        ++static_cast<Recorder *>(state)->n_flushed;
        return BITNET_OK;
    }
    static void close(void *state) { ++static_cast<Recorder *>(state)->n_closed; }

    std::vector<Seen> tensors() const {
        std::vector<Seen> out;
        for (const Seen &s : seen) {
            if (s.type == BITNET_EVENT_TENSOR) out.push_back(s);
        }
        return out;
    }
};

// An environment variable for one scope.
struct Env {
    std::string name;
    Env(const char *n, const std::string &value) : name(n) { setenv(n, value.c_str(), 1); }
    ~Env() { unsetenv(name.c_str()); }
};

}  // namespace bitnet::test
