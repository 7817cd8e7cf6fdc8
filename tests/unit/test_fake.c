/* SPDX-License-Identifier: Apache-2.0 */
#include "kit/kit.h"

#include "base/fault.h"
#include "device/fake.h"
#include "device/tables.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BYTES 10000

static const kvpi_device_ops *const dev = &kvpi_fake_device;

static void *alloc(uint64_t bytes)
{
	void *ptr = NULL;

	KIT_OK(dev->alloc(0, bytes, &ptr));
	return ptr;
}

static void *stream(void)
{
	void *handle = NULL;

	KIT_OK(dev->stream_new(0, &handle));
	return handle;
}

static kvpi_event *record(void *handle)
{
	kvpi_event *event = NULL;

	KIT_OK(dev->record(0, handle, &event));
	return event;
}

static bool reached(void *event)
{
	return dev->query(event) != KVP_PENDING;
}

/* Waits until all that is queued on the stream has run; how it went. */
static kvp_status finish(void *handle)
{
	kvpi_event *event = record(handle);
	kvp_status status;

	kit_wait_until(reached, event, 10000);
	status = dev->query(event);
	dev->event_free(event);
	return status;
}

static void copy(void *handle, void *to, const void *from, uint64_t len)
{
	const kvpi_piece piece = {to, from, len};

	KIT_OK(dev->copy(0, handle, &piece, 1));
}

static void set(kvpi_fake_options options)
{
	kvpi_fake_set(&options);
}

static kvpi_fake_counts counts(void)
{
	kvpi_fake_counts c;

	kvpi_fake_count(&c);
	return c;
}

static void poke_word(uint64_t *word, uint64_t value)
{
	KIT_OK(kvpi_fake_write(word, &value, sizeof(value)));
}

static uint64_t peek_word(const uint64_t *word)
{
	uint64_t value = 0;

	KIT_OK(kvpi_fake_read(word, &value, sizeof(value)));
	return value;
}

/* ---- memory ---- */

static int touch(void *ptr)
{
	signal(SIGSEGV, SIG_DFL); /* the sanitizers have a handler of their own */
	return *(volatile char *)ptr;
}

START_TEST(memory_is_invisible_to_the_cpu)
{
	char *ptr = alloc(BYTES), byte = 1;
	static unsigned char seen[BYTES];
	int pipe_fds[2];

	ck_assert_int_eq(kit_wait_exit(kit_fork(touch, ptr), 10000), 128 + SIGSEGV);
	ck_assert_int_eq(kit_wait_exit(kit_fork(touch, ptr + BYTES - 1), 10000), 128 + SIGSEGV);
	ck_assert_int_eq(pipe(pipe_fds), 0);
	ck_assert_int_eq(write(pipe_fds[1], ptr, 1), -1);
	ck_assert_int_eq(errno, EFAULT);
	close(pipe_fds[0]);
	close(pipe_fds[1]);

	KIT_OK(kvpi_fake_read(ptr, seen, sizeof(seen)));
	for (size_t i = 0; i < sizeof(seen); i++)
		ck_assert_uint_eq(seen[i], KVPI_FAKE_POISON);
	KIT_OK(kvpi_fake_write(ptr + BYTES - 1, &byte, 1));
	KIT_STATUS(kvpi_fake_write(ptr + BYTES - 1, seen, 2), KVP_E_INVALID);
	KIT_STATUS(kvpi_fake_read(ptr - 1, seen, 1), KVP_E_INVALID);
	KIT_STATUS(kvpi_fake_read(&byte, seen, 1), KVP_E_INVALID);
	KIT_OK(kvpi_fake_read(ptr + BYTES - 2, seen, 2));
	ck_assert_uint_eq(seen[0], KVPI_FAKE_POISON);
	ck_assert_uint_eq(seen[1], 1);
	dev->free(0, ptr);
	KIT_STATUS(kvpi_fake_read(ptr, seen, 1), KVP_E_INVALID);
}
END_TEST

