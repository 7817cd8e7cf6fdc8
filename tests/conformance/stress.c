/* SPDX-License-Identifier: Apache-2.0
 *
 * Each plane under a long random run: transfers of all shapes and memories both ways, cancels at both ends, notifies,
 * lost connections.  All follows from the seed, but for the timing of the fake device and the kernel; what
 * must hold does not depend on those:
 *
 *   - at the moment of RECEIVED every byte of the destination is right, and nothing around it has changed;
 *   - from SENT, a receipt or LOST on, that end's memory is touched no more.
 */
#include "conformance/rig.h"
#include "kit/kit.h"

#include "base/clock.h"
#include "device/fake.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LANES 6 /* transfers at a time, each way */
#define OPERATIONS 1500
#define BYTES_MAX (64u << 10)
#define RECEIVED_MIN 60
#define ROUNDS 5

/* One end's part of a transfer: its memory, and whether the plane may still touch it. */
typedef struct half {
	rig_mem *mem;
	kvpi_layout layout;
	uint32_t ids[RIG_IDS];
	bool in_plane;   /* posted or submitted, and not ended */
	bool canceled;   /* no event may come any more */
	bool quarantined; /* canceled; ask again */
} half;

typedef struct lane {
	half put, post;
	char *expected; /* what the destination has to hold at RECEIVED */
	kvpi_transfer_id id;
} lane;

typedef struct stress {
	rig *r;
	uint64_t seed;
	uint64_t next_seq;
	lane lanes[2][LANES]; /* [0]: a puts, [1]: b puts */
	bool up[2];           /* told CONNECTED last, not LOST */
	uint64_t notes_sent[2], notes_got[2];
	unsigned received, canceled, lost;
} stress;

static uint64_t below(stress *s, uint64_t n)
{
	return kit_random(&s->seed) % n;
}

static rig_end *end_of(stress *s, int side)
{
	return side == 0 ? &s->r->a : &s->r->b;
}

/* The plane has given the memory back: it gets a new content, which is looked at when it is used again. */
static void give_back(stress *s, half *h)
{
	h->in_plane = h->quarantined = false;
	rig_mem_fill(h->mem, kit_random(&s->seed));
}

static lane *find(stress *s, int putter, kvpi_transfer_id id)
{
	for (int i = 0; i < LANES; i++) {
		lane *l = &s->lanes[putter][i];

		if (l->id.seq == id.seq && l->id.attempt == id.attempt)
			return l;
	}
	ck_abort_msg("an event of transfer %llu, which is not", (unsigned long long)id.seq);
	return NULL;
}

static void on_lost(stress *s, int side)
{
	s->up[side] = false;
	s->lost++;
	for (int i = 0; i < LANES; i++) {
		half *put = &s->lanes[side][i].put, *post = &s->lanes[!side][i].post;

		if (put->in_plane)
			give_back(s, put);
		if (post->in_plane)
			give_back(s, post);
	}
}

static void on_event(rig_end *end, const kvpi_plane_event *event)
{
	stress *s = end->hook_user;
	const int side = end == &s->r->b;
	uint64_t number;
	lane *l;

	end->logged = 0; /* the log would not be long enough */
	switch (event->kind) {
	case KVPI_PLANE_CONNECTED:
		s->up[side] = true;
		break;
	case KVPI_PLANE_LOST:
		on_lost(s, side);
		break;
	case KVPI_PLANE_SENT:
		l = find(s, side, event->id);
		ck_assert(l->put.in_plane && !l->put.canceled);
		give_back(s, &l->put);
		break;
	case KVPI_PLANE_RECEIVED:
		l = find(s, !side, event->id);
		ck_assert(l->post.in_plane && !l->post.canceled);
		memcpy(l->post.mem->mirror, l->expected, l->post.mem->size);
		ck_assert(rig_mem_right(l->post.mem));
		give_back(s, &l->post);
		s->received++;
		break;
	case KVPI_PLANE_NOTIFIED:
		ck_assert_uint_eq(event->len, sizeof(number));
		memcpy(&number, event->data, sizeof(number));
		/* In order; what a lost connection swallowed is not repeated. */
		ck_assert_uint_gt(number, s->notes_got[side]);
		s->notes_got[side] = number;
		break;
	}
}

