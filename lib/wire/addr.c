/* SPDX-License-Identifier: Apache-2.0
 *
 * Addresses as users write them.
 */
#include "wire/addr.h"
#include "base/error.h"
#include "base/fault.h"
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <ifaddrs.h>
#include <limits.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SCHEME "tcp://"

/* The text goes into a sentence and from there into logs: short, and without control characters. */
static kvp_status invalid(const char *text, const char *why)
{
	char shown[96];
	size_t n = 0;

	for (; text[n] != 0 && n < sizeof(shown) - 1; n++)
		shown[n] = (text[n] >= ' ' && text[n] <= '~') ? text[n] : '?';
	shown[n] = 0;
	return kvpi_error(
	    KVP_E_INVALID, "the address \"%s%s\" %s", shown, text[n] != 0 ? "..." : "", why);
}

static bool host_is_ipv6(const char *host)
{
	struct in6_addr ignored;
	char plain[INET6_ADDRSTRLEN];
	const size_t len = strcspn(host, "%"); /* a scope such as %eth0 may follow */

	if (len >= sizeof(plain) || (host[len] == '%' && host[len + 1] == 0))
		return false;
	memcpy(plain, host, len);
	plain[len] = 0;
	return inet_pton(AF_INET6, plain, &ignored) == 1;
}

static bool all_of(const char *text, const char *punctuation)
{
	for (; *text != 0; text++)
		if (!isascii((unsigned char)*text) ||
		    (!isalnum((unsigned char)*text) && strchr(punctuation, *text) == NULL))
			return false;
	return true;
}

kvp_status kvpi_addr_parse(const char *text, kvpi_addr *addr)
{
	kvpi_addr parsed = {.port = 0};
	const char *host, *port;
	size_t host_len;

	if (text == NULL)
		return kvpi_error(KVP_E_INVALID, "the address is NULL; write \"host:port\"");

	host = strncmp(text, SCHEME, strlen(SCHEME)) == 0 ? text + strlen(SCHEME) : text;
	const bool bracketed = *host == '[';
	if (bracketed) {
		host++;
		host_len = strcspn(host, "]");
		if (host[host_len] == 0)
			return invalid(text, "has no closing bracket");
		port = host + host_len + 1;
	} else {
		host_len = strcspn(host, ":");
		port = host + host_len;
		if (strchr(port, ':') != strrchr(port, ':'))
			return invalid(
			    text, "needs brackets around its IPv6 address: \"[::1]:port\"");
	}

	if (host_len == 0)
		return invalid(text, "has no host; write \"host:port\"");
	if (host_len >= sizeof(parsed.host))
		return invalid(text, "has a host name of more than 255 bytes");
	memcpy(parsed.host, host, host_len);
	if (bracketed && !(host_is_ipv6(parsed.host) && all_of(parsed.host, ":.%-_")))
		return invalid(text, "has no IPv6 address between its brackets");
	if (!bracketed && !all_of(parsed.host, ".-_"))
		return invalid(text, "is not \"host:port\" or \"tcp://host:port\"");

	if (*port != ':')
		return invalid(
		    text, "has no port; write \"host:port\", port 0 lets the system choose");
	port++;
	const size_t digits = strspn(port, "0123456789");
	const unsigned long number =
	    digits > 0 && digits <= 5 ? strtoul(port, NULL, 10) : ULONG_MAX;
	if (port[digits] != 0 || number > UINT16_MAX)
		return invalid(text, "has a port that is not a number from 0 to 65535");

	parsed.port = (uint16_t)number;
	*addr = parsed;
	return KVP_OK;
}

void kvpi_addr_format(const kvpi_addr *addr, char *out, size_t len)
{
	const bool ipv6 = strchr(addr->host, ':') != NULL;

	snprintf(out, len, SCHEME "%s%s%s:%u", ipv6 ? "[" : "", addr->host, ipv6 ? "]" : "",
	    (unsigned)addr->port);
}

