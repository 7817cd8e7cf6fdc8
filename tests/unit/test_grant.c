/* SPDX-License-Identifier: Apache-2.0 */
#include "kit/kit.h"
#include "share/grant.h"
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE_BYTES (KVPI_GRANTS * sizeof(kvpi_grant_slot))

static void *shared_new(size_t bytes)
{
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	ck_assert_ptr_ne(memory, MAP_FAILED);
	return memory;
}

static kvpi_grant offer(kvpi_grants *grants)
{
	kvpi_grant grant = {0};

	KIT_OK(kvpi_grant_offer(grants, &grant));
	return grant;
}

START_TEST(an_offer_is_claimed_and_done)
{
	kvpi_grant_slot *slots = shared_new(PAGE_BYTES);
	kvpi_grants grants;
	kvpi_grant grant;

	kvpi_grants_init(&grants, slots);
	grant = offer(&grants);
	ck_assert_int_eq(kvpi_grant_poll(&grants, grant), KVPI_GRANT_OPEN);
	ck_assert(kvpi_grant_claim(slots, grant));
	ck_assert(!kvpi_grant_claim(slots, grant)); /* once */
	ck_assert(!kvpi_grant_recalled(slots, grant));
	ck_assert_int_eq(kvpi_grant_poll(&grants, grant), KVPI_GRANT_OPEN);
	kvpi_grant_done(slots, grant);
	ck_assert_int_eq(kvpi_grant_poll(&grants, grant), KVPI_GRANT_DONE);
	ck_assert_int_eq(kvpi_grant_poll(&grants, grant), KVPI_GRANT_DONE);
	ck_assert(kvpi_grant_revoke(&grants, grant));
	ck_assert(!kvpi_grant_claim(slots, grant));
	munmap(slots, PAGE_BYTES);
}
END_TEST

START_TEST(a_revoked_offer_cannot_be_claimed)
{
	kvpi_grant_slot *slots = shared_new(PAGE_BYTES);
	kvpi_grants grants;
	kvpi_grant old, new;

	kvpi_grants_init(&grants, slots);
	old = offer(&grants);
	ck_assert(kvpi_grant_revoke(&grants, old));
	ck_assert(!kvpi_grant_claim(slots, old));
	/* Nor when the slot has come round again. */
	do {
		new = offer(&grants);
		if (new.slot != old.slot)
			ck_assert(kvpi_grant_revoke(&grants, new));
	} while (new.slot != old.slot);
	ck_assert_uint_ne(new.generation, old.generation);
	ck_assert(!kvpi_grant_claim(slots, old));
	ck_assert(kvpi_grant_revoke(&grants, old));
	ck_assert_int_eq(kvpi_grant_poll(&grants, old), KVPI_GRANT_DONE);
	ck_assert(kvpi_grant_claim(slots, new));
	munmap(slots, PAGE_BYTES);
}
END_TEST

START_TEST(a_claimed_grant_is_recalled)
{
	kvpi_grant_slot *slots = shared_new(PAGE_BYTES);
	kvpi_grants grants;
	kvpi_grant grant;

	kvpi_grants_init(&grants, slots);
	for (int polled = 0; polled < 2; polled++) {
		grant = offer(&grants);
		ck_assert(kvpi_grant_claim(slots, grant));
		if (polled)
			ck_assert_int_eq(kvpi_grant_poll(&grants, grant), KVPI_GRANT_OPEN);
		ck_assert(!kvpi_grant_revoke(&grants, grant));
		ck_assert(!kvpi_grant_revoke(&grants, grant));
		ck_assert(kvpi_grant_recalled(slots, grant));
		ck_assert_int_eq(kvpi_grant_poll(&grants, grant), KVPI_GRANT_OPEN);
		kvpi_grant_done(slots, grant);
		ck_assert_int_eq(kvpi_grant_poll(&grants, grant), KVPI_GRANT_DONE);
	}
	grant = offer(&grants);
	ck_assert(kvpi_grant_claim(slots, grant));
	kvpi_grant_done(slots, grant);
	ck_assert(kvpi_grant_revoke(&grants, grant)); /* done already: a receipt at once */
	ck_assert_uint_eq(grants.in_use, 0);
	munmap(slots, PAGE_BYTES);
}
END_TEST

