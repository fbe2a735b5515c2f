"""What a driver says that a prompt can come to is never exceeded, and reached where nothing ends early."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import prompt_group

from laconic.rollout.bounds import PerPrompt
from laconic.rollout.drivers import (
    AnytimeDriver,
    BudgetForceDriver,
    DelethinkDriver,
    EPTreeDriver,
    FlatDriver,
    ForkJoinDriver,
    SummaryDriver,
    TreePODriver,
)
from laconic.rollout.engines.fake import ScriptedEngine
from laconic.rollout.scheduler import run_groups
from laconic.train.rows import flatten

END, OPEN, CLOSE, FORK, ITEM, ONE, TWO = 7, 8, 9, 10, 11, 12, 13
"""Markers, and digits of a list; 0 ends the text."""
FOREVER = [3] * 10_000
ROOM = {"group_size": 2, "max_completion": 24}
TREE = {"answer": "eos", "repetition": "off", "depth": 4, **ROOM, "group_size": 6}
FORKS = {"fork": FORK, "list_open": OPEN, "item": ITEM, "thread_end": (END,), "digits": tuple(range(ONE - 1, 22))}
FORKS |= {"texts": ((ONE, "1"), (TWO, "2"), (4, ":")), "header_parts": ((), ()), **ROOM}
MARKS = {"summary_open": (OPEN,), "summary_close": (CLOSE,), "history_open": (5,), "history_close": (6,)}
DRIVERS = {
    "flat": FlatDriver(**ROOM),
    "treepo": TreePODriver(**TREE),
    "treepo from the start": TreePODriver(**TREE, fallback="from_start", fallback_from="random_all"),
    "treepo dropping": TreePODriver(**TREE, min_answer=9),
    "treepo without fallback": TreePODriver(**TREE, fallback="no_fallback", first_width=(2, 4)),
    "treepo by tokens": TreePODriver(**TREE, fallback="no_fallback", level_tokens=30),
    "eptree": EPTreeDriver(closing_words=(), splits=2, rounds=2, branches=2, **ROOM),
    "delethink": DelethinkDriver(chunk=8, head=1, tail=3, max_chunks=4, **ROOM),
    "summary": SummaryDriver(round_tokens=6, max_rounds=3, **MARKS, **ROOM),
    "anytime": AnytimeDriver(summaries=2, summary_tokens=3, think_end=(END,), cut=(5, END), header=(6,), **ROOM),
    "anytime by summary": AnytimeDriver(summary_tokens=3, unit="summary", think_end=(END,), cut=(END,), **ROOM),
    "budget_force": BudgetForceDriver(
        thinking_tokens=9, ignores=2, think_end=(END,), wait=(5,), answer=(6,), **ROOM
    ),
    "fork_join": ForkJoinDriver(rounds=3, max_threads=2, **FORKS),
    "fork_join of fixed threads": ForkJoinDriver(rounds=2, threads=3, keep_markers=False, **FORKS),
    "fork_join by calls": ForkJoinDriver(
        rounds=2, max_threads=2, thread_tokens=5, format="calls", afterwards="sequential", result=6, **FORKS
    ),
}  # fmt: skip


class Watched(ScriptedEngine):
    """Knows how many calls it ever had at once; the earlier a token, the more surprising."""

    most = 0

    def step(self):
        self.most = max(self.most, len(self._queue) + len(self._live))
        return [replace(ended, logp=ended.logp[::-1].copy()) for ended in super().step()]


@dataclass
class Found:
    rollouts: int
    rows: int
    live: int
    decoded: int


def roll_out(driver, script):
    engine = Watched(script)
    (group,) = run_groups(driver, engine, [prompt_group(0, [5, 5])], seed=0, step=0)
    rows = flatten([group], np.ones(len(group.rollouts)), normalizer="row_mean", max_completion=24, keep_all=True)
    assert len(rows) <= len(group.leaves)
    return Found(len(group.rollouts), len(group.leaves), engine.most, group.cost.decoded), rows


def random_text(seed):
    """Completions of markers and other tokens, a function of context and noise stream; every third is long."""

    def script(context, request):
        rng = np.random.default_rng([seed, request.noise.leaf, *context])
        if rng.random() < 0.2:
            return [OPEN, ITEM, ONE, 4, ITEM, TWO, 4, FORK]
        tokens = [1, 2, 3, 6, *[END, OPEN, CLOSE, FORK] * int(rng.integers(2))]
        return rng.choice(tokens, int(rng.integers(0, 30))).tolist()

    return script


@pytest.mark.parametrize("name", DRIVERS)
@settings(max_examples=40)
@given(seed=st.integers(0, 2**20))
def test_no_group_exceeds_what_its_driver_says(name, seed):
    driver = DRIVERS[name]
    most = PerPrompt.of(driver, driver.group_size, driver.max_completion)
    found, rows = roll_out(driver, random_text(seed))
    for bound in ("rollouts", "rows", "live", "decoded"):
        assert getattr(found, bound) <= getattr(most, bound), bound
    longest = getattr(driver, "longest_context", driver.max_completion)
    assert max(map(len, rows), default=0) <= 2 + longest, "a row is longer than said"


def summaries(context, request):
    return [OPEN, *[3] * (request.max_tokens - 2), CLOSE]


def thinks_to_the_end(context, request):
    return FOREVER if END in context else [1, 2, END]


def forks_at_once(context, request):
    return FOREVER if FORK in context else [FORK]


@pytest.mark.parametrize(
    ("driver", "script"),
    [
        (DRIVERS["flat"], FOREVER),
        (TreePODriver(**TREE, fallback="no_fallback"), FOREVER),
        (TreePODriver(**TREE, fallback="no_fallback", first_width=(6, 6)), FOREVER),
        (TreePODriver(**TREE, fallback="no_fallback", segment_tokens=6, level_tokens=36), FOREVER),
        (EPTreeDriver(closing_words=(), splits=2, branches=3, **ROOM), FOREVER),
        (EPTreeDriver(closing_words=(), splits=1, rounds=3, branches=2, **ROOM), FOREVER),
        (DRIVERS["delethink"], FOREVER),
        (DRIVERS["summary"], summaries),
        (DRIVERS["anytime"], FOREVER),
        (DRIVERS["anytime by summary"], FOREVER),
        (BudgetForceDriver(thinking_tokens=9, ignores=0, think_end=(END,), **ROOM), thinks_to_the_end),
        (ForkJoinDriver(rounds=1, threads=3, **FORKS | {"digits": ()}), forks_at_once),
        (ForkJoinDriver(rounds=1, threads=3, thread_tokens=5, **FORKS | {"digits": ()}),
         lambda context, request: FOREVER if FORK in context else [*[3] * 18, FORK]),
    ],
)  # fmt: skip
def test_a_full_group_reaches_what_its_driver_says(driver, script):
    most = PerPrompt.of(driver, driver.group_size, driver.max_completion)
    found, rows = roll_out(driver, script if callable(script) else lambda context, request: script)
    assert found == Found(most.rollouts, most.rows, most.live, most.decoded)
    # a fork that ends an answer leaves nothing to train in the row of the answer itself
    assert len(rows) == most.rows - isinstance(driver, ForkJoinDriver) * driver.group_size


def test_with_fallback_a_tree_reaches_its_rows():
    short = roll_out(DRIVERS["treepo"], lambda context, request: [3])[0]
    assert short.rows == DRIVERS["treepo"].per_prompt.rows == 6


def test_published_trees():
    assert EPTreeDriver().per_prompt.rows == 30
    tree = TreePODriver(group_size=16, depth=14, segment_tokens=512, max_completion=7168, fallback="no_fallback")
    assert tree.per_prompt.decoded == 190 * 512 and replace(tree, fallback="random").per_prompt.decoded == 16 * 7168
