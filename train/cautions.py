"""What works but may not be what was meant: said before a run starts, and never refused.

A term of the reward that credit or filter takes away again, a promise of rewards that no longer holds, a price that
counts twice, a method with nothing to look back on.
"""

from __future__ import annotations

from dataclasses import fields

from .settings import Settings, chosen

CAPS = ("dler", "thinkprune")
"""Shapings that take the outcome away above a cap; without a weight, they have none that credit could cancel."""
BELOW = 0.9
"""Of rollout.max_completion; what exceeds a cap above this share of it is nearly always truncated, and so wrong."""
BESIDE_LENGTH = ("adaptthink", "ngram_rep", "overlong_soft", "parallel_accel", "thinkless")
"""Shapings that go with a price of length: they look at modes, repetition, threads, or the tokens next to the cap."""


def find_warnings(settings: Settings) -> list[str]:
    """What works but may not be what was meant."""
    reward = settings.reward
    shaped = any(shaping.range().shaped for shaping, _ in reward.terms)
    warnings = [*_lost_terms(settings), *_broken_promises(settings)]
    if shaped and chosen(settings, "truncation") == "dot":
        warnings.append(
            "length enters twice, by truncation dot and by reward.shaping; the published DOT shapes nothing"
        )
    if chosen(settings, "sampler") == "gvm" and chosen(settings, "truncation") == "dot":
        warnings.append(
            f"sampler gvm gives prompts different numbers of answers, and truncation dot cuts nothing in groups below "
            f"{settings.truncation.smallest_group()}; lower truncation.alpha, or raise sampler.least"
        )
    if getattr(settings.objective, "critic", False):
        warnings.append(
            f"objective {chosen(settings, 'objective')} takes advantages from its values: credit "
            f"{chosen(settings, 'credit')} only fills the log"
        )
    problems, seen = settings.task.count, settings.steps * settings.rollout.prompts_per_step
    looking_back = [f"reward.shaping {shaping.name}" for shaping, _ in reward.terms if shaping.name == "hapo"]
    if getattr(settings.sampler, "looks_back", False):
        looking_back.append(f"sampler {chosen(settings, 'sampler')}")
    if looking_back and not settings.task.file and seen <= problems:
        warnings.append(
            f"{' and '.join(looking_back)} learns from earlier answers to a problem, but {settings.steps} steps of "
            f"{settings.rollout.prompts_per_step} prompts meet none of {problems} problems twice; lower task.count"
        )
    if settings.optim.warmup_steps and settings.optim.schedule == "constant":
        warnings.append(
            "optim.warmup_steps has no effect with schedule constant; use optim.schedule=constant_with_warmup"
        )
    return warnings


def _lost_terms(settings: Settings) -> list[str]:
    """What of a reward credit or filter take away again, and prices that count twice."""
    reward, credit = settings.reward, chosen(settings, "credit")
    warnings = []
    divides = any(f.name == "std_floor" for f in fields(settings.credit))
    weighted = any(shaping.range().shaped and shaping.name not in CAPS for shaping, _ in reward.terms)
    if weighted and divides and reward.level == "reward" and not reward.std_floor:
        warnings.append(
            f"credit {credit} divides by the group's standard deviation, so in groups of right answers only the weight "
            f"of reward.shaping {chosen(settings, 'shaping')} cancels; credit.name=dr_grpo keeps it, as do "
            "reward.level=advantage and reward.std_floor"
        )
    if settings.sampler.filter == "signal":
        warnings += [
            f"reward.shaping {shaping.name} pays nothing above its cap, but sampler.filter signal looks at outcomes "
            "before it and drops groups of right answers; sampler.filter=none keeps them"
            for shaping, _ in reward.terms
            if shaping.name in CAPS and shaping.lowest_cap < BELOW * settings.rollout.max_completion
        ]
    prices = [shaping.name for shaping, _ in reward.terms if shaping.name not in BESIDE_LENGTH]
    if len(prices) > 1:
        warnings.append(
            f"{' and '.join(prices)} each reward short answers, so length counts {len(prices)} times; keep one in "
            "reward.shaping and reward.more, or lower reward.weights"
        )
    centred = getattr(settings.credit, "baseline", "") != "none" and not getattr(settings.objective, "critic", False)
    if centred and any(shaping.name == "adaptthink" and shaping.reference for shaping, _ in reward.terms):
        warnings.append(
            f"reward.shaping adaptthink subtracts the accuracy of its reference, one number for each group, but credit "
            f"{credit} subtracts the group's mean, so the reference has no effect; leave it out, or set "
            "credit={name: reinforce_pp, baseline: none}"
        )
    return warnings


def _broken_promises(settings: Settings) -> list[str]:
    """What no longer holds of rewards under these settings, with the reason."""
    words = {
        "dominance": "a wrong answer may score above a right one",
        "all_wrong": "a group without a right answer learns from lengths alone",
        "monotone": "a longer right answer may score above a shorter one",
    }
    reward = settings.reward
    warnings = [
        f"reward.shaping {shaping.name}: {words[invariant]}, since {reason}"
        for shaping, _ in reward.terms
        for invariant, reason in shaping.exceptions.items()
        if invariant != "monotone"
    ]
    if len(reward.terms) > 1 or reward.weights:
        ranges = [(shaping.range(), weight) for shaping, weight in reward.terms]
        right = 1 + sum(weight * (own.right[0] - 1) for own, weight in ranges)
        wrong = sum(weight * own.wrong[1] for own, weight in ranges)
        if right < wrong:
            warnings.append(
                f"under reward.weights {[weight for _, weight in ranges]} a right answer may score {right:.3g} and a "
                f"wrong one {wrong:.3g}; lower the weights until the first is above the second"
            )
    return warnings
