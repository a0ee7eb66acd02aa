"""Direct predictors drift and lose equipartition; the action does not.

    python experiments/direct.py        # about four minutes; results/direct.json and results/direct.png

Three bodies and a stiff chain, 10⁴ strides from starts not learned from, with: a direct predictor, the same
corrected by n gradients of S³, S³ solved, two explicit kicks. All were learned from the same pairs in as many
steps with the same prior, hV dressed by free flight (V in the kicks). The chain is chaotic: of it averages
over all starts are to be compared with the reference. Evaluations do not count forces of the
known prior that come with them.
"""

import json
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import COLORS, CORRECTIONS, keep
from matplotlib.figure import Figure
from problems import System, direct, explicit, flat, implicit, run, stiff_chain, three_bodies

from symstride.hamiltonians.reference import reference
from symstride.hamiltonians.stiff_fput import StiffFPUT
from symstride.maps.base import Map
from symstride.maps.direct import Corrected
from symstride.maps.dressed import Dressed
from symstride.phase import Phase
from symstride.train.small import map_loss

jax.config.update("jax_enable_x64", True)

PATHS = {"three bodies": 48, "stiff FPUT chain": 16}
STEPS, STARTS, STRIDES, EVERY = 6000, 32, 10_000, 5


def maps(system: System) -> tuple[dict[str, Map], dict[str, float]]:
    """By name, and seconds of training."""
    pairs = system.pairs(PATHS[system.name], seed=0)
    trained: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    for name, learn in (("s3", implicit), ("direct", direct), ("explicit", explicit)):
        began = time.process_time()
        trained[name] = learn(system, pairs, STEPS)
        seconds[name] = time.process_time() - began
    s3, predictor = trained["s3"], trained["direct"]
    corrected = {
        f"corrected-{n}": Dressed(s3.dressing, Corrected(predictor.inner, s3.inner, n)) for n in CORRECTIONS
    }
    return {"direct": predictor, **corrected, "s3": s3, "explicit": trained["explicit"]}, seconds


def observed(system: System, path: Phase) -> dict[str, np.ndarray]:
    """Along paths [T, K, M, d], each [T, K, …]: the energy, and what else the system should keep."""
    over = lambda f: np.asarray(jax.vmap(jax.vmap(f))(path))  # noqa: E731
    seen = {"energy": over(system.hamiltonian)}
    if isinstance(system.hamiltonian, StiffFPUT):
        seen["springs"] = over(system.hamiltonian.oscillatory_energies)
        seen["mode_energies"] = over(mode_energies)
    else:
        seen["angular_momentum"] = over(lambda z: jnp.sum(z.q[:, 0] * z.p[:, 1] - z.q[:, 1] * z.p[:, 0]))
    return seen


def mode_energies(z: Phase) -> jax.Array:
    """Twice the kinetic energies [6] of the springs' centres, then of the springs: temperatures, averaged."""
    a, b = z.p[::2, 0], z.p[1::2, 0]
    return jnp.concatenate([(a + b) ** 2, (b - a) ** 2]) / 2


