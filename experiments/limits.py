"""Where generating functions and learned kicks end, and iterations fail, against θ = ωh.

    python experiments/limits.py        # about a minute; results/limits.json and results/limits.png

Of the harmonic oscillator the measurements use the real maps and solvers, and reference strides by DOP853.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from common import keep
from jax import Array
from matplotlib.figure import Figure
from scipy.integrate import solve_ivp
from scipy.optimize import root_scalar

from symstride.hamiltonians.harmonic import Harmonic, chain
from symstride.maps.dressed import Dressed
from symstride.maps.flight import FreeFlight
from symstride.maps.generating import Action, Generated, Poincare
from symstride.maps.mixed import Mixed
from symstride.maps.palindrome import Kicks, Palindrome
from symstride.maps.principal import Principal
from symstride.measure.caustic import limit
from symstride.phase import Phase, bodies
from symstride.solve import Anderson, NewtonKrylov

jax.config.update("jax_enable_x64", True)

ONE = bodies(jnp.ones(1))
PICARD = Anderson(1e-300, history=0, divergence=1e300)  # neither converges nor gives up: to watch it
THETA = np.linspace(0.15, 2 * math.pi - 0.15, 60)


# ---- one oscillator, m = ω = 1, h = θ: its generating functions


class Exact(Action):
    """A generating function of the oscillator in closed form, less what its map adds."""

    function: Callable[[Array, Array, Array], Array] = eqx.field(static=True)

    def value(self, q, p, h, particles):
        return jnp.sum(self.function(q, p, h))


def principal(q: Array, end: Array, h: Array) -> Array:
    return ((q**2 + end**2) * jnp.cos(h) - 2 * q * end) / (2 * jnp.sin(h)) - (end - q) ** 2 / (2 * h)


def mixed(q: Array, p: Array, h: Array) -> Array:
    return (1 / jnp.cos(h) - 1) * q * p + jnp.tan(h) / 2 * (q**2 + p**2)


def poincare(q: Array, p: Array, h: Array) -> Array:
    return jnp.tan(h / 2) * (q**2 + p**2)


def dressed(q: Array, p: Array, h: Array) -> Array:
    cos, sin = jnp.cos(h), jnp.sin(h)
    return ((sin - h * cos - h**2 / 4 * sin) * p**2 + sin * q**2) / (1 + cos + h / 2 * sin)


def tan_half_phi(theta: np.ndarray) -> np.ndarray:
    cosine = np.cos(theta) + theta / 2 * np.sin(theta)
    return np.sqrt(np.abs((1 - cosine) / (1 + cosine)))


@dataclass(frozen=True)
class Kind:
    """A generating function: its map, and what theory says of it."""

    name: str
    label: str
    map: Generated
    size: Callable  # of its second derivatives, dimensionless
    contraction: Callable
    poles: tuple[float, float]  # between which its caustic lies


KINDS = [
    Kind(
        "s1",
        "S¹(q, q′)",
        Principal(Exact(principal), PICARD, 1.0),
        lambda t: np.abs(1 / np.sin(t)),
        lambda t: np.abs(1 - t / np.sin(t)),
        (2.5, 3.7),
    ),
    Kind(
        "s2",
        "S²(q, p′)",
        Mixed(Exact(mixed), PICARD, 1.0),
        lambda t: np.abs(np.tan(t)),
        lambda t: np.abs(1 - 1 / np.cos(t)),
        (1.2, 1.9),
    ),
    Kind(
        "s3",
        "S³(z̄)",
        Poincare(Exact(poincare), PICARD, 1.0),
        lambda t: np.abs(np.tan(t / 2)),
        lambda t: np.abs(np.tan(t / 2)),
        (2.5, 3.7),
    ),
    Kind(
        "dressed s3",
        "S³(z̄), dressed",
        Poincare(Exact(dressed), PICARD, 1.0),
        tan_half_phi,
        tan_half_phi,
        (2.5, 3.7),
    ),
]


def flow(theta: float) -> np.ndarray:
    """The stride's matrix [2, 2], by DOP853."""
    columns = solve_ivp(
        lambda t, y: np.concatenate([y[2:], -y[:2]]),
        (0, theta),
        np.eye(2).ravel(),
        "DOP853",
        rtol=1e-12,
        atol=1e-12,
    )
    return columns.y[:, -1].reshape(2, 2)


