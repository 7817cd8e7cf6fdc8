/* SPDX-License-Identifier: Apache-2.0
 *
 * What the two ends of a `shm` connection say to each other.  Both run on one host, so numbers are in its byte order.
 *
 * Channel.  A proven channel of the broker (share/broker.h), which stays open: its end tells that the peer is gone.  Each
 * message is one kvpi_shm_word:
 *
 *	kind    with                                  meaning
 *	SETUP   flag = version, a = bytes of the      the sender's page (a descriptor comes with it); first of all
 *	        page, b = address and id = contents
 *	        of 16 bytes of the sender's memory
 *	ABLE    flag = 1: process_vm_readv of these   the sender has mapped the peer's page; second
 *	        16 bytes worked, 0: it did not
 *	MEMORY  id, a = bytes                         memory that puts will refer to (a descriptor comes with it)
 *	FORGET  id                                    no later put refers to it
 *	BELL                                          wake up
 *
 * The connection is up for an end that has had SETUP and ABLE.
 *
 * Page.  Each end has one, which it makes, and which both map: the grant slots of its puts (share/grant.h), two words, and
 * the ring of what it says (share/ring.h):
 *
 *	`taken`    written by the peer: how many chunks it has copied out, since the beginning
 *	`waiting`  set by the owner: wake me when you have taken anything; cleared by the peer that does
 *	`left`     set by the owner before it ends the connection: whose channel ends without that is dying
 *
 * Ring.  Messages in the order in which they were submitted.  What an end has done with a message is never answered
 * through its own ring, but through the words in the page: so neither has to wait for room to be able to answer, and
 * reading a ring never depends on the other one.
 *
 *	NOTE   the bytes of a notify
 *	PUT    a transfer, and where its bytes are:
 *	       INLINE  behind the message
 *	       MAPPED  in a MEMORY, from the offset `base` on; the address is given, too
 *	       REMOTE  in the sender's memory at the address `base`, for process_vm_readv
 *	       STAGED  in the CHUNKs that follow
 *	CHUNK  `len` bytes of the transfer, from byte `offset` of it on, in a MEMORY
 *
 * MAPPED and REMOTE stand under a grant: the receiver claims it before it reads the first byte, looks for a recall between
 * pieces and after the last one, and says done.  A put whose grant cannot be claimed was canceled and is passed over.  The
 * sender may spoil its memory once it has recalled the grant, whether or not the receiver has seen that, since bytes that
 * were read under a grant which has been recalled by the end of the reading never count as received.
 * A STAGED put that is followed by anything but its next CHUNK was canceled.
 */
#ifndef KVPI_PLANE_SHM_MSG_H
#define KVPI_PLANE_SHM_MSG_H

#include "device/layout.h"
#include "share/grant.h"
#include "share/mem.h"

#define KVPI_SHM_VERSION 1
#define KVPI_SHM_RING_BYTES (256u << 10)
#define KVPI_SHM_MESSAGE_MAX (KVPI_SHM_RING_BYTES / 4) /* of the ring */
#define KVPI_SHM_INLINE_MAX (8u << 10)
/* All memories together that one end may have announced: a bound for the address space of the other. */
#define KVPI_SHM_MEMORY_MAX (UINT64_C(1) << 44)

enum { KVPI_SHM_SETUP = 1, KVPI_SHM_ABLE, KVPI_SHM_MEMORY, KVPI_SHM_FORGET, KVPI_SHM_BELL };
enum { KVPI_SHM_NOTE = 1, KVPI_SHM_PUT, KVPI_SHM_CHUNK };
typedef enum kvpi_shm_way { KVPI_SHM_INLINE = 1, KVPI_SHM_MAPPED, KVPI_SHM_REMOTE, KVPI_SHM_STAGED } kvpi_shm_way;

/* Of the channel.  What a kind does not use is zero. */
typedef struct kvpi_shm_word {
	uint32_t kind, flag;
	uint64_t a, b;
	unsigned char id[KVPI_MEM_ID_BYTES];
} kvpi_shm_word;

/* Of the ring; `dims` and then `ids` follow, or the bytes of an INLINE put. */
typedef struct kvpi_shm_put {
	uint8_t kind, way;
	uint16_t ndim;
	uint32_t attempt;
	uint64_t seq, bytes;
	/* MAPPED and REMOTE; zero else */
	uint64_t base, address;
	unsigned char memory[KVPI_MEM_ID_BYTES]; /* MAPPED */
	uint64_t block_bytes;
	uint64_t generation; /* of the grant */
	uint32_t slot;
	uint32_t id_dim, id_count; /* 0, 0: no ids */
	uint32_t reserved;
} kvpi_shm_put;

typedef struct kvpi_shm_chunk {
	uint8_t kind, reserved[7];
	uint64_t offset, len;
	uint64_t base; /* in the memory */
	unsigned char memory[KVPI_MEM_ID_BYTES];
} kvpi_shm_chunk;

typedef struct kvpi_shm_note {
	uint8_t kind, reserved[7];
} kvpi_shm_note;

_Static_assert(sizeof(kvpi_shm_word) == 40 && sizeof(kvpi_shm_put) == 88 && sizeof(kvpi_shm_chunk) == 48 &&
                   sizeof(kvpi_shm_note) == 8,
    "no padding, which would carry bytes of ours to the peer");

#define KVPI_SHM_IDS_MAX                                                                                               \
	((KVPI_SHM_MESSAGE_MAX - sizeof(kvpi_shm_put) - KVP_MAX_DIMS * sizeof(kvpi_dim)) / sizeof(uint32_t))

/* How far the layout reaches from its base; false when that is no number. */
bool kvpi_shm_extent(const kvpi_layout *layout, uint64_t *extent);

/* Describes the layout in the put and behind it in dims[]; its ids, if any, belong behind these. */
void kvpi_shm_put_layout(kvpi_shm_put *put, kvpi_dim dims[KVP_MAX_DIMS], const kvpi_layout *layout);

/* Reads a whole PUT of `len` bytes at `message` (8-byte aligned, stays as long as `layout` is used).  False: it is none.
 * MAPPED and REMOTE: fills the layout, all but its base, with sizes that agree, and how far it reaches.  INLINE: where
 * the bytes are is message + sizeof(kvpi_shm_put). */
bool kvpi_shm_put_read(const void *message, size_t len, kvpi_shm_put *put, kvpi_layout *layout, uint64_t *extent);

#endif
