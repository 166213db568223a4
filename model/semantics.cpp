#include "model/semantics.h"

#include <charconv>
#include <cmath>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "model/error.h"

namespace bitnet {

namespace {

// sin and cos are exact to the last bit only for moderate angles; no known off-by-one bug needs more.
constexpr int rope_offset_max = 1 << 19;

[[noreturn]] void reject(std::string_view key, std::string_view value, const std::string &expected) {
    fail(Status::invalid, "semantics: %s '%s': expected %s", std::string(key).c_str(),
         quoted(value.data(), value.size()).c_str(), expected.c_str());
}

// One named switch: its key, how it is read and how it is written.
class Switch {
public:
    explicit Switch(const char *key) : key_(key) {}
    virtual ~Switch() = default;
    const char *key() const { return key_; }
    virtual void read(Semantics &semantics, std::string_view value) const = 0;
    virtual std::string text(const Semantics &semantics) const = 0;

private:
    const char *key_;
};

template <typename T> class NamedSwitch final : public Switch {
public:
    using Names = std::vector<std::pair<const char *, T>>;
    NamedSwitch(const char *key, T Semantics::*field, Names names)
        : Switch(key), field_(field), names_(std::move(names)) {}

    void read(Semantics &semantics, std::string_view value) const override {
        std::string expected;
        for (const auto &[name, meaning] : names_) {
            if (value == name) {
                semantics.*field_ = meaning;
                return;
            }
            expected += (expected.empty() ? "one of " : ", ") + std::string(name);
        }
        reject(key(), value, expected);
    }

    std::string text(const Semantics &semantics) const override {
        for (const auto &[name, meaning] : names_) {
            if (meaning == semantics.*field_) return name;
        }
        fail(Status::internal, "semantics: %s has no value %d", key(), int(semantics.*field_));
    }

private:
    T Semantics::*field_;
    const Names names_;
};

template <typename T> bool parse_number(std::string_view text, T &out) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
    return error == std::errc() && end == text.data() + text.size();
}

template <typename T> std::string number_text(T value) {
    char buffer[400];  // the longest double in fixed notation has 309 digits before the point
    const auto result = std::to_chars(buffer, buffer + sizeof buffer, value);
    return std::string(buffer, result.ptr);
}

class EpsSwitch final : public Switch {
public:
    using Switch::Switch;
    void read(Semantics &semantics, std::string_view value) const override {
        float eps = 0;
        if (!parse_number(value, eps) || !std::isfinite(eps) || eps < 0) reject(key(), value, "a finite number >= 0");
        semantics.rms_eps = eps;
    }
    std::string text(const Semantics &semantics) const override { return number_text(semantics.rms_eps); }
};

class ThetaSwitch final : public Switch {
public:
    using Switch::Switch;
    void read(Semantics &semantics, std::string_view value) const override {
        double theta = 0;
        if (!parse_number(value, theta) || !std::isfinite(theta) || theta < 1)
            reject(key(), value, "a finite number >= 1");
        semantics.rope_theta = theta;
    }
    std::string text(const Semantics &semantics) const override {
        char buffer[64];  // the shortest form is "5e+05"; people write 500000
        const double theta = semantics.rope_theta;
        const auto style = theta < 1e15 ? std::chars_format::fixed : std::chars_format::scientific;
        return std::string(buffer, std::to_chars(buffer, buffer + sizeof buffer, theta, style).ptr);
    }
};

class RopeOffsetSwitch final : public Switch {
public:
    using Switch::Switch;
    void read(Semantics &semantics, std::string_view value) const override {
        int offset = 0;
        if (!parse_number(value, offset) || offset > rope_offset_max || offset < -rope_offset_max) {
            reject(key(), value, format_text("an integer from %d to %d", -rope_offset_max, rope_offset_max));
        }
        semantics.rope_offset = offset;
    }
    std::string text(const Semantics &semantics) const override { return number_text(semantics.rope_offset); }
};

// In the order in which they are printed.
const std::vector<const Switch *> &switches() {
    using S = Semantics;
    static const NamedSwitch<Activation> activation("activation", &S::activation,
                                                    {{"relu2", Activation::relu2},
                                                     {"relu", Activation::relu},
                                                     {"silu", Activation::silu},
                                                     {"gelu", Activation::gelu}});
    static const EpsSwitch eps("eps");
    static const NamedSwitch<RopeOrder> rope("rope", &S::rope_order,
                                             {{"neox", RopeOrder::neox}, {"norm", RopeOrder::norm}});
    static const NamedSwitch<RopeAngle> rope_angle("rope_angle", &S::rope_angle,
                                                   {{"exact", RopeAngle::exact}, {"steps_f32", RopeAngle::steps_f32}});
    static const ThetaSwitch theta("theta");
    static const RopeOffsetSwitch rope_offset("rope_offset");
    static const NamedSwitch<bool> attn_sub_norm("attn_sub_norm", &S::attn_sub_norm, {{"on", true}, {"off", false}});
    static const NamedSwitch<bool> ffn_sub_norm("ffn_sub_norm", &S::ffn_sub_norm, {{"on", true}, {"off", false}});
    static const NamedSwitch<ActivationQuant> quant(
        "quant", &S::activation_quant, {{"row_int8", ActivationQuant::row_int8}, {"none", ActivationQuant::none}});
    static const NamedSwitch<WeightScale> scale(
        "scale", &S::weight_scale,
        {{"multiply", WeightScale::multiply}, {"divide", WeightScale::divide}, {"none", WeightScale::none}});
    static const NamedSwitch<CodeOrder> i2s("i2s", &S::code_order,
                                            {{"block128", CodeOrder::block128}, {"block64", CodeOrder::block64}});
    static const NamedSwitch<KvType> kv("kv", &S::kv, {{"f32", KvType::f32}, {"f16", KvType::f16}});
    const NamedSwitch<DotInput>::Names dot_inputs = {{"f32", DotInput::f32}, {"f16", DotInput::f16}};
    static const NamedSwitch<DotInput> attn_q("attn_q", &S::attn_q, dot_inputs);
    static const NamedSwitch<DotInput> head_input("head_input", &S::head_input, dot_inputs);
    static const NamedSwitch<bool> head_tied("head_tied", &S::head_tied, {{"on", true}, {"off", false}});
    static const std::vector<const Switch *> all = {
        &activation, &eps,   &rope, &rope_angle, &theta,  &rope_offset, &attn_sub_norm, &ffn_sub_norm,
        &quant,      &scale, &i2s,  &kv,         &attn_q, &head_input,  &head_tied};
    return all;
}

void apply_profile(Semantics &semantics, std::string_view name) {
    if (name == "canonical") return;
    if (name != "bitnetcpp") reject("profile", name, "one of canonical, bitnetcpp");
    semantics.kv = KvType::f16;
    semantics.attn_q = DotInput::f16;
    semantics.head_input = DotInput::f16;
    semantics.rope_angle = RopeAngle::steps_f32;
}

void apply_one(Semantics &semantics, std::string_view key, std::string_view value) {
    if (key == "profile") return apply_profile(semantics, value);
    if (key == "sub_norms") {
        if (value != "on" && value != "off") reject(key, value, "one of on, off");
        apply_one(semantics, "attn_sub_norm", value);
        return apply_one(semantics, "ffn_sub_norm", value);
    }
    std::string expected = "profile";
    for (const Switch *candidate : switches()) {
        if (key == candidate->key()) return candidate->read(semantics, value);
        expected += std::string(", ") + candidate->key();
        if (std::string_view(candidate->key()) == "ffn_sub_norm") expected += ", sub_norms";
    }
    fail(Status::invalid, "semantics: unknown key '%s': expected one of %s", quoted(key.data(), key.size()).c_str(),
         expected.c_str());
}

}  // namespace

void apply_overrides(Semantics &semantics, const std::string &overrides) {
    Semantics changed = semantics;  // all or nothing
    std::string_view rest = overrides;
    while (!rest.empty()) {
        const size_t comma = rest.find(',');
        const std::string_view item = rest.substr(0, comma);
        const size_t equals = item.find('=');
        if (equals == std::string_view::npos) {
            fail(Status::invalid, "semantics: '%s': expected key=value", quoted(item.data(), item.size()).c_str());
        }
        apply_one(changed, item.substr(0, equals), item.substr(equals + 1));
        if (comma == std::string_view::npos) break;
        rest.remove_prefix(comma + 1);
        if (rest.empty()) fail(Status::invalid, "semantics: '': expected key=value after the last comma");
    }
    semantics = changed;
}

std::string to_text(const Semantics &semantics) {
    std::string text;
    for (const Switch *item : switches()) {
        if (!text.empty()) text += ",";
        text += item->key() + std::string("=") + item->text(semantics);
    }
    return text;
}

}  // namespace bitnet
