/* SPDX-License-Identifier: Apache-2.0
 *
 * The store as a program of its own, and a few verbs to look into a running one.  Uses the public
 * headers only.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <kvpipe/metrics.h>
#include <kvpipe/store.h>
#include <kvpipe/version.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define EXIT_USAGE 2

static const char usage[] =
    "usage: kvpipe-store [OPTION]...                  serve until SIGINT or SIGTERM\n"
    "       kvpipe-store [OPTION]... get URL KEY      write the value and a newline\n"
    "       kvpipe-store [OPTION]... set URL KEY VALUE\n"
    "       kvpipe-store [OPTION]... delete URL KEY\n"
    "       kvpipe-store [OPTION]... list URL [PREFIX]\n"
    "       kvpipe-store --make-key FILE              make a cluster key\n"
    "\n"
    "serving; the url is printed on one line when the store is ready\n"
    "  --bind HOST:PORT   where to listen; HOST may be an interface, PORT a range\n"
    "                     first-last; port 0: any free one (127.0.0.1:0)\n"
    "  --advertise HOST   what clients are told to connect to (what is bound)\n"
    "  --url-file FILE    write the url there, too\n"
    "  --max-bytes BYTES  of keys and values together; also 64KiB, 2MiB, 1GiB (1GiB)\n"
    "  --max-keys N       number of keys (1000000)\n"
    "  --max-waits N      number of parked calls of all clients (65536)\n"
    "  --metrics HOST:PORT  serve metrics over HTTP there, loopback only\n"
    "verbs\n"
    "  --timeout-ms MS    for each step (5000)\n"
    "  --wait             get: wait for the key to be set\n"
    "  --ttl-ms MS        set: the key goes after that time\n"
    "  --uses N           set: the key goes after so many takes\n"
    "both\n"
    "  --key-file FILE    the cluster key (the file that KVPIPE_KEY_FILE names);\n"
    "                     without one, only loopback is bound\n"
    "\n"
    "  --help, --version\n";

typedef struct arguments {
	kvp_store_server_options server;
	kvp_store_set_options set;
	const char *url_file, *metrics, *key_file, *make_key;
	int timeout_ms;
	bool wait;
} arguments;

static void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void complain(const char *format, ...)
{
	va_list args;

	fputs("kvpipe-store: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
}

static int failed(void)
{
	complain("%s", kvp_last_error());
	return EXIT_FAILURE;
}

/* ---- serving ---- */

/* Appears with the whole url in it, or not at all. */
static bool write_url_file(const char *path, const char *url)
{
	char temporary[PATH_MAX];
	FILE *file;
	bool good;

	if ((size_t)snprintf(temporary, sizeof(temporary), "%s.%ld", path, (long)getpid()) >=
	    sizeof(temporary)) {
		complain("the path %s is too long", path);
		return false;
	}
	file = fopen(temporary, "we");
	good = file != NULL && fprintf(file, "%s\n", url) > 0;
	if (file != NULL && fclose(file) != 0)
		good = false;
	if (good && rename(temporary, path) == 0)
		return true;
	complain("cannot write %s: %s", path, strerror(errno));
	if (file != NULL)
		unlink(temporary);
	return false;
}

/* Where they are is said on standard error: standard output has the store's url and nothing else. */
static bool serve_metrics(kvp_context *context, const char *bind, kvp_metrics_server **metrics)
{
	kvp_metrics_server_options options;

	*metrics = NULL;
	if (bind == NULL)
		return true;
	kvp_metrics_server_options_init(&options);
	options.bind = bind;
	if (kvp_metrics_server_start(context, &options, metrics) != KVP_OK) {
		failed();
		return false;
	}
	complain("metrics are at %s", kvp_metrics_server_url(*metrics));
	return true;
}

static int serve(kvp_context *context, const arguments *args)
{
	kvp_metrics_server *metrics;
	kvp_store_server *server;
	sigset_t ends;
	int signal_number, code = EXIT_FAILURE;

	/* Blocked before the first thread is made, and waited for below. */
	sigemptyset(&ends);
	sigaddset(&ends, SIGINT);
	sigaddset(&ends, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &ends, NULL);

	if (!serve_metrics(context, args->metrics, &metrics))
		return EXIT_FAILURE;
	if (kvp_store_server_start(context, &args->server, &server) != KVP_OK) {
		failed();
		kvp_metrics_server_free(metrics);
		return EXIT_FAILURE;
	}
	const char *const url = kvp_store_server_url(server);
	if (printf("%s\n", url) < 0 || fflush(stdout) != 0)
		complain("cannot write to standard output: %s", strerror(errno));
	else if (args->url_file == NULL || write_url_file(args->url_file, url))
		code = EXIT_SUCCESS;
	if (code == EXIT_SUCCESS)
		sigwait(&ends, &signal_number);
	kvp_metrics_server_free(metrics);
	kvp_store_server_free(server);
	return code;
}

