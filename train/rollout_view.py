"""What a person sees of rollouts: each group as a tree of stretches, and what its shape cost and saved.

    #segment tokens, why it stopped, nats, leaf and verdict, text

Nats are -log p of a stretch's first token, where branches begin: how surprising it was to go this way. This module
finds the words; ``print_rollouts`` puts them on a terminal, ``rollout_page.py`` on a page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from ..eval.visible import visible
from ..eval.wording import count, percent
from ..rewards.verdict import Verdict
from ..rollout.branches import Branch, Stretch, branches, stretches
from ..rollout.records import Cost, Kind
from ..rollout.savings import critical_tokens, decoded_tokens, flat_cost, saving, used_tokens
from .rollout_log import SavedGroup

LEGEND = (
    "#segment, its tokens, why it stopped; where branches begin, how surprising their first token is (-log p in nats); "
    "the leaf that ends there"
)
_LEAST_TEXT = 16
"""Characters of text shown in any case."""
_LEAST_ROOM = 28
"""Columns that a branch needs; deeper ones are counted, and the page shows them."""
_STYLES = {"right": "green", "wrong": "red", "quiet": "cyan"}
Tone = Literal["right", "wrong", "quiet"]


@dataclass(frozen=True, slots=True)
class LeafNote:
    """A leaf and what became of it."""

    words: str
    tone: Tone


@dataclass(frozen=True, slots=True)
class Note:
    """One stretch in words."""

    name: str
    kind: str
    facts: tuple[str, ...]
    leaves: tuple[LeafNote, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Node:
    """Stretches one after another, and the branches that follow."""

    notes: tuple[Note, ...]
    below: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """One group."""

    title: str
    facts: tuple[str, ...]
    root: Node


@dataclass(frozen=True, slots=True)
class Totals:
    """Counters over groups; see ``laconic.rollout.savings``."""

    groups: int
    rollouts: int
    leaves: int
    judged: int
    right: int
    cost: Cost
    trajectories: int
    critical: float
    """Mean over rollouts."""
    tokens_saved: float
    parallel_saved: float
    kv_saved: float

    def rows(self) -> list[tuple[str, str, str]]:
        """(name, value, meaning), as people read them."""
        return [
            ("T_dec", f"{self.cost.decoded:,}", "tokens decoded"),
            ("T_pre", f"{self.cost.prefilled:,}", f"context tokens read in; {self.cost.cached:,} more were cached"),
            ("T_kv", f"{self.cost.kv_read:,}", "cached tokens read while decoding"),
            ("T_traj", f"{self.trajectories:,}", "tokens that answers stand on, shared ones for each"),
            ("T_crit", count(self.critical), "of a rollout, decoded one after another, mean"),
            ("tokens saved", percent(self.tokens_saved), "1 - T_dec / T_traj: decoded once, used several times"),
            ("decoded in parallel", percent(self.parallel_saved), "1 - T_crit / T_dec, within rollouts"),
            ("KV reading saved", percent(self.kv_saved), "1 - T_kv / T_kv of the same answers, each one sequence"),
        ]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, for scripts."""
        plain = {name: getattr(self, name) for name in self.__slots__ if name != "cost"}
        return plain | {name: getattr(self.cost, name) for name in Cost.__slots__}


def totals_of(saved: Sequence[SavedGroup]) -> Totals:
    """The counters of some groups."""
    groups = [one.group for one in saved]
    rollouts = [(group, rollout) for group in groups for rollout in group.rollouts]
    cost, flat = sum((group.cost for group in groups), Cost()), sum(map(flat_cost, groups), Cost())
    critical = sum(critical_tokens(group, rollout) for group, rollout in rollouts)
    verdicts = [outcome.verdict for one in saved for outcome in one.outcomes if outcome.verdict is not None]
    return Totals(
        groups=len(groups),
        rollouts=len(rollouts),
        leaves=sum(len(group.leaves) for group in groups),
        judged=len(verdicts),
        right=verdicts.count(Verdict.RIGHT),
        cost=cost,
        trajectories=flat.decoded,
        critical=critical / max(len(rollouts), 1),
        tokens_saved=saving(cost.decoded, flat.decoded),
        parallel_saved=saving(critical, sum(decoded_tokens(group, rollout) for group, rollout in rollouts)),
        kv_saved=saving(cost.kv_read, flat.kv_read),
    )


