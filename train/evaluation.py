"""``laconic eval``: from a model's name and some options to an evaluation on disk and a table.

A run's folder brings its own problems, template and ``eval`` section; an option given on the command line wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError
from ..eval.settings import EvalConfig
from ..eval.tasks.load import load_problems, pool_verifiers, without_unusable
from ..eval.tasks.problem import Problem
from ..eval.tasks.settings import TaskSettings, chosen_tasks
from .adapter import check_reachable
from .hub.trained_run import check_up_to_date
from .settings import load_settings

EVALUATIONS = Path("runs") / "eval"
"""Where evaluations go when no folder is given."""
PROBLEMS = 200
"""Procedural test problems when nobody says how many."""


@dataclass(frozen=True)
class Subject:
    """What is evaluated and on what."""

    model: str
    name: str
    tasks: tuple[TaskSettings, ...]
    config: EvalConfig
    adapter: str | None = None
    """Merged into the model; None where the model is whole, or is itself an adapter's folder."""


def evaluate_model(
    model: str,
    tasks: Sequence[str] = (),
    *,
    adapter: str | None = None,
    options: dict[str, Any] | None = None,
    columns: Sequence[str] = (),
    template: str | None = None,
    verifier: str | None = None,
    data_dir: str | None = None,
    chat: bool | None = None,
    out: Path | None = None,
    cache: Path | None = None,
    name: str | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Evaluate and return the content of ``summary.json``.

    adapter: an adapter of ``model``: the folder of a run or of the adapter, or a Hub id. A run brings its settings.
    tasks: procedural families, named sets (``laconic tasks``) and JSONL or Parquet files; those of the run, or all
        families, if empty.
    options: fields of ``EvalConfig`` that differ; a None leaves the default.
    columns: ``field=column`` for files that name their columns differently.
    data_dir: folder with files of named sets; what is not there is loaded from the Hub.
    chat: ask through the chat template; None does for named sets only.
    cache: folder that keeps finished samples by the hash of weights, problems and settings.
    name: of the model in reports; by default that of its folder.

    Raises ``ConfigError`` for options that cannot work, ``DataError`` for unusable models and files.
    """
    changes: dict[str, Any] = {"template": template, "verifier": verifier, "columns": _mapping(columns) or None}
    changes |= {"data_dir": data_dir, "chat": chat}
    given = {key: value for key, value in changes.items() if value is not None}
    subject = _subject(model, adapter, tasks, options or {}, given)
    problems, names = _problems(subject)
    folder = out or EVALUATIONS / _folder_name(subject, names, len(problems))
    # Imported late, so that a mistyped option is refused before torch is loaded.
    from rich.progress import TimeRemainingColumn

    from ..eval.hardware import load_hardware
    from ..eval.run import evaluate
    from ..eval.tasks.prompt import encode_prompt
    from ..rewards.pool import VerifierPool
    from ..rollout.engines.protocol import Sampling
    from ..rollout.engines.transformers import TransformersEngine
    from .bars import sampling_bar
    from .load_model import load_model

    config, text = subject.config, subject.tasks[0].template
    policy, tokenizer = load_model(subject.model, adapter=subject.adapter)
    longest = max(len(encode_prompt(problem, tokenizer, text)) for problem in problems)
    engine = TransformersEngine(
        policy,
        [tokenizer.eos_token_id],
        max_live=config.max_live,
        max_context=longest + config.max_completion,
        kv_bytes=cache_room(policy.device),
        allowed_vocab=min(len(tokenizer), policy.config.get_text_config().vocab_size),
    )
    bar = sampling_bar("sampling", TimeRemainingColumn(), quiet=quiet)
    with VerifierPool(verifiers=pool_verifiers(problems)) as pool, bar:
        task = bar.add_task("sampling", total=None)
        result = evaluate(
            policy,
            tokenizer,
            without_unusable(problems, pool),
            engine=engine,
            pool=pool,
            k=config.k,
            sampling=Sampling(config.temperature, config.top_p, config.top_k),
            max_completion=config.max_completion,
            seed=config.seed,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            out_dir=folder,
            cache_dir=cache,
            template=text,
            hardware=load_hardware(config.profile, config.hardware_file),
            batches=config.batches,
            name=name or subject.name,
        )
    if not quiet:
        print_evaluation(result.summary, folder)
    return result.summary


def cache_room(device: Any) -> int | None:
    """Bytes that the key-value cache may take: most of a GPU's free memory, where a few dozen answers of a 7B model at
    32,768 tokens would fill it; no bound on a CPU."""
    import torch

    return int(0.8 * torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else None


def print_evaluation(summary: dict[str, Any], folder: Path) -> None:
    """The table for people."""
    from rich.console import Console

    from ..eval.tables import eval_table

    console = Console(highlight=False)
    console.print(eval_table(summary))
    console.print(
        f"written to {folder}\nnext: laconic compare {folder} <another evaluation>", markup=False, soft_wrap=True
    )


def _subject(
    model: str, adapter: str | None, tasks: Sequence[str], options: dict[str, Any], changes: dict[str, Any]
) -> Subject:
    check_reachable(model, adapter)
    folder = Path(adapter or model)
    name, task, config = folder.name, TaskSettings(), EvalConfig()
    if (folder / "config.yaml").is_file():
        run, finished = load_settings(folder / "config.yaml"), folder / "model"
        task, config = run.task, run.eval
        if not finished.is_dir():
            raise DataError(
                f"{folder} has no finished model yet; go on with laconic train {folder / 'config.yaml'}, or evaluate "
                f"one of the folders in {folder / 'checkpoints'}"
            )
        check_up_to_date(
            folder,
            f"go on with laconic train {folder / 'config.yaml'}, which writes it anew, or evaluate {finished} as it is",
        )
        model, adapter = (model, str(finished)) if adapter else (str(finished), None)
    task = replace(task, **changes)
    config = replace(config, **{key: value for key, value in options.items() if value is not None})
    return Subject(model, name, chosen_tasks(tasks, task, verifier=changes.get("verifier")), config, adapter)


def _problems(subject: Subject) -> tuple[list[Problem], list[str]]:
    problems: list[Problem] = []
    for task in subject.tasks:
        count = subject.config.problems
        problems += load_problems(task, "test", count if count or not task.procedural else PROBLEMS)
    return problems, list(dict.fromkeys(problem.source for problem in problems))


def _mapping(pairs: Sequence[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise ConfigError(f"--column {pair!r} is not of the form field=column, for example prompt=question")
    return dict(pair.split("=", 1) for pair in pairs)


def _folder_name(subject: Subject, names: Sequence[str], count: int) -> str:
    """Says what was measured, so that evaluations with other options get a folder of their own."""
    config = subject.config
    parts = [subject.name, "-".join(names), f"n{count}", f"k{config.k}", f"t{config.temperature:g}"]
    parts += [f"p{config.top_p:g}"] if config.top_p < 1 else []
    parts += [f"top{config.top_k}"] if config.top_k else []
    return "-".join((*parts, f"c{config.max_completion}", f"s{config.seed}"))
