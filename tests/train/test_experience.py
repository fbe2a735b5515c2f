"""From rollouts to credit, on groups made by hand and a judge in this process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from laconic.errors import RunError
from laconic.eval.tasks import Problem
from laconic.rewards.verdict import Item, Judgement, Verdict
from laconic.rollout.records import Cost, Group, Kind, Leaf, Rollout, Segment, Stop
from laconic.train.credit import DrGrpo, Grpo
from laconic.train.experience import (
    Experience,
    credit,
    judge,
    passing_groups,
    shape,
    truncate,
)
from laconic.train.generation_metrics import facts_of, merge, outcome_metrics, training_metrics
from laconic.train.settings import RewardSettings
from laconic.train.truncation import Dot, NoTruncation

# A word of the test language is "a" (10), and an answer is right when its last word is "r" (11).
WORD, RIGHT = 10, 11
PLAIN = RewardSettings()
PAPER = Dot(alpha=3.0, margin=32)


class Letters:
    """A tokenizer of two letters."""

    def decode(self, ids: np.ndarray, skip_special_tokens: bool = False) -> str:
        return "".join("r" if token == RIGHT else "a" for token in ids)


class LastLetter:
    """Right where the answer ends in the right letter; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[Item]] = []

    def __call__(self, items: Sequence[Item]) -> list[Judgement]:
        self.asked.append(list(items))
        return [Judgement(Verdict.RIGHT if item.response.endswith("r") else Verdict.WRONG) for item in items]


@dataclass(frozen=True)
class Answer:
    """An answer to be sampled."""

    length: int
    right: bool = True
    stop: Stop = Stop.EOS


def group_of(answers: Sequence[Answer], number: int = 0, prompt: int = 5) -> Group:
    ids = np.full(prompt, WORD, np.int32)
    segments = [Segment(0, None, 0, Kind.PROMPT, ids, np.full(prompt, np.nan, np.float32))]
    for index, answer in enumerate(answers):
        tokens = np.full(answer.length, WORD, np.int32)
        tokens[-1] = RIGHT if answer.right else WORD
        logp = np.full(answer.length, -0.5, np.float32)
        cost = Cost(answer.length, prompt if index == 0 else 0, 0, answer.length * prompt)
        segments.append(Segment(index + 1, 0, prompt, Kind.SAMPLED, tokens, logp, answer.stop, cost=cost))
    leaves = tuple(Leaf(index, index + 1) for index in range(len(answers)))
    group = Group(number, f"p{number}", tuple(segments), leaves, tuple(Rollout((leaf.id,)) for leaf in leaves))
    group.validate()
    return group


def judged(*groups: Sequence[Answer], judge_items: LastLetter | None = None) -> Experience:
    made = [group_of(answers, number) for number, answers in enumerate(groups)]
    return judge(made, problems(len(made)), Letters(), judge_items or LastLetter())  # type: ignore[arg-type]


def problems(count: int) -> dict[str, Problem]:
    return {f"p{number}": Problem(f"p{number}", "q", f"gold {number}", "test") for number in range(count)}


def cut(experience: Experience, method: object, judge_items: LastLetter) -> Experience:
    return truncate(experience, method, problems(len(experience.groups)), Letters(), judge_items)  # type: ignore[arg-type]


def select_groups(experience: Experience, rule: str, at_most: int) -> tuple[Experience, int]:
    """The first that pass, and how many do."""
    passed = passing_groups(experience, rule)
    return experience.only(passed[:at_most]), len(passed)


OUTLIER = [Answer(100)] * 15 + [Answer(1000)]
"""The worked example: mean 156.25, deviation 225, so answers end after floor(156.25 + 3 * 225) = 831 tokens."""


