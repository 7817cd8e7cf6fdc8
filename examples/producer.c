/* SPDX-License-Identifier: Apache-2.0
 *
 * Sends tensors to a consumer, as fast as it takes them, and says where the time went.
 *
 *	producer --count 64 --bytes 1MiB --dtype bf16 &
 *	consumer
 *
 * What the two say to each other is in tensors.h.
 */
#include "report.h"
#include "tensors.h"
#ifdef HAVE_JANSSON
#include "tensor_file.h"
#endif

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: producer [OPTION...]\n"
    "Sends tensors of random contents to a consumer.\n"
    "  --count N          tensors of a round (64)\n"
    "  --bytes SIZE       of one tensor (1MiB)\n"
    "  --shape A,B,...    instead of --bytes\n"
    "  --dtype LIST       bf16, fp32, int8, ..., none; several take turns (bf16)\n"
    "  --strided          leaves gaps in the tensors, as slices have; they travel without\n"
    "  --seed N           of the contents (1)\n"
    "  --file FILE        instead of all these: the tensors of a safetensors file\n"
    "  --rounds N         how often to send them, after one round to warm up (10)\n" PIPE_USAGE;

enum {
	OPT_COUNT = OPT_OWN,
	OPT_BYTES,
	OPT_SHAPE,
	OPT_DTYPE,
	OPT_STRIDED,
	OPT_SEED,
	OPT_FILE,
	OPT_ROUNDS
};

static const struct option long_options[] = {PIPE_OPTIONS,
    {"count", required_argument, NULL, OPT_COUNT}, {"bytes", required_argument, NULL, OPT_BYTES},
    {"shape", required_argument, NULL, OPT_SHAPE}, {"dtype", required_argument, NULL, OPT_DTYPE},
    {"strided", no_argument, NULL, OPT_STRIDED}, {"seed", required_argument, NULL, OPT_SEED},
    {"file", required_argument, NULL, OPT_FILE}, {"rounds", required_argument, NULL, OPT_ROUNDS},
    {NULL, 0, NULL, 0}};

enum { MAX_DTYPES = 16 };

struct args {
	struct pipe_args pipe;
	size_t count;
	uint64_t bytes;
	int ndim; /* -1: a vector of `bytes` bytes */
	int64_t shape[KVP_MAX_DIMS];
	kvp_dtype dtypes[MAX_DTYPES];
	size_t dtype_count;
	int strided;
	uint64_t seed;
	const char *file;
	uint64_t rounds;
};

static void parse_shape(struct args *args, char *text)
{
	args->ndim = 0;
	for (char *part = strtok(text, ","); part != NULL; part = strtok(NULL, ",")) {
		if (args->ndim == KVP_MAX_DIMS)
			fail("--shape: more than %d dimensions", KVP_MAX_DIMS);
		args->shape[args->ndim++] = (int64_t)parse_number("--shape", part, 0, INT64_MAX);
	}
}

static void parse_dtypes(struct args *args, char *text)
{
	args->dtype_count = 0;
	for (char *part = strtok(text, ","); part != NULL; part = strtok(NULL, ",")) {
		if (args->dtype_count == MAX_DTYPES)
			fail("--dtype: more than %d of them", MAX_DTYPES);
		must(kvp_dtype_from_name(part, &args->dtypes[args->dtype_count++]));
	}
	if (args->dtype_count == 0)
		fail("--dtype: the list is empty");
}

static void parse_args(struct args *args, int argc, char **argv)
{
	int option;

	memset(args, 0, sizeof(*args));
	args->count = 64;
	args->bytes = 1 << 20;
	args->ndim = -1;
	args->dtypes[0] = KVP_DTYPE_BF16;
	args->dtype_count = 1;
	args->seed = 1;
	args->rounds = 10;
	pipe_args_init(&args->pipe, argv, 0, usage);
	while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
		switch (option) {
		case OPT_COUNT:
			args->count = (size_t)parse_number("--count", optarg, 1, MAX_TENSORS);
			break;
		case OPT_BYTES:
			args->bytes = parse_bytes("--bytes", optarg);
			break;
		case OPT_SHAPE:
			parse_shape(args, optarg);
			break;
		case OPT_DTYPE:
			parse_dtypes(args, optarg);
			break;
		case OPT_STRIDED:
			args->strided = 1;
			break;
		case OPT_SEED:
			args->seed = parse_number("--seed", optarg, 0, UINT64_MAX);
			break;
		case OPT_FILE:
			args->file = optarg;
			break;
		case OPT_ROUNDS:
			args->rounds = parse_number("--rounds", optarg, 1, MAX_ROUNDS);
			break;
		default:
			pipe_option(&args->pipe, option);
		}
	}
	no_more_arguments(argc, argv);
}

static kvp_tensor *make_tensors(const struct args *args, void **memory)
{
	kvp_tensor *tensors = must_calloc(args->count, sizeof(*tensors));
	uint64_t random = args->seed;
	uint64_t bytes;

	for (size_t i = 0; i < args->count; i++) {
		kvp_dtype dtype = args->dtypes[i % args->dtype_count];
		size_t size = kvp_dtype_size(dtype);
		int64_t length = size > 0 ? (int64_t)(args->bytes / size) : 0;

		if (args->ndim >= 0)
			tensor_plan(&tensors[i], dtype, args->ndim, args->shape, args->strided);
		else
			tensor_plan(&tensors[i], dtype, 1, &length, args->strided);
	}
	*memory = tensors_place(tensors, args->count, &bytes);
	fill_random(*memory, (size_t)bytes, &random);
	for (size_t i = 0; i < args->count; i++) /* a bool is 0 or 1; the others take any bits */
		for (uint64_t j = 0;
		     tensors[i].dtype == KVP_DTYPE_BOOL && j < tensors[i].storage_bytes; j++)
			((unsigned char *)tensors[i].data)[j] &= 1;
	return tensors;
}

