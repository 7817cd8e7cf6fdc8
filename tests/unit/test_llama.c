/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Llama of the example programs: its text against a reference implementation's, its cache, and
 * what it says about damaged model files.
 *
 * The model's directory is the environment's KVP_MODEL_DIR, else the macro's. With KVP_TEST_QUICK
 * set, or KVP_SANITIZERS, which make check sets in a slow build, fewer and shorter prompts are
 * computed.
 */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L /* mkdtemp */
#endif
#include <check.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "llama/llama.h"
#include "llama/safetensors.h"

#ifndef KVP_MODEL_DIR
#define KVP_MODEL_DIR "examples/model"
#endif

#define N_ELEMENTS(array) (sizeof(array) / sizeof(array)[0])
#define ADD_LOOP(tcase, test, table) tcase_add_loop_test(tcase, test, 0, (int)N_ELEMENTS(table))

enum { N_REFERENCES = 3, N_QUICK_REFERENCES = 2, N_STEPS = 96, SCATTERED = 7 };

/* ---- files ---- */

/* The model directory that a test damages; made and removed around each test. */
static char scratch[400];

struct buffer {
	char *bytes;
	size_t length;
};

static const char *model_dir(void)
{
	const char *dir = getenv("KVP_MODEL_DIR");
	return dir && *dir ? dir : KVP_MODEL_DIR;
}

static int is_quick(void)
{
	return getenv("KVP_TEST_QUICK") != NULL || getenv("KVP_SANITIZERS") != NULL;
}

static void join(char path[600], const char *dir, const char *name)
{
	ck_assert_int_lt(snprintf(path, 600, "%s/%s", dir, name), 600);
}

static struct buffer read_file(const char *name)
{
	char path[600];
	join(path, model_dir(), name);
	FILE *file = fopen(path, "rb");
	ck_assert_msg(file != NULL, "cannot open %s: set KVP_MODEL_DIR", path);
	ck_assert_int_eq(fseek(file, 0, SEEK_END), 0);
	struct buffer buffer = {.length = (size_t)ftell(file)};
	rewind(file);
	buffer.bytes = malloc(buffer.length + 1);
	ck_assert_ptr_nonnull(buffer.bytes);
	ck_assert_uint_eq(fread(buffer.bytes, 1, buffer.length, file), buffer.length);
	buffer.bytes[buffer.length] = '\0';
	fclose(file);
	return buffer;
}

/* Files are read from the model and written to the scratch directory. */
static void write_file(const char *name, const void *bytes, size_t length)
{
	char path[600];
	join(path, scratch, name);
	FILE *file = fopen(path, "wb");
	ck_assert_ptr_nonnull(file);
	ck_assert_uint_eq(fwrite(bytes, 1, length, file), length);
	ck_assert_int_eq(fclose(file), 0);
}

static json_t *read_json(const char *name)
{
	char path[600];
	join(path, model_dir(), name);
	json_t *root = json_load_file(path, 0, NULL);
	ck_assert_msg(root != NULL, "cannot read %s: set KVP_MODEL_DIR", path);
	return root;
}

/* Sets a key to a value written as JSON, or takes it away. */
static void set_key(json_t *object, const char *key, const char *value)
{
	ck_assert(json_is_object(object));
	if (value)
		json_object_set_new(object, key, json_loads(value, JSON_DECODE_ANY, NULL));
	else
		ck_assert_int_eq(json_object_del(object, key), 0);
}

/* The model's files in parts, for a test to put together otherwise. */
static json_t *config;
static struct buffer weights;
static json_t *header;
static const char *data;
static size_t data_bytes;

static void write_config(void)
{
	char *text = json_dumps(config, JSON_COMPACT);
	ck_assert_ptr_nonnull(text);
	write_file("config.json", text, strlen(text));
	free(text);
}

/* Leaves the model's configuration, but no weights, in the scratch directory. */
static void take_apart(void)
{
	const char *tmp = getenv("TMPDIR");
	snprintf(scratch, sizeof scratch, "%s/test_llama.XXXXXX", tmp && *tmp ? tmp : "/tmp");
	ck_assert_ptr_nonnull(mkdtemp(scratch));
	config = read_json("config.json");
	write_config();

	weights = read_file("model.safetensors");
	const unsigned char *b = (const unsigned char *)weights.bytes;
	size_t header_bytes = b[0] | (size_t)b[1] << 8 | (size_t)b[2] << 16;
	header = json_loadb(weights.bytes + 8, header_bytes, 0, NULL);
	ck_assert_ptr_nonnull(header);
	data = weights.bytes + 8 + header_bytes;
	data_bytes = weights.length - 8 - header_bytes;
}

static void clear_away(void)
{
	char path[600];
	join(path, scratch, "config.json");
	unlink(path);
	join(path, scratch, "model.safetensors");
	unlink(path);
	ck_assert_int_eq(rmdir(scratch), 0);
	json_decref(config);
	json_decref(header);
	free(weights.bytes);
}

/* Writes a safetensors file whose header claims to be `announced` bytes long. */
static void write_weights(uint64_t announced, const char *text, const char *values, size_t n_values)
{
	size_t text_bytes = strlen(text);
	size_t length = 8 + text_bytes + n_values;
	char *file = malloc(length);
	ck_assert_ptr_nonnull(file);
	for (int i = 0; i < 8; i++)
		file[i] = (char)(announced >> (8 * i));
	memcpy(file + 8, text, text_bytes);
	memcpy(file + 8 + text_bytes, values, n_values);
	write_file("model.safetensors", file, length);
	free(file);
}

/* Writes the header, as the test has changed it, and values. */
static void write_header(const char *values, size_t n_values)
{
	char *text = json_dumps(header, JSON_COMPACT);
	ck_assert_ptr_nonnull(text);
	write_weights(strlen(text), text, values, n_values);
	free(text);
}

