/* SPDX-License-Identifier: Apache-2.0 */
#include "llama/safetensors.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "llama/error.h"
#include "llama/file.h"

enum { LENGTH_BYTES = 8, MAX_HEADER_BYTES = 1 << 20, MAX_FILE_BYTES = 1 << 30, MAX_DIMS = 8 };

/* Dtypes of less than a byte exist in newer files; they count as unknown. */
static const struct dtype {
	const char *name;
	size_t bytes;
} dtypes[] = {
    {"BOOL", 1},
    {"U8", 1},
    {"I8", 1},
    {"F8_E5M2", 1},
    {"F8_E4M3", 1},
    {"I16", 2},
    {"U16", 2},
    {"F16", 2},
    {"BF16", 2},
    {"I32", 4},
    {"U32", 4},
    {"F32", 4},
    {"F64", 8},
    {"I64", 8},
    {"U64", 8},
};

struct tensor {
	const char *name; /* belongs to the JSON header */
	const struct dtype *dtype;
	size_t shape[MAX_DIMS];
	size_t n_dims;
	size_t begin, end; /* bytes from the start of the data */
};

struct llama_safetensors {
	char *path;
	unsigned char *bytes; /* the whole file */
	const unsigned char *data;
	size_t data_bytes;
	json_t *header;
	struct tensor *tensors; /* by ascending begin */
	size_t n_tensors;
};

static int read_index(const json_t *value, size_t *out)
{
	if (!json_is_integer(value) || json_integer_value(value) < 0 ||
	    (unsigned long long)json_integer_value(value) > SIZE_MAX)
		return -1;
	*out = (size_t)json_integer_value(value);
	return 0;
}

static const struct dtype *find_dtype(const char *name)
{
	for (size_t i = 0; name && i < sizeof dtypes / sizeof dtypes[0]; i++)
		if (strcmp(dtypes[i].name, name) == 0)
			return &dtypes[i];
	return NULL;
}

/* Reads the shape; *n_bytes becomes what a tensor of it takes. */
static int read_shape(const json_t *value, struct tensor *t, size_t *n_bytes)
{
	if (!json_is_array(value) || json_array_size(value) > MAX_DIMS)
		return -1;
	t->n_dims = json_array_size(value);
	*n_bytes = t->dtype->bytes;
	for (size_t i = 0; i < t->n_dims; i++) {
		if (read_index(json_array_get(value, i), &t->shape[i]))
			return -1;
		if (t->shape[i] && *n_bytes > SIZE_MAX / t->shape[i])
			return -1;
		*n_bytes *= t->shape[i];
	}
	return 0;
}

static int read_tensor(const llama_safetensors *file, const char *name, const json_t *entry,
    struct tensor *t, llama_error *err)
{
	t->name = name;
	t->dtype = find_dtype(json_string_value(json_object_get(entry, "dtype")));
	if (!t->dtype)
		return llama_error_set(
		    err, "%s: tensor %.100s has an unknown dtype", file->path, name);
	size_t n_bytes;
	if (read_shape(json_object_get(entry, "shape"), t, &n_bytes))
		return llama_error_set(
		    err, "%s: tensor %.100s has no usable shape", file->path, name);
	const json_t *offsets = json_object_get(entry, "data_offsets");
	if (json_array_size(offsets) != 2 || read_index(json_array_get(offsets, 0), &t->begin) ||
	    read_index(json_array_get(offsets, 1), &t->end) || t->begin > t->end)
		return llama_error_set(
		    err, "%s: tensor %.100s has no usable data_offsets", file->path, name);
	if (t->end > file->data_bytes)
		return llama_error_set(err,
		    "%s: tensor %.100s ends at byte %zu of the data, which has only %zu",
		    file->path, name, t->end, file->data_bytes);
	if (t->end - t->begin != n_bytes)
		return llama_error_set(err,
		    "%s: tensor %.100s has %zu bytes where its shape and dtype need %zu",
		    file->path, name, t->end - t->begin, n_bytes);
	return 0;
}

static int by_begin(const void *left, const void *right)
{
	const struct tensor *a = left;
	const struct tensor *b = right;
	if (a->begin != b->begin)
		return a->begin < b->begin ? -1 : 1;
	return (a->end > b->end) -
	       (a->end <
	           b->end); /* an empty tensor goes before one that starts at the same place */
}

/* The format allows neither overlap nor gap; what breaks that rule was damaged or hides something.
 */
static int check_cover(const llama_safetensors *file, llama_error *err)
{
	size_t end = 0;
	for (size_t i = 0; i < file->n_tensors; i++) {
		const struct tensor *t = &file->tensors[i];
		if (t->begin < end)
			return llama_error_set(err, "%s: tensor %.100s overlaps tensor %.100s",
			    file->path, t->name, file->tensors[i - 1].name);
		if (t->begin > end)
			return llama_error_set(err, "%s: a gap of %zu bytes before tensor %.100s",
			    file->path, t->begin - end, t->name);
		end = t->end;
	}
	if (end != file->data_bytes)
		return llama_error_set(
		    err, "%s: %zu bytes after the last tensor", file->path, file->data_bytes - end);
	return 0;
}

