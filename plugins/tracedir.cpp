// The tracedir sink: BitNet-rs's trace files, one object per row and file, for the tools that read those.
#include <bitnet_c.h>

#include <blake3.h>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <unistd.h>

#include "plugins/output/folder.h"
#include "plugins/output/record_text.h"
#include "plugins/output/sink_config.h"

namespace bitnet {

namespace {

struct TraceDir {
    const bitnet_trace_host_t *host;
    const bitnet_ext_hash_t *hash;
    const bitnet_ext_stats_t *stats;
    OutputFolder folder;
    bool is_bitnet_rs;  // its names and shapes
    unsigned run;       // number of the run within the process
    unsigned n_steps;   // of this run
    JsonText text;
    float *values;  // a row as f32
    size_t n_values;
    pid_t pid;  // of the process that opened the sink
};

unsigned n_runs = 0;  // of all contexts of the process

bitnet_status_t fail(const TraceDir *self, bitnet_status_t status, const char *text) {
    self->host->log(self->host, BITNET_LOG_ERROR, text);
    return status;
}

float float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

float float_of_half(uint16_t half) {
    const uint32_t sign = uint32_t(half & 0x8000) << 16, exponent = half >> 10 & 31, fraction = half & 0x3ff;
    if (exponent == 31) return float_of_bits(sign | 0x7f800000 | fraction << 13);
    if (exponent) return float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
    const float value = float(fraction) * 0x1p-24f;
    return sign ? -value : value;
}

template <class T> T at(const void *row, size_t i) {
    T value;
    memcpy(&value, static_cast<const char *>(row) + i * sizeof value, sizeof value);
    return value;
}

// The row as f32; false: no memory.
bool convert(TraceDir *self, const bitnet_tensor_event_t &event, const void *row) {
    const size_t n = size_t(event.row_elements);
    if (n > self->n_values) {
        float *grown = static_cast<float *>(realloc(self->values, n * sizeof *grown));
        if (!grown) return false;
        self->values = grown;
        self->n_values = n;
    }
    float *out = self->values;
    switch (event.dtype) {
    case BITNET_DTYPE_F16:
        for (size_t i = 0; i < n; ++i) out[i] = float_of_half(at<uint16_t>(row, i));
        return true;
    case BITNET_DTYPE_BF16:
        for (size_t i = 0; i < n; ++i) out[i] = float_of_bits(uint32_t(at<uint16_t>(row, i)) << 16);
        return true;
    case BITNET_DTYPE_I8:
        for (size_t i = 0; i < n; ++i) out[i] = at<int8_t>(row, i);
        return true;
    case BITNET_DTYPE_I32:
        for (size_t i = 0; i < n; ++i) out[i] = float(at<int32_t>(row, i));
        return true;
    default: return false;
    }
}

// BLAKE3 of the values as f32, whatever they are: that is what BitNet-rs hashes.
bool hash_row(TraceDir *self, const bitnet_tensor_event_t &event, uint32_t row, uint8_t out[32]) {
    if (event.dtype == BITNET_DTYPE_F32) {
        const uint8_t *hash = self->hash->blake3(self->host, &event, row);
        if (hash) memcpy(out, hash, 32);
        return hash;
    }
    if (!convert(self, event, static_cast<const char *>(event.data) + row * event.row_stride)) return false;
    blake3_hasher hasher;
    blake3_hasher_init(&hasher);
    blake3_hasher_update(&hasher, self->values, size_t(event.row_elements) * sizeof *self->values);
    blake3_hasher_finalize(&hasher, out, 32);
    return true;
}

// Its tensors have the axes batch and token too: (1, 1, n), and (1, head, 1, ...) where heads have been told apart.
void put_bitnet_rs_shape(JsonText *out, const bitnet_tensor_event_t &event) {
    const int32_t stage = event.stage;
    const bool by_head = stage == BITNET_STAGE_ATTN_SCORES || stage == BITNET_STAGE_ATTN_SCORES_SOFTMAX ||
                         stage == BITNET_STAGE_Q_ROPE || stage == BITNET_STAGE_K_ROPE;
    if (by_head && event.n_dims == 2) {
        out->lit("1,");
        out->put_unsigned(event.shape[0]);
        out->lit(",1,");
        out->put_unsigned(event.shape[1]);
        return;
    }
    out->lit("1,1,");
    out->put_unsigned(event.row_elements);
}

void put_shape(JsonText *out, const bitnet_tensor_event_t &event) {
    for (uint32_t i = 0; i < event.n_dims && i < 4; ++i) {
        if (i) out->put(',');
        out->put_unsigned(event.shape[i]);
    }
}

// "t5/blk3/attn_norm", "t5/logits"
void name_tensor(const bitnet_tensor_event_t &event, int32_t seq, char out[kNameBytes]) {
    if (event.header.layer >= 0)
        snprintf(out, kNameBytes, "t%d/blk%d/%s", int(seq), int(event.header.layer), event.stage_name);
    else
        snprintf(out, kNameBytes, "t%d/%s", int(seq), event.stage_name);
}

// One line: some of BitNet-rs's tools read a file by lines, others as one object.
void put_object(TraceDir *self, const bitnet_tensor_event_t &event, int32_t seq, const char *name,
                const uint8_t hash[32], double rms) {
    JsonText *out = &self->text;
    out->n = 0;
    out->lit("{\"name\":");
    out->put_string(name);
    out->lit(",\"shape\":[");
    if (self->is_bitnet_rs)
        put_bitnet_rs_shape(out, event);
    else
        put_shape(out, event);
    out->lit("],\"dtype\":");
    out->put_string(dtype_name(event.dtype));
    out->lit(",\"blake3\":\"");
    out->put_hex(hash, 32);
    out->lit("\",\"rms\":");
    out->put_number(rms);
    out->lit(",\"num_elements\":");
    out->put_unsigned(event.row_elements);
    out->lit(",\"seq\":");
    out->put_signed(seq);
    out->lit(",\"layer\":");
    out->put_signed(event.header.layer);
    out->lit(",\"stage\":");
    out->put_string(event.stage_name);
    out->lit("}\n");
}

// BitNet-rs: the name, with path separators replaced. Ours never repeats, and is in the order of execution.
void name_file(const TraceDir *self, const bitnet_tensor_event_t &event, int32_t seq, const char *name, FileName *out) {
    if (self->is_bitnet_rs) {
        for (const char *p = name; *p; ++p) out->put(*p == '/' || *p == '\\' ? "_" : p, 1);
    } else {
        out->put("p");
        out->put_number(unsigned(self->pid), 1);
        out->put("-run");
        out->put_number(self->run, 4);
        out->put("-step");
        out->put_number(self->n_steps ? self->n_steps - 1 : 0, 6);
        out->put("-");
        out->put_number(event.header.seq, 12);
        out->put("-t");
        out->put_number(unsigned(seq), 6);
        if (event.header.layer >= 0) {
            out->put("-blk");
            out->put_number(unsigned(event.header.layer), 3);
        }
        out->put("-");
        out->put_escaped(event.stage_name);
    }
    out->put(".trace");
}

bitnet_status_t put_row(TraceDir *self, const bitnet_tensor_event_t &event, uint32_t row) {
    const int32_t seq = event.header.position + int32_t(row);
    char name[kNameBytes];
    name_tensor(event, seq, name);
    FileName file;
    name_file(self, event, seq, name, &file);
    if (file.too_long) {
        char text[kReasonBytes];
        snprintf(text, sizeof text, "name '%.200s...' is too long for a file", name);
        return fail(self, BITNET_E_UNSUPPORTED, text);
    }
    if (strcmp(dtype_name(event.dtype), "?") == 0) {
        char text[kReasonBytes];
        snprintf(text, sizeof text, "'%.200s': unknown dtype %d", name, int(event.dtype));
        return fail(self, BITNET_E_UNSUPPORTED, text);
    }
    uint8_t hash[32];
    const bitnet_stats_t *stats = self->stats->stats(self->host, &event, row);
    if (!stats || !hash_row(self, event, row, hash))
        return fail(self, BITNET_E_NOMEM, "no memory for hash or statistics of a row");
    put_object(self, event, seq, name, hash, stats->rms);
    if (self->text.failed) return fail(self, BITNET_E_NOMEM, "no memory for a record's text");
    if (folder_open(&self->folder) && folder_write(&self->folder, file.text, self->text.data, self->text.n, nullptr, 0))
        return BITNET_OK;
    return fail(self, BITNET_E_IO, self->folder.reason);
}

bitnet_status_t tracedir_event(void *state, const bitnet_event_t *event) {
    TraceDir *self = static_cast<TraceDir *>(state);
    if (getpid() != self->pid)
        return fail(self, BITNET_E_UNSUPPORTED, "this process was forked from the one that opened the sink");
    if (event->type == BITNET_EVENT_RUN_BEGIN) {
        self->run = __atomic_fetch_add(&n_runs, 1, __ATOMIC_RELAXED);
        self->n_steps = 0;
        folder_close(&self->folder);  // it may have been removed since
    }
    if (event->type == BITNET_EVENT_STEP_BEGIN) ++self->n_steps;
    if (event->type != BITNET_EVENT_TENSOR) return BITNET_OK;
    const auto &tensor = *reinterpret_cast<const bitnet_tensor_event_t *>(event);
    for (uint32_t row = 0; row < tensor.n_rows; ++row) {
        const bitnet_status_t status = put_row(self, tensor, row);
        if (status != BITNET_OK) return status;
    }
    return BITNET_OK;
}

void tracedir_close(void *state) {
    TraceDir *self = static_cast<TraceDir *>(state);
    folder_close(&self->folder);
    free(self->text.data);
    free(self->values);
    free(self);
}

bitnet_status_t fail_item(const TraceDir *self, const ConfigItem &item, const char *expected) {
    char text[kReasonBytes];
    snprintf(text, sizeof text, "%s '%.*s', expected %s", item.value ? "configuration" : "unknown configuration",
             item.n_bytes > 100 ? 100 : int(item.n_bytes), item.text, expected);
    return fail(self, BITNET_E_INVALID, text);
}

bitnet_status_t set_folder(TraceDir *self, const ConfigItem &dir) {
    const char *environment = secure_getenv("BITNET_TRACE_DIR");
    bool ok;
    if (dir.value) {
        ok = folder_set(&self->folder, dir.value, dir.n_value);
    } else if (environment && *environment) {
        ok = folder_set_plain(&self->folder, environment);
    } else {
        return fail(self, BITNET_E_INVALID, "no folder: expected dir=FOLDER or BITNET_TRACE_DIR");
    }
    return ok ? BITNET_OK : fail(self, BITNET_E_INVALID, self->folder.reason);
}

bitnet_status_t read_config(TraceDir *self, const char *config) {
    ConfigItem item, dir = {};
    while (next_config_item(&config, &item)) {
        if (item.is("dir")) {
            dir = item;
        } else if (item.is("layout")) {
            if (item.n_value != 9 || memcmp(item.value, "bitnet-rs", 9) != 0)
                return fail_item(self, item, "layout=bitnet-rs");
            self->is_bitnet_rs = true;
        } else {
            item.value = nullptr;
            return fail_item(self, item, "dir=FOLDER, layout=bitnet-rs");
        }
    }
    return set_folder(self, dir);
}

bitnet_status_t tracedir_open(void **state, const bitnet_trace_host_t *host, const char *config) {
    void *memory = malloc(sizeof(TraceDir));
    if (!memory) {
        host->log(host, BITNET_LOG_ERROR, "out of memory");
        return BITNET_E_NOMEM;
    }
    TraceDir *self = new (memory) TraceDir{};
    self->host = host;
    self->pid = getpid();
    self->hash = static_cast<const bitnet_ext_hash_t *>(host->get_extension(host, BITNET_EXT_HASH));
    self->stats = static_cast<const bitnet_ext_stats_t *>(host->get_extension(host, BITNET_EXT_STATS));
    bitnet_status_t status =
        self->hash && self->stats
            ? read_config(self, config)
            : fail(self, BITNET_E_UNSUPPORTED, "this host lacks " BITNET_EXT_HASH " or " BITNET_EXT_STATS);
    if (status != BITNET_OK) {
        tracedir_close(self);
        return status;
    }
    *state = self;
    return BITNET_OK;
}

constexpr bitnet_trace_sink_t kTraceDirSink = {
    sizeof(bitnet_trace_sink_t),
    BITNET_ABI_VERSION,
    "tracedir",
    1u << BITNET_EVENT_RUN_BEGIN | 1u << BITNET_EVENT_STEP_BEGIN | 1u << BITNET_EVENT_TENSOR,
    tracedir_open,
    tracedir_event,
    nullptr,  // every file is written when it is complete
    tracedir_close,
};

}  // namespace

}  // namespace bitnet

extern "C" BITNET_API const bitnet_trace_sink_t *bitnet_trace_plugin_v1(const bitnet_trace_host_t *host);
extern "C" const bitnet_trace_sink_t *bitnet_trace_plugin_v1(const bitnet_trace_host_t *) {
    return &bitnet::kTraceDirSink;
}
