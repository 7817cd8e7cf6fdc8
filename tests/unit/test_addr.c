/* SPDX-License-Identifier: Apache-2.0 */
#include "kit/kit.h"

#include "base/fault.h"
#include "wire/addr.h"
#include <netinet/in.h>
#include <string.h>
#include <unistd.h>

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

START_TEST(without_a_key_only_loopback_may_be_bound)
{
	static const char *const good[] = {"127.0.0.1", "127.255.255.254", "::1", "localhost", "lo"};
	static const char *const bad[] = {"0.0.0.0", "::", "128.0.0.1", "126.255.255.255", "10.0.0.1", "fe80::1",
	    "::ffff:10.0.0.1", "::2"};
	kvpi_addr addr = {.host = "before", .port = 7};
	kvpi_listen listen = {.port_min = 5, .port_max = 6};

	for (size_t i = 0; i < COUNT(bad); i++) {
		listen.bind_host = bad[i];
		KIT_STATUS(kvpi_listen_resolve(&listen, false, &addr), KVP_E_INVALID);
		ck_assert_ptr_nonnull(strstr(kvp_last_error(), "127.0.0.1"));
		ck_assert_ptr_nonnull(strstr(kvp_last_error(), "--make-key"));
		ck_assert_ptr_nonnull(strstr(kvp_last_error(), "KVPIPE_KEY_FILE"));
		ck_assert_str_eq(addr.host, "before");
		KIT_OK(kvpi_listen_resolve(&listen, true, &addr));
		strcpy(addr.host, "before");
	}
	for (size_t i = 0; i < COUNT(good); i++) {
		listen.bind_host = good[i];
		KIT_OK(kvpi_listen_resolve(&listen, false, &addr));
		ck_assert(strcmp(addr.host, "::1") == 0 || strncmp(addr.host, "127.", 4) == 0);
		ck_assert_int_eq(addr.port, 0);
	}
	listen.bind_host = "localhost";
	kvpi_fault_arm("addr.resolve", 1, 0);
	KIT_STATUS(kvpi_listen_resolve(&listen, false, &addr), KVP_E_INVALID);
}
END_TEST

START_TEST(an_interface_stands_for_its_address)
{
	kvpi_listen listen = {.bind_host = "lo"};
	kvpi_addr addr;

	KIT_OK(kvpi_listen_resolve(&listen, false, &addr));
	ck_assert_str_eq(addr.host, "127.0.0.1");
	listen.bind_host = "no-such-interface0";
	kvpi_fault_arm("addr.resolve", 1, 1);
	KIT_STATUS(kvpi_listen_resolve(&listen, true, &addr), KVP_E_INVALID);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "no-such-interface0"));
}
END_TEST

START_TEST(port_ranges)
{
	static const struct {
		const char *text;
		int first, last;
	} good[] = {{"", 0, 0}, {"1", 1, 1}, {"5000-5100", 5000, 5100}, {"65535-65535", 65535, 65535}};
	static const char *const bad[] = {"0", "0-5", "-", "5-", "-5", "7-6", "65536", "1-65536", "1-2-3", " 1", "1 ", "a",
	    "000001", "1-a"};
	kvpi_listen listen = {.bind_host = NULL};

	for (size_t i = 0; i < COUNT(good); i++) {
		KIT_OK(kvpi_listen_ports(&listen, good[i].text));
		ck_assert_int_eq(listen.port_min, good[i].first);
		ck_assert_int_eq(listen.port_max, good[i].last);
	}
	for (size_t i = 0; i < COUNT(bad); i++) {
		KIT_STATUS(kvpi_listen_ports(&listen, bad[i]), KVP_E_INVALID);
		ck_assert_int_eq(listen.port_min, 65535);
	}
}
END_TEST

START_TEST(where_to_listen_as_text)
{
	static const struct {
		const char *text, *host;
		int first, last;
	} good[] = {{"127.0.0.1:0", "127.0.0.1", 0, 0}, {"[::1]:80", "::1", 80, 80}, {"eth0:5000-5100", "eth0", 5000, 5100},
	    {"tcp://a-b.c:1-2", "a-b.c", 1, 2}, {"a-b:7", "a-b", 7, 7}, {"[::]:1-65535", "::", 1, 65535}};
	static const char *const bad[] = {"", "a", ":1-2", "a:2-1", "a:0-1", "a:1-", "::1:1-2", "a b:1-2", "a:1-2-3"};
	kvpi_listen listen = {.advertise_host = "kept"};
	char host[256], text[400];

	for (size_t i = 0; i < COUNT(good); i++) {
		KIT_OK(kvpi_listen_parse(good[i].text, host, &listen));
		ck_assert_str_eq(listen.bind_host, good[i].host);
		ck_assert_int_eq(listen.port_min, good[i].first);
		ck_assert_int_eq(listen.port_max, good[i].last);
		ck_assert_str_eq(listen.advertise_host, "kept");
	}
	for (size_t i = 0; i < COUNT(bad); i++)
		KIT_STATUS(kvpi_listen_parse(bad[i], host, &listen), KVP_E_INVALID);
	KIT_STATUS(kvpi_listen_parse(NULL, host, &listen), KVP_E_INVALID);
	memset(text, 'a', sizeof(text));
	strcpy(text + sizeof(text) - 5, ":1-2");
	KIT_STATUS(kvpi_listen_parse(text, host, &listen), KVP_E_INVALID);
	ck_assert_str_eq(listen.bind_host, "::");
}
END_TEST

