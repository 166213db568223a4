/* The made-up libllama of the tests. */
#pragma once

#include <stdint.h>

struct mock_llama;
struct mock_batch {
    int n, n_outputs; /* logits of the last n_outputs tokens */
    const int32_t *tokens, *positions;
    const int32_t *sequences; /* of the rows; NULL: all of sequence 0, each in the cell of its position */
};

struct mock_llama *mock_llama_new(const char *path, int in_place);
void mock_llama_free(struct mock_llama *);
void mock_llama_watch(struct mock_llama *);
int mock_llama_seen(const struct mock_llama *);
int mock_llama_decode(struct mock_llama *, const struct mock_batch *);
const float *mock_llama_logits(const struct mock_llama *);
int mock_llama_n_vocab(void);
void llama_set_warmup(void *, _Bool);
