"""Runs that leave what their model was trained on: the alarm comes no later than the errors.

    python experiments/leaving.py     # about ten minutes; results/leaving.json and results/leaving.png

- melting: models/aluminium-explicit.safetensors, of crystals of 300 to 450 K, begins at 1500 K, in a lattice
  at rest, and is a liquid, or lost, a picosecond later;
- compressed: the same at 300 K, all lengths 5 % smaller;
- a pair that never met: a model of copper alone and gold alone, trained here, in CuAu (L1₀).

Each runs at constant energy under the guards `warn`, `stop` and `substep`. Of the run that is only warned the
novelty of where each stride leads is told, and its true momentum error (EMT, over the thermal momentum
of the start); of all of them what their run.json has.
"""

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write as ase_write
from ase.md.verlet import VelocityVerlet
from common import keep
from matplotlib.figure import Figure

from symstride.data.config import SampleConfig
from symstride.data.sample import sample
from symstride.errors import ConvergenceError, SimulationError, SymstrideWarning
from symstride.extend.alarms import Looks
from symstride.maps.guarded import LOOK
from symstride.model import load_model
from symstride.simulate.output import Output
from symstride.simulate.run import RunSettings, run
from symstride.train.config import TrainConfig
from symstride.train.loop import train
from symstride.units import FS, KB

jax.config.update("jax_enable_x64", True)

ALUMINIUM = Path(__file__).parent.parent / "models" / "aluminium-explicit.safetensors"
STEP = 2.0  # fs, of the true stride
BEYOND = 3.0  # times the validation error is too large an error
PAIR_STRIDE, COPPER, GOLD = 16.0, 3.61, 4.056  # fs, Å
POLICIES = ("warn", "stop", "substep")


@dataclass(frozen=True)
class Case:
    """A start that leads where a model has not been."""

    name: str
    model: Path
    atoms: Atoms
    kelvin: float
    stride_fs: float
    ps: float


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows, curves = [], {}
        for case in cases(Path(folder)):
            found, curves[case.name] = left(case, Path(folder) / case.name)
            rows += found
            print(*found, sep="\n", flush=True)
    keep("leaving", rows, drawn(curves))


def cases(folder: Path) -> list[Case]:
    crystal, squeezed = (bulk("Al", cubic=True) * (2, 2, 2) for _ in range(2))
    squeezed.set_cell(0.95 * squeezed.cell, scale_atoms=True)
    met = bulk("Cu", a=(COPPER + GOLD) / 2, cubic=True) * (2, 2, 2)
    met.symbols[np.round(4 * met.get_scaled_positions()[:, 2]).astype(int) % 2 == 1] = "Au"
    met.set_masses(None)
    return [
        Case("melting", ALUMINIUM, crystal, 1500, 32, 3),
        Case("compressed", ALUMINIUM, squeezed, 300, 32, 3),
        Case("a pair that never met", pure(folder / "pure"), met, 300, PAIR_STRIDE, 1.5),
    ]


def pure(folder: Path) -> Path:
    """A model of copper alone and gold alone."""
    data = []
    for symbol, a in (("Cu", COPPER), ("Au", GOLD)):
        structure = {"bulk": symbol, "a": a, "cubic": True, "repeat": [2, 2, 2]}
        config = {"structure": structure, "calculator": {"name": "emt"}, "temperature_K": [300, 450]}
        config |= {"trajectories": 4, "thermalize_ps": 0.4, "length_ps": 0.8, "timestep_fs": STEP}
        data += sample(SampleConfig.model_validate(config | {"output": folder / symbol}))
    network = {"channels": 8, "products": 8, "hidden": 32}
    learning = {
        "data": [str(path) for path in data],
        "held_out": [str(data[3]), str(data[7])],
        "map": {"kind": "explicit", "strides_fs": [PAIR_STRIDE], "network": network},
        "schedule": {"force_steps": 100, "steps": 700},
        "output": folder / "pure.safetensors",
    }
    train(TrainConfig.model_validate(learning))
    return folder / "pure.safetensors"


