/* SPDX-License-Identifier: Apache-2.0 */
#include "llama/config_json.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "llama/error.h"
#include "llama/file.h"
#include "llama/ops.h"

enum {
	MAX_FILE_BYTES = 1 << 20,
	MAX_LAYERS = 1024,
	MAX_HEADS = 1024,
	MAX_HEAD_DIM = 1024,
	MAX_WIDTH = 16384,
	MAX_COUNT = 1 << 30
};

/* The object that is read, and where to complain. */
struct reader {
	const char *path;
	json_t *root;
	llama_error *err;
};

/* A whole number within 1 and max. `absent` is taken if the key is missing or null; 0: the key is
 * required. */
static int read_size(
    const struct reader *r, const char *key, size_t max, size_t absent, size_t *out)
{
	const json_t *value = json_object_get(r->root, key);
	if (!value || json_is_null(value)) {
		if (absent == 0)
			return llama_error_set(r->err, "%s: \"%s\" is missing", r->path, key);
		*out = absent;
		return 0;
	}
	if (!json_is_integer(value) || json_integer_value(value) < 1 ||
	    (unsigned long long)json_integer_value(value) > max)
		return llama_error_set(
		    r->err, "%s: \"%s\" is not a whole number within 1 and %zu", r->path, key, max);
	*out = (size_t)json_integer_value(value);
	return 0;
}

static int read_positive(const struct reader *r, const json_t *object, const char *key, float *out)
{
	const json_t *value = json_object_get(object, key);
	if (!value)
		return llama_error_set(r->err, "%s: \"%s\" is missing", r->path, key);
	float number = (float)json_number_value(value); /* 0 if it is not a number */
	if (!(number > 0.0f) || isinf(number))
		return llama_error_set(r->err, "%s: \"%s\" is not a positive number", r->path, key);
	*out = number;
	return 0;
}

/* Unlike the other flags, this one changes which tensors there are; absent means false, as in
 * transformers. */
static int read_tied(const struct reader *r, int *out)
{
	const json_t *value = json_object_get(r->root, "tie_word_embeddings");
	if (value && !json_is_boolean(value))
		return llama_error_set(
		    r->err, "%s: \"tie_word_embeddings\" is neither true nor false", r->path);
	*out = json_is_true(value);
	return 0;
}

static int require_string(
    const struct reader *r, const json_t *object, const char *key, const char *wanted)
{
	const char *value = json_string_value(json_object_get(object, key));
	if (!value)
		return llama_error_set(
		    r->err, "%s: \"%s\" is missing or not a string", r->path, key);
	if (strcmp(value, wanted) != 0)
		return llama_error_set(r->err,
		    "%s: \"%s\" is \"%.60s\"; this program does only \"%s\"", r->path, key, value,
		    wanted);
	return 0;
}

static int refuse_true(const struct reader *r, const char *key)
{
	const json_t *value = json_object_get(r->root, key);
	if (value && !json_is_false(value))
		return llama_error_set(
		    r->err, "%s: \"%s\" is not false; this program does only false", r->path, key);
	return 0;
}

/* transformers 5 writes "rope_parameters"; before that, "rope_theta" stood alone and "rope_scaling"
 * beside it. */
static int read_rope(const struct reader *r, float *theta)
{
	const json_t *parameters = json_object_get(r->root, "rope_parameters");
	if (parameters) {
		if (require_string(r, parameters, "rope_type", "default"))
			return -1;
		return read_positive(r, parameters, "rope_theta", theta);
	}
	const json_t *scaling = json_object_get(r->root, "rope_scaling");
	if (scaling && !json_is_null(scaling))
		return llama_error_set(r->err,
		    "%s: \"rope_scaling\" is not null; this program does not scale", r->path);
	return read_positive(r, r->root, "rope_theta", theta);
}

/* Relations between the numbers, each of which is already within its own bounds. */
static int check_heads(const struct reader *r, const llama_config *c)
{
	if (c->n_heads % c->n_kv_heads)
		return llama_error_set(r->err,
		    "%s: %zu attention heads cannot share %zu key/value heads evenly", r->path,
		    c->n_heads, c->n_kv_heads);
	if (c->head_dim % LLAMA_DOT_LANES)
		return llama_error_set(r->err, "%s: a \"head_dim\" of %zu is not a multiple of %u",
		    r->path, c->head_dim, LLAMA_DOT_LANES);
	if (c->n_heads * c->head_dim > MAX_WIDTH)
		return llama_error_set(r->err, "%s: %zu heads of %zu are wider than %d", r->path,
		    c->n_heads, c->head_dim, MAX_WIDTH);
	return 0;
}

static int read_config(const struct reader *r, llama_config *c)
{
	if (require_string(r, r->root, "model_type", "llama") ||
	    require_string(r, r->root, "hidden_act", "silu") || refuse_true(r, "attention_bias") ||
	    refuse_true(r, "mlp_bias"))
		return -1;

	size_t vocab_size;
	if (read_size(r, "vocab_size", MAX_COUNT, 0, &vocab_size))
		return -1;
	if (vocab_size != LLAMA_VOCAB_SIZE)
		return llama_error_set(r->err,
		    "%s: \"vocab_size\" is %zu; a token here is a byte, which makes it %u", r->path,
		    vocab_size, LLAMA_VOCAB_SIZE);

	if (read_size(r, "num_hidden_layers", MAX_LAYERS, 0, &c->n_layers) ||
	    read_size(r, "hidden_size", MAX_WIDTH, 0, &c->hidden_size) ||
	    read_size(r, "intermediate_size", MAX_WIDTH, 0, &c->intermediate_size) ||
	    read_size(r, "num_attention_heads", MAX_HEADS, 0, &c->n_heads) ||
	    read_size(r, "num_key_value_heads", MAX_HEADS, c->n_heads, &c->n_kv_heads) ||
	    read_size(r, "head_dim", MAX_HEAD_DIM, c->hidden_size / c->n_heads, &c->head_dim) ||
	    read_size(r, "max_position_embeddings", MAX_COUNT, 0, &c->max_tokens) ||
	    read_positive(r, r->root, "rms_norm_eps", &c->rms_norm_eps) ||
	    read_rope(r, &c->rope_theta) || read_tied(r, &c->tie_word_embeddings))
		return -1;
	if (c->max_tokens > LLAMA_MAX_TOKENS)
		c->max_tokens = LLAMA_MAX_TOKENS;
	return check_heads(r, c);
}

int llama_config_read(const char *path, llama_config *config, llama_error *err)
{
	size_t n_bytes;
	unsigned char *bytes = llama_file_read(path, MAX_FILE_BYTES, &n_bytes, err);
	if (!bytes)
		return -1;
	json_error_t json_err;
	struct reader reader = {.path = path, .err = err};
	reader.root = json_loadb((const char *)bytes, n_bytes, JSON_REJECT_DUPLICATES, &json_err);
	free(bytes);
	int rc;
	if (!reader.root)
		rc = llama_error_set(err, "%s: line %d: %s", path, json_err.line, json_err.text);
	else if (!json_is_object(reader.root))
		rc = llama_error_set(err, "%s: not a JSON object", path);
	else {
		*config = (llama_config){0};
		rc = read_config(&reader, config);
	}
	json_decref(reader.root);
	return rc;
}
