"""``report.html``: what an evaluation or a comparison found, on a page that opens offline, and its plots as PNG files.

The page is self-contained: styles and pictures are inside, it loads nothing and runs no script. All text that comes
from models, files or settings is escaped, and characters without a picture are written as code points.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
from jinja2 import Environment
from markupsafe import Markup

from ..atomic import write_whole
from ..errors import ConfigError, DataError
from .figures import inline_svg, save_png
from .page import environment
from .pictures import Picture, pictures
from .records import SAMPLES, read_samples
from .report_notes import caveats, default_title, measured, tiles
from .report_rows import detail_table, headline_table, level_table, pair_facts
from .transcripts import FOLD_AFTER, Example, pick_examples, shortened
from .wording import comparison_headline, evaluation_headline, margin_words

__all__ = ["Evaluated", "write_report"]

TEMPLATE = "report.html.j2"


class Evaluated(Protocol):
    """What is needed of ``laconic.eval.run.EvalResult``."""

    @property
    def summary(self) -> dict[str, Any]: ...

    @property
    def samples(self) -> pa.Table: ...


Source = Evaluated | Mapping[str, Any] | str | Path
"""An evaluation: the result, its summary alone (then without histogram and examples), or the folder it left."""


def write_report(
    out_dir: str | Path,
    *,
    base: Source,
    trained: Source | None = None,
    comparison: Mapping[str, Any] | None = None,
    metrics_jsonl: str | Path | None = None,
    transcripts: Sequence[Example] | None = None,
    controls: Mapping[str, Source] | None = None,
    one_pass: float | None = None,
    labels: tuple[str, str] = ("base", "trained"),
    meta: Mapping[str, Any] | None = None,
    file_name: str = "report.html",
) -> Path:
    """Write the report and ``plots/*.png`` into ``out_dir``; returns the path of the page.

    base, trained, comparison: one evaluation alone, or two and what ``compare_runs`` says of them.
    metrics_jsonl: metrics of the training run, for the training curves.
    transcripts: examples to show; by default they are picked from the samples.
    controls: further evaluations of the same problems, for the plot of accuracy over tokens.
    one_pass: mean tokens of a response without any re-checking, where it is known.
    labels: what the two sides are called; equal ones get "(base)" and "(new)" added.
    meta: ``title``; ``command`` that made the numbers; ``config`` (text); ``caveats`` (a list of sentences); every
        other key becomes a row of "how it was measured".

    Raises ``ConfigError`` for two evaluations without a comparison or the reverse and for a control with the label of
    a side, ``DataError`` for a folder or metrics that cannot be read.
    """
    if (trained is None) != (comparison is None):
        raise ConfigError(
            "a report on two evaluations needs both `trained` and `comparison` and one on a single evaluation neither; "
            "get the comparison from laconic.eval.paired.compare_runs"
        )
    if labels[0] == labels[1]:
        labels = (f"{labels[0]} (base)", f"{labels[1]} (new)")
    known = dict(meta or {})
    sides = [_load(side) for side in (base, trained) if side is not None]
    names = list(labels) if trained is not None else [str(sides[0].summary["model"]["name"])]
    summaries = [side.summary for side in sides]
    more = {label: _load(source).summary for label, source in (controls or {}).items()}
    if taken := sorted(set(more) & set(names)):
        raise ConfigError(f"a control is called {taken[0]!r} as one of the two sides is; give it another label")
    end_think = summaries[0]["settings"].get("end_think")
    tables = {name: side.samples for name, side in zip(names, sides, strict=True) if side.samples}
    if transcripts is None:
        transcripts = pick_examples(tables, end_think) if len(tables) == len(sides) else []
    records = [] if metrics_jsonl is None else _read_metrics(Path(metrics_jsonl))
    drawn = pictures(dict(zip(names, summaries, strict=True)), more, tables, records, one_pass)
    other = None if trained is None else summaries[1]
    if comparison is None:
        headline, margin = evaluation_headline(summaries[0]["overall"], names[0]), ""
    else:
        headline = comparison_headline(comparison["overall"], labels)
        margin = margin_words(comparison["overall"]["accuracy"]["margin"])

    page = (
        _environment()
        .get_template(TEMPLATE)
        .render(
            title=known.pop("title", None) or default_title(names, summaries, comparison),
            headline=headline,
            verdict=None if comparison is None else comparison["overall"]["accuracy"]["verdict"],
            margin=margin,
            tiles=tiles(comparison),
            table=headline_table(summaries[0], other, comparison),
            pictures=[_inline(picture) for picture in drawn],
            examples=transcripts,
            fold_after=FOLD_AFTER,
            levels=level_table(summaries[0], comparison),
            details=detail_table(summaries[0], other, names),
            pair=[] if comparison is None else pair_facts(comparison["overall"]),
            caveats=[*caveats(summaries, comparison), *known.pop("caveats", [])],
            command=known.pop("command", None),
            config=known.pop("config", None),
            measured=[*measured(names, summaries), *((key.replace("_", " "), value) for key, value in known.items())],
        )
    )

    out = Path(out_dir)
    (out / "plots").mkdir(parents=True, exist_ok=True)
    for picture in drawn:
        save_png(picture.figure, out / "plots" / f"{picture.name}.png")
    write_whole(out / file_name, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    return out / file_name


class _Side(NamedTuple):
    summary: Mapping[str, Any]
    samples: pa.Table | None


class _Inlined(NamedTuple):
    name: str
    caption: str
    wide: Markup
    narrow: Markup | None


def _load(source: Source) -> _Side:
    if isinstance(source, Mapping):
        return _Side(source, None)
    if not isinstance(source, str | Path):
        return _Side(source.summary, source.samples)
    folder = Path(source)
    if not (folder / "summary.json").is_file():
        raise DataError(f"no summary.json in {folder}; give the folder of a finished evaluation")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return _Side(summary, read_samples(folder) if (folder / SAMPLES).is_file() else None)


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``; a last line without its end is one that is being written."""
    if not path.is_file():
        raise DataError(f"no metrics at {path}; give the metrics.jsonl of a training run, or leave it out")
    *lines, _ = path.read_text(encoding="utf-8").split("\n")
    try:
        records = [json.loads(line) for line in lines]
    except ValueError as error:
        raise DataError(f"{path} has a line that is not JSON ({error}); mend or delete that line") from error
    return [record for record in records if isinstance(record, dict) and isinstance(record.get("step"), int)]


def _inline(picture: Picture) -> _Inlined:
    wide = Markup(inline_svg(picture.figure, picture.name, picture.caption))
    narrow = picture.narrow and Markup(inline_svg(picture.narrow, f"{picture.name}_narrow", picture.caption))
    return _Inlined(picture.name, picture.caption, wide, narrow)


def _environment() -> Environment:
    made = environment()
    made.filters["shortened"] = shortened
    return made
