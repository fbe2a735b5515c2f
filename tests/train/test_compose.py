"""Several terms in one reward or one advantage: why weights cancel, and what keeps them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
from hand_made import Answers, Ranks, experience_of

from laconic.errors import ConfigError
from laconic.rewards.selection import Gfpo
from laconic.rewards.shaping import KimiLength, NoShaping, Responses, RewardRange, ShapingDefaults
from laconic.rewards.shaping.short_rl import ShortRl
from laconic.train.compose import first_states, state_metrics
from laconic.train.credit import DrGrpo, Grpo, ReinforcePP
from laconic.train.credit.base import constant
from laconic.train.experience import Experience, credit, select_rollouts, shape, states_after
from laconic.train.responses import Scene, responses_of, within_dead_zone
from laconic.train.rows import flatten
from laconic.train.settings import RewardSettings

EXACT = 1e-12
WORKED: Answers = [(length, True) for length in (200, 400, 800, 600)]
NOISE: Answers = [(length, True) for length in (1000, 1001, 1002, 1003)]
MIXED: Answers = [(200, True), (400, True), (800, True), (600, False)]


@dataclass(frozen=True)
class Sigmoid(ShapingDefaults):
    """r = c (1 - alpha sigma((L - mean) / std)), the std with ddof 0, over all responses."""

    alpha: float = 0.1

    name: ClassVar[str] = "sigmoid"
    scope: ClassVar[str] = "group"
    gate: ClassVar[str] = "correct_only"

    def range(self) -> RewardRange:
        return RewardRange((1 - self.alpha, 1.0), (0.0, 0.0))

    def __call__(self, responses: Responses) -> np.ndarray:
        length_G = responses.length_N
        z_G = (length_G - length_G.mean()) / max(length_G.std(), 1e-9)
        return responses.right_N * (1 - self.alpha / (1 + np.exp(-z_G)))


def advantages(answers: Answers, method: Any, **reward: Any) -> np.ndarray:
    settings = RewardSettings(**reward)
    found = credit(shape(experience_of(answers), settings), method, settings).advantage_N
    assert found is not None
    return found


def ddof(zero: np.ndarray, count: int = 4) -> np.ndarray:
    """What a deviation with ddof 1 makes of advantages under one with ddof 0."""
    return zero * np.sqrt((count - 1) / count)


@pytest.mark.parametrize("alpha", [0.1, 0.001])
def test_the_group_std_cancels_the_weight_of_a_length_term_in_a_group_of_right_answers(alpha: float) -> None:
    expected = ddof(np.array([1.3239, 0.4973, -1.3239, -0.4973]))
    found = advantages(WORKED, Grpo(epsilon=EXACT), shaping=Sigmoid(alpha))
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-5)
    np.testing.assert_allclose(found[:2], [1.1465, 0.4307], rtol=0, atol=5e-5)


def test_a_larger_epsilon_damps_a_small_weight_by_accident() -> None:
    whole = advantages(WORKED, Grpo(epsilon=EXACT), shaping=Sigmoid(0.001))
    damped = advantages(WORKED, Grpo(epsilon=1e-4), shaping=Sigmoid(0.001))
    # The deviation of the rewards is 2.2e-4 with ddof 0, which gives 0.69; credit's has ddof 1.
    std = np.std([1 - 0.001 / (1 + np.exp(-z)) for z in (np.array([-300, -100, 300, 100]) / 223.607)])
    assert std / (std + 1e-4) == pytest.approx(0.69, abs=0.005)
    np.testing.assert_allclose(damped / whole, (std * np.sqrt(4 / 3)) / (std * np.sqrt(4 / 3) + 1e-4), rtol=1e-6)


def test_differences_of_a_token_become_gradients_of_full_size() -> None:
    found = advantages(NOISE, Grpo(epsilon=EXACT), shaping=Sigmoid(0.1))
    np.testing.assert_allclose(found, ddof(np.array([1.3239, 0.4973, -0.4973, -1.3239])), rtol=0, atol=5e-5)


def test_a_dead_zone_takes_them_away_and_leaves_real_differences() -> None:
    assert not advantages(NOISE, Grpo(), shaping=Sigmoid(0.1), dead_zone=3).any()
    kept = advantages(WORKED, Grpo(), shaping=Sigmoid(0.1), dead_zone=3)
    np.testing.assert_array_equal(kept, advantages(WORKED, Grpo(), shaping=Sigmoid(0.1)))


def test_a_floor_under_the_deviation_keeps_the_weight() -> None:
    credit_ = Grpo(epsilon=EXACT, std_floor=0.5)
    large, small = (advantages(WORKED, credit_, shaping=Sigmoid(alpha)) for alpha in (0.1, 0.001))
    np.testing.assert_allclose(large, 100 * small, rtol=1e-9)
    reward_G = np.array([1, 0, 0, 1.0])
    assert np.std(reward_G, ddof=1) > 0.5
    np.testing.assert_array_equal(credit_(reward_G, np.zeros(4)), Grpo(epsilon=EXACT)(reward_G, np.zeros(4)))


def test_at_the_level_of_advantages_the_weight_is_real() -> None:
    weights, found = (0.5, 0.005), []
    for weight in weights:
        options = {"shaping": Sigmoid(0.1), "weights": (weight,), "level": "advantage"}
        found.append(advantages(WORKED, Grpo(epsilon=EXACT), **options))
    np.testing.assert_allclose(found[0], 100 * found[1], rtol=1e-9)
    np.testing.assert_allclose(found[0], 0.5 * ddof(np.array([1.3239, 0.4973, -1.3239, -0.4973])), rtol=0, atol=5e-5)
    cancelled = [advantages(WORKED, Grpo(epsilon=EXACT), shaping=Sigmoid(0.1), weights=(w,)) for w in weights]
    np.testing.assert_allclose(*cancelled, rtol=1e-7)


def test_at_the_level_of_advantages_each_part_is_normalised_alone() -> None:
    found = advantages(MIXED, Grpo(epsilon=EXACT), shaping=KimiLength(1.0), weights=(0.2,), level="advantage")
    z = Grpo(epsilon=EXACT)
    outcome, part = z([1, 1, 1, 0], np.zeros(4)), z([0.5, 1 / 6, -0.5, 0], np.zeros(4))
    np.testing.assert_allclose(found, outcome + 0.2 * part, rtol=0, atol=EXACT)


def test_terms_add_up_with_their_weights() -> None:
    kimi, sigmoid = KimiLength(0.4), Sigmoid(0.1)
    reward = RewardSettings(shaping=kimi, more=(sigmoid,), weights=(0.5, 2.0))
    shaped = shape(experience_of(MIXED), reward)
    responses = Responses.of([1, 1, 1, 0], [200, 400, 800, 600])
    outcome = responses.right_N.astype(float)
    expected = outcome + 0.5 * (kimi(responses) - outcome) + 2.0 * (sigmoid(responses) - outcome)
    np.testing.assert_allclose(shaped.reward_N, expected, rtol=0, atol=EXACT)
    one = shape(experience_of(MIXED), RewardSettings(shaping=kimi))
    np.testing.assert_array_equal(one.reward_N, kimi(responses))


def test_without_length_both_levels_are_the_outcome_alone() -> None:
    for level in ("reward", "advantage"):
        found = advantages(MIXED, DrGrpo(), shaping=NoShaping(), level=level)
        np.testing.assert_allclose(found, [0.25, 0.25, 0.25, -0.75], rtol=0, atol=EXACT)


def test_a_response_that_is_not_selected_has_no_advantage_and_moves_no_statistics() -> None:
    reward = RewardSettings(selection=Gfpo(keep=2, stats="kept"))
    experience = experience_of([(200, False), (400, True), (800, True), (600, False)])
    chosen = select_rollouts(shape(experience, reward), reward)
    found = credit(chosen, DrGrpo(), reward)
    assert found.advantage_N is not None and found.advantage_N.tolist() == [-0.5, 0.5, 0, 0]
    rows = flatten(found.groups, found.advantage_N, normalizer="token_mean", max_completion=800)
    assert [row.weight for row in rows] == [1 / 2000] * 2, "its tokens count in what the loss divides by"


class TokenByToken:
    """Credit that gives every token the reward of its answer, and 0 where there is none."""

    name = "token_by_token"

    def on_trees(self, reward_N: np.ndarray, groups: Any, gather: Any) -> list[Any]:
        answers = [(group, rollout) for group in groups for rollout in group.rollouts]
        return [constant(*one, float(np.nan_to_num(value))) for one, value in zip(answers, reward_N, strict=True)]


def test_credit_of_tokens_is_composed_and_selected_like_that_of_answers() -> None:
    kimi, selection = KimiLength(1.0, "sign_split"), Gfpo(keep=3, stats="kept")
    reward = RewardSettings(shaping=kimi, weights=(0.2,), level="advantage", selection=selection)
    found = credit(select_rollouts(shape(experience_of(MIXED), reward), reward), TokenByToken(), reward)
    expected = [1 + 0.2 / 2, 1 + 0.2 / 6, 0, -0.2 / 6]
    np.testing.assert_allclose(found.advantage_N, expected, rtol=0, atol=EXACT)
    assert found.token_advantage is not None
    for tokens, (length, _), value in zip(found.token_advantage, MIXED, expected, strict=True):
        (advantage_T,) = tokens.values()
        np.testing.assert_allclose(advantage_T, np.full(length, value), rtol=0, atol=EXACT)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"shaping": KimiLength(), "weights": (1.0, 2.0)}, "reward.weights has 2 numbers, but there are 1 terms"),
        ({"shaping": KimiLength(), "weights": (0.0,)}, "must be above 0"),
        ({"more": (KimiLength(),)}, "reward.shaping, which is none"),
        ({"shaping": KimiLength(), "more": (NoShaping(),)}, "holds none"),
        ({"dead_zone": -1}, "reward.dead_zone is -1"),
        ({"std_floor": -0.1}, "reward.std_floor is -0.1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RewardSettings(**settings)


# a generation whose groups lie on several ranks

GROUPS: list[Answers] = [MIXED, NOISE, [(5, False)] * 3, [(9, True), (700, False)], WORKED, [(30, True)]]
HISTORY = RewardSettings(shaping=ShortRl(weight=0.3, tolerance=10), selection=Gfpo(keep=2, adaptive=True, warm=1))


def step(experience: Experience, gather: Any, states: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    scene = Scene(gather=gather, states=states)
    shaped = select_rollouts(shape(experience, HISTORY, scene), HISTORY, scene)
    found = credit(shaped, ReinforcePP(), HISTORY, gather)
    assert found.reward_N is not None and found.advantage_N is not None
    return found.reward_N, found.advantage_N, states_after(shaped, HISTORY, scene)


@pytest.mark.parametrize("count", [2, 3])
def test_ranks_together_do_what_one_does_with_methods_that_look_at_a_whole_generation(count: int) -> None:
    first = first_states(HISTORY)
    alone = step(experience_of(*GROUPS), lambda value: [value], first)
    shares = [experience_of(*GROUPS[rank::count], first=rank, every=count) for rank in range(count)]
    parts = Ranks(count).run(lambda rank, gather: step(shares[rank], gather, first))
    sizes = [len(answers) for answers in GROUPS]
    for which in (0, 1):
        whole = np.split(alone[which], np.cumsum(sizes)[:-1])
        for rank, part in enumerate(parts):
            np.testing.assert_array_equal(part[which], np.concatenate(whole[rank::count]))
    assert all(part[2] == alone[2] for part in parts)
    assert alone[2] != first and state_metrics(alone[2])["shaping/best_accuracy"] == pytest.approx(13 / 18)


def test_a_rank_without_groups_takes_part() -> None:
    shares = [experience_of(MIXED), experience_of()]
    alone, none = Ranks(2).run(lambda rank, gather: step(shares[rank], gather, first_states(HISTORY)))
    np.testing.assert_array_equal(alone[0], step(shares[0], lambda value: [value], first_states(HISTORY))[0])
    assert none[0].shape == none[1].shape == (0,) and none[2] == alone[2]


def test_the_state_of_one_generation_is_what_the_next_one_sees() -> None:
    reward = RewardSettings(shaping=ShortRl(weight=0.3, tolerance=10, accuracy_tolerance=0.05))
    good, poor = experience_of(WORKED), experience_of([(200, True), (400, True), (5, False), (7, False)])
    states = first_states(reward)
    for experience, shaped in ((good, True), (poor, False), (good, True)):
        scene = Scene(states=states)
        found = shape(experience, reward, scene)
        assert bool((found.reward_N != experience.right_N).any()) == shaped
        states = states_after(found, reward, scene)
    assert states == {"reward.shaping": {"best_accuracy": 1.0}}


def test_the_dead_zone_is_of_right_answers_of_one_group() -> None:
    responses = Responses.of([1, 1, 0, 1, 1], [100, 110, 90, 111, 500], [0, 0, 0, 0, 1])
    assert within_dead_zone(responses, 10).length_N.tolist() == [100, 100, 90, 111, 500]
    assert responses.length_N.tolist() == [100, 110, 90, 111, 500]


def test_only_what_is_needed_is_computed() -> None:
    experience = experience_of(MIXED)
    known = (experience.groups, experience.right_N, experience.length_N)
    bare = responses_of(*known, (), Scene())
    optional = ("truncated_N", "thought_N", "budget_N", "critical_N", "ids_N", "problem_N", "exit_N", "chain_N", "cap")
    assert all(getattr(bare, name) is None for name in optional)
    full = responses_of(
        *known, {"truncated", "budget", "critical", "ids", "problem", "exit", "cap"},
        Scene(cap=800, step=3, budget=lambda group: 50.0),
    )  # fmt: skip
    assert full.problem_N == ("p0",) * 4 and full.cap == 800 and full.step == 3
    assert full.truncated_N is not None and not full.truncated_N.any()
    assert full.budget_N is not None and full.budget_N.tolist() == [50.0] * 4
    assert full.ids_N is not None and [len(ids) for ids in full.ids_N] == full.length_N.tolist()
    for same in (full.critical_N, full.exit_N):
        assert same is not None and same.tolist() == [200, 400, 800, 600]
    assert full.chain_N is not None and full.chain_N.tolist() == [1, 2, 3, 4]
    assert replace(full, state={"a": 1}).state == {"a": 1}
