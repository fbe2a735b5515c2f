"""The comparison with vLLM, without vLLM: the work, the checks of equal results, which size becomes the claim."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from laconic.benchmarks import rollout_vllm
from laconic.benchmarks.rollout_on_vllm import BLOCK, reprefill
from laconic.benchmarks.rollout_vllm import (
    SIZES,
    Answers,
    Embedded,
    Form,
    Work,
    against_vllm,
    assert_same_results,
    save_model,
    work,
)
from laconic.benchmarks.side_process import SideFailed, SideProcess
from laconic.rollout.records import Cost, Group, Kind, Segment, prompt_group


class Here:
    """A side in this process."""

    def __init__(self, make: Callable[[], Any], _: object = None) -> None:
        self.side = make()

    def __call__(self, method: str, *arguments: Any) -> Any:
        return getattr(self.side, method)(*arguments)

    def close(self) -> None:
        """Nothing to end."""


def test_a_side_has_its_own_environment_and_says_why_it_failed() -> None:
    side = SideProcess(partial(importlib.import_module, "os"), {"LACONIC_TEST_SIDE": "there"})
    assert "LACONIC_TEST_SIDE" not in os.environ
    assert side("getenv", "LACONIC_TEST_SIDE") == "there"
    assert side("getpid") != os.getpid()
    with pytest.raises(SideFailed, match="exit code 3"):
        side("_exit", 3)
    side.close()


def test_what_a_side_raises_comes_with_its_traceback() -> None:
    side = SideProcess(partial(importlib.import_module, "os"), {})
    with pytest.raises(SideFailed, match="FileNotFoundError"):
        side("listdir", "/nowhere")
    side.close()


def test_a_side_that_cannot_be_made_says_why() -> None:
    with pytest.raises(SideFailed, match="ModuleNotFoundError"):
        SideProcess(partial(importlib.import_module, "no_such_module"), {})


@pytest.mark.parametrize("live", SIZES)
def test_work_has_a_queue_shared_prompts_and_a_long_tail(live: int) -> None:
    asked = work(live)
    assert len(asked.lengths) >= 2 * live and max(asked.lengths) <= 640
    assert len({tuple(prompt) for prompt in asked.prompts}) == len(asked.prompts) // 16
    assert max(asked.lengths) > 2.5 * np.median(asked.lengths)
    assert asked == work(live)


class Wrong(Embedded):
    """Spoils one thing in what it returns."""

    spoil = "ids"

    def answer(self, asked: Work) -> Answers:
        """One token or log-prob is off."""
        answers = super().answer(asked)
        ids, logp = answers[-1]
        if self.spoil == "ids":
            ids[-1] = (ids[-1] + 1) % rollout_vllm.VOCABULARY
        elif asked.temperature:
            logp[0] += 0.01
        return answers


class WrongLogp(Wrong):
    """Spoils a log-prob, at temperature 1 only."""

    spoil = "logp"


def test_different_greedy_answers_or_logps_are_found(tmp_path: Path) -> None:
    model = save_model(str(tmp_path))
    asked = replace(work(8, quick=True), lengths=[12] * 8)
    right = Here(partial(Embedded, str(tmp_path), 1))
    found = assert_same_results(model, {"embedded": right, "vLLM": right}, asked)  # type: ignore[dict-item]
    assert found["largest_logp_difference, vLLM"] < 1e-4
    for kind, message in ((Wrong, "greedy answers of vLLM differ"), (WrongLogp, "a log-prob of vLLM is off")):
        sides = {"embedded": right, "vLLM": Here(partial(kind, str(tmp_path), 1))}
        with pytest.raises(AssertionError, match=message):
            assert_same_results(model, sides, asked)  # type: ignore[arg-type]


class Paced(Embedded):
    """Says how long it took, by the number of live sequences."""

    def __init__(self, folder: str, seconds: dict[int, float]) -> None:
        super().__init__(folder, 1)
        self.taken = seconds

    def seconds(self, asked: Work) -> float:
        """As given."""
        return self.taken[asked.live]


def test_the_claim_is_the_worst_size_against_the_best_form(monkeypatch: pytest.MonkeyPatch) -> None:
    def forms(folder: str, quick: bool) -> list[Form]:
        seconds = {"embedded, a": {8: 2.0, 32: 1.0}, "vLLM, slow": {8: 9.0, 32: 9.0}, "vLLM, fast": {8: 3.0, 32: 0.9}}
        return [Form(name, partial(Paced, folder, taken), {}) for name, taken in seconds.items()]

    monkeypatch.setattr(rollout_vllm, "SideProcess", Here)
    monkeypatch.setattr(rollout_vllm, "forms", forms)
    (claim,), details = against_vllm(True, "0.0")
    assert claim["value"] == pytest.approx(0.9) and claim["samples"] == [claim["value"]]
    assert claim["peer"] == "vLLM 0.0, fast; 32 live sequences, the worst size"
    assert [row["ratio"] for row in details["rows"]] == pytest.approx([1.5, 0.9])


def continued(tokens: int, prefilled: int) -> Group:
    """A sampled segment that ends a context of so many tokens, and one that continues it at such a cost."""
    group = prompt_group(0, "p", [1] * 10)
    first = sampled(1, 0, 10, tokens - 10, Cost())
    second = sampled(2, 1, tokens - 10, 3, Cost(prefilled=prefilled, cached=tokens - prefilled))
    return group.replace(segments=(*group.segments, first, second))


def sampled(id: int, parent: int, offset: int, tokens: int, cost: Cost) -> Segment:
    return Segment(
        id, parent, offset, Kind.SAMPLED, np.zeros(tokens, np.int32), np.zeros(tokens, np.float32), cost=cost
    )


@pytest.mark.parametrize(("tokens", "limit"), [(128, 32), (129, 1), (140, 12), (161, 1)])
def test_a_continued_segment_may_compute_its_last_block_again_and_no_more(tokens: int, limit: int) -> None:
    assert BLOCK == 32
    found = reprefill([continued(tokens, limit)])
    assert found == {"continued_segments": 1, "of_four_blocks": 1, "reprefill_tokens_most": limit}
    with pytest.raises(AssertionError, match=f"at most {limit} can be missing"):
        reprefill([continued(tokens, limit + 1)])


def test_short_contexts_prove_nothing() -> None:
    with pytest.raises(AssertionError, match="nothing is known of the prefix cache"):
        reprefill([continued(100, 4)])


def test_inserted_tokens_are_not_computed_again() -> None:
    group = continued(140, 12)
    forced = Segment(3, 1, 130, Kind.FORCED, np.zeros(5, np.int32), np.full(5, np.nan, np.float32))
    after = sampled(4, 3, 5, 3, Cost(prefilled=17, cached=128))
    assert reprefill([group.replace(segments=(*group.segments, forced, after))])["reprefill_tokens_most"] == 12
