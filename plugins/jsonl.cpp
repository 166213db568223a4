// The jsonl sink: one JSON object per line, as plugins/TRACE_FORMAT.md says.
#include <bitnet_c.h>

#include <cstdlib>
#include <cstring>
#include <new>
#include <unistd.h>

#include "plugins/output/line_writer.h"
#include "plugins/output/record_text.h"
#include "plugins/output/sink_config.h"

namespace bitnet {

namespace {

// Lines are gathered up to here between step ends: each waking of the writer takes a core from those that evaluate.
constexpr size_t kChunkBytes = 512 * 1024;
constexpr long kQueueMegabytes = 16;  // some twenty tokens of everything: a disk's pauses do not show
constexpr long kQueueMegabytesMax = 4096;
constexpr long kLevel = 1;  // higher ones gain little: most of a record is hashes and sketches
constexpr long kLevelMax = 19;

struct Jsonl {
    const bitnet_trace_host_t *host;
    const bitnet_ext_hash_t *hash;
    const bitnet_ext_stats_t *stats;
    const bitnet_ext_sketch_t *sketch;
    JsonText text;  // whole lines that the writer does not have yet
    OutputFile file;
    LineWriter *writer;  // once there was something to write; it has the file then
    size_t queue_bytes;
    int level;
    pid_t pid;  // of the process that opened the trace
};

bitnet_status_t fail(const bitnet_trace_host_t *host, bitnet_status_t status, const char *text) {
    host->log(host, BITNET_LOG_ERROR, text);
    return status;
}

bitnet_status_t write_failed(Jsonl *self) {
    const char *reason = self->writer ? writer_failure(self->writer) : nullptr;
    return fail(self->host, reason ? BITNET_E_IO : BITNET_E_NOMEM, reason ? reason : "out of memory");
}

// Asked where lines leave this process's memory, not for every row: the system is.
bool was_forked(const Jsonl *self) { return getpid() != self->pid; }

bitnet_status_t refuse_fork(Jsonl *self) {
    self->text.n = 0;  // the parent writes those lines
    return fail(self->host, BITNET_E_UNSUPPORTED, "this process was forked from the one that opened the trace");
}

bitnet_status_t hand_over(Jsonl *self, bool ends_step) {
    if (!self->text.n) return BITNET_OK;
    if (was_forked(self)) return refuse_fork(self);
    if (!self->writer) self->writer = writer_create(&self->file, self->queue_bytes, self->level);
    if (!self->writer) {
        self->text.n = 0;
        return fail(self->host, BITNET_E_IO, self->file.reason);
    }
    return writer_put(self->writer, &self->text, ends_step) ? BITNET_OK : write_failed(self);
}

// False when the host could not compute its part.
bool put_row(Jsonl *self, const bitnet_tensor_event_t &event, uint32_t row) {
    RowResults results;
    // Statistics first: they read the row in order, and bring into this core's cache what other cores computed. The
    // hash reads many places at once.
    results.stats = self->stats->stats(self->host, &event, row);
    results.sketch = self->sketch->sketch(self->host, &event, row);
    results.blake3 = self->hash->blake3(self->host, &event, row);
    if (!results.blake3 || !results.stats || !results.sketch) return false;
    results.multiset = self->hash->multiset(self->host, &event, row);
    put_tensor(&self->text, event, row, results);
    return !self->text.failed;
}

bitnet_status_t put_rows(Jsonl *self, const bitnet_tensor_event_t &event) {
    for (uint32_t row = 0; row < event.n_rows; ++row) {
        const size_t before = self->text.n;
        if (!put_row(self, event, row)) {
            self->text.n = before;
            return fail(self->host, BITNET_E_NOMEM, "no memory for hash, statistics, sketch or text of a row");
        }
        if (self->text.n < kChunkBytes) continue;
        const bitnet_status_t status = hand_over(self, false);
        if (status != BITNET_OK) return status;
    }
    return BITNET_OK;
}

// Any other event is one line, or none.
bitnet_status_t put_line(Jsonl *self, const bitnet_event_t *event) {
    if (was_forked(self)) return refuse_fork(self);
    const size_t before = self->text.n;
    switch (event->type) {
    case BITNET_EVENT_RUN_BEGIN:
        put_run_begin(&self->text, *reinterpret_cast<const bitnet_run_begin_event_t *>(event));
        break;
    case BITNET_EVENT_STEP_BEGIN:
        put_step_begin(&self->text, *reinterpret_cast<const bitnet_step_event_t *>(event));
        break;
    case BITNET_EVENT_RUN_END:
        put_run_end(&self->text, *reinterpret_cast<const bitnet_run_end_event_t *>(event));
        break;
    default: break;
    }
    if (self->text.failed) {
        self->text.n = before;
        return fail(self->host, BITNET_E_NOMEM, "no memory for a record's text");
    }
    const bool complete = event->type == BITNET_EVENT_STEP_END || event->type == BITNET_EVENT_RUN_END;
    return complete || self->text.n >= kChunkBytes ? hand_over(self, complete) : BITNET_OK;
}

bitnet_status_t jsonl_event(void *state, const bitnet_event_t *event) {
    Jsonl *self = static_cast<Jsonl *>(state);
    if (self->writer && writer_failure(self->writer)) return write_failed(self);
    return event->type == BITNET_EVENT_TENSOR ? put_rows(self, *reinterpret_cast<const bitnet_tensor_event_t *>(event))
                                              : put_line(self, event);
}

bitnet_status_t jsonl_flush(void *state) {
    Jsonl *self = static_cast<Jsonl *>(state);
    if (was_forked(self)) return BITNET_OK;
    const bitnet_status_t status = hand_over(self, true);
    if (status != BITNET_OK || !self->writer) return status;
    return writer_wait(self->writer) ? BITNET_OK : write_failed(self);
}

void jsonl_close(void *state) {
    Jsonl *self = static_cast<Jsonl *>(state);
    if (!was_forked(self) && !(self->writer && writer_failure(self->writer))) hand_over(self, true);
    writer_destroy(self->writer);
    output_close(&self->file);
    free(self->text.data);
    free(self);
}

bitnet_status_t fail_item(const bitnet_trace_host_t *host, const ConfigItem &item, const char *expected) {
    char text[256];
    snprintf(text, sizeof text, "%s '%.*s', expected %s", item.value ? "configuration" : "unknown configuration",
             item.n_bytes > 80 ? 80 : int(item.n_bytes), item.text, expected);
    return fail(host, BITNET_E_INVALID, text);
}

bitnet_status_t read_config(Jsonl *self, const char *config) {
    ConfigItem item, path = {}, level_item = {};
    long queue = kQueueMegabytes, level = kLevel;
    while (next_config_item(&config, &item)) {
        if (item.is("path")) {
            path = item;
        } else if (item.is("queue")) {
            if (!config_number(item, 1, kQueueMegabytesMax, &queue))
                return fail_item(self->host, item, "queue=1 to 4096, in MB");
        } else if (item.is("level")) {
            level_item = item;
            if (!config_number(item, 1, kLevelMax, &level)) return fail_item(self->host, item, "level=1 to 19");
        } else {
            item.value = nullptr;
            return fail_item(self->host, item,
                             "path=FILE with %p for the process id (%, is a comma), queue=MB, level=1 to 19 (zstd)");
        }
    }
    self->queue_bytes = size_t(queue) << 20;
    self->level = int(level);
    const bool ok =
        path.value ? output_claim(&self->file, path.value, path.n_value) : output_claim_default(&self->file, ".jsonl");
    if (!ok) return fail(self->host, BITNET_E_INVALID, self->file.reason);
    const size_t n = strlen(self->file.path);
    if (level_item.value && (n < 4 || strcmp(self->file.path + n - 4, ".zst") != 0))
        return fail_item(self->host, level_item, "no level, or a path that ends in .zst");
    return BITNET_OK;
}

bitnet_status_t find_services(Jsonl *self) {
    const bitnet_trace_host_t *host = self->host;
    self->hash = static_cast<const bitnet_ext_hash_t *>(host->get_extension(host, BITNET_EXT_HASH));
    self->stats = static_cast<const bitnet_ext_stats_t *>(host->get_extension(host, BITNET_EXT_STATS));
    self->sketch = static_cast<const bitnet_ext_sketch_t *>(host->get_extension(host, BITNET_EXT_SKETCH));
    if (self->hash && self->stats && self->sketch) return BITNET_OK;
    return fail(host, BITNET_E_UNSUPPORTED,
                "this host lacks " BITNET_EXT_HASH ", " BITNET_EXT_STATS " or " BITNET_EXT_SKETCH);
}

bitnet_status_t jsonl_open(void **state, const bitnet_trace_host_t *host, const char *config) {
    void *memory = malloc(sizeof(Jsonl));
    if (!memory) return fail(host, BITNET_E_NOMEM, "out of memory");
    Jsonl *self = new (memory) Jsonl{};
    self->host = host;
    self->pid = getpid();
    bitnet_status_t status = find_services(self);
    if (status == BITNET_OK) status = read_config(self, config);
    if (status != BITNET_OK) {
        jsonl_close(self);
        return status;
    }
    *state = self;
    return BITNET_OK;
}

constexpr bitnet_trace_sink_t kJsonlSink = {
    sizeof(bitnet_trace_sink_t),
    BITNET_ABI_VERSION,
    "jsonl",
    1u << BITNET_EVENT_RUN_BEGIN | 1u << BITNET_EVENT_STEP_BEGIN | 1u << BITNET_EVENT_TENSOR |
        1u << BITNET_EVENT_STEP_END | 1u << BITNET_EVENT_RUN_END,
    jsonl_open,
    jsonl_event,
    jsonl_flush,
    jsonl_close,
};

}  // namespace

}  // namespace bitnet

extern "C" BITNET_API const bitnet_trace_sink_t *bitnet_trace_plugin_v1(const bitnet_trace_host_t *host);
extern "C" const bitnet_trace_sink_t *bitnet_trace_plugin_v1(const bitnet_trace_host_t *) {
    return &bitnet::kJsonlSink;
}
