/* llama.c - llama.cpp as an engine for `bitnet crossval`: bitnet-logits/1 on stdin and stdout.
 *
 *     llama LIBRARY_FOLDER        the model is the path in BITNET_CROSSVAL_MODEL, threads in BITNET_CROSSVAL_THREADS
 *
 * For the prebuilt of scripts/peer/package.json, opened at run time; what it declares stands below once more (as in
 * scripts/peer/peer.c): its parameter structs travel by value, as blobs with room to spare.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <glob.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

static struct {
    void (*backend_init)(void);
    void (*log_set)(void (*)(int level, const char *text, void *), void *);
    blob (*model_default_params)(void);
    blob (*context_default_params)(void);
    void *(*model_load_from_file)(const char *path, blob params);
    void *(*init_from_model)(void *model, blob params);
    void (*free)(void *ctx);
    const void *(*model_get_vocab)(const void *);
    int32_t (*vocab_n_tokens)(const void *);
    int32_t (*tokenize)(const void *vocab, const char *text, int32_t n_bytes, int32_t *tokens, int32_t n_max,
                        _Bool add_special, _Bool parse_special);
    void (*set_n_threads)(void *ctx, int32_t n, int32_t n_batch);
    uint32_t (*n_ctx)(const void *);
    int32_t (*decode)(void *ctx, llama_batch);
    float *(*get_logits_ith)(void *ctx, int32_t i);
} llama;

static FILE *answers;
static void *model;
static const void *vocab;
static int n_vocab, n_threads = 1;

static void say(const char *line) {
    fprintf(answers, "%s\n", line);
    fflush(answers);
}

static void *symbol(void *library, const char *name) {
    void *found = dlsym(library, name);
    if (!found) {
        fprintf(answers, "error %s\n", dlerror());
        exit(2);
    }
    return found;
}

static void *open_library(const char *folder, const char *pattern) {
    char path[4096];
    glob_t found;
    void *library = NULL;
    snprintf(path, sizeof path, "%s/%s", folder, pattern);
    if (glob(path, 0, NULL, &found) == 0) library = dlopen(found.gl_pathv[0], RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(answers, "error %s: cannot load it\n", path);
        exit(2);
    }
    globfree(&found);
    return library;
}

static void silence(int level, const char *text, void *user) {
    (void)user;
    if (level == 4) fputs(text, stderr); /* GGML_LOG_LEVEL_ERROR */
}

static void open_llama(const char *folder) {
    void *library = open_library(folder, "libllama.[vs]*"), *ggml = open_library(folder, "libggml.[vs]*");
#define FUNCTION(name) *(void **)&llama.name = symbol(library, "llama_" #name)
    FUNCTION(backend_init);
    FUNCTION(log_set);
    FUNCTION(model_default_params);
    FUNCTION(context_default_params);
    FUNCTION(model_load_from_file);
    FUNCTION(init_from_model);
    FUNCTION(free);
    FUNCTION(model_get_vocab);
    FUNCTION(vocab_n_tokens);
    FUNCTION(tokenize);
    FUNCTION(set_n_threads);
    FUNCTION(n_ctx);
    FUNCTION(decode);
    FUNCTION(get_logits_ith);
#undef FUNCTION
    llama.log_set(silence, NULL);
    ((void (*)(const char *))symbol(ggml, "ggml_backend_load_all_from_path"))(folder);
    llama.backend_init();
}

/* A new context for each prompt: nothing of the one before can be left. */
static void *context_for(int n) {
    blob params = llama.context_default_params();
    void *ctx = NULL;
    if (params.word[n_ctx_word] != 512 || params.word[n_batch_word] != 2048 || params.word[n_ubatch_word] != 512) {
        say("error llama_context_params does not begin with n_ctx, n_batch, n_ubatch: another version of llama.cpp");
        return NULL;
    }
    params.word[n_ctx_word] = params.word[n_batch_word] = params.word[n_ubatch_word] = (uint32_t)n;
    ctx = llama.init_from_model(model, params);
    if (!ctx || llama.n_ctx(ctx) < (uint32_t)n) {
        say("error llama.cpp makes no context of this size");
        return NULL;
    }
    llama.set_n_threads(ctx, n_threads, n_threads);
    return ctx;
}

