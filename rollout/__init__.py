"""Rollouts: segments and groups, drivers, the scheduler, engines."""
