/* SPDX-License-Identifier: Apache-2.0
 *
 * What the wrapping planes (fault, trace) share: a plane that stands before another one, with a table of its own that
 * hands every call on.  A wrapper overrides the slots in which it does something, and hears the inner plane's events.
 *
 * Only fault.c, trace.c and wrap.c see these structs; to everybody else they are as opaque as those of other planes.
 */
#ifndef KVPI_PLANE_WRAP_H
#define KVPI_PLANE_WRAP_H

#include "base/list.h"
#include "plane/spec.h"

extern const kvpi_plane_wrapper kvpi_plane_fault, kvpi_plane_trace;

struct kvpi_plane {
	kvpi_plane_ops ops;       /* the wrapper's own table; name, rank and judgement are the inner plane's */
	kvpi_plane_params params; /* of who opened it: where events go */
	const kvpi_clock *clock;
	const kvpi_plane_ops *inner_ops;
	kvpi_plane *inner;
	kvpi_plane_caps caps;
	kvpi_list conns;
	size_t conn_size;
	uint64_t conns_made;
	bool in_progress; /* connections that are hung up meanwhile are freed at its end */
};

struct kvpi_conn {
	kvpi_list node;
	kvpi_plane *plane;
	kvpi_conn *inner; /* NULL: none just now */
	void *user;
	uint64_t number; /* of the plane's connections */
	bool accepts;
	bool closed; /* hung up from inside an event; nothing of it is told any more */
	unsigned char token[KVPI_PLANE_TOKEN_BYTES];
};

/* Opens what spec->wrap[level] wraps.  A new plane of plane_size bytes (a struct that begins with kvpi_plane), its
 * connections of conn_size likewise; on_event hears the inner plane's events with the wrapper's plane as `user` and
 * its connection as conn_user. */
kvp_status kvpi_wrap_open(const kvpi_plane_spec *spec, unsigned level, const kvpi_plane_params *params,
                          size_t plane_size, size_t conn_size,
                          void (*on_event)(void *user, const kvpi_plane_event *event), kvpi_plane **plane);

/* An event of the inner plane, or one like it, for who opened the wrapper. */
void kvpi_wrap_tell(const kvpi_conn *conn, kvpi_plane_event event);

kvp_status kvpi_wrap_conn_new(kvpi_plane *plane, const unsigned char *token, void *user, bool accepts, kvpi_conn **conn);
void kvpi_wrap_conn_free(kvpi_conn *conn);

/* The slots that hand on; those of wrappers call them. */
void kvpi_wrap_close(kvpi_plane *plane);
kvp_status kvpi_wrap_accept(kvpi_plane *plane, const unsigned char token[KVPI_PLANE_TOKEN_BYTES], void *conn_user,
                            kvpi_conn **conn);
kvp_status kvpi_wrap_connect(kvpi_plane *plane, const void *address, size_t len,
                             const unsigned char token[KVPI_PLANE_TOKEN_BYTES], void *conn_user, kvpi_conn **conn);
void kvpi_wrap_hangup(kvpi_conn *conn);
kvp_status kvpi_wrap_submit(kvpi_conn *conn, const kvpi_transfer *transfer);
kvp_status kvpi_wrap_post_recv(kvpi_conn *conn, const kvpi_transfer *transfer);
kvp_status kvpi_wrap_notify(kvpi_conn *conn, const void *data, size_t len);
kvp_receipt kvpi_wrap_cancel(kvpi_conn *conn, kvpi_transfer_id id);
bool kvpi_wrap_progress(kvpi_plane *plane, uint64_t budget);

/* Frees the connections that were hung up during a progress call, which has just ended. */
void kvpi_wrap_reap(kvpi_plane *plane);

#endif
