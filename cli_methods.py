"""``laconic methods``: the list, and one of them in full."""

from __future__ import annotations

from typing import Annotated

import typer

from .cli_json import Json, print_json

methods_app = typer.Typer(invoke_without_command=True, rich_markup_mode=None)


@methods_app.callback()
def methods(context: typer.Context, as_json: Json = False) -> None:
    """List the methods: id, paper, stage, configuration.

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
    method: Annotated[str, typer.Argument(metavar="ID", help="An id that `laconic methods` lists.")],
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