/* ---- verbs ---- */

static bool written(void)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return true;
	complain("cannot write to standard output: %s", strerror(errno));
	return false;
}

static int get(kvp_store *store, const arguments *args, const char *key)
{
	kvp_bytes value;
	const kvp_status status =
	    args->wait ? kvp_store_wait(store, &key, 1, &value, NULL, args->timeout_ms)
	               : kvp_store_get(store, key, &value, args->timeout_ms);

	if (status != KVP_OK)
		return failed();
	fwrite(value.data, 1, value.len, stdout);
	putchar('\n');
	kvp_bytes_free(&value);
	return written() ? EXIT_SUCCESS : EXIT_FAILURE;
}

static int print_key(void *user, const char *key)
{
	(void)user;
	return puts(key) < 0;
}

static int list(kvp_store *store, const arguments *args, const char *prefix)
{
	if (kvp_store_list(store, prefix, print_key, NULL, args->timeout_ms) != KVP_OK)
		return failed();
	return written() ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* words: the verb, the url, and what else the verb takes. */
static int run_verb(kvp_context *context, const arguments *args, char **words, int count)
{
	static const struct {
		const char *name;
		int least, most; /* words */
	} verbs[] = {{"get", 3, 3}, {"set", 4, 4}, {"delete", 3, 3}, {"list", 2, 3}};
	size_t verb = 0;
	kvp_store *store;
	int code;

	while (verb < sizeof(verbs) / sizeof(verbs[0]) && strcmp(words[0], verbs[verb].name) != 0)
		verb++;
	if (verb == sizeof(verbs) / sizeof(verbs[0])) {
		complain("there is no verb %s; try --help", words[0]);
		return EXIT_USAGE;
	}
	if (count < verbs[verb].least || count > verbs[verb].most) {
		complain("%s takes other arguments; try --help", words[0]);
		return EXIT_USAGE;
	}

	if (kvp_store_open(context, words[1], NULL, args->timeout_ms, &store) != KVP_OK)
		return failed();
	switch (verb) {
	case 0:
		code = get(store, args, words[2]);
		break;
	case 1:
		code = kvp_store_set(store, words[2], words[3], strlen(words[3]), &args->set,
		           args->timeout_ms) == KVP_OK
		           ? EXIT_SUCCESS
		           : failed();
		break;
	case 2:
		code = kvp_store_delete(store, words[2], args->timeout_ms) == KVP_OK ? EXIT_SUCCESS
		                                                                     : failed();
		break;
	default:
		code = list(store, args, count > 2 ? words[2] : "");
		break;
	}
	kvp_store_free(store);
	return code;
}

/* ---- keys ---- */

static bool write_all(int fd, const char *bytes, size_t len)
{
	while (len > 0) {
		const ssize_t wrote = write(fd, bytes, len);

		if (wrote < 0 && errno != EINTR)
			return false;
		bytes += wrote > 0 ? wrote : 0;
		len -= wrote > 0 ? (size_t)wrote : 0;
	}
	return fsync(fd) == 0;
}

/* A file of its own, or none: what is there is never touched, since a key that is lost locks a cluster out. */
static int make_key(const char *path)
{
	unsigned char key[32];
	char line[2 * sizeof(key) + 2];
	int fd, code = EXIT_FAILURE;

	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, S_IRUSR | S_IWUSR);
	if (fd < 0) {
		complain("cannot make %s: %s", path, strerror(errno));
		return EXIT_FAILURE;
	}
	/* As few bytes as this come whole or not at all. */
	if (getrandom(key, sizeof(key), 0) == (ssize_t)sizeof(key)) {
		for (size_t i = 0; i < sizeof(key); i++)
			snprintf(line + 2 * i, 3, "%02x", key[i]);
		line[sizeof(line) - 2] = '\n';
		if (write_all(fd, line, sizeof(line) - 1))
			code = EXIT_SUCCESS;
	}
	explicit_bzero(key, sizeof(key));
	explicit_bzero(line, sizeof(line));
	if (code != EXIT_SUCCESS) {
		complain("cannot write %s: %s", path, strerror(errno));
		unlink(path);
	}
	close(fd);
	return code;
}

/* ---- arguments ---- */

/* A whole number up to `max`, with a unit if `units`. */
static bool parse_number(
    const char *name, const char *text, bool units, uint64_t max, uint64_t *number)
{
	static const char *const suffixes[] = {"", "KiB", "MiB", "GiB", "TiB"};
	const size_t count = units ? sizeof(suffixes) / sizeof(suffixes[0]) : 1;
	char *end;
	unsigned long long value;

	errno = 0;
	value = strtoull(text, &end, 10);
	for (size_t i = 0; i < count && errno == 0 && *text >= '0' && *text <= '9'; i++) {
		if (strcmp(end, suffixes[i]) == 0 && value <= max >> 10 * i) {
			*number = value << 10 * i;
			return true;
		}
	}
	complain(
	    "--%s %s is not a whole number from 0 to %llu", name, text, (unsigned long long)max);
	return false;
}

