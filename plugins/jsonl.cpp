// The jsonl sink: one JSON object per line, as plugins/TRACE_FORMAT.md says.
#include <bitnet_c.h>

#include <climits>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <new>
#include <unistd.h>

#include "plugins/jsonl_file.h"
#include "plugins/jsonl_text.h"

namespace bitnet {

namespace {

constexpr size_t kFlushBytes = 64 * 1024;  // lines are gathered up to here between step ends

struct Jsonl {
    const bitnet_trace_host_t *host;
    const bitnet_ext_hash_t *hash;
    const bitnet_ext_stats_t *stats;
    const bitnet_ext_sketch_t *sketch;
    locale_t c_locale;  // numbers and messages whatever the process's locale
    JsonText text;      // whole lines not yet written
    JsonlFile file;
    pid_t pid;  // of the process that opened the file
};

bitnet_status_t fail(const bitnet_trace_host_t *host, bitnet_status_t status, const char *text) {
    host->log(host, BITNET_LOG_ERROR, text);
    return status;
}

bitnet_status_t write_out(Jsonl *self) {
    if (!self->text.n) return BITNET_OK;
    const bool ok = file_write(&self->file, self->text.data, self->text.n, self->c_locale);
    self->text.n = 0;
    return ok ? BITNET_OK : fail(self->host, BITNET_E_IO, self->file.reason);
}

void put_time(JsonText *out) {
    timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    tm utc;
    gmtime_r(&now.tv_sec, &utc);
    char text[64];
    const int n =
        snprintf(text, sizeof text, "\"%04d-%02d-%02dT%02d:%02d:%02d.%03dZ\"", utc.tm_year + 1900, utc.tm_mon + 1,
                 utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec, int(now.tv_nsec / 1000000));
    out->put(text, size_t(n));
}

void put_tokens(JsonText *out, const int32_t *tokens, uint64_t n) {
    if (!tokens) return out->lit("null");
    out->put('[');
    for (uint64_t i = 0; i < n; ++i) {
        if (i) out->put(',');
        out->put_signed(tokens[i]);
    }
    out->put(']');
}

void put_run_begin(JsonText *out, const bitnet_run_begin_event_t &event) {
    out->lit("{\"record\":\"run\",\"schema\":1,\"run\":");
    out->put_unsigned(event.header.run);
    out->lit(",\"engine\":");
    out->put_string(event.engine);
    out->lit(",\"engine_version\":");
    out->put_string(event.engine_version);
    out->lit(",\"model_path\":");
    out->put_string(event.model_path);
    out->lit(",\"model_hash\":");
    out->put_string(event.model_hash);
    out->lit(",\"architecture\":");
    out->put_string(event.architecture);
    out->lit(",\"hyperparameters\":");
    out->put_pairs(event.hyperparameters, true);
    out->lit(",\"semantics\":");
    out->put_pairs(event.semantics, false);
    out->lit(",\"isa\":");
    out->put_string(event.isa);
    out->lit(",\"kv_type\":");
    out->put_string(event.kv_type);
    out->lit(",\"threads\":");
    out->put_signed(event.n_threads);
    out->lit(",\"batch\":");
    out->put_signed(event.n_batch);
    out->lit(",\"selection\":");
    out->put_string(event.selection);
    out->lit(",\"tokens\":");
    put_tokens(out, event.tokens, event.n_tokens);
    out->lit(",\"prompt\":");
    if (event.prompt)
        out->put_string(event.prompt, event.n_prompt_bytes);
    else
        out->lit("null");
    out->lit(",\"time\":");
    put_time(out);
    out->lit(",\"host\":");
    char host[HOST_NAME_MAX + 1] = "";
    if (gethostname(host, sizeof host - 1) != 0) host[0] = 0;
    out->put_string(host);
    out->lit(",\"pid\":");
    out->put_signed(getpid());
    out->lit("}\n");
}

void put_step_begin(JsonText *out, const bitnet_step_event_t &event) {
    out->lit("{\"record\":\"step\",\"run\":");
    out->put_unsigned(event.header.run);
    out->lit(",\"event\":");
    out->put_unsigned(event.header.seq);
    out->lit(",\"seq\":");
    out->put_signed(event.header.position);
    out->lit(",\"n\":");
    out->put_unsigned(event.n_tokens);
    out->lit(",\"tokens\":");
    put_tokens(out, event.tokens, event.n_tokens);
    out->lit("}\n");
}

void put_run_end(JsonText *out, const bitnet_run_end_event_t &event) {
    out->lit("{\"record\":\"run_end\",\"run\":");
    out->put_unsigned(event.header.run);
    out->lit(",\"events\":");
    out->put_unsigned(event.n_tensors);
    out->lit(",\"records\":");
    out->put_unsigned(event.n_rows);
    out->lit(",\"tokens\":");
    out->put_unsigned(event.n_tokens);
    if (event.header.flags & BITNET_EVENT_FLAG_OVERRIDDEN)
        out->lit(",\"overridden\":true");
    else
        out->lit(",\"overridden\":false");
    out->lit(",\"time\":");
    put_time(out);
    out->lit("}\n");
}

const char *dtype_name(int32_t dtype) {
    switch (dtype) {
    case BITNET_DTYPE_F32: return "F32";
    case BITNET_DTYPE_F16: return "F16";
    case BITNET_DTYPE_BF16: return "BF16";
    case BITNET_DTYPE_I8: return "I8";
    case BITNET_DTYPE_I32: return "I32";
    default: return "?";
    }
}

// "t5/blk3/attn_norm" and what places the record.
void put_place(JsonText *out, const bitnet_tensor_event_t &event, uint32_t row) {
    const int32_t seq = event.header.position + int32_t(row), layer = event.header.layer;
    out->lit("{\"record\":\"tensor\",\"run\":");
    out->put_unsigned(event.header.run);
    out->lit(",\"event\":");
    out->put_unsigned(event.header.seq);
    out->lit(",\"name\":\"t");
    out->put_signed(seq);
    out->put('/');
    if (layer >= 0) {
        out->lit("blk");
        out->put_signed(layer);
        out->put('/');
    }
    const size_t quote = out->n;
    out->put_string(event.stage_name);
    if (!out->failed) {  // its opening quote is in the way: the name began before
        memmove(out->data + quote, out->data + quote + 1, out->n - quote - 1);
        --out->n;
    }
    out->lit(",\"seq\":");
    out->put_signed(seq);
    out->lit(",\"layer\":");
    out->put_signed(layer);
    out->lit(",\"stage\":");
    out->put_string(event.stage_name);
    out->lit(",\"row\":");
    out->put_unsigned(uint64_t(event.first_row) + row);
    out->lit(",\"shape\":[");
    for (uint32_t i = 0; i < event.n_dims && i < 4; ++i) {
        if (i) out->put(',');
        out->put_unsigned(event.shape[i]);
    }
    out->lit("],\"dtype\":");
    out->put_string(dtype_name(event.dtype));
    out->lit(",\"num_elements\":");
    out->put_unsigned(event.row_elements);
}

void put_stats(JsonText *out, const bitnet_stats_t &stats) {
    out->lit(",\"rms\":");
    out->put_number(stats.rms);
    out->lit(",\"mean\":");
    out->put_number(stats.mean);
    out->lit(",\"std\":");
    out->put_number(stats.std);
    out->lit(",\"min\":");
    out->put_number(stats.min);
    out->lit(",\"max\":");
    out->put_number(stats.max);
    out->lit(",\"absmax\":");
    out->put_number(stats.absmax);
    out->lit(",\"l2\":");
    out->put_number(stats.l2);
    out->lit(",\"nan\":");
    out->put_unsigned(stats.n_nan);
    out->lit(",\"inf\":");
    out->put_unsigned(stats.n_inf);
    out->lit(",\"zeros\":");
    out->put_unsigned(stats.n_zero);
    out->lit(",\"argmin\":");
    out->put_unsigned(stats.min_index);
    out->lit(",\"argmax\":");
    out->put_unsigned(stats.max_index);
    out->lit(",\"top\":[");
    for (uint32_t i = 0; i < stats.n_top; ++i) {
        if (i) out->put(',');
        out->put('[');
        out->put_unsigned(stats.top_index[i]);
        out->put(',');
        out->put_number(stats.top_value[i]);
        out->put(']');
    }
    out->put(']');
}

// False when the host could not compute its part.
bool put_tensor_row(Jsonl *self, const bitnet_tensor_event_t &event, uint32_t row) {
    const uint8_t *hash = self->hash->blake3(self->host, &event, row);
    const bitnet_stats_t *stats = self->stats->stats(self->host, &event, row);
    const float *sketch = self->sketch->sketch(self->host, &event, row);
    if (!hash || !stats || !sketch) return false;
    const uint64_t multiset = self->hash->multiset(self->host, &event, row);
    JsonText *out = &self->text;
    put_place(out, event, row);
    out->lit(",\"blake3\":\"");
    out->put_hex(hash, 32);
    out->lit("\",\"multiset\":\"");
    uint8_t big_endian[8];
    for (int i = 0; i < 8; ++i) big_endian[i] = uint8_t(multiset >> (56 - 8 * i));
    out->put_hex(big_endian, sizeof big_endian);
    out->put('"');
    put_stats(out, *stats);
    out->lit(",\"sketch\":\"");
    out->put_base64(reinterpret_cast<const uint8_t *>(sketch), BITNET_SKETCH_BUCKETS * sizeof(float));
    out->lit("\",\"kernel\":");
    out->put_string(event.kernel);
    out->lit(",\"ns\":");
    out->put_unsigned(event.ns);
    out->lit("}\n");
    return true;
}

bitnet_status_t put_tensor(Jsonl *self, const bitnet_tensor_event_t &event) {
    for (uint32_t row = 0; row < event.n_rows; ++row) {
        const size_t before = self->text.n;
        if (!put_tensor_row(self, event, row) || self->text.failed) {
            self->text.n = before;
            return fail(self->host, BITNET_E_NOMEM, "no memory for hash, statistics, sketch or text of a row");
        }
        if (self->text.n < kFlushBytes) continue;
        const bitnet_status_t status = write_out(self);
        if (status != BITNET_OK) return status;
    }
    return BITNET_OK;
}

// Any other event is one line.
bitnet_status_t put_line(Jsonl *self, const bitnet_event_t *event) {
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
    // From here on a crash of the process costs nothing that was evaluated.
    const bool complete = event->type == BITNET_EVENT_STEP_END || event->type == BITNET_EVENT_RUN_END;
    return complete || self->text.n >= kFlushBytes ? write_out(self) : BITNET_OK;
}

bitnet_status_t jsonl_event(void *state, const bitnet_event_t *event) {
    Jsonl *self = static_cast<Jsonl *>(state);
    if (getpid() != self->pid) {
        self->text.n = 0;  // the parent writes those lines
        return fail(self->host, BITNET_E_UNSUPPORTED, "this process was forked from the one that opened the trace");
    }
    const locale_t before = uselocale(self->c_locale);
    const bitnet_status_t status = event->type == BITNET_EVENT_TENSOR
                                       ? put_tensor(self, *reinterpret_cast<const bitnet_tensor_event_t *>(event))
                                       : put_line(self, event);
    uselocale(before);
    return status;
}

bitnet_status_t jsonl_flush(void *state) {
    Jsonl *self = static_cast<Jsonl *>(state);
    return getpid() == self->pid ? write_out(self) : BITNET_OK;
}

void jsonl_close(void *state) {
    Jsonl *self = static_cast<Jsonl *>(state);
    if (getpid() == self->pid) write_out(self);
    file_close(&self->file);
    if (self->c_locale) freelocale(self->c_locale);
    free(self->text.data);
    free(self);
}

// Value of `path` in "path=...": up to the first ',' that no '%' protects. NULL with a log text when the text is wrong.
const char *config_path(const bitnet_trace_host_t *host, const char *config, size_t *n_bytes) {
    char text[256];
    if (strncmp(config, "path=", 5) == 0) {
        const char *value = config + 5, *p = value;
        while (*p && *p != ',') p += p[0] == '%' && p[1] ? 2 : 1;
        *n_bytes = size_t(p - value);
        if (!*p) return value;
        config = p + 1;
    }
    snprintf(text, sizeof text,
             "unknown configuration '%.100s', expected 'path=FILE' with %%p for the process id (%%, is a comma)",
             config);
    fail(host, BITNET_E_INVALID, text);
    return nullptr;
}

// Claims the file that the configuration or the environment names.
bitnet_status_t claim_path(Jsonl *self, const char *config) {
    size_t n_bytes = 0;
    bool ok;
    if (*config) {
        const char *pattern = config_path(self->host, config, &n_bytes);
        if (!pattern) return BITNET_E_INVALID;
        ok = file_claim(&self->file, pattern, n_bytes, false);
    } else {
        const char *folder = secure_getenv("BITNET_TRACE_DIR");
        if (!folder || !*folder) folder = ".";
        JsonText pattern;
        for (const char *p = folder; *p; ++p) {  // a '%' in a folder's name is meant as such
            if (*p == '%') pattern.put('%');
            pattern.put(*p);
        }
        pattern.lit("/bitnet-%p.jsonl");
        if (pattern.failed) return fail(self->host, BITNET_E_NOMEM, "out of memory");
        ok = file_claim(&self->file, pattern.data, pattern.n, true);
        free(pattern.data);
    }
    return ok ? BITNET_OK : fail(self->host, BITNET_E_INVALID, self->file.reason);
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
    self->c_locale = newlocale(LC_ALL_MASK, "C", nullptr);
    bitnet_status_t status = self->c_locale ? find_services(self) : fail(host, BITNET_E_NOMEM, "out of memory");
    if (status == BITNET_OK) status = claim_path(self, config);
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
