/* SPDX-License-Identifier: Apache-2.0 */
#include "plane/tcp_greet.h"

#include "plane/tcp_frame.h"

/* The role that is part of each proof; 16 bytes each, so that nothing behind them can be moved. */
#define LABEL_BYTES 16
static const char label_name[LABEL_BYTES] = "kvpipe name";
static const char label_accepts[LABEL_BYTES] = "kvpipe accepts";
static const char label_connects[LABEL_BYTES] = "kvpipe connects";

void kvpi_tcp_name(const unsigned char token[KVPI_PLANE_TOKEN_BYTES], unsigned char name[KVPI_TCP_NAME_BYTES])
{
	unsigned char mac[KVPI_HASH_BYTES];

	kvpi_mac(token, KVPI_PLANE_TOKEN_BYTES, label_name, LABEL_BYTES, mac);
	memcpy(name, mac, KVPI_TCP_NAME_BYTES);
}

static void begin(kvpi_tcp_greeting *greeting, uint16_t kind)
{
	*greeting = (kvpi_tcp_greeting){
	    .magic = htole32(KVPI_TCP_MAGIC), .version = htole16(KVPI_TCP_VERSION), .kind = htole16(kind)};
}

static void prove(const unsigned char *token, const char label[LABEL_BYTES], const kvpi_tcp_greeting *hello,
                  const kvpi_tcp_greeting *answer, unsigned char proof[KVPI_HASH_BYTES])
{
	unsigned char said[LABEL_BYTES + sizeof(*hello) + offsetof(kvpi_tcp_greeting, proof)];

	memcpy(said, label, LABEL_BYTES);
	memcpy(said + LABEL_BYTES, hello, sizeof(*hello));
	memcpy(said + LABEL_BYTES + sizeof(*hello), answer, offsetof(kvpi_tcp_greeting, proof));
	kvpi_mac(token, KVPI_PLANE_TOKEN_BYTES, said, sizeof(said), proof);
}

void kvpi_tcp_hello_make(const unsigned char token[KVPI_PLANE_TOKEN_BYTES], int streams, int stream, bool checksum,
                         const unsigned char *session, kvpi_tcp_greeting *hello)
{
	begin(hello, KVPI_TCP_HELLO);
	hello->streams = (uint8_t)streams;
	hello->stream = (uint8_t)stream;
	hello->flags = checksum ? KVPI_TCP_CHECKSUM : 0;
	kvpi_tcp_name(token, hello->first);
	kvpi_random(hello->nonce, sizeof(hello->nonce));
	if (session != NULL)
		memcpy(hello->session, session, sizeof(hello->session));
}

void kvpi_tcp_answer_make(const unsigned char token[KVPI_PLANE_TOKEN_BYTES], const kvpi_tcp_greeting *hello,
                          int streams, bool checksum, kvpi_tcp_greeting *answer)
{
	begin(answer, KVPI_TCP_ANSWER);
	answer->streams = (uint8_t)streams;
	answer->stream = hello->stream;
	answer->flags = checksum ? KVPI_TCP_CHECKSUM : 0;
	kvpi_random(answer->first, sizeof(answer->first));
	prove(token, label_accepts, hello, answer, answer->proof);
}

void kvpi_tcp_confirm_make(const unsigned char token[KVPI_PLANE_TOKEN_BYTES], const kvpi_tcp_greeting *hello,
                           const kvpi_tcp_greeting *answer, kvpi_tcp_greeting *confirm)
{
	begin(confirm, KVPI_TCP_CONFIRM);
	prove(token, label_connects, hello, answer, confirm->proof);
}

kvp_status kvpi_tcp_prefix_check(const void *bytes, uint16_t kind, unsigned *version)
{
	kvpi_tcp_greeting greeting;

	memcpy(&greeting, bytes, KVPI_TCP_PREFIX_BYTES);
	*version = le16toh(greeting.version);
	if (le32toh(greeting.magic) != KVPI_TCP_MAGIC || le16toh(greeting.kind) != kind)
		return KVP_E_PROTOCOL;
	return *version == KVPI_TCP_VERSION ? KVP_OK : KVP_E_VERSION;
}

static bool shaped(const kvpi_tcp_greeting *greeting, uint16_t kind)
{
	static const uint8_t zero[sizeof(greeting->reserved)];
	unsigned ignored;

	return kvpi_tcp_prefix_check(greeting, kind, &ignored) == KVP_OK &&
	       memcmp(greeting->reserved, zero, sizeof(zero)) == 0 && (greeting->flags & ~KVPI_TCP_CHECKSUM) == 0;
}

bool kvpi_tcp_hello_right(const kvpi_tcp_greeting *hello)
{
	static const unsigned char zero[KVPI_TCP_NONCE_BYTES];

	return shaped(hello, KVPI_TCP_HELLO) && hello->streams >= 1 && hello->streams <= KVPI_TCP_STREAMS_MAX &&
	       hello->stream < hello->streams &&
	       (hello->stream == 0) == (memcmp(hello->session, zero, sizeof(zero)) == 0);
}

bool kvpi_tcp_answer_right(const unsigned char token[KVPI_PLANE_TOKEN_BYTES], const kvpi_tcp_greeting *hello,
                           const kvpi_tcp_greeting *answer)
{
	unsigned char proof[KVPI_HASH_BYTES];

	prove(token, label_accepts, hello, answer, proof);
	return kvpi_secret_equal(proof, answer->proof, sizeof(proof)) && shaped(answer, KVPI_TCP_ANSWER) &&
	       answer->streams >= 1 && answer->streams <= hello->streams && answer->stream == hello->stream &&
	       (hello->flags & ~answer->flags) == 0;
}

bool kvpi_tcp_confirm_right(const unsigned char token[KVPI_PLANE_TOKEN_BYTES], const kvpi_tcp_greeting *hello,
                            const kvpi_tcp_greeting *answer, const kvpi_tcp_greeting *confirm)
{
	kvpi_tcp_greeting expected;

	kvpi_tcp_confirm_make(token, hello, answer, &expected);
	return kvpi_secret_equal(&expected, confirm, sizeof(expected));
}
