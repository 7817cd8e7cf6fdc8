# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh
#
# Sourced by the scripts that run the examples. Programs run in the background under a short name; what NAME writes is
# in $tmp/NAME.out and $tmp/NAME.err. Whatever a script waits for has a deadline, and what still runs at its end is
# killed.
set -u
LC_ALL=C
export LC_ALL

# shellcheck disable=SC2034 # for the scripts
src=${KVP_SRCDIR:?is set by make check}
examples=${KVP_BUILDDIR:?is set by make check}/examples
tools=$KVP_BUILDDIR/tools
# Well below the deadline that make check knows, so that a script can tell what it waited for.
patience_s=$((${KVP_TEST_TIMEOUT:-60} / 2))
pids=

tmp=$(mktemp -d) || exit 99
leave () {
  for pid in $pids; do kill -9 "$pid" 2>/dev/null; done
  rm -rf "$tmp"
}
trap leave EXIT
trap 'exit 99' HUP INT TERM

skip () {
  echo "SKIP: $*"
  exit 77
}

fail () { # fail SENTENCE: with what the programs have said
  echo "FAIL: $*"
  for log in "$tmp"/*.err "$tmp"/*.out; do
    [ ! -s "$log" ] || { echo "--- ${log##*/}"; head -c 3000 "$log"; echo; }
  done
  exit 1
}

need_demo () { [ -x "$examples/prefill" ] || skip "built without jansson, so without the Llama examples"; }

# start NAME PROGRAM ARGUMENT...
start () {
  start_name=$1
  shift
  "$@" >"$tmp/$start_name.out" 2>"$tmp/$start_name.err" </dev/null &
  eval "pid_$start_name=$!"
  pids="$pids $!"
}

pid_of () { eval "echo \$pid_$1"; }

# until_true SECONDS COMMAND...: asks again and again; false when the time is over
until_true () {
  end=$(($(date +%s) + $1))
  shift
  until "$@" 2>/dev/null; do
    [ "$(date +%s)" -le "$end" ] || return 1
    sleep 0.02
  done
}

has_ended () {
  # One that has ended is a zombie until this shell collects it, which it may do at any time; from then on the number
  # may belong to somebody else's process.
  read -r has_ended_state has_ended_parent has_ended_rest <<EOF
$(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null)
EOF
  : "$has_ended_rest"
  [ "${has_ended_state:-Z}" = Z ] || [ "$has_ended_parent" != $$ ]
}

# wait_exit NAME: its exit status in $status
wait_exit () {
  until_true "$patience_s" has_ended "$(pid_of "$1")" || fail "$1 did not end within $patience_s s"
  wait "$(pid_of "$1")"
  status=$?
}

ends_well () {
  wait_exit "$1"
  [ "$status" = 0 ] || fail "$1 ended with status $status"
}

# ends_badly NAME PATTERN: with status 1 and one sentence of its own that has PATTERN
ends_badly () {
  wait_exit "$1"
  [ "$status" = 1 ] || fail "$1 ended with status $status where 1 was expected"
  grep -E '^[a-z_]+: ' "$tmp/$1.err" | grep -v ': connected; ' >"$tmp/sentences"
  [ "$(wc -l <"$tmp/sentences")" = 1 ] || fail "$1 did not say why in one sentence"
  grep -Eq "$2" "$tmp/sentences" || fail "$1's sentence does not have: $2"
}

# wait_line NAME PATTERN: on its standard error
wait_line () {
  until_true "$patience_s" grep -q "$2" "$tmp/$1.err" || fail "$1 did not say: $2"
}

# A store on a free port; its address in $url. start_store [NAME]
start_store () {
  rm -f "$tmp/url"
  start "${1:-store}" "$tools/kvpipe-store" --url-file "$tmp/url"
  until_true "$patience_s" test -s "$tmp/url" || fail "kvpipe-store did not start"
  url=$(cat "$tmp/url")
}

# A port that was free a moment ago, in $port
free_port () {
  start_store port
  kill "$(pid_of port)"
  wait_exit port
  # shellcheck disable=SC2034 # for the scripts
  port=${url##*:}
}
