from __future__ import annotations

import copy
import io
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from laconic.eval.tables import comparison_table, eval_table
from laconic.eval.wording import count, percent


def printed(table: Table, width: int = 80, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    Console(file=stream, width=width, force_terminal=False).print(table)
    stream.flush()
    return raw.getvalue().decode(encoding)


def test_tables_fit_80_columns_and_nothing_is_cut_off(written: Any) -> None:
    for table in (eval_table(written.base.summary), comparison_table(written.comparison)):
        text = printed(table)
        assert max(map(len, text.splitlines())) <= 80
        assert "…" not in text and "..." not in text


def test_long_intervals_and_names_still_fit(written: Any) -> None:
    summary, comparison = copy.deepcopy(written.base.summary), copy.deepcopy(written.comparison)
    for block in (summary["overall"], *summary["tasks"]):
        block["tokens"] |= {"mean": 12_345.0, "mean_ci95": [11_111.0, 13_333.0]}
        block["accuracy"]["avg_at_k"] |= {"value": 1.0, "ci95": [0.99, 1.0]}
    for block in (comparison["overall"], *comparison["tasks"]):
        block["tokens"] |= {"base_mean": 12_345.0, "new_mean": 11_111.0, "ratio": 0.9, "ratio_ci95": [0.89, 0.91]}
        block["accuracy"] |= {"delta": -0.123, "ci95": [-0.223, -0.023]}
    comparison["tasks"][0]["task"] = "a task with a name that goes on and on"
    texts = [printed(eval_table(summary)), printed(comparison_table(comparison, ("a-long-run-name-1", "another-run")))]
    assert "12,345  11,111 to 13,333" in texts[0]
    assert "-12.3 points (-22.3 to -2.3)" in texts[1]
    assert max(len(line) for text in texts for line in text.splitlines()) <= 80


def test_the_numbers_are_those_of_the_summary_and_the_comparison(written: Any) -> None:
    text, overall = printed(eval_table(written.base.summary)), written.base.summary["overall"]
    assert percent(overall["accuracy"]["avg_at_k"]["value"]) in text and count(overall["tokens"]["mean"]) in text
    text, block = printed(comparison_table(written.comparison)), written.comparison["overall"]
    for expected in (percent(block["accuracy"]["base"]), percent(block["accuracy"]["new"])):
        assert expected in text
    assert count(block["tokens"]["base_tpc"]) in text
    assert [name for name in ("sums", "hops") if text.count(f"  {name} ") == 2] == ["sums", "hops"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_tables_print_on_any_terminal(written: Any, encoding: str) -> None:
    labels = ("größer als das Feld", "短い答え")
    assert "accuracy" in printed(comparison_table(written.comparison, labels), encoding=encoding)
    assert "accuracy" in printed(eval_table(written.base.summary), encoding=encoding)


def test_markup_in_names_is_shown_and_not_obeyed(written: Any) -> None:
    summary, comparison = copy.deepcopy(written.base.summary), copy.deepcopy(written.comparison)
    summary["model"]["name"] = summary["tasks"][0]["task"] = "[red]x[/]"
    comparison["tasks"][0]["task"] = "[bold]"
    assert printed(eval_table(summary)).count("[red]x[/]") >= 3
    assert "[bold]" in printed(comparison_table(comparison, ("[a]", "[/b]")))


def test_a_single_task_without_costs_has_no_row_for_all(written: Any) -> None:
    comparison = copy.deepcopy(written.comparison)
    comparison["tasks"] = comparison["tasks"][:1]
    comparison["overall"]["cost"] = comparison["tasks"][0]["cost"] = None
    text = printed(comparison_table(comparison))
    assert "sums" not in text and "latency" not in text and "non-inferior" in text
