#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
#   examples/run-main-job.sh [BUILDDIR [PROMPT]]
#
# What kvpipe is for, on one machine and without a GPU: a prefill process computes the KV-cache of a prompt, a decode
# process receives it through the library and finishes the text. Then one process does both, and the texts are
# compared. The last line says whether they are the same.
set -u

src=$(cd "$(dirname "$0")/.." && pwd) || exit 1
build=${1:-${KVP_BUILDDIR:-$src/build}}
prompt=${2:-'In the beginning God created the heaven and the earth.
And the earth was'}
KVP_MODEL_DIR=${KVP_MODEL_DIR:-$src/examples/model}
export KVP_MODEL_DIR
store=
decode=

say () { printf '%s\n' "$*"; }
show () { sed 's/^/    | /'; }

tmp=$(mktemp -d) || exit 1
tidy () {
  [ -z "$decode" ] || kill "$decode" 2>/dev/null
  [ -z "$store" ] || kill "$store" 2>/dev/null
  rm -rf "$tmp"
}
trap tidy EXIT
trap 'exit 1' HUP INT TERM

die () { # die SENTENCE [LOG...]
  say "run-main-job.sh: $1" >&2
  shift
  [ $# = 0 ] || cat "$@" >&2
  say "text identical to one process: no"
  exit 1
}

for program in tools/kvpipe-store examples/prefill examples/decode examples/one_process; do
  [ -x "$build/$program" ] || die "$build/$program is not there; it is built by make, and the examples need jansson"
done

# The store is where the two find each other. It takes a free port and writes its address into a file.
"$build/tools/kvpipe-store" --url-file "$tmp/url" >"$tmp/store.log" 2>&1 &
store=$!
tries=0
until [ -s "$tmp/url" ]; do
  tries=$((tries + 1))
  { kill -0 "$store" 2>/dev/null && [ "$tries" -le 200 ]; } || die "the store did not start" "$tmp/store.log"
  sleep 0.05
done
url=$(cat "$tmp/url")

say "The prompt:"
say "$prompt" | show
say
say "Two processes, each with a small Llama of its own, meet at $url."
"$build/examples/decode" --url "$url" >"$tmp/text" 2>"$tmp/decode.log" &
decode=$!
say "  decode   process $decode waits for the KV-cache; it never sees the prompt"
"$build/examples/prefill" --url "$url" --prompt "$prompt" >"$tmp/prefill.log" 2>"$tmp/prefill.err" ||
  die "prefill failed" "$tmp/prefill.err" "$tmp/decode.log"
say "  prefill  has computed it and shipped it layer by layer:"
show <"$tmp/prefill.log"
wait "$decode" || { decode=; die "decode failed" "$tmp/decode.log"; }
decode=
say "  decode   has received it into its own blocks:"
sed -n '/ tensors, /p; /on average/p' "$tmp/decode.log" | show
say
say "The continuation, by decode:"
{ cat "$tmp/text"; echo; } | show
say

"$build/examples/one_process" --prompt "$prompt" >"$tmp/alone" 2>"$tmp/alone.log" ||
  die "one_process failed" "$tmp/alone.log"
say "The continuation, by one process without a transfer:"
{ cat "$tmp/alone"; echo; } | show
say
cmp -s "$tmp/text" "$tmp/alone" || die "the texts differ"
say "text identical to one process: yes"
