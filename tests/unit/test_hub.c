/* SPDX-License-Identifier: Apache-2.0
 *
 * What strangers can do to the control port of a living pipe: nothing.  Garbage, multipart messages, impossible
 * messages, stolen session numbers and floods of HELLOs go in; tensors go on, and the refused are told why.
 */
#include "kit/kit.h"
#include "kit/pair.h"

#include "engine/engine.h"
#include "pipe/pipe_handle.h"
#include "wire/auth.h"
#include "wire/zsock.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static kit_pair pair;

static void setup(void)
{
	kit_pair_init(&pair, "tcp");
	kit_pair_open(&pair);
}

static uint64_t protocol_errors(kvp_pipe *pipe)
{
	kvp_pipe_stats stats = {.size = sizeof(stats)};

	KIT_OK(kvp_pipe_stats_get(pipe, &stats));
	return stats.protocol_errors;
}

/* The pipe still does what it is for. */
static void still_works(uint64_t seed)
{
	char data[1000], got[1000];
	int64_t shape[1] = {1000};
	kvp_tensor from, to;

	kit_random_fill(data, sizeof(data), seed);
	KIT_OK(kvp_tensor_init(&from, data, KVP_DTYPE_INT8, 1, shape));
	kvp_tensor_init_buffer(&to, got, sizeof(got));
	KIT_OK(kvp_pipe_send(pair.a, &from, NULL, NULL));
	KIT_OK(kvp_pipe_recv(pair.b, &to, KVP_TIMEOUT_DEFAULT));
	ck_assert_mem_eq(got, data, sizeof(data));
	KIT_OK(kvp_pipe_flush(pair.a, 10000));
}

typedef struct stranger {
	kvpi_zctx *ctx;
	kvpi_zsock *sock;
} stranger;

static void come(stranger *s, kvp_pipe *pipe)
{
	KIT_OK(kvpi_zctx_new(1, &s->ctx));
	KIT_OK(kvpi_zsock_dealer(s->ctx, kvpi_engine_url(pipe->engine), 1 << 20, KVPI_ZDOWN_KEEP, &s->sock));
}

static void leave(stranger *s)
{
	kvpi_zsock_close(s->sock);
	kvpi_zctx_free(s->ctx);
}

static void say(stranger *s, const void *frame, size_t len)
{
	KIT_OK(kvpi_zsock_send(s->sock, NULL, frame, len));
}

static void say_msg(stranger *s, const kvpi_msg *msg)
{
	kvpi_buf out;

	kvpi_buf_init(&out);
	KIT_OK(kvpi_msg_encode(msg, &out));
	say(s, out.data, out.len);
	kvpi_buf_fini(&out);
}

/* The answer to the last thing said; fails after 10 s. */
static void hear(stranger *s, kvpi_msg_reader *reader, kvpi_msg *msg)
{
	int64_t deadline = kvpi_deadline_ms(kvpi_now(&kvpi_clock_real), 10000);
	kvpi_view frame;
	kvp_status status;

	while ((status = kvpi_zsock_recv(s->sock, NULL, &frame)) == KVP_E_AGAIN) {
		struct pollfd fd = {kvpi_zsock_fd(s->sock), POLLIN, 0};

		ck_assert_msg(kvpi_now(&kvpi_clock_real) < deadline, "no answer");
		if (!kvpi_zsock_ready(s->sock))
			poll(&fd, 1, 100);
	}
	ck_assert_int_eq(status, KVP_OK);
	KIT_OK(kvpi_msg_decode(reader, frame.data, frame.len, KVPI_CONTROL_FRAME_MAX, msg));
}

static bool has_errors(void *user)
{
	return protocol_errors(pair.b) >= *(uint64_t *)user;
}

START_TEST(garbage_frames_are_thrown_away)
{
	static const char *const frames[] = {"", "x", "\x92\x01\x80", "\xdd\xff\xff\xff\xff", "\x92\xff\x80",
	                                     "\x92\x20\x81\x01\x01"};
	stranger s;
	char noise[500];
	uint64_t expected = 0;

	setup();
	come(&s, pair.b);
	for (size_t i = 0; i < sizeof(frames) / sizeof(frames[0]); i++, expected++)
		say(&s, frames[i], strlen(frames[i]));
	for (uint64_t i = 0; i < 100; i++, expected++) {
		kit_random_fill(noise, sizeof(noise), i);
		say(&s, noise, 1 + (size_t)i * 4);
	}
	kit_wait_until(has_errors, &expected, 10000);
	still_works(1);
	leave(&s);
	kit_pair_free(&pair);
}
END_TEST

