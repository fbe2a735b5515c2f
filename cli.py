"""The ``laconic`` command. Heavy things are imported inside a command only, so that ``--help`` answers at once.

Exit status: 0 on success, 2 on wrong usage (a bad setting included), 1 when a run, file or check fails, 130 after
Ctrl-C. A mistake a user can mend is one line on stderr, without a traceback.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .cli_groups import TakesSettings, methods_app, rollout_app
from .cli_json import Json, json_option, print_json, stdout
from .errors import ConfigError, LaconicError


class _Commands(TyperGroup):
    """Turns the errors of a command into messages and exit statuses."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except LaconicError as error:
            typer.secho(f"error: {error}", err=True, fg=typer.colors.RED)
            raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from error
        except KeyboardInterrupt as interrupt:
            typer.secho(str(interrupt) or "stopped", err=True)
            raise typer.Exit(130) from interrupt


# Rich is for tables and progress bars; help pages without it come up in half the time.
app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(rollout_app, name="rollout")
app.add_typer(methods_app, name="methods")


@app.callback()
def laconic() -> None:
    """Make a reasoning model brief with reinforcement learning, and prove that it kept its accuracy.

    \b
    Start with:
      laconic demo
      laconic train configs/quickstart.yaml --dry-run
      laconic methods
    """


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the run, the evaluations and the report.")] = Path("runs/demo"),
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="First re-make the tiny thinker's weights (takes long).")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train the tiny thinker to be brief and compare it with itself before: minutes on a CPU.

    \b
    Examples:
      laconic demo
      laconic demo --out runs/mine --json
    """
    from .demo import run_demo

    summary = run_demo(out, from_scratch=from_scratch, quiet=as_json)
    if as_json:
        print_json(summary)


@app.command(cls=TakesSettings)
def train(
    config: Annotated[Path, typer.Argument(help="YAML file; configs/ of the package is searched, too.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings that replace the file's.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and say what would be done, then stop.")] = False,
    as_json: Json = False,
) -> None:
    """Train a model; the same command continues a run that was stopped. Results go to runs/<name>/.

    \b
    Examples:
      laconic train configs/quickstart.yaml
      laconic train configs/methods/dot.yaml truncation.alpha=2 optim.lr=3e-4 name=dot-2
      laconic train configs/methods/dot.yaml credit.name=dr_grpo --dry-run
      accelerate launch -m laconic.train configs/methods/dot.yaml
    """
    from .train.start import start

    result = start(config, overrides or [], dry_run=dry_run, quiet=as_json)
    if as_json and os.environ.get("RANK", "0") == "0":  # of several ranks the first one speaks
        print_json(result)


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Argument(help="tiny-thinker, a folder, a Hub id, or runs/<name> of a training run.")],
    adapter: Annotated[
        str | None, typer.Option(help="LoRA adapter of MODEL: runs/<name>, the adapter's folder or its Hub id.")
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(help="A name of `laconic tasks` or a JSONL/Parquet file; give it again for more."),
    ] = None,
    problems: Annotated[
        int | None, typer.Option("-n", "--problems", help="Test problems, shared by the procedural families.")
    ] = None,
    samples: Annotated[int | None, typer.Option("-k", "--samples", help="Answers per problem; default 4.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy; default 1.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Mass of the words sampled from; default 1, all of them.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Most probable words sampled from; default 0, all of them.")] = None,
    max_completion: Annotated[int | None, typer.Option(help="Longest answer in tokens; default 640.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the sampled tokens.")] = None,
    profile: Annotated[str | None, typer.Option(help="Machine the cost is computed for; default h100-sxm.")] = None,
    column: Annotated[list[str] | None, typer.Option(help="FIELD=COLUMN where a file names it differently.")] = None,
    template: Annotated[str | None, typer.Option(help="Text around each problem, with {prompt} in it.")] = None,
    verifier: Annotated[
        str | None,
        typer.Option(help="Judges answers: exact, number, math_eval, module:function; named tasks have one."),
    ] = None,
    data_dir: Annotated[
        str | None, typer.Option(help="Folder with files of named tasks, such as math500.jsonl; else from the Hub.")
    ] = None,
    chat: Annotated[
        bool | None, typer.Option("--chat/--no-chat", help="Ask through the chat template; default: named tasks do.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the result; default below runs/eval/.")] = None,
    as_json: Json = False,
) -> None:
    """Measure accuracy with intervals, tokens and cost of one model; report.html shows them.

    \b
    Examples:
      laconic eval tiny-thinker --task chain
      laconic eval tiny-thinker --adapter runs/lora --task chain
      laconic eval runs/dot --task chain --task search -n 400 -k 8 --out runs/eval/dot
      laconic eval Qwen/Qwen3-0.6B --task math500 --task aime24 --temperature 0.6 --top-p 0.95 \\
          --max-completion 32768
      laconic eval Qwen/Qwen2.5-0.5B --task gsm8k_test.jsonl --column prompt=question --column gold=answer \\
          --verifier number --max-completion 2048 --json
    """
    from .eval.commands import report_evaluation
    from .train.evaluation import EVALUATIONS, evaluate_model

    options = dict(problems=problems, k=samples, temperature=temperature, max_completion=max_completion, seed=seed)
    summary = evaluate_model(
        model,
        task or [],
        adapter=adapter,
        options={**options, "top_p": top_p, "top_k": top_k, "profile": profile},
        columns=column or [],
        template=template,
        verifier=verifier,
        data_dir=data_dir,
        chat=chat,
        out=out,
        quiet=as_json,
    )
    report_evaluation(out or EVALUATIONS / summary["run_id"], quiet=as_json)
    if as_json:
        print_json(summary)


@app.command()
def serve(
    model: Annotated[str, typer.Argument(help="tiny-thinker, a folder or a Hub id.")],
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 8000,
    max_context: Annotated[int | None, typer.Option(help="Longest prompt plus answer; default the model's.")] = None,
    max_live: Annotated[int, typer.Option(help="Sequences decoded at a time.")] = 256,
) -> None:
    """Run a vLLM server on this machine for training with rollout.engine=vllm_server; Ctrl-C ends it.

    \b
    Examples:
      laconic serve tiny-thinker --max-context 1024
    """
    from .train.serve import serve_model

    serve_model(model, port, max_context=max_context, max_live=max_live)


@app.command()
def compare(
    base: Annotated[Path, typer.Argument(help="Folder of the evaluation to compare against.")],
    new: Annotated[Path, typer.Argument(help="Folder of the evaluation in question.")],
    html: Annotated[Path | None, typer.Option(help="Also write a self-contained report to this file.")] = None,
    margin: Annotated[float, typer.Option(help="Accuracy loss that still counts as none; 0.01 is a point.")] = 0.01,
    allow_different: Annotated[
        bool, typer.Option("--allow-different", help="Compare in spite of different settings.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare two evaluations problem by problem: accuracy difference and token ratio with intervals.

    \b
    Examples:
      laconic compare runs/eval/base runs/eval/dot
      laconic compare runs/eval/base runs/eval/dot --html report.html
      laconic compare runs/eval/base runs/eval/dot --margin 0.02 --json
    """
    from .eval.commands import compare_folders

    comparison = compare_folders(base, new, margin=margin, html=html, allow_different=allow_different, quiet=as_json)
    if as_json:
        print_json(comparison)


