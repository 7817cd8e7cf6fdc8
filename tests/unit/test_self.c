/* SPDX-License-Identifier: Apache-2.0
 *
 * The plane `self` with a thread at each end, which the conformance suite, driven by hand, does not have.
 */
#include "kit/kit.h"

#include "base/clock.h"
#include "base/context.h"
#include "base/wakeup.h"
#include "device/fake.h"
#include "plane/plane.h"
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define LINKS 4         /* pairs of connections between the two threads */
#define BYTES 300000
#define TRANSFERS 60    /* per link, whatever becomes of them */
#define ENDLESS_S 100

static const kvpi_plane_ops *ops;

static void ignore_event(void *user, const kvpi_plane_event *event)
{
	(void)user;
	(void)event;
}

static void ignore_wake(void *user)
{
	(void)user;
}

static kvpi_plane *open_in(kvp_context *context)
{
	const kvpi_plane_params params = {.context = context, .on_event = ignore_event, .wake = ignore_wake};
	kvpi_plane *plane = NULL;
	kvpi_plane_caps caps;

	KIT_OK(ops->open(&params, &plane, &caps));
	return plane;
}

START_TEST(endpoints_meet_within_one_context)
{
	const unsigned char token[KVPI_PLANE_TOKEN_BYTES] = {1};
	unsigned char address[KVPI_PLANE_ADDRESS_MAX], same[KVPI_PLANE_ADDRESS_MAX];
	kvp_context *one = NULL, *two = NULL;
	kvpi_plane *here, *there, *beside;
	kvpi_conn *conn = NULL;
	size_t len = 0;

	ops = kvpi_plane_find("self", 4);
	KIT_OK(kvp_context_new(&one, NULL));
	KIT_OK(kvp_context_new(&two, NULL));
	here = open_in(one);
	beside = open_in(one);
	there = open_in(two);
	KIT_OK(ops->address(here, address, &len));
	KIT_OK(ops->address(beside, same, &len));
	ck_assert_mem_eq(address, same, len);
	KIT_OK(ops->address(there, same, &len));
	ck_assert(memcmp(address, same, len) != 0);
	KIT_STATUS(ops->connect(there, address, len, token, NULL, &conn), KVP_E_UNSUPPORTED);
	ck_assert_ptr_null(conn);
	KIT_OK(ops->connect(beside, address, len, token, NULL, &conn));
	ops->close(here);
	ops->close(there);
	ops->close(beside);
	kvp_context_free(one);
	kvp_context_free(two);
}
END_TEST

START_TEST(only_one_process_is_the_same)
{
	const kvpi_facts me = {.process = {1, 2, 3}}, other = {.process = {1, 2, 4}};
	char why[64];

	ops = kvpi_plane_find("self", 4);
	KIT_OK(ops->judge(&me, &me, why, sizeof(why)));
	ck_assert_str_eq(why, "same process");
	ck_assert_int_eq(ops->judge(&me, &other, why, sizeof(why)), KVP_E_UNSUPPORTED);
	ck_assert_str_eq(why, "the peer is another process");
}
END_TEST

/* An endpoint that connects to itself, a pipe of one rank. */
typedef struct alone {
	unsigned counts[KVPI_PLANE_NOTIFIED + 1];
} alone;

static void count_alone(void *user, const kvpi_plane_event *event)
{
	((alone *)user)->counts[event->kind]++;
}

START_TEST(an_endpoint_meets_itself)
{
	const unsigned char token[KVPI_PLANE_TOKEN_BYTES] = {7};
	unsigned char address[KVPI_PLANE_ADDRESS_MAX];
	static char from[BYTES], to[BYTES];
	alone a = {{0}};
	kvpi_plane_params params = {.on_event = count_alone, .wake = ignore_wake, .user = &a};
	kvpi_transfer transfer = {.id = {1, 1}, .direction = KVPI_PUT};
	kvpi_conn *in, *out;
	kvpi_plane *plane;
	kvpi_plane_caps caps;
	size_t len = 0;

	ops = kvpi_plane_find("self", 4);
	KIT_OK(kvpi_context_hold(NULL, &params.context));
	KIT_OK(ops->open(&params, &plane, &caps));
	KIT_OK(ops->address(plane, address, &len));
	KIT_OK(ops->accept(plane, token, NULL, &in));
	KIT_OK(ops->connect(plane, address, len, token, NULL, &out));
	while (a.counts[KVPI_PLANE_CONNECTED] < 2)
		ops->progress(plane, 1000);
	kit_random_fill(from, sizeof(from), 3);
	kvpi_layout_of_bytes(to, BYTES, KVP_MEMORY_HOST, 0, &transfer.local);
	KIT_OK(ops->post_recv(in, &transfer));
	kvpi_layout_of_bytes(from, BYTES, KVP_MEMORY_HOST, 0, &transfer.local);
	KIT_OK(ops->submit(out, &transfer));
	while (a.counts[KVPI_PLANE_RECEIVED] < 1)
		ops->progress(plane, 1000);
	kit_check_fill(to, sizeof(to), 3);
	ops->close(plane);
	kvpi_context_release(params.context);
}
END_TEST

