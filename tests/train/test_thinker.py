"""The tiny thinker: its tokenizer, the thoughts it learns from, and the script that makes it."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from laconic.eval.tasks import PROCEDURAL
from laconic.rewards.verifiers.answer_part import END_THINK, THINK
from laconic.train.thinker import __main__ as script
from laconic.train.thinker.__main__ import Stage, ThinkerConfig, make_batches, train_thinker
from laconic.train.thinker.corpus import CorpusConfig, Example, best_so_far, write_example
from laconic.train.thinker.tokenizer import CHARACTERS, EOS, build_tokenizer

TASKS = pytest.mark.parametrize("task", PROCEDURAL.values(), ids=lambda task: task.name)
TINY = ThinkerConfig(
    hidden_size=16,
    layers=1,
    heads=2,
    kv_heads=1,
    intermediate_size=32,
    stages=(Stage(2, 4e-3, 2048, single_pass=True), Stage(1, 2e-3, 6144)),
    examples=40,
)
BATCH_TOKENS = 4096


def examples(task, config: CorpusConfig, count: int, seed: int = 5) -> Iterator[Example]:
    rng = random.Random(seed)
    return (write_example(task, problem, config, rng) for problem in task.problems("train", 0, count))


def split(example: Example) -> tuple[str, str]:
    """(thought, answer)."""
    thought, answer = example.response.removeprefix(THINK).removesuffix(EOS).split(END_THINK)
    return thought, answer


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text(CHARACTERS), st.text(CHARACTERS))
def test_one_token_a_character_or_marker_and_back_again(thought: str, answer: str) -> None:
    tokenizer, text = build_tokenizer(), f"{THINK}{thought}{END_THINK}{answer}{EOS}"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(thought) + len(answer) + 3
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids, skip_special_tokens=True) == text.removesuffix(EOS)


@pytest.mark.parametrize("text", ["3?4=", "3 + 4", "a", "３"])
def test_an_unknown_character_is_an_error(text: str) -> None:
    with pytest.raises(Exception, match="Missing"):
        build_tokenizer()(text)


def test_a_tokenizer_read_back_from_disk_encodes_alike(tmp_path: Path) -> None:
    build_tokenizer().save_pretrained(tmp_path)
    text = f"@*7+3=4;5={THINK}5*7=5,5+3=8>5{END_THINK}5{EOS}"
    assert AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"] == build_tokenizer()(text)["input_ids"]


@TASKS
def test_the_answer_is_what_the_last_pass_found(task) -> None:
    for example in examples(task, CorpusConfig(cut_share=0.0, slip=0.05), 200):
        thought, answer = split(example)
        assert example.trained_from == 0
        assert answer == thought.split(";")[-1][-1]


@TASKS
def test_every_pass_without_slips_is_the_same_and_ends_in_the_gold(task) -> None:
    for example, problem in zip(
        examples(task, CorpusConfig(cut_share=0.0, slip=0.0), 60), task.problems("train", 0, 60), strict=True
    ):
        thought, answer = split(example)
        assert set(thought.split(";")) == {",".join(task.steps(problem.prompt))}
        assert answer == problem.gold


def test_slips_in_a_chain_are_carried_on_and_as_frequent_as_the_level_says() -> None:
    config, task = CorpusConfig(cut_share=0.0, slip=0.02), PROCEDURAL["chain"]
    expected = variance = slips = 0.0
    problems = task.problems("train", 0, 400)
    for example, problem in zip(examples(task, config, 400), problems, strict=True):
        assert problem.level is not None
        for written in split(example)[0].split(";"):
            value = problem.prompt[0]
            for step in written.split(","):
                assert step[0] == value, "a step goes on from what the one before it wrote down"
                value = step[-1]
                slips += value != str(eval(step[:3]) % 10)
                probability = config.slip * problem.level
                expected, variance = expected + probability, variance + probability * (1 - probability)
    assert slips == pytest.approx(expected, abs=4 * math.sqrt(variance))


@TASKS
def test_in_a_cut_example_only_the_answer_is_trained_and_it_is_the_best_so_far(task) -> None:
    tokenizer = build_tokenizer()
    for example in examples(task, CorpusConfig(cut_share=1.0), 100):
        thought, answer = split(example)
        trained = tokenizer(example.response)["input_ids"][example.trained_from :]
        assert tokenizer.decode(trained) == f"{answer}{EOS}"
        *finished, current = thought.split(";")
        assert answer.isdigit() and answer == (finished[-1][-1] if finished else task.guess(current))


@TASKS
def test_every_beginning_of_a_thought_supports_one_digit(task) -> None:
    for example in examples(task, CorpusConfig(cut_share=0.0, slip=0.1), 20):
        thought, _ = split(example)
        for length in range(1, len(thought) + 1):
            guess = best_so_far(task, thought[:length])
            assert len(guess) == 1 and guess.isdigit()


def test_the_number_of_passes_has_the_documented_mean() -> None:
    count, config = 4000, CorpusConfig(cut_share=0.0)
    passes = [split(example)[0].count(";") + 1 for example in examples(PROCEDURAL["chain"], config, count)]

    def below(bound: float) -> float:
        """Probability that the log-normal number is below the bound."""
        z = (math.log(bound) - math.log(config.passes_median)) / config.passes_sigma
        return 0.5 * (1 + math.erf(z / math.sqrt(2)))

    edges = [0.0, *(below(number + 0.5) for number in range(1, config.passes_max)), 1.0]
    shares = [upper - lower for lower, upper in zip(edges, edges[1:], strict=False)]
    mean = sum(number * share for number, share in enumerate(shares, 1))
    variance = sum((number - mean) ** 2 * share for number, share in enumerate(shares, 1))
    assert mean == pytest.approx(4.9, abs=0.1)
    assert sum(passes) / count == pytest.approx(mean, abs=4 * math.sqrt(variance / count))
    assert min(passes) == 1 and max(passes) == config.passes_max


@TASKS
def test_examples_repeat_with_their_seed(task) -> None:
    assert list(examples(task, CorpusConfig(), 40)) == list(examples(task, CorpusConfig(), 40))
    assert list(examples(task, CorpusConfig(), 40)) != list(examples(task, CorpusConfig(), 40, seed=6))


def test_batches_hold_every_example_once_and_label_what_is_trained() -> None:
    tokenizer = build_tokenizer()
    batches = make_batches(TINY, CorpusConfig(cut_share=0.5), tokenizer, BATCH_TOKENS, seed=3)
    assert sum(len(ids_BT) for ids_BT, _ in batches) == TINY.examples
    for ids_BT, labels_BT in batches:
        assert ids_BT.numel() <= BATCH_TOKENS
        trained_BT = labels_BT != -100
        assert torch.equal(labels_BT[trained_BT], ids_BT[trained_BT])
        assert not (ids_BT[trained_BT] == tokenizer.pad_token_id).any()
        assert ((ids_BT == tokenizer.eos_token_id) & trained_BT).sum(1).tolist() == [1] * len(ids_BT)


def test_a_short_training_leaves_a_model_that_loads_and_repeats_bit_for_bit(tmp_path: Path) -> None:
    for name in ("one", "other"):
        train_thinker(TINY, CorpusConfig(), tmp_path / name)
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "other/model.safetensors").read_bytes()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "one")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "one")
    assert model.config.eos_token_id == tokenizer.eos_token_id
    logits_BTV = model(torch.tensor([tokenizer("3+4=")["input_ids"]])).logits
    assert logits_BTV.isfinite().all()


def test_a_training_that_was_stopped_goes_on_with_the_stage_it_was_in(tmp_path: Path, monkeypatch) -> None:
    train_thinker(TINY, CorpusConfig(), tmp_path / "whole")
    train_stage, trained = script._train_stage, []

    def stopped_in_stage_two(model, stage, *rest) -> None:
        trained.append(stage)
        if trained == list(TINY.stages):
            raise KeyboardInterrupt
        train_stage(model, stage, *rest)

    monkeypatch.setattr(script, "_train_stage", stopped_in_stage_two)
    with pytest.raises(KeyboardInterrupt):
        train_thinker(TINY, CorpusConfig(), tmp_path / "stopped")
    train_thinker(TINY, CorpusConfig(), tmp_path / "stopped")
    assert trained == [*TINY.stages, TINY.stages[1]]
    names = {name: sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("whole", "stopped")}
    assert names["stopped"] == names["whole"]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert weights[0] == weights[1]


def test_stages_of_another_seed_are_not_taken_up(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(script.shutil, "rmtree", lambda path: None)
    train_thinker(TINY, CorpusConfig(), tmp_path)
    first = (tmp_path / "model.safetensors").read_bytes()
    train_thinker(replace(TINY, seed=TINY.seed + 1), CorpusConfig(), tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() != first


def test_an_example_that_does_not_fit_is_left_out_whole() -> None:
    tokenizer = build_tokenizer()
    batches = make_batches(replace(TINY, max_position=100), CorpusConfig(), tokenizer, BATCH_TOKENS, seed=3)
    assert 0 < sum(len(ids_BT) for ids_BT, _ in batches) < TINY.examples
    for ids_BT, labels_BT in batches:
        assert ids_BT.shape[1] <= 100
        assert ((labels_BT == tokenizer.eos_token_id).sum(1) == 1).all()
