/* SPDX-License-Identifier: Apache-2.0
 *
 * What is the plane `shm`'s own: the ways on which bytes go, and a peer that lies.  What every plane does is in
 * tests/conformance; what processes do to each other is in test_shm_processes.c.
 */
#include "conformance/rig.h"
#include "kit/kit.h"

#include "base/fault.h"
#include "device/fake.h"
#include "plane/shm.h"
#include <kvpipe/memory.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define LOST KVPI_PLANE_LOST
#define RECEIVED KVPI_PLANE_RECEIVED
#define SENT KVPI_PLANE_SENT
#define NOTIFIED KVPI_PLANE_NOTIFIED

#define MIB (1u << 20)

static int shm_index(void)
{
	int index = 0;

	while (strcmp(kvpi_plane_registry()[index]->name, "shm") != 0)
		index++;
	return index;
}

static rig *new_connected(void)
{
	return rig_new_connected(shm_index(), 0);
}

/* Memory of kvp_mem_alloc as a rig_mem. */
static rig_mem *shared_new(size_t size, uint64_t seed)
{
	rig_mem *mem = calloc(1, sizeof(*mem));
	void *base = NULL;

	ck_assert_ptr_nonnull(mem);
	KIT_OK(kvp_mem_alloc(NULL, size, &base));
	*mem = (rig_mem){.memory = KVP_MEMORY_HOST, .size = size, .base = base, .mirror = malloc(size)};
	ck_assert_ptr_nonnull(mem->mirror);
	rig_mem_fill(mem, seed);
	return mem;
}

static void shared_free(rig_mem *mem)
{
	kvp_mem_free(NULL, mem->base);
	free(mem->mirror);
	free(mem);
}

/* ---- ways ---- */

/* All shapes to all shapes; what has to go by `way` does. */
static void carry_by(rig *r, const rig_mem *src, const rig_mem *dst, kvpi_shm_way way, bool tiny_too)
{
	const uint64_t bytes = 256u << 10, before = r->a.conn->by_way[way];
	uint32_t ids[2][RIG_IDS];
	uint64_t expected = 0;

	for (int s = 0; s < RIG_SHAPES * RIG_SHAPES; s++) {
		kvpi_layout source, target;

		rig_layout(src, (rig_shape)(s / RIG_SHAPES), bytes, ids[0], &source);
		rig_layout(dst, (rig_shape)(s % RIG_SHAPES), bytes, ids[1], &target);
		rig_carry(r, &r->b, &r->a, 1 + (uint64_t)s, src, &source, dst, &target);
		r->a.logged = r->b.logged = 0;
		expected += tiny_too || s / RIG_SHAPES != RIG_TINY ? bytes : 0;
	}
	ck_assert_uint_eq(r->a.conn->by_way[way] - before, expected);
}

START_TEST(each_memory_goes_its_way)
{
	rig_mem *dst = rig_mem_new(KVP_MEMORY_HOST, RIG_SPREAD * (256u << 10), 1);
	rig_mem *plain = rig_mem_new(KVP_MEMORY_HOST, RIG_SPREAD * (256u << 10), 2);
	rig_mem *shared = shared_new(RIG_SPREAD * (256u << 10), 3), *other = shared_new(RIG_SPREAD * (256u << 10), 4);
	kvpi_layout small = rig_bytes(plain, 1, KVPI_SHM_INLINE_MAX), target = rig_bytes(dst, 1, KVPI_SHM_INLINE_MAX);
	rig *r = new_connected();

	if (!r->a.conn->reads) {
		kit_note_skip(__FILE__, __LINE__, "process_vm_readv is not allowed here");
	} else {
		carry_by(r, plain, dst, KVPI_SHM_REMOTE, false); /* tiny runs are gathered by the sender */
	}
	carry_by(r, shared, dst, KVPI_SHM_MAPPED, true);
	carry_by(r, shared, other, KVPI_SHM_MAPPED, true);
	rig_carry(r, &r->b, &r->a, 1, plain, &small, dst, &target);
	ck_assert_uint_eq(r->a.conn->by_way[KVPI_SHM_INLINE], KVPI_SHM_INLINE_MAX);
	rig_free(r);

	/* Where the kernel forbids it, which both ends find out when they meet. */
	kvpi_fault_arm("shm.readv", 1, 0);
	r = new_connected();
	ck_assert(!r->a.conn->reads && !r->b.conn->able);
	carry_by(r, plain, dst, KVPI_SHM_STAGED, true);
	carry_by(r, shared, dst, KVPI_SHM_MAPPED, true);
	kvpi_fault_disarm_all();
	rig_free(r);
	rig_mem_free(dst);
	rig_mem_free(plain);
	shared_free(shared);
	shared_free(other);
}
END_TEST

