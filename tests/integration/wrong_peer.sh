#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The other end is absent, or another than expected: a clear sentence within the deadline.

. "$(dirname "$0")/examples_common.sh"

start_store

echo "nobody comes"
start producer "$examples/producer" --url "$url" --name lonely --timeout-ms 500
ends_badly producer 'rank 1 .*did not come'
start consumer "$examples/consumer" --url "$url" --name alone --timeout-ms 500
ends_badly consumer 'rank 0 .*did not come'

echo "the other has another name"
start producer "$examples/producer" --url "$url" --timeout-ms 1000 --name a
start consumer "$examples/consumer" --url "$url" --timeout-ms 1000 --name b
ends_badly producer 'pipe.a.* did not come|rank 1 .*pipe.a'
ends_badly consumer 'pipe.b.* did not come|rank 0 .*pipe.b'

echo "the other thinks of another number of ranks"
start producer "$examples/producer" --url "$url" --name ranks --timeout-ms 3000
start consumer "$examples/consumer" --url "$url" --name ranks --timeout-ms 3000 --set kv_parallel_size=3
ends_badly producer 'world size is 3, rank 0 says 2'
ends_badly consumer 'world size is 3, rank 0 says 2'
start producer "$examples/producer" --url "$url" --name fewer --timeout-ms 1000 --set kv_parallel_size=3
start consumer "$examples/consumer" --url "$url" --name fewer --timeout-ms 1000
ends_badly producer 'rank 2 .*did not come|world size'
ends_badly consumer 'rank 0|world size'

echo "a rank is taken twice"
start producer "$examples/producer" --url "$url" --name twice --timeout-ms 2000
start again "$examples/producer" --url "$url" --name twice --timeout-ms 2000
ends_badly producer 'rank'
ends_badly again 'rank'

need_demo

echo "the other is another program"
start prefill "$examples/prefill" --url "$url" --name program --timeout-ms 5000 --set heartbeat_ms=200
start consumer "$examples/consumer" --url "$url" --name program --timeout-ms 5000 --set heartbeat_ms=200
ends_badly consumer 'int64\[4\] arrives where int64\[2\] is expected'
ends_badly prefill 'rank 1'
start producer "$examples/producer" --url "$url" --name another --timeout-ms 5000 --set heartbeat_ms=200
start decode "$examples/decode" --url "$url" --name another --timeout-ms 5000 --set heartbeat_ms=200
ends_badly decode 'int64\[2\] arrives where int64\[4\] is expected'
ends_badly producer 'rank 1'

echo "the models differ"
mkdir "$tmp/model"
sed 's/"max_position_embeddings": 2048/"max_position_embeddings": 100/' "$src/examples/model/config.json" \
  >"$tmp/model/config.json"
cp "$src/examples/model/model.safetensors" "$tmp/model/"
start prefill "$examples/prefill" --url "$url" --name model --timeout-ms 5000 --set heartbeat_ms=200
start decode "$examples/decode" --url "$url" --name model --timeout-ms 5000 --set heartbeat_ms=200 --model "$tmp/model"
ends_badly decode 'a prompt of 72 tokens and 96 steps exceed the model.s 100 tokens'
ends_badly prefill 'rank 1'
