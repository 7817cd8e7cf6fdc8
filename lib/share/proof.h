/* SPDX-License-Identifier: Apache-2.0
 *
 * The packets by which two ends of a unix socket prove to each other that they know a token; broker.h describes them.
 */
#ifndef KVPI_SHARE_PROOF_H
#define KVPI_SHARE_PROOF_H

#include "share/broker.h"
#include "wire/auth.h"

#define KVPI_PROOF_NONCE_BYTES 16
#define KVPI_PROOF_NAME_BYTES 16

typedef enum kvpi_proof_kind { KVPI_PROOF_HELLO = 1, KVPI_PROOF_ANSWER = 2, KVPI_PROOF_PROOF = 3 } kvpi_proof_kind;

typedef struct kvpi_proof_head {
	unsigned char magic[4], version, kind, zero[2];
} kvpi_proof_head;

typedef struct kvpi_proof_hello {
	kvpi_proof_head head;
	unsigned char name[KVPI_PROOF_NAME_BYTES], nonce[KVPI_PROOF_NONCE_BYTES];
} kvpi_proof_hello;

typedef struct kvpi_proof_answer {
	kvpi_proof_head head;
	unsigned char nonce[KVPI_PROOF_NONCE_BYTES], mac[KVPI_HASH_BYTES];
} kvpi_proof_answer;

typedef struct kvpi_proof_proof {
	kvpi_proof_head head;
	unsigned char mac[KVPI_HASH_BYTES];
} kvpi_proof_proof;

kvpi_proof_head kvpi_proof_head_of(kvpi_proof_kind kind);

/* The public name of a token. */
void kvpi_proof_name(const unsigned char *token, unsigned char name[KVPI_PROOF_NAME_BYTES]);

/* What the accepting or the connecting end proves with. */
void kvpi_proof_mac(const unsigned char *token, bool accepting, const unsigned char *connecting_nonce,
    const unsigned char *accepting_nonce, unsigned char mac[KVPI_HASH_BYTES]);

/* Sends a packet, with a pidfd or (-1) without.  Codes of kvpi_packet_send, never KVP_E_AGAIN. */
kvp_status kvpi_proof_say(int fd, const void *packet, size_t len, int pidfd);

/* Receives the packet of that kind and length.  It may bring a pidfd, which goes to *pidfd if that is -1 (the kernel has
 * not told us the peer's), owned.  KVP_E_AGAIN: nothing there yet; KVP_E_PROTOCOL: something else. */
kvp_status kvpi_proof_recv(int fd, void *packet, kvpi_proof_kind kind, size_t expected, int *pidfd);

#endif
