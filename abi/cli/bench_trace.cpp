#include "abi/cli/bench_trace.h"

#include <filesystem>
#include <system_error>

#include <unistd.h>

#include "abi/cli/session.h"
#include "abi/cli/terminal.h"
#include "abi/cli/trace_output.h"

namespace bitnet {

namespace {

constexpr const char *every_stage = "**,*.*";

bitnet_status_t ignore(void *, const bitnet_event_t *) { return BITNET_OK; }
const bitnet_trace_sink_t null_sink = {sizeof(bitnet_trace_sink_t),
                                       BITNET_ABI_VERSION,
                                       "bitnet-bench-null",
                                       ~uint64_t{0},
                                       nullptr,
                                       ignore,
                                       nullptr,
                                       nullptr};

size_t dtype_bytes(int32_t dtype) {
    switch (dtype) {
    case BITNET_DTYPE_F16:
    case BITNET_DTYPE_BF16: return 2;
    case BITNET_DTYPE_I8: return 1;
    default: return 4;
    }
}

}  // namespace

AttachedTrace::AttachedTrace(bitnet_ctx_t *ctx, TraceWay way) : ctx_(ctx) {
    const bool all = way == TraceWay::null_everything || way == TraceWay::jsonl_everything;
    check(bitnet_trace_select(ctx, all ? every_stage : nullptr));
    if (way == TraceWay::null_everything) check(bitnet_trace_set_sink(ctx, &null_sink, nullptr));
    if (way != TraceWay::jsonl_default && way != TraceWay::jsonl_everything) return;
    path_ = (std::filesystem::temp_directory_path() / text_of("bitnet-bench-%d.jsonl", static_cast<int>(getpid())))
                .string();
    attach_jsonl(ctx, path_);
}

AttachedTrace::~AttachedTrace() {
    bitnet_trace_set_sink(ctx_, nullptr, nullptr);
    bitnet_trace_select(ctx_, nullptr);
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove(path_, ignored);
}

void AttachedTrace::finish() { finish_trace(ctx_); }

// ---- services ---------------------------------------------------------------------------------------------------

const char *service_name(int service) {
    constexpr const char *names[n_services] = {"BLAKE3", "statistics", "sketch", "multiset"};
    return names[service];
}

const bitnet_trace_sink_t ServiceTimes::sink_ = {sizeof(bitnet_trace_sink_t),
                                                 BITNET_ABI_VERSION,
                                                 "bitnet-bench-services",
                                                 uint64_t{1} << BITNET_EVENT_TENSOR,
                                                 ServiceTimes::open,
                                                 ServiceTimes::on_event,
                                                 nullptr,
                                                 nullptr};

ServiceTimes::ServiceTimes(bitnet_ctx_t *ctx) : ctx_(ctx) { check(bitnet_trace_set_sink(ctx, &sink_, this)); }

ServiceTimes::~ServiceTimes() { bitnet_trace_set_sink(ctx_, nullptr, nullptr); }

double ServiceTimes::bytes_per_second(int service) const { return n_bytes_ / seconds_[static_cast<size_t>(service)]; }

bitnet_status_t ServiceTimes::open(void **state, const bitnet_trace_host_t *host, const char *) {
    auto *self = static_cast<ServiceTimes *>(*state);
    self->host_ = host;
    self->hash_ = static_cast<const bitnet_ext_hash_t *>(host->get_extension(host, BITNET_EXT_HASH));
    self->stats_ = static_cast<const bitnet_ext_stats_t *>(host->get_extension(host, BITNET_EXT_STATS));
    self->sketch_ = static_cast<const bitnet_ext_sketch_t *>(host->get_extension(host, BITNET_EXT_SKETCH));
    const bool found = self->hash_ != nullptr && self->stats_ != nullptr && self->sketch_ != nullptr;
    return found ? BITNET_OK : BITNET_E_UNSUPPORTED;
}

bitnet_status_t ServiceTimes::on_event(void *state, const bitnet_event_t *event) {
    auto *self = static_cast<ServiceTimes *>(state);
    const auto *tensor = reinterpret_cast<const bitnet_tensor_event_t *>(event);
    for (uint32_t row = 0; row < tensor->n_rows; row++) {
        const double times[n_services + 1] = {
            seconds_now(),
            (self->hash_->blake3(self->host_, tensor, row), seconds_now()),
            (self->stats_->stats(self->host_, tensor, row), seconds_now()),
            (self->sketch_->sketch(self->host_, tensor, row), seconds_now()),
            (self->hash_->multiset(self->host_, tensor, row), seconds_now()),
        };
        for (size_t i = 0; i < n_services; i++) self->seconds_[i] += times[i + 1] - times[i];
        self->n_bytes_ += static_cast<double>(tensor->row_elements * dtype_bytes(tensor->dtype));
    }
    return BITNET_OK;
}

}  // namespace bitnet
