/* SPDX-License-Identifier: Apache-2.0
 *
 * Guests of the broker that are not the library: what they send is written by hand.
 */
#include "share/rundir.h"
#include "unit/broker_kit.h"
#include "wire/auth.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static const unsigned char token_b[KVPI_BROKER_TOKEN_BYTES] = "another";

typedef struct packet {
	unsigned char bytes[8192];
	size_t len;
} packet;

/* A raw connection to the broker's socket. */
static int raw_connect(const side *to)
{
	struct sockaddr_un address;
	/* The name is the end of the address. */
	socklen_t len = kvpi_rundir_abstract(to->address + to->address_len - KVPI_RUNDIR_NAME_BYTES, &address);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (connect(fd, (struct sockaddr *)&address, len) != 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static packet make_hello(const unsigned char *token, const unsigned char *nonce)
{
	static const char label[] = "kvpipe broker name";
	packet p = {.bytes = {'k', 'v', 'p', 'B', 1, 1, 0, 0}, .len = 8 + 16 + 16};
	unsigned char mac[KVPI_HASH_BYTES];

	kvpi_mac(token, KVPI_BROKER_TOKEN_BYTES, label, sizeof(label), mac);
	memcpy(p.bytes + 8, mac, 16);
	memcpy(p.bytes + 24, nonce, 16);
	return p;
}

/* What the connecting end proves, if role is "connects". */
static packet make_proof(const unsigned char *token, const char *role, const unsigned char *mine, const unsigned char *its)
{
	packet p = {.bytes = {'k', 'v', 'p', 'B', 1, 3, 0, 0}, .len = 8 + KVPI_HASH_BYTES};
	unsigned char text[64] = {0};

	snprintf((char *)text, 32, "kvpipe broker %s", role);
	memcpy(text + 32, mine, 16);
	memcpy(text + 48, its, 16);
	kvpi_mac(token, KVPI_BROKER_TOKEN_BYTES, text, sizeof(text), p.bytes + 8);
	return p;
}

static void raw_send(int fd, const packet *p)
{
	ck_assert_int_eq(send(fd, p->bytes, p->len, MSG_NOSIGNAL), (ssize_t)p->len);
}

/* -1: nothing there; 0: closed. */
static ssize_t raw_recv(int fd, packet *p)
{
	ssize_t len = recv(fd, p->bytes, sizeof(p->bytes), MSG_DONTWAIT);

	p->len = len < 0 ? 0 : (size_t)len;
	return len < 0 && errno == ECONNRESET ? 0 : len;
}

static const unsigned char nonce_1[16] = "nonce number 1", nonce_2[16] = "nonce number 2";

/* What broker.h says is enough to write a peer. */
START_TEST(the_proof_is_as_described)
{
	side a;
	kvpi_channel *accepting;
	packet p, got;
	int fd;

	side_open(&a);
	KIT_OK(kvpi_broker_expect(a.broker, token_a, &accepting));
	fd = raw_connect(&a);
	p = make_hello(token_a, nonce_1);
	raw_send(fd, &p);
	side_step(&a);
	ck_assert_int_eq(raw_recv(fd, &got), 8 + 16 + KVPI_HASH_BYTES);
	ck_assert_int_eq(got.bytes[5], 2);
	p = make_proof(token_a, "accepts", nonce_1, got.bytes + 8);
	ck_assert_int_eq(memcmp(got.bytes + 24, p.bytes + 8, KVPI_HASH_BYTES), 0);
	p = make_proof(token_a, "connects", nonce_1, got.bytes + 8);
	raw_send(fd, &p);
	side_step(&a);
	ck_assert_int_eq(kvpi_channel_state_of(accepting), KVPI_CHANNEL_UP);
	close(fd);
	kvpi_channel_close(accepting);
	side_close(&a);
}
END_TEST

/* Goes as far as the answer, then proves with `make`; the broker must send it away. */
static void try_proof(side *a, const packet *proof_of_before, packet (*make)(const unsigned char *its))
{
	packet p = make_hello(token_a, nonce_1), got;
	int fd = raw_connect(a);

	raw_send(fd, &p);
	side_step(a);
	ck_assert_int_gt(raw_recv(fd, &got), 0);
	p = proof_of_before != NULL ? *proof_of_before : make(got.bytes + 8);
	raw_send(fd, &p);
	side_step(a);
	ck_assert_int_eq(raw_recv(fd, &got), 0);
	close(fd);
}

static packet with_other_token(const unsigned char *its)
{
	return make_proof(token_b, "connects", nonce_1, its);
}

static packet as_other_role(const unsigned char *its)
{
	return make_proof(token_a, "accepts", nonce_1, its);
}

static packet with_other_nonce(const unsigned char *its)
{
	return make_proof(token_a, "connects", nonce_2, its);
}

START_TEST(a_false_or_repeated_proof_is_refused)
{
	side a;
	kvpi_channel *accepting;
	packet p, got;
	int fd;

	side_open(&a);
	KIT_OK(kvpi_broker_expect(a.broker, token_a, &accepting));
	try_proof(&a, NULL, with_other_token);
	try_proof(&a, NULL, as_other_role);
	try_proof(&a, NULL, with_other_nonce);
	ck_assert_int_eq(kvpi_channel_state_of(accepting), KVPI_CHANNEL_WAITING);
	/* A true one, overheard and said again. */
	fd = raw_connect(&a);
	p = make_hello(token_a, nonce_1);
	raw_send(fd, &p);
	side_step(&a);
	ck_assert_int_gt(raw_recv(fd, &got), 0);
	p = make_proof(token_a, "connects", nonce_1, got.bytes + 8);
	raw_send(fd, &p);
	side_step(&a);
	ck_assert_int_eq(kvpi_channel_state_of(accepting), KVPI_CHANNEL_UP);
	close(fd);
	kvpi_channel_close(accepting);
	KIT_OK(kvpi_broker_expect(a.broker, token_a, &accepting));
	try_proof(&a, &p, NULL);
	ck_assert_int_eq(kvpi_channel_state_of(accepting), KVPI_CHANNEL_WAITING);
	kvpi_channel_close(accepting);
	side_close(&a);
}
END_TEST

START_TEST(junk_is_sent_away)
{
	side a;
	kvpi_channel *accepting;
	uint64_t state = 3;

	side_open(&a);
	KIT_OK(kvpi_broker_expect(a.broker, token_a, &accepting));
	for (int i = 0; i < 300; i++) {
		packet p = make_hello(token_a, nonce_1), got;
		int fd = raw_connect(&a);

		switch (i % 5) {
		case 0: /* anything */
			p.len = 1 + kit_random(&state) % 4000;
			kit_random_fill(p.bytes, p.len, (uint64_t)i);
			break;
		case 1: /* one bit of the head */
			p.bytes[kit_random(&state) % 8] ^= (unsigned char)(1u << (i % 8));
			break;
		case 2: /* too short */
			p.len = 1 + kit_random(&state) % (p.len - 1);
			break;
		case 3: /* too long */
			p.len += 1 + kit_random(&state) % 4000;
			break;
		default: /* too early */
			p = make_proof(token_a, "connects", nonce_1, nonce_2);
			break;
		}
		raw_send(fd, &p);
		side_step(&a);
		ck_assert_int_eq(raw_recv(fd, &got), 0);
		close(fd);
	}
	/* Two packets at once: the second is no proof. */
	packet p = make_hello(token_a, nonce_1), got;
	int fd = raw_connect(&a);
	raw_send(fd, &p);
	raw_send(fd, &p);
	side_step(&a);
	ck_assert_int_gt(raw_recv(fd, &got), 0);
	ck_assert_int_eq(raw_recv(fd, &got), 0);
	close(fd);
	ck_assert_int_eq(kvpi_channel_state_of(accepting), KVPI_CHANNEL_WAITING);
	kvpi_channel_close(accepting);
	ck_assert_int_eq(side_step(&a), KVPI_NEVER);
	side_close(&a);
}
END_TEST

static void raw_send_fd(int fd, const packet *p, int passed)
{
	_Alignas(struct cmsghdr) unsigned char control[CMSG_SPACE(16 * sizeof(int))] = {0};
	struct iovec part = {.iov_base = (void *)(uintptr_t)p->bytes, .iov_len = p->len};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control};
	size_t count = passed < 0 ? 9 : 1; /* -1: more than may come at once */
	struct cmsghdr *header;

	message.msg_controllen = CMSG_SPACE(count * sizeof(int));
	header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(count * sizeof(int));
	for (size_t i = 0; i < count; i++) {
		int one = passed < 0 ? 0 : passed;

		memcpy(CMSG_DATA(header) + i * sizeof(int), &one, sizeof(int));
	}
	ck_assert_int_eq(sendmsg(fd, &message, MSG_NOSIGNAL), (ssize_t)p->len);
}

START_TEST(descriptors_that_do_not_belong_are_closed)
{
	side a;
	kvpi_channel *accepting;
	packet p = make_hello(token_a, nonce_1), got;
	size_t before;
	int fd;

	side_open(&a);
	KIT_OK(kvpi_broker_expect(a.broker, token_a, &accepting));
	before = kit_fd_count();
	for (int i = 0; i < 3; i++) {
		fd = raw_connect(&a);
		if (i == 0) {
			raw_send_fd(fd, &p, -1); /* nine with a hello */
		} else {
			raw_send(fd, &p);
			side_step(&a);
			ck_assert_int_gt(raw_recv(fd, &got), 0);
			p = make_proof(token_a, "connects", nonce_1, got.bytes + 8);
			raw_send_fd(fd, &p, i == 1 ? -1 : 0); /* nine; one that is no pidfd */
			p = make_hello(token_a, nonce_1);
		}
		side_step(&a);
		ck_assert_int_eq(raw_recv(fd, &got), 0);
		close(fd);
		ck_assert_uint_eq(kit_fd_count(), before);
	}
	ck_assert_int_eq(kvpi_channel_state_of(accepting), KVPI_CHANNEL_WAITING);
	kvpi_channel_close(accepting);
	side_close(&a);
}
END_TEST

/* Both raw ends of a channel that is up: the peer may do what the library would not. */
static int raw_up(side *a, kvpi_channel **accepting)
{
	packet p = make_hello(token_a, nonce_1), got;
	int fd = raw_connect(a);

	KIT_OK(kvpi_broker_expect(a->broker, token_a, accepting));
	raw_send(fd, &p);
	side_step(a);
	ck_assert_int_gt(raw_recv(fd, &got), 0);
	p = make_proof(token_a, "connects", nonce_1, got.bytes + 8);
	raw_send(fd, &p);
	side_step(a);
	ck_assert_int_eq(kvpi_channel_state_of(*accepting), KVPI_CHANNEL_UP);
	return fd;
}

START_TEST(cut_messages_end_the_channel)
{
	side a;
	unsigned char bytes[KVPI_CHANNEL_MESSAGE_MAX];
	int fds[KVPI_CHANNEL_FDS_MAX];
	size_t len, count, before;

	side_open(&a);
	before = kit_fd_count();
	for (int i = 0; i < 3; i++) {
		kvpi_channel *accepting;
		int fd = raw_up(&a, &accepting);
		packet p = {.len = KVPI_CHANNEL_MESSAGE_MAX + 1};

		kit_random_fill(p.bytes, p.len, 1);
		if (i == 0) {
			raw_send(fd, &p);
		} else {
			p.len = i == 1 ? KVPI_CHANNEL_MESSAGE_MAX + 1 : 10;
			raw_send_fd(fd, &p, i == 1 ? 0 : -1);
		}
		KIT_STATUS(kvpi_channel_recv(accepting, bytes, &len, fds, &count), KVP_E_PROTOCOL);
		check_lost(accepting, i == 2 ? "descriptors" : "bytes");
		close(fd);
		kvpi_channel_close(accepting);
		ck_assert_uint_eq(kit_fd_count(), before);
	}
	side_close(&a);
}
END_TEST

START_TEST(a_full_table_of_descriptors_is_no_lie_of_the_peer)
{
	side a;
	kvpi_channel *accepting;
	unsigned char bytes[KVPI_CHANNEL_MESSAGE_MAX];
	int fds[KVPI_CHANNEL_FDS_MAX];
	size_t len, count;
	struct rlimit old, tight;
	packet p = {.bytes = {1}, .len = 1};

	side_open(&a);
	int fd = raw_up(&a, &accepting);
	raw_send_fd(fd, &p, fd);
	getrlimit(RLIMIT_NOFILE, &old);
	tight = (struct rlimit){.rlim_cur = 3, .rlim_max = old.rlim_max};
	setrlimit(RLIMIT_NOFILE, &tight);
	kvp_status status = kvpi_channel_recv(accepting, bytes, &len, fds, &count);
	setrlimit(RLIMIT_NOFILE, &old);
	ck_assert_int_eq(status, KVP_E_SYSTEM);
	check_lost(accepting, "ulimit");
	close(fd);
	kvpi_channel_close(accepting);
	side_close(&a);
}
END_TEST

START_TEST(a_flood_of_guests_is_bounded)
{
	enum { MANY = 40 };
	side a, b;
	kvpi_channel *accepting, *connecting;
	int fds[MANY];
	size_t before, open;

	side_open(&a);
	side_open(&b);
	KIT_OK(kvpi_broker_expect(a.broker, token_a, &accepting));
	before = kit_fd_count();
	for (int i = 0; i < MANY; i++)
		fds[i] = raw_connect(&a);
	side_step(&a);
	open = kit_fd_count() - before - MANY;
	ck_assert_uint_le(open, 8 * 2); /* with the pidfd of each */
	/* They are left in the queue, and do not keep us awake. */
	ck_assert(is_quiet(&a));
	connect_to(&b, &a, token_a, &connecting);
	settle(&a, &b);
	ck_assert_int_eq(kvpi_channel_state_of(accepting), KVPI_CHANNEL_WAITING);
	/* Eight more for every 5 s, those in earnest among them. */
	for (int i = 0; i < MANY / 8; i++) {
		kvpi_clock_manual_advance(&a.clock, side_step(&a) - kvpi_now(&a.clock));
		settle(&a, &b);
	}
	ck_assert_int_eq(kvpi_channel_state_of(accepting), KVPI_CHANNEL_UP);
	ck_assert_int_eq(kvpi_channel_state_of(connecting), KVPI_CHANNEL_UP);
	for (int i = 0; i < MANY; i++)
		close(fds[i]);
	kvpi_channel_close(accepting);
	kvpi_channel_close(connecting);
	side_close(&b);
	side_close(&a);
}
END_TEST

START_TEST(a_closed_expectation_takes_its_guest_along)
{
	side a;
	kvpi_channel *accepting;
	packet p = make_hello(token_a, nonce_1), got;

	side_open(&a);
	KIT_OK(kvpi_broker_expect(a.broker, token_a, &accepting));
	int fd = raw_connect(&a);
	raw_send(fd, &p);
	side_step(&a);
	ck_assert_int_gt(raw_recv(fd, &got), 0);
	kvpi_channel_close(accepting);
	ck_assert_int_eq(raw_recv(fd, &got), 0);
	close(fd);
	ck_assert_int_eq(side_step(&a), KVPI_NEVER);
	side_close(&a);
}
END_TEST

KIT_MAIN("broker_guests", the_proof_is_as_described, a_false_or_repeated_proof_is_refused, junk_is_sent_away,
    descriptors_that_do_not_belong_are_closed, cut_messages_end_the_channel,
    a_full_table_of_descriptors_is_no_lie_of_the_peer, a_flood_of_guests_is_bounded,
    a_closed_expectation_takes_its_guest_along)
