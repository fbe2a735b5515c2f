"""A model folder that lacks something is refused with what is missing, before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from laconic.errors import DataError
from laconic.eval.model_spec import ModelSpec
from laconic.train.model_config import KNOWN_CONFIGS, model_config
from laconic.train.model_files import check_model_folder, resolve_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)
    Qwen2ForCausalLM(Qwen2Config(**sizes, vocab_size=8, intermediate_size=8)).save_pretrained(tmp_path)
    save_tokenizer(tmp_path, eos_token="b")
    return tmp_path


def save_tokenizer(folder: Path, **special: str) -> None:
    core = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=core, **special).save_pretrained(folder)


def refusal(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        check_model_folder(folder)
    return str(caught.value)


def test_a_complete_folder_passes(folder):
    check_model_folder(folder)


def test_weights_that_are_missing_are_named(folder):
    (folder / "model.safetensors").unlink()
    assert "no weights" in refusal(folder) and "save_pretrained" in refusal(folder)


def test_a_shard_that_is_missing_is_named(folder):
    (folder / "model.safetensors").unlink()
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / shards["a"]).touch()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert "1 of 2 weight files" in refusal(folder) and shards["b"] in refusal(folder)


def test_the_index_of_weights_in_another_form_asks_for_nothing(folder):
    # As of a repository that holds both forms and was fetched without the pickled one.
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": "pytorch_model-1.bin"}}))
    check_model_folder(folder)
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    check_model_folder(folder)
    (folder / "model-1.safetensors").unlink()
    assert "1 of 1 weight files, first model-1.safetensors" in refusal(folder)


def test_a_missing_tokenizer_is_named(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert "no tokenizer" in refusal(folder)


def test_a_tokenizer_without_an_end_token_is_refused(folder):
    for file in folder.glob("*token*"):
        file.unlink()
    save_tokenizer(folder)
    assert "no EOS token" in refusal(folder)


def test_an_adapter_alone_is_refused(folder):
    (folder / "config.json").rename(folder / "adapter_config.json")
    assert "adapter" in refusal(folder)


def test_a_broken_config_is_refused(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        model_config(str(folder))


def test_a_name_that_is_nowhere_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(DataError, match="did you mean 'tiny-thinker'"):
        resolve_model("tiny-thinkr")
    with pytest.raises(DataError, match="no model at"):
        resolve_model(str(tmp_path / "nothing"))
    assert resolve_model("Qwen/Qwen2.5-0.5B") == "Qwen/Qwen2.5-0.5B"


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("Qwen/Qwen2.5-0.5B", 494_032_768),
        ("Qwen/Qwen2.5-1.5B", 1_543_714_304),
        ("Qwen/Qwen2.5-7B", 7_615_616_512),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", 1_777_088_000),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", 7_615_616_512),
        ("Qwen/Qwen3-0.6B", 596_049_920),
        ("Qwen/Qwen3-1.7B", 1_720_574_976),
        ("Qwen/Qwen3-4B", 4_022_468_096),
        ("Qwen/Qwen3-8B", 8_190_735_360),
    ],
)
def test_the_known_sizes_give_the_published_parameter_counts(model, parameters):
    assert ModelSpec.from_config(KNOWN_CONFIGS[model]).parameters == parameters


def test_the_parameter_count_is_that_of_the_real_model(folder):
    with torch.device("meta"):
        real = Qwen2ForCausalLM(Qwen2Config.from_pretrained(folder)).num_parameters()
    config = model_config(str(folder))
    assert config is not None and ModelSpec.from_config(config).parameters == real


def test_a_run_that_is_not_there_is_no_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_model("runs/model") == "runs/model"
    (tmp_path / "runs/mine").mkdir(parents=True)
    with pytest.raises(DataError, match="no run at 'runs/mnie'; did you mean 'runs/mine'"):
        resolve_model("runs/mnie")
