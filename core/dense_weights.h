// A second copy of a model's ternary weights at five trits a byte (core/kernels/dense.h), lossless: a decoded token
// then reads a fifth less of them. Prefill, and whoever looks at codes, goes on reading the file's.
#pragma once

#include <cstdint>
#include <vector>

#include "core/kernels/dense.h"
#include "core/kernels/kernels.h"
#include "core/state.h"
#include "core/threads.h"
#include "model/model.h"

namespace bitnet {

class DenseWeights {
public:
    static constexpr const char *kernel_name = "dense.avx512vbmi";  // as traces name it
    // The kernel that keeps up with memory on this CPU beside the kernels chosen; NULL: there is none.
    static DenseRows kernel_for(const Kernels &kernels);

    // Reads all ternary weights once, on all threads of the pool. Throws std::bad_alloc, and Error(format) when a code
    // is none: those of a file may be unchecked.
    DenseWeights(const Model &model, ThreadPool &pool);

    size_t bytes() const { return rows_.bytes(); }
    const uint8_t *rows_of(const TernaryMatrix &w) const { return rows_.data() + offsets_[size_t(w.number)]; }

private:
    Buffer<uint8_t> rows_;
    std::vector<size_t> offsets_;  // by TernaryMatrix::number
};

}  // namespace bitnet
