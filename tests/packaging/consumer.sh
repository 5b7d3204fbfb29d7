#!/bin/bash
# consumer.sh: acre can be installed and used by a stranger.
#
# Installs the build in ACRE_BUILD_DIR under a temporary prefix and builds one small program four ways: shared and
# static, through find_package(acre) and through pkg-config. Each must print acre's words and find that its malloc is
# acre's: in libacre.so, or in the program itself where it was linked statically. The prefix is then moved and the
# program built again, since a package may not remember where it was made.
set -eu

build=${ACRE_BUILD_DIR:?the folder of a finished build}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

cat >"$scratch/consumer.c" <<'C'
#define _GNU_SOURCE
#include <acre/acre.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int count, char **words)
{
    void *block = malloc(100);
    void *(*allocate)(size_t) = malloc;
    void *address;
    memcpy(&address, &allocate, sizeof address);
    Dl_info info;
    if (count < 2 || !block || !dladdr(address, &info) || !strstr(info.dli_fname, words[1])) return 1;
    free(block);
    return printf("%s: %s\n", words[0], acre_status_text(ACRE_OK)) < 0;
}
C
cat >"$scratch/CMakeLists.txt" <<'C'
cmake_minimum_required(VERSION 3.25)
project(consumer LANGUAGES C)
find_package(acre 0.1 REQUIRED)
add_executable(cmake_shared consumer.c)
target_link_libraries(cmake_shared PRIVATE acre::acre)
add_executable(cmake_static consumer.c)
target_link_libraries(cmake_static PRIVATE acre::acre_static)
C

# try PROGRAM OBJECT: runs it; its malloc must lie in OBJECT.
try()
{
    "$1" "$2" || {
        echo "consumer.sh: $(basename "$1") fails, or its malloc is not acre's"
        exit 1
    }
}

# consume PREFIX: everything, against what is installed there.
consume()
{
    local prefix=$1 out=$1-out
    mkdir "$out"
    libdir=$(dirname "$(find "$prefix" -name libacre.so)")

    if ! { cmake -S "$scratch" -B "$out" -DCMAKE_PREFIX_PATH="$prefix" && cmake --build "$out"; } >"$out/log" 2>&1; then
        cat "$out/log"
        exit 1
    fi
    try "$out/cmake_shared" libacre.so
    try "$out/cmake_static" cmake_static

    command -v pkg-config >/dev/null || { echo "consumer.sh: no pkg-config here"; exit 77; }
    export PKG_CONFIG_PATH=$libdir/pkgconfig
    # shellcheck disable=SC2046 # flags are words
    "${CC:-cc}" "$scratch/consumer.c" $(pkg-config --cflags --libs acre) -o "$out/pkg_shared"
    LD_LIBRARY_PATH=$libdir try "$out/pkg_shared" libacre.so
    # shellcheck disable=SC2046
    "${CC:-cc}" "$scratch/consumer.c" $(pkg-config --cflags acre) -Wl,-Bstatic $(pkg-config --libs acre) \
        -Wl,-Bdynamic -pthread -o "$out/pkg_static"
    try "$out/pkg_static" pkg_static
}

cmake --install "$build" --prefix "$scratch/first" >/dev/null
consume "$scratch/first"
mv "$scratch/first" "$scratch/second"
consume "$scratch/second"
if [ -e "$scratch/second/bin/acre" ]; then "$scratch/second/bin/acre" --version || exit 1; fi
