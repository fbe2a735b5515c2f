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
    """Folder of the random model the server starts with; its heads are made wider."""
    from vllm_models import narrow

    folder = tmp_path_factory.mktemp("served")
    narrow(seed=3).save_pretrained(folder)
    return folder


class Served:
    """The one server of the test session; a test that kills it starts it again."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.model, self.folder, self.starts, self.port = model, folder, 0, 0

    def start(self) -> None:
        from laconic.rollout.engines.vllm_serve import Server

        self.starts += 1
        log = self.folder / f"log{self.starts}.txt"
        self.server = Server(self.model, port=self.port, max_context=400, max_live=32, log=log)
        try:
            self.server.wait_until_ready(300)
        except BaseException:
            self.server.stop()
            raise
        self.port, self.address = self.server.peer.port, str(self.server.peer)


@pytest.fixture(scope="session")
def served(vllm_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The server, running."""
    served = Served(vllm_model, tmp_path_factory.mktemp("server"))
    served.start()
    yield served
    served.server.stop()


@pytest.fixture(scope="session")
def vllm_server(served: Served) -> str:
    """Its address, which stays."""
    return served.address
