// Every kernel of kernels.inc on every usable instruction set, at the sizes of 2B-4T: `kernels_bench
// --benchmark_filter=ternary`. MAC/s are multiply-adds, bytes_per_second counts what is read from memory or the caches.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/cpu.h"
#include "core/kernels/kernels.h"

namespace bitnet {
namespace {

constexpr int n_embd = 2560, n_ff = 6912, head_dim = 128, n_vocab = 128256;
constexpr int n_positions = 1024;      // of the attention kernels
constexpr int n_tokens = 256;          // of ternary_batch: the default batch
constexpr int n_together = 4;          // vectors that meet a row: the query heads of a KV head
constexpr int thread_rows = n_ff / 2;  // output rows of a linear on one of two threads

// Any values but zeros and denormals: the kernels' speed does not depend on them.
template <class T> std::vector<T> filled(size_t n, T value) { return std::vector<T>(n, value); }
constexpr uint16_t half_one = 0x3C00, bfloat_one = 0x3F80;
constexpr uint8_t codes_of_plus_and_zero = 0b10'01'10'01;

void rate(benchmark::State &state, double macs, double n_bytes) {
    const double n = double(state.iterations());
    if (macs > 0) state.counters["MAC/s"] = benchmark::Counter(macs * n, benchmark::Counter::kIsRate);
    state.SetBytesProcessed(int64_t(n_bytes * n));
}

// One function a kernel, named bench_<kernel>: the list below finds it by that name, so that none can be forgotten.
void bench_absmax(benchmark::State &state, const Kernels &k) {
    const auto x = filled(n_ff, 0.5f);
    for (auto _ : state) benchmark::DoNotOptimize(k.absmax(x.data(), n_ff));
    rate(state, 0, 4.0 * n_ff);
}

void bench_quantize(benchmark::State &state, const Kernels &k) {
    const auto x = filled(n_ff, 0.5f);
    auto codes = filled(n_ff, int8_t(0));
    for (auto _ : state) benchmark::DoNotOptimize(k.quantize(x.data(), n_ff, 100.0f, codes.data()));
    rate(state, 0, 5.0 * n_ff);
}

void bench_sum_squares(benchmark::State &state, const Kernels &k) {
    const auto x = filled(n_ff, 0.5f);
    for (auto _ : state) benchmark::DoNotOptimize(k.sum_squares(x.data(), n_ff));
    rate(state, n_ff, 4.0 * n_ff);
}

void bench_scale_norm(benchmark::State &state, const Kernels &k) {
    const auto x = filled(n_ff, 0.5f), w = filled(n_ff, 1.5f);
    auto out = x;
    for (auto _ : state) {
        k.scale_norm(x.data(), 2.0f, w.data(), n_ff, out.data());
        benchmark::ClobberMemory();
    }
    rate(state, 0, 12.0 * n_ff);
}

void bench_scale_accumulators(benchmark::State &state, const Kernels &k) {
    const auto acc = filled(n_ff, 1000);
    auto out = filled(n_ff, 0.0f);
    for (auto _ : state) {
        k.scale_accumulators(acc.data(), n_ff, 50.0f, 0.02f, out.data());
        benchmark::ClobberMemory();
    }
    rate(state, 0, 8.0 * n_ff);
}

void bench_relu2_gated(benchmark::State &state, const Kernels &k) {
    const auto gate = filled(n_ff, 0.5f), up = filled(n_ff, 1.5f);
    auto out = gate;
    for (auto _ : state) {
        k.relu2_gated(gate.data(), up.data(), n_ff, out.data());
        benchmark::ClobberMemory();
    }
    rate(state, 0, 12.0 * n_ff);
}

void bench_softmax(benchmark::State &state, const Kernels &k) {
    auto x = filled(n_positions, 0.5f);  // its own result is as good an input as any
    for (auto _ : state) {
        k.softmax(x.data(), n_positions);
        benchmark::ClobberMemory();
    }
    rate(state, 0, 8.0 * n_positions);
}

// Codes far larger than the caches, as in a model: each turn takes the next matrix.
struct Ternary {
    static constexpr int n_matrices = 24;
    static constexpr size_t matrix_bytes = size_t(thread_rows) * n_embd / 4;
    std::vector<uint8_t> codes = filled(n_matrices * matrix_bytes, codes_of_plus_and_zero);
    std::vector<int8_t> x = filled(size_t(n_tokens) * n_embd, int8_t(3));
    std::vector<int32_t> x_sums = filled(n_tokens, 3 * n_embd);
    std::vector<int32_t> acc = filled(size_t(n_tokens) * thread_rows, 0);
    std::vector<uint8_t> memory;
    size_t turn = 0;

    explicit Ternary(const Kernels &k) : memory(filled(ternary_scratch(k, n_embd) + 64, uint8_t(0))) {}

