"""Packed training is row training: equal losses and gradients, for random trees and every objective that packs."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from random_groups import random_group, rows_of
from sides import loss_and_gradients, norms_in_float64, size, with_constants, worst_difference

from laconic.kernels.logprob_head import add_logprob_head
from laconic.train.objectives import OBJECTIVES, Cispo, Clip, Dapo, Gppo, Sapo
from laconic.train.packing.attention import use_tree_attention
from laconic.train.packing.budget import to_tree_packs
from laconic.train.packing.trie import to_tries
from laconic.train.rows import to_packs

VARIANTS = [
    Clip(),
    Clip(delta=1.6, kl=0.5, bias_corrected_kl=False, entropy=0.25, nll=0.5),
    Clip(kl=0.25, kl_estimator="k1", old="recompute"),
    Clip(kl=0.25, kl_estimator="k2", old="recompute", importance="none"),
    Dapo(kl=0.25, nll=0.5),
    Gppo(entropy=0.125),
    Gppo(beta_low=0.5, dual_clip=2.0, old="recompute", importance_cap=1.25),
    Cispo(cap=1.5, kl=0.125),
    Sapo(entropy=0.25, nll=0.5),
]
TREES = 200


def sides(seed: int):
    """Rows and trees of some groups, in packs of a few groups or in pieces of one."""
    rng = random.Random(seed)
    rows = []
    while not rows:
        groups = [random_group(rng, number) for number in range(rng.randint(1, 3))]
        rows = rows_of(groups, rng, by_token=rng.random() < 0.3)
    tries, budget = to_tries(rows), rng.choice([20, 45, 1000])
    trees = to_tree_packs(tries, budget)
    return [[with_constants(pack) for pack in packs] for packs in (to_packs(rows, 60), trees)], tries


def test_every_objective_that_packs_is_tried():
    packing = {name for name, objective in OBJECTIVES.items() if objective.packs == "exact"}
    assert packing == {one.name for one in VARIANTS}


def test_random_sides_hold_forks_cuts_and_packs_of_several_groups():
    seen: Counter[str] = Counter()
    for seed in range(TREES):
        (rows, trees), tries = sides(seed)
        seen["saves"] += sum(map(len, tries)) < sum(map(len, rows))
        seen["cut"] += sum(map(len, tries)) < sum(map(len, trees))
        seen["several"] += any(len(set(pack.group.tolist())) > 1 for pack in trees)
    assert seen["saves"] > 150 and seen["cut"] > 30 and seen["several"] > 60, seen


@pytest.mark.parametrize("number", range(len(VARIANTS)), ids=lambda n: f"{VARIANTS[n].name}-{n}")
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_loss_and_every_gradient_equal_those_of_the_rows(tiny_qwen, precision, number):
    model, tolerance = tiny_qwen(), {"float64": 1e-10, "float32": 1e-5}[precision]
    if precision == "float64":
        norms_in_float64(model)
    else:
        model.float()
    add_logprob_head(model)
    use_tree_attention(model)
    # Rounding hides no error from float64, so there every objective meets every tree.
    for seed in range(TREES) if precision == "float64" else range(number, TREES, len(VARIANTS)):
        (rows, trees), _ = sides(seed)
        loss, gradients = loss_and_gradients(model, rows, VARIANTS[number])
        packed, packed_gradients = loss_and_gradients(model, trees, VARIANTS[number])
        assert packed == pytest.approx(loss, rel=tolerance, abs=tolerance * size(rows)), seed
        assert worst_difference(gradients, packed_gradients) <= tolerance, seed
