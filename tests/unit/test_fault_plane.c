/* SPDX-License-Identifier: Apache-2.0
 *
 * The wrappers fault and trace, each setting by itself, around the plane self, on a manual clock.  That they keep to
 * plane.h otherwise is asked by the conformance suite.
 */
#include "kit/kit.h"

#include "base/buf.h"
#include "base/context.h"
#include "base/fault.h"
#include "conformance/rig.h"
#include "plane/spec.h"
#include <kvpipe/log.h>

#include <stdio.h>
#include <string.h>

#define BYTES 1000

typedef struct side {
	const kvpi_plane_ops *ops;
	kvpi_plane *plane;
	kvpi_plane_caps caps;
	kvpi_conn *conn;
	unsigned counts[KVPI_PLANE_NOTIFIED + 1];
	uint64_t highest;
	char note[64];
	unsigned overtaken; /* RECEIVED of a transfer after one with a higher number */
	char text[128];     /* of LOST */
} side;

/* a accepts, b connects; both on `clock` and wrapped alike. */
static kvpi_clock test_clock;
static kvp_context *context;
static side a, b;
static unsigned char token[KVPI_PLANE_TOKEN_BYTES];
static char source[BYTES], target[BYTES];

static void on_event(void *user, const kvpi_plane_event *event)
{
	side *s = user;

	s->counts[event->kind]++;
	if (event->kind == KVPI_PLANE_RECEIVED) {
		s->overtaken += event->id.seq < s->highest;
		s->highest = event->id.seq > s->highest ? event->id.seq : s->highest;
	}
	if (event->kind == KVPI_PLANE_NOTIFIED)
		snprintf(s->note, sizeof(s->note), "%.*s", (int)event->len, (const char *)event->data);
	if (event->kind == KVPI_PLANE_LOST)
		snprintf(s->text, sizeof(s->text), "%s", event->text);
}

static void no_wake(void *user)
{
	(void)user;
}

static void open_side(side *s, const char *list)
{
	const kvpi_plane_params params = {
	    .context = context, .clock = &test_clock, .on_event = on_event, .wake = no_wake, .user = s};
	kvpi_plane_spec specs[KVPI_PLANE_SPECS_MAX];
	size_t count;

	memset(s, 0, sizeof(*s));
	KIT_OK(kvpi_plane_specs_parse(list, specs, &count));
	KIT_OK(kvpi_plane_open(&specs[0], &params, &s->ops, &s->plane, &s->caps));
}

static void step(void)
{
	b.ops->progress(b.plane, 1 << 20);
	a.ops->progress(a.plane, 1 << 20);
}

/* So many milliseconds, one at a time. */
static void pass(int ms)
{
	for (int i = 0; i < ms; i++) {
		kvpi_clock_manual_advance(&test_clock, KVPI_NS_PER_MS);
		step();
	}
}

static void connect_b(void)
{
	char address[KVPI_PLANE_ADDRESS_MAX];
	size_t len = 0;

	KIT_OK(a.ops->address(a.plane, address, &len));
	KIT_OK(b.ops->connect(b.plane, address, len, token, &b, &b.conn));
}

static void begin(const char *list_a, const char *list_b)
{
	kvpi_clock_manual_init(&test_clock, KVPI_NS_PER_S);
	KIT_OK(kvpi_context_hold(NULL, &context));
	kit_random_fill(token, sizeof(token), 1);
	kit_random_fill(source, BYTES, 2);
	kit_random_fill(target, BYTES, 3);
	open_side(&a, list_a);
	open_side(&b, list_b);
	KIT_OK(a.ops->accept(a.plane, token, &a, &a.conn));
	connect_b();
}

static void finish(void)
{
	b.ops->close(b.plane);
	a.ops->close(a.plane);
	kvpi_context_release(context);
}

static kvpi_transfer transfer(uint64_t seq, char *memory)
{
	kvpi_layout layout;

	kvpi_layout_of_bytes(memory, BYTES, KVP_MEMORY_HOST, 0, &layout);
	return rig_transfer(seq, 1, &layout);
}

static kvp_status post(uint64_t seq)
{
	const kvpi_transfer t = transfer(seq, target);

	return a.ops->post_recv(a.conn, &t);
}

static kvp_status put(uint64_t seq)
{
	const kvpi_transfer t = transfer(seq, source);

	return b.ops->submit(b.conn, &t);
}

