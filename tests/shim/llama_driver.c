/* llama_driver.c - a program that evaluates tokens with a llama.cpp that it opens at run time, as many do.
 *
 *     llama_driver [OPTION=VALUE]... LIBRARY_FOLDER MODEL.gguf
 *
 * prompt=N decode=N ubatch=N threads=N: sizes. flash=-1|0|1: attention in one operation, llama.cpp's own choice by
 * default. scope=local|global|deepbind. contexts=N: as many, each on its own thread, with other tokens.
 * leave=exit|_exit| abort|free: how the program ends. fork=1: a child evaluates too. first=N: id of the first token.
 * repeat=1: from position 0 once more. turns=1: so for each line of the standard input, with a line on stderr when it
 * is done: seconds since the one before, of the process's CPU time, and seconds of the turn. outputs=all: logits of
 * every prompt token. callback=1: a callback of its own, which asks for every l_out. time=1: tokens per second on
 * stderr. Prints the FNV-1a hash of each decoded token's logits: what a traced run must give again. Exit code 0, or 2.
 *
 * What llama.cpp declares stands below once more; scripts/peer/peer.c says how that is kept safe.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <glob.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef struct {
    uint32_t word[256];
} blob;

/* of llama_context_params; the first three and the next two are checked against their defaults */
enum {
    n_ctx_word,
    n_batch_word,
    n_ubatch_word,
    threads_word = 7,
    threads_batch_word,
    flash_word = 13,
    callback_word = 22
};

typedef struct {
    int32_t n_tokens;
    int32_t *token;
    float *embd;
    int32_t *pos, *n_seq_id, **seq_id;
    int8_t *logits;
} llama_batch;

static struct {
    void (*backend_init)(void);
    void (*log_set)(void (*)(int level, const char *text, void *), void *);
    blob (*model_default_params)(void);
    blob (*context_default_params)(void);
    void *(*model_load_from_file)(const char *path, blob params);
    void (*model_free)(void *);
    void *(*init_from_model)(void *model, blob params);
    void (*free)(void *ctx);
    const void *(*model_get_vocab)(const void *);
    int32_t (*vocab_n_tokens)(const void *);
    void *(*get_memory)(const void *ctx);
    void (*memory_clear)(void *memory, _Bool data);
    llama_batch (*batch_get_one)(int32_t *tokens, int32_t n);
    llama_batch (*batch_init)(int32_t n, int32_t embd, int32_t n_seq_max);
    int32_t (*decode)(void *ctx, llama_batch);
    float *(*get_logits_ith)(void *ctx, int32_t i);
} l;

struct setting {
    const char *name, *value;
};
static struct setting settings[] = {{"prompt", "5"},   {"decode", "3"},    {"ubatch", "512"}, {"threads", "1"},
                                    {"flash", "-1"},   {"scope", "local"}, {"contexts", "1"}, {"leave", "free"},
                                    {"fork", "0"},     {"first", "1"},     {"repeat", "0"},   {"outputs", "last"},
                                    {"callback", "0"}, {"time", "0"},      {"turns", "0"},    {NULL, NULL}};

static const char *setting(const char *name) {
    const struct setting *s = settings;
    while (s->name && strcmp(s->name, name) != 0) s++;
    return s->name ? s->value : "";
}
static int number(const char *name) { return atoi(setting(name)); }

static void fail(const char *what) {
    fprintf(stderr, "llama_driver: %s\n", what);
    exit(2);
}

static void show_errors(int level, const char *text, void *user) {
    (void)user;
    if (level == 4) fputs(text, stderr); /* GGML_LOG_LEVEL_ERROR */
}

static void *open_library(const char *folder, const char *pattern) {
    char path[4096];
    glob_t found;
    void *library;
    const char *scope = setting("scope");
    int flags = RTLD_NOW | (strcmp(scope, "global") == 0 ? RTLD_GLOBAL : RTLD_LOCAL);
    if (strcmp(scope, "deepbind") == 0) flags |= RTLD_DEEPBIND;
    snprintf(path, sizeof path, "%s/%s", folder, pattern);
    if (glob(path, 0, NULL, &found) != 0) fail("no such library");
    library = dlopen(found.gl_pathv[0], flags);
    if (!library) fail(dlerror());
    globfree(&found);
    return library;
}

