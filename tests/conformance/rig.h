/* SPDX-License-Identifier: Apache-2.0
 *
 * Two endpoints of one plane, driven by hand in one thread, and memory whose every byte is known.
 */
#ifndef KVP_TESTS_CONFORMANCE_RIG_H
#define KVP_TESTS_CONFORMANCE_RIG_H

#include "base/wakeup.h"
#include "plane/spec.h"

#define RIG_BUDGET (64u << 10)
#define RIG_LOG 8192

/* ---- endpoints ---- */

typedef struct rig_entry {
	kvpi_event_kind kind;
	kvpi_transfer_id id;
	kvp_status status;
	size_t len;             /* notes */
	unsigned char data[16]; /* the first bytes of them */
} rig_entry;

typedef struct rig_end rig_end;
struct rig_end {
	const kvpi_plane_ops *ops;
	kvpi_plane *plane; /* NULL: closed */
	kvpi_plane_caps caps;
	kvpi_conn *conn; /* NULL: none, or hung up */
	kvpi_wakeup wakeup;
	unsigned counts[KVPI_PLANE_NOTIFIED + 1]; /* events, by kind */
	rig_entry log[RIG_LOG];
	size_t logged;
	/* Called for each event, from inside progress; may be NULL. */
	void (*hook)(rig_end *end, const kvpi_plane_event *event);
	void *hook_user;
};

/* As in the plane's parameters. */
typedef struct rig_settings {
	int streams;
	bool checksum;
} rig_settings;

typedef struct rig {
	const kvpi_plane_ops *ops; /* a copy that outlives the planes; submit, post_recv and notify are asked again where the
	                              wrapper fault refuses them by chance */
	char list[128]; /* what names it, in the option `planes` */
	kvpi_plane_spec spec;
	rig_settings settings; /* of both ends, or of a */
	kvp_context *context;
	uint64_t budget;
	rig_end a, b; /* a accepts, b connects */
	unsigned char token[KVPI_PLANE_TOKEN_BYTES];
} rig;

/* The planes of the registry as they come, behind them each of them wrapped, and some with other settings. */
int rig_plane_count(void);
int rig_plane_find(const char *name); /* as it comes */

/* Opens both ends of plane number `index`, not connected; staging_bytes as in the plane's parameters. */
rig *rig_new(int index, uint64_t staging_bytes);
rig *rig_new_of(const char *name, rig_settings a, rig_settings b, uint64_t staging_bytes); /* wrapped or not */
/* The same, connected. */
rig *rig_new_connected(int index, uint64_t staging_bytes);
void rig_free(rig *rig); /* in whatever state */

/* Opens one more plane of the rig's kind. */
kvp_status rig_open(const rig *rig, const kvpi_plane_params *params, const kvpi_plane_ops **ops, kvpi_plane **plane,
    kvpi_plane_caps *caps);

void rig_accept(rig *rig);
void rig_connect(rig *rig); /* until both ends are told */
void rig_hangup(rig_end *end);

/* One progress of each end. */
void rig_step(rig *rig);

/* Steps until the expression is true; fails after a time that is never reached. */
#define RIG_UNTIL(rig, expr)                                                                       \
	do {                                                                                       \
		int64_t rig_deadline = rig_patience();                                             \
		while (!(expr))                                                                    \
			rig_step_until(rig, rig_deadline, __FILE__, __LINE__, #expr);              \
	} while (0)
int64_t rig_patience(void);
void rig_step_until(rig *rig, int64_t deadline_ns, const char *file, int line, const char *what);

/* Steps until neither end has anything to do, for `quiet` rounds in a row. */
void rig_settle(rig *rig);

/* Has that end been told this of the transfer? */
bool rig_told(const rig_end *end, kvpi_event_kind kind, kvpi_transfer_id id);

/* ---- memory ---- */

/* A region of host or fake device memory, and a copy of what it has to hold. */
typedef struct rig_mem {
	kvp_memory memory;
	size_t size;
	char *base;
	char *mirror;
} rig_mem;

rig_mem *rig_mem_new(kvp_memory memory, size_t size, uint64_t seed); /* full of random bytes */
void rig_mem_free(rig_mem *mem);
void rig_mem_fill(rig_mem *mem, uint64_t seed); /* anew, the mirror too */
bool rig_mem_right(const rig_mem *mem);         /* every byte is as the mirror has it */

typedef enum rig_shape { RIG_DENSE, RIG_ROWS, RIG_TINY, RIG_BLOCKS, RIG_SHAPES } rig_shape;

/* A layout of `bytes` (a multiple of 16384, but for RIG_DENSE) inside of mem; it needs RIG_SPREAD times the space.
 * ids[] gets what the layout borrows. */
#define RIG_SPREAD 4
#define RIG_IDS 64
void rig_layout(const rig_mem *mem, rig_shape shape, uint64_t bytes, uint32_t ids[RIG_IDS], kvpi_layout *layout);

/* The mirror of `to` gets what the mirror of `from` has. */
void rig_mirror_copy(const rig_mem *to, const kvpi_layout *to_layout, const rig_mem *from,
    const kvpi_layout *from_layout);

/* ---- transfers ---- */

/* `bytes` bytes of the memory, from `offset` on. */
kvpi_layout rig_bytes(const rig_mem *mem, uint64_t offset, uint64_t bytes);

kvpi_transfer rig_transfer(uint64_t seq, uint32_t attempt, const kvpi_layout *layout);

/* First attempts, which the plane has to take. */
#define RIG_ID(seq) ((kvpi_transfer_id){seq, 1})
void rig_post(rig_end *end, uint64_t seq, const kvpi_layout *layout);
void rig_put(rig_end *end, uint64_t seq, const kvpi_layout *layout);

/* One whole transfer, told to both ends, and checked. */
void rig_carry(rig *rig, rig_end *from, rig_end *to, uint64_t seq, const rig_mem *src, const kvpi_layout *source,
    const rig_mem *dst, const kvpi_layout *target);

#endif
