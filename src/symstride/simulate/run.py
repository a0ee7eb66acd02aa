"""A run: many strides of many replicas, kept in segments, so that a kill loses less than one of them."""

import dataclasses
import hashlib
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms

from symstride import __version__
from symstride.data.calculators import describe_calculator, make_calculator
from symstride.data.config import CalculatorConfig
from symstride.data.files import locked
from symstride.data.pairs import species_of
from symstride.data.trajectory import Trajectory
from symstride.errors import ConfigError, DataError, SimulationError, SymstrideWarning
from symstride.model import Model, load_model
from symstride.phase import Phase
from symstride.simulate.nve import Simulation, Stretch
from symstride.simulate.output import Output, flatten
from symstride.simulate.start import Start, check_stride, draw_momenta, read_start, unfamiliar
from symstride.units import FS, KB

Progress = Callable[[int, int, float], None]  # strides done, strides in all, ns/day (NaN if not known yet)

ATOM_STRIDES = 32768  # between two saves: a few seconds' work


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
        ):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name}: {value} is not right: it must be greater than 0")
        if self.seed < 0:
            raise ConfigError(f"seed: {self.seed} is not right: it must be 0 or more")
        if self.precision not in (None, "float32", "float64"):
            raise ConfigError(f"precision: {self.precision} is not right: float32 or float64")


def run(
    model: Path,
    structure: Path,
    out: Path,
    settings: RunSettings = RunSettings(),
    progress: Progress = lambda done, total, speed: None,
) -> Path:
    """Runs a model from a structure (see `read_start`) at constant energy; returns `out`.

    `out` then holds a trajectory for each replica, `000.h5` and so on, and `run.json`. Stopped or killed, a
    second call goes on, and the result is that of an uninterrupted run to the last bit. A finished run is
    left as it is. What the model was not trained for gives a SymstrideWarning.

    Raises ConfigError for settings that make no sense or differ from those in `out`, DataError for a bad
    start or a calculator that fails, SimulationError or ConvergenceError where a replica cannot go on; what
    was written before stays.
    """
    model, structure, out = Path(model), Path(structure), Path(out)
    loaded = load_model(model)
    if settings.precision:
        loaded = loaded.cast(settings.precision)
    draws = settings.temperature_K is not None
    start = read_start(structure, settings.replicas, settings.frame, draws=draws)
    species_of(start.numbers, loaded.elements)
    with locked(out):
        return _Run(model, loaded, start, settings, Output(out), progress).complete()


@dataclass(frozen=True)
class _State:
    """Where a run stands."""

    z: Phase
    memory: Any = None
    strides: int = 0
    slots: int = 0  # of the neighbour lists
    gradients: np.ndarray | float = 0.0  # [replicas]
    wall_s: float = 0.0
    timed_strides: int = 0
    timed_s: float = 0.0

    @staticmethod
    def load(saved: dict[str, np.ndarray], memory: Any) -> "_State":
        """From a segment; `memory` gives the structure of the map's."""
        leaves, structure = jax.tree.flatten(memory)
        leaves = [jnp.asarray(saved[f"memory {n}"]) for n in range(len(leaves))]
        return _State(
            Phase(jnp.asarray(saved["q"]), jnp.asarray(saved["p"])),
            jax.tree.unflatten(structure, leaves),
            int(saved["strides"]),
            int(saved["slots"]),
            saved["gradients"],
            float(saved["wall_s"]),
            int(saved["timed_strides"]),
            float(saved["timed_s"]),
        )

    def arrays(self) -> dict[str, np.ndarray]:
        names = ("strides", "slots", "gradients", "wall_s", "timed_strides", "timed_s")
        found = {name: np.asarray(getattr(self, name)) for name in names}
        found |= {f"memory {n}": np.asarray(x) for n, x in enumerate(jax.tree.leaves(self.memory))}
        return found | {"q": np.asarray(self.z.q), "p": np.asarray(self.z.p)}

    def after(self, done: Stretch, seconds: float) -> "_State":
        """After a stretch that took so long. Time is counted where nothing had to be compiled anew."""
        timed = done.slots == self.slots
        return _State(
            done.z,
            done.memory,
            self.strides + done.strides,
            done.slots,
            self.gradients + done.gradients,
            self.wall_s + seconds,
            self.timed_strides + timed * done.strides,
            self.timed_s + timed * seconds,
        )


