/* SPDX-License-Identifier: Apache-2.0
 *
 * How transfers and connections end before their time, asked of each plane of the registry (_i is its index): cancel,
 * hangup, loss, failing devices.  What must hold each time: nothing is told that is not so, and memory that was
 * given back is touched no more.
 */
#include "conformance/rig.h"
#include "kit/kit.h"

#include "base/fault.h"
#include "device/fake.h"
#include <stdlib.h>
#include <string.h>

#define SENT KVPI_PLANE_SENT
#define RECEIVED KVPI_PLANE_RECEIVED
#define LOST KVPI_PLANE_LOST

/* ---- cancel, hangup, loss ---- */

typedef struct broken {
	rig *r;
	rig_mem *src, *dst;
	kvpi_layout source, target;
	uint32_t ids[2][RIG_IDS];
} broken;

#define BROKEN_BYTES (128u << 10)

/* Three transfers under way, numbers 1 to 3, after `steps` rounds of a tiny budget. */
static void broken_init(broken *b, int index, int variant, int steps)
{
	static const struct {
		kvp_memory from, to;
		rig_shape source, target;
	} variants[] = {
	    {KVP_MEMORY_HOST, KVP_MEMORY_HOST, RIG_DENSE, RIG_DENSE},
	    {KVP_MEMORY_HOST, KVP_MEMORY_HOST, RIG_TINY, RIG_TINY},
	    {KVP_MEMORY_FAKE, KVP_MEMORY_HOST, RIG_BLOCKS, RIG_ROWS},
	    {KVP_MEMORY_HOST, KVP_MEMORY_FAKE, RIG_DENSE, RIG_BLOCKS},
	    {KVP_MEMORY_FAKE, KVP_MEMORY_FAKE, RIG_DENSE, RIG_DENSE},
	};

	kvpi_fake_set(&(kvpi_fake_options){.delay = 40, .seed = (uint64_t)steps});
	b->r = rig_new_connected(index, 65536);
	b->src = rig_mem_new(variants[variant].from, RIG_SPREAD * BROKEN_BYTES, 1);
	b->dst = rig_mem_new(variants[variant].to, 3 * RIG_SPREAD * BROKEN_BYTES, 2);
	rig_layout(b->src, variants[variant].source, BROKEN_BYTES, b->ids[0], &b->source);
	rig_layout(b->dst, variants[variant].target, BROKEN_BYTES, b->ids[1], &b->target);
	b->r->budget = 5000;
	for (uint64_t i = 1; i <= 3; i++) {
		kvpi_layout target = b->target;

		target.base += (i - 1) * RIG_SPREAD * BROKEN_BYTES;
		rig_post(&b->r->a, i, &target);
		rig_put(&b->r->b, i, &b->source);
	}
	for (int i = 0; i < steps; i++)
		rig_step(b->r);
}
#define VARIANTS 5

static void broken_fini(broken *b)
{
	rig_free(b->r);
	rig_mem_free(b->src);
	rig_mem_free(b->dst);
	kvpi_fake_set(NULL);
}

/* Nothing may be written to this memory any more: it gets a new content, which must stay. */
static void expect_quiet(broken *b, rig_mem *mem)
{
	rig_mem_fill(mem, 77);
	for (int i = 0; i < 50; i++)
		rig_step(b->r);
	rig_settle(b->r);
	ck_assert(rig_mem_right(mem));
}

static bool quiescent(rig *r, rig_end *end, uint64_t seq)
{
	const kvp_receipt receipt = r->ops->cancel(end->conn, RIG_ID(seq));

	ck_assert(receipt == KVP_RECEIPT_QUIESCENT || receipt == KVP_RECEIPT_QUARANTINED);
	return receipt == KVP_RECEIPT_QUIESCENT;
}

/* Cancels 1 to 3 at one end.  Returns how many of them were not told before. */
static void cancel_all(broken *b, rig_end *end, kvpi_event_kind kind)
{
	size_t told = end->counts[kind];

	for (uint64_t i = 1; i <= 3; i++)
		(void)quiescent(b->r, end, i);
	for (uint64_t i = 1; i <= 3; i++)
		RIG_UNTIL(b->r, quiescent(b->r, end, i));
	ck_assert_uint_eq(end->counts[kind], told);
}

