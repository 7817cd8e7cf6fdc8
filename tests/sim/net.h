/* SPDX-License-Identifier: Apache-2.0
 *
 * A simulated network in the place of ZeroMQ: net.c defines what wire/zsock.h declares, so a program that links it
 * runs the library's own code above that line (hub, sessions, engine, message codec) unchanged, on a clock that stands
 * still until the test moves it, in weather that follows from a seed.  No descriptor, no thread, no real time; even
 * the library's random numbers come from the seed, so that a run can be repeated byte for byte.
 *
 * One thread.
 */
#ifndef KVP_TESTS_SIM_NET_H
#define KVP_TESTS_SIM_NET_H

#include "base/clock.h"
#include <stdbool.h>
#include <stdint.h>

typedef struct net_weather {
	unsigned lose, twice; /* per mille of frames that never arrive, or arrive two times */
	unsigned no_room;     /* per mille of sends that are told KVP_E_AGAIN */
	unsigned renew;       /* per mille of a dealer's sends before which its connection breaks and is made anew */
	unsigned delay_ms;    /* at most, each frame for itself: so frames overtake each other */
} net_weather;

/* An empty world.  All sockets of the one before must be closed. */
void net_reset(uint64_t seed, const kvpi_clock *clock);
void net_set_weather(net_weather weather);

/* Sockets made from here on belong to that node, 0 to 63. */
void net_set_node(int node);

/* Nothing goes in or out of the node any more, what is under way included; or again. */
void net_cut(int node, bool cut);

/* The world's own random numbers. */
uint64_t net_draw(uint64_t below);

#endif
