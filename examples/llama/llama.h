/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small Llama in plain C, for the prefill and decode example programs.
 *
 * It does what a serving engine does, at a size that can be read in one sitting: prefill computes a
 * prompt layer by layer and leaves its K and V in the blocks of a paged cache; decode continues
 * from such blocks, whoever filled them. float32 throughout, one thread, no dependency beyond
 * jansson and libm.
 *
 * The same program gives the same bytes on each run. Every sum is taken in one fixed order that
 * does not depend on how the tokens were batched, so a prompt prefilled at once, in pieces or token
 * by token leaves the same cache.
 *
 * Tokens are bytes: the vocabulary has 256 entries and a text is its own token array.
 *
 * Threads: a model never changes after llama_model_load() and may be used by many threads. A cache,
 * and the sequences that own its blocks, belong to one thread at a time.
 *
 * Errors: a function that can fail returns NULL or -1 and writes one sentence to `err` (which may
 * be NULL). It has then changed nothing.
 */
#ifndef LLAMA_H
#define LLAMA_H

#include <stddef.h>
#include <stdint.h>

#define LLAMA_VOCAB_SIZE 256u  /* tokens are bytes */
#define LLAMA_MAX_TOKENS 2048u /* longest sequence, prompt and continuation together */
#define LLAMA_BLOCK_TOKENS 16u /* tokens per cache block */
#define LLAMA_MAX_BLOCKS (LLAMA_MAX_TOKENS / LLAMA_BLOCK_TOKENS)

typedef struct llama_error {
	char text[512]; /* one line, no newline */
} llama_error;

/* ---- model ---- */

typedef struct llama_config {
	size_t n_layers;
	size_t n_heads;           /* query heads */
	size_t n_kv_heads;        /* divides n_heads */
	size_t head_dim;          /* floats per head */
	size_t hidden_size;       /* floats per token between layers */
	size_t intermediate_size; /* width of the MLP */
	size_t max_tokens;        /* longest sequence: at most LLAMA_MAX_TOKENS */
	float rms_norm_eps;
	float rope_theta;
	int tie_word_embeddings; /* 1: the output matrix is the embedding matrix */
} llama_config;

typedef struct llama_model llama_model;

/*
 * Loads config.json and model.safetensors (bfloat16) from a directory as Hugging Face transformers
 * writes it. Returns a model owned by the caller, or NULL; the sentence then names the file and the
 * key or tensor at fault.
 */
llama_model *llama_model_load(const char *dir, llama_error *err);
void llama_model_free(llama_model *model); /* accepts NULL */

/* Belongs to the model and lives as long. */
const llama_config *llama_model_config(const llama_model *model);

/* ---- cache ---- */

/*
 * A pool of blocks of LLAMA_BLOCK_TOKENS tokens, in one piece of memory, as float32:
 *
 *     [layer][K, V][block][token in block][kv head][head_dim]
 *
 * so that a block of one layer's K, or V, is contiguous, and a caller can describe all of it as one
 * strided tensor or send single blocks.
 */
typedef struct llama_cache llama_cache;

enum { LLAMA_K = 0, LLAMA_V = 1 };

/* Strides of the layout above, in bytes. */
typedef struct llama_cache_layout {
	size_t n_layers;
	size_t n_blocks;
	size_t token_bytes; /* from a token to the next: n_kv_heads * head_dim floats */
	size_t block_bytes; /* from a block to the next: LLAMA_BLOCK_TOKENS * token_bytes */
	size_t kv_bytes;    /* from K to V of one layer: n_blocks * block_bytes */
	size_t layer_bytes; /* from a layer to the next: 2 * kv_bytes */
	size_t total_bytes; /* n_layers * layer_bytes */
} llama_cache_layout;

/*
 * The layout of a cache of n_blocks blocks, without making one: for a caller who brings the memory.
 * -1 if n_blocks is 0 or the size is beyond this machine's size_t.
 */
int llama_cache_plan(
    const llama_config *config, size_t n_blocks, llama_cache_layout *layout, llama_error *err);

