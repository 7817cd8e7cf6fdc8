/* SPDX-License-Identifier: Apache-2.0 */
#include "base/fault.h"
#include "share/rundir.h"
#include "unit/broker_kit.h"
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const unsigned char token_b[KVPI_BROKER_TOKEN_BYTES] = "another";

START_TEST(two_ends_prove_and_talk)
{
	side a, b;
	kvpi_channel *accepting, *connecting;

	side_open(&a);
	side_open(&b);
	KIT_OK(kvpi_broker_expect(a.broker, token_a, &accepting));
	ck_assert_int_eq(kvpi_channel_state_of(accepting), KVPI_CHANNEL_WAITING);
	connect_to(&b, &a, token_a, &connecting);
	ck_assert_int_eq(kvpi_channel_state_of(connecting), KVPI_CHANNEL_WAITING);
	settle(&a, &b);
	ck_assert_int_eq(kvpi_channel_state_of(accepting), KVPI_CHANNEL_UP);
	ck_assert_int_eq(kvpi_channel_state_of(connecting), KVPI_CHANNEL_UP);
	ck_assert_int_eq(kvpi_channel_pid(accepting), getpid());
	ck_assert_int_eq(kvpi_channel_pid(connecting), getpid());
	ck_assert(!kvpi_channel_peer_gone(accepting));
	ck_assert(is_quiet(&a) && is_quiet(&b));
	say(accepting, connecting, 1);
	say(connecting, accepting, 2);
	ck_assert_int_eq(side_step(&a), KVPI_NEVER);

	kvpi_channel_close(connecting);
	unsigned char bytes[KVPI_CHANNEL_MESSAGE_MAX];
	int fds[KVPI_CHANNEL_FDS_MAX];
	size_t len, count;
	KIT_STATUS(kvpi_channel_recv(accepting, bytes, &len, fds, &count), KVP_E_PEER_LOST);
	check_lost(accepting, "closed");
	KIT_STATUS(kvpi_channel_send(accepting, "x", 1, NULL, 0), KVP_E_PEER_LOST);
	KIT_STATUS(kvpi_channel_recv(accepting, bytes, &len, fds, &count), KVP_E_PEER_LOST);
	ck_assert(is_quiet(&a));
	kvpi_channel_close(accepting);
	kvpi_channel_close(NULL);
	side_close(&b);
	side_close(&a);
	kvpi_broker_close(NULL);
}
END_TEST

START_TEST(messages_and_descriptors_have_bounds)
{
	side a, b;
	kvpi_channel *accepting, *connecting;
	unsigned char bytes[KVPI_CHANNEL_MESSAGE_MAX];
	int fds[KVPI_CHANNEL_FDS_MAX], events[KVPI_CHANNEL_FDS_MAX];
	size_t len, count;

	side_open(&a);
	side_open(&b);
	pair_up(&a, &b, &accepting, &connecting);
	for (int i = 0; i < KVPI_CHANNEL_FDS_MAX; i++)
		events[i] = eventfd((unsigned)i + 10, EFD_CLOEXEC);
	kit_random_fill(bytes, sizeof(bytes), 9);
	KIT_STATUS(kvpi_channel_send(accepting, bytes, 0, NULL, 0), KVP_E_INVALID);
	KIT_STATUS(kvpi_channel_send(accepting, bytes, sizeof(bytes) + 1, NULL, 0), KVP_E_INVALID);
	KIT_STATUS(kvpi_channel_send(accepting, bytes, 1, events, KVPI_CHANNEL_FDS_MAX + 1), KVP_E_INVALID);
	KIT_OK(kvpi_channel_send(accepting, bytes, sizeof(bytes), events, KVPI_CHANNEL_FDS_MAX));
	memset(bytes, 0, sizeof(bytes));
	KIT_OK(kvpi_channel_recv(connecting, bytes, &len, fds, &count));
	ck_assert_uint_eq(len, sizeof(bytes));
	kit_check_fill(bytes, sizeof(bytes), 9);
	ck_assert_uint_eq(count, KVPI_CHANNEL_FDS_MAX);
	for (size_t i = 0; i < count; i++) {
		uint64_t value = 0;

		ck_assert_int_ne(fcntl(fds[i], F_GETFD) & FD_CLOEXEC, 0);
		ck_assert_int_eq(read(fds[i], &value, sizeof(value)), sizeof(value));
		ck_assert_uint_eq(value, i + 10);
		close(fds[i]);
		close(events[i]);
	}
	kvpi_channel_close(accepting);
	kvpi_channel_close(connecting);
	side_close(&b);
	side_close(&a);
}
END_TEST

