// The certified head against the full one: whatever the weights and the input, the largest logits are among the
// candidates, each with the full head's bits. Random and adversarial heads; 10^6 questions in the release build.
#include "core/compact_head.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "core/cpu.h"
#include "core/math.h"
#include "core/ops.h"

namespace bitnet {
namespace {

#if defined(NDEBUG)
constexpr int n_questions = 1000000;
#else
constexpr int n_questions = 20000;
#endif

struct Head {
    int n_rows, n;
    TensorType type;
    std::vector<uint16_t> halves;
    std::vector<float> floats;

    Head(int rows, int columns, TensorType t) : n_rows(rows), n(columns), type(t) {
        if (type == TensorType::f32)
            floats.resize(size_t(rows) * size_t(columns));
        else
            halves.resize(size_t(rows) * size_t(columns));
    }
    void set(int row, int column, float w) {
        const size_t at = size_t(row) * size_t(n) + size_t(column);
        if (type == TensorType::f32)
            floats[at] = w;
        else
            halves[at] = type == TensorType::f16 ? float_to_half(w) : uint16_t(__builtin_bit_cast(uint32_t, w) >> 16);
    }
    FloatMatrix matrix() const {
        FloatMatrix m;
        m.data = type == TensorType::f32 ? static_cast<const void *>(floats.data()) : halves.data();
        m.type = type;
        m.n_rows = n_rows;
        m.n_cols = n;
        return m;
    }
};

// What an adversary would do to the bound: ties, near ties, outliers that one scale cannot hold, tiny and huge rows,
// zeros.
Head make_head(int kind, uint32_t seed) {
    const TensorType types[] = {TensorType::f16, TensorType::bf16, TensorType::f32};
    Head head(96, kind % 2 ? 128 : 256, types[kind % 3]);
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal(0.0f, 0.05f);
    for (int r = 0; r < head.n_rows; ++r) {
        const float size = kind % 5 == 2 ? std::exp2f(float(int(rng() % 40) - 20)) : 1.0f;
        for (int i = 0; i < head.n; ++i) head.set(r, i, normal(rng) * size);
        if (kind % 5 == 3) head.set(r, int(rng() % uint32_t(head.n)), 5.0f);
    }
    const auto copy_row = [&](int from, int to) {
        std::vector<float> row(static_cast<size_t>(head.n));
        float_row(head.matrix(), from, row.data());
        for (int i = 0; i < head.n; ++i) head.set(to, i, row[size_t(i)]);
    };
    if (kind % 5 == 1) {
        for (int r = 1; r < head.n_rows; r += 2) copy_row(r - 1, r);  // ties
        for (int r = 3; r < head.n_rows; r += 4) {                    // all but: one weight, one unit in the last place
            std::vector<float> row(static_cast<size_t>(head.n));
            float_row(head.matrix(), r, row.data());
            head.set(r, 0, row[0] * 1.001f);
        }
    }
    if (kind % 5 == 4)
        for (int r = 0; r < head.n_rows; r += 7)
            for (int i = 0; i < head.n; ++i) head.set(r, i, 0.0f);
    return head;
}

// Inputs of all sorts, some along a row or along what the copy misses of it, where the bound is tight.
std::vector<float> make_input(const Head &head, std::mt19937 &rng) {
    std::normal_distribution<float> normal(0.0f, 1.0f);
    std::vector<float> x(static_cast<size_t>(head.n)), row(x.size());
    const uint32_t kind = rng() % 8;
    const float size = std::exp2f(float(int(rng() % 24) - 12));
    float_row(head.matrix(), int(rng() % uint32_t(head.n_rows)), row.data());
    for (size_t i = 0; i < x.size(); ++i) {
        x[i] = normal(rng) * size;
        if (kind == 1) x[i] = row[i] * size;
        if (kind == 2) x[i] = row[i] * size * 20 + x[i] * 0.1f;
        if (kind == 3) x[i] = row[i] - float(std::lround(row[i] * 100)) / 100 + x[i] * 1e-3f;
        if (kind == 4 && rng() % 32) x[i] = 0;
        if (kind == 5) x[i] = (row[i] > 0 ? 1.0f : -1.0f) * size;
    }
    if (kind == 6) x[rng() % x.size()] = 1000 * size;
    return x;
}

std::vector<float> full_head(const Kernels &kernels, const Head &head, const std::vector<float> &x) {
    std::vector<float> logits(static_cast<size_t>(head.n_rows));
    float_matrix_rows(kernels, head.matrix(), 0, head.n_rows, x.data(), 1, logits.data(), logits.size());
    return logits;
}

// Of `k` asked for: every candidate's bits, every one of the k largest, and the token that either way gives.
void expect_same_answer(const std::vector<float> &logits, const std::vector<Candidate> &found, int k) {
    std::vector<bool> is_found(logits.size());
    for (const Candidate &c : found) {
        ASSERT_EQ(__builtin_bit_cast(uint32_t, c.logit), __builtin_bit_cast(uint32_t, logits[size_t(c.token)]));
        is_found[size_t(c.token)] = true;
    }
    for (int32_t token : top_logits(logits.data(), int(logits.size()), k))
        ASSERT_TRUE(is_found[size_t(token)]) << token;
    SamplerSettings settings;
    settings.top_k = k;
    settings.temperature = k == 1 ? 0.0f : 0.8f;
    settings.seed = 5;
    ASSERT_EQ(sample(found, settings, 3), sample(logits.data(), int(logits.size()), settings, 3, nullptr, 0));
}

TEST(CompactHead, TheLargestLogitsAreAmongTheCandidates) {
    ThreadPool pool(1);
    std::vector<float> upper(96);
    std::vector<Candidate> found;
    const Kernels &best = select_kernels("");
    long certified = 0, computed = 0, by_four_bits = 0, chose_four_bits = 0;
    constexpr int n_heads = 100;
    for (int h = 0; h < n_heads; ++h) {
        const Head head = make_head(h, uint32_t(h));
        const CompactHead compact(head.matrix(), pool);
        std::mt19937 rng(uint32_t(h) + 1000);
        bool coarse = false;
        for (int q = 0; q < n_questions / n_heads; ++q) {
            const std::vector<float> x = make_input(head, rng);
            const int k = q % 4 ? 1 : 1 + q / 4 % 5;
            if (h % 2) coarse = q / 8 % 2;  // by four bits or five, whichever pays; else as it chooses
            by_four_bits += coarse;
            if (!compact.candidates(best, pool, x.data(), k, upper.data(), coarse, found)) continue;
            ++certified;
            chose_four_bits += coarse && h % 2 == 0;
            computed += long(found.size());
            expect_same_answer(full_head(best, head, x), found, k);
            if (HasFatalFailure()) FAIL() << "head " << h << ", question " << q;
        }
    }
    EXPECT_GT(certified, n_questions / 3) << "the bound decides too little to be tested";
    EXPECT_LT(double(computed) / double(certified), 12) << "of 96 rows";
    EXPECT_GT(by_four_bits, n_questions / 4);
    EXPECT_GT(chose_four_bits, 0);
    RecordProperty("certified", int(certified));
}

TEST(CompactHead, EveryInstructionSetAndThreadCountAnswersTheSame) {
    const Head head = make_head(0, 7);
    std::mt19937 rng(9);
    for (int q = 0; q < 50; ++q) {
        const std::vector<float> x = make_input(head, rng);
        const std::vector<float> logits = full_head(scalar::kernels, head, x);
        for (int i = 0; i < isa_count(); ++i) {
            if (!isa_at(i).usable) continue;
            for (int n_threads : {1, 2, 3}) {
                ThreadPool pool(n_threads);
                const CompactHead compact(head.matrix(), pool);
                std::vector<float> upper(96);
                std::vector<Candidate> found;
                bool coarse = q % 2;
                if (compact.candidates(*isa_at(i).kernels, pool, x.data(), 1, upper.data(), coarse, found))
                    expect_same_answer(logits, found, 1);
                for (size_t r = 0; r < 96; ++r) EXPECT_GE(upper[r], logits[r]);
            }
        }
    }
}

TEST(CompactHead, RowsWithoutABoundAreAlwaysComputed) {
    const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
    Head head = make_head(2, 3);
    head.set(40, 5, nan);
    head.set(41, 5, inf);
    head.set(42, 5, -inf);
    ThreadPool pool(2);
    const CompactHead compact(head.matrix(), pool);
    std::vector<float> x(static_cast<size_t>(head.n), 0.0f), upper(96), row(x.size());
    float_row(head.matrix(), 17, row.data());
    for (size_t i = 0; i < x.size(); ++i) x[i] = row[i];
    x[5] = -1.0f;  // row 42 is +infinity now and wins, 41 -infinity, 40 NaN
    std::vector<Candidate> found;
    bool coarse = false;
    if (compact.candidates(select_kernels(""), pool, x.data(), 1, upper.data(), coarse, found))
        expect_same_answer(full_head(scalar::kernels, head, x), found, 1);
    EXPECT_EQ(upper[40], inf);
    EXPECT_EQ(upper[41], inf);
    EXPECT_EQ(upper[42], inf);
}

TEST(CompactHead, DeclinesWhatItCannotBound) {
    const Head head = make_head(0, 1);
    ThreadPool pool(1);
    const CompactHead compact(head.matrix(), pool);
    std::vector<float> upper(96), x(static_cast<size_t>(head.n), 0.0f);
    std::vector<Candidate> found;
    const Kernels &k = scalar::kernels;
    bool coarse = false;
    EXPECT_FALSE(compact.candidates(k, pool, x.data(), 1, upper.data(), coarse, found)) << "zeros: every row ties";
    x[3] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_FALSE(compact.candidates(k, pool, x.data(), 1, upper.data(), coarse, found));
    x[3] = std::numeric_limits<float>::infinity();
    EXPECT_FALSE(compact.candidates(k, pool, x.data(), 1, upper.data(), coarse, found));
    x[3] = 1e30f;
    EXPECT_FALSE(compact.candidates(k, pool, x.data(), 1, upper.data(), coarse, found));
    x[3] = 1.0f;
    EXPECT_FALSE(compact.candidates(k, pool, x.data(), 0, upper.data(), coarse, found));
    EXPECT_FALSE(compact.candidates(k, pool, x.data(), 97, upper.data(), coarse, found));
}

TEST(CompactHead, IsSmall) {
    Head head(512, 256, TensorType::f16);
    ThreadPool pool(1);
    const CompactHead compact(head.matrix(), pool);
    EXPECT_EQ(compact.bytes(), 512u * 256 * 5 / 8 + 512 * 4 * sizeof(float));
}

}  // namespace
}  // namespace bitnet
