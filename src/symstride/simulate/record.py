"""run.json: what a run is, before its first stride, and what has come of it."""

import dataclasses
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import erfc

from symstride import __version__
from symstride.maps.barostat import Box, CellRescaling
from symstride.maps.base import remembered
from symstride.maps.guarded import Watch
from symstride.measure.statistics import inefficiency
from symstride.simulate.familiar import outside, so_far
from symstride.simulate.ghmc import Chain, Moves
from symstride.simulate.plan import Plan
from symstride.simulate.state import State
from symstride.simulate.stretch import Failure
from symstride.units import BAR

TRAINED = (
    "symstride",
    "data_sha256",
    "temperature_K",
    "volume_A3_per_atom",
    "masses_u",
    "fastest_cm1",
    "trained_seconds",
)

WILLING = 0.5  # accepted moves of a barostat below which it is told


def opening(plan: Plan) -> dict[str, Any]:
    """run.json before the first stride. Everything in `settings` decides the result."""
    settings, model, start = plan.settings, plan.model, plan.start
    digest = hashlib.sha256(plan.path.read_bytes()).hexdigest()
    fixed = dataclasses.asdict(settings) | {
        "calculator": settings.calculator.model_dump(by_alias=True) if settings.calculator else None,
        "stride_fs": plan.stride_fs,
        "replicas": start.replicas,
        "precision": model.config.precision,
        "skin": plan.simulation.skin,
        "chunk": plan.chunk,
        "model_sha256": digest,
        "start_sha256": start.digest,
    }
    device = jax.devices()[0]
    return {
        "status": "running",
        "settings": fixed,
        "model": {
            "path": str(plan.path.resolve()),
            "sha256": digest,
            "kind": model.config.kind,
            "provenance": {key: model.provenance[key] for key in TRAINED if key in model.provenance},
        },
        "start": start.source,
        "temperature_K": plan.temperature,
        "n_atoms": len(start.numbers),
        "warnings": plan.warnings,
        "device": f"{device.platform} {device.device_kind}",
        "devices": plan.devices,
        "dtype": model.config.precision,
        "failures_fs": [None] * start.replicas,
        "failure": None,
        "versions": {"symstride": __version__, "jax": jax.__version__, "numpy": np.__version__},
    }


def outcome(plan: Plan, state: State, failure: Failure | None, status: str) -> dict[str, Any]:
    """What run.json says besides, and instead, once there are strides."""
    replicas = plan.start.replicas
    gradients = float(np.mean(state.gradients)) / max(state.strides, 1)
    outputs = 1 + state.strides // plan.settings.every  # with the start
    processing = float(np.mean(state.processing)) / outputs if plan.model.config.processor else None
    divided = int(np.sum(state.divided))
    moves = state.memory.moves if isinstance(state.memory, Chain) else None
    box = _box(plan, state) if isinstance(state.memory, Box) else {}
    watch = remembered(state.memory, Watch)
    warnings = [
        *plan.warnings,
        *([_divided(plan, divided, state.strides * replicas)] if divided else []),
        *([_unjudged(moves)] if moves and (moves.judged < moves.made).any() else []),
        *([_beyond(plan, watch, state.strides * replicas)] if watch and jnp.any(watch.beyond) else []),
        *box.pop("warnings", []),
    ]
    untimed = "compiling, writing" if moves else "compiling, energies, writing"
    end = state.strides * plan.stride_fs
    simulated = plan.simulated_ps(state.timed_strides)
    return {
        "status": status,
        "strides": state.strides,
        "length_ps": end / 1000,
        "gradients_per_stride": gradients,
        "gradients_per_ps": gradients * 1000 / plan.stride_fs,
        "processor_gradients_per_output": processing,
        "divided_strides": divided,
        "warnings": warnings,
        "moves": sampled(moves) if moves else None,
        "novelty": _novelty(plan, watch) if watch else None,
        "wall_s": state.wall_s,
        "wall_s_per_ps": state.timed_s / simulated if simulated else None,
        "wall_s_per_ps_means": f"of one replica, {replicas} at once; not {untimed}",
        "timed_strides": state.timed_strides,
        "failures_fs": [end if failure and k == failure.replica else None for k in range(replicas)],
        "failure": {
            "time_fs": end,
            "replica": failure.replica,
            "kind": type(failure.error).__name__,
            "message": str(failure.error),
        }
        if failure
        else None,
    } | box


