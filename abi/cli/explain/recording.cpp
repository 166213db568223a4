#include "abi/cli/explain/recording.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <numeric>

#include <nlohmann/json.hpp>

#include "abi/cli/explain/inflate.h"
#include "abi/cli/explain/npy.h"
#include "abi/cli/terminal.h"
#include "bitnet_c.h"

namespace bitnet::explain {

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

// Row `r` of an array whose rows of scores are filled up to the last position: (n_head, n) to (n_head, r + 1).
std::string without_filling(const std::string &row, size_t r, size_t n, size_t element) {
    std::string out;
    for (size_t at = 0; at + n * element <= row.size(); at += n * element) out += row.substr(at, (r + 1) * element);
    return out;
}

void add_array(Recording &recording, const std::string &name, const Array &array) {
    if (name == "ids") {
        if (array.dtype != BITNET_DTYPE_I32) throw CommandError("array 'ids': expected integers");
        recording.tokens.resize(array.n_elements());
        std::copy_n(array.bytes.data(), array.bytes.size(), reinterpret_cast<char *>(recording.tokens.data()));
        return;
    }
    const size_t slash = name.find('/');
    int32_t layer = 0;
    const int32_t stage = slash == std::string::npos ? 0 : stage_number(name.substr(slash + 1));
    if (stage == 0 || !parse(std::string_view(name).substr(0, slash), layer)) {
        recording.passed_by.push_back(name);
        return;
    }
    if (array.shape.empty() || array.shape[0] == 0) throw CommandError("array '" + printable(name) + "' has no rows");
    const size_t n = array.shape[0], row_bytes = array.bytes.size() / n, element = dtype_bytes(array.dtype);
    ++recording.n_files;
    for (size_t r = 0; r < n; ++r) {
        std::string row = array.bytes.substr(r * row_bytes, row_bytes);
        if (is_ragged(stage)) row = without_filling(row, r, n, element);
        add_row(recording, "array '" + printable(name) + "'", {layer, stage}, int32_t(r), array.dtype, std::move(row));
    }
}

Recording read_npz(const std::string &path) {
    Recording recording;
    recording.path = path;
    for (const ZipEntry &entry : read_zip(path, read_file(path))) {
        if (!entry.name.ends_with(".npy")) {
            recording.passed_by.push_back(entry.name);
            continue;
        }
        const std::string name = entry.name.substr(0, entry.name.size() - 4);
        try {
            add_array(recording, name, parse_npy(entry.bytes));
        } catch (const CommandError &error) {
            throw CommandError(path + ": array '" + printable(name) + "': " + error.what());
        }
    }
    return recording;
}

// ---- a folder: what the npy plugin writes (plugins/TRACE_FORMAT.md) ----

struct FileName {
    int32_t position = 0, layer = -1, stage = 0;
};

// "<event>-t<seq>[-blk<layer>]-<stage>"
bool parse_name(std::string_view name, FileName &out) {
    std::vector<std::string_view> parts;
    for (size_t from = 0;;) {
        const size_t dash = name.find('-', from);
        parts.push_back(name.substr(from, dash - from));
        if (dash == std::string_view::npos) break;
        from = dash + 1;
    }
    uint64_t event = 0;
    const bool in_layer = parts.size() == 4;
    if (parts.size() != 3 && !in_layer) return false;
    if (!parse(parts[0], event) || !parts[1].starts_with("t") || !parse(parts[1].substr(1), out.position)) return false;
    if (in_layer && (!parts[2].starts_with("blk") || !parse(parts[2].substr(3), out.layer))) return false;
    out.stage = stage_number(std::string(parts.back()));
    return out.stage != 0;
}

void read_run_json(Recording &recording, const std::string &path) {
    try {
        const nlohmann::json json = nlohmann::json::parse(read_file(path));
        recording.complete = json.at("complete").get<bool>();
        const nlohmann::json &run = json.at("run");
        recording.engine = run.value("engine", "");
        recording.engine_version = run.value("engine_version", "");
        recording.model_hash = run.value("model_hash", "");
        const size_t first = json.at("first_position").get<size_t>();
        const nlohmann::json &tokens = json.at("tokens");
        if (first > size_t(positions_max) || tokens.size() > size_t(positions_max))
            throw CommandError("more positions than there can be");
        recording.tokens.assign(first, -1);
        for (const nlohmann::json &token : tokens)
            recording.tokens.push_back(token.is_null() ? -1 : token.get<int32_t>());
    } catch (const std::exception &error) {
        throw CommandError(path + ": " + printable(error.what()));
    }
}

// The folder itself, or the only run in it.
std::string run_folder(const std::string &path) {
    std::vector<std::string> runs;
    for (const fs::directory_entry &entry : fs::directory_iterator(path)) {
        const std::string name = entry.path().filename().string();
        if (name.ends_with(".npy") || name == "run.json") return path;
        if (entry.is_directory() && name.starts_with("run-")) runs.push_back(name);
    }
    std::sort(runs.begin(), runs.end());
    if (runs.size() == 1) return path + "/" + runs[0];
    if (runs.empty()) throw CommandError(path + ": expected *.npy files or a folder run-... with some");
    throw CommandError(text_of("%s: %zu runs: name one of them, such as %s/%s", path.c_str(), runs.size(), path.c_str(),
                               runs[0].c_str()));
}

Recording read_folder(const std::string &path) {
    Recording recording;
    recording.path = run_folder(path);
    std::vector<std::string> names;
    for (const fs::directory_entry &entry : fs::directory_iterator(recording.path))
        names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    for (const std::string &name : names) {
        const std::string file = recording.path + "/" + name;
        if (name == "run.json") {
            read_run_json(recording, file);
            continue;
        }
        FileName parts;
        // Unfinished files, and inputs that an event named: the rows of the stage itself are what is used.
        if (name.starts_with(".") || name.find(".in-") != std::string::npos) continue;
        if (!name.ends_with(".npy") || !parse_name(std::string_view(name).substr(0, name.size() - 4), parts)) {
            recording.passed_by.push_back(name);
            continue;
        }
        try {
            Array array = parse_npy(read_file(file));
            add_row(recording, file, {parts.layer, parts.stage}, parts.position, array.dtype, std::move(array.bytes));
            ++recording.n_files;
        } catch (const CommandError &error) {
            const std::string text = error.what();
            throw CommandError(text.starts_with(file) ? text : file + ": " + text);
        }
    }
    return recording;
}

}  // namespace

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
    Recording recording = fs::is_directory(status) ? read_folder(path) : read_npz(path);
    put_in_order(recording);
    if (recording.stages.empty()) {
        throw CommandError(
            text_of("%s: no stage of a layer among %zu arrays", path.c_str(), recording.passed_by.size()));
    }
    return recording;
}

}  // namespace bitnet::explain
