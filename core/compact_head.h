// A compact copy of the output head, and the few exact logits that greedy and top-k generation need.
//
// The head is most of the bytes of a decoded token. Here each row is kept with 5 bits a weight, of which 4 can be read
// alone: enough to bound every logit on both sides, so that all rows but a few are out of the question without being
// read. Those few are computed exactly, in the canonical order: the result is the full head's, always.
//
// The bound. w is a row, w' its copy, x the input of the head, x' the input as 16-bit integers times a step, L the
// logit as the canonical dot product computes it in f32, |.| the Euclidean norm. The scan yields a = <w', x'> from
// exact integers.
//     L - a = (L - <w,x>) + <w - w', x> + <w', x - x'>
// and by Cauchy and Schwarz the last two are at most |w - w'| |x| and |w'| |x - x'|, with |w'| <= |w| + |w - w'|. The
// first is rounding: every product passes one multiplication and at most m + 4 additions, m = ceil(n / 16) in its lane
// and 4 in the tree, each within a factor 1 +- 2^-24, so it is at most g sum |w_i x_i| <= g |w| |x| with g = k / (1 -
// k), k = (m + 5) 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, lemma 3.1), plus n 2^-150 for products
// that underflow; sums do not. So L <= a + e A + |w| B + n 2^-149 where e = |w - w'|, A = |x| + |x - x'|, B = |x - x'|
// + g |x|. All norms are rounded up when they are made, and A and B enlarged by more than the error of evaluating the
// formula in double. A row with a weight that is not finite, or so large that L could overflow, has no bound: it is
// always computed.
#pragma once

#include <cstdint>
#include <vector>

#include "core/kernels/kernels.h"
#include "core/sampler.h"
#include "core/state.h"
#include "core/threads.h"
#include "model/model.h"

namespace bitnet {

class CompactHead {
public:
    static bool fits(const FloatMatrix &head) { return head.n_cols % 128 == 0; }
    // Reads the whole head once, on all threads of the pool. Throws std::bad_alloc.
    CompactHead(const FloatMatrix &head, ThreadPool &pool);

    size_t bytes() const;

    // Every row that can be among the k largest logits of input x (n_cols), with its exact logit; in no particular
    // order, and with some that are not. False, and nothing to be relied on in `out`, when the bound leaves too many
    // for that to pay (or x is not finite). upper: (n_rows) scratch. coarse: whether to read four bits a weight or
    // five; set to what would have read less this time.
    bool candidates(const Kernels &kernels, ThreadPool &pool, const float *x, int k, float *upper, bool &coarse,
                    std::vector<Candidate> &out) const;

private:
    struct Input;
    struct Copy;
    void train_levels(uint8_t *levels);  // the 32 of the codes
    void encode_row(int row, const std::vector<uint8_t> &nearest, std::vector<float> &values);
    Copy copy(bool coarse) const;
    Input prepare(const float *x) const;
    void bound(const Kernels &kernels, const Input &input, const Copy &copy, int begin, int end, float *upper) const;
    void reach(const float *upper, float least, int begin, int end, size_t most, std::vector<Candidate> &out) const;

    FloatMatrix head_;
    // What codes stand for: (level - 64) times the row's scale. A code is twice its nibble plus its bit; the fine
    // levels stand with those of bit 0 first, the coarse ones are of nibbles, twice.
    uint8_t fine_levels_[32] = {}, coarse_levels_[32] = {};
    Buffer<uint8_t> nibbles_;  // (n_rows, n_cols / 2): byte j of a block of 128 has those of elements j and 64 + j
    Buffer<uint64_t> bits_;    // (n_rows, n_cols / 64)
    Buffer<float> scale_;      // (n_rows)
    Buffer<float> fine_error_, coarse_error_;  // (n_rows) |w - w'|, rounded up; infinite: no bound
    Buffer<float> norm_;                       // (n_rows) |w|, rounded up
    double typical_gain_ = 0;                  // of errors, coarse less fine: the mean
};

}  // namespace bitnet
