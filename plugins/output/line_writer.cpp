#include "plugins/output/line_writer.h"

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <new>
#include <pthread.h>
#include <unistd.h>
#include <zstd.h>

namespace bitnet {

namespace {

constexpr size_t kSpareBytes =
    4u << 20;  // of buffers kept for reuse: fresh pages cost more than what is written into them
// A thread that wakes costs as much CPU time as writing some ten kilobytes, and takes it from a core that evaluates:
// what comes within this time of the last writing, and is less than so many bytes, waits for more.
constexpr long kGatherNanoseconds = 50'000'000;
constexpr size_t kGatherBytes = 1 << 20;
// A step's lines go into the buffer of the step before, as long as copying them is cheaper than a buffer of their own.
constexpr size_t kAppendedBytesMax = 64 * 1024, kAppendedToBytesMax = 512 * 1024;
constexpr int kExitWaitSeconds = 5;  // how long a process that exits waits for its traces; a pipe may never be read

struct Chunk {
    Chunk *next;
    char *data;
    size_t n, capacity;
    bool ends_step;
};

}  // namespace

struct LineWriter {
    OutputFile file;
    ZSTD_CCtx *zstd;  // NULL: not compressed
    char *packed;     // its output
    size_t n_packed_max;
    size_t queue_bytes;

    pid_t pid;  // of the process that has the thread
    pthread_t thread;
    pthread_mutex_t mutex;  // guards what follows
    pthread_cond_t work;    // for the thread: there is something to do, or somebody waits for it
    pthread_cond_t done;    // for others: something was written, or failed
    Chunk *first, *last;    // not yet written
    Chunk *spare;
    size_t n_spare;   // bytes of them
    size_t n_queued;  // bytes of the buffers in the queue
    size_t n_text;    // bytes of the lines in it
    bool writing;     // the first one is under way
    bool idle;        // the thread waits for the first chunk
    bool hurry;       // somebody waits for the thread
    bool ending;
    bool failed;  // also read without the mutex; file.reason is constant from then on

