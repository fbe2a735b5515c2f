"""What is refused before anything heavy starts; what is only warned about is in ``cautions.py``.

Each check is arithmetic on the settings and the model's config.json; a method that can check itself (``check``) does so
with its own numbers. A refusal names the value, the limit and the remedy. A method that can have no effect under the
settings is refused, because a run that silently trains something else is worse than none.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from ..errors import ConfigError
from ..rewards.verifiers import resolve as resolve_verifier
from ..rollout.drivers import DRIVERS
from ..rollout.engines import ENGINES
from .derived import per_prompt, positions, sharding, world_size
from .model_config import Config
from .model_files import linear_layers_on_disk, resolve_model
from .settings import Settings, chosen
from .settings_io import name_of
from .trl_keys import check_trl_keys


def check_settings(settings: Settings, config: Config | None) -> None:
    """Raise ``ConfigError`` for settings that cannot work; ``config`` is the model's config.json, None when unknown."""
    _check_ranges(settings)
    _check_names(settings)
    _check_group(settings)
    _check_reward(settings)
    _check_updates(settings)
    _check_ranks(settings)
    _check_adapter(settings)
    _check_lengths(settings, config)
    _check_markers(settings)
    _check_parking(settings)
    _check_effects(settings)
    _check_critic(settings)
    check_trl_keys(settings.trl)


def _check_reward(settings: Settings) -> None:
    """Refuse reward settings that could not have an effect."""
    reward, rollout = settings.reward, settings.rollout
    for shaping, _ in reward.terms:
        if not (hasattr(shaping, "needs") and hasattr(shaping, "exceptions")):
            raise ConfigError(
                f"{type(shaping).__name__} does not say what it needs and which promises it breaks; make it a subclass "
                "of laconic.rewards.shaping.ShapingDefaults"
            )
    for method in (*(shaping for shaping, _ in reward.terms), reward.selection):
        check = getattr(method, "check", None)
        if check is not None:
            check(rollout)
    shaped = any(shaping.range().shaped for shaping, _ in reward.terms)
    idle = {
        "reward.weights": bool(reward.weights),
        "reward.level": reward.level != "reward",
        "reward.dead_zone": bool(reward.dead_zone),
    }
    for key in (key for key, given in idle.items() if given and not shaped):
        raise ConfigError(
            f"{key} is set, but reward.shaping {chosen(settings, 'shaping')} rewards the outcome alone, so that it has "
            f"no effect; choose a length method (laconic methods), or leave {key} out"
        )
    if reward.dead_zone >= rollout.max_completion:
        raise ConfigError(
            f"reward.dead_zone is {reward.dead_zone:g} tokens but no answer is longer than rollout.max_completion = "
            f"{rollout.max_completion}, so all right answers would count as equally long; lower reward.dead_zone"
        )
    credit = settings.credit
    if reward.std_floor and not any(f.name == "std_floor" for f in fields(credit)):
        raise ConfigError(
            f"reward.std_floor is {reward.std_floor:g}, but credit {chosen(settings, 'credit')} does not divide by the "
            "standard deviation of a group; leave it out, or set credit.name=grpo"
        )
    check = getattr(credit, "check", None)
    if check is not None:
        check(settings)


