/* SPDX-License-Identifier: Apache-2.0
 *
 * The plane `shm`: processes of one host.  They meet through the broker (share/broker.h), and from then on speak through
 * rings in memory that both map.  Bytes are copied once, by the receiver, where it can reach them: memory from
 * kvp_mem_alloc is mapped, other memory is read with process_vm_readv; where the kernel forbids that, and for devices,
 * they go through staging memory.
 */
#include "plane/shm.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "plane/planes.h"
#include "wire/auth.h"
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define EVENTS 8

static kvpi_conn *conn_of(kvpi_list *node)
{
	return KVPI_CONTAINER_OF(node, kvpi_conn, node);
}

/* ---- may it be used? ---- */

static kvp_status shm_judge(const kvpi_facts *mine, const kvpi_facts *theirs, char *why, size_t why_len)
{
	const kvpi_hostid *a = &mine->host, *b = &theirs->host;
	const char *readable = a->pid_ns != 0 && a->pid_ns == b->pid_ns ? "" : "; other pid namespaces: less is read directly";
	kvp_status status = KVP_OK;
	const char *text = "same process";

	if (memcmp(mine->process, theirs->process, sizeof(mine->process)) == 0) {
		readable = "";
	} else if (!kvpi_hostid_same_host(a, b)) {
		status = KVP_E_UNSUPPORTED;
		text = "the peer is on another host";
	} else if (a->user == 0 || a->user != b->user || a->user_ns != b->user_ns) {
		/* The broker would send it away. */
		status = KVP_E_UNSUPPORTED;
		text = "same host, but the two run as different users, or in different user namespaces";
	} else if (a->run_dev != 0 && a->run_dev == b->run_dev && a->run_ino == b->run_ino) {
		text = "same host, same run directory";
	} else if (a->net_ns != 0 && a->net_ns == b->net_ns) {
		text = "same host, same network namespace";
	} else {
		status = KVP_E_UNSUPPORTED;
		text = a->net_ns != 0 && b->net_ns != 0
		           ? "same host, but neither run directory (KVPIPE_RUN_DIR) nor network namespace is shared"
		           : "same host, but not known whether the run directory (KVPIPE_RUN_DIR) is shared";
	}
	snprintf(why, why_len, "%s%s", text, status == KVP_OK ? readable : "");
	return status;
}

/* ---- opening ---- */

/* Other planes can do without what is missing here: the sentence stays. */
static kvp_status unsupported(kvp_status status)
{
	char text[KVPI_ERROR_MAX];

	if (status == KVP_OK)
		return status;
	snprintf(text, sizeof(text), "%s", kvp_last_error());
	return kvpi_error(KVP_E_UNSUPPORTED, "%s", text);
}

/* Can memory be shared here at all? */
static kvp_status try_memory(void)
{
	int fd;
	void *base;
	const kvp_status status = kvpi_memfd_new("kvpipe-trial", 4096, &fd, &base);

	if (status == KVP_OK)
		kvpi_memfd_free(fd, base, 4096);
	return unsupported(status);
}

static kvp_status broker_open(kvpi_plane *plane)
{
	const kvp_status status = kvpi_broker_open(plane->epoll_fd, &kvpi_clock_real, &plane->broker);

	return status == KVP_E_NOMEM ? status : unsupported(status);
}

static kvp_status open_descriptors(kvpi_plane *plane)
{
	struct epoll_event event = {.events = EPOLLIN};

	plane->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (plane->epoll_fd < 0)
		return unsupported(kvpi_error_errno("cannot make an epoll set"));
	plane->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (plane->timer_fd < 0)
		return unsupported(kvpi_error_errno("cannot make a timer"));
	if (epoll_ctl(plane->epoll_fd, EPOLL_CTL_ADD, plane->timer_fd, &event) < 0)
		return unsupported(kvpi_error_errno("cannot watch a timer"));
	return broker_open(plane);
}

static void plane_free(kvpi_plane *plane)
{
	kvpi_broker_close(plane->broker);
	if (plane->timer_fd >= 0)
		close(plane->timer_fd);
	if (plane->epoll_fd >= 0)
		close(plane->epoll_fd);
	KVPI_LIST_FOREACH(pos, nxt, &plane->spare)
		free(KVPI_CONTAINER_OF(pos, kvpi_shm_item, node));
	free(plane);
}

static kvp_status shm_open(const kvpi_plane_params *params, kvpi_plane **plane, kvpi_plane_caps *caps)
{
	kvpi_plane *made;
	kvp_status status = kvpi_auth_init();

	if (status != KVP_OK)
		return status;
	made = KVPI_NEW(kvpi_plane);
	if (made == NULL)
		return kvpi_error_nomem("the data plane shm");
	made->params = *params;
	made->epoll_fd = made->timer_fd = -1;
	made->timer_ns = KVPI_NEVER;
	kvpi_list_init(&made->conns);
	kvpi_list_init(&made->spare);
	made->caps = (kvpi_plane_caps){
	    .memories = kvpi_streams_memories(),
	    .survives_reconnect = true,
	    .max_transfers = KVPI_SHM_TRANSFERS,
	    .notify_max = KVPI_PLANE_NOTIFY_MAX,
	};
	status = try_memory();
	if (status == KVP_OK)
		status = open_descriptors(made);
	if (status == KVP_OK)
		status = kvpi_staging_init(&made->staging, params->staging_bytes);
	if (status != KVP_OK) {
		plane_free(made);
		return status;
	}
	*plane = made;
	*caps = made->caps;
	return KVP_OK;
}

