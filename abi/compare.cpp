// Section 12 of the header: two engines' logits.
#include "core/compare.h"

#include <limits>

#include "abi/boundary.h"
#include "core/sampler.h"

namespace bitnet {

namespace {

constexpr size_t n_vocab_max = size_t(std::numeric_limits<int32_t>::max());  // ids are int32

bitnet_logits_limits_t checked_limits(const bitnet_logits_limits_t *given) {
    bitnet_logits_limits_t limits = parameters(given, "limits");
    if (limits.judged & ~BITNET_METRIC_ALL)
        fail(Status::invalid, "limits->judged is 0x%x: expected bits of 0x%x", limits.judged, BITNET_METRIC_ALL);
    if (limits.judged == 0) {
        const int32_t top_k = limits.top_k;
        limits = *find_preset(default_preset);
        if (top_k != 0) limits.top_k = top_k;
    }
    if (limits.top_k == 0) limits.top_k = default_top_k;
    if (limits.top_k < 0) fail(Status::invalid, "limits->top_k is %d: expected at least 1, or 0", limits.top_k);
    for (const double value :
         {limits.cosine_min, limits.cosine_warn, limits.l2_max, limits.max_abs_max, limits.atol, limits.rtol,
          limits.mse_max, limits.nmse_max, limits.kl_max, limits.mean_kl_max, limits.top_k_min, limits.top1_noise,
          limits.either_cosine_min, limits.either_max_abs_max})
        if (value != value) fail(Status::invalid, "limits holds NaN: expected numbers");
    return limits;
}

// The caller's array, whose elements may be larger than ours.
class Rows {
public:
    Rows(bitnet_logits_row_t *rows, size_t n) : rows_(reinterpret_cast<unsigned char *>(rows)), n_(n) {
        if (!rows || n == 0) return;
        stride_ = rows->struct_size;
        if (stride_ < sizeof(bitnet_logits_row_t) || stride_ > struct_size_max ||
            stride_ % alignof(bitnet_logits_row_t))
            fail(Status::abi, "rows[0].struct_size is %zu: expected %zu to %zu, a multiple of %zu", stride_,
                 sizeof(bitnet_logits_row_t), struct_size_max, alignof(bitnet_logits_row_t));
        for (size_t i = 1; i < n; ++i)
            if (const uint32_t size = (*this)[i].struct_size; size != stride_)
                fail(Status::abi, "rows[%zu].struct_size is %u: expected %zu, as rows[0] has", i, size, stride_);
    }
    explicit operator bool() const { return rows_ != nullptr; }
    size_t size() const { return n_; }
    bitnet_logits_row_t &operator[](size_t i) const {
        return *reinterpret_cast<bitnet_logits_row_t *>(rows_ + i * stride_);
    }

private:
    unsigned char *rows_;
    size_t n_;
    size_t stride_ = sizeof(bitnet_logits_row_t);
};

// A wrong size is found before any work.
void check_summary(bitnet_logits_summary_t *summary) {
    if (!summary) return;
    bitnet_logits_summary_t nothing{};
    fill(summary, nothing, "summary");
}

void check_n_vocab(size_t n_vocab) {
    if (n_vocab < 1 || n_vocab > n_vocab_max)
        fail(Status::invalid, "n_vocab is %zu: expected 1 to %zu", n_vocab, n_vocab_max);
}

std::string preset_names() {
    std::string names;
    for (size_t i = 0; preset_name(i); ++i) names += (i ? ", " : "") + std::string(preset_name(i));
    return names;
}

}  // namespace

}  // namespace bitnet

using namespace bitnet;

extern "C" {

const char *bitnet_compare_preset_name(int32_t index) { return index < 0 ? nullptr : preset_name(size_t(index)); }

bitnet_status_t bitnet_compare_preset(const char *name, bitnet_logits_limits_t *out) {
    return guarded("bitnet_compare_preset", [&] {
        require(name, "name");
        require(out, "out");
        const bitnet_logits_limits_t *limits = find_preset(name);
        if (!limits) fail(Status::invalid, "no preset \"%.40s\": expected %s", name, preset_names().c_str());
        fill(out, *limits, "out");
    });
}

bitnet_status_t bitnet_compare_logits(const float *a, const float *b, size_t n_rows, size_t n_vocab,
                                      const bitnet_logits_limits_t *given, bitnet_logits_row_t *row_array,
                                      bitnet_logits_summary_t *summary) {
    return guarded("bitnet_compare_logits", [&] {
        require(a, "a");
        require(b, "b");
        check_n_vocab(n_vocab);
        const bitnet_logits_limits_t limits = checked_limits(given);
        const Rows rows(row_array, n_rows);
        check_summary(summary);
        LogitsSummary gathered(limits);
        for (size_t i = 0; i < n_rows; ++i) {
            bitnet_logits_row_t own{};
            bitnet_logits_row_t &row = rows ? rows[i] : own;
            measure_row(a + i * n_vocab, b + i * n_vocab, n_vocab, limits, row);
            judge_row(limits, row);
            gathered.add(row);
        }
        if (summary) fill(summary, gathered.conclude(), "summary");
    });
}

bitnet_status_t bitnet_logprobs(const float *logits, size_t n_rows, size_t n_vocab, const int32_t *tokens,
                                double *out) {
    return guarded("bitnet_logprobs", [&] {
        require(logits, "logits");
        require(tokens, "tokens");
        require(out, "out");
        check_n_vocab(n_vocab);
        for (size_t j = 0; j < n_rows; ++j)
            if (tokens[j] < 0 || size_t(tokens[j]) >= n_vocab)
                fail(Status::invalid, "token %zu is %d: expected 0 to %zu", j, tokens[j], n_vocab - 1);
        for (size_t j = 0; j < n_rows; ++j) out[j] = log_probability(logits + j * n_vocab, int(n_vocab), tokens[j]);
    });
}

bitnet_status_t bitnet_compare_rows(bitnet_logits_row_t *row_array, size_t n_rows, const bitnet_logits_limits_t *given,
                                    bitnet_logits_summary_t *summary) {
    return guarded("bitnet_compare_rows", [&] {
        if (n_rows > 0) require(row_array, "rows");
        const bitnet_logits_limits_t limits = checked_limits(given);
        const Rows rows(row_array, n_rows);
        check_summary(summary);
        LogitsSummary gathered(limits);
        for (size_t i = 0; i < n_rows; ++i) {
            judge_row(limits, rows[i]);
            gathered.add(rows[i]);
        }
        if (summary) fill(summary, gathered.conclude(), "summary");
    });
}

}  // extern "C"
