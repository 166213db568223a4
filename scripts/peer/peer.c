/* peer.c - this library and llama.cpp in one process, in turn: prefill and decode of the same synthetic weights.
 *
 *     peer LIBRARY_FOLDER OUR.gguf THEIR.gguf N_PREFILL N_DECODE REPETITIONS THREADS...
 *
 * llama.cpp is the prebuilt of scripts/peer/package.json, opened at run time. What it declares stands below once more,
 * for exactly that version: its parameter structs travel by value, so they are blobs with room to spare, filled by its
 * own *_default_params(), in which only the first three fields of the context's are set; every setting is then read
 * back through functions. Exit code 0, or 2 with one line on stderr.
 */
#define _GNU_SOURCE
#include <bitnet_c.h>

#include <dlfcn.h>
#include <glob.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_THREAD_COUNTS 8
#define MAX_REPETITIONS 99

typedef struct { /* llama_model_params, llama_context_params: 72 to 160 bytes so far */
    uint32_t word[256];
} blob;

enum { n_ctx_word, n_batch_word, n_ubatch_word }; /* of llama_context_params */

typedef struct {
    int32_t n_tokens;
    int32_t *token;
    float *embd;
    int32_t *pos, *n_seq_id, **seq_id;
    int8_t *logits;
} llama_batch;

struct llama {
    void (*backend_init)(void);
    void (*log_set)(void (*)(int level, const char *text, void *), void *);
    blob (*model_default_params)(void);
    blob (*context_default_params)(void);
    void *(*model_load_from_file)(const char *path, blob params);
    void *(*init_from_model)(void *model, blob params);
    int32_t (*model_n_layer)(const void *);
    int32_t (*model_n_embd)(const void *);
    const void *(*model_get_vocab)(const void *);
    int32_t (*vocab_n_tokens)(const void *);
    void (*set_n_threads)(void *ctx, int32_t n, int32_t n_batch);
    int32_t (*n_threads)(void *);
    int32_t (*n_threads_batch)(void *);
    uint32_t (*n_ctx)(const void *);
    uint32_t (*n_batch)(const void *);
    uint32_t (*n_ubatch)(const void *);
    void *(*get_memory)(const void *ctx);
    void (*memory_clear)(void *memory, _Bool data);
    llama_batch (*batch_get_one)(int32_t *tokens, int32_t n);
    int32_t (*decode)(void *ctx, llama_batch);
    float *(*get_logits_ith)(void *ctx, int32_t i);
    void (*synchronize)(void *ctx);
    void *model, *ctx;
};

struct clocks {
    double wall, processor; /* seconds */
};

struct times {
    double prefill, decode;           /* seconds */
    double prefill_busy, decode_busy; /* processors in use */
};

static void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("peer: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(2);
}

static void *symbol(void *library, const char *name) {
    void *found = dlsym(library, name);
    if (!found) fail("%s", dlerror());
    return found;
}

