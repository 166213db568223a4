#include "plugins/check/row.h"

#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "plugins/output/record_text.h"

namespace bitnet {

namespace {

constexpr int kHintsInText = 2;  // with more, what follows them would be cut off

// The element's bit pattern, extended with zeros.
uint64_t bits_at(const char *data, int32_t dtype, uint64_t index) {
    uint32_t word = 0;
    uint16_t half = 0;
    switch (dtype) {
    case BITNET_DTYPE_I8: return uint8_t(data[index]);
    case BITNET_DTYPE_F16:
    case BITNET_DTYPE_BF16: memcpy(&half, data + 2 * index, sizeof half); return half;
    default: memcpy(&word, data + 4 * index, sizeof word); return word;
    }
}

int bit_count(int32_t dtype) {
    return dtype == BITNET_DTYPE_I8 ? 8 : dtype == BITNET_DTYPE_F16 || dtype == BITNET_DTYPE_BF16 ? 16 : 32;
}

double half_value(uint32_t bits) {
    const uint32_t exponent = bits >> 10 & 31;
    const double fraction = double(bits & 1023);
    double size;
    if (exponent == 31) {
        size = fraction != 0 ? NAN : HUGE_VAL;
    } else if (exponent == 0) {
        size = fraction * 0x1p-24;
    } else {
        size = (fraction + 1024) * double(1u << exponent) * 0x1p-25;
    }
    return bits >> 15 ? -size : size;
}

double value_of(uint64_t bits, int32_t dtype) {
    switch (dtype) {
    case BITNET_DTYPE_I8: return int8_t(bits);
    case BITNET_DTYPE_I32: return int32_t(bits);
    case BITNET_DTYPE_F16: return half_value(uint32_t(bits));
    default: break;
    }
    const uint32_t word = uint32_t(dtype == BITNET_DTYPE_BF16 ? bits << 16 : bits);
    float value;
    memcpy(&value, &word, sizeof value);
    return double(value);
}

// The mix of the multiset hash (TRACE_FORMAT.md) and its inverse: each of its steps can be undone.
constexpr uint64_t kStep = 0x9E3779B97F4A7C15, kFirst = 0xBF58476D1CE4E5B9, kSecond = 0x94D049BB133111EB;

constexpr uint64_t mix(uint64_t x) {
    uint64_t z = (x + 1) * kStep;
    z = (z ^ (z >> 30)) * kFirst;
    z = (z ^ (z >> 27)) * kSecond;
    return z ^ (z >> 31);
}

constexpr uint64_t inverse(uint64_t odd) {  // Newton: each turn doubles the bits that are right
    uint64_t x = odd;
    for (int i = 0; i < 6; ++i) x *= 2 - odd * x;
    return x;
}

constexpr uint64_t unmix(uint64_t z) {
    z ^= z >> 31 ^ z >> 62;
    z *= inverse(kSecond);
    z ^= z >> 27 ^ z >> 54;
    z *= inverse(kFirst);
    z ^= z >> 30 ^ z >> 60;
    return z * inverse(kStep) - 1;
}
static_assert(mix(0) == 0xe220a8397b1dcdaf && unmix(mix(0x3f800000)) == 0x3f800000);

// When one element differs, the difference of the two multiset hashes is that of two mixes: every element is asked what
// it would have to have been, and an answer that fits the type comes by chance once in 2^32 elements.
bool find_single(const char *data, const RowDifference &d, uint64_t multiset_found, uint64_t multiset_expected,
                 RowHint *hint) {
    int n_fit = 0;
    for (uint64_t i = 0; i < d.n_found && n_fit < 2; ++i) {
        const uint64_t found = bits_at(data, d.dtype_found, i);
        const uint64_t expected = unmix(mix(found) + (multiset_expected - multiset_found));
        if (expected == found || expected >> bit_count(d.dtype_found)) continue;
        *hint = {i, value_of(found, d.dtype_found), value_of(expected, d.dtype_found), true, 0};
        ++n_fit;
    }
    return n_fit == 1;
}

bool is_listed(const TraceLine &line, uint32_t index) {
    for (uint32_t i = 0; i < line.n_top; ++i) {
        if (line.top_index[i] == index) return true;
    }
    return false;
}

// The largest values that differ: first those that should not be there.
void hint_at_top(const char *data, const TraceLine &line, const bitnet_stats_t &stats, RowDifference *d) {
    const double limit = line.n_top < BITNET_STATS_TOP ? HUGE_VAL : fabs(double(line.top_value[line.n_top - 1]));
    for (uint32_t i = 0; i < stats.n_top && d->n_hints < RowDifference::kHints - 1; ++i) {
        const double found = double(stats.top_value[i]);
        if (is_listed(line, stats.top_index[i]) || fabs(found) <= limit) continue;
        d->hints[d->n_hints++] = {stats.top_index[i], found, 0, false, limit};
    }
    for (uint32_t i = 0; i < line.n_top && d->n_hints < RowDifference::kHints; ++i) {
        if (line.top_index[i] >= d->n_found) continue;
        const double found = value_of(bits_at(data, d->dtype_found, line.top_index[i]), d->dtype_found);
        if (found == double(line.top_value[i])) continue;
        d->hints[d->n_hints++] = {line.top_index[i], found, double(line.top_value[i]), true, 0};
    }
}

double sketch_distance(const float *found, const float *expected, double l2) {
    double sum = 0;
    for (int i = 0; i < BITNET_SKETCH_BUCKETS; ++i) {
        const double difference = double(found[i]) - double(expected[i]);
        sum += difference * difference;
    }
    return sum == 0 ? 0 : sqrt(sum) / l2;
}

const char *row_data(const bitnet_tensor_event_t &event, uint32_t row) {
    return static_cast<const char *>(event.data) + row * event.row_stride;
}

struct TextEnd {
    char *out;
    size_t capacity, n = 0;

