#include "plugins/modeltracer/activations.h"

#include <cmath>

#include "plugins/modeltracer/fields.h"

namespace bitnet::modeltracer {

namespace {

// Welford's running mean and sum of squared deviations.
struct Spread {
    double n, mean, m2;

    void add(double value) {
        const double delta = value - mean;
        mean += delta / ++n;
        m2 += delta * (value - mean);
    }
    void merge(const Spread &other) {
        const double delta = other.mean - mean, both = n + other.n;
        mean += delta * other.n / both;
        m2 += other.m2 + delta * delta * n * other.n / both;
        n = both;
    }
    double deviation() const { return n > 1 ? std::sqrt(m2 / (n - 1)) : 0; }
};

// Of values that are all finite, eight sums side by side: one alone waits for a division at every value.
Statistics finite_statistics(const float *values, size_t n) {
    constexpr size_t kLanes = 8;
    double mean[kLanes] = {}, m2[kLanes] = {}, squares[kLanes] = {}, count = 0;
    float min[kLanes], max[kLanes];
    for (size_t j = 0; j < kLanes; ++j) min[j] = max[j] = n ? values[0] : 0;
    size_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        const double part = 1 / ++count;
        for (size_t j = 0; j < kLanes; ++j) {
            const float narrow = values[i + j];
            const double value = double(narrow), delta = value - mean[j];
            mean[j] += delta * part;
            m2[j] += delta * (value - mean[j]);
            squares[j] += value * value;
            min[j] = narrow < min[j] ? narrow : min[j];
            max[j] = narrow > max[j] ? narrow : max[j];
        }
    }
    Spread spread = {count, mean[0], m2[0]};
    for (size_t j = 1; j < kLanes; ++j) {
        if (count > 0) spread.merge({count, mean[j], m2[j]});
        squares[0] += squares[j];
        min[0] = min[j] < min[0] ? min[j] : min[0];
        max[0] = max[j] > max[0] ? max[j] : max[0];
    }
    for (; i < n; ++i) {
        spread.add(double(values[i]));
        squares[0] += double(values[i]) * double(values[i]);
        min[0] = values[i] < min[0] ? values[i] : min[0];
        max[0] = values[i] > max[0] ? values[i] : max[0];
    }
    return {n, 0, 0, spread.mean, spread.deviation(), std::sqrt(squares[0]), min[0], max[0]};
}

}  // namespace

Statistics statistics_of(const float *values, size_t n) {
    if (!(largest_magnitude(values, n) > kLargestFinite)) return finite_statistics(values, n);
    Statistics out = {};
    out.n = n;
    Spread spread = {};
    double squares = 0;
    for (size_t i = 0; i < n; ++i) {
        const float value = values[i];
        if (!std::isfinite(value)) {
            std::isnan(value) ? ++out.n_nan : ++out.n_inf;
            continue;
        }
        if (spread.n == 0 || value < out.min) out.min = value;
        if (spread.n == 0 || value > out.max) out.max = value;
        spread.add(double(value));
        squares += double(value) * double(value);
    }
    out.mean = spread.mean;
    out.std = spread.deviation();
    out.l2 = std::sqrt(squares);
    return out;
}