static double seconds_of(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static struct clocks now(void) {
    const struct clocks c = {seconds_of(CLOCK_MONOTONIC), seconds_of(CLOCK_PROCESS_CPUTIME_ID)};
    return c;
}

static struct times times_of(struct clocks from, struct clocks middle, struct clocks to) {
    struct times t;
    t.prefill = middle.wall - from.wall;
    t.decode = to.wall - middle.wall;
    t.prefill_busy = (middle.processor - from.processor) / t.prefill;
    t.decode_busy = (to.processor - middle.processor) / t.decode;
    return t;
}

static void show_errors(int level, const char *text, void *user) {
    (void)user;
    if (level == 4) fputs(text, stderr); /* GGML_LOG_LEVEL_ERROR */
}

/* The package's file of this name, whatever version it carries. */
static void *open_library(const char *folder, const char *pattern) {
    char path[4096];
    glob_t found;
    void *library;
    snprintf(path, sizeof path, "%s/%s", folder, pattern);
    if (glob(path, 0, NULL, &found) != 0) fail("%s: no such file", path);
    library = dlopen(found.gl_pathv[0], RTLD_NOW | RTLD_LOCAL);
    if (!library) fail("%s", dlerror());
    globfree(&found);
    return library;
}

static void open_llama(struct llama *l, const char *folder) {
    void *llama = open_library(folder, "libllama.[vs]*");
    void *ggml = open_library(folder, "libggml.[vs]*");
#define FUNCTION(name) *(void **)&l->name = symbol(llama, "llama_" #name)
    FUNCTION(backend_init);
    FUNCTION(log_set);
    FUNCTION(model_default_params);
    FUNCTION(context_default_params);
    FUNCTION(model_load_from_file);
    FUNCTION(init_from_model);
    FUNCTION(model_n_layer);
    FUNCTION(model_n_embd);
    FUNCTION(model_get_vocab);
    FUNCTION(vocab_n_tokens);
    FUNCTION(set_n_threads);
    FUNCTION(n_threads);
    FUNCTION(n_threads_batch);
    FUNCTION(n_ctx);
    FUNCTION(n_batch);
    FUNCTION(n_ubatch);
    FUNCTION(get_memory);
    FUNCTION(memory_clear);
    FUNCTION(batch_get_one);
    FUNCTION(decode);
    FUNCTION(get_logits_ith);
    FUNCTION(synchronize);
#undef FUNCTION
    l->log_set(show_errors, NULL);
    ((void (*)(const char *))symbol(ggml, "ggml_backend_load_all_from_path"))(folder); /* picks the best for this CPU */
    l->backend_init();
}

static void load_llama(struct llama *l, const char *path, int n_prefill, int n_decode) {
    blob params = l->context_default_params();
    if (params.word[n_ctx_word] != 512 || params.word[n_batch_word] != 2048 || params.word[n_ubatch_word] != 512)
        fail("llama_context_params begins with %u, %u, %u, expected n_ctx 512, n_batch 2048, n_ubatch 512",
             params.word[0], params.word[1], params.word[2]);
    l->model = l->model_load_from_file(path, l->model_default_params());
    if (!l->model) fail("%s: llama.cpp cannot load it", path);
    params.word[n_ctx_word] = (uint32_t)(n_prefill + n_decode);
    params.word[n_batch_word] = (uint32_t)n_prefill;
    params.word[n_ubatch_word] = (uint32_t)n_prefill;
    l->ctx = l->init_from_model(l->model, params);
    if (!l->ctx) fail("%s: llama.cpp makes no context", path);
    if (l->n_ctx(l->ctx) < (uint32_t)(n_prefill + n_decode) || l->n_batch(l->ctx) != (uint32_t)n_prefill ||
        l->n_ubatch(l->ctx) != (uint32_t)n_prefill)
        fail("llama.cpp took n_ctx %u, n_batch %u, n_ubatch %u, expected %d, %d, %d", l->n_ctx(l->ctx),
             l->n_batch(l->ctx), l->n_ubatch(l->ctx), n_prefill + n_decode, n_prefill, n_prefill);
}

/* Which of the package's CPU libraries it runs on. */
static void print_cpu_library(void) {
    char line[4096], *name = NULL;
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps && !name && fgets(line, sizeof line, maps)) name = strstr(line, "libggml-cpu-");
    if (name) printf("llama.cpp runs on %s", name);
    if (maps) fclose(maps);
}

static void check(bitnet_status_t status) {
    if (status != BITNET_OK) fail("%s", bitnet_last_error());
}

static bitnet_ctx_t *our_context(const bitnet_model_t *model, int n_ctx, int n_threads) {
    bitnet_context_params_t params = {0};
    bitnet_ctx_t *ctx = NULL;
    params.struct_size = sizeof params;
    params.n_ctx = n_ctx;
    params.n_threads = n_threads;
    check(bitnet_context_create(model, &params, &ctx));
    return ctx;
}

