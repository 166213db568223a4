// The file of the jsonl sink: holds whole lines at any time, whatever happens to disk or process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <locale.h>

namespace bitnet {

struct JsonlFile {
    char *path = nullptr;     // owned; claimed in the process's table of paths
    int fd = -1;              // opened at the first write
    bool is_default = false;  // nobody named this path
    bool is_pipe = false;
    uint64_t n_whole = 0;   // bytes of whole lines in the file
    char reason[384] = "";  // why the last call failed
};

// Expands %p, %% (and "%," "%;") in `pattern`, and claims the path, with "-1", "-2" before the extension if another
// context of this process holds it. False with a reason.
bool file_claim(JsonlFile *file, const char *pattern, size_t n_bytes, bool is_default);
// Writes `n_bytes` of whole lines, creating the file at first. False with a reason; the file is cut back to whole
// lines.
bool file_write(JsonlFile *file, const char *lines, size_t n_bytes, locale_t c_locale);
// Closes and gives the path up.
void file_close(JsonlFile *file);

}  // namespace bitnet
