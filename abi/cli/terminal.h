// What the program writes: answers on stdout (checked, so that a full disk is an error), everything else on stderr.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace bitnet {

// A failure of a command: one line, without "bitnet: ". main() prints it and exits with 2.
class CommandError : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

// printf-style text for messages and tables.
std::string text_of(const char *format, ...) __attribute__((format(printf, 1, 2)));

void write_stdout(std::string_view bytes);  // throws CommandError when it cannot be written
void flush_stdout();                        // likewise
void print_error(const std::string &text);  // "bitnet: text" on stderr; control bytes become \xNN, so always one line

bool stderr_is_terminal();
// `text` in bold (or yellow) when stdout is a terminal and NO_COLOR is not set; else as it is.
std::string bold(const std::string &text);
std::string yellow(const std::string &text);

// Bytes fit for one line: valid printable UTF-8 as it is, \n \t \r \\ escaped, everything else as \xNN.
std::string printable(std::string_view bytes);
// "1,234,567"
std::string with_commas(uint64_t number);
double seconds_now();  // monotonic

// One line on a terminal's stderr, rewritten in place and erased at the end. Silent elsewhere, and in the first
// moments, so that short work shows nothing.
class Progress {
public:
    explicit Progress(std::string label);
    ~Progress();
    Progress(const Progress &) = delete;
    Progress &operator=(const Progress &) = delete;
    void update(uint64_t done, uint64_t total);

private:
    std::string label_;
    bool enabled_;
    bool shown_ = false;
    double started_;
    double last_ = 0;
};

}  // namespace bitnet
