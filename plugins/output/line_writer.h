// Lines go to a file by way of a bounded queue and a thread of its own, so that who evaluates does not wait for the
// disk. Nothing is dropped: when the queue is full, the evaluation waits.
#pragma once

#include "plugins/output/file.h"
#include "plugins/output/json_text.h"

namespace bitnet {

struct LineWriter;  // of one file; its functions are called by one thread at a time

// Opens the file and starts the thread; a path that ends in ".zst" is compressed, with that level. The writer takes the
// claimed file over, also when it fails: NULL, and `file->reason` says why.
LineWriter *writer_create(OutputFile *file, size_t queue_bytes, int level);

// Takes the whole lines out of `text`, waiting for room. `ends_step`: whatever happens to this process once they are
// written, they can be read. False when an earlier write failed: the lines are then gone.
bool writer_put(LineWriter *writer, JsonText *text, bool ends_step);
// Until all of it is in the file. False when a write failed.
bool writer_wait(LineWriter *writer);
// NULL, or why a write failed.
const char *writer_failure(const LineWriter *writer);
// Writes what is queued, ends the thread, closes the file. A forked child has no such thread:
// there it closes the file, no more.
void writer_destroy(LineWriter *writer);

}  // namespace bitnet
