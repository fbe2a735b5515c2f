"""The trainer on a random model of a few thousand parameters, with a judge that finds half of all answers right."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_trainer import Train, equal, weights
from torch import Tensor
from transformers import AutoModelForCausalLM

from laconic.errors import ConfigError, DataError, RunError
from laconic.rewards.verdict import Item, Judgement, Verdict
from laconic.train import updates
from laconic.train.checkpoint import find_defect, latest_checkpoint, step_of
from laconic.train.forward import score
from laconic.train.hub.trained_run import check_up_to_date
from laconic.train.load_model import load_model
from laconic.train.metrics_log import read_metrics
from laconic.train.objectives import Clip, LossInputs, LossOutputs
from laconic.train.saving import export
from laconic.train.thinker.tokenizer import build_tokenizer
from laconic.train.trainer import LaconicTrainer
from laconic.train.updates import updates_of


def nothing_is_right(items: Sequence[Item]) -> list[Judgement]:
    return [Judgement(Verdict.WRONG) for _ in items]


def first_line(trainer: LaconicTrainer) -> dict[str, Any]:
    return read_metrics(trainer.run_dir / "metrics.jsonl")[0]


def test_loss_and_gradient_of_an_update_do_not_depend_on_the_size_of_packs(
    make: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, packs = [], []
    monkeypatch.setattr(
        "laconic.train.trainer.updates_of", lambda *known: packs.append(updates_of(*known)) or packs[-1]
    )
    for tokens in (1, 100_000):
        trainer = make("grpo", f"optim.micro_batch_tokens={tokens}", folder=str(tokens))
        trainer.train()
        found.append((len(packs[-1][0]), first_line(trainer), weights(trainer)))
    (many, one_line, one), (few, other_line, other) = found
    assert many > 4 and few == 1
    assert one_line["grad_norm"] > 1e-3
    for name in ("loss", "grad_norm", "policy/entropy", "tokens/trained"):
        assert one_line[name] == pytest.approx(other_line[name], rel=1e-5, abs=1e-7), name
    for name in one:
        # The first step of AdamW is lr times the sign of the gradient, where that is not tiny.
        assert torch.isclose(one[name], other[name], atol=1e-4).double().mean() > 0.99, name


def test_updates_times_epochs_optimizer_steps_share_one_generation(make: Train) -> None:
    trainer = make("grpo", "steps=2", "optim.updates_per_batch=2", "optim.epochs=3")
    generations, moves, packs = [], [], []
    collect, training_step = trainer._collect, trainer.training_step
    trainer._collect = lambda: generations.append(trainer.state.global_step) or collect()

    def step(*arguments: Any) -> Tensor:
        before = weights(trainer)
        loss = training_step(*arguments)
        assert equal(before, weights(trainer)), "the optimizer moves after the update's packs, not among them"
        moves.append(before)
        packs.append(trainer._updates[trainer.state.global_step % 6])
        return loss

    trainer.training_step = step
    trainer.train()
    assert generations == [0, 6] and trainer.state.global_step == 12 and trainer.generation == 2
    assert not any(equal(before, after) for before, after in zip(moves, moves[1:], strict=False))
    assert packs[0] is packs[2] is packs[4] and packs[1] is packs[3] is packs[5] and packs[0] is not packs[1]
    assert {int(g) for pack in packs[0] for g in pack.group}.isdisjoint(int(g) for pack in packs[1] for g in pack.group)
    assert [line["step"] for line in read_metrics(trainer.run_dir / "metrics.jsonl")] == [1, 2]


@pytest.mark.parametrize("filter_", ["none", "signal"])
def test_without_signal_the_update_is_skipped_and_logged(make: Train, filter_: str) -> None:
    trainer = make("grpo", "steps=2", "optim.weight_decay=0.1", f"sampler.filter={filter_}", judge=nothing_is_right)
    before = weights(trainer)
    trainer.train()
    assert equal(before, weights(trainer))
    lines = read_metrics(trainer.run_dir / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2]
    assert all(line["groups/with_signal"] == 0 and line["tokens/trained"] == 0 for line in lines)
    assert all(line["loss"] == 0 and line["outcome/accuracy"] == 0 and line["length/right"] is None for line in lines)
    assert all(line["groups/kept"] == (4 if filter_ == "none" else 0) for line in lines)


@dataclass(frozen=True)
class Poison:
    """The clipped loss, times NaN (or with such a gradient) from the third call on."""

    loss: bool
    normalizer: str = "row_mean"
    kl: float = 0.0
    old: str = "engine"
    touches_all_tokens: bool = False
    name: ClassVar[str] = "poison"
    packs: ClassVar[str] = "exact"
    calls: ClassVar[list[int]] = []

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        self.calls.append(1)
        outputs = Clip()(inputs)
        if len(self.calls) > 2:
            # The root has an infinite slope at 0.
            zero = (inputs.log_probs_M - inputs.log_probs_M.detach()).sum()
            outputs = replace(outputs, loss=outputs.loss * float("nan") if self.loss else outputs.loss + zero.sqrt())
        return outputs


@pytest.mark.parametrize(("loss", "named"), [(True, "the loss is nan"), (False, "the gradient norm is nan|is inf")])
def test_a_loss_or_gradient_that_is_no_number_stops_the_run_before_the_optimizer_moves(
    make: Train, loss: bool, named: str
) -> None:
    Poison.calls.clear()
    trainer = make("grpo", "steps=5", "save.every=1", "rollout.prompts_per_step=2", objective=Poison(loss))
    with pytest.raises(RunError, match=named) as raised:
        trainer.train()
    last = latest_checkpoint(trainer.run_dir / "checkpoints")
    assert last is not None and step_of(last) == 2 and "update 3" in str(raised.value)
    assert str(last) in str(raised.value) and "optim.lr" in str(raised.value)
    saved, _ = load_model(str(last))
    assert equal(weights(trainer), saved.state_dict())


def test_the_reference_starts_as_the_policy_itself(make: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make("grpo", "objective.kl=0.1", "optim.updates_per_batch=2")
    references = []
    score = updates._with_reference
    monkeypatch.setattr(updates, "_with_reference", lambda *given: references.append(score(*given)) or references[-1])
    trainer.train()
    averages = trainer._update_metrics
    assert trainer.ref_model is not None and trainer.ref_model is not trainer.model
    assert averages[0]["policy/kl_reference"] == pytest.approx(0, abs=1e-8)
    assert averages[-1]["policy/kl_reference"] > 1e-6, "after an update the policy has left it"
    pack = references[0]
    np.testing.assert_allclose(pack.ref_logp[pack.scored], pack.old_logp[pack.scored], atol=1e-4)


def test_without_kl_no_reference_is_loaded(make: Train) -> None:
    assert make("grpo").ref_model is None


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_trainer_scores_what_the_engine_sampled_at_its_temperature(make: Train, temperature: float) -> None:
    trainer = make("grpo", "objective.old=recompute", f"rollout.temperature={temperature}")
    experience = trainer._collect()
    reported = np.concatenate([s.logp for group in experience.groups for s in group.segments[1:]])
    assert np.isfinite(reported).all() and reported.min() < -2
    recomputed = updates_of(trainer, experience)[0]
    trainer.settings = replace(trainer.settings, objective=Clip(old="engine"))
    for ours, engine in zip(recomputed, updates_of(trainer, experience)[0], strict=True):
        scored = ours.scored
        assert scored.sum() > 10
        np.testing.assert_allclose(ours.old_logp[scored], engine.old_logp[scored], atol=1e-4)
        _, _, entropy = score(trainer.model, ours, "cpu")
        assert float(entropy.detach().max()) < np.log(len(trainer.processing_class)), "padding has no probability"


def test_pds_samples_more_prompts_and_trains_on_no_more_than_wanted(make: Train) -> None:
    trainer = make("pds", "steps=3", "sampler.initial_factor=2", "truncation.name=none")
    kept, collect = [], trainer._collect
    trainer._collect = lambda: kept.append(collect()) or kept[-1]
    trainer.train()
    lines = read_metrics(trainer.run_dir / "metrics.jsonl")
    assert lines[0]["groups/sampled"] == 8
    assert all(line["groups/sampled"] >= 4 * 1.2 // 1 for line in lines)
    assert [line["groups/kept"] for line in lines] == [len(experience.groups) for experience in kept]
    for experience in kept:
        assert 1 <= len(experience.groups) <= 4
        for index in range(len(experience.groups)):
            assert 0 < experience.right_N[experience.group_N == index].mean() < 1


def test_a_line_of_the_metrics_covers_the_whole_step(make: Train) -> None:
    trainer = make("dot", "steps=2", "save.every=1", "objective.kl=0.01", "objective.old=recompute")
    trainer.train()
    first, second = read_metrics(trainer.run_dir / "metrics.jsonl")
    keys = """step loss grad_norm learning_rate prompt_ids_hash dot/cut reward/mean
        reward/wrong_above_right reward/length_only_groups
        seconds/rollout seconds/judge seconds/pack seconds/old seconds/reference seconds/update
        tokens/decoded tokens/prefilled tokens/kv_read tokens/trained
        length/mean length/max length/right length/wrong length/truncated stop/eos stop/length
        outcome/accuracy outcome/unreadable outcome/verifier_failed
        groups/sampled groups/kept groups/with_signal groups/all_right groups/all_wrong groups/mixed
        policy/entropy policy/ratio_max policy/kl_old policy/kl_reference policy/clipped_high policy/clipped_low"""
    assert set(keys.split()) <= set(first)
    assert set(second) == set(first) | {"seconds/save"}, "a save is known after its step's line was written"
    assert all(first[key] > 0 for key in first if key.startswith("seconds/"))
    assert first["tokens/decoded"] == pytest.approx(first["length/mean"] * 16)
    assert first["policy/ratio_max"] >= 1 - 1e-4


def test_two_runs_with_one_seed_are_equal_bit_by_bit_and_other_seeds_are_not(make: Train) -> None:
    found = []
    for number, seed in enumerate((1, 1, 2)):
        trainer = make("dot", "steps=2", f"seed={seed}", folder=str(number))
        trainer.train()
        lines = read_metrics(trainer.run_dir / "metrics.jsonl")
        found.append((weights(trainer), [(line["loss"], line["prompt_ids_hash"]) for line in lines]))
    (one, one_lines), (same, same_lines), (other, other_lines) = found
    assert equal(one, same) and one_lines == same_lines
    assert not equal(one, other) and one_lines != other_lines


def test_a_run_saved_resumed_and_saved_again_is_equal_to_one_in_one_go(make: Train) -> None:
    method = (
        "pds", "truncation.name=none", "steps=4", "optim.schedule=linear", "optim.updates_per_batch=2",
        "reward.shaping={name: short_rl, accuracy_tolerance: 1.0}", "credit.name=dr_grpo",
        "reward.selection={name: gfpo, keep: 2, adaptive: true, warm: 1, keep_by_quartile: [3, 3, 2, 2]}",
    )  # fmt: skip
    alone = make(*method, folder="alone")
    alone.train()
    for until in (1, 2, 4):
        trainer = make(*method, "save.every=1", "save.keep=5", folder="parts")
        latest = latest_checkpoint(trainer.run_dir / "checkpoints")
        if until < 4:

            def collect(collect=trainer._collect, until=until, trainer=trainer):
                if trainer.generation == until:
                    raise KeyboardInterrupt
                return collect()

            trainer._collect = collect
            with pytest.raises(KeyboardInterrupt):
                trainer.train(resume_from_checkpoint=str(latest) if latest else None)
        else:
            trainer.train(resume_from_checkpoint=str(latest))
        assert trainer.metrics_log is not None
        trainer.metrics_log.close()
    checkpoints = sorted((trainer.run_dir / "checkpoints").iterdir())
    assert [step_of(path) for path in checkpoints] == [1, 2, 3, 4]
    assert [find_defect(path) for path in checkpoints] == [None] * 4
    assert equal(weights(alone), weights(trainer))
    keys = ("step", "loss", "grad_norm", "learning_rate", "prompt_ids_hash", "groups/sampled")
    logs = [read_metrics(run.run_dir / "metrics.jsonl") for run in (alone, trainer)]
    assert [[line[key] for key in keys] for line in logs[0]] == [[line[key] for key in keys] for line in logs[1]]
    state = json.loads((checkpoints[-1] / "laconic_state.json").read_text())
    assert state["sampler"] == alone.sampler.state_dict()
    assert state["reward"] == alone.reward_states and state["reward"].keys() == {"reward.shaping", "reward.selection"}
    assert state["alarms"] == alone.alarms.state_dict()


def test_the_exported_model_is_the_trained_one(make: Train) -> None:
    trainer = make("grpo")
    trainer.train()
    folder = export(trainer, trainer.run_dir / "model")
    model, tokenizer = load_model(str(folder))
    assert equal(weights(trainer), model.state_dict())
    assert json.loads((folder / "config.json").read_text())["use_cache"] is True, "as in the base, not as in training"
    assert trainer.model.config.use_cache is False
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab(), "no token was added on the way"


def test_a_model_is_exported_in_the_number_type_of_its_base_and_trained_on_in_float32(
    make: Train, random_model: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(random_model, base)
    load_model(str(base))[0].bfloat16().save_pretrained(base)
    trainer = make("grpo", f"model={base}", "save.every=1")
    trainer.train()
    (checkpoint,) = (trainer.run_dir / "checkpoints").iterdir()
    folder = export(trainer, trainer.run_dir / "model")
    saved, kept = (load_file(path / "model.safetensors") for path in (folder, checkpoint))
    assert {tensor.dtype for tensor in kept.values()} == {torch.float32}
    assert equal(saved, {name: tensor.bfloat16() for name, tensor in kept.items()})
    assert not equal(saved, load_file(base / "model.safetensors"))
    assert AutoModelForCausalLM.from_pretrained(folder, dtype="auto").dtype is torch.bfloat16
    check_up_to_date(trainer.run_dir, "")
    weights = next(iter(saved.values()))
    weights.view(-1)[0] += 1
    save_file(saved, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=r"model\.safetensors is not what step 1 left"):
        check_up_to_date(trainer.run_dir, "")


def test_gradient_checkpointing_changes_neither_rollouts_nor_gradients(make: Train) -> None:
    lines = []
    for on in ("false", "true"):
        trainer = make("grpo", f"optim.gradient_checkpointing={on}", folder=on)
        trainer.train()
        lines.append(first_line(trainer))
    for key in ("tokens/decoded", "prompt_ids_hash", "outcome/accuracy"):
        assert lines[0][key] == lines[1][key]
    assert lines[0]["grad_norm"] == pytest.approx(lines[1]["grad_norm"], rel=1e-5)


def test_a_cache_too_small_for_one_answer_is_refused_with_the_arithmetic(make):
    with pytest.raises(ConfigError, match=r"B of KV but kv_bytes is 1,073; raise rollout\.kv_gb"):
        make("grpo", "rollout.kv_gb=1.0e-6").train()


def test_a_small_cache_changes_no_answer(make):
    wide = make("grpo", "steps=1", folder="wide")
    narrow = make("grpo", "steps=1", "rollout.kv_gb=1.0e-4", folder="narrow")
    longest, limits = wide.settings.rollout.longest_context, narrow.engine.limits
    assert 1 <= limits.rows(longest, trees=False) < limits.max_live
    wide.train(), narrow.train()
    for name in ("tokens/decoded", "outcome/accuracy", "length/mean", "length/max"):
        assert narrow._generation_metrics[name] == wide._generation_metrics[name]