START_TEST(pointers_are_told_apart)
{
	char *ptr = alloc(BYTES), here;
	void *other = NULL;
	kvp_memory memory = KVP_MEMORY_AUTO;
	int device = 77;

	KIT_OK(dev->alloc(3, 1, &other));
	ck_assert(dev->owns(other, &device));
	ck_assert_int_eq(device, 3);
	KIT_OK(kvpi_device_resolve(ptr + BYTES - 1, &memory, &device));
	ck_assert_int_eq(memory, KVP_MEMORY_FAKE);
	ck_assert_int_eq(device, 0);
	KIT_OK(kvpi_device_resolve(other, &memory, &device));
	ck_assert_int_eq(device, 3);
	KIT_STATUS(kvpi_device_resolve(&here, &memory, &device), KVP_E_INVALID);
	KIT_STATUS(kvpi_device_resolve(ptr + BYTES, &memory, &device), KVP_E_INVALID);

	memory = KVP_MEMORY_AUTO;
	KIT_OK(kvpi_device_resolve(&here, &memory, &device));
	ck_assert_int_eq(memory, KVP_MEMORY_HOST);
	ck_assert_int_eq(device, 0);
	memory = KVP_MEMORY_AUTO;
	KIT_OK(kvpi_device_resolve(NULL, &memory, &device));
	ck_assert_int_eq(memory, KVP_MEMORY_HOST);
	memory = KVP_MEMORY_CUDA;
	KIT_STATUS(kvpi_device_resolve(ptr, &memory, &device),
	    kvpi_device_find(KVP_MEMORY_CUDA) != NULL ? KVP_E_INVALID : KVP_E_UNSUPPORTED);
	memory = (kvp_memory)42;
	KIT_STATUS(kvpi_device_resolve(ptr, &memory, &device), KVP_E_UNSUPPORTED);
	ck_assert_ptr_eq(kvpi_device_find(KVP_MEMORY_FAKE), dev);
	dev->free(0, ptr);
	dev->free(3, other);
}
END_TEST

START_TEST(misuse_is_refused)
{
	void *ptr = &ptr, *other = stream();
	const kvpi_piece piece = {ptr, ptr, 1};
	kvpi_event *event = NULL;
	uint64_t *words = alloc(64);

	KIT_STATUS(dev->alloc(0, 0, &ptr), KVP_E_INVALID);
	KIT_STATUS(dev->alloc(-1, 1, &ptr), KVP_E_INVALID);
	KIT_STATUS(dev->alloc(KVPI_FAKE_DEVICES, 1, &ptr), KVP_E_INVALID);
	KIT_STATUS(dev->alloc(0, UINT64_MAX, &ptr), KVP_E_INVALID);
	ck_assert_ptr_eq(ptr, &ptr);
	KIT_STATUS(dev->stream_new(99, &ptr), KVP_E_INVALID);
	KIT_STATUS(dev->record(0, &ptr, &event), KVP_E_INVALID);
	KIT_STATUS(dev->record(1, other, &event), KVP_E_INVALID);
	KIT_STATUS(dev->record(77, NULL, &event), KVP_E_INVALID);
	KIT_STATUS(dev->copy(0, &ptr, &piece, 1), KVP_E_INVALID);
	KIT_STATUS(dev->write_word(0, NULL, (uint64_t *)((uintptr_t)words + 4), 1), KVP_E_INVALID);
	ck_assert_ptr_null(event);
	dev->free(0, NULL);
	dev->free(0, &ptr);
	dev->event_free(NULL);
	dev->wait_list_free(NULL);
	dev->stream_free(0, other);
	dev->free(0, words);
	KIT_STATUS(dev->record(0, NULL, &event), KVP_E_INVALID);
}
END_TEST

static void each_call(kvp_status *out)
{
	static char from[16], to[16];
	const kvpi_piece piece = {to, from, 16};
	const kvpi_wait_entry none = {NULL, 0};
	kvpi_wait_list *list = NULL;
	kvpi_event *event = NULL;
	kvpi_layout layout;
	void *handle = NULL, *ptr = NULL;

	*out = dev->alloc(0, 100, &ptr);
	if (*out != KVP_OK)
		return;
	*out = dev->stream_new(0, &handle);
	if (*out == KVP_OK)
		*out = dev->wait_list_new(0, 4, &list);
	if (*out == KVP_OK)
		*out = dev->wait_list_fill(list, &none, 0);
	if (*out == KVP_OK)
		*out = dev->wait_list_enqueue(list, handle, 0);
	if (*out == KVP_OK)
		*out = dev->copy(0, handle, &piece, 1);
	kvpi_layout_of_bytes(to, 16, KVP_MEMORY_HOST, 0, &layout);
	if (*out == KVP_OK)
		*out = dev->copy_blocks(0, handle, &layout, &layout);
	if (*out == KVP_OK)
		*out = dev->write_word(0, handle, ptr, 1);
	if (*out == KVP_OK)
		*out = dev->record(0, handle, &event);
	dev->event_free(event);
	dev->wait_list_free(list);
	dev->stream_free(0, handle);
	dev->free(0, ptr);
}