START_TEST(more_blocks_than_a_message_holds)
{
	enum { BLOCKS = 20000, BLOCK = 64 };
	uint32_t *ids = malloc(BLOCKS * sizeof(*ids));
	rig_mem *src = shared_new(BLOCKS * BLOCK, 1), *dst = rig_mem_new(KVP_MEMORY_HOST, BLOCKS * BLOCK, 2);
	kvpi_layout source = rig_bytes(src, 0, BLOCKS * BLOCK), target = rig_bytes(dst, 0, BLOCKS * BLOCK);
	rig *r = new_connected();

	ck_assert_ptr_nonnull(ids);
	ck_assert_uint_gt(BLOCKS, KVPI_SHM_IDS_MAX);
	for (uint32_t i = 0; i < BLOCKS; i++)
		ids[i] = BLOCKS - 1 - i;
	source.ndim = 1;
	source.dim[0] = (kvpi_dim){BLOCKS, BLOCK};
	source.block_bytes = BLOCK;
	source.ids = ids;
	rig_carry(r, &r->b, &r->a, 1, src, &source, dst, &target);
	ck_assert_uint_eq(r->a.conn->by_way[KVPI_SHM_STAGED], BLOCKS * BLOCK);

	/* As many as it does hold. */
	source.dim[0].count = KVPI_SHM_IDS_MAX;
	source.bytes = target.bytes = target.block_bytes = KVPI_SHM_IDS_MAX * BLOCK;
	rig_carry(r, &r->b, &r->a, 2, src, &source, dst, &target);
	ck_assert_uint_eq(r->a.conn->by_way[KVPI_SHM_MAPPED], KVPI_SHM_IDS_MAX * BLOCK);
	rig_free(r);
	rig_mem_free(dst);
	shared_free(src);
	free(ids);
}
END_TEST

START_TEST(freed_memory_is_forgotten)
{
	enum { MEMORIES = KVPI_SHM_MEMORIES + 10, BYTES = 16384 };
	rig_mem *dst = rig_mem_new(KVP_MEMORY_HOST, BYTES, 1), *src[MEMORIES];
	const kvpi_layout target = rig_bytes(dst, 0, BYTES);
	rig *r = new_connected();

	/* More than there are places: the oldest go. */
	for (uint64_t i = 0; i < MEMORIES; i++) {
		kvpi_layout source;

		src[i] = shared_new(BYTES, i);
		source = rig_bytes(src[i], 0, BYTES);
		rig_carry(r, &r->b, &r->a, i + 1, src[i], &source, dst, &target);
	}
	ck_assert_uint_eq(r->a.conn->by_way[KVPI_SHM_MAPPED], MEMORIES * BYTES);
	rig_settle(r);
	ck_assert_uint_le(kvpi_imports_bytes(r->a.conn->imports), KVPI_SHM_MEMORIES * BYTES);
	for (int i = 0; i < MEMORIES; i++)
		shared_free(src[i]);
	RIG_UNTIL(r, kvpi_imports_bytes(r->a.conn->imports) == 0);
	rig_free(r);
	rig_mem_free(dst);
}
END_TEST

START_TEST(memory_that_cannot_be_mapped_is_read)
{
	rig_mem *src = shared_new(MIB, 1), *dst = rig_mem_new(KVP_MEMORY_HOST, MIB, 2);
	const kvpi_layout source = rig_bytes(src, 5, 100000), target = rig_bytes(dst, 7, 100000);
	rig *r = new_connected();

	if (!r->a.conn->reads) {
		rig_free(r);
		KIT_SKIP("process_vm_readv is not allowed here");
	}
	kvpi_fault_arm("imports.mmap", 1, 1);
	rig_carry(r, &r->b, &r->a, 1, src, &source, dst, &target);
	kvpi_fault_disarm_all();
	ck_assert_uint_eq(r->a.conn->by_way[KVPI_SHM_REMOTE], 100000);
	rig_free(r);
	rig_mem_free(dst);
	shared_free(src);
}
END_TEST