START_TEST(slots_are_counted)
{
	kvpi_grant_slot *slots = shared_new(PAGE_BYTES);
	kvpi_grant all[KVPI_GRANTS], more;
	kvpi_grants grants;
	bool seen[KVPI_GRANTS] = {false};

	kvpi_grants_init(&grants, slots);
	for (int lap = 0; lap < 3; lap++) {
		memset(seen, 0, sizeof(seen));
		for (int i = 0; i < KVPI_GRANTS; i++) {
			all[i] = offer(&grants);
			ck_assert(!seen[all[i].slot]);
			seen[all[i].slot] = true;
		}
		ck_assert_int_eq(kvpi_grant_offer(&grants, &more), KVP_E_AGAIN);
		ck_assert(kvpi_grant_revoke(&grants, all[77]));
		more = offer(&grants);
		ck_assert_uint_eq(more.slot, all[77].slot);
		all[77] = more;
		for (int i = 0; i < KVPI_GRANTS; i++)
			ck_assert(kvpi_grant_revoke(&grants, all[i]));
	}
	munmap(slots, PAGE_BYTES);
}
END_TEST

/* What the user may not write, seen from each state: found out, and the slot is not used again while the user lives. */
START_TEST(a_lying_user_is_found_out)
{
	enum { OFFERED = 1, CLAIMED, DONE, RECALLED };
	static const struct {
		unsigned before;
		uint64_t lie;
		bool other_generation;
	} cases[] = {
	    {OFFERED, 0, false}, {OFFERED, RECALLED, false}, {OFFERED, 5, false}, {OFFERED, 255, false},
	    {OFFERED, DONE, true}, {OFFERED, OFFERED, true}, {CLAIMED, OFFERED, false}, {CLAIMED, 0, false},
	    {CLAIMED, RECALLED, false}, {CLAIMED, DONE, true}, {RECALLED, CLAIMED, false}, {RECALLED, OFFERED, false},
	    {RECALLED, 0, false}, {RECALLED, DONE, true},
	};

	for (size_t i = 0; i < 2 * sizeof(cases) / sizeof(cases[0]); i++) {
		kvpi_grant_slot *slots = shared_new(PAGE_BYTES);
		kvpi_grants grants;
		kvpi_grant grant;
		size_t c = i / 2;

		kvpi_grants_init(&grants, slots);
		grant = offer(&grants);
		if (cases[c].before != OFFERED) {
			ck_assert(kvpi_grant_claim(slots, grant));
			ck_assert_int_eq(kvpi_grant_poll(&grants, grant), KVPI_GRANT_OPEN);
		}
		if (cases[c].before == RECALLED)
			ck_assert(!kvpi_grant_revoke(&grants, grant));
		atomic_store(&slots[grant.slot].word,
		    (grant.generation + cases[c].other_generation) << 8 | cases[c].lie);
		if (i % 2 == 0)
			ck_assert_int_eq(kvpi_grant_poll(&grants, grant), KVPI_GRANT_BROKEN);
		else
			ck_assert(!kvpi_grant_revoke(&grants, grant));
		/* Late remorse does not help. */
		kvpi_grant_done(slots, grant);
		ck_assert_int_eq(kvpi_grant_poll(&grants, grant), KVPI_GRANT_BROKEN);
		ck_assert(!kvpi_grant_revoke(&grants, grant));
		ck_assert_uint_eq(grants.in_use, 1);
		kvpi_grants_peer_gone(&grants);
		ck_assert_uint_eq(grants.in_use, 0);
		ck_assert_int_eq(kvpi_grant_poll(&grants, grant), KVPI_GRANT_DONE);
		munmap(slots, PAGE_BYTES);
	}
}
END_TEST

