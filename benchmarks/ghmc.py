"""Exact canonical averages by hybrid Monte Carlo, and what an independent sample costs beside small steps.

    python benchmarks/ghmc.py aluminium|ethanol|cluster …

- aluminium (ASE EMT, 32 atoms, 300 K) with models/aluminium-explicit.safetensors at 16 and 32 fs, one and
  four strides from one true energy to the next, and with a deliberately bad model (kicks 5 % too strong),
  beside Langevin dynamics at 4 fs;
- ethanol (GFN2-xTB, 300 K) with models/ethanol-explicit.safetensors at 4 and 6 fs and with a bad model,
  beside Langevin dynamics at 0.5 fs;
- cluster, LJ13, with velocity Verlet at long steps beside Langevin dynamics at short ones.

The same friction throughout. One core. Writes benchmarks/results/ghmc.json and .png, and leaves there the
rows of systems not asked for.
"""

import argparse
import itertools
import json
import os
import time
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "ghmc.json"
MODELS = Path(__file__).parent.parent / "models"
KELVIN, FORGET_PS = 300.0, 1.0
PS, REPLICAS = 80.0, 4
DISCARD = 0.1  # of each run, to come to equilibrium
PIECES = 16  # of all runs of a row, whose scatter is the error of a sample's cost
LJ_KT, LJ_FORGET, LJ_REPLICAS = 0.2, 2.0, 32  # reduced units; solid
BAD = 1.05


def main() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before jax starts its threads
    import jax

    jax.config.update("jax_enable_x64", True)
    from rows import write
    from symstride.measure.machine import processor

    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("systems", nargs="+", choices=["aluminium", "ethanol", "cluster"])
    asked = arguments.parse_args().systems
    makers = {"aluminium": aluminium, "ethanol": ethanol, "cluster": cluster}
    before = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    rows = [row for row in before if {"LJ13": "cluster"}.get(row["system"], row["system"]) not in asked]
    for row in itertools.chain(*(makers[name]() for name in asked)):
        rows.append({"date": date.today().isoformat(), "processor": processor()} | row)
        print(row, flush=True)
    write(RESULTS, rows)
    draw(rows).savefig(RESULTS.with_suffix(".png"), dpi=150)


@dataclass(frozen=True)
class System:
    """Atoms with their calculator, the model of them, small steps (fs) and how long they are taken (ps)."""

    name: str
    atoms: Any
    step_fs: float
    ps: float

    @property
    def model(self):
        from symstride.model import load_model

        return load_model(MODELS / f"{self.name}-explicit.safetensors")

    def bad(self):
        """The model with kicks that are too strong."""
        model = self.model
        kicks = replace(model.map.kicks, energy=BAD * model.map.kicks.energy)
        return replace(model, map=replace(model.map, kicks=kicks))


def aluminium():
    """The reference, then chains."""
    from ase.build import bulk
    from ase.calculators.emt import EMT

    atoms = bulk("Al", a=4.05, cubic=True) * (2, 2, 2)
    atoms.calc = EMT()
    system = System("aluminium", atoms, 4.0, 240.0)
    yield small_steps(system)
    for stride_fs, strides in ((16.0, 1), (32.0, 1), (32.0, 4)):
        yield chain("ghmc", system, system.model, stride_fs, strides)
    yield chain("ghmc bad", system, system.bad(), 32.0, 1)


def ethanol():
    """The same of a molecule."""
    from ase.build import molecule
    from ase.optimize import BFGS

    from symstride.data.xtb import TBLite

    atoms = molecule("CH3CH2OH")
    atoms.calc = TBLite(verbosity=0, accuracy=0.1)
    BFGS(atoms, logfile=None).run(fmax=0.01)
    system = System("ethanol", atoms, 0.5, 40.0)
    yield small_steps(system)
    for stride_fs, strides in ((4.0, 1), (6.0, 1), (6.0, 4)):
        yield chain("ghmc", system, system.model, stride_fs, strides)
    yield chain("ghmc bad", system, system.bad(), 6.0, 1)