static void up(void)
{
	for (int i = 0; i < 5000 && a.counts[KVPI_PLANE_CONNECTED] + b.counts[KVPI_PLANE_CONNECTED] < 2; i++)
		pass(1);
	ck_assert_uint_eq(a.counts[KVPI_PLANE_CONNECTED], 1);
	ck_assert_uint_eq(b.counts[KVPI_PLANE_CONNECTED], 1);
}

/* Nothing set: nothing happens, with either end wrapped or both. */
START_TEST(either_end_may_wrap_alone)
{
	static const char *const lists[][2] = {
	    {"self", "fault(self)"}, {"fault(self)", "self"}, {"trace(fault(self))", "fault(trace(self))"}};

	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
		begin(lists[i][0], lists[i][1]);
		ck_assert_str_eq(a.ops->name, "self");
		ck_assert_str_eq(b.ops->name, "self");
		up();
		KIT_OK(post(1));
		KIT_OK(put(1));
		KIT_OK(b.ops->notify(b.conn, "hello", 5));
		step();
		step();
		ck_assert_uint_eq(b.counts[KVPI_PLANE_SENT], 1);
		ck_assert_uint_eq(a.counts[KVPI_PLANE_RECEIVED], 1);
		ck_assert_str_eq(a.note, "hello");
		ck_assert_mem_eq(target, source, BYTES);
		finish();
	}
}
END_TEST

START_TEST(delay_holds_back_and_ends)
{
	unsigned at_once = 0;
	int fd;

	begin("self", "fault(self; seed=1; delay=50ms)");
	up();
	for (uint64_t i = 1; i <= 20; i++) {
		KIT_OK(post(i));
		KIT_OK(put(i));
		step();
		at_once += a.counts[KVPI_PLANE_RECEIVED] == i;
		ck_assert(!b.ops->arm(b.plane, &fd)); /* something waits for its time */
		pass(101);                            /* the put, and then its event */
		ck_assert_uint_eq(b.counts[KVPI_PLANE_SENT], i);
		ck_assert_uint_eq(a.counts[KVPI_PLANE_RECEIVED], i);
		ck_assert(b.ops->arm(b.plane, &fd));
	}
	ck_assert_uint_le(at_once, 3);
	finish();
}
END_TEST

/* What is held back here has not been seen by the inner plane, and a cancel ends it all the same. */
START_TEST(cancel_and_hangup_end_what_is_held_back)
{
	begin("self", "fault(self; seed=1; delay=3600s)");
	for (int i = 0; i < 8000 && b.counts[KVPI_PLANE_CONNECTED] == 0; i++) {
		kvpi_clock_manual_advance(&test_clock, KVPI_NS_PER_S);
		step();
	}
	ck_assert_uint_eq(b.counts[KVPI_PLANE_CONNECTED], 1);
	KIT_OK(post(1));
	KIT_OK(put(1));
	KIT_OK(put(2));
	ck_assert_int_eq(b.ops->cancel(b.conn, (kvpi_transfer_id){1, 1}), KVP_RECEIPT_QUIESCENT);
	b.ops->hangup(b.conn);
	kvpi_clock_manual_advance(&test_clock, 8000 * KVPI_NS_PER_S);
	pass(5);
	ck_assert_uint_eq(a.counts[KVPI_PLANE_RECEIVED], 0);
	ck_assert_uint_eq(b.counts[KVPI_PLANE_SENT], 0);
	ck_assert_uint_eq(b.counts[KVPI_PLANE_LOST], 0);
	ck_assert_uint_eq(kit_fill_differs(target, BYTES, 3), BYTES);
	finish();
}
END_TEST

START_TEST(reorder_lets_transfers_overtake_but_never_a_notify)
{
	begin("fault(self; seed=4; reorder=300)", "self");
	up();
	for (uint64_t i = 1; i <= 40; i++) {
		KIT_OK(post(i));
		KIT_OK(put(i));
	}
	KIT_OK(b.ops->notify(b.conn, "behind", 6));
	for (int i = 0; i < 100 && a.counts[KVPI_PLANE_NOTIFIED] == 0; i++)
		pass(1);
	ck_assert_uint_eq(a.counts[KVPI_PLANE_NOTIFIED], 1);
	ck_assert_uint_eq(a.counts[KVPI_PLANE_RECEIVED], 40);
	ck_assert_uint_gt(a.overtaken, 5);
	finish();
}
END_TEST

