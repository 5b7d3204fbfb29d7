"""The driver of the benchmarks: every workload under every allocator, in turn, and what each took.

    bench/run.sh [options]       builds what is needed and starts this; `make bench ARGS='options'` does, too

One run is one process (or one server under load), started by build/bench/measure, which preloads the allocator and
reads wall time, CPU time, peak resident memory and page faults from wait4. The allocators take turns within every
round, and the turn begins with another one each round, so that a machine that gets slower or faster decides nothing;
what is shown is the median over the rounds. Every workload is deterministic, so all allocators see the same calls.

Ratios are to the first allocator of the list that is called glibc (or simply to the first). Geometric means are over
the workloads and programs that succeeded on every allocator; tables (hot_pair, latency, realloc_table, medium_waste)
are shown, but are no part of the means: how long they take is their own choice.

Writes results.json, benchmarks.md and benchmarks.svg to build/bench; with --docs, also to docs/.
"""
import argparse
import collections
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import inputs
import report

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(os.environ.get("BUILD", ROOT / "build")).resolve()
PROGRAMS = BUILD / "bench"
TIMEOUT_S = 300
QUICK_SIZE = 0.3  # of the programs' inputs

# --- allocators ----------------------------------------------------------------------------------------------------

DEBIAN = {"jemalloc": "libjemalloc.so.2", "tcmalloc": "libtcmalloc_minimal.so.4", "mimalloc": "libmimalloc.so.2.0"}


def find_library(name):
    """Where the dynamic linker finds a library, or None."""
    for folder in ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"):
        if os.path.exists(f"{folder}/{name}"):
            return os.path.realpath(f"{folder}/{name}")
    listing = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True).stdout
    found = re.search(rf"^\s*{re.escape(name)} .*=> (\S+)", listing, re.M)
    return os.path.realpath(found[1]) if found else None


def allocators(chosen):
    """name -> library. glibc's is preloaded, too: programs that bring an allocator of their own (redis) then use it."""
    every = {"glibc": find_library("libc.so.6"), "acre": os.environ.get("ACRE_LIB") or str(BUILD / "libacre.so")}
    every |= {name: find_library(file) for name, file in DEBIAN.items()}
    for peer in filter(None, re.split(r"[,\s]+", os.environ.get("ACRE_PEERS", ""))):
        name, _, path = peer.partition("=")
        if not path:
            sys.exit(f"ACRE_PEERS: '{peer}' is not of the form name=path")
        every[name] = path
    if chosen:
        unknown = [name for name in chosen if name not in every]
        if unknown:
            sys.exit(f"no such allocator: {', '.join(unknown)} (there are {', '.join(every)})")
        every = {name: every[name] for name in chosen}
    usable = {}
    for name, path in every.items():
        if not path or not os.path.exists(path):
            say(f"{name} is left out: {path or DEBIAN.get(name)} is not there")
            continue
        path = os.path.realpath(path)
        bound = subprocess.run(
            [PROGRAMS / "measure"], env=environment() | {"LD_PRELOAD": path}, capture_output=True, text=True
        )
        if os.path.realpath(bound.stdout.strip() or "?") != path:
            say(
                f"{name} is left out: with {path} preloaded, malloc is from {bound.stdout.strip()} "
                f"{bound.stderr.strip()}"
            )
            continue
        usable[name] = path
    return usable


# --- workloads -----------------------------------------------------------------------------------------------------

# kind: workload and program count in the geometric means; table is shown by its own pairs. time: what counts as the
# time, `wall`, or `seconds`, which a workload that waits on purpose says itself. env: NAME=value pairs.
Workload = collections.namedtuple("Workload", "name kind command time env server", defaults=("wall", {}, False))


