#include "abi/cli/trace_program.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "abi/cli/commands.h"
#include "abi/cli/program_status.h"
#include "abi/cli/temporary_folder.h"
#include "abi/cli/terminal.h"
#include "abi/cli/trace_output.h"
#include "bitnet_c.h"

namespace bitnet {

namespace {

std::string beside_library(const char *name) {
    Dl_info info;
    if (!dladdr(reinterpret_cast<const void *>(&bitnet_version), &info) || !info.dli_fname)
        throw CommandError("trace: this program's own library cannot be found");
    const std::filesystem::path library = std::filesystem::canonical(info.dli_fname);
    const std::filesystem::path path = library.parent_path() / "bitnet" / name;
    if (!std::filesystem::exists(path))
        throw CommandError(text_of("trace: no interposer: %s does not exist", path.c_str()));
    return path.string();
}

// In a plugin's configuration; %p stays what it is.
std::string protected_path(const std::string &path) {
    std::string text;
    for (const char c : path) text += c == ',' || c == ';' ? std::string("%") + c : std::string(1, c);
    return text;
}

std::string joined(const std::vector<std::string> &parts, const char *separator) {
    std::string text;
    for (const std::string &part : parts) text += (text.empty() ? "" : separator) + part;
    return text;
}

class Environment {
public:
    Environment() {
        for (char **entry = environ; *entry; entry++) entries_.emplace_back(*entry);
    }
    void set(const std::string &name, const std::string &value) {
        std::erase_if(entries_, [&](const std::string &entry) { return entry.starts_with(name + "="); });
        entries_.push_back(name + "=" + value);
    }
    // After what stands there: a sanitizer's runtime has to be the first.
    void append(const std::string &name, const std::string &value) {
        const char *before = std::getenv(name.c_str());
        set(name, before && *before ? std::string(before) + ":" + value : value);
    }
    std::vector<char *> pointers() {
        std::vector<char *> list;
        for (std::string &entry : entries_) list.push_back(entry.data());
        list.push_back(nullptr);
        return list;
    }

private:
    std::vector<std::string> entries_;
};

void preload(Environment &environment, const TraceProgramOptions &options) {
    if (options.deep) environment.append("LD_AUDIT", beside_library("libbitnet_audit.so"));
    if (options.patch_static) environment.set("BITNET_SHIM_PATCH_STATIC", "1");
    if (options.no_flash) environment.set("BITNET_SHIM_NO_FLASH", "1");
    environment.append("LD_PRELOAD", beside_library("libbitnet_shim.so"));
}

Environment traced_environment(const TraceProgramOptions &options, const std::string &output,
                               const std::string &status_folder) {
    Environment environment;
    std::vector<std::string> plugins = options.plugins;
    if (!output.empty()) plugins.insert(plugins.begin(), "jsonl:path=" + protected_path(output));
    if (!plugins.empty()) environment.set("BITNET_TRACE_PLUGIN", joined(plugins, ";"));
    if (options.select) environment.set("BITNET_TRACE_SELECT", *options.select);
    environment.set("BITNET_SHIM_STATUS", status_folder);
    preload(environment, options);
    return environment;
}

volatile pid_t running = 0;
void pass_on(int number) {
    if (running > 0) kill(running, number);
}

// A terminal's interrupt reaches the program too; what is sent to us alone is passed on. The program decides how it
// ends.
struct SignalsWhileWaiting {
    struct sigaction interrupt, terminate, hang_up;
    SignalsWhileWaiting() {
        struct sigaction ignore = {}, pass = {};
        ignore.sa_handler = SIG_IGN;
        pass.sa_handler = pass_on;
        sigaction(SIGINT, &ignore, &interrupt);
        sigaction(SIGTERM, &pass, &terminate);
        sigaction(SIGHUP, &pass, &hang_up);
    }
    ~SignalsWhileWaiting() {
        sigaction(SIGINT, &interrupt, nullptr);
        sigaction(SIGTERM, &terminate, nullptr);
        sigaction(SIGHUP, &hang_up, nullptr);
    }
};

// `out`: a file for its standard output, `in`: for its standard input; -1: ours.
int run(const std::vector<std::string> &command, Environment environment, int in, int out) {
    std::vector<char *> arguments;
    for (const std::string &argument : command) arguments.push_back(const_cast<char *>(argument.c_str()));
    arguments.push_back(nullptr);
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_init(&files);
    posix_spawnattr_init(&attributes);
    if (in >= 0) posix_spawn_file_actions_adddup2(&files, in, STDIN_FILENO);
    if (out >= 0) posix_spawn_file_actions_adddup2(&files, out, STDOUT_FILENO);
    sigset_t usual;
    sigemptyset(&usual);
    sigaddset(&usual, SIGINT);
    posix_spawnattr_setsigdefault(&attributes, &usual);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
    const SignalsWhileWaiting signals;
    pid_t child = 0;
    const int error =
        posix_spawnp(&child, arguments[0], &files, &attributes, arguments.data(), environment.pointers().data());
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attributes);
    if (error != 0) throw CommandError(text_of("trace: cannot run '%s': %s", arguments[0], std::strerror(error)));
    running = child;
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    running = 0;
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

uint64_t file_bytes(const std::string &path) {
    std::error_code error;
    const uintmax_t n = std::filesystem::file_size(path, error);
    return error ? 0 : n;
}

// Says what was traced, or why nothing was. True when something was.
bool report(const TraceProgramOptions &options, const std::string &output, const std::string &folder) {
    const std::vector<ProcessStatus> statuses = read_statuses(folder);
    const std::string select = options.select ? *options.select : "";
    const bool wants_softmax = select.empty() || select.find("softmax") != std::string::npos ||
                               select.find("scores") != std::string::npos || select.find('*') != std::string::npos;
    size_t n_traced = 0;
    for (const ProcessStatus &status : statuses) {
        if (status.number("events") == 0) continue;
        n_traced++;
        std::string line = summary_of(status);
        const uint64_t n_bytes = output.empty() ? 0 : file_bytes(output);
        if (n_bytes > 0) line += text_of(", %s (%s bytes)", output.c_str(), with_commas(n_bytes).c_str());
        std::fprintf(stderr, "%s\n", line.c_str());
        const std::string advice = advice_of(status, wants_softmax);
        if (!advice.empty()) std::fprintf(stderr, "trace: %s\n", advice.c_str());
    }
    if (n_traced == 0)
        std::fprintf(stderr, "trace: nothing was traced: %s\n",
                     why_nothing(statuses, options.command.front(), {options.deep, options.patch_static}).c_str());
    if (n_traced > 1 && !output.empty() && output.find("%p") == std::string::npos)
        std::fprintf(stderr,
                     "trace: %zu processes wrote to one file, the last one's is left: -o trace-%%p.jsonl keeps all\n",
                     n_traced);
    return n_traced > 0;
}

// An unnamed file that holds what a program wrote.
class Captured {
public:
    Captured() : file_(std::tmpfile()) {
        if (!file_) throw CommandError(text_of("no temporary file: %s", std::strerror(errno)));
    }
    ~Captured() { std::fclose(file_); }
    Captured(const Captured &) = delete;
    Captured &operator=(const Captured &) = delete;
    int descriptor() const { return fileno(file_); }
    std::string text() const {
        std::string bytes;
        char buffer[65536];
        std::rewind(file_);
        for (size_t n; (n = std::fread(buffer, 1, sizeof buffer, file_)) > 0;) bytes.append(buffer, n);
        return bytes;
    }

private:
    FILE *file_;
};

// Standard input for each of two runs: a file from where it stands; anything else cannot be read twice.
class Input {
public:
    Input() {
        struct stat found;
        const bool is_file = fstat(STDIN_FILENO, &found) == 0 && S_ISREG(found.st_mode);
        file_ = is_file ? dup(STDIN_FILENO) : open("/dev/null", O_RDONLY | O_CLOEXEC);
        from_ = is_file ? lseek(file_, 0, SEEK_CUR) : 0;
    }
    ~Input() { close(file_); }
    Input(const Input &) = delete;
    Input &operator=(const Input &) = delete;
    int again() const {
        lseek(file_, from_, SEEK_SET);
        return file_;
    }

private:
    int file_;
    off_t from_;
};

// Attention step by step rounds otherwise: what it is compared with has to do without flash attention as well.
Environment plain_environment(const TraceProgramOptions &options) {
    Environment environment;
    if (!options.no_flash) return environment;
    environment.set("BITNET_TRACE_PLUGIN", "");
    preload(environment, options);
    return environment;
}

// As little as shows logits: they alone are read, after the graph has run whole. They are its result, which nothing
// recycles, so that the program computes as without the interposer.
Environment least_environment(const TraceProgramOptions &options, const std::string &status_folder) {
    Environment environment;
    for (const auto &[name, value] : {std::pair("BITNET_TRACE_PLUGIN", "null"),
                                      {"BITNET_TRACE_SELECT", "logits"},
                                      {"BITNET_SHIM_INPUTS", "0"},
                                      {"BITNET_SHIM_MODE", "retain"}})
        environment.set(name, value);
    environment.set("BITNET_SHIM_STATUS", status_folder);
    environment.set("BITNET_SHIM_CHECK_LOGITS", "1");
    preload(environment, options);
    return environment;
}

struct Outcome {
    int status;
    std::string text;
};

Outcome run_captured(const TraceProgramOptions &options, const Input &input, Environment environment) {
    const Captured output;
    const int status = run(options.command, std::move(environment), input.again(), output.descriptor());
    return {status, output.text()};
}

// How two runs differ; "" when they do not.
std::string difference(const Outcome &expected, const Outcome &found) {
    if (expected.status != found.status)
        return text_of("exit status %d without and %d with", expected.status, found.status);
    const std::string &a = expected.text, &b = found.text;
    if (a == b) return "";
    const auto at = std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
    return text_of("output differs from byte %td on (%zu bytes without, %zu with)", at, a.size(), b.size());
}

int conclude(int code, const std::string &verdict) {
    std::fprintf(stderr, "trace: self-check %s\n", verdict.c_str());
    return code;
}

// Three runs: without the interposer; with it, reading logits alone; as asked. Output and exit status are those of all
// three; logits, which nobody sees without the interposer, those of the latter two.
int self_check(const TraceProgramOptions &options, const std::string &output) {
    const Input input;
    const TemporaryFolder least_folder("trace"), folder("trace");
    const Outcome plain = run_captured(options, input, plain_environment(options));
    const Outcome least = run_captured(options, input, least_environment(options, least_folder.path()));
    Environment environment = traced_environment(options, output, folder.path());
    environment.set("BITNET_SHIM_CHECK_LOGITS", "1");
    const Outcome traced = run_captured(options, input, std::move(environment));
    write_stdout(traced.text);
    flush_stdout();
    const bool something = report(options, output, folder.path());
    const std::string of_least = difference(plain, least), of_traced = difference(plain, traced);
    if (!of_least.empty() || !of_traced.empty()) {
        if (!difference(plain, run_captured(options, input, plain_environment(options))).empty())
            return conclude(exit_error,
                            "says nothing: the program does not repeat itself without the interposer either "
                            "(sampling needs a fixed seed, and output no times)");
        return conclude(exit_divergence,
                        "failed: " + (of_traced.empty() ? of_least + ", reading logits alone" : of_traced));
    }
    const std::vector<LogitsRow> expected = read_logits(least_folder.path()), found = read_logits(folder.path());
    if (const std::string text = difference(expected, found); !text.empty())
        return conclude(exit_divergence, "failed: " + text);
    const std::string same = text_of("the same %s bytes of output and exit status %d without and with the interposer",
                                     with_commas(plain.text.size()).c_str(), plain.status);
    if (!something) return conclude(exit_error, "says nothing: " + same + ", but nothing was traced");
    return conclude(exit_good, "passed: " + same +
                                   (expected.empty() ? "; no logits were seen"
                                                     : text_of("; the same bits in %s rows of logits, read "
                                                               "alone and with all that was traced",
                                                               with_commas(expected.size()).c_str())));
}

}  // namespace

int trace_program(const TraceProgramOptions &options) {
    std::string output = options.output;
    const char *plugins = std::getenv("BITNET_TRACE_PLUGIN");
    if (output.empty() && options.plugins.empty() && (!plugins || !*plugins)) output = default_trace_path;
    if (!output.empty()) output = std::filesystem::absolute(output).string();
    if (options.self_check) return self_check(options, output);
    const TemporaryFolder folder("trace");
    const int status = run(options.command, traced_environment(options, output, folder.path()), options.in, options.out);
    // A command that runs programs for its own ends wants to hear of failures only; what such a program's own library
    // wrote is none.
    const bool wrote = output.empty() || file_bytes(output) > 0;
    if (options.out < 0 || !wrote) report(options, output, folder.path());
    return status;
}

}  // namespace bitnet
