"""Counter-based noise: uniform, independent of neighbours, a function of its name alone."""

import numpy as np
import pytest

from laconic.rollout.engines.protocol import NoiseKey
from laconic.rollout.noise import stream_key, uniforms

# Shapes: K keys, P positions


def table(keys: list[NoiseKey], positions: int) -> np.ndarray:
    key_K = np.array([stream_key(key) for key in keys])
    return uniforms(key_K[:, None], np.arange(positions)[None])


def test_the_stream_of_key_0_is_the_published_splitmix64_sequence():
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert uniforms(0, np.arange(3)).tolist() == [((bits >> 12) + 0.5) / 2**52 for bits in published]


def test_keys_are_chained_through_the_same_mixer():
    def mix(x):
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    key = 0
    for part in (1, 2, 3, 4):
        key = mix(((key ^ part) + 0x9E3779B97F4A7C15) % 2**64)
    assert int(stream_key(NoiseKey(1, 2, 3, 4))) == key


def test_uniforms_stay_inside_the_open_interval_at_the_extreme_bits():
    # the map from bits to floats is monotone, so these are its ends
    assert (2**52 - 1 + 0.5) * 2.0**-52 < 1 and 0.5 * 2.0**-52 > 0
    u_KP = table([NoiseKey(0, 0, 0, leaf) for leaf in range(64)], 4096)
    assert u_KP.dtype == np.float64 and u_KP.min() > 0 and u_KP.max() < 1


@pytest.mark.parametrize("axis", ["seed", "step", "group", "leaf", "position"])
def test_neighbouring_keys_give_uniform_and_uncorrelated_draws(axis):
    """Chi-square over 64 bins (63 degrees of freedom: 99.9 % quantile 103.4), KS, and lag-1 correlation."""
    count = 1 << 14
    if axis == "position":
        u = uniforms(stream_key(NoiseKey(5, 6, 7, 8)), np.arange(count))
    else:
        names = [NoiseKey(**{"seed": 5, "step": 6, "group": 7, "leaf": 8, axis: index}) for index in range(count)]
        u = table(names, 1)[:, 0]
    observed = np.bincount((u * 64).astype(int), minlength=64)
    assert ((observed - count / 64) ** 2 / (count / 64)).sum() < 103.4
    ks = np.abs(np.sort(u) - (np.arange(count) + 0.5) / count).max()
    assert ks < 1.95 / np.sqrt(count)
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 4 / np.sqrt(count)
    pairs = np.bincount((u[:-1] * 8).astype(int) * 8 + (u[1:] * 8).astype(int), minlength=64)
    assert ((pairs - (count - 1) / 64) ** 2 / ((count - 1) / 64)).sum() < 103.4


def test_swapped_components_name_different_streams():
    keys = {int(stream_key(NoiseKey(*parts))) for parts in [(1, 2, 3, 4), (2, 1, 3, 4), (1, 2, 4, 3), (4, 3, 2, 1)]}
    assert len(keys) == 4


def test_negative_and_huge_components_are_allowed():
    assert stream_key(NoiseKey(-1, 0, 0, 0)) == stream_key(NoiseKey(2**64 - 1, 0, 0, 0))


def test_a_draw_does_not_depend_on_what_is_drawn_beside_it():
    keys = np.array([stream_key(NoiseKey(0, 0, 0, leaf)) for leaf in range(5)])
    together = uniforms(keys[:, None], np.arange(10))
    assert uniforms(keys[3], 7) == together[3, 7]
    assert np.array_equal(uniforms(keys[::-1, None], np.arange(10)), together[::-1])
