"""Rows or trees: what is chosen, why, and that the estimate counts what it says."""

from __future__ import annotations

import random

import numpy as np
import pytest
from random_groups import random_group, rows_of
from transformers import AutoConfig, Qwen2Config

from laconic.errors import ConfigError
from laconic.train.checks import check_settings
from laconic.train.derived import derive
from laconic.train.objectives import OBJECTIVES
from laconic.train.packing.budget import concatenate
from laconic.train.packing.choose import (
    LEAST_GAIN,
    Price,
    Work,
    choose,
    forked_and_paths,
    work_of_rows,
    work_of_trees,
)
from laconic.train.packing.packer import lengths_of, metrics_of, saved_seconds
from laconic.train.packing.refusals import objection
from laconic.train.packing.trie import to_tries
from laconic.train.rows import Row, to_packs
from laconic.train.settings import load_settings

TOKENS = Price(token=1.0, scored=0.0, pair=0.0, tree_pair=0.0, call=0.0)


@pytest.mark.parametrize("seed", range(20))
def test_work_counts_tokens_and_the_keys_they_see(seed):
    rng = random.Random(seed)
    rows = rows_of([random_group(rng, number) for number in range(3)], rng)
    tries = to_tries(rows)
    packed, budget = work_of_trees(tries), rng.choice([1, 40, 1000])
    scored = sum(int(row.trained.sum()) for row in rows)
    flat = work_of_rows(lengths_of(rows), scored, budget)
    assert flat.tokens == sum(map(len, rows)) and flat.scored == scored and flat.calls == 0
    area = pairs = 0
    for pack in to_packs(rows, budget):
        width = max(stop - start for start, stop in pack.trees)
        area += len(pack.trees) * width
        pairs += len(pack.trees) * width * (width + 1) // 2
    assert (flat.tokens + flat.padding, flat.pairs) == (area, pairs) and packed.padding == 0
    seen = 0
    for trie in tries:
        index = np.arange(len(trie))
        seen += int(((index[None] <= index[:, None]) & (index[:, None] < trie.sub_end[None])).sum())
    assert packed.pairs == seen and packed.tokens <= flat.tokens and packed.scored <= flat.scored


@pytest.mark.parametrize("seed", range(20))
def test_the_work_of_trees_depends_neither_on_packs_nor_on_ranks(seed):
    rng = random.Random(seed)
    rows = rows_of([random_group(rng, number) for number in range(6)], rng)
    tries = to_tries([*rows, *single_answers([9, 4, 2])])
    everything, whole_B = forked_and_paths([concatenate(tries)])
    parts = [forked_and_paths(tries[rank::2]) for rank in range(2)]
    assert parts[0][0] + parts[1][0] == everything and everything.calls * 128 == everything.tokens > 0
    assert sorted(np.concatenate([length_B for _, length_B in parts])) == sorted(whole_B) and {9, 4, 2} <= {*whole_B}
    assert everything.tokens + whole_B.sum() == sum(map(len, tries))
    assert everything.pairs == sum(work_of_trees([trie]).pairs for trie in tries if trie.pos[-1] + 1 < len(trie))


def single_answers(lengths: list[int]) -> list[Row]:
    """One to each prompt, of which nothing is shared."""
    return [
        Row(np.arange(n), np.full(n, -1.0, np.float32), 1.0, np.zeros(n, np.int64), np.ones(n), group)
        for group, n in enumerate(lengths, start=100)
    ]


def test_answers_that_share_nothing_are_rows_both_ways_padding_included(make):
    trainer = make("grpo")
    packs, choice = trainer.packer.packs([single_answers([40, 2, 2, 2])])
    assert not choice.tree and choice.gain == 1 and choice.rows.padding == choice.trees.padding > 0
    assert metrics_of(choice)["pack/path"] == "rows" and [len(pack) for pack in packs[0]] == [46]


def test_a_price_is_that_of_the_model():
    config = Qwen2Config(
        vocab_size=1000, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=128, tie_word_embeddings=True,
    )  # fmt: skip
    price = Price.of(config, "cuda")
    matrices = 3 * (64 * 16 * (4 + 2 + 2 + 4) + 3 * 64 * 128)
    assert (price.token, price.scored, price.pair) == (2 * matrices, 2 * 1000 * 64, 4 * 4 * 16 * 3)
    unknown = Price.of({"model_type": "odd"}, "cpu")
    assert Price.of(config, "cpu").call > 0 == unknown.call and price.unknown == ""
    assert "as a list" in Price.of(AutoConfig.for_model("gemma3n_text"), "cpu").unknown
    reason = choose("auto", None, Work(tokens=1000), Work(tokens=500), unknown).reason
    assert "2.00 times as fast by tokens alone (the model config (type 'odd') does not give" in reason


