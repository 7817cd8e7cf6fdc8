/* SPDX-License-Identifier: Apache-2.0
 *
 * What every data plane has to do, asked of each plane of the registry in several ways (_i is the rig's number).
 */
#include "conformance/rig.h"
#include "kit/kit.h"

#include "base/fault.h"
#include "device/fake.h"
#include <pthread.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define SENT KVPI_PLANE_SENT
#define RECEIVED KVPI_PLANE_RECEIVED
#define LOST KVPI_PLANE_LOST
#define CONNECTED KVPI_PLANE_CONNECTED
#define NOTIFIED KVPI_PLANE_NOTIFIED

/* ---- connecting ---- */

START_TEST(capabilities_and_names)
{
	const kvpi_facts here = {.process = "abc"}, there = {.process = "xyz"};
	rig *r = rig_new(_i, 0);
	char why[64] = "", address[KVPI_PLANE_ADDRESS_MAX];
	size_t len = 0;

	ck_assert_uint_eq(r->ops->size, sizeof(kvpi_plane_ops));
	ck_assert_uint_lt(strlen(r->ops->name), KVPI_PLANE_NAME_MAX);
	ck_assert_ptr_eq(kvpi_plane_find(r->ops->name, strlen(r->ops->name)), r->spec.base);
	ck_assert_str_eq(r->ops->name, r->spec.base->name); /* also when wrapped: the ends agree by it */
	ck_assert_ptr_null(kvpi_plane_find(r->ops->name, strlen(r->ops->name) - 1));
	ck_assert_ptr_null(kvpi_plane_find("no such plane", 13));
	for (int i = 1; kvpi_plane_registry()[i] != NULL; i++)
		ck_assert_int_ge(kvpi_plane_registry()[i - 1]->preference, kvpi_plane_registry()[i]->preference);

	ck_assert_uint_ne(r->a.caps.memories & 1u << KVP_MEMORY_HOST, 0);
	ck_assert_uint_eq(r->a.caps.memories & 1u << KVP_MEMORY_AUTO, 0);
	ck_assert_uint_gt(r->a.caps.max_transfers, 0);
	ck_assert_uint_le(r->a.caps.notify_max, KVPI_PLANE_NOTIFY_MAX);
	KIT_OK(r->ops->address(r->a.plane, address, &len));
	ck_assert_uint_le(len, sizeof(address));

	/* The same facts are always good enough, and the judge says why in a few words, cut if need be. */
	KIT_OK(r->ops->judge(&here, &here, why, sizeof(why)));
	ck_assert_uint_gt(strlen(why), 0);
	(void)r->ops->judge(&here, &there, why, sizeof(why));
	ck_assert_uint_gt(strlen(why), 0);
	(void)r->ops->judge(&here, &there, why, 4);
	ck_assert_uint_eq(strlen(why), 3);
	rig_free(r);
}
END_TEST

START_TEST(a_wrong_token_is_turned_away)
{
	rig *r = rig_new(_i, 0);
	unsigned char wrong[KVPI_PLANE_TOKEN_BYTES];
	char address[KVPI_PLANE_ADDRESS_MAX];
	size_t len = 0;

	rig_accept(r);
	memcpy(wrong, r->token, sizeof(wrong));
	wrong[15] ^= 1;
	KIT_OK(r->ops->address(r->a.plane, address, &len));
	KIT_OK(r->ops->connect(r->b.plane, address, len, wrong, &r->b, &r->b.conn));
	ck_assert_uint_eq(r->b.logged, 0); /* told only from inside progress */
	RIG_UNTIL(r, r->b.counts[LOST] > 0);
	ck_assert_int_eq(r->b.log[0].status, KVP_E_REFUSED);
	rig_settle(r);
	ck_assert_uint_eq(r->b.logged, 1);
	ck_assert_uint_eq(r->a.logged, 0);
	rig_hangup(&r->b);

	/* Who knows the token still gets in. */
	rig_connect(r);
	rig_free(r);
}
END_TEST

