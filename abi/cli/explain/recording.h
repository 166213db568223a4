// What an engine recorded: raw values of stages, from a folder of NPY files or from one NPZ file.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace bitnet::explain {

// Rows of one stage of one layer, by position. Rows of attention scores grow with their position.
struct Rows {
    int32_t dtype = 0;
    std::vector<int32_t> positions;  // ascending
    std::vector<std::string> rows;   // bytes, little-endian
    size_t row_elements(size_t r) const;
};

using Key = std::pair<int32_t, int32_t>;  // layer, stage

struct Recording {
    std::string path;
    std::string engine, engine_version, model_hash;  // "" when unknown
    std::vector<int32_t> tokens;                     // by position; -1: unknown
    std::map<Key, Rows> stages;
    size_t n_files = 0;                  // arrays that became rows
    std::vector<std::string> passed_by;  // arrays that are of no stage
    bool complete = true;                // false: the run says that it was cut short

    const Rows *find(int32_t layer, int32_t stage) const;
};

// Throws CommandError naming the file.
Recording read_recording(const std::string &path);

// "q_proj.acc" -> its number; 0 when there is no such stage.
int32_t stage_number(const std::string &name);

}  // namespace bitnet::explain
