"""trl's ``GRPOTrainer`` without trl's use of vLLM.

Where vLLM is installed, trl's trainer imports it: five seconds and 250 MB for every run, whatever engine decodes. Ours
are in ``laconic.rollout.engines``, so while the trainer is imported trl is told that there is none.
"""

from __future__ import annotations

from trl import import_utils

_is_vllm_available = import_utils.is_vllm_available
import_utils.is_vllm_available = lambda min_version=None: False
try:
    from trl import GRPOTrainer
finally:
    import_utils.is_vllm_available = _is_vllm_available

__all__ = ["GRPOTrainer"]