/* The scratch directory does not load; the error says so in one line that contains `sentence`. */
static void assert_refused(const char *sentence)
{
	llama_error err = {""};
	ck_assert_ptr_null(llama_model_load(scratch, &err));
	ck_assert_msg(
	    strstr(err.text, sentence) != NULL, "\"%s\" does not say \"%s\"", err.text, sentence);
	for (const char *c = err.text; *c; c++)
		ck_assert_msg(
		    (unsigned char)*c >= 0x20 && *c != 0x7f, "a control character in the error");
	ck_assert_ptr_null(llama_model_load(scratch, NULL));
}

/* ---- the model, caches, prompts ---- */

static llama_model *load_model(const char *dir)
{
	llama_error err = {""};
	llama_model *loaded = llama_model_load(dir, &err);
	ck_assert_msg(loaded != NULL, "%s", err.text);
	return loaded;
}

/* The model of the tests that compute, loaded and freed around each. */
static llama_model *model;

static void load_the_model(void)
{
	model = load_model(model_dir());
}

static void free_the_model(void)
{
	llama_model_free(model);
}

static llama_cache *new_cache(size_t n_blocks, uint64_t seed)
{
	llama_error err = {""};
	llama_cache *cache = llama_cache_new(llama_model_config(model), n_blocks, seed, NULL, &err);
	ck_assert_msg(cache != NULL, "%s", err.text);
	return cache;
}

struct reference {
	char prompt[200];
	uint8_t greedy[N_STEPS];
};

static struct reference read_reference(size_t index)
{
	json_t *root = read_json("reference.json");
	ck_assert_uint_eq(json_array_size(root), N_REFERENCES);
	const json_t *entry = json_array_get(root, index);
	const json_t *greedy = json_object_get(entry, "greedy");
	const char *prompt = json_string_value(json_object_get(entry, "prompt"));
	struct reference reference = {.prompt = ""};
	ck_assert_ptr_nonnull(prompt);
	ck_assert_uint_lt(strlen(prompt), sizeof reference.prompt);
	ck_assert_uint_eq(json_array_size(greedy), N_STEPS);
	strcpy(reference.prompt, prompt);
	for (size_t i = 0; i < N_STEPS; i++)
		reference.greedy[i] = (uint8_t)json_integer_value(json_array_get(greedy, i));
	json_decref(root);
	return reference;
}

/* The reference texts, one after another and again from the start, n_tokens in all. */
static void fill_long_prompt(uint8_t *tokens, size_t n_tokens)
{
	size_t n = 0;
	for (size_t index = 0; n < n_tokens; index = (index + 1) % N_REFERENCES) {
		struct reference reference = read_reference(index);
		for (const char *c = reference.prompt; *c && n < n_tokens; c++)
			tokens[n++] = (uint8_t)*c;
		for (size_t i = 0; i < N_STEPS && n < n_tokens; i++)
			tokens[n++] = reference.greedy[i];
	}
}

static void prefill(
    llama_cache *cache, llama_sequence *seq, const uint8_t *tokens, size_t n, float *logits)
{
	llama_error err = {""};
	ck_assert_msg(llama_prefill(model, cache, seq, tokens, n, NULL, NULL, logits, &err) == 0,
	    "%s", err.text);
}

static void decode(llama_cache *cache, llama_sequence *seq, uint8_t token, float *logits)
{
	llama_error err = {""};
	ck_assert_msg(llama_decode(model, cache, seq, token, logits, &err) == 0, "%s", err.text);
}

/* Two sequences, in whatever blocks, hold the same bits for their tokens. */
static void assert_same_cache(
    llama_cache *a, const llama_sequence *seq_a, llama_cache *b, const llama_sequence *seq_b)
{
	const llama_cache_layout *layout = llama_cache_get_layout(a);
	ck_assert_uint_eq(seq_a->n_tokens, seq_b->n_tokens);
	for (size_t layer = 0; layer < layout->n_layers; layer++) {
		for (int kv = LLAMA_K; kv <= LLAMA_V; kv++) {
			for (size_t t = 0; t < seq_a->n_tokens; t += LLAMA_BLOCK_TOKENS) {
				size_t left = seq_a->n_tokens - t;
				size_t rows = left < LLAMA_BLOCK_TOKENS ? left : LLAMA_BLOCK_TOKENS;
				const float *x = llama_cache_block(
				    a, layer, kv, seq_a->block_ids[t / LLAMA_BLOCK_TOKENS]);
				const float *y = llama_cache_block(
				    b, layer, kv, seq_b->block_ids[t / LLAMA_BLOCK_TOKENS]);
				ck_assert_mem_eq(x, y, rows * layout->token_bytes);
			}
		}
	}
}

/* ---- the text ---- */

static void assert_generates(const struct reference *reference, size_t n_steps)
{
	llama_cache *cache = new_cache(16, SCATTERED);
	uint8_t out[N_STEPS];
	llama_error err = {""};
	ck_assert_msg(llama_generate(model, cache, (const uint8_t *)reference->prompt,
	                  strlen(reference->prompt), out, n_steps, &err) == 0,
	    "%s", err.text);
	ck_assert_mem_eq(out, reference->greedy, n_steps);
	ck_assert_uint_eq(llama_cache_n_free(cache), 16);
	llama_cache_free(cache);
}

START_TEST(generates_the_reference_text)
{
	struct reference reference = read_reference((size_t)_i);
	if (!is_quick() || _i < N_QUICK_REFERENCES)
		assert_generates(&reference, N_STEPS);
}
END_TEST

