/* SPDX-License-Identifier: Apache-2.0
 *
 * Addresses as users write them: "tcp://host:port", "host:port", "[::1]:port", port 0 = choose.
 */
#ifndef KVPI_WIRE_ADDR_H
#define KVPI_WIRE_ADDR_H

#include <kvpipe/status.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

typedef struct kvpi_addr {
	char host[256]; /* without brackets */
	uint16_t port;
} kvpi_addr;

/* Where to listen, and what peers are told.  Strings are borrowed. */
typedef struct kvpi_listen {
	const char *bind_host;      /* an address, a host name or an interface's name; never NULL */
	const char *advertise_host; /* NULL: the address that was bound */
	uint16_t port_min, port_max; /* 0, 0: the system chooses */
} kvpi_listen;

/* "5000-5100", "5000" or "" into port_min and port_max.  KVP_E_INVALID. */
kvp_status kvpi_listen_ports(kvpi_listen *listen, const char *range);

/* The address to bind, as numbers, port 0: bind_host looked up, interface names too.  House rule: without a cluster
 * key nothing but loopback is bound: KVP_E_INVALID with what to do. */
kvp_status kvpi_listen_resolve(const kvpi_listen *listen, bool has_key, kvpi_addr *addr);

/* What peers are told, when `bound` is what getsockname says: advertise_host, or the bound address, or for a wildcard
 * that was bound an address of this machine; and the bound port. */
kvp_status kvpi_listen_advertised(const kvpi_listen *listen, const kvpi_addr *bound, kvpi_addr *addr);

/* KVP_E_INVALID with a sentence that quotes the text. */
kvp_status kvpi_addr_parse(const char *text, kvpi_addr *addr);

/* "tcp://127.0.0.1:80", brackets around IPv6; at most 300 bytes. */
void kvpi_addr_format(const kvpi_addr *addr, char *out, size_t len);

/* Numeric or by name; the first result.  KVP_E_INVALID if it has none. */
kvp_status kvpi_addr_resolve(const kvpi_addr *addr, struct sockaddr_storage *out, socklen_t *out_len);

/* True for 127.0.0.0/8 and ::1 after resolving. */
bool kvpi_addr_is_loopback(const kvpi_addr *addr);

/* House rule: without a key nothing but loopback is bound.  KVP_E_INVALID with what to do. */
kvp_status kvpi_addr_check_bind(const kvpi_addr *addr);

#endif
