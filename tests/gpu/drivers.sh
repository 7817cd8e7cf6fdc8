#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# What the library says of drivers it cannot use. Needs no GPU: the drivers are stand-ins.
set -eu

program=${KVP_BUILDDIR:?is set by make check}/tests/gpu/test_kernel
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
# The program skips without a driver; here that is its success.
unset KVP_TEST_NO_SKIP

# says SENTENCE DEFINE...: with this stand-in for libcuda.so.1, the library says SENTENCE
says () {
  sentence=$1
  shift
  ${CC:-cc} -shared -fPIC "$@" -o "$dir/libcuda.so.1" "$dir/driver.c"
  status=0
  LD_LIBRARY_PATH=$dir "$program" >"$dir/out" 2>&1 || status=$?
  case $(cat "$dir/out") in
    *"built without CUDA"*) cat "$dir/out"; exit 77 ;;
    *"$sentence"*) [ "$status" = 77 ] && return ;;
  esac
  echo "FAIL: expected exit 77 and: $sentence; got $status and:"
  cat "$dir/out"
  exit 1
}

cat >"$dir/driver.c" <<'END'
#include <stddef.h>
#include <string.h>

#ifdef VERSION
int cuDriverGetVersion(int *version)
{
	*version = VERSION;
	return 0;
}
#endif

#ifdef LACKS
static int no_device(void)
{
	return 100;
}

static int name(int error, const char **name)
{
	*name = error == 100 ? "CUDA_ERROR_NO_DEVICE" : "?";
	return 0;
}

int cuGetProcAddress_v2(const char *symbol, void **address, int version, unsigned long long flags, void *found)
{
	(void)version;
	(void)flags;
	(void)found;
	*address = strcmp(symbol, LACKS) == 0 ? NULL : strcmp(symbol, "cuGetErrorName") == 0 ? (void *)name : (void *)no_device;
	return 0;
}
#endif
END

says 'does not tell its version'
says 'the CUDA driver supports CUDA 11.8, but 12.4 is needed' -DVERSION=11080
says 'has no cuGetProcAddress_v2' -DVERSION=12040
says 'has no cuFuncLoad of CUDA 12.4' -DVERSION=12040 '-DLACKS="cuFuncLoad"'
says 'finds no GPU that this process may use: CUDA_ERROR_NO_DEVICE' -DVERSION=13000 '-DLACKS=""'
