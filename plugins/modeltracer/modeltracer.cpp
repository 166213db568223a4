// The modeltracer sink: statistics, attention, logits, quantisation and cache of a model as it runs, and what is wrong
// with them. plugins/modeltracer/MODELTRACER.md says what it writes.
#include <bitnet_c.h>

#include <cstring>
#include <new>
#include <unistd.h>

#include "plugins/modeltracer/activations.h"
#include "plugins/modeltracer/fields.h"
#include "plugins/modeltracer/health.h"
#include "plugins/modeltracer/summary.h"
#include "plugins/output/file.h"
#include "plugins/output/record_text.h"

namespace bitnet::modeltracer {

namespace {

constexpr size_t kFlushBytes = 256 * 1024;  // lines are gathered up to here between step ends

struct Tracer {
    const bitnet_trace_host_t *host;
    Config config;
    Anomalies anomalies;
    Health health;
    Activations activations;
    Attention attention;
    LogitLens lens;
    Quantisation quantisation;
    KvCache kv;
    uint64_t n_forwards;
    bool kv_begun;  // the run's first step told the cache where it begins
    Buffer<float> scratch;
    JsonText text;     // whole lines not yet written
    JsonText summary;  // of the file for people
    OutputFile file, summary_file;
    pid_t pid;  // of the process that opened the trace
};

bitnet_status_t fail(const bitnet_trace_host_t *host, bitnet_status_t status, const char *text) {
    host->log(host, BITNET_LOG_ERROR, text);
    return status;
}

bitnet_status_t out_of_memory(Tracer *self) { return fail(self->host, BITNET_E_NOMEM, "out of memory"); }

bitnet_status_t write_out(Tracer *self) {
    if (!self->text.n) return BITNET_OK;
    const bool ok = output_write(&self->file, self->text.data, self->text.n);
    self->text.n = 0;
    return ok ? BITNET_OK : fail(self->host, BITNET_E_IO, self->file.reason);
}

Traced traced(const Tracer &self) {
    return {self.n_forwards, &self.anomalies, &self.attention, &self.lens, &self.quantisation, &self.kv};
}

// What this run traces, and its thresholds: a reader need not know the defaults.
void put_config(Tracer *self, uint32_t run) {
    const Config &config = self->config;
    JsonText *out = &self->text;
    begin_record(out, "modeltracer", run);
    put_integer(out, "schema", 1);
    put_bool(out, "activations", config.activations);
    put_bool(out, "attention", config.attention);
    put_bool(out, "logits", self->lens.lens);
    put_bool(out, "quantisation", self->quantisation.reference);
    put_bool(out, "kv", config.kv);
    put_text(out, "positions", config.all_positions ? "all" : "last");
    put_real(out, "explosion", config.explosion);
    put_real(out, "variance", config.variance);
    put_real(out, "vanishing", config.vanishing);
    put_real(out, "residual", config.residual);
    put_integer(out, "top_k", config.top_k);
    put_real(out, "weight_threshold", config.weight);
    put_real(out, "sink", config.sink);
    put_real(out, "uniform", config.uniform);
    put_real(out, "recency", config.recency);
    put_integer(out, "recency_window", config.recency_window);
    put_real(out, "collapse", config.collapse);
    put_integer(out, "attention_from", config.attention_from);
    put_integer(out, "attention_positions", config.attention_positions);
    put_integer(out, "top", config.top);
    put_key(out, "track");
    out->put('[');
    for (int i = 0; i < config.n_tracked; ++i) {
        if (i) out->put(',');
        out->put_signed(config.tracked[i]);
    }
    out->put(']');
    put_real(out, "quant_ok", config.quant_ok);
    put_real(out, "quant_critical", config.quant_critical);
    put_real(out, "eviction_rate", config.eviction_rate);
    put_real(out, "hit_rate", config.hit_rate);
    put_integer(out, "thrashing_window", config.thrashing_window);
    out->lit("}\n");
}

// Clears what the run before left.
void begin_run(Tracer *self, const bitnet_run_begin_event_t &event) {
    put_run_begin(&self->text, event);
    put_config(self, event.header.run);
    anomalies_begin_run(&self->anomalies, event.header.run);
    health_begin_run(&self->health);
    self->activations.n_layers_recorded = 0;
    attention_begin_run(&self->attention);
    lens_begin_run(&self->lens, event.hyperparameters);
    quantisation_begin_run(&self->quantisation);
    self->n_forwards = 0;
    self->kv_begun = false;
}

bool begin_forward(Tracer *self, const bitnet_step_event_t &event) {
    const int32_t position = event.header.position;
    put_step_begin(&self->text, event);
    anomalies_begin_forward(&self->anomalies);
    if (!self->kv_begun) kv_begin_run(&self->kv, position);
    self->kv_begun = true;
    return health_begin_forward(&self->health, position, event.n_tokens) &&
           activations_begin_forward(&self->activations, position, event.n_tokens) &&
           lens_begin_forward(&self->lens, position, event.n_tokens) &&
           quantisation_begin_forward(&self->quantisation, event);
}

bool end_forward(Tracer *self, const bitnet_step_event_t &event) {
    if (self->config.activations) activations_end_forward(&self->activations);
    if (self->lens.lens && !lens_end_forward(&self->lens)) return false;
    anomalies_end_forward(&self->anomalies);
    ++self->n_forwards;
    JsonText *out = &self->text;
    begin_record(out, "forward", event.header.run);
    put_integer(out, "seq", event.header.position);
    put_integer(out, "n", int64_t(event.n_tokens));
    put_integer(out, "status", event.status);
    put_integer(out, "anomalies", int64_t(self->anomalies.n_forward));
    put_integer(out, "propagated", int64_t(self->anomalies.n_propagated));
    put_text(out, "first_anomaly", self->anomalies.n_forward ? self->anomalies.first_of_forward : nullptr);
    out->lit("}\n");
    return true;
}

bitnet_status_t end_run(Tracer *self, const bitnet_run_end_event_t &event) {
    put_summary_record(&self->text, event.header.run, traced(*self));
    put_run_end(&self->text, event);
    if (!self->summary_file.path) return BITNET_OK;
    self->summary.n = 0;
    put_summary_text(&self->summary, event.header.run, traced(*self));
    if (self->summary.failed) return out_of_memory(self);
    const bool ok = output_write(&self->summary_file, self->summary.data, self->summary.n);
    return ok ? BITNET_OK : fail(self->host, BITNET_E_IO, self->summary_file.reason);
}

// Companions are integers, or scales: no part of this looks at them.
bool is_traced(const bitnet_tensor_event_t &event) { return event.stage >= 0 && event.stage <= BITNET_STAGE_COUNT; }

bool trace_row(Tracer *self, const bitnet_tensor_event_t &event, uint32_t row) {
    const char *data = static_cast<const char *>(event.data) + row * event.row_stride;
    const float *values = row_values(data, event.dtype, event.row_elements, &self->scratch);
    const bool is_float =
        event.dtype == BITNET_DTYPE_F32 || event.dtype == BITNET_DTYPE_F16 || event.dtype == BITNET_DTYPE_BF16;
    if (!values) return !is_float;
    if (self->config.activations) {
        const RowHealth health = health_row(&self->health, event, row, values);
        activations_row(&self->activations, event, row, values, health);
    }
    const bool is_attention = event.stage == BITNET_STAGE_ATTN_SCORES_SOFTMAX;
    if (is_attention && self->config.attention && !attention_row(&self->attention, event, row, values)) return false;
    if (self->lens.lens && event.stage == BITNET_STAGE_LAYER_OUT && !lens_layer_row(&self->lens, event, row, values))
        return false;
    if (!quantisation_row(&self->quantisation, event, row, values)) return false;
    return !self->lens.lens || event.stage != BITNET_STAGE_LOGITS || lens_logits_row(&self->lens, event, row, values);
}

bitnet_status_t trace_rows(Tracer *self, const bitnet_tensor_event_t &event) {
    if (!is_traced(event)) return BITNET_OK;
    for (uint32_t row = 0; row < event.n_rows; ++row) {
        if (!trace_row(self, event, row) || self->text.failed) return out_of_memory(self);
        if (self->text.n < kFlushBytes) continue;
        const bitnet_status_t status = write_out(self);
        if (status != BITNET_OK) return status;
    }
    return BITNET_OK;
}

bitnet_status_t trace_event(Tracer *self, const bitnet_event_t *event) {
    bool ok = true;
    bitnet_status_t status = BITNET_OK;
    switch (event->type) {
    case BITNET_EVENT_TENSOR: return trace_rows(self, *reinterpret_cast<const bitnet_tensor_event_t *>(event));
    case BITNET_EVENT_RUN_BEGIN: begin_run(self, *reinterpret_cast<const bitnet_run_begin_event_t *>(event)); break;
    case BITNET_EVENT_STEP_BEGIN:
        ok = begin_forward(self, *reinterpret_cast<const bitnet_step_event_t *>(event));
        break;
    case BITNET_EVENT_KV_STATE:
        ok = !self->config.kv || kv_state(&self->kv, *reinterpret_cast<const bitnet_kv_event_t *>(event));
        break;
    case BITNET_EVENT_STEP_END: ok = end_forward(self, *reinterpret_cast<const bitnet_step_event_t *>(event)); break;
    case BITNET_EVENT_RUN_END: status = end_run(self, *reinterpret_cast<const bitnet_run_end_event_t *>(event)); break;
    default: break;
    }
    if (!ok || self->text.failed) return out_of_memory(self);
    if (status != BITNET_OK) return status;
    // From here on a crash of the process costs nothing that was evaluated.
    const bool complete = event->type == BITNET_EVENT_STEP_END || event->type == BITNET_EVENT_RUN_END;
    return complete || self->text.n >= kFlushBytes ? write_out(self) : BITNET_OK;
}

bitnet_status_t tracer_event(void *state, const bitnet_event_t *event) {
    Tracer *self = static_cast<Tracer *>(state);
    if (getpid() == self->pid) return trace_event(self, event);
    self->text.n = 0;  // the parent writes those lines
    return fail(self->host, BITNET_E_UNSUPPORTED, "this process was forked from the one that opened the trace");
}

bitnet_status_t tracer_flush(void *state) {
    Tracer *self = static_cast<Tracer *>(state);
    return getpid() == self->pid ? write_out(self) : BITNET_OK;
}

void tracer_close(void *state) {
    Tracer *self = static_cast<Tracer *>(state);
    if (getpid() == self->pid) write_out(self);
    output_close(&self->file);
    output_close(&self->summary_file);
    self->health.tokens.release();
    self->health.sick_kv.release();
    self->health.input_scratch.release();
    self->activations.tokens.release();
    self->attention.layers.release();
    self->attention.top.release();
    self->lens.hidden.release();
    self->lens.have.release();
    self->lens.done.release();
    self->lens.final_logits.release();
    self->lens.logits.release();
    self->lens.ranks.release();
    self->quantisation.tokens.release();
    self->quantisation.pending.release();
    self->kv.recent.release();
    self->scratch.release();
    free(self->text.data);
    free(self->summary.data);
    free(self);
}

bitnet_status_t claim_files(Tracer *self) {
    const ConfigItem &path = self->config.path, &text = self->config.text;
    const bool ok = path.text ? output_claim(&self->file, path.value, path.n_value)
                              : output_claim_default(&self->file, ".modeltracer.json");
    if (!ok) return fail(self->host, BITNET_E_INVALID, self->file.reason);
    if (text.text && !output_claim(&self->summary_file, text.value, text.n_value))
        return fail(self->host, BITNET_E_INVALID, self->summary_file.reason);
    return BITNET_OK;
}

// The parts share the configuration and where findings go.
void connect(Tracer *self) {
    const bitnet_trace_host_t *host = self->host;
    self->anomalies.host = host;
    self->anomalies.out = &self->text;
    self->health.config = self->activations.config = self->attention.config = &self->config;
    self->lens.config = self->quantisation.config = self->kv.config = &self->config;
    self->health.anomalies = self->activations.anomalies = self->attention.anomalies = &self->anomalies;
    self->lens.anomalies = self->quantisation.anomalies = self->kv.anomalies = &self->anomalies;
    self->lens.host = self->quantisation.host = host;
    if (self->config.logits)
        self->lens.lens = static_cast<const bitnet_ext_lens_t *>(host->get_extension(host, BITNET_EXT_LENS));
    if (self->config.quantisation)
        self->quantisation.reference =
            static_cast<const bitnet_ext_reference_t *>(host->get_extension(host, BITNET_EXT_REFERENCE));
    if ((self->config.logits && !self->lens.lens) || (self->config.quantisation && !self->quantisation.reference))
        host->log(host, BITNET_LOG_INFO,
                  "logits (MLT-03) and quantisation (MLT-04) need the model, which this host does not have: left out");
}

bitnet_status_t tracer_open(void **state, const bitnet_trace_host_t *host, const char *config) {
    void *memory = malloc(sizeof(Tracer));
    if (!memory) return fail(host, BITNET_E_NOMEM, "out of memory");
    Tracer *self = new (memory) Tracer{};
    self->host = host;
    self->pid = getpid();
    char reason[kConfigReasonBytes];
    bitnet_status_t status = config_read(&self->config, config, reason) ? BITNET_OK : BITNET_E_INVALID;
    if (status != BITNET_OK) fail(host, status, reason);
    if (status == BITNET_OK) status = claim_files(self);
    if (status != BITNET_OK) {
        tracer_close(self);
        return status;
    }
    connect(self);
    *state = self;
    return BITNET_OK;
}

constexpr bitnet_trace_sink_t kSink = {
    sizeof(bitnet_trace_sink_t),
    BITNET_ABI_VERSION,
    "modeltracer",
    1u << BITNET_EVENT_RUN_BEGIN | 1u << BITNET_EVENT_STEP_BEGIN | 1u << BITNET_EVENT_TENSOR |
        1u << BITNET_EVENT_STEP_END | 1u << BITNET_EVENT_RUN_END | 1u << BITNET_EVENT_KV_STATE,
    tracer_open,
    tracer_event,
    tracer_flush,
    tracer_close,
};

}  // namespace

}  // namespace bitnet::modeltracer

extern "C" BITNET_API const bitnet_trace_sink_t *bitnet_trace_plugin_v1(const bitnet_trace_host_t *host);
extern "C" const bitnet_trace_sink_t *bitnet_trace_plugin_v1(const bitnet_trace_host_t *) {
    return &bitnet::modeltracer::kSink;
}