namespace {

int point_of(int32_t stage) {
    switch (stage) {
    case BITNET_STAGE_ATTN_NORM: return kPostNorm;
    case BITNET_STAGE_ATTN_OUT: return kPostAttn;
    case BITNET_STAGE_ATTN_RESIDUAL: return kResidual;
    case BITNET_STAGE_FFN_OUT: return kPostFfn;
    case BITNET_STAGE_LAYER_OUT: return kOutput;
    default: return -1;
    }
}

template <size_t N> void put_statistics(JsonText *out, const char (&key)[N], const Statistics *of) {
    put_key(out, key);
    if (!of) return out->lit("null");
    out->lit("{\"count\":");
    out->put_unsigned(of->n);
    put_real(out, "min", double(of->min));
    put_real(out, "max", double(of->max));
    put_real(out, "mean", of->mean);
    put_real(out, "std", of->std);
    put_integer(out, "nan_count", int64_t(of->n_nan));
    put_integer(out, "inf_count", int64_t(of->n_inf));
    put_real(out, "l2_norm", of->l2);
    out->put('}');
}

// How much of the layer's output is not its attention: L2 norms, out / (out + attn). -1: not known.
double residual_ratio(const TokenActivations &token) {
    constexpr uint32_t need = 1u << kPostAttn | 1u << kOutput;
    if ((token.have & need) != need) return -1;
    const double out = token.of[kOutput].l2, attn = token.of[kPostAttn].l2;
    return out + attn > 0 ? out / (out + attn) : -1;
}

void finish_layer(Activations *self, TokenActivations *token, int32_t position) {
    if (!token->have) return;
    JsonText *out = self->anomalies->out;
    const auto at = [&](Point point) { return token->have >> point & 1 ? &token->of[point] : nullptr; };
    begin_record(out, "activation", self->anomalies->run);
    put_integer(out, "seq", position);
    put_integer(out, "layer", token->layer);
    put_statistics(out, "input", at(kInput));
    put_statistics(out, "post_norm", at(kPostNorm));
    put_statistics(out, "post_attn", at(kPostAttn));
    put_statistics(out, "residual", at(kResidual));
    put_statistics(out, "post_ffn", at(kPostFfn));
    put_statistics(out, "output", at(kOutput));
    const double ratio = residual_ratio(*token);
    put_key(out, "residual_ratio");
    if (ratio >= 0)
        out->put_number(ratio);
    else
        out->lit("null");
    out->lit("}\n");
    ++self->n_layers_recorded;
    token->have = 0;
    if (ratio > self->config->residual) {
        if (token->was_sick) return anomalies_add_propagated(self->anomalies);
        Finding finding = {Anomaly::residual, position};
        finding.layer = token->layer;
        finding.stage = "layer_out";
        finding.value = ratio;
        finding.limit = self->config->residual;
        anomalies_add(self->anomalies, finding);
    }
}

// The two rules that need a standard deviation, for rows of which the health check has nothing to report. What the
// quantiser makes of NaN are zeros, which vanish: a consequence.
void check_spread(Activations *self, const bitnet_tensor_event_t &event, int32_t position, const Statistics &of,
                  const RowHealth &health) {
    const uint64_t n_finite = of.n - of.n_nan - of.n_inf;
    const bool vanishing = n_finite > 1 && of.std < self->config->vanishing;
    if (!vanishing && of.std <= self->config->variance) return;
    if (health.inputs == Inputs::sick || health.token_was_sick) return anomalies_add_propagated(self->anomalies);
    Finding finding = {vanishing ? Anomaly::vanishing : Anomaly::variance, position};
    finding.layer = event.header.layer;
    finding.stage = event.stage_name;
    finding.value = of.std;
    finding.limit = vanishing ? self->config->vanishing : self->config->variance;
    finding.inputs = health.inputs;
    anomalies_add(self->anomalies, finding);
}

template <size_t N>
void put_whole(Activations *self, const char (&key)[N], int32_t position, const Statistics &statistics) {
    JsonText *out = self->anomalies->out;
    begin_record(out, "activation", self->anomalies->run);
    put_integer(out, "seq", position);
    put_integer(out, "layer", -1);
    put_statistics(out, key, &statistics);
    out->lit("}\n");
}

}  // namespace

bool activations_begin_forward(Activations *self, int32_t position, uint64_t n_tokens) {
    self->first_position = position;
    self->tokens.clear();
    return self->tokens.resize(n_tokens);
}

void activations_row(Activations *self, const bitnet_tensor_event_t &event, uint32_t row, const float *values,
                     const RowHealth &health) {
    const int32_t position = event.header.position + int32_t(row), layer = event.header.layer;
    const size_t index = size_t(position - self->first_position);
    const int point = point_of(event.stage);
    const bool is_embeddings = event.stage == BITNET_STAGE_EMBEDDINGS, is_logits = event.stage == BITNET_STAGE_LOGITS;
    if (position < self->first_position || index >= self->tokens.n) return;
    if (point < 0 && !is_embeddings && !is_logits) return;
    const Statistics statistics = statistics_of(values, event.row_elements);
    if (!health.sick) check_spread(self, event, position, statistics, health);
    TokenActivations *token = &self->tokens[index];
    token->was_sick = token->was_sick || health.sick || health.token_was_sick;
    if (is_logits) return put_whole(self, "logits", position, statistics);
    if (is_embeddings) {
        put_whole(self, "embeddings", position, statistics);
    } else {
        if (token->have && token->layer != layer) finish_layer(self, token, position);
        if (!token->have && token->has_last && token->last_layer + 1 == layer) {
            token->of[kInput] = token->last;
            token->have = 1u << kInput;
        }
        token->layer = layer;
        token->of[point] = statistics;
        token->have |= 1u << point;
    }
    if (is_embeddings || point == kOutput) {
        token->last = statistics;
        token->has_last = true;
        token->last_layer = layer;
    }
    if (point == kOutput) finish_layer(self, token, position);
}

void activations_end_forward(Activations *self) {
    for (size_t i = 0; i < self->tokens.n; ++i) finish_layer(self, &self->tokens[i], self->first_position + int32_t(i));
}

}  // namespace bitnet::modeltracer
