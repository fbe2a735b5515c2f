"""README and docs are true: what they point at exists, their commands are accepted, their figures are measured ones.

A fenced block with ``title=NAME`` in its first line is a file. All such files of a document are written into one
folder, and every ``laconic train`` command of the document has to pass a dry run there.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from laconic.benchmarks import figures, figures_learning
from laconic.benchmarks.figures_learning import pages
from laconic.cli import app
from laconic.eval.model_spec import ModelSpec
from laconic.eval.tasks import PROCEDURAL
from laconic.eval.tasks.load import load_problems
from laconic.rewards.shaping import Responses
from laconic.rewards.verdict import Item
from laconic.rewards.verifiers import judge_item
from laconic.train.methods import METHODS, as_dict, find
from laconic.train.settings import Settings, load_settings
from laconic.train.settings_io import dump
from laconic.train.thinker.corpus import CorpusConfig

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s]+)[^)]*\)|<(?:img|a)[^>]+(?:src|href)=\"(?!https?:)([^\"]+)")
SETTINGS = re.compile(r"\bconfigs/[\w./-]+\.yaml\b")
BLOCK = re.compile(r"^```(\w*)(?: title=(\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
METRIC = re.compile(r"(dot|outcome|length|groups|stop|reward|tokens|policy|seconds)/[a-z_]+")
PATH = re.compile(r"(benchmarks|configs|docs|eval|kernels|rewards|rollout|tests|train)/[\w./-]*")
SECTIONS = {name for name, value in dump(Settings(model="any")).items() if isinstance(value, dict)} - {"trl"}


def documents() -> list[Path]:
    cards = [ROOT / "kernels/README.md", ROOT / "train/thinker/weights/README.md"]
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *cards]


def names(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


every_document = pytest.mark.parametrize("path", documents(), ids=names)


def commands(text: str) -> Iterator[list[str]]:
    """Words of every command line in blocks of shell and in `code`, without comments and variables before it."""
    lines = [line for kind, _, body in BLOCK.findall(text) if kind == "bash" for line in _joined(body)]
    inline = CODE.findall(BLOCK.sub("", text))
    for line in [*lines, *(code for code in inline if re.match(r"(laconic|make|python) [a-z-]", code))]:
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z]+=\S*", words[0]):
            words = words[1:]
        for end in [index for index, word in enumerate(words) if word in ("&&", ">")][:1]:
            words = words[:end]
        if words:
            yield words


def _joined(body: str) -> list[str]:
    return body.replace("\\\n", " ").splitlines()


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_document
def test_links_and_named_files_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    broken = []
    for target in (target for pair in LINK.findall(text) for target in pair if target):
        file, _, anchor = target.partition("#")
        there = path.parent / file if file else path
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(target)
    broken += [name for name in SETTINGS.findall(text) if not (ROOT / name).exists()]
    named = [code for code in CODE.findall(BLOCK.sub("", text)) if PATH.fullmatch(code) and not METRIC.fullmatch(code)]
    broken += [name for name in named if not (ROOT / name).exists() and not name.startswith(MADE_LATER)]
    assert not broken, f"{path.name} points at {broken}"


MADE_LATER = ("benchmarks/results/", "train/thinker/weights/evaluation.json", "docs/figures/")
"""What the benchmarks write."""


@every_document
def test_every_command_is_one_that_exists(path: Path) -> None:
    group = typer.main.get_command(app)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for words in commands(path.read_text(encoding="utf-8")):
        line = shlex.join(words)
        if words[0] == "make":
            assert words[1] in targets, f"the Makefile has no target for: {line}"
        elif words[0] == "laconic" and words[1] != "COMMAND":
            _parse(group, words[1:], line)
        elif words[:2] == ["python", "-m"] and len(words) > 2:
            assert importlib.util.find_spec(words[2]), f"no such module: {line}"
        elif words[0] == "python" and words[1].endswith(".py"):
            source = (ROOT / words[1]).read_text()
            assert all(option in source for option in words[2:] if option.startswith("--")), line


def _parse(group: Any, words: list[str], line: str) -> None:
    """Let the command line be read without running it; an unknown command, option or argument fails."""
    if words[0].startswith("-"):
        return
    assert words[0] in group.commands, f"no such command: {line}"
    command = group.commands[words[0]]
    if hasattr(command, "commands") and len(words) > 1 and not words[1].startswith("-"):
        default = [getattr(command, "default", words[1])]  # `laconic rollout MODEL` names no command of its group
        _parse(command, words[1:] if words[1] in command.commands else default + words[1:], line)
    elif len(words) > 1 and "--help" not in words:
        print(line)
        command.make_context(words[0], words[1:])


@every_document
def test_every_training_command_passes_a_dry_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = path.read_text(encoding="utf-8")
    for _, title, body in BLOCK.findall(text):
        if title:
            (tmp_path / title).write_text(body, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for words in commands(text):
        if words[:2] == ["laconic", "train"] and len(words) > 2 and "CONFIG" not in words:
            answer = CliRunner().invoke(app, [*words[1:], *([] if "--dry-run" in words else ["--dry-run"])])
            assert answer.exit_code == 0, f"{shlex.join(words)}: {answer.output}"
    assert not (tmp_path / "runs").exists()


@every_document
def test_every_setting_and_metric_exists(path: Path) -> None:
    known = set(re.findall(r"^\| `([a-z_.]+)` \|", (ROOT / "docs/configuration.md").read_text(), re.MULTILINE))
    sources = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "train").rglob("*.py"))
    for code in CODE.findall(BLOCK.sub("", path.read_text(encoding="utf-8"))):
        section = code.partition(".")[0]
        if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", code) and section in SECTIONS:
            inner = any(key.startswith(f"{code}.") for key in known)
            assert code in known or inner or code.endswith(".name"), f"no such setting: {code}"
        if METRIC.fullmatch(code) and not (path.parent / code).exists():
            made = code.startswith(("seconds/", "stop/")) or f'"{code}"' in sources
            assert made, f"no such metric: {code}"


def test_the_page_of_settings_says_what_the_dataclasses_say() -> None:
    spec = importlib.util.spec_from_file_location("configuration_page", ROOT / "docs/configuration.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), "type: python docs/configuration.py"


def test_every_method_has_a_section_of_its_own_on_a_page_and_a_line_in_the_list() -> None:
    described, listed = pages(ROOT), (ROOT / "docs/methods/README.md").read_text()
    for method in METHODS:
        assert method.id in described, f"no heading in docs/ names `{method.id}`"
        assert f"| [`{method.id}`]" in listed and f"`{method.config}`" in listed and method.paper in listed


def test_the_shaping_of_the_example_keeps_right_above_wrong_and_learns_nothing_from_wrong_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs/add-a-method.md").read_text()
    (body,) = [body for _, title, body in BLOCK.findall(text) if title == "my_shaping.py"]
    assert len(body.splitlines()) < 30
    (tmp_path / "my_shaping.py").write_text(body)
    monkeypatch.syspath_prepend(str(tmp_path))
    overrides = ["reward.shaping.name=my_shaping:OverBudget", "reward.shaping.budget=100"]
    shaping: Any = load_settings(ROOT / "configs/methods/dr_grpo.yaml", overrides).reward.shaping
    right, length = np.array([True, True, True, True, False, False]), np.array([50, 100, 200, 9000, 10, 9000])
    rewards = shaping(Responses.of(right, length))
    np.testing.assert_allclose(rewards, [1.0, 1.0, 0.5, 0.1, 0.0, 0.0], rtol=0, atol=1e-15)
    assert not shaping(Responses.of(np.zeros(4), np.arange(4))).any()
    assert shaping.range().dominant
    shown = as_dict(find("my_shaping:OverBudget"))
    assert shown["description"].startswith("r = right") and shown["defaults"]["budget"]["value"] == 80


def test_the_data_of_the_quickstart_load_and_a_boxed_answer_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _, title, body in BLOCK.findall((ROOT / "docs/quickstart.md").read_text()):
        if title:
            (tmp_path / title).write_text(body)
    monkeypatch.chdir(tmp_path)
    task = load_settings("own.yaml").task
    problems = load_problems(task)
    assert [problem.gold for problem in problems] == ["72", "11"]
    assert task.template is not None and r"\boxed{}" in task.template
    for problem in problems:
        answer = Item(rf"so it is \boxed{{{problem.gold}}}", problem.gold, problem.verifier)
        assert judge_item(answer).verdict.right


def test_the_model_card_describes_the_packaged_weights() -> None:
    folder = ROOT / "train/thinker/weights"
    card, config = (folder / "README.md").read_text(), json.loads((folder / "config.json").read_text())
    heads, shared = config["num_attention_heads"], config["num_key_value_heads"]
    assert f"{ModelSpec.from_config(config).parameters:,} parameters" in card
    assert f"Qwen2 of {config['num_hidden_layers']} layers, hidden size {config['hidden_size']}" in card
    assert f"{heads} heads ({shared} for keys and values), {config['max_position_embeddings']:,} positions" in card
    assert f"at most {CorpusConfig.passes_max} times" in card
    for task in PROCEDURAL.values():
        assert re.search(rf"`{task.name}`.*?level \({task.levels[0]} to {task.levels[-1]}\)", card, re.DOTALL)
    for prompt, response in re.findall(r"^(\S+=) +->  (<think>\S+)$", card, re.MULTILINE):
        task = PROCEDURAL["search" if prompt.startswith("@") else "chain"]
        one_pass = ",".join(task.steps(prompt))
        thought, answer = response.removeprefix("<think>").split("</think>")
        assert set(thought.split(";")) == {one_pass} and answer == one_pass[-1]


@pytest.mark.parametrize("name", figures.DOCUMENTS)
def test_the_figures_are_those_of_the_result_files(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert figures.BLOCK.search(text), f"{name} has no block of figures"
    assert figures.render(text, ROOT) == text, "type: python benchmarks/figures.py"


def results(root: Path) -> Path:
    """A root with the result files of a demo and of a packaged model."""
    folder = root / "benchmarks/results"
    folder.mkdir(parents=True)
    (root / "benchmarks/bars.toml").write_text('[bars]\n"demo.token_ratio" = { ceiling = 0.35, script = "demo" }\n')
    delta = {"accuracy": -0.001, "accuracy_ci95": [-0.004, 0.002], "token_ratio": 0.3, "token_ratio_ci95": [0.29, 0.31]}
    summary = {
        "base": {"accuracy": 0.91, "tokens_mean": 150.0}, "trained": {"accuracy": 0.909, "tokens_mean": 45.0},
        "delta": delta, "one_pass": {"tokens_mean": 30.0, "token_ratio": 0.2},
    }  # fmt: skip
    usual = {"peer": None, "equal": None, "sources": {}}
    claims = [
        {**usual, "id": "demo.token_ratio", "kind": "ceiling", "value": 0.3, "spread": [0.29, 0.31]},
        {**usual, "id": "demo.distance_to_one_pass", "kind": "finding", "value": 1.5, "spread": None},
    ]
    against = {"accuracy": {"base_ci95": [0.9, 0.92], "new_ci95": [0.9, 0.918]}}
    record = {
        "command": "python benchmarks/demo.py", "date": "2030-01-02T03:04:05+00:00", "claims": claims,
        "machine": {"cpu": "a processor", "cores": 2, "gpu": None, "torch": "2.13.0"},
        "details": {"summary": summary, "control": summary, "dot_against_control": against},
    }  # fmt: skip
    (folder / "demo.json").write_text(json.dumps(record))
    side = {"seconds": [1.0, 2.0], "peak_kv_tokens": [10, 20], "exponents": [1.0]}
    lengths = {"delethink": {"thinking": [1024, 2048], "sides": {"flat": side, "delethink": side}}}
    row = {"live": 8, "embedded_tokens_per_s": 3000.0, "vllm_tokens_per_s": 2000.0, "ratio": 1.5, "spread": [1.4, 1.6]}
    against_vllm = {"model": "a random model", "rows": [{**row, "form": "embedded, compiled", "peer": "vLLM, eager"}]}
    details = {"lengths": lengths, "vllm": {"engine_against_vllm": against_vllm}}
    (folder / "rollout.json").write_text(json.dumps({**record, "claims": [], "details": details}))
    learned = {
        "method": "dot", "budget": 500000, "problems": 1000, "samples": 2, "steps": 50, "signal": 0.5, "seconds": 90,
        "base_accuracy": 0.9, "base_tokens": 160.0, "accuracy": 0.92, "accuracy_change": 0.02, "tokens": 40.0,
        "accuracy_change_ci95": [0.01, 0.03], "token_ratio": 0.25, "token_ratio_ci95": [0.24, 0.26], "aes": 0.81,
        "tokens_per_right": 43.5,
    }  # fmt: skip
    (folder / "learning").mkdir()
    for seed in (1, 2):
        (folder / "learning" / f"dot-{seed}.json").write_text(json.dumps({**learned, "seed": seed}))
    return root


def test_figures_are_filled_in_from_the_result_files_and_drawn(tmp_path: Path) -> None:
    root = results(tmp_path)
    figures.draw(root)
    text = "".join(f"<!-- figures:begin {name} -->\nold\n<!-- figures:end -->\n" for name in figures.BLOCKS)
    filled = figures.render(text, root)
    assert "| after DOT | 90.9% | 45.0 | -0.10 [-0.40, +0.20] | ×0.300 [0.290, 0.310] |" in filled
    assert "×0.300 [0.290, 0.310] | ≤ ×0.350 |" in filled
    assert "over those of a single pass of work | ×1.50 |" in filled
    assert "(docs/figures/demo.png)" in filled and (root / figures.PICTURE).stat().st_size > 1000
    assert "| 8 | 3,000 | 2,000 | ×1.50 [1.40, 1.60] | embedded, compiled; vLLM, eager |" in filled
    assert "(figures/delethink.png)" in filled and (root / figures.GROWTH).stat().st_size > 1000
    assert (
        "| `dot` | 2 | 92.0%, +2.0 [+1.0, +3.0] | 40.0 | ×0.250 [0.240, 0.260] | 0.81 | 43.5 | 50% | 50 | 90 |"
        in filled
    )
    assert "(figures/methods.png)" in filled and (root / figures_learning.PICTURE).stat().st_size > 1000
    assert "| ×0.25 | +2.0 |" in filled
    assert "\nold\n" not in filled and figures.render(filled, root) == filled


def test_what_has_no_result_file_is_not_measured_yet(tmp_path: Path) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/bars.toml").write_text(
        '[bars]\n"cli.help_seconds" = { ceiling = 0.5, script = "cli_help" }\n'
    )
    measured = [block for name, block in figures.BLOCKS.items() if name not in ("methods", "catalogue")]
    assert all(figures.NOT_YET in block(tmp_path).lower() for block in measured)


def test_the_script_says_whether_the_documents_are_up_to_date() -> None:
    answer = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/figures.py"), "--check"], capture_output=True, text=True
    )
    assert (answer.returncode, answer.stdout) == (0, "")
