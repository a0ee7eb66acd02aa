"""Planets and a triple star at long strides: S³ between halves of Kepler's ellipses, against compositions.

    python experiments/planets.py       # about twelve minutes; results/planets.json and results/planets.png

Φ_h = K(h/2) Ψ K(h/2): K moves each body on its ellipse in Jacobi's coordinates, and the S³ of Ψ, all that
the bodies do to one another in a stride, is learned from strides of short reference paths, a network for each
pair of ellipses. With S³ = hV_int not learned, this is the map of Wisdom and Holman. Energy errors are over
10⁴ strides from starts not learned from: other ellipses of the triples; of the outer solar system the true
one at four epochs, where what was learned from are systems of other phases, eccentricities and inclinations.
To each is set the stride at which compositions of order four have the same rms error. Ellipses alone, which
leave out all that the bodies do to one another, have a bounded error at any stride: so positions after fifty
strides are compared too, and ratios of strides are called defensible where the energy error is below a tenth
of theirs. Seconds are of processor time, those of learned maps with compilation.
"""

import json
import time
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from common import keep
from ellipses import Ellipses, outer_planets, triple
from jax import Array
from matplotlib.figure import Figure
from problems import flat, run

from symstride.actions.prior import dressed_prior
from symstride.actions.small import Graded, Isolated, apart, strides
from symstride.hamiltonians.gravity import Gravity
from symstride.hamiltonians.reference import reference
from symstride.maps.base import Map
from symstride.maps.dressed import Dressed
from symstride.maps.generating import Action, Poincare
from symstride.maps.kepler import Interaction, KeplerFlow, jacobi
from symstride.maps.splitting import blanes_moan, suzuki
from symstride.phase import Particles, Phase
from symstride.solve import Anderson
from symstride.train.small import Pairs, cut, fit

jax.config.update("jax_enable_x64", True)

PATHS, STRIDES, HELD_OUT = 160, 40, 8  # to learn from; paths held out of them
BATCH = 64
LONG, EVERY = 10_000, 5
FAR = 50  # strides to where positions are compared
GRID = (0.01, 0.02, 0.04, 0.08, 0.12, 0.18, 0.26, 0.39, 0.77, 1.55, 2.3)  # periods
COARSEST = 0.26  # of compositions
BELOW = 0.1  # of the error of ellipses alone: nearer to it a ratio of strides says little
STYLES: dict[str, dict] = {
    "suzuki": {"color": "0.6"},
    "blanes-moan": {"color": "0.2"},
    "wisdom-holman": {"color": "C0"},
    "ellipses alone": {"color": "C0", "ls": ":"},
    "s3": {"color": "C3", "marker": "o", "ls": ""},
}
COMPOSITIONS = {"blanes-moan": (blanes_moan, 6), "suzuki": (suzuki, 5)}  # and gradients a stride


class PairAction(Action):
    """S³ = h Σ_{i<j} (G m_i m_j a_i²/a_j³) s_ij over pairs of ellipses: exact in their absence."""

    gravity: Gravity
    networks: Graded  # one for each pair
    stride: float = eqx.field(static=True)
    axes: tuple[float, ...] = eqx.field(static=True)

    def __init__(self, system: Ellipses, z: Phase, h: float):
        """Inputs standardised over z [B, M, d]."""
        self.gravity, self.stride, self.axes = system.gravity, h, tuple(system.axes.tolist())
        even, odd = jax.vmap(self.features, out_axes=1)(z.q, z.p)  # [pairs, B, features]
        keys = jax.random.split(jax.random.key(0), len(even))
        self.networks = eqx.filter_vmap(lambda e, o, key: Graded(e, o, 1, key=key))(even, odd, keys)

    @property
    def couples(self) -> tuple[np.ndarray, np.ndarray]:
        return np.triu_indices(len(self.axes), 1)

    def features(self, q: Array, p: Array) -> tuple[Array, Array]:
        """Invariants of each pair of ellipses: q, p [M, d] → [pairs, E] and [pairs, O]."""
        matrix, masses = jacobi(self.gravity.masses), jnp.asarray(self.gravity.masses)[:, None]
        q, v = (matrix @ x for x in (q, p / masses))

        def pair(i: Array, j: Array) -> tuple[Array, Array]:
            three = [jnp.stack([jnp.zeros_like(x[0]), x[i], x[j]]) for x in (q, v)]
            return Isolated()(three[0], three[1], jnp.ones(3))

        i, j = self.couples
        return jax.vmap(pair)(jnp.asarray(i) + 1, jnp.asarray(j) + 1)

    def value(self, q: Array, p: Array, h: float | Array, particles: Particles) -> Array:
        i, j = self.couples
        m, a = jnp.asarray(self.gravity.masses), np.array(self.axes)
        energies = self.gravity.constant * m[i + 1] * m[j + 1] * a[i] ** 2 / a[j] ** 3

        def one(q: Array, p: Array, h: Array) -> Array:
            x = (h / self.stride) ** 2
            s = eqx.filter_vmap(lambda net, e, o: net(e, o, x)[0])(self.networks, *self.features(q, p))
            return h * jnp.sum(energies * s)

        return jnp.sum(jax.vmap(one)(apart(q, particles), apart(p, particles), strides(h, particles)))


