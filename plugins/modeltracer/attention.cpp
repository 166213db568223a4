#include "plugins/modeltracer/attention.h"

#include <cmath>

#include "plugins/modeltracer/fields.h"

namespace bitnet::modeltracer {

namespace {

constexpr float kNothing = 1e-10f;  // weights up to here do not count towards the entropy

struct Head {
    const float *weights;
    uint32_t n_kv, query;
    uint32_t n_top;
    double tail_mass, entropy, evenness;  // evenness: entropy as a part of the largest possible, ln(n_kv)
    bool sink, uniform, recency, collapse;
};

// The largest weights from the threshold on, largest first, ties to the earliest position.
void find_top(const Config &config, Head *head, Buffer<uint32_t> *top) {
    head->n_top = 0;
    for (uint32_t i = 0; i < head->n_kv; ++i) {
        const float weight = head->weights[i];
        if (!(double(weight) >= config.weight)) continue;
        if (head->n_top == uint32_t(config.top_k) && !(weight > head->weights[(*top)[head->n_top - 1]])) continue;
        uint32_t at = head->n_top < uint32_t(config.top_k) ? head->n_top++ : head->n_top - 1;
        for (; at && weight > head->weights[(*top)[at - 1]]; --at) (*top)[at] = (*top)[at - 1];
        (*top)[at] = i;
    }
}

uint32_t largest_of(const Head &head) {
    uint32_t largest = 0;
    for (uint32_t i = 1; i < head.n_kv; ++i) {
        if (head.weights[i] > head.weights[largest]) largest = i;
    }
    return largest;
}

Head examine(const Config &config, const float *weights, uint32_t n_kv, uint32_t query, Buffer<uint32_t> *top) {
    Head head = {};
    head.weights = weights;
    head.n_kv = n_kv;
    head.query = query;
    find_top(config, &head, top);
    double total = 0, listed = 0, recent = 0;
    for (uint32_t i = 0; i < n_kv; ++i) {
        const double weight = weights[i];
        total += weight;
        if (int64_t(i) >= int64_t(query) - config.recency_window) recent += weight;
        if (weights[i] > kNothing) head.entropy -= weight * std::log(weight);
    }
    for (uint32_t i = 0; i < head.n_top; ++i) listed += double(weights[(*top)[i]]);
    head.tail_mass = total > listed ? total - listed : 0;
    if (n_kv < 2) return head;  // a head without a choice says nothing
    head.evenness = head.entropy / std::log(double(n_kv));
    head.sink = double(weights[0]) > config.sink && largest_of(head) == 0;
    head.uniform = head.evenness > config.uniform;
    head.recency = recent > config.recency;
    head.collapse = head.entropy < config.collapse && total == total;  // NaN weights have no entropy
    return head;
}

void put_head(JsonText *out, const Head &head, const Buffer<uint32_t> &top) {
    out->lit("{\"top_k_positions\":[");
    for (uint32_t i = 0; i < head.n_top; ++i) {
        if (i) out->put(',');
        out->put_unsigned(top[i]);
    }
    out->lit("],\"top_k_weights\":[");
    for (uint32_t i = 0; i < head.n_top; ++i) {
        if (i) out->put(',');
        out->put_number(double(head.weights[top[i]]));
    }
    out->put(']');
    put_real(out, "tail_mass", head.tail_mass);
    put_real(out, "entropy", head.entropy);
    put_bool(out, "sink", head.sink);
    put_bool(out, "uniform", head.uniform);
    put_bool(out, "recency", head.recency);
    put_bool(out, "collapse", head.collapse);
    out->put('}');
}

// A single head that sinks, spreads or collapses is how trained heads work. A layer all of whose heads do so, position
// after position, does not look at its text any more.
void count_streak(Attention *self, int32_t *n_running, bool all_heads, Anomaly what, const bitnet_tensor_event_t &event,
                  int32_t position, double value, double limit) {
    *n_running = all_heads ? *n_running + 1 : 0;
    if (*n_running != self->config->attention_positions) return;  // once, until it ends
    Finding finding = {what, position};
    finding.layer = event.header.layer;
    finding.stage = event.stage_name;
    finding.value = value;
    finding.limit = limit;
    anomalies_add(self->anomalies, finding);
}

}  // namespace

void attention_begin_run(Attention *self) {
    self->layers.clear();
    self->n_heads = self->n_sink = self->n_uniform = self->n_recency = self->n_collapse = 0;
}

bool attention_row(Attention *self, const bitnet_tensor_event_t &event, uint32_t row, const float *weights) {
    const Config &config = *self->config;
    if (event.n_dims != 2 || !event.shape[0] || !event.shape[1] || event.header.layer < 0) return true;
    const uint32_t n_heads = uint32_t(event.shape[0]), n_kv = uint32_t(event.shape[1]);
    const int32_t position = event.header.position + int32_t(row);
    const size_t layer = size_t(event.header.layer);
    if (!self->top.resize(size_t(config.top_k)) || !self->layers.reserve_index(layer)) return false;

    JsonText *out = self->anomalies->out;
    begin_record(out, "attention", self->anomalies->run);
    put_integer(out, "seq", position);
    put_integer(out, "layer", event.header.layer);
    put_integer(out, "n_kv", n_kv);
    put_key(out, "heads");
    bool all_sink = true, all_uniform = true, all_collapse = true;
    double least_first = 1, least_evenness = 1, most_entropy = 0;
    for (uint32_t h = 0; h < n_heads; ++h) {
        const float *of_head = weights + size_t(h) * n_kv;
        const Head head = examine(config, of_head, n_kv, uint32_t(position), &self->top);
        out->put(h ? ',' : '[');
        put_head(out, head, self->top);
        self->n_sink += head.sink, self->n_uniform += head.uniform;
        self->n_recency += head.recency, self->n_collapse += head.collapse;
        all_sink = all_sink && head.sink, all_uniform = all_uniform && head.uniform;
        all_collapse = all_collapse && head.collapse;
        if (double(of_head[0]) < least_first) least_first = double(of_head[0]);
        if (head.evenness < least_evenness) least_evenness = head.evenness;
        if (head.entropy > most_entropy) most_entropy = head.entropy;
    }
    out->lit("]}\n");
    self->n_heads += n_heads;

    const bool judged = n_kv >= config.attention_from;
    Streak *streak = &self->layers[layer];
    count_streak(self, &streak->n_sink, judged && all_sink, Anomaly::sink, event, position, least_first, config.sink);
    count_streak(self, &streak->n_uniform, judged && all_uniform, Anomaly::uniform, event, position, least_evenness,
                 config.uniform);
    count_streak(self, &streak->n_collapse, judged && all_collapse, Anomaly::collapse, event, position, most_entropy,
                 config.collapse);
    return true;
}

}  // namespace bitnet::modeltracer
