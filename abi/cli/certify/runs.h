// The ways in which the same tokens are evaluated, and one such run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "abi/cli/certify/rows.h"
#include "bitnet_c.h"

namespace bitnet::certify {

enum class ContextUse {
    fresh,
    reset,      // after other tokens and a reset
    truncated,  // other tokens behind half of the prompt, truncated away
    restored,   // other tokens, then the state that the reference saved after half of the prompt
    forked,     // a fork at half of the prompt, whose parent goes another way
};

struct Plan {
    int n_threads = 1;
    std::vector<size_t> chunks;  // tokens of one eval each, in turn until the prompt ends; empty: the prompt whole
    int n_batch = 0;             // 0: the library's default
    ContextUse use = ContextUse::fresh;
    bool traced = true;  // untraced runs take other paths through the engine and show final norm and logits only

    // "2 threads, chunks of 1 3 7, n_batch 3, restored context"
    std::string text() const;
};

// Every thread count with every split; the thread counts in turn with every way to use a context, and untraced. With
// `quick` five plans that touch each of them.
std::vector<Plan> plans(const std::vector<int> &thread_counts, bool quick);
// What plans() cover, in a line.
std::string description(const std::vector<int> &thread_counts, bool quick);

struct Workload {
    std::vector<int32_t> prompt;
    int n_decode = 0;
    std::vector<uint8_t> saved;  // state after half of the prompt

    int half() const { return static_cast<int>(prompt.size() / 2); }
};

// State of a fresh context after half of the prompt.
std::vector<uint8_t> saved_half(const bitnet_model_t *model, const Workload &work);

using RowFunction = std::function<void(const Row &)>;

// Evaluates the prompt and n_decode greedily chosen tokens, ends of text among them; hands over every row of them (from
// coverage_of on) as it comes. Returns the chosen tokens.
std::vector<int32_t> execute(const bitnet_model_t *model, const Workload &work, const Plan &plan,
                             const RowFunction &on_row);
Coverage coverage_of(const Plan &plan, const Workload &work);

}  // namespace bitnet::certify
