"""Barostats sample the isothermal–isobaric ensemble, whatever their time: volumes, shapes, heat, restarts."""

import json
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write as ase_write
from scipy import stats

from symstride.data import h5md
from symstride.data.config import CalculatorConfig
from symstride.data.trajectory import Trajectory
from symstride.errors import ConfigError, SymstrideWarning
from symstride.hamiltonians.bonded import Bonded
from symstride.hamiltonians.bonded import join as join_bonds
from symstride.maps.barostat import CellRescaling, virial
from symstride.maps.bonded import BondedFlight
from symstride.maps.flight import FreeFlight
from symstride.maps.palindrome import Kicks, Palindrome
from symstride.maps.thermostat import Langevin
from symstride.measure.observables import radial_distribution
from symstride.measure.summary import summarise
from symstride.model import load_model
from symstride.neighbors import join, neighbor_list, nobody
from symstride.phase import Particles, Phase
from symstride.simulate.plan import Plan, simulation_of
from symstride.simulate.pressure import with_volume_energy
from symstride.simulate.run import RunSettings, run
from symstride.simulate.start import read_start
from symstride.units import BAR
from test_run import NETWORK, Stopped, make_model, stop

jax.config.update("jax_enable_x64", True)
KT = 0.7
CUTOFF = 1.5
LEARNED = Path(__file__).parent.parent / "models" / "aluminium-explicit.safetensors"
EMT_ENERGIES = CalculatorConfig(name="emt")


class Springs(Kicks):
    """k Σ (1 − r/cutoff)³ over pairs: soft spheres, that know their cell by their neighbours alone."""

    stiffness: float

    def potential(self, k, q, h, particles):
        near = particles.neighbors
        x = jnp.maximum(1 - jnp.linalg.norm(near.vectors(q), axis=-1) / CUTOFF, 0.0)
        return self.stiffness / 2 * jnp.sum(jnp.where(near.mask, x**3, 0.0), 1)

    def force(self, k, q, h, particles):
        return -jax.grad(lambda q: jnp.sum(self.potential(k, q, h, particles)))(q)


def crystal(replicas, side, length, skin=None, bonded=None):
    """A simple cubic lattice of unequal masses, shaken; without a skin its atoms see nobody."""
    n, rng = side**3, np.random.default_rng(0)
    grid = length * np.stack(np.meshgrid(*[np.arange(side)] * 3), -1).reshape(-1, 3)
    q = grid + 0.1 * rng.normal(size=(replicas, n, 3))
    cell, masses = length * side * np.eye(3), np.tile(np.linspace(1.0, 3.0, n), replicas)
    p = rng.normal(size=(replicas * n, 3)) * np.sqrt(KT * masses)[:, None]
    lists = nobody(replicas * n)
    if skin:
        lists = join([neighbor_list(x, cell, np.ones(3, bool), CUTOFF, skin) for x in q])
    cells = jnp.asarray(np.tile(cell, (replicas, 1, 1)))
    species = np.zeros(replicas * n, int)
    of = jax.tree.map(jnp.asarray, Particles(species, masses, lists, replicas, bonded, cells))
    return Phase(jnp.asarray(q.reshape(-1, 3)), jnp.asarray(p)), of


