/* SPDX-License-Identifier: Apache-2.0
 *
 * Layouts in messages.  What comes from the peer is checked to the last field, with sums that cannot wrap.
 */
#include "plane/shm_msg.h"

#include <string.h>

bool kvpi_shm_extent(const kvpi_layout *layout, uint64_t *extent)
{
	uint64_t reach = layout->block_bytes;

	for (uint32_t d = 0; d < layout->ndim; d++) {
		uint64_t last = layout->dim[d].count - 1, step;

		if (layout->ids != NULL && d == layout->id_dim) {
			last = 0;
			for (uint64_t i = 0; i < layout->dim[d].count; i++)
				last = layout->ids[i] > last ? layout->ids[i] : last;
		}
		if (__builtin_mul_overflow(last, layout->dim[d].stride, &step) ||
		    __builtin_add_overflow(reach, step, &reach))
			return false;
	}
	*extent = reach;
	return true;
}

void kvpi_shm_put_layout(kvpi_shm_put *put, kvpi_dim dims[KVP_MAX_DIMS], const kvpi_layout *layout)
{
	put->ndim = (uint16_t)layout->ndim;
	put->block_bytes = layout->block_bytes;
	memcpy(dims, layout->dim, layout->ndim * sizeof(dims[0]));
	if (layout->ids != NULL) {
		put->id_dim = layout->id_dim;
		put->id_count = (uint32_t)layout->dim[layout->id_dim].count;
	}
}

/* Are the counts and the block as many bytes as the put says? */
static bool sizes_agree(const kvpi_layout *layout)
{
	uint64_t bytes = layout->block_bytes;

	if (bytes == 0)
		return false;
	for (uint32_t d = 0; d < layout->ndim; d++) {
		if (layout->dim[d].count == 0 || __builtin_mul_overflow(bytes, layout->dim[d].count, &bytes))
			return false;
	}
	return bytes == layout->bytes;
}

static bool read_layout(const char *message, size_t len, const kvpi_shm_put *put, kvpi_layout *layout, uint64_t *extent)
{
	const size_t dims = put->ndim * sizeof(kvpi_dim), ids = put->id_count * sizeof(uint32_t);

	if (put->ndim > KVP_MAX_DIMS || put->id_count > KVPI_SHM_IDS_MAX || len != sizeof(*put) + dims + ids)
		return false;
	*layout = (kvpi_layout){.memory = KVP_MEMORY_HOST,
	    .ndim = put->ndim,
	    .block_bytes = put->block_bytes,
	    .id_dim = put->id_dim,
	    .bytes = put->bytes};
	memcpy(layout->dim, message + sizeof(*put), dims);
	if (put->id_count > 0) {
		if (put->id_dim >= put->ndim || layout->dim[put->id_dim].count != put->id_count)
			return false;
		layout->ids = (const uint32_t *)(const void *)(message + sizeof(*put) + dims);
	} else if (put->id_dim != 0) {
		return false;
	}
	return sizes_agree(layout) && kvpi_shm_extent(layout, extent);
}

bool kvpi_shm_put_read(const void *message, size_t len, kvpi_shm_put *put, kvpi_layout *layout, uint64_t *extent)
{
	static const kvpi_shm_put zero;
	const size_t rest = offsetof(kvpi_shm_put, base);

	if (len < sizeof(*put))
		return false;
	memcpy(put, message, sizeof(*put));
	if (put->kind != KVPI_SHM_PUT || put->reserved != 0)
		return false;
	switch (put->way) {
	case KVPI_SHM_INLINE:
	case KVPI_SHM_STAGED:
		if (put->ndim != 0 || memcmp((const char *)put + rest, (const char *)&zero + rest, sizeof(*put) - rest) != 0)
			return false;
		return len - sizeof(*put) == (put->way == KVPI_SHM_INLINE ? put->bytes : 0) &&
		       (put->way == KVPI_SHM_INLINE || put->bytes > 0);
	case KVPI_SHM_MAPPED:
	case KVPI_SHM_REMOTE:
		return read_layout(message, len, put, layout, extent);
	default:
		return false;
	}
}
