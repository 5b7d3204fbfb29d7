#!/bin/sh
# run.sh: what `make example-textures` does: installs what is missing, builds, flies, draws the chart, and says where
# to look.
#
#   examples/textures/run.sh [--card]     on Mesa's lavapipe (the CPU); --card: on the first Vulkan device there is
set -eu
cd "$(dirname "$0")/../.."

lavapipe=/usr/share/vulkan/icd.d/lvp_icd.x86_64.json
tools/ensure.sh cc:gcc cmake:cmake ninja:ninja-build /usr/include/vulkan/vulkan_core.h:libvulkan-dev \
    $lavapipe:mesa-vulkan-drivers /usr/include/png.h:libpng-dev \
    /usr/lib/python3/dist-packages/matplotlib/__init__.py:python3-matplotlib
[ "${1:-}" = --card ] || export VK_ICD_FILENAMES=$lavapipe

tools/build.sh release
folder=build/examples/textures
mkdir -p $folder
rm -f $folder/*.png $folder/*.csv
build/examples/textures_flight $folder
# Debian's own Python has the package; another one on the path may not.
/usr/bin/python3 examples/textures/chart.py $folder/memory.csv $folder/memory.png

echo
echo "the flight at a glance   $folder/flight.png"
echo "its pictures             $folder/frame_*.png"
echo "its memory, as a chart   $folder/memory.png"
echo "… and as a table         $folder/memory.csv"
