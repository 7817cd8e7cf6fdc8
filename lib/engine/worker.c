/* SPDX-License-Identifier: Apache-2.0
 *
 * The worker: inbox, one step of everything, and the loop around it.
 */
#include "engine/engine.h"

#include "base/error.h"
#include "base/log.h"

#include <errno.h>
#include <netdb.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#define STEP_BUDGET_BYTES (UINT64_C(1) << 20) /* per plane and step: what has arrived is told, and granted anew, in between */
#define NAP_FIRST_NS (20 * INT64_C(1000))
#define NAP_MOST_NS (500 * INT64_C(1000))
#define FDS_MAX (KVPI_ENGINE_PLANES_MAX + 4)
/* A worker that does not rest looks at the sessions this often; each look costs system calls.  One that rests is told. */
#define HUB_LOOK_NS (1 * KVPI_NS_PER_MS)
/* While it polls: so many rounds without news between two clock readings, at which others may have the CPU. */
#define POLL_ROUNDS 16
#define CPUS_MAX 4096

/* ---- CPUs ------------------------------------------------------------------------------------------ */

typedef union cpu_mask {
	cpu_set_t set; /* what the functions want; the whole is larger */
	unsigned long words[CPUS_MAX / (8 * sizeof(unsigned long))];
} cpu_mask;

static bool read_cpus(cpu_mask *mask)
{
	memset(mask, 0, sizeof(*mask));
	return sched_getaffinity(0, sizeof(*mask), &mask->set) == 0;
}

int kvpi_engine_cpus(void)
{
	cpu_mask mask;

	return read_cpus(&mask) ? CPU_COUNT_S(sizeof(mask), &mask.set) : 1;
}

kvp_status kvpi_engine_check_cpu(int cpu)
{
	cpu_mask mask;

	if (cpu < 0)
		return KVP_OK;
	if (!read_cpus(&mask) || cpu >= CPUS_MAX || !CPU_ISSET_S((size_t)cpu, sizeof(mask), &mask.set))
		return kvpi_error(KVP_E_INVALID, "worker_cpu %d is not one of the CPUs that this process may use", cpu);
	return KVP_OK;
}

static void bind_to_cpu(pthread_t thread, int cpu)
{
	cpu_mask mask;
	int err;

	memset(&mask, 0, sizeof(mask));
	CPU_SET_S((size_t)cpu, sizeof(mask), &mask.set);
	err = pthread_setaffinity_np(thread, sizeof(mask), &mask.set);
	if (err != 0)
		KVPI_LOG(WARN, "engine", "the worker does not run on CPU %d: %s", cpu, strerror(err));
}

/* ---- other threads' side -------------------------------------------------------------------------- */

/* What was left under the mutex is to be seen by the worker's next step. */
static void give_orders(kvpi_engine *engine)
{
	atomic_store(&engine->orders, true);
	kvpi_wakeup_post(&engine->wakeup);
}

static kvp_status link_status_locked(const kvpi_engine *engine, const kvpi_link *link)
{
	if (engine->ended || engine->stop || engine->closed)
		return kvpi_error(KVP_E_CLOSED, "the handle is closed");
	if (!link->used)
		return kvpi_error(KVP_E_INVALID, "this end does not %s", link == &engine->out ? "send" : "receive");
	if (link->status < 0)
		return kvpi_error_set(link->status, link->text);
	return KVP_OK;
}

kvp_status kvpi_engine_link_status(kvpi_engine *engine, const kvpi_link *link)
{
	kvp_status status;

	pthread_mutex_lock(&engine->mutex);
	status = link_status_locked(engine, link);
	pthread_mutex_unlock(&engine->mutex);
	return status;
}

kvp_status kvpi_engine_submit(kvpi_engine *engine, kvp_request *request)
{
	bool sends = request->kind == KVPI_REQUEST_SEND;
	bool planned = !sends && !request->post.alone;
	kvp_status status;

	pthread_mutex_lock(&engine->mutex);
	status = link_status_locked(engine, sends ? &engine->out : &engine->in);
	if (status == KVP_OK && planned && engine->posts_failed)
		status = kvpi_error(KVP_E_CANCELED, "a receive posted before has failed: kvp_pipe_resume goes on");
	if (status == KVP_OK && planned && engine->planned >= KVPI_RX_POSTS_MAX)
		status = kvpi_error(KVP_E_AGAIN, "%d receives are posted already", KVPI_RX_POSTS_MAX);
	if (status == KVP_OK) {
		kvpi_request_hold(request);
		request->engine = engine;
		if (sends)
			engine->submitted++;
		else
			engine->posts++;
		engine->planned += planned;
		kvpi_list_append(&engine->inbox, &request->inbox);
	}
	pthread_mutex_unlock(&engine->mutex);
	if (status == KVP_OK)
		give_orders(engine);
	return status;
}

