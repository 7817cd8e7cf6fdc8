/* SPDX-License-Identifier: Apache-2.0
 *
 * The plane `tcp` with several streams and with checksums, against peers that are not kvpipe: what must wait for what
 * on another socket, and what is noticed.  That both work at all is in tests/conformance.
 */
#include "unit/tcp_kit.h"

#include "base/fault.h"

#define DATA KVPI_TCP_DATA
#define LAST KVPI_TCP_LAST

static rig *new_rig(int streams, bool checksum)
{
	const rig_settings settings = {.streams = streams, .checksum = checksum};

	return rig_new_of("tcp", settings, settings, 0);
}

static void greet_all(rig *r, int *fds, int count)
{
	unsigned char session[KVPI_TCP_NONCE_BYTES];

	for (int i = 0; i < count; i++) {
		fds[i] = dial(r);
		greet(r, fds[i], r->token, count, i, false, session);
	}
	RIG_UNTIL(r, r->a.counts[CONNECTED] > r->a.counts[LOST]);
}

static void close_all(const int *fds, int count)
{
	for (int i = 0; i < count; i++)
		close(fds[i]);
}

/* A notify behind two counts: frames before it on the streams 1 and 2. */
static void say_note(int fd, uint64_t one, uint64_t two, const char *text)
{
	const uint64_t counts[2] = {htole64(one), htole64(two)};

	say_frame(fd, (kvpi_tcp_frame){.kind = KVPI_TCP_NOTIFY, .len = sizeof(counts) + strlen(text)});
	say(fd, counts, sizeof(counts));
	say(fd, text, strlen(text));
}

START_TEST(a_notify_waits_for_the_other_streams)
{
	rig *r = new_rig(3, false);
	rig_mem *mem = rig_mem_new(KVP_MEMORY_HOST, 4000, 2);
	const kvpi_layout target = rig_bytes(mem, 100, 3000);
	char body[3000];
	int fds[3], fd;

	rig_accept(r);
	greet_all(r, fds, 3);
	kit_random_fill(body, sizeof(body), 1);
	rig_post(&r->a, 1, &target);
	say_note(fds[0], 1, 2, "after both");
	say_note(fds[0], 1, 2, "and then");
	rig_settle(r);
	ck_assert_uint_eq(r->a.counts[NOTIFIED], 0);
	ck_assert(r->ops->arm(r->a.plane, &fd)); /* waiting costs nothing */
	/* In an order of their own: the end, something nobody wants, the middle, the beginning. */
	say_frame(fds[2], (kvpi_tcp_frame){.kind = DATA, .flags = LAST, .seq = 1, .attempt = 1, .offset = 2500, .len = 500});
	say(fds[2], body + 2500, 500);
	say_frame(fds[2], (kvpi_tcp_frame){.kind = DATA, .seq = 9, .attempt = 1, .len = 10});
	say(fds[2], body, 10);
	rig_settle(r);
	ck_assert_uint_eq(r->a.counts[NOTIFIED], 0);
	say_frame(fds[1], (kvpi_tcp_frame){.kind = DATA, .seq = 1, .attempt = 1, .offset = 1000, .len = 1500});
	say(fds[1], body + 1000, 1499);
	rig_settle(r);
	ck_assert_uint_eq(r->a.counts[NOTIFIED], 0);
	say(fds[1], body + 2499, 1);
	RIG_UNTIL(r, r->a.counts[NOTIFIED] == 2);
	ck_assert_uint_eq(r->a.log[1].len, 10);
	ck_assert_mem_eq(r->a.log[1].data, "after both", 10);
	ck_assert_mem_eq(r->a.log[2].data, "and then", 8);
	ck_assert_uint_eq(r->a.counts[RECEIVED], 0);
	say_frame(fds[0], (kvpi_tcp_frame){.kind = DATA, .seq = 1, .attempt = 1, .offset = 0, .len = 1000});
	say(fds[0], body, 1000);
	RIG_UNTIL(r, r->a.counts[RECEIVED] == 1);
	memcpy(mem->mirror + 100, body, sizeof(body));
	ck_assert(rig_mem_right(mem));
	close_all(fds, 3);
	RIG_UNTIL(r, r->a.counts[LOST] == 1);
	rig_free(r);
	rig_mem_free(mem);
}
END_TEST

