/* SPDX-License-Identifier: Apache-2.0
 *
 * The plane `shm` between real processes, which are killed and stopped at each step.  The test accepts, a child connects;
 * the child makes one round whenever it is told to, so that the steps are the same each time.
 */
#include "kit/kit.h"

#include "base/clock.h"
#include "base/context.h"
#include "plane/shm.h"
#include <kvpipe/memory.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CONNECTED KVPI_PLANE_CONNECTED
#define LOST KVPI_PLANE_LOST
#define SENT KVPI_PLANE_SENT
#define RECEIVED KVPI_PLANE_RECEIVED

#define BYTES (256u << 10)
#define BUDGET 40000u
/* Which memory a put comes from, and with that the way it goes. */
enum { MAPPED, REMOTE, STAGED, INLINE, AGAIN, PUTS };

static const kvpi_plane_ops *shm;
static const unsigned char token[KVPI_PLANE_TOKEN_BYTES] = "processes of one";

/* ---- an end, in either process ---- */

typedef struct end {
	kvp_context *context;
	kvpi_plane *plane;
	kvpi_conn *conn;
	unsigned counts[KVPI_PLANE_NOTIFIED + 1];
	bool received[PUTS];
	bool final; /* of the last event */
	char *source[PUTS], *target[PUTS];
	kvpi_layout layouts[PUTS]; /* of the sources */
} end;

static void on_event(void *user, const kvpi_plane_event *event)
{
	end *e = user;

	e->counts[event->kind]++;
	e->final = event->final;
	if (event->kind == RECEIVED && event->id.seq < PUTS)
		e->received[event->id.seq] = true;
}

static void wake(void *user)
{
	(void)user;
}

static uint64_t bytes_of(int put)
{
	return put == INLINE ? 5000 : BYTES;
}

/* No checks of the kit here: the child uses it, too. */
static bool end_open(end *e)
{
	kvpi_plane_params params = {.listen = {.bind_host = "127.0.0.1"}, .on_event = on_event, .wake = wake};
	kvpi_plane_caps caps;
	void *shared = NULL;

	memset(e, 0, sizeof(*e));
	if (kvpi_context_hold(NULL, &e->context) != KVP_OK)
		return false;
	params.context = e->context;
	params.user = e;
	if (shm->open(&params, &e->plane, &caps) != KVP_OK)
		return false;
	for (int i = 0; i < PUTS; i++) {
		if (kvp_mem_alloc(e->context, 2 * BYTES, &shared) != KVP_OK)
			return false;
		e->source[i] = i == REMOTE || i == STAGED || i == INLINE ? malloc(2 * BYTES) : shared;
		if (e->source[i] != shared)
			kvp_mem_free(e->context, shared);
		e->target[i] = malloc(BYTES);
		kvpi_layout_of_bytes(e->source[i], bytes_of(i), KVP_MEMORY_HOST, 0, &e->layouts[i]);
		if (i == STAGED) { /* every other 8 bytes */
			e->layouts[i].ndim = 1;
			e->layouts[i].dim[0] = (kvpi_dim){BYTES / 8, 16};
			e->layouts[i].block_bytes = 8;
		}
	}
	return true;
}

static void end_close(end *e)
{
	if (e->plane != NULL)
		shm->close(e->plane);
	for (int i = 0; i < PUTS; i++) {
		if (i == REMOTE || i == STAGED || i == INLINE)
			free(e->source[i]);
		else
			kvp_mem_free(e->context, e->source[i]);
		free(e->target[i]);
	}
	kvpi_context_release(e->context);
}

static void fill_sources(end *e)
{
	unsigned char dense[BYTES];

	for (int i = 0; i < PUTS; i++) {
		kit_random_fill(dense, bytes_of(i), (uint64_t)i + 1);
		kvpi_layout_scatter(&e->layouts[i], 0, dense, bytes_of(i));
	}
}

