/* SPDX-License-Identifier: Apache-2.0 */
#include "kit/kit.h"

#include "base/copy.h"
#include <string.h>

#define SPACE 1000

START_TEST(any_length_from_and_to_anywhere)
{
	unsigned char from[SPACE], to[SPACE], want[SPACE];
	uint64_t random = 1;

	kit_random_fill(from, sizeof(from), 1);
	for (int round = 0; round < 20000; round++) {
		const size_t len = kit_random(&random) % 600, a = kit_random(&random) % 200, b = kit_random(&random) % 200;

		kit_random_fill(to, sizeof(to), 2);
		memcpy(want, to, sizeof(want));
		memcpy(want + b, from + a, len);
		kvpi_copy_stream(to + b, from + a, len);
		ck_assert_mem_eq(to, want, sizeof(to)); /* and nothing around it */
	}
}
END_TEST

KIT_MAIN("copy", any_length_from_and_to_anywhere)