START_TEST(what_peers_are_told)
{
	kvpi_listen listen = {.bind_host = "0.0.0.0"};
	kvpi_addr bound = {.host = "127.0.0.1", .port = 80}, told;

	KIT_OK(kvpi_listen_advertised(&listen, &bound, &told));
	ck_assert_str_eq(told.host, "127.0.0.1");
	ck_assert_int_eq(told.port, 80);
	listen.advertise_host = "10.1.2.3";
	KIT_OK(kvpi_listen_advertised(&listen, &bound, &told));
	ck_assert_str_eq(told.host, "10.1.2.3");
	ck_assert_int_eq(told.port, 80);
	listen.advertise_host = "lo";
	KIT_OK(kvpi_listen_advertised(&listen, &bound, &told));
	ck_assert_str_eq(told.host, "127.0.0.1");

	/* Nobody can connect to a wildcard. */
	listen.advertise_host = NULL;
	strcpy(bound.host, "0.0.0.0");
	KIT_OK(kvpi_listen_advertised(&listen, &bound, &told));
	ck_assert_str_ne(told.host, "0.0.0.0");
	ck_assert_int_eq(told.port, 80);
	strcpy(bound.host, "::");
	KIT_OK(kvpi_listen_advertised(&listen, &bound, &told));
	ck_assert_str_ne(told.host, "::");
	listen.advertise_host = "0.0.0.0";
	KIT_STATUS(kvpi_listen_advertised(&listen, &bound, &told), KVP_E_INVALID);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "0.0.0.0"));
}
END_TEST

/* Three free ports in a row, as far as one can know. */
static uint16_t three_free_ports(void)
{
	for (;;) {
		const int first = kit_free_port();
		kvpi_listen listen = {.bind_host = "127.0.0.1"};
		kvpi_addr told;
		int fds[3] = {-1, -1, -1}, got = 0;

		for (; got < 3 && first < 65533; got++) {
			listen.port_min = listen.port_max = (uint16_t)(first + got);
			if (kvpi_listen_tcp(&listen, false, 1, &fds[got], &told) != KVP_OK)
				break;
		}
		for (int i = 0; i < got; i++)
			close(fds[i]);
		if (got == 3)
			return (uint16_t)first;
	}
}

START_TEST(a_listener_takes_the_first_free_port_of_the_range)
{
	const uint16_t first = three_free_ports();
	kvpi_listen listen = {.bind_host = "127.0.0.1", .advertise_host = "10.1.2.3", .port_min = first, .port_max = first + 2};
	kvpi_addr told;
	int fds[3], none = -7;

	for (int i = 0; i < 3; i++) {
		KIT_OK(kvpi_listen_tcp(&listen, false, 8, &fds[i], &told));
		ck_assert_int_eq(told.port, first + i);
		ck_assert_str_eq(told.host, "10.1.2.3");
	}
	KIT_STATUS(kvpi_listen_tcp(&listen, false, 8, &none, &told), KVP_E_SYSTEM);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "in use"));
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "wider range"));
	ck_assert_int_eq(none, -7);
	listen.port_max = first;
	KIT_STATUS(kvpi_listen_tcp(&listen, false, 8, &none, &told), KVP_E_SYSTEM);
	listen.port_max = first + 2;
	close(fds[1]);
	KIT_OK(kvpi_listen_tcp(&listen, false, 8, &fds[1], &told));
	ck_assert_int_eq(told.port, first + 1);
	for (int i = 0; i < 3; i++)
		close(fds[i]);
}
END_TEST

START_TEST(a_listener_needs_a_key_for_more_than_loopback)
{
	kvpi_listen listen = {.bind_host = "0.0.0.0"};
	kvpi_addr told;
	int fd = -1;

	KIT_STATUS(kvpi_listen_tcp(&listen, false, 8, &fd, &told), KVP_E_INVALID);
	ck_assert_int_eq(fd, -1);
	KIT_OK(kvpi_listen_tcp(&listen, true, 8, &fd, &told));
	ck_assert_int_ne(told.port, 0);
	ck_assert_str_ne(told.host, "0.0.0.0");
	close(fd);
}
END_TEST

KIT_MAIN("addr", what_users_write, what_is_no_address, sentences_quote_the_text_short_and_printable,
    the_longest_host_fits, resolving_gives_address_and_port, without_a_key_only_loopback_may_be_bound,
    an_interface_stands_for_its_address, port_ranges, where_to_listen_as_text, what_peers_are_told,
    a_listener_takes_the_first_free_port_of_the_range, a_listener_needs_a_key_for_more_than_loopback)
