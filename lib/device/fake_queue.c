/* SPDX-License-Identifier: Apache-2.0
 *
 * The queues of the fake device.
 *
 * An operation stands in two lists: its stream's and its hardware queue's, both in the order of submission.  A
 * queue works on one operation at a time and keeps it until it has ended: so a wait holds up all behind it.  One thread
 * steps through the queues; in manual mode kvpi_fake_tick does.  Whoever steps holds `stepping`; the
 * mutex is given up while bytes are copied.
 */
#include "device/fake_queue.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/thread.h"
#include "device/fake_memory.h"

#define QUEUES (KVPI_FAKE_DEVICES * KVPI_FAKE_QUEUES_MAX)
#define PIECES 64

/* How often a wait looks at its words: another process may have written them. */
#define WAIT_PAUSE_NS 100000

struct kvpi_fake_stream {
	kvpi_list node;
	kvpi_list ops;
	int device;
	unsigned queue; /* of the device's */
	bool failed;
};

static struct {
	pthread_mutex_t mutex;
	pthread_cond_t changed; /* made on first use, with everything else */
	bool ready;
	bool running, stopping; /* the thread is there, and is to end */
	bool stepping;          /* somebody works on the queues */
	unsigned holds;         /* allocations, imports and streams: what the thread lives for */
	pthread_t thread;
	kvpi_fake_options options;
	kvpi_fake_counts counts;
	uint64_t random;
	kvpi_list streams;
	uint64_t stream_count;
	kvpi_fake_stream default_streams[KVPI_FAKE_DEVICES];
	kvpi_list queues[QUEUES];
	kvpi_fake_op *current[QUEUES];
} fake = {.mutex = PTHREAD_MUTEX_INITIALIZER};

void kvpi_fake_lock(void)
{
	pthread_mutex_lock(&fake.mutex);
}

void kvpi_fake_unlock(void)
{
	pthread_mutex_unlock(&fake.mutex);
}

void kvpi_fake_changed(void)
{
	if (fake.ready)
		pthread_cond_broadcast(&fake.changed);
}

static unsigned next_random(unsigned below)
{
	/* xorshift64: any sequence will do, as long as it follows from the seed. */
	fake.random ^= fake.random << 13;
	fake.random ^= fake.random >> 7;
	fake.random ^= fake.random << 17;
	return (unsigned)(fake.random % below);
}

static void apply(const kvpi_fake_options *options)
{
	fake.options = options != NULL ? *options : (kvpi_fake_options){.queues = 1};
	if (fake.options.queues == 0)
		fake.options.queues = 1;
	if (fake.options.queues > KVPI_FAKE_QUEUES_MAX)
		fake.options.queues = KVPI_FAKE_QUEUES_MAX;
	if (fake.options.clock == NULL)
		fake.options.clock = &kvpi_clock_real;
	fake.random = fake.options.seed * 2 + 1; /* never 0 */
	fake.counts = (kvpi_fake_counts){.queued = fake.counts.queued};
	for (int i = 0; i < KVPI_FAKE_DEVICES; i++)
		fake.default_streams[i].failed = false;
}

/* Locked. */
static kvp_status make_ready(void)
{
	kvp_status status;

	if (fake.ready)
		return KVP_OK;
	status = kvpi_cond_init(&fake.changed);
	if (status != KVP_OK)
		return status;
	kvpi_list_init(&fake.streams);
	for (int i = 0; i < QUEUES; i++)
		kvpi_list_init(&fake.queues[i]);
	for (int i = 0; i < KVPI_FAKE_DEVICES; i++) {
		fake.default_streams[i].device = i;
		kvpi_list_init(&fake.default_streams[i].ops);
	}
	apply(NULL);
	fake.ready = true;
	return KVP_OK;
}

/* ---- running operations ---- */

void kvpi_fake_event_release(kvpi_event *event)
{
	if (atomic_fetch_sub(&event->holders, 1) == 1)
		free(event);
}

void kvpi_fake_list_release(kvpi_wait_list *list)
{
	if (--list->holders == 0)
		free(list);
}

static bool run_copy(const kvpi_fake_op *o)
{
	const kvpi_fake_piece *pieces = o->rest;

	for (size_t i = 0; i < o->count; i++) {
		const kvpi_piece *p = &pieces[i].piece;

		if (!kvpi_fake_memory_copy(p->to, pieces[i].to_device, p->from, pieces[i].from_device, p->len))
			return false;
	}
	return true;
}