/*
 * Makes a cache of n_blocks blocks, all free. `memory` NULL: the cache owns zeroed memory of its
 * own, aligned to 4,096 bytes. Otherwise the cache borrows `memory` (total_bytes of the plan,
 * aligned for float) until llama_cache_free().
 *
 * `seed` fixes the order in which blocks are handed out: 0 means ascending from block 0; any other
 * value a shuffle, the same on each run, so that a sequence's blocks lie scattered as they do in a
 * server that has run for a while.
 */
llama_cache *llama_cache_new(
    const llama_config *config, size_t n_blocks, uint64_t seed, void *memory, llama_error *err);

/* Accepts NULL. Sequences that own blocks of it must no longer be used. */
void llama_cache_free(llama_cache *cache);

const llama_cache_layout *llama_cache_get_layout(const llama_cache *cache);
void *llama_cache_memory(llama_cache *cache);        /* the first of total_bytes bytes */
size_t llama_cache_n_free(const llama_cache *cache); /* blocks not owned by any sequence */

/* One block of a layer's K or V: block_bytes, contiguous. The arguments must be in range. */
float *llama_cache_block(llama_cache *cache, size_t layer, int kv, uint32_t block_id);

/* ---- sequence ---- */

/*
 * A sequence owns blocks of one cache. Token t lies in block block_ids[t / 16] at row t % 16. All
 * zero is the empty sequence; the struct owns no memory of its own.
 *
 * n_tokens is set by prefill and decode. A program that receives K and V from elsewhere reserves,
 * fills the blocks, and sets n_tokens itself to the number of tokens that have arrived in all
 * layers.
 */
typedef struct llama_sequence {
	uint32_t block_ids[LLAMA_MAX_BLOCKS];
	size_t n_blocks; /* block_ids in use */
	size_t n_tokens; /* tokens whose K and V are in the cache; the next token's position */
} llama_sequence;

/*
 * Makes sure that the sequence owns blocks for n_tokens tokens in total. All or nothing: -1 if
 * n_tokens is above LLAMA_MAX_TOKENS or the cache has too few free blocks.
 */
int llama_sequence_reserve(
    llama_cache *cache, llama_sequence *seq, size_t n_tokens, llama_error *err);

/* Gives the blocks back and empties the sequence. */
void llama_sequence_release(llama_cache *cache, llama_sequence *seq);

/* ---- computation ---- */

/*
 * Called once per layer of a prefill, in order from layer 0, when the layer's K and V of all prompt
 * tokens are final: they may be sent while the rest is computed. It must not change the cache or
 * the sequence.
 */
typedef void llama_layer_done(void *user, size_t layer);

/*
 * Computes n_tokens tokens, layer by layer, at the positions that follow seq->n_tokens (0 for a new
 * sequence), and reserves their blocks first, so that the block table is complete at the first
 * layer_done (which may be NULL). `logits` receives LLAMA_VOCAB_SIZE floats, those of the last
 * token.
 *
 * -1 if n_tokens is 0, the sequence would exceed the model's max_tokens, the cache is full or of
 * another shape than the model, or memory runs out.
 */
int llama_prefill(const llama_model *model, llama_cache *cache, llama_sequence *seq,
    const uint8_t *tokens, size_t n_tokens, llama_layer_done *layer_done, void *user, float *logits,
    llama_error *err);

/* One step: computes `token` at position seq->n_tokens. Otherwise as llama_prefill(). */
int llama_decode(const llama_model *model, llama_cache *cache, llama_sequence *seq, uint8_t token,
    float *logits, llama_error *err);

/* The token with the largest of LLAMA_VOCAB_SIZE logits, the lowest if several are equal. */
uint8_t llama_argmax(const float *logits);

/*
 * The whole run in one process, to compare with: prefills the prompt and continues it greedily by
 * n_steps tokens, written to `out`. Takes blocks from the cache and gives them back. -1 as
 * llama_prefill(); the prompt and the continuation together must fit max_tokens. After -1, `out`
 * may hold anything.
 */
int llama_generate(const llama_model *model, llama_cache *cache, const uint8_t *prompt,
    size_t n_prompt, uint8_t *out, size_t n_steps, llama_error *err);

#endif
