// What `bitnet bench` measures, a function a section; each call is one repetition and adds its values to the report.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "abi/cli/bench_engine.h"
#include "abi/cli/bench_limits.h"
#include "abi/cli/bench_report.h"
#include "abi/cli/session.h"

namespace bitnet {

struct BenchPlan {
    ModelOptions model;
    std::vector<int> threads;
    std::vector<int> prefill;  // numbers of tokens
    int n_decode;
    int depth;  // position of the deep decode
};

class BenchSections {
public:
    BenchSections(const BenchPlan &plan, const bitnet_model_t *model);

    void memory();  // once, before anything else is allocated
    void limits();
    void prefill();
    void kernels();
    void decode();
    void deep();
    void tracing();
    void regions();
    void load();

    const BenchReport &report() const { return report_; }
    const TokenWork &work() const { return work_; }

private:
    int threads_max() const;
    bitnet_ctx_t *context(int n_threads, const DecodeMode &mode);
    bitnet_ctx_t *shallow_context(int n_threads, const DecodeMode &mode);
    bitnet_ctx_t *deep_context(int n_threads, const DecodeMode &mode);
    double reading_now(int n_threads) const;
    // Seconds of a token.
    double decode_at(const std::string &section, int position, bitnet_ctx_t *ctx, int n_threads,
                     const DecodeMode &mode);
    void add_ratios(const std::string &section, int position, int n_threads,
                    const std::map<std::string, double> &seconds);
    void kernels_in_prefill(int n_threads);
    void kernels_in_decode(int n_threads);
    void add_shares(const std::string &section, int n_threads, const StageTimes &times);

    using ContextKey = std::pair<int, void (*)(bitnet_context_params_t &)>;  // threads, what the mode adjusts

    const BenchPlan &plan_;
    const bitnet_model_t *model_;
    TokenWork work_;
    std::vector<int32_t> tokens_;
    BenchReport report_;
    std::map<ContextKey, ContextHandle> contexts_, deep_contexts_;
    std::optional<ReadBuffer> memory_buffer_, model_buffer_;
    std::map<int, std::pair<double, const ReadLoop *>> fastest_;  // by threads: its rate, and the loop that had it
    ModelHandle region_model_{nullptr, bitnet_model_free};        // synthetic, with next to nothing to compute
};

}  // namespace bitnet
