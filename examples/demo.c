/* SPDX-License-Identifier: Apache-2.0 */
#include "demo.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char default_prompt[] =
    "In the beginning God created the heaven and the earth.\nAnd the earth was";

llama_model *load_model(const char *dir)
{
	llama_error error;
	llama_model *model;

	if (dir == NULL)
		dir = getenv("KVP_MODEL_DIR");
	model = llama_model_load(dir != NULL ? dir : EXAMPLES_MODEL_DIR, &error);
	if (model == NULL)
		fail("%s", error.text);
	return model;
}

llama_cache *make_cache(const llama_model *model, size_t n_tokens, uint64_t seed)
{
	llama_error error;
	size_t blocks = (n_tokens + LLAMA_BLOCK_TOKENS - 1) / LLAMA_BLOCK_TOKENS;
	llama_cache *cache =
	    llama_cache_new(llama_model_config(model), 2 * blocks, seed, NULL, &error);

	if (cache == NULL)
		fail("%s", error.text);
	return cache;
}

void prompt_from_text(struct prompt *prompt, const char *text)
{
	size_t length;

	if (text == NULL)
		text = default_prompt;
	length = strlen(text);
	if (length == 0 || length > sizeof(prompt->tokens))
		fail("a prompt of %zu bytes; it has 1 to %zu", length, sizeof(prompt->tokens));
	memcpy(prompt->tokens, text, length);
	prompt->count = length;
}

void prompt_from_file(struct prompt *prompt, const char *path)
{
	FILE *file = fopen(path, "rb");

	if (file == NULL)
		fail("%s: cannot open: %s", path, strerror(errno));
	prompt->count = fread(prompt->tokens, 1, sizeof(prompt->tokens), file);
	if (ferror(file))
		fail("%s: cannot read it", path);
	if (prompt->count == 0 || fgetc(file) != EOF)
		fail("%s: a prompt has 1 to %zu bytes", path, sizeof(prompt->tokens));
	fclose(file);
}

static size_t block_count(size_t n_tokens)
{
	return (n_tokens + LLAMA_BLOCK_TOKENS - 1) / LLAMA_BLOCK_TOKENS;
}

size_t pieces_per_layer(size_t n_tokens)
{
	return 2 * block_count(n_tokens); /* K and V */
}

void describe_piece(kvp_tensor *tensor, const llama_config *config, llama_cache *cache,
    const llama_sequence *sequence, size_t n_tokens, size_t index)
{
	size_t block = index / 2 % block_count(n_tokens);
	size_t layer = index / pieces_per_layer(n_tokens);
	size_t left = n_tokens - block * LLAMA_BLOCK_TOKENS;
	int64_t shape[3] = {(int64_t)(left < LLAMA_BLOCK_TOKENS ? left : LLAMA_BLOCK_TOKENS),
	    (int64_t)config->n_kv_heads, (int64_t)config->head_dim};
	float *data = llama_cache_block(
	    cache, layer, index % 2 == 0 ? LLAMA_K : LLAMA_V, sequence->block_ids[block]);

	must(kvp_tensor_init(tensor, data, KVP_DTYPE_FP32, 3, shape));
}
