// A recorded trace in memory: of each record what a comparison needs, and where to find the rest.
#pragma once

#include <bitnet_c.h>

#include "plugins/check/line.h"
#include "plugins/check/lines.h"

namespace bitnet {

// Position, layer and stage name within a run of the trace; ordered as such.
using RecordKey = uint64_t;

struct TraceRecord {
    RecordKey key;
    uint64_t n_elements;
    uint8_t blake3[32];
    uint32_t line;     // in the file, from 1
    uint32_t measure;  // index into CheckTrace::measures
    int8_t dtype;      // BITNET_DTYPE_...
    bool is_finite;    // no NaN and no infinity in it
    bool seen;         // the live run has had it
};

// What a tolerance is measured with; kept only when there is one.
struct TraceMeasure {
    double l2;
    float sketch[BITNET_SKETCH_BUCKETS];
};

struct TraceRunInfo {
    FactText facts;
    int32_t *tokens;  // by position; -1: not known
    size_t n_tokens;
    uint64_t n_records;
    uint64_t n_seen;
};

struct CheckTrace {
    int fd = -1;  // stays open: relative paths may lead elsewhere later
    bool with_measures = false;
    TraceRunInfo *runs = nullptr;
    size_t n_runs = 0;
    TraceRecord *records = nullptr;  // by key
    size_t n_records = 0, record_capacity = 0;
    TraceMeasure *measures = nullptr;  // as read
    size_t measure_capacity = 0;
    char **stages = nullptr;  // names; their index is in the keys
    size_t n_stages = 0;
    char reason[256] = "";
};

// Reads all of the file. False with a reason: a trace that is damaged or cut is none to compare with.
bool trace_open(CheckTrace *trace, const char *path, bool with_measures);
void trace_close(CheckTrace *trace);

// The stage's index in this trace; -1: no record of it.
int trace_stage(const CheckTrace *trace, const char *name);
// NULL: no such record.
TraceRecord *trace_find(CheckTrace *trace, size_t run, int64_t position, int64_t layer, int stage);
// Reads one record again, with everything that its line says. False: the file has changed since.
bool trace_read_again(const CheckTrace *trace, const TraceRecord &record, LineParser *parser);

}  // namespace bitnet
