/* SPDX-License-Identifier: Apache-2.0 */
#include "kit/kit.h"

#include "base/fault.h"
#include "wire/addr.h"
#include <netinet/in.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

START_TEST(what_users_write)
{
	static const struct {
		const char *text, *host;
		int port;
		const char *formatted;
	} rows[] = {
	    {"127.0.0.1:80", "127.0.0.1", 80, "tcp://127.0.0.1:80"},
	    {"tcp://127.0.0.1:0", "127.0.0.1", 0, "tcp://127.0.0.1:0"},
	    {"localhost:65535", "localhost", 65535, "tcp://localhost:65535"},
	    {"tcp://node-3.rack_7.example:00080", "node-3.rack_7.example", 80,
	        "tcp://node-3.rack_7.example:80"},
	    {"[::1]:5555", "::1", 5555, "tcp://[::1]:5555"},
	    {"tcp://[fe80::1%eth0]:1", "fe80::1%eth0", 1, "tcp://[fe80::1%eth0]:1"},
	    {"tcp:80", "tcp", 80, "tcp://tcp:80"},
	};

	for (size_t i = 0; i < COUNT(rows); i++) {
		kvpi_addr addr;
		char text[300];

		KIT_OK(kvpi_addr_parse(rows[i].text, &addr));
		ck_assert_str_eq(addr.host, rows[i].host);
		ck_assert_int_eq(addr.port, rows[i].port);
		kvpi_addr_format(&addr, text, sizeof(text));
		ck_assert_str_eq(text, rows[i].formatted);
	}
}
END_TEST

START_TEST(what_is_no_address)
{
	static const char *const rows[] = {
	    "",
	    ":",
	    ":80",
	    "tcp://",
	    "tcp://:80",
	    "host",
	    "host:",
	    "host:x",
	    "host:80x",
	    "host:-1",
	    "host:+1",
	    "host: 1",
	    "host:65536",
	    "host:000001",
	    "host:99999999999999999999",
	    "::1:80",
	    "fe80::1",
	    "[::1]",
	    "[::1]80",
	    "[::1",
	    "[]:80",
	    "[127.0.0.1]:80",
	    "[localhost]:80",
	    "[::1%]:80",
	    "[::1%a b]:80",
	    "[::g]:80",
	    "*:80",
	    "ho st:80",
	    "host\n:80",
	    "h\xc3\xb6st:80",
	    "udp://host:80",
	    "ipc:///tmp/x",
	    "tcp://tcp://host:80",
	    "user@host:80",
	};
	kvpi_addr addr = {.host = "before", .port = 7};

	for (size_t i = 0; i < COUNT(rows); i++) {
		KIT_STATUS(kvpi_addr_parse(rows[i], &addr), KVP_E_INVALID);
		ck_assert_msg(strchr(kvp_last_error(), '"') != NULL, "%s", kvp_last_error());
	}
	KIT_STATUS(kvpi_addr_parse("::1:80", &addr), KVP_E_INVALID);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "brackets"));
	KIT_STATUS(kvpi_addr_parse(NULL, &addr), KVP_E_INVALID);
	ck_assert_str_eq(addr.host, "before");
	ck_assert_int_eq(addr.port, 7);
}
END_TEST

START_TEST(sentences_quote_the_text_short_and_printable)
{
	kvpi_addr addr;
	char text[1000];

	KIT_STATUS(kvpi_addr_parse("a\x1b[31mb:80", &addr), KVP_E_INVALID);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "\"a?[31mb:80\""));
	memset(text, 'a', sizeof(text) - 1);
	text[sizeof(text) - 1] = 0;
	KIT_STATUS(kvpi_addr_parse(text, &addr), KVP_E_INVALID);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "aaa...\""));
	ck_assert_uint_lt(strlen(kvp_last_error()), 300);
}
END_TEST

