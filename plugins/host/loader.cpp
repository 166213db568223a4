// From a plugin's name to an attached sink. Every step has its own message; what was loaded is never unloaded, because
// a plugin may have left threads or thread-local destructors behind.
#include <dlfcn.h>
#include <pthread.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "plugins/host/host.h"
#include "plugins/host/text.h"

namespace bitnet {

namespace {

constexpr size_t kPathBytes = 4096;  // PATH_MAX of Linux: longer ones cannot be opened

const char *environment(const char *name) {
    const char *value = secure_getenv(name);
    return value ? value : "";
}

// One loading step on stderr, if BITNET_TRACE_VERBOSE=1 asks for it: one write, so that threads do not mix.
__attribute__((format(printf, 1, 2))) void verbose(const char *format, ...) {
    if (strcmp(environment("BITNET_TRACE_VERBOSE"), "1") != 0) return;
    char line[kPathBytes + 256];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line - 1, format, args);
    va_end(args);
    if (n < 0) return;
    if (size_t(n) > sizeof line - 2) n = int(sizeof line - 2);
    keep_one_line(line);
    line[n++] = '\n';
    if (write(STDERR_FILENO, line, size_t(n)) < 0) return;  // nobody to tell
}

// "jsonl", "jsonl.so" and "libjsonl.so" -> "libjsonl.so". False when there is nothing to name or it is too long.
bool file_name(const char *name, char *out, size_t capacity) {
    size_t n = strlen(name);
    if (n > 3 && strcmp(name + n - 3, ".so") == 0) n -= 3;
    if (n > 3 && strncmp(name, "lib", 3) == 0) name += 3, n -= 3;
    const int wrote = snprintf(out, capacity, "lib%.*s.so", int(n), name);
    return n && wrote > 0 && size_t(wrote) < capacity;
}

struct Search {
    const char *file;
    char *found;  // kPathBytes