/* ---- lies ---- */

/* A message that the peer could write: a good one, and what is wrong with it. */
typedef struct lie {
	kvpi_shm_put put;
	kvpi_dim dims[KVP_MAX_DIMS];
	uint32_t ids[16];
	size_t len;
} lie;

#define LIE_BYTES 65536u

/* A good put of number 1: MAPPED rows picked by ids. */
static lie good(const kvpi_mem *memory, kvpi_shm_way way, kvpi_grant grant)
{
	lie l = {.put = {.kind = KVPI_SHM_PUT,
	             .way = (uint8_t)way,
	             .ndim = 1,
	             .attempt = 1,
	             .seq = 1,
	             .bytes = LIE_BYTES,
	             .block_bytes = LIE_BYTES / 16,
	             .base = way == KVPI_SHM_MAPPED ? 0 : (uint64_t)(uintptr_t)memory->base,
	             .address = (uint64_t)(uintptr_t)memory->base,
	             .generation = grant.generation,
	             .slot = grant.slot,
	             .id_count = 16},
	    .dims = {{16, LIE_BYTES / 16}}};

	memcpy(l.put.memory, memory->id, sizeof(l.put.memory));
	for (uint32_t i = 0; i < 16; i++)
		l.ids[i] = i;
	l.len = sizeof(l.put) + sizeof(l.dims[0]) + sizeof(l.ids);
	return l;
}

static void say(rig_end *end, const lie *l)
{
	unsigned char message[sizeof(*l)];
	const size_t dims = sizeof(l->dims[0]);
	bool wake;

	memcpy(message, &l->put, sizeof(l->put));
	memcpy(message + sizeof(l->put), l->dims, dims);
	memcpy(message + sizeof(l->put) + dims, l->ids, sizeof(l->ids));
	KIT_OK(kvpi_ring_put(&end->conn->out_ring, message, l->len, NULL, 0, &wake));
}

typedef struct liar {
	rig *r;
	rig_mem *src, *dst;
	kvpi_mem *memory;
	kvpi_grant grant;
	kvpi_layout target;
} liar;

static void liar_init(liar *x)
{
	x->r = new_connected();
	x->src = shared_new(LIE_BYTES, 1);
	x->dst = rig_mem_new(KVP_MEMORY_HOST, LIE_BYTES, 2);
	x->memory = kvpi_mem_find(x->r->context, x->src->base, LIE_BYTES);
	ck_assert_ptr_nonnull(x->memory);
	x->target = rig_bytes(x->dst, 0, LIE_BYTES);
	rig_post(&x->r->a, 1, &x->target);
	KIT_OK(kvpi_shm_announce(x->r->b.conn, x->memory));
	KIT_OK(kvpi_grant_offer(&x->r->b.conn->grants, &x->grant));
}

static void liar_fini(liar *x)
{
	rig_free(x->r);
	kvpi_mem_release(x->memory);
	rig_mem_free(x->dst);
	shared_free(x->src);
}

/* The receiver sees through it: the connection is over, nothing was written, and the next one works. */
static void expect_seen(liar *x, kvp_status status)
{
	rig *r = x->r;
	const kvpi_layout source = rig_bytes(x->src, 0, LIE_BYTES);

	RIG_UNTIL(r, r->a.counts[LOST] == 1 && r->b.counts[LOST] == 1);
	ck_assert_int_eq(r->a.log[r->a.logged - 1].status, status);
	ck_assert_uint_eq(r->a.counts[RECEIVED], 0);
	ck_assert(rig_mem_right(x->dst));
	rig_hangup(&r->b);
	rig_connect(r);
	rig_carry(r, &r->b, &r->a, 7, x->src, &source, x->dst, &x->target);
}

START_TEST(what_a_liar_could_say_is_right_without_the_lie)
{
	for (int way = KVPI_SHM_MAPPED; way <= KVPI_SHM_REMOTE; way++) {
		liar x;
		lie l;

		liar_init(&x);
		if (way == KVPI_SHM_REMOTE && !x.r->a.conn->reads) {
			liar_fini(&x);
			KIT_SKIP("process_vm_readv is not allowed here");
		}
		l = good(x.memory, (kvpi_shm_way)way, x.grant);
		say(&x.r->b, &l);
		RIG_UNTIL(x.r, x.r->a.counts[RECEIVED] == 1);
		ck_assert_int_eq(memcmp(x.dst->base, x.src->base, LIE_BYTES), 0);
		liar_fini(&x);
	}
}
END_TEST

