"""Beside its peers: learned maps of four small systems, same strides, as many parameters and seconds.

    python experiments/peers.py         # about six minutes; results/peers.json and results/peers.png

Ours see what the peers see and no Hamiltonian: S³ bare with no prior, and two learned kicks (which know the
masses). For three bodies ours are functions of invariants; that is part of the method. Peers, by the package
strupnet: G-SympNets (Jin et al., Neural Networks 132, 166 (2020)) and HénonNets (Burby, Tang, Maulik, Plasma
Phys. Control. Fusion 63, 024001 (2020)). Then a Hamiltonian neural network (Greydanus et al.,
arXiv:1906.01563; from exact derivatives at the same points) run by Verlet, or by the midpoint rule where H is
not separable; and with no learning the midpoint rule of the true H, over whole strides (for three
bodies its equation cannot be solved everywhere) and over halves. Peers are given at least the seconds
(of processor time) that ours took, compilation included.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import torch
from common import keep
from jax import Array
from matplotlib.figure import Figure
from problems import Problem, fitted, flat, midpoints, run, three_bodies
from strupnet import SympNet

from symstride.actions.small import Cartesian, SmallAction, SmallKicks
from symstride.hamiltonians.base import Custom, Hamiltonian, Separable
from symstride.hamiltonians.double_pendulum import DoublePendulum
from symstride.hamiltonians.henon_heiles import henon_heiles
from symstride.hamiltonians.pendulum import pendulum
from symstride.hamiltonians.reference import reference
from symstride.maps.base import Map
from symstride.maps.composition import Composition
from symstride.maps.generating import Poincare
from symstride.maps.midpoint import midpoint
from symstride.maps.palindrome import Palindrome
from symstride.phase import Particles, Phase, Status
from symstride.solve import Anderson
from symstride.train.small import Pairs, fit, generator_loss, map_loss

jax.config.update("jax_enable_x64", True)
torch.set_num_threads(1)

PATHS, STRIDES, HELD_OUT, LONG, SHORT = 60, 60, 8, 10_000, 100
SIZES = {"hidden": 28, "width": 8}  # of ours: about 3000 parameters; theirs have at least as many
LAYERS = 12  # of theirs
STEPS = 3000


def problems() -> list[Problem]:
    """Eight strides a period of small swings (of the faster mode), 12 an inner period of the three bodies."""

    def swing(bobs: int, angle: float) -> Callable[[np.random.Generator], Phase]:
        def start(rng: np.random.Generator) -> Phase:
            return Phase(jnp.asarray(rng.uniform(-angle, angle, (bobs, 1))), jnp.zeros((bobs, 1)))

        return start

    def star(rng: np.random.Generator) -> Phase:
        direction = rng.normal(size=(2, 1, 2))
        q, p = direction / np.linalg.norm(direction) * np.sqrt(2 * rng.uniform(0.02, 0.08))
        return Phase(jnp.asarray(q), jnp.asarray(p))

    def problem(name: str, hamiltonian: Hamiltonian, start: Callable, h: float) -> Problem:
        return Problem(name, hamiltonian, start, h, STRIDES, Cartesian())

    eighth = math.pi / 4
    return [
        problem("pendulum", pendulum(), swing(1, 2.0), eighth),
        problem("double pendulum", DoublePendulum(), swing(2, 0.8), eighth / math.sqrt(2 + math.sqrt(2))),
        problem("Hénon–Heiles", henon_heiles(), star, eighth),
        replace(three_bodies(), strides=STRIDES),
    ]


@dataclass(frozen=True)
class Data:
    """Pairs to learn from, and the mean of p·∂H/∂p over degrees of freedom in them."""

    pairs: Pairs
    many: Particles
    kT: float

    @staticmethod
    def of(problem: Problem) -> "Data":
        pairs = problem.pairs(PATHS, seed=0)
        velocity = jax.vmap(problem.hamiltonian.field)(pairs.start).q
        return Data(pairs, problem.replicas(len(pairs.h)), float(jnp.mean(pairs.start.p * velocity)))


# ---- ours


def implicit(problem: Problem, data: Data) -> Map:
    sizes = SIZES | {"energy": data.kT, "stride": problem.h, "key": jax.random.key(0)}
    learned = SmallAction(problem.features, *midpoints(data.pairs), data.many, **sizes)
    fresh = Poincare(learned, Anderson(1e-12), data.kT, 100)
    return fitted(generator_loss, fresh, problem, data.kT, data.pairs, STEPS)


def explicit(problem: Problem, data: Data) -> Map:
    sizes = SIZES | {"energy": data.kT, "stride": problem.h, "key": jax.random.key(0)}
    kicks = SmallKicks(problem.features, flat(data.pairs.start.q), data.many, **sizes)
    return fitted(map_loss, Palindrome(kicks), problem, data.kT, data.pairs, STEPS)


# ---- a Hamiltonian neural network


class Network(eqx.Module):
    """H(q, p), or T(p) + V(q)."""

    parts: tuple[eqx.nn.MLP, ...]

    def __init__(self, size: int, separable: bool, parameters: int):
        inputs, hidden = (size, parameters // 2) if separable else (2 * size, parameters)
        hidden = math.isqrt(hidden)
        keys = jax.random.split(jax.random.key(0), 2 if separable else 1)
        self.parts = tuple(eqx.nn.MLP(inputs, "scalar", hidden, 2, jax.nn.softplus, key=k) for k in keys)

    def __call__(self, q: Array, p: Array) -> Array:
        if len(self.parts) == 2:
            return self.parts[0](q.ravel()) + self.parts[1](p.ravel())
        return self.parts[0](jnp.concatenate([q.ravel(), p.ravel()]))


class Verlet(Map):
    """Half a kick, a drift, half a kick of a separable H that is not p²/2m + V."""

    energy: Hamiltonian

    def begin(self, z: Phase, h: float | Array, particles: Particles) -> None:
        return None

    def step(self, z: Phase, memory: None, h: float | Array, particles: Particles):
        apart = Phase(*(x.reshape(particles.replicas, -1, x.shape[-1]) for x in (z.q, z.p)))
        field = jax.vmap(self.energy.field)
        p = apart.p + h / 2 * field(apart).p
        q = apart.q + h * field(Phase(apart.q, p)).q
        p = p + h / 2 * field(Phase(q, p)).p
        return Phase(flat(q), flat(p)), None, Status.explicit(1, jnp.zeros(()), particles.replicas)


def hamiltonian_network(problem: Problem, data: Data, parameters: int, seconds: float) -> Map:
    """In rounds of steps until its seconds are spent; the rate anew in each."""
    masses = problem.hamiltonian.masses
    points = data.pairs.start
    exact = jax.vmap(problem.hamiltonian.field)(points)
    thermal = jnp.sqrt(data.kT * jnp.asarray(masses))[:, None]

    def loss(network: Network, batch: tuple[Phase, Phase]) -> Array:
        found = jax.vmap(Custom(function=network, masses=masses).field)(batch[0])
        dq, dp = found.q - batch[1].q, found.p - batch[1].p
        return jnp.mean((dq * masses[:, None] / thermal) ** 2) + jnp.mean((problem.h * dp / thermal) ** 2)

    separable = isinstance(problem.hamiltonian, Separable)
    network, began = Network(points.q[0].size, separable, parameters), time.process_time()
    while time.process_time() - began < seconds:
        network, _ = fit(network, loss, (points, exact), steps=STEPS, batch=128, rate=0.01)
    learned = Custom(function=network, masses=masses)
    return Verlet(learned) if separable else midpoint(learned, data.kT, 1e-12)


# ---- SympNets and HénonNets


def peer(method: str, problem: Problem, data: Data, parameters: int, seconds: float):
    """A trained network of strupnet, whose phase-space points are (p, q)."""
    size = data.pairs.start.q[0].size
    torch.manual_seed(0)
    net = SympNet(dim=size, layers=LAYERS, width=-(-parameters // (LAYERS * (size + 2))), method=method)
    start, end = (torch.tensor(np.asarray(joined(z))) for z in (data.pairs.start, data.pairs.end))
    masses = np.repeat(np.asarray(problem.hamiltonian.masses), size // len(problem.hamiltonian.masses))
    thermal = np.sqrt(data.kT * masses)
    unit = torch.tensor(np.concatenate([thermal, thermal / masses * problem.h]))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    began = time.process_time()
    while (spent := (time.process_time() - began) / seconds) < 1:
        optimizer.param_groups[0]["lr"] = 1e-2 * (0.01 + 0.99 * (1 + math.cos(math.pi * spent)) / 2)
        rows = torch.randint(len(start), (128,), generator=generator)
        loss = torch.mean(((net(start[rows], problem.h) - end[rows]) / unit) ** 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


def joined(z: Phase) -> Array:
    return jnp.concatenate([z.p.reshape(len(z.p), -1), z.q.reshape(len(z.q), -1)], axis=1)


def peer_path(net, starts: Phase, h: float, strides: int) -> Phase:
    """[strides, K, M, d] after each stride."""
    x, path = torch.tensor(np.asarray(joined(starts))), []
    with torch.no_grad():
        for _ in range(strides):
            x = net(x, h)
            path.append(x.numpy())
    p, q = np.split(np.array(path), 2, axis=2)
    shape = (strides, *starts.q.shape)
    return Phase(jnp.asarray(q.reshape(shape)), jnp.asarray(p.reshape(shape)))


# ---- what is compared


def measured(problem: Problem, data: Data, starts: Phase, exact: Phase, path: Phase) -> dict:
    """Errors in thermal units (one stride; after a hundred), and of energy in kT over the last tenth."""
    energies = jax.vmap(jax.vmap(problem.hamiltonian.__call__))
    first = energies(jax.tree.map(lambda x: x[None], starts))
    change = np.abs(np.asarray(energies(path) - first)) / data.kT
    lost = ~(change < 10)
    thermal = np.sqrt(data.kT * np.asarray(problem.hamiltonian.masses))[:, None]

    def error(n: int) -> float:
        dq, dp = (np.asarray(a[n - 1] - b[n - 1]) for a, b in ((path.q, exact.q), (path.p, exact.p)))
        return float(np.sqrt(np.mean((dq / thermal) ** 2) + np.mean((dp / thermal) ** 2)))

    return {
        "stride_error": error(1),
        f"error_after_{SHORT}": error(SHORT),
        "energy_error": float(np.median(np.max(change[-LONG // 10 :], axis=0))),
        "lost": int(lost.any(0).sum()),  # off by 10 kT
    }


def study(problem: Problem) -> list[dict]:
    data, starts = Data.of(problem), problem.starts(HELD_OUT, 1)
    times = problem.h * np.arange(1, SHORT + 1)
    exact = jax.tree.map(lambda x: x.swapaxes(0, 1), reference(problem.hamiltonian, starts, times))
    z = Phase(flat(starts.q), flat(starts.p))
    rows = []

    def add(
        method, knows, parameters: int, seconds: float, evaluations: float, path: Phase, unsolved=0
    ) -> None:
        row = {"method": method, "system": problem.name, "stride": problem.h, "knows": knows}
        row |= {"parameters": parameters, "training_s": seconds, "evaluations_per_stride": evaluations}
        row |= {"starts": HELD_OUT, "starts_with_unsolved_strides": unsolved}
        rows.append(row | measured(problem, data, starts, exact, path))
        print(json.dumps(rows[-1]), flush=True)

    def ours(method: str, knows: str, learn: Callable[[], Map]) -> None:
        began = time.process_time()
        map = jax.block_until_ready(learn())
        seconds = time.process_time() - began
        path, solved, used = run(map, z, problem.h, problem.replicas(HELD_OUT), LONG)
        path = jax.tree.map(lambda x: x.reshape(LONG, *starts.q.shape), path)
        add(method, knows, size(map), seconds, float(used.mean()), path, unsolved=int((~solved).sum()))

    ours("s3", "strides", lambda: implicit(problem, data))
    if isinstance(problem.hamiltonian, Separable):
        ours("explicit", "strides, masses", lambda: explicit(problem, data))
    parameters, seconds = (max(row[key] for row in rows) for key in ("parameters", "training_s"))
    for method, name in (("G", "sympnet"), ("H", "henonnet")):
        net = peer(method, problem, data, parameters, seconds)
        count = sum(x.numel() for x in net.parameters())
        add(name, "strides", count, seconds, LAYERS, peer_path(net, starts, problem.h, LONG))
    ours("hnn", "derivatives", lambda: hamiltonian_network(problem, data, parameters, seconds))
    rule = midpoint(problem.hamiltonian, data.kT)
    ours("midpoint", "H", lambda: rule)
    ours("midpoint, halved", "H", lambda: Composition((rule, rule), (0.5, 0.5)))
    return rows


def size(map: Map) -> int:
    """Trained numbers."""
    known = lambda x: isinstance(x, Hamiltonian) and not isinstance(getattr(x, "function", None), Network)  # noqa: E731
    leaves = jax.tree.leaves(map, is_leaf=known)
    return sum(x.size for x in leaves if eqx.is_inexact_array(x))


def main() -> None:
    rows = [row for problem in problems() for row in study(problem)]
    keep("peers", rows, draw(rows))


def draw(rows: list[dict]) -> Figure:
    figure = Figure(figsize=(12, 4), layout="constrained")
    methods = list(dict.fromkeys(row["method"] for row in rows))
    systems = list(dict.fromkeys(row["system"] for row in rows))
    panels = {
        f"error_after_{SHORT}": f"error after {SHORT} strides, thermal units",
        "energy_error": f"energy error by {LONG} strides, kT",
        "evaluations_per_stride": "evaluations a stride",
    }
    for ax, (key, title) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for k, method in enumerate(methods):
            points = [(systems.index(r["system"]), r[key]) for r in rows if r["method"] == method]
            x, y = np.array(points).T
            y = np.where(np.isfinite(y), np.minimum(y, 1e3), 1e3)
            ax.semilogy(x + 0.1 * (k - 3), y, "o", label=method)
        ax.set(title=title)
        ax.set_xticks(range(len(systems)), systems, fontsize=8)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(methods))
    return figure


if __name__ == "__main__":
    main()
