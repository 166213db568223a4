#include "plugins/output/record_text.h"

#include <climits>
#include <cstring>
#include <unistd.h>

namespace bitnet {

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

namespace {

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
    if (stats.nonfinite_index != UINT32_MAX) {
        out->lit(",\"nonfinite\":");
        out->put_unsigned(stats.nonfinite_index);
    }
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

}  // namespace

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
    out->put_array(event.tokens, event.n_tokens);
    out->lit(",\"prompt\":");
    if (event.prompt)
        out->put_string(event.prompt, event.n_prompt_bytes);
    else
        out->lit("null");
    out->lit(",\"time\":");
    out->put_time();
    out->lit(",\"host\":");
    char host[HOST_NAME_MAX + 1] = "";
    if (gethostname(host, sizeof host - 1) != 0) host[0] = 0;
    out->put_string(host);
    out->lit(",\"pid\":");
    out->put_signed(getpid());
    if (event.header.flags & BITNET_EVENT_FLAG_OVERRIDABLE) out->lit(",\"overridable\":true");
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
    out->put_array(event.tokens, event.n_tokens);
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
    out->put_time();
    out->lit("}\n");
}

void put_tensor(JsonText *out, const bitnet_tensor_event_t &event, uint32_t row, const RowResults &results) {
    put_place(out, event, row);
    out->lit(",\"blake3\":\"");
    out->put_hex(results.blake3, 32);
    out->lit("\",\"multiset\":\"");
    uint8_t big_endian[8];
    for (int i = 0; i < 8; ++i) big_endian[i] = uint8_t(results.multiset >> (56 - 8 * i));
    out->put_hex(big_endian, sizeof big_endian);
    out->put('"');
    put_stats(out, *results.stats);
    out->lit(",\"sketch\":\"");
    out->put_base64(reinterpret_cast<const uint8_t *>(results.sketch), BITNET_SKETCH_BUCKETS * sizeof(float));
    out->lit("\",\"kernel\":");
    out->put_string(event.kernel);
    out->lit(",\"ns\":");
    out->put_unsigned(event.ns);
    out->lit("}\n");
}

}  // namespace bitnet
