"""Late splits at surprising tokens."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer
from trees import prompt_group

from laconic.errors import ConfigError
from laconic.rollout.drivers.eptree import EPTreeDriver
from laconic.rollout.drivers.treepo import TreePODriver
from laconic.rollout.engines.fake import ScriptedEngine
from laconic.rollout.engines.transformers import TransformersEngine
from laconic.rollout.records import Kind, Stop
from laconic.rollout.scheduler import run_groups
from laconic.train.model_files import PACKAGED

PIECES = ["<eos>", "so", " the", " Ans", "wer", " Answer", " is", " 4", "x", "y"]


def driver(**changes):
    fields = {"group_size": 2, "max_completion": 20, "closing_words": ()}
    return EPTreeDriver(**{**fields, "piece": lambda token: PIECES[token].lower(), **changes})


def roll_out(tree, script):
    scripted = script if callable(script) else lambda context, request: script
    (group,) = run_groups(tree, ScriptedEngine(scripted), [prompt_group(0, [5, 5])], seed=0, step=0)
    return group


def splits(group):
    """(parent, tokens kept of it) of every branch."""
    return sorted({(s.parent, s.parent_off) for s in group.segments[1:] if s.parent})


def test_the_published_settings_give_thirty_leaves():
    group = roll_out(EPTreeDriver(closing_words=(), max_completion=20), [1, 2, 3, 4, 6, 7])
    assert EPTreeDriver().most_leaves == len(group.leaves) == 30
    assert [leaf.weight for leaf in group.leaves] == pytest.approx([*[1 / 6, 0, 0, 0, 0] * 6])


def test_a_tree_splits_before_its_most_surprising_tokens():
    # the fake engine's log-prob of token i is -(i + 1) / 8: the later, the more surprising
    group = roll_out(driver(), [1, 2, 3, 4])
    assert splits(group) == [(1, 3), (1, 4), (2, 3), (2, 4)]
    assert [s.parent for s in group.segments[3:7]] == [1, 1, 1, 1] and group.segments[3].parent_off == 4
    assert len(group.response_ids(group.leaves[1])) == 4 + 5 and group.trained_length(group.leaves[0]) == 5
    assert group.cost.decoded == sum(len(s) for s in group.segments if s.kind is Kind.SAMPLED)


def test_a_second_round_pools_the_tokens_of_all_segments_of_a_tree():
    group = roll_out(driver(group_size=1, rounds=2, splits=1, branches=1), lambda c, r: [1] * 9 if len(c) > 2 else [1])
    assert splits(group) == [(1, 1), (2, 9)] and len(group.leaves) == 3


def test_the_first_token_of_a_branch_is_no_split_and_trees_may_run_out_of_tokens():
    group = roll_out(driver(group_size=1, splits=3, branches=1, rounds=3), [])  # every segment is one EOS
    # each round splits at length zero of the only whole answer, and its branches have nothing to split at
    assert splits(group) == [(1, 0)] and len(group.leaves) == 4
    assert [group.response_ids(leaf).tolist() for leaf in group.leaves] == [[0]] * 4
    assert sum(group.trained_tokens(rollout) for rollout in group.rollouts) == group.cost.decoded == 4


def test_nothing_splits_after_a_closing_word_also_when_two_tokens_write_it():
    words = ("conclusion", "answer")
    assert splits(roll_out(driver(group_size=1, closing_words=words), [1, 2, 5, 6, 7])) == [(1, 1), (1, 2)]
    assert splits(roll_out(driver(group_size=1, closing_words=words), [1, 2, 3, 4, 6, 7])) == [(1, 1), (1, 2)]

    def script(context, request):  # a branch that ends the word its prefix began is closed as a whole
        return [1, 2, 3, 8, 8, 8, 8] if len(context) == 2 else [4, 6, 6, 6, 6, 6, 6, 6, 6]

    group = roll_out(driver(group_size=1, closing_words=words, splits=5, branches=1, rounds=2), script)
    closed = [s.id for s in group.segments[2:7] if s.parent_off == 3]
    assert closed and all(s.parent not in closed for s in group.segments[1:])


def test_a_branch_may_fill_what_its_prefix_leaves_of_the_cap():
    group = roll_out(driver(), [1] * 50)
    assert {len(group.response_ids(leaf)) for leaf in group.leaves} == {20}
    assert all(group.truncated(leaf) for leaf in group.leaves)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.booleans())
def test_the_invariants_hold_for_random_trees_and_ends(seed, count, rounds, branches, closing):
    words = ("answer",) if closing else ()
    tree = driver(splits=count, rounds=rounds, branches=branches, group_size=3, closing_words=words)

    def script(context, request):
        rng = random.Random(f"{seed}/{context}/{request.noise.leaf}")
        return [rng.randint(1, 9) for _ in range(rng.choice([0, 1, 4, 12, 30]))]

    prompts = [prompt_group(index, [5, 4 + index]) for index in range(2)]
    few, many = (run_groups(tree, ScriptedEngine(script, max_live=live), prompts, seed=1, step=0) for live in (2, 64))
    for group, other in zip(few, many, strict=True):
        assert [group.response_ids(a).tolist() for a in group.leaves] == [
            other.response_ids(b).tolist() for b in other.leaves
        ]
        sampled = [segment for segment in group.segments if segment.kind is Kind.SAMPLED]
        assert group.cost.decoded == sum(map(len, sampled)) and len(sampled) == len(group.leaves) == len(group.rollouts)
        assert 3 <= len(group.leaves) <= tree.most_leaves
        assert sum(leaf.weight for leaf in group.leaves) == pytest.approx(1)
        for leaf in group.leaves:
            response = group.response_ids(leaf).tolist()
            assert 1 <= len(response) <= 20 and 0 not in response[:-1]
        for segment in sampled:
            context = group.context_ids(segment.id)[: -len(segment)]
            assert segment.cost.prefilled + segment.cost.cached == len(context)
            assert segment.parent == 0 or segment.parent_off < len(group.segments[segment.parent])


def test_an_aborted_call_ends_the_growth_of_its_tree():
    class Aborting(ScriptedEngine):
        def step(self):
            if self.steps == 2:
                self.steps += 1
                return self.abort([0])
            return super().step()

    (group,) = run_groups(driver(), Aborting(lambda c, r: [1] * 9), [prompt_group(0, [5, 5])], seed=0, step=0)
    assert group.segments[1].stop is Stop.ABORTED and len(group.leaves) == 5
    assert [leaf.weight for leaf in group.leaves] == [1, 0, 0, 0, 0]


def test_what_cannot_work_is_refused_with_the_arithmetic():
    for changes, match in (
        ({"splits": 21}, r"splits is 21 .* = 20 tokens .* 2 \* \(1 \+ 21 \* 1 \* 2\) = 86 leaves"),
        ({"rounds": 0}, r"rollout.driver.rounds is 0"),
        ({"group_size": 0}, r"rollout.group_size is 0"),
        ({"closing_words": ("",)}, "an empty word"),
    ):
        with pytest.raises(ConfigError, match=match):
            driver(**changes)
    with pytest.raises(ConfigError, match="with_tokenizer"):
        EPTreeDriver().start(prompt_group(0, [5]))


@pytest.mark.parametrize(
    "tree",
    [
        TreePODriver(depth=8, segment_tokens=24, group_size=8, max_completion=192),
        EPTreeDriver(group_size=3, max_completion=192),
    ],
)
def test_the_tiny_thinker_grows_trees_on_the_embedded_engine(tree):
    import torch

    tokenizer = AutoTokenizer.from_pretrained(PACKAGED["tiny-thinker"])
    model = AutoModelForCausalLM.from_pretrained(PACKAGED["tiny-thinker"], dtype="float32").eval()
    engine = TransformersEngine(model, [tokenizer.eos_token_id], allowed_vocab=len(tokenizer))
    problems = {"3+4*2=": 4, "1+5=": 6}
    prompts = [prompt_group(i, tokenizer.encode(text)) for i, text in enumerate(problems)]
    groups = run_groups(tree.with_tokenizer(tokenizer), engine, prompts, seed=3, step=0)
    right = []
    for group, gold in zip(groups, problems.values(), strict=True):
        assert len(group.leaves) == (8 if isinstance(tree, TreePODriver) else 15)
        assert group.cost.decoded == sum(len(s) for s in group.segments if s.kind is Kind.SAMPLED)
        assert group.cost.prefilled == len(group.segments[0]), "a prefix was prefilled again"
        right += [tokenizer.decode(group.response_ids(leaf)).endswith(f"</think>{gold}<eos>") for leaf in group.leaves]
        for leaf in group.leaves[::3]:  # the log-probs of a path are those of the whole row, scored by itself
            ids = torch.from_numpy(group.context_ids(leaf.segment).astype(np.int64))[None]
            with torch.no_grad():
                logits = model(ids).logits[0, :-1, : len(tokenizer)].double()
            scored = logits.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0].numpy()
            logp = np.concatenate([piece.logp[:kept] for piece, kept in group.path(leaf.segment)])[1:]
            sampled = np.isfinite(logp)
            np.testing.assert_allclose(logp[sampled], scored[sampled], atol=1e-3)
    assert np.mean(right) > 0.5
