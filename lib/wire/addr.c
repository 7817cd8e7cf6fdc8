/* SPDX-License-Identifier: Apache-2.0
 *
 * Addresses as users write them.
 */
#include "wire/addr.h"
#include "base/error.h"
#include "base/fault.h"
#include <arpa/inet.h>
#include <ctype.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

bool kvpi_addr_is_loopback(const kvpi_addr *addr)
{
	struct sockaddr_storage sa;
	socklen_t len;

	return kvpi_addr_resolve(addr, &sa, &len) == KVP_OK && is_loopback(&sa);
}

kvp_status kvpi_addr_check_bind(const kvpi_addr *addr)
{
	struct sockaddr_storage sa;
	socklen_t len;
	const kvp_status status = kvpi_addr_resolve(addr, &sa, &len);

	if (status != KVP_OK)
		return status;
	if (!is_loopback(&sa))
		return kvpi_error(KVP_E_INVALID,
		    "%s is not a loopback address: anybody who reaches it could connect, and there "
		    "is no "
		    "cluster key yet; bind 127.0.0.1 or [::1]",
		    addr->host);
	return KVP_OK;
}