/* One field each.  _i is the number of the lie. */
static void spoil(lie *l, int number)
{
	switch (number) {
	case 0: l->put.kind = 9; break;
	case 1: l->put.way = 0; break;
	case 2: l->put.way = 5; break;
	case 3: l->put.ndim = KVP_MAX_DIMS + 1; break;
	case 4: l->put.ndim = 0; break;
	case 5: l->put.bytes--; break;
	case 6: l->put.bytes = l->put.block_bytes = 0; break;
	case 7: l->put.block_bytes++; break;
	case 8: l->put.base = 1; break;
	case 9: l->put.base = UINT64_MAX - LIE_BYTES / 2; break;
	case 10: l->put.memory[3] ^= 1; break;
	case 11: l->put.slot = KVPI_GRANTS; break;
	case 12: l->put.slot = UINT32_MAX; break;
	case 13: l->put.id_dim = 1; break;
	case 14: l->put.id_count = 15; break;
	case 15: l->put.id_count = UINT32_MAX; break;
	case 16: l->put.reserved = 1; break;
	case 17: l->dims[0].count = 17; break;
	case 18: l->dims[0].count = 0; break;
	case 19: l->dims[0].stride = UINT64_MAX; break;
	case 20: l->dims[0].stride = UINT64_C(1) << 60; l->ids[15] = 17; break; /* wraps to a small number */
	case 21: l->ids[7] = 16; break;
	case 22: l->ids[7] = UINT32_MAX; break;
	case 23: l->len--; break;
	case 24: l->len = sizeof(l->put); break;
	case 25: l->len = sizeof(l->put) - 1; break;
	case 26: l->len = 1; break;
	case 27: l->len = 0; break;
	case 28: l->put.way = KVPI_SHM_INLINE; break;
	case 29: l->put.way = KVPI_SHM_STAGED; break;
	case 30: l->put.kind = KVPI_SHM_CHUNK; break;
	case 31: l->put.kind = KVPI_SHM_CHUNK; l->len = sizeof(kvpi_shm_chunk); break; /* of nothing */
	case 32: l->dims[0].count = UINT64_MAX / 2; l->put.block_bytes = 4; break;
	default: ck_abort();
	}
}
#define LIES 33

START_TEST(every_lie_ends_the_connection_and_nothing_else)
{
	for (int way = KVPI_SHM_MAPPED; way <= KVPI_SHM_REMOTE; way++) {
		for (int number = 0; number < LIES; number++) {
			liar x;
			lie l;

			/* Where an address is wrong, the kernel says so; memory, base and ids are addresses then. */
			if (way == KVPI_SHM_REMOTE && (number == 8 || number == 10 || number == 21 || number == 22))
				continue;
			liar_init(&x);
			if (way == KVPI_SHM_REMOTE && !x.r->a.conn->reads) {
				liar_fini(&x);
				KIT_SKIP("process_vm_readv is not allowed here");
			}
			l = good(x.memory, (kvpi_shm_way)way, x.grant);
			spoil(&l, number);
			say(&x.r->b, &l);
			expect_seen(&x, KVP_E_PROTOCOL);
			liar_fini(&x);
		}
	}
}
END_TEST

