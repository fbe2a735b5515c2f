"""Compile kernels, as for bfloat16 on an H200: ``python tests/compile_kernels.py [NAME ...]``, by default all.

Prints the name of each and the shared memory of a block in bytes.
"""

from __future__ import annotations

import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from laconic.kernels.cascade_decode import triton_decode
from laconic.kernels.fused_logprob import triton_fold
from laconic.kernels.merge_lse import triton_merge
from laconic.kernels.pg_loss import triton_loss
from laconic.kernels.tree_attn import fused, triton_bwd, triton_fwd

Form = tuple[Any, dict[str, str], dict[str, Any], dict[str, int]]
"""A kernel, the types of its arguments (other ``..._ptr`` are float32, others int32), its constants and options."""
STRIDES = ("q_row", "q_head", "k_page", "k_token", "k_head", "v_page", "v_token", "v_head")
"""Of the decode kernel."""


def compiled(kernel: Any, types: dict[str, str], constants: dict[str, Any], options: dict[str, int]) -> int:
    """Shared memory of a block; pointers and strides are multiples of 16, as those of torch's tensors are."""
    signature, attributes = {}, {}
    for index, argument in enumerate(kernel.arg_names):
        usual = "*fp32" if argument.endswith("_ptr") else "i32"
        kind = signature[argument] = "constexpr" if argument in constants else types.get(argument, usual)
        if kind.startswith("*") or argument.startswith("stride") or argument in STRIDES:
            attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constexprs=constants, attrs=attributes)
    shared: int = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).metadata.shared
    return shared


def head_and_loss() -> dict[str, Form]:
    numbers = ("low", "high", "ceiling", "beta_low", "beta_high", "cap", "tau_pos", "tau_neg")
    numbers += ("kl_weight", "entropy_weight", "importance_cap")
    flags = dict(GAIN=2, KL=3, CORRECTED=True, IMPORTANCE=True, ENTROPY=True, LIMIT=20.0, COUNTS=16, BLOCK=1024)
    head = dict(factor="fp32", inner="fp32", outer="fp32", targets_ptr="*i64", out_ptr="*bf16")
    fold, both = dict(CAPPED=True, BLOCK=4096), dict(BY_LOGP=True, BY_ENTROPY=True)
    return {
        "loss": (triton_loss._kernel, dict.fromkeys(numbers, "fp32"), flags, {}),
        "fold": (triton_fold._forward_kernel, head, fold, dict(num_warps=8)),
        "fold-backward": (triton_fold._backward_kernel, head, fold | both, dict(num_warps=8)),
    }


def decode_and_merge() -> dict[str, Form]:
    half = dict.fromkeys(("o1_ptr", "o2_ptr", "o_ptr", "do_ptr", "do1_ptr", "do2_ptr"), "*bf16")
    lists = dict.fromkeys(("items_ptr", "pages_ptr", "query_ptr", "merge_ptr", "merge_parts_ptr"), "*i32")
    cache = dict.fromkeys(("q_ptr", "k_ptr", "v_ptr"), "*bf16") | lists | {"scale": "fp32"}
    tile = dict(GROUP=6, WIDTH=128, V_WIDTH=128, D=128, V_D=128, UPCAST=False)
    high, low = dict(ROWS=128, KEYS=64), dict(ROWS=16, KEYS=128)
    rows, parts = dict(ROWS=16, WIDTH=128), dict(V_WIDTH=128, V_D=128, PARTS=8)
    return {
        "merge": (triton_merge._forward_kernel, half, rows, {}),
        "merge-backward": (triton_merge._backward_kernel, half, rows, {}),
        "partial-high": (triton_decode._partial_kernel, cache, tile | high, dict(num_warps=8, num_stages=3)),
        "partial-low": (triton_decode._partial_kernel, cache, tile | low, dict(num_warps=4, num_stages=3)),
        "merge-parts": (triton_decode._merge_kernel, lists | {"o_ptr": "*bf16"}, parts, dict(num_warps=2)),
    }


def tree_attention(width: int, plan: fused.Plan) -> dict[str, Form]:
    types = dict.fromkeys(("q", "k", "v", "out", "dout", "dq", "dk", "dv"), "*bf16")
    types |= dict.fromkeys(("lse", "delta", "dk_parts", "dv_parts"), "*fp32")
    types |= dict.fromkeys(("sub_end", "start", "full", "stop", "key_tile", "heavy_first", "items", "sums"), "*i32")
    types |= dict.fromkeys(("scale", "factor"), "fp32")
    head = dict(HEAD=width, WIDTH=width)
    rows, keys = head | dict(BLOCK_Q=plan.dq.query), head | dict(BLOCK_K=plan.dkdv.key)
    forms: dict[str, Form] = {
        f"delta-{width}": (triton_bwd.tree_attn_bwd_delta_kernel, types, rows, {}),
        f"add-parts-{width}": (triton_bwd.tree_attn_bwd_add_parts_kernel, types, keys, {}),
    }
    for name, kernel, blocks in (
        ("forward", triton_fwd.tree_attn_fwd_kernel, plan.forward),
        ("dq", triton_bwd.tree_attn_bwd_dq_kernel, plan.dq),
        ("dkdv", triton_bwd.tree_attn_bwd_dkdv_kernel, plan.dkdv),
    ):
        tiles = head | dict(GROUP=6, UPCAST=False, BLOCK_Q=blocks.query, BLOCK_K=blocks.key)
        forms[f"{name}-{width}"] = (kernel, types, tiles, blocks.options)
    return forms


FORMS = head_and_loss() | decode_and_merge()
for _width, _plan in fused.LARGE.items():
    FORMS |= tree_attention(_width, _plan)

if __name__ == "__main__":
    for chosen in sys.argv[1:] or FORMS:
        print(chosen, compiled(*FORMS[chosen]), flush=True)
