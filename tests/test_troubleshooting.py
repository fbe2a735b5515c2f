"""The messages that docs/troubleshooting.md quotes are those that are printed: provoked, or found in the source."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from laconic.cli import app
from laconic.train.settings import load_settings, to_yaml

ROOT = Path(__file__).resolve().parents[1]
QUOTED = dict(
    re.findall(r"^```text title=(\S+)\n(.*?)\n```$", (ROOT / "docs/troubleshooting.md").read_text("utf-8"), re.M | re.S)
)
GRPO, DOT = "configs/methods/grpo.yaml", "configs/methods/dot.yaml"
PROVOKED = {
    "unknown-key": f"train {GRPO} optim.learning_rate=1e-5 --dry-run",
    "no-file": "train my.yaml --dry-run",
    "dot-group": f"train {DOT} truncation.alpha=3 rollout.group_size=8 --dry-run",
    "updates": f"train {DOT} rollout.prompts_per_step=6 optim.updates_per_batch=4 --dry-run",
    "positions": f"train {GRPO} rollout.max_completion=4096 --dry-run",
    "other-settings": f"train {GRPO} name=made optim.lr=0.5",
    "model-name": f"train {GRPO} model=tiny-thinkr --dry-run",
    "no-run": "eval runs/mnie",
    "offline": "eval Qwen/Qwen2.5-0.5B",
    "no-adapter": "eval tiny-thinker --adapter own.jsonl",
    "marker": "rollout tiny-thinker --driver budget_force rollout.driver.think_end_text=1+1 -n 1",
    "marker-text": "rollout tiny-thinker --driver budget_force rollout.driver.wait_text=Wait -n 1",
    "column": "eval tiny-thinker --task own.jsonl",
    "duplicate-id": "eval tiny-thinker --task same.jsonl",
    "not-json": "eval tiny-thinker --task broken.jsonl",
    "empty-gold": "eval tiny-thinker --task empty.jsonl",
    "set-offline": "eval tiny-thinker --task math500",
    "unknown-task": "eval tiny-thinker --task nosuch",
    "long-prompt": f"train {GRPO} rollout.max_prompt=4 steps=1",
}


def unreachable(*_: object, **__: object) -> None:
    raise ConnectionError("no route to host")


def pieces(message: str) -> list[str]:
    """What of a quoted message is fixed."""
    return [piece.strip() for piece in message.removeprefix("error: ").split("...") if piece.strip(" ;,()'")]


@pytest.mark.parametrize("title", PROVOKED)
def test_the_command_prints_the_message(title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.load_dataset", unreachable)
    Path("own.jsonl").write_text('{"question": "1+1=", "answer": "2"}\n')
    Path("same.jsonl").write_text('{"prompt": "1+1=", "gold": "2", "id": "a"}\n' * 2)
    Path("broken.jsonl").write_text('{"prompt": "1+1=", "gold": "2"}\n{"prompt"\n')
    Path("empty.jsonl").write_text('{"prompt": "1+1=", "gold": ""}\n')
    Path("runs/mine").mkdir(parents=True)
    made = Path("runs/made")
    made.mkdir(parents=True)
    (made / "config.yaml").write_text(to_yaml(load_settings(GRPO, ["name=made"])))
    (made / "metrics.jsonl").write_text("")
    result = CliRunner().invoke(app, PROVOKED[title].split())
    assert result.exit_code in (1, 2)
    printed, at = " ".join(result.stderr.split()), 0
    for piece in pieces(QUOTED[title]):
        found = printed.find(piece, at)
        assert found >= 0, f"{piece!r} is not in what was printed: {printed}"
        at = found + len(piece)


@pytest.mark.parametrize("title", sorted(set(QUOTED) - set(PROVOKED)))
def test_the_source_has_the_message(title: str) -> None:
    wanted = pieces(QUOTED[title])
    assert any(all(piece in template for piece in wanted) for template in templates()), f"no message has {wanted}"


def test_every_provoked_message_is_quoted() -> None:
    assert set(PROVOKED) <= set(QUOTED)


def templates() -> list[str]:
    """Texts of the package, with ``\\0`` for every value, in the order of the source."""
    found = []
    inner = [path for folder in ("train", "eval", "rollout") for path in (ROOT / folder).rglob("*.py")]
    for path in [*ROOT.glob("*.py"), *inner]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
                found.append("".join(map(str, parts)))
    return found
