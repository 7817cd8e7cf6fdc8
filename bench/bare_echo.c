/* SPDX-License-Identifier: Apache-2.0
 *
 * A bare ZeroMQ echo.  See bare_echo.h.
 */
#include "bare_echo.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#define ANSWER_MS 10000

struct bare_server {
	void *context, *socket;
	char *answer; /* BARE_FRAME_MAX bytes of it */
};

bare_server *bare_server_new(char *url, size_t size)
{
	bare_server *server = calloc(1, sizeof(*server));
	const int none = 0;

	if (server == NULL)
		return NULL;
	server->answer = calloc(1, BARE_FRAME_MAX);
	server->context = zmq_ctx_new();
	server->socket = server->context != NULL ? zmq_socket(server->context, ZMQ_ROUTER) : NULL;
	if (server->answer == NULL || server->socket == NULL ||
	    zmq_setsockopt(server->socket, ZMQ_LINGER, &none, sizeof(none)) != 0 ||
	    zmq_bind(server->socket, "tcp://127.0.0.1:*") != 0 ||
	    zmq_getsockopt(server->socket, ZMQ_LAST_ENDPOINT, url, &size) != 0) {
		bare_server_free(server);
		return NULL;
	}
	return server;
}

/* The sizes of an ask beside the bytes it carries. */
static size_t wanted(const zmq_msg_t *ask)
{
	uint32_t size = BARE_FRAME_MIN;

	if (zmq_msg_size(ask) >= sizeof(size))
		memcpy(&size, zmq_msg_data((zmq_msg_t *)ask), sizeof(size));
	return size <= BARE_FRAME_MAX ? size : BARE_FRAME_MAX;
}

void bare_server_run(bare_server *server)
{
	zmq_msg_t id, ask;

	zmq_msg_init(&id);
	zmq_msg_init(&ask);
	while (zmq_msg_recv(&id, server->socket, 0) >= 0 && zmq_msg_recv(&ask, server->socket, 0) >= 0) {
		const size_t size = wanted(&ask);

		zmq_msg_send(&id, server->socket, ZMQ_SNDMORE);
		zmq_send(server->socket, server->answer, size, 0);
	}
	zmq_msg_close(&id);
	zmq_msg_close(&ask);
}

void bare_server_free(bare_server *server)
{
	if (server == NULL)
		return;
	if (server->socket != NULL)
		zmq_close(server->socket);
	if (server->context != NULL)
		zmq_ctx_term(server->context);
	free(server->answer);
	free(server);
}

struct bare_client {
	void *context, *socket;
	char *ask;
};

bare_client *bare_client_new(const char *url)
{
	bare_client *client = calloc(1, sizeof(*client));
	const int none = 0, ms = ANSWER_MS;

	if (client == NULL)
		return NULL;
	client->ask = calloc(1, BARE_FRAME_MAX);
	client->context = zmq_ctx_new();
	client->socket = client->context != NULL ? zmq_socket(client->context, ZMQ_DEALER) : NULL;
	if (client->ask == NULL || client->socket == NULL ||
	    zmq_setsockopt(client->socket, ZMQ_LINGER, &none, sizeof(none)) != 0 ||
	    zmq_setsockopt(client->socket, ZMQ_RCVTIMEO, &ms, sizeof(ms)) != 0 ||
	    zmq_connect(client->socket, url) != 0) {
		bare_client_free(client);
		return NULL;
	}
	return client;
}

int bare_client_ask(bare_client *client, size_t ask, size_t answer)
{
	const uint32_t size = (uint32_t)answer;
	zmq_msg_t reply;

	memcpy(client->ask, &size, sizeof(size));
	if (zmq_send(client->socket, client->ask, ask, 0) < 0)
		return -1;
	zmq_msg_init(&reply);
	const int got = zmq_msg_recv(&reply, client->socket, 0);
	zmq_msg_close(&reply);
	return got == (int)answer ? 0 : -1;
}

void bare_client_free(bare_client *client)
{
	if (client == NULL)
		return;
	if (client->socket != NULL)
		zmq_close(client->socket);
	if (client->context != NULL)
		zmq_ctx_term(client->context);
	free(client->ask);
	free(client);
}