START_TEST(again_refuses_and_changes_nothing)
{
	unsigned refused[3] = {0};

	begin("fault(self; seed=2; again=500)", "fault(self; seed=3; again=500)");
	up();
	for (uint64_t i = 1; i <= 50; i++) {
		kvp_status status;

		while ((status = post(i)) == KVP_E_AGAIN)
			refused[0]++;
		KIT_OK(status);
		while ((status = put(i)) == KVP_E_AGAIN)
			refused[1]++;
		KIT_OK(status);
		while ((status = b.ops->notify(b.conn, "x", 1)) == KVP_E_AGAIN)
			refused[2]++;
		KIT_OK(status);
		pass(2);
		ck_assert_uint_eq(a.counts[KVPI_PLANE_RECEIVED], i);
		ck_assert_uint_eq(a.counts[KVPI_PLANE_NOTIFIED], i);
	}
	for (int i = 0; i < 3; i++)
		ck_assert_uint_gt(refused[i], 10);
	finish();
}
END_TEST

/* At the sender, then at the receiver: there by its own puts, as in a pipe that goes both ways. */
START_TEST(loss_breaks_the_connection_and_it_can_be_made_anew)
{
	for (int accepting = 0; accepting < 2; accepting++) {
		side *breaks = accepting ? &a : &b;
		const kvpi_transfer t = transfer(1, source);

		begin(accepting ? "fault(self; loss=1000)" : "self", accepting ? "self" : "fault(self; loss=1000)");
		up();
		KIT_OK(breaks->ops->submit(breaks->conn, &t));
		pass(3);
		ck_assert_uint_eq(a.counts[KVPI_PLANE_LOST], 1);
		ck_assert_uint_eq(b.counts[KVPI_PLANE_LOST], 1);
		ck_assert_ptr_nonnull(strstr(breaks->text, "fault"));
		KIT_STATUS(breaks->ops->submit(breaks->conn, &t), KVP_E_PEER_LOST);
		b.ops->hangup(b.conn);
		connect_b();
		pass(3);
		ck_assert_uint_eq(a.counts[KVPI_PLANE_CONNECTED], 2);
		ck_assert_uint_eq(b.counts[KVPI_PLANE_CONNECTED], 2);
		finish();
	}
}
END_TEST

START_TEST(refuse_makes_connects_come_to_nothing)
{
	begin("self", "fault(self; refuse=1000)");
	ck_assert_uint_eq(b.counts[KVPI_PLANE_LOST], 0); /* told only from inside progress */
	pass(2);
	ck_assert_uint_eq(b.counts[KVPI_PLANE_LOST], 1);
	ck_assert_uint_eq(b.counts[KVPI_PLANE_CONNECTED] + a.counts[KVPI_PLANE_CONNECTED], 0);
	finish();
}
END_TEST

START_TEST(freeze_stops_everything_for_a_while)
{
	int fd;

	begin("self", "fault(self; freeze=1000; freeze_time=20ms)");
	KIT_OK(post(1));
	pass(10);
	ck_assert_uint_eq(b.counts[KVPI_PLANE_CONNECTED], 0);
	ck_assert(!b.ops->arm(b.plane, &fd));
	finish();

	begin("self", "fault(self)");
	up();
	KIT_OK(post(1));
	KIT_OK(put(1));
	kvpi_fault_arm("fault.freeze", 1, 0);
	pass(20);
	ck_assert_uint_eq(a.counts[KVPI_PLANE_RECEIVED], 0);
	kvpi_fault_disarm_all();
	pass(2);
	ck_assert_uint_eq(a.counts[KVPI_PLANE_RECEIVED], 1);
	finish();
}
END_TEST

START_TEST(notifies_are_dropped_and_doubled)
{
	begin("self", "fault(self; seed=9; drop=300)");
	up();
	for (int i = 0; i < 100; i++) {
		KIT_OK(b.ops->notify(b.conn, "x", 1));
		pass(1);
	}
	ck_assert_uint_gt(a.counts[KVPI_PLANE_NOTIFIED], 50);
	ck_assert_uint_lt(a.counts[KVPI_PLANE_NOTIFIED], 90);
	finish();

	begin("self", "fault(self; seed=9; duplicate=300)");
	up();
	for (int i = 0; i < 100; i++) {
		KIT_OK(b.ops->notify(b.conn, "x", 1));
		pass(1);
	}
	ck_assert_uint_gt(a.counts[KVPI_PLANE_NOTIFIED], 110);
	ck_assert_uint_lt(a.counts[KVPI_PLANE_NOTIFIED], 150);
	finish();
}
END_TEST

