// Section 11 of the header: tracing a foreign engine's tensors into the same plugins.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <string_view>
#include <thread>

#include "abi/boundary.h"
#include "abi/trace_boundary.h"
#include "plugins/host/trace_host.h"

using namespace bitnet;

struct bitnet_trace {
    std::atomic<bool> active{false};  // whether a sink is attached: all that a call without one looks at
    std::mutex mutex;
    std::atomic<std::thread::id> owner{};  // who holds it: a sink that calls back would wait for itself
    TraceHost *host = nullptr;

    std::string engine, engine_version, model_path, model_hash, architecture, hyperparameters, semantics, isa, kv_type;
    std::vector<int32_t> tokens;  // ids from position 0 on, as far as they are known
    int32_t n_threads = 0, n_batch = 0;
    int n_layer = -1;  // -1: unknown

    bool step_open = false;
    int32_t step_position = 0;
    std::vector<int32_t> step_tokens;  // empty: unknown
    int32_t evaluated = 0;             // positions below it belong to the run

    ~bitnet_trace() { trace_host_destroy(host); }
};

namespace bitnet {
namespace {

constexpr int32_t rows_max = 1 << 20;

// The trace for one thread at a time.
class Held {
public:
    explicit Held(bitnet_trace_t *trace) : trace_(trace) {
        if (trace_->owner.load(std::memory_order_relaxed) == std::this_thread::get_id())
            fail(Status::busy, "the trace is in use by the sink that calls");
        trace_->mutex.lock();
        trace_->owner.store(std::this_thread::get_id(), std::memory_order_relaxed);
    }
    ~Held() {
        trace_->active.store(trace_host_active(trace_->host), std::memory_order_relaxed);
        trace_->owner.store(std::thread::id(), std::memory_order_relaxed);
        trace_->mutex.unlock();
    }
    Held(const Held &) = delete;
    Held &operator=(const Held &) = delete;

private:
    bitnet_trace_t *trace_;
};

// Sinks attach whether or not one is attached, everything else is done only if.
bool is_active(const bitnet_trace_t *trace) { return trace && trace->active.load(std::memory_order_relaxed); }

// "key=value,key=value", which readers take apart.
void check_pairs(const std::string &text, const char *field) {
    std::string_view rest = text;
    while (!rest.empty()) {
        const std::string_view pair = rest.substr(0, rest.find(','));
        const size_t equals = pair.find('=');
        if (equals == 0 || equals == std::string_view::npos)
            fail(Status::invalid, "params->%s: '%s': expected key=value,key=value", field,
                 quoted(pair.data(), pair.size()).c_str());
        rest.remove_prefix(std::min(pair.size() + 1, rest.size()));
    }
}

int value_of(const std::string &pairs, const std::string &key) {
    const std::string text = "," + pairs, wanted = "," + key + "=";
    const size_t at = text.find(wanted);
    return at == std::string::npos ? -1 : std::atoi(text.c_str() + at + wanted.size());
}

void check_hash(const std::string &hash) {
    const bool digits =
        std::all_of(hash.begin(), hash.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
    if (!hash.empty() && (hash.size() != 64 || !digits))
        fail(Status::invalid, "params->model_hash is '%s': expected 64 hex digits in lower case, or nothing",
             quoted(hash).c_str());
}

std::string text_of(const char *text) { return text ? text : ""; }

void attach(bitnet_trace_t &trace, const bitnet_trace_params_t &params) {
    char error[TRACE_ERROR_BYTES] = "";
    if (params.selection) check(trace_host_select(trace.host, params.selection, error), error);
    if (params.plugins) {
        if (!params.selection)
            if (const char *selection = secure_getenv("BITNET_TRACE_SELECT"))
                check(trace_host_select(trace.host, selection, error), error);
        check(trace_host_attach_list(trace.host, params.plugins, error), error);
    } else if (params.selection) {
        const char *plugins = secure_getenv("BITNET_TRACE_PLUGIN");
        trace_host_attach_list(trace.host, plugins, error);  // its failures are counted, logged and kept
    } else {
        trace_host_attach_environment(trace.host);
    }
}

std::unique_ptr<bitnet_trace_t> open(const bitnet_trace_params_t &params) {
    require(params.engine, "params->engine");
    if (!*params.engine) fail(Status::invalid, "params->engine is empty: expected a name such as 'my-engine'");
    if (params.flags) fail(Status::invalid, "params->flags is 0x%x: expected 0", params.flags);
    if (params.n_tokens) require(params.tokens, "params->tokens");
    auto trace = std::make_unique<bitnet_trace_t>();
    trace->engine = params.engine;
    trace->engine_version = text_of(params.engine_version);
    trace->model_path = text_of(params.model_path);
    trace->model_hash = text_of(params.model_hash);
    trace->architecture = text_of(params.architecture);
    trace->hyperparameters = text_of(params.hyperparameters);
    trace->semantics = text_of(params.semantics);
    trace->isa = text_of(params.isa);
    trace->kv_type = text_of(params.kv_type);
    trace->n_threads = params.n_threads;
    trace->n_batch = params.n_batch;
    if (params.n_tokens) trace->tokens.assign(params.tokens, params.tokens + params.n_tokens);
    check_hash(trace->model_hash);
    check_pairs(trace->hyperparameters, "hyperparameters");
    check_pairs(trace->semantics, "semantics");
    trace->n_layer = value_of(trace->hyperparameters, "n_layer");
    trace->host = make_trace_host();
    if (params.prompt && trace_host_set_prompt(trace->host, params.prompt, params.n_prompt_bytes) != BITNET_OK)
        throw std::bad_alloc();
    attach(*trace, params);
    trace->active = trace_host_active(trace->host);
    return trace;
}

void begin_run(bitnet_trace_t &trace) {
    TraceRun run{};
    run.engine = trace.engine.c_str();
    run.engine_version = trace.engine_version.c_str();
    run.model_path = trace.model_path.c_str();
    run.model_hash = trace.model_hash.c_str();
    run.architecture = trace.architecture.c_str();
    run.hyperparameters = trace.hyperparameters.c_str();
    run.semantics = trace.semantics.c_str();
    run.isa = trace.isa.c_str();
    run.kv_type = trace.kv_type.c_str();
    run.n_threads = trace.n_threads;
    run.n_batch = trace.n_batch;
    run.tokens = trace.step_tokens.empty() ? nullptr : trace.step_tokens.data();
    run.n_tokens = trace.step_tokens.size();
    trace.evaluated = 0;
    trace_host_begin_run(trace.host, &run);
}

void end_step(bitnet_trace_t &trace) {
    if (trace.step_open) trace_host_end_step(trace.host, BITNET_OK);
    trace.step_open = false;
}

void begin_step(bitnet_trace_t &trace, int32_t position, const int32_t *tokens, size_t n) {
    if (!tokens && size_t(position) + n <= trace.tokens.size()) tokens = trace.tokens.data() + position;
    trace.step_tokens.clear();
    if (tokens) trace.step_tokens.assign(tokens, tokens + n);
    trace.step_position = position;
    if (!trace_host_run_open(trace.host)) begin_run(trace);
    trace.evaluated = std::max(trace.evaluated, position + int32_t(n));
    trace.step_open = true;
    trace_host_begin_step(trace.host, position, tokens ? trace.step_tokens.data() : nullptr, n);
}

void check_positions(int32_t position, size_t n) {
    if (position < 0 || n < 1 || n > size_t(rows_max) || position > INT32_MAX - int32_t(n))
        fail(Status::invalid, "%zu positions from %d on: expected 1 to %d from 0 on", n, position, rows_max);
}

// Reports a sink's wish to stop, once for each step.
void stop_if_asked(bitnet_trace_t &trace) {
    const char *reason = trace_host_stop_reason(trace.host);
    if (!reason) return;
    const std::string text = reason;
    end_step(trace);
    fail(Status::user, "%s", text.c_str());
}

// What `name` adds to a tensor's place: "t0/blk3/q_proj", "all_layers_out".
void read_name(const bitnet_trace_t &trace, const char *name, bitnet_tensor_event_t &event) {
    event.stage = trace_stage_id(name, std::strlen(name));
    if (!event.stage) {
        std::string stages;
        for (int32_t stage = 1; stage <= BITNET_STAGE_COUNT; ++stage)
            stages += (stages.empty() ? "" : ", ") + std::string(trace_stage_name(stage));
        fail(Status::invalid, "stage '%s': expected one of %s, or a companion such as attn_norm.codes",
             quoted(name, std::strlen(name)).c_str(), stages.c_str());
    }
    const char *slash = std::strchr(name, '/');
    if (slash && name[0] == 't') {
        event.header.position = std::atoi(name + 1);
        event.header.layer = std::strncmp(slash, "/blk", 4) == 0 ? std::atoi(slash + 4) : -1;
    }
    if (std::string_view(slash ? std::strrchr(name, '/') + 1 : name) == "all_layers_out") {
        if (trace.n_layer < 1) fail(Status::invalid, "all_layers_out: expected n_layer in params->hyperparameters");
        event.header.layer = trace.n_layer - 1;
    }
}

size_t element_bytes(int32_t dtype) {
    switch (dtype) {
    case BITNET_DTYPE_F32:
    case BITNET_DTYPE_I32: return 4;
    case BITNET_DTYPE_F16:
    case BITNET_DTYPE_BF16: return 2;
    case BITNET_DTYPE_I8: return 1;
    default: fail(Status::invalid, "dtype is %d: expected BITNET_DTYPE_..., 0 to 4", dtype);
    }
}

// Elements of a row; checks that shape and bytes can be.
uint64_t count_elements(const uint64_t *shape, uint32_t n_dims, size_t bytes_each, const char *what) {
    if (n_dims < 1 || n_dims > 4) fail(Status::invalid, "%s: n_dims is %u: expected 1 to 4", what, n_dims);
    uint64_t n = 1;
    for (uint32_t i = 0; i < n_dims; ++i) {
        if (shape[i] < 1 || shape[i] > (uint64_t(1) << 40) / bytes_each / n)
            fail(Status::invalid, "%s: shape[%u] is %llu: expected at least 1, and a row below 1 TiB", what, i,
                 static_cast<unsigned long long>(shape[i]));
        n *= shape[i];
    }
    return n;
}

bitnet_tensor_event_t event_of(const bitnet_trace_t &trace, const bitnet_trace_tensor_t &t) {
    bitnet_tensor_event_t event{};
    event.header.layer = t.layer;
    event.header.position = t.position;
    event.stage = t.stage;
    if (!t.stage) {
        require(t.name, "tensor->name (stage is 0)");
        read_name(trace, t.name, event);
    }
    const char *name = trace_stage_name(event.stage);
    if (!name) fail(Status::invalid, "tensor->stage is %d: expected BITNET_STAGE_...", t.stage);
    const bool in_block = trace_stage_in_block(event.stage);
    const int32_t layer = event.header.layer;
    if (in_block ? layer < 0 || (trace.n_layer > 0 && layer >= trace.n_layer) : layer != -1)
        fail(Status::invalid, "%s at layer %d: expected %s", name, layer,
             !in_block           ? "-1, for it belongs to no block"
             : trace.n_layer > 0 ? format_text("0 to %d", trace.n_layer - 1).c_str()
                                 : "0 or more");
    event.n_rows = t.n_rows ? t.n_rows : 1;
    check_positions(event.header.position, event.n_rows);
    const size_t bytes_each = element_bytes(t.dtype);
    event.dtype = t.dtype;
    event.kernel = t.kernel;
    event.n_dims = t.n_dims;
    event.row_elements = count_elements(t.shape, t.n_dims, bytes_each, name);
    for (uint32_t i = 0; i < t.n_dims; ++i) event.shape[i] = t.shape[i];
    const uint64_t row_bytes = event.row_elements * bytes_each;
    event.row_stride = t.row_stride ? t.row_stride : row_bytes;
    if (event.row_stride < row_bytes)
        fail(Status::invalid, "%s: row_stride is %llu: expected 0, or at least the %llu bytes of a row", name,
             static_cast<unsigned long long>(t.row_stride), static_cast<unsigned long long>(row_bytes));
    require(t.data, "tensor->data");
    event.data = t.data;
    event.ns = t.ns;
    if (t.n_inputs) require(t.inputs, "tensor->inputs");
    for (uint32_t i = 0; i < t.n_inputs; ++i) {
        const bitnet_tensor_input_t &input = t.inputs[i];
        require(input.data, "tensor->inputs[i].data");
        const uint64_t n = count_elements(input.shape, input.n_dims, element_bytes(input.dtype), "tensor->inputs[i]");
        if (input.row_elements != n)
            fail(Status::invalid, "tensor->inputs[%u].row_elements is %llu: expected %llu, the product of its shape", i,
                 static_cast<unsigned long long>(input.row_elements), static_cast<unsigned long long>(n));
    }
    event.n_inputs = t.n_inputs;
    event.inputs = t.inputs;
    return event;
}

void emit(bitnet_trace_t &trace, const bitnet_trace_tensor_t &tensor) {
    bitnet_tensor_event_t event = event_of(trace, tensor);
    const int32_t position = event.header.position, end = position + int32_t(event.n_rows);
    if (!trace.step_open || end > trace.evaluated) {
        const int32_t first = trace.step_open ? std::max(position, trace.evaluated) : position;
        end_step(trace);
        begin_step(trace, first, nullptr, size_t(end - first));
    }
    event.first_row = uint32_t(std::max(position - trace.step_position, 0));
    trace_host_tensor(trace.host, &event, nullptr);
    stop_if_asked(trace);
}

// Out of line, so that a call with nothing attached is a load, a branch and a return.
[[gnu::noinline]] bitnet_status_t emit_guarded(bitnet_trace_t *trace, const bitnet_trace_tensor_t *tensor) {
    return guarded("bitnet_trace_emit", [&] {
        require(tensor, "tensor");
        const bitnet_trace_tensor_t known = parameters(tensor, "tensor");
        Held held(trace);
        emit(*trace, known);
    });
}

}  // namespace
}  // namespace bitnet

extern "C" {

bitnet_status_t bitnet_trace_open(const bitnet_trace_params_t *params, bitnet_trace_t **out) {
    if (out) *out = nullptr;
    return guarded("bitnet_trace_open", [&] {
        require(out, "out");
        require(params, "params");
        *out = open(parameters(params, "params")).release();
    });
}

void bitnet_trace_close(bitnet_trace_t *trace) {
    if (!trace) return;
    if (is_active(trace)) bitnet_trace_end(trace);
    delete trace;
}

int32_t bitnet_trace_enabled(const bitnet_trace_t *trace) { return is_active(trace); }

int32_t bitnet_trace_wants(const bitnet_trace_t *trace, int32_t stage, int32_t layer, int32_t position) {
    if (!is_active(trace)) return 0;
    int32_t wanted = 0;
    guarded("bitnet_trace_wants", [&] {
        Held held(const_cast<bitnet_trace_t *>(trace));
        wanted = trace_host_selects(trace->host, stage, layer, position);
    });
    return wanted;
}

bitnet_status_t bitnet_trace_add_sink(bitnet_trace_t *trace, const bitnet_trace_sink_t *sink, void *user) {
    return guarded("bitnet_trace_add_sink", [&] {
        if (!trace) return;
        require(sink, "sink");
        Held held(trace);
        end_step(*trace);
        char error[TRACE_ERROR_BYTES] = "";
        check(trace_host_attach_sink(trace->host, sink, user, "", error), error);
    });
}

bitnet_status_t bitnet_trace_add_plugin(bitnet_trace_t *trace, const char *path, const char *config) {
    return guarded("bitnet_trace_add_plugin", [&] {
        if (!trace) return;
        require(path, "path");
        Held held(trace);
        end_step(*trace);
        char error[TRACE_ERROR_BYTES] = "";
        check(trace_host_load_plugin(trace->host, path, config ? config : "", error), error);
    });
}

bitnet_status_t bitnet_trace_reselect(bitnet_trace_t *trace, const char *selection) {
    return guarded("bitnet_trace_reselect", [&] {
        if (!trace) return;
        Held held(trace);
        end_step(*trace);
        char error[TRACE_ERROR_BYTES] = "";
        check(trace_host_select(trace->host, selection ? selection : "", error), error);
    });
}

bitnet_status_t bitnet_trace_step(bitnet_trace_t *trace, int32_t position, const int32_t *tokens, size_t n) {
    if (!is_active(trace)) return BITNET_OK;
    return guarded("bitnet_trace_step", [&] {
        check_positions(position, n);
        Held held(trace);
        end_step(*trace);
        if (position < trace->evaluated && trace_host_run_open(trace->host)) trace_host_end_run(trace->host);
        begin_step(*trace, position, tokens, n);
        stop_if_asked(*trace);
    });
}

bitnet_status_t bitnet_trace_emit(bitnet_trace_t *trace, const bitnet_trace_tensor_t *tensor) {
    if (!is_active(trace)) return BITNET_OK;
    return emit_guarded(trace, tensor);
}

bitnet_status_t bitnet_trace_kv(bitnet_trace_t *trace, const bitnet_kv_state_t *kv) {
    if (!is_active(trace)) return BITNET_OK;
    return guarded("bitnet_trace_kv", [&] {
        require(kv, "kv");
        const bitnet_kv_state_t known = parameters(kv, "kv");
        Held held(trace);
        if (!trace->step_open) fail(Status::invalid, "no step is open: expected bitnet_trace_step or an emit before");
        trace_host_kv_state(trace->host, trace->evaluated - 1, &known);
        stop_if_asked(*trace);
    });
}

bitnet_status_t bitnet_trace_end(bitnet_trace_t *trace) {
    if (!is_active(trace)) return BITNET_OK;
    return guarded("bitnet_trace_end", [&] {
        Held held(trace);
        end_step(*trace);
        trace->evaluated = 0;
        if (trace_host_end_run(trace->host) == BITNET_OK) return;
        bitnet_trace_stats_t stats{};
        trace_host_stats(trace->host, &stats);
        fail(Status::plugin, "%s", stats.last_failure);
    });
}

bitnet_status_t bitnet_trace_statistics(const bitnet_trace_t *trace, bitnet_trace_stats_t *out) {
    return guarded("bitnet_trace_statistics", [&] {
        bitnet_trace_stats_t stats{};
        if (trace) {
            Held held(const_cast<bitnet_trace_t *>(trace));
            trace_host_stats(trace->host, &stats);
        }
        fill(out, stats, "out");
    });
}

}  // extern "C"