START_TEST(an_address_where_nothing_is)
{
	liar x;
	lie l;
	void *hole = mmap(NULL, LIE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ck_assert_ptr_ne(hole, MAP_FAILED);
	liar_init(&x);
	if (!x.r->a.conn->reads) {
		liar_fini(&x);
		KIT_SKIP("process_vm_readv is not allowed here");
	}
	l = good(x.memory, KVPI_SHM_REMOTE, x.grant);
	l.put.base = (uint64_t)(uintptr_t)hole;
	say(&x.r->b, &l);
	expect_seen(&x, KVP_E_PROTOCOL);
	liar_fini(&x);
	munmap(hole, LIE_BYTES);
}
END_TEST

static void say_chunk(rig_end *end, kvpi_shm_chunk chunk)
{
	bool wake;

	chunk.kind = KVPI_SHM_CHUNK;
	KIT_OK(kvpi_ring_put(&end->conn->out_ring, &chunk, sizeof(chunk), NULL, 0, &wake));
}

START_TEST(chunks_are_checked)
{
	static const struct {
		uint64_t offset, len, base;
		bool unknown;
	} bad[] = {{1, 100, 0, false}, {0, 0, 0, false}, {0, LIE_BYTES + 1, 0, false}, {0, UINT64_MAX, 0, false},
	    {0, 100, LIE_BYTES - 99, false}, {0, 100, UINT64_MAX, false}, {0, 100, 0, true}};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		kvpi_shm_chunk chunk = {.offset = bad[i].offset, .len = bad[i].len, .base = bad[i].base};
		liar x;
		lie l = {.put = {.kind = KVPI_SHM_PUT,
		             .way = KVPI_SHM_STAGED,
		             .attempt = 1,
		             .seq = 1,
		             .bytes = LIE_BYTES},
		    .len = sizeof(l.put)};

		liar_init(&x);
		memcpy(chunk.memory, x.memory->id, sizeof(chunk.memory));
		chunk.memory[0] ^= bad[i].unknown;
		say(&x.r->b, &l);
		say_chunk(&x.r->b, chunk);
		expect_seen(&x, KVP_E_PROTOCOL);
		liar_fini(&x);
	}
}
END_TEST

START_TEST(a_staged_put_that_stops_was_canceled)
{
	liar x;
	lie l = {.put = {.kind = KVPI_SHM_PUT, .way = KVPI_SHM_STAGED, .attempt = 1, .seq = 1, .bytes = LIE_BYTES},
	    .len = sizeof(l.put)};
	kvpi_shm_chunk chunk = {.len = 100};

	liar_init(&x);
	memcpy(chunk.memory, x.memory->id, sizeof(chunk.memory));
	say(&x.r->b, &l);
	say_chunk(&x.r->b, chunk);
	KIT_OK(x.r->ops->notify(x.r->b.conn, "x", 1));
	RIG_UNTIL(x.r, x.r->a.counts[NOTIFIED] == 1);
	/* The same again, whole. */
	l = good(x.memory, KVPI_SHM_MAPPED, x.grant);
	say(&x.r->b, &l);
	RIG_UNTIL(x.r, x.r->a.counts[RECEIVED] == 1);
	ck_assert_int_eq(memcmp(x.dst->base, x.src->base, LIE_BYTES), 0);
	liar_fini(&x);
}
END_TEST

START_TEST(words_over_the_channel_are_checked)
{
	static const kvpi_shm_word bad[] = {{.kind = 0}, {.kind = 99}, {.kind = KVPI_SHM_SETUP}, {.kind = KVPI_SHM_ABLE},
	    {.kind = KVPI_SHM_MEMORY, .a = 4096}};
	const int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		for (int with_fd = 0; with_fd < 2; with_fd++) {
			liar x;

			liar_init(&x);
			KIT_OK(kvpi_shm_send(x.r->b.conn, &bad[i], with_fd ? null : -1));
			expect_seen(&x, KVP_E_PROTOCOL);
			liar_fini(&x);
		}
	}
	for (int i = 0; i < 3; i++) {
		const unsigned char bytes[100] = {KVPI_SHM_BELL};
		const int fds[] = {null, null};
		liar x;

		liar_init(&x);
		/* Too short, too long, too many descriptors. */
		KIT_OK(kvpi_channel_send(
		    x.r->b.conn->channel, bytes, i == 0 ? 1 : i == 1 ? 100 : sizeof(kvpi_shm_word), fds, i == 2 ? 2 : 0));
		expect_seen(&x, KVP_E_PROTOCOL);
		liar_fini(&x);
	}
	close(null);
}
END_TEST