def figures(system: System, seen: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> dict:
    """Over all starts; a path counts until it is off by half its energy."""
    start = truth["energy"][0]
    error = seen["energy"] / start - 1
    lost = ~(np.abs(error) < 0.5)
    first = np.where(lost.any(0), lost.argmax(0), len(error))
    kept = np.arange(len(error))[:, None] < first
    row = {
        "lost": int((first < len(error)).sum()),
        "median_strides_kept": float(min(np.median(first) * EVERY, STRIDES)),
        "energy_rms_error": float(np.sqrt(np.mean(error[kept] ** 2))),
        "energy_change": float(
            np.mean([e[f - max(1, f // 10) : f].mean() for e, f in zip(error.T, first, strict=True)])
        ),
    }
    if "angular_momentum" in seen:
        change = np.abs(seen["angular_momentum"] / truth["angular_momentum"][0] - 1)
        row["angular_momentum_error"] = float(change[kept].max())
    if "springs" in seen:
        total = seen["springs"].sum(-1)
        row["adiabatic_change"] = float(np.abs(total / truth["springs"].sum(-1)[0] - 1)[kept].mean())
        whole = kept[:, :, None] * np.ones(seen["mode_energies"].shape[-1], bool)
        temperatures = np.array(
            [seen["mode_energies"][..., k][whole[..., k]].mean() for k in range(whole.shape[-1])]
        )
        row["mode_temperatures"] = (temperatures / system.kT).tolist()
        row["temperature_springs"] = float(temperatures[3:].mean() / system.kT)
        row["temperature_centres"] = float(temperatures[:3].mean() / system.kT)
    return row


def study(system: System) -> tuple[list[dict], dict[str, dict[str, np.ndarray]]]:
    """One row for each method, and what was observed."""
    starts, held_out = system.starts(STARTS, seed=2), system.pairs(4, seed=1)
    learned, seconds = maps(system)
    times = system.h * EVERY * np.arange(STRIDES // EVERY + 1)
    exact = reference(system.hamiltonian, starts, times)
    truth = observed(system, jax.tree.map(lambda x: x.swapaxes(0, 1), exact))
    rows = [{"method": "reference", "system": system.name} | figures(system, truth, truth)]
    seen = {"reference": truth}
    shape = (-1, *starts.q.shape)
    for name, map in learned.items():
        z = Phase(flat(starts.q), flat(starts.p))
        path, solved, used = run(map, z, system.h, system.replicas(STARTS), STRIDES, EVERY)
        path = jax.tree.map(lambda x: x.reshape(shape), path)
        path = jax.tree.map(lambda x, y: jnp.concatenate([y[None], x]), path, starts)
        seen[name] = observed(system, path)
        error = jax.jit(lambda p, map=map: map_loss(map, p, system.particles, system.kT))(held_out)
        row = {
            "method": name,
            "system": system.name,
            "stride": system.h,
            "strides": STRIDES,
            "starts": STARTS,
            "stride_error": float(error) ** 0.5,
            "evaluations_per_stride": float(used.mean()),
            "replicas_not_solved": int((~solved).sum()),
            "training_s": seconds.get(name),
        }
        rows.append(row | figures(system, seen[name], truth))
        print(json.dumps(rows[-1]), flush=True)
    return rows, seen


def main() -> None:
    figure = Figure(figsize=(12, 7.5), layout="constrained")
    axes = figure.subplots(2, 3)
    rows = []
    for system, line in zip((three_bodies(), stiff_chain()), axes, strict=True):
        more, seen = study(system)
        rows += more
        draw(system, line, more, seen)
    figure.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside upper center", ncols=8, fontsize=9)
    keep("direct", rows, figure)


def draw(system: System, axes, rows: list[dict], seen: dict[str, dict[str, np.ndarray]]) -> None:
    """Errors of energy, the other invariant, and temperatures of modes or the price of an error."""
    strides = EVERY * np.arange(1, len(seen["reference"]["energy"]))
    left, middle, right = axes
    other = "springs" if "springs" in seen["reference"] else "angular_momentum"

    def error(ax, name: str, values: np.ndarray) -> None:
        change = np.abs(values[1:] / values[0] - 1)
        change = np.median(np.where(np.isfinite(change), change, 1e9), axis=1)
        ax.loglog(strides, np.clip(change, 1e-16, 1e3), color=COLORS[name], lw=0.8, label=name)

    for name, what in seen.items():
        if name != "reference":
            error(left, name, what["energy"])
        error(middle, name, what[other].sum(-1) if other == "springs" else what[other])
    left.set(title=f"{system.name}: energy", xlabel="strides", ylim=(1e-8, 10))
    title = "energy of all stiff springs" if other == "springs" else "angular momentum"
    middle.set(title=title, xlabel="strides")
    if other == "springs":
        middle.set_ylim(1e-4, 10)
    for row in rows:
        color = COLORS[row["method"]]
        if other == "springs":
            ends = "s-" if row["method"] == "reference" else "o-"
            right.plot(np.arange(1, 7), row["mode_temperatures"], ends, ms=3, lw=0.8, color=color)
        elif row["method"] != "reference":
            right.loglog(row["evaluations_per_stride"], row["energy_rms_error"], "o", color=color)
    if other == "springs":
        right.set(title="temperature by mode, until lost", ylabel="over mean energy a degree of freedom")
        right.set_xticks(range(1, 7), ["centre 1", "2", "3", "spring 1", "2", "3"])
    else:
        right.set(title="energy, rms error", xlabel="evaluations a stride")


if __name__ == "__main__":
    main()
