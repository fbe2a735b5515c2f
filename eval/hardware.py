"""Machines the cost model prices for: ``hardware.yaml`` and a file of the user's that overrides it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError, DataError

PROFILES_FILE = Path(__file__).with_name("hardware.yaml")


@dataclass(frozen=True)
class Hardware:
    """One machine. Peaks are data-sheet values; ``eta_c``, ``eta_m`` and ``t0`` calibrate them."""

    name: str
    peak_flops: float
    """Dense FLOP/s in bf16."""
    bandwidth: float
    """Memory bandwidth, bytes/s."""
    memory: float
    """Bytes."""
    tdp: float | None = None
    """Watts."""
    price_per_hour: float | None = None
    """USD."""
    eta_c: float = 1.0
    """Share of the peak FLOP/s that is reached."""
    eta_m: float = 1.0
    """Share of the bandwidth that is reached."""
    t0: float = 0.0
    """Fixed overhead of a decode step, seconds."""

    def __post_init__(self) -> None:
        for name in ("peak_flops", "bandwidth", "memory", "eta_c", "eta_m"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ConfigError(
                    f"hardware profile {self.name!r}: {name} is {value!r} but must be a positive number; "
                    "give it in a hardware file"
                )
        if not isinstance(self.t0, int | float) or self.t0 < 0:
            raise ConfigError(f"hardware profile {self.name!r}: t0 is {self.t0!r} but must be 0 or more seconds")

    @property
    def flops(self) -> float:
        """Reached FLOP/s."""
        return self.eta_c * self.peak_flops

    @property
    def bytes_per_s(self) -> float:
        """Reached bytes/s."""
        return self.eta_m * self.bandwidth

    @property
    def ridge(self) -> float:
        """FLOPs per byte at which compute and memory take equally long."""
        return self.flops / self.bytes_per_s

    @property
    def label(self) -> str:
        """Name, and whether it is the idealised machine."""
        ideal = self.eta_c == 1 and self.eta_m == 1 and self.t0 == 0
        return f"{self.name}/{'idealised' if ideal else 'calibrated'}"

    def as_dict(self) -> dict[str, Any]:
        """The fields, for a report."""
        return asdict(self)


def load_hardware(name: str = "h100-sxm", file: str | Path | None = None) -> Hardware:
    """The profile ``name``; ``file`` (YAML in the form of ``hardware.yaml``) overrides keys and adds machines.

    Raises ``ConfigError`` for an unknown machine or key, ``DataError`` for a file that cannot be read.
    """
    profiles = _profiles(PROFILES_FILE)
    if file is not None:
        for machine, values in _profiles(Path(file)).items():
            profiles[machine] = profiles.get(machine, {}) | values
    if name not in profiles:
        raise ConfigError(
            f"unknown hardware profile {name!r}; known: {', '.join(profiles)}; add others in a hardware file"
        )
    known = {field.name for field in fields(Hardware)} - {"name"}
    values = profiles[name]
    if unknown := sorted(set(values) - known):
        raise ConfigError(f"hardware profile {name!r}: unknown key {unknown[0]!r}; known: {', '.join(sorted(known))}")
    return Hardware(name=name, **({"peak_flops": None, "bandwidth": None, "memory": None} | values))


def _profiles(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        raise DataError(f"no hardware file at {path}")
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise DataError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(loaded, dict) or not all(isinstance(values, dict) for values in loaded.values()):
        raise DataError(f"{path} must map machine names to their values, as in {PROFILES_FILE.name}")
    return loaded