START_TEST(nonsense_from_the_owner_is_no_grant)
{
	kvpi_grant_slot *slots = shared_new(PAGE_BYTES);
	kvpi_grants grants;
	kvpi_grant grant, wrong;

	kvpi_grants_init(&grants, slots);
	grant = offer(&grants);
	wrong = (kvpi_grant){KVPI_GRANTS, grant.generation};
	ck_assert(!kvpi_grant_claim(slots, wrong));
	wrong = (kvpi_grant){UINT32_MAX, grant.generation};
	ck_assert(!kvpi_grant_claim(slots, wrong));
	wrong = (kvpi_grant){grant.slot, grant.generation | UINT64_C(1) << 56}; /* the same word, were it not checked */
	ck_assert(!kvpi_grant_claim(slots, wrong));
	wrong = (kvpi_grant){grant.slot, grant.generation + 1};
	ck_assert(!kvpi_grant_claim(slots, wrong));
	/* Words that are scribbled over while slots are free do not matter to the next offer. */
	for (int i = 0; i < KVPI_GRANTS; i++) {
		if ((uint32_t)i != grant.slot)
			atomic_store(&slots[i].word, UINT64_MAX);
	}
	for (int i = 0; i < KVPI_GRANTS - 1; i++) {
		kvpi_grant next = offer(&grants);

		ck_assert(kvpi_grant_claim(slots, next));
		kvpi_grant_done(slots, next);
		ck_assert_int_eq(kvpi_grant_poll(&grants, next), KVPI_GRANT_DONE);
	}
	munmap(slots, PAGE_BYTES);
}
END_TEST

/* ---- two threads, two processes ---- */

#define ROUNDS 20000u
#define WORDS 64u

/* The owner writes the memory whenever it has a receipt, the user whenever it has a claim: plain accesses, so that the
 * thread sanitizer sees any gap in the protocol. */
typedef struct field {
	kvpi_grant_slot slots[KVPI_GRANTS];
	_Atomic uint64_t offered; /* slot << 32 | generation of the present offer, which fits */
	atomic_bool stop;
	atomic_uint claims, torn;
	uint64_t memory[WORDS];
} field;

static void *be_user(void *arg)
{
	field *f = arg;
	uint64_t last = 0, state = 3;

	while (!atomic_load(&f->stop)) {
		uint64_t offered = atomic_load(&f->offered);
		kvpi_grant grant = {(uint32_t)(offered >> 32), (uint32_t)offered};

		if (offered == last || !kvpi_grant_claim(f->slots, grant))
			continue;
		last = offered;
		atomic_fetch_add(&f->claims, 1);
		uint64_t value = kit_random(&state) | 1;
		bool all = true;
		for (size_t i = 0; i < WORDS; i++) {
			if (i % 8 == 0 && kvpi_grant_recalled(f->slots, grant)) {
				all = false;
				break;
			}
			f->memory[i] = value;
		}
		for (size_t i = 0; all && i < WORDS; i++)
			if (f->memory[i] != value)
				atomic_fetch_add(&f->torn, 1);
		kvpi_grant_done(f->slots, grant);
	}
	return NULL;
}

/* Returns what went wrong. */
static const char *be_owner(field *f)
{
	kvpi_grants grants;
	uint64_t state = 1;

	kvpi_grants_init(&grants, f->slots);
	for (unsigned round = 0; round < ROUNDS; round++) {
		kvpi_grant grant;
		kvpi_grant_end end = KVPI_GRANT_OPEN;
		bool revoke = kit_random(&state) % 2 == 0;

		if (kvpi_grant_offer(&grants, &grant) != KVP_OK)
			return "no slot";
		atomic_store(&f->offered, (uint64_t)grant.slot << 32 | grant.generation);
		for (uint64_t n = kit_random(&state) % 512; n > 0; n--)
			atomic_signal_fence(memory_order_seq_cst);
		if (!revoke || !kvpi_grant_revoke(&grants, grant)) {
			while (end == KVPI_GRANT_OPEN)
				end = kvpi_grant_poll(&grants, grant);
			if (end == KVPI_GRANT_BROKEN)
				return "broken";
		}
		/* A receipt: nobody but us. */
		for (size_t i = 0; i < WORDS; i++)
			f->memory[i] = round;
		for (size_t i = 0; i < WORDS; i++)
			if (f->memory[i] != round)
				return "somebody writes after the receipt";
	}
	atomic_store(&f->stop, true);
	return NULL;
}