/* What the example programs do: prefill here, move the blocks, decode there. */
START_TEST(decodes_from_blocks_that_were_moved)
{
	struct reference reference = read_reference(1);
	size_t n_prompt = strlen(reference.prompt);
	llama_cache *here = new_cache(16, SCATTERED);
	llama_cache *there = new_cache(20, SCATTERED + 1);
	llama_sequence prefilled = {.n_blocks = 0};
	llama_sequence received = {.n_blocks = 0};
	float logits[LLAMA_VOCAB_SIZE];

	prefill(here, &prefilled, (const uint8_t *)reference.prompt, n_prompt, logits);
	ck_assert_int_eq(llama_sequence_reserve(there, &received, n_prompt, NULL), 0);
	ck_assert_uint_eq(received.n_blocks, prefilled.n_blocks);
	const llama_cache_layout *layout = llama_cache_get_layout(here);
	for (size_t layer = 0; layer < layout->n_layers; layer++)
		for (int kv = LLAMA_K; kv <= LLAMA_V; kv++)
			for (size_t i = 0; i < received.n_blocks; i++)
				memcpy(llama_cache_block(there, layer, kv, received.block_ids[i]),
				    llama_cache_block(here, layer, kv, prefilled.block_ids[i]),
				    layout->block_bytes);
	received.n_tokens = n_prompt;

	size_t n_steps = is_quick() ? 20 : N_STEPS;
	for (size_t i = 0; i < n_steps; i++) {
		uint8_t token = llama_argmax(logits);
		ck_assert_uint_eq(token, reference.greedy[i]);
		decode(there, &received, token, logits);
	}
	llama_cache_free(there);
	llama_cache_free(here);
}
END_TEST

static const size_t boundary_lengths[] = {1, 15, 16, 17, 31, 32, 33};

START_TEST(prefill_equals_single_steps)
{
	size_t n = boundary_lengths[_i];
	uint8_t tokens[33];
	fill_long_prompt(tokens, n);
	llama_cache *cache = new_cache(12, SCATTERED);
	llama_sequence at_once = {.n_blocks = 0};
	llama_sequence in_steps = {.n_blocks = 0};
	llama_sequence in_pieces = {.n_blocks = 0};
	float logits[LLAMA_VOCAB_SIZE];
	float step_logits[LLAMA_VOCAB_SIZE];

	prefill(cache, &at_once, tokens, n, logits);
	ck_assert_uint_eq(at_once.n_tokens, n);
	ck_assert_uint_eq(at_once.n_blocks, (n + LLAMA_BLOCK_TOKENS - 1) / LLAMA_BLOCK_TOKENS);
	for (size_t i = 0; i < n; i++)
		decode(cache, &in_steps, tokens[i], step_logits);
	ck_assert_mem_eq(logits, step_logits, sizeof logits);
	assert_same_cache(cache, &at_once, cache, &in_steps);

	prefill(cache, &in_pieces, tokens, (n + 1) / 2, step_logits);
	if (n > 1)
		prefill(cache, &in_pieces, tokens + (n + 1) / 2, n / 2, step_logits);
	ck_assert_mem_eq(logits, step_logits, sizeof logits);
	assert_same_cache(cache, &at_once, cache, &in_pieces);
	llama_cache_free(cache);
}
END_TEST

/* A prompt in other blocks and pieces gives the same bits, up to the last position, not beyond. */
START_TEST(fills_a_long_context)
{
	static uint8_t tokens[LLAMA_MAX_TOKENS];
	size_t n = is_quick() ? 200 : LLAMA_MAX_TOKENS;
	size_t n_first = is_quick() ? 70 : 1500;
	fill_long_prompt(tokens, n);
	llama_cache *a = new_cache(LLAMA_MAX_BLOCKS, SCATTERED);
	llama_cache *b = new_cache(LLAMA_MAX_BLOCKS, 0);
	llama_sequence seq_a = {.n_blocks = 0};
	llama_sequence seq_b = {.n_blocks = 0};
	float logits_a[LLAMA_VOCAB_SIZE];
	float logits_b[LLAMA_VOCAB_SIZE];

	prefill(a, &seq_a, tokens, n, logits_a);
	for (size_t i = 0; i < LLAMA_VOCAB_SIZE; i++)
		ck_assert(isfinite(logits_a[i]));
	prefill(b, &seq_b, tokens, n_first, logits_b);
	prefill(b, &seq_b, tokens + n_first, n - n_first - 3, logits_b);
	for (size_t i = n - 3; i < n; i++)
		decode(b, &seq_b, tokens[i], logits_b);
	ck_assert_mem_eq(logits_a, logits_b, sizeof logits_a);
	assert_same_cache(a, &seq_a, b, &seq_b);

	if (n == LLAMA_MAX_TOKENS) {
		llama_error err = {""};
		ck_assert_int_eq(llama_decode(model, a, &seq_a, 'x', logits_a, &err), -1);
		ck_assert_str_eq(err.text, "1 tokens after 2048 are more than the model's 2048");
	}
	llama_cache_free(b);
	llama_cache_free(a);
}
END_TEST

/* What each layer's part of the cache held when the layer was announced. */
struct watcher {
	llama_cache *cache;
	unsigned char *taken;
	size_t n_calls;
};

static void take_layer(void *user, size_t layer)
{
	struct watcher *w = user;
	size_t layer_bytes = llama_cache_get_layout(w->cache)->layer_bytes;
	ck_assert_uint_eq(layer, w->n_calls++);
	memcpy(w->taken + layer * layer_bytes, llama_cache_block(w->cache, layer, LLAMA_K, 0),
	    layer_bytes);
}

