"""Training with partial rollouts: nothing is lost, old tokens keep their log-probs, a run stops anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_trainer import Train, equal, make_trainer, settings_of, weights

from laconic.errors import ConfigError
from laconic.train.checkpoint import latest_checkpoint
from laconic.train.checks import check_settings
from laconic.train.forward import score
from laconic.train.interrupt import Interrupted
from laconic.train.metrics_log import read_metrics
from laconic.train.parking import read_waiting
from laconic.train.ranks import Ranks
from laconic.train.trainer import LaconicTrainer
from laconic.train.updates import updates_of

PARKING = ("rollout.max_completion=20", "rollout.park_after=5", "optim.max_grad_norm=1", "steps=6")


@pytest.fixture
def make(random_model: Path, tmp_path: Path) -> Train:
    """``make("steps=2", config=..., folder=...)``: a trainer that parks, ready to ``train()``."""

    def build(*overrides: str, config: str = "grpo", folder: str = "run") -> LaconicTrainer:
        return make_trainer(random_model, tmp_path, config, *PARKING, *overrides, folder=folder)

    return build


def seen_by(trainer: LaconicTrainer) -> list[tuple[Any, list[int], int]]:
    """Fills up while it trains: (what is kept, ids that wait afterwards, policy version) of each generation."""
    seen, collect = [], trainer._collect

    def noting() -> Any:
        kept = collect()
        seen.append((kept, [one.group.id for one in trainer.parked], trainer.engine.policy_version))
        return kept

    trainer._collect = noting  # type: ignore[method-assign]
    return seen


def lines(trainer: LaconicTrainer) -> list[list[Any]]:
    keys = ("step", "loss", "grad_norm", "prompt_ids_hash", "groups/parked", "groups/resumed", "tokens/off_policy")
    return [[line[key] for key in keys] for line in read_metrics(trainer.run_dir / "metrics.jsonl")]


def test_every_group_that_is_begun_is_trained_once_or_waits(make: Train) -> None:
    trainer = make()
    seen = seen_by(trainer)
    trainer.train()
    names = [(group.step, group.id) for kept, _, _ in seen for group in kept.groups]
    waiting = [(one.group.step, one.group.id) for one in trainer.parked]
    assert len({*names, *waiting}) == len(names) + len(waiting) == trainer.sampler.state_dict()["position"]
    assert any(segment.earlier for kept, _, _ in seen for group in kept.groups for segment in group.segments)
    assert max(group.trained_length(leaf) for kept, _, _ in seen for group in kept.groups for leaf in group.leaves) > 10
    for (_, before, _), (kept, after, _) in zip(seen, seen[1:], strict=False):
        ids = [group.id for group in kept.groups] + after
        assert len(set(ids)) == len(ids), "unique within a generation"
        assert {*before} <= {*ids}, "what waits is not forgotten"
    log = read_metrics(trainer.run_dir / "metrics.jsonl")
    assert [line["groups/parked"] for line in log] == [len(after) for _, after, _ in seen]
    assert [line["groups/resumed"] for line in log] == [0, *(len(after) for _, after, _ in seen[:-1])]
    assert log[0]["tokens/off_policy"] == 0 and 0 < max(line["tokens/off_policy"] for line in log) < 1
    older = sum(int((s.version_T < seen[-1][2]).sum()) for group in seen[-1][0].groups for s in group.segments[1:])
    trained = sum(len(s) for group in seen[-1][0].groups for s in group.segments[1:])
    assert log[-1]["tokens/off_policy"] == pytest.approx(older / trained)


def test_old_tokens_keep_the_log_probs_of_the_policy_that_decoded_them(
    make: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make("steps=3")
    old: list[tuple[float, bool]] = []

    def checked(trainer: Any, experience: Any) -> Any:
        packs = updates_of(trainer, experience)
        for one in (one for update in packs for one in update):
            index_M, log_probs_M, _ = score(trainer.model, one, "cpu")
            difference_M = np.abs(log_probs_M.detach().numpy() - one.old_logp[index_M])
            versions = {int(i): v for i, v in zip(index_M, one.policy_version[index_M], strict=True)}
            newest = trainer.engine.policy_version
            old.extend((float(d), versions[int(i)] < newest) for d, i in zip(difference_M, index_M, strict=True))
        return packs

    monkeypatch.setattr("laconic.train.trainer.updates_of", checked)
    trainer.train()
    assert max(d for d, older in old if not older) < 1e-4, "the newest tokens were decoded under today's weights"
    assert np.mean([d for d, older in old if older]) > 1e-3, "the others were not, and are not scored again"


def test_what_is_left_over_waits_instead_of_being_dropped(make: Train) -> None:
    trainer = make("sampler.initial_factor=3", "sampler.filter=signal", "truncation.name=none", config="pds")
    seen, spare, collect = seen_by(trainer), [], trainer._collect

    def noting() -> Any:
        kept = collect()
        spare.append({one.group.id for one in trainer.parked if one.finished})
        return kept

    trainer._collect = noting  # type: ignore[method-assign]
    trainer.train()
    assert any(spare)
    for before, after, (kept, _, _) in zip(spare, spare[1:], seen[1:], strict=False):
        assert before <= after | {group.id for group in kept.groups}
    assert max(len(kept.groups) for kept, _, _ in seen) == 4, "a generation trains no more than it has room for"
    names = [(group.step, group.id) for kept, _, _ in seen for group in kept.groups]
    assert len({*names}) == len(names)
    assert all(list(ids) == sorted(ids) for ids in ([g.id for g in kept.groups] for kept, _, _ in seen))
    finished = [line["groups/sampled"] for line in read_metrics(trainer.run_dir / "metrics.jsonl")]
    assert any(count > 4 for count in finished)
    rates = trainer.sampler.state_dict()["rates"]
    assert len(rates) == 6 and all(0 <= rate <= 1 for rate in rates)


@pytest.mark.parametrize("config", ["grpo", "pds"])
def test_a_run_saved_and_resumed_is_equal_to_one_in_one_go(make: Train, config: str) -> None:
    method = () if config == "grpo" else ("truncation.name=none", "sampler.initial_factor=3")
    alone = make(*method, config=config, folder="alone")
    alone.train()
    first = make(*method, "save.every=1", config=config, folder="parts")
    collect = first._collect

    def killed() -> Any:
        if first.generation == 3:
            raise KeyboardInterrupt
        return collect()

    first._collect = killed  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        first.train()
    assert first.parked and first.metrics_log is not None
    first.metrics_log.close()
    second = make(*method, config=config, folder="parts")
    saved = latest_checkpoint(second.run_dir / "checkpoints")
    assert saved is not None and (saved / "parked.parquet").exists()
    second.train(resume_from_checkpoint=str(saved))
    assert equal(weights(alone), weights(second)) and lines(alone) == lines(second)


def test_ctrl_c_during_a_rollout_leaves_the_parked_groups_of_the_generations_start(make: Train) -> None:
    alone = make(folder="alone")
    alone.train()
    first = make(folder="parts")

    def ctrl_c(decoded: int, finished: int) -> None:
        first.stop_requested = first.generation == 2

    first.on_tokens = ctrl_c
    with pytest.raises(Interrupted):
        first.train()
    before = first.parked
    first.save_at_boundary()
    assert before and first.metrics_log is not None
    first.metrics_log.close()
    second = make(folder="parts")
    second.train(resume_from_checkpoint=str(latest_checkpoint(second.run_dir / "checkpoints")))
    assert equal(weights(alone), weights(second)) and lines(alone) == lines(second)


def test_another_number_of_ranks_takes_up_all_groups_of_a_checkpoint(make: Train) -> None:
    trainer = make("steps=2", "save.every=2")
    trainer.train()
    saved = latest_checkpoint(trainer.run_dir / "checkpoints")
    assert saved is not None and len(trainer.parked) > 1
    shares = []
    for index in range(2):
        trainer.ranks = Ranks(2, index)
        shares.append([one.group.id for one in read_waiting(trainer, saved)])
    assert sorted(shares[0] + shares[1]) == [one.group.id for one in trainer.parked] and all(shares)


def test_where_no_group_ends_decoding_goes_on(make: Train) -> None:
    trainer = make("rollout.park_after=1", "steps=2", "rollout.prompts_per_step=1")
    seen = seen_by(trainer)
    trainer.train()
    assert all(kept.groups for kept, _, _ in seen)


def test_without_parking_a_checkpoint_has_no_file_for_it(make: Train) -> None:
    trainer = make("rollout.park_after=0", "steps=1", "save.every=1")
    trainer.train()
    saved = latest_checkpoint(trainer.run_dir / "checkpoints")
    assert saved is not None and not (saved / "parked.parquet").exists()
    assert "groups/parked" not in read_metrics(trainer.run_dir / "metrics.jsonl")[0]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("rollout.park_after=-1",), "park_after is -1 but must be at least 0"),
        (("rollout.park_after=20",), "park_after is 20 but no answer is longer than rollout.max_completion = 20"),
        (("objective.old=recompute", "objective.importance=none"), "older policies.*importance=token"),
    ],
)
def test_settings_under_which_parking_cannot_work_are_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_settings(settings_of("tiny-thinker", "grpo", *PARKING, *overrides), None)
