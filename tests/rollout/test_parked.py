"""Partial rollouts: parked calls go on where they stopped, in memory and from a file, and nothing is lost."""

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import MODELS
from trees import RandomTree, prompt_group

from laconic.errors import RunError
from laconic.rollout.driver import CallSpec
from laconic.rollout.drivers import DRIVERS, FlatDriver
from laconic.rollout.engines.fake import ScriptedEngine
from laconic.rollout.engines.protocol import Sampling
from laconic.rollout.engines.transformers import TransformersEngine
from laconic.rollout.parked import Parked, read_parked, write_parked
from laconic.rollout.records import Kind, Origin, Stop
from laconic.rollout.scheduler import run_groups, run_or_park

PROMPTS = [prompt_group(0, [5, 6, 7]), prompt_group(1, [8])]


def token_by_token(context, request):
    """A text whose tokens depend on the noise alone, as with a sampled policy whose weights do not change."""
    key, at = (request.noise.step, request.noise.group, request.noise.leaf), request.position
    return [random.Random(f"{key}/{at + index}").choice([0, *range(1, 10)]) for index in range(request.max_tokens)]


class OrderFree(RandomTree):
    """Random trees whose decisions look at a path alone: a branch grows alike in whichever order others end."""

    def on_segment(self, group, segment):
        key = (self.seed, group.id, *group.context_ids(segment.id).tolist())
        rng, depth = random.Random(str(key)), len(group.path(segment.id))
        specs = []
        for number in range(rng.choice([0, 1, 2, 3]) if depth < 6 else 0):
            kept = rng.randint(0, len(segment)) if rng.random() < 0.4 else len(segment)
            forced = [rng.randint(1, 9) for _ in range(rng.choice([0, 0, 2]))]
            copies = (Origin(segment.id, len(segment) // 2, len(segment)),) if rng.random() < 0.3 else ()
            specs.append(self._spec(segment.id, kept, hash((*key, number)), forced, copies))
        return specs


def branches(group, segment=0):
    """The tree from a segment on, without the order of its branches and the numbers of its segments."""
    one = group.segments[segment]
    below = [s.id for s in group.segments[1:] if s.parent == segment]
    facts = (one.parent_off, one.kind, one.ids.tolist(), str(one.stop), one.cost.decoded, one.cost.kv_read)
    return facts, sorted(branches(group, child) for child in below)


def generations(driver, make_engine, park_after, *, versions=False, through=None, prompts=PROMPTS):
    """Finished groups by id, and what was parked after each generation."""
    engine = make_engine()
    done, waiting, rounds, fresh = {}, [], [], prompts
    while fresh or waiting:
        engine.sync(None, len(rounds) if versions else 0)
        finished, waiting = run_or_park(
            driver, engine, fresh, seed=1, step=4 + len(rounds), park_after=park_after, parked=waiting
        )
        assert not engine.busy
        if through is not None:
            write_parked(through, waiting)
            waiting = read_parked(through)
        done |= {group.id: group for group in finished}
        rounds.append(waiting)
        fresh = []
    return [done[group.id] for group in prompts], rounds


def tree(group):
    return [
        (s.parent, s.parent_off, s.kind, s.ids.tolist(), s.stop, s.origin, s.cost.decoded, s.cost.kv_read)
        for s in group.segments
    ], (group.leaves, group.rollouts, group.step)


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 9))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_random_trees_are_the_same_however_often_their_calls_are_parked(seed, park_after, max_live):
    driver = OrderFree(seed)

    def engine():
        return ScriptedEngine(token_by_token, max_live=max_live)

    whole = run_groups(driver, engine(), PROMPTS, seed=1, step=4)
    parked, rounds = generations(driver, engine, park_after, versions=True)
    assert list(map(branches, parked)) == list(map(branches, whole))
    for group in parked:
        group.validate()
        for segment in group.segments:
            if segment.kind is Kind.SAMPLED:
                assert len(segment.version_T) == len(segment) and (np.diff(segment.version_T) >= 0).all()
                counts = np.unique(segment.version_T, return_counts=True)[1].tolist()
                assert all(count == park_after for count in counts[:-1]) and max(counts) <= park_after
    for waiting in rounds:
        for one in waiting:
            one.group.validate()
            assert not one.finished
            for spec, segment in one.calls:
                assert 0 < len(segment) < spec.max_tokens and len(segment) % park_after == 0
                assert not len(one.group.segments[segment.id]) and one.group.segments[segment.id].stop is None


