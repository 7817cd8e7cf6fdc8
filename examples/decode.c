/* SPDX-License-Identifier: Apache-2.0
 *
 * The decode server: receives the KV-cache of a prompt straight into the blocks of its own cache,
 * and continues the text.  It never sees the prompt.  What travels, in which order, is in demo.h.
 */
#include "demo.h"
#include "report.h"

#include <stdio.h>
#include <stdlib.h>

static const char usage[] =
    "usage: decode [OPTION...]\n"
    "Receives the KV-cache of a prompt from prefill and continues the text.\n"
    "  --steps N          tokens to continue by (96)\n" MODEL_USAGE PIPE_USAGE;

static const struct option long_options[] = {PIPE_OPTIONS,
    {"model", required_argument, NULL, OPT_MODEL}, {"steps", required_argument, NULL, OPT_STEPS},
    {NULL, 0, NULL, 0}};

enum {
	CACHE_SEED = 11, /* another than prefill's: the blocks lie elsewhere */
	WINDOW = 64      /* receives that are posted ahead; a pipe holds up to 64 */
};

struct args {
	struct pipe_args pipe;
	const char *model;
	size_t steps;
};

/* Where the prompt's pieces go. */
struct delivery {
	kvp_pipe *pipe;
	char *way; /* which way the pipe goes */
	const llama_config *config;
	llama_cache *cache;
	llama_sequence *sequence;
	size_t n_tokens;
	struct time_split split;
};

static void parse_args(struct args *args, int argc, char **argv)
{
	int option;

	args->model = NULL;
	args->steps = 96;
	pipe_args_init(&args->pipe, argv, 1, usage);
	while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
		switch (option) {
		case OPT_MODEL:
			args->model = optarg;
			break;
		case OPT_STEPS:
			args->steps = (size_t)parse_number("--steps", optarg, 1, LLAMA_MAX_TOKENS);
			break;
		default:
			pipe_option(&args->pipe, option);
		}
	}
	no_more_arguments(argc, argv);
}

/* The explicit none fits every destination, but here nothing may be left out. */
static void refuse_none(const kvp_tensor *arrived)
{
	if (arrived->dtype == KVP_DTYPE_NONE)
		fail("prefill sent none where a tensor was expected");
}

/* Returns the number of prompt tokens, if the other side's model has the shape of this one. */
static size_t receive_header(kvp_pipe *pipe, const llama_config *config, size_t steps)
{
	int64_t header[HEADER_NUMBERS];
	kvp_tensor tensor;

	must(kvp_tensor_init(&tensor, header, KVP_DTYPE_INT64, 1, (int64_t[]){HEADER_NUMBERS}));
	must(kvp_pipe_recv(pipe, &tensor, KVP_TIMEOUT_DEFAULT));
	refuse_none(&tensor);
	if (header[HEADER_LAYERS] != (int64_t)config->n_layers ||
	    header[HEADER_KV_HEADS] != (int64_t)config->n_kv_heads ||
	    header[HEADER_HEAD_DIM] != (int64_t)config->head_dim)
		fail("prefill's model has %lld layers of %lld kv heads of %lld, this one %zu of "
		     "%zu of %zu",
		    (long long)header[HEADER_LAYERS], (long long)header[HEADER_KV_HEADS],
		    (long long)header[HEADER_HEAD_DIM], config->n_layers, config->n_kv_heads,
		    config->head_dim);
	if (header[HEADER_TOKENS] < 1 || header[HEADER_TOKENS] > (int64_t)config->max_tokens ||
	    steps > config->max_tokens - (size_t)header[HEADER_TOKENS])
		fail("a prompt of %lld tokens and %zu steps exceed the model's %zu tokens",
		    (long long)header[HEADER_TOKENS], steps, config->max_tokens);
	return (size_t)header[HEADER_TOKENS];
}

/* Posts a piece's block: its bytes go there and nowhere else.  Another dtype or shape is a
 * mismatch. */
static kvp_request *post_piece(const struct delivery *delivery, size_t index)
{
	kvp_tensor piece;
	kvp_request *request;

	describe_piece(&piece, delivery->config, delivery->cache, delivery->sequence,
	    delivery->n_tokens, index);
	must(kvp_pipe_post_recv(delivery->pipe, &piece, KVP_TIMEOUT_DEFAULT, &request));
	return request;
}

