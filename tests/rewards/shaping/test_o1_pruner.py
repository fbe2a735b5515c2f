"""Worked numbers of O1-Pruner's weights, and where its reference comes from."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from laconic.errors import ConfigError, DataError
from laconic.rewards.shaping import Responses
from laconic.rewards.shaping.o1_pruner import O1Pruner, standardised
from laconic.rewards.shaping.reference import read_reference

KNOWN = {"reference": {"p": [600.0, 0.5]}}
PAPER = O1Pruner(variant="paper", gate="none")


def responses(right: list[int], length: list[int], state: dict) -> Responses:
    return Responses.of(right, length, problem_N=("p",) * len(right), state=state)


def near(*values: float) -> object:
    return pytest.approx(values, abs=5e-5)


def test_weights_of_the_paper() -> None:
    rows = responses([1, 1, 1, 0, 0], [300, 600, 1200, 300, 1200], KNOWN)
    assert PAPER(rows) == near(2.0, 1.0, 0.5, 0.0, -1.5)


def test_standardised_weights_of_the_code() -> None:
    assert standardised(np.array([2.0, 1.0, 0.5, -1.5])) == near(1.1767, 0.3922, 0.0, -1.5689)
    rows = responses([1, 1, 1, 0], [300, 600, 1200, 1200], KNOWN)
    assert O1Pruner(gate="none")(rows) == near(1.1767, 0.3922, 0.0, -1.5689)


def test_equal_weights_standardise_to_zero() -> None:
    assert O1Pruner()(responses([1, 1], [300, 300], KNOWN)).tolist() == [0.0, 0.0]


def test_the_code_clips_weights_before_it_standardises_them() -> None:
    rows = responses([1, 1, 0], [10, 50, 600], {"reference": {"p": [600.0, 1.0]}})
    assert PAPER(rows) == near(59.0, 11.0, -2.0)
    assert O1Pruner(gate="none")(rows) == pytest.approx(standardised(np.array([4.0, 4.0, -2.0])), abs=1e-12)


def test_as_published_a_short_wrong_response_beats_a_right_one_and_by_default_it_does_not() -> None:
    rows = responses([0, 1], [150, 600], KNOWN)
    assert PAPER(rows) == near(2.0, 1.0)
    assert O1Pruner(variant="paper")(rows) == near(-1.0, 1.0)
    assert {"dominance", "all_wrong"} == set(PAPER.exceptions) and not O1Pruner().exceptions


def test_a_long_right_response_stays_above_a_wrong_one() -> None:
    rows = responses([1, 0], [32_768, 1], {"reference": {"p": [1.0, 0.5]}})
    right, wrong = O1Pruner(variant="paper", accuracy_weight=1.01)(rows)
    assert right > wrong


def test_without_a_file_a_problem_is_measured_on_its_first_group() -> None:
    shaping = O1Pruner(variant="paper", gate="none")
    first = responses([1, 0], [300, 900], shaping.first_state())
    assert shaping(first) == near(2.0, 600 / 900 - 2)
    state = shaping.next_state(first)
    assert state == {"reference": {"p": [600.0, 0.5]}}
    later = responses([1, 1], [200, 100], state)
    assert shaping(later) == near(3.0, 6.0)
    assert shaping.next_state(later) == state and later.state == state


def test_the_samples_of_an_evaluation_are_a_reference(samples) -> None:
    path = samples({"p": [(300, True), (900, False)], "q": [(10, True)]})
    assert read_reference(str(path)) == {"p": [600.0, 0.5], "q": [10.0, 1.0]}
    shaping = O1Pruner(variant="paper", gate="none", reference=str(path.parent))
    state = json.loads(json.dumps(shaping.first_state()))
    rows = responses([1, 0], [300, 1200], state)
    assert shaping(rows) == near(2.0, -1.5)
    assert shaping.next_state(rows) == state


def test_a_problem_that_the_file_lacks_is_an_error_that_names_it(samples) -> None:
    shaping = O1Pruner(reference=str(samples({"q": [(10, True)]})))
    with pytest.raises(DataError, match="no samples of problem 'p' .it has 'q'."):
        shaping(responses([1], [5], shaping.first_state()))


def test_files_that_are_no_samples_are_refused(tmp_path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pytest.raises(DataError, match="no samples of a reference at .*laconic eval"):
        O1Pruner(reference=str(tmp_path)).first_state()
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        O1Pruner(reference=str(tmp_path / "text.parquet")).first_state()
    pq.write_table(pa.table({"problem_id": ["p"]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="no column 'n_response'"):
        O1Pruner(reference=str(tmp_path / "other.parquet")).first_state()


def test_a_resumed_run_goes_on_with_the_same_reference_to_the_last_bit() -> None:
    shaping, rng = O1Pruner(), np.random.default_rng(5)
    state = resumed = shaping.first_state()
    for _ in range(8):
        names = tuple(f"problem {n}" for n in rng.integers(0, 9, 15))
        rows = Responses.of(rng.random(15) < 0.6, rng.integers(0, 999, 15), problem_N=names, state=state)
        again = replace(rows, state=resumed)
        assert np.array_equal(shaping(rows), shaping(again))
        state, resumed = shaping.next_state(rows), json.loads(json.dumps(shaping.next_state(again)))
        assert resumed == state


@pytest.mark.parametrize("settings", [{"accuracy_weight": 1.0}, {"variant": "both"}, {"gate": "sign_split"}])
def test_settings_that_break_an_invariant_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"o1_pruner.{next(iter(settings))}"):
        O1Pruner(**settings)  # type: ignore[arg-type]
