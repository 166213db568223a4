// Hashes, statistics and sketch of one row. All work in blocks of 64 elements, so that loops have constant counts and
// vectorise, and all add in one fixed order, so that every machine gets the same result.
#include "plugins/host/services.h"

#include <blake3.h>

#include "plugins/host/row_types.h"

namespace bitnet {

namespace services {

namespace {

// Calls `use(Type())` with the type of a dtype.
template <class Use> void with_type(int32_t dtype, Use use) {
    switch (dtype) {
    case BITNET_DTYPE_F16: use(F16()); break;
    case BITNET_DTYPE_BF16: use(Bf16()); break;
    case BITNET_DTYPE_I8: use(I8()); break;
    case BITNET_DTYPE_I32: use(I32()); break;
    default: use(F32()); break;
    }
}

struct ByteMixes {
    uint64_t of[256];
    constexpr ByteMixes() : of() {
        for (uint64_t i = 0; i < 256; ++i) of[i] = mix(i);
    }
};
constexpr ByteMixes kByteMixes;

template <class Type> uint64_t multiset(Row row) {
    uint64_t sum = 0;
    for (size_t first = 0; first < row.n; first += kBlock) {
        const Block<Type> block(row, first);
        for (int i = 0; i < block.count; ++i) sum += mix(block.raw[i]);
    }
    return sum;
}

// ---------------------------------------------------------------------------------------------------------------------
// Statistics

template <class Value> struct Sums {
    double sum[kLanes] = {}, squares[kLanes] = {};
    Value min, max;
    uint64_t n_nan = 0, n_inf = 0, n_zero = 0;
    uint32_t first_nonfinite = UINT32_MAX;
};

// The slow half, for blocks that hold NaN or Inf and for the rest of a row: element by element, in the same lanes.
template <class Value> void add_elements(Sums<Value> *sums, const Value *values, size_t first, int count) {
    for (int i = 0; i < count; ++i) {
        const Value v = values[i];
        if (!is_finite(v)) {
            if (sums->first_nonfinite == UINT32_MAX) sums->first_nonfinite = uint32_t(first) + uint32_t(i);
            ++(v != v ? sums->n_nan : sums->n_inf);
            continue;
        }
        sums->n_zero += v == 0;
        sums->sum[i % kLanes] += double(v);
        sums->squares[i % kLanes] += double(v) * double(v);
        if (v < sums->min) sums->min = v;
        if (v > sums->max) sums->max = v;
    }
}

// Four lanes at a time, as SSE2 and NEON have them: the plain loops do not vectorise well.
typedef float Float4 __attribute__((vector_size(16)));
typedef double Double2 __attribute__((vector_size(16)));

inline void add_block_sums(Sums<float> *sums, const float *values) {
    Double2 sum[kLanes / 2], squares[kLanes / 2];
    memcpy(sum, sums->sum, sizeof sum);
    memcpy(squares, sums->squares, sizeof squares);
    for (int i = 0; i < kBlock; i += kLanes) {
        for (int pair = 0; pair < kLanes / 2; ++pair) {
            const Double2 v = {double(values[i + 2 * pair]), double(values[i + 2 * pair + 1])};
            sum[pair] += v;
            squares[pair] += v * v;
        }
    }
    memcpy(sums->sum, sum, sizeof sum);
    memcpy(sums->squares, squares, sizeof squares);
}

// A block of 64 finite values, in the lanes of add_elements().
void add_block(Sums<float> *sums, const float *values, size_t) {
    add_block_sums(sums, values);
    Float4 min, max;
    memcpy(&min, values, sizeof min);
    max = min;
    int32_t zeros = 0;
    for (int i = 0; i < kBlock; i += 4) {
        Float4 v;
        memcpy(&v, values + i, sizeof v);
        min = v < min ? v : min;
        max = v > max ? v : max;
    }
    for (int i = 0; i < kBlock; ++i) zeros += values[i] == 0;
    sums->n_zero += uint64_t(zeros);
    for (int lane = 0; lane < 4; ++lane) {
        if (min[lane] < sums->min) sums->min = min[lane];
        if (max[lane] > sums->max) sums->max = max[lane];
    }
}
void add_block(Sums<double> *sums, const double *values, size_t first) { add_elements(sums, values, first, kBlock); }

// Whether a block has numbers only, and its largest magnitude. As integers, magnitudes order like their floats.
inline bool all_finite(const float *values, double *magnitude) {
    int32_t largest[kLanes] = {};
    for (int i = 0; i < kBlock; i += kLanes) {
        for (int lane = 0; lane < kLanes; ++lane) {
            const int32_t bits = std::bit_cast<int32_t>(values[i + lane]) & int32_t(kAbs);
            largest[lane] = bits > largest[lane] ? bits : largest[lane];
        }
    }
    int32_t result = 0;
    for (int lane = 0; lane < kLanes; ++lane) result = largest[lane] > result ? largest[lane] : result;
    *magnitude = double(std::bit_cast<float>(result));
    return result < int32_t(kInf);
}
inline bool all_finite(const double *values, double *magnitude) {
    *magnitude = 0;
    for (int i = 0; i < kBlock; ++i) *magnitude = std::fabs(values[i]) > *magnitude ? std::fabs(values[i]) : *magnitude;
    return true;
}

// `finite`: every element is.
template <class Type> double squared_deviations(Row row, double mean, bool finite) {
    double sums[kLanes] = {};
    for (size_t first = 0; first < row.n; first += kBlock) {
        const Block<Type> block(row, first);
        typename Type::Value values[kBlock];
        block.values(values);
        if (block.count == kBlock && finite) {
            for (int i = 0; i < kBlock; i += kLanes) {
                for (int lane = 0; lane < kLanes; ++lane) {
                    const double d = double(values[i + lane]) - mean;
                    sums[lane] += d * d;
                }
            }
            continue;
        }
        for (int i = 0; i < block.count; ++i) {
            if (!is_finite(values[i])) continue;
            const double d = double(values[i]) - mean;
            sums[i % kLanes] += d * d;
        }
    }
    return combine(sums);
}

template <class Type> uint32_t first_of(Row row, typename Type::Value wanted) {
    for (size_t first = 0; first < row.n; first += kBlock) {
        const Block<Type> block(row, first);
        typename Type::Value values[kBlock];
        block.values(values);
        int found = 0;  // without a branch, so that blocks that do not have it pass at full speed
        for (int i = 0; i < kBlock; ++i) found |= values[i] == wanted;
        if (!found) continue;
        for (int i = 0; i < block.count; ++i) {
            if (values[i] == wanted) return uint32_t(first) + uint32_t(i);
        }
    }
    return 0;
}

template <class Type> float element(Row row, uint32_t index) {
    typename Type::Raw raw;
    memcpy(&raw, static_cast<const char *>(row.data) + index * sizeof raw, sizeof raw);
    return float(Type::value(raw));
}

template <class Type> void stats(Row row, bitnet_stats_t *out) {
    using Value = typename Type::Value;
    Sums<Value> sums;
    sums.min = Value(INFINITY), sums.max = Value(-INFINITY);
    Top top;
    for (size_t first = 0; first < row.n; first += kBlock) {
        const Block<Type> block(row, first);
        Value values[kBlock];
        block.values(values);
        double magnitude;
        if (all_finite(values, &magnitude) && block.count == kBlock) {
            add_block(&sums, values, first);
            if (magnitude <= top.threshold) continue;
        } else {
            add_elements(&sums, values, first, block.count);
        }
        for (int i = 0; i < block.count; ++i) top.offer(uint32_t(first) + uint32_t(i), double(values[i]));
    }
    *out = {};
    out->struct_size = sizeof *out;
    out->n = row.n;
    out->n_nan = sums.n_nan, out->n_inf = sums.n_inf, out->n_zero = sums.n_zero;
    out->nonfinite_index = sums.first_nonfinite;
    const uint64_t n_finite = row.n - sums.n_nan - sums.n_inf;
    const double sum = combine(sums.sum), squares = combine(sums.squares);
    double deviations = 0;
    if (n_finite) {
        deviations = squared_deviations<Type>(row, sum / double(n_finite), n_finite == row.n);
        out->min_index = first_of<Type>(row, sums.min);
        out->max_index = first_of<Type>(row, sums.max);
        out->min = element<Type>(row, out->min_index);  // rather than sums.min: of +0 and -0, the first
        out->max = element<Type>(row, out->max_index);
    }
    finish_stats(out, top, sum, squares, deviations);
}

// ---------------------------------------------------------------------------------------------------------------------
// Sketch

// For each group of 4 elements: their four sign bits as masks, so that a vector is negated by one XOR.
struct SignMasks {
    uint32_t of[16][4];
    constexpr SignMasks() : of() {
        for (uint32_t bits = 0; bits < 16; ++bits) {
            for (uint32_t i = 0; i < 4; ++i) of[bits][i] = (bits >> i & 1) << 31;
        }
    }
};
constexpr SignMasks kSigns;

// buckets[p ^ shuffle] += ±values[p]. `Low` is the shuffle within groups of 4, a constant for the vector unit.
template <int Low> void add_shuffled(double *buckets, const float *values, uint64_t signs, int shuffle) {
    for (int group = 0; group < kBlock / 4; ++group) {
        const uint32_t *mask = kSigns.of[signs >> (4 * group) & 15];
        const float *from = values + 4 * group;
        double *to = buckets + (4 * group ^ (shuffle & ~3));
        float v[4];
        for (int i = 0; i < 4; ++i) v[i] = std::bit_cast<float>(std::bit_cast<uint32_t>(from[i]) ^ mask[i]);
        for (int i = 0; i < 4; ++i) to[i] += double(v[i ^ Low]);
    }
}

inline void add_signed(double *buckets, const float *values, uint64_t signs, int shuffle) {
    switch (shuffle & 3) {
    case 0: return add_shuffled<0>(buckets, values, signs, shuffle);
    case 1: return add_shuffled<1>(buckets, values, signs, shuffle);
    case 2: return add_shuffled<2>(buckets, values, signs, shuffle);
    default: return add_shuffled<3>(buckets, values, signs, shuffle);
    }
}

inline void add_signed(double *buckets, const double *values, uint64_t signs, int shuffle) {
    for (int p = 0; p < kBlock; ++p) buckets[p ^ shuffle] += signs >> p & 1 ? -values[p] : values[p];
}

template <class Type> void sketch(Row row, float *out) {
    double buckets[BITNET_SKETCH_BUCKETS] = {};
    for (size_t first = 0; first < row.n; first += kBlock) {
        const Block<Type> block(row, first);
        typename Type::Value values[kBlock];
        block.values(values);
        for (int i = 0; i < kBlock; ++i) values[i] = is_finite(values[i]) ? values[i] : 0;
        const uint64_t b = first / kBlock;
        add_signed(buckets, values, mix(2 * b), int(mix(2 * b + 1) & 63));
    }
    for (int i = 0; i < BITNET_SKETCH_BUCKETS; ++i) out[i] = float(buckets[i]);
}

uint64_t plain_multiset(Row row) {
    uint64_t result = 0;
    with_type(row.dtype, [&](auto type) { result = multiset<decltype(type)>(row); });
    return result;
}

bool plain_stats(Row row, bitnet_stats_t *out) {
    with_type(row.dtype, [&](auto type) { stats<decltype(type)>(row, out); });
    return true;
}

void plain_sketch(Row row, float out[BITNET_SKETCH_BUCKETS]) {
    with_type(row.dtype, [&](auto type) { sketch<decltype(type)>(row, out); });
}

const Kernels *kernels_of(RowCpu cpu) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (cpu == RowCpu::avx512) {
        const bool has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq");
        return has && kernels_of(RowCpu::avx2) ? &avx512_kernels : nullptr;
    }
    // Every CPU with AVX2 has F16C, which compilers do not ask for.
    if (cpu == RowCpu::avx2) return __builtin_cpu_supports("avx2") ? &avx2_kernels : nullptr;
#endif
    return cpu == RowCpu::plain ? &plain_kernels : nullptr;
}

const Kernels *best_kernels() {
    if (const Kernels *kernels = kernels_of(RowCpu::avx512)) return kernels;
    if (const Kernels *kernels = kernels_of(RowCpu::avx2)) return kernels;
    return &plain_kernels;
}

const Kernels *chosen = nullptr;

const Kernels &kernels() {
    const Kernels *found = __atomic_load_n(&chosen, __ATOMIC_ACQUIRE);
    if (!found) {
        found = best_kernels();
        __atomic_store_n(&chosen, found, __ATOMIC_RELEASE);
    }
    return *found;
}

}  // namespace

// It chooses its instructions itself.
void official_blake3(const HashJob *jobs, size_t n) {
    static_assert(BLAKE3_OUT_LEN == 32);
    for (const HashJob *job = jobs; job < jobs + n; ++job) {
        blake3_hasher hasher;
        blake3_hasher_init(&hasher);
        blake3_hasher_update(&hasher, job->data, job->n_bytes);
        blake3_hasher_finalize(&hasher, job->out, BLAKE3_OUT_LEN);
    }
}

const Kernels plain_kernels = {official_blake3, plain_multiset, plain_stats, plain_sketch};

}  // namespace services

