#!/bin/sh
# gpu-report.sh: what `make gpu-report` does: PyTorch's allocators and acre side by side, on this machine's GPU or, where
# there is none, on the fake driver. tools/gpu_report.py --help has the options.
#
# Environment: BUILD (build), PYTHON (an interpreter with torch), OUT (BUILD/gpu-report: the JSON and the table).
set -eu
cd "$(dirname "$0")/.."
build=${BUILD:-build}
out=${OUT:-$build/gpu-report}
mkdir -p "$out"
tools/ensure.sh /usr/bin/python3:python3
PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 tools/gpu_report.py --json "$out/report.json" --markdown "$out/report.md" "$@"
echo "gpu-report: also in $out/report.json and report.md"
