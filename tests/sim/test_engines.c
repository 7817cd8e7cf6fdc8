/* SPDX-License-Identifier: Apache-2.0
 *
 * A ring of two or three whole engines, each with its hub, sessions, planes and both halves of the protocol, on one
 * manual clock and a simulated network (net.h), over the data plane fault(self).  Control messages are lost, doubled,
 * late and out of order, data connections break, requests are canceled and run out, engines die, freeze, are cut off
 * or closed at any step.  Whatever happens:
 *
 *	each request ends exactly once, and none outlives its deadline by a single step of its engine;
 *	what is received are the right bytes, in order, none skipped, and a send says KVP_OK only if that happened;
 *	memory is neither read nor written after its request has ended;
 *	every byte and every item of the budgets comes back;
 *	between two ends that are well everything is delivered once the weather is good.
 */
#include "kit/kit.h"

#include "base/context.h"
#include "engine/engine.h"
#include "sim/net.h"
#include "sim/seeds.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ENGINES 3
#define SENDS 40
#define POSTS 120
#define BYTES_MAX (KVPI_LINK_INLINE_MAX + 1000)
#define HEARTBEAT_MS 200
#define LONG_MS 30000 /* a deadline that only what is stuck misses */
#define BUDGET (8 * BYTES_MAX)

/* One request and its memory. */
typedef struct job {
	kvp_request *request;
	int64_t deadline_ns;
	uint64_t fill;    /* what its memory must hold once it has ended */
	uint64_t content; /* what a send carries */
	size_t len;      /* of a send's tensor */
	size_t capacity; /* of the memory */
	unsigned char memory[BYTES_MAX];
	bool none;    /* the marker, no tensor */
	bool hurried; /* canceled, or with a short deadline */
	unsigned plan;      /* receives: which plan this one is part of; 0: none */
	unsigned ends;
	kvp_status status, met; /* sends: how the receiver met it; KVP_PENDING: not at all */
	struct end *of;
} job;

/* One engine, the link out of it (to the next in the ring), and the link into it. */
typedef struct end {
	struct world *world;
	int number;
	kvpi_engine *engine; /* NULL: dead */
	job sends[SENDS], posts[POSTS];
	unsigned sent, posted;
	unsigned met; /* tensors that its receives have met */
	unsigned plan;         /* of its receives: the present one */
	const job *broken[POSTS]; /* by plan: the first that failed */
	int64_t frozen_until_ns;
	bool closed;
	char planes[160];
} end;

typedef struct world {
	kvpi_clock clock;
	kvp_context *context;
	int count;
	end ends[ENGINES];
	int64_t fate_ns;
	enum { NOTHING, DEATH, FREEZE, CUT, CLOSE, FATES } fate;
	int victim;
} world;

static end *next_of(end *e)
{
	return &e->world->ends[(e->number + 1) % e->world->count];
}

static end *previous_of(end *e)
{
	return &e->world->ends[(e->number + e->world->count - 1) % e->world->count];
}

/* ---- requests ----------------------------------------------------------------------------------------------- */

/* From now on the memory is somebody else's. */
static void take_back(job *j, kvp_status status)
{
	SIM_CHECK(j->ends == 0, "a request ended twice");
	j->ends++;
	j->status = status;
	kit_random_fill(j->memory, j->capacity, j->fill);
}

static void send_done(void *user, kvp_status status)
{
	job *j = user;

	if (status == KVP_OK)
		SIM_CHECK(j->met == KVP_OK, "a send says that it was received, and it was not");
	take_back(j, status);
}

