// The timeline sink: where the time went, in the Trace Event Format of Chrome and Perfetto.
//
// One JSON array, an event per line, each after the first with its comma in front: a file that was cut short lacks the
// last ']' only, which the format allows. Steps are B and E, so that the one under way is seen in such a file too.
#include <bitnet_c.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <unistd.h>

#include "plugins/output/file.h"
#include "plugins/output/json_text.h"
#include "plugins/output/sink_config.h"

namespace bitnet {

namespace {

constexpr size_t kChunkBytes = 64 * 1024;  // lines are gathered up to here between step ends
constexpr size_t kThreadsMax = 64;         // that get a name

// One stage; the groups of rows that a selection makes of one computation are one slice.
struct StageSlice {
    bool is_open;
    uint64_t begin_ns, end_ns;
    int32_t stage, layer, position;
    uint64_t last_seq, n_rows, n_bytes, ns;
    char name[64], kernel[64];
};

// What happens in one block for one batch of rows.
struct Block {
    bool is_open;
    uint64_t end_ns;
    int32_t layer, first_stage;
    uint32_t end_row;  // of those seen, within their evaluation
};

struct Timeline {
    const bitnet_trace_host_t *host;
    OutputFile file;
    JsonText text;  // whole lines not yet written
    bool has_events, failed;
    uint64_t floor_ns;   // the end of the last stage or the begin of the step: nothing that follows began before
    uint64_t engine_ns;  // of the stages of this step
    StageSlice stage;
    Block block;
    pid_t threads[kThreadsMax];  // that have been named
    size_t n_threads;
    pid_t pid, tid;
};

bitnet_status_t fail(const Timeline *self, bitnet_status_t status, const char *text) {
    self->host->log(self->host, BITNET_LOG_ERROR, text);
    return status;
}

bitnet_status_t write_out(Timeline *self) {
    if (self->text.failed) return fail(self, BITNET_E_NOMEM, "no memory for an event's text");
    const bool ok = !self->text.n || output_write(&self->file, self->text.data, self->text.n);
    self->text.n = 0;
    self->failed = !ok;
    return ok ? BITNET_OK : fail(self, BITNET_E_IO, self->file.reason);
}

// ---- events -----------------------------------------------------------------------------------------------------

void put_microseconds(JsonText *out, uint64_t ns) {
    out->put_unsigned(ns / 1000);
    const unsigned rest = unsigned(ns % 1000);
    const char digits[4] = {'.', char('0' + rest / 100), char('0' + rest / 10 % 10), char('0' + rest % 10)};
    out->put(digits, sizeof digits);
}

// Up to the process and the thread.
JsonText *begin_event(Timeline *self, char phase, const char *name) {
    JsonText *out = &self->text;
    if (!self->has_events)
        out->lit("[\n{\"ph\":\"");
    else
        out->lit(",{\"ph\":\"");
    self->has_events = true;
    out->put(phase);
    out->lit("\",\"name\":");
    out->put_string(name);
    out->lit(",\"pid\":");
    out->put_signed(self->pid);
    out->lit(",\"tid\":");
    out->put_signed(self->tid);
    return out;
}

JsonText *begin_timed(Timeline *self, char phase, const char *name, const char *category, uint64_t ns) {
    JsonText *out = begin_event(self, phase, name);
    out->lit(",\"cat\":");
    out->put_string(category);
    out->lit(",\"ts\":");
    put_microseconds(out, ns);
    return out;
}

void put_metadata(Timeline *self, const char *what, const char *name) {
    JsonText *out = begin_event(self, 'M', what);
    out->lit(",\"args\":{\"name\":");
    out->put_string(name);
    out->lit("}}\n");
}

void name_thread(Timeline *self) {
    self->tid = gettid();
    for (size_t i = 0; i < self->n_threads; ++i) {
        if (self->threads[i] == self->tid) return;
    }
    if (self->n_threads == kThreadsMax) return;
    self->threads[self->n_threads++] = self->tid;
    char name[32];
    snprintf(name, sizeof name, "evaluation %d", int(self->tid));
    put_metadata(self, "thread_name", name);
}

// Begun before its first stage is written: of slices that begin at the same time the first is the outer one.
void begin_block(Timeline *self, int32_t layer, int32_t first_stage, uint64_t begin_ns) {
    self->block = {true, begin_ns, layer, first_stage, 0};
    char name[24];
    snprintf(name, sizeof name, "blk %d", int(layer));
    JsonText *out = begin_timed(self, 'B', name, "block", begin_ns);
    out->lit(",\"args\":{\"layer\":");
    out->put_signed(layer);
    out->lit("}}\n");
}

void end_block(Timeline *self) {
    Block &block = self->block;
    if (!block.is_open) return;
    block.is_open = false;
    char name[24];
    snprintf(name, sizeof name, "blk %d", int(block.layer));
    begin_timed(self, 'E', name, "block", block.end_ns)->lit("}\n");
}

void end_stage(Timeline *self) {
    StageSlice &stage = self->stage;
    if (!stage.is_open) return;
    stage.is_open = false;
    JsonText *out = begin_timed(self, 'X', stage.name, "stage", stage.begin_ns);
    out->lit(",\"dur\":");
    put_microseconds(out, stage.end_ns - stage.begin_ns);
    out->lit(",\"args\":{\"layer\":");
    out->put_signed(stage.layer);
    out->lit(",\"position\":");
    out->put_signed(stage.position);
    out->lit(",\"n_rows\":");
    out->put_unsigned(stage.n_rows);
    out->lit(",\"bytes\":");
    out->put_unsigned(stage.n_bytes);
    out->lit(",\"kernel\":");
    out->put_string(stage.kernel);
    out->lit(",\"ns\":");
    out->put_unsigned(stage.ns);
    out->lit("}}\n");
}

// ---- what the host delivers -------------------------------------------------------------------------------------

uint64_t element_bytes(int32_t dtype) {
    switch (dtype) {
    case BITNET_DTYPE_F16:
    case BITNET_DTYPE_BF16: return 2;
    case BITNET_DTYPE_I8: return 1;
    default: return 4;
    }
}

void copy_text(char out[64], const char *text) { snprintf(out, 64, "%.63s", text); }

// Rows of the computation that the last event was about: the selection left some out between them.
bool continues(const StageSlice &stage, const bitnet_tensor_event_t &event) {
    return stage.is_open && event.header.seq == stage.last_seq + 1 && event.stage == stage.stage &&
           event.header.layer == stage.layer && event.ns == stage.ns && event.first_row > 0 &&
           strncmp(stage.name, event.stage_name, sizeof stage.name - 1) == 0;
}

// The same block again, for the next rows of a prompt. (Attention is shown row by row, which is no such thing.)
bool is_next_batch(const Block &block, const bitnet_tensor_event_t &event) {
    return event.stage == block.first_stage && event.first_row >= block.end_row;
}

void put_tensor(Timeline *self, const bitnet_tensor_event_t &event) {
    StageSlice &stage = self->stage;
    const uint64_t n_bytes = event.n_rows * event.row_elements * element_bytes(event.dtype);
    if (continues(stage, event)) {
        stage.last_seq = event.header.seq;
        stage.n_rows += event.n_rows;
        stage.n_bytes += n_bytes;
        self->floor_ns = event.header.time_ns;  // sinks have been at work since
        return;
    }
    end_stage(self);
    const uint64_t end = event.header.time_ns > self->floor_ns ? event.header.time_ns : self->floor_ns;
    // Engines that tell their own time may tell one that overlaps: slices of a thread must not.
    const uint64_t begin = end - self->floor_ns < event.ns ? self->floor_ns : end - event.ns;
    const int32_t layer = event.header.layer;
    if (layer != self->block.layer || is_next_batch(self->block, event)) end_block(self);
    Block &block = self->block;
    if (layer >= 0 && !block.is_open) begin_block(self, layer, event.stage, begin);
    block.end_ns = end;
    if (event.first_row + event.n_rows > block.end_row) block.end_row = event.first_row + event.n_rows;
    stage.is_open = true;
    stage.begin_ns = begin;
    stage.end_ns = end;
    stage.stage = event.stage;
    stage.layer = layer;
    stage.position = event.header.position;
    stage.last_seq = event.header.seq;
    stage.n_rows = event.n_rows;
    stage.n_bytes = n_bytes;
    stage.ns = event.ns;
    copy_text(stage.name, event.stage_name);
    copy_text(stage.kernel, event.kernel);
    self->engine_ns += event.ns;
    self->floor_ns = end;
}

void put_run_begin(Timeline *self, const bitnet_run_begin_event_t &event) {
    self->tid = gettid();
    if (!self->has_events) {
        char name[160];
        snprintf(name, sizeof name, "%.80s %.60s", event.engine, event.engine_version);
        put_metadata(self, "process_name", name);
    }
    name_thread(self);
    JsonText *out = begin_timed(self, 'i', "run", "run", event.header.time_ns);
    out->lit(",\"s\":\"p\",\"args\":{\"run\":");
    out->put_unsigned(event.header.run);
    out->lit(",\"engine\":");
    out->put_string(event.engine);
    out->lit(",\"engine_version\":");
    out->put_string(event.engine_version);
    out->lit(",\"model_path\":");
    out->put_string(event.model_path);
    out->lit(",\"model_hash\":");
    out->put_string(event.model_hash);
    out->lit(",\"isa\":");
    out->put_string(event.isa);
    out->lit(",\"kv_type\":");
    out->put_string(event.kv_type);
    out->lit(",\"threads\":");
    out->put_signed(event.n_threads);
    out->lit(",\"batch\":");
    out->put_signed(event.n_batch);
    out->lit(",\"semantics\":");
    out->put_string(event.semantics);
    out->lit("}}\n");
}

void begin_step(Timeline *self, const bitnet_step_event_t &event) {
    name_thread(self);  // a context may move between threads
    self->floor_ns = event.header.time_ns;
    self->engine_ns = 0;
    JsonText *out = begin_timed(self, 'B', event.n_tokens == 1 ? "decode" : "prefill", "step", event.header.time_ns);
    out->lit(",\"args\":{\"position\":");
    out->put_signed(event.header.position);
    out->lit(",\"n_tokens\":");
    out->put_unsigned(event.n_tokens);
    out->lit("}}\n");
}

void end_step(Timeline *self, const bitnet_step_event_t &event) {
    end_stage(self);
    end_block(self);
    JsonText *out = begin_timed(self, 'E', event.n_tokens == 1 ? "decode" : "prefill", "step", event.header.time_ns);
    out->lit(",\"args\":{\"status\":");
    out->put_signed(event.status);
    out->lit(",\"stages_ns\":");
    out->put_unsigned(self->engine_ns);
    out->lit("}}\n");
}

void put_kv(Timeline *self, const bitnet_kv_event_t &event) {
    const bitnet_kv_state_t &kv = event.kv;
    JsonText *out = begin_timed(self, 'C', "KV cache bytes", "kv", event.header.time_ns);
    out->lit(",\"args\":{\"used\":");
    out->put_unsigned(kv.n_bytes_used);
    out->lit(",\"free\":");
    out->put_unsigned(kv.n_bytes > kv.n_bytes_used ? kv.n_bytes - kv.n_bytes_used : 0);
    out->lit("}}\n");
    out = begin_timed(self, 'C', "KV cache positions", "kv", event.header.time_ns);
    out->lit(",\"args\":{\"held\":");
    out->put_signed(kv.n_valid);
    out->lit("}}\n");
}

bitnet_status_t timeline_event(void *state, const bitnet_event_t *event) {
    Timeline *self = static_cast<Timeline *>(state);
    if (getpid() != self->pid) {
        self->text.n = 0;  // the parent writes those lines
        return fail(self, BITNET_E_UNSUPPORTED, "this process was forked from the one that opened the sink");
    }
    switch (event->type) {
    case BITNET_EVENT_RUN_BEGIN: put_run_begin(self, *reinterpret_cast<const bitnet_run_begin_event_t *>(event)); break;
    case BITNET_EVENT_STEP_BEGIN: begin_step(self, *reinterpret_cast<const bitnet_step_event_t *>(event)); break;
    case BITNET_EVENT_TENSOR: put_tensor(self, *reinterpret_cast<const bitnet_tensor_event_t *>(event)); break;
    case BITNET_EVENT_KV_STATE: put_kv(self, *reinterpret_cast<const bitnet_kv_event_t *>(event)); break;
    case BITNET_EVENT_STEP_END: end_step(self, *reinterpret_cast<const bitnet_step_event_t *>(event)); break;
    default: break;
    }
    if (event->type != BITNET_EVENT_STEP_END && self->text.n < kChunkBytes && !self->text.failed) return BITNET_OK;
    const bitnet_status_t status = write_out(self);
    if (status != BITNET_OK || event->type != BITNET_EVENT_STEP_END || output_exists(&self->file)) return status;
    self->failed = true;
    return fail(self, BITNET_E_IO, self->file.reason);
}

bitnet_status_t timeline_flush(void *state) {
    Timeline *self = static_cast<Timeline *>(state);
    return getpid() == self->pid ? write_out(self) : BITNET_OK;
}

void timeline_close(void *state) {
    Timeline *self = static_cast<Timeline *>(state);
    if (getpid() == self->pid && self->has_events && !self->failed && !self->text.failed) {
        end_stage(self);
        end_block(self);
        self->text.lit("]\n");
        write_out(self);
    }
    output_close(&self->file);
    free(self->text.data);
    free(self);
}

// The file is made when there is something to say: the process may be elsewhere by then.
bitnet_status_t claim(Timeline *self, const char *path, size_t n_bytes, bool is_default) {
    JsonText pattern;
    const auto put_plain = [&](const char *bytes, size_t n) {
        for (size_t i = 0; i < n; ++i) {
            if (bytes[i] == '%') pattern.put('%');
            pattern.put(bytes[i]);
        }
    };
    char here[kPathBytes];
    if (n_bytes && path[0] != '/' && getcwd(here, sizeof here)) {
        put_plain(here, strlen(here));
        pattern.put('/');
    }
    if (is_default)
        put_plain(path, n_bytes);
    else if (n_bytes)
        pattern.put(path, n_bytes);
    const bool ok = !pattern.failed && output_claim(&self->file, pattern.data, pattern.n);
    if (pattern.failed) snprintf(self->file.reason, sizeof self->file.reason, "out of memory");
    self->file.is_default = is_default;
    free(pattern.data);
    return ok ? BITNET_OK : fail(self, BITNET_E_INVALID, self->file.reason);
}

bitnet_status_t read_config(Timeline *self, const char *config) {
    ConfigItem item, path = {};
    while (next_config_item(&config, &item)) {
        if (item.is("path")) {
            path = item;
            continue;
        }
        char text[kReasonBytes];
        snprintf(text, sizeof text,
                 "unknown configuration '%.*s', expected path=FILE with %%p for the process id (%%, is a comma)",
                 item.n_bytes > 100 ? 100 : int(item.n_bytes), item.text);
        return fail(self, BITNET_E_INVALID, text);
    }
    char wanted[kPathBytes];
    const bool ok = path.value || default_path(".trace.json", wanted, self->file.reason);
    if (!ok) return fail(self, BITNET_E_INVALID, self->file.reason);
    return path.value ? claim(self, path.value, path.n_value, false) : claim(self, wanted, strlen(wanted), true);
}

bitnet_status_t timeline_open(void **state, const bitnet_trace_host_t *host, const char *config) {
    void *memory = malloc(sizeof(Timeline));
    if (!memory) {
        host->log(host, BITNET_LOG_ERROR, "out of memory");
        return BITNET_E_NOMEM;
    }
    Timeline *self = new (memory) Timeline{};
    self->host = host;
    self->pid = getpid();
    const bitnet_status_t status = read_config(self, config);
    if (status != BITNET_OK) {
        timeline_close(self);
        return status;
    }
    *state = self;
    return BITNET_OK;
}

constexpr bitnet_trace_sink_t kTimelineSink = {
    sizeof(bitnet_trace_sink_t),
    BITNET_ABI_VERSION,
    "timeline",
    1u << BITNET_EVENT_RUN_BEGIN | 1u << BITNET_EVENT_STEP_BEGIN | 1u << BITNET_EVENT_TENSOR |
        1u << BITNET_EVENT_KV_STATE | 1u << BITNET_EVENT_STEP_END,
    timeline_open,
    timeline_event,
    timeline_flush,
    timeline_close,
};

}  // namespace

}  // namespace bitnet

extern "C" BITNET_API const bitnet_trace_sink_t *bitnet_trace_plugin_v1(const bitnet_trace_host_t *host);
extern "C" const bitnet_trace_sink_t *bitnet_trace_plugin_v1(const bitnet_trace_host_t *) {
    return &bitnet::kTimelineSink;
}