START_TEST(a_full_socket_says_when_it_has_room)
{
	side a, b;
	kvpi_channel *accepting, *connecting;
	unsigned char bytes[KVPI_CHANNEL_MESSAGE_MAX] = {1};
	int fds[KVPI_CHANNEL_FDS_MAX];
	size_t len, count, sent = 0;

	side_open(&a);
	side_open(&b);
	pair_up(&a, &b, &accepting, &connecting);
	while (kvpi_channel_send(accepting, bytes, sizeof(bytes), NULL, 0) == KVP_OK)
		sent++;
	ck_assert_uint_gt(sent, 10);
	ck_assert_int_eq(kvpi_channel_state_of(accepting), KVPI_CHANNEL_UP);
	side_step(&a);
	ck_assert(is_quiet(&a));
	for (; sent > 0; sent--)
		KIT_OK(kvpi_channel_recv(connecting, bytes, &len, fds, &count));
	ck_assert(!is_quiet(&a));
	side_step(&a);
	ck_assert(is_quiet(&a));
	KIT_OK(kvpi_channel_send(accepting, bytes, sizeof(bytes), NULL, 0));
	kvpi_channel_close(accepting);
	kvpi_channel_close(connecting);
	side_close(&b);
	side_close(&a);
}
END_TEST

START_TEST(a_guest_may_come_before_it_is_expected)
{
	side a, b;
	kvpi_channel *accepting, *other, *connecting;

	side_open(&a);
	side_open(&b);
	connect_to(&b, &a, token_a, &connecting);
	settle(&a, &b);
	KIT_OK(kvpi_broker_expect(a.broker, token_b, &other));
	KIT_OK(kvpi_broker_expect(a.broker, token_a, &accepting));
	KIT_STATUS(kvpi_broker_expect(a.broker, token_b, &other), KVP_E_CONFLICT);
	side_step(&b); /* answered without a step: nothing would have woken that end */
	ck_assert_int_eq(kvpi_channel_state_of(connecting), KVPI_CHANNEL_UP);
	settle(&b, &a);
	ck_assert_int_eq(kvpi_channel_state_of(accepting), KVPI_CHANNEL_UP);
	ck_assert_int_eq(kvpi_channel_state_of(connecting), KVPI_CHANNEL_UP);
	ck_assert_int_eq(kvpi_channel_state_of(other), KVPI_CHANNEL_WAITING);
	kvpi_channel_close(other);

	/* The same again, while the first is up, and after it. */
	kvpi_channel *again;
	connect_to(&b, &a, token_a, &again);
	settle(&a, &b);
	ck_assert_int_eq(kvpi_channel_state_of(again), KVPI_CHANNEL_WAITING);
	say(accepting, connecting, 1);
	kvpi_channel_close(connecting);
	kvpi_channel_close(accepting);
	KIT_OK(kvpi_broker_expect(a.broker, token_a, &accepting));
	settle(&b, &a);
	ck_assert_int_eq(kvpi_channel_state_of(accepting), KVPI_CHANNEL_UP);
	say(accepting, again, 2);
	kvpi_channel_close(again);
	kvpi_channel_close(accepting);
	side_close(&b);
	side_close(&a);
}
END_TEST