def picture_of(saved: SavedGroup) -> Picture:
    """One group in words."""
    group, totals = saved.group, totals_of([saved])
    facts = [
        *([] if saved.step is None else [f"step {saved.step}"]),
        *([] if saved.level is None else [f"level {saved.level}"]),
        f"gold {visible(saved.gold)}",
        f"{_plural(totals.leaves, 'leaf', 'leaves')}, {totals.right} of {totals.judged} right",
        f"{_plural(group.cost.decoded, 'token')} decoded, {percent(totals.tokens_saved)} saved",
    ]
    return Picture(group.problem_id, tuple(facts), _Words(saved).node(branches(group), branches=False))


def print_rollouts(saved: Sequence[SavedGroup], console: Console) -> None:
    """Draw the trees and their totals, as wide as the console."""
    console.print(LEGEND, style="dim", markup=False, highlight=False)
    for one in saved:
        picture = picture_of(one)
        tree = Tree(_lines(_heading(picture, console.width), picture.root, console.width), guide_style="dim")
        _grow(tree, picture.root, console.width, 1)
        console.print()
        console.print(tree, highlight=False)
    console.print()
    totals = totals_of(saved)
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    for row in totals.rows():
        table.add_row(*row)
    console.print(table, highlight=False)
    console.print(headline(totals), highlight=False)


def headline(totals: Totals) -> str:
    """How many there are, and how many are right."""
    counts = (
        _plural(totals.groups, "group"),
        _plural(totals.rollouts, "rollout"),
        _plural(totals.leaves, "leaf", "leaves"),
    )
    return f"{', '.join(counts)}, {totals.right} of {totals.judged} judged right"


def shortened(text: str, room: int) -> str:
    """One line of at most ``room`` characters: its beginning and its end, where answers are."""
    line = visible(text).replace("\n", "⏎").replace("\t", " ")
    if len(line) <= room:
        return line
    end = (room - 1) // 2
    return f"{line[: room - 1 - end]}…{line[len(line) - end :]}"


class _Words:
    """Puts the stretches of one group into words."""

    def __init__(self, saved: SavedGroup) -> None:
        self.saved, self.group = saved, saved.group
        self.used = used_tokens(saved.group)
        self.weighted = len({leaf.weight for leaf in saved.group.leaves}) > 1
        self.notes: dict[int, list[LeafNote]] = {}
        for number, rollout in enumerate(saved.group.rollouts):
            for leaf in rollout.leaves:
                self.notes.setdefault(saved.group.leaves[leaf].segment, []).append(self._leaf(number, leaf))
        self.versions = len({s.policy_version for s in saved.group.segments if s.kind is Kind.SAMPLED}) > 1

    def node(self, branch: Branch, *, branches: bool) -> Node:
        """A branch in words; ``branches``: it has siblings."""
        notes = [self._note(piece, first and branches) for first, piece in _first(branch.stretches)]
        return Node(tuple(notes), tuple(self.node(one, branches=True) for one in branch.below))

    def _note(self, piece: Stretch, branches: bool) -> Note:
        segment = piece.segment
        facts = [] if segment.kind in (Kind.SAMPLED, Kind.PROMPT, Kind.CONTEXT_COPY) else [str(segment.kind)]
        if segment.kind is Kind.CONTEXT_COPY:
            facts.append("copy of " + " ".join(f"#{one.segment}[{one.start}:{one.stop}]" for one in segment.origin))
        facts.append(_plural(piece.stop - piece.start, "token"))
        if piece.ends and segment.stop is not None:
            facts.append(str(segment.stop).replace("_", " "))
        if branches and piece.surprisal is not None:
            facts.append(f"{piece.surprisal:.2f} nats")
        if self.versions and segment.kind is Kind.SAMPLED:
            facts.append(f"policy {segment.policy_version}")
        if self.group.leaves and piece.start < piece.stop and piece.start >= self.used.get(segment.id, 0):
            facts.append("discarded")
        name = "prompt" if segment.kind is Kind.PROMPT else f"#{segment.id}"
        name += f"[{piece.start}:]" if piece.index else ""
        leaves = tuple(self.notes.get(segment.id, ())) if piece.ends else ()
        return Note(name, str(segment.kind), tuple(facts), leaves, self.saved.texts[segment.id][piece.index])

    def _leaf(self, rollout: int, leaf: int) -> LeafNote:
        outcome, several = self.saved.outcomes[leaf], len(self.group.rollouts) < len(self.group.leaves)
        name = f"leaf {leaf}" + (f" of rollout {rollout}" if several else "")
        if outcome.verdict is None:  # a part of the rollout; its answer is elsewhere
            return LeafNote(name, "quiet")
        words = [f"{name} {outcome.verdict}"]
        if outcome.extracted is not None:
            words.append(f"read as {shortened(outcome.extracted, 40)}")
        if outcome.advantage is not None:
            words.append(f"advantage {outcome.advantage:+.2f}")
        if self.weighted and self.group.leaves[leaf].weight != 1:
            words.append(f"weight {self.group.leaves[leaf].weight:.3g}")
        return LeafNote(", ".join(words), "right" if outcome.verdict == Verdict.RIGHT else "wrong")