void kvpi_engine_cancel_wanted(kvpi_engine *engine)
{
	atomic_store(&engine->cancel_wanted, true);
	give_orders(engine);
}

static void order(kvpi_engine *engine, bool *flag)
{
	pthread_mutex_lock(&engine->mutex);
	*flag = true;
	pthread_mutex_unlock(&engine->mutex);
	give_orders(engine);
}

void kvpi_engine_close(kvpi_engine *engine)
{
	order(engine, &engine->closed);
}

void kvpi_engine_resume(kvpi_engine *engine)
{
	pthread_mutex_lock(&engine->mutex);
	engine->posts_failed = false;
	KVPI_LIST_FOREACH(pos, next, &engine->inbox)
		KVPI_CONTAINER_OF(pos, kvp_request, inbox)->stale = true; /* counts for planned receives alone */
	pthread_mutex_unlock(&engine->mutex);
}

bool kvpi_engine_is_worker(const kvpi_engine *engine)
{
	return engine->threaded && pthread_equal(pthread_self(), engine->thread);
}

/* Sleeps until open_low has passed `last`, or something else has changed.  Locked. */
static kvp_status await_low(kvpi_engine *engine, uint64_t last, int64_t deadline_ns)
{
	if (last < engine->awaited)
		engine->awaited = last;
	return kvpi_cond_wait_until(&engine->changed, &engine->mutex, deadline_ns) ? KVP_OK : KVP_E_TIMEOUT;
}

kvp_status kvpi_engine_drain(kvpi_engine *engine, int64_t deadline_ns)
{
	kvp_status status = KVP_OK;

	pthread_mutex_lock(&engine->mutex);
	while ((engine->open_low <= engine->submitted || engine->posts > 0) && !engine->ended && status == KVP_OK)
		status = await_low(engine, engine->submitted, deadline_ns);
	if (engine->open_low > engine->submitted && engine->posts == 0)
		status = KVP_OK;
	pthread_mutex_unlock(&engine->mutex);
	return status == KVP_OK ? KVP_OK : kvpi_error(status, "transfers are still under way");
}

void kvpi_engine_cancel_sends(kvpi_engine *engine)
{
	order(engine, &engine->cancel_all);
}

/* Looks a name up, for which the worker must not wait. */
static bool as_numbers(const char *url, char *out, size_t size)
{
	struct sockaddr_storage at;
	socklen_t len;
	kvpi_addr addr;

	if (kvpi_addr_parse(url, &addr) != KVP_OK || kvpi_addr_resolve(&addr, &at, &len) != KVP_OK ||
	    getnameinfo((struct sockaddr *)&at, len, addr.host, sizeof(addr.host), NULL, 0, NI_NUMERICHOST) != 0)
		return false;
	kvpi_addr_format(&addr, out, size);
	return true;
}

void kvpi_engine_dial(kvpi_engine *engine, const char *url, const char *service, int64_t deadline_ns)
{
	char numeric[sizeof(engine->dial_url)];
	const char *from = as_numbers(url, numeric, sizeof(numeric)) ? numeric : url;

	/* What cannot be looked up here is left to the worker, whose own try says why. */
	pthread_mutex_lock(&engine->mutex);
	snprintf(engine->dial_url, sizeof(engine->dial_url), "%s", from);
	snprintf(engine->dial_service, sizeof(engine->dial_service), "%s", service);
	engine->dial_deadline_ns = deadline_ns;
	engine->dial_wanted = true;
	engine->out.used = true;
	engine->out.status = KVP_PENDING;
	pthread_mutex_unlock(&engine->mutex);
	give_orders(engine);
}

