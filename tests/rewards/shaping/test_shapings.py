"""Invariants that hold for every shaping, and counterexamples for those that a shaping says it breaks.

Every shaping gets exactly what it says it needs: what it does not name is missing, so that a need it forgot to name
fails here.
"""

from __future__ import annotations

import copy
import json
import random
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from laconic.errors import DataError
from laconic.rewards.shaping import (
    SHAPINGS,
    AdaptiveLagrangian,
    AdaptThink,
    Alp,
    AutoThink,
    Cosine,
    Dler,
    Gate,
    GrpoLambda,
    Hapo,
    Hgpo,
    KimiLength,
    Laser,
    LaserD,
    LaserDE,
    LcpoExact,
    LcpoMax,
    Need,
    NgramRep,
    O1Pruner,
    OverlongSoft,
    ParallelAccel,
    Phi4Length,
    Responses,
    Scope,
    Shaping,
    ShorterBetter,
    ShortRl,
    Thinkless,
    ThinkPrune,
    Tldr,
)
from laconic.rewards.shaping.base import Invariant

VARIANTS: dict[str, Any] = (
    {name: shaping() for name, shaping in SHAPINGS.items()}
    | {
        f"kimi_length-{weight}-{gate}-{quantile}": KimiLength(weight, gate, quantile)
        for weight in (0.1, 1.0)
        for gate in ("correct_only", "sign_split")
        for quantile in (0.5, 0.9, 1.0)
    }
    | {
        "adaptthink-published": AdaptThink(gate="none"),
        "autothink-3-published": AutoThink(stage=3, all_wrong="published"),
        "autothink-2": AutoThink(stage=2),
        "autothink-3": AutoThink(stage=3),
        "adaptive_lagrangian-published": AdaptiveLagrangian(target=0.62, max_penalty=None, gate="none"),
        "adaptive_lagrangian-ungated": AdaptiveLagrangian(target=0.62, gate="none"),
        "o1_pruner-published": O1Pruner(gate="none"),
        "o1_pruner-paper": O1Pruner(variant="paper"),
        "hapo-published": Hapo(gate="sign_split"),
        "hapo-linear-mean": Hapo(curve="linear", mode="mean", gate="sign_split"),
        "thinkless-positive": Thinkless(think=0.6, wrong=0.5),
        "alp-published": Alp(beta=1.0, norm=10_000, all_wrong_groups=True),
        "alp-right-only": Alp(gate="correct_only"),
        "shorterbetter-published": ShorterBetter(alpha=2.0, most=None, gate="none"),
        "shorterbetter-quantile": ShorterBetter(quantile=0.5),
        "hgpo-published": Hgpo(share=1.0, gate="none"),
        "hgpo-margin": Hgpo(margin=0.5, gate="none"),
        "short_rl-strong": ShortRl(weight=1.0, tolerance=10, accuracy_tolerance=0.0),
        "grpo_lambda-most": GrpoLambda(share=0.9, alpha=0.9),
        "lcpo_exact-published": LcpoExact(max_penalty=None, all_wrong_groups=True),
        "lcpo_max-steep": LcpoMax(alpha=0.01, budget=100),
        "thinkprune-tight": ThinkPrune(caps=(300, 100), stage_steps=10),
        "dler-tight": Dler(cap=100),
        "laser-published": Laser(target=256, mode="hybrid", wrong=-0.5),
        "tldr-penalty": Tldr(mode="penalty", budget=64),
        "overlong_soft-published": OverlongSoft(buffer=400, factor=1.0, wrong=-1.0, all_wrong_groups=True),
        "cosine-published": Cosine(exceed_right=True, all_wrong_groups=True),
        "ngram_rep-published": NgramRep(ngram=3, all_wrong_groups=True),
        "ngram_rep-tokens": NgramRep(ngram=3, measure="tokens"),
        "phi4_length-published": Phi4Length(300, 400, 50, scale=8 / 13, require_thought=True, all_wrong_groups=True),
        "phi4_length-short": Phi4Length(free=300, longest=400, wrong_until=50),
        "parallel_accel-published": ParallelAccel(wrong=-1.0),
        "laser_d-small": LaserD(target=96, lower=64, interval=64, upper=4096, every=1, wrong=-0.5),
        "laser_de-small": LaserDE(target=16, lower=8, interval=8, upper=40, every=1),
        "laser_de-published": LaserDE(target=16, lower=8, interval=8, upper=40, wrong=-0.5, all_wrong_groups=True),
    }
)
"""Every shaping with its defaults, and some with settings that change what it promises."""
ALL = [pytest.param(shaping, id=name) for name, shaping in VARIANTS.items()]
DEFAULTS = [pytest.param(VARIANTS[name], id=name) for name in SHAPINGS]
TOLERANCE = 1e-9
property_test = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@st.composite
def responses(draw: st.DrawFn, shaping: Shaping, kind: str | None = None) -> Responses:
    """One group, or up to four where the shaping looks at a whole generation, of 1 to 64 responses each.

    Lengths are 0, the cap, ties, anything between; truncated responses are at the cap and wrong. ``kind``: any, right
    (all of them) or wrong. Sizes and kinds are hypothesis's, so that it shrinks them; the rest hangs on a seed.
    """
    whole = shaping.scope in ("batch", "history")
    cap = 48 if "ids" in shaping.needs else draw(st.sampled_from([512, 32_768]))
    sizes_P = draw(st.lists(st.integers(1, 64), min_size=1, max_size=4 if whole else 1))
    kinds_P = [kind or draw(st.sampled_from(["any", "any", "right", "wrong"])) for _ in sizes_P]
    group_N = np.repeat(3 * np.arange(len(sizes_P)) + 2, sizes_P)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ties = rng.choice([0, 1, cap // 3, cap], len(group_N))
    length_N = np.where(rng.random(len(group_N)) < draw(st.sampled_from([0.0, 0.3, 1.0])), ties, 0)
    length_N = np.where(rng.random(len(group_N)) < 0.5, length_N, rng.integers(0, cap + 1, len(group_N)))
    right_N = np.concatenate(
        [np.full(size, own == "right") if own != "any" else rng.random(size) < 0.6
         for size, own in zip(sizes_P, kinds_P, strict=True)]
    )  # fmt: skip
    made = Responses.of(
        right_N, length_N, group_N, step=draw(st.integers(0, 300)), state=first_state(shaping),
        **filled(shaping.needs, right_N, length_N, group_N, cap, rng),
    )  # fmt: skip
    if made.state and draw(st.booleans()):
        # The generation before had right answers, also where this one has none.
        before = made if "truncated" in shaping.needs else replace(made, right_N=~made.right_N)
        made = replace(made, state=next_state(shaping, before), step=made.step + 1)
    return made


def filled(needs: Any, right_N: Any, length_N: Any, group_N: Any, cap: int, rng: np.random.Generator) -> dict[str, Any]:
    """What a shaping needs, and no more."""
    count = len(length_N)
    # The prompt is the group's, and its budget with it: none, one that all keep, or one in between.
    budget_P = dict(zip(np.unique(group_N), rng.choice([np.nan, 1, cap // 2, cap], count), strict=False))
    columns: dict[str, Any] = {
        "truncated_N": (length_N == cap) & ~right_N,
        "thought_N": np.choose(
            rng.integers(0, 4, count), [0.0 * length_N, length_N // 2.0, 1.0 * length_N, np.full(count, np.nan)]
        ),
        "budget_N": np.array([budget_P[group] for group in group_N]),
        "critical_N": np.where(rng.random(count) < 0.5, length_N, np.ceil(length_N / 2)).astype(float),
        "exit_N": np.floor(length_N * rng.random(count)),
        "chain_N": rng.integers(1, 4, count),
        "problem_N": tuple(f"problem {group}" for group in group_N),
        "cap": cap,
    }
    if "ids" in needs:
        columns["ids_N"] = tuple(rng.integers(0, 3, tokens).astype(np.int32) for tokens in length_N)
    return {name: column for name, column in columns.items() if name.removesuffix("_N") in needs}


def first_state(shaping: Any) -> dict[str, Any]:
    return dict(shaping.first_state())


def next_state(shaping: Any, given_responses: Responses) -> dict[str, Any]:
    return dict(shaping.next_state(given_responses))


def dominates(shaping: Shaping, rows: Responses) -> bool:
    reward_N, strict = shaping(rows), shaping.range().dominant
    for group in rows.by_group():
        reward_G, right_G = reward_N[group], rows.right_N[group]
        apart = reward_G[right_G].min(initial=np.inf) - reward_G[~right_G].max(initial=-np.inf)
        if apart < -TOLERANCE or (strict and not apart > 0):
            return False
    return True


def is_flat_where_all_are_wrong(shaping: Shaping, rows: Responses) -> bool:
    reward_N = shaping(rows)
    wrong = [reward_N[group] for group in rows.by_group() if not rows.right_N[group].any()]
    return all(np.ptp(reward_G) <= TOLERANCE for reward_G in wrong)


def falls_with_length(shaping: Shaping, rows: Responses) -> bool:
    reward_N = shaping(rows)
    for group in rows.by_group():
        right = group[rows.right_N[group]]
        reward_R, length_R = reward_N[right], rows.length_N[right]
        shorter_RR = length_R[:, None] < length_R[None, :]
        if (shorter_RR & (reward_R[:, None] < reward_R[None, :] - TOLERANCE)).any():
            return False
    return True


HOLDS = {"dominance": dominates, "all_wrong": is_flat_where_all_are_wrong, "monotone": falls_with_length}


@pytest.mark.parametrize("invariant", get_args(Invariant))
@pytest.mark.parametrize("shaping", ALL)
def test_an_invariant_holds_or_is_named_as_an_exception_with_a_counterexample(shaping: Any, invariant: Any) -> None:
    kind = "wrong" if invariant == "all_wrong" else None
    if invariant not in shaping.exceptions:

        @property_test
        @given(rows=responses(shaping, kind))
        def check(rows: Responses) -> None:
            assert HOLDS[invariant](shaping, rows)

        check()
    else:
        assert len(shaping.exceptions[invariant]) > 20, "an exception gives its reason"
        find(
            responses(shaping, kind),
            lambda rows: not HOLDS[invariant](shaping, rows),
            settings=settings(max_examples=2000, deadline=None, database=None, phases=[Phase.generate]),
            random=random.Random(1),
        )


@pytest.mark.parametrize("shaping", ALL)
def test_rewards_are_finite_float64_and_within_the_declared_range(shaping: Any) -> None:
    @property_test
    @given(rows=responses(shaping))
    def check(rows: Responses) -> None:
        reward_N = shaping(rows)
        assert (reward_N.dtype, reward_N.shape) == (np.float64, rows.right_N.shape)
        assert np.isfinite(reward_N).all()
        for side_N, (low, high) in ((rows.right_N, shaping.range().right), (~rows.right_N, shaping.range().wrong)):
            assert ((reward_N[side_N] >= low - TOLERANCE) & (reward_N[side_N] <= high + TOLERANCE)).all()

    check()


@pytest.mark.parametrize("shaping", ALL)
def test_rewards_follow_a_permutation_of_the_responses(shaping: Any) -> None:
    @property_test
    @given(rows=responses(shaping), rng=st.integers(0, 2**32 - 1))
    def check(rows: Responses, rng: int) -> None:
        order_N = np.random.default_rng(rng).permutation(len(rows))
        np.testing.assert_allclose(shaping(rows.select(order_N)), shaping(rows)[order_N], rtol=0, atol=TOLERANCE)

    check()


@pytest.mark.parametrize("shaping", ALL)
def test_a_shaping_changes_nothing_it_is_given_and_its_state_survives_a_file(shaping: Any) -> None:
    @settings(max_examples=15, deadline=None, derandomize=True)
    @given(rows=responses(shaping))
    def check(rows: Responses) -> None:
        before = copy.deepcopy(rows)
        reward_N, state = shaping(rows), next_state(shaping, rows)
        for name in Responses.__dataclass_fields__:
            np.testing.assert_equal(getattr(rows, name), getattr(before, name))
        assert json.loads(json.dumps(state)) == state
        np.testing.assert_array_equal(shaping(rows), reward_N)
        assert next_state(shaping, rows) == state

    check()


@pytest.mark.parametrize("shaping", [param for param in ALL if param.values[0].scope == "response"])  # type: ignore
def test_a_shaping_of_scope_response_looks_at_one_response_at_a_time(shaping: Any) -> None:
    @settings(max_examples=15, deadline=None, derandomize=True)
    @given(rows=responses(shaping))
    def check(rows: Responses) -> None:
        alone = [shaping(rows.select(np.array([row])))[0] for row in range(len(rows))]
        np.testing.assert_allclose(shaping(rows), alone, rtol=0, atol=TOLERANCE)

    check()


@pytest.mark.parametrize("shaping", DEFAULTS)
def test_every_shaping_declares_its_name_scope_gate_and_needs(shaping: Any) -> None:
    assert SHAPINGS[shaping.name] is type(shaping)
    assert shaping.scope in get_args(Scope) and shaping.gate in get_args(Gate)
    assert shaping.needs <= {*get_args(Need)} and {*shaping.exceptions} <= {*get_args(Invariant)}
    assert (first_state(shaping) == {}) == (shaping.scope != "history")


@pytest.mark.parametrize(
    ("right_G", "length_G"), [([], []), ([1, 0], [5]), ([[1]], [[5]]), ([1], [-1]), ([1], [float("nan")])]
)
def test_responses_that_are_none_are_refused(right_G: list[int], length_G: list[float]) -> None:
    with pytest.raises(DataError, match="length"):
        Responses.of(right_G, length_G)


def test_plain_shaping_is_the_outcome() -> None:
    assert SHAPINGS["none"]()(Responses.of([True, False, True], [5, 500, 0])).tolist() == [1.0, 0.0, 1.0]
    assert not SHAPINGS["none"]().range().shaped
