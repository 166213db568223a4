/* What mock_llama.c knows of mock_ggml.c: functions alone, as libllama knows libggml. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct ggml_tensor;
struct ggml_context;
struct ggml_cgraph;
struct ggml_backend_sched;
struct ggml_init_params {
    size_t mem_size;
    void *mem_buffer;
    _Bool no_alloc;
};
struct gguf_init_params {
    _Bool no_alloc;
    struct ggml_context **ctx;
};

struct ggml_context *ggml_init(struct ggml_init_params);
void ggml_free(struct ggml_context *);
void ggml_reset(struct ggml_context *); /* its tensors are gone, the next ones lie where they lay */
struct ggml_tensor *ggml_new_tensor_4d(struct ggml_context *, int, int64_t, int64_t, int64_t, int64_t);
struct ggml_tensor *ggml_mul_mat(struct ggml_context *, struct ggml_tensor *, struct ggml_tensor *);
struct ggml_tensor *ggml_add(struct ggml_context *, struct ggml_tensor *, struct ggml_tensor *);
struct ggml_tensor *ggml_add_inplace(struct ggml_context *, struct ggml_tensor *, struct ggml_tensor *);
struct ggml_tensor *ggml_mul(struct ggml_context *, struct ggml_tensor *, struct ggml_tensor *);
struct ggml_tensor *ggml_silu(struct ggml_context *, struct ggml_tensor *);
struct ggml_tensor *ggml_cont(struct ggml_context *, struct ggml_tensor *);
struct ggml_tensor *ggml_rms_norm(struct ggml_context *, struct ggml_tensor *, float);
struct ggml_tensor *ggml_soft_max_ext(struct ggml_context *, struct ggml_tensor *, struct ggml_tensor *, float);
struct ggml_tensor *ggml_rope(struct ggml_context *, struct ggml_tensor *, struct ggml_tensor *, float);
struct ggml_tensor *ggml_get_rows(struct ggml_context *, struct ggml_tensor *, struct ggml_tensor *);
struct ggml_tensor *ggml_view_3d(struct ggml_context *, struct ggml_tensor *, int64_t, int64_t, int64_t, size_t, size_t,
                                 size_t);
struct ggml_tensor *ggml_reshape_3d(struct ggml_context *, struct ggml_tensor *, int64_t, int64_t, int64_t);
struct ggml_tensor *ggml_swap(struct ggml_context *, struct ggml_tensor *, int, int);
struct ggml_tensor *ggml_cpy(struct ggml_context *, struct ggml_tensor *, struct ggml_tensor *);
void ggml_set_name(struct ggml_tensor *, const char *);
void ggml_set_output(struct ggml_tensor *);
void *ggml_get_data(const struct ggml_tensor *);
size_t ggml_nbytes(const struct ggml_tensor *);
struct ggml_cgraph *ggml_new_graph(void);
void ggml_graph_clear(struct ggml_cgraph *);
void ggml_build_forward_expand(struct ggml_cgraph *, struct ggml_tensor *);
void *ggml_backend_cpu_buffer_type(void);
void *ggml_backend_alloc_ctx_tensors_from_buft(struct ggml_context *, void *);
struct ggml_backend_sched *ggml_backend_sched_new(void);
void ggml_backend_sched_free(struct ggml_backend_sched *);
_Bool ggml_backend_sched_alloc_graph(struct ggml_backend_sched *, struct ggml_cgraph *);
_Bool mock_allot(struct ggml_backend_sched *, struct ggml_cgraph *); /* the same, under a name that nobody knows */
_Bool ggml_backend_sched_reserve(struct ggml_backend_sched *, struct ggml_cgraph *);
void ggml_backend_sched_reset(struct ggml_backend_sched *);
int ggml_backend_sched_graph_compute_async(struct ggml_backend_sched *, struct ggml_cgraph *);
void ggml_backend_sched_set_eval_callback(struct ggml_backend_sched *, _Bool (*)(struct ggml_tensor *, _Bool, void *),
                                          void *);
void *gguf_init_from_file(const char *, struct gguf_init_params);
