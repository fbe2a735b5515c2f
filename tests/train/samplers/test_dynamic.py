"""`dynamic`: rounds until the batch is full, and what happens where it never is."""

from __future__ import annotations

import logging

import pytest

from laconic.errors import ConfigError, RunError
from laconic.eval.model_spec import ModelSpec
from laconic.train.checks import check_settings
from laconic.train.derived import derive, estimate_memory, summary
from laconic.train.model_config import KNOWN_CONFIGS
from laconic.train.samplers import Dynamic
from laconic.train.settings import load_settings

CONFIG = "configs/methods/dynamic.yaml"


def rounds(sampler, passes):
    """Prompts of each round, where each lets so many groups pass."""
    ask, passed, asked = sampler.ask(8, 4), 0, []
    for more in passes:
        asked.append(ask.indices)
        passed += more
        ask = sampler.ask_again(8, 4, passed)
        if ask is None:
            break
    return asked, ask


def test_rounds_go_on_until_the_batch_is_full():
    sampler = Dynamic().build(100, seed=0)
    asked, left = rounds(sampler, [3, 4, 1, 8])
    assert [len(indices) for indices in asked] == [8, 8, 8] and left is None
    assert len({index for indices in asked for index in indices}) == 24, "each round asks for other prompts"
    assert sampler.metrics() == {"sampler/rounds": 3}
    assert [len(indices) for indices in rounds(sampler, [8])[0]] == [8], "a full round is enough"
    assert sampler.metrics() == {"sampler/rounds": 1}


def test_a_round_samples_factor_times_the_batch():
    assert [len(indices) for indices in rounds(Dynamic(factor=3).build(100, 0), [7, 1])[0]] == [24, 24]
    assert Dynamic(factor=1.2).prompts_per_round(8) == 10


def test_after_the_last_round_the_step_trains_on_what_passed(caplog):
    sampler = Dynamic(max_rounds=2).build(100, seed=0)
    with caplog.at_level(logging.WARNING):
        asked, left = rounds(sampler, [3, 4])
    assert len(asked) == 2 and left is None
    assert "7 of 8 groups passed the filter in 2 rounds of 8" in caplog.text


def test_as_published_the_run_stops_there():
    sampler = Dynamic(max_rounds=2, at_limit="error").build(100, seed=0)
    with pytest.raises(RunError, match=r"7 of 8 groups .* 2 rounds of 8 .* sampler.at_limit=partial"):
        rounds(sampler, [3, 4])
    assert rounds(Dynamic(max_rounds=2, at_limit="error").build(100, 0), [3, 5])[1] is None


@pytest.mark.parametrize("options", [{"factor": 0.9}, {"factor": float("inf")}, {"max_rounds": 0}, {"at_limit": "no"}])
def test_settings_out_of_range_are_refused_by_name(options):
    with pytest.raises(ConfigError, match=f"sampler.{next(iter(options))}"):
        Dynamic(**options)


@pytest.mark.parametrize(
    ("override", "remedy"),
    [("sampler.filter=none", "sampler.filter=signal"), ("rollout.park_after=16", "sampler.name=pds")],
)
def test_what_makes_no_sense_with_rounds_is_refused(override, remedy):
    with pytest.raises(ConfigError, match=remedy):
        check_settings(load_settings(CONFIG, [override]), None)


def test_the_dry_run_counts_every_round():
    settings = load_settings(CONFIG, ["steps=10", "sampler.max_rounds=5", "sampler.factor=1.5"])
    text = "\n".join(derive(settings, None))
    assert "8 prompts (the sampler may ask for up to 60) x 16 samples" in text
    assert "up to 5 rounds of 12 prompts, then the run trains on fewer" in text
    assert summary(settings, None)["rollouts_at_most"] == 10 * 60 * 16


def test_the_cache_holds_the_sequences_of_one_round():
    spec = ModelSpec.from_config(KNOWN_CONFIGS["Qwen/Qwen2.5-0.5B"])
    rounds, one = (
        estimate_memory(load_settings(f"configs/methods/{name}.yaml", ["rollout.prompts_per_step=4"]), spec, 4).cache
        for name in ("dynamic", "grpo")
    )
    assert rounds == one > 0
