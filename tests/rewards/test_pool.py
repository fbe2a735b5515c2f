"""The pool: a verdict for every item, in order and in bounded time, whatever a verifier does; and no process left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from laconic.errors import ConfigError, RunError
from laconic.rewards.pool import VerifierPool
from laconic.rewards.verdict import Item, Judgement, Verdict

HERE = Path(__file__).parent
DEADLINE = 1.0
"""Seconds an item may take in these tests: far more than an honest one needs, also on a busy machine."""


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bad verifiers are importable here; that they are in the workers too is the pool's business."""
    monkeypatch.syspath_prepend(str(HERE))


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No test leaves a child: no worker, no zombie."""
    before = set(psutil.Process().children(recursive=True))
    yield
    assert set(psutil.Process().children(recursive=True)) <= before


def mixed(verifier: str, count: int, bad_at: int) -> list[Item]:
    return [Item("response", "bad" if index == bad_at else "good", verifier) for index in range(count)]


def ids_of(pool: VerifierPool) -> set[int]:
    return {worker.process.pid for worker in pool._fleet}


def until(true: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    return true()


@pytest.mark.parametrize(
    ("verifier", "verdict", "reason"),
    [
        ("hangs", Verdict.TIMEOUT, "deadline"),
        ("spins", Verdict.TIMEOUT, "deadline"),
        ("exits", Verdict.CRASHED, "exit_3"),
        ("segfaults", Verdict.CRASHED, "signal_SIGSEGV"),
        ("allocates", Verdict.CRASHED, "memory_limit"),
        ("raises", Verdict.CRASHED, "raised KeyError"),
        ("forges", Verdict.CRASHED, "garbled_reply"),
    ],
)
def test_a_bad_item_is_recorded_with_its_reason_and_all_others_are_judged(
    verifier: str, verdict: Verdict, reason: str
) -> None:
    name = f"bad_verifiers:{verifier}"
    with VerifierPool(deadline=DEADLINE, memory_gb=1.0, verifiers=[name]) as pool:
        began = time.monotonic()
        judgements = pool.judge(mixed(name, count=300, bad_at=140))
        seconds = time.monotonic() - began
        again = pool.judge(mixed(name, count=20, bad_at=-1))
    assert judgements[140] == Judgement(verdict, reason=reason)
    assert [j.verdict for j in judgements[:140] + judgements[141:]] == [Verdict.RIGHT] * 299
    assert [j.verdict for j in again] == [Verdict.RIGHT] * 20
    assert seconds < 2 * DEADLINE + 10


def test_several_bad_items_cost_at_most_two_deadlines_each() -> None:
    name = "bad_verifiers:hangs"
    items = [Item("", "bad" if index % 10 == 3 else "good", name) for index in range(30)]
    with VerifierPool(workers=2, deadline=0.5, verifiers=[name]) as pool:
        began = time.monotonic()
        verdicts = [judgement.verdict for judgement in pool.judge(items)]
        seconds = time.monotonic() - began
    assert verdicts == [Verdict.TIMEOUT if index % 10 == 3 else Verdict.RIGHT for index in range(30)]
    assert seconds < 3 * 2 * 0.5 + 10


def test_without_a_spare_a_lost_worker_is_replaced() -> None:
    name = "bad_verifiers:exits"
    with VerifierPool(spare=0, verifiers=[name]) as pool:
        verdicts = [judgement.verdict for judgement in pool.judge(mixed(name, count=5, bad_at=0))]
    assert verdicts == [Verdict.CRASHED] + [Verdict.RIGHT] * 4


def test_an_item_that_fails_once_is_judged_by_its_second_try(tmp_path: Path) -> None:
    name = "bad_verifiers:crashes_once"
    with VerifierPool(verifiers=[name]) as pool:
        judgements = pool.judge([Item(str(tmp_path / "made"), "bad", name)])
    assert judgements == [Judgement(Verdict.RIGHT)]


@pytest.mark.parametrize("verifier", ["prints", "reads"])
def test_what_a_verifier_prints_or_reads_does_not_touch_the_protocol(verifier: str) -> None:
    name = f"bad_verifiers:{verifier}"
    with VerifierPool(verifiers=[name]) as pool:
        assert pool.judge([Item("", "", name)] * 50) == [Judgement(Verdict.RIGHT)] * 50


def test_a_verifier_that_returns_no_judgement_is_an_alarm() -> None:
    name = "bad_verifiers:returns_a_bool"
    with VerifierPool(verifiers=[name]) as pool:
        assert pool.judge([Item("", "", name)]) == [Judgement(Verdict.CRASHED, reason="raised TypeError")]


@pytest.mark.parametrize("workers", [1, 3])
def test_judgements_come_in_the_order_of_the_items(workers: int) -> None:
    items = [Item(f"<think>x</think>{index}", str(index if index % 3 else -1)) for index in range(1000)]
    with VerifierPool(workers=workers) as pool:
        judgements = pool.judge(items)
    assert [judgement.extracted for judgement in judgements] == [str(index) for index in range(1000)]
    assert [judgement.verdict.right for judgement in judgements] == [index % 3 != 0 for index in range(1000)]


def test_large_odd_and_no_items_cross_the_pipe() -> None:
    text = "line\nbreak \u2028 \ud800 lone surrogate \0 " + "x" * 3_000_000
    with VerifierPool() as pool:
        assert pool.judge([]) == []
        judgements = pool.judge([Item(text, text), Item(text, "x"), Item("A: 72", "72", "number")])
    assert [judgement.verdict for judgement in judgements] == [Verdict.RIGHT, Verdict.WRONG, Verdict.RIGHT]


def test_a_batch_of_megabyte_answers_is_sent_in_time_linear_in_its_size() -> None:
    items = [Item(f"{'x' * 1_500_000}{index}", f"{'x' * 1_500_000}7") for index in range(100)]
    with VerifierPool(deadline=60, spare=0) as pool:
        began = time.monotonic()
        judgements = pool.judge(items)
        seconds = time.monotonic() - began
    assert [index for index, judgement in enumerate(judgements) if judgement.verdict.right] == [7]
    assert seconds < 60  # Two or three; several minutes if each write copies what is left.


def test_a_worker_killed_between_two_calls_gets_no_items() -> None:
    with VerifierPool(workers=2) as pool:
        for process in ids_of(pool):
            os.kill(process, signal.SIGKILL)
        time.sleep(0.1)
        assert [j.verdict for j in pool.judge([Item("7", "7")] * 10)] == [Verdict.RIGHT] * 10


def test_an_interrupted_call_leaves_no_replies_for_the_next() -> None:
    name = "bad_verifiers:hangs"

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        with VerifierPool(deadline=60, verifiers=["exact", name]) as pool:
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            with pytest.raises(KeyboardInterrupt):
                pool.judge(mixed(name, count=10, bad_at=5))
            assert [j.extracted for j in pool.judge([Item("7", "7")] * 3)] == ["7"] * 3
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def test_closing_ends_every_worker_and_its_children() -> None:
    name = "bad_verifiers:leaves_a_child"
    with VerifierPool(workers=2, verifiers=[name]) as pool:
        workers = ids_of(pool)
        grandchild = int(pool.judge([Item("", "", name)])[0].extracted or 0)
        assert len(workers) == 3
        assert psutil.pid_exists(grandchild)
    assert not any(map(psutil.pid_exists, workers))
    assert until(lambda: not _alive(grandchild), 2)


def test_workers_end_within_two_seconds_of_a_killed_parent_even_if_they_hang() -> None:
    code = (
        "from laconic.rewards.pool import VerifierPool\n"
        "from laconic.rewards.verdict import Item\n"
        "with VerifierPool(deadline=600, verifiers=['bad_verifiers:hangs']) as pool:\n"
        "    print(*(worker.process.pid for worker in pool._fleet), flush=True)\n"
        "    pool.judge([Item('', 'bad', 'bad_verifiers:hangs')])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(HERE)},
    ) as parent:
        assert parent.stdout is not None
        workers = [int(word) for word in parent.stdout.readline().split()]
        time.sleep(0.3)  # The item is with a worker by now.
        alive = [_alive(worker) for worker in workers]
        parent.kill()
    assert alive == [True, True]
    assert until(lambda: not any(map(_alive, workers)), 2)


def test_workers_ignore_ctrl_c() -> None:
    with VerifierPool() as pool:
        workers = ids_of(pool)
        for process in workers:
            os.kill(process, signal.SIGINT)
        assert pool.judge([Item("7", "7")])[0].verdict is Verdict.RIGHT
        assert ids_of(pool) == workers


def test_a_verifier_that_fails_its_known_pairs_stops_the_start() -> None:
    with pytest.raises(RunError, match="known to be right"), VerifierPool(verifiers=["lying_verifier:judge"]):
        pass


def test_workers_that_cannot_start_stop_the_start() -> None:
    with (
        pytest.raises(RunError, match="3 .* failed to start \\(exit_5\\)"),
        VerifierPool(verifiers=["dying_verifier:judge"]),
    ):
        pass


@pytest.mark.parametrize("name", ["no_such_module:judge", "bad_verifiers:no_such_function", "bad_verifiers:RIGHT"])
def test_a_verifier_that_cannot_be_imported_is_a_config_error(name: str) -> None:
    with pytest.raises(ConfigError, match=name), VerifierPool(verifiers=[name]):
        pass


def test_unknown_ids_and_settings_are_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="unknown verifier 'exakt'; known: choice, exact, math, "):
        VerifierPool(verifiers=["exakt"])
    for settings in ({"workers": 0}, {"spare": -1}, {"deadline": 0.0}, {"memory_gb": 0.0}):
        with pytest.raises(ConfigError, match="cannot work"):
            VerifierPool(**settings)  # type: ignore[arg-type]


def test_a_worker_starts_where_the_address_space_cannot_be_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    from laconic.rewards import worker

    def refuse(what: int, limits: tuple[int, int]) -> None:
        raise ValueError("current limit exceeds maximum limit")  # what Python says on macOS

    monkeypatch.setattr(worker.resource, "setrlimit", refuse)
    monkeypatch.setattr(worker.sys, "platform", "darwin")
    worker._limit_memory(2.0)
    monkeypatch.setattr(worker.sys, "platform", "linux")
    with pytest.raises(ValueError, match="exceeds maximum"):
        worker._limit_memory(2.0)


def test_an_item_for_a_verifier_the_pool_was_not_started_with_is_refused() -> None:
    with VerifierPool(verifiers=["exact"]) as pool, pytest.raises(ConfigError, match="started for exact"):
        pool.judge([Item("7", "7", "number")])


def test_a_closed_pool_refuses_to_judge() -> None:
    with VerifierPool() as pool:
        pass
    with pytest.raises(RunError, match="not running"):
        pool.judge([Item("7", "7")])


@pytest.mark.parametrize("module", ["laconic.rewards.pool", "laconic.rewards.worker", "laconic.rewards.shaping"])
def test_no_part_of_rewards_imports_torch(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'transformers', 'trl'}} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_a_worker_imports_no_numpy_so_that_it_starts_fast() -> None:
    code = "import sys, laconic.rewards.worker; print('numpy' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def _alive(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