static kvpi_msg hello_to(kvp_pipe *pipe, unsigned char nonce[16])
{
	static const kvpi_view planes[1] = {{"tcp", 3}};
	const kvpi_identity *him = &pipe->engine->me;
	kvpi_msg msg = {.id = KVPI_MSG_hello};

	msg.u.hello = (kvpi_msg_hello){.version_min = 1,
	                               .version_max = 1,
	                               .uuid = {him->uuid, 16},
	                               .name = kvpi_view_text("stranger"),
	                               .service = kvpi_view_text(pipe->engine->in.service),
	                               .compat = {him->compat, 32},
	                               .compat_text = kvpi_view_text(him->compat_text),
	                               .host = kvpi_view_text(him->host),
	                               .process = {him->process, 16},
	                               .heartbeat_ms = 10,
	                               .planes = {planes, 1},
	                               .nonce = {nonce, 16}};
	return msg;
}

START_TEST(strangers_are_refused_with_the_reason)
{
	unsigned char nonce[16] = "nonce 000000000", other[32] = {1};
	kvpi_msg_reader *reader = kvpi_msg_reader_new();
	kvpi_msg hello, answer;
	stranger s;

	setup();
	come(&s, pair.b);
	hello = hello_to(pair.b, nonce);
	say_msg(&s, &hello);
	hear(&s, reader, &answer);
	ck_assert_int_eq(answer.id, KVPI_MSG_refuse); /* it has its sender */
	ck_assert_int_eq(answer.u.refuse.status, KVP_E_REFUSED);
	hello.u.hello.service = kvpi_view_text("kv/of an earlier run");
	nonce[0]++;
	say_msg(&s, &hello);
	hear(&s, reader, &answer);
	ck_assert_int_eq(answer.u.refuse.status, KVP_E_REFUSED);
	hello.u.hello.compat = kvpi_view_of(other, 32);
	nonce[0]++;
	say_msg(&s, &hello);
	hear(&s, reader, &answer);
	ck_assert_int_eq(answer.u.refuse.status, KVP_E_INCOMPATIBLE);
	hello.u.hello.version_min = hello.u.hello.version_max = 7;
	nonce[0]++;
	say_msg(&s, &hello);
	hear(&s, reader, &answer);
	ck_assert_int_eq(answer.u.refuse.status, KVP_E_VERSION);
	still_works(2);
	kvpi_msg_reader_free(reader);
	leave(&s);
	kit_pair_free(&pair);
}
END_TEST

/* Even with the session's number (which only the two ends know), impossible states change nothing. */
START_TEST(impossible_messages_of_a_session_change_nothing)
{
	uint64_t number;
	kvpi_msg msg = {.id = KVPI_MSG_announce};
	stranger s;

	setup();
	still_works(3);
	/* The session is the worker's; having its lock once puts this read before whatever it does later. */
	pthread_mutex_lock(&pair.b->engine->mutex);
	number = pair.b->engine->in.session->id;
	pthread_mutex_unlock(&pair.b->engine->mutex);
	come(&s, pair.b);
	msg.u.announce = (kvpi_msg_announce){.session = number, .seq = UINT64_MAX, .dtype = KVP_DTYPE_INT8};
	say_msg(&s, &msg);
	msg.u.announce.seq = 3;
	msg.u.announce.dtype = 99;
	say_msg(&s, &msg);
	msg.id = KVPI_MSG_state; /* the wrong way round */
	msg.u.state = (kvpi_msg_state){.session = number, .seen = 1000, .delivered = 1000};
	say_msg(&s, &msg);
	kit_wait_until(has_errors, &(uint64_t){3}, 10000);
	leave(&s);
	kit_pair_free(&pair);
}
END_TEST

START_TEST(raw_bytes_on_the_port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	const char *url;
	char noise[4096];

	setup();
	url = kvpi_engine_url(pair.b->engine);
	address.sin_port = htons((uint16_t)atoi(strrchr(url, ':') + 1));
	for (uint64_t i = 0; i < 20; i++) {
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

		ck_assert_int_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
		kit_random_fill(noise, sizeof(noise), i);
		if (i % 3 == 0) /* a greeting that begins right */
			memcpy(noise, "\xff\0\0\0\0\0\0\0\x01\x7f\x03\0NULL", 16);
		ck_assert_int_gt(send(fd, noise, sizeof(noise), MSG_NOSIGNAL), 0);
		close(fd);
	}
	still_works(4);
	kit_pair_free(&pair);
}
END_TEST

KIT_MAIN("hub", garbage_frames_are_thrown_away, strangers_are_refused_with_the_reason,
         impossible_messages_of_a_session_change_nothing, raw_bytes_on_the_port)
