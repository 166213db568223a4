// One result for every instruction set, thread count and split of the prompt: logits and every traced stage, with ==.
#include "core/forward.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include "bitnet_c.h"
#include "core/cpu.h"
#include "model/error.h"

namespace bitnet {
namespace {

// Keeps every row of every stage under (stage, layer, position).
class Recorder : public Tracer {
public:
    using Key = std::tuple<int, int, int>;
    std::map<Key, std::vector<uint8_t>> rows;
    bool wants(int, int, int, int) noexcept override { return true; }
    const char *stop_reason() noexcept override { return nullptr; }
    void emit(const StageRows &e) noexcept override {
        size_t bytes = e.dtype == BITNET_DTYPE_I8 ? 1 : 4;
        for (int i = 0; i < e.n_dims; ++i) bytes *= size_t(e.shape[i]);
        for (int r = 0; r < e.n_rows; ++r) {
            const uint8_t *p = static_cast<const uint8_t *>(e.data) + size_t(r) * e.row_stride;
            EXPECT_TRUE(
                rows.emplace(Key{e.stage, e.layer, e.first_position + r}, std::vector<uint8_t>(p, p + bytes)).second)
                << "stage " << e.stage << " layer " << e.layer << " position " << e.first_position + r << " twice";
        }
    }
};

std::shared_ptr<const Model> load(const std::string &overrides = "") {
    LoadOptions options;
    options.overrides = overrides;
    return Model::load(Mapping::map_file("tests/data/small.gguf"), options);
}

std::vector<int32_t> prompt(int n) {
    std::vector<int32_t> tokens;
    for (int i = 0; i < n; ++i) tokens.push_back((i * 37 + 11) % 512);
    return tokens;
}

struct Result {
    std::map<Recorder::Key, std::vector<uint8_t>> rows;
    std::vector<float> logits;  // (n, n_vocab)
    bool operator==(const Result &) const = default;
};

// Evaluates `tokens` in parts of the given sizes (the last one repeats).
Result run(const std::shared_ptr<const Model> &model, const Kernels &kernels, int n_threads, int n_batch,
           const std::vector<int32_t> &tokens, const std::vector<size_t> &parts) {
    State state(model, kernels, {64, n_threads, n_batch, model->semantics.kv});
    Recorder recorder;
    state.tracer = &recorder;
    Result result;
    for (size_t done = 0, i = 0; done < tokens.size(); ++i) {
        EvalRequest request;
        request.tokens = tokens.data() + done;
        request.n = std::min(parts[std::min(i, parts.size() - 1)], tokens.size() - done);
        request.keep = KeepLogits::all;
        eval(state, request);
        done += request.n;
        result.logits.insert(result.logits.end(), state.logits.data(),
                             state.logits.data() + request.n * size_t(model->hp.n_vocab));
    }
    result.rows = std::move(recorder.rows);
    return result;
}

class Forward : public ::testing::TestWithParam<const char *> {};

TEST_P(Forward, SameBitsForEveryIsaThreadCountAndSplit) {
    const auto model = load(GetParam());
    const std::vector<int32_t> tokens = prompt(13);
    const Result reference = run(model, scalar::kernels, 1, 64, tokens, {13});
    // Every stage of every layer and position, with companions: 22 + 4 codes + 4 scales + 7 accumulators.
    const bool quantised = model->semantics.activation_quant == ActivationQuant::row_int8;
    const size_t sub_norms = size_t(model->semantics.attn_sub_norm) + size_t(model->semantics.ffn_sub_norm);
    EXPECT_EQ(reference.rows.size(), 13u * (3 + size_t(model->hp.n_layer) * (17 + sub_norms + (quantised ? 15 : 0))));
    for (int isa = 0; isa < isa_count(); ++isa) {
        if (!isa_at(isa).usable) continue;
        for (int n_threads : {1, 2, 3, 7}) {
            EXPECT_TRUE(run(model, *isa_at(isa).kernels, n_threads, 64, tokens, {13}) == reference)
                << isa_at(isa).kernels->isa << " " << n_threads;
            EXPECT_TRUE(run(model, *isa_at(isa).kernels, n_threads, 5, tokens, {1}) == reference)
                << isa_at(isa).kernels->isa << " " << n_threads << " token by token";
        }
        for (size_t split = 1; split < tokens.size(); ++split)
            EXPECT_TRUE(run(model, *isa_at(isa).kernels, 2, 5, tokens, {split, tokens.size()}) == reference)
                << isa_at(isa).kernels->isa << " split at " << split;
    }
}

INSTANTIATE_TEST_SUITE_P(Semantics, Forward,
                         ::testing::Values("", "profile=bitnetcpp", "activation=silu,rope=norm,sub_norms=off",
                                           "quant=none,activation=gelu", "scale=divide,kv=f16"),
                         [](const auto &test) { return "Case" + std::to_string(test.index); });

// The cache is laid out in blocks of 256 positions, shorter ones where a context is; whatever the blocks and the split,
// the same keys, values and logits, and what was packed from one layout continues in another.
TEST(ForwardPass, PositionsAcrossBlocksOfTheCache) {
    for (const KvType kv : {KvType::f32, KvType::f16}) {
        const auto model = load();
        const std::vector<int32_t> tokens = prompt(300);
        struct Kept {
            std::vector<float> logits;
            std::vector<uint8_t> packed;
        };
        const auto evaluate = [&](State &state, size_t done, size_t until, const std::vector<size_t> &parts) {
            for (size_t i = 0; done < until; ++i) {
                EvalRequest request;
                request.tokens = tokens.data() + done;
                request.n = std::min(parts[std::min(i, parts.size() - 1)], until - done);
                request.keep = KeepLogits::last;
                eval(state, request);
                done += request.n;
            }
            Kept kept;
            kept.logits.assign(state.logits.data(), state.logits.data() + model->hp.n_vocab);
            kept.packed.resize(state.packed_kv_bytes(int(until)));
            state.pack_kv(int(until), kept.packed.data());
            return kept;
        };
        State plain(model, scalar::kernels, {300, 1, 300, kv});
        const Kept reference = evaluate(plain, 0, 300, {300});
        for (int n_ctx : {300, 320, 512})
            for (int n_threads : {1, 3})
                for (const std::vector<size_t> &parts : std::vector<std::vector<size_t>>{{255, 1, 1, 43}, {1}, {100}}) {
                    State state(model, select_kernels(""), {n_ctx, n_threads, 256, kv});
                    const Kept kept = evaluate(state, 0, 300, parts);
                    EXPECT_EQ(kept.logits, reference.logits) << n_ctx << " " << n_threads << " " << parts[0];
                    EXPECT_EQ(kept.packed, reference.packed) << n_ctx << " " << n_threads << " " << parts[0];
                }
        State before(model, scalar::kernels, {64, 1, 64, kv}), after(model, scalar::kernels, {512, 2, 64, kv});
        const Kept beginning = evaluate(before, 0, 60, {60});
        after.unpack_kv(60, beginning.packed.data());
        after.position = 60;
        EXPECT_EQ(evaluate(after, 60, 300, {64}).packed, reference.packed);
    }
}

// Tracing must not change a bit: the traced attention goes another way.
TEST(ForwardPass, TracingChangesNothing) {
    const auto model = load();
    const std::vector<int32_t> tokens = prompt(9);
    const Result traced = run(model, scalar::kernels, 2, 64, tokens, {9});
    State state(model, scalar::kernels, {64, 2, 64, KvType::f32});
    EvalRequest request;
    request.tokens = tokens.data();
    request.n = tokens.size();
    request.keep = KeepLogits::all;
    eval(state, request);
    EXPECT_EQ(std::memcmp(state.logits.data(), traced.logits.data(), traced.logits.size() * 4), 0);
    State last(model, scalar::kernels, {64, 2, 4, KvType::f32});
    request.keep = KeepLogits::last;
    eval(last, request);
    EXPECT_EQ(last.n_outputs, 1);
    EXPECT_EQ(std::memcmp(last.logits.data(), state.logits.data() + 8 * 512, 512 * 4), 0);
}

TEST(ForwardPass, EmbeddingsInPlaceOfTokens) {
    const auto model = load();
    const std::vector<int32_t> tokens = prompt(4);
    const Result reference = run(model, scalar::kernels, 1, 64, tokens, {4});
    std::vector<float> embeddings;
    for (int t = 0; t < 4; ++t) {
        const std::vector<uint8_t> &row = reference.rows.at({BITNET_STAGE_EMBEDDINGS, -1, t});
        const float *f = reinterpret_cast<const float *>(row.data());
        embeddings.insert(embeddings.end(), f, f + row.size() / 4);
    }
    State state(model, scalar::kernels, {64, 1, 64, KvType::f32});
    EvalRequest request;
    request.embeddings = embeddings.data();
    request.n = 4;
    request.keep = KeepLogits::all;
    eval(state, request);
    EXPECT_EQ(std::memcmp(state.logits.data(), reference.logits.data(), reference.logits.size() * 4), 0);
}

Status status_of(State &state, const EvalRequest &request) {
    try {
        eval(state, request);
    } catch (const Error &e) {
        return e.status;
    }
    return Status::ok;
}

TEST(ForwardPass, FailuresLeaveThePosition) {
    const auto model = load();
    const std::vector<int32_t> tokens = prompt(6);
    const Result reference = run(model, scalar::kernels, 1, 64, tokens, {6});
    State state(model, scalar::kernels, {6, 1, 2, KvType::f32});
    EvalRequest first, rest;
    first.tokens = tokens.data(), first.n = 3;
    rest.tokens = tokens.data() + 3, rest.n = 3, rest.keep = KeepLogits::all;
    EXPECT_EQ(status_of(state, first), Status::ok);

    EvalRequest bad = rest;
    const int32_t out_of_range[] = {1, 512}, negative[] = {-1};
    bad.tokens = out_of_range, bad.n = 2;
    EXPECT_EQ(status_of(state, bad), Status::invalid);
    bad.tokens = negative, bad.n = 1;
    EXPECT_EQ(status_of(state, bad), Status::invalid);
    bad.n = 0;
    EXPECT_EQ(status_of(state, bad), Status::invalid);
    bad = rest;
    bad.tokens = tokens.data(), bad.n = 4;
    EXPECT_EQ(status_of(state, bad), Status::overflow);
    int calls = 0;
    bad = rest;
    bad.cancel_user = &calls;
    bad.cancel = [](void *user) -> int32_t { return ++*static_cast<int *>(user) == 5; };  // in the second batch
    EXPECT_EQ(status_of(state, bad), Status::cancelled);
    EXPECT_EQ(state.position, 3);
    EXPECT_EQ(state.n_outputs, 0);

    EXPECT_EQ(status_of(state, rest), Status::ok);
    EXPECT_EQ(state.position, 6);
    EXPECT_EQ(std::memcmp(state.logits.data(), reference.logits.data() + 3 * 512, 3 * 512 * 4), 0);
}

// Each switch of the semantics must reach the numbers, or a fault could never be imitated.
TEST(ForwardPass, EverySwitchChangesTheLogits) {
    const std::vector<int32_t> tokens = prompt(5);
    const Result reference = run(load(), scalar::kernels, 1, 64, tokens, {5});
    for (const char *overrides :
         {"activation=relu", "activation=silu", "activation=gelu", "eps=1e-6", "rope=norm", "rope_angle=steps_f32",
          "theta=10000", "rope_offset=1", "attn_sub_norm=off", "ffn_sub_norm=off", "quant=none", "scale=divide",
          "scale=none", "i2s=block64", "kv=f16", "attn_q=f16", "head_input=f16"})
        EXPECT_FALSE(run(load(overrides), scalar::kernels, 1, 64, tokens, {5}).logits == reference.logits) << overrides;
}

}  // namespace
}  // namespace bitnet
