"""A push arrives whole or not at all, can be repeated, and is refused with a remedy before anything is sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from laconic.errors import ConfigError, DataError, RunError
from laconic.train.hub.push import push_run
from laconic.train.load_model import load_model

REPO = "alice/brief"


def commits(hub: Any, repo: str = REPO) -> int:
    """Besides the one that makes the repository."""
    return len(hub.repositories[repo].commits) - 1


def test_a_pushed_model_is_loaded_back_from_a_clean_cache_with_equal_weights(hub: Any, plain_run: Path) -> None:
    result = push_run(plain_run, "brief", quiet=True)
    assert result["repo"] == REPO and result["url"] == f"{hub.url}/{REPO}" and commits(hub) == 1
    there, tokenizer = load_model(REPO)
    here, our_tokenizer = load_model(str(plain_run / "model"))
    assert there.state_dict().keys() == here.state_dict().keys()
    assert all(torch.equal(there.state_dict()[name], tensor) for name, tensor in here.state_dict().items())
    assert tokenizer.get_vocab() == our_tokenizer.get_vocab() and tokenizer.eos_token == our_tokenizer.eos_token
    assert list(Path(constants.HF_HUB_CACHE).glob("models--alice--brief/snapshots/*/model.safetensors"))


def test_only_known_files_are_pushed_and_none_names_this_machine(hub: Any, plain_run: Path) -> None:
    push_run(plain_run, REPO, quiet=True)
    files = hub.files(REPO)
    assert set(files) == {
        ".gitattributes", "README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json", "training.yaml",
    }  # fmt: skip
    assert not [name for name, content in files.items() if str(plain_run.parent).encode() in content]


@pytest.mark.parametrize(
    ("method", "part", "what", "sent_before"),
    [
        ("POST", "/preupload/", 500, 0),
        ("POST", "/objects/batch", 503, 0),
        ("PUT", "/lfs/", 500, 0),
        ("PUT", "/lfs/", "drop", 0),
        ("POST", "/verify", "drop", 1),
        ("POST", "/commit/", 500, 1),
        ("POST", "/commit/", "drop", 1),
    ],
)
def test_a_push_that_failed_half_way_shows_nothing_and_the_same_command_goes_on(
    hub: Any, fault: type, plain_run: Path, method: str, part: str, what: Any, sent_before: int
) -> None:
    hub.faults.append(fault(method, part, what))
    with pytest.raises(RunError, match=r"nothing of this push is visible.*Reason: .*Type the same command again"):
        push_run(plain_run, REPO, quiet=True)
    assert list(hub.files(REPO)) == [".gitattributes"] and len(hub.objects) == sent_before
    hub.faults.clear()
    hub.requests.clear()
    push_run(plain_run, REPO, quiet=True)
    assert hub.files(REPO)["model.safetensors"] == (plain_run / "model/model.safetensors").read_bytes()
    assert commits(hub) == 1 and hub.count("PUT /lfs/") == 1 - sent_before


def test_a_short_fault_is_not_even_noticed(hub: Any, fault: type, plain_run: Path) -> None:
    hub.faults.append(fault("PUT", "/lfs/", "drop", times=2))
    push_run(plain_run, REPO, quiet=True)
    assert commits(hub) == 1 and hub.count("PUT /lfs/") == 3


def test_a_commit_whose_answer_was_lost_is_not_made_twice(hub: Any, fault: type, plain_run: Path) -> None:
    hub.faults.append(fault("POST", "/commit/", "mute"))
    with pytest.raises(RunError, match="unless only the answer was lost"):
        push_run(plain_run, REPO, quiet=True)
    assert commits(hub) == 1
    hub.faults.clear()
    assert push_run(plain_run, REPO, quiet=True)["commit"] == hub.repositories[REPO].commits[-1][0]
    assert commits(hub) == 1


def test_a_later_push_replaces_what_would_still_be_loaded_and_leaves_other_files(hub: Any, adapter_run: Path) -> None:
    push_run(adapter_run, REPO, quiet=True)
    assert {"adapter_config.json", "adapter_model.safetensors"} < set(hub.files(REPO))
    hub.files(REPO)["picture.png"] = b"mine"
    push_run(adapter_run, REPO, merge=True, quiet=True)
    files = hub.files(REPO)
    assert commits(hub) == 2 and {"config.json", "model.safetensors", "picture.png"} < set(files)
    assert not [name for name in files if name.startswith("adapter")]


def test_a_private_push_makes_a_repository_that_others_do_not_see(
    hub: Any, plain_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_run(plain_run, "team/brief", private=True, quiet=True)
    push_run(plain_run, "team/brief", private=True, quiet=True)
    assert hub.repositories["team/brief"].private and commits(hub, "team/brief") == 1
    monkeypatch.setenv("HF_TOKEN", "hf_bob")
    with pytest.raises(DataError, match="knows no model of that name, or none that you may read"):
        load_model("team/brief")


@pytest.mark.parametrize(
    ("token", "repo", "private", "words"),
    [
        (None, REPO, False, r"no token for http.*HF_TOKEN.*--dry-run needs none"),
        ("hf_unknown", REPO, False, "does not know the token; make one"),
        ("hf_reader", REPO, False, "may only read; make one that may write"),
        ("hf_alice", "bob/brief", False, r"belongs to 'bob', but the token is of 'alice'.*--repo alice/brief"),
        ("hf_alice", "alice/public", True, "exists and is public.*--private"),
        ("hf_alice", "a/b/c", False, "--repo 'a/b/c' cannot be a repository"),
        ("hf_alice", "brief model", False, "--repo 'brief model' cannot be a repository"),
    ],
)
def test_a_push_that_may_not_be_is_refused_before_anything_is_made(
    hub: Any, plain_run: Path, monkeypatch: pytest.MonkeyPatch, token: str | None, repo: str, private: bool, words: str
) -> None:
    push_run(plain_run, "alice/public", quiet=True)
    hub.requests.clear()
    monkeypatch.setenv("HF_TOKEN", token or "")
    with pytest.raises(ConfigError, match=words):
        push_run(plain_run, repo, private=private, quiet=True)
    assert not [request for request in hub.requests if not request.startswith("GET")]


def test_a_token_without_rights_for_this_repository_is_told_so(hub: Any, fault: type, plain_run: Path) -> None:
    hub.faults.append(fault("POST", "/repos/create", 403))
    with pytest.raises(RunError, match="did not make the repository alice/brief.*HTTP 403.*may not write there"):
        push_run(plain_run, REPO, quiet=True)


def test_without_a_network_the_hub_that_was_asked_is_named(
    hub: Any, plain_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE is set.*unset it to push.*--dry-run"):
        push_run(plain_run, REPO, quiet=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RunError, match=r"127.0.0.1:9 cannot be asked who you are. Reason: Connect"):
        push_run(plain_run, REPO, quiet=True)
    assert hub.requests == []


def test_a_dry_run_asks_nobody(
    hub: Any, adapter_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    result = push_run(adapter_run, "brief", dry_run=True)
    printed = capsys.readouterr()
    assert hub.requests == [] and result["card"] in printed.out
    for file in result["files"]:
        assert f"  {file['path']} " in printed.out and f"{file['bytes']:,}" in printed.out
    assert "note: no evaluation of" in printed.err


def test_the_pushed_adapter_loads_by_its_id_with_the_base_from_the_hub(
    hub: Any, make_run: Callable[..., Path], make_adapter: Callable[[str], Path], plain_run: Path, tmp_path: Path
) -> None:
    push_run(plain_run, "alice/base", quiet=True)
    adapter = make_adapter(str(plain_run / "model"))
    run = make_run(adapter, "model=alice/base")
    push_run(run, "alice/adapter", quiet=True)
    assert not (tmp_path / "cache").exists()
    model, _ = load_model("alice/adapter")
    from peft import PeftModel

    ours = PeftModel.from_pretrained(load_model(str(plain_run / "model"))[0], str(adapter)).eval()
    ids = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, ours(ids).logits)
        base = load_model("alice/base")[0](ids).logits
    assert not torch.allclose(model(ids).logits, base)


def test_a_pushed_adapter_knows_its_base_and_refuses_another_of_the_same_shape(
    hub: Any, make_run: Callable[..., Path], make_adapter: Callable[[str], Path], random_model: Path, tmp_path: Path
) -> None:
    from laconic.train.adapter import fingerprint

    adapter = make_adapter(str(random_model))
    base = {"base": "alice/base", "fingerprint": fingerprint(load_model(str(random_model))[0])}
    (adapter / "laconic_adapter.json").write_text(json.dumps(base))
    push_run(make_run(adapter, "model=alice/base"), "alice/adapter", quiet=True)
    assert json.loads(hub.files("alice/adapter")["laconic_adapter.json"]) == base
    load_model(str(random_model), adapter="alice/adapter")
    other, tokenizer = load_model(str(random_model))
    with torch.no_grad():
        other.model.norm.weight.mul_(1.5)
    other.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(DataError, match="was trained on alice/base, and .*other is another model"):
        load_model(str(tmp_path / "other"), adapter="alice/adapter")
