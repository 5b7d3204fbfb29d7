"""Tables of the results: as text for the terminal, as markdown for docs/benchmarks.md."""
import math

METRICS = [  # key, title, format
    ("time", "Time, s", lambda v: f"{v:.3f}" if v < 10 else f"{v:.1f}"),
    ("cpu", "CPU time, s", lambda v: f"{v:.3f}" if v < 10 else f"{v:.1f}"),
    ("peak_mb", "Peak resident memory, MB", lambda v: f"{v:.1f}" if v < 100 else f"{v:.0f}"),
    ("faults", "Page faults, thousands", lambda v: f"{v / 1000:.1f}" if v < 1e5 else f"{v / 1000:.0f}"),
]
COMMON = {"wall", "cpu", "peak_mb", "faults", "status", "ops", "seconds", "ns_per_op", "time", "time_spread"}
# Workloads whose own pairs are a table, with what its numbers are.
TABLES = {
    "phase_change": "Phase change: resident over live bytes at each point, and MB left at the end",
    "idle_threads": "Mostly idle threads: peak MB of 64 and of one with the same live bytes, and the ratio",
    "burst": "Bursts of 1,000: ns per malloc and free",
    "hot_pair": "Hot pair: ns per malloc and free",
    "latency_small": "Latency, small: 100,000 live of 16 B-4 KiB, ns",
    "latency_medium": "Latency, medium: 200 MB live of 4 KiB-32 MiB, untouched, ns",
    "latency_medium_touched": "Latency, medium, touched once per OS page, ns",
    "realloc_table": "Realloc: ns per call by way of growing and final size",
    "medium_waste": "Medium waste: usable over requested less 1, percent; resident over requested",
}


def base_of(results):
    names = list(results["libraries"])
    return "glibc" if "glibc" in names else names[0]


def counted(results):
    """Workloads that are part of the means: those that succeeded on every allocator."""
    return [
        w
        for w, about in results["workloads"].items()
        if about["kind"] != "table" and all("error" not in m for m in results["medians"][w].values())
    ]


def geometric_means(results, metric, kinds=("workload", "program")):
    """allocator -> geometric mean of its ratio to the base; {} if nothing was counted."""
    base = base_of(results)
    rows = [w for w in counted(results) if results["workloads"][w]["kind"] in kinds]
    if not rows:
        return {}

    def mean(name):
        logs = [
            math.log(max(results["medians"][w][name][metric], 1e-9) / max(results["medians"][w][base][metric], 1e-9))
            for w in rows
        ]
        return math.exp(sum(logs) / len(logs))

    return {name: mean(name) for name in results["libraries"]}


def best_per_program(results, metric):
    """The geometric mean of the best peer of each row: what nobody can have but by being the best everywhere."""
    base, rows = base_of(results), counted(results)
    peers = [name for name in results["libraries"] if name != "acre"]
    if not rows or not peers:
        return None
    logs = [
        math.log(
            max(min(results["medians"][w][p][metric] for p in peers), 1e-9)
            / max(results["medians"][w][base][metric], 1e-9)
        )
        for w in rows
    ]
    return math.exp(sum(logs) / len(logs))


def number(value):
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def metric_rows(results, metric, show):
    """Header and rows of one metric; the last column is acre over its best peer."""
    names = list(results["libraries"])
    compare = "acre" in names and len(names) > 1
    rows = []
    for w, about in results["workloads"].items():
        if about["kind"] == "table":
            continue
        medians = results["medians"][w]
        good = {n: medians[n][metric] for n in names if "error" not in medians[n]}
        cells = [show(good[n]) if n in good else "failed" for n in names]
        best = min(good, key=good.get) if good else None
        peers = [good[n] for n in good if n != "acre"]
        ratio = (
            f"{good['acre'] / max(min(peers), 1e-9):.2f}"
            if compare and "acre" in good and peers
            else "-"
            if compare
            else None
        )
        rows.append((w, cells, names.index(best) if best else None, ratio))
    return (["", *names] + (["acre / best"] if compare else [])), rows


