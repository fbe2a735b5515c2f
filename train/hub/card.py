"""The model card: what the run's settings say, what was measured, and how to load it. No number is made up for it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ...eval.tasks import PROCEDURAL
from ...eval.tasks.benchmarks import BENCHMARKS
from ..methods import METHODS, STAGES
from ..settings import as_dict
from .card_tables import cost_rows, headline, how_measured, limits, rows
from .evidence import Evidence
from .trained_run import TrainedRun

TEMPLATE = "card.md.j2"
LICENCE_KEYS = ("license", "license_name", "license_link")
"""What a card says about the licence; a model trained from a base inherits it."""
_PLAIN_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast")


def render_card(run: TrainedRun, evidence: Evidence, repo: str, *, merged: bool, licence: Mapping[str, str]) -> str:
    """The text of ``README.md``: front matter for the Hub, then Markdown.

    repo: the repository's id. licence: the base's entries of ``LICENCE_KEYS``, empty where it is not known.
    """
    adapter = run.adapter is not None and not merged
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(TEMPLATE).render(
        front_matter=_front_matter(run, evidence, repo, adapter, licence),
        repo=repo,
        name=repo.rpartition("/")[2],
        adapter=adapter,
        merged=merged,
        lora=run.adapter,
        base=run.base_title,
        hub_base=run.hub_base,
        packaged=run.public_base is not None and run.hub_base is None,
        licence=licence,
        methods=list(_methods(run)),
        settings=run.settings,
        steps=run.steps,
        data=_data(run),
        time=_time(run),
        measured=[
            {
                "headline": headline(one),
                "rows": rows(one),
                "cost": cost_rows(one),
                "how": how_measured(one.summary),
                "compared": one.base is not None,
            }
            for one in evidence.measured
        ],
        limits=limits(run, evidence),
        tokenizer=_tokenizer_class(run),
        prompt=_prompt(run),
        chat=_chat(run),
    )


def _front_matter(run: TrainedRun, evidence: Evidence, repo: str, adapter: bool, licence: Mapping[str, str]) -> str:
    """What the Hub sorts and links by."""
    methods = [method["id"] for method in _methods(run) if method["id"]]
    header: dict[str, Any] = {key: licence[key] for key in LICENCE_KEYS if key in licence}
    if run.hub_base:
        header |= {"base_model": run.hub_base, "base_model_relation": "adapter" if adapter else "finetune"}
    header |= {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["laconic", "reasoning", "reinforcement-learning", *methods, *(["lora"] if run.adapter else [])],
    }
    datasets = [BENCHMARKS[name].hub for name in run.settings.task.names if name in BENCHMARKS]
    if datasets and run.settings.task.file is None:
        header["datasets"] = datasets
    results = [result for one in evidence.measured for result in _results(one.summary)]
    if results:
        header["model-index"] = [{"name": repo.rpartition("/")[2], "results": results}]
    return yaml.safe_dump(header, sort_keys=False, allow_unicode=True, width=120)


def _results(summary: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One entry of the model index per task."""
    for block in summary["tasks"]:
        samples = "" if block["k"] is None else f"@{block['k']}"
        yield {
            "task": {"type": "text-generation"},
            "dataset": {"name": block["task"], "type": block["task"]},
            "metrics": [
                {
                    "type": "accuracy",
                    "name": f"accuracy (avg{samples}), %",
                    "value": round(100 * block["accuracy"]["avg_at_k"]["value"], 2),
                },
                {"type": "tokens", "name": "tokens per answer", "value": round(block["tokens"]["mean"], 1)},
            ],
        }


def _methods(run: TrainedRun) -> Iterator[dict[str, str]]:
    """The methods that the settings chose: stage, name, paper, options."""
    known = {method.id: method for method in METHODS}
    for stage in STAGES:
        section: Any = as_dict(run.settings)
        for key in stage.split("."):
            section = section[key]
        name = section["name"]
        if name in ("none", "flat"):
            continue
        method = known.get(name)
        options = ", ".join(
            f"{key} {_shown(value)}" for key, value in section.items() if key != "name" and value is not None
        )
        yield {
            "stage": stage,
            "id": method.id if method else "",
            "title": method.title if method else name,
            "paper": method.paper if method else "",
            "options": options,
        }


def _data(run: TrainedRun) -> str:
    """The problems it was trained on, in words; a file by its name, not by where it lies."""
    task = run.settings.task
    if task.file is not None:
        return f"`{Path(task.file).name}`; answers judged by the verifier `{task.verifier}`"
    names = ", ".join(f"`{name}`" for name in task.names)
    if all(name in PROCEDURAL for name in task.names):
        return f"{names}: problems made by a program, whose test problems are others than those trained on"
    return ", ".join(
        f"`{name}` (`{BENCHMARKS[name].hub}`)" if name in BENCHMARKS else f"`{name}`" for name in task.names
    )


def _time(run: TrainedRun) -> str | None:
    """How long the steps took and on what."""
    taken = [sum(value for key, value in line.items() if key.startswith("seconds/") and value) for line in run.metrics]
    path = run.folder / "environment.json"
    if not taken or not path.is_file():
        return None
    machine = json.loads(path.read_text(encoding="utf-8"))
    gpus = [gpu["name"] for gpu in machine["gpus"]]
    where = f"{len(gpus)} x {gpus[0]}" if gpus else f"{machine['cpu']['cores']} cores ({machine['cpu']['model']})"
    minutes = sum(taken) / 60
    return f"{minutes:,.0f} minutes on {where}" if minutes >= 2 else f"{60 * minutes:,.0f} seconds on {where}"


def _tokenizer_class(run: TrainedRun) -> str:
    """``AutoTokenizer`` takes the class that is usual for the family, which misreads some plain tokenizers."""
    config = run.model / "tokenizer_config.json"
    chosen = json.loads(config.read_text(encoding="utf-8")).get("tokenizer_class") if config.is_file() else None
    return "PreTrainedTokenizerFast" if chosen in _PLAIN_TOKENIZERS else "AutoTokenizer"


def _prompt(run: TrainedRun) -> str:
    """A prompt in the form of the training's, as a Python literal."""
    task = run.settings.task
    example = "..."
    if task.file is None and task.names[0] in PROCEDURAL:
        example = str(PROCEDURAL[task.names[0]].problem("test", task.seed, 0).prompt)
    return json.dumps((task.template or "{prompt}").replace("{prompt}", example), ensure_ascii=False)


def _chat(run: TrainedRun) -> bool:
    """Whether the problems were asked through the model's chat template, as named sets are unless told otherwise."""
    task = run.settings.task
    named = task.file is None and not all(name in PROCEDURAL for name in task.names)
    return "messages" in task.columns or (named if task.chat is None else task.chat)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