START_TEST(announces_each_layer_when_it_is_final)
{
	enum { N = 40 };
	uint8_t tokens[N];
	fill_long_prompt(tokens, N);
	llama_cache *cache = new_cache(3, SCATTERED);
	const llama_cache_layout *layout = llama_cache_get_layout(cache);
	llama_sequence seq = {.n_blocks = 0};
	struct watcher w = {.cache = cache, .taken = malloc(layout->total_bytes)};
	float logits[LLAMA_VOCAB_SIZE];

	ck_assert_ptr_nonnull(w.taken);
	ck_assert_int_eq(
	    llama_prefill(model, cache, &seq, tokens, N, take_layer, &w, logits, NULL), 0);
	ck_assert_uint_eq(w.n_calls, layout->n_layers);
	ck_assert_mem_eq(w.taken, llama_cache_memory(cache), layout->total_bytes);
	free(w.taken);
	llama_cache_free(cache);
}
END_TEST

/* A computation that is refused changes neither the sequence nor the number of free blocks. */
static void assert_prefill_refused(
    llama_cache *cache, const llama_sequence *seq, size_t n, const char *sentence)
{
	static const uint8_t tokens[LLAMA_MAX_TOKENS + 1];
	llama_sequence copy = *seq;
	size_t n_free = llama_cache_n_free(cache);
	float logits[LLAMA_VOCAB_SIZE] = {42.0f};
	llama_error err = {""};
	ck_assert_int_eq(
	    llama_prefill(model, cache, &copy, tokens, n, NULL, NULL, logits, &err), -1);
	ck_assert_msg(
	    strstr(err.text, sentence) != NULL, "\"%s\" does not say \"%s\"", err.text, sentence);
	ck_assert_mem_eq(&copy, seq, sizeof copy);
	ck_assert_uint_eq(llama_cache_n_free(cache), n_free);
	ck_assert(logits[0] == 42.0f);
}

START_TEST(refuses_what_it_cannot_compute)
{
	llama_cache *cache = new_cache(3, 0);
	llama_sequence seq = {.n_blocks = 0};
	assert_prefill_refused(cache, &seq, 0, "no tokens");
	assert_prefill_refused(
	    cache, &seq, LLAMA_MAX_TOKENS + 1, "2049 tokens after 0 are more than");
	assert_prefill_refused(
	    cache, &seq, 49, "49 tokens need 4 more blocks, and the cache has 3 free of 3");

	seq.n_tokens = 1;
	assert_prefill_refused(cache, &seq, 1, "1 tokens cannot lie in 0 blocks");
	seq = (llama_sequence){.n_blocks = LLAMA_MAX_BLOCKS + 1};
	assert_prefill_refused(cache, &seq, 1, "cannot lie in 129 blocks");
	seq = (llama_sequence){.n_blocks = 1, .n_tokens = 2, .block_ids = {3}};
	assert_prefill_refused(cache, &seq, 1, "names block 3 of a cache with 3 blocks");

	llama_config other = *llama_model_config(model);
	other.n_layers++;
	llama_cache *foreign = llama_cache_new(&other, 3, 0, NULL, NULL);
	ck_assert_ptr_nonnull(foreign);
	seq = (llama_sequence){.n_blocks = 0};
	assert_prefill_refused(foreign, &seq, 1, "another shape");

	uint8_t out[8];
	llama_error err = {""};
	ck_assert_int_eq(llama_generate(model, cache, out, 2045, out, 4, &err), -1);
	ck_assert_str_eq(err.text, "a prompt of 2045 tokens and 4 more exceed the model's 2048");
	ck_assert_int_eq(llama_generate(model, cache, (const uint8_t *)"In", 2, out, 47, &err), -1);
	ck_assert_msg(strstr(err.text, "need 4 more blocks") != NULL, "%s", err.text);
	ck_assert_int_eq(llama_generate(model, cache, out, 0, out, 4, &err), -1);
	ck_assert_uint_eq(llama_cache_n_free(cache), 3);
	llama_cache_free(foreign);
	llama_cache_free(cache);
}
END_TEST

START_TEST(argmax_takes_the_first_of_equals)
{
	float logits[LLAMA_VOCAB_SIZE];
	for (size_t i = 0; i < LLAMA_VOCAB_SIZE; i++)
		logits[i] = -1.0f;
	ck_assert_uint_eq(llama_argmax(logits), 0);
	logits[200] = logits[255] = 3.0f;
	ck_assert_uint_eq(llama_argmax(logits), 200);
}
END_TEST

/* ---- the cache ---- */

static const llama_config small = {.n_layers = 3, .n_heads = 4, .n_kv_heads = 2, .head_dim = 8};

START_TEST(cache_lies_as_its_strides_say)
{
	llama_cache_layout plan;
	ck_assert_int_eq(llama_cache_plan(&small, 5, &plan, NULL), 0);
	ck_assert_uint_eq(plan.token_bytes, 2 * 8 * sizeof(float));
	ck_assert_uint_eq(plan.block_bytes, 16 * plan.token_bytes);
	ck_assert_uint_eq(plan.kv_bytes, 5 * plan.block_bytes);
	ck_assert_uint_eq(plan.layer_bytes, 2 * plan.kv_bytes);
	ck_assert_uint_eq(plan.total_bytes, 3 * plan.layer_bytes);

	llama_cache *cache = llama_cache_new(&small, 5, 0, NULL, NULL);
	ck_assert_ptr_nonnull(cache);
	ck_assert_mem_eq(llama_cache_get_layout(cache), &plan, sizeof plan);
	const char *memory = llama_cache_memory(cache);
	ck_assert_uint_eq((uintptr_t)memory % 4096, 0);
	ck_assert_ptr_eq((const char *)llama_cache_block(cache, 0, LLAMA_K, 0), memory);
	ck_assert_ptr_eq((const char *)llama_cache_block(cache, 2, LLAMA_V, 4),
	    memory + 2 * plan.layer_bytes + plan.kv_bytes + 4 * plan.block_bytes);
	ck_assert_ptr_eq((const char *)llama_cache_block(cache, 2, LLAMA_V, 4) + plan.block_bytes,
	    memory + plan.total_bytes);
	for (size_t i = 0; i < plan.total_bytes; i++)
		ck_assert_int_eq(memory[i], 0);
	llama_cache_free(cache);
	llama_cache_free(NULL);

	static float borrowed[8192];
	ck_assert_uint_le(plan.total_bytes, sizeof borrowed);
	borrowed[0] = 42.0f;
	cache = llama_cache_new(&small, 5, 0, borrowed, NULL);
	ck_assert_ptr_nonnull(cache);
	ck_assert_ptr_eq(llama_cache_memory(cache), borrowed);
	llama_cache_free(cache);
	ck_assert(borrowed[0] == 42.0f);
}
END_TEST

