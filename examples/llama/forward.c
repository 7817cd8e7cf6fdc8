/* SPDX-License-Identifier: Apache-2.0 */
/* The forward pass: prefill takes all tokens through a layer before it starts the next; decode is
 * the same for one. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "llama/error.h"
#include "llama/model.h"

/* One call's tokens and its working memory; each array but the last has a row per token. */
struct pass {
	const llama_model *model;
	llama_cache *cache;
	const llama_sequence *seq;
	size_t first; /* position of the first token */
	size_t n_tokens;
	float *hidden;    /* [hidden_size] what flows from layer to layer */
	float *normed;    /* [hidden_size] */
	float *q;         /* [n_heads][head_dim] */
	float *k, *v;     /* [n_kv_heads][head_dim] */
	float *attended;  /* [n_heads][head_dim] */
	float *gate, *up; /* [intermediate_size] */
	float *projected; /* [hidden_size] what attention or MLP adds to hidden */
	float *scores;    /* one row for all: a number per position up to the last token's */
};

/* One allocation for all arrays; it starts at pass->hidden. */
static int pass_alloc(struct pass *pass, llama_error *err)
{
	const llama_config *c = &pass->model->config;
	size_t q_width = c->n_heads * c->head_dim;
	size_t kv_width = c->n_kv_heads * c->head_dim;
	const struct {
		float **array;
		size_t width;
	} parts[] = {
	    {&pass->hidden, c->hidden_size},
	    {&pass->normed, c->hidden_size},
	    {&pass->q, q_width},
	    {&pass->k, kv_width},
	    {&pass->v, kv_width},
	    {&pass->attended, q_width},
	    {&pass->gate, c->intermediate_size},
	    {&pass->up, c->intermediate_size},
	    {&pass->projected, c->hidden_size},
	};
	size_t n_parts = sizeof parts / sizeof parts[0];
	size_t width = 0;
	for (size_t i = 0; i < n_parts; i++)
		width += parts[i].width;
	float *memory =
	    malloc((pass->n_tokens * width + pass->first + pass->n_tokens) * sizeof *memory);
	if (!memory)
		return llama_error_set(err, "no memory to compute %zu tokens", pass->n_tokens);
	for (size_t i = 0; i < n_parts; i++) {
		*parts[i].array = memory;
		memory += pass->n_tokens * parts[i].width;
	}
	pass->scores = memory;
	return 0;
}

/* Where the token at `position` has its K or V in this layer: [n_kv_heads][head_dim]. */
static float *cache_row(const struct pass *pass, size_t layer, int kv, size_t position)
{
	const llama_config *c = &pass->model->config;
	uint32_t block_id = pass->seq->block_ids[position / LLAMA_BLOCK_TOKENS];
	return llama_cache_block(pass->cache, layer, kv, block_id) +
	       position % LLAMA_BLOCK_TOKENS * c->n_kv_heads * c->head_dim;
}

/* Rotates q and k of all tokens to their positions and stores k and v in the cache. */
static void rotate_and_store(struct pass *pass, size_t layer)
{
	const llama_config *c = &pass->model->config;
	size_t kv_width = c->n_kv_heads * c->head_dim;
	for (size_t t = 0; t < pass->n_tokens; t++) {
		size_t position = pass->first + t;
		const float *cos_sin = pass->model->cos_sin + position * c->head_dim;
		float *k = pass->k + t * kv_width;
		for (size_t h = 0; h < c->n_heads; h++)
			llama_rope(
			    cos_sin, c->head_dim, pass->q + (t * c->n_heads + h) * c->head_dim);
		for (size_t h = 0; h < c->n_kv_heads; h++)
			llama_rope(cos_sin, c->head_dim, k + h * c->head_dim);
		memcpy(cache_row(pass, layer, LLAMA_K, position), k, kv_width * sizeof *k);
		memcpy(cache_row(pass, layer, LLAMA_V, position), pass->v + t * kv_width,
		    kv_width * sizeof *k);
	}
}

/* One query head of one token over the n_keys positions up to its own; all of them are read from
 * the cache. */
static void attend(const struct pass *pass, size_t layer, size_t kv_head, const float *q,
    size_t n_keys, float *out)
{
	size_t head_dim = pass->model->config.head_dim;
	float scale = 1.0f / sqrtf((float)head_dim);
	float *scores = pass->scores;

	for (size_t p = 0; p < n_keys; p++)
		scores[p] = llama_dot(q, cache_row(pass, layer, LLAMA_K, p) + kv_head * head_dim,
		                head_dim) *
		            scale;
	llama_softmax(scores, n_keys);
	for (size_t i = 0; i < head_dim; i++)
		out[i] = 0.0f;
	for (size_t p = 0; p < n_keys; p++)
		llama_add_scaled(scores[p], cache_row(pass, layer, LLAMA_V, p) + kv_head * head_dim,
		    head_dim, out);
}

