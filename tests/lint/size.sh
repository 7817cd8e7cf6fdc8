#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# No source has more than 1000 lines: one duty per file, and about 600 is a good size.

. "$(dirname "$0")/lint.sh"

lint () {
  (cd "$1" && sources "$1" | grep -E '(\.([ch]|cu|def|sh|am|ac)|kvp_[a-z]*\.m4|quickstart|\.ci/run)$' | xargs wc -l |
    awk '$2 != "total" && $1 > 1000 { print $2 ": " $1 " lines; split it, 1000 is the limit" }')
}

plant lib
awk 'BEGIN { for (i = 0; i < 1001; i++) print "/* line */" }' >"$tree/lib/base/planted.c"
must_see 'lib/base/planted.c: 1001 lines'

lint_sources
