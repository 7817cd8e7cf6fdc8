/* SPDX-License-Identifier: Apache-2.0
 *
 * Receives what a producer sends, compares checksums, and says where the time went.
 *
 * What the two say to each other is in tensors.h.
 */
#include "report.h"
#include "tensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: consumer [OPTION...]\n"
    "Receives the tensors of a producer and verifies them.\n"
    "  --strided          receives into tensors with gaps, as slices have\n" PIPE_USAGE;

enum { OPT_STRIDED = OPT_OWN };

static const struct option long_options[] = {
    PIPE_OPTIONS, {"strided", no_argument, NULL, OPT_STRIDED}, {NULL, 0, NULL, 0}};

/* Receives that are posted ahead; a pipe holds up to 64. */
enum { WINDOW = 64 };

struct args {
	struct pipe_args pipe;
	int strided;
};

struct stream {
	uint64_t rounds;
	size_t count;
	kvp_tensor *tensors;
	void *memory;
	uint64_t memory_bytes;
	uint64_t payload_bytes; /* without gaps */
};

static void parse_args(struct args *args, int argc, char **argv)
{
	int option;

	args->strided = 0;
	pipe_args_init(&args->pipe, argv, 1, usage);
	while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
		if (option == OPT_STRIDED)
			args->strided = 1;
		else
			pipe_option(&args->pipe, option);
	}
	no_more_arguments(argc, argv);
}

/* Numbers, as a tensor of just this shape: anything else is a mismatch. */
static void receive_numbers(kvp_pipe *pipe, int64_t *numbers, int ndim, const int64_t *shape)
{
	kvp_tensor tensor;

	must(kvp_tensor_init(&tensor, numbers, KVP_DTYPE_INT64, ndim, shape));
	must(kvp_pipe_recv(pipe, &tensor, KVP_TIMEOUT_DEFAULT));
	if (tensor.dtype == KVP_DTYPE_NONE)
		fail("the producer sent none where numbers were expected");
}

/* Learns what will come and makes the memory for it.  What a peer says is checked before it is
 * believed: numbers here, dtypes and shapes by the library. */
static void receive_table(kvp_pipe *pipe, int strided, struct stream *stream)
{
	int64_t numbers[2];
	int64_t *table;

	receive_numbers(pipe, numbers, 1, (int64_t[]){2});
	if (numbers[0] < 1 || numbers[0] > MAX_ROUNDS || numbers[1] < 1 || numbers[1] > MAX_TENSORS)
		fail("the producer announces %lld rounds of %lld tensors, which is not sensible",
		    (long long)numbers[0], (long long)numbers[1]);
	memset(stream, 0, sizeof(*stream));
	stream->rounds = (uint64_t)numbers[0];
	stream->count = (size_t)numbers[1];
	stream->tensors = must_calloc(stream->count, sizeof(*stream->tensors));
	table = must_calloc(stream->count * TABLE_COLUMNS, sizeof(*table));
	receive_numbers(pipe, table, 2, (int64_t[]){numbers[1], TABLE_COLUMNS});
	for (size_t i = 0; i < stream->count; i++) {
		const int64_t *row = table + i * TABLE_COLUMNS;

		tensor_plan(&stream->tensors[i], (kvp_dtype)row[TABLE_DTYPE], (int)row[TABLE_NDIM],
		    row + TABLE_SHAPE, strided);
		stream->payload_bytes += kvp_tensor_bytes(&stream->tensors[i]);
	}
	free(table);
	stream->memory = tensors_place(stream->tensors, stream->count, &stream->memory_bytes);
}

static kvp_request *post(kvp_pipe *pipe, const kvp_tensor *tensor)
{
	kvp_tensor none;
	kvp_request *request;

	if (tensor->dtype ==
	    KVP_DTYPE_NONE) { /* arrives in any destination; here in an empty one */
		kvp_tensor_init_buffer(&none, NULL, 0);
		tensor = &none;
	}
	must(kvp_pipe_post_recv(pipe, tensor, KVP_TIMEOUT_DEFAULT, &request));
	return request;
}

/* The none marker fits every destination, so a sender could leave a tensor out with it. */
static void take(kvp_request *request, const kvp_tensor *expected, struct time_split *split)
{
	kvp_tensor arrived;

	must(kvp_request_wait(request, KVP_TIMEOUT_DEFAULT));
	must(kvp_request_tensor(request, &arrived));
	if (arrived.dtype != expected->dtype)
		fail("the producer sent none where a tensor was expected");
	add_times(split, request);
	kvp_request_free(request);
}

/* Receives all tensors.  Returns the seconds from "ready" to the last arrival. */
static double run_round(kvp_pipe *pipe, const struct stream *stream, struct time_split *split)
{
	kvp_request *requests[WINDOW];
	kvp_tensor ready;
	double start;

	/* What an earlier round left here must not pass for what this one brings. */
	memset(stream->memory, 0xa5, (size_t)stream->memory_bytes);
	for (size_t i = 0; i < stream->count && i < WINDOW; i++)
		requests[i] = post(pipe, &stream->tensors[i]);
	kvp_tensor_init_none(&ready);
	start = now_seconds();
	must(kvp_pipe_send(pipe, &ready, NULL, NULL));
	for (size_t i = 0; i < stream->count; i++) {
		take(requests[i % WINDOW], &stream->tensors[i], split);
		if (i + WINDOW < stream->count)
			requests[i % WINDOW] = post(pipe, &stream->tensors[i + WINDOW]);
	}
	return now_seconds() - start;
}

static void verify(kvp_pipe *pipe, const struct stream *stream)
{
	int64_t *checksums = must_calloc(stream->count, sizeof(*checksums));
	char text[128];

	receive_numbers(pipe, checksums, 1, (int64_t[]){(int64_t)stream->count});
	for (size_t i = 0; i < stream->count; i++) {
		if (tensor_checksum(&stream->tensors[i]) == checksums[i])
			continue;
		kvp_tensor_describe(&stream->tensors[i], text, sizeof(text));
		fail("tensor %zu, %s, did not arrive as it was sent: checksums differ", i, text);
	}
	free(checksums);
}

int main(int argc, char **argv)
{
	struct args args;
	struct stream stream;
	struct time_split warm_up = {0}, split = {0};
	struct report report;
	kvp_pipe *pipe;
	char *way;
	double seconds = 0;

	parse_args(&args, argc, argv);
	must(kvp_pipe_open(NULL, &args.pipe.pipe, KVP_TIMEOUT_DEFAULT, &pipe));
	way = explain(pipe);
	receive_table(pipe, args.strided, &stream);
	fprintf(stderr, "consumer: connected; receives %zu tensors, %llu bytes\n", stream.count,
	    (unsigned long long)stream.payload_bytes);
	run_round(pipe, &stream, &warm_up);
	for (uint64_t round = 0; round < stream.rounds; round++)
		seconds += run_round(pipe, &stream, &split);
	verify(pipe, &stream);

	report_open(&report, stdout, args.pipe.json);
	report_number(&report, "rounds", stream.rounds);
	report_transfer(&report, &split, seconds, way);
	report_text(&report, "checksums", "equal", 5);
	report_close(&report);
	kvp_pipe_free(pipe);
	free(way);
	free(stream.tensors);
	free(stream.memory);
	return 0;
}