kvp_status kvpi_addr_resolve(
    const kvpi_addr *addr, struct sockaddr_storage *out, socklen_t *out_len)
{
	const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
	struct addrinfo *found = NULL;
	const int rc =
	    kvpi_fault("addr.resolve") ? EAI_NONAME : getaddrinfo(addr->host, NULL, &hints, &found);

	if (rc == EAI_MEMORY)
		return kvpi_error_nomem("a host name's addresses");
	if (rc == EAI_SYSTEM)
		return kvpi_error_errno("cannot look up the host %s", addr->host);
	if (rc != 0)
		return kvpi_error(
		    KVP_E_INVALID, "cannot look up the host %s: %s", addr->host, gai_strerror(rc));

	memset(out, 0, sizeof(*out));
	memcpy(out, found->ai_addr, found->ai_addrlen);
	*out_len = found->ai_addrlen;
	freeaddrinfo(found);
	if (out->ss_family == AF_INET6)
		((struct sockaddr_in6 *)out)->sin6_port = htons(addr->port);
	else
		((struct sockaddr_in *)out)->sin_port = htons(addr->port);
	return KVP_OK;
}

static bool is_loopback(const struct sockaddr_storage *sa)
{
	if (sa->ss_family == AF_INET) {
		const struct sockaddr_in *in = (const struct sockaddr_in *)sa;

		return ntohl(in->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
	}
	return sa->ss_family == AF_INET6 &&
	       IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)sa)->sin6_addr);
}

static bool is_wildcard(const struct sockaddr_storage *sa)
{
	if (sa->ss_family == AF_INET)
		return ((const struct sockaddr_in *)sa)->sin_addr.s_addr == htonl(INADDR_ANY);
	return IN6_IS_ADDR_UNSPECIFIED(&((const struct sockaddr_in6 *)sa)->sin6_addr);
}

static kvp_status to_numbers(const struct sockaddr_storage *sa, socklen_t len, const char *name, kvpi_addr *addr)
{
	if (getnameinfo((const struct sockaddr *)sa, len, addr->host, sizeof(addr->host), NULL, 0,
	        NI_NUMERICHOST) != 0)
		return kvpi_error(KVP_E_INVALID, "the host %s has no numeric address", name);
	addr->port = ntohs(sa->ss_family == AF_INET6 ? ((const struct sockaddr_in6 *)sa)->sin6_port
	                                             : ((const struct sockaddr_in *)sa)->sin_port);
	return KVP_OK;
}

kvp_status kvpi_addr_numeric(const kvpi_addr *addr, kvpi_addr *numeric, bool *ipv6)
{
	struct sockaddr_storage sa;
	socklen_t len;
	kvpi_addr found;
	kvp_status status = kvpi_addr_resolve(addr, &sa, &len);

	if (status != KVP_OK)
		return status;
	status = to_numbers(&sa, len, addr->host, &found);
	if (status != KVP_OK)
		return status;
	*ipv6 = sa.ss_family == AF_INET6;
	*numeric = found;
	return KVP_OK;
}

/* ---- listening ---- */

kvp_status kvpi_listen_ports(kvpi_listen *listen, const char *range)
{
	unsigned long ends[2] = {0, 0};
	const char *at = range;

	if (range[0] == 0) {
		listen->port_min = listen->port_max = 0;
		return KVP_OK;
	}
	for (int i = 0; i < 2; i++) {
		const size_t digits = strspn(at, "0123456789");

		if (digits == 0 || digits > 5)
			goto bad;
		ends[i] = strtoul(at, NULL, 10);
		at += digits;
		if (i == 0 && *at == 0)
			ends[++i] = ends[0];
		else if (*at++ != (i == 0 ? '-' : 0))
			goto bad;
	}
	if (ends[0] == 0 || ends[0] > ends[1] || ends[1] > UINT16_MAX)
		goto bad;
	listen->port_min = (uint16_t)ends[0];
	listen->port_max = (uint16_t)ends[1];
	return KVP_OK;
bad:
	return kvpi_error(KVP_E_INVALID,
	    "\"%.40s\" is no range of ports; write \"first-last\", within 1 to 65535, or one port", range);
}