START_TEST(a_bad_address_is_refused)
{
	static const char *const bad[] = {"", "x", "127.0.0.1", "127.0.0.1:0", "no.such.host.invalid:80", "tcp://",
	    "127.0.0.1:99999", "[::1:80", "127.0.0.1:80 "};
	rig *r = rig_new(_i, 0);
	kvpi_conn *conn = NULL;
	char address[KVPI_PLANE_ADDRESS_MAX];
	size_t len = 0;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		const kvp_status status =
		    r->ops->connect(r->b.plane, bad[i], strlen(bad[i]), r->token, &r->b, &conn);

		ck_assert(status == KVP_E_INVALID || status == KVP_E_UNSUPPORTED);
		ck_assert_ptr_null(conn);
	}
	kit_random_fill(address, sizeof(address), 5);
	ck_assert_int_ne(r->ops->connect(r->b.plane, address, sizeof(address), r->token, &r->b, &conn), KVP_OK);
	ck_assert_ptr_null(conn);

	/* A good one, behind which nobody is any more. */
	KIT_OK(r->ops->address(r->a.plane, address, &len));
	r->ops->close(r->a.plane);
	r->a.plane = NULL;
	KIT_OK(r->ops->connect(r->b.plane, address, len, r->token, &r->b, &r->b.conn));
	RIG_UNTIL(r, r->b.counts[LOST] > 0);
	rig_settle(r);
	ck_assert_uint_eq(r->b.logged, 1);
	rig_free(r);
}
END_TEST

START_TEST(nothing_before_connected)
{
	rig *r = rig_new(_i, 0);
	rig_mem *mem = rig_mem_new(KVP_MEMORY_HOST, 4096, 1);
	const kvpi_layout layout = rig_bytes(mem, 0, 100);
	const kvpi_transfer transfer = rig_transfer(1, 1, &layout);
	kvpi_layout target = rig_bytes(mem, 1000, 100);
	kvpi_conn *second = NULL;

	rig_accept(r);
	KIT_STATUS(r->ops->submit(r->a.conn, &transfer), KVP_E_PEER_LOST);
	KIT_STATUS(r->ops->notify(r->a.conn, "x", 1), KVP_E_PEER_LOST);
	KIT_STATUS(r->ops->accept(r->a.plane, r->token, &r->a, &second), KVP_E_CONFLICT);
	ck_assert_ptr_null(second);
	/* A destination may be posted before. */
	rig_post(&r->a, 1, &target);
	ck_assert_int_eq(r->ops->cancel(r->a.conn, RIG_ID(1)), KVP_RECEIPT_QUIESCENT);
	rig_post(&r->a, 1, &target);
	rig_connect(r);
	rig_put(&r->b, 1, &layout);
	RIG_UNTIL(r, rig_told(&r->a, RECEIVED, RIG_ID(1)));
	rig_mirror_copy(mem, &target, mem, &layout);
	ck_assert(rig_mem_right(mem));
	rig_free(r);
	rig_mem_free(mem);
}
END_TEST

START_TEST(a_newer_connection_takes_the_place)
{
	rig *r = rig_new_connected(_i, 0);
	kvpi_conn *older = r->b.conn;
	rig_mem *mem = rig_mem_new(KVP_MEMORY_HOST, 4096, 1);
	const kvpi_layout layout = rig_bytes(mem, 0, 100), target = rig_bytes(mem, 1000, 100);

	rig_connect(r);
	RIG_UNTIL(r, r->a.counts[LOST] == 1 && r->b.counts[LOST] == 1);
	r->ops->hangup(older);
	rig_settle(r);
	ck_assert_uint_eq(r->a.counts[LOST], 1);
	ck_assert_uint_eq(r->a.log[1].kind, LOST); /* and only then connected again */
	ck_assert_uint_eq(r->a.log[2].kind, CONNECTED);
	rig_carry(r, &r->b, &r->a, 1, mem, &layout, mem, &target);
	rig_free(r);
	rig_mem_free(mem);
}
END_TEST