static void recv_done(void *user, kvp_status status)
{
	job *j = user;
	end *from = previous_of(j->of);

	const job **broken = &j->of->broken[j->plan];

	if (status != KVP_OK && status != KVP_E_WITHDRAWN && (*broken == NULL || j < *broken))
		*broken = j;
	if (status == KVP_OK || status == KVP_E_WITHDRAWN) {
		job *sent = &from->sends[j->of->met++];

		SIM_CHECK(j->plan == 0 || *broken == NULL || j < *broken, "a plan went on behind a receive that failed");
		SIM_CHECK(j->of->met <= from->sent, "more was received than sent");
		SIM_CHECK(sent->met == KVP_PENDING, "a tensor was met twice");
		if (status == KVP_E_WITHDRAWN)
			SIM_CHECK(sent->ends == 1 && sent->status != KVP_OK, "withdrawn without a reason");
		sent->met = status;
		if (status == KVP_OK) {
			SIM_CHECK((j->request->tensor.dtype == KVP_DTYPE_NONE) == sent->none &&
			              kvp_tensor_bytes(&j->request->tensor) == sent->len,
			          "another tensor was received than the one that is next");
			kit_check_fill(j->memory, sent->len, sent->content);
		}
	}
	take_back(j, status);
}

static void job_init(job *j, end *of, kvpi_request_kind kind, void (*done)(void *, kvp_status))
{
	int64_t now = kvpi_now(&of->world->clock);

	memset(j, 0, offsetof(job, memory));
	j->of = of;
	j->status = j->met = KVP_PENDING;
	j->fill = 1 + net_draw(UINT64_C(1) << 40);
	j->content = 1 + net_draw(UINT64_C(1) << 40);
	j->hurried = net_draw(6) == 0;
	j->deadline_ns = now + (int64_t)(j->hurried ? net_draw(400) : LONG_MS) * KVPI_NS_PER_MS;
	KIT_OK(kvpi_request_new(of->engine->requests, kind, &j->request));
	j->request->begun_ns = now;
	j->request->done = done;
	j->request->done_user = j;
}

static void forget(job *j)
{
	kvp_request_free(j->request);
	j->request = NULL;
}

/* As the pipe does it: room first, then the engine. */
static void send_one(end *e)
{
	job *j = &e->sends[e->sent];
	int64_t shape[1];
	kvp_status status;

	job_init(j, e, KVPI_REQUEST_SEND, send_done);
	j->none = net_draw(10) == 0;
	/* Some travel inside of their announcement, some are too long for that. */
	j->len = j->none ? 0 : net_draw(2) == 0 ? net_draw(500) : KVPI_LINK_INLINE_MAX + 1 + net_draw(1000);
	j->capacity = j->len;
	shape[0] = (int64_t)j->len;
	kit_random_fill(j->memory, j->capacity, j->content);
	if (j->none)
		kvp_tensor_init_none(&j->request->tensor);
	else
		KIT_OK(kvp_tensor_init(&j->request->tensor, j->memory, KVP_DTYPE_INT8, 1, shape));
	j->request->tensor.memory = KVP_MEMORY_HOST;
	j->request->item.tensor = &j->request->tensor;
	j->request->item.bytes = j->request->charged = j->len;
	j->request->item.deadline_ns = j->deadline_ns;
	status = kvpi_admission_take(&e->engine->bytes, j->len, 0);
	if (status == KVP_OK) {
		KIT_OK(kvpi_admission_take(&e->engine->items, 1, 0));
		kvpi_counter_add(&e->engine->metrics.in_flight_bytes, j->len);
		status = kvpi_engine_submit(e->engine, j->request);
		if (status == KVP_OK) {
			e->sent++;
			return;
		}
		kvpi_counter_add(&e->engine->metrics.in_flight_bytes, -j->len);
		kvpi_admission_give_back(&e->engine->items, 1);
		kvpi_admission_give_back(&e->engine->bytes, j->len);
	}
	forget(j);
}

