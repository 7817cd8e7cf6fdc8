/* SPDX-License-Identifier: Apache-2.0
 *
 * Gatherings.  See gather.h.
 */
#include "store/gather.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include <string.h>

#define COUNT_MAX 1024 /* as messages.def has it */

/* What a reply needs beside its values, and beside each of them; both rounded up. */
#define REPLY_BYTES 128
#define ITEM_BYTES 5

typedef struct part {
	bool there;
	void *data;
	size_t len;
} part;

typedef struct gathering gathering;

/* One of a gathering's callers. */
typedef struct caller {
	part now, last; /* of the round that comes together, and of the one before */
	bool told;      /* has got all it asked for of the last round */
	/* Its parked call, if the timer is in a heap. */
	kvpi_heap_node timer;
	kvpi_zid client;
	uint64_t id;
	bool wants;  /* the parts, too */
	size_t from; /* from this one on */
	gathering *of;
} caller;

struct gathering {
	kvpi_heap_node life;
	uint64_t round; /* that comes together */
	bool has_last;  /* round - 1 is complete */
	size_t count, here, told;
	size_t key_len;
	unsigned char *key; /* behind the callers */
	caller callers[];
};

struct kvpi_store_gathers {
	kvpi_map *map;
	kvpi_heap lives, timers;
	size_t callers; /* of all gatherings: so many timers have room */
	kvpi_store_keys *budget;
	const kvpi_store_sink *sink;
	uint64_t incarnation;
	/* Of the reply that is being made. */
	kvpi_view views[COUNT_MAX];
	uint64_t missing[COUNT_MAX];
};

kvpi_store_gathers *kvpi_store_gathers_new(
    uint64_t seed, uint64_t incarnation, const kvpi_store_sink *sink, kvpi_store_keys *budget)
{
	kvpi_store_gathers *gathers = KVPI_NEW(kvpi_store_gathers);

	if (gathers == NULL)
		return NULL;
	gathers->map = kvpi_map_new(seed);
	if (gathers->map == NULL) {
		free(gathers);
		return NULL;
	}
	gathers->incarnation = incarnation;
	gathers->sink = sink;
	gathers->budget = budget;
	kvpi_heap_init(&gathers->lives);
	kvpi_heap_init(&gathers->timers);
	return gathers;
}

size_t kvpi_store_gathers_count(const kvpi_store_gathers *gathers)
{
	return kvpi_map_count(gathers->map);
}

size_t kvpi_store_gathers_parked(const kvpi_store_gathers *gathers)
{
	return gathers->timers.count;
}

/* ---- making and dropping --------------------------------------------------------------------------- */

static size_t size_of(size_t count, size_t key_len)
{
	return sizeof(gathering) + count * sizeof(caller) + key_len;
}

static void drop_part(kvpi_store_gathers *gathers, part *p)
{
	kvpi_store_keys_refund(gathers->budget, p->len);
	free(p->data);
	*p = (part){0};
}

/* Nobody is parked at it. */
static void drop(kvpi_store_gathers *gathers, gathering *g)
{
	for (size_t i = 0; i < g->count; i++) {
		kvpi_heap_remove(&gathers->timers, &g->callers[i].timer);
		drop_part(gathers, &g->callers[i].now);
		drop_part(gathers, &g->callers[i].last);
	}
	kvpi_heap_remove(&gathers->lives, &g->life);
	kvpi_map_remove(gathers->map, g->key, g->key_len);
	kvpi_store_keys_refund(gathers->budget, size_of(g->count, g->key_len));
	gathers->callers -= g->count;
	free(g);
}

void kvpi_store_gathers_free(kvpi_store_gathers *gathers)
{
	kvpi_heap_node *node;

	if (gathers == NULL)
		return;
	while ((node = kvpi_heap_peek(&gathers->lives)) != NULL)
		drop(gathers, KVPI_CONTAINER_OF(node, gathering, life));
	kvpi_heap_fini(&gathers->lives);
	kvpi_heap_fini(&gathers->timers);
	kvpi_map_free(gathers->map);
	free(gathers);
}