static void take_piece(struct delivery *delivery, kvp_request *request)
{
	kvp_tensor arrived;

	must(kvp_request_wait(request, KVP_TIMEOUT_DEFAULT));
	must(kvp_request_tensor(request, &arrived));
	refuse_none(&arrived);
	add_times(&delivery->split, request);
	kvp_request_free(request);
}

static void receive_pieces(struct delivery *delivery, size_t count)
{
	kvp_request *requests[WINDOW];

	for (size_t i = 0; i < count && i < WINDOW; i++)
		requests[i] = post_piece(delivery, i);
	for (size_t i = 0; i < count; i++) {
		take_piece(delivery, requests[i % WINDOW]);
		if (i + WINDOW < count)
			requests[i % WINDOW] = post_piece(delivery, i + WINDOW);
	}
}

static uint8_t receive_token(kvp_pipe *pipe)
{
	uint8_t token;
	kvp_tensor tensor;

	must(kvp_tensor_init(&tensor, &token, KVP_DTYPE_UINT8, 1, (int64_t[]){1}));
	must(kvp_pipe_recv(pipe, &tensor, KVP_TIMEOUT_DEFAULT));
	refuse_none(&tensor);
	return token;
}

/* Greedily, from the first token, which prefill has chosen. */
static void continue_text(
    const llama_model *model, struct delivery *delivery, uint8_t *text, size_t steps)
{
	float logits[LLAMA_VOCAB_SIZE];
	llama_error error;

	for (size_t i = 1; i < steps; i++) {
		if (llama_decode(model, delivery->cache, delivery->sequence, text[i - 1], logits,
		        &error) != 0)
			fail("%s", error.text);
		text[i] = llama_argmax(logits);
	}
}

/* The text alone goes to standard output, byte for byte; with --json all goes there. */
static void print(
    const struct delivery *delivery, const uint8_t *text, size_t steps, double seconds, int json)
{
	struct report report;

	report_open(&report, json ? stdout : stderr, json);
	if (json) {
		report_number(&report, "prompt_tokens", delivery->n_tokens);
		report_text(&report, "text", text, steps);
	}
	report_transfer(&report, &delivery->split, seconds, delivery->way);
	report_close(&report);
	if (!json && (fwrite(text, 1, steps, stdout) != steps || fflush(stdout) != 0))
		fail("cannot write the text");
}

int main(int argc, char **argv)
{
	static uint8_t text[LLAMA_MAX_TOKENS];
	llama_sequence sequence = {.n_blocks = 0};
	struct delivery delivery = {.sequence = &sequence};
	llama_error error;
	llama_model *model;
	struct args args;
	double start, seconds;

	parse_args(&args, argc, argv);
	model = load_model(args.model);
	delivery.config = llama_model_config(model);
	must(kvp_pipe_open(NULL, &args.pipe.pipe, KVP_TIMEOUT_DEFAULT, &delivery.pipe));
	delivery.way = explain(delivery.pipe);
	delivery.n_tokens = receive_header(delivery.pipe, delivery.config, args.steps);
	fprintf(
	    stderr, "decode: connected; receives the KV-cache of %zu tokens\n", delivery.n_tokens);
	start = now_seconds();
	delivery.cache = make_cache(model, delivery.n_tokens + args.steps, CACHE_SEED);
	if (llama_sequence_reserve(
	        delivery.cache, &sequence, delivery.n_tokens + args.steps, &error) != 0)
		fail("%s", error.text);
	receive_pieces(&delivery, delivery.config->n_layers * pieces_per_layer(delivery.n_tokens));
	text[0] = receive_token(delivery.pipe);
	seconds = now_seconds() - start;

	/* All layers are there: from now on the sequence is as if it had been computed here. */
	sequence.n_tokens = delivery.n_tokens;
	continue_text(model, &delivery, text, args.steps);
	print(&delivery, text, args.steps, seconds, args.pipe.json);

	kvp_pipe_free(delivery.pipe);
	free(delivery.way);
	llama_cache_free(delivery.cache);
	llama_model_free(model);
	return 0;
}
