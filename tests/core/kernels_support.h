// What the kernel tests share: memory with guards, random numbers, the list of instruction sets, lanes and their tree.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "core/cpu.h"

#if defined(__x86_64__)
#define BITNET_ISA avxvnni_evex
#include "core/kernels/declare.h"
#undef BITNET_ISA
#endif

namespace bitnet {

// n elements to be written, between guards, aligned for their type and for no vector.
template <class T> class Guarded {
public:
    explicit Guarded(size_t n) : bytes_(n * sizeof(T) + 2 * guard + sizeof(T), 0xA5), n_(n) {}
    explicit Guarded(const std::vector<T> &v) : Guarded(v.size()) { std::copy(v.begin(), v.end(), data()); }
    T *data() { return reinterpret_cast<T *>(bytes_.data() + begin); }
    std::vector<T> values() const {
        std::vector<T> out(n_);
        if (n_) std::memcpy(out.data(), bytes_.data() + begin, n_ * sizeof(T));
        return out;
    }
    bool intact() const {
        for (size_t i = 0; i < begin; ++i)
            if (bytes_[i] != 0xA5) return false;
        for (size_t i = begin + n_ * sizeof(T); i < bytes_.size(); ++i)
            if (bytes_[i] != 0xA5) return false;
        return true;
    }

private:
    static constexpr size_t guard = 64, begin = guard + sizeof(T);
    std::vector<uint8_t> bytes_;
    size_t n_;
};

// Elements to be read, not aligned either, that end where their allocation ends: AddressSanitizer sees a read beyond.
template <class T> class Input {
public:
    explicit Input(const std::vector<T> &v) : memory_(v.size() + 1) {
        std::copy(v.begin(), v.end(), memory_.begin() + 1);
    }
    const T *data() const { return memory_.data() + 1; }

private:
    std::vector<T> memory_;
};

// What ternary kernels get: exactly ternary_scratch() bytes, aligned to 64, full of rubbish.
class Scratch {
public:
    Scratch(const Kernels &k, int n_in) : n_(ternary_scratch(k, n_in)), bytes_(n_ + 3 * 64, 0xA5) {
        const uintptr_t at = reinterpret_cast<uintptr_t>(bytes_.data());
        begin_ = 64 + (64 - at % 64) % 64;
    }
    uint8_t *data() { return bytes_.data() + begin_; }
    bool intact() const {
        for (size_t i = 0; i < bytes_.size(); ++i)
            if ((i < begin_ || i >= begin_ + n_) && bytes_[i] != 0xA5) return false;
        return true;
    }

private:
    size_t n_, begin_ = 0;
    std::vector<uint8_t> bytes_;
};

// Equal bits, or both NaN: payloads are the processor's. gtest's == calls 0 and -0 equal.
template <class T>::testing::AssertionResult same_bits(const std::vector<T> &a, const std::vector<T> &b) {
    if (a.size() != b.size()) return ::testing::AssertionFailure() << "sizes " << a.size() << ", " << b.size();
    for (size_t i = 0; i < a.size(); ++i)
        if (std::memcmp(&a[i], &b[i], sizeof(T)) != 0 && !(a[i] != a[i] && b[i] != b[i]))
            return ::testing::AssertionFailure() << "element " << i << ": " << +a[i] << " against " << +b[i];
    return ::testing::AssertionSuccess();
}

// Over several binades, so that the order of a sum matters.
inline std::vector<float> random_floats(size_t n, uint32_t seed) {
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal(0.0f, 1.0f);
    std::vector<float> x(n);
    for (float &v : x) v = normal(rng) * std::exp2f(float(int(rng() % 17) - 8));
    return x;
}

// The 16 lanes and their tree, as core/DESIGN.md writes them.
template <class T> T sum_lanes(T *lane) {
    for (int k = 0; k < 8; ++k) lane[k] = lane[k] + lane[k + 8];
    for (int k = 0; k < 4; ++k) lane[k] = lane[k] + lane[k + 4];
    for (int k = 0; k < 2; ++k) lane[k] = lane[k] + lane[k + 2];
    return lane[0] + lane[1];
}

// Every instruction set of the library. On x86-64 one more: avxvnni with the AVX-512 encoding of its one instruction,
// for CPUs that have that and not AVX-VNNI. It shows that the code is right, not that the VEX encoding runs.
inline std::vector<Isa> tested_isas() {
    std::vector<Isa> isas;
    for (int i = 0; i < isa_count(); ++i) isas.push_back(isa_at(i));
#if defined(__x86_64__)
    static const Kernels evex = [] {
        Kernels k = avxvnni::kernels;
        k.isa = "avxvnni_evex";
        k.ternary_rows = avxvnni_evex::ternary_rows;
        return k;
    }();
    isas.push_back({&evex, isas.back().usable});  // the last is avx512vnni
#endif
    return isas;
}

inline void PrintTo(const Isa &isa, std::ostream *out) { *out << isa.kernels->isa; }

class KernelsTest : public ::testing::TestWithParam<Isa> {
protected:
    const Kernels &k() const { return *GetParam().kernels; }
    void SetUp() override {
        if (!GetParam().usable) GTEST_SKIP() << "this CPU has no " << k().isa;
    }
};

inline std::string isa_name(const ::testing::TestParamInfo<Isa> &isa) {
    std::string name = isa.param.kernels->isa;
    for (char &c : name)
        if (c == '-') c = '_';
    return name;
}

}  // namespace bitnet
