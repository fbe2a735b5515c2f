"""Rollouts on one page that opens offline: trees that fold, every text of a model escaped, no script."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..atomic import write_whole
from ..eval.page import environment
from ..eval.transcripts import shortened as whole
from .rollout_log import SavedGroup
from .rollout_view import LEGEND, headline, picture_of, shortened, totals_of

TEMPLATE = "rollouts.html.j2"
FOLD_AFTER = 120
"""Characters of a stretch that are shown at once; of longer ones beginning and end, and the rest when asked for."""
OPEN_GROUPS = 4
"""Groups that stand open at first."""


def write_page(path: Path, saved: Sequence[SavedGroup], *, title: str, settings: str = "") -> Path:
    """Write the page to ``path``; its folder is made if missing.

    title: where the rollouts come from. settings: text shown folded away.
    """
    made = environment(Path(__file__).parent)
    made.filters |= {"whole": whole, "brief": lambda text: shortened(text, FOLD_AFTER)}
    totals = totals_of(saved)
    page = made.get_template(TEMPLATE).render(
        title=title,
        claim=headline(totals),
        detail=f"{totals.cost.decoded:,} tokens decoded make answers of {totals.trajectories:,} tokens in all.",
        tiles=totals.rows(),
        pictures=[picture_of(one) for one in saved],
        open_groups=OPEN_GROUPS,
        fold_after=FOLD_AFTER,
        legend=LEGEND,
        settings=settings,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    return path
