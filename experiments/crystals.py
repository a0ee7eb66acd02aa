"""Aluminium and Pt₃Al by EMT: reference trajectories, models learned from them, and runs of the models."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ase import Atoms
from ase.build import bulk
from ase.io import write

from symstride.data import h5md
from symstride.data.config import CalculatorConfig, SampleConfig, StructureConfig
from symstride.data.sample import sample
from symstride.data.trajectory import Trajectory
from symstride.errors import ConvergenceError, SimulationError
from symstride.model import Model, load_model, save_model
from symstride.simulate.output import Output
from symstride.simulate.run import RunSettings, run
from symstride.train.config import TrainConfig
from symstride.train.loop import train
from symstride.train.plots import describe

TIMESTEP = 2.0  # fs, of the reference
TEMPERATURES = (300, 300, 450, 300, 300, 450, 300, 300, 300, 300)  # K; hot frames widen what is known
STARTS, TOLERANCE = 4, 1e-5


@dataclass(frozen=True)
class Crystal:
    """What is simulated, with which stride."""

    name: str
    atoms: Atoms
    stride: float  # fs


@dataclass(frozen=True)
class Extent:
    """How much of everything; ps but for numbers."""

    thermalize: float = 0.4
    learned: float = 1.2  # of each trajectory
    unseen: float = 4.0
    corrected_steps: int = 1000
    explicit_steps: int = 700
    strides: int = 2500
    pairs: int = 128


QUICK = Extent(0.1, 0.4, 0.6, 60, 40, 40, 16)


def crystals() -> tuple[Crystal, Crystal]:
    """The strides turn the fastest modes by the same θ."""
    alloy = bulk("Pt", a=3.975, cubic=True)  # the lattice constant of EMT
    alloy.symbols[0] = "Al"  # L1₂
    return (
        Crystal("aluminium", bulk("Al", cubic=True).repeat(2), 24.0),
        Crystal("Pt₃Al", alloy.repeat(2), 26.0),
    )


@dataclass(frozen=True)
class Study:
    """A crystal and what is kept of its study in `folder`."""

    crystal: Crystal
    extent: Extent
    folder: Path

    def reference(self, name: str, kelvins: Sequence[float], length: float, seed: int) -> list[Trajectory]:
        """A trajectory of EMT at each temperature."""
        structure = self.folder / "structure.xyz"
        if not structure.exists():
            write(structure, self.crystal.atoms)
        config = SampleConfig(
            structure=StructureConfig(file=structure),
            calculator=CalculatorConfig(name="emt"),
            temperature_K=tuple(kelvins),
            trajectories=len(kelvins),
            thermalize_ps=self.extent.thermalize,
            length_ps=length,
            timestep_fs=TIMESTEP,
            seed=seed,
            segment_frames=500,
            output=self.folder / name,
        )
        return [h5md.read(path) for path in sample(config)]

    def trained(self, kind: str, steps: int) -> Model:
        """From the reference, without the last two trajectories: they choose the best state."""
        path = self.folder / f"{kind}.safetensors"
        if path.exists():
            return load_model(path)
        config = {
            "data": [f"{self.folder}/reference/*.h5"],
            "map": {"kind": kind, "strides_fs": [self.crystal.stride], "tolerance": TOLERANCE},
            "schedule": {"steps": steps, "force_steps": min(steps, 200)},
            "output": path,
        }
        return train(
            TrainConfig.model_validate(config),
            lambda step, total, entry: print(describe(entry), flush=True) if entry else None,
        )

    def strided(self, name: str, model: Model) -> tuple[list[Trajectory], dict]:
        """A trajectory from each start, as far as it goes, and run.json."""
        path, out = self.folder / "models" / f"{name}.safetensors", self.folder / "runs" / name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            save_model(model, path)
        settings = RunSettings(
            length_ps=self.extent.strides * self.crystal.stride / 1000,
            frame=0,
            every=2,
            calculator=CalculatorConfig(name="emt"),
            energies=max(1, round(250 / (2 * self.crystal.stride))),
        )
        try:
            run(path, self.folder / "unseen", out, settings)
        except (SimulationError, ConvergenceError) as lost:
            print(f"{self.crystal.name}, {name}: {lost}", flush=True)
        output = Output(out)
        return output.trajectories(), output.record()
