#include "plugins/modeltracer/anomalies.h"

#include <cstring>

#include "plugins/modeltracer/fields.h"

namespace bitnet::modeltracer {

namespace {

struct Kind {
    const char *name;
    const char *words;  // before the value
};
constexpr Kind kKinds[kAnomalies] = {
    {"nan", ""},
    {"inf", ""},
    {"explosion", "explosion: "},
    {"variance", "standard deviation "},
    {"vanishing", "vanishing: standard deviation "},
    {"residual", "residual dominance: ratio "},
    {"attention_sink", "attention sink: every head's weight at position 0 is at least "},
    {"attention_uniform", "uniform attention: every head's entropy, as a part of the largest possible, is at least "},
    {"attention_collapse", "attention collapse: every head's entropy in nats is at most "},
    {"quantisation", "quantisation damage: cosine "},
    {"quantised_logits", "quantisation damage of the logits: cosine "},
    {"kv_eviction_rate", "KV cache: part of the steps with evictions "},
    {"kv_thrashing", "KV cache thrashing: mean hit rate "},
};

void put_sentence(JsonText *out, const Finding &finding) {
    put_words(out, "position ");
    out->put_signed(finding.position);
    if (finding.layer >= 0) {
        put_words(out, ", layer ");
        out->put_signed(finding.layer);
    }
    if (finding.stage) {
        put_words(out, ", ");
        put_words(out, finding.stage);
    }
    put_words(out, ": ");
    put_words(out, kKinds[int(finding.what)].words);
    put_plain(out, finding.value);
    if (finding.index >= 0) {
        put_words(out, " at element ");
        out->put_signed(finding.index);
    }
    if (finding.limit > 0) {
        put_words(out, ", limit ");
        put_plain(out, finding.limit);
    }
    if (finding.inputs == Inputs::healthy) put_words(out, "; its inputs are healthy: it arises here");
    if (finding.inputs == Inputs::not_traced) put_words(out, "; not all of its inputs are traced");
}

void put_record(JsonText *out, uint32_t run, const Finding &finding, const char *sentence) {
    begin_record(out, "anomaly", run);
    put_text(out, "class", kKinds[int(finding.what)].name);
    put_integer(out, "seq", finding.position);
    put_integer(out, "layer", finding.layer);
    put_text(out, "stage", finding.stage);
    put_key(out, "index");
    if (finding.index >= 0)
        out->put_signed(finding.index);
    else
        out->lit("null");
    put_real(out, "value", finding.value);
    put_key(out, "limit");
    if (finding.limit > 0)
        out->put_number(finding.limit);
    else
        out->lit("null");
    const char *inputs = finding.inputs == Inputs::healthy      ? "healthy"
                         : finding.inputs == Inputs::sick       ? "sick"
                         : finding.inputs == Inputs::not_traced ? "not traced"
                                                                : nullptr;
    put_text(out, "inputs", inputs);
    put_text(out, "text", sentence);
    out->lit("}\n");
}

}  // namespace

const char *anomaly_name(int anomaly) { return kKinds[anomaly].name; }

void anomalies_begin_run(Anomalies *self, uint32_t run) {
    const bitnet_trace_host_t *host = self->host;
    JsonText *out = self->out;
    *self = Anomalies{};
    self->host = host, self->out = out, self->run = run;
}

void anomalies_begin_forward(Anomalies *self) {
    self->n_forward = self->n_propagated = 0;
    self->first_of_forward[0] = 0;
}

void anomalies_add(Anomalies *self, const Finding &finding) {
    ++self->n_forward;
    ++self->n_run;
    ++self->n_of[int(finding.what)];
    if (self->n_forward > kRecordsPerForward || self->out->failed) return;
    JsonText *out = self->out;
    const size_t before = out->n;
    put_sentence(out, finding);  // in the place of what comes: its bytes are taken back
    out->put('\0');
    if (out->failed) return;
    char sentence[kAnomalyTextBytes];
    snprintf(sentence, sizeof sentence, "%s", out->data + before);
    out->n = before;
    put_record(out, self->run, finding, sentence);
    if (self->n_forward == 1) memcpy(self->first_of_forward, sentence, sizeof sentence);
    if (self->n_run > 1) return;
    memcpy(self->first_of_run, sentence, sizeof sentence);
    char line[kAnomalyTextBytes + 32];
    snprintf(line, sizeof line, "first anomaly: %s", sentence);
    self->host->log(self->host, BITNET_LOG_WARN, line);
}

void anomalies_add_propagated(Anomalies *self) {
    ++self->n_propagated;
    ++self->n_run_propagated;
}

void anomalies_end_forward(Anomalies *self) {
    if (self->n_forward || self->n_propagated) ++self->n_forwards;
}

}  // namespace bitnet::modeltracer