kvp_status kvpi_listen_parse(const char *text, char host[256], kvpi_listen *listen)
{
	const char *const colon = text != NULL ? strrchr(text, ':') : NULL;
	const char *const dash = colon != NULL ? strchr(colon, '-') : NULL;
	kvpi_listen parsed = *listen;
	char first[300];
	kvpi_addr addr;
	kvp_status status;

	/* A range is checked as an address with its first port, then as a range. */
	if (dash == NULL || (size_t)(dash - text) >= sizeof(first)) {
		status = kvpi_addr_parse(text, &addr);
		parsed.port_min = parsed.port_max = addr.port;
	} else {
		memcpy(first, text, (size_t)(dash - text));
		first[dash - text] = 0;
		status = kvpi_addr_parse(first, &addr);
		if (status == KVP_OK)
			status = kvpi_listen_ports(&parsed, colon + 1);
	}
	if (status != KVP_OK)
		return status;
	memcpy(host, addr.host, sizeof(addr.host));
	parsed.bind_host = host;
	*listen = parsed;
	return KVP_OK;
}

/* How well an address of an interface fits: 0 not at all. */
static int liking(const struct ifaddrs *entry, sa_family_t wanted)
{
	const sa_family_t family = entry->ifa_addr != NULL ? entry->ifa_addr->sa_family : AF_UNSPEC;
	const bool link_local =
	    family == AF_INET6 &&
	    IN6_IS_ADDR_LINKLOCAL(&((const struct sockaddr_in6 *)(const void *)entry->ifa_addr)->sin6_addr);

	if ((family != AF_INET && family != AF_INET6) || (entry->ifa_flags & IFF_UP) == 0)
		return 0;
	return link_local ? 1 : family != wanted ? 2 : 3;
}

/* The address of the interface `name`; NULL: of any that reaches other machines.  False if there is none. */
static bool find_interface(const char *name, sa_family_t wanted, struct sockaddr_storage *out, socklen_t *out_len)
{
	struct ifaddrs *all;
	int best = 0;

	if (getifaddrs(&all) != 0)
		return false;
	for (const struct ifaddrs *entry = all; entry != NULL; entry = entry->ifa_next) {
		const int fits = liking(entry, wanted);

		if (fits <= best || (name != NULL ? strcmp(entry->ifa_name, name) != 0
		                                  : (entry->ifa_flags & IFF_LOOPBACK) != 0))
			continue;
		best = fits;
		*out_len = entry->ifa_addr->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6)
		                                                  : sizeof(struct sockaddr_in);
		memset(out, 0, sizeof(*out));
		memcpy(out, entry->ifa_addr, *out_len);
	}
	freeifaddrs(all);
	return best > 0;
}

/* An address, an interface or a host. */
static kvp_status find_host(const char *host, struct sockaddr_storage *sa, socklen_t *len)
{
	kvpi_addr addr = {.port = 0};

	if (strlen(host) >= sizeof(addr.host))
		return kvpi_error(KVP_E_INVALID, "the host \"%.40s...\" has more than 255 characters", host);
	if (if_nametoindex(host) != 0) {
		if (find_interface(host, AF_INET, sa, len))
			return KVP_OK;
		return kvpi_error(KVP_E_INVALID, "the network interface %s is down or has no address", host);
	}
	strcpy(addr.host, host);
	return kvpi_addr_resolve(&addr, sa, len);
}

kvp_status kvpi_listen_resolve(const kvpi_listen *listen, bool has_key, kvpi_addr *addr)
{
	struct sockaddr_storage sa;
	socklen_t len = 0;
	kvpi_addr found;
	kvp_status status = find_host(listen->bind_host, &sa, &len);

	if (status != KVP_OK)
		return status;
	status = to_numbers(&sa, len, listen->bind_host, &found);
	if (status != KVP_OK)
		return status;
	found.port = 0;
	if (!has_key && !is_loopback(&sa))
		return kvpi_error(KVP_E_INVALID,
		    "%s is not a loopback address: whoever reaches it could connect, and there is no cluster "
		    "key; make one (kvpipe-store --make-key FILE), give both ends a copy and name it in "
		    "KVPIPE_KEY_FILE, or bind 127.0.0.1 or [::1]",
		    listen->bind_host);
	*addr = found;
	return KVP_OK;
}