static kvp_status make(kvpi_store_gathers *gathers, const kvpi_msg_store_gather *msg, gathering **made)
{
	const size_t count = (size_t)msg->count, bytes = size_of(count, msg->key.len);
	kvp_status status = kvpi_store_keys_charge(gathers->budget, bytes);
	gathering *g;

	if (status != KVP_OK)
		return status;
	g = kvpi_calloc(1, bytes);
	if (g == NULL) {
		status = kvpi_error_nomem("a gathering");
		goto refund;
	}
	g->round = msg->round;
	g->count = count;
	g->key_len = msg->key.len;
	g->key = (unsigned char *)&g->callers[count];
	memcpy(g->key, msg->key.data, msg->key.len);
	for (size_t i = 0; i < count; i++)
		g->callers[i].of = g;
	/* Each has one timer at most: so parking cannot fail. */
	status = kvpi_heap_reserve(&gathers->timers, gathers->callers + count);
	if (status == KVP_OK)
		status = kvpi_heap_push(&gathers->lives, &g->life, KVPI_NEVER);
	if (status != KVP_OK)
		goto free_g;
	status = kvpi_map_put(gathers->map, g->key, g->key_len, g, NULL);
	if (status != KVP_OK)
		goto remove_life;
	gathers->callers += count;
	*made = g;
	return KVP_OK;

remove_life:
	kvpi_heap_remove(&gathers->lives, &g->life);
free_g:
	free(g);
refund:
	kvpi_store_keys_refund(gathers->budget, bytes);
	return status;
}

/* It is in the heap: there is room for it. */
static void live_until(kvpi_store_gathers *gathers, gathering *g, int64_t deadline_ns)
{
	kvpi_heap_remove(&gathers->lives, &g->life);
	kvpi_heap_push(&gathers->lives, &g->life, deadline_ns);
}

/* ---- answers --------------------------------------------------------------------------------------- */

static kvp_status send_reply(kvpi_store_gathers *gathers, const kvpi_zid *client, kvpi_msg_store_reply *reply)
{
	reply->incarnation = gathers->incarnation;
	return gathers->sink->reply(gathers->sink->user, client, reply);
}

/* The parts of the last round from c->from on, as many as fit: one always does. */
static void answer(kvpi_store_gathers *gathers, caller *c)
{
	gathering *g = c->of;
	kvpi_msg_store_reply reply = {.id = c->id};
	size_t bytes = REPLY_BYTES, n = 0;

	while (c->wants && c->from + n < g->count) {
		const part *p = &g->callers[c->from + n].last;

		bytes += p->len + ITEM_BYTES;
		if (bytes > KVPI_STORE_FRAME_MAX)
			break;
		gathers->views[n++] = kvpi_view_of(p->data, p->len);
	}
	reply.number = (int64_t)(c->wants ? c->from + n : g->count);
	reply.present |= KVPI_HAS(store_reply, number);
	if (c->wants) {
		reply.values = (kvpi_views){gathers->views, n};
		reply.present |= KVPI_HAS(store_reply, values);
	}
	if (send_reply(gathers, &c->client, &reply) != KVP_OK || (size_t)reply.number < g->count || c->told)
		return;
	c->told = true;
	g->told++;
}

static void answer_missing(kvpi_store_gathers *gathers, const caller *c)
{
	const gathering *g = c->of;
	kvpi_msg_store_reply reply = {
	    .id = c->id, .status = KVP_E_TIMEOUT, .present = KVPI_HAS(store_reply, missing)};
	size_t n = 0;

	for (size_t i = 0; i < g->count; i++)
		if (!g->callers[i].now.there)
			gathers->missing[n++] = i;
	reply.missing = (kvpi_uints){gathers->missing, n};
	send_reply(gathers, &c->client, &reply);
}

/* Another call has come in place of the parked one: from the same caller, who has given that up, or from
 * somebody who claims the same index. */
static void answer_replaced(kvpi_store_gathers *gathers, const caller *c)
{
	kvpi_msg_store_reply reply = {.id = c->id,
	    .status = KVP_E_CONFLICT,
	    .text = kvpi_view_text("another call has brought the same part"),
	    .present = KVPI_HAS(store_reply, text)};

	send_reply(gathers, &c->client, &reply);
}

/* The last one has come: the round becomes the last complete one, and all who wait are answered from it. */
static void complete(kvpi_store_gathers *gathers, gathering *g)
{
	for (size_t i = 0; i < g->count; i++) {
		drop_part(gathers, &g->callers[i].last);
		g->callers[i].last = g->callers[i].now;
		g->callers[i].now = (part){0};
		g->callers[i].told = false;
	}
	g->here = g->told = 0;
	g->has_last = true;
	g->round++;
	for (size_t i = 0; i < g->count; i++) {
		caller *c = &g->callers[i];

		if (c->timer.index == 0)
			continue;
		kvpi_heap_remove(&gathers->timers, &c->timer);
		answer(gathers, c);
	}
}

/* ---- requests -------------------------------------------------------------------------------------- */

