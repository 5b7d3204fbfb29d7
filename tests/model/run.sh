#!/bin/bash
# run.sh: spin looks at every state of tests/model/page_protocol.pml, in several sizes, and must find each planted
# mistake. Two checks at a time, two minutes and 4 GB at most. Exits with 77 where spin is not there and cannot be had.
set -u
model=$(cd "$(dirname "$0")" && pwd)/page_protocol.pml

if ! command -v spin >/dev/null 2>&1; then
    sudo=''
    [ "$(id -u)" = 0 ] || sudo='sudo -n'
    { $sudo apt-get install -y -q spin || { $sudo apt-get update -q && $sudo apt-get install -y -q spin; }; } \
        >/dev/null 2>&1 </dev/null
    command -v spin >/dev/null 2>&1 || { echo "spin is not there, and could not be installed"; exit 77; }
fi
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT

# verdict WANTED DEFINITIONS…: WANTED is holds or breaks; prints a line, fails if it came out otherwise.
verdict()
{
    local wanted=$1 name got out states
    shift
    name="$*"
    cd "$(mktemp -d -p "$scratch")" || return 1
    spin -a "$@" "$model" >spin.log 2>&1 || { cat spin.log; echo "FAILED  $name: spin does not take it"; return 1; }
    "${CC:-cc}" -O2 -w -DSAFETY -DCOLLAPSE -DNOFAIR -DMEMLIM=1800 -o pan pan.c || return 1
    out=$(timeout 110 ./pan -m1000000 2>&1)
    states=$(sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1/p' <<<"$out")
    if grep -qE 'reached -DMEMLIM|max search depth too small|not completed|out of memory' <<<"$out" &&
        ! grep -q 'errors: [1-9]' <<<"$out"; then
        got=unfinished
    elif grep -q 'errors: 0' <<<"$out"; then
        got=holds
    elif grep -q 'errors: [1-9]' <<<"$out"; then
        got=breaks
    else
        got=unfinished
    fi
    if [ "$got" = "$wanted" ]; then
        echo "ok      $name: $got, ${states:-?} states"
    else
        echo "$out"
        echo "FAILED  $name: $got, but should be: $wanted"
        return 1
    fi
}
export -f verdict
export model scratch

xargs -P 2 -I{} bash -c 'verdict {}' <<'END'
holds -DKEEP=0 -DOPS=2
holds -DKEEP=1 -DOPS=2
holds -DKEEP=0 -DOPS=1 -DTHREADS=3
holds -DKEEP=0 -DOPS=2 -DWORDS=1 -DPASS
holds -DKEEP=1 -DOPS=1 -DTRIM
holds -DKEEP=0 -DOPS=1 -DBITS=2 -DPASS
breaks -DKEEP=1 -DOPS=2 -DNO_RECHECK
breaks -DKEEP=1 -DOPS=2 -DLOOK_OUTSIDE
breaks -DKEEP=1 -DOPS=2 -DLATE_DISOWN
breaks -DKEEP=1 -DOPS=2 -DNO_IDENTITY
breaks -DKEEP=0 -DOPS=2 -DUNLOCKED_LET_GO
breaks -DKEEP=1 -DOPS=2 -DWORDS=1 -DPASS -DSTATE_FIRST
END