static bool parse_int(const char *name, const char *text, int *number)
{
	uint64_t value;

	if (!parse_number(name, text, false, INT_MAX, &value))
		return false;
	*number = (int)value;
	return true;
}

enum {
	HELP = 1,
	VERSION,
	BIND,
	ADVERTISE,
	KEY_FILE,
	MAKE_KEY,
	URL_FILE,
	MAX_BYTES,
	MAX_KEYS,
	MAX_WAITS,
	METRICS,
	TIMEOUT,
	WAIT,
	TTL,
	USES
};

static const struct option long_options[] = {
    {"help", no_argument, NULL, HELP},
    {"version", no_argument, NULL, VERSION},
    {"bind", required_argument, NULL, BIND},
    {"advertise", required_argument, NULL, ADVERTISE},
    {"key-file", required_argument, NULL, KEY_FILE},
    {"make-key", required_argument, NULL, MAKE_KEY},
    {"url-file", required_argument, NULL, URL_FILE},
    {"max-bytes", required_argument, NULL, MAX_BYTES},
    {"max-keys", required_argument, NULL, MAX_KEYS},
    {"max-waits", required_argument, NULL, MAX_WAITS},
    {"metrics", required_argument, NULL, METRICS},
    {"timeout-ms", required_argument, NULL, TIMEOUT},
    {"wait", no_argument, NULL, WAIT},
    {"ttl-ms", required_argument, NULL, TTL},
    {"uses", required_argument, NULL, USES},
    {NULL, 0, NULL, 0},
};

/* One option that has a value, or --wait; false after a complaint. */
static bool take_option(arguments *args, int option, const char *name)
{
	uint64_t number = 0;

	switch (option) {
	case BIND:
		args->server.bind = optarg;
		return true;
	case ADVERTISE:
		args->server.advertise = optarg;
		return true;
	case KEY_FILE:
		args->key_file = optarg;
		return true;
	case MAKE_KEY:
		args->make_key = optarg;
		return true;
	case URL_FILE:
		args->url_file = optarg;
		return true;
	case MAX_BYTES:
		return parse_number(name, optarg, true, INT64_MAX, &args->server.max_bytes);
	case MAX_KEYS:
		return parse_int(name, optarg, &args->server.max_keys);
	case MAX_WAITS:
		return parse_int(name, optarg, &args->server.max_waits);
	case METRICS:
		args->metrics = optarg;
		return true;
	case TIMEOUT:
		return parse_int(name, optarg, &args->timeout_ms);
	case WAIT:
		args->wait = true;
		return true;
	case TTL:
		if (!parse_number(name, optarg, false, INT64_MAX, &number))
			return false;
		args->set.ttl_ms = (int64_t)number;
		return true;
	case USES:
		if (!parse_number(name, optarg, false, UINT32_MAX, &number))
			return false;
		args->set.uses = (uint32_t)number;
		return true;
	default:
		fputs("try kvpipe-store --help\n", stderr); /* getopt_long has complained */
		return false;
	}
}

static int run(const arguments *args, char **words, int count)
{
	kvp_context_options options;
	kvp_context *context;
	int code;

	kvp_context_options_init(&options);
	options.key_file = args->key_file;
	if (kvp_context_new(&context, &options) != KVP_OK)
		return failed();
	code = count > 0 ? run_verb(context, args, words, count) : serve(context, args);
	kvp_context_free(context);
	return code;
}

int main(int argc, char **argv)
{
	arguments args = {.timeout_ms = 5000};
	char name[] = "kvpipe-store";
	int option, index = 0;

	argv[0] = name; /* for the sentences of getopt_long, without a path */
	kvp_store_server_options_init(&args.server);
	kvp_store_set_options_init(&args.set);
	while ((option = getopt_long(argc, argv, "", long_options, &index)) != -1) {
		if (option == HELP || option == VERSION) {
			fputs(option == HELP ? usage : "kvpipe-store " KVP_VERSION_STRING "\n",
			    stdout);
			return written() ? EXIT_SUCCESS : EXIT_FAILURE;
		}
		if (!take_option(&args, option, long_options[index].name))
			return EXIT_USAGE;
	}
	if (args.make_key != NULL && optind < argc) {
		complain("--make-key takes no other arguments; try --help");
		return EXIT_USAGE;
	}
	return args.make_key != NULL ? make_key(args.make_key) : run(&args, argv + optind, argc - optind);
}