/* After all that, new transfers go through, on a new connection if the old one was the price. */
static void expect_works(broken *b)
{
	rig *r = b->r;
	const kvpi_transfer receive = rig_transfer(1, 2, &b->target), send = rig_transfer(1, 2, &b->source);

	r->budget = RIG_BUDGET;
	rig_settle(r);
	if (r->b.counts[LOST] > 0) {
		ck_assert_uint_eq(r->b.counts[LOST], 1);
		ck_assert_uint_eq(r->a.counts[LOST], 1);
		ck_assert(r->a.caps.survives_reconnect);
		rig_hangup(&r->b);
		rig_connect(r);
	}
	rig_mem_fill(b->src, 5);
	rig_mem_fill(b->dst, 6);
	KIT_OK(r->ops->post_recv(r->a.conn, &receive));
	KIT_OK(r->ops->submit(r->b.conn, &send));
	RIG_UNTIL(r, rig_told(&r->a, RECEIVED, receive.id) && rig_told(&r->b, SENT, send.id));
	rig_mirror_copy(b->dst, &b->target, b->src, &b->source);
	ck_assert(rig_mem_right(b->dst));
}

static const int steps_of[] = {0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89};
#define STEPS (sizeof(steps_of) / sizeof(steps_of[0]))

START_TEST(cancel_a_put_at_each_step)
{
	for (int variant = 0; variant < VARIANTS; variant++) {
		for (size_t i = 0; i < STEPS; i++) {
			broken b;

			broken_init(&b, _i, variant, steps_of[i]);
			cancel_all(&b, &b.r->b, SENT);
			/* The receiver was not told anything it did not get whole. */
			rig_mem_fill(b.src, 88);
			expect_quiet(&b, b.src);
			ck_assert_uint_le(b.r->a.counts[RECEIVED], 3);
			if (b.r->a.counts[LOST] == 0)
				cancel_all(&b, &b.r->a, RECEIVED);
			expect_quiet(&b, b.dst);
			expect_works(&b);
			broken_fini(&b);
		}
	}
}
END_TEST

START_TEST(cancel_a_post_at_each_step)
{
	for (int variant = 0; variant < VARIANTS; variant++) {
		for (size_t i = 0; i < STEPS; i++) {
			broken b;

			broken_init(&b, _i, variant, steps_of[i]);
			cancel_all(&b, &b.r->a, RECEIVED);
			expect_quiet(&b, b.dst);
			/* The sender gets rid of its bytes all the same. */
			RIG_UNTIL(b.r, b.r->b.counts[SENT] == 3);
			expect_works(&b);
			broken_fini(&b);
		}
	}
}
END_TEST

/* Canceled, and then the connection goes before what was under way is out. */
START_TEST(cancel_and_hangup_at_each_step)
{
	for (int variant = 0; variant < VARIANTS; variant++) {
		for (size_t i = 0; i < 2 * STEPS; i++) {
			broken b;

			broken_init(&b, _i, variant, steps_of[i / 2]);
			for (uint64_t seq = 1; seq <= 3; seq++) {
				(void)quiescent(b.r, &b.r->b, seq);
				(void)quiescent(b.r, &b.r->a, seq);
			}
			rig_hangup(i % 2 == 0 ? &b.r->b : &b.r->a);
			rig_settle(b.r);
			expect_quiet(&b, b.src);
			expect_quiet(&b, b.dst);
			broken_fini(&b);
		}
	}
}
END_TEST