START_TEST(out_of_memory_at_each_step)
{
	kvp_status status = KVP_E_NOMEM;
	unsigned steps = 0;

	while (status != KVP_OK) {
		kvpi_fault_arm("alloc", ++steps, 1);
		each_call(&status);
		kvpi_fault_disarm_all();
		ck_assert(status == KVP_OK || status == KVP_E_NOMEM);
		ck_assert_uint_eq(counts().allocations, 0);
		ck_assert_uint_eq(counts().streams, 0);
		ck_assert_uint_eq(counts().queued, 0);
	}
	ck_assert_uint_gt(steps, 10);
	kvpi_fault_arm("thread.start", 1, 1);
	each_call(&status);
	ck_assert_int_eq(status, KVP_E_SYSTEM);
	kvpi_fault_arm("fake.alloc", 1, 1);
	each_call(&status);
	ck_assert_int_eq(status, KVP_E_SYSTEM);
}
END_TEST

/* ---- copies ---- */

START_TEST(copies_go_anywhere)
{
	static char from[BYTES], to[BYTES];
	char *a = alloc(BYTES), *b = alloc(BYTES);
	void *s = stream();

	kit_random_fill(from, sizeof(from), 1);
	kit_random_fill(to, sizeof(to), 2);
	copy(s, a, from, BYTES);
	copy(s, b, a, BYTES);
	copy(s, to, b, BYTES);
	KIT_OK(finish(s));
	kit_check_fill(to, sizeof(to), 1);
	ck_assert_uint_eq(counts().copies, 3);
	ck_assert_uint_eq(counts().bytes, 3 * BYTES);
	ck_assert_uint_eq(counts().bad_accesses, 0);
	dev->stream_free(0, s);
	dev->free(0, a);
	dev->free(0, b);
}
END_TEST

START_TEST(the_calls_arguments_are_copied)
{
	static char from[16 * 64], to[16 * 64];
	uint32_t ids[] = {7, 2, 11, 3};
	char *device = alloc(sizeof(from));
	kvpi_layout at, dense;
	kvpi_piece piece = {device, from, sizeof(from)};

	set((kvpi_fake_options){.manual = true});
	kit_random_fill(from, sizeof(from), 3);
	kit_random_fill(to, sizeof(to), 4);
	KIT_OK(dev->copy(0, NULL, &piece, 1));
	piece = (kvpi_piece){NULL, NULL, 1};

	at = (kvpi_layout){.base = device,
	    .memory = KVP_MEMORY_FAKE,
	    .ndim = 1,
	    .dim = {{4, 64}},
	    .block_bytes = 64,
	    .ids = ids,
	    .bytes = 256};
	kvpi_layout_of_bytes(to, 256, KVP_MEMORY_HOST, 0, &dense);
	KIT_OK(dev->copy_blocks(0, NULL, &dense, &at));
	memset(ids, 0xff, sizeof(ids));
	memset(&at, 0xff, sizeof(at));
	ck_assert_uint_eq(kvpi_fake_tick(2), 2);
	ck_assert(memcmp(to, from + 7 * 64, 64) == 0);
	ck_assert(memcmp(to + 64, from + 2 * 64, 64) == 0);
	ck_assert(memcmp(to + 128, from + 11 * 64, 64) == 0);
	ck_assert(memcmp(to + 192, from + 3 * 64, 64) == 0);
	ck_assert_uint_eq(counts().block_copies, 1);

	kvpi_layout_of_bytes(device, 255, KVP_MEMORY_FAKE, 0, &at);
	KIT_STATUS(dev->copy_blocks(0, NULL, &dense, &at), KVP_E_INVALID);
	kvpi_fake_set(NULL);
	dev->free(0, device);
}
END_TEST

/* ---- order ---- */

