/* SPDX-License-Identifier: Apache-2.0
 *
 * The store's mind (core.h) and the pending calls of three clients (calls.h) on one manual clock, joined by connections
 * that are slow, break with all that is under way on them, and are made anew; the server is restarted, too.  Beside
 * the core runs a model of forty lines that knows no lists, heaps or counters: whatever the core answers, the model
 * must have answered at the same moment.  And whatever a client's call says in the end:
 *
 *	it ends once, by its deadline;
 *	OK and every answer of the server are what the server said to this very call, executed once; an addition, which
 *	is said again when its answer may be lost, counts once, and a wait said again changes nothing;
 *	a take that removed something says so, or says that nobody knows: never a time-out, never "not found";
 *	"nothing was changed" is true, and STORE_RESTARTED is said only when it was;
 *	calls whose connection broke end soon after the next one is made;
 *	keys go at their time to the nanosecond, parked calls too, and none is left behind.
 */
#include "kit/kit.h"

#include "base/clock.h"
#include "base/error.h"
#include "sim/seeds.h"
#include "store/calls.h"
#include "store/core.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CLIENTS 3
#define CALLS 60
#define KEYS 4
#define GET_MAX 3
#define FLYING 256
#define PARKED 256
#define NONE INT64_MIN
#define RENEWED_MS 1500 /* a ping's interval and more: then a client knows that its connection is another one */

/* ---- what the world consists of ------------------------------------------------------------------------------ */

typedef struct request { /* a call as the model sees it */
	int kind; /* KVPI_MSG_store_* */
	int keys[GET_MAX], count;
	bool take;
	int64_t wait_ns, ttl_ns, delta;
	uint32_t uses;
	int64_t value, expected; /* values are decimal numbers, so that every key can be added to; NONE: the key must not exist */
} request;

typedef struct client client;

typedef struct call {
	kvpi_store_call base;
	request request;
	client *of;
	unsigned ends;
	uint64_t born_in;  /* incarnation of the server as its client knew it then */
	uint32_t sent_on; /* generation of the connection */
	uint64_t once[2];  /* an addition's name, which makes it count once however often it is said */
	kvpi_msg add;
	uint64_t added_in; /* incarnation in which the model has added */
	int64_t sum;
	unsigned executed; /* times that the server answered it */
	bool removed;      /* a take: keys are gone */
	kvp_status said;   /* the server's answer, if it was executed */
	int64_t values[GET_MAX], number;
	kvp_status heard; /* as the client read it */
	int64_t heard_values[GET_MAX], heard_number;
} call;

typedef struct frame {
	bool used, up; /* to the server */
	int64_t at_ns;
	uint64_t order;
	client *of;
	size_t len;
	char data[1024];
} frame;

struct client {
	int number;
	uint32_t generation; /* of its connection */
	int64_t down_until_ns;
	int64_t last_up_ns, last_down_ns; /* connections keep the order */
	kvpi_store_calls calls;
	call made[CALLS];
	unsigned count;
	uint64_t cancels[CALLS];
	unsigned cancel_count;
};

typedef struct model_wait {
	bool used;
	kvpi_zid client;
	uint64_t id, order;
	request request;
	int64_t deadline_ns;
} model_wait;

typedef struct expected { /* a reply that the model has given and the core must give next */
	kvpi_zid client;
	uint64_t id;
	kvp_status status;
	int64_t values[GET_MAX], number;
	int value_count;
	bool counts; /* the number */
} expected;

static struct {
	uint64_t random;
	kvpi_clock clock;
	bool bad;
	client clients[CLIENTS];
	frame flying[FLYING];
	uint64_t orders;
	/* the server */
	kvpi_store_core *core;
	uint64_t incarnation;
	kvpi_msg_reader *reader;
	/* the model */
	struct {
		bool exists;
		int64_t value, expires_ns;
		uint32_t uses;
	} keys[KEYS];
	model_wait waits[PARKED];
	expected expected[PARKED];
	size_t expected_count, expected_at;
} w;

static uint64_t draw(uint64_t below)
{
	return kit_random(&w.random) % below;
}

static int64_t now(void)
{
	return kvpi_now(&w.clock);
}

