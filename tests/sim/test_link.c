/* SPDX-License-Identifier: Apache-2.0
 *
 * The two halves of the transfer protocol on one seeded clock and one bad network: control messages are lost,
 * doubled, late and out of order, the data connection breaks in the middle, requests run out or are canceled at
 * every step.  Small tensors travel inside their announcements, when the sender likes and the receiver can.  Whatever
 * happens: each request ends exactly once, tensors are met in order, none is skipped, none is taken for another, each
 * has its own bytes, memory is not touched after its request's end, and when the network recovers everything is
 * delivered.
 */
#include "kit/kit.h"

#include "engine/rx.h"
#include "engine/tx.h"
#include "sim/seeds.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SENDS 60
#define POSTS 400
#define FLYING 512
#define REPEAT_NS (100 * KVPI_NS_PER_MS)
#define BYTES_MAX 600  /* of a tensor */
#define INLINE_MAX 300 /* what the sender puts into announcements */

typedef struct sent {
	kvpi_tx_item item;
	kvp_tensor tensor;
	kvp_status status; /* KVP_PENDING until ended */
	bool released;
	unsigned ends;
	kvp_status met; /* what the receiver said of it: OK, WITHDRAWN or PENDING */
	unsigned char bytes[BYTES_MAX];
} sent;

typedef struct posted {
	kvpi_rx_post post;
	kvp_tensor tensor;
	kvp_status status;
	uint64_t got; /* number of the tensor whose bytes arrived */
	unsigned ends;
	bool far; /* as device memory: no announcement can fill it */
	unsigned char bytes[BYTES_MAX], at_end[BYTES_MAX];
} posted;

/* Something on its way: a control message or the bytes of a put. */
typedef struct flight {
	enum { NOTHING, ANNOUNCE, STATE, DATA, SENT } kind;
	int64_t at;
	kvpi_msg_announce announce;
	int64_t shape[2];
	kvpi_msg_state state;
	uint64_t grants[2 * KVPI_LINK_WINDOW];
	kvpi_transfer_id id;
	unsigned char data[BYTES_MAX];
} flight;

typedef struct world {
	uint64_t random;
	int64_t now;
	kvpi_tx tx;
	kvpi_rx rx;
	sent sends[SENDS];
	posted posts[POSTS];
	unsigned send_count, post_count;
	flight flying[FLYING];
	struct {
		kvpi_transfer_id id;
		posted *to;
	} destinations[KVPI_LINK_WINDOW];
	bool bad, conn_up;
	uint64_t next_met; /* the tensor that the receiver must meet next */
	unsigned losses, filled, put;
} world;

static unsigned char room[KVPI_RX_ROOM_BYTES];

static uint64_t draw(world *w, uint64_t below)
{
	return kit_random(&w->random) % below;
}

static flight *launch(world *w, int kind)
{
	for (size_t i = 0; i < FLYING; i++)
		if (w->flying[i].kind == NOTHING) {
			w->flying[i].kind = kind;
			w->flying[i].at = w->now + (int64_t)draw(w, w->bad ? 50 : 2) * KVPI_NS_PER_MS;
			return &w->flying[i];
		}
	ck_abort_msg("too much on its way");
	return NULL;
}

/* How many copies arrive: 0, 1 or 2. */
static unsigned copies(world *w)
{
	uint64_t dice = w->bad ? draw(w, 10) : 9;

	return dice < 3 ? 0 : dice < 5 ? 2 : 1;
}

static bool tx_announce(void *user, kvpi_tx_item *item, int64_t now)
{
	world *w = user;
	bool carry = item->withdrawn == 0 && item->bytes > 0 && item->bytes <= INLINE_MAX && draw(w, 4) != 0;

	(void)now;
	if (w->bad && draw(w, 20) == 0)
		return false;
	item->carried = item->carried || carry;
	for (unsigned n = copies(w); n > 0; n--) {
		flight *f = launch(w, ANNOUNCE);

		f->announce = (kvpi_msg_announce){.seq = item->seq, .dtype = item->tensor->dtype};
		memcpy(f->shape, item->tensor->shape, sizeof(f->shape));
		f->announce.shape = (kvpi_ints){f->shape, (size_t)item->tensor->ndim};
		if (item->withdrawn != 0) {
			f->announce.withdrawn = item->withdrawn;
			f->announce.text = kvpi_view_text(item->why);
			f->announce.present = KVPI_HAS(announce, withdrawn);
		}
		if (carry) {
			memcpy(f->data, item->tensor->data, item->bytes);
			f->announce.data = kvpi_view_of(f->data, item->bytes);
			f->announce.present = KVPI_HAS(announce, data);
		}
	}
	return true;
}

