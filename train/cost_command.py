"""``laconic cost``: what an answer of a model costs on a machine, from its config.json and the data sheet alone.

The formulas are those of ``eval/cost.py``. Nothing is loaded and nothing measured: a plan, or a check of one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..eval.cost import decode_flops, linear_costs, max_concurrency, prefill_flops, step_time
from ..eval.hardware import load_hardware
from ..eval.model_spec import ModelSpec
from .model_config import Config, model_config
from .model_files import read_json


def cost_of(
    model: str,
    prompt: int = 200,
    completion: int = 4000,
    batches: tuple[int, ...] = (1, 64),
    profile: str = "h100-sxm",
    hardware_file: Path | None = None,
) -> dict[str, Any]:
    """Size of the model, and the cost of one answer of ``completion`` tokens to a prompt of ``prompt``.

    Weights and cache are priced in bfloat16. ``batches``: by answers decoded at a time, the time of a step in the
    middle of the answer, the tokens per second of all, GPU-seconds of each, and whether their cache fits.

    Raises ``ConfigError`` for lengths, batches or machines that cannot be, ``DataError`` for a model without a
    configuration that can be read.
    """
    for name, value in {"prompt": prompt, "completion": completion, **{f"batch {b}": b for b in batches}}.items():
        if value < 1:
            raise ConfigError(f"--{name.split()[0]} is {value} but must be at least 1; raise it")
    spec, machine = ModelSpec.from_config(_config(model)), load_hardware(profile, hardware_file)
    costs = linear_costs(spec, machine, prompt, completion, batches)
    most = max_concurrency(spec, machine, prompt + completion)

    def at(batch: int) -> dict[str, Any]:
        seconds = step_time(spec, machine, batch, prompt + completion / 2)
        return {
            "step_s": seconds,
            "tokens_per_s": batch / seconds,
            "gpu_s": float(costs.gpu_s(batch)[0]),
            "fits": batch <= most,
        }

    return {
        "model": model,
        "parameters": spec.parameters,
        "parameters_active": spec.parameters_active,
        "weight_bytes": spec.stored_bytes,
        "kv_bytes_per_token": spec.kv_bytes_per_token,
        "hardware": machine.label,
        "prompt": prompt,
        "completion": completion,
        "flops": {
            "prefill": float(prefill_flops(spec, prompt)),
            "decode": float(decode_flops(spec, completion - 1, prompt)),
        },
        "kv_read_bytes": float(costs.kv_read[0]),
        "kv_held_bytes": float(costs.peak_kv[0]),
        "latency_s": float(costs.latency[0]),
        "most_at_a_time": most,
        "batches": {str(batch): at(batch) for batch in batches},
    }


def print_cost(priced: dict[str, Any]) -> None:
    """The same for people."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    active, total = priced["parameters_active"], priced["parameters"]
    console.print(
        f"{priced['model']}: {total:,} parameters{f', {active:,} of them active' if active != total else ''}, "
        f"{_bytes(priced['weight_bytes'])} in bfloat16, {_bytes(priced['kv_bytes_per_token'])} of cache per token",
        markup=False,
    )
    flops = priced["flops"]
    console.print(
        f"an answer of {priced['completion']:,} tokens to a prompt of {priced['prompt']:,}: "
        f"{flops['prefill'] / 1e12:,.3g} + {flops['decode'] / 1e12:,.3g} TFLOP (prefill + decode), "
        f"{_bytes(priced['kv_read_bytes'])} of cache read, {_bytes(priced['kv_held_bytes'])} held at the end, "
        f"{priced['latency_s']:.3g} s alone on {priced['hardware']}",
        markup=False,
    )
    table = Table("at a time", box=None, pad_edge=False)
    for title in ("step", "tokens/s", "GPU-seconds each", "fits"):
        table.add_column(title, justify="right")
    for batch, row in priced["batches"].items():
        fits = "yes" if row["fits"] else f"no, {priced['most_at_a_time']:,} do"
        table.add_row(
            batch, f"{1e3 * row['step_s']:.3g} ms", f"{row['tokens_per_s']:,.0f}", f"{row['gpu_s']:.3g}", fits
        )
    console.print(table)
    console.print("computed from sizes and a data sheet, not measured")


def _config(model: str) -> Config:
    if Path(model).is_file():
        return read_json(Path(model))
    found = model_config(model)
    if found is None:
        from .hub.download import explained

        with explained(model):
            from huggingface_hub import hf_hub_download

            found = read_json(Path(hf_hub_download(model, "config.json")))
    return found


def _bytes(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.3g} {unit}"
    return f"{count:,.0f} B"
