/* SPDX-License-Identifier: Apache-2.0
 *
 * The tables that the planes' files give to the registry, each file's only symbol of its plane.
 */
#ifndef KVPI_PLANE_PLANES_H
#define KVPI_PLANE_PLANES_H

#include "plane/plane.h"

extern const kvpi_plane_ops kvpi_plane_self;
extern const kvpi_plane_ops kvpi_plane_shm;
extern const kvpi_plane_ops kvpi_plane_tcp;

#endif
