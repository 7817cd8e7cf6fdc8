/* SPDX-License-Identifier: Apache-2.0 */
#include "base/wakeup.h"
#include "kit/kit.h"
#include "share/ring.h"
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define CAPACITY 4096u
#define MESSAGE_MAX (CAPACITY / 4)

static void *shared_new(uint64_t capacity)
{
	void *memory = mmap(NULL, kvpi_ring_bytes(capacity), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	ck_assert_ptr_ne(memory, MAP_FAILED);
	return memory;
}

static void shared_free(kvpi_ring *ring)
{
	munmap(ring->shared, kvpi_ring_bytes(ring->capacity));
}

/* Both ends on fresh memory. */
static void pair_init(kvpi_ring *writer, kvpi_ring *reader)
{
	void *memory = shared_new(CAPACITY);

	kvpi_ring_init(writer, memory, CAPACITY);
	kvpi_ring_init(reader, memory, CAPACITY);
}

static void put(kvpi_ring *writer, size_t len, size_t split, uint64_t seed)
{
	unsigned char bytes[MESSAGE_MAX];
	bool wake = true;

	kit_random_fill(bytes, len, seed);
	KIT_OK(kvpi_ring_put(writer, bytes, split, bytes + split, len - split, &wake));
	ck_assert(!wake);
}

static void get(kvpi_ring *reader, size_t len, uint64_t seed)
{
	unsigned char bytes[MESSAGE_MAX];
	size_t got = 12345;

	ck_assert(!kvpi_ring_empty(reader));
	KIT_OK(kvpi_ring_get(reader, bytes, sizeof(bytes), &got));
	ck_assert_uint_eq(got, len);
	kit_check_fill(bytes, len, seed);
}

static void check_empty(kvpi_ring *reader)
{
	unsigned char bytes[MESSAGE_MAX];
	size_t got = 12345;

	ck_assert(kvpi_ring_empty(reader));
	ck_assert_int_eq(kvpi_ring_get(reader, bytes, sizeof(bytes), &got), KVP_E_AGAIN);
	ck_assert_uint_eq(got, 12345);
}

/* The ring's end falls on each byte of a message of each length: what a message's place was before is full of others'
 * bytes, which look like anything. */
START_TEST(a_message_wraps_anywhere)
{
	kvpi_ring writer, reader;
	uint64_t seed = 1;

	pair_init(&writer, &reader);
	memset(writer.shared->data + 64, 0xff, CAPACITY - 64);
	for (size_t len = 0; len <= MESSAGE_MAX; len++) {
		for (unsigned lap = 0; lap < 5; lap++) {
			size_t split = len * lap / 4;

			put(&writer, len, split, seed);
			get(&reader, len, seed++);
			check_empty(&reader);
		}
	}
	ck_assert_uint_gt(writer.position, 100u * CAPACITY);
	shared_free(&writer);
}
END_TEST

START_TEST(a_full_ring_says_so_and_goes_on)
{
	kvpi_ring writer, reader;
	unsigned char bytes[100] = {1};
	bool wake = true;
	uint64_t in = 0, out = 0;
	kvp_status status;

	pair_init(&writer, &reader);
	for (int lap = 0; lap < 100; lap++) {
		for (;;) {
			kit_random_fill(bytes, sizeof(bytes), in);
			status = kvpi_ring_put(&writer, bytes, sizeof(bytes), NULL, 0, &wake);
			if (status != KVP_OK)
				break;
			in++;
		}
		ck_assert_int_eq(status, KVP_E_AGAIN);
		ck_assert_uint_ge(in - out, CAPACITY / 128 - 1); /* all but the head behind the last */
		for (int i = 0; i <= lap % 20; i++)
			get(&reader, sizeof(bytes), out++);
	}
	while (out < in)
		get(&reader, sizeof(bytes), out++);
	check_empty(&reader);
	shared_free(&writer);
}
END_TEST

START_TEST(messages_have_a_bound)
{
	kvpi_ring writer, reader;
	unsigned char bytes[MESSAGE_MAX] = {1};
	bool wake = true;

	pair_init(&writer, &reader);
	ck_assert_uint_eq(kvpi_ring_message_max(&writer), MESSAGE_MAX);
	KIT_STATUS(kvpi_ring_put(&writer, bytes, MESSAGE_MAX, bytes, 1, &wake), KVP_E_TOO_LARGE);
	KIT_STATUS(kvpi_ring_put(&writer, bytes, SIZE_MAX, bytes, 2, &wake), KVP_E_TOO_LARGE);
	KIT_STATUS(kvpi_ring_put(&writer, bytes, 2, bytes, SIZE_MAX, &wake), KVP_E_TOO_LARGE);
	ck_assert(wake); /* untouched */
	check_empty(&reader);
	put(&writer, MESSAGE_MAX, 10, 7);
	get(&reader, MESSAGE_MAX, 7);
	shared_free(&writer);
}
END_TEST

/* The reader is another process, and may write anything where its place belongs. */
START_TEST(a_reader_that_lies_is_found_out)
{
	static const uint64_t lies[] = {UINT64_MAX, CAPACITY * 2, CAPACITY + 64, 63, 1, UINT64_MAX - 63};
	unsigned char bytes[MESSAGE_MAX] = {1};
	bool wake;

	for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		kvpi_ring writer, reader;
		kvp_status status;

		pair_init(&writer, &reader);
		do {
			status = kvpi_ring_put(&writer, bytes, 500, NULL, 0, &wake);
		} while (status == KVP_OK);
		ck_assert_int_eq(status, KVP_E_AGAIN);
		atomic_store(&writer.shared->read, lies[i]);
		KIT_STATUS(kvpi_ring_put(&writer, bytes, 500, NULL, 0, &wake), KVP_E_PROTOCOL);
		shared_free(&writer);
	}
}
END_TEST

