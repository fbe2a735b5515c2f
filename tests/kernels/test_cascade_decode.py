"""Decode attention over shared segments against softmax over each sequence's own concatenated keys."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from nearness import assert_near
from torch import Tensor

from laconic.kernels.cascade_decode import Segments, cascade_decode, plan_decode
from laconic.kernels.cascade_decode.plan import _items
from laconic.kernels.cascade_decode.reference import cascade_decode_reference

PAGE = 4


def concatenated(q: Tensor, keys: list[Tensor], values: list[Tensor], scale: float) -> tuple[Tensor, Tensor]:
    """Each sequence's softmax over its own (n, H, D) keys, in float64."""
    outputs, sums = [], []
    for query_QD, k, v in zip(q.double(), keys, values, strict=True):
        group = len(query_QD) // k.shape[1]
        scores = scale * torch.einsum("qd,nqd->qn", query_QD, k.double().repeat_interleave(group, 1))
        outputs.append(torch.einsum("qn,nqd->qd", scores.softmax(1), v.double().repeat_interleave(group, 1)))
        sums.append(scores.logsumexp(1))
    return torch.stack(outputs), torch.stack(sums)


class Cache:
    """Pages that are handed out in random order; what nobody wrote is NaN."""

    def __init__(self, seed: int, pages: int, kv_heads: int, width: int, dtype=torch.float64, device="cpu") -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.keys, self.values = (torch.full((pages, PAGE, kv_heads, width), math.nan, dtype=dtype) for _ in range(2))
        self.free = torch.randperm(pages, generator=self.generator).tolist()
        self.device = device

    def add(self, tokens: int) -> tuple[list[int], Tensor, Tensor]:
        """Page table, keys and values of a new run of tokens."""
        pages = [self.free.pop() for _ in range(-(-tokens // PAGE))]
        made = []
        for pool in (self.keys, self.values):
            run = torch.randn((tokens, *pool.shape[2:]), generator=self.generator, dtype=torch.float64).to(pool.dtype)
            for index, page in enumerate(pages):
                part = run[index * PAGE : (index + 1) * PAGE]
                pool[page, : len(part)] = part
            made.append(run)
        return pages, *made

    def queries(self, count: int, heads: int) -> Tensor:
        shape = (count, heads, self.keys.shape[3])
        return torch.randn(shape, generator=self.generator, dtype=torch.float64).to(self.keys.dtype)

    def tensors(self, *others: Tensor) -> list[Tensor]:
        return [x.to(self.device) for x in (*others, self.keys, self.values)]


def random_forest(cache: Cache, seed: int, groups: int, depth: int) -> tuple[Segments, list[Tensor], list[Tensor]]:
    """Trees of shared segments over sequences in shuffled rows, and each sequence's own keys and values."""
    rng = np.random.default_rng(seed)
    runs: list[tuple[list[int], int, int, list[int]]] = []
    paths: list[list[int]] = []
    spans: list[tuple[Tensor, Tensor]] = []

    def grow(path: list[int], level: int) -> None:
        tokens = int(rng.integers(0 if level else 1, 14))
        pages, k, v = cache.add(tokens)
        spans.append((k, v))
        runs.append((pages, 0, tokens, []))
        path = [*path, len(runs) - 1]
        children = 0 if level == depth else int(rng.integers(1, 4))
        if not children:
            paths.append(path)
        for _ in range(children):
            grow(path, level + 1)

    for _ in range(groups):
        grow([], 0)
    row_of = rng.permutation(len(paths))
    keys, values = [torch.empty(0)] * len(paths), [torch.empty(0)] * len(paths)
    for path, row in zip(paths, row_of.tolist(), strict=True):
        for segment in path:
            runs[segment][3].append(row)
        keys[row], values[row] = (torch.cat([spans[segment][which] for segment in path]) for which in (0, 1))
    return Segments.of(runs), keys, values


@pytest.mark.parametrize("seed", range(6))
def test_the_twin_equals_each_sequences_own_softmax(seed):
    cache = Cache(seed, 200, 2, 8)
    segments, keys, values = random_forest(cache, seed, groups=3, depth=seed % 3)
    q = cache.queries(len(keys), 6)
    plan = plan_decode(segments, len(keys), PAGE, heads=6, kv_heads=2)
    want = concatenated(q, keys, values, 0.3)
    for name, w, g in zip(
        ["o", "lse"], want, cascade_decode(q, cache.keys, cache.values, plan, scale=0.3), strict=True
    ):
        assert_near(name, w, g, 1e-12)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "width", "depth", "chunk"),
    [(2, 2, 16, 0, 32), (6, 2, 24, 1, 8), (8, 1, 16, 2, 5), (7, 1, 64, 1, 1000), (4, 2, 100, 3, 16)],
)
def test_the_kernel_equals_each_sequences_own_softmax(heads, kv_heads, width, depth, chunk, triton_device):
    cache = Cache(heads, 300, kv_heads, width, torch.float32, triton_device)
    segments, keys, values = random_forest(cache, heads, groups=2, depth=depth)
    q = cache.queries(len(keys), heads)
    plan = plan_decode(
        segments, len(keys), PAGE, heads=heads, kv_heads=kv_heads, chunk=chunk, device=triton_device
    )  # fmt: skip
    o, lse = cascade_decode(*cache.tensors(q), plan)
    want_o, want_lse = concatenated(q, keys, values, width**-0.5)
    assert_near("o", want_o, o, 2e-6)
    assert_near("lse", want_lse, lse, 2e-6)


def test_a_group_of_three_with_ragged_and_empty_answers(triton_device):
    """A prompt of 11 tokens on pages of 4, answers of 0, 5 and 9 tokens."""
    cache = Cache(0, 20, 1, 16, torch.float32, triton_device)
    prompt = cache.add(11)
    answers = [cache.add(n) for n in (0, 5, 9)]
    runs = [(prompt[0], 0, 11, [0, 1, 2]), *((pages, 0, len(k), [row]) for row, (pages, k, _) in enumerate(answers))]
    q = cache.queries(3, 3)
    plan = plan_decode(Segments.of(runs), 3, PAGE, heads=3, kv_heads=1, device=triton_device)
    assert (plan.segments.read, plan.segments.seen) == (11 + 14, 33 + 14)
    o, lse = cascade_decode(*cache.tensors(q), plan)
    own = [[torch.cat([prompt[which], answer[which]]) for answer in answers] for which in (1, 2)]
    want_o, want_lse = concatenated(q, *own, 0.25)
    assert_near("o", want_o, o, 2e-6)
    assert_near("lse", want_lse, lse, 2e-6)


def test_more_siblings_than_a_tile_has_rows(triton_device):
    cache = Cache(1, 150, 1, 16, torch.float32, triton_device)
    pages, k, v = cache.add(20)
    answers = [cache.add(1 + row % 3) for row in range(37)]
    runs = [(pages, 0, 20, list(range(37))), *((p, 0, len(x), [row]) for row, (p, x, _) in enumerate(answers))]
    q = cache.queries(37, 8)  # 37 x 8 rows, tiles of 128
    plan = plan_decode(Segments.of(runs), 37, PAGE, heads=8, kv_heads=1, device=triton_device)
    assert sorted(int(launch.items_I5[:, 4].max()) for launch in plan.launches) == [1, 16]
    o, _ = cascade_decode(*cache.tensors(q), plan)
    want_o, _ = concatenated(q, [torch.cat([k, x[1]]) for x in answers], [torch.cat([v, x[2]]) for x in answers], 0.25)
    assert_near("o", want_o, o, 2e-6)


def test_rows_of_a_cache_are_pages_and_segments_may_begin_anywhere(triton_device):
    """The embedded engine's layout: (rows, H, columns, D), the prompt read from the first sibling's row."""
    generator = torch.Generator().manual_seed(0)
    k, v = (torch.randn((3, 2, 20, 16), generator=generator) for _ in range(2))
    for pool in (k, v):
        pool[1:, :, :7] = pool[0, :, :7]
    lengths, q = [9, 20, 8], torch.randn((3, 4, 16), generator=generator)
    runs = [([0], 0, 7, [0, 1, 2]), *(([row], 7, length, [row]) for row, length in enumerate(lengths))]
    plan = plan_decode(Segments.of(runs), 3, 20, heads=4, kv_heads=2, device=triton_device)
    o, _ = cascade_decode(*(x.to(triton_device) for x in (q, k.transpose(1, 2), v.transpose(1, 2))), plan)
    own = [[pool[row, :, :length].transpose(0, 1) for row, length in enumerate(lengths)] for pool in (k, v)]
    assert_near("o", concatenated(q, *own, 0.25)[0], o, 2e-6)


def test_a_sequence_without_keys_gets_zero_and_minus_infinity(triton_device):
    cache = Cache(2, 9, 1, 16, torch.float32, triton_device)
    pages, _, _ = cache.add(5)
    plan = plan_decode(
        Segments.of([(pages, 0, 5, [0]), ([], 0, 0, [1])]), 2, PAGE, heads=2, kv_heads=1, device=triton_device
    )
    o, lse = cascade_decode(*cache.tensors(cache.queries(2, 2)), plan)
    assert o[0].isfinite().all() and (o[1] == 0).all() and (lse[1] == -math.inf).all()
    reference_plan = plan_decode(plan.segments, 2, PAGE, heads=2, kv_heads=1)
    o, lse = cascade_decode_reference(cache.queries(2, 2), cache.keys, cache.values, reference_plan, 0.25)
    assert (o[1] == 0).all() and (lse[1] == -math.inf).all()


def test_every_query_gets_every_one_of_its_tokens_exactly_once():
    rng = np.random.default_rng(0)
    for seed in range(30):
        cache = Cache(seed, 300, 1, 2)
        segments, keys, _ = random_forest(cache, seed, groups=int(rng.integers(1, 4)), depth=int(rng.integers(0, 4)))
        items_I5, part_query_E = _items(segments, int(rng.integers(1, 9)), int(rng.integers(1, 4)))
        seen = np.zeros(len(keys), int)
        for _, start, stop, first, queries in items_I5:
            assert stop > start
            np.add.at(seen, part_query_E[first : first + queries], stop - start)
        assert seen.tolist() == [len(k) for k in keys]
        assert segments.seen == seen.sum() and segments.read <= segments.seen


def test_a_segment_beyond_its_pages_and_an_unknown_query_are_refused():
    with pytest.raises(ValueError, match="its pages hold 4"):
        plan_decode(Segments.of([([0], 0, 5, [0])]), 1, PAGE, heads=1, kv_heads=1)
    with pytest.raises(ValueError, match="there are 1"):
        plan_decode(Segments.of([([0], 0, 4, [1])]), 1, PAGE, heads=1, kv_heads=1)


def test_a_plan_for_other_pages_is_refused():
    plan = plan_decode(Segments.of([([0], 0, 3, [0])]), 1, PAGE, heads=1, kv_heads=1)
    with pytest.raises(ValueError, match="plan again"):
        cascade_decode(torch.zeros(1, 1, 4), torch.zeros(2, 8, 1, 4), torch.zeros(2, 8, 1, 4), plan)


@pytest.mark.gpu
@pytest.mark.parametrize("width", [64, 128])
def test_bfloat16_and_two_runs_bit_for_bit(width, triton_device):
    cache = Cache(3, 3000, 2, width, torch.bfloat16, triton_device)
    segments, keys, values = random_forest(cache, 3, groups=16, depth=3)
    q = cache.queries(len(keys), 12)
    plan = plan_decode(segments, len(keys), PAGE, heads=12, kv_heads=2, device=triton_device)
    o, lse = cascade_decode(*cache.tensors(q), plan)
    want_o, want_lse = concatenated(q, keys, values, width**-0.5)
    assert_near("o", want_o, o, 5e-3)
    assert_near("lse", want_lse, lse, 1e-3)
    again = cascade_decode(*cache.tensors(q), plan)
    assert torch.equal(again[0], o) and torch.equal(again[1], lse)
