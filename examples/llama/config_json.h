/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LLAMA_CONFIG_JSON_H
#define LLAMA_CONFIG_JSON_H

#include "llama/llama.h"

/*
 * Reads a config.json as Hugging Face transformers writes it. Refuses whatever the arithmetic here
 * does not do. All numbers come out bounded, so that a product of three of them fits a size_t of 64
 * bits.
 */
int llama_config_read(const char *path, llama_config *config, llama_error *err);

#endif
