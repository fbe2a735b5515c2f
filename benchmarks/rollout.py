"""What rollouts that share, cut and bound their thought save: ``python benchmarks/rollout.py``.

    trees      ``rollout_trees.py``     segment trees against flat sampling, and what the scheduler costs
    lengths    ``rollout_lengths.py``   what ``anytime`` computes twice, and how ``delethink`` grows
    vllm       ``rollout_vllm.py``      the embedded engine against vLLM, and segment trees on vLLM

All parts belong to one result file, so all are run, and vLLM must be there: a file with fewer claims would pass for a
whole one. ``--part`` runs some and ``--quick`` all on sizes too small to mean anything; both only print.

With ``--device cuda`` trees and lengths are findings, in ``results/rollout_cuda.json``; vLLM is left out, because it is
its CPU build that we compare with.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from laconic.benchmarks import rollout_lengths, rollout_trees, rollout_vllm
from laconic.benchmarks.claim import Claim, write_claims
from laconic.errors import ConfigError
from laconic.rollout.engines.vllm_version import require_vllm

Part = Callable[[bool], tuple[list[Claim], dict[str, Any]]]
PARTS: dict[str, Part] = {
    "trees": rollout_trees.claims,
    "lengths": rollout_lengths.claims,
    "vllm": rollout_vllm.claims,
}
ON_GPU: dict[str, Part] = {
    "trees": partial(rollout_trees.claims, device="cuda"),
    "lengths": partial(rollout_lengths.claims, device="cuda"),
}


def main() -> None:
    """Run the parts, write their claims into one file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=PARTS, help="only this one (may be given again); prints")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs; prints")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    given = parser.parse_args()
    on_gpu = given.device == "cuda"
    parts = ON_GPU if on_gpu else PARTS
    chosen = given.part or list(parts)
    if "vllm" in chosen and on_gpu:
        parser.error("--part vllm is a comparison with vLLM's CPU build; leave out --device cuda")
    if "vllm" in chosen:
        try:
            require_vllm()
        except ConfigError as error:
            sys.exit(
                f"nothing measured: {error}; without it, --part {' --part '.join(p for p in PARTS if p != 'vllm')}"
            )
    found: list[Claim] = []
    details: dict[str, Any] = {}
    for part in chosen:
        claims, details[part] = parts[part](given.quick)
        claims = [_finding(claim) for claim in claims] if on_gpu else claims
        for claim in claims:
            print(f"{claim['id']}: {claim['value']:.4g}, spread {claim['spread']}, equal {claim['equal']}", flush=True)
        found += claims
    if given.part or given.quick:
        print(json.dumps(details, indent=2))
        return
    name, option = ("rollout_cuda", " --device cuda") if on_gpu else ("rollout", "")
    print(write_claims(name, f"python benchmarks/rollout.py{option}", found, details))


def _finding(claim: Claim) -> Claim:
    """What was measured on a GPU has a name of its own and no bar."""
    return {**claim, "id": f"{claim['id']}_cuda", "kind": "finding"}


if __name__ == "__main__":
    main()
