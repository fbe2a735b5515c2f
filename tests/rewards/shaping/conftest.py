"""Samples of a reference policy, as an evaluation writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from laconic.eval.records import SAMPLES, Sample, to_table, write_samples

Written = dict[str, list[tuple[int, bool]]]
"""Problem -> (tokens, whether right) of each of its samples."""


@pytest.fixture
def samples(tmp_path: Path) -> Callable[[Written], Path]:
    """Writes such samples and returns the file's path."""

    def write(written: Written) -> Path:
        rows = [
            _sample(problem, index, tokens, right)
            for problem, own in written.items()
            for index, (tokens, right) in enumerate(own)
        ]
        write_samples(to_table(rows), tmp_path / SAMPLES)
        return tmp_path / SAMPLES

    return write


def _sample(problem: str, index: int, tokens: int, right: bool) -> Sample:
    return Sample(
        run_id="start",
        benchmark="file",
        problem_id=problem,
        sample_idx=index,
        seed=0,
        prompt_token_ids=np.zeros(3, np.int32),
        response_token_ids=np.zeros(tokens, np.int32),
        n_prompt=3,
        n_response=tokens,
        n_think=tokens - 1,
        n_answer=1,
        n_generated=tokens,
        finish_reason="eos",
        think_closed=True,
        truncated=False,
        loop_flag=False,
        pred_raw=None,
        gold="1",
        verdict="right" if right else "wrong",
        correct=right,
        mean_logprob=None,
        level=None,
        prompt_text="",
        response_text="",
    )
