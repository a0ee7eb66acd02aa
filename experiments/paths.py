"""The learned S³ of a crystal beside p̄·Δq − ∫L dt of its reference paths."""

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.calculators.emt import EMT
from ase.md.verlet import VelocityVerlet
from common import comparison
from crystals import TIMESTEP

from symstride.data.pairs import species_of
from symstride.data.trajectory import Trajectory
from symstride.maps.dressed import Dressed
from symstride.model import Model, implicit_part
from symstride.neighbors import neighbor_list
from symstride.phase import Particles, Phase
from symstride.train.small import Pairs, undressed
from symstride.units import FS


class Paths:
    """Reference paths of a stride each, and their actions, from frames of trajectories not learned from.

    Velocity Verlet of step δ is the map of Σ δ [m (Δq/δ)²/2 − (V + V′)/2], its discrete Lagrangian, which is
    the ∫L dt of that map with no error of quadrature (Marsden and West, Acta Numerica 10, 357 (2001)).
    """

    def __init__(self, unseen: list[Trajectory], stride: float, pairs: int):
        self.first, self.stride = unseen[0], stride
        each = -(-pairs // len(unseen))
        last = len(unseen[0].times) - round(stride / TIMESTEP)
        frames = np.linspace(0, last - 1, each).astype(int)
        self.starts = [(t.positions[n], t.momenta[n]) for t in unseen for n in frames]
        self.atoms = Atoms(numbers=self.first.numbers, cell=self.first.cell, pbc=self.first.pbc)
        self.atoms.calc = EMT()

    def along(self, step: float) -> Pairs:
        """By velocity Verlet with this step in fs."""
        atoms, mass, ends = self.atoms, self.first.masses[:, None], []
        for q, p in self.starts:
            atoms.positions = q
            atoms.set_momenta(p)
            action, last, potential = 0.0, q, atoms.get_potential_energy()
            verlet = VelocityVerlet(atoms, step * FS)
            for _ in range(round(self.stride / step)):
                verlet.run(1)
                kinetic = np.sum(mass * (atoms.positions - last) ** 2) / 2 / (step * FS) ** 2
                new = atoms.get_potential_energy()
                action += step * FS * (kinetic - (potential + new) / 2)
                last, potential = atoms.get_positions(), new
            ends.append((q, p, last, atoms.get_momenta(), action))
        q, p, q_end, p_end, action = (jnp.asarray(np.array(x)) for x in zip(*ends, strict=True))
        return Pairs(Phase(q, p), Phase(q_end, p_end), jnp.full(len(action), self.stride * FS), action)

    def potential(self, q: np.ndarray) -> np.ndarray:
        """Of EMT at each q [B, M, 3], eV."""
        found = []
        for self.atoms.positions in q:
            found.append(self.atoms.get_potential_energy())
        return np.array(found)


def action_of(model: Model, unseen: list[Trajectory], stride: float, pairs: int) -> dict:
    """Learned S³ and measured, less their means, in eV fs: whole and less hV(q̄).

    The reference is learned with its step, whose action the first comparison takes; half that step tells how
    far it is from that of the exact flow.
    """
    assert isinstance(model.map, Dressed)
    implicit = Dressed(model.map.dressing, implicit_part(model.map))
    paths = Paths(unseen, stride, pairs)
    first = paths.first
    near = neighbor_list(
        np.mean([q for q, _ in paths.starts], 0), first.cell, first.pbc, model.config.network.cutoff, 2
    )
    particles = jax.tree.map(
        jnp.asarray, Particles(species_of(first.numbers, model.elements), first.masses, near, 1)
    )
    h, generating = stride * FS, implicit_part(model.map).action
    value = jax.jit(lambda z: jax.lax.map(lambda z: generating.value(z.q, z.p, h, particles), z))
    found: dict = {"pairs": len(paths.starts)}
    for name, step in (("", TIMESTEP), ("half_step", TIMESTEP / 2)):
        within = undressed(implicit, paths.along(step), particles)
        middle = jax.tree.map(lambda a, b: (a + b) / 2, within.start, within.end)
        action = jnp.sum(middle.p * (within.end.q - within.start.q), (1, 2)) - within.action
        learned, measured = np.asarray(value(middle)), np.asarray(action)
        known = h * paths.potential(np.asarray(middle.q))
        part = {
            "whole": compared(measured, learned),
            "less_prior": compared(measured - known, learned - known),
        }
        found |= {name: part} if name else part
    return found


def compared(measured: np.ndarray, learned: np.ndarray) -> dict:
    """As figures, and the values themselves from their means, eV fs."""
    values = {"measured": measured, "learned": learned}
    shown = {name: np.round((x - x.mean()) / FS, 6).tolist() for name, x in values.items()}
    return comparison(measured, learned) | shown
