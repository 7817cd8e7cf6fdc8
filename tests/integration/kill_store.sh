#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The store is killed: while tensors travel, before, and while somebody waits for the other end.

. "$(dirname "$0")/examples_common.sh"

# Somebody has connected to the store. Addresses in /proc are hexadecimal, and 01 is ESTABLISHED.
has_client () { grep -qi " 0100007F:$(printf %04X "${url##*:}") 01 " /proc/net/tcp; }

start_store

echo "the store is killed in mid-transfer: it is for meeting only, the transfer goes on"
start producer "$examples/producer" --url "$url" --rounds 300 --count 16 --bytes 64KiB
start consumer "$examples/consumer" --url "$url"
wait_line producer ': connected; '
wait_line consumer ': connected; '
kill -9 "$(pid_of store)"
ends_well producer
ends_well consumer
grep -q '^checksums: equal$' "$tmp/consumer.out" || fail "the consumer compared no checksums"

echo "the store is gone"
start producer "$examples/producer" --url "$url" --timeout-ms 500
ends_badly producer 'no store answered at tcp://127.0.0.1:[0-9]* .*kvpipe-store'

echo "the store is killed while somebody waits for the other"
start_store
start producer "$examples/producer" --url "$url" --timeout-ms 3000 --json
until_true "$patience_s" has_client || fail "the producer does not reach the store"
kill -9 "$(pid_of store)"
ends_badly producer 'kvp_pipe_open: .*(store|rank 1)'
