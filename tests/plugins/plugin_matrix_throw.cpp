// The C++ twin of plugin_matrix.c: a plugin that throws in the function that its compile definition names.
#include <bitnet_c.h>

#include <stdexcept>
#include <string>

namespace {

int n_events;

#ifdef CONSTRUCTOR_THROWS
[[maybe_unused]] const int constructed = (throw std::runtime_error("constructor went wrong"), 1);
#endif

bitnet_status_t open(void **, const bitnet_trace_host_t *, const char *) {
#ifdef OPEN_THROWS
    throw std::runtime_error("open went wrong");
#endif
    n_events = 0;
    return BITNET_OK;
}

bitnet_status_t event(void *, const bitnet_event_t *) {
    ++n_events;
#ifdef EVENT_THROWS
    if (n_events > 2) throw std::runtime_error("event went\nwrong");
#endif
#ifdef EVENT_THROWS_INT
    throw 42;
#endif
    return BITNET_OK;
}

bitnet_status_t flush(void *) {
#ifdef FLUSH_THROWS
    throw std::logic_error("flush went wrong");
#endif
    return BITNET_OK;
}

void close(void *) {
#ifdef CLOSE_THROWS
    throw std::bad_alloc();
#endif
}

const bitnet_trace_sink_t table = {sizeof table, BITNET_ABI_VERSION, "matrix", ~uint64_t(0), open, event, flush, close};

}  // namespace

extern "C" BITNET_API const bitnet_trace_sink_t *bitnet_trace_plugin_v1(const bitnet_trace_host_t *host);
extern "C" const bitnet_trace_sink_t *bitnet_trace_plugin_v1(const bitnet_trace_host_t *) {
#ifdef ENTRY_THROWS
    throw std::out_of_range("entry went wrong");
#endif
    return &table;
}
