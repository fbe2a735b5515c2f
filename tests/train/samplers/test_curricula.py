"""Curricula: which problems by difficulty, and how long answers may be by stage."""

from __future__ import annotations

import pytest

from laconic.errors import ConfigError
from laconic.train.cautions import find_warnings
from laconic.train.checks import check_settings
from laconic.train.derived import derive
from laconic.train.samplers import Band, ContextCurriculum, Curriculum, Outcome, Stage
from laconic.train.samplers.solve_rates import SolveRates
from laconic.train.settings import load_settings


def test_rates_are_discounted_and_forgotten():
    rates = SolveRates(memory=0.5)
    assert rates.rate(3) is None and rates.norm(3) == 0 and rates.means() is None
    rates.see(Outcome(3, 8, 8, 16.0))
    assert (rates.rate(3), rates.norm(3)) == (1, 2)
    rates.see(Outcome(3, 8, 2, 2.0))
    assert (rates.rate(3), rates.norm(3)) == (6 / 12, 10 / 6)
    rates.see(Outcome(4, 4, 0))
    assert (rates.rate(4), rates.norm(4)) == (0, 0)
    assert rates.means() == (0.25, 10 / 6), "a problem without a right answer has no norm"
    for _ in range(4):
        rates.pass_over(3)
    assert rates.rate(3) is None, "12 answers, halved four times, are less than one"
    assert list(rates) == [4]


def test_by_default_only_what_is_never_solved_is_passed_over():
    sampler = Curriculum().build(4, seed=0)
    order = sampler.draw(4)
    sampler.record_outcomes([Outcome(index, 8, right) for index, right in zip(order, [0, 1, 4, 8], strict=True)])
    drawn = sampler.draw(6)
    assert order[0] not in drawn and set(drawn) == set(order[1:])
    assert sampler.metrics() == {"sampler/passed_over": 2, "sampler/known": 4}


def test_bands_follow_the_generation():
    sampler = Curriculum(bands=(Band(0, 0.5, 1), Band(10, 0, 0.5)), memory=0.9).build(4, seed=0)
    order = sampler.draw(4)
    sampler.record_outcomes([Outcome(index, 8, right) for index, right in zip(order, [0, 2, 6, 8], strict=True)])
    sampler.begin(9)
    assert set(sampler.draw(2)) == {order[2], order[3]}
    sampler.begin(10)
    assert set(sampler.draw(3)) == {order[1]}, "hardest is left out, easiest is in"


def test_a_hopeless_problem_gets_another_look():
    sampler = Curriculum().build(2, seed=0)
    sampler.record_outcomes([Outcome(0, 8, 0), Outcome(1, 8, 8)])
    drawn = sampler.draw(6)
    assert drawn.count(0) <= 2 and 0 in drawn, "8, 4, 2, 1, 1/2 answers: unknown again"


def test_where_nothing_fits_problems_are_drawn_as_they_come():
    sampler = Curriculum(memory=0.99).build(3, seed=0)
    sampler.record_outcomes([Outcome(index, 64, 0) for index in range(3)])
    assert set(sampler.draw(3)) <= {0, 1, 2}
    assert sampler.metrics()["sampler/passed_over"] == 9


def test_a_few_problems_are_enough():
    sampler = Curriculum(bands=(Band(0, 0.1, 1),), few=2).build(6, seed=0)
    first = sampler.draw(4)
    sampler.record_outcomes([Outcome(index, 8, right) for index, right in zip(first, [4, 0, 4, 4], strict=True)])
    assert sampler.draw(3) == [first[0], first[2], first[0]]
    assert sampler.draw(2) == [first[2], first[0]], "the next step goes on where this one ended"
    for _ in range(2):
        sampler.record_outcomes([Outcome(first[0], 8, 0)])
    assert set(sampler.draw(2)) == set(first[2:]), "1 of 14 is too few, and another takes its place"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"bands": ()}, "sampler.bands"),
        ({"bands": (Band(1),)}, "sampler.bands"),
        ({"bands": (Band(0), Band(5), Band(5))}, "sampler.bands"),
        ({"bands": (Band(0, 0.5, 0.5),)}, "hardest must be below"),
        ({"bands": (Band(0, 0.5, 1.5),)}, "at most 1"),
        ({"few": -1}, "sampler.few"),
        ({"memory": 1.0}, "sampler.memory"),
    ],
)
def test_settings_of_a_curriculum_out_of_range_are_refused_by_name(options, word):
    with pytest.raises(ConfigError, match=word):
        Curriculum(**options)


