"""Commands of the ``laconic`` command that have commands of their own: ``rollout`` and ``methods``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from .cli_json import Json, print_json
from .errors import ConfigError


class TakesSettings(TyperCommand):
    """A command with ``KEY=VALUE`` settings, which says so when one is written as an option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        options = {option for param in self.params for option in param.opts}
        for argument in args:
            key, equals, value = argument.partition("=")
            if key.startswith("--") and key not in options and (setting := _setting(key[2:])):
                raise ConfigError(
                    f"{key} is no option but a setting, and settings have no dashes: "
                    f"{setting}={value if equals else '<value>'}"
                )
        return super().parse_args(ctx, args)


def _setting(word: str) -> str | None:
    """The dotted key that an unknown option means; None where it looks like none."""
    from dataclasses import fields

    from .train.settings import Settings

    key = word.replace("-", "_")
    return key if key.partition(".")[0] in {field.name for field in fields(Settings)} else None


class _SampleByDefault(TyperGroup):
    """``laconic rollout MODEL`` is ``laconic rollout sample MODEL``."""

    default = "sample"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args if args and args[0] in self.commands else [self.default, *args])


rollout_app = typer.Typer(cls=_SampleByDefault, rich_markup_mode=None, help="Sample rollouts and look at their trees.")
Html = Annotated[Path | None, typer.Option(help="Also write a self-contained page with trees that fold.")]


@rollout_app.command("sample", cls=TakesSettings)
def sample_rollouts(
    model: Annotated[str, typer.Argument(help="tiny-thinker, a folder, a Hub id, or runs/<name> of a training run.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings, as of `laconic train`.")
    ] = None,
    driver: Annotated[
        str | None, typer.Option(help="flat, treepo, eptree, delethink, summary, anytime, fork_join, budget_force.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings to begin with; default the run's, or configs/methods/<driver>.yaml.")
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(help="A name of `laconic tasks` or a JSONL/Parquet file; give it again for more."),
    ] = None,
    problems: Annotated[int, typer.Option("-n", "--problems", min=1, help="Test problems.")] = 4,
    html: Html = None,
    out: Annotated[Path | None, typer.Option(help="Also save the trees to this .parquet file.")] = None,
    as_json: Json = False,
) -> None:
    """Sample rollouts by a driver and draw their trees; `laconic rollout show FILE` opens saved ones again.

    \b
    Examples:
      laconic rollout tiny-thinker --driver treepo --task chain -n 4
      laconic rollout tiny-thinker --driver treepo rollout.group_size=8 rollout.driver.width=4 --html trees.html
      laconic rollout runs/mine --out trees.parquet
      laconic rollout show trees.parquet
      laconic rollout show runs/mine/rollouts/step-000010.parquet --html trees.html
    """
    from .train.rollout_command import sample

    result = sample(
        model,
        overrides or [],
        driver=driver,
        tasks=task or [],
        problems=problems,
        config=config,
        html=html,
        out=out,
        quiet=as_json,
    )
    if as_json:
        print_json(result)


@rollout_app.command("show")
def show_rollouts(
    file: Annotated[Path, typer.Argument(help="Of `laconic rollout --out`, or of runs/<name>/rollouts.")],
    first: Annotated[int | None, typer.Option("-n", "--first", min=1, help="Only so many groups.")] = None,
    html: Html = None,
    as_json: Json = False,
) -> None:
    """Draw the trees of a saved file.

    \b
    Examples:
      laconic rollout show trees.parquet
      laconic rollout show runs/mine/rollouts/step-000010.parquet -n 2 --html trees.html
    """
    from .train.rollout_command import show

    result = show(file, first=first, html=html, quiet=as_json)
    if as_json:
        print_json(result)


methods_app = typer.Typer(invoke_without_command=True, rich_markup_mode=None)


@methods_app.callback()
def methods(context: typer.Context, as_json: Json = False) -> None:
    """List the methods: id, stage, paper, and what each was measured to do.

    \b
    Examples:
      laconic methods
      laconic methods show dot
      laconic methods --json
    """
    if context.invoked_subcommand is not None:
        return
    from .train import methods as table

    if as_json:
        print_json([table.as_dict(method) for method in table.METHODS])
    else:
        table.print_table()


@methods_app.command("show")
def show_method(
    method: Annotated[str, typer.Argument(metavar="ID", help="An id that `laconic methods` lists, or module:Class.")],
    as_json: Json = False,
) -> None:
    """Print formula, settings with their defaults, traps and source of one method.

    \b
    Examples:
      laconic methods show dot
      laconic methods show kl_cov --json
    """
    from .train import methods as table

    chosen = table.find(method)
    if as_json:
        print_json(table.as_dict(chosen))
    else:
        table.print_method(chosen)