static const char *key_name(int key)
{
	static const char *const names[KEYS] = {"a", "b", "c", "d"};

	return names[key];
}

/* ---- connections ---------------------------------------------------------------------------------------------- */

static kvpi_zid zid_of(const client *c)
{
	return (kvpi_zid){.len = 2, .bytes = {(unsigned char)c->number, (unsigned char)c->generation}};
}

static bool is_connected(const client *c)
{
	return now() >= c->down_until_ns;
}

static client *find_client(const kvpi_zid *zid)
{
	client *c = &w.clients[zid->bytes[0]];

	return zid->bytes[1] == (unsigned char)c->generation && is_connected(c) ? c : NULL;
}

static void launch(client *c, bool up, const void *data, size_t len)
{
	int64_t *last = up ? &c->last_up_ns : &c->last_down_ns;
	int64_t at = now() + (int64_t)draw(w.bad ? 80 : 3) * KVPI_NS_PER_MS;

	*last = at > *last ? at : *last;
	for (size_t i = 0; i < FLYING; i++)
		if (!w.flying[i].used) {
			w.flying[i] = (frame){.used = true, .up = up, .at_ns = *last, .order = ++w.orders, .of = c, .len = len};
			SIM_CHECK(len <= sizeof(w.flying[i].data), "a frame of %zu bytes", len);
			memcpy(w.flying[i].data, data, len);
			return;
		}
	ck_abort_msg("too much on its way");
}

static void break_connection(client *c)
{
	for (size_t i = 0; i < FLYING; i++)
		if (w.flying[i].used && w.flying[i].of == c)
			w.flying[i].used = false;
	c->generation++;
	c->down_until_ns = now() + (int64_t)draw(1500) * KVPI_NS_PER_MS;
	c->last_up_ns = c->last_down_ns = 0;
}

/* ---- the model ------------------------------------------------------------------------------------------------ */

static bool model_reaches(const kvpi_zid *zid)
{
	return find_client(zid) != NULL;
}

static expected *expect(const kvpi_zid *zid, uint64_t id, kvp_status status)
{
	expected *e = &w.expected[w.expected_count++];

	SIM_CHECK(w.expected_count <= PARKED, "too many replies");
	*e = (expected){.client = *zid, .id = id, .status = status};
	return e;
}

static bool model_has_all(const request *r)
{
	for (int i = 0; i < r->count; i++)
		if (!w.keys[r->keys[i]].exists)
			return false;
	return true;
}

static void model_give(const kvpi_zid *zid, uint64_t id, const request *r)
{
	expected *e = expect(zid, id, KVP_OK);

	for (int i = 0; i < r->count; i++)
		e->values[e->value_count++] = w.keys[r->keys[i]].value;
	for (int i = 0; r->take && model_reaches(zid) && i < r->count; i++)
		if (w.keys[r->keys[i]].uses > 1)
			w.keys[r->keys[i]].uses--;
		else
			w.keys[r->keys[i]].exists = false;
}

static model_wait *model_oldest(bool (*is_it)(const model_wait *, int64_t), int64_t what)
{
	model_wait *oldest = NULL;

	for (size_t i = 0; i < PARKED; i++)
		if (w.waits[i].used && is_it(&w.waits[i], what) && (oldest == NULL || w.waits[i].order < oldest->order))
			oldest = &w.waits[i];
	return oldest;
}

static bool wants(const model_wait *wait, int64_t key)
{
	for (int i = 0; i < wait->request.count; i++)
		if (wait->request.keys[i] == key)
			return model_has_all(&wait->request);
	return false;
}

static void model_put(int key, int64_t value, int64_t expires_ns, uint32_t uses)
{
	bool appeared = !w.keys[key].exists;
	model_wait *wait;

	w.keys[key].exists = true;
	w.keys[key].value = value;
	w.keys[key].expires_ns = expires_ns;
	w.keys[key].uses = uses;
	while (appeared && (wait = model_oldest(wants, key)) != NULL) {
		wait->used = false;
		model_give(&wait->client, wait->id, &wait->request);
	}
}

