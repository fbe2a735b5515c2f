"""The scheduler: calls in, segments out, the same ones however the engine is occupied."""

from dataclasses import replace

import numpy as np
import pytest
from trees import RandomTree, prompt_group, random_script

from laconic.errors import RunError
from laconic.rollout.driver import CallSpec
from laconic.rollout.drivers import FlatDriver
from laconic.rollout.engines.fake import ScriptedEngine
from laconic.rollout.engines.protocol import Sampling
from laconic.rollout.records import Kind, Origin, Stop
from laconic.rollout.scheduler import run_groups

PROMPTS = [prompt_group(3, [5, 6]), prompt_group(9, [7])]
TABLE = {(5, 6): [[1, 2, 0], [3] * 9, [0]], (7,): [[4, 0], [4, 4, 4, 4, 0], [8, 0]]}


def flat(max_live=64, **options):
    driver = FlatDriver(group_size=3, max_completion=4)
    return run_groups(driver, ScriptedEngine(TABLE, max_live=max_live), PROMPTS, seed=1, step=2, **options)


def test_flat_groups_hold_one_segment_per_answer_in_the_order_of_asking():
    first, second = flat()
    assert [segment.ids.tolist() for segment in first.segments] == [[5, 6], [1, 2, 0], [3, 3, 3, 3], [0]]
    assert [segment.stop for segment in first.segments] == [None, Stop.EOS, Stop.LENGTH, Stop.EOS]
    assert first.truncated(first.leaves[1]) and not first.truncated(first.leaves[0])
    assert [segment.ids.tolist() for segment in second.segments[1:]] == [[4, 0], [4, 4, 4, 4], [8, 0]]
    assert (first.id, second.id) == (3, 9) and first.problem_id == "problem/3"
    assert [rollout.leaves for rollout in first.rollouts] == [(0,), (1,), (2,)]


def test_costs_count_a_prompt_once_and_every_decoded_token():
    first, _ = flat()
    assert first.cost.decoded == 8 and first.cost.prefilled == 2 and first.cost.cached == 4
    # l*a + l*(l-1)/2 for lengths 3, 4 and 1 after a prompt of 2
    assert first.cost.kv_read == (6 + 3) + (8 + 6) + 2


@pytest.mark.parametrize("max_live", [1, 2, 5])
@pytest.mark.parametrize("max_in_flight", [None, 1, 3])
def test_the_result_does_not_depend_on_how_many_calls_are_live(max_live, max_in_flight):
    for group, expected in zip(flat(max_live, max_in_flight=max_in_flight), flat(), strict=True):
        for segment, other in zip(group.segments, expected.segments, strict=True):
            assert np.array_equal(segment.ids, other.ids) and segment.stop is other.stop


def test_runs_repeat_exactly():
    def run():
        groups = run_groups(RandomTree(4), ScriptedEngine(random_script(4), max_live=3), PROMPTS, seed=1, step=2)
        return [[(s.parent, s.parent_off, s.kind, s.ids.tolist(), s.stop) for s in g.segments] for g in groups]

    assert run() == run()


class Scripted:
    """A driver made of two lists: first calls, and calls after the first segment."""

    def __init__(self, first, then=()):
        self.first, self.then = first, list(then)

    def start(self, group):
        return self.first

    def on_segment(self, group, segment):
        then, self.then = self.then, []
        return then

    def finish(self, group):
        return group


def test_copies_and_forced_tokens_become_segments_before_the_sampled_one():
    spec = CallSpec(
        1,
        1,
        5,
        1,
        Sampling(),
        forced=np.array([8, 9], np.int32),
        copies=(Origin(1, 1, 2), Origin(0, 0, 1)),
        at_limit=Stop.BUDGET,
    )
    engine = ScriptedEngine({(5, 6): [[1, 2, 3, 0]], (5, 6, 1, 2, 5, 8, 9): [[4] * 9]})
    (group,) = run_groups(Scripted([CallSpec(0, 2, 9, 0, Sampling())], [spec]), engine, PROMPTS[:1], seed=0, step=0)
    assert [segment.kind for segment in group.segments[2:]] == [Kind.CONTEXT_COPY, Kind.FORCED, Kind.SAMPLED]
    assert [segment.ids.tolist() for segment in group.segments[2:]] == [[2, 5], [8, 9], [4] * 5]
    assert group.segments[4].stop is Stop.BUDGET
    assert np.isnan(group.segments[2].logp).all() and np.isnan(group.segments[3].logp).all()


def test_a_stop_token_is_kept_and_named():
    driver = Scripted([CallSpec(0, 2, 9, 0, Sampling(), stop_ids=(2,))])
    (group,) = run_groups(driver, ScriptedEngine({(5, 6): [[1, 2, 3]]}), PROMPTS[:1], seed=0, step=0)
    assert group.segments[1].ids.tolist() == [1, 2] and group.segments[1].stop is Stop.STOP_TOKEN


def test_sooner_and_deeper_calls_run_first_when_the_engine_is_bounded():
    order = []

    def script(context, request):
        order.append((request.noise.leaf, context))
        return [1]

    first = [CallSpec(0, 2, 5, leaf, Sampling(), priority=leaf == 0) for leaf in range(3)]
    driver = Scripted(first, [CallSpec(2, 2, 5, 7, Sampling())])
    run_groups(driver, ScriptedEngine(script), PROMPTS[:1], seed=0, step=0, max_in_flight=1)
    assert [leaf for leaf, _ in order] == [1, 7, 2, 0]


def test_progress_adds_up_to_the_tokens_decoded_and_the_groups():
    seen = []
    groups = flat(max_live=2, progress=lambda tokens, finished: seen.append((tokens, finished)))
    assert sum(tokens for tokens, _ in seen) == sum(group.cost.decoded for group in groups)
    assert sum(finished for _, finished in seen) == 2


def test_ctrl_c_aborts_what_is_live_and_propagates():
    class Interrupted(ScriptedEngine):
        def step(self):
            if self.steps == 2:
                raise KeyboardInterrupt
            return super().step()

    engine = Interrupted(TABLE, max_live=2)
    with pytest.raises(KeyboardInterrupt):
        run_groups(FlatDriver(3, 4), engine, PROMPTS, seed=0, step=0)
    assert not engine.busy


def test_an_engine_that_loses_requests_is_an_error_and_not_an_endless_wait():
    class Forgetful(ScriptedEngine):
        def submit(self, requests):
            super().submit([request for request in requests if request.id != 4])

    with pytest.raises(RunError, match=r"1 requests have no completion \(ids 4,"):
        run_groups(FlatDriver(3, 4), Forgetful(TABLE), PROMPTS, seed=0, step=0)


def test_a_group_without_calls_is_finished_at_once():
    (group,) = run_groups(Scripted([]), ScriptedEngine({}), PROMPTS[:1], seed=0, step=0)
    assert len(group.segments) == 1


def test_equal_group_ids_are_refused():
    with pytest.raises(ValueError, match="unique"):
        run_groups(FlatDriver(), ScriptedEngine(TABLE), [PROMPTS[0], PROMPTS[0]], seed=0, step=0)


def test_an_engine_that_ends_calls_short_is_an_error():
    engine = ScriptedEngine(TABLE)
    submit = engine.submit
    engine.submit = lambda requests: submit([replace(request, max_tokens=2) for request in requests])
    with pytest.raises(RunError, match="ended a call for its length at 2 tokens, but it was asked for 4"):
        run_groups(FlatDriver(group_size=3, max_completion=4), engine, PROMPTS, seed=1, step=2)
