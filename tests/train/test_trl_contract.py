"""What of trl and transformers the trainer replaces or relies on is what it was written against.

A hash stands for a method's syntax tree without its docstring, so comments and layout may change. When a test here
fails after an upgrade: read the method's new source beside ``train/trainer.py``, mend what it affects, run the tests
of this folder and ``tests/train/objectives/test_against_trl.py``, and only then record the printed hash and version.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
import transformers
import trl
from transformers import Trainer
from trl import GRPOTrainer

from laconic.train.trainer import REPLACED, LaconicTrainer

VERSIONS = {"trl": "1.16.0", "transformers": "5.17.0"}
"""The versions that the hashes below are of."""

GRPO_METHODS = {
    "__init__": (
        "82498c52a26a",
        "what it sets up; LaconicTrainer.__init__",
    ),
    "get_train_dataloader": (
        "b87ce23e6be5",
        "the data; LaconicTrainer.get_train_dataloader",
    ),
    "_prepare_inputs": ("3eee998f6a68", "when generations happen; LaconicTrainer._prepare_inputs"),
    "training_step": ("8c969a3a5762", "its bookkeeping, which we leave out; LaconicTrainer.training_step"),
    "compute_loss": (
        "fbda74cf7456",
        "the way to _compute_loss; LaconicTrainer.training_step",
    ),
    "_compute_loss": (
        "5e99386395c8",
        "formulas that objectives/clip.py restates",
    ),
    "log": ("d7708f1ade1a", "LaconicTrainer.log calls the method behind it"),
    "_save_checkpoint": ("9639a6455223", "what a checkpoint of trl holds besides; write_state of saving.py"),
    "_load_optimizer_and_scheduler": ("820828400f5f", "LaconicTrainer._load_optimizer_and_scheduler extends it"),
}
"""Method of GRPOTrainer -> (hash, what to read again)."""

TRAINER_METHODS = {
    "_inner_training_loop": (
        "30265859b3ab",
        "the order of start-up and resume; _prepare_inputs",
    ),
    "_init_training_state": ("5566db0386f5", "which step a resumed run begins with; LaconicTrainer.generation"),
    "_prepare_for_training": (
        "2127285b9cad",
        "when a checkpoint is loaded; _load_optimizer_and_scheduler",
    ),
    "_run_epoch": (
        "5a43f8c5c670",
        "what surrounds a step, norm before optimizer; _clip_grad_norm",
    ),
    "get_batch_samples": (
        "bf09778d3f18",
        "that batches may be empty; get_train_dataloader",
    ),
    "training_step": ("97b0246a60e3", "mode, autocast, scaling of the loss and backward; LaconicTrainer.training_step"),
    "_clip_grad_norm": ("84aa6e9a0d23", "LaconicTrainer._clip_grad_norm looks at what it returns"),
    "_maybe_log_save_evaluate": (
        "6e46ee626902",
        "that a step is logged, then saved; LaconicTrainer.log",
    ),
    "_finalize_training": ("8a8c6322793b", "the last call of log, without a loss; LaconicTrainer.log"),
    "_save_checkpoint": ("b7716b54a929", "what a checkpoint consists of; write_state of saving.py"),
    "_save_optimizer_and_scheduler": ("657120ae75fb", "write_state of saving.py calls it"),
    "_save_rng_state": ("c9e5395071e5", "write_state of saving.py calls it"),
    "_load_rng_state": ("c3f928773cb3", "write_state of saving.py writes what it reads"),
    "_load_from_checkpoint": ("119605affab2", "write_state of saving.py writes what it reads"),
    "_load_optimizer_and_scheduler": ("028403aff8dc", "write_state of saving.py writes what it reads"),
    "log": ("35193898a824", "LaconicTrainer.log ends there"),
}
"""Method of transformers' Trainer -> (hash, what to read again)."""


@pytest.mark.parametrize("package", [trl, transformers], ids=["trl", "transformers"])
def test_the_installed_version_is_the_one_that_was_read(package: Any) -> None:
    installed, read = package.__version__, VERSIONS[package.__name__]
    assert installed == read, (
        f"{package.__name__} {installed} is installed, but the trainer was checked against {read}: install that one "
        f"(constraints.txt), or follow the docstring of {__name__} and record {installed}"
    )


@pytest.mark.parametrize(
    ("owner", "name", "recorded", "read_again"),
    [
        (owner, name, recorded, read_again)
        for owner, methods in ((GRPOTrainer, GRPO_METHODS), (Trainer, TRAINER_METHODS))
        for name, (recorded, read_again) in methods.items()
    ],
)
def test_the_method_is_the_one_that_was_read(owner: type, name: str, recorded: str, read_again: str) -> None:
    method = vars(owner).get(name)
    assert method is not None, f"{owner.__name__}.{name} is gone; read again: {read_again}"
    found = syntax_hash(method)
    assert found == recorded, (
        f"{owner.__module__}.{owner.__name__}.{name} has changed ({recorded} -> {found}); read again: {read_again}"
    )


def test_exactly_the_listed_methods_of_the_parents_are_replaced() -> None:
    own = {
        name for name, value in vars(LaconicTrainer).items() if inspect.isfunction(value) or isinstance(value, property)
    }
    inherited = {name for name in own if any(name in vars(parent) for parent in LaconicTrainer.__mro__[1:])}
    assert inherited == {"__init__", *REPLACED}
    assert {*REPLACED} <= {*GRPO_METHODS, *TRAINER_METHODS}, "every replaced method has its hash above"


def test_no_attribute_of_ours_is_one_of_the_parents() -> None:
    used = {
        name
        for parent in LaconicTrainer.__mro__[1:]
        if parent.__module__.startswith(("trl.", "transformers."))
        for name in re.findall(r"\bself\.(\w+)", inspect.getsource(parent))
    }
    tree = ast.parse(textwrap.dedent(inspect.getsource(LaconicTrainer)))
    stored = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }
    ours = stored | {name for name in vars(LaconicTrainer) if not name.startswith("__")} - {*REPLACED, "_tag_names"}
    assert len(stored) > 10 and not ours & used


def syntax_hash(method: Callable[..., Any]) -> str:
    """Of the method's syntax tree without docstrings; the same under every version of Python."""
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(method)))
    return hashlib.blake2b(repr(_plain(ast.parse(source))).encode(), digest_size=6).hexdigest()


def _plain(node: Any) -> Any:
    """The tree as nested tuples. What is empty is left out: newer Pythons have fields that older ones lack."""
    if isinstance(node, list):
        return tuple(_plain(item) for item in node if not _is_text(item))
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = ((name, value) for name, value in ast.iter_fields(node) if value is not None and value != [])
    return type(node).__name__, *((name, _plain(value)) for name, value in fields)


def _is_text(node: Any) -> bool:
    """A docstring, or another statement that is nothing but a text."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