static void attention(struct pass *pass, size_t layer)
{
	const llama_config *c = &pass->model->config;
	const llama_layer *w = &pass->model->layers[layer];
	size_t n = pass->n_tokens;
	size_t queries_per_kv = c->n_heads / c->n_kv_heads;

	llama_rms_norm(
	    w->attention_norm, c->rms_norm_eps, pass->hidden, n, c->hidden_size, pass->normed);
	llama_matmul(&w->q, pass->normed, n, pass->q);
	llama_matmul(&w->k, pass->normed, n, pass->k);
	llama_matmul(&w->v, pass->normed, n, pass->v);
	rotate_and_store(pass, layer);
	for (size_t t = 0; t < n; t++) {
		for (size_t h = 0; h < c->n_heads; h++) {
			size_t at = (t * c->n_heads + h) * c->head_dim;
			attend(pass, layer, h / queries_per_kv, pass->q + at, pass->first + t + 1,
			    pass->attended + at);
		}
	}
	llama_matmul(&w->o, pass->attended, n, pass->projected);
	llama_add(pass->projected, n * c->hidden_size, pass->hidden);
}

static void mlp(struct pass *pass, size_t layer)
{
	const llama_config *c = &pass->model->config;
	const llama_layer *w = &pass->model->layers[layer];
	size_t n = pass->n_tokens;

	llama_rms_norm(w->mlp_norm, c->rms_norm_eps, pass->hidden, n, c->hidden_size, pass->normed);
	llama_matmul(&w->gate, pass->normed, n, pass->gate);
	llama_matmul(&w->up, pass->normed, n, pass->up);
	llama_swiglu(pass->up, n * c->intermediate_size, pass->gate);
	llama_matmul(&w->down, pass->gate, n, pass->projected);
	llama_add(pass->projected, n * c->hidden_size, pass->hidden);
}

static void compute_logits(struct pass *pass, float *logits)
{
	const llama_config *c = &pass->model->config;
	const float *last = pass->hidden + (pass->n_tokens - 1) * c->hidden_size;
	llama_rms_norm(
	    pass->model->output_norm, c->rms_norm_eps, last, 1, c->hidden_size, pass->normed);
	llama_matmul(&pass->model->output, pass->normed, 1, logits);
}

/* A sequence may come from the caller's own bookkeeping, a cache from another model. */
static int check_arguments(const llama_model *model, const llama_cache *cache,
    const llama_sequence *seq, size_t n_tokens, llama_error *err)
{
	const llama_config *c = &model->config;
	const llama_cache_layout *layout = llama_cache_get_layout(cache);
	if (layout->n_layers != c->n_layers ||
	    layout->token_bytes != c->n_kv_heads * c->head_dim * sizeof(float))
		return llama_error_set(err, "the cache was made for a model of another shape");
	if (seq->n_blocks > LLAMA_MAX_BLOCKS || seq->n_tokens > seq->n_blocks * LLAMA_BLOCK_TOKENS)
		return llama_error_set(err, "a sequence of %zu tokens cannot lie in %zu blocks",
		    seq->n_tokens, seq->n_blocks);
	for (size_t i = 0; i < seq->n_blocks; i++)
		if (seq->block_ids[i] >= layout->n_blocks)
			return llama_error_set(err,
			    "the sequence names block %u of a cache with %zu blocks",
			    (unsigned)seq->block_ids[i], layout->n_blocks);
	if (n_tokens == 0)
		return llama_error_set(err, "there are no tokens to compute");
	if (seq->n_tokens > c->max_tokens || n_tokens > c->max_tokens - seq->n_tokens)
		return llama_error_set(err, "%zu tokens after %zu are more than the model's %zu",
		    n_tokens, seq->n_tokens, c->max_tokens);
	return 0;
}

int llama_prefill(const llama_model *model, llama_cache *cache, llama_sequence *seq,
    const uint8_t *tokens, size_t n_tokens, llama_layer_done *layer_done, void *user, float *logits,
    llama_error *err)
{
	const llama_config *c = &model->config;
	struct pass pass = {.model = model,
	    .cache = cache,
	    .seq = seq,
	    .first = seq->n_tokens,
	    .n_tokens = n_tokens};
	if (check_arguments(model, cache, seq, n_tokens, err) || pass_alloc(&pass, err))
		return -1;
	if (llama_sequence_reserve(cache, seq, seq->n_tokens + n_tokens, err)) {
		free(pass.hidden);
		return -1;
	}
	for (size_t t = 0; t < n_tokens; t++)
		memcpy(pass.hidden + t * c->hidden_size,
		    model->embeddings + tokens[t] * c->hidden_size, c->hidden_size * sizeof(float));
	for (size_t layer = 0; layer < c->n_layers; layer++) {
		attention(&pass, layer);
		if (layer_done)
			layer_done(user, layer);
		mlp(&pass, layer);
	}
	compute_logits(&pass, logits);
	seq->n_tokens += n_tokens;
	free(pass.hidden);
	return 0;
}

int llama_decode(const llama_model *model, llama_cache *cache, llama_sequence *seq, uint8_t token,
    float *logits, llama_error *err)
{
	return llama_prefill(model, cache, seq, &token, 1, NULL, NULL, logits, err);
}
