// MLT-02 to MLT-05 and the whole: small numbers that can be checked by hand.
#include <cmath>
#include <limits>
#include <sys/wait.h>

#include "tests/plugins/modeltracer_fixture.h"

namespace bitnet::test {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// MLT-02

TEST_F(ModelTracer, AHeadsLargestWeights) {
    begin("attention=1,top_k=3,logits=0,quantisation=0", 0);
    attention(0, 3, {{0.2f, 0.2f, 0.5f, 0.1f}, {0.995f, 0.004f, 0.0005f, 0.0005f}});
    end();
    const json record = one("attention");
    EXPECT_EQ(record.at("seq"), 3);
    EXPECT_EQ(record.at("n_kv"), 4);
    const json first = record.at("heads")[0], second = record.at("heads")[1];
    EXPECT_EQ(first.at("top_k_positions"), (std::vector<int>{2, 0, 1}));  // ties to the earliest
    EXPECT_NEAR(first.at("tail_mass").get<double>(), 0.1, 1e-7);
    EXPECT_NEAR(first.at("entropy").get<double>(), -(0.4 * std::log(0.2) + 0.5 * std::log(0.5) + 0.1 * std::log(0.1)),
                1e-7);
    EXPECT_FALSE(first.at("sink"));
    EXPECT_TRUE(first.at("recency"));                                // a window of 5 holds all of it
    EXPECT_EQ(second.at("top_k_positions"), (std::vector<int>{0}));  // the others are below 0.01
    EXPECT_NEAR(second.at("tail_mass").get<double>(), 0.005, 1e-7);
    EXPECT_TRUE(second.at("sink"));
    EXPECT_TRUE(second.at("collapse"));
    EXPECT_EQ(one("summary").at("summary").at("attention_traces"), 2);
    EXPECT_TRUE(records("anomaly").empty());
}

TEST_F(ModelTracer, AHeadWithoutAChoiceIsNeitherSinkNorCollapse) {
    begin("logits=0,quantisation=0");
    attention(0, 0, {{1}});
    attention(1, 1, {{kNan, kNan}});
    end();
    for (const json &record : records("attention")) {
        for (const char *flag : {"sink", "uniform", "recency", "collapse"})
            EXPECT_FALSE(record.at("heads")[0].at(flag));
    }
}

std::vector<float> peak(size_t n, size_t at, float weight) {
    std::vector<float> out(n, (1 - weight) / float(n - 1));
    out[at] = weight;
    return out;
}

struct Layer {
    std::string anomaly;
    std::vector<float> (*head)(size_t n_kv);
};
class ModelTracerAttention : public ModelTracer, public ::testing::WithParamInterface<Layer> {};

TEST_P(ModelTracerAttention, ALayerThatLooksAtNothingElseAnyMore) {
    begin("logits=0,quantisation=0", 0, std::vector<int32_t>(20, 1));
    for (int32_t position = 5; position < 20; ++position) {
        const size_t n_kv = size_t(position) + 1;
        const auto head = GetParam().head(n_kv);
        attention(2, position, {head, head});
        attention(3, position, {head, peak(n_kv, n_kv - 1, 0.6f)});                  // one head of two
        attention(4, position, {position % 4 ? head : peak(n_kv, n_kv - 1, 0.6f)});  // not four times running
    }
    end();
    const json found = one("anomaly");
    EXPECT_EQ(found.at("class"), GetParam().anomaly);
    EXPECT_EQ(found.at("layer"), 2);
    EXPECT_EQ(found.at("seq"), 10);  // from 8 positions on, which is position 7, the fourth
}

INSTANTIATE_TEST_SUITE_P(
    Each, ModelTracerAttention,
    ::testing::Values(Layer{"attention_sink", [](size_t n) { return peak(n, 0, 0.7f); }},
                      Layer{"attention_collapse", [](size_t n) { return peak(n, n - 2, 0.9999f); }},
                      Layer{"attention_uniform", [](size_t n) { return std::vector<float>(n, 1 / float(n)); }}));

// MLT-03

TEST_F(ModelTracer, ATokenOnItsWayThroughTheLayers) {
    begin("quantisation=0,attention=0,track=3,top=2", 0, {1, 2});
    // The logits of a layer: its four values, their sum, 0.
    row(BITNET_STAGE_LAYER_OUT, 0, 1, {4, 3, 2, 1});
    row(BITNET_STAGE_LAYER_OUT, 1, 1, {1, 2, 4, -1});
    row(BITNET_STAGE_LAYER_OUT, 2, 1, {1, -2, 9, -3});
    row(BITNET_STAGE_LAYER_OUT, 0, 0, {9, 9, 9, 9});  // not the last position
    row(BITNET_STAGE_LOGITS, -1, 1, {1, -2, 9, -3, 5, 0});
    end();
    const json record = one("logits");
    EXPECT_EQ(record.at("seq"), 1);
    EXPECT_EQ(record.at("layers"), (std::vector<int>{0, 1, 2}));
    EXPECT_EQ(record.at("best_token"), 2);
    const json tokens = record.at("tracked_tokens");
    ASSERT_EQ(tokens.size(), 3u);
    EXPECT_EQ(tokens[0].at("token_id"), 3);
    EXPECT_EQ(tokens[0].at("tracked"), true);
    EXPECT_EQ(tokens[0].at("per_layer_logit"), (std::vector<float>{1, -1, -3}));
    EXPECT_EQ(tokens[0].at("per_layer_rank"), (std::vector<int>{4, 5, 5}));
    EXPECT_EQ(tokens[0].at("decisive_layer"), 1);
    EXPECT_EQ(tokens[1].at("token_id"), 2);
    EXPECT_EQ(tokens[1].at("per_layer_rank"), (std::vector<int>{3, 1, 0}));  // 10 4 3 2 1 0, then 6 4 2, then 9
    EXPECT_EQ(tokens[1].at("decisive_layer"), 1);
    EXPECT_EQ(record.at("decisive_layer"), 1);  // of the best token; not the last layer that was recorded
    EXPECT_EQ(tokens[2].at("token_id"), 4);
    EXPECT_EQ(tokens[2].at("per_layer_rank"), (std::vector<int>{0, 0, 1}));
    const double sum = std::exp(1.) + std::exp(-2.) + std::exp(9.) + std::exp(-3.) + std::exp(5.) + 1;
    EXPECT_NEAR(tokens[1].at("final_probability").get<double>(), std::exp(9.) / sum, 1e-8);
    EXPECT_EQ(tokens[1].at("final_rank"), 0);
    EXPECT_EQ(one("summary").at("summary").at("logit_traces"), 1);
}

TEST_F(ModelTracer, WithoutTheLogitsTheLastLayerSaysThem) {
    begin("quantisation=0,attention=0,top=1", 0, {1});
    row(BITNET_STAGE_LAYER_OUT, 0, 0, {4, 3, 2, 1});
    row(BITNET_STAGE_LAYER_OUT, 3, 0, {4, 3, -20, 1});
    end();
    const json record = one("logits");
    EXPECT_EQ(record.at("layers"), (std::vector<int>{0, 3}));
    EXPECT_EQ(record.at("best_token"), 0);
    EXPECT_EQ(record.at("decisive_layer"), 3);
}

TEST_F(ModelTracer, NanIsBelowEveryNumber) {
    begin("quantisation=0,attention=0,activations=0,track=1,top=1", 0, {1});
    row(BITNET_STAGE_LAYER_OUT, 0, 0, {4, kNan, 2, 1});
    row(BITNET_STAGE_LOGITS, -1, 0, {kNan, 3, kNan, kNan, kNan, kNan});
    end();
    const json record = one("logits");
    ASSERT_EQ(record.at("tracked_tokens").size(), 1u);  // the best one is the tracked one
    EXPECT_EQ(record.at("tracked_tokens")[0].at("per_layer_logit")[0], "NaN");
    EXPECT_EQ(record.at("tracked_tokens")[0].at("per_layer_rank")[0], 4);  // 4, 2, 1 and 0; the sum is NaN too
    EXPECT_EQ(record.at("tracked_tokens")[0].at("final_rank"), 0);
}

// MLT-04

struct Verdict {
    float off;  // of the second value, the first being 1: cosine = 1 / sqrt(1 + off^2)
    const char *verdict;
};
class ModelTracerVerdict : public ModelTracer, public ::testing::WithParamInterface<Verdict> {};

TEST_P(ModelTracerVerdict, OfACosine) {
    begin("attention=0,logits=0", 0, {1});
    engine.linear = {1, 0};
    row(BITNET_STAGE_FFN_UP, 2, 0, {1, GetParam().off});
    end();
    const json record = one("quantisation");
    EXPECT_EQ(record.at("verdict"), GetParam().verdict);
    const double off = double(GetParam().off);
    EXPECT_NEAR(record.at("cosine_similarity").get<double>(), 1 / std::sqrt(1 + off * off), 1e-9);
    EXPECT_NEAR(record.at("mse").get<double>(), off * off / 2, 1e-9);
    EXPECT_NEAR(record.at("max_abs_error").get<double>(), off, 1e-8);
    EXPECT_NEAR(record.at("snr_db").get<double>(), -20 * std::log10(off), 1e-6);
    const bool critical = std::string(GetParam().verdict) == "critical";
    EXPECT_EQ(records("anomaly").size(), critical ? 1u : 0u);
    EXPECT_EQ(one("summary").at("summary").at("quant_criticals"), critical ? 1 : 0);
}

INSTANTIATE_TEST_SUITE_P(Each, ModelTracerVerdict,
                         ::testing::Values(Verdict{0.1f, "ok"}, Verdict{0.1005f, "warning"}, Verdict{0.142f, "warning"},
                                           Verdict{0.1425f, "critical"}));

// Both ends of the warning zone belong to it: cosines 3/5 and 4/5 are exact.
TEST_F(ModelTracer, TheEndsOfTheWarningZone) {
    begin("attention=0,logits=0,activations=0,quant_ok=0.8,quant_critical=0.6", 0, {1});
    engine.linear = {1, 0};
    row(BITNET_STAGE_Q_PROJ, 0, 0, {4, 3});
    row(BITNET_STAGE_K_PROJ, 0, 0, {3, 4});
    row(BITNET_STAGE_V_PROJ, 0, 0, {0, 0});
    engine.linear = {0, 0};
    row(BITNET_STAGE_ATTN_OUT, 0, 0, {0, 0});
    engine.linear = {kNan, 0};
    row(BITNET_STAGE_FFN_OUT, 0, 0, {1, 0});
    row(BITNET_STAGE_FFN_ACT, 0, 0, {1, 0});  // no linear
    end();
    std::vector<std::string> verdicts;
    for (const json &record : records("quantisation")) verdicts.push_back(record.at("verdict"));
    EXPECT_EQ(verdicts, (std::vector<std::string>{"warning", "warning", "critical", "ok", "critical"}));
    EXPECT_EQ(records("quantisation")[3].at("snr_db"), "Infinity");
    EXPECT_EQ(one("summary").at("summary").at("quant_warnings"), 2);
}

TEST_F(ModelTracer, WhatQuantisationCostsAtTheLogits) {
    begin("attention=0,logits=0,activations=0", 0, {1, 2});
    const double ln2 = std::log(2.0);
    // Probabilities 1/2, 1/4, 1/4 and, without quantisation, 1/4, 1/2, 1/4: KL = 1/2 ln 2 - 1/4 ln 2
    engine.logits = {float(ln2), float(2 * ln2), float(ln2)};
    std::vector<float> row_of = {float(2 * ln2), float(ln2), float(ln2)};
    host.tensor(BITNET_STAGE_LOGITS, -1, 1, row_of, 1);
    trace_host_end_step(host.host, BITNET_OK);
    step(2, {1});  // what came next
    host.tensor(BITNET_STAGE_LOGITS, -1, 2, row_of, 1);
    end();
    const json first = records("quantisation_logits")[0];
    EXPECT_NEAR(first.at("kl_divergence").get<double>(), ln2 / 4, 1e-7);
    EXPECT_NEAR(first.at("cosine_similarity").get<double>(), 5.0 / 6, 1e-7);
    const json likelihood = one("likelihood");
    EXPECT_EQ(likelihood.at("seq"), 1);
    EXPECT_EQ(likelihood.at("next_token"), 1);
    EXPECT_NEAR(likelihood.at("nll").get<double>(), 2 * ln2, 1e-7);
    const json summary = one("summary").at("quantisation");
    EXPECT_NEAR(summary.at("perplexity").get<double>(), 4, 1e-6);
    EXPECT_NEAR(summary.at("perplexity_unquantised").get<double>(), 2, 1e-6);
    EXPECT_NEAR(summary.at("perplexity_delta").get<double>(), 2, 1e-6);
    EXPECT_EQ(one("summary").at("anomalies").at("quantised_logits"), 2);
}

TEST_F(ModelTracer, AReferenceThatCannotBeHadIsCounted) {
    begin("attention=0,logits=0", 0, {1});
    row(BITNET_STAGE_FFN_UP, 2, 0, {1, 2});
    row(BITNET_STAGE_LOGITS, -1, 0, {1, 2});
    end();
    EXPECT_EQ(one("summary").at("quantisation").at("missing"), 2);
    EXPECT_EQ(one("summary").at("quantisation").at("perplexity"), "NaN");
}

// MLT-05

bitnet_kv_state_t state_of(int32_t n_valid, uint64_t n_hits, uint64_t n_misses, uint64_t n_evicted,
                           int32_t oldest = 0) {
    bitnet_kv_state_t out = {};
    out.n_valid = n_valid;
    out.n_max = 8;
    out.oldest = oldest;
    out.n_bytes = 4096;
    out.n_bytes_used = uint64_t(n_valid) * 512;
    out.n_hits = n_hits;
    out.n_misses = n_misses;
    out.n_evicted = n_evicted;
    return out;
}

TEST_F(ModelTracer, ACacheThatPushesOut) {
    begin("preset=lightweight", 0, {1, 2, 3, 4});
    kv(3, state_of(4, 0, 4, 2));  // evicted before this session
    for (int32_t position = 4; position < 14; ++position) {
        trace_host_end_step(host.host, BITNET_OK);
        step(position, {1});
        const bool full = position >= 12;
        kv(position, full ? state_of(6, 8, 1, 1, position - 7) : state_of(position + 1, uint64_t(position), 1, 0));
    }
    end();
    const std::vector<json> found = records("kv");
    ASSERT_EQ(found.size(), 11u);
    EXPECT_EQ(found[0].at("evictions_this_step"), 0);
    EXPECT_EQ(found[0].at("cache_hit_rate"), 0);
    EXPECT_EQ(found[1].at("cache_hit_rate"), 0.8);
    EXPECT_EQ(found[4].at("window_exhausted"), true);
    EXPECT_EQ(found[9].at("eviction_rate"), 0.1);  // one step of ten: not more than 0.1
    EXPECT_EQ(found[9].at("oldest_position"), 5);
    EXPECT_EQ(found[9].at("fragmentation"), 0.25);  // 6 of the 8 positions from 5 to 12
    const json anomaly = one("anomaly");
    EXPECT_EQ(anomaly.at("class"), "kv_eviction_rate");
    EXPECT_EQ(anomaly.at("seq"), 13);
    EXPECT_NEAR(anomaly.at("value").get<double>(), 2.0 / 11, 1e-8);
    EXPECT_EQ(one("summary").at("summary").at("total_evictions"), 2);
    EXPECT_EQ(one("summary").at("kv").at("peak_memory_bytes"), 4096);
}

TEST_F(ModelTracer, ThrashingLooksAtTheLastStepsAlone) {
    begin("preset=lightweight,thrashing_window=3,eviction_rate=1", 0, {1});
    for (int32_t i = 0; i < 12; ++i) {
        if (i) step(i, {1});
        const bool thrashes = i == 5 || i == 6 || i == 10;  // two of three, then one of three
        kv(i, thrashes ? state_of(1, 1, 9, 5) : state_of(5, 4, 6, 0));
        trace_host_end_step(host.host, BITNET_OK);
    }
    end();
    const json anomaly = one("anomaly");
    EXPECT_EQ(anomaly.at("class"), "kv_thrashing");
    EXPECT_EQ(anomaly.at("seq"), 6);
    EXPECT_NEAR(anomaly.at("value").get<double>(), (0.4 + 0.1 + 0.1) / 3, 1e-8);
}

// The whole

TEST_F(ModelTracer, RunsAreClearedAndTheTextHasThemAll) {
    begin("preset=lightweight", 0, {1});
    row(BITNET_STAGE_FFN_OUT, 0, 0, {kNan, 1, 2, 3});
    end();
    host.begin_run();
    step(0, {1});
    row(BITNET_STAGE_FFN_OUT, 0, 0, {0, 1, 2, 3});
    end();
    const std::vector<json> found = records("summary");
    ASSERT_EQ(found.size(), 2u);
    EXPECT_EQ(found[0].at("summary").at("anomalies_detected"), 1);
    EXPECT_EQ(found[1].at("summary").at("anomalies_detected"), 0);
    EXPECT_TRUE(found[1].at("first_anomaly").is_null());
    EXPECT_EQ(text_of(text_path),
              "ModelTracer Summary, run 0:\n  Forward passes: 1\n  Anomalies: 1\n  Attention traces: 0\n"
              "  Logit traces: 0\n  KV cache steps: 0\n  KV evictions: 0\n  Avg hit rate: 0%\n  Quant warnings: 0\n"
              "  Quant criticals: 0\n  First anomaly: position 0, layer 0, ffn_out: NaN at element 0; not all of its "
              "inputs are traced\n"
              "ModelTracer Summary, run 1:\n  Forward passes: 1\n  Anomalies: 0\n  Attention traces: 0\n"
              "  Logit traces: 0\n  KV cache steps: 0\n  KV evictions: 0\n  Avg hit rate: 0%\n  Quant warnings: 0\n"
              "  Quant criticals: 0\n  First anomaly: none\n");
}

TEST_F(ModelTracer, AHostWithoutAModelLeavesOutWhatNeedsIt) {
    ASSERT_EQ(attach("", false), BITNET_OK) << host.error;
    ASSERT_EQ(logged().size(), 1u);
    EXPECT_NE(logged()[0].find("left out"), std::string::npos);
    host.begin_run();
    step(0, {1});
    healthy_layer(0, 0);
    row(BITNET_STAGE_LOGITS, -1, 0, {1, 2, 3, 4});
    end();
    EXPECT_EQ(one("modeltracer").at("logits"), false);
    EXPECT_EQ(one("modeltracer").at("quantisation"), false);
    EXPECT_TRUE(records("logits").empty());
    EXPECT_EQ(records("activation").size(), 2u);
}

TEST_F(ModelTracer, RowsOutsideOfTheirStepAndCompanionsPass) {
    begin("", 5, {1, 2});
    for (int32_t position : {0, 4, 7}) healthy_layer(0, position);
    row(BITNET_STAGE_ATTN_NORM | BITNET_STAGE_SCALE, 0, 5, {1e9f});
    end();
    EXPECT_TRUE(records("activation").empty());
    EXPECT_TRUE(records("anomaly").empty());
}

TEST_F(ModelTracer, AFileThatCannotBeWritten) {
    path = "/dev/full";
    ASSERT_EQ(attach("preset=lightweight"), BITNET_OK) << host.error;
    host.begin_run();
    step(0, {1});
    trace_host_end_step(host.host, BITNET_OK);
    EXPECT_EQ(host.stats().n_sinks, 0u);
    EXPECT_NE(std::string(host.stats().last_failure).find("/dev/full"), std::string::npos) << host.stats().last_failure;
    path = folder + "/none";
}

TEST_F(ModelTracer, AForkedChildDoesNotWriteIntoItsParentsTrace) {
    begin("preset=lightweight", 0, {1});
    healthy_layer(0, 0);
    const pid_t child = fork();
    if (child == 0) {
        trace_host_end_step(host.host, BITNET_OK);
        _exit(host.stats().n_sinks == 0 ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
    end();
    EXPECT_EQ(records("forward").size(), 1u);
    EXPECT_EQ(records("activation").size(), 1u);
}

// Beside the C library itself its mathematics, which comes with it.
TEST(ModelTracerDependencies, AreTheCLibrarysAlone) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "sanitizers add their own libraries";
#endif
    const auto lines_of = [](const std::string &command) {
        std::string out;
        FILE *pipe = popen(command.c_str(), "r");
        char buffer[4096];
        for (size_t n; pipe && (n = fread(buffer, 1, sizeof buffer, pipe)) > 0;) out.append(buffer, n);
        if (pipe) pclose(pipe);
        return out;
    };
    const std::string file = PLUGIN_DIRECTORY "/libmodeltracer.so";
    std::istringstream dynamic(lines_of("readelf -d " + file));
    int n_needed = 0;
    for (std::string line; std::getline(dynamic, line);) {
        if (line.find("(NEEDED)") == std::string::npos) continue;
        ++n_needed;
        EXPECT_TRUE(line.find("[libc.so") != std::string::npos || line.find("[libm.so") != std::string::npos) << line;
    }
    EXPECT_GE(n_needed, 1);
    const std::string undefined = lines_of("nm -D -u " + file), defined = lines_of("nm -D --defined-only " + file);
    for (const char *symbol : {" _ZS", " _ZNS", " _Zn", " _Zd", " __gxx_", " _Unwind", " __cxa_throw"})
        EXPECT_EQ(undefined.find(symbol), std::string::npos) << symbol;
    EXPECT_NE(defined.find(" T bitnet_trace_plugin_v1\n"), std::string::npos);
    EXPECT_EQ(std::count(defined.begin(), defined.end(), '\n'), 1) << defined;
}

}  // namespace
}  // namespace bitnet::test