START_TEST(cache_refuses_impossible_sizes)
{
	static const size_t sizes[] = {0, SIZE_MAX, SIZE_MAX / 64, (size_t)UINT32_MAX + 1};
	llama_cache_layout plan = {.n_blocks = 42};
	llama_error err = {""};
	for (size_t i = 0; i < N_ELEMENTS(sizes); i++) {
		ck_assert_int_eq(llama_cache_plan(&small, sizes[i], &plan, &err), -1);
		ck_assert_msg(strstr(err.text, "a cache ") == err.text, "%s", err.text);
		ck_assert_ptr_null(llama_cache_new(&small, sizes[i], 0, NULL, NULL));
	}
	static const llama_config large = {.n_layers = 1024, .n_kv_heads = 1024, .head_dim = 1024};
	ck_assert_int_eq(llama_cache_plan(&large, (size_t)1 << 31, &plan, NULL), -1);
	ck_assert_uint_eq(plan.n_blocks, 42);
}
END_TEST

/* The order in which a cache of n_blocks with this seed hands out its blocks: each of them once. */
static void hand_out(size_t n_blocks, uint64_t seed, llama_sequence *seq)
{
	llama_cache *cache = llama_cache_new(&small, n_blocks, seed, NULL, NULL);
	ck_assert_ptr_nonnull(cache);
	int seen[LLAMA_MAX_BLOCKS] = {0};
	memset(seq, 0, sizeof *seq);
	ck_assert_int_eq(
	    llama_sequence_reserve(cache, seq, n_blocks * LLAMA_BLOCK_TOKENS, NULL), 0);
	ck_assert_uint_eq(seq->n_blocks, n_blocks);
	for (size_t i = 0; i < n_blocks; i++) {
		ck_assert_uint_lt(seq->block_ids[i], n_blocks);
		ck_assert_int_eq(seen[seq->block_ids[i]]++, 0);
	}
	llama_cache_free(cache);
}

START_TEST(seed_fixes_the_order_of_blocks)
{
	llama_sequence plain, a, again, b;
	hand_out(32, 0, &plain);
	for (size_t i = 0; i < 32; i++)
		ck_assert_uint_eq(plain.block_ids[i], i);
	hand_out(32, 1, &a);
	hand_out(32, 1, &again);
	hand_out(32, 2, &b);
	ck_assert_mem_eq(&a, &again, sizeof a);
	ck_assert_mem_ne(&a, &b, sizeof a);
	size_t n_steps_down = 0;
	for (size_t i = 1; i < 32; i++)
		n_steps_down += a.block_ids[i] < a.block_ids[i - 1];
	ck_assert_uint_gt(n_steps_down, 4);
}
END_TEST

START_TEST(reserve_takes_all_or_nothing)
{
	llama_cache *cache = llama_cache_new(&small, 4, 3, NULL, NULL);
	llama_sequence a = {.n_blocks = 0};
	llama_sequence b = {.n_blocks = 0};
	llama_error err = {""};
	ck_assert_ptr_nonnull(cache);
	ck_assert_int_eq(llama_sequence_reserve(cache, &a, 0, NULL), 0);
	ck_assert_uint_eq(llama_cache_n_free(cache), 4);
	ck_assert_int_eq(llama_sequence_reserve(cache, &a, 16, NULL), 0);
	ck_assert_int_eq(llama_sequence_reserve(cache, &a, 17, NULL), 0);
	ck_assert_int_eq(llama_sequence_reserve(cache, &a, 3, NULL), 0);
	ck_assert_uint_eq(a.n_blocks, 2);
	ck_assert_uint_eq(llama_cache_n_free(cache), 2);

	ck_assert_int_eq(llama_sequence_reserve(cache, &b, 33, &err), -1);
	ck_assert_str_eq(err.text, "33 tokens need 3 more blocks, and the cache has 2 free of 4");
	ck_assert_uint_eq(b.n_blocks, 0);
	ck_assert_uint_eq(llama_cache_n_free(cache), 2);
	ck_assert_int_eq(llama_sequence_reserve(cache, &a, 64, NULL), 0); /* 2 more are enough */
	ck_assert_int_eq(llama_sequence_reserve(cache, &b, LLAMA_MAX_TOKENS + 1, &err), -1);
	ck_assert_str_eq(err.text, "a sequence of 2049 tokens is longer than the limit of 2048");

	llama_sequence_release(cache, &a);
	llama_sequence_release(cache, &a); /* already empty: no block may come back twice */
	ck_assert_uint_eq(llama_cache_n_free(cache), 4);
	ck_assert_int_eq(llama_sequence_reserve(cache, &b, 64, NULL), 0);
	llama_cache_free(cache);
}
END_TEST

/* ---- damaged weights ---- */

#define EMBED "model.embed_tokens.weight"
#define NORM "model.layers.0.input_layernorm.weight"
#define DOWN "model.layers.0.mlp.down_proj.weight"

