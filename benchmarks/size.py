"""Aluminium (ASE EMT, 300 K) by size: cost of a stride by atoms, neighbour search, drift of the true energy.

    python benchmarks/size.py [--model models/aluminium-explicit.safetensors] [--stride 32]

One model on 32 to 4800 atoms, on one core. Times are those of `Simulation.stretch` over as many strides as a
run takes between two saves; the sizes take turns, so that what else the machine does falls on all alike.
Writes benchmarks/results/size.json.
"""

import argparse
import json
import os
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "size.json"
CELLS = ((2, 2, 2), (4, 4, 4), (8, 8, 8), (10, 10, 12))  # cubic, 4.05 Å and four atoms each
SKIN = 2.0  # Å, the default of a run
DRIFT_PS = {32: 100.0, 256: 40.0, 2048: 10.0}  # every 0.25 ps an energy
ROUNDS = 5
LONGEST = 64  # strides timed at once


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--model", type=Path, default=Path("models/aluminium-explicit.safetensors"))
    arguments.add_argument("--stride", type=float, default=32.0, help="fs")
    given = arguments.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before jax starts its threads

    from symstride.measure.machine import document
    from symstride.model import load_model

    model = load_model(given.model)
    systems = [System(model, cells, given.stride) for cells in CELLS]
    rounds = [[s.time() for s in systems] for _ in range(ROUNDS)]
    results = [s.result([r[n] for r in rounds]) for n, s in enumerate(systems)]
    print(*results, sep="\n", flush=True)
    for s in systems:
        if s.atoms in DRIFT_PS:
            results.append(s.drift(DRIFT_PS[s.atoms]))
            print(results[-1], flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document(results, threads=1), indent=1, default=float) + "\n")
    print(RESULTS)


class System:
    """A thermal crystal of one size, and where its clocks stand."""

    def __init__(self, model, cells: tuple[int, int, int], stride_fs: float):
        import jax.numpy as jnp
        import numpy as np
        from ase.build import bulk

        from symstride.neighbors import NO_SLOTS
        from symstride.phase import Phase
        from symstride.simulate.plan import ATOM_STRIDES
        from symstride.units import KB

        self.model, self.cells, self.stride_fs = model, cells, stride_fs
        self.crystal = bulk("Al", a=4.05, cubic=True) * cells
        self.atoms = len(self.crystal)
        self.strides = min(LONGEST, max(8, ATOM_STRIDES // self.atoms))
        masses = self.crystal.get_masses()
        p = np.random.default_rng(0).normal(size=(self.atoms, 3)) * np.sqrt(masses * KB * 600)[:, None]
        rest = Phase(jnp.asarray(self.crystal.positions), jnp.asarray(p - p.mean(0)))
        thermalise = round(1500 / stride_fs)  # half of the kinetic energy goes into the springs
        self.z, self.memory, _ = self.simulation().advance(rest, None, thermalise)
        self.slots = NO_SLOTS
        self.time()  # compiles, and grows the slots to what it needs

    def simulation(self):
        import numpy as np

        from symstride.simulate.nve import Simulation
        from symstride.units import FS

        class Clocked(Simulation):
            """Adds up the time spent in finding neighbours."""

            searches, search_s = 0, 0.0

            def particles(self, *arguments, **options):
                began = time.perf_counter()
                found = super().particles(*arguments, **options)
                Clocked.searches += 1
                Clocked.search_s += time.perf_counter() - began
                return found

        crystal = self.crystal
        return Clocked(
            self.model.map, self.stride_fs * FS, np.zeros(self.atoms, np.int32), crystal.get_masses(),
            crystal.cell.array, crystal.pbc, self.model.config.network.cutoff, SKIN, 1,
        )  # fmt: skip

    def time(self) -> dict:
        """One stretch from the thermal state, as a run goes on."""
        simulation = self.simulation()
        began, processor = time.perf_counter(), time.process_time()
        done = simulation.stretch(self.z, self.memory, self.strides, slots=self.slots)
        if done.failure:
            raise done.failure.error
        wall, processor = time.perf_counter() - began, time.process_time() - processor
        self.slots = done.slots
        return {
            "wall_s": wall,
            "processor_s": processor,
            "search_s": simulation.search_s,
            "searches": simulation.searches,
        }

    def result(self, rounds: list[dict]) -> dict:
        """Medians of all rounds."""
        import numpy as np

        wall, processor, search = (
            float(np.median([r[name] for r in rounds])) for name in ("wall_s", "processor_s", "search_s")
        )
        per = 1e6 / self.strides / self.atoms
        return {
            "n_atoms": self.atoms,
            "cells": self.cells,
            "skin_A": SKIN,
            "slots": self.slots._asdict(),
            "stride_fs": self.stride_fs,
            "strides": self.strides,
            "wall_us_per_atom_stride": per * wall,
            "processor_us_per_atom_stride": per * processor,
            "search_us_per_atom_stride": per * search,
            "search_share": float(np.median([r["search_s"] / r["wall_s"] for r in rounds])),
            "searches_per_ps": rounds[0]["searches"] * 1000 / self.strides / self.stride_fs,
        }

    def drift(self, ps: float) -> dict:
        """Of the true energy over so many picoseconds after thermalisation."""
        import numpy as np
        from ase.calculators.emt import EMT

        from symstride.measure.drift import energy_drift
        from symstride.units import KB

        every = max(1, round(250 / self.stride_fs))
        frames = int(1000 * ps / self.stride_fs / every)
        done = self.simulation().stretch(
            self.z, self.memory, frames * every, every=every, frames=frames, slots=self.slots
        )
        if done.failure:
            raise done.failure.error
        atoms = self.crystal.copy()
        atoms.calc = EMT()
        kinetic = np.sum(done.momenta**2 / atoms.get_masses()[:, None], axis=(1, 2)) / 2
        energies = []
        for q, k in zip(done.positions, kinetic, strict=True):
            atoms.positions = q
            energies.append(atoms.get_potential_energy() + k)
        times = np.arange(1, frames + 1) * every * self.stride_fs
        drift, _ = energy_drift(times, np.array(energies)[None], self.atoms)
        return {
            "n_atoms": self.atoms,
            "stride_fs": self.stride_fs,
            "length_ps": times[-1] / 1000,
            "temperature_K": float(2 * kinetic.mean() / (3 * self.atoms - 3) / KB),
            "drift_mev_per_atom_per_ps": drift.value,
            "drift_stderr": drift.stderr,
        }


if __name__ == "__main__":
    main()