START_TEST(cancel_one_of_many)
{
	rig *r = rig_new_connected(_i, 0);
	rig_mem *src = rig_mem_new(KVP_MEMORY_HOST, 4096, 1), *dst = rig_mem_new(KVP_MEMORY_HOST, 8 * 4096, 2);
	const kvpi_layout source = rig_bytes(src, 0, 4096);

	for (uint64_t i = 0; i < 8; i++) {
		const kvpi_layout target = rig_bytes(dst, i * 4096, 4096);

		rig_post(&r->a, i, &target);
		rig_put(&r->b, i, &source);
		if (i != 3 && i != 5)
			rig_mirror_copy(dst, &target, src, &source);
	}
	ck_assert_int_eq(r->ops->cancel(r->b.conn, RIG_ID(3)), KVP_RECEIPT_QUIESCENT);
	ck_assert_int_eq(r->ops->cancel(r->a.conn, RIG_ID(5)), KVP_RECEIPT_QUIESCENT);
	ck_assert_int_eq(r->ops->cancel(r->a.conn, RIG_ID(1000)), KVP_RECEIPT_QUIESCENT);
	/* Another attempt is another transfer. */
	ck_assert_int_eq(r->ops->cancel(r->a.conn, (kvpi_transfer_id){6, 2}), KVP_RECEIPT_QUIESCENT);
	RIG_UNTIL(r, r->a.counts[RECEIVED] == 6 && r->b.counts[SENT] == 7);
	rig_settle(r);
	ck_assert(!rig_told(&r->b, SENT, RIG_ID(3)));
	ck_assert(rig_told(&r->b, SENT, RIG_ID(5)));
	ck_assert_uint_eq(r->a.counts[RECEIVED], 6);
	ck_assert_uint_eq(r->a.counts[LOST] + r->b.counts[LOST], 0);
	ck_assert(rig_mem_right(dst));
	rig_free(r);
	rig_mem_free(src);
	rig_mem_free(dst);
}
END_TEST

START_TEST(hangup_at_each_step)
{
	for (int variant = 0; variant < VARIANTS; variant++) {
		for (size_t i = 0; i < 2 * STEPS; i++) {
			const bool sender = i % 2 == 0;
			rig_end *gone, *left;
			size_t logged;
			broken b;

			broken_init(&b, _i, variant, steps_of[i / 2]);
			gone = sender ? &b.r->b : &b.r->a;
			left = sender ? &b.r->a : &b.r->b;
			rig_hangup(gone);
			logged = gone->logged;
			/* From now on this end touches nothing. */
			rig_mem_fill(sender ? b.src : b.dst, 66);
			RIG_UNTIL(b.r, left->counts[LOST] == 1);
			expect_quiet(&b, b.dst);
			ck_assert(rig_mem_right(b.src) || !sender);
			ck_assert_uint_eq(left->counts[LOST], 1);
			ck_assert_uint_eq(left->log[left->logged - 1].kind, LOST);
			ck_assert_uint_eq(gone->logged, logged);
			/* What was outstanding is gone: a cancel finds nothing, and a put is refused. */
			ck_assert(quiescent(b.r, left, 2));
			if (sender) {
				rig_connect(b.r);
				b.r->a.counts[LOST] = 0;
				expect_works(&b);
			} else {
				const kvpi_transfer transfer = rig_transfer(9, 1, &b.source);

				KIT_STATUS(b.r->ops->submit(b.r->b.conn, &transfer), KVP_E_PEER_LOST);
				KIT_STATUS(b.r->ops->post_recv(b.r->b.conn, &transfer), KVP_E_PEER_LOST);
				KIT_STATUS(b.r->ops->notify(b.r->b.conn, "x", 1), KVP_E_PEER_LOST);
			}
			broken_fini(&b);
		}
	}
}
END_TEST

static void hang_up_inside(rig_end *end, const kvpi_plane_event *event)
{
	(void)event;
	end->hook = NULL;
	rig_hangup(end);
}

START_TEST(hangup_from_inside_each_event)
{
	for (int variant = 0; variant < VARIANTS; variant++) {
		for (int side = 0; side < 2; side++) {
			broken b;

			broken_init(&b, _i, variant, 0);
			KIT_OK(b.r->ops->notify(b.r->b.conn, "x", 1));
			b.r->budget = RIG_BUDGET;
			if (side == 0)
				b.r->a.hook = hang_up_inside;
			else
				b.r->b.hook = hang_up_inside;
			RIG_UNTIL(b.r, b.r->a.counts[LOST] + b.r->b.counts[LOST] == 1);
			expect_quiet(&b, b.dst);
			broken_fini(&b);
		}
	}
	/* In CONNECTED, and in LOST. */
	for (int lost = 0; lost < 2; lost++) {
		rig *r = rig_new(_i, 0);
		char address[KVPI_PLANE_ADDRESS_MAX];
		size_t len = 0;

		rig_accept(r);
		if (lost)
			rig_connect(r);
		r->a.hook = hang_up_inside;
		if (lost) {
			rig_hangup(&r->b);
		} else {
			KIT_OK(r->ops->address(r->a.plane, address, &len));
			KIT_OK(r->ops->connect(r->b.plane, address, len, r->token, &r->b, &r->b.conn));
		}
		RIG_UNTIL(r, r->a.conn == NULL);
		rig_settle(r);
		ck_assert_uint_eq(r->b.counts[LOST], !lost);
		rig_free(r);
	}
}
END_TEST