def test_every_answer_is_judged_with_its_own_gold_in_order() -> None:
    ask = LastLetter()
    experience = judged([Answer(3), Answer(2, right=False)], [Answer(4, stop=Stop.LENGTH)], judge_items=ask)
    assert [(item.response, item.gold, item.verifier, item.truncated) for item in ask.asked[0]] == [
        ("aar", "gold 0", "exact", False), ("aa", "gold 0", "exact", False), ("aaar", "gold 1", "exact", True),
    ]  # fmt: skip
    assert experience.right_N.tolist() == [True, False, True]
    assert experience.length_N.tolist() == [3, 2, 4]
    assert experience.group_N.tolist() == [0, 0, 1]
    assert experience.truncated_N.tolist() == [False, False, True]
    assert not experience.cut_N.any()


def test_the_worked_example_of_outlier_truncation_end_to_end() -> None:
    ask = LastLetter()
    before = judged(OUTLIER, judge_items=ask)
    after = cut(before, PAPER, ask)
    assert after.length_N.tolist() == [100] * 15 + [831]
    assert after.cut_N.tolist() == [False] * 15 + [True]
    assert [len(asked) for asked in ask.asked] == [16, 1], "only what was cut is judged again"
    assert ask.asked[1][0].response == "a" * 831 and ask.asked[1][0].gold == "gold 0"
    assert after.right_N.tolist() == [True] * 15 + [False]

    kept, passed = select_groups(after, "signal", at_most=8)
    assert passed == 1
    credited = credit(shape(kept, PLAIN), Grpo(epsilon=1e-6), PLAIN)
    assert credited.reward_N is not None and credited.reward_N.tolist() == [1.0] * 15 + [0.0]
    np.testing.assert_allclose(credited.advantage_N, [0.249999] * 15 + [-3.749985], rtol=0, atol=5e-7)


def test_truncation_changes_no_cost() -> None:
    before = judged(OUTLIER, [Answer(10), Answer(20, right=False)])
    after = cut(before, PAPER, LastLetter())
    assert after.cut_N.sum() == 1
    assert [group.cost for group in after.groups] == [group.cost for group in before.groups]
    assert sum(group.cost.decoded for group in after.groups) == 15 * 100 + 1000 + 30
    for group in after.groups:
        group.validate()


def test_groups_are_filtered_by_what_is_right_after_truncation() -> None:
    ask = LastLetter()
    experience = judged(OUTLIER, [Answer(100)] * 16, [Answer(50, right=False)] * 16, judge_items=ask)
    _, passed_before = select_groups(experience, "signal", at_most=8)
    kept, passed = select_groups(cut(experience, PAPER, ask), "signal", at_most=8)
    assert (passed_before, passed) == (0, 1)
    assert [group.id for group in kept.groups] == [0]


def test_a_group_with_a_wrong_answer_is_not_cut() -> None:
    ask = LastLetter()
    experience = judged([*OUTLIER[1:], Answer(100, right=False)], judge_items=ask)
    after = cut(experience, PAPER, ask)
    assert not after.cut_N.any() and len(ask.asked) == 1
    assert after.length_N.tolist() == experience.length_N.tolist()


def test_without_truncation_nothing_is_asked_twice() -> None:
    ask = LastLetter()
    experience = judged(OUTLIER, judge_items=ask)
    after = cut(experience, NoTruncation(), ask)
    assert len(ask.asked) == 1 and not after.cut_N.any() and after.judgement_N == experience.judgement_N


@pytest.mark.parametrize("right", [True, False])
def test_a_group_of_equal_outcomes_has_no_signal(right: bool) -> None:
    experience = judged([Answer(length, right) for length in (5, 10, 20)])
    assert select_groups(experience, "signal", at_most=8)[0].groups == ()
    kept, passed = select_groups(experience, "none", at_most=8)
    assert passed == 1
    for method in (Grpo(), DrGrpo()):
        credited = credit(shape(kept, PLAIN), method, PLAIN)
        assert credited.advantage_N is not None and credited.advantage_N.tolist() == [0.0] * 3


