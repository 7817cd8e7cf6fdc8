/* SPDX-License-Identifier: Apache-2.0 */
#include "conformance/rig.h"

#include "base/clock.h"
#include "base/context.h"
#include "device/fake.h"
#include "kit/kit.h"
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How the suite runs over each plane of the registry.  What the wrapper fault does here is what plane.h allows any
 * plane to do: nobody must notice. */
static const struct {
	const char *before, *behind;
} ways[] = {{"", ""}, {"fault(", "; seed=3; delay=200us; reorder=200; again=100)"}, {"trace(", ")"}};

/* With sanitizers the wrapped ones would take many minutes; the wrappers have tests of their own, which run. */
static int way_count(void)
{
	return getenv("KVP_SANITIZERS") != NULL ? 1 : (int)(sizeof(ways) / sizeof(ways[0]));
}

/* What it runs over besides. */
static const struct {
	const char *name;
	rig_settings settings;
} extra[] = {
    {"tcp", {.streams = 4, .checksum = true}},
    {"trace(fault(self; seed=5; delay=100us))", {.streams = 0}},
};
#define EXTRA ((int)(sizeof(extra) / sizeof(extra[0])))

static int registered(void)
{
	int count = 0;

	while (kvpi_plane_registry()[count] != NULL)
		count++;
	return count;
}

int rig_plane_count(void)
{
	return way_count() * registered() + EXTRA;
}

int rig_plane_find(const char *name)
{
	int index = 0;

	while (strcmp(kvpi_plane_registry()[index]->name, name) != 0)
		index++;
	return index;
}

/* ---- by chance refused ---- */

#define TRIES 30 /* that all of them are refused by chance happens once in 10^30 */

static kvpi_plane_ops real, table; /* one kind of plane for each test, which is a process */

static kvp_status submit(kvpi_conn *conn, const kvpi_transfer *transfer)
{
	kvp_status status = KVP_E_AGAIN;

	for (int i = 0; i < TRIES && status == KVP_E_AGAIN; i++)
		status = real.submit(conn, transfer);
	return status;
}

static kvp_status post_recv(kvpi_conn *conn, const kvpi_transfer *transfer)
{
	kvp_status status = KVP_E_AGAIN;

	for (int i = 0; i < TRIES && status == KVP_E_AGAIN; i++)
		status = real.post_recv(conn, transfer);
	return status;
}

static kvp_status notify(kvpi_conn *conn, const void *data, size_t len)
{
	kvp_status status = KVP_E_AGAIN;

	for (int i = 0; i < TRIES && status == KVP_E_AGAIN; i++)
		status = real.notify(conn, data, len);
	return status;
}

static const kvpi_plane_ops *patient(const kvpi_plane_ops *ops)
{
	real = table = *ops;
	table.submit = submit;
	table.post_recv = post_recv;
	table.notify = notify;
	return &table;
}

/* ---- endpoints ---- */

static void on_event(void *user, const kvpi_plane_event *event)
{
	rig_end *end = user;
	rig_entry *entry = &end->log[end->logged];

	ck_assert_uint_lt(end->logged, RIG_LOG);
	end->logged++;
	*entry = (rig_entry){.kind = event->kind, .id = event->id, .status = event->status, .len = event->len};
	if (event->len > 0)
		memcpy(entry->data, event->data,
		    event->len < sizeof(entry->data) ? event->len : sizeof(entry->data));
	end->counts[event->kind]++;
	ck_assert_ptr_eq(event->conn_user, end);
	if (event->kind == KVPI_PLANE_LOST) {
		ck_assert_int_lt(event->status, 0);
		ck_assert_ptr_nonnull(event->text);
		ck_assert_uint_gt(strlen(event->text), 0);
	}
	if (end->hook != NULL)
		end->hook(end, event);
}

static void wake(void *user)
{
	kvpi_wakeup_post(&((rig_end *)user)->wakeup);
}

