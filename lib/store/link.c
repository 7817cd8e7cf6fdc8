/* SPDX-License-Identifier: Apache-2.0
 *
 * Leader and followers on one DEALER.  See link.h.
 */
#include "store/link.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/thread.h"
#include "base/wakeup.h"
#include "wire/zsock.h"
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define TROUBLE_MS 100 /* the least time between two errors of the socket */
#define CANCELS_MAX 64
#define REPLIES_PER_TURN 64 /* then the clock and what is to be sent get their turn */

struct kvpi_store_link {
	pthread_mutex_t mutex; /* guards all below, and the socket while nobody leads */
	kvpi_store_calls calls;
	bool leading; /* a thread is inside lead(): the socket is its own, also while it polls
	                 unlocked */
	bool closed;
	bool met_somebody;
	/* Ids of parked calls that were given up.  One that finds no room is not cancelled: it runs
	 * out at the server by itself. */
	uint64_t cancels[CANCELS_MAX];
	size_t cancel_count;
	kvpi_wakeup wakeup; /* gets the leader out of its poll */
	kvpi_zsock *sock;
	int sock_fd; /* its descriptor, to poll */
	kvpi_msg_reader *reader;
	kvpi_buf small; /* frame of a ping or cancel */
};

static void signal_waiter(kvpi_store_call *call)
{
	pthread_cond_signal(call->waiter);
}

kvp_status kvpi_store_link_new(kvp_context *context, const char *url, kvpi_store_link **out)
{
	kvpi_store_link *link = KVPI_NEW(kvpi_store_link);
	kvpi_zctx *zctx;
	kvp_status status;

	if (link == NULL)
		return kvpi_error_nomem("a connection to a store");
	kvpi_store_calls_init(&link->calls, signal_waiter);
	link->wakeup.fd = -1;
	pthread_mutex_init(&link->mutex, NULL); /* cannot fail on Linux */
	link->reader = kvpi_msg_reader_new();
	status = link->reader != NULL ? KVP_OK : kvpi_error_nomem("a connection to a store");
	if (status == KVP_OK)
		status = kvpi_wakeup_init(&link->wakeup);
	if (status == KVP_OK)
		status = kvpi_zctx_of(context, &zctx);
	if (status == KVP_OK)
		status = kvpi_zsock_dealer(
		    zctx, url, KVPI_STORE_FRAME_MAX, KVPI_ZDOWN_REFUSE, &link->sock);
	if (status != KVP_OK) {
		kvpi_store_link_free(link);
		return status;
	}
	link->sock_fd = kvpi_zsock_fd(link->sock);
	*out = link;
	return KVP_OK;
}

void kvpi_store_link_free(kvpi_store_link *link)
{
	if (link == NULL)
		return;
	kvpi_zsock_close(link->sock);
	kvpi_wakeup_fini(&link->wakeup);
	kvpi_msg_reader_free(link->reader);
	kvpi_buf_fini(&link->small);
	pthread_mutex_destroy(&link->mutex);
	free(link);
}

uint64_t kvpi_store_link_id(kvpi_store_link *link)
{
	pthread_mutex_lock(&link->mutex);
	const uint64_t id = kvpi_store_calls_id(&link->calls);
	pthread_mutex_unlock(&link->mutex);
	return id;
}

uint64_t kvpi_store_link_incarnation(const kvpi_store_link *link)
{
	return atomic_load(&link->calls.incarnation);
}

bool kvpi_store_link_met_somebody(kvpi_store_link *link)
{
	pthread_mutex_lock(&link->mutex);
	const bool met = link->met_somebody;
	pthread_mutex_unlock(&link->mutex);
	return met;
}

/* ---- the socket: the leader's, or of who holds the mutex while nobody leads ---- */

static kvp_status send_frame(kvpi_store_link *link, const kvpi_buf *frame, int64_t now_ns)
{
	const kvp_status status = kvpi_zsock_send(link->sock, NULL, frame->data, frame->len);

	if (status == KVP_OK)
		link->met_somebody = true;
	if (status == KVP_E_AGAIN)
		kvpi_store_calls_blocked(&link->calls, now_ns);
	return status;
}

/* A ping or cancel. */
static kvp_status send_small(kvpi_store_link *link, const kvpi_msg *msg, int64_t now_ns)
{
	kvp_status status;

	kvpi_buf_clear(&link->small);
	status = kvpi_msg_encode(msg, &link->small);
	return status == KVP_OK ? send_frame(link, &link->small, now_ns) : status;
}