    bool try_folder(const char *folder, size_t n_bytes, const char *below) {
        if (!n_bytes) return false;
        const int n = snprintf(found, kPathBytes, "%.*s%s/%s", int(n_bytes), folder, below, file);
        if (n < 0 || size_t(n) >= kPathBytes) return false;
        const bool exists = access(found, F_OK) == 0;
        verbose("bitnet trace: '%s': %s", found, exists ? "found" : "no such file");
        return exists;
    }
};

// Fills `found` (kPathBytes).
bool resolve(const TraceHost *host, const char *name, char *found, char *error) {
    if (strchr(name, '/')) {
        if (strlen(name) < kPathBytes) {
            strcpy(found, name);
            return true;
        }
        set_text(error, TRACE_ERROR_BYTES, "plugin '%.60s...': path is longer than %zu bytes", name, kPathBytes - 1);
        return false;
    }
    char file[256];
    if (!file_name(name, file, sizeof file)) {
        set_text(error, TRACE_ERROR_BYTES,
                 "plugin '%.60s': not a name, expected such as 'jsonl', 'libjsonl.so' or a path", name);
        return false;
    }
    Search search{file, found};
    const char *list = environment("BITNET_PLUGIN_PATH");
    for (const char *folder = list; *folder;) {
        const char *end = strchrnul(folder, ':');
        if (search.try_folder(folder, size_t(end - folder), "")) return true;
        folder = *end ? end + 1 : end;
    }
    const char *library_dir = host->library_dir ? host->library_dir : "";
    if (search.try_folder(library_dir, strlen(library_dir), "/bitnet/plugins")) return true;
    set_text(error, TRACE_ERROR_BYTES, "plugin '%.60s': no %.80s in BITNET_PLUGIN_PATH '%.100s' nor in '%.100s%s'",
             name, file, list, library_dir, *library_dir ? "/bitnet/plugins" : "");
    return false;
}

// A constructor that crashed or threw left the system's loader locked by its thread: on every other thread dlopen would
// now wait for ever.
int loader_is_stuck = 0;
pthread_t stuck_thread;

bool loader_is_free() {
    return !__atomic_load_n(&loader_is_stuck, __ATOMIC_ACQUIRE) || pthread_equal(pthread_self(), stuck_thread);
}

void note_stuck_loader() {
    if (__atomic_load_n(&loader_is_stuck, __ATOMIC_ACQUIRE)) return;
    stuck_thread = pthread_self();
    __atomic_store_n(&loader_is_stuck, 1, __ATOMIC_RELEASE);
}

// The entry function of the library at `path`, or NULL with the reason.
bitnet_trace_plugin_fn find_entry(TraceHost *host, const char *label, const char *path, char *error) {
    if (!loader_is_free()) {
        set_text(
            error, TRACE_ERROR_BYTES,
            "%s: cannot be loaded: a plugin's constructors failed on another thread, which holds the system's loader",
            label);
        return nullptr;
    }
    void *library = nullptr;
    char crash[128] = "";
    const auto load = [&library, path] {
        library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        return BITNET_OK;
    };
    if (crash_guarded_call(host->guard, crash, sizeof crash, load) != BITNET_OK) {
        note_stuck_loader();
        set_text(error, TRACE_ERROR_BYTES, "%s: cannot be loaded: its constructors %s", label, crash);
        return nullptr;
    }
    if (!library) {
        const char *reason = dlerror();
        set_text(error, TRACE_ERROR_BYTES, "%s: cannot be loaded: %s", label, reason ? reason : "unknown reason");
        return nullptr;
    }
    verbose("bitnet trace: '%s': loaded", path);
    void *symbol = dlsym(library, BITNET_TRACE_PLUGIN_SYMBOL);
    if (!symbol) {
        set_text(error, TRACE_ERROR_BYTES, "%s: '%.200s' does not export %s", label, path, BITNET_TRACE_PLUGIN_SYMBOL);
        return nullptr;
    }
    return reinterpret_cast<bitnet_trace_plugin_fn>(symbol);
}

bitnet_status_t load(TraceHost *host, const char *name, const char *config, char *error) {
    char path[kPathBytes];
    verbose("bitnet trace: plugin '%s', config '%s'", name, config);
    if (!resolve(host, name, path, error)) return BITNET_E_PLUGIN;
    const char *slash = strrchr(name, '/');
    char label[sizeof(Sink::label)];
    set_text(label, sizeof label, "plugin '%.52s'", slash ? slash + 1 : name);
    const bitnet_trace_plugin_fn entry = find_entry(host, label, path, error);
    if (!entry) return BITNET_E_PLUGIN;
    Sink *sink = sink_create(host, label);
    if (!sink) {
        set_text(error, TRACE_ERROR_BYTES, "%s: out of memory", label);
        return BITNET_E_NOMEM;
    }
    const bitnet_trace_sink_t *table = nullptr;
    const auto enter = [&table, entry, sink] {
        table = entry(&sink->api);
        return BITNET_OK;
    };
    if (crash_guarded_call(host->guard, sink->last_text, sizeof sink->last_text, enter) != BITNET_OK) {
        set_text(error, TRACE_ERROR_BYTES, "%s: " BITNET_TRACE_PLUGIN_SYMBOL " %s", label, sink->last_text);
        free(sink);
        return BITNET_E_PLUGIN;
    }
    if (!table) {
        set_text(error, TRACE_ERROR_BYTES, "%s: declined%s%s", label, sink->last_text[0] ? ": " : " without a reason",
                 sink->last_text);
        free(sink);
        return BITNET_E_PLUGIN;
    }
    verbose("bitnet trace: %s: offers a sink of ABI %u.%u, %u bytes", label, unsigned(table->abi_version >> 16),
            unsigned(table->abi_version & 0xffff), unsigned(table->struct_size));
    const bitnet_status_t status = sink_adopt(sink, table, nullptr, config, true, error);
    if (status == BITNET_OK) verbose("bitnet trace: %s: attached", label);
    return status;
}

// One "name" or "name:config" of a list, cut out in place. Failures are counted and logged there.
bitnet_status_t load_entry(TraceHost *host, char *entry, char *error) {
    char *colon = strchr(entry, ':');
    if (colon) *colon = 0;
    return trace_host_load_plugin(host, entry, colon ? colon + 1 : "", error);
}

// The end of an entry: the first ';' that no '%' protects.
char *entry_end(char *p) {
    while (*p && *p != ';') p += p[0] == '%' && p[1] ? 2 : 1;
    return p;
}

// `strict`: the first failure ends it.
bitnet_status_t attach_list(TraceHost *host, const char *list, bool strict, char *error) {
    char *copy = strdup(list);
    if (!copy) {
        set_text(error, TRACE_ERROR_BYTES, "list of plugins: out of memory");
        record_failure(host, error);
        return BITNET_E_NOMEM;
    }
    bitnet_status_t status = BITNET_OK;
    for (char *entry = copy;;) {
        char *end = entry_end(entry);
        const bool last = !*end;
        *end = 0;
        if (*entry) {
            const bitnet_status_t loaded = load_entry(host, entry, error);
            if (status == BITNET_OK) status = loaded;
        }
        if (last || (strict && status != BITNET_OK)) break;
        entry = end + 1;
    }
    free(copy);
    return status;
}

}  // namespace

}  // namespace bitnet

using namespace bitnet;

bitnet_status_t trace_host_load_plugin(TraceHost *host, const char *path, const char *config, char *error) {
    char text[TRACE_ERROR_BYTES] = "";
    bitnet_status_t status = BITNET_E_BUSY;
    if (host->delivering || host->step_open) {
        set_text(text, sizeof text, "plugins cannot be attached during an evaluation");
    } else {
        status = load(host, path ? path : "", config ? config : "", text);
    }
    if (status == BITNET_OK) return status;
    verbose("bitnet trace: %s", text);
    record_failure(host, text);
    set_text(error, TRACE_ERROR_BYTES, "%s", text);
    return status;
}

int trace_host_environment_wants(void) { return *environment("BITNET_TRACE_PLUGIN") != 0; }

void trace_host_attach_environment(TraceHost *host) {
    char error[TRACE_ERROR_BYTES];
    const char *selection = environment("BITNET_TRACE_SELECT");
    if (*selection && trace_host_select(host, selection, error) != BITNET_OK) {
        char text[TRACE_ERROR_BYTES + 32];
        set_text(text, sizeof text, "BITNET_TRACE_SELECT: %s", error);
        verbose("bitnet trace: %s", text);
        record_failure(host, text);
        return;
    }
    attach_list(host, environment("BITNET_TRACE_PLUGIN"), false, error);
}

bitnet_status_t trace_host_attach_list(TraceHost *host, const char *list, char *error) {
    return attach_list(host, list ? list : "", true, error);
}