def _grow(tree: Tree, node: Node, width: int, depth: int) -> None:
    """Add what is below ``node``, as deep as the width allows."""
    room = width - 4 * depth
    if node.below and room < min(_LEAST_ROOM, width // 2):
        tree.add(Text(f"… {_size(node) - len(node.notes)} more", "dim", no_wrap=True, overflow="ellipsis"))
        return
    for below in node.below:
        _grow(tree.add(_lines(None, below, room)), below, width, depth + 1)


def _size(node: Node) -> int:
    return len(node.notes) + sum(map(_size, node.below))


def _heading(picture: Picture, width: int) -> Text:
    """Title and facts, on as many lines as they need."""
    text = Text.assemble((visible(picture.title), "bold"))
    used = cell_len(text.plain)
    for index, fact in enumerate(picture.facts):
        between = " · " if index else "  "
        if used + cell_len(between + fact) > width:
            between, used = "\n  ", 0
        text.append(between + fact)
        used += cell_len(between.replace("\n", "") + fact)
    return text


def _lines(heading: Text | None, node: Node, width: int) -> Text:
    """A line per stretch, cut to the width."""
    lines = [] if heading is None else [heading]
    for note in node.notes:
        style = {"prompt": "dim", "sampled": "bold"}.get(note.kind, "yellow")
        line = Text.assemble((note.name, style), " ", ", ".join(note.facts))
        for leaf in note.leaves:
            line.append(f"  {leaf.words}", _STYLES[leaf.tone])
        room = max(width - cell_len(line.plain) - 2, _LEAST_TEXT)
        lines.append(line.append(f"  {shortened(note.text, room)}", "dim"))
    text = Text("\n").join(lines)
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _first(pieces: Sequence[Stretch]) -> Iterator[tuple[bool, Stretch]]:
    return ((index == 0, piece) for index, piece in enumerate(pieces))


def _plural(number: int, one: str, several: str = "") -> str:
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def as_dict(saved: SavedGroup) -> Mapping[str, Any]:
    """A group for scripts: its totals and leaves."""
    group, pieces = saved.group, stretches(saved.group)
    rollout_of = {leaf: number for number, rollout in enumerate(group.rollouts) for leaf in rollout.leaves}
    return {
        "group_id": group.id,
        "problem_id": group.problem_id,
        "step": saved.step,
        "level": saved.level,
        "gold": saved.gold,
        "prompt": "".join(saved.texts[0]),
        "totals": totals_of([saved]).as_dict(),
        "leaves": [
            {
                "leaf": leaf.id,
                "rollout": rollout_of[leaf.id],
                "weight": leaf.weight,
                "tokens": group.trained_length(leaf),
                "stop": str(group.segments[leaf.segment].stop),
                "verdict": outcome.verdict,
                "extracted": outcome.extracted,
                "response": _response(saved, pieces, leaf.segment),
                "reward": outcome.reward,
                "advantage": outcome.advantage,
            }
            for leaf, outcome in zip(group.leaves, saved.outcomes, strict=True)
        ],
    }


def _response(saved: SavedGroup, pieces: Sequence[Sequence[Stretch]], end: int) -> str:
    """The text of a leaf's path, the prompt left out."""
    return "".join(
        saved.texts[segment.id][piece.index]
        for segment, kept in saved.group.path(end)[1:]
        for piece in pieces[segment.id]
        if piece.stop <= kept
    )
