#include "abi/cli/recording/recording.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <numeric>

#include <nlohmann/json.hpp>

#include "abi/cli/recording/inflate.h"
#include "abi/cli/recording/npy.h"
#include "abi/cli/terminal.h"
#include "bitnet_c.h"

namespace bitnet::recording {

namespace fs = std::filesystem;

namespace {

constexpr int32_t positions_max = 1 << 20;

std::string read_file(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    std::string bytes{std::istreambuf_iterator<char>(file), {}};
    if (!file) throw CommandError(path + ": cannot be read");
    return bytes;
}

template <class Integer> bool parse(std::string_view text, Integer &out) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
    return error == std::errc() && end == text.data() + text.size();
}

void add_row(Recording &out, const std::string &file, Key key, int32_t position, int32_t dtype, std::string bytes) {
    if (position < 0 || position >= positions_max)
        throw CommandError(text_of("%s: position %d: expected 0 to %d", file.c_str(), position, positions_max - 1));
    Rows &rows = out.stages[key];
    if (rows.rows.empty()) rows.dtype = dtype;
    if (rows.dtype != dtype) throw CommandError(file + ": of another type than the rows of this stage before it");
    rows.positions.push_back(position);
    rows.rows.push_back(std::move(bytes));
}

// Ascending positions, each once.
void put_in_order(Recording &recording) {
    for (auto &[key, rows] : recording.stages) {
        std::vector<size_t> order(rows.rows.size());
        std::iota(order.begin(), order.end(), size_t(0));
        std::stable_sort(order.begin(), order.end(),
                         [&](size_t a, size_t b) { return rows.positions[a] < rows.positions[b]; });
        Rows sorted;
        sorted.dtype = rows.dtype;
        for (const size_t i : order) {
            if (!sorted.positions.empty() && sorted.positions.back() == rows.positions[i]) {
                throw CommandError(text_of("%s: %s of layer %d, position %d: recorded twice", recording.path.c_str(),
                                           bitnet_stage_name(key.second), key.first, rows.positions[i]));
            }
            sorted.positions.push_back(rows.positions[i]);
            sorted.rows.push_back(std::move(rows.rows[i]));
        }
        rows = std::move(sorted);
    }
}

// ---- NPZ: arrays "layer/stage" with one row a token, and "ids" ----

bool is_ragged(int32_t stage) { return stage == BITNET_STAGE_ATTN_SCORES || stage == BITNET_STAGE_ATTN_SCORES_SOFTMAX; }

void add_array(Npz &out, const std::string &name, Array array) {
    if (name == "ids") {
        if (array.dtype != BITNET_DTYPE_I32) throw CommandError("expected integers");
        out.tokens.resize(array.n_elements());
        std::copy_n(array.bytes.data(), array.bytes.size(), reinterpret_cast<char *>(out.tokens.data()));
        return;
    }
    const size_t slash = name.find('/');
    int32_t layer = 0;
    const int32_t stage = slash == std::string::npos ? 0 : stage_number(name.substr(slash + 1));
    if (stage == 0 || !parse(std::string_view(name).substr(0, slash), layer)) {
        out.passed_by.push_back(name);
        return;
    }
    if (array.shape.empty() || array.shape[0] == 0) throw CommandError("it has no rows");
    if (array.shape[0] > uint64_t(positions_max))
        throw CommandError(
            text_of("%llu rows: expected at most %d", static_cast<unsigned long long>(array.shape[0]), positions_max));
    out.arrays.push_back({name, layer, stage, std::move(array)});
}

Recording recording_of_npz(const std::string &path) {
    Recording recording;
    Npz npz = read_npz(path);
    recording.path = path;
    recording.tokens = std::move(npz.tokens);
    recording.passed_by = std::move(npz.passed_by);
    recording.n_files = npz.arrays.size();
    for (const StageArray &array : npz.arrays) {
        for (size_t r = 0; r < array.n_rows(); ++r)
            add_row(recording, path + ": array '" + printable(array.name) + "'", {array.layer, array.stage}, int32_t(r),
                    array.array.dtype, array.row(r));
    }
    return recording;
}

// ---- a folder: what the npy plugin writes (plugins/TRACE_FORMAT.md) ----

// "<event>-t<seq>[-blk<layer>]-<stage>"
bool parse_name(std::string_view name, RowFile &out) {
    std::vector<std::string_view> parts;
    for (size_t from = 0;;) {
        const size_t dash = name.find('-', from);
        parts.push_back(name.substr(from, dash - from));
        if (dash == std::string_view::npos) break;
        from = dash + 1;
    }
    const bool in_layer = parts.size() == 4;
    if (parts.size() != 3 && !in_layer) return false;
    if (!parse(parts[0], out.event) || !parts[1].starts_with("t") || !parse(parts[1].substr(1), out.position))
        return false;
    if (in_layer && (!parts[2].starts_with("blk") || !parse(parts[2].substr(3), out.layer))) return false;
    out.stage = stage_number(std::string(parts.back()));
    return out.stage != 0;
}

bool holds_run(const std::string &name) { return name.ends_with(".npy") || name == "run.json"; }

// The folder itself, or the only run in it.
std::string run_folder(const std::string &path) {
    const std::vector<std::string> runs = run_folders(path);
    if (runs.size() == 1) return runs[0];
    if (runs.empty()) throw CommandError(path + ": expected *.npy files or a folder run-... with some");
    throw CommandError(
        text_of("%s: %zu runs: name one of them, such as %s", path.c_str(), runs.size(), runs[0].c_str()));
}

Recording recording_of_folder(const std::string &path) {
    Recording recording;
    const RunFolder folder = list_run(run_folder(path));
    recording.path = folder.path;
    recording.passed_by = folder.passed_by;
    if (folder.has_run_json) {
        RunJson run = read_run_json(folder.path + "/run.json");
        recording.engine = run.engine;
        recording.engine_version = run.engine_version;
        recording.model_hash = run.model_hash;
        recording.tokens = std::move(run.tokens);
        recording.complete = run.complete;
    }
    for (const RowFile &row : folder.rows) {
        const std::string file = folder.path + "/" + row.name;
        Array array = read_npy(file);
        add_row(recording, file, {row.layer, row.stage}, row.position, array.dtype, std::move(array.bytes));
        ++recording.n_files;
    }
    return recording;
}

}  // namespace

