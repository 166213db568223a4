#include "abi/cli/bench_limits.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

#include "abi/cli/terminal.h"

namespace bitnet {

namespace {

constexpr size_t page_bytes = 4096;
constexpr size_t huge_page_bytes = 2 << 20;

// Seconds from the moment at which all threads may begin until the last has ended; starting them is not in it.
template <typename Body> double time_threads(int n_threads, const Body &body) {
    std::atomic<int> n_ready{0};
    std::atomic<bool> go{false};
    std::vector<std::thread> threads;
    std::vector<double> ends(static_cast<size_t>(n_threads));
    const auto work = [&](int thread) {
        n_ready.fetch_add(1);
        while (!go.load(std::memory_order_acquire)) std::this_thread::yield();
        body(thread);
        ends[static_cast<size_t>(thread)] = seconds_now();
    };
    for (int thread = 0; thread < n_threads; thread++) threads.emplace_back(work, thread);
    while (n_ready.load() < n_threads) std::this_thread::yield();
    const double from = seconds_now();
    go.store(true, std::memory_order_release);
    for (std::thread &thread : threads) thread.join();
    return *std::max_element(ends.begin(), ends.end()) - from;
}

// ---- reading ----------------------------------------------------------------------------------------------------

constexpr size_t n_sums = 8;           // loads under way that do not wait for one another
std::atomic<uint64_t> read_result{0};  // so that no loop is left out

// One pass; `ahead`: bytes between a load and the prefetch for it, 0: none. Inlined into a function of V's instruction
// set.
template <typename V, size_t ahead>
[[gnu::always_inline]] inline uint64_t read_with(const uint8_t *data, size_t n_bytes) {
    V sums[n_sums] = {};
    constexpr size_t block = n_sums * sizeof(V);
    static_assert(read_step % block == 0);
    for (size_t i = 0; i < n_bytes; i += block) {
        if constexpr (ahead > 0) {
#pragma GCC unroll 8
            for (size_t line = 0; line < block; line += 64) __builtin_prefetch(data + i + ahead + line);
        }
#pragma GCC unroll 8
        for (size_t k = 0; k < n_sums; k++) {
            V loaded;
            std::memcpy(&loaded, data + i + k * sizeof(V), sizeof(V));
            sums[k] ^= loaded;
        }
    }
    for (size_t k = 1; k < n_sums; k++) sums[0] ^= sums[k];
    uint64_t result = 0;
    for (size_t k = 0; k < sizeof(V) / sizeof(uint64_t); k++) result ^= static_cast<uint64_t>(sums[0][k]);
    return result;
}

using Bits128 = uint64_t __attribute__((vector_size(16)));
#define BITNET_READ_LOOPS(isa, target_attribute, V)                                                                    \
    target_attribute uint64_t read_##isa(const uint8_t *data, size_t n) { return read_with<V, 0>(data, n); }           \
    target_attribute uint64_t read_##isa##_1k(const uint8_t *data, size_t n) { return read_with<V, 1024>(data, n); }   \
    target_attribute uint64_t read_##isa##_4k(const uint8_t *data, size_t n) { return read_with<V, 4096>(data, n); }   \
    const std::vector<ReadLoop> isa##_read_loops = {{#isa " loads", read_##isa},                                       \
                                                    {#isa " loads, prefetch 1 KB ahead", read_##isa##_1k},             \
                                                    {#isa " loads, prefetch 4 KB ahead", read_##isa##_4k}};
#if defined(__x86_64__)
using Bits256 = uint64_t __attribute__((vector_size(32)));
using Bits512 = uint64_t __attribute__((vector_size(64)));
BITNET_READ_LOOPS(avx512, [[gnu::target("avx512f")]], Bits512)
BITNET_READ_LOOPS(avx2, [[gnu::target("avx2")]], Bits256)
BITNET_READ_LOOPS(sse2, , Bits128)
#else
BITNET_READ_LOOPS(vector128, , Bits128)
#endif
#undef BITNET_READ_LOOPS

// ---- products of bytes ------------------------------------------------------------------------------------------

// Twelve independent sums in registers, enough to hide the latency, and nothing else in the loop: assembly, because a
// compiler may store sums or fold turns, and because it needs no header of a CPU.
constexpr int n_registers = 12;
#define BITNET_TWELVE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)

template <typename V> [[gnu::always_inline]] inline void set_bytes(V &v, int value) {
    for (size_t i = 0; i < sizeof(V) / sizeof(v[0]); i++) v[i] = value * 0x01010101;
}

#if defined(__x86_64__)
using Int128 = int32_t __attribute__((vector_size(16)));
using Int256 = int32_t __attribute__((vector_size(32)));
using Int512 = int32_t __attribute__((vector_size(64)));
#define BITNET_BYTE_PRODUCTS(function, target_attribute, V, step)                                                      \
    target_attribute void function(uint64_t n_turns) {                                                                 \
        V a, b;                                                                                                        \
        set_bytes(a, 1);                                                                                               \
        set_bytes(b, 3);                                                                                               \
        asm volatile("1:\n\t" BITNET_TWELVE(step) "dec %0\n\tjnz 1b"                                                   \
                     : "+r"(n_turns)                                                                                   \
                     : "x"(a), "x"(b)                                                                                  \
                     : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",        \
                       "xmm11", "xmm12", "cc");                                                                        \
    }
#define BITNET_STEP(i) "vpdpbusd %2, %1, %%zmm" #i "\n\t"
BITNET_BYTE_PRODUCTS(products_avx512vnni, [[gnu::target("avx512f,avx512vnni")]], Int512, BITNET_STEP)
#undef BITNET_STEP
#define BITNET_STEP(i) "%{vex%} vpdpbusd %2, %1, %%ymm" #i "\n\t"
BITNET_BYTE_PRODUCTS(products_avxvnni, [[gnu::target("avx2,avxvnni")]], Int256, BITNET_STEP)
#undef BITNET_STEP
// Sums of 16 bits: what ternary codes allow for many products before they must be widened.
#define BITNET_STEP(i) "vpmaddubsw %2, %1, %%ymm12\n\tvpaddw %%ymm12, %%ymm" #i ", %%ymm" #i "\n\t"
BITNET_BYTE_PRODUCTS(products_avx2, [[gnu::target("avx2")]], Int256, BITNET_STEP)
#undef BITNET_STEP
#define BITNET_STEP(i) "movdqa %1, %%xmm12\n\tpmaddwd %2, %%xmm12\n\tpaddd %%xmm12, %%xmm" #i "\n\t"
BITNET_BYTE_PRODUCTS(products_sse2, , Int128, BITNET_STEP)
#undef BITNET_STEP
#elif defined(__aarch64__)
using Int128 = int32_t __attribute__((vector_size(16)));
#define BITNET_BYTE_PRODUCTS(function, target_attribute, V, step)                                                      \
    target_attribute void function(uint64_t n_turns) {                                                                 \
        V a, b;                                                                                                        \
        set_bytes(a, 1);                                                                                               \
        set_bytes(b, 3);                                                                                               \
        asm volatile("1:\n\t" BITNET_TWELVE(step) "subs %0, %0, #1\n\tb.ne 1b"                                         \
                     : "+r"(n_turns)                                                                                   \
                     : "w"(a), "w"(b)                                                                                  \
                     : "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "cc");                \
    }
#define BITNET_STEP(i) "sdot v" #i ".4s, %1.16b, %2.16b\n\t"
BITNET_BYTE_PRODUCTS(products_dotprod, [[gnu::target("arch=armv8.2-a+dotprod")]], Int128, BITNET_STEP)
#undef BITNET_STEP
#define BITNET_STEP(i) "smlal v" #i ".8h, %1.8b, %2.8b\n\tsmlal2 v" #i ".8h, %1.16b, %2.16b\n\t"
BITNET_BYTE_PRODUCTS(products_neon, , Int128, BITNET_STEP)
#undef BITNET_STEP
#else
void products_plain(uint64_t n_turns) {
    int32_t sums[n_registers] = {};
    for (uint64_t turn = 0; turn < n_turns; turn++) {
        int32_t factor = 3;
        asm volatile("" : "+r"(factor));  // so that the turns are not folded into one product
        for (int32_t &sum : sums) sum += factor * factor;
    }
    for (int32_t &sum : sums) asm volatile("" : : "r"(sum));
}
#endif
#undef BITNET_BYTE_PRODUCTS
#undef BITNET_TWELVE

[[noreturn]] void fail_for(const std::string &what) { throw CommandError(what + ": " + std::strerror(errno)); }

}  // namespace

// ---- buffers ----------------------------------------------------------------------------------------------------

ReadBuffer ReadBuffer::anonymous(size_t n_bytes) {
    void *data = mmap(nullptr, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) fail_for(with_commas(n_bytes) + " bytes to measure reading with");
    madvise(data, n_bytes, MADV_HUGEPAGE);  // a wish
    std::memset(data, 1, n_bytes);          // without it every page would be the same page of zeros
    return {data, n_bytes, true};
}

ReadBuffer ReadBuffer::mapped_file(const std::string &path) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) fail_for(path);
    // At a multiple of a huge page, as the library does: the limit must not be of smaller pages than the model is read
    // with.
    struct stat found;
    void *data = MAP_FAILED;
    size_t n_bytes = 0;
    if (fstat(fd, &found) == 0) {
        n_bytes = static_cast<size_t>(found.st_size);
        data = mmap(nullptr, n_bytes + huge_page_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    }
    if (data != MAP_FAILED) {
        const uintptr_t begin = reinterpret_cast<uintptr_t>(data);
        data = reinterpret_cast<void *>((begin + huge_page_bytes - 1) / huge_page_bytes * huge_page_bytes);
        data = mmap(data, n_bytes, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0);
    }
    const int reason = errno;
    close(fd);
    errno = reason;
    if (data == MAP_FAILED) fail_for(path);
    madvise(data, n_bytes, MADV_HUGEPAGE);  // a wish
    ReadBuffer buffer(data, n_bytes, true);
    uint64_t touched = 0;
    for (size_t i = 0; i < n_bytes; i += page_bytes) touched += buffer.data()[i];
    read_result.fetch_add(touched, std::memory_order_relaxed);
    return buffer;
}

ReadBuffer ReadBuffer::borrowed(const void *data, size_t n_bytes) { return {data, n_bytes, false}; }

ReadBuffer::ReadBuffer(ReadBuffer &&other) noexcept
    : data_(other.data_), n_bytes_(other.n_bytes_), owned_(std::exchange(other.owned_, false)) {}

ReadBuffer::~ReadBuffer() {
    if (owned_) munmap(const_cast<uint8_t *>(data_), n_bytes_);
}

// ---- rates ------------------------------------------------------------------------------------------------------

const std::vector<ReadLoop> &read_loops() {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) return avx512_read_loops;
    if (__builtin_cpu_supports("avx2")) return avx2_read_loops;
    return sse2_read_loops;
#else
    return vector128_read_loops;
#endif
}

double read_bandwidth(const ReadBuffer &buffer, const ReadLoop &loop, int n_threads, size_t n_bytes_min) {
    const size_t n_parts = static_cast<size_t>(n_threads);
    const size_t n_bytes = std::min(buffer.size(), n_bytes_min);
    const size_t align = n_bytes / n_parts > 16 * page_bytes ? page_bytes : read_step;
    const size_t part = n_bytes / n_parts / align * align;
    const size_t n_passes = std::max<size_t>((n_bytes_min + part * n_parts - 1) / (part * n_parts), 1);
    const double seconds = time_threads(n_threads, [&](int thread) {
        uint64_t result = 0;
        for (size_t pass = 0; pass < n_passes; pass++)
            result += loop.read(buffer.data() + static_cast<size_t>(thread) * part, part);
        read_result.fetch_add(result, std::memory_order_relaxed);
    });
    return static_cast<double>(part * n_parts * n_passes) / seconds;
}

const ByteProducts &byte_products() {
#if defined(__x86_64__)
    static const ByteProducts avx512vnni = {"vpdpbusd, 512 bits", n_registers * 64, products_avx512vnni};
    static const ByteProducts avxvnni = {"vpdpbusd, 256 bits", n_registers * 32, products_avxvnni};
    static const ByteProducts avx2 = {"vpmaddubsw and vpaddw, 256 bits", n_registers * 32, products_avx2};
    static const ByteProducts sse2 = {"pmaddwd and paddd, 128 bits", n_registers * 8, products_sse2};
    if (__builtin_cpu_supports("avx512vnni")) return avx512vnni;
    if (__builtin_cpu_supports("avxvnni")) return avxvnni;
    return __builtin_cpu_supports("avx2") ? avx2 : sse2;
#elif defined(__aarch64__)
    static const ByteProducts dotprod = {"sdot, 128 bits", n_registers * 16, products_dotprod};
    static const ByteProducts neon = {"smlal, 128 bits", n_registers * 16, products_neon};
    constexpr unsigned long hwcap_asimddp = 1ul << 20;  // HWCAP_ASIMDDP
    return getauxval(AT_HWCAP) & hwcap_asimddp ? dotprod : neon;
#else
    static const ByteProducts plain = {"plain C++", n_registers, products_plain};
    return plain;
#endif
}

double byte_product_rate(const ByteProducts &products, int n_threads) {
    constexpr double seconds_wanted = 0.005;
    constexpr int n_tries = 4;  // the best counts: other programs on the machine only ever make it slower
    constexpr uint64_t n_turns_tried = 10000;
    products.run(n_turns_tried);  // wakes the wide units up
    const double from = seconds_now();
    products.run(n_turns_tried);
    const double tried = std::max(seconds_now() - from, 1e-6);
    const uint64_t n_turns = std::max<uint64_t>(static_cast<uint64_t>(n_turns_tried * seconds_wanted / tried), 1);
    double seconds = time_threads(n_threads, [&](int) { products.run(n_turns); });
    for (int i = 1; i < n_tries; i++)
        seconds = std::min(seconds, time_threads(n_threads, [&](int) { products.run(n_turns); }));
    return products.macs_per_turn * static_cast<double>(n_turns) * n_threads / seconds;
}

}  // namespace bitnet