bool row_use_cpu(RowCpu cpu) {
    const services::Kernels *found = services::kernels_of(cpu);
    if (found) __atomic_store_n(&services::chosen, found, __ATOMIC_RELEASE);
    return found;
}

size_t dtype_bytes(int32_t dtype) {
    switch (dtype) {
    case BITNET_DTYPE_F32:
    case BITNET_DTYPE_I32: return 4;
    case BITNET_DTYPE_F16:
    case BITNET_DTYPE_BF16: return 2;
    case BITNET_DTYPE_I8: return 1;
    default: return 0;
    }
}

void row_blake3(Row row, uint8_t out[32]) {
    const HashJob job = {row.data, row.n * dtype_bytes(row.dtype), out};
    blake3_of_many(&job, 1);
}

void blake3_of_many(const HashJob *jobs, size_t n) { services::kernels().blake3(jobs, n); }

uint64_t row_multiset(Row row) {
    if (row.dtype != BITNET_DTYPE_I8) return services::kernels().multiset(row);
    uint64_t sum = 0;
    const uint8_t *codes = static_cast<const uint8_t *>(row.data);
    for (size_t i = 0; i < row.n; ++i) sum += services::kByteMixes.of[codes[i]];
    return sum;
}

void row_stats(Row row, bitnet_stats_t *out) {
    if (!services::kernels().stats(row, out)) services::plain_kernels.stats(row, out);
}

void row_sketch(Row row, float out[BITNET_SKETCH_BUCKETS]) { services::kernels().sketch(row, out); }

}  // namespace bitnet
