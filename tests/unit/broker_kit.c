/* SPDX-License-Identifier: Apache-2.0 */
#include "unit/broker_kit.h"

#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

void side_open_with(side *s)
{
	s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	kvpi_clock_manual_init(&s->clock, 1000);
	KIT_OK(kvpi_broker_open(s->epoll_fd, &s->clock, &s->broker));
	kvpi_broker_address(s->broker, s->address, &s->address_len);
}

void side_open(side *s)
{
	setenv("KVPIPE_RUN_DIR", kit_tmpdir(), 1);
	side_open_with(s);
}

void side_close(side *s)
{
	kvpi_broker_close(s->broker);
	close(s->epoll_fd);
}

int64_t side_step(side *s)
{
	return kvpi_broker_step(s->broker, kvpi_now(&s->clock));
}

bool is_quiet(const side *s)
{
	struct epoll_event event;

	return epoll_wait(s->epoll_fd, &event, 1, 0) == 0;
}

void settle(side *a, side *b)
{
	for (int i = 0; i < 6; i++) {
		side_step(a);
		side_step(b);
	}
}

void connect_to(side *from, const side *to, const unsigned char *token, kvpi_channel **channel)
{
	KIT_OK(kvpi_broker_connect(from->broker, to->address, to->address_len, token, channel));
}

void pair_up(side *a, side *b, kvpi_channel **accepting, kvpi_channel **connecting)
{
	KIT_OK(kvpi_broker_expect(a->broker, token_a, accepting));
	connect_to(b, a, token_a, connecting);
	settle(a, b);
	ck_assert_int_eq(kvpi_channel_state_of(*accepting), KVPI_CHANNEL_UP);
	ck_assert_int_eq(kvpi_channel_state_of(*connecting), KVPI_CHANNEL_UP);
}

void check_lost(const kvpi_channel *channel, const char *why)
{
	ck_assert_int_eq(kvpi_channel_state_of(channel), KVPI_CHANNEL_LOST);
	ck_assert_msg(strstr(kvpi_channel_why(channel), why) != NULL, "lost, but: %s", kvpi_channel_why(channel));
}

void say(kvpi_channel *from, kvpi_channel *to, uint64_t seed)
{
	unsigned char bytes[KVPI_CHANNEL_MESSAGE_MAX];
	int fds[KVPI_CHANNEL_FDS_MAX];
	size_t len = 0, count = 99;

	kit_random_fill(bytes, 333, seed);
	KIT_OK(kvpi_channel_send(from, bytes, 333, NULL, 0));
	memset(bytes, 0, sizeof(bytes));
	KIT_OK(kvpi_channel_recv(to, bytes, &len, fds, &count));
	ck_assert_uint_eq(len, 333);
	ck_assert_uint_eq(count, 0);
	kit_check_fill(bytes, 333, seed);
	ck_assert_int_eq(kvpi_channel_recv(to, bytes, &len, fds, &count), KVP_E_AGAIN);
}
