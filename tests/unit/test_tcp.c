/* SPDX-License-Identifier: Apache-2.0
 *
 * The plane `tcp` against peers that are not kvpipe: what is on the wire, and what happens when it is wrong.
 * What every plane does is in tests/conformance.
 */
#include "unit/tcp_kit.h"

#include "base/clock.h"
#include "base/context.h"
#include "base/fault.h"
#include "device/fake.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/resource.h>

static rig *new_rig(void)
{
	return rig_new(rig_plane_find("tcp"), 0);
}

static rig *new_connected(void)
{
	rig *r = new_rig();

	rig_accept(r);
	rig_connect(r);
	return r;
}

/* ---- guests ---- */

START_TEST(garbage_is_turned_away)
{
	rig *r = new_rig();
	unsigned char junk[200];

	rig_accept(r);
	for (uint64_t seed = 1; seed <= 40; seed++) {
		const int fd = dial(r);

		kit_random_fill(junk, sizeof(junk), seed);
		say(fd, junk, 40 + seed);
		RIG_UNTIL(r, closed(fd));
		close(fd);
	}
	ck_assert_uint_eq(r->a.logged, 0);
	rig_connect(r);
	rig_free(r);
}
END_TEST

START_TEST(silent_guests_are_few_and_timed)
{
	rig *r = new_rig();
	int fds[20], timer = -1;

	rig_accept(r);
	for (int i = 0; i < 20; i++) {
		fds[i] = dial(r);
		rig_step(r);
	}
	rig_settle(r);
	/* Eight are in, the others wait in the listen queue; nobody is let in by that. */
	for (int i = 0; i < 20; i++)
		ck_assert(!closed(fds[i]));
	ck_assert_uint_eq(r->a.logged, 0);
	ck_assert(r->ops->arm(r->a.plane, &timer)); /* they are no reason to stay awake */

	/* Their time passes: one after the other makes room, and whoever knows the token comes in behind them all. */
	kvpi_fault_arm("tcp.greeting.late", 1, 20);
	rig_connect(r);
	for (int i = 0; i < 20; i++) {
		RIG_UNTIL(r, closed(fds[i]));
		close(fds[i]);
	}
	rig_free(r);
}
END_TEST

START_TEST(the_time_of_a_silent_guest_wakes_the_worker)
{
	rig *r = new_rig();
	const int fd = dial(r);
	struct pollfd poller = {.events = POLLIN};

	rig_settle(r);
	ck_assert(!closed(fd));
	/* The only test here that takes its time: the five seconds themselves. */
	while (!closed(fd)) {
		ck_assert(r->ops->arm(r->a.plane, &poller.fd));
		ck_assert_int_eq(poll(&poller, 1, 60000), 1);
		r->ops->progress(r->a.plane, RIG_BUDGET);
	}
	close(fd);
	rig_free(r);
}
END_TEST

START_TEST(no_descriptors_left)
{
	rig *r = new_rig();
	struct rlimit before, none;
	kvpi_tcp_greeting hello, answer, confirm;
	const int fd = dial(r);
	struct pollfd poller = {.events = POLLIN};

	rig_accept(r);
	kvpi_tcp_hello_make(r->token, 1, 0, false, NULL, &hello);
	say(fd, &hello, sizeof(hello));
	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
	none = before;
	none.rlim_cur = 3;
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
	for (int i = 0; i < 10; i++)
		rig_step(r);
	ck_assert_uint_eq(r->a.logged, 0);
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
	/* It does not spin meanwhile, and tries again by itself. */
	while (recv(fd, &answer, sizeof(answer), MSG_DONTWAIT) != (ssize_t)sizeof(answer)) {
		if (r->ops->arm(r->a.plane, &poller.fd))
			ck_assert_int_eq(poll(&poller, 1, 60000), 1);
		r->ops->progress(r->a.plane, RIG_BUDGET);
	}
	kvpi_tcp_confirm_make(r->token, &hello, &answer, &confirm);
	say(fd, &confirm, sizeof(confirm));
	RIG_UNTIL(r, r->a.counts[CONNECTED] == 1);
	close(fd);
	rig_free(r);
}
END_TEST

/* ---- frames ---- */

static void post(rig_end *end, uint64_t seq, const rig_mem *mem, uint64_t offset, uint64_t bytes)
{
	const kvpi_layout layout = rig_bytes(mem, offset, bytes);

	rig_post(end, seq, &layout);
}

