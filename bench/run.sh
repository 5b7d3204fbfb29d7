#!/bin/sh
# run.sh: what `make bench` does. Sees to it that the peers and programs are there, builds the workloads and starts
# the driver.
#
#   bench/run.sh [--quick] [--repeats N] [--only NAMES] [--allocators NAMES] [--docs] …     (--help has them all)
#
# Environment: ACRE_LIB (another library than build/libacre.so), ACRE_PEERS (name=path,… of more allocators), BUILD
# (build).
set -eu
cd "$(dirname "$0")/.."
build=${BUILD:-build}
lib=/usr/lib/$(uname -m)-linux-gnu

# Debian's names; the redis-server package is a link and a service, and the driver starts a server of its own.
tools/ensure.sh cc:gcc cmake:cmake /usr/bin/python3:python3 \
    "$lib/libjemalloc.so.2:libjemalloc2" "$lib/libtcmalloc_minimal.so.4:libtcmalloc-minimal4" \
    "$lib/libmimalloc.so.2.0:libmimalloc2.0" /usr/lib/python3/dist-packages/matplotlib/__init__.py:python3-matplotlib \
    redis-cli:redis-tools redis-server:redis-server gs:ghostscript sqlite3:sqlite3 gcc:gcc clang:clang lua5.4:lua5.4 \
    ruby:ruby xmllint:libxml2-utils z3:z3 ||
    echo "bench: going on with what is there" >&2

[ -f "$build/CMakeCache.txt" ] || tools/build.sh release
[ -n "${ACRE_LIB:-}" ] || [ -e "$build/libacre.so" ] || tools/build.sh release
cmake --build "$build" --target bench_programs --parallel 2 >"$build/bench-build.log" 2>&1 || {
    cat "$build/bench-build.log" >&2
    exit 1
}
export PYTHONDONTWRITEBYTECODE=1
exec /usr/bin/python3 bench/driver.py "$@"
