#include "plugins/npy/run.h"

#include <climits>
#include <cstdio>
#include <cstdlib>

#include "plugins/output/record_text.h"

namespace bitnet {

namespace {

constexpr int32_t kNoToken = INT32_MIN;

void put_window(JsonText *out, const NpyConfig &config) {
    if (config.all) return out->lit("null");
    out->lit("{\"seq\":");
    out->put_signed(config.seq);
    out->lit(",\"layer\":");
    out->put_signed(config.layer);
    out->lit(",\"stage\":");
    out->put_string(config.stage);
    out->lit(",\"layers\":");
    out->put_signed(config.n_layers);
    out->lit(",\"positions\":");
    out->put_signed(config.n_positions);
    if (config.history)
        out->lit(",\"history\":true}");
    else
        out->lit(",\"history\":false}");
}

void put_tokens(JsonText *out, const NpyRun &run) {
    out->put('[');
    for (size_t i = 0; i < run.n_tokens; ++i) {
        if (i) out->put(',');
        if (run.tokens[i] == kNoToken)
            out->lit("null");
        else
            out->put_signed(run.tokens[i]);
    }
    out->put(']');
}

bool grow_tokens(NpyRun *run, size_t n) {
    size_t n_max = run->n_tokens_max ? run->n_tokens_max : 256;
    while (n_max < n) n_max *= 2;
    if (n_max != run->n_tokens_max) {
        int32_t *grown = static_cast<int32_t *>(realloc(run->tokens, n_max * sizeof *grown));
        if (!grown) return false;
        run->tokens = grown;
        run->n_tokens_max = n_max;
    }
    while (run->n_tokens < n) run->tokens[run->n_tokens++] = kNoToken;
    return true;
}

}  // namespace

bool npy_run_begin(NpyRun *run, const bitnet_run_begin_event_t &event) {
    npy_run_close(run);
    bitnet_run_begin_event_t untold = event;  // run.json has the tokens of the whole run
    untold.tokens = nullptr;
    untold.n_tokens = 0;
    put_run_begin(&run->record, untold);
    if (run->record.n) --run->record.n;  // the end of the line
    run->n_blocks = npy_layer_count(event.hyperparameters);
    return !run->record.failed;
}

bool npy_run_step(NpyRun *run, const bitnet_step_event_t &event) {
    if (run->steps.n) run->steps.put(',');
    run->steps.lit("{\"event\":");
    run->steps.put_unsigned(event.header.seq);
    run->steps.lit(",\"seq\":");
    run->steps.put_signed(event.header.position);
    run->steps.lit(",\"n\":");
    run->steps.put_unsigned(event.n_tokens);
    run->steps.put('}');
    if (!run->n_tokens) run->first_position = event.header.position;
    if (event.header.position < run->first_position) return !run->steps.failed;  // no engine goes back within a run
    const size_t at = size_t(event.header.position - run->first_position);
    if (!grow_tokens(run, at + event.n_tokens)) return false;
    for (uint64_t i = 0; event.tokens && i < event.n_tokens; ++i) run->tokens[at + i] = event.tokens[i];
    return !run->steps.failed;
}

bool npy_run_tell(NpyRun *run, const NpyConfig &config, bool complete) {
    JsonText *out = &run->json;
    out->n = 0;
    out->lit("{\"format\":1,\"complete\":");
    if (complete)
        out->lit("true");
    else
        out->lit("false");
    out->lit(",\"run\":");
    out->put(run->record.data, run->record.n);
    out->lit(",\"first_position\":");
    out->put_signed(run->first_position);
    out->lit(",\"tokens\":");
    put_tokens(out, *run);
    out->lit(",\"steps\":[");
    if (run->steps.n) out->put(run->steps.data, run->steps.n);
    out->lit("],\"window\":");
    put_window(out, config);
    out->lit(",\"records\":");
    out->put_unsigned(run->n_records);
    out->lit(",\"bytes\":");
    out->put_unsigned(run->n_bytes);
    out->lit("}\n");
    if (out->failed) {
        snprintf(run->folder.reason, sizeof run->folder.reason, "out of memory");
        return false;
    }
    run->n_records_told = run->n_records;
    return folder_write(&run->folder, "run.json", out->data, out->n, nullptr, 0);
}

void npy_run_close(NpyRun *run) {
    folder_close(&run->folder);
    free(run->record.data);
    free(run->steps.data);
    free(run->json.data);
    free(run->tokens);
    *run = NpyRun{};
}

}  // namespace bitnet