def workloads(quick, folder):
    def own(name, full, small, *arguments, program=None, kind="workload", time="wall"):
        scale = small if quick else full
        return Workload(name, kind, [str(PROGRAMS / (program or name)), str(scale), *map(str, arguments)], time)

    def table(name, full, small, *arguments, program=None):
        return own(name, full, small, *arguments, program=program, kind="table")

    def program(name, *command, env={}, server=False):
        return Workload(name, "program", list(command), "wall", env, server)

    python = ("/usr/bin/python3", "-s", "-S", "script.py")
    return [
        own("small_random", 1, 0.2),
        own("small_random_2", 1, 0.2, 2, program="small_random"),
        own("producer_consumer", 1, 0.15),
        own("ring", 1, 0.2),
        own("burst", 0.3, 0.05),
        own("buffers", 1, 0.2),
        own("big_blocks", 1, 0.15),
        own("growing", 1, 0.2),
        own("level", 0.6, 0.15),
        own("phase_change", 1, 0.25, 300 if quick else 2000, time="seconds"),
        own("idle_threads", 1, 0.3, time="seconds"),
        program("redis", "redis-server", server=True),
        program(
            "ghostscript",
            "gs",
            "-q",
            "-dNOPAUSE",
            "-dBATCH",
            "-dSAFER",
            "-r120",
            "-sDEVICE=png16m",
            "-sOutputFile=/dev/null",
            "page.ps",
        ),
        program("sqlite3", "sqlite3", "-batch", ":memory:", ".read shop.sql"),
        program("python3", *python),
        # Without its own allocator for small objects, which would hide ours.
        program("python3_malloc", *python, env={"PYTHONMALLOC": "malloc"}),
        program("gcc", "gcc", "-O2", "-w", "-S", "-o", "/dev/null", "program.c"),
        program("clang", "clang", "-O2", "-w", "-S", "-o", "/dev/null", "program.c"),
        program("lua", "lua5.4", "script.lua"),
        program("ruby", "ruby", "--disable-gems", "script.rb"),
        program("xmllint", "xmllint", "--noout", "--xpath", "count(//item[price>50]/tags/tag)", "store.xml"),
        program("z3", "z3", "problem.smt2"),
        table("hot_pair", 1, 0.1),
        table("latency_small", 1, 0.1, "small", program="latency"),
        table("latency_medium", 1, 0.1, "medium", program="latency"),
        table("latency_medium_touched", 0.4, 0.05, "medium_touched", program="latency"),
        table("realloc_table", 0.5, 0.1),
        table("medium_waste", 1, 0.25),
    ]


# --- one run -------------------------------------------------------------------------------------------------------


