#!/bin/bash
# docs_snippets.sh: the C in docs/gpu.md compiles, and its whole programs run.
#
# Each ```c block is a file of its own: as it stands, if it has functions; else as the body of one. What a block takes
# for granted stands before it in a comment that readers do not see:
#
#   <!-- needs
#   acre_vk *vk; uint64_t frame;
#   -->
#
# A block with a main is linked and run; 77 from it (no Vulkan here) is fine. Blocks of Vulkan are left out where
# its headers are missing, or the library was built without it.
set -eu

build=${ACRE_BUILD_DIR:?the folder of a finished build}
source=${ACRE_SOURCE_DIR:?the source tree}
cc=${CC:-cc}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
vulkan=1
echo '#include <vulkan/vulkan_core.h>' | $cc -fsyntax-only -x c - 2>/dev/null || vulkan=
grep -q acre_vk_create "$build/libacre.so" || vulkan=

awk -v to="$scratch" '
    function has(what) { return index(code, what) > 0 }
    /^<!-- needs/ { in_needs = 1; next }
    in_needs && /^-->/ { in_needs = 0; next }
    in_needs { needs = needs $0 "\n"; next }
    /^```c$/ { in_code = 1; code = ""; line = NR + 1; next }
    /^```/ && in_code {
        in_code = 0
        all = needs code
        name = sprintf("%s/line_%d.c", to, line)
        if (code !~ /#include/) {
            printf "#include <acre/acre.h>\n" >name
            printf "#include <acre/%s.h>\n", index(all, "acre_vk") || index(all, "Vk") ? "vulkan_stream" : "cuda" >name
        }
        split(needs, line_of, "\n")
        whole = code ~ /(^|\n)[a-z][^\n;=]*\)\n\{/
        printf "%s", needs >name
        if (whole) printf "#line %d \"docs/gpu.md\"\n%s", line, code >name
        else {
            body = code
            while (match(body, /^(#include[^\n]*)?\n/)) {
                printf "%s", substr(body, 1, RLENGTH) >name
                body = substr(body, RLENGTH + 1)
                line++
            }
            printf "void snippet(void);\nvoid snippet(void)\n{\n#line %d \"docs/gpu.md\"\n%s}\n", line, body >name
        }
        close(name)
        needs = ""
        next
    }
    in_code { code = code $0 "\n" }
' "$source/docs/gpu.md"

compiled=0 ran=0
for file in "$scratch"/*.c; do
    if [ -z "$vulkan" ] && grep -q 'acre/vulkan' "$file"; then continue; fi
    flags="-std=c11 -Wall -Wextra -Werror -Wno-unused-variable -Wno-unused-but-set-variable -Wno-unused-function"
    if grep -q 'int main(' "$file"; then
        if ! $cc $flags -I"$source/include" "$file" -o "$scratch/program" -L"$build" -lacre -lvulkan; then
            echo "not linked: $file" && exit 1
        fi
        rc=0
        LD_LIBRARY_PATH=$build "$scratch/program" || rc=$?
        [ $rc -eq 0 ] || [ $rc -eq 77 ] || { echo "$file ended with $rc"; exit 1; }
        ran=$((ran + 1))
    else
        $cc $flags -I"$source/include" -fsyntax-only "$file"
    fi
    compiled=$((compiled + 1))
done
[ $compiled -gt 0 ] || { echo "no block found"; exit 1; }
echo "$compiled blocks compile, $ran of them ran"