/* ---- transfers ---- */

START_TEST(transfers_of_many_sizes)
{
	static const uint64_t sizes[] = {0, 1, 4095, 4096, 4097, 1u << 20, 5 * RIG_BUDGET + 7, (9u << 20) + 1};
	rig *r = rig_new_connected(_i, 0);
	rig_mem *src = rig_mem_new(KVP_MEMORY_HOST, 10u << 20, 1), *dst = rig_mem_new(KVP_MEMORY_HOST, 10u << 20, 2);

	for (uint64_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		const kvpi_layout source = rig_bytes(src, 3, sizes[i]), target = rig_bytes(dst, 5, sizes[i]);

		rig_carry(r, &r->b, &r->a, 2 * i + 1, src, &source, dst, &target);
		rig_carry(r, &r->a, &r->b, 2 * i + 2, dst, &source, src, &target);
	}
	ck_assert_uint_eq(r->a.counts[SENT] + r->a.counts[RECEIVED], 2 * sizeof(sizes) / sizeof(sizes[0]));
	rig_free(r);
	rig_mem_free(src);
	rig_mem_free(dst);
}
END_TEST

/* The moment of SENT is the last in which the source is read, the moment of RECEIVED the first in which all of the
 * destination is there: so the one is spoilt and the other looked at from inside the event. */
typedef struct moment {
	rig_mem *src, *dst;
	bool spoilt, right;
} moment;

static void spoil(rig_end *end, const kvpi_plane_event *event)
{
	moment *m = end->hook_user;

	if (event->kind != SENT)
		return;
	rig_mem_fill(m->src, 999);
	m->spoilt = true;
}

static void look(rig_end *end, const kvpi_plane_event *event)
{
	moment *m = end->hook_user;

	if (event->kind == RECEIVED)
		m->right = rig_mem_right(m->dst);
}

static void carry_shapes(rig *r, uint64_t seq, const kvp_memory kinds[2], rig_shape from, rig_shape to)
{
	const uint64_t bytes = 256u << 10;
	rig_mem *src = rig_mem_new(kinds[0], RIG_SPREAD * bytes, seq * 10);
	rig_mem *dst = rig_mem_new(kinds[1], RIG_SPREAD * bytes, seq * 10 + 1);
	uint32_t from_ids[RIG_IDS], to_ids[RIG_IDS];
	moment m = {.src = src, .dst = dst};
	kvpi_layout source, target;

	rig_layout(src, from, bytes, from_ids, &source);
	rig_layout(dst, to, bytes, to_ids, &target);
	rig_mirror_copy(dst, &target, src, &source); /* what is to be */
	r->b.hook = spoil;
	r->a.hook = look;
	r->a.hook_user = r->b.hook_user = &m;
	rig_post(&r->a, seq, &target);
	rig_put(&r->b, seq, &source);
	RIG_UNTIL(r, rig_told(&r->b, SENT, RIG_ID(seq)) && rig_told(&r->a, RECEIVED, RIG_ID(seq)));
	ck_assert(m.spoilt);
	ck_assert_msg(m.right, "shape %d of memory %d to shape %d of memory %d", (int)from, (int)kinds[0], (int)to,
	    (int)kinds[1]);
	ck_assert(rig_mem_right(dst));
	r->a.hook = r->b.hook = NULL;
	rig_mem_free(src);
	rig_mem_free(dst);
}

/* Every shape to every shape, from and to every kind of memory that the plane says it carries; small bounce buffers,
 * default ones, and a device that is late and reorders. */