static void choose_layout(stress *s, half *h, uint64_t bytes)
{
	const rig_shape shape = bytes % 16384 == 0 && bytes > 0 ? (rig_shape)below(s, RIG_SHAPES) : RIG_DENSE;

	rig_layout(h->mem, shape, bytes, h->ids, &h->layout);
}

/* A connection may be lost already, which is told by the next progress. */
static bool taken(kvp_status status)
{
	ck_assert(status == KVP_OK || status == KVP_E_PEER_LOST);
	return status == KVP_OK;
}

static void begin(stress *s, int putter)
{
	lane *l = &s->lanes[putter][below(s, LANES)];
	rig_end *from = end_of(s, putter), *to = end_of(s, !putter);
	uint64_t bytes = below(s, 2) == 0 ? 16384 * (1 + below(s, BYTES_MAX / 16384)) : below(s, BYTES_MAX);
	kvpi_transfer transfer;

	if (l->put.in_plane || l->post.in_plane || !s->up[0] || !s->up[1])
		return;
	/* Whatever was there before has left these alone. */
	ck_assert(rig_mem_right(l->put.mem));
	ck_assert(rig_mem_right(l->post.mem));
	l->id = (kvpi_transfer_id){++s->next_seq, 1 + (uint32_t)below(s, 3)};
	choose_layout(s, &l->put, bytes);
	choose_layout(s, &l->post, bytes);
	memcpy(l->expected, l->post.mem->mirror, l->post.mem->size);
	rig_mirror_copy(&(rig_mem){.base = l->post.mem->base, .mirror = l->expected}, &l->post.layout, l->put.mem,
	    &l->put.layout);
	transfer = rig_transfer(l->id.seq, l->id.attempt, &l->post.layout);
	l->post.in_plane = taken(to->ops->post_recv(to->conn, &transfer));
	transfer = rig_transfer(l->id.seq, l->id.attempt, &l->put.layout);
	l->put.in_plane = l->post.in_plane && taken(from->ops->submit(from->conn, &transfer));
	l->put.canceled = l->post.canceled = false;
}

static void cancel(stress *s, rig_end *end, lane *l, half *h)
{
	if (end->conn == NULL || !h->in_plane)
		return;
	h->canceled = true;
	s->canceled++;
	if (end->ops->cancel(end->conn, l->id) == KVP_RECEIPT_QUIESCENT)
		give_back(s, h);
	else
		h->quarantined = true;
}

static void cancel_some(stress *s)
{
	const int putter = (int)below(s, 2);
	lane *l = &s->lanes[putter][below(s, LANES)];

	if (below(s, 2) == 0)
		cancel(s, end_of(s, putter), l, &l->put);
	else
		cancel(s, end_of(s, !putter), l, &l->post);
}

static void ask_again(stress *s)
{
	for (int putter = 0; putter < 2; putter++) {
		for (int i = 0; i < LANES; i++) {
			lane *l = &s->lanes[putter][i];

			if (l->put.quarantined)
				cancel(s, end_of(s, putter), l, &l->put);
			if (l->post.quarantined)
				cancel(s, end_of(s, !putter), l, &l->post);
		}
	}
}

static void note(stress *s, int side)
{
	rig_end *end = end_of(s, side);
	uint64_t number = s->notes_sent[side] + 1;
	kvp_status status;

	if (!s->up[side])
		return;
	status = end->ops->notify(end->conn, &number, sizeof(number));
	ck_assert(status == KVP_OK || status == KVP_E_AGAIN || status == KVP_E_PEER_LOST);
	s->notes_sent[side] += status == KVP_OK;
}

static void hang_up(stress *s)
{
	if (s->r->b.conn == NULL)
		return;
	rig_hangup(&s->r->b);
	on_lost(s, 1); /* not told, but the same */
}

static void reconnect(stress *s)
{
	rig *r = s->r;
	char address[KVPI_PLANE_ADDRESS_MAX];
	size_t len = 0;

	if (r->b.conn != NULL && !s->up[1] && below(s, 4) == 0)
		rig_hangup(&r->b); /* it was lost, or has not come about */
	if (r->b.conn != NULL)
		return;
	KIT_OK(r->ops->address(r->a.plane, address, &len));
	KIT_OK(r->ops->connect(r->b.plane, address, len, r->token, &r->b, &r->b.conn));
}