def test_each_token_keeps_the_version_and_the_log_prob_it_was_decoded_with():
    engine = ScriptedEngine(lambda context, request: [3] * 20)
    driver = FlatDriver(group_size=1, max_completion=5)
    engine.sync(None, 7)
    done, parked = run_or_park(driver, engine, PROMPTS[:1], seed=0, step=0, park_after=2)
    assert not done
    engine.sync(None, 9)
    done, parked = run_or_park(driver, engine, [], seed=0, step=1, park_after=2, parked=parked)
    assert not done
    engine.sync(None, 12)
    (group,), parked = run_or_park(driver, engine, [], seed=0, step=2, park_after=2, parked=parked)
    assert not parked
    answer = group.segments[1]
    assert answer.earlier == ((7, 2), (9, 2)) and answer.policy_version == 12 and answer.stop is Stop.LENGTH
    assert answer.version_T.tolist() == [7, 7, 9, 9, 12]
    assert (answer.logp * -8).tolist() == [1, 2, 1, 2, 1]  # the engine's, counted from each request's first token
    assert answer.cost.decoded == 5 and answer.cost.kv_read == 3 + 4 + 5 + 6 + 7
    assert answer.cost.prefilled == 3 + 5 + 7, "after a change of weights the context is read in again"


def test_what_finishes_within_the_cap_is_not_parked_and_its_group_waits_for_the_rest():
    table = {(5, 6, 7): [[1, 0], [2, 2, 2, 2, 0]], (5, 6, 7, 2, 2, 2): [[9, 9, 9], [2, 0]], (8,): [[0], [1, 1, 0]]}
    driver, engine = FlatDriver(group_size=2, max_completion=8), ScriptedEngine(table)
    (second,), (first,) = run_or_park(driver, engine, PROMPTS, seed=0, step=0, park_after=3)
    assert second.id == 1 and first.group.id == 0
    assert [segment.ids.tolist() for segment in first.group.segments] == [[5, 6, 7], [1, 0], []]
    ((spec, begun),) = first.calls
    assert begun.ids.tolist() == [2, 2, 2] and spec.leaf == 1
    (group,), left = run_or_park(driver, engine, [], seed=0, step=1, park_after=3, parked=[first])
    assert not left and [segment.ids.tolist() for segment in group.segments[1:]] == [[1, 0], [2, 2, 2, 2, 0]]


@pytest.mark.parametrize("name", ["flat", "random"])
@pytest.mark.parametrize("kind", sorted(MODELS))
def test_a_model_with_unchanged_weights_writes_the_same_parked_or_not(kind, name):
    driver = FlatDriver(3, 30) if name == "flat" else OrderFree(5, segment_tokens=9)
    prompts = [prompt_group(index, [3 + index, 5, 7]) for index in range(4)]

    def engine():
        return TransformersEngine(MODELS[kind], [1], max_live=5, max_context=200)

    whole = run_groups(driver, engine(), prompts, seed=1, step=4)
    parked, rounds = generations(driver, engine, 4, prompts=prompts)
    assert len(rounds) > 1
    for group, expected in zip(parked, whole, strict=True):
        assert branches(group) == branches(expected)
        logps, others = (np.sort(np.concatenate([s.logp for s in one.segments[1:]])) for one in (group, expected))
        np.testing.assert_allclose(logps, others, atol=2e-5)
        assert not any(segment.earlier for segment in group.segments), "the version was the same all along"


