/* SPDX-License-Identifier: Apache-2.0 */
#include "share/proof.h"

#include "base/error.h"
#include "share/broker_inside.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif

#define VERSION 1

kvpi_proof_head kvpi_proof_head_of(kvpi_proof_kind kind)
{
	return (kvpi_proof_head){.magic = {'k', 'v', 'p', 'B'}, .version = VERSION, .kind = (unsigned char)kind};
}

/* A packet of that kind and length. */
static bool is_packet(const void *packet, size_t len, kvpi_proof_kind kind, size_t expected)
{
	kvpi_proof_head wanted = kvpi_proof_head_of(kind);

	return len == expected && memcmp(packet, &wanted, sizeof(wanted)) == 0;
}

void kvpi_proof_name(const unsigned char *token, unsigned char name[KVPI_PROOF_NAME_BYTES])
{
	static const char label[] = "kvpipe broker name";
	unsigned char mac[KVPI_HASH_BYTES];

	kvpi_mac(token, KVPI_BROKER_TOKEN_BYTES, label, sizeof(label), mac);
	memcpy(name, mac, KVPI_PROOF_NAME_BYTES);
}

void kvpi_proof_mac(const unsigned char *token, bool accepting, const unsigned char *connecting_nonce,
    const unsigned char *accepting_nonce, unsigned char mac[KVPI_HASH_BYTES])
{
	unsigned char text[32 + 2 * KVPI_PROOF_NONCE_BYTES] = {0};

	snprintf((char *)text, 32, "kvpipe broker %s", accepting ? "accepts" : "connects");
	memcpy(text + 32, connecting_nonce, KVPI_PROOF_NONCE_BYTES);
	memcpy(text + 32 + KVPI_PROOF_NONCE_BYTES, accepting_nonce, KVPI_PROOF_NONCE_BYTES);
	kvpi_mac(token, KVPI_BROKER_TOKEN_BYTES, text, sizeof(text), mac);
}

kvp_status kvpi_proof_say(int fd, const void *packet, size_t len, int pidfd)
{
	kvp_status status = kvpi_packet_send(fd, packet, len, &pidfd, pidfd >= 0 ? 1 : 0);

	/* Nothing was sent before, so it is not the peer that is slow. */
	return status == KVP_E_AGAIN ? kvpi_error(KVP_E_SYSTEM, "a new unix socket takes no packet") : status;
}

kvp_status kvpi_proof_recv(int fd, void *packet, kvpi_proof_kind kind, size_t expected, int *pidfd)
{
	unsigned char bytes[128];
	int fds[KVPI_CHANNEL_FDS_MAX];
	size_t len, count;
	kvp_status status = kvpi_packet_recv(fd, bytes, sizeof(bytes), &len, fds, &count);

	if (status != KVP_OK)
		return status;
	if (!is_packet(bytes, len, kind, expected) || count > 1)
		status = kvpi_error(KVP_E_PROTOCOL, "the peer sent something else than packet %d of the proof", kind);
	else if (count == 1 && syscall(SYS_pidfd_send_signal, fds[0], 0, NULL, 0) != 0 && errno == EBADF)
		status = kvpi_error(KVP_E_PROTOCOL, "the peer sent a descriptor with its proof that is no pidfd");
	if (status == KVP_OK && count == 1 && *pidfd < 0) {
		*pidfd = fds[0];
		count = 0;
	}
	for (size_t i = 0; i < count; i++)
		close(fds[i]);
	if (status == KVP_OK)
		memcpy(packet, bytes, expected);
	return status;
}
