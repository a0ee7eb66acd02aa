"""What to run, and for how long."""

import math
from dataclasses import dataclass
from typing import Literal

from symstride.data.config import CalculatorConfig
from symstride.errors import ConfigError


@dataclass(frozen=True)
class RunSettings:
    """What to run. None takes the default the model or the start gives."""

    stride_fs: float | None = None  # the model's longest
    length_ps: float = 10.0
    temperature_K: float | None = None  # draws momenta; None takes those of the start
    replicas: int | None = None  # as many as frames given to start from
    seed: int = 0
    every: int = 1  # strides from one kept frame to the next
    frame: int = -1  # of the start's file
    calculator: CalculatorConfig | None = None
    energies: int = 1  # kept frames from one true energy to the next
    precision: Literal["float32", "float64"] | None = None  # the model's own
    skin: float | None = None  # Å
    chunk: int | None = None  # strides between saves
    extxyz: bool = False
    unsolved: Literal["raise", "substep"] = "raise"  # strides an implicit map does not solve: end, or divide
    guard: Literal["warn", "stop", "substep"] = "warn"  # where atoms are unlike the training data
    thermostat: Literal["langevin", "csvr", "ghmc"] | None = None  # at `temperature_K`; None: constant energy
    thermostat_ps: float = 1.0  # in which it forgets momenta
    ghmc_strides: int = 1  # from one true energy, which accepts or rejects them, to the next
    barostat: Literal["isotropic", "flexible"] | None = (
        None  # cells that grow alike in all directions, or not
    )
    pressure_bar: float = 1.0
    barostat_ps: float = 1.0  # in which it forgets volumes, if the system has …
    compressibility: float = 4.5e-5  # 1/bar, … this one (that of water); no average depends on it

    def __post_init__(self) -> None:
        for name in (
            "stride_fs",
            "length_ps",
            "temperature_K",
            "replicas",
            "every",
            "energies",
            "skin",
            "chunk",
            "thermostat_ps",
            "ghmc_strides",
            "barostat_ps",
            "compressibility",
        ):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name}: {value} is not right: it must be greater than 0")
        check_seed(self.seed)
        if self.precision not in (None, "float32", "float64"):
            raise ConfigError(f"precision: {self.precision} is not right: float32 or float64")
        if self.thermostat not in (None, "langevin", "csvr", "ghmc"):
            raise ConfigError(f"thermostat: {self.thermostat} is not right: langevin, csvr or ghmc")
        if self.thermostat and self.temperature_K is None:
            raise ConfigError("thermostat: give temperature_K, that of the heat bath")
        if self.thermostat == "ghmc" and self.calculator is None:
            raise ConfigError("calculator: give one; ghmc accepts and rejects strides by true energies")
        if self.energies != RunSettings.energies and (self.thermostat == "ghmc" or self.calculator is None):
            why = "ghmc takes one at each move" if self.calculator else "there is no calculator to give them"
            raise ConfigError(f"energies: does nothing, as {why}: leave it out")
        if self.every % self.ghmc_strides:
            raise ConfigError(
                f"every: {self.every} is not right: moves are of ghmc_strides = {self.ghmc_strides} strides, "
                "and frames come between moves: give a multiple of it"
            )
        for name, there, what in (
            ("seed", self.temperature_K is not None, "temperature"),
            ("thermostat_ps", self.thermostat, "thermostat"),
            ("ghmc_strides", self.thermostat == "ghmc", "thermostat ghmc"),
            *((n, self.barostat, "barostat") for n in ("pressure_bar", "barostat_ps", "compressibility")),
        ):
            if not there and getattr(self, name) != getattr(RunSettings, name):
                raise ConfigError(f"{name}: does nothing without a {what}: name one, or leave it out")
        if self.barostat not in (None, "isotropic", "flexible"):
            raise ConfigError(f"barostat: {self.barostat} is not right: isotropic or flexible")
        if self.barostat and self.thermostat in (None, "ghmc"):
            raise ConfigError("barostat: give a thermostat too, langevin or csvr; it needs a temperature")
        if self.barostat and self.calculator is None:
            raise ConfigError(
                "barostat: give a calculator too: the forces that a model learns leave its pressure open by "
                "a function of the volume, which the calculator's energies tell at the start"
            )
        if not math.isfinite(self.pressure_bar):
            raise ConfigError(f"pressure_bar: {self.pressure_bar} is not right: it must be finite")
        check_guard(self.guard)
        if self.unsolved not in ("raise", "substep"):
            raise ConfigError(f"unsolved: {self.unsolved} is not right: raise or substep")


def check_seed(seed: int) -> None:
    """Raises ConfigError for one that random numbers cannot begin with."""
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed: {seed} is not right: it must be 0 or more, and below 2⁶³")


def check_guard(policy: str) -> None:
    """Raises ConfigError for a policy that there is not."""
    if policy not in ("warn", "stop", "substep"):
        raise ConfigError(f"guard: {policy} is not right: warn, stop or substep")