START_TEST(a_wrong_token_gets_nowhere)
{
	side a, b;
	kvpi_channel *accepting, *connecting;
	int64_t next;

	side_open(&a);
	side_open(&b);
	KIT_OK(kvpi_broker_expect(a.broker, token_a, &accepting));
	connect_to(&b, &a, token_b, &connecting);
	settle(&a, &b);
	ck_assert_int_eq(kvpi_channel_state_of(accepting), KVPI_CHANNEL_WAITING);
	ck_assert_int_eq(kvpi_channel_state_of(connecting), KVPI_CHANNEL_WAITING);
	next = side_step(&a);
	ck_assert_int_lt(next, KVPI_NEVER);
	kvpi_clock_manual_advance(&a.clock, next - kvpi_now(&a.clock));
	ck_assert_int_eq(side_step(&a), KVPI_NEVER);
	side_step(&b);
	check_lost(connecting, "closed");
	ck_assert_int_eq(kvpi_channel_state_of(accepting), KVPI_CHANNEL_WAITING);
	kvpi_channel_close(accepting);
	kvpi_channel_close(connecting);

	/* Nobody answers: the connecting end's own time runs out. */
	connect_to(&b, &a, token_b, &connecting);
	next = side_step(&b);
	kvpi_clock_manual_advance(&b.clock, next - kvpi_now(&b.clock));
	side_step(&b);
	check_lost(connecting, "within 5 s");
	kvpi_channel_close(connecting);
	side_close(&b);
	side_close(&a);
}
END_TEST

START_TEST(only_the_first_of_two_gets_in)
{
	side a, b;
	kvpi_channel *accepting, *first, *second;

	side_open(&a);
	side_open(&b);
	KIT_OK(kvpi_broker_expect(a.broker, token_a, &accepting));
	connect_to(&b, &a, token_a, &first);
	connect_to(&b, &a, token_a, &second);
	settle(&a, &b);
	ck_assert_int_eq(kvpi_channel_state_of(accepting), KVPI_CHANNEL_UP);
	say(accepting, first, 4);
	unsigned char bytes[KVPI_CHANNEL_MESSAGE_MAX];
	int fds[KVPI_CHANNEL_FDS_MAX];
	size_t len, count;
	KIT_STATUS(kvpi_channel_recv(second, bytes, &len, fds, &count), KVP_E_PEER_LOST);
	kvpi_channel_close(accepting);
	kvpi_channel_close(first);
	kvpi_channel_close(second);
	side_close(&b);
	side_close(&a);
}
END_TEST

/* ---- real processes ---- */

/* Connects, proves, and stays; writes a byte to the pipe when it is up. */
static int peer_process(void *user)
{
	side *to = user, own = {.clock = {0}};
	kvpi_channel *channel;

	own.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (kvpi_broker_open(own.epoll_fd, &kvpi_clock_real, &own.broker) != KVP_OK)
		return 1;
	if (kvpi_broker_connect(own.broker, to->address, to->address_len, token_a, &channel) != KVP_OK)
		return 2;
	for (;;) {
		struct epoll_event event;
		int64_t next = kvpi_broker_step(own.broker, kvpi_now(&kvpi_clock_real));

		if (kvpi_channel_state_of(channel) == KVPI_CHANNEL_LOST)
			return 3;
		(void)epoll_wait(own.epoll_fd, &event, 1, kvpi_ms_left(next, kvpi_now(&kvpi_clock_real)));
	}
}

typedef struct waiting {
	side *side;
	kvpi_channel *channel;
} waiting;

static bool is_up(void *user)
{
	waiting *w = user;

	side_step(w->side);
	return kvpi_channel_state_of(w->channel) == KVPI_CHANNEL_UP;
}

static bool is_gone(void *user)
{
	return kvpi_channel_peer_gone(((waiting *)user)->channel);
}

