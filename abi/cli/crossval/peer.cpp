// The protocol of CROSSVAL.md, both of its sides.
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include <unistd.h>

#include "abi/cli/crossval/peer.h"
#include "abi/cli/demo_model.h"
#include "abi/cli/session.h"
#include "abi/cli/terminal.h"

namespace bitnet::crossval {

namespace {

constexpr char base64_digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

std::string base64(const std::string &bytes) {
    std::string out;
    for (size_t i = 0; i < bytes.size(); i += 3) {
        uint32_t group = 0;
        for (size_t j = 0; j < 3; j++) group = group << 8 | (i + j < bytes.size() ? uint8_t(bytes[i + j]) : 0u);
        for (size_t j = 0; j < 4; j++) out += i + j > bytes.size() ? '=' : base64_digits[group >> (18 - 6 * j) & 63];
    }
    return out;
}

std::string from_base64(const std::string &digits) {
    std::string out;
    uint32_t bits = 0;
    int n_bits = 0;
    for (const char c : digits) {
        if (c == '=') break;
        const char *at = std::strchr(base64_digits, c);
        if (at == nullptr || c == '\0') throw CommandError("the text is no base64");
        bits = bits << 6 | uint32_t(at - base64_digits);
        n_bits += 6;
        if (n_bits < 8) continue;
        n_bits -= 8;
        out += char(bits >> n_bits & 0xFF);
    }
    return out;
}

std::vector<std::string> words_of(const std::string &line) {
    std::vector<std::string> words;
    for (size_t at = line.find_first_not_of(' '); at != std::string::npos;) {
        const size_t end = std::min(line.find(' ', at), line.size());
        words.push_back(line.substr(at, end - at));
        at = line.find_first_not_of(' ', end);
    }
    return words;
}

bool parse_number(const std::string &word, int64_t &out) {
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), out);
    return error == std::errc() && end == word.data() + word.size();
}

Ids parse_ids(const std::vector<std::string> &words) {
    Ids ids;
    for (size_t i = 1; i < words.size(); i++) {
        int64_t id = 0;
        if (!parse_number(words[i], id) || id < 0 || id > INT32_MAX)
            throw CommandError(text_of("found '%.40s', expected a token id", printable(words[i]).c_str()));
        ids.push_back(int32_t(id));
    }
    return ids;
}

// --- client ---------------------------------------------------------------------------------------------------------

class Peer : public Source {
public:
    Peer(const SourceOptions &options, std::string name, const std::function<int(int, int)> &body)
        : name_(std::move(name)), process_(name_, options.timeout_seconds, body) {}

    std::string name() const override { return name_ + (engine_.empty() ? "" : " (" + engine_ + ")"); }

    void open(const bitnet_model_t *model) override {
        n_vocab_ = size_t(model_info(model).n_vocab);
        const std::string line = process_.read_line();
        const std::vector<std::string> words = words_of(line);
        int64_t version = 0;
        if (!words.empty() && words[0] == "error") process_.fail(line.substr(std::min<size_t>(6, line.size())));
        if (words.size() < 2 || words[0] != protocol_name || !parse_number(words[1], version))
            process_.fail(text_of("begins with '%.80s', expected '%s %d'", printable(line).c_str(), protocol_name,
                                  protocol_version));
        if (version != protocol_version)
            process_.fail(text_of("speaks version %lld of the protocol, expected %d", static_cast<long long>(version),
                                  protocol_version));
        for (size_t i = 2; i < words.size(); i++) engine_ += (i > 2 ? " " : "") + printable(words[i]);
    }

    std::optional<Ids> tokens(size_t, const PromptItem &item, const TokenizeFlags &flags) override {
        if (!item.text) return std::nullopt;
        process_.send_line(text_of("tokenize %d %d ", flags.add_bos, flags.parse_special) + base64(*item.text));
        const std::vector<std::string> words = answer();
        if (words[0] == "unsupported") return std::nullopt;
        if (words[0] != "ids") unexpected(words, "ids");
        try {
            return parse_ids(words);
        } catch (const CommandError &error) {
            process_.fail(error.what());
        }
    }

    Offered begin(size_t, const Ids &tokens) override {
        skip_rest();
        process_.send_line("eval " + join_ids(tokens, " "));
        n_tokens_ = tokens.size();
        waiting_ = true;
        Offered offered;
        for (size_t i = 0; i < tokens.size(); i++) offered.positions.push_back(int(i));
        return offered;
    }

