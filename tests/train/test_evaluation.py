"""`laconic eval` from a model folder to an evaluation on disk, and `laconic compare` of two of them."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from typer.testing import CliRunner

from laconic.cli import app
from laconic.errors import ConfigError, DataError
from laconic.rollout.engines.transformers import TransformersEngine
from laconic.train.checkpoint import save_checkpoint
from laconic.train.evaluation import cache_room, evaluate_model
from laconic.train.settings import Settings, to_yaml
from laconic.train.thinker.tokenizer import build_tokenizer

SMALL = {"problems": 3, "k": 2, "max_completion": 12}


def save_model(folder: Path, seed: int) -> Path:
    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)
    config = Qwen2Config(
        **sizes, vocab_size=32, intermediate_size=16, max_position_embeddings=256, eos_token_id=tokenizer.eos_token_id
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    return [save_model(tmp_path / name, seed) for seed, name in enumerate(("first", "second"))]


def test_an_evaluation_and_a_comparison_work_from_the_command_line(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--task", "chain", "-n", "3", "-k", "2", "--max-completion", "12"]
    for model in models:
        answer = CliRunner().invoke(app, ["eval", str(model), *options, "--out", f"eval-{model.name}"])
        assert answer.exit_code == 0, answer.output
        assert (
            "chain" in answer.output
            and "3 problems x 2 samples" in answer.output
            and "next: laconic compare" in answer.output
        )
        assert "<html" in (tmp_path / f"eval-{model.name}" / "report.html").read_text()
    answer = CliRunner().invoke(app, ["compare", "eval-first", "eval-second", "--json", "--html", "out/report.html"])
    assert answer.exit_code == 0, answer.output
    compared = json.loads(answer.stdout)
    assert compared["overall"]["n"] == 3
    assert "<html" in (tmp_path / "out" / "report.html").read_text()
    answer = CliRunner().invoke(app, ["compare", "eval-first", "eval-second"])
    assert answer.exit_code == 0 and "accuracy" in answer.output and "tokens" in answer.output


def test_reasoning_models_can_be_sampled_as_their_makers_say(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--task", "chain", "-n", "2", "-k", "1", "--max-completion", "8"]
    sampling = ["--temperature", "0.6", "--top-p", "0.95", "--top-k", "20"]
    for more in ([], sampling):
        answer = CliRunner().invoke(app, ["eval", str(models[0]), *options, *more, "--json"])
        assert answer.exit_code == 0, answer.output
    settings = json.loads(answer.stdout)["settings"]
    assert (settings["temperature"], settings["top_p"], settings["top_k"]) == (0.6, 0.95, 20)
    names = sorted(path.name for path in (tmp_path / "runs" / "eval").iterdir())
    assert names == ["first-chain-n2-k1-t0.6-p0.95-top20-c8-s0", "first-chain-n2-k1-t1-c8-s0"]
    assert all((tmp_path / "runs" / "eval" / name / "report.html").is_file() for name in names)


def test_long_answers_are_decoded_as_the_memory_of_a_gpu_allows_and_come_out_the_same(models, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10_000, 20_000))
    assert cache_room(torch.device("cuda")) == 8_000 and cache_room(torch.device("cpu")) is None
    free = evaluate_model(str(models[0]), ["chain"], options=SMALL, out=tmp_path / "free", quiet=True)
    # A token has 2 x 8 numbers of 4 bytes in the cache, and 30 tokens are one sequence and not two.
    monkeypatch.setattr("laconic.train.evaluation.cache_room", lambda device: 30 * 2 * 8 * 4)
    live = []
    step = TransformersEngine.step

    def watched(engine):
        done = step(engine)
        live.append(engine.live)
        return done

    monkeypatch.setattr(TransformersEngine, "step", watched)
    tight = evaluate_model(str(models[0]), ["chain"], options=SMALL, out=tmp_path / "tight", quiet=True)
    assert max(live) == 1 and tight["overall"] == free["overall"]


def test_each_set_of_options_has_a_folder_of_its_own_and_the_same_one_is_read_again(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = evaluate_model(str(models[0]), ["chain"], options=SMALL, quiet=True)
    again = evaluate_model(str(models[0]), ["chain"], options=SMALL, quiet=True)
    assert first["overall"] == again["overall"]
    evaluate_model(str(models[0]), ["chain"], options={**SMALL, "k": 1}, quiet=True)
    names = sorted(path.name for path in (tmp_path / "runs" / "eval").iterdir())
    assert names == ["first-chain-n3-k1-t1-c12-s0", "first-chain-n3-k2-t1-c12-s0"]


def test_a_file_is_evaluated_with_its_own_column_names_and_verifier(models, tmp_path):
    file = tmp_path / "data.jsonl"
    file.write_text('{"question": "1+1=", "answer": "2"}\n')
    summary = evaluate_model(
        str(models[0]),
        [str(file)],
        columns=["prompt=question", "gold=answer"],
        verifier="number",
        options=SMALL,
        out=tmp_path / "out",
        quiet=True,
    )
    assert (summary["overall"]["n"], summary["settings"]["verifiers"]) == (1, ["number"])


def test_a_run_brings_its_own_task_and_settings(models, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(to_yaml(Settings(model="m")))
    with pytest.raises(DataError, match="no finished model yet"):
        evaluate_model(str(run), options=SMALL, out=tmp_path / "out", quiet=True)
    models[0].rename(run / "model")
    summary = evaluate_model(str(run), options=SMALL, out=tmp_path / "out", quiet=True)
    assert summary["settings"]["tasks"] == ["chain", "search"] and summary["model"]["name"] == "run"


def test_a_run_that_went_on_and_stopped_is_not_measured_by_its_older_model(models, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(to_yaml(Settings(model="m")))
    shutil.copytree(models[0], run / "model")
    for step, model in ((4, models[0]), (6, models[1])):
        copy = partial(shutil.copytree, model, dirs_exist_ok=True)
        save_checkpoint(run / "checkpoints", step, copy, keep=2)
        if step == 4:
            evaluate_model(str(run), ["chain"], options=SMALL, out=tmp_path / "out", quiet=True)
    with pytest.raises(
        DataError, match=r"not what step 6 left.*go on with laconic train .*or evaluate .*model as it is"
    ):
        evaluate_model(str(run), ["chain"], options=SMALL, out=tmp_path / "later", quiet=True)
    evaluate_model(str(run / "model"), ["chain"], options=SMALL, out=tmp_path / "asked", quiet=True)


def test_options_that_cannot_work_are_refused_before_a_model_is_loaded():
    with pytest.raises(ConfigError, match=r"eval\.k is 0"):
        evaluate_model("tiny-thinker", options={"k": 0})


def test_a_named_task_is_read_from_a_folder_and_asked_as_text(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gsm8k_test.jsonl").write_text('{"problem": "1+1", "answer": "2"}\n{"problem": "1+2", "answer": "3"}\n')
    options = ["--task", "gsm8k", "--data-dir", ".", "--template", "{prompt}=", "--max-completion", "12", "--json"]
    answer = CliRunner().invoke(app, ["eval", str(models[0]), *options])
    assert answer.exit_code == 1 and "set task.chat=false (--no-chat)" in answer.stderr
    answer = CliRunner().invoke(app, ["eval", str(models[0]), *options, "--no-chat"])
    assert answer.exit_code == 0, answer.output
    summary = json.loads(answer.stdout)
    assert (summary["overall"]["n"], summary["settings"]["verifiers"]) == (2, ["number"])
    assert summary["tasks"][0]["task"] == "gsm8k"