static void check_death(const char *kernel_without)
{
	side a;
	waiting w = {.side = &a};
	unsigned char bytes[KVPI_CHANNEL_MESSAGE_MAX];
	int fds[KVPI_CHANNEL_FDS_MAX], status;
	size_t len, count;
	pid_t child;

	side_open(&a);
	KIT_OK(kvpi_broker_expect(a.broker, token_a, &w.channel));
	child = kit_fork(peer_process, &a);
	if (kernel_without != NULL)
		kvpi_fault_arm(kernel_without, 1, 0);
	kit_wait_until(is_up, &w, 10000);
	ck_assert_int_eq(kvpi_channel_pid(w.channel), child);
	ck_assert_int_ge(kvpi_channel_pidfd(w.channel), 0);
	ck_assert(!kvpi_channel_peer_gone(w.channel));
	/* Stopped is not gone. */
	kit_kill(child, SIGSTOP);
	do
		ck_assert_int_eq(waitpid(child, &status, WUNTRACED), child);
	while (!WIFSTOPPED(status));
	ck_assert(!kvpi_channel_peer_gone(w.channel));
	ck_assert_int_eq(kvpi_channel_recv(w.channel, bytes, &len, fds, &count), KVP_E_AGAIN);
	kit_kill(child, SIGKILL);
	kit_wait_until(is_gone, &w, 10000);
	KIT_STATUS(kvpi_channel_recv(w.channel, bytes, &len, fds, &count), KVP_E_PEER_LOST);
	ck_assert(kvpi_channel_peer_gone(w.channel)); /* LOST, and the question can still be asked */
	ck_assert_int_eq(kit_wait_exit(child, 10000), 128 + SIGKILL);
	kvpi_channel_close(w.channel);
	side_close(&a);
}

START_TEST(a_killed_process_is_proven_gone)
{
	check_death(NULL);
}
END_TEST

START_TEST(a_pidfd_that_was_sent_proves_it_on_older_kernels)
{
	check_death("broker.peerpidfd");
}
END_TEST

START_TEST(without_pidfds_nothing_is_proven)
{
	side a, b;
	kvpi_channel *accepting, *connecting;

	kvpi_fault_arm("broker.peerpidfd", 1, 0);
	kvpi_fault_arm("broker.pidfd", 1, 0);
	side_open(&a);
	side_open(&b);
	pair_up(&a, &b, &accepting, &connecting);
	ck_assert_int_eq(kvpi_channel_pidfd(accepting), -1);
	ck_assert(!kvpi_channel_peer_gone(accepting));
	kvpi_channel_close(accepting);
	kvpi_channel_close(connecting);
	side_close(&b);
	side_close(&a);
}
END_TEST

/* ---- trouble ---- */

START_TEST(other_users_are_sent_away)
{
	side a, b;
	kvpi_channel *accepting, *connecting;

	side_open(&a);
	side_open(&b);
	KIT_OK(kvpi_broker_expect(a.broker, token_a, &accepting));
	kvpi_fault_arm("broker.uid", 1, 1); /* the connecting end looks */
	KIT_STATUS(
	    kvpi_broker_connect(b.broker, a.address, a.address_len, token_a, &connecting), KVP_E_UNSUPPORTED);
	kvpi_fault_disarm_all();
	settle(&a, &b);
	connect_to(&b, &a, token_a, &connecting);
	kvpi_fault_arm("broker.uid", 1, 1); /* the accepting end does */
	settle(&a, &b);
	check_lost(connecting, "closed");
	ck_assert_int_eq(kvpi_channel_state_of(accepting), KVPI_CHANNEL_WAITING);
	kvpi_channel_close(accepting);
	kvpi_channel_close(connecting);
	side_close(&b);
	side_close(&a);
}
END_TEST

START_TEST(trouble_on_the_way_ends_in_a_sentence)
{
	static const char *const points[] = {"broker.recv", "broker.send", "broker.accept", "broker.watch"};
	side a, b;

	side_open(&a);
	side_open(&b);
	for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++) {
		for (unsigned n = 1;; n++) {
			kvpi_channel *accepting, *connecting;
			size_t before = kit_fd_count();
			bool up, hit;

			KIT_OK(kvpi_broker_expect(a.broker, token_a, &accepting));
			kvpi_fault_arm(points[i], n, 1);
			if (kvpi_broker_connect(b.broker, a.address, a.address_len, token_a, &connecting) != KVP_OK)
				connecting = NULL;
			settle(&a, &b);
			hit = kvpi_fault_passes(points[i]) >= n;
			kvpi_fault_disarm_all();
			/* What was put off is made up for; what is lost says so, at its time at the latest. */
			for (int times = 0; times < 3; times++) {
				kvpi_clock_manual_advance(&a.clock, 3 * KVPI_NS_PER_S);
				kvpi_clock_manual_advance(&b.clock, 3 * KVPI_NS_PER_S);
				settle(&a, &b);
			}
			up = kvpi_channel_state_of(accepting) == KVPI_CHANNEL_UP;
			if (connecting != NULL && !up)
				ck_assert_int_ne(kvpi_channel_state_of(connecting), KVPI_CHANNEL_WAITING);
			if (connecting != NULL && kvpi_channel_state_of(connecting) == KVPI_CHANNEL_LOST)
				ck_assert_int_gt(strlen(kvpi_channel_why(connecting)), 0);
			kvpi_channel_close(connecting);
			kvpi_channel_close(accepting);
			settle(&a, &b);
			ck_assert_uint_eq(kit_fd_count(), before);
			if (!hit) {
				ck_assert(up);
				break;
			}
		}
	}
	side_close(&b);
	side_close(&a);
}
END_TEST

