// From a GGUF file to a Model: keys to hyperparameters and semantics (hyperparameters.cpp), tensors to views
// (weights.cpp), in the order of load() (model.cpp).
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "model/model.h"

namespace bitnet {

// One use: construct, load(). Every step throws Error with the file's name in front; `options` must outlive the loader.
class ModelLoader {
public:
    ModelLoader(std::shared_ptr<const Mapping> bytes, const LoadOptions &options);
    std::shared_ptr<const Model> load();

private:
    // model.cpp
    const char *file_name() const { return file().name().c_str(); }
    const GgufFile &file() const { return *model_->file_; }
    const GgufTensor *find_tensor(std::string_view name) const;
    void warn(const std::string &text) { model_->warnings.push_back(text); }
    void load_tokenizer();
    void report_unused();

    // hyperparameters.cpp: `suffix` is a key's name without "<architecture>."
    struct Family;
    static const Family families[];
    void read_architecture();
    void read_hyperparameters();
    void read_heads();
    void read_rope();
    void refuse_rope_scaling();
    int vocabulary_size();
    std::string key_name(const char *suffix) const { return model_->architecture + "." + suffix; }
    const GgufKey *find_key(const char *suffix) const { return file().find_key(key_name(suffix)); }
    int integer_key(const char *suffix, int most) const;            // 1 to `most`; missing: Error
    int integer_key_or(const char *suffix, int most, int assumed);  // missing: `assumed` and a warning
    double number_key(const GgufKey &key) const;                    // f32 or f64
    void decide_semantics();
    void decide_activation();
    bool has_sub_norm(const char *part) const;  // all layers or none; else Error

    // weights.cpp
    struct NormKind;
    void bind_weights();
    void bind_layer(int layer);
    void bind_head();
    const GgufTensor &take_tensor(const std::string &name);  // counts it as used; missing: Error
    void expect_dims(const GgufTensor &tensor, uint64_t n0, uint64_t n1) const;
    void expect_float(const GgufTensor &tensor) const;
    TernaryMatrix bind_ternary(const std::string &name, int n_out, int n_in);
    FloatMatrix bind_table(const std::string &name);
    const float *bind_norm(const std::string &name, int n);
    const void *transposed(const GgufTensor &tensor);  // [n_vocab, n_embd] -> (n_vocab, n_embd), a copy
    uint8_t *keep(size_t n_bytes);                     // memory that lives with the model
    void prepare_codes();                              // checks every code, repacks ARM blocks, reports progress
    void prepare_codes(TernaryMatrix &matrix, const std::string &name);
    void report_progress(uint64_t done, uint64_t total) const;
    void report_scales();
    void report_norms();
    void report_norm_kind(const NormKind &kind);

    const LoadOptions &options_;
    std::shared_ptr<Model> model_;
    const Family *family_ = nullptr;
    bool has_attn_sub_norm_ = false;  // by the tensors, whatever an override says
    bool has_ffn_sub_norm_ = false;
    int n_ternary_ = 0;
    std::map<std::string_view, const GgufTensor *> tensors_;  // by name
    std::unordered_set<const GgufTensor *> used_;
};

}  // namespace bitnet
