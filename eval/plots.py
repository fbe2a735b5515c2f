"""The pictures of a report: one function per plot, data in, a matplotlib ``Figure`` out.

Base is always blue, trained always vermilion, further models come after. Lengths are on a log2 axis, where a halving
has the same width everywhere. A figure is 4.4 inches wide, so that its text can still be read on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter
from numpy.typing import ArrayLike, NDArray

from .figures import BASE, CONTROLS, INK, MUTED, PAPER, RULE, TRAINED, label
from .wording import count, percent, ratio, seconds

F64 = NDArray[np.float64]
COLOURS = (BASE, TRAINED, *CONTROLS)
WIDTH = 4.4
"""Inches."""
SMALL, NORMAL = 8, 9
"""Font sizes, points."""


def accuracy_against_tokens(blocks: Mapping[str, Mapping[str, Any]], one_pass: float | None = None) -> Figure:
    """Accuracy over mean tokens, with crosses of the 95 % intervals.

    blocks: label -> block of ``summary.json``; base first, then trained, then controls. An arrow joins the first two.
    one_pass: mean tokens of a response without any re-checking, drawn as a line, where it is known.
    """
    figure, axes = _figure(3.2)
    crosses = []
    x = [block["tokens"]["mean"] for block in blocks.values()]
    y = [block["accuracy"]["avg_at_k"]["value"] for block in blocks.values()]
    for name, block, colour, at, value in zip(blocks, blocks.values(), _cycle(len(blocks)), x, y, strict=True):
        bars = axes.errorbar(
            at, value, xerr=_reach(at, block["tokens"]["mean_ci95"]),
            yerr=_reach(value, block["accuracy"]["avg_at_k"]["ci95"]),
            fmt="o", ms=6, color=colour, elinewidth=1.4, capsize=3, zorder=3,
            label=f"{label(name)}: {percent(value)}, {count(at)} tokens",
        )  # fmt: skip
        crosses.append(bars)
    if len(blocks) > 1:
        arrow = {"arrowstyle": "->", "color": MUTED, "lw": 1, "shrinkA": 9, "shrinkB": 9}
        axes.annotate("", (x[1], y[1]), xytext=(x[0], y[0]), arrowprops=arrow, zorder=2)
    if one_pass is not None:
        axes.axvline(one_pass, color=MUTED, lw=1, ls=(0, (4, 3)), zorder=1)
        axes.annotate(
            f"one pass, {count(one_pass)} tokens", (one_pass, 0), xycoords=("data", "axes fraction"), xytext=(4, 5),
            textcoords="offset points", fontsize=SMALL, color=MUTED,
        )  # fmt: skip
    limits = [limit for block in blocks.values() for limit in block["accuracy"]["avg_at_k"]["ci95"] or []]
    low, high = min([*y, *limits]), max([*y, *limits])
    pad = max(0.25 * (high - low), 0.01)
    axes.set_ylim(max(low - 1.4 * pad, -0.05), high + pad)
    _log2_axis(axes, [*x, *([one_pass] if one_pass else [])], pad=0.55)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}" if share <= 1 else ""))
    _labels(axes, "mean tokens per answer (log scale)", "accuracy, %")
    handles = [Line2D([], [], marker="o", lw=0, color=bars[0].get_color(), label=bars.get_label()) for bars in crosses]
    _legend(figure, handles, columns=1 if max(len(handle.get_label()) for handle in handles) > 34 else 2)
    return figure


def length_by_level(tasks: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], labels: Sequence[str]) -> Figure:
    """Mean tokens by difficulty, one panel a task, one bar a model; above a pair stands its ratio.

    tasks: task -> ``[levels of the first model, of the second]``, each the ``levels`` of a block of ``summary.json``.
    """
    figure = Figure(figsize=(WIDTH, 0.5 + 1.85 * len(tasks)), layout="constrained")
    panels = figure.subplots(len(tasks), 1, squeeze=False)[:, 0]
    for axes, (task, sides) in zip(panels, tasks.items(), strict=True):
        _clean(axes)
        levels = sorted({row["level"] for side in sides for row in side})
        width = 0.8 / len(labels)
        tops: dict[int, list[float]] = {level: [] for level in levels}
        for index, (side, colour) in enumerate(zip(sides, _cycle(len(labels)), strict=True)):
            offset = (index - (len(labels) - 1) / 2) * width
            at = [levels.index(row["level"]) + offset for row in side]
            reach = np.array([np.ravel(_reach(row["tokens"], row["tokens_ci95"]) or (0, 0)) for row in side]).T
            axes.bar(
                at, [row["tokens"] for row in side], width * 0.94, color=colour, zorder=2,
                yerr=reach if side else None, error_kw={"ecolor": INK, "elinewidth": 0.9, "capsize": 0},
            )  # fmt: skip
            for row in side:
                tops[row["level"]].append(max(row["tokens"], (row["tokens_ci95"] or [0])[-1]))
        if len(sides) == 2:
            means = [{row["level"]: row["tokens"] for row in side} for side in sides]
            for level in levels:
                if level in means[0] and level in means[1] and means[0][level]:
                    axes.annotate(
                        f"×{ratio(means[1][level] / means[0][level])}", (levels.index(level), max(tops[level])),
                        xytext=(0, 2), textcoords="offset points", ha="center", fontsize=SMALL - 1, color=MUTED,
                    )  # fmt: skip
        axes.set_xticks(range(len(levels)), [str(level) for level in levels])
        axes.tick_params(axis="x", length=0)
        axes.set_ylim(0, 1.12 * max(max(top) for top in tops.values()))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_title(label(task), fontsize=NORMAL, color=INK, loc="left", pad=6)
        _labels(axes, "level" if axes is panels[-1] else "", "tokens per answer")
    _legend_above(figure, labels)
    return figure


def length_histogram(lengths: Mapping[str, ArrayLike], cap: int | None = None) -> Figure:
    """Shares of responses by length, log2 bins, means as ticks below, the cap as a line.

    lengths: label -> response lengths in tokens, all samples of one model.
    """
    figure, axes = _figure(2.9)
    arrays = [np.maximum(np.asarray(values, np.float64), 1) for values in lengths.values()]
    every = np.concatenate(arrays)
    steps = np.arange(math.floor(4 * math.log2(every.min())), math.ceil(4 * math.log2(every.max())) + 2) / 4
    # Whole numbers of tokens, half way between two: no bin without an integer in it.
    edges = np.unique(np.ceil(2.0**steps)) - 0.5
    edges = np.append(edges[edges < every.max()], every.max() + 0.5)
    for values, colour in zip(arrays, _cycle(len(arrays)), strict=True):
        share = np.histogram(values, edges)[0] / len(values)
        axes.stairs(share, edges, fill=True, color=colour, alpha=0.28, zorder=2)
        axes.stairs(share, edges, color=colour, lw=1.4, zorder=3)
        axes.plot(values.mean(), 0, "^", ms=8, color=colour, mec=PAPER, mew=0.8, clip_on=False, zorder=4)
    _log2_axis(axes, [*edges[[0, -1]], cap or every.max()], pad=0.12)
    if cap is not None:
        axes.axvline(cap, color=INK, lw=1, ls=(0, (4, 3)), zorder=1)
        axes.annotate(
            f"cap {cap:,}", (cap, 1), xycoords=("data", "axes fraction"), xytext=(-4, -2), textcoords="offset points",
            ha="right", va="top", fontsize=SMALL, color=INK,
        )  # fmt: skip
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=False))
    _labels(axes, "tokens of a response (log scale, ▲ mean)", "share of responses, %")
    _legend_above(figure, list(lengths))
    return figure


Curves = Sequence[tuple[str, str, Sequence[tuple[str, str, str]]]]
"""(title, unit, [(key, label, colour), ...]) per panel."""

CURVES: Curves = (
    ("Accuracy and reward", "", [("outcome/accuracy", "accuracy", INK), ("reward/mean", "reward", CONTROLS[0])]),
    ("Mean length", "tokens", [("length/right", "right", CONTROLS[0]), ("length/wrong", "wrong", CONTROLS[1])]),
    ("Truncated by the cap", "%", [("length/truncated", "", INK)]),
    ("Cut by DOT", "%", [("dot/cut", "", INK)]),
    ("Entropy", "nats per token", [("policy/entropy", "", INK)]),
)
"""What is drawn of ``metrics.jsonl``; a panel without values is left out, time per phase is added."""


def training_curves(records: Sequence[Mapping[str, Any]], columns: int = 3) -> Figure:
    """Small multiples of the training metrics over the step.

    records: lines of ``metrics.jsonl``. Raw values are faint, their running mean is strong. Raises ``ValueError``
    where no known metric is in them.
    """
    phases = list(dict.fromkeys(key for record in records for key in record if key.startswith("seconds/")))
    colours = (BASE, CONTROLS[2], CONTROLS[0], CONTROLS[1], TRAINED, MUTED, INK)
    timing = [
        (phase, phase.removeprefix("seconds/").replace("_", " "), colours[i % len(colours)])
        for i, phase in enumerate(phases)
    ]
    panels = []
    for title, unit, wanted in (*CURVES, ("Time per phase", "s per step", timing)):
        lines = [(name, colour, *_series(records, key)) for key, name, colour in wanted]
        if lines := [line for line in lines if len(line[2])]:
            panels.append((title, unit, lines))
    if not panels:
        raise ValueError(f"none of {', '.join(key for _, _, w in CURVES for key, _, _ in w)} is in the metrics")
    rows = math.ceil(len(panels) / columns)
    # Three columns are for a wide page and fill it, fewer are for a phone.
    panel = (3.4, 2.15) if columns > 2 else (WIDTH / columns, 1.75)
    figure = Figure(figsize=(panel[0] * columns, panel[1] * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (title, unit, lines) in zip(grid, panels, strict=False):
        _clean(axes)
        scale = 100 if unit == "%" else 1
        for name, colour, step, value in lines:
            scaled = scale * np.array(value)
            axes.plot(step, scaled, color=colour, lw=0.8, alpha=0.3)
            axes.plot(step, _running_mean(scaled), color=colour, lw=1.6, label=label(name) or None)
        axes.set_title(f"{title}, {unit}" if unit else title, fontsize=NORMAL, color=INK, loc="left", pad=5)
        every = np.concatenate([scale * np.array(value) for *_, value in lines])
        if 0 <= every.min() <= 0.5 * every.max():  # from 0, unless that would squeeze the curve
            axes.set_ylim(0, 1.08 * every.max() or 1)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if any(name for name, *_ in lines):
            axes.legend(
                fontsize=SMALL - 1, frameon=False, labelcolor=INK, handlelength=1.1, borderaxespad=0.1,
                labelspacing=0.25, ncols=1 + (len(lines) > 4), columnspacing=0.9,
            )  # fmt: skip
    for axes in grid[len(panels) :]:
        axes.remove()
    for axes in grid[max(0, len(panels) - columns) : len(panels)]:
        _labels(axes, "step", "")
    return figure


PARTS = (("prefill", "prefill", 1.0), ("linear", "weights", 0.62), ("kv", "KV cache", 0.3))
"""Key, name and opacity of the parts of a response's cost."""


