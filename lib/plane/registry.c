/* SPDX-License-Identifier: Apache-2.0
 *
 * All planes of this build.  A new one is a declaration in planes.h and a line here.
 */
#include "plane/planes.h"

#include <string.h>

/* Best first. */
static const kvpi_plane_ops *const planes[] = {
    &kvpi_plane_self,
    &kvpi_plane_shm,
    &kvpi_plane_tcp,
    NULL,
};

const kvpi_plane_ops *const *kvpi_plane_registry(void)
{
	return planes;
}

const kvpi_plane_ops *kvpi_plane_find(const char *name, size_t len)
{
	for (size_t i = 0; planes[i] != NULL; i++) {
		if (strlen(planes[i]->name) == len && memcmp(planes[i]->name, name, len) == 0)
			return planes[i];
	}
	return NULL;
}