def environment():
    return {
        "PATH": "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C",
        "TZ": "UTC",
        "HOME": "/nonexistent",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def describe(status):
    if status > 128:
        try:
            return signal.Signals(status - 128).name
        except ValueError:
            pass
    return f"exit status {status}"


def read_report(path):
    wall, user, system, peak, minor, major, status = path.read_text().split()
    return {
        "wall": float(wall),
        "cpu": float(user) + float(system),
        "peak_mb": int(peak) * 1024 / 1e6,
        "faults": int(minor) + int(major),
        "status": int(status),
    }


def parse_line(text):
    """The line of a workload as a dict of its pairs."""
    words = text.split()
    if len(words) < 6 or words[0] != "ops" or len(words) % 2:
        raise ValueError(f"not a line of a workload: {text[:100]!r}")
    return {key: float(value) for key, value in zip(words[::2], words[1::2])}


def end(process):
    """Ends a process that we started in a session of its own, and what it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def serve(process, folder, socket):
    """Loads the redis server that has just been started; returns the seconds that the load took."""
    cli = ["redis-cli", "-s", socket]
    options = dict(env=environment(), capture_output=True, text=True, timeout=TIMEOUT_S)
    until = time.monotonic() + 20
    while subprocess.run([*cli, "ping"], **options).stdout.strip() != "PONG":
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError("redis-server does not answer")
        time.sleep(0.05)
    begin = time.monotonic()
    with open(folder / "redis.load", "rb") as load:
        done = subprocess.run([*cli, "--pipe"], stdin=load, **options)
    wall = time.monotonic() - begin
    if done.returncode != 0 or "errors: 0" not in done.stdout:
        raise RuntimeError(f"redis-cli: {done.stdout[-200:]} {done.stderr[-200:]}")
    subprocess.run([*cli, "shutdown", "nosave"], **options)
    return wall


def run_once(workload, library, folder, scratch):
    """One measured run: a dict of wall, cpu, peak_mb, faults, time and the workload's own pairs, or of an error."""
    report_file = scratch / "report"
    report_file.unlink(missing_ok=True)
    command, socket = workload.command, str(scratch / "socket")
    if workload.server:
        command = [
            *command,
            "--port",
            "0",
            "--unixsocket",
            socket,
            "--dir",
            str(scratch),
            "--save",
            "",
            "--appendonly",
            "no",
            "--activedefrag",
            "no",
            "--loglevel",
            "warning",
            "--proc-title-template",
            "redis",
        ]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [PROGRAMS / "measure", report_file, library, *command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=errors,
            env=environment() | workload.env,
            start_new_session=True,
        )
        try:
            wall = serve(process, folder, socket) if workload.server else None
            process.wait(timeout=TIMEOUT_S)
            result = read_report(report_file)
            if wall is not None:
                result["wall"] = wall
            if result["status"] != 0:
                raise RuntimeError(describe(result["status"]))
            out.seek(0)
            if workload.kind != "program":
                result |= parse_line(out.read().decode())
            result["time"] = result[workload.time]
            return result
        except (RuntimeError, ValueError, OSError, subprocess.TimeoutExpired) as error:
            end(process)
            errors.seek(0)
            why = "timeout" if isinstance(error, subprocess.TimeoutExpired) else str(error)
            return {"error": f"{why} {errors.read().decode(errors='replace')[-300:]}".strip()}


# --- all runs ------------------------------------------------------------------------------------------------------


def median_of(runs):
    """The medians of all keys over the runs that succeeded; an error if none or if any failed."""
    failed = [run["error"] for run in runs if "error" in run]
    if failed:
        return {"error": failed[0], "failed_runs": len(failed)}
    result = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    times = [run["time"] for run in runs]
    result["time_spread"] = (max(times) - min(times)) / result["time"] if result["time"] else 0
    return result


def measure_all(chosen, libraries, repeats, folder, scratch):
    runs = {w.name: {name: [] for name in libraries} for w in chosen}
    names = list(libraries)
    for turn in range(repeats):
        for w in chosen:
            began = time.monotonic()
            shift = turn % len(names)
            for name in names[shift:] + names[:shift]:
                result = run_once(w, libraries[name], folder, scratch)
                runs[w.name][name].append(result)
                if "error" in result:
                    say(f"{w.name} on {name}: {result['error']}")
            say(f"round {turn + 1} of {repeats}: {w.name} ({time.monotonic() - began:.1f} s)")
    return runs


def say(message):
    print(f"bench: {message}", file=sys.stderr, flush=True)


def machine():
    def first(path, pattern):
        try:
            found = re.search(pattern, pathlib.Path(path).read_text(), re.M)
            return found[1].strip() if found else "?"
        except OSError:
            return "?"

    git = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True)
    return {
        "cpu": first("/proc/cpuinfo", r"^model name\s*:(.*)"),
        "cores": os.cpu_count(),
        "memory_gb": round(int(first("/proc/meminfo", r"^MemTotal:\s*(\d+)")) * 1024 / 1e9, 1),
        "kernel": os.uname().release,
        "system": first("/etc/os-release", r'^PRETTY_NAME="(.*)"'),
        "huge_pages": first("/sys/kernel/mm/transparent_hugepage/enabled", r"\[(\w+)\]"),
        "load_before": round(os.getloadavg()[0], 2),
        "acre": git.stdout.strip() or "?",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def versions(libraries, chosen):
    """Versions of Debian packages by the files that were used; a library of elsewhere is named by its file."""

    def package(path):
        for candidate in {path, path.replace("/usr/lib/", "/lib/", 1), os.path.realpath(path)}:
            owner = subprocess.run(["dpkg-query", "-S", candidate], capture_output=True, text=True).stdout.partition(
                ": "
            )[0]
            if owner:
                break
        else:
            return None
        owner = owner.split(",")[0]
        shown = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Package} ${Version}", owner], capture_output=True, text=True
        )
        return shown.stdout or None

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda p: package(p) or os.path.basename(p), libraries.values()))
        commands = sorted({w.command[0] for w in chosen if w.kind == "program"})
        paths = [os.path.realpath(shutil.which(c, path=environment()["PATH"]) or c) for c in commands]
        programs = list(pool.map(lambda p: package(p) or os.path.basename(p), paths))
    return dict(zip(libraries, found)), sorted(set(programs))


