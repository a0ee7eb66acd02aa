"""One model where it was not trained: other temperatures and densities, alloys, strides and masses.

    python benchmarks/transfer.py temperature|composition|strides|masses [--work DIR] [--ps 10]

- temperature: aluminium (EMT) from 100 to 750 K and at lattice constants 5 % smaller and larger, by a model
  of 300 K and one density, and by one of three temperatures and five densities, whose strides are shorter.
- composition: Cu–Au (EMT) at compositions, orderings and sizes, and with surfaces, that a model has not
  seen, beside those it has, four orderings of five compositions, two of them hot, two of other densities, and
  of four compositions long cells and a slab; and a direct predictor trained on the same data.
- strides: aluminium, one model from 8 to 32 fs, at those strides and between; two halves beside one whole.
- masses: aluminium of isotopes of 27 and 54 u, of masses between, and of several in one crystal, by a model
  of 27 u alone, and by one that has seen 27 u, 54 u and half of each.

Errors of one stride are of frames of trajectories not trained on, over the thermal momentum of their
temperature; then four starts run at constant energy. Writes benchmarks/results/transfer-NAME.json and .png;
each stage is kept in DIR/NAME.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import numpy as np

from one_stride import Pairs, learned
from rows import judged, kept, print_row, simulate, with_energies, write

RESULTS = Path(__file__).parent / "results"
STARTS, POINTS, SKIN, FRAME_FS = 4, 32, 2.0, 64.0
LATTICE = 3.994  # Å, of aluminium in EMT
COPPER, GOLD = 3.610, 4.056
STEP_FS, EVERY = 2.0, 2  # of the references
UNSEEN = 1_000_000  # their first seed, beyond those of all trainings


@dataclass(frozen=True)
class Condition:
    """A system, with its masses, at a temperature."""

    name: str
    atoms: object  # ase.Atoms
    kelvin: float


@dataclass(frozen=True)
class Study:
    """What a model is trained on, and what it is asked."""

    training: dict[str, list[Condition]]  # model: conditions
    maps: dict[str, dict]  # model: settings
    conditions: list[Condition]
    strides: tuple[float, ...] | None  # asked; those trained, if none are named
    steps: dict[str, int] = field(default_factory=dict)  # of a model's training; 2500


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("name", choices=list(STUDIES))
    arguments.add_argument("--work", type=Path, default=Path("transfer.part"))
    arguments.add_argument("--ps", type=float, default=10.0)
    given = arguments.parse_args()
    work, study = given.work / given.name, STUDIES[given.name]()
    rows = []
    for model in study.maps:
        trained_on = {condition.name for condition in study.training[model]}
        for condition in study.conditions:
            for stride in study.strides or study.maps[model]["strides_fs"]:
                path = work / f"row-{model}-{condition.name}-{stride:g}.json"
                found = kept(path, lambda m=model, c=condition, h=stride: row(study, m, c, h, work, given.ps))
                seen = condition.name in trained_on and stride in study.maps[model]["strides_fs"]
                rows.append(found | {"seen": seen})
                print_row(rows[-1])
    write(RESULTS / f"transfer-{given.name}.json", rows)
    draw(rows).savefig(RESULTS / f"transfer-{given.name}.png", dpi=150)


def temperature() -> Study:
    def crystal(kelvin: float, strain: float = 0.0) -> Condition:
        name = f"{kelvin:g} K" + (f" {100 * strain:+g} %" if strain else "")
        return Condition(name, cubic("Al32", LATTICE * (1 + strain)), kelvin)

    wide = [crystal(t, s) for t in (100, 300, 750) for s in (0.0, -0.05, -0.025, 0.025, 0.05)]
    explicit = {"kind": "explicit", "strides_fs": (16.0, 32.0)}
    asked = [crystal(t) for t in (100, 200, 300, 450, 600, 750)]
    return Study(
        {"300 K": [crystal(300)], "100 to 750 K": wide},
        {"300 K": explicit, "100 to 750 K": explicit | {"strides_fs": (16.0, 24.0), "shared": False}},
        asked + [crystal(300, s) for s in (-0.05, -0.0375, -0.02, 0.02, 0.0375, 0.05)],
        None,
        {"100 to 750 K": 8000},
    )


def composition() -> Study:
    def alloy(gold: int, seed: int, kelvin: float = 300.0, strain: float = 0.0, shape=cubic) -> Condition:
        symbols = np.random.default_rng([gold, seed]).permutation(["Au"] * gold + ["Cu"] * (32 - gold))
        atoms = shape(list(symbols), (1 + strain) * vegard(gold / 32))
        return Condition(f"Cu{32 - gold}Au{gold} {seed}", atoms, kelvin)

    taught = ((300.0, 0.0), (600.0, 0.0), (300.0, -0.02), (600.0, 0.02))
    shapes = (bar, needle, slab)  # bars of 32 atoms have the long waves of larger cells
    seen = [alloy(gold, seed, *at) for gold in (0, 8, 16, 24, 32) for seed, at in enumerate(taught)]
    seen += [alloy(gold, 4 + n, shape=s) for gold in (0, 8, 24, 32) for n, s in enumerate(shapes)]
    unseen = [alloy(gold, 9) for gold in (4, 12, 20, 28)]
    explicit = {"kind": "explicit", "strides_fs": (16.0, 32.0)}
    return Study(
        {"explicit": seen, "direct": seen},
        {"explicit": explicit, "direct": explicit | {"kind": "direct"}},
        [*(c for c in seen if c.name[-1] == "0"), *unseen, *ordered()],
        (32.0,),
        {"explicit": 6000, "direct": 6000},
    )


def ordered() -> Iterator[Condition]:
    """Orderings, a larger cell and surfaces that no alloy trained on has."""
    sites = cubic("Au32", 1.0).positions
    layer = np.round(2 * sites).astype(int)
    corners = (layer % 2 == 0).all(axis=1)
    yield Condition("L1₂ Cu₃Au", cubic(list(np.where(corners, "Au", "Cu")), vegard(0.25)), 300.0)
    layers = np.where(layer[:, 2] % 2 == 0, "Au", "Cu")
    yield Condition("L1₀ CuAu", cubic(list(layers), vegard(0.5)), 300.0)
    symbols = np.random.default_rng(5).choice(["Cu", "Au"], 108, p=[0.6, 0.4])
    large = cubic(list(symbols), vegard(float(np.mean(symbols == "Au"))), (3, 3, 3))
    yield Condition("108 atoms", large, 300.0)
    halves = list(np.random.default_rng(6).permutation(["Cu", "Au"] * 16))
    yield Condition("surface (100)", slab(halves, vegard(0.5)), 300.0)
    yield Condition("surface (111)", close_packed(halves, vegard(0.5)), 300.0)


def strides() -> Study:
    one = [Condition("300 K", cubic("Al32", LATTICE), 300.0)]
    settings = {"kind": "explicit", "strides_fs": (8.0, 16.0, 24.0, 32.0)}
    return Study(
        {"8 to 32 fs": one}, {"8 to 32 fs": settings}, one, (8.0, 12.0, 16.0, 20.0, 24.0, 28.0, 32.0)
    )


def masses() -> Study:
    def isotopes(name: str, masses) -> Condition:
        atoms = cubic("Al32", LATTICE)
        atoms.set_masses(masses)
        return Condition(name, atoms, 300.0)

    def halves(one: float, other: float, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).permutation([one] * 16 + [other] * 16)

    light, heavy = (isotopes(f"{m:g} u", np.full(32, m)) for m in (27.0, 54.0))
    mixed = isotopes("27 and 54 u", halves(27, 54, 1))
    unseen = [
        isotopes("40 u", np.full(32, 40.0)),
        isotopes("27 and 54 u, others", halves(27, 54, 2)),
        isotopes("27 and 40 u", halves(27, 40, 3)),
        isotopes("from 27 to 54 u", np.random.default_rng(4).uniform(27, 54, 32)),
    ]
    explicit = {"kind": "explicit", "strides_fs": (16.0, 32.0)}
    return Study(
        {"27 u": [light], "27 and 54 u": [light, mixed, heavy]},
        {"27 u": explicit, "27 and 54 u": explicit},
        [light, mixed, heavy, *unseen],
        (32.0,),
    )


STUDIES = {"temperature": temperature, "composition": composition, "strides": strides, "masses": masses}


def cubic(symbols, a: float, repeat: tuple[int, int, int] = (2, 2, 2)):
    """These atoms on fcc sites, lattice constant `a` Å."""
    from ase.build import bulk

    return _of(symbols, bulk("Cu", "fcc", a, cubic=True) * repeat)


def bar(symbols, a: float):
    """32 of them, four lattice constants long and one thick."""
    return cubic(symbols, a, (1, 2, 4))


def needle(symbols, a: float):
    """32 of them, eight near neighbours long."""
    from ase.build import bulk

    return _of(symbols, bulk("Cu", "fcc", a) * (2, 2, 8))


def slab(symbols, a: float):
    """32 of them between two surfaces (100)."""
    atoms = cubic(symbols, a)
    atoms.center(vacuum=6.0, axis=2)
    return atoms


def close_packed(symbols, a: float):
    """32 of them between two surfaces (111)."""
    from ase.build import fcc111

    atoms = _of(symbols, fcc111("Cu", (2, 4, 4), a, vacuum=6.0, orthogonal=True))
    atoms.pbc = True
    return atoms


def _of(symbols, atoms):
    atoms.symbols[:] = symbols
    atoms.set_masses(None)
    return atoms


def vegard(gold: float) -> float:
    return COPPER + gold * (GOLD - COPPER)


def sampled(condition: Condition, folder: Path, trajectories: int, ps: float, seed: int) -> list[Path]:
    from ase.io import write as ase_write

    from symstride.data.config import SampleConfig
    from symstride.data.sample import sample

    folder.mkdir(parents=True, exist_ok=True)
    start = folder / "start.xyz"
    if not start.exists():
        ase_write(start, condition.atoms)
    settings = dict(structure={"file": start}, calculator={"name": "emt"}, temperature_K=condition.kelvin)
    settings |= dict(trajectories=trajectories, thermalize_ps=1.0, length_ps=ps, timestep_fs=STEP_FS)
    settings |= dict(every=EVERY, seed=seed, output=folder / "frames", segment_frames=500)
    return sample(SampleConfig.model_validate(settings))


def trained(study: Study, name: str, work: Path):
    """The model, from twelve trajectories of 1.6 ps of all its conditions together, or one of each if they
    are more; another of each is held out."""
    from symstride.model import load_model
    from symstride.train.config import TrainConfig
    from symstride.train.loop import train
    from symstride.train.plots import describe

    path = work / f"{name}.safetensors"
    if not path.exists():
        seen = study.training[name]
        each = -(-12 // len(seen))
        data = [
            sampled(c, work / "training" / name / c.name, each + 1, 1.6, 100 * n) for n, c in enumerate(seen)
        ]
        config = {
            "data": [str(p) for paths in data for p in paths],
            "held_out": [str(paths[-1]) for paths in data],
            "map": study.maps[name],
            "schedule": {"steps": study.steps.get(name, 2500)},
            "output": path,
        }
        train(
            TrainConfig.model_validate(config),
            lambda step, total, entry: print(describe(entry), flush=True) if entry else None,
        )
    return load_model(path)


def row(study: Study, name: str, condition: Condition, stride: float, work: Path, ps: float) -> dict:
    """Errors of one stride and measures of runs; of two half strides beside one, how far they part."""
    from ase.calculators.emt import EMT

    from symstride.data import h5md
    from symstride.measure.machine import processor

    model = trained(study, name, work)
    paths = sampled(condition, work / "reference" / condition.name, STARTS, 4.0, UNSEEN)
    reference = [h5md.read(path) for path in paths]
    pairs = Pairs.of(reference, stride, POINTS, condition.kelvin)
    ends = learned(model, pairs, stride, SKIN)
    gradients = model.gradients_per_stride or 1
    found = pairs.row(model.config.kind, None, gradients, ends)
    found |= {"model": name, "system": condition.name}
    if stride / 2 >= min(model.config.strides_fs):
        halves = learned(model, pairs, stride / 2, SKIN)
        apart = Pairs(
            pairs.starts, *(np.stack([e[k] for e in ends]) for k in (0, 1)), stride, condition.kelvin
        )
        parted = apart.row("", None, gradients, halves)
        found |= {f"halves_{x}_error": parted[f"{x}_error"] for x in ("momentum", "position")}
    runs, gradients, failed = simulate(model, stride, reference, ps, skin=SKIN, frame_fs=FRAME_FS)
    runs = with_energies(runs, EMT(), 256)
    measured = judged(model, stride, runs, reference, gradients, failed, {})
    made = {"date": date.today().isoformat(), "processor": processor()}
    return made | measured | found | {"kelvin": condition.kelvin, "gradients_per_stride": gradients}


def draw(rows: list[dict]):
    """Errors and drifts of all conditions, a colour for each model."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.5 * len({r["system"] for r in rows}) + 5, 6), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    for n, (model, stride) in enumerate(dict.fromkeys((r["model"], r["stride_fs"]) for r in rows)):
        mine = [r for r in rows if (r["model"], r["stride_fs"]) == (model, stride)]
        x = [r["system"] for r in mine]
        style = {"fmt": "o", "ms": 4, "color": f"C{n}", "label": f"{model}, {stride:g} fs"}
        above.errorbar(x, [100 * r["momentum_error"] for r in mine], **style)
        drifts = [abs(r.get("drift_mev_per_atom_per_ps") or np.nan) for r in mine]
        below.errorbar(x, drifts, [r.get("drift_stderr") or 0.0 for r in mine], **style)
    above.set(ylabel="momentum error, % of thermal", yscale="log")
    below.set(ylabel="|drift|, meV/atom/ps", yscale="log")
    below.tick_params("x", rotation=60)
    above.legend(frameon=False, fontsize=7, ncols=2)
    return figure


if __name__ == "__main__":
    main()