static void put(rig_end *end, uint64_t seq, const rig_mem *mem, uint64_t offset, uint64_t bytes)
{
	const kvpi_layout layout = rig_bytes(mem, offset, bytes);

	rig_put(end, seq, &layout);
}

START_TEST(what_goes_out_is_as_written_down)
{
	static const unsigned char data[] = "KVPP\1\1\0\0\x08\7\6\5\4\3\2\1\1\0\0\0\0\0\0\0"
	                                    "\0\0\0\0\0\0\0\0\x2c\1\0\0\0\0\0\0";
	static const unsigned char note[] = "KVPP\2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
	                                    "\0\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0hi";
	rig *r = new_rig();
	rig_mem *mem = rig_mem_new(KVP_MEMORY_HOST, 300, 1);
	unsigned char got[40 + 300 + 42 + 40];
	int fd;

	rig_accept(r);
	fd = greeted(r);
	put(&r->a, 0x0102030405060708, mem, 0, 300);
	KIT_OK(r->ops->notify(r->a.conn, "hi", 2));
	put(&r->a, 1, mem, 0, 0);
	hear(r, fd, got, sizeof(got));
	ck_assert_mem_eq(got, data, 40);
	ck_assert_mem_eq(got + 40, mem->mirror, 300);
	ck_assert_mem_eq(got + 340, note, 42);
	ck_assert_uint_eq(got[382 + 5], KVPI_TCP_LAST);
	ck_assert_uint_eq(got[382 + 32], 0);
	close(fd);
	rig_free(r);
	rig_mem_free(mem);
}
END_TEST

