#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# docs/kvpipe-options.7.md has every option of every public struct, every option of the installed tools and every
# environment variable. Its tables are made from the option tables of lib/, and from the tools' own help; so is this:
#
#   tests/lint/options.sh write
#
# shellcheck disable=SC2016 # awk and Markdown have signs that the shell has too

. "$(dirname "$0")/lint.sh"

page=docs/kvpipe-options.7.md

# macros TREE: NAME VALUE of the numbers that option tables may refer to
macros () {
  echo 'INT_MAX 2147483647'
  echo 'INT32_MAX 2147483647'
  echo 'UINT32_MAX 4294967295'
  find "$1/lib" "$1/include" -name '*.h' -exec sed -n 's/^#define *\(KVPI\{0,1\}_[A-Z_]*\) *\([0-9][0-9]*\)[uU]\{0,1\}\( .*\)\{0,1\}$/\1 \2/p' {} + |
    sort -u
}

# struct_rows TREE: "STRUCT|row of the table" for each row of each option table, in the order of the sources
struct_rows () {
  macros "$1" >"$tmp/macros"
  for file in $(cd "$1" && grep -l 'kvpi_option_table .*= *{' lib/*/*.c | sort); do
    without_comments "$1/$file" | awk -v macros="$tmp/macros" '
      BEGIN { while ((getline line < macros) > 0) { split(line, m, " "); value[m[1]] = m[2] } }
      { text = text " " $0 }
      # One number of the C source; sums and shifts of two are enough.
      function number(expr,    at, after) { # a call inside changes RSTART
        gsub(/[()]/, "", expr); gsub(/^ *| *$/, "", expr)
        if (expr == "") return ""
        at = match(expr, / *(<<|[*]| - ) */); after = at + RLENGTH
        if (at && expr ~ /<</) return number(substr(expr, 1, at - 1)) * 2 ^ number(substr(expr, after))
        if (at && expr ~ /[*]/) return number(substr(expr, 1, at - 1)) * number(substr(expr, after))
        if (at) return number(substr(expr, 1, at - 1)) - number(substr(expr, after))
        if (expr in value) return value[expr]
        if (expr ~ /^-?[0-9.]+(e[0-9]+)?$/) return expr + 0
        return "?" expr
      }
      function shown(n) { return n ~ /^\?/ || n == "" ? n : n >= 1e12 ? sprintf("%g", n) : sprintf("%.0f", n) }
      function field(row, name) {
        if (!match(row, "\\." name " = *(\"[^\"]*\"|[^,}]*)")) return ""
        row = substr(row, RSTART, RLENGTH); sub(/^[^=]*= */, "", row); gsub(/"/, "", row)
        return row
      }
      function make(row,    name, type, def, range) {
        name = row
        if (name ~ /FIELD\([a-z_]+\)/ && name !~ /^{"/) { sub(/^[^(]*\(/, "", name); sub(/\).*/, "", name) }
        else { sub(/^{"/, "", name); sub(/".*/, "", name) }
        match(row, /KVPI_OPT_(INT|BYTES|BOOL|STRING|OTHER)/); type = substr(row, RSTART + 9, RLENGTH - 9)
        def = shown(number(field(row, "def")))
        if (type == "BOOL") range = "0, 1"
        else if (type == "INT" || type == "BYTES") {
          range = shown(number(field(row, "min")));
          range = (range == "" ? "0" : range) " to " shown(number(field(row, "max")))
          if (def == "") def = "0"
        }
        else if (type == "STRING") { def = row ~ /\.def_text/ ? "\"" field(row, "def_text") "\"" : "NULL"; range = "" }
        else { def = ""; range = "" }
        if (type == "BYTES") range = range " bytes"
        return "| `" name "` | " def " | " range " | " field(row, "help") " |"
      }
      END {
        while (match(text, /{ *(\.?[A-Z_]*FIELD\(|"[a-z_]+", *KVPI_OPT_)[^}]*}|"kvp_[a-z_]+_options" *,/)) {
          found = substr(text, RSTART, RLENGTH); text = substr(text, RSTART + RLENGTH)
          if (found ~ /^{/) { rows[++n] = make(found); continue }
          gsub(/[", ]/, "", found)
          for (i = 1; i <= n; i++) print found "|" rows[i]
          n = 0
        }
      }'
  done
}

# fields TREE: "STRUCT FIELD" of each public option struct but its size
fields () {
  without_comments "$1"/include/kvpipe/*.h | awk '
    /^typedef struct kvp_[a-z_]*_options \{/ { inside = $3; next }
    /^\}/ { inside = "" }
    inside != "" && /;/ {
      if (match($0, /\(\*[a-z_]+\)/)) { print inside, substr($0, RSTART + 2, RLENGTH - 3); next }
      sub(/;.*/, ""); gsub(/\[[^]]*\]/, "")
      n = split($0, names, ",")
      for (i = 1; i <= n; i++) if (match(names[i], /[a-z_]+ *$/)) {
        sub(/ *$/, "", names[i]); if (substr(names[i], RSTART) != "size") print inside, substr(names[i], RSTART)
      }
    }'
}

# tool_rows TREE: "TOOL|row" of the options of the installed tools: of their help, which has a line for each
tool_rows () {
  (
    cd "$1" || exit
    for file in tools/*.c; do
      [ -e "$file" ] || continue
      # "  --name ARGUMENT   what it is\n": two blanks or more before what it is, which may go on in lines of blanks
      # and text. What is done instead of all else stands in the usage: "       TOOL --name ARGUMENT   what it does\n".
      sed -n 's/^ *"\(  .*\)\\n".*/\1/p' "$file" | awk -v tool="$(basename "$file" .c)" '
        function flush() { if (row != "") print row " |"; row = "" }
        { blanks = match($0, /[^ ]/) - 1; sub(/^ */, "") }
        blanks > 12 && row != "" { row = row " " $0; next }
        { flush() }
        $1 == tool && $2 ~ /^--/ { sub(/^[^ ]* /, "") }
        /^--help, --version/ { print tool "|| `--help`, `--version` | this text; the version |"; next }
        /^--/ && match($0, /   */) { row = tool "|| `" substr($0, 1, RSTART - 1) "` | " substr($0, RSTART + RLENGTH) }
        END { flush() }'
    done
    for file in bench/*.c; do
      [ -e "$file" ] || continue
      name=$(basename "$file" .c)
      [ "$name" = main ] && name=kvpipe-bench || name="kvpipe-bench $name"
      tr '\n' ' ' <"$file" | grep -o '{\.name = "[a-z-]*"[^}]*\.help = [^}]*}' | awk -v tool="$name" '
        function field(name) {
          if (!match($0, "\\." name " = \"[^\"]*\"")) return ""
          at = substr($0, RSTART, RLENGTH); sub(/^[^"]*"/, "", at); sub(/"$/, "", at)
          return at
        }
        {
          argument = field("argument"); value = field("value")
          print tool "|| `--" field("name") (argument == "" ? "" : " " argument) "` | " field("help") \
            (value == "" ? "" : " (" value ")") " |"
        }'
    done
  )
}

# The page as it should be: what lies between "<!-- options NAME -->" and "<!-- end -->" made anew.
expected () {
  { struct_rows "$1" | sed 's/^/S/'; tool_rows "$1" | sed 's/^/T/'; } >"$tmp/rows"
  awk -v page="$1/$page" '
    FILENAME != page {
      kind = substr($0, 1, 1); at = index($0, "|"); name = substr($0, 2, at - 2); row = substr($0, at + 1)
      if (kind == "T") sub(/^\|/, "|", row)
      if (!(name in rows)) names[++count] = name
      if (!(name in rows))
        rows[name] = kind == "S" ? "| option | default | range | |\n|-|-|-|-|\n" : "| option | |\n|-|-|\n"
      rows[name] = rows[name] row "\n"
      next
    }
    /^<!-- options .* -->$/ {
      print
      name = $0; sub(/^<!-- options /, "", name); sub(/ -->$/, "", name)
      if (!(name in rows)) print name " has no options"
      else printf "%s", rows[name]
      shown[name]++; skip = 1; next
    }
    /^<!-- end -->$/ { skip = 0 }
    !skip
    END {
      for (i = 1; i <= count; i++)
        if (shown[names[i]] != 1) print "the options of " names[i] " are on the page " shown[names[i]] + 0 " times"
    }' "$tmp/rows" "$1/$page"
}

lint () {
  expected "$1" >"$tmp/expected"
  diff "$1/$page" "$tmp/expected" | grep '^[<>]' | sed "s|^|$page: |"
  grep '?' "$tmp/rows" | grep '^S.*| *?' | sed 's/$/: a number that this lint cannot read/'

  struct_rows "$1" | sed 's/^\([^|]*\)|| `\([a-z_]*\)`.*/\1 \2/' | sort -u >"$tmp/have"
  fields "$1" | sort -u >"$tmp/want"
  [ -s "$tmp/want" ] || echo "include/kvpipe: no option was found"
  comm -13 "$tmp/have" "$tmp/want" | sed 's/$/: in the struct, but not in its option table/'
  comm -23 "$tmp/have" "$tmp/want" | sed 's/$/: in the option table, but not in the struct/'

  # What getopt_long of a tool knows, its help has: the rows come from there.
  for file in "$1"/tools/*.c; do
    sed -n 's/^ *{"\([a-z-]*\)", *\(no\|required\)_argument.*/\1/p' "$file" | while read -r option; do
      grep -q -- "--$option\([ ,\`]\|\$\)" "$1/$page" ||
        echo "$page: --$option of $(basename "$file" .c) is not there; its help has no line for it"
    done
  done

  (cd "$1" && grep -rho --include='*.c' 'getenv("[A-Z_0-9]*")' lib tools | sed 's/getenv("//; s/")//' | sort -u) >"$tmp/have"
  awk '/^## / { inside = $2 == "ENVIRONMENT" } inside' "$1/$page" | sed -n 's/^| `\([A-Z_0-9]*\)`.*/\1/p' | sort -u >"$tmp/want"
  comm -23 "$tmp/have" "$tmp/want" | sed "s|\$|: a variable that is read, but not in $page|"
  comm -13 "$tmp/have" "$tmp/want" | sed "s|\$|: a variable in $page that nobody reads|"
}

if [ "${1-}" = write ]; then
  expected "$src" >"$tmp/expected" && cp "$tmp/expected" "$src/$page"
  exit
fi

parts="include lib tools bench docs"
# shellcheck disable=SC2086
plant $parts
sed -i 's/\.def = 14579/.def = 14580/' "$tree/lib/pipe/options.c"
must_see '> | `kv_port` | 14580 |'
sed -i 's/^	int kv_rank;/	int kv_planted, kv_rank;/' "$tree/include/kvpipe/pipe.h"
must_see '^kvp_pipe_options kv_planted: in the struct, but not in its option table'
sed -i 's/{FIELD(kv_ip),/{FIELD(kv_other),/' "$tree/lib/pipe/options.c"
must_see '^kvp_pipe_options kv_other: in the option table, but not in the struct'
sed -i 's/^<!-- options kvp_send_options -->/<!-- options kvp_phantom -->/' "$tree/$page"
must_see 'kvp_phantom has no options'
must_see 'the options of kvp_send_options are on the page 0 times'
echo 'static const char *planted(void) { return getenv("KVP_PLANTED"); }' >>"$tree/lib/base/log.c"
must_see '^KVP_PLANTED: a variable that is read, but not'
sed -i 's/getenv("KVPIPE_HOSTID")/NULL/' "$tree/lib/base/hostid.c"
must_see '^KVPIPE_HOSTID: a variable in .* that nobody reads'
sed -i 's/{"url-file", required_argument/{"url-planted", required_argument/' "$tree/tools/kvpipe-store.c"
must_see 'url-planted of kvpipe-store is not there'
sed -i 's/\.name = "streams"/.name = "planted"/' "$tree/bench/pipe.c"
must_see '> | `--planted N`'

lint_sources
