"""``tokens``: training ends with the generation in which that many tokens have been decoded.

Methods that sample more or longer answers per step take fewer steps for the same work; what is compared at equal tokens
is compared at equal cost of sampling. What was spent is read from the run's own log, so a resumed run goes on counting.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from .metrics_log import read_metrics


def decoded_tokens(metrics: Path) -> int:
    """Tokens decoded in all generations of a run's ``metrics.jsonl``; 0 without one."""
    return sum(line["tokens/decoded"] for line in read_metrics(metrics)) if metrics.exists() else 0


class StopAfterTokens(TrainerCallback):
    """Ends training, with a checkpoint, when ``budget`` tokens are spent; the log has the generation by then.

    All ranks read the same numbers: the log's are those of all of them, and each is told by the first.
    """

    def __init__(self, budget: int, spent: int) -> None:
        self.budget, self.spent = budget, spent

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs and "tokens/decoded" in logs:
            self.spent += logs["tokens/decoded"]
            if self.spent >= self.budget:
                control.should_save = control.should_training_stop = True