def test_the_first_groups_that_pass_are_kept_and_all_that_pass_are_counted() -> None:
    mixed, wrong = [Answer(3), Answer(4, right=False)], [Answer(5, right=False)] * 2
    experience = judged(wrong, mixed, mixed, wrong, mixed)
    kept, passed = select_groups(experience, "signal", at_most=2)
    assert ([group.id for group in kept.groups], passed) == ([1, 2], 3)
    kept, passed = select_groups(experience, "none", at_most=2)
    assert ([group.id for group in kept.groups], passed) == ([0, 1], 5)


def test_selected_groups_keep_their_own_numbers_at_every_stage() -> None:
    experience = judged([Answer(1), Answer(2, right=False), Answer(3)], [Answer(4, right=False)] * 2, [Answer(6)] * 2)
    experience = credit(shape(experience, PLAIN), DrGrpo(), PLAIN)
    assert experience.reward_N is not None and experience.advantage_N is not None
    chosen = experience.select(np.array([True, False, True]))
    assert chosen.group_N.tolist() == [0, 0, 0, 1, 1]
    assert chosen.length_N.tolist() == [1, 2, 3, 6, 6]
    assert chosen.right_N.tolist() == [True, False, True, True, True]
    assert chosen.reward_N is not None and chosen.reward_N.tolist() == [1, 0, 1, 1, 1]
    assert chosen.advantage_N is not None
    np.testing.assert_allclose(chosen.advantage_N, [1 / 3, -2 / 3, 1 / 3, 0, 0])


def test_nothing_kept_is_an_experience_too() -> None:
    kept, passed = select_groups(judged([Answer(3)] * 2), "signal", at_most=4)
    credited = credit(shape(kept, PLAIN), Grpo(), PLAIN)
    assert passed == 0 and credited.advantage_N is not None and credited.advantage_N.shape == (0,)
    assert credited.length_N.shape == credited.right_N.shape == credited.group_N.shape == (0,)


def test_metrics_of_a_generation() -> None:
    cap = Stop.LENGTH
    experience = judged(
        [Answer(2), Answer(4), Answer(9, right=False), Answer(9, right=False, stop=cap)],
        [Answer(6)] * 4,
        [Answer(8, right=False, stop=cap)] * 4,
    )
    metrics = outcome_metrics(facts_of(experience))
    assert metrics["outcome/accuracy"] == 0.5
    assert metrics["length/mean"] == pytest.approx((2 + 4 + 9 + 9 + 24 + 32) / 12) and metrics["length/max"] == 9
    assert metrics["length/right"] == 5.0 and metrics["length/wrong"] == pytest.approx((18 + 32) / 6)
    assert metrics["length/truncated"] == metrics["stop/length"] == pytest.approx(5 / 12)
    assert metrics["stop/eos"] == pytest.approx(7 / 12)
    assert [metrics[f"groups/{which}"] for which in ("all_right", "all_wrong", "mixed")] == [pytest.approx(1 / 3)] * 3
    assert metrics["outcome/unreadable"] == metrics["outcome/verifier_failed"] == 0