static kvp_status tx_put(void *user, kvpi_tx_item *item, uint32_t attempt)
{
	world *w = user;
	kvpi_transfer_id id = {item->seq, attempt};
	flight *data, *left;

	if (!w->conn_up)
		return KVP_E_PEER_LOST;
	if (w->bad && draw(w, 10) == 0)
		return KVP_E_AGAIN;
	data = launch(w, DATA);
	data->id = id;
	memcpy(data->data, item->tensor->data, item->bytes);
	w->put++;
	left = launch(w, SENT);
	left->id = id;
	return KVP_OK;
}

/* The writer is here: what has not arrived will not. */
static kvp_receipt tx_cancel(void *user, kvpi_tx_item *item, uint32_t attempt)
{
	world *w = user;

	for (size_t i = 0; i < FLYING; i++)
		if ((w->flying[i].kind == DATA || w->flying[i].kind == SENT) && w->flying[i].id.seq == item->seq &&
		    w->flying[i].id.attempt == attempt)
			w->flying[i].kind = NOTHING;
	return KVP_RECEIPT_QUIESCENT;
}

static void tx_ended(void *user, kvpi_tx_item *item, kvp_status status, const char *text, kvp_receipt receipt,
                     int64_t now)
{
	sent *s = KVPI_CONTAINER_OF(item, sent, item);

	(void)user, (void)text, (void)now;
	ck_assert_int_eq(receipt, KVP_RECEIPT_QUIESCENT);
	s->ends++;
	s->status = status;
	memset(s->bytes, 0x5a, sizeof(s->bytes)); /* the caller uses it again */
}

static void tx_release(void *user, kvpi_tx_item *item)
{
	sent *s = KVPI_CONTAINER_OF(item, sent, item);

	(void)user;
	ck_assert_msg(s->ends == 1 && !s->released, "released before its end, or twice");
	s->released = true;
}

static kvp_status rx_post(void *user, kvpi_rx_post *post, kvpi_transfer_id id)
{
	world *w = user;

	if (w->bad && draw(w, 10) == 0)
		return KVP_E_AGAIN;
	for (size_t i = 0; i < KVPI_LINK_WINDOW; i++)
		if (w->destinations[i].to == NULL) {
			w->destinations[i].id = id;
			w->destinations[i].to = KVPI_CONTAINER_OF(post, posted, post);
			return KVP_OK;
		}
	ck_abort_msg("more destinations than the window");
	return KVP_E_AGAIN;
}

static kvp_receipt rx_cancel(void *user, kvpi_transfer_id id)
{
	world *w = user;

	for (size_t i = 0; i < KVPI_LINK_WINDOW; i++)
		if (w->destinations[i].to && w->destinations[i].id.seq == id.seq && w->destinations[i].id.attempt == id.attempt)
			w->destinations[i].to = NULL;
	return KVP_RECEIPT_QUIESCENT;
}

static bool rx_fill(void *user, kvpi_rx_post *post, const void *data)
{
	world *w = user;
	posted *p = KVPI_CONTAINER_OF(post, posted, post);

	if (p->far)
		return false;
	memcpy(p->bytes, data, kvp_tensor_bytes(&post->slot->tensor));
	p->got = post->slot->seq;
	w->filled++;
	return true;
}

static bool rx_state(void *user, const kvpi_msg_state *state, int64_t now)
{
	world *w = user;

	(void)now;
	if (w->bad && draw(w, 20) == 0)
		return false;
	for (unsigned n = copies(w); n > 0; n--) {
		flight *f = launch(w, STATE);

		f->state = *state;
		if (state->grants.count > 0)
			memcpy(f->grants, state->grants.items, state->grants.count * sizeof(f->grants[0]));
		f->state.grants.items = f->grants;
	}
	return true;
}

static void rx_ended(void *user, kvpi_rx_post *post, kvp_status status, const char *text, kvp_receipt receipt,
                     int64_t now)
{
	posted *p = KVPI_CONTAINER_OF(post, posted, post);

	(void)user, (void)text, (void)now;
	ck_assert_int_eq(receipt, KVP_RECEIPT_QUIESCENT);
	p->ends++;
	p->status = status;
	memcpy(p->at_end, p->bytes, sizeof(p->at_end));
}

