"""Updates on packed trees against updates on rows, on a CPU: ``python benchmarks/packed_step.py``.

An update is what the trainer does between two optimizer steps: rows into packs, forward, loss, backward. Both sides run
the trainer's own functions on the same groups and the same random-weight model; only the layout differs. Before a shape
is timed, loss and gradients of both are compared, under every budget.

    pack.update_vs_rows_tree     10 M parameters, 4 binary trees of three segments of 128 tokens: pack ratio 1.8
    pack.update_vs_rows_group    the same model, 16 answers of 256 tokens to a prompt of 256
    pack.peak_vs_rows            peak memory of the packed update over that of the rows, the worse of those two shapes
    pack.worst_auto_choice       a sweep over shapes and two models: time of the other way over that of the chosen one
    pack.host_share              time to make packs of 100,000 tokens over that of the whole update, on the small model

Each side has its best number of threads, one or two, and its best ``optim.micro_batch_tokens``; in the memory
comparison both have that of the rows (with it the trees are timed as well, ``gain_at_peak_budget``), and in the sweep
both have 4,096 tokens. The trees' rows of 409 tokens fill each of these budgets, so rows waste no memory.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from laconic.benchmarks.claim import Claim, interleaved, median_and_spread, write_claims
from laconic.kernels.logprob_head import add_logprob_head
from laconic.rollout.records import Group, Kind, Leaf, Rollout, Segment, Stop
from laconic.train.forward import is_rows, score_all
from laconic.train.objectives import Clip, LossInputs
from laconic.train.packed import PackedBatch
from laconic.train.packing.attention import layout_of, use_tree_attention
from laconic.train.packing.budget import to_tree_packs
from laconic.train.packing.choose import Price, Work, choose, forked_and_paths, work_of_rows, work_of_trees
from laconic.train.packing.packer import lengths_of
from laconic.train.packing.trie import to_tries
from laconic.train.rows import Row, flatten, to_packs

SOURCES = [
    "train/packing/*.py", "train/forward.py", "train/rows.py", "train/packed.py", "train/objectives/clip.py",
    "train/objectives/policy.py", "eval/model_spec.py", "kernels/tree_layout.py", "kernels/tree_attn/__init__.py",
    "kernels/tree_attn/sdpa.py", "kernels/dispatch.py", "kernels/logprob_head.py", "kernels/fused_logprob/*.py",
    "benchmarks/packed_step.py",
]  # fmt: skip
BUDGETS = (2048, 4096, 16_384)
SHORT_S = 2.0
"""Updates shorter than this are timed more often: single ones differ by a fifth."""
Side = Literal["rows", "trees"]
SIDES: tuple[Side, Side] = ("rows", "trees")


@dataclass(frozen=True)
class Shape:
    """Groups of one shape: segments as (parent, tokens), the prompt first; every segment without a child is an end."""

    name: str
    segments: Sequence[tuple[int, int]]
    groups: int = 1


def level_tree(prompt: int, widths: Sequence[int], length: int) -> list[tuple[int, int]]:
    """Segments of ``length`` tokens, as many on each level as ``widths`` says, spread over those above."""
    segments, above = [(-1, prompt)], [0]
    for width in widths:
        level = list(range(len(segments), len(segments) + width))
        segments += [(above[number * len(above) // width], length) for number in range(width)]
        above = level
    return segments


def answers(prompt: int, lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Flat sampling."""
    return [(-1, prompt), *((0, length) for length in lengths)]


def spine(prompt: int, pieces: int, length: int, branches: int, branch: int) -> list[tuple[int, int]]:
    """A long thought with short answers after every piece."""
    segments, above = [(-1, prompt)], 0
    for _ in range(pieces):
        segments.append((above, length))
        above = len(segments) - 1
        segments += [(above, branch)] * branches
    return segments


TREE = Shape("4 binary trees, 3 x 128", level_tree(25, (2, 4, 8), 128), 4)
GROUP = Shape("16 answers of 256 to a prompt of 256", answers(256, [256] * 16))
LARGE_SWEEP = (
    Shape("binary tree, 3 x 512", level_tree(100, (2, 4, 8), 512)),
    Shape("8 answers of 300 to a prompt of 8", answers(8, [300] * 8)),
    Shape("16 answers of 64 to a prompt of 64", answers(64, [64] * 16)),
    Shape("4 answers of 128 to a prompt of 512", answers(512, [128] * 4)),
    Shape("2 answers of 700 to a prompt of 100", answers(100, [700] * 2)),
    Shape("tree of 16-token segments", level_tree(64, (2, 4, 8, 16, 16, 16), 16)),
    Shape("long thought with branches", spine(100, 4, 200, 4, 30)),
)
SMALL_SWEEP = (
    Shape("16 answers of 60 to a prompt of 20", answers(20, [60] * 16), 8),
    Shape("16 answers of 20 to 250 to a prompt of 20", answers(20, list(range(20, 260, 15))), 4),
    Shape("16 answers of 120 to a prompt of 4", answers(4, [120] * 16), 4),
    Shape("4 answers of 30 to a prompt of 15", answers(15, [30] * 4), 16),
    Shape("binary tree, 4 x 48", level_tree(20, (2, 4, 8, 16), 48), 4),
    Shape("tree of 5-token segments", level_tree(20, (2, 4, 8, 16, 16, 16, 16), 5), 8),
    Shape("long thought with branches", spine(20, 6, 40, 3, 8), 8),
    Shape("2 answers of 300 to a prompt of 30", answers(30, [300] * 2), 8),
)
HOST = Shape("100,000 tokens", level_tree(100, (2, 4, 8), 300), 13)


