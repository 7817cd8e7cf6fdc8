#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The program kvpipe-store as a user meets it: start, url, verbs, signals, restart, mistakes.

. "$(dirname "$0")/examples_common.sh"

store_tool=$tools/kvpipe-store

# says REGEX COMMAND...: it ends well and writes that
says () {
  says_pattern=$1
  shift
  "$@" >"$tmp/says.out" 2>"$tmp/says.err" </dev/null || fail "$* ended badly"
  grep -Eq "$says_pattern" "$tmp/says.out" || fail "$* did not say $says_pattern"
}

# does COMMAND...: it ends well
does () { "$@" </dev/null || fail "$* ended badly"; }

# refuses CODE REGEX COMMAND...: it ends with that code and complains like that
refuses () {
  refuses_code=$1
  refuses_pattern=$2
  shift 2
  "$@" >"$tmp/refuses.out" 2>"$tmp/refuses.err" </dev/null
  code=$?
  [ "$code" -eq "$refuses_code" ] || fail "$* ended with $code instead of $refuses_code"
  grep -Eq "$refuses_pattern" "$tmp/refuses.err" || fail "$* did not complain like $refuses_pattern"
}

# Somebody has connected to the store. Addresses in /proc are hexadecimal, and 01 is ESTABLISHED.
has_client () { grep -qi " 0100007F:$(printf %04X "${url##*:}") 01 " /proc/net/tcp; }

# start_at OPTION...: a store whose output is new
start_at () {
  rm -f "$tmp/store.out" "$tmp/url"
  start store "$store_tool" "$@"
  until_true "$patience_s" test -s "$tmp/store.out" || fail "kvpipe-store did not start"
}

# stops SIGNAL: the store ends in order
stops () {
  kill -"$1" "$(pid_of store)"
  ends_well store
}

echo "it tells its url on standard output and in a file"
start_at --url-file "$tmp/url" --max-bytes 1MiB --max-keys 4
until_true "$patience_s" test -s "$tmp/url" || fail "there is no url file"
url=$(cat "$tmp/url")
[ "$(cat "$tmp/store.out")" = "$url" ] || fail "standard output and the url file differ"
[ "$(echo "$tmp"/url*)" = "$tmp/url" ] || fail "something is left beside the url file"

echo "verbs"
does "$store_tool" set "$url" hosts/b 'two words'
does "$store_tool" set "$url" hosts/a ''
does "$store_tool" set --uses 1 --ttl-ms 3600000 "$url" other 1
says '^two words$' "$store_tool" get "$url" hosts/b
says '^$' "$store_tool" get "$url" hosts/a
[ "$("$store_tool" list "$url" hosts/ | tr '\n' ' ')" = 'hosts/a hosts/b ' ] || fail "list with a prefix"
[ "$("$store_tool" list "$url" | wc -l)" -eq 3 ] || fail "list of all keys"
does "$store_tool" delete "$url" hosts/a
refuses 1 'the key does not exist' "$store_tool" delete "$url" hosts/a
refuses 1 'no such key' "$store_tool" get "$url" hosts/a
refuses 1 'keys are missing.*hosts/a' "$store_tool" get --wait --timeout-ms 200 "$url" hosts/a
does "$store_tool" set "$url" third 3
does "$store_tool" set "$url" fourth 4
refuses 1 'the store is full: it holds 4 keys' "$store_tool" set "$url" fifth 5
does "$store_tool" delete "$url" third
does "$store_tool" set "$url" -- -dash -5
says '^-5$' "$store_tool" get "$url" -- -dash
does "$store_tool" delete "$url" fourth

echo "a get waits for a set"
start waiter "$store_tool" get --wait --timeout-ms $((patience_s * 1000)) "$url" later
until_true "$patience_s" has_client || fail "the waiting get does not reach the store"
does "$store_tool" set "$url" later 'now'
ends_well waiter
grep -q '^now$' "$tmp/waiter.out" || fail "the waiting get did not say now"

echo "the port is taken"
refuses 1 'cannot bind .*in use' "$store_tool" --bind "${url#tcp://}"

echo "SIGTERM ends it, and on the same port it comes back empty"
stops TERM
refuses 1 'nothing listens there' "$store_tool" list --timeout-ms 300 "$url"
start_at --bind "${url#tcp://}"
[ "$(cat "$tmp/store.out")" = "$url" ] || fail "the url has changed"
[ -z "$("$store_tool" list "$url")" ] || fail "the restarted store remembers something"
stops INT

echo "killed, it leaves a clear sentence"
start_at --bind "${url#tcp://}"
start waiter "$store_tool" get --wait --timeout-ms 2500 "$url" never
until_true "$patience_s" has_client || fail "the waiting get does not reach the store"
kill -9 "$(pid_of store)"
wait_exit waiter
[ "$status" = 1 ] || fail "a get from a killed store ended with $status"
grep -Eq 'kvp_store_(open|wait): .*(did not answer|no store answered|no connection|nothing listens)' "$tmp/waiter.err" ||
  fail "a get from a killed store did not say so"

echo "a cluster key"
key=$tmp/key
does "$store_tool" --make-key "$key"
[ "$(stat -c %a "$key")" = 600 ] || fail "the key file is open to others"
grep -Eqx '[0-9a-f]{64}' "$key" || fail "the key file has no key in it"
cp "$key" "$key.kept"
refuses 1 'cannot make .*exists' "$store_tool" --make-key "$key"
cmp -s "$key" "$key.kept" || fail "a key was overwritten"
refuses 1 'cannot make' "$store_tool" --make-key "$tmp/no/such/folder/key"
refuses 2 'no other arguments' "$store_tool" --make-key "$tmp/other" list
start_at --key-file "$key" --bind 0.0.0.0:0 --advertise 127.0.0.1
url=$(cat "$tmp/store.out")
does "$store_tool" --key-file "$key" set "$url" hosts/a 'behind a key'
KVPIPE_KEY_FILE=$key says '^behind a key$' "$store_tool" get "$url" hosts/a
does "$store_tool" --make-key "$tmp/wrong"
refuses 1 'different cluster key' "$store_tool" --key-file "$tmp/wrong" --timeout-ms $((patience_s * 1000)) get "$url" hosts/a
refuses 1 'asks for a cluster key' "$store_tool" --timeout-ms $((patience_s * 1000)) get "$url" hosts/a
stops TERM
start_at
url=$(cat "$tmp/store.out")
refuses 1 'asks for no cluster key' "$store_tool" --key-file "$key" --timeout-ms $((patience_s * 1000)) get "$url" hosts/a
stops TERM
chmod 644 "$key"
refuses 1 'chmod 600' "$store_tool" --key-file "$key"
refuses 1 'chmod 600' env KVPIPE_KEY_FILE="$key" "$store_tool"
refuses 1 'cannot open the key file' "$store_tool" --key-file "$tmp/none"
chmod 600 "$key"

echo "keys are changed without an end"
does "$store_tool" --make-key "$tmp/new"
start_at --key-file "$key"
url=$(cat "$tmp/store.out")
start waiter "$store_tool" --key-file "$key" get --wait --timeout-ms $((patience_s * 1000)) "$url" later
until_true "$patience_s" has_client || fail "the waiting get does not reach the store"
cp -p "$key" "$tmp/old"
cat "$tmp/old" "$tmp/new" >"$key.next" && chmod 600 "$key.next" && mv "$key.next" "$key"
does "$store_tool" --key-file "$tmp/old" set "$url" hosts/a 'step 1'
cat "$tmp/new" "$tmp/old" >"$key.next" && chmod 600 "$key.next" && mv "$key.next" "$key"
knows_new () { "$store_tool" --key-file "$tmp/new" get "$url" hosts/a >"$tmp/says.out" 2>/dev/null; }
until_true "$patience_s" knows_new || fail "the store has not taken the new key"
does "$store_tool" --key-file "$key" set "$url" later 'step 2'
ends_well waiter
grep -q '^step 2$' "$tmp/waiter.out" || fail "the waiting get did not say step 2"
cp "$tmp/new" "$key.next" && chmod 600 "$key.next" && mv "$key.next" "$key"
does "$store_tool" --key-file "$tmp/new" set "$url" hosts/a 'step 3'
refuses 1 'different cluster key' "$store_tool" --key-file "$tmp/old" --timeout-ms $((patience_s * 1000)) get "$url" hosts/a
stops TERM

echo "ports"
free=$(cat "$tmp/store.out")
free=${free##*:}
start_at --bind "lo:$free-$free"
[ "$(cat "$tmp/store.out")" = "tcp://127.0.0.1:$free" ] || fail "an interface and a range of one port"
refuses 1 'in use' "$store_tool" --bind "127.0.0.1:$free-$free"
stops TERM

echo "metrics over HTTP"
if "$store_tool" --metrics 127.0.0.1:9-8 2>&1 >/dev/null | grep -q 'without libmicrohttpd'; then
  echo "  left out: this build has no libmicrohttpd"
else
  start_at --metrics 127.0.0.1:0
  metrics=$(sed -n 's/^kvpipe-store: metrics are at //p' "$tmp/store.err")
  echo "$metrics" | grep -Eqx 'http://127\.0\.0\.1:[0-9]+/metrics' || fail "the url of the metrics was not told"
  [ "$(wc -l <"$tmp/store.out")" -eq 1 ] || fail "standard output has more than the store's url"
  ! command -v curl >/dev/null || says '^kvpipe_store_protocol_errors_total[{].*[}] 0$' curl -s --max-time "$patience_s" "$metrics"
  stops TERM
  refuses 1 'not a loopback address.*metrics' "$store_tool" --metrics 0.0.0.0:0
fi

echo "mistakes"
refuses 1 'no range of ports' "$store_tool" --bind 127.0.0.1:9-8
refuses 1 'not a loopback address' "$store_tool" --bind 0.0.0.0:0
refuses 1 'the address' "$store_tool" --bind nonsense
refuses 1 'cannot write' "$store_tool" --url-file "$tmp/no/such/folder/url"
refuses 1 'the address' "$store_tool" list nonsense
refuses 2 'not a whole number' "$store_tool" --max-keys -1
refuses 2 'not a whole number' "$store_tool" --max-bytes 1GB
refuses 2 'not a whole number' "$store_tool" --timeout-ms 99999999999 list "$url"
refuses 2 'no verb' "$store_tool" put "$url" a b
refuses 2 'other arguments' "$store_tool" get "$url"
refuses 2 'unrecognized option' "$store_tool" --colour
refuses 2 'requires an argument' "$store_tool" --bind
says '^usage: ' "$store_tool" --help
says '^kvpipe-store [0-9]+\.[0-9]+\.[0-9]+$' "$store_tool" --version