/* ---- two threads ---- */

/* What the control channel would carry: the receiver's word that a destination stands ready. */
typedef struct link {
	struct side *sides[2]; /* [0] receives, accepts; [1] sends, connects */
	kvpi_conn *conns[2];
	unsigned char token[KVPI_PLANE_TOKEN_BYTES];
	atomic_uint posted;  /* number of the newest transfer posted */
	atomic_uint settled; /* and of the newest that is over at both ends */
	unsigned sent;       /* the sender's */
	bool up[2];
	bool busy[2];        /* this side's memory is with the plane */
	bool over;           /* the receiver's: the present one has ended */
	kvp_memory memory;
	char *mem[2];
	unsigned received, lost;
	uint64_t seed[2];
} link_t;

typedef struct side {
	int number;
	kvpi_plane *plane;
	kvpi_wakeup wakeup;
	link_t *links;
	unsigned stalls, wrong;
	unsigned char address[KVPI_PLANE_ADDRESS_MAX];
	size_t address_len;
} side;

static void wake_side(void *user)
{
	kvpi_wakeup_post(&((side *)user)->wakeup);
}

static bool content_is(const link_t *l, int number, uint64_t seed)
{
	static _Thread_local char seen[BYTES];

	if (l->memory != KVP_MEMORY_FAKE)
		return kit_fill_differs(l->mem[number], BYTES, seed) == BYTES;
	return kvpi_fake_read(l->mem[number], seen, BYTES) == KVP_OK && kit_fill_differs(seen, BYTES, seed) == BYTES;
}

static void fill(const link_t *l, int number, uint64_t seed)
{
	static _Thread_local char made[BYTES];

	kit_random_fill(made, BYTES, seed);
	if (l->memory == KVP_MEMORY_FAKE)
		(void)kvpi_fake_write(l->mem[number], made, BYTES);
	else
		memcpy(l->mem[number], made, BYTES);
}

/* The plane has given this side's memory back: it is written to at once, which a race would show. */
static void given_back(link_t *l, int number)
{
	l->busy[number] = false;
	fill(l, number, 12345);
}

static void on_event(void *user, const kvpi_plane_event *event)
{
	side *s = user;
	link_t *l = event->conn_user;

	switch (event->kind) {
	case KVPI_PLANE_CONNECTED:
		l->up[s->number] = true;
		break;
	case KVPI_PLANE_LOST:
		l->up[s->number] = false;
		l->lost += s->number == 0;
		if (l->busy[s->number])
			given_back(l, s->number);
		l->over = l->over || s->number == 0;
		break;
	case KVPI_PLANE_SENT:
		given_back(l, 1);
		break;
	case KVPI_PLANE_RECEIVED:
		s->wrong += !content_is(l, 0, event->id.seq);
		l->received++;
		given_back(l, 0);
		l->over = true;
		break;
	case KVPI_PLANE_NOTIFIED:
		break;
	}
}

static void settle(side *s, link_t *l)
{
	while (l->busy[s->number]) {
		const unsigned number = s->number == 0 ? atomic_load(&l->posted) : l->sent;

		if (ops->cancel(l->conns[s->number], (kvpi_transfer_id){number, 1}) == KVP_RECEIPT_QUIESCENT)
			given_back(l, s->number);
		else
			ops->progress(s->plane, 10000);
	}
}

static void receive(side *s, link_t *l)
{
	const unsigned number = atomic_load(&l->posted);
	kvpi_transfer transfer = {.id = {number + 1, 1}, .direction = KVPI_PUT};

	if (number > atomic_load(&l->settled)) {
		/* Some destinations are taken back while they are written to; then the sender finds none. */
		if (l->busy[0] && kit_random(&l->seed[0]) % 50 == 0) {
			settle(s, l);
			l->over = true;
		}
		if (l->over && !l->busy[0]) {
			atomic_store(&l->settled, number);
			wake_side(l->sides[1]);
		}
		return;
	}
	if (number == TRANSFERS)
		return;
	kvpi_layout_of_bytes(l->mem[0], BYTES, l->memory, 0, &transfer.local);
	if (ops->post_recv(l->conns[0], &transfer) != KVP_OK)
		return;
	l->busy[0] = true;
	l->over = false;
	atomic_store(&l->posted, number + 1);
	wake_side(l->sides[1]);
}

static void hang_up_and_connect(side *s, link_t *l)
{
	if (l->conns[1] != NULL)
		ops->hangup(l->conns[1]);
	if (l->busy[1])
		given_back(l, 1);
	l->up[1] = false;
	l->conns[1] = NULL;
	s->wrong += ops->connect(s->plane, s->address, s->address_len, l->token, l, &l->conns[1]) != KVP_OK;
}

