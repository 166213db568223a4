// A folder of small files, each of which appears whole or not at all.
#pragma once

#include <cstddef>

#include "plugins/output/path.h"

namespace bitnet {

constexpr size_t kNameBytes = 256;  // of a file's name with its end: NAME_MAX of Linux is 255

struct OutputFolder {
    char path[kPathBytes] = "";      // absolute: the process may change its working directory
    int fd = -1;                     // once it is open
    char reason[kReasonBytes] = "";  // why the last call failed
};

// The path of a configuration, or the default one with that suffix; nothing is made yet. False with a reason.
bool folder_set(OutputFolder *folder, const char *pattern, size_t n_bytes);
bool folder_set_default(OutputFolder *folder, const char *suffix);
bool folder_set_plain(OutputFolder *folder, const char *path);  // a path without escapes
// Makes the folder, and those above it, where they are missing. False with a reason; true when it is open already.
bool folder_open(OutputFolder *folder);
// Makes and opens the first of "<parent>/<prefix>000000", "000001", ... that is not there. False with a reason.
bool folder_open_next(OutputFolder *folder, OutputFolder *parent, const char *prefix);
// A file of two parts, replacing one of that name. False with a reason; then there is no new file.
bool folder_write(OutputFolder *folder, const char *name, const void *head, size_t n_head, const void *body,
                  size_t n_body);
void folder_close(OutputFolder *folder);

// A file's name, put together. What does not fit makes it `too_long`.
struct FileName {
    char text[kNameBytes] = "";
    size_t n = 0;
    bool too_long = false;

    void put(const char *bytes, size_t n_bytes);
    void put(const char *bytes);
    void put_number(unsigned long long number, int n_digits);  // with zeros in front
    // Letters, digits, '_' and '.' as they are, any other byte as '%' and two hex digits.
    void put_escaped(const char *bytes);
};

}  // namespace bitnet
