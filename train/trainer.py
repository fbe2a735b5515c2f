"""The trainer: trl's GRPOTrainer with its data path replaced by ours.

Kept from trl and transformers: construction (model, reference, PEFT, quantisation, DeepSpeed and FSDP preparation),
optimizer, schedules, callbacks, trackers, Hub. Replaced (``REPLACED``): the train dataloader (a ticker, prompts come
from our sampler), ``_prepare_inputs`` (``experience.py``), ``training_step`` (loops over packs), ``_compute_loss``
(all normalisation is ours), ``log``, saving and loading. ``tests/train/test_trl_contract.py`` fails when one of these
methods, or one that they rely on, changes in trl or transformers.

One tick of the dataloader is one optimizer update. ``optim.updates_per_batch * optim.epochs`` updates share one
generation, and a run is saved at generation boundaries only.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from ..errors import RunError
from ..eval.tasks import Problem
from ..kernels.logprob_head import add_logprob_head
from ..rollout.driver import RolloutDriver
from ..rollout.engines.protocol import Engine
from ..rollout.parked import Parked
from .adapter import causal_lm, fingerprint
from .alarms import Alarms
from .checkpoint import latest_checkpoint
from .compose import first_states, state_metrics
from .critic import add_value_head, critic_of
from .experience import Experience, Judge, credit, select_rollouts, shape, states_after
from .forward import score_all
from .generation_metrics import (
    Facts,
    average_packs,
    difficulty_bands,
    facts_of,
    merge,
    outcome_metrics,
    selected_metrics,
    term_metrics,
    training_metrics,
)
from .load_model import sampled_words
from .metrics_log import MetricsLog
from .mismatch import Trust
from .objectives import LossInputs
from .packed import PackedBatch, weightless
from .parking import keep_surplus, parking_metrics, read_waiting
from .prompts import Prompts
from .ranks import Ranks
from .responses import Scene
from .rollout_log import write_rollouts
from .rounds import sample_rounds
from .saving import read_states, save_together, write_state
from .settings import Settings
from .trl_config import grpo_config
from .trl_trainer import GRPOTrainer
from .updates import updates_of

REPLACED = (
    "get_train_dataloader",
    "_prepare_inputs",
    "training_step",
    "_compute_loss",
    "_clip_grad_norm",
    "log",
    "_save_checkpoint",
    "_load_optimizer_and_scheduler",
)
"""Methods of trl's GRPOTrainer and transformers' Trainer that ``LaconicTrainer`` replaces, besides ``__init__``."""
PHASE_FILE = os.environ.get("LACONIC_PHASE_FILE")
"""Where the name of the current phase is written, for tools that watch (or kill) a run at a chosen moment."""


class LaconicTrainer(GRPOTrainer):
    """See the module's docstring. ``make_engine`` gets the bare model and returns the engine that decodes for it."""

    _tag_names = ["laconic", "grpo"]

    def __init__(
        self,
        settings: Settings,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        problems: Sequence[Problem],
        judge_items: Judge,
        make_engine: Callable[[PreTrainedModel], Engine],
        run_dir: Path,
        on_tokens: Callable[[int, int], None] | None = None,
        ranks: Ranks = Ranks(),  # noqa: B008 (frozen)
    ) -> None:
        self.settings, self.problems, self.run_dir, self.ranks = settings, list(problems), run_dir, ranks
        self.problem_by_id = {problem.id: problem for problem in problems}
        self.index_of = {problem.id: index for index, problem in enumerate(self.problems)}
        self.prompts = Prompts(
            problems,
            tokenizer,
            settings.task.template,
            settings.rollout.max_prompt,
            settings.rollout.budget,
            settings.seed,
        )
        self.judge_items, self.on_tokens = judge_items, on_tokens
        self.updates_per_generation = settings.optim.updates_per_batch * settings.optim.epochs
        adapter = settings.adapter.peft_config(model)
        self.base_fingerprint = "" if adapter is None else fingerprint(model)
        self.base_use_cache = bool(getattr(model.config, "use_cache", True))
        set_seed(settings.seed)  # an adapter or a critic begins at random, the same on all ranks
        if critic_of(settings):
            add_value_head(model, settings.objective)
        super().__init__(
            model=model,
            peft_config=adapter,
            reward_funcs=_no_reward,
            args=grpo_config(settings, run_dir),
            # trl wants a dataset at construction; the ticker below takes its place in training.
            train_dataset=Dataset.from_dict({"prompt": [problem.id for problem in self.problems]}),
            processing_class=tokenizer,
        )
        if adapter is not None:
            # By that name peft would look for the base on the Hub at each save; a saved adapter has it all the same.
            self.model.peft_config["default"].base_model_name_or_path = None
        policy = causal_lm(self.model)
        for scored in (policy, *([] if self.ref_model is None else [self.accelerator.unwrap_model(self.ref_model)])):
            add_logprob_head(scored, settings.rollout.temperature, sampled_words(policy, tokenizer))
        self.engine = make_engine(policy)
        driver = settings.rollout.driver
        self.driver: RolloutDriver = driver.with_tokenizer(tokenizer) if hasattr(driver, "with_tokenizer") else driver
        self.sampler = settings.sampler.build(len(self.problems), settings.seed)
        self.metrics_log = MetricsLog(run_dir / "metrics.jsonl") if ranks.first else None
        self.stop_requested = False
        self.seconds: dict[str, float] = {}
        self.trust = Trust(settings.rollout, policy, autocast=self.args.bf16 or self.args.fp16)
        self._updates: list[list[PackedBatch]] = []
        self._generation_metrics: dict[str, float] = {}
        self._update_metrics: list[dict[str, float]] = []
        self._boundary_state = self.sampler.state_dict()
        self.reward_states: dict[str, Any] | None = None
        """State of shapings and selection after the last generation, see ``compose.py``; None before the first."""
        shaped = any(shaping.range().shaped for shaping, _ in settings.reward.terms)
        self.terms = tuple(shaping.name for shaping, _ in settings.reward.terms) if shaped else ()
        self.alarms = Alarms(self.terms)
        self.bands = difficulty_bands(self.problems)
        self.parked: list[Parked] = []
        """This rank's groups that wait for the next generation, see ``parking.py``."""

    # -- data: one tick per update, one generation per boundary --------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """A ticker: one empty batch for every update of the run."""
        ticks: list[dict[str, Any]] = [{}] * self.args.max_steps
        return DataLoader(ticks, batch_size=None)

    @property
    def generation(self) -> int:
        """Index of the current generation, from 0."""
        return self.state.global_step // self.updates_per_generation

    @property
    def on_policy(self) -> bool:
        """Whether this is the first update of a generation, under the weights that sampled it."""
        return self.state.global_step % self.updates_per_generation == 0

    def _prepare_inputs(self, generation_batch: Any) -> list[PackedBatch]:
        """The packs of the current update; at a generation boundary, roll out first."""
        update = self.state.global_step % self.updates_per_generation
        if update == 0:
            self._update_metrics = []
            self._boundary_state = self.sampler.state_dict()
            self._updates = updates_of(self, self._collect())
        return self._updates[update]

    def _collect(self) -> Experience:
        """One generation: sample, judge, truncate and filter in rounds (``rounds.py``), then shape, select, credit."""
        wanted, reward = self.settings.rollout.prompts_per_step, self.settings.reward
        if self.reward_states is None:
            self.reward_states = first_states(reward)
        sampled = sample_rounds(self)
        scene = self._scene()
        shaped = select_rollouts(shape(sampled.candidates, reward, scene), reward, scene)
        kept = credit(shaped.only(sampled.passed[:wanted]), self.settings.credit, reward, self.ranks.gather)
        # A group that had waited was judged, and remembered, before.
        new = shaped.only({group.id for group in sampled.judged.groups})
        self.reward_states = states_after(new, reward, scene)
        judged = facts_of(sampled.judged, self._tokenizer, self.bands)
        self._generation_metrics = self._measure(judged, facts_of(sampled.candidates), facts_of(kept))
        self._generation_metrics |= self.sampler.metrics()
        keep_surplus(self, sampled.groups, sampled.passed[wanted:])
        self._generation_metrics |= parking_metrics(self, kept.groups, sampled.resumed)
        every = self.settings.save.rollouts_every
        if every and self.generation % every == 0 and self.ranks.first:
            write_rollouts(self.run_dir / "rollouts", self.generation + 1, kept, self.problem_by_id, self._tokenizer)
        return kept

    def _scene(self) -> Scene:
        """What shapings may know of the current generation besides its rollouts."""
        rollout, seed = self.settings.rollout, self.settings.seed
        return Scene(
            tokenizer=self._tokenizer,
            cap=self.sampler.longest(rollout.max_completion),
            step=self.generation,
            budget=lambda group: rollout.budget.of(seed, group.problem_id, group.step),
            gather=self.ranks.gather,
            states=self.reward_states or {},
        )

    def _measure(self, *facts: Facts) -> dict[str, Any]:
        """Metrics of what all ranks sampled, of that after truncation, and of what is kept."""
        outcomes, sampled, kept = (merge(parts) for parts in zip(*self.ranks.gather(facts), strict=True))
        metrics = outcome_metrics(outcomes) | training_metrics(sampled, kept) | term_metrics(kept, self.terms)
        if self.settings.reward.selection.name != "all":
            metrics |= selected_metrics(kept)
        return metrics | state_metrics(self.reward_states or {})

    def _on_all_ranks(self, group_ids: Sequence[int]) -> list[int]:
        """These groups of all ranks, in the order in which one rank alone would have them."""
        return sorted(number for ids in self.ranks.gather(group_ids) for number in ids)

    # -- update ---------------------------------------------------------------------------------------------------

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward over all packs of one update; gradients are synchronised on the last one only."""
        model.train()
        packs = self._prepare_inputs(inputs)
        # All ranks must run as many backward passes.
        packs = packs + [weightless()] * (max(self.ranks.gather(len(packs))) - len(packs))
        total = torch.zeros((), device=self.accelerator.device)
        with self._phase("update"):
            for number, pack in enumerate(packs):
                last = number == len(packs) - 1
                self.accelerator.gradient_state._set_sync_gradients(last)
                with nullcontext() if last else self.accelerator.no_sync(model):
                    with self.compute_loss_context_manager():
                        loss = self._compute_loss(model, pack)
                    self._check_finite("loss", loss)
                    # DDP and DeepSpeed average gradients over ranks, as the log does losses; the weights of a pack
                    # are those of the whole update already.
                    loss = loss * self.ranks.count
                    self.accelerator.backward(loss)
                total += loss.detach()
            if self.on_policy:
                self._generation_metrics |= self.trust.judge(self.ranks)
        return total

    def _compute_loss(self, model: Any, inputs: PackedBatch) -> Tensor:
        """The objective on one pack: every token's weights carry all normalisation, so packs simply add up."""
        index_M, scored = score_all(model, inputs, self.accelerator.device)
        assert scored.log_probs is not None and scored.entropy is not None
        if self.on_policy:
            self.trust.see(inputs, index_M, scored.log_probs, self.engine.policy_version)

        def gather(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values[index_M]).to(self.accelerator.device)

        outputs = self.settings.objective(
            LossInputs(
                log_probs_M=scored.log_probs,
                entropy_M=scored.entropy,
                old_logp_M=gather(inputs.old_logp),
                ref_logp_M=gather(inputs.ref_logp),
                w_pos_M=gather(inputs.w_pos),
                w_neg_M=gather(inputs.w_neg),
                w_kl_M=gather(inputs.w_kl),
                w_ent_M=gather(inputs.w_ent),
                w_nll_M=gather(inputs.w_nll),
                engine_logp_M=gather(inputs.engine_logp),
                row_M=gather(inputs.row),
                value_M=scored.value,
                old_value_M=None if inputs.value is None else gather(inputs.value),
                return_M=None if inputs.returns is None else gather(inputs.returns),
            )
        )
        self._update_metrics.append({**outputs.metrics, "tokens/trained": len(index_M)})
        return outputs.loss

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = super()._clip_grad_norm(model)
        self._check_finite("gradient norm", norm)
        return norm

    def _check_finite(self, name: str, value: Any) -> None:
        number = 0.0 if value is None else float(torch.as_tensor(value).detach())
        if not np.isfinite(number):
            optim, last = self.settings.optim, latest_checkpoint(self.run_dir / "checkpoints")
            go_on = f", and model={last} to begin with the last good weights" if last else ""
            undone = "" if self.is_deepspeed_enabled else ", which was not carried out"  # it steps before it tells
            raise RunError(
                f"the {name} is {number} in update {self.state.global_step + 1}{undone}; "
                f"start again with another name=..., a lower optim.lr (now {optim.lr:g}) or optim.max_grad_norm (now "
                f"{optim.max_grad_norm:g}){go_on}"
            )

    # -- logging, saving, loading --------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """One line of ``metrics.jsonl`` per generation, and the same to trl's trackers.

        ``seconds/save`` is of the save after the line before.
        """
        if "loss" in logs:  # not in the summary at the end of training
            packs = [pack for packs in self.ranks.gather(self._update_metrics) for pack in packs]
            logs = {"step": self.generation, **logs, **self._generation_metrics, **average_packs(packs)}
            logs |= self.alarms.judge(logs, speak=self.ranks.first)
            logs |= {f"seconds/{phase}": seconds for phase, seconds in self.seconds.items()}
            self.seconds = {}  # a save that follows counts to the next generation
            if self.metrics_log is not None:
                self.metrics_log.write(logs)
        super(GRPOTrainer, self).log(logs, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Everything a run needs to go on, atomically; called at generation boundaries only."""
        with self._phase("save"):
            if self.metrics_log is not None:
                self.metrics_log.sync()
            folder, write = self.run_dir / "checkpoints", partial(write_state, self)
            save_together(self.ranks, folder, self.generation, write, keep=self.settings.save.keep)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            states = read_states(Path(checkpoint))
            self.sampler.load_state_dict(states["sampler"])
            self.reward_states = states["reward"]
            self.alarms.load_state_dict(states["alarms"])
            self.parked = read_waiting(self, Path(checkpoint))

    def save_at_boundary(self) -> None:
        """Save after an interrupted rollout: the state is that of the generation's start."""
        self.sampler.load_state_dict(self._boundary_state)
        self._save_checkpoint(self.model, None)

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        """Time a phase of the step and tell watchers about it."""
        if PHASE_FILE and self.ranks.first:
            Path(PHASE_FILE).write_text(name)
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


def _no_reward(**_: Any) -> list[float]:
    """trl insists on a reward function; ours are applied in ``experience.py``."""
    raise RunError("trl's reward path was called; rewards come from train/experience.py")
