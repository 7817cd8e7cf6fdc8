/* SPDX-License-Identifier: Apache-2.0 */
#include "llama/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "llama/config_json.h"
#include "llama/error.h"
#include "llama/safetensors.h"

/* A bfloat16 is the upper half of a float32. */
static float bf16_to_float(const unsigned char *bytes)
{
	uint32_t bits = (uint32_t)bytes[0] << 16 | (uint32_t)bytes[1] << 24;
	float value;
	memcpy(&value, &bits, sizeof value);
	return value;
}

/* Loads a tensor row by row as it lies in the file: a vector (n_columns 0) or a matrix. */
static float *load_rows(const llama_safetensors *file, const char *name, size_t n_rows,
    size_t n_columns, llama_error *err)
{
	const size_t shape[2] = {n_rows, n_columns};
	const unsigned char *bytes =
	    llama_safetensors_bf16(file, name, shape, n_columns ? 2 : 1, err);
	if (!bytes)
		return NULL;
	size_t n = n_columns ? n_rows * n_columns : n_rows;
	float *values = malloc(n * sizeof *values);
	if (!values) {
		llama_error_set(err, "no memory for tensor %s", name);
		return NULL;
	}
	for (size_t i = 0; i < n; i++)
		values[i] = bf16_to_float(bytes + 2 * i);
	return values;
}

/* Loads a tensor of shape [n_out, n_in] into panels. */
static int load_matrix(const llama_safetensors *file, const char *name, size_t n_out, size_t n_in,
    llama_matrix *matrix, llama_error *err)
{
	const size_t shape[2] = {n_out, n_in};
	const unsigned char *bytes = llama_safetensors_bf16(file, name, shape, 2, err);
	if (!bytes)
		return -1;
	size_t n_panels = (n_out + LLAMA_PANEL_OUTPUTS - 1) / LLAMA_PANEL_OUTPUTS;
	float *panels = calloc(n_panels * LLAMA_PANEL_OUTPUTS * n_in, sizeof *panels);
	if (!panels)
		return llama_error_set(err, "no memory for tensor %s", name);
	for (size_t out = 0; out < n_out; out++) {
		float *panel = panels + out / LLAMA_PANEL_OUTPUTS * LLAMA_PANEL_OUTPUTS * n_in;
		for (size_t in = 0; in < n_in; in++, bytes += 2)
			panel[in * LLAMA_PANEL_OUTPUTS + out % LLAMA_PANEL_OUTPUTS] =
			    bf16_to_float(bytes);
	}
	*matrix = (llama_matrix){.panels = panels, .n_in = n_in, .n_out = n_out};
	return 0;
}

static int load_layer(const llama_safetensors *file, const llama_config *c, size_t index,
    llama_layer *layer, llama_error *err)
{
	size_t q_width = c->n_heads * c->head_dim;
	size_t kv_width = c->n_kv_heads * c->head_dim;
	const struct {
		const char *name;
		size_t n_out, n_in;
		llama_matrix *matrix;
	} matrices[] = {
	    {"self_attn.q_proj", q_width, c->hidden_size, &layer->q},
	    {"self_attn.k_proj", kv_width, c->hidden_size, &layer->k},
	    {"self_attn.v_proj", kv_width, c->hidden_size, &layer->v},
	    {"self_attn.o_proj", c->hidden_size, q_width, &layer->o},
	    {"mlp.gate_proj", c->intermediate_size, c->hidden_size, &layer->gate},
	    {"mlp.up_proj", c->intermediate_size, c->hidden_size, &layer->up},
	    {"mlp.down_proj", c->hidden_size, c->intermediate_size, &layer->down},
	};
	char name[100];
	for (size_t i = 0; i < sizeof matrices / sizeof matrices[0]; i++) {
		snprintf(name, sizeof name, "model.layers.%zu.%s.weight", index, matrices[i].name);
		if (load_matrix(
		        file, name, matrices[i].n_out, matrices[i].n_in, matrices[i].matrix, err))
			return -1;
	}
	snprintf(name, sizeof name, "model.layers.%zu.input_layernorm.weight", index);
	if (!(layer->attention_norm = load_rows(file, name, c->hidden_size, 0, err)))
		return -1;
	snprintf(name, sizeof name, "model.layers.%zu.post_attention_layernorm.weight", index);
	if (!(layer->mlp_norm = load_rows(file, name, c->hidden_size, 0, err)))
		return -1;
	return 0;
}

