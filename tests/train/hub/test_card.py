"""The card says what was measured of exactly these weights, and its instructions work."""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from laconic.eval.wording import count, percent, ratio, signed_points
from laconic.train.hub.card import render_card
from laconic.train.hub.card_tables import limits
from laconic.train.hub.evidence import Evidence, Measured, gather_evidence
from laconic.train.hub.push import push_run
from laconic.train.hub.trained_run import TrainedRun, read_run

LICENCE = {"license": "apache-2.0"}


@pytest.fixture(scope="module")
def run(evaluated_run: Path) -> TrainedRun:
    return read_run(evaluated_run)


@pytest.fixture(scope="module")
def evidence(run: TrainedRun) -> Evidence:
    return gather_evidence(run)


@pytest.fixture(scope="module")
def card(run: TrainedRun, evidence: Evidence) -> str:
    return render_card(run, evidence, "alice/brief", merged=False, licence=LICENCE)


def front_matter(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


def blocks(card: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)


def test_evaluations_are_found_by_the_weights_they_measured(run: TrainedRun, evidence: Evidence) -> None:
    (one,) = evidence.measured
    assert one.summary["model"]["name"] == run.folder.name and one.base["model"]["name"] == "tiny-thinker"
    assert one.comparison["overall"]["n"] == 12 and evidence.notes == ()


def test_the_table_has_the_measured_numbers_and_the_paired_change(card: str, evidence: Evidence) -> None:
    (one,) = evidence.measured
    for block in (one.summary["overall"], *one.summary["tasks"], one.base["overall"], *one.base["tasks"]):
        accuracy, tokens = block["accuracy"]["avg_at_k"], block["tokens"]
        low, high = accuracy["ci95"]
        assert f"| {percent(accuracy['value'])} ({percent(low)} to {percent(high)}) | {count(tokens['mean'])}" in card
    for block in (one.comparison["overall"], *one.comparison["tasks"]):
        delta, change = signed_points(block["accuracy"]["delta"]), ratio(block["tokens"]["ratio"])
        assert re.search(rf"\| {re.escape(delta)} points \(.*\) \| ×{change} \(", card)
    assert one.comparison["overall"]["accuracy"]["sentence"][1:] in card
    assert "12 problems, 2 samples each, temperature 1, at most 40 tokens, seed 0" in card
    assert "GPU time per 1,000 answers, batch 64" in card and "h100-sxm" in card


def test_the_front_matter_is_what_the_hub_reads(card: str, evidence: Evidence) -> None:
    data = ModelCard(card).data
    assert data.license == "apache-2.0" and data.library_name == "transformers" and "dot" in data.tags
    (one,) = evidence.measured
    found = {(r.dataset_name, r.metric_type): r.metric_value for r in data.eval_results}
    for block in one.summary["tasks"]:
        assert found[block["task"], "accuracy"] == round(100 * block["accuracy"]["avg_at_k"]["value"], 2)
        assert found[block["task"], "tokens"] == round(block["tokens"]["mean"], 1)
    assert "base_model" not in data.to_dict(), "the tiny thinker is not on the Hub"


def test_method_data_and_figures_of_the_training_are_named(card: str) -> None:
    assert "[arXiv 2601.03969](https://arxiv.org/abs/2601.03969)) | alpha 0.5, margin 2" in card
    assert "Data: `chain`, `search`: problems made by a program" in card
    assert "4 steps of 8 prompts x 16 answers of at most 640 tokens" in card
    assert "- 4 minutes on 2 cores (a processor), without evaluations." in card


def test_an_evaluation_of_other_weights_is_not_taken(evaluated_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(evaluated_run, tmp_path / "brief")
    shutil.rmtree(run / "checkpoints")
    weights = run / "model/model.safetensors"
    tensors = load_file(weights)
    tensors["model.norm.weight"][0] += 1e-3
    save_file(tensors, weights, metadata={"format": "pt"})
    evidence = gather_evidence(read_run(run))
    assert evidence.measured == ()
    assert "none of the 2 evaluations found" in evidence.notes[0] and "laconic eval" in evidence.notes[0]


def test_without_an_evaluation_the_card_says_so_and_has_no_numbers(plain_run: Path) -> None:
    run = read_run(plain_run)
    evidence = gather_evidence(run)
    card = render_card(run, evidence, "alice/brief", merged=False, licence=LICENCE)
    assert "Not evaluated: of these weights no accuracy, length or cost has been measured." in card
    assert "model-index" not in front_matter(card) and "%" not in card.split("## Training")[0]
    assert f"laconic eval {plain_run} --out {plain_run / 'evaluation'}" in evidence.notes[0]


def test_without_the_base_nothing_is_compared(evaluated_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(evaluated_run, tmp_path / "brief")
    shutil.rmtree(folder / "evaluation-base")
    run = read_run(folder)
    evidence = gather_evidence(run)
    card = render_card(run, evidence, "alice/brief", merged=False, licence={})
    assert "| base |" not in card and "the gain of the training is not known" in card
    assert "laconic eval tiny-thinker --out" in evidence.notes[0]
    assert "The base's licence is not known here" in card and "license" not in front_matter(card)


def test_a_loss_of_accuracy_stands_among_the_limits(run: TrainedRun, evidence: Evidence) -> None:
    (one,) = evidence.measured
    for verdict, words in (("inferior", "**less accurate than the base**"), ("undecided", "**undecided**")):
        comparison = json.loads(json.dumps(one.comparison))
        comparison["overall"]["accuracy"]["verdict"] = verdict
        found = limits(run, Evidence((Measured(one.summary, one.base, comparison),), ()))
        assert any(words in limit for limit in found)
    assert any("only 12 problems" in limit for limit in found)


def test_the_same_run_gives_the_same_card(card: str, run: TrainedRun) -> None:
    assert render_card(run, gather_evidence(run), "alice/brief", merged=False, licence=LICENCE) == card


def test_the_summaries_are_pushed_with_the_card(hub: Any, evaluated_run: Path) -> None:
    push_run(evaluated_run, "alice/brief", quiet=True)
    files = hub.files("alice/brief")
    for name in ("evaluation", "evaluation-base"):
        assert json.loads(files[f"{name}.json"]) == json.loads((evaluated_run / name / "summary.json").read_text())
    assert not [name for name, content in files.items() if str(evaluated_run.parent).encode() in content]


def test_the_instructions_for_a_model_load_it(hub: Any, plain_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = push_run(plain_run, "alice/brief", dry_run=True, quiet=True)["card"]
    push_run(plain_run, "alice/brief", quiet=True)
    transformers, vllm = blocks(card, "python")
    scope: dict[str, Any] = {}
    exec(transformers.replace("max_new_tokens=640", "max_new_tokens=4"), scope)
    assert capsys.readouterr().out.startswith(scope["prompt"])
    ours = load_file(plain_run / "model/model.safetensors")
    assert all(torch.equal(scope["model"].state_dict()[name], tensor) for name, tensor in ours.items())
    ast.parse(vllm)
    assert blocks(card, "bash") == ["laconic eval alice/brief\n"]


def test_the_instructions_for_an_adapter_load_it_on_its_base(
    hub: Any, adapter_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pushed = push_run(adapter_run, "alice/lora", dry_run=True, quiet=True)
    push_run(adapter_run, "alice/lora", quiet=True)
    card, head = pushed["card"], front_matter(pushed["card"])
    assert head["library_name"] == "peft" and "lora" in head["tags"]
    assert "LoRA: rank 4, alpha 8, on q_proj, v_proj" in card
    # In float32: of a bfloat16 base, peft and transformers keep the adapter in different types.
    where, peft, transformers, vllm = (block.replace('"auto"', '"float32"') for block in blocks(card, "python"))
    scope: dict[str, Any] = {}
    exec(where + peft.replace("max_new_tokens=640", "max_new_tokens=4"), scope)
    assert capsys.readouterr().out.startswith(scope["prompt"])
    by_peft, ids = scope["model"], torch.arange(20)[None]
    with torch.no_grad():
        logits = by_peft(ids).logits
        with by_peft.disable_adapter():
            assert (logits - by_peft(ids).logits).abs().max() > 1
        exec(transformers, scope)
        torch.testing.assert_close(scope["model"](ids).logits, logits)
    ast.parse(vllm)


def test_a_merged_adapter_computes_what_the_adapter_does(hub: Any, adapter_run: Path) -> None:
    from peft import PeftModel

    from laconic.train.load_model import load_model

    push_run(adapter_run, "alice/merged", merge=True, quiet=True)
    model, _ = load_model("alice/merged")
    ids = torch.arange(20)[None]
    with torch.no_grad():
        adapter = PeftModel.from_pretrained(load_model("tiny-thinker")[0], str(adapter_run / "model"))
        difference = model(ids).logits - adapter(ids).logits
    assert difference.abs().max() < 1e-4
    assert "with a LoRA adapter merged into it" in hub.files("alice/merged")["README.md"].decode()


def test_an_evaluation_of_the_merged_adapter_counts_for_the_adapter(
    adapter_run: Path, tmp_path: Path, evaluated_run: Path
) -> None:
    from laconic.eval.identity import weights_hash
    from laconic.train.hub.weights import merged

    folder = shutil.copytree(adapter_run, tmp_path / "lora")
    shutil.copytree(evaluated_run / "evaluation", folder / "evaluation")
    summary = json.loads((folder / "evaluation/summary.json").read_text())
    for dtype in (torch.float32, torch.bfloat16):
        summary["model"] |= {
            "weights_hash": weights_hash(merged(read_run(folder)).to(dtype)), "dtype": str(dtype).removeprefix("torch.")
        }  # fmt: skip
        (folder / "evaluation/summary.json").write_text(json.dumps(summary))
        assert len(gather_evidence(read_run(folder)).measured) == 1


def test_own_templates_and_chats_are_in_the_instructions(make_run: Callable[..., Path], random_model: Path) -> None:
    folder = make_run(random_model, "task.file=own/problems.jsonl", "task.template='Solve: {prompt}'")
    card = push_run(folder, "brief", dry_run=True, quiet=True)["card"]
    assert 'prompt = "Solve: ..."' in card and "Data: `problems.jsonl`" in card and "own/" not in card
    chats = make_run(random_model, "task.file=own/problems.jsonl", "task.columns={messages: messages, gold: answer}")
    card = push_run(chats, "brief", dry_run=True, quiet=True)["card"]
    assert "tokenizer.apply_chat_template(messages" in card and "llm.chat([" in card
    for block in blocks(card, "python"):
        ast.parse(block)
    named = push_run(make_run(random_model, "task.names=[gsm8k]"), "brief", dry_run=True, quiet=True)["card"]
    assert front_matter(named)["datasets"] == ["openai/gsm8k"] and "Data: `gsm8k` (`openai/gsm8k`)" in named