START_TEST(frames_that_do_not_tile_end_the_connection)
{
	static const struct {
		uint64_t offset, len;
		int flags;
	} bad[][3] = {
	    {{0, 500, 0}, {0, 500, 0}},                       /* twice */
	    {{0, 500, 0}, {400, 500, 0}},                     /* together as long as all of it, but */
	    {{500, 500, LAST}, {500, 500, LAST}},
	    {{0, 400, 0}, {600, 400, LAST}, {500, 200, 0}},   /* a gap and an overlap of one length */
	    {{0, 400, 0}, {600, 400, LAST}, {300, 200, 0}},
	    {{0, 400, 0}, {400, 500, 0}, {400, 100, 0}},
	    {{0, 1000, 0}},                                   /* the last, without saying it */
	    {{0, 500, LAST}},                                 /* not the last, saying it */
	    {{500, 501, LAST}},
	    {{1001, 0, LAST}},
	    {{500, 0, 0}},
	    {{UINT64_MAX, 2, LAST}},
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		rig *r = new_rig(2, false);
		rig_mem *mem = rig_mem_new(KVP_MEMORY_HOST, 3000, 2);
		const kvpi_layout target = rig_bytes(mem, 1000, 1000);
		char body[1000];
		int fds[2];

		rig_accept(r);
		greet_all(r, fds, 2);
		kit_random_fill(body, sizeof(body), 1);
		rig_post(&r->a, 1, &target);
		for (int k = 0; k < 3 && (k == 0 || bad[i][k].len > 0); k++) {
			say_frame(fds[k % 2], (kvpi_tcp_frame){.kind = DATA,
			                          .flags = (uint8_t)bad[i][k].flags,
			                          .seq = 1,
			                          .attempt = 1,
			                          .offset = bad[i][k].offset,
			                          .len = bad[i][k].len});
			say(fds[k % 2], body, bad[i][k].len < sizeof(body) ? bad[i][k].len : sizeof(body));
			for (int step = 0; step < 3; step++)
				rig_step(r);
		}
		RIG_UNTIL(r, r->a.counts[LOST] == 1);
		ck_assert_int_eq(r->a.log[1].status, KVP_E_PROTOCOL);
		ck_assert_uint_eq(r->a.counts[RECEIVED], 0);
		close_all(fds, 2);
		rig_free(r);
		rig_mem_free(mem);
	}
}
END_TEST

START_TEST(a_notify_belongs_on_the_first_stream)
{
	for (int i = 0; i < 2; i++) {
		rig *r = new_rig(2, false);
		int fds[2];

		rig_accept(r);
		greet_all(r, fds, 2);
		/* On the second, or too short for its count. */
		say_frame(fds[i], (kvpi_tcp_frame){.kind = KVPI_TCP_NOTIFY, .len = i == 1 ? 10 : 7});
		say(fds[i], "0123456789", 10);
		RIG_UNTIL(r, r->a.counts[LOST] == 1);
		ck_assert_int_eq(r->a.log[1].status, KVP_E_PROTOCOL);
		close_all(fds, 2);
		rig_free(r);
	}
}
END_TEST

/* What came before the peer closed counts, on whichever socket it came. */
START_TEST(all_that_came_before_the_end_is_taken)
{
	rig *r = new_rig(3, false);
	rig_mem *mem = rig_mem_new(KVP_MEMORY_HOST, 4u << 20, 2), *src = rig_mem_new(KVP_MEMORY_HOST, 4u << 20, 3);
	const kvpi_layout target = rig_bytes(mem, 100, 900000);
	int fds[3];

	rig_accept(r);
	greet_all(r, fds, 3);
	rig_post(&r->a, 1, &target);
	for (uint64_t i = 0; i < 3; i++) {
		say_frame(fds[i],
		    (kvpi_tcp_frame){
		        .kind = DATA, .flags = i == 2 ? LAST : 0, .seq = 1, .attempt = 1, .offset = i * 300000, .len = 300000});
		say(fds[i], src->mirror + i * 300000, 300000);
	}
	say_note(fds[0], 1, 1, "bye");
	close_all(fds, 3);
	RIG_UNTIL(r, r->a.counts[LOST] == 1);
	ck_assert_uint_eq(r->a.counts[RECEIVED], 1);
	ck_assert_uint_eq(r->a.counts[NOTIFIED], 1);
	memcpy(mem->mirror + 100, src->mirror, 900000);
	ck_assert(rig_mem_right(mem));
	rig_free(r);
	rig_mem_free(mem);
	rig_mem_free(src);
}
END_TEST

/* ---- checksums ---- */

