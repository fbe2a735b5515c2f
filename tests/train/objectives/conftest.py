"""Makes the helpers beside the tests importable under ``--import-mode=importlib``, and trl's trainer once a file."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> object:
    """trl's trainer, one for all cases."""
    from trl_side import make_trl_trainer

    return make_trl_trainer(tmp_path_factory.mktemp("trl"))
