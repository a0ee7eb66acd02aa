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
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from common import COLORS, CORRECTIONS, RESULTS, keep
from crystals import QUICK, STARTS, TEMPERATURES, TIMESTEP, Crystal, Extent, Study, crystals
from matplotlib.figure import Figure
from paths import action_of

from symstride.data.trajectory import Trajectory
from symstride.maps.direct import Corrected
from symstride.maps.dressed import Dressed
from symstride.measure.caustic import limit, reach
from symstride.measure.drift import energy_drift
from symstride.measure.equipartition import equipartition
from symstride.model import Model
from symstride.units import KB

jax.config.update("jax_enable_x64", True)

LOST = 3 * KB * 150 * 1000  # meV an atom: by then as hot as the hottest frames learned from


def variants(corrected: Model, explicit: Model) -> dict[str, Model]:
    """By name; all but the kicks are parts of one model. What is solved computes in float64."""
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
        "s3": corrected.cast("float64"),
        "explicit": explicit,
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
