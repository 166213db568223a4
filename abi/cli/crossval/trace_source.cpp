// trace: `logits` records of a trace. They hold no row: the hash says whether ours is the same, the sketch how far it
// is.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "abi/cli/crossval/source.h"
#include "abi/cli/diff/raw_values.h"
#include "abi/cli/diff/trace_reader.h"
#include "abi/cli/session.h"
#include "abi/cli/terminal.h"

namespace bitnet::crossval {

namespace {

// What a trace would hold of our row.
diff::Record record_of(const float *values, size_t n) {
    return diff::record_of({BITNET_DTYPE_F32, std::string(reinterpret_cast<const char *>(values), n * sizeof(float))});
}

// Index of the record's largest value: as recorded, or where its list shows it.
int64_t largest_of(const diff::Record &record) {
    if (record.argmax) return int64_t(*record.argmax);
    for (uint32_t i = 0; i < record.n_top; i++)
        if (record.top[i].value == float(record.max)) return int64_t(record.top[i].index);
    return -1;
}

// Fills what follows from the distance of the sketches.
void measure_distance(const diff::Record &ours, const diff::Record &record, bitnet_logits_row_t &row) {
    double distance = 0;
    for (size_t i = 0; i < ours.sketch.size(); i++) {
        const double d = double(ours.sketch[i]) - double(record.sketch[i]);
        distance += d * d;
    }
    const double aa = ours.l2 * ours.l2, bb = record.l2 * record.l2;
    row.measured |= BITNET_METRIC_L2 | BITNET_METRIC_MSE | BITNET_METRIC_NMSE | BITNET_METRIC_COSINE;
    row.l2 = std::sqrt(distance);
    row.mse = distance / double(ours.n_elements);
    row.nmse = distance == 0 ? 0 : distance / aa;
    row.rms_difference = std::sqrt(row.mse);
    row.cosine =
        aa == 0 || bb == 0 ? double(aa == bb) : std::clamp((aa + bb - distance) / (2 * std::sqrt(aa * bb)), -1.0, 1.0);
}

void measure_top(const float *ours, const diff::Record &own, const diff::Record &record, bitnet_logits_row_t &row) {
    const size_t n = own.n_elements;
    size_t n_common = 0;
    for (uint32_t i = 0; i < record.n_top; i++)
        n_common += size_t(std::count_if(own.top.begin(), own.top.begin() + own.n_top,
                                         [&](const diff::Top &top) { return top.index == record.top[i].index; }));
    if (own.n_top > 0) {
        row.measured |= BITNET_METRIC_TOP_K;
        row.top_k = double(n_common) / double(own.n_top);
    }
    const int64_t theirs = largest_of(record);
    row.top1_a = row.top1_b = -1;
    for (size_t i = 0; i < n; i++)
        if (!std::isnan(ours[i]) && (row.top1_a < 0 || ours[i] > ours[row.top1_a])) row.top1_a = int32_t(i);
    if (theirs < 0 || theirs >= int64_t(n) || row.top1_a < 0) return;
    row.measured |= BITNET_METRIC_TOP1;
    row.top1_b = int32_t(theirs);
    row.top1_lead = double(ours[row.top1_a]) - double(ours[row.top1_b]);
}

class TraceSource : public Source {
public:
    explicit TraceSource(const std::string &path) : path_(path), trace_(diff::read_trace(path)) {
        for (const diff::Problems *problems : {&trace_.problems, &trace_.incomplete})
            if (!problems->empty()) throw CommandError(problems->lines().front());
        for (const diff::Run &run : trace_.runs)
            if (run.bare)
                throw CommandError(printable(path) + ": BitNet-rs's records hold no sketch to compare logits with; "
                                                     "`bitnet diff` judges what they do hold");
        for (const diff::Record *record : trace_.sorted)
            if (diff::node_of(record->key) == diff::logits_node())
                records_[diff::run_of(record->key)][diff::position_of(record->key)] = record;
        if (records_.empty()) throw CommandError(printable(path) + ": no logits in this trace");
    }

    std::string name() const override {
        const diff::Run &run = trace_.runs.front();
        return "trace:" + path_ + " (" + run.engine + " " + run.engine_version + ")";
    }
    std::string limitation() const override {
        return "a trace holds no rows: equal hashes are equal bits; otherwise distances come from sketches, about 9 % "
               "off, top-k is over the 8 values largest by magnitude, KL and max abs are unknown";
    }
    void open(const bitnet_model_t *model) override {
        n_vocab_ = size_t(model_info(model).n_vocab);
        for (const diff::Run &run : trace_.runs)
            if (!run.model_hash.empty() && run.model_hash != model_hash(model))
                throw CommandError(text_of("%s: another model: its hash is %.16s..., expected %.16s...",
                                           printable(path_).c_str(), printable(run.model_hash).c_str(),
                                           model_hash(model).c_str()));
    }
    std::vector<Ids> own_prompts() override {
        std::vector<Ids> prompts;
        for (size_t i = 0; i < trace_.runs.size(); i++) prompts.push_back(trace_.runs[i].ids());
        return prompts;
    }
    std::optional<Ids> tokens(size_t index, const PromptItem &, const TokenizeFlags &) override {
        if (index >= trace_.runs.size())
            throw CommandError(
                text_of("%s: %zu runs, none for prompt %zu", printable(path_).c_str(), trace_.runs.size(), index));
        const Ids ids = trace_.runs[index].ids();
        return ids.empty() ? std::nullopt : std::optional(ids);
    }
    Offered begin(size_t index, const Ids &) override {
        run_ = int(index);
        Offered offered;
        for (const auto &[position, record] : records_[run_]) offered.positions.push_back(position);
        return offered;
    }

    const float *compare(int position, const float *ours, const bitnet_logits_limits_t &limits,
                         bitnet_logits_row_t &row) override {
        const diff::Record &record = *records_[run_][position];
        if (record.n_elements != n_vocab_ || std::strcmp(record.dtype.data(), "F32") != 0)
            throw CommandError(text_of("%s:%u: %llu values of type %s, expected %zu of F32", printable(path_).c_str(),
                                       record.line, static_cast<unsigned long long>(record.n_elements),
                                       record.dtype.data(), n_vocab_));
        const diff::Record own = record_of(ours, n_vocab_);
        if (own.blake3 == record.blake3) {
            compare_values(ours, ours, n_vocab_, limits, row);
            return ours;
        }
        row = {};
        row.struct_size = sizeof row;
        row.n = n_vocab_;
        row.measured = BITNET_METRIC_FINITE;
        row.n_nonfinite = record.n_nan + record.n_inf + own.n_nan + own.n_inf;
        measure_distance(own, record, row);
        measure_top(ours, own, record, row);
        check(bitnet_compare_rows(&row, 1, &limits, nullptr));
        return nullptr;
    }

private:
    std::string path_;
    diff::Trace trace_;
    std::map<int, std::map<int, const diff::Record *>> records_;  // by run and position
    size_t n_vocab_ = 0;
    int run_ = 0;
};

}  // namespace

std::unique_ptr<Source> open_trace(const std::string &path) { return std::make_unique<TraceSource>(path); }

}  // namespace bitnet::crossval
