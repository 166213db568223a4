#include "plugins/check/trace.h"

#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <new>
#include <sys/stat.h>
#include <unistd.h>

namespace bitnet {

namespace {

using Llu = unsigned long long;

// A key's parts, from its highest bits: what each can hold is far beyond any model.
constexpr int kRunBits = 14, kPositionBits = 24, kLayerBits = 14, kStageBits = 12;
static_assert(kRunBits + kPositionBits + kLayerBits + kStageBits == 64);
constexpr int64_t kFirstLayer = -1;

RecordKey make_key(size_t run, int64_t position, int64_t layer, int stage) {
    return uint64_t(run) << (64 - kRunBits) | uint64_t(position) << (kLayerBits + kStageBits) |
           uint64_t(layer - kFirstLayer) << kStageBits | uint64_t(stage);
}

bool in_range(size_t run, int64_t position, int64_t layer) {
    return run >> kRunBits == 0 && position >= 0 && position >> kPositionBits == 0 && layer >= kFirstLayer &&
           (layer - kFirstLayer) >> kLayerBits == 0;
}

// Room for one more item; false: out of memory.
template <class T> bool grow(T **items, size_t n, size_t *capacity) {
    if (n < *capacity) return true;
    const size_t wanted = 2 * *capacity + 256;
    T *grown = static_cast<T *>(realloc(*items, wanted * sizeof(T)));
    if (!grown) return false;
    *items = grown;
    *capacity = wanted;
    return true;
}

struct Reader {
    CheckTrace *trace;
    LineSource lines;
    LineParser parser = {};
    uint32_t line = 0;
    bool run_open = false;
    uint64_t run_number = 0;  // of the open run, as the file counts

    bool fail(const char *text) {
        snprintf(trace->reason, sizeof trace->reason, "%s", text);
        return false;
    }
    bool fail_here(const char *text) {
        snprintf(trace->reason, sizeof trace->reason, "line %u: %s", line, text);
        return false;
    }
    bool no_memory() { return fail("out of memory"); }