def _check_ranks(settings: Settings) -> None:
    """Groups stay whole, so every rank needs as many of them in every update."""
    if sharded := sharding():
        raise ConfigError(
            f"the launcher was told to use {sharded}, which leaves each rank a part of the weights, but engine "
            f"{settings.rollout.engine} decodes with whole ones; use DeepSpeed with zero_stage 2 or less, or plain DDP"
        )
    ranks, prompts, updates = world_size(), settings.rollout.prompts_per_step, settings.optim.updates_per_batch
    if ranks > 1 and settings.rollout.engine in ("vllm", "vllm_server"):
        raise ConfigError(
            f"{ranks} ranks are started but rollout.engine {settings.rollout.engine} serves one: weights would come "
            "while another rank decodes; start one, or set rollout.engine=transformers"
        )
    share = ranks * updates
    if ranks == 1 or not prompts % share:
        return
    among = f"{ranks} ranks" if updates == 1 else f"{ranks} ranks x {updates} updates (optim.updates_per_batch)"
    fitting = " or ".join(dict.fromkeys(str(share * max(1, prompts // share + more)) for more in (0, 1)))
    raise ConfigError(
        f"rollout.prompts_per_step {prompts} / ({among}) = {prompts / share:.2f} groups per rank and update, but a "
        f"group stays whole on one rank; set rollout.prompts_per_step={fitting}, or start another number of ranks"
    )


def _check_adapter(settings: Settings) -> None:
    settings.adapter.check(linear_layers_on_disk(settings.model))


def _check_ranges(settings: Settings) -> None:
    rollout, optim, save = settings.rollout, settings.optim, settings.save
    at_least = {
        "steps": (settings.steps, 1),
        "tokens": (settings.tokens, 0),
        "threads": (settings.threads, 0),
        "rollout.prompts_per_step": (rollout.prompts_per_step, 1),
        "rollout.group_size": (rollout.group_size, 1),
        "rollout.max_prompt": (rollout.max_prompt, 1),
        "rollout.max_completion": (rollout.max_completion, 1),
        "rollout.max_live": (rollout.max_live, 1),
        "rollout.park_after": (rollout.park_after, 0),
        "optim.updates_per_batch": (optim.updates_per_batch, 1),
        "optim.epochs": (optim.epochs, 1),
        "optim.micro_batch_tokens": (optim.micro_batch_tokens, 1),
        "optim.warmup_steps": (optim.warmup_steps, 0),
        "optim.weight_decay": (optim.weight_decay, 0),
        "save.every": (save.every, 1),
        "save.keep": (save.keep, 1),
        "save.rollouts_every": (save.rollouts_every, 0),
    }
    for key, (value, least) in at_least.items():
        if not value >= least:
            raise ConfigError(f"{key} is {value} but must be at least {least}; raise it")
    above_zero = {
        "rollout.temperature": rollout.temperature,
        "rollout.server_timeout": rollout.server_timeout,
        "optim.lr": optim.lr,
        "optim.max_grad_norm": optim.max_grad_norm,
    }
    for key, number in above_zero.items():
        if not number > 0:
            raise ConfigError(f"{key} is {number} but must be above 0; raise it")
    _check_mismatch(rollout.mismatch_alarm, rollout.mismatch_stop)
    _check_kv(rollout.kv_gb, rollout.engine)
    if not settings.name or "/" in settings.name or settings.name.startswith("."):
        raise ConfigError(f"name {settings.name!r} cannot be the name of a folder under runs/; give name=<one word>")


def _check_kv(kv_gb: float | None, engine: str) -> None:
    if kv_gb is not None and not kv_gb > 0:
        raise ConfigError(f"rollout.kv_gb is {kv_gb:g} but must be above 0; raise it, or leave it out")
    if kv_gb is not None and engine == "vllm_server":
        raise ConfigError(
            f"rollout.kv_gb is {kv_gb:g}, but the memory of rollout.engine vllm_server is the server's; leave it out"
        )


def _check_mismatch(alarm: float | None, stop: float | None) -> None:
    for key, value in {"rollout.mismatch_alarm": alarm, "rollout.mismatch_stop": stop}.items():
        if value is not None and not value > 0:
            raise ConfigError(f"{key} is {value:g} but must be above 0: rounding alone differs by about 1e-6; raise it")
    if alarm is not None and stop is not None and alarm > stop:
        raise ConfigError(
            f"rollout.mismatch_alarm {alarm:g} is above rollout.mismatch_stop {stop:g}, so a run would stop before it "
            "ever warned; lower the first or raise the second"
        )


def _check_names(settings: Settings) -> None:
    engine = settings.rollout.engine
    if engine not in ENGINES and ":" not in engine:
        raise ConfigError(
            f"rollout.engine {engine!r} is unknown; known: {', '.join(sorted(ENGINES))}; or give 'module:Class'"
        )
    if settings.task.file:
        resolve_verifier(settings.task.verifier)


def _check_group(settings: Settings) -> None:
    answers = per_prompt(settings.rollout).rollouts
    comparing = ["credit", *(["reward.shaping"] if settings.reward.shaping.scope == "group" else [])]
    if answers == 1:
        raise ConfigError(
            f"rollout.group_size is 1 but {' and '.join(comparing)} ({chosen(settings, 'credit')}) compare answers of "
            "a group: one answer has advantage 0 and nothing would be learned; raise rollout.group_size to 2 or more"
        )
    check = getattr(settings.truncation, "check", None)
    if check is not None:
        check(answers, bool(settings.trl.get("mask_truncated_completions")))


def _check_updates(settings: Settings) -> None:
    prompts, updates = settings.rollout.prompts_per_step, settings.optim.updates_per_batch
    if updates > prompts:
        raise ConfigError(
            f"optim.updates_per_batch is {updates} but a step has only {prompts} prompts (rollout.prompts_per_step), "
            f"and an update needs whole groups; lower it to {prompts} or less"
        )
    if prompts % updates:
        fitting = [count for count in range(1, prompts + 1) if prompts % count == 0]
        nearest = min(fitting, key=lambda count: abs(count - updates))
        raise ConfigError(
            f"{prompts} prompts per step do not divide into optim.updates_per_batch = {updates} equal updates "
            f"({prompts} / {updates} = {prompts / updates:.2f}); {nearest} would fit"
        )


def _check_lengths(settings: Settings, config: Config | None) -> None:
    rollout, limit = settings.rollout, positions(config)
    row = rollout.longest_context
    if limit and row > limit:
        longest = row - rollout.max_prompt
        what = "rollout.max_completion" if longest == rollout.max_completion else "the driver's longest context"
        raise ConfigError(
            f"rollout.max_prompt {rollout.max_prompt} + {what} {longest} = {row} tokens, but {settings.model} has "
            f"{limit} positions; lower {what} to {max(1, limit - rollout.max_prompt)} or rollout.max_prompt"
        )
    margin = getattr(settings.truncation, "margin", 0)
    if margin >= rollout.max_completion:
        raise ConfigError(
            f"truncation.margin is {margin} but answers have at most {rollout.max_completion} tokens "
            "(rollout.max_completion), so none could ever be cut; lower truncation.margin"
        )


def _check_markers(settings: Settings) -> None:
    """Whether the tokenizer can write the texts that a driver forces or stops at, where it is on disk."""
    driver, folder = settings.rollout.driver, Path(resolve_model(settings.model))
    marked = hasattr(driver, "with_tokenizer") and any(field.name.endswith("_text") for field in fields(driver))
    if not marked or not (folder / "tokenizer.json").is_file():
        return
    # Imported here: it takes seconds, and most drivers have no markers.
    from .hub.download import explained
    from .load_model import load_tokenizer

    with explained(str(folder)):
        tokenizer = load_tokenizer(str(folder))
    driver.with_tokenizer(tokenizer)


def _check_parking(settings: Settings) -> None:
    after, longest = settings.rollout.park_after, settings.rollout.max_completion
    if after >= longest:
        raise ConfigError(
            f"rollout.park_after is {after} but no answer is longer than rollout.max_completion = {longest}, so none "
            "would ever be parked; lower rollout.park_after, or leave it out"
        )
    objective = settings.objective
    if after and objective.old == "recompute" and getattr(objective, "importance", "none") == "none":
        raise ConfigError(
            f"rollout.park_after is {after}, so that answers hold tokens of older policies, but objective.old is "
            "recompute without importance weights, which takes these for tokens of the newest one; set "
            "objective.old=engine, or objective.importance=token"
        )


def _check_effects(settings: Settings) -> None:
    driver = name_of(settings.rollout.driver, DRIVERS)
    if driver not in ("flat", "treepo", "eptree") and chosen(settings, "truncation") == "dot":
        raise ConfigError(
            f"truncation dot compares whole answers, but those of rollout.driver {driver} come in parts, or at lengths "
            "that it sets; set truncation.name=none, or rollout.driver.name=flat, treepo or eptree"
        )
    check = getattr(settings.objective, "check", None)
    if check is not None:
        check(settings.optim.updates_per_batch, settings.optim.epochs)
    sampler_check = getattr(settings.sampler, "check", None)
    if sampler_check is not None:
        sampler_check(settings)
    credit_check = getattr(settings.credit, "check", None)
    if credit_check is not None:
        credit_check(settings)


def _check_critic(settings: Settings) -> None:
    """What a critic cannot work with, where the objective has one."""
    if not getattr(settings.objective, "critic", False):
        return
    objective, reward = f"objective {chosen(settings, 'objective')}", settings.reward
    if chosen(settings, "adapter") != "none":
        raise ConfigError(
            f"{objective} trains a value head beside the policy's weights, and checkpoints of adapter "
            f"{chosen(settings, 'adapter')} hold the adapter only; set adapter.name=none, or objective.name=clip"
        )
    if reward.level == "advantage":
        raise ConfigError(
            f"reward.level is advantage, but {objective} takes its advantages from values and one reward for each "
            "answer; set reward.level=reward"
        )
    if reward.selection.name != "all":
        raise ConfigError(
            f"reward.selection {reward.selection.name} leaves answers out by giving them no advantage, but {objective} "
            "takes advantages from values; set reward.selection.name=all, or objective.name=clip"
        )
    if settings.objective.value_warmup >= settings.steps:
        raise ConfigError(
            f"objective.value_warmup is {settings.objective.value_warmup} but the run has only {settings.steps} steps, "
            "and the policy learns nothing before the warm-up's end; lower it, or raise steps"
        )
