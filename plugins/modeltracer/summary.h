// What a run came to: nine numbers under trueno's names, and what is behind them.
#pragma once

#include "plugins/modeltracer/attention.h"
#include "plugins/modeltracer/kv_cache.h"
#include "plugins/modeltracer/logit_lens.h"
#include "plugins/modeltracer/quantisation.h"

namespace bitnet::modeltracer {

struct Traced {
    uint64_t n_forwards;
    const Anomalies *anomalies;
    const Attention *attention;
    const LogitLens *lens;
    const Quantisation *quantisation;
    const KvCache *kv;
};

void put_summary_record(JsonText *out, uint32_t run, const Traced &traced);
void put_summary_text(JsonText *out, uint32_t run, const Traced &traced);

}  // namespace bitnet::modeltracer