START_TEST(a_frame_that_cannot_be_ends_the_connection)
{
	enum { D = KVPI_TCP_DATA, N = KVPI_TCP_NOTIFY, L = KVPI_TCP_LAST };
	static const struct {
		kvpi_tcp_frame frame;
		size_t spoil; /* byte of the header that is changed, 0: none */
		bool second;  /* after a good first half */
	} bad[] = {
	    {{.kind = D, .flags = L, .seq = 1, .attempt = 1, .len = 1000}, 1, false},
	    {{.kind = 0, .len = 0}, 0, false},
	    {{.kind = 3, .len = 0}, 0, false},
	    {{.kind = 255, .len = 0}, 0, false},
	    {{.kind = D, .flags = L | 2, .seq = 1, .attempt = 1, .len = 1000}, 0, false},
	    {{.kind = D, .flags = L, .seq = 1, .attempt = 1, .len = 1000}, 6, false},
	    {{.kind = D, .flags = L, .seq = 1, .attempt = 1, .len = 1000}, 7, false},
	    {{.kind = D, .flags = L, .seq = 1, .attempt = 1, .len = 1000}, 20, false},
	    {{.kind = D, .flags = L, .seq = 1, .attempt = 1, .len = 1000}, 23, false},
	    {{.kind = N, .len = KVPI_PLANE_NOTIFY_MAX + 1}, 0, false},
	    {{.kind = N, .len = UINT64_MAX}, 0, false},
	    {{.kind = N, .flags = L, .len = 1}, 0, false},
	    {{.kind = N, .seq = 1, .len = 1}, 0, false},
	    {{.kind = N, .attempt = 1, .len = 1}, 0, false},
	    {{.kind = N, .offset = 1, .len = 1}, 0, false},
	    /* longer than the destination, by one and by everything */
	    {{.kind = D, .flags = L, .seq = 1, .attempt = 1, .len = 1001}, 0, false},
	    {{.kind = D, .flags = L, .seq = 1, .attempt = 1, .len = UINT64_MAX}, 0, false},
	    {{.kind = D, .flags = 0, .seq = 1, .attempt = 1, .len = 1001}, 0, false},
	    /* it ends before the destination does, or not where it does */
	    {{.kind = D, .flags = L, .seq = 1, .attempt = 1, .len = 999}, 0, false},
	    {{.kind = D, .flags = L, .seq = 1, .attempt = 1, .len = 0}, 0, false},
	    {{.kind = D, .flags = 0, .seq = 1, .attempt = 1, .len = 1000}, 0, false},
	    /* nothing in the middle */
	    {{.kind = D, .flags = 0, .seq = 1, .attempt = 1, .len = 0}, 0, false},
	    {{.kind = D, .flags = 0, .seq = 1, .attempt = 1, .offset = 500, .len = 0}, 0, true},
	    /* a gap, an overlap, and offsets whose sum with the length wraps around */
	    {{.kind = D, .flags = L, .seq = 1, .attempt = 1, .offset = 1, .len = 999}, 0, false},
	    {{.kind = D, .flags = L, .seq = 1, .attempt = 1, .offset = 501, .len = 499}, 0, true},
	    {{.kind = D, .flags = L, .seq = 1, .attempt = 1, .offset = 499, .len = 501}, 0, true},
	    {{.kind = D, .flags = L, .seq = 1, .attempt = 1, .offset = 501, .len = 500}, 0, true},
	    {{.kind = D, .flags = L, .seq = 1, .attempt = 1, .offset = 0, .len = 500}, 0, true},
	    {{.kind = D, .flags = 0, .seq = 1, .attempt = 1, .offset = 400, .len = 100}, 0, true},
	    {{.kind = D, .flags = L, .seq = 1, .attempt = 1, .offset = 0, .len = 1000}, 0, true},
	    {{.kind = D, .flags = 0, .seq = 1, .attempt = 1, .offset = 500, .len = UINT64_MAX - 499}, 0, true},
	    {{.kind = D, .flags = L, .seq = 1, .attempt = 1, .offset = 500, .len = UINT64_MAX - 499}, 0, true},
	    {{.kind = D, .flags = L, .seq = 1, .attempt = 1, .offset = UINT64_MAX, .len = 1001}, 0, false},
	    {{.kind = D, .flags = L, .seq = 1, .attempt = 1, .offset = UINT64_MAX - 99, .len = 100}, 0, false},
	};
	char body[2000];

	kit_random_fill(body, sizeof(body), 1);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		rig *r = new_rig();
		rig_mem *mem = rig_mem_new(KVP_MEMORY_HOST, 3000, 2);
		unsigned char head[KVPI_TCP_HEAD_BYTES];
		int fd;

		rig_accept(r);
		fd = greeted(r);
		post(&r->a, 1, mem, 1000, 1000);
		if (bad[i].second) {
			say_frame(fd, (kvpi_tcp_frame){.kind = D, .seq = 1, .attempt = 1, .len = 500});
			say(fd, body, 500);
			memcpy(mem->mirror + 1000, body, 500);
		}
		kvpi_tcp_frame_write(head, &bad[i].frame, false);
		if (bad[i].spoil != 0)
			head[bad[i].spoil] ^= 1;
		say(fd, head, sizeof(head));
		say(fd, body, sizeof(body));
		RIG_UNTIL(r, r->a.counts[LOST] == 1);
		ck_assert_int_eq(r->a.log[r->a.logged - 1].status, KVP_E_PROTOCOL);
		ck_assert_uint_eq(r->a.counts[RECEIVED], 0);
		ck_assert_msg(rig_mem_right(mem), "case %zu", i);
		RIG_UNTIL(r, closed(fd));
		close(fd);
		rig_free(r);
		rig_mem_free(mem);
	}
}
END_TEST

START_TEST(frames_of_any_cut_arrive)
{
	static const kvp_memory kinds[] = {KVP_MEMORY_HOST, KVP_MEMORY_FAKE};
	static char body[30000];
	uint64_t seed = 7;

	for (int k = 0; k < 2; k++) {
		rig *r = new_rig();
		rig_mem *mem = rig_mem_new(kinds[k], 40000, 2);
		int fd;

		rig_accept(r);
		fd = greeted(r);
		for (uint64_t seq = 1; seq <= 20; seq++) {
			uint64_t at = 0;

			kit_random_fill(body, sizeof(body), seq);
			post(&r->a, seq, mem, 77, sizeof(body));
			memcpy(mem->mirror + 77, body, sizeof(body));
			while (at < sizeof(body)) {
				uint64_t len = 1 + kit_random(&seed) % 9000, said = 0;

				len = len < sizeof(body) - at ? len : sizeof(body) - at;
				say_frame(fd, (kvpi_tcp_frame){.kind = KVPI_TCP_DATA,
				                  .flags = at + len == sizeof(body) ? KVPI_TCP_LAST : 0,
				                  .seq = seq,
				                  .attempt = 1,
				                  .offset = at,
				                  .len = len});
				/* In dribs and drabs, with the plane looking in between. */
				while (said < len) {
					uint64_t n = 1 + kit_random(&seed) % 4000;

					n = n < len - said ? n : len - said;
					say(fd, body + at + said, n);
					said += n;
					rig_step(r);
				}
				at += len;
			}
			RIG_UNTIL(r, rig_told(&r->a, RECEIVED, RIG_ID(seq)));
			ck_assert(rig_mem_right(mem));
		}
		close(fd);
		rig_free(r);
		rig_mem_free(mem);
	}
}
END_TEST

