#include "model/semantics.h"

#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "model/error.h"

namespace {

using namespace bitnet;

Semantics with(const std::string &overrides) {
    Semantics semantics;
    apply_overrides(semantics, overrides);
    return semantics;
}

std::string error_of(const std::string &overrides) {
    Semantics semantics;
    try {
        apply_overrides(semantics, overrides);
    } catch (const Error &error) {
        EXPECT_EQ(error.status, Status::invalid);
        EXPECT_EQ(semantics, Semantics()) << "a failure must change nothing";
        return error.what();
    }
    return "accepted";
}

TEST(Semantics, DefaultText) {
    EXPECT_EQ(
        to_text(Semantics()),
        "activation=relu2,eps=1e-05,rope=neox,rope_angle=exact,theta=500000,rope_offset=0,attn_sub_norm=on,"
        "ffn_sub_norm=on,quant=row_int8,scale=multiply,i2s=block128,kv=f32,attn_q=f32,head_input=f32,head_tied=on");
}

TEST(Semantics, EverySwitchIsReadAndWritten) {
    Semantics changed;
    changed.activation = Activation::gelu;
    changed.rms_eps = 1e-6f;
    changed.rope_order = RopeOrder::norm;
    changed.rope_angle = RopeAngle::steps_f32;
    changed.rope_theta = 10000.5;
    changed.rope_offset = -1;
    changed.attn_sub_norm = false;
    changed.ffn_sub_norm = false;
    changed.activation_quant = ActivationQuant::none;
    changed.weight_scale = WeightScale::divide;
    changed.code_order = CodeOrder::block64;
    changed.kv = KvType::f16;
    changed.attn_q = DotInput::f16;
    changed.head_input = DotInput::f16;
    changed.head_tied = false;
    const std::string text =
        "activation=gelu,eps=1e-06,rope=norm,rope_angle=steps_f32,theta=10000.5,rope_offset=-1,attn_sub_norm=off,"
        "ffn_sub_norm=off,quant=none,scale=divide,i2s=block64,kv=f16,attn_q=f16,head_input=f16,head_tied=off";
    EXPECT_EQ(with(text), changed);
    EXPECT_EQ(to_text(changed), text);
    EXPECT_EQ(with("activation=relu").activation, Activation::relu);
    EXPECT_EQ(with("activation=silu").activation, Activation::silu);
    EXPECT_EQ(with("scale=none").weight_scale, WeightScale::none);
}

// Printed only when they are not at their default, so that the text of a reference stays short.
TEST(Semantics, EveryImitationIsReadAndWritten) {
    const struct {
        const char *key;
        std::vector<const char *> values;  // the default first
        std::function<int(const Semantics &)> field;
    } cases[] = {
        {"norm",
         {"rms", "unweighted", "weighted_twice", "centred", "skipped"},
         [](const Semantics &s) { return int(s.norm); }},
        {"round", {"even", "away", "truncate"}, [](const Semantics &s) { return int(s.rounding); }},
        {"acc", {"int32", "int16"}, [](const Semantics &s) { return int(s.accumulator); }},
        {"scale_type", {"f32", "f16", "bf16"}, [](const Semantics &s) { return int(s.scale_type); }},
        {"i2s_bits", {"high_first", "low_first"}, [](const Semantics &s) { return int(s.code_bits); }},
        {"i2s_map", {"-0+", "-+0", "0-+", "0+-", "+-0", "+0-"}, [](const Semantics &s) { return int(s.code_map); }},
        {"kv_swap", {"off", "attention", "weights"}, [](const Semantics &s) { return int(s.kv_swap); }},
        {"kv_heads", {"grouped", "interleaved"}, [](const Semantics &s) { return int(s.kv_heads); }},
        {"attn_scale", {"root", "none", "full"}, [](const Semantics &s) { return int(s.attention_scale); }},
        {"attn_p", {"f32", "f16"}, [](const Semantics &s) { return int(s.attn_p); }},
        {"attn_sum", {"f32", "f16"}, [](const Semantics &s) { return int(s.attention_sum); }},
        {"stage_type", {"f32", "bf16"}, [](const Semantics &s) { return int(s.stage_type); }},
    };
    const std::string reference = to_text(Semantics());
    for (const auto &c : cases) {
        int n = 0;
        for (const char *value : c.values) {
            const std::string item = std::string(c.key) + "=" + value;
            const Semantics changed = with(item);
            EXPECT_EQ(c.field(changed), n) << item;
            EXPECT_EQ(to_text(changed), n++ ? reference + "," + item : reference);
            EXPECT_EQ(with(to_text(changed)), changed);
        }
        EXPECT_NE(
            error_of(std::string(c.key) + "=x").find(std::string("semantics: ") + c.key + " 'x': expected one of "),
            std::string::npos);
    }
    const char *const quantisers[] = {"row_int8",      "none",         "dequantised", "tensor_int8",
                                      "block256_int8", "block32_int8", "f16"};
    const char *const orders[] = {"block128", "block64", "block32", "sequential"};
    for (int i = 0; i < 7; ++i) EXPECT_EQ(int(with(std::string("quant=") + quantisers[i]).activation_quant), i);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(int(with(std::string("i2s=") + orders[i]).code_order), i);
}

TEST(Semantics, OfLayers) {
    const Semantics one = with("activation@2=silu,eps@0-1=1e-06");
    EXPECT_EQ(one.layers.size(), 3u);
    EXPECT_EQ(one.at(2).activation, Activation::silu);
    EXPECT_EQ(one.at(1).activation, Activation::relu2);
    EXPECT_EQ(one.at(1).rms_eps, 1e-6f);
    EXPECT_EQ(one.at(2).rms_eps, 1e-5f);
    EXPECT_EQ(one.at(3), one);
    EXPECT_EQ(one.at(-1), one);
    EXPECT_EQ(one.activation, Activation::relu2);
    EXPECT_EQ(to_text(one), to_text(Semantics()) + ",activation@2=silu,eps@0-1=1e-06");
    EXPECT_EQ(with(to_text(one)), one);
    // What comes later wins, and the whole model's switch is every layer's.
    EXPECT_EQ(with("activation@2=silu,activation=gelu"), with("activation=gelu"));
    EXPECT_EQ(with("activation=gelu,activation@2=silu").at(2).activation, Activation::silu);
    EXPECT_EQ(with("kv@1=f16,eps=1e-3").at(1).rms_eps, 1e-3f);
    EXPECT_EQ(with("activation@5=silu,activation@5=relu2"), Semantics());
    EXPECT_FALSE(with("sub_norms@4=off").at(4).ffn_sub_norm);
    EXPECT_TRUE(with("sub_norms@4=off").at(3).ffn_sub_norm);
    EXPECT_EQ(to_text(with("norm@0=skipped,norm@1=skipped,norm@3=skipped")),
              to_text(Semantics()) + ",norm@0-1=skipped,norm@3=skipped");
    EXPECT_EQ(with("activation@1023=silu").layers.size(), 1024u);
}

TEST(Semantics, LayerErrors) {
    for (const char *layers : {"", "x", "-1", "1-", "3-2", "1024", "0-1024", "1 ", "1-2-3", "99999999999"}) {
        EXPECT_EQ(error_of(std::string("activation@") + layers + "=silu"),
                  std::string("semantics: layers '") + layers +
                      "': expected a layer such as 3 or a range such as 0-3, up to 1023");
    }
    for (const char *key : {"profile", "head_input", "head_tied"}) {
        EXPECT_EQ(error_of(std::string(key) + "@1=x"),
                  std::string("semantics: '") + key + "' is of the whole model: expected no layers after it");
    }
    EXPECT_EQ(error_of("activation@1=swish"), "semantics: activation 'swish': expected one of relu2, relu, silu, gelu");
}

TEST(Semantics, NumbersSurviveTheirText) {
    for (const float eps : {0.0f, 1e-5f, 1.1920929e-7f, 0.33333334f, 1e-38f}) {
        Semantics semantics;
        semantics.rms_eps = eps;
        EXPECT_EQ(with(to_text(semantics)), semantics) << to_text(semantics);
    }
    for (const double theta : {1.0, 10000.0, 500000.0, 1e6, 0.1 + 1e5, 1e15, 1e300}) {
        Semantics semantics;
        semantics.rope_theta = theta;
        EXPECT_EQ(with(to_text(semantics)), semantics) << to_text(semantics);
    }
}

TEST(Semantics, ProfilesAndOrder) {
    EXPECT_EQ(with("profile=canonical"), Semantics());
    EXPECT_EQ(with(""), Semantics());
    Semantics expected;
    expected.kv = KvType::f16;
    expected.attn_q = DotInput::f16;
    expected.head_input = DotInput::f16;
    expected.rope_angle = RopeAngle::steps_f32;
    EXPECT_EQ(with("profile=bitnetcpp"), expected);
    EXPECT_EQ(with("kv=f32,profile=bitnetcpp"), expected);
    expected.kv = KvType::f32;
    EXPECT_EQ(with("profile=bitnetcpp,kv=f32"), expected);
    EXPECT_EQ(with("activation=relu,activation=silu").activation, Activation::silu);
    EXPECT_EQ(with("profile=hf-f32"), with("quant=dequantised"));
    EXPECT_EQ(with("profile=hf-bf16"), with("quant=dequantised,stage_type=bf16"));
    EXPECT_EQ(with("profile=q8k"), with("quant=block256_int8"));
    EXPECT_FALSE(with("sub_norms=off").attn_sub_norm);
    EXPECT_FALSE(with("sub_norms=off").ffn_sub_norm);
    EXPECT_TRUE(with("sub_norms=off,ffn_sub_norm=on").ffn_sub_norm);
}

TEST(Semantics, Errors) {
    EXPECT_EQ(error_of("activation=swish"), "semantics: activation 'swish': expected one of relu2, relu, silu, gelu");
    EXPECT_EQ(error_of("eps=1e-6,rope=gptj"), "semantics: rope 'gptj': expected one of neox, norm");
    EXPECT_EQ(error_of("rope_angle=f32"), "semantics: rope_angle 'f32': expected one of exact, steps_f32");
    EXPECT_EQ(error_of("profile=hf-f16"),
              "semantics: profile 'hf-f16': expected one of canonical, bitnetcpp, hf-f32, hf-bf16, q8k");
    EXPECT_EQ(error_of("sub_norms=maybe"), "semantics: sub_norms 'maybe': expected one of on, off");
    EXPECT_EQ(error_of("attn_sub_norm=1"), "semantics: attn_sub_norm '1': expected one of on, off");
    for (const char *eps : {"", "x", "1e-6x", "-1", "nan", "inf", "1e99"}) {
        EXPECT_EQ(error_of(std::string("eps=") + eps),
                  std::string("semantics: eps '") + eps + "': expected a finite number >= 0");
    }
    EXPECT_EQ(error_of("theta=0.5"), "semantics: theta '0.5': expected a finite number >= 1");
    EXPECT_EQ(error_of("rope_offset=1.5"), "semantics: rope_offset '1.5': expected an integer from -524288 to 524288");
    EXPECT_EQ(error_of("rope_offset=524289"),
              "semantics: rope_offset '524289': expected an integer from -524288 to 524288");
    EXPECT_EQ(error_of("activation"), "semantics: 'activation': expected key=value");
    EXPECT_EQ(error_of("kv=f16,"), "semantics: '': expected key=value after the last comma");
    EXPECT_EQ(error_of("kv=f16,,rope=norm"), "semantics: '': expected key=value");
    EXPECT_EQ(error_of("norm\n=x"),
              "semantics: unknown key 'norm\\x0a': expected one of profile, activation, eps, rope, rope_angle, theta, "
              "rope_offset, attn_sub_norm, ffn_sub_norm, sub_norms, quant, scale, i2s, kv, attn_q, head_input, "
              "head_tied, norm, "
              "round, acc, scale_type, i2s_bits, i2s_map, kv_swap, kv_heads, attn_scale, attn_p, attn_sum, "
              "stage_type");
}

}  // namespace
