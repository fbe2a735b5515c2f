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

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import GRPOTrainer

from ..errors import RunError
from ..eval.tasks import Problem
from ..kernels.logprob_head import add_logprob_head
from ..rollout.drivers import FlatDriver
from ..rollout.engines.protocol import Engine, Sampling
from ..rollout.records import Group, prompt_group
from ..rollout.scheduler import run_groups
from .atomic import temporary_beside
from .checkpoint import latest_checkpoint, save_checkpoint
from .experience import (
    Experience,
    Judge,
    credit,
    judge,
    outcome_metrics,
    select_groups,
    shape,
    training_metrics,
    truncate,
)
from .forward import score, with_old_log_probs
from .load_model import sampled_words
from .metrics_log import MetricsLog
from .objectives import LossInputs
from .packed import PackedBatch
from .prompts import encode_prompts
from .rollout_log import write_rollouts
from .rows import flatten, to_packs
from .settings import Settings
from .trl_config import grpo_config

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
METHOD_STATE = "laconic_state.json"
PHASE_FILE = os.environ.get("LACONIC_PHASE_FILE")
"""Where the name of the current phase is written, for tools that watch (or kill) a run at a chosen moment."""


class Interrupted(Exception):
    """Ctrl-C arrived during rollouts: nothing trained is lost by going back to the generation's start."""


