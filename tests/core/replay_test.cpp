// Every operation replayed on the engine's own recorded inputs gives the recorded output, bit for bit, under every
// semantics and on every instruction set; and what is wrong in a request is refused by name.
#include "core/replay.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <thread>

#include "bitnet_c.h"
#include "core/alternative_layer.h"
#include "core/cpu.h"
#include "core/forward.h"
#include "core/math.h"
#include "core/ops.h"
#include "model/error.h"

namespace bitnet {
namespace {

constexpr int n_tokens = 7;

using Bytes = std::vector<uint8_t>;
using Key = std::pair<int, int>;  // layer, stage
using Record = std::map<Key, std::vector<Bytes>>;

class Recorder : public Tracer {
public:
    Record record;
    bool wants(int, int, int, int) noexcept override { return true; }
    void emit(const StageRows &e) noexcept override {
        size_t bytes = e.dtype == BITNET_DTYPE_I8 ? 1 : 4;
        for (int i = 0; i < e.n_dims; ++i) bytes *= size_t(e.shape[i]);
        for (int r = 0; r < e.n_rows; ++r) {
            const uint8_t *p = static_cast<const uint8_t *>(e.data) + size_t(r) * e.row_stride;
            record[{e.layer, e.stage}].emplace_back(p, p + bytes);
        }
    }
    const char *stop_reason() noexcept override { return nullptr; }
};

std::shared_ptr<const Model> load(const std::string &overrides = "") {
    LoadOptions options;
    options.overrides = overrides;
    return Model::load(Mapping::map_file("tests/data/small.gguf"), options);
}

std::vector<int32_t> prompt(int n = n_tokens) {
    std::vector<int32_t> tokens;
    for (int i = 0; i < n; ++i) tokens.push_back((i * 37 + 11) % 512);
    return tokens;
}

Record record_of(const std::shared_ptr<const Model> &model, const Kernels &kernels, size_t step = n_tokens) {
    State state(model, kernels, {64, 2, 64, model->semantics.kv});
    Recorder recorder;
    state.tracer = &recorder;
    const std::vector<int32_t> tokens = prompt();
    for (size_t done = 0; done < tokens.size(); done += step) {
        EvalRequest request;
        request.tokens = tokens.data() + done;
        request.n = std::min(step, tokens.size() - done);
        request.keep = KeepLogits::all;
        eval(state, request);
    }
    return recorder.record;
}

Bytes joined(const std::vector<Bytes> &rows) {
    Bytes all;
    for (const Bytes &row : rows) all.insert(all.end(), row.begin(), row.end());
    return all;
}

// The rows of a record as an input.
struct Rows {
    Bytes bytes;
    RecordedRows view;
    Rows(int stage, const std::vector<Bytes> &rows) : bytes(joined(rows)) {
        const int companion = stage & ~0xff;
        const int dtype = companion == BITNET_STAGE_CODES ? BITNET_DTYPE_I8
                          : companion == BITNET_STAGE_ACC ? BITNET_DTYPE_I32
                                                          : BITNET_DTYPE_F32;
        const size_t element = dtype == BITNET_DTYPE_I8 ? 1 : 4, row = rows.at(0).size();
        view = {stage, dtype, rows.size(), row / element, row, bytes.data()};
    }
};

Bytes output(const Replay &replay, const ReplayRequest &request) {
    const int dtype = replay.find(request.stage, request.layer).dtype;
    Bytes out(replay.size_of(request) * (dtype == BITNET_DTYPE_I8 ? 1 : 4));
    replay.run(request, out.data());
    return out;
}

Bytes replayed(const Replay &replay, const OperationInfo &info, const Record &record) {
    std::vector<Rows> rows;
    std::vector<RecordedRows> inputs;
    const std::vector<int32_t> tokens = prompt();
    for (int i = 0; i < info.n_inputs; ++i)
        rows.emplace_back(info.inputs[i].stage, record.at({info.inputs[i].layer, info.inputs[i].stage}));
    for (const Rows &r : rows) inputs.push_back(r.view);
    if (info.n_inputs == 0) inputs.push_back({0, BITNET_DTYPE_I32, tokens.size(), 1, 4, tokens.data()});
    return output(replay, {info.stage, info.layer, inputs, nullptr});
}

class EveryOperation : public ::testing::TestWithParam<const char *> {};

TEST_P(EveryOperation, GivesWhatTheForwardPassRecorded) {
    const auto model = load(GetParam());
    Record reference;
    for (int isa = 0; isa < isa_count(); ++isa) {
        if (!isa_at(isa).usable) continue;
        const Kernels &kernels = *isa_at(isa).kernels;
        const Record record = record_of(model, kernels);
        if (reference.empty()) reference = record;
        EXPECT_TRUE(record == reference) << kernels.isa;
        const Replay replay(model, kernels, model->semantics);
        size_t n_operations = 0;
        for (const OperationInfo &info : replay.operations()) {
            const auto recorded = record.find({info.layer, info.stage});
            ASSERT_NE(recorded, record.end()) << info.stage << " of layer " << info.layer;
            EXPECT_EQ(replayed(replay, info, record), joined(recorded->second))
                << kernels.isa << ": stage " << info.stage << " of layer " << info.layer;
            ++n_operations;
        }
        EXPECT_EQ(n_operations, record.size());  // all that was recorded was replayed
    }
}

INSTANTIATE_TEST_SUITE_P(
    Semantics, EveryOperation,
    ::testing::Values(
        "", "profile=bitnetcpp", "activation=silu,rope=norm,sub_norms=off", "quant=none,activation=gelu",
        "scale=divide,kv=f16,activation=relu,rope_offset=-1", "profile=hf-f32", "profile=hf-bf16", "profile=q8k",
        "quant=block32_int8,round=away", "quant=tensor_int8,round=truncate", "norm=unweighted,scale=none",
        "norm=weighted_twice", "norm=centred,acc=int16", "i2s=block32,scale_type=f16",
        "i2s=sequential,i2s_bits=low_first,scale_type=bf16", "i2s=block64", "i2s_map=+0-", "i2s_map=0+-,quant=none",
        "kv_swap=attention", "kv_swap=weights", "kv_heads=interleaved", "attn_scale=none", "attn_scale=full",
        "kv=f16,attn_q=f16,attn_p=f16", "kv=f16,attn_q=f16,attn_sum=f16", "quant=f16,attn_sum=f16,kv_swap=attention",
        "activation@1=silu,kv@0=f16,i2s@2=block64,rope_offset@1-2=1,sub_norms@0=off,quant@2=none,eps@0=1e-2"),
    [](const auto &test) { return "Case" + std::to_string(test.index); });

// No product of the small model leaves 16 bits, so this asks for the alternative layer and for nothing else.
TEST(AlternativeLayer, HasTheBitsOfTheForwardPass) {
    for (const char *kv : {"f32", "f16"}) {
        const std::string base = std::string("kv=") + kv;
        const auto model = load(base), other = load(base + ",acc=int16");
        ASSERT_FALSE(needs_alternative_layer(model->semantics, 1));
        ASSERT_TRUE(needs_alternative_layer(other->semantics, 1));
        for (const size_t step : {size_t(n_tokens), size_t(1), size_t(3)})
            EXPECT_TRUE(record_of(model, scalar::kernels, step) == record_of(other, scalar::kernels, step)) << step;
    }
}

// Each at one layer: what comes before is untouched, and the first stage that differs is the one that it is about.
TEST(AlternativeLayer, OneLayerAlone) {
    const struct {
        const char *overrides;
        int stage;
    } cases[] = {{"activation@1=silu", BITNET_STAGE_FFN_ACT},
                 {"norm@1=unweighted", BITNET_STAGE_ATTN_NORM},
                 {"norm@1=weighted_twice", BITNET_STAGE_ATTN_NORM},
                 {"norm@1=centred", BITNET_STAGE_ATTN_NORM},
                 {"eps@1=1e-3", BITNET_STAGE_ATTN_NORM},
                 {"rope_offset@1=1", BITNET_STAGE_Q_ROPE},
                 {"rope@1=norm", BITNET_STAGE_Q_ROPE},
                 {"theta@1=10000", BITNET_STAGE_Q_ROPE},
                 {"rope_angle@1=steps_f32", BITNET_STAGE_Q_ROPE},
                 {"kv@1=f16", BITNET_STAGE_ATTN_SCORES},
                 {"attn_q@1=f16", BITNET_STAGE_ATTN_SCORES},
                 {"kv_heads@1=interleaved", BITNET_STAGE_ATTN_SCORES},
                 {"kv_swap@1=attention", BITNET_STAGE_ATTN_SCORES},
                 {"kv_swap@1=weights", BITNET_STAGE_K_PROJ | BITNET_STAGE_ACC},
                 {"attn_scale@1=full", BITNET_STAGE_ATTN_SCORES},
                 {"attn_scale@1=none", BITNET_STAGE_ATTN_SCORES},
                 {"attn_p@1=f16", BITNET_STAGE_ATTN_CONTEXT},
                 {"attn_sum@1=f16", BITNET_STAGE_ATTN_CONTEXT},
                 {"quant@1=f16", BITNET_STAGE_Q_PROJ},
                 {"scale@1=divide", BITNET_STAGE_Q_PROJ},
                 {"scale_type@1=bf16", BITNET_STAGE_Q_PROJ},
                 {"scale_type@1=f16", BITNET_STAGE_Q_PROJ},
                 {"i2s@1=block64", BITNET_STAGE_Q_PROJ | BITNET_STAGE_ACC},
                 {"i2s@1=block32", BITNET_STAGE_Q_PROJ | BITNET_STAGE_ACC},
                 {"i2s@1=sequential", BITNET_STAGE_Q_PROJ | BITNET_STAGE_ACC},
                 {"i2s_bits@1=low_first", BITNET_STAGE_Q_PROJ | BITNET_STAGE_ACC},
                 {"i2s_map@1=-+0", BITNET_STAGE_Q_PROJ | BITNET_STAGE_ACC},
                 {"quant@1=tensor_int8", BITNET_STAGE_ATTN_NORM | BITNET_STAGE_CODES},
                 {"quant@1=block32_int8", BITNET_STAGE_ATTN_NORM | BITNET_STAGE_CODES},
                 {"round@1=truncate", BITNET_STAGE_ATTN_NORM | BITNET_STAGE_CODES},
                 {"quant@1=dequantised", BITNET_STAGE_Q_PROJ},
                 {"stage_type@1=bf16", BITNET_STAGE_ATTN_NORM},
                 {"attn_sub_norm@1=off", BITNET_STAGE_ATTN_SUB_NORM},
                 {"ffn_sub_norm@1=off", BITNET_STAGE_FFN_SUB_NORM}};
    const auto reference_model = load();
    const Record reference = record_of(reference_model, scalar::kernels);
    const Replay order(reference_model, scalar::kernels, reference_model->semantics);
    for (const auto &c : cases) {
        const Record record = record_of(load(c.overrides), scalar::kernels);
        const OperationInfo *first = nullptr;
        for (const OperationInfo &info : order.operations()) {
            const auto found = record.find({info.layer, info.stage});
            if (found != record.end() && found->second == reference.at({info.layer, info.stage})) continue;
            if (found == record.end() && (info.stage & 0xff00)) continue;  // blocks and floats have no accumulators
            first = &info;
            break;
        }
        ASSERT_NE(first, nullptr) << c.overrides;
        EXPECT_EQ(first->layer, 1) << c.overrides;
        EXPECT_EQ(first->stage, c.stage) << c.overrides;
    }
}

// ---- requests ---------------------------------------------------------------------------------------------------

class Requests : public testing::Test {
protected:
    const std::shared_ptr<const Model> model_ = load();
    const Record record_ = record_of(model_, scalar::kernels);
    const Replay replay_{model_, scalar::kernels, model_->semantics};

