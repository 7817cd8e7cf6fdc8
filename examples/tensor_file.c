/* SPDX-License-Identifier: Apache-2.0 */
#include "tensor_file.h"

#include "llama/file.h"
#include <jansson.h>
#include <string.h>

enum { LENGTH_BYTES = 8 };

static const struct {
	const char *name;
	kvp_dtype dtype;
} dtypes[] = {
    {"BF16", KVP_DTYPE_BF16},
    {"F16", KVP_DTYPE_FP16},
    {"F32", KVP_DTYPE_FP32},
    {"F64", KVP_DTYPE_FP64},
    {"F8_E4M3", KVP_DTYPE_FP8_E4M3},
    {"F8_E5M2", KVP_DTYPE_FP8_E5M2},
    {"I8", KVP_DTYPE_INT8},
    {"I16", KVP_DTYPE_INT16},
    {"I32", KVP_DTYPE_INT32},
    {"I64", KVP_DTYPE_INT64},
    {"U8", KVP_DTYPE_UINT8},
    {"BOOL", KVP_DTYPE_BOOL},
};

/* The bytes of the tensors, after the header. */
struct data {
	unsigned char *bytes;
	size_t count;
};

static kvp_dtype find_dtype(const char *path, const char *name, const char *dtype)
{
	for (size_t i = 0; dtype != NULL && i < sizeof(dtypes) / sizeof(dtypes[0]); i++)
		if (strcmp(dtypes[i].name, dtype) == 0)
			return dtypes[i].dtype;
	fail("%s: tensor %s has a dtype that kvpipe does not know", path, name);
}

/* The file is somebody else's: whatever it claims is held against the bytes that are there. */
static void read_tensor(const char *path, const char *name, const json_t *entry,
    const struct data *data, kvp_tensor *tensor)
{
	kvp_dtype dtype =
	    find_dtype(path, name, json_string_value(json_object_get(entry, "dtype")));
	const json_t *shape = json_object_get(entry, "shape");
	const json_t *offsets = json_object_get(entry, "data_offsets");
	json_int_t begin = json_integer_value(json_array_get(offsets, 0));
	json_int_t end = json_integer_value(json_array_get(offsets, 1));
	int64_t dims[KVP_MAX_DIMS] = {0};

	if (!json_is_array(shape) || json_array_size(shape) > KVP_MAX_DIMS)
		fail("%s: tensor %s has no shape of at most %d dimensions", path, name,
		    KVP_MAX_DIMS);
	for (size_t i = 0; i < json_array_size(shape); i++)
		dims[i] = json_integer_value(json_array_get(shape, i));
	if (json_array_size(offsets) != 2 || begin < 0 || end < begin ||
	    (uint64_t)end > data->count)
		fail("%s: tensor %s does not lie within the file", path, name);
	if (kvp_tensor_init(
	        tensor, data->bytes + begin, dtype, (int)json_array_size(shape), dims) != KVP_OK)
		fail("%s: tensor %s: %s", path, name, kvp_last_error());
	if (kvp_tensor_bytes(tensor) != (uint64_t)(end - begin))
		fail("%s: tensor %s has not as many bytes as its shape needs", path, name);
}

/* Returns the header's bytes; `data` gets what follows them. */
static size_t find_header(const char *path, unsigned char *bytes, size_t count, struct data *data)
{
	uint64_t length = 0;

	for (size_t i = LENGTH_BYTES; i > 0 && count >= LENGTH_BYTES; i--)
		length = length << 8 | bytes[i - 1];
	if (count < LENGTH_BYTES || length > count - LENGTH_BYTES)
		fail("%s: not a safetensors file: it is shorter than its header", path);
	data->bytes = bytes + LENGTH_BYTES + length;
	data->count = count - LENGTH_BYTES - (size_t)length;
	return (size_t)length;
}

kvp_tensor *tensor_file_read(const char *path, size_t *count, void **memory)
{
	struct data data;
	llama_error file_error;
	json_error_t parse_error;
	const char *name;
	json_t *header, *entry;
	kvp_tensor *tensors;
	size_t file_bytes, header_bytes;
	unsigned char *bytes = llama_file_read(path, SIZE_MAX / 4, &file_bytes, &file_error);

	if (bytes == NULL)
		fail("%s", file_error.text);
	header_bytes = find_header(path, bytes, file_bytes, &data);
	header = json_loadb(
	    (const char *)bytes + LENGTH_BYTES, header_bytes, JSON_REJECT_DUPLICATES, &parse_error);
	if (!json_is_object(header))
		fail("%s: not a safetensors file: its header is not a JSON object", path);
	tensors = must_calloc(json_object_size(header), sizeof(*tensors));
	*count = 0;
	json_object_foreach(header, name, entry)
	{
		if (strcmp(name, "__metadata__") != 0)
			read_tensor(path, name, entry, &data, &tensors[(*count)++]);
	}
	json_decref(header);
	*memory = bytes;
	return tensors;
}
