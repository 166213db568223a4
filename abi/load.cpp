// Section 4 of the header: loading and looking at a model.
#include <blake3.h>

#include <cstdlib>

#include "abi/boundary.h"

namespace bitnet {

static std::string blake3_hex(const void *data, size_t n_bytes) {
    blake3_hasher hasher;
    blake3_hasher_init(&hasher);
    blake3_hasher_update(&hasher, data, n_bytes);
    uint8_t digest[BLAKE3_OUT_LEN];
    blake3_hasher_finalize(&hasher, digest, sizeof digest);
    std::string hex;
    for (const uint8_t byte : digest) hex += format_text("%02x", byte);
    return hex;
}

const std::string &LoadedModel::hash() const {
    std::call_once(hashed_, [this] {
        const Mapping &bytes = model->file().bytes();
        hash_ = blake3_hex(bytes.data(), bytes.size());
    });
    return hash_;
}

static bitnet_model_t *load(std::shared_ptr<const Mapping> bytes, const bitnet_load_params_t &params) {
    const char *isa = params.isa ? params.isa : secure_getenv("BITNET_ISA");
    auto loaded = std::make_shared<LoadedModel>();
    loaded->kernels = &select_kernels(isa ? isa : "");
    LoadOptions options;
    options.overrides = params.semantics ? params.semantics : "";
    options.check_codes = !(params.flags & BITNET_LOAD_UNCHECKED_CODES);
    if (params.progress)
        options.progress = [&](uint64_t done, uint64_t total) {
            return params.progress(params.progress_user, done, total) != 0;
        };
    loaded->model = Model::load(std::move(bytes), options);
    loaded->semantics_text = to_text(loaded->model->semantics);
    for (const std::string &warning : loaded->model->warnings) log_line(BITNET_LOG_WARN, warning.c_str());
    return new bitnet_model{std::move(loaded)};
}

static bitnet_load_params_t load_parameters(const bitnet_load_params_t *given) {
    const bitnet_load_params_t params = parameters(given, "params");
    if (params.flags & ~(BITNET_LOAD_COPY | BITNET_LOAD_UNCHECKED_CODES))
        fail(Status::invalid, "params->flags is 0x%x: expected BITNET_LOAD_... flags", params.flags);
    return params;
}

static const Model &model_of(const bitnet_model_t *model) { return *model->loaded->model; }

}  // namespace bitnet

using namespace bitnet;

