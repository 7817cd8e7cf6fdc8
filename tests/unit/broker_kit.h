/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tests of the broker share: both ends in one process, each with a clock of its own.
 */
#ifndef KVP_TESTS_BROKER_KIT_H
#define KVP_TESTS_BROKER_KIT_H

#include "kit/kit.h"
#include "share/broker.h"

static const unsigned char token_a[KVPI_BROKER_TOKEN_BYTES] = "the first token";

typedef struct side {
	int epoll_fd;
	kvpi_clock clock;
	kvpi_broker *broker;
	unsigned char address[KVPI_BROKER_ADDRESS_MAX];
	size_t address_len;
} side;

void side_open_with(side *s); /* under the run directory that is set */
void side_open(side *s);      /* under the test's own */
void side_close(side *s);
int64_t side_step(side *s);
bool is_quiet(const side *s); /* nothing in its set wakes */

/* Steps both until neither has anything to do: all that passes is in the kernel by the time a call returns. */
void settle(side *a, side *b);

void connect_to(side *from, const side *to, const unsigned char *token, kvpi_channel **channel);
void pair_up(side *a, side *b, kvpi_channel **accepting, kvpi_channel **connecting); /* with token_a */
void check_lost(const kvpi_channel *channel, const char *why);
void say(kvpi_channel *from, kvpi_channel *to, uint64_t seed); /* one message, which arrives */

#endif