def small_steps(system: System) -> dict:
    """Langevin dynamics in small steps, one gradient each, which leaves the atoms where to start.

    BAOAB, whose positions are exact for harmonic forces (Leimkuhler and Matthews, J. Chem. Phys. 138, 174102
    (2013)); noise without total momentum, as ASE's integrator has it only approximately.
    """
    import numpy as np

    from symstride.units import FS, KB

    atoms, h, kT = system.atoms, system.step_fs * FS, KB * KELVIN
    rng, m = np.random.default_rng(0), atoms.get_masses()[:, None]
    kept = np.exp(-system.step_fs / (1000 * FORGET_PS))

    def noise():
        p = np.sqrt(m * kT) * rng.standard_normal((len(atoms), 3))
        return p - m * p.sum(0) / m.sum()

    p, energies = np.sqrt(2) * noise(), []  # half of it goes into the springs
    force = atoms.get_forces()
    began = time.perf_counter()
    for _ in range(round(1000 * system.ps / system.step_fs)):
        p = p + h / 2 * force
        half = atoms.positions + h / 2 * p / m
        p = kept * p + np.sqrt(1 - kept**2) * noise()
        atoms.positions = half + h / 2 * p / m
        force = atoms.get_forces()
        p = p + h / 2 * force
        energies.append(atoms.get_potential_energy())
    wall = time.perf_counter() - began
    about = {"system": system.name, "method": "langevin", "step_fs": system.step_fs, "length_ps": system.ps}
    return about | averages(np.array(energies)[:, None], kT, len(atoms), 1) | {"wall_s": wall}


def chain(name: str, system: System, model, stride_fs: float, strides: int) -> dict:
    """A row of hybrid Monte Carlo with true energies."""
    import jax.numpy as jnp
    import numpy as np

    from symstride.maps.thermostat import Langevin
    from symstride.phase import Phase
    from symstride.simulate.energies import TrueEnergies
    from symstride.simulate.ghmc import HybridMonteCarlo
    from symstride.simulate.plan import simulation_of
    from symstride.simulate.start import Start, draw_momenta
    from symstride.units import FS, KB

    atoms = system.atoms
    frames = np.repeat(atoms.positions[None], REPLICAS, 0)
    start = Start(
        *(atoms.numbers, atoms.get_masses(), atoms.cell.array, atoms.pbc),
        *(frames, np.ones_like(frames), KELVIN, "the reference's last frame"),
    )
    kT = KB * KELVIN
    bath = Langevin(model.map, kT, 1000 * FORGET_PS * FS, 0)
    simulation = replace(simulation_of(model, start, stride_fs, 2.0, REPLICAS), map=bath)
    sampler = HybridMonteCarlo(simulation, TrueEnergies(atoms.calc, 1, start).of_replicas, strides)
    p = draw_momenta(start, KELVIN, 0, lambda: np.ones_like(frames))
    z = Phase(jnp.asarray(frames.reshape(-1, 3)), jnp.asarray(p.reshape(-1, 3)))
    began = time.perf_counter()
    done = sampler.stretch(z, None, moves_of(PS, stride_fs, strides) * strides, every=strides)
    wall = time.perf_counter() - began
    about = {"system": system.name, "method": name, "step_fs": stride_fs, "strides": strides}
    about |= {"length_ps": PS, "replicas": REPLICAS}
    return about | averages(done.energies, kT, len(atoms), 1) | judged(done) | {"wall_s": wall}


def moves_of(ps: float, stride_fs: float, strides: int) -> int:
    return round(1000 * ps / stride_fs / strides)


