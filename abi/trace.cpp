// Section 10 of the header: tracing.
#include <dlfcn.h>

#include <algorithm>
#include <cstdio>

#include "abi/boundary.h"
#include "abi/trace_boundary.h"
#include "core/probe.h"
#include "plugins/host/trace_host.h"

namespace bitnet {

// Folder of the object this code was linked into.
static const char *library_folder() {
    static const std::string folder = [] {
        Dl_info info;
        if (!dladdr(reinterpret_cast<const void *>(&library_folder), &info) || !info.dli_fname) return std::string();
        const std::string path = info.dli_fname;
        const size_t slash = path.rfind('/');
        return slash == std::string::npos ? std::string() : path.substr(0, slash);
    }();
    return folder.c_str();
}

static void log_from_host(void *, int32_t level, const char *text) { log_line(level, text); }

static bitnet_status_t catch_exceptions(bitnet_status_t (*body)(void *), void *argument, char *text,
                                        uint64_t capacity) {
    try {
        return body(argument);
    } catch (const std::exception &e) {
        std::snprintf(text, capacity, "threw an exception: %s", e.what());
    } catch (...) {
        std::snprintf(text, capacity, "threw an exception that is no std::exception");
    }
    return BITNET_E_PLUGIN;
}

TraceHost *make_trace_host() {
    TraceHost *host = trace_host_create(library_folder(), log_from_host, nullptr);
    if (!host) throw std::bad_alloc();
    trace_host_set_guard(host, catch_exceptions);
    return host;
}

void check(bitnet_status_t status, const char *error) {
    if (status != BITNET_OK) fail(static_cast<Status>(status), "%s", error);
}

static const float *ask_lens(void *user, const float *hidden) { return static_cast<Tracing *>(user)->lens(hidden); }

static const float *ask_linear(void *user, int32_t stage, int32_t layer, uint32_t row) {
    return static_cast<Tracing *>(user)->reference_linear(stage, layer, int(row));
}

static const float *ask_logits(void *user, int32_t position) {
    return static_cast<Tracing *>(user)->reference_logits(position);
}

Tracing::~Tracing() { trace_host_destroy(host_); }

TraceHost *Tracing::host() {
    if (host_) return host_;
    host_ = make_trace_host();
    const Hyperparameters &hp = loaded_.model->hp;
    const TraceEngine engine = {this, hp.n_vocab, hp.n_embd, ask_lens, ask_linear, ask_logits};
    trace_host_set_engine(host_, &engine);
    if (environment_) trace_host_attach_environment(host_);
    return host_;
}

// The forward pass asks state.tracer alone: without a sink it is null.
void Tracing::update() { state_.tracer = host_ && trace_host_active(host_) ? this : nullptr; }

void Tracing::attach_environment() {
    environment_ = true;
    if (!trace_host_environment_wants()) return;  // a host that comes later asks again, for BITNET_TRACE_SELECT
    host();
    update();
}

void Tracing::set_sink(const bitnet_trace_sink_t *sink, void *user) {
    if (!sink) {
        if (host_) trace_host_detach_all(host_);
    } else {
        char error[TRACE_ERROR_BYTES] = "";
        check(trace_host_attach_sink(host(), sink, user, "", error), error);
    }
    update();
}

void Tracing::load_plugin(const char *path, const char *config) {
    char error[TRACE_ERROR_BYTES] = "";
    check(trace_host_load_plugin(host(), path, config ? config : "", error), error);
    update();
}

void Tracing::select(const char *selection) {
    char error[TRACE_ERROR_BYTES] = "";
    check(trace_host_select(host(), selection ? selection : "", error), error);
}

void Tracing::set_prompt(const char *text, size_t n_bytes) {
    if (trace_host_set_prompt(host(), text, n_bytes) != BITNET_OK) throw std::bad_alloc();
}

bitnet_trace_stats_t Tracing::stats() const {
    bitnet_trace_stats_t stats{};
    if (host_) trace_host_stats(host_, &stats);
    return stats;
}

bitnet_status_t Tracing::end_run() {
    const bitnet_status_t status = host_ ? trace_host_end_run(host_) : BITNET_OK;
    update();
    return status;
}

void Tracing::begin_run(const EvalRequest &request) {
    const Hyperparameters &hp = loaded_.model->hp;
    const std::string hyperparameters = format_text(
        "n_vocab=%d,n_ctx_train=%d,n_embd=%d,n_layer=%d,n_ff=%d,n_head=%d,n_head_kv=%d,head_dim=%d,n_rot=%d",
        hp.n_vocab, hp.n_ctx_train, hp.n_embd, hp.n_layer, hp.n_ff, hp.n_head, hp.n_head_kv, hp.head_dim, hp.n_rot);
    TraceRun run{};
    run.engine = "bitnet-c";
    run.engine_version = bitnet_version();
    run.model_path = loaded_.model->file().name().c_str();
    run.model_hash = loaded_.hash().c_str();
    run.architecture = loaded_.model->architecture.c_str();
    run.hyperparameters = hyperparameters.c_str();
    run.semantics = loaded_.semantics_text.c_str();
    run.isa = state_.kernels.isa;
    run.kv_type = state_.config.kv == KvType::f32 ? "f32" : "f16";
    run.n_threads = state_.config.n_threads;
    run.n_batch = state_.config.n_batch;
    run.tokens = request.embeddings ? nullptr : request.tokens;
    run.n_tokens = request.n;
    trace_host_begin_run(host_, &run);
}

void Tracing::eval(const EvalRequest &request) {
    if (!state_.tracer) return bitnet::eval(state_, request);
    validate(state_, request);
    const int position = state_.position;
    if (!trace_host_run_open(host_)) {
        begin_run(request);
        knows_tokens_ = position == 0;
        tokens_.clear();
    }
    knows_tokens_ = knows_tokens_ && !request.embeddings;
    if (knows_tokens_) tokens_.insert(tokens_.end(), request.tokens, request.tokens + request.n);
    trace_host_begin_step(host_, state_.position, request.embeddings ? nullptr : request.tokens, request.n);
    // A failed step ends its run: its positions will be evaluated again, and a run has one record of each.
    const auto give_up = [this](bitnet_status_t status) {
        trace_host_end_step(host_, status);
        end_run();
    };
    try {
        bitnet::eval(state_, request);
    } catch (const Error &e) {
        give_up(bitnet_status_t(e.status));
        throw;
    } catch (...) {
        give_up(BITNET_E_NOMEM);
        throw;
    }
    show_kv_state(position);
    trace_host_end_step(host_, BITNET_OK);
    update();  // a sink that failed is gone
}

void Tracing::show_kv_state(int position_before) {
    bitnet_kv_state_t kv{};
    kv.n_valid = state_.position;
    kv.n_max = state_.config.n_ctx;
    kv.n_bytes = state_.kv_allocated();
    kv.n_bytes_used = state_.packed_kv_bytes(state_.position);
    kv.n_hits = uint64_t(position_before);
    kv.n_misses = uint64_t(state_.position - position_before);
    kv.n_evicted = uint64_t(std::max(held_ - position_before, 0));
    held_ = state_.position;
    trace_host_kv_state(host_, state_.position - 1, &kv);
}

const char *Tracing::stop_reason() noexcept { return trace_host_stop_reason(host_); }

const float *Tracing::lens(const float *hidden) noexcept {
    try {
        const Hyperparameters &hp = loaded_.model->hp;
        lens_.resize(size_t(hp.n_embd) + size_t(hp.n_vocab));
        float *logits = lens_.data() + hp.n_embd;
        bitnet::lens(state_, hidden, lens_.data(), logits);
        return logits;
    } catch (...) {
        return nullptr;
    }
}

const float *Tracing::reference_linear(int stage, int layer, int row) noexcept {
    try {
        return unquantised_linear(state_, stage, layer, row, linear_) ? linear_.data() : nullptr;
    } catch (...) {
        return nullptr;
    }
}

const float *Tracing::reference_logits(int position) noexcept {
    if (!knows_tokens_ || position < 0 || size_t(position) >= tokens_.size()) return nullptr;
    try {
        if (!reference_)
            reference_ =
                std::make_unique<Reference>(*loaded_.model, loaded_.semantics_text, *loaded_.kernels, state_.config);
        return reference_->logits(tokens_, position);
    } catch (...) {
        return nullptr;
    }
}

bool Tracing::wants(int stage, int layer, int first_position, int n_rows) noexcept {
    return trace_host_wants(host_, stage, layer, first_position, n_rows) != 0;
}

void Tracing::emit(const StageRows &rows) noexcept {
    bitnet_tensor_event_t event{};
    event.header.layer = rows.layer;
    event.header.position = rows.first_position;
    event.stage = rows.stage;
    event.dtype = rows.dtype;
    event.kernel = rows.kernel;
    event.n_rows = uint32_t(rows.n_rows);
    event.first_row = uint32_t(rows.first_row);
    event.n_dims = uint32_t(rows.n_dims);
    event.row_elements = 1;
    for (int i = 0; i < rows.n_dims; ++i) {
        event.shape[i] = uint64_t(rows.shape[i]);
        event.row_elements *= event.shape[i];
    }
    event.row_stride = rows.row_stride;
    event.data = rows.data;
    trace_host_tensor(host_, &event, rows.data);
}

}  // namespace bitnet