static bool put_all(end *e)
{
	bool good = true;

	for (uint64_t i = 0; i < PUTS; i++) {
		const kvpi_transfer put = {.id = {i, 1}, .direction = KVPI_PUT, .local = e->layouts[i]};

		good = shm->submit(e->conn, &put) == KVP_OK && good;
	}
	return good;
}

static bool post_all(end *e)
{
	bool good = true;

	for (uint64_t i = 0; i < PUTS; i++) {
		kvpi_transfer post = {.id = {i, 1}, .direction = KVPI_PUT};

		kvpi_layout_of_bytes(e->target[i], bytes_of((int)i), KVP_MEMORY_HOST, 0, &post.local);
		good = shm->post_recv(e->conn, &post) == KVP_OK && good;
	}
	return good;
}

/* ---- the child ---- */

typedef struct child {
	pid_t pid;
	int orders[2], answers[2]; /* pipes */
	int leash[2];              /* likewise: its own child lives until this is closed here */
	char address[KVPI_PLANE_ADDRESS_MAX];
	size_t len;
	bool sends;
	char last;
} child;

static int child_run(void *user)
{
	child *c = user;
	bool begun = false;
	char order, answer;
	end e;

	close(c->orders[1]);
	close(c->answers[0]);
	close(c->leash[1]);
	if (!end_open(&e) || shm->connect(e.plane, c->address, c->len, token, &e, &e.conn) != KVP_OK)
		return 10;
	fill_sources(&e);
	if (!c->sends && !post_all(&e))
		return 11;
	while (read(c->orders[0], &order, 1) == 1) {
		shm->progress(e.plane, BUDGET);
		if (c->sends && !begun && e.counts[CONNECTED] > 0)
			begun = put_all(&e);
		if (order == 'f' && fork() == 0)
			_exit(read(c->leash[0], &order, 1) == 0 ? 0 : 1);
		answer = e.conn->in.claimed ? 'c' : '-';
		if (write(c->answers[1], &answer, 1) != 1)
			break;
	}
	for (int i = 0; i < PUTS; i++) {
		if (e.received[i] && kit_fill_differs(e.target[i], bytes_of(i), (uint64_t)i + 1) < bytes_of(i))
			return 12;
	}
	answer = (char)e.counts[RECEIVED];
	end_close(&e);
	return answer;
}

static void start(child *c, end *e, bool sends)
{
	*c = (child){.sends = sends};
	ck_assert_int_eq(pipe(c->orders), 0);
	ck_assert_int_eq(pipe(c->answers), 0);
	ck_assert_int_eq(pipe(c->leash), 0);
	KIT_OK(shm->address(e->plane, c->address, &c->len));
	c->pid = kit_fork(child_run, c);
	close(c->orders[0]);
	close(c->answers[1]);
	close(c->leash[0]);
}

/* One round of the child.  False when it has ended. */
static bool order(child *c, char what)
{
	return write(c->orders[1], &what, 1) == 1 && read(c->answers[0], &c->last, 1) == 1;
}

static void close_pipes(child *c)
{
	close(c->orders[1]);
	close(c->answers[0]);
	close(c->leash[1]);
}

/* Lets it come to its end by itself: how many transfers it received. */
static int finish(child *c)
{
	close_pipes(c);
	return kit_wait_exit(c->pid, 20000);
}

static void kill_child(child *c)
{
	kit_kill(c->pid, SIGKILL);
	ck_assert_int_eq(kit_wait_exit(c->pid, 20000), 128 + SIGKILL);
	close_pipes(c);
}

/* ---- the test's own side ---- */

static void setup(void)
{
	shm = kvpi_plane_find("shm", 3);
	signal(SIGPIPE, SIG_IGN);
	setenv("KVPIPE_RUN_DIR", kit_tmpdir(), 1);
}

