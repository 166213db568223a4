// Ternary linears under any semantics: how the packed codes are read, how activations are quantised, how the scales
// meet the sums. core/alternatives.h
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "bitnet_c.h"
#include "core/alternatives.h"
#include "core/kernels/lanes.h"
#include "core/math.h"
#include "core/ops.h"
#include "core/state.h"
#include "model/error.h"

namespace bitnet {

const TernaryMatrix &Operations::matrix(int stage) const {
    const LayerWeights &w = model_.layers[size_t(layer_)];
    const bool swapped = sem_.kv_swap == KvSwap::weights;
    switch (stage) {
    case BITNET_STAGE_Q_PROJ: return w.wq;
    case BITNET_STAGE_K_PROJ: return swapped ? w.wv : w.wk;
    case BITNET_STAGE_V_PROJ: return swapped ? w.wk : w.wv;
    case BITNET_STAGE_ATTN_OUT: return w.wo;
    case BITNET_STAGE_FFN_GATE: return w.w_gate;
    case BITNET_STAGE_FFN_UP: return w.w_up;
    case BITNET_STAGE_FFN_OUT: return w.w_down;
    default: fail(Status::internal, "stage %d is no linear", stage);
    }
}

// ---- weights ----------------------------------------------------------------------------------------------------

// Elements that share a group of bytes: byte p holds elements p, p + group/4, p + group/2, p + 3 group/4.
static int group_of(CodeOrder order) {
    switch (order) {
    case CodeOrder::block128: return 128;
    case CodeOrder::block64: return 64;
    case CodeOrder::block32: return 32;
    case CodeOrder::sequential: return 4;
    }
    return 0;
}

// The file's code in field 0 (bits 7:6) to 3 of byte `byte` of a row, whose codes were rearranged for block128 when the
// model was loaded with `loaded`.
static int file_code(const uint8_t *row, CodeOrder loaded, int byte, int field) {
    if (loaded == CodeOrder::block64) {
        const int element = byte / 16 * 64 + field * 16 + byte % 16;
        byte = element / 128 * 32 + element % 32;
        field = element % 128 / 32;
    }
    return row[byte] >> (6 - 2 * field) & 3;
}

// Whether the kernels, which read block128, read what these semantics say.
bool Operations::reads_reference_codes() const {
    return sem_.code_map == CodeMap::mzp && sem_.code_bits == CodeBits::high_first &&
           sem_.code_order ==
               (model_.semantics.code_order == CodeOrder::block64 ? CodeOrder::block64 : CodeOrder::block128);
}

void Operations::read_row(const TernaryMatrix &w, int r, int8_t *weights) const {
    static constexpr int8_t maps[6][4] = {{-1, 0, 1, 2}, {-1, 1, 0, 2}, {0, -1, 1, 2},
                                          {0, 1, -1, 2}, {1, -1, 0, 2}, {1, 0, -1, 2}};
    const int8_t *map = maps[size_t(sem_.code_map)];
    const uint8_t *row = w.codes + size_t(r) * (size_t(w.n_in) / 4);
    const int group = group_of(sem_.code_order), n_bytes = group / 4;
    const CodeOrder loaded = model_.semantics.code_order;
    for (int begin = 0; begin < w.n_in; begin += group)
        for (int field = 0; field < 4; ++field) {
            const int stored = sem_.code_bits == CodeBits::high_first ? field : 3 - field;
            for (int p = 0; p < n_bytes; ++p)
                weights[begin + field * n_bytes + p] = map[file_code(row, loaded, begin / 4 + p, stored)];
        }
}

float Operations::weight_scale(const TernaryMatrix &w) const {
    switch (sem_.scale_type) {
    case ScaleType::f32: return w.scale;
    case ScaleType::f16: return half_to_float(float_to_half(w.scale));
    case ScaleType::bf16: return round_bf16(w.scale);
    }
    return w.scale;
}

float Operations::apply_weight_scale(float y, const TernaryMatrix &w) const {
    if (sem_.stage_type == StageType::bf16) y = round_bf16(y);
    switch (sem_.weight_scale) {
    case WeightScale::multiply: return y * weight_scale(w);
    case WeightScale::divide: return y / weight_scale(w);
    case WeightScale::none: return y;
    }
    return y;
}

// ---- activations ------------------------------------------------------------------------------------------------

// Elements that share an activation scale; 0: a row.
static int block_of(ActivationQuant quant) {
    return quant == ActivationQuant::block256_int8 ? 256 : quant == ActivationQuant::block32_int8 ? 32 : 0;
}

int Operations::scales_per_row(int n) const {
    const int block = block_of(sem_.activation_quant);
    return block ? (n + block - 1) / block : 1;
}

static float scale_for(float m) { return 127.0f / (m > 1e-5f ? m : 1e-5f); }

static void codes_of(const Kernels &kernels, const float *x, int n, float s, Rounding rounding, int8_t *codes) {
    if (rounding == Rounding::even) {
        kernels.quantize(x, n, s, codes);
        return;
    }
    for (int i = 0; i < n; ++i) {
        const float q = rounding == Rounding::away ? std::round(x[i] * s) : std::trunc(x[i] * s);
        codes[i] = q >= 127.0f ? int8_t(127) : q > -127.0f ? int8_t(q) : int8_t(-127);  // NaN: as the kernel
    }
}

void Operations::quantize(const float *x, int n_rows, int n, int8_t *codes, float *scales) const {
    const int block = block_of(sem_.activation_quant) ? block_of(sem_.activation_quant) : n;
    const int per_row = scales_per_row(n);
    float shared = 0;
    if (sem_.activation_quant == ActivationQuant::tensor_int8)
        for (int r = 0; r < n_rows; ++r) shared = std::max(shared, kernels_.absmax(x + size_t(r) * size_t(n), n));
    for (int r = 0; r < n_rows; ++r)
        for (int b = 0; b < per_row; ++b) {
            const size_t at = size_t(r) * size_t(n) + size_t(b) * size_t(block);
            const int count = std::min(block, n - b * block);
            const bool of_tensor = sem_.activation_quant == ActivationQuant::tensor_int8;
            const float s = scale_for(of_tensor ? shared : kernels_.absmax(x + at, count));
            scales[size_t(r) * size_t(per_row) + size_t(b)] = s;
            codes_of(kernels_, x + at, count, s, sem_.rounding, codes + at);
        }
}

// ---- products ---------------------------------------------------------------------------------------------------

void Operations::accumulate(int stage, const int8_t *codes, int n_rows, int begin, int end, int32_t *acc) const {
    const TernaryMatrix &w = matrix(stage);
    const size_t n_in = size_t(w.n_in), n_out = size_t(w.n_out);
    if (reads_reference_codes()) {
        Buffer<uint8_t> scratch(ternary_scratch(kernels_, w.n_in));
        for (int r = 0; r < n_rows; ++r) {
            const int8_t *x = codes + size_t(r) * n_in;
            int32_t sum = 0;
            for (size_t i = 0; i < n_in; ++i) sum += x[i];
            kernels_.ternary_rows(w.codes + size_t(begin) * (n_in / 4), end - begin, w.n_in, x, sum,
                                  acc + size_t(r) * n_out + begin, scratch.data());
        }
    } else {
        std::vector<int8_t> weights(n_in);
        for (int o = begin; o < end; ++o) {
            read_row(w, o, weights.data());
            for (int r = 0; r < n_rows; ++r) {
                const int8_t *x = codes + size_t(r) * n_in;
                int32_t sum = 0;
                for (size_t i = 0; i < n_in; ++i) sum += weights[i] * x[i];
                acc[size_t(r) * n_out + size_t(o)] = sum;
            }
        }
    }
    if (sem_.accumulator == Accumulator::int32) return;
    for (int r = 0; r < n_rows; ++r)
        for (int o = begin; o < end; ++o) {
            int32_t &a = acc[size_t(r) * n_out + size_t(o)];
            a = int16_t(uint16_t(uint32_t(a)));
        }
}

void Operations::scale(int stage, const int32_t *acc, const float *scales, int n_rows, int begin, int end,
                       float *out) const {
    const TernaryMatrix &w = matrix(stage);
    for (int r = 0; r < n_rows; ++r) {
        const size_t row = size_t(r) * size_t(w.n_out);
        for (int o = begin; o < end; ++o) {
            int32_t a;  // acc and out may be the same memory
            std::memcpy(&a, acc + row + o, sizeof a);
            const float y = apply_weight_scale(float(a) / scales[r], w);
            std::memcpy(out + row + o, &y, sizeof y);
        }
        round_stage(out + row + begin, size_t(end - begin));
    }
}

namespace {

// A row times x, in 16 lanes of f32, as float_ternary_rows.
float float_dot(const int8_t *weights, const float *x, int n) {
    float lane[16] = {};
    for (int i = 0; i < n; i += 16)  // n is a multiple of 128
        for (int k = 0; k < 16; ++k) lane[k] = lane[k] + float(weights[i + k]) * x[i + k];
    return lane_tree(lane);
}

// Blocks in order, each exact in integers.
float block_dot(const int8_t *weights, const int8_t *codes, const float *scales, int block, int n) {
    float y = 0;
    for (int b = 0; b * block < n; ++b) {
        int32_t sum = 0;
        for (int i = b * block; i < std::min((b + 1) * block, n); ++i) sum += weights[i] * codes[i];
        y = y + float(sum) / scales[b];
    }
    return y;
}

}  // namespace

void Operations::linear(int stage, const LinearInput &in, int begin, int end, float *out) const {
    const TernaryMatrix &w = matrix(stage);
    const size_t n_in = size_t(w.n_in), n_out = size_t(w.n_out);
    if (has_accumulators()) {
        int32_t *acc = reinterpret_cast<int32_t *>(out);
        accumulate(stage, in.codes, in.n_rows, begin, end, acc);
        return scale(stage, acc, in.scales, in.n_rows, begin, end, out);
    }
    const int block = block_of(sem_.activation_quant), per_row = scales_per_row(w.n_in);
    std::vector<float> restored;
    const float *x = in.x;
    if (sem_.activation_quant == ActivationQuant::dequantised) {
        restored.resize(size_t(in.n_rows) * n_in);
        for (size_t i = 0; i < restored.size(); ++i) restored[i] = float(in.codes[i]) / in.scales[i / n_in];
        round_stage(restored.data(), restored.size());
        x = restored.data();
    } else if (sem_.activation_quant == ActivationQuant::f16) {
        restored.assign(in.x, in.x + size_t(in.n_rows) * n_in);
        round_to_half(restored.data(), int(restored.size()));
        x = restored.data();
    }
    std::vector<int8_t> weights(n_in);
    for (int o = begin; o < end; ++o) {
        read_row(w, o, weights.data());
        for (int r = 0; r < in.n_rows; ++r) {
            const size_t at = size_t(r) * n_in;
            const float y =
                block ? block_dot(weights.data(), in.codes + at, in.scales + size_t(r) * size_t(per_row), block, w.n_in)
                      : float_dot(weights.data(), x + at, w.n_in);
            out[size_t(r) * n_out + size_t(o)] = apply_weight_scale(y, w);
        }
    }
    for (int r = 0; r < in.n_rows; ++r) round_stage(out + size_t(r) * n_out + begin, size_t(end - begin));
}

}  // namespace bitnet
