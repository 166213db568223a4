#include "plugins/modeltracer/config.h"

#include <cstdio>

namespace bitnet::modeltracer {

namespace {

struct WholeKey {
    const char *key;
    long Config::*value;
    long min, max;
};
constexpr WholeKey kWholeKeys[] = {
    {"activations", &Config::activations, 0, 1},
    {"attention", &Config::attention, 0, 1},
    {"logits", &Config::logits, 0, 1},
    {"quantisation", &Config::quantisation, 0, 1},
    {"kv", &Config::kv, 0, 1},
    {"top_k", &Config::top_k, 1, 1000},
    {"recency_window", &Config::recency_window, 0, 1000000},
    {"attention_from", &Config::attention_from, 2, 1000000},
    {"attention_positions", &Config::attention_positions, 1, 1000000},
    {"top", &Config::top, 0, kTopMax},
    {"thrashing_window", &Config::thrashing_window, 1, 1000},
};

struct RealKey {
    const char *key;
    double Config::*value;
};
constexpr RealKey kRealKeys[] = {
    {"explosion", &Config::explosion},
    {"variance", &Config::variance},
    {"vanishing", &Config::vanishing},
    {"residual", &Config::residual},
    {"weight_threshold", &Config::weight},
    {"sink", &Config::sink},
    {"uniform", &Config::uniform},
    {"recency", &Config::recency},
    {"collapse", &Config::collapse},
    {"quant_ok", &Config::quant_ok},
    {"quant_critical", &Config::quant_critical},
    {"eviction_rate", &Config::eviction_rate},
    {"hit_rate", &Config::hit_rate},
};

// "0.01", "1e6": at most 15 digits and a power of ten up to 22, so that one operation rounds it right, in any locale.
bool real_number(const ConfigItem &item, double *out) {
    const char *p = item.value, *end = p + item.n_value;
    double mantissa = 0;
    int n_digits = 0, exponent = 0;
    bool point = false;
    for (; p < end && ((*p >= '0' && *p <= '9') || (*p == '.' && !point)); ++p) {
        if (*p == '.') {
            point = true;
            continue;
        }
        mantissa = 10 * mantissa + (*p - '0');
        ++n_digits;
        exponent -= point;
    }
    if (!n_digits || n_digits > 15) return false;
    if (p < end && (*p == 'e' || *p == 'E')) {
        ConfigItem digits = item;
        ++p;
        if (p < end && *p == '+') ++p;
        digits.value = p;
        digits.n_value = size_t(end - digits.value);
        long written = 0;
        if (!config_number(digits, -99, 99, &written)) return false;
        exponent += int(written);
        p = end;
    }
    if (p != end || exponent < -22 || exponent > 22) return false;
    double power = 1;
    for (int i = 0; i < (exponent < 0 ? -exponent : exponent); ++i) power *= 10;  // exact up to 10^22
    *out = exponent < 0 ? mantissa / power : mantissa * power;
    return true;
}

bool equals(const ConfigItem &item, const char *word) {
    return item.n_value == strlen(word) && memcmp(item.value, word, item.n_value) == 0;
}

// "12;345"; a ';' may come as "%;", for BITNET_TRACE_PLUGIN ends a plugin's configuration at a bare one.
bool token_list(Config *config, const ConfigItem &item) {
    config->n_tracked = 0;
    const char *p = item.value, *end = p + item.n_value;
    while (p < end) {
        ConfigItem id = item;
        id.value = p;
        while (p < end && *p != ';' && *p != '%') ++p;
        id.n_value = size_t(p - id.value);
        long token = 0;
        if (config->n_tracked == kTrackedMax || !config_number(id, 0, 999999999, &token)) return false;
        config->tracked[config->n_tracked++] = int32_t(token);
        if (p < end && *p == '%') ++p;
        if (p < end && *p++ != ';') return false;
        if (p == end && p[-1] == ';') return false;
    }
    return config->n_tracked > 0;
}

bool fail(const ConfigItem &item, const char *expected, char *reason) {
    snprintf(reason, kConfigReasonBytes, "configuration '%.*s', expected %s",
             item.n_bytes > 80 ? 80 : int(item.n_bytes), item.text, expected);
    return false;
}

bool read_whole(Config *config, const ConfigItem &item, const WholeKey &key, char *reason) {
    if (config_number(item, key.min, key.max, &(config->*key.value))) return true;
    char expected[96];
    snprintf(expected, sizeof expected, "%s=%ld to %ld", key.key, key.min, key.max);
    return fail(item, expected, reason);
}

bool read_item(Config *config, const ConfigItem &item, bool *has_top, char *reason) {
    for (const WholeKey &key : kWholeKeys) {
        if (item.is(key.key)) {
            *has_top = *has_top || item.is("top");
            return read_whole(config, item, key, reason);
        }
    }
    for (const RealKey &key : kRealKeys) {
        if (!item.is(key.key)) continue;
        return real_number(item, &(config->*key.value)) || fail(item, "a number such as 0.5 or 1e6", reason);
    }
    if (item.is("preset")) return true;  // read before all others
    if (item.is("path")) return config->path = item, true;
    if (item.is("text")) return config->text = item, true;
    if (item.is("track"))
        return token_list(config, item) || fail(item, "track=ID;ID;..., at most 64 token ids", reason);
    if (item.is("positions")) {
        config->all_positions = equals(item, "all");
        return config->all_positions || equals(item, "last") || fail(item, "positions=last or positions=all", reason);
    }
    snprintf(reason, kConfigReasonBytes,
             "unknown configuration '%.*s', expected preset, path, text, activations, attention, logits, quantisation, "
             "kv, positions, track, top, top_k or a threshold (plugins/modeltracer/MODELTRACER.md lists them)",
             item.n_bytes > 80 ? 80 : int(item.n_bytes), item.text);
    return false;
}

}  // namespace

bool config_read(Config *config, const char *text, char reason[kConfigReasonBytes]) {
    ConfigItem item;
    for (const char *rest = text; next_config_item(&rest, &item);) {
        if (!item.is("preset")) continue;
        const bool light = equals(item, "lightweight");
        if (!light && !equals(item, "full")) return fail(item, "preset=full or preset=lightweight", reason);
        config->attention = config->logits = config->quantisation = !light;
    }
    bool has_top = false;
    for (const char *rest = text; next_config_item(&rest, &item);) {
        if (!read_item(config, item, &has_top, reason)) return false;
    }
    if (config->n_tracked && !has_top) config->top = 0;
    if (config->logits && !config->n_tracked && !config->top) {
        snprintf(reason, kConfigReasonBytes,
                 "configuration 'top=0', expected tokens to follow: track=ID;ID or top=1 or more");
        return false;
    }
    return true;
}

}  // namespace bitnet::modeltracer