static void open_end(rig *r, rig_end *end, rig_settings settings, uint64_t staging_bytes)
{
	const kvpi_plane_params params = {.context = r->context,
	    .listen = {.bind_host = "127.0.0.1"},
	    .streams = settings.streams,
	    .checksum = settings.checksum,
	    .staging_bytes = staging_bytes,
	    .on_event = on_event,
	    .wake = wake,
	    .user = end};

	const kvpi_plane_ops *ops;

	KIT_OK(kvpi_wakeup_init(&end->wakeup));
	KIT_OK(rig_open(r, &params, &ops, &end->plane, &end->caps));
	end->ops = r->ops = patient(ops);
}

kvp_status rig_open(const rig *r, const kvpi_plane_params *params, const kvpi_plane_ops **ops, kvpi_plane **plane,
    kvpi_plane_caps *caps)
{
	return kvpi_plane_open(&r->spec, params, ops, plane, caps);
}

rig *rig_new(int index, uint64_t staging_bytes)
{
	const int count = registered();
	char name[128];

	ck_assert_int_lt(index, rig_plane_count());
	if (index >= way_count() * count) {
		index -= way_count() * count;
		return rig_new_of(extra[index].name, extra[index].settings, extra[index].settings, staging_bytes);
	}
	snprintf(name, sizeof(name), "%s%s%s", ways[index / count].before, kvpi_plane_registry()[index % count]->name,
	    ways[index / count].behind);
	return rig_new_of(name, (rig_settings){.streams = 0}, (rig_settings){.streams = 0}, staging_bytes);
}

rig *rig_new_of(const char *name, rig_settings a, rig_settings b, uint64_t staging_bytes)
{
	static uint64_t number;
	rig *r = calloc(1, sizeof(*r));
	kvpi_plane_spec specs[KVPI_PLANE_SPECS_MAX];
	size_t count;

	ck_assert_ptr_nonnull(r);
	snprintf(r->list, sizeof(r->list), "%s", name);
	KIT_OK(kvpi_plane_specs_parse(r->list, specs, &count));
	ck_assert_uint_eq(count, 1);
	r->spec = specs[0];
	r->settings = a;
	r->budget = RIG_BUDGET;
	kit_random_fill(r->token, sizeof(r->token), ++number);
	KIT_OK(kvpi_context_hold(NULL, &r->context));
	open_end(r, &r->a, a, staging_bytes);
	open_end(r, &r->b, b, staging_bytes);
	return r;
}

rig *rig_new_connected(int index, uint64_t staging_bytes)
{
	rig *r = rig_new(index, staging_bytes);

	rig_accept(r);
	rig_connect(r);
	return r;
}

static void close_end(rig_end *end)
{
	if (end->plane != NULL)
		end->ops->close(end->plane);
	kvpi_wakeup_fini(&end->wakeup);
}

void rig_free(rig *r)
{
	close_end(&r->a);
	close_end(&r->b);
	kvpi_context_release(r->context);
	free(r);
}

void rig_accept(rig *r)
{
	KIT_OK(r->ops->accept(r->a.plane, r->token, &r->a, &r->a.conn));
}

void rig_connect(rig *r)
{
	const unsigned before_a = r->a.counts[KVPI_PLANE_CONNECTED], before_b = r->b.counts[KVPI_PLANE_CONNECTED];
	char address[KVPI_PLANE_ADDRESS_MAX];
	size_t len = 0;

	KIT_OK(r->ops->address(r->a.plane, address, &len));
	KIT_OK(r->ops->connect(r->b.plane, address, len, r->token, &r->b, &r->b.conn));
	RIG_UNTIL(r, r->a.counts[KVPI_PLANE_CONNECTED] > before_a && r->b.counts[KVPI_PLANE_CONNECTED] > before_b);
	ck_assert_uint_eq(r->a.counts[KVPI_PLANE_CONNECTED], before_a + 1);
	ck_assert_uint_eq(r->b.counts[KVPI_PLANE_CONNECTED], before_b + 1);
}

void rig_hangup(rig_end *end)
{
	kvpi_conn *conn = end->conn;

	end->conn = NULL;
	end->ops->hangup(conn);
}

