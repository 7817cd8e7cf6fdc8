#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Each public header compiles alone, as C99 and as C++11, without a warning; C++ sees C names; and each is
# installed.

. "$(dirname "$0")/lint.sh"

cxx=
for candidate in "${CXX:-}" g++ clang++; do
  if [ -z "$cxx" ] && [ -n "$candidate" ] && command -v "$candidate" >/dev/null; then cxx=$candidate; fi
done

lint () {
  (cd "$1/include" && ls kvpipe/*.h) | while read -r header; do
    # C99 wants something in a file; a header of macros alone is empty.
    { echo "#include <$header>"; echo 'extern int something;'; } >"$tmp/alone.c"
    ${CC:-cc} -std=c99 -pedantic -Wall -Wextra -Werror -fsyntax-only -I "$1/include" "$tmp/alone.c" >"$tmp/out" 2>&1 ||
      { echo "$header: does not compile alone as C99"; cat "$tmp/out"; }
    [ -z "$cxx" ] ||
      $cxx -x c++ -std=c++11 -pedantic -Wall -Wextra -Werror -fsyntax-only -I "$1/include" "$tmp/alone.c" >"$tmp/out" 2>&1 ||
      { echo "$header: does not compile alone as C++11"; cat "$tmp/out"; }
    grep -q "include/$header " "$1/include/kvpipe/headers.am" || echo "$header: is not in headers.am, so not installed"
  done
  [ -z "$cxx" ] || mangled "$1"
}

# A header that forgets extern "C" compiles well and never links.
mangled () {
  declared_functions "$1/include" >"$tmp/declared"
  {
    (cd "$1/include" && ls kvpipe/*.h) | sed 's/.*/#include <&>/'
    echo 'typedef void (*any)(void);'
    echo 'extern any all[]; any all[] = {'
    sed 's/.*/(any)&,/' "$tmp/declared"
    echo '};'
  } >"$tmp/all.cc"
  if $cxx -std=c++11 -w -c -I "$1/include" -o "$tmp/all.o" "$tmp/all.cc" 2>"$tmp/out"; then
    nm -u "$tmp/all.o" | awk '$2 ~ /kvp_/ && $2 !~ /^kvp_/ { print $2 ": a C++ name; is extern \"C\" missing?" }'
  else
    echo "the public headers do not compile together as C++11"
    cat "$tmp/out"
  fi
}

plant include
printf 'KVP_API int kvp_planted(size_t bytes);\n' >"$tree/include/kvpipe/planted.h"
must_see 'planted.h: does not compile alone as C99'
must_see 'planted.h: is not in headers.am'
[ -z "$cxx" ] || must_see 'planted.h: does not compile alone as C++11'

plant include
echo 'struct kvp_planted { int class; };' >"$tree/include/kvpipe/planted.h"
[ -z "$cxx" ] || must_see 'planted.h: does not compile alone as C++11'
echo 'struct kvp_planted { int x; }; // a C++ comment' >"$tree/include/kvpipe/planted.h"
echo 'enum kvp_planted_enum { KVP_PLANTED, };;' >>"$tree/include/kvpipe/planted.h"
must_see 'planted.h: does not compile alone as C99'

plant include
echo 'int kvp_planted(int x);' >"$tree/include/kvpipe/planted.h"
[ -z "$cxx" ] || must_see 'kvp_planted.*: a C++ name'

[ -n "$cxx" ] || echo "no C++ compiler here: only C99 was tried"
lint_sources
