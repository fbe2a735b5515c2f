"""Worked numbers and edges of the cosine reward and of the repetition penalty that goes with it."""

from __future__ import annotations

import numpy as np
import pytest

from laconic.errors import ConfigError, DataError
from laconic.rewards.shaping import Cosine, NgramRep, Responses
from laconic.rewards.shaping.ngram_rep import repeated_tokens, repeats

PUBLISHED = Cosine(exceed_right=True, all_wrong_groups=True)
CAP = 16_384
ABCABCABC = np.array([0, 1, 2] * 3, np.int32)


def near(*values: float) -> object:
    return pytest.approx(values, abs=5e-7)


def share(value: float) -> object:
    return pytest.approx(value, abs=5e-7)


@pytest.mark.parametrize("shaping", [Cosine(), PUBLISHED])
@pytest.mark.parametrize(
    ("length", "right", "wrong"),
    [(0, 2.0, -10.0), (4096, 1.853553, -8.535534), (8192, 1.5, -5.0), (12_288, 1.146447, -1.464466)],
)
def test_right_and_wrong_along_the_cosine(shaping: Cosine, length: int, right: float, wrong: float) -> None:
    assert shaping(Responses.of([1, 0], [length, length], cap=CAP)) == near(right, wrong)


def test_a_response_within_sixteen_tokens_of_the_cap_has_run_into_it() -> None:
    rows = Responses.of([1, 0, 0, 1], [CAP - 16, CAP - 16, CAP - 17, CAP], cap=CAP)
    assert PUBLISHED(rows) == pytest.approx([-10, -10, 0, -10], abs=1e-3)
    assert Cosine()(rows) == pytest.approx([1, -10, 0, 1], abs=1e-3)


def test_an_all_wrong_group_is_paid_for_length_only_if_asked_to() -> None:
    rows = Responses.of([0, 0, 0], [0, 8192, CAP], cap=CAP)
    assert PUBLISHED(rows) == near(-10, -5, -10)
    assert Cosine()(rows).tolist() == [0, 0, 0]


def test_what_the_published_values_break_is_named() -> None:
    assert not Cosine().exceptions and Cosine().range().dominant
    assert {*PUBLISHED.exceptions} == {"dominance", "all_wrong"} and not PUBLISHED.range().dominant


@pytest.mark.parametrize("settings", [{"right_short": 0.5}, {"right_long": -1.0, "right_short": 3.0}, {"margin": -1}])
def test_cosine_settings_that_break_an_invariant_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"cosine.{next(iter(settings))}"):
        Cosine(**settings)  # type: ignore[arg-type]


def test_cosine_needs_the_cap() -> None:
    with pytest.raises(DataError, match="cap"):
        Cosine()(Responses.of([1], [5]))


def test_seven_trigrams_of_which_three_differ() -> None:
    assert repeats(ABCABCABC, 3).tolist() == [False] * 3 + [True] * 4
    assert NgramRep(ngram=3).share(ABCABCABC) == share(0.571429)


def test_the_dense_rule_covers_the_tokens_of_repeated_ngrams_once() -> None:
    assert repeated_tokens(ABCABCABC, 3).tolist() == [False] * 3 + [True] * 6
    assert NgramRep(ngram=3, measure="tokens").share(ABCABCABC) == share(6 / 9)
    # One repeat in the middle: its three tokens and no others.
    assert repeated_tokens(np.array([5, 6, 7, 1, 5, 6, 7, 2], np.int32), 3).tolist() == [False] * 4 + [True] * 3 + [
        False
    ]


def test_only_wrong_responses_of_groups_with_a_right_one_are_punished() -> None:
    ids_G = (ABCABCABC, ABCABCABC, np.arange(9, dtype=np.int32))
    mixed, wrong = Responses.of([1, 0, 0], [9, 9, 9], ids_N=ids_G), Responses.of([0, 0, 0], [9, 9, 9], ids_N=ids_G)
    assert NgramRep(ngram=3, penalty=0.7)(mixed) == near(1, -0.4, 0)
    assert NgramRep(ngram=3)(wrong).tolist() == [0, 0, 0]
    assert NgramRep(ngram=3, penalty=0.7, all_wrong_groups=True)(wrong) == near(-0.4, -0.4, 0)


@pytest.mark.parametrize("measure", ["ngrams", "tokens"])
@pytest.mark.parametrize("length", [0, 2, 3])
def test_a_response_of_at_most_one_ngram_repeats_nothing(measure: str, length: int) -> None:
    assert NgramRep(ngram=3, measure=measure).share(ABCABCABC[:length]) == 0.0  # type: ignore[arg-type]


def test_a_token_id_is_compared_whole() -> None:
    # 256 and 1 share bytes; as int32 they differ.
    assert not repeats(np.array([256, 1, 65_536], np.int32), 1).any()
    assert repeats(np.array([300, 300], np.int64), 1).tolist() == [False, True]


@pytest.mark.parametrize("settings", [{"ngram": 0}, {"penalty": 0.0}, {"measure": "words"}])
def test_repetition_settings_that_do_nothing_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"ngram_rep.{next(iter(settings))}"):
        NgramRep(**settings)  # type: ignore[arg-type]