static void model_get(const kvpi_zid *zid, uint64_t id, const request *r)
{
	for (size_t i = 0; i < PARKED; i++)
		if (w.waits[i].used && w.waits[i].id == id && memcmp(w.waits[i].client.bytes, zid->bytes, zid->len) == 0)
			return; /* said again, and parked already */
	if (model_has_all(r)) {
		model_give(zid, id, r);
	} else if (r->wait_ns == 0) {
		expect(zid, id, KVP_E_NOT_FOUND);
	} else {
		for (size_t i = 0; i < PARKED; i++)
			if (!w.waits[i].used) {
				w.waits[i] = (model_wait){true, *zid, id, ++w.orders, *r, now() + r->wait_ns};
				return;
			}
		ck_abort_msg("too many parked calls");
	}
}

static void model_add(const kvpi_zid *zid, call *of)
{
	const int key = of->request.keys[0];
	const bool exists = w.keys[key].exists;
	expected *e;

	if (of->added_in != w.incarnation) {
		of->added_in = w.incarnation;
		of->sum = (exists ? w.keys[key].value : 0) + of->request.delta;
		model_put(key, of->sum, exists ? w.keys[key].expires_ns : KVPI_NEVER, exists ? w.keys[key].uses : 0);
	}
	e = expect(zid, of->base.id, KVP_OK);
	e->counts = true;
	e->number = of->sum;
}

static void model_request(const kvpi_zid *zid, uint64_t id, call *of)
{
	const request *r = &of->request;
	const int key = r->keys[0];
	const bool exists = w.keys[key].exists;
	expected *e;

	switch (r->kind) {
	case KVPI_MSG_store_get:
		model_get(zid, id, r);
		break;
	case KVPI_MSG_store_set:
		model_put(key, r->value, r->ttl_ns > 0 ? now() + r->ttl_ns : KVPI_NEVER, r->uses);
		expect(zid, id, KVP_OK);
		break;
	case KVPI_MSG_store_add:
		model_add(zid, of);
		break;
	case KVPI_MSG_store_compare_set:
		if (exists ? r->expected != w.keys[key].value : r->expected != NONE) {
			e = expect(zid, id, KVP_E_CONFLICT);
			if (exists)
				e->values[e->value_count++] = w.keys[key].value;
		} else {
			model_put(key, r->value, KVPI_NEVER, 0);
			expect(zid, id, KVP_OK);
		}
		break;
	default:
		expect(zid, id, exists ? KVP_OK : KVP_E_NOT_FOUND);
		w.keys[key].exists = false;
		break;
	}
}

static bool is_due(const model_wait *wait, int64_t at)
{
	return wait->deadline_ns <= at;
}

/* The one whose time came first; of equals any, the core's heap has no order for them either. */
static void model_advance(void)
{
	model_wait *wait;

	for (int i = 0; i < KEYS; i++)
		if (w.keys[i].exists && w.keys[i].expires_ns <= now())
			w.keys[i].exists = false;
	while ((wait = model_oldest(is_due, now())) != NULL) {
		wait->used = false;
		expect(&wait->client, wait->id, KVP_E_TIMEOUT);
	}
}

static void model_check_gauges(void)
{
	kvpi_store_stats *stats = kvpi_store_core_stats(w.core);
	unsigned keys = 0, waits = 0;

	for (int i = 0; i < KEYS; i++)
		keys += w.keys[i].exists;
	for (size_t i = 0; i < PARKED; i++)
		waits += w.waits[i].used;
	SIM_CHECK(kvpi_counter_get(&stats->keys) == keys, "the store has %d keys, the model %u",
	          (int)kvpi_counter_get(&stats->keys), keys);
	SIM_CHECK(kvpi_counter_get(&stats->waits) == waits, "the store has %d parked calls, the model %u",
	          (int)kvpi_counter_get(&stats->waits), waits);
}

/* ---- the server ----------------------------------------------------------------------------------------------- */

static call *find_call(const kvpi_zid *zid, uint64_t id)
{
	client *c = &w.clients[zid->bytes[0]];

	for (unsigned i = 0; i < c->count; i++)
		if (c->made[i].base.id == id)
			return &c->made[i];
	return NULL;
}

static int64_t number_in(kvpi_view text)
{
	char copy[32];

	snprintf(copy, sizeof(copy), "%.*s", (int)text.len, (const char *)text.data);
	return strtoll(copy, NULL, 10);
}

