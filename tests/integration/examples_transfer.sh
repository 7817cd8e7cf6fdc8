#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Producer and consumer over each plane there is: every dtype, dense and strided, none, empty, small and large.

. "$(dirname "$0")/examples_common.sh"

start_store

# transfer PRODUCER_ARGUMENTS [CONSUMER_ARGUMENTS]: both end well and the checksums are equal
transfer () {
  # shellcheck disable=SC2086 # arguments are words
  start producer "$examples/producer" --url "$url" --plane "$plane" --rounds 1 $1
  # shellcheck disable=SC2086
  start consumer "$examples/consumer" --url "$url" --plane "$plane" ${2:-}
  ends_well producer
  ends_well consumer
  grep -q '^checksums: equal$' "$tmp/consumer.out" || fail "$plane, $1: the consumer compared no checksums"
  grep -q "^from \"kv rank 0\" by $plane" "$tmp/consumer.out" || fail "$plane, $1: went another way"
  echo "$plane: producer $1${2:+, consumer $2}: $(sed -n 's/ tensors,.*: / tensors, /p' "$tmp/consumer.out")"
}

# The planes, as the library itself lists them.
plane=
start producer "$examples/producer" --url "$url" --count 1 --rounds 1
start consumer "$examples/consumer" --url "$url"
ends_well producer
ends_well consumer
planes=$(sed -En 's/^  ([a-z0-9]+): (yes|no|not needed), .*/\1/p' "$tmp/consumer.out" | sort -u)
case $planes in *tcp*) ;; *) fail "the plane tcp is not there" ;; esac

for plane in $planes; do
  if [ "$plane" = self ]; then # only inside one process, and the sentence says so
    start producer "$examples/producer" --url "$url" --plane self --timeout-ms 3000
    start consumer "$examples/consumer" --url "$url" --plane self --timeout-ms 3000
    ends_badly producer 'kvp_pipe_open: '
    ends_badly consumer 'kvp_pipe_open: '
    grep -q 'self: no, ' "$tmp/producer.err" "$tmp/consumer.err" || fail "neither says why self cannot be used"
    continue
  fi
  all=bf16,fp16,fp32,fp64,fp8-e4m3,fp8-e5m2,int8,int16,int32,int64,uint8,bool
  transfer "--dtype $all --count 36 --bytes 100KiB --seed 7"
  transfer "--dtype $all,none --count 26 --shape 4,16,128 --strided"
  transfer "--dtype $all --count 12 --shape 3,5,7" --strided
  transfer "--dtype fp32,int8 --count 8 --bytes 1MiB --strided" --strided
  transfer "--dtype none --count 70"
  transfer "--dtype int16 --count 3 --shape 5,0,2"
  transfer "--dtype fp64 --count 1 --shape 2,1,1,2,1,1,1,2,1,1,1,1,1,3 --strided" --strided
  transfer "--dtype uint8 --count 150 --bytes 1"
  transfer "--count 200 --bytes 4KiB --buffer 16KiB"
  transfer "--count 3 --bytes 5MiB --buffer 64KiB" # larger than the budget: alone
  transfer "--count 2 --bytes 33MiB"
  if [ -x "$examples/prefill" ]; then
    transfer "--file $src/examples/model/model.safetensors"
    transfer "--file $src/examples/model/model.safetensors" --strided
  fi
done