START_TEST(shapes_and_memories)
{
	static const kvp_memory all[] = {KVP_MEMORY_HOST, KVP_MEMORY_FAKE};

	for (int mode = 0; mode < 3; mode++) {
		rig *r;
		uint64_t seq = 0;

		kvpi_fake_set(&(kvpi_fake_options){.reorder = mode == 2, .delay = mode == 2 ? 4 : 0, .seed = 11});
		r = rig_new_connected(_i, mode == 1 ? 16384 : 0);
		for (int k = 0; k < 4; k++) {
			const kvp_memory kinds[] = {all[k / 2], all[k % 2]};

			if ((r->a.caps.memories & 1u << kinds[1]) == 0 || (r->b.caps.memories & 1u << kinds[0]) == 0)
				continue;
			for (int s = 0; s < RIG_SHAPES * RIG_SHAPES; s++)
				carry_shapes(
				    r, ++seq, kinds, (rig_shape)(s / RIG_SHAPES), (rig_shape)(s % RIG_SHAPES));
		}
		rig_free(r);
	}
	kvpi_fake_set(NULL);
}
END_TEST

START_TEST(many_outstanding_then_again)
{
	rig *r = rig_new_connected(_i, 0);
	const uint32_t max = r->a.caps.max_transfers;
	rig_mem *src = rig_mem_new(KVP_MEMORY_HOST, 1000 * (size_t)max, 1);
	rig_mem *dst = rig_mem_new(KVP_MEMORY_HOST, 1000 * (size_t)max, 2);
	kvpi_layout source = rig_bytes(src, 0, 990), target = rig_bytes(dst, 0, 990);
	kvpi_transfer transfer;

	for (int round = 0; round < 2; round++) {
		const uint64_t first = 1 + (uint64_t)round * max;

		for (uint64_t i = 0; i < max; i++) {
			source = rig_bytes(src, 1000 * i, 990);
			target = rig_bytes(dst, 1000 * (max - 1 - i), 990);
			rig_post(&r->a, first + i, &target);
			rig_put(&r->b, first + i, &source);
			rig_mirror_copy(dst, &target, src, &source);
		}
		transfer = rig_transfer(first + max, 1, &target);
		KIT_STATUS(r->ops->post_recv(r->a.conn, &transfer), KVP_E_AGAIN);
		KIT_STATUS(r->ops->submit(r->b.conn, &transfer), KVP_E_AGAIN);
		/* The other direction has room of its own. */
		KIT_OK(r->ops->post_recv(r->b.conn, &transfer));
		ck_assert_int_eq(r->ops->cancel(r->b.conn, transfer.id), KVP_RECEIPT_QUIESCENT);
		RIG_UNTIL(r, r->b.counts[SENT] == first + max - 1 && r->a.counts[RECEIVED] == first + max - 1);
		ck_assert(rig_mem_right(dst));
	}
	rig_settle(r);
	for (uint64_t i = 0, next = 1; r->spec.wraps == 0 && i < r->a.logged; i++) {
		/* Puts arrive in the order they were submitted, where they take one way and no wrapper turns it round. */
		if (r->a.log[i].kind == RECEIVED && r->settings.streams <= 1)
			ck_assert_uint_eq(r->a.log[i].id.seq, next++);
	}
	ck_assert_uint_eq(r->a.counts[RECEIVED], 2 * max);
	rig_free(r);
	rig_mem_free(src);
	rig_mem_free(dst);
}
END_TEST

START_TEST(both_directions_at_once)
{
	rig *r = rig_new_connected(_i, 0);
	rig_mem *mem[4];
	const uint64_t bytes = 3u << 20;

	for (int i = 0; i < 4; i++)
		mem[i] = rig_mem_new(KVP_MEMORY_HOST, 20 * bytes, (uint64_t)i);
	/* The same ids both ways: each direction counts for itself. */
	for (uint64_t i = 0; i < 20; i++) {
		const kvpi_layout to_a = rig_bytes(mem[0], i * bytes, bytes);
		const kvpi_layout to_b = rig_bytes(mem[1], i * bytes, bytes);
		const kvpi_layout from_a = rig_bytes(mem[2], i * bytes, bytes);
		const kvpi_layout from_b = rig_bytes(mem[3], i * bytes, bytes);

		rig_post(&r->a, i, &to_a);
		rig_post(&r->b, i, &to_b);
		rig_put(&r->a, i, &from_a);
		rig_put(&r->b, i, &from_b);
		rig_mirror_copy(mem[0], &to_a, mem[3], &from_b);
		rig_mirror_copy(mem[1], &to_b, mem[2], &from_a);
	}
	RIG_UNTIL(r, r->a.counts[RECEIVED] == 20 && r->b.counts[RECEIVED] == 20);
	RIG_UNTIL(r, r->a.counts[SENT] == 20 && r->b.counts[SENT] == 20);
	for (int i = 0; i < 4; i++) {
		ck_assert(rig_mem_right(mem[i]));
		rig_mem_free(mem[i]);
	}
	rig_free(r);
}
END_TEST