/* The receiver writes what only a liar would. */
START_TEST(words_in_the_page_are_checked)
{
	for (int what = 0; what < 4; what++) {
		rig *r = new_connected();
		rig_mem *src = shared_new(MIB, 1);
		const kvpi_layout source = rig_bytes(src, 0, MIB);

		rig_put(&r->b, 1, &source);
		while (kvpi_list_empty(&r->b.conn->offered))
			r->ops->progress(r->b.plane, RIG_BUDGET);
		if (what == 0)
			atomic_store(&r->a.conn->theirs->grants[0].word, UINT64_MAX);
		if (what == 1)
			atomic_fetch_add(&r->a.conn->theirs->grants[0].word, UINT64_C(1) << 40);
		if (what == 2)
			atomic_store(&r->a.conn->theirs->ring.read, 12345678);
		if (what == 3)
			atomic_store(&r->a.conn->theirs->taken, 1);
		/* The writer looks at the reader's place only when it seems to need room, and at the chunks when it has some. */
		for (int i = 0; i < 10000 && r->b.conn->state == KVPI_SHM_UP; i++) {
			const kvp_status status = what == 3 ? KVP_OK : r->ops->notify(r->b.conn, src->base, 9000);

			ck_assert(status == KVP_OK || status == KVP_E_AGAIN || status == KVP_E_PEER_LOST);
			if (what == 3 && i == 0) {
				rig_mem *device = rig_mem_new(KVP_MEMORY_FAKE, 100000, 3);
				const kvpi_layout layout = rig_bytes(device, 0, 100000);

				rig_put(&r->b, 2, &layout);
				RIG_UNTIL(r, r->b.counts[LOST] == 1);
				rig_mem_free(device);
			}
			r->ops->progress(r->b.plane, RIG_BUDGET);
		}
		ck_assert_uint_eq(r->b.counts[LOST], 1);
		ck_assert_int_eq(r->b.log[r->b.logged - 1].status, KVP_E_PROTOCOL);
		ck_assert_uint_eq(r->b.counts[SENT], 0);
		rig_free(r);
		shared_free(src);
	}
}
END_TEST

/* ---- endings ---- */

/* The receiver is in the middle of it; what the sender then does to its memory never counts as received. */
START_TEST(what_was_recalled_is_not_received)
{
	for (int hang_up = 0; hang_up < 2; hang_up++) {
		rig *r = new_connected();
		rig_mem *src = shared_new(4 * MIB, 1), *dst = rig_mem_new(KVP_MEMORY_HOST, 4 * MIB, 2);
		const kvpi_layout source = rig_bytes(src, 0, 4 * MIB), target = rig_bytes(dst, 0, 4 * MIB);

		rig_post(&r->a, 1, &target);
		rig_put(&r->b, 1, &source);
		while (!r->a.conn->in.claimed)
			rig_step(r); /* of 64 KiB */
		if (hang_up) {
			rig_hangup(&r->b);
		} else {
			ck_assert_int_eq(r->ops->cancel(r->b.conn, RIG_ID(1)), KVP_RECEIPT_QUARANTINED);
			ck_assert_int_eq(r->ops->cancel(r->b.conn, RIG_ID(1)), KVP_RECEIPT_QUARANTINED);
		}
		rig_mem_fill(src, 9);
		r->budget = 64 * MIB; /* all that is left in one go */
		rig_settle(r);
		ck_assert_uint_eq(r->a.counts[RECEIVED], 0);
		ck_assert_uint_eq(r->a.counts[LOST], (unsigned)hang_up);
		if (!hang_up)
			ck_assert_int_eq(r->ops->cancel(r->b.conn, RIG_ID(1)), KVP_RECEIPT_QUIESCENT);
		ck_assert_uint_eq(r->b.counts[SENT], 0);
		rig_free(r);
		rig_mem_free(dst);
		shared_free(src);
	}
}
END_TEST

/* Also what has been copied whole, but not counted yet. */
START_TEST(a_recall_before_the_last_look_counts)
{
	rig *r = new_connected();
	rig_mem *src = shared_new(MIB, 1), *dst = rig_mem_new(KVP_MEMORY_HOST, MIB, 2);
	const kvpi_layout source = rig_bytes(src, 0, MIB), target = rig_bytes(dst, 0, MIB);

	rig_post(&r->a, 1, &target);
	rig_put(&r->b, 1, &source);
	r->budget = MIB - 1;
	while (!r->a.conn->in.claimed)
		rig_step(r);
	ck_assert_uint_gt(r->a.conn->in.done, MIB - 100); /* all but some bytes, in one piece */
	ck_assert_int_eq(r->ops->cancel(r->b.conn, RIG_ID(1)), KVP_RECEIPT_QUARANTINED);
	rig_mem_fill(src, 9);
	rig_settle(r);
	ck_assert_uint_eq(r->a.counts[RECEIVED], 0);
	rig_free(r);
	rig_mem_free(dst);
	shared_free(src);
}
END_TEST

