#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes ./configure from configure.ac. Only a git checkout needs this; a release tarball carries ./configure.
set -e
cd "$(dirname "$0")"
exec autoreconf --force --install "$@"
