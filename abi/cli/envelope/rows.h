// Rows of an evaluation as they are computed: kept, or compared with kept ones.
#pragma once

#include <cstdint>
#include <exception>
#include <string>
#include <unordered_map>
#include <vector>

#include "abi/cli/envelope/distance.h"
#include "abi/cli/envelope/envelope.h"
#include "bitnet_c.h"

namespace bitnet::envelope {

// An in-process sink that is handed the rows one by one. An exception may not cross the library: it waits in rethrow().
class RowSink {
public:
    virtual ~RowSink() = default;
    void
    attach(bitnet_ctx_t *ctx);  // with the default selection, whatever the environment says; must outlive the context
    void rethrow() const;       // after each evaluation

protected:
    explicit RowSink(bool replaces) : replaces_(replaces) {}
    virtual void row(const bitnet_tensor_event_t &event, uint32_t r, const float *values) = 0;
    // The engine goes on with `values`; of a sink that `replaces`.
    void replace(const bitnet_tensor_event_t &event, uint32_t r, const std::vector<float> &values) const;

private:
    static bitnet_status_t open(void **state, const bitnet_trace_host_t *host, const char *config);
    static bitnet_status_t event(void *state, const bitnet_event_t *header);
    static const bitnet_trace_sink_t table;

    bool replaces_;
    const bitnet_trace_host_t *host_ = nullptr;
    const bitnet_ext_override_t *override_ = nullptr;
    std::exception_ptr failure_;
};

// What the engine itself computes, of the positions evaluated since clear().
class KeptRows : public RowSink {
public:
    KeptRows() : RowSink(false) {}
    void clear() { rows_.clear(); }
    const std::vector<float> *find(int32_t stage, int32_t layer, int32_t position) const;  // nullptr: not there
    // The stages in execution order, without distances.
    const std::vector<StageReach> &stages() const { return stages_; }

protected:
    void row(const bitnet_tensor_event_t &event, uint32_t r, const float *values) override;

private:
    std::unordered_map<uint64_t, std::vector<float>> rows_;
    std::unordered_map<uint64_t, bool> seen_;  // stages, of position 0
    std::vector<StageReach> stages_;
};

// What is done to the input of every quantiser, after it was compared.
struct Noise {
    bool held = false;  // its codes are those of the engine itself
    int seed = 0;       // more than 0: it is rounded otherwise, or where codes are not held one of them is flipped
};

// A variation's rows against the kept ones; the distances go into a class.
class ComparedRows : public RowSink {
public:
    ComparedRows(const KeptRows &kept, std::string variation, Noise noise, ClassReach &reach);
    uint64_t n_rows() const { return n_rows_; }

protected:
    void row(const bitnet_tensor_event_t &event, uint32_t r, const float *values) override;

private:
    static void note(const Distance &distance, int32_t position, StageReach &stage);
    static void compare_logits(const Distance &distance, const std::vector<float> &kept, const float *values,
                               LogitsReach &reach);
    void disturb(const bitnet_tensor_event_t &event, uint32_t r, const std::vector<float> &kept, const float *values);

    const KeptRows &kept_;
    const std::string variation_;
    const Noise noise_;
    ClassReach &reach_;
    std::unordered_map<uint64_t, size_t> index_;  // into reach.stages
    std::vector<float> disturbed_;
    uint64_t n_rows_ = 0;
};

}  // namespace bitnet::envelope