extern "C" {

bitnet_status_t bitnet_load(const char *path, const bitnet_load_params_t *given, bitnet_model_t **out) {
    if (out) *out = nullptr;
    return guarded("bitnet_load", [&] {
        require(out, "out");
        require(path, "path");
        const bitnet_load_params_t params = load_parameters(given);
        *out = load(params.flags & BITNET_LOAD_COPY ? Mapping::read_file(path) : Mapping::map_file(path), params);
    });
}

bitnet_status_t bitnet_load_memory(const void *data, size_t n_bytes, const char *name,
                                   const bitnet_load_params_t *given, bitnet_model_t **out) {
    if (out) *out = nullptr;
    return guarded("bitnet_load_memory", [&] {
        require(out, "out");
        require(data, "data");
        const bitnet_load_params_t params = load_parameters(given);
        const std::string label = name ? name : "memory";
        *out = load(params.flags & BITNET_LOAD_COPY ? Mapping::copy(data, n_bytes, label)
                                                    : Mapping::borrow(data, n_bytes, label),
                    params);
    });
}

void bitnet_model_free(bitnet_model_t *model) { delete model; }

bitnet_status_t bitnet_model_get_info(const bitnet_model_t *model, bitnet_model_info_t *out) {
    return guarded("bitnet_model_get_info", [&] {
        require(model, "model");
        const Model &m = model_of(model);
        bitnet_model_info_t info{};
        info.n_vocab = m.hp.n_vocab;
        info.n_ctx_train = m.hp.n_ctx_train;
        info.n_embd = m.hp.n_embd;
        info.n_layer = m.hp.n_layer;
        info.n_ff = m.hp.n_ff;
        info.n_head = m.hp.n_head;
        info.n_head_kv = m.hp.n_head_kv;
        info.head_dim = m.hp.head_dim;
        info.n_rot = m.hp.n_rot;
        info.rms_eps = m.semantics.rms_eps;
        info.head_tied = m.semantics.head_tied;
        info.rope_theta = m.semantics.rope_theta;
        info.n_params = m.n_params;
        info.n_bytes = m.file().bytes().size();
        fill(out, info, "out");
    });
}

const char *bitnet_model_architecture(const bitnet_model_t *model) {
    return model ? model_of(model).architecture.c_str() : nullptr;
}
const char *bitnet_model_path(const bitnet_model_t *model) {
    return model ? model_of(model).file().name().c_str() : nullptr;
}
const char *bitnet_model_isa(const bitnet_model_t *model) { return model ? model->loaded->kernels->isa : nullptr; }
const char *bitnet_model_semantics(const bitnet_model_t *model) {
    return model ? model->loaded->semantics_text.c_str() : nullptr;
}

bitnet_status_t bitnet_model_hash(const bitnet_model_t *model, char *out, size_t *n) {
    return guarded("bitnet_model_hash", [&] {
        require(model, "model");
        copy_out(model->loaded->hash(), out, n);
    });
}

bitnet_status_t bitnet_blake3(const void *data, size_t n_bytes, char *out, size_t *n) {
    return guarded("bitnet_blake3", [&] {
        require(n, "n");
        if (n_bytes > 0) require(data, "data");
        copy_out(blake3_hex(data ? data : "", n_bytes), out, n);
    });
}

size_t bitnet_model_warning_count(const bitnet_model_t *model) { return model ? model_of(model).warnings.size() : 0; }

const char *bitnet_model_warning(const bitnet_model_t *model, size_t index) {
    return index < bitnet_model_warning_count(model) ? model_of(model).warnings[index].c_str() : nullptr;
}

size_t bitnet_model_key_count(const bitnet_model_t *model) { return model ? model_of(model).file().keys().size() : 0; }

const char *bitnet_model_key_name(const bitnet_model_t *model, size_t index) {
    return index < bitnet_model_key_count(model) ? model_of(model).file().keys()[index].name.c_str() : nullptr;
}

const char *bitnet_model_key_type(const bitnet_model_t *model, size_t index) {
    if (index >= bitnet_model_key_count(model)) return nullptr;
    const GgufKey &key = model_of(model).file().keys()[index];
    if (key.type != GgufType::array) return gguf_type_name(key.type);
    switch (key.item_type) {
    case GgufType::u8: return "arr[u8]";
    case GgufType::i8: return "arr[i8]";
    case GgufType::u16: return "arr[u16]";
    case GgufType::i16: return "arr[i16]";
    case GgufType::u32: return "arr[u32]";
    case GgufType::i32: return "arr[i32]";
    case GgufType::f32: return "arr[f32]";
    case GgufType::boolean: return "arr[bool]";
    case GgufType::string: return "arr[str]";
    case GgufType::u64: return "arr[u64]";
    case GgufType::i64: return "arr[i64]";
    case GgufType::f64: return "arr[f64]";
    case GgufType::array: break;  // refused when the file is read
    }
    return nullptr;
}

uint64_t bitnet_model_key_length(const bitnet_model_t *model, size_t index) {
    return index < bitnet_model_key_count(model) ? model_of(model).file().keys()[index].length : 0;
}

bitnet_status_t bitnet_model_key_text(const bitnet_model_t *model, size_t index, uint64_t max_items, char *out,
                                      size_t *n) {
    return guarded("bitnet_model_key_text", [&] {
        require(model, "model");
        const size_t count = bitnet_model_key_count(model);
        if (index >= count) fail(Status::invalid, "index is %zu: the file has %zu keys", index, count);
        copy_out(model_of(model).file().keys()[index].text(max_items ? max_items : UINT64_MAX), out, n);
    });
}

size_t bitnet_model_tensor_count(const bitnet_model_t *model) {
    return model ? model_of(model).file().tensors().size() : 0;
}

bitnet_status_t bitnet_model_tensor(const bitnet_model_t *model, size_t index, bitnet_tensor_info_t *out) {
    return guarded("bitnet_model_tensor", [&] {
        require(model, "model");
        const size_t count = bitnet_model_tensor_count(model);
        if (index >= count) fail(Status::invalid, "index is %zu: the file has %zu tensors", index, count);
        const GgufTensor &tensor = model_of(model).file().tensors()[index];
        bitnet_tensor_info_t info{};
        info.n_dims = tensor.n_dims;
        for (int i = 0; i < 4; ++i) info.dims[i] = tensor.dims[i];
        info.name = tensor.name.c_str();
        info.type_name = tensor.type_name.c_str();
        info.file_offset = tensor.offset;
        info.n_bytes = tensor.n_bytes;
        fill(out, info, "out");
    });
}

}  // extern "C"