START_TEST(unwanted_frames_are_thrown_away)
{
	static char body[100000];
	rig *r = new_rig();
	rig_mem *mem = rig_mem_new(KVP_MEMORY_HOST, 2000, 2);
	int fd;

	rig_accept(r);
	fd = greeted(r);
	post(&r->a, 5, mem, 100, 1000);
	kit_random_fill(body, sizeof(body), 1);
	/* Of no transfer here, of another attempt; whole, in parts, empty, and with offsets that mean nothing. */
	for (uint64_t i = 0; i < 60; i++) {
		const uint64_t len = i % 6 == 5 ? 0 : sizeof(body);

		say_frame(fd, (kvpi_tcp_frame){.kind = KVPI_TCP_DATA,
		                  .flags = i % 2,
		                  .seq = i % 3 == 0 ? 5 : i + 10,
		                  .attempt = i % 3 == 0 ? 2 : 1,
		                  .offset = i * i * 1234567,
		                  .len = len});
		say(fd, body, len);
		rig_settle(r);
	}
	say_frame(fd,
	    (kvpi_tcp_frame){.kind = KVPI_TCP_DATA, .flags = KVPI_TCP_LAST, .seq = 5, .attempt = 1, .len = 1000});
	say(fd, body, 1000);
	memcpy(mem->mirror + 100, body, 1000);
	RIG_UNTIL(r, rig_told(&r->a, RECEIVED, RIG_ID(5)));
	ck_assert(rig_mem_right(mem));
	ck_assert_uint_eq(r->a.counts[LOST], 0);
	close(fd);
	rig_free(r);
	rig_mem_free(mem);
}
END_TEST

START_TEST(half_a_transfer_is_none)
{
	rig *r = new_rig();
	rig_mem *mem = rig_mem_new(KVP_MEMORY_HOST, 2000, 2);
	char body[1000];
	int fd;

	rig_accept(r);
	for (int last = 0; last < 2; last++) {
		fd = greeted(r);
		post(&r->a, 5, mem, 100, 1000);
		kit_random_fill(body, sizeof(body), 1);
		say_frame(fd, (kvpi_tcp_frame){
		                  .kind = KVPI_TCP_DATA, .flags = KVPI_TCP_LAST, .seq = 5, .attempt = 1, .len = 1000});
		say(fd, body, 999);
		close(fd);
		RIG_UNTIL(r, r->a.counts[LOST] == 1u + (unsigned)last);
		ck_assert_uint_eq(r->a.counts[RECEIVED], 0);
		ck_assert_int_eq(r->a.log[r->a.logged - 1].status, KVP_E_PEER_LOST);
	}

	/* And all of one is one, whatever follows. */
	fd = greeted(r);
	post(&r->a, 5, mem, 100, 1000);
	say_frame(fd,
	    (kvpi_tcp_frame){.kind = KVPI_TCP_DATA, .flags = KVPI_TCP_LAST, .seq = 5, .attempt = 1, .len = 1000});
	say(fd, body, 1000);
	close(fd);
	RIG_UNTIL(r, r->a.counts[LOST] == 3);
	ck_assert(rig_told(&r->a, RECEIVED, RIG_ID(5)));
	memcpy(mem->mirror + 100, body, 1000);
	ck_assert(rig_mem_right(mem));
	rig_free(r);
	rig_mem_free(mem);
}
END_TEST

/* ---- faults ---- */

