// What tracing costs: ways of tracing a context, and a sink that times the host's services.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "bitnet_c.h"

namespace bitnet {

enum class TraceWay { nothing, null_everything, jsonl_default, jsonl_everything };

// Attached as long as it lives; the jsonl plugin's file is made in the folder for temporary files and removed.
class AttachedTrace {
public:
    AttachedTrace(bitnet_ctx_t *ctx, TraceWay way);
    ~AttachedTrace();
    AttachedTrace(const AttachedTrace &) = delete;
    AttachedTrace &operator=(const AttachedTrace &) = delete;

    void finish();  // ends the run; throws when the sink failed

private:
    bitnet_ctx_t *ctx_;
    std::string path_;
};

constexpr int n_services = 4;
const char *service_name(int service);

// Asks the host for everything that it can say of each row that is traced by default.
class ServiceTimes {
public:
    explicit ServiceTimes(bitnet_ctx_t *ctx);  // attaches
    ~ServiceTimes();                           // detaches every sink
    ServiceTimes(const ServiceTimes &) = delete;
    ServiceTimes &operator=(const ServiceTimes &) = delete;

    double bytes_per_second(int service) const;

private:
    static bitnet_status_t open(void **state, const bitnet_trace_host_t *host, const char *config);
    static bitnet_status_t on_event(void *state, const bitnet_event_t *event);
    static const bitnet_trace_sink_t sink_;

    bitnet_ctx_t *ctx_;
    const bitnet_trace_host_t *host_ = nullptr;
    const bitnet_ext_hash_t *hash_ = nullptr;
    const bitnet_ext_stats_t *stats_ = nullptr;
    const bitnet_ext_sketch_t *sketch_ = nullptr;
    std::array<double, n_services> seconds_ = {};
    double n_bytes_ = 0;
};

}  // namespace bitnet
