"""Area under the budget-accuracy curve: how often a model is right when its thought is cut at any of eight places.

    area of a problem = mean over budgets and answers of (1 if right, else 0)          budgets evenly spaced

Each problem gets one thought, cut at every budget and answered from each prefix (``laconic rollout`` with the driver
``anytime``); two models are compared problem by problem. Source: AnytimeReasoner, arXiv 2505.13438.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from laconic.benchmarks.claim import ROOT
from laconic.eval.pairing import PairedDelta, paired_delta
from laconic.rewards.verdict import Verdict

CONFIG = ROOT / "configs" / "methods" / "anytime.yaml"
BUDGETS, ANSWERS = 8, 2


def areas(model: Path, problems: int) -> dict[str, float]:
    """Area of each of ``problems`` test problems, shared by the procedural tasks, by problem id."""
    command = [sys.executable, "-m", "laconic", "rollout", str(model), "--config", str(CONFIG), "--json"]
    command += ["--task", "chain", "--task", "search", "-n", str(problems), "rollout.group_size=1"]
    command += [f"rollout.driver.budgets={BUDGETS}", f"rollout.driver.summaries={ANSWERS}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    groups: list[dict[str, Any]] = json.loads(done.stdout)["groups"]
    return {group["problem_id"]: area(group) for group in groups}


def area(group: Mapping[str, Any]) -> float:
    """Share of right answers over all budgets of a problem."""
    leaves = group["leaves"]
    return sum(leaf["verdict"] == str(Verdict.RIGHT) for leaf in leaves) / len(leaves)


def over_seeds(seeds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean area of each problem over models trained with different seeds."""
    return {problem: sum(areas[problem] for areas in seeds) / len(seeds) for problem in seeds[0]}


def gain(base: Mapping[str, float], new: Mapping[str, float]) -> PairedDelta:
    """Area of ``new`` minus that of ``base``, paired by problem."""
    ids = sorted(base)
    return paired_delta([base[one] for one in ids], [new[one] for one in ids])
