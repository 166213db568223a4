// What a sink can ask of the host: each result is computed once for a row and shared by all sinks.
#include <cstdlib>
#include <cstring>

#include "plugins/host/host.h"
#include "plugins/host/text.h"

namespace bitnet {

namespace {

enum : uint32_t { kHaveHash = 1, kHaveMultiset = 2, kHaveStats = 4, kHaveSketch = 8 };

// Whether `event` (or a copy of it) is under way and has this row.
bool is_current(const TraceHost *host, const bitnet_tensor_event_t *event, uint32_t row) {
    return host->current && event && event->header.seq == host->current->header.seq && row < host->current->n_rows;
}

Row row_of(const TraceHost *host, uint32_t row) {
    const bitnet_tensor_event_t &event = *host->current;
    return {static_cast<const char *>(event.data) + row * event.row_stride, event.row_elements, event.dtype};
}

CachedRow *current_row(TraceHost *host, uint32_t row) {
    CachedRow *cached = &host->rows[row];
    if (cached->event_seq != host->current->header.seq) {
        cached->event_seq = host->current->header.seq;
        cached->have = 0;
    }
    return cached;
}

// NULL: not the event under way, a dtype we do not know, or out of memory.
CachedRow *cached_row(TraceHost *host, const bitnet_tensor_event_t *event, uint32_t row) {
    if (!is_current(host, event, row) || !dtype_bytes(host->current->dtype)) return nullptr;
    if (host->n_rows_cached < host->current->n_rows) {
        // All at once: results are borrowed until the event ends, so the array must not move while it is used.
        CachedRow *rows = static_cast<CachedRow *>(calloc(host->current->n_rows, sizeof(CachedRow)));
        if (!rows) return nullptr;
        free(host->rows);
        host->rows = rows;
        host->n_rows_cached = host->current->n_rows;
    }
    return current_row(host, row);
}

// What is hashed at once: enough for every lane of the vector unit, little enough to stay in a core's own cache.
constexpr size_t kHashBytesMax = 128 * 1024;
constexpr size_t kHashRowsMax = 64;

// The announced row, if the engine keeps to what it said; a few may be left out, as when a tensor has no values.
ExpectedRow *find_expected(TraceHost *host, const void *data, uint64_t n_bytes) {
    constexpr uint64_t kAhead = 16;
    const uint64_t left = host->n_expected - host->next_expected, n = left < kAhead ? left : kAhead;
    for (uint64_t i = host->next_expected; i < host->next_expected + n; ++i) {
        ExpectedRow *found = &host->expected[i];
        if (found->row.data != data || found->row.n_bytes != n_bytes) continue;
        host->next_expected = i + 1;
        return found;
    }
    return nullptr;
}

// `found` and those that follow it.
void hash_expected(TraceHost *host, ExpectedRow *found) {
    HashJob jobs[kHashRowsMax];
    size_t n = 0, n_bytes = 0;
    for (ExpectedRow *e = found; e < host->expected + host->n_expected && n < kHashRowsMax; ++e, ++n) {
        n_bytes += e->row.n_bytes;
        if (n > 0 && n_bytes > kHashBytesMax) break;
        jobs[n] = {e->row.data, e->row.n_bytes, e->hash};
        e->has_hash = true;
    }
    blake3_of_many(jobs, n);
}

// A sink that asks for one row after the other gets the next ones computed as well.
size_t rows_at_once(const TraceHost *host, uint32_t row, size_t row_bytes) {
    const CachedRow *before = row ? &host->rows[row - 1] : nullptr;
    if (!before || before->event_seq != host->current->header.seq || !(before->have & kHaveHash)) return 1;
    const size_t fit = row_bytes ? kHashBytesMax / row_bytes : kHashRowsMax, left = host->current->n_rows - row;
    const size_t n = fit < kHashRowsMax ? fit : kHashRowsMax;
    return n < 1 ? 1 : n < left ? n : left;
}

void hash_rows(TraceHost *host, uint32_t row) {
    const Row first = row_of(host, row);
    const size_t n_bytes = first.n * dtype_bytes(first.dtype);
    host->hashes = true;
    if (ExpectedRow *found = find_expected(host, first.data, n_bytes)) {
        if (!found->has_hash) hash_expected(host, found);
        memcpy(host->rows[row].hash, found->hash, sizeof found->hash);
        host->rows[row].have |= kHaveHash;
        return;
    }
    HashJob jobs[kHashRowsMax];
    const size_t n = rows_at_once(host, row, n_bytes);
    for (size_t i = 0; i < n; ++i) {
        CachedRow *cached = current_row(host, row + uint32_t(i));
        cached->have |= kHaveHash;
        jobs[i] = {row_of(host, row + uint32_t(i)).data, n_bytes, cached->hash};
    }
    blake3_of_many(jobs, n);
}

// True when the caller has to compute it now.
bool first_use(CachedRow *cached, uint32_t what) {
    const bool first = !(cached->have & what);
    cached->have |= what;
    return first;
}

const uint8_t *ext_blake3(const bitnet_trace_host_t *api, const bitnet_tensor_event_t *event, uint32_t row) {
    TraceHost *host = host_of(api);
    CachedRow *cached = cached_row(host, event, row);
    if (!cached) return nullptr;
    if (!(cached->have & kHaveHash)) hash_rows(host, row);
    return cached->hash;
}

uint64_t ext_multiset(const bitnet_trace_host_t *api, const bitnet_tensor_event_t *event, uint32_t row) {
    TraceHost *host = host_of(api);
    CachedRow *cached = cached_row(host, event, row);
    if (!cached) return 0;
    if (first_use(cached, kHaveMultiset)) cached->multiset = row_multiset(row_of(host, row));
    return cached->multiset;
}

const bitnet_stats_t *ext_stats(const bitnet_trace_host_t *api, const bitnet_tensor_event_t *event, uint32_t row) {
    TraceHost *host = host_of(api);
    CachedRow *cached = cached_row(host, event, row);
    if (!cached) return nullptr;
    if (first_use(cached, kHaveStats)) row_stats(row_of(host, row), &cached->stats);
    return &cached->stats;
}

const float *ext_sketch(const bitnet_trace_host_t *api, const bitnet_tensor_event_t *event, uint32_t row) {
    TraceHost *host = host_of(api);
    CachedRow *cached = cached_row(host, event, row);
    if (!cached) return nullptr;
    if (first_use(cached, kHaveSketch)) row_sketch(row_of(host, row), cached->sketch);
    return cached->sketch;
}

bitnet_status_t ext_replace(const bitnet_trace_host_t *api, const bitnet_tensor_event_t *event, uint32_t row,
                            const void *values, size_t n) {
    TraceHost *host = host_of(api);
    if (!is_current(host, event, row) || !values || n != host->current->row_elements) return BITNET_E_INVALID;
    if (!host->current_data || host->current->dtype != BITNET_DTYPE_F32) return BITNET_E_UNSUPPORTED;
    memmove(static_cast<char *>(host->current_data) + row * host->current->row_stride, values, n * sizeof(float));
    host->overridden = true;
    host->current->header.flags |= BITNET_EVENT_FLAG_OVERRIDDEN;
    if (row < host->n_rows_cached) host->rows[row].have = 0;
    return BITNET_OK;
}

const float *ext_lens(const bitnet_trace_host_t *api, const float *hidden) {
    const TraceHost *host = host_of(api);
    return host->delivering && hidden ? host->engine.lens(host->engine.user, hidden) : nullptr;
}

const float *ext_reference_linear(const bitnet_trace_host_t *api, const bitnet_tensor_event_t *event, uint32_t row) {
    const TraceHost *host = host_of(api);
    if (!is_current(host, event, row)) return nullptr;
    const bitnet_tensor_event_t &current = *host->current;
    return host->engine.reference_linear(host->engine.user, current.stage, current.header.layer,
                                         host->current_row + row);
}

const float *ext_reference_logits(const bitnet_trace_host_t *api, const bitnet_tensor_event_t *event, uint32_t row) {
    const TraceHost *host = host_of(api);
    if (!is_current(host, event, row) || host->current->stage != BITNET_STAGE_LOGITS) return nullptr;
    return host->engine.reference_logits(host->engine.user, host->current->header.position + int32_t(row));
}

void ext_stop(const bitnet_trace_host_t *api, const char *reason) {
    TraceHost *host = host_of(api);
    if (host->stopping) return;  // the first reason counts
    host->stopping = true;
    set_text(host->stop_reason, sizeof host->stop_reason, "%s: %s", static_cast<Sink *>(api->self)->label,
             reason && *reason ? reason : "no reason given");
}

constexpr bitnet_ext_hash_t kHash = {sizeof(bitnet_ext_hash_t), 0, ext_blake3, ext_multiset};
constexpr bitnet_ext_stats_t kStats = {sizeof(bitnet_ext_stats_t), 0, ext_stats};
constexpr bitnet_ext_sketch_t kSketch = {sizeof(bitnet_ext_sketch_t), 0, ext_sketch};
constexpr bitnet_ext_override_t kOverride = {sizeof(bitnet_ext_override_t), 0, ext_replace};
constexpr bitnet_ext_reference_t kReference = {sizeof(bitnet_ext_reference_t), 0, ext_reference_linear,
                                               ext_reference_logits};
constexpr bitnet_ext_stop_t kStop = {sizeof(bitnet_ext_stop_t), 0, ext_stop};

}  // namespace

const void *find_extension(const bitnet_trace_host_t *api, const char *id) {
    if (!id) return nullptr;
    TraceHost *host = host_of(api);
    if (strcmp(id, BITNET_EXT_HASH) == 0) return &kHash;
    if (strcmp(id, BITNET_EXT_STATS) == 0) return &kStats;
    if (strcmp(id, BITNET_EXT_SKETCH) == 0) return &kSketch;
    if (strcmp(id, BITNET_EXT_STOP) == 0) return &kStop;
    if (strcmp(id, BITNET_EXT_OVERRIDE) == 0) {
        host->overridable = true;
        return &kOverride;
    }
    if (strcmp(id, BITNET_EXT_LENS) == 0 && host->engine.lens) {
        host->lens = {sizeof host->lens, host->engine.n_vocab, host->engine.n_embd, 0, ext_lens};
        return &host->lens;
    }
    if (strcmp(id, BITNET_EXT_REFERENCE) == 0 && host->engine.reference_linear && host->engine.reference_logits)
        return &kReference;
    return nullptr;
}

}  // namespace bitnet
