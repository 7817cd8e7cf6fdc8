/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A reader of the safetensors format: 8 bytes of header length (little endian), a JSON header that
 * maps each tensor's name to dtype, shape and place, then the tensors' bytes. The file is taken to
 * be hostile until it has been checked.
 */
#ifndef LLAMA_SAFETENSORS_H
#define LLAMA_SAFETENSORS_H

#include "llama/llama.h"

typedef struct llama_safetensors llama_safetensors;

/*
 * Reads and checks the whole file: each tensor has a known dtype, a shape that agrees with its
 * bytes, and bytes that lie in the file; together the tensors cover the data without overlap or
 * gap. NULL if not so.
 */
llama_safetensors *llama_safetensors_open(const char *path, llama_error *err);
void llama_safetensors_close(llama_safetensors *file); /* accepts NULL */

/*
 * The values of the bfloat16 tensor `name`, which must have just this shape: two bytes each, little
 * endian, at any alignment, row by row. They live as long as `file`. NULL if the tensor is missing
 * or of another dtype or shape.
 */
const unsigned char *llama_safetensors_bf16(const llama_safetensors *file, const char *name,
    const size_t *shape, size_t n_dims, llama_error *err);

#endif