def groups_of(shape: Shape, vocabulary: int) -> list[Group]:
    """Random tokens, sampled at about the log-prob that a random model gives them."""
    rng = np.random.default_rng(0)
    groups = []
    for number in range(shape.groups):
        segments = []
        for index, (parent, count) in enumerate(shape.segments):
            ids = rng.integers(0, vocabulary, count).astype(np.int32)
            if parent < 0:
                none = np.full(count, np.nan, np.float32)
                segments.append(Segment(0, None, 0, Kind.PROMPT, ids, none))
            else:
                logp = (-np.log(vocabulary) + rng.normal(0, 0.05, count)).astype(np.float32)
                kept = shape.segments[parent][1]
                segments.append(Segment(index, parent, kept, Kind.SAMPLED, ids, logp, Stop.EOS))
        ends = sorted(set(range(1, len(segments))) - {parent for parent, _ in shape.segments})
        leaves = tuple(Leaf(index, end) for index, end in enumerate(ends))
        rollouts = tuple(Rollout((leaf.id,)) for leaf in leaves)
        groups.append(Group(number, f"p{number}", tuple(segments), leaves, rollouts))
    return groups


def rows_of(shape: Shape, vocabulary: int) -> list[Row]:
    """Right and wrong in turns."""
    groups = groups_of(shape, vocabulary)
    count = sum(len(group.rollouts) for group in groups)
    advantage = np.where(np.arange(count) % 2, -1.0, 1.0)
    return flatten(groups, advantage, normalizer="token_mean", max_completion=1)


def row_work(rows: Sequence[Row], budget: int) -> Work:
    """What the rows make a model do."""
    return work_of_rows(lengths_of(rows), sum(int(row.trained.sum()) for row in rows), budget)


def tree_work(packs: Sequence[PackedBatch], budget: int) -> Work:
    """What the packs of trees do, as the trainer counts it when it chooses."""
    forked, path_B = forked_and_paths(packs)
    return forked + work_of_rows(path_B, 0, budget)


