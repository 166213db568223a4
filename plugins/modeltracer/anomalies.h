// What was found wrong: records, counts, and the first one as a text.
#pragma once

#include <bitnet_c.h>

#include "plugins/output/json_text.h"

namespace bitnet::modeltracer {

enum class Anomaly {
    nan,
    inf,
    explosion,
    variance,
    vanishing,
    residual,
    sink,
    uniform,
    collapse,
    quantisation,
    quantised_logits,
    eviction_rate,
    thrashing,
};
constexpr int kAnomalies = int(Anomaly::thrashing) + 1;
const char *anomaly_name(int anomaly);

// Of the values that the operation read, whether they were right when something is wrong with its result.
enum class Inputs { not_asked, healthy, sick, not_traced };

struct Finding {
    Anomaly what;
    int32_t position;
    int32_t layer = -1;
    const char *stage = nullptr;
    int64_t index = -1;
    double value = 0;
    double limit = 0;
    Inputs inputs = Inputs::not_asked;
};

constexpr int kRecordsPerForward = 64;  // what a damaged layer says of its 64th row says nothing new
constexpr size_t kAnomalyTextBytes = 256;

struct Anomalies {
    const bitnet_trace_host_t *host = nullptr;
    JsonText *out = nullptr;
    uint32_t run = 0;
    uint64_t n_forward = 0;                                    // in the forward pass under way
    uint64_t n_propagated = 0;                                 // of it: stages that merely inherited what was wrong
    uint64_t n_run = 0, n_run_propagated = 0, n_forwards = 0;  // forward passes with one
    uint64_t n_of[kAnomalies] = {};
    char first_of_forward[kAnomalyTextBytes] = "";
    char first_of_run[kAnomalyTextBytes] = "";
};

void anomalies_begin_run(Anomalies *self, uint32_t run);
void anomalies_begin_forward(Anomalies *self);
// Writes the record and counts; the first one of a run goes to the log.
void anomalies_add(Anomalies *self, const Finding &finding);
void anomalies_add_propagated(Anomalies *self);
void anomalies_end_forward(Anomalies *self);

}  // namespace bitnet::modeltracer
