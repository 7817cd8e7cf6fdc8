/* SPDX-License-Identifier: Apache-2.0 */
#include "kit/pair.h"

#include "kit/kit.h"

#include <pthread.h>
#include <string.h>

typedef struct opening {
	kvp_pipe_options options;
	kvp_pipe *pipe;
	kvp_status status;
	char text[512];
} opening;

void kit_pair_init(kit_pair *pair, const char *plane)
{
	kvp_store_server_options server_options;

	memset(pair, 0, sizeof(*pair));
	kvp_store_server_options_init(&server_options);
	KIT_OK(kvp_store_server_start(NULL, &server_options, &pair->server));
	kvp_pipe_options_init(&pair->options);
	pair->options.store_url = kvp_store_server_url(pair->server);
	pair->options.store_timeout_ms = 20000;
	if (plane != NULL)
		pair->options.planes = plane;
}

static void *open_one(void *arg)
{
	opening *o = arg;

	o->status = kvp_pipe_open(NULL, &o->options, KVP_TIMEOUT_DEFAULT, &o->pipe);
	if (o->status != KVP_OK)
		strncpy(o->text, kvp_last_error(), sizeof(o->text) - 1);
	return NULL;
}

void kit_pair_open(kit_pair *pair)
{
	opening ends[2] = {{.options = pair->options}, {.options = pair->options}};
	pthread_t threads[2];

	for (int i = 0; i < 2; i++) {
		ends[i].options.kv_rank = i;
		ck_assert_int_eq(pthread_create(&threads[i], NULL, open_one, &ends[i]), 0);
	}
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < 2; i++)
		ck_assert_msg(ends[i].status == KVP_OK, "rank %d: %s: %s", i,
		    kvp_status_name(ends[i].status), ends[i].text);
	pair->a = ends[0].pipe;
	pair->b = ends[1].pipe;
}

void kit_pair_free(kit_pair *pair)
{
	kvp_pipe_free(pair->a);
	kvp_pipe_free(pair->b);
	kvp_store_server_free(pair->server);
}
