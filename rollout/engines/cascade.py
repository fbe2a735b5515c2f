"""`cascade`: the embedded engine, whose steps on a GPU read siblings' shared beginnings once.

Rows of the cache stay as they are, each with its own copy of its context; where contexts agree, one row's copy is read
for all (``sharing.py``, ``kernels/cascade_decode``). A step is bound by the KV it reads, so reading less is faster;
results are the same up to rounding. Where little is shared, or the kernel cannot run, the step is the embedded engine's
own. The kernel is compared with torch's attention before its first use, and is not used if it differs.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from ...kernels.cascade_decode import DecodePlan, cascade_decode, plan_decode, triton_decode_refuses
from ...kernels.dispatch import VARIABLE, forced
from .rows import Call
from .sharing import LEAST_SAVED, Sharing, sharing_of
from .slots import _IGNORED as IGNORED
from .slots import SlotCache, UnsupportedAttention
from .transformers import TransformersEngine

# Shapes: n live rows, Q query heads, H KV heads, L columns, D head width, V vocabulary

log = logging.getLogger(__name__)

CASCADE_ATTENTION = "laconic_cascade"
"""Name under which ``cascade_attention`` is registered with transformers."""
_MOST_ERROR = {torch.float32: 5e-3}  # torch's own may be TF32
_MOST_ERROR_HALF = 1e-2
_COLUMNS, _SHARED = 210, 150
_PLAN: ContextVar[DecodePlan] = ContextVar("laconic_decode_plan")


class CascadeEngine(TransformersEngine):
    """``TransformersEngine`` whose decode steps share what siblings share."""

    _calls: list[Call | None] | None = None
    _sharing: Sharing
    _refusal: str | None = "not asked yet"
    _asked = False

    def _decode_step(self, ids_n1: Tensor, position_n1: Tensor, mask_n11L: Tensor, slots: SlotCache) -> Tensor:
        plan = self._plan(slots, mask_n11L.shape[3])
        if plan is None:
            return super()._decode_step(ids_n1, position_n1, mask_n11L, slots)
        _PLAN.set(plan)
        inputs = {"attention_mask": mask_n11L, "position_ids": position_n1, "past_key_values": slots}
        try:
            return self._forward(CASCADE_ATTENTION, input_ids=ids_n1, **inputs)
        except UnsupportedAttention:
            self._own_attention = False  # what the failed forward wrote is written again, with the same values
            return super()._decode_step(ids_n1, position_n1, mask_n11L, slots)

    def _plan(self, slots: SlotCache, columns: int) -> DecodePlan | None:
        """Who reads what in this step; None if nothing would be gained."""
        if not self._own_attention or self._rows.used < 2:
            return None
        record_n = self._rows.record[: self._rows.used]
        calls = [self._rows._calls[record] for record in record_n.tolist()]
        if calls != self._calls:
            self._calls = calls
            self._sharing = sharing_of([call for call in calls if call is not None])
        position_n = self._rows.length[record_n]
        if self._sharing.saves(position_n) < LEAST_SAVED or not self._kernel_runs(slots):
            return None
        segments = self._sharing.segments(position_n)
        kv_heads = slots.layers[0].keys.shape[1]
        return plan_decode(
            segments, len(record_n), columns, heads=self._heads, kv_heads=kv_heads, device=self.device
        )  # fmt: skip

    @cached_property
    def _heads(self) -> int:
        return int(self.config.get_text_config().num_attention_heads)

    def _kernel_runs(self, slots: SlotCache) -> bool:
        """Whether the kernel can run on such a cache and computes what it should; found out, and logged, once."""
        if not self._asked:
            self._asked = True
            self._refusal = kernel_refuses(slots.layers[0].keys, slots.layers[0].values, self._heads)
            log.info("decode steps read shared prefixes %s", f"per row: {self._refusal}" if self._refusal else "once")
        return self._refusal is None

    def _drop_caches(self) -> None:
        super()._drop_caches()
        self._calls = None


def cascade_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """As ``slot_attention``, by the plan of the step in place of the mask."""
    foreign = [name for name, given in kwargs.items() if given is not None and name not in IGNORED]
    if foreign:
        raise UnsupportedAttention(f"cascade attention does not know {', '.join(foreign)}")
    # A row of the cache is a page. Under autocast rotary embeddings leave queries in float32.
    q_nQD, pages = query[:, :, 0].to(value.dtype), (key.transpose(1, 2), value.transpose(1, 2))
    o_nQD, _ = cascade_decode(q_nQD, *pages, _PLAN.get(), scale=scaling)
    return o_nQD[:, None], None


def kernel_refuses(keys_SHLD: Tensor, values_SHLD: Tensor, heads: int) -> str | None:
    """Why shared reading cannot be used on such a cache; None if it can."""
    group = heads // keys_SHLD.shape[1]
    if forced() not in (None, "ref", "triton"):
        return f"{VARIABLE} is {forced()}"
    # One more for each height that a tile of the kernel can have: each is compiled by itself.
    siblings = {3} if forced() else {3, *(max(2, rows // group) for rows in (16, 32, 64, 128))}
    most = _MOST_ERROR.get(values_SHLD.dtype, _MOST_ERROR_HALF)
    for count in sorted(siblings):
        q_nQD, k_nHLD, v_nHLD = _trial(count, heads, keys_SHLD, values_SHLD)
        pages = k_nHLD.transpose(1, 2), v_nHLD.transpose(1, 2)
        if forced() != "ref" and (reason := triton_decode_refuses(q_nQD, *pages)) is not None:
            return reason
        try:
            error = _error(q_nQD, k_nHLD, v_nHLD)
        except Exception as problem:  # no compiler, too little shared memory: the engine's own steps need neither
            return f"a trial ended in {type(problem).__name__}: {' '.join(str(problem).split())[:200]}"
        if not error <= most:
            return f"the kernel is off by {error:.1e} from torch's attention on this device"
    return None


def _trial(count: int, heads: int, keys_SHLD: Tensor, values_SHLD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of siblings that share ``_SHARED`` of ``_COLUMNS`` columns, in the types of a step."""
    generator, device, dtype = torch.Generator().manual_seed(0), keys_SHLD.device, values_SHLD.dtype
    kv_heads, widths = keys_SHLD.shape[1], (keys_SHLD.shape[3], values_SHLD.shape[3])
    shapes = ((count, heads, widths[0]), *((count, kv_heads, _COLUMNS, width) for width in widths))
    drawn = (torch.randn(shape, generator=generator).to(device) for shape in shapes)
    q_nQD, k_nHLD, v_nHLD = (x.to(kind) for x, kind in zip(drawn, (dtype, keys_SHLD.dtype, dtype), strict=True))
    for pool in (k_nHLD, v_nHLD):
        pool[1:, :, :_SHARED] = pool[0, :, :_SHARED].clone()
    return q_nQD, k_nHLD, v_nHLD


def _error(q_nQD: Tensor, k_nHLD: Tensor, v_nHLD: Tensor) -> float:
    """Relative distance of the kernel from torch's attention."""
    (count, heads, width), kv_heads = q_nQD.shape, k_nHLD.shape[1]
    segments = Sharing([(0, _SHARED, list(range(count)))], np.full(count, _SHARED)).segments(
        np.full(count, _COLUMNS - 1)
    )
    plan = plan_decode(segments, count, _COLUMNS, heads=heads, kv_heads=kv_heads, device=q_nQD.device)
    got = cascade_decode(q_nQD, k_nHLD.transpose(1, 2), v_nHLD.transpose(1, 2), plan)[0].float()
    grouped = q_nQD.view(count, kv_heads, heads // kv_heads, width)
    want = scaled_dot_product_attention(grouped, k_nHLD, v_nHLD).reshape(got.shape).float()
    return float((got - want).norm() / want.norm())


AttentionInterface.register(CASCADE_ATTENTION, cascade_attention)
