# SPDX-License-Identifier: Apache-2.0

# KVP_ADD_FLAG(VARIABLE, FLAG): appends FLAG to VARIABLE if the compiler takes it without a warning.
AC_DEFUN([KVP_ADD_FLAG], [
  AS_VAR_PUSHDEF([kvp_flag_var], [kvp_cv_flag_$2])
  AC_CACHE_CHECK([whether $CC takes $2], [kvp_flag_var], [
    kvp_save_CFLAGS=$CFLAGS
    # -Wno-foo is accepted silently by gcc even when -Wfoo is unknown, so only positive flags are probed.
    CFLAGS="$CFLAGS -Werror $2"
    AC_COMPILE_IFELSE([AC_LANG_PROGRAM([[]], [[]])],
      [AS_VAR_SET([kvp_flag_var], [yes])], [AS_VAR_SET([kvp_flag_var], [no])])
    CFLAGS=$kvp_save_CFLAGS
  ])
  AS_VAR_IF([kvp_flag_var], [yes], [$1="$$1 $2"])
  AS_VAR_POPDEF([kvp_flag_var])
])

# KVP_WARNINGS: picky warnings, probed one by one; --enable-werror turns them into errors (CI does).
AC_DEFUN([KVP_WARNINGS], [
  AC_ARG_ENABLE([werror], [AS_HELP_STRING([--enable-werror], [treat compiler warnings as errors])],
    [], [enable_werror=no])
  WARN_CFLAGS=
  m4_foreach_w([kvp_flag], [-Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes
    -Wold-style-definition -Wpointer-arith -Wwrite-strings -Wvla -Wundef -Wformat=2
    -Wlogical-op -Wduplicated-cond -Wduplicated-branches
    -Walloca -Wimplicit-fallthrough],
    [KVP_ADD_FLAG([WARN_CFLAGS], kvp_flag)])
  # The library runs in other people's threads, whose stacks may be small. Sanitizers widen frames.
  LIB_CFLAGS=
  AS_IF([test "$have_sanitizers" = no], [KVP_ADD_FLAG([LIB_CFLAGS], [-Wframe-larger-than=5000])])
  AC_SUBST([LIB_CFLAGS])
  why_werror="warnings do not stop the build (--enable-werror)"
  AS_IF([test "$enable_werror" = yes],
    [WARN_CFLAGS="$WARN_CFLAGS -Werror"; why_werror="warnings are errors"])
  AC_SUBST([WARN_CFLAGS])
])

# KVP_SANITIZERS: --enable-asan, --enable-ubsan, --enable-tsan, --enable-fuzz.
AC_DEFUN([KVP_SANITIZERS], [
  AC_ARG_ENABLE([asan], [AS_HELP_STRING([--enable-asan], [build with the address sanitizer])], [], [enable_asan=no])
  AC_ARG_ENABLE([ubsan], [AS_HELP_STRING([--enable-ubsan], [build with the undefined-behaviour sanitizer])],
    [], [enable_ubsan=no])
  AC_ARG_ENABLE([tsan], [AS_HELP_STRING([--enable-tsan], [build with the thread sanitizer])], [], [enable_tsan=no])
  AC_ARG_ENABLE([fuzz], [AS_HELP_STRING([--enable-fuzz], [build tests/fuzz with libFuzzer (needs clang)])],
    [], [enable_fuzz=no])

  # A fuzzer finds what a sanitizer sees.
  AS_IF([test "$enable_fuzz" = yes], [enable_asan=yes; enable_ubsan=yes])
  AS_IF([test "$enable_tsan" = yes && test "$enable_asan" = yes],
    [AC_MSG_ERROR([--enable-tsan excludes --enable-asan and --enable-fuzz: build twice.])])

  SAN_CFLAGS=
  kvp_sanitizers=
  AS_IF([test "$enable_asan" = yes], [kvp_sanitizers="$kvp_sanitizers,address"])
  AS_IF([test "$enable_ubsan" = yes], [kvp_sanitizers="$kvp_sanitizers,undefined"])
  AS_IF([test "$enable_tsan" = yes], [kvp_sanitizers="$kvp_sanitizers,thread"])
  kvp_sanitizers=${kvp_sanitizers#,}
  have_sanitizers=no
  why_sanitizers="not asked for (--enable-asan, --enable-ubsan, --enable-tsan)"
  AS_IF([test -n "$kvp_sanitizers"], [
    have_sanitizers=on
    why_sanitizers=$kvp_sanitizers
    # One finding ends the test: a sanitizer that only prints would leave the test green.
    SAN_CFLAGS="-fsanitize=$kvp_sanitizers -fno-sanitize-recover=all -fno-omit-frame-pointer -g"
  ])

  FUZZ_LDFLAGS=
  why_fuzz="make check replays the corpus (--enable-fuzz builds the fuzzers)"
  AS_IF([test "$enable_fuzz" = yes], [
    SAN_CFLAGS="$SAN_CFLAGS -fsanitize=fuzzer-no-link"
    FUZZ_LDFLAGS="-fsanitize=fuzzer"
    why_fuzz="libFuzzer, with the sanitizers; make fuzz runs it"
  ])
  AM_CONDITIONAL([ENABLE_FUZZ], [test "$enable_fuzz" = yes])
  AM_CONDITIONAL([ENABLE_SANITIZERS], [test "$have_sanitizers" = on])

  AS_IF([test -n "$SAN_CFLAGS"], [
    AC_MSG_CHECKING([whether $CC can link with $SAN_CFLAGS])
    kvp_save_CFLAGS=$CFLAGS; CFLAGS="$CFLAGS $SAN_CFLAGS"
    AC_LINK_IFELSE([AC_LANG_PROGRAM([[]], [[]])], [AC_MSG_RESULT([yes])],
      [AC_MSG_RESULT([no])
       AC_MSG_ERROR([$CC cannot build with $SAN_CFLAGS. Fuzzing needs clang; on Debian the sanitizers'
libraries are in libclang-rt-14-dev (clang) or come with gcc.])])
    CFLAGS=$kvp_save_CFLAGS
  ])
  AC_SUBST([SAN_CFLAGS])
  AC_SUBST([FUZZ_LDFLAGS])
])
