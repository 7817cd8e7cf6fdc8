/* SPDX-License-Identifier: Apache-2.0
 *
 * The memory of the fake device: which addresses are its own, and where the CPU finds their bytes.
 */
#ifndef KVPI_DEVICE_FAKE_MEMORY_H
#define KVPI_DEVICE_FAKE_MEMORY_H

#include "device/device.h"

/* As the slots of the device table of these names, without starting or stopping anything. */
bool kvpi_fake_memory_owns(const void *ptr, int *device);
kvp_status kvpi_fake_memory_alloc(int device, uint64_t bytes, void **ptr);
kvp_status kvpi_fake_memory_export(void *ptr, uint64_t bytes, kvpi_export *out);
kvp_status kvpi_fake_memory_import(int device, const kvpi_export *in, void **ptr);

/* False if the address is not that of an allocation (imported: not inside of an imported one). */
bool kvpi_fake_memory_free(void *ptr, bool imported);

uint64_t kvpi_fake_memory_count(void); /* allocations and imports alive */

/* What the device does with memory.  An end that is device memory is looked up now, under a lock that keeps it
 * mapped meanwhile; false if it is not, or no longer, there. */
bool kvpi_fake_memory_copy(void *to, bool to_device, const void *from, bool from_device, uint64_t len);
bool kvpi_fake_memory_load(const uint64_t *word, uint64_t *value);
bool kvpi_fake_memory_store(uint64_t *word, uint64_t value);

#endif
