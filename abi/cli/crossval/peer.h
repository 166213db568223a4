// An engine in another process, and the protocol spoken with it (CROSSVAL.md): one that crashes, prints or hangs is an
// error of the comparison, not its end.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "abi/cli/crossval/source.h"

namespace bitnet::crossval {

inline constexpr char protocol_name[] = "bitnet-logits";
inline constexpr int protocol_version = 1;

// A child process with a pipe to it and one from it.
class Process {
public:
    // Runs `body` in the child with its ends of the pipes; what it returns is the exit code.
    Process(std::string name, double timeout_seconds, const std::function<int(int in, int out)> &body);
    ~Process();  // closes the pipes; a child that does not end by itself is killed
    Process(const Process &) = delete;
    Process &operator=(const Process &) = delete;

    void send_line(const std::string &line);
    std::string read_line();
    void read_bytes(void *out, size_t n);
    // A failure of it in one line: how it ended, if it did.
    [[noreturn]] void fail(const std::string &what);

private:
    void fill();  // waits for bytes
    std::string name_;
    double timeout_seconds_;
    int pid_ = -1, to_ = -1, from_ = -1;
    std::vector<char> buffer_;
    size_t begin_ = 0, end_ = 0;
};

// What a child answers from: an engine that was opened with dlopen. Functions throw CommandError.
class Engine {
public:
    virtual ~Engine() = default;
    virtual std::string name() const = 0;
    virtual Ids tokenize(const std::string &text, const TokenizeFlags &flags) = 0;
    // Rows of logits of all tokens on a fresh context, in order, to `sink`; `begin(n_rows, n_vocab)` comes first.
    virtual void eval(const Ids &tokens, const std::function<void(size_t, size_t)> &begin,
                      const std::function<void(const float *)> &sink) = 0;
};

// The server's side: answers requests until the input ends. Returns the exit code.
int serve(int in, int out, const std::function<std::unique_ptr<Engine>()> &make_engine);

// The client's side. `body`: as of Process.
std::unique_ptr<Source> make_peer(const SourceOptions &options, const std::string &name,
                                  const std::function<int(int in, int out)> &body);

// Path of the other side's model: the one given, else a copy of the demo model that goes with the process.
std::string model_file(const SourceOptions &options);

}  // namespace bitnet::crossval
