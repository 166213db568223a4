/* A plugin with the one fault that its compile definition names. */
#include <bitnet_c.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* As a wrong pointer would: volatile, so that the compiler has to; without the check by which UBSan would end the
 * process. */
#if defined(OPEN_SEGFAULTS) || defined(ENTRY_SEGFAULTS) || defined(CONSTRUCTOR_SEGFAULTS)
__attribute__((no_sanitize("undefined"))) static void crash(void) {
    static int *volatile nowhere;
    *nowhere = 1;
}
#endif

#ifdef CONSTRUCTOR_SEGFAULTS
__attribute__((constructor)) static void matrix_constructor(void) { crash(); }
#endif

#ifndef NO_SYMBOL

struct state {
    const bitnet_trace_host_t *host;
    int n_events;
    int fail_at;
};

static bitnet_status_t matrix_open(void **state, const bitnet_trace_host_t *host, const char *config) {
    struct state *made;
#ifdef OPEN_FAILS
    host->log(host, BITNET_LOG_ERROR, "no such disk\nsecond line");
    return BITNET_E_IO;
#endif
#ifdef OPEN_FAILS_SILENTLY
    return BITNET_E_IO;
#endif
#ifdef OPEN_SEGFAULTS
    crash();
#endif
#ifdef OPEN_ABORTS
    abort();
#endif
#ifdef OPEN_DIVIDES
    raise(SIGFPE);
#endif
#ifdef OPEN_GARBAGE
    return (bitnet_status_t)0x80000000;
#endif
    made = calloc(1, sizeof *made);
    if (!made) return BITNET_E_NOMEM;
    made->host = host;
    made->fail_at = strncmp(config, "at=", 3) == 0 ? atoi(config + 3) : 2;
    *state = made;
    return BITNET_OK;
}

static bitnet_status_t matrix_event(void *state, const bitnet_event_t *event) {
    struct state *self = state;
    (void)event;
    if (!self) return BITNET_OK;
    ++self->n_events;
#ifdef EVENT_FAILS
    self->host->log(self->host, BITNET_LOG_INFO, "going to fail");
    if (self->n_events > self->fail_at) {
        self->host->log(self->host, BITNET_LOG_ERROR, "disk on fire");
        return BITNET_E_IO;
    }
#endif
#ifdef EVENT_FAILS_SILENTLY
    return 7;
#endif
#ifdef EVENT_GARBAGE
    return (bitnet_status_t)0x7fffffff;
#endif
#ifdef SLOW
    if (event->type == BITNET_EVENT_TENSOR) nanosleep(&(struct timespec){0, 100000}, NULL);
#endif
    return BITNET_OK;
}

static bitnet_status_t matrix_flush(void *state) {
#ifdef FLUSH_GARBAGE
    (void)state;
    return 12345;
#elif defined(FLUSH_FAILS)
    struct state *self = state;
    self->host->log(self->host, BITNET_LOG_ERROR, "cannot flush");
    return BITNET_E_IO;
#else
    (void)state;
    return BITNET_OK;
#endif
}

static void matrix_close(void *state) {
    struct state *self = state;
    self->host->log(self->host, BITNET_LOG_INFO, "closed");
    free(self);
}

/* What a later header might add at the end. */
struct newer_sink {
    bitnet_trace_sink_t sink;
    void *(*added)(void);
};

static struct newer_sink table = {{
                                      sizeof(bitnet_trace_sink_t),
                                      BITNET_ABI_VERSION,
                                      "matrix",
                                      ~(uint64_t)0,
                                      matrix_open,
                                      matrix_event,
                                      matrix_flush,
                                      matrix_close,
                                  },
                                  0};

BITNET_API const bitnet_trace_sink_t *bitnet_trace_plugin_v1(const bitnet_trace_host_t *host);
const bitnet_trace_sink_t *bitnet_trace_plugin_v1(const bitnet_trace_host_t *host) {
    (void)host;
#ifdef ENTRY_SEGFAULTS
    crash();
#endif
#ifdef ENTRY_ABORTS
    abort();
#endif
#ifdef ENTRY_TRAPS
    __builtin_trap();
#endif
#ifdef DECLINES
    host->log(host, BITNET_LOG_INFO, "not on a Tuesday");
    return NULL;
#endif
#ifdef DECLINES_SILENTLY
    return NULL;
#endif
#ifdef WRONG_MAJOR
    table.sink.abi_version = (uint32_t)(BITNET_ABI_MAJOR + 1) << 16;
#endif
#if defined(NEWER_MINOR) || defined(NEWER_FIELDS)
    table.sink.abi_version = BITNET_ABI_VERSION + 1;
    table.sink.struct_size = sizeof table;
#endif
#ifdef NEWER_FIELDS
    table.added = (void *(*)(void))(uintptr_t)1;
#endif
#ifdef SHORT_STRUCT
    table.sink.struct_size = 24;
#endif
#ifdef HUGE_STRUCT
    table.sink.struct_size = 0x7fffffff;
#endif
#ifdef NO_EVENT
    table.sink.event = NULL;
#endif
#ifdef NO_OPTIONAL
    table.sink.open = NULL;
    table.sink.flush = NULL;
    table.sink.close = NULL;
    table.sink.name = NULL;
#endif
    return &table.sink;
}

#endif /* NO_SYMBOL */
