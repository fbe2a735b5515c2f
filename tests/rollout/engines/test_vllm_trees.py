"""The same driver on the scripted engine, the embedded engine and vLLM gives the same tree."""

import numpy as np
import pytest
from trees import prompt_group
from vllm_models import BLOCK, EOS, REAL, make, prompts

from laconic.errors import ConfigError
from laconic.rollout.drivers import AnytimeDriver, DelethinkDriver, FlatDriver, TreePODriver
from laconic.rollout.engines.fake import ScriptedEngine
from laconic.rollout.engines.protocol import Sampling
from laconic.rollout.engines.transformers import TransformersEngine
from laconic.rollout.scheduler import run_groups

pytestmark = pytest.mark.vllm

GREEDY = {"sampling": Sampling(0.0)}
DRIVERS = {
    "treepo": TreePODriver(
        width=2, depth=4, segment_tokens=12, group_size=8, max_completion=48, answer="eos", repetition="off", **GREEDY
    ),
    "delethink": DelethinkDriver(chunk=24, head=4, tail=8, max_chunks=4, group_size=3, max_completion=90, **GREEDY),
    "anytime": AnytimeDriver(
        thinking_tokens=40, summary_tokens=6, group_size=2, max_completion=80, cut=(7, 8), header=(6,), think_end=(8,),
        **GREEDY,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def vllm():
    from laconic.rollout.engines.vllm_colocated import VllmEngine

    engine = VllmEngine(make(True), [EOS], max_live=32, max_context=400, allowed_vocab=REAL)
    engine.sync(None, 0)
    yield engine
    engine.close()


class Recorder:
    """An engine that notes the longest answer to each context: the script of the next one."""

    def __init__(self, engine):
        self.engine, self.script, self._open = engine, {}, {}

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def submit(self, requests):
        self._open |= {request.id: tuple(request.context.tolist()) for request in requests}
        self.engine.submit(requests)

    def step(self):
        done = self.engine.step()
        for completion in done:
            context = self._open.pop(completion.request)
            self.script[context] = max(self.script.get(context, []), completion.ids.tolist(), key=len)
        return done


def groups(count, low, high):
    return [prompt_group(i, ids.tolist()) for i, ids in enumerate(prompts(count, low, high, seed=4))]


def shape(group):
    segments = [(s.id, s.parent, s.parent_off, s.kind, s.ids.tolist(), s.stop) for s in group.segments]
    return segments, [(leaf.segment, leaf.weight) for leaf in group.leaves], [r.leaves for r in group.rollouts]


@pytest.mark.parametrize("name", DRIVERS)
def test_a_driver_grows_the_same_tree_on_every_engine(vllm, name):
    driver = DRIVERS[name]
    embedded = Recorder(TransformersEngine(vllm.model, [EOS], max_context=400, allowed_vocab=REAL))
    runs = {}
    for engine in ("embedded", "vllm", "scripted"):
        decoder = {"embedded": embedded, "vllm": vllm}.get(engine) or ScriptedEngine(
            lambda context, request: embedded.script[context], eos_ids=(EOS,)
        )
        runs[engine] = run_groups(driver, decoder, groups(4, 5, 60), seed=3, step=0)
    for ours, theirs, scripted in zip(*runs.values(), strict=True):
        assert shape(ours) == shape(theirs) == shape(scripted)
        assert ours.cost.decoded == theirs.cost.decoded == scripted.cost.decoded
        for one, other in zip(ours.segments, theirs.segments, strict=True):
            np.testing.assert_allclose(other.logp, one.logp, atol=1e-3, rtol=0)


def test_a_tree_on_vllm_prefills_at_most_one_block_of_each_continued_segment(vllm):
    vllm.sync(None, vllm.policy_version)
    sampled = TreePODriver(
        width=2, depth=4, segment_tokens=20, group_size=8, max_completion=80, answer="eos", repetition="off"
    )
    done = run_groups(sampled, vllm, groups(4, 4 * BLOCK, 5 * BLOCK), seed=3, step=0)
    continued = 0
    for group in done:
        for segment in group.segments[1:]:
            length = len(group.context_ids(segment.parent))
            if segment.parent:
                continued += 1
                assert segment.cost.cached > 0
                assert segment.cost.prefilled <= (length - 1) % BLOCK + 1
    assert continued >= 4 * 6


def test_a_group_that_outgrows_the_kv_memory_waits_and_one_sequence_that_does_is_refused():
    from laconic.rollout.engines.vllm_colocated import VllmEngine

    token = 2 * 2 * 2 * 32 * 4  # keys and values, layers, heads, width, bytes
    options = {"max_live": 16, "allowed_vocab": REAL}
    with pytest.raises(ConfigError, match="400 tokens needs 14 blocks of 32 x 1,024 B = 458,752 B .* is 65,536"):
        VllmEngine(make(True), [EOS], max_context=400, kv_bytes=64 * token, **options)
    tight = VllmEngine(make(True), [EOS], max_context=256, kv_bytes=12 * BLOCK * token, **options)
    ample = TransformersEngine(tight.model, [EOS], max_context=256, allowed_vocab=REAL)
    driver = FlatDriver(group_size=8, max_completion=120, **GREEDY)
    (wants,) = run_groups(driver, ample, groups(1, 40, 41), seed=0, step=0)
    (got,) = run_groups(driver, tight, groups(1, 40, 41), seed=0, step=0)
    tight.close()
    assert shape(got) == shape(wants)
