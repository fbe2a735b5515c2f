"""Every kernel beside its strongest peers: ``python benchmarks/kernels_run.py --device cuda``.

Time (median, lowest, highest), peak memory and the fraction of the machine's floor, sides in turns, random inputs, L2
cache flushed. Results are compared first and in the same run: who computes something else gets no time. What a peer
that is not installed would need is printed as not measured. Results are written after each part, and a part that fails
costs its own figures only. On a CPU sizes are tiny and nothing is written: it shows that the benchmarks run.

All figures are findings: `make claims` has to hold on machines without a GPU. The table names each one's bar.

The file is not called kernels.py, because a script's folder comes first on ``sys.path``, and beside a module of that
name no script here could import transformers, which needs the Hugging Face package ``kernels``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import time
import traceback
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch

from laconic.benchmarks.claim import Claim, write_claims
from laconic.benchmarks.gpu_bars import gpu_bars, verdict
from laconic.kernels.dispatch import VARIABLE


def head(device: str) -> tuple[list[Claim], dict[str, Any]]:
    from laconic.benchmarks.kernels_head import measure

    return measure(device)


def decode(device: str) -> tuple[list[Claim], dict[str, Any]]:
    from laconic.benchmarks.kernels_decode import measure

    return measure(device)


def attention(device: str) -> tuple[list[Claim], dict[str, Any]]:
    from laconic.benchmarks.kernels_attn import measure

    return measure(device)


PARTS: dict[str, Callable[[str], tuple[list[Claim], dict[str, Any]]]] = {
    "decode": decode, "head": head, "attention": attention,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this one (may be given again); prints")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda, but torch finds no GPU; use --device cpu")
    if given.device == "cuda":
        # Else a kernel that fails its trial would be replaced, and its replacement timed.
        os.environ.setdefault(VARIABLE, "triton")
    claims: list[Claim] = []
    details: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for part in given.part or PARTS:
        started = time.perf_counter()
        try:
            found, figures = PARTS[part](given.device)
        except (Exception, SystemExit) as problem:
            traceback.print_exc()
            failed[part] = f"{type(problem).__name__}: {problem}"
        else:
            print_figures(figures)
            claims += [{**claim, "kind": "finding"} for claim in found]
            details |= figures
        print(f"[{part}: {time.perf_counter() - started:.0f} s]", flush=True)
        if given.device == "cuda" and not given.part:
            more = {"versions": versions(), "cases": details, "failed": failed}
            write_claims("kernels_cuda", "python benchmarks/kernels_run.py --device cuda", claims, more)
    print_claims(claims)
    if failed:
        raise SystemExit(f"failed: {failed}")


def print_figures(details: dict[str, Any]) -> None:
    """One line per side: milliseconds, memory, and the share of the floor."""
    for case, figures in details.items():
        bound = f", bound by {figures['bound']}" if "bound" in figures else ""
        print(f"\n{case}: floor {figures['floor_ms']:.4g} ms{bound}")
        for side, of in figures["sides"].items():
            memory = "" if of["peak_gib"] is None else f"{of['peak_gib']:8.3f} GiB"
            spread = f"[{of['lowest']:.4g}, {of['highest']:.4g}]"
            share = figures["floor_ms"] / of["ms"]
            print(f"  {side:<26} {of['ms']:10.4g} ms {spread:<20} {memory}  {share:.2f} of the floor")
        for peer, why in figures.get("absent", {}).items():
            print(f"  {peer:<26} not measured: {why}")
        print("  errors: " + ", ".join(f"{name} {error:.1e}" for name, error in figures["errors"].items()))


def print_claims(claims: list[Claim]) -> None:
    """Each figure beside its bar."""
    print()
    for claim in claims:
        bar = verdict(claim["id"], claim["value"])
        print(f"{claim['id']:<28} {claim['value']:10.4g}  {bar:<24} {claim['peer'] or ''}")
    measured = {claim["id"] for claim in claims}
    for name, of in gpu_bars().items():
        if of["script"] == "kernels_run" and name not in measured:
            print(f"{name:<28} not measured")


def versions() -> dict[str, str | None]:
    """Of what a result file doesn't name by itself."""
    return {"triton": _version("triton"), "driver": _driver(), "kernels": os.environ.get(VARIABLE)}


def _driver() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    return answer.stdout.strip().replace("\n", ", ") or None


def _version(package: str) -> str | None:
    if find_spec(package) is None:
        return None
    from importlib.metadata import version

    return version(package)


if __name__ == "__main__":
    main()
