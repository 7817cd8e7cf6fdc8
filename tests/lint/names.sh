#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Words keep their promise: every error code is in the manual, and every name of ours that a comment or a
# page mentions exists.

. "$(dirname "$0")/lint.sh"

manual=docs/kvp_status.3.md

lint () {
  (
    cd "$1" || exit
    sed -n 's/^KVP_STATUS(\(KVP_E_[A-Z_]*\),.*/\1/p' include/kvpipe/errors.def >"$tmp/codes"
    [ -s "$tmp/codes" ] || echo "include/kvpipe/errors.def: no code was found"
    while read -r code; do
      grep -qw "$code" $manual || echo "$code: is in errors.def but not in $manual"
    done <"$tmp/codes"

    find include lib kernels tools examples bench tests \( -name '*.[ch]' -o -name '*.cu' -o -name '*.def' \) >"$tmp/files"
    # Strings count as code: that is where environment variables are.
    # shellcheck disable=SC2046 # our file names have no spaces
    without_comments $(cat "$tmp/files") | words >"$tmp/exists"
    # ... and the manual's pages, and the build's own variables.
    find docs | words >>"$tmp/exists"
    cat configure.ac Makefile.am m4/kvp_*.m4 tests/integration/*.sh examples/*.sh 2>/dev/null | words >>"$tmp/exists"
    sort -u -o "$tmp/exists" "$tmp/exists"

    {
      # shellcheck disable=SC2046
      comments_of $(cat "$tmp/files")
      for page in README.md HACKING.md SECURITY.md docs/*.md; do
        [ ! -e "$page" ] || awk '{ print FILENAME ":" FNR ": " $0 }' "$page"
      done
    } | mentions >"$tmp/mentions"
    awk 'NR == FNR { exists[$1]; next } !($2 in exists) { print $1 " mentions " $2 ", which does not exist" }' \
      "$tmp/exists" "$tmp/mentions"
  )
}

# Names of ours, one a line. A name that ends in _ or is followed by * or < is a pattern ("kvp_pipe_*").
words () { grep -oE '[A-Za-z0-9_]+' | grep -E '^(kvpi?_[a-z0-9_]*[a-z0-9]|KVPI?_[A-Z0-9_]*[A-Z0-9])$'; }

mentions () {
  awk '{
    where = $1; sub(/^[^ ]* /, "")
    while (match($0, /[A-Za-z0-9_]+[*<{]?/)) {
      word = substr($0, RSTART, RLENGTH); $0 = substr($0, RSTART + RLENGTH)
      if (word ~ /^(kvpi?_[a-z0-9_]*[a-z0-9]|KVPI?_[A-Z0-9_]*[A-Z0-9])$/) print where, word
    }
  }'
}

[ -e "$src/$manual" ] || { echo "FAIL: $manual is missing"; exit 1; }
parts="include lib kernels tools bench tests docs configure.ac Makefile.am m4"

# shellcheck disable=SC2086
plant $parts
echo 'KVP_STATUS(KVP_E_PLANTED, -98, "planted")' >>"$tree/include/kvpipe/errors.def"
must_see '^KVP_E_PLANTED: is in errors.def but not in'
echo '/* Fails with KVP_E_PHANTOM. */' >>"$tree/include/kvpipe/status.h"
must_see 'status.h:[0-9]*: mentions KVP_E_PHANTOM, which does not exist'
printf '/*\n * See kvp_phantom(). */\n' >>"$tree/include/kvpipe/status.h"
must_see 'status.h:[0-9]*: mentions kvp_phantom, which does not exist'
echo 'Call kvp_phantom_page first.' >>"$tree/$manual"
must_see 'kvp_status.3.md:[0-9]*: mentions kvp_phantom_page, which does not exist'

lint_sources