def network(replicas):
    """Springs at rest between nearest and next nearest atoms of the same lattice, across the faces too."""
    offsets = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]])
    offsets = np.concatenate([offsets, offsets[3:] * [[1, -1, 1], [1, 1, -1], [1, 1, -1]]])
    grid = np.stack(np.meshgrid(*[np.arange(2)] * 3), -1).reshape(-1, 3)
    places = grid[:, None] + offsets
    number = {tuple(g): n for n, g in enumerate(grid)}
    other = np.array([number[tuple(g)] for g in (places % 2).reshape(-1, 3)])
    bonds = np.stack([np.repeat(np.arange(8), len(offsets)), other])
    lengths = np.tile(np.linalg.norm(offsets, axis=1), 8)
    stretch = np.stack([0 * lengths + 30.0, lengths, 0 * lengths])
    none = np.zeros((3, 0), int), np.zeros((2, 0, 3)), np.zeros((2, 0))
    one = Bonded(bonds, 2.0 * (places // 2).reshape(-1, 3), stretch, *none, 8)
    return crystal(replicas, 2, 1.0, bonded=join_bonds([one] * replicas))


def barostat(
    stiffness, pressure, compressibility, flexible=False, every=1, time=1.0, bonded=True, kT=KT, kind=Langevin
):
    map = Palindrome(Springs(stiffness), drifts=1, flow=BondedFlight(2) if bonded else FreeFlight())
    bath = kind(map, kT, 1.0, 3)
    return CellRescaling(bath, pressure, time, compressibility, every, flexible, 4)


@eqx.filter_jit
def path(map, z, of, h, strides):
    """States, memories and excursions after each stride."""

    def stride(carry, _):
        z, memory = carry
        z, memory, status = map.step(z, memory, h, of)
        kept = z, memory.cell, memory.heat, memory.accepted, status.excursion
        return (z, memory), kept

    return jax.lax.scan(stride, (z, map.begin(z, h, of)), length=strides)[1]


@pytest.mark.parametrize("flexible", [False, True])
def test_the_volumes_of_an_ideal_gas_have_a_gamma_distribution(flexible):
    """P(V) ∝ V^N exp(−PV/kT), at the end of 400 replicas, of which each has refused many moves."""
    z, of = crystal(400, 2, 3.0)
    map = barostat(0.0, 0.05, 20.0, flexible, time=0.4, bonded=False)
    _, cells, _, accepted, _ = path(map, z, of, jnp.asarray(0.1), 150)
    assert 0.3 < np.mean(accepted[-1]) / 150 < 0.97
    volumes = np.abs(np.linalg.det(cells[-1]))
    assert stats.kstest(volumes, stats.gamma(9, scale=KT / 0.05).cdf).pvalue > 1e-3
    shape = np.asarray(cells[-1]) / np.cbrt(volumes)[:, None, None]
    assert (np.abs(shape - np.eye(3)).max() > 0.1) == flexible


def test_the_heat_accounts_for_the_energy_and_the_total_momentum_is_kept():
    """H less the heat is conserved as well as Verlet conserves H: to second order in h."""
    spread = []
    z, of = network(10)
    strides = 100
    map = barostat(0.0, 3.0, 0.02, flexible=True)
    for h in (0.04, 0.02):
        states, cells, heat, _, _ = path(map, z, of, jnp.asarray(h), strides)

        def energies(q, p, cell):
            kinetic = jnp.sum(p**2 / (2 * of.masses[:, None]), 1)
            return jnp.sum(of.per_replica(map.potential(q, of.in_cells(cell)) + kinetic), 1)

        energy = jax.jit(jax.vmap(energies))(states.q, states.p, cells)
        spread.append(np.std(energy - heat - (energy - heat)[0]))
        assert np.std(energy - energy[0]) > 10 * spread[-1]
        total = np.asarray(states.p).reshape(strides, 10, 8, 3).sum(2)
        np.testing.assert_allclose(
            total, np.broadcast_to(np.asarray(z.p).reshape(10, 8, 3).sum(1), total.shape), atol=1e-11
        )
    assert 2.5 < spread[0] / spread[1] < 6


def test_the_virial_is_the_strain_derivative_of_neighbours_and_bonds():
    """Each replica with its own strain, by finite differences; bonds across the faces go along."""
    bonds = Bonded(
        np.array([[0, 1, 8], [7, 6, 15]]), np.array([[-2.0, -2, -2], [0, 0, 0], [0, -2, 0]]),
        np.array([[5.0] * 3, [1.0] * 3, [0, 2.0, 0]]), np.array([[1, 9], [2, 10], [3, 11]]),
        np.zeros((2, 2, 3)), np.array([[2.0] * 2, [1.8] * 2]), 16,
    )  # fmt: skip
    z, of = crystal(2, 2, 1.0, 1.0, bonds)
    map = Palindrome(Springs(20.0), drifts=1, flow=BondedFlight(1))
    energy, slope = jax.jit(partial(virial, map))(z.q, of)
    strain = np.random.default_rng(2).normal(size=(2, 3, 3))
    strain = strain + strain.swapaxes(1, 2)

    @jax.jit
    def strained(size):
        growth = np.eye(3) + size * strain
        q = (z.q.reshape(2, 8, 3) @ growth).reshape(-1, 3)
        by_atoms = map.potential(q, of.deformed(growth))
        return of.per_replica(by_atoms).sum(1)

    np.testing.assert_allclose(strained(0.0), energy, rtol=1e-14)
    difference = (strained(1e-5) - strained(-1e-5)) / 2e-5
    np.testing.assert_allclose(np.sum(slope * strain, (1, 2)), difference, rtol=1e-7)


def test_a_list_is_good_up_to_its_excursion_where_space_was_deformed():
    """Of pairs now within the cutoff, none is missed as long as the excursion is below half the skin."""
    rng, seen = np.random.default_rng(0), set()
    cell, q = 6 * np.eye(3), rng.uniform(0, 6, (80, 3))
    skin = 0.6
    built = neighbor_list(q, cell, np.ones(3, bool), CUTOFF, skin)
    for size in np.repeat(np.linspace(0.0, 0.4, 10), 3):
        strain = np.eye(3) + size * rng.uniform(-1, 0.3, 3) * np.eye(3)
        moved = q @ strain + rng.uniform(-0.1, 0.1, q.shape)
        now = built.deformed(strain[None])
        enough = float(now.excursion(jnp.asarray(moved))) <= skin / 2
        found = np.sum(
            np.where(now.mask, np.linalg.norm(now.vectors(jnp.asarray(moved)), axis=-1), 9) < CUTOFF
        )
        complete = found == neighbor_list(moved, cell @ strain, np.ones(3, bool), CUTOFF).mask.sum()
        assert complete or not enough
        seen.add((enough, bool(complete)))
    assert {(True, True), (False, False)} <= seen


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    network = NETWORK.model_copy(update={"cutoff": 3.4})
    return make_model(tmp_path_factory.mktemp("model") / "al.safetensors", network=network)


@pytest.fixture(scope="module")
def structure(tmp_path_factory):
    path = tmp_path_factory.mktemp("structure") / "al.xyz"
    ase_write(path, bulk("Al", cubic=True) * (2, 2, 2))
    return path


def settings(**changes):
    return RunSettings(**({
        "temperature_K": 300, "stride_fs": 8.0, "length_ps": 0.096, "chunk": 5, "skin": 1.0, "replicas": 2,
        "thermostat": "csvr", "barostat": "flexible", "barostat_ps": 0.16, "compressibility": 1e-6,
        "calculator": EMT_ENERGIES,
    } | changes))  # fmt: skip


@pytest.mark.filterwarnings("ignore:barostat. where the start is sheared")
def test_a_run_at_constant_pressure(model, structure, tmp_path):
    """Its cells are kept and its energies are those in them; stopped, it goes on to the same end. What is
    added to the model's own pressure makes the calculator's."""
    out, cut = tmp_path / "out", tmp_path / "cut"
    given = settings()
    run(model, structure, out, given)
    with pytest.raises(Stopped):
        run(model, structure, cut, given, stop)
    run(model, structure, cut, given)
    for k in range(2):
        t, again = (h5md.read(folder / f"{k:03d}.h5") for folder in (out, cut))
        for name in ("positions", "momenta", "energies", "heat", "cells"):
            np.testing.assert_array_equal(getattr(t, name), getattr(again, name), name)
        np.testing.assert_array_equal(t.cells[0], t.cell)
        assert 3 < len(np.unique(t.volumes)) <= 1 + 12 // 2
        atoms = bulk("Al", cubic=True) * (2, 2, 2)
        atoms.set_cell(t.cells[-1])
        atoms.positions = t.positions[-1]
        atoms.calc = EMT()
        assert t.energies[-1] == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
        assert np.abs(t.momenta.sum(1)).max() < 1e-11
    record = json.loads((out / "run.json").read_text())
    assert record["cell_moves"] == 6
    assert 0.3 < record["cell_moves_accepted"] <= 1
    loaded, start = load_model(model), read_start(structure, 1, draws=True)
    simulation = simulation_of(loaded, start, 16.0, 1.0)
    q = jnp.asarray(start.positions[0])
    _, slope = jax.jit(partial(virial, loaded.map))(q, simulation.particles(q))
    atoms = bulk("Al", cubic=True) * (2, 2, 2)
    atoms.calc = EMT()
    own = -float(jnp.trace(slope[0])) / 3 / atoms.get_volume() / BAR
    wanted = -atoms.get_stress()[:3].mean() / BAR
    assert abs(own - wanted) > 1000
    assert own + record["pressure_added_bar"] == pytest.approx(wanted, abs=100)


def test_energies_of_shear_that_are_wrong_are_told(model, structure):
    """Those of a network that has learned nothing, where the shape of the cell may change."""
    start = read_start(structure, 1, draws=True)

    def begin(path, barostat):
        plan = Plan.of(path, load_model(path), start, settings(barostat=barostat, replicas=1, stride_fs=None))
        return with_volume_energy(plan.simulation, start, EMT())

    begin(model, "isotropic")
    begin(LEARNED, "flexible")
    with pytest.warns(SymstrideWarning, match=r"sheared by 2 % the model's energies are 100 % off those"):
        begin(model, "flexible")


def test_pair_distributions_of_changing_cells():
    """Points at random, each frame in its own cell: g is one."""
    rng = np.random.default_rng(0)
    cells = np.linspace(8.0, 12.0, 40)[:, None, None] * np.eye(3)
    q = rng.random((40, 60, 3)) @ cells
    t = Trajectory(
        np.full(60, 13), np.ones(60), cells[0], np.ones(3, bool), np.arange(40.0), q, 0 * q, cells=cells
    )
    g = radial_distribution([t], bins=6)["Al-Al"]
    assert np.all(np.abs(g.value - 1)[2:] < 0.05)


def test_mean_volume_and_density_are_reported():
    lengths = 1 + 0.01 * np.sin(np.arange(20.0))
    atoms = bulk("Al", cubic=True)
    cells = lengths[:, None, None] * atoms.cell.array
    q = lengths[:, None, None] * atoms.positions
    system = atoms.numbers, atoms.get_masses(), cells[0], atoms.pbc
    t = Trajectory(*system, 10 * np.arange(20.0), q, 1.0 + q, cells=cells)
    sections, _ = summarise([t], temperature=300, stride_fs=10)
    assert sections["volume"]["A3_per_atom"] == pytest.approx(np.mean(lengths**3) * 4.05**3 / 4)
    assert sections["density"]["g_per_cm3"] == pytest.approx(2.698, rel=0.01)


def test_what_has_no_pressure(model, structure, tmp_path):
    for changes, message in (
        ({"thermostat": None}, "barostat: give a thermostat too"),
        ({"calculator": None}, "barostat: give a calculator too"),
        ({"pressure_bar": np.nan}, "pressure_bar: nan is not right"),
        ({"barostat": "andersen"}, "andersen is not right: isotropic or flexible"),
        ({"barostat_ps": 0.0}, "barostat_ps: 0.0 is not right"),
    ):
        with pytest.raises(ConfigError, match=message):
            settings(**changes)
    direct = make_model(tmp_path / "direct.safetensors", "direct")
    with pytest.raises(ConfigError, match="ParticleDirect: a map of this kind knows no potential energy"):
        run(direct, structure, tmp_path / "out", settings())
    slab = bulk("Al", cubic=True) * (2, 2, 2)
    slab.pbc = [True, True, False]
    ase_write(tmp_path / "slab.extxyz", slab)
    with pytest.raises(ConfigError, match="not periodic in all"):
        run(model, tmp_path / "slab.extxyz", tmp_path / "out", settings())
    assert not (tmp_path / "out" / "run.json").exists()