static struct times run_ours(bitnet_ctx_t *ctx, const int32_t *tokens, int n_prefill, int n_decode, float *logits,
                             size_t n_vocab) {
    struct clocks from, middle;
    int i;
    check(bitnet_context_reset(ctx));
    from = now();
    check(bitnet_eval_tokens(ctx, tokens, (size_t)n_prefill, NULL));
    middle = now();
    if (logits) memcpy(logits, bitnet_get_logits_ith(ctx, -1), n_vocab * sizeof *logits);
    for (i = 0; i < n_decode; i++) check(bitnet_eval_tokens(ctx, tokens + n_prefill + i, 1, NULL));
    return times_of(from, middle, now());
}

static void llama_step(struct llama *l, int32_t *tokens, int n) {
    if (l->decode(l->ctx, l->batch_get_one(tokens, n)) != 0) fail("llama_decode failed");
    l->synchronize(l->ctx);
}

static struct times run_llama(struct llama *l, int n_threads, int32_t *tokens, int n_prefill, int n_decode,
                              float *logits, size_t n_vocab) {
    struct clocks from, middle;
    int i;
    l->set_n_threads(l->ctx, n_threads, n_threads);
    if (l->n_threads(l->ctx) != n_threads || l->n_threads_batch(l->ctx) != n_threads)
        fail("llama.cpp did not take %d threads", n_threads);
    l->memory_clear(l->get_memory(l->ctx), 1);
    from = now();
    llama_step(l, tokens, n_prefill);
    middle = now();
    if (logits) memcpy(logits, l->get_logits_ith(l->ctx, -1), n_vocab * sizeof *logits);
    for (i = 0; i < n_decode; i++) llama_step(l, tokens + n_prefill + i, 1);
    return times_of(from, middle, now());
}

/* Both are the same function of the same weights but for the activation codes, which llama.cpp scales every 256: the 30
 * layers of the 2B-4T shape gave 0.996; ReLU^2 against SiLU, or the other order of RoPE, 0.6 to 0.85. */
static void check_same_work(const float *a, const float *b, size_t n) {
    double ab = 0, aa = 0, bb = 0, cosine;
    size_t i;
    for (i = 0; i < n; i++) {
        ab += (double)a[i] * b[i];
        aa += (double)a[i] * a[i];
        bb += (double)b[i] * b[i];
    }
    cosine = ab / sqrt(aa * bb);
    printf("logits after the prefill: cosine %.4f between the engines\n", cosine);
    if (!(cosine > 0.98)) fail("the engines' logits have cosine %g, expected above 0.98: not the same model", cosine);
}

