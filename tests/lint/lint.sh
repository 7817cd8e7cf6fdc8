# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
#
# Sourced by each lint. A lint script
#   defines  lint TREE   which prints one line per finding in TREE, and nothing for a clean tree;
#   calls    plant, then spoils $tree and calls must_see, once for each kind of fault;
#   ends with lint_sources.
# So no lint can turn green by having stopped to look.

set -u
LC_ALL=C
export LC_ALL
# A make that runs a test hands its job server down; a make inside the test must not use it.
unset MAKEFLAGS MFLAGS MAKELEVEL

src=${KVP_SRCDIR:-$(cd "$(dirname "$0")/../.." && pwd)}
tmp=$(mktemp -d) || exit 99
trap 'rm -rf "$tmp"' EXIT
tree=$tmp/tree

skip () {
  echo "SKIP: $*"
  exit 77
}

# plant PATH...: a fresh copy, in $tree, of these parts of the sources
plant () {
  rm -rf "$tree"
  for part in "$@"; do
    mkdir -p "$tree/$(dirname "$part")"
    cp -R "$src/$part" "$tree/$part" || exit 99
  done
  chmod -R u+w "$tree"
}

# must_see PATTERN: lint finds the planted fault, and says so in a line with PATTERN
must_see () {
  lint "$tree" >"$tmp/found" 2>&1
  if ! grep -q -e "$1" "$tmp/found"; then
    echo "FAIL: a planted fault was not seen; expected a line with: $1"
    echo "the lint printed:"
    cat "$tmp/found"
    exit 1
  fi
}

lint_sources () {
  lint "$src" >"$tmp/found" 2>&1
  [ -s "$tmp/found" ] || exit 0
  cat "$tmp/found"
  exit 1
}

# What autogen.sh, configure and make dist put among the sources.
generated='^(Makefile(\.in)?|aclocal\.m4|config\..*|configure~?|libtool|stamp-h1|autom4te\.cache/.*|build-aux/.*|m4/(libtool|lt.*|pkg)\.m4|(build|_build|_inst|kvpipe-)[^/]*/.*|.*\.(log|trs|l?o|l?a))$'

# sources TREE: our own files, one a line; in a checkout what git holds or waits for, else all but the generated
sources () {
  if [ -e "$1/.git" ] && git -C "$1" ls-files --cached --others --exclude-standard >"$tmp/sources" 2>/dev/null; then
    while read -r file; do [ ! -e "$1/$file" ] || echo "$file"; done <"$tmp/sources"
  else
    (cd "$1" && find . -type f) | sed 's|^\./||' | grep -Ev "$generated"
  fi | sort
}

# declared_functions INCLUDE_DIR: the functions that the public headers declare, one name a line
declared_functions () {
  (cd "$1" && for header in kvpipe/*.h; do echo "#include <$header>"; done) |
    ${CC:-cc} -E -P -I "$1" -x c - | tr '\n' ' ' | sed 's/[;{}]/\n/g' | awk '
      /typedef|static/ { next }
      match($0, /kvp_[a-z0-9_]+ *\(/) { name = substr($0, RSTART, RLENGTH - 1); sub(/ *$/, "", name); print name }' |
    sort -u
}

# without_comments FILE...: the C code alone; comments_of FILE...: FILE:LINE and the comment alone
# shellcheck disable=SC2016 # awk has its own $
strip_c='
  FNR == 1 { inside = 0 }
  {
    line = $0; code = ""; comment = ""
    while (line != "") {
      if (inside) {
        end = index(line, "*/")
        if (!end) { comment = comment line; break }
        comment = comment substr(line, 1, end - 1) " "; line = substr(line, end + 2); inside = 0
      } else if (match(line, /"([^"\\]|\\.)*"|\047(\\.|[^\\\047])\047|\/\*|\/\//)) {
        code = code substr(line, 1, RSTART - 1); token = substr(line, RSTART, RLENGTH)
        line = substr(line, RSTART + RLENGTH)
        if (token == "/*") inside = 1
        else if (token == "//") { comment = comment line; break }
        else code = code token
      } else { code = code line; break }
    }
    if (want == "code") print code; else if (comment != "") print FILENAME ":" FNR ": " comment
  }'
without_comments () { awk -v want=code "$strip_c" "$@"; }
comments_of () { awk -v want=comments "$strip_c" "$@"; }
