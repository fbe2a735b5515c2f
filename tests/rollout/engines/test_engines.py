"""Engines are found by name or import path, and imported only then."""

import pytest

from laconic.errors import ConfigError
from laconic.rollout.engines import engine_class
from laconic.rollout.engines.fake import ScriptedEngine


def test_an_engine_is_found_by_its_name_or_its_import_path():
    assert engine_class("scripted") is engine_class("laconic.rollout.engines.fake:ScriptedEngine") is ScriptedEngine


@pytest.mark.parametrize("name", ["no_such_module:Engine", "laconic.rollout.engines.fake:Missing", ":Engine"])
def test_an_engine_that_cannot_be_imported_is_named_with_the_reason(name):
    with pytest.raises(ConfigError, match=f"{name!r} cannot be imported"):
        engine_class(name)
