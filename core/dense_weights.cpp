#include "core/dense_weights.h"

#include <atomic>
#include <cstring>

#include "core/cpu.h"
#include "model/error.h"

namespace bitnet {

namespace {

// Codes of one row of I2_S block128, a byte each; false when one is 3.
bool unpack(const uint8_t *row, int n_in, uint8_t *codes) {
    uint8_t wrong = 0;
    for (int g = 0; g < n_in / 128; ++g, row += 32, codes += 128)
        for (int p = 0; p < 32; ++p) {
            const uint8_t byte = row[p];
            codes[p] = byte >> 6;
            codes[p + 32] = byte >> 4 & 3;
            codes[p + 64] = byte >> 2 & 3;
            codes[p + 96] = byte & 3;
            wrong |= byte & byte >> 1 & 0x55;
        }
    return wrong == 0;
}

void pack(const uint8_t *codes, int n_blocks, uint8_t *out) {
    for (int b = 0; b < n_blocks; ++b, codes += dense_block, out += dense_block_bytes)
        for (int j = 0; j < dense_block_bytes; ++j)
            out[j] = uint8_t(codes[j] + 3 * codes[64 + j] + 9 * codes[128 + j] + 27 * codes[192 + j] +
                             dense_step * codes[256 + j]);
}

std::vector<const TernaryMatrix *> matrices_of(const Model &model) {
    std::vector<const TernaryMatrix *> all;
    for (const LayerWeights &l : model.layers)
        for (const TernaryMatrix *w : {&l.wq, &l.wk, &l.wv, &l.wo, &l.w_gate, &l.w_up, &l.w_down}) all.push_back(w);
    return all;
}

}  // namespace

DenseRows DenseWeights::kernel_for(const Kernels &kernels) {
#if defined(__x86_64__)
    if (&kernels == &avx512vnni::kernels && has_avx512vbmi()) return &avx512vbmi::dense_rows;
#endif
    return nullptr;
}

DenseWeights::DenseWeights(const Model &model, ThreadPool &pool) {
    const std::vector<const TernaryMatrix *> matrices = matrices_of(model);
    offsets_.resize(matrices.size());
    size_t n_bytes = 0;
    int widest = 0;
    for (const TernaryMatrix *w : matrices) {
        offsets_[size_t(w->number)] = n_bytes;
        n_bytes += size_t(w->n_out) * dense_row_bytes(w->n_in);
        widest = std::max(widest, w->n_in);
    }
    rows_ = Buffer<uint8_t>::huge(n_bytes);
    std::vector<std::vector<uint8_t>> codes(size_t(pool.size()),
                                            std::vector<uint8_t>(size_t(dense_blocks(widest)) * dense_block));
    for (const TernaryMatrix *w : matrices) {
        std::atomic<bool> wrong{false};
        const int n_blocks = dense_blocks(w->n_in);
        pool.split(w->n_out, 16, [&](int thread, int begin, int end) {
            uint8_t *row = codes[size_t(thread)].data();
            std::memset(row, 0, codes[size_t(thread)].size());  // beyond n_in: of another matrix
            for (int r = begin; r < end; ++r) {
                if (!unpack(w->codes + size_t(r) * size_t(w->n_in) / 4, w->n_in, row)) wrong = true;
                pack(row, n_blocks, rows_.data() + offsets_[size_t(w->number)] + size_t(r) * dense_row_bytes(w->n_in));
            }
        });
        if (wrong)
            fail(Status::format, "ternary matrix %d of %zu: a code is 3: expected 0, 1 or 2 for dense weights",
                 w->number, matrices.size());
    }
}

}  // namespace bitnet