using namespace bitnet;

extern "C" {

const char *bitnet_stage_name(int32_t stage) { return trace_stage_name(stage); }

bitnet_status_t bitnet_trace_set_sink(bitnet_ctx_t *ctx, const bitnet_trace_sink_t *sink, void *user) {
    return guarded("bitnet_trace_set_sink", [&] {
        Entry entry(ctx);
        ctx->tracing.set_sink(sink, user);
    });
}

bitnet_status_t bitnet_trace_load_plugin(bitnet_ctx_t *ctx, const char *path, const char *config) {
    return guarded("bitnet_trace_load_plugin", [&] {
        require(path, "path");
        Entry entry(ctx);
        ctx->tracing.load_plugin(path, config);
    });
}

bitnet_status_t bitnet_trace_select(bitnet_ctx_t *ctx, const char *selection) {
    return guarded("bitnet_trace_select", [&] {
        Entry entry(ctx);
        ctx->tracing.select(selection);
    });
}

bitnet_status_t bitnet_trace_set_prompt(bitnet_ctx_t *ctx, const char *text, size_t n_bytes) {
    return guarded("bitnet_trace_set_prompt", [&] {
        Entry entry(ctx);
        ctx->tracing.set_prompt(text, text ? (n_bytes == SIZE_MAX ? std::strlen(text) : n_bytes) : 0);
    });
}

bitnet_status_t bitnet_trace_get_stats(const bitnet_ctx_t *ctx, bitnet_trace_stats_t *out) {
    return guarded("bitnet_trace_get_stats", [&] {
        require(ctx, "ctx");
        fill(out, ctx->tracing.stats(), "out");
    });
}

bitnet_status_t bitnet_trace_end_run(bitnet_ctx_t *ctx) {
    return guarded("bitnet_trace_end_run", [&] {
        Entry entry(ctx);
        const bitnet_status_t status = ctx->tracing.end_run();
        if (status != BITNET_OK) fail(static_cast<Status>(status), "%s", ctx->tracing.stats().last_failure);
    });
}

}  // extern "C"
