#!/bin/sh
# SPDX-License-Identifier: Apache-2.0

. "$(dirname "$0")/lint.sh"

command -v shellcheck >/dev/null || skip "shellcheck is not installed"

lint () {
  (cd "$1" && {
    find tests examples tools -name '*.sh' 2>/dev/null
    for script in quickstart autogen.sh run.in .ci/run; do [ ! -e "$script" ] || echo "$script"; done
  } | xargs shellcheck --format gcc --source-path SCRIPTDIR --external-sources)
}

plant quickstart
# shellcheck disable=SC2016
echo 'rm -rf $HOME/$1' >>"$tree/quickstart"
must_see 'quickstart:[0-9]*:.*SC2086'

lint_sources
