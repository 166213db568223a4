#include "abi/cli/diff/raw_values.h"

#include "abi/cli/diff/record_parser.h"
#include "abi/cli/diff/text.h"
#include "abi/cli/recording/recording.h"
#include "abi/cli/terminal.h"
#include "bitnet_c.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

namespace bitnet::diff {

namespace fs = std::filesystem;

struct RawValues::Arrays {
    std::vector<recording::StageArray> list;
};

RawValues::RawValues() = default;
RawValues::~RawValues() = default;

size_t RawRow::size() const { return bytes.size() / recording::dtype_bytes(dtype); }
double RawRow::operator[](size_t i) const { return recording::value_at(bytes.data(), dtype, i); }

std::optional<RawRow> RawValues::find(Key key) const {
    const auto at = places_.find(key);
    if (at == places_.end()) return std::nullopt;
    if (arrays_) {
        const recording::StageArray &array = arrays_->list[at->second.of];
        return RawRow{array.array.dtype, array.row(at->second.row)};
    }
    recording::Array array = recording::read_npy(files_[at->second.of]);
    return RawRow{array.dtype, std::move(array.bytes)};
}

std::string RawValues::name_of(Key key) const {
    const auto at = places_.find(key);
    if (at == places_.end()) return "";
    if (arrays_) return text_of("%s[%u]", arrays_->list[at->second.of].name.c_str(), at->second.row);
    return fs::path(files_[at->second.of]).filename().string();
}

// Puts the rows of one side into its trace.
class RawReader {
public:
    RawReader(Trace &trace, const std::function<void(const Record &)> &take) : trace_(trace), take_(take) {
        trace_.raw = std::make_shared<RawValues>();
    }

    void read(const std::string &path) {
        if (!fs::is_directory(path)) return read_npz(path);
        for (const std::string &run : recording::run_folders(path)) {
            if (trace_.runs.size() >= size_t(kMaxRuns)) {
                trace_.problems.add(format_text("%s: more than %d runs", printable(path, 200).c_str(), kMaxRuns));
                return;
            }
            read_run(run);
        }
    }

private:
    void problem(const std::string &text) { trace_.problems.add(diff::printable(text, 400)); }

    void unparsable(const std::string &text) {
        ++trace_.n_unparsable;
        problem(text);
    }

    // Its run record is that of a JSONL trace.
    Run parse_run(const recording::RunJson &json) {
        std::string line = json.run;
        const size_t n = line.size();
        line.resize(n + RecordParser::kPadding);
        Line parsed = RecordParser().parse(line.data(), n);
        RunLine *run = std::get_if<RunLine>(&parsed);
        if (!run) throw LineError("\"run\": no run record");
        return std::move(run->run);
    }

    void read_run(const std::string &path) {
        const recording::RunFolder folder = recording::list_run(path);
        trace_.files.push_back(path);
        trace_.runs.emplace_back();
        uint64_t n_said = 0;
        if (folder.has_run_json) {
            const std::string name = path + "/run.json";
            try {
                const recording::RunJson json = recording::read_run_json(name);
                trace_.runs.back() = parse_run(json);
                if (!json.complete) problem(path + ": cut short: its run.json says that the run is not complete");
                set_tokens(json.tokens);
                n_said = json.n_records;
            } catch (const CommandError &error) {
                unparsable(error.what());
            } catch (const LineError &error) {
                unparsable(name + ": " + error.what());
            }
        }
        for (const std::string &name : folder.passed_by)
            if (name.ends_with(".npy")) unparsable(path + "/" + bitnet::printable(name) + ": of no known stage, or no name of a row");
        uint32_t number = 0;
        for (const recording::RowFile &file : folder.rows) add_file(path, file, ++number);
        const uint64_t n_there = folder.rows.size();
        if (n_said && n_said != n_there) {
            trace_.incomplete.add(format_text("%s/run.json says %llu rows, %llu are there",
                                              printable(path, 200).c_str(), static_cast<unsigned long long>(n_said),
                                              static_cast<unsigned long long>(n_there)));
        }
    }