@app.command()
def cost(
    model: Annotated[str, typer.Argument(help="A packaged name, a folder or config.json, or a Hub id.")],
    prompt: Annotated[int, typer.Option(help="Tokens of the prompt.")] = 200,
    completion: Annotated[int, typer.Option(help="Tokens of the answer, thought included.")] = 4000,
    batch: Annotated[
        list[int] | None, typer.Option(help="Answers at a time; again for more. Default 1 and 64.")
    ] = None,
    profile: Annotated[str, typer.Option(help="A machine of eval/hardware.yaml.")] = "h100-sxm",
    hardware: Annotated[Path | None, typer.Option(help="YAML file with machines of your own.")] = None,
    as_json: Json = False,
) -> None:
    """Price an answer by arithmetic: parameters, FLOPs, bytes and roofline time on a named machine.

    \b
    Examples:
      laconic cost Qwen/Qwen2.5-1.5B
      laconic cost Qwen/Qwen2.5-1.5B --completion 1000 --batch 1 --batch 256
      laconic cost my-model/config.json --profile h200-sxm --json
    """
    from .train.cost_command import cost_of, print_cost

    priced = cost_of(model, prompt, completion, tuple(batch or (1, 64)), profile, hardware)
    if as_json:
        print_json(priced)
    else:
        print_cost(priced)


