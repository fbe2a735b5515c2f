"""LoRA on a random model: what is trained, saved, resumed, loaded, merged, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny_trainer import PROBLEMS, even_is_right
from torch import Tensor
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from laconic.cli import app
from laconic.errors import ConfigError, DataError
from laconic.eval.model_spec import ModelSpec
from laconic.train.adapter import Lora, linear_layers, merge
from laconic.train.checkpoint import latest_checkpoint
from laconic.train.derived import estimate_memory
from laconic.train.evaluation import evaluate_model
from laconic.train.load_model import load_model
from laconic.train.metrics_log import read_metrics
from laconic.train.model_files import linear_layers_on_disk
from laconic.train.run import engine_maker
from laconic.train.run_folder import claim_run_folder
from laconic.train.saving import export
from laconic.train.settings import Settings, as_dict, load_settings, to_yaml
from laconic.train.trainer import LaconicTrainer
from laconic.train.updates import updates_of

GRPO = Path(__file__).resolve().parents[2] / "configs" / "methods" / "grpo.yaml"
SMALL = (
    "adapter.name=lora",
    "adapter.r=2",
    "adapter.alpha=8",
    "rollout.prompts_per_step=4",
    "rollout.group_size=4",
    "rollout.max_prompt=8",
    "rollout.max_completion=12",
    "optim.lr=3e-2",
    "save.every=1",
    "save.rollouts_every=0",
    "steps=2",
)
Make = Callable[..., LaconicTrainer]
IDS = torch.arange(2, 20)[None]


def settings_of(model: Path, *overrides: str) -> Settings:
    return load_settings(GRPO, [*SMALL, f"model={model}", *overrides])


@pytest.fixture(scope="module")
def make(random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """``make("folder", "adapter.r=4")``: a trainer ready to ``train()``; equal folders are one run."""
    root = tmp_path_factory.mktemp("lora")

    def build(folder: str, *overrides: str) -> LaconicTrainer:
        settings = settings_of(random_model, *overrides)
        model, tokenizer = load_model(settings.model, training=True, dtype=settings.adapter.dtype)
        run = root / folder
        run.mkdir(exist_ok=True)
        (run / "config.yaml").write_text(to_yaml(settings))
        engine = engine_maker(settings, tokenizer)
        return LaconicTrainer(settings, model, tokenizer, PROBLEMS, even_is_right, engine, run)

    return build


@pytest.fixture(scope="module")
def trained(make: Make) -> LaconicTrainer:
    """Two steps, and the finished adapter in ``model/``."""
    trainer = make("trained")
    trainer.train()
    export(trainer, trainer.run_dir / "model")
    return trainer


@pytest.fixture(scope="module")
def merged(trained: LaconicTrainer) -> Path:
    return merge(trained.run_dir, trained.run_dir.parent / "merged")


def adapter_weights(trainer: LaconicTrainer) -> dict[str, Tensor]:
    return {name: value for name, value in trainer.model.named_parameters() if "lora_" in name}


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(input_ids=IDS).logits
    return result


def test_only_the_adapter_is_trained(trained: LaconicTrainer, random_model: Path) -> None:
    frozen = load_file(random_model / "model.safetensors")
    now = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): value
        for name, value in trained.model.named_parameters()
        if "lora_" not in name
    }
    assert now.keys() == frozen.keys() and all(torch.equal(now[name], frozen[name]) for name in frozen)
    adapter = adapter_weights(trained)
    learning = [name for name, value in trained.model.named_parameters() if value.requires_grad]
    assert learning == list(adapter)
    assert all(bool(value.any()) for name, value in adapter.items() if "lora_B" in name), "B began at zero"
    assert len(trained.optimizer.state_dict()["state"]) == len(adapter)


def test_the_engine_samples_with_the_adapter_and_the_trainer_scores_with_it(trained: LaconicTrainer) -> None:
    experience = trained._collect()
    reported = np.concatenate([s.logp for group in experience.groups for s in group.segments[1:]])
    packs = updates_of(trained, experience)[0]
    from laconic.train.forward import with_old_log_probs

    with_adapter = [with_old_log_probs(trained.model, pack, "cpu") for pack in packs]
    with trained.model.disable_adapter():
        without = [with_old_log_probs(trained.model, pack, "cpu") for pack in packs]
    scored = [pack.scored for pack in packs]
    assert np.isfinite(reported).all() and sum(int(flags.sum()) for flags in scored) > 20
    for pack, own, other, flags in zip(packs, with_adapter, without, scored, strict=True):
        np.testing.assert_allclose(pack.old_logp[flags], own.old_logp[flags], atol=1e-4)
        assert np.abs(pack.old_logp[flags] - other.old_logp[flags]).max() > 1e-2


def test_the_reference_is_the_model_without_its_adapter(make: Make) -> None:
    trainer = make("kl", "objective.kl=0.1", "optim.updates_per_batch=2", "steps=1")
    trainer.train()
    assert trainer.ref_model is None and list(trainer.model.peft_config) == ["default"]
    first, *_, last = [row["policy/kl_reference"] for row in trainer._update_metrics]
    assert first == pytest.approx(0, abs=1e-8) and last > 1e-6


def test_a_run_stopped_and_resumed_is_equal_to_one_in_one_go_bit_by_bit(make: Make, trained: LaconicTrainer) -> None:
    first = make("parts")
    collect = first._collect

    def stop() -> Any:
        if first.generation == 1:
            raise KeyboardInterrupt
        return collect()

    first._collect = stop  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        first.train()
    saved = latest_checkpoint(first.run_dir / "checkpoints")
    assert saved is not None and not (saved / "model.safetensors").exists(), "a checkpoint holds the adapter only"
    second = make("parts")
    second.train(resume_from_checkpoint=str(saved))
    one, other = adapter_weights(trained), adapter_weights(second)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    keys = ("step", "loss", "grad_norm", "prompt_ids_hash")
    logs = [read_metrics(run.run_dir / "metrics.jsonl") for run in (trained, second)]
    assert [[line[key] for key in keys] for line in logs[0]] == [[line[key] for key in keys] for line in logs[1]]


def test_another_adapter_is_another_run(random_model: Path, tmp_path: Path) -> None:
    with claim_run_folder(tmp_path / "run", as_dict(settings_of(random_model))):
        pass
    with pytest.raises(ConfigError, match="adapter.r: 2 -> 4"):
        claim_run_folder(tmp_path / "run", as_dict(settings_of(random_model, "adapter.r=4")))


def test_the_finished_adapter_is_one_that_peft_loads(trained: LaconicTrainer, random_model: Path) -> None:
    folder = trained.run_dir / "model"
    files = {path.name for path in folder.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "laconic_adapter.json", "tokenizer.json"} <= files
    assert not files & {"README.md", "model.safetensors"}
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (2, 8, str(random_model))
    base = AutoModelForCausalLM.from_pretrained(random_model, dtype=torch.float32)
    loaded = PeftModel.from_pretrained(base, folder).eval()
    torch.testing.assert_close(logits(loaded), logits(trained.model.eval()), atol=1e-5, rtol=0)
    with loaded.disable_adapter():
        assert float((logits(loaded) - logits(trained.model)).abs().max()) > 1e-2


def test_merged_logits_equal_those_of_the_adapter(trained: LaconicTrainer, merged: Path) -> None:
    alone = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).eval()
    torch.testing.assert_close(logits(alone), logits(trained.model.eval()), atol=1e-5, rtol=0)
    read, tokenizer = load_model(str(trained.run_dir / "model"))
    assert torch.equal(logits(read), logits(alone)), "an adapter is read as it is merged"
    assert tokenizer.get_vocab() == load_model(str(merged))[1].get_vocab()
    with pytest.raises(DataError, match="exists"):
        merge(trained.run_dir, merged)


def test_the_merge_command_writes_the_same_model(
    trained: LaconicTrainer, merged: Path, random_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "whole"
    command = ["merge", str(trained.run_dir), "--out", str(out), "--base", str(random_model), "--json"]
    answer = CliRunner().invoke(app, command)
    assert answer.exit_code == 0 and json.loads(answer.stdout) == {"model": str(out)}
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in merged.iterdir()
    }
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 1 and again.stderr.splitlines()[-1].startswith(f"error: {out} exists")
    nothing = CliRunner().invoke(app, ["merge", str(random_model), "--out", str(tmp_path / "other")])
    assert nothing.exit_code == 1 and "no adapter at" in nothing.stderr and not (tmp_path / "other").exists()


def test_adapter_run_and_merged_model_have_the_same_evaluation(
    trained: LaconicTrainer, merged: Path, random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"problems": 3, "k": 2, "max_completion": 12}
    run = str(trained.run_dir)
    subjects = [(run, None), (str(random_model), run), (f"{run}/model", None), (str(merged), None)]
    for number, (model, adapter) in enumerate(subjects):
        out = Path(str(number))
        evaluate_model(model, ["chain"], adapter=adapter, options=options, name="same", out=out, quiet=True)
    tables = [pq.read_table(f"{number}/samples.parquet") for number in range(4)]
    samples = [
        table.select(["problem_id", "sample_idx", "response_token_ids", "verdict"]).to_pylist() for table in tables
    ]
    assert len(samples[0]) == 6 and all(sample == samples[0] for sample in samples)


def test_an_adapter_of_another_base_is_refused(
    trained: LaconicTrainer, random_model: Path, tiny_qwen: Any, tmp_path: Path
) -> None:
    other = tiny_qwen(1).float()
    with torch.no_grad():
        other.model.norm.weight.mul_(1.5)
    other.save_pretrained(tmp_path / "other")
    load_model(str(random_model))[1].save_pretrained(tmp_path / "other")
    with pytest.raises(DataError, match=f"was trained on {random_model}, and .*other is another model"):
        load_model(str(tmp_path / "other"), adapter=str(trained.run_dir))


def test_no_adapter_where_one_is_named(random_model: Path) -> None:
    with pytest.raises(DataError, match="no adapter at"):
        load_model(str(random_model), adapter=str(random_model))


def test_targets_are_the_linear_layers_but_the_head(random_model: Path) -> None:
    model, _ = load_model(str(random_model))
    names = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert linear_layers(model) == names == linear_layers_on_disk(str(random_model))
    assert set(Lora().peft_config(model).target_modules) == names
    assert set(Lora(targets=("q_proj",)).peft_config(model).target_modules) == {"q_proj"}
    with pytest.raises(ConfigError, match="no linear layer 'k_prj'; did you mean k_proj"):
        Lora(targets=("k_prj",)).peft_config(model)


@pytest.mark.parametrize("targets", [(), ("q_proj", "down_proj")])
def test_trained_numbers_and_memory_are_counted(random_model: Path, targets: tuple[str, ...]) -> None:
    from peft import get_peft_model

    lora, (model, _) = Lora(r=3, targets=targets), load_model(str(random_model))
    spec = ModelSpec.from_config(model.config.to_dict())
    wrapped = get_peft_model(model, lora.peft_config(model))
    counted = sum(value.numel() for value in wrapped.parameters() if value.requires_grad)
    assert lora.parameters(spec) == counted
    overrides = ["adapter.r=3", f"adapter.targets=[{','.join(targets)}]", "adapter.dtype=bfloat16", "objective.kl=0.1"]
    memory = estimate_memory(settings_of(random_model, *overrides), spec, 4)
    assert (memory.gradients, memory.adam, memory.reference) == (4 * counted, 8 * counted, 0)
    assert memory.weights == 2 * spec.parameters + 4 * counted