static const kvpi_tx_ops tx_ops = {tx_announce, tx_put, tx_cancel, tx_ended, tx_release};
static const kvpi_rx_ops rx_ops = {rx_post, rx_cancel, rx_fill, rx_state, rx_ended};

static void arrive(world *w, flight *f)
{
	int kind = f->kind;

	f->kind = NOTHING;
	if (kind == ANNOUNCE) {
		KIT_OK(kvpi_rx_announce(&w->rx, &f->announce));
	} else if (kind == STATE) {
		KIT_OK(kvpi_tx_state(&w->tx, &f->state, w->now));
	} else if (kind == SENT) {
		kvpi_tx_sent(&w->tx, f->id, w->now);
	} else {
		for (size_t i = 0; i < KVPI_LINK_WINDOW; i++)
			if (w->destinations[i].to != NULL && w->destinations[i].id.seq == f->id.seq &&
			    w->destinations[i].id.attempt == f->id.attempt) {
				memcpy(w->destinations[i].to->bytes, f->data, w->sends[f->id.seq - 1].item.bytes);
				w->destinations[i].to->got = f->id.seq;
				w->destinations[i].to = NULL;
				kvpi_rx_received(&w->rx, f->id, w->now);
				return;
			}
	}
}

static void break_conn(world *w)
{
	for (size_t i = 0; i < FLYING; i++)
		if (w->flying[i].kind == DATA || w->flying[i].kind == SENT)
			w->flying[i].kind = NOTHING;
	memset(w->destinations, 0, sizeof(w->destinations));
	w->conn_up = false;
	w->losses++;
	kvpi_tx_conn(&w->tx, false);
	kvpi_rx_conn(&w->rx, false);
}

static void mend_conn(world *w)
{
	w->conn_up = true;
	kvpi_tx_conn(&w->tx, true);
	kvpi_rx_conn(&w->rx, true);
}

static void send_one(world *w)
{
	sent *s = &w->sends[w->send_count++];
	int64_t shape[2] = {1 + (int64_t)draw(w, BYTES_MAX / 6), 1 + (int64_t)draw(w, 3)};

	if (draw(w, 8) == 0)
		kvp_tensor_init_none(&s->tensor);
	else
		KIT_OK(kvp_tensor_init(&s->tensor, s->bytes, KVP_DTYPE_FP16, (int)draw(w, 3), shape));
	kit_random_fill(s->bytes, sizeof(s->bytes), w->send_count);
	s->status = s->met = KVP_PENDING;
	s->item.tensor = &s->tensor;
	s->item.bytes = kvp_tensor_bytes(&s->tensor);
	s->item.deadline_ns = w->bad && draw(w, 4) == 0 ? w->now + (int64_t)draw(w, 400) * KVPI_NS_PER_MS : KVPI_NEVER - 1;
	KIT_OK(kvpi_tx_add(&w->tx, &s->item, w->now));
}

static void post_one(world *w)
{
	posted *p = &w->posts[w->post_count++];

	kvp_tensor_init_buffer(&p->tensor, p->bytes, draw(w, 40) == 0 && w->bad ? 1 : BYTES_MAX);
	p->far = draw(w, 4) == 0;
	p->status = KVP_PENDING;
	p->post.tensor = &p->tensor;
	p->post.alone = draw(w, 2) == 0;
	p->post.deadline_ns = w->bad && draw(w, 4) == 0 ? w->now + (int64_t)draw(w, 300) * KVPI_NS_PER_MS : KVPI_NEVER - 1;
	kvpi_rx_post_add(&w->rx, &p->post);
}

static unsigned open_posts(const world *w)
{
	unsigned n = 0;

	for (unsigned i = 0; i < w->post_count; i++)
		n += w->posts[i].status == KVP_PENDING;
	return n;
}

