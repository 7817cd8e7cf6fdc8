/* SPDX-License-Identifier: Apache-2.0
 *
 * Grant slots: who may touch the owner's memory, and the proof that nobody does any more.
 *
 * The slots lie in a page that owner and user share.  A slot is one 64-bit word: state in the low 8 bits, above it a 56-bit
 * generation that grows with every offer, so that an old offer is never taken for a new one.
 *
 *	FREE -> OFFERED    owner: the memory may be touched
 *	OFFERED -> CLAIMED user: by compare-and-swap, before it touches anything
 *	CLAIMED -> DONE    user: will not touch it any more
 *	OFFERED -> FREE    owner revokes by compare-and-swap: wins, an immediate receipt even if the user is frozen
 *	CLAIMED -> RECALLED owner lost the race: the user looks between pieces, stops soon, and says DONE
 *	DONE -> FREE       owner
 *
 * The user is another process and may lie or die.  The owner's view of each slot is in its own memory, and what the shared
 * word says is only believed where it is a step that the user may make from there; anything else is BROKEN, and stays so
 * until the user is gone.  (A user that touches the memory without a claim lies to itself alone where it can only read;
 * who can write is trusted to that extent: SECURITY.md.)  When it dies, kvpi_grants_peer_gone frees all: the proof of
 * death is its pidfd (share/broker.h).
 *
 * Owner functions: one thread.  User functions: any thread, one for each grant.  What the user did before `done` has
 * happened before the owner's receipt; what the owner did before the offer, before the claim.
 */
#ifndef KVPI_SHARE_GRANT_H
#define KVPI_SHARE_GRANT_H

#include <kvpipe/status.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define KVPI_GRANTS 256 /* slots of one direction of a connection */

typedef struct kvpi_grant_slot {
	_Alignas(64) _Atomic uint64_t word;
} kvpi_grant_slot; /* in shared memory */

/* Names an offer. */
typedef struct kvpi_grant {
	uint32_t slot;
	uint64_t generation;
} kvpi_grant;

typedef enum kvpi_grant_end {
	KVPI_GRANT_OPEN,  /* offered or claimed */
	KVPI_GRANT_DONE,  /* the user is done; or it is revoked: nobody touches the memory */
	KVPI_GRANT_BROKEN /* the word is what it cannot be: the peer breaks the protocol */
} kvpi_grant_end;

/* The owner's side of all slots. */
typedef struct kvpi_grants {
	kvpi_grant_slot *shared;
	uint64_t generation[KVPI_GRANTS]; /* of the present or last offer */
	uint8_t state[KVPI_GRANTS];       /* as last believed */
	uint32_t in_use, next;            /* how many; where the search for a free one begins */
} kvpi_grants;

void kvpi_grants_init(kvpi_grants *grants, kvpi_grant_slot *shared); /* on zeroed memory */

/* Owner.  KVP_E_AGAIN: all slots are in use (no sentence: it is no error). */
kvp_status kvpi_grant_offer(kvpi_grants *grants, kvpi_grant *grant);

/* Owner.  True: nobody touches the memory, nor will: the slot is free again.  False: claimed, and now recalled (or the
 * peer breaks the protocol); ask kvpi_grant_poll.  An offer that has ended: true. */
bool kvpi_grant_revoke(kvpi_grants *grants, kvpi_grant grant);

/* Owner.  How it stands; with DONE the slot is free again.  An offer that has ended: DONE. */
kvpi_grant_end kvpi_grant_poll(kvpi_grants *grants, kvpi_grant grant);

/* Owner.  The user's process is proven gone: every slot is free. */
void kvpi_grants_peer_gone(kvpi_grants *grants);

/* User, whose grants come in messages: checks the slot's number.  True: it may touch the memory until it says done. */
bool kvpi_grant_claim(kvpi_grant_slot *slots, kvpi_grant grant);
bool kvpi_grant_recalled(kvpi_grant_slot *slots, kvpi_grant grant); /* user, between pieces: true: stop */
/* User, only after a claim: it touches the memory no more.  True: it was not recalled before, so what was read is what the
 * owner meant to be read. */
bool kvpi_grant_done(kvpi_grant_slot *slots, kvpi_grant grant);

#endif