START_TEST(a_reader_does_not_go_back)
{
	kvpi_ring writer, reader;
	unsigned char bytes[MESSAGE_MAX] = {1};
	bool wake;
	size_t len;

	pair_init(&writer, &reader);
	for (int i = 0; i < 100; i++) {
		KIT_OK(kvpi_ring_put(&writer, bytes, 1000, NULL, 0, &wake));
		KIT_OK(kvpi_ring_get(&reader, bytes, sizeof(bytes), &len));
	}
	atomic_store(&writer.shared->read, 64);
	for (int i = 0; i < 2; i++)
		KIT_OK(kvpi_ring_put(&writer, bytes, 1000, NULL, 0, &wake));
	/* By now the ring seems full and the writer looks. */
	KIT_STATUS((kvpi_ring_put(&writer, bytes, 1000, NULL, 0, &wake),
	               kvpi_ring_put(&writer, bytes, 1000, NULL, 0, &wake)),
	    KVP_E_PROTOCOL);
	shared_free(&writer);
}
END_TEST

START_TEST(a_writer_that_lies_is_found_out)
{
	kvpi_ring writer, reader;
	unsigned char out[MESSAGE_MAX];
	size_t len = 12345;
	uint64_t state = 5, mark;

	pair_init(&writer, &reader);
	put(&writer, 10, 5, 3);
	_Atomic uint64_t *head = (_Atomic uint64_t *)(void *)writer.shared->data;
	mark = atomic_load(head) - 10;
	const uint64_t lies[] = {1, UINT64_MAX, mark + MESSAGE_MAX + 1, mark | UINT32_MAX, mark >> 32, 10, ~mark,
	    mark + CAPACITY};
	for (size_t i = 0; i < 1000; i++) {
		atomic_store(head, i < sizeof(lies) / sizeof(lies[0]) ? lies[i] : kit_random(&state) | 1);
		KIT_STATUS(kvpi_ring_get(&reader, out, sizeof(out), &len), KVP_E_PROTOCOL);
		ck_assert(!kvpi_ring_empty(&reader));
	}
	/* True, but longer than the caller expects. */
	atomic_store(head, mark + 10);
	KIT_STATUS(kvpi_ring_get(&reader, out, 9, &len), KVP_E_PROTOCOL);
	ck_assert_uint_eq(len, 12345);
	get(&reader, 10, 3);
	shared_free(&writer);
}
END_TEST

