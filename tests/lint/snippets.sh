#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Code that a page shows is code that is compiled and run: a block behind "<!-- from FILE -->" is a run of lines of
# that file. Indentation may differ.
#
# shellcheck disable=SC2016 # awk has signs that the shell has too

. "$(dirname "$0")/lint.sh"

# flat: without indentation and trailing blanks
flat () { sed 's/^[[:space:]]*//; s/[[:space:]]*$//'; }

lint () {
  (
    cd "$1" || exit
    grep -q '^<!-- from examples/hello.c -->$' README.md || echo "README.md: shows nothing of examples/hello.c"
    for page in README.md HACKING.md docs/*.md; do
      [ -e "$page" ] || continue
      sed -n 's/^<!-- from \(.*\) -->$/\1/p' "$page" | sort -u | while read -r file; do
        [ -e "$file" ] || { echo "$page: there is no $file"; continue; }
        flat <"$file" >"$tmp/file"
        awk -v from="<!-- from $file -->" '
          $0 == from { wanted = 1; next }
          wanted && /^```/ { inside = !inside; if (!inside) { wanted = 0; print "\001" } next }
          inside' "$page" | flat >"$tmp/blocks"
        awk -v page="$page" -v file="$file" '
          FNR == NR { all = all $0 "\n"; next }
          $0 == "\001" {
            if (block == "" || !index("\n" all, "\n" block)) print page ": what it shows of " file " is not there"
            block = ""; blocks++; next
          }
          { block = block $0 "\n" }
          END { if (!blocks) print page ": no block follows the mark for " file }' "$tmp/file" "$tmp/blocks"
      done
    done
  )
}

parts="README.md HACKING.md docs examples/hello.c"

# shellcheck disable=SC2086
plant $parts
sed -i 's/must(kvp_pipe_flush(pipe, 10000));/must(kvp_pipe_flush(pipe, 20000));/' "$tree/examples/hello.c"
must_see '^README.md: what it shows of examples/hello.c is not there'
# shellcheck disable=SC2086
plant $parts
printf '\n<!-- from examples/hello.c -->\n\nNo block.\n' >>"$tree/HACKING.md"
must_see '^HACKING.md: no block follows the mark'
printf '\n<!-- from examples/planted.c -->\n```c\n```\n' >>"$tree/HACKING.md"
must_see '^HACKING.md: there is no examples/planted.c'
sed -i '/^<!-- from/d' "$tree/README.md"
must_see '^README.md: shows nothing of examples/hello.c'

lint_sources
