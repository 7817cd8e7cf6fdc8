#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# A release tarball holds what git holds: no file forgotten in a Makefile fragment, none too many.

. "$(dirname "$0")/lint.sh"
build=${KVP_BUILDDIR:?is set by make check}

command -v git >/dev/null || skip "git is not installed"
[ -e "$src/.git" ] || skip "this is not a git checkout"
git -C "$src" ls-files >/dev/null 2>&1 || skip "git does not trust this checkout (safe.directory)"

# A tarball adds what autogen.sh makes; git also means files that wait for git add.
lint () {
  sources "$src" >"$tmp/git"
  sources "$1" >"$tmp/tarball"
  comm -23 "$tmp/git" "$tmp/tarball" | sed 's/$/: in git, but make dist leaves it out/'
  comm -13 "$tmp/git" "$tmp/tarball" | sed 's/$/: in the tarball, but not in git/'
}

make -C "$build" distdir="$tmp/dist" am__remove_distdir=: distdir >"$tmp/out" 2>&1 || { cat "$tmp/out"; exit 1; }

cp -R "$tmp/dist" "$tree" && chmod -R u+w "$tree" && rm -f "$tree/LICENSE" && : >"$tree/lib/base/planted.c"
must_see '^LICENSE: in git, but make dist leaves it out'
must_see '^lib/base/planted.c: in the tarball, but not in git'

src_found=$(lint "$tmp/dist")
[ -z "$src_found" ] || { echo "$src_found"; exit 1; }
