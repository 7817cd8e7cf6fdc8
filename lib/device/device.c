/* SPDX-License-Identifier: Apache-2.0
 *
 * Which devices there are, and which of them a pointer belongs to.
 */
#include "device/device.h"

#include "base/error.h"
#include "device/tables.h"

/* A new device is one line here.  Host is last: it has no way to say that a pointer is not its own. */
static const kvpi_device_ops *const tables[] = {
    &kvpi_fake_device,
#ifdef HAVE_CUDA
    &kvpi_cuda_device,
#endif
    &kvpi_host_device,
};
#define TABLE_COUNT (sizeof(tables) / sizeof(tables[0]))

const kvpi_device_ops *kvpi_device_find(kvp_memory memory)
{
	for (size_t i = 0; i < TABLE_COUNT; i++) {
		if (tables[i]->memory == memory)
			return tables[i];
	}
	return NULL;
}

kvp_status kvpi_device_resolve(const void *ptr, kvp_memory *memory, int *device)
{
	const kvpi_device_ops *ops;
	int ordinal = 0;

	if (*memory == KVP_MEMORY_AUTO) {
		for (size_t i = 0; i < TABLE_COUNT; i++) {
			if (!tables[i]->owns(ptr, &ordinal))
				continue;
			*memory = tables[i]->memory;
			*device = ordinal;
			return KVP_OK;
		}
	}
	ops = kvpi_device_find(*memory);
	if (ops == NULL)
		return kvpi_error(KVP_E_UNSUPPORTED, "memory kind %d is not there in this build or on this machine",
		    (int)*memory);
	/* No pointer, no bytes: nothing that could belong to the wrong device. */
	if (ptr == NULL)
		return KVP_OK;
	if (!ops->owns(ptr, &ordinal))
		return kvpi_error(KVP_E_INVALID, "%p is not %s memory (memory kind KVP_MEMORY_AUTO finds out itself)",
		    ptr, ops->name);
	*device = ordinal;
	return KVP_OK;
}
