#!/bin/bash
# torch_cxx.sh: PyTorch's C++ calls reach the plug-in's C as they were meant (torch_like.cpp), out of memory included.
set -eu
cd "$ACRE_SOURCE_DIR"
command -v c++ >/dev/null || exit 77
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
c++ -std=c++17 -O1 -Wall -Wextra -Werror tests/gpu/torch_like.cpp -o "$folder/torch_like" -ldl
"$folder/torch_like" "$ACRE_BUILD_DIR/libacre_torch.so" "$ACRE_BUILD_DIR/tests/libfake_cuda.so"