START_TEST(one_queue_runs_in_order_of_submission)
{
	uint64_t *words = alloc(64);
	void *a = stream(), *b = stream();
	kvpi_event *event;

	set((kvpi_fake_options){.manual = true});
	KIT_OK(dev->write_word(0, a, &words[0], 1));
	KIT_OK(dev->write_word(0, b, &words[0], 2));
	event = record(b);
	KIT_OK(dev->write_word(0, a, &words[0], 3));
	ck_assert_uint_ne(peek_word(&words[0]), 1);
	ck_assert_int_eq(dev->query(event), KVP_PENDING);
	ck_assert_uint_eq(counts().queued, 4);
	ck_assert_uint_eq(kvpi_fake_tick(1), 1);
	ck_assert_uint_eq(peek_word(&words[0]), 1);
	ck_assert_uint_eq(kvpi_fake_tick(1), 1);
	ck_assert_uint_eq(peek_word(&words[0]), 2);
	ck_assert_int_eq(dev->query(event), KVP_PENDING);
	ck_assert_uint_eq(kvpi_fake_tick(1), 1);
	KIT_OK(dev->query(event));
	ck_assert_uint_eq(peek_word(&words[0]), 2);
	ck_assert_uint_eq(kvpi_fake_tick(5), 1);
	ck_assert_uint_eq(peek_word(&words[0]), 3);
	dev->event_free(event);
	dev->stream_free(0, a);
	dev->stream_free(0, b);
	dev->free(0, words);
	kvpi_fake_set(NULL);
}
END_TEST

START_TEST(a_wait_holds_up_its_queue_only)
{
	uint64_t *words = alloc(64), seen;
	void *streams[2];
	kvpi_wait_list *list;

	/* The two streams stand in one queue, then in two. */
	for (unsigned queues = 1; queues <= 2; queues++) {
		set((kvpi_fake_options){.manual = true, .queues = queues});
		streams[0] = stream();
		streams[1] = stream();
		poke_word(&words[0], 0);
		poke_word(&words[1], 0);
		KIT_OK(dev->wait_list_new(0, 1, &list));
		KIT_OK(dev->wait_list_fill(list, &(kvpi_wait_entry){&words[0], 5}, 1));
		KIT_OK(dev->wait_list_enqueue(list, streams[0], KVPI_NEVER));
		KIT_OK(dev->write_word(0, streams[1], &words[1], 9));
		kvpi_fake_tick(10);
		seen = peek_word(&words[1]);
		ck_assert_uint_eq(seen, queues == 1 ? 0 : 9);
		ck_assert_int_eq(dev->wait_list_result(list), KVPI_WAIT_PENDING);
		poke_word(&words[0], 5);
		kvpi_fake_tick(10);
		ck_assert_uint_eq(peek_word(&words[1]), 9);
		ck_assert_int_eq(dev->wait_list_result(list), KVPI_WAIT_OK);
		dev->wait_list_free(list);
		dev->stream_free(0, streams[0]);
		dev->stream_free(0, streams[1]);
	}
	kvpi_fake_set(NULL);
	dev->free(0, words);
}
END_TEST

/* Twelve operations on three streams; in which order they ran, and in how many ticks. */
static unsigned run_three(kvpi_fake_options options, unsigned order[12])
{
	uint64_t *words = alloc(12 * sizeof(*words)), seen[12], before[12];
	unsigned ticks = 0, ran = 0;
	void *s[3];

	options.manual = true;
	kvpi_fake_set(&options);
	for (int i = 0; i < 3; i++)
		s[i] = stream();
	for (unsigned i = 0; i < 12; i++)
		KIT_OK(dev->write_word(0, s[i % 3], &words[i], 1000));
	KIT_OK(kvpi_fake_read(words, before, sizeof(before)));
	while (ran < 12) {
		ck_assert_uint_lt(ticks, 1000);
		ticks++;
		if (kvpi_fake_tick(1) == 0)
			continue;
		KIT_OK(kvpi_fake_read(words, seen, sizeof(seen)));
		for (unsigned i = 0; i < 12; i++) {
			if (seen[i] != before[i])
				order[ran++] = i;
		}
		memcpy(before, seen, sizeof(seen));
	}
	for (int i = 0; i < 3; i++)
		dev->stream_free(0, s[i]);
	dev->free(0, words);
	kvpi_fake_set(NULL);
	return ticks;
}

START_TEST(streams_overtake_each_other_by_seed)
{
	unsigned one[12], again[12], different = 0, late = 0;

	for (uint64_t seed = 1; seed <= 10; seed++) {
		unsigned last[3] = {0, 0, 0};

		run_three((kvpi_fake_options){.seed = seed, .reorder = true}, one);
		run_three((kvpi_fake_options){.seed = seed, .reorder = true}, again);
		ck_assert_mem_eq(one, again, sizeof(one));
		for (unsigned i = 0; i < 12; i++) {
			/* Within a stream the order stays. */
			ck_assert_uint_ge(one[i], last[one[i] % 3]);
			last[one[i] % 3] = one[i];
			different += one[i] != i;
		}
	}
	ck_assert_uint_gt(different, 20);

	for (uint64_t seed = 1; seed <= 10; seed++) {
		const unsigned ticks = run_three((kvpi_fake_options){.seed = seed, .delay = 3}, one);

		ck_assert_uint_eq(ticks, run_three((kvpi_fake_options){.seed = seed, .delay = 3}, again));
		ck_assert_uint_le(ticks, 12 * 4);
		late += ticks > 12;
		for (unsigned i = 0; i < 12; i++)
			ck_assert_uint_eq(one[i], i);
	}
	ck_assert_uint_eq(late, 10);
}
END_TEST