START_TEST(unsupported_is_refused_and_changes_nothing)
{
	static const kvp_memory kinds[] = {
	    KVP_MEMORY_AUTO, KVP_MEMORY_HOST, KVP_MEMORY_CUDA, KVP_MEMORY_FAKE, (kvp_memory)9};
	rig *r = rig_new_connected(_i, 0);
	rig_mem *mem = rig_mem_new(KVP_MEMORY_HOST, 4096, 1);
	kvpi_layout layout = rig_bytes(mem, 0, 100);
	kvpi_transfer transfer = rig_transfer(1, 1, &layout);
	kvpi_region *region = NULL;
	unsigned char exported[256];
	size_t len = sizeof(exported);
	int fd = -1;

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if ((r->a.caps.memories & 1u << kinds[i]) != 0)
			continue;
		transfer.local.memory = kinds[i];
		KIT_STATUS(r->ops->submit(r->b.conn, &transfer), KVP_E_UNSUPPORTED);
		KIT_STATUS(r->ops->post_recv(r->a.conn, &transfer), KVP_E_UNSUPPORTED);
	}
	transfer.local.memory = KVP_MEMORY_HOST;
	if (!r->a.caps.one_sided_get) {
		transfer.direction = KVPI_GET;
		KIT_STATUS(r->ops->submit(r->b.conn, &transfer), KVP_E_UNSUPPORTED);
	}
	/* Registering is for planes that need it; the others take it in good part. */
	KIT_OK(r->ops->register_memory(r->a.plane, mem->base, mem->size, KVP_MEMORY_HOST, 0, &region));
	ck_assert_ptr_nonnull(region);
	if (!r->a.caps.one_sided_put && !r->a.caps.one_sided_get) {
		KIT_STATUS(r->ops->export_region(region, exported, &len, &fd), KVP_E_UNSUPPORTED);
		KIT_STATUS(r->ops->attach(r->a.conn, exported, len, fd, &region), KVP_E_UNSUPPORTED);
		r->ops->detach(r->a.conn, region);
	}
	r->ops->unregister_memory(r->a.plane, region);
	rig_settle(r);
	ck_assert_uint_eq(r->a.logged + r->b.logged, 2);
	rig_free(r);
	rig_mem_free(mem);
}
END_TEST

/* ---- notify ---- */

START_TEST(a_notify_comes_after_the_data_before_it)
{
	static const kvp_memory all[] = {KVP_MEMORY_HOST, KVP_MEMORY_FAKE};
	const uint64_t bytes = 300001;

	kvpi_fake_set(&(kvpi_fake_options){.delay = 3});
	for (int k = 0; k < 2; k++) {
		rig *r = rig_new_connected(_i, 0);
		rig_mem *src = rig_mem_new(KVP_MEMORY_HOST, 10 * bytes, 1), *dst = rig_mem_new(all[k], 10 * bytes, 2);
		unsigned notes = 0, received = 0;

		for (uint64_t i = 0; i < 10; i++) {
			const kvpi_layout source = rig_bytes(src, i * bytes, bytes);
			const kvpi_layout target = rig_bytes(dst, i * bytes, bytes);
			const unsigned char text[2] = {'n', (unsigned char)i};

			rig_post(&r->a, i, &target);
			rig_put(&r->b, i, &source);
			KIT_OK(r->ops->notify(r->b.conn, text, sizeof(text)));
		}
		RIG_UNTIL(r, r->a.counts[NOTIFIED] == 10);
		for (size_t i = 0; i < r->a.logged; i++) {
			const rig_entry *entry = &r->a.log[i];

			if (entry->kind == RECEIVED)
				received++;
			if (entry->kind != NOTIFIED)
				continue;
			ck_assert_uint_eq(entry->len, 2);
			ck_assert_uint_eq(entry->data[0], 'n');
			ck_assert_uint_eq(entry->data[1], notes);
			notes++;
			ck_assert_uint_eq(received, notes);
		}
		rig_free(r);
		rig_mem_free(src);
		rig_mem_free(dst);
	}
	kvpi_fake_set(NULL);
}
END_TEST

