"""Errors of one stride from frames of reference trajectories: of models, and of velocity Verlet and r-RESPA
on the reference's own forces."""

from dataclasses import dataclass, replace

import numpy as np

INNER = 0.25  # fs, of r-RESPA's bonds


@dataclass(frozen=True)
class Pairs:
    """Frames to start from, and where the reference is a stride later."""

    starts: list  # trajectories of one frame
    positions: np.ndarray  # [P, N, 3]
    momenta: np.ndarray
    stride_fs: float
    temperature: float  # K

    @staticmethod
    def of(reference, stride_fs: float, points: int, temperature: float) -> "Pairs":
        """About `points` of them, spread over all trajectories."""
        offset = round(stride_fs / reference[0].spacing_fs)
        each = np.linspace(0, len(reference[0].times) - offset - 1, points // len(reference)).astype(int)
        starts = [
            replace(t, positions=t.positions[n : n + 1], momenta=t.momenta[n : n + 1])
            for t in reference
            for n in each
        ]
        ends = (
            np.stack([getattr(t, x)[n + offset] for t in reference for n in each])
            for x in ("positions", "momenta")
        )
        return Pairs(starts, *ends, stride_fs, temperature)

    def row(self, method: str, step: float | None, gradients: int, ends) -> dict:
        """Rms errors of `ends` [(q, p)] over thermal momenta and flights, and their errors."""
        from symstride.units import FS, KB

        masses = self.starts[0].masses
        thermal = np.sqrt(masses * KB * self.temperature)[:, None]
        flight = thermal / masses[:, None] * self.stride_fs * FS
        q, p = (np.stack([e[k] for e in ends]) for k in (0, 1))
        found = {"method": method, "stride_fs": self.stride_fs}
        found |= {"step_fs": step} if step else {}
        found |= {"gradients_per_stride": gradients, "gradients_per_ps": 1000 * gradients / self.stride_fs}
        for name, error in (
            ("momentum", (p - self.momenta) / thermal),
            ("position", (q - self.positions) / flight),
        ):
            squares = np.mean(error**2, (1, 2))
            rms = float(np.sqrt(squares.mean()))
            spread = float(squares.std(ddof=1) / np.sqrt(len(squares)) / (2 * rms))
            found |= {f"{name}_error": rms, f"{name}_error_stderr": spread}
        return found


def learned(model, pairs: Pairs, step: float, skin: float):
    """Ends after strides of `step` of a model, all pairs side by side."""
    import jax.numpy as jnp

    from symstride.phase import Phase
    from symstride.simulate.plan import simulation_of

    starts = pairs.starts
    first = replace(starts[0], positions=np.concatenate([t.positions for t in starts]))
    simulation = simulation_of(model, first, step, skin, len(starts))
    z = Phase(*(jnp.concatenate([getattr(t, x)[0] for t in starts]) for x in ("positions", "momenta")))
    z, _, _ = simulation.advance(z, None, round(pairs.stride_fs / step))
    shape = pairs.positions.shape
    return list(zip(np.asarray(z.q).reshape(shape), np.asarray(z.p).reshape(shape), strict=True))


def verlet(calculator, pairs: Pairs, step: float):
    """Ends after velocity Verlet on true forces."""
    from symstride.data.dynamics import make_dynamics

    def begin(atoms):
        dynamics = make_dynamics(atoms, step)
        return dynamics.verlet(), dynamics.read

    return _ends(calculator, pairs, step, begin)


def respa(calculator, bonded, pairs: Pairs, step: float):
    """Ends after kicks by what bonds and angles leave of the true forces, about their flow."""
    return _ends(calculator, pairs, step, respa_moves(bonded, pairs.starts[0], step))


def respa_moves(bonded, system, step: float):
    """Of atoms of this `system` that have a calculator: what moves them by a number of steps of r-RESPA about
    the flow of `bonded`, and what reads their energy and forces."""
    import jax
    import jax.numpy as jnp

    from symstride.maps.bonded import BondedFlight
    from symstride.phase import Phase, bodies
    from symstride.units import FS

    h = step * FS
    terms = bonded.terms(system.numbers, system.positions[0], system.cell, system.pbc, "the reference")
    particles = replace(bodies(system.masses), bonded=terms)
    flight = jax.jit(lambda z: BondedFlight(round(step / INNER))(z, h, particles)[0])
    fast = jax.jit(lambda q: terms.force(q))

    def begin(atoms):
        def slow():
            return atoms.get_forces() - np.asarray(fast(jnp.asarray(atoms.positions)))

        def move(steps: int) -> None:
            for _ in range(steps):
                kicked = atoms.get_momenta() + h / 2 * slow()
                z = flight(Phase(jnp.asarray(atoms.positions), jnp.asarray(kicked)))
                atoms.positions = np.asarray(z.q)
                atoms.set_momenta(np.asarray(z.p) + h / 2 * slow())

        return move, lambda: (atoms.get_potential_energy(), atoms.get_forces())

    return begin


def placed(start, calculator):
    """The atoms of a trajectory's first frame."""
    from ase import Atoms

    atoms = Atoms(start.numbers, start.positions[0], cell=start.cell, pbc=start.pbc, calculator=calculator)
    atoms.set_masses(start.masses)
    atoms.set_momenta(start.momenta[0])
    return atoms


def _ends(calculator, pairs: Pairs, step: float, begin):
    def end(start):
        atoms = placed(start, calculator)
        move, read = begin(atoms)
        move(round(pairs.stride_fs / step))
        read()
        return atoms.positions.copy(), atoms.get_momenta()

    return [end(start) for start in pairs.starts]
