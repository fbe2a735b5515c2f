"""The alarms count groups, whatever their sizes and the order of their rows."""

from __future__ import annotations

import numpy as np

from laconic.rewards.shaping import KimiLength, Responses, correct_dominance, length_only_signal, length_only_wrong

# Groups: 4 mixed, 1 all wrong, 8 all right, 2 of one response.
GROUP_N = np.array([4, 1, 4, 8, 1, 8, 2])
RIGHT_N = np.array([1, 0, 0, 1, 0, 1, 1])


def test_a_wrong_response_above_a_right_one_counts_once_per_group() -> None:
    assert correct_dominance(RIGHT_N, [1.0, 0, 0, 1, 0, 1, 1], GROUP_N) == 0.0
    assert correct_dominance(RIGHT_N, [0.5, 0, 0.6, 1, 0, 1, 1], GROUP_N) == 0.25
    assert correct_dominance([1, 0, 0, 1], [1.0, 2.0, 2.0, 0.0], [0, 0, 0, 0]) == 1.0


def test_equal_rewards_of_right_and_wrong_are_no_violation() -> None:
    assert correct_dominance([1, 0], [0.5, 0.5], [0, 0]) == 0.0


def test_the_reward_of_the_o1_pruner_is_caught() -> None:
    # (Lref / L - 1) + lambda (c - Aref) with Lref = 600, Aref = 0.5, lambda = 2: short and wrong beats right.
    assert correct_dominance([0, 1], [600 / 150 - 1 - 1, 1.0], [0, 0]) == 1.0


def test_length_only_signal_is_different_rewards_for_equal_outcomes() -> None:
    assert length_only_signal(RIGHT_N, RIGHT_N, GROUP_N) == 0.0
    assert length_only_signal(RIGHT_N, [1, 0, 0, 1.2, -0.5, 0.8, 1], GROUP_N) == 0.5


def test_length_only_wrong_counts_groups_without_a_right_response_only() -> None:
    assert length_only_wrong(RIGHT_N, RIGHT_N, GROUP_N) == 0.0
    assert length_only_wrong(RIGHT_N, [1, 0, 0, 1.2, 0, 0.8, 1], GROUP_N) == 0.0
    assert length_only_wrong(RIGHT_N, [1, 0, 0, 1.2, -0.5, 0.8, 1], GROUP_N) == 0.25


def test_the_published_kimi_rule_raises_an_alarm_on_an_all_wrong_group_and_the_default_does_not() -> None:
    wrong = Responses.of(np.zeros(4), [200, 400, 800, 600])
    for gate, share in (("correct_only", 0.0), ("sign_split", 1.0)):
        reward_G = KimiLength(gate=gate)(wrong)  # type: ignore[arg-type]
        assert length_only_signal(wrong.right_N, reward_G, wrong.group_N) == share


def test_no_groups_raise_no_alarm() -> None:
    assert correct_dominance([], [], []) == length_only_signal([], [], []) == length_only_wrong([], [], []) == 0.0
