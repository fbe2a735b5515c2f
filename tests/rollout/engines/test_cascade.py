"""Decode steps that read shared beginnings once: the same answers as the embedded engine's own steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import MODELS, REAL, make, prompts, request, run, scored

from laconic.rollout.engines import cascade
from laconic.rollout.engines.cascade import CascadeEngine, kernel_refuses
from laconic.rollout.engines.protocol import Request, Sampling
from laconic.rollout.engines.rows import Call
from laconic.rollout.engines.sharing import sharing_of
from laconic.rollout.engines.transformers import TransformersEngine


def calls_of(contexts: list[np.ndarray], trees: list[int | None]) -> list[Call]:
    made = [
        request(index, context, tree=tree) for index, (context, tree) in enumerate(zip(contexts, trees, strict=True))
    ]
    return [Call(one, one.context.tobytes()) for one in made]


def siblings(groups: int, size: int, length: int, tree: bool = False) -> list[Request]:
    """Groups of equal contexts; in a tree, half of each goes on alike for 20 tokens more."""
    made = []
    for group, prompt in enumerate(prompts(groups, length, length + 1, seed=3)):
        branch = prompts(1, 20, 21, seed=group)[0]
        for leaf in range(size):
            context = np.concatenate([prompt, branch]) if tree and leaf % 2 else prompt
            options = {"tree": group} if tree else {}
            made.append(request(len(made), context, 12 + leaf, Sampling(1.0), leaf=leaf, **options))
    return made


@pytest.fixture
def planned(monkeypatch):
    """Runs the slow twin on the CPU, and counts the steps that shared something."""
    plans = []
    original = cascade.plan_decode
    monkeypatch.setenv("LACONIC_KERNELS", "ref")
    monkeypatch.setattr(cascade, "plan_decode", lambda *a, **k: plans.append(original(*a, **k)) or plans[-1])
    return plans


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("tree", [False, True])
def test_answers_equal_those_of_the_embedded_engine(kind, tree, planned):
    asked = siblings(2, 5, 90, tree)
    for max_live in (4, 64):
        want = run(TransformersEngine(MODELS[kind], [1], max_live=max_live, allowed_vocab=REAL), asked)
        before = len(planned)
        got = run(CascadeEngine(MODELS[kind], [1], max_live=max_live, allowed_vocab=REAL), asked)
        assert len(planned) - before > 10
        for one, other in zip(want, got, strict=True):
            assert one.ids.tolist() == other.ids.tolist() and one.stop is other.stop
            np.testing.assert_allclose(one.logp, other.logp, atol=2e-4, rtol=0)


def test_log_probs_are_those_of_a_plain_forward(planned):
    asked = siblings(3, 4, 70)
    for one, completion in zip(asked, run(CascadeEngine(MODELS["qwen2"], [1], allowed_vocab=REAL), asked), strict=True):
        np.testing.assert_allclose(
            completion.logp, scored(MODELS["qwen2"], one.context, completion.ids, one.sampling), atol=1e-4
        )


@pytest.mark.parametrize("tree", [False, True])
def test_under_autocast_queries_keys_and_values_are_of_one_type(tree, planned, monkeypatch):
    """Wrapped as by accelerate: rotary embeddings leave queries and keys in float32, values have 16 bits."""
    model, kernel, types = make("qwen2"), cascade.cascade_decode, set()
    model.forward = torch.autocast("cpu", dtype=torch.bfloat16)(model.forward)

    def watched(q, k, v, *rest, **options):
        types.add((q.dtype, k.dtype, v.dtype))
        return kernel(q, k, v, *rest, **options)

    monkeypatch.setattr(cascade, "cascade_decode", watched)
    asked = siblings(2, 4, 90, tree)
    done = run(CascadeEngine(model, [1], allowed_vocab=REAL), asked)
    assert len(planned) > 5 and types == {(torch.bfloat16,) * 3}
    want = [scored(model, one.context, c.ids, one.sampling) for one, c in zip(asked, done, strict=True)]
    away = np.concatenate([c.logp for c in done]) - np.concatenate(want)
    assert np.abs(away).mean() < 0.1  # of what 16 bits make of log-probs of about -3


@pytest.mark.triton
def test_the_kernel_runs_in_the_engine_and_gives_the_same_answers(monkeypatch):
    triton = pytest.importorskip("triton")
    if not (triton.knobs.runtime.interpret or torch.cuda.is_available()):
        pytest.skip("no GPU, and Triton's interpreter is off")
    monkeypatch.setenv("LACONIC_KERNELS", "triton")
    model = make("qwen2", num_hidden_layers=1).to("cuda" if torch.cuda.is_available() else "cpu")
    asked = [request(i, prompts(1, 70, 71)[0], 4, Sampling(0.0)) for i in range(3)]
    want = run(TransformersEngine(model, [1], allowed_vocab=REAL), asked)
    engine = CascadeEngine(model, [1], allowed_vocab=REAL)
    assert [c.ids.tolist() for c in run(engine, asked)] == [c.ids.tolist() for c in want]
    assert engine._asked and engine._refusal is None


def test_nothing_is_planned_where_little_is_shared(planned):
    run(
        CascadeEngine(MODELS["qwen2"], [1], allowed_vocab=REAL),
        [request(i, c) for i, c in enumerate(prompts(6, 80, 100))],
    )
    assert not planned


def test_another_forced_implementation_leaves_the_engines_own_steps(monkeypatch):
    keys = torch.zeros(4, 2, 8, 16)
    monkeypatch.setenv("LACONIC_KERNELS", "sdpa")
    assert "LACONIC_KERNELS is sdpa" in kernel_refuses(keys, keys, 4)
    monkeypatch.delenv("LACONIC_KERNELS")
    assert kernel_refuses(keys, keys, 4) is not None  # on a CPU
    monkeypatch.setenv("LACONIC_KERNELS", "ref")
    assert kernel_refuses(keys, keys, 4) is None


def test_a_cache_of_two_types_is_refused_at_the_start(monkeypatch):
    monkeypatch.delenv("LACONIC_KERNELS", raising=False)
    keys = torch.zeros(4, 2, 8, 16)
    assert "not of one type" in kernel_refuses(keys, keys.bfloat16(), 4)


def test_a_kernel_that_computes_something_else_is_not_used(monkeypatch):
    monkeypatch.setenv("LACONIC_KERNELS", "ref")
    monkeypatch.setattr(cascade, "cascade_decode", lambda q, *rest, **options: (q * 0, None))
    assert "off by" in kernel_refuses(torch.zeros(4, 2, 8, 16), torch.zeros(4, 2, 8, 16), 4)


def test_equal_contexts_share_all_but_their_last_token():
    context = np.arange(2, 22)
    sharing = sharing_of(calls_of([context, context, context[:5], context], [None] * 4), least=1)
    assert sharing.runs == [(0, 19, [0, 1, 3])]
    assert sharing.own_n.tolist() == [19, 19, 0, 19]


def test_a_tree_shares_level_by_level():
    root, left, right = np.full(10, 2), np.full(6, 3), np.full(8, 4)
    contexts = [
        np.concatenate(parts) for parts in ((root, left, [5]), (root, right, [5]), (root, left, [6]), (root, [7]))
    ]
    sharing = sharing_of(calls_of(contexts, [1] * 4), least=1)
    assert [run[:2] for run in sharing.runs] == [(0, 10), (10, 16)]
    assert sorted(sharing.runs[0][2]) == [0, 1, 2, 3] and sorted(sharing.runs[1][2]) == [0, 2]
    assert sharing.own_n.tolist() == [16, 10, 16, 10]
    # another tree shares nothing with it
    assert sharing_of(calls_of(contexts, [1, 2, 3, 4]), least=1).runs == []


def test_every_row_reads_each_of_its_columns_once_from_a_row_with_the_same_tokens():
    rng = np.random.default_rng(0)
    for _ in range(50):
        trunk = rng.integers(0, 2, 12)
        contexts = [
            np.concatenate([trunk[: rng.integers(1, 13)], rng.integers(0, 2, rng.integers(0, 6))]) for _ in range(9)
        ]
        calls = calls_of(contexts, [int(x) for x in rng.integers(0, 2, 9)])
        position_n = np.array([len(c) - 1 + int(rng.integers(0, 4)) for c in contexts])
        segments = sharing_of(calls, least=int(rng.integers(1, 4))).segments(position_n)
        seen = [[] for _ in contexts]
        for g in range(len(segments.start_G)):
            owner = int(segments.pages[g])
            for row in segments.queries[segments.query_ptr[g] : segments.query_ptr[g + 1]].tolist():
                columns = range(int(segments.start_G[g]), int(segments.stop_G[g]))
                seen[row] += columns
                if owner != row:
                    assert all(contexts[owner][c] == contexts[row][c] for c in columns)
                    assert columns.stop < len(contexts[owner]) and columns.stop < len(contexts[row])
        assert [sorted(columns) for columns in seen] == [list(range(p + 1)) for p in position_n]
