#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The manual says what the headers say: each public function stands in the SYNOPSIS of exactly one page, as it is
# declared; each page has its sections; the codes' values and texts are those of errors.def; and every option and
# every environment variable is on a page.
#
# shellcheck disable=SC2016 # awk and Markdown have signs that the shell has too

. "$(dirname "$0")/lint.sh"

# prototypes INCLUDE_DIR: "NAME PROTOTYPE" of each declared function, the prototype without any blanks. The inline
# kvp_x_init stands for kvp_x_init_sized as well.
prototypes () {
  (cd "$1" && for header in kvpipe/*.h; do echo "#include <$header>"; done) |
    ${CC:-cc} -E -P -I "$1" -x c - | join_prototypes | awk '$1 !~ /_init_sized$/'
}

# synopses PAGE: the same of the functions in its SYNOPSIS
synopses () {
  awk '/^## / { inside = $2 == "SYNOPSIS" } inside && !/^#/' "$1" | sed 's/^```.*/;/' | join_prototypes
}

join_prototypes () {
  tr '\n\t' '  ' | sed 's/[;{}]/\n/g' | awk '
    /typedef/ { next }
    match($0, /kvp_[a-z0-9_]+ *\(/) && substr($0, 1, RSTART - 1) ~ /[a-z]/ {
      name = substr($0, RSTART, RLENGTH - 1); sub(/ *$/, "", name)
      sub(/__attribute__ *\(\([a-z_]* *\("[a-z]*"\)\)\)/, ""); sub(/extern "C"|static inline/, ""); gsub(/ /, "")
      print name, $0
    }'
}

# fields INCLUDE_DIR: the fields of each public struct whose name ends in _options
fields () {
  without_comments "$1"/kvpipe/*.h | awk '
    /^typedef struct kvp_[a-z_]*_options \{/ { inside = 1; next }
    /^\}/ { inside = 0 }
    inside && /;/ {
      if (match($0, /\(\*[a-z_]+\)/)) { print substr($0, RSTART + 2, RLENGTH - 3); next }
      sub(/;.*/, ""); gsub(/\[[^]]*\]/, "")
      n = split($0, names, ",")
      for (i = 1; i <= n; i++) if (match(names[i], /[a-z_]+ *$/)) { sub(/ *$/, "", names[i]); print substr(names[i], RSTART) }
    }' | sort -u
}

lint () {
  (
    cd "$1" || exit
    prototypes include | sort -u >"$tmp/declared"
    [ -s "$tmp/declared" ] || echo "include/kvpipe: no function was found"
    : >"$tmp/shown"
    for page in docs/*.3.md; do
      synopses "$page" | sed "s|^|$page |" >>"$tmp/shown"
      for section in NAME SYNOPSIS DESCRIPTION 'RETURN VALUE\|ERRORS' 'SEE ALSO'; do
        grep -qx "## \($section\)" "$page" || echo "$page: has no section $section"
      done
    done
    awk '
      FNR == NR { declared[$1] = $2; next }
      !($2 in declared) { print $1 ": " $2 " is in the SYNOPSIS, but no public header declares it"; next }
      $3 != declared[$2] { print $1 ": " $2 " is declared in another way in the header" }
      { pages[$2] = pages[$2] " " $1; count[$2]++ }
      END {
        for (name in declared) if (count[name] == 0) print name ": is in the SYNOPSIS of no page"
        for (name in count) if (count[name] > 1) print name ": is in the SYNOPSIS of" pages[name]
      }' "$tmp/declared" "$tmp/shown" | sort

    sed -n 's/^KVP_STATUS(\(KVP_E_[A-Z_]*\), *\(-[0-9]*\), *"\(.*\)").*/| `\1` | \2 | \3 |/p' include/kvpipe/errors.def |
      while read -r row; do
        grep -qF -- "$row" docs/kvp_status.3.md || echo "docs/kvp_status.3.md: has no row $row"
      done

    fields include | while read -r field; do
      grep -qF "\`$field\`" docs/*.3.md || echo "$field: an option that no page in docs/ has"
    done
    find lib tools -name '*.c' -exec sed -n 's/.*getenv("\([A-Z_0-9]*\)").*/\1/p' {} + | sort -u |
      while read -r variable; do
        grep -qF "\`$variable\`" docs/kvpipe.7.md || echo "$variable: is read, but docs/kvpipe.7.md does not say so"
      done
  )
}

parts="include lib tools docs"

# shellcheck disable=SC2086
plant $parts
echo 'KVP_API kvp_status kvp_planted(int x);' >>"$tree/include/kvpipe/status.h"
must_see '^kvp_planted: is in the SYNOPSIS of no page'
sed -i 's/^void kvp_pipe_close(kvp_pipe \*pipe);/void kvp_pipe_close(kvp_pipe *pipe, int wait);/' "$tree/docs/kvp_pipe.3.md"
must_see 'kvp_pipe.3.md: kvp_pipe_close is declared in another way'
sed -i 's/^## SYNOPSIS$/&\n\nvoid kvp_phantom(void);\nvoid kvp_request_free(kvp_request *request);\n/' \
  "$tree/docs/kvp_log.3.md"
must_see 'kvp_log.3.md: kvp_phantom is in the SYNOPSIS, but no'
must_see '^kvp_request_free: is in the SYNOPSIS of docs/kvp_log.3.md docs/kvp_request.3.md'
sed -i 's/^## SEE ALSO$/## SEE TOO/' "$tree/docs/kvp_tensor.3.md"
must_see 'kvp_tensor.3.md: has no section SEE ALSO'
sed -i 's/"out of memory"/"no memory"/' "$tree/include/kvpipe/errors.def"
must_see 'kvp_status.3.md: has no row | `KVP_E_NOMEM` | -80 | no memory |'
sed -i 's/^	int kv_rank;/	int kv_planted, kv_rank;/' "$tree/include/kvpipe/pipe.h"
must_see '^kv_planted: an option that no page'
echo 'static const char *planted(void) { return getenv("KVP_PLANTED"); }' >>"$tree/lib/base/log.c"
must_see '^KVP_PLANTED: is read, but'

lint_sources
