#include "abi/cli/terminal.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <unistd.h>

namespace bitnet {

namespace {

constexpr double progress_delay_seconds = 0.5;
constexpr double progress_interval_seconds = 0.1;

[[noreturn]] void fail_stdout() { throw CommandError(text_of("stdout: cannot write: %s", std::strerror(errno))); }

bool colour_wanted() {
    const char *no_color = std::getenv("NO_COLOR");
    return isatty(STDOUT_FILENO) && (no_color == nullptr || *no_color == '\0');
}

std::string coloured(const char *code, const std::string &text) {
    return colour_wanted() ? std::string("\033[") + code + "m" + text + "\033[0m" : text;
}

// Length of the valid UTF-8 sequence at the front of `bytes`, 0 when there is none.
size_t sequence_length(std::string_view bytes) {
    const auto byte = [&](size_t i) { return static_cast<unsigned char>(bytes[i]); };
    const unsigned char lead = byte(0);
    if (lead < 0x80) return 1;
    const size_t length = lead >= 0xC2 && lead <= 0xDF   ? 2
                          : lead >= 0xE0 && lead <= 0xEF ? 3
                          : lead >= 0xF0 && lead <= 0xF4 ? 4
                                                         : 0;
    if (length == 0 || bytes.size() < length) return 0;
    for (size_t i = 1; i < length; i++) {
        if ((byte(i) & 0xC0) != 0x80) return 0;
    }
    const bool overlong = (lead == 0xE0 && byte(1) < 0xA0) || (lead == 0xF0 && byte(1) < 0x90);
    const bool surrogate = lead == 0xED && byte(1) > 0x9F;
    const bool too_large = lead == 0xF4 && byte(1) > 0x8F;
    return overlong || surrogate || too_large ? 0 : length;
}

}  // namespace

std::string text_of(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    va_list again;
    va_copy(again, arguments);
    const int length = std::vsnprintf(nullptr, 0, format, arguments);
    va_end(arguments);
    std::string text(static_cast<size_t>(std::max(length, 0)), '\0');
    std::vsnprintf(text.data(), text.size() + 1, format, again);
    va_end(again);
    return text;
}

void write_stdout(std::string_view bytes) {
    if (std::fwrite(bytes.data(), 1, bytes.size(), stdout) != bytes.size()) fail_stdout();
}

void flush_stdout() {
    if (std::fflush(stdout) != 0) fail_stdout();
}

void print_error(const std::string &text) {
    std::string line = "bitnet: ";
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        line += byte < 0x20 || byte == 0x7F ? text_of("\\x%02X", byte) : std::string(1, c);
    }
    line += '\n';
    std::fwrite(line.data(), 1, line.size(), stderr);  // when stderr fails there is nobody left to tell
}

bool stderr_is_terminal() { return isatty(STDERR_FILENO) != 0; }

std::string bold(const std::string &text) { return coloured("1", text); }

std::string yellow(const std::string &text) { return coloured("33", text); }

std::string printable(std::string_view bytes) {
    std::string out;
    while (!bytes.empty()) {
        const size_t length = sequence_length(bytes);
        const auto byte = static_cast<unsigned char>(bytes[0]);
        const bool c1_control = length == 2 && byte == 0xC2 && static_cast<unsigned char>(bytes[1]) < 0xA0;
        if (byte == '\n' || byte == '\t' || byte == '\r' || byte == '\\') {
            out += byte == '\n' ? "\\n" : byte == '\t' ? "\\t" : byte == '\r' ? "\\r" : "\\\\";
        } else if (length == 0 || byte < 0x20 || byte == 0x7F || c1_control) {
            out += text_of("\\x%02X", byte);
            bytes.remove_prefix(1);
            continue;
        } else {
            out += bytes.substr(0, length);
        }
        bytes.remove_prefix(length);
    }
    return out;
}

std::string with_commas(uint64_t number) {
    std::string digits = std::to_string(number);
    for (size_t i = digits.size(); i > 3; i -= 3) digits.insert(i - 3, 1, ',');
    return digits;
}

double seconds_now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Progress::Progress(std::string label)
    : label_(std::move(label)), enabled_(stderr_is_terminal()), started_(seconds_now()) {}

Progress::~Progress() {
    if (shown_) std::fputs("\r\033[K", stderr);
}

void Progress::update(uint64_t done, uint64_t total) {
    if (!enabled_ || total == 0) return;
    const double now = seconds_now();
    if (now - started_ < progress_delay_seconds || now - last_ < progress_interval_seconds) return;
    last_ = now;
    shown_ = true;
    const double percent = 100.0 * static_cast<double>(std::min(done, total)) / static_cast<double>(total);
    std::fprintf(stderr, "\r\033[K%s %3.0f %%", label_.c_str(), percent);
    std::fflush(stderr);
}

}  // namespace bitnet
