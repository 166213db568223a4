// Tensors to typed views. In place wherever the file's bytes can be used as they are; otherwise a copy lives with the
// model: transposed embeddings, norms that are not F32, data that the caller's memory does not align, ARM code order.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "model/error.h"
#include "model/half.h"
#include "model/i2_s.h"
#include "model/loader.h"

namespace bitnet {

namespace {

using ull = unsigned long long;

constexpr size_t transpose_tile = 64;
// Outside of these the mean magnitude of a norm's weights is worth a line. Trained models do leave them.
constexpr double norm_mean_low = 0.1;
constexpr double norm_mean_high = 10.0;

std::string dims_text(const uint64_t *dims, uint32_t n) {
    std::string text = "[";
    for (uint32_t i = 0; i < n; i++) text += (i > 0 ? ", " : "") + std::to_string(dims[i]);
    return text + "]";
}

std::string layer_tensor(int layer, const char *part) { return format_text("blk.%d.%s.weight", layer, part); }

void to_f32(const GgufTensor &tensor, float *out, size_t n) {
    if (tensor.type() == TensorType::f32) {
        memcpy(out, tensor.data, n * sizeof(float));
        return;
    }
    for (size_t i = 0; i < n; i++) {
        uint16_t bits;
        memcpy(&bits, tensor.data + 2 * i, sizeof bits);
        out[i] = tensor.type() == TensorType::f16 ? half_to_float(bits) : bfloat_to_float(bits);
    }
}

bool is_aligned(const void *data, size_t n) { return reinterpret_cast<uintptr_t>(data) % n == 0; }

// (n_rows, n_cols) -> (n_cols, n_rows); tiles keep both sides in the cache.
template <typename T> void transpose(const uint8_t *in, size_t n_rows, size_t n_cols, uint8_t *out) {
    for (size_t row0 = 0; row0 < n_rows; row0 += transpose_tile) {
        const size_t row1 = std::min(n_rows, row0 + transpose_tile);
        for (size_t col0 = 0; col0 < n_cols; col0 += transpose_tile) {
            const size_t col1 = std::min(n_cols, col0 + transpose_tile);
            for (size_t row = row0; row < row1; row++) {
                for (size_t col = col0; col < col1; col++) {
                    memcpy(out + (col * n_rows + row) * sizeof(T), in + (row * n_cols + col) * sizeof(T), sizeof(T));
                }
            }
        }
    }
}

size_t code_bytes(const TernaryMatrix &matrix) { return size_t(matrix.n_out) * size_t(matrix.n_in) / 4; }

struct TernaryPart {
    const char *name;
    TernaryMatrix LayerWeights::*matrix;
};
constexpr TernaryPart ternary_parts[] = {
    {"attn_q", &LayerWeights::wq},       {"attn_k", &LayerWeights::wk},       {"attn_v", &LayerWeights::wv},
    {"attn_output", &LayerWeights::wo},  {"ffn_gate", &LayerWeights::w_gate}, {"ffn_up", &LayerWeights::w_up},
    {"ffn_down", &LayerWeights::w_down},
};

}  // namespace

uint8_t *ModelLoader::keep(size_t n_bytes) {
    model_->converted_.push_back(std::unique_ptr<uint8_t[]>(new uint8_t[n_bytes]));
    return model_->converted_.back().get();
}

const GgufTensor &ModelLoader::take_tensor(const std::string &name) {
    const GgufTensor *tensor = find_tensor(name);
    if (!tensor) fail(Status::format, "%s: tensor '%s' is missing", file_name(), name.c_str());
    if (used_.insert(tensor).second) model_->n_params += tensor->n_elements();
    return *tensor;
}

void ModelLoader::expect_dims(const GgufTensor &tensor, uint64_t n0, uint64_t n1) const {
    if (tensor.dims[0] == n0 && tensor.dims[1] == n1 && tensor.dims[2] == 1 && tensor.dims[3] == 1) return;
    const uint64_t expected[] = {n0, n1};
    fail(Status::format, "%s: tensor '%s': dims %s: expected %s", file_name(), tensor.name.c_str(),
         dims_text(tensor.dims, tensor.n_dims).c_str(), dims_text(expected, n1 > 1 ? 2 : 1).c_str());
}

void ModelLoader::expect_float(const GgufTensor &tensor) const {
    if (tensor.type() != TensorType::i2_s) return;
    fail(Status::unsupported, "%s: tensor '%s': type %s: expected F32, F16 or BF16", file_name(), tensor.name.c_str(),
         tensor.type_name.c_str());
}

void ModelLoader::bind_weights() {
    model_->token_embd = bind_table("token_embd.weight");
    bind_head();
    model_->output_norm = bind_norm("output_norm.weight", model_->hp.n_embd);
    // By layer, not at once: a file that claims many layers must also have them.
    for (int layer = 0; layer < model_->hp.n_layer; layer++) bind_layer(layer);
}

void ModelLoader::bind_head() {
    const GgufTensor *dedicated = find_tensor("output.weight");
    if (model_->semantics.head_tied) {
        model_->head = model_->token_embd;
        if (dedicated) used_.insert(dedicated);  // left out on request: nothing to report
    } else {
        model_->head = bind_table("output.weight");
    }
}

void ModelLoader::bind_layer(int layer) {
    const Hyperparameters &hp = model_->hp;
    const auto norm = [&](const char *part, int n) { return bind_norm(layer_tensor(layer, part), n); };
    const auto ternary = [&](const char *part, int n_out, int n_in) {
        return bind_ternary(layer_tensor(layer, part), n_out, n_in);
    };
    LayerWeights weights;
    weights.attn_norm = norm("attn_norm", hp.n_embd);
    weights.wq = ternary("attn_q", hp.n_q(), hp.n_embd);
    weights.wk = ternary("attn_k", hp.n_kv(), hp.n_embd);
    weights.wv = ternary("attn_v", hp.n_kv(), hp.n_embd);
    // Bound even when an override turns them off: the tensors are the model's, the switch is the forward pass's.
    if (has_attn_sub_norm_) weights.attn_sub_norm = norm("attn_sub_norm", hp.n_q());
    weights.wo = ternary("attn_output", hp.n_embd, hp.n_q());
    weights.ffn_norm = norm("ffn_norm", hp.n_embd);
    weights.w_gate = ternary("ffn_gate", hp.n_ff, hp.n_embd);
    weights.w_up = ternary("ffn_up", hp.n_ff, hp.n_embd);
    if (has_ffn_sub_norm_) weights.ffn_sub_norm = norm("ffn_sub_norm", hp.n_ff);
    weights.w_down = ternary("ffn_down", hp.n_embd, hp.n_ff);
    model_->layers.push_back(weights);
}

const float *ModelLoader::bind_norm(const std::string &name, int n) {
    const GgufTensor &tensor = take_tensor(name);
    expect_float(tensor);
    expect_dims(tensor, uint64_t(n), 1);
    if (tensor.type() == TensorType::f32 && is_aligned(tensor.data, alignof(float))) {
        return reinterpret_cast<const float *>(tensor.data);
    }
    auto *copy = reinterpret_cast<float *>(keep(size_t(n) * sizeof(float)));
    to_f32(tensor, copy, size_t(n));
    return copy;
}

FloatMatrix ModelLoader::bind_table(const std::string &name) {
    const GgufTensor &tensor = take_tensor(name);
    const Hyperparameters &hp = model_->hp;
    expect_float(tensor);
    if (hp.n_vocab == hp.n_embd) {
        fail(Status::unsupported,
             "%s: tensor '%s': dims %s: n_vocab and n_embd are equal, so [n_vocab, n_embd] and its transpose cannot be "
             "told apart: expected different sizes",
             file_name(), tensor.name.c_str(), dims_text(tensor.dims, tensor.n_dims).c_str());
    }
    FloatMatrix matrix;
    matrix.type = tensor.type();
    matrix.n_rows = hp.n_vocab;
    matrix.n_cols = hp.n_embd;
    if (tensor.dims[0] == uint64_t(hp.n_vocab) && tensor.dims[1] == uint64_t(hp.n_embd) && tensor.n_dims == 2) {
        matrix.data = transposed(tensor);
        return matrix;
    }
    expect_dims(tensor, uint64_t(hp.n_embd), uint64_t(hp.n_vocab));
    matrix.data = tensor.data;
    if (!is_aligned(tensor.data, tensor.type() == TensorType::f32 ? sizeof(float) : sizeof(uint16_t))) {
        uint8_t *copy = keep(tensor.n_bytes);
        memcpy(copy, tensor.data, tensor.n_bytes);
        matrix.data = copy;
    }
    return matrix;
}

const void *ModelLoader::transposed(const GgufTensor &tensor) {
    uint8_t *out = keep(tensor.n_bytes);
    const size_t n_rows = size_t(tensor.dims[1]), n_cols = size_t(tensor.dims[0]);
    if (tensor.type() == TensorType::f32) {
        transpose<uint32_t>(tensor.data, n_rows, n_cols, out);
    } else {
        transpose<uint16_t>(tensor.data, n_rows, n_cols, out);
    }
    return out;
}

TernaryMatrix ModelLoader::bind_ternary(const std::string &name, int n_out, int n_in) {
    const GgufTensor &tensor = take_tensor(name);
    if (tensor.type() != TensorType::i2_s) {
        fail(Status::unsupported, "%s: tensor '%s': type %s: expected I2_S", file_name(), name.c_str(),
             tensor.type_name.c_str());
    }
    expect_dims(tensor, uint64_t(n_in), uint64_t(n_out));
    TernaryMatrix matrix;
    matrix.number = n_ternary_++;
    matrix.codes = tensor.data;
    matrix.n_out = n_out;
    matrix.n_in = n_in;
    memcpy(&matrix.scale, tensor.data + tensor.n_bytes - i2_s_tail_bytes, sizeof matrix.scale);
    if (!std::isfinite(matrix.scale)) {
        fail(Status::format, "%s: tensor '%s': weight scale %g: expected a finite number", file_name(), name.c_str(),
             double(matrix.scale));
    }
    return matrix;
}

void ModelLoader::prepare_codes() {
    uint64_t total = 0, done = 0;
    for (const LayerWeights &weights : model_->layers) {
        for (const TernaryPart &part : ternary_parts) total += code_bytes(weights.*part.matrix);
    }
    for (int layer = 0; layer < model_->hp.n_layer; layer++) {
        report_progress(done, total);
        for (const TernaryPart &part : ternary_parts) {
            TernaryMatrix &matrix = model_->layers[size_t(layer)].*part.matrix;
            prepare_codes(matrix, layer_tensor(layer, part.name));
            done += code_bytes(matrix);
        }
    }
    report_progress(done, total);
    if (!options_.check_codes) warn("ternary codes were not checked for the invalid value 3, as asked");
}

void ModelLoader::prepare_codes(TernaryMatrix &matrix, const std::string &name) {
    const size_t n_bytes = code_bytes(matrix);
    if (model_->semantics.code_order == CodeOrder::block64) {
        uint8_t *repacked = keep(n_bytes);
        repack_block64(matrix.codes, n_bytes, repacked);
        matrix.codes = repacked;
    }
    if (!options_.check_codes) return;
    const int64_t invalid = find_invalid_code(matrix.codes, n_bytes);
    if (invalid < 0) return;
    fail(Status::format, "%s: tensor '%s': code 3 at row %lld, column %lld: expected 0, 1 or 2", file_name(),
         name.c_str(), (long long)(invalid / matrix.n_in), (long long)(invalid % matrix.n_in));
}

void ModelLoader::report_progress(uint64_t done, uint64_t total) const {
    if (!options_.progress || !options_.progress(done, total)) return;
    fail(Status::cancelled, "%s: loading was cancelled after %llu of %llu bytes", file_name(), (ull)done, (ull)total);
}

void ModelLoader::report_scales() {
    size_t n_found = 0;
    std::string first;
    for (size_t layer = 0; layer < model_->layers.size(); layer++) {
        for (const TernaryPart &part : ternary_parts) {
            const float scale = (model_->layers[layer].*part.matrix).scale;
            if (scale > 0) continue;
            if (n_found++ == 0) {
                first = format_text("'%s' (%g)", layer_tensor(int(layer), part.name).c_str(), double(scale));
            }
        }
    }
    if (n_found > 0) {
        warn(format_text("weight scale zero or negative in %zu tensors, the first %s", n_found, first.c_str()));
    }
}

// The norms of one name over all layers.
struct ModelLoader::NormKind {
    const char *name;
    int n;
    std::vector<const float *> weights;  // one a layer, each (n)
};

void ModelLoader::report_norms() {
    const Hyperparameters &hp = model_->hp;
    NormKind attn_norm = {"attn_norm", hp.n_embd, {}}, attn_sub_norm = {"attn_sub_norm", hp.n_q(), {}};
    NormKind ffn_norm = {"ffn_norm", hp.n_embd, {}}, ffn_sub_norm = {"ffn_sub_norm", hp.n_ff, {}};
    for (const LayerWeights &weights : model_->layers) {
        attn_norm.weights.push_back(weights.attn_norm);
        if (weights.attn_sub_norm) attn_sub_norm.weights.push_back(weights.attn_sub_norm);
        ffn_norm.weights.push_back(weights.ffn_norm);
        if (weights.ffn_sub_norm) ffn_sub_norm.weights.push_back(weights.ffn_sub_norm);
    }
    report_norm_kind(attn_norm);
    report_norm_kind(attn_sub_norm);
    report_norm_kind(ffn_norm);
    report_norm_kind(ffn_sub_norm);
    report_norm_kind({"output_norm", hp.n_embd, {model_->output_norm}});
}

// Facts only: whatever the weights are, they are used as they are.
void ModelLoader::report_norm_kind(const NormKind &kind) {
    double lowest = INFINITY, highest = 0;
    size_t n_non_finite = 0;
    for (const float *weights : kind.weights) {
        double sum = 0;
        for (int i = 0; i < kind.n; i++) {
            const bool finite = std::isfinite(weights[i]);
            n_non_finite += !finite;
            if (finite) sum += std::fabs(double(weights[i]));
        }
        lowest = std::min(lowest, sum / kind.n);
        highest = std::max(highest, sum / kind.n);
    }
    if (n_non_finite > 0) warn(format_text("%s: %zu weights are NaN or infinite", kind.name, n_non_finite));
    if (kind.weights.empty() || (lowest >= norm_mean_low && highest <= norm_mean_high)) return;
    const std::string range = kind.weights.size() == 1
                                  ? format_text("%.3g", lowest)
                                  : format_text("%.3g to %.3g over %zu layers", lowest, highest, kind.weights.size());
    warn(format_text("%s weights are far from 1: mean magnitude %s; used as they are", kind.name, range.c_str()));
}

}  // namespace bitnet