START_TEST(faults_at_each_pass)
{
	static const char *const points[] = {"tcp.read", "tcp.write"};

	for (int p = 0; p < 2; p++) {
		for (unsigned n = 1; n < 25; n++) {
			rig *r = new_rig();
			rig_mem *src = rig_mem_new(KVP_MEMORY_HOST, 300000, 1);
			rig_mem *dst = rig_mem_new(KVP_MEMORY_HOST, 300000, 2);
			char address[KVPI_PLANE_ADDRESS_MAX];
			size_t len = 0;

			rig_accept(r);
			KIT_OK(r->ops->address(r->a.plane, address, &len));
			kvpi_fault_arm(points[p], n, 1);
			KIT_OK(r->ops->connect(r->b.plane, address, len, r->token, &r->b, &r->b.conn));
			/* The transfer either arrives or is begun again, until it does. */
			for (uint32_t attempt = 1; !rig_told(&r->a, RECEIVED, (kvpi_transfer_id){1, attempt - 1});
			     attempt++) {
				kvpi_transfer send, receive;
				kvpi_layout source, target;

				ck_assert_uint_lt(attempt, 5);
				RIG_UNTIL(r, r->b.counts[LOST] + r->b.counts[CONNECTED] > 0);
				while (r->b.counts[CONNECTED] == 0 || r->b.counts[LOST] > 0) {
					RIG_UNTIL(r, r->b.counts[LOST] > 0 || r->b.counts[CONNECTED] > 0);
					if (r->b.counts[LOST] == 0)
						break;
					rig_hangup(&r->b);
					r->b.counts[LOST] = r->b.counts[CONNECTED] = 0;
					KIT_OK(r->ops->connect(
					    r->b.plane, address, len, r->token, &r->b, &r->b.conn));
				}
				rig_settle(r);
				kvpi_layout_of_bytes(src->base, 300000, KVP_MEMORY_HOST, 0, &source);
				kvpi_layout_of_bytes(dst->base, 300000, KVP_MEMORY_HOST, 0, &target);
				send = rig_transfer(1, attempt, &source);
				receive = rig_transfer(1, attempt, &target);
				if (r->ops->post_recv(r->a.conn, &receive) != KVP_OK ||
				    r->ops->submit(r->b.conn, &send) != KVP_OK)
					continue;
				RIG_UNTIL(r, rig_told(&r->a, RECEIVED, send.id) || r->b.counts[LOST] > 0);
				rig_settle(r);
			}
			memcpy(dst->mirror, src->mirror, 300000);
			ck_assert(rig_mem_right(dst));
			kvpi_fault_disarm_all();
			rig_free(r);
			rig_mem_free(src);
			rig_mem_free(dst);
		}
	}
}
END_TEST

START_TEST(faults_of_connecting)
{
	rig *r = new_rig();
	char address[KVPI_PLANE_ADDRESS_MAX];
	size_t len = 0;

	rig_accept(r);
	KIT_OK(r->ops->address(r->a.plane, address, &len));
	for (unsigned n = 1; n <= 2; n++) {
		kvpi_fault_arm(n == 1 ? "tcp.connect" : "tcp.accept", 1, 1);
		KIT_OK(r->ops->connect(r->b.plane, address, len, r->token, &r->b, &r->b.conn));
		RIG_UNTIL(r, r->b.counts[LOST] == n);
		rig_hangup(&r->b);
		rig_settle(r);
	}
	ck_assert_uint_eq(r->a.logged, 0);
	rig_connect(r);
	rig_free(r);
}
END_TEST

START_TEST(writes_of_few_bytes)
{
	rig *r = new_connected();
	rig_mem *src = rig_mem_new(KVP_MEMORY_HOST, 100000, 1), *dst = rig_mem_new(KVP_MEMORY_HOST, 100000, 2);
	uint32_t ids[RIG_IDS];
	kvpi_layout source, target;
	kvpi_transfer transfer;

	kvpi_fault_arm("tcp.write.short", 1, 0);
	rig_layout(src, RIG_TINY, 16384, ids, &source);
	rig_layout(dst, RIG_ROWS, 16384, ids, &target);
	for (uint64_t seq = 1; seq <= 3; seq++) {
		transfer = rig_transfer(seq, 1, &target);
		KIT_OK(r->ops->post_recv(r->a.conn, &transfer));
		transfer = rig_transfer(seq, 1, seq == 2 ? &source : &target);
		if (seq != 2)
			transfer.local.base = src->base + (target.base - dst->base);
		KIT_OK(r->ops->submit(r->b.conn, &transfer));
		KIT_OK(r->ops->notify(r->b.conn, "0123456789abcdef", 16));
		RIG_UNTIL(r, r->a.counts[KVPI_PLANE_NOTIFIED] == seq);
		ck_assert(rig_told(&r->a, RECEIVED, RIG_ID(seq)));
		rig_mirror_copy(dst, &target, src, &transfer.local);
		ck_assert(rig_mem_right(dst));
		ck_assert_mem_eq(r->a.log[r->a.logged - 1].data, "0123456789abcdef", 16);
	}
	rig_free(r);
	rig_mem_free(src);
	rig_mem_free(dst);
}
END_TEST

