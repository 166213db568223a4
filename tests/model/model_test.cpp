// From a file to a model: what is bound where, what is assumed and said, and the exact words of every refusal.
#include "model/model.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <gtest/gtest.h>
#include <limits>

#include "model/error.h"
#include "model/i2_s.h"
#include "tests/model/gguf_builder.h"

namespace {

using namespace bitnet;
using namespace bitnet_test;

const char *const assumed_relu2 = "no key names the activation: assumed relu2; override with activation=silu";

std::shared_ptr<const Model> load_bytes(const std::string &bytes, const LoadOptions &options = {}) {
    return Model::load(Mapping::copy(bytes.data(), bytes.size(), "m.gguf"), options);
}

std::shared_ptr<const Model> load(const GgufBuilder &file, const std::string &overrides = "") {
    LoadOptions options;
    options.overrides = overrides;
    return load_bytes(file.build(), options);
}

void expect_error(const GgufBuilder &file, Status status, const std::string &text, const std::string &overrides = "") {
    try {
        load(file, overrides);
        ADD_FAILURE() << "accepted; expected: " << text;
    } catch (const Error &error) {
        EXPECT_EQ(error.what(), text);
        EXPECT_EQ(error.status, status);
    }
}
void expect_error(const GgufBuilder &file, const std::string &text) { expect_error(file, Status::format, text); }

GgufBuilder small() { return SmallModel().builder(); }

const char *const prefix = "bitnet-b1.58.";
GgufBuilder small_with_u32(const char *suffix, uint32_t value) {
    GgufBuilder file = small();
    file.set_u32(std::string(prefix) + suffix, value);
    return file;
}

bool in_file(const Model &model, const void *data) {
    const Mapping &bytes = model.file().bytes();
    return data >= bytes.data() && data < bytes.data() + bytes.size();
}

int weight_at(const TernaryMatrix &matrix, int row, int column) {
    const uint8_t *block = matrix.codes + (size_t(row) * size_t(matrix.n_in) + size_t(column) / 128 * 128) / 4;
    return (block[column % 32] >> (6 - column % 128 / 32 * 2) & 3) - 1;
}

TEST(Model, SmallModelInPlace) {
    const GgufBuilder file = small();
    const auto model = load(file);
    EXPECT_EQ(model->architecture, "bitnet-b1.58");
    const Hyperparameters &hp = model->hp;
    EXPECT_EQ(hp.n_vocab, 264);
    EXPECT_EQ(hp.n_ctx_train, 64);
    EXPECT_EQ(hp.n_embd, 128);
    EXPECT_EQ(hp.n_layer, 2);
    EXPECT_EQ(hp.n_ff, 256);
    EXPECT_EQ(hp.n_head, 4);
    EXPECT_EQ(hp.n_head_kv, 2);
    EXPECT_EQ(hp.head_dim, 32);
    EXPECT_EQ(hp.n_rot, 32);
    EXPECT_EQ(hp.n_kv(), 64);
    EXPECT_EQ(model->semantics, Semantics());
    ASSERT_EQ(model->layers.size(), 2u);
    uint64_t n_params = 0;
    for (const GgufTensor &tensor : model->file().tensors()) n_params += tensor.n_elements();
    EXPECT_EQ(model->n_params, n_params);
    EXPECT_EQ(model->tokenizer.n_tokens(), 264);
    EXPECT_EQ(model->warnings, std::vector<std::string>{assumed_relu2});

    const LayerWeights &layer = model->layers[1];
    for (const TernaryMatrix *matrix :
         {&layer.wq, &layer.wk, &layer.wv, &layer.wo, &layer.w_gate, &layer.w_up, &layer.w_down}) {
        EXPECT_TRUE(in_file(*model, matrix->codes));
    }
    for (const float *norm :
         {layer.attn_norm, layer.attn_sub_norm, layer.ffn_norm, layer.ffn_sub_norm, model->output_norm}) {
        EXPECT_TRUE(in_file(*model, norm));
    }
    EXPECT_TRUE(in_file(*model, model->token_embd.data));
    EXPECT_EQ(model->head.data, model->token_embd.data);
    EXPECT_EQ(layer.w_down.n_out, 128);
    EXPECT_EQ(layer.w_down.n_in, 256);
    const GgufTensor *down = model->file().find_tensor("blk.1.ffn_down.weight");
    EXPECT_EQ(layer.w_down.codes, down->data);
    float scale;
    memcpy(&scale, down->data + 128 * 256 / 4, sizeof scale);
    EXPECT_EQ(layer.w_down.scale, scale);
}

TEST(Model, FileOfBitnetCpp) {
    const auto model = Model::load(Mapping::map_file("tests/data/small.gguf"), {});
    EXPECT_EQ(model->hp.n_layer, 3);
    EXPECT_EQ(model->hp.n_vocab, 512);
    EXPECT_EQ(model->hp.head_dim, 64);
    EXPECT_EQ(model->token_embd.type, TensorType::f16);
    EXPECT_TRUE(in_file(*model, model->token_embd.data));
    EXPECT_EQ(model->semantics, Semantics());
}

// Few enough bits to be exact in F16 and BF16, and different for neighbours in both directions.
float table_value(uint32_t row, uint32_t column) { return float(row % 8) + float(column % 8) / 8.0f; }

uint16_t narrow(float value, TensorType type) {
    if (type == TensorType::bf16) return uint16_t(std::bit_cast<uint32_t>(value) >> 16);
    if (value == 0) return 0;  // else normal, with few enough bits to be exact
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    return uint16_t(((bits >> 23) - 112) << 10 | (bits >> 13 & 0x3ff));
}

std::string table_bytes(uint32_t n_rows, uint32_t n_columns, TensorType type, bool transposed) {
    std::string bytes;
    for (uint32_t i = 0; i < n_rows * n_columns; i++) {
        const float value =
            transposed ? table_value(i % n_rows, i / n_rows) : table_value(i / n_columns, i % n_columns);
        bytes += type == TensorType::f32 ? bytes_of(value) : bytes_of(narrow(value, type));
    }
    return bytes;
}

TEST(Model, EmbeddingTypesAndOrientation) {
    for (const TensorType type : {TensorType::f32, TensorType::f16, TensorType::bf16}) {
        const std::string expected = table_bytes(264, 128, type, false);
        for (const bool transposed : {false, true}) {
            GgufBuilder file = small();
            BuilderTensor &tensor = file.tensor("token_embd.weight");
            tensor.type = uint32_t(type);
            tensor.data = table_bytes(264, 128, type, transposed);
            if (transposed) tensor.dims = {264, 128};
            const auto model = load(file);
            EXPECT_EQ(model->token_embd.type, type);
            EXPECT_EQ(model->token_embd.n_rows, 264);
            EXPECT_EQ(model->token_embd.n_cols, 128);
            EXPECT_EQ(in_file(*model, model->token_embd.data), !transposed);
            const std::string found(static_cast<const char *>(model->token_embd.data),
                                    264 * model->token_embd.row_bytes());
            EXPECT_TRUE(found == expected) << int(type) << transposed;
        }
    }
}

TEST(Model, DedicatedHead) {
    GgufBuilder file = small();
    file.tensors.push_back({"output.weight", {264, 128}, tensor_f16, table_bytes(264, 128, TensorType::f16, true)});
    const auto model = load(file);
    EXPECT_FALSE(model->semantics.head_tied);
    EXPECT_EQ(model->head.type, TensorType::f16);
    const std::string expected = table_bytes(264, 128, TensorType::f16, false);
    EXPECT_EQ(memcmp(model->head.data, expected.data(), expected.size()), 0);
    const auto tied = load(file, "head_tied=on");
    EXPECT_EQ(tied->head.data, tied->token_embd.data);
    EXPECT_EQ(model->n_params, tied->n_params + 264 * 128);
    EXPECT_EQ(tied->warnings, std::vector<std::string>{assumed_relu2}) << "leaving the head out was asked for";
}

TEST(Model, AmbiguousEmbeddingIsRefused) {
    SmallModel shape;
    shape.n_embd = shape.n_vocab = 384;
    shape.head_dim = 96;
    expect_error(shape.builder(), Status::unsupported,
                 "m.gguf: tensor 'token_embd.weight': dims [384, 384]: n_vocab and n_embd are equal, so "
                 "[n_vocab, n_embd] and its transpose cannot be told apart: expected different sizes");
}

// Half-precision norms become F32: 1.5, the largest half, the smallest subnormal half, -2.
TEST(Model, NormsOfOtherTypes) {
    GgufBuilder file = small();
    BuilderTensor &norm = file.tensor("blk.0.ffn_norm.weight");
    std::vector<uint16_t> halves(128, 0x3c00);
    halves[0] = 0x3e00, halves[1] = 0x7bff, halves[2] = 0x0001, halves[3] = 0xc000;
    norm.type = tensor_f16;
    norm.data = std::string(reinterpret_cast<const char *>(halves.data()), 256);
    auto model = load(file);
    const float *values = model->layers[0].ffn_norm;
    EXPECT_FALSE(in_file(*model, values));
    EXPECT_EQ(values[0], 1.5f);
    EXPECT_EQ(values[1], 65504.0f);
    EXPECT_EQ(values[2], 0x1p-24f);
    EXPECT_EQ(values[3], -2.0f);
    EXPECT_EQ(values[127], 1.0f);
    halves.assign(128, 0x3fc0);
    norm.type = tensor_bf16;
    norm.data = std::string(reinterpret_cast<const char *>(halves.data()), 256);
    model = load(file);
    EXPECT_EQ(model->layers[0].ffn_norm[64], 1.5f);
}

TEST(Model, UnalignedMemoryIsCopiedWhereNeeded) {
    const std::string bytes = small().build();
    const auto aligned = load_bytes(bytes);
    std::vector<char> shifted(bytes.size() + 1);
    memcpy(shifted.data() + 1, bytes.data(), bytes.size());
    const auto model = Model::load(Mapping::borrow(shifted.data() + 1, bytes.size(), "m.gguf"), {});
    EXPECT_TRUE(in_file(*model, model->layers[0].wq.codes));
    EXPECT_FALSE(in_file(*model, model->layers[0].attn_norm));
    EXPECT_FALSE(in_file(*model, model->token_embd.data));
    EXPECT_EQ(memcmp(model->layers[0].attn_norm, aligned->layers[0].attn_norm, 128 * 4), 0);
    EXPECT_EQ(memcmp(model->token_embd.data, aligned->token_embd.data, 264 * 128 * 4), 0);
}

TEST(Model, Architectures) {
    SmallModel shape;
    shape.architecture = "bitnet-25";
    EXPECT_EQ(load(shape.builder())->semantics, Semantics());
    shape.architecture = "bitnet";
    auto model = load(shape.builder());
    EXPECT_EQ(model->semantics.activation, Activation::silu);
    EXPECT_EQ(model->semantics.rope_order, RopeOrder::neox);
    EXPECT_TRUE(model->semantics.attn_sub_norm);
    EXPECT_TRUE(model->warnings.empty());
    shape.architecture = "llama";
    shape.sub_norms = false;
    model = load(shape.builder());
    EXPECT_EQ(model->semantics.activation, Activation::silu);
    EXPECT_EQ(model->semantics.rope_order, RopeOrder::norm);
    EXPECT_FALSE(model->semantics.attn_sub_norm);
    EXPECT_FALSE(model->semantics.ffn_sub_norm);
    EXPECT_EQ(model->layers[0].attn_sub_norm, nullptr);
    EXPECT_TRUE(model->warnings.empty());
    shape.architecture = "gpt2";
    expect_error(shape.builder(), Status::unsupported,
                 "m.gguf: key 'general.architecture': 'gpt2': expected one of bitnet-b1.58, bitnet-25, bitnet, llama");
    GgufBuilder file = small();
    file.set_u32("general.architecture", 3);
    expect_error(file, "m.gguf: key 'general.architecture': type u32: expected str");
    file.erase("general.architecture");
    expect_error(file, "m.gguf: key 'general.architecture' is missing");
}

TEST(Model, ActivationIsAssumedAndSaid) {
    EXPECT_TRUE(load(small(), "activation=relu2")->warnings.empty()) << "an override leaves nothing assumed";
    EXPECT_EQ(load(small(), "activation=gelu")->semantics.activation, Activation::gelu);
    SmallModel shape;
    shape.n_vocab = 32002;
    const auto model = load(shape.builder());
    EXPECT_EQ(model->semantics.activation, Activation::silu);
    EXPECT_EQ(model->warnings,
              std::vector<std::string>{"no key names the activation: assumed silu by the vocabulary of 32002 tokens; "
                                       "override with activation=relu2"});
    GgufBuilder file = small();
    file.set_str("bitnet-b1.58.activation", "silu");
    EXPECT_EQ(load(file)->semantics.activation, Activation::silu);
    EXPECT_TRUE(load(file)->warnings.empty()) << "a key is taken at its word";
    EXPECT_EQ(load(file, "activation=relu")->semantics.activation, Activation::relu);
    file.set_str("bitnet-b1.58.activation", "swish");
    expect_error(file,
                 "m.gguf: key 'bitnet-b1.58.activation': semantics: activation 'swish': expected one of relu2, relu, "
                 "silu, gelu");
}

TEST(Model, MissingOptionalKeysAreAssumedAndSaid) {
    GgufBuilder file = small();
    for (const char *suffix : {"vocab_size", "attention.head_count_kv", "rope.dimension_count", "rope.freq_base"}) {
        file.erase(std::string(prefix) + suffix);
    }
    for (BuilderTensor &tensor : file.tensors) {  // as many KV heads as heads
        if (tensor.name.find("attn_k") != std::string::npos || tensor.name.find("attn_v") != std::string::npos) {
            tensor.dims[1] = 128;
            tensor.data = pack_i2_s(std::vector<int>(128 * 128, 1), 1.0f);
        }
    }
    const auto model = load(file);
    EXPECT_EQ(model->hp.n_vocab, 264);
    EXPECT_EQ(model->hp.n_head_kv, 4);
    EXPECT_EQ(model->hp.n_rot, 32);
    EXPECT_EQ(model->semantics.rope_theta, 10000.0);
    const std::vector<std::string> expected = {
        "key 'bitnet-b1.58.vocab_size' is missing: assumed 264",
        "key 'bitnet-b1.58.attention.head_count_kv' is missing: assumed 4",
        "key 'bitnet-b1.58.rope.dimension_count' is missing: assumed 32",
        "key 'bitnet-b1.58.rope.freq_base' is missing: assumed 10000",
        assumed_relu2,
    };
    EXPECT_EQ(model->warnings, expected);
}

TEST(ModelRejects, MissingKeys) {
    for (const char *suffix : {"context_length", "embedding_length", "block_count", "feed_forward_length",
                               "attention.head_count", "attention.layer_norm_rms_epsilon"}) {
        GgufBuilder file = small();
        file.erase(std::string(prefix) + suffix);
        expect_error(file, std::string("m.gguf: key 'bitnet-b1.58.") + suffix + "' is missing");
    }
}

TEST(ModelRejects, KeyValues) {
    const std::string key = "m.gguf: key 'bitnet-b1.58.";
    expect_error(small_with_u32("block_count", 0), key + "block_count': 0: expected 1 to 1024");
    expect_error(small_with_u32("block_count", 1025), key + "block_count': 1025: expected 1 to 1024");
    expect_error(small_with_u32("embedding_length", 1 << 25),
                 key + "embedding_length': 33554432: expected 1 to 16777216");
    expect_error(small_with_u32("attention.head_count", 129), key + "attention.head_count': 129: expected 1 to 128");
    expect_error(small_with_u32("attention.head_count_kv", 3),
                 key + "attention.head_count': 4 heads: expected a multiple of 3, the KV heads");
    expect_error(small_with_u32("attention.head_count_kv", 5), key + "attention.head_count_kv': 5: expected 1 to 4");
    expect_error(small_with_u32("attention.head_count", 6),
                 key + "embedding_length': 128: expected a multiple of 6, the number of heads");
    expect_error(small_with_u32("attention.key_length", 33), Status::unsupported,
                 "m.gguf: heads of 33 dimensions: expected an even number");
    expect_error(small_with_u32("attention.value_length", 64), Status::unsupported,
                 key + "attention.value_length': 64: expected 32, as for keys");
    expect_error(small_with_u32("rope.dimension_count", 31),
                 key + "rope.dimension_count': 31: expected an even number");
    expect_error(small_with_u32("rope.dimension_count", 34), key + "rope.dimension_count': 34: expected 1 to 32");
    expect_error(small_with_u32("rope.freq_base", 10000), key + "rope.freq_base': type u32: expected f32");
    GgufBuilder file = small();
    file.set_str("bitnet-b1.58.block_count", "2");
    expect_error(file, key + "block_count': type str: expected an integer");
    file.set("bitnet-b1.58.block_count", gguf_i64, bytes_of(int64_t(-2)));
    expect_error(file, key + "block_count': -2: expected 1 to 1024");
    file = small();
    for (const auto &[eps, text] :
         std::vector<std::pair<float, std::string>>{{0.0f, "0"}, {-1.0f, "-1"}, {INFINITY, "inf"}}) {
        file.set_f32("bitnet-b1.58.attention.layer_norm_rms_epsilon", eps);
        expect_error(file, key + "attention.layer_norm_rms_epsilon': " + text + ": expected a finite number > 0");
    }
    file = small();
    file.set_f32("bitnet-b1.58.rope.freq_base", 0.5f);
    expect_error(file, key + "rope.freq_base': 0.5: expected a finite number >= 1");
}

TEST(Model, RopeScaling) {
    GgufBuilder file = small();
    file.set_str("bitnet-b1.58.rope.scaling.type", "linear");
    file.set_f32("bitnet-b1.58.rope.scaling.factor", 1.0f);
    EXPECT_EQ(load(file)->warnings.size(), 1u);
    file.set_f32("bitnet-b1.58.rope.scaling.factor", 8.0f);
    expect_error(file, Status::unsupported, "m.gguf: key 'bitnet-b1.58.rope.scaling.factor': 8: expected 1");
    file.set_str("bitnet-b1.58.rope.scaling.type", "none");
    EXPECT_EQ(load(file)->warnings.size(), 1u);
    file.set_str("bitnet-b1.58.rope.scaling.type", "yarn");
    expect_error(file, Status::unsupported,
                 "m.gguf: key 'bitnet-b1.58.rope.scaling.type': 'yarn': expected none, or linear with factor 1");
    file = small();
    file.tensors.push_back({"rope_freqs.weight", {16}, tensor_f32, std::string(64, '\0')});
    expect_error(file, Status::unsupported,
                 "m.gguf: tensor 'rope_freqs.weight': RoPE frequency factors are not supported");
}

TEST(ModelRejects, Tensors) {
    for (const BuilderTensor &tensor : small().tensors) {
        if (tensor.name.find("sub_norm") != std::string::npos) continue;  // their own test
        GgufBuilder file = small();
        file.erase(tensor.name);
        expect_error(file, "m.gguf: tensor '" + tensor.name + "' is missing");
    }
    GgufBuilder file = small();
    file.tensor("blk.1.attn_k.weight").dims = {128, 32};
    expect_error(file, "m.gguf: tensor 'blk.1.attn_k.weight': dims [128, 32]: expected [128, 64]");
    file = small();
    file.tensor("blk.0.ffn_norm.weight").dims = {64, 2};
    expect_error(file, "m.gguf: tensor 'blk.0.ffn_norm.weight': dims [64, 2]: expected [128]");
    file = small();
    file.tensor("token_embd.weight").dims = {128, 263};
    expect_error(file, "m.gguf: tensor 'token_embd.weight': dims [128, 263]: expected [128, 264]");
    file = small();
    file.tensor("blk.0.attn_q.weight") = {
        "blk.0.attn_q.weight", {128, 128}, tensor_f16, std::string(128 * 128 * 2, '\0')};
    expect_error(file, Status::unsupported, "m.gguf: tensor 'blk.0.attn_q.weight': type F16: expected I2_S");
    file = small();
    file.tensor("token_embd.weight") = {
        "token_embd.weight", {128, 264}, tensor_i2_s, pack_i2_s(std::vector<int>(128 * 264), 1.0f)};
    expect_error(file, Status::unsupported, "m.gguf: tensor 'token_embd.weight': type I2_S: expected F32, F16 or BF16");
}

TEST(Model, SubNorms) {
    SmallModel shape;
    shape.sub_norms = false;
    const auto without = load(shape.builder());
    EXPECT_FALSE(without->semantics.attn_sub_norm);
    EXPECT_EQ(without->layers[1].ffn_sub_norm, nullptr);
    expect_error(shape.builder(), Status::invalid, "semantics: attn_sub_norm 'on': m.gguf has no attn_sub_norm tensors",
                 "sub_norms=on");
    expect_error(shape.builder(), Status::invalid, "semantics: ffn_sub_norm 'on': m.gguf has no ffn_sub_norm tensors",
                 "ffn_sub_norm=on");
    const auto off = load(small(), "sub_norms=off");
    EXPECT_FALSE(off->semantics.ffn_sub_norm);
    EXPECT_NE(off->layers[0].ffn_sub_norm, nullptr) << "the model still has it";
    GgufBuilder file = small();
    file.erase("blk.1.attn_sub_norm.weight");
    expect_error(file,
                 "m.gguf: tensor 'blk.1.attn_sub_norm.weight' is missing, but 1 of 2 layers have it: expected all or "
                 "none");
}

TEST(Model, OverridesAreChecked) {
    expect_error(small(), Status::invalid, "semantics: head_tied 'off': m.gguf has no tensor 'output.weight'",
                 "head_tied=off");
    expect_error(small(), Status::invalid, "semantics: kv 'f64': expected one of f32, f16", "kv=f64");
    EXPECT_EQ(load(small(), "profile=bitnetcpp")->semantics.kv, KvType::f16);
}

TEST(ModelRejects, VocabularyOfAnotherSize) {
    GgufBuilder file = small_with_u32("vocab_size", 265);
    file.tensor("token_embd.weight") = {"token_embd.weight", {128, 265}, tensor_f32, std::string(128 * 265 * 4, '\0')};
    expect_error(file, "m.gguf: key 'tokenizer.ggml.tokens': 264 tokens: expected 265, the vocabulary of the weights");
}

TEST(Model, Scales) {
    GgufBuilder file = small();
    const auto set_scale = [&](const char *name, float scale) {
        std::string &data = file.tensor(name).data;
        data.replace(data.size() - 32, 4, bytes_of(scale));
    };
    set_scale("blk.0.attn_v.weight", -1.5f);
    set_scale("blk.1.ffn_up.weight", 0.0f);
    const std::vector<std::string> expected = {
        assumed_relu2, "weight scale zero or negative in 2 tensors, the first 'blk.0.attn_v.weight' (-1.5)"};
    EXPECT_EQ(load(file)->warnings, expected);
    set_scale("blk.1.ffn_up.weight", INFINITY);
    expect_error(file, "m.gguf: tensor 'blk.1.ffn_up.weight': weight scale inf: expected a finite number");
    set_scale("blk.1.ffn_up.weight", std::numeric_limits<float>::quiet_NaN());
    expect_error(file, "m.gguf: tensor 'blk.1.ffn_up.weight': weight scale nan: expected a finite number");
}

TEST(Model, InvalidCodes) {
    GgufBuilder file = small();
    std::string &data = file.tensor("blk.1.ffn_down.weight").data;  // rows of 64 bytes
    // Row 100, second block: bits 5:4 of byte 7 are column 128 + 32 + 7; bits 7:6 of byte 9 are column 128 + 9.
    data[100 * 64 + 32 + 7] = char(data[100 * 64 + 32 + 7] | 3 << 4);
    expect_error(file, "m.gguf: tensor 'blk.1.ffn_down.weight': code 3 at row 100, column 167: expected 0, 1 or 2");
    data[100 * 64 + 32 + 9] = char(data[100 * 64 + 32 + 9] | 3 << 6);
    expect_error(file, "m.gguf: tensor 'blk.1.ffn_down.weight': code 3 at row 100, column 137: expected 0, 1 or 2");
    LoadOptions options;
    options.check_codes = false;
    const std::vector<std::string> expected = {assumed_relu2,
                                               "ternary codes were not checked for the invalid value 3, as asked"};
    EXPECT_EQ(load_bytes(file.build(), options)->warnings, expected);
}

TEST(Model, BlocksOf64AreRepacked) {
    GgufBuilder file = small();
    std::vector<int> weights(128 * 256);
    Numbers numbers(5);
    for (int &weight : weights) weight = int(numbers.below(3)) - 1;
    std::string &data = file.tensor("blk.0.ffn_down.weight").data;
    data = pack_i2_s(weights, 0.75f, 64);
    const auto model = load(file, "i2s=block64");
    const TernaryMatrix &down = model->layers[0].w_down;
    EXPECT_FALSE(in_file(*model, down.codes));
    EXPECT_EQ(down.scale, 0.75f);
    for (int row = 0; row < 128; row++) {
        for (int column = 0; column < 256; column++) {
            ASSERT_EQ(weight_at(down, row, column), weights[size_t(row * 256 + column)]) << row << " " << column;
        }
    }
    // Byte 16 + 3, bits 3:2: group 1, element 3 + 32 of it, so column 64 + 35.
    data[16 + 3] = char(data[16 + 3] | 3 << 2);
    expect_error(file, Status::format,
                 "m.gguf: tensor 'blk.0.ffn_down.weight': code 3 at row 0, column 99: expected 0, 1 or 2",
                 "i2s=block64");
}

TEST(Model, ProgressAndCancel) {
    LoadOptions options;
    std::vector<uint64_t> steps;
    uint64_t total = 0;
    options.progress = [&](uint64_t done, uint64_t of) {
        steps.push_back(done);
        total = of;
        return false;
    };
    const std::string bytes = small().build();
    load_bytes(bytes, options);
    const uint64_t layer_bytes = (2 * 128 * 128 + 2 * 64 * 128 + 3 * 256 * 128) / 4;
    EXPECT_EQ(steps, (std::vector<uint64_t>{0, layer_bytes, 2 * layer_bytes}));
    EXPECT_EQ(total, 2 * layer_bytes);
    options.progress = [&](uint64_t done, uint64_t) { return done > 0; };
    try {
        load_bytes(bytes, options);
        ADD_FAILURE() << "not cancelled";
    } catch (const Error &error) {
        EXPECT_EQ(error.status, Status::cancelled);
        EXPECT_EQ(error.what(), "m.gguf: loading was cancelled after " + std::to_string(layer_bytes) + " of " +
                                    std::to_string(2 * layer_bytes) + " bytes");
    }
}

TEST(Model, UnusualNormsAreNamedNotChanged) {
    GgufBuilder file = small();
    for (const auto &[name, value] : std::vector<std::pair<const char *, float>>{
             {"blk.0.attn_norm.weight", 0.0125f}, {"blk.1.attn_norm.weight", -0.025f}, {"output_norm.weight", 20.0f}}) {
        file.tensor(name).data = f32_bytes(std::vector<float>(128, value));
    }
    std::vector<float> broken(256, 1.0f);
    broken[3] = NAN, broken[4] = INFINITY;
    file.tensor("blk.1.ffn_sub_norm.weight").data = f32_bytes(broken);
    const auto model = load(file);
    const std::vector<std::string> expected = {
        assumed_relu2,
        "attn_norm weights are far from 1: mean magnitude 0.0125 to 0.025 over 2 layers; used as they are",
        "ffn_sub_norm: 2 weights are NaN or infinite",
        "output_norm weights are far from 1: mean magnitude 20; used as they are",
    };
    EXPECT_EQ(model->warnings, expected);
    EXPECT_EQ(model->layers[1].attn_norm[5], -0.025f);
}

TEST(Model, UnusedTensorsAreNamed) {
    GgufBuilder file = small();
    file.tensors.push_back({"blk.0.attn_q.bias", {4}, tensor_f32, std::string(16, '\0')});
    file.tensors.push_back({"blk.1.attn_q.bias", {4}, tensor_f32, std::string(16, '\0')});
    file.tensors.push_back({"blk.7.attn_norm.weight", {4}, tensor_f32, std::string(16, '\0')});
    const std::vector<std::string> expected = {assumed_relu2, "tensor 'blk.*.attn_norm.weight' is not used",
                                               "tensor 'blk.*.attn_q.bias' (2 tensors) is not used"};
    EXPECT_EQ(load(file)->warnings, expected);
    for (int i = 0; i < 20; i++) {
        file.tensors.push_back({"odd" + std::to_string(i), {1}, tensor_f32, std::string(4, '\0')});
    }
    const auto model = load(file);
    EXPECT_EQ(model->warnings.size(), 1u + 16u + 1u);
    EXPECT_EQ(model->warnings.back(), "6 more kinds of tensors are not used");
}

// T[r][c] = ((7r + c^2 + 3c + c/5) mod 3) - 1 for 4 rows of 256, scale 1.25: bytes known from bitnet.cpp.
TEST(I2S, PackingVector) {
    std::vector<int> weights;
    for (int r = 0; r < 4; r++) {
        for (int c = 0; c < 256; c++) weights.push_back((7 * r + c * c + 3 * c + c / 5) % 3 - 1);
    }
    const std::string packed = pack_i2_s(weights, 1.25f);
    ASSERT_EQ(packed.size(), 288u);
    EXPECT_EQ(packed.substr(0, 16),
              std::string("\x15\x4a\x56\x29\x58\xa4\x62\x90\x88\x40\x21\x01\x84\x05\x12\x15", 16));
    EXPECT_EQ(packed.substr(256), std::string("\x00\x00\xa0\x3f", 4) + std::string(28, '\0'));
    TernaryMatrix matrix;
    matrix.codes = reinterpret_cast<const uint8_t *>(packed.data());
    matrix.n_in = 256;
    for (int i = 0; i < 1024; i++) EXPECT_EQ(weight_at(matrix, i / 256, i % 256), weights[size_t(i)]);
}

TEST(I2S, FindsTheFirstInvalidCodeAnywhere) {
    constexpr size_t n_bytes = 32 * 300;        // more than one stretch of the scan
    std::vector<uint8_t> codes(n_bytes, 0x66);  // 1 2 1 2: neighbours whose bits could be mistaken for a pair
    EXPECT_EQ(find_invalid_code(codes.data(), n_bytes), -1);
    for (const size_t element : {size_t(0), size_t(127), size_t(128), 4 * n_bytes - 1, size_t(20001)}) {
        uint8_t &byte = codes[element / 128 * 32 + element % 32];
        byte = uint8_t(byte | 3 << (6 - element % 128 / 32 * 2));
        EXPECT_EQ(find_invalid_code(codes.data(), n_bytes), int64_t(element));
        byte = 0x66;
    }
}

// A damaged file loads or is refused in one line; it never crashes (run under the sanitizers).
class Damage : public testing::Test {
protected:
    Damage() : bytes_(small().build()) {}

