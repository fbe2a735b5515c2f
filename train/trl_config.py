"""Our settings in trl's words.

Only what trl and transformers still do for us is passed on; the keys whose effect lies in a method we replace are
refused by ``checks.py``.
"""

from __future__ import annotations

from pathlib import Path

from trl import GRPOConfig

from .ranks import backend, on_cpu_by_accelerate, on_gpu
from .settings import Settings


def grpo_config(settings: Settings, run_dir: Path) -> GRPOConfig:
    """The GRPOConfig of a run. One tick of the dataloader is one update, so accumulation is 1 on trl's side."""
    optim, rollout = settings.optim, settings.rollout
    updates = optim.updates_per_batch * optim.epochs
    gpu = on_gpu()
    generations = max(2, rollout.group_size)  # trl refuses 1; how many are sampled is the driver's business
    derived = dict(
        output_dir=str(run_dir / "trainer"),
        max_steps=settings.steps * updates,
        learning_rate=optim.lr,
        lr_scheduler_type=optim.schedule,
        warmup_steps=optim.warmup_steps * updates,
        weight_decay=optim.weight_decay,
        max_grad_norm=optim.max_grad_norm,
        gradient_checkpointing=optim.gradient_checkpointing,
        per_device_train_batch_size=generations,
        gradient_accumulation_steps=1,
        num_generations=generations,
        max_completion_length=rollout.max_completion,
        temperature=rollout.temperature,
        beta=settings.objective.kl,
        loss_type="grpo",
        seed=settings.seed,
        save_strategy="steps",
        save_steps=settings.save.every * updates,
        logging_strategy="steps",
        logging_steps=updates,
        # A filtered loss would hide a NaN from the log; ours stops the run instead.
        logging_nan_inf_filter=False,
        ignore_data_skip=True,
        disable_tqdm=True,
        report_to=settings.trl.get("report_to", "none"),
        use_cpu=on_cpu_by_accelerate(),
        ddp_backend=backend(),
        bf16=gpu,
    )
    return GRPOConfig(**{**derived, **{key: value for key, value in settings.trl.items() if key != "report_to"}})
