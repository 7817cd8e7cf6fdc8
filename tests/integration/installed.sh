#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# A user's first contact: make install, then a program that finds the library through pkg-config alone.
set -eu
unset MAKEFLAGS MFLAGS MAKELEVEL

build=${KVP_BUILDDIR:?is set by make check}
command -v pkg-config >/dev/null || { echo "SKIP: pkg-config is not installed"; exit 77; }
[ -z "${KVP_SANITIZERS:-}" ] || { echo "SKIP: a user's program is not built with sanitizers"; exit 77; }

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
make -C "$build" DESTDIR="$root" install >"$root/log" 2>&1 || { cat "$root/log"; exit 1; }

pc=$(find "$root" -name kvpipe.pc)
prefix=$root$(sed -n 's/^prefix=//p' "$pc")
libdir=$(dirname "$(dirname "$pc")")
kvpipe () { # pkg-config as if the tree stood at $root
  PKG_CONFIG_PATH=$(dirname "$pc") pkg-config "$@" --define-variable=prefix="$prefix" kvpipe
}

cat >"$root/first.c" <<'END'
#include <kvpipe/status.h>
#include <kvpipe/version.h>
#include <stdio.h>
#include <string.h>

int main(void)
{
	printf("kvpipe " KVP_VERSION_STRING ": %s\n", kvp_status_text(KVP_E_TIMEOUT));
	return strcmp(kvp_status_name(KVP_E_TIMEOUT), "KVP_E_TIMEOUT") != 0;
}
END
# shellcheck disable=SC2046 # flags are words
${CC:-cc} -std=c99 -Wall -Wextra -Werror -o "$root/first" "$root/first.c" $(kvpipe --cflags --libs)
LD_LIBRARY_PATH=$libdir "$root/first"

# It must be the installed library that was found, by its versioned name.
readelf -d "$root/first" | grep -q 'NEEDED.*libkvpipe\.so\.0' || { echo "FAIL: first does not need libkvpipe.so.0"; exit 1; }
# The file's version and the header's are the same.
[ "$(kvpipe --modversion)" = "$(sed -n 's/^#define KVP_VERSION_STRING "\(.*\)"/\1/p' "$prefix/include/kvpipe/version.h")" ] ||
  { echo "FAIL: kvpipe.pc and version.h differ"; exit 1; }

make -C "$build" DESTDIR="$root" uninstall >"$root/log" 2>&1 || { cat "$root/log"; exit 1; }
left=$(find "$prefix" ! -type d)
[ -z "$left" ] || { echo "FAIL: make uninstall left $left"; exit 1; }