def model_of(hidden: int, layers: int, heads: int, ffn: int, vocabulary: int) -> PreTrainedModel:
    """A Qwen2 with random weights that takes trees."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=heads // 2, intermediate_size=ffn, max_position_embeddings=4096, tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen2ForCausalLM._from_config(config, attn_implementation="sdpa").train()
    add_logprob_head(model)
    use_tree_attention(model)
    return model


@dataclass
class Bench:
    """One model, and what is timed on it."""

    model: PreTrainedModel
    details: dict[str, Any] = field(default_factory=dict)

    def rows(self, shape: Shape) -> list[Row]:
        return rows_of(shape, self.model.config.vocab_size)

    def packs(self, rows: Sequence[Row], side: Side, budget: int) -> list[PackedBatch]:
        return to_packs(rows, budget) if side == "rows" else to_tree_packs(to_tries(rows), budget)

    def update(self, rows: Sequence[Row], side: Side, budget: int) -> float:
        """One update; returns its loss, and leaves its gradients."""
        self.model.zero_grad(set_to_none=True)
        total = 0.0
        for pack in self.packs(rows, side, budget):
            index_M, scored = score_all(self.model, pack, "cpu")
            names = ("old_logp", "ref_logp", "w_pos", "w_neg", "w_kl", "w_ent", "w_nll")
            columns = {f"{name}_M": torch.from_numpy(getattr(pack, name)[index_M]) for name in names}
            assert scored.log_probs is not None and scored.entropy is not None
            loss = Clip()(LossInputs(log_probs_M=scored.log_probs, entropy_M=scored.entropy, **columns)).loss
            loss.backward()
            total += float(loss.detach())
        return total

    def seconds(self, rows: Sequence[Row], side: Side, budget: int, threads: int) -> float:
        torch.set_num_threads(threads)
        started = time.perf_counter()
        self.update(rows, side, budget)
        return time.perf_counter() - started

    def difference(self, rows: Sequence[Row], budgets: Sequence[int]) -> dict[str, float]:
        """The largest of the losses, and of the gradients relative to their norm; both sides are warm afterwards."""
        found = [self._difference(rows, budget) for budget in budgets]
        return {key: float(np.max([one[key] for one in found])) for key in found[0]}  # a NaN is the largest

    def _difference(self, rows: Sequence[Row], budget: int) -> dict[str, float]:
        losses, gradients = [], []
        for side in SIDES:
            losses.append(self.update(rows, side, budget))
            gradients.append([p.grad.clone() for p in self.model.parameters() if p.grad is not None])
        norm = torch.stack([one.norm() for one in gradients[0]]).norm()
        apart = torch.stack([(one - other).norm() for one, other in zip(*gradients, strict=True)]).norm()
        return {"loss": abs(losses[0] - losses[1]), "gradient": float(apart / norm)}

    def best(self, rows: Sequence[Row], side: Side, budgets: Sequence[int]) -> tuple[int, int, dict[str, float]]:
        """Budget and threads by a trial of each, after a warm-up."""
        trials = {(budget, 2): self._trial(rows, side, budget, 2) for budget in budgets}
        budget = min(trials, key=trials.__getitem__)[0]
        trials[budget, 1] = self._trial(rows, side, budget, 1)
        chosen = min(trials, key=trials.__getitem__)
        return *chosen, {f"{tokens} tokens, {n} threads": value for (tokens, n), value in trials.items()}

    def _trial(self, rows: Sequence[Row], side: Side, budget: int, threads: int) -> float:
        """Seconds; the median of several where an update is so short that chance would decide."""
        first = self.seconds(rows, side, budget, threads)
        more = [self.seconds(rows, side, budget, threads) for _ in range(4 if first < SHORT_S else 0)]
        return statistics.median([first, *more])

    def peak(self, rows: Sequence[Row], side: Side, budget: int) -> int:
        """Bytes of resident memory that an update needs at its peak, beyond what was there before."""
        self.model.zero_grad(set_to_none=True)
        gc.collect()
        # What an update before has freed stays on the heap: it would count as there before, and be used again unseen.
        ctypes.CDLL(None).malloc_trim(0)
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        before = _status("VmRSS")
        self.update(rows, side, budget)
        return _status("VmHWM") - before


def agree(difference: dict[str, float]) -> bool:
    """Whether both sides do the same up to rounding; the weights of a shape's tokens add up to 1."""
    return all(value < 1e-5 for value in difference.values())


def _status(key: str) -> int:
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(key))
    return int(line.split()[1]) * 1024


def compare(bench: Bench, shape: Shape, pairs: int) -> tuple[list[float], bool, float]:
    """Seconds of the rows over those of the trees, whether both agreed, and the peak of the trees over the rows'."""
    rows = bench.rows(shape)
    difference = bench.difference(rows, BUDGETS)
    budget, threads, row_trials = bench.best(rows, "rows", BUDGETS)
    tree_budget, tree_threads, tree_trials = bench.best(rows, "trees", BUDGETS)
    seconds = interleaved(
        {
            "rows": lambda: bench.seconds(rows, "rows", budget, threads),
            "trees": lambda: bench.seconds(rows, "trees", tree_budget, tree_threads),
            "trees, budget of the rows": lambda: bench.seconds(rows, "trees", budget, tree_threads),
        },
        pairs,
    )
    ratios, same = (
        [a / b for a, b in zip(seconds["rows"], seconds[side], strict=True)]
        for side in ("trees", "trees, budget of the rows")
    )
    peaks = {side: bench.peak(rows, side, budget) for side in SIDES}
    flat, packed = row_work(rows, BUDGETS[-1]), work_of_trees(to_tries(rows))
    bench.details[shape.name] = {
        "seconds": seconds, "difference": difference, "trials_rows": row_trials, "trials_trees": tree_trials,
        "peak_bytes": peaks, "peak_budget": budget, "row_tokens": flat.tokens, "tree_tokens": packed.tokens,
        "gain_at_peak_budget": statistics.median(same), "pack_ratio": flat.tokens / packed.tokens,
    }  # fmt: skip
    print(shape.name, bench.details[shape.name], flush=True)
    return ratios, agree(difference), peaks["trees"] / peaks["rows"]


