"""One reference trajectory: Langevin thermalisation, then NVE velocity Verlet, in kill-safe segments."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.io import read as ase_read
from ase.md.velocitydistribution import Stationary, ZeroRotation

from symstride.data import h5md
from symstride.data.calculators import describe_calculator, make_calculator
from symstride.data.checks import check_trajectory, energy_drift
from symstride.data.config import SampleConfig, StructureConfig
from symstride.data.dynamics import Move, make_dynamics
from symstride.data.files import load_arrays, locked, save_arrays
from symstride.data.segments import Segments
from symstride.data.trajectory import Trajectory
from symstride.errors import ConfigError, DataError, SymstrideError
from symstride.units import FS, KB

NEAR_MINIMUM = 0.1  # eV/Å; below it potential energy is missing, and momenta at 2T supply both halves
MAX_FLUCTUATION = 0.25  # of the total over that of the kinetic energy; Verlet's is (ωh)²/4, so ωh = 1


class UnphysicalError(DataError):
    """The reference does not keep its own energy; no other trajectory of its configuration will."""


class Stopped(Exception):
    """Asked to stop between two steps."""


def build_structure(config: StructureConfig, trajectory: int = 0) -> Atoms:
    """The structure at which a trajectory begins; ConfigError or DataError if there is none or it makes no
    sense."""
    source = str(config.file or f"bulk {config.bulk}")
    try:
        if config.file:
            frames = ase_read(config.file, ":" if config.frames else "-1:")
            atoms = frames[trajectory % len(frames)]
        else:
            atoms = bulk(str(config.bulk), a=config.a, cubic=config.cubic)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"structure: {source} cannot be made ({reason})") from error
    assert isinstance(atoms, Atoms)
    if atoms.constraints:
        raise DataError(f"{source}: has constraints; a Hamiltonian map needs all atoms free")
    for kind in ("initial_charges", "initial_magmoms"):
        if kind in atoms.arrays and atoms.arrays[kind].any():
            raise DataError(
                f"{source}: has {kind}, which trajectories do not carry, so that later energies would be of "
                "another state: take them out, and give the calculator's `arguments` charge and spin"
            )
    atoms = atoms.repeat(config.repeat)
    masses = config.masses or {}
    if absent := sorted(masses.keys() - set(atoms.symbols)):
        raise ConfigError(f"structure.masses: {source} has no {', '.join(absent)}")
    atoms.set_masses([masses.get(atom.symbol, atom.mass) for atom in atoms])
    still = np.zeros_like(atoms.positions)
    check_trajectory(_trajectory(atoms, {}, [_Frame(0.0, atoms.positions, still, 0.0, still)]), source)
    return atoms


def steps_in_all(config: SampleConfig) -> int:
    """Langevin and Verlet steps of one trajectory."""
    return config.thermalize_steps + (config.frames - 1) * config.every


def sample_one(
    config: SampleConfig, index: int, report: Callable[[int], None], stopped: Callable[[], bool]
) -> Path:
    """Makes or completes trajectory `index` and returns its file, `config.output/0000.h5` for the first.

    `report` is told the steps done so far; `stopped` is asked time and again whether to give up (raising
    Stopped). Raises DataError if the calculator fails, UnphysicalError if it does not keep its energy.
    """
    path = config.output / f"{index:04d}.h5"
    refused = config.output / f"{index:04d}.refused.h5"
    segments = Segments(config.output / f"{index:04d}.part")
    with locked(segments.folder):
        if refused.exists():
            judge(h5md.read(refused), config, refused)
            os.replace(refused, path)  # the limit was raised
        if not path.exists():
            _Sampler(config, index, segments, report, stopped).run()
            try:
                judge(segments.load(), config, refused)
            except UnphysicalError:
                segments.merge(refused)
                raise
            segments.merge(path)
        segments.remove()
    report(steps_in_all(config))
    return path


def judge(trajectory: Trajectory, config: SampleConfig, where: Path) -> None:
    """Raises UnphysicalError if the total energy drifts or fluctuates more than the step can excuse."""
    kinetic, total = trajectory.kinetic_energies, _total_energies(trajectory)
    shadow = shadow_energies(trajectory, config.timestep_fs)
    slope, error = (1000 / trajectory.n_atoms * x for x in energy_drift(trajectory.times, shadow))
    limit = config.max_drift_mev_per_atom_per_ps
    ratio = total.std() / kinetic.std() if kinetic.std() > 0 else 0.0
    if abs(slope) > limit and abs(slope) > 3 * error:
        fault = f"drifts by {slope:.3g} ± {error:.2g} meV/atom/ps; the limit is {limit:g}"
    elif ratio > MAX_FLUCTUATION:
        fault = (
            f"fluctuates {ratio:.2g} times as much as the kinetic energy; the limit is {MAX_FLUCTUATION:g}"
        )
    else:
        return
    raise UnphysicalError(
        f"{where}: refused: the reference's total energy {fault}; use a smaller timestep_fs than"
        f" {config.timestep_fs:g}, tighter convergence in the calculator, or a smoother cutoff"
    )


def shadow_energies(trajectory: Trajectory, timestep_fs: float) -> np.ndarray:
    """The energy [T] (eV) that velocity Verlet of step h keeps to h⁴, where H itself oscillates with h².

    It is H + h²(vᵀV″v/12 − FᵀM⁻¹F/24), V″v = −dF/dt from the frames' forces (Hairer, Lubich, Wanner, IX.3).
    Its drift shows in a tenth of the time that H would need.
    """
    total = _total_energies(trajectory)
    if trajectory.forces is None or len(total) < 3:
        return total
    h, forces, masses = timestep_fs * FS, trajectory.forces, trajectory.masses[:, None]
    force_rates = np.gradient(forces, trajectory.times * FS, axis=0, edge_order=2)
    curvature = -np.sum(trajectory.momenta / masses * force_rates, axis=(1, 2))
    return total + h**2 * (curvature / 12 - np.sum(forces**2 / masses, axis=(1, 2)) / 24)


def _total_energies(trajectory: Trajectory) -> np.ndarray:
    assert trajectory.energies is not None
    return trajectory.energies + trajectory.kinetic_energies


@dataclass(frozen=True)
class _Frame:
    time: float  # fs
    positions: np.ndarray
    momenta: np.ndarray
    energy: float
    forces: np.ndarray


def _trajectory(atoms: Atoms, info: dict, frames: list[_Frame]) -> Trajectory:
    return Trajectory(
        numbers=atoms.numbers,
        masses=atoms.get_masses(),
        cell=np.where(atoms.pbc[:, None], atoms.cell.array, 0.0),
        pbc=atoms.pbc,
        times=np.array([frame.time for frame in frames]),
        positions=np.array([frame.positions for frame in frames]),
        momenta=np.array([frame.momenta for frame in frames]),
        energies=np.array([frame.energy for frame in frames]),
        forces=np.array([frame.forces for frame in frames]),
        info=info,
    )


@dataclass
class _Sampler:
    """A trajectory as it is made.

    Each segment begins with no history (neighbour lists, wave functions, noise), as it does in a restart, so
    that both give the same numbers.
    """

    config: SampleConfig
    index: int
    segments: Segments
    report: Callable[[int], None]
    stopped: Callable[[], bool]

    def __post_init__(self) -> None:
        config = self.config
        self.atoms = build_structure(config.structure, self.index)
        if config.momenta and not self.atoms.get_momenta().any():
            raise DataError(f"{config.structure.file}: has no momenta to keep")
        self.atoms.calc = make_calculator(config.calculator)
        self.dynamics = make_dynamics(self.atoms, config.timestep_fs)
        self.temperature = config.temperature_K[self.index % len(config.temperature_K)]
        self.step = 0  # Langevin and Verlet steps since the start
        self.start_energy: float | None = None  # total, of frame 0
        self.info = {
            "origin": "symstride sample",
            "calculator": describe_calculator(config.calculator),
            "temperature_K": self.temperature,
            "timestep_fs": config.timestep_fs,
            "every": config.every,
            "thermalize_ps": config.thermalize_ps,
            "seed": config.seed,
            "trajectory": self.index,
        }

    def run(self) -> None:
        """Completes the segments, from wherever they end."""
        done = self._resume() if self.segments.paths else 0
        if done == 0 and not self.config.momenta:
            self._thermalize()
        while done < self.config.frames:
            end = min(self.config.frames, done + self.config.segment_frames)
            self.segments.append(self._segment(done, end))
            done = end

    def _resume(self) -> int:
        """Takes up the last frame; returns how many there are."""
        trajectory = self.segments.load()
        self._place(trajectory.positions[-1], trajectory.momenta[-1])
        self.start_energy = float(_total_energies(trajectory)[0])
        done = len(trajectory.times)
        self.step = self.config.thermalize_steps + (done - 1) * self.config.every
        return done

    def _segment(self, begin: int, end: int) -> Trajectory:
        spacing = self.config.timestep_fs * self.config.every
        with self._calculating():
            verlet = self.dynamics.verlet()
        frames = []
        for index in range(begin, end):
            self._advance(verlet, self.config.every if index > 0 else 0)
            frames.append(self._frame(index * spacing))
        return _trajectory(self.atoms, self.info, frames)

    def _frame(self, time: float) -> _Frame:
        atoms = self.atoms
        with self._calculating():
            energy, forces = self.dynamics.read()
        total = energy + float(atoms.get_kinetic_energy())
        if self.start_energy is None:
            self.start_energy = total
        if not abs(total - self.start_energy) < 3 * len(atoms) * KB * self.temperature:  # false for NaN
            raise UnphysicalError(
                f"trajectory {self.index} blew up before step {self.step}: its total energy went from"
                f" {self.start_energy:.6g} to {total:.6g} eV; use a smaller timestep_fs than"
                f" {self.config.timestep_fs:g}, or a better start; what was sampled before is in"
                f" {self.segments.folder}"
            )
        return _Frame(time, atoms.get_positions(), atoms.get_momenta(), energy, forces)

    def _thermalize(self) -> None:
        """Langevin at the temperature; then no total momentum, and no rotation if nothing is periodic."""
        config, atoms, steps = self.config, self.atoms, self.config.thermalize_steps
        checkpoint = self.segments.folder / "thermalize.npz"
        rng = np.random.default_rng([config.seed, self.index])
        if checkpoint.exists():
            saved = load_arrays(checkpoint)
            self._place(saved["positions"], saved["momenta"])
            rng.bit_generator.state = json.loads(str(saved["rng"]))
            self.step = int(saved["step"])
        else:
            with self._calculating():
                self.dynamics.verlet()
                near_minimum = np.abs(self.dynamics.read()[1]).max() < NEAR_MINIMUM
            kT = KB * self.temperature * (2 if near_minimum else 1)
            momenta = np.sqrt(atoms.get_masses() * kT)[:, None] * rng.standard_normal((len(atoms), 3))
            self._place(atoms.positions, momenta)
        while self.step < steps:
            with self._calculating():
                langevin = self.dynamics.langevin(self.temperature, rng)
            self._advance(langevin, min(config.segment_frames * config.every, steps - self.step))
            with self._calculating():
                self.dynamics.read()
            state = {
                "positions": atoms.positions,
                "momenta": atoms.get_momenta(),
                "step": np.array(self.step),
            }
            save_arrays(checkpoint, state | {"rng": np.array(json.dumps(rng.bit_generator.state))})
        Stationary(atoms, preserve_temperature=False)
        if not atoms.pbc.any() and len(atoms) > 1:
            with np.errstate(invalid="ignore"):  # ASE divides 0 by 0 for atoms on a line, and drops it
                ZeroRotation(atoms, preserve_temperature=False)

    def _advance(self, move: Move, steps: int) -> None:
        end = self.step + steps
        while self.step < end:
            if self.stopped():
                raise Stopped
            stretch = min(self.dynamics.stretch, end - self.step)
            with self._calculating():
                move(stretch)
            self.step += stretch
            self.report(self.step)

    def _place(self, positions: np.ndarray, momenta: np.ndarray) -> None:
        self.atoms.set_positions(positions)
        self.atoms.set_momenta(momenta)

    @contextmanager
    def _calculating(self) -> Iterator[None]:
        try:
            yield
        except SymstrideError:
            raise
        except Exception as error:
            message = " ".join(str(error).split()) or "no message"
            raise DataError(
                f"trajectory {self.index}: the calculator failed at step {self.step}"
                f" ({type(error).__name__}: {message}); what was sampled before is in {self.segments.folder}"
            ) from error
