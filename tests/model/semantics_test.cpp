#include "model/semantics.h"

#include <gtest/gtest.h>

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
    EXPECT_FALSE(with("sub_norms=off").attn_sub_norm);
    EXPECT_FALSE(with("sub_norms=off").ffn_sub_norm);
    EXPECT_TRUE(with("sub_norms=off,ffn_sub_norm=on").ffn_sub_norm);
}

TEST(Semantics, Errors) {
    EXPECT_EQ(error_of("activation=swish"), "semantics: activation 'swish': expected one of relu2, relu, silu, gelu");
    EXPECT_EQ(error_of("eps=1e-6,rope=gptj"), "semantics: rope 'gptj': expected one of neox, norm");
    EXPECT_EQ(error_of("rope_angle=f32"), "semantics: rope_angle 'f32': expected one of exact, steps_f32");
    EXPECT_EQ(error_of("profile=hf-f32"), "semantics: profile 'hf-f32': expected one of canonical, bitnetcpp");
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
    EXPECT_EQ(
        error_of("norm\n=x"),
        "semantics: unknown key 'norm\\x0a': expected one of profile, activation, eps, rope, rope_angle, theta, "
        "rope_offset, attn_sub_norm, ffn_sub_norm, sub_norms, quant, scale, i2s, kv, attn_q, head_input, head_tied");
}

}  // namespace