    void try_to_load(const std::string &bytes) {
        try {
            load_bytes(bytes);
            n_loaded_++;
        } catch (const Error &error) {
            n_refused_++;
            const std::string text = error.what();
            EXPECT_FALSE(text.empty());
            EXPECT_TRUE(std::none_of(text.begin(), text.end(), [](unsigned char c) { return c < 0x20; })) << text;
        }
    }

    const std::string bytes_;
    int n_loaded_ = 0, n_refused_ = 0;
};

TEST_F(Damage, BitFlips) {
    // Most flips go where the structure is: the keys and tensor infos, which are a small part of the file.
    const size_t n_structure = size_t(load_bytes(bytes_)->file().tensors()[0].offset);
    Numbers numbers(17);
    for (int i = 0; i < 2000; i++) {
        std::string damaged = bytes_;
        const uint32_t n_flips = 1 + numbers.below(3);
        for (uint32_t k = 0; k < n_flips; k++) {
            const size_t position = numbers.below(uint32_t(i % 4 ? n_structure : bytes_.size()));
            damaged[position] = char(damaged[position] ^ 1 << numbers.below(8));
        }
        try_to_load(damaged);
    }
    EXPECT_GT(n_loaded_, 0);
    EXPECT_GT(n_refused_, 200);
}

TEST_F(Damage, Truncations) {
    Numbers numbers(18);
    for (int i = 0; i < 500; i++) try_to_load(bytes_.substr(0, 1 + numbers.below(uint32_t(bytes_.size() - 1))));
    EXPECT_EQ(n_loaded_, 0);
}

TEST_F(Damage, FieldsSetToExtremes) {
    const size_t n_structure = size_t(load_bytes(bytes_)->file().tensors()[0].offset);
    Numbers numbers(19);
    for (int i = 0; i < 1000; i++) {
        std::string damaged = bytes_;
        const uint64_t values[] = {0, 1, UINT32_MAX, UINT64_MAX, 1ull << 63, 1ull << 31, 1ull << 61};
        const std::string field = bytes_of(values[numbers.below(7)]).substr(0, numbers.below(2) ? 8 : 4);
        damaged.replace(numbers.below(uint32_t(n_structure - 8)), field.size(), field);
        try_to_load(damaged);
    }
    EXPECT_GT(n_refused_, 200);
}

}  // namespace
