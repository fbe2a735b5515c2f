"""Outcome verifiers, filters on outcomes, and length shaping. Importing this package imports no torch."""
