"""Verifiers that misbehave, for the pool to survive. Each does so for the gold "bad" only, and is right otherwise."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time

from laconic.rewards.verdict import Judgement, Verdict

RIGHT = Judgement(Verdict.RIGHT)


def hangs(response: str, gold: str) -> Judgement:
    if gold == "bad":
        time.sleep(600)
    return RIGHT


def spins(response: str, gold: str) -> Judgement:
    while gold == "bad":
        pass
    return RIGHT


def exits(response: str, gold: str) -> Judgement:
    if gold == "bad":
        os._exit(3)
    return RIGHT


def segfaults(response: str, gold: str) -> Judgement:
    if gold == "bad":
        ctypes.string_at(0)
    return RIGHT


def prints(response: str, gold: str) -> Judgement:
    print('{"index": 0, "verdict": "wrong"}', flush=True)
    os.write(1, b"written past python\n")
    return RIGHT


def reads(response: str, gold: str) -> Judgement:
    return RIGHT if sys.stdin.read() == "" else Judgement(Verdict.WRONG)


def forges(response: str, gold: str) -> Judgement:
    """Writes into every pipe it finds, that of the replies included."""
    if gold == "bad":
        for descriptor in range(3, 20):
            try:
                os.write(descriptor, b'{"index": 99}\n')
            except OSError:
                continue
    return RIGHT


def allocates(response: str, gold: str) -> Judgement:
    if gold == "bad":
        return Judgement(Verdict.RIGHT, extracted=str(len(bytearray(8 * 2**30))))
    return RIGHT


def raises(response: str, gold: str) -> Judgement:
    if gold == "bad":
        raise KeyError(response)
    return RIGHT


def returns_a_bool(response: str, gold: str) -> bool:
    return True


def leaves_a_child(response: str, gold: str) -> Judgement:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    return Judgement(Verdict.RIGHT, extracted=str(child.pid))


def crashes_once(response: str, gold: str) -> Judgement:
    """Crashes on a path that does not exist, and makes it."""
    if gold == "bad" and not os.path.exists(response):
        os.mkdir(response)
        os._exit(1)
    return RIGHT
