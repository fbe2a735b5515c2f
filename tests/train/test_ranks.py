"""What one rank does with its share; that two ranks agree is ``test_two_ranks.py``."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from laconic.errors import ConfigError, RunError
from laconic.train.ranks import Ranks, refuse_broken_builds
from laconic.train.saving import check_layout


@given(count=st.integers(1, 9), items=st.lists(st.text(max_size=3), max_size=40))
def test_every_item_has_one_rank_and_keeps_its_number(count: int, items: list[str]) -> None:
    shares = [Ranks(count, index).mine(items) for index in range(count)]
    assert sorted(pair for share in shares for pair in share) == list(enumerate(items))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_rank_sends_nothing_and_needs_no_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    ranks = Ranks.join()
    assert ranks == Ranks(1, 0) and ranks.first
    assert (ranks.gather(5), ranks.share("x"), ranks.any(True), ranks.on_first(lambda: 7)) == ([5], "x", True, 7)


def test_ranks_wait_for_the_longest_answer_and_for_a_large_save(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def joined(**options: Any) -> SimpleNamespace:
        given.update(options)
        return SimpleNamespace(device=torch.device("cuda"))

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("laconic.train.ranks.PartialState", joined)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    assert Ranks.join() == Ranks(2, 1)
    # Without one it is torch's: ten minutes between GPUs, after which NCCL ends the run.
    assert given["timeout"] >= timedelta(hours=1)


def test_the_lock_of_a_killed_build_is_named_and_not_waited_for(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    lock = tmp_path / "py311_cpu" / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    refuse_broken_builds()  # a build that may still be going on
    os.utime(lock, (time.time() - 3600,) * 2)
    with pytest.raises(RunError, match=f"{lock} is 60 minutes old: .* rm {lock}"):
        refuse_broken_builds()
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(RunError, match="60 minutes old"):
        Ranks.join()  # one rank builds as several do


def test_what_the_first_rank_cannot_do_is_raised() -> None:
    def refuse() -> None:
        raise ConfigError("no")

    with pytest.raises(ConfigError, match="no"):
        Ranks().on_first(refuse)


@dataclass
class Trainer:
    ranks: Ranks
    is_deepspeed_enabled: bool


@pytest.mark.parametrize(
    ("ranks", "deepspeed", "words"),
    [
        (Ranks(2, 0), True, None),
        (Ranks(4, 0), True, "written by 2 ranks under DeepSpeed, but this run has 4 ranks under DeepSpeed"),
        (Ranks(2, 0), False, "but this run has 2 ranks without DeepSpeed"),
    ],
)
def test_a_checkpoint_in_parts_goes_on_only_with_as_many_ranks(tmp_path, ranks, deepspeed, words) -> None:
    (tmp_path / "laconic_state.json").write_text('{"sampler": {}, "ranks": 2, "deepspeed": true}')
    trainer = Trainer(ranks, deepspeed)
    if words is None:
        check_layout(trainer, tmp_path)  # type: ignore[arg-type]
        return
    with pytest.raises(ConfigError, match=words):
        check_layout(trainer, tmp_path)  # type: ignore[arg-type]


def test_a_whole_checkpoint_goes_on_with_any_number_of_ranks(tmp_path) -> None:
    state, trainer = tmp_path / "laconic_state.json", Trainer(Ranks(2, 1), False)
    for whole in ('{"sampler": {}}', '{"sampler": {}, "ranks": 4, "deepspeed": false}'):
        state.write_text(whole)
        check_layout(trainer, tmp_path)  # type: ignore[arg-type]
    # The same ranks are refused what differs from it in one word, so the file is looked at.
    state.write_text('{"sampler": {}, "ranks": 4, "deepspeed": true}')
    with pytest.raises(ConfigError, match="written by 4 ranks under DeepSpeed, but this run has 2 ranks without"):
        check_layout(trainer, tmp_path)  # type: ignore[arg-type]