static unsigned char note_text[KVPI_PLANE_NOTIFY_MAX + 1];
static bool note_right;

static void read_note(rig_end *end, const kvpi_plane_event *event)
{
	(void)end;
	note_right = event->kind == NOTIFIED && event->len == KVPI_PLANE_NOTIFY_MAX &&
	             memcmp(event->data, note_text, event->len) == 0;
}

START_TEST(notifies_are_bounded)
{
	rig *r = rig_new_connected(_i, 0);
	kvp_status status = KVP_OK;
	unsigned count = 0;

	kit_random_fill(note_text, sizeof(note_text), 3);
	ck_assert_uint_eq(r->a.caps.notify_max, KVPI_PLANE_NOTIFY_MAX);
	KIT_STATUS(r->ops->notify(r->b.conn, note_text, sizeof(note_text)), KVP_E_TOO_LARGE);
	KIT_OK(r->ops->notify(r->b.conn, NULL, 0));
	RIG_UNTIL(r, r->a.counts[NOTIFIED] == 1);
	r->a.hook = read_note;
	KIT_OK(r->ops->notify(r->b.conn, note_text, KVPI_PLANE_NOTIFY_MAX));
	RIG_UNTIL(r, r->a.counts[NOTIFIED] == 2);
	ck_assert(note_right);

	/* Somewhere there is an end, even when the sender is driven and the receiver sleeps: kernels buffer, too. */
	while (count < 100000 && status == KVP_OK) {
		status = r->ops->notify(r->b.conn, note_text, KVPI_PLANE_NOTIFY_MAX);
		count += status == KVP_OK;
		if (status == KVP_E_AGAIN) {
			for (int i = 0; i < 100; i++)
				r->ops->progress(r->b.plane, r->budget);
			status = r->ops->notify(r->b.conn, note_text, KVPI_PLANE_NOTIFY_MAX);
			count += status == KVP_OK;
		}
	}
	ck_assert_int_eq(status, KVP_E_AGAIN);
	r->a.hook = NULL;
	RIG_UNTIL(r, r->a.counts[NOTIFIED] == 2 + count);
	KIT_OK(r->ops->notify(r->b.conn, note_text, 1));
	rig_free(r);
}
END_TEST

/* ---- the worker's contract ---- */

typedef struct worker {
	rig_end *end;
	rig_mem *src, *dst;
	unsigned rounds;
	bool first;
	bool notes; /* the signal is a notify behind the data, else the data itself */
	unsigned stalls, failures;
} worker;

/* Sleeps as a worker does; a time-out here is a lost wake-up. */
static void nap(worker *w)
{
	struct pollfd fds[2] = {{w->end->wakeup.fd, POLLIN, 0}, {-1, POLLIN, 0}};

	if (!w->end->ops->arm(w->end->plane, &fds[1].fd))
		return;
	if (poll(fds, 2, 20000) == 0)
		w->stalls++;
}

static void turn(worker *w, const bool *done)
{
	for (;;) {
		kvpi_wakeup_clear(&w->end->wakeup);
		if (w->end->ops->progress(w->end->plane, RIG_BUDGET))
			continue;
		if (*done || w->stalls > 0)
			return;
		nap(w);
	}
}

