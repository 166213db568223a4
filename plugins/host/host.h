// What the files of the trace host share. Internal to plugins/host.
#pragma once

#include "plugins/host/guard.h"
#include "plugins/host/select.h"
#include "plugins/host/services.h"
#include "plugins/host/trace_host.h"

namespace bitnet {

// Larger than any table that a version of this header could describe: beyond it, struct_size is rubbish.
constexpr uint32_t kSinkBytesMax = 4096;

// More inputs than any operation has; a foreign engine's are cut at it.
constexpr uint32_t kInputsMax = 8;

// One attached sink. Its `api` is what the sink sees as the host, so that a log call is known to be its own.
struct Sink {
    bitnet_trace_host_t api;
    TraceHost *host;
    Sink *next;
    bitnet_trace_sink_t table;  // a copy, cut to what we know
    void *state;
    char label[64];       // for messages: "sink 'jsonl'", "plugin '/p/libx.so'" until it is attached
    char last_text[256];  // the last that it logged during the call under way
};

// Results for one row of the event being delivered; valid when `event_seq` is that event's.
struct CachedRow {
    uint64_t event_seq;
    uint32_t have;  // bits of kHave...
    uint8_t hash[32];
    uint64_t multiset;
    bitnet_stats_t stats;
    float sketch[BITNET_SKETCH_BUCKETS];
};

// A row that the engine has announced.
struct ExpectedRow {
    TraceRowBytes row;
    bool has_hash;
    uint8_t hash[32];
};

}  // namespace bitnet

struct TraceHost {
    const char *library_dir;
    TraceLogFn log;
    void *log_user;
    TraceGuardFn guard;
    TraceEngine engine;
    bitnet_ext_lens_t lens;  // offered when the engine has one
    bitnet::Sink *sinks;     // in the order of attachment
    uint64_t want;           // what any of them wants
    bitnet::Selection selection;
    char *prompt;  // owned; NULL: unknown
    uint64_t n_prompt_bytes;

    bool run_open, step_open, delivering, overridden, overridable;
    uint32_t run;       // number of the open or the next run
    uint64_t next_seq;  // of the next event
    uint64_t mark_ns;   // end of the last delivery
    uint64_t run_tensors, run_rows, run_tokens;
    int32_t step_position;
    const int32_t *step_tokens;
    uint64_t n_step_tokens;

    bitnet_tensor_event_t *current;  // the tensor event under way, for the services
    void *current_data;              // where a sink may replace values; NULL: nowhere
    uint32_t current_row;            // index of its row 0 in the rows that the engine gave
    bitnet::CachedRow *rows;
    uint64_t n_rows_cached;  // capacity of `rows`
    bool hashes;             // a sink has asked for one
    bitnet::ExpectedRow *expected;
    uint64_t n_expected, n_expected_max, next_expected;  // those before the next one were given

    bool stopping;
    char stop_reason[256];

    uint64_t n_events, n_bytes, n_failures, sink_ns;
    char last_failure[sizeof(bitnet_trace_stats_t::last_failure)];
};

namespace bitnet {

uint64_t now_ns();
const void *find_extension(const bitnet_trace_host_t *api, const char *id);  // extensions.cpp
inline TraceHost *host_of(const bitnet_trace_host_t *api) { return static_cast<Sink *>(api->self)->host; }

void log_text(TraceHost *host, int32_t level, const char *text);
void record_failure(TraceHost *host, const char *text);

Sink *sink_create(TraceHost *host, const char *label);  // NULL: out of memory
// Checks the table, opens the sink and attaches it. On failure the sink is freed.
bitnet_status_t sink_adopt(Sink *sink, const bitnet_trace_sink_t *table, void *user, const char *config, bool is_plugin,
                           char *error);

}  // namespace bitnet
