#include "plugins/modeltracer/kv_cache.h"

#include "plugins/modeltracer/fields.h"

namespace bitnet::modeltracer {

namespace {

// Positions between the oldest and the newest that the cache does not hold, as a part of all of them.
double fragmentation_of(const bitnet_kv_event_t &event) {
    const double span = double(event.header.position) + 1 - double(event.kv.oldest);
    if (event.kv.oldest < 0 || event.kv.n_valid <= 0 || span <= double(event.kv.n_valid)) return 0;
    return 1 - double(event.kv.n_valid) / span;
}

void report(KvCache *self, Anomaly what, int32_t position, double value, double limit) {
    Finding finding = {what, position};
    finding.value = value;
    finding.limit = limit;
    anomalies_add(self->anomalies, finding);
}

// Reported when it begins, and again only after it ended.
void judge(KvCache *self, int32_t position, double eviction_rate) {
    const bool often = eviction_rate > self->config->eviction_rate;
    if (often && !self->rate_reported)
        report(self, Anomaly::eviction_rate, position, eviction_rate, self->config->eviction_rate);
    self->rate_reported = often;

    size_t n_evicting = 0;
    double hit_rate = 0;
    for (size_t i = 0; i < self->recent.n; ++i) {
        n_evicting += self->recent[i].n_evicted > 0;
        hit_rate += self->recent[i].hit_rate;
    }
    hit_rate /= double(self->recent.n);
    const bool thrashing = 2 * n_evicting > self->recent.n && hit_rate < self->config->hit_rate;
    if (thrashing && !self->thrashing_reported)
        report(self, Anomaly::thrashing, position, hit_rate, self->config->hit_rate);
    self->thrashing_reported = thrashing;
}

}  // namespace

void kv_begin_run(KvCache *self, int32_t position) {
    if (position > 0) return;
    self->recent.clear();
    self->n_steps = self->n_eviction_steps = self->n_evicted = self->n_bytes_peak = 0;
    self->sum_hit_rate = 0;
    self->fresh = true;
    self->rate_reported = self->thrashing_reported = false;
}

bool kv_state(KvCache *self, const bitnet_kv_event_t &event) {
    const bitnet_kv_state_t &kv = event.kv;
    // What was given up before a session's first step was the content of the one before.
    const uint64_t n_evicted = self->fresh ? 0 : kv.n_evicted;
    self->fresh = false;
    const uint64_t n_lookups = kv.n_hits + kv.n_misses;
    const double hit_rate = n_lookups ? double(kv.n_hits) / double(n_lookups) : 0;
    const size_t window = size_t(self->config->thrashing_window), slot = size_t(self->n_steps % window);
    if (!self->recent.reserve_index(slot)) return false;
    self->recent[slot] = {n_evicted, hit_rate};
    ++self->n_steps;
    self->n_eviction_steps += n_evicted > 0;
    self->n_evicted += n_evicted;
    self->sum_hit_rate += hit_rate;
    if (kv.n_bytes > self->n_bytes_peak) self->n_bytes_peak = kv.n_bytes;
    const double eviction_rate = double(self->n_eviction_steps) / double(self->n_steps);

    JsonText *out = self->anomalies->out;
    begin_record(out, "kv", self->anomalies->run);
    put_integer(out, "seq", event.header.position);
    put_integer(out, "step", int64_t(self->n_steps - 1));
    put_integer(out, "cache_size_bytes", int64_t(kv.n_bytes));
    put_integer(out, "used_bytes", int64_t(kv.n_bytes_used));
    put_integer(out, "valid_positions", kv.n_valid);
    put_integer(out, "max_positions", kv.n_max);
    put_integer(out, "evictions_this_step", int64_t(n_evicted));
    put_integer(out, "hits", int64_t(kv.n_hits));
    put_integer(out, "misses", int64_t(kv.n_misses));
    put_real(out, "cache_hit_rate", hit_rate);
    put_integer(out, "oldest_position", kv.oldest);
    put_real(out, "fragmentation", fragmentation_of(event));
    put_real(out, "eviction_rate", eviction_rate);
    put_bool(out, "window_exhausted", kv.n_max > 0 && kv.n_valid >= kv.n_max);
    out->lit("}\n");
    judge(self, event.header.position, eviction_rate);
    return true;
}

double kv_average_hit_rate(const KvCache *self) {
    return self->n_steps ? self->sum_hit_rate / double(self->n_steps) : 0;
}

}  // namespace bitnet::modeltracer