kvp_status kvpi_listen_advertised(const kvpi_listen *listen, const kvpi_addr *bound, kvpi_addr *addr)
{
	struct sockaddr_storage sa;
	socklen_t len = 0;
	const bool chosen = listen->advertise_host != NULL && listen->advertise_host[0] != 0;
	kvpi_addr found;
	kvp_status status =
	    chosen ? find_host(listen->advertise_host, &sa, &len) : kvpi_addr_resolve(bound, &sa, &len);

	if (status != KVP_OK)
		return status;
	if (is_wildcard(&sa)) {
		if (chosen)
			return kvpi_error(KVP_E_INVALID, "peers cannot be told to connect to %s: advertise an address "
			    "of this machine", listen->advertise_host);
		/* Without any network, peers are on this machine. */
		if (!find_interface(NULL, sa.ss_family, &sa, &len)) {
			*addr = *bound;
			strcpy(addr->host, sa.ss_family == AF_INET6 ? "::1" : "127.0.0.1");
			return KVP_OK;
		}
	}
	status = to_numbers(&sa, len, chosen ? listen->advertise_host : bound->host, &found);
	if (status != KVP_OK)
		return status;
	found.port = bound->port;
	*addr = found;
	return KVP_OK;
}

kvp_status kvpi_listen_range_full(const kvpi_listen *listen, const kvpi_addr *addr)
{
	if (listen->port_min == listen->port_max)
		return kvpi_error(KVP_E_SYSTEM, "cannot bind port %u at %s: %s", (unsigned)listen->port_min, addr->host,
		    strerror(EADDRINUSE));
	return kvpi_error(KVP_E_SYSTEM, "all ports from %u to %u at %s are in use; allow a wider range",
	    (unsigned)listen->port_min, (unsigned)listen->port_max, addr->host);
}

/* A socket that listens at that port, or KVP_E_AGAIN if it is taken. */
static kvp_status listen_at_port(kvpi_addr *addr, uint16_t port, int backlog, int *fd)
{
	const int on = 1;
	struct sockaddr_storage sa;
	socklen_t len;
	kvp_status status;
	int made;

	addr->port = port;
	status = kvpi_addr_resolve(addr, &sa, &len);
	if (status != KVP_OK)
		return status;
	made = socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (made < 0)
		return kvpi_error_errno("cannot make a listening socket");
	/* A port of a range is free at once when its process has gone, not minutes later.  With this, of two who bind at
	 * the same time it is listen() that fails for one. */
	if (port != 0)
		(void)setsockopt(made, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(made, (struct sockaddr *)&sa, len) == 0 && listen(made, backlog) == 0) {
		*fd = made;
		return KVP_OK;
	}
	status = errno == EADDRINUSE ? KVP_E_AGAIN : kvpi_error_errno("cannot listen at %s", addr->host);
	close(made);
	return status;
}

kvp_status kvpi_listen_tcp(const kvpi_listen *listen, bool has_key, int backlog, int *fd, kvpi_addr *advertised)
{
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);
	kvpi_addr addr;
	int made = -1;
	kvp_status status = kvpi_listen_resolve(listen, has_key, &addr);

	if (status != KVP_OK)
		return status;
	status = KVP_E_AGAIN;
	for (unsigned port = listen->port_min; status == KVP_E_AGAIN && port <= listen->port_max; port++)
		status = listen_at_port(&addr, (uint16_t)port, backlog, &made);
	if (status == KVP_E_AGAIN)
		return kvpi_listen_range_full(listen, &addr);
	if (status != KVP_OK)
		return status;
	if (getsockname(made, (struct sockaddr *)&sa, &len) < 0)
		status = kvpi_error_errno("cannot find out the port that was chosen");
	if (status == KVP_OK)
		status = to_numbers(&sa, len, addr.host, &addr);
	if (status == KVP_OK)
		status = kvpi_listen_advertised(listen, &addr, advertised);
	if (status != KVP_OK) {
		close(made);
		return status;
	}
	*fd = made;
	return KVP_OK;
}