START_TEST(a_failed_operation_ends_its_stream)
{
	uint64_t *words = alloc(64);
	void *a = stream(), *b = stream();

	for (int i = 0; i < 8; i++)
		poke_word(&words[i], 0);
	set((kvpi_fake_options){.fail_at = 2});
	KIT_OK(dev->write_word(0, a, &words[0], 1));
	KIT_OK(finish(a));
	KIT_OK(dev->write_word(0, a, &words[1], 1));
	ck_assert_int_eq(finish(a), KVP_E_DEVICE);
	KIT_OK(dev->write_word(0, a, &words[2], 1));
	ck_assert_int_eq(finish(a), KVP_E_DEVICE);
	KIT_OK(dev->write_word(0, b, &words[3], 1));
	KIT_OK(finish(b));
	ck_assert_uint_eq(peek_word(&words[0]), 1);
	ck_assert_uint_eq(peek_word(&words[1]), 0);
	ck_assert_uint_eq(peek_word(&words[2]), 0);
	ck_assert_uint_eq(peek_word(&words[3]), 1);
	dev->stream_free(0, a);
	dev->stream_free(0, b);

	/* The default stream cannot be made anew; it recovers. */
	set((kvpi_fake_options){.fail_at = 1});
	KIT_OK(dev->write_word(0, NULL, &words[4], 1));
	ck_assert_int_eq(finish(NULL), KVP_E_DEVICE);
	kvpi_fake_set(NULL);
	KIT_OK(dev->write_word(0, NULL, &words[4], 1));
	KIT_OK(finish(NULL));
	dev->free(0, words);
}
END_TEST

START_TEST(memory_freed_too_early_is_noticed)
{
	char *ptr = alloc(BYTES), *keep = alloc(1), byte = 1;
	kvpi_event *event;

	set((kvpi_fake_options){.manual = true});
	copy(NULL, ptr, &byte, 1);
	event = record(NULL);
	dev->free(0, ptr);
	kvpi_fake_tick(2);
	ck_assert_int_eq(dev->query(event), KVP_E_DEVICE);
	ck_assert_uint_eq(counts().bad_accesses, 1);
	dev->event_free(event);
	kvpi_fake_set(NULL);
	dev->free(0, keep);
}
END_TEST

/* ---- wait lists ---- */

typedef struct waiting {
	uint64_t *words;
	void *stream;
	kvpi_wait_list *list;
	kvpi_clock clock;
} waiting;

static void waiting_init(waiting *w)
{
	kvpi_clock_manual_init(&w->clock, 1000);
	set((kvpi_fake_options){.manual = true, .clock = &w->clock});
	w->words = alloc(64);
	w->stream = stream();
	KIT_OK(dev->wait_list_new(0, 2, &w->list));
	poke_word(&w->words[0], 0);
	poke_word(&w->words[1], 0);
}

static void waiting_fill(waiting *w, uint64_t first, uint64_t second)
{
	const kvpi_wait_entry entries[] = {{&w->words[0], first}, {&w->words[1], second}};

	KIT_OK(dev->wait_list_fill(w->list, entries, 2));
}

static void waiting_fini(waiting *w)
{
	dev->wait_list_free(w->list);
	dev->stream_free(0, w->stream);
	dev->free(0, w->words);
	kvpi_fake_set(NULL);
}

/* One step, then: the result, and whether what is behind the wait has run. */
static void expect(waiting *w, kvpi_event *behind, kvpi_wait_result result)
{
	kvpi_fake_tick(3);
	ck_assert_int_eq(dev->wait_list_result(w->list), result);
	ck_assert_int_eq(dev->query(behind), result == KVPI_WAIT_PENDING ? KVP_PENDING : KVP_OK);
}