START_TEST(a_peer_with_a_full_queue_is_tried_again)
{
	side a, b;
	kvpi_channel *accepting, *connecting;

	side_open(&a);
	side_open(&b);
	KIT_OK(kvpi_broker_expect(a.broker, token_a, &accepting));
	kvpi_fault_arm("broker.connect", 1, 3);
	connect_to(&b, &a, token_a, &connecting);
	ck_assert(is_quiet(&b));
	for (int i = 0; i < 3; i++) {
		int64_t next = side_step(&b);

		ck_assert_int_lt(next - kvpi_now(&b.clock), KVPI_NS_PER_S);
		kvpi_clock_manual_advance(&b.clock, next - kvpi_now(&b.clock));
	}
	settle(&b, &a);
	ck_assert_int_eq(kvpi_channel_state_of(connecting), KVPI_CHANNEL_UP);
	kvpi_channel_close(accepting);
	kvpi_channel_close(connecting);
	side_close(&b);
	side_close(&a);
}
END_TEST

START_TEST(without_memory_nothing_has_changed)
{
	side a, b;
	kvpi_channel *accepting, *connecting;
	size_t before;

	side_open(&a);
	before = kit_fd_count();
	kvpi_fault_arm("alloc", 1, 1);
	KIT_STATUS(kvpi_broker_open(a.epoll_fd, &a.clock, &b.broker), KVP_E_NOMEM);
	kvpi_fault_arm("broker.watch", 2, 1);
	KIT_STATUS(kvpi_broker_open(a.epoll_fd, &a.clock, &b.broker), KVP_E_SYSTEM);
	kvpi_fault_arm("broker.socket", 1, 0);
	KIT_STATUS(kvpi_broker_open(a.epoll_fd, &a.clock, &b.broker), KVP_E_SYSTEM);
	kvpi_fault_arm("broker.socket", 1, 1);
	kvpi_fault_arm("alloc", 1, 1);
	KIT_STATUS(kvpi_broker_expect(a.broker, token_a, &accepting), KVP_E_NOMEM);
	kvpi_fault_arm("alloc", 1, 1);
	KIT_STATUS(kvpi_broker_connect(a.broker, a.address, a.address_len, token_a, &connecting), KVP_E_NOMEM);
	KIT_STATUS(kvpi_broker_connect(a.broker, a.address, a.address_len, token_a, &connecting), KVP_E_SYSTEM);
	ck_assert_uint_eq(kit_fd_count(), before);
	side_close(&a);
}
END_TEST

START_TEST(addresses_that_make_no_sense_are_refused)
{
	side a, b;
	kvpi_channel *connecting;
	unsigned char address[KVPI_BROKER_ADDRESS_MAX];

	side_open(&a);
	side_open(&b);
	KIT_STATUS(kvpi_broker_connect(b.broker, a.address, 0, token_a, &connecting), KVP_E_INVALID);
	KIT_STATUS(kvpi_broker_connect(b.broker, a.address, a.address_len - 1, token_a, &connecting), KVP_E_INVALID);
	memcpy(address, a.address, a.address_len);
	address[0]++;
	KIT_STATUS(kvpi_broker_connect(b.broker, address, a.address_len, token_a, &connecting), KVP_E_INVALID);
	address[0]--;
	address[a.address_len - 1] ^= 1;
	KIT_STATUS(kvpi_broker_connect(b.broker, address, a.address_len, token_a, &connecting), KVP_E_UNSUPPORTED);
	side_close(&b);
	side_close(&a);
}
END_TEST

