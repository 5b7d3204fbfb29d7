"""The comparison of allocators under PyTorch, as one command: `make gpu-report`.

    gpu_report.py [--device auto|real|fake] [--quick] [--rounds N] [--steps N] [--models transformer,image]
                  [--json FILE] [--markdown FILE]

On a machine with a GPU and torch: training steps of a transformer with changing sequence lengths and of an image model
with changing resolutions (gpu_report_torch.py), on native, expandable_segments:True, backend:cudaMallocAsync and acre,
each run in a process of its own, allocators interleaved: peak reserved, reserved/requested, step time, and the largest
batch under a memory cap, found by bisection.

Elsewhere the same driver and tables run on the fake driver: traces of such steps, computed from the models' shapes
(gpu_report_trace.py), go through libacre_torch.so, and through models of the others' documented policies
(gpu_report_models.py). Bytes and driver calls are compared; what time a GPU takes, nothing here can know.

The report says what ran where. Exit status: 0; 1 if a run failed; 77 if the library or the driver is not there."""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(ROOT, "plugins", "torch"))

import gpu_report_trace as trace  # noqa: E402
from gpu_report_models import MODELS, OutOfMemory, replay  # noqa: E402

MIB, GIB = 1 << 20, 1 << 30
SIZES = {  # model: batch of the main runs, memory cap of the search for the largest batch
    "transformer": (8, 24 * GIB),
    "image": (32, 8 * GIB),
}
REAL_ALLOCATORS = {  # name: PYTORCH_CUDA_ALLOC_CONF
    "native": "",
    "expandable": "expandable_segments:True",
    "async": "backend:cudaMallocAsync",
    "acre": "",
    "acre-wait": "",  # ACRE_TORCH_WAIT=1
}
TITLES = {"native": "native", "expandable": "expandable segments", "async": "cudaMallocAsync", "acre": "acre",
          "acre-wait": "acre, waiting"}


def build_folder():
    return os.path.join(ROOT, os.environ.get("BUILD", "build"))


def plugin_path():
    return os.environ.get("ACRE_TORCH_LIBRARY") or os.path.join(build_folder(), "libacre_torch.so")