    __attribute__((format(printf, 2, 3))) void add(const char *format, ...) {
        va_list args;
        va_start(args, format);
        const int wrote = vsnprintf(out + n, capacity - n, format, args);
        va_end(args);
        if (wrote < 0) return;
        n = size_t(wrote) < capacity - n ? n + size_t(wrote) : capacity - 1;
    }
};

void add_hash(TextEnd *text, const uint8_t *hash) {
    for (int i = 0; i < 6; ++i) text->add("%02x", hash[i]);
}

}  // namespace

RowRelation compare_row(const CheckServices &services, const CheckTrace &trace, const TraceRecord &record,
                        const bitnet_tensor_event_t &event, uint32_t row, double tolerance) {
    const uint8_t *hash = services.hash->blake3(services.host, &event, row);
    if (!hash) return RowRelation::no_memory;
    const bool same_kind = record.n_elements == event.row_elements && record.dtype == event.dtype;
    if (same_kind && memcmp(hash, record.blake3, sizeof record.blake3) == 0) return RowRelation::equal;
    if (!same_kind || tolerance < 0 || !record.is_finite) return RowRelation::different;
    const bitnet_stats_t *stats = services.stats->stats(services.host, &event, row);
    const float *sketch = services.sketch->sketch(services.host, &event, row);
    if (!stats || !sketch) return RowRelation::no_memory;
    if (stats->n_nan || stats->n_inf) return RowRelation::different;
    const TraceMeasure &measure = trace.measures[record.measure];
    // Not a number: a sketch overflowed; that is no match.
    return sketch_distance(sketch, measure.sketch, measure.l2) <= tolerance ? RowRelation::within
                                                                            : RowRelation::different;
}

void describe_row(const CheckServices &services, const CheckTrace &trace, const TraceRecord &record, uint64_t run,
                  const bitnet_tensor_event_t &event, uint32_t row, RowDifference *out) {
    RowDifference d = {};
    d.run = run;
    d.event = event.header.seq;
    d.position = event.header.position + int64_t(row);
    d.layer = event.header.layer;
    snprintf(d.stage, sizeof d.stage, "%s", event.stage_name);
    d.dtype_found = event.dtype;
    d.dtype_expected = record.dtype;
    d.n_found = event.row_elements;
    d.n_expected = record.n_elements;
    d.distance = NAN;
    memcpy(d.blake3_expected, record.blake3, sizeof d.blake3_expected);
    const uint8_t *hash = services.hash->blake3(services.host, &event, row);
    if (hash) memcpy(d.blake3_found, hash, sizeof d.blake3_found);
    const bitnet_stats_t *stats = services.stats->stats(services.host, &event, row);
    const float *sketch = services.sketch->sketch(services.host, &event, row);
    LineParser parser = {};
    if (stats && sketch && trace_read_again(&trace, record, &parser)) {
        const TraceLine &line = parser.line;
        const char *data = row_data(event, row);
        d.line = record.line;
        d.nan_found = stats->n_nan, d.nan_expected = line.n_nan;
        d.inf_found = stats->n_inf, d.inf_expected = line.n_inf;
        d.absmax_found = double(stats->absmax), d.absmax_expected = line.absmax;
        const bool finite = d.nan_found + d.nan_expected + d.inf_found + d.inf_expected == 0;
        if (d.n_found == d.n_expected && finite) d.distance = sketch_distance(sketch, line.sketch, line.l2);
        if (d.n_found == d.n_expected && d.dtype_found == d.dtype_expected) {
            const uint64_t multiset = services.hash->multiset(services.host, &event, row);
            d.is_permutation = multiset == line.multiset;
            d.is_single = !d.is_permutation && find_single(data, d, multiset, line.multiset, d.hints);
            d.n_hints = d.is_single;
            if (!d.is_single) hint_at_top(data, line, *stats, &d);
        }
    }
    free_line_parser(&parser);
    *out = d;
}

void difference_text(const RowDifference &d, char *out, size_t capacity) {
    using Llu = unsigned long long;
    TextEnd text{out, capacity};
    text.add("first divergence at position %lld, layer %lld, stage %s", static_cast<long long>(d.position),
             static_cast<long long>(d.layer), d.stage);
    if (d.run) text.add(" of run %llu", Llu(d.run));
    text.add(": blake3 ");
    add_hash(&text, d.blake3_found);
    text.add(", expected ");
    add_hash(&text, d.blake3_expected);
    if (d.n_found != d.n_expected || d.dtype_found != d.dtype_expected) {
        text.add("; %llu values of %s, expected %llu of %s", Llu(d.n_found), dtype_name(d.dtype_found),
                 Llu(d.n_expected), dtype_name(d.dtype_expected));
    }
    if (d.line == 0) text.add("; the trace cannot be read again");
    if (d.nan_found != d.nan_expected) text.add("; NaN %llu, expected %llu", Llu(d.nan_found), Llu(d.nan_expected));
    if (d.inf_found != d.inf_expected) text.add("; Inf %llu, expected %llu", Llu(d.inf_found), Llu(d.inf_expected));
    if (d.is_permutation) text.add("; the same values in another order");
    if (d.is_single) text.add("; a single value");
    for (int i = 0; i < d.n_hints && i < kHintsInText; ++i) {
        const RowHint &hint = d.hints[i];
        text.add("; [%llu] %.9g, expected ", Llu(hint.index), hint.found);
        if (hint.has_expected) {
            text.add("%.9g", hint.expected);
        } else {
            text.add("at most %.9g", hint.expected_limit);
        }
    }
    if (d.absmax_found != double(float(d.absmax_expected)))
        text.add("; absmax %.9g, expected %.9g", d.absmax_found, d.absmax_expected);
    if (!std::isnan(d.distance)) text.add("; rel. L2 %.3g", d.distance);
}

}  // namespace bitnet