/* One key of one tensor in the header and its new value as JSON, or NULL to take it away. */
static const struct header_edit {
	const char *tensor, *key, *value, *sentence;
} header_edits[] = {
    {EMBED, "data_offsets", "[0,99999999]", "ends at byte 99999999 of the data, which has only"},
    {EMBED, "data_offsets", "[0,9223372036854775807]", "ends at byte 9223372036854775807"},
    {EMBED, "data_offsets", "[-2,98302]", EMBED " has no usable data_offsets"},
    {EMBED, "data_offsets", "[98304,0]", "no usable data_offsets"},
    {EMBED, "data_offsets", "[0,98304,98304]", "no usable data_offsets"},
    {EMBED, "data_offsets", "[0.0,98304.0]", "no usable data_offsets"},
    {EMBED, "data_offsets", "\"0,98304\"", "no usable data_offsets"},
    {EMBED, "data_offsets", NULL, "no usable data_offsets"},
    {EMBED, "data_offsets", "[0,98302]", "98302 bytes where its shape and dtype need 98304"},
    {NORM, "data_offsets", "[0,384]", "overlaps tensor"},
    {EMBED, "dtype", "\"F16\"", EMBED " is F16; this program reads only BF16"},
    {EMBED, "dtype", "\"F32\"", "98304 bytes where its shape and dtype need 196608"},
    {EMBED, "dtype", "\"BF17\"", EMBED " has an unknown dtype"},
    {EMBED, "dtype", NULL, "unknown dtype"},
    {EMBED, "shape", "[192,256]", "shape [192, 256] where the configuration needs [256, 192]"},
    {EMBED, "shape", "[256,192,1]", "has shape [256, 192, 1] where"},
    {DOWN, "shape", "[512,192]", DOWN " has shape [512, 192] where"},
    {EMBED, "shape", "[256,-192]", EMBED " has no usable shape"},
    {EMBED, "shape", "[256.0,192]", "no usable shape"},
    {EMBED, "shape", "192", "no usable shape"},
    {EMBED, "shape", "[1,1,1,1,1,1,1,256,192]", "no usable shape"},
    {EMBED, "shape", "[4294967296,4294967296]", "no usable shape"},
    {EMBED, "shape", "[9223372036854775807,2,256,192]", "no usable shape"},
    {EMBED, "shape", "[0,9223372036854775807]", "where its shape and dtype need 0"},
    {EMBED, "shape", NULL, "no usable shape"},
};

START_TEST(names_what_is_wrong_with_a_tensor)
{
	const struct header_edit *edit = &header_edits[_i];
	set_key(json_object_get(header, edit->tensor), edit->key, edit->value);
	write_header(data, data_bytes);
	assert_refused(edit->sentence);
}
END_TEST

#define DEEP_10 "[[[[[[[[[["
#define DEEP_100 DEEP_10 DEEP_10 DEEP_10 DEEP_10 DEEP_10 DEEP_10 DEEP_10 DEEP_10 DEEP_10 DEEP_10
#define DEEP_1000                                                                                  \
	DEEP_100 DEEP_100 DEEP_100 DEEP_100 DEEP_100 DEEP_100 DEEP_100 DEEP_100 DEEP_100 DEEP_100

/* Headers before four bytes of data. */
static const struct small_file {
	const char *header, *sentence;
} small_files[] = {
    {"", "header: "},
    {"[]", "the header is not a JSON object"},
    {"{} x", "header: "},
    {DEEP_1000 DEEP_1000 DEEP_1000, "header: maximum parsing depth reached"},
    {"{\"\\ud800\":1}", "header: "},
    {"{}", "4 bytes after the last tensor"},
    {"{\"a\":7}", "tensor a has an unknown dtype"},
    {"{\"a\":{},\"a\":{}}", "header: duplicate object key"},
    {"{\"a\":18446744073709551616}", "header: too big integer"},
    {"{\"\\u001b[2J\":{}}", "tensor ?[2J has an unknown dtype"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[2,4]}}",
        "a gap of 2 bytes before tensor a"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}",
        "2 bytes after the last tensor"},
    {"{\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[1,4]},"
     "\"a\":{\"dtype\":\"I8\",\"shape\":[],\"data_offsets\":[0,1]}}",
        "tensor model.embed_tokens.weight is missing"},
};

START_TEST(names_what_is_wrong_in_a_small_file)
{
	write_weights(strlen(small_files[_i].header), small_files[_i].header, "1234", 4);
	assert_refused(small_files[_i].sentence);
}
END_TEST

START_TEST(names_a_file_that_was_cut)
{
	size_t header_end = weights.length - data_bytes;
	const struct {
		size_t length;
		const char *sentence;
	} cuts[] = {
	    {0, "only 0 bytes, too short"}, {7, "only 7 bytes, too short"},
	    {8, "but only 0 bytes follow"}, {500, "but only 492 bytes follow"},
	    {header_end, "of the data, which has only 0"},
	    {header_end + 1000, "of the data, which has only 1000"},
	    {weights.length - 1, "of the data, which has only"},
	    {weights.length + 1, "1 bytes after the last tensor"}, /* the buffer's final NUL */
	};
	for (size_t i = 0; i < N_ELEMENTS(cuts); i++) {
		write_file("model.safetensors", weights.bytes, cuts[i].length);
		assert_refused(cuts[i].sentence);
	}
}
END_TEST

START_TEST(names_a_header_length_that_lies)
{
	char *text = json_dumps(header, JSON_COMPACT);
	const struct {
		uint64_t announced;
		const char *sentence;
	} lies[] = {
	    {UINT64_MAX, "a header of 18446744073709551615 bytes is announced"},
	    {UINT64_MAX - 7, "is announced"}, /* 8 more would wrap to 0 */
	    {weights.length, "is announced"},
	    {2u << 20, "a header of 2097152 bytes is more than the 1048576"},
	    {0, "header: "},
	    {1, "header: "},
	    {strlen(text) / 2, "header: "},
	    {strlen(text) + 1000, "header: "},
	};
	for (size_t i = 0; i < N_ELEMENTS(lies); i++) {
		write_weights(lies[i].announced, text, data, data_bytes);
		assert_refused(lies[i].sentence);
	}
	free(text);
}
END_TEST

