"""The command line: exit statuses, messages without tracebacks, and that nothing heavy happens without need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from laconic.cli import app
from laconic.errors import ConfigError, DataError, RunError

ROOT = Path(__file__).resolve().parents[1]
DOT = str(ROOT / "configs" / "methods" / "dot.yaml")
RECIPE = str(ROOT / "configs" / "recipes" / "r1-distill-qwen-1.5b-dot-8k.yaml")
TREES = str(ROOT / "configs" / "recipes" / "r1-distill-qwen-1.5b-treepo-8k.yaml")
COMMANDS = [
    "demo",
    "train",
    "eval",
    "rollout",
    "compare",
    "cost",
    "grade",
    "tasks",
    "methods",
    "merge",
    "push",
    "serve",
    "doctor",
]


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments), prog_name="laconic")


def test_help_lists_the_commands_and_each_has_examples():
    answer = run("--help")
    assert answer.exit_code == 0
    for command in COMMANDS:
        assert command in answer.output
        page = run(command, "--help")
        assert page.exit_code == 0 and "Examples:" in page.output and f"laconic {command}" in page.output


def test_help_loads_nothing_heavy():
    code = (
        "import sys, laconic.cli\n"
        "try: laconic.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'yaml', 'rich', 'transformers'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("module", ["laconic", "laconic.train"])
def test_the_package_runs_as_a_module(module, tmp_path):
    arguments = ["train"] if module == "laconic" else []
    answer = subprocess.run(
        [sys.executable, "-m", module, *arguments, DOT, "rollout.group_size=1", "--dry-run"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert answer.returncode == 2 and answer.stderr.startswith("error: rollout.group_size is 1"), answer.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", DOT, "optim.lrr=1"], "did you mean 'optim.lr'"),
        (["train", DOT, "optim.lr=fast"], "optim.lr must be a number"),
        (["train", DOT, "optim.lr"], "key=value"),
        (["train", DOT, "--steps=3"], "settings have no dashes: steps=3"),
        (["train", DOT, "--rollout.group-size", "3"], "settings have no dashes: rollout.group_size=<value>"),
        (["rollout", "tiny-thinker", "--seed=2"], "settings have no dashes: seed=2"),
        (["train", DOT, "--dryrun"], "--dry-run"),
        (["train", "nowhere.yaml"], "no configuration file at nowhere.yaml"),
        (["train", DOT, "trl.mask_truncated_completions=true"], "mask_truncated_completions"),
        (["train", DOT, "rollout.group_size=8", "truncation.alpha=3"], "group_size"),
        (["methods", "show", "dott"], "known: grpo"),
        (["eval", "tiny-thinker", "--task", "chian"], "unknown task 'chian'"),
        (["eval", "tiny-thinker", "--column", "prompt"], "field=column"),
        (["nonsense"], "No such command"),
        (["train"], "Missing argument"),
    ],
)
def test_wrong_usage_is_one_message_without_traceback_and_status_2(arguments, words):
    answer = run(*arguments)
    assert answer.exit_code == 2 and words in answer.stderr and "Traceback" not in answer.stderr


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("bad setting"), 2),
        (DataError("bad file"), 1),
        (RunError("bad run"), 1),
        (KeyboardInterrupt("stopped after generation 3 of 10"), 130),
    ],
)
def test_each_kind_of_error_has_its_status(error, status, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("laconic.train.start.start", fail)
    answer = run("train", DOT)
    assert answer.exit_code == status and str(error) in answer.stderr and "Traceback" not in answer.stderr


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("laconic.train.start.start", fail)
    answer = run("train", DOT)
    assert answer.exit_code == 1 and isinstance(answer.exception, ZeroDivisionError)


def test_a_dry_run_says_what_follows_and_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = run("train", DOT, "--dry-run", "rollout.group_size=12")
    assert answer.exit_code == 0
    assert "8 prompts x 12 samples = 96 rollouts per step" in answer.output and "nothing was started" in answer.output
    assert not list(tmp_path.iterdir())


def test_a_dry_run_of_the_recipe_needs_no_network_and_estimates_memory():
    answer = run("train", RECIPE, "--dry-run")
    assert answer.exit_code == 0
    assert "128 prompts" in answer.output and "4,096 rollouts per step" in answer.output
    assert "model of 1,777,088,000 parameters" in answer.output and "estimated peak memory on a GPU" in answer.output


def test_a_dry_run_of_the_recipe_for_trees_counts_their_answers():
    answer = run("train", TREES, "--dry-run")
    assert answer.exit_code == 0, answer.output
    assert "512 prompts x 16 samples = 8,192 rollouts per step" in answer.output
    assert "longest row 1,024 + 7,168 = 8,192 tokens" in answer.output


def test_a_dry_run_refuses_markers_that_the_tokenizer_on_disk_cannot_write():
    fork_join = str(ROOT / "configs" / "methods" / "fork_join.yaml")
    answer = run("train", fork_join, "--dry-run", "rollout.driver.fork_text=</Outlines>")
    assert answer.exit_code == 2 and "rollout.driver.fork_text is '</Outlines>', which this tokenizer" in answer.stderr


def test_a_dry_run_for_scripts_prints_the_resolved_settings():
    answer = run("train", RECIPE, "--dry-run", "--json", "optim.lr=3e-6")
    printed = json.loads(answer.stdout)
    assert printed["started"] is False and printed["settings"]["optim"]["lr"] == 3e-6
    assert printed["derived"]["rollouts_per_step"] == 4096


def test_what_libraries_print_goes_to_stderr_while_json_is_wanted(monkeypatch):
    def noisy(*_: object, **__: object) -> dict[str, bool]:
        print("[WARNING] a library's log")
        return {"started": True}

    monkeypatch.setattr("laconic.train.start.start", noisy)
    before = sys.stdout
    answer = run("train", DOT, "--json")
    assert json.loads(answer.stdout) == {"started": True} and answer.stderr == "[WARNING] a library's log\n"
    assert run("train", DOT).stdout == "[WARNING] a library's log\n", "people see it where it was written"
    wrong = run("train", "--json")
    assert wrong.exit_code == 2 and wrong.stdout == "" and "Missing argument" in wrong.stderr
    assert sys.stdout is before and json.loads(run("train", DOT, "--json").stdout)
    monkeypatch.setenv("RANK", "1")
    assert run("train", DOT, "--json").stdout == "", "of several ranks the first one speaks"


def test_graded_lines_are_alone_on_stdout(monkeypatch, tmp_path):
    from laconic.rewards import grade

    def noisy(name: str) -> object:
        print("a verifier's module, read for the first time")
        return resolve(name)

    resolve = grade.resolve
    monkeypatch.setattr(grade, "resolve", noisy)
    (tmp_path / "cases.jsonl").write_text('{"gold": "7", "response": "7"}\n{"gold": "7", "response": "8"}\n')
    answer = run("grade", str(tmp_path / "cases.jsonl"), "--verifier", "exact", "--json")
    assert [json.loads(line)["verdict"] for line in answer.stdout.splitlines()] == ["right", "wrong"]
    assert answer.exit_code == 0 and "a verifier's module" in answer.stderr


def test_methods_for_scripts_hold_ids_papers_and_defaults():
    methods = {method["id"]: method for method in json.loads(run("methods", "--json").stdout)}
    assert methods["dot"]["paper"] == "2601.03969" and methods["dot"]["defaults"]["alpha"]["value"] == 3.0
    assert json.loads(run("methods", "show", "dot", "--json").stdout) == methods["dot"]


def test_doctor_exits_non_zero_exactly_when_a_check_fails(monkeypatch):
    from laconic.train.doctor import Check

    good, bad = Check("a", True, "fine"), Check("b", False, "do this")
    monkeypatch.setattr("laconic.train.doctor.examine", lambda: [good])
    assert run("doctor").exit_code == 0
    monkeypatch.setattr("laconic.train.doctor.examine", lambda: [good, bad])
    answer = run("doctor")
    assert answer.exit_code == 1 and "do this" in answer.output
    answer = run("doctor", "--json")
    assert answer.exit_code == 1 and json.loads(answer.stdout)[1]["detail"] == "do this"
