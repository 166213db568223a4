// The modeltracer plugin fed by hand, with an engine that answers what a test wants, and its records.
#pragma once

#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <unistd.h>
#include <vector>

#include "tests/plugins/fixture.h"

namespace bitnet::test {

using nlohmann::json;

inline std::string text_of(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    std::ostringstream out;
    out << file.rdbuf();
    return out.str();
}

// n_embd is 4, n_vocab 6.
struct FakeEngine {
    std::vector<float> lens_logits = std::vector<float>(6), linear, logits;

    // The head takes token t to hidden[t] for the first four, and to the sum and 0 for the others.
    static const float *lens(void *user, const float *hidden) {
        std::vector<float> &out = static_cast<FakeEngine *>(user)->lens_logits;
        out.assign(hidden, hidden + 4);
        out.push_back(hidden[0] + hidden[1] + hidden[2] + hidden[3]);
        out.push_back(0);
        return out.data();
    }
    static const float *reference_linear(void *user, int32_t, int32_t, uint32_t) {
        FakeEngine *self = static_cast<FakeEngine *>(user);
        return self->linear.empty() ? nullptr : self->linear.data();
    }
    static const float *reference_logits(void *user, int32_t) {
        FakeEngine *self = static_cast<FakeEngine *>(user);
        return self->logits.empty() ? nullptr : self->logits.data();
    }
};

class ModelTracer : public ::testing::Test {
protected:
    std::string folder, path, text_path;
    FakeEngine engine;
    Host host;

    void SetUp() override {
        char pattern[] = "/tmp/modeltracer-XXXXXX";
        folder = mkdtemp(pattern);
        path = folder + "/trace.json";
        text_path = folder + "/trace.txt";
    }
    void TearDown() override {
        trace_host_detach_all(host.host);
        remove(path.c_str());
        remove(text_path.c_str());
        rmdir(folder.c_str());
    }

    bitnet_status_t attach(const std::string &config, bool with_engine = true) {
        if (with_engine) {
            const TraceEngine table = {
                &engine, 6, 4, FakeEngine::lens, FakeEngine::reference_linear, FakeEngine::reference_logits};
            trace_host_set_engine(host.host, &table);
        }
        trace_host_select(host.host, "*,**,*.*", host.error);
        const std::string all = (config.empty() ? "" : config + ",") + "path=" + path + ",text=" + text_path;
        return trace_host_load_plugin(host.host, PLUGIN_DIRECTORY "/libmodeltracer.so", all.c_str(), host.error);
    }
    void begin(const std::string &config, int32_t position = 0, std::vector<int32_t> tokens = {1, 2, 3, 4}) {
        ASSERT_EQ(attach(config), BITNET_OK) << host.error;
        host.begin_run(tokens);
        step(position, tokens);
    }
    void step(int32_t position, const std::vector<int32_t> &tokens) {
        step_tokens = tokens;
        trace_host_begin_step(host.host, position, step_tokens.data(), step_tokens.size());
    }
    void row(int32_t stage, int32_t layer, int32_t position, std::vector<float> values) {
        host.tensor(stage, layer, position, values, 1);
    }
    // A layer whose every stage of this token is 1, -1, 2, 0.5 in turn.
    void healthy_layer(int32_t layer, int32_t position, int32_t first = BITNET_STAGE_ATTN_NORM,
                       int32_t last = BITNET_STAGE_LAYER_OUT) {
        for (int32_t stage = first; stage <= last; ++stage) row(stage, layer, position, {1, -1, 2, 0.5f});
    }
    void attention(int32_t layer, int32_t position, const std::vector<std::vector<float>> &heads) {
        std::vector<float> values;
        for (const auto &head : heads) values.insert(values.end(), head.begin(), head.end());
        bitnet_tensor_event_t rows = {};
        rows.header.layer = layer;
        rows.header.position = position;
        rows.stage = BITNET_STAGE_ATTN_SCORES_SOFTMAX;
        rows.n_rows = 1;
        rows.n_dims = 2;
        rows.shape[0] = heads.size();
        rows.shape[1] = heads[0].size();
        rows.row_elements = values.size();
        rows.row_stride = rows.row_elements * sizeof(float);
        rows.data = values.data();
        trace_host_tensor(host.host, &rows, nullptr);
    }
    void kv(int32_t position, bitnet_kv_state_t state) {
        state.struct_size = sizeof state;
        trace_host_kv_state(host.host, position, &state);
    }
    void end() {
        trace_host_end_step(host.host, BITNET_OK);
        EXPECT_EQ(trace_host_end_run(host.host), BITNET_OK) << host.stats().last_failure;
    }

    std::vector<json> records(const std::string &kind) const {
        std::vector<json> out;
        std::istringstream lines(text_of(path));
        for (std::string line; std::getline(lines, line);) {
            const json record = json::parse(line);  // throws unless it is strict JSON
            if (record.at("record") == kind) out.push_back(record);
        }
        return out;
    }
    json one(const std::string &kind) const {
        const std::vector<json> found = records(kind);
        EXPECT_EQ(found.size(), 1u) << kind;
        return found.empty() ? json::object() : found[0];
    }

private:
    std::vector<int32_t> step_tokens;
};

}  // namespace bitnet::test
