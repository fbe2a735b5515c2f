"""``laconic rollout``: from the tiny thinker to trees, saved and opened again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from laconic.cli import app
from laconic.rollout.drivers import DRIVERS
from laconic.train.rollout_log import read_groups

TREE = ["rollout.group_size=4", "rollout.max_completion=48", "rollout.driver.segment_tokens=12"]
TREE += ["rollout.driver.depth=4"]


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["rollout", *arguments], prog_name="laconic", env={"COLUMNS": "160"})


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Two trees of the tiny thinker: the answer of the command, and the folder of its files."""
    folder = tmp_path_factory.mktemp("rollouts")
    files = ["--html", str(folder / "trees.html"), "--out", str(folder / "trees.parquet")]
    return run("tiny-thinker", "--driver", "treepo", "--task", "chain", "-n", "2", *TREE, *files), folder


def test_a_tree_is_sampled_judged_drawn_and_written(sampled: tuple[Any, Path]) -> None:
    answer, folder = sampled
    assert answer.exit_code == 0, answer.output
    for words in ("chain/test/0/0", "chain/test/0/1", "gold ", "├── #", " nats", "T_dec", "T_crit", "tokens saved"):
        assert words in answer.output, words
    assert f"next: laconic rollout show {folder / 'trees.parquet'}" in answer.output
    groups = read_groups(folder / "trees.parquet")
    assert [one.group.problem_id for one in groups] == ["chain/test/0/0", "chain/test/0/1"]
    for saved in groups:
        saved.group.validate()
        assert len(saved.outcomes) == len(saved.group.leaves) == 4
        assert all(outcome.verdict and outcome.reward is None for outcome in saved.outcomes)
        assert saved.texts[0][0] in answer.output and saved.step is None
    page = (folder / "trees.html").read_text(encoding="utf-8")
    assert "tiny-thinker, treepo" in page and "segment_tokens: 12" in page


def test_saved_trees_are_drawn_as_they_were(sampled: tuple[Any, Path], tmp_path: Path) -> None:
    before, folder = sampled
    again = run("show", str(folder / "trees.parquet"), "--html", str(tmp_path / "again.html"))
    assert again.exit_code == 0, again.output
    assert again.output.partition("written to")[0] == before.output.partition("written to")[0]
    trees = [page.read_text(encoding="utf-8").partition("</header>")[2].partition("<section>")[0]
             for page in (folder / "trees.html", tmp_path / "again.html")]  # fmt: skip
    assert trees[0] == trees[1]
    one = run("show", str(folder / "trees.parquet"), "-n", "1", "--json")
    plain = json.loads(one.output)
    (group,) = plain["groups"]
    assert group["problem_id"] == "chain/test/0/0" and len(group["leaves"]) == 4
    assert plain["totals"]["decoded"] == group["totals"]["decoded"] > 0 and plain["html"] is None


def test_leaves_that_are_no_answers_are_not_judged() -> None:
    answer = run("tiny-thinker", "--driver", "delethink", "--task", "chain", "-n", "1", "rollout.group_size=2",
                 "rollout.driver.chunk=10", "rollout.driver.head=1", "rollout.driver.tail=3",
                 "rollout.max_completion=24", "rollout.driver.max_chunks=3", "--json")  # fmt: skip
    assert answer.exit_code == 0, answer.output
    leaves = json.loads(answer.output)["groups"][0]["leaves"]
    last = {leaf["rollout"]: leaf["leaf"] for leaf in leaves}
    assert len(leaves) > 2
    for leaf in leaves:
        assert (leaf["verdict"] is not None) == (leaf["leaf"] == last[leaf["rollout"]] or leaf["stop"] == "eos")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["tiny-thinker", "--driver", "treepoo"], 2, "treepo"),
        (["tiny-thinker", "--driver", "treepo", "rollout.driver.widht=4"], 2, "did you mean 'rollout.driver.width'"),
        (["tiny-thinker", "--task", "chian"], 2, "unknown task 'chian'"),
        (["tiny-thinker", "--out", "trees.csv"], 2, "ends in .parquet"),
        (["tiny-thinker", "--html", "folder"], 2, "ends in .html"),
        (["tiny-thinkr"], 1, "tiny-thinker"),
        (["show", "nothing.parquet"], 1, "no file at nothing.parquet"),
        (["show", "nothing.parquet", "--html", "folder"], 2, "ends in .html"),
        ([], 2, "Missing argument"),
        (["show"], 2, "Missing argument"),
    ],
)
def test_wrong_usage_is_one_message_with_its_remedy(arguments: list[str], status: int, words: str) -> None:
    answer = run(*arguments)
    assert answer.exit_code == status and words in answer.output and "Traceback" not in answer.output, answer.output


def test_a_run_without_a_finished_model_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: tiny-thinker\n")
    answer = run(str(tmp_path))
    assert answer.exit_code == 1 and "go on with laconic train" in answer.output


def test_a_model_of_a_run_comes_with_its_settings(tmp_path: Path, random_model: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "model: tiny-thinker\ntask: {names: [search]}\nrollout: {group_size: 3, max_completion: 5}\n"
    )
    (tmp_path / "model").symlink_to(random_model)
    answer = run(str(tmp_path), "-n", "1", "--json")
    assert answer.exit_code == 0, answer.output
    (group,) = json.loads(answer.output)["groups"]
    assert group["problem_id"].startswith("search/") and len(group["leaves"]) == 3
    assert all(leaf["tokens"] <= 5 for leaf in group["leaves"])


def test_help_names_every_driver() -> None:
    text = " ".join(run("--help").output.split())
    assert not [name for name in DRIVERS if name not in text]
    assert "laconic rollout show" in text
