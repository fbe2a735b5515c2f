"""Engines: what decodes. Named here, imported only when asked for: an engine may drag in gigabytes."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ...errors import ConfigError

ENGINES = {
    "transformers": "laconic.rollout.engines.transformers:TransformersEngine",
    "cascade": "laconic.rollout.engines.cascade:CascadeEngine",
    "vllm": "laconic.rollout.engines.vllm_colocated:VllmEngine",
    "vllm_server": "laconic.rollout.engines.vllm_server:VllmServerEngine",
    "scripted": "laconic.rollout.engines.fake:ScriptedEngine",
}
"""Import paths by the name ``rollout.engine`` gives them."""


def engine_class(name: str) -> Any:
    """The class behind a name of ``ENGINES`` or an import path ``module:Class``. Raises ``ConfigError``."""
    path = ENGINES.get(name, name)
    if ":" not in path:
        raise ConfigError(f"unknown engine {name!r}; known: {', '.join(sorted(ENGINES))}; or give 'module:Class'")
    module, _, attribute = path.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"engine {name!r} cannot be imported: {error}; give 'module:Class' with the module on PYTHONPATH"
        ) from error