static int read_tensors(llama_safetensors *file, llama_error *err)
{
	file->tensors = calloc(json_object_size(file->header) + 1, sizeof *file->tensors);
	if (!file->tensors)
		return llama_error_set(err, "%s: no memory for the list of tensors", file->path);
	const char *name;
	json_t *entry;
	json_object_foreach(file->header, name, entry)
	{
		if (strcmp(name, "__metadata__") == 0)
			continue;
		if (read_tensor(file, name, entry, &file->tensors[file->n_tensors], err))
			return -1;
		file->n_tensors++;
	}
	qsort(file->tensors, file->n_tensors, sizeof *file->tensors, by_begin);
	return check_cover(file, err);
}

/* Finds the header in the file's n_bytes and parses it. */
static int read_header(llama_safetensors *file, size_t n_bytes, llama_error *err)
{
	if (n_bytes < LENGTH_BYTES)
		return llama_error_set(err, "%s: only %zu bytes, too short for a safetensors file",
		    file->path, n_bytes);
	uint64_t length = 0;
	for (int i = LENGTH_BYTES - 1; i >= 0; i--)
		length = length << 8 | file->bytes[i];
	if (length > n_bytes - LENGTH_BYTES)
		return llama_error_set(err,
		    "%s: a header of %llu bytes is announced, but only %zu bytes follow",
		    file->path, (unsigned long long)length, n_bytes - LENGTH_BYTES);
	if (length > MAX_HEADER_BYTES)
		return llama_error_set(err,
		    "%s: a header of %llu bytes is more than the %d that this program accepts",
		    file->path, (unsigned long long)length, MAX_HEADER_BYTES);
	file->data = file->bytes + LENGTH_BYTES + length;
	file->data_bytes = n_bytes - LENGTH_BYTES - (size_t)length;

	json_error_t json_err;
	file->header = json_loadb((const char *)file->bytes + LENGTH_BYTES, (size_t)length,
	    JSON_REJECT_DUPLICATES, &json_err);
	if (!file->header)
		return llama_error_set(err, "%s: header: %s (at byte %d)", file->path,
		    json_err.text, json_err.position);
	if (!json_is_object(file->header))
		return llama_error_set(err, "%s: the header is not a JSON object", file->path);
	return 0;
}

llama_safetensors *llama_safetensors_open(const char *path, llama_error *err)
{
	llama_safetensors *file = calloc(1, sizeof *file);
	size_t path_bytes = strlen(path) + 1;
	if (!file || !(file->path = malloc(path_bytes))) {
		llama_error_set(err, "%s: no memory", path);
		free(file);
		return NULL;
	}
	memcpy(file->path, path, path_bytes);
	size_t n_bytes;
	file->bytes = llama_file_read(path, MAX_FILE_BYTES, &n_bytes, err);
	if (!file->bytes || read_header(file, n_bytes, err) || read_tensors(file, err)) {
		llama_safetensors_close(file);
		return NULL;
	}
	return file;
}

void llama_safetensors_close(llama_safetensors *file)
{
	if (!file)
		return;
	free(file->tensors);
	json_decref(file->header);
	free(file->bytes);
	free(file->path);
	free(file);
}

static void format_shape(char *text, size_t text_bytes, const size_t *shape, size_t n_dims)
{
	size_t used = (size_t)snprintf(text, text_bytes, "[");
	for (size_t i = 0; i < n_dims && used < text_bytes; i++)
		used +=
		    (size_t)snprintf(text + used, text_bytes - used, i ? ", %zu" : "%zu", shape[i]);
	if (used < text_bytes)
		snprintf(text + used, text_bytes - used, "]");
}

const unsigned char *llama_safetensors_bf16(const llama_safetensors *file, const char *name,
    const size_t *shape, size_t n_dims, llama_error *err)
{
	const struct tensor *t = NULL;
	for (size_t i = 0; i < file->n_tensors && !t; i++)
		if (strcmp(file->tensors[i].name, name) == 0)
			t = &file->tensors[i];
	if (!t) {
		llama_error_set(err, "%s: tensor %s is missing", file->path, name);
		return NULL;
	}
	if (strcmp(t->dtype->name, "BF16") != 0) {
		llama_error_set(err, "%s: tensor %s is %s; this program reads only BF16",
		    file->path, name, t->dtype->name);
		return NULL;
	}
	if (t->n_dims != n_dims || memcmp(t->shape, shape, n_dims * sizeof *shape) != 0) {
		char found[160];
		char wanted[160];
		format_shape(found, sizeof found, t->shape, t->n_dims);
		format_shape(wanted, sizeof wanted, shape, n_dims);
		llama_error_set(err, "%s: tensor %s has shape %s where the configuration needs %s",
		    file->path, name, found, wanted);
		return NULL;
	}
	return file->data + t->begin;
}