class StopAtBoundary(TrainerCallback):
    """After Ctrl-C during an update: save and stop at the end of the generation."""

    def __init__(self, trainer: LaconicTrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.trainer.stop_requested and state.global_step % self.trainer.updates_per_generation == 0:
            control.should_save = control.should_training_stop = True


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
    ) -> None:
        self.settings, self.problems, self.run_dir = settings, list(problems), run_dir
        self.problem_by_id = {problem.id: problem for problem in problems}
        self.prompts = encode_prompts(problems, tokenizer, settings.task.template, settings.rollout.max_prompt)
        self.judge_items, self.on_tokens = judge_items, on_tokens
        self.updates_per_generation = settings.optim.updates_per_batch * settings.optim.epochs
        super().__init__(
            model=model,
            reward_funcs=_no_reward,
            args=grpo_config(settings, run_dir),
            # trl wants a dataset at construction; the ticker below takes its place in training.
            train_dataset=Dataset.from_dict({"prompt": [problem.id for problem in self.problems]}),
            processing_class=tokenizer,
        )
        policy = self.accelerator.unwrap_model(self.model)
        for scored in filter(None, (policy, self.ref_model)):
            add_logprob_head(_causal_lm(scored), settings.rollout.temperature, sampled_words(policy, tokenizer))
        self.engine = make_engine(policy)
        self.sampler = settings.sampler.build(len(self.problems), settings.seed)
        self.metrics_log = MetricsLog(run_dir / "metrics.jsonl")
        self.stop_requested = False
        self.seconds: dict[str, float] = {}
        self._updates: list[list[PackedBatch]] = []
        self._generation_metrics: dict[str, float] = {}
        self._update_metrics: list[dict[str, float]] = []
        self._boundary_state = self.sampler.state_dict()

    # -- data: one tick per update, one generation per boundary --------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """A ticker: one empty batch for every update of the run."""
        ticks: list[dict[str, Any]] = [{}] * (self.settings.steps * self.updates_per_generation)
        return DataLoader(ticks, batch_size=None)

    @property
    def generation(self) -> int:
        """Index of the current generation, from 0."""
        return self.state.global_step // self.updates_per_generation

    def _prepare_inputs(self, generation_batch: Any) -> list[PackedBatch]:
        """The packs of the current update; at a generation boundary, roll out first."""
        update = self.state.global_step % self.updates_per_generation
        if update == 0:
            self._update_metrics = []
            self._boundary_state = self.sampler.state_dict()
            self._updates = self._pack(self._collect())
        return self._updates[update]

    def _collect(self) -> Experience:
        """One generation: sample, judge, truncate, filter, shape, credit."""
        wanted = self.settings.rollout.prompts_per_step
        with self._phase("rollout"):
            indices = self.sampler.draw(self.sampler.to_sample(wanted))
            groups = self._roll_out(indices)
        with self._phase("judge"):
            experience = judge(groups, self.problem_by_id, self._tokenizer, self.judge_items)
            metrics = outcome_metrics(experience)
            experience = truncate(
                experience, self.settings.truncation, self.problem_by_id, self._tokenizer, self.judge_items
            )
        kept, passed = select_groups(experience, self.settings.sampler.filter, at_most=wanted)
        self.sampler.record(passed=passed, sampled=len(groups))
        kept = credit(shape(kept, self.settings.reward.shaping), self.settings.credit)
        self._generation_metrics = metrics | training_metrics(experience, kept)
        if self.settings.save.rollouts_every and self.generation % self.settings.save.rollouts_every == 0:
            write_rollouts(self.run_dir / "rollouts", self.generation + 1, kept, self.problem_by_id, self._tokenizer)
        return kept

    def _roll_out(self, indices: Sequence[int]) -> list[Group]:
        """Sample one group for each of these problems."""
        rollout = self.settings.rollout
        driver = FlatDriver(rollout.group_size, rollout.max_completion, Sampling(rollout.temperature))
        groups = [
            prompt_group(number, self.problems[index].id, self.prompts[index]) for number, index in enumerate(indices)
        ]
        self.engine.sync(None, self.state.global_step)

        def progress(decoded: int, finished: int) -> None:
            if self.stop_requested:
                raise Interrupted
            if self.on_tokens is not None:
                self.on_tokens(decoded, finished)

        return run_groups(driver, self.engine, groups, seed=self.settings.seed, step=self.generation, progress=progress)

    def _pack(self, experience: Experience) -> list[list[PackedBatch]]:
        """``updates_per_batch`` updates of whole groups each, gone through ``epochs`` times."""
        optim, objective = self.settings.optim, self.settings.objective
        with self._phase("pack"):
            updates = []
            for part in np.array_split(np.arange(len(experience.groups)), optim.updates_per_batch):
                chosen = experience.select(np.isin(np.arange(len(experience.groups)), part))
                assert chosen.advantage_N is not None
                rows = flatten(
                    chosen.groups,
                    chosen.advantage_N,
                    normalizer=objective.normalizer,
                    max_completion=self.settings.rollout.max_completion,
                    keep_all=objective.touches_all_tokens,
                )
                updates.append(to_packs(rows, optim.micro_batch_tokens))
        if objective.old == "recompute":
            device = self.accelerator.device
            with self._phase("old"), self.accelerator.autocast():
                updates = [[with_old_log_probs(self.model, pack, device) for pack in packs] for packs in updates]
        if objective.kl:
            with self._phase("reference"):
                updates = [[self._with_reference(pack) for pack in packs] for packs in updates]
        return updates * optim.epochs

    @torch.no_grad()
    def _with_reference(self, pack: PackedBatch) -> PackedBatch:
        model, adapter = self.ref_model, nullcontext()
        if model is None:
            # With PEFT the reference is the policy without its adapter.
            model, adapter = self.model, self.accelerator.unwrap_model(self.model).disable_adapter()
        with adapter, self.accelerator.autocast():
            index_M, log_probs_M, _ = score(model, pack, self.accelerator.device)
        ref_logp = np.full(len(pack), np.nan, np.float32)
        ref_logp[index_M] = log_probs_M.float().cpu().numpy()
        return replace(pack, ref_logp=ref_logp)

    # -- update ---------------------------------------------------------------------------------------------------

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward over all packs of one update; gradients are synchronised on the last one only."""
        model.train()
        packs = self._prepare_inputs(inputs)
        packs = packs + [_weightless()] * (self._most_packs(len(packs)) - len(packs))
        total = torch.zeros((), device=self.accelerator.device)
        with self._phase("update"):
            for number, pack in enumerate(packs):
                last = number == len(packs) - 1
                self.accelerator.gradient_state._set_sync_gradients(last)
                with nullcontext() if last else self.accelerator.no_sync(model):
                    with self.compute_loss_context_manager():
                        loss = self._compute_loss(model, pack)
                    self._check_finite("loss", loss)
                    # DDP averages gradients over ranks; the weights of a pack are already global.
                    self.accelerator.backward(loss * self.accelerator.num_processes)
                total += loss.detach()
        return total

    def _compute_loss(self, model: Any, inputs: PackedBatch) -> Tensor:
        """The objective on one pack: every token's weights carry all normalisation, so packs simply add up."""
        index_M, log_probs_M, entropy_M = score(model, inputs, self.accelerator.device)

        def gather(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values[index_M]).to(self.accelerator.device)

        outputs = self.settings.objective(
            LossInputs(
                log_probs_M=log_probs_M,
                entropy_M=entropy_M,
                old_logp_M=gather(inputs.old_logp),
                ref_logp_M=gather(inputs.ref_logp),
                w_pos_M=gather(inputs.w_pos),
                w_neg_M=gather(inputs.w_neg),
                w_kl_M=gather(inputs.w_kl),
                w_ent_M=gather(inputs.w_ent),
                w_nll_M=gather(inputs.w_nll),
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
            raise RunError(
                f"the {name} is {number} in update {self.state.global_step + 1}, which was not carried out; "
                f"start again with another name=..., a lower optim.lr (now {optim.lr:g}) or optim.max_grad_norm (now "
                f"{optim.max_grad_norm:g}){go_on}"
            )

    def _most_packs(self, count: int) -> int:
        """The largest number of packs on any rank: all ranks must run as many backward passes."""
        if self.accelerator.num_processes == 1:
            return count
        counts = torch.tensor([count], device=self.accelerator.device)
        return int(self.accelerator.gather(counts).max())

    # -- logging, saving, loading --------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """One line of ``metrics.jsonl`` per generation, and the same to trl's trackers.

        ``seconds/save`` is of the save after the line before.
        """
        if "loss" in logs:  # not in the summary at the end of training
            logs = {"step": self.generation, **logs, **self._generation_metrics, **_average(self._update_metrics)}
            logs |= {f"seconds/{phase}": seconds for phase, seconds in self.seconds.items()}
            self.seconds = {}  # a save that follows counts to the next generation
            if self.accelerator.is_main_process:
                self.metrics_log.write(logs)
        super(GRPOTrainer, self).log(logs, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Everything a run needs to go on, atomically; called at generation boundaries only."""
        with self._phase("save"):
            self.metrics_log.sync()
            save_checkpoint(
                self.run_dir / "checkpoints", self.generation, self._write_state, keep=self.settings.save.keep
            )

    def _write_state(self, folder: Path) -> None:
        self.save_model(str(folder), _internal_call=True)
        self._tokenizer.save_pretrained(folder)
        self._save_optimizer_and_scheduler(str(folder))
        self._save_rng_state(str(folder))
        self.state.save_to_json(str(folder / "trainer_state.json"))
        (folder / METHOD_STATE).write_text(json.dumps({"sampler": self.sampler.state_dict()}))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.sampler.load_state_dict(json.loads((Path(checkpoint) / METHOD_STATE).read_text())["sampler"])

    def export(self, folder: Path) -> Path:
        """The finished model and its tokenizer, as any transformers user loads them; returns ``folder``.

        Raises:
            RunError: they cannot be written; the last checkpoint has them, too.
        """
        unfinished = temporary_beside(folder)
        try:
            self.save_model(str(unfinished), _internal_call=True)
            self._tokenizer.save_pretrained(unfinished)
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
        except Exception as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise RunError(
                f"cannot write the finished model to {folder}: {type(error).__name__}: {error}; free disk space, or "
                "mend the cause named here, and start the same command again: all steps are done and saved"
            ) from error
        return folder

    def save_at_boundary(self) -> None:
        """Save after an interrupted rollout: the state is that of the generation's start."""
        self.sampler.load_state_dict(self._boundary_state)
        self._save_checkpoint(self.model, None)

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        """Time a phase of the step and tell watchers about it."""
        if PHASE_FILE:
            Path(PHASE_FILE).write_text(name)
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


def _causal_lm(model: Any) -> PreTrainedModel:
    """The transformers model inside DDP, DeepSpeed and PEFT wrappers."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _no_reward(**_: Any) -> list[float]:
    """trl insists on a reward function; ours are applied in ``experience.py``."""
    raise RunError("trl's reward path was called; rewards come from train/experience.py")


def _average(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Means over tokens of the packs' means (of ``_max`` the maximum), and the sum of their trained tokens."""
    tokens = np.array([row["tokens/trained"] for row in rows])
    averaged = {}
    for key in rows[0] if rows else ():  # without any where no group has an advantage
        values = np.array([row[key] for row in rows])
        averaged[key] = values.max() if key.endswith("_max") else np.average(values, weights=np.maximum(tokens, 1e-9))
    return {key: float(value) for key, value in averaged.items()} | {"tokens/trained": float(tokens.sum())}


def _weightless() -> PackedBatch:
    """A pack without any weight: keeps a rank with fewer packs in step with the others."""
    none, nan = np.zeros(2, np.float32), np.full(2, np.nan, np.float32)
    path: dict[str, Any] = dict(
        ids=np.zeros(2, np.int64), pos=np.arange(2), sub_end=np.full(2, 2), pred=np.array([-1, 0])
    )
    weights: dict[str, Any] = dict(w_pos=none, w_neg=none, w_kl=none, w_ent=none, w_nll=none)
    return PackedBatch(**path, old_logp=nan, ref_logp=nan, **weights, group=np.zeros(2, np.int64))
