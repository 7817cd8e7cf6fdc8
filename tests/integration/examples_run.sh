#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Every example runs, with as few arguments as can be.

. "$(dirname "$0")/examples_common.sh"

start_store
start hello "$examples/hello" "$url"
ends_well hello
grep -q 'fp32\[2,3\] arrived' "$tmp/hello.out" || fail "hello did not say that the tensor arrived"

for program in producer consumer prefill decode one_process; do
  [ -x "$examples/$program" ] || continue
  start "$program" "$examples/$program" --help
  ends_well "$program"
  grep -q "^usage: $program " "$tmp/$program.out" || fail "$program --help does not show the usage"
done

# Rank 0 hosts the store by itself.
free_port
start consumer "$examples/consumer" --port "$port"
start producer "$examples/producer" --port "$port"
ends_well producer
ends_well consumer
grep -q '^checksums: equal$' "$tmp/consumer.out" || fail "the consumer compared no checksums"
grep -q 'GB/s$' "$tmp/producer.out" || fail "the producer told no rate"
grep -q '^to "kv rank 1" by ' "$tmp/producer.out" || fail "the producer does not say which way it went"

need_demo
free_port
start decode "$examples/decode" --port "$port"
start prefill "$examples/prefill" --port "$port"
ends_well prefill
ends_well decode
start alone "$examples/one_process"
ends_well alone
cmp -s "$tmp/decode.out" "$tmp/alone.out" || fail "decode and one process wrote different texts"

# The main job, as quickstart calls it and with a build folder.
start job sh "$src/examples/run-main-job.sh"
ends_well job
[ "$(tail -n 1 "$tmp/job.out")" = "text identical to one process: yes" ] || fail "the main job's last line"
start job sh "$src/examples/run-main-job.sh" "$KVP_BUILDDIR" "And it came to pass"
ends_well job
[ "$(tail -n 1 "$tmp/job.out")" = "text identical to one process: yes" ] || fail "the main job's last line"
# It says no when something is missing.
start job sh "$src/examples/run-main-job.sh" "$tmp"
wait_exit job
[ "$status" = 1 ] || fail "the main job without programs ended with status $status"
[ "$(tail -n 1 "$tmp/job.out")" = "text identical to one process: no" ] || fail "the main job's last line"