static void send_ping(kvpi_store_link *link, int64_t now_ns)
{
	const uint64_t id = kvpi_store_calls_id(&link->calls);
	const kvpi_msg ping = {.id = KVPI_MSG_store_ping, .u.store_ping = {.id = id}};

	if (send_small(link, &ping, now_ns) == KVP_OK)
		kvpi_store_calls_pinged(&link->calls, id, now_ns);
	else
		kvpi_store_calls_blocked(&link->calls, now_ns);
}

/* Those that cannot be sent are forgotten: without a connection there is nothing to cancel any
 * more. */
static void send_cancels(kvpi_store_link *link)
{
	for (size_t i = 0; i < link->cancel_count; i++) {
		const kvpi_msg cancel = {
		    .id = KVPI_MSG_store_cancel, .u.store_cancel = {.id = link->cancels[i]}};

		send_small(link, &cancel, kvpi_now(&kvpi_clock_real));
	}
	link->cancel_count = 0;
}

/* Sends what is to be sent, as far as there is room. */
static void transmit(kvpi_store_link *link)
{
	const int64_t now_ns = kvpi_now(&kvpi_clock_real);
	const kvp_status refused = kvpi_zsock_trouble(link->sock);
	kvpi_store_call *call;

	if (refused != KVP_OK) { /* until somebody calls again */
		KVPI_LIST_FOREACH (pos, nxt, &link->calls.pending)
			kvpi_store_calls_end(&link->calls,
			    KVPI_CONTAINER_OF(pos, kvpi_store_call, pending), refused, kvp_last_error());
		return;
	}

	if (kvpi_store_calls_ping_due(&link->calls) <= now_ns)
		send_ping(link, now_ns);
	send_cancels(link);
	while ((call = kvpi_store_calls_unsent(&link->calls)) != NULL) {
		const kvp_status status = send_frame(link, &call->frame, now_ns);

		if (status == KVP_OK)
			kvpi_store_calls_sent(&link->calls, call, now_ns);
		else if (status != KVP_E_AGAIN) /* that one waits for the next ping */
			kvpi_store_calls_end(&link->calls, call, status, kvp_last_error());
	}
}

/* What became of the replies that had come. */
typedef enum intake {
	INTAKE_EMPTY, /* none is left, so the descriptor will tell of the next one */
	INTAKE_MORE,  /* there may be more */
	INTAKE_TROUBLE
} intake;

/* One frame that came in. */
static void read_frame(kvpi_store_link *link, kvpi_view frame)
{
	kvpi_msg msg;
	const kvp_status status =
	    kvpi_msg_decode(link->reader, frame.data, frame.len, KVPI_STORE_FRAME_MAX, &msg);

	if (status == KVP_OK && msg.id == KVPI_MSG_store_reply)
		kvpi_store_calls_reply(
		    &link->calls, &msg.u.store_reply, kvpi_now(&kvpi_clock_real));
	else
		KVPI_LOG(DEBUG, "store", "%s sent a frame that is no reply",
		    kvpi_zsock_url(link->sock));
}

/*
 * Takes replies in until there is none, or the leader's own call is done: to ask once more would
 * cost a system call, and who leads next asks anyway.  A socket is asked by receiving; asking for
 * its events first would be a system call per message.
 */
static intake receive(kvpi_store_link *link, const kvpi_store_call *own)
{
	for (int i = 0; i < REPLIES_PER_TURN && !own->done; i++) {
		kvpi_view frame;
		const kvp_status status = kvpi_zsock_recv(link->sock, NULL, &frame);

		if (status == KVP_OK) {
			read_frame(link, frame);
		} else if (status == KVP_E_AGAIN) {
			return kvpi_zsock_draining(link->sock) ? INTAKE_MORE : INTAKE_EMPTY;
		} else if (status != KVP_E_PROTOCOL) {
			KVPI_LOG(ERROR, "store", "client: %s", kvp_last_error());
			return INTAKE_TROUBLE;
		}
	}
	return INTAKE_MORE;
}

/* ---- leading and following ---- */

