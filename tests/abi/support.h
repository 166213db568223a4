// What the tests of the boundary share: handles that free themselves, a prompt, a sink that keeps what it is given.
#pragma once

#include <bitnet_c.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

namespace bitnet_test {

inline const char *const small_model = "tests/data/small.gguf";  // ctest runs in the source folder
constexpr int n_layer = 3, n_embd = 256, n_ff = 768, n_head = 4, n_head_kv = 2, head_dim = 64, n_vocab = 512;

struct ModelFree {
    void operator()(bitnet_model_t *model) const { bitnet_model_free(model); }
};
struct ContextFree {
    void operator()(bitnet_ctx_t *ctx) const { bitnet_context_free(ctx); }
};
using Model = std::unique_ptr<bitnet_model_t, ModelFree>;
using Context = std::unique_ptr<bitnet_ctx_t, ContextFree>;

template <class T> T make() {
    T value{};
    value.struct_size = sizeof value;
    return value;
}

#define EXPECT_OK(call) EXPECT_EQ(call, BITNET_OK) << bitnet_last_error()
#define ASSERT_OK(call) ASSERT_EQ(call, BITNET_OK) << bitnet_last_error()

// `status` with a message of one line that contains every one of `words`.
inline void expect_error(bitnet_status_t status, bitnet_status_t expected, std::vector<std::string> words = {}) {
    const std::string error = bitnet_last_error();
    EXPECT_STREQ(bitnet_status_name(status), bitnet_status_name(expected)) << error;
    EXPECT_FALSE(error.empty());
    EXPECT_EQ(error.find('\n'), std::string::npos) << error;
    for (const std::string &word : words)
        EXPECT_NE(error.find(word), std::string::npos) << word << " is not in: " << error;
}

inline std::vector<uint8_t> read_file(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

inline Model load(const char *semantics = nullptr, const char *isa = nullptr) {
    auto params = make<bitnet_load_params_t>();
    params.semantics = semantics;
    params.isa = isa;
    bitnet_model_t *model = nullptr;
    EXPECT_OK(bitnet_load(small_model, &params, &model));
    return Model(model);
}

inline Context context(const bitnet_model_t *model, int n_ctx = 64, int n_threads = 1, int n_batch = 0,
                       uint32_t kv_type = BITNET_KV_DEFAULT) {
    auto params = make<bitnet_context_params_t>();
    params.n_ctx = n_ctx;
    params.n_threads = n_threads;
    params.n_batch = n_batch;
    params.kv_type = kv_type;
    bitnet_ctx_t *ctx = nullptr;
    EXPECT_OK(bitnet_context_create(model, &params, &ctx));
    return Context(ctx);
}

inline std::vector<int32_t> prompt(int n) {
    std::vector<int32_t> tokens;
    for (int i = 0; i < n; ++i) tokens.push_back((i * 37 + 11) % n_vocab);
    return tokens;
}

inline bitnet_status_t eval(bitnet_ctx_t *ctx, const std::vector<int32_t> &tokens,
                            uint32_t logits = BITNET_LOGITS_LAST) {
    auto params = make<bitnet_eval_params_t>();
    params.logits = logits;
    return bitnet_eval_tokens(ctx, tokens.data(), tokens.size(), &params);
}

inline std::vector<float> row(bitnet_ctx_t *ctx, int32_t i = -1) {
    const float *logits = bitnet_get_logits_ith(ctx, i);
    EXPECT_NE(logits, nullptr) << bitnet_last_error();
    return logits ? std::vector<float>(logits, logits + n_vocab) : std::vector<float>();
}

// All kept rows of logits, one after another.
inline std::vector<float> rows(bitnet_ctx_t *ctx) {
    std::vector<float> all;
    for (int32_t i = 0; i < bitnet_logits_count(ctx); ++i) {
        const std::vector<float> one = row(ctx, i);
        all.insert(all.end(), one.begin(), one.end());
    }
    return all;
}

// Logits after `tokens` on a fresh context.
inline std::vector<float> logits_after(const bitnet_model_t *model, const std::vector<int32_t> &tokens) {
    const Context ctx = context(model);
    EXPECT_OK(eval(ctx.get(), tokens));
    return row(ctx.get());
}

// An environment variable for one scope.
class Env {
public:
    Env(const char *name, const std::string &value) : name_(name) { setenv(name, value.c_str(), 1); }
    ~Env() { unsetenv(name_); }
    Env(const Env &) = delete;

private:
    const char *name_;
};

// A copy of an event that outlives its call.
struct Seen {
    bitnet_event_t header;
    int32_t stage = 0, dtype = 0;
    uint32_t n_rows = 0, first_row = 0;
    std::string name, kernel;
    std::vector<uint64_t> shape;
    uint64_t row_elements = 0;
    std::vector<std::vector<uint8_t>> rows;
    bitnet_status_t status = 0;       // of a STEP_END
    std::vector<int32_t> tokens;      // of a run or step
    std::string text;                 // of a run: semantics;selection;prompt
    bitnet_run_end_event_t end = {};  // of a RUN_END
    bitnet_kv_state_t kv = {};        // of a KV_STATE
};

// An in-process sink. `on_event` runs after the event was kept; what it returns is the sink's answer.
class Recorder {
public:
    explicit Recorder(uint64_t want = ~uint64_t(0))
        : table{sizeof table, BITNET_ABI_VERSION, "recorder", want, open, event, flush, close} {}
    Recorder(const Recorder &) = delete;

    bitnet_trace_sink_t table;
    const bitnet_trace_host_t *host = nullptr;
    std::vector<Seen> seen;
    std::function<bitnet_status_t(const bitnet_event_t *)> on_event;
    int n_opened = 0, n_flushed = 0, n_closed = 0;

    std::vector<Seen> of_type(uint32_t type) const {
        std::vector<Seen> out;
        for (const Seen &s : seen)
            if (s.header.type == type) out.push_back(s);
        return out;
    }

    using Key = std::tuple<int32_t, int32_t, int32_t>;  // position, layer, stage
    std::map<Key, std::vector<uint8_t>> by_key() const {
        std::map<Key, std::vector<uint8_t>> out;
        for (const Seen &s : seen)
            for (size_t r = 0; r < s.rows.size(); ++r) {
                const Key key{s.header.position + int32_t(r), s.header.layer, s.stage};
                EXPECT_TRUE(out.emplace(key, s.rows[r]).second) << s.name << " twice";
            }
        return out;
    }

private:
    static bitnet_status_t open(void **state, const bitnet_trace_host_t *host, const char *) {
        auto *self = static_cast<Recorder *>(*state);
        self->host = host;
        ++self->n_opened;
        return BITNET_OK;
    }
    static bitnet_status_t event(void *state, const bitnet_event_t *header) {
        auto *self = static_cast<Recorder *>(state);
        self->seen.push_back(copy(header));
        return self->on_event ? self->on_event(header) : BITNET_OK;
    }
    static bitnet_status_t flush(void *state) {
        ++static_cast<Recorder *>(state)->n_flushed;
        return BITNET_OK;
    }
    static void close(void *state) { ++static_cast<Recorder *>(state)->n_closed; }

    static Seen copy(const bitnet_event_t *header) {
        Seen s{};
        s.header = *header;
        if (header->type == BITNET_EVENT_TENSOR) {
            copy_tensor(*reinterpret_cast<const bitnet_tensor_event_t *>(header), s);
        } else if (header->type == BITNET_EVENT_RUN_BEGIN) {
            const auto &run = *reinterpret_cast<const bitnet_run_begin_event_t *>(header);
            if (run.tokens) s.tokens.assign(run.tokens, run.tokens + run.n_tokens);
            s.text = std::string(run.semantics) + ";" + run.selection + ";" +
                     (run.prompt ? std::string(run.prompt, run.n_prompt_bytes) : "NULL");
        } else if (header->type == BITNET_EVENT_RUN_END) {
            s.end = *reinterpret_cast<const bitnet_run_end_event_t *>(header);
        } else if (header->type == BITNET_EVENT_KV_STATE) {
            s.kv = reinterpret_cast<const bitnet_kv_event_t *>(header)->kv;
        } else {
            const auto &step = *reinterpret_cast<const bitnet_step_event_t *>(header);
            if (step.tokens) s.tokens.assign(step.tokens, step.tokens + step.n_tokens);
            s.status = step.status;
        }
        return s;
    }

    static void copy_tensor(const bitnet_tensor_event_t &t, Seen &s) {
        s.stage = t.stage;
        s.dtype = t.dtype;
        s.n_rows = t.n_rows;
        s.first_row = t.first_row;
        s.name = t.stage_name;
        s.kernel = t.kernel;
        s.shape.assign(t.shape, t.shape + t.n_dims);
        s.row_elements = t.row_elements;
        const size_t n_bytes = t.row_elements * (t.dtype == BITNET_DTYPE_I8 ? 1 : 4);
        for (uint32_t r = 0; r < t.n_rows; ++r) {
            const auto *data = static_cast<const uint8_t *>(t.data) + r * t.row_stride;
            s.rows.emplace_back(data, data + n_bytes);
        }
    }
};

inline std::vector<float> floats(const std::vector<uint8_t> &bytes) {
    std::vector<float> values(bytes.size() / sizeof(float));
    std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
    return values;
}

}  // namespace bitnet_test
