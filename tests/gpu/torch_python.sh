#!/bin/bash
# torch_python.sh: plugins/torch/acre_torch.py does without torch all that it says it does, on the fake driver.
set -eu
cd "$ACRE_SOURCE_DIR"
[ -x /usr/bin/python3 ] || exit 77
export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=plugins/torch ACRE_TORCH_LIBRARY=$ACRE_BUILD_DIR/libacre_torch.so
export ACRE_CUDA_DRIVER=$ACRE_BUILD_DIR/tests/libfake_cuda.so FAKE_CUDA_BACKED=1
export ACRE_TORCH_CATEGORIES='all,weights!:64M' ACRE_TORCH_QUIET=1
/usr/bin/python3 - <<'PYTHON'
import ctypes
import json

import acre_torch

library = acre_torch.load()
assert acre_torch.stats() == {"version": 1, "devices": []}, acre_torch.stats()
assert "no CUDA device was used" in acre_torch.report()
assert acre_torch.shortage() == ""

with acre_torch.category("weights"):
    weights = library.acre_torch_alloc(8 << 20, 0, None)
    assert library.acre_torch_try_alloc(80 << 20, 0, None) is None
    assert "weights" in acre_torch.shortage(), acre_torch.shortage()
other = library.acre_torch_alloc(80 << 20, 0, None)
assert weights and other
ctypes.memset(weights, 0x5A, 8 << 20)

device = acre_torch.stats()["devices"][0]
assert device["requested_bytes"] == 88 << 20, device
assert device["held_bytes"] == device["live_bytes"] + device["pending_bytes"] + device["hole_bytes"] + device["empty_bytes"]
assert [c["name"] for c in device["categories"]] == ["all", "weights"]
assert device["categories"][1]["failed"] == 1 and device["failed"] == 1
assert "weights" in device["last_failure"]
assert "category weights" in acre_torch.report()

held = device["held_bytes"]
acre_torch.sleep("weights")
assert acre_torch.stats()["devices"][0]["held_bytes"] <= held - (8 << 20)
try:
    acre_torch.sleep("weights")
    raise SystemExit("slept twice")
except RuntimeError as error:
    assert "busy" in str(error)
acre_torch.wake("weights")
assert ctypes.string_at(weights, 8 << 20) == b"\x5a" * (8 << 20)
for name in ("nobody", ""):
    try:
        acre_torch.sleep(name)
        raise SystemExit("a category that is none slept")
    except ValueError:
        pass

library.acre_torch_free(weights, 8 << 20, 0, None)
library.acre_torch_free(other, 80 << 20, 0, None)
acre_torch.reset_peaks()
assert acre_torch.trim() > 0
assert acre_torch.check() is None
device = acre_torch.stats()["devices"][0]
assert device["held_bytes"] == 0 and device["requested_bytes"] == 0, json.dumps(device)

# use(), with a stand-in for torch: what it hands over, and that those addresses are the functions of these names.
import sys
import types

hooks = {}


class Inner:
    def __getattr__(self, name):
        if not name.startswith("set_") or name == "set_release_pool":  # an older PyTorch lacks one
            raise AttributeError(name)
        return lambda address: hooks.__setitem__(name, address)


class Allocator:
    def __init__(self, path, alloc, free):
        assert (alloc, free) == ("acre_torch_alloc", "acre_torch_free") and path.endswith("libacre_torch.so")

    def allocator(self):
        return Inner()


changed = []
torch = types.ModuleType("torch")
torch.cuda = types.SimpleNamespace(memory=types.SimpleNamespace(
    CUDAPluggableAllocator=Allocator, change_current_allocator=changed.append))
sys.modules["torch"] = torch
assert acre_torch.use() is acre_torch and acre_torch.use() is acre_torch
assert len(changed) == 1 and isinstance(changed[0], Allocator)
assert set(hooks) == {"set_init_fn", "set_reset_fn", "set_memory_fraction_fn", "set_base_alloc_fn",
                      "set_record_stream_fn", "set_begin_allocate_to_pool", "set_end_allocate_to_pool_fn"}, hooks
ctypes.CFUNCTYPE(None, ctypes.c_double, ctypes.c_int)(hooks["set_memory_fraction_fn"])(0.5, 0)
assert acre_torch.stats()["devices"][0]["budget_bytes"] == acre_torch.stats()["devices"][0]["device_bytes"] // 2
ctypes.CFUNCTYPE(None)(hooks["set_reset_fn"])()
print("acre_torch: all as said")
PYTHON