/* The last bytes are on their way to the device when the destination is taken back: what comes behind is not held up. */
START_TEST(a_canceled_post_that_is_copied_whole)
{
	for (int staged = 0; staged < 2; staged++) {
		rig *r = new_connected();
		rig_mem *src = rig_mem_new(staged ? KVP_MEMORY_FAKE : KVP_MEMORY_HOST, 100000, 1);
		rig_mem *dst = rig_mem_new(KVP_MEMORY_FAKE, 100000, 2), *plain = rig_mem_new(KVP_MEMORY_HOST, 100000, 3);
		const kvpi_layout source = rig_bytes(src, 0, 90000), target = rig_bytes(dst, 0, 90000);
		const kvpi_layout next = rig_bytes(plain, 0, 40000), place = rig_bytes(plain, 50000, 40000);

		kvpi_fake_set(&(kvpi_fake_options){.delay = 1000});
		rig_post(&r->a, 1, &target);
		rig_put(&r->b, 1, &source);
		while (!r->a.conn->in.copied && r->a.counts[RECEIVED] == 0)
			rig_step(r);
		if (r->a.counts[RECEIVED] == 0)
			(void)r->ops->cancel(r->a.conn, RIG_ID(1));
		rig_carry(r, &r->b, &r->a, 2, plain, &next, plain, &place);
		RIG_UNTIL(r, r->ops->cancel(r->a.conn, RIG_ID(1)) == KVP_RECEIPT_QUIESCENT);
		kvpi_fake_set(NULL);
		rig_free(r);
		rig_mem_free(src);
		rig_mem_free(dst);
		rig_mem_free(plain);
	}
}
END_TEST

/* ---- where it cannot work ---- */

static kvp_status open_one(kvpi_plane **plane, uint64_t staging_bytes)
{
	kvpi_plane_caps caps;
	const kvpi_plane_params params = {.listen = {.bind_host = "127.0.0.1"}, .staging_bytes = staging_bytes};

	return kvpi_plane_registry()[shm_index()]->open(&params, plane, &caps);
}

START_TEST(without_shared_memory_there_is_a_sentence)
{
	static const char *const points[] = {"memfd.create", "memfd.fallocate", "memfd.seal", "memfd.mmap"};
	kvpi_plane *plane = NULL;

	for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++) {
		kvpi_fault_arm(points[i], 1, 0);
		KIT_STATUS(open_one(&plane, 0), KVP_E_UNSUPPORTED);
		kvpi_fault_disarm_all();
		ck_assert_ptr_null(plane);
	}
	KIT_STATUS(open_one(&plane, 1), KVP_E_INVALID);
	KIT_OK(open_one(&plane, 0));
	kvpi_plane_registry()[shm_index()]->close(plane);
}
END_TEST

START_TEST(memory_runs_out_while_meeting)
{
	static const char *const points[] = {"memfd.create", "memfd.fallocate", "memfd.mmap"};

	for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++) {
		for (unsigned n = 1; n <= 2; n++) {
			rig *r = rig_new(shm_index(), 0);
			char address[KVPI_PLANE_ADDRESS_MAX];
			size_t len = 0;

			rig_accept(r);
			KIT_OK(r->ops->address(r->a.plane, address, &len));
			KIT_OK(r->ops->connect(r->b.plane, address, len, r->token, &r->b, &r->b.conn));
			kvpi_fault_arm(points[i], n, 1);
			RIG_UNTIL(r, r->b.counts[LOST] == 1);
			kvpi_fault_disarm_all();
			rig_hangup(&r->b);
			rig_settle(r);
			rig_connect(r);
			rig_free(r);
		}
	}
}
END_TEST

