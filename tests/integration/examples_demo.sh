#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Prompts of all lengths through prefill and decode: the text is the one that one process writes, byte for byte.

. "$(dirname "$0")/examples_common.sh"

need_demo
start_store

# same LENGTH STEPS [OPTION...]: of a prompt of LENGTH bytes
same () {
  length=$1
  steps=$2
  shift 2
  awk 'BEGIN { while (i++ < 300) printf "%d And it came to pass in those days, ", i }' | head -c "$length" >"$tmp/prompt"
  start decode "$examples/decode" --url "$url" --steps "$steps"
  start prefill "$examples/prefill" --url "$url" --prompt-file "$tmp/prompt" "$@"
  start alone "$examples/one_process" --prompt-file "$tmp/prompt" --steps "$steps"
  ends_well prefill
  ends_well decode
  ends_well alone
  [ "$(wc -c <"$tmp/decode.out")" = "$steps" ] || fail "$length tokens: decode did not write $steps bytes"
  cmp "$tmp/decode.out" "$tmp/alone.out" || fail "$length tokens: decode and one process wrote different texts"
  echo "$length tokens: $(grep -h tensors "$tmp/prefill.out" | tr '\n' ' ')"
}

same 1 5
same 15 1
same 16 20
same 17 20
same 255 20
same 1900 148 # together the longest sequence
same 500 10 --buffer 4KiB # room for one block: the callback is told to come again
