#include "abi/boundary.h"

#include <cstdio>
#include <system_error>

namespace bitnet {

static_assert(BITNET_E_INVALID == int(Status::invalid) && BITNET_E_NOMEM == int(Status::nomem) &&
              BITNET_E_IO == int(Status::io) && BITNET_E_FORMAT == int(Status::format) &&
              BITNET_E_UNSUPPORTED == int(Status::unsupported) && BITNET_E_BUFFER == int(Status::buffer) &&
              BITNET_E_ISA == int(Status::isa) && BITNET_E_ABI == int(Status::abi) &&
              BITNET_E_PLUGIN == int(Status::plugin) && BITNET_E_BUSY == int(Status::busy) &&
              BITNET_E_OVERFLOW == int(Status::overflow) && BITNET_E_CANCELLED == int(Status::cancelled) &&
              BITNET_E_USER == int(Status::user) && BITNET_E_INTERNAL == int(Status::internal));

// Fixed and thread-local, so that running out of memory can be reported.
static thread_local char last_error[1024];

static std::atomic<bitnet_log_fn> log_function{nullptr};
static std::atomic<void *> log_user{nullptr};

static bitnet_status_t report(const char *function, Status status, const char *text) noexcept {
    std::snprintf(last_error, sizeof last_error, "%s: %s", function, text);
    for (char *c = last_error; *c; ++c)  // one line, whatever a path or a name holds
        if (static_cast<unsigned char>(*c) < 0x20 || *c == 0x7f) *c = '?';
    return bitnet_status_t(status);
}

bitnet_status_t status_of(const char *function, std::exception_ptr error) noexcept {
    try {
        std::rethrow_exception(error);
    } catch (const Error &e) {
        return report(function, e.status, e.what());
    } catch (const std::bad_alloc &) {
        return report(function, Status::nomem, "out of memory");
    } catch (const std::system_error &e) {
        return report(function, Status::nomem, e.what());  // a thread could not be started
    } catch (const std::exception &e) {
        return report(function, Status::internal, e.what());
    } catch (...) {
        return report(function, Status::internal, "unknown exception");
    }
}

void log_line(int32_t level, const char *text) noexcept {
    if (const bitnet_log_fn log = log_function.load(std::memory_order_acquire)) log(log_user.load(), level, text);
}

}  // namespace bitnet

extern "C" {

const char *bitnet_status_name(bitnet_status_t status) {
    switch (status) {
    case BITNET_OK: return "BITNET_OK";
    case BITNET_E_INVALID: return "BITNET_E_INVALID";
    case BITNET_E_NOMEM: return "BITNET_E_NOMEM";
    case BITNET_E_IO: return "BITNET_E_IO";
    case BITNET_E_FORMAT: return "BITNET_E_FORMAT";
    case BITNET_E_UNSUPPORTED: return "BITNET_E_UNSUPPORTED";
    case BITNET_E_BUFFER: return "BITNET_E_BUFFER";
    case BITNET_E_ISA: return "BITNET_E_ISA";
    case BITNET_E_ABI: return "BITNET_E_ABI";
    case BITNET_E_PLUGIN: return "BITNET_E_PLUGIN";
    case BITNET_E_BUSY: return "BITNET_E_BUSY";
    case BITNET_E_OVERFLOW: return "BITNET_E_OVERFLOW";
    case BITNET_E_CANCELLED: return "BITNET_E_CANCELLED";
    case BITNET_E_USER: return "BITNET_E_USER";
    case BITNET_E_INTERNAL: return "BITNET_E_INTERNAL";
    default: return "BITNET_E_UNKNOWN";
    }
}

const char *bitnet_last_error(void) { return bitnet::last_error; }

void bitnet_set_log(bitnet_log_fn fn, void *user) {
    bitnet::log_user.store(user);
    bitnet::log_function.store(fn, std::memory_order_release);
}

}  // extern "C"
