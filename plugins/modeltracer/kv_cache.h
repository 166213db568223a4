// MLT-05: what the key/value cache holds, and what it gives up.
#pragma once

#include <bitnet_c.h>

#include "plugins/modeltracer/anomalies.h"
#include "plugins/modeltracer/buffer.h"
#include "plugins/modeltracer/config.h"

namespace bitnet::modeltracer {

struct KvStep {
    uint64_t n_evicted;
    double hit_rate;
};

// A session lasts as long as the cache's content: a run that begins with a truncated cache goes on with it.
struct KvCache {
    const Config *config = nullptr;
    Anomalies *anomalies = nullptr;
    Buffer<KvStep> recent;  // ring of the last `thrashing_window` steps
    uint64_t n_steps = 0, n_eviction_steps = 0, n_evicted = 0;
    double sum_hit_rate = 0;
    uint64_t n_bytes_peak = 0;
    bool fresh = true;  // no step of this session yet
    bool rate_reported = false, thrashing_reported = false;
};

// `position`: of the run's first evaluation.
void kv_begin_run(KvCache *self, int32_t position);
// False: out of memory.
bool kv_state(KvCache *self, const bitnet_kv_event_t &event);
double kv_average_hit_rate(const KvCache *self);

}  // namespace bitnet::modeltracer
