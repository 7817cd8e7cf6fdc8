/* SPDX-License-Identifier: Apache-2.0
 *
 * What prefill, decode and one_process share: where the model is, the prompt, and how the K and V
 * of a prompt become tensors.
 *
 *	prefill (rank 0)                                  decode (rank 1)
 *	header   int64[HEADER_NUMBERS]                →   reserves blocks, posts receives into them
 *	layer 0: the K, then the V of block 0, 1, ... →   each lands in its block
 *	layer 1: ...                                  →
 *	token    uint8[1], the first one              →   all is there: continues
 *
 * A piece is the K, or the V, of one block in one layer: fp32[tokens in the block, kv heads,
 * head_dim].  Only the last block may hold fewer than LLAMA_BLOCK_TOKENS tokens.  Both ends have
 * caches of their own, and a sequence has other blocks there: block ids never travel, the order of
 * the pieces says it all.
 */
#ifndef EXAMPLES_DEMO_H
#define EXAMPLES_DEMO_H

#include "common.h"
#include "llama/llama.h"

enum { HEADER_TOKENS, HEADER_LAYERS, HEADER_KV_HEADS, HEADER_HEAD_DIM, HEADER_NUMBERS };

/* Options of these three programs, besides PIPE_OPTIONS. */
enum { OPT_MODEL = OPT_OWN, OPT_PROMPT, OPT_PROMPT_FILE, OPT_STEPS };

#define MODEL_USAGE                                                                                \
	"  --model DIR        with config.json and model.safetensors (the one of the sources)\n"
#define PROMPT_USAGE                                                                               \
	"  --prompt TEXT      (the beginning of Genesis)\n"                                        \
	"  --prompt-file FILE the prompt is what the file holds, to its last byte\n"

/* Ends the program with the model's sentence if it cannot be loaded.  dir NULL: the
 * environment's KVP_MODEL_DIR, or the directory of the sources. */
llama_model *load_model(const char *dir);

/* A cache for one sequence of n_tokens and as many blocks again, so that its blocks lie
 * scattered as they do in a server: in another way for each seed. */
llama_cache *make_cache(const llama_model *model, size_t n_tokens, uint64_t seed);

struct prompt {
	uint8_t tokens[LLAMA_MAX_TOKENS]; /* tokens are bytes */
	size_t count;
};
void prompt_from_text(struct prompt *prompt, const char *text); /* NULL: the default prompt */
void prompt_from_file(struct prompt *prompt, const char *path);

/* The pieces of a sequence of n_tokens: in one layer, and the index-th of all, in the order they
 * travel. */
size_t pieces_per_layer(size_t n_tokens);
void describe_piece(kvp_tensor *tensor, const llama_config *config, llama_cache *cache,
    const llama_sequence *sequence, size_t n_tokens, size_t index);

#endif