START_TEST(the_writer_is_told_once_that_the_reader_sleeps)
{
	kvpi_ring writer, reader;
	unsigned char bytes[10] = {1};
	bool wake = false;

	pair_init(&writer, &reader);
	ck_assert(kvpi_ring_sleep(&reader));
	KIT_OK(kvpi_ring_put(&writer, bytes, sizeof(bytes), NULL, 0, &wake));
	ck_assert(wake);
	put(&writer, 10, 0, 1);
	ck_assert(!kvpi_ring_sleep(&reader)); /* there are messages */
	put(&writer, 10, 0, 2);
	size_t len;
	KIT_OK(kvpi_ring_get(&reader, bytes, sizeof(bytes), &len));
	get(&reader, 10, 1);
	get(&reader, 10, 2);
	ck_assert(kvpi_ring_sleep(&reader));
	kvpi_ring_awake(&reader);
	put(&writer, 10, 0, 3);
	get(&reader, 10, 3);
	shared_free(&writer);
}
END_TEST

/* ---- two threads, two processes ---- */

#define STRESS_MESSAGES 20000u

typedef struct end {
	kvpi_ring in, out; /* in: read by this end; out: written by it */
	int wake_me, wake_other;
	uint64_t seed, random;
	int failed;
} end;

/* Until there may be a message. */
static bool sleep_until_rung(end *e, int timeout_ms)
{
	struct pollfd p = {.fd = e->wake_me, .events = POLLIN};
	uint64_t count;

	/* For so long that messages come just when this end falls asleep. */
	for (uint64_t n = kit_random(&e->random) % 4096; n > 0 && kvpi_ring_empty(&e->in); n--)
		atomic_signal_fence(memory_order_seq_cst);
	if (!kvpi_ring_sleep(&e->in))
		return true;
	/* A lost wake-up shows itself here: nothing else would ever end the wait. */
	if (poll(&p, 1, timeout_ms) != 1)
		return false;
	kvpi_ring_awake(&e->in);
	return read(e->wake_me, &count, sizeof(count)) == sizeof(count);
}

static void ring_bell(end *e)
{
	const uint64_t one = 1;

	if (write(e->wake_other, &one, sizeof(one)) != sizeof(one))
		e->failed = 3;
}

static size_t length_of(uint64_t number)
{
	uint64_t state = number;

	return 8 + kit_random(&state) % (number % 64 == 0 ? MESSAGE_MAX - 8 : 120);
}

/* Sends and receives STRESS_MESSAGES, sleeping whenever there is nothing, at moments that depend on the other end. */
static void *stress(void *user)
{
	end *e = user;
	unsigned char bytes[MESSAGE_MAX];
	uint64_t sent = 0, received = 0;

	while ((sent < STRESS_MESSAGES || received < STRESS_MESSAGES) && e->failed == 0) {
		bool idle = true;

		/* Bounded ahead of the other end, so that both find the ring empty often. */
		if (sent < STRESS_MESSAGES && sent < received + 1 + e->seed % 3) {
			size_t len = length_of(sent);
			bool wake;
			kvp_status status;

			kit_random_fill(bytes, len, sent);
			status = kvpi_ring_put(&e->out, bytes, 8, bytes + 8, len - 8, &wake);
			if (status == KVP_OK) {
				idle = false;
				sent++;
				if (wake)
					ring_bell(e);
			} else if (status != KVP_E_AGAIN) {
				e->failed = 1;
			}
		}
		size_t len;
		kvp_status status = kvpi_ring_get(&e->in, bytes, sizeof(bytes), &len);
		if (status == KVP_OK) {
			idle = false;
			if (len != length_of(received) || kit_fill_differs(bytes, len, received) != len)
				e->failed = 2;
			received++;
		} else if (status != KVP_E_AGAIN) {
			e->failed = 1;
		}
		if (idle && received < STRESS_MESSAGES && !sleep_until_rung(e, 20000))
			e->failed = 4;
	}
	return NULL;
}

