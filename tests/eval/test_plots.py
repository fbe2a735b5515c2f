from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread

from laconic.eval import plots
from laconic.eval.figures import BASE, TRAINED, inline_svg, save_png

THINKING = [1024, 2048, 4096, 8192]
GROWTH = {
    "flat": {"seconds": [1.0, 4.0, 16.0, 64.0], "peak_kv_tokens": [1e4, 2e4, 4e4, 8e4], "exponents": [1.9, 2.0, 2.4]},
    "delethink": {"seconds": [1.0, 2.0, 4.0, 8.0], "peak_kv_tokens": [5e3] * 4, "exponents": [1.0]},
}


def draw_all(written: Any) -> dict[str, Figure]:
    base, trained = written.base.summary, written.trained.summary
    lengths = {"base": written.base.samples["n_response"].to_numpy(), "trained": [29, 31, 640]}
    records = [{"step": step, "outcome/accuracy": 0.9, "seconds/rollout": 1.0 / step} for step in range(1, 30)]
    levels = {
        task["task"]: [task["levels"], other["levels"]]
        for task, other in zip(base["tasks"], trained["tasks"], strict=True)
    }
    return {
        "accuracy": plots.accuracy_against_tokens({"base": base["overall"], "trained": trained["overall"]}, 26.0),
        "levels": plots.length_by_level(levels, ["base", "trained"]),
        "histogram": plots.length_histogram(lengths, 640),
        "training": plots.training_curves(records),
        "cost": plots.cost_breakdown({"base": base["overall"]["cost"], "trained": trained["overall"]["cost"]}),
        "growth": plots.growth_with_thought(THINKING, GROWTH),
    }


@pytest.fixture(scope="module")
def figures(written: Any) -> dict[str, Figure]:
    return draw_all(written)


def test_every_plot_is_a_png_of_its_size_with_something_on_it(figures: dict[str, Figure], tmp_path: Path) -> None:
    for name, figure in figures.items():
        save_png(figure, tmp_path / f"{name}.png", dpi=50)
        pixels = imread(tmp_path / f"{name}.png")
        width, height = figure.get_size_inches()
        assert abs(pixels.shape[1] - 50 * width) <= 1 and abs(pixels.shape[0] - 50 * height) <= 1, name
        assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 20, f"{name} is blank"


def test_plotting_leaves_the_settings_of_matplotlib_alone(written: Any) -> None:
    before = dict(matplotlib.rcParams)
    for name, figure in draw_all(written).items():
        inline_svg(figure, name, name)
    assert dict(matplotlib.rcParams) == before


def test_no_text_of_a_plot_overlaps_another_axes_text_or_leaves_the_figure(figures: dict[str, Figure]) -> None:
    for name, figure in figures.items():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer = canvas.get_renderer()
        for axes in figure.axes:
            box = axes.get_tightbbox(renderer)
            assert box.x0 > -1 and box.y0 > -1, name
            assert box.x1 < figure.bbox.x1 + 1 and box.y1 < figure.bbox.y1 + 1, name


def test_base_and_trained_always_have_their_colours(figures: dict[str, Figure]) -> None:
    bars = [to_hex(patch.get_facecolor()) for patch in figures["levels"].axes[0].patches]
    assert set(bars) == {BASE, TRAINED} and bars[0] == BASE and bars[-1] == TRAINED
    costs = [to_hex(patch.get_facecolor()) for patch in figures["cost"].axes[0].patches]
    assert costs == [BASE] * 3 + [TRAINED] * 3


def test_the_bars_and_points_are_the_numbers_of_the_summary(written: Any, figures: dict[str, Figure]) -> None:
    summary = written.base.summary
    heights = [patch.get_height() for patch in figures["levels"].axes[0].patches]
    assert heights[:8] == pytest.approx([row["tokens"] for row in summary["tasks"][0]["levels"]])
    axes = figures["accuracy"].axes[0]
    point = axes.containers[0].lines[0].get_xydata()[0]
    overall = summary["overall"]
    assert tuple(point) == pytest.approx((overall["tokens"]["mean"], overall["accuracy"]["avg_at_k"]["value"]))
    widths = [patch.get_width() for patch in figures["cost"].axes[1].patches]
    assert sum(widths[:3]) == pytest.approx(overall["cost"]["gpu_s"]["64"])


def test_growth_shows_time_and_memory_of_both_sides_and_their_median_exponents(figures: dict[str, Figure]) -> None:
    figure = figures["growth"]
    for axes, key in zip(figure.axes, ("seconds", "peak_kv_tokens"), strict=True):
        for line, side in zip(axes.lines, GROWTH.values(), strict=True):
            assert line.get_xydata().T.tolist() == [THINKING, side[key]]
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["flat: time ~ length^2.00", "delethink: time ~ length^1.00"]


def test_the_shares_of_a_histogram_add_up_to_one_for_any_lengths() -> None:
    for lengths in ([1], [640] * 5, [0, 1, 2, 3], range(1, 5_000, 7), [32_768, 5]):
        axes = plots.length_histogram({"base": list(lengths)}).axes[0]
        data = axes.patches[0].get_data()
        assert data.values.sum() == pytest.approx(1)
        assert (np.diff(data.edges) >= 1).all(), "a bin without a whole number in it"


def test_training_curves_show_what_is_there_and_leave_gaps_for_what_is_not() -> None:
    records = [{"step": 1, "length/right": 5.0, "policy/entropy": None}, {"step": 2, "length/right": float("nan")}]
    figure = plots.training_curves([*records, {"step": 3, "length/right": 7.0}])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Mean length, tokens"]
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[1, 5], [3, 7]]
    with pytest.raises(ValueError, match="outcome/accuracy"):
        plots.training_curves([{"step": 1, "loss": 1.0}])


def test_a_running_mean_keeps_a_constant_and_the_length_of_a_curve() -> None:
    figure = plots.training_curves([{"step": step, "length/right": 3.0} for step in range(1, 101)])
    smooth = figure.axes[0].lines[1].get_ydata()
    assert len(smooth) == 100 and np.allclose(smooth, 3.0, rtol=1e-12)


def test_the_same_data_give_the_same_svg_and_its_name_must_be_an_identifier(written: Any) -> None:
    cost = written.base.summary["overall"]["cost"]
    first, second = (inline_svg(plots.cost_breakdown({"base": cost}), "cost", 'a "b" <c>') for _ in range(2))
    assert first == second
    assert first.startswith("<svg viewBox=") and 'aria-label="a &quot;b&quot; &lt;c>"' in first
    with pytest.raises(ValueError, match="identifier"):
        inline_svg(Figure(), "no name", "")