    const float *compare(int position, const float *ours, const bitnet_logits_limits_t &limits,
                         bitnet_logits_row_t &row) override {
        if (waiting_) read_shape();
        while (next_ <= size_t(position)) next_row();
        compare_values(ours, row_.data(), n_vocab_, limits, row);
        return row_.data();
    }

private:
    // Words of its next line; "error" ends it all.
    std::vector<std::string> answer() {
        const std::string line = process_.read_line();
        std::vector<std::string> words = words_of(line);
        if (words.empty()) process_.fail("answers with an empty line");
        if (words[0] == "error") throw CommandError(name_ + ": " + line.substr(std::min<size_t>(6, line.size())));
        return words;
    }
    [[noreturn]] void unexpected(const std::vector<std::string> &words, const char *expected) {
        process_.fail(text_of("answers '%.40s', expected '%s'", printable(words[0]).c_str(), expected));
    }
    void read_shape() {
        waiting_ = false;
        next_ = n_rows_ = 0;
        const std::vector<std::string> words = answer();
        if (words[0] != "logits") unexpected(words, "logits");
        int64_t n_rows = 0, n_columns = 0;
        if (words.size() != 3 || !parse_number(words[1], n_rows) || !parse_number(words[2], n_columns))
            process_.fail("answers 'logits' without two numbers");
        if (n_rows != int64_t(n_tokens_) || n_columns != int64_t(n_vocab_))
            process_.fail(text_of("has logits of %lld x %lld, expected %zu x %zu (tokens x vocabulary)",
                                  static_cast<long long>(n_rows), static_cast<long long>(n_columns), n_tokens_,
                                  n_vocab_));
        n_rows_ = size_t(n_rows);
        row_.resize(n_vocab_);
    }
    void next_row() {
        process_.read_bytes(row_.data(), row_.size() * sizeof(float));
        next_++;
    }
    // Rows that nobody asked for stand before the next answer.
    void skip_rest() {
        if (waiting_) read_shape();
        while (next_ < n_rows_) next_row();
    }

    std::string name_, engine_;
    Process process_;
    size_t n_vocab_ = 0, n_tokens_ = 0, n_rows_ = 0, next_ = 0;
    bool waiting_ = false;
    std::vector<float> row_;
};

// An engine's text must not end its line.
std::string one_line(std::string text) {
    std::replace(text.begin(), text.end(), '\n', ' ');
    return text;
}

// --- server ---------------------------------------------------------------------------------------------------------

class Server {
public:
    Server(int in, int out) : in_(fdopen(in, "rb")), out_(fdopen(out, "wb")) {}

    int run(const std::function<std::unique_ptr<Engine>()> &make_engine) {
        try {
            engine_ = make_engine();
        } catch (const CommandError &error) {
            say("error " + one_line(error.what()));
            return 2;
        }
        say(text_of("%s %d ", protocol_name, protocol_version) + engine_->name());
        char *line = nullptr;
        size_t capacity = 0;
        for (ssize_t n; (n = getline(&line, &capacity, in_)) > 0;) {
            try {
                answer(words_of(std::string(line, size_t(n) - (line[n - 1] == '\n' ? 1 : 0))));
            } catch (const CommandError &error) {
                // In the middle of rows no line can be told from values.
                if (begun_) return 2;
                say("error " + one_line(error.what()));
            }
        }
        std::free(line);
        return 0;
    }

private:
    void answer(const std::vector<std::string> &words) {
        if (words.size() >= 3 && words[0] == "tokenize") {
            const std::string text = words.size() > 3 ? from_base64(words[3]) : "";
            say("ids " + join_ids(engine_->tokenize(text, {words[1] == "1", words[2] == "1"}), " "));
        } else if (words.size() >= 2 && words[0] == "eval") {
            size_t row_bytes = 0;
            begun_ = false;
            engine_->eval(
                parse_ids(words),
                [&](size_t n_rows, size_t n_vocab) {
                    begun_ = true;
                    row_bytes = n_vocab * sizeof(float);
                    say(text_of("logits %zu %zu", n_rows, n_vocab));
                },
                [&](const float *row) { std::fwrite(row, 1, row_bytes, out_); });
            begun_ = false;
            std::fflush(out_);
        } else {
            throw CommandError("no request: expected eval or tokenize");
        }
    }
    void say(const std::string &line) {
        std::fprintf(out_, "%s\n", line.c_str());
        std::fflush(out_);
    }

    FILE *in_, *out_;
    bool begun_ = false;
    std::unique_ptr<Engine> engine_;
};

}  // namespace

int serve(int in, int out, const std::function<std::unique_ptr<Engine>()> &make_engine) {
    return Server(in, out).run(make_engine);
}

std::unique_ptr<Source> make_peer(const SourceOptions &options, const std::string &name,
                                  const std::function<int(int in, int out)> &body) {
    return std::make_unique<Peer>(options, name, body);
}

std::string model_file(const SourceOptions &options) {
    if (!options.model_path.empty()) return options.model_path;
    // A file without a name lives as long as somebody has it open; children inherit it.
    FILE *file = std::tmpfile();
    if (file == nullptr || std::fwrite(demo_model_data(), 1, demo_model_size(), file) != demo_model_size() ||
        std::fflush(file) != 0)
        throw CommandError("the demo model cannot be written to a temporary file for the other side");
    return text_of("/proc/self/fd/%d", fileno(file));
}

std::unique_ptr<Source> start_command(const SourceOptions &options, const std::string &command) {
    const std::string model = model_file(options);
    return make_peer(options, "cmd:" + command, [&](int in, int out) -> int {
        dup2(in, STDIN_FILENO);
        dup2(out, STDOUT_FILENO);
        setenv("BITNET_CROSSVAL_MODEL", model.c_str(), 1);
        setenv("BITNET_CROSSVAL_THREADS", std::to_string(options.n_threads).c_str(), 1);
        execl("/bin/sh", "sh", "-c", command.c_str(), static_cast<char *>(nullptr));
        return 127;
    });
}

}  // namespace bitnet::crossval
