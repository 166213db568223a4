// What tracing costs the evaluating thread, without an engine: CPU time of the services for a row, and of all events of
// a decoded token of the 2B-4T shape into the jsonl plugin. The least of many, so that what else the machine does counts
// little. Usage: bitnet_trace_cost LIBRARY_FOLDER (that has bitnet/plugins)
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <random>
#include <string>
#include <unistd.h>
#include <vector>

#include "plugins/host/services.h"
#include "plugins/host/trace_host.h"

namespace bitnet {
namespace {

double seconds() {
    timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return double(now.tv_sec) + 1e-9 * double(now.tv_nsec);
}

std::vector<float> random_values(size_t n) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::vector<float> values(n);
    for (float &v : values) v = normal(random);
    return values;
}

template <class Body> double least_microseconds(size_t n_elements, Body body) {
    const size_t n_times = 20000 / (n_elements / 100 + 10) + 3;
    double least = 1e9;
    for (int trial = 0; trial < 200; ++trial) {
        const double from = seconds();
        for (size_t i = 0; i < n_times; ++i) body();
        least = std::min(least, (seconds() - from) / double(n_times));
    }
    return 1e6 * least;
}

void show_services() {
    constexpr size_t kMany = 16;
    for (size_t n : {640, 768, 2560, 3072, 6912, 128256}) {
        const std::vector<float> values = random_values(n);
        const Row row = {values.data(), n, BITNET_DTYPE_F32};
        uint8_t hashes[kMany][32];
        HashJob jobs[kMany];
        for (size_t i = 0; i < kMany; ++i) jobs[i] = {values.data(), n * sizeof(float), hashes[i]};
        bitnet_stats_t stats;
        float sketch[BITNET_SKETCH_BUCKETS];
        volatile uint64_t multiset = 0;
        printf("%6zu values, us: BLAKE3 %.2f, one of %zu rows %.2f, statistics %.2f, sketch %.2f, multiset %.2f\n", n,
               least_microseconds(n, [&] { row_blake3(row, hashes[0]); }), kMany,
               least_microseconds(n, [&] { blake3_of_many(jobs, kMany); }) / double(kMany),
               least_microseconds(n, [&] { row_stats(row, &stats); }),
               least_microseconds(n, [&] { row_sketch(row, sketch); }),
               least_microseconds(n, [&] { multiset = row_multiset(row); }));
    }
}

struct Stage {
    int32_t stage, layer;
    size_t n_elements;
    int32_t dtype;
};

struct Token {
    std::vector<Stage> stages;
    bool everything;

    void add(int32_t stage, int32_t layer, size_t n) { stages.push_back({stage, layer, n, BITNET_DTYPE_F32}); }
    void add_linear(int32_t stage, int32_t layer, size_t n) {
        if (everything) stages.push_back({stage | BITNET_STAGE_ACC, layer, n, BITNET_DTYPE_I32});
        add(stage, layer, n);
    }
    void add_quantised(int32_t stage, int32_t layer, size_t n) {
        add(stage, layer, n);
        if (!everything) return;
        stages.push_back({stage | BITNET_STAGE_CODES, layer, n, BITNET_DTYPE_I8});
        add(stage | BITNET_STAGE_SCALE, layer, 1);
    }

