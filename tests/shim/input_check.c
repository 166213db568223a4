/* input_check.c - a plugin that holds what operations are said to have read against what the trace itself says: the
 * inputs of stages against the rows of those stages, the cache against the keys and values that went into it, attention
 * against its parts. Writes to the file that is its configuration: "checked N wrong M", and the first that are wrong.
 */
#include <bitnet_c.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS_MAX = 4096 };

struct row {
    int32_t stage, layer, position;
    uint64_t n;
    float *values;
};
struct state {
    char path[1024];
    struct row rows[ROWS_MAX];
    int n_rows, n_checked, n_wrong, n_cache, n_attention;
    int32_t last_layer;
    char first_wrong[256];
};

static float half(uint16_t h) {
    const int exponent = h >> 10 & 31, mantissa = h & 1023;
    const float magnitude = exponent ? ldexpf((float)(mantissa + 1024), exponent - 25) : ldexpf((float)mantissa, -24);
    return h & 0x8000 ? -magnitude : magnitude;
}
static float value(const void *data, int32_t dtype, uint64_t i) {
    return dtype == BITNET_DTYPE_F16 ? half(((const uint16_t *)data)[i]) : ((const float *)data)[i];
}

static const struct row *find(const struct state *s, int32_t stage, int32_t layer, int32_t position) {
    int i;
    for (i = s->n_rows - 1; i >= 0; i--)
        if (s->rows[i].stage == stage && s->rows[i].layer == layer && s->rows[i].position == position)
            return &s->rows[i];
    return NULL;
}

static void wrong(struct state *s, const bitnet_tensor_event_t *e, const char *input, const char *what) {
    s->n_wrong++;
    if (!s->first_wrong[0])
        snprintf(s->first_wrong, sizeof s->first_wrong, "t%d/blk%d/%s: input %s: %s", e->header.position,
                 e->header.layer, e->stage_name, input, what);
}

static void check_row(struct state *s, const bitnet_tensor_event_t *e, const bitnet_tensor_input_t *in, uint32_t r) {
    const int32_t position = e->header.position + (int32_t)r;
    const char *data = (const char *)in->data + r * in->row_stride;
    const int32_t stage = in->stage;
    const int32_t none = stage == BITNET_STAGE_EMBEDDINGS || stage == BITNET_STAGE_FINAL_NORM;
    const struct row *row = NULL;
    int32_t layer = none ? -1 : e->header.layer;
    if (stage == BITNET_STAGE_LAYER_OUT) /* the residual stream comes from the layer before */
        layer = e->header.layer >= 0 ? e->header.layer - 1 : s->last_layer;
    row = find(s, stage, layer, position);
    if (!row) {
        wrong(s, e, in->name, "no such row before");
        return;
    }
    s->n_checked++;
    if (row->n != in->row_elements || memcmp(row->values, data, row->n * sizeof(float)) != 0)
        wrong(s, e, in->name, "other values");
}

static void check_cache(struct state *s, const bitnet_tensor_event_t *e, const bitnet_tensor_input_t *in) {
    const int32_t stage = in->name[0] == 'k' ? BITNET_STAGE_K_ROPE : BITNET_STAGE_V_PROJ;
    const uint64_t n = in->shape[1] * in->shape[2];
    int32_t cell;
    uint64_t i;
    if (in->shape[0] != (uint64_t)e->header.position + 1) wrong(s, e, in->name, "other number of positions");
    for (cell = 0; cell < (int32_t)in->shape[0]; cell++) {
        const struct row *row = find(s, stage, e->header.layer, cell);
        if (!row || row->n != n) {
            wrong(s, e, in->name, "no such row before");
            return;
        }
        for (i = 0; i < n; i++) {
            const float cached = value(in->data, in->dtype, (uint64_t)cell * n + i);
            if (fabsf(cached - row->values[i]) > 1e-3f * fabsf(row->values[i]) + 1e-6f) {
                wrong(s, e, in->name, "other values");
                return;
            }
        }
    }
    s->n_cache++;
}