START_TEST(close_with_everything_under_way)
{
	for (int variant = 0; variant < VARIANTS; variant++) {
		for (size_t i = 0; i < STEPS; i++) {
			broken b;

			broken_init(&b, _i, variant, steps_of[i]);
			b.r->ops->close(b.r->b.plane);
			b.r->b.plane = NULL;
			rig_mem_fill(b.src, 5);
			RIG_UNTIL(b.r, b.r->a.counts[LOST] == 1);
			expect_quiet(&b, b.dst);
			ck_assert(rig_mem_right(b.src));
			broken_fini(&b);
		}
	}
}
END_TEST

START_TEST(a_put_without_a_post_is_dropped)
{
	rig *r = rig_new_connected(_i, 0);
	rig_mem *mem = rig_mem_new(KVP_MEMORY_HOST, 1u << 20, 1);
	const kvpi_layout source = rig_bytes(mem, 0, 400000), target = rig_bytes(mem, 500000, 400000);

	rig_put(&r->b, 1, &source);
	RIG_UNTIL(r, rig_told(&r->b, SENT, RIG_ID(1)));
	rig_settle(r);
	ck_assert_uint_eq(r->a.counts[RECEIVED], 0);
	ck_assert(rig_mem_right(mem));
	rig_carry(r, &r->b, &r->a, 2, mem, &source, mem, &target);
	rig_free(r);
	rig_mem_free(mem);
}
END_TEST

START_TEST(a_put_of_another_length_ends_the_connection)
{
	static const uint64_t lengths[][2] = {{1000, 1001}, {1001, 1000}, {0, 1}, {1, 0}, {100000, 4096}};

	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		rig *r = rig_new_connected(_i, 0);
		rig_mem *src = rig_mem_new(KVP_MEMORY_HOST, 100000, 1), *dst = rig_mem_new(KVP_MEMORY_HOST, 100000, 2);
		const kvpi_layout source = rig_bytes(src, 0, lengths[i][0]), target = rig_bytes(dst, 0, lengths[i][1]);

		rig_post(&r->a, 1, &target);
		rig_put(&r->b, 1, &source);
		RIG_UNTIL(r, r->a.counts[LOST] == 1 && r->b.counts[LOST] == 1);
		ck_assert_int_eq(r->a.log[r->a.logged - 1].status, KVP_E_PROTOCOL);
		ck_assert_uint_eq(r->a.counts[RECEIVED], 0);
		ck_assert(rig_mem_right(dst));
		rig_free(r);
		rig_mem_free(src);
		rig_mem_free(dst);
	}
}
END_TEST

/* ---- devices ---- */

static bool only_left(void *count)
{
	kvpi_fake_counts counts;

	kvpi_fake_count(&counts);
	return counts.queued == *(const uint64_t *)count;
}

