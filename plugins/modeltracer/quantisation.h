// MLT-04: what the quantisation of the activations costs, per linear and at the logits.
#pragma once

#include <bitnet_c.h>

#include "plugins/modeltracer/anomalies.h"
#include "plugins/modeltracer/buffer.h"
#include "plugins/modeltracer/config.h"

namespace bitnet::modeltracer {

struct Error {
    double mse, max_abs, cosine, snr_db;
};
// Of `quantised` against `exact`. Equal vectors have cosine 1 and an infinite SNR; a zero one against another: cosine
// 0.
Error error_of(const float *quantised, const float *exact, size_t n);
double kl_divergence(const float *quantised, const float *exact,
                     size_t n);  // of softmax(exact) from softmax(quantised)
double negative_log_likelihood(const float *logits, size_t n, size_t token);

struct Quantisation {
    const Config *config = nullptr;
    Anomalies *anomalies = nullptr;
    const bitnet_trace_host_t *host = nullptr;
    const bitnet_ext_reference_t *reference = nullptr;  // NULL: this host has none
    int32_t first_position = 0, last_position = -1;     // compared in the step under way
    int32_t step_position = 0;
    Buffer<int32_t> tokens;  // of the step under way; empty: not known
    Buffer<float> pending;   // logits of `pending_position`, quantised and exact, whose next token is not known yet
    int32_t pending_position = -1;
    uint64_t n_linears = 0, n_warnings = 0, n_criticals = 0;  // in this run
    uint64_t n_logits = 0, n_missing = 0;
    double worst_cosine = 0, sum_logits_cosine = 0, worst_logits_cosine = 0, sum_kl = 0;
    uint64_t n_likelihoods = 0;
    double sum_nll = 0, sum_nll_exact = 0;
};

void quantisation_begin_run(Quantisation *self);
bool quantisation_begin_forward(Quantisation *self, const bitnet_step_event_t &step);
// A row of any stage; those that are no linear and no logits pass. False: out of memory.
bool quantisation_row(Quantisation *self, const bitnet_tensor_event_t &event, uint32_t row, const float *values);

}  // namespace bitnet::modeltracer