START_TEST(descriptors_run_out_and_come_back)
{
	rig *r = rig_new(shm_index(), 0);
	char address[KVPI_PLANE_ADDRESS_MAX];
	struct rlimit limit, low;
	kvpi_plane *plane = NULL;
	size_t len = 0;

	rig_accept(r);
	KIT_OK(r->ops->address(r->a.plane, address, &len));
	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
	/* From none to more than are needed. */
	for (rlim_t room = 0; room < 24; room++) {
		const int lowest = dup(0);
		kvp_status status;

		close(lowest);
		low = limit;
		low.rlim_cur = (rlim_t)lowest + room;
		ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &low), 0);
		status = open_one(&plane, 0);
		ck_assert(status == KVP_OK || status == KVP_E_UNSUPPORTED);
		if (status == KVP_OK)
			r->ops->close(plane);
		status = r->ops->connect(r->b.plane, address, len, r->token, &r->b, &r->b.conn);
		for (int i = 0; i < 2000; i++)
			rig_step(r);
		ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
		if (status == KVP_OK)
			rig_hangup(&r->b);
		for (int i = 0; i < 200; i++)
			rig_step(r);
	}
	rig_connect(r);
	rig_free(r);
}
END_TEST

/* ---- judgement ---- */

START_TEST(judges_by_what_the_two_share)
{
	static const kvpi_hostid base = {.boot_id = "b", .pid_ns = 1, .net_ns = 2, .run_dev = 3, .run_ino = 4, .user = 5};
	const kvpi_plane_ops *ops = kvpi_plane_registry()[shm_index()];
	static const struct {
		kvpi_hostid theirs;
		kvp_status status;
		const char *why;
	} rows[] = {
	    {{.boot_id = "b", .user = 5, .pid_ns = 1, .net_ns = 9, .run_dev = 3, .run_ino = 4}, KVP_OK, "run directory"},
	    {{.boot_id = "b", .user = 5, .pid_ns = 1, .net_ns = 2}, KVP_OK, "network namespace"},
	    {{.boot_id = "b", .user = 5, .pid_ns = 8, .net_ns = 2}, KVP_OK, "pid namespaces"},
	    {{.boot_id = "c", .user = 5, .pid_ns = 1, .net_ns = 2, .run_dev = 3, .run_ino = 4}, KVP_E_UNSUPPORTED, "another host"},
	    {{.net_ns = 2, .run_dev = 3, .run_ino = 4}, KVP_E_UNSUPPORTED, "another host"},
	    {{.boot_id = "b", .user = 5, .pid_ns = 1, .net_ns = 9, .run_dev = 3, .run_ino = 5}, KVP_E_UNSUPPORTED, "neither"},
	    {{.boot_id = "b", .user = 5}, KVP_E_UNSUPPORTED, "not known"},
	    {{.boot_id = "b", .pid_ns = 1, .net_ns = 2, .run_dev = 3, .run_ino = 4, .user = 6}, KVP_E_UNSUPPORTED, "different users"},
	    {{.boot_id = "b", .pid_ns = 1, .net_ns = 2, .run_dev = 3, .run_ino = 4}, KVP_E_UNSUPPORTED, "different users"},
	    {{.boot_id = "b", .pid_ns = 1, .net_ns = 2, .run_dev = 3, .run_ino = 4, .user = 5, .user_ns = 7}, KVP_E_UNSUPPORTED,
	        "user namespaces"},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const kvpi_facts mine = {.host = base, .process = "abc"};
		const kvpi_facts theirs = {.host = rows[i].theirs, .process = "xyz"};
		char why[128] = "";

		ck_assert_int_eq(ops->judge(&mine, &theirs, why, sizeof(why)), rows[i].status);
		ck_assert_msg(strstr(why, rows[i].why) != NULL, "%s", why);
		ck_assert_int_eq(ops->judge(&theirs, &mine, why, sizeof(why)), rows[i].status);
		ck_assert_uint_lt(strlen(why), sizeof(why) - 1);
	}
}
END_TEST

KIT_MAIN("plane shm", each_memory_goes_its_way, more_blocks_than_a_message_holds, freed_memory_is_forgotten,
    memory_that_cannot_be_mapped_is_read, what_a_liar_could_say_is_right_without_the_lie,
    every_lie_ends_the_connection_and_nothing_else, an_address_where_nothing_is, chunks_are_checked,
    a_staged_put_that_stops_was_canceled, words_over_the_channel_are_checked, words_in_the_page_are_checked,
    what_was_recalled_is_not_received, a_recall_before_the_last_look_counts,
    a_canceled_post_that_is_copied_whole,
    without_shared_memory_there_is_a_sentence, memory_runs_out_while_meeting, descriptors_run_out_and_come_back,
    judges_by_what_the_two_share)
