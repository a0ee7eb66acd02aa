"""A run: many strides of many replicas, kept in segments, so that a kill loses less than one of them."""

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from symstride.data.calculators import describe_calculator, make_calculator
from symstride.data.files import locked
from symstride.data.trajectory import Trajectory
from symstride.errors import DataError, SimulationError, SymstrideWarning
from symstride.model import load_model
from symstride.neighbors import Slots
from symstride.phase import Phase
from symstride.simulate.energies import TrueEnergies
from symstride.simulate.ghmc import Chain
from symstride.simulate.output import Output, flatten
from symstride.simulate.plan import Plan
from symstride.simulate.pressure import with_volume_energy
from symstride.simulate.record import independent, opening, outcome, used
from symstride.simulate.settings import RunSettings as RunSettings
from symstride.simulate.start import draw_momenta, read_start
from symstride.simulate.state import State
from symstride.simulate.stretch import Failure

Progress = Callable[[int, int, float], None]  # strides done, strides in all, ns/day (NaN if not known yet)


def run(
    model: Path,
    structure: Path,
    out: Path,
    settings: RunSettings = RunSettings(),
    progress: Progress = lambda done, total, speed: None,
) -> Path:
    """Runs a model from a structure (see `read_start`), at constant energy, or in a heat bath and
    at a pressure; returns `out`.

    `out` then holds a trajectory for each replica, `000.h5` and so on, and `run.json`. Stopped or killed, or
    the disk full, a second call goes on, and the result is that of an uninterrupted run to the last bit (with
    another number of devices, which share the replicas, but for rounding). A
    finished run is left as it is. What the model was not trained for gives a SymstrideWarning.

    Raises ConfigError for settings that make no sense or differ from those in `out`, or a stride past the
    caustic; DataError for a bad start, a calculator that fails or a disk that takes no more; SimulationError
    or ConvergenceError where a replica cannot go on. What was written before stays.
    """
    model, structure, out = Path(model), Path(structure), Path(out)
    loaded = load_model(model)
    if settings.precision:
        loaded = loaded.cast(settings.precision)
    draws = settings.temperature_K is not None
    start = read_start(structure, settings.replicas, settings.frame, draws=draws)
    plan = Plan.of(model, loaded, start, settings)
    with locked(out):
        return _Run(plan, Output(out), progress).complete()