START_TEST(the_longest_host_fits)
{
	kvpi_addr addr;
	char text[300], formatted[300];

	memset(text, 'a', 255);
	strcpy(text + 255, ":65535");
	KIT_OK(kvpi_addr_parse(text, &addr));
	kvpi_addr_format(&addr, formatted, sizeof(formatted));
	ck_assert_str_eq(formatted + strlen("tcp://"), text);
	kvpi_addr_format(&addr, formatted, 10);
	ck_assert_str_eq(formatted, "tcp://aaa");

	memset(text, 'a', 256);
	strcpy(text + 256, ":1");
	KIT_STATUS(kvpi_addr_parse(text, &addr), KVP_E_INVALID);
}
END_TEST

START_TEST(resolving_gives_address_and_port)
{
	kvpi_addr addr;
	struct sockaddr_storage sa;
	socklen_t len;

	KIT_OK(kvpi_addr_parse("127.0.0.1:258", &addr));
	KIT_OK(kvpi_addr_resolve(&addr, &sa, &len));
	ck_assert_uint_eq(len, sizeof(struct sockaddr_in));
	ck_assert_int_eq(sa.ss_family, AF_INET);
	ck_assert_uint_eq(((struct sockaddr_in *)&sa)->sin_port, htons(258));
	ck_assert_uint_eq(((struct sockaddr_in *)&sa)->sin_addr.s_addr, htonl(INADDR_LOOPBACK));

	KIT_OK(kvpi_addr_parse("[::1]:258", &addr));
	KIT_OK(kvpi_addr_resolve(&addr, &sa, &len));
	ck_assert_uint_eq(len, sizeof(struct sockaddr_in6));
	ck_assert_int_eq(sa.ss_family, AF_INET6);
	ck_assert_uint_eq(((struct sockaddr_in6 *)&sa)->sin6_port, htons(258));
	ck_assert(IN6_IS_ADDR_LOOPBACK(&((struct sockaddr_in6 *)&sa)->sin6_addr));

	KIT_OK(kvpi_addr_parse("localhost:1", &addr));
	KIT_OK(kvpi_addr_resolve(&addr, &sa, &len));

	kvpi_fault_arm("addr.resolve", 1, 1);
	KIT_STATUS(kvpi_addr_resolve(&addr, &sa, &len), KVP_E_INVALID);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "localhost"));
}
END_TEST

START_TEST(only_loopback_may_be_bound)
{
	static const char *const good[] = {
	    "127.0.0.1:0", "127.255.255.254:0", "[::1]:0", "localhost:0"};
	static const char *const bad[] = {"0.0.0.0:0", "[::]:0", "128.0.0.1:0", "126.255.255.255:0",
	    "10.0.0.1:0", "[fe80::1]:0", "[::ffff:10.0.0.1]:0", "[::2]:0"};
	kvpi_addr addr;

	for (size_t i = 0; i < COUNT(good); i++) {
		KIT_OK(kvpi_addr_parse(good[i], &addr));
		ck_assert(kvpi_addr_is_loopback(&addr));
		KIT_OK(kvpi_addr_check_bind(&addr));
	}
	for (size_t i = 0; i < COUNT(bad); i++) {
		KIT_OK(kvpi_addr_parse(bad[i], &addr));
		ck_assert(!kvpi_addr_is_loopback(&addr));
		KIT_STATUS(kvpi_addr_check_bind(&addr), KVP_E_INVALID);
		ck_assert_ptr_nonnull(strstr(kvp_last_error(), "127.0.0.1"));
	}
	KIT_OK(kvpi_addr_parse("localhost:0", &addr));
	kvpi_fault_arm("addr.resolve", 1, 0);
	ck_assert(!kvpi_addr_is_loopback(&addr));
	KIT_STATUS(kvpi_addr_check_bind(&addr), KVP_E_INVALID);
}
END_TEST

KIT_MAIN("addr", what_users_write, what_is_no_address, sentences_quote_the_text_short_and_printable,
    the_longest_host_fits, resolving_gives_address_and_port, only_loopback_may_be_bound)