/* ---- the run directory ---- */

static size_t sockets_in(const char *dir)
{
	char command[256], text[32];
	const char *argv[] = {"sh", "-c", command, NULL};
	int fd;

	snprintf(command, sizeof(command), "ls '%s' | grep -c '^kvp-'", dir);
	pid_t child = kit_spawn(argv, &fd);
	kit_read_all(fd, text, sizeof(text));
	kit_wait_exit(child, 10000);
	return (size_t)strtoul(text, NULL, 10);
}

/* Two brokers under that run directory meet by the abstract name. */
static void check_fallback(const char *dir)
{
	side a, b;
	kvpi_channel *accepting, *connecting;
	kvpi_broker_facts facts;

	setenv("KVPIPE_RUN_DIR", dir, 1);
	side_open_with(&a);
	side_open_with(&b);
	pair_up(&a, &b, &accepting, &connecting);
	say(accepting, connecting, 5);
	kvpi_channel_close(accepting);
	kvpi_channel_close(connecting);
	side_close(&b);
	side_close(&a);
	kvpi_broker_facts_read(&facts);
	ck_assert_uint_ne(facts.net_ns, 0);
}

START_TEST(an_unusable_directory_leaves_the_abstract_name)
{
	char path[512], target[512];
	kvpi_rundir dir;
	kvpi_broker_facts facts;

	snprintf(path, sizeof(path), "%s/file", kit_tmpdir());
	close(open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600));
	check_fallback(path); /* no directory */
	snprintf(path, sizeof(path), "%s/no/such", kit_tmpdir());
	check_fallback(path);
	check_fallback("/proc/self/fdinfo"); /* ours, but nothing can be made in it */
	snprintf(path, sizeof(path), "%s/link", kit_tmpdir());
	snprintf(target, sizeof(target), "%s/target", kit_tmpdir());
	ck_assert_int_eq(mkdir(target, 0700), 0);
	ck_assert_int_eq(symlink(target, path), 0);
	check_fallback(path);
	KIT_STATUS(kvpi_rundir_open(&dir), KVP_E_SYSTEM);
	ck_assert_int_eq(chmod(target, 0770), 0);
	check_fallback(target); /* others may write */
	KIT_STATUS((setenv("KVPIPE_RUN_DIR", target, 1), kvpi_rundir_open(&dir)), KVP_E_SYSTEM);
	kvpi_broker_facts_read(&facts);
	ck_assert_uint_eq(facts.dir_ino, 0);
	check_fallback(geteuid() == 0 && chmod(target, 0700) == 0 && chown(target, 12345, 0) == 0 ? target : "/");
	kvpi_fault_arm("rundir.open", 1, 0);
	check_fallback(kit_tmpdir());
	kvpi_fault_disarm_all();
	kvpi_fault_arm("broker.bind", 1, 0);
	check_fallback(kit_tmpdir());
}
END_TEST