static void do_something(world *w)
{
	switch (draw(w, 12)) {
	case 0:
	case 1:
	case 2:
		if (w->send_count < SENDS)
			send_one(w);
		break;
	case 3:
	case 4:
		if (open_posts(w) < KVPI_RX_POSTS_MAX && w->post_count < POSTS / 2)
			post_one(w);
		break;
	case 5:
		if (w->send_count > 0 && draw(w, 3) == 0) {
			sent *s = &w->sends[draw(w, w->send_count)];

			if (s->status == KVP_PENDING)
				kvpi_tx_cancel(&w->tx, &s->item, KVP_E_CANCELED, "canceled", "canceled", w->now);
		}
		break;
	case 6:
		if (w->post_count > 0 && draw(w, 3) == 0) {
			posted *p = &w->posts[draw(w, w->post_count)];

			if (p->status == KVP_PENDING)
				kvpi_rx_cancel(&w->rx, &p->post, KVP_E_CANCELED, "canceled", w->now);
		}
		break;
	case 7:
		if (w->conn_up && draw(w, 4) == 0)
			break_conn(w);
		break;
	case 8:
		if (!w->conn_up)
			mend_conn(w);
		break;
	default:
		break;
	}
}

static void step(world *w)
{
	w->now += (int64_t)(1 + draw(w, 20)) * KVPI_NS_PER_MS;
	for (size_t i = 0; i < FLYING; i++)
		if (w->flying[i].kind != NOTHING && w->flying[i].at <= w->now)
			arrive(w, &w->flying[i]);
	kvpi_tx_step(&w->tx, w->now);
	kvpi_rx_step(&w->rx, w->now);
}

/* Posts that met a tensor, in the order of posting, must have met the tensors in the order of sending. */
static void check_order(world *w)
{
	uint64_t next = 1;

	for (unsigned i = 0; i < w->post_count; i++) {
		posted *p = &w->posts[i];

		ck_assert_uint_le(p->ends, 1);
		ck_assert_msg(memcmp(p->bytes, p->at_end, BYTES_MAX) == 0, "post %u was written to after its end", i);
		if (p->status != KVP_OK && p->status != KVP_E_WITHDRAWN)
			continue;
		ck_assert_msg(next <= w->send_count, "more was received than sent");
		w->sends[next - 1].met = p->status;
		if (p->status == KVP_OK && w->sends[next - 1].item.bytes > 0) {
			ck_assert_uint_eq(p->got, next);
			kit_check_fill(p->bytes, w->sends[next - 1].item.bytes, next);
		}
		next++;
	}
	ck_assert_uint_eq(next, w->send_count + 1);
	for (unsigned i = 0; i < w->send_count; i++) {
		const sent *s = &w->sends[i];

		ck_assert_msg(s->ends == 1 && s->released, "send %u ended %u times, released %d", i, s->ends, s->released);
		if (s->status == KVP_OK)
			ck_assert_int_eq(s->met, KVP_OK);
		if (s->met == KVP_E_WITHDRAWN)
			ck_assert_int_ne(s->status, KVP_OK);
	}
}

static void run_seed(uint64_t seed)
{
	world *w = calloc(1, sizeof(*w));

	w->random = seed;
	w->now = 1;
	w->bad = true;
	kvpi_tx_init(&w->tx, &tx_ops, w, REPEAT_NS);
	kvpi_rx_init(&w->rx, &rx_ops, w, REPEAT_NS);
	w->rx.room = draw(w, 8) == 0 ? NULL : room;
	kvpi_tx_session(&w->tx, true);
	kvpi_rx_session(&w->rx, true);
	mend_conn(w);
	for (int i = 0; i < 400; i++) {
		do_something(w);
		step(w);
	}
	/* The weather clears: now everything must come to its end by itself. */
	w->bad = false;
	if (!w->conn_up)
		mend_conn(w);
	while (w->send_count < SENDS)
		send_one(w);
	for (int i = 0; i < 4000 && w->rx.delivered < SENDS; i++) {
		while (open_posts(w) < 8 && w->post_count < POSTS)
			post_one(w);
		step(w);
	}
	for (int i = 0; i < 100; i++)
		step(w);
	ck_assert_msg(w->rx.delivered == SENDS && w->tx.delivered == SENDS, "delivered %d of %d, known to be %d",
	              (int)w->rx.delivered, SENDS, (int)w->tx.delivered);
	kvpi_rx_fail(&w->rx, KVP_E_CLOSED, "end", w->now);
	check_order(w);
	ck_assert_msg(w->put > 0 && (w->filled > 0 || w->rx.room == NULL), "%u puts, %u filled", w->put, w->filled);
	kvpi_tx_fail(&w->tx, KVP_E_CLOSED, "end", w->now);
	kvpi_tx_fini(&w->tx);
	free(w);
}

START_TEST(a_bad_network_delays_but_never_loses)
{
	sim_run(run_seed, NULL);
}
END_TEST