/* Until there may be something to do for anybody.  Gives the mutex up meanwhile. */
static void sleep_as_leader(kvpi_store_link *link, int64_t deadline_ns, bool trouble)
{
	const int64_t ping_ns = kvpi_store_calls_ping_due(&link->calls);
	struct pollfd fds[] = {{.fd = link->wakeup.fd, .events = POLLIN},
	    {.fd = link->sock_fd, .events = POLLIN}};
	int ms =
	    kvpi_ms_left(ping_ns < deadline_ns ? ping_ns : deadline_ns, kvpi_now(&kvpi_clock_real));

	/* Room to send is not waited for: receiving may have eaten the news of it.  The next ping,
	 * which is due soon then, will find out. */
	if (trouble && ms > TROUBLE_MS)
		ms = TROUBLE_MS;
	pthread_mutex_unlock(&link->mutex);
	poll(fds, trouble ? 1 : 2, ms);
	/* Before anybody looks for what it was posted for. */
	if (fds[0].revents != 0)
		kvpi_wakeup_clear(&link->wakeup);
	pthread_mutex_lock(&link->mutex);
}

/*
 * Works for all until the leader's own call is done or out of time.  Called with the mutex, so what
 * others have to send comes while it sleeps, with a wake-up.
 *
 * Nothing is sent between the last look into the socket and the sleep: sending, too, may take from
 * the descriptor what it has to tell.
 */
static void lead(kvpi_store_link *link, const kvpi_store_call *own)
{
	char sentence[KVPI_ERROR_MAX];
	intake in;

	/* What goes wrong in here is no error of this thread's call. */
	memcpy(sentence, kvp_last_error(), strlen(kvp_last_error()) + 1);
	link->leading = true;
	kvpi_zsock_retry(link->sock);
	for (;;) {
		transmit(link);
		in = receive(link, own);
		if (own->done || link->closed || kvpi_now(&kvpi_clock_real) >= own->deadline_ns)
			break;
		/* A reply may have shown that something is to be said again. */
		if (in != INTAKE_MORE && kvpi_store_calls_unsent(&link->calls) == NULL)
			sleep_as_leader(link, own->deadline_ns, in == INTAKE_TROUBLE);
	}
	link->leading = false;
	kvpi_error_set(KVP_OK, sentence);
}

/* Called with the mutex, when the call has not been answered. */
static void give_up(kvpi_store_link *link, kvpi_store_call *call)
{
	if (call->parks && call->order != 0 && link->cancel_count < CANCELS_MAX)
		link->cancels[link->cancel_count++] = call->id;
	if (link->closed)
		kvpi_store_calls_end(&link->calls, call, KVP_E_CLOSED, "");
	else
		kvpi_store_calls_run_out(&link->calls, call, kvpi_now(&kvpi_clock_real));
}

/* Somebody may want to lead, or has something to send.  Called with the mutex. */
static void pass_on(kvpi_store_link *link)
{
	kvpi_list *next = kvpi_list_first(&link->calls.pending);

	if (link->leading) {
		if (link->cancel_count > 0)
			kvpi_wakeup_post(&link->wakeup);
		return;
	}
	send_cancels(link);
	if (next != NULL)
		signal_waiter(KVPI_CONTAINER_OF(next, kvpi_store_call, pending));
}

void kvpi_store_link_call(kvpi_store_link *link, kvpi_store_call *call)
{
	pthread_cond_t woken;
	const kvp_status status = kvpi_cond_init(&woken);

	if (status != KVP_OK) {
		call->status = status;
		snprintf(call->sentence, sizeof(call->sentence), "%s", kvp_last_error());
		return;
	}
	call->waiter = &woken;

	pthread_mutex_lock(&link->mutex);
	kvpi_store_calls_add(&link->calls, call);
	if (link->leading)
		kvpi_wakeup_post(&link->wakeup);
	while (!call->done && !link->closed && kvpi_now(&kvpi_clock_real) < call->deadline_ns) {
		if (link->leading)
			kvpi_cond_wait_until(&woken, &link->mutex, call->deadline_ns);
		else
			lead(link, call);
	}
	if (!call->done)
		give_up(link, call);
	pass_on(link);
	pthread_mutex_unlock(&link->mutex);
	pthread_cond_destroy(&woken);
}

void kvpi_store_link_close(kvpi_store_link *link)
{
	pthread_mutex_lock(&link->mutex);
	link->closed = true;
	kvpi_wakeup_post(&link->wakeup);
	KVPI_LIST_FOREACH (pos, nxt, &link->calls.pending)
		signal_waiter(KVPI_CONTAINER_OF(pos, kvpi_store_call, pending));
	pthread_mutex_unlock(&link->mutex);
}