static void post_one(end *e, bool long_one)
{
	job *j = &e->posts[e->posted];
	kvp_status status;

	job_init(j, e, KVPI_REQUEST_RECV, recv_done);
	if (long_one)
		j->deadline_ns = kvpi_now(&e->world->clock) + LONG_MS * KVPI_NS_PER_MS;
	j->capacity = sizeof(j->memory);
	kvp_tensor_init_buffer(&j->request->tensor, j->memory, !long_one && net_draw(30) == 0 ? 10 : BYTES_MAX);
	j->request->tensor.memory = KVP_MEMORY_HOST;
	j->request->post.tensor = &j->request->tensor;
	j->request->post.alone = long_one || net_draw(2) == 0;
	j->plan = j->request->post.alone ? 0 : e->plan;
	j->request->post.deadline_ns = j->deadline_ns;
	status = kvpi_engine_submit(e->engine, j->request);
	if (status == KVP_OK) {
		e->posted++;
		return;
	}
	if (status == KVP_E_CANCELED) { /* the plan behind a receive that failed is void */
		kvpi_engine_resume(e->engine);
		e->plan += e->plan < POSTS - 1;
	}
	forget(j);
}

static unsigned open_jobs(const job *jobs, unsigned count)
{
	unsigned open = 0;

	for (unsigned i = 0; i < count; i++)
		open += jobs[i].ends == 0;
	return open;
}

static void cancel_one(job *jobs, unsigned count)
{
	job *j = count > 0 ? &jobs[net_draw(count)] : NULL;

	if (j == NULL || j->ends != 0)
		return;
	j->hurried = true;
	atomic_store(&j->request->cancel_wanted, true);
	kvpi_engine_cancel_wanted(j->of->engine);
}

/* ---- engines ------------------------------------------------------------------------------------------------- */

static void service_of(char out[32], const end *from)
{
	snprintf(out, 32, "ring/%d", from->number);
}

static void engine_open(end *e)
{
	static const char *const ways[] = {
	    NULL, /* not wrapped */
	    "reorder=200; again=50",
	    "loss=30; refuse=200",
	    "loss=100; freeze=20; freeze_time=40ms; again=100; reorder=300",
	    "drop=150; duplicate=150",
	};
	const char *way = ways[net_draw(sizeof(ways) / sizeof(ways[0]))];
	const unsigned seed = (unsigned)net_draw(1000), delay_ms = (unsigned)net_draw(30);
	kvpi_engine_params params = {.context = e->world->context,
	                             .name = "e",
	                             .compat_text = "ring",
	                             .listen = {.bind_host = "127.0.0.1"},
	                             .worker_cpu = -1,
	                             .heartbeat_ms = HEARTBEAT_MS,
	                             .buffer_bytes = BUDGET,
	                             .clock = &e->world->clock};
	char service[32];

	snprintf(e->planes, sizeof(e->planes), "self");
	if (way != NULL)
		snprintf(e->planes, sizeof(e->planes), "fault(self; seed=%u; delay=%ums; %s)", seed, delay_ms, way);
	params.planes = e->planes;
	net_set_node(e->number);
	KIT_OK(kvpi_engine_new(&params, &e->engine));
	service_of(service, previous_of(e));
	kvpi_engine_expect(e->engine, service);
}

static void engine_dial(end *e)
{
	char service[32];

	service_of(service, e);
	kvpi_engine_dial(e->engine, kvpi_engine_url(next_of(e)->engine), service,
	                 kvpi_now(&e->world->clock) + 5000 * KVPI_NS_PER_MS);
}

static void check_deadlines(const job *jobs, unsigned count, int64_t now)
{
	for (unsigned i = 0; i < count; i++)
		SIM_CHECK(jobs[i].ends == 1 || jobs[i].deadline_ns > now, "request %u outlives its deadline", i);
}

static void engine_step(end *e)
{
	int64_t now = kvpi_now(&e->world->clock);

	if (e->engine == NULL || now < e->frozen_until_ns)
		return;
	net_set_node(e->number);
	for (int i = 0; i < 4 && kvpi_engine_step(e->engine); i++)
		continue;
	check_deadlines(e->sends, e->sent, now);
	check_deadlines(e->posts, e->posted, now);
}

