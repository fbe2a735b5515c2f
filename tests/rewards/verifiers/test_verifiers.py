"""The table of verifiers, and what holds for all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from laconic.errors import ConfigError
from laconic.rewards.verdict import Item, Judgement, Verdict
from laconic.rewards.verifiers import VERIFIERS, judge_item, resolve, self_test


@pytest.mark.parametrize("name", VERIFIERS)
def test_every_verifier_passes_its_known_pairs(name: str) -> None:
    assert self_test(name) is None


@pytest.mark.parametrize("name", VERIFIERS)
def test_a_response_cut_by_the_cap_is_not_searched(name: str) -> None:
    gold = "B" if name == "choice" else "72"
    response = rf"<think>x</think>\boxed{{{gold}}}" if name.startswith("math") else f"<think>x</think>{gold}"
    assert judge_item(Item(response, gold, name)).verdict is Verdict.RIGHT
    cut = judge_item(Item(response, gold, name, truncated=True))
    assert cut == Judgement(Verdict.TRUNCATED, reason="truncated")


def test_an_id_is_looked_up_and_an_import_path_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    assert resolve("exact") is VERIFIERS["exact"]
    assert resolve("bad_verifiers:prints").__name__ == "prints"


def test_an_unknown_id_names_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match="unknown verifier 'exakt'; known: choice, exact, .*; or give 'module:function'"
    ):
        resolve("exakt")


@pytest.mark.parametrize("name", ["no_such_module:judge", "json:no_such", ":judge", "json:"])
def test_an_import_path_that_leads_nowhere_is_a_config_error(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be imported"):
        resolve(name)


def test_a_verifier_that_contradicts_its_known_pairs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    assert "'lying_verifier:judge' says wrong of '7'" in (self_test("lying_verifier:judge") or "")
