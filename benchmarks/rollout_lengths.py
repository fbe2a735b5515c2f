"""What `anytime` computes twice, and how memory and time grow with thought under `delethink`.

    anytime.reprefill_tokens    most context tokens that a summary had computed again, beyond those inserted before it
    delethink.kv_growth         most tokens of live KV at 1x to 8x thinking over those at 1x
    delethink.exponent_gain     exponent of time against thinking of flat decoding, minus Delethink's

`anytime`, with the tiny thinker: 4 budgets x 4 summaries from each thought. What the model is fed is counted at the
model itself, beside the engine's own counters, and a run that keeps no prefix must give the same tokens.

`delethink`, with a random Qwen2 whose answers never end (no EOS): 8 traces of 1024 to 8192 tokens, once in one context
and once in chunks of 512 that carry 256 over, the paper's halves (8192 and 4096) and its share of head to tail. A step
of decoding costs a part that does not grow and a part in proportion to the context. Which outweighs the other is the
model's and the batch's, and so is the exponent of flat decoding: 1 where the first is all, 2 where the second is.
Here a token has 4,096 B of KV (two layers of 8 heads, 32 wide, all of them KV heads) beside 7.4 MB of weights, so that
at 8192 tokens a step reads 37 times as much KV as weights. R1-Distill-Qwen-1.5B, which the paper trains, has 28,672 B
and 3.1 GB in bfloat16, and comes to that with 480 sequences of this length; the paper samples 1024 (128 prompts x 8).
Live KV is what the engine holds after each of its steps, kept prefixes included.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from laconic.benchmarks.claim import EMBEDDED_ENGINE, Claim, interleaved, median_and_spread
from laconic.eval.tasks import PROCEDURAL
from laconic.rollout.driver import RolloutDriver
from laconic.rollout.drivers import AnytimeDriver, DelethinkDriver, FlatDriver
from laconic.rollout.engines.limits import kv_bytes_per_token
from laconic.rollout.engines.protocol import Completion, Engine
from laconic.rollout.engines.transformers import TransformersEngine
from laconic.rollout.records import Group, Ids, Kind, Segment, Stop, prompt_group
from laconic.rollout.scheduler import run_groups
from laconic.train.load_model import load_tokenizer
from laconic.train.model_files import resolve_model

_COMMON = [
    *EMBEDDED_ENGINE,
    "rollout/scheduler.py",
    "rollout/driver.py",
    "rollout/records.py",
    "benchmarks/rollout_lengths.py",
]
ANYTIME_SOURCES = [*_COMMON, "rollout/drivers/anytime.py"]
DELETHINK_SOURCES = [*_COMMON, "rollout/drivers/flat.py", "rollout/drivers/delethink.py", "rollout/drivers/rounds.py"]

BUDGETS = SUMMARIES = 4
TRACES, PROMPT, CHUNK, CARRY, HEAD = 8, 32, 512, 256, 6
TIMES = (1, 2, 4, 8)
"""Thinking lengths, in multiples of the shortest."""
VOCABULARY, PAIRS = 512, 3


def claims(quick: bool, device: str = "cpu") -> tuple[list[Claim], dict[str, Any]]:
    """The three claims and what explains them; ``quick`` runs the same code on lengths too short to mean anything."""
    anytime = anytime_on_embedded(2 if quick else 32, device)
    shortest, pairs = (64, 1) if quick else (1024, PAIRS)
    lengths = [shortest * times for times in TIMES]
    delethink = delethink_against_flat(lengths, CHUNK // (1024 // shortest), pairs, device)
    gains = delethink["exponent_gain"]
    gain, spread = median_and_spread(gains)
    peaks = delethink["sides"]["delethink"]["peak_kv_tokens"]
    found: list[Claim] = [
        {
            "id": "anytime.reprefill_tokens",
            "kind": "ceiling",
            "value": anytime["reprefill_tokens"],
            "spread": None,
            "peer": None,
            "equal": None,
            "sources": ANYTIME_SOURCES,
        },
        {
            "id": "delethink.kv_growth",
            "kind": "ceiling",
            "value": max(peaks) / peaks[0],
            "spread": None,
            "peer": None,
            "equal": None,
            "sources": DELETHINK_SOURCES,
        },
        {
            "id": "delethink.exponent_gain",
            "kind": "floor",
            "value": gain,
            "spread": spread,
            "peer": "flat decoding of as many tokens on the same engine",
            "equal": True,
            "sources": DELETHINK_SOURCES,
            "samples": gains,
        },
    ]
    return found, {"anytime": anytime, "delethink": delethink}


# ------------------------------------------------------------------------------------------------ anytime


def anytime_driver(tokenizer: Any) -> AnytimeDriver:
    """4 budgets x 4 summaries, 4 thoughts to a prompt, as in ``configs/methods/anytime.yaml``."""
    return AnytimeDriver(
        thinking_tokens=200, budgets=BUDGETS, summaries=SUMMARIES, summary_tokens=8, cut_text="</think>",
        header_text="", group_size=4, max_completion=256,
    ).with_tokenizer(tokenizer)  # fmt: skip


def anytime_prompts(tokenizer: Any, count: int) -> list[Group]:
    """Groups of test problems, as many of each procedural task."""
    share = max(count // len(PROCEDURAL), 1)
    problems = [problem for task in PROCEDURAL.values() for problem in task.problems("test", 0, share)]
    return [prompt_group(i, problem.id, tokenizer(problem.prompt)["input_ids"]) for i, problem in enumerate(problems)]


def anytime_figures(
    driver: AnytimeDriver, engine: Engine, groups: Sequence[Group], block: int
) -> tuple[dict[str, Any], list[Group]]:
    """Roll out on any engine that shares prefixes in blocks of so many tokens; returns the counts, and the groups.

    Raises ``AssertionError`` unless each thought has its budgets x summaries answers, exactly thoughts and summaries
    are decoded, no token twice, and each summary prefills at most one block beside the tokens inserted before it.
    """
    done = run_groups(driver, engine, groups, seed=0, step=0)
    thoughts, again, inserted = 0, [], 0
    for group in done:
        answers = driver.group_size * driver.budgets * driver.summaries
        assert len(group.leaves) == answers, f"group {group.id} has {len(group.leaves)} answers instead of {answers}"
        sampled = [segment for segment in group.segments if segment.kind is Kind.SAMPLED]
        summaries = sampled[driver.group_size :]
        thoughts += sum(map(len, sampled[: driver.group_size]))
        assert {group.leaves[i].segment for i in range(answers)} == {segment.id for segment in summaries}
        assert group.cost.decoded == sum(map(len, sampled)), "tokens were decoded that no segment holds"
        for segment in summaries:
            forced = _inserted(group, segment)
            # the last token of a context is always read for its logits, whether or not an engine calls that a prefill
            again.append(max(segment.cost.prefilled, 1) - forced)
            inserted += forced
    assert max(again) <= block, f"a summary prefilled {max(again)} tokens beside those inserted; a block has {block}"
    cost = sum((group.cost for group in done[1:]), done[0].cost)
    return {
        "thoughts": len(done) * driver.group_size,
        "summaries": len(again),
        "thought_tokens": thoughts,
        "summary_tokens": cost.decoded - thoughts,
        "prefilled": cost.prefilled,
        "cached": cost.cached,
        "inserted": inserted,
        "reprefill_tokens": max(again),
    }, done


def anytime_on_embedded(prompts: int, device: str = "cpu") -> dict[str, Any]:
    """``anytime_figures`` of the embedded engine, whose blocks are single tokens, checked at the model itself."""
    folder = resolve_model("tiny-thinker")
    tokenizer = load_tokenizer(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().to(device)
    driver, groups = anytime_driver(tokenizer), anytime_prompts(tokenizer, prompts)
    make = partial(TransformersEngine, model, [tokenizer.eos_token_id], allowed_vocab=len(tokenizer))
    with _counting(model) as fed:
        figures, done = anytime_figures(driver, make(), groups, block=1)
    # The last token of a call is sampled and never fed. A call that begins with kept KV has no prefill, but its first
    # step of decoding feeds the last token of its context, unless a sibling of it has just done so.
    sampled = [segment.cost for group in done for segment in group.segments if segment.kind is Kind.SAMPLED]
    least = sum(cost.prefilled + cost.decoded - 1 for cost in sampled)
    most = sum(max(cost.prefilled, 1) + cost.decoded - 1 for cost in sampled)
    assert least <= fed.tokens <= most, f"the model was fed {fed.tokens} tokens; by the counters {least} to {most}"
    with _counting(model) as fed_alone:
        plain = run_groups(driver, make(max_kept=0), groups, seed=0, step=0)
    for one, other in zip(done, plain, strict=True):
        for a, b in zip(one.segments, other.segments, strict=True):
            assert np.array_equal(a.ids, b.ids), f"group {one.id}, segment {a.id}: tokens differ without kept prefixes"
    return {
        **figures,
        "fed": fed.tokens,
        "fed_without_prefill": fed.tokens - least,
        "fed_without_kept_prefixes": fed_alone.tokens,
    }


def _inserted(group: Group, summary: Segment) -> int:
    """Tokens forced between a thought and a summary."""
    return sum(kept for piece, kept in group.path(summary.id) if piece.kind is Kind.FORCED)


@dataclass
class _Fed:
    tokens: int = 0


@contextmanager
def _counting(model: nn.Module) -> Iterator[_Fed]:
    """Count the tokens, padding left out, that go through ``model``."""
    fed = _Fed()

    def count(_: nn.Module, __: tuple[Any, ...], inputs: Mapping[str, Any]) -> None:
        ids_BT, mask = inputs["input_ids"], inputs.get("attention_mask")
        if mask is not None and mask.dim() == 2:
            fed.tokens += int(mask[:, -ids_BT.shape[1] :].sum())
        else:
            fed.tokens += ids_BT.numel()

    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield fed
    finally:
        handle.remove()


# ------------------------------------------------------------------------------------------------ delethink


class _Watched(TransformersEngine):
    """Remembers the most KV it held after any step."""

    peak = 0

    def step(self) -> list[Completion]:
        done = super().step()
        self.peak = max(self.peak, self.kv_tokens)
        return done


@dataclass
class _Side:
    """One way to think: its driver at each length, and what was seen."""

    drivers: Mapping[int, RolloutDriver]
    model: nn.Module
    prompt: Ids
    peak: dict[int, int] = field(default_factory=dict)

    def seconds(self, length: int) -> float:
        """Time of all traces of so many tokens each."""
        engine = _Watched(self.model, [], max_live=TRACES)
        prompt = prompt_group(0, "random", self.prompt)
        start = time.perf_counter()
        (group,) = run_groups(self.drivers[length], engine, [prompt], seed=0, step=0)
        seconds = time.perf_counter() - start
        thought = [group.trained_tokens(rollout) for rollout in group.rollouts]
        ends = [group.segments[group.leaves[rollout.leaves[-1]].segment].stop for rollout in group.rollouts]
        assert thought == [length] * TRACES and set(ends) == {Stop.LENGTH}, f"thoughts of {thought} instead of {length}"
        assert group.cost.decoded == TRACES * length, f"{group.cost.decoded} tokens for {TRACES} x {length}"
        self.peak[length] = max(engine.peak, self.peak.get(length, 0))
        return seconds


def delethink_against_flat(lengths: Sequence[int], chunk: int, pairs: int, device: str = "cpu") -> dict[str, Any]:
    """Seconds and peak KV of both by thinking length, with the exponents that a straight line through the logs has."""
    model = _random_model(PROMPT + max(lengths)).to(device)
    head = max(HEAD * chunk // CHUNK, 1)
    carry = CARRY * chunk // CHUNK
    delethink = {
        length: DelethinkDriver(
            chunk=chunk, head=head, tail=carry - head, max_chunks=1 + -(-(length - chunk) // (chunk - carry)),
            group_size=TRACES, max_completion=length,
        )
        for length in lengths
    }  # fmt: skip
    assert all(driver.longest_trace == length for length, driver in delethink.items()), "lengths must be whole chunks"
    prompt = np.random.default_rng(0).integers(0, VOCABULARY, PROMPT).astype(np.int32)
    sides = {
        "flat": _Side({length: FlatDriver(TRACES, length) for length in lengths}, model, prompt),
        "delethink": _Side(delethink, model, prompt),
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        sides["flat"].seconds(lengths[0]), sides["delethink"].seconds(lengths[0])  # warm
        work = {f"{name} {n}": partial(side.seconds, n) for n in lengths for name, side in sides.items()}
        taken = interleaved(work, pairs)
    finally:
        torch.set_num_threads(threads)
    figures: dict[str, Any] = {}
    for name, side in sides.items():
        seconds_LP = [taken[f"{name} {length}"] for length in lengths]
        figures[name] = {
            "seconds": [float(np.median(samples)) for samples in seconds_LP],
            "samples": seconds_LP,
            "exponents": [exponent(lengths, column) for column in zip(*seconds_LP, strict=True)],
            "peak_kv_tokens": [side.peak[length] for length in lengths],
        }
    gain = [a - b for a, b in zip(figures["flat"]["exponents"], figures["delethink"]["exponents"], strict=True)]
    shape = {"traces": TRACES, "prompt": PROMPT, "chunk": chunk, "head": head, "tail": carry - head}
    shape["weight_bytes"] = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    shape["kv_bytes_per_token"] = kv_bytes_per_token(model.config, model)
    return {"thinking": list(lengths), "shape": shape, "sides": figures, "exponent_gain": gain}


def exponent(lengths: Sequence[float], seconds: Sequence[float]) -> float:
    """Slope of the least-squares line through (log length, log seconds)."""
    return float(np.polyfit(np.log(lengths), np.log(seconds), 1)[0])


def _random_model(positions: int) -> nn.Module:
    """Random weights without an EOS; nothing ends an answer but its length."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=256, num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=8,
        intermediate_size=768, max_position_embeddings=positions, tie_word_embeddings=True,
        eos_token_id=None, bos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    return Qwen2ForCausalLM(config).eval()