/* The reply that the model has waiting for this call; timers that ran out together come in any order. */
static expected *find_expected(const kvpi_zid *zid, uint64_t id)
{
	for (size_t i = 0; i < w.expected_count; i++)
		if (w.expected[i].id == id && memcmp(w.expected[i].client.bytes, zid->bytes, zid->len) == 0)
			return &w.expected[i];
	return NULL;
}

/* An addition has a name, a wait changes nothing: both are said again when their answer may be lost. */
static bool may_repeat(const call *of)
{
	return of->request.kind == KVPI_MSG_store_add || of->base.harmless;
}

static void compare(const kvpi_zid *zid, const kvpi_msg_store_reply *reply)
{
	expected *e = find_expected(zid, reply->id);
	call *of = find_call(zid, reply->id);

	SIM_CHECK(e != NULL && of != NULL, "the store answers call %d, the model does not", (int)reply->id);
	SIM_CHECK(e->status == (kvp_status)reply->status, "the store says %s, the model %s",
	          kvp_status_name((kvp_status)reply->status), kvp_status_name(e->status));
	SIM_CHECK((int)reply->values.count == e->value_count, "%d values, the model has %d", (int)reply->values.count,
	          e->value_count);
	for (int i = 0; i < e->value_count; i++)
		SIM_CHECK(number_in(reply->values.items[i]) == e->values[i], "another value than the model's");
	SIM_CHECK(!e->counts || reply->number == e->number, "the sum is %d, the model's %d", (int)reply->number,
	          (int)e->number);
	of->executed++;
	SIM_CHECK(of->executed == 1 || may_repeat(of), "a call was executed twice");
	of->said = e->status;
	of->removed = e->status == KVP_OK && of->request.take && model_reaches(zid);
	memcpy(of->values, e->values, sizeof(of->values));
	of->number = reply->number;
	*e = w.expected[--w.expected_count];
}

static kvp_status reply(void *user, const kvpi_zid *zid, const kvpi_msg_store_reply *reply)
{
	kvpi_msg msg = {.id = KVPI_MSG_store_reply, .u.store_reply = *reply};
	client *c = find_client(zid);
	kvpi_buf buf = {0};

	(void)user;
	if (find_call(zid, reply->id) != NULL)
		compare(zid, reply);
	if (c == NULL)
		return kvpi_error(KVP_E_PEER_LOST, "no such client");
	KIT_OK(kvpi_msg_encode(&msg, &buf));
	launch(c, false, buf.data, buf.len);
	kvpi_buf_fini(&buf);
	return KVP_OK;
}

static void server_start(void)
{
	const kvpi_store_limits limits = {.max_bytes = 1 << 20, .max_keys = 100, .max_waits = PARKED};

	w.incarnation++;
	w.core = kvpi_store_core_new(&limits, draw(1u << 30), w.incarnation, (kvpi_store_sink){reply, NULL});
	SIM_CHECK(w.core != NULL, "no memory");
	memset(w.keys, 0, sizeof(w.keys));
	memset(w.waits, 0, sizeof(w.waits));
}

static void server_restart(void)
{
	kvpi_store_core_free(w.core);
	for (int i = 0; i < CLIENTS; i++)
		break_connection(&w.clients[i]);
	server_start();
}

static void server_take(const frame *f)
{
	kvpi_zid zid = zid_of(f->of);
	kvpi_msg msg;
	call *of;

	KIT_OK(kvpi_msg_decode(w.reader, f->data, f->len, KVPI_STORE_FRAME_MAX, &msg));
	model_advance();
	of = find_call(&zid, msg.u.store_ping.id);
	if (msg.id == KVPI_MSG_store_cancel) {
		for (size_t i = 0; i < PARKED; i++)
			if (w.waits[i].used && w.waits[i].id == msg.u.store_cancel.id &&
			    memcmp(w.waits[i].client.bytes, zid.bytes, zid.len) == 0)
				w.waits[i].used = false;
	} else if (of != NULL) {
		model_request(&zid, of->base.id, of);
	}
	KIT_OK(kvpi_store_core_handle(w.core, &zid, &msg, now()));
	SIM_CHECK(w.expected_count == 0, "the model answers, the store does not");
	model_check_gauges();
}

