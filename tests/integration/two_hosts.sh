#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Two hosts: network namespaces joined by a virtual cable, with a cluster key.  Tensors cross it; a cable that is pulled
# for a moment costs time only; one that stays away ends both ends, which name the other; delay and loss (where the kernel
# has netem) lose nothing.  Needs root, for the namespaces.

. "$(dirname "$0")/examples_common.sh"

left=kvp-left-$$ right=kvp-right-$$

remove () {
  ip netns del "$left" 2>/dev/null
  ip netns del "$right" 2>/dev/null
  leave
}

command -v ip >/dev/null 2>&1 || skip "no ip command, so no network namespaces"
ip netns add "$left" 2>/dev/null || skip "network namespaces cannot be made here (root is needed)"
trap remove EXIT
ip netns add "$right" || fail "the second network namespace cannot be made"
ip link add kvpl$$ netns "$left" type veth peer name kvpr$$ netns "$right" 2>/dev/null ||
  skip "no virtual cable (veth) on this kernel"
ip -n "$left" addr add 10.211.0.1/24 dev kvpl$$
ip -n "$right" addr add 10.211.0.2/24 dev kvpr$$
ip -n "$left" link set lo up
ip -n "$right" link set lo up
ip -n "$left" link set kvpl$$ up
ip -n "$right" link set kvpr$$ up

"$tools/kvpipe-store" --make-key "$tmp/key" || fail "no key was made"
KVPIPE_KEY_FILE=$tmp/key
export KVPIPE_KEY_FILE

start store ip netns exec "$left" "$tools/kvpipe-store" --bind 10.211.0.1:0 --url-file "$tmp/url"
until_true "$patience_s" test -s "$tmp/url" || fail "kvpipe-store did not start"
url=$(cat "$tmp/url")

# pair PRODUCER_ARGUMENTS [BOTH]: starts both ends
pair () {
  # shellcheck disable=SC2086 # arguments are words
  start producer ip netns exec "$left" "$examples/producer" --url "$url" --plane tcp --set bind_host=10.211.0.1 \
    --set heartbeat_ms=300 --timeout-ms 20000 $1
  # shellcheck disable=SC2086
  start consumer ip netns exec "$right" "$examples/consumer" --url "$url" --plane tcp --set bind_host=10.211.0.2 \
    --set heartbeat_ms=300 --timeout-ms 20000
}

all_is_right () {
  ends_well producer
  ends_well consumer
  grep -q '^checksums: equal$' "$tmp/consumer.out" || fail "$1: the consumer compared no checksums"
}

echo "tensors cross the cable"
pair "--rounds 1 --dtype bf16,int8,fp64 --count 12 --bytes 300KiB"
all_is_right "the cable"

echo "the cable is pulled for a moment"
pair "--rounds 400 --count 8 --bytes 256KiB"
wait_line consumer ': connected; '
ip -n "$left" link set kvpl$$ down
sleep 0.3 # the length of the interruption, below three heartbeats: nothing is waited for
ip -n "$left" link set kvpl$$ up
all_is_right "an interruption"

echo "the cable stays away"
pair "--rounds 1000000 --count 8 --bytes 256KiB"
wait_line producer ': connected; '
wait_line consumer ': connected; '
ip -n "$left" link set kvpl$$ down
ends_badly producer 'rank 1'
ends_badly consumer 'rank 0'
ip -n "$left" link set kvpl$$ up

if ip netns exec "$left" tc qdisc add dev kvpl$$ root netem delay 5ms 3ms loss 1% 2>/dev/null; then
  echo "delay and loss"
  pair "--rounds 1 --dtype bf16,int8 --count 40 --bytes 64KiB"
  all_is_right "delay and loss"
else
  echo "delay and loss are not tried: this kernel has no netem"
fi