/* ---- bounce buffers ---- */

/* Three connections of one plane, and as many bounce buffers as two of them can hold. */
typedef struct crowd {
	rig *r;
	kvpi_conn *in[3], *out[3];
	rig_mem *src, *dst;
} crowd;

static void crowd_init(crowd *c)
{
	char address[KVPI_PLANE_ADDRESS_MAX];
	size_t len = 0;

	c->r = rig_new(rig_plane_find("tcp"), 16384);
	KIT_OK(c->r->ops->address(c->r->a.plane, address, &len));
	for (int i = 0; i < 3; i++) {
		unsigned char token[KVPI_PLANE_TOKEN_BYTES] = {(unsigned char)i, 1};

		KIT_OK(c->r->ops->accept(c->r->a.plane, token, &c->r->a, &c->in[i]));
		KIT_OK(c->r->ops->connect(c->r->b.plane, address, len, token, &c->r->b, &c->out[i]));
	}
	RIG_UNTIL(c->r, c->r->a.counts[CONNECTED] == 3 && c->r->b.counts[CONNECTED] == 3);
	c->src = rig_mem_new(KVP_MEMORY_FAKE, 24u << 20, 1);
	c->dst = rig_mem_new(KVP_MEMORY_FAKE, 24u << 20, 2);
}

static void crowd_fini(crowd *c)
{
	rig_free(c->r);
	rig_mem_free(c->src);
	rig_mem_free(c->dst);
}

START_TEST(who_waits_for_a_bounce_buffer_sleeps)
{
	crowd c;
	int fd;
	bool slept = false;

	crowd_init(&c);
	for (int i = 0; i < 3; i++) {
		c.r->a.conn = c.in[i];
		c.r->b.conn = c.out[i];
		post(&c.r->a, 1, c.dst, (uint64_t)i << 23, 8u << 20);
		put(&c.r->b, 1, c.src, (uint64_t)i << 23, 8u << 20);
	}
	memcpy(c.dst->mirror, c.src->mirror, c.dst->size);
	/* The receiver does not look: the sender fills the sockets, then its buffers, and then rests. */
	for (int64_t deadline = rig_patience(); !slept && kvpi_now(&kvpi_clock_real) < deadline;)
		slept = !c.r->ops->progress(c.r->b.plane, RIG_BUDGET) && c.r->ops->arm(c.r->b.plane, &fd);
	ck_assert(slept);
	RIG_UNTIL(c.r, c.r->a.counts[RECEIVED] == 3 && c.r->b.counts[SENT] == 3);
	ck_assert(rig_mem_right(c.dst));
	crowd_fini(&c);
}
END_TEST

START_TEST(a_stalled_peer_keeps_no_bounce_buffer)
{
	int fds[3];
	crowd c;

	crowd_init(&c);
	/* Three peers that stop in the middle of a chunk. */
	for (int i = 0; i < 3; i++) {
		const unsigned char token[KVPI_PLANE_TOKEN_BYTES] = {(unsigned char)(i + 10), 1};

		KIT_OK(c.r->ops->accept(c.r->a.plane, token, &c.r->a, &c.r->a.conn));
		fds[i] = greeted_with(c.r, token, false);
		post(&c.r->a, 1, c.dst, 0, 100000);
		say_frame(fds[i],
		    (kvpi_tcp_frame){
		        .kind = KVPI_TCP_DATA, .flags = KVPI_TCP_LAST, .seq = 1, .attempt = 1, .len = 100000});
		say(fds[i], token, sizeof(token));
	}
	rig_settle(c.r);
	c.r->a.conn = c.in[0];
	c.r->b.conn = c.out[0];
	post(&c.r->a, 2, c.dst, 1u << 20, 1u << 20);
	put(&c.r->b, 2, c.src, 0, 1u << 20);
	RIG_UNTIL(c.r, rig_told(&c.r->a, RECEIVED, RIG_ID(2)));
	for (int i = 0; i < 3; i++)
		close(fds[i]);
	crowd_fini(&c);
}
END_TEST

