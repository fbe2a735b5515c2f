"""Two gloo ranks give the rewards, advantages and loss of one, with methods that look at a whole generation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import one_rank
import pytest

from laconic.train.ranks import Ranks

RANKS = 2


def test_two_ranks_find_the_advantages_and_the_loss_of_one(tmp_path: Path) -> None:
    command = [sys.executable, one_rank.__file__]
    started = [
        subprocess.Popen([*command, str(rank), str(RANKS), str(tmp_path)], stderr=subprocess.PIPE, text=True)
        for rank in range(RANKS)
    ]
    for process in started:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
    parts = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(RANKS)]
    alone = one_rank.step(Ranks())
    cuts = np.cumsum([len(answers) for answers in one_rank.GROUPS])[:-1]
    for key in ("reward", "advantage", "on_trees"):
        whole = np.split(np.array(alone[key]), cuts)
        for rank, part in enumerate(parts):
            assert part[key] == np.concatenate(whole[rank::RANKS]).tolist()
    assert parts[0]["states"] == parts[1]["states"] == alone["states"]
    assert sum(part["loss"] for part in parts) == pytest.approx(alone["loss"], rel=1e-12, abs=1e-15)
    assert abs(alone["loss"]) > 1e-3 and len({*alone["advantage"]}) > 4, "there is something to compare"
