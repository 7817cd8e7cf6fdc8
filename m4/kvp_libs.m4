# SPDX-License-Identifier: Apache-2.0

# KVP_CHECK_ZMQ: libzmq 4.3 or newer, with CURVE where the build machine can run what it builds.
AC_DEFUN([KVP_CHECK_ZMQ], [
  PKG_CHECK_MODULES([ZMQ], [libzmq >= 4.3], [],
    [AC_MSG_ERROR([libzmq 4.3 or newer was not found. On Debian or Ubuntu: apt-get install libzmq3-dev])])
  zmq_version=$($PKG_CONFIG --modversion libzmq)

  AC_CACHE_CHECK([whether libzmq has CURVE], [kvp_cv_zmq_curve], [
    kvp_save_CFLAGS=$CFLAGS; CFLAGS="$CFLAGS $ZMQ_CFLAGS"
    kvp_save_LIBS=$LIBS; LIBS="$ZMQ_LIBS $LIBS"
    AC_RUN_IFELSE([AC_LANG_PROGRAM([[#include <zmq.h>]], [[return zmq_has("curve") == 1 ? 0 : 1;]])],
      [kvp_cv_zmq_curve=yes], [kvp_cv_zmq_curve=no], ["kvp_cv_zmq_curve=assumed (cross build)"])
    CFLAGS=$kvp_save_CFLAGS
    LIBS=$kvp_save_LIBS
  ])
  AS_IF([test "$kvp_cv_zmq_curve" = no],
    [AC_MSG_ERROR([this libzmq was built without CURVE, so control connections could not be authenticated.
Install a libzmq that was built with libsodium; Debian's and Ubuntu's are.])])
])

# KVP_CHECK_MSGPACK: msgpack-c calls itself msgpack-c upstream and msgpack in Debian 12.
AC_DEFUN([KVP_CHECK_MSGPACK], [
  PKG_CHECK_MODULES([MSGPACK], [msgpack-c >= 3.1], [msgpack_pc=msgpack-c], [
    PKG_CHECK_MODULES([MSGPACK], [msgpack >= 3.1], [msgpack_pc=msgpack],
      [AC_MSG_ERROR([msgpack-c 3.1 or newer was not found. On Debian or Ubuntu: apt-get install libmsgpack-dev])])
  ])
  AC_SUBST([msgpack_pc])
])

# KVP_CHECK_MICROHTTPD: kvp_metrics_server_start needs libmicrohttpd, which the library then needs wherever it runs; so
# it can be left out.
AC_DEFUN([KVP_CHECK_MICROHTTPD], [
  AC_ARG_WITH([metrics-http],
    [AS_HELP_STRING([--with-metrics-http=auto|yes|no], [metrics over HTTP, with libmicrohttpd @<:@auto@:>@])],
    [], [with_metrics_http=auto])
  have_microhttpd=no
  why_microhttpd="left out (--with-metrics-http=no); kvp_metrics_text is there"
  AS_IF([test "$with_metrics_http" != no],
    [PKG_CHECK_MODULES([MICROHTTPD], [libmicrohttpd >= 0.9.71],
      [have_microhttpd=yes; why_microhttpd="libmicrohttpd $($PKG_CONFIG --modversion libmicrohttpd)"
       AC_DEFINE([HAVE_MICROHTTPD], [1], [libmicrohttpd is there and wanted])],
      [why_microhttpd="libmicrohttpd 0.9.71 or newer is missing (Debian: apt-get install libmicrohttpd-dev)"
       AS_IF([test "$with_metrics_http" = yes], [AC_MSG_ERROR([$why_microhttpd])])])])
])
