from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from balanced_page import Page

from laconic.errors import ConfigError, DataError
from laconic.eval.figures import CONTROLS
from laconic.eval.records import to_samples, to_table
from laconic.eval.report import write_report
from laconic.eval.report_rows import headline_table, level_table
from laconic.eval.run import EvalResult
from laconic.eval.transcripts import Example, Response
from laconic.eval.wording import count, percent, signed_points

HOSTILE = "<script>alert(1)</script></think></pre> \"quoted\" 'single' & \x00\x1b[31m\u202e\u2028\ud800 {{ 7*7 }}"


@pytest.fixture(scope="module")
def full(written: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report with all its parts."""
    return write_report(
        tmp_path_factory.mktemp("full"),
        base=written.base,
        trained=written.trained,
        comparison=written.comparison,
        metrics_jsonl=written.metrics,
        controls={"control": written.base.summary},
        one_pass=26.0,
        meta={"command": "laconic demo", "config": "steps: 100", "caveats": ["One seed."], "training_seeds": "1"},
    )


def test_a_report_with_everything_has_every_section_and_a_png_of_every_plot(full: Path) -> None:
    page = Page(full)
    headings = re.findall(r"<h2>(.*?)</h2>", page.source)
    assert headings == ["By task", "Plots", "Examples", "More numbers", "How it was measured", "Before you quote this"]
    names = ["accuracy_tokens", "cost_breakdown", "length_by_level", "length_histogram", "training"]
    assert sorted(path.stem for path in (full.parent / "plots").glob("*.png")) == names
    # The training curves are there twice, for a wide and for a narrow page.
    assert sum(tag == "svg" for tag, _ in page.tags) == len(names) + 1
    for expected in ("laconic demo", "steps: 100", "One seed.", "training seeds"):
        assert expected in page.text
    kinds = [kind for kind in ("An easy problem", "A hard problem", "the trained model got wrong") if kind in page.text]
    assert len(kinds) == 3


def test_a_report_loads_nothing_and_runs_nothing(full: Path) -> None:
    page = Page(full)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "img", "object", "embed", "base", "form"}
    references = [
        value or ""
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster")
    ]
    assert references and all(reference.startswith("#") for reference in references)
    assert not re.search(r"https?://|@import|url\((?!#)", page.source)
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_the_ids_of_all_pictures_are_unique_and_every_reference_has_its_target(full: Path) -> None:
    page = Page(full)
    ids = re.findall(r'\bid="([^"]+)"', page.source)
    used = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', page.source))
    assert len(ids) == len(set(ids))
    assert {a or b for a, b in used} <= set(ids)


def test_pictures_take_the_colours_of_the_page(full: Path) -> None:
    source = full.read_text(encoding="utf-8")
    svgs = "".join(re.findall(r"<svg.*?</svg>", source, re.DOTALL))
    assert "var(--base)" in svgs and "var(--trained)" in svgs and "var(--control-1)" in svgs
    # What is left has a colour of its own in neither light nor dark.
    assert set(re.findall(r"#[0-9a-f]{6}", svgs)) == set()
    defined = set(re.findall(r"(--[a-z0-9-]+):", source))
    assert set(re.findall(r"var\((--[a-z0-9-]+)\)", source)) <= defined
    assert len(CONTROLS) == 3


def test_the_numbers_of_the_table_are_those_of_the_summary_and_the_comparison(written: Any, full: Path) -> None:
    table = headline_table(written.base.summary, written.trained.summary, written.comparison)
    assert [title for title, _ in table.rows] == ["all tasks", "sums", "hops"]
    for (_, cells), block in zip(
        table.rows, [written.comparison["overall"], *written.comparison["tasks"]], strict=True
    ):
        accuracy, tokens = block["accuracy"], block["tokens"]
        assert cells[0].main == f"{percent(accuracy['base'])} → {percent(accuracy['new'])}"
        assert cells[0].sub.startswith(f"{signed_points(accuracy['delta'])} points (")
        assert cells[0].verdict == accuracy["verdict"]
        assert cells[1].main == f"{count(tokens['base_mean'])} → {count(tokens['new_mean'])}"
        assert len(cells) == len(table.columns) - 1
    text = Page(full).text
    assert all(cell.main in text and cell.sub in text for _, cells in table.rows for cell in cells)
    overall = written.base.summary["overall"]
    assert percent(overall["accuracy"]["avg_at_k"]["value"]) == percent(
        written.comparison["overall"]["accuracy"]["base"]
    )


def test_a_report_on_one_evaluation_needs_only_its_summary(written: Any, tmp_path: Path) -> None:
    page = Page(write_report(tmp_path, base=written.base.summary))
    accuracy = written.base.summary["overall"]["accuracy"]["avg_at_k"]
    assert f"tiny-thinker is right {percent(accuracy['value'])} of the time" in page.text
    assert "Examples" not in page.text and "non-inferior" not in page.text
    assert sorted(path.stem for path in (tmp_path / "plots").iterdir()) == ["cost_breakdown", "length_by_level"]


def test_a_report_on_folders_equals_the_one_on_results(written: Any, tmp_path: Path) -> None:
    results = write_report(tmp_path / "a", base=written.base, trained=written.trained, comparison=written.comparison)
    folders = write_report(
        tmp_path / "b", base=written.base.folder, trained=written.trained.folder, comparison=written.comparison
    )
    assert results.read_text(encoding="utf-8") == folders.read_text(encoding="utf-8")


def test_a_report_without_costs_levels_examples_and_intervals_renders(written: Any, tmp_path: Path) -> None:
    summaries = [json.loads(json.dumps(side.summary)) for side in (written.base, written.trained)]
    comparison = json.loads(json.dumps(written.comparison))
    for summary in summaries:
        summary["model"] |= {"spec": None, "parameters": None, "weights_hash": None, "dtype": None}
        for block in (summary["overall"], *summary["tasks"]):
            block["cost"], block["levels"] = None, []
            block["accuracy"]["avg_at_k"]["ci95"] = block["tokens"]["mean_ci95"] = block["efficiency"]["tpc"] = None
    for block in (comparison["overall"], *comparison["tasks"]):
        block["cost"], block["levels"] = None, []
        block["accuracy"] |= {"ci95": None, "base_ci95": None, "new_ci95": None, "mdd": None, "verdict": "undecided"}
        block["tokens"] |= {"ratio_ci95": None, "geometric_ci95": None, "new_tpc": None}
        block["aes"] |= {"value": None, "ci95": None}
        block["truncation"]["explained_by_runaways"] = None
    comparison["different"] = ["cap: 640 and 320"]
    path = write_report(tmp_path, base=summaries[0], trained=summaries[1], comparison=comparison, transcripts=[])
    page = Page(path)
    assert "Undecided: the trained model may or may not be as accurate" in page.text
    assert "they differ in cap: 640 and 320" in page.text
    assert "latency" not in page.text and "Every level" not in page.text
    assert level_table(summaries[0], comparison) is None


def test_text_of_models_files_and_settings_is_escaped_and_made_visible(written: Any, tmp_path: Path) -> None:
    hostile = Example(
        HOSTILE, HOSTILE, 3, HOSTILE, HOSTILE, (Response(HOSTILE, HOSTILE, HOSTILE, 5, 4, HOSTILE, False, HOSTILE),)
    )
    summary = json.loads(json.dumps(written.base.summary))
    summary["model"]["name"] = summary["settings"]["template"] = HOSTILE
    meta = {"title": HOSTILE, "command": HOSTILE, "config": HOSTILE, "caveats": [HOSTILE], HOSTILE: HOSTILE}
    path = write_report(tmp_path, base=summary, transcripts=[hostile], meta=meta)
    page = Page(path)
    assert not [tag for tag, _ in page.tags if tag in ("script", "think")]
    assert "<script" not in page.source and "</think" not in page.source
    assert page.source.count("&lt;script&gt;alert(1)&lt;/script&gt;&lt;/think&gt;&lt;/pre&gt;") >= 12
    assert not re.search("[\x00\x1b\u202e\u2028]", page.source)
    assert "⟨U+0000⟩⟨U+001B⟩[31m⟨U+202E⟩⟨U+2028⟩⟨U+D800⟩" in page.text
    assert "49" not in re.findall(r"alert\(1\).{0,90}", page.text)[0], "a template inside a text was carried out"
    assert "\"quoted\" 'single' &" in page.text


def test_hostile_responses_in_the_samples_are_escaped(written: Any, tmp_path: Path) -> None:
    text = HOSTILE.replace("\ud800", "")
    rows = [dataclasses.replace(row, response_text=text, prompt_text=text) for row in to_samples(written.base.samples)]
    page = Page(write_report(tmp_path, base=EvalResult(written.base.summary, to_table(rows))))
    assert "<script" not in page.source
    assert page.text.count("<script>alert(1)</script>") >= 6


def test_long_thoughts_are_folded_and_very_long_ones_cut(written: Any, tmp_path: Path) -> None:
    long = Response("base", "ab" * 2_000, "1", 4_001, 4_000, "right", True)
    huge = Response("trained", "cd" * 20_000, "", 40_000, 40_000, "truncated", False)
    example = Example("Long", "sums", None, "1+1=", "2", (long, huge))
    page = Page(write_report(tmp_path, base=written.base.summary, transcripts=[example]))
    assert page.source.count("<summary>the whole thought</summary>") == 2
    assert "ab" * 2_000 in page.text and "20,000 more characters left out" in page.text
    assert "none: the thought was not closed" in page.text


def test_two_evaluations_without_their_comparison_are_refused(written: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="compare_runs"):
        write_report(tmp_path, base=written.base, trained=written.trained)
    with pytest.raises(ConfigError, match="compare_runs"):
        write_report(tmp_path, base=written.base, comparison=written.comparison)


def test_two_runs_of_the_same_name_stay_apart_and_controls_have_their_own(written: Any, tmp_path: Path) -> None:
    sides: dict[str, Any] = {"base": written.base, "trained": written.trained, "comparison": written.comparison}
    page = Page(write_report(tmp_path, **sides, labels=("eval", "eval")))
    assert "eval (new) is " in page.text and "eval (base)" in page.text
    with pytest.raises(ConfigError, match="another label"):
        write_report(tmp_path, **sides, controls={"trained": written.base.summary})


def test_missing_and_broken_files_are_named(written: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no summary\.json"):
        write_report(tmp_path, base=tmp_path / "nothing")
    with pytest.raises(DataError, match="no metrics at"):
        write_report(tmp_path, base=written.base.summary, metrics_jsonl=tmp_path / "metrics.jsonl")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n', encoding="utf-8")
    with pytest.raises(DataError, match="not JSON"):
        write_report(tmp_path, base=written.base.summary, metrics_jsonl=tmp_path / "metrics.jsonl")


def test_metrics_without_anything_to_draw_leave_the_curves_out(written: Any, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n', encoding="utf-8")
    write_report(tmp_path, base=written.base.summary, metrics_jsonl=tmp_path / "metrics.jsonl")
    assert not (tmp_path / "plots" / "training.png").exists()


def test_the_page_has_the_name_asked_for_and_samples_may_be_empty(written: Any, tmp_path: Path) -> None:
    empty = EvalResult(written.base.summary, written.base.samples.slice(0, 0))
    assert isinstance(empty.samples, pa.Table)
    path = write_report(tmp_path, base=empty, file_name="eval.html")
    assert path == tmp_path / "eval.html" and "Examples" not in Page(path).text