static void answer_eval(char *words) {
    static int32_t sequence = 0, *sequences = &sequence;
    const size_t most = strlen(words) / 2 + 1;
    int32_t *token = malloc(most * sizeof *token), *pos = malloc(most * sizeof *pos);
    int32_t *n_seq_id = malloc(most * sizeof *n_seq_id), **seq_id = malloc(most * sizeof *seq_id);
    int8_t *logits = malloc(most);
    int n = 0;
    char *word, *rest = NULL;
    void *ctx;
    for (word = strtok_r(words, " ", &rest); word; word = strtok_r(NULL, " ", &rest), n++) {
        token[n] = atoi(word);
        pos[n] = n;
        n_seq_id[n] = 1;
        seq_id[n] = sequences;
        logits[n] = 1;
    }
    ctx = n > 0 ? context_for(n) : (say("error no tokens"), NULL);
    if (ctx) {
        const llama_batch batch = {n, token, NULL, pos, n_seq_id, seq_id, logits};
        if (llama.decode(ctx, batch) != 0) {
            say("error llama_decode failed");
        } else {
            fprintf(answers, "logits %d %d\n", n, n_vocab);
            for (int i = 0; i < n; i++) fwrite(llama.get_logits_ith(ctx, i), sizeof(float), (size_t)n_vocab, answers);
            fflush(answers);
        }
        llama.free(ctx);
    }
    free(token), free(pos), free(n_seq_id), free(seq_id), free(logits);
}

static size_t from_base64(const char *digits, char *out) {
    static const char all[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t bits = 0;
    int n_bits = 0;
    size_t n = 0;
    for (; *digits && *digits != '='; digits++) {
        const char *at = strchr(all, *digits);
        if (!at) break;
        bits = bits << 6 | (uint32_t)(at - all);
        n_bits += 6;
        if (n_bits < 8) continue;
        n_bits -= 8;
        out[n++] = (char)(bits >> n_bits & 0xFF);
    }
    return n;
}

static void answer_tokenize(char *words) {
    int add_bos = 0, parse_special = 0, begin = 0;
    sscanf(words, "%d %d %n", &add_bos, &parse_special, &begin);
    char *text = malloc(strlen(words) + 1);
    const size_t n_bytes = from_base64(words + begin, text);
    int32_t *ids = malloc((n_bytes + 8) * sizeof *ids);
    const int32_t n = llama.tokenize(vocab, text, (int32_t)n_bytes, ids, (int32_t)n_bytes + 8, add_bos, parse_special);
    if (n < 0) {
        say("error llama_tokenize failed");
    } else {
        fputs("ids", answers);
        for (int32_t i = 0; i < n; i++) fprintf(answers, " %d", ids[i]);
        say("");
    }
    free(text), free(ids);
}

int main(int argc, char **argv) {
    const char *path = getenv("BITNET_CROSSVAL_MODEL"), *threads = getenv("BITNET_CROSSVAL_THREADS");
    char *line = NULL;
    size_t capacity = 0;
    answers = fdopen(dup(STDOUT_FILENO), "wb");
    dup2(STDERR_FILENO, STDOUT_FILENO); /* whatever the engine prints must not get between the answers */
    if (argc != 2 || !path || !answers) {
        if (answers) say("error usage: llama LIBRARY_FOLDER, with the model's path in BITNET_CROSSVAL_MODEL");
        return 2;
    }
    if (threads && atoi(threads) > 0) n_threads = atoi(threads);
    open_llama(argv[1]);
    model = llama.model_load_from_file(path, llama.model_default_params());
    if (!model) {
        fprintf(answers, "error %s: llama.cpp cannot load it\n", path);
        return 2;
    }
    vocab = llama.model_get_vocab(model);
    n_vocab = llama.vocab_n_tokens(vocab);
    say("bitnet-logits 1 llama.cpp");
    while (getline(&line, &capacity, stdin) > 0) {
        line[strcspn(line, "\n")] = '\0';
        if (strncmp(line, "eval ", 5) == 0)
            answer_eval(line + 5);
        else if (strncmp(line, "tokenize ", 9) == 0)
            answer_tokenize(line + 9);
        else
            say("unsupported");
    }
    return 0;
}
