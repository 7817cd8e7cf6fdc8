/* SPDX-License-Identifier: Apache-2.0
 *
 * iperf3, if it is installed: a server for one test and a client, both on loopback.
 */
#include "iperf.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

bool bench_have_program(const char *name)
{
	const char *path = getenv("PATH");
	char file[4096];

	while (path != NULL && *path != '\0') {
		const size_t len = strcspn(path, ":");

		if ((size_t)snprintf(file, sizeof(file), "%.*s/%s", (int)len, path, name) < sizeof(file) &&
		    access(file, X_OK) == 0)
			return true;
		path += len + (path[len] == ':');
	}
	return false;
}

/* A port that is free now. */
static int free_port(void)
{
	struct sockaddr_in place = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(place);
	const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int port = 0;

	if (fd >= 0 && bind(fd, (struct sockaddr *)&place, len) == 0 &&
	    getsockname(fd, (struct sockaddr *)&place, &len) == 0)
		port = ntohs(place.sin_port);
	if (fd >= 0)
		close(fd);
	return port;
}

/* Connecting to find out would be taken for the one client.  In /proc, 0A is LISTEN. */
static bool listens(int port)
{
	static const char *const tables[] = {"/proc/net/tcp", "/proc/net/tcp6"};
	char line[256], end[16];
	bool found = false;

	snprintf(end, sizeof(end), ":%04X ", (unsigned)port);
	for (size_t i = 0; i < 2 && !found; i++) {
		FILE *const file = fopen(tables[i], "re");

		while (file != NULL && !found && fgets(line, sizeof(line), file) != NULL) {
			const char *const at = strstr(line, end);

			found = at != NULL && strstr(at, ":0000 0A ") != NULL;
		}
		if (file != NULL)
			fclose(file);
	}
	return found;
}

typedef struct command {
	const char *words[16];
	bool quiet;
} command;

static int exec_command(void *user, int in, int out)
{
	const command *const run = user;
	const int nowhere = open("/dev/null", O_RDWR);

	(void)in;
	dup2(nowhere, STDIN_FILENO);
	dup2(run->quiet ? nowhere : out, STDOUT_FILENO);
	if (run->quiet)
		dup2(nowhere, STDERR_FILENO);
	signal(SIGPIPE, SIG_DFL);
	execvp(run->words[0], (char *const *)run->words);
	return 127;
}

/* Until its end; the text is returned owned, with a final 0. */
static char *hear_everything(bench_child *child)
{
	const size_t most = 1 << 20;
	char *const text = malloc(most + 1);
	size_t len = 0;
	ssize_t n;

	/* The client has an alarm of its own, so this ends. */
	while (text != NULL && len < most && (n = read(child->in, text + len, most - len)) > 0)
		len += (size_t)n;
	if (text != NULL)
		text[len] = '\0';
	return text;
}

static bool parse(const char *text, double *rate)
{
	json_t *const document = text != NULL ? json_loads(text, 0, NULL) : NULL;
	double bits = 0;
	const bool good =
	    json_unpack(document, "{s:{s:{s:F}}}", "end", "sum_received", "bits_per_second", &bits) == 0 && bits > 0;

	json_decref(document);
	*rate = bits / 8e9;
	return good || bench_complain("iperf3 has not told a rate");
}

bool bench_iperf(void *user, double *value)
{
	const bench_iperf_test *const test = user;
	const int port = free_port();
	const struct timespec nap = {.tv_nsec = 5000000};
	char port_text[16], length[32], total[32], *text;
	command serve = {.words = {"iperf3", "-s", "-1", "-B", "127.0.0.1", "-p", port_text}, .quiet = true};
	command send = {.words = {"iperf3", "-c", "127.0.0.1", "-p", port_text, "-l", length, "-n", total, "-J"}};
	bench_child server, client;
	bool good;

	snprintf(port_text, sizeof(port_text), "%d", port);
	snprintf(length, sizeof(length), "%llu", (unsigned long long)test->bytes);
	snprintf(total, sizeof(total), "%llu", (unsigned long long)(test->bytes * test->count));
	if (!bench_spawn(test->run, &server, "iperf3, server", exec_command, &serve))
		return false;
	while (!listens(port) && bench_now_ns() < server.deadline_ns)
		nanosleep(&nap, NULL);
	if (!bench_spawn(test->run, &client, "iperf3, client", exec_command, &send))
		return false;
	text = hear_everything(&client);
	good = parse(text, value);
	free(text);
	good &= bench_join(&client);
	return bench_join(&server) && good;
}