std::string StageArray::row(size_t r) const {
    const size_t n_bytes = array.bytes.size() / n_rows();
    std::string bytes = array.bytes.substr(r * n_bytes, n_bytes);
    if (!is_ragged(stage)) return bytes;
    // (n_head, n) to (n_head, r + 1)
    const size_t element = dtype_bytes(array.dtype), line = n_rows() * element;
    std::string out;
    for (size_t at = 0; at + line <= bytes.size(); at += line) out += bytes.substr(at, (r + 1) * element);
    return out;
}

Npz read_npz(const std::string &path) {
    Npz out;
    for (const ZipEntry &entry : read_zip(path, read_file(path))) {
        if (!entry.name.ends_with(".npy")) {
            out.passed_by.push_back(entry.name);
            continue;
        }
        const std::string name = entry.name.substr(0, entry.name.size() - 4);
        try {
            add_array(out, name, parse_npy(entry.bytes));
        } catch (const CommandError &error) {
            throw CommandError(path + ": array '" + printable(name) + "': " + error.what());
        }
    }
    return out;
}

std::vector<std::string> run_folders(const std::string &path) {
    std::vector<std::string> runs;
    for (const fs::directory_entry &entry : fs::directory_iterator(path)) {
        const std::string name = entry.path().filename().string();
        if (holds_run(name)) return {path};
        if (entry.is_directory() && name.starts_with("run-")) runs.push_back(entry.path().string());
    }
    std::sort(runs.begin(), runs.end());
    return runs;
}

RunFolder list_run(const std::string &path) {
    RunFolder folder;
    folder.path = path;
    std::vector<std::string> names;
    for (const fs::directory_entry &entry : fs::directory_iterator(path))
        names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    for (const std::string &name : names) {
        RowFile row;
        // Unfinished files, and inputs that an event named: the rows of the stage itself are what is used.
        if (name.starts_with(".") || name.find(".in-") != std::string::npos) continue;
        if (name == "run.json") {
            folder.has_run_json = true;
        } else if (name.ends_with(".npy") && parse_name(std::string_view(name).substr(0, name.size() - 4), row)) {
            row.name = name;
            folder.rows.push_back(row);
        } else {
            folder.passed_by.push_back(name);
        }
    }
    return folder;
}

RunJson read_run_json(const std::string &path) {
    RunJson out;
    try {
        const nlohmann::json json = nlohmann::json::parse(read_file(path));
        out.complete = json.at("complete").get<bool>();
        out.n_records = json.value("records", uint64_t(0));
        const nlohmann::json &run = json.at("run");
        out.run = run.dump();
        out.engine = run.value("engine", "");
        out.engine_version = run.value("engine_version", "");
        out.model_hash = run.value("model_hash", "");
        const size_t first = json.at("first_position").get<size_t>();
        const nlohmann::json &tokens = json.at("tokens");
        if (first > size_t(positions_max) || tokens.size() > size_t(positions_max))
            throw CommandError("more positions than there can be");
        out.tokens.assign(first, -1);
        for (const nlohmann::json &token : tokens) out.tokens.push_back(token.is_null() ? -1 : token.get<int32_t>());
    } catch (const std::exception &error) {
        throw CommandError(path + ": " + printable(error.what()));
    }
    return out;
}

Array read_npy(const std::string &path) {
    const std::string bytes = read_file(path);
    try {
        return parse_npy(bytes);
    } catch (const CommandError &error) {
        throw CommandError(path + ": " + error.what());
    }
}

size_t Rows::row_elements(size_t r) const { return rows[r].size() / dtype_bytes(dtype); }

const Rows *Recording::find(int32_t layer, int32_t stage) const {
    const auto found = stages.find({layer, stage});
    return found == stages.end() ? nullptr : &found->second;
}

int32_t stage_number(const std::string &name) {
    for (int32_t base = 1; base <= BITNET_STAGE_COUNT; ++base)
        for (const int32_t companion : {0, BITNET_STAGE_CODES, BITNET_STAGE_SCALE, BITNET_STAGE_ACC}) {
            const char *known = bitnet_stage_name(base | companion);
            if (known && name == known) return base | companion;
        }
    return 0;
}

Recording read_recording(const std::string &path) {
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (error || !fs::exists(status)) throw CommandError(path + ": no such file or folder");
    Recording recording = fs::is_directory(status) ? recording_of_folder(path) : recording_of_npz(path);
    put_in_order(recording);
    if (recording.stages.empty()) {
        throw CommandError(
            text_of("%s: no stage of a layer among %zu arrays", path.c_str(), recording.passed_by.size()));
    }
    return recording;
}

}  // namespace bitnet::recording