    void add_file(const std::string &folder, const recording::RowFile &file, uint32_t number) {
        const std::string name = folder + "/" + file.name;
        try {
            recording::Array array = recording::read_npy(name);
            const Key key = key_of(file.layer, file.stage, file.position);
            const uint32_t index = uint32_t(trace_.raw->files_.size());
            trace_.raw->files_.push_back(name);
            hand_on({array.dtype, std::move(array.bytes)}, key, {index}, file.event, number);
        } catch (const CommandError &error) {
            const std::string text = error.what();
            unparsable(text.starts_with(name) ? text : name + ": " + text);
        }
    }

    void read_npz(const std::string &path) {
        trace_.files.push_back(path);
        trace_.runs.emplace_back();
        trace_.raw->arrays_ = std::make_unique<RawValues::Arrays>();
        std::vector<recording::StageArray> &arrays = trace_.raw->arrays_->list;
        try {
            recording::Npz npz = recording::read_npz(path);
            set_tokens(npz.tokens);
            for (const std::string &name : npz.passed_by)
                unparsable(path + ": array '" + bitnet::printable(name) + "': of no known stage");
            arrays = std::move(npz.arrays);
        } catch (const CommandError &error) {
            unparsable(error.what());
        }
        for (uint32_t i = 0; i < arrays.size(); ++i) {
            try {
                for (uint32_t r = 0; r < arrays[i].n_rows(); ++r) {
                    const Key key = key_of(arrays[i].layer, arrays[i].stage, int32_t(r));
                    hand_on({arrays[i].array.dtype, arrays[i].row(r)}, key, {i, r}, 0, i + 1);
                }
            } catch (const CommandError &error) {
                unparsable(path + ": array '" + bitnet::printable(arrays[i].name) + "': " + error.what());
            }
        }
    }

    void set_tokens(const std::vector<int32_t> &tokens) {
        Run &run = trace_.runs.back();
        run.tokens.clear();
        for (size_t i = 0; i < tokens.size(); ++i)
            if (tokens[i] >= 0) run.tokens.emplace_back(int64_t(i), tokens[i]);
    }

    Key key_of(int32_t layer, int32_t number, int32_t position) const {
        const Stage &stage = *find_stage(std::string_view(bitnet_stage_name(number)));
        const bool fits = stage.in_layer ? layer >= 0 && layer < kMaxLayers : layer == -1;
        if (!fits || position < 0 || position >= kMaxPositions)
            throw CommandError(text_of("layer %d or position %d: none of this stage", layer, position));
        return make_key(int(trace_.runs.size() - 1), position, layer, stage);
    }

    void hand_on(const RawRow &row, Key key, RawValues::Source source, uint64_t event, uint32_t line) {
        source.n_elements = row.size();
        trace_.raw->places_.try_emplace(key, source);
        Record record = record_of(row);
        record.key = key;
        record.event = event;
        record.line = line;
        record.file = uint32_t(trace_.files.size() - 1);
        Run &run = trace_.runs.back();
        run.nodes.set(node_of(key));
        run.max_layer = std::max(run.max_layer, layer_of(key));
        ++run.n_records;
        ++trace_.n_records;
        take_(record);
    }

    Trace &trace_;
    const std::function<void(const Record &)> &take_;
};

bool is_raw(const std::string &path) {
    std::error_code error;
    if (!fs::is_directory(path, error)) {
        char magic[4] = {};
        std::ifstream(path, std::ios::binary).read(magic, sizeof magic);
        return std::memcmp(magic, "PK\3\4", sizeof magic) == 0 || path.ends_with(".npz");
    }
    bool traces = false;
    for (fs::directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
        const std::string name = it->path().filename().string();
        traces |= name.ends_with(".jsonl") || name.ends_with(".jsonl.zst") || name.ends_with(".trace");
    }
    if (traces || error) return false;
    try {
        return !recording::run_folders(path).empty();
    } catch (const fs::filesystem_error &) {
        return false;
    }
}

void stream_raw(const std::string &path, Trace &trace, const std::function<void(const Record &)> &take) {
    try {
        RawReader(trace, take).read(path);
    } catch (const fs::filesystem_error &error) {
        trace.problems.add(printable(error.what(), 400));
    }
}

}  // namespace bitnet::diff
