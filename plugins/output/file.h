// A file of whole records: it ends in nothing else after a failure, whatever happened to the disk.
#pragma once

#include <cstddef>
#include <cstdint>
#include <sys/types.h>

#include "plugins/output/path.h"

namespace bitnet {

struct OutputFile {
    char *path = nullptr;            // owned; claimed in the process's table of paths
    int fd = -1;                     // opened by output_open(), or at the first write
    bool is_default = false;         // nobody named this path: once written it stays taken
    bool has_name = false;           // a regular file that somebody may remove while it is written
    uint64_t n_whole = 0;            // bytes of whole lines or blocks in the file
    uint64_t n_part = 0;             // bytes of a block behind them
    char reason[kReasonBytes] = "";  // why the last call failed
};

// Claims the path of a configuration, or the default one with that suffix. False with a reason.
bool output_claim(OutputFile *file, const char *pattern, size_t n_bytes);
bool output_claim_default(OutputFile *file, const char *suffix);
// Creates the file, replacing one that exists. False with a reason; true when it is open already.
bool output_open(OutputFile *file);
// Writes whole lines, creating the file at first. False with a reason; the file is cut back to whole lines.
bool output_write(OutputFile *file, const char *lines, size_t n_bytes);
// Writes a part of a block; the file is cut back to whole blocks when that fails. False with a reason.
bool output_write_part(OutputFile *file, const char *bytes, size_t n_bytes, bool ends_block);
// False with a reason when the file was removed: what is written then goes nowhere.
bool output_exists(OutputFile *file);
// Closes and gives the path up.
void output_close(OutputFile *file);

// All of it, whatever interrupts; returns how much was written before the error in errno. A closed pipe and a file size
// limit are errors, not signals that end somebody else's process.
size_t write_quietly(int fd, const char *bytes, size_t n_bytes);

}  // namespace bitnet
