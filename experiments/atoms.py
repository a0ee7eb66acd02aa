"""Aluminium and Pt₃Al (ASE EMT, 32 atoms, 300 K): direct predictors drift, the action does not, and it is
the action.

    python experiments/atoms.py [--work DIR] [--quick]       # results/atoms.json and results/atoms.png

Learned for each crystal from less than 20 ps of reference: a direct predictor and S³ together, and two
explicit kicks. From the same four starts, 10⁴ strides in all: the predictor; the same corrected by n
gradients of S³; S³ solved, with the prediction as first guess; the kicks. Their true energies and
temperatures are those of EMT. The learned S³ is compared with p̄·Δq − ∫L dt of paths not learned from. Each
stage is kept in DIR and not repeated; --quick does a little of everything, to see that it works.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write
from ase.md.verlet import VelocityVerlet
from common import COLORS, CORRECTIONS, RESULTS, keep
from matplotlib.figure import Figure

from symstride.data import h5md
from symstride.data.config import CalculatorConfig, SampleConfig, StructureConfig
from symstride.data.pairs import species_of
from symstride.data.sample import sample
from symstride.data.trajectory import Trajectory
from symstride.errors import ConvergenceError, SimulationError
from symstride.maps.direct import Corrected
from symstride.maps.dressed import Dressed
from symstride.measure.caustic import limit, reach
from symstride.measure.drift import energy_drift
from symstride.measure.equipartition import equipartition
from symstride.model import Model, implicit_part, load_model, save_model
from symstride.neighbors import neighbor_list
from symstride.phase import Particles, Phase
from symstride.simulate.output import Output
from symstride.simulate.run import RunSettings, run
from symstride.train.config import TrainConfig
from symstride.train.loop import train
from symstride.train.plots import describe
from symstride.train.small import Pairs, undressed
from symstride.units import FS, KB

jax.config.update("jax_enable_x64", True)

TIMESTEP = 2.0  # fs, of the reference
TEMPERATURES = (300, 300, 450, 300, 300, 450, 300, 300, 300, 300)  # K; hot frames widen what is known
STARTS, TOLERANCE = 4, 1e-5
LOST = 3 * KB * 150 * 1000  # meV an atom: by then as hot as the hottest frames learned from


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
    learned: float = 1.5  # of each trajectory
    unseen: float = 5.0
    corrected_steps: int = 1500
    explicit_steps: int = 1000
    strides: int = 2500
    pairs: int = 128


QUICK = Extent(0.1, 0.4, 0.6, 200, 60, 60, 16)


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


def variants(corrected: Model, explicit: Model) -> dict[str, Model]:
    """By name, in float64. All but the kicks are parts of one model."""
    corrected = corrected.cast("float64")
    dressed = corrected.map
    assert isinstance(dressed, Dressed)
    assert isinstance(dressed.inner, Corrected)
    predictor, implicit = dressed.inner.predictor, dressed.inner.implicit

    def variant(inside, **config) -> Model:
        built = Dressed(dressed.dressing, inside)
        return replace(corrected, map=built, config=corrected.config.model_copy(update=config))

    return {
        "direct": variant(predictor, kind="direct"),
        **{f"corrected-{n}": variant(Corrected(predictor, implicit, n), corrections=n) for n in CORRECTIONS},
        "s3": corrected,
        "explicit": explicit.cast("float64"),
    }


def energies(starts: list[Trajectory]) -> tuple[np.ndarray, np.ndarray]:
    """Times [T] in fs and true energies [S, T] in eV, where they are known."""
    total = np.stack([t.energies + t.kinetic_energies for t in starts])
    known = np.isfinite(total).all(0)
    return starts[0].times[known], total[:, known]


def figures(starts: list[Trajectory]) -> dict:
    """Until the first start is lost: the energy of one has changed by that of 150 K, or a stride failed."""
    times, total = energies(starts)
    n_atoms = starts[0].n_atoms
    change = 1000 * (total - total[:, :1]) / n_atoms
    gone = (np.abs(change) > LOST).any(0)
    end = times[gone.argmax()] if gone.any() else np.inf
    before = times < end
    row: dict = {
        "left_fs": float(end) if gone.any() else None,
        "energy": {"ps": (times / 1000).tolist(), "mev_per_atom": np.round(change, 5).tolist()},
    }
    if before.sum() >= 4:
        drift, _ = energy_drift(times[before], total[:, before], n_atoms)
        row |= {"drift_mev_per_atom_per_ps": drift.value, "drift_stderr": drift.stderr}
        row["energy_rms_mev_per_atom"] = float(np.sqrt(np.mean(change[:, before] ** 2)))
    within = [cut(t, t.times < end) for t in starts]
    if len(within[0].times) > 16:
        found = equipartition(within)
        row["temperature_K"] = {s: [float(e.value), float(e.stderr)] for s, e in found.species.items()}
        row["excess_K"] = {s: [float(e.value), float(e.stderr)] for s, e in found.excess.items()}
    return row


def cut(t: Trajectory, part: np.ndarray) -> Trajectory:
    return replace(t, times=t.times[part], positions=t.positions[part], momenta=t.momenta[part])


def rows(study: Study, models: dict[str, Model], unseen: list[Trajectory]) -> Iterator[dict]:
    """One for each method, the reference first."""
    stride = study.crystal.stride
    common = {"system": study.crystal.name, "n_atoms": unseen[0].n_atoms, "starts": len(unseen)}
    every = np.arange(len(unseen[0].times)) % round(250 / TIMESTEP) == 0
    sparse = [replace(t, energies=np.where(every, t.energies, np.nan)) for t in unseen]
    row = {"method": "reference", "stride_fs": TIMESTEP, "ps": unseen[0].times[-1] / 1000}
    yield row | common | figures(sparse)
    for name, model in models.items():
        starts, record = study.strided(name, model)
        errors = model.provenance["validation"]["strides_fs"][f"{stride:g}"]
        row = {"method": name, "stride_fs": stride, "ps": record["length_ps"]} | common | figures(starts)
        ended, left = (record["failure"] or {}).get("time_fs"), row.pop("left_fs")
        lost = [t for t in (ended, left) if t is not None]
        row |= {
            "strides": record["strides"],
            "lost_after_strides": round(min(lost) / stride) if lost else None,
            "failure": record["failure"],
            "gradients_per_stride": record["gradients_per_stride"],
            "wall_s_per_ps": record["wall_s_per_ps"],
            "training_s": model.provenance["trained_seconds"],
            "errors": errors,
        }
        print(json.dumps({k: v for k, v in row.items() if k != "energy"}), flush=True)
        yield row


class Paths:
    """Reference paths of a stride each, and their actions, from frames of trajectories not learned from.

    Velocity Verlet of step δ is the map of Σ δ [m (Δq/δ)²/2 − (V + V′)/2], its discrete Lagrangian, which is
    the ∫L dt of that map with no error of quadrature (Marsden and West, Acta Numerica 10, 357 (2001)).
    """

    def __init__(self, unseen: list[Trajectory], stride: float, pairs: int):
        self.first, self.stride = unseen[0], stride
        each = -(-pairs // len(unseen))
        last = len(unseen[0].times) - round(stride / TIMESTEP)
        frames = np.linspace(0, last - 1, each).astype(int)
        self.starts = [(t.positions[n], t.momenta[n]) for t in unseen for n in frames]
        self.atoms = Atoms(numbers=self.first.numbers, cell=self.first.cell, pbc=self.first.pbc)
        self.atoms.calc = EMT()

    def along(self, step: float) -> Pairs:
        """By velocity Verlet with this step in fs."""
        atoms, mass, ends = self.atoms, self.first.masses[:, None], []
        for q, p in self.starts:
            atoms.positions = q
            atoms.set_momenta(p)
            action, last, potential = 0.0, q, atoms.get_potential_energy()
            verlet = VelocityVerlet(atoms, step * FS)
            for _ in range(round(self.stride / step)):
                verlet.run(1)
                kinetic = np.sum(mass * (atoms.positions - last) ** 2) / 2 / (step * FS) ** 2
                new = atoms.get_potential_energy()
                action += step * FS * (kinetic - (potential + new) / 2)
                last, potential = atoms.get_positions(), new
            ends.append((q, p, last, atoms.get_momenta(), action))
        q, p, q_end, p_end, action = (jnp.asarray(np.array(x)) for x in zip(*ends, strict=True))
        return Pairs(Phase(q, p), Phase(q_end, p_end), jnp.full(len(action), self.stride * FS), action)

    def potential(self, q: np.ndarray) -> np.ndarray:
        """Of EMT at each q [B, M, 3], eV."""
        found = []
        for self.atoms.positions in q:
            found.append(self.atoms.get_potential_energy())
        return np.array(found)


def action_of(model: Model, unseen: list[Trajectory], stride: float, pairs: int) -> dict:
    """Learned S³ and measured, less their means, in eV fs: whole and less hV(q̄).

    The reference is learned with its step, whose action the first comparison takes; half that step tells how
    far it is from that of the exact flow.
    """
    assert isinstance(model.map, Dressed)
    implicit = Dressed(model.map.dressing, implicit_part(model.map))
    paths = Paths(unseen, stride, pairs)
    first = paths.first
    near = neighbor_list(
        np.mean([q for q, _ in paths.starts], 0), first.cell, first.pbc, model.config.network.cutoff + 2, 0
    )
    particles = jax.tree.map(
        jnp.asarray, Particles(species_of(first.numbers, model.elements), first.masses, near, 1)
    )
    h, generating = stride * FS, implicit_part(model.map).action
    value = jax.jit(lambda z: jax.lax.map(lambda z: generating.value(z.q, z.p, h, particles), z))
    found: dict = {"pairs": len(paths.starts)}
    for name, step in (("", TIMESTEP), ("half_step", TIMESTEP / 2)):
        within = undressed(implicit, paths.along(step), particles)
        middle = jax.tree.map(lambda a, b: (a + b) / 2, within.start, within.end)
        action = jnp.sum(middle.p * (within.end.q - within.start.q), (1, 2)) - within.action
        learned, measured = np.asarray(value(middle)), np.asarray(action)
        known = h * paths.potential(np.asarray(middle.q))
        part = {
            "whole": comparison(measured, learned),
            "less_prior": comparison(measured - known, learned - known),
        }
        found |= {name: part} if name else part
    return found


def comparison(measured: np.ndarray, learned: np.ndarray) -> dict:
    """Correlation, slope, the rms of what a constant does not account for over that of the measured, and the
    values themselves from their means, eV fs."""
    measured, learned = (x - x.mean() for x in (measured, learned))
    return {
        "correlation": float(np.corrcoef(measured, learned)[0, 1]),
        "slope": float(np.polyfit(measured, learned, 1)[0]),
        "rms_error": float(np.std(learned - measured) / measured.std()),
        "measured": np.round(measured / FS, 6).tolist(),
        "learned": np.round(learned / FS, 6).tolist(),
    }


def kept(path: Path, make: Callable[[], dict]) -> dict:
    """What `make` returned when it was last asked."""
    if not path.exists():
        path.write_text(json.dumps(make()))
    return json.loads(path.read_text())


def study(crystal: Crystal, extent: Extent, work: Path) -> list[dict]:
    """All of one crystal."""
    this = Study(crystal, extent, work / crystal.name.replace("₃", "3"))
    this.folder.mkdir(parents=True, exist_ok=True)
    learned = this.reference("reference", TEMPERATURES, extent.learned, seed=0)
    unseen = this.reference("unseen", STARTS * TEMPERATURES[:1], extent.unseen, seed=1000)
    turn = reach(learned, crystal.stride, "dressed s3")
    print(f"{crystal.name}: {turn.wavenumber:.0f} cm⁻¹, θ = {turn.theta:.2f}", flush=True)
    corrected = this.trained("corrected", extent.corrected_steps)
    models = variants(corrected, this.trained("explicit", extent.explicit_steps))
    action = kept(
        this.folder / "action.json",
        lambda: action_of(models["s3"], unseen, crystal.stride, extent.pairs),
    )
    found = list(rows(this, models, unseen))
    for row in found:
        row |= {"theta": turn.theta, "picard_limit": limit("dressed s3").picard}
        if row["method"] == "s3":
            row["action"] = action
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--work", type=Path, default=Path("atoms.part"))
    arguments.add_argument("--quick", action="store_true")
    given = arguments.parse_args()
    extent, results = (QUICK, given.work / "quick") if given.quick else (Extent(), RESULTS)
    figure = Figure(figsize=(15, 8), layout="constrained")
    found = []
    for axes, crystal in zip(figure.subplots(2, 3), crystals(), strict=True):
        of_one = study(crystal, extent, results if given.quick else given.work)
        draw(axes, crystal, of_one)
        found += of_one
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(COLORS))
    keep("atoms", found, figure, results)
    print(results / "atoms.png")


def draw(axes, crystal: Crystal, found: list[dict]) -> None:
    """Energies of all starts, temperatures of species, and the action beyond its prior."""
    left, middle, right = axes
    kelvins = {row["method"]: row.get("temperature_K", {}) for row in found}
    species = list(kelvins["reference"])
    for number, row in enumerate(found):
        name, color = row["method"], COLORS[row["method"]]
        times, curves = row["energy"]["ps"], np.array(row["energy"]["mev_per_atom"])
        for k, curve in enumerate(curves):
            left.plot(times, np.clip(curve, -400, 400), color=color, lw=0.9, label=name if k == 0 else None)
        for symbol, marker in zip(species, "os", strict=False):
            if symbol in kelvins[name]:
                value, stderr = kelvins[name][symbol]
                place = number + (0.12 if marker == "s" else -0.12) * (len(species) > 1)
                middle.errorbar(place, value, stderr, fmt=marker, color=color, capsize=3)
        if row.get("lost_after_strides") is not None:
            text = f"lost after\n{row['lost_after_strides']} strides"
            middle.text(number, 0.02, text, transform=middle.get_xaxis_transform(), ha="center", fontsize=7)
    left.axhline(LOST, color="0.8", lw=0.8, ls="--")
    left.axhline(-LOST, color="0.8", lw=0.8, ls="--")
    left.set_yscale("symlog", linthresh=1)
    left.set(ylim=(-400, 400), xlabel="ps", ylabel="change of true energy, meV/atom")
    left.set_title(f"{crystal.name}, strides of {crystal.stride:g} fs (dashed: lost)")
    for symbol, style in zip(species, ("-", ":"), strict=False):
        middle.axhline(kelvins["reference"][symbol][0], color="0.7", lw=0.8, ls=style, zorder=0)
    shown = " and ".join(f"{s} ({m})" for s, m in zip(species, ("●", "■"), strict=False))
    middle.set(title=f"temperature of {shown}, until lost", ylabel="K")
    middle.set_xticks(range(len(found)), [row["method"] for row in found], rotation=30)
    low, high = middle.get_ylim()
    middle.set(xlim=(-0.6, len(found) - 0.4), ylim=(low - 0.15 * (high - low), high))
    action = next(row["action"] for row in found if row["method"] == "s3")
    part, whole = action["less_prior"], action["whole"]
    right.plot(part["measured"], part["measured"], color="0.7", lw=1)
    right.plot(part["measured"], part["learned"], ".", ms=4)
    text = "\n".join(
        f"{name}: 1 − correlation {1 - x['correlation']:.0e}, slope {x['slope']:.4f}"
        for name, x in (("this", part), ("whole S³", whole))
    )
    right.text(0.05, 0.95, text, transform=right.transAxes, va="top")
    right.set(title="S³ − hV(q̄), eV fs", xlabel="p̄·Δq − ∫L dt along the path", ylabel="learned")


if __name__ == "__main__":
    main()
