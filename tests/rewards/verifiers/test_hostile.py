"""Hostile answers in the pool: a judgement for each, none hangs, none takes the pool along."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from laconic.rewards.pool import VerifierPool
from laconic.rewards.process import Worker
from laconic.rewards.verdict import Item, Verdict

INPUTS = int(os.environ.get("LACONIC_SOAK_INPUTS", "1000"))
"""A thousand, or LACONIC_SOAK_INPUTS (`make soak`)."""
DEADLINE = 10.0
MOST_MEMORY = 1 << 30
"""Of a worker, in bytes, at any time that was looked at."""
LOOK_SECONDS = 0.2
"""Time between two looks at the memory."""

GOLDS = ("4", "-3.5", r"\frac{1}{2}", r"2\sqrt{2}", "(1,2)", r"\{1,2,3\}", "x^2+1", "x<3", r"\text{Monday}", r"3 \pm i")
VERIFIERS = ("math", "math_untagged", "math_eval", "choice", "text", "number", "exact")
ALPHABET = (
    r"\boxed{", "{", "}", r"\{", r"\fbox{", "<think>", "</think>", r"\frac", r"\sqrt", "^", "_", "(", ")", "[", "]",
    "$", "$$", r"\(", r"\)", "0", "1", "2", "9", "99999", "x", "i", "e", "!", "+", "-", "*", "/", "=", "<", ",", ";",
    ".", "%", r"\pm", r"\pi", r"\infty", r"\cup", r"\sum_{k=1}^{9}", r"\int", r"\binom{5}{2}", r"\begin{pmatrix}",
    r"\end{pmatrix}", r"\\", "\\", "&", " ", "\n", "Answer:", "####", "the answer is", "and", "\x00", "\x1b[2J",
    "\r", "\u2028", "\u0664", "\u516d", "\U0001d7db", "\u200b", "\ud800", "\u202e", "a",
)  # fmt: skip


def hostile_items(count: int, seed: int = 0) -> Iterator[Item]:
    """``count`` items, of every kind in turn."""
    draw = random.Random(seed)
    for index in range(count):
        kind = KINDS[index % len(KINDS)]
        response = ("" if draw.random() < 0.2 else "<think>x</think>") + kind(draw)
        gold = draw.choice(GOLDS)
        verifier = draw.choice(VERIFIERS[:3] if draw.random() < 0.8 else VERIFIERS[3:])
        gold = {"choice": "B", "number": "4"}.get(verifier, gold)
        yield Item(response, gold, verifier)


def boxed(content: str) -> str:
    return rf"So \boxed{{{content}}}."


def soup(draw: random.Random) -> str:
    return boxed("".join(draw.choices(ALPHABET, k=draw.randint(1, 40))))


def loose_soup(draw: random.Random) -> str:
    return "".join(draw.choices(ALPHABET, k=draw.randint(1, 60)))


def megabyte(draw: random.Random) -> str:
    if draw.random() < 0.8:  # Long ones are slow to send, so most are only thousands of characters long.
        return draw.choice(ALPHABET) * draw.randint(100, 3000)
    return draw.choice(ALPHABET) * (1_000_000 // 8) + boxed("4")


def long_box(draw: random.Random) -> str:
    return boxed(
        draw.choice(("1+", "9", "((", r"\frac{1}{", "x^", "{", r"\sqrt{", "1,")) * draw.randint(10, 3000) + "1"
    )


def deep(draw: random.Random) -> str:
    levels = draw.randint(5, 60)
    opening, closing = draw.choice(
        (("(", ")"), ("{", "}"), (r"\sqrt{", "}"), (r"\left(", r"\right)"), (r"\frac{1}{", "}"))
    )
    return boxed(opening * levels + "4" + closing * levels)


def tower(draw: random.Random) -> str:
    levels = draw.randint(2, 6)
    return boxed("^{".join(str(draw.randint(2, 99)) for _ in range(levels)) + "}" * (levels - 1))


def large(draw: random.Random) -> str:
    number = draw.randint(10, 10 ** draw.randint(2, 12))
    return boxed(
        draw.choice(
            (
                f"2^{{{number}}}",
                f"{number}!",
                f"({number}!)!",
                rf"\binom{{{number}}}{{{number // 2}}}",
                f"(x+1)^{{{number}}}",
                rf"\sum_{{k=1}}^{{{number}}} \frac{{1}}{{k^2}}",
                f"{number}^{{{number}}}",
                rf"\sqrt[{number}]{{{number}}}",
                rf"\sin({number}!)",
                f"10^{{10}}^{{{number}}}",
                rf"\int_0^{{{number}}} x^x dx",
                rf"x^{{{number}}}-y^{{{number}}}",
            )
        )
    )


def many_boxes(draw: random.Random) -> str:
    return " and ".join(boxed(str(draw.randint(0, 9))) for _ in range(draw.randint(2, 400)))


def unclosed(draw: random.Random) -> str:
    return r"\boxed{" * draw.randint(1, 2000) + "4" + "}" * draw.randint(0, 10)


KINDS: tuple[Callable[[random.Random], str], ...] = (
    soup,
    loose_soup,
    megabyte,
    long_box,
    deep,
    tower,
    large,
    many_boxes,
    unclosed,
    soup,
)


@pytest.mark.soak
def test_every_hostile_answer_gets_a_judgement_in_bounded_time_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    items = list(hostile_items(INPUTS))
    taken: list[float] = []
    conclude = Worker.conclude

    def timed(worker: Worker, reply: dict[str, Any]) -> Any:
        taken.append(time.monotonic() - worker.since)
        return conclude(worker, reply)

    with VerifierPool(workers=2, deadline=DEADLINE, verifiers=VERIFIERS) as pool, Memory(pool) as memory:
        monkeypatch.setattr(Worker, "conclude", timed)
        start = time.monotonic()
        judgements = pool.judge(items)
        seconds = time.monotonic() - start
    timeouts = sum(judgement.verdict is Verdict.TIMEOUT for judgement in judgements)
    crashes = [judgement for judgement in judgements if judgement.verdict is Verdict.CRASHED]
    print(
        f"{INPUTS:,} hostile inputs in {seconds:.0f} s, {timeouts} timeouts, slowest judged {max(taken):.2f} s, "
        f"peak memory of a worker {memory.worker / 2**20:.0f} MiB, of the pool {memory.pool / 2**20:.0f} MiB"
    )
    assert len(judgements) == INPUTS
    assert crashes == []
    assert timeouts <= INPUTS * 0.01
    # One that took longer would have been ended; on a busy machine the reply may lie in the pipe for a while.
    assert max(taken) < 1.5 * DEADLINE
    assert 0 < memory.worker < MOST_MEMORY
    assert seconds < INPUTS * 0.5 + timeouts * 3 * DEADLINE


class Memory:
    """Looks at the resident memory of a pool's workers until its context ends: ``worker`` and ``pool`` are peaks."""

    def __init__(self, pool: VerifierPool) -> None:
        self._fleet, self._ended = pool._fleet, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.worker = self.pool = 0

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            resident = [_resident(worker.process.pid) for worker in tuple(self._fleet)]
            self.worker, self.pool = max(self.worker, *resident, 0), max(self.pool, sum(resident))


def _resident(process: int) -> int:
    """Bytes; 0 for a process that has ended."""
    try:
        with open(f"/proc/{process}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError):
        return 0