START_TEST(a_wait_ends_when_all_words_are_reached)
{
	kvpi_event *behind;
	waiting w;

	waiting_init(&w);
	waiting_fill(&w, 5, 7);
	KIT_OK(dev->wait_list_enqueue(w.list, w.stream, 1000));
	behind = record(w.stream);
	/* The entries are those of the moment of the call. */
	waiting_fill(&w, 100, 100);
	expect(&w, behind, KVPI_WAIT_PENDING);
	poke_word(&w.words[0], 6);
	expect(&w, behind, KVPI_WAIT_PENDING);
	poke_word(&w.words[1], 6);
	expect(&w, behind, KVPI_WAIT_PENDING);
	poke_word(&w.words[1], 7);
	expect(&w, behind, KVPI_WAIT_OK);
	dev->event_free(behind);

	KIT_STATUS(dev->wait_list_fill(w.list, (kvpi_wait_entry[]){{w.words, 1}, {w.words, 1}, {w.words, 1}}, 3),
	    KVP_E_TOO_LARGE);
	KIT_STATUS(
	    dev->wait_list_fill(w.list, &(kvpi_wait_entry){w.words, KVPI_WORD_FAILED}, 1), KVP_E_INVALID);
	waiting_fini(&w);
}
END_TEST

START_TEST(a_wait_ends_on_failure_time_and_cancel)
{
	kvpi_event *behind;
	waiting w;

	waiting_init(&w);
	waiting_fill(&w, 5, 7);

	/* The failure bit of one word, whatever its generation. */
	KIT_OK(dev->wait_list_enqueue(w.list, w.stream, 1000));
	behind = record(w.stream);
	expect(&w, behind, KVPI_WAIT_PENDING);
	poke_word(&w.words[1], KVPI_WORD_FAILED | 9);
	expect(&w, behind, KVPI_WAIT_FAILED);
	dev->event_free(behind);
	poke_word(&w.words[1], 0);

	/* The bound counts from when it starts to wait, not from the call. */
	KIT_OK(dev->wait_list_enqueue(w.list, w.stream, 1000));
	behind = record(w.stream);
	kvpi_clock_manual_advance(&w.clock, 5000);
	kvpi_fake_tick(3);
	ck_assert_int_eq(dev->query(behind), KVP_PENDING);
	kvpi_clock_manual_advance(&w.clock, 999);
	kvpi_fake_tick(3);
	ck_assert_int_eq(dev->query(behind), KVP_PENDING);
	kvpi_clock_manual_advance(&w.clock, 1);
	expect(&w, behind, KVPI_WAIT_EXPIRED);
	dev->event_free(behind);

	/* A cancel ends the one under way and the one queued, but not the next. */
	KIT_OK(dev->wait_list_enqueue(w.list, w.stream, KVPI_NEVER));
	kvpi_fake_tick(1);
	KIT_OK(dev->wait_list_enqueue(w.list, w.stream, KVPI_NEVER));
	behind = record(w.stream);
	dev->wait_list_cancel(w.list);
	expect(&w, behind, KVPI_WAIT_FAILED);
	dev->event_free(behind);
	KIT_OK(dev->wait_list_enqueue(w.list, w.stream, KVPI_NEVER));
	behind = record(w.stream);
	kvpi_fake_tick(3);
	ck_assert_int_eq(dev->query(behind), KVP_PENDING);
	poke_word(&w.words[0], 5);
	poke_word(&w.words[1], 7);
	expect(&w, behind, KVPI_WAIT_OK);
	dev->event_free(behind);

	/* A word that is no memory of the device: a failure, not a fault. */
	KIT_OK(dev->wait_list_fill(w.list, &(kvpi_wait_entry){(uint64_t *)&w.clock, 1}, 1));
	KIT_OK(dev->wait_list_enqueue(w.list, w.stream, KVPI_NEVER));
	kvpi_fake_tick(1);
	ck_assert_int_eq(dev->wait_list_result(w.list), KVPI_WAIT_FAILED);
	ck_assert_uint_eq(counts().bad_accesses, 1);
	waiting_fini(&w);
}
END_TEST

START_TEST(a_wait_in_real_time_is_bounded_and_woken)
{
	uint64_t *words = alloc(64);
	void *s = stream();
	kvpi_wait_list *list;

	poke_word(&words[0], 0);
	KIT_OK(dev->wait_list_new(0, 1, &list));
	KIT_OK(dev->wait_list_fill(list, &(kvpi_wait_entry){&words[0], 1}, 1));
	KIT_OK(dev->wait_list_enqueue(list, s, KVPI_NS_PER_MS));
	KIT_OK(finish(s));
	ck_assert_int_eq(dev->wait_list_result(list), KVPI_WAIT_EXPIRED);

	KIT_OK(dev->wait_list_enqueue(list, s, KVPI_NEVER));
	dev->wait_list_cancel(list);
	KIT_OK(finish(s));
	ck_assert_int_eq(dev->wait_list_result(list), KVPI_WAIT_FAILED);

	KIT_OK(dev->wait_list_enqueue(list, s, KVPI_NEVER));
	poke_word(&words[0], 1);
	KIT_OK(finish(s));
	ck_assert_int_eq(dev->wait_list_result(list), KVPI_WAIT_OK);
	dev->wait_list_free(list);
	dev->stream_free(0, s);
	dev->free(0, words);
}
END_TEST

