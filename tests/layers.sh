#!/bin/bash
# layers.sh: no include goes up a layer.
#
# A file in src/<layer>/ may include "x/…" only where x is its own layer or one beneath it, and "acre/…" (the public
# headers) from anywhere. Public headers include public headers only. A folder that is not in the table is refused, and
# so is a relative include, which would hide its layer. Prints each offence as file:line: reason.
#
#   tests/layers.sh [TREE]     checks TREE (this repository); without TREE it first proves on planted trees that it can
#                              reject what it must.
set -u

# layers_check TREE: prints the offences, fails if there are any.
layers_check()
{
    local tree=$1
    (cd "$tree" && find src include -type f \( -name '*.c' -o -name '*.h' -o -name '*.inc' -o -name '*.def' \) |
        LC_ALL=C sort | xargs -r awk '
        BEGIN {
            count = split("base os page alloc heap debug api gpu", names, " ")
            for (i = 1; i <= count; i++) layer[names[i]] = i
        }
        function offence(reason) { print FILENAME ":" FNR ": " reason; offences++ }
        FNR == 1 {
            split(FILENAME, part, "/")
            public = part[1] == "include"
            here = part[2]
            ok = public ? here == "acre" : (here in layer) && part[3] != ""
            if (!ok) offence("this folder is no layer")
        }
        ok && /^[ \t]*#[ \t]*include[ \t]*["<]/ {
            target = $0
            sub(/^[ \t]*#[ \t]*include[ \t]*/, "", target)
            quoted = substr(target, 1, 1) == "\""
            target = substr(target, 2)
            sub(/[">].*/, "", target)
            folder = target
            if (!sub(/\/.*/, "", folder)) folder = ""
            if (folder == "acre") next
            if (!quoted && (public || !(folder in layer))) next           # a system header
            if (public) offence("a public header includes \"" target "\", which is not public")
            else if (folder == "") offence("\"" target "\" does not say its layer")
            else if (!(folder in layer)) offence("\"" target "\": " folder " is no layer")
            else if (layer[folder] > layer[here])
                offence("\"" target "\" is above: " here " is layer " layer[here] ", " folder " " layer[folder])
        }
        END { exit offences > 0 }')
}

# proves DESCRIPTION FILE INCLUDE VERDICT: a tree with one file of one include is accepted or rejected as it must be.
proves()
{
    local description=$1 file=$2 include=$3 verdict=$4 got=accepted
    local tree=$scratch/tree
    rm -rf "$tree"
    mkdir -p "$tree/src" "$tree/include/acre" "$tree/$(dirname "$file")"
    printf '/* planted */\n#include %s\n' "$include" >"$tree/$file"
    layers_check "$tree" >"$scratch/out" || got=rejected
    if [ "$got" != "$verdict" ] || { [ "$got" = rejected ] && ! grep -q "^$file:[12]: " "$scratch/out"; }; then
        echo "layers.sh: $description: should be $verdict, was $got"
        cat "$scratch/out"
        proof_failed=1
    fi
}

if [ $# -ge 1 ]; then
    layers_check "$1"
    exit
fi

root=$(cd "$(dirname "$0")/.." && pwd) || exit 1
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
proof_failed=0
proves "an upward include" src/base/planted.c '"os/os.h"' rejected
proves "an upward include in angle brackets" src/base/planted.c '<os/os.h>' rejected
proves "an upward include in a header, indented" src/alloc/planted.h ' "debug/stats.h"' rejected
proves "an include from an unknown folder" src/heap/planted.c '"extra/thing.h"' rejected
proves "a relative include" src/os/planted.c '"../heap/heap.h"' rejected
proves "an include without its layer" src/os/planted.c '"os.h"' rejected
proves "a file in an unknown folder" src/extra/planted.c '<stddef.h>' rejected
proves "a file outside of the folders" src/planted.c '<stddef.h>' rejected
proves "a public header that includes a private one" include/acre/planted.h '"os/os.h"' rejected
proves "a downward include" src/heap/planted.c '"os/os.h"' accepted
proves "an include within a layer" src/page/planted.c '"page/space.h"' accepted
proves "a public header from the lowest layer" src/base/planted.c '"acre/status.h"' accepted
proves "a system header in a folder" src/os/planted.c '<sys/mman.h>' accepted
[ "$proof_failed" = 0 ] || exit 1

layers_check "$root" && echo "every include in src/ and include/ stays in its layer or goes down"