def test_treepo_is_the_same_parked_or_not():
    driver = DRIVERS["treepo"](group_size=6, max_completion=24, depth=4, answer="eos", repetition="off")
    whole = run_groups(driver, ScriptedEngine(token_by_token), PROMPTS, seed=1, step=4)
    parked, rounds = generations(driver, lambda: ScriptedEngine(token_by_token), 2, versions=True)
    assert len(rounds) > 2 and list(map(tree, parked)) == list(map(tree, whole))


def test_the_file_keeps_everything_to_the_bit(tmp_path):
    driver = OrderFree(11)
    plain, rounds = generations(driver, lambda: ScriptedEngine(token_by_token), 2, versions=True)
    read, again = generations(
        driver, lambda: ScriptedEngine(token_by_token), 2, versions=True, through=tmp_path / "parked.parquet"
    )
    assert len(rounds) == len(again) > 2 and sum(map(len, rounds)) > 2
    for group, other in zip(plain, read, strict=True):
        assert tree(group) == tree(other)
        for segment, same in zip(group.segments, other.segments, strict=True):
            assert segment.earlier == same.earlier and segment.policy_version == same.policy_version
            assert segment.logp.tobytes() == same.logp.tobytes()


def test_the_file_keeps_calls_and_finished_groups(tmp_path):
    (group,) = run_groups(RandomTree(2), ScriptedEngine(token_by_token), PROMPTS[:1], seed=1, step=4)
    sampling = Sampling(0.7, 0.9, 5)
    spec = CallSpec(0, 3, 40, 2, sampling, stop_ids=(4, 9), priority=-3, at_limit=Stop.BUDGET, keep=2)
    begun = replace(group.segments[1], ids=np.array([1, 2], np.int32), logp=np.float32([-0.1, -1 / 3]), stop=None)
    write_parked(tmp_path / "file", [Parked(group), Parked(PROMPTS[1], ((spec, begun),))])
    finished, parked = read_parked(tmp_path / "file")
    assert finished.finished and tree(finished.group) == tree(group) and finished.group.problem_id == group.problem_id
    ((read_spec, read_begun),) = parked.calls
    for name in ("parent", "parent_off", "max_tokens", "leaf", "sampling", "stop_ids", "priority", "at_limit", "keep"):
        assert getattr(read_spec, name) == getattr(spec, name), name
    assert read_begun.ids.tolist() == [1, 2] and read_begun.logp.tobytes() == begun.logp.tobytes()
    assert (read_begun.id, read_begun.stop, read_begun.cost) == (begun.id, None, begun.cost)


def test_a_resumed_group_may_not_share_its_id_with_a_new_one():
    driver, engine = FlatDriver(1, 9), ScriptedEngine(lambda context, request: [3] * 20)
    _, parked = run_or_park(driver, engine, PROMPTS[:1], seed=0, step=0, park_after=2)
    with pytest.raises(ValueError, match="unique"):
        run_or_park(driver, engine, PROMPTS[:1], seed=0, step=1, park_after=2, parked=parked)


def test_an_engine_that_dies_leaves_the_parked_groups_as_they_were(tmp_path):
    class Dying(ScriptedEngine):
        def step(self):
            raise RunError("the server is gone")

    driver = FlatDriver(2, 9)
    _, parked = run_or_park(driver, ScriptedEngine(token_by_token), PROMPTS, seed=1, step=4, park_after=1)
    write_parked(tmp_path / "before", parked)
    with pytest.raises(RunError, match="gone"):
        run_or_park(driver, Dying(token_by_token), [], seed=1, step=5, park_after=1, parked=parked)
    write_parked(tmp_path / "after", parked)
    assert (tmp_path / "before").read_bytes() == (tmp_path / "after").read_bytes() and parked
