#!/bin/bash
# A small program under valgrind with the library preloaded, three ways:
#   - --soname-synonyms=somalloc=nouserintercepts: valgrind leaves the library's malloc alone, so acre's own code runs
# in
#     valgrind's address space, where no more than 128 GB can be reserved in all;
#   - plain memcheck, which puts its own malloc in place of ours: acre only loads, and its constructors run;
#   - no tool (--tool=none), acre's own code again, without memcheck.
# Output and exit code are the program's own each time.
# shellcheck source=tests/programs/lib.bash
. "$(dirname "$0")/lib.bash"
limit_s=200

need valgrind libc6-dbg:/usr/lib/debug/.build-id

gcc -std=gnu11 -O1 -g -pthread -o "$tmp/in/mix" "$here/src/mix.c"
program=("$tmp/in/mix" "${STEPS:-6000}" 300000 2)
"${program[@]}" >"$tmp/expected"

# LABEL, then options of valgrind.
check() {
    local label=$1 status=0 start=${EPOCHREALTIME/./} log=$tmp/$1.log
    shift
    # valgrind gets the library too; it hands LD_PRELOAD on to the program, with its own in front.
    LD_PRELOAD=$lib timeout -k 5 "$limit_s" valgrind --log-file="$log" "$@" "${program[@]}" >"$tmp/$label.out" 2>"$tmp/$label.err" ||
        status=$?
    if [ "$status" != 0 ]; then
        tail -n 20 "$log" "$tmp/$label.err" >&2
        fail "$label: $(describe "$status")"
    fi
    diff "$tmp/expected" "$tmp/$label.out" >&2 || fail "$label: the program printed something else (> acre)"
    say "$label: right, $(seconds "$start") s$(sed -n 's/^==[0-9]*== ERROR SUMMARY: \([0-9]* errors\).*/, \1 reported/p' "$log")"
}
heap_usage() { sed -n 's/,//g; s/^==[0-9]*== *total heap usage: \([0-9]*\) allocs.*/\1/p' "$1"; }

# With the library preloaded valgrind maps it: seen in its own list of objects.
check own --soname-synonyms=somalloc=nouserintercepts -v
grep -F "$(basename "$(realpath "$lib")")" "$tmp/own.log" >/dev/null || fail "own: valgrind did not read $lib"
usage=$(heap_usage "$tmp/own.log")
[ "${usage:-0}" -lt 100 ] || fail "own: valgrind replaced the library's malloc ($usage allocations went to valgrind's)"

check replaced -v
usage=$(heap_usage "$tmp/replaced.log")
[ "${usage:-0}" -ge 1000 ] || fail "replaced: valgrind's malloc saw only ${usage:-no} allocations"

check none --tool=none --soname-synonyms=somalloc=nouserintercepts
