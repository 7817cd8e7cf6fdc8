/* SPDX-License-Identifier: Apache-2.0
 *
 * The prefill server: computes the KV-cache of a prompt and ships it to a decode server, layer by
 * layer, while the next layer is being computed.  What travels, and in which order, is in demo.h.
 */
#include "demo.h"
#include "report.h"

#include <stdio.h>
#include <stdlib.h>

static const char usage[] =
    "usage: prefill [OPTION...]\n"
    "Computes the KV-cache of a prompt and sends it to decode.\n" MODEL_USAGE PROMPT_USAGE
        PIPE_USAGE;

static const struct option long_options[] = {PIPE_OPTIONS,
    {"model", required_argument, NULL, OPT_MODEL}, {"prompt", required_argument, NULL, OPT_PROMPT},
    {"prompt-file", required_argument, NULL, OPT_PROMPT_FILE}, {NULL, 0, NULL, 0}};

enum { CACHE_SEED = 7 };

struct args {
	struct pipe_args pipe;
	const char *model;
	struct prompt prompt;
};

/* The prompt's pieces on their way. */
struct shipment {
	kvp_pipe *pipe;
	char *way; /* which way the pipe goes */
	const llama_config *config;
	llama_cache *cache;
	const llama_sequence *sequence;
	size_t n_tokens;
	size_t sent, total; /* pieces */
	kvp_request **requests;
};

static void parse_args(struct args *args, int argc, char **argv)
{
	int option;

	args->model = NULL;
	pipe_args_init(&args->pipe, argv, 0, usage);
	prompt_from_text(&args->prompt, NULL);
	while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
		switch (option) {
		case OPT_MODEL:
			args->model = optarg;
			break;
		case OPT_PROMPT:
			prompt_from_text(&args->prompt, optarg);
			break;
		case OPT_PROMPT_FILE:
			prompt_from_file(&args->prompt, optarg);
			break;
		default:
			pipe_option(&args->pipe, option);
		}
	}
	no_more_arguments(argc, argv);
}

/* Sends the pieces below `end` that have not been sent.  With a time-out of 0 it never waits:
 * when the pipe has no room, the next call goes on here. */
static void ship(struct shipment *shipment, size_t end, int timeout_ms)
{
	kvp_send_options options;
	kvp_tensor piece;

	kvp_send_options_init(&options);
	options.timeout_ms = timeout_ms;
	while (shipment->sent < end) {
		kvp_status status;

		describe_piece(&piece, shipment->config, shipment->cache, shipment->sequence,
		    shipment->n_tokens, shipment->sent);
		status = kvp_pipe_send(
		    shipment->pipe, &piece, &options, &shipment->requests[shipment->sent]);
		if (status == KVP_E_AGAIN)
			return;
		must(status);
		shipment->sent++;
	}
}

/* Called in the middle of the prefill: the layer's K and V are final.  The pipe's thread sends
 * them while this one computes the next layer, which does not touch them. */
static void layer_done(void *user, size_t layer)
{
	struct shipment *shipment = user;

	ship(shipment, (layer + 1) * pieces_per_layer(shipment->n_tokens), 0);
}

static void send_header(struct shipment *shipment, int64_t header[HEADER_NUMBERS])
{
	kvp_tensor tensor;

	header[HEADER_TOKENS] = (int64_t)shipment->n_tokens;
	header[HEADER_LAYERS] = (int64_t)shipment->config->n_layers;
	header[HEADER_KV_HEADS] = (int64_t)shipment->config->n_kv_heads;
	header[HEADER_HEAD_DIM] = (int64_t)shipment->config->head_dim;
	must(kvp_tensor_init(&tensor, header, KVP_DTYPE_INT64, 1, (int64_t[]){HEADER_NUMBERS}));
	must(kvp_pipe_send(shipment->pipe, &tensor, NULL, NULL));
}

static void send_token(kvp_pipe *pipe, uint8_t *token)
{
	kvp_tensor tensor;

	must(kvp_tensor_init(&tensor, token, KVP_DTYPE_UINT8, 1, (int64_t[]){1}));
	must(kvp_pipe_send(pipe, &tensor, NULL, NULL));
}

/* How many pieces are in decode's memory. */
static size_t count_arrived(const struct shipment *shipment)
{
	size_t count = 0;

	for (size_t i = 0; i < shipment->sent; i++)
		count += kvp_request_test(shipment->requests[i]) == KVP_OK;
	return count;
}

static void print_report(
    const struct shipment *shipment, double compute, size_t early, double seconds, int json)
{
	struct time_split split = {0};
	struct report report;

	for (size_t i = 0; i < shipment->total; i++)
		add_times(&split, shipment->requests[i]);
	report_open(&report, stdout, json);
	if (json) {
		report_number(&report, "prompt_tokens", shipment->n_tokens);
		report_real(&report, "prefill_seconds", compute);
		report_number(&report, "tensors_there_by_then", early);
	} else {
		printf("%zu tokens computed in %.4f s; %zu of %zu tensors were there by then\n",
		    shipment->n_tokens, compute, early, shipment->total);
	}
	report_transfer(&report, &split, seconds, shipment->way);
	report_close(&report);
}

int main(int argc, char **argv)
{
	struct args args;
	llama_sequence sequence = {.n_blocks = 0};
	llama_error error;
	struct shipment shipment = {.sequence = &sequence};
	int64_t header[HEADER_NUMBERS];
	float logits[LLAMA_VOCAB_SIZE];
	llama_model *model;
	double start, compute;
	size_t early;
	uint8_t token;

	parse_args(&args, argc, argv);
	model = load_model(args.model);
	shipment.config = llama_model_config(model);
	shipment.n_tokens = args.prompt.count;
	shipment.cache = make_cache(model, shipment.n_tokens, CACHE_SEED);
	shipment.total = shipment.config->n_layers * pieces_per_layer(shipment.n_tokens);
	shipment.requests = must_calloc(shipment.total, sizeof(kvp_request *));

	must(kvp_pipe_open(NULL, &args.pipe.pipe, KVP_TIMEOUT_DEFAULT, &shipment.pipe));
	shipment.way = explain(shipment.pipe);
	fprintf(
	    stderr, "prefill: connected; sends the KV-cache of %zu tokens\n", shipment.n_tokens);
	send_header(&shipment, header);
	start = now_seconds();
	if (llama_prefill(model, shipment.cache, &sequence, args.prompt.tokens, shipment.n_tokens,
	        layer_done, &shipment, logits, &error) != 0)
		fail("%s", error.text);
	compute = now_seconds() - start;
	early = count_arrived(&shipment);
	token = llama_argmax(logits);
	/* What found no room in the callback; then all of it is on its way, and at last there. */
	ship(&shipment, shipment.total, KVP_TIMEOUT_DEFAULT);
	send_token(shipment.pipe, &token);
	must(kvp_pipe_flush(shipment.pipe, KVP_TIMEOUT_DEFAULT));
	print_report(&shipment, compute, early, now_seconds() - start, args.pipe.json);

	kvp_pipe_free(shipment.pipe);
	free(shipment.way);
	for (size_t i = 0; i < shipment.total; i++)
		kvp_request_free(shipment.requests[i]);
	free(shipment.requests);
	llama_cache_free(shipment.cache);
	llama_model_free(model);
	return 0;
}