/* A peer that lies does not get far: nothing of its message is taken. */
START_TEST(impossible_states_are_refused)
{
	world *w = calloc(1, sizeof(*w));
	uint64_t grants[2] = {1, 1};
	const kvpi_msg_state lies[] = {
	    {.seen = 2, .delivered = 0},                                          /* one was sent */
	    {.seen = 0, .delivered = 1},                                          /* more delivered than seen */
	    {.seen = 1, .delivered = 1},                                          /* nothing was put */
	    {.seen = 1, .delivered = 0, .grants = {grants, 1}},                   /* half a pair */
	    {.seen = 0, .delivered = 0, .grants = {grants, 2}},                   /* granted, not seen */
	    {.seen = 1, .delivered = 0, .grants = {(uint64_t[]){1, 0}, 2}},       /* attempt 0 */
	    {.seen = 1, .delivered = 0, .grants = {(uint64_t[]){1, 1ull << 32}, 2}},
	};
	int64_t shape[1] = {100}; /* too large for an announcement */

	w->random = 7;
	kvpi_tx_init(&w->tx, &tx_ops, w, REPEAT_NS);
	kvpi_tx_session(&w->tx, true);
	KIT_OK(kvp_tensor_init(&w->sends[0].tensor, w, KVP_DTYPE_FP32, 1, shape));
	w->sends[0].item = (kvpi_tx_item){.tensor = &w->sends[0].tensor, .bytes = 400, .deadline_ns = KVPI_NEVER - 1};
	KIT_OK(kvpi_tx_add(&w->tx, &w->sends[0].item, 1));
	kvpi_tx_step(&w->tx, 1);
	for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		KIT_STATUS(kvpi_tx_state(&w->tx, &lies[i], 2), KVP_E_PROTOCOL);
		ck_assert_uint_eq(w->tx.delivered, 0);
		ck_assert_uint_eq(w->sends[0].item.granted, 0);
	}
	kvpi_tx_fail(&w->tx, KVP_E_CLOSED, "end", 3);
	kvpi_tx_fini(&w->tx);
	free(w);
}
END_TEST

START_TEST(impossible_announcements_are_refused)
{
	kvpi_rx *rx = calloc(1, sizeof(*rx));
	static const unsigned char bytes[KVPI_LINK_INLINE_MAX + 1];
	int64_t negative[1] = {-1}, huge[3] = {INT64_MAX, INT64_MAX, 2}, eight[1] = {8}, large[1] = {sizeof(bytes)};
	const kvpi_msg_announce lies[] = {
	    {.seq = KVPI_LINK_WINDOW + 1, .dtype = KVP_DTYPE_INT8},
	    {.seq = UINT64_MAX, .dtype = KVP_DTYPE_INT8},
	    {.seq = 1, .dtype = 200},
	    {.seq = 1, .dtype = KVP_DTYPE_ANY},
	    {.seq = 1, .dtype = KVP_DTYPE_INT8, .shape = {negative, 1}},
	    {.seq = 1, .dtype = KVP_DTYPE_INT8, .shape = {huge, 3}},
	    {.seq = 1, .dtype = KVP_DTYPE_INT8, .shape = {eight, 1}, .data = {bytes, 7}, .present = KVPI_HAS(announce, data)},
	    {.seq = 1, .dtype = KVP_DTYPE_INT8, .shape = {eight, 1}, .data = {bytes, 9}, .present = KVPI_HAS(announce, data)},
	    {.seq = 1, .dtype = KVP_DTYPE_NONE, .data = {bytes, 8}, .present = KVPI_HAS(announce, data)},
	    {.seq = 1, .dtype = KVP_DTYPE_NONE, .data = {bytes, 0}, .present = KVPI_HAS(announce, data)},
	    {.seq = 1, .dtype = KVP_DTYPE_INT8, .shape = {large, 1}, .data = {bytes, sizeof(bytes)},
	     .present = KVPI_HAS(announce, data)},
	};

	kvpi_rx_init(rx, &rx_ops, NULL, REPEAT_NS);
	rx->room = room;
	for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		KIT_STATUS(kvpi_rx_announce(rx, &lies[i]), KVP_E_PROTOCOL);
		ck_assert_uint_eq(rx->seen, 0);
	}
	free(rx);
}
END_TEST

KIT_MAIN("link", a_bad_network_delays_but_never_loses, impossible_states_are_refused,
         impossible_announcements_are_refused)