kvp_status kvpi_engine_wait_link(kvpi_engine *engine, kvpi_link *link, int64_t deadline_ns)
{
	kvpi_link *other = link == &engine->out ? &engine->in : &engine->out;
	kvp_status status;

	pthread_mutex_lock(&engine->mutex);
	/* That no plane fits is true of both directions, but each end may hear it of one only. */
	while (link->status == KVP_PENDING && !(other->used && other->status == KVP_E_NO_PLANE))
		if (!kvpi_cond_wait_until(&engine->changed, &engine->mutex, deadline_ns))
			break;
	if (link->status == KVP_PENDING && other->used && other->status == KVP_E_NO_PLANE)
		link = other;
	status = link->status;
	if (status == KVP_PENDING)
		status = kvpi_error(KVP_E_TIMEOUT, "no connection %s yet%s%s",
		                    link == &engine->out ? "to the receiver" : "from the sender",
		                    link->peer[0] ? ": data connection of " : "", link->peer);
	else if (status != KVP_OK)
		status = kvpi_error_set(status, link->text);
	pthread_mutex_unlock(&engine->mutex);
	return status;
}

bool kvpi_engine_settle_in(kvpi_engine *engine)
{
	bool up;

	pthread_mutex_lock(&engine->mutex);
	up = engine->in.status == KVP_OK;
	engine->in_may_return = !up;
	pthread_mutex_unlock(&engine->mutex);
	return up;
}

kvp_status kvpi_engine_flush(kvpi_engine *engine, int64_t deadline_ns)
{
	kvp_status status = KVP_OK;
	uint64_t last;

	pthread_mutex_lock(&engine->mutex);
	last = engine->submitted;
	while (engine->open_low <= last && !engine->ended && status == KVP_OK)
		status = await_low(engine, last, deadline_ns);
	if (engine->open_low > last)
		status = KVP_OK;
	if (status != KVP_OK) {
		status = kvpi_error(KVP_E_TIMEOUT, "sends are still under way");
	} else if (engine->first_failure != KVP_OK) {
		status = kvpi_error_set(engine->first_failure, engine->first_failure_text);
		engine->first_failure = KVP_OK;
	}
	pthread_mutex_unlock(&engine->mutex);
	return status;
}

/* ---- the worker ------------------------------------------------------------------------------------- */

static void take_in(kvpi_engine *engine, kvp_request *request, bool failed, int64_t now)
{
	if (request->kind == KVPI_REQUEST_SEND) {
		/* Cannot fail: the heap has room for all that is admitted. */
		(void)kvpi_tx_add(&engine->tx, &request->item, now);
		return;
	}
	kvpi_rx_post_add(&engine->rx, &request->post);
	if (!request->post.alone && (request->stale || failed))
		kvpi_rx_cancel(&engine->rx, &request->post, KVP_E_CANCELED, "a receive posted before this one failed", now);
}

static void cancel_sends(kvpi_engine *engine, bool all, int64_t now)
{
	KVPI_LIST_FOREACH(pos, next, &engine->tx.items) {
		kvpi_tx_item *item = KVPI_CONTAINER_OF(pos, kvpi_tx_item, node);

		if (all || atomic_load(&KVPI_CONTAINER_OF(item, kvp_request, item)->cancel_wanted))
			kvpi_tx_cancel(&engine->tx, item, KVP_E_CANCELED, "the send was canceled",
			               "it was canceled at the sender", now);
	}
}

static void cancel_posts(kvpi_engine *engine, kvpi_list *posts, int64_t now)
{
	for (kvpi_list *pos = posts->next; pos != posts;) {
		kvpi_rx_post *post = KVPI_CONTAINER_OF(pos, kvpi_rx_post, node);

		if (atomic_load(&KVPI_CONTAINER_OF(post, kvp_request, post)->cancel_wanted)) {
			kvpi_rx_cancel(&engine->rx, post, KVP_E_CANCELED, "the receive was canceled", now);
			pos = posts->next; /* others went with it */
		} else {
			pos = pos->next;
		}
	}
}

