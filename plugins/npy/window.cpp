#include "plugins/npy/window.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "plugins/output/sink_config.h"

namespace bitnet {

namespace {

constexpr long kMegabytes = 1024;        // of files, when the configuration does not say
constexpr long kMegabytesMax = 1 << 24;  // 16 TB
constexpr long kAroundMax = 999999;

constexpr char kKeys[] = "dir=FOLDER, at=SEQ:LAYER:STAGE, layers=N, positions=N, history=0 or 1, raw=all, max_mb=N";

bool fail(char reason[kReasonBytes], const ConfigItem &item, const char *expected) {
    snprintf(reason, kReasonBytes, "%s '%.*s', expected %s", item.value ? "configuration" : "unknown configuration",
             item.n_bytes > 100 ? 100 : int(item.n_bytes), item.text, expected);
    return false;
}

// "5:3:ffn_out"
bool read_point(const ConfigItem &item, NpyConfig *config) {
    const char *end = item.value + item.n_value;
    const char *first = static_cast<const char *>(memchr(item.value, ':', item.n_value));
    const char *second = first ? static_cast<const char *>(memchr(first + 1, ':', size_t(end - first - 1))) : nullptr;
    if (!second) return false;
    ConfigItem part = item;
    long number;
    part.n_value = size_t(first - item.value);
    if (!config_number(part, 0, 999999999, &number)) return false;
    config->seq = int32_t(number);
    part.value = first + 1;
    part.n_value = size_t(second - first - 1);
    if (!config_number(part, -1, 999999, &number)) return false;
    config->layer = int32_t(number);
    const size_t n = size_t(end - second - 1);
    if (!n || n >= sizeof config->stage || memchr(second + 1, '*', n)) return false;
    memcpy(config->stage, second + 1, n);
    config->stage[n] = 0;
    return true;
}

bool read_number(const ConfigItem &item, long min, long max, int32_t *out) {
    long number = 0;
    const bool ok = config_number(item, min, max, &number);
    *out = int32_t(number);
    return ok;
}

bool is_all(const ConfigItem &item) { return item.n_value == 3 && memcmp(item.value, "all", 3) == 0; }

// Where a stage stands in the order of execution: the blocks' own, -1 before them, n_blocks after them.
int64_t depth(int32_t layer, bool is_last, int32_t n_blocks) {
    if (layer >= 0) return layer;
    if (!is_last) return -1;
    return n_blocks ? n_blocks : INT32_MAX;  // unknown: next to no block
}

bool is_last_stage(const char *name) { return strcmp(name, "final_norm") == 0 || strcmp(name, "logits") == 0; }

}  // namespace

bool npy_config(const char *text, NpyConfig *config, OutputFolder *folder, char reason[kReasonBytes]) {
    ConfigItem item, dir = {}, at = {}, around = {};
    long megabytes = kMegabytes;
    int32_t history = 1;
    while (next_config_item(&text, &item)) {
        if (item.is("dir")) {
            dir = item;
        } else if (item.is("at")) {
            if (at.value) return fail(reason, item, "one point, at= once");
            at = item;
            if (!read_point(item, config)) return fail(reason, item, "at=SEQ:LAYER:STAGE, such as at=5:3:ffn_out");
        } else if (item.is("raw")) {
            if (!is_all(item)) return fail(reason, item, "raw=all");
            config->all = true;
        } else if (item.is("max_mb")) {
            if (!config_number(item, 1, kMegabytesMax, &megabytes)) return fail(reason, item, "max_mb=1 to 16777216");
        } else if (item.is("layers")) {
            around = item;
            if (!read_number(item, 0, kAroundMax, &config->n_layers)) return fail(reason, item, "layers=0 to 999999");
        } else if (item.is("positions")) {
            around = item;
            if (!read_number(item, 0, kAroundMax, &config->n_positions))
                return fail(reason, item, "positions=0 to 999999");
        } else if (item.is("history")) {
            around = item;
            if (!read_number(item, 0, 1, &history)) return fail(reason, item, "history=0 or history=1");
        } else {
            item.value = nullptr;
            return fail(reason, item, kKeys);
        }
    }
    config->history = history;
    config->n_bytes_max = uint64_t(megabytes) * 1000000;
    if (!at.value && !config->all) {
        snprintf(reason, kReasonBytes,
                 "raw values of everything may be gigabytes: say at=SEQ:LAYER:STAGE for a window "
                 "around that point, or raw=all for all that is selected");
        return false;
    }
    if (at.value && config->all) return fail(reason, at, "either at= or raw=all");
    if (around.value && config->all) return fail(reason, around, "it with at=, not with raw=all");
    const bool ok = dir.value ? folder_set(folder, dir.value, dir.n_value) : folder_set_default(folder, "-raw");
    if (!ok) memcpy(reason, folder->reason, kReasonBytes);
    return ok;
}

int32_t npy_layer_count(const char *hyperparameters) {
    for (const char *p = hyperparameters; p; p = strchr(p, ',')) {
        p += *p == ',';
        if (strncmp(p, "n_layer=", 8) == 0) return int32_t(strtol(p + 8, nullptr, 10));
    }
    return 0;
}

bool npy_is_point(const NpyConfig &config, const bitnet_tensor_event_t &event, int32_t seq) {
    return !config.all && seq == config.seq && event.header.layer == config.layer &&
           strcmp(event.stage_name, config.stage) == 0;
}

bool npy_wants(const NpyConfig &config, const bitnet_tensor_event_t &event, int32_t seq, int32_t n_blocks) {
    if (config.all) return true;
    const int32_t layer = event.header.layer;
    const bool is_cached = event.stage == BITNET_STAGE_K_ROPE || event.stage == BITNET_STAGE_V_PROJ;
    if (config.history && is_cached && layer == config.layer && seq < config.seq) return true;
    const int64_t positions = int64_t(seq) - config.seq;
    const int64_t layers = depth(layer, is_last_stage(event.stage_name), n_blocks) -
                           depth(config.layer, is_last_stage(config.stage), n_blocks);
    return positions >= -config.n_positions && positions <= config.n_positions && layers >= -config.n_layers &&
           layers <= config.n_layers;
}

}  // namespace bitnet