static kvp_status check(const kvpi_msg_store_gather *msg, const gathering *g)
{
	kvp_status status = kvpi_store_keys_check(msg->key);

	if (status != KVP_OK)
		return status;
	if (msg->index >= msg->count || (msg->present & KVPI_HAS(store_gather, from) && msg->from >= msg->count))
		return kvpi_error(KVP_E_INVALID, "a gathering of %llu has no part with that index",
		    (unsigned long long)msg->count);
	if (g == NULL)
		return KVP_OK;
	if (msg->count != g->count)
		return kvpi_error(KVP_E_CONFLICT, "the gathering is one of %zu, not of %llu", g->count,
		    (unsigned long long)msg->count);
	if (msg->round != g->round && !(g->has_last && msg->round == g->round - 1))
		return kvpi_error(KVP_E_CONFLICT, "the gathering is at round %llu, not at %llu",
		    (unsigned long long)g->round, (unsigned long long)msg->round);
	return KVP_OK;
}

/* Takes the part in, if it is the first one. */
static kvp_status bring(kvpi_store_gathers *gathers, gathering *g, const kvpi_msg_store_gather *msg)
{
	part *p = &g->callers[msg->index].now;
	kvp_status status;

	if (p->there)
		return KVP_OK;
	status = kvpi_store_keys_charge(gathers->budget, msg->part.len);
	if (status != KVP_OK)
		return status;
	p->data = kvpi_memdup(msg->part.data, msg->part.len);
	if (p->data == NULL) {
		kvpi_store_keys_refund(gathers->budget, msg->part.len);
		return kvpi_error_nomem("a part of a gathering");
	}
	p->len = msg->part.len;
	p->there = true;
	g->here++;
	return KVP_OK;
}

kvp_status kvpi_store_gathers_handle(kvpi_store_gathers *gathers, const kvpi_zid *client,
    const kvpi_msg_store_gather *msg, size_t room, int64_t now_ns)
{
	gathering *g = kvpi_map_get(gathers->map, msg->key.data, msg->key.len);
	const bool made = g == NULL;
	const int64_t deadline_ns = kvpi_deadline_ms(now_ns, (int64_t)msg->wait_ms);
	int64_t life_ns = kvpi_deadline_ms(now_ns, (int64_t)msg->ttl_ms);
	kvp_status status = check(msg, g);
	caller *c;

	if (status == KVP_OK && made)
		status = make(gathers, msg, &g);
	if (status != KVP_OK)
		return status;
	c = &g->callers[msg->index];
	const bool collects = msg->round == g->round;
	const bool waits = collects && msg->wait_ms > 0 && g->here + !c->now.there < g->count;
	if (waits && room == 0 && c->timer.index == 0)
		status = kvpi_error(KVP_E_TOO_LARGE, "the store is full: no more calls may be parked");
	if (status == KVP_OK && collects)
		status = bring(gathers, g, msg);
	if (status != KVP_OK) {
		if (made)
			drop(gathers, g);
		return status;
	}

	/* Whoever waits keeps it alive. */
	life_ns = life_ns > deadline_ns ? life_ns : deadline_ns;
	live_until(gathers, g, !made && g->life.key > life_ns ? g->life.key : life_ns);
	if (c->timer.index != 0) {
		kvpi_heap_remove(&gathers->timers, &c->timer);
		answer_replaced(gathers, c);
	}
	c->client = *client;
	c->id = msg->id;
	c->wants = msg->present & KVPI_HAS(store_gather, from);
	c->from = (size_t)msg->from;
	if (waits) {
		kvpi_heap_push(&gathers->timers, &c->timer, deadline_ns); /* has room */
		return KVP_OK;
	}
	if (collects && g->here < g->count) {
		answer_missing(gathers, c);
		return KVP_OK;
	}
	if (collects)
		complete(gathers, g);
	answer(gathers, c);
	if (g->told == g->count && g->here == 0)
		live_until(gathers, g, kvpi_deadline_ms(now_ns, KVPI_STORE_GATHER_GRACE_MS));
	return KVP_OK;
}

/* ---- time ------------------------------------------------------------------------------------------ */

size_t kvpi_store_gathers_advance(kvpi_store_gathers *gathers, int64_t now_ns)
{
	kvpi_heap_node *node;
	size_t ended = 0;

	for (; (node = kvpi_heap_peek(&gathers->timers)) != NULL && node->key <= now_ns; ended++) {
		kvpi_heap_remove(&gathers->timers, node);
		answer_missing(gathers, KVPI_CONTAINER_OF(node, caller, timer));
	}
	while ((node = kvpi_heap_peek(&gathers->lives)) != NULL && node->key <= now_ns)
		drop(gathers, KVPI_CONTAINER_OF(node, gathering, life));
	return ended;
}

int64_t kvpi_store_gathers_deadline(const kvpi_store_gathers *gathers)
{
	const kvpi_heap_node *timer = kvpi_heap_peek(&gathers->timers), *life = kvpi_heap_peek(&gathers->lives);
	const int64_t timer_ns = timer != NULL ? timer->key : KVPI_NEVER;

	return life != NULL && life->key < timer_ns ? life->key : timer_ns;
}