static bool run_copy_blocks(const kvpi_fake_op *o)
{
	kvpi_piece pieces[PIECES];
	uint64_t offset = 0;
	size_t count;

	while ((count = kvpi_layout_pieces(&o->to, &o->from, &offset, UINT64_MAX, pieces, PIECES)) > 0) {
		for (size_t i = 0; i < count; i++) {
			if (!kvpi_fake_memory_copy(pieces[i].to, o->to.memory == KVP_MEMORY_FAKE, pieces[i].from,
			        o->from.memory == KVP_MEMORY_FAKE, pieces[i].len))
				return false;
		}
	}
	return true;
}

/* Without the lock: only what the operation itself holds is used. */
static bool run(const kvpi_fake_op *o)
{
	switch (o->kind) {
	case KVPI_FAKE_COPY:
		return run_copy(o);
	case KVPI_FAKE_COPY_BLOCKS:
		return run_copy_blocks(o);
	case KVPI_FAKE_WORD:
		return kvpi_fake_memory_store(o->word, o->value);
	case KVPI_FAKE_RECORD:
	case KVPI_FAKE_WAIT:
		break;
	}
	return true;
}

static uint64_t op_bytes(const kvpi_fake_op *o)
{
	const kvpi_fake_piece *pieces = o->rest;
	uint64_t bytes = 0;

	if (o->kind == KVPI_FAKE_COPY_BLOCKS)
		return o->from.bytes;
	for (size_t i = 0; o->kind == KVPI_FAKE_COPY && i < o->count; i++)
		bytes += pieces[i].piece.len;
	return bytes;
}

/* How the wait stands.  Locked. */
static kvpi_wait_result look(kvpi_fake_op *o, bool force)
{
	const kvpi_wait_entry *entries = o->rest;
	const int64_t now = kvpi_now(fake.options.clock);
	bool reached = true;

	if (!o->waits)
		o->deadline_ns = o->timeout_ns > KVPI_NEVER - now ? KVPI_NEVER : now + o->timeout_ns;
	o->waits = true;
	for (size_t i = 0; i < o->count; i++) {
		uint64_t value;

		if (!kvpi_fake_memory_load(entries[i].word, &value)) {
			fake.counts.bad_accesses++;
			return KVPI_WAIT_FAILED;
		}
		if ((value & KVPI_WORD_FAILED) != 0)
			return KVPI_WAIT_FAILED;
		reached = reached && value >= entries[i].generation;
	}
	if (reached)
		return KVPI_WAIT_OK;
	if (force || o->list->cancels != o->cancels)
		return KVPI_WAIT_FAILED;
	return now >= o->deadline_ns ? KVPI_WAIT_EXPIRED : KVPI_WAIT_PENDING;
}

static void count_run(const kvpi_fake_op *o)
{
	switch (o->kind) {
	case KVPI_FAKE_RECORD:
		fake.counts.records++;
		break;
	case KVPI_FAKE_COPY:
		fake.counts.copies++;
		break;
	case KVPI_FAKE_COPY_BLOCKS:
		fake.counts.block_copies++;
		break;
	case KVPI_FAKE_WORD:
		fake.counts.words++;
		break;
	case KVPI_FAKE_WAIT:
		fake.counts.waits++;
		break;
	}
	fake.counts.bytes += op_bytes(o);
}

void kvpi_fake_op_free(kvpi_fake_op *o)
{
	if (o->event != NULL)
		kvpi_fake_event_release(o->event);
	if (o->list != NULL)
		kvpi_fake_list_release(o->list);
	free(o->rest);
	free(o);
}

/* Takes an operation that has run, or never will, off its lists.  Locked. */
static void end(unsigned queue, kvpi_fake_op *o)
{
	fake.current[queue] = NULL;
	kvpi_list_remove(&o->in_stream);
	kvpi_list_remove(&o->in_queue);
	if (o->kind == KVPI_FAKE_RECORD)
		atomic_store(&o->event->state, o->stream->failed ? KVP_E_DEVICE : KVP_OK);
	fake.counts.queued--;
	kvpi_fake_op_free(o);
	pthread_cond_broadcast(&fake.changed);
}

/* Which operation comes next: the first, or with `reorder` the first of any stream.  Locked. */
static kvpi_fake_op *choose(unsigned queue)
{
	kvpi_list *first = kvpi_list_first(&fake.queues[queue]);
	kvpi_fake_op *chosen = NULL;
	unsigned heads = 0;

	if (first == NULL)
		return NULL;
	if (!fake.options.reorder)
		return KVPI_CONTAINER_OF(first, kvpi_fake_op, in_queue);
	KVPI_LIST_FOREACH(pos, nxt, &fake.queues[queue]) {
		kvpi_fake_op *o = KVPI_CONTAINER_OF(pos, kvpi_fake_op, in_queue);

		/* Each head in turn replaces the one before with the probability that makes all equal. */
		if (kvpi_list_first(&o->stream->ops) == &o->in_stream && next_random(++heads) == 0)
			chosen = o;
	}
	return chosen;
}

