"""``laconic rollout``: sample some problems by a driver and look at the trees; ``show`` opens saved ones again.

Settings come from a configuration of training: the one given, that of a run's folder, or the one that
``configs/methods`` has for the driver. What a step of training would sample is what is drawn.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError
from ..eval.tasks.load import check_ids, load_problems, pool_verifiers, without_unusable
from ..eval.tasks.problem import Problem
from ..eval.tasks.settings import chosen_tasks
from ..rollout.drivers import DRIVERS
from ..rollout.records import Rollout, prompt_group
from ..rollout.savings import answer_leaves
from .adapter import check_reachable
from .settings import PACKAGE, Settings, load_settings, to_yaml
from .settings_io import name_of

METHODS = PACKAGE / "configs" / "methods"
CONTROL = METHODS / "grpo.yaml"
"""Settings where neither a configuration nor the driver has any."""
STEP = 2**31 - 1
"""No step of training, so that its answers are not repeated; an evaluation has the same."""


def sample(
    model: str,
    overrides: Sequence[str] = (),
    *,
    driver: str | None = None,
    tasks: Sequence[str] = (),
    problems: int = 4,
    config: Path | None = None,
    html: Path | None = None,
    out: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """What ``laconic rollout MODEL`` does; returns what ``--json`` prints.

    overrides: ``key=value`` settings that replace the configuration's.
    problems: test problems of each kind of task.

    Raises:
        ConfigError: settings or file names that cannot work.
        DataError: unusable model or data.
    """
    _check_names(html, out)
    settings = _settings(model, overrides, driver, config)
    chosen = chosen_tasks(tasks, settings.task)
    found = [problem for task in chosen for problem in load_problems(task, "test", problems)[:problems]]
    check_ids(found)
    check_reachable(settings.model)
    # Imported late, so that a mistyped option is refused before torch is loaded.
    from ..rewards.pool import VerifierPool
    from .load_model import load_model
    from .rollout_log import write_groups

    policy, tokenizer = load_model(settings.model)
    with VerifierPool(verifiers=pool_verifiers(found)) as pool:
        found = without_unusable(found, pool)
        saved = _sampled(settings, policy, tokenizer, found, chosen[0].template, pool, quiet)
    if out is not None:
        write_groups(out, saved, tokenizer)
    title = f"{model}, {name_of(settings.rollout.driver, DRIVERS)}"
    return _shown(saved, title, to_yaml(settings), html, out, quiet)


def show(file: Path, *, first: int | None = None, html: Path | None = None, quiet: bool = False) -> dict[str, Any]:
    """What ``laconic rollout show`` does; returns what ``--json`` prints. ``first``: only so many groups."""
    _check_names(html, None)
    from .rollout_log import read_groups

    return _shown(read_groups(file)[:first], str(file), "", html, None, quiet)


def _settings(model: str, overrides: Sequence[str], driver: str | None, config: Path | None) -> Settings:
    """The configuration with model and driver put in; overrides win."""
    named = METHODS / f"{driver}.yaml"
    finished = Path(model) / "model"
    if (Path(model) / "config.yaml").is_file():
        config = config or Path(model) / "config.yaml"
        if not finished.is_dir():
            raise DataError(
                f"{model} has no finished model yet; go on with laconic train {config}, or give one of the folders in "
                f"{Path(model) / 'checkpoints'}"
            )
        model = str(finished)
    chosen = [] if driver is None else [f"rollout.driver.name={json.dumps(driver)}"]
    source = config or (named if named.is_file() else CONTROL)
    return load_settings(source, [f"model={json.dumps(model)}", *chosen, *overrides])


def _sampled(
    settings: Settings,
    policy: Any,
    tokenizer: Any,
    problems: Sequence[Problem],
    template: str | None,
    pool: Any,
    quiet: bool,
) -> list[Any]:
    from rich.progress import TextColumn

    from ..eval.tasks.prompt import encode_prompt
    from ..rollout.scheduler import run_groups
    from .bars import sampling_bar
    from .experience import judge
    from .rollout_log import Outcome, with_texts
    from .run import engine_maker

    prompts = [encode_prompt(problem, tokenizer, template) for problem in problems]
    rollout = replace(settings.rollout, max_prompt=max(map(len, prompts)))
    engine = engine_maker(replace(settings, rollout=rollout), tokenizer)(policy)
    driver = rollout.driver.with_tokenizer(tokenizer) if hasattr(rollout.driver, "with_tokenizer") else rollout.driver
    groups = [prompt_group(i, problem.id, ids) for i, (problem, ids) in enumerate(zip(problems, prompts, strict=True))]
    with sampling_bar("groups", TextColumn("{task.fields[rate]}"), quiet=quiet, transient=True) as bar:
        task, since, decoded = bar.add_task("groups", total=len(groups), rate=""), time.perf_counter(), 0

        def progress(tokens: int, finished: int) -> None:
            nonlocal decoded
            decoded += tokens
            rate = decoded / max(time.perf_counter() - since, 1e-3)
            bar.update(task, advance=finished, rate=f"{rate:,.0f} tok/s")

        groups = run_groups(driver, engine, groups, seed=settings.seed, step=STEP, progress=progress)
    # Training asks about the last leaf of a rollout only; here somebody looks at all answers.
    apart = [group.replace(rollouts=tuple(Rollout((leaf.id,)) for leaf in group.leaves)) for group in groups]
    judgements = iter(judge(apart, {problem.id: problem for problem in problems}, tokenizer, pool.judge).judgement_N)
    saved = []
    for group, problem in zip(groups, problems, strict=True):
        answers = {leaf for rollout in group.rollouts for leaf in answer_leaves(group, rollout)}
        outcomes = [
            Outcome(str(one.verdict), one.extracted) if leaf.id in answers else Outcome()
            for leaf, one in zip(group.leaves, judgements, strict=False)
        ]
        saved.append(with_texts(group, outcomes, problem, tokenizer))
    return saved


def _shown(
    saved: Sequence[Any], title: str, settings: str, html: Path | None, out: Path | None, quiet: bool
) -> dict[str, Any]:
    """Draw the groups, write the page, and say it all in plain data."""
    from rich.console import Console

    from .rollout_page import write_page
    from .rollout_view import as_dict, print_rollouts, totals_of

    if html is not None:
        write_page(html, saved, title=title, settings=settings)
    if not quiet:
        console = Console(highlight=False)
        print_rollouts(saved, console)
        for path, after in ((html, ""), (out, f"\nnext: laconic rollout show {out}")):
            if path is not None:
                console.print(f"written to {path}{after}", markup=False, soft_wrap=True)
    files = {"html": None if html is None else str(html), "out": None if out is None else str(out)}
    return {"totals": totals_of(saved).as_dict(), "groups": [as_dict(one) for one in saved], **files}


def _check_names(html: Path | None, out: Path | None) -> None:
    for option, path, suffix in (("--html", html, ".html"), ("--out", out, ".parquet")):
        if path is not None and path.suffix != suffix:
            raise ConfigError(f"{option} {path} is a file to write; give a name that ends in {suffix}")
