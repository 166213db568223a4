// A plugin driven by hand: events with the times, types and inputs that a test wants, from a host of its own.
#pragma once

#include <gtest/gtest.h>

#include <blake3.h>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include <bitnet_c.h>

namespace bitnet::test {

inline std::string blake3_hex(const void *data, size_t n_bytes) {
    uint8_t digest[32];
    blake3_hasher hasher;
    blake3_hasher_init(&hasher);
    blake3_hasher_update(&hasher, data, n_bytes);
    blake3_hasher_finalize(&hasher, digest, sizeof digest);
    std::string out;
    char digits[3];
    for (uint8_t byte : digest) {
        snprintf(digits, sizeof digits, "%02x", byte);
        out += digits;
    }
    return out;
}

inline std::string read_bytes(const std::filesystem::path &path) {
    std::ifstream file(path, std::ios::binary);
    EXPECT_TRUE(file) << path;
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// Names in a folder, sorted.
inline std::vector<std::string> names_in(const std::filesystem::path &folder) {
    std::set<std::string> names;
    for (const auto &entry : std::filesystem::directory_iterator(folder)) names.insert(entry.path().filename());
    return {names.begin(), names.end()};
}

// One attachment of a plugin. A failed call leaves the sink open, as a host would before it closes it.
struct Attachment {
    bitnet_trace_host_t api = {sizeof api, BITNET_ABI_VERSION, this, log, extension};
    const bitnet_trace_sink_t *table = nullptr;
    void *state = nullptr;
    bool is_open = false;
    std::vector<std::string> logged;
    uint64_t next_seq = 0, now_ns = 5000000000;
    uint32_t run = 0;

    explicit Attachment(const std::string &plugin) {
        void *library = dlopen(plugin.c_str(), RTLD_NOW | RTLD_LOCAL);
        EXPECT_NE(library, nullptr) << plugin;
        if (!library) return;
        const auto entry = reinterpret_cast<bitnet_trace_plugin_fn>(dlsym(library, BITNET_TRACE_PLUGIN_SYMBOL));
        table = entry(&api);
    }
    ~Attachment() { close(); }
    Attachment(const Attachment &) = delete;

    bitnet_status_t open(const std::string &config) {
        const bitnet_status_t status = table->open(&state, &api, config.c_str());
        is_open = status == BITNET_OK;
        return status;
    }
    void close() {
        if (is_open) table->close(state);
        is_open = false;
    }
    std::string last_log() const { return logged.empty() ? "" : logged.back(); }

    bitnet_status_t deliver(bitnet_event_t *event, uint32_t type, size_t size) {
        event->size = uint32_t(size);
        event->type = type;
        event->run = run;
        event->seq = next_seq++;
        event->time_ns = now_ns;
        return table->want >> type & 1 ? table->event(state, event) : BITNET_OK;
    }
    bitnet_status_t begin_run(const char *hyperparameters = "n_layer=4,n_embd=8") {
        bitnet_run_begin_event_t event = {};
        event.header.layer = event.header.position = -1;
        event.engine = "test-engine";
        event.engine_version = "9.9";
        event.model_path = "/models/\"tiny\".gguf";
        event.model_hash = "00ff";
        event.architecture = "bitnet-b1.58";
        event.hyperparameters = hyperparameters;
        event.semantics = "activation=relu2,eps=1e-05";
        event.isa = "scalar";
        event.kv_type = "f32";
        event.selection = "";
        event.n_threads = 2;
        event.n_batch = 512;
        return deliver(&event.header, BITNET_EVENT_RUN_BEGIN, sizeof event);
    }
    bitnet_status_t begin_step(int32_t position, const std::vector<int32_t> &tokens) {
        return step(BITNET_EVENT_STEP_BEGIN, position, tokens, BITNET_OK);
    }
    bitnet_status_t end_step(int32_t position, const std::vector<int32_t> &tokens, bitnet_status_t status = BITNET_OK) {
        return step(BITNET_EVENT_STEP_END, position, tokens, status);
    }
    bitnet_status_t end_run() {
        bitnet_run_end_event_t event = {};
        event.header.layer = event.header.position = -1;
        const bitnet_status_t status = deliver(&event.header, BITNET_EVENT_RUN_END, sizeof event);
        ++run;
        return status;
    }
    bitnet_status_t tensor(bitnet_tensor_event_t event) {
        return deliver(&event.header, BITNET_EVENT_TENSOR, sizeof event);
    }

private:
    bitnet_status_t step(uint32_t type, int32_t position, const std::vector<int32_t> &tokens, bitnet_status_t status) {
        bitnet_step_event_t event = {};
        event.header.layer = -1;
        event.header.position = position;
        event.tokens = tokens.empty() || tokens[0] < 0 ? nullptr : tokens.data();  // -1: embeddings
        event.n_tokens = tokens.size();
        event.status = status;
        return deliver(&event.header, type, sizeof event);
    }

    static void log(const bitnet_trace_host_t *host, int32_t, const char *text) {
        static_cast<Attachment *>(host->self)->logged.push_back(text);
    }
    static const char *row_data(const bitnet_tensor_event_t *event, uint32_t row) {
        return static_cast<const char *>(event->data) + row * event->row_stride;
    }
    static const uint8_t *blake3(const bitnet_trace_host_t *, const bitnet_tensor_event_t *event, uint32_t row) {
        static thread_local uint8_t digest[32];
        blake3_hasher hasher;
        blake3_hasher_init(&hasher);
        blake3_hasher_update(&hasher, row_data(event, row), event->row_elements * 4);
        blake3_hasher_finalize(&hasher, digest, sizeof digest);
        return event->dtype == BITNET_DTYPE_F32 ? digest : nullptr;  // no test here needs another
    }
    static const bitnet_stats_t *stats(const bitnet_trace_host_t *, const bitnet_tensor_event_t *event, uint32_t row) {
        static thread_local bitnet_stats_t out;
        out = {};
        double sum = 0;
        const char *data = row_data(event, row);
        for (uint64_t i = 0; event->dtype == BITNET_DTYPE_F32 && i < event->row_elements; ++i) {
            float value;
            memcpy(&value, data + 4 * i, 4);
            sum += double(value) * value;
        }
        out.rms = event->row_elements ? std::sqrt(sum / double(event->row_elements)) : 0;
        return &out;
    }
    static const void *extension(const bitnet_trace_host_t *, const char *id) {
        static const bitnet_ext_hash_t hash = {sizeof hash, 0, blake3, nullptr};
        static const bitnet_ext_stats_t statistics = {sizeof statistics, 0, stats};
        if (strcmp(id, BITNET_EXT_HASH) == 0) return &hash;
        return strcmp(id, BITNET_EXT_STATS) == 0 ? static_cast<const void *>(&statistics) : nullptr;
    }
};

// One stage of rows one after another.
template <class T>
bitnet_tensor_event_t rows_of(int32_t stage, const char *name, int32_t layer, int32_t position,
                              const std::vector<T> &values, uint32_t n_rows, int32_t dtype = BITNET_DTYPE_F32) {
    bitnet_tensor_event_t event = {};
    event.header.layer = layer;
    event.header.position = position;
    event.stage = stage;
    event.dtype = dtype;
    event.stage_name = name;
    event.kernel = "test.kernel";
    event.n_rows = n_rows;
    event.n_dims = 1;
    event.row_elements = event.shape[0] = values.size() / n_rows;
    event.row_stride = event.row_elements * sizeof(T);
    event.data = values.data();
    event.ns = 1000;
    return event;
}

// A folder of its own for each test, with a name that wants care.
class FolderTest : public testing::Test {
protected:
    void SetUp() override {
        char name[] = "/tmp/bitnet sink \xc3\xa9\xe6\xbc\xa2-XXXXXX";
        ASSERT_NE(mkdtemp(name), nullptr);
        folder = name;
    }
    void TearDown() override {
        std::error_code ignored;
        std::filesystem::permissions(folder, std::filesystem::perms::owner_all, ignored);
        std::filesystem::remove_all(folder);
    }

    std::filesystem::path folder;
};

}  // namespace bitnet::test
