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
	const char *bind_host;       /* an address, an interface's name or a host name; never NULL */
	const char *advertise_host;  /* NULL: the address that was bound */
	uint16_t port_min, port_max; /* 0, 0: the system chooses */
} kvpi_listen;

/* "5000-5100", "5000" or "" into port_min and port_max.  KVP_E_INVALID. */
kvp_status kvpi_listen_ports(kvpi_listen *listen, const char *range);

/* "host:port" or "host:first-last", with brackets around IPv6, into bind_host and the ports.  The host is written to
 * host[256], which bind_host then borrows.  KVP_E_INVALID with a sentence that quotes the text. */
kvp_status kvpi_listen_parse(const char *text, char host[256], kvpi_listen *listen);

/* The address to bind, as numbers, port 0: bind_host looked up.  What is no address is first taken for the name of a
 * network interface, which stands for its IPv4 address, or else its IPv6 one.  House rule: without a cluster
 * key nothing but loopback is bound: KVP_E_INVALID with what to do. */
kvp_status kvpi_listen_resolve(const kvpi_listen *listen, bool has_key, kvpi_addr *addr);

/* What peers are told, when `bound` is what getsockname says: advertise_host, or the bound address, or for a wildcard
 * that was bound an address of this machine; and the bound port.  Numbers in any case: no peer has to ask a name
 * server, and the name means to all what it means here. */
kvp_status kvpi_listen_advertised(const kvpi_listen *listen, const kvpi_addr *bound, kvpi_addr *addr);

/* "all ports from 5000 to 5009 at 10.0.0.1 are taken": when the whole range was tried.  Returns KVP_E_SYSTEM. */
kvp_status kvpi_listen_range_full(const kvpi_listen *listen, const kvpi_addr *addr);

/* A listening TCP socket, non-blocking and close-on-exec, owned by the caller, and what peers are told of it. */
kvp_status kvpi_listen_tcp(const kvpi_listen *listen, bool has_key, int backlog, int *fd, kvpi_addr *advertised);

/* KVP_E_INVALID with a sentence that quotes the text. */
kvp_status kvpi_addr_parse(const char *text, kvpi_addr *addr);

/* "tcp://127.0.0.1:80", brackets around IPv6; at most 300 bytes. */
void kvpi_addr_format(const kvpi_addr *addr, char *out, size_t len);

/* Numeric or by name; the first result.  KVP_E_INVALID if it has none. */
kvp_status kvpi_addr_resolve(const kvpi_addr *addr, struct sockaddr_storage *out, socklen_t *out_len);

/* The same as numbers; *ipv6 says which kind. */
kvp_status kvpi_addr_numeric(const kvpi_addr *addr, kvpi_addr *numeric, bool *ipv6);

#endif
