#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Who may include whom. The tables are the law; the rest only reads them.

# A folder of lib/, then the folders whose headers it may include besides its own.
floors='
base
wire       base
device     base
store      wire base
topology   device base
share      device wire base
control    wire base
plane      share topology device wire base
engine     control plane topology share store device wire base
pipe       engine control plane topology share store device wire base
connector  engine control plane topology share store device wire base
allreduce  share store topology device wire base
'

# A header from outside, then the only files that may include it. ZeroMQ has three: its sockets, and for the cluster
# key the thread that answers its questions and the key at one socket, which together would be too much for one file.
# What kvpipe-bench compares the library with has to use the bare thing: that is bench/bare_*.c, and no other of bench/.
foreign='
zmq.h           ^(lib/wire/z(sock|auth|guard)|bench/bare_[a-z_]*)\.c$
microhttpd.h    ^lib/wire/metrics_http\.c$
sodium.h        ^lib/wire/auth\.c$
msgpack.h       ^lib/wire/
nccl.h          ^lib/plane/nccl\.c$
cuda.h          ^lib/device/cuda[a-z_]*\.[ch]$
cudaTypedefs.h  ^lib/device/cuda[a-z_]*\.[ch]$
cuda_runtime.h  ^never$
cuda_runtime_api.h ^never$
'

. "$(dirname "$0")/lint.sh"

lint () {
  (cd "$1" && find lib include/kvpipe tools examples bench -name '*.[ch]' 2>/dev/null | sort |
    while read -r file; do
      # FILE:LINE INCLUDED, where INCLUDED keeps its < or "
      sed -n 's/^[[:space:]]*#[[:space:]]*include[[:space:]]*\([<"][^>"]*\).*/\1/p' "$file" | sed "s|^|$file |"
    done) |
    awk -v floors="$floors" -v foreign="$foreign" '
      function finding(why) { print file ": includes " substr(header, 2) ": " why }
      BEGIN {
        n = split(floors, rows, "\n")
        for (i = 1; i <= n; i++) {
          m = split(rows[i], words, " ")
          if (m == 0) continue
          floor[words[1]] = 1
          may[words[1], words[1]] = 1
          for (j = 2; j <= m; j++) may[words[1], words[j]] = 1
        }
        n = split(foreign, rows, "\n")
        for (i = 1; i <= n; i++)
          if (split(rows[i], words, " ") == 2) only[words[1]] = words[2]
      }
      {
        file = $1; header = $2
        name = substr(header, 2)
        n = split(file, dirs, "/"); top = dirs[1]; from = dirs[2]
        m = split(name, parts, "/"); to = (m > 1) ? parts[1] : ""
        if (top == "lib" && !(from in floor)) { print file ": lib/" from " is no floor"; next }
        # msgpack has a tree of headers below its first one.
        base = (name ~ /^msgpack/) ? "msgpack.h" : name
        if (base in only && file !~ only[base]) finding("only " only[base] " may")
        if (name ~ /\.\.\//) { finding("no path may climb"); next }
        if (to == "kvpipe") next
        if (top == "include") { if (header ~ /^"/) finding("a public header includes public headers only"); next }
        if (top != "lib") {
          if (to in floor || to == "kernels" || to == "lib") finding("outsiders use include/ only")
          next
        }
        if (to == "kernels") { if (from != "device" && from != "allreduce") finding("only device and allreduce may") ; next }
        if (header ~ /^</ || to == "") next
        if (!(to in floor)) finding("there is no floor " to)
        else if (!((from, to) in may)) finding(from " may not know " to)
      }'
}

plant lib include
echo '#include "engine/engine.h"' >>"$tree/lib/base/error.h"
must_see 'lib/base/error.h: includes engine/engine.h: base may not know engine'

plant lib include
echo '#include <zmq.h>' >"$tree/lib/store/planted.c"
must_see 'lib/store/planted.c: includes zmq.h: only'

plant lib include
echo '# include <msgpack/pack.h>' >"$tree/lib/pipe/planted.c"
must_see 'lib/pipe/planted.c: includes msgpack/pack.h: only'

plant lib include
echo '#include <cuda.h>' >"$tree/lib/plane/planted.c"
must_see 'lib/plane/planted.c: includes cuda.h: only'

plant lib include
echo '#include "kernels/kvpi_kernels.h"' >"$tree/lib/engine/planted.c"
must_see 'lib/engine/planted.c: includes kernels/kvpi_kernels.h: only device and allreduce may'

plant lib include
mkdir -p "$tree/lib/misc" && echo '#include <stdio.h>' >"$tree/lib/misc/planted.c"
must_see 'lib/misc/planted.c: lib/misc is no floor'

plant lib include
echo '#include "../lib/base/error.h"' >>"$tree/include/kvpipe/status.h"
must_see 'include/kvpipe/status.h: includes ../lib/base/error.h: no path may climb'

plant lib include tools
echo '#include "base/error.h"' >"$tree/tools/planted.c"
must_see 'tools/planted.c: includes base/error.h: outsiders use include/ only'

plant lib include bench
echo '#include <zmq.h>' >"$tree/bench/planted.c"
must_see 'bench/planted.c: includes zmq.h: only'

lint_sources
