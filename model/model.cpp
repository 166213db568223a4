#include "model/model.h"

#include <map>
#include <utility>

#include "model/error.h"
#include "model/loader.h"

namespace bitnet {

namespace {

constexpr size_t unused_kinds_max = 16;  // a file with thousands of odd names still gives a readable list

// "blk.7.attn_q.bias" -> "blk.*.attn_q.bias", so that one line speaks for all layers.
std::string kind_of(const std::string &name) {
    if (name.compare(0, 4, "blk.") != 0) return name;
    const size_t dot = name.find('.', 4);
    return dot == std::string::npos ? name : "blk.*" + name.substr(dot);
}

}  // namespace

std::shared_ptr<const Model> Model::load(std::shared_ptr<const Mapping> bytes, const LoadOptions &options) {
    return ModelLoader(std::move(bytes), options).load();
}

ModelLoader::ModelLoader(std::shared_ptr<const Mapping> bytes, const LoadOptions &options)
    : options_(options), model_(std::make_shared<Model>()) {
    model_->file_ = std::make_unique<GgufFile>(std::move(bytes));
    for (const GgufTensor &tensor : file().tensors()) tensors_[tensor.name] = &tensor;
}

std::shared_ptr<const Model> ModelLoader::load() {
    read_architecture();
    read_hyperparameters();
    decide_semantics();
    bind_weights();
    load_tokenizer();
    prepare_codes();  // the long part, after everything that can fail at once
    report_scales();
    report_norms();
    report_unused();
    return model_;
}

const GgufTensor *ModelLoader::find_tensor(std::string_view name) const {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? nullptr : found->second;
}

void ModelLoader::load_tokenizer() {
    model_->tokenizer = Tokenizer::from_gguf(file(), model_->architecture, model_->warnings);
    const int n_tokens = model_->tokenizer.n_tokens();
    if (n_tokens != model_->hp.n_vocab) {
        fail(Status::format, "%s: key 'tokenizer.ggml.tokens': %d tokens: expected %d, the vocabulary of the weights",
             file_name(), n_tokens, model_->hp.n_vocab);
    }
}

void ModelLoader::report_unused() {
    std::map<std::string, size_t> kinds;
    for (const GgufTensor &tensor : file().tensors()) {
        if (!used_.count(&tensor)) kinds[kind_of(tensor.name)]++;
    }
    size_t n_reported = 0;
    for (const auto &[kind, count] : kinds) {
        if (n_reported++ == unused_kinds_max) {
            warn(format_text("%zu more kinds of tensors are not used", kinds.size() - unused_kinds_max));
            return;
        }
        const std::string times = count > 1 ? format_text(" (%zu tensors)", count) : "";
        warn(format_text("tensor '%s'%s is not used", quoted(kind).c_str(), times.c_str()));
    }
}

}  // namespace bitnet