START_TEST(memory_is_not_touched_before_its_event)
{
	const kvpi_device_ops *dev = kvpi_device_find(KVP_MEMORY_FAKE);

	for (int side = 0; side < 2; side++) {
		rig *r;
		rig_mem *src, *dst;
		kvpi_layout source, target;
		kvpi_transfer send, receive;
		kvpi_wait_list *list;
		kvpi_event *event = NULL;
		uint64_t *word = NULL, value = 0, user_operations = 2;
		int fd;

		/* The user's stream waits; the library's own, in other queues, could run. */
		kvpi_fake_set(&(kvpi_fake_options){.queues = 3});
		r = rig_new_connected(_i, 65536);
		src = rig_mem_new(KVP_MEMORY_FAKE, 100000, 1);
		dst = rig_mem_new(KVP_MEMORY_FAKE, 100000, 2);
		source = rig_bytes(src, 0, 90000);
		target = rig_bytes(dst, 0, 90000);
		send = rig_transfer(1, 1, &source);
		receive = rig_transfer(1, 1, &target);
		KIT_OK(dev->alloc(0, 8, (void **)&word));
		KIT_OK(kvpi_fake_write(word, &value, 8));
		KIT_OK(dev->wait_list_new(0, 1, &list));
		KIT_OK(dev->wait_list_fill(list, &(kvpi_wait_entry){word, 1}, 1));
		KIT_OK(dev->wait_list_enqueue(list, NULL, KVPI_NEVER));
		KIT_OK(dev->record(0, NULL, &event));
		*(side == 0 ? &send.after : &receive.after) = event;
		KIT_OK(r->ops->post_recv(r->a.conn, &receive));
		KIT_OK(r->ops->submit(r->b.conn, &send));

		for (int i = 0; i < 100; i++) {
			rig_step(r);
			kit_wait_until(only_left, &user_operations, 10000);
		}
		ck_assert_uint_eq(r->a.counts[RECEIVED], 0);
		ck_assert(rig_mem_right(dst));
		/* Only asking shows when it comes: somebody has to stay awake. */
		ck_assert(!r->ops->arm(r->a.plane, &fd) || !r->ops->arm(r->b.plane, &fd));
		if (side == 0)
			rig_mem_fill(src, 33); /* the work that the event stands for */

		value = 1;
		KIT_OK(kvpi_fake_write(word, &value, 8));
		RIG_UNTIL(r, r->a.counts[RECEIVED] == 1 && r->b.counts[SENT] == 1);
		rig_mirror_copy(dst, &target, src, &source);
		ck_assert(rig_mem_right(dst));
		rig_free(r);
		dev->event_free(event);
		dev->wait_list_free(list);
		dev->free(0, word);
		rig_mem_free(src);
		rig_mem_free(dst);
		kvpi_fake_set(NULL);
	}
}
END_TEST

/* A connection that ends for another reason while copies are under way: LOST waits for them. */
static void take_back(rig_end *end, const kvpi_plane_event *event)
{
	rig_mem **mem = end->hook_user;

	if (event->kind != LOST)
		return;
	rig_mem_fill(mem[0], 44);
	rig_mem_fill(mem[1], 45);
}

START_TEST(memory_is_quiet_when_lost_is_told)
{
	for (unsigned steps = 0; steps < 60; steps++) {
		rig *r;
		rig_mem *mem[4];
		kvpi_layout layouts[4], shorter;

		kvpi_fake_set(&(kvpi_fake_options){.delay = 60, .seed = steps});
		r = rig_new_connected(_i, 65536);
		r->budget = 20000;
		for (int i = 0; i < 4; i++) {
			mem[i] = rig_mem_new(KVP_MEMORY_FAKE, 100000, (uint64_t)i);
			layouts[i] = rig_bytes(mem[i], 0, 90000);
		}
		/* Both ways on the device, and after some steps a host transfer that does not fit. */
		r->a.hook_user = &mem[0];
		r->b.hook_user = &mem[2];
		r->a.hook = r->b.hook = take_back;
		rig_post(&r->a, 1, &layouts[0]);
		rig_put(&r->b, 1, &layouts[2]);
		for (unsigned i = 0; i < steps; i++)
			rig_step(r);
		shorter = rig_bytes(mem[3], 0, 80000);
		rig_post(&r->b, 1, &shorter);
		rig_put(&r->a, 1, &layouts[1]);
		RIG_UNTIL(r, r->a.counts[LOST] == 1 && r->b.counts[LOST] == 1);
		rig_settle(r);
		for (int i = 0; i < 4; i++)
			ck_assert(rig_mem_right(mem[i]));
		rig_free(r);
		for (int i = 0; i < 4; i++)
			rig_mem_free(mem[i]);
		kvpi_fake_set(NULL);
	}
}
END_TEST