def arguments():
    names = lambda text: [word for word in re.split(r"[,\s]+", text) if word]
    p = argparse.ArgumentParser(
        prog="bench/run.sh",
        description="acre against its peers; see bench/README.md",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    e = os.environ.get
    p.add_argument("--quick", action="store_true", help="small scale, three rounds: a look in less than five minutes")
    p.add_argument("--repeats", type=int, default=int(e("BENCH_REPEATS", 0)), help="rounds; 0 is 5, or 3 if quick")
    p.add_argument(
        "--only",
        type=names,
        default=names(e("BENCH_ONLY", "")),
        help="these workloads (names, or kinds: workload, program, table)",
    )
    p.add_argument("--skip", type=names, default=names(e("BENCH_SKIP", "")), help="all but these")
    p.add_argument(
        "--allocators", type=names, default=names(e("BENCH_ALLOCATORS", "")), help="only these, in this order"
    )
    p.add_argument("--out", type=pathlib.Path, default=PROGRAMS, help="where results.json and its kin go")
    p.add_argument(
        "--docs",
        nargs="?",
        type=pathlib.Path,
        const=ROOT / "docs",
        metavar="FOLDER",
        help="also write benchmarks.svg and benchmarks.md there (docs/ if none is named)",
    )
    p.add_argument(
        "--from", dest="source", type=pathlib.Path, metavar="RESULTS", help="run nothing, show this results.json again"
    )
    p.add_argument("--list", action="store_true", help="print the workloads and allocators and stop")
    return p.parse_args()


def main():
    options = arguments()
    folder = BUILD / ("bench-inputs-quick" if options.quick else "bench-inputs")
    every = workloads(options.quick, folder)
    known = {w.name for w in every} | {w.kind for w in every}
    for name in [*options.only, *options.skip]:
        if name not in known:
            sys.exit(f"no such workload: {name} (there are {', '.join(w.name for w in every)})")

    if options.source:
        results = json.loads(options.source.read_text())
    else:
        match = lambda w, names: w.name in names or w.kind in names
        chosen = [w for w in every if (not options.only or match(w, options.only)) and not match(w, options.skip)]
        libraries = allocators(options.allocators)
        for w in list(chosen):
            if shutil.which(w.command[0], path=environment()["PATH"]) is None:
                say(f"{w.name} is left out: {w.command[0]} is not there")
                chosen.remove(w)
        if options.list:
            print("\n".join(f"{w.kind:9} {w.name}" for w in chosen))
            print("\n".join(f"allocator {name} {path}" for name, path in libraries.items()))
            return
        if not chosen or not libraries:
            sys.exit("bench: nothing to run")
        if any(w.kind == "program" for w in chosen):
            inputs.make(folder, QUICK_SIZE if options.quick else 1.0)
        repeats = options.repeats or (3 if options.quick else 5)
        about = machine()
        about["versions"], about["programs"] = versions(libraries, chosen)
        began = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="acre-bench.") as scratch:
            scratch = pathlib.Path(scratch)
            used = dict(libraries)
            if "acre" in used:  # a copy, so that a build meanwhile changes nothing
                used["acre"] = shutil.copy(used["acre"], scratch / "libacre.so")
            runs = measure_all(chosen, used, repeats, folder, scratch)
        results = {
            "machine": about,
            "quick": options.quick,
            "repeats": repeats,
            "took_s": round(time.monotonic() - began),
            "libraries": libraries,
            "workloads": {
                w.name: {
                    "kind": w.kind,
                    "time": w.time,
                    "command": [os.path.basename(w.command[0]), *w.command[1:]],
                    "env": w.env,
                }
                for w in chosen
            },
            "medians": {w.name: {name: median_of(r) for name, r in runs[w.name].items()} for w in chosen},
            "runs": runs,
        }
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")

    print(report.as_text(results))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "benchmarks.md").write_text(report.as_markdown(results))
    pictures = [options.out / "benchmarks.svg"]
    if options.docs:
        options.docs.mkdir(parents=True, exist_ok=True)
        report.put_into(options.docs / "benchmarks.md", report.as_markdown(results))
        pictures.append(options.docs / "benchmarks.svg")
    try:
        import picture

        for path in pictures:
            picture.draw(results, path)
    except ImportError as error:
        say(f"no picture: {error} (Debian: python3-matplotlib)")
    say(f"results.json, benchmarks.md and benchmarks.svg are in {os.path.relpath(options.out)}")
    if options.docs:
        say(f"figures and picture are in {os.path.relpath(options.docs)}")
    failed = [f"{w} on {a}" for w, by in results["medians"].items() for a, m in by.items() if "error" in m]
    if failed:
        sys.exit(f"bench: failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