def test_auto_takes_trees_from_a_gain_on_and_says_what_it_expects():
    rows, enough = Work(tokens=1000), Work(tokens=int(1000 / LEAST_GAIN) - 1)
    choice = choose("auto", None, rows, Work(tokens=500), TOKENS)
    assert (
        choice.tree and choice.gain == 2 and "500 tokens in place of 1,000, expected to be 2.00 times" in choice.reason
    )
    assert choose("auto", None, rows, enough, TOKENS).tree
    hardly = choose("auto", None, rows, Work(tokens=990), TOKENS)
    assert not hardly.tree and hardly.reason == (
        "trees don't pay below 1.03 times the speed: 990 tokens in place of 1,000, expected to be 1.01 times as fast"
    )
    nothing = choose("tree", None, Work(), Work(), TOKENS)
    assert metrics_of(nothing)["pack/path"] == "none" and nothing.reason == "no answer has an advantage"
    assert choose("tree", None, rows, Work(tokens=990), TOKENS).tree
    refused = choose("auto", "model type gemma2 caps its scores", rows, Work(tokens=500), TOKENS)
    assert not refused.tree and refused.reason == "model type gemma2 caps its scores" and refused.gain == 2
    assert not choose("rows", None, rows, Work(), TOKENS).tree


def test_the_log_says_path_ratio_and_savings():
    packed = choose("auto", None, Work(tokens=1800), Work(tokens=1000), TOKENS)
    metrics = metrics_of(packed)
    assert metrics["pack/path"] == "tree" and metrics["pack/ratio"] == 1.8 and metrics["pack/saved_tokens"] == 800
    seconds = {"update": 2.0, "reference": 0.5, "old": 0.5, "rollout": 100.0}
    assert saved_seconds(metrics, seconds) == pytest.approx(3.0 * 0.8)
    flat = metrics_of(choose("auto", "so", Work(tokens=1800), Work(tokens=1000), TOKENS))
    assert flat["pack/path"] == "rows" and flat["pack/ratio"] == 1.8 and flat["pack/saved_tokens"] == 0
    assert saved_seconds(flat, seconds) == 0


@pytest.mark.parametrize("name", [name for name, one in OBJECTIVES.items() if one.packs == "rows"])
def test_objectives_that_need_rows_are_refused_with_the_way_out(name):
    settings = load_settings(
        "configs/methods/treepo.yaml", ["optim.packing=tree", "optim.updates_per_batch=2", f"objective.name={name}"]
    )
    with pytest.raises(ConfigError, match=f"objective {name} needs each row by itself.*optim.packing=auto"):
        check_settings(settings, None)
    assert objection(settings.objective) is not None


def test_models_that_cannot_be_packed_are_refused_before_anything_is_loaded():
    settings = load_settings("configs/methods/treepo.yaml", ["optim.packing=tree"])
    check_settings(settings, {"model_type": "llama"})
    with pytest.raises(ConfigError, match="model type gemma2 caps its attention scores at 50; set optim.packing=auto"):
        check_settings(settings, {"model_type": "gemma2", "attn_logit_softcapping": 50.0})
    latent = {"model_type": "deepseek_v2", "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8}
    with pytest.raises(ConfigError, match="keys of 12 and values of 8 numbers.*set optim.packing=auto"):
        check_settings(settings, latent)
    check_settings(load_settings("configs/methods/treepo.yaml"), {"model_type": "mamba"})


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optim.packing=auto", "trained once where that is faster (optim.packing auto)"),
        ("optim.packing=tree", "trained once (optim.packing tree)"),
        ("optim.packing=rows", "a row of its own: optim.packing is rows"),
        ("objective.name=gspo", "a row of its own: objective gspo needs each row by itself"),
    ],
)
def test_a_dry_run_says_how_answers_will_be_trained(override, words):
    lines = derive(load_settings("configs/methods/treepo.yaml", [override]), None)
    assert any(words in line for line in lines)