/* Whatever a few changed bytes make of a small file, the reader opens or refuses it and touches
 * nothing else. */
START_TEST(survives_changed_bytes)
{
	static const char text[] =
	    "{\"__metadata__\":{\"format\":\"pt\"},"
	    "\"a\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[0,12]},"
	    "\"b\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[12,16]},"
	    "\"c\":{\"dtype\":\"U8\",\"shape\":[0,7],\"data_offsets\":[16,16]}}   ";
	static const char alphabet[] = "0123456789-[]{},:\".ae \\\x00\xff";
	static const size_t shape[2] = {2, 3};
	enum { TEXT_BYTES = sizeof text - 1 };
	unsigned char bytes[8 + TEXT_BYTES + 16];
	uint32_t random = 1;
	int n_opened = 0;
	char path[600];
	join(path, scratch, "model.safetensors");
	for (int round = 0; round < 4000; round++) {
		memset(bytes, 0, sizeof bytes);
		bytes[0] = TEXT_BYTES;
		memcpy(bytes + 8, text, TEXT_BYTES);
		for (int change = 0; change < round % 4; change++) {
			random = random * 1664525u + 1013904223u;
			bytes[(random >> 8) % sizeof bytes] =
			    (unsigned char)alphabet[(random >> 20) % (sizeof alphabet - 1)];
		}
		write_file("model.safetensors", bytes, sizeof bytes);
		llama_error err = {""};
		llama_safetensors *file = llama_safetensors_open(path, &err);
		ck_assert_msg(file || strstr(err.text, "model.safetensors: "), "%s", err.text);
		const unsigned char *a =
		    file ? llama_safetensors_bf16(file, "a", shape, 2, &err) : NULL;
		if (a) {
			ck_assert_mem_eq(a, bytes + 8 + bytes[0], 12);
			n_opened++;
		}
		llama_safetensors_close(file);
	}
	ck_assert_int_ge(n_opened, 1000); /* every fourth file was left as it is */
}
END_TEST

/* ---- bad configurations ---- */

/* One key and its new value as JSON, or NULL to take the key away. */
static const struct config_edit {
	const char *key, *value, *sentence;
} config_edits[] = {
    {"hidden_size", NULL, "config.json: \"hidden_size\" is missing"},
    {"hidden_size", "\"192\"", "\"hidden_size\" is not a whole number within 1 and 16384"},
    {"hidden_size", "192.0", "\"hidden_size\" is not a whole number"},
    {"hidden_size", "0", "\"hidden_size\" is not a whole number"},
    {"hidden_size", "4611686018427387904", "\"hidden_size\" is not a whole number"},
    {"hidden_size", "128", "shape [256, 192] where the configuration needs [256, 128]"},
    {"num_hidden_layers", "7", "tensor model.layers.6.self_attn.q_proj.weight is missing"},
    {"num_hidden_layers", "5000", "not a whole number within 1 and 1024"},
    {"num_attention_heads", "5", "5 attention heads cannot share 2 key/value heads"},
    {"num_attention_heads", "4", "self_attn.q_proj.weight has shape"},
    {"num_attention_heads", "1024", "are wider than 16384"},
    {"num_key_value_heads", "null", "self_attn.k_proj.weight has shape [64, 192]"},
    {"head_dim", "30", "a \"head_dim\" of 30 is not a multiple of 8"},
    {"intermediate_size", "511", "mlp.gate_proj.weight has shape [512, 192]"},
    {"max_position_embeddings", "0", "\"max_position_embeddings\" is not"},
    {"vocab_size", "32000", "\"vocab_size\" is 32000; a token here is a byte"},
    {"model_type", "\"gpt2\"", "\"model_type\" is \"gpt2\"; this program does only \"llama\""},
    {"model_type", "\"\\u001b[2J\"", "\"model_type\" is \"?[2J\""},
    {"model_type", NULL, "\"model_type\" is missing"},
    {"hidden_act", "\"gelu\"", "\"hidden_act\" is \"gelu\""},
    {"attention_bias", "true", "\"attention_bias\" is not false"},
    {"mlp_bias", "true", "\"mlp_bias\" is not false"},
    {"rms_norm_eps", NULL, "\"rms_norm_eps\" is missing"},
    {"rms_norm_eps", "-1e-05", "\"rms_norm_eps\" is not a positive number"},
    {"rope_parameters", NULL, "\"rope_theta\" is missing"},
    {"rope_parameters", "7", "\"rope_type\" is missing"},
    {"rope_parameters", "{\"rope_type\":\"llama3\"}", "\"rope_type\" is \"llama3\""},
    {"rope_parameters", "{\"rope_type\":\"default\",\"rope_theta\":0}", "not a positive number"},
    {"rope_parameters", "{\"rope_type\":\"default\",\"rope_theta\":1e99}", "not a positive number"},
    {"tie_word_embeddings", "false", "tensor lm_head.weight is missing"},
    {"tie_word_embeddings", "1", "neither true nor false"},
};

START_TEST(names_what_is_wrong_in_the_config)
{
	const struct config_edit *edit = &config_edits[_i];
	set_key(config, edit->key, edit->value);
	write_config();
	write_file("model.safetensors", weights.bytes, weights.length);
	assert_refused(edit->sentence);
}
END_TEST

