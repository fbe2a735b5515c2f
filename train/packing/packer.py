"""What the trainer packs with: asks once whether trees are possible, and per generation whether they pay."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ..packed import PackedBatch
from ..rows import Row, to_packs
from ..settings import Settings
from .budget import to_tree_packs
from .choose import Choice, Lengths, Price, Work, choose, forked_and_paths, work_of_rows
from .refusals import objection, of_model, refused
from .self_test import why_it_fails
from .trie import to_tries

log = logging.getLogger(__name__)

Gather = Callable[[Any], list[Any]]


class Packer:
    """Made when the models are loaded, before they are wrapped."""

    def __init__(
        self,
        settings: Settings,
        models: Sequence[PreTrainedModel],
        vocabulary: int,
        gather: Gather,
        device: torch.device,
    ) -> None:
        """``models``: all that score packs, with their log-prob heads, over the first ``vocabulary`` words.

        Raises:
            ConfigError: ``optim.packing`` is tree, and the objective or a model can't be packed.
        """
        self.packing, self.budget, self.gather = settings.optim.packing, settings.optim.micro_batch_tokens, gather
        self.why_not = None if self.packing == "rows" else objection(settings.objective)
        if self.packing != "rows" and self.why_not is None:
            longest = settings.rollout.longest_context
            found = [_of_model(model, longest, device, vocabulary) for model in models]
            self.why_not = next(filter(None, (reason for reasons in gather(found) for reason in reasons)), None)
        if self.packing == "tree" and self.why_not is not None:
            raise refused(self.why_not)
        self.price = Price.of(models[0].config.get_text_config(), device.type)
        self._warned = False

    def packs(self, updates: Sequence[Sequence[Row]]) -> tuple[list[list[PackedBatch]], Choice]:
        """This rank's packs of each update of a generation, and what was chosen for all of them on all ranks."""
        if self.packing == "rows":
            rows = self._work_of_rows(updates)
            return self._rows(updates), choose("rows", None, rows, Work(), self.price)
        packed = [to_tree_packs(to_tries(update), self.budget) for update in updates]
        rows, trees = self._work_of_rows(updates), self._work_of_trees(packed)
        choice = choose(self.packing, self.why_not, rows, trees, self.price)
        if choice.tree:
            self._warn_of_long_paths(packed)
        return (packed if choice.tree else self._rows(updates)), choice

    def _work_of_rows(self, updates: Sequence[Sequence[Row]]) -> Work:
        """Of all ranks, as if one rank had all their rows."""
        own = [(lengths_of(rows), sum(int(row.trained.sum()) for row in rows)) for rows in updates]
        total = Work()
        for parts in zip(*self.gather(own), strict=True):
            lengths = np.concatenate([length_B for length_B, _ in parts])
            total += work_of_rows(lengths, sum(scored for _, scored in parts), self.budget)
        return total

    def _work_of_trees(self, packed: Sequence[Sequence[PackedBatch]]) -> Work:
        """Likewise; trees without a fork are padded among themselves, though some may share a pack with forks."""
        total = Work()
        for parts in zip(*self.gather([forked_and_paths(packs) for packs in packed]), strict=True):
            paths = work_of_rows(np.concatenate([length_B for _, length_B in parts]), 0, self.budget)
            total = sum((forked for forked, _ in parts), total + paths)
        return total

    def _rows(self, updates: Sequence[Sequence[Row]]) -> list[list[PackedBatch]]:
        return [to_packs(rows, self.budget) for rows in updates]

    def _warn_of_long_paths(self, packed: Sequence[Sequence[PackedBatch]]) -> None:
        longest = max((len(pack) for packs in packed for pack in packs), default=0)
        if longest > self.budget and not self._warned:
            self._warned = True
            log.warning(
                "a path of %d tokens is longer than optim.micro_batch_tokens = %d and can't be cut, so it is a pack of "
                "its own; raise optim.micro_batch_tokens if memory allows, or lower rollout.max_completion",
                longest,
                self.budget,
            )


def lengths_of(rows: Sequence[Row]) -> Lengths:
    """Tokens of each row, (B,)."""
    return np.array([len(row) for row in rows], np.int64)


def metrics_of(choice: Choice) -> dict[str, Any]:
    """What the log says of packing; ``pack/ratio`` is also of what could have been packed."""
    ratio = choice.rows.tokens / choice.trees.tokens if choice.trees.tokens else 1.0
    return {
        "pack/path": "tree" if choice.tree else "rows" if choice.rows.tokens else "none",
        "pack/why": choice.reason,
        "pack/ratio": ratio,
        "pack/gain": choice.gain,
        "pack/saved_tokens": choice.rows.tokens - choice.trees.tokens if choice.tree else 0,
    }


def saved_seconds(metrics: dict[str, Any], seconds: dict[str, float]) -> float:
    """Seconds that rows would have taken more in the phases that score packs, by the expected gain."""
    if metrics.get("pack/path") != "tree":
        return 0.0
    scoring = sum(seconds.get(phase, 0.0) for phase in ("old", "reference", "update"))
    return float(scoring * (metrics["pack/gain"] - 1))


def _of_model(model: PreTrainedModel, longest: int, device: torch.device, vocabulary: int) -> str | None:
    config = model.config.get_text_config()
    reason = of_model(config.to_dict(), longest)
    if reason is not None:
        return reason
    reason = why_it_fails(model, device, vocabulary)
    return None if reason is None else f"model type {config.model_type} can't be packed: {reason}"
