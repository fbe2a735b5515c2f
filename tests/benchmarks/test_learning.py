"""The comparison of all methods: what is measured again, what a failure leaves, which claims follow; no run is made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from laconic.benchmarks import figures_learning, learning
from laconic.benchmarks.claim import source_hash, write_claims
from laconic.benchmarks.learning_anytime import area, gain, over_seeds
from laconic.errors import ConfigError


def result(method: str, seed: int = 1, **changes: Any) -> dict[str, Any]:
    usual = {
        "accuracy": 0.9,
        "accuracy_change": 0.0,
        "accuracy_change_ci95": [-0.01, 0.01],
        "tokens": 80.0,
        "token_ratio": 0.5,
        "aes": 0.5,
        "tokens_per_right": 90.0,
        "signal": 0.8,
        "seconds": 60.0,
        "seconds_with_start": 70.0,
    }
    return {"method": method, "seed": seed, **usual, **changes}


def headline(**changes: Any) -> list[dict[str, Any]]:
    return [result(method, seed, **changes) for method in learning.HEADLINE for seed in learning.SEEDS]


def test_headline_methods_come_first_and_none_is_left_out() -> None:
    methods = learning.trained_methods()
    assert tuple(methods[: len(learning.HEADLINE)]) == learning.HEADLINE and set(learning.QUICK) <= set(methods)
    assert len(methods) == len(set(methods)) == len(learning.METHODS)


def test_a_result_counts_only_for_the_conditions_it_was_measured_under(tmp_path: Path) -> None:
    now, path = learning.conditions("gvm", 500, 10), tmp_path / "gvm-1.json"
    assert {*now["sources"]} >= {"train/samplers/gvm.py", "configs/methods/gvm.yaml", learning.WEIGHTS}
    assert all(now["sources"].values()) and not learning.up_to_date(path, now)
    path.write_text(json.dumps(result("gvm", **now)))
    assert learning.up_to_date(path, learning.conditions("gvm", 500, 10))
    assert not learning.up_to_date(path, learning.conditions("gvm", 501, 10))
    assert not learning.up_to_date(path, learning.conditions("gvm", 500, 11))
    assert not learning.up_to_date(path, learning.conditions("pds", 500, 10))


def test_what_is_left_of_other_conditions_is_not_gone_on_with(tmp_path: Path) -> None:
    mark, left = tmp_path / "conditions" / "a.json", tmp_path / "runs" / "a" / "config.yaml"

    def leave() -> None:
        left.parent.mkdir(parents=True, exist_ok=True)
        left.touch()

    leave()
    learning.forget_other(mark, {"budget": 1}, left.parent)
    assert not left.exists(), "nobody knows what it was made under"
    leave()
    learning.forget_other(mark, {"budget": 1}, left.parent)
    assert left.exists()
    learning.forget_other(mark, {"budget": 2}, left.parent)
    assert not left.exists()


def test_a_method_that_fails_stops_no_other_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried: list[str] = []

    def run(method: str, seed: int, base: Path, now: Any, work: Path) -> dict[str, Any]:
        tried.append(method)
        if method == "dot" and tried.count("dot") == 1:
            raise RuntimeError("no such driver")
        return result(method, seed, **now)

    monkeypatch.setattr(learning, "run", run)
    monkeypatch.setattr(learning, "evaluate", lambda *_: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = ["--quick", "--work", str(tmp_path)]
    with pytest.raises(SystemExit, match="dot, seed 1: no such driver"):
        learning.main(command)
    assert tried == list(learning.QUICK) and "dot, seed 1: failed" in capsys.readouterr().out
    learning.main(command)
    assert tried == [*learning.QUICK, "dot"], "the others have their results"
    with pytest.raises(ConfigError, match="did you mean 'dot'"):
        learning.main([*command, "--only", "dott"])


def test_the_best_ratio_is_of_a_method_that_lost_no_accuracy_under_any_seed() -> None:
    outcomes = [*headline(), result("alp", token_ratio=0.1, accuracy_change_ci95=[-0.03, 0.0])]
    outcomes += [result("rloo", token_ratio=0.3)]
    claims = {claim["id"]: claim for claim in learning.ratio_claims(outcomes)}
    assert claims["learning.best_token_ratio"]["value"] == 0.3
    assert learning.best_of(outcomes) == "rloo" and claims["learning.best_token_ratio"]["samples"] == [0.3]
    assert claims["learning.token_ratio.gvm"]["samples"] == [0.5] * 3 and len(claims) == 1 + len(learning.HEADLINE)
    worse = learning.ratio_claims(headline(accuracy_change_ci95=[-0.5, -0.4]))
    assert "learning.best_token_ratio" not in {claim["id"] for claim in worse}


def test_gvm_is_compared_with_grpo_seed_by_seed() -> None:
    accuracy = {("gvm", 1): 0.95, ("gvm", 2): 0.92, ("gvm", 3): 0.91, ("grpo", 2): 0.93}
    outcomes = [
        result(method, seed, accuracy=accuracy.get((method, seed), 0.9))
        for method in ("gvm", "grpo")
        for seed in learning.SEEDS
    ]
    claim = learning.gvm_claim(outcomes)
    assert claim["samples"] == pytest.approx([0.05, -0.01, 0.01]) and claim["value"] == pytest.approx(0.01)


def test_a_model_without_a_right_answer_has_no_tokens_per_right_answer() -> None:
    collapsed = [result("grpo", accuracy=0.0, tokens_per_right=None)]
    assert learning.table(collapsed).row_count == 1
    assert str(figures_learning.mean(collapsed, "tokens_per_right")) == "nan"


def test_a_claim_that_takes_models_stays_until_its_sources_or_sizes_change(tmp_path: Path) -> None:
    sizes = {"tokens": 500, "problems": 10}
    measured = learning.finding("gain", 0.1, [0.0, 0.2], "grpo", ("grpo", "brpo"))
    assert learning.unchanged_claim("gain", sizes, tmp_path) is None, "nothing was measured yet"
    path = write_claims("learning", "python benchmarks/learning.py", [measured], sizes, tmp_path)
    assert learning.unchanged_claim("gain", sizes, tmp_path) == measured
    assert learning.unchanged_claim("gain", {**sizes, "tokens": 501}, tmp_path) is None
    assert learning.unchanged_claim("another", sizes, tmp_path) is None
    path.write_text(path.read_text().replace(source_hash("train/credit/brpo.py") or "", "0" * 64))
    assert learning.unchanged_claim("gain", sizes, tmp_path) is None


def test_area_is_the_share_of_right_answers_over_all_budgets_and_its_gain_is_paired() -> None:
    leaves = [{"verdict": verdict} for verdict in ("wrong", "right", "right", None)]
    assert area({"leaves": leaves}) == 0.5
    assert over_seeds([{"a": 0.5, "b": 1.0}, {"b": 0.0, "a": 0.0}]) == {"a": 0.25, "b": 0.5}
    found = gain({"a": 0.25, "b": 0.5, "c": 0.5}, {"c": 0.75, "b": 0.75, "a": 0.25})
    assert found.delta == pytest.approx(1 / 6) and found.n == 3
