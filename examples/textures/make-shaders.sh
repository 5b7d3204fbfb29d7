#!/bin/sh
# make-shaders.sh: compiles the GLSL of this folder into shaders.h, which is committed, so that only who changes a shader
# needs glslangValidator (Debian: glslang-tools).
set -eu
cd "$(dirname "$0")"
out=$(mktemp)
trap 'rm -f "$out" "$out.spv"' EXIT
{
    echo '/* shaders: the SPIR-V of the .vert and .frag files beside it. Made by make-shaders.sh: change those. */'
    echo '#include <stdint.h>'
    for source in terrain.vert terrain.frag sky.vert sky.frag; do
        glslangValidator --quiet -V --target-env vulkan1.2 -g0 -o "$out.spv" "$source" >&2
        echo
        echo "static const uint32_t shader_$(echo "$source" | tr . _)[] = {"
        od -An -v -tx4 -w40 "$out.spv" | sed 's/ \([0-9a-f]\{8\}\)/0x\1,/g; s/,0x/, 0x/g; s/^/    /'
        echo '};'
    done
} >"$out"
mv "$out" shaders.h
echo "shaders.h: $(wc -c <shaders.h) bytes"
