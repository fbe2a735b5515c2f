"""Partial rollouts in training: the groups that wait from one generation to the next (``rollout.park_after``).

    waiting = groups whose calls were parked + finished groups that a generation had no room for

Waiting groups count as launched: a generation starts as many new ones as the sampler wants, less these. They keep
their ids, which name their random numbers, so new groups get ids above them. The first in the order of ids are trained
first, so none waits for ever; and what passed the filter but was over-launched waits, too, instead of being dropped:
the surplus of a generation are its fast groups, and dropping them would favour long answers as surely as dropping
slow ones favours short ones. A group belongs to the rank that began it, until a checkpoint deals them out again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..rollout.parked import Parked, read_parked, write_parked
from ..rollout.records import Group
from .generation_metrics import older_tokens

if TYPE_CHECKING:
    from .trainer import LaconicTrainer

WAITING = "parked.parquet"
"""The waiting groups in a checkpoint of a run that parks."""


def waiting_ids(trainer: LaconicTrainer) -> list[int]:
    """Ids of the groups of all ranks that wait."""
    if not trainer.settings.rollout.park_after:
        return []
    return trainer._on_all_ranks([one.group.id for one in trainer.parked])


def keep_surplus(trainer: LaconicTrainer, groups: Sequence[Group], ids: Collection[int]) -> None:
    """Let the finished groups with these ids wait; without parking they are dropped, as every group has ended."""
    if trainer.settings.rollout.park_after:
        surplus = [Parked(group) for group in groups if group.id in ids]
        # in the order in which a checkpoint gives them back
        trainer.parked = sorted([*trainer.parked, *surplus], key=lambda one: one.group.id)


def parking_metrics(trainer: LaconicTrainer, kept: Sequence[Group], resumed: int) -> dict[str, float]:
    """How many groups waited for this generation and wait for the next, and how many trained tokens are older."""
    if not trainer.settings.rollout.park_after:
        return {}
    counts = older_tokens(kept, trainer.engine.policy_version)
    older, trained = np.sum(trainer.ranks.gather(counts), axis=0).tolist()
    return {
        "groups/resumed": resumed,
        "groups/parked": len(waiting_ids(trainer)),
        "tokens/off_policy": older / max(trained, 1),
    }


def write_waiting(trainer: LaconicTrainer, folder: Path) -> None:
    """The waiting groups of all ranks, in one file of a checkpoint; called on every rank."""
    if not trainer.settings.rollout.park_after:
        return
    waiting = [one for part in trainer.ranks.gather(trainer.parked) for one in part]
    if trainer.ranks.first:
        write_parked(folder / WAITING, sorted(waiting, key=lambda one: one.group.id))


def read_waiting(trainer: LaconicTrainer, checkpoint: Path) -> list[Parked]:
    """This rank's share of the groups that wait in a checkpoint; the number of ranks may have changed."""
    if not trainer.settings.rollout.park_after:
        return []
    return [one for _, one in trainer.ranks.mine(read_parked(checkpoint / WAITING))]