static void shm_close(kvpi_plane *plane)
{
	KVPI_LIST_FOREACH(pos, nxt, &plane->conns)
		kvpi_shm_hangup(conn_of(pos));
	kvpi_staging_fini(&plane->staging);
	plane_free(plane);
}

static kvp_status shm_address(kvpi_plane *plane, void *out, size_t *len)
{
	kvpi_broker_address(plane->broker, out, len);
	return KVP_OK;
}

/* ---- the loop ---- */

static void set_timer(kvpi_plane *plane, int64_t at)
{
	struct itimerspec spec = {.it_value = {0, 0}};

	if (at == plane->timer_ns)
		return;
	plane->timer_ns = at;
	if (at != KVPI_NEVER) {
		/* Never 0, which would stop it. */
		spec.it_value.tv_sec = (time_t)(at / KVPI_NS_PER_S);
		spec.it_value.tv_nsec = (long)(at % KVPI_NS_PER_S) + (at <= 0);
	}
	timerfd_settime(plane->timer_fd, TFD_TIMER_ABSTIME, &spec, NULL);
}

/* Looks at the sockets.  False: none has anything to say. */
static bool look(kvpi_plane *plane, bool must)
{
	struct epoll_event events[EVENTS];
	uint64_t expirations;

	plane->rounds = 0;
	plane->slept = false;
	KVPI_LIST_FOREACH(pos, nxt, &plane->conns)
		kvpi_shm_forget_freed(conn_of(pos));
	/* Which of them does not matter: the broker looks at all. */
	if (epoll_wait(plane->epoll_fd, events, EVENTS, 0) <= 0 && !must)
		return false;
	if (plane->timer_ns != KVPI_NEVER && read(plane->timer_fd, &expirations, sizeof(expirations)) > 0)
		plane->timer_ns = KVPI_NEVER;
	set_timer(plane, kvpi_broker_step(plane->broker, kvpi_now(&kvpi_clock_real)));
	return true;
}

static bool shm_progress(kvpi_plane *plane, uint64_t budget)
{
	uint64_t share = budget, count = 0;
	bool more = false, must = false, sockets = false;

	KVPI_LIST_FOREACH(pos, nxt, &plane->conns) {
		const kvpi_conn *conn = conn_of(pos);

		count++;
		must = must || !kvpi_shm_settled(conn);
		if (plane->slept && conn->state == KVPI_SHM_UP)
			kvpi_ring_awake(&conn_of(pos)->in_ring);
	}
	if (must || plane->slept || ++plane->rounds >= KVPI_SHM_LOOK)
		sockets = look(plane, must);
	if (count > 1)
		share = budget / count + 1;
	plane->in_progress = true;
	KVPI_LIST_FOREACH(pos, nxt, &plane->conns) {
		if (kvpi_shm_step(conn_of(pos), share, sockets))
			more = true;
	}
	plane->in_progress = false;
	KVPI_LIST_FOREACH(pos, nxt, &plane->conns) {
		if (conn_of(pos)->closed)
			kvpi_shm_conn_free(conn_of(pos));
	}
	return more;
}

static bool shm_arm(kvpi_plane *plane, int *fd)
{
	*fd = plane->epoll_fd;
	plane->slept = true; /* the sockets are looked at in the next round, whatever else is said here */
	KVPI_LIST_FOREACH(pos, nxt, &plane->conns) {
		if (!kvpi_shm_sleep(conn_of(pos)))
			return false;
	}
	return true;
}

const kvpi_plane_ops kvpi_plane_shm = {
    .size = sizeof(kvpi_plane_shm),
    .name = "shm",
    .preference = 50,
    .judge = shm_judge,
    .open = shm_open,
    .close = shm_close,
    .address = shm_address,
    .accept = kvpi_shm_accept,
    .connect = kvpi_shm_connect,
    .hangup = kvpi_shm_hangup,
    .register_memory = kvpi_plane_no_register,
    .unregister_memory = kvpi_plane_no_unregister,
    .export_region = kvpi_plane_no_export,
    .attach = kvpi_plane_no_attach,
    .detach = kvpi_plane_no_detach,
    .submit = kvpi_shm_submit,
    .post_recv = kvpi_shm_post_recv,
    .notify = kvpi_shm_notify,
    .cancel = kvpi_shm_cancel,
    .progress = shm_progress,
    .arm = shm_arm,
};
