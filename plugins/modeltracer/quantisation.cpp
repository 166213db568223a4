#include "plugins/modeltracer/quantisation.h"

#include <cmath>
#include <cstring>

#include "plugins/modeltracer/fields.h"

namespace bitnet::modeltracer {

Error error_of(const float *quantised, const float *exact, size_t n) {
    double dot = 0, quantised_squares = 0, exact_squares = 0, error_squares = 0, max_abs = 0;
    for (size_t i = 0; i < n; ++i) {
        const double q = quantised[i], e = exact[i], error = std::fabs(q - e);
        dot += q * e;
        quantised_squares += q * q;
        exact_squares += e * e;
        error_squares += error * error;
        if (!(error <= max_abs)) max_abs = error;  // a NaN stays
    }
    Error out = {n ? error_squares / double(n) : 0, max_abs, 0, HUGE_VAL};
    if (quantised_squares != 0 && exact_squares != 0)
        out.cosine = dot / (std::sqrt(quantised_squares) * std::sqrt(exact_squares));
    else if (quantised_squares == 0 && exact_squares == 0)
        out.cosine = 1;
    if (error_squares != 0) out.snr_db = 10 * std::log10(exact_squares / error_squares);
    return out;
}

namespace {

// log of the sum of exp(logits)
double log_sum(const float *logits, size_t n) {
    double largest = -HUGE_VAL, sum = 0;
    for (size_t i = 0; i < n; ++i) largest = double(logits[i]) > largest ? double(logits[i]) : largest;
    for (size_t i = 0; i < n; ++i) sum += std::exp(double(logits[i]) - largest);
    return largest + std::log(sum);
}

}  // namespace

double kl_divergence(const float *quantised, const float *exact, size_t n) {
    const double log_q = log_sum(quantised, n), log_e = log_sum(exact, n);
    double sum = 0;
    for (size_t i = 0; i < n; ++i) {
        const double e = double(exact[i]) - log_e, q = double(quantised[i]) - log_q, p = std::exp(e);
        if (p != 0) sum += p * (e - q);
    }
    return sum;
}

double negative_log_likelihood(const float *logits, size_t n, size_t token) {
    return log_sum(logits, n) - double(logits[token]);
}

namespace {

bool is_linear(int32_t stage) {
    switch (stage) {
    case BITNET_STAGE_Q_PROJ:
    case BITNET_STAGE_K_PROJ:
    case BITNET_STAGE_V_PROJ:
    case BITNET_STAGE_ATTN_OUT:
    case BITNET_STAGE_FFN_GATE:
    case BITNET_STAGE_FFN_UP:
    case BITNET_STAGE_FFN_OUT: return true;
    default: return false;
    }
}

enum Verdict { kOk, kWarning, kCritical };

Verdict verdict_of(const Config &config, double cosine) {
    if (cosine > config.quant_ok) return kOk;
    return cosine >= config.quant_critical ? kWarning : kCritical;  // NaN is critical
}

void put_verdict(JsonText *out, Verdict verdict) {
    put_text(out, "verdict", verdict == kOk ? "ok" : verdict == kWarning ? "warning" : "critical");
}

void put_error(JsonText *out, const Error &error) {
    put_real(out, "mse", error.mse);
    put_real(out, "max_abs_error", error.max_abs);
    put_real(out, "cosine_similarity", error.cosine);
    put_real(out, "snr_db", error.snr_db);
}

void report(Quantisation *self, Anomaly what, const bitnet_tensor_event_t &event, int32_t position, double cosine) {
    Finding finding = {what, position};
    finding.layer = event.header.layer;
    finding.stage = event.stage_name;
    finding.value = cosine;
    finding.limit = self->config->quant_critical;
    anomalies_add(self->anomalies, finding);
}

void compare_linear(Quantisation *self, const bitnet_tensor_event_t &event, uint32_t row, const float *values) {
    const float *exact = self->reference->linear(self->host, &event, row);
    if (!exact) {
        ++self->n_missing;
        return;
    }
    const int32_t position = event.header.position + int32_t(row);
    const Error error = error_of(values, exact, event.row_elements);
    const Verdict verdict = verdict_of(*self->config, error.cosine);
    JsonText *out = self->anomalies->out;
    begin_record(out, "quantisation", self->anomalies->run);
    put_integer(out, "seq", position);
    put_integer(out, "layer", event.header.layer);
    put_text(out, "stage", event.stage_name);
    put_error(out, error);
    put_verdict(out, verdict);
    out->lit("}\n");
    if (!self->n_linears++ || !(error.cosine >= self->worst_cosine)) self->worst_cosine = error.cosine;
    self->n_warnings += verdict == kWarning;
    self->n_criticals += verdict == kCritical;
    if (verdict == kCritical) report(self, Anomaly::quantisation, event, position, error.cosine);
}

// How well both predicted the token that came next.
void add_likelihood(Quantisation *self, int32_t position, int32_t token, const float *values, const float *exact,
                    size_t n_vocab) {
    if (token < 0 || size_t(token) >= n_vocab) return;
    const double nll = negative_log_likelihood(values, n_vocab, size_t(token));
    const double nll_exact = negative_log_likelihood(exact, n_vocab, size_t(token));
    ++self->n_likelihoods;
    self->sum_nll += nll;
    self->sum_nll_exact += nll_exact;
    JsonText *out = self->anomalies->out;
    begin_record(out, "likelihood", self->anomalies->run);
    put_integer(out, "seq", position);
    put_integer(out, "next_token", token);
    put_real(out, "nll", nll);
    put_real(out, "nll_unquantised", nll_exact);
    out->lit("}\n");
}

bool compare_logits(Quantisation *self, const bitnet_tensor_event_t &event, uint32_t row, const float *values) {
    const float *exact = self->reference->logits(self->host, &event, row);
    if (!exact) {
        ++self->n_missing;
        return true;
    }
    const int32_t position = event.header.position + int32_t(row);
    const size_t n = event.row_elements;
    const Error error = error_of(values, exact, n);
    const Verdict verdict = verdict_of(*self->config, error.cosine);
    const double kl = kl_divergence(values, exact, n);
    JsonText *out = self->anomalies->out;
    begin_record(out, "quantisation_logits", self->anomalies->run);
    put_integer(out, "seq", position);
    put_error(out, error);
    put_real(out, "kl_divergence", kl);
    put_verdict(out, verdict);
    out->lit("}\n");
    if (!self->n_logits++ || !(error.cosine >= self->worst_logits_cosine)) self->worst_logits_cosine = error.cosine;
    self->sum_logits_cosine += error.cosine;
    self->sum_kl += kl;
    if (verdict == kCritical) report(self, Anomaly::quantised_logits, event, position, error.cosine);

    const size_t next = size_t(position - self->step_position) + 1;
    if (next < self->tokens.n) {
        add_likelihood(self, position, self->tokens[next], values, exact, n);
        return true;
    }
    if (!self->pending.resize(2 * n)) return false;
    memcpy(self->pending.data, values, n * sizeof(float));
    memcpy(self->pending.data + n, exact, n * sizeof(float));
    self->pending_position = position;
    return true;
}

}  // namespace

void quantisation_begin_run(Quantisation *self) {
    self->n_linears = self->n_warnings = self->n_criticals = self->n_logits = self->n_missing = self->n_likelihoods = 0;
    self->worst_cosine = self->sum_logits_cosine = self->worst_logits_cosine = self->sum_kl = 0;
    self->sum_nll = self->sum_nll_exact = 0;
    self->pending_position = -1;
}

bool quantisation_begin_forward(Quantisation *self, const bitnet_step_event_t &step) {
    const int32_t position = step.header.position;
    if (!self->reference) return true;
    if (self->pending_position >= 0 && self->pending_position + 1 == position && step.tokens && step.n_tokens) {
        const size_t n = self->pending.n / 2;
        add_likelihood(self, position - 1, step.tokens[0], self->pending.data, self->pending.data + n, n);
    }
    self->pending_position = -1;
    self->step_position = position;
    self->last_position = position + int32_t(step.n_tokens) - 1;
    self->first_position = self->config->all_positions ? position : self->last_position;
    self->tokens.clear();
    if (!step.tokens) return true;
    if (!self->tokens.resize(step.n_tokens)) return false;
    memcpy(self->tokens.data, step.tokens, step.n_tokens * sizeof(int32_t));
    return true;
}

bool quantisation_row(Quantisation *self, const bitnet_tensor_event_t &event, uint32_t row, const float *values) {
    const int32_t position = event.header.position + int32_t(row);
    if (!self->reference || position < self->first_position || position > self->last_position) return true;
    if (is_linear(event.stage)) compare_linear(self, event, row, values);
    return event.stage == BITNET_STAGE_LOGITS ? compare_logits(self, event, row, values) : true;
}

}  // namespace bitnet::modeltracer
