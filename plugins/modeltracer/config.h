// What the sink traces, and from where on something is an anomaly. plugins/modeltracer/MODELTRACER.md lists the keys.
#pragma once

#include <bitnet_c.h>

#include "plugins/output/sink_config.h"

namespace bitnet::modeltracer {

constexpr int kTrackedMax = 64;  // tokens followed through the layers; more make no readable record
constexpr long kTopMax = 64;

struct Config {
    // Parts; the preset "full", and MLT-01 and MLT-05 alone in "lightweight".
    long activations = 1, attention = 1, logits = 1, quantisation = 1, kv = 1;
    long all_positions = 0;  // MLT-03 and MLT-04: of each position, or of the last one of a step

    double explosion = 1e6, variance = 1e4, vanishing = 1e-6, residual = 0.99;

    long top_k = 10;  // positions listed of a head
    double weight = 0.01;
    double sink = 0.3, uniform = 0.95, recency = 0.7, collapse = 0.1;
    long recency_window = 5;
    long attention_from = 8, attention_positions = 4;

    long top = 5;  // tokens chosen from the final logits
    int32_t tracked[kTrackedMax] = {};
    int n_tracked = 0;

    double quant_ok = 0.995, quant_critical = 0.99;

    double eviction_rate = 0.1, hit_rate = 0.5;
    long thrashing_window = 50;

    // Still with their escapes; text NULL: not given. Valid as long as the configuration's text.
    ConfigItem path = {}, text = {};
};

constexpr size_t kConfigReasonBytes = 384;
// False with a reason.
bool config_read(Config *config, const char *text, char reason[kConfigReasonBytes]);

}  // namespace bitnet::modeltracer
