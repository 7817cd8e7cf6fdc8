#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The shared library exports exactly the functions that the public headers declare, lacks none of its own,
# and needs no other library than these.

# ld-linux is a part of libc: thread-local variables of a shared library call into it. libmicrohttpd only if configured
# in: the others are always there.
may_need='^(libc\.so\.6|ld-linux-[a-z0-9-]*\.so\.[0-9]+|libzmq\.so\.5|libmsgpack-?c\.so\.2|libsodium\.so\.[0-9]+|libmicrohttpd\.so\.[0-9]+)$'

. "$(dirname "$0")/lint.sh"
build=${KVP_BUILDDIR:?is set by make check}
library=$build/.libs/libkvpipe.so

# Looks at $library with the headers of the tree.
lint () {
  declared_functions "$1/include" >"$tmp/declared"
  nm -D --defined-only "$library" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort -u >"$tmp/exported"
  comm -23 "$tmp/declared" "$tmp/exported" | sed 's/$/: declared in a public header but not exported/'
  comm -13 "$tmp/declared" "$tmp/exported" | sed 's/$/: exported but not declared in a public header/'
  nm -D --undefined-only "$library" | awk '$2 ~ /^kvp/ { print $2 ": used but not defined" }'
  # A sanitizer brings its own library.
  [ -n "${KVP_SANITIZERS:-}" ] ||
    readelf -d "$library" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | grep -Ev "$may_need" |
      sed 's/$/: a library that kvpipe must not need/'
}

for tool in nm readelf; do
  command -v "$tool" >/dev/null || skip "$tool (binutils) is not installed"
done
[ -s "$library" ] || { echo "FAIL: $library is not there"; exit 1; }
[ -n "$(declared_functions "$src/include")" ] || { echo "FAIL: no declared function was found"; exit 1; }

plant include
echo 'KVP_API int kvp_planted(int x);' >"$tree/include/kvpipe/planted.h"
sed -i '1i #include <kvpipe/status.h>' "$tree/include/kvpipe/planted.h"
must_see '^kvp_planted: declared in a public header but not exported'

built=$library
library=$tmp/planted.so
cat >"$tmp/planted.c" <<'END'
#include <math.h>
int kvp_planted_extra(double x);
int kvpi_planted_missing(int);
int kvp_planted_extra(double x) { return kvpi_planted_missing((int)cos(x)); }
END
${CC:-cc} -shared -fPIC -o "$library" "$tmp/planted.c" -lm || exit 99
plant include
must_see '^kvp_planted_extra: exported but not declared'
must_see '^kvpi_planted_missing: used but not defined'
[ -n "${KVP_SANITIZERS:-}" ] || must_see '^libm.so.6: a library that kvpipe must not need'
library=$built

lint_sources
