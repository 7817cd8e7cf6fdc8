/* SPDX-License-Identifier: Apache-2.0 */
/* What a loaded model holds, for the files of this folder. */
#ifndef LLAMA_MODEL_H
#define LLAMA_MODEL_H

#include "llama/llama.h"
#include "llama/ops.h"

typedef struct llama_layer {
	float *attention_norm;   /* [hidden_size] */
	llama_matrix q, k, v, o; /* hidden_size to heads * head_dim, and back */
	float *mlp_norm;         /* [hidden_size] */
	llama_matrix gate, up, down;
} llama_layer;

struct llama_model {
	llama_config config;
	float *embeddings; /* [token][hidden_size] */
	llama_layer *layers;
	float *output_norm;  /* [hidden_size] */
	llama_matrix output; /* hidden_size to LLAMA_VOCAB_SIZE */
	float *cos_sin;      /* [position][head_dim]: what llama_rope() takes */
};

#endif
