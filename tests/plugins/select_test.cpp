#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "plugins/host/select.h"
#include "plugins/host/trace_host.h"

namespace bitnet {
namespace {

constexpr int32_t kAttnNormCodes = BITNET_STAGE_ATTN_NORM | BITNET_STAGE_CODES;
constexpr const char *kStages =
    " embeddings attn_norm q_proj k_proj v_proj q_rope k_rope attn_scores attn_scores_softmax attn_context "
    "attn_sub_norm"
    " attn_out attn_residual ffn_norm ffn_gate ffn_up ffn_act ffn_sub_norm ffn_out layer_out final_norm logits;"
    " companions: .codes .scale .acc";

struct Compiled {
    Selection selection = {};
    char error[TRACE_ERROR_BYTES] = "";
    bool ok;
    explicit Compiled(const char *text) : ok(selection_compile(&selection, text, error)) {}
    ~Compiled() {
        if (ok) selection_free(&selection);
    }
    bool wants(int32_t stage, int32_t layer, int32_t position) const {
        return selection_wants_row(selection, stage, layer, position);
    }
};

struct Case {
    const char *selection;
    int32_t stage, layer, position;
    bool wanted;
};

TEST(Select, Table) {
    const Case cases[] = {
        {nullptr, BITNET_STAGE_LOGITS, -1, 0, true},
        {"", BITNET_STAGE_LOGITS, -1, 5, true},
        {"  ", BITNET_STAGE_Q_ROPE, 7, 5, true},
        {"", BITNET_STAGE_ATTN_SCORES, 7, 5, false},
        {"", kAttnNormCodes, 7, 5, false},
        {"", 0, 7, 5, true},
        {"*", BITNET_STAGE_ATTN_SCORES_SOFTMAX, 0, 0, true},
        {"*", BITNET_STAGE_ATTN_SCORES, 0, 0, false},
        {"*", kAttnNormCodes, 0, 0, false},
        {"*:*:*", BITNET_STAGE_LOGITS, -1, 9, true},
        {"**", BITNET_STAGE_ATTN_SCORES, 0, 0, true},
        {"attn_norm", BITNET_STAGE_ATTN_NORM, 29, 1000, true},
        {"attn_norm", BITNET_STAGE_FFN_NORM, 29, 1000, false},
        {"attn_norm", kAttnNormCodes, 29, 1000, false},
        {"attn_norm", 0, 29, 1000, false},
        {"attn_norm.codes", kAttnNormCodes, 2, 3, true},
        {"attn_norm.codes", BITNET_STAGE_ATTN_NORM, 2, 3, false},
        {"*.acc", BITNET_STAGE_Q_PROJ | BITNET_STAGE_ACC, 2, 3, true},
        {"*.acc", BITNET_STAGE_Q_PROJ, 2, 3, false},
        {"attn*", BITNET_STAGE_ATTN_SCORES, 2, 3, true},
        {"attn*", kAttnNormCodes, 2, 3, false},
        {"attn*.*", kAttnNormCodes, 2, 3, true},
        {"**", kAttnNormCodes, 2, 3, false},
        {"?_rope", BITNET_STAGE_K_ROPE, 2, 3, true},
        {"?_rope", BITNET_STAGE_K_PROJ, 2, 3, false},
        {"attn_scores", BITNET_STAGE_ATTN_SCORES, 2, 3, true},
        {"3:attn_norm", BITNET_STAGE_ATTN_NORM, 3, 8, true},
        {"3:attn_norm", BITNET_STAGE_ATTN_NORM, 4, 8, false},
        {"3:*", BITNET_STAGE_ATTN_NORM, 3, 8, true},
        {"3:*", BITNET_STAGE_LOGITS, -1, 8, false},
        {"0-4:*:logits", BITNET_STAGE_LOGITS, -1, 4, true},
        {"0-4:*:logits", BITNET_STAGE_LOGITS, -1, 5, false},
        {"0-4:*:logits", BITNET_STAGE_FINAL_NORM, -1, 4, false},
        {"-1:*", BITNET_STAGE_EMBEDDINGS, -1, 4, true},
        {"-1:*", BITNET_STAGE_ATTN_NORM, 0, 4, false},
        {"-1-3:*", BITNET_STAGE_EMBEDDINGS, -1, 4, true},
        {"-1-3:*", BITNET_STAGE_ATTN_NORM, 3, 4, true},
        {"-1-3:*", BITNET_STAGE_ATTN_NORM, 4, 4, false},
        {"{0;2;5-6}:layer_out", BITNET_STAGE_LAYER_OUT, 2, 4, true},
        {"{0;2;5-6}:layer_out", BITNET_STAGE_LAYER_OUT, 1, 4, false},
        {"{0;2;5-6}:layer_out", BITNET_STAGE_LAYER_OUT, 6, 4, true},
        {"1?:layer_out", BITNET_STAGE_LAYER_OUT, 13, 4, true},
        {"1?:layer_out", BITNET_STAGE_LAYER_OUT, 1, 4, false},
        {"*5:*:logits", BITNET_STAGE_LOGITS, -1, 1235, true},
        {"*5:*:logits", BITNET_STAGE_LOGITS, -1, 1236, false},
        {"{q_proj;k_*}", BITNET_STAGE_K_ROPE, 1, 4, true},
        {"{q_proj;k_*}", BITNET_STAGE_Q_ROPE, 1, 4, false},
        {"q_proj-v_proj", BITNET_STAGE_K_PROJ, 1, 4, true},
        {"q_proj-v_proj", BITNET_STAGE_Q_ROPE, 1, 4, false},
        {"!attn_norm", BITNET_STAGE_ATTN_NORM, 1, 4, false},
        {"!attn_norm", BITNET_STAGE_FFN_NORM, 1, 4, true},
        {"!attn_norm", BITNET_STAGE_ATTN_SCORES, 1, 4, false},
        {"!3:*", BITNET_STAGE_ATTN_NORM, 3, 4, false},
        {"!3:*", BITNET_STAGE_ATTN_NORM, 2, 4, true},
        {"*_norm,!ffn_norm", BITNET_STAGE_FFN_NORM, 2, 4, false},
        {"!ffn_norm,*_norm", BITNET_STAGE_ATTN_NORM, 2, 4, true},
        {"!ffn_norm,*_norm", BITNET_STAGE_FFN_NORM, 2, 4, false},
        {" attn_norm , ! 1:attn_norm ", BITNET_STAGE_ATTN_NORM, 1, 4, false},
        {" attn_norm , ! 1:attn_norm ", BITNET_STAGE_ATTN_NORM, 2, 4, true},
        {"all_layers_out", BITNET_STAGE_LAYER_OUT, 2, 4, true},
        {"-2:all_layers_out", BITNET_STAGE_LAYER_OUT, 2, 4, true},
        {"7:-2:all_layers_out", BITNET_STAGE_LAYER_OUT, 2, 7, true},
        {"7:-2:all_layers_out", BITNET_STAGE_LAYER_OUT, 2, 6, false},
        {"2147483647:*:logits", BITNET_STAGE_LOGITS, -1, INT32_MAX, true},
        {"logits", 0x400 | BITNET_STAGE_LOGITS, -1, 0, false},
        {"**", -5, -1, 0, false},
        {"**", 23, -1, 0, false},
    };
    for (const Case &c : cases) {
        const Compiled compiled(c.selection);
        ASSERT_TRUE(compiled.ok) << c.selection << ": " << compiled.error;
        EXPECT_EQ(compiled.wants(c.stage, c.layer, c.position), c.wanted)
            << (c.selection ? c.selection : "NULL") << " stage " << c.stage << " layer " << c.layer << " position "
            << c.position;
    }
}

TEST(Select, Errors) {
    const std::string stages = kStages;
    const std::pair<std::string, std::string> cases[] = {
        {"atn_norm", "selection item 'atn_norm': no stage is named 'atn_norm'; stages:" + stages},
        {"x*", "selection item 'x*': no stage matches 'x*'; stages:" + stages},
        {"logits,3:{attn_norm;foo}", "selection item '3:{attn_norm;foo}': no stage is named 'foo'; stages:" + stages},
        {"!foo", "selection item '!foo': no stage is named 'foo'; stages:" + stages},
        {"v_proj-q_proj", "selection item 'v_proj-q_proj': not a range of stages: 'v_proj-q_proj'; stages:" + stages},
        {"t0/blk3/attn_norm",
         "selection item 't0/blk3/attn_norm': no stage is named 't0/blk3/attn_norm'; stages:" + stages},
        {"a\nb", "selection item 'a b': no stage is named 'a b'; stages:" + stages},
        {"logits,!logits",
         "selection item 'logits,!logits': everything is excluded by 'logits,!logits'; stages:" + stages},
        {"{}", "selection item '{}': no stage is named ''; stages:" + stages},
        {"3:", "selection item '3:': no stage is named ''; stages:" + stages},
        {"logits,,attn_norm", "selection 'logits,,attn_norm': item 2 is empty"},
        {"logits,", "selection 'logits,': item 2 is empty"},
        {"!", "selection '!': item 1 is empty"},
        {"1:2:3:logits", "selection item '1:2:3:logits': more than three parts, expected seq:layer:stage"},
        {"x:attn_norm", "selection item 'x:attn_norm': layer 'x' is not a number, a range a-b, a list {a;b} or '*'"},
        {"5-2:attn_norm",
         "selection item '5-2:attn_norm': layer '5-2' is not a number, a range a-b, a list {a;b} or '*'"},
        {"3-:attn_norm", "selection item '3-:attn_norm': layer '3-' is not a number, a range a-b, a list {a;b} or '*'"},
        {"{1;}:attn_norm",
         "selection item '{1;}:attn_norm': layer '{1;}' is not a number, a range a-b, a list {a;b} or '*'"},
        {"99999999999:attn_norm",
         "selection item '99999999999:attn_norm': layer '99999999999' is not a number, a range "
         "a-b, a list {a;b} or '*'"},
        {"-2:attn_norm", "selection item '-2:attn_norm': layer '-2' is not -1 or a block's index"},
        {"-1:0:attn_norm", "selection item '-1:0:attn_norm': position '-1' is not a position from 0"},
        {"-1:attn_norm", "selection item '-1:attn_norm': stage 'attn_norm' is not a stage of layer -1 (embeddings, "
                         "final_norm, logits)"},
        {"3:logits", "selection item '3:logits': stage 'logits' is not in a block: its layer is -1"},
    };
    for (const auto &[text, message] : cases) {
        const Compiled compiled(text.c_str());
        EXPECT_FALSE(compiled.ok) << text;
        EXPECT_EQ(compiled.error, message);
    }
    std::string many = "logits";
    for (int i = 1; i < kSelectItemsMax; ++i) many += ",logits";
    EXPECT_TRUE(Compiled(many.c_str()).ok);
    const Compiled too_many((many + ",logits").c_str());
    EXPECT_STREQ(too_many.error, "selection: more than 63 items");
}

TEST(Select, RowsOfABatch) {
    const Compiled compiled("{3;7-8}:*:logits,!8:*:logits");
    ASSERT_TRUE(compiled.ok) << compiled.error;
    EXPECT_TRUE(selection_wants(compiled.selection, BITNET_STAGE_LOGITS, -1, 0, 4));
    EXPECT_FALSE(selection_wants(compiled.selection, BITNET_STAGE_LOGITS, -1, 0, 3));
    EXPECT_FALSE(selection_wants(compiled.selection, BITNET_STAGE_LOGITS, -1, 4, 3));
    EXPECT_TRUE(selection_wants(compiled.selection, BITNET_STAGE_LOGITS, -1, 4, 4));
    EXPECT_FALSE(selection_wants(compiled.selection, BITNET_STAGE_LOGITS, -1, 8, 100));
    EXPECT_FALSE(selection_wants(compiled.selection, BITNET_STAGE_LOGITS, -1, 3, 0));
}

// Strings near the grammar: whatever they are, they compile or give one line, and asking is safe.
TEST(Select, Fuzz) {
    const char *pieces[] = {"*",
                            "?",
                            "!",
                            ":",
                            ",",
                            ";",
                            "{",
                            "}",
                            "-",
                            "0",
                            "7",
                            "12",
                            "-1",
                            "logits",
                            "attn_norm",
                            ".codes",
                            "attn*",
                            " ",
                            "all_layers_out",
                            "-2",
                            "\x01",
                            "\xff",
                            "99999999999",
                            "t0/"};
    std::mt19937 random(7);
    int n_ok = 0, n_failed = 0;
    for (int round = 0; round < 20000; ++round) {
        std::string text;
        const int n_pieces = int(random() % 12);
        for (int i = 0; i < n_pieces; ++i) text += pieces[random() % std::size(pieces)];
        const Compiled compiled(text.c_str());
        if (compiled.ok) {
            ++n_ok;
            for (int32_t stage = -1; stage < 0x420; stage += 3) compiled.wants(stage, int32_t(random() % 5) - 1, 7);
        } else {
            ++n_failed;
            EXPECT_NE(compiled.error[0], 0) << text;
            EXPECT_EQ(strchr(compiled.error, '\n'), nullptr) << text;
        }
    }
    EXPECT_GT(n_ok, 1000);
    EXPECT_GT(n_failed, 1000);
}

TEST(Stages, NamesAndNumbers) {
    int n_names = 0;
    for (int32_t stage = -10; stage < 0x600; ++stage) {
        const char *name = trace_stage_name(stage);
        if (!name) continue;
        ++n_names;
        EXPECT_EQ(trace_stage_id(name, strlen(name)), stage) << name;
    }
    EXPECT_EQ(n_names, 22 + 4 + 4 + 7);
    EXPECT_STREQ(trace_stage_name(BITNET_STAGE_ATTN_SCORES_SOFTMAX), "attn_scores_softmax");
    EXPECT_STREQ(trace_stage_name(BITNET_STAGE_FFN_OUT | BITNET_STAGE_ACC), "ffn_out.acc");
    EXPECT_STREQ(trace_stage_name(BITNET_STAGE_FFN_SUB_NORM | BITNET_STAGE_SCALE), "ffn_sub_norm.scale");
    EXPECT_EQ(trace_stage_name(BITNET_STAGE_LOGITS | BITNET_STAGE_ACC), nullptr);
    EXPECT_EQ(trace_stage_name(0), nullptr);
}

TEST(Stages, BitNetRsNames) {
    auto id = [](const char *name) { return trace_stage_id(name, strlen(name)); };
    EXPECT_EQ(id("t0/blk3/attn_norm"), BITNET_STAGE_ATTN_NORM);
    EXPECT_EQ(id("t12/logits"), BITNET_STAGE_LOGITS);
    EXPECT_EQ(id("all_layers_out"), BITNET_STAGE_LAYER_OUT);
    EXPECT_EQ(id("t3/all_layers_out"), BITNET_STAGE_LAYER_OUT);
    EXPECT_EQ(id("blk3/attn_norm"), 0);
    EXPECT_EQ(id("t/attn_norm"), 0);
    EXPECT_EQ(id("t0/blk/attn_norm"), 0);
    EXPECT_EQ(id(""), 0);
    EXPECT_EQ(id("logit"), 0);
    EXPECT_EQ(trace_stage_id("logits...", 6), BITNET_STAGE_LOGITS);
}

}  // namespace
}  // namespace bitnet
