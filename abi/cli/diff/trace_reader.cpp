#include "abi/cli/diff/trace_reader.h"

#include "abi/cli/diff/raw_values.h"
#include "abi/cli/diff/record_parser.h"
#include "abi/cli/diff/text.h"
#include "abi/cli/diff/trace_input.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <optional>
#include <system_error>

namespace bitnet::diff {

namespace {

using Llu = unsigned long long;

constexpr size_t kChunkBytes = size_t(1) << 20;
constexpr size_t kMaxLineBytes = size_t(1) << 28;  // a run record's tokens and prompt are the longest honest line
constexpr size_t kMaxObjectBytes = size_t(1) << 20;  // of a *.trace file: BitNet-rs writes a few hundred

// Lines of a file through one buffer that grows only for a line longer than it.
class LineReader {
public:
    explicit LineReader(TraceInput &input) : input_(input), buffer_(kChunkBytes + RecordParser::kPadding) {}

    // The next line without its '\n'; false at the end, on a read error or an overlong line. Borrowed until the next
    // call; RecordParser::kPadding bytes after it are readable.
    bool next(const char *&line, size_t &n_bytes) {
        size_t searched = begin_;
        for (;;) {
            if (auto *newline = static_cast<char *>(std::memchr(buffer_.data() + searched, '\n', end_ - searched))) {
                size_t at = size_t(newline - buffer_.data());
                line = buffer_.data() + begin_;
                n_bytes = at - begin_;
                begin_ = at + 1;
                return true;
            }
            if (eof_) {
                line = buffer_.data() + begin_;
                n_bytes = end_ - begin_;
                begin_ = end_;
                unterminated_ = n_bytes > 0;
                return n_bytes > 0 && !overlong_;
            }
            searched = end_ - begin_;
            refill();
        }
    }
    bool unterminated() const { return unterminated_; }  // the last line has no '\n'
    bool overlong() const { return overlong_; }

private:
    void refill() {
        std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
        end_ -= begin_;
        begin_ = 0;
        size_t room = buffer_.size() - RecordParser::kPadding - end_;
        if (room == 0) {
            overlong_ = end_ >= kMaxLineBytes;
            eof_ = overlong_;
            if (eof_) return;
            buffer_.resize(2 * end_ + RecordParser::kPadding);
            room = end_;
        }
        size_t got = input_.read(buffer_.data() + end_, room);
        end_ += got;
        eof_ = got == 0;
    }

    TraceInput &input_;
    std::vector<char> buffer_;
    size_t begin_ = 0, end_ = 0;
    bool eof_ = false, unterminated_ = false, overlong_ = false;
};

int64_t layer_count(const Run &run) {
    for (const auto &[key, value] : run.hyperparameters) {
        int64_t n = 0;
        if (key == "n_layer") std::from_chars(value.data(), value.data() + value.size(), n);
        if (n > 0 && n <= kMaxLayers) return n;
    }
    return 0;
}

// Puts the lines of one file into the trace.
class FileReader {
public:
    FileReader(Trace &trace, const std::string &path, RecordParser &parser, const TakeRecord &take)
        : trace_(trace), take_(take), path_(path), parser_(parser) {}

    void read() {
        TraceInput input(path_);
        if (!input.is_open()) return problem("%s", input.problem().c_str());
        trace_.files.push_back(path_);
        LineReader lines(input);
        const char *line;
        size_t n_bytes;
        for (; lines.next(line, n_bytes);) {
            ++line_;
            take(line, n_bytes, lines.unterminated());
        }
        if (!input.problem().empty()) problem("%s", input.problem().c_str());
        if (lines.overlong()) return problem("line %u is longer than %zu bytes", line_ + 1, kMaxLineBytes);
        if (line_ == 0) return input.problem().empty() ? problem("is empty: a trace begins with a run record") : void();
        if (open_) {
            problem("cut short: run %llu has no run_end after line %u", Llu(file_run_), line_);
            finish_run(std::nullopt);
        } else if (n_runs_ == 0 && n_bare_ == 0) {
            problem("no valid run record in %u lines: not a trace", line_);
        }
    }