static void send_one(side *s, link_t *l)
{
	const unsigned number = atomic_load(&l->posted);
	kvpi_transfer transfer = {.id = {number, 1}, .direction = KVPI_PUT};

	if (l->conns[1] == NULL || kit_random(&l->seed[1]) % 400 == 0)
		hang_up_and_connect(s, l);
	if (l->busy[1] && kit_random(&l->seed[1]) % 50 == 0)
		settle(s, l);
	if (l->busy[1] || !l->up[1])
		return;
	if (number == l->sent) {
		/* A put that was taken back leaves its destination open for ever, were it not for a lost connection. */
		if (number > atomic_load(&l->settled) && kit_random(&l->seed[1]) % 20 == 0)
			hang_up_and_connect(s, l);
		return;
	}
	l->sent = number;
	fill(l, 1, number);
	kvpi_layout_of_bytes(l->mem[1], BYTES, l->memory, 0, &transfer.local);
	if (ops->submit(l->conns[1], &transfer) == KVP_OK)
		l->busy[1] = true;
}

static void *drive(void *arg)
{
	side *s = arg;
	const int64_t deadline = kvpi_now(&kvpi_clock_real) + ENDLESS_S * KVPI_NS_PER_S;

	while (s->stalls == 0) {
		bool done = true, more;

		kvpi_wakeup_clear(&s->wakeup);
		more = ops->progress(s->plane, 100000);
		for (int i = 0; i < LINKS; i++) {
			link_t *l = &s->links[i];

			if (s->number == 0)
				receive(s, l);
			else
				send_one(s, l);
			done = done && atomic_load(&l->settled) == TRANSFERS;
		}
		if (done)
			break;
		if (kvpi_now(&kvpi_clock_real) > deadline)
			s->stalls++;
		if (!more) {
			/* Not for ever: this test takes back by chance, too, and that needs turns. */
			struct pollfd fds[1] = {{s->wakeup.fd, POLLIN, 0}};
			int fd;

			if (ops->arm(s->plane, &fd))
				poll(fds, 1, 1);
		}
	}
	/* Whoever is done first still answers the other. */
	ops->close(s->plane);
	return NULL;
}

static void play(kvp_memory memory, uint64_t seed)
{
	link_t links[LINKS];
	side sides[2];
	pthread_t threads[2];
	kvp_context *context = NULL;
	unsigned received = 0, lost = 0;

	ops = kvpi_plane_find("self", 4);
	kvpi_fake_set(&(kvpi_fake_options){.delay = 10, .seed = seed});
	memset(links, 0, sizeof(links));
	memset(sides, 0, sizeof(sides));
	KIT_OK(kvpi_context_hold(NULL, &context));
	for (int i = 0; i < 2; i++) {
		kvpi_plane_params params = {
		    .context = context, .on_event = on_event, .wake = wake_side, .user = &sides[i]};
		kvpi_plane_caps caps;

		sides[i].number = i;
		sides[i].links = links;
		KIT_OK(kvpi_wakeup_init(&sides[i].wakeup));
		KIT_OK(ops->open(&params, &sides[i].plane, &caps));
		KIT_OK(ops->address(sides[i].plane, sides[i].address, &sides[i].address_len));
	}
	for (int i = 0; i < LINKS; i++) {
		link_t *l = &links[i];

		l->memory = memory;
		l->token[0] = (unsigned char)i;
		l->seed[0] = seed + 10 * (uint64_t)i;
		l->seed[1] = seed + 10 * (uint64_t)i + 1;
		for (int k = 0; k < 2; k++) {
			l->sides[k] = &sides[k];
			KIT_OK(kvpi_device_find(memory)->alloc(0, BYTES, (void **)&l->mem[k]));
		}
		KIT_OK(ops->accept(sides[0].plane, l->token, l, &l->conns[0]));
	}
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, drive, &sides[i]), 0);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < LINKS; i++) {
		received += links[i].received;
		lost += links[i].lost;
		for (int k = 0; k < 2; k++)
			kvpi_device_find(memory)->free(0, links[i].mem[k]);
	}
	for (int i = 0; i < 2; i++) {
		ck_assert_uint_eq(sides[i].stalls, 0);
		ck_assert_uint_eq(sides[i].wrong, 0);
		kvpi_wakeup_fini(&sides[i].wakeup);
	}
	ck_assert_uint_gt(received, 0);
	ck_assert_uint_gt(lost, 0);
	kvpi_context_release(context);
	kvpi_fake_set(NULL);
}

START_TEST(two_threads_and_host_memory)
{
	play(KVP_MEMORY_HOST, 100 + (uint64_t)_i);
}
END_TEST

START_TEST(two_threads_and_device_memory)
{
	play(KVP_MEMORY_FAKE, 200 + (uint64_t)_i);
}
END_TEST

KIT_MAIN("self", endpoints_meet_within_one_context, only_one_process_is_the_same, an_endpoint_meets_itself,
    two_threads_and_host_memory, two_threads_and_device_memory)
