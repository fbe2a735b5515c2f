"""The worker by itself: one line in, one line out, and it ends with its input."""

from __future__ import annotations

import json
import os
import subprocess
import sys

ITEM = {"index": 5, "response": "<think>x</think>7", "gold": "7", "verifier": "exact", "truncated": False}


def run_worker(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "laconic.rewards.worker", *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=30)


def test_it_says_it_is_ready_then_answers_each_line_and_ends_with_the_input() -> None:
    answer = run_worker(f"{json.dumps(ITEM)}\n{json.dumps(ITEM | {'index': 6, 'truncated': True})}\n")
    assert [json.loads(line) for line in answer.stdout.splitlines()] == [
        {"ready": True},
        {"index": 5, "verdict": "right", "extracted": "7", "reason": ""},
        {"index": 6, "verdict": "truncated", "extracted": None, "reason": "truncated"},
    ]
    assert (answer.returncode, answer.stderr) == (0, "")


def test_a_line_cut_by_the_death_of_the_parent_is_dropped() -> None:
    answer = run_worker(json.dumps(ITEM)[:40])
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, '{"ready": true}\n', "")


def test_a_parent_that_ended_before_the_start_ends_it() -> None:
    answer = run_worker(json.dumps(ITEM) + "\n", "--parent", str(os.getppid()))
    assert (answer.returncode, answer.stdout) == (0, "")


def test_an_unknown_verifier_is_reported_to_the_parent() -> None:
    answer = run_worker("", "--verifier", "exakt")
    assert "unknown verifier 'exakt'" in json.loads(answer.stdout)["config_error"]
