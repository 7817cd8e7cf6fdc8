/* SPDX-License-Identifier: Apache-2.0 */
#include "share/mem.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/map.h"
#include "wire/auth.h"
#include <errno.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct import {
	void *base;
	uint64_t bytes;
} import;

struct kvpi_imports {
	kvpi_map *by_id; /* id -> import */
	uint64_t bytes, max_bytes;
};

kvp_status kvpi_imports_new(uint64_t max_bytes, kvpi_imports **imports)
{
	kvpi_imports *made;
	kvp_status status = kvpi_auth_init(); /* the map's seed */

	if (status != KVP_OK)
		return status;
	made = KVPI_NEW(kvpi_imports);
	if (made == NULL)
		return kvpi_error_nomem("the peer's memories");
	made->by_id = kvpi_map_new(kvpi_random_u64());
	if (made->by_id == NULL) {
		free(made);
		return kvpi_error_nomem("the peer's memories");
	}
	made->max_bytes = max_bytes;
	*imports = made;
	return KVP_OK;
}

static void import_free(import *i)
{
	munmap(i->base, i->bytes);
	free(i);
}

void kvpi_imports_free(kvpi_imports *imports)
{
	const void *id;
	void *value;
	size_t cursor = 0, len;

	if (imports == NULL)
		return;
	while (kvpi_map_next(imports->by_id, &cursor, &id, &len, &value))
		import_free(value);
	kvpi_map_free(imports->by_id);
	free(imports);
}

static kvp_status add(kvpi_imports *imports, const unsigned char *id, int fd, uint64_t bytes)
{
	kvp_status status;
	import *made;

	if (kvpi_imports_has(imports, id))
		return kvpi_error(KVP_E_CONFLICT, "the peer sent the same memory twice");
	if (bytes > imports->max_bytes - imports->bytes || kvpi_map_count(imports->by_id) >= KVPI_IMPORTS_MAX)
		return kvpi_error(KVP_E_TOO_LARGE,
		    "the peer's memory of %" PRIu64 " bytes, with %zu others of %" PRIu64 ", is above the bound of %" PRIu64
		    " bytes and %d memories",
		    bytes, kvpi_map_count(imports->by_id), imports->bytes, imports->max_bytes, KVPI_IMPORTS_MAX);
	status = kvpi_memfd_check(fd, bytes);
	if (status != KVP_OK)
		return status;
	made = KVPI_NEW(import);
	if (made == NULL)
		return kvpi_error_nomem("a peer's memory");
	made->bytes = bytes;
	made->base = kvpi_fault("imports.mmap") ? (errno = ENOMEM, MAP_FAILED)
	                                        : mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
	if (made->base == MAP_FAILED) {
		status = kvpi_error_errno("cannot map %" PRIu64 " bytes of the peer's memory", bytes);
		free(made);
		return status;
	}
	status = kvpi_map_put(imports->by_id, id, KVPI_MEM_ID_BYTES, made, NULL);
	if (status != KVP_OK) {
		import_free(made);
		return status;
	}
	imports->bytes += bytes;
	return KVP_OK;
}

kvp_status kvpi_imports_add(kvpi_imports *imports, const unsigned char id[KVPI_MEM_ID_BYTES], int fd, uint64_t bytes)
{
	kvp_status status = add(imports, id, fd, bytes);

	close(fd); /* the mapping holds the memory */
	return status;
}

const void *kvpi_imports_at(
    const kvpi_imports *imports, const unsigned char id[KVPI_MEM_ID_BYTES], uint64_t offset, uint64_t bytes)
{
	const import *found = kvpi_map_get(imports->by_id, id, KVPI_MEM_ID_BYTES);

	if (found == NULL || offset > found->bytes || bytes > found->bytes - offset)
		return NULL;
	return (const char *)found->base + offset;
}

bool kvpi_imports_has(const kvpi_imports *imports, const unsigned char id[KVPI_MEM_ID_BYTES])
{
	return kvpi_map_get(imports->by_id, id, KVPI_MEM_ID_BYTES) != NULL;
}

void kvpi_imports_remove(kvpi_imports *imports, const unsigned char id[KVPI_MEM_ID_BYTES])
{
	import *found = kvpi_map_remove(imports->by_id, id, KVPI_MEM_ID_BYTES);

	if (found == NULL)
		return;
	imports->bytes -= found->bytes;
	import_free(found);
}

uint64_t kvpi_imports_bytes(const kvpi_imports *imports)
{
	return imports->bytes;
}
