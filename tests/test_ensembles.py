"""Each ensemble as the physical_validation package judges it, in standard errors.

Sources: Shirts, J. Chem. Theory Comput. 9, 909 (2013); Merz and Shirts, PLoS ONE 13, e0202764 (2018).
"""

import jax
import jax.numpy as jnp
import numpy as np
import physical_validation as pv
import pytest

from symstride.maps.thermostat import Langevin, VelocityRescaling
from test_barostat import barostat, network, path
from test_thermostat import KINDS, MASSES, REPLICAS, Cluster, N, kinetic, sampled

SIGMAS = 4.0
QUIET = {"verbosity": 0, "bootstrap_seed": 1, "data_is_uncorrelated": True}
OURS = 1 / 6.022140857e-2  # energies are pressure times volume, of no unit


def simulation(atoms: int, ensemble: dict, **observables) -> pv.data.SimulationData:
    """Independent samples in reduced units, k = 1."""
    count = len(observables["potential_energy"])
    return pv.data.SimulationData(
        units=pv.data.UnitData(1.0, 1.0, 1.0, 1.0, 1.0, OURS, 1.0),
        ensemble=pv.data.EnsembleData(natoms=atoms, **ensemble),
        system=pv.data.SystemData(
            natoms=atoms, nconstraints=0, ndof_reduction_tra=3, ndof_reduction_rot=0, mass=np.ones(atoms)
        ),
        observables=pv.data.ObservableData(**observables, constant_of_motion=np.zeros(count)),
    )


def off(*pair: pv.data.SimulationData) -> float:
    """By how many standard errors the ratio of two distributions is not Boltzmann's."""
    return float(np.max(pv.ensemble.check(*pair, verbosity=0, data_is_uncorrelated=True)))


@pytest.mark.parametrize("kind", KINDS)
def test_heat_baths_at_two_temperatures(kind):
    """Kinetic energies of both, and the ratio of their potential energies' distributions."""
    found = []
    potential = jax.jit(jax.vmap(Cluster(MASSES).potential))
    for kT in (0.7, 0.8):
        q, p, *_ = sampled(kind, kT=kT)
        apart = slice(None, None, 66)  # strides in which a replica forgets
        energies = potential(jnp.asarray(q[apart]).reshape(-1, N, 3))
        seen = {"kinetic_energy": kinetic(p[apart]).ravel(), "potential_energy": np.asarray(energies)}
        seen["total_energy"] = seen["kinetic_energy"] + seen["potential_energy"]
        found.append(simulation(N, {"ensemble": "NVT", "volume": 1.0, "temperature": kT}, **seen))
        assert np.max(pv.kinetic_energy.distribution(found[-1], **QUIET)) < SIGMAS
        assert len(energies) > 3 * REPLICAS
    assert off(*found) < SIGMAS
    found[1].ensemble = pv.data.EnsembleData("NVT", N, volume=1.0, temperature=0.9)
    assert off(*found) > SIGMAS  # it would tell


@pytest.mark.parametrize(("flexible", "kind"), [(False, Langevin), (True, VelocityRescaling)])
def test_constant_pressure_at_two_temperatures_and_pressures(flexible, kind):
    """Kinetic energies, and the ratio of the distributions of energies and volumes together."""
    found = []
    z, of = network(100)
    for kT, pressure in ((0.7, 1.0), (0.8, 2.0)):
        map = barostat(0.0, pressure, 0.02, flexible, every=2, kT=kT, kind=kind)
        states, cells, *_ = path(map, z, of, jnp.asarray(0.05), 300)

        def energies(q, cell, map=map):
            return jnp.sum(of.per_replica(map.potential(q, of.in_cells(cell))), 1)

        kept = slice(120, None, 30)
        seen = {"volume": np.abs(np.linalg.det(cells[kept])).ravel()}
        seen["potential_energy"] = np.ravel(jax.jit(jax.vmap(energies))(states.q[kept], cells[kept]))
        p, masses = states.p[kept].reshape(-1, 8, 3), of.masses[:8, None]
        p = p - p.sum(1, keepdims=True) * masses / masses.sum()  # the total is as it was in the beginning
        seen["kinetic_energy"] = np.sum(p**2 / masses, (1, 2)) / 2
        state = {"ensemble": "NPT", "pressure": pressure, "temperature": kT}
        found.append(simulation(8, state, **seen))
        assert np.max(pv.kinetic_energy.distribution(found[-1], **QUIET)) < SIGMAS
    assert off(*found) < SIGMAS
    found[1].ensemble = pv.data.EnsembleData("NPT", 8, pressure=2.6, temperature=0.8)
    assert off(*found) > SIGMAS