/* ---- sharing ---- */

static kvpi_export exported;

static bool list_ended(void *list)
{
	return dev->wait_list_result(list) != KVPI_WAIT_PENDING;
}

static int other_process(void *unused)
{
	uint64_t *words = NULL, value = 0;
	void *ptr = NULL;

	(void)unused;
	if (dev->import_memory(0, &exported, &ptr) != KVP_OK)
		return 1;
	words = ptr;
	if (kvpi_fake_read(&words[1], &value, sizeof(value)) != KVP_OK || value != 42)
		return 2;
	value = 43;
	if (kvpi_fake_write(&words[2], &value, sizeof(value)) != KVP_OK)
		return 3;
	return 0;
}

START_TEST(memory_is_shared_by_descriptor)
{
	char *ptr = alloc(BYTES);
	kvpi_export bad, mine;
	kvpi_wait_list *list;
	void *imported = NULL;
	uint64_t *words;
	int device;
	pid_t child;

	poke_word((uint64_t *)(void *)(ptr + 4096) + 1, 42);
	poke_word((uint64_t *)(void *)(ptr + 4096) + 2, 0);
	KIT_OK(dev->export_memory(0, ptr + 4096, 64, &exported));
	KIT_OK(dev->export_memory(0, ptr + 4096, 64, &mine));
	ck_assert_uint_eq(exported.offset, 4096);
	KIT_STATUS(dev->export_memory(0, ptr + 4096, BYTES, &bad), KVP_E_INVALID);
	bad = mine;
	bad.offset = BYTES - 32;
	KIT_STATUS(dev->import_memory(1, &bad, &imported), KVP_E_INVALID);
	bad = mine;
	bad.fd = STDIN_FILENO;
	KIT_STATUS(dev->import_memory(1, &bad, &imported), KVP_E_INVALID);
	ck_assert_ptr_null(imported);

	/* The export outlives the allocation.  With that the device's thread is gone, so a fork is safe. */
	dev->free(0, ptr);
	KIT_STATUS(dev->export_memory(0, ptr, 64, &bad), KVP_E_INVALID);
	child = kit_fork(other_process, NULL);
	KIT_OK(dev->import_memory(1, &mine, &imported));
	words = imported;
	ck_assert(dev->owns(imported, &device));
	ck_assert_int_eq(device, 1);

	/* The other process writes a word that a stream here waits for. */
	KIT_OK(dev->wait_list_new(1, 1, &list));
	KIT_OK(dev->wait_list_fill(list, &(kvpi_wait_entry){&words[2], 43}, 1));
	KIT_OK(dev->wait_list_enqueue(list, NULL, KVPI_NEVER));
	ck_assert_int_eq(kit_wait_exit(child, 20000), 0);
	kit_wait_until(list_ended, list, 10000);
	ck_assert_int_eq(dev->wait_list_result(list), KVPI_WAIT_OK);
	dev->wait_list_free(list);
	ck_assert_uint_eq(peek_word(&words[2]), 43);

	dev->free(1, imported); /* not how an import ends: nothing happens */
	ck_assert(dev->owns(imported, &device));
	dev->unimport(1, imported, 64);
	ck_assert(!dev->owns(imported, &device));
	close(exported.fd);
}
END_TEST

/* ---- life ---- */

/* A thread that was joined may be listed a moment longer. */
static bool threads_are(void *user)
{
	return kit_thread_count() == *(const size_t *)user;
}

START_TEST(the_thread_lives_as_long_as_something_does)
{
	size_t threads = kit_thread_count();

	for (int round = 0; round < 20; round++) {
		void *ptr = alloc(1), *s = stream();

		ck_assert_uint_eq(kit_thread_count(), threads + 1);
		dev->free(0, ptr);
		ck_assert_uint_eq(kit_thread_count(), threads + 1);
		dev->stream_free(0, s);
		kit_wait_until(threads_are, &threads, 10000);
	}
}
END_TEST

