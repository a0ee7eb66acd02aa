"""The novelty of a frame tells whether a learned map can be trusted there.

    python experiments/alarm.py [MODEL]     # about two minutes; results/alarm.json and results/alarm.png

An explicit model of an aluminium crystal at 300 to 450 K (models/aluminium-explicit.safetensors) takes one
stride from frames of EMT at other temperatures, up to a melt, and in other cells. Flagged are frames whose
novelty is beyond 1, before the stride is taken. False alarms are counted on a crystal at 300 and 450 K; also
told is what is found among frames near the border, 450 and 600 K and 2 % smaller. The error that the novelty
lets expect is compared with the true one.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet
from common import keep
from matplotlib.figure import Figure

from symstride.model import Model, load_model
from symstride.phase import Phase
from symstride.simulate.plan import simulation_of
from symstride.simulate.start import Start
from symstride.units import FS, KB

jax.config.update("jax_enable_x64", True)

MODEL = Path(__file__).parent.parent / "models" / "aluminium-explicit.safetensors"
STRIDE, STEP = 32.0, 2.0  # fs
SETTINGS = [  # temperature K, strain of lengths
    (300, 0.0), (300, 0.0), (450, 0.0), (600, 0.0), (900, 0.0), (1200, 0.0), (2500, 0.03), (300, -0.02),
    (300, -0.05), (300, 0.03), (300, 0.05),
]  # fmt: skip
HOME = 3  # the first of these are the crystal that the model knows
BORDER = ((450, 0.0), (600, 0.0), (300, -0.02))
FRAMES, APART = 24, 0.2  # of each setting, ps
MOLTEN = 2000  # K
SKIN = 6.0  # Å: the wildest stride must end within the lists, or have an error anyway
UNUSED = 100  # seeds from here on: novelty's margin was chosen on frames of smaller ones
BEYOND = 3.0  # times the validation error is too large an error


def main() -> None:
    model = load_model(Path(sys.argv[1]) if len(sys.argv) > 1 else MODEL)
    assert model.novelty is not None
    validation = model.provenance["validation"]["strides_fs"][f"{STRIDE:g}"]["momentum"]
    rows = []
    for seed, (temperature, strain) in enumerate(SETTINGS):
        pairs = frames(temperature, strain, UNUSED + seed)
        novelty, error = judged(model, pairs)
        rows += [
            {
                "temperature_K": temperature,
                "strain": strain,
                "home": seed < HOME,
                "novelty": n,
                "momentum_error": e,
                "momentum_error_expected": model.expected_error(STRIDE, n),
            }
            for n, e in zip(novelty, error, strict=True)
        ]
        print(
            f"{temperature:5g} K {strain:+.2f}: {np.median(novelty):6.2f} {np.median(error):.4f}", flush=True
        )
    flagged, wrong, home = (
        np.array(x)
        for x in (
            [r["novelty"] > 1 for r in rows],
            [r["momentum_error"] > BEYOND * validation for r in rows],
            [r["home"] for r in rows],
        )
    )
    ratio = np.array([r["momentum_error_expected"] / r["momentum_error"] for r in rows])
    solid = np.array([r["temperature_K"] < MOLTEN for r in rows])
    border = np.array([(r["temperature_K"], r["strain"]) in BORDER for r in rows])
    summary = {
        "system": "aluminium EMT",
        "validation_momentum_error": validation,
        "frames_with_too_large_an_error": int(wrong.sum()),
        "of_these_flagged": float(flagged[wrong].mean()),
        "frames_with_too_large_an_error_near_the_border": int((wrong & border).sum()),
        "of_these_flagged_too": float(flagged[wrong & border].mean()),
        "frames_at_home": int(home.sum()),
        "false_alarms_there": float(flagged[home & ~wrong].mean()),
        "right_but_flagged_elsewhere": float(flagged[~home & ~wrong].mean()),
        "expected_over_true_error_solid": np.quantile(ratio[solid], [0.05, 0.5, 0.95]).tolist(),
        "solid_within_a_factor_of_two": float(np.mean(np.abs(np.log2(ratio[solid])) < 1)),
    }
    print(summary)
    keep("alarm", [summary, *rows], drawn(rows, validation))


def frames(temperature: float, strain: float, seed: int) -> list[tuple[Atoms, Atoms]]:
    """Frames of EMT at a temperature (K) in a strained cell, each with the reference a stride later."""
    atoms = bulk("Al", cubic=True) * (2, 2, 2)
    atoms.set_cell(atoms.cell * (1 + strain), scale_atoms=True)
    atoms.calc = EMT()
    rng = np.random.default_rng(seed)
    atoms.set_momenta(rng.normal(size=(len(atoms), 3)) * np.sqrt(2 * KB * temperature * 26.98))
    friction = {"temperature_K": temperature, "friction": 0.01 / units.fs, "fixcm": False, "rng": rng}
    bath = Langevin(atoms, STEP * units.fs, **friction)
    bath.run(round(1000 * 2 / STEP))
    pairs = []
    for _ in range(FRAMES):
        bath.run(round(1000 * APART / STEP))
        momenta = atoms.get_momenta()
        atoms.set_momenta(momenta - momenta.sum(0) * atoms.get_masses()[:, None] / atoms.get_masses().sum())
        start = atoms.copy()
        end = atoms.copy()
        end.calc = EMT()
        VelocityVerlet(end, STEP * units.fs).run(round(STRIDE / STEP))
        pairs.append((start, end))
    return pairs


def judged(model: Model, pairs: list[tuple[Atoms, Atoms]]) -> tuple[np.ndarray, np.ndarray]:
    """Novelties and rms momentum errors (over thermal momentum at 300 K) of one stride, [P]."""
    first, count = pairs[0][0], len(pairs)
    q, p = (np.stack([f(start) for start, _ in pairs]) for f in (Atoms.get_positions, Atoms.get_momenta))
    masses, cell = first.get_masses(), first.cell.array
    start = Start(first.numbers, masses, cell, first.pbc, q, p, 300.0, "EMT")
    simulation = simulation_of(model, start, STRIDE, SKIN, count)
    z = Phase(jnp.asarray(q.reshape(-1, 3)), jnp.asarray(p.reshape(-1, 3)))
    particles, h = simulation.particles(z.q), jnp.asarray(STRIDE * FS)
    novelty = model.novelty(model.map, z, h, particles)  # pyright: ignore[reportOptionalCall]
    end, _ = model.map(z, h, particles)
    thermal = np.sqrt(masses * KB * 300)[:, None]
    wrong = (np.asarray(end.p).reshape(q.shape) - np.stack([e.get_momenta() for _, e in pairs])) / thermal
    error = np.sqrt(np.mean(wrong**2, axis=(1, 2)))
    return np.asarray(novelty, float), np.where(np.isfinite(error), error, np.inf)


def drawn(rows: list[dict], validation: float) -> Figure:
    figure = Figure(figsize=(6, 4.4), layout="constrained")
    axes = figure.subplots()
    for n, (temperature, strain) in enumerate(dict.fromkeys(SETTINGS)):
        mine = [r for r in rows if (r["temperature_K"], r["strain"]) == (temperature, strain)]
        axes.plot(
            [r["novelty"] for r in mine], [r["momentum_error"] for r in mine], ".", color=f"C{n}",
            label=f"{temperature} K" + (f", {100 * strain:+g} %" if strain else ""),
        )  # fmt: skip
    axes.axhline(BEYOND * validation, color="0.5", lw=0.8)
    axes.axvline(1, color="0.5", lw=0.8)
    axes.set(
        xscale="log", yscale="log", xlabel="novelty", ylabel="momentum error of one stride, over thermal"
    )
    axes.legend(frameon=False, fontsize=7)
    return figure


if __name__ == "__main__":
    main()
