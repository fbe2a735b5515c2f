"""The counts of the length benchmark against closed forms, on lengths that take no time."""

import numpy as np
import pytest

from laconic.benchmarks.rollout_lengths import PROMPT, TRACES, anytime_on_embedded, delethink_against_flat, exponent


@pytest.mark.parametrize("power", [1.0, 1.6])
def test_the_exponent_of_a_power_law_is_its_own(power):
    lengths = [1024, 2048, 4096, 8192]
    assert exponent(lengths, [3e-3 * length**power for length in lengths]) == pytest.approx(power)


def test_live_kv_grows_with_a_flat_thought_and_not_with_chunks():
    lengths, chunk, head = [16, 32, 64, 128], 8, 1
    figures = delethink_against_flat(lengths, chunk, pairs=1)
    # after the last step but one, the newest token has no KV yet
    flat = [TRACES * (PROMPT + length - 2) for length in lengths]
    assert figures["sides"]["flat"]["peak_kv_tokens"] == flat
    # kept for later chunks: the prompt, and the head of each trace, which may be another's as well
    most = TRACES * (PROMPT + chunk - 2) + PROMPT + TRACES * head
    chunked = np.array(figures["sides"]["delethink"]["peak_kv_tokens"])
    assert (chunked <= most).all() and (chunked > most - TRACES * head).all()
    assert [len(side["exponents"]) for side in figures["sides"].values()] == [1, 1]


def test_the_counters_of_anytime_are_what_the_model_is_fed():
    figures = anytime_on_embedded(prompts=2)
    assert figures["thoughts"] == 2 * 4 and figures["summaries"] == 2 * 4 * 16
    assert figures["reprefill_tokens"] <= 1 and figures["fed"] < figures["fed_without_kept_prefixes"]
