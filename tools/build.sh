#!/bin/sh
# build.sh: configures and builds one preset of CMakePresets.json.
#
#   tools/build.sh PRESET [cmake arguments…]
#
# Ninja where there is one, the default otherwise; a build folder keeps the generator that it began with.
set -eu
cd "$(dirname "$0")/.."

preset=$1
shift
case $preset in
release) folder=build ;;
*) folder=build-$preset ;;
esac

if [ ! -f "$folder/CMakeCache.txt" ] && command -v ninja >/dev/null 2>&1; then
    set -- -G Ninja "$@"
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
cmake --preset "$preset" --log-level=WARNING "$@" >"$log" || {
    cat "$log"
    exit 1
}
cmake --build "$folder" --parallel 2
