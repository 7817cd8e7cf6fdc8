/* SPDX-License-Identifier: Apache-2.0 */
#include "plane/wrap.h"

#include "base/alloc.h"
#include "base/error.h"

#include <string.h>

static kvp_status not_connected(void)
{
	return kvpi_error(KVP_E_PEER_LOST, "the data connection is not up");
}

/* The table's slot; a wrapper needs to know what it wraps, which the slot cannot tell it. */
static kvp_status no_open(const kvpi_plane_params *params, kvpi_plane **plane, kvpi_plane_caps *caps)
{
	(void)params, (void)plane, (void)caps;
	return kvpi_error(KVP_E_UNSUPPORTED, "a wrapped data plane is opened through its spec");
}

static kvp_status wrap_address(kvpi_plane *plane, void *out, size_t *len)
{
	return plane->inner_ops->address(plane->inner, out, len);
}

static kvp_status wrap_register(kvpi_plane *plane, void *base, uint64_t bytes, kvp_memory memory, int device,
                                kvpi_region **region)
{
	return plane->inner_ops->register_memory(plane->inner, base, bytes, memory, device, region);
}

static void wrap_unregister(kvpi_plane *plane, kvpi_region *region)
{
	plane->inner_ops->unregister_memory(plane->inner, region);
}

static kvp_status wrap_attach(kvpi_conn *conn, const void *exported, size_t len, int fd, kvpi_region **region)
{
	if (conn->inner == NULL)
		return not_connected();
	return conn->plane->inner_ops->attach(conn->inner, exported, len, fd, region);
}

static void wrap_detach(kvpi_conn *conn, kvpi_region *region)
{
	if (conn->inner != NULL)
		conn->plane->inner_ops->detach(conn->inner, region);
}

static void wake(void *user)
{
	const kvpi_plane_params *params = &((kvpi_plane *)user)->params;

	params->wake(params->user);
}

static bool wrap_arm(kvpi_plane *plane, int *fd)
{
	return plane->inner_ops->arm(plane->inner, fd);
}

kvp_status kvpi_wrap_open(const kvpi_plane_spec *spec, unsigned level, const kvpi_plane_params *params,
                          size_t plane_size, size_t conn_size,
                          void (*on_event)(void *user, const kvpi_plane_event *event), kvpi_plane **out)
{
	kvpi_plane *plane = kvpi_calloc(1, plane_size);
	kvpi_plane_params inner = *params;
	kvp_status status;

	if (plane == NULL)
		return kvpi_error_nomem("a wrapped data plane");
	plane->params = *params;
	plane->clock = params->clock != NULL ? params->clock : &kvpi_clock_real;
	plane->conn_size = conn_size;
	kvpi_list_init(&plane->conns);
	inner.on_event = on_event;
	inner.wake = wake;
	inner.user = plane;
	status = kvpi_plane_open_level(spec, level + 1, &inner, &plane->inner_ops, &plane->inner, &plane->caps);
	if (status != KVP_OK) {
		free(plane);
		return status;
	}
	plane->ops = (kvpi_plane_ops){
	    .size = sizeof(plane->ops),
	    .name = plane->inner_ops->name,
	    .preference = plane->inner_ops->preference,
	    .judge = plane->inner_ops->judge,
	    .open = no_open,
	    .close = kvpi_wrap_close,
	    .address = wrap_address,
	    .accept = kvpi_wrap_accept,
	    .connect = kvpi_wrap_connect,
	    .hangup = kvpi_wrap_hangup,
	    .register_memory = wrap_register,
	    .unregister_memory = wrap_unregister,
	    .export_region = plane->inner_ops->export_region, /* a region is the inner plane's own */
	    .attach = wrap_attach,
	    .detach = wrap_detach,
	    .submit = kvpi_wrap_submit,
	    .post_recv = kvpi_wrap_post_recv,
	    .notify = kvpi_wrap_notify,
	    .cancel = kvpi_wrap_cancel,
	    .progress = kvpi_wrap_progress,
	    .arm = wrap_arm,
	};
	*out = plane;
	return KVP_OK;
}

void kvpi_wrap_tell(const kvpi_conn *conn, kvpi_plane_event event)
{
	const kvpi_plane_params *params = &conn->plane->params;

	event.conn_user = conn->user;
	params->on_event(params->user, &event);
}

