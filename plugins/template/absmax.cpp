// absmax.cpp - a trace plugin in C++ that remembers where each stage was largest: the template for yours when C++ is
// what you write (../null.c is the one in C). Nothing but bitnet_c.h and the standard library.
//
//     c++ -std=c++17 -shared -fPIC -I<folder of bitnet_c.h> absmax.cpp -o libabsmax.so
//     BITNET_TRACE_PLUGIN=./libabsmax.so:stage=ffn_out bitnet trace -p "2+2="
#include <bitnet_c.h>

#include <map>
#include <memory>
#include <string>

namespace {

// One of these for each context that is traced.
class AbsMax {
public:
    AbsMax(const bitnet_trace_host_t *host, std::string stage) : host_(host), stage_(std::move(stage)) {
        // What the host computes once for all sinks. It may not have it: an older host, a foreign engine.
        stats_ = static_cast<const bitnet_ext_stats_t *>(host->get_extension(host, BITNET_EXT_STATS));
    }
    bool can_work() const { return stats_ != nullptr; }

    bitnet_status_t event(const bitnet_tensor_event_t &tensor) {
        if (!stage_.empty() && stage_ != tensor.stage_name) return BITNET_OK;
        Largest &largest = by_stage_[tensor.stage_name];  // the name dies with the event: the map keeps a copy
        for (uint32_t row = 0; row < tensor.n_rows; ++row) {
            const bitnet_stats_t *stats = stats_->stats(host_, &tensor, row);
            if (!stats) return BITNET_E_NOMEM;
            ++largest.n_rows;
            if (stats->absmax <= largest.value) continue;
            largest.value = stats->absmax;
            largest.layer = tensor.header.layer;
            largest.position = tensor.header.position + int32_t(row);
        }
        return BITNET_OK;
    }

    void report() const {
        for (const auto &[stage, largest] : by_stage_) {
            const std::string line = stage + ": " + std::to_string(largest.value) + " at position " +
                                     std::to_string(largest.position) + ", layer " + std::to_string(largest.layer) +
                                     ", of " + std::to_string(largest.n_rows) + " rows";
            host_->log(host_, BITNET_LOG_INFO, line.c_str());  // never print: the process is not yours
        }
    }

private:
    struct Largest {
        float value = -1;
        int32_t layer = 0, position = 0;
        uint64_t n_rows = 0;
    };
    const bitnet_trace_host_t *host_;  // valid until close() has returned
    const bitnet_ext_stats_t *stats_;
    std::string stage_;  // "": all
    std::map<std::string, Largest> by_stage_;
};

// The functions of the table are C: an exception must not leave them. This host would survive it and detach the plugin;
// one without a C++ runtime could not.
template <class Body> bitnet_status_t guarded(const Body &body) {
    try {
        return body();
    } catch (...) {
        return BITNET_E_NOMEM;
    }
}

// Called once for each attachment. Say why before you return a failure: the user gets that text.
bitnet_status_t absmax_open(void **state, const bitnet_trace_host_t *host, const char *config) {
    return guarded([&]() -> bitnet_status_t {
        const std::string text = config, key = "stage=";
        if (!text.empty() && text.compare(0, key.size(), key) != 0) {
            host->log(host, BITNET_LOG_ERROR, "unknown configuration, expected stage=NAME");
            return BITNET_E_INVALID;
        }
        auto made = std::make_unique<AbsMax>(host, text.empty() ? "" : text.substr(key.size()));
        if (!made->can_work()) {
            host->log(host, BITNET_LOG_ERROR, "this host lacks " BITNET_EXT_STATS);
            return BITNET_E_UNSUPPORTED;
        }
        *state = made.release();  // handed to every function below
        return BITNET_OK;
    });
}

// Called for each event whose bit is in `want`, on the thread that evaluates. Its pointers die when you return.
bitnet_status_t absmax_event(void *state, const bitnet_event_t *event) {
    if (event->type != BITNET_EVENT_TENSOR) return BITNET_OK;  // the type says which struct the header begins
    return guarded(
        [&] { return static_cast<AbsMax *>(state)->event(*reinterpret_cast<const bitnet_tensor_event_t *>(event)); });
}

// Called once for each successful open, also after a failed event.
void absmax_close(void *state) {
    const std::unique_ptr<AbsMax> self(static_cast<AbsMax *>(state));
    guarded([&] {
        self->report();
        return BITNET_OK;
    });
}

const bitnet_trace_sink_t absmax_sink = {
    sizeof(bitnet_trace_sink_t),  // struct_size and abi_version tell the host which header this was built with
    BITNET_ABI_VERSION,
    "absmax",
    1u << BITNET_EVENT_TENSOR,  // the events wanted: what nobody wants is not even computed
    absmax_open,
    absmax_event,
    nullptr,  // nothing to flush
    absmax_close,
};

}  // namespace

// The one exported symbol. Return nullptr, having logged why, to decline.
extern "C" BITNET_API const bitnet_trace_sink_t *bitnet_trace_plugin_v1(const bitnet_trace_host_t *) {
    return &absmax_sink;
}