/* The context is the probabilities times the cached values, head by head. */
static void check_attention(struct state *s, const bitnet_tensor_event_t *e, const bitnet_tensor_input_t *p,
                            const bitnet_tensor_input_t *v) {
    const uint64_t n_head = p->shape[0], n_cells = p->shape[1], n_head_kv = v->shape[1], head_dim = v->shape[2];
    const float *context = e->data, *probability = p->data;
    uint64_t h, i, c;
    for (h = 0; h < n_head; h++)
        for (i = 0; i < head_dim; i++) {
            double sum = 0;
            for (c = 0; c < n_cells; c++)
                sum += probability[h * n_cells + c] *
                       value(v->data, v->dtype, (c * n_head_kv + h * n_head_kv / n_head) * head_dim + i);
            if (fabs(sum - context[h * head_dim + i]) > 2e-3 * (1 + fabs(sum))) {
                wrong(s, e, v->name, "not what the context was made of");
                return;
            }
        }
    s->n_attention++;
}

static void keep(struct state *s, const bitnet_tensor_event_t *e, uint32_t r) {
    struct row *row = &s->rows[s->n_rows];
    if (s->n_rows == ROWS_MAX) return;
    row->stage = e->stage;
    row->layer = e->header.layer;
    row->position = e->header.position + (int32_t)r;
    row->n = e->row_elements;
    row->values = malloc(row->n * sizeof(float));
    memcpy(row->values, (const char *)e->data + r * e->row_stride, row->n * sizeof(float));
    s->n_rows++;
}

static bitnet_status_t on_event(void *state, const bitnet_event_t *event) {
    const bitnet_tensor_event_t *e = (const bitnet_tensor_event_t *)event;
    struct state *s = state;
    uint32_t i, r;
    for (i = 0; i < e->n_inputs; i++) {
        if (e->inputs[i].stage)
            for (r = 0; r < e->n_rows; r++) check_row(s, e, &e->inputs[i], r);
        else if (strstr(e->inputs[i].name, "_cache"))
            check_cache(s, e, &e->inputs[i]);
        else
            wrong(s, e, e->inputs[i].name, "neither a stage nor the cache");
    }
    if (e->stage == BITNET_STAGE_ATTN_CONTEXT && e->n_inputs == 2) check_attention(s, e, &e->inputs[0], &e->inputs[1]);
    if (e->header.layer > s->last_layer) s->last_layer = e->header.layer;
    for (r = 0; r < e->n_rows; r++) keep(s, e, r);
    return BITNET_OK;
}

static bitnet_status_t open_check(void **state, const bitnet_trace_host_t *host, const char *config) {
    struct state *s = calloc(1, sizeof *s);
    (void)host;
    if (!s) return BITNET_E_NOMEM;
    snprintf(s->path, sizeof s->path, "%s", config);
    *state = s;
    return BITNET_OK;
}

static void close_check(void *state) {
    struct state *s = state;
    FILE *file = fopen(s->path, "w");
    int i;
    if (file) {
        fprintf(file, "rows %d cache %d attention %d wrong %d\n%s\n", s->n_checked, s->n_cache, s->n_attention,
                s->n_wrong, s->first_wrong);
        fclose(file);
    }
    for (i = 0; i < s->n_rows; i++) free(s->rows[i].values);
    free(s);
}

__attribute__((visibility("default"))) const bitnet_trace_sink_t *
bitnet_trace_plugin_v1(const bitnet_trace_host_t *host) {
    static const bitnet_trace_sink_t sink = {sizeof(bitnet_trace_sink_t),
                                             BITNET_ABI_VERSION,
                                             "input_check",
                                             1u << BITNET_EVENT_TENSOR,
                                             open_check,
                                             on_event,
                                             NULL,
                                             close_check};
    (void)host;
    return &sink;
}
