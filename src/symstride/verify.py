"""The verdict on a run: what its map keeps, what its trajectories show, what it cost."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from ase import Atoms

from symstride.data.trajectory import Trajectory
from symstride.errors import ConvergenceError, DataError, ModelError, SimulationError
from symstride.measure.observables import frames
from symstride.measure.report import write_report
from symstride.measure.structure import (
    Array,
    momentum_drift,
    reversal_error,
    symplectic_defect,
    thermal_scales,
)
from symstride.measure.summary import MIN_FRAMES, summarise
from symstride.model import IMPLICIT, Model, load_model
from symstride.neighbors import Slots
from symstride.phase import Phase
from symstride.simulate.nve import Simulation
from symstride.simulate.output import Output
from symstride.simulate.plan import simulation_of

COST = (
    *("gradients_per_stride", "gradients_per_ps", "processor_gradients_per_output", "divided_strides"),
    "wall_s_per_ps",
)
TOLERANCE = 1e-12  # of an implicit map's or a processor's solve
REVERSAL_STRIDES = 100
MOMENTUM_STRIDES = 1000
PATIENCE_S = 60.0  # for the momentum's strides


def verify(
    run: Path, reference: Sequence[Trajectory] = (), model: Path | None = None, out: Path | None = None
) -> dict[str, Any]:
    """Judges a run, also one that is not complete; writes report.json and report.html into `out` (the run's
    own directory if None) and returns the report.

    The map's structure is measured in float64, an implicit one solved to 1e-12, from the last frame; a
    processed one's whole, Φ = χ⁻¹Kχ: one stride of it, and runs of χ, strides of K and χ⁻¹.
    `reference` are trajectories to compare with; `model` is where the run's model lies now, if it was moved.
    Raises DataError if there is no run, or too little of it, and ModelError for another model.
    """
    output = Output(Path(run))
    record = output.record()
    if not record:
        raise DataError(f"{run}: holds no run.json; give the directory of a run")
    starts = output.trajectories()
    if len(starts[0].times) < MIN_FRAMES:
        raise DataError(
            f"{run}: holds {len(starts[0].times)} frames, {MIN_FRAMES} are needed to say anything"
        )
    loaded = _model(Path(model or record["model"]["path"]), record["model"]["sha256"])
    stride = float(record["settings"]["stride_fs"])
    temperature = float(record["temperature_K"])
    validation = _validation(loaded, stride)
    failures = [np.inf if t is None else t for t in record["failures_fs"]]
    sections, plots = summarise(
        starts,
        reference,
        temperature=temperature,
        stride_fs=stride,
        momentum_error=validation.get("momentum_error"),
        failures_fs=np.array(failures),
    )
    structure, notes = structure_of(loaded, _ended(starts[0]), stride, temperature)
    if not validation:
        notes.append(f"Validation: the model was not validated at {stride:g} fs.")
    if record["status"] == "running":
        notes.append(f"The run is not complete: {starts[0].times[-1] / 1e3:.4g} ps of it are here.")
    if starts[0].heat is not None:
        notes.append("The run was in a heat bath: what is said of its energy is of the energy less the heat.")
    if starts[0].cells is not None:
        notes.append(
            "The run was at constant pressure: this heat is with the work that the barostat has done."
        )
    if record["failure"]:
        notes.append(f"The run ended early: {record['failure']['message']}.")
    formula = Atoms(starts[0].numbers).get_chemical_formula(empirical=True)
    report = sections | {
        "title": f"{formula}, {loaded.config.kind} map at {stride:g} fs",
        "method": loaded.config.kind,
        "structure": structure,
        "validation": validation,
        "cost": {key: record.get(key) for key in COST},
        "warnings": record["warnings"],
        "notes": sections["notes"] + notes,
        "provenance": _provenance(record, run),
    }
    if loaded.solves:
        unsolved = (record["failure"] or {}).get("kind") == ConvergenceError.__name__
        each = record["strides"] if loaded.config.kind in IMPLICIT else len(starts[0].times)
        steps = each * len(starts) + unsolved
        report["solver"] = {"steps": steps, "unconverged": int(unsolved)}
    return write_report(out or Path(run), report, plots)


@dataclass(frozen=True)
class _Exact:
    """The map in float64 on one replica's system, as functions of arrays."""

    simulation: Simulation
    slots: Slots  # of the neighbour lists, so many that none needs more and all is compiled once

    @staticmethod
    def of(model: Model, system: Trajectory, stride_fs: float) -> "_Exact":
        exact = model.cast("float64").solved_to(TOLERANCE)
        simulation = simulation_of(exact, system, stride_fs, skin=2.0)
        found = simulation.particles(system.positions[-1]).neighbors.slots
        return _Exact(simulation, Slots(*(n * 5 // 4 for n in found)))

    def advance(self, q: Array, p: Array, strides: int) -> tuple[Array, Array]:
        z = Phase(jnp.asarray(q), jnp.asarray(p))
        done = self.simulation.stretch(z, None, strides, every=strides, frames=1, slots=self.slots)
        if done.failure:
            raise done.failure.error
        return done.positions[0], done.momenta[0]

    def step_from(self, q: Array):
        """One stride with the neighbour lists of q, differentiable."""
        particles = self.simulation.particles(jnp.asarray(q))

        def step(q: Array, p: Array) -> tuple[Array, Array]:
            z, _ = self.simulation.map(Phase(jnp.asarray(q), jnp.asarray(p)), self.simulation.h, particles)
            return z.q, z.p

        return step


def structure_of(
    model: Model, system: Trajectory, stride_fs: float, temperature: float
) -> tuple[dict[str, Any], list[str]]:
    """The report's section "structure" at the last frame, and notes on what could not be measured."""
    exact = _Exact.of(model, system, stride_fs)
    scales = thermal_scales(system.masses, temperature, stride_fs)
    q, p = system.positions[-1], system.momenta[-1]
    section: dict[str, Any] = {"reversal_strides": REVERSAL_STRIDES}
    notes = []
    try:
        section["symplectic_defect"] = symplectic_defect(exact.step_from(q), q, p, scales)
        began = time.perf_counter()
        section["reversal_error_angstrom"] = reversal_error(exact.advance, q, p, REVERSAL_STRIDES).largest
        affordable = int(2 * REVERSAL_STRIDES * PATIENCE_S / (time.perf_counter() - began))
        for strides in (min(MOMENTUM_STRIDES, max(REVERSAL_STRIDES, affordable)), REVERSAL_STRIDES):
            try:
                section["momentum_drift"] = momentum_drift(exact.advance, q, p, strides, scales)
                section["momentum_strides"] = strides
                break
            except (SimulationError, ConvergenceError) as error:
                notes.append(f"Momentum over {strides} strides from the last frame: {error}.")
    except (SimulationError, ConvergenceError) as error:
        notes.append(f"Structure from the last frame: {error}.")
    return section, notes


def _ended(t: Trajectory) -> Trajectory:
    """The frames of the last cell, where the cell changes: the last alone."""
    return t if t.cells is None else replace(frames(t, slice(-1, None)), cell=t.cells[-1], cells=None)


def _model(path: Path, sha256: str) -> Model:
    model = load_model(path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise ModelError(
            f"{path}: not the model of this run (SHA-256 {found[:12]}…, the run's is {sha256[:12]}…)"
        )
    return model


def _validation(model: Model, stride_fs: float) -> dict[str, float]:
    """Momentum and position error at this stride; empty if the model was not validated there."""
    table = (model.provenance.get("validation") or {}).get("strides_fs") or {}
    found = table.get(f"{stride_fs:g}") or {}
    names = {"momentum_error": "momentum", "position_error": "position"}
    return {key: float(found[name]) for key, name in names.items() if name in found}


def _provenance(record: dict[str, Any], run: Path) -> dict[str, Any]:
    model, settings = record["model"], record["settings"]
    found = {
        "run": str(run),
        "start": record["start"],
        "replicas": settings["replicas"],
        "seed": settings["seed"],
        "precision": record["dtype"],
        "device": record["device"],
        "model": model["path"],
        "model SHA-256": model["sha256"],
        "calculator": json.dumps(settings["calculator"]) if settings["calculator"] else "none",
        "wall time": f"{record.get('wall_s', 0):.3g} s in all; per ps {record.get('wall_s_per_ps_means')}",
    }
    found |= {f"trained: {key}": value for key, value in model["provenance"].items()}
    return found | {f"version: {name}": value for name, value in record["versions"].items()}
