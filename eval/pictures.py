"""Which plots a report has, given what there is to draw, and what stands below them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
from matplotlib.figure import Figure

from .plots import accuracy_against_tokens, cost_breakdown, length_by_level, length_histogram, training_curves


class Picture(NamedTuple):
    """One plot of the report."""

    name: str
    """File name of the PNG and prefix of the ids inside the page; an identifier."""
    caption: str
    figure: Figure
    narrow: Figure | None = None
    """The same for a small screen, where one figure cannot serve both."""


def pictures(
    summaries: Mapping[str, Mapping[str, Any]],
    controls: Mapping[str, Mapping[str, Any]],
    tables: Mapping[str, pa.Table],
    records: Sequence[Mapping[str, Any]],
    one_pass: float | None,
) -> list[Picture]:
    """Every plot there are data for."""
    names, sides = list(summaries), list(summaries.values())
    blocks = {label: summary["overall"] for label, summary in [*summaries.items(), *controls.items()]}
    plots = []
    if len(blocks) > 1 or one_pass is not None:
        plots.append(
            Picture(
                "accuracy_tokens",
                "Accuracy against mean length. Crosses are 95% intervals; up and left is better.",
                accuracy_against_tokens(blocks, one_pass),
            )
        )
    if tables:
        cap = sides[0]["settings"].get("max_completion")
        lengths = {name: table["n_response"].to_numpy() for name, table in tables.items()}
        colour_order = {name: lengths[name] for name in names if name in lengths}
        plots.append(
            Picture(
                "length_histogram",
                "How long the responses are. One at the cap was truncated.",
                length_histogram(colour_order, cap),
            )
        )
    levels: dict[str, list[list[Any]]] = {
        block["task"]: [
            next((other["levels"] for other in side["tasks"] if other["task"] == block["task"]), []) for side in sides
        ]
        for block in sides[0]["tasks"]
        if block["levels"]
    }
    if levels:
        numbers = " The numbers above the bars are ratios." if len(sides) == 2 else ""
        plots.append(
            Picture(
                "length_by_level",
                f"Mean length by difficulty, with 95% intervals.{numbers}",
                length_by_level(levels, names),
            )
        )
    costs = {name: side["overall"]["cost"] for name, side in summaries.items() if side["overall"]["cost"]}
    if len(costs) == len(sides):
        plots.append(
            Picture(
                "cost_breakdown",
                f"GPU time per answer on {costs[names[0]]['profile']} and where it goes, by the cost model.",
                cost_breakdown(costs),
            )
        )
    if any(_drawable(record) for record in records):
        plots.append(
            Picture(
                "training",
                f"The training run, {len(records)} steps. Faint: every step; strong: running mean.",
                training_curves(records),
                training_curves(records, columns=2),
            )
        )
    return plots


def _drawable(record: Mapping[str, Any]) -> bool:
    return isinstance(record.get("outcome/accuracy"), int | float) or isinstance(record.get("reward/mean"), int | float)