typedef struct signalled {
	kvpi_event_kind kind;
	bool got;
} signalled;

static void see_signal(rig_end *end, const kvpi_plane_event *event)
{
	signalled *s = end->hook_user;

	if (event->kind == s->kind)
		s->got = true;
}

/* Ping-pong: each end answers the other's data by its own. */
#define PLAY_BYTES 10000

static void play_post(worker *w, uint64_t seq)
{
	const kvpi_layout layout = rig_bytes(w->dst, 0, PLAY_BYTES);
	const kvpi_transfer transfer = rig_transfer(seq, 1, &layout);

	w->failures += w->end->ops->post_recv(w->end->conn, &transfer) != KVP_OK;
}

static void play_put(worker *w, uint64_t seq)
{
	const kvpi_layout layout = rig_bytes(w->src, 0, PLAY_BYTES);
	const kvpi_transfer transfer = rig_transfer(seq, 1, &layout);

	w->failures += w->end->ops->submit(w->end->conn, &transfer) != KVP_OK;
	if (w->notes)
		w->failures += w->end->ops->notify(w->end->conn, "x", 1) != KVP_OK;
}

static void *play(void *arg)
{
	worker *w = arg;
	signalled signal = {.kind = w->notes ? NOTIFIED : RECEIVED};
	int fd;

	w->end->hook_user = &signal;
	w->end->hook = see_signal;
	for (unsigned round = 0; round < w->rounds && w->stalls == 0; round++) {
		if (!w->first || round > 0) {
			turn(w, &signal.got);
			signal.got = false;
			/* Stands ready before the peer can have anything to answer. */
			play_post(w, round + !w->first);
		}
		play_put(w, round);
	}
	/* The last of this end's own goes out; that of the peer is waited for. */
	while (w->end->ops->progress(w->end->plane, RIG_BUDGET) || !w->end->ops->arm(w->end->plane, &fd))
		;
	if (w->first)
		turn(w, &signal.got);
	return NULL;
}

START_TEST(no_wake_up_is_lost)
{
	for (int notes = 0; notes < 2; notes++) {
		rig *r = rig_new_connected(_i, 0);
		worker w[2] = {{.end = &r->a, .first = true}, {.end = &r->b}};
		pthread_t threads[2];

		for (int i = 0; i < 2; i++) {
			w[i].rounds = 300;
			w[i].notes = notes != 0;
			w[i].src = rig_mem_new(KVP_MEMORY_HOST, PLAY_BYTES, 1);
			w[i].dst = rig_mem_new(KVP_MEMORY_HOST, PLAY_BYTES, 2);
			play_post(&w[i], 0);
		}
		for (int i = 0; i < 2; i++)
			ck_assert_int_eq(pthread_create(&threads[i], NULL, play, &w[i]), 0);
		for (int i = 0; i < 2; i++)
			pthread_join(threads[i], NULL);
		for (int i = 0; i < 2; i++) {
			ck_assert_uint_eq(w[i].stalls, 0);
			ck_assert_uint_eq(w[i].failures, 0);
			ck_assert_uint_eq(w[i].end->counts[notes ? NOTIFIED : RECEIVED], 300);
		}
		rig_free(r);
		for (int i = 0; i < 2; i++) {
			rig_mem_free(w[i].src);
			rig_mem_free(w[i].dst);
		}
	}
}
END_TEST

