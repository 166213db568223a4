#include "plugins/host/guard.h"

#include <csetjmp>
#include <csignal>
#include <cstring>
#include <pthread.h>

#include "plugins/host/text.h"

namespace bitnet {

namespace {

struct FatalSignal {
    int number;
    const char *name;
};
constexpr FatalSignal kFatal[] = {
    {SIGSEGV, "SIGSEGV"}, {SIGBUS, "SIGBUS"}, {SIGILL, "SIGILL"}, {SIGFPE, "SIGFPE"}, {SIGABRT, "SIGABRT"}};
constexpr int kFatalCount = int(sizeof kFatal / sizeof kFatal[0]);

// One thread at a time loads under guard; the handler reads these on any thread.
pthread_mutex_t guard_mutex = PTHREAD_MUTEX_INITIALIZER;
// Of this thread. Initial-exec: a handler that runs on a thread for the first time must not allocate it.
__thread volatile sig_atomic_t guarded_here __attribute__((tls_model("initial-exec"))) = 0;
sigjmp_buf escape;
struct sigaction handlers_before[kFatalCount];

// As if our handler were not there.
void pass_on(int number, siginfo_t *info, void *context) {
    int i = 0;
    while (kFatal[i].number != number) ++i;
    const struct sigaction &before = handlers_before[i];
    if (before.sa_flags & SA_SIGINFO) {
        before.sa_sigaction(number, info, context);
    } else if (before.sa_handler == SIG_DFL || before.sa_handler == SIG_IGN) {
        sigaction(number, &before, nullptr);    // the instruction runs again and meets it
        if (info->si_code <= 0) raise(number);  // it was sent, not caused: send it again
    } else {
        before.sa_handler(number);
    }
}

void on_fatal_signal(int number, siginfo_t *info, void *context) {
    if (guarded_here) siglongjmp(escape, number);
    pass_on(number, info, context);
}

void install_handlers() {
    struct sigaction ours = {};
    ours.sa_sigaction = on_fatal_signal;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&ours.sa_mask);
    for (int i = 0; i < kFatalCount; ++i) sigaction(kFatal[i].number, &ours, &handlers_before[i]);
}

void restore_handlers() {
    for (int i = 0; i < kFatalCount; ++i) {
        struct sigaction now;
        // A plugin that installed a handler of its own keeps it.
        if (sigaction(kFatal[i].number, nullptr, &now) == 0 && now.sa_sigaction == on_fatal_signal)
            sigaction(kFatal[i].number, &handlers_before[i], nullptr);
    }
}

const char *signal_name(int number) {
    for (const FatalSignal &fatal : kFatal) {
        if (fatal.number == number) return fatal.name;
    }
    return "unknown signal";
}

}  // namespace

bitnet_status_t run_guarded(TraceGuardFn guard, GuardedBody body, void *argument, char *text, size_t capacity) {
    return guard ? guard(body, argument, text, capacity) : body(argument);
}

bitnet_status_t run_crash_guarded(TraceGuardFn guard, GuardedBody body, void *argument, char *text, size_t capacity) {
    if (!guard) return body(argument);
    // A plugin that loads another one while it is opened is under guard already.
    if (guarded_here) return run_guarded(guard, body, argument, text, capacity);
    pthread_mutex_lock(&guard_mutex);
    install_handlers();
    bitnet_status_t status;
    const int number = sigsetjmp(escape, 1);
    if (number == 0) {
        guarded_here = 1;
        status = run_guarded(guard, body, argument, text, capacity);
    } else {
        set_text(text, capacity, "crashed (%s)", signal_name(number));
        status = BITNET_E_PLUGIN;
    }
    guarded_here = 0;
    restore_handlers();
    pthread_mutex_unlock(&guard_mutex);
    return status;
}

}  // namespace bitnet