def test_a_step_of_more_prompts_than_there_are_problems_is_refused():
    with pytest.raises(ConfigError, match="sampler.few=8"):
        check_settings(load_settings("configs/methods/curriculum.yaml", ["sampler.few=7"]), None)


def test_stages_follow_the_generation():
    sampler = ContextCurriculum().build(9, seed=0)
    seen = []
    for generation in (0, 1039, 1040, 1519, 1520, 9999):
        sampler.begin(generation)
        seen.append((sampler.longest(32768), sampler.ask(2, 4).sizes))
    assert [cap for cap, _ in seen] == [8192, 8192, 16384, 16384, 24576, 24576]
    assert [sizes for _, sizes in seen] == [[8, 8], [8, 8], *[[16, 16]] * 4]


def test_falling_caps_are_stages_like_others():
    sampler = ContextCurriculum((Stage(0, 4000, 8), Stage(9, 3000, 8), Stage(18, 2000, 8))).build(9, seed=0)
    caps = []
    for generation in (8, 9, 18):
        sampler.begin(generation)
        caps.append(sampler.longest(4000))
    assert caps == [4000, 3000, 2000]


@pytest.mark.parametrize(
    ("stages", "word"),
    [
        ((), "sampler.stages"),
        ((Stage(1, 9, 9),), "sampler.stages"),
        ((Stage(0, 9, 9), Stage(0, 8, 9)), "sampler.stages"),
        ((Stage(0, 0, 9),), "max_completion 0"),
        ((Stage(0, 9, 1),), "group_size 1"),
    ],
)
def test_stages_out_of_order_or_range_are_refused_by_name(stages, word):
    with pytest.raises(ConfigError, match=word):
        ContextCurriculum(stages)


CONFIG = "configs/methods/context_curriculum.yaml"


@pytest.mark.parametrize(
    ("override", "remedy"),
    [
        ("rollout.max_completion=300", "raise rollout.max_completion"),
        ("rollout.group_size=8", "raise rollout.group_size"),
        ("rollout.park_after=64", "leave it out"),
        (
            "rollout.driver={name: delethink, chunk: 128, head: 8, tail: 16, max_chunks: 3}",
            "stage of step 0 does not suit the driver",
        ),
    ],
)
def test_stages_beyond_the_rollout_section_are_refused(override, remedy):
    with pytest.raises(ConfigError, match=remedy):
        check_settings(load_settings(CONFIG, [override]), None)


def test_the_dry_run_says_the_stages():
    text = "\n".join(derive(load_settings(CONFIG), None))
    assert "from step 0 8 x 128 tokens, from step 30 16 x 256 tokens, from step 45 16 x 384 tokens" in text


@pytest.mark.parametrize("config", ["curriculum", "gvm"])
def test_a_run_that_meets_no_problem_twice_is_warned_of(config):
    overrides = ["steps=10", "rollout.prompts_per_step=8"]
    for count, met in ((81, False), (79, True)):
        found = find_warnings(load_settings(f"configs/methods/{config}.yaml", [*overrides, f"task.count={count}"]))
        assert any(f"sampler {config} learns from earlier answers" in line for line in found) != met
    piloted = load_settings("configs/methods/gvm.yaml", [*overrides, "sampler.estimate=pilot", "task.count=81"])
    assert not find_warnings(piloted)


@pytest.mark.parametrize("config", ["curriculum", "gvm"])
def test_configurations_of_samplers_that_look_back_meet_their_problems_in_the_benchmark(config):
    # 500,000 tokens are about thirty steps of 128 answers.
    settings = load_settings(f"configs/methods/{config}.yaml")
    assert settings.sampler.looks_back
    assert settings.task.count * 3 <= 30 * settings.rollout.prompts_per_step
