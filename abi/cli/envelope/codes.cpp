#include "abi/cli/envelope/codes.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace bitnet::envelope {

namespace {

constexpr double code_max = 127;
// How far behind the tie the element lands, in steps of the code: far more than float32 rounds, far less than a step.
constexpr double margin_steps = 1e-3;
constexpr size_t n_candidates = 4;

struct Candidate {
    double distance;  // to the tie, in steps
    size_t index;
};

uint64_t mixed(uint64_t x) {  // SplitMix64's finaliser
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

double largest_of(const float *row, size_t n) {
    double largest = 0;
    for (size_t i = 0; i < n; i++) largest = std::max(largest, std::fabs(double(row[i])));
    return largest;
}

}  // namespace

bool flip_one_code(float *row, size_t n, uint64_t seed) {
    const double largest = largest_of(row, n);
    if (!(largest > 0) || !std::isfinite(largest)) return false;
    const double scale = code_max / largest;
    std::array<Candidate, n_candidates> nearest;
    nearest.fill({2, n});
    size_t n_found = 0;
    for (size_t i = 0; i < n; i++) {
        const double code = std::fabs(double(row[i])) * scale;
        if (std::fabs(double(row[i])) == largest) continue;  // it sets the scale
        const double distance = std::fabs(code - std::floor(code) - 0.5);
        if (distance >= nearest.back().distance) continue;
        n_found = std::min(n_found + 1, n_candidates);
        size_t at = n_candidates - 1;
        for (; at > 0 && nearest[at - 1].distance > distance; at--) nearest[at] = nearest[at - 1];
        nearest[at] = {distance, i};
    }
    if (n_found == 0) return false;
    const size_t i = nearest[mixed(seed) % n_found].index;
    const double code = std::fabs(double(row[i])) * scale, tie = std::floor(code) + 0.5;
    const bool rounds_down = code < tie || (code == tie && std::fmod(std::floor(code), 2) == 0);
    const double moved = rounds_down ? tie + margin_steps : tie - margin_steps;
    row[i] = std::copysign(float(moved / scale), row[i]);
    return true;
}

void round_otherwise(float *row, size_t n, uint64_t seed) {
    constexpr double unit = 0x1p-23;
    constexpr std::array<double, 4> factors = {1 - 2 * unit, 1 - unit, 1 + unit, 1 + 2 * unit};
    const double factor = factors[mixed(seed) % factors.size()];
    for (size_t i = 0; i < n; i++) row[i] = float(double(row[i]) * factor);
}

void hold_codes(float *row, const float *own, size_t n) {
    const double largest = largest_of(own, n);
    if (!(largest > 0)) return;
    const double scale = code_max / largest;
    for (size_t i = 0; i < n; i++) {
        const double code = std::fabs(double(own[i])) * scale;
        const bool at_tie = std::fabs(code - std::floor(code) - 0.5) < margin_steps;
        const bool sets_scale = std::fabs(double(own[i])) == largest || std::fabs(double(row[i])) >= largest;
        const bool kept = std::nearbyint(double(own[i]) * scale) == std::nearbyint(double(row[i]) * scale);
        if (at_tie || sets_scale || !kept) row[i] = own[i];
    }
}

}  // namespace bitnet::envelope
