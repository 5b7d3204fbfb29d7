"""The picture of the results: geometric means of time (to the right is slower) and of peak memory (up is bigger), one
point an allocator, glibc at 1, 1. It is drawn by matplotlib from the same numbers as the tables."""
import itertools
import math

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.transforms import Bbox  # noqa: E402

import report  # noqa: E402

INK, QUIET, GRID, ACCENT, PEER = "#1d2126", "#5d6670", "#e4e7ea", "#c2410c", "#33658a"


def limits(values):
    """A range around the values and 1, with room for labels, at least 0.3 wide."""
    low, high = min(*values, 1.0), max(*values, 1.0)
    room = max(0.18 * (high - low), (0.3 - (high - low)) / 2, 0.04)
    return low - room, high + room


def distance(box, point):
    x, y = point
    return math.hypot(max(box.x0 - x, 0, x - box.x1), max(box.y0 - y, 0, y - box.y1))


def place_labels(figure, axes, points):
    """Puts each label beside its point where it covers no point, label or border and, if it can be, no line."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    at = {name: axes.transData.transform(xy) for name, xy in points.items()}
    dot = figure.dpi / 72 * 7
    taken = [Bbox.from_bounds(x - dot, y - dot, 2 * dot, 2 * dot) for x, y in at.values()]
    frame = axes.get_window_extent(renderer)
    scale = figure.dpi / 72
    one_x, one_y = axes.transData.transform((1, 1))
    for name in sorted(points, key=lambda n: (n != "acre", points[n])):
        label = axes.annotate(
            name,
            points[name],
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=11.5,
            zorder=4,
            va="bottom",
            color=ACCENT if name == "acre" else INK,
            fontweight="bold" if name == "acre" else "normal",
        )
        width, height = (
            label.get_window_extent(renderer).width / scale,
            label.get_window_extent(renderer).height / scale,
        )
        best = None
        for far, turn in itertools.product((8, 16, 28, 42, 60), range(16)):
            angle = math.tau * turn / 16
            # The nearest point of the label's box is `far` from the point, in this direction.
            dx, dy = math.cos(angle), math.sin(angle)
            x = dx * far - (width if dx < -0.38 else width / 2 if abs(dx) <= 0.38 else 0)
            y = dy * far - (height if dy < -0.38 else height / 2 if abs(dy) <= 0.38 else 0)
            px, py = at[name]
            box = Bbox.from_bounds(px + x * scale, py + y * scale, width * scale, height * scale).padded(1.5 * scale)
            covered = sum(box.overlaps(other) for other in taken)
            outside = not (frame.x0 < box.x0 and box.x1 < frame.x1 and frame.y0 < box.y0 and box.y1 < frame.y1)
            crossed = (box.x0 < one_x < box.x1) + (box.y0 < one_y < box.y1)
            # A reader gives a label to the point that is nearest to it.
            strangers = sum(distance(box, at[other]) < 1.6 * distance(box, at[name]) for other in at if other != name)
            cost = 10 * (covered + outside) + 3 * strangers + crossed + far / 16 + turn / 100
            if best is None or cost < best[0]:
                best = (cost, x, y, box, strangers > 0 or far > 16)
        _, x, y, box, far_off = best
        taken.append(box)
        label.set_position((x, y))
        if far_off:
            px, py = at[name]
            edge = (min(max(px, box.x0), box.x1), min(max(py, box.y0), box.y1))
            axes.annotate(
                "",
                points[name],
                xytext=((edge[0] - px) / scale, (edge[1] - py) / scale),
                textcoords="offset points",
                zorder=2,
                arrowprops={"arrowstyle": "-", "color": QUIET, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 4},
            )


def draw(results, path):
    times, memory = report.geometric_means(results, "time"), report.geometric_means(results, "peak_mb")
    if not times:
        return
    points = {name: (times[name], memory[name]) for name in times}
    with plt.rc_context(
        {"font.family": "DejaVu Sans", "svg.fonttype": "path", "svg.hashsalt": "acre", "font.size": 10.5}
    ):
        figure, axes = plt.subplots(figsize=(8, 5.6), dpi=100)
        axes.set_xlim(limits(times.values()))
        axes.set_ylim(limits(memory.values()))
        axes.grid(color=GRID, linewidth=0.9)
        axes.set_axisbelow(True)
        axes.axvline(1, color=QUIET, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        axes.axhline(1, color=QUIET, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(QUIET)
        axes.tick_params(colors=QUIET)
        for name, (x, y) in points.items():
            axes.scatter(
                [x],
                [y],
                s=95 if name == "acre" else 65,
                color=ACCENT if name == "acre" else PEER,
                zorder=3.5 if name == "acre" else 3,
                edgecolor="white",
                linewidth=1.2,
            )
        base = report.base_of(results)
        axes.set_xlabel(f"time, {base} = 1   (left is faster)", color=INK, labelpad=8)
        axes.set_ylabel(f"peak memory, {base} = 1   (down is smaller)", color=INK, labelpad=8)
        m = results["machine"]
        figure.suptitle(
            f"Time against memory: geometric means over {len(report.counted(results))} workloads and programs",
            x=0.02,
            y=0.985,
            ha="left",
            fontsize=13,
            color=INK,
            fontweight="bold",
        )
        figure.text(
            0.02,
            0.925,
            f"{m['cpu']}, {m['cores']} cores, Linux {m['kernel']}, {m['date']}; medians of "
            f"{results['repeats']} interleaved rounds{', quick scale' if results['quick'] else ''}",
            ha="left",
            va="center",
            fontsize=9.5,
            color=QUIET,
        )
        figure.tight_layout(rect=(0, 0, 1, 0.91))
        place_labels(figure, axes, points)
        figure.savefig(path, metadata={"Date": None} if str(path).endswith(".svg") else None)
        plt.close(figure)
