#include "abi/cli/diff/diff.h"
#include "abi/cli/diff/render.h"
#include "abi/cli/diff/text.h"
#include "abi/cli/diff/waiting_records.h"
#include "sample_trace.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>

namespace bitnet {
namespace {

using namespace diff;

bool contains(const std::string &text, const std::string &part) { return text.find(part) != std::string::npos; }

// A report together with what it points into.
struct Result {
    std::unique_ptr<Trace> a, b;
    Report report;
    Options options;
    const Counts &counts() const { return report.comparison.counts; }
    std::string first() const { return report.first ? record_name(report.first->key()) : ""; }
    std::string fact(const std::string &key) const {
        for (const Fact &fact : report.facts) {
            if (fact.key == key) return fact.text;
        }
        return "";
    }
};

Result compare_lines(const std::vector<std::string> &a, const std::vector<std::string> &b, Options options = {}) {
    Folder folder;
    Result result;
    result.options = options;
    result.a = std::make_unique<Trace>();
    result.b = std::make_unique<Trace>();
    result.report =
        compare_files(folder.write("a.jsonl", a), folder.write("b.jsonl", b), options, *result.a, *result.b);
    return result;
}

Result compare(const SampleTrace &a, const SampleTrace &b, Options options = {}) {
    return compare_lines(a.lines(), b.lines(), options);
}

Options within(double distance) {
    Options options;
    options.rule = Rule::distance;
    options.max_distance = distance;
    return options;
}

// A fault at one place, from this position on.
auto fault_at(int layer, const std::string &stage, std::function<void(std::vector<float> &)> change, int from = 0) {
    return [=](int seq, int l, const std::string &s, std::vector<float> &values) {
        if (seq >= from && l == layer && s == stage) change(values);
    };
}
void scale(std::vector<float> &values) {
    for (float &v : values) v *= 0.5f;
}
void nudge(std::vector<float> &values) { values[3] += 0.5f; }
// The rounding noise of another engine, everywhere.
void noise(int seq, int layer, const std::string &, std::vector<float> &values) {
    for (size_t i = 0; i < values.size(); ++i)
        values[i] *= 1 + 2e-6f * float((i * 7 + size_t(seq + layer + 1) * 3) % 5) - 4e-6f;
}

TEST(Compare, EqualTracesMatch) {
    Result r = compare({}, {});
    EXPECT_EQ(r.report.verdict, Verdict::match) << r.report.sentence;
    EXPECT_EQ(r.counts().compared, 228u);
    EXPECT_EQ(r.counts().equal, 228u);
    EXPECT_EQ(r.report.comparison.would_pass, 0.0);
    EXPECT_TRUE(r.report.facts.empty());
}

// Whatever the order, the verdict and the first difference are the same.
TEST(Compare, OrderOfRecordsDoesNotMatter) {
    SampleTrace wrong;
    wrong.fault = fault_at(1, "ffn_act", nudge, 2);
    const std::vector<std::string> a = SampleTrace().lines();
    std::vector<std::string> b = wrong.lines();
    const Result straight = compare_lines(a, b);
    // Between the run record with its step and run_end there are tensor records only.
    std::reverse(b.begin() + 2, b.end() - 1);
    const Result turned = compare_lines(a, b);
    EXPECT_EQ(turned.report.verdict, Verdict::divergence);
    EXPECT_EQ(turned.first(), "t2/blk1/ffn_act");
    EXPECT_EQ(turned.first(), straight.first());
    EXPECT_EQ(turned.counts().equal, straight.counts().equal);
    EXPECT_EQ(turned.counts().different, straight.counts().different);
    EXPECT_EQ(turned.report.first_a.key, turned.report.first->key());
    EXPECT_EQ(turned.report.origins.size(), straight.report.origins.size());
}

// More than wait in memory: the rest goes to a file and comes back as it was, also into slots that are used again.
TEST(Compare, RecordsWaitInAFileToo) {
    WaitingRecords waiting;
    auto record = [](uint32_t i) {
        Record r;
        r.key = i;
        r.rms = i * 0.5;
        r.sketch[63] = float(i);
        return r;
    };
    constexpr uint32_t kCount = (1u << 16) + 500;
    std::vector<uint32_t> slots;
    for (uint32_t i = 0; i < kCount; ++i) slots.push_back(waiting.put(record(i)));
    Record out;
    auto expect = [&](uint32_t slot, uint32_t i) {
        waiting.take(slot, out);
        EXPECT_EQ(out.key, i);
        EXPECT_EQ(out.sketch[63], float(i));
    };
    for (uint32_t i = kCount - 400; i < kCount - 100; ++i) expect(slots[i], i);
    std::vector<uint32_t> again;
    for (uint32_t i = 0; i < 300; ++i) again.push_back(waiting.put(record(kCount + i)));
    for (uint32_t i = 0; i < 300; ++i) expect(again[i], kCount + i);
    for (uint32_t i = kCount - 100; i < kCount; ++i) expect(slots[i], i);
    for (uint32_t i = 0; i < 1000; ++i) expect(slots[i], i);
}

TEST(Compare, PrefillAndDecodeAreTheSameRecords) {
    SampleTrace decode;
    decode.prefill = false;
    Result r = compare({}, decode);
    EXPECT_EQ(r.report.verdict, Verdict::match) << r.report.sentence;
    EXPECT_EQ(r.counts().equal, 228u);
}

// Every stage of the table in turn: the place named must be exactly where the fault was put.
TEST(Compare, AFaultAnywhereIsFoundWhereItArises) {
    for (const Stage &stage : stages()) {
        bool sampled = stage.stage_class != StageClass::scale && stage.stage_class != StageClass::codes &&
                       stage.stage_class != StageClass::accumulator && stage.name != "attn_scores";
        if (!sampled) continue;
        int layer = stage.in_layer ? 1 : -1;
        SampleTrace b;
        b.fault = fault_at(layer, std::string(stage.name), scale, 2);
        Result r = compare({}, b);
        ASSERT_EQ(r.report.verdict, Verdict::divergence) << stage.name;
        EXPECT_EQ(r.report.first->key(), make_key(0, 2, layer, stage)) << stage.name;
        ASSERT_EQ(r.report.origins.size(), 1u) << stage.name;
        EXPECT_EQ(r.report.origins[0].pair, r.report.first);
        EXPECT_EQ(r.report.origins[0].inputs, stage.n_inputs ? Inputs::equal : Inputs::token) << stage.name;
        // Its own positions, unless an earlier layer or position has already spoiled the inputs.
        EXPECT_GE(r.report.origins[0].n_positions, 1u);
    }
}

TEST(Compare, StackedFaultsAreAllNamed) {
    SampleTrace b;
    b.fault = [](int seq, int layer, const std::string &stage, std::vector<float> &values) {
        if (layer == 1 && stage == "ffn_gate") scale(values);
        if (layer == 1 && stage == "ffn_up") nudge(values);
        if (layer == 0 && stage == "v_proj" && seq == 3) nudge(values);
    };
    Result r = compare({}, b);
    ASSERT_EQ(r.report.origins.size(), 3u);
    EXPECT_EQ(record_name(r.report.origins[0].pair->key()), "t0/blk1/ffn_gate");
    EXPECT_EQ(record_name(r.report.origins[1].pair->key()), "t0/blk1/ffn_up");
    EXPECT_EQ(record_name(r.report.origins[2].pair->key()), "t3/blk0/v_proj");
    // From token 1 on attention carries token 0's error into the layer's inputs? No: K and V come before the FFN.
    EXPECT_EQ(r.report.origins[0].n_positions, 3u);
}

TEST(Compare, KeysOfEarlierTokensAreInputsOfAttention) {
    SampleTrace b;  // wrong at token 0 only; token 1 reads it from the cache
    b.fault = [](int seq, int layer, const std::string &stage, std::vector<float> &values) {
        if (seq == 0 && layer == 0 && stage == "k_rope") scale(values);
    };
    Result r = compare({}, b);
    ASSERT_EQ(r.report.origins.size(), 1u);
    EXPECT_EQ(r.first(), "t0/blk0/k_rope");
    EXPECT_GT(r.counts().different, 1u);
}

TEST(Compare, UnrecordedInputsAreSaid) {
    auto keep = [](int, int, const std::string &stage) { return stage == "layer_out" || stage == "logits"; };
    SampleTrace a, b;
    a.keep = b.keep = keep;
    b.fault = fault_at(1, "q_rope", scale);
    Result r = compare(a, b);
    EXPECT_EQ(r.first(), "t1/blk1/layer_out");  // one position's softmax hides a scaled query
    ASSERT_FALSE(r.report.origins.empty());
    EXPECT_EQ(r.report.origins[0].inputs, Inputs::unrecorded);
    EXPECT_EQ(r.report.origins[0].unrecorded, (std::vector<std::string>{"attn_residual", "ffn_out"}));
    EXPECT_TRUE(contains(r.report.sentence, "not all recorded")) << r.report.sentence;
}

TEST(Compare, ATraceThatStartsLateDoesNotKnowTheCache) {
    auto keep = [](int seq, int, const std::string &) { return seq == 2; };
    SampleTrace a, b;
    a.keep = b.keep = keep;
    b.fault = fault_at(0, "attn_context", scale);
    Result r = compare(a, b);
    EXPECT_EQ(r.first(), "t2/blk0/attn_context");
    ASSERT_EQ(r.report.origins.size(), 1u);
    EXPECT_EQ(r.report.origins[0].inputs, Inputs::unrecorded);
}

TEST(Compare, ArchitecturesWithoutSubNorms) {
    SampleTrace a, b;
    a.sub_norms = b.sub_norms = false;
    b.fault = fault_at(2, "attn_out", nudge);
    Result r = compare(a, b);
    EXPECT_EQ(r.first(), "t0/blk2/attn_out");
    EXPECT_EQ(r.report.origins[0].inputs, Inputs::equal);
    EXPECT_EQ(r.report.origins[0].recorded, std::vector<std::string>{"attn_context"});
}

TEST(Compare, ASemanticsDifferenceIsTheLikelyCauseOfItsStage) {
    SampleTrace b;
    b.semantics = R"({"activation":"silu","eps":"0.00001"})";
    b.fault = [](int, int, const std::string &stage, std::vector<float> &values) {
        if (stage == "ffn_act") nudge(values);
    };
    Result r = compare({}, b);
    EXPECT_EQ(r.report.verdict, Verdict::divergence);
    EXPECT_EQ(r.report.causes, std::vector<std::string>{"semantics: activation relu2 against silu"});
    EXPECT_TRUE(contains(r.report.sentence, "token 0, layer 0, ffn_act: this operation is wrong")) << r.report.sentence;
    EXPECT_TRUE(contains(r.report.sentence, "Likely cause: semantics: activation relu2 against silu"));
    EXPECT_EQ(r.fact("semantics.eps"), "");  // the same number, spelled differently
}

TEST(Compare, ASemanticsDifferenceDoesNotExplainAnotherStage) {
    SampleTrace b;
    b.semantics = R"({"activation":"silu","eps":"1e-05"})";
    b.fault = fault_at(0, "v_proj", nudge);
    Result r = compare({}, b);
    EXPECT_TRUE(r.report.causes.empty());
    EXPECT_FALSE(contains(r.report.sentence, "Likely cause"));
}

TEST(Compare, SemanticsMayDifferWithoutConsequence) {
    SampleTrace b;
    b.semantics = R"({"activation":"silu","eps":"1e-05"})";
    EXPECT_EQ(compare({}, b).report.verdict, Verdict::match);
}

// --- preflight ---

Result compare_tokens(std::vector<int> a, std::vector<int> b, Options options = {}) {
    SampleTrace x, y;
    x.tokens = std::move(a);
    y.tokens = std::move(b);
    return compare(x, y, options);
}

TEST(Preflight, DoubleBos) {
    Result r = compare_tokens({128000, 5, 6}, {128000, 128000, 5, 6});
    EXPECT_EQ(r.report.verdict, Verdict::divergence);
    EXPECT_TRUE(
        contains(r.report.sentence, "B begins with BOS 128000 twice (double BOS); position 1 has 5 in A, 128000 in B"))
        << r.report.sentence;
    EXPECT_EQ(r.report.first, nullptr);
    r = compare_tokens({128000, 128000, 5, 6}, {128000, 5, 6});
    EXPECT_TRUE(contains(r.report.sentence, "A begins with BOS 128000 twice (double BOS)")) << r.report.sentence;
}

TEST(Preflight, BosOnOneSide) {
    Result r = compare_tokens({128000, 5, 6}, {5, 6});
    EXPECT_TRUE(contains(r.report.sentence, "A has BOS 128000, B has none")) << r.report.sentence;
    r = compare_tokens({5, 6, 7}, {128000, 5, 6, 7});
    EXPECT_TRUE(contains(r.report.sentence, "B has BOS 128000, A has none")) << r.report.sentence;
}

TEST(Preflight, DifferentPrompts) {
    Result r = compare_tokens({1, 5, 6}, {1, 7, 8});
    EXPECT_EQ(r.report.verdict, Verdict::divergence);
    EXPECT_TRUE(contains(r.report.sentence, "token ids: position 1 has 5 in A, 7 in B")) << r.report.sentence;
    EXPECT_FALSE(contains(r.report.sentence, "BOS"));
}

TEST(Preflight, OneSideGoesOn) {
    Result r = compare_tokens({1, 5}, {1, 5, 9});
    EXPECT_EQ(r.report.verdict, Verdict::divergence);
    EXPECT_TRUE(contains(r.report.sentence, "equal up to position 1, then only B goes on")) << r.report.sentence;
    Options options;
    options.allow_missing = true;
    r = compare_tokens({1, 5}, {1, 5, 9}, options);
    EXPECT_EQ(r.report.verdict, Verdict::match) << r.report.sentence;
    EXPECT_EQ(r.counts().missing_in_a, 57u);
}

TEST(Preflight, DifferentModels) {
    SampleTrace b;
    b.model_hash = std::string(64, 'b');
    Result r = compare({}, b);
    EXPECT_EQ(r.report.verdict, Verdict::divergence);
    EXPECT_TRUE(contains(r.report.sentence, "different model files")) << r.report.sentence;
    Options options;
    options.ignore = {"model_hash"};
    r = compare({}, b, options);
    EXPECT_EQ(r.report.verdict, Verdict::match) << r.report.sentence;
    EXPECT_TRUE(contains(r.fact("model_hash"), "(ignored)"));
    b.model_hash = "";
    r = compare({}, b);
    EXPECT_EQ(r.report.verdict, Verdict::match) << r.report.sentence;
    EXPECT_EQ(r.fact("model_hash"), "model hash: unknown in B");
}

TEST(Preflight, Hyperparameters) {
    SampleTrace b;
    b.hyperparameters = R"({"n_layer":3,"rms_eps":1e-06,"n_ctx":8})";
    Result r = compare({}, b);
    EXPECT_EQ(r.report.verdict, Verdict::divergence);
    EXPECT_TRUE(contains(r.report.sentence, "hyperparameters: rms_eps ")) << r.report.sentence;
    EXPECT_TRUE(contains(r.fact("hyperparameters.n_ctx"), "in B only"));
    Options options;
    options.ignore = {"hyperparameters.rms_eps"};
    EXPECT_EQ(compare({}, b, options).report.verdict, Verdict::match);
    options.ignore = {"hyperparameters"};
    EXPECT_EQ(compare({}, b, options).report.verdict, Verdict::match);
}

TEST(Preflight, KvTypeAndStageSetAreFacts) {
    SampleTrace a, b;
    b.kv_type = "f16";
    b.sub_norms = false;
    Result r = compare(a, b);
    EXPECT_EQ(r.fact("kv_type"), "KV type: f32 against f16");
    EXPECT_EQ(r.fact("stages"), "stages only in A: attn_sub_norm, ffn_sub_norm");
    // The divergence stands although records are missing.
    EXPECT_EQ(r.report.verdict, Verdict::divergence);
    EXPECT_EQ(r.first(), "t0/blk0/attn_out");
    EXPECT_EQ(r.report.origins[0].inputs, Inputs::unrecorded);
    EXPECT_TRUE(contains(r.report.sentence, "Records before it are missing (t0/blk0/attn_sub_norm)"))
        << r.report.sentence;
}

TEST(Preflight, IgnoreKeys) {
    for (const char *key : {"model_hash", "tokens", "semantics", "semantics.eps", "hyperparameters.n_layer"}) {
        EXPECT_TRUE(is_preflight_key(key)) << key;
    }
    for (const char *key : {"", "model", "tokens.1", "model_hash.x"}) EXPECT_FALSE(is_preflight_key(key)) << key;
}

// --- completeness ---

TEST(Compare, AMissingRecordIsNoMatch) {
    SampleTrace b;
    b.keep = [](int seq, int layer, const std::string &stage) {
        return !(seq == 2 && layer == 1 && stage == "ffn_up");
    };
    Result r = compare({}, b);
    EXPECT_EQ(r.report.verdict, Verdict::error);
    EXPECT_TRUE(contains(r.report.sentence, "B lacks 1 of A's records, the first is t2/blk1/ffn_up"))
        << r.report.sentence;
    EXPECT_EQ(r.counts().missing_in_b, 1u);
    EXPECT_EQ(r.counts().missing_in_a, 0u);
    r = compare(b, {});
    EXPECT_EQ(r.report.verdict, Verdict::error);
    EXPECT_EQ(r.counts().missing_in_a, 1u);
    Options options;
    options.allow_missing = true;
    EXPECT_EQ(compare({}, b, options).report.verdict, Verdict::match);
    b.fault = fault_at(1, "ffn_up", scale, 1);
    EXPECT_EQ(compare({}, b).report.verdict, Verdict::divergence);
}

TEST(Compare, ADeletedLineContradictsRunEnd) {
    std::vector<std::string> lines = SampleTrace().lines(), fewer = lines;
    fewer.erase(fewer.begin() + 20);
    Result r = compare_lines(fewer, fewer);
    EXPECT_EQ(r.report.verdict, Verdict::error) << "both sides lack it: only run_end knows";
    Options options;
    options.allow_missing = true;
    EXPECT_EQ(compare_lines(fewer, fewer, options).report.verdict, Verdict::match);
}

TEST(Compare, NothingInCommon) {
    SampleTrace a, b;
    a.keep = [](int seq, int, const std::string &) { return seq == 0; };
    b.keep = [](int seq, int, const std::string &) { return seq == 1; };
    Options options;
    options.allow_missing = true;
    Result r = compare(a, b, options);
    EXPECT_EQ(r.report.verdict, Verdict::error);
    EXPECT_TRUE(contains(r.report.sentence, "nothing was compared")) << r.report.sentence;
}

TEST(Compare, BrokenInputIsAnErrorButTheRestIsShown) {
    SampleTrace b;
    b.fault = fault_at(1, "ffn_up", scale);
    std::vector<std::string> lines = b.lines();
    lines.pop_back();
    Result r = compare_lines(SampleTrace().lines(), lines);
    EXPECT_EQ(r.report.verdict, Verdict::error);
    EXPECT_TRUE(contains(r.report.sentence, "cut short"));
    EXPECT_EQ(r.first(), "t0/blk1/ffn_up");
}

TEST(Compare, EqualHashesWithOtherStatisticsAreADivergence) {
    std::vector<std::string> lines = SampleTrace().lines();
    std::string &line = lines[line_of(lines, 1, 1, "ffn_up")];
    const std::string whole = line;
    for (const std::string field : {"rms", "mean", "min", "max", "absmax", "l2", "zeros"}) {
        line = whole;
        const size_t at = line.find("\"" + field + "\":") + field.size() + 3;
        line.insert(at + (line[at] == '-'), "7");
        Result r = compare_lines(SampleTrace().lines(), lines);
        EXPECT_EQ(r.report.verdict, Verdict::divergence) << field << ": " << r.report.sentence;
        EXPECT_EQ(r.first(), "t1/blk1/ffn_up") << field;
    }
}

// --- how records differ ---

TEST(Detail, ASingleChangedValue) {
    SampleTrace b;  // in one record only, as a change in the file would be
    std::vector<std::string> lines = b.lines();
    std::vector<float> values(96), changed;
    for (size_t i = 0; i < values.size(); ++i) values[i] = float(i) / 7 - 3;
    size_t at = line_of(lines, 1, 1, "layer_out");
    std::vector<std::string> other = lines;
    lines[at] = tensor_line(0, 40, 1, 1, "layer_out", values);
    changed = values;
    changed[95] += 0.25f;
    other[at] = tensor_line(0, 40, 1, 1, "layer_out", changed);
    Result r = compare_lines(lines, other);
    EXPECT_EQ(r.report.verdict, Verdict::divergence);
    EXPECT_EQ(r.counts().different, 1u);
    auto top = first_top_difference(r.report.first_a, r.report.first_b);
    ASSERT_TRUE(top);
    EXPECT_EQ(top->index, 95u);
    EXPECT_EQ(top->a, values[95]);
    EXPECT_EQ(top->b, changed[95]);
    ASSERT_EQ(hints(r.report.first_a, r.report.first_b).size(), 1u);
    EXPECT_EQ(hints(r.report.first_a, r.report.first_b)[0], "a single value differs, by 0.25, at index 95");
    double l2 = r.report.first_a.l2;
    EXPECT_NEAR(r.report.first->distance, 0.25 / l2, 1e-6);
    changed = values;
    changed[20] += 0.25f;
    other[at] = tensor_line(0, 40, 1, 1, "layer_out", changed);
    r = compare_lines(lines, other);
    EXPECT_EQ(hints(r.report.first_a, r.report.first_b)[0], "a single value differs, by 0.25 (not among the 8 largest)");
    EXPECT_FALSE(first_top_difference(r.report.first_a, r.report.first_b));
}

TEST(Detail, APermutation) {
    SampleTrace b;
    b.fault = fault_at(1, "v_proj", [](std::vector<float> &values) { std::swap(values[1], values[9]); });
    Result r = compare({}, b);
    EXPECT_EQ(hints(r.report.first_a, r.report.first_b), std::vector<std::string>{"same values in another order (a permutation)"});
}

TEST(Detail, AFactor) {
    SampleTrace b;
    b.fault = fault_at(1, "v_proj", scale);
    Result r = compare({}, b);
    EXPECT_EQ(hints(r.report.first_a, r.report.first_b), std::vector<std::string>{"B is A times 0.5"});
}

TEST(Detail, Zeros) {
    SampleTrace b;
    b.fault = fault_at(1, "v_proj", [](std::vector<float> &values) { std::fill(values.begin(), values.end(), 0.0f); });
    Result r = compare({}, b);
    EXPECT_EQ(hints(r.report.first_a, r.report.first_b), std::vector<std::string>{"B is all zeros"});
}

TEST(Detail, Shapes) {
    SampleTrace b;
    b.fault = fault_at(2, "layer_out", [](std::vector<float> &values) { values.push_back(0); });
    Result r = compare({}, b, within(10));
    EXPECT_EQ(r.report.verdict, Verdict::divergence);
    EXPECT_EQ(hints(r.report.first_a, r.report.first_b), std::vector<std::string>{"shapes differ: 96 elements against 97"});
    EXPECT_FALSE(r.report.comparison.would_pass);
}

TEST(Detail, NanOnOneSideIsADivergenceUnderAnyTolerance) {
    SampleTrace b;
    b.fault = fault_at(
        -1, "logits", [](std::vector<float> &values) { values[4] = NAN; }, 3);
    SampleTrace other = b;
    other.engine = "other";
    for (const SampleTrace &trace : {b, other}) {
        for (const Options &options : {Options(), within(100)}) {
            Result r = compare({}, trace, options);
            EXPECT_EQ(r.report.verdict, Verdict::divergence);
            EXPECT_EQ(r.first(), "t3/logits");
            EXPECT_TRUE(std::isnan(r.report.first->distance));
            EXPECT_EQ(hints(r.report.first_a, r.report.first_b)[0], "A has no NaN, B has 1 NaN");
            EXPECT_FALSE(r.report.comparison.would_pass);
        }
        EXPECT_EQ(compare(trace, trace).report.verdict, Verdict::match) << "the same NaN on both sides";
    }
}

// --- tolerances ---

TEST(Tolerance, DistanceDecides) {
    SampleTrace b;
    b.fault = noise;
    EXPECT_EQ(compare({}, b).report.verdict, Verdict::divergence);
    EXPECT_EQ(compare({}, b, within(1e-3)).report.verdict, Verdict::match);
    Result strict = compare({}, b, within(1e-9));
    EXPECT_EQ(strict.report.verdict, Verdict::divergence);
    ASSERT_TRUE(strict.report.comparison.would_pass);
    // What is said to pass passes, and anything less does not.
    double enough = std::stod(rounded_up(*strict.report.comparison.would_pass));
    EXPECT_EQ(compare({}, b, within(enough)).report.verdict, Verdict::match);
    EXPECT_EQ(compare({}, b, within(*strict.report.comparison.would_pass * 0.999)).report.verdict, Verdict::divergence);
    EXPECT_GT(strict.report.comparison.counts.different, 0u);
}

TEST(Tolerance, EnginesThatRunFreelyAreJudgedByTheirLogits) {
    SampleTrace b;
    b.engine = "other";
    b.fault = noise;
    Result r = compare({}, b);
    EXPECT_EQ(r.report.verdict, Verdict::match) << r.report.sentence;
    EXPECT_EQ(r.report.comparison.rule, Rule::logits);
    EXPECT_GT(r.counts().unjudged, 200u);
    EXPECT_EQ(r.report.comparison.n_logits, 4u);
    Options exact;
    exact.rule = Rule::hashes;
    EXPECT_EQ(compare({}, b, exact).report.verdict, Verdict::divergence);
}

TEST(Tolerance, LogitsOutsideTheEnvelopeNameTheLeap) {
    SampleTrace b;
    b.version = "2.0";
    b.fault = [](int seq, int layer, const std::string &stage, std::vector<float> &values) {
        noise(seq, layer, stage, values);
        if (layer == 1 && stage == "ffn_act") std::reverse(values.begin(), values.end());
    };
    Result r = compare({}, b);
    ASSERT_EQ(r.report.verdict, Verdict::divergence) << r.report.sentence;
    EXPECT_EQ(r.first(), "t0/logits");
    ASSERT_FALSE(r.report.origins.empty());
    EXPECT_EQ(record_name(r.report.origins[0].pair->key()), "t0/blk1/ffn_act");
    EXPECT_EQ(r.report.origins[0].inputs, Inputs::close);
    EXPECT_TRUE(contains(r.report.sentence, "suspect: token 0, layer 1, ffn_act")) << r.report.sentence;
    ASSERT_TRUE(r.report.growth.jump);
    EXPECT_EQ(r.report.growth.layers[*r.report.growth.jump].layer, 1);
}

TEST(Tolerance, WithoutLogitsThereIsNoVerdictBetweenEngines) {
    SampleTrace a, b;
    a.keep = b.keep = [](int, int, const std::string &stage) { return stage != "logits"; };
    b.engine = "other";
    b.fault = noise;
    Result r = compare(a, b);
    EXPECT_EQ(r.report.verdict, Verdict::error);
    EXPECT_TRUE(contains(r.report.sentence, "no logits were recorded")) << r.report.sentence;
    b.fault = nullptr;
    EXPECT_EQ(compare(a, b).report.verdict, Verdict::match) << "equal bits need no tolerance";
}

TEST(Tolerance, AnotherTopTokenIsADivergence) {
    std::vector<float> values(200, 0.1f), close, far;
    values[10] = 5;
    values[11] = 4.6f;
    std::vector<float> reference = values;
    far = values;
    far[11] = 5.1f;
    values[11] = 4.9f;
    close = values;
    for (size_t i = 20; i < 200; ++i) close[i] += i % 2 ? 0.03f : -0.03f;  // noise everywhere
    close[11] = 5.01f;
    auto with = [](const std::vector<float> &logits, const std::string &engine) {
        SampleTrace trace;
        trace.engine = engine;
        std::vector<std::string> lines = trace.lines();
        lines[line_of(lines, 2, -1, "logits")] = tensor_line(0, 99, 2, -1, "logits", logits);
        return lines;
    };
    Result r = compare_lines(with(reference, "x"), with(far, "y"));
    EXPECT_EQ(r.report.verdict, Verdict::divergence) << r.report.sentence;
    EXPECT_LE(r.report.first->distance, kLogitsMaxDistance);
    LogitsPair logits = r.report.comparison.logits[r.report.first->logits];
    EXPECT_EQ(logits.top_a, 10u);
    EXPECT_EQ(logits.top_b, 11u);
    EXPECT_FALSE(logits.top_inside_noise);
    r = compare_lines(with(values, "x"), with(close, "y"));
    EXPECT_EQ(r.report.verdict, Verdict::match) << r.report.sentence;
    EXPECT_TRUE(r.report.comparison.logits[r.report.logits->logits].top_inside_noise);
}

// The largest logit is often not among the 8 largest by magnitude: large negative ones are.
TEST(Tolerance, TheRecordedArgmaxIsTheTopToken) {
    std::vector<float> logits(200, 0.0f);
    for (size_t i = 0; i < 8; ++i) logits[i] = -20.0f - float(i);
    logits[50] = 3;
    auto with = [&](const std::string &engine, const std::string &argmax) {
        SampleTrace trace;
        trace.engine = engine;
        std::vector<std::string> lines = trace.lines();
        logits[60] += 0.001f;  // only unequal pairs are looked at
        std::string line = tensor_line(0, 99, 2, -1, "logits", logits);
        line.insert(line.find("\"top\":"), argmax);
        lines[line_of(lines, 2, -1, "logits")] = line;
        return lines;
    };
    Result r = compare_lines(with("x", "\"argmax\":50,"), with("y", ""));
    EXPECT_EQ(r.report.comparison.logits[r.report.logits->logits].top_a, 50u);
    EXPECT_FALSE(r.report.comparison.logits[r.report.logits->logits].top_b);
    EXPECT_EQ(compare_lines(with("x", "\"argmax\":-1,"), with("y", "")).report.verdict, Verdict::error);
}

TEST(Growth, FollowsTheLayers) {
    SampleTrace b;
    b.fault = fault_at(
        1, "ffn_out", [](std::vector<float> &values) { values[0] += 1e-3f; }, 2);
    Result r = compare({}, b);
    const Growth &growth = r.report.growth;
    ASSERT_EQ(growth.layers.size(), 3u);
    EXPECT_EQ(growth.position, 2);
    EXPECT_EQ(growth.layers[0].distance, 0);
    EXPECT_GT(growth.layers[1].distance, 0);
    EXPECT_GT(growth.layers[2].distance, 0);
    EXPECT_GE(growth.layers[1].worst, growth.layers[1].distance);
    EXPECT_EQ(growth.layers[1].stage->name, "layer_out");
    ASSERT_TRUE(growth.jump);
    EXPECT_EQ(*growth.jump, 1u);
}

TEST(Order, EventNumbersThatContradictAreNamed) {
    std::vector<std::string> lines = SampleTrace().lines();
    std::string &line = lines[line_of(lines, 1, 1, "ffn_act")];
    size_t at = line.find("\"event\":");
    line.replace(at, line.find(',', at) - at, "\"event\":0");
    Result r = compare_lines(SampleTrace().lines(), lines);
    EXPECT_EQ(r.report.verdict, Verdict::match);
    EXPECT_TRUE(contains(r.fact("order"), "event numbers of B put t1/blk1/ffn_gate after t1/blk1/ffn_act"))
        << r.fact("order");
}

TEST(Runs, AreComparedOneByOne) {
    SampleTrace first, second, wrong;
    second.run = wrong.run = 1;
    second.tokens = wrong.tokens = {7, 8};
    wrong.fault = fault_at(0, "ffn_up", scale, 1);
    std::vector<std::string> a = first.lines(), b = a;
    for (const std::string &line : second.lines()) a.push_back(line);
    EXPECT_EQ(compare_lines(a, a).report.verdict, Verdict::match);
    for (const std::string &line : wrong.lines()) b.push_back(line);
    Result r = compare_lines(a, b);
    EXPECT_TRUE(contains(r.report.sentence, "run 1, token 1, layer 0, ffn_up")) << r.report.sentence;
    Result missing = compare_lines(a, first.lines());
    EXPECT_EQ(missing.report.verdict, Verdict::error);
    EXPECT_EQ(missing.counts().missing_in_b, 114u);
}

TEST(Render, SelectionForExplainHoldsTheInputs) {
    const auto key = [](int position, int layer, const char *stage) { return make_key(0, position, layer, *find_stage(stage)); };
    EXPECT_EQ(selection_to_explain(key(3, 2, "attn_context")), "3:2:**,3:2:*.*,3:1:layer_out,0-2:2:{k_rope;v_proj}");
    EXPECT_EQ(selection_to_explain(key(0, 0, "attn_norm.codes")), "0:0:**,0:0:*.*,0:{-1}:embeddings");
    EXPECT_EQ(selection_to_explain(key(4, -1, "embeddings")), "4:{-1}:*");
    EXPECT_EQ(selection_to_explain(key(4, -1, "logits")), "4:{-1}:*,4:*:layer_out");
}

TEST(Render, TextFitsAScreenAndHoldsNoControlBytes) {
    SampleTrace a, b;
    a.engine = b.engine = "evil\\u001b[31m";
    b.semantics = R"({"activation":"silu\u001b[0m"})";
    b.fault = [](int, int, const std::string &stage, std::vector<float> &values) {
        if (stage == "ffn_act" || stage == "k_proj") nudge(values);
    };
    a.n_layer = b.n_layer = 30;
    Result r = compare(a, b);
    std::string text = render_text(r.report, *r.a, *r.b, r.options, false);
    EXPECT_EQ(text.find('\x1b'), std::string::npos);
    EXPECT_LE(std::count(text.begin(), text.end(), '\n'), 32);
    EXPECT_TRUE(contains(text, "DIVERGENCE: first difference at token 0, layer 0, k_proj"));
    EXPECT_TRUE(contains(render_text(r.report, *r.a, *r.b, r.options, true), "\033[1;31mDIVERGENCE"));
}

}  // namespace
}  // namespace bitnet
