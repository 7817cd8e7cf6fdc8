/* SPDX-License-Identifier: Apache-2.0
 *
 * What a plane without registered memory answers.
 */
#include "plane/plane.h"

#include "base/error.h"

/* A region of nothing: only its address matters. */
struct kvpi_region {
	char unused;
};

static kvpi_region nothing;

static kvp_status unsupported(const char *what)
{
	return kvpi_error(KVP_E_UNSUPPORTED, "this data plane is two-sided, it cannot %s memory", what);
}

kvp_status kvpi_plane_no_register(kvpi_plane *plane, void *base, uint64_t bytes, kvp_memory memory, int device,
                                  kvpi_region **region)
{
	(void)plane;
	(void)base;
	(void)bytes;
	(void)memory;
	(void)device;
	*region = &nothing;
	return KVP_OK;
}

void kvpi_plane_no_unregister(kvpi_plane *plane, kvpi_region *region)
{
	(void)plane;
	(void)region;
}

kvp_status kvpi_plane_no_export(kvpi_region *region, void *out, size_t *len, int *fd)
{
	(void)region;
	(void)out;
	(void)len;
	(void)fd;
	return unsupported("export");
}

kvp_status kvpi_plane_no_attach(kvpi_conn *conn, const void *exported, size_t len, int fd, kvpi_region **region)
{
	(void)conn;
	(void)exported;
	(void)len;
	(void)fd;
	(void)region;
	return unsupported("attach");
}

void kvpi_plane_no_detach(kvpi_conn *conn, kvpi_region *region)
{
	(void)conn;
	(void)region;
}
