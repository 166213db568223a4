// check: compares what a run computes with a recorded trace while it runs, and says at once where they part.
#include <bitnet_c.h>

#include <clocale>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <unistd.h>

#include "plugins/check/preflight.h"
#include "plugins/check/report.h"
#include "plugins/check/row.h"
#include "plugins/check/trace.h"
#include "plugins/output/sink_config.h"

namespace bitnet {

namespace {

using Llu = unsigned long long;

struct Check {
    CheckServices services;
    const bitnet_ext_stop_t *stop;  // NULL: nobody asked for it
    locale_t c_locale;              // numbers of a trace are written with '.'
    pid_t pid;                      // a forked child leaves the report alone
    char path[kPathBytes];          // of the trace, for messages
    CheckTrace trace;
    double tolerance = -1;  // below 0: hashes decide
    CheckReport report;

    uint64_t n_runs = 0;  // live ones that began
    TraceRunInfo *run;    // of the trace, the one under way is compared with; NULL: it has none
    bool run_ended;       // and flush() has not told its verdict yet
    CheckCounts counts;   // of the run under way
    CheckCounts total;    // of the ones before
    bool mismatch;        // found before any number
    JsonText preflight;   // JSON strings
    char preflight_text[kFactBytes];
    bool diverged;
    RowDifference first;
    char first_text[512];
};

// Sets the locale of this thread for one call from the host.
struct PlainNumbers {
    locale_t before;
    explicit PlainNumbers(const Check *self) : before(uselocale(self->c_locale)) {}
    ~PlainNumbers() { uselocale(before); }
};

bitnet_status_t fail(const bitnet_trace_host_t *host, bitnet_status_t status, const char *text) {
    host->log(host, BITNET_LOG_ERROR, text);
    return status;
}

CheckCounts sum(const CheckCounts &a, const CheckCounts &b) {
    return {a.compared + b.compared,   a.equal + b.equal,     a.within + b.within,
            a.different + b.different, a.missing + b.missing, a.not_reached + b.not_reached};
}

bool write_report(Check *self, const char *verdict) {
    if (getpid() != self->pid) return true;
    const CheckFindings findings = {verdict,
                                    self->path,
                                    self->tolerance,
                                    self->n_runs,
                                    sum(self->total, self->counts),
                                    self->preflight.data,
                                    self->preflight.n,
                                    self->diverged ? &self->first : nullptr,
                                    self->first_text};
    return report_write(&self->report, findings);
}

void ask_to_stop(Check *self, const char *reason) {
    if (self->stop) self->stop->stop(self->services.host, reason);
}

void tell_preflight(void *user, bool is_mismatch, const char *text) {
    Check *self = static_cast<Check *>(user);
    const bitnet_trace_host_t *host = self->services.host;
    if (self->preflight.n) self->preflight.put(',');
    self->preflight.put_string(text);
    host->log(host, BITNET_LOG_WARN, text);
    if (!is_mismatch) return;
    if (!self->mismatch) snprintf(self->preflight_text, sizeof self->preflight_text, "%s", text);
    self->mismatch = true;
    ask_to_stop(self, text);
}

// The runs of a context and those of a trace go together in their order.
void begin_run(Check *self, const bitnet_run_begin_event_t &event) {
    self->run = self->n_runs < self->trace.n_runs ? &self->trace.runs[self->n_runs] : nullptr;
    ++self->n_runs;
    self->run_ended = false;
    if (self->run) return preflight_run(*self->run, event, tell_preflight, self);
    char text[kFactBytes];
    snprintf(text, sizeof text, "preflight: run %llu is not in the trace, which has %zu", Llu(self->n_runs - 1),
             self->trace.n_runs);
    tell_preflight(self, false, text);
}

void diverge(Check *self, const TraceRecord &record, const bitnet_tensor_event_t &event, uint32_t row) {
    self->diverged = true;
    describe_row(self->services, self->trace, record, self->n_runs - 1, event, row, &self->first);
    difference_text(self->first, self->first_text, sizeof self->first_text);
    self->services.host->log(self->services.host, BITNET_LOG_WARN, self->first_text);
    ask_to_stop(self, self->first_text);
    // Now, because a process that crashes of what is wrong ends no run.
    if (!write_report(self, "running"))
        self->services.host->log(self->services.host, BITNET_LOG_WARN, self->report.reason);
}

bitnet_status_t compare(Check *self, const bitnet_tensor_event_t &event) {
    const int stage = self->run ? trace_stage(&self->trace, event.stage_name) : -1;
    for (uint32_t row = 0; row < event.n_rows; ++row) {
        TraceRecord *record = nullptr;
        if (stage >= 0) {
            const int64_t position = event.header.position + int64_t(row);
            record = trace_find(&self->trace, self->n_runs - 1, position, event.header.layer, stage);
        }
        if (!record) {
            ++self->counts.missing;
            continue;
        }
        if (!record->seen) ++self->run->n_seen;
        record->seen = true;
        ++self->counts.compared;
        switch (compare_row(self->services, self->trace, *record, event, row, self->tolerance)) {
        case RowRelation::equal: ++self->counts.equal; break;
        case RowRelation::within: ++self->counts.within; break;
        case RowRelation::different:
            ++self->counts.different;
            if (!self->diverged) diverge(self, *record, event, row);
            break;
        case RowRelation::no_memory:
            return fail(self->services.host, BITNET_E_NOMEM, "no memory for hash, statistics or sketch of a row");
        }
    }
    return BITNET_OK;
}

void end_run(Check *self) {
    self->run_ended = true;
    if (self->run) self->counts.not_reached = self->run->n_records - self->run->n_seen;
}

bitnet_status_t check_event(void *state, const bitnet_event_t *event) {
    Check *self = static_cast<Check *>(state);
    const PlainNumbers plain(self);
    switch (event->type) {
    case BITNET_EVENT_RUN_BEGIN: begin_run(self, *reinterpret_cast<const bitnet_run_begin_event_t *>(event)); break;
    case BITNET_EVENT_STEP_BEGIN:
        if (self->run)
            preflight_step(*self->run, *reinterpret_cast<const bitnet_step_event_t *>(event), tell_preflight, self);
        break;
    case BITNET_EVENT_TENSOR: return compare(self, *reinterpret_cast<const bitnet_tensor_event_t *>(event));
    case BITNET_EVENT_RUN_END: end_run(self); break;
    default: break;
    }
    return BITNET_OK;
}

const char *verdict_of(const Check *self, const CheckCounts &counts) {
    if (self->mismatch) return "mismatch";
    if (self->diverged) return "divergence";
    return counts.compared ? "match" : "nothing_compared";
}

// The host keeps one line of 255 bytes: what is wrong comes first in it, then the counts.
void verdict_text(const Check *self, const char *verdict, char *out, size_t capacity) {
    const CheckCounts &c = self->counts;
    char rest[128];
    snprintf(rest, sizeof rest, "%llu not in the trace, %llu of the trace not reached", Llu(c.missing),
             Llu(c.not_reached));
    if (strcmp(verdict, "mismatch") == 0) {
        snprintf(out, capacity, "not comparable: %.150s; %llu of %llu rows differ", self->preflight_text,
                 Llu(c.different), Llu(c.compared));
    } else if (strcmp(verdict, "divergence") == 0) {
        snprintf(out, capacity,
                 "differs from the trace first at position %lld, layer %lld, stage %s; %llu of %llu rows differ; %s",
                 static_cast<long long>(self->first.position), static_cast<long long>(self->first.layer),
                 self->first.stage, Llu(c.different), Llu(c.compared), rest);
    } else if (strcmp(verdict, "match") == 0) {
        snprintf(out, capacity, "%llu rows compared, %llu equal and %llu within the tolerance; %s", Llu(c.compared),
                 Llu(c.equal), Llu(c.within), rest);
    } else {
        snprintf(out, capacity, "nothing was compared: %s", rest);
    }
}

bitnet_status_t check_flush(void *state) {
    Check *self = static_cast<Check *>(state);
    if (!self->run_ended) return BITNET_OK;
    const PlainNumbers plain(self);
    const bitnet_trace_host_t *host = self->services.host;
    const char *verdict = verdict_of(self, self->counts);
    char text[400];
    verdict_text(self, verdict, text, sizeof text);
    const bool good = strcmp(verdict, "match") == 0;
    self->total = sum(self->total, self->counts);
    self->counts = {};
    self->run_ended = false;
    if (!write_report(self, verdict)) return fail(host, BITNET_E_IO, self->report.reason);
    if (!good) return fail(host, BITNET_E_USER, text);
    host->log(host, BITNET_LOG_INFO, text);
    return BITNET_OK;
}

void free_check(Check *self) {
    report_end(&self->report);
    trace_close(&self->trace);
    free(self->preflight.data);
    freelocale(self->c_locale);
    free(self);
}

// The verdict of each run was told by flush(); what is left is a context that was never used.
void check_close(void *state) {
    Check *self = static_cast<Check *>(state);
    {
        const PlainNumbers plain(self);
        if (self->n_runs == 0) {
            write_report(self, "nothing_compared");
            fail(self->services.host, BITNET_OK, "nothing was compared: no run began");
        }
    }
    free_check(self);
}

bool parse_tolerance(const ConfigItem &item, double *out) {
    char text[40], *end;
    if (item.n_value == 0 || item.n_value >= sizeof text) return false;
    memcpy(text, item.value, item.n_value);
    text[item.n_value] = 0;
    *out = strtod(text, &end);
    return !*end && std::isfinite(*out) && *out >= 0;
}

// Fills the rest of `self` from the configuration. False with a reason.
bool configure(Check *self, const char *config, bool *wants_stop, char reason[kReasonBytes]) {
    ConfigItem item;
    while (next_config_item(&config, &item)) {
        long number = 0;
        if (item.is("trace")) {
            if (!expand_path(item.value, item.n_value, self->path, reason)) return false;
        } else if (item.is("report")) {
            if (self->report.path) release_path(self->report.path, false);
            if (!report_begin(&self->report, item.value, item.n_value)) {
                memcpy(reason, self->report.reason, kReasonBytes);
                return false;
            }
        } else if (item.is("tolerance")) {
            if (!parse_tolerance(item, &self->tolerance)) {
                snprintf(reason, kReasonBytes, "tolerance: '%.*s' found, a number that is not negative expected",
                         item.n_value > 60 ? 60 : int(item.n_value), item.value);
                return false;
            }
        } else if (item.is("stop") && config_number(item, 0, 1, &number)) {
            *wants_stop = number == 1;
        } else {
            snprintf(reason, kReasonBytes,
                     "unknown configuration '%.*s', expected trace=FILE, tolerance=NUMBER, stop=0 or 1, report=FILE",
                     item.n_bytes > 100 ? 100 : int(item.n_bytes), item.text);
            return false;
        }
    }
    if (self->path[0]) return true;
    snprintf(reason, kReasonBytes, "no trace to compare with: trace=FILE expected");
    return false;
}

bool find_services(Check *self, bool wants_stop) {
    const bitnet_trace_host_t *host = self->services.host;
    const auto find = [host](const char *id) { return host->get_extension(host, id); };
    self->services.hash = static_cast<const bitnet_ext_hash_t *>(find(BITNET_EXT_HASH));
    self->services.stats = static_cast<const bitnet_ext_stats_t *>(find(BITNET_EXT_STATS));
    self->services.sketch = static_cast<const bitnet_ext_sketch_t *>(find(BITNET_EXT_SKETCH));
    if (wants_stop) self->stop = static_cast<const bitnet_ext_stop_t *>(find(BITNET_EXT_STOP));
    return self->services.hash && self->services.stats && self->services.sketch && (self->stop || !wants_stop);
}

bitnet_status_t open_check(Check *self, const char *config) {
    const bitnet_trace_host_t *host = self->services.host;
    const PlainNumbers plain(self);
    char reason[kReasonBytes];
    bool wants_stop = false;
    if (!configure(self, config, &wants_stop, reason)) return fail(host, BITNET_E_INVALID, reason);
    if (!find_services(self, wants_stop)) {
        return fail(host, BITNET_E_UNSUPPORTED,
                    "this host lacks " BITNET_EXT_HASH ", " BITNET_EXT_STATS ", " BITNET_EXT_SKETCH
                    " or, for stop=1, " BITNET_EXT_STOP);
    }
    if (!trace_open(&self->trace, self->path, self->tolerance >= 0)) {
        const size_t n = strlen(self->path);
        // The host keeps 255 bytes: of a long path its end.
        snprintf(reason, sizeof reason, "trace '%s%.100s': %s", n > 100 ? "..." : "",
                 self->path + (n > 100 ? n - 100 : 0), self->trace.reason);
        return fail(host, BITNET_E_FORMAT, reason);
    }
    // Written at once, so that a folder that is not there is not found at the end of a long run.
    return write_report(self, "running") ? BITNET_OK : fail(host, BITNET_E_IO, self->report.reason);
}

bitnet_status_t check_open(void **state, const bitnet_trace_host_t *host, const char *config) {
    void *memory = malloc(sizeof(Check));
    if (!memory) return fail(host, BITNET_E_NOMEM, "out of memory");
    Check *self = new (memory) Check{};
    self->services.host = host;
    self->pid = getpid();
    self->c_locale = newlocale(LC_ALL_MASK, "C", nullptr);
    if (!self->c_locale) {
        free(self);
        return fail(host, BITNET_E_NOMEM, "out of memory");
    }
    const bitnet_status_t status = open_check(self, config);
    if (status == BITNET_OK) {
        *state = self;
    } else {
        free_check(self);
    }
    return status;
}

constexpr bitnet_trace_sink_t kCheckSink = {
    sizeof(bitnet_trace_sink_t),
    BITNET_ABI_VERSION,
    "check",
    1u << BITNET_EVENT_RUN_BEGIN | 1u << BITNET_EVENT_STEP_BEGIN | 1u << BITNET_EVENT_TENSOR |
        1u << BITNET_EVENT_RUN_END,
    check_open,
    check_event,
    check_flush,
    check_close,
};

}  // namespace

}  // namespace bitnet

extern "C" BITNET_API const bitnet_trace_sink_t *bitnet_trace_plugin_v1(const bitnet_trace_host_t *host);
extern "C" const bitnet_trace_sink_t *bitnet_trace_plugin_v1(const bitnet_trace_host_t *) {
    return &bitnet::kCheckSink;
}