static void operate(stress *s)
{
	const uint64_t what = below(s, 100);

	if (what < 35)
		begin(s, (int)below(s, 2));
	else if (what < 40)
		cancel_some(s);
	else if (what < 45)
		note(s, (int)below(s, 2));
	else if (what < 46)
		hang_up(s);
	else if (what < 50)
		reconnect(s);
	else if (what < 55)
		ask_again(s);
	else if (what < 75)
		s->r->ops->progress(s->r->a.plane, 1 + below(s, 100000));
	else
		s->r->ops->progress(s->r->b.plane, 1 + below(s, 100000));
}

static bool all_back(stress *s)
{
	bool back = true;

	for (int putter = 0; putter < 2; putter++) {
		for (int i = 0; i < LANES; i++)
			back = back && !s->lanes[putter][i].put.in_plane && !s->lanes[putter][i].post.in_plane;
	}
	return back;
}

/* Posts whose put was canceled, and the like, do not end by themselves. */
static void cancel_everything(stress *s)
{
	for (int putter = 0; putter < 2; putter++) {
		for (int i = 0; i < LANES; i++) {
			lane *l = &s->lanes[putter][i];

			cancel(s, end_of(s, putter), l, &l->put);
			cancel(s, end_of(s, !putter), l, &l->post);
		}
	}
}

static void stress_run(int plane, uint64_t seed)
{
	static const kvp_memory kinds[] = {KVP_MEMORY_HOST, KVP_MEMORY_FAKE};
	const int64_t deadline = rig_patience();
	stress *s = calloc(1, sizeof(*s));

	ck_assert_ptr_nonnull(s);
	s->seed = seed;
	kvpi_fake_set(&(kvpi_fake_options){.seed = seed, .delay = (unsigned)(seed % 30), .reorder = seed % 2 == 0});
	s->r = rig_new(plane, seed % 3 == 0 ? 0 : 65536);
	s->r->a.hook = s->r->b.hook = on_event;
	s->r->a.hook_user = s->r->b.hook_user = s;
	for (int putter = 0; putter < 2; putter++) {
		for (int i = 0; i < LANES; i++) {
			lane *l = &s->lanes[putter][i];

			l->put.mem = rig_mem_new(kinds[i % 2], RIG_SPREAD * BYTES_MAX, kit_random(&s->seed));
			l->post.mem = rig_mem_new(kinds[i / 2 % 2], RIG_SPREAD * BYTES_MAX, kit_random(&s->seed));
			l->expected = malloc(RIG_SPREAD * BYTES_MAX);
			ck_assert_ptr_nonnull(l->expected);
		}
	}
	rig_accept(s->r);
	/* However slow the machine is, it is no idle run. */
	for (int i = 0; i < OPERATIONS || s->received < RECEIVED_MIN || s->canceled == 0 || s->lost == 0; i++) {
		operate(s);
		ck_assert(i % 1000 != 0 || kvpi_now(&kvpi_clock_real) < deadline);
	}
	RIG_UNTIL(s->r, (cancel_everything(s), all_back(s)));
	rig_settle(s->r);
	for (int putter = 0; putter < 2; putter++) {
		for (int i = 0; i < LANES; i++) {
			lane *l = &s->lanes[putter][i];

			ck_assert(rig_mem_right(l->put.mem));
			ck_assert(rig_mem_right(l->post.mem));
		}
	}
	rig_free(s->r);
	for (int putter = 0; putter < 2; putter++) {
		for (int i = 0; i < LANES; i++) {
			free(s->lanes[putter][i].expected);
			rig_mem_free(s->lanes[putter][i].put.mem);
			rig_mem_free(s->lanes[putter][i].post.mem);
		}
	}
	free(s);
	kvpi_fake_set(NULL);
}

START_TEST(random_runs)
{
	const char *seed = getenv("KVP_STRESS_SEED"), *rounds = getenv("KVP_STRESS_ROUNDS");
	const uint64_t first = seed != NULL ? strtoull(seed, NULL, 0) : 1;
	const uint64_t count = rounds != NULL ? strtoull(rounds, NULL, 0) : ROUNDS;

	for (uint64_t i = 0; i < count; i++) {
		printf("seed %llu\n", (unsigned long long)(first + i));
		fflush(stdout);
		stress_run(_i, first + i);
	}
}
END_TEST

KIT_MAIN_WITH("conformance stress", rig_plane_count(), NULL, random_runs)