def _box(plan: Plan, state: State) -> dict[str, Any]:
    """What there is to say of a barostat, with warnings."""
    map, memory = plan.simulation.map, state.memory
    assert isinstance(map, CellRescaling)
    _, pull = memory.of_volume(memory.of_volume.volume)
    moves = int(memory.strides) // map.every
    accepted = float(np.mean(memory.accepted)) / max(moves, 1)
    atoms = len(plan.start.numbers)
    warnings = outside(plan.model, np.abs(np.linalg.det(memory.cell)) / atoms)
    if moves and accepted < WILLING:
        warnings.append(
            f"{accepted:.0%} of the barostat's moves were accepted: its averages hold, but take long; "
            "give a longer barostat_ps or a smaller compressibility"
        )
    return {
        "cell_moves": moves,
        "cell_moves_accepted": accepted,
        "pressure_added_bar": -float(pull / memory.of_volume.volume) / BAR,
        "warnings": warnings,
    }


def _novelty(plan: Plan, watch: Watch) -> dict[str, Any]:
    """How far each replica went from the training data; beyond 1 is unlike them."""
    first, farthest = np.asarray(watch.first), np.asarray(watch.farthest, float)
    return {
        "farthest": farthest.tolist(),
        "momentum_error_expected_there": [plan.model.expected_error(plan.stride_fs, d) for d in farthest],
        "strides_beyond": np.asarray(watch.beyond).tolist(),
        "first_fs": [None if n < 0 else float(n * plan.stride_fs) for n in first],
    }


def _beyond(plan: Plan, watch: Watch, strides: int) -> str:
    first, farthest = np.asarray(watch.first), float(jnp.nanmax(watch.farthest))
    dealt = ", and were taken in small steps" if plan.settings.guard == "substep" else ""
    return (
        f"{int(np.sum(watch.beyond))} of {strides} strides led where atoms are unlike the training data"
        f"{dealt}, the first at {plan.stride_fs * first[first >= 0].min() / 1000:.4g} ps; the farthest "
        f"{so_far(plan.model, plan.stride_fs, farthest)}"
    )


def _divided(plan: Plan, divided: int, strides: int) -> str:
    return (
        f"{divided} of {strides} strides were not solved and divided, which is neither symplectic nor "
        "reversible where a stride is divided and its reverse is not; parts are of "
        f"{plan.stride_fs / 2:g} fs or less, the model was trained for "
        f"{min(plan.model.config.strides_fs):g} fs and more"
    )


def _unjudged(moves: Moves) -> str:
    made, judged = int(np.sum(moves.made)), int(np.sum(moves.judged))
    return (
        f"{made - judged} of {made} moves failed (a stride, the way back or the calculator) and were rejected"
    )


def sampled(moves: Moves) -> dict[str, Any]:
    """How hybrid Monte Carlo went, w = ΔH/kT: ⟨exp(−w)⟩ is 1 where the ensemble is the canonical one and
    proposals keep volumes (Creutz, Phys. Rev. D 38, 1228 (1988)), and the acceptance of a w with the spread σ
    of a normal distribution erfc(σ/√8) (Gupta et al., Phys. Lett. B 242, 437 (1990))."""
    made, judged, accepted, work, squares, weights = (
        float(np.sum(x))
        for x in (moves.made, moves.judged, moves.accepted, moves.work, moves.squares, moves.weights)
    )
    known = max(judged, 1.0)
    spread = max(squares / known - (work / known) ** 2, 0.0) ** 0.5
    return {
        "made": int(made),
        "failed": int(made - judged),
        "acceptance": accepted / made,
        "normal_acceptance": float(erfc(spread / 8**0.5)),
        "work_kT": work / known,
        "work_spread_kT": spread,
        "mean_exp_minus_work": weights / known,
    }


def independent(plan: Plan, potentials: np.ndarray) -> dict[str, float] | None:
    """How long the true potential energy [F, replicas] of the later half of the frames stays correlated, and
    what a sample independent of the last costs: 2τ. None where it never changed."""
    later = potentials[len(potentials) // 2 :]
    if len(later) < 2 or not np.ptp(later, axis=0).any():
        return None
    samples = inefficiency(later)
    return {
        "autocorrelation_fs": samples * plan.spacing_fs / 2,
        "true_energies_per_sample": samples * plan.settings.every / plan.settings.ghmc_strides,
    }


def used(state: State, replicas: int) -> list[dict[str, Any]]:
    """What each replica has used, for the `info` of its trajectory."""
    gradients = np.broadcast_to(state.gradients, replicas) / max(state.strides, 1)
    divided = np.broadcast_to(state.divided, replicas)
    return [
        {"gradients_per_stride": float(g), "divided_strides": int(d)}
        for g, d in zip(gradients, divided, strict=True)
    ]
