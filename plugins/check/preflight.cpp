#include "plugins/check/preflight.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace bitnet {

namespace {

// Value of a fact of the trace; NULL: it says nothing about that.
const char *fact_of(const FactText &facts, const char *key) {
    const char *p = facts.data, *end = p + facts.n;
    while (p && p < end) {
        const char *value = p + strlen(p) + 1;
        if (value > end) return nullptr;
        if (strcmp(p, key) == 0) return value;
        p = value + strlen(value) + 1;
    }
    return nullptr;
}

// "1e-05" and "0.00001" are the same number; so are an f32 and the double it was written from.
bool same_value(const char *a, const char *b) {
    if (strcmp(a, b) == 0) return true;
    if (!strpbrk(a, ".eE") && !strpbrk(b, ".eE")) return false;
    char *end_a, *end_b;
    const double x = strtod(a, &end_a), y = strtod(b, &end_b);
    return *a && *b && !*end_a && !*end_b && float(x) == float(y);
}

struct Preflight {
    const TraceRunInfo &trace_run;
    FactFn tell;
    void *user;

    void compare(const char *key, const char *value, bool is_mismatch) const {
        const char *expected = fact_of(trace_run.facts, key);
        if (!expected || !*value || !*expected || same_value(value, expected)) return;
        char text[kFactBytes];
        snprintf(text, sizeof text, "preflight: %.60s is %.64s, %.64s in the trace", key, value, expected);
        tell(user, is_mismatch, text);
    }

    // "a=1,b=x" as "<section>.a" and "<section>.b".
    void compare_pairs(const char *section, const char *pairs, bool is_mismatch) const {
        for (const char *p = pairs; *p;) {
            const size_t n = strcspn(p, ",");
            const char *equals = static_cast<const char *>(memchr(p, '=', n));
            if (equals) {
                char key[128], value[128];
                snprintf(key, sizeof key, "%s.%.*s", section, int(equals - p), p);
                snprintf(value, sizeof value, "%.*s", int(p + n - equals - 1), equals + 1);
                compare(key, value, is_mismatch);
            }
            p += n + (p[n] != 0);
        }
    }
};

}  // namespace

void preflight_run(const TraceRunInfo &trace_run, const bitnet_run_begin_event_t &event, FactFn tell, void *user) {
    const Preflight preflight{trace_run, tell, user};
    preflight.compare("model_hash", event.model_hash, true);
    preflight.compare_pairs("hyperparameters", event.hyperparameters, true);
    // Another arithmetic may well give the same numbers; where it does not, this is why.
    preflight.compare_pairs("semantics", event.semantics, false);
    preflight.compare("kv_type", event.kv_type, false);
    preflight.compare("architecture", event.architecture, false);
}

void preflight_step(const TraceRunInfo &trace_run, const bitnet_step_event_t &event, FactFn tell, void *user) {
    if (!event.tokens) return;
    for (uint64_t i = 0; i < event.n_tokens; ++i) {
        const uint64_t position = uint64_t(event.header.position) + i;
        if (position >= trace_run.n_tokens) return;  // the trace has not been there: its rows are counted as missing
        const int32_t expected = trace_run.tokens[position];
        if (expected < 0 || expected == event.tokens[i]) continue;
        char text[kFactBytes];
        snprintf(text, sizeof text, "preflight: token %d at position %llu, %d in the trace", int(event.tokens[i]),
                 static_cast<unsigned long long>(position), int(expected));
        return tell(user, true, text);  // one token moves all that follow
    }
}

}  // namespace bitnet