/* False: there were none. */
static bool take_orders(kvpi_engine *engine, int64_t now)
{
	/* First: what is left from here on is seen the next time. */
	if (!atomic_exchange(&engine->orders, false))
		return false;
	bool cancel, dial, closed, cancel_all, failed;
	kvp_status out_status, in_status;
	kvpi_list inbox;
	kvpi_list *node;

	/* Before the inbox: whoever cancels handed the request in before that. */
	cancel = atomic_exchange(&engine->cancel_wanted, false);
	kvpi_list_init(&inbox);
	pthread_mutex_lock(&engine->mutex);
	while ((node = kvpi_list_first(&engine->inbox)) != NULL) {
		kvpi_list_remove(node);
		kvpi_list_append(&inbox, node);
	}
	dial = engine->dial_wanted;
	closed = engine->closed;
	failed = engine->posts_failed;
	cancel_all = engine->cancel_all;
	engine->cancel_all = false;
	out_status = engine->out.status;
	in_status = engine->in.status;
	pthread_mutex_unlock(&engine->mutex);

	while ((node = kvpi_list_first(&inbox)) != NULL) {
		kvpi_list_remove(node);
		take_in(engine, KVPI_CONTAINER_OF(node, kvp_request, inbox), failed, now);
	}
	if (dial)
		kvpi_link_dial(engine, now);
	/* Handed in before the link's end was published. */
	if (out_status < 0 && !kvpi_list_empty(&engine->tx.items))
		kvpi_tx_fail(&engine->tx, out_status, engine->out.text, now);
	if (in_status < 0)
		kvpi_rx_fail(&engine->rx, in_status, engine->in.text, now);
	if (closed)
		kvpi_rx_fail(&engine->rx, KVP_E_CLOSED, "the handle was closed", now);
	if (cancel || cancel_all) {
		cancel_sends(engine, cancel_all, now);
		cancel_posts(engine, &engine->rx.posts, now);
		cancel_posts(engine, &engine->rx.peeks, now);
	}
	return true;
}

static void publish(kvpi_engine *engine)
{
	uint64_t low = kvpi_tx_open_low(&engine->tx);

	atomic_store_explicit(&engine->metrics.retransmissions, engine->tx.retransmissions, memory_order_relaxed);
	atomic_store_explicit(&engine->metrics.protocol_errors,
	                      engine->bad_messages + kvpi_hub_protocol_errors(engine->hub), memory_order_relaxed);
	/* open_low is written here alone, so it may be read without the lock. */
	if (low == engine->open_low)
		return;
	pthread_mutex_lock(&engine->mutex);
	engine->open_low = low;
	if (low > engine->awaited) { /* who still waits says so again */
		engine->awaited = UINT64_MAX;
		pthread_cond_broadcast(&engine->changed);
	}
	pthread_mutex_unlock(&engine->mutex);
}

/* Is it time to look where news is rare?  A worker in its loop knows; a test that steps by hand does not. */
static bool look_is_due(const kvpi_engine *engine, int64_t now)
{
	return !engine->threaded || engine->hub_wanted || now >= engine->hub_look_ns;
}

static bool step_hub(kvpi_engine *engine, int64_t now)
{
	bool more;

	engine->hub_wanted = false;
	more = kvpi_hub_step(engine->hub, now);
	engine->hub_wanted = engine->hub_wanted || more;
	engine->hub_look_ns = kvpi_hub_next(engine->hub);
	if (engine->hub_look_ns > now + HUB_LOOK_NS)
		engine->hub_look_ns = now + HUB_LOOK_NS;
	return more;
}

/* Those that no link uses are asked when their descriptor says so, and with the hub: asking costs system calls. */
static bool step_planes(kvpi_engine *engine, bool all)
{
	bool more = false;

	for (size_t i = 0; i < engine->plane_count; i++) {
		kvpi_engine_plane *plane = &engine->planes[i];

		if (!all && !plane->wanted && plane != engine->out.plane && plane != engine->in.plane)
			continue;
		plane->wanted = plane->ops->progress(plane->plane, STEP_BUDGET_BYTES);
		more = more || plane->wanted;
	}
	return more;
}

bool kvpi_engine_step(kvpi_engine *engine)
{
	int64_t now = kvpi_now(engine->clock);
	bool more, look;

	engine->busy = false;
	more = take_orders(engine, now);
	if (more) { /* what is new may leave with this step's progress */
		kvpi_tx_step(&engine->tx, now);
		kvpi_rx_step(&engine->rx, now);
	}
	look = look_is_due(engine, now);
	if (look)
		more = step_hub(engine, now) || more;
	more = step_planes(engine, look) || more;
	engine->step_ns = now = kvpi_now(engine->clock);
	kvpi_link_repair(&engine->out, now);
	kvpi_link_repair(&engine->in, now);
	kvpi_tx_step(&engine->tx, now);
	kvpi_rx_step(&engine->rx, now);
	kvpi_link_settle(engine, now);
	publish(engine);
	return more || engine->busy;
}

int64_t kvpi_engine_next(const kvpi_engine *engine)
{
	int64_t times[] = {kvpi_hub_next(engine->hub), kvpi_tx_next(&engine->tx), kvpi_rx_next(&engine->rx),
	                   engine->out.reconnect_ns, engine->in.reconnect_ns, engine->out.gone_ns, engine->in.gone_ns};
	int64_t at = KVPI_NEVER;

	for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++)
		at = times[i] < at ? times[i] : at;
	return at;
}

