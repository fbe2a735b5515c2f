"""Training: credit, objectives, samplers, packing, the trainer, run state."""
