// MLT-01: statistics, anomalies, and which stage is blamed for them.
#include <cmath>
#include <limits>

#include "tests/plugins/modeltracer_fixture.h"

namespace bitnet::test {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();
const std::string kOnly = "preset=lightweight";

using ModelTracerHealth = ModelTracer;

TEST_F(ModelTracerHealth, StatisticsOfAHandfulOfValues) {
    begin(kOnly);
    row(BITNET_STAGE_EMBEDDINGS, -1, 0, {3, 4, 0, 5});
    row(BITNET_STAGE_ATTN_NORM, 0, 0, {1, 2, 3, 6});
    row(BITNET_STAGE_ATTN_OUT, 0, 0, {0, 3, 0, 4});
    row(BITNET_STAGE_LAYER_OUT, 0, 0, {9, 12, 0, 0});
    end();
    const std::vector<json> found = records("activation");
    ASSERT_EQ(found.size(), 2u);
    EXPECT_EQ(found[0].at("layer"), -1);
    const json &layer = found[1];
    EXPECT_EQ(layer.at("input"), found[0].at("embeddings"));
    const json norm = layer.at("post_norm");
    EXPECT_EQ(norm.at("count"), 4);
    EXPECT_EQ(norm.at("min"), 1);
    EXPECT_EQ(norm.at("max"), 6);
    EXPECT_EQ(norm.at("mean"), 3);
    EXPECT_NEAR(norm.at("std").get<double>(), std::sqrt(14.0 / 3), 1e-8);  // (4 + 1 + 0 + 9) / (4 - 1)
    EXPECT_NEAR(norm.at("l2_norm").get<double>(), std::sqrt(50.0), 1e-7);
    EXPECT_TRUE(layer.at("residual").is_null());  // not delivered
    EXPECT_TRUE(layer.at("post_ffn").is_null());
    EXPECT_EQ(layer.at("residual_ratio"), 0.75);  // 15 / (15 + 5)
    EXPECT_TRUE(records("anomaly").empty());
}

TEST_F(ModelTracerHealth, StatisticsLeaveOutWhatIsNotFinite) {
    begin(kOnly);
    row(BITNET_STAGE_ATTN_OUT, 0, 0, {kNan, 2, kInf, 4});
    row(BITNET_STAGE_FFN_OUT, 0, 0, {kNan, kNan, kNan, kNan});
    row(BITNET_STAGE_LAYER_OUT, 0, 0, {1, 2, 3, 4});
    end();
    const json layer = one("activation"), attn = layer.at("post_attn"), ffn = layer.at("post_ffn");
    EXPECT_EQ(attn.at("count"), 4);
    EXPECT_EQ(attn.at("nan_count"), 1);
    EXPECT_EQ(attn.at("inf_count"), 1);
    EXPECT_EQ(attn.at("mean"), 3);
    EXPECT_EQ(attn.at("min"), 2);
    EXPECT_EQ(ffn.at("nan_count"), 4);
    EXPECT_EQ(ffn.at("max"), 0);
    EXPECT_EQ(ffn.at("std"), 0);
}

// A large offset: a sum of squares minus the squared mean would leave nothing of the spread.
TEST_F(ModelTracerHealth, StandardDeviationKeepsItsDigits) {
    begin(kOnly);
    std::vector<float> values(1000);
    for (size_t i = 0; i < values.size(); ++i) values[i] = 900000 + float(i);
    row(BITNET_STAGE_ATTN_NORM, 0, 0, values);
    end();
    EXPECT_NEAR(one("activation").at("post_norm").at("std").get<double>(), std::sqrt(1000.0 * 1001 / 12), 1e-5);
}

struct Planted {
    std::string name;
    int32_t stage;
    std::vector<float> values;
    int index;  // -1: of no element
};

class ModelTracerPlanted : public ModelTracer, public ::testing::WithParamInterface<Planted> {};

TEST_P(ModelTracerPlanted, IsFoundWhereItArisesAndOnlyThere) {
    const Planted &planted = GetParam();
    begin(kOnly);
    row(BITNET_STAGE_EMBEDDINGS, -1, 1, {1, -1, 2, 0.5f});
    healthy_layer(0, 1);
    healthy_layer(1, 1, BITNET_STAGE_ATTN_NORM, planted.stage - 1);
    row(planted.stage, 1, 1, planted.values);
    end();
    const json found = one("anomaly");
    EXPECT_EQ(found.at("class"), planted.name);
    EXPECT_EQ(found.at("seq"), 1);
    EXPECT_EQ(found.at("layer"), 1);
    EXPECT_EQ(found.at("inputs"), "healthy");
    if (planted.index >= 0) {
        EXPECT_EQ(found.at("index"), planted.index);
    } else {
        EXPECT_TRUE(found.at("index").is_null());
    }
    const json forward = one("forward");
    EXPECT_EQ(forward.at("anomalies"), 1);
    EXPECT_EQ(forward.at("propagated"), 0);
    EXPECT_EQ(forward.at("first_anomaly"), found.at("text"));
    ASSERT_EQ(logged().size(), 1u);  // in the log too
    EXPECT_EQ(logged()[0], "sink 'modeltracer': first anomaly: " + found.at("text").get<std::string>());
}

INSTANTIATE_TEST_SUITE_P(Each, ModelTracerPlanted,
                         ::testing::Values(Planted{"nan", BITNET_STAGE_FFN_ACT, {1, kInf, kNan, kNan}, 2},
                                           Planted{"inf", BITNET_STAGE_Q_ROPE, {1, 2, -kInf, kInf}, 2},
                                           Planted{"inf", BITNET_STAGE_ATTN_SCORES, {-kInf, kInf, 1, 1}, 1},
                                           Planted{"explosion", BITNET_STAGE_ATTN_CONTEXT, {1, -1000001, 3e6f, 0}, 1},
                                           Planted{"explosion", BITNET_STAGE_FFN_ACT, {0, 0, 1.1e12f, 0}, 2},
                                           Planted{"variance", BITNET_STAGE_ATTN_OUT, {-20000, 20000, 0, 0}, -1},
                                           Planted{"vanishing", BITNET_STAGE_ATTN_NORM, {1, 1, 1, 1}, -1}));

class ModelTracerHealthy : public ModelTracer, public ::testing::WithParamInterface<Planted> {};

TEST_P(ModelTracerHealthy, IsNoAnomaly) {
    begin(kOnly);
    healthy_layer(0, 0);
    row(GetParam().stage, 1, 0, GetParam().values);
    end();
    EXPECT_TRUE(records("anomaly").empty());
    EXPECT_EQ(one("forward").at("propagated"), 0);
}

INSTANTIATE_TEST_SUITE_P(Each, ModelTracerHealthy,
                         ::testing::Values(Planted{"a million", BITNET_STAGE_FFN_GATE, {1e6f, -1e6f, 0, 0}, 0},
                                           Planted{"a product", BITNET_STAGE_FFN_ACT, {0.9e12f, 0, 0, 0}, 0},
                                           Planted{"a mask", BITNET_STAGE_ATTN_SCORES, {1, -kInf, -kInf, 2}, 0},
                                           Planted{"no point", BITNET_STAGE_FFN_GATE, {0, 0, 0, 0}, 0},
                                           Planted{"spread", BITNET_STAGE_FFN_OUT, {0, 0, 15000, 0}, 0}));

TEST_F(ModelTracerHealth, WhatFollowsIsOnlyCounted) {
    begin(kOnly);
    healthy_layer(0, 0, BITNET_STAGE_ATTN_NORM, BITNET_STAGE_FFN_ACT);
    row(BITNET_STAGE_FFN_SUB_NORM, 0, 0, {1, kNan, 2, 3});
    for (int32_t stage : {BITNET_STAGE_FFN_OUT, BITNET_STAGE_LAYER_OUT}) row(stage, 0, 0, {kNan, kNan, kNan, kNan});
    row(BITNET_STAGE_FINAL_NORM, -1, 0, {kNan, 1, 1, 2});
    end();
    EXPECT_EQ(one("anomaly").at("stage"), "ffn_sub_norm");
    EXPECT_EQ(one("forward").at("propagated"), 3);
    EXPECT_EQ(one("summary").at("propagated"), 3);
}

// Stages are optional where an architecture or the default selection has none: the look goes through them.
TEST_F(ModelTracerHealth, ASickInputIsSeenThroughStagesThatAreNotThere) {
    begin(kOnly);
    row(BITNET_STAGE_ATTN_CONTEXT, 0, 0, {kNan, 1, 1, 1});
    row(BITNET_STAGE_ATTN_OUT, 0, 0, {kNan, 1, 1, 1});
    end();
    const json found = one("anomaly");
    EXPECT_EQ(found.at("stage"), "attn_context");
    EXPECT_EQ(found.at("inputs"), "not traced");
}

TEST_F(ModelTracerHealth, AHealthyInputWithoutSubNorms) {
    begin(kOnly);
    row(BITNET_STAGE_ATTN_CONTEXT, 0, 0, {1, 1, 1, 2});
    row(BITNET_STAGE_ATTN_OUT, 0, 0, {1, 1, kNan, 1});
    end();
    EXPECT_EQ(one("anomaly").at("stage"), "attn_out");
    EXPECT_EQ(one("anomaly").at("inputs"), "healthy");
}

TEST_F(ModelTracerHealth, ALinearThatNobodySelectedMayBeWhereItArises) {
    begin(kOnly);
    row(BITNET_STAGE_ATTN_RESIDUAL, 0, 0, {1, 1, 1, 2});
    row(BITNET_STAGE_FFN_SUB_NORM, 0, 0, {1, 1, 1, 2});
    row(BITNET_STAGE_LAYER_OUT, 0, 0, {1, 1, kNan, 1});  // ffn_out is missing
    end();
    EXPECT_EQ(one("anomaly").at("stage"), "layer_out");
    EXPECT_EQ(one("anomaly").at("inputs"), "not traced");
}

TEST_F(ModelTracerHealth, TheInputOfALayerIsTheOutputOfTheOneBefore) {
    begin(kOnly);
    healthy_layer(0, 0);
    healthy_layer(2, 0);  // layer 1 was not selected
    healthy_layer(3, 0);
    end();
    const std::vector<json> found = records("activation");
    ASSERT_EQ(found.size(), 3u);
    EXPECT_TRUE(found[0].at("input").is_null());
    EXPECT_TRUE(found[1].at("input").is_null());
    EXPECT_EQ(found[2].at("input"), found[1].at("output"));
}

// Attention reads the keys and values of earlier tokens.
TEST_F(ModelTracerHealth, AnEarlierTokensValueIsAnInput) {
    begin(kOnly);
    row(BITNET_STAGE_V_PROJ, 2, 1, {1, kNan, 1, 1});
    end();
    host.begin_run();
    step(0, {1, 2, 3});
    for (int32_t position : {0, 1, 2}) {
        for (int32_t stage : {BITNET_STAGE_ATTN_NORM, BITNET_STAGE_Q_PROJ, BITNET_STAGE_K_PROJ, BITNET_STAGE_Q_ROPE,
                              BITNET_STAGE_K_ROPE})
            row(stage, 2, position, {1, 2, 1, 1});
        row(BITNET_STAGE_V_PROJ, 2, position, {1, position == 1 ? kInf : 2, 1, 1});
    }
    for (int32_t position : {0, 1, 2}) row(BITNET_STAGE_ATTN_CONTEXT, 2, position, {kInf, 1, 1, 1});
    trace_host_end_step(host.host, BITNET_OK);
    step(3, {4});
    row(BITNET_STAGE_ATTN_CONTEXT, 2, 3, {kInf, 1, 1, 1});
    end();
    const std::vector<json> found = records("anomaly");
    ASSERT_EQ(found.size(), 3u);  // the run before was another one
    EXPECT_EQ(found[1].at("stage"), "v_proj");
    EXPECT_EQ(found[1].at("seq"), 1);
    EXPECT_EQ(found[2].at("stage"), "attn_context");  // of position 0, which cannot see position 1
    EXPECT_EQ(found[2].at("seq"), 0);
    const std::vector<json> forwards = records("forward");
    EXPECT_EQ(forwards[1].at("propagated"), 2);
    EXPECT_EQ(forwards[2].at("propagated"), 1);
    EXPECT_EQ(records("summary")[1].at("summary").at("anomalies_detected"), 2);
}

// A foreign engine may say what each operation read.
TEST_F(ModelTracerHealth, InputsThatTheEngineNames) {
    std::vector<float> sick = {1, kNan}, healthy = {1, 2}, out = {kNan, 1};
    begin(kOnly);
    bitnet_tensor_input_t input = {};
    input.name = "weights";
    input.n_dims = 1;
    input.shape[0] = input.row_elements = 2;
    for (std::vector<float> *from : {&healthy, &sick}) {
        input.data = from->data();
        bitnet_tensor_event_t rows = {};
        rows.stage_name = "their_own";
        rows.n_rows = rows.n_dims = rows.n_inputs = 1;
        rows.shape[0] = rows.row_elements = 2;
        rows.row_stride = 8;
        rows.data = out.data();
        rows.inputs = &input;
        trace_host_tensor(host.host, &rows, nullptr);
    }
    end();
    const json found = one("anomaly");
    EXPECT_EQ(found.at("stage"), "their_own");
    EXPECT_EQ(found.at("inputs"), "healthy");
    EXPECT_EQ(one("forward").at("propagated"), 1);
}

TEST_F(ModelTracerHealth, ResidualDominance) {
    begin(kOnly);
    row(BITNET_STAGE_ATTN_OUT, 0, 0, {1, -1, 0, 0});
    row(BITNET_STAGE_LAYER_OUT, 0, 0, {100, -100, 0, 0});  // 100 / 101
    row(BITNET_STAGE_ATTN_OUT, 1, 0, {1, -1, 0, 0});
    row(BITNET_STAGE_LAYER_OUT, 1, 0, {98, -98, 0, 0});  // 98 / 99 < 0.99
    end();
    const json found = one("anomaly");
    EXPECT_EQ(found.at("class"), "residual");
    EXPECT_EQ(found.at("layer"), 0);
    EXPECT_NEAR(found.at("value").get<double>(), 100.0 / 101, 1e-8);
}

TEST_F(ModelTracerHealth, HalfPrecisionRows) {
    begin(kOnly);
    // 1, -2, the smallest subnormal, 65504; then NaN
    std::vector<uint16_t> f16 = {0x3c00, 0xc000, 0x0001, 0x7bff, 0x3c00, 0xfc00, 0x7e00, 0x8001};
    bitnet_tensor_event_t rows = {};
    rows.stage = BITNET_STAGE_FFN_OUT;
    rows.dtype = BITNET_DTYPE_F16;
    rows.n_rows = 2;
    rows.n_dims = 1;
    rows.shape[0] = rows.row_elements = 4;
    rows.row_stride = 8;
    rows.data = f16.data();
    trace_host_tensor(host.host, &rows, nullptr);
    std::vector<uint16_t> bf16 = {0x3f80, 0x4000, 0xc040, 0x0000};  // 1, 2, -3, 0
    rows.stage = BITNET_STAGE_ATTN_NORM;
    rows.dtype = BITNET_DTYPE_BF16;
    rows.header.layer = 1;
    rows.n_rows = 1;
    rows.data = bf16.data();
    trace_host_tensor(host.host, &rows, nullptr);
    end();
    const std::vector<json> found = records("activation");
    ASSERT_EQ(found.size(), 3u);
    EXPECT_EQ(found[0].at("post_ffn").at("max"), 65504);
    EXPECT_EQ(found[0].at("post_ffn").at("min"), -2);
    EXPECT_NEAR(found[0].at("post_ffn").at("mean").get<double>(), (65503 + 0x1p-24) / 4, 1e-4);
    EXPECT_EQ(found[1].at("post_norm").at("l2_norm").get<double>(), 3.74165739);
    EXPECT_EQ(found[2].at("post_ffn").at("nan_count"), 1);
    EXPECT_EQ(found[2].at("post_ffn").at("inf_count"), 1);
    EXPECT_EQ(found[2].at("post_ffn").at("min").get<float>(), -0x1p-24f);
}

TEST_F(ModelTracerHealth, ADamagedModelDoesNotFillTheDisk) {
    std::vector<int32_t> tokens(200, 1);
    begin(kOnly, 0, tokens);
    for (int32_t position = 0; position < 200; ++position) row(BITNET_STAGE_ATTN_NORM, 0, position, {kNan, 1, 2, 3});
    end();
    EXPECT_EQ(records("anomaly").size(), 64u);
    EXPECT_EQ(one("forward").at("anomalies"), 200);
    EXPECT_EQ(one("summary").at("anomalies").at("nan"), 200);
    EXPECT_EQ(logged().size(), 1u);
}

TEST_F(ModelTracerHealth, ThresholdsAreConfigurable) {
    begin(kOnly + ",explosion=10,variance=1e2,vanishing=0,residual=2");
    row(BITNET_STAGE_FFN_GATE, 0, 0, {11, 0, 0, 0});
    row(BITNET_STAGE_ATTN_OUT, 0, 0, {0, 0, 0, 0});
    row(BITNET_STAGE_LAYER_OUT, 0, 0, {1, 1, 2, 1});
    end();
    EXPECT_EQ(one("anomaly").at("limit"), 10);
    EXPECT_EQ(one("modeltracer").at("variance"), 100);
}

}  // namespace
}  // namespace bitnet::test