/* ---- opening ---- */

static void ignore(void *user, const kvpi_plane_event *event)
{
	(void)user;
	(void)event;
}

START_TEST(only_loopback_is_bound)
{
	const kvpi_plane_ops *ops = kvpi_plane_find("tcp", 3);
	static const char *const bad[] = {"0.0.0.0", "::", "192.0.2.1", "no.such.host.invalid"};
	kvpi_plane_params params = {.on_event = ignore};
	kvpi_plane_caps caps;
	kvpi_plane *plane = NULL;
	char address[KVPI_PLANE_ADDRESS_MAX];
	size_t len = 0;

	KIT_OK(kvpi_context_hold(NULL, &params.context));
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		params.listen.bind_host = bad[i];
		KIT_STATUS(ops->open(&params, &plane, &caps), KVP_E_INVALID);
	}
	params.listen.bind_host = "127.0.0.1";
	params.staging_bytes = 100;
	KIT_STATUS(ops->open(&params, &plane, &caps), KVP_E_INVALID);
	ck_assert_ptr_null(plane);
	params.staging_bytes = 0;
	KIT_OK(ops->open(&params, &plane, &caps));
	KIT_OK(ops->address(plane, address, &len));
	ck_assert_int_eq(strncmp(address, "127.0.0.1:", 10), 0);
	ops->close(plane);
	params.streams = 17;
	KIT_STATUS(ops->open(&params, &plane, &caps), KVP_E_INVALID);
	kvpi_context_release(params.context);
}
END_TEST

START_TEST(ipv6_works_where_it_is)
{
	const int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	const struct sockaddr_in6 at = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	const bool there = fd >= 0 && bind(fd, (const struct sockaddr *)&at, sizeof(at)) == 0;
	const kvpi_plane_ops *ops = kvpi_plane_find("tcp", 3);
	const unsigned char token[KVPI_PLANE_TOKEN_BYTES] = {1};
	kvpi_plane_params params = {.on_event = ignore, .listen = {.bind_host = "::1"}};
	kvpi_plane_caps caps;
	kvpi_plane *plane;
	kvpi_conn *conn;
	char address[KVPI_PLANE_ADDRESS_MAX];
	size_t len = 0;

	if (fd >= 0)
		close(fd);
	if (!there)
		KIT_SKIP("this machine has no IPv6 loopback");
	KIT_OK(kvpi_context_hold(NULL, &params.context));
	KIT_OK(ops->open(&params, &plane, &caps));
	KIT_OK(ops->address(plane, address, &len));
	ck_assert_int_eq(strncmp(address, "[::1]:", 6), 0);
	KIT_OK(ops->connect(plane, address, len, token, NULL, &conn));
	ops->progress(plane, 1000);
	ops->close(plane);
	kvpi_context_release(params.context);
}
END_TEST

/* ---- fork ---- */

static int pipe_fds[2];

static int wait_for_parent(void *unused)
{
	char byte;

	(void)unused;
	close(pipe_fds[1]);
	return read(pipe_fds[0], &byte, 1) == 0 ? 0 : 1;
}

START_TEST(a_child_does_not_keep_a_connection_up)
{
	rig *r = new_connected();
	pid_t child;

	ck_assert_int_eq(pipe2(pipe_fds, O_CLOEXEC), 0);
	child = kit_fork(wait_for_parent, NULL);
	close(pipe_fds[0]);
	rig_hangup(&r->b);
	RIG_UNTIL(r, r->a.counts[LOST] == 1);
	rig_connect(r);
	rig_free(r);
	close(pipe_fds[1]);
	ck_assert_int_eq(kit_wait_exit(child, 20000), 0);
}
END_TEST

KIT_MAIN("tcp", garbage_is_turned_away, silent_guests_are_few_and_timed,
    the_time_of_a_silent_guest_wakes_the_worker, no_descriptors_left, what_goes_out_is_as_written_down,
    a_frame_that_cannot_be_ends_the_connection, frames_of_any_cut_arrive, unwanted_frames_are_thrown_away,
    half_a_transfer_is_none, faults_at_each_pass, faults_of_connecting, writes_of_few_bytes,
    who_waits_for_a_bounce_buffer_sleeps, a_stalled_peer_keeps_no_bounce_buffer, only_loopback_is_bound,
    ipv6_works_where_it_is, a_child_does_not_keep_a_connection_up)