/* ---- the clients ---------------------------------------------------------------------------------------------- */

static kvp_status read_reply(void *user, const kvpi_msg_store_reply *reply)
{
	call *of = user;

	for (size_t i = 0; i < reply->values.count && i < GET_MAX; i++)
		of->heard_values[i] = number_in(reply->values.items[i]);
	of->heard_number = reply->number;
	of->heard = (kvp_status)reply->status;
	return of->heard;
}

static void on_done(kvpi_store_call *base)
{
	call *of = KVPI_CONTAINER_OF(base, call, base);
	const kvp_status status = base->status;

	SIM_CHECK(of->ends++ == 0, "a call ended twice");
	switch (status) {
	case KVP_E_STORE_RESTARTED:
		SIM_CHECK(of->born_in != w.incarnation, "restarted, it says, and the store was not");
		break;
	case KVP_E_STORE_LOST:
		if (strstr(base->sentence, "nothing was changed") != NULL)
			SIM_CHECK(of->executed == 0, "it says that nothing was changed, and it was executed");
		break;
	case KVP_E_TIMEOUT:
		SIM_CHECK(!of->removed, "a take says that it ran out of time, and it took");
		SIM_CHECK(of->request.kind == KVPI_MSG_store_get && of->request.wait_ns > 0, "not a call that can time out");
		break;
	default:
		SIM_CHECK(of->executed >= 1 && of->heard == status, "%s, which nobody said", kvp_status_name(status));
		if (of->executed > 1 && of->base.harmless)
			break; /* which of the answers was heard is not known here */
		SIM_CHECK(of->said == status, "%s, which was not said", kvp_status_name(status));
		SIM_CHECK(memcmp(of->values, of->heard_values, sizeof(of->values)) == 0, "other values than were sent");
		SIM_CHECK(of->request.kind != KVPI_MSG_store_add || of->number == of->heard_number, "another sum");
		break;
	}
}

static void make_request(request *r)
{
	static const int kinds[] = {KVPI_MSG_store_get, KVPI_MSG_store_get, KVPI_MSG_store_get, KVPI_MSG_store_set,
	                            KVPI_MSG_store_set, KVPI_MSG_store_add, KVPI_MSG_store_compare_set,
	                            KVPI_MSG_store_delete};
	static int64_t next_value;

	*r = (request){.kind = kinds[draw(sizeof(kinds) / sizeof(kinds[0]))], .count = 1};
	r->keys[0] = (int)draw(KEYS);
	r->value = ++next_value % 100000;
	r->delta = (int64_t)draw(10) - 5;
	r->expected = draw(2) == 0 || !w.keys[r->keys[0]].exists ? NONE : w.keys[r->keys[0]].value;
	r->ttl_ns = draw(3) == 0 ? (int64_t)(1 + draw(800)) * KVPI_NS_PER_MS : 0;
	r->uses = (uint32_t)draw(4);
	if (r->kind != KVPI_MSG_store_get)
		return;
	/* Neighbours, so that no take names a key twice. */
	r->count = 1 + (int)draw(GET_MAX);
	for (int i = 1; i < r->count; i++)
		r->keys[i] = (r->keys[0] + i) % KEYS;
	r->take = draw(2) == 0;
	r->wait_ns = draw(3) == 0 ? 0 : (int64_t)draw(1500) * KVPI_NS_PER_MS;
}

