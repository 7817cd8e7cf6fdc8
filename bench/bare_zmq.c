/* SPDX-License-Identifier: Apache-2.0
 *
 * ZeroMQ with nothing around it.
 */
#include "bench.h"

#include <stdio.h>
#include <zmq.h>

void bench_zmq_version(char text[32])
{
	int major, minor, patch;

	zmq_version(&major, &minor, &patch);
	snprintf(text, 32, "%d.%d.%d", major, minor, patch);
}
