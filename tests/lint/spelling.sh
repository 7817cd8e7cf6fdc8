#!/bin/sh
# SPDX-License-Identifier: Apache-2.0

. "$(dirname "$0")/lint.sh"

command -v codespell >/dev/null || skip "codespell is not installed"

# Data and what other people wrote are not ours to spell. "hel" is a string cut short on purpose.
lint () {
  (cd "$1" && sources "$1" | grep -Ev '^LICENSE$|\.json$|\.safetensors$|/corpus/|spelling\.sh$' |
    xargs codespell --quiet-level 3 --ignore-words-list hel)
}

plant lib/base
echo '/* Recieve it. */' >"$tree/lib/base/planted.h"
must_see 'planted.h:1: Recieve'

lint_sources
