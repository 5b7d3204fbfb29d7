#!/usr/bin/env python3
"""chart.py: the memory of a flight as a picture, from the table that the program wrote.

  chart.py memory.csv memory.png

Needs matplotlib (Debian: python3-matplotlib)."""
import csv
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

MIB = 1048576.0
INK, GRID, LIMIT = "#2b2f36", "#d9d6cc", "#d64525"
LIVE, PENDING = "#4fb3a5", "#f2a541"
TARGETS, STAGING, HOLES, EMPTY = "#8a9bb0", "#b9a7d0", "#e6e0cf", "#f1ede1"
LEVELS = ["#f2c14e", "#e0913f", "#b9643f", "#835571", "#4a5670"]


def read(path):
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def mib(values):
    return [v / MIB for v in values]


def style(axes, title, unit):
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK, pad=8)
    axes.set_ylabel(unit, color=INK)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    for side in axes.spines.values():
        side.set_visible(False)


def legend(axes):
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9, labelcolor=INK,
                handlelength=1.2, borderaxespad=0)


def textures(axes, t):
    live, pending, budget = mib(t["textures_live"]), mib(t["textures_pending"]), mib(t["textures_budget"])
    axes.stackplot(t["frame"], live, pending, colors=[LIVE, PENDING], linewidth=0,
                   labels=["live", "freed, the GPU may\nstill use it"])
    axes.step(t["frame"], budget, color=LIMIT, linewidth=2, where="post", label="budget")
    axes.plot(t["frame"], mib(t["wanted"]), color=INK, linewidth=1, linestyle=(0, (4, 3)),
              label="wanted by what\nis in sight")
    axes.set_ylim(0, max(mib(t["wanted"])) * 1.1)
    style(axes, "Textures: 768 MiB seen through a budget that is cut to a half and given back", "MiB")
    cut = next((f for f, a, b in zip(t["frame"][1:], budget, budget[1:]) if b < a), None)
    if cut:
        axes.annotate("cut", (cut, min(budget)), (cut + 3, min(budget) + 5), color=LIMIT, fontsize=10,
                      fontweight="bold")
    legend(axes)


def driver(axes, t):
    parts = [mib(t[name]) for name in ("targets", "staging", "textures_live", "pending", "holes", "empty")]
    axes.stackplot(t["frame"], *parts, colors=[TARGETS, STAGING, LIVE, PENDING, HOLES, EMPTY], linewidth=0,
                   labels=["targets", "staging (ring)", "textures", "pending", "holes", "empty, kept"])
    axes.step(t["frame"], mib(t["held"]), color=INK, linewidth=1.6, where="post", label="held from the driver")
    axes.set_ylim(0, max(mib(t["held"])) * 1.1)
    style(axes, "All memory: held = live + pending + holes + empty, at every moment", "MiB")
    legend(axes)


def levels(axes, t):
    labels = ["512 x 512", "256 x 256", "128 x 128", "64 x 64", "32 x 32 and less"]
    axes.stackplot(t["frame"], *[t[f"level{i}"] for i in range(5)], colors=LEVELS, linewidth=0, labels=labels)
    axes.set_ylim(0, max(t["visible"]) * 1.05)
    style(axes, "Tiles in sight, by the finest level in memory", "tiles")
    legend(axes)


def uploads(axes, t):
    axes.bar(t["frame"], mib(t["uploaded"]), width=1.0, color=STAGING, label="uploaded")
    axes.plot(t["frame"], mib(t["ring_used"]), color=INK, linewidth=1, label="ring in use")
    style(axes, "Staging: what went through the ring", "MiB per frame")
    axes.set_xlabel("frame", color=INK)
    axes.set_ylim(bottom=0)
    legend(axes)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    t = read(sys.argv[1])
    plt.rcParams["font.family"] = "DejaVu Sans"
    figure, axes = plt.subplots(4, 1, figsize=(12, 13), sharex=True, height_ratios=[3, 3, 2.2, 1.4])
    figure.patch.set_facecolor("#fbfaf5")
    for ax in axes:
        ax.set_facecolor("#fbfaf5")
        ax.set_xlim(t["frame"][0], t["frame"][-1])
    textures(axes[0], t)
    driver(axes[1], t)
    levels(axes[2], t)
    uploads(axes[3], t)
    figure.tight_layout(h_pad=2.0)
    figure.savefig(sys.argv[2], dpi=110)


if __name__ == "__main__":
    main()