/* Is this operation the one that was to fail? */
static bool fails(void)
{
	return fake.options.fail_at > 0 && --fake.options.fail_at == 0;
}

typedef enum outcome { OUTCOME_IDLE, OUTCOME_WAITS, OUTCOME_WENT_ON, OUTCOME_ENDED } outcome;

/* One step of one queue.  `force` passes delays, and ends waits that would go on.  Locked; gives it up while
 * bytes are copied. */
static outcome step(unsigned queue, bool force)
{
	kvpi_fake_op *o = fake.current[queue];
	bool done = true;

	if (o == NULL)
		o = fake.current[queue] = choose(queue);
	if (o == NULL)
		return OUTCOME_IDLE;
	if (o->delay > 0 && !force) {
		o->delay--;
		return OUTCOME_WENT_ON;
	}
	if (o->kind == KVPI_FAKE_WAIT && !o->stream->failed) {
		const kvpi_wait_result result = look(o, force);

		if (result == KVPI_WAIT_PENDING)
			return OUTCOME_WAITS;
		atomic_store(&o->list->result, result);
		count_run(o);
	} else if (o->kind == KVPI_FAKE_WAIT) {
		atomic_store(&o->list->result, KVPI_WAIT_FAILED);
	} else if (!o->stream->failed && o->kind != KVPI_FAKE_RECORD && fails()) {
		o->stream->failed = true;
	} else if (!o->stream->failed) {
		kvpi_fake_unlock();
		done = run(o);
		kvpi_fake_lock();
		count_run(o);
	}
	if (!done) {
		fake.counts.bad_accesses++;
		o->stream->failed = true;
	}
	end(queue, o);
	return OUTCOME_ENDED;
}

/* One step of every queue.  Locked, and stepping is the caller's. */
static outcome step_all(bool force, unsigned *ended)
{
	outcome best = OUTCOME_IDLE;

	for (unsigned i = 0; i < QUEUES; i++) {
		const outcome one = step(i, force);

		best = one > best ? one : best;
		*ended += one == OUTCOME_ENDED;
	}
	return best;
}

/* Only one thread at a time steps.  Locked. */
static void begin_stepping(void)
{
	while (fake.stepping)
		pthread_cond_wait(&fake.changed, &fake.mutex);
	fake.stepping = true;
}

static void end_stepping(void)
{
	fake.stepping = false;
	pthread_cond_broadcast(&fake.changed);
}

static void *work(void *unused)
{
	unsigned ended = 0;

	(void)unused;
	kvpi_fake_lock();
	for (;;) {
		outcome best = OUTCOME_IDLE;

		if (!fake.options.manual || fake.stopping) {
			begin_stepping();
			best = step_all(fake.stopping, &ended);
			end_stepping();
		}
		if (best == OUTCOME_IDLE && fake.stopping)
			break;
		if (best == OUTCOME_IDLE)
			pthread_cond_wait(&fake.changed, &fake.mutex);
		else if (best == OUTCOME_WAITS)
			kvpi_cond_wait_until(&fake.changed, &fake.mutex, kvpi_now(&kvpi_clock_real) + WAIT_PAUSE_NS);
	}
	kvpi_fake_unlock();
	return NULL;
}

/* ---- the thread's life ---- */

/* Something that needs the thread begins to exist. */
kvp_status kvpi_fake_hold(int device)
{
	kvp_status status;

	if (device < 0 || device >= KVPI_FAKE_DEVICES)
		return kvpi_error(KVP_E_INVALID, "fake device: there is no device %d, only 0 to %d", device,
		    KVPI_FAKE_DEVICES - 1);
	kvpi_fake_lock();
	status = make_ready();
	while (status == KVP_OK && fake.stopping)
		pthread_cond_wait(&fake.changed, &fake.mutex);
	if (status == KVP_OK && !fake.running) {
		status = kvpi_thread_start(&fake.thread, "kvp-fake", work, NULL);
		fake.running = status == KVP_OK;
	}
	if (status == KVP_OK)
		fake.holds++;
	kvpi_fake_unlock();
	return status;
}

