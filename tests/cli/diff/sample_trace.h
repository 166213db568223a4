// Traces of a small imaginary network, written by a second implementation of the format: statistics, sketch and
// order-free hash are computed here from the values, so that reader and writer cannot share a mistake.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace bitnet {

struct SampleTrace {
    int n_layer = 3;
    std::vector<int> tokens = {128000, 11, 22, 33};
    std::string engine = "sample", version = "1.0", model_hash = std::string(64, 'a'), kv_type = "f32";
    std::string semantics = R"({"activation":"relu2","eps":"1e-05"})";
    std::string hyperparameters = R"({"n_layer":3,"rms_eps":1e-05})";
    bool sub_norms = true;
    bool prefill = true;  // all positions in one step, stage by stage; else one step for each position
    int run = 0;
    // Changes a stage's output before it goes on to the next ones.
    std::function<void(int seq, int layer, const std::string &stage, std::vector<float> &values)> fault;
    // Which records are written; none: all.
    std::function<bool(int seq, int layer, const std::string &stage)> keep;

    // Whole lines of one run.
    std::vector<std::string> lines() const;
};

// A tensor record of these values.
std::string tensor_line(int run, uint64_t event, int seq, int layer, const std::string &stage,
                        const std::vector<float> &values);
std::vector<float> sketch_of(const std::vector<float> &values);

// A folder of this test that is gone when it ends.
class Folder {
public:
    Folder();
    ~Folder();
    Folder(const Folder &) = delete;
    Folder &operator=(const Folder &) = delete;
    // Path of a new file with these lines, each with its line end.
    std::string write(const std::string &name, const std::vector<std::string> &lines) const;
    std::string write_bytes(const std::string &name, const std::string &bytes) const;
    std::string write(const std::string &name, const SampleTrace &trace) const { return write(name, trace.lines()); }
    std::string path(const std::string &name = "") const { return (path_ / name).string(); }

private:
    std::filesystem::path path_;
};

std::string joined(const std::vector<std::string> &lines);
// Index of the line that holds this record.
size_t line_of(const std::vector<std::string> &lines, int seq, int layer, const std::string &stage);

}  // namespace bitnet