def cluster():
    """LJ13: the reference, then chains with a good and a bad proposal."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from symstride.hamiltonians.lennard_jones import LennardJones, icosahedron
    from symstride.maps.splitting import verlet
    from symstride.maps.thermostat import Langevin
    from symstride.phase import Phase
    from symstride.simulate.ghmc import HybridMonteCarlo
    from symstride.simulate.nve import Simulation

    true, z = icosahedron(LJ_KT, jax.random.key(0))
    q = jnp.tile(z.q, (LJ_REPLICAS, 1))
    p = jnp.sqrt(2 * LJ_KT) * jax.random.normal(jax.random.key(1), (LJ_REPLICAS, 13, 3))
    z = Phase(q, (p - p.mean(1, keepdims=True)).reshape(-1, 3))
    potential = jax.jit(jax.vmap(true.potential))

    def energies(q):
        return np.asarray(potential(jnp.asarray(q)))

    bad = LennardJones(true.masses, epsilon=1.3)
    for name, system, step, every, length in (
        ("langevin", true, 0.004, 5, 150.0),
        ("ghmc", true, 0.03, 1, 150.0),
        ("ghmc bad", bad, 0.03, 1, 150.0),
    ):
        bath = Langevin(verlet(system), LJ_KT, LJ_FORGET, 0)
        simulation = Simulation(
            *(bath, step, np.zeros(13, np.int32), np.asarray(true.masses), np.zeros((3, 3))),
            *(np.zeros(3, bool), 1e-3, 10.0, LJ_REPLICAS),
        )
        steps = round(length / step / every) * every
        about = {"system": "LJ13", "method": name, "step": step, "length": length, "replicas": LJ_REPLICAS}
        if name == "langevin":
            done = simulation.stretch(z, None, steps, every=every, frames=steps // every)
            frames = done.positions.reshape(-1, LJ_REPLICAS, 13, 3)
            yield about | averages(np.stack([energies(q) for q in frames]), LJ_KT, 13, every)
        else:
            sampler = HybridMonteCarlo(simulation, lambda: energies)
            done = sampler.stretch(z, None, steps, every=every)
            yield about | averages(done.energies, LJ_KT, 13, every) | judged(done)


def averages(potentials, kT: float, atoms: int, energies: int) -> dict:
    """Of V [T, S], with standard errors; `energies` from one sample to the next."""
    import numpy as np

    from symstride.measure.statistics import blocked_mean, inefficiency

    later = potentials[int(DISCARD * len(potentials)) :]
    mean = blocked_mean(list(later.T))
    square = blocked_mean(list(((later - mean.value) ** 2).T))
    samples = energies * inefficiency(later)
    parts = [
        part[:, None] for start in later.T for part in np.array_split(start, PIECES // later.shape[1] or 1)
    ]
    apart = energies * np.std([inefficiency(part) for part in parts], ddof=1) / np.sqrt(len(parts))
    return {
        "potential_kT_per_atom": float(mean.value) / kT / atoms,
        "potential_stderr": float(mean.stderr) / kT / atoms,
        "heat_capacity_k_per_atom": float(square.value) / kT**2 / atoms + 1.5 * (atoms - 1) / atoms,
        "heat_capacity_stderr": float(square.stderr) / kT**2 / atoms,
        "samples": int(np.size(later)),
        "true_energies_per_independent_sample": samples,
        "true_energies_stderr": float(apart),
    }


def draw(rows: list[dict]):
    """What an independent sample costs, and the averages, of each system beside its own small steps."""
    from matplotlib.figure import Figure

    systems = list(dict.fromkeys(r["system"] for r in rows))
    figure = Figure(figsize=(3.4 * len(systems), 5.4), layout="constrained")
    panels = figure.subplots(2, len(systems), squeeze=False)
    for n, system in enumerate(systems):
        mine = [r for r in rows if r["system"] == system]
        names = [f"{r['method']} {r.get('step_fs', r.get('step'))}×{r.get('strides', 1)}" for r in mine]
        above, below = panels[:, n]
        costs = [
            [r["true_energies_per_independent_sample"] for r in mine],
            [r.get("true_energies_stderr", 0.0) for r in mine],
        ]
        above.bar(names, costs[0], yerr=costs[1], capsize=2, color="C0")
        above.set(title=system, yscale="log", ylabel="energies or gradients a sample", xticks=[])
        value, error = (mine[0][f"heat_capacity_{x}"] for x in ("k_per_atom", "stderr"))
        below.axhspan(value - error, value + error, color="0.85")
        known = ([r[f"heat_capacity_{x}"] for r in mine] for x in ("k_per_atom", "stderr"))
        below.errorbar(names, *known, fmt="o", ms=4, capsize=2)
        below.set(ylabel="heat capacity, k an atom")
        below.tick_params("x", rotation=60)
    return figure


def judged(done) -> dict:
    from symstride.simulate.record import sampled

    return sampled(done.memory.moves)


if __name__ == "__main__":
    main()