    explicit Token(bool with_everything) : everything(with_everything) {
        constexpr size_t kEmbd = 2560, kKv = 640, kFf = 6912, kVocab = 128256, kScores = 20 * 16;
        add(BITNET_STAGE_EMBEDDINGS, -1, kEmbd);
        for (int32_t layer = 0; layer < 30; ++layer) {
            add_quantised(BITNET_STAGE_ATTN_NORM, layer, kEmbd);
            add_linear(BITNET_STAGE_Q_PROJ, layer, kEmbd);
            add_linear(BITNET_STAGE_K_PROJ, layer, kKv);
            add_linear(BITNET_STAGE_V_PROJ, layer, kKv);
            add(BITNET_STAGE_Q_ROPE, layer, kEmbd);
            add(BITNET_STAGE_K_ROPE, layer, kKv);
            if (everything) add(BITNET_STAGE_ATTN_SCORES, layer, kScores);
            add(BITNET_STAGE_ATTN_SCORES_SOFTMAX, layer, kScores);
            add(BITNET_STAGE_ATTN_CONTEXT, layer, kEmbd);
            add_quantised(BITNET_STAGE_ATTN_SUB_NORM, layer, kEmbd);
            add_linear(BITNET_STAGE_ATTN_OUT, layer, kEmbd);
            add(BITNET_STAGE_ATTN_RESIDUAL, layer, kEmbd);
            add_quantised(BITNET_STAGE_FFN_NORM, layer, kEmbd);
            add_linear(BITNET_STAGE_FFN_GATE, layer, kFf);
            add_linear(BITNET_STAGE_FFN_UP, layer, kFf);
            add(BITNET_STAGE_FFN_ACT, layer, kFf);
            add_quantised(BITNET_STAGE_FFN_SUB_NORM, layer, kFf);
            add_linear(BITNET_STAGE_FFN_OUT, layer, kEmbd);
            add(BITNET_STAGE_LAYER_OUT, layer, kEmbd);
        }
        add(BITNET_STAGE_FINAL_NORM, -1, kEmbd);
        add(BITNET_STAGE_LOGITS, -1, kVocab);
    }
};

void trace_token(TraceHost *host, const Token &token, int32_t position, std::vector<float> buffers[4]) {
    const int32_t id = 1;
    trace_host_begin_step(host, position, &id, 1);
    for (size_t i = 0; i < token.stages.size(); ++i) {
        const Stage &stage = token.stages[i];
        float *values = buffers[i % 4].data();
        values[0] = float(position);
        bitnet_tensor_event_t event = {};
        event.header.layer = stage.layer;
        event.header.position = position;
        event.stage = stage.stage;
        event.dtype = stage.dtype;
        event.kernel = "avx512vnni";
        event.n_rows = event.n_dims = 1;
        event.row_elements = event.shape[0] = stage.n_elements;
        event.row_stride = stage.n_elements * sizeof(float);
        event.data = values;
        trace_host_tensor(host, &event, values);
    }
    trace_host_end_step(host, BITNET_OK);
}

bool show_token(const char *library_folder, bool everything) {
    const std::string path = "/tmp/bitnet-trace-cost-" + std::to_string(getpid()) + ".jsonl";
    setenv("BITNET_TRACE_PLUGIN", ("jsonl:path=" + path).c_str(), 1);
    char error[TRACE_ERROR_BYTES];
    TraceHost *host =
        trace_host_create(library_folder, [](void *, int32_t, const char *text) { fprintf(stderr, "%s\n", text); }, nullptr);
    trace_host_attach_environment(host);
    const bool ok = trace_host_active(host) && (!everything || trace_host_select(host, "**,*.*", error) == BITNET_OK);
    const Token token(everything);
    std::vector<float> buffers[4];
    for (std::vector<float> &buffer : buffers) buffer = random_values(128256);
    const TraceRun run = {};
    trace_host_begin_run(host, &run);
    double least = 1e9;
    for (int32_t position = 0; ok && position < 60; ++position) {
        const double from = seconds();
        trace_token(host, token, position, buffers);
        least = std::min(least, seconds() - from);
    }
    const bool written = trace_host_end_run(host) == BITNET_OK;
    trace_host_destroy(host);
    unlink(path.c_str());
    if (ok && written) printf("2B-4T, jsonl, %zu events of a token: %.2f ms\n", token.stages.size(), 1e3 * least);
    return ok && written;
}

}  // namespace
}  // namespace bitnet

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: bitnet_trace_cost LIBRARY_FOLDER\n");
        return 2;
    }
    bitnet::show_services();
    return bitnet::show_token(argv[1], false) && bitnet::show_token(argv[1], true) ? 0 : 2;
}