    bool read_all();
    bool add_line();
    bool add_run();
    bool add_tokens(int64_t position, size_t n, const int32_t *ids);
    bool add_tensor();
    bool end_run();
    int stage_index(Slice name);
    bool check_end();
    bool sort();
    TraceRunInfo &run() { return trace->runs[trace->n_runs - 1]; }
};

bool Reader::read_all() {
    if (!lines_begin(&lines, trace->fd)) return fail(lines.reason);
    char *text;
    size_t n_bytes;
    while (lines_next(&lines, &text, &n_bytes)) {
        ++line;
        if (!parse_line(&parser, text, n_bytes)) {
            char why[kLineReasonBytes + 32];
            snprintf(why, sizeof why, "%s%s", parser.reason, lines.unterminated ? " (the last line is cut)" : "");
            return fail_here(why);
        }
        if (!add_line()) return false;
    }
    if (lines.reason[0]) return fail(lines.reason);
    return check_end() && sort();
}

bool Reader::add_line() {
    const TraceLine &parsed = parser.line;
    if (parsed.kind == LineKind::run) return add_run();
    if (!run_open || parsed.run != run_number) {
        char text[96];
        snprintf(text, sizeof text, "a record of run %llu, which is not open", Llu(parsed.run));
        return fail_here(text);
    }
    switch (parsed.kind) {
    case LineKind::step:
        return parsed.seq >> kPositionBits ? fail_here("\"seq\" is too large")
                                           : add_tokens(int64_t(parsed.seq), parser.n_tokens, parser.tokens);
    case LineKind::tensor: return add_tensor();
    default: return end_run();
    }
}

bool Reader::add_run() {
    if (run_open) return fail_here("the run before this one has no run_end: the trace was cut short");
    if (trace->n_runs >> kRunBits) return fail_here("more than 16384 runs in one trace");
    void *grown = realloc(trace->runs, (trace->n_runs + 1) * sizeof(TraceRunInfo));
    if (!grown) return no_memory();
    trace->runs = static_cast<TraceRunInfo *>(grown);
    trace->runs[trace->n_runs++] = {parser.facts, nullptr, 0, 0, 0};
    parser.facts = {};  // the run's now
    run_open = true;
    run_number = parser.line.run;
    return add_tokens(0, parser.n_tokens, parser.tokens);
}

// Steps come later than the run's own tokens, and a step that was tried again later than the one that failed.
bool Reader::add_tokens(int64_t position, size_t n, const int32_t *ids) {
    TraceRunInfo &into = run();
    const size_t end = size_t(position) + n;
    if (end > into.n_tokens) {
        int32_t *grown = static_cast<int32_t *>(realloc(into.tokens, end * sizeof(int32_t)));
        if (!grown) return no_memory();
        for (size_t i = into.n_tokens; i < end; ++i) grown[i] = -1;
        into.tokens = grown;
        into.n_tokens = end;
    }
    if (n) memcpy(into.tokens + position, ids, n * sizeof(int32_t));
    return true;
}

int Reader::stage_index(Slice name) {
    for (size_t i = 0; i < trace->n_stages; ++i) {
        if (name.is(trace->stages[i])) return int(i);
    }
    if (trace->n_stages >> kStageBits) return -1;
    char **grown = static_cast<char **>(realloc(trace->stages, (trace->n_stages + 1) * sizeof(char *)));
    if (!grown) return -1;
    trace->stages = grown;
    char *copy = static_cast<char *>(malloc(name.n + 1));
    if (!copy) return -1;
    memcpy(copy, name.data, name.n);
    copy[name.n] = 0;
    trace->stages[trace->n_stages] = copy;
    return int(trace->n_stages++);
}

bool Reader::add_tensor() {
    const TraceLine &parsed = parser.line;
    static constexpr const char *kDtypes[] = {"F32", "F16", "BF16", "I8", "I32"};
    int dtype = 0;
    while (dtype < 5 && !parsed.dtype.is(kDtypes[dtype])) ++dtype;
    if (dtype == 5) return fail_here("\"dtype\": F32, F16, BF16, I8 or I32 expected");
    const size_t run_index = trace->n_runs - 1;
    const int64_t position = parsed.seq > INT32_MAX ? -1 : int64_t(parsed.seq);
    if (!in_range(run_index, position, parsed.layer)) return fail_here("\"seq\" or \"layer\" is out of range");
    const int stage = stage_index(parsed.stage);
    if (stage < 0) return fail_here("too many names of stages, or out of memory");
    if (!grow(&trace->records, trace->n_records, &trace->record_capacity)) return no_memory();
    TraceRecord &record = trace->records[trace->n_records];
    record = {};
    record.key = make_key(run_index, position, parsed.layer, stage);
    record.n_elements = parsed.n_elements;
    memcpy(record.blake3, parsed.blake3, sizeof record.blake3);
    record.line = line;
    record.dtype = int8_t(dtype);
    record.is_finite = parsed.n_nan == 0 && parsed.n_inf == 0;
    if (trace->with_measures) {
        if (!grow(&trace->measures, trace->n_records, &trace->measure_capacity)) return no_memory();
        record.measure = uint32_t(trace->n_records);
        TraceMeasure &measure = trace->measures[trace->n_records];
        measure.l2 = parsed.l2;
        memcpy(measure.sketch, parsed.sketch, sizeof measure.sketch);
    }
    ++trace->n_records;
    ++run().n_records;
    return true;
}

bool Reader::end_run() {
    run_open = false;
    if (parser.line.n_records == run().n_records) return true;
    char text[128];
    snprintf(text, sizeof text, "run_end says %llu tensor records, %llu are there", Llu(parser.line.n_records),
             Llu(run().n_records));
    return fail_here(text);
}

bool Reader::check_end() {
    char text[128];
    if (line == 0) return fail("is empty: a trace begins with a run record");
    if (run_open) {
        snprintf(text, sizeof text, "cut short: run %llu has no run_end after line %u", Llu(run_number), line);
        return fail(text);
    }
    return trace->n_records ? true : fail("has no tensor record: nothing to compare with");
}

int by_key(const void *a, const void *b) {
    const TraceRecord &x = *static_cast<const TraceRecord *>(a), &y = *static_cast<const TraceRecord *>(b);
    if (x.key != y.key) return x.key < y.key ? -1 : 1;
    return x.line < y.line ? -1 : x.line > y.line;
}

bool Reader::sort() {
    qsort(trace->records, trace->n_records, sizeof(TraceRecord), by_key);
    for (size_t i = 1; i < trace->n_records; ++i) {
        const TraceRecord &before = trace->records[i - 1], &here = trace->records[i];
        if (before.key != here.key) continue;
        char text[96];
        snprintf(text, sizeof text, "line %u is a second record of what line %u has", here.line, before.line);
        return fail(text);
    }
    return true;
}

}  // namespace

bool trace_open(CheckTrace *trace, const char *path, bool with_measures) {
    trace->with_measures = with_measures;
    trace->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);  // a pipe without a writer must not hang us
    Reader reader{trace, {}};
    struct stat about;
    bool good;
    if (trace->fd < 0 || fstat(trace->fd, &about) != 0) {
        good = reader.fail(strerrordesc_np(errno));
    } else if (!S_ISREG(about.st_mode)) {
        good = reader.fail("is not a regular file");
    } else {
        good = reader.read_all();
    }
    lines_end(&reader.lines);
    free_line_parser(&reader.parser);
    return good;
}

void trace_close(CheckTrace *trace) {
    if (trace->fd >= 0) close(trace->fd);
    for (size_t i = 0; i < trace->n_runs; ++i) {
        free(trace->runs[i].facts.data);
        free(trace->runs[i].tokens);
    }
    for (size_t i = 0; i < trace->n_stages; ++i) free(trace->stages[i]);
    free(trace->runs);
    free(trace->stages);
    free(trace->records);
    free(trace->measures);
    *trace = {};
}

int trace_stage(const CheckTrace *trace, const char *name) {
    for (size_t i = 0; i < trace->n_stages; ++i) {
        if (strcmp(trace->stages[i], name) == 0) return int(i);
    }
    return -1;
}

TraceRecord *trace_find(CheckTrace *trace, size_t run, int64_t position, int64_t layer, int stage) {
    if (stage < 0 || !in_range(run, position, layer)) return nullptr;
    const RecordKey key = make_key(run, position, layer, stage);
    size_t first = 0, n = trace->n_records;
    while (n) {
        const size_t half = n / 2;
        TraceRecord *middle = &trace->records[first + half];
        if (middle->key == key) return middle;
        if (middle->key < key) {
            first += half + 1;
            n -= half + 1;
        } else {
            n = half;
        }
    }
    return nullptr;
}

bool trace_read_again(const CheckTrace *trace, const TraceRecord &record, LineParser *parser) {
    LineSource lines;
    bool good = lines_begin(&lines, trace->fd);
    char *text = nullptr;
    size_t n_bytes = 0;
    for (uint32_t line = 0; good && line < record.line; ++line) good = lines_next(&lines, &text, &n_bytes);
    good = good && parse_line(parser, text, n_bytes) && parser->line.kind == LineKind::tensor &&
           memcmp(parser->line.blake3, record.blake3, sizeof record.blake3) == 0;
    lines_end(&lines);
    return good;  // the line's texts are gone with the buffer; its numbers are here
}

}  // namespace bitnet
