#include "core/cpu.h"

#include <cpuinfo.h>
#include <sched.h>
#include <unistd.h>

#include <array>
#include <thread>

#include "model/error.h"

namespace bitnet {

#if defined(__x86_64__)
struct Features {
    bool avx2, avx512vnni;
};

static Features from_cpuinfo() {
    const bool avx2 = cpuinfo_has_x86_avx2() && cpuinfo_has_x86_f16c();
    return {avx2, avx2 && cpuinfo_has_x86_avx512f() && cpuinfo_has_x86_avx512bw() && cpuinfo_has_x86_avx512dq() &&
                      cpuinfo_has_x86_avx512vl() && cpuinfo_has_x86_avx512vnni()};
}

// Where /proc is not mounted cpuinfo fails, and prints that it does; the compiler's own detection asks the CPU alone.
static Features from_compiler() {
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c");
    return {avx2, avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512vnni")};
}

static std::array<Isa, 3> detect() {
    const bool readable = access("/proc/cpuinfo", R_OK) == 0;
    const Features cpu = readable && cpuinfo_initialize() ? from_cpuinfo() : from_compiler();
    return {{{&scalar::kernels, true}, {&avx2::kernels, cpu.avx2}, {&avx512vnni::kernels, cpu.avx512vnni}}};
}
#else
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
