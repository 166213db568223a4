/* Preloaded in front of libbitnet.so, it makes one way of running wrong, as FAULT says:
 *   threads:N  contexts with N threads compute with another epsilon
 *   isa:NAME   contexts of that instruction set with n_batch 3 do
 *   fork       a forked context has another last token
 *   silent     nothing is traced */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "bitnet_c.h"

#define REAL(function) ((__typeof__(&function))dlsym(RTLD_NEXT, #function))

/* What follows `kind` in FAULT; NULL when it says another fault. */
static const char *fault(const char *kind) {
    const char *text = getenv("FAULT");
    return text && strncmp(text, kind, strlen(kind)) == 0 ? text + strlen(kind) : NULL;
}

static const void *model_data;
static size_t model_bytes;

bitnet_status_t bitnet_load_memory(const void *data, size_t n_bytes, const char *name,
                                   const bitnet_load_params_t *params, bitnet_model_t **out) {
    model_data = data;
    model_bytes = n_bytes;
    return REAL(bitnet_load_memory)(data, n_bytes, name, params, out);
}

bitnet_status_t bitnet_context_create(const bitnet_model_t *model, const bitnet_context_params_t *params,
                                      bitnet_ctx_t **out) {
    const char *threads = fault("threads:"), *isa = fault("isa:");
    const int is_wrong = (threads && params->n_threads == atoi(threads)) ||
                         (isa && params->n_batch == 3 && strcmp(bitnet_model_isa(model), isa) == 0);
    bitnet_load_params_t load = {sizeof load, 0, bitnet_model_isa(model), "eps=1.1e-5", NULL, NULL};
    bitnet_model_t *altered = NULL;
    bitnet_status_t status;
    if (!is_wrong) return REAL(bitnet_context_create)(model, params, out);
    status = REAL(bitnet_load_memory)(model_data, model_bytes, "altered", &load, &altered);
    if (status == BITNET_OK) status = REAL(bitnet_context_create)(altered, params, out);
    bitnet_model_free(altered); /* the context keeps what it needs */
    return status;
}

bitnet_status_t bitnet_context_fork(bitnet_ctx_t *ctx, bitnet_ctx_t **out) {
    const int32_t token = 1;
    if (fault("fork") && (bitnet_context_truncate(ctx, bitnet_context_position(ctx) - 1) != BITNET_OK ||
                          bitnet_eval_tokens(ctx, &token, 1, NULL) != BITNET_OK))
        return BITNET_E_INTERNAL;
    return REAL(bitnet_context_fork)(ctx, out);
}

bitnet_status_t bitnet_trace_select(bitnet_ctx_t *ctx, const char *selection) {
    return REAL(bitnet_trace_select)(ctx, fault("silent") ? "999999:*:*" : selection);
}
