/* SPDX-License-Identifier: Apache-2.0 */
#include "share/grant.h"

/* In the low 8 bits of a word.  BROKEN is in the owner's memory only. */
enum { FREE, OFFERED, CLAIMED, DONE, RECALLED, BROKEN };

static uint64_t word_of(uint64_t generation, unsigned state)
{
	return generation << 8 | state;
}

/* ---- owner ---- */

void kvpi_grants_init(kvpi_grants *grants, kvpi_grant_slot *shared)
{
	*grants = (kvpi_grants){.shared = shared};
}

kvp_status kvpi_grant_offer(kvpi_grants *grants, kvpi_grant *grant)
{
	uint32_t slot = grants->next;

	if (grants->in_use == KVPI_GRANTS)
		return KVP_E_AGAIN;
	while (grants->state[slot] != FREE)
		slot = (slot + 1) % KVPI_GRANTS;
	grants->next = (slot + 1) % KVPI_GRANTS;
	grants->in_use++;
	grants->state[slot] = OFFERED;
	grants->generation[slot]++;
	*grant = (kvpi_grant){slot, grants->generation[slot]};
	atomic_store_explicit(
	    &grants->shared[slot].word, word_of(grant->generation, OFFERED), memory_order_release);
	return KVP_OK;
}

static bool is_over(const kvpi_grants *grants, kvpi_grant grant)
{
	return grant.slot >= KVPI_GRANTS || grants->generation[grant.slot] != grant.generation ||
	       grants->state[grant.slot] == FREE;
}

static void set_free(kvpi_grants *grants, uint32_t slot)
{
	grants->state[slot] = FREE;
	grants->in_use--;
	atomic_store_explicit(
	    &grants->shared[slot].word, word_of(grants->generation[slot], FREE), memory_order_relaxed);
}

/* Takes over what the shared word says, if the user may have made that step. */
static void look(kvpi_grants *grants, kvpi_grant grant, uint64_t word)
{
	uint8_t *state = &grants->state[grant.slot];
	uint64_t said = word - word_of(grant.generation, 0);
	bool possible;

	switch (*state) {
	case OFFERED:
		possible = said == OFFERED || said == CLAIMED || said == DONE;
		break;
	case CLAIMED:
		possible = said == CLAIMED || said == DONE;
		break;
	case RECALLED:
		possible = said == RECALLED || said == DONE;
		break;
	default:
		possible = false;
		break;
	}
	*state = possible ? (uint8_t)said : BROKEN;
}

static kvpi_grant_end settle(kvpi_grants *grants, kvpi_grant grant)
{
	switch (grants->state[grant.slot]) {
	case DONE:
		set_free(grants, grant.slot);
		return KVPI_GRANT_DONE;
	case BROKEN:
		return KVPI_GRANT_BROKEN;
	default:
		return KVPI_GRANT_OPEN;
	}
}

kvpi_grant_end kvpi_grant_poll(kvpi_grants *grants, kvpi_grant grant)
{
	if (is_over(grants, grant))
		return KVPI_GRANT_DONE;
	/* In one order with what says that this end sleeps (ring.h): a user that does not see that is seen here. */
	look(grants, grant, atomic_load(&grants->shared[grant.slot].word));
	return settle(grants, grant);
}

bool kvpi_grant_revoke(kvpi_grants *grants, kvpi_grant grant)
{
	_Atomic uint64_t *shared;
	uint8_t *state;
	uint64_t word;

	if (is_over(grants, grant))
		return true;
	shared = &grants->shared[grant.slot].word;
	state = &grants->state[grant.slot];
	word = word_of(grant.generation, OFFERED);
	if (*state == OFFERED && atomic_compare_exchange_strong(shared, &word, word_of(grant.generation, FREE))) {
		set_free(grants, grant.slot);
		return true;
	}
	/* The user was faster; two steps at most, claimed and done, so this does not go round. */
	word = word_of(grant.generation, CLAIMED);
	if ((*state == OFFERED || *state == CLAIMED) &&
	    atomic_compare_exchange_strong(shared, &word, word_of(grant.generation, RECALLED)))
		*state = RECALLED;
	else
		look(grants, grant, atomic_load_explicit(shared, memory_order_acquire));
	return settle(grants, grant) == KVPI_GRANT_DONE;
}

void kvpi_grants_peer_gone(kvpi_grants *grants)
{
	for (uint32_t slot = 0; slot < KVPI_GRANTS; slot++) {
		if (grants->state[slot] != FREE)
			set_free(grants, slot);
	}
}

/* ---- user ---- */

bool kvpi_grant_claim(kvpi_grant_slot *slots, kvpi_grant grant)
{
	uint64_t word = word_of(grant.generation, OFFERED);

	return grant.slot < KVPI_GRANTS && grant.generation <= UINT64_MAX >> 8 &&
	       atomic_compare_exchange_strong(&slots[grant.slot].word, &word, word_of(grant.generation, CLAIMED));
}

bool kvpi_grant_recalled(kvpi_grant_slot *slots, kvpi_grant grant)
{
	/* Anything but the claim means stop; relaxed, since the answer orders nothing. */
	return atomic_load_explicit(&slots[grant.slot].word, memory_order_relaxed) !=
	       word_of(grant.generation, CLAIMED);
}

bool kvpi_grant_done(kvpi_grant_slot *slots, kvpi_grant grant)
{
	/* From CLAIMED and from RECALLED, the way leads here.  An exchange, which tells the two apart at the moment at which the
	 * user's reads and writes are all behind it. */
	return atomic_exchange(&slots[grant.slot].word, word_of(grant.generation, DONE)) ==
	       word_of(grant.generation, CLAIMED);
}
