/* SPDX-License-Identifier: Apache-2.0
 *
 * The same run without a pipe: one process computes the prompt and continues it.  Prints the text
 * alone, byte for byte, to compare decode's with.
 */
#include "demo.h"

#include <stdio.h>

static const char usage[] =
    "usage: one_process [OPTION...]\n"
    "Continues a prompt without any transfer.\n"
    "  --steps N          tokens to continue by (96)\n" MODEL_USAGE PROMPT_USAGE;

static const struct option long_options[] = {{"model", required_argument, NULL, OPT_MODEL},
    {"prompt", required_argument, NULL, OPT_PROMPT},
    {"prompt-file", required_argument, NULL, OPT_PROMPT_FILE},
    {"steps", required_argument, NULL, OPT_STEPS}, {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0}};

int main(int argc, char **argv)
{
	struct prompt prompt;
	uint8_t text[LLAMA_MAX_TOKENS];
	struct pipe_args common;
	const char *dir = NULL;
	size_t steps = 96;
	llama_model *model;
	llama_cache *cache;
	llama_error error;
	int option;

	pipe_args_init(&common, argv, 0, usage);
	prompt_from_text(&prompt, NULL);
	while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
		switch (option) {
		case OPT_MODEL:
			dir = optarg;
			break;
		case OPT_PROMPT:
			prompt_from_text(&prompt, optarg);
			break;
		case OPT_PROMPT_FILE:
			prompt_from_file(&prompt, optarg);
			break;
		case OPT_STEPS:
			steps = (size_t)parse_number("--steps", optarg, 1, LLAMA_MAX_TOKENS);
			break;
		default:
			pipe_option(&common, option);
		}
	}
	no_more_arguments(argc, argv);

	model = load_model(dir);
	cache = make_cache(model, prompt.count + steps, 1);
	if (llama_generate(model, cache, prompt.tokens, prompt.count, text, steps, &error) != 0)
		fail("%s", error.text);
	if (fwrite(text, 1, steps, stdout) != steps || fflush(stdout) != 0)
		fail("cannot write the text");
	llama_cache_free(cache);
	llama_model_free(model);
	return 0;
}
