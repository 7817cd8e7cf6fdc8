/* SPDX-License-Identifier: Apache-2.0 */
#include "llama/error.h"
#include "llama/llama.h"

uint8_t llama_argmax(const float *logits)
{
	size_t best = 0;
	for (size_t i = 1; i < LLAMA_VOCAB_SIZE; i++)
		if (logits[i] > logits[best])
			best = i;
	return (uint8_t)best;
}

static int generate(const llama_model *model, llama_cache *cache, llama_sequence *seq,
    const uint8_t *prompt, size_t n_prompt, uint8_t *out, size_t n_steps, llama_error *err)
{
	float logits[LLAMA_VOCAB_SIZE];
	/* All blocks at once: a cache that is too small shows before there is any output. */
	if (llama_sequence_reserve(cache, seq, n_prompt + n_steps, err) ||
	    llama_prefill(model, cache, seq, prompt, n_prompt, NULL, NULL, logits, err))
		return -1;
	for (size_t i = 0; i < n_steps; i++) {
		out[i] = llama_argmax(logits);
		if (i + 1 < n_steps && llama_decode(model, cache, seq, out[i], logits, err))
			return -1;
	}
	return 0;
}

int llama_generate(const llama_model *model, llama_cache *cache, const uint8_t *prompt,
    size_t n_prompt, uint8_t *out, size_t n_steps, llama_error *err)
{
	size_t max_tokens = llama_model_config(model)->max_tokens;
	if (n_prompt > max_tokens || n_steps > max_tokens - n_prompt)
		return llama_error_set(err,
		    "a prompt of %zu tokens and %zu more exceed the model's %zu", n_prompt, n_steps,
		    max_tokens);
	llama_sequence seq = {.n_blocks = 0};
	int rc = generate(model, cache, &seq, prompt, n_prompt, out, n_steps, err);
	llama_sequence_release(cache, &seq);
	return rc;
}
