#!/bin/bash
# gpu_report.sh: the comparison runs on the fake driver, says so, and its figures are possible: nobody reserves less
# than tensors asked for, and a batch that fits is found.
set -eu
cd "$ACRE_SOURCE_DIR"
[ -x /usr/bin/python3 ] || exit 77
export PYTHONDONTWRITEBYTECODE=1 ACRE_TORCH_LIBRARY=$ACRE_BUILD_DIR/libacre_torch.so
export ACRE_CUDA_DRIVER=$ACRE_BUILD_DIR/tests/libfake_cuda.so FAKE_CUDA_LATENCY=0
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
/usr/bin/python3 tools/gpu_report.py --device fake --quick --json "$folder/report.json" >"$folder/text"
cat "$folder/text"
grep -q 'No GPU saw this' "$folder/text"
grep -q 'not modelled' "$folder/text"
grep -q 'native (model)' "$folder/text"
/usr/bin/python3 - "$folder/report.json" <<'PYTHON'
import json
import sys

report = json.load(open(sys.argv[1]))
assert report["device"] == "fake" and set(report["results"]) == {"transformer", "image"}
for model, results in report["results"].items():
    assert set(results) == {"native", "expandable", "acre", "acre-wait"}
    asked = {r["allocated_peak"] for r in results.values()}
    assert len(asked) == 1, (model, asked)
    for name, r in results.items():
        assert not r["out_of_memory"] and r["reserved_peak"] >= r["allocated_peak"] > 1 << 29, (model, name, r)
        assert r["batch_max"] >= 1 and r["driver_calls"] > 0, (model, name, r)
    assert results["acre"]["reserved_peak"] <= results["native"]["reserved_peak"], (model, results)
    assert results["acre-wait"]["reserved_peak"] <= results["expandable"]["reserved_peak"], (model, results)
PYTHON