def cost_breakdown(costs: Mapping[str, Mapping[str, Any]]) -> Figure:
    """GPU time of a mean response split into prefill, weights and KV reads: a panel per batch size, a bar per model.

    costs: label -> ``cost`` of a block of ``summary.json``.
    """
    batches = sorted({batch for cost in costs.values() for batch in cost["gpu_s_parts"]}, key=int)
    figure = Figure(figsize=(WIDTH, 0.75 + len(batches) * (0.4 + 0.3 * len(costs))), layout="constrained")
    for axes, batch in zip(figure.subplots(len(batches), 1, squeeze=False)[:, 0], batches, strict=True):
        _clean(axes)
        axes.grid(False)
        axes.spines["bottom"].set_visible(False)
        totals = [sum(cost["gpu_s_parts"][batch].values()) for cost in costs.values()]
        for row, (cost, colour, shown) in enumerate(
            zip(costs.values(), _cycle(len(costs)), seconds(*totals), strict=True)
        ):
            left = 0.0
            for key, _, opacity in PARTS:
                part = cost["gpu_s_parts"][batch][key]
                axes.barh(row, part, 0.66, left=left, color=colour, alpha=opacity, zorder=2)
                left += part
            axes.annotate(
                shown, (left, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=SMALL, color=INK
            )
        axes.set_yticks(range(len(costs)), [label(name, 16) for name in costs])
        axes.tick_params(axis="y", length=0, labelsize=SMALL, labelcolor=INK)
        axes.set_ylim(len(costs) - 0.45, -0.55)
        axes.set_xlim(0, 1.16 * max(totals))
        axes.xaxis.set_major_locator(NullLocator())
        title = "B = 1, alone on the machine" if batch == "1" else f"B = {batch}, {batch} answers at a time"
        axes.set_title(title, fontsize=NORMAL, color=INK, loc="left", pad=5)
    handles = [Patch(color=MUTED, alpha=opacity, lw=0, label=name) for _, name, opacity in PARTS]
    _legend(figure, handles)
    return figure


def growth_with_thought(thinking: Sequence[int], sides: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Time and peak KV memory over thinking length, one panel each, both axes logarithmic.

    thinking: tokens of a thought. sides: label -> ``seconds`` and ``peak_kv_tokens`` at each length, and ``exponents``,
    the slopes in the panel of time, of which the median is shown.
    """
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    colours = _cycle(len(sides))
    for axes, key, unit in zip(panels, ("seconds", "peak_kv_tokens"), ("seconds", "peak live KV, tokens"), strict=True):
        _clean(axes)
        for colour, side in zip(colours, sides.values(), strict=True):
            axes.plot(thinking, side[key], color=colour, lw=1.6, marker="o", ms=4.5, zorder=3)
        _log2_axis(axes, thinking, pad=0.3)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        _labels(axes, "", unit)
    panels[1].set_xlabel("thinking tokens of each trace (log scale)", fontsize=SMALL, color=MUTED)
    handles = [
        Line2D([], [], color=colour, marker="o", ms=4.5, label=f"{label(name)}: time ~ length^{exponent:.2f}")
        for colour, name, exponent in zip(
            colours, sides, (float(np.median(side["exponents"])) for side in sides.values()), strict=True
        )
    ]
    _legend(figure, handles)
    return figure


def pareto_front(points: Mapping[str, tuple[float, float]], base: tuple[float, float], height: float = 4.0) -> Figure:
    """Accuracy over mean tokens of many methods; those that no other beats in both are joined and named.

    points: method -> (mean tokens, accuracy). base: the same of the model that all of them began with.
    """
    figure, axes = _figure(height)
    front: list[str] = []
    for name in sorted(points, key=lambda name: (points[name][0], -points[name][1])):
        if not front or points[name][1] > points[front[-1]][1]:
            front.append(name)
    for name, (tokens, accuracy) in points.items():
        best = name in front
        axes.plot(tokens, accuracy, "o", ms=6 if best else 4, color=TRAINED if best else MUTED, zorder=3 if best else 2)
        axes.annotate(
            name, (tokens, accuracy), xytext=(5, -2.5), textcoords="offset points", fontsize=SMALL if best else 5,
            color=INK if best else MUTED,
        )  # fmt: skip
    axes.plot(*zip(*(points[name] for name in front), strict=True), color=TRAINED, lw=1, zorder=1)
    axes.plot(*base, "o", ms=6, color=BASE, zorder=3)
    axes.annotate("base", base, xytext=(5, -2.5), textcoords="offset points", fontsize=SMALL, color=INK)
    _log2_axis(axes, [base[0], *(tokens for tokens, _ in points.values())], pad=0.4)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}" if share <= 1 else ""))
    _labels(axes, "mean tokens per answer (log scale)", "accuracy, %")
    return figure


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    _clean(axes)
    return figure, axes


def _clean(axes: Axes) -> None:
    """Two spines, faint horizontal lines, small grey ticks."""
    axes.set_facecolor("none")
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(RULE)
    axes.grid(axis="y", color=RULE, lw=0.7, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=RULE, labelcolor=MUTED, labelsize=SMALL, length=3, width=0.8)


def _labels(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=SMALL, color=MUTED)
    axes.set_ylabel(y, fontsize=SMALL, color=MUTED)


def _legend_above(figure: Figure, labels: Sequence[str]) -> None:
    if len(labels) > 1:
        colours = _cycle(len(labels))
        _legend(figure, [Patch(color=colour, label=label(name)) for name, colour in zip(labels, colours, strict=True)])


def _legend(figure: Figure, handles: Sequence[Patch | Line2D], columns: int | None = None) -> None:
    figure.legend(
        handles=handles, loc="outside upper left", ncols=columns or len(handles), fontsize=SMALL, frameon=False,
        labelcolor=INK, handlelength=1, handleheight=0.8, columnspacing=1.6, borderaxespad=0.1,
    )  # fmt: skip


def _log2_axis(axes: Axes, values: Sequence[float], pad: float) -> None:
    """A log2 x axis around ``values`` with ``pad`` octaves to each side, powers of two as plain numbers."""
    low, high = math.log2(max(min(values), 0.5)) - pad, math.log2(max(*values, 1)) + pad
    axes.set_xscale("log", base=2)
    axes.set_xlim(2**low, 2**high)
    stride = max(1, round((high - low) / 7))
    axes.xaxis.set_major_locator(FixedLocator([2.0**power for power in range(math.ceil(low), int(high) + 1, stride)]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))


def _reach(value: float, ci95: Sequence[float] | None) -> list[list[float]] | None:
    """Distances to the limits as matplotlib wants them; an interval need not contain the value by the last digit."""
    return None if ci95 is None else [[max(0.0, value - ci95[0])], [max(0.0, ci95[1] - value)]]


def _cycle(length: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(length)]


def _series(records: Sequence[Mapping[str, Any]], key: str) -> tuple[list[int], list[float]]:
    """Steps and values of a metric where it is a finite number."""
    points = [
        (int(record["step"]), float(record[key]))
        for record in records
        if isinstance(record.get(key), int | float) and math.isfinite(record[key])
    ]
    return [step for step, _ in points], [value for _, value in points]


def _running_mean(value: F64) -> F64:
    """Mean over a window of a tenth of the run, shorter at the ends, so that nothing is shifted."""
    half = len(value) // 20
    total = np.concatenate([[0.0], np.cumsum(value)])
    at = np.arange(len(value))
    reach = np.minimum(np.minimum(at, len(value) - 1 - at), half)
    return (total[at + reach + 1] - total[at - reach]) / (2 * reach + 1)
