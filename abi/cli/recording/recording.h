// What an engine recorded: raw values of stages, from a folder of NPY files or from one NPZ file.
#pragma once

#include "abi/cli/recording/npy.h"

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace bitnet::recording {

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

// ---- the same piece by piece, for who keeps less ----

// What a run's folder holds (plugins/TRACE_FORMAT.md).
struct RowFile {
    std::string name;  // of the file
    uint64_t event = 0;
    int32_t position = 0, layer = -1, stage = 0;
};
struct RunFolder {
    std::string path;
    std::vector<RowFile> rows;           // in name order
    std::vector<std::string> passed_by;  // other files, unfinished ones and inputs that events named left out
    bool has_run_json = false;
};
struct RunJson {
    std::string run;  // the run record, as JSON
    std::string engine, engine_version, model_hash;
    std::vector<int32_t> tokens;  // by position; -1: unknown
    uint64_t n_records = 0;       // files of rows; 0 when it does not say
    bool complete = true;
};

// The folder itself when it holds a run, else those named run-... in it, in name order; none: nothing of the kind.
std::vector<std::string> run_folders(const std::string &path);
RunFolder list_run(const std::string &path);
// Throw CommandError naming the file.
RunJson read_run_json(const std::string &path);
Array read_npy(const std::string &path);

// An array of an .npz that is of a stage, with one row for each token from position 0.
struct StageArray {
    std::string name;
    int32_t layer = -1, stage = 0;
    Array array;
    size_t n_rows() const { return array.shape[0]; }
    // Scores without what fills them up to the last position.
    std::string row(size_t r) const;
};
struct Npz {
    std::vector<int32_t> tokens;
    std::vector<StageArray> arrays;
    std::vector<std::string> passed_by;
};
Npz read_npz(const std::string &path);

}  // namespace bitnet::recording