static void open_llama(const char *folder) {
    void *llama = open_library(folder, "libllama.[vs]*");
    void *ggml = open_library(folder, "libggml.[vs]*");
    void (*load_all)(const char *);
#define FUNCTION(name)                                                                                                 \
    *(void **)&l.name = dlsym(llama, "llama_" #name);                                                                  \
    if (!l.name) fail("no llama_" #name)
    FUNCTION(backend_init);
    FUNCTION(log_set);
    FUNCTION(model_default_params);
    FUNCTION(context_default_params);
    FUNCTION(model_load_from_file);
    FUNCTION(model_free);
    FUNCTION(init_from_model);
    FUNCTION(free);
    FUNCTION(model_get_vocab);
    FUNCTION(vocab_n_tokens);
    FUNCTION(get_memory);
    FUNCTION(memory_clear);
    FUNCTION(batch_get_one);
    FUNCTION(batch_init);
    FUNCTION(decode);
    FUNCTION(get_logits_ith);
#undef FUNCTION
    l.log_set(show_errors, NULL);
    *(void **)&load_all = dlsym(ggml, "ggml_backend_load_all_from_path");
    if (!load_all) fail("no ggml_backend_load_all_from_path");
    load_all(folder);
    l.backend_init();
}

static const char *(*name_of)(const void *tensor);
static int n_seen;

/* Asks for the layers' results, as programs that look at activations do. */
static _Bool on_evaluation(void *tensor, _Bool ask, void *user) {
    (void)user;
    if (strncmp(name_of(tensor), "l_out", 5) != 0) return 0;
    if (!ask) n_seen++;
    return 1;
}

static void *make_context(void *model) {
    blob params = l.context_default_params();
    if (params.word[n_ctx_word] != 512 || params.word[n_batch_word] != 2048 || params.word[n_ubatch_word] != 512 ||
        params.word[threads_word] != 4 || params.word[threads_batch_word] != 4 ||
        params.word[flash_word] != (uint32_t)-1)
        fail("llama_context_params has another layout");
    params.word[n_ctx_word] = 1024;
    params.word[n_ubatch_word] = (uint32_t)number("ubatch");
    params.word[threads_word] = params.word[threads_batch_word] = (uint32_t)number("threads");
    params.word[flash_word] = (uint32_t)number("flash");
    if (number("callback")) {
        _Bool (*callback)(void *, _Bool, void *) = on_evaluation;
        memcpy(&params.word[callback_word], &callback, sizeof callback);
    }
    return l.init_from_model(model, params);
}

static uint64_t hash(const float *values, int n) {
    const unsigned char *bytes = (const unsigned char *)values;
    uint64_t h = 0xcbf29ce484222325u;
    size_t i;
    for (i = 0; i < (size_t)n * sizeof *values; i++) h = (h ^ bytes[i]) * 0x100000001b3u;
    return h;
}

static double seconds(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static pthread_barrier_t all_done; /* every context lives until all have been evaluated */

struct work {
    void *model;
    int first, n_vocab;
    char text[65536];
};

static void decode_prompt(void *ctx, const struct work *w, int n) {
    int32_t tokens[4096];
    int i;
    for (i = 0; i < n; i++) tokens[i] = (int32_t)(((int64_t)i * 7919 + w->first) % w->n_vocab);
    if (strcmp(setting("outputs"), "all") != 0) {
        if (l.decode(ctx, l.batch_get_one(tokens, n)) != 0) fail("llama_decode failed");
        return;
    }
    llama_batch batch = l.batch_init(n, 0, 1);
    batch.n_tokens = n;
    for (i = 0; i < n; i++) {
        batch.token[i] = tokens[i];
        batch.pos[i] = i;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i] = 1;
    }
    if (l.decode(ctx, batch) != 0) fail("llama_decode failed");
}

static int best(const float *logits, int n) {
    int i, at = 0;
    for (i = 1; i < n; i++)
        if (logits[i] > logits[at]) at = i;
    return at;
}

static void evaluate(void *ctx, struct work *w) {
    const int n_prompt = number("prompt"), n_decode = number("decode");
    double from;
    int i;
    decode_prompt(ctx, w, n_prompt);
    from = seconds(CLOCK_MONOTONIC);
    for (i = 0; i < n_decode; i++) {
        const float *logits = l.get_logits_ith(ctx, -1);
        int32_t token = best(logits, w->n_vocab);
        char line[64];
        snprintf(line, sizeof line, "%d %016llx\n", (int)token, (unsigned long long)hash(logits, w->n_vocab));
        strncat(w->text, line, sizeof w->text - strlen(w->text) - 1);
        if (l.decode(ctx, l.batch_get_one(&token, 1)) != 0) fail("llama_decode failed");
    }
    l.get_logits_ith(ctx, -1);
    if (number("time") == 1) fprintf(stderr, "%.2f\n", n_decode / (seconds(CLOCK_MONOTONIC) - from));
}

static void repeat(void *ctx, struct work *w) {
    l.memory_clear(l.get_memory(ctx), 1);
    evaluate(ctx, w);
}

/* CPU time between turns counts as well: what a thread of a plugin's does later belongs to the turn before. */
static void take_turns(void *ctx, struct work *w) {
    double cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
    char line[16];
    while (fgets(line, sizeof line, stdin)) {
        const double from = seconds(CLOCK_MONOTONIC), before = cpu;
        repeat(ctx, w);
        cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
        fprintf(stderr, "%.9f %.9f\n", cpu - before, seconds(CLOCK_MONOTONIC) - from);
    }
}

static void *run(void *argument) {
    struct work *w = argument;
    void *ctx = make_context(w->model);
    if (!ctx) fail("no context");
    evaluate(ctx, w);
    if (number("repeat")) repeat(ctx, w);
    if (number("turns")) take_turns(ctx, w);
    if (number("contexts") > 1) pthread_barrier_wait(&all_done);
    if (strcmp(setting("leave"), "free") == 0) l.free(ctx);
    return NULL;
}

static void run_child(void *model, int n_vocab) {
    const pid_t child = fork();
    if (child == 0) {
        struct work *w = calloc(1, sizeof *w);
        w->model = model;
        w->first = 3;
        w->n_vocab = n_vocab;
        run(w);
        exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    printf("child %d\n", status);
}

int main(int argc, char **argv) {
    int i, c, n_contexts;
    void *model;
    pthread_t threads[8];
    struct work *works[8];
    for (i = 1; i < argc && strchr(argv[i], '=') && argv[i][0] != '/'; i++) {
        struct setting *s = settings;
        const size_t n = (size_t)(strchr(argv[i], '=') - argv[i]);
        while (s->name && (strlen(s->name) != n || strncmp(s->name, argv[i], n) != 0)) s++;
        if (!s->name) fail("no such option");
        s->value = argv[i] + n + 1;
    }
    if (argc - i != 2) fail("expected LIBRARY_FOLDER MODEL.gguf");
    open_llama(argv[i]);
    if (number("callback")) {
        *(void **)&name_of = dlsym(open_library(argv[i], "libggml-base.so*"), "ggml_get_name");
        if (!name_of) fail("no ggml_get_name");
    }
    model = l.model_load_from_file(argv[i + 1], l.model_default_params());
    if (!model) fail("the model cannot be loaded");
    n_contexts = number("contexts");
    if (n_contexts > 1) pthread_barrier_init(&all_done, NULL, (unsigned)n_contexts);
    for (c = 0; c < n_contexts; c++) {
        works[c] = calloc(1, sizeof *works[c]);
        works[c]->model = model;
        works[c]->first = number("first") + c;
        works[c]->n_vocab = l.vocab_n_tokens(l.model_get_vocab(model));
        if (n_contexts == 1)
            run(works[c]);
        else if (pthread_create(&threads[c], NULL, run, works[c]) != 0)
            fail("no thread");
    }
    for (c = 0; c < n_contexts && n_contexts > 1; c++) pthread_join(threads[c], NULL);
    for (c = 0; c < n_contexts; c++) fputs(works[c]->text, stdout);
    if (number("callback")) printf("seen %d\n", n_seen);
    if (number("fork")) run_child(model, works[0]->n_vocab);
    fflush(stdout);
    if (strcmp(setting("leave"), "_exit") == 0) _exit(0);
    if (strcmp(setting("leave"), "abort") == 0) abort();
    if (strcmp(setting("leave"), "free") == 0) l.model_free(model);
    return 0;
}