/* Its process is gone: nothing of it is heard any more, and the kernel closes its data connections. */
static void engine_die(end *e)
{
	net_cut(e->number, true);
	kvpi_engine_free(e->engine);
	e->engine = NULL;
	SIM_CHECK(open_jobs(e->sends, e->sent) + open_jobs(e->posts, e->posted) == 0, "freed with requests left");
}

/* ---- a world ------------------------------------------------------------------------------------------------- */

static void step(world *w)
{
	int first = (int)net_draw((uint64_t)w->count);

	kvpi_clock_manual_advance(&w->clock, (int64_t)(1 + net_draw(20)) * KVPI_NS_PER_MS);
	for (int i = 0; i < w->count; i++)
		if (net_draw(10) > 0)
			engine_step(&w->ends[(first + i) % w->count]);
}

static void do_something(end *e)
{
	if (e->engine == NULL)
		return;
	switch (net_draw(10)) {
	case 0:
	case 1:
	case 2:
		if (e->sent < SENDS)
			send_one(e);
		break;
	case 3:
	case 4:
		if (e->posted < POSTS / 2)
			post_one(e, false);
		break;
	case 5:
		if (net_draw(3) == 0)
			cancel_one(e->sends, e->sent);
		break;
	case 6:
		if (net_draw(3) == 0)
			cancel_one(e->posts, e->posted);
		break;
	default:
		break;
	}
}

static void befall(world *w)
{
	end *e = &w->ends[w->victim];

	switch (w->fate) {
	case DEATH:
		engine_die(e);
		break;
	case FREEZE:
		e->frozen_until_ns = kvpi_now(&w->clock) + (int64_t)net_draw(2000) * KVPI_NS_PER_MS;
		break;
	case CUT:
		net_cut(e->number, true);
		break;
	case CLOSE:
		kvpi_engine_close(e->engine);
		e->closed = true;
		break;
	default:
		break;
	}
	w->fate_ns = KVPI_NEVER;
}

/* Are both ends of the link from e up? */
static bool is_well(end *e)
{
	end *to = next_of(e);

	return e->engine != NULL && to->engine != NULL && !to->closed && e->engine->out.status == KVP_OK &&
	       to->engine->in.status == KVP_OK;
}

static bool is_done(world *w)
{
	for (int i = 0; i < w->count; i++) {
		end *e = &w->ends[i];

		if (open_jobs(e->sends, e->sent) + open_jobs(e->posts, e->posted) > 0 ||
		    (is_well(e) && next_of(e)->met < e->sent))
			return false;
	}
	return true;
}

/* The weather clears.  Receives are posted as long as there is something to receive; what cannot be delivered any more
 * runs out. */
static void settle(world *w)
{
	net_set_weather((net_weather){.delay_ms = 2});
	if (w->fate == CUT)
		net_cut(w->victim, false);
	for (int i = 0; i < 20000 && !is_done(w); i++) {
		for (int k = 0; k < w->count; k++) {
			end *e = &w->ends[k];

			if (e->engine != NULL && !e->closed && e->posted < POSTS && e->met < previous_of(e)->sent &&
			    open_jobs(e->posts, e->posted) < 4 && e->engine->in.status == KVP_OK)
				post_one(e, true);
		}
		step(w);
	}
	/* A link of which one end is over ends at the other, too. */
	for (int i = 0; i < 200; i++)
		step(w);
}

