"""Real vLLM in tests: left out, and named once, where it is not installed; one server serves the whole session."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from laconic.errors import ConfigError
from laconic.rollout.engines.vllm_version import require_vllm

sys.path.insert(0, str(Path(__file__).parent))


def _why_not() -> str | None:
    import torch

    if torch.cuda.is_available():
        return "the tests of vLLM are for its CPU build, and this machine has a GPU"
    try:
        require_vllm()
    except ConfigError as error:
        return str(error)
    return None


WHY_NOT = _why_not()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests marked ``vllm`` where they cannot run; one stands for all of them."""
    marked = [item for item in items if item.get_closest_marker("vllm")]
    if WHY_NOT is None or not marked:
        return
    marked[0].add_marker(pytest.mark.skip(reason=f"and {len(marked) - 1} more: {WHY_NOT}"))
    items[:] = [item for item in items if item not in marked[1:]]
    config.hook.pytest_deselected(items=marked[1:])


@pytest.fixture(scope="session")
def vllm_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the random tied model the server starts with."""
    from vllm_models import make

    folder = tmp_path_factory.mktemp("served")
    make(tied=True, seed=3).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def vllm_server(vllm_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the one server of the test session."""
    from laconic.rollout.engines.vllm_serve import Server

    log = tmp_path_factory.mktemp("server") / "log.txt"
    with Server(vllm_model, max_context=400, max_live=32, log=log) as server:
        server.wait_until_ready(300)
        yield str(server.peer)