/* How many there are; makes them an hour old, as fresh ones might belong to a process that is about to listen. */
static size_t files_in_run_dir(void)
{
	const struct timespec old[2] = {{.tv_sec = time(NULL) - 3600}, {.tv_sec = time(NULL) - 3600}};
	DIR *dir = opendir(kit_tmpdir());
	size_t count = 0;

	ck_assert_ptr_nonnull(dir);
	for (const struct dirent *entry; (entry = readdir(dir)) != NULL;) {
		if (entry->d_name[0] == '.')
			continue;
		count++;
		ck_assert_int_eq(utimensat(dirfd(dir), entry->d_name, old, AT_SYMLINK_NOFOLLOW), 0);
	}
	closedir(dir);
	return count;
}

/* The sockets of killed processes stay, and go with the next that opens. */
static void expect_nothing_left(void)
{
	end e;

	(void)files_in_run_dir();
	ck_assert(end_open(&e));
	ck_assert_uint_eq(files_in_run_dir(), 1); /* its own */
	end_close(&e);
	ck_assert_uint_eq(files_in_run_dir(), 0);
}

typedef struct condition {
	end *e;
	child *c; /* NULL: it is not there any more */
	kvpi_event_kind kind;
	unsigned count;
} condition;

static bool counted(void *user)
{
	condition *w = user;

	if (w->c != NULL)
		ck_assert(order(w->c, '.'));
	shm->progress(w->e->plane, BUDGET);
	return w->e->counts[w->kind] >= w->count;
}

static void until(end *e, child *c, kvpi_event_kind kind, unsigned count)
{
	condition w = {e, c, kind, count};

	kit_wait_until(counted, &w, 20000);
}

/* LOST, and it says that the peer will not come back. */
static void expect_dead(end *e)
{
	const int pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);

	if (pidfd >= 0)
		close(pidfd);
	until(e, NULL, LOST, 1);
	ck_assert(e->final || pidfd < 0);
}

static void accept_one(end *e)
{
	ck_assert(end_open(e));
	fill_sources(e);
	KIT_OK(shm->accept(e->plane, token, e, &e->conn));
}

/* Everything goes through, with a new child. */
static void expect_works(end *e, bool child_sends)
{
	child c;

	memset(e->counts, 0, sizeof(e->counts));
	memset(e->received, 0, sizeof(e->received));
	start(&c, e, child_sends);
	if (child_sends)
		ck_assert(post_all(e));
	until(e, &c, CONNECTED, 1);
	if (!child_sends)
		ck_assert(put_all(e));
	until(e, &c, child_sends ? RECEIVED : SENT, PUTS);
	/* The small ones are sent when they are out. */
	for (int i = 0; i < 10; i++)
		ck_assert(order(&c, '.'));
	ck_assert_int_eq(finish(&c), child_sends ? 0 : PUTS);
	for (int i = 0; i < PUTS && child_sends; i++)
		kit_check_fill(e->target[i], bytes_of(i), (uint64_t)i + 1);
	until(e, NULL, LOST, 1);
}

/* Rounds after which the child is killed; the last ones are beyond the end. */
static const int steps_of[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 17, 20, 25, 30, 35, 40, 50};
#define STEPS (sizeof(steps_of) / sizeof(steps_of[0]))

