#!/bin/sh
# run.sh: Vulkan memory on lavapipe and the offset core, acre and the peers that are named, side by side.
#
#   bench/gpu/run.sh [--quick]
#   ACRE_VK_PEER=vma=/path/vma.so ACRE_SUBALLOC_PEERS=vma=/path/block.so bench/gpu/run.sh
#
# ACRE_VK_PEER and ACRE_SUBALLOC_PEERS name shared objects: bench/gpu/vk_subject.h and bench/suballoc_subject.h say what
# they define. ACRE_VK_DRIVER=any takes the driver that the loader finds first instead of lavapipe. Results are printed,
# and those of Vulkan are in build/bench/vk_mix.json, too.
set -eu
cd "$(dirname "$0")/../.."

tools/ensure.sh /usr/share/vulkan/icd.d/lvp_icd.x86_64.json:mesa-vulkan-drivers
rounds=5 scale=1 operations=4000000
if [ "${1:-}" = --quick ]; then
    rounds=1 scale=0.2 operations=400000
fi
cmake --build build --target bench_vk_mix bench_suballoc >/dev/null
if [ "${ACRE_VK_DRIVER:-lavapipe}" = lavapipe ]; then
    export VK_ICD_FILENAMES=/usr/share/vulkan/icd.d/lvp_icd.x86_64.json
fi
build/bench/vk_mix --rounds $rounds --scale $scale --json build/bench/vk_mix.json
build/bench/suballoc $operations $rounds
