"""Evaluation: tasks, metrics, cost, report."""