static void encode(call *of)
{
	const request *r = &of->request;
	kvpi_msg msg = {.id = r->kind};
	kvpi_view keys[GET_MAX], key = kvpi_view_text(key_name(r->keys[0]));
	char value[32], wanted[32];

	snprintf(value, sizeof(value), "%lld", (long long)r->value);
	snprintf(wanted, sizeof(wanted), "%lld", (long long)r->expected);
	for (int i = 0; i < r->count; i++)
		keys[i] = kvpi_view_text(key_name(r->keys[i]));
	switch (r->kind) {
	case KVPI_MSG_store_get:
		msg.u.store_get = (kvpi_msg_store_get){.keys = {keys, (size_t)r->count},
		                                       .wait_ms = (uint64_t)(r->wait_ns / KVPI_NS_PER_MS),
		                                       .take = r->take,
		                                       .want_values = 1};
		break;
	case KVPI_MSG_store_set:
		msg.u.store_set = (kvpi_msg_store_set){.key = key,
		                                       .value = kvpi_view_text(value),
		                                       .ttl_ms = (uint64_t)(r->ttl_ns / KVPI_NS_PER_MS),
		                                       .uses = r->uses};
		msg.u.store_set.present = (r->ttl_ns > 0 ? KVPI_HAS(store_set, ttl_ms) : 0) |
		                          (r->uses > 0 ? KVPI_HAS(store_set, uses) : 0);
		break;
	case KVPI_MSG_store_add:
		of->once[0] = (uint64_t)of->of->number;
		of->once[1] = of->base.id;
		msg.u.store_add = (kvpi_msg_store_add){.key = key,
		                                       .delta = r->delta,
		                                       .once = kvpi_view_of(of->once, sizeof(of->once)),
		                                       .present = KVPI_HAS(store_add, once)};
		break;
	case KVPI_MSG_store_compare_set:
		msg.u.store_compare_set =
		    (kvpi_msg_store_compare_set){.key = key,
		                                 .expected = kvpi_view_text(wanted),
		                                 .desired = kvpi_view_text(value),
		                                 .present = r->expected != NONE ? KVPI_HAS(store_compare_set, expected) : 0};
		break;
	default:
		msg.u.store_delete = (kvpi_msg_store_delete){.key = key};
		break;
	}
	msg.u.store_ping.id = of->base.id;
	of->add = msg; /* borrowed by an addition that is said again */
	KIT_OK(kvpi_msg_encode(&msg, &of->base.frame));
}

static void begin_call(client *c)
{
	call *of = &c->made[c->count++];

	memset(of, 0, sizeof(*of));
	of->of = c;
	of->born_in = atomic_load(&c->calls.incarnation);
	make_request(&of->request);
	of->base.id = kvpi_store_calls_id(&c->calls);
	of->base.deadline_ns = now() + of->request.wait_ns + (int64_t)(50 + draw(1500)) * KVPI_NS_PER_MS;
	of->base.parks = of->request.kind == KVPI_MSG_store_get && of->request.wait_ns > 0;
	of->base.harmless = of->base.parks && !of->request.take;
	of->base.read_reply = read_reply;
	of->base.user = of;
	encode(of);
	if (of->request.kind == KVPI_MSG_store_add)
		of->base.add = &of->add;
	kvpi_store_calls_add(&c->calls, &of->base);
}

static kvp_status send_up(client *c, const void *data, size_t len)
{
	if (!is_connected(c)) {
		kvpi_store_calls_blocked(&c->calls, now());
		return KVP_E_AGAIN;
	}
	launch(c, true, data, len);
	return KVP_OK;
}

static kvp_status send_small(client *c, const kvpi_msg *msg)
{
	kvpi_buf buf = {0};
	kvp_status status;

	KIT_OK(kvpi_msg_encode(msg, &buf));
	status = send_up(c, buf.data, buf.len);
	kvpi_buf_fini(&buf);
	return status;
}

/* What link.c does with its socket. */
static void transmit(client *c)
{
	kvpi_store_call *next;

	if (kvpi_store_calls_ping_due(&c->calls) <= now()) {
		const uint64_t id = kvpi_store_calls_id(&c->calls);
		const kvpi_msg ping = {.id = KVPI_MSG_store_ping, .u.store_ping = {.id = id}};

		if (send_small(c, &ping) == KVP_OK)
			kvpi_store_calls_pinged(&c->calls, id, now());
	}
	for (unsigned i = 0; i < c->cancel_count; i++) {
		const kvpi_msg cancel = {.id = KVPI_MSG_store_cancel, .u.store_cancel = {.id = c->cancels[i]}};

		(void)send_small(c, &cancel);
	}
	c->cancel_count = 0;
	while ((next = kvpi_store_calls_unsent(&c->calls)) != NULL &&
	       send_up(c, next->frame.data, next->frame.len) == KVP_OK) {
		KVPI_CONTAINER_OF(next, call, base)->sent_on = c->generation;
		kvpi_store_calls_sent(&c->calls, next, now());
	}
}