class _Run:
    """One run with everything resolved."""

    def __init__(
        self,
        path: Path,
        model: Model,
        start: Start,
        settings: RunSettings,
        output: Output,
        progress: Progress,
    ):
        self.model, self.settings, self.output, self.progress = model, settings, output, progress
        self.stride_fs = check_stride(model, settings.stride_fs)
        frames = int(1000 * settings.length_ps / (self.stride_fs * settings.every) + 1e-9)
        if frames == 0:
            raise ConfigError(
                f"length_ps: {settings.length_ps:g} ps is shorter than {settings.every} strides "
                f"of {self.stride_fs:g} fs"
            )
        self.strides = frames * settings.every
        self.start, self.temperature = start, settings.temperature_K or start.temperature
        atoms = start.positions[0].size // 3 * start.replicas
        self.chunk = settings.chunk or min(1024, max(8, ATOM_STRIDES // atoms))
        self.simulation = Simulation(
            model.map,
            self.stride_fs * FS,
            species_of(start.numbers, model.elements),
            start.masses,
            start.cell,
            start.pbc,
            model.config.network.cutoff,
            settings.skin or self._skin(),
            start.replicas,
        )
        self.calculator: Any = make_calculator(settings.calculator) if settings.calculator else None
        self.warnings = unfamiliar(model, start, self.stride_fs, self.temperature)
        self.record = self._record(path)
        self.one = Trajectory(
            *(start.numbers, start.masses, start.cell, start.pbc, np.zeros(0), np.zeros(0), np.zeros(0)),
            info={
                "origin": "symstride run",
                "model_sha256": self.record["model"]["sha256"],
                "stride_fs": self.stride_fs,
                "temperature_K": self.temperature,
                "start": start.source,
                "seed": settings.seed,
            }
            | ({"calculator": describe_calculator(settings.calculator)} if settings.calculator else {}),
        )

    def _skin(self) -> float:
        """Å: of the lightest atoms' thermal flight in a stride, eight times, or 1 Å."""
        kT = KB * max(self.temperature, 1.0)
        return max(1.0, 8 * math.sqrt(kT / self.start.masses.min()) * self.stride_fs * FS)

    @property
    def buffer(self) -> int:
        """Frames kept in one chunk, at most."""
        return self.chunk // self.settings.every + 1

    def complete(self) -> Path:
        """Goes on from wherever the segments end."""
        earlier = self.output.claim(self.record["settings"])
        if earlier.get("status") in ("finished", "failed"):
            self.output.segments.remove()
            if earlier["status"] == "failed":
                raise SimulationError(f"{earlier['failure']['message']} (this run has ended so before)")
            self.progress(self.strides, self.strides, math.nan)
            return self.output.folder
        for warning in self.warnings:
            warnings.warn(warning, SymstrideWarning, stacklevel=3)
        if not earlier:
            self.output.write_record(self.record)
        state = self._resume() or self._begin()
        speed = math.nan
        failure = None
        while state.strides < self.strides and failure is None:
            self.progress(state.strides, self.strides, speed)
            state, failure = self._advance(state)
            speed = (
                86.4 * self._simulated_ps(state.timed_strides) / state.timed_s if state.timed_s else math.nan
            )
        self.progress(state.strides, self.strides, speed)
        self.output.merge(self.start.replicas, self.settings.extxyz)
        self.output.write_record(self._result(state, failure, "failed" if failure else "finished"))
        self.output.segments.remove()
        if failure:
            raise failure.error
        return self.output.folder

    def _simulated_ps(self, strides: int) -> float:
        return strides * self.stride_fs * self.start.replicas / 1000

    def _begin(self) -> _State:
        q = jnp.asarray(self.start.positions.reshape(-1, 3))
        shape = self.start.positions.shape
        forces = self.simulation.forces(q, self.buffer).reshape(
            shape
        )  # also compiles, so that timing is fair
        momenta = self.start.momenta
        if self.settings.temperature_K is not None:
            momenta = draw_momenta(self.start, self.settings.temperature_K, self.settings.seed, forces)
        slots = self.simulation.particles(q).neighbors.index.shape[1]
        return _State(Phase(q, jnp.asarray(momenta.reshape(-1, 3))), slots=slots)

    def _resume(self) -> _State | None:
        last = self.output.segments.last()
        if last is None:
            return None
        saved = last[1]
        try:
            slots = int(saved["slots"])
            z = Phase(jnp.asarray(saved["q"]), jnp.asarray(saved["p"]))
            self.simulation.forces(z.q, self.buffer, slots)
            particles = self.simulation.particles(z.q, slots)
            memory = eqx.filter_eval_shape(self.model.map.begin, z, jnp.asarray(self.simulation.h), particles)
            return _State.load(saved, memory)
        except KeyError as error:
            raise DataError(
                f"{self.output.segments.paths[-1]}: has no {error}: damaged, remove it"
            ) from error

    def _advance(self, state: _State):
        """One chunk, written; and why a replica cannot go on, if so."""
        began = time.perf_counter()
        every = self.settings.every
        done = self.simulation.stretch(
            state.z,
            state.memory,
            min(self.chunk, self.strides - state.strides),
            begin=state.strides,
            every=every,
            frames=self.buffer,
            slots=state.slots,
        )
        after = state.after(done, time.perf_counter() - began)
        first = state.strides // every + 1  # number of the first frame kept
        positions, momenta = done.positions, done.momenta
        if state.strides == 0:
            first = 0
            positions = np.concatenate([np.asarray(state.z.q)[None], positions])
            momenta = np.concatenate([np.asarray(state.z.p)[None], momenta])
        numbers = np.arange(first, first + len(positions))
        energies, fault = self._true_energies(numbers, positions)
        frames = flatten(self.one, numbers * every * self.stride_fs, positions, momenta, energies)
        self.output.segments.append(frames, after.arrays())
        self.output.write_record(self._result(after, done.failure, "running"))
        if fault:
            raise DataError(fault)
        return after, done.failure

    def _true_energies(
        self, numbers: np.ndarray, positions: np.ndarray
    ) -> tuple[np.ndarray | None, str | None]:
        """[F, replicas] eV of every `energies`-th frame, NaN elsewhere; and why not all are known, if so."""
        if self.calculator is None:
            return None, None
        start = self.start
        energies = np.full((len(positions), start.replicas), np.nan)
        self.calculator.reset()  # as after a restart
        atoms = Atoms(
            start.numbers, cell=start.cell, pbc=start.pbc, masses=start.masses, calculator=self.calculator
        )
        consistent = "free_energy" in getattr(self.calculator, "implemented_properties", ())
        for frame in np.flatnonzero(numbers % self.settings.energies == 0):
            row = []
            for q in positions[frame].reshape(start.replicas, -1, 3):
                atoms.positions = q
                try:
                    row.append(float(atoms.get_potential_energy(force_consistent=consistent)))
                except Exception as error:
                    ps = numbers[frame] * self.settings.every * self.stride_fs / 1000
                    message = " ".join(str(error).split()) or "no message"
                    return energies, (
                        f"the calculator failed at {ps:.6g} ps, replica {len(row)} ({type(error).__name__}: "
                        f"{message}); the run up to there is in {self.output.folder}, and the same command "
                        "goes on from it"
                    )
            energies[frame] = row
        return energies, None

    def _record(self, path: Path) -> dict[str, Any]:
        """run.json before the first stride. Everything in `settings` decides the result."""
        settings, model = self.settings, self.model
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        fixed = dataclasses.asdict(replace(settings, calculator=None))
        fixed |= {
            "calculator": settings.calculator.model_dump(by_alias=True) if settings.calculator else None,
            "stride_fs": self.stride_fs,
            "replicas": self.start.replicas,
            "precision": model.config.precision,
            "skin": self.simulation.skin,
            "chunk": self.chunk,
            "model_sha256": digest,
            "start_sha256": self.start.digest,
        }
        keys = (
            "symstride",
            "data_sha256",
            "temperature_K",
            "volume_A3_per_atom",
            "masses_u",
            "trained_seconds",
        )
        known = {key: model.provenance[key] for key in keys if key in model.provenance}
        device = jax.devices()[0]
        return {
            "status": "running",
            "settings": fixed,
            "model": {
                "path": str(path.resolve()),
                "sha256": digest,
                "kind": model.config.kind,
                "provenance": known,
            },
            "start": self.start.source,
            "temperature_K": self.temperature,
            "n_atoms": len(self.start.numbers),
            "warnings": self.warnings,
            "device": f"{device.platform} {device.device_kind}",
            "dtype": model.config.precision,
            "failures_fs": [None] * self.start.replicas,
            "failure": None,
            "versions": {"symstride": __version__, "jax": jax.__version__, "numpy": np.__version__},
        }

    def _result(self, state: _State, failure, status: str) -> dict[str, Any]:
        """run.json with what the run has come to."""
        replicas = self.start.replicas
        gradients = float(np.mean(state.gradients)) / max(state.strides, 1)
        end = state.strides * self.stride_fs
        simulated = self._simulated_ps(state.timed_strides)
        return self.record | {
            "status": status,
            "strides": state.strides,
            "length_ps": end / 1000,
            "gradients_per_stride": gradients,
            "gradients_per_ps": gradients * 1000 / self.stride_fs,
            "wall_s": state.wall_s,
            "wall_s_per_ps": state.timed_s / simulated if simulated else None,
            "wall_s_per_ps_means": f"of one replica, {replicas} at once; not compiling, energies, writing",
            "timed_strides": state.timed_strides,
            "failures_fs": [end if failure and k == failure.replica else None for k in range(replicas)],
            "failure": {
                "time_fs": end,
                "replica": failure.replica,
                "kind": type(failure.error).__name__,
                "message": str(failure.error),
            }
            if failure
            else None,
        }
