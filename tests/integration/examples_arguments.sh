#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Bad arguments: each gets a clear sentence, at once.

. "$(dirname "$0")/examples_common.sh"

# refused PATTERN PROGRAM ARGUMENT...
refused () {
  pattern=$1
  program=$2
  shift 2
  start "$program" "$examples/$program" "$@"
  wait_exit "$program"
  [ "$status" = 1 ] || fail "$program $*: status $status"
  [ ! -s "$tmp/$program.out" ] || fail "$program $*: wrote to standard output"
  grep -q "^$program: " "$tmp/$program.err" || fail "$program $*: no sentence"
  grep -Eq -e "$pattern" "$tmp/$program.err" || fail "$program $*: the sentence does not have: $pattern"
}

for program in producer consumer prefill decode; do
  [ -x "$examples/$program" ] || continue
  refused "unrecognized option '--nonsense'" "$program" --nonsense
  refused "'--url' requires an argument" "$program" --url
  refused '"again" is not understood' "$program" again
  refused '"kv_rank" is not NAME=VALUE' "$program" --set kv_rank
  refused 'nonsense' "$program" --set nonsense=1
  refused 'kv_port' "$program" --port 0
  refused 'kv_port' "$program" --port 70000
  refused 'kv_port' "$program" --port http
  refused 'kv_buffer_size' "$program" --buffer 1XB
  refused 'store_timeout_ms' "$program" --timeout-ms -5
  refused 'nonsense' "$program" --plane nonsense --port 1025 --timeout-ms 3000
  refused 'nonsense' "$program" --url nonsense --timeout-ms 3000
  refused '192\.0\.2\.1|loopback' "$program" --set kv_ip=192.0.2.1 --timeout-ms 500
  refused 'kv_rank' "$program" --set kv_rank=2
done

refused '"many" is not a number from 1 to' producer --count many
refused '"0" is not a number from 1 to' producer --count 0
refused '"-1" is not a number' producer --count -1
refused '"1e3" is not a number' producer --rounds 1e3
refused '"1MB" is not a number of bytes' producer --bytes 1MB
refused '"99999999999GiB" is not a number of bytes' producer --bytes 99999999999GiB
refused 'there is no dtype "fp33"' producer --dtype bf16,fp33
refused 'dtype 255' producer --dtype any
refused 'the list is empty' producer --dtype ,
refused '"x" is not a number' producer --shape 4,x
refused 'more than 14 dimensions' producer --shape 1,1,1,1,1,1,1,1,1,1,1,1,1,1,1
refused '2\^64' producer --shape 4294967296,4294967296,4
refused 'too large' producer --shape 4294967296,65536

[ -x "$examples/prefill" ] || exit 0
refused '/nowhere: cannot open: No such file' producer --file /nowhere
refused 'config.json: not a safetensors file' producer --file "$src/examples/model/config.json"
# What a file claims is held against what is there: a tensor that ends behind the file's end.
printf '\102\0\0\0\0\0\0\0{"a":{"dtype":"F32","shape":[4,4],"data_offsets":[0,64]}}         ' >"$tmp/short.safetensors"
refused 'tensor a does not lie within the file' producer --file "$tmp/short.safetensors"

for program in prefill decode one_process; do
  refused '/nowhere/config.json: cannot open' "$program" --model /nowhere
done
for program in prefill one_process; do
  refused 'a prompt of 0 bytes' "$program" --prompt ''
  refused '/nowhere: cannot open' "$program" --prompt-file /nowhere
  refused '/dev/null: a prompt has 1 to 2048 bytes' "$program" --prompt-file /dev/null
  refused '/dev/zero: a prompt has 1 to 2048 bytes' "$program" --prompt-file /dev/zero
done
for program in decode one_process; do
  refused '"2049" is not a number from 1 to 2048' "$program" --steps 2049
done
refused 'exceed the model' one_process --steps 2000