static unsigned bits_different(const char *x, const char *y, size_t len)
{
	unsigned bits = 0;

	for (size_t i = 0; i < len; i++)
		bits += (unsigned)__builtin_popcount((unsigned char)(x[i] ^ y[i]));
	return bits;
}

START_TEST(corrupt_flips_one_bit)
{
	begin("fault(self; seed=5; corrupt=1000)", "fault(self; seed=6; corrupt=1000)");
	up();
	KIT_OK(post(1));
	KIT_OK(put(1));
	KIT_OK(b.ops->notify(b.conn, "12345678", 8));
	pass(3);
	ck_assert_uint_eq(a.counts[KVPI_PLANE_RECEIVED], 1);
	ck_assert_uint_eq(bits_different(target, source, BYTES), 1);
	ck_assert_uint_eq(bits_different(a.note, "12345678", 8), 1);
	finish();
}
END_TEST

/* The same seed does the same. */
START_TEST(a_seed_can_be_repeated)
{
	unsigned received[3][30];

	for (int run = 0; run < 3; run++) {
		begin("self", run == 2 ? "fault(self; seed=8; delay=40ms; reorder=200)"
		                       : "fault(self; seed=7; delay=40ms; reorder=200)");
		up();
		for (uint64_t i = 1; i <= 30; i++) {
			KIT_OK(post(i));
			KIT_OK(put(i));
			pass(7);
			received[run][i - 1] = a.counts[KVPI_PLANE_RECEIVED];
		}
		finish();
	}
	ck_assert_mem_eq(received[0], received[1], sizeof(received[0]));
	ck_assert_mem_ne(received[0], received[2], sizeof(received[0]));
}
END_TEST

static char lines[4096];

static void on_log(void *user, kvp_log_level level, const char *component, const char *line)
{
	(void)user;
	if (level == KVP_LOG_DEBUG && strcmp(component, "plane") == 0)
		snprintf(lines + strlen(lines), sizeof(lines) - strlen(lines), "%s\n", line);
}

static void carry_traced(void)
{
	begin("self", "trace(self)");
	up();
	KIT_OK(post(7));
	KIT_OK(put(7));
	KIT_OK(b.ops->notify(b.conn, "hello", 5));
	(void)b.ops->cancel(b.conn, (kvpi_transfer_id){9, 2});
	pass(2);
	b.ops->hangup(b.conn);
}

START_TEST(trace_tells_everything_and_counts)
{
	static const char *const told[] = {"self 1 connect: KVP_OK at 0.000000", "self 1 connected at 0.00",
	                                   "self 1 submit 7.1 put 1000 bytes: KVP_OK at ",
	                                   "self 1 notify 5 bytes: KVP_OK at ", "self 1 cancel 9.2: quiescent at ",
	                                   "self 1 sent 7.1 at ", "self 1 hangup at "};
	kvpi_buf text = {0};

	carry_traced();
	finish();
	ck_assert_str_eq(lines, "");
	kvp_log_set((kvp_log_callback){.call = on_log}, KVP_LOG_DEBUG);
	carry_traced();
	for (size_t i = 0; i < sizeof(told) / sizeof(told[0]); i++)
		ck_assert_msg(strstr(lines, told[i]) != NULL, "\"%s\" is not among\n%s", told[i], lines);
	kvpi_metrics_text(kvpi_context_metrics(context), &text);
	ck_assert_ptr_nonnull(strstr(text.data, "kvpipe_plane_submits_total{plane=\"self\"} 1\n"));
	ck_assert_ptr_nonnull(strstr(text.data, "kvpipe_plane_submit_bytes_total{plane=\"self\"} 1000\n"));
	ck_assert_ptr_nonnull(strstr(text.data, "kvpipe_plane_sent_total{plane=\"self\"} 1\n"));
	kvpi_buf_fini(&text);
	finish();
}
END_TEST

KIT_MAIN("fault plane", either_end_may_wrap_alone, delay_holds_back_and_ends, cancel_and_hangup_end_what_is_held_back,
         reorder_lets_transfers_overtake_but_never_a_notify, again_refuses_and_changes_nothing,
         loss_breaks_the_connection_and_it_can_be_made_anew, refuse_makes_connects_come_to_nothing,
         freeze_stops_everything_for_a_while, notifies_are_dropped_and_doubled, corrupt_flips_one_bit,
         a_seed_can_be_repeated, trace_tells_everything_and_counts)