@app.command()
def grade(
    file: Annotated[Path, typer.Argument(help="JSONL or Parquet with gold and response, perhaps truncated, verifier.")],
    policy: Annotated[
        str, typer.Option(help="strict, as in training, or eval: also bare answers, Answer: and ####.")
    ] = "strict",
    verifier: Annotated[
        str | None, typer.Option(help="Of lines that name none; default is the policy's, math or math_eval.")
    ] = None,
    as_json: Annotated[bool, json_option("One JSON object per line instead of a table.")] = False,
) -> None:
    """Judge answers: right, wrong, unreadable or truncated, with what was extracted and why.

    \b
    Examples:
      laconic grade answers.jsonl
      laconic grade answers.jsonl --policy eval --json > verdicts.jsonl
      laconic grade samples.parquet --verifier my_module:judge
    """
    from .rewards.grade import grade_file

    tally = grade_file(file, policy=policy, verifier=verifier, as_json=as_json, out=stdout.json)
    if tally.alarms:
        typer.echo(
            f"{tally.alarms} lines were given up (timeout, crashed); they count as wrong, see their reasons", err=True
        )
    for warning in tally.golds[:20]:
        typer.echo(f"warning: {warning}", err=True)
    if len(tally.golds) > 20:
        typer.echo(f"warning: and {len(tally.golds) - 20} more answers to golds that cannot be read", err=True)
    for error in tally.errors[:20]:
        typer.secho(f"error: {error}", err=True, fg=typer.colors.RED)
    if len(tally.errors) > 20:
        typer.secho(f"error: and {len(tally.errors) - 20} more unusable lines", err=True, fg=typer.colors.RED)
    if tally.errors:
        raise typer.Exit(1)


@app.command()
def tasks(
    samples: Annotated[
        int | None, typer.Option("-k", "--samples", help="Answers per problem; default each usual.")
    ] = None,
    data_dir: Annotated[str | None, typer.Option(help="Folder with files of named sets, counted and compared.")] = None,
    overlap: Annotated[
        tuple[str, str] | None, typer.Option(metavar="A B", help="Names or files: list what A has in common with B.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the tasks: size, licence, levels, and the accuracy difference each can certify.

    \b
    Examples:
      laconic tasks
      laconic tasks -k 64 --json
      laconic tasks --overlap mine.jsonl math500 --data-dir data
    """
    from .eval.tasks import listing

    if overlap is None:
        rows = listing.task_rows(samples, data_dir)
        if as_json:
            print_json(rows)
        else:
            listing.print_tasks(rows)
        return
    report = listing.overlap_report(*overlap, data_dir)
    if as_json:
        print_json(report)
    else:
        listing.print_overlap(report)
    if report["pairs"]:
        raise typer.Exit(1)


@app.command()
def merge(
    run: Annotated[str, typer.Argument(help="Finished LoRA run, one of its checkpoints, adapter folder or Hub id.")],
    out: Annotated[Path, typer.Option(help="Folder to make for the whole model.")],
    base: Annotated[
        str | None, typer.Option(help="Base model by name, folder or Hub id; default: the one the adapter names.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Merge a LoRA adapter into its base and write a whole model, as any transformers program loads it.

    \b
    Examples:
      laconic merge runs/lora --out my-model
      laconic merge runs/lora --out my-model --base Qwen/Qwen2.5-0.5B --json
    """
    from .train.adapter import merge as merge_adapter

    model = merge_adapter(run, out, base)
    if as_json:
        print_json({"model": str(model)})
    else:
        typer.echo(f"model: {model}\nnext: laconic eval {model}")


@app.command()
def push(
    run: Annotated[Path, typer.Argument(help="Folder of a finished training run: runs/<name>.")],
    repo: Annotated[str, typer.Option(help="Repository on the Hub: user/name, or name for your own.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    merged: Annotated[bool, typer.Option("--merged", help="Merge the adapter into its base and push that.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the model card and the files, then stop.")] = False,
    as_json: Json = False,
) -> None:
    """Push a run's model or adapter to the Hugging Face Hub, with a model card of what was measured.

    \b
    Examples:
      laconic push runs/dot --repo my-brief-model --dry-run
      laconic push runs/dot --repo my-brief-model --private
      laconic push runs/lora --repo me/my-brief-model --merged --json
    """
    from .train.hub.push import push_run

    result = push_run(run, repo, private=private, merge=merged, dry_run=dry_run, quiet=as_json)
    if as_json:
        print_json(result)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check this machine: versions, devices, verifiers, agreement of engine and trainer, disk and memory.

    \b
    Examples:
      laconic doctor
      laconic doctor --json
    """
    from .train.doctor import examine, print_checks

    checks = examine()
    if as_json:
        print_json([vars(check) for check in checks])
    else:
        print_checks(checks)
    if not all(check.passed for check in checks):
        raise typer.Exit(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the ``laconic`` script; ``arguments`` defaults to the command line's."""
    app(list(arguments) if arguments is not None else None, prog_name="laconic")