    LineWriter *next;  // in `writers`
};

namespace {

// Who exits without closing its contexts still gets what it evaluated.
pthread_mutex_t writers_mutex = PTHREAD_MUTEX_INITIALIZER;
LineWriter *writers = nullptr;

void lock_writers() { pthread_mutex_lock(&writers_mutex); }
void unlock_writers() { pthread_mutex_unlock(&writers_mutex); }
__attribute__((constructor)) void guard_forks() { pthread_atfork(lock_writers, unlock_writers, unlock_writers); }

// With the mutex: what is queued is to be written now.
void hasten(LineWriter *writer) {
    if (!writer->first || writer->hurry) return;
    writer->hurry = true;
    pthread_cond_signal(&writer->work);
}

__attribute__((destructor)) void write_before_exit() {
    timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += kExitWaitSeconds;
    lock_writers();
    for (LineWriter *writer = writers; writer; writer = writer->next) {
        if (writer->pid != getpid()) continue;
        pthread_mutex_lock(&writer->mutex);
        hasten(writer);
        while (writer->first && pthread_cond_timedwait(&writer->done, &writer->mutex, &until) == 0) {
        }
        pthread_mutex_unlock(&writer->mutex);
    }
    unlock_writers();
}

void add_to_writers(LineWriter *writer) {
    lock_writers();
    writer->next = writers;
    writers = writer;
    unlock_writers();
}

void remove_from_writers(LineWriter *writer) {
    lock_writers();
    LineWriter **link = &writers;
    while (*link && *link != writer) link = &(*link)->next;
    if (*link) *link = writer->next;
    unlock_writers();
}

void free_chunks(Chunk *chunk) {
    while (chunk) {
        Chunk *next = chunk->next;
        free(chunk->data);
        free(chunk);
        chunk = next;
    }
}

bool is_zst(const char *path) {
    const size_t n = strlen(path);
    return n > 4 && strcmp(path + n - 4, ".zst") == 0;
}

// At a step's end the block is flushed: all up to here can be decompressed without what follows.
bool write_packed(LineWriter *writer, const Chunk *chunk, ZSTD_EndDirective directive) {
    ZSTD_inBuffer in = {chunk ? chunk->data : nullptr, chunk ? chunk->n : 0, 0};
    for (bool complete = false; !complete;) {
        ZSTD_outBuffer out = {writer->packed, writer->n_packed_max, 0};
        const size_t left = ZSTD_compressStream2(writer->zstd, &out, &in, directive);
        if (ZSTD_isError(left)) {
            snprintf(writer->file.reason, sizeof writer->file.reason, "cannot compress for '%.240s': %s",
                     writer->file.path, ZSTD_getErrorName(left));
            return false;
        }
        complete = directive == ZSTD_e_continue ? in.pos == in.size : left == 0;
        const bool ends_block = complete && directive != ZSTD_e_continue;
        if (!output_write_part(&writer->file, writer->packed, out.pos, ends_block)) return false;
    }
    return true;
}

bool write_chunk(LineWriter *writer, const Chunk *chunk) {
    const bool written = writer->zstd ? write_packed(writer, chunk, chunk->ends_step ? ZSTD_e_flush : ZSTD_e_continue)
                                      : output_write(&writer->file, chunk->data, chunk->n);
    return written && (!chunk->ends_step || output_exists(&writer->file));
}

// With the mutex, as what follows. Waits for lines that are worth writing; false when there will be none.
bool wait_for_lines(LineWriter *writer, const timespec &gathered) {
    int error = 0;
    while (!error && !writer->hurry && !writer->ending && writer->n_text < kGatherBytes)
        error = pthread_cond_timedwait(&writer->work, &writer->mutex, &gathered);
    writer->idle = true;
    while (!writer->first && !writer->ending) pthread_cond_wait(&writer->work, &writer->mutex);
    writer->idle = false;
    return writer->first;
}

void take_off(LineWriter *writer) {
    Chunk *chunk = writer->first;
    writer->first = chunk->next;
    if (!writer->first) {
        writer->last = nullptr;
        writer->hurry = false;
    }
    writer->n_queued -= chunk->capacity;
    writer->n_text -= chunk->n;
    chunk->next = nullptr;
    if (writer->n_spare < kSpareBytes) {
        chunk->next = writer->spare;
        writer->spare = chunk;
        writer->n_spare += chunk->capacity;
    } else {
        free_chunks(chunk);
    }
}

void write_first(LineWriter *writer) {
    bool ok = !writer->failed;
    if (ok) {
        writer->writing = true;
        pthread_mutex_unlock(&writer->mutex);
        ok = write_chunk(writer, writer->first);
        pthread_mutex_lock(&writer->mutex);
        writer->writing = false;
    }
    if (!ok) __atomic_store_n(&writer->failed, true, __ATOMIC_RELEASE);
    take_off(writer);
    pthread_cond_broadcast(&writer->done);
}

void *run(void *state) {
    LineWriter *writer = static_cast<LineWriter *>(state);
    pthread_mutex_lock(&writer->mutex);
    timespec gathered = {};  // until then it waits for more
    while (wait_for_lines(writer, gathered)) {
        while (writer->first) write_first(writer);
        clock_gettime(CLOCK_MONOTONIC, &gathered);
        gathered.tv_nsec += kGatherNanoseconds;
        if (gathered.tv_nsec >= 1'000'000'000) ++gathered.tv_sec, gathered.tv_nsec -= 1'000'000'000;
    }
    // The end of a compressed frame; nobody is left to tell that it failed, and the reader will.
    if (writer->zstd && !writer->failed) write_packed(writer, nullptr, ZSTD_e_end);
    pthread_mutex_unlock(&writer->mutex);
    return nullptr;
}

bool make_compressor(LineWriter *writer, int level) {
    writer->zstd = ZSTD_createCCtx();
    writer->n_packed_max = ZSTD_CStreamOutSize();
    writer->packed = static_cast<char *>(malloc(writer->n_packed_max));
    return writer->zstd && writer->packed &&
           !ZSTD_isError(ZSTD_CCtx_setParameter(writer->zstd, ZSTD_c_compressionLevel, level)) &&
           !ZSTD_isError(ZSTD_CCtx_setParameter(writer->zstd, ZSTD_c_checksumFlag, 1));
}

// Signals are for the host's threads.
int start_thread(LineWriter *writer) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int error = pthread_create(&writer->thread, nullptr, run, writer);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (!error) pthread_setname_np(writer->thread, "bitnet-trace");
    return error;
}

void free_writer(LineWriter *writer) {
    ZSTD_freeCCtx(writer->zstd);
    free(writer->packed);
    free_chunks(writer->first);
    free_chunks(writer->spare);
    free(writer);
}

}  // namespace

LineWriter *writer_create(OutputFile *file, size_t queue_bytes, int level) {
    void *memory = malloc(sizeof(LineWriter));
    LineWriter *writer = memory ? new (memory) LineWriter{} : nullptr;
    if (!writer) {
        output_close(file);
        snprintf(file->reason, sizeof file->reason, "out of memory");
        return nullptr;
    }
    writer->file = *file;
    *file = OutputFile{};
    writer->queue_bytes = queue_bytes;
    writer->pid = getpid();
    pthread_mutex_init(&writer->mutex, nullptr);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&writer->work, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_cond_init(&writer->done, nullptr);
    bool ok = output_open(&writer->file);
    if (ok && is_zst(writer->file.path) && !make_compressor(writer, level)) {
        ok = false;
        snprintf(writer->file.reason, sizeof writer->file.reason, "out of memory for zstd");
    }
    const int error = ok ? start_thread(writer) : 0;
    if (error) {
        snprintf(writer->file.reason, sizeof writer->file.reason, "cannot start the thread that writes '%.240s': %s",
                 writer->file.path, strerrordesc_np(error));
    }
    if (!ok || error) {
        memcpy(file->reason, writer->file.reason, sizeof file->reason);
        output_close(&writer->file);
        free_writer(writer);
        return nullptr;
    }
    add_to_writers(writer);
    return writer;
}

namespace {

// With the mutex. Copies the lines behind those that wait already, if that is cheap. False: nothing was done.
bool append(LineWriter *writer, JsonText *text) {
    Chunk *chunk = writer->last;
    if (!chunk || (writer->writing && chunk == writer->first) || text->n > kAppendedBytesMax) return false;
    const size_t n = chunk->n + text->n;
    if (n > kAppendedToBytesMax) return false;
    if (n > chunk->capacity) {
        size_t capacity = chunk->capacity;
        while (capacity < n) capacity *= 2;
        if (writer->n_queued - chunk->capacity + capacity > writer->queue_bytes) return false;
        char *larger = static_cast<char *>(realloc(chunk->data, capacity));
        if (!larger) return false;
        chunk->data = larger;
        writer->n_queued += capacity - chunk->capacity;
        chunk->capacity = capacity;
    }
    memcpy(chunk->data + chunk->n, text->data, text->n);
    chunk->n = n;
    writer->n_text += text->n;
    text->n = 0;
    return true;
}

// With the mutex. The lines get a place of their own in the queue: the buffers change places. False: out of memory.
bool enqueue(LineWriter *writer, JsonText *text, bool ends_step) {
    Chunk *chunk = writer->spare;
    if (chunk) {
        writer->spare = chunk->next;
        writer->n_spare -= chunk->capacity;
    } else {
        chunk = static_cast<Chunk *>(calloc(1, sizeof(Chunk)));
        if (!chunk) return false;
    }
    char *data = chunk->data;
    const size_t capacity = chunk->capacity;
    *chunk = {nullptr, text->data, text->n, text->capacity, ends_step};
    text->data = data, text->capacity = capacity, text->n = 0;
    (writer->last ? writer->last->next : writer->first) = chunk;
    writer->last = chunk;
    writer->n_queued += chunk->capacity;
    writer->n_text += chunk->n;
    return true;
}

}  // namespace

bool writer_put(LineWriter *writer, JsonText *text, bool ends_step) {
    pthread_mutex_lock(&writer->mutex);
    bool ok = !writer->failed;
    // Only behind whole steps, and only whole ones: otherwise a chunk that ends a step would cease to.
    if (!ok || !(ends_step && writer->last && writer->last->ends_step && append(writer, text))) {
        while (writer->first && writer->n_queued + text->capacity > writer->queue_bytes && !writer->failed) {
            hasten(writer);
            pthread_cond_wait(&writer->done, &writer->mutex);
        }
        ok = !writer->failed && enqueue(writer, text, ends_step);
    }
    if (!ok) text->n = 0;
    if (writer->idle || writer->n_text >= kGatherBytes) pthread_cond_signal(&writer->work);
    pthread_mutex_unlock(&writer->mutex);
    return ok;
}

bool writer_wait(LineWriter *writer) {
    pthread_mutex_lock(&writer->mutex);
    hasten(writer);
    while (writer->first) pthread_cond_wait(&writer->done, &writer->mutex);
    const bool failed = writer->failed;
    pthread_mutex_unlock(&writer->mutex);
    return !failed;
}

const char *writer_failure(const LineWriter *writer) {
    return __atomic_load_n(&writer->failed, __ATOMIC_ACQUIRE) ? writer->file.reason : nullptr;
}

void writer_destroy(LineWriter *writer) {
    if (!writer) return;
    remove_from_writers(writer);
    if (writer->pid != getpid()) {
        // What the thread was changing when the process forked is not known: its memory stays.
        output_close(&writer->file);
        return;
    }
    pthread_mutex_lock(&writer->mutex);
    writer->ending = true;
    pthread_cond_signal(&writer->work);
    pthread_mutex_unlock(&writer->mutex);
    pthread_join(writer->thread, nullptr);
    output_close(&writer->file);
    pthread_mutex_destroy(&writer->mutex);
    pthread_cond_destroy(&writer->work);
    pthread_cond_destroy(&writer->done);
    free_writer(writer);
}

}  // namespace bitnet