static void ends_init(end ends[2], uint64_t seed)
{
	void *memory[2] = {shared_new(CAPACITY), shared_new(CAPACITY)};
	int bells[2] = {eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};

	for (int i = 0; i < 2; i++) {
		ends[i] = (end){.wake_me = bells[i], .wake_other = bells[1 - i], .seed = seed, .random = seed + (uint64_t)i};
		kvpi_ring_init(&ends[i].in, memory[i], CAPACITY);
		kvpi_ring_init(&ends[i].out, memory[1 - i], CAPACITY);
	}
}

static void ends_fini(end ends[2])
{
	for (int i = 0; i < 2; i++) {
		close(ends[i].wake_me);
		shared_free(&ends[i].in);
	}
}

START_TEST(two_threads_lose_no_message_and_no_wake_up)
{
	for (uint64_t seed = 0; seed < 3; seed++) {
		end ends[2];
		pthread_t other;

		ends_init(ends, seed);
		ck_assert_int_eq(pthread_create(&other, NULL, stress, &ends[1]), 0);
		stress(&ends[0]);
		pthread_join(other, NULL);
		ck_assert_int_eq(ends[0].failed, 0);
		ck_assert_int_eq(ends[1].failed, 0);
		ends_fini(ends);
	}
}
END_TEST

static int stress_child(void *user)
{
	stress(user);
	return ((end *)user)->failed;
}

START_TEST(two_processes_lose_no_message_and_no_wake_up)
{
	for (uint64_t seed = 0; seed < 3; seed++) {
		end ends[2];

		ends_init(ends, seed);
		pid_t child = kit_fork(stress_child, &ends[1]);
		stress(&ends[0]);
		ck_assert_int_eq(ends[0].failed, 0);
		ck_assert_int_eq(kit_wait_exit(child, 20000), 0);
		ends_fini(ends);
	}
}
END_TEST

/* A writer that changes its bytes and heads while they are read: whatever comes out, nothing else is touched. */
typedef struct vandal {
	kvpi_ring_shared *shared;
	atomic_bool stop;
} vandal;

static void *scribble(void *user)
{
	vandal *v = user;
	uint64_t state = 99;

	while (!atomic_load_explicit(&v->stop, memory_order_relaxed)) {
		_Atomic uint64_t *words = (_Atomic uint64_t *)(void *)v->shared->data;
		uint64_t r = kit_random(&state);
		uint64_t head = (UINT64_C(0x4b565047) << 32) | (r >> 40) % (2 * MESSAGE_MAX);

		atomic_store_explicit(&words[r % (CAPACITY / 8)], r & (1u << 20) ? head : r, memory_order_relaxed);
	}
	return NULL;
}

START_TEST(a_vandal_harms_only_itself)
{
	kvpi_ring writer, reader;
	unsigned char out[64 + MESSAGE_MAX];
	pthread_t thread;
	vandal v;

	/* Its races are the point of the test, so the thread sanitizer has nothing to say here. */
#ifdef __SANITIZE_THREAD__
	KIT_SKIP("the bytes are raced for on purpose");
#endif
	pair_init(&writer, &reader);
	v.shared = writer.shared;
	atomic_init(&v.stop, false);
	memset(out, 0x5a, sizeof(out));
	ck_assert_int_eq(pthread_create(&thread, NULL, scribble, &v), 0);
	for (int i = 0; i < 300000; i++) {
		size_t len = 0;
		kvp_status status = kvpi_ring_get(&reader, out, MESSAGE_MAX, &len);

		if (status == KVP_OK)
			ck_assert_uint_le(len, MESSAGE_MAX);
		else
			reader.position += 64; /* a real reader gives up here */
	}
	atomic_store(&v.stop, true);
	pthread_join(thread, NULL);
	for (size_t i = 0; i < 64; i++)
		ck_assert_uint_eq(out[MESSAGE_MAX + i], 0x5a);
	shared_free(&writer);
}
END_TEST

KIT_MAIN("ring", a_message_wraps_anywhere, a_full_ring_says_so_and_goes_on, messages_have_a_bound,
    a_reader_that_lies_is_found_out, a_reader_does_not_go_back, a_writer_that_lies_is_found_out,
    the_writer_is_told_once_that_the_reader_sleeps, two_threads_lose_no_message_and_no_wake_up,
    two_processes_lose_no_message_and_no_wake_up, a_vandal_harms_only_itself)
