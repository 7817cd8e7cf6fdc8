/* SPDX-License-Identifier: Apache-2.0 */
#include "kit/kit.h"

#include "base/fault.h"
#include "base/hostid.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const kvpi_hostid sample = {.boot_id = "0a1b",
    .host_name = "box",
    .shm_dev = 25,
    .ipc_ns = 4026531839,
    .pid_ns = UINT64_MAX,
    .net_ns = 0,
    .run_dev = 27,
    .run_ino = 1234,
    .user = 1001,
    .user_ns = 8};
#define OLD_TEXT "boot=0a1b name=box shm=25 ipc=4026531839 pid=18446744073709551615 net=0"
#define SAMPLE_TEXT OLD_TEXT " rundev=27 runino=1234 user=1001 userns=8"

static void check_equal(const kvpi_hostid *a, const kvpi_hostid *b)
{
	ck_assert_str_eq(a->boot_id, b->boot_id);
	ck_assert_str_eq(a->host_name, b->host_name);
	ck_assert_uint_eq(a->shm_dev, b->shm_dev);
	ck_assert_uint_eq(a->ipc_ns, b->ipc_ns);
	ck_assert_uint_eq(a->pid_ns, b->pid_ns);
	ck_assert_uint_eq(a->net_ns, b->net_ns);
	ck_assert_uint_eq(a->run_dev, b->run_dev);
	ck_assert_uint_eq(a->run_ino, b->run_ino);
	ck_assert_uint_eq(a->user, b->user);
	ck_assert_uint_eq(a->user_ns, b->user_ns);
}

START_TEST(the_same_process_reads_the_same)
{
	kvpi_hostid a, b;
	char text[400];

	unsetenv("KVPIPE_HOSTID");
	kvpi_hostid_read(&a);
	kvpi_hostid_read(&b);
	check_equal(&a, &b);
	kvpi_hostid_format(&a, text, sizeof(text));
	ck_assert(kvpi_hostid_parse(&b, text, strlen(text)));
	check_equal(&a, &b);
}
END_TEST

START_TEST(the_environment_replaces_the_boot_id)
{
	kvpi_hostid id;

	setenv("KVPIPE_HOSTID", "node 7\n", 1);
	kvpi_hostid_read(&id);
	ck_assert_str_eq(id.boot_id, "node_7_");
	setenv("KVPIPE_HOSTID", "0123456789012345678901234567890123456789xyz", 1);
	kvpi_hostid_read(&id);
	ck_assert_str_eq(id.boot_id, "012345678901234567890123456789012345678");
	unsetenv("KVPIPE_HOSTID");
}
END_TEST

START_TEST(what_cannot_be_read_is_unknown)
{
	kvpi_hostid id, other;

	unsetenv("KVPIPE_HOSTID");
	kvpi_fault_arm("hostid.boot_id", 1, 0);
	kvpi_fault_arm("hostid.stat", 1, 0);
	kit_random_fill(&id, sizeof(id), 1);
	errno = EBUSY;
	kvpi_hostid_read(&id);
	ck_assert_int_eq(errno, EBUSY);
	ck_assert_str_eq(id.boot_id, "");
	ck_assert_uint_eq(id.shm_dev, 0);
	ck_assert_uint_eq(id.ipc_ns, 0);
	ck_assert_uint_eq(id.pid_ns, 0);
	ck_assert_uint_eq(id.net_ns, 0);
	other = id;
	ck_assert(!kvpi_hostid_same_host(&id, &other));
}
END_TEST

START_TEST(only_the_boot_id_makes_a_host)
{
	kvpi_hostid other = sample;

	strcpy(other.host_name, "another");
	other.net_ns = 5;
	ck_assert(kvpi_hostid_same_host(&sample, &other));
	strcpy(other.boot_id, "0a1c");
	ck_assert(!kvpi_hostid_same_host(&sample, &other));
}
END_TEST

START_TEST(the_line_goes_there_and_back)
{
	kvpi_hostid id;
	char text[400], small[20];

	kvpi_hostid_format(&sample, text, sizeof(text));
	ck_assert_str_eq(text, SAMPLE_TEXT);
	ck_assert(kvpi_hostid_parse(&id, text, strlen(text)));
	check_equal(&id, &sample);
	kvpi_hostid_format(&sample, small, sizeof(small));
	ck_assert_str_eq(small, "boot=0a1b name=box ");

	/* What is not known is empty or 0; what a newer version adds is passed over. */
	const char *unknown = "boot= name= shm=0 ipc=0 pid=0 net=0 newer=5";
	ck_assert(kvpi_hostid_parse(&id, unknown, strlen(unknown)));
	check_equal(&id, &(kvpi_hostid){.shm_dev = 0});
	/* What an older version does not know is unknown. */
	ck_assert(kvpi_hostid_parse(&id, OLD_TEXT, strlen(OLD_TEXT)));
	ck_assert_uint_eq(id.pid_ns, sample.pid_ns);
	ck_assert_uint_eq(id.run_dev + id.run_ino, 0);
	ck_assert(!kvpi_hostid_parse(&id, OLD_TEXT " rundev=x", strlen(OLD_TEXT " rundev=x")));
}
END_TEST

START_TEST(other_lines_are_refused)
{
	static const char *const bad[] = {"", "boot=", "boot",
	    "name=box boot=0a1b shm=1 ipc=1 pid=1 net=1", "boot=a name=b shm=1 ipc=1 pid=1",
	    "boot=a name=b shm=1 ipc=1 pid=1 ", "boot=a name=b shm= ipc=1 pid=1 net=1",
	    "boot=a name=b shm=-1 ipc=1 pid=1 net=1", "boot=a name=b shm=0x1 ipc=1 pid=1 net=1",
	    "boot=a name=b shm=18446744073709551616 ipc=1 pid=1 net=1",
	    "boot=a  name=b shm=1 ipc=1 pid=1 net=1", " boot=a name=b shm=1 ipc=1 pid=1 net=1",
	    "boot=a\x01 name=b shm=1 ipc=1 pid=1 net=1", "boot=a name=\xff shm=1 ipc=1 pid=1 net=1",
	    "boot=a name=b shm=1 ipc=1 pid=1 net=1x",
	    "boot=0123456789012345678901234567890123456789 name=b shm=1 ipc=1 pid=1 net=1",
	    "boot=a name=0123456789012345678901234567890123456789012345678901234567890123 shm=1 "
	    "ipc=1 "
	    "pid=1 net=1"};
	kvpi_hostid id;

	kit_random_fill(&id, sizeof(id), 3);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		ck_assert_msg(!kvpi_hostid_parse(&id, bad[i], strlen(bad[i])), "%s", bad[i]);
		kit_check_fill(&id, sizeof(id), 3);
	}
	/* Nothing behind len is looked at: each beginning is given without what follows. */
	size_t shortest = strlen(OLD_TEXT);
	for (size_t len = 0; len < shortest; len++) {
		char *piece = malloc(len == 0 ? 1 : len);

		memcpy(piece, SAMPLE_TEXT, len);
		bool parsed = kvpi_hostid_parse(&id, piece, len);
		free(piece);
		ck_assert(!parsed);
	}
}
END_TEST

KIT_MAIN("hostid", the_same_process_reads_the_same, the_environment_replaces_the_boot_id,
    what_cannot_be_read_is_unknown, only_the_boot_id_makes_a_host, the_line_goes_there_and_back,
    other_lines_are_refused)
