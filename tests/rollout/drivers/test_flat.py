"""The flat driver."""

import numpy as np
import pytest

from laconic.errors import ConfigError
from laconic.rollout.drivers import DRIVERS, FlatDriver
from laconic.rollout.engines.protocol import Sampling
from laconic.rollout.records import Group, Kind, Segment, Stop

PROMPT = Segment(0, None, 0, Kind.PROMPT, np.array([5, 6], np.int32), np.full(2, np.nan, np.float32))


def test_start_asks_for_one_call_per_answer_with_noise_streams_of_their_own():
    specs = FlatDriver(group_size=3, max_completion=7, sampling=Sampling(0.5)).start(Group(0, "p", (PROMPT,)))
    assert [(spec.parent, spec.parent_off, spec.max_tokens, spec.leaf) for spec in specs] == [
        (0, 2, 7, 0),
        (0, 2, 7, 1),
        (0, 2, 7, 2),
    ]
    assert all(spec.sampling == Sampling(0.5) and spec.at_limit is Stop.LENGTH for spec in specs)


def test_it_is_in_the_table_and_names_the_setting_that_is_wrong():
    assert DRIVERS["flat"] is FlatDriver
    with pytest.raises(ConfigError, match="rollout.group_size is 0"):
        FlatDriver(group_size=0)
    with pytest.raises(ConfigError, match="rollout.max_completion is -1"):
        FlatDriver(max_completion=-1)
