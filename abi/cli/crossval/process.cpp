// Processes and pipes.
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include <fcntl.h>
#include <sys/poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "abi/cli/crossval/peer.h"
#include "abi/cli/terminal.h"

namespace bitnet::crossval {

namespace {

constexpr double grace_seconds = 2;  // for a child to end once its input has

// pipe2 with O_CLOEXEC, so that no other child holds an end open.
void make_pipe(int (&ends)[2]) {
    if (pipe2(ends, O_CLOEXEC) != 0) throw CommandError(text_of("cannot make a pipe: %s", std::strerror(errno)));
}

[[noreturn]] void run_child(const std::function<int(int in, int out)> &body, int in, int out) {
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    std::signal(SIGPIPE, SIG_DFL);
    dup2(STDERR_FILENO, STDOUT_FILENO);  // what an engine prints must not get between the answers or into a report
    int code = 2;
    try {
        code = body(in, out);
    } catch (const std::exception &error) {
        print_error(error.what());
    }
    _exit(code);
}

std::string ending(int status) {
    if (WIFEXITED(status)) return text_of("ended with exit code %d", WEXITSTATUS(status));
    return text_of("was ended by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
}

}  // namespace

Process::Process(std::string name, double timeout_seconds, const std::function<int(int, int)> &body)
    : name_(std::move(name)), timeout_seconds_(timeout_seconds), buffer_(size_t(1) << 18) {
    int requests[2], answers[2];
    make_pipe(requests);
    make_pipe(answers);
    std::signal(SIGPIPE, SIG_IGN);  // a child that is gone is an error to report
    pid_ = fork();
    if (pid_ < 0) throw CommandError(text_of("%s: cannot start: %s", name_.c_str(), std::strerror(errno)));
    if (pid_ == 0) {
        close(requests[1]);
        close(answers[0]);
        run_child(body, requests[0], answers[1]);
    }
    setpgid(pid_, pid_);
    close(requests[0]);
    close(answers[1]);
    to_ = requests[1];
    from_ = answers[0];
}

Process::~Process() {
    if (to_ >= 0) close(to_);
    if (from_ >= 0) close(from_);
    if (pid_ < 0) return;
    const double begin = seconds_now();
    int status = 0;
    while (waitpid(pid_, &status, WNOHANG) == 0) {
        if (seconds_now() - begin > grace_seconds) {
            kill(-pid_, SIGKILL);
            waitpid(pid_, &status, 0);
            return;
        }
        usleep(1000);
    }
    kill(-pid_, SIGKILL);  // what it left behind
}

void Process::fail(const std::string &what) {
    std::string how;
    if (pid_ >= 0) {
        // A closed pipe comes a moment before the end.
        for (int i = 0; i < 200; i++) {
            int status = 0;
            if (waitpid(pid_, &status, WNOHANG) == pid_) {
                kill(-pid_, SIGKILL);
                pid_ = -1;
                how = ": it " + ending(status);
                break;
            }
            usleep(1000);
        }
    }
    throw CommandError(name_ + ": " + what + how);
}

void Process::send_line(const std::string &line) {
    const std::string bytes = line + "\n";
    for (size_t at = 0; at < bytes.size();) {
        const ssize_t n = write(to_, bytes.data() + at, bytes.size() - at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) fail("does not take requests");
        at += size_t(n);
    }
}

void Process::fill() {
    pollfd waiting = {from_, POLLIN, 0};
    const double until = seconds_now() + timeout_seconds_;
    for (;;) {
        const double left = until - seconds_now();
        const int n = left > 0 ? poll(&waiting, 1, int(std::min(left, 1e6) * 1000) + 1) : 0;
        if (n < 0 && errno == EINTR) continue;
        if (n > 0) break;
        kill(-pid_, SIGKILL);
        fail(text_of("no answer within %g s (--timeout)", timeout_seconds_));
    }
    if (begin_ == end_) begin_ = end_ = 0;
    const ssize_t n = read(from_, buffer_.data() + end_, buffer_.size() - end_);
    if (n < 0 && errno == EINTR) return;
    if (n <= 0) fail("its answer ends in the middle");
    end_ += size_t(n);
}

std::string Process::read_line() {
    std::string line;
    for (;;) {
        if (begin_ == end_) fill();
        const char *from = buffer_.data() + begin_;
        const auto *newline = static_cast<const char *>(std::memchr(from, '\n', end_ - begin_));
        const size_t n = newline ? size_t(newline - from) : end_ - begin_;
        line.append(from, n);
        begin_ += n + (newline ? 1 : 0);
        if (newline) return line;
        if (line.size() > buffer_.size()) fail("its line has no end");
    }
}

void Process::read_bytes(void *out, size_t n) {
    for (auto *to = static_cast<char *>(out); n > 0;) {
        if (begin_ == end_) fill();
        const size_t some = std::min(n, end_ - begin_);
        std::memcpy(to, buffer_.data() + begin_, some);
        begin_ += some;
        to += some;
        n -= some;
    }
}

}  // namespace bitnet::crossval