START_TEST(an_idle_plane_may_sleep)
{
	rig *r = rig_new(_i, 0);
	rig_mem *mem = rig_mem_new(KVP_MEMORY_HOST, 4096, 1);
	const kvpi_layout layout = rig_bytes(mem, 0, 100), target = rig_bytes(mem, 1000, 100);
	int fd = -2;

	rig_settle(r);
	ck_assert(r->ops->arm(r->a.plane, &fd));
	ck_assert_int_ge(fd, -1);
	rig_accept(r);
	rig_connect(r);
	rig_settle(r);
	/* A post alone gives nothing to do, a put does, as long as it has not gone. */
	rig_post(&r->a, 1, &target);
	ck_assert(r->ops->arm(r->a.plane, &fd));
	rig_put(&r->b, 1, &layout);
	ck_assert(!r->ops->arm(r->b.plane, &fd));
	RIG_UNTIL(r, rig_told(&r->a, RECEIVED, RIG_ID(1)));
	rig_settle(r);
	rig_free(r);
	rig_mem_free(mem);
}
END_TEST

/* ---- memory runs out ---- */

START_TEST(out_of_memory_changes_nothing)
{
	rig *r = rig_new_connected(_i, 0);
	rig_mem *mem = rig_mem_new(KVP_MEMORY_HOST, 4096, 1);
	const kvpi_layout layout = rig_bytes(mem, 0, 100), target = rig_bytes(mem, 1000, 100);
	const kvpi_transfer send = rig_transfer(1, 1, &layout), receive = rig_transfer(1, 1, &target);
	const kvpi_plane_params params = {.context = r->context, .listen = {.bind_host = "127.0.0.1"}};
	unsigned char other[KVPI_PLANE_TOKEN_BYTES] = {5};
	char address[KVPI_PLANE_ADDRESS_MAX];
	const kvpi_plane_ops *ops;
	kvpi_plane *plane = NULL;
	kvpi_plane_caps caps;
	kvpi_conn *conn = NULL;
	kvp_status status = KVP_E_NOMEM;
	size_t len = 0;
	bool noted;

	kvpi_fault_arm("alloc", 1, 0);
	KIT_STATUS(r->ops->post_recv(r->a.conn, &receive), KVP_E_NOMEM);
	KIT_STATUS(r->ops->submit(r->b.conn, &send), KVP_E_NOMEM);
	status = r->ops->notify(r->b.conn, "x", 1);
	noted = status == KVP_OK; /* a plane may do without memory */
	ck_assert(noted || status == KVP_E_NOMEM);
	KIT_STATUS(r->ops->accept(r->a.plane, other, &r->a, &conn), KVP_E_NOMEM);
	kvpi_fault_disarm_all();
	KIT_OK(r->ops->address(r->a.plane, address, &len));
	status = KVP_E_NOMEM;
	for (unsigned n = 1; status != KVP_OK; n++) {
		kvpi_fault_arm("alloc", n, 1);
		status = r->ops->connect(r->b.plane, address, len, other, &r->b, &conn);
		kvpi_fault_disarm_all();
		ck_assert(status == KVP_OK || status == KVP_E_NOMEM);
	}
	r->ops->hangup(conn);
	status = KVP_E_NOMEM;
	for (unsigned n = 1; status != KVP_OK; n++) {
		kvpi_fault_arm("alloc", n, 1);
		status = rig_open(r, &params, &ops, &plane, &caps);
		kvpi_fault_disarm_all();
		ck_assert(status == KVP_OK || status == KVP_E_NOMEM);
	}
	ops->close(plane);
	rig_settle(r);
	ck_assert_uint_eq(r->a.logged, 1 + (size_t)noted);
	rig_carry(r, &r->b, &r->a, 1, mem, &layout, mem, &target);
	rig_free(r);
	rig_mem_free(mem);
}
END_TEST

KIT_MAIN_WITH("conformance", rig_plane_count(), NULL, capabilities_and_names, a_wrong_token_is_turned_away,
    a_bad_address_is_refused, nothing_before_connected, a_newer_connection_takes_the_place, transfers_of_many_sizes,
    shapes_and_memories, many_outstanding_then_again, both_directions_at_once,
    unsupported_is_refused_and_changes_nothing, a_notify_comes_after_the_data_before_it, notifies_are_bounded,
    no_wake_up_is_lost, an_idle_plane_may_sleep, out_of_memory_changes_nothing)