    const uint8_t *next() { return codes.data() + turn++ % n_matrices * matrix_bytes; }
    uint8_t *scratch() { return memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64; }
};

void bench_ternary_rows(benchmark::State &state, const Kernels &k) {
    Ternary t(k);
    for (auto _ : state) {
        k.ternary_rows(t.next(), thread_rows, n_embd, t.x.data(), t.x_sums[0], t.acc.data(), t.scratch());
        benchmark::ClobberMemory();
    }
    rate(state, double(thread_rows) * n_embd, double(Ternary::matrix_bytes));
}

void bench_ternary_batch(benchmark::State &state, const Kernels &k) {
    Ternary t(k);
    for (auto _ : state) {
        k.ternary_batch(t.next(), thread_rows, n_embd, t.x.data(), n_embd, t.x_sums.data(), n_tokens, t.acc.data(),
                        thread_rows, t.scratch());
        benchmark::ClobberMemory();
    }
    rate(state, double(thread_rows) * n_embd * n_tokens, double(Ternary::matrix_bytes));
}

// The head's rows, one vector, out of memory; and a KV head's keys for the query heads that share them, out of the
// cache.
template <class Row, class Kernel> void bench_dot(benchmark::State &state, Kernel kernel, Row one, bool head) {
    const int n = head ? n_embd : head_dim, n_rows = head ? n_vocab / 4 : n_positions, n_x = head ? 1 : n_together;
    const auto rows = filled(size_t(n_rows) * size_t(n), one);
    const auto x = filled(size_t(n) * size_t(n_x), 0.5f);
    auto out = filled(size_t(n_rows) * size_t(n_x), 0.0f);
    for (auto _ : state) {
        kernel(rows.data(), size_t(n), n_rows, n, x.data(), size_t(n), n_x, out.data(), size_t(n_rows));
        benchmark::ClobberMemory();
    }
    rate(state, double(n_rows) * n * n_x, double(sizeof(Row)) * n_rows * n);
}

void bench_dot_rows_f32(benchmark::State &state, const Kernels &k) { bench_dot(state, k.dot_rows_f32, 1.0f, false); }
void bench_dot_rows_f16(benchmark::State &state, const Kernels &k) { bench_dot(state, k.dot_rows_f16, half_one, true); }
void bench_dot_rows_bf16(benchmark::State &state, const Kernels &k) {
    bench_dot(state, k.dot_rows_bf16, bfloat_one, true);
}

template <class Row, class Kernel> void bench_mix(benchmark::State &state, Kernel kernel, Row one) {
    const auto rows = filled(size_t(n_positions) * head_dim, one);
    const auto weights = filled(size_t(n_positions) * n_together, 0.001f);
    auto out = filled(size_t(head_dim) * n_together, 0.0f);
    for (auto _ : state) {
        kernel(rows.data(), head_dim, n_positions, head_dim, weights.data(), n_positions, n_together, out.data(),
               head_dim);
        benchmark::ClobberMemory();
    }
    rate(state, double(n_positions) * head_dim * n_together, double(sizeof(Row)) * n_positions * head_dim);
}

void bench_mix_rows_f32(benchmark::State &state, const Kernels &k) { bench_mix(state, k.mix_rows_f32, 1.0f); }
void bench_mix_rows_f16(benchmark::State &state, const Kernels &k) { bench_mix(state, k.mix_rows_f16, half_one); }

void bench_compact_rows(benchmark::State &state, const Kernels &k) {
    constexpr int n_rows = n_vocab / 4;
    const auto nibbles = filled(size_t(n_rows) * n_embd / 2, uint8_t(0x5A));
    const auto bits = filled(size_t(n_rows) * n_embd / 64, uint64_t(0x5555555555555555));
    const auto levels = filled(32, uint8_t(100));
    const auto x = filled(n_embd, int8_t(3));
    auto high = filled(n_rows, 0), low = high;
    for (auto _ : state) {
        k.compact_rows(nibbles.data(), bits.data(), n_rows, n_embd, levels.data(), x.data(), x.data(), high.data(),
                       low.data());
        benchmark::ClobberMemory();
    }
    rate(state, 2.0 * n_rows * n_embd, n_rows * n_embd * 5.0 / 8);
}

void register_all() {
    for (int i = 0; i < isa_count(); ++i) {
        const Isa &isa = isa_at(i);
        if (!isa.usable) continue;
        const Kernels &kernels = *isa.kernels;
#define BITNET_KERNEL(group, type, name, arguments)                                                                    \
    benchmark::RegisterBenchmark((std::string(#name "/") + kernels.isa).c_str(), [&kernels](benchmark::State &state) { \
        bench_##name(state, kernels);                                                                                  \
    })->UseRealTime();
#include "core/kernels/kernels.inc"
#undef BITNET_KERNEL
    }
}

}  // namespace
}  // namespace bitnet

int main(int argc, char **argv) {
    bitnet::register_all();
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
    benchmark::RunSpecifiedBenchmarks();
    return 0;
}