def hessian(kind: str, theta: float) -> np.ndarray:
    """Second derivatives [2, 2] of the generating function, fitted to 16 pairs (z, z′)."""
    before = np.random.default_rng(0).normal(size=(16, 2))
    after = before @ flow(theta).T
    if kind == "dressed s3":
        undress = Dressed(FreeFlight(), FreeFlight()).undress
        pairs = [
            undress(Phase(*a.reshape(2, 1, 1)), Phase(*b.reshape(2, 1, 1)), theta, ONE)
            for a, b in zip(before, after, strict=True)
        ]
        before, after = (
            np.array([[float(z.q[0, 0]), float(z.p[0, 0])] for z in zs]) for zs in zip(*pairs, strict=True)
        )
    (q, p), (q1, p1) = before.T, after.T
    arguments, slopes = {
        "s1": ((q, q1), (-p, p1)),
        "s2": ((q, p1), (p, q1)),
    }.get(kind, (((q + q1) / 2, (p + p1) / 2), (p - p1, q1 - q)))
    return np.linalg.lstsq(np.stack(arguments, 1), np.stack(slopes, 1), rcond=None)[0]


def size(kind: str, theta: float) -> float:
    h = np.abs(hessian(kind, theta))
    return float(
        {"s1": h[0, 1], "s2": h[1, 1], "s3": h[1, 1] / 2}.get(kind, math.sqrt(h[0, 0] * h[1, 1]) / 2)
    )


def caustic(kind: Kind) -> float:
    """Where one over the fitted second derivative passes through zero."""
    entry = (0, 1) if kind.name == "s1" else (1, 1)
    return root_scalar(lambda theta: 1 / hessian(kind.name, theta)[entry], bracket=kind.poles).root


@eqx.filter_jit
def _stride(one, z, h, of):
    return one(z, h, of)


def contraction(kind: Kind, theta: float) -> float:
    """By which the error of Picard iteration falls in one step, from the errors after one and three."""
    z, h = Phase(jnp.array([[0.8]]), jnp.array([[-0.5]])), jnp.asarray(theta)
    one = kind.map if kind.name != "dressed s3" else Dressed(FreeFlight(), kind.map)
    exact = flow(theta) @ np.array([0.8, -0.5])
    if kind.name == "dressed s3":  # iterate, and compare, within the dressing
        z, end = one.undress(z, Phase(*jnp.asarray(exact).reshape(2, 1, 1)), h, ONE)
        exact = np.array([float(end.q[0, 0]), float(end.p[0, 0])])
    errors = []
    for steps in (1, 3):
        image, _ = _stride(replace(kind.map, max_steps=steps), z, h, ONE)
        errors.append(np.hypot(float(image.q[0, 0]) - exact[0], float(image.p[0, 0]) - exact[1]))
    return math.sqrt(errors[1] / errors[0])


# ---- learned kicks


class Strengths(Kicks):
    """Kicks p ← p − (κ_k/h) q of given strengths κ."""

    strengths: Array
    weights: tuple[float, ...] = eqx.field(static=True)

    def force(self, k, q, h, particles):
        return -self.strengths[k] / (self.weights[k] * jnp.mean(h) ** 2) * q


def palindrome(strengths: Array, drifts: int) -> Palindrome:
    bare = Palindrome(Strengths(strengths, ()), drifts)
    return Palindrome(Strengths(strengths, tuple(bare.weights)), drifts)


@eqx.filter_jit
def misfit(strengths: Array, theta: Array, drifts: int) -> tuple[Array, Array]:
    """The palindrome's matrix less the rotation's [4], and its derivative by the strengths."""

    def difference(strengths):
        def column(z):
            image, _ = palindrome(strengths, drifts)(Phase(*z.reshape(2, 1, 1)), theta, ONE)
            return jnp.stack([image.q[0, 0] / theta, image.p[0, 0]])

        c, s = jnp.cos(theta), jnp.sin(theta)
        rotation = jnp.array([[c, s / theta], [-s * theta, c]])
        return (jax.vmap(column)(jnp.array([[theta, 0.0], [0.0, 1.0]])).T - rotation).ravel()

    return difference(strengths), jax.jacfwd(difference)(strengths)


