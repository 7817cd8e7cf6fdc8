/* SPDX-License-Identifier: Apache-2.0
 *
 * All tensors of a safetensors file: 8 bytes of header length (little endian), a JSON header that
 * maps each tensor's name to dtype, shape and place, then the bytes.
 */
#ifndef EXAMPLES_TENSOR_FILE_H
#define EXAMPLES_TENSOR_FILE_H

#include "common.h"

/* Reads the file and describes its tensors, in the order of the header.  Both the tensors and
 * *memory, where their bytes are, are the caller's to free. */
kvp_tensor *tensor_file_read(const char *path, size_t *count, void **memory);

#endif
