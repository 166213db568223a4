#include "shim/logits_check.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "bitnet_c.h"
#include "plugins/host/services.h"
#include "shim/environment.h"
#include "shim/rows.h"

namespace bitnet::shim {

namespace {

constexpr size_t kLineBytesMax = 96;

// Beside the status file of this process, but only ever appended to.
int open_list() {
    const char *folder = secure_getenv("BITNET_SHIM_STATUS");
    char path[4096];
    if (!folder || !*folder) return -1;
    const int n = snprintf(path, sizeof path, "%s/%d.logits", folder, int(getpid()));
    if (n < 0 || size_t(n) >= sizeof path) return -1;
    return open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

size_t write_line(char *out, uint32_t run, int32_t position, const void *row, uint64_t n_values) {
    uint8_t hash[32];
    row_blake3({row, size_t(n_values), BITNET_DTYPE_F32}, hash);
    size_t n = size_t(snprintf(out, kLineBytesMax, "%u %d ", run, position));
    for (const uint8_t byte : hash) n += size_t(snprintf(out + n, kLineBytesMax - n, "%02x", byte));
    out[n++] = '\n';
    return n;
}

}  // namespace

void note_logits(Session *s) {
    const Tensor *logits = s->plan.logits;
    if (!settings().check_logits || !logits || s->engine->type(logits) != Type::f32) return;
    const StepRows &rows = s->rows;
    const int64_t *ne = s->engine->ne(logits);
    const size_t *nb = s->engine->nb(logits);
    if (rows.n_outputs < 1 || ne[1] != rows.n_outputs || ne[2] != 1 || nb[0] != sizeof(float)) return;
    const char *values = static_cast<const char *>(values_of(*s->engine, logits, &s->scratch[0]));
    char *lines = static_cast<char *>(malloc(size_t(rows.n_outputs) * kLineBytesMax));
    const int file = values && lines ? open_list() : -1;
    if (file >= 0) {
        size_t n = 0;
        for (int32_t r = 0; r < rows.n_outputs; ++r) {
            const int32_t position = rows.positions[rows.outputs ? rows.outputs[r] : r];
            n += write_line(lines + n, s->n_runs, position, values + size_t(r) * nb[1], uint64_t(ne[0]));
        }
        if (write(file, lines, n) < 0) n = 0;  // nobody to tell
        close(file);
    }
    free(lines);
}

}  // namespace bitnet::shim
