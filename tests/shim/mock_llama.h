/* The made-up libllama of the tests. */
#pragma once

#include <stdint.h>

struct mock_llama;
struct mock_batch {
    int n, n_outputs; /* logits of the last n_outputs tokens */
    const int32_t *tokens, *positions;
    const int32_t *sequences; /* of the rows; NULL: all of sequence 0, each in the cell of its position */
};

/* How graphs are made. All but the first change them from position 6 on; MOCK_OTHER_... keep the number of nodes. */
enum {
    MOCK_SAME_MEMORY = 1,   /* each where the one before was */
    MOCK_UNSEEN = 2,        /* memory is allotted by a function that nobody knows */
    MOCK_WITHIN = 4,        /* it is allotted while they are computed */
    MOCK_OTHER_SOURCES = 8, /* the weights of ffn_gate and ffn_up change places */
    MOCK_OTHER_NAMES = 16,  /* or their names do */
    MOCK_OTHER_OPERATION = 32,
    MOCK_OTHER_SCALE = 64,  /* of the softmax */
    MOCK_OTHER_HEADS = 128, /* half as many, twice as wide */
    MOCK_OTHER_VIEW = 256,  /* the second addition of a layer is in place */
    MOCK_OTHER_ORDER = 512  /* of the same nodes */
};

struct mock_llama *mock_llama_new(const char *path, int in_place);
void mock_llama_free(struct mock_llama *);
void mock_llama_make(struct mock_llama *, unsigned how); /* MOCK_... */
void mock_llama_watch(struct mock_llama *);
int mock_llama_seen(const struct mock_llama *);
int mock_llama_decode(struct mock_llama *, const struct mock_batch *);
const float *mock_llama_logits(const struct mock_llama *);
int mock_llama_n_vocab(void);
void llama_set_warmup(void *, _Bool);