START_TEST(the_sender_is_killed_at_each_step)
{
	unsigned whole = 0, none = 0;

	setup();
	for (size_t s = 0; s < STEPS; s++) {
		child c;
		end e;

		accept_one(&e);
		ck_assert(post_all(&e));
		start(&c, &e, true);
		for (int i = 0; i < steps_of[s]; i++) {
			ck_assert(order(&c, '.'));
			shm->progress(e.plane, BUDGET);
		}
		kill_child(&c);
		if (e.counts[CONNECTED] > 0)
			expect_dead(&e);
		/* What it says to have received is right; what it does not is touched no more. */
		for (int i = 0; i < PUTS; i++) {
			if (e.received[i])
				kit_check_fill(e.target[i], bytes_of(i), (uint64_t)i + 1);
			kit_random_fill(e.target[i], BYTES, 99);
		}
		for (int i = 0; i < 200; i++)
			shm->progress(e.plane, BUDGET);
		for (int i = 0; i < PUTS; i++) {
			if (e.counts[CONNECTED] > 0)
				kit_check_fill(e.target[i], BYTES, 99);
			ck_assert_int_eq(shm->cancel(e.conn, (kvpi_transfer_id){(uint64_t)i, 1}), KVP_RECEIPT_QUIESCENT);
		}
		whole += e.counts[RECEIVED] == PUTS;
		none += e.counts[RECEIVED] == 0;
		expect_works(&e, true);
		end_close(&e);
	}
	ck_assert_uint_gt(whole, 0);
	ck_assert_uint_gt(none, 2);
	expect_nothing_left();
}
END_TEST

START_TEST(the_receiver_is_killed_at_each_step)
{
	unsigned whole = 0, none = 0;

	setup();
	for (size_t s = 0; s < STEPS; s++) {
		bool begun = false;
		child c;
		end e;

		accept_one(&e);
		start(&c, &e, false);
		for (int i = 0; i < steps_of[s]; i++) {
			ck_assert(order(&c, '.'));
			shm->progress(e.plane, BUDGET);
			if (!begun && e.counts[CONNECTED] > 0)
				begun = put_all(&e);
		}
		kill_child(&c);
		if (e.counts[CONNECTED] > 0)
			expect_dead(&e);
		whole += e.counts[SENT] == PUTS;
		none += e.counts[SENT] == 0;
		for (uint64_t i = 0; i < PUTS; i++)
			ck_assert_int_eq(shm->cancel(e.conn, (kvpi_transfer_id){i, 1}), KVP_RECEIPT_QUIESCENT);
		expect_works(&e, false);
		end_close(&e);
	}
	ck_assert_uint_gt(whole, 0);
	ck_assert_uint_gt(none, 2);
	expect_nothing_left();
}
END_TEST

static void stop_child(child *c)
{
	int status = 0;

	kit_kill(c->pid, SIGSTOP);
	ck_assert_int_eq(waitpid(c->pid, &status, WUNTRACED), c->pid);
	ck_assert(WIFSTOPPED(status));
}

static void put_one(end *e, int which)
{
	const kvpi_transfer put = {.id = {(uint64_t)which, 1}, .direction = KVPI_PUT, .local = e->layouts[which]};

	KIT_OK(shm->submit(e->conn, &put));
	shm->progress(e->plane, BUDGET);
}

/* A receiver that stands still before it has begun cannot begin any more; one that stands still in the middle is waited
 * for, until it goes on or is proven gone. */
START_TEST(a_frozen_receiver_keeps_only_what_it_has_begun)
{
	setup();
	for (int n = 0; n < 8; n++) {
		const int which = n & 1 ? REMOTE : MAPPED;
		const bool begun = n & 2, dies = n & 4;
		const kvpi_transfer_id id = {(uint64_t)which, 1};
		child c;
		end e;

		accept_one(&e);
		start(&c, &e, false);
		until(&e, &c, CONNECTED, 1);
		if (which == REMOTE && !e.conn->able) {
			kit_note_skip(__FILE__, __LINE__, "process_vm_readv is not allowed here");
			kill_child(&c);
			end_close(&e);
			continue;
		}
		put_one(&e, which);
		while (begun && c.last != 'c')
			ck_assert(order(&c, '.'));
		stop_child(&c);
		ck_assert_int_eq(shm->cancel(e.conn, id), begun ? KVP_RECEIPT_QUARANTINED : KVP_RECEIPT_QUIESCENT);
		for (int i = 0; i < 100; i++)
			shm->progress(e.plane, BUDGET);
		ck_assert_int_eq(shm->cancel(e.conn, id), begun ? KVP_RECEIPT_QUARANTINED : KVP_RECEIPT_QUIESCENT);
		kit_random_fill(e.source[which], BYTES, 88); /* which would show, if it counted */
		if (dies) {
			kill_child(&c);
			until(&e, NULL, LOST, 1);
			ck_assert_int_eq(shm->cancel(e.conn, id), KVP_RECEIPT_QUIESCENT);
		} else {
			kit_kill(c.pid, SIGCONT);
			for (int i = 0; i < 20; i++) {
				ck_assert(order(&c, '.'));
				shm->progress(e.plane, BUDGET);
			}
			ck_assert_int_eq(shm->cancel(e.conn, id), KVP_RECEIPT_QUIESCENT);
			ck_assert_int_eq(finish(&c), 0);
		}
		ck_assert_uint_eq(e.counts[SENT], 0);
		end_close(&e);
	}
}
END_TEST

