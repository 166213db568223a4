#include "plugins/modeltracer/logit_lens.h"

#include <cmath>
#include <cstring>

#include "plugins/modeltracer/fields.h"

namespace bitnet::modeltracer {

int64_t rank_of(const float *values, size_t n, size_t token) {
    const float own = values[token];
    int64_t rank = 0;
    if (std::isnan(own)) {
        for (size_t i = 0; i < n; ++i) rank += !std::isnan(values[i]);
        return rank;
    }
    for (size_t i = 0; i < n; ++i) rank += values[i] > own;
    return rank;
}

namespace {

constexpr size_t kTokensMax = size_t(kTrackedMax) + size_t(kTopMax);

struct Tokens {
    int32_t id[kTokensMax];
    size_t n;
    int32_t best;  // of the final logits; -1: all of them are NaN
};

// The largest by value, ties to the lowest id.
void add_top(const float *values, size_t n, size_t n_top, Tokens *tokens) {
    int32_t top[kTopMax];
    size_t n_found = 0;
    for (size_t i = 0; i < n; ++i) {
        if (std::isnan(values[i]) || (n_found == n_top && !(values[i] > values[size_t(top[n_found - 1])]))) continue;
        size_t at = n_found < n_top ? n_found++ : n_found - 1;
        for (; at && values[i] > values[size_t(top[at - 1])]; --at) top[at] = top[at - 1];
        top[at] = int32_t(i);
    }
    for (size_t i = 0; i < n_found; ++i) {
        bool known = false;
        for (size_t j = 0; j < tokens->n; ++j) known = known || tokens->id[j] == top[i];
        if (!known) tokens->id[tokens->n++] = top[i];
    }
}

int32_t best_of(const float *values, size_t n) {
    int32_t best = -1;
    for (size_t i = 0; i < n; ++i) {
        if (!std::isnan(values[i]) && (best < 0 || values[i] > values[size_t(best)])) best = int32_t(i);
    }
    return best;
}

Tokens choose_tokens(const Config &config, const float *final_logits, size_t n_vocab) {
    Tokens tokens = {};
    for (int i = 0; i < config.n_tracked; ++i) {
        if (size_t(config.tracked[i]) < n_vocab) tokens.id[tokens.n++] = config.tracked[i];
    }
    if (config.top) add_top(final_logits, n_vocab, size_t(config.top), &tokens);
    tokens.best = best_of(final_logits, n_vocab);
    return tokens;
}

double probability_of(const float *logits, size_t n, size_t token) {
    double largest = -HUGE_VAL, sum = 0;
    for (size_t i = 0; i < n; ++i) largest = double(logits[i]) > largest ? double(logits[i]) : largest;
    for (size_t i = 0; i < n; ++i) sum += std::exp(double(logits[i]) - largest);
    return std::exp(double(logits[token]) - largest) / sum;
}

// The layer at which the rank jumped furthest, the first of equal ones; -1: it never changed.
int decisive_of(const int64_t *ranks, size_t n) {
    int64_t furthest = 0;
    int decisive = -1;
    for (size_t i = 1; i < n; ++i) {
        const int64_t jump = ranks[i] > ranks[i - 1] ? ranks[i] - ranks[i - 1] : ranks[i - 1] - ranks[i];
        if (jump > furthest) furthest = jump, decisive = int(i);
    }
    return decisive;
}

void put_layer(JsonText *out, const Buffer<uint64_t> &layers, int index) {
    if (index >= 0)
        out->put_unsigned(layers[size_t(index)]);
    else
        out->lit("null");
}

float *row_at(LogitLens *self, size_t position, size_t layer) {
    return self->hidden.data + (position * self->n_layer + layer) * size_t(self->lens->n_embd);
}

// Which layers this position has, in order; `layers` ends up with as many entries.
bool layers_of(const LogitLens *self, size_t index, Buffer<uint64_t> *layers) {
    layers->clear();
    for (size_t l = 0; l < self->n_layer; ++l) {
        if (!self->have[index * self->n_layer + l]) continue;
        if (!layers->resize(layers->n + 1)) return false;
        (*layers)[layers->n - 1] = l;
    }
    return true;
}

void put_token(LogitLens *self, const Tokens &tokens, size_t t, const Buffer<uint64_t> &layers,
               const float *final_logits) {
    JsonText *out = self->anomalies->out;
    const size_t n_vocab = size_t(self->lens->n_vocab), token = size_t(tokens.id[t]);
    out->lit("{\"token_id\":");
    out->put_signed(tokens.id[t]);
    put_bool(out, "tracked", t < size_t(self->config->n_tracked));
    put_key(out, "per_layer_logit");
    for (size_t i = 0; i < layers.n; ++i) {
        out->put(i ? ',' : '[');
        out->put_number(self->logits[t * layers.n + i]);
    }
    out->put(']');
    put_key(out, "per_layer_rank");
    for (size_t i = 0; i < layers.n; ++i) {
        out->put(i ? ',' : '[');
        out->put_signed(self->ranks[t * layers.n + i]);
    }
    out->put(']');
    put_real(out, "final_logit", double(final_logits[token]));
    put_real(out, "final_probability", probability_of(final_logits, n_vocab, token));
    put_integer(out, "final_rank", rank_of(final_logits, n_vocab, token));
    put_key(out, "decisive_layer");
    put_layer(out, layers, decisive_of(self->ranks.data + t * layers.n, layers.n));
    out->put('}');
}

void put_trace(LogitLens *self, int32_t position, const Tokens &tokens, const Buffer<uint64_t> &layers,
               const float *final_logits, int decisive) {
    JsonText *out = self->anomalies->out;
    begin_record(out, "logits", self->anomalies->run);
    put_integer(out, "seq", position);
    put_key(out, "layers");
    for (size_t i = 0; i < layers.n; ++i) {
        out->put(i ? ',' : '[');
        out->put_unsigned(layers[i]);
    }
    out->put(']');
    put_key(out, "best_token");
    if (tokens.best >= 0)
        out->put_signed(tokens.best);
    else
        out->lit("null");
    put_key(out, "decisive_layer");
    put_layer(out, layers, decisive);
    put_key(out, "tracked_tokens");
    out->put('[');
    for (size_t t = 0; t < tokens.n; ++t) {
        if (t) out->put(',');
        put_token(self, tokens, t, layers, final_logits);
    }
    out->lit("]}\n");
    ++self->n_traces;
}

// `final_logits` NULL: nobody selected them, and they are those of the last layer.
bool write_position(LogitLens *self, size_t index, const float *final_logits) {
    const size_t n_vocab = size_t(self->lens->n_vocab);
    self->done[index] = 1;
    Buffer<uint64_t> layers;
    bool ok = layers_of(self, index, &layers);
    if (ok && !final_logits && layers.n) {
        const float *last = self->lens->logits(self->host, row_at(self, index, layers[layers.n - 1]));
        ok = self->final_logits.resize(n_vocab);
        if (ok && last) memcpy(self->final_logits.data, last, n_vocab * sizeof(float));
        if (last) final_logits = self->final_logits.data;
    }
    if (!ok || !layers.n || !final_logits) {
        self->n_missing += ok && layers.n;
        layers.release();
        return ok;
    }
    const Tokens tokens = choose_tokens(*self->config, final_logits, n_vocab);
    // The best token is followed too: its rank says which layer decided.
    ok = self->logits.resize(tokens.n * layers.n) && self->ranks.resize((tokens.n + 1) * layers.n);
    for (size_t i = 0; ok && i < layers.n; ++i) {
        const float *logits = self->lens->logits(self->host, row_at(self, index, layers[i]));
        if (!logits) {
            ++self->n_missing;
            layers.release();
            return true;
        }
        for (size_t t = 0; t < tokens.n; ++t) {
            self->logits[t * layers.n + i] = double(logits[tokens.id[t]]);
            self->ranks[t * layers.n + i] = rank_of(logits, n_vocab, size_t(tokens.id[t]));
        }
        const size_t best = size_t(tokens.best < 0 ? 0 : tokens.best);
        self->ranks[tokens.n * layers.n + i] = rank_of(logits, n_vocab, best);
    }
    if (ok) {
        const int decisive = tokens.best < 0 ? -1 : decisive_of(self->ranks.data + tokens.n * layers.n, layers.n);
        put_trace(self, self->first_position + int32_t(index), tokens, layers, final_logits, decisive);
    }
    layers.release();
    return ok;
}

// Index of the row's position among those that are kept; -1: it is not.
int64_t index_of(const LogitLens *self, const bitnet_tensor_event_t &event, uint32_t row) {
    const int64_t index = int64_t(event.header.position) + row - self->first_position;
    return index >= 0 && index < int64_t(self->n_positions) ? index : -1;
}

}  // namespace

void lens_begin_run(LogitLens *self, const char *hyperparameters) {
    self->n_traces = self->n_missing = 0;
    self->n_layer = 0;
    for (const char *p = hyperparameters; p; p = strchr(p, ',')) {  // "n_layer=30,n_embd=2560,..."
        if (*p == ',') ++p;
        if (strncmp(p, "n_layer=", 8) == 0) self->n_layer = size_t(strtoul(p + 8, nullptr, 10));
    }
}

bool lens_begin_forward(LogitLens *self, int32_t position, uint64_t n_tokens) {
    self->n_positions = 0;
    if (!self->lens || !n_tokens || !self->n_layer) return true;
    const bool all = self->config->all_positions;
    self->first_position = all ? position : position + int32_t(n_tokens - 1);
    const size_t n = all ? size_t(n_tokens) : 1, n_rows = n * self->n_layer;
    self->have.clear();
    self->done.clear();
    self->hidden.clear();
    self->n_positions = n;
    return self->have.resize(n_rows) && self->done.resize(n) &&
           self->hidden.resize(n_rows * size_t(self->lens->n_embd));
}

bool lens_layer_row(LogitLens *self, const bitnet_tensor_event_t &event, uint32_t row, const float *values) {
    const int64_t index = index_of(self, event, row);
    if (index < 0 || event.header.layer < 0 || size_t(event.header.layer) >= self->n_layer ||
        event.row_elements != uint64_t(self->lens->n_embd))
        return true;
    const size_t layer = size_t(event.header.layer);
    memcpy(row_at(self, size_t(index), layer), values, event.row_elements * sizeof(float));
    self->have[size_t(index) * self->n_layer + layer] = 1;
    return true;
}

bool lens_logits_row(LogitLens *self, const bitnet_tensor_event_t &event, uint32_t row, const float *values) {
    const int64_t index = index_of(self, event, row);
    if (index < 0 || self->done[size_t(index)] || event.row_elements != uint64_t(self->lens->n_vocab)) return true;
    return write_position(self, size_t(index), values);
}

bool lens_end_forward(LogitLens *self) {
    for (size_t i = 0; i < self->n_positions; ++i) {
        if (!self->done[i] && !write_position(self, i, nullptr)) return false;
    }
    self->n_positions = 0;
    return true;
}

}  // namespace bitnet::modeltracer
