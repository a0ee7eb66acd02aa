"""It is the action: learned S³ against p̄·Δq − ∫L dt of held-out reference paths.

    python experiments/action.py        # about two minutes; results/action.json and results/action.png

S³ was learned from midpoints of pairs alone, its gradient, never its value. The action of the paths is
integrated along reference solutions. Both are compared whole and less the prior hV(q̄) that S³ is learned
beside, which is the sharper test.
"""

import json
import time

import jax
import numpy as np
from common import comparison, keep
from matplotlib.figure import Figure
from problems import System, implicit, stiff_chain, three_bodies

from symstride.maps.dressed import Dressed
from symstride.maps.generating import Poincare
from symstride.train.small import Pairs, generator_loss, values

jax.config.update("jax_enable_x64", True)

PATHS = {"three bodies": 48, "stiff FPUT chain": 16}
STEPS = 8000


def learned(system: System) -> tuple[Dressed, Pairs, dict]:
    """The map, pairs of paths it has not seen, and how it was trained."""
    pairs, held_out = system.pairs(PATHS[system.name], seed=0), system.pairs(8, seed=1)
    began = time.process_time()
    map = implicit(system, pairs, STEPS)
    error = jax.jit(lambda p: generator_loss(map, p, system.particles, system.kT))(held_out)
    trained = {"pairs": len(pairs.h), "training_s": time.process_time() - began}
    return map, held_out, trained | {"generator_error": float(error) ** 0.5}


def main() -> None:
    rows = []
    figure = Figure(figsize=(9.6, 8.4), layout="constrained")
    for axes, system in zip(figure.subplots(2, 2), (three_bodies(), stiff_chain()), strict=True):
        map, held_out, trained = learned(system)
        assert isinstance(map.inner, Poincare)
        whole, measured = (np.asarray(x) for x in values(map, held_out, system.particles))
        prior = Dressed(map.dressing, Poincare(map.inner.action.parts[0], map.inner.solver, system.kT))
        known = np.asarray(values(prior, held_out, system.particles)[0])
        row = {"method": "s3", "system": system.name, "stride": system.h, "held_out": len(whole), **trained}
        row |= comparison(measured, whole)
        row["less_prior"] = comparison(measured - known, whole - known)
        rows.append(row)
        print(json.dumps(row))
        for ax, x, y, figures, what in (
            (axes[0], measured, whole, row, "S³"),
            (axes[1], measured - known, whole - known, row["less_prior"], "S³ − hV(q̄), the learned part"),
        ):
            draw(ax, x, y, f"{system.name}: {what}", figures)
    keep("action", rows, figure)


def draw(ax, measured: np.ndarray, predicted: np.ndarray, title: str, figures: dict) -> None:
    """S³ has no origin: both are shown from the means."""
    x, y = measured - measured.mean(), predicted - predicted.mean()
    ends = np.array([x.min(), x.max()])
    ax.plot(ends, ends, color="0.7", lw=1)
    ax.plot(x, y, ".", ms=2)
    ax.set(title=title, xlabel="p̄·Δq − ∫L dt along the path", ylabel="learned")
    text = f"1 − correlation {1 - figures['correlation']:.1e}\nslope {figures['slope']:.5f}"
    ax.text(0.05, 0.95, text, transform=ax.transAxes, va="top")


if __name__ == "__main__":
    main()
