"""acre as the allocator of PyTorch's CUDA tensors.

    import acre_torch
    acre_torch.use()                    # before the first CUDA tensor; PyTorch cannot change its allocator later
    ...
    print(acre_torch.report())
    acre_torch.stats()["devices"][0]["held_peak_bytes"]

Options are environment variables, ACRE_TORCH_*: see acre_torch.h or docs/gpu.md. Everything but use() works without
torch, on the library alone."""
import contextlib
import ctypes
import json
import os

__all__ = ["use", "load", "stats", "report", "shortage", "trim", "reset_peaks", "category", "sleep", "wake", "check"]

_STATUS = {1: "no memory", 2: "invalid argument", 5: "over budget", 7: "not supported", 9: "busy", 10: "system"}
_library = None
_path = None
_allocator = None  # PyTorch keeps no reference of its own to the Python object


def _find():
    here = os.path.dirname(os.path.abspath(__file__))
    candidates = [
        os.environ.get("ACRE_TORCH_LIBRARY"),
        os.path.join(here, "libacre_torch.so"),
        os.path.join(here, "..", "..", "build", "libacre_torch.so"),
    ]
    for path in candidates:
        if path and os.path.exists(path):
            return os.path.realpath(path)
    raise OSError("libacre_torch.so: not beside acre_torch.py, not in build/; ACRE_TORCH_LIBRARY may name it")


def load(path=None):
    """Loads the library (once) and returns it as a ctypes.CDLL with all signatures set."""
    global _library, _path
    if _library is not None:
        if path and os.path.realpath(path) != _path:
            raise RuntimeError(f"{_path} is loaded already")
        return _library
    _path = os.path.realpath(path) if path else _find()
    library = ctypes.CDLL(_path)
    text = [ctypes.c_char_p, ctypes.c_size_t]
    for name, result, arguments in (
        ("alloc", ctypes.c_void_p, [ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p]),
        ("try_alloc", ctypes.c_void_p, [ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p]),
        ("free", None, [ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p]),
        ("record_stream", None, [ctypes.c_void_p, ctypes.c_void_p]),
        ("memory_fraction", None, [ctypes.c_double, ctypes.c_int]),
        ("reset", None, []),
        ("stats_json", ctypes.c_size_t, text),
        ("report_text", ctypes.c_size_t, text),
        ("last_shortage_text", ctypes.c_size_t, [ctypes.c_int] + text),
        ("reset_peaks", None, []),
        ("trim", ctypes.c_uint64, [ctypes.c_uint64, ctypes.c_bool]),
        ("check", ctypes.c_char_p, []),
        ("set_category", ctypes.c_int, [ctypes.c_int]),
        ("find_category", ctypes.c_int, [ctypes.c_char_p]),
        ("sleep", ctypes.c_int, [ctypes.c_int, ctypes.c_bool]),
        ("wake", ctypes.c_int, [ctypes.c_int]),
    ):
        function = getattr(library, "acre_torch_" + name)
        function.restype, function.argtypes = result, arguments
    _library = library
    return library


def use(path=None):
    """Makes acre PyTorch's CUDA allocator, with all hooks that this PyTorch has. Returns this module."""
    global _allocator
    import sys

    import torch

    library = load(path)
    if _allocator is None:
        allocator = torch.cuda.memory.CUDAPluggableAllocator(_path, "acre_torch_alloc", "acre_torch_free")
        inner = allocator.allocator()
        for setter, name in (
            ("set_init_fn", "init"),
            ("set_reset_fn", "reset"),
            ("set_memory_fraction_fn", "memory_fraction"),
            ("set_base_alloc_fn", "base_alloc"),
            ("set_record_stream_fn", "record_stream"),
            ("set_begin_allocate_to_pool", "begin_pool"),
            ("set_end_allocate_to_pool_fn", "end_pool"),
            ("set_release_pool", "release_pool"),
        ):
            hook = getattr(inner, setter, None)  # older PyTorches lack some
            if hook:
                hook(ctypes.cast(getattr(library, "acre_torch_" + name), ctypes.c_void_p).value)
        torch.cuda.memory.change_current_allocator(allocator)
        _allocator = allocator
    return sys.modules[__name__]


def _text(function, *arguments):
    bytes_needed = function(*arguments, None, 0) + 1
    while True:
        buffer = ctypes.create_string_buffer(bytes_needed + 256)  # it may grow between the calls
        bytes_needed = function(*arguments, buffer, len(buffer)) + 1
        if bytes_needed <= len(buffer):
            return buffer.value.decode(errors="replace")


def stats():
    """All figures, as a dictionary: {"version": 1, "devices": [{"device": 0, "held_bytes": …}, …]}."""
    return json.loads(_text(load().acre_torch_stats_json))


def report():
    """The same for a person."""
    return _text(load().acre_torch_report_text)


def shortage(device=-1):
    """Why the last request that failed did; "" if none has."""
    return _text(load().acre_torch_last_shortage_text, device)


def trim(keep_bytes=0, wait=True):
    """Gives empty memory back to the driver; returns how many bytes."""
    return load().acre_torch_trim(keep_bytes, wait)


def reset_peaks():
    load().acre_torch_reset_peaks()


def check():
    """Verifies all tables; None, or what is wrong."""
    wrong = load().acre_torch_check()
    return wrong.decode() if wrong else None


def _number(name):
    number = load().acre_torch_find_category(name.encode())
    if number < 0:
        raise ValueError(f"no category {name!r} in ACRE_TORCH_CATEGORIES")
    return number


@contextlib.contextmanager
def category(name):
    """What this thread allocates inside of the with block is of this category. Autograd's threads are other threads."""
    number = _number(name)
    before = load().acre_torch_set_category(number)
    try:
        yield
    finally:
        load().acre_torch_set_category(before)


def _must(status, what):
    if status:
        raise RuntimeError(f"acre: {what}: {_STATUS.get(status, f'status {status}')}")


def sleep(name, keep=True):
    """The category's memory goes back to the driver, its tensors keep their addresses and must not be used. keep: their
    contents are copied to host memory."""
    _must(load().acre_torch_sleep(_number(name), keep), f"{name} cannot sleep")


def wake(name):
    _must(load().acre_torch_wake(_number(name)), f"{name} cannot wake")
