#!/bin/bash
# test.sh: what `make test` does. Builds release, asan and tsan, runs ctest in each and adds up.
#
# Release runs everything; the sanitizers, which bring their own malloc, run the unit and stress tests. Goes on after a
# failure so that one run shows all of them. The last line is "N passed, N failed[, N skipped]" over all runs; the exit
# status is 0 only if nothing failed.
set -u
cd "$(dirname "$0")/.." || exit 1

results=$(mktemp -d) || exit 1
trap 'rm -rf "$results"' EXIT
reports=()
began=$SECONDS

say() { printf '\n== %s (%d s)\n' "$*" $((SECONDS - began)); }

# round PRESET FOLDER [ctest arguments…]
round()
{
    local preset=$1 folder=$2
    shift 2
    local report=$results/$preset.xml
    reports+=("$report")
    say "$preset: building in $folder/"
    if ! tools/build.sh "$preset"; then
        echo "$preset does not build"
        return
    fi
    say "$preset: testing"
    ctest --test-dir "$folder" --output-on-failure --no-tests=error -j2 --output-junit "$report" "$@" ||
        echo "$preset: ctest reports failures"
}

round release build
round asan build-asan -L '^(unit|stress)$'
round tsan build-tsan -L '^(unit|stress)$'

say "all rounds done"
tools/junit-sum.sh "${reports[@]}"