def largest_batch(fits, first, coarse=False):
    """The largest batch for which fits(batch); 0: not even one. Doubles, then halves the interval. coarse: to an
    eighth."""
    low, high = 0, first
    while fits(high):
        low, high = high, high * 2
        if high > 1 << 16:
            return low
    while high - low > (max(1, high // 8) if coarse else 1):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


# --- the fake driver ------------------------------------------------------------------------------------------------


class FakeGpu:
    """The tests' fake driver, by ctypes. Streams stand still until the host waits for them, so a kernel is never done
    before it must be: the worst case for memory that waits for the GPU. The driver checks the order of all uses."""

    def __init__(self):
        import ctypes

        class Options(ctypes.Structure):  # fake_cuda_options of tests/support/fake_cuda.h
            _fields_ = [("device_bytes", ctypes.c_uint64), ("granularity", ctypes.c_uint64),
                        ("address_bytes", ctypes.c_uint64), ("device_count", ctypes.c_int),
                        ("manual", ctypes.c_bool), ("backed", ctypes.c_bool), ("latency", ctypes.c_bool),
                        ("no_virtual_memory", ctypes.c_bool), ("no_file_handles", ctypes.c_bool)]

        library = ctypes.CDLL(os.environ["ACRE_CUDA_DRIVER"])
        options = Options(device_bytes=int(os.environ["FAKE_CUDA_BYTES"]), manual=True,
                          latency=os.environ.get("FAKE_CUDA_LATENCY") == "1")
        library.fake_cuda_start(ctypes.byref(options))
        pointer, size = ctypes.c_void_p, ctypes.c_uint64
        for name, result, arguments in (
            ("fake_cuda_stream", pointer, []), ("fake_cuda_block", None, [pointer, size]),
            ("fake_cuda_use", None, [pointer, pointer, size]), ("fake_cuda_order", None, [pointer, pointer]),
            ("fake_cuda_synchronize", None, []), ("fake_cuda_problem", ctypes.c_char_p, []),
        ):
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
            setattr(self, name[len("fake_cuda_"):], function)


def replay_acre(events):
    """In a process of its own (worker below): the trace through libacre_torch.so."""
    import acre_torch

    gpu = FakeGpu()
    library = acre_torch.load(plugin_path())
    first = library.acre_torch_try_alloc(1, 0, None)  # makes the heap and the device's context
    if not first:
        raise SystemExit(acre_torch.shortage() or "no heap")
    library.acre_torch_free(first, 1, 0, None)
    acre_torch.trim()
    acre_torch.reset_peaks()
    streams = {trace.COMPUTE: gpu.stream(), trace.COPY: gpu.stream()}

    alloc, free, used = library.acre_torch_try_alloc, library.acre_torch_free, library.acre_torch_record_stream
    blocks, live, live_peak, out_of_memory = {}, 0, 0, False
    block_begins, kernel = gpu.block, gpu.use
    step_seconds, begin = [], time.perf_counter()
    for event in events:
        kind = event[0]
        if kind == trace.ALLOC:
            _, number, nbytes, stream = event
            block = alloc(nbytes, 0, streams[stream])
            if not block:
                out_of_memory = True
                break
            blocks[number] = (block, nbytes, stream)
            block_begins(block, nbytes)
            kernel(streams[stream], block, nbytes)
            live += nbytes
            live_peak = max(live_peak, live)
        elif kind == trace.FREE:
            block, nbytes, stream = blocks.pop(event[1])
            free(block, nbytes, 0, streams[stream])
            live -= nbytes
        elif kind == trace.USED:
            block, nbytes, stream = blocks[event[1]]
            gpu.order(streams[stream], streams[event[2]])
            kernel(streams[event[2]], block, nbytes)
            used(block, streams[event[2]])
        elif kind == trace.STEP:
            gpu.synchronize()
            now = time.perf_counter()
            step_seconds.append(now - begin)
            begin = now
    heap = acre_torch.stats()["devices"][0]
    problem = gpu.problem()
    wrong = acre_torch.check() or (problem.decode() if problem else None)
    return {
        "out_of_memory": out_of_memory,
        "reserved_peak": heap["held_peak_ever_bytes"],
        "allocated_peak": live_peak,
        "driver_calls": heap["driver_calls"],
        "pages_moved": heap["pages_moved"],
        # What the first step takes longer than the others is the driver's time: the replay has no kernels.
        "growth_seconds": step_seconds[0] - statistics.median(step_seconds) if step_seconds else None,
        "wrong": wrong,
    }


def worker(arguments):
    events = trace.TRACES[arguments.models](arguments.batch, arguments.steps)
    print(json.dumps(replay_acre(events)))


def fake_run(allocator, model, batch, steps, cap, memory_bytes):
    if allocator in MODELS:
        policy = MODELS[allocator](cap or memory_bytes)
        try:
            live_peak, failed = replay(policy, trace.TRACES[model](batch, steps)), False
        except OutOfMemory:
            live_peak, failed = 0, True
        return {"out_of_memory": failed, "reserved_peak": policy.reserved_peak, "allocated_peak": live_peak,
                "driver_calls": policy.calls}
    environment = dict(os.environ, FAKE_CUDA_BYTES=str(memory_bytes), FAKE_CUDA_BACKED="0", ACRE_TORCH_QUIET="1",
                       ACRE_TORCH_WAIT=str(int(allocator == "acre-wait")))
    if cap:
        environment["ACRE_TORCH_BUDGET"] = str(cap)
        environment["FAKE_CUDA_LATENCY"] = "0"
    command = [sys.executable, os.path.abspath(__file__), "--worker", "--models", model, "--batch", str(batch),
               "--steps", str(steps)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"acre, {model}, batch {batch}: {done.stderr.strip() or done.stdout.strip()}")
    result = json.loads(done.stdout.strip().splitlines()[-1])
    if result.pop("wrong"):
        raise RuntimeError(f"acre, {model}, batch {batch}: {result}")
    return result


# --- a real GPU -----------------------------------------------------------------------------------------------------


def find_torch():
    """An interpreter whose torch sees a GPU, and what it sees; None."""
    probe = ("import torch; assert torch.cuda.is_available(); p = torch.cuda.get_device_properties(0); "
             "print(p.total_memory, torch.__version__, p.name, sep='|')")
    for python in (os.environ.get("PYTHON"), "python3", "/usr/bin/python3"):
        if not python:
            continue
        try:
            done = subprocess.run([python, "-c", probe], capture_output=True, text=True, timeout=300)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            total, version, name = done.stdout.strip().splitlines()[-1].split("|", 2)
            return {"python": python, "memory_bytes": int(total), "torch": version, "gpu": name}
    return None


def real_run(machine, allocator, model, batch, steps, cap):
    environment = dict(os.environ, PYTORCH_CUDA_ALLOC_CONF=REAL_ALLOCATORS[allocator], ACRE_TORCH_QUIET="1",
                       ACRE_TORCH_WAIT=str(int(allocator == "acre-wait")))
    environment.pop("ACRE_CUDA_DRIVER", None)
    if not REAL_ALLOCATORS[allocator]:
        del environment["PYTORCH_CUDA_ALLOC_CONF"]
    command = [machine["python"], os.path.join(HERE, "gpu_report_torch.py"),
               "--allocator", allocator.split("-")[0], "--model", model, "--batch", str(batch), "--steps", str(steps),
               "--cap", str(cap), "--plugin", plugin_path()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise RuntimeError(f"{allocator}, {model}, batch {batch}: {done.stderr.strip()[-2000:]}")
    return json.loads(lines[-1])


# --- the report -----------------------------------------------------------------------------------------------------


def collect(run, allocators, arguments, caps):
    """model -> allocator -> medians of the rounds, and the largest batch."""
    results = {}
    for model in arguments.models.split(","):
        batch, _ = SIZES[model]
        runs = {allocator: [] for allocator in allocators}
        for number in range(arguments.rounds):
            order = allocators[number % len(allocators):] + allocators[:number % len(allocators)]
            for allocator in order:
                print(f"gpu-report: {model}, {allocator}, round {number + 1} of {arguments.rounds}", file=sys.stderr)
                runs[allocator].append(run(allocator, model, batch, arguments.steps, 0))
        results[model] = {}
        for allocator, rounds in runs.items():
            merged = dict(rounds[0])
            for key, value in rounds[0].items():
                if isinstance(value, (int, float)) and not isinstance(value, bool):
                    merged[key] = statistics.median(r[key] for r in rounds)
            print(f"gpu-report: {model}, {allocator}, largest batch in {caps[model] / GIB:.1f} GiB", file=sys.stderr)
            merged["batch_max"] = largest_batch(
                lambda n: not run(allocator, model, n, arguments.batch_steps, caps[model])["out_of_memory"], batch,
                arguments.quick)
            results[model][allocator] = merged
    return results


def rows_of(model_results, real):
    """(title, [a text per allocator]) of the table."""
    def each(form):
        return [form(r) for r in model_results.values()]

    def mib(key):
        return each(lambda r: f"{r[key] / MIB:,.0f}" if r.get(key) is not None else "–")

    def milliseconds(key):
        return each(lambda r: f"{r[key] * 1000:.2f}" if r.get(key) is not None else "–")

    rows = [
        ("peak reserved, MiB", mib("reserved_peak")),
        ("peak requested by tensors, MiB", mib("allocated_peak")),
        ("reserved / requested", each(lambda r: f"{r['reserved_peak'] / max(r['allocated_peak'], 1):.3f}")),
        ("largest batch under the cap", each(lambda r: str(r["batch_max"]))),
        ("driver calls", each(lambda r: f"{r['driver_calls']:,.0f}")),
    ]
    if real:
        rows.insert(3, ("step, ms (median)", milliseconds("step_seconds")))
        rows.insert(4, ("step, ms (mean)", milliseconds("step_seconds_mean")))
    else:
        rows += [
            ("pages mapped elsewhere", each(lambda r: f"{r['pages_moved']:,.0f}" if "pages_moved" in r else "–")),
            ("growth, first step, ms", milliseconds("growth_seconds")),
        ]
    return rows


def table(title, names, rows, markdown):
    if markdown:
        lines = [f"**{title}**", "", "| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
        return lines + [f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows] + [""]
    wide = max(len(name) for name, _ in rows) + 2
    columns = [max(len(name), *(len(cells[i]) for _, cells in rows)) + 3 for i, name in enumerate(names)]
    lines = [title, " " * wide + "".join(n.rjust(c) for n, c in zip(names, columns))]
    return lines + ["  " + name.ljust(wide - 2) + "".join(t.rjust(c) for t, c in zip(cells, columns))
                    for name, cells in rows] + [""]


def where(report):
    """What ran where, in plain sentences."""
    if report["device"] == "real":
        m = report["machine"]
        return [f"All columns: real runs on {m['gpu']}, {m['memory_bytes'] / GIB:.0f} GiB, PyTorch {m['torch']}.",
                f"{report['rounds']} rounds, allocators interleaved, medians."]
    return [
        "No GPU saw this. Traces of training steps, computed from the models' shapes, replayed:",
        "  acre                          libacre_torch.so itself, on the tests' fake CUDA driver, which counts memory",
        "                                and takes the time that an A100's driver takes to create, map and unmap. Its",
        "                                kernels are done only when the host waits: the worst case for reuse.",
        "  acre, waiting                 the same with ACRE_TORCH_WAIT=1: waits for the GPU before taking new memory.",
        "  native, expandable segments   models of PyTorch's documented policy, not the product.",
        "  cudaMallocAsync               not modelled: its pool is closed. Only the run on a real GPU has it.",
        "Bytes and driver calls can be compared; step times cannot be had without a GPU.",
        "Growth: what the first step takes longer than the median one; driver calls, at the latencies of an A100.",
    ]


def text_of(report, markdown=False):
    lines = where(report) + [""]
    for model, results in report["results"].items():
        names = [TITLES[a] + ("" if report["device"] == "real" or a not in MODELS else " (model)") for a in results]
        batch, cap = SIZES[model][0], report["caps"][model]
        title = f"{model}: {report['steps']} steps, batch {batch}; cap of the search {cap / GIB:.1f} GiB"
        lines += table(title, names, rows_of(results, report["device"] == "real"), markdown)
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("auto", "real", "fake"), default="auto")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--models", default="transformer,image")
    parser.add_argument("--json")
    parser.add_argument("--markdown")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return worker(arguments)
    unknown = set(arguments.models.split(",")) - set(SIZES)
    if unknown:
        parser.error(f"no such model: {', '.join(sorted(unknown))}")
    if not os.path.exists(plugin_path()):
        print(f"gpu-report: {plugin_path()} is not there: build first", file=sys.stderr)
        return 77

    machine = find_torch() if arguments.device != "fake" else None
    if arguments.device == "real" and not machine:
        print("gpu-report: no GPU, or no torch that sees it", file=sys.stderr)
        return 77
    real = machine is not None
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 3)
    arguments.steps = arguments.steps or (6 if arguments.quick else 60)
    arguments.batch_steps = 3 if arguments.quick else 12
    caps = {model: cap for model, (_, cap) in SIZES.items()}
    if real:
        caps = {model: min(cap, int(machine["memory_bytes"] * 0.9)) for model, cap in caps.items()}
        allocators = list(REAL_ALLOCATORS)

        def run(*what):
            return real_run(machine, *what)
    else:
        driver = os.environ.get("ACRE_CUDA_DRIVER") or os.path.join(build_folder(), "tests", "libfake_cuda.so")
        if not os.path.exists(driver):
            print(f"gpu-report: {driver} is not there: build the tests first", file=sys.stderr)
            return 77
        os.environ["ACRE_CUDA_DRIVER"] = os.path.abspath(driver)
        os.environ.setdefault("FAKE_CUDA_LATENCY", "1")
        allocators = [*MODELS, "acre", "acre-wait"]

        def run(*what):
            return fake_run(*what, memory_bytes=80 * GIB)

    report = {"device": "real" if real else "fake", "machine": machine, "rounds": arguments.rounds,
              "steps": arguments.steps, "batch_steps": arguments.batch_steps, "caps": caps}
    try:
        report["results"] = collect(run, allocators, arguments, caps)
    except RuntimeError as error:
        print(f"gpu-report: {error}", file=sys.stderr)
        return 1
    print(text_of(report))
    for path, content in ((arguments.json, json.dumps(report, indent=1)), (arguments.markdown, text_of(report, True))):
        if path:
            with open(path, "w") as out:
                out.write(content + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
