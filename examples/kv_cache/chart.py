"""The chart of kv_cache: chart.py FILE.csv FILE.png [TITLE…]"""
import csv
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

GIB = 1 << 30
COLOURS = {"weights": "#9aa3ad", "prefixes": "#c58b2a", "chats": "#7a5ea8", "sequences": "#2f7fb8",
           "views": "#e3c48f", "empty": "#d9e6f0"}


def read(path):
    with open(path, newline="") as f:
        rows = list(csv.DictReader(f))
    return {key: [float(row[key]) for row in rows] for key in rows[0]}


def gib(values):
    return [v / GIB for v in values]


def span(flags):
    """First and last step at which a flag is set; None: never."""
    steps = [i for i, flag in enumerate(flags) if flag]
    return (steps[0], steps[-1]) if steps else None


def main():
    data = read(sys.argv[1])
    steps = data["step"]
    figure, (top, middle, bottom) = plt.subplots(
        3, 1, figsize=(11, 11), sharex=True, height_ratios=(3, 3, 1.6), constrained_layout=True
    )
    title = " ".join(sys.argv[3:])
    figure.suptitle("A key-value cache that grows in place" + (f"\n{title}" if title else ""), fontsize=13)

    parts = ["weights", "prefixes", "chats", "sequences", "views", "empty"]
    names = {"weights": "weights", "prefixes": "shared prefixes", "chats": "chats", "sequences": "sequences",
             "views": "prefixes that only views hold", "empty": "empty, kept"}
    data["views"] = [max(0, row[0] - sum(row[1:])) for row in
                     zip(data["held"], *(data[p] for p in parts if p != "views"))]
    top.stackplot(steps, *(gib(data[p]) for p in parts), labels=[names[p] for p in parts],
                  colors=[COLOURS[p] for p in parts], linewidth=0)
    top.plot(steps, gib(data["held"]), color="#12364f", linewidth=1.1, label="held")
    top.axhline(data["budget"][0] / GIB, color="#b03030", linewidth=1, linestyle="--", label="budget")
    night = span(data["asleep"])
    if night:
        for axis in (top, middle, bottom):
            axis.axvspan(*night, color="#000000", alpha=0.06, linewidth=0)
        # Right of the night, above what grows again: nothing is there.
        top.annotate(
            f"asleep: weights and\nchats ({data['asleep'][night[0]] / GIB:.2f} GiB) in\nhost memory,\naddresses kept",
            (night[1], data["budget"][0] / GIB * 0.83), (8, 0), textcoords="offset points", ha="left", va="center",
            fontsize=9)
    top.set_ylabel("GiB")
    top.set_title("What acre holds, by category", loc="left", fontsize=11)
    top.set_ylim(0, data["budget"][0] / GIB * 1.12)
    top.legend(loc="upper center", ncol=8, fontsize=8, frameon=False, columnspacing=1.1, handlelength=1.4)

    kv = [held - weights for held, weights in zip(data["held"], data["weights"])]
    lines = [("reserve_max", "longest set aside for each", "#b03030"), ("copy_grow", "copy to grow (doubling)", "#c58b2a")]
    for key, name, colour in lines:
        middle.plot(steps, gib(data[key]), color=colour, linewidth=1.4, label=name)
    middle.plot(steps, gib(kv), color="#2f7fb8", linewidth=1.8, label="acre: held, empty memory included")
    middle.plot(steps, gib(data["needed"]), color="#222222", linewidth=1, linestyle=":", label="needed by the tokens")
    middle.set_yscale("log")
    floor = min(v for v in gib(data["needed"]) if v > 0)
    middle.set_ylim(floor * 0.6, max(gib(data["reserve_max"])) * 1.6)
    middle.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda v, _: f"{v:g}"))
    middle.set_ylabel("GiB, log scale")
    middle.set_title("The same sequences, three ways to hold them (key-value cache only)", loc="left", fontsize=11)
    middle.legend(loc="lower left", bbox_to_anchor=(0.2, 0), ncol=2, fontsize=8, frameon=False)
    middle.grid(axis="y", alpha=0.25)

    bottom.plot(steps, data["running"], color="#2f7fb8", linewidth=1.4, label="running")
    bottom.plot(steps, data["waiting"], color="#c58b2a", linewidth=1, label="waiting")
    evictions = [i for i in range(1, len(steps)) if data["evicted"][i] > data["evicted"][i - 1]]
    if evictions:
        bottom.plot([steps[i] for i in evictions], [data["running"][i] for i in evictions], ".", color="#b03030",
                    markersize=3, label="evicted for want of budget")
    fits = int(data["budget"][0] // (8192 * 131072))
    bottom.axhline(fits, color="#b03030", linewidth=1, linestyle="--",
                   label=f"the most that could run with the longest set aside: {fits}")
    bottom.set_ylabel("sequences")
    bottom.set_xlabel("decoding step")
    bottom.set_xlim(steps[0], steps[-1])
    bottom.legend(loc="upper right", ncol=4, fontsize=8, frameon=False)
    bottom.set_ylim(0, max(max(data["running"]), max(data["waiting"]), fits) * 1.35)
    for axis in (top, middle, bottom):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(sys.argv[2], dpi=90)


if __name__ == "__main__":
    main()