def sweep(bench: Bench, shapes: Sequence[Shape], pairs: int, budget: int = 4096) -> list[tuple[list[float], bool]]:
    """By shape: time of the way that was not chosen over that of the chosen one, and whether both agreed."""
    price = Price.of(bench.model.config, "cpu")
    found = []
    for shape in shapes:
        rows = bench.rows(shape)
        difference = bench.difference(rows, [budget])
        trees = tree_work(bench.packs(rows, "trees", budget), budget)
        choice = choose("auto", None, row_work(rows, budget), trees, price)
        threads, seconds = timed(bench, rows, pairs, budget)
        gains = [a / b for a, b in zip(seconds["rows"], seconds["trees"], strict=True)]
        worth = gains if choice.tree else [1 / gain for gain in gains]
        name = f"{bench.model.num_parameters():,} parameters, {shape.name}"
        bench.details[name] = {
            "gain": statistics.median(gains), "expected": choice.gain, "chosen": "trees" if choice.tree else "rows",
            "worth": statistics.median(worth), "difference": difference, "threads": threads, "seconds": seconds,
        }  # fmt: skip
        print(f"{name}: gain {statistics.median(gains):.3f}, expected {choice.gain:.3f}", flush=True)
        found.append((worth, agree(difference)))
    return found


def timed(bench: Bench, rows: Sequence[Row], pairs: int, budget: int) -> tuple[dict[Side, int], dict[str, list[float]]]:
    """Each side's best number of threads, and its seconds with that, of more pairs where updates are short."""
    threads, shortest = {}, SHORT_S
    for side in SIDES:
        _, threads[side], trials = bench.best(rows, side, [budget])
        shortest = min(shortest, *trials.values())
    pairs = round(pairs * SHORT_S / shortest)

    def one(side: Side) -> Callable[[], float]:
        return lambda: bench.seconds(rows, side, budget, threads[side])

    return threads, interleaved({side: one(side) for side in SIDES}, pairs)


def host_share(bench: Bench, pairs: int) -> tuple[list[float], dict[str, Any]]:
    """Share of the update of ``HOST`` that is spent in making tries, packs and their layouts."""
    rows, shares, hosts = bench.rows(HOST), [], []
    bench.seconds(rows, "trees", 16_384, 2)
    for _ in range(pairs):
        started = time.perf_counter()
        packs = bench.packs(rows, "trees", 16_384)
        for pack in packs:
            if not is_rows(pack):
                layout_of(pack)
        hosts.append(time.perf_counter() - started)
        shares.append(hosts[-1] / bench.seconds(rows, "trees", 16_384, 2))
    flat, packed = row_work(rows, BUDGETS[-1]), work_of_trees(packs)
    return shares, {"row_tokens": flat.tokens, "tree_tokens": packed.tokens, "host_seconds": hosts}


def claim_of(
    id: str, kind: Literal["floor", "ceiling"], samples: Sequence[float], peer: str | None, equal: bool | None
) -> Claim:
    """Prints it, too."""
    value, spread = median_and_spread(samples)
    print(f"{id} {value:.3f} {spread}", flush=True)
    return {
        "id": id, "kind": kind, "value": value, "spread": spread, "peer": peer, "equal": equal, "sources": SOURCES,
        "samples": list(samples),
    }  # fmt: skip


def comparisons(bench: Bench, shapes: dict[str, Shape], pairs: int) -> list[Claim]:
    """Time by shape, and the worst peak of memory."""
    if not shapes:
        return []
    peer = "rows of like length padded together, torch's causal attention, at their best budget and threads"
    found = {name: compare(bench, shape, pairs) for name, shape in shapes.items()}
    claims = [
        claim_of(f"pack.update_vs_rows_{name}", "floor", ratios, peer, equal)
        for name, (ratios, equal, _) in found.items()
    ]
    same_budget = "rows of like length padded together, torch's causal attention, both with the best budget of rows"
    peak, equal = max(peak for _, _, peak in found.values()), all(equal for _, equal, _ in found.values())
    return [*claims, claim_of("pack.peak_vs_rows", "ceiling", [peak], same_budget, equal)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--only", choices=("tree", "group", "sweep", "host"), help="print one part, write nothing")
    given = parser.parse_args()
    large = Bench(model_of(hidden=256, layers=8, heads=4, ffn=1024, vocabulary=8192))
    small = Bench(model_of(hidden=96, layers=3, heads=4, ffn=256, vocabulary=64))
    compared = {name: shape for name, shape in (("tree", TREE), ("group", GROUP)) if given.only in (None, name)}
    claims, host = comparisons(large, compared, given.pairs), {}
    if given.only in (None, "sweep"):
        found = sweep(small, SMALL_SWEEP, given.pairs) + sweep(large, LARGE_SWEEP, given.pairs)
        worst = min((worth for worth, _ in found), key=statistics.median)
        equal = all(equal for _, equal in found)
        claims.append(claim_of("pack.worst_auto_choice", "floor", worst, "the other way", equal))
    if given.only in (None, "host"):
        shares, host = host_share(small, given.pairs)
        claims.append(claim_of("pack.host_share", "ceiling", shares, None, None))
    if given.only is None:
        details = {"large": large.details, "small": small.details, "host": host}
        write_claims("packed_step", "python benchmarks/packed_step.py", claims, details)


if __name__ == "__main__":
    main()