def strengths(drifts: int, thetas: np.ndarray) -> np.ndarray:
    """κ for each θ, by Newton's method from the last, the nearest of all solutions; NaN where it fails."""
    weights = palindrome(jnp.zeros(1), drifts).weights[: drifts // 2 + 1]
    found, guess = [], np.array(weights) * thetas[0] ** 2
    for theta in thetas:
        kappa = guess
        for _ in range(12):
            value, slope = (np.asarray(x) for x in misfit(jnp.asarray(kappa), jnp.asarray(theta), drifts))
            kappa = kappa - np.linalg.lstsq(slope, value, rcond=1e-9)[0]
        value = np.asarray(misfit(jnp.asarray(kappa), jnp.asarray(theta), drifts)[0])
        solved = np.abs(value).max() < 1e-8 * (1 + np.abs(kappa).max() ** 2)
        found.append(kappa if solved else np.full_like(kappa, np.nan))
        guess = kappa if solved else guess
    return np.array(found)


def two_kicks(theta: np.ndarray) -> np.ndarray:
    """DESIGN 2.3, times h: the outer and the inner κ."""
    return np.stack([2 - theta / np.tan(theta / 2), 4 * (1 - np.sin(theta) / theta)], axis=-1)


def pole(thetas: np.ndarray, outer: np.ndarray) -> float:
    """Where one over the outer strength, extrapolated from the last five in a line, reaches zero."""
    slope, offset = np.polyfit(thetas[-5:], 1 / outer[-5:], 1)
    return float(-offset / slope)


# ---- a chain of twelve modes


class ChainAction(Action):
    """The exact S³ of a harmonic chain."""

    system: Harmonic

    def value(self, q, p, h, particles):
        omega, modes = self.system.modes
        x, y = modes.T @ q, modes.T @ p
        return jnp.sum(jnp.tan(omega * h / 2)[:, None] * (y**2 / omega[:, None] + omega[:, None] * x**2))


SOLVERS = {
    "Picard": (Anderson(1e-8, history=0), 300),
    "Anderson": (Anderson(1e-8), 300),
    "Newton–Krylov": (NewtonKrylov(1e-8), 50),
}


def iterations(solver: str, thetas: np.ndarray) -> list[int | None]:
    """Gradients and products a stride of a thermal chain takes; None where it is not solved."""
    system = chain(jnp.ones(12))
    omega, modes = system.modes
    x, y = np.random.default_rng(0).normal(size=(2, 12, 1))
    z = Phase(modes @ (x / omega[:, None]), modes @ y)
    one = Poincare(ChainAction(system), SOLVERS[solver][0], 1.0, SOLVERS[solver][1])
    counts = []
    for theta in thetas:
        h = theta / omega[-1]
        image, status = _stride(one, z, h, system.particles)
        exact = system.flow(z, h)
        assert not status.converged[0] or float(jnp.abs(image.p - exact.p).max()) < 1e-5
        counts.append(int(status.iterations[0]) if status.converged[0] else None)
    return counts


# ---- all together


def main() -> None:
    rows, table = [], []
    for kind in KINDS:
        for theta in THETA:
            rows.append(
                {
                    "method": kind.name,
                    "system": "harmonic oscillator",
                    "theta": float(theta),
                    "size": size(kind.name, theta),
                    "size_theory": float(kind.size(theta)),
                    "contraction": contraction(kind, theta),
                    "contraction_theory": float(kind.contraction(theta)),
                }
            )
        theory = limit(kind.name)
        converges = root_scalar(
            lambda theta, kind=kind: contraction(kind, theta) - 1, bracket=(0.5, 0.95 * theory.caustic)
        ).root
        table.append((kind.name, "caustic", theory.caustic, caustic(kind)))
        table.append((kind.name, "Picard diverges", theory.picard, converges))
    kicks = {}
    for drifts in (2, 4):
        end = limit("explicit", drifts).caustic
        thetas = np.linspace(0.1, end - 0.1, 2000)
        kicks[drifts] = thetas, strengths(drifts, thetas)
        solved = np.isfinite(kicks[drifts][1][:, 0])
        table.append(
            (
                f"explicit, {drifts} drifts",
                "caustic",
                end,
                pole(thetas[solved], kicks[drifts][1][solved, 0]),
            )
        )
        kicks[drifts] = thetas[solved], kicks[drifts][1][solved]
        for theta, kappa in zip(*(x[::20] for x in kicks[drifts]), strict=True):
            rows.append(
                {
                    "method": "explicit",
                    "system": "harmonic oscillator",
                    "drifts": drifts,
                    "theta": float(theta),
                    "kick_strengths": kappa.tolist(),
                }
            )
    thetas = np.concatenate([np.linspace(0.1, 3.0, 30), math.pi - np.array([0.1, 0.05, 0.02, 0.01])])
    counts = {name: iterations(name, thetas) for name in SOLVERS}
    for name, found in counts.items():
        for theta, count in zip(thetas, found, strict=True):
            rows.append(
                {
                    "method": "s3",
                    "solver": name,
                    "system": "chain of 12",
                    "theta": float(theta),
                    "tolerance": 1e-8,
                    "gradients_per_stride": count,
                }
            )
    for method, what, theory, measured in table:
        rows.append({"method": method, "limit": what, "theta": measured, "theta_theory": theory})
    keep("limits", rows, draw(rows, kicks, thetas, counts))
    print(f"{'map':20}{'limit':18}{'theory':>10}{'measured':>12}")
    for method, what, theory, measured in table:
        print(f"{method:20}{what:18}{theory:10.6f}{measured:12.6f}")


def draw(rows: list[dict], kicks: dict, thetas: np.ndarray, counts: dict) -> Figure:
    figure = Figure(figsize=(11, 8), layout="constrained")
    axes = figure.subplots(2, 2)
    fine = np.linspace(0.01, 2 * math.pi, 4001)
    for k, kind in enumerate(KINDS):
        points = [row for row in rows if row["method"] == kind.name and "size" in row]
        for axis, name, theory in (
            (axes[0, 0], "size", kind.size),
            (axes[0, 1], "contraction", kind.contraction),
        ):
            axis.plot(fine, theory(fine), f"C{k}", lw=1, label=kind.label)
            axis.plot([row["theta"] for row in points], [row[name] for row in points], f"C{k}o", ms=3)
    for axis, title in (
        (axes[0, 0], "The generating function: its second derivative"),
        (axes[0, 1], "Picard iteration: error after over error before a step"),
    ):
        axis.set(title=title, yscale="log", xlim=(0, 2 * math.pi), ylim=(0.02, 100))
        axis.legend(fontsize=8, title="lines: theory, points: measured", title_fontsize=8, loc="lower center")
    axes[0, 1].axhspan(1, 100, color="0.93", zorder=0)
    axes[0, 1].text(6.1, 60, "diverges", ha="right", color="0.4")

    axis = axes[1, 0]
    fine = np.linspace(0.01, 4 * math.pi, 4001)
    inside = fine < 2 * math.pi
    axis.plot(fine[inside], np.abs(two_kicks(fine[inside])).max(1), "C0", lw=1, label="two drifts, theory")
    twice = np.abs(two_kicks(fine / 2)) * [2, 1]  # two strides of h/2 in one
    axis.plot(fine, 2 * twice.max(1), "C1:", lw=1, label="two strides of two drifts")
    for k, (drifts, (found, kappa)) in enumerate(kicks.items()):
        axis.plot(
            found[::-40], np.abs(kappa[::-40]).max(1), f"C{k}o", ms=3, label=f"{drifts} drifts, solved for"
        )
        axis.axvline(drifts * math.pi, color=f"C{k}", ls="--", lw=0.8)
    axis.set(title="Learned kicks: the strongest, κ", yscale="log", ylim=(1e-2, 1e3), xlim=(0, 13))

    axis = axes[1, 1]
    for k, (name, found) in enumerate(counts.items()):
        axis.plot(thetas, [np.nan if n is None else n for n in found], f"C{k}o-", ms=3, lw=1, label=name)
    axis.axvline(math.pi, color="0.5", ls="--", lw=0.8)
    axis.axvline(math.pi / 2, color="C0", ls=":", lw=0.8)
    axis.set(title="S³ of a chain of 12 modes: gradients a stride, to 1e-8", yscale="log", xlim=(0, 3.3))
    for axis in axes[1]:
        axis.legend(fontsize=8)
    for axis in axes.flat:
        multiples = np.arange(1, 5) if axis is axes[1, 0] else np.arange(1, 5) / 2
        labels = {0.5: "π/2", 1: "π", 1.5: "3π/2", 2: "2π", 3: "3π", 4: "4π"}
        axis.set_xticks([m * math.pi for m in multiples if m * math.pi <= axis.get_xlim()[1]])
        axis.set_xticklabels([labels[m] for m in multiples if m * math.pi <= axis.get_xlim()[1]])
        axis.set_xlabel("θ = ωh")
    return figure


if __name__ == "__main__":
    main()