START_TEST(the_end_does_not_wait_for_what_cannot_come)
{
	for (int manual = 0; manual < 2; manual++) {
		uint64_t *words = alloc(64);
		kvpi_wait_list *list;
		kvpi_event *event;

		set((kvpi_fake_options){.manual = manual != 0, .delay = 100});
		poke_word(&words[0], 0);
		KIT_OK(dev->wait_list_new(0, 1, &list));
		KIT_OK(dev->wait_list_fill(list, &(kvpi_wait_entry){&words[0], 1}, 1));
		KIT_OK(dev->wait_list_enqueue(list, NULL, KVPI_NEVER));
		event = record(NULL);
		dev->free(0, words);
		ck_assert_int_eq(dev->wait_list_result(list), KVPI_WAIT_FAILED);
		KIT_OK(dev->query(event));
		dev->event_free(event);
		dev->wait_list_free(list);
		ck_assert_uint_eq(counts().queued, 0);
		kvpi_fake_set(NULL);
	}
}
END_TEST

START_TEST(a_stream_ends_after_what_is_queued)
{
	for (int manual = 0; manual < 2; manual++) {
		uint64_t *words = alloc(64);
		void *s;

		set((kvpi_fake_options){.manual = manual != 0, .delay = 50, .seed = 3});
		s = stream();
		for (uint64_t i = 0; i < 8; i++)
			KIT_OK(dev->write_word(0, s, &words[i], i));
		dev->event_free(record(s)); /* before it is reached */
		dev->stream_free(0, s);
		for (uint64_t i = 0; i < 8; i++)
			ck_assert_uint_eq(peek_word(&words[i]), i);
		dev->free(0, words);
		kvpi_fake_set(NULL);
	}
}
END_TEST

/* ---- threads ---- */

typedef struct user {
	pthread_t thread;
	uint64_t seed;
	int bad;
} user;

static void *use(void *arg)
{
	user *u = arg;
	char from[2000], to[2000];

	for (int round = 0; round < 50; round++) {
		kvpi_event *event = NULL;
		void *ptr = NULL, *s = NULL;
		kvpi_piece there, back;

		kit_random_fill(from, sizeof(from), u->seed + (uint64_t)round);
		memset(to, 0, sizeof(to));
		u->bad += dev->alloc(0, sizeof(from), &ptr) != KVP_OK;
		u->bad += dev->stream_new(0, &s) != KVP_OK;
		there = (kvpi_piece){ptr, from, sizeof(from)};
		back = (kvpi_piece){to, ptr, sizeof(to)};
		u->bad += dev->copy(0, s, &there, 1) != KVP_OK || dev->copy(0, s, &back, 1) != KVP_OK;
		u->bad += dev->record(0, s, &event) != KVP_OK;
		while (u->bad == 0 && dev->query(event) == KVP_PENDING)
			sched_yield();
		u->bad += memcmp(from, to, sizeof(from)) != 0;
		dev->event_free(event);
		dev->stream_free(0, s);
		dev->free(0, ptr);
	}
	return NULL;
}

START_TEST(many_threads)
{
	user users[4];

	set((kvpi_fake_options){.reorder = true, .delay = 2, .seed = 7, .queues = 2});
	for (uint64_t i = 0; i < 4; i++) {
		users[i] = (user){.seed = i * 1000};
		ck_assert_int_eq(pthread_create(&users[i].thread, NULL, use, &users[i]), 0);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(users[i].thread, NULL);
		ck_assert_int_eq(users[i].bad, 0);
	}
	ck_assert_uint_eq(counts().bad_accesses, 0);
	kvpi_fake_set(NULL);
}
END_TEST

KIT_MAIN("fake", memory_is_invisible_to_the_cpu, pointers_are_told_apart, misuse_is_refused,
    out_of_memory_at_each_step, copies_go_anywhere, the_calls_arguments_are_copied,
    one_queue_runs_in_order_of_submission, a_wait_holds_up_its_queue_only, streams_overtake_each_other_by_seed,
    a_failed_operation_ends_its_stream, memory_freed_too_early_is_noticed, a_wait_ends_when_all_words_are_reached,
    a_wait_ends_on_failure_time_and_cancel, a_wait_in_real_time_is_bounded_and_woken, memory_is_shared_by_descriptor,
    the_thread_lives_as_long_as_something_does, the_end_does_not_wait_for_what_cannot_come,
    a_stream_ends_after_what_is_queued, many_threads)