    Rows rows(int layer, int stage) const { return Rows(stage, record_.at({layer, stage})); }
    Bytes recorded(int layer, int stage) const { return joined(record_.at({layer, stage})); }

    std::string error_of(const ReplayRequest &request) const {
        try {
            replay_.size_of(request);
        } catch (const Error &error) {
            EXPECT_EQ(error.status, Status::invalid);
            return error.what();
        }
        return "accepted";
    }
};

TEST_F(Requests, LinearsTakeIntegersToo) {
    const Rows codes = rows(1, BITNET_STAGE_FFN_NORM | BITNET_STAGE_CODES),
               scales = rows(1, BITNET_STAGE_FFN_NORM | BITNET_STAGE_SCALE),
               acc = rows(1, BITNET_STAGE_FFN_UP | BITNET_STAGE_ACC);
    const RecordedRows from_codes[] = {codes.view, scales.view}, from_acc[] = {scales.view, acc.view};
    EXPECT_EQ(output(replay_, {BITNET_STAGE_FFN_UP, 1, from_codes, nullptr}), recorded(1, BITNET_STAGE_FFN_UP));
    EXPECT_EQ(output(replay_, {BITNET_STAGE_FFN_UP, 1, from_acc, nullptr}), recorded(1, BITNET_STAGE_FFN_UP));
    const RecordedRows codes_alone[] = {codes.view};
    EXPECT_EQ(output(replay_, {BITNET_STAGE_FFN_UP | BITNET_STAGE_ACC, 1, codes_alone, nullptr}),
              recorded(1, BITNET_STAGE_FFN_UP | BITNET_STAGE_ACC));
}

// Probabilities in place of what they were made from, under every semantics that sums with them.
TEST(ReplayAttention, SumsOverGivenProbabilities) {
    for (const char *overrides : {"", "kv=f16,attn_q=f16,attn_p=f16", "kv_heads=interleaved", "kv_swap=attention"}) {
        const auto model = load(overrides);
        const Record record = record_of(model, scalar::kernels);
        const Replay replay(model, scalar::kernels, model->semantics);
        const bool swapped = model->semantics.kv_swap == KvSwap::attention;
        const int summed = swapped ? BITNET_STAGE_K_ROPE : BITNET_STAGE_V_PROJ;
        const Rows values(summed, record.at({1, summed}));
        for (int32_t position = 0; position < n_tokens; ++position) {
            const Rows probabilities(BITNET_STAGE_ATTN_SCORES_SOFTMAX,
                                     {record.at({1, BITNET_STAGE_ATTN_SCORES_SOFTMAX})[size_t(position)]});
            const RecordedRows inputs[] = {values.view, probabilities.view};
            EXPECT_EQ(output(replay, {BITNET_STAGE_ATTN_CONTEXT, 1, inputs, &position}),
                      record.at({1, BITNET_STAGE_ATTN_CONTEXT})[size_t(position)])
                << overrides << " at " << position;
        }
    }
}

TEST_F(Requests, ProbabilitiesOfOnePosition) {
    const std::vector<Bytes> &all = record_.at({1, BITNET_STAGE_ATTN_SCORES_SOFTMAX});
    const Rows fifth(BITNET_STAGE_ATTN_SCORES_SOFTMAX, {all[4]}), v = rows(1, BITNET_STAGE_V_PROJ),
                                                                  k = rows(1, BITNET_STAGE_K_ROPE);
    const int32_t four = 4, five = 5;
    const RecordedRows good[] = {fifth.view, v.view}, alone[] = {fifth.view}, more[] = {fifth.view, v.view, k.view};
    EXPECT_EQ(error_of({BITNET_STAGE_ATTN_CONTEXT, 1, good, &four}), "accepted");
    const size_t width = fifth.view.row_elements;
    EXPECT_EQ(
        error_of({BITNET_STAGE_ATTN_CONTEXT, 1, good, &five}),
        format_text("attn_context of layer 1: rows of %zu elements of attn_scores_softmax: expected %zu at position 5",
                    width, width / 5 * 6));
    EXPECT_EQ(error_of({BITNET_STAGE_ATTN_CONTEXT, 1, alone, &four}),
              "attn_context of layer 1: its input v_proj is missing");
    EXPECT_EQ(error_of({BITNET_STAGE_ATTN_CONTEXT, 1, more, &four}),
              "attn_context of layer 1: k_rope was given, which it is not computed from");
    EXPECT_EQ(error_of({BITNET_STAGE_ATTN_SCORES, 1, good, &four}),
              "attn_scores of layer 1: its input q_rope is missing");
    const auto one_pass = load("attn_sum=f16");
    EXPECT_THROW(
        Replay(one_pass, scalar::kernels, one_pass->semantics).size_of({BITNET_STAGE_ATTN_CONTEXT, 1, good, &four}),
        Error);
}

TEST_F(Requests, SomeRowsAtTheirPositions) {
    const int32_t positions[] = {5, 2};
    const auto two = [&](int stage) {
        const std::vector<Bytes> &all = record_.at({1, stage});
        return Rows(stage, {all[5], all[2]});
    };
    const Rows q = two(BITNET_STAGE_Q_PROJ), turned = two(BITNET_STAGE_Q_ROPE),
               context = two(BITNET_STAGE_ATTN_CONTEXT), k = rows(1, BITNET_STAGE_K_ROPE),
               v = rows(1, BITNET_STAGE_V_PROJ);
    const RecordedRows rope[] = {q.view}, attention[] = {v.view, turned.view, k.view};
    EXPECT_EQ(output(replay_, {BITNET_STAGE_Q_ROPE, 1, rope, positions}), turned.bytes);
    EXPECT_EQ(output(replay_, {BITNET_STAGE_ATTN_CONTEXT, 1, attention, positions}), context.bytes);
    EXPECT_NE(output(replay_, {BITNET_STAGE_Q_ROPE, 1, rope, nullptr}), turned.bytes);
}

TEST_F(Requests, HalvesStridesAndOddAddresses) {
    const std::vector<Bytes> &norms = record_.at({0, BITNET_STAGE_ATTN_NORM});
    std::vector<uint16_t> half, bf16;
    std::vector<float> of_half, of_bf16;
    for (const Bytes &row : norms)
        for (size_t i = 0; i < row.size(); i += 4) {
            float value;
            std::memcpy(&value, row.data() + i, 4);
            half.push_back(float_to_half(value));
            of_half.push_back(half_to_float(half.back()));
            bf16.push_back(uint16_t(__builtin_bit_cast(uint32_t, round_bf16(value)) >> 16));
            of_bf16.push_back(round_bf16(value));
        }
    const auto q_of = [&](int dtype, const void *data, size_t stride) {
        const RecordedRows input[] = {{BITNET_STAGE_ATTN_NORM, dtype, norms.size(), 256, stride, data}};
        return output(replay_, {BITNET_STAGE_Q_PROJ, 0, input, nullptr});
    };
    EXPECT_EQ(q_of(BITNET_DTYPE_F16, half.data(), 512), q_of(BITNET_DTYPE_F32, of_half.data(), 1024));
    EXPECT_EQ(q_of(BITNET_DTYPE_BF16, bf16.data(), 512), q_of(BITNET_DTYPE_F32, of_bf16.data(), 1024));
    Bytes apart(1 + norms.size() * 1031);
    for (size_t r = 0; r < norms.size(); ++r) std::memcpy(apart.data() + 1 + r * 1031, norms[r].data(), 1024);
    EXPECT_EQ(q_of(BITNET_DTYPE_F32, apart.data() + 1, 1031), recorded(0, BITNET_STAGE_Q_PROJ));
}

TEST_F(Requests, TheResidualStreamByBothNames) {
    Rows in = rows(0, BITNET_STAGE_LAYER_OUT), branch = rows(1, BITNET_STAGE_ATTN_OUT);
    in.view.stage = BITNET_STAGE_EMBEDDINGS;
    const RecordedRows inputs[] = {branch.view, in.view};
    EXPECT_EQ(output(replay_, {BITNET_STAGE_ATTN_RESIDUAL, 1, inputs, nullptr}),
              recorded(1, BITNET_STAGE_ATTN_RESIDUAL));
}

TEST_F(Requests, RefusedByName) {
    const Rows norm = rows(1, BITNET_STAGE_ATTN_NORM), q = rows(1, BITNET_STAGE_Q_ROPE),
               k = rows(1, BITNET_STAGE_K_ROPE), v = rows(1, BITNET_STAGE_V_PROJ),
               codes = rows(1, BITNET_STAGE_ATTN_NORM | BITNET_STAGE_CODES), gate = rows(1, BITNET_STAGE_FFN_GATE),
               up = rows(1, BITNET_STAGE_FFN_UP);
    const auto error = [&](int stage, int layer, std::vector<RecordedRows> inputs, const int32_t *positions = nullptr) {
        return error_of({stage, layer, inputs, positions});
    };
    const auto with = [](RecordedRows view, auto change) {
        change(view);
        return view;
    };
    EXPECT_EQ(error(99, 1, {}), "stage 99: there is no such stage");
    EXPECT_EQ(error(BITNET_STAGE_Q_PROJ | BITNET_STAGE_CODES, 1, {}), "stage 259: there is no such stage");
    EXPECT_EQ(error(BITNET_STAGE_Q_PROJ, 3, {norm.view}), "q_proj: layer 3: expected 0 to 2");
    EXPECT_EQ(error(BITNET_STAGE_Q_PROJ, -1, {norm.view}), "q_proj: layer -1: expected 0 to 2");
    EXPECT_EQ(error(BITNET_STAGE_LOGITS, 0, {norm.view}), "logits: layer 0: expected -1");
    EXPECT_EQ(error(BITNET_STAGE_Q_PROJ, 1, {}),
              "q_proj of layer 1: its input attn_norm, or its codes and scales, is missing");
    EXPECT_EQ(error(BITNET_STAGE_Q_PROJ, 1, {codes.view}),
              "q_proj of layer 1: its input attn_norm, or its codes and scales, is missing");
    EXPECT_EQ(error(BITNET_STAGE_FFN_ACT, 1, {gate.view}), "ffn_act of layer 1: its input ffn_up is missing");
    EXPECT_EQ(error(BITNET_STAGE_EMBEDDINGS, -1, {}), "embeddings: the token ids are missing");
    EXPECT_EQ(error(BITNET_STAGE_Q_PROJ, 1, {norm.view, norm.view}), "q_proj of layer 1: attn_norm was given twice");
    EXPECT_EQ(error(BITNET_STAGE_Q_PROJ, 1, {norm.view, gate.view}),
              "q_proj of layer 1: ffn_gate was given, which it is not computed from");
    EXPECT_EQ(error(BITNET_STAGE_Q_PROJ, 1, {with(norm.view, [](auto &r) { r.row_elements = 255; })}),
              "q_proj of layer 1: rows of 255 elements of attn_norm: expected 256");
    EXPECT_EQ(error(BITNET_STAGE_Q_PROJ, 1, {with(norm.view, [](auto &r) { r.dtype = BITNET_DTYPE_I8; })}),
              "q_proj of layer 1: attn_norm of dtype 3 (I8): expected F32, F16 or BF16");
    EXPECT_EQ(error(BITNET_STAGE_Q_PROJ | BITNET_STAGE_ACC, 1, {with(codes.view, [](auto &r) { r.dtype = 9; })}),
              "q_proj.acc of layer 1: attn_norm.codes of dtype 9 (unknown): expected I8");
    EXPECT_EQ(error(BITNET_STAGE_Q_PROJ, 1, {with(norm.view, [](auto &r) { r.n_rows = 0; })}),
              "q_proj of layer 1: 0 rows of attn_norm: expected 1 to 1048576");
    EXPECT_EQ(error(BITNET_STAGE_Q_PROJ, 1, {with(norm.view, [](auto &r) { r.data = nullptr; })}),
              "q_proj of layer 1: the rows of attn_norm are NULL");
    EXPECT_EQ(error(BITNET_STAGE_Q_PROJ, 1, {with(norm.view, [](auto &r) { r.row_stride = 1023; })}),
              "q_proj of layer 1: rows of attn_norm are 1023 bytes apart: expected at least 1024");
    EXPECT_EQ(error(BITNET_STAGE_Q_PROJ, 1, {with(norm.view, [](auto &r) { r.stage = 77; })}),
              "q_proj of layer 1: input stage 77: there is no such stage");
    EXPECT_EQ(error(BITNET_STAGE_FFN_ACT, 1, {gate.view, with(up.view, [](auto &r) { r.n_rows = 3; })}),
              "ffn_act of layer 1: 3 rows of ffn_up: expected 7, as of ffn_gate");
    EXPECT_EQ(error(BITNET_STAGE_ATTN_CONTEXT, 1, {q.view, k.view, with(v.view, [](auto &r) { r.n_rows = 6; })}),
              "attn_context of layer 1: 6 rows of v_proj: expected 7, one for each position from 0");
    const int32_t beyond[7] = {0, 1, 2, 3, 4, 5, 1 << 20}, negative[7] = {0, 1, 2, -3};
    EXPECT_EQ(error(BITNET_STAGE_Q_PROJ, 1, {norm.view}, beyond),
              "q_proj of layer 1: position 1048576 of row 6: expected 0 to 1048575");
    EXPECT_EQ(error(BITNET_STAGE_Q_PROJ, 1, {norm.view}, negative),
              "q_proj of layer 1: position -3 of row 3: expected 0 to 1048575");

    const int32_t tokens[] = {0, 512};
    const RecordedRows ids[] = {{0, BITNET_DTYPE_I32, 2, 1, 4, tokens}};
    std::vector<float> out(512);
    EXPECT_THROW(replay_.run({BITNET_STAGE_EMBEDDINGS, -1, ids, nullptr}, out.data()), Error);
}

TEST(ReplaySemantics, WhatAModelCannotHaveIsRefused) {
    const auto model = load();
    const auto error = [&](const char *overrides) -> std::string {
        Semantics semantics = model->semantics;
        apply_overrides(semantics, overrides);
        try {
            Replay(model, scalar::kernels, semantics);
        } catch (const Error &e) {
            EXPECT_EQ(e.status, Status::invalid);
            return e.what();
        }
        return "accepted";
    };
    EXPECT_EQ(error("activation@3=silu"), "semantics: layer 3: the model has layers 0 to 2");
    EXPECT_EQ(error("head_tied=off"), "semantics: head_tied: chosen when a model is loaded: expected 'on'");
    EXPECT_EQ(error("activation@2=silu"), "accepted");
    EXPECT_EQ(error("sub_norms=off"), "accepted");
}

// Other threads' replays share the model alone.
TEST(ReplayThreads, ManyAtOnce) {
    const auto model = load();
    const Record record = record_of(model, scalar::kernels);
    std::vector<std::thread> threads;
    std::vector<int> n_equal(4, 0);
    for (size_t t = 0; t < n_equal.size(); ++t)
        threads.emplace_back([&, t] {
            const Replay replay(model, scalar::kernels, model->semantics);
            for (const OperationInfo &info : replay.operations())
                n_equal[t] += replayed(replay, info, record) == joined(record.at({info.layer, info.stage}));
        });
    for (std::thread &thread : threads) thread.join();
    for (const int n : n_equal) EXPECT_EQ(size_t(n), record.size());
}

}  // namespace
}  // namespace bitnet