/* The tensors, and their number in args->count. */
static kvp_tensor *get_tensors(struct args *args, void **memory)
{
	if (args->file == NULL)
		return make_tensors(args, memory);
#ifdef HAVE_JANSSON
	kvp_tensor *tensors = tensor_file_read(args->file, &args->count, memory);

	if (args->count == 0 || args->count > MAX_TENSORS)
		fail("%s: %zu tensors; this program sends 1 to %d", args->file, args->count,
		    MAX_TENSORS);
	return tensors;
#else
	fail("--file: this program was built without jansson, which reads the file's header");
#endif
}

/* A few numbers, as a tensor.  Waits until they are there, so that the array may go. */
static void send_numbers(kvp_pipe *pipe, int64_t *numbers, int ndim, const int64_t *shape)
{
	kvp_tensor tensor;

	must(kvp_tensor_init(&tensor, numbers, KVP_DTYPE_INT64, ndim, shape));
	must(kvp_pipe_send(pipe, &tensor, NULL, NULL));
	must(kvp_pipe_flush(pipe, KVP_TIMEOUT_DEFAULT));
}

static void send_table(kvp_pipe *pipe, const kvp_tensor *tensors, size_t count, uint64_t rounds)
{
	int64_t numbers[2] = {(int64_t)rounds, (int64_t)count};
	int64_t *table = must_calloc(count * TABLE_COLUMNS, sizeof(*table));

	for (size_t i = 0; i < count; i++) {
		int64_t *row = table + i * TABLE_COLUMNS;

		row[TABLE_DTYPE] = tensors[i].dtype;
		row[TABLE_NDIM] = tensors[i].ndim;
		memcpy(row + TABLE_SHAPE, tensors[i].shape, sizeof(tensors[i].shape));
	}
	send_numbers(pipe, numbers, 1, (int64_t[]){2});
	send_numbers(pipe, table, 2, (int64_t[]){(int64_t)count, TABLE_COLUMNS});
	free(table);
}

/* Sends all tensors when the consumer is ready.  Returns the seconds from the first send to the
 * last arrival. */
static double run_round(kvp_pipe *pipe, const kvp_tensor *tensors, size_t count,
    kvp_request **requests, struct time_split *split)
{
	kvp_tensor ready;
	double start, seconds;

	kvp_tensor_init_buffer(&ready, NULL, 0);
	must(kvp_pipe_recv(pipe, &ready, KVP_TIMEOUT_DEFAULT));
	start = now_seconds();
	/* Send does not wait for the receiver: as many are in flight as --buffer lets. */
	for (size_t i = 0; i < count; i++)
		must(kvp_pipe_send(pipe, &tensors[i], NULL, &requests[i]));
	for (size_t i = 0; i < count; i++)
		must(kvp_request_wait(requests[i], KVP_TIMEOUT_DEFAULT));
	seconds = now_seconds() - start;
	for (size_t i = 0; i < count; i++) {
		add_times(split, requests[i]);
		kvp_request_free(requests[i]);
	}
	return seconds;
}

static void send_checksums(kvp_pipe *pipe, const kvp_tensor *tensors, size_t count)
{
	int64_t *checksums = must_calloc(count, sizeof(*checksums));

	for (size_t i = 0; i < count; i++)
		checksums[i] = tensor_checksum(&tensors[i]);
	send_numbers(pipe, checksums, 1, (int64_t[]){(int64_t)count});
	free(checksums);
}

int main(int argc, char **argv)
{
	struct args args;
	struct report report;
	void *memory;
	kvp_tensor *tensors;
	kvp_request **requests;
	kvp_pipe *pipe;
	char *way;
	uint64_t bytes = 0;
	double seconds = 0;
	struct time_split warm_up = {0}, split = {0};

	parse_args(&args, argc, argv);
	tensors = get_tensors(&args, &memory);
	requests = must_calloc(args.count, sizeof(kvp_request *));
	for (size_t i = 0; i < args.count; i++)
		bytes += kvp_tensor_bytes(&tensors[i]);

	must(kvp_pipe_open(NULL, &args.pipe.pipe, KVP_TIMEOUT_DEFAULT, &pipe));
	way = explain(pipe);
	fprintf(stderr, "producer: connected; sends %zu tensors, %llu bytes\n", args.count,
	    (unsigned long long)bytes);
	send_table(pipe, tensors, args.count, args.rounds);
	run_round(pipe, tensors, args.count, requests, &warm_up);
	for (uint64_t round = 0; round < args.rounds; round++)
		seconds += run_round(pipe, tensors, args.count, requests, &split);
	send_checksums(pipe, tensors, args.count);

	report_open(&report, stdout, args.pipe.json);
	report_number(&report, "rounds", args.rounds);
	report_transfer(&report, &split, seconds, way);
	report_close(&report);
	kvp_pipe_free(pipe);
	free(way);
	free(requests);
	free(tensors);
	free(memory);
	return 0;
}
