# SPDX-License-Identifier: Apache-2.0

# Policy: the library links neither CUDA's runtime nor its driver. nvcc turns kernels/*.cu into device
# images that are embedded in the library; cuda.h gives the driver's types; libcuda.so.1 is opened at run
# time, so that one build serves machines with and without a GPU.

# KVP_CHECK_CUDA: --with-cuda=auto|yes|no|DIR and --with-cuda-archs="80 90".
AC_DEFUN([KVP_CHECK_CUDA], [
  AC_ARG_WITH([cuda], [AS_HELP_STRING([--with-cuda=auto|yes|no|DIR],
    [build the CUDA kernels, with nvcc and cuda.h of CUDA 12.4 or newer in DIR (auto)])],
    [], [with_cuda=auto])
  AC_ARG_WITH([cuda-archs], [AS_HELP_STRING([--with-cuda-archs="80 90"],
    [compute capabilities to build kernels for; the last also as PTX, for newer chips])],
    [], [with_cuda_archs="80 90"])
  AC_ARG_VAR([NVCC], [the CUDA compiler])

  have_cuda=no
  CUDA_CPPFLAGS=
  NVCC_GENCODE=
  AS_CASE([$with_cuda],
    [no], [why_cuda="--with-cuda=no"],
    [yes|auto], [kvp_cuda_path="$PATH:${CUDA_HOME:-/usr/local/cuda}/bin:/usr/local/cuda/bin"],
    [kvp_cuda_path="$with_cuda/bin"])
  AS_IF([test "$with_cuda" != no], [
    AC_PATH_PROG([NVCC], [nvcc], [], [$kvp_cuda_path])
    KVP_TRY_CUDA
    AS_IF([test "$have_cuda" = no && test "$with_cuda" != auto],
      [AC_MSG_ERROR([CUDA was asked for (--with-cuda=$with_cuda) but $why_cuda.])])
  ])
  AM_CONDITIONAL([HAVE_CUDA], [test "$have_cuda" = on])
  AS_IF([test "$have_cuda" = on],
    [AC_DEFINE([HAVE_CUDA], [1], [Define to 1 if the CUDA kernels are built and embedded.])])
  AC_SUBST([CUDA_CPPFLAGS])
  AC_SUBST([NVCC_GENCODE])
])

# Sets have_cuda and why_cuda, CUDA_CPPFLAGS and NVCC_GENCODE.
AC_DEFUN([KVP_TRY_CUDA], [
  AS_IF([test -z "$NVCC"], [why_cuda="nvcc is not in $kvp_cuda_path"], [
    # nvcc may be a link into the toolkit, whose headers are beside the real file's folder.
    kvp_nvcc=$(readlink -f "$NVCC")
    kvp_cuda_root=$(dirname "$(dirname "$kvp_nvcc")")
    CUDA_CPPFLAGS=
    AS_IF([test -f "$kvp_cuda_root/include/cuda.h"], [CUDA_CPPFLAGS="-isystem $kvp_cuda_root/include"])

    for kvp_arch in $with_cuda_archs; do
      NVCC_GENCODE="$NVCC_GENCODE -gencode=arch=compute_$kvp_arch,code=sm_$kvp_arch"
    done
    NVCC_GENCODE="$NVCC_GENCODE -gencode=arch=compute_$kvp_arch,code=compute_$kvp_arch"
    NVCC_GENCODE=${NVCC_GENCODE# }

    AC_MSG_CHECKING([for cuda.h of CUDA 12.4 or newer])
    kvp_save_CPPFLAGS=$CPPFLAGS
    CPPFLAGS="$CPPFLAGS $CUDA_CPPFLAGS"
    AC_COMPILE_IFELSE([AC_LANG_PROGRAM([[#include <cuda.h>
#if CUDA_VERSION < 12040
#error too old
#endif
]], [[]])], [kvp_cuda_h=yes], [kvp_cuda_h=no])
    CPPFLAGS=$kvp_save_CPPFLAGS
    AC_MSG_RESULT([$kvp_cuda_h])

    AC_MSG_CHECKING([whether $NVCC builds device images for $with_cuda_archs])
    echo 'extern "C" __global__ void kernel(int *word) { *word = 1; }' > conftest.cu
    AS_IF([$NVCC -std=c++17 -fatbin $NVCC_GENCODE -o conftest.fatbin conftest.cu >conftest.err 2>&1],
      [kvp_nvcc_works=yes], [kvp_nvcc_works=no])
    AC_MSG_RESULT([$kvp_nvcc_works])
    cat conftest.err >&AS_MESSAGE_LOG_FD
    AS_IF(
      [test "$kvp_cuda_h" = no], [why_cuda="cuda.h of CUDA 12.4 or newer was not found beside $NVCC"],
      [test "$kvp_nvcc_works" = no],
        [why_cuda="$NVCC cannot build for '$with_cuda_archs'; it said: $(head -n 1 conftest.err) (is g++ installed?)"],
      [have_cuda=on
       why_cuda="$NVCC, compute capabilities $with_cuda_archs"])
    rm -f conftest.cu conftest.fatbin conftest.err
  ])
  AS_IF([test "$have_cuda" = no], [CUDA_CPPFLAGS=; NVCC_GENCODE=])
])

# KVP_CHECK_NCCL: --with-nccl=auto|yes|no|DIR. Only nccl.h is needed; libnccl.so.2 is opened at run time.
AC_DEFUN([KVP_CHECK_NCCL], [
  AC_ARG_WITH([nccl], [AS_HELP_STRING([--with-nccl=auto|yes|no|DIR], [use nccl.h, in DIR/include (auto)])],
    [], [with_nccl=auto])
  have_nccl=no
  NCCL_CPPFLAGS=
  AS_CASE([$with_nccl],
    [no], [why_nccl="--with-nccl=no"],
    [yes|auto], [],
    [NCCL_CPPFLAGS="-isystem $with_nccl/include"])
  AS_IF(
    [test "$with_nccl" = no], [],
    [test "$have_cuda" = no], [why_nccl="needs CUDA, which is off"],
    [test -n "$NCCL_CPPFLAGS" && test ! -f "$with_nccl/include/nccl.h"],
      [why_nccl="$with_nccl/include/nccl.h is not there"],
    [
      AC_MSG_CHECKING([for nccl.h of NCCL 2.18 or newer])
      kvp_save_CPPFLAGS=$CPPFLAGS
      CPPFLAGS="$CPPFLAGS $NCCL_CPPFLAGS $CUDA_CPPFLAGS"
      AC_COMPILE_IFELSE([AC_LANG_PROGRAM([[#include <nccl.h>
#if NCCL_VERSION_CODE < NCCL_VERSION(2,18,0)
#error too old
#endif
]], [[]])],
        [have_nccl=on; why_nccl="nccl.h found; no plane uses it yet"],
        [why_nccl="nccl.h of NCCL 2.18 or newer was not found"])
      CPPFLAGS=$kvp_save_CPPFLAGS
      AC_MSG_RESULT([$have_nccl])
    ])
  AS_IF([test "$have_nccl" = no && test "$with_nccl" != auto && test "$with_nccl" != no],
    [AC_MSG_ERROR([NCCL was asked for (--with-nccl=$with_nccl) but $why_nccl.])])
  AM_CONDITIONAL([HAVE_NCCL], [test "$have_nccl" = on])
  AS_IF([test "$have_nccl" = on],
    [AC_DEFINE([HAVE_NCCL], [1], [Define to 1 if nccl.h is there.])],
    [NCCL_CPPFLAGS=])
  AC_SUBST([NCCL_CPPFLAGS])
])