/* Sleeps until something can have happened.  A plane that is busy though its last progress call found nothing to do
 * waits for a device: that cannot wake us, so we look again after a nap, each longer than the one before. */
static void rest(kvpi_engine *engine, int64_t *nap_ns)
{
	struct pollfd fds[FDS_MAX];
	kvpi_engine_plane *of_fd[FDS_MAX];
	int64_t now = engine->step_ns;
	int64_t left = kvpi_engine_next(engine);
	struct timespec timeout;
	bool busy = !kvpi_list_empty(&engine->settling);
	int hub_fds = kvpi_hub_arm(engine->hub, fds + 1, FDS_MAX - KVPI_ENGINE_PLANES_MAX - 1);
	int count = 1 + hub_fds;

	engine->hub_wanted = engine->hub_wanted || hub_fds < 0;
	if (engine->hub_wanted)
		return;
	fds[0] = (struct pollfd){engine->wakeup.fd, POLLIN, 0};
	for (size_t i = 0; i < engine->plane_count; i++) {
		kvpi_engine_plane *plane = &engine->planes[i];
		int fd = -1;

		plane->wanted = !plane->ops->arm(plane->plane, &fd);
		busy = busy || plane->wanted;
		if (fd >= 0) {
			of_fd[count] = plane;
			fds[count++] = (struct pollfd){fd, POLLIN, 0};
		}
	}
	left = left == KVPI_NEVER ? KVPI_NS_PER_S * 3600 : left > now ? left - now : 0;
	if (busy)
		left = left < *nap_ns ? left : *nap_ns;
	*nap_ns = !busy ? NAP_FIRST_NS : *nap_ns * 2 < NAP_MOST_NS ? *nap_ns * 2 : NAP_MOST_NS;
	timeout = (struct timespec){left / KVPI_NS_PER_S, left % KVPI_NS_PER_S};
	if (ppoll(fds, (nfds_t)count, &timeout, NULL) < 0) {
		if (errno != EINTR)
			KVPI_LOG(ERROR, "engine", "ppoll: %m");
		return;
	}
	if (fds[0].revents != 0)
		kvpi_wakeup_clear(&engine->wakeup);
	for (int i = 1; i <= hub_fds; i++)
		engine->hub_wanted = engine->hub_wanted || fds[i].revents != 0;
	for (int i = 1 + hub_fds; i < count; i++)
		of_fd[i]->wanted = of_fd[i]->wanted || fds[i].revents != 0;
}

static void *work(void *arg)
{
	kvpi_engine *engine = arg;
	int64_t nap_ns = NAP_FIRST_NS, news_ns = kvpi_now(engine->clock);
	bool abandoned, armed = false;
	unsigned quiet = 0;

	kvpi_wakeup_mute(&engine->wakeup);
	while (!atomic_load(&engine->stop)) {
		if (kvpi_engine_step(engine)) {
			nap_ns = NAP_FIRST_NS;
			quiet = 0;
			news_ns = engine->step_ns;
		} else if (engine->poll_ns > 0 && engine->step_ns - news_ns < engine->poll_ns) {
			kvpi_relax();
			if (++quiet % POLL_ROUNDS == 0)
				sched_yield();
		} else if (!armed) {
			/* What is posted from here on wakes the next rest; what was posted before, the next step sees. */
			kvpi_wakeup_arm(&engine->wakeup);
			armed = true;
			continue;
		} else {
			rest(engine, &nap_ns);
		}
		if (armed)
			kvpi_wakeup_mute(&engine->wakeup);
		armed = false;
	}
	pthread_mutex_lock(&engine->mutex);
	engine->left = true;
	pthread_cond_broadcast(&engine->changed);
	abandoned = engine->abandoned;
	pthread_mutex_unlock(&engine->mutex);
	if (abandoned)
		kvpi_engine_tidy(engine);
	return NULL;
}

kvp_status kvpi_engine_start(kvpi_engine *engine)
{
	kvp_status status;

	engine->threaded = true; /* before the worker, which looks at it, is there */
	status = kvpi_thread_start(&engine->thread, "kvp-worker", work, engine);
	if (status != KVP_OK)
		engine->threaded = false;
	if (engine->threaded && engine->worker_cpu >= 0)
		bind_to_cpu(engine->thread, engine->worker_cpu);
	return status;
}