def mean_rows(results):
    rows = []
    for metric, title in (("time", "time"), ("cpu", "CPU time"), ("peak_mb", "peak memory"), ("faults", "page faults")):
        for label, kinds in (
            ("", ("workload", "program")),
            (", workloads", ("workload",)),
            (", programs", ("program",)),
        ):
            if label and metric not in ("time", "peak_mb"):
                continue
            means = geometric_means(results, metric, kinds)
            if means:
                best = min(means, key=means.get)
                rows.append((title + label, [f"{v:.3f}" for v in means.values()], list(means).index(best)))
    return rows


def pair_rows(results, workload):
    names = list(results["libraries"])
    medians = results["medians"][workload]
    good = [n for n in names if "error" not in medians[n]]
    keys = [k for k in medians[good[0]] if k not in COMMON] if good else []
    rows = []
    for key in keys:
        values = {n: medians[n][key] for n in good}
        best = min(values, key=values.get)
        rows.append((key, [number(values[n]) if n in values else "failed" for n in names], names.index(best)))
    return rows


def scaling_row(results):
    """Two threads over one: operations per second, if both were run."""
    one, two = (results["medians"].get(w) for w in ("small_random", "small_random_2"))
    if not one or not two:
        return None
    cells = [
        2 * one[n]["time"] / two[n]["time"] if "error" not in one[n] and "error" not in two[n] else math.nan
        for n in results["libraries"]
    ]
    return [f"{c:.2f}" for c in cells]


def shortcomings(results):
    """Rows where acre is over 1.10 of the fastest peer's time or over 1.25 of the smallest peer's memory."""
    found = []
    for w, medians in results["medians"].items():
        if results["workloads"][w]["kind"] == "table" or "error" in medians.get("acre", {"error": ""}):
            continue
        for metric, limit, word in (("time", 1.10, "time"), ("peak_mb", 1.25, "memory")):
            peers = {n: m[metric] for n, m in medians.items() if n != "acre" and "error" not in m}
            if peers:
                best = min(peers, key=peers.get)
                ratio = medians["acre"][metric] / max(peers[best], 1e-9)
                if ratio > limit:
                    found.append((w, word, ratio, best))
    return found


