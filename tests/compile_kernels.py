"""Compile each kernel once, as for bfloat16 on an H200: prints its name and the shared memory of a block."""

from __future__ import annotations

from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from laconic.kernels.cascade_decode import triton_decode
from laconic.kernels.fused_logprob import triton_fold
from laconic.kernels.merge_lse import triton_merge
from laconic.kernels.pg_loss import triton_loss


def compiled(name: str, kernel: Any, types: dict[str, str], constants: dict[str, Any], **options: int) -> None:
    """``types`` by argument; other pointers are float32, other arguments int32."""
    signature = {}
    for argument in kernel.arg_names:
        usual = "*fp32" if argument.endswith("_ptr") else "i32"
        signature[argument] = "constexpr" if argument in constants else types.get(argument, usual)
    source = ASTSource(kernel, signature, constexprs=constants)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    print(name, made.metadata.shared)


half = dict.fromkeys(("o1_ptr", "o2_ptr", "o_ptr", "do_ptr", "do1_ptr", "do2_ptr"), "*bf16")
compiled("merge", triton_merge._forward_kernel, half, dict(ROWS=16, WIDTH=128))
compiled("merge-backward", triton_merge._backward_kernel, half, dict(ROWS=16, WIDTH=128))
numbers = ("low", "high", "ceiling", "beta_low", "beta_high", "cap", "tau_pos", "tau_neg")
numbers += ("kl_weight", "entropy_weight", "importance_cap")
flags = dict(GAIN=2, KL=3, CORRECTED=True, IMPORTANCE=True, ENTROPY=True, LIMIT=20.0, COUNTS=16, BLOCK=1024)
compiled("loss", triton_loss._kernel, dict.fromkeys(numbers, "fp32"), flags)
head = dict(factor="fp32", inner="fp32", outer="fp32", targets_ptr="*i64", out_ptr="*bf16")
compiled("fold", triton_fold._forward_kernel, head, dict(CAPPED=True, BLOCK=4096), num_warps=8)
both = dict(CAPPED=True, BY_LOGP=True, BY_ENTROPY=True, BLOCK=4096)
compiled("fold-backward", triton_fold._backward_kernel, head, both, num_warps=8)
lists = dict.fromkeys(("items_ptr", "pages_ptr", "query_ptr", "merge_ptr", "merge_parts_ptr"), "*i32")
cache = dict.fromkeys(("q_ptr", "k_ptr", "v_ptr"), "*bf16") | lists | {"scale": "fp32"}
for name, rows, keys, warps in (("partial-high", 128, 64, 8), ("partial-low", 16, 128, 4)):
    tile = dict(GROUP=6, WIDTH=128, V_WIDTH=128, ROWS=rows, KEYS=keys, D=128, V_D=128, UPCAST=False)
    compiled(name, triton_decode._partial_kernel, cache, tile, num_warps=warps, num_stages=3)
merged = lists | {"o_ptr": "*bf16"}
compiled("merge-parts", triton_decode._merge_kernel, merged, dict(V_WIDTH=128, V_D=128, PARTS=8), num_warps=2)
