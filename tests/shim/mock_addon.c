/* mock_addon.c - a program's body: in an addon that is opened at run time, or linked into a program (-DPROGRAM).
 *
 * Words: "prompt" five tokens, "decode" three more, "again" from position 0 once more, "split" the prompt in two
 * batches, "all" logits of every token, "gaps" positions with holes, "turns" two sequences in turn, "mixed" two
 * sequences in one batch at positions that follow each other, "warmup" announced, "oldwarmup" not announced,
 * "lookalike" a number whose bytes look like a call of the engine, "watch" a callback of its own, "inplace" additions,
 * "same" and "other_..." graphs as mock_llama.h says, "threads" four models at once, "fork", "exec" once more in
 * another process, "_exit", "abort".
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mock_llama.h"

static pthread_barrier_t all_done; /* every model lives until all have been evaluated */
static int n_words;
static char **words;
static int has(const char *word) {
    int i;
    for (i = 0; i < n_words; i++)
        if (strcmp(words[i], word) == 0) return 1;
    return 0;
}

struct output {
    char text[4096];
};

static void decode(struct mock_llama *m, int32_t first, int from, int n, int n_outputs, struct output *out) {
    int32_t tokens[16], positions[16];
    struct mock_batch b = {n, n_outputs, tokens, positions, NULL};
    uint64_t hash = 0xcbf29ce484222325u;
    size_t i;
    for (i = 0; i < (size_t)n; i++) {
        tokens[i] = first + 3 * (int32_t)i;
        positions[i] = from + (int32_t)i * (has("gaps") ? 2 : 1);
    }
    if (mock_llama_decode(m, &b) != 0) exit(3);
    const unsigned char *bytes = (const unsigned char *)mock_llama_logits(m);
    for (i = 0; i < (size_t)mock_llama_n_vocab() * sizeof(float); i++) hash = (hash ^ bytes[i]) * 0x100000001b3u;
    const size_t used = strlen(out->text);
    snprintf(out->text + used, sizeof out->text - used, "%016llx\n", (unsigned long long)hash);
}

static void decode_of(struct mock_llama *m, int n, const int32_t *tokens, const int32_t *positions,
                      const int32_t *sequences) {
    const struct mock_batch b = {n, 1, tokens, positions, sequences};
    if (mock_llama_decode(m, &b) != 0) exit(3);
}

/* "turns": sequence 1 stops where sequence 0 goes on, so that by its positions it is one. "mixed": both in one batch.
 */
static void take_turns(struct mock_llama *m) {
    const int32_t first[3] = {4, 7, 10}, second[3] = {13, 16, 19}, counted[5] = {0, 1, 2, 3, 4};
    const int32_t a[3] = {0, 0, 0}, b[3] = {1, 1, 1}, next[2] = {19, 22}, both[2] = {1, 0};
    decode_of(m, 3, first, counted, a);
    decode_of(m, has("turns") ? 3 : 2, second, counted, b);
    if (has("turns")) {
        decode_of(m, 1, next, counted + 3, a);
        decode_of(m, 1, next, counted + 3, b);
        decode_of(m, 1, next, counted + 4, b);
    } else {
        decode_of(m, 2, next, counted + 2, both);
    }
}

static void converse(struct mock_llama *m, struct output *out) {
    int i;
    if (has("turns") || has("mixed")) take_turns(m);
    if (has("split")) {
        decode(m, 4, 0, 3, 1, out);
        decode(m, 13, 3, 2, 1, out);
    } else if (has("prompt")) {
        decode(m, 4, 0, 5, has("all") ? 5 : 1, out);
    }
    for (i = 0; i < 3 && has("decode"); i++) decode(m, 7 + i, 5 + i, 1, 1, out);
}

/* Where the engine is linked in: a constant in the code with a call's bytes inside, led by its distance to a function.
 */
#if defined(STATIC_ENGINE) && defined(__x86_64__)
static unsigned long long lookalike(void) {
    unsigned long long number;
    __asm__(".byte 0x48, 0xb8, 0xe8\n" /* mov rax, the next eight bytes */
            ".long ggml_backend_sched_alloc_graph - . - 4\n"
            ".byte 0, 0, 0"
            : "=a"(number));
    return number;
}
#else
static unsigned long long lookalike(void) { return 0; }
#endif

static unsigned how_graphs_are_made(void) {
    static const char *const names[] = {"same",        "unseen",          "within",      "other_sources",
                                        "other_names", "other_operation", "other_scale", "other_heads",
                                        "other_view",  "other_order"};
    unsigned how = 0, i;
    for (i = 0; i < sizeof names / sizeof *names; i++) how |= (unsigned)has(names[i]) << i;
    return how;
}

static void *run(void *argument) {
    struct output *out = argument;
    struct mock_llama *m = mock_llama_new(getenv("MOCK_MODEL") ? getenv("MOCK_MODEL") : "/dev/null", has("inplace"));
    struct output nowhere = {{0}};
    mock_llama_make(m, how_graphs_are_made());
    if (has("watch")) mock_llama_watch(m);
    if (has("warmup")) {
        llama_set_warmup(m, 1);
        decode(m, 5, 0, 1, 1, &nowhere);
        llama_set_warmup(m, 0);
    }
    if (has("oldwarmup")) {
        const int32_t tokens[2] = {1, 2}, positions[2] = {0, 1};
        const struct mock_batch b = {2, 1, tokens, positions, NULL};
        mock_llama_decode(m, &b);
    }
    converse(m, out);
    if (has("again")) converse(m, out);
    if (has("watch")) {
        const size_t used = strlen(out->text);
        snprintf(out->text + used, sizeof out->text - used, "seen %d\n", mock_llama_seen(m));
    }
    if (has("threads")) pthread_barrier_wait(&all_done);
    if (!has("_exit") && !has("abort") && !has("exit")) mock_llama_free(m);
    return NULL;
}

static void in_child(void) {
    struct output out = {{0}};
    int status = 0;
    const pid_t child = fork();
    if (child == 0) {
        run(&out);
        fputs(out.text, stdout);
        exit(0);
    }
    waitpid(child, &status, 0);
    printf("child %d\n", status);
}

__attribute__((visibility("default"))) int addon_main(int argc, char **argv) {
    static struct output outputs[4];
    pthread_t threads[4];
    int i;
    n_words = argc;
    words = argv;
    if (has("threads")) {
        pthread_barrier_init(&all_done, NULL, 4);
        for (i = 0; i < 4; i++) pthread_create(&threads[i], NULL, run, &outputs[i]);
        for (i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    } else {
        run(&outputs[0]);
    }
    for (i = 0; i < 4; i++) fputs(outputs[i].text, stdout);
    if (has("lookalike")) printf("lookalike %llx\n", lookalike());
    fflush(stdout);
    if (has("fork")) in_child();
    fflush(stdout);
    if (has("exec")) {
        char *again[] = {"/proc/self/exe", getenv("MOCK_ADDON"), "prompt", NULL};
        if (getenv("MOCK_ADDON")) execv("/proc/self/exe", again);
        exit(4);
    }
    if (has("_exit")) _exit(0);
    if (has("abort")) abort();
    return 0;
}

#ifdef PROGRAM
int main(int argc, char **argv) { return addon_main(argc - 1, argv + 1); }
#endif
