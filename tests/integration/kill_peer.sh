#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# One end is killed, stopped or leaves in mid-transfer: the other ends soon, and names who is lost.

. "$(dirname "$0")/examples_common.sh"

endless="--rounds 1000000 --count 16 --bytes 256KiB"
alive="--set heartbeat_ms=200"

# Both have connected, and only the first of a million rounds can have passed.
in_mid_transfer () {
  # shellcheck disable=SC2086 # arguments are words
  start producer "$examples/producer" --url "$url" $alive $endless
  # shellcheck disable=SC2086
  start consumer "$examples/consumer" --url "$url" $alive
  wait_line producer ': connected; '
  wait_line consumer ': connected; '
}

start_store

echo "the consumer is killed"
in_mid_transfer
kill -9 "$(pid_of consumer)"
ends_badly producer 'rank 1'

echo "the producer is killed"
in_mid_transfer
kill -9 "$(pid_of producer)"
ends_badly consumer 'rank 0'

echo "the consumer is killed, and known to be gone long before three heartbeats have passed"
alive="--set heartbeat_ms=60000"
in_mid_transfer
kill -9 "$(pid_of consumer)"
ends_badly producer 'rank 1'
alive="--set heartbeat_ms=200"

echo "the consumer is stopped, not dead: it does not answer"
in_mid_transfer
kill -STOP "$(pid_of consumer)"
ends_badly producer 'rank 1'
kill -9 "$(pid_of consumer)"

echo "the consumer leaves by itself in the middle of it"
in_mid_transfer
kill -TERM "$(pid_of consumer)"
ends_badly producer 'rank 1'

need_demo

echo "decode is killed"
awk 'BEGIN { while (i++ < 100) printf "And it came to pass " }' | head -c 1900 >"$tmp/long"
start decode "$examples/decode" --url "$url" --set heartbeat_ms=200
start prefill "$examples/prefill" --url "$url" --set heartbeat_ms=200 --prompt-file "$tmp/long"
wait_line decode ': connected; '
kill -9 "$(pid_of decode)"
ends_badly prefill 'rank 1'
