/* A little engine of its own: the embedding of a token and the first RMSNorm, computed with plain loops from the
 * file's bytes, and emitted through section 11 of the header. usage: little_engine MODEL PLUGINS INDEX; the value at
 * INDEX of the last token's attn_norm is changed, -1: none. */
#include <bitnet_c.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static float half(uint16_t h) { /* no NaN and no infinity among weights */
    const float size =
        (h >> 10 & 31) ? ldexpf((float)((h & 1023) + 1024), (h >> 10 & 31) - 25) : ldexpf((float)(h & 1023), -24);
    return h >> 15 ? -size : size;
}

static void read_at(FILE *file, const bitnet_model_t *model, const char *name, uint64_t offset, void *out,
                    size_t n_bytes) {
    bitnet_tensor_info_t info = {sizeof info, 0, {0}, "", "", 0, 0};
    for (size_t i = 0; strcmp(info.name, name) != 0; ++i)
        if (bitnet_model_tensor(model, i, &info)) exit(3);
    if (fseek(file, (long)(info.file_offset + offset), SEEK_SET) || fread(out, 1, n_bytes, file) != n_bytes) exit(4);
}

int main(int argc, char **argv) {
    const int32_t tokens[3] = {11, 48, 85}, index = argc == 4 ? atoi(argv[3]) : -1;
    bitnet_model_t *model = NULL;
    bitnet_model_info_t info = {.struct_size = sizeof info};
    bitnet_trace_t *trace = NULL;
    char hash[65];
    size_t n_hash = sizeof hash;
    if (argc != 4 || bitnet_load(argv[1], NULL, &model) || bitnet_model_get_info(model, &info) ||
        bitnet_model_hash(model, hash, &n_hash))
        return 1;
    const size_t n = (size_t)info.n_embd;
    uint16_t *half_row = malloc(n * 2);
    float *x = malloc(n * 4), *w = malloc(n * 4);
    FILE *file = fopen(argv[1], "rb");
    bitnet_trace_params_t run = {.struct_size = sizeof run, .engine = "little", .model_hash = hash, .plugins = argv[2]};
    if (!half_row || !x || !w || !file || bitnet_trace_open(&run, &trace))
        return fprintf(stderr, "%s\n", bitnet_last_error()), 1;
    read_at(file, model, "blk.0.attn_norm.weight", 0, w, n * 4);
    for (int32_t p = 0; p < 3; ++p) {
        double lane[16] = {0};
        bitnet_trace_tensor_t t = {.struct_size = sizeof t,
                                   .stage = BITNET_STAGE_EMBEDDINGS,
                                   .layer = -1,
                                   .position = p,
                                   .n_dims = 1,
                                   .shape = {n},
                                   .data = x};
        read_at(file, model, "token_embd.weight", (uint64_t)tokens[p] * n * 2, half_row, n * 2);
        for (size_t i = 0; i < n; ++i) x[i] = half(half_row[i]);
        if (bitnet_trace_step(trace, p, tokens + p, 1) || bitnet_trace_emit(trace, &t)) return 1;
        for (size_t i = 0; i < n; ++i) lane[i % 16] += (double)x[i] * (double)x[i]; /* the order of core/DESIGN.md */
        for (int m = 8; m; m /= 2)
            for (int i = 0; i < m; ++i) lane[i] += lane[i + m];
        const float r = (float)(1 / sqrt(lane[0] / (double)n + (double)info.rms_eps));
        for (size_t i = 0; i < n; ++i) x[i] = x[i] * r * w[i];
        if (p == 2 && index >= 0) x[index] += 0.5f;
        t.stage = BITNET_STAGE_ATTN_NORM, t.layer = 0;
        if (bitnet_trace_emit(trace, &t)) return fprintf(stderr, "%s\n", bitnet_last_error()), 5;
    }
    if (bitnet_trace_end(trace)) return fprintf(stderr, "%s\n", bitnet_last_error()), 6;
    bitnet_trace_close(trace);
    bitnet_model_free(model);
    return free(half_row), free(x), free(w), fclose(file);
}