def headline(results):
    m = results["machine"]
    spreads = sorted(x["time_spread"] for by in results["medians"].values() for x in by.values() if "time_spread" in x)
    spread = spreads[len(spreads) // 2] if spreads else 0
    return (
        f"{m['date']}, {m['cpu']}, {m['cores']} cores, {m['memory_gb']} GB, Linux {m['kernel']}, {m['system']}, "
        f"huge pages {m['huge_pages']}; acre {m['acre']}; {results['repeats']} interleaved rounds"
        f"{', quick scale' if results['quick'] else ''}, medians, {results['took_s']} s; median spread of the times "
        f"{spread:.0%}; load average before {m['load_before']}"
    )


# --- text ----------------------------------------------------------------------------------------------------------


def text_table(title, header, rows):
    """rows: (name, cells, index of the best, last column or None); the best has a star."""
    lines = []
    for row in rows:
        name, cells, best = row[:3]
        cells = [cell + ("*" if i == best else " ") for i, cell in enumerate(cells)]
        lines.append([name, *cells, *([row[3]] if len(row) > 3 and row[3] is not None else [])])
    widths = [max(len(str(line[i])) for line in [header, *lines]) for i in range(len(header))]

    def fit(line):
        return "  ".join(
            str(c).ljust(w) if i == 0 else str(c).rjust(w) for i, (c, w) in enumerate(zip(line, widths))
        ).rstrip()

    return (
        "\n".join(
            [
                title,
                fit(
                    [
                        h + (" " if 0 < i <= len(lines[0]) - 1 and h != "acre / best" else "")
                        for i, h in enumerate(header)
                    ]
                ),
                *map(fit, lines),
            ]
        )
        + "\n"
    )


def as_text(results):
    names = list(results["libraries"])
    parts = [headline(results) + "\n"]
    for metric, title, show in METRICS:
        header, rows = metric_rows(results, metric, show)
        if rows:
            parts.append(text_table(title, header, rows))
    for w, title in TABLES.items():
        if w in results["medians"]:
            rows = pair_rows(results, w)
            if rows:
                parts.append(text_table(title, ["", *names], rows))
    scaling = scaling_row(results)
    if scaling:
        parts.append(
            text_table(
                "Threads: work of two over work of one, small_random (2 is perfect)",
                ["", *names],
                [("two over one", scaling, None)],
            )
        )
    means = mean_rows(results)
    if means:
        parts.append(
            text_table(
                f"Geometric means over {len(counted(results))} rows, {base_of(results)} = 1", ["", *names], means
            )
        )
    for w, word, ratio, best in shortcomings(results):
        parts.append(f"acre falls short: {w}, {word} {ratio:.2f} of {best}")
    return "\n".join(parts)


# --- markdown ------------------------------------------------------------------------------------------------------


def markdown_table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    for row in rows:
        name, cells, best = row[:3]
        cells = [f"**{cell}**" if i == best else cell for i, cell in enumerate(cells)]
        last = [row[3]] if len(row) > 3 and row[3] is not None else []
        lines.append("| " + " | ".join([name, *cells, *last]) + " |")
    return "\n".join(lines) + "\n"


def as_markdown(results):
    names, m = list(results["libraries"]), results["machine"]
    parts = [
        headline(results) + ".\n",
        "Allocators: " + "; ".join(f"{n} ({v})" for n, v in m["versions"].items()) + ".\n",
    ]
    if m["programs"]:
        parts.append("Programs: " + ", ".join(m["programs"]) + ".\n")
    parts.append(
        f"Made by `bench/run.sh{' --quick' if results['quick'] else ''} --docs`; the best of each row is bold, less is "
        "better.\n"
    )
    means = mean_rows(results)
    if means:
        parts += [
            f"### Geometric means over {len(counted(results))} rows, {base_of(results)} = 1\n",
            "![Time against memory, one point per allocator](benchmarks.svg)\n",
            markdown_table(["", *names], means),
        ]
        best = {metric: best_per_program(results, metric) for metric in ("time", "peak_mb")}
        if all(best.values()):
            parts.append(
                f"The best peer of each row would be at {best['time']:.3f} in time and {best['peak_mb']:.3f} in "
                "memory.\n"
            )
        short = shortcomings(results)
        if short:
            parts.append(
                "acre takes over 1.10 of the time of the fastest peer, or over 1.25 of the memory of the smallest, in: "
                + "; ".join(f"{w} ({word} {ratio:.2f} of {peer})" for w, word, ratio, peer in short)
                + ".\n"
            )
    for metric, title, show in METRICS:
        header, rows = metric_rows(results, metric, show)
        if rows:
            parts += [f"### {title}\n", markdown_table(header, rows)]
    for w, title in TABLES.items():
        if w in results["medians"]:
            rows = pair_rows(results, w)
            if rows:
                parts += [f"### {title}\n", markdown_table(["", *names], rows)]
    scaling = scaling_row(results)
    if scaling:
        parts += [
            "### Threads: work of two over work of one (2 is perfect)\n",
            markdown_table(["", *names], [("small_random", scaling, None)]),
        ]
    failed = [
        f"{w} on {n}: {x['error']}" for w, by in results["medians"].items() for n, x in by.items() if "error" in x
    ]
    if failed:
        parts += ["### Failed\n", "\n".join(f"- {line}" for line in failed) + "\n"]
    return "\n".join(parts)


BEGIN, END = "<!-- bench/run.sh --docs: begin -->", "<!-- bench/run.sh --docs: end -->"


def put_into(path, fragment):
    """Replaces what stands between the two marks of a document, or adds both at its end."""
    text = path.read_text() if path.exists() else "# Benchmarks\n"
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        before, after = text.rstrip("\n") + "\n\n", "\n"
    path.write_text(f"{before}{BEGIN}\n{fragment}{END}{after}")