def left(case: Case, folder: Path) -> tuple[list[dict], np.ndarray]:
    """Rows of all policies; times, novelties and errors over the validation error of the run that is warned,
    [3, F]."""
    folder.mkdir()
    ase_write(folder / "start.xyz", case.atoms)
    model = load_model(case.model)
    known = model.provenance["validation"]["strides_fs"][f"{case.stride_fs:g}"]["momentum"]
    rows, curve = [], np.zeros((3, 0))
    for policy in POLICIES:
        out = folder / policy
        settings = RunSettings(case.stride_fs, case.ps, temperature_K=case.kelvin, guard=policy)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SymstrideWarning)  # that all is strange there is why it is run
            try:
                run(case.model, folder / "start.xyz", out, settings)
            except (SimulationError, ConvergenceError) as error:
                print(error)
        record = Output(out).record()
        row = {"system": case.name, "policy": policy, "stride_fs": case.stride_fs, "validation": known}
        row |= {key: record.get(key) for key in ("strides", "gradients_per_stride", "failure", "novelty")}
        if policy == "warn":
            (trajectory,) = Output(out).trajectories()
            looks = Looks.of(model, [trajectory], case.stride_fs)
            curve = np.stack([trajectory.times[:-1], looks.novelty[1:, 0], errors(case, trajectory) / known])
            row |= judged(*curve)
        rows.append(row)
    return rows, curve


def judged(times: np.ndarray, novelty: np.ndarray, error: np.ndarray) -> dict:
    """Whether the alarm, which looks at few strides, comes with the first error that is too large."""
    number = np.arange(len(times))
    looks = (number == 0) | ((number + 1) % LOOK == 0)
    alarm = np.flatnonzero(looks & ~(novelty <= 1))
    wrong = np.flatnonzero(~(error <= BEYOND))
    return {
        "first_alarm_fs": float(times[alarm[0]]) if len(alarm) else None,
        "first_error_too_large_fs": float(times[wrong[0]]) if len(wrong) else None,
        "largest_error_before_the_alarm": float(error[: alarm[0]].max(initial=0)) if len(alarm) else None,
        "largest_error": float(np.nanmax(error)),
        "frames_with_too_large_an_error": len(wrong),
        "of_these_novel": float(np.mean(~(novelty[wrong] <= 1))) if len(wrong) else None,
    }


def errors(case: Case, trajectory) -> np.ndarray:
    """[F − 1] rms momentum errors of a run's strides over the thermal momentum of its start."""
    thermal = np.sqrt(trajectory.masses * KB * case.kelvin)[:, None]
    found = []
    for q, p, end in zip(trajectory.positions, trajectory.momenta, trajectory.momenta[1:], strict=False):
        atoms = Atoms(trajectory.numbers, q, cell=trajectory.cell, pbc=True, calculator=EMT())
        atoms.set_masses(trajectory.masses)
        atoms.set_momenta(p)
        VelocityVerlet(atoms, STEP * FS).run(round(case.stride_fs / STEP))
        found.append(np.sqrt(np.mean(((end - atoms.get_momenta()) / thermal) ** 2)))
    return np.array(found)


def drawn(curves: dict[str, np.ndarray]) -> Figure:
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    for axes, (name, (times, novelty, error)) in zip(figure.subplots(1, 3), curves.items(), strict=True):
        axes.plot(times / 1000, novelty, label="novelty")
        axes.plot(times / 1000, error / BEYOND, label=f"error / {BEYOND:g} × validation error")
        axes.axhline(1, color="0.5", lw=0.8)
        axes.set(title=name, xlabel="ps", yscale="log")
    figure.axes[0].legend(frameon=False, fontsize=7)
    return figure


if __name__ == "__main__":
    main()