static int compare(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int n) {
    qsort(values, (size_t)n, sizeof *values, compare);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

static struct times medians(const struct times *t, int n) {
    double values[4][MAX_REPETITIONS];
    struct times m;
    int i;
    for (i = 0; i < n; i++) {
        values[0][i] = t[i].prefill;
        values[1][i] = t[i].decode;
        values[2][i] = t[i].prefill_busy;
        values[3][i] = t[i].decode_busy;
    }
    m.prefill = median(values[0], n);
    m.decode = median(values[1], n);
    m.prefill_busy = median(values[2], n);
    m.decode_busy = median(values[3], n);
    return m;
}

static void print_row(const char *what, int n_threads, int n, double ours, double theirs, double ours_busy,
                      double theirs_busy) {
    printf("%-8s %7d %8d %12.2f %12.2f %8.2f %13.2f %13.2f\n", what, n_threads, n, n / ours, n / theirs, theirs / ours,
           ours_busy, theirs_busy);
}

static int whole_number(const char *text, int low, int high) {
    char *end;
    const long value = strtol(text, &end, 10);
    if (!*text || *end || value < low || value > high)
        fail("found '%s', expected a whole number from %d to %d", text, low, high);
    return (int)value;
}

int main(int argc, char **argv) {
    static struct times ours[MAX_THREAD_COUNTS][MAX_REPETITIONS], theirs[MAX_THREAD_COUNTS][MAX_REPETITIONS];
    bitnet_ctx_t *contexts[MAX_THREAD_COUNTS];
    bitnet_model_t *model = NULL;
    bitnet_load_params_t load = {0};
    bitnet_model_info_t info = {0};
    struct llama llama = {0};
    if (argc < 8 || argc > 7 + MAX_THREAD_COUNTS)
        fail("expected LIBRARY_FOLDER OUR.gguf THEIR.gguf N_PREFILL N_DECODE REPETITIONS THREADS...");
    const int n_prefill = whole_number(argv[4], 1, 4096), n_decode = whole_number(argv[5], 1, 4096);
    const int n_repetitions = whole_number(argv[6], 1, MAX_REPETITIONS), n_counts = argc - 7;

    load.struct_size = sizeof load;
    load.semantics = "activation=silu"; /* the only one that this llama.cpp has for the architecture */
    check(bitnet_load(argv[2], &load, &model));
    info.struct_size = sizeof info;
    check(bitnet_model_get_info(model, &info));
    open_llama(&llama, argv[1]);
    load_llama(&llama, argv[3], n_prefill, n_decode);
    const int32_t n_vocab = llama.vocab_n_tokens(llama.model_get_vocab(llama.model));
    if (llama.model_n_layer(llama.model) != info.n_layer || llama.model_n_embd(llama.model) != info.n_embd ||
        n_vocab != info.n_vocab)
        fail("%s and %s differ in shape", argv[2], argv[3]);
    print_cpu_library();

    int32_t *tokens = malloc(sizeof *tokens * (size_t)(n_prefill + n_decode));
    float *logits = malloc(sizeof *logits * 2 * (size_t)n_vocab);
    if (!tokens || !logits) fail("out of memory");
    for (int i = 0; i < n_prefill + n_decode; i++) tokens[i] = (int32_t)(((int64_t)i * 7919 + 13) % n_vocab);
    for (int c = 0; c < n_counts; c++)
        contexts[c] = our_context(model, n_prefill + n_decode, whole_number(argv[7 + c], 1, 256));

    for (int r = -1; r < n_repetitions; r++) { /* -1: warms up, and shows that both compute the same */
        for (int c = 0; c < n_counts; c++) {
            const int n_threads = atoi(argv[7 + c]), prefill = r < 0 ? n_prefill / 8 + 1 : n_prefill;
            const int decode = r < 0 ? 1 : n_decode;
            const struct times a =
                run_ours(contexts[c], tokens, prefill, decode, r < 0 ? logits : NULL, (size_t)n_vocab);
            const struct times b =
                run_llama(&llama, n_threads, tokens, prefill, decode, r < 0 ? logits + n_vocab : NULL, (size_t)n_vocab);
            if (r >= 0) ours[c][r] = a, theirs[c][r] = b;
            if (r < 0 && c == 0) check_same_work(logits, logits + n_vocab, (size_t)n_vocab);
        }
    }

    printf("%-8s %7s %8s %12s %12s %8s %13s %13s\n", "", "threads", "tokens", "bitnet-c t/s", "llama t/s", "ratio",
           "bitnet-c busy", "llama busy");
    for (int c = 0; c < n_counts; c++) {
        const struct times a = medians(ours[c], n_repetitions), b = medians(theirs[c], n_repetitions);
        const int n_threads = atoi(argv[7 + c]);
        print_row("prefill", n_threads, n_prefill, a.prefill, b.prefill, a.prefill_busy, b.prefill_busy);
        print_row("decode", n_threads, n_decode, a.decode, b.decode, a.decode_busy, b.decode_busy);
        bitnet_context_free(contexts[c]);
    }
    bitnet_model_free(model);
    free(tokens);
    free(logits);
    return 0;
}
