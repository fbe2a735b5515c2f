"""Trees in the terminal and on a page: what is said, and that nothing a model writes can do harm."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from balanced_page import Page
from rich.console import Console

from laconic.rollout.records import Cost, Group, Kind, Leaf, Origin, Rollout, Segment, Stop
from laconic.train.rollout_log import Outcome, SavedGroup
from laconic.train.rollout_page import FOLD_AFTER, write_page
from laconic.train.rollout_view import as_dict, picture_of, print_rollouts, shortened, totals_of

HOSTILE = '<script>alert(1)</script></pre></details> "q" [red]x[/red] & \x00\x1b[31m\u202e\u2028\ud800 {{ 7*7 }}'


def segment(number: int, parent: int | None, offset: int, kind: Kind, tokens: int, **more: Any) -> Segment:
    logp = np.full(tokens, -0.5 if kind is Kind.SAMPLED else np.nan, np.float32)
    return Segment(number, parent, offset, kind, np.zeros(tokens, np.int32), logp, **more)


def tree() -> SavedGroup:
    """A trunk of 6 tokens; after 4 of them a forced token and an answer branch off; a copy; a tail nobody keeps."""
    surprising = np.array([-0.5, -0.5, -0.5, -0.5, -2.25, -0.5], np.float32)
    group = Group(
        3,
        "p/3",
        (
            segment(0, None, 0, Kind.PROMPT, 2),
            replace(segment(1, 0, 2, Kind.SAMPLED, 6, stop=Stop.STOP_TOKEN, cost=Cost(6, 2, 0, 27)), logp=surprising),
            segment(2, 1, 4, Kind.FORCED, 1),
            segment(3, 2, 1, Kind.SAMPLED, 5, stop=Stop.EOS, cost=Cost(5, 1, 6, 45)),
            segment(4, 0, 2, Kind.CONTEXT_COPY, 3, origin=(Origin(3, 0, 3),)),
            segment(5, 4, 3, Kind.SAMPLED, 2, stop=Stop.LENGTH, cost=Cost(2, 3, 2, 11)),
        ),
        (Leaf(0, 3), Leaf(1, 5, 0.25)),
        (Rollout((0,)), Rollout((1,))),
    )
    group.validate()
    texts = (("1+",), ("abcd", "ef"), ("!",), ("answ\n7",), ("ans",), ("xy",))
    outcomes = (Outcome("right", "7", 1.0, 0.5), Outcome("truncated", None, 0.0, -0.5))
    return SavedGroup(group, outcomes, texts, "7", level=2, step=12)


def terminal(*saved: SavedGroup, width: int = 120) -> str:
    out = io.StringIO()
    print_rollouts(saved, Console(file=out, width=width, color_system=None))
    return out.getvalue()


def test_the_terminal_shows_tokens_stops_surprise_verdicts_and_text() -> None:
    lines = terminal(tree()).splitlines()
    drawn = lines[lines.index(next(line for line in lines if line.startswith("p/3"))) :][:7]
    assert [line.rstrip() for line in drawn] == [
        "p/3  step 12 · level 2 · gold 7 · 2 leaves, 1 of 2 right · 13 tokens decoded, 27.8% saved",
        "prompt 2 tokens  1+",
        "├── #1 4 tokens, 0.50 nats  abcd",
        "│   ├── #1[4:] 2 tokens, stop token, 2.25 nats, discarded  ef",
        "│   └── #2 forced, 1 token  !",
        "│       #3 5 tokens, eos  leaf 0 right, read as 7, advantage +0.50  answ⏎7",
        "└── #4 copy of #3[0:3], 3 tokens  ans",
    ]


def test_totals_are_those_of_the_counters() -> None:
    saved = tree()
    totals = totals_of([saved, saved])
    assert totals.cost == saved.group.cost + saved.group.cost
    # The first answer needs 4 + 5 tokens; the second its own 2, and 3 of those 5 with the 4 before.
    assert (totals.trajectories, totals.critical) == (2 * (9 + 9), (9 + 9) / 2)
    assert totals.tokens_saved == pytest.approx(1 - 26 / 36)
    assert totals.parallel_saved == pytest.approx(0)
    assert (totals.groups, totals.rollouts, totals.leaves, totals.judged, totals.right) == (2, 4, 4, 4, 2)
    shown = terminal(saved, saved)
    assert re.search(r"T_dec +26 ", shown) and re.search(r"T_pre +12 ", shown) and re.search(r"T_kv +166 ", shown)
    assert re.search(r"T_traj +36 ", shown) and re.search(r"T_crit +9.0 ", shown)
    assert "2 groups, 4 rollouts, 4 leaves, 2 of 4 judged right" in shown


def test_a_leaf_that_nobody_judged_is_a_part_of_its_rollout() -> None:
    saved = replace(tree(), outcomes=(Outcome(), Outcome("wrong")))
    saved = replace(saved, group=saved.group.replace(rollouts=(Rollout((0, 1)),)))
    shown = terminal(saved)
    assert "leaf 0 of rollout 0  answ" in shown and "leaf 1 of rollout 0 wrong, weight 0.25" in shown
    assert "0 of 1 right" in shown


def test_weights_are_named_where_they_differ() -> None:
    saved = tree()
    alike = saved.group.replace(leaves=tuple(replace(leaf, weight=0.25) for leaf in saved.group.leaves))
    assert "weight 0.25" in terminal(saved) and "weight" not in terminal(replace(saved, group=alike))


def test_a_long_heading_goes_on_in_the_next_line() -> None:
    lines = terminal(tree(), width=60).splitlines()
    start = lines.index(next(line for line in lines if line.startswith("p/3")))
    heading = [line.strip() for line in lines[start : start + 2]]
    assert heading == [
        "p/3  step 12 · level 2 · gold 7 · 2 leaves, 1 of 2 right",
        "13 tokens decoded, 27.8% saved",
    ]


def test_a_segment_of_a_group_of_several_policies_names_its_own() -> None:
    saved = tree()
    segments = [replace(one, policy_version=one.id) for one in saved.group.segments]
    shown = terminal(replace(saved, group=saved.group.replace(segments=tuple(segments))))
    assert "#5 2 tokens, length, policy 5" in shown


@pytest.mark.parametrize("width", [20, 60, 200])
def test_lines_fit_the_width_and_texts_keep_their_ends(width: int) -> None:
    saved = tree()
    saved = replace(saved, texts=(*saved.texts[:3], ("x" * 500 + "END",), *saved.texts[4:]))
    shown = terminal(saved, width=width)
    start = shown.index("p/3")
    tree_lines = shown[start : shown.index("T_dec")].splitlines()
    assert max(map(len, tree_lines)) <= width
    assert width < 100 or "END" in shown
    assert shortened("a" * 9, 9) == "a" * 9 and shortened("abcdefghijk", 5) == "ab…jk"


def test_what_a_model_writes_cannot_reach_the_terminal() -> None:
    saved = tree()
    saved = replace(saved, texts=(*saved.texts[:1], (HOSTILE, HOSTILE), *saved.texts[2:]), gold=HOSTILE)
    shown = terminal(saved, width=600)
    assert "\x1b" not in shown and "\u202e" not in shown and "\x00" not in shown
    assert "[red]x[/red]" in shown and "⟨U+001B⟩" in shown


def test_the_page_folds_without_a_script_and_loads_nothing(tmp_path: Path) -> None:
    page = Page(write_page(tmp_path / "new" / "a.html", [tree()] * 6, title="where from", settings="steps: 1"))
    names = {tag for tag, _ in page.tags}
    assert "details" in names and not names & {
        "script",
        "link",
        "iframe",
        "img",
        "object",
        "base",
        "form",
        "input",
        "br",
        "hr",
    }
    assert not re.search(r"https?://|@import|url\(", page.source)
    groups = [attributes for tag, attributes in page.tags if attributes.get("class") == "group"]
    assert len(groups) == 6 and ["open" in attributes for attributes in groups] == [True] * 4 + [False] * 2
    for words in ("where from", "steps: 1", "leaf 0 right, read as 7", "2.25 nats", "copy of #3[0:3]", "T_crit"):
        assert words in page.text


def test_all_text_on_the_page_is_escaped_and_long_text_is_whole(tmp_path: Path) -> None:
    saved, long = tree(), HOSTILE + "x" * FOLD_AFTER + "END"
    saved = replace(saved, texts=((HOSTILE,), (long, HOSTILE), *saved.texts[2:]), gold=HOSTILE)
    saved = replace(saved, group=saved.group.replace(problem_id=HOSTILE), outcomes=(Outcome(HOSTILE, HOSTILE),) * 2)
    page = Page(write_page(tmp_path / "a.html", [saved], title=HOSTILE, settings=HOSTILE))
    assert "script" not in {tag for tag, _ in page.tags}
    assert "<script>alert(1)</script>" in page.text and "{{ 7*7 }}" in page.text and "⟨U+202E⟩" in page.text
    assert "x" * FOLD_AFTER + "END" in page.text and not re.search("[\x00\x1b\u202e\ud800]", page.source)


def test_plain_data_hold_every_leaf_with_its_text() -> None:
    plain = as_dict(tree())
    assert [leaf["response"] for leaf in plain["leaves"]] == ["abcd!answ\n7", "ansxy"]
    assert plain["leaves"][0]["verdict"] == "right" and plain["leaves"][1]["stop"] == "length"
    assert plain["prompt"] == "1+" and plain["totals"]["decoded"] == 13


def test_a_deep_tree_is_drawn_and_written(tmp_path: Path) -> None:
    """A fork at every second token, one below the other."""
    segments = [segment(0, None, 0, Kind.PROMPT, 1)]
    for depth in range(60):
        parent = 2 * depth - 1 if depth else 0
        segments += [segment(2 * depth + 1 + i, parent, 1, Kind.SAMPLED, 1, stop=Stop.BUDGET) for i in range(2)]
    group = Group(0, "deep", tuple(segments))
    saved = SavedGroup(group, (), tuple(("x",) for _ in segments), "7")
    shown = terminal(saved)
    assert "#45 1 token" in shown and "#47" not in shown and "… 74 more" in shown
    depth, node = 0, picture_of(saved).root
    while node.below:
        depth, node = depth + 1, node.below[0]
    assert depth == 60
    assert Page(write_page(tmp_path / "a.html", [saved], title="deep")).text.count("#") >= 120
