"""The public names of the kernels. The folder has no ``__init__.py`` (see its README), so they live here."""

from __future__ import annotations

from .logprob_head import LogProbOutput, add_logprob_head

__all__ = ["LogProbOutput", "add_logprob_head"]