START_TEST(a_failing_device_ends_the_connection)
{
	const kvpi_device_ops *dev = kvpi_device_find(KVP_MEMORY_FAKE);

	/* 0: the event that the put follows; 1..: the n-th copy of the library's own. */
	for (unsigned n = 0; n < 6; n++) {
		rig *r = rig_new_connected(_i, 65536);
		rig_mem *src = rig_mem_new(KVP_MEMORY_FAKE, 1u << 20, 1);
		rig_mem *dst = rig_mem_new(KVP_MEMORY_FAKE, 1u << 20, 2);
		rig_mem *plain = rig_mem_new(KVP_MEMORY_HOST, 1u << 20, 3);
		const kvpi_layout source = rig_bytes(src, 0, 200000), target = rig_bytes(dst, 0, 200000);
		const kvpi_layout from = rig_bytes(plain, 0, 200000), to = rig_bytes(plain, 500000, 200000);
		kvpi_transfer send = rig_transfer(1, 1, &source);
		kvpi_event *event = NULL;

		r->budget = 30000;
		kvpi_fake_set(&(kvpi_fake_options){.fail_at = n == 0 ? 1 : n});
		if (n == 0) {
			KIT_OK(dev->write_word(0, NULL, (uint64_t *)(void *)(src->base + 900000), 1));
			KIT_OK(dev->record(0, NULL, &event));
			send.after = event;
		}
		rig_post(&r->a, 1, &target);
		KIT_OK(r->ops->submit(r->b.conn, &send));
		RIG_UNTIL(r, r->a.counts[LOST] == 1 && r->b.counts[LOST] == 1);
		ck_assert(r->a.log[r->a.logged - 1].status == KVP_E_DEVICE ||
		          r->b.log[r->b.logged - 1].status == KVP_E_DEVICE);
		ck_assert_uint_eq(r->a.counts[RECEIVED], 0);
		/* Host memory is still carried. */
		rig_hangup(&r->b);
		rig_connect(r);
		rig_carry(r, &r->b, &r->a, 7, plain, &from, plain, &to);
		rig_free(r);
		dev->event_free(event);
		rig_mem_free(src);
		rig_mem_free(dst);
		rig_mem_free(plain);
		kvpi_fake_set(NULL);
	}
}
END_TEST

/* In the middle of transfers between devices, where each chunk takes some. */
START_TEST(memory_runs_out_under_way)
{
	unsigned lost = 0;

	for (unsigned n = 1; n < 90; n++) {
		rig_mem *src = rig_mem_new(KVP_MEMORY_FAKE, 1u << 20, 1);
		rig_mem *dst = rig_mem_new(KVP_MEMORY_FAKE, 1u << 20, 2);
		const kvpi_layout source = rig_bytes(src, 0, 100000), target = rig_bytes(dst, 0, 100000);
		rig_mem *sources[] = {src, src}, *targets[] = {dst, dst};
		rig *r = rig_new_connected(_i, 65536);
		uint64_t none = 0;

		kvpi_fake_set(&(kvpi_fake_options){.delay = 2000, .seed = n});
		r->budget = 30000;
		r->a.hook_user = targets;
		r->b.hook_user = sources;
		r->a.hook = r->b.hook = take_back;
		rig_post(&r->a, 1, &target);
		rig_put(&r->b, 1, &source);
		kvpi_fault_arm("alloc", n, 1);
		RIG_UNTIL(r, (rig_told(&r->a, RECEIVED, RIG_ID(1)) && rig_told(&r->b, SENT, RIG_ID(1))) ||
		                 (r->a.counts[LOST] == 1 && r->b.counts[LOST] == 1));
		kvpi_fault_disarm_all();
		if (r->b.counts[LOST] == 1) {
			lost++;
			/* Quiet, also where the event itself could not be made. */
			kit_wait_until(only_left, &none, 10000);
			rig_settle(r);
			ck_assert(rig_mem_right(dst));
			ck_assert(rig_mem_right(src));
			r->a.hook = r->b.hook = NULL;
			rig_hangup(&r->b);
			rig_connect(r);
		}
		rig_carry(r, &r->b, &r->a, 2, src, &source, dst, &target);
		rig_free(r);
		rig_mem_free(src);
		rig_mem_free(dst);
	}
	kvpi_fake_set(NULL);
	ck_assert_uint_gt(lost, 5);
	ck_assert_uint_lt(lost, 89);
}
END_TEST

KIT_MAIN_WITH("conformance endings", rig_plane_count(), NULL, cancel_a_put_at_each_step, cancel_a_post_at_each_step,
    cancel_and_hangup_at_each_step, cancel_one_of_many, hangup_at_each_step, hangup_from_inside_each_event,
    close_with_everything_under_way,
    a_put_without_a_post_is_dropped, a_put_of_another_length_ends_the_connection,
    memory_is_not_touched_before_its_event, memory_is_quiet_when_lost_is_told, a_failing_device_ends_the_connection,
    memory_runs_out_under_way)