/* It exists no longer: with the last one the thread ends, when what is queued has. */
void kvpi_fake_release(void)
{
	pthread_t thread;

	kvpi_fake_lock();
	if (--fake.holds > 0) {
		kvpi_fake_unlock();
		return;
	}
	fake.stopping = true;
	thread = fake.thread;
	pthread_cond_broadcast(&fake.changed);
	kvpi_fake_unlock();

	pthread_join(thread, NULL);

	kvpi_fake_lock();
	fake.stopping = fake.running = false;
	for (int i = 0; i < KVPI_FAKE_DEVICES; i++)
		fake.default_streams[i].failed = false;
	pthread_cond_broadcast(&fake.changed);
	kvpi_fake_unlock();
}

/* ---- streams ---- */

kvp_status kvpi_fake_stream_new(int device, void **out)
{
	kvpi_fake_stream *made;
	kvp_status status = kvpi_fake_hold(device);

	if (status != KVP_OK)
		return status;
	made = KVPI_NEW(kvpi_fake_stream);
	if (made == NULL) {
		kvpi_fake_release();
		return kvpi_error_nomem("a stream of the fake device");
	}
	made->device = device;
	kvpi_list_init(&made->ops);
	kvpi_fake_lock();
	/* The default stream has the first queue, the others follow in turn. */
	made->queue = (unsigned)(++fake.stream_count % fake.options.queues);
	kvpi_list_append(&fake.streams, &made->node);
	kvpi_fake_unlock();
	*out = made;
	return KVP_OK;
}

void kvpi_fake_stream_free(int device, void *handle)
{
	kvpi_fake_stream *s = handle;
	unsigned ended = 0;

	(void)device;
	if (s == NULL)
		return;
	kvpi_fake_lock();
	while (!kvpi_list_empty(&s->ops)) {
		if (!fake.options.manual) {
			pthread_cond_wait(&fake.changed, &fake.mutex);
			continue;
		}
		/* Nobody else would. */
		begin_stepping();
		step_all(true, &ended);
		end_stepping();
	}
	kvpi_list_remove(&s->node);
	fake.stream_count--;
	kvpi_fake_unlock();
	free(s);
	kvpi_fake_release();
}

/* The stream behind a handle, NULL if it is none.  Locked. */
static kvpi_fake_stream *find_stream(int device, void *handle)
{
	if (device < 0 || device >= KVPI_FAKE_DEVICES || !fake.running || fake.stopping)
		return NULL;
	if (handle == NULL)
		return &fake.default_streams[device];
	KVPI_LIST_FOREACH(pos, nxt, &fake.streams) {
		kvpi_fake_stream *s = KVPI_CONTAINER_OF(pos, kvpi_fake_stream, node);

		if (s == handle && s->device == device)
			return s;
	}
	return NULL;
}

kvp_status kvpi_fake_submit(int device, void *handle, kvpi_fake_op *o)
{
	kvpi_fake_stream *s;

	kvpi_fake_lock();
	s = find_stream(device, handle);
	if (s == NULL) {
		kvpi_fake_op_free(o);
		kvpi_fake_unlock();
		return kvpi_error(KVP_E_INVALID,
		    "fake device: %p is not a stream of device %d, or the device has neither memory nor streams",
		    handle, device);
	}
	o->stream = s;
	if (fake.options.delay > 0)
		o->delay = next_random(fake.options.delay + 1);
	kvpi_list_append(&s->ops, &o->in_stream);
	kvpi_list_append(&fake.queues[(unsigned)device * KVPI_FAKE_QUEUES_MAX + s->queue], &o->in_queue);
	fake.counts.queued++;
	pthread_cond_broadcast(&fake.changed);
	kvpi_fake_unlock();
	return KVP_OK;
}

kvpi_fake_op *kvpi_fake_op_new(kvpi_fake_kind kind)
{
	kvpi_fake_op *o = KVPI_NEW(kvpi_fake_op);

	if (o != NULL)
		o->kind = kind;
	return o;
}

/* ---- for tests ---- */

void kvpi_fake_set(const kvpi_fake_options *options)
{
	kvpi_fake_lock();
	if (make_ready() == KVP_OK) {
		begin_stepping();
		apply(options);
		end_stepping();
	}
	kvpi_fake_unlock();
}

unsigned kvpi_fake_tick(unsigned steps)
{
	unsigned ended = 0;

	kvpi_fake_lock();
	if (fake.ready) {
		begin_stepping();
		while (steps-- > 0)
			step_all(false, &ended);
		end_stepping();
	}
	kvpi_fake_unlock();
	return ended;
}

void kvpi_fake_count(kvpi_fake_counts *counts)
{
	kvpi_fake_lock();
	*counts = fake.counts;
	counts->streams = fake.stream_count;
	kvpi_fake_unlock();
	counts->allocations = kvpi_fake_memory_count();
}