def test_metrics_of_what_sampling_cost() -> None:
    metrics = outcome_metrics(facts_of(judged(OUTLIER, [Answer(10, right=False)] * 2)))
    lengths = [answer.length for answer in OUTLIER]
    prompt, in_a_row = 5, [*lengths, 10, 10]
    flat = sum(n * prompt + n * (n - 1) // 2 for n in in_a_row)
    assert {key.partition("/")[2]: value for key, value in metrics.items() if key.startswith("tokens/")} == {
        "decoded": sum(lengths) + 20, "prefilled": 10, "cached": 0, "kv_read": 12600,
        "trajectories": sum(lengths) + 20, "critical": (sum(lengths) + 20) / (len(lengths) + 2), "saved": 0.0,
        "parallel_saved": 0.0, "kv_saved": 1 - 12600 / flat,
    }  # fmt: skip


@pytest.mark.parametrize(("right", "missing"), [(True, "length/wrong"), (False, "length/right")])
def test_the_length_of_answers_that_do_not_exist_is_not_a_number(right: bool, missing: str) -> None:
    metrics = outcome_metrics(facts_of(judged([Answer(3, right)] * 2)))
    assert math.isnan(metrics[missing])
    unknown = {"length/outcome_correlation", "length/repeated", *(key for key in metrics if key.startswith("thought/"))}
    unknown |= {"outcome/easy", "outcome/middle", "outcome/hard"}  # of problems without a level
    assert {key for key, value in metrics.items() if math.isnan(value)} == {missing} | unknown


def test_failures_of_the_verifier_are_counted_apart_from_wrong_answers() -> None:
    verdicts = [Verdict.RIGHT, Verdict.UNREADABLE, Verdict.TIMEOUT, Verdict.CRASHED]

    def failing(items: Sequence[Item]) -> list[Judgement]:
        return [Judgement(verdict) for verdict, _ in zip(verdicts, items, strict=True)]

    experience = judge([group_of([Answer(2)] * 4)], problems(1), Letters(), failing)  # type: ignore[arg-type]
    metrics = outcome_metrics(facts_of(experience))
    assert metrics["outcome/verifier_failed"] == 0.5 and metrics["outcome/unreadable"] == 0.25
    assert metrics["outcome/accuracy"] == 0.25


def test_a_verifier_that_fails_on_most_answers_stops_the_run() -> None:
    def of(failed: int, truncated: int, count: int) -> Experience:
        verdicts = [Verdict.CRASHED] * failed + [Verdict.TRUNCATED] * truncated
        verdicts += [Verdict.WRONG] * (count - len(verdicts))
        group = group_of([Answer(2)] * count)
        return judge([group], problems(1), Letters(), lambda items: [Judgement(verdict) for verdict in verdicts])  # type: ignore[arg-type]

    assert len(of(5, 0, 10).judgement_N) == 10, "half is not most"
    assert len(of(7, 3, 10).judgement_N) == 10, "seven are too few to tell"
    with pytest.raises(RunError, match=r"on 60% of 10 answers, more than 50%; mend it \(task.verifier\)"):
        of(6, 90, 100)


def test_metrics_of_what_is_trained_on() -> None:
    ask = LastLetter()
    sampled = cut(judged(OUTLIER, [Answer(10, right=False)] * 2, judge_items=ask), PAPER, ask)
    kept, _ = select_groups(sampled, "signal", at_most=8)
    metrics = training_metrics(facts_of(sampled), facts_of(credit(shape(kept, PLAIN), Grpo(), PLAIN)))
    assert metrics.pop("prompt_ids_hash")
    assert metrics.pop("reward/explained_by_length") == pytest.approx(1.0)  # the only long answer is the only wrong one
    assert metrics == {
        "groups/sampled": 2, "groups/kept": 1, "groups/with_signal": 1, "dot/cut": 1 / 18, "reward/mean": 15 / 16,
        "reward/wrong_above_right": 0.0, "reward/length_only_groups": 0.0, "reward/length_only_wrong": 0.0,
        "reward/flat_groups": 0.0,
    }  # fmt: skip


def test_metrics_do_not_depend_on_which_rank_has_which_group() -> None:
    ask = LastLetter()
    sampled = judged(OUTLIER, [Answer(7), Answer(9, right=False)], [Answer(4)] * 3, judge_items=ask)
    whole = credit(shape(sampled, PLAIN), Grpo(), PLAIN)
    parts = [whole.only({0, 2}), whole.only({1}), whole.only(set())]
    one, many = facts_of(whole), merge([facts_of(part) for part in (parts[1], parts[2], parts[0])])
    np.testing.assert_equal(outcome_metrics(one), outcome_metrics(many))
    assert training_metrics(one, one) == training_metrics(many, many)