def undressed(system: Ellipses, pairs: Pairs) -> Pairs:
    """Kepler's halves taken away from both ends."""
    flow = Dressed(KeplerFlow(system.gravity), KeplerFlow(system.gravity))
    of = system.gravity.particles
    start, end = jax.jit(jax.vmap(lambda a, b, h: flow.undress(a, b, h, of)))(pairs.start, pairs.end, pairs.h)
    return Pairs(start, end, pairs.h, pairs.action)


def learn(system: Ellipses, h: float) -> tuple[Dressed, dict]:
    """The map, and what its training took and gave."""
    began = time.process_time()
    data = undressed(system, cut(system.gravity, system.starts(PATHS, 0), h, STRIDES, nodes=1))
    seen = time.process_time() - began
    change = jax.tree.map(lambda a, b: jnp.linalg.norm(b - a, axis=-1), data.start, data.end)
    size = jax.tree.map(lambda x: jnp.median(x, 0)[:, None], change)  # [M, 1] of each body
    tame = jax.tree.map(lambda x, s: jnp.all(x < 5 * s[:, 0], 1), change, size)
    kept = tame.q & tame.p  # no close encounters: those of Pluto with Neptune
    first = jnp.arange(len(kept)) < HELD_OUT * STRIDES
    held, data = (jax.tree.map(lambda x, rows=rows: x[rows], data) for rows in (kept & first, kept & ~first))
    middle = Phase((data.start.q + data.end.q) / 2, (data.start.p + data.end.p) / 2)
    of = system.gravity.particles
    fresh = PairAction(system, middle, h)

    def loss(action: Action, batch: Pairs) -> Array:
        def one(a: Phase, b: Phase, h: Array) -> Array:
            by_q, by_p = action.gradient((a.q + b.q) / 2, (a.p + b.p) / 2, h, of)
            off = (b.q - a.q - by_p) / size.q, (b.p - a.p + by_q) / size.p
            return jnp.mean(off[0] ** 2 + off[1] ** 2) / 2

        return jnp.mean(jax.vmap(one)(batch.start, batch.end, batch.h))

    began = time.process_time()
    action, _ = fit(fresh, loss, data, steps=system.steps, batch=BATCH, rate=0.02)
    error = {
        name: float(jax.jit(loss)(action, x)) ** 0.5 for name, x in (("train", data), ("held_out", held))
    }
    figures = {
        "pairs": len(data.h),
        "reference_s": seen,
        "training_s": time.process_time() - began,
        "error_of_change": error["held_out"],
        "error_of_change_trained": error["train"],
    }
    return dressed(system, action), figures


def dressed(system: Ellipses, action: Action) -> Dressed:
    return Dressed(KeplerFlow(system.gravity), Poincare(action, Anderson(1e-12), system.energy))


def energy_error(system: Ellipses, map: Map, h: float, starts: Phase) -> dict:
    """Over LONG strides from starts [K, M, d]."""
    z, many = Phase(flat(starts.q), flat(starts.p)), system.many(len(starts.q))
    arguments = map, z, jnp.asarray(h), many, LONG, EVERY
    began = time.process_time()
    path, solved, used = jax.block_until_ready(run(*arguments))
    path = jax.tree.map(lambda x: x.reshape(-1, *starts.q.shape), path)
    over = jax.jit(jax.vmap(jax.vmap(system.gravity)))
    start = jax.vmap(system.gravity)(starts)
    error = over(path) / start - 1
    half = len(error) // 2
    return {
        "stride": h,
        "stride_periods": h / system.period,
        "energy_rms_error": float(jnp.sqrt(jnp.mean(error**2))),
        "energy_max_error": float(jnp.abs(error).max()),
        "energy_rms_by_half": [float(jnp.sqrt(jnp.mean(x**2))) for x in (error[:half], error[half:])],
        "not_solved": int((~solved).sum()),
        "evaluations_per_stride": float(used.mean()),
        "seconds": time.process_time() - began,
    }


def equal_stride(error: Callable[[float], float], wanted: float, period: float) -> float:
    """The stride at which a composition has this error, by bisection."""
    low, high = np.log(period * np.array([1e-3, 0.25]))
    for _ in range(11):
        middle = (low + high) / 2
        low, high = (middle, high) if error(float(np.exp(middle))) < wanted else (low, middle)
    return float(np.exp((low + high) / 2))


@eqx.filter_jit
def advance(map: Map, z: Phase, h: Array, particles: Particles, strides: Array) -> Phase:
    def one(_, carry):
        z, memory, _ = map.step(*carry, h, particles)
        return z, memory

    return jax.lax.fori_loop(0, strides, one, (z, map.begin(z, h, particles)))[0]


