/* SPDX-License-Identifier: Apache-2.0 */
#include "base/wakeup.h"

#include "base/error.h"
#include "base/fault.h"
#include <errno.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* State: none of them means that the next post writes. */
enum { POSTED = 1, MUTED = 2 };

kvp_status kvpi_wakeup_init(kvpi_wakeup *wakeup)
{
	int fd;

	if (kvpi_fault("wakeup.eventfd")) {
		errno = EMFILE;
		fd = -1;
	} else {
		fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	}
	if (fd < 0)
		return kvpi_error_errno("cannot make a wake-up descriptor");
	wakeup->fd = fd;
	atomic_init(&wakeup->state, 0);
	return KVP_OK;
}

void kvpi_wakeup_fini(kvpi_wakeup *wakeup)
{
	if (wakeup->fd >= 0)
		close(wakeup->fd);
	wakeup->fd = -1;
}

void kvpi_wakeup_post(kvpi_wakeup *wakeup)
{
	const uint64_t one = 1;
	int saved = errno;

	if (atomic_fetch_or(&wakeup->state, POSTED) != 0)
		return;
	(void)kvpi_fault("wakeup.write"); /* for tests that count */
	/* EAGAIN would mean that the counter is full, hence readable: just what is wanted. */
	while (write(wakeup->fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
	errno = saved;
}

void kvpi_wakeup_clear(kvpi_wakeup *wakeup)
{
	uint64_t count;
	int saved = errno;

	/*
	 * Drain first, lower the flag second.  A post in between writes nothing, and need not: the
	 * exchange below sees it, so the work behind it is seen by the look-up that follows.  The
	 * other way round its byte would be drained while the flag stays up, and all later posts be
	 * lost.
	 */
	while (read(wakeup->fd, &count, sizeof(count)) < 0 && errno == EINTR)
		;
	atomic_exchange(&wakeup->state, 0);
	errno = saved;
}

void kvpi_wakeup_mute(kvpi_wakeup *wakeup)
{
	atomic_exchange(&wakeup->state, MUTED);
}

void kvpi_wakeup_arm(kvpi_wakeup *wakeup)
{
	/* An exchange, as in post: of a post and an arming that cross, one sees the other. */
	atomic_exchange(&wakeup->state, 0);
}