    // A *.trace file: one object, over as many lines as it likes; also several, one in each line.
    void read_objects() {
        TraceInput input(path_);
        if (!input.is_open()) return problem("%s", input.problem().c_str());
        trace_.files.push_back(path_);
        std::vector<char> text(kMaxObjectBytes + RecordParser::kPadding);
        size_t n = 0;
        for (size_t got; n < kMaxObjectBytes && (got = input.read(text.data() + n, kMaxObjectBytes - n));) n += got;
        if (!input.problem().empty()) return problem("%s", input.problem().c_str());
        if (n == kMaxObjectBytes) return problem("is longer than %zu bytes: no trace file", kMaxObjectBytes);
        while (n > 0 && std::strchr(" \t\r\n", text[n - 1])) --n;
        if (n == 0) {
            ++trace_.n_unparsable;
            return problem("is empty: a record expected");
        }
        const std::string_view all(text.data(), n);
        const bool is_lines = all.find("\n{") != std::string_view::npos;
        for (size_t begin = 0; begin < n;) {
            const size_t end = is_lines ? std::min(all.find('\n', begin), n) : n;
            ++line_;
            take(text.data() + begin, end - begin, false);
            begin = end + 1;
        }
    }

private:
    template <typename... Args> void problem(const char *format, Args... args) {
        trace_.problems.add(printable(path_, 200) + ": " + format_text(format, args...));
    }

    void take(const char *line, size_t n_bytes, bool unterminated) {
        try {
            Line parsed = parser_.parse(line, n_bytes);
            std::visit([this](auto &typed) { add(typed); }, parsed);
        } catch (const LineError &error) {
            ++trace_.n_unparsable;
            ++n_bad_;
            trace_.problems.add(format_text("%s:%u: %s%s", printable(path_, 200).c_str(), line_, error.what(),
                                            unterminated ? " (the last line is cut)" : ""));
        }
    }

    void add(RunLine &line) {
        if (open_) {
            problem("cut short: run %llu has no run_end before line %u", Llu(file_run_), line_);
            finish_run(std::nullopt);
        }
        if (trace_.runs.size() >= size_t(kMaxRuns)) {
            throw LineError(format_text("more than %d runs in one trace", kMaxRuns));
        }
        trace_.runs.push_back(std::move(line.run));
        file_run_ = line.number;
        open_ = true;
        ++n_runs_;
        n_bad_ = 0;
        step_tokens_.clear();
    }

    void add(StepLine &line) {
        open_run(line.run);
        for (size_t i = 0; i < line.tokens.size(); ++i) {
            step_tokens_.emplace_back(line.position + int64_t(i), line.tokens[i]);
        }
    }

    void add(TensorLine &line) {
        Run &run = open_run(line.run);
        if (line.layer == kAllLayersOutLayer) {
            line.layer = layer_count(run) - 1;
            if (line.layer < 0) throw LineError("layer -2: the run record's hyperparameters have no n_layer");
        }
        hand_on(line, run, make_key(int(trace_.runs.size() - 1), line.position, int(line.layer), *line.stage));
    }

    // BitNet-rs's records name no run: all of a trace are of one.
    void add(BareLine &line) {
        if (open_) throw LineError("no \"record\"");
        auto run = std::find_if(trace_.runs.begin(), trace_.runs.end(), [](const Run &r) { return r.bare; });
        if (run == trace_.runs.end()) {
            if (trace_.runs.size() >= size_t(kMaxRuns)) {
                throw LineError(format_text("more than %d runs in one trace", kMaxRuns));
            }
            run = trace_.runs.emplace(trace_.runs.end());
            run->bare = true;
        }
        ++n_bare_;
        const int number = int(run - trace_.runs.begin());
        TensorLine &tensor = line.tensor;
        hand_on(tensor, *run,
                tensor.layer == kAllLayersOutLayer
                    ? make_last_layer_key(number, tensor.position)
                    : make_key(number, tensor.position, int(tensor.layer), *tensor.stage));
    }

    void hand_on(TensorLine &line, Run &run, Key key) {
        Record &record = line.record;
        record.key = key;
        record.line = line_;
        record.file = uint32_t(trace_.files.size() - 1);
        run.nodes.set(line.stage->node);
        run.max_layer = std::max(run.max_layer, layer_of(record.key));
        ++run.n_records;
        run.n_position_assumed += record.position_assumed ? 1 : 0;
        ++trace_.n_records;
        take_(record);
    }

    void add(RunEndLine &line) {
        open_run(line.run).overridden = line.overridden;
        finish_run(line.n_records);
    }

    Run &open_run(uint64_t number) {
        if (!open_) throw LineError(format_text("no run is open, run %llu named", Llu(number)));
        if (number != file_run_) {
            throw LineError(format_text("\"run\": %llu found, %llu is open", Llu(number), Llu(file_run_)));
        }
        return trace_.runs.back();
    }

