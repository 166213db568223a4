#include "abi/cli/trace_output.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "abi/cli/session.h"
#include "abi/cli/terminal.h"

namespace bitnet {

std::string trace_path_in_environment_folder() {
    const std::string folder = environment("BITNET_TRACE_DIR");
    if (folder.empty()) return "";
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    if (error) {
        throw CommandError(
            text_of("BITNET_TRACE_DIR: cannot make the folder '%s': %s", folder.c_str(), error.message().c_str()));
    }
    const std::time_t now = std::time(nullptr);
    std::tm utc = {};
    gmtime_r(&now, &utc);
    char stamp[32];
    std::strftime(stamp, sizeof(stamp), "%Y%m%dT%H%M%SZ", &utc);
    return folder + text_of("/bitnet-%s-%d.jsonl", stamp, static_cast<int>(getpid()));
}

void attach_jsonl(bitnet_ctx_t *ctx, const std::string &path) {
    // In the plugin's configuration a comma separates and '%' begins an escape.
    std::string config = "path=";
    for (const char c : path) config += c == '%' || c == ',' ? std::string("%") + c : std::string(1, c);
    check(bitnet_trace_load_plugin(ctx, "jsonl", config.c_str()));
}

TraceFile::TraceFile(std::string path) : path_(std::move(path)), write_path_(path_) {
    struct stat found;
    const bool exists = stat(path_.c_str(), &found) == 0;
    if (exists && S_ISDIR(found.st_mode))
        throw CommandError(text_of("%s: is a directory, expected a file", path_.c_str()));
    if (exists && !S_ISREG(found.st_mode)) return;
    // The plugin compresses by the end of the name.
    const bool compressed = path_.size() > 4 && path_.compare(path_.size() - 4, 4, ".zst") == 0;
    write_path_ += text_of(".part-%d%s", static_cast<int>(getpid()), compressed ? ".jsonl.zst" : "");
    // The plugin opens its file with the first record: too late to learn that it cannot.
    const int fd = open(write_path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) throw CommandError(text_of("%s: cannot create: %s", path_.c_str(), std::strerror(errno)));
    close(fd);
}

TraceFile::~TraceFile() {
    if (!committed_ && write_path_ != path_) unlink(write_path_.c_str());
}

uint64_t TraceFile::commit() {
    committed_ = true;
    struct stat found;
    if (write_path_ != path_ && std::rename(write_path_.c_str(), path_.c_str()) != 0) {
        const int reason = errno;
        unlink(write_path_.c_str());
        throw CommandError(text_of("%s: cannot be put in place: %s", path_.c_str(), std::strerror(reason)));
    }
    return stat(path_.c_str(), &found) == 0 && S_ISREG(found.st_mode) ? static_cast<uint64_t>(found.st_size) : 0;
}

bitnet_trace_stats_t finish_trace(bitnet_ctx_t *ctx) {
    const bitnet_status_t ended = bitnet_trace_end_run(ctx);
    bitnet_trace_stats_t stats = {};
    stats.struct_size = sizeof(stats);
    check(bitnet_trace_get_stats(ctx, &stats));
    if (stats.n_failures > 0) {
        throw CommandError(text_of("trace: %llu of its plugins failed, the last one with: %s",
                                   static_cast<unsigned long long>(stats.n_failures), stats.last_failure));
    }
    check(ended);
    return stats;
}

}  // namespace bitnet
