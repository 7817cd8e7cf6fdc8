/* SPDX-License-Identifier: Apache-2.0 */
#include "base/fault.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_POINTS 16
#define NAME_MAX_LEN 48

struct point {
	char name[NAME_MAX_LEN];
	unsigned nth, count;
	unsigned passes;
	int signal_number; /* 0: the point fails; else it is sent, and the point goes on */
};

atomic_int kvpi_fault_armed;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct point points[MAX_POINTS]; /* the first kvpi_fault_armed of them */

static struct point *find(const char *name)
{
	int armed = atomic_load_explicit(&kvpi_fault_armed, memory_order_relaxed);

	for (int i = 0; i < armed; i++) {
		if (strcmp(points[i].name, name) == 0)
			return &points[i];
	}
	return NULL;
}

bool kvpi_fault_hit(const char *name)
{
	bool hit = false;
	int signal_number = 0;

	pthread_mutex_lock(&mutex);
	struct point *point = find(name);
	if (point != NULL) {
		point->passes++;
		/* The difference cannot wrap, the sum nth + count could. */
		hit = point->passes >= point->nth &&
		      (point->count == 0 || point->passes - point->nth < point->count);
		signal_number = hit ? point->signal_number : 0;
	}
	pthread_mutex_unlock(&mutex);
	if (signal_number != 0)
		kill(getpid(), signal_number);
	return hit && signal_number == 0;
}

static void arm(const char *name, struct point setting)
{
	const unsigned nth = setting.nth;

	pthread_mutex_lock(&mutex);
	int armed = atomic_load_explicit(&kvpi_fault_armed, memory_order_relaxed);
	struct point *point = find(name);

	if (nth == 0 || strlen(name) >= NAME_MAX_LEN || (point == NULL && armed == MAX_POINTS)) {
		fprintf(stderr, "kvpi_fault_arm: cannot arm %s (pass %u, %d points armed)\n", name,
		    nth, armed);
		abort();
	}
	if (point == NULL) {
		point = &points[armed];
		atomic_store_explicit(&kvpi_fault_armed, armed + 1, memory_order_relaxed);
	}
	*point = setting;
	memcpy(point->name, name, strlen(name) + 1);
	pthread_mutex_unlock(&mutex);
}

void kvpi_fault_arm(const char *name, unsigned nth, unsigned count)
{
	arm(name, (struct point){.nth = nth, .count = count});
}

void kvpi_fault_arm_signal(const char *name, unsigned nth, int signal_number)
{
	arm(name, (struct point){.nth = nth, .count = 1, .signal_number = signal_number});
}

void kvpi_fault_disarm_all(void)
{
	pthread_mutex_lock(&mutex);
	atomic_store_explicit(&kvpi_fault_armed, 0, memory_order_relaxed);
	pthread_mutex_unlock(&mutex);
}

unsigned kvpi_fault_passes(const char *name)
{
	pthread_mutex_lock(&mutex);
	const struct point *point = find(name);
	unsigned passes = point == NULL ? 0 : point->passes;
	pthread_mutex_unlock(&mutex);
	return passes;
}