static int load_weights(llama_model *model, const llama_safetensors *file, llama_error *err)
{
	const llama_config *c = &model->config;
	const char *embeddings = "model.embed_tokens.weight";
	const char *output = c->tie_word_embeddings ? embeddings : "lm_head.weight";

	if (!(model->embeddings =
	            load_rows(file, embeddings, LLAMA_VOCAB_SIZE, c->hidden_size, err)) ||
	    !(model->output_norm = load_rows(file, "model.norm.weight", c->hidden_size, 0, err)) ||
	    load_matrix(file, output, LLAMA_VOCAB_SIZE, c->hidden_size, &model->output, err))
		return -1;
	if (!(model->layers = calloc(c->n_layers, sizeof *model->layers)))
		return llama_error_set(err, "no memory for %zu layers", c->n_layers);
	for (size_t i = 0; i < c->n_layers; i++)
		if (load_layer(file, c, i, &model->layers[i], err))
			return -1;
	return 0;
}

/* In float32 and in this order of operations, as transformers does it: the angles then agree to the
 * last bit or two. */
static int make_cos_sin(llama_model *model, llama_error *err)
{
	const llama_config *c = &model->config;
	size_t half = c->head_dim / 2;
	if (!(model->cos_sin = malloc(c->max_tokens * c->head_dim * sizeof *model->cos_sin)))
		return llama_error_set(err, "no memory for the rotary angles");
	for (size_t position = 0; position < c->max_tokens; position++) {
		float *row = model->cos_sin + position * c->head_dim;
		for (size_t i = 0; i < half; i++) {
			float frequency =
			    1.0f / powf(c->rope_theta, (float)(2 * i) / (float)c->head_dim);
			row[i] = cosf((float)position * frequency);
			row[i + half] = sinf((float)position * frequency);
		}
	}
	return 0;
}

static char *join_path(const char *dir, const char *name)
{
	size_t n_bytes = strlen(dir) + 1 + strlen(name) + 1;
	char *path = malloc(n_bytes);
	if (path)
		snprintf(path, n_bytes, "%s/%s", dir, name);
	return path;
}

static int load(
    llama_model *model, const char *config_path, const char *weights_path, llama_error *err)
{
	if (llama_config_read(config_path, &model->config, err))
		return -1;
	llama_safetensors *file = llama_safetensors_open(weights_path, err);
	if (!file)
		return -1;
	int rc = load_weights(model, file, err);
	llama_safetensors_close(file);
	return rc ? rc : make_cos_sin(model, err);
}

llama_model *llama_model_load(const char *dir, llama_error *err)
{
	llama_model *model = calloc(1, sizeof *model);
	char *config_path = join_path(dir, "config.json");
	char *weights_path = join_path(dir, "model.safetensors");
	int rc;
	if (!model || !config_path || !weights_path)
		rc = llama_error_set(err, "no memory for a model");
	else
		rc = load(model, config_path, weights_path, err);
	free(config_path);
	free(weights_path);
	if (rc) {
		llama_model_free(model);
		return NULL;
	}
	return model;
}

static void free_layer(llama_layer *layer)
{
	free(layer->attention_norm);
	free(layer->q.panels);
	free(layer->k.panels);
	free(layer->v.panels);
	free(layer->o.panels);
	free(layer->mlp_norm);
	free(layer->gate.panels);
	free(layer->up.panels);
	free(layer->down.panels);
}

void llama_model_free(llama_model *model)
{
	if (!model)
		return;
	for (size_t i = 0; model->layers && i < model->config.n_layers; i++)
		free_layer(&model->layers[i]);
	free(model->layers);
	free(model->embeddings);
	free(model->output_norm);
	free(model->output.panels);
	free(model->cos_sin);
	free(model);
}

const llama_config *llama_model_config(const llama_model *model)
{
	return &model->config;
}