void rig_step(rig *r)
{
	if (r->b.plane != NULL)
		r->ops->progress(r->b.plane, r->budget);
	if (r->a.plane != NULL)
		r->ops->progress(r->a.plane, r->budget);
}

int64_t rig_patience(void)
{
	const int64_t seconds = getenv("KVP_SANITIZERS") != NULL ? 100 : 20;

	return kvpi_now(&kvpi_clock_real) + seconds * KVPI_NS_PER_S;
}

void rig_step_until(rig *r, int64_t deadline_ns, const char *file, int line, const char *what)
{
	rig_step(r);
	if (kvpi_now(&kvpi_clock_real) >= deadline_ns)
		ck_abort_msg("%s:%d: this does not become true: %s", file, line, what);
}

/* May the end sleep, and would it not be woken at once? */
static bool idle(rig_end *end)
{
	struct pollfd fds[2] = {{end->wakeup.fd, POLLIN, 0}, {-1, POLLIN, 0}};

	if (end->plane == NULL)
		return true;
	kvpi_wakeup_clear(&end->wakeup);
	if (end->ops->progress(end->plane, 1u << 20) || !end->ops->arm(end->plane, &fds[1].fd))
		return false;
	return poll(fds, 2, 0) == 0;
}

void rig_settle(rig *r)
{
	int64_t deadline = rig_patience();

	/* What one end does may be work for the other: three rounds with nothing are the end of it. */
	for (int quiet = 0; quiet < 3; quiet++) {
		const bool a = idle(&r->a), b = idle(&r->b);

		if (!a || !b)
			quiet = -1;
		ck_assert(kvpi_now(&kvpi_clock_real) < deadline);
	}
}

bool rig_told(const rig_end *end, kvpi_event_kind kind, kvpi_transfer_id id)
{
	for (size_t i = 0; i < end->logged; i++) {
		const rig_entry *entry = &end->log[i];

		if (entry->kind == kind && entry->id.seq == id.seq && entry->id.attempt == id.attempt)
			return true;
	}
	return false;
}

/* ---- memory ---- */

static void upload(rig_mem *mem)
{
	if (mem->memory == KVP_MEMORY_FAKE)
		KIT_OK(kvpi_fake_write(mem->base, mem->mirror, mem->size));
	else
		memcpy(mem->base, mem->mirror, mem->size);
}

rig_mem *rig_mem_new(kvp_memory memory, size_t size, uint64_t seed)
{
	rig_mem *mem = calloc(1, sizeof(*mem));
	void *base = NULL;

	ck_assert_ptr_nonnull(mem);
	KIT_OK(kvpi_device_find(memory)->alloc(0, size, &base));
	*mem = (rig_mem){.memory = memory, .size = size, .base = base, .mirror = malloc(size)};
	ck_assert_ptr_nonnull(mem->mirror);
	rig_mem_fill(mem, seed);
	return mem;
}

void rig_mem_free(rig_mem *mem)
{
	kvpi_device_find(mem->memory)->free(0, mem->base);
	free(mem->mirror);
	free(mem);
}

void rig_mem_fill(rig_mem *mem, uint64_t seed)
{
	kit_random_fill(mem->mirror, mem->size, seed);
	upload(mem);
}

bool rig_mem_right(const rig_mem *mem)
{
	char *copy;
	bool right;

	if (mem->memory != KVP_MEMORY_FAKE)
		return memcmp(mem->base, mem->mirror, mem->size) == 0;
	copy = malloc(mem->size);
	ck_assert_ptr_nonnull(copy);
	KIT_OK(kvpi_fake_read(mem->base, copy, mem->size));
	right = memcmp(copy, mem->mirror, mem->size) == 0;
	free(copy);
	return right;
}