    void finish_run(std::optional<uint64_t> n_said) {
        Run &run = trace_.runs.back();
        open_ = false;
        // A line that could not be read may have been a record: it is reported already.
        if (n_said && (*n_said < run.n_records || *n_said > run.n_records + n_bad_)) {
            trace_.incomplete.add(format_text("%s:%u: run_end says %llu tensor records, %llu are there",
                                              printable(path_, 200).c_str(), line_, Llu(*n_said), Llu(run.n_records)));
        }
        if (step_tokens_.empty()) return;
        // A failed eval that was tried again has two steps at one position: the later one counts.
        std::stable_sort(step_tokens_.begin(), step_tokens_.end(),
                         [](const auto &a, const auto &b) { return a.first < b.first; });
        run.tokens.clear();
        for (const auto &token : step_tokens_) {
            if (!run.tokens.empty() && run.tokens.back().first == token.first) run.tokens.pop_back();
            run.tokens.push_back(token);
        }
    }

    Trace &trace_;
    const TakeRecord &take_;
    std::string path_;
    RecordParser &parser_;
    uint32_t line_ = 0;
    bool open_ = false;
    uint64_t file_run_ = 0, n_runs_ = 0, n_bare_ = 0, n_bad_ = 0;
    std::vector<std::pair<int64_t, int32_t>> step_tokens_;
};

// Files of a folder in name order, or the path itself.
std::vector<std::string> trace_files(const std::string &path, Problems &problems) {
    namespace fs = std::filesystem;
    std::error_code error;
    if (!fs::is_directory(path, error)) return {path};
    std::vector<std::string> files, objects;
    fs::directory_iterator it(path, error), end;
    for (; !error && it != end; it.increment(error)) {
        const std::string name = it->path().filename().string();
        if (name.ends_with(".jsonl") || name.ends_with(".jsonl.zst")) files.push_back(it->path().string());
        if (name.ends_with(".trace")) objects.push_back(it->path().string());
    }
    if (files.empty()) files = std::move(objects);
    if (error) {
        problems.add(printable(path, 200) + ": " + error.message());
    } else if (files.empty()) {
        problems.add(printable(path, 200) +
                     ": no *.jsonl, *.jsonl.zst, *.trace or *.npy and no run-... in this folder, at least one expected");
    }
    std::sort(files.begin(), files.end());
    return files;
}

void sort_records(Trace &trace) {
    trace.sorted.reserve(trace.records.size());
    for (const Record &record : trace.records) trace.sorted.push_back(&record);
    auto before = [](const Record *a, const Record *b) { return a->key < b->key; };
    std::stable_sort(trace.sorted.begin(), trace.sorted.end(), before);
    auto same = [&](const Record *a, const Record *b) {
        if (a->key != b->key) return false;
        ++trace.n_duplicate;
        trace.problems.add(duplicate_text(trace, b->key, b->place(), a->place()));
        return true;
    };
    trace.sorted.erase(std::unique(trace.sorted.begin(), trace.sorted.end(), same), trace.sorted.end());
}

}  // namespace

std::string duplicate_text(const Trace &trace, Key key, Place second, Place first) {
    return format_text("%s:%u: duplicate of %s, first in line %u of %s", printable(trace.files[second.file], 200).c_str(),
                       second.line, record_name(key).c_str(), first.line,
                       printable(trace.files[first.file], 200).c_str());
}

void stream_trace(const std::string &path, Trace &trace, const TakeRecord &take) {
    trace.path = path;
    if (is_raw(path)) {
        stream_raw(path, trace, take);
        if (trace.n_records == 0 && trace.problems.empty())
            trace.problems.add(printable(path, 200) + ": no row of a stage");
        return;
    }
    RecordParser parser;
    for (const std::string &file : trace_files(path, trace.problems)) {
        FileReader reader(trace, file, parser, take);
        file.ends_with(".trace") ? reader.read_objects() : reader.read();
    }
    if (trace.n_records == 0 && trace.problems.empty()) {
        trace.problems.add(printable(path, 200) + ": no tensor record");
    }
}

Trace read_trace(const std::string &path) {
    Trace trace;
    stream_trace(path, trace, [&](const Record &record) { trace.records.push_back(record); });
    sort_records(trace);
    return trace;
}

}  // namespace bitnet::diff