START_TEST(the_path_does_without_the_abstract_name)
{
	side a, b;
	kvpi_channel *accepting, *connecting;
	char path[512], moved[512];
	struct stat st;
	kvpi_broker_facts facts;

	/* Longer than the path of a socket may be. */
	snprintf(path, sizeof(path), "%s/%0150d", kit_tmpdir(), 7);
	snprintf(moved, sizeof(moved), "%s/moved", kit_tmpdir());
	setenv("KVPIPE_RUN_DIR", path, 1);
	kvpi_fault_arm("broker.abstract", 1, 0);
	side_open_with(&a);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_uint_eq(st.st_mode & 0777, 0700);
	kvpi_broker_facts_read(&facts);
	ck_assert_uint_eq(facts.dir_ino, st.st_ino);
	ck_assert_uint_eq(facts.dir_dev, st.st_dev);
	side_open_with(&b);
	ck_assert_uint_eq(sockets_in(path), 2);
	pair_up(&a, &b, &accepting, &connecting);
	kvpi_channel_close(accepting);
	kvpi_channel_close(connecting);
	/* Another directory in its place is not looked at. */
	ck_assert_int_eq(rename(path, moved), 0);
	ck_assert_int_eq(symlink("/", path), 0);
	pair_up(&a, &b, &accepting, &connecting);
	kvpi_channel_close(accepting);
	kvpi_channel_close(connecting);
	side_close(&b);
	/* A peer that shares neither way is told. */
	setenv("KVPIPE_RUN_DIR", kit_tmpdir(), 1);
	side_open_with(&b);
	KIT_STATUS(
	    kvpi_broker_connect(b.broker, a.address, a.address_len, token_a, &connecting), KVP_E_UNSUPPORTED);
	ck_assert_ptr_nonnull(strstr(kvp_last_error(), "another run directory"));
	side_close(&b);
	side_close(&a);
	ck_assert_uint_eq(sockets_in(moved), 0);
	kvpi_fault_arm("broker.bind", 1, 0);
	kvpi_broker *none;
	KIT_STATUS(kvpi_broker_open(0, &kvpi_clock_real, &none), KVP_E_SYSTEM);
}
END_TEST

static int open_and_hang(void *user)
{
	kvpi_broker *broker;

	(void)user;
	if (kvpi_broker_open(epoll_create1(EPOLL_CLOEXEC), &kvpi_clock_real, &broker) != KVP_OK)
		return 1;
	for (;;)
		pause();
}

static bool two_sockets(void *user)
{
	return sockets_in(user) == 2;
}

static void make_older(const char *dir, int seconds)
{
	char command[256];
	const char *argv[] = {"sh", "-c", command, NULL};

	snprintf(command, sizeof(command), "touch -h -d '%d seconds ago' '%s'/kvp-*", seconds, dir);
	ck_assert_int_eq(kit_wait_exit(kit_spawn(argv, NULL), 10000), 0);
}

START_TEST(sockets_of_the_dead_are_swept_and_no_others)
{
	char *dir = strdup(kit_tmpdir()), path[512];
	side a, b;
	pid_t child;

	side_open(&a);
	child = kit_fork(open_and_hang, NULL);
	kit_wait_until(two_sockets, dir, 10000);
	kit_kill(child, SIGKILL);
	kit_wait_exit(child, 10000);
	snprintf(path, sizeof(path), "%s/kvp-00000000000000000000000000000000", dir);
	close(open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600)); /* no socket */
	/* Fresh ones might just not listen yet. */
	side_open(&b);
	side_close(&b);
	ck_assert_uint_eq(sockets_in(dir), 3);
	make_older(dir, 60);
	side_open(&b);
	ck_assert_uint_eq(sockets_in(dir), 3); /* the dead one's is gone, b's is there */
	kvpi_channel *accepting, *connecting;
	pair_up(&a, &b, &accepting, &connecting); /* a's was left alone */
	kvpi_channel_close(accepting);
	kvpi_channel_close(connecting);
	side_close(&b);
	side_close(&a);
	ck_assert_uint_eq(sockets_in(dir), 1);
	free(dir);
}
END_TEST

KIT_MAIN("broker", two_ends_prove_and_talk, messages_and_descriptors_have_bounds, a_full_socket_says_when_it_has_room,
    a_guest_may_come_before_it_is_expected, a_wrong_token_gets_nowhere, only_the_first_of_two_gets_in,
    a_killed_process_is_proven_gone, a_pidfd_that_was_sent_proves_it_on_older_kernels,
    without_pidfds_nothing_is_proven, other_users_are_sent_away, trouble_on_the_way_ends_in_a_sentence,
    a_peer_with_a_full_queue_is_tried_again, without_memory_nothing_has_changed,
    addresses_that_make_no_sense_are_refused, an_unusable_directory_leaves_the_abstract_name,
    the_path_does_without_the_abstract_name, sockets_of_the_dead_are_swept_and_no_others)