void rig_layout(const rig_mem *mem, rig_shape shape, uint64_t bytes, uint32_t ids[RIG_IDS], kvpi_layout *layout)
{
	uint64_t blocks;

	/* Never at the very beginning: what is written before it shows, too. */
	kvpi_layout_of_bytes(mem->base + 40, bytes, mem->memory, 0, layout);
	switch (shape) {
	case RIG_DENSE:
	case RIG_SHAPES:
		break;
	case RIG_ROWS: /* long rows with a gap */
		layout->ndim = 1;
		layout->dim[0] = (kvpi_dim){bytes / 8192, 8192 + 1000};
		layout->block_bytes = 8192;
		break;
	case RIG_TINY: /* a transposed matrix of 8-byte elements: 64 columns, with a gap */
		layout->ndim = 2;
		layout->dim[0] = (kvpi_dim){64, 8};
		layout->dim[1] = (kvpi_dim){bytes / 512, 512 + 24};
		layout->block_bytes = 8;
		break;
	case RIG_BLOCKS: /* two layers of K and V, pages of 4096 picked by ids */
		blocks = bytes / (4 * 4096);
		ck_assert_uint_le(blocks, RIG_IDS);
		layout->ndim = 3;
		layout->dim[0] = (kvpi_dim){2, 2 * 2 * blocks * 4096};
		layout->dim[1] = (kvpi_dim){2, 2 * blocks * 4096};
		layout->dim[2] = (kvpi_dim){blocks, 4096};
		layout->block_bytes = 4096;
		layout->ids = ids;
		layout->id_dim = 2;
		/* Neither sorted nor all, but some neighbours: 1 0 3 2 or so, and beyond the middle. */
		for (uint32_t i = 0; i < blocks; i++)
			ids[i] = i % 3 == 2 ? i + (uint32_t)blocks : i;
		break;
	}
	ck_assert_uint_le(bytes * (shape == RIG_DENSE ? 1 : RIG_SPREAD), mem->size);
}

void rig_mirror_copy(const rig_mem *to, const kvpi_layout *to_layout, const rig_mem *from,
    const kvpi_layout *from_layout)
{
	kvpi_layout t = *to_layout, f = *from_layout;
	kvpi_piece pieces[32];
	uint64_t offset = 0;
	size_t count;

	t.base = to->mirror + (to_layout->base - to->base);
	f.base = from->mirror + (from_layout->base - from->base);
	while ((count = kvpi_layout_pieces(&t, &f, &offset, UINT64_MAX, pieces, 32)) > 0) {
		for (size_t i = 0; i < count; i++)
			memcpy(pieces[i].to, pieces[i].from, pieces[i].len);
	}
}

kvpi_transfer rig_transfer(uint64_t seq, uint32_t attempt, const kvpi_layout *layout)
{
	return (kvpi_transfer){.id = {seq, attempt}, .direction = KVPI_PUT, .local = *layout};
}

/* ---- transfers ---- */

kvpi_layout rig_bytes(const rig_mem *mem, uint64_t offset, uint64_t bytes)
{
	kvpi_layout layout;

	kvpi_layout_of_bytes(mem->base + offset, bytes, mem->memory, 0, &layout);
	return layout;
}

void rig_post(rig_end *end, uint64_t seq, const kvpi_layout *layout)
{
	const kvpi_transfer transfer = rig_transfer(seq, 1, layout);

	KIT_OK(end->ops->post_recv(end->conn, &transfer));
}

void rig_put(rig_end *end, uint64_t seq, const kvpi_layout *layout)
{
	const kvpi_transfer transfer = rig_transfer(seq, 1, layout);

	KIT_OK(end->ops->submit(end->conn, &transfer));
}

void rig_carry(rig *r, rig_end *from, rig_end *to, uint64_t seq, const rig_mem *src, const kvpi_layout *source,
    const rig_mem *dst, const kvpi_layout *target)
{
	rig_post(to, seq, target);
	rig_put(from, seq, source);
	RIG_UNTIL(r, rig_told(from, KVPI_PLANE_SENT, RIG_ID(seq)) && rig_told(to, KVPI_PLANE_RECEIVED, RIG_ID(seq)));
	rig_mirror_copy(dst, target, src, source);
	ck_assert(rig_mem_right(src));
	ck_assert(rig_mem_right(dst));
}
