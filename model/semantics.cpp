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
constexpr int layers_max = 1024;  // no model has more (hyperparameters.cpp)

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

// Always printed, in this order.
const std::vector<const Switch *> &reference_switches() {
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
    static const NamedSwitch<ActivationQuant> quant("quant", &S::activation_quant,
                                                    {{"row_int8", ActivationQuant::row_int8},
                                                     {"none", ActivationQuant::none},
                                                     {"dequantised", ActivationQuant::dequantised},
                                                     {"tensor_int8", ActivationQuant::tensor_int8},
                                                     {"block256_int8", ActivationQuant::block256_int8},
                                                     {"block32_int8", ActivationQuant::block32_int8},
                                                     {"f16", ActivationQuant::f16}});
    static const NamedSwitch<WeightScale> scale(
        "scale", &S::weight_scale,
        {{"multiply", WeightScale::multiply}, {"divide", WeightScale::divide}, {"none", WeightScale::none}});
    static const NamedSwitch<CodeOrder> i2s("i2s", &S::code_order,
                                            {{"block128", CodeOrder::block128},
                                             {"block64", CodeOrder::block64},
                                             {"block32", CodeOrder::block32},
                                             {"sequential", CodeOrder::sequential}});
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

// Printed after those, when they are not at their default.
const std::vector<const Switch *> &imitation_switches() {
    using S = Semantics;
    static const NamedSwitch<Norm> norm("norm", &S::norm,
                                        {{"rms", Norm::rms},
                                         {"unweighted", Norm::unweighted},
                                         {"weighted_twice", Norm::weighted_twice},
                                         {"centred", Norm::centred},
                                         {"skipped", Norm::skipped}});
    static const NamedSwitch<Rounding> rounding(
        "round", &S::rounding, {{"even", Rounding::even}, {"away", Rounding::away}, {"truncate", Rounding::truncate}});
    static const NamedSwitch<Accumulator> accumulator("acc", &S::accumulator,
                                                      {{"int32", Accumulator::int32}, {"int16", Accumulator::int16}});
    static const NamedSwitch<ScaleType> scale_type(
        "scale_type", &S::scale_type, {{"f32", ScaleType::f32}, {"f16", ScaleType::f16}, {"bf16", ScaleType::bf16}});
    static const NamedSwitch<CodeBits> code_bits(
        "i2s_bits", &S::code_bits, {{"high_first", CodeBits::high_first}, {"low_first", CodeBits::low_first}});
    static const NamedSwitch<CodeMap> code_map("i2s_map", &S::code_map,
                                               {{"-0+", CodeMap::mzp},
                                                {"-+0", CodeMap::mpz},
                                                {"0-+", CodeMap::zmp},
                                                {"0+-", CodeMap::zpm},
                                                {"+-0", CodeMap::pmz},
                                                {"+0-", CodeMap::pzm}});
    static const NamedSwitch<KvSwap> kv_swap(
        "kv_swap", &S::kv_swap, {{"off", KvSwap::off}, {"attention", KvSwap::attention}, {"weights", KvSwap::weights}});
    static const NamedSwitch<KvHeads> kv_heads("kv_heads", &S::kv_heads,
                                               {{"grouped", KvHeads::grouped}, {"interleaved", KvHeads::interleaved}});
    static const NamedSwitch<AttentionScale> attention_scale(
        "attn_scale", &S::attention_scale,
        {{"root", AttentionScale::root}, {"none", AttentionScale::none}, {"full", AttentionScale::full}});
    static const NamedSwitch<DotInput> attn_p("attn_p", &S::attn_p, {{"f32", DotInput::f32}, {"f16", DotInput::f16}});
    static const NamedSwitch<AttentionSum> attention_sum("attn_sum", &S::attention_sum,
                                                         {{"f32", AttentionSum::f32}, {"f16", AttentionSum::f16}});
    static const NamedSwitch<StageType> stage_type("stage_type", &S::stage_type,
                                                   {{"f32", StageType::f32}, {"bf16", StageType::bf16}});
    static const std::vector<const Switch *> all = {
        &norm,    &rounding, &accumulator,     &scale_type, &code_bits,     &code_map,
        &kv_swap, &kv_heads, &attention_scale, &attn_p,     &attention_sum, &stage_type};
    return all;
}

void apply_profile(Semantics &semantics, std::string_view name) {
    if (name == "canonical") return;
    if (name == "bitnetcpp") {
        semantics.kv = KvType::f16;
        semantics.attn_q = DotInput::f16;
        semantics.head_input = DotInput::f16;
        semantics.rope_angle = RopeAngle::steps_f32;
    } else if (name == "hf-f32" || name == "hf-bf16") {
        semantics.activation_quant = ActivationQuant::dequantised;
        if (name == "hf-bf16") semantics.stage_type = StageType::bf16;
    } else if (name == "q8k") {
        semantics.activation_quant = ActivationQuant::block256_int8;
    } else {
        reject("profile", name, "one of canonical, bitnetcpp, hf-f32, hf-bf16, q8k");
    }
}

void apply_to_one(Semantics &semantics, std::string_view key, std::string_view value) {
    if (key == "profile") return apply_profile(semantics, value);
    if (key == "sub_norms") {
        if (value != "on" && value != "off") reject(key, value, "one of on, off");
        apply_to_one(semantics, "attn_sub_norm", value);
        return apply_to_one(semantics, "ffn_sub_norm", value);
    }
    std::string expected = "profile";
    for (const auto *list : {&reference_switches(), &imitation_switches()}) {
        for (const Switch *candidate : *list) {
            if (key == candidate->key()) return candidate->read(semantics, value);
            expected += std::string(", ") + candidate->key();
            if (std::string_view(candidate->key()) == "ffn_sub_norm") expected += ", sub_norms";
        }
    }
    fail(Status::invalid, "semantics: unknown key '%s': expected one of %s", quoted(key.data(), key.size()).c_str(),
         expected.c_str());
}

struct LayerRange {
    int first, last;
};

LayerRange parse_layers(std::string_view text) {
    const size_t dash = text.find('-');
    LayerRange range = {};
    const bool good = parse_number(text.substr(0, dash), range.first) &&
                      parse_number(dash == std::string_view::npos ? text : text.substr(dash + 1), range.last) &&
                      range.first >= 0 && range.first <= range.last && range.last < layers_max;
    if (!good) {
        fail(Status::invalid, "semantics: layers '%s': expected a layer such as 3 or a range such as 0-3, up to %d",
             quoted(text.data(), text.size()).c_str(), layers_max - 1);
    }
    return range;
}

// To the model, which its layers follow, or with "key@layers" to those alone.
void apply_one(Semantics &semantics, std::string_view key, std::string_view value) {
    const size_t at = key.find('@');
    if (at == std::string_view::npos) {
        apply_to_one(semantics, key, value);
        for (Semantics &layer : semantics.layers) apply_to_one(layer, key, value);
        return;
    }
    const LayerRange range = parse_layers(key.substr(at + 1));
    key = key.substr(0, at);
    if (key == "profile" || key == "head_input" || key == "head_tied")
        fail(Status::invalid, "semantics: '%s' is of the whole model: expected no layers after it",
             std::string(key).c_str());
    Semantics alike = semantics;
    alike.layers.clear();
    if (semantics.layers.size() <= size_t(range.last)) semantics.layers.resize(size_t(range.last) + 1, alike);
    for (int layer = range.first; layer <= range.last; ++layer)
        apply_to_one(semantics.layers[size_t(layer)], key, value);
}

// Layers at the end that are as the model need no semantics of their own.
void forget_alike(Semantics &semantics) {
    Semantics alike = semantics;
    alike.layers.clear();
    while (!semantics.layers.empty() && semantics.layers.back() == alike) semantics.layers.pop_back();
}

// "key@first-last=value" for every run of layers that have another value than the model.
std::string layers_text(const Semantics &semantics, const Switch &item) {
    const std::string model = item.text(semantics);
    std::string text;
    const size_t n = semantics.layers.size();
    for (size_t first = 0; first < n;) {
        const std::string value = item.text(semantics.layers[first]);
        size_t next = first + 1;
        while (next < n && item.text(semantics.layers[next]) == value) ++next;
        if (value != model) {
            text += std::string(",") + item.key() + "@" + std::to_string(first);
            if (next - first > 1) text += "-" + std::to_string(next - 1);
            text += "=" + value;
        }
        first = next;
    }
    return text;
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
    forget_alike(changed);
    semantics = changed;
}

std::string to_text(const Semantics &semantics) {
    static const Semantics defaults;
    std::string text, of_layers;
    for (const Switch *item : reference_switches()) {
        if (!text.empty()) text += ",";
        text += item->key() + std::string("=") + item->text(semantics);
        of_layers += layers_text(semantics, *item);
    }
    for (const Switch *item : imitation_switches()) {
        const std::string value = item->text(semantics);
        if (value != item->text(defaults)) text += std::string(",") + item->key() + "=" + value;
        of_layers += layers_text(semantics, *item);
    }
    return text + of_layers;
}

}  // namespace bitnet
