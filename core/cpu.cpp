#include "core/cpu.h"

#include <sched.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <cpuinfo.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

#include <array>
#include <thread>

#include "model/error.h"

namespace bitnet {

#if defined(__x86_64__)
struct Features {
    bool avx2, avxvnni, avx512vnni, avx512vbmi;
};

// Asked of the CPU itself: Debian's cpuinfo and GCC 12's list do not both know AVX-VNNI. What the system must save for
// it is what AVX2 needs.
static bool has_avxvnni() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) &&
           (a & (1u << 4));
}

static Features from_cpuinfo() {
    const bool avx2 = cpuinfo_has_x86_avx2() && cpuinfo_has_x86_f16c();
    return {avx2, avx2 && has_avxvnni(),
            avx2 && cpuinfo_has_x86_avx512f() && cpuinfo_has_x86_avx512bw() && cpuinfo_has_x86_avx512dq() &&
                cpuinfo_has_x86_avx512vl() && cpuinfo_has_x86_avx512vnni(),
            cpuinfo_has_x86_avx512vbmi()};
}

// Where /proc is not mounted cpuinfo fails, and prints that it does; the compiler's own detection asks the CPU alone.
static Features from_compiler() {
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c");
    return {avx2, avx2 && has_avxvnni(),
            avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                __builtin_cpu_supports("avx512vnni"),
            __builtin_cpu_supports("avx512vbmi") != 0};
}

static const Features &features() {
    static const Features found =
        access("/proc/cpuinfo", R_OK) == 0 && cpuinfo_initialize() ? from_cpuinfo() : from_compiler();
    return found;
}

bool has_avx512vbmi() { return features().avx512vnni && features().avx512vbmi; }

// Every x86-64 has SSE2.
static std::array<Isa, 5> detect() {
    const Features &cpu = features();
    return {{{&scalar::kernels, true},
             {&sse2::kernels, true},
             {&avx2::kernels, cpu.avx2},
             {&avxvnni::kernels, cpu.avxvnni},
             {&avx512vnni::kernels, cpu.avx512vnni}}};
}
#elif defined(__aarch64__)
bool has_avx512vbmi() { return false; }

// Every AArch64 has NEON. What else there is the kernel says in the auxiliary vector, without a file of /proc or /sys.
static std::array<Isa, 3> detect() {
    const bool dotprod = (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
    return {{{&scalar::kernels, true}, {&neon::kernels, true}, {&neon_dotprod::kernels, dotprod}}};
}
#else
bool has_avx512vbmi() { return false; }

static std::array<Isa, 1> detect() { return {{{&scalar::kernels, true}}}; }
#endif

static const auto &table() {
    static const auto isas = detect();
    return isas;
}

int isa_count() { return int(table().size()); }
const Isa &isa_at(int index) { return table()[size_t(index)]; }

static std::string names(bool usable_only) {
    std::string text;
    for (const Isa &isa : table())
        if (isa.usable || !usable_only) text += (text.empty() ? "" : ", ") + std::string(isa.kernels->isa);
    return text;
}

const Kernels &select_kernels(const std::string &name) {
    const Isa *best = nullptr;
    for (const Isa &isa : table()) {
        if (name == isa.kernels->isa) {
            if (isa.usable) return *isa.kernels;
            fail(Status::isa, "instruction set '%s': this CPU does not have it; usable here: %s", name.c_str(),
                 names(true).c_str());
        }
        if (isa.usable) best = &isa;
    }
    if (name.empty()) return *best->kernels;
    fail(Status::isa, "instruction set '%s' is unknown: expected one of %s", quoted(name).c_str(),
         names(false).c_str());
}

int processor_count() {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
    const unsigned n = std::thread::hardware_concurrency();
    return n > 0 ? int(n) : 1;
}

}  // namespace bitnet