class Far:
    """Where the starts [K, M, d] have come to after a time."""

    def __init__(self, system: Ellipses, starts: Phase, time: float):
        self.system, self.starts, self.time = system, starts, time
        self.end = reference(system.gravity, starts, [time]).q[:, 0]

    def error(self, map: Map, h: float) -> float:
        """Of the position on the innermost ellipse, over its half axis; rms over starts."""
        strides, number = int(np.ceil(self.time / h - 1e-9)), len(self.end)
        z = Phase(flat(self.starts.q), flat(self.starts.p))
        h = self.time / strides
        z = advance(map, z, jnp.asarray(h), self.system.many(number), jnp.asarray(strides))
        off = jacobi(self.system.gravity.masses) @ (z.q.reshape(self.end.shape) - self.end)
        return float(jnp.sqrt(jnp.mean(jnp.sum(off[:, 1] ** 2, -1)))) / self.system.axes[0]


def study(system: Ellipses) -> list[dict]:
    """Compositions and known maps at many strides, and learned maps, each with its equals."""
    starts = system.tests(system)
    compositions = {name: make(system.gravity) for name, (make, _) in COMPOSITIONS.items()}
    ellipses = {
        "wisdom-holman": dressed(system, dressed_prior(Interaction(system.gravity))),
        "ellipses alone": KeplerFlow(system.gravity),
    }
    rows = []

    def add(row: dict) -> None:
        rows.append({"system": system.name, "starts": len(starts.q), "strides": LONG} | row)
        print(json.dumps(rows[-1]), flush=True)

    for maps, grid in ((compositions, [x for x in GRID if x <= COARSEST]), (ellipses, GRID)):
        for name, map in maps.items():
            for fraction in grid:
                add({"method": name} | energy_error(system, map, fraction * system.period, starts))
    for fraction in system.strides:
        h = fraction * system.period
        map, trained = learn(system, h)
        row = {"method": "s3"} | energy_error(system, map, h, starts) | trained
        alone = energy_error(system, ellipses["ellipses alone"], h, starts)["energy_rms_error"]
        row["energy_error_over_ellipses_alone"] = row["energy_rms_error"] / alone
        row["ratios_defensible"] = row["energy_error_over_ellipses_alone"] < BELOW
        far = Far(system, starts, FAR * h)
        row["far_periods"] = far.time / system.period
        row["far_position_error"] = off = {
            "s3": far.error(map, h),
            "ellipses alone": far.error(ellipses["ellipses alone"], h),
        }
        for name, other in compositions.items() if row["not_solved"] == 0 else ():
            equal = energy_error(
                system,
                other,
                equal_stride(
                    lambda h, other=other: energy_error(system, other, h, starts)["energy_rms_error"],
                    row["energy_rms_error"],
                    system.period,
                ),
                starts,
            )
            ratio, gradients = h / equal["stride"], COMPOSITIONS[name][1]
            off[name] = far.error(other, equal["stride"])
            as_far = equal_stride(
                lambda h, other=other, far=far: far.error(other, h), off["s3"], system.period
            )
            row[name] = equal | {
                "ratio_of_strides": ratio,
                "ratio_of_gradients_per_time": ratio * gradients / row["evaluations_per_stride"],
                "ratio_of_seconds_per_time": ratio * equal["seconds"] / row["seconds"],
                "ratio_of_strides_at_equal_position_error": h / as_far,
            }
        add(row)
    return rows


def main() -> None:
    rows = []
    systems = outer_planets(), triple(10, 0.2, (0.77, 1.55, 2.3)), triple(5, 0.1, (0.77,))
    figure = Figure(figsize=(13, 4.8), layout="constrained")
    axes = figure.subplots(1, len(systems), sharey=True)
    for system, ax in zip(systems, axes, strict=True):
        more = study(system)
        draw(ax, system, more)
        rows += more
    axes[0].set_ylabel("rms error of the energy over 10⁴ strides, relative")
    axes[0].legend(loc="upper left", fontsize=8)
    figure.suptitle(
        "learned S³: times the stride of Blanes and Moan's composition of the same error "
        "(in grey: more than a tenth of that of ellipses alone)",
        color="C3",
        fontsize=11,
    )
    keep("planets", rows, figure)


def draw(ax, system: Ellipses, rows: list[dict]) -> None:
    """Errors against stride, and how far each learned map is to the right of its equal."""
    for name, style in STYLES.items():
        of = [r for r in rows if r["method"] == name and r["energy_rms_error"] < 0.02]  # false for NaN
        x, y = ([r[key] for r in of] for key in ("stride_periods", "energy_rms_error"))
        ax.loglog(x, y, label=name, **style)
    for row in rows:
        if "blanes-moan" in row:
            sound, ratio = row["ratios_defensible"], row["blanes-moan"]["ratio_of_strides"]
            color, text = ("C3", f"{ratio:.0f} ×") if sound else ("0.6", f"({ratio:.0f} ×)")
            end = row["stride_periods"], row["energy_rms_error"]
            start = row["blanes-moan"]["stride_periods"], end[1]
            ax.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": color})
            ax.annotate(text, end, (0, 5), textcoords="offset points", color=color, ha="center", fontsize=8)
    ax.set(title=system.name, xlabel="stride, inner periods", xlim=(0.007, 5))


if __name__ == "__main__":
    main()