START_TEST(two_threads_never_meet_in_the_memory)
{
	field *f = shared_new(sizeof(*f));
	pthread_t user;

	ck_assert_int_eq(pthread_create(&user, NULL, be_user, f), 0);
	const char *wrong = be_owner(f);
	atomic_store(&f->stop, true);
	pthread_join(user, NULL);
	ck_assert_msg(wrong == NULL, "%s", wrong);
	ck_assert_uint_eq(atomic_load(&f->torn), 0);
	ck_assert_uint_gt(atomic_load(&f->claims), ROUNDS / 4);
	munmap(f, sizeof(*f));
}
END_TEST

static int be_user_process(void *arg)
{
	be_user(arg);
	return 0;
}

START_TEST(two_processes_never_meet_in_the_memory)
{
	field *f = shared_new(sizeof(*f));
	pid_t user = kit_fork(be_user_process, f);

	const char *wrong = be_owner(f);
	atomic_store(&f->stop, true);
	ck_assert_int_eq(kit_wait_exit(user, 10000), 0);
	ck_assert_msg(wrong == NULL, "%s", wrong);
	ck_assert_uint_eq(atomic_load(&f->torn), 0);
	munmap(f, sizeof(*f));
}
END_TEST

static int claim_and_hang(void *arg)
{
	field *f = arg;
	kvpi_grant grant = {0, 1};

	if (!kvpi_grant_claim(f->slots, grant))
		return 1;
	for (;;)
		f->memory[0]++;
}

static bool is_claimed(void *user)
{
	field *f = user;

	return (atomic_load(&f->slots[0].word) & 0xff) == 2;
}

START_TEST(a_dead_users_grants_are_freed)
{
	field *f = shared_new(sizeof(*f));
	kvpi_grants grants;
	kvpi_grant claimed, unclaimed;
	pid_t user;

	kvpi_grants_init(&grants, f->slots);
	claimed = offer(&grants);
	unclaimed = offer(&grants);
	user = kit_fork(claim_and_hang, f);
	kit_wait_until(is_claimed, f, 10000);
	ck_assert(!kvpi_grant_revoke(&grants, claimed));
	kit_kill(user, SIGKILL);
	ck_assert_int_eq(kit_wait_exit(user, 10000), 128 + SIGKILL);
	/* Gone, and still the word says recalled: only the proof of death ends it. */
	ck_assert_int_eq(kvpi_grant_poll(&grants, claimed), KVPI_GRANT_OPEN);
	kvpi_grants_peer_gone(&grants);
	ck_assert_int_eq(kvpi_grant_poll(&grants, claimed), KVPI_GRANT_DONE);
	ck_assert(kvpi_grant_revoke(&grants, unclaimed));
	ck_assert_uint_eq(grants.in_use, 0);
	for (int i = 0; i < 3 * KVPI_GRANTS; i++) {
		kvpi_grant again = offer(&grants);

		ck_assert(again.generation > 1 || again.slot > 1);
		ck_assert(kvpi_grant_revoke(&grants, again));
	}
	munmap(f, sizeof(*f));
}
END_TEST

KIT_MAIN("grant", an_offer_is_claimed_and_done, a_revoked_offer_cannot_be_claimed, a_claimed_grant_is_recalled,
    slots_are_counted, a_lying_user_is_found_out, nonsense_from_the_owner_is_no_grant,
    two_threads_never_meet_in_the_memory, two_processes_never_meet_in_the_memory, a_dead_users_grants_are_freed)