/* Hanging up does not wait for a frozen peer, and what it then finishes does not count. */
START_TEST(hanging_up_on_a_frozen_receiver)
{
	child c;
	end e;

	setup();
	accept_one(&e);
	start(&c, &e, false);
	until(&e, &c, CONNECTED, 1);
	put_one(&e, MAPPED);
	while (c.last != 'c')
		ck_assert(order(&c, '.'));
	stop_child(&c);
	shm->hangup(e.conn);
	kit_random_fill(e.source[MAPPED], BYTES, 88);
	kit_kill(c.pid, SIGCONT);
	for (int i = 0; i < 30; i++)
		ck_assert(order(&c, '.'));
	ck_assert_int_eq(finish(&c), 0);
	end_close(&e);
}
END_TEST

/* The receiver copies: a sender that stands still keeps nothing back. */
START_TEST(a_frozen_sender_is_read_all_the_same)
{
	child c;
	end e;

	setup();
	accept_one(&e);
	ck_assert(post_all(&e));
	start(&c, &e, true);
	until(&e, &c, CONNECTED, 1);
	for (int i = 0; i < 30 && e.counts[RECEIVED] < 2; i++) {
		ck_assert(order(&c, '.')); /* the messages of the first two are out with the first round */
		if (!kvpi_ring_empty(&e.conn->in_ring))
			break;
	}
	stop_child(&c);
	until(&e, NULL, RECEIVED, 2);
	kit_check_fill(e.target[MAPPED], BYTES, MAPPED + 1);
	kit_check_fill(e.target[REMOTE], BYTES, REMOTE + 1);
	kill_child(&c);
	until(&e, NULL, LOST, 1);
	end_close(&e);
}
END_TEST

/* A child of the peer holds copies of all its sockets: only its pidfd tells that it is gone. */
START_TEST(a_death_that_no_socket_tells)
{
	struct pollfd p = {.fd = -1, .events = POLLIN};
	child c;
	end e;

	setup();
	accept_one(&e);
	start(&c, &e, true);
	until(&e, &c, CONNECTED, 1);
	if (kvpi_channel_pidfd(e.conn->channel) < 0) {
		kill_child(&c);
		end_close(&e);
		KIT_SKIP("this kernel has no pidfds");
	}
	ck_assert(order(&c, 'f'));
	while (!shm->arm(e.plane, &p.fd) || poll(&p, 1, 0) != 0)
		shm->progress(e.plane, BUDGET);
	kit_kill(c.pid, SIGKILL);
	ck_assert_int_eq(kit_wait_exit(c.pid, 20000), 128 + SIGKILL);
	ck_assert_int_eq(poll(&p, 1, 20000), 1);
	until(&e, NULL, LOST, 1);
	close_pipes(&c);
	end_close(&e);
}
END_TEST

KIT_MAIN("plane shm between processes", the_sender_is_killed_at_each_step, the_receiver_is_killed_at_each_step,
    a_frozen_receiver_keeps_only_what_it_has_begun, hanging_up_on_a_frozen_receiver,
    a_frozen_sender_is_read_all_the_same, a_death_that_no_socket_tells)
