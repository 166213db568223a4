// Calls one kernel of one instruction set once, for kernel_counts_test.py, which counts its instructions.
// Usage: kernel_counts ISA KERNEL      prints how many weights, products or elements that was
#include <cstdio>
#include <cstring>
#include <new>
#include <vector>

#include "core/kernels/kernels.h"

using namespace bitnet;

// The tables alone: asking the CPU would answer for the CPU that counts.
static const Kernels *find(const char *isa) {
    for (const Kernels *k : {&scalar::kernels, &sse2::kernels, &avx2::kernels})
        if (std::strcmp(k->isa, isa) == 0) return k;
    return nullptr;
}

static std::vector<float> floats(size_t n) {
    std::vector<float> x(n);
    for (size_t i = 0; i < n; ++i) x[i] = float(int(i * 7919 % 2001) - 1000) * 0.004f;
    return x;
}

static long ternary(const Kernels &k, int n_tokens) {
    constexpr int n_in = 2560;
    const int n_rows = n_tokens == 1 ? 64 : k.batch_rows;
    const std::vector<uint8_t> codes(size_t(n_rows) * n_in / 4, 0x64);  // 1, 2, 1, 0
    const std::vector<int8_t> x(size_t(n_tokens) * n_in, 3);
    const std::vector<int32_t> sums(size_t(n_tokens), 3 * n_in);
    std::vector<int32_t> acc(size_t(n_tokens) * size_t(n_rows));
    uint8_t *scratch = static_cast<uint8_t *>(operator new(ternary_scratch(k, n_in), std::align_val_t(64)));
    if (n_tokens == 1)
        k.ternary_rows(codes.data(), n_rows, n_in, x.data(), sums[0], acc.data(), scratch);
    else
        k.ternary_batch(codes.data(), n_rows, n_in, x.data(), n_in, sums.data(), n_tokens, acc.data(), size_t(n_rows),
                        scratch);
    operator delete(scratch, std::align_val_t(64));
    return long(n_in) * n_rows * n_tokens;
}

static long run(const Kernels &k, const char *kernel) {
    if (!std::strcmp(kernel, "ternary_rows")) return ternary(k, 1);
    if (!std::strcmp(kernel, "ternary_batch")) return ternary(k, 60);
    if (!std::strcmp(kernel, "dot_rows_f16")) {  // the head
        constexpr int n = 2560, n_rows = 32;
        const std::vector<uint16_t> rows(size_t(n) * n_rows, 0x2e66);
        std::vector<float> out(n_rows);
        k.dot_rows_f16(rows.data(), n, n_rows, n, floats(n).data(), n, 1, out.data(), n_rows);
        return long(n) * n_rows;
    }
    constexpr int head = 128, positions = 64, queries = 4;  // attention
    if (!std::strcmp(kernel, "dot_rows_f32")) {
        std::vector<float> out(positions * queries);
        k.dot_rows_f32(floats(head * positions).data(), head, positions, head, floats(head * queries).data(), head,
                       queries, out.data(), positions);
        return long(head) * positions * queries;
    }
    if (!std::strcmp(kernel, "mix_rows_f32")) {
        std::vector<float> out(head * queries);
        k.mix_rows_f32(floats(head * positions).data(), head, positions, head, floats(positions * queries).data(),
                       positions, queries, out.data(), head);
        return long(head) * positions * queries;
    }
    constexpr int n = 2560;
    std::vector<float> x = floats(n);
    if (!std::strcmp(kernel, "softmax")) {
        k.softmax(x.data(), n);
        return n;
    }
    if (!std::strcmp(kernel, "quantize")) {
        std::vector<int8_t> codes(n);
        k.quantize(x.data(), n, 31.0f, codes.data());
        return n;
    }
    return 0;
}

int main(int argc, char **argv) {
    const Kernels *kernels = argc == 3 ? find(argv[1]) : nullptr;
    const long units = kernels ? run(*kernels, argv[2]) : 0;
    if (units == 0) {
        std::fprintf(stderr, "usage: kernel_counts ISA KERNEL\n");
        return 2;
    }
    std::printf("%ld\n", units);
    return 0;
}