START_TEST(names_a_config_that_is_no_object)
{
	static const struct {
		const char *text, *sentence;
	} configs[] = {
	    {"", "config.json: line 1: "},
	    {"[]", "config.json: not a JSON object"},
	    {"{\n\"a\": 1,\n\"a\": 2}", "config.json: line 3: duplicate object key"},
	    {"{\"a\": 99999999999999999999}", "config.json: line 1: too big integer"},
	};
	for (size_t i = 0; i < N_ELEMENTS(configs); i++) {
		write_file("config.json", configs[i].text, strlen(configs[i].text));
		assert_refused(configs[i].sentence);
	}
	static char large[(1 << 20) + 1];
	memset(large, ' ', sizeof large);
	write_file("config.json", large, sizeof large);
	assert_refused("larger than the 1048576 bytes that this program accepts");
}
END_TEST

START_TEST(names_a_file_that_is_not_there)
{
	char path[600];
	assert_refused("model.safetensors: cannot open: No such file or directory");
	join(path, scratch, "config.json");
	ck_assert_int_eq(unlink(path), 0);
	assert_refused("config.json: cannot open: No such file or directory");
}
END_TEST

/* ---- models of other make ---- */

/* The scratch directory holds a variant of the model that must compute the same. */
static void assert_same_model(void)
{
	struct reference reference = read_reference(1);
	model = load_model(scratch);
	ck_assert_uint_eq(llama_model_config(model)->max_tokens, LLAMA_MAX_TOKENS);
	assert_generates(&reference, 20);
	llama_model_free(model);
}

START_TEST(reads_a_config_of_older_make)
{
	set_key(config, "rope_parameters", NULL);
	set_key(config, "rope_scaling", "null");
	set_key(config, "rope_theta", "10000");
	set_key(config, "max_position_embeddings", "1000000");
	write_config();
	write_file("model.safetensors", weights.bytes, weights.length);
	assert_same_model();

	set_key(config, "rope_scaling", "{\"factor\":8}");
	write_config();
	assert_refused("\"rope_scaling\" is not null");
}
END_TEST

/* An untied model: lm_head is a copy of the embeddings, which lead the file, at its end. */
START_TEST(reads_an_untied_model)
{
	enum { EMBEDDING_BYTES = 256 * 192 * 2 };
	size_t longer_bytes = data_bytes + EMBEDDING_BYTES;
	char *longer = malloc(longer_bytes);
	ck_assert_ptr_nonnull(longer);
	memcpy(longer, data, data_bytes);
	memcpy(longer + data_bytes, data, EMBEDDING_BYTES);
	json_object_set_new(header, "lm_head.weight",
	    json_pack("{s:s, s:[i,i], s:[I,I]}", "dtype", "BF16", "shape", 256, 192, "data_offsets",
	        (json_int_t)data_bytes, (json_int_t)longer_bytes));
	write_header(longer, longer_bytes);
	set_key(config, "tie_word_embeddings", "false");
	write_config();
	assert_same_model();
	free(longer);
}
END_TEST

START_TEST(keeps_to_the_models_own_limit)
{
	set_key(config, "max_position_embeddings", "20");
	write_config();
	write_file("model.safetensors", weights.bytes, weights.length);
	model = load_model(scratch);
	llama_cache *cache = new_cache(4, 0);
	llama_sequence seq = {.n_blocks = 0};
	ck_assert_uint_eq(llama_model_config(model)->max_tokens, 20);
	assert_prefill_refused(cache, &seq, 21, "21 tokens after 0 are more than the model's 20");
	llama_cache_free(cache);
	llama_model_free(model);
	llama_model_free(NULL);
}
END_TEST

static TCase *new_case(Suite *suite, const char *name, void (*setup)(void), void (*teardown)(void))
{
	TCase *tcase = tcase_create(name);
	tcase_add_checked_fixture(tcase, setup, teardown);
	/* A guard against a hang, when the environment has none; libcheck's own 4 s are too few. */
	if (!getenv("CK_DEFAULT_TIMEOUT"))
		tcase_set_timeout(tcase, 120);
	suite_add_tcase(suite, tcase);
	return tcase;
}

int main(void)
{
	Suite *suite = suite_create("llama");

	TCase *text = new_case(suite, "text", load_the_model, free_the_model);
	tcase_add_loop_test(text, generates_the_reference_text, 0, N_REFERENCES);
	tcase_add_test(text, decodes_from_blocks_that_were_moved);
	ADD_LOOP(text, prefill_equals_single_steps, boundary_lengths);
	tcase_add_test(text, fills_a_long_context);
	tcase_add_test(text, announces_each_layer_when_it_is_final);
	tcase_add_test(text, refuses_what_it_cannot_compute);
	tcase_add_test(text, argmax_takes_the_first_of_equals);

	TCase *cache = new_case(suite, "cache", NULL, NULL);
	tcase_add_test(cache, cache_lies_as_its_strides_say);
	tcase_add_test(cache, cache_refuses_impossible_sizes);
	tcase_add_test(cache, seed_fixes_the_order_of_blocks);
	tcase_add_test(cache, reserve_takes_all_or_nothing);

	TCase *files = new_case(suite, "files", take_apart, clear_away);
	ADD_LOOP(files, names_what_is_wrong_with_a_tensor, header_edits);
	ADD_LOOP(files, names_what_is_wrong_in_a_small_file, small_files);
	tcase_add_test(files, names_a_file_that_was_cut);
	tcase_add_test(files, names_a_header_length_that_lies);
	tcase_add_test(files, survives_changed_bytes);
	ADD_LOOP(files, names_what_is_wrong_in_the_config, config_edits);
	tcase_add_test(files, names_a_config_that_is_no_object);
	tcase_add_test(files, names_a_file_that_is_not_there);
	tcase_add_test(files, reads_a_config_of_older_make);
	tcase_add_test(files, reads_an_untied_model);
	tcase_add_test(files, keeps_to_the_models_own_limit);

	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int n_failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