/* What the server holds for a connection that is gone, it holds for nobody. */
static void check_renewed(const client *c)
{
	for (unsigned i = 0; i < c->count && now() > c->down_until_ns + RENEWED_MS * KVPI_NS_PER_MS; i++)
		SIM_CHECK(c->made[i].ends == 1 || kvpi_list_linked(&c->made[i].base.unsent) ||
		              c->made[i].sent_on == c->generation,
		          "a call waits on a connection that is no more");
}

static void give_up(client *c)
{
	for (unsigned i = 0; i < c->count; i++) {
		call *of = &c->made[i];

		if (of->ends == 0 && now() >= of->base.deadline_ns) {
			if (of->base.parks && of->base.order != 0)
				c->cancels[c->cancel_count++] = of->base.id;
			kvpi_store_calls_run_out(&c->calls, &of->base, now());
			SIM_CHECK(of->ends == 1, "a call outlives its deadline");
		}
	}
}

/* ---- a world -------------------------------------------------------------------------------------------------- */

static frame *next_frame(void)
{
	frame *first = NULL;

	for (size_t i = 0; i < FLYING; i++)
		if (w.flying[i].used && w.flying[i].at_ns <= now() &&
		    (first == NULL || w.flying[i].at_ns < first->at_ns ||
		     (w.flying[i].at_ns == first->at_ns && w.flying[i].order < first->order)))
			first = &w.flying[i];
	return first;
}

static void deliver(frame *f)
{
	const frame copy = *f; /* what it causes may break its connection, or need the place */
	kvpi_msg msg;

	f->used = false;
	if (copy.up) {
		server_take(&copy);
		return;
	}
	KIT_OK(kvpi_msg_decode(w.reader, copy.data, copy.len, KVPI_STORE_FRAME_MAX, &msg));
	kvpi_store_calls_reply(&copy.of->calls, &msg.u.store_reply, now());
}

static void step(void)
{
	frame *f;

	kvpi_clock_manual_advance(&w.clock, (int64_t)(1 + draw(30)) * KVPI_NS_PER_MS);
	while ((f = next_frame()) != NULL)
		deliver(f);
	model_advance();
	kvpi_store_core_advance(w.core, now());
	SIM_CHECK(w.expected_count == 0, "the model's time has come, the store's has not");
	model_check_gauges();
	for (int i = 0; i < CLIENTS; i++) {
		transmit(&w.clients[i]);
		give_up(&w.clients[i]);
		check_renewed(&w.clients[i]);
	}
}

static void run_seed(uint64_t seed)
{
	kvpi_msg_reader *reader = w.reader;

	memset(&w, 0, sizeof(w));
	w.random = seed;
	w.reader = reader;
	w.bad = true;
	kvpi_clock_manual_init(&w.clock, KVPI_NS_PER_S);
	for (int i = 0; i < CLIENTS; i++) {
		w.clients[i].number = i;
		kvpi_store_calls_init(&w.clients[i].calls, on_done);
	}
	server_start();
	for (int i = 0; i < 250; i++) {
		client *c = &w.clients[draw(CLIENTS)];

		if (c->count < CALLS && draw(2) == 0)
			begin_call(c);
		if (draw(60) == 0)
			break_connection(c);
		if (draw(150) == 0)
			server_restart();
		step();
	}
	w.bad = false;
	for (int i = 0; i < 250; i++)
		step();
	for (int i = 0; i < CLIENTS; i++) {
		SIM_CHECK(kvpi_list_empty(&w.clients[i].calls.pending), "a call is left");
		for (unsigned k = 0; k < w.clients[i].count; k++) {
			SIM_CHECK(w.clients[i].made[k].ends == 1, "a call has not ended");
			kvpi_buf_fini(&w.clients[i].made[k].base.frame);
		}
	}
	for (size_t i = 0; i < PARKED; i++)
		SIM_CHECK(!w.waits[i].used, "a call is parked for nobody");
	kvpi_store_core_free(w.core);
}

START_TEST(the_store_says_what_it_did_and_no_more)
{
	w.reader = kvpi_msg_reader_new();
	ck_assert_ptr_nonnull(w.reader);
	sim_run(run_seed, NULL);
	kvpi_msg_reader_free(w.reader);
}
END_TEST

KIT_MAIN("store_sim", the_store_says_what_it_did_and_no_more)
