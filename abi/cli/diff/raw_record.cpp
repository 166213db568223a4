// Statistics, sketch and hashes of raw values, as plugins/TRACE_FORMAT.md defines them.
#include "abi/cli/diff/raw_values.h"

#include "abi/cli/terminal.h"
#include "bitnet_c.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace bitnet::diff {

namespace {

uint64_t mix(uint64_t x) {
    uint64_t z = (x + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

const char *dtype_name(int32_t dtype) {
    switch (dtype) {
    case BITNET_DTYPE_F16: return "F16";
    case BITNET_DTYPE_BF16: return "BF16";
    case BITNET_DTYPE_I8: return "I8";
    case BITNET_DTYPE_I32: return "I32";
    default: return "F32";
    }
}

void hash(const RawRow &row, Record &record) {
    char digits[65] = {};
    size_t n = sizeof digits;
    if (bitnet_blake3(row.bytes.data(), row.bytes.size(), digits, &n) != BITNET_OK)
        throw CommandError(bitnet_last_error());
    const auto value = [](char c) { return unsigned(c <= '9' ? c - '0' : c - 'a' + 10); };
    for (size_t i = 0; i < record.blake3.size(); ++i)
        record.blake3[i] = uint8_t(value(digits[2 * i]) << 4 | value(digits[2 * i + 1]));
    const size_t n_bytes = row.bytes.size() / std::max<size_t>(1, row.size());
    for (size_t i = 0; i < row.size(); ++i) {
        uint64_t bits = 0;
        std::memcpy(&bits, row.bytes.data() + i * n_bytes, n_bytes);
        record.multiset += mix(bits);
    }
}

void sketch(const RawRow &row, Record &record) {
    double buckets[kSketchBuckets] = {};
    uint64_t signs = 0, mask = 0;
    for (size_t i = 0; i < row.size(); ++i) {
        const size_t p = i % 64;
        if (p == 0) {
            signs = mix(i / 64 * 2);
            mask = mix(i / 64 * 2 + 1) & 63;
        }
        const double value = row[i];
        if (std::isfinite(value)) buckets[p ^ mask] += signs >> p & 1 ? -value : value;
    }
    for (size_t b = 0; b < kSketchBuckets; ++b) record.sketch[b] = float(buckets[b]);
}

// The largest by magnitude, ties to the lowest index; NaN never.
void offer(Record &record, uint32_t index, double value) {
    const auto smaller = [&](uint32_t at) { return std::fabs(double(record.top[at].value)) < std::fabs(value); };
    if (record.n_top == kTopCount && !smaller(kTopCount - 1)) return;
    uint32_t at = record.n_top < kTopCount ? record.n_top++ : uint32_t(kTopCount - 1);
    for (; at > 0 && smaller(at - 1); --at) record.top[at] = record.top[at - 1];
    record.top[at] = {index, float(value)};
}

}  // namespace

Record record_of(const RawRow &row) {
    Record record;
    const std::string_view dtype = dtype_name(row.dtype);
    dtype.copy(record.dtype.data(), record.dtype.size() - 1);
    record.n_elements = row.size();
    double sum = 0, squares = 0, n = 0;
    for (uint32_t i = 0; i < row.size(); ++i) {
        const double value = row[i];
        if (!std::isfinite(value)) {
            ++(std::isnan(value) ? record.n_nan : record.n_inf);
            if (!record.nonfinite) record.nonfinite = i;
        } else {
            if (n++ == 0 || value > record.max) record.max = value, record.argmax = i;
            if (n == 1 || value < record.min) record.min = value;
            sum += value;
            squares += value * value;
            record.n_zeros += value == 0;
        }
        if (!std::isnan(value)) offer(record, i, value);
    }
    if (n > 0) {
        record.mean = sum / n;
        record.rms = std::sqrt(squares / n);
        record.l2 = std::sqrt(squares);
        record.absmax = std::max(std::fabs(record.min), std::fabs(record.max));
    }
    sketch(row, record);
    hash(row, record);
    return record;
}

double exact_distance(const RawRow &a, const RawRow &b) {
    if (a.size() != b.size()) return NAN;
    double error = 0, size = 0;
    for (size_t i = 0; i < a.size(); ++i) {
        const double x = a[i], y = b[i];
        if (std::isfinite(x) != std::isfinite(y)) return NAN;
        if (!std::isfinite(x)) continue;
        error += (x - y) * (x - y);
        size += x * x;
    }
    return error == 0 ? 0 : std::sqrt(error) / std::sqrt(size);
}

}  // namespace bitnet::diff
