// Keys to hyperparameters, and everything the forward pass must know that no shape tells.
#include <cmath>

#include "model/error.h"
#include "model/loader.h"

namespace bitnet {

namespace {

constexpr int layers_max = 1024;
constexpr int dimension_max = 1 << 24;     // 127 * 2^24 still fits the int32 accumulator of a ternary product
constexpr double theta_default = 10000.0;  // llama.cpp's, for a file that says nothing

// Published models whose files do not name their activation.
constexpr int vocab_2b4t = 128256, n_layer_2b4t = 30, n_embd_2b4t = 2560, n_ff_2b4t = 6912;
constexpr int vocab_1bitllm = 32002;

bool is_integer(GgufType type) {
    switch (type) {
    case GgufType::u8:
    case GgufType::i8:
    case GgufType::u16:
    case GgufType::i16:
    case GgufType::u32:
    case GgufType::i32:
    case GgufType::u64:
    case GgufType::i64: return true;
    default: return false;
    }
}

}  // namespace

struct ModelLoader::Family {
    const char *architecture;
    RopeOrder rope_order;
    bool sub_norms;           // may have them
    bool activation_is_silu;  // else no key and no name says it
};

const ModelLoader::Family ModelLoader::families[] = {
    {"bitnet-b1.58", RopeOrder::neox, true, false},
    {"bitnet-25", RopeOrder::neox, true, false},
    {"bitnet", RopeOrder::neox, true, true},
    {"llama", RopeOrder::norm, false, true},
};

void ModelLoader::read_architecture() {
    const GgufKey *key = file().find_key("general.architecture");
    if (!key) fail(Status::format, "%s: key 'general.architecture' is missing", file_name());
    if (key->type != GgufType::string) {
        fail(Status::format, "%s: key 'general.architecture': type %s: expected str", file_name(),
             key->type_text().c_str());
    }
    std::string known;
    for (const Family &family : families) {
        if (key->strings[0] == family.architecture) family_ = &family;
        known += (known.empty() ? "" : ", ") + std::string(family.architecture);
    }
    if (!family_) {
        fail(Status::unsupported, "%s: key 'general.architecture': '%s': expected one of %s", file_name(),
             quoted(key->text(0)).c_str(), known.c_str());
    }
    model_->architecture = family_->architecture;
}

int ModelLoader::integer_key(const char *suffix, int most) const {
    const GgufKey *key = find_key(suffix);
    if (!key) fail(Status::format, "%s: key '%s' is missing", file_name(), key_name(suffix).c_str());
    if (!is_integer(key->type)) {
        fail(Status::format, "%s: key '%s': type %s: expected an integer", file_name(), key->name.c_str(),
             key->type_text().c_str());
    }
    const int64_t value = key->integer();
    if (value < 1 || value > most) {
        fail(Status::format, "%s: key '%s': %s: expected 1 to %d", file_name(), key->name.c_str(), key->text(0).c_str(),
             most);
    }
    return int(value);
}

int ModelLoader::integer_key_or(const char *suffix, int most, int assumed) {
    if (find_key(suffix)) return integer_key(suffix, most);
    warn(format_text("key '%s' is missing: assumed %d", key_name(suffix).c_str(), assumed));
    return assumed;
}

double ModelLoader::number_key(const GgufKey &key) const {
    if (key.type != GgufType::f32 && key.type != GgufType::f64) {
        fail(Status::format, "%s: key '%s': type %s: expected f32", file_name(), key.name.c_str(),
             key.type_text().c_str());
    }
    return key.number();
}

void ModelLoader::read_hyperparameters() {
    Hyperparameters &hp = model_->hp;
    hp.n_embd = integer_key("embedding_length", dimension_max);
    hp.n_layer = integer_key("block_count", layers_max);
    hp.n_ff = integer_key("feed_forward_length", dimension_max);
    hp.n_ctx_train = integer_key("context_length", dimension_max);
    hp.n_vocab = vocabulary_size();
    read_heads();
    read_rope();

    const std::string eps_name = key_name("attention.layer_norm_rms_epsilon");
    const GgufKey *eps = file().find_key(eps_name);
    if (!eps) fail(Status::format, "%s: key '%s' is missing", file_name(), eps_name.c_str());
    model_->semantics.rms_eps = float(number_key(*eps));
    if (!std::isfinite(model_->semantics.rms_eps) || !(model_->semantics.rms_eps > 0)) {
        fail(Status::format, "%s: key '%s': %s: expected a finite number > 0", file_name(), eps_name.c_str(),
             eps->text(0).c_str());
    }
}

// Without a key: what the embedding has besides n_embd.
int ModelLoader::vocabulary_size() {
    const GgufTensor *embedding = find_tensor("token_embd.weight");
    if (!embedding) fail(Status::format, "%s: tensor 'token_embd.weight' is missing", file_name());
    if (find_key("vocab_size")) return integer_key("vocab_size", dimension_max);
    const uint64_t n_embd = uint64_t(model_->hp.n_embd);
    const uint64_t n = embedding->dims[0] == n_embd ? embedding->dims[1] : embedding->dims[0];
    if (n > uint64_t(dimension_max)) {
        fail(Status::format, "%s: tensor 'token_embd.weight': vocabulary of %llu: expected 1 to %d", file_name(),
             (unsigned long long)n, dimension_max);
    }
    return integer_key_or("vocab_size", dimension_max, int(n));
}

void ModelLoader::read_heads() {
    Hyperparameters &hp = model_->hp;
    hp.n_head = integer_key("attention.head_count", hp.n_embd);
    hp.n_head_kv = integer_key_or("attention.head_count_kv", hp.n_head, hp.n_head);
    if (hp.n_head % hp.n_head_kv != 0) {
        fail(Status::format, "%s: key '%s': %d heads: expected a multiple of %d, the KV heads", file_name(),
             key_name("attention.head_count").c_str(), hp.n_head, hp.n_head_kv);
    }
    if (find_key("attention.key_length")) {
        hp.head_dim = integer_key("attention.key_length", dimension_max / hp.n_head);
    } else if (hp.n_embd % hp.n_head == 0) {
        hp.head_dim = hp.n_embd / hp.n_head;
    } else {
        fail(Status::format, "%s: key '%s': %d: expected a multiple of %d, the number of heads", file_name(),
             key_name("embedding_length").c_str(), hp.n_embd, hp.n_head);
    }
    if (hp.head_dim % 2 != 0) {
        fail(Status::unsupported, "%s: heads of %d dimensions: expected an even number", file_name(), hp.head_dim);
    }
    if (!find_key("attention.value_length")) return;
    const int n_value = integer_key("attention.value_length", dimension_max);
    if (n_value != hp.head_dim) {
        fail(Status::unsupported, "%s: key '%s': %d: expected %d, as for keys", file_name(),
             key_name("attention.value_length").c_str(), n_value, hp.head_dim);
    }
}

void ModelLoader::read_rope() {
    Hyperparameters &hp = model_->hp;
    hp.n_rot = integer_key_or("rope.dimension_count", hp.head_dim, hp.head_dim);
    if (hp.n_rot % 2 != 0) {
        fail(Status::format, "%s: key '%s': %d: expected an even number", file_name(),
             key_name("rope.dimension_count").c_str(), hp.n_rot);
    }
    double &theta = model_->semantics.rope_theta;
    theta = theta_default;
    if (const GgufKey *key = find_key("rope.freq_base")) {
        theta = number_key(*key);
        // Below 1 the frequencies would grow from pair to pair without bound.
        if (!std::isfinite(theta) || theta < 1) {
            fail(Status::format, "%s: key '%s': %s: expected a finite number >= 1", file_name(), key->name.c_str(),
                 key->text(0).c_str());
        }
    } else {
        warn(format_text("key '%s' is missing: assumed %g", key_name("rope.freq_base").c_str(), theta));
    }
    refuse_rope_scaling();
}

// Scaled frequencies would be a different model: refused instead of ignored. "linear" by 1 is what converters write.
void ModelLoader::refuse_rope_scaling() {
    if (find_tensor("rope_freqs.weight")) {
        fail(Status::unsupported, "%s: tensor 'rope_freqs.weight': RoPE frequency factors are not supported",
             file_name());
    }
    std::string_view type = "linear";
    if (const GgufKey *key = find_key("rope.scaling.type")) {
        type = key->type == GgufType::string ? key->strings[0] : "";
        if (type != "none" && type != "linear") {
            fail(Status::unsupported, "%s: key '%s': '%s': expected none, or linear with factor 1", file_name(),
                 key->name.c_str(), quoted(key->text(1)).c_str());
        }
    }
    const GgufKey *factor = find_key("rope.scaling.factor");
    if (type == "none" || !factor) return;
    const double value = number_key(*factor);
    if (value != 0 && value != 1) {  // 0: as good as missing
        fail(Status::unsupported, "%s: key '%s': %s: expected 1", file_name(), factor->name.c_str(),
             factor->text(0).c_str());
    }
}

void ModelLoader::decide_semantics() {
    Semantics &semantics = model_->semantics;
    semantics.rope_order = family_->rope_order;
    semantics.attn_sub_norm = has_attn_sub_norm_ = has_sub_norm("attn_sub_norm");
    semantics.ffn_sub_norm = has_ffn_sub_norm_ = has_sub_norm("ffn_sub_norm");
    const bool tied = semantics.head_tied = !find_tensor("output.weight");
    decide_activation();
    apply_overrides(semantics, options_.overrides);
    if (semantics.attn_sub_norm && !has_attn_sub_norm_) {
        fail(Status::invalid, "semantics: attn_sub_norm 'on': %s has no attn_sub_norm tensors", file_name());
    }
    if (semantics.ffn_sub_norm && !has_ffn_sub_norm_) {
        fail(Status::invalid, "semantics: ffn_sub_norm 'on': %s has no ffn_sub_norm tensors", file_name());
    }
    if (semantics.layers.size() > size_t(model_->hp.n_layer))
        fail(Status::invalid, "semantics: layer %zu: the model has layers 0 to %d", semantics.layers.size() - 1,
             model_->hp.n_layer - 1);
    for (const Semantics &own : semantics.layers) {
        const bool attn = own.attn_sub_norm && !has_attn_sub_norm_, ffn = own.ffn_sub_norm && !has_ffn_sub_norm_;
        if (attn || ffn)
            fail(Status::invalid, "semantics: %s 'on' of a layer: %s has no such tensors",
                 attn ? "attn_sub_norm" : "ffn_sub_norm", file_name());
    }
    if (!semantics.head_tied && tied) {
        fail(Status::invalid, "semantics: head_tied 'off': %s has no tensor 'output.weight'", file_name());
    }
}

void ModelLoader::decide_activation() {
    Semantics &semantics = model_->semantics;
    if (const GgufKey *key = find_key("activation")) {
        Semantics named;
        try {
            apply_overrides(named, "activation=" + key->text(1));
        } catch (const Error &error) {
            fail(Status::format, "%s: key '%s': %s", file_name(), key->name.c_str(), error.what());
        }
        semantics.activation = named.activation;
        return;
    }
    if (family_->activation_is_silu) {
        semantics.activation = Activation::silu;
        return;
    }
    const Hyperparameters &hp = model_->hp;
    const char *reason = "";
    semantics.activation = Activation::relu2;
    if (hp.n_vocab == vocab_2b4t && hp.n_layer == n_layer_2b4t && hp.n_embd == n_embd_2b4t && hp.n_ff == n_ff_2b4t) {
        reason = " by the shape of BitNet b1.58 2B4T";
    } else if (hp.n_vocab == vocab_1bitllm) {
        semantics.activation = Activation::silu;
        reason = " by the vocabulary of 32002 tokens";
    }
    // An override that sets the activation leaves nothing assumed: two different starts then end the same.
    Semantics one, other;
    one.activation = Activation::relu2;
    other.activation = Activation::silu;
    apply_overrides(one, options_.overrides);
    apply_overrides(other, options_.overrides);
    if (one.activation == other.activation) return;
    const bool relu2 = semantics.activation == Activation::relu2;
    warn(format_text("no key names the activation: assumed %s%s; override with activation=%s", relu2 ? "relu2" : "silu",
                     reason, relu2 ? "silu" : "relu2"));
}

bool ModelLoader::has_sub_norm(const char *part) const {
    if (!family_->sub_norms) return false;
    int n_found = 0;
    int first_missing = -1;
    for (int layer = 0; layer < model_->hp.n_layer; layer++) {
        if (find_tensor(format_text("blk.%d.%s.weight", layer, part))) {
            n_found++;
        } else if (first_missing < 0) {
            first_missing = layer;
        }
    }
    if (n_found > 0 && first_missing >= 0) {
        fail(Status::format,
             "%s: tensor 'blk.%d.%s.weight' is missing, but %d of %d layers have it: expected all or none", file_name(),
             first_missing, part, n_found, model_->hp.n_layer);
    }
    return n_found > 0;
}

}  // namespace bitnet
