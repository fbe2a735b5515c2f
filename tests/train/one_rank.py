"""``python one_rank.py RANK RANKS FOLDER``: one of some gloo ranks takes groups made by hand from outcome to loss.

Writes what it found to ``FOLDER/RANK.json``; ``step`` does the same without a process group.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hand_made import Answers, experience_of
from torch import distributed

from laconic.rewards.selection import Gfpo
from laconic.rewards.shaping.autothink import AutoThink
from laconic.rewards.shaping.short_rl import ShortRl
from laconic.train.compose import first_states
from laconic.train.credit import ReinforcePP, TreeAdv
from laconic.train.experience import credit, select_rollouts, shape, states_after
from laconic.train.objectives import Clip, LossInputs
from laconic.train.ranks import Ranks
from laconic.train.responses import Scene
from laconic.train.rows import Totals, flatten, to_packs, totals_of
from laconic.train.settings import RewardSettings
from laconic.train.thinker.tokenizer import build_tokenizer

GROUPS: list[Answers] = [
    [(20, True), (40, True), (80, True), (60, False)],
    [(10, True), (11, True), (12, False)],
    [(5, False)] * 3,
    [(9, True), (70, False), (8, False)],
    [(30, True), (31, True)],
    [(3, False), (33, True), (17, True), (60, True)],
]
REWARD = RewardSettings(
    shaping=ShortRl(weight=0.3, tolerance=5),
    more=(AutoThink(),),
    weights=(1.0, 0.25),
    selection=Gfpo(keep=3, adaptive=True, warm=1, keep_by_quartile=(3, 3, 2, 2)),
)


def step(ranks: Ranks) -> dict[str, Any]:
    """Rewards, advantages, loss and state of this rank's share of the groups."""
    experience = experience_of(*GROUPS[ranks.index :: ranks.count], first=ranks.index, every=ranks.count)
    scene = Scene(tokenizer=build_tokenizer(), gather=ranks.gather, states=first_states(REWARD))
    shaped = select_rollouts(shape(experience, REWARD, scene), REWARD, scene)
    found = credit(shaped, ReinforcePP(), REWARD, ranks.gather)
    on_trees = credit(shaped, TreeAdv(variant="group_size"), REWARD, ranks.gather)
    assert found.reward_N is not None and found.advantage_N is not None and on_trees.advantage_N is not None
    totals = sum(ranks.gather(totals_of(found.groups)), Totals())
    rows = flatten(found.groups, found.advantage_N, normalizer="token_mean", max_completion=80, totals=totals)
    return {
        "reward": found.reward_N.tolist(),
        "advantage": found.advantage_N.tolist(),
        "on_trees": on_trees.advantage_N.tolist(),
        "loss": sum(_loss(pack) for pack in to_packs(rows, 100)),
        "states": states_after(shaped, REWARD, scene),
    }


def _loss(pack: Any) -> float:
    """Of a policy whose log-probs are a fixed function of token and place."""
    index_M = np.flatnonzero(pack.scored)
    new_M = torch.from_numpy(-0.5 + 0.3 * np.cos(0.1 * pack.pos[index_M]))

    def of(name: str) -> torch.Tensor:
        return torch.from_numpy(getattr(pack, name)[index_M]).double()

    weights = {f"{name}_M": of(name) for name in ("w_pos", "w_neg", "w_kl", "w_ent", "w_nll")}
    inputs = LossInputs(new_M, torch.zeros(len(new_M)), of("old_logp"), of("ref_logp"), **weights)
    return float(Clip()(inputs).loss)


if __name__ == "__main__":
    rank, count, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
    (folder / f"{rank}.json").write_text(json.dumps(step(Ranks(count, rank))))
    distributed.destroy_process_group()
