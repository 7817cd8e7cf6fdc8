#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The tables of docs/wire.md are those of lib/wire/messages.def. After a change there:
#
#   tests/lint/wire.sh write
#
# shellcheck disable=SC2016 # awk and Markdown have signs that the shell has too

. "$(dirname "$0")/lint.sh"

page=docs/wire.md
table=lib/wire/messages.def

# The page of $1 as it should be: what lies between "<!-- message NAME -->" and "<!-- end -->" made anew.
expected () {
  awk -v page="$1/$page" '
    function value(text) {
      if (text == "UINT64_MAX") return "2^64-1"
      if (text == "UINT32_MAX") return "2^32-1"
      if (text == "INT64_MAX") return "2^63-1"
      if (text == "INT64_MIN") return "-2^63"
      if (text == "INT32_MAX") return "2^31-1"
      sub(/^INT64_MAX/, "(2^63-1)", text)
      return text
    }
    function range(a) { return value(a[4]) " to " value(a[5]) }
    function bytes(n) { return "at most " n " bytes" }
    function row(type, bounds, need) {
      rows[msg] = rows[msg] sprintf("| %s | `%s` | %s | %s | %s | %s |\n", a[2], a[3], type, bounds, tolower(need), what)
    }
    FILENAME != page {
      if ($0 ~ /^\/\* ----/ || $0 == "") { about = ""; next }
      if ($0 ~ /^(\/\*| \*)/) {
        text = $0; gsub(/^ *\/?\*+ ?| *\*\/$/, "", text); about = about (about == "" ? "" : " ") text; next
      }
      if ($0 !~ /^KVPI_/) next
      what = ""
      if (match($0, /\/\*.*\*\//)) { what = substr($0, RSTART + 3, RLENGTH - 6) }
      sub(/\).*/, ""); kind = $0; sub(/ *\(.*/, "", kind); sub(/^[^(]*\(/, "")
      n = split($0, a, / *, */)
      if (kind == "KVPI_MESSAGE") {
        msg = a[1]; names[++count] = msg
        rows[msg] = "### `" msg "`, id " a[2] "\n\n" (about == "" ? "" : about "\n\n") \
          "| key | field | type | bounds | | meaning |\n|-|-|-|-|-|-|\n"
      }
      else if (kind == "KVPI_UINT") row("uint", range(a), a[6])
      else if (kind == "KVPI_INT") row("int", range(a), a[6])
      else if (kind == "KVPI_STR") row("str", bytes(a[4]), a[5])
      else if (kind == "KVPI_BIN") row("bin", bytes(a[4]), a[5])
      else if (kind == "KVPI_UINTS") row("array of uint", "at most " a[4], a[5])
      else if (kind == "KVPI_INTS") row("array of int", "at most " a[4], a[5])
      else if (kind == "KVPI_BINS") row("array of bin", "at most " a[4] ", each " bytes(a[5]), a[6])
      else if (kind != "KVPI_END") print "the lint does not know " kind
      next
    }
    /^<!-- message .* -->$/ {
      print
      if (!($3 in rows)) print "there is no message " $3
      else printf "%s", rows[$3]
      shown[$3]++; skip = 1; next
    }
    /^<!-- end -->$/ { skip = 0 }
    !skip
    END {
      for (i = 1; i <= count; i++)
        if (shown[names[i]] != 1) print "the message " names[i] " is on the page " shown[names[i]] + 0 " times"
    }' "$1/$table" "$1/$page"
}

lint () {
  expected "$1" >"$tmp/expected"
  diff "$1/$page" "$tmp/expected" | grep '^[<>]' | sed "s|^|$page: |"
}

if [ "${1-}" = write ]; then
  expected "$src" >"$tmp/expected" && cp "$tmp/expected" "$src/$page"
  exit
fi

plant lib/wire docs
sed -i 's/^KVPI_STR(hello, 4, name, 128/KVPI_STR(hello, 4, name, 64/' "$tree/$table"
must_see '> | 4 | `name` | str | at most 64 bytes'
plant lib/wire docs
sed -i 's/^KVPI_MESSAGE(beat, 4)/KVPI_MESSAGE(planted, 6)/; s/^KVPI_END(beat)/KVPI_END(planted)/' "$tree/$table"
must_see 'there is no message beat'
must_see 'the message planted is on the page 0 times'
plant lib/wire docs
sed -i '/^| 2 | `session`/d' "$tree/$page"
must_see '> | 2 | `session`'

lint_sources
