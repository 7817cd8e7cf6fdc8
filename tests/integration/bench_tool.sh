#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The program kvpipe-bench: each subcommand measures something and says so in JSON, mistakes are told, nothing is left
# behind. How fast anything is, is not looked at.

. "$(dirname "$0")/examples_common.sh"

bench=$KVP_BUILDDIR/bench/kvpipe-bench
[ -x "$bench" ] || skip "built without jansson, so without kvpipe-bench"

# refuses CODE REGEX ARGUMENT...: it ends with that code and one sentence like that, or more lines behind it
refuses () {
  refuses_code=$1
  refuses_pattern=$2
  shift 2
  "$bench" "$@" >"$tmp/refuses.out" 2>"$tmp/refuses.err" </dev/null
  code=$?
  [ "$code" -eq "$refuses_code" ] || fail "kvpipe-bench $* ended with $code instead of $refuses_code"
  head -n 1 "$tmp/refuses.err" | grep -Eq "^kvpipe-bench[a-z ]*: .*$refuses_pattern" ||
    grep -Eq "^kvpipe-bench[a-z ]*: .*$refuses_pattern" "$tmp/refuses.err" ||
    fail "kvpipe-bench $* did not complain like $refuses_pattern"
}

# Of the program `long`; the kernel may not tell.
children_of_long () { cat "/proc/$(pid_of long)/task/$(pid_of long)/children"; }
# shellcheck disable=SC2317 # until_true calls it
has_children () { children_of_long | grep -q ' '; }

# is_document FILE: a whole one, with results whose figures are numbers
is_document () {
  awk '
    { depth += gsub(/[{\[]/, "&") - gsub(/[}\]]/, "&") }
    /^ "(tool|subcommand|version|date)": "[^"]+",$/ { heads++ }
    /^ *"(processor|kernel|libc|libzmq)": "[^"]+"/ { machine++ }
    /"ours": \{/ { ours++ }
    /"(median|min|max)": / {
      if ($0 !~ /: -?[0-9][0-9.e+-]*,?$/) { print "no number: " $0; exit 1 }
      figures++
      # What is counted may be 0; a time or a rate may not.
      if (timed && $0 ~ /: 0(\.0)?,$/) { print "nothing took no time: " $0; exit 1 }
    }
    /"unit": / { timed = $0 !~ /"calls"/ }
    END {
      if (depth != 0 || heads != 4 || machine != 4 || ours == 0 || figures < 3 * ours) {
        print "depth " depth ", heads " heads + 0 ", machine " machine + 0 ", ours " ours + 0 ", figures " figures + 0
        exit 1
      }
    }' "$1" || fail "$1 is not what it should be"
  ! command -v python3 >/dev/null || python3 -c 'import json, sys; json.load(open(sys.argv[1]))' "$1" ||
    fail "$1 is no JSON"
}

echo "each subcommand works"
"$bench" --help >"$tmp/help.out" || fail "--help failed"
subcommands=$(sed -n 's/^  \([a-z]*\) .*/\1/p' "$tmp/help.out")
[ "$(echo "$subcommands" | wc -w)" -ge 2 ] || fail "--help names no subcommands"
for subcommand in $subcommands; do
  "$bench" "$subcommand" --help >"$tmp/help.out" || fail "$subcommand --help failed"
  grep -q -- '--json FILE' "$tmp/help.out" || fail "$subcommand --help does not tell the options"
  start run "$bench" "$subcommand" --quick --json "$tmp/$subcommand.json"
  until_true $((patience_s * 2 - 5)) has_ended "$(pid_of run)" || fail "$subcommand --quick does not end"
  ends_well run
  is_document "$tmp/$subcommand.json"
  [ -s "$tmp/run.out" ] || fail "$subcommand wrote no table"
done

echo "the document goes to standard output, too"
"$bench" pipe --quick --repeat 1 --what posting --json - >"$tmp/stdout.json" || fail "--json - failed"
is_document "$tmp/stdout.json"

echo "mistakes are told"
refuses 2 'no subcommand nonsense' nonsense
"$bench" 2>"$tmp/usage.err" && fail "it wants no subcommand"
grep -q '^usage:' "$tmp/usage.err" || fail "no usage without a subcommand"
for subcommand in $subcommands; do
  "$bench" "$subcommand" --nonsense >/dev/null 2>"$tmp/option.err"
  [ $? -eq 2 ] || fail "$subcommand takes --nonsense"
  grep -q -- '--nonsense' "$tmp/option.err" || fail "$subcommand does not say that --nonsense is none"
  refuses 2 'repeat 0' "$subcommand" --repeat 0
  refuses 2 'repeat many' "$subcommand" --repeat many
  refuses 2 'one word too many' "$subcommand" word
done
refuses 2 'sizes' pipe --sizes 4KiB,,1MiB
refuses 2 'sizes' pipe --sizes 4kb
refuses 2 'sizes' pipe --sizes 99999999999999999999
refuses 2 'at least 8 bytes' pipe --sizes 4
refuses 2 'multiple' planes --sizes 5000
refuses 1 'no data plane "nonsense"' pipe --quick --plane nonsense --json "$tmp/none.json"
[ ! -e "$tmp/none.json" ] || fail "a run that failed has left a document"
refuses 1 'cannot write' pipe --quick --repeat 1 --what posting --json "$tmp/no/such/folder"

echo "children go with their parent"
start long "$bench" pipe --what throughput --sizes 64MiB --repeat 100
if [ -e "/proc/$$/task/$$/children" ]; then
  until_true "$patience_s" has_children || fail "there are no child processes"
  children=$(children_of_long)
  kill -9 "$(pid_of long)"
  for child in $children; do
    until_true "$patience_s" has_ended "$child" || fail "a child outlives its parent"
  done
fi
kill -9 "$(pid_of long)" 2>/dev/null

exit 0