static void check_end(end *e)
{
	uint64_t used, peak, refusals;

	SIM_CHECK(open_jobs(e->sends, e->sent) == 0, "%u sends of %d are left", open_jobs(e->sends, e->sent), e->number);
	SIM_CHECK(open_jobs(e->posts, e->posted) == 0, "receives are left");
	for (unsigned i = 0; i < e->sent; i++)
		kit_check_fill(e->sends[i].memory, e->sends[i].capacity, e->sends[i].fill);
	for (unsigned i = 0; i < e->posted; i++)
		kit_check_fill(e->posts[i].memory, e->posts[i].capacity, e->posts[i].fill);
	if (e->engine == NULL)
		return;
	kvpi_admission_read(&e->engine->bytes, &used, &peak, &refusals);
	SIM_CHECK(used == 0, "%d bytes of the budget are kept", (int)used);
	SIM_CHECK(kvpi_counter_get(&e->engine->metrics.in_flight_bytes) == 0, "bytes are counted as in flight");
	kvpi_admission_read(&e->engine->items, &used, &peak, &refusals);
	if (is_well(e) || e->engine->out.status < 0)
		SIM_CHECK(used == 0, "%d items of %d are kept", (int)used, e->number);
	if (is_well(e)) {
		SIM_CHECK(next_of(e)->met == e->sent, "%u of %u tensors of %d were met", next_of(e)->met, e->sent,
		          e->number);
		for (unsigned i = 0; i < e->sent; i++)
			if (!e->sends[i].hurried)
				SIM_CHECK(e->sends[i].status == KVP_OK, "send %u of %d ended with %s: stuck", i, e->number,
				              kvp_status_name(e->sends[i].status));
	} else if (next_of(e)->engine != NULL && !next_of(e)->closed) {
		SIM_CHECK(e->engine->out.status < 0, "one end of a link is over, the other one does not know");
	}
}

static uint64_t links_well, links; /* so that a run which proves nothing shows */

static void run_seed(uint64_t seed)
{
	static world the_world;
	world *w = &the_world;
	unsigned rounds;

	memset(w, 0, sizeof(*w));
	kvpi_clock_manual_init(&w->clock, KVPI_NS_PER_S);
	net_reset(seed, &w->clock);
	KIT_OK(kvpi_context_hold(NULL, &w->context));
	w->count = 2 + (int)net_draw(ENGINES - 1);
	net_set_weather((net_weather){.lose = (unsigned)net_draw(250),
	                              .twice = (unsigned)net_draw(200),
	                              .no_room = (unsigned)net_draw(50),
	                              .renew = (unsigned)net_draw(20),
	                              .delay_ms = (unsigned)net_draw(60)});
	for (int i = 0; i < w->count; i++) {
		w->ends[i].world = w;
		w->ends[i].number = i;
		w->ends[i].plan = 1;
	}
	for (int i = 0; i < w->count; i++)
		engine_open(&w->ends[i]);
	for (int i = 0; i < w->count; i++)
		engine_dial(&w->ends[i]);
	w->fate = net_draw(2) == 0 ? NOTHING : (unsigned)net_draw(FATES);
	w->victim = (int)net_draw((uint64_t)w->count);
	w->fate_ns = KVPI_NS_PER_S + (int64_t)net_draw(2500) * KVPI_NS_PER_MS;
	rounds = 100 + (unsigned)net_draw(200);
	for (unsigned i = 0; i < rounds; i++) {
		for (int k = 0; k < w->count; k++)
			do_something(&w->ends[k]);
		if (kvpi_now(&w->clock) >= w->fate_ns)
			befall(w);
		step(w);
	}
	settle(w);
	for (int i = 0; i < w->count; i++) {
		check_end(&w->ends[i]);
		links++;
		links_well += is_well(&w->ends[i]);
	}
	for (int i = 0; i < w->count; i++)
		kvpi_engine_free(w->ends[i].engine);
	for (int i = 0; i < w->count; i++) {
		for (unsigned k = 0; k < w->ends[i].sent; k++)
			forget(&w->ends[i].sends[k]);
		for (unsigned k = 0; k < w->ends[i].posted; k++)
			forget(&w->ends[i].posts[k]);
	}
	kvpi_context_release(w->context);
}

START_TEST(every_request_ends_once_in_time_and_right)
{
	sim_run(run_seed, NULL);
	ck_assert_msg(getenv("KVP_SIM_SEED") != NULL || links_well * 4 > links, "only %d of %d links stayed up: no weather "
	              "to learn from", (int)links_well, (int)links);
}
END_TEST

KIT_MAIN("engines", every_request_ends_once_in_time_and_right)
