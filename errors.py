"""Mistakes a user can mend. Each message names the value, the limit and the remedy; the command line prints only it."""


class LaconicError(Exception):
    """Base of the errors the command line reports without a traceback (exit status 1, or 2 for wrong usage)."""


class ConfigError(LaconicError, ValueError):
    """A setting that cannot work."""


class DataError(LaconicError, ValueError):
    """A data file, model folder or record that cannot be used."""


class RunError(LaconicError, RuntimeError):
    """A run that cannot go on: a lost worker, a non-finite loss, an unusable checkpoint."""
