/* SPDX-License-Identifier: Apache-2.0
 *
 * The devices of this build, one table each.
 */
#ifndef KVPI_DEVICE_TABLES_H
#define KVPI_DEVICE_TABLES_H

#include "device/device.h"

extern const kvpi_device_ops kvpi_host_device;
extern const kvpi_device_ops kvpi_fake_device;
#ifdef HAVE_CUDA
extern const kvpi_device_ops kvpi_cuda_device;
#endif

#endif
