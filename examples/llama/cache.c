/* SPDX-License-Identifier: Apache-2.0 */
/* The paged cache: one piece of memory, a stack of free block ids, and the sequences that own
 * blocks. */
#include <stdlib.h>
#include <string.h>

#include "llama/error.h"
#include "llama/llama.h"

enum { MEMORY_ALIGNMENT = 4096 };

struct llama_cache {
	llama_cache_layout layout;
	unsigned char *memory;
	int owns_memory;
	uint32_t *free_ids; /* a stack: the next block handed out is the last one */
	size_t n_free;
};

int llama_cache_plan(
    const llama_config *config, size_t n_blocks, llama_cache_layout *layout, llama_error *err)
{
	/* The configuration's numbers are bounded; only n_blocks can make a product too large. */
	size_t token_bytes = config->n_kv_heads * config->head_dim * sizeof(float);
	size_t block_bytes = LLAMA_BLOCK_TOKENS * token_bytes;
	size_t block_bytes_all_layers = 2 * config->n_layers * block_bytes;
	if (n_blocks == 0)
		return llama_error_set(err, "a cache needs at least one block");
	if (n_blocks > UINT32_MAX ||
	    n_blocks > (SIZE_MAX - MEMORY_ALIGNMENT) / block_bytes_all_layers)
		return llama_error_set(err, "a cache of %zu blocks is too large", n_blocks);
	*layout = (llama_cache_layout){
	    .n_layers = config->n_layers,
	    .n_blocks = n_blocks,
	    .token_bytes = token_bytes,
	    .block_bytes = block_bytes,
	    .kv_bytes = n_blocks * block_bytes,
	    .layer_bytes = 2 * n_blocks * block_bytes,
	    .total_bytes = n_blocks * block_bytes_all_layers,
	};
	return 0;
}

/* splitmix64: a small generator whose whole state is one number. */
static uint64_t next_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static void fill_free_ids(llama_cache *cache, uint64_t seed)
{
	size_t n = cache->layout.n_blocks;
	for (size_t i = 0; i < n; i++)
		cache->free_ids[i] = (uint32_t)(n - 1 - i);
	cache->n_free = n;
	for (size_t i = n - 1; seed && i > 0; i--) { /* Fisher-Yates */
		size_t j = (size_t)(next_random(&seed) % (i + 1));
		uint32_t id = cache->free_ids[i];
		cache->free_ids[i] = cache->free_ids[j];
		cache->free_ids[j] = id;
	}
}

static unsigned char *new_memory(size_t n_bytes)
{
	size_t rounded = (n_bytes + MEMORY_ALIGNMENT - 1) / MEMORY_ALIGNMENT * MEMORY_ALIGNMENT;
	unsigned char *memory = aligned_alloc(MEMORY_ALIGNMENT, rounded);
	if (memory)
		memset(memory, 0, rounded);
	return memory;
}

llama_cache *llama_cache_new(
    const llama_config *config, size_t n_blocks, uint64_t seed, void *memory, llama_error *err)
{
	llama_cache_layout layout;
	if (llama_cache_plan(config, n_blocks, &layout, err))
		return NULL;
	llama_cache *cache = calloc(1, sizeof *cache);
	if (cache) {
		cache->layout = layout;
		cache->owns_memory = !memory;
		cache->memory = memory ? memory : new_memory(layout.total_bytes);
		cache->free_ids = calloc(n_blocks, sizeof *cache->free_ids);
	}
	if (!cache || !cache->memory || !cache->free_ids) {
		llama_error_set(err, "no memory for a cache of %zu bytes", layout.total_bytes);
		llama_cache_free(cache);
		return NULL;
	}
	fill_free_ids(cache, seed);
	return cache;
}

void llama_cache_free(llama_cache *cache)
{
	if (!cache)
		return;
	if (cache->owns_memory)
		free(cache->memory);
	free(cache->free_ids);
	free(cache);
}

const llama_cache_layout *llama_cache_get_layout(const llama_cache *cache)
{
	return &cache->layout;
}

void *llama_cache_memory(llama_cache *cache)
{
	return cache->memory;
}

size_t llama_cache_n_free(const llama_cache *cache)
{
	return cache->n_free;
}

float *llama_cache_block(llama_cache *cache, size_t layer, int kv, uint32_t block_id)
{
	const llama_cache_layout *l = &cache->layout;
	return (float *)(void *)(cache->memory + layer * l->layer_bytes + (size_t)kv * l->kv_bytes +
	                         block_id * l->block_bytes);
}

int llama_sequence_reserve(
    llama_cache *cache, llama_sequence *seq, size_t n_tokens, llama_error *err)
{
	if (n_tokens > LLAMA_MAX_TOKENS)
		return llama_error_set(err,
		    "a sequence of %zu tokens is longer than the limit of %u", n_tokens,
		    LLAMA_MAX_TOKENS);
	size_t n_blocks = (n_tokens + LLAMA_BLOCK_TOKENS - 1) / LLAMA_BLOCK_TOKENS;
	if (n_blocks <= seq->n_blocks)
		return 0;
	if (n_blocks - seq->n_blocks > cache->n_free)
		return llama_error_set(err,
		    "%zu tokens need %zu more blocks, and the cache has %zu free of %zu", n_tokens,
		    n_blocks - seq->n_blocks, cache->n_free, cache->layout.n_blocks);
	while (seq->n_blocks < n_blocks)
		seq->block_ids[seq->n_blocks++] = cache->free_ids[--cache->n_free];
	return 0;
}

void llama_sequence_release(llama_cache *cache, llama_sequence *seq)
{
	while (seq->n_blocks > 0)
		cache->free_ids[cache->n_free++] = seq->block_ids[--seq->n_blocks];
	seq->n_tokens = 0;
}