class _Run:
    """A plan being carried out."""

    def __init__(self, plan: Plan, output: Output, progress: Progress):
        self.plan, self.output, self.progress = plan, output, progress
        settings, start = plan.settings, plan.start
        self.energies = None
        if settings.calculator:
            self.energies = TrueEnergies(make_calculator(settings.calculator), settings.energies, start)
        self.motion = plan.motion(self.energies)
        self.record = opening(plan)
        self.one = Trajectory(
            *(start.numbers, start.masses, start.cell, start.pbc, np.zeros(0), np.zeros(0), np.zeros(0)),
            info={
                "origin": "symstride run",
                "model_sha256": self.record["model"]["sha256"],
                "stride_fs": plan.stride_fs,
                "temperature_K": plan.temperature,
                "start": start.source,
                "seed": settings.seed,
            }
            | ({"calculator": describe_calculator(settings.calculator)} if settings.calculator else {}),
        )

    def complete(self) -> Path:
        """Goes on from wherever the segments end."""
        plan, output = self.plan, self.output
        earlier = output.claim(self.record["settings"])
        if earlier.get("status") in ("finished", "failed"):
            output.segments.remove()
            if earlier["status"] == "failed":
                raise SimulationError(f"{earlier['failure']['message']} (this run has ended so before)")
            self.progress(plan.strides, plan.strides, math.nan)
            return output.folder
        for warning in self.record["warnings"]:
            warnings.warn(warning, SymstrideWarning, stacklevel=3)
        if not earlier:
            output.write_record(self.record)
        state = self._resume() or self._begin()
        speed = math.nan
        failure = None
        while state.strides < plan.strides and failure is None:
            self.progress(state.strides, plan.strides, speed)
            state, failure = self._advance(state)
            if state.timed_s:
                speed = 86.4 * plan.simulated_ps(state.timed_strides) / state.timed_s
        self.progress(state.strides, plan.strides, speed)
        output.merge(used(state, plan.start.replicas), plan.settings.extxyz)
        if isinstance(state.memory, Chain):
            self.record["independent"] = independent(plan, output.energies())
        self._write_record(state, failure, "failed" if failure else "finished")
        output.segments.remove()
        if failure:
            raise failure.error
        return output.folder

    def _begin(self) -> State:
        if self.energies:
            simulation = self.plan.simulation
            known = with_volume_energy(simulation, self.plan.start, self.energies.calculator)
            self.plan = replace(self.plan, simulation=known)
            self.motion = self.plan.motion(self.energies)
        plan, start = self.plan, self.plan.start
        q = jnp.asarray(start.positions.reshape(-1, 3))
        momenta = start.momenta
        if plan.settings.temperature_K is not None:
            given = plan.settings.temperature_K, plan.settings.seed
            momenta = draw_momenta(start, *given, lambda: self.motion.forces(q, plan.buffer))
        self.motion.warm(q, plan.buffer)  # so that timing is fair
        slots = self.motion.particles(q).neighbors.slots
        return State(Phase(q, jnp.asarray(momenta.reshape(-1, 3))), slots=slots)

    def _resume(self) -> State | None:
        last = self.output.segments.last()
        if last is None:
            return None
        saved, motion = last[1], self.motion
        try:
            slots = Slots(*saved["slots"].tolist())
            z = Phase(jnp.asarray(saved["q"]), jnp.asarray(saved["p"]))
            motion.warm(z.q, self.plan.buffer, slots)
            return State.load(saved, eqx.filter_eval_shape(motion.begin, z, motion.particles(z.q, slots)))
        except KeyError as error:
            raise DataError(
                f"{self.output.segments.paths[-1]}: has no {error}: damaged, remove it"
            ) from error
        except DataError as error:
            raise DataError(f"{self.output.folder}: {error}") from error

    def _advance(self, state: State) -> tuple[State, Failure | None]:
        """One chunk, written; and why a replica cannot go on, if so."""
        plan, every = self.plan, self.plan.settings.every
        began = time.perf_counter()
        done = self.motion.stretch(
            state.z,
            state.memory,
            min(plan.chunk, plan.strides - state.strides),
            begin=state.strides,
            every=every,
            frames=plan.buffer,
            slots=state.slots,
        )
        after = state.after(done, time.perf_counter() - began)
        first = state.strides // every + 1  # number of the first frame kept
        positions, momenta, heat, cells = done.positions, done.momenta, done.heat, done.cells
        energies, fault = done.energies, None
        if self.output.segments.paths:
            energies = None if energies is None else energies[1:]
        else:
            first = 0
            positions = np.concatenate([np.asarray(state.z.q)[None], positions])
            momenta = np.concatenate([np.asarray(state.z.p)[None], momenta])
            heat = None if heat is None else np.concatenate([np.zeros((1, plan.start.replicas)), heat])
            first_cell = np.broadcast_to(plan.start.cell, (1, plan.start.replicas, 3, 3))
            cells = None if cells is None else np.concatenate([first_cell, cells])
        numbers = np.arange(first, first + len(positions))
        if self.energies and energies is None:
            energies, fault = self.energies.along(numbers, positions, plan.spacing_fs / 1000, cells)
        frames = flatten(self.one, numbers * plan.spacing_fs, positions, momenta, energies, heat, cells)
        self.output.segments.append(frames, after.arrays())
        self._write_record(after, done.failure, "running")
        if fault:
            raise DataError(
                f"{fault}; the run up to there is in {self.output.folder}, and the same command goes on "
                "from it"
            )
        return after, done.failure

    def _write_record(self, state: State, failure: Failure | None, status: str) -> None:
        self.output.write_record(self.record | outcome(self.plan, state, failure, status))
