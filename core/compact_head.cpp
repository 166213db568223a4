#include "core/compact_head.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/math.h"
#include "core/ops.h"

namespace bitnet {
namespace {

constexpr int n_levels = 32;
constexpr int middle = 64;          // level of the weight 0
constexpr float widest_rms = 4;     // levels reach from -widest_rms to widest_rms times the row's root mean square
constexpr int bins_per_level = 16;  // of the table from weights to codes
constexpr int n_bins = 2 * middle * bins_per_level;
constexpr double above = 1 + 1e-9;  // makes up for the rounding of a norm computed in double

float rounded_up(double x) {
    const float f = float(x);
    return double(f) < x ? std::nextafterf(f, std::numeric_limits<float>::infinity()) : f;
}

// Bin of a weight that is `scaled` levels from the middle.
int bin_of(float scaled) {
    const float b = (scaled + float(middle)) * float(bins_per_level);
    return b > 0 ? std::min(int(b), n_bins - 1) : 0;
}
double level_of_bin(int bin) { return (double(bin) + 0.5) / bins_per_level; }

double rms_of(const std::vector<float> &row) {
    double sum = 0;
    for (float w : row) sum += double(w) * double(w);
    return std::sqrt(sum / double(row.size()));
}

// Of each bin the code whose level is nearest. levels ascend.
std::vector<uint8_t> nearest_codes(const uint8_t *levels) {
    std::vector<uint8_t> nearest(n_bins);
    for (int bin = 0, code = 0; bin < n_bins; ++bin) {
        while (code + 1 < n_levels && level_of_bin(bin) * 2 > double(levels[code] + levels[code + 1])) ++code;
        nearest[size_t(bin)] = uint8_t(code);
    }
    return nearest;
}

}  // namespace

CompactHead::CompactHead(const FloatMatrix &head, ThreadPool &pool) : head_(head) {
    const size_t rows = size_t(head.n_rows), n = size_t(head.n_cols);
    nibbles_ = Buffer<uint8_t>::huge(rows * n / 2);
    bits_ = Buffer<uint64_t>::huge(rows * n / 64);
    scale_ = Buffer<float>(rows);
    fine_error_ = Buffer<float>(rows);
    coarse_error_ = Buffer<float>(rows);
    norm_ = Buffer<float>(rows);
    uint8_t levels[n_levels];
    train_levels(levels);
    const std::vector<uint8_t> nearest = nearest_codes(levels);
    std::vector<std::vector<float>> values(size_t(pool.size()), std::vector<float>(n));
    pool.split(head.n_rows, 64, [&](int thread, int begin, int end) {
        for (int r = begin; r < end; ++r) encode_row(r, nearest, values[size_t(thread)]);
    });
    double gain = 0;
    size_t n_bounded = 0;
    for (size_t r = 0; r < rows; ++r)
        if (!std::isinf(fine_error_.data()[r])) {
            gain += double(coarse_error_.data()[r]) - double(fine_error_.data()[r]);
            ++n_bounded;
        }
    typical_gain_ = n_bounded ? gain / double(n_bounded) : 0;
}

size_t CompactHead::bytes() const {
    return nibbles_.bytes() + bits_.bytes() + scale_.bytes() + fine_error_.bytes() + coarse_error_.bytes() +
           norm_.bytes();
}

// Lloyd's algorithm (IEEE Transactions on Information Theory 28, 1982) on a histogram of some rows' weights.
void CompactHead::train_levels(uint8_t *levels) {
    constexpr int n_sampled = 512, n_rounds = 60;
    std::vector<double> count(n_bins, 1e-3);  // nowhere quite empty: every code keeps a place
    std::vector<float> values(static_cast<size_t>(head_.n_cols));
    for (int i = 0; i < n_sampled; ++i) {
        float_row(head_, int(int64_t(head_.n_rows) * i / n_sampled), values.data());
        const double rms = rms_of(values);
        if (!(rms > 0) || std::isinf(rms)) continue;
        const float to_levels = float((middle - 1) / (double(widest_rms) * rms));
        for (float w : values) ++count[size_t(bin_of(w * to_levels))];
    }
    double level[n_levels];
    for (int c = 0; c < n_levels; ++c) level[c] = 4.0 * c + 2.0;
    for (int round = 0; round < n_rounds; ++round) {
        double sum[n_levels] = {}, weight[n_levels] = {};
        for (int bin = 0, c = 0; bin < n_bins; ++bin) {
            while (c + 1 < n_levels && level_of_bin(bin) * 2 > level[c] + level[c + 1]) ++c;
            sum[c] += count[size_t(bin)] * level_of_bin(bin);
            weight[c] += count[size_t(bin)];
        }
        for (int c = 0; c < n_levels; ++c)
            if (weight[c] > 0) level[c] = sum[c] / weight[c];
    }
    const auto rounded = [](double x) { return uint8_t(std::clamp(std::lround(x), 0L, 127L)); };
    for (int c = 0; c < n_levels; ++c) levels[c] = rounded(level[c]);
    double sum[n_levels / 2] = {}, weight[n_levels / 2] = {};  // a nibble stands for the mean of its two codes' weights
    const std::vector<uint8_t> nearest = nearest_codes(levels);
    for (int bin = 0; bin < n_bins; ++bin) {
        const int nibble = nearest[size_t(bin)] >> 1;
        sum[nibble] += count[size_t(bin)] * level_of_bin(bin);
        weight[nibble] += count[size_t(bin)];
    }
    for (int nibble = 0; nibble < n_levels / 2; ++nibble) {
        for (int bit = 0; bit < 2; ++bit) fine_levels_[bit * 16 + nibble] = levels[2 * nibble + bit];
        coarse_levels_[nibble] = coarse_levels_[16 + nibble] =
            weight[nibble] > 0 ? rounded(sum[nibble] / weight[nibble]) : levels[2 * nibble];
    }
}

void CompactHead::encode_row(int row, const std::vector<uint8_t> &nearest, std::vector<float> &values) {
    const int n = head_.n_cols;
    float_row(head_, row, values.data());
    const double norm = rms_of(values) * std::sqrt(double(n)) * above;
    const float scale = float(norm / std::sqrt(double(n)) * double(widest_rms) / (middle - 1));
    const float to_levels = scale > 0 ? 1 / scale : 0;
    uint8_t *nibbles = nibbles_.data() + size_t(row) * size_t(n) / 2;
    uint64_t *bits = bits_.data() + size_t(row) * size_t(n) / 64;
    double fine = 0, coarse = 0;
    for (int i = 0; i < n; i += 64) {
        uint64_t word = 0;
        uint8_t *bytes = nibbles + i / 128 * 64;
        for (int j = 0; j < 64; ++j) {
            const float w = values[size_t(i + j)];
            const uint8_t code = nearest[size_t(bin_of(w * to_levels))];
            const int nibble = code >> 1, bit = code & 1;
            const auto miss = [&](int level) { return double(w) - double(scale) * (level - middle); };
            const double of_fine = miss(fine_levels_[bit * 16 + nibble]), of_coarse = miss(coarse_levels_[nibble]);
            fine += of_fine * of_fine;
            coarse += of_coarse * of_coarse;
            word |= uint64_t(bit) << j;
            bytes[j] = i % 128 == 0 ? uint8_t(nibble) : uint8_t(bytes[j] | nibble << 4);
        }
        bits[i / 64] = word;
    }
    const bool bounded = norm < 1e30;  // false for NaN too
    scale_.data()[row] = bounded ? scale : 0;
    norm_.data()[row] = bounded ? rounded_up(norm) : 0;
    const auto bound_of = [&](double squares) {
        return bounded ? rounded_up(std::sqrt(squares) * above + 1e-12 * norm) : std::numeric_limits<float>::infinity();
    };
    fine_error_.data()[row] = bound_of(fine);
    coarse_error_.data()[row] = bound_of(coarse);
}

// What stands for the rows: with the fifth bits or without.
struct CompactHead::Copy {
    const uint64_t *bits;  // null: without
    const uint8_t *levels;
    const float *error;
};

CompactHead::Copy CompactHead::copy(bool coarse) const {
    return coarse ? Copy{nullptr, coarse_levels_, coarse_error_.data()}
                  : Copy{bits_.data(), fine_levels_, fine_error_.data()};
}

// x as integers q = 128 high + low times a step, and the bound's A and B.
struct CompactHead::Input {
    Buffer<int8_t> high, low;
    int64_t q_sum = 0;
    double step = 0;
    double a = 0, b = 0, tiny = 0;
    bool usable = false;
};

CompactHead::Input CompactHead::prepare(const float *x) const {
    const int n = head_.n_cols;
    Input in;
    in.high = Buffer<int8_t>(size_t(n));
    in.low = Buffer<int8_t>(size_t(n));
    double largest = 0, sum = 0, miss = 0;
    for (int i = 0; i < n; ++i) {
        largest = std::max(largest, std::fabs(double(x[i])));
        sum += double(x[i]) * double(x[i]);
    }
    const double norm = std::sqrt(sum) * above;
    if (!(largest > 1e-30 && norm < 1e7))
        return in;  // NaN and infinity too; the rows' 1e30 times this is still a float
    in.step = largest / (127 * 128);
    for (int i = 0; i < n; ++i) {
        const int q = int(std::nearbyint(double(x[i]) / in.step));
        const int high = (q + 64) >> 7;  // -127 to 127, and low -64 to 63
        in.high.data()[i] = int8_t(high);
        in.low.data()[i] = int8_t(q - high * 128);
        in.q_sum += q;
        const double d = double(x[i]) - q * in.step;
        miss += d * d;
    }
    const double off = std::sqrt(miss) * above + 1e-12 * norm;
    const double k = ((n + 15) / 16 + 5) * 0x1p-24, g = k / (1 - k);
    in.a = (norm + off) * above;
    in.b = (off + (g + 1e-11) * (norm + off)) * above;
    in.tiny = n * 0x1p-149;
    in.usable = true;
    return in;
}

void CompactHead::bound(const Kernels &kernels, const Input &in, const Copy &copy, int begin, int end,
                        float *upper) const {
    constexpr int block = 128;
    int32_t high[block], low[block];
    const size_t n = size_t(head_.n_cols);
    for (int r = begin; r < end; r += block) {
        const int rows = std::min(block, end - r);
        kernels.compact_rows(nibbles_.data() + size_t(r) * n / 2, copy.bits ? copy.bits + size_t(r) * n / 64 : nullptr,
                             rows, int(n), copy.levels, in.high.data(), in.low.data(), high, low);
        for (int i = 0; i < rows; ++i) {
            const double s = 128.0 * high[i] + low[i] - double(middle) * double(in.q_sum);  // exact: far below 2^53
            const double estimate = double(scale_.data()[r + i]) * in.step * s;
            const double u = estimate + double(copy.error[r + i]) * in.a + double(norm_.data()[r + i]) * in.b + in.tiny;
            const float f = float(u);
            upper[r + i] = f + (std::fabs(f) * 3e-7f + 1e-37f);  // at least u: 3e-7 is over two units in the last place
        }
    }
}

// The k rows that promise most.
static std::vector<int32_t> leaders(const float *upper, int n_rows, int k) {
    if (k == 1) return {int32_t(std::max_element(upper, upper + n_rows) - upper)};
    std::vector<int32_t> rows(static_cast<size_t>(n_rows));
    for (int i = 0; i < n_rows; ++i) rows[size_t(i)] = i;
    std::nth_element(rows.begin(), rows.begin() + (k - 1), rows.end(),
                     [&](int32_t a, int32_t b) { return upper[a] > upper[b]; });
    rows.resize(size_t(k));
    return rows;
}

// Rows [begin, end) that can reach `least`; no more than `most`.
void CompactHead::reach(const float *upper, float least, int begin, int end, size_t most,
                        std::vector<Candidate> &out) const {
    for (int32_t i = begin; i < end && out.size() < most; ++i)
        if (upper[i] >= least) out.push_back({i, 0});
}

bool CompactHead::candidates(const Kernels &kernels, ThreadPool &pool, const float *x, int k, float *upper,
                             bool &coarse, std::vector<Candidate> &out) const {
    out.clear();
    const int n_rows = head_.n_rows;
    const Input in = prepare(x);
    if (!in.usable || k < 1 || k > n_rows) return false;
    const Copy used = copy(coarse);

    struct alignas(64) Part {
        int begin = 0, end = 0;
        int32_t best = 0;
        std::vector<Candidate> found;
        bool few = true;
        size_t n_by_other = 0;
    };
    std::vector<Part> parts(size_t(pool.size()));
    pool.split(n_rows, 64, [&](int thread, int begin, int end) {
        bound(kernels, in, used, begin, end, upper);
        parts[size_t(thread)].begin = begin;
        parts[size_t(thread)].end = end;
        if (k == 1) parts[size_t(thread)].best = begin + leaders(upper + begin, end - begin, 1)[0];
    });

    // The k-th largest of all logits is not below the smallest of any k of them.
    std::vector<int32_t> first;
    if (k == 1)
        for (const Part &part : parts) {
            if (part.end > part.begin && (first.empty() || upper[part.best] > upper[first[0]])) first = {part.best};
        }
    else
        first = leaders(upper, n_rows, k);
    float least = std::numeric_limits<float>::infinity();
    for (int32_t row : first) {
        const float logit = float_matrix_row(kernels, head_, row, row, x);
        if (!(logit >= -std::numeric_limits<float>::max())) return false;  // NaN or -infinity excludes nobody
        least = std::min(least, logit);
    }

    // About as many as would be left by the copy that was not used.
    const float other = least + float(typical_gain_ * in.a) * (coarse ? 1.0f : -1.0f);
    pool.run([&](int thread, int) {
        Part &part = parts[size_t(thread)];
        const size_t most = size_t(std::max((part.end - part.begin) / 8, k));  // beyond, the head in order is faster
        reach(upper, least, part.begin, part.end, most + 1, part.found);
        for (int i = part.begin; i < part.end; ++i) part.n_by_other += upper[i] >= other;
        part.few = part.found.size() <= most;
        for (size_t i = 0; part.few && i < part.found.size(); ++i) {
            const int32_t row = part.found[i].token, next = i + 1 < part.found.size() ? part.found[i + 1].token : row;
            part.found[i].logit = float_matrix_row(kernels, head_, row, next, x);
        }
    });
    bool few = true;
    size_t n_by_other = 0;
    for (const Part &part : parts) {
        few = few && part.few;
        n_by_other += part.n_by_other;
        out.insert(out.end(), part.found.begin(), part.found.end());
    }
    const double by_used = double(out.size()) * double(head_.row_bytes()),
                 by_other = double(n_by_other) * double(head_.row_bytes()),
                 fifth_bits = double(n_rows) * double(head_.n_cols) / 8;
    coarse = coarse ? by_used < by_other + fifth_bits : by_other < by_used + fifth_bits;
    return few;
}

}  // namespace bitnet