kvp_status kvpi_wrap_conn_new(kvpi_plane *plane, const unsigned char *token, void *user, bool accepts, kvpi_conn **out)
{
	kvpi_conn *conn = kvpi_calloc(1, plane->conn_size);

	if (conn == NULL)
		return kvpi_error_nomem("a wrapped data connection");
	conn->plane = plane;
	conn->user = user;
	conn->accepts = accepts;
	conn->number = ++plane->conns_made;
	memcpy(conn->token, token, sizeof(conn->token));
	kvpi_list_append(&plane->conns, &conn->node);
	*out = conn;
	return KVP_OK;
}

void kvpi_wrap_conn_free(kvpi_conn *conn)
{
	kvpi_list_remove(&conn->node);
	free(conn);
}

void kvpi_wrap_close(kvpi_plane *plane)
{
	plane->inner_ops->close(plane->inner);
	KVPI_LIST_FOREACH(pos, next, &plane->conns)
		kvpi_wrap_conn_free(KVPI_CONTAINER_OF(pos, kvpi_conn, node));
	free(plane);
}

kvp_status kvpi_wrap_accept(kvpi_plane *plane, const unsigned char token[KVPI_PLANE_TOKEN_BYTES], void *conn_user,
                            kvpi_conn **out)
{
	kvpi_conn *conn;
	kvp_status status = kvpi_wrap_conn_new(plane, token, conn_user, true, &conn);

	if (status != KVP_OK)
		return status;
	status = plane->inner_ops->accept(plane->inner, token, conn, &conn->inner);
	if (status != KVP_OK) {
		kvpi_wrap_conn_free(conn);
		return status;
	}
	*out = conn;
	return KVP_OK;
}

kvp_status kvpi_wrap_connect(kvpi_plane *plane, const void *address, size_t len,
                             const unsigned char token[KVPI_PLANE_TOKEN_BYTES], void *conn_user, kvpi_conn **out)
{
	kvpi_conn *conn;
	kvp_status status = kvpi_wrap_conn_new(plane, token, conn_user, false, &conn);

	if (status != KVP_OK)
		return status;
	status = plane->inner_ops->connect(plane->inner, address, len, token, conn, &conn->inner);
	if (status != KVP_OK) {
		kvpi_wrap_conn_free(conn);
		return status;
	}
	*out = conn;
	return KVP_OK;
}

void kvpi_wrap_hangup(kvpi_conn *conn)
{
	if (conn->inner != NULL)
		conn->plane->inner_ops->hangup(conn->inner);
	conn->inner = NULL;
	conn->closed = true;
	if (!conn->plane->in_progress)
		kvpi_wrap_conn_free(conn);
}

kvp_status kvpi_wrap_submit(kvpi_conn *conn, const kvpi_transfer *transfer)
{
	return conn->inner == NULL ? not_connected() : conn->plane->inner_ops->submit(conn->inner, transfer);
}

kvp_status kvpi_wrap_post_recv(kvpi_conn *conn, const kvpi_transfer *transfer)
{
	return conn->inner == NULL ? not_connected() : conn->plane->inner_ops->post_recv(conn->inner, transfer);
}

kvp_status kvpi_wrap_notify(kvpi_conn *conn, const void *data, size_t len)
{
	return conn->inner == NULL ? not_connected() : conn->plane->inner_ops->notify(conn->inner, data, len);
}

kvp_receipt kvpi_wrap_cancel(kvpi_conn *conn, kvpi_transfer_id id)
{
	/* Without an inner connection, hanging that up has quieted everything. */
	return conn->inner == NULL ? KVP_RECEIPT_QUIESCENT : conn->plane->inner_ops->cancel(conn->inner, id);
}

bool kvpi_wrap_progress(kvpi_plane *plane, uint64_t budget)
{
	bool more;

	plane->in_progress = true;
	more = plane->inner_ops->progress(plane->inner, budget);
	plane->in_progress = false;
	kvpi_wrap_reap(plane);
	return more;
}

void kvpi_wrap_reap(kvpi_plane *plane)
{
	KVPI_LIST_FOREACH(pos, next, &plane->conns) {
		kvpi_conn *conn = KVPI_CONTAINER_OF(pos, kvpi_conn, node);

		if (conn->closed)
			kvpi_wrap_conn_free(conn);
	}
}