START_TEST(what_is_sent_with_checksums_is_as_written_down)
{
	rig *r = new_rig(1, false);
	rig_mem *mem = rig_mem_new(KVP_MEMORY_HOST, 400, 1);
	const kvpi_layout source = rig_bytes(mem, 7, 301);
	unsigned char got[40 + 301 + 8], head[40];
	const int fd = (rig_accept(r), greeted_with(r, r->token, true)); /* this end alone asks for them */
	kvpi_digest digest = {0};
	uint64_t check;
	uint32_t head_check;

	rig_put(&r->a, 5, &source);
	hear(r, fd, got, sizeof(got));
	memcpy(head, got, 40);
	memset(head + 20, 0, 4);
	kvpi_digest_add(&digest, head, 40, 0);
	memcpy(&head_check, got + 20, 4);
	ck_assert_uint_eq(le32toh(head_check), kvpi_digest_end(&digest, 40) & 0xffffffff);
	digest.sum = 0;
	kvpi_digest_add(&digest, got, 341, 0);
	memcpy(&check, got + 341, 8);
	ck_assert_uint_eq(le64toh(check), kvpi_digest_end(&digest, 341));
	ck_assert_mem_eq(got + 40, mem->mirror + 7, 301);
	close(fd);
	rig_free(r);
	rig_mem_free(mem);
}
END_TEST

START_TEST(what_is_corrupted_is_noticed_and_put_again)
{
	static const rig_settings with[][2] = {
	    {{1, true}, {1, false}}, {{1, false}, {1, true}}, {{3, true}, {3, true}}};

	for (size_t i = 0; i < 3; i++) {
		/* The n-th read of the transfer: heads, bodies, digests. */
		for (unsigned n = 1; n <= 12; n++) {
			rig *r = rig_new_of("tcp", with[i][0], with[i][1], 65536);
			rig_mem *src = rig_mem_new(n % 2 ? KVP_MEMORY_HOST : KVP_MEMORY_FAKE, 3u << 20, 1);
			rig_mem *dst = rig_mem_new(n % 3 ? KVP_MEMORY_HOST : KVP_MEMORY_FAKE, 3u << 20, 2);
			const kvpi_layout source = rig_bytes(src, 3, 2500003), target = rig_bytes(dst, 5, 2500003);
			kvpi_transfer send = rig_transfer(1, 2, &source), receive = rig_transfer(1, 2, &target);

			rig_accept(r);
			rig_connect(r);
			rig_post(&r->a, 1, &target);
			rig_put(&r->b, 1, &source);
			kvpi_fault_arm("tcp.corrupt", n, 1);
			RIG_UNTIL(r, r->a.counts[LOST] == 1 || r->a.counts[RECEIVED] == 1);
			kvpi_fault_disarm_all();
			if (r->a.counts[RECEIVED] == 0) {
				ck_assert_int_eq(r->a.log[1].status, KVP_E_PROTOCOL);
				RIG_UNTIL(r, r->b.counts[LOST] == 1);
				rig_hangup(&r->b);
				rig_connect(r);
				KIT_OK(r->ops->post_recv(r->a.conn, &receive));
				KIT_OK(r->ops->submit(r->b.conn, &send));
				RIG_UNTIL(r, r->a.counts[RECEIVED] == 1);
			} else {
				ck_assert_uint_gt(n, 4); /* so many reads it takes at least */
			}
			rig_mirror_copy(dst, &target, src, &source);
			ck_assert(rig_mem_right(dst));
			rig_free(r);
			rig_mem_free(src);
			rig_mem_free(dst);
		}
	}
}
END_TEST

START_TEST(a_corrupted_notify_is_noticed)
{
	rig *r = new_rig(1, true);

	rig_accept(r);
	rig_connect(r);
	KIT_OK(r->ops->notify(r->b.conn, "hello", 5));
	RIG_UNTIL(r, r->a.counts[NOTIFIED] == 1);
	kvpi_fault_arm("tcp.corrupt", 1, 1);
	KIT_OK(r->ops->notify(r->b.conn, "hello", 5));
	RIG_UNTIL(r, r->a.counts[LOST] == 1);
	ck_assert_uint_eq(r->a.counts[NOTIFIED], 1);
	rig_free(r);
}
END_TEST

/* ---- small things at once ---- */

START_TEST(a_notify_leaves_at_once)
{
	rig *r = new_rig(1, false);
	unsigned char got[42];
	int fd;

	rig_accept(r);
	fd = greeted(r);
	rig_settle(r);
	KIT_OK(r->ops->notify(r->a.conn, "hi", 2));
	/* No progress in between. */
	ck_assert_int_eq(recv(fd, got, sizeof(got), MSG_WAITALL), 42);
	ck_assert_mem_eq(got + 40, "hi", 2);
	close(fd);
	rig_free(r);
}
END_TEST

KIT_MAIN("tcp streams", a_notify_waits_for_the_other_streams, frames_that_do_not_tile_end_the_connection,
    a_notify_belongs_on_the_first_stream, all_that_came_before_the_end_is_taken,
    what_is_sent_with_checksums_is_as_written_down, what_is_corrupted_is_noticed_and_put_again,
    a_corrupted_notify_is_noticed, a_notify_leaves_at_once)
