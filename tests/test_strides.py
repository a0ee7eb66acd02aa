"""Strides of a system that an engine owns: those of a run, however the engine wraps, holds or deforms it."""

import re
import warnings
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import units
from ase.build import bulk

from symstride.errors import ConfigError, SimulationError, SymstrideWarning
from symstride.hamiltonians import water
from symstride.hamiltonians.forcefield import Bend, ForceField, Stretch
from symstride.model import MapConfig, Model, NetworkConfig, Scales, build_map, load_model
from symstride.phase import Phase
from symstride.simulate.parts import taken_apart
from symstride.simulate.plan import simulation_of
from symstride.simulate.start import Start
from symstride.simulate.strides import Strides

jax.config.update("jax_enable_x64", True)

SHIPPED = Path(__file__).parents[1] / "models" / "aluminium-explicit.safetensors"
NETWORK = NetworkConfig(cutoff=3.5, nearest=0.8, radial=4, channels=4, products=4, hidden=8, layers=1)
SPC = ForceField(
    bonds={"H(O)-O(HH)": Stretch(stiffness=water.BOND, length=water.LENGTH)},
    angles={"H(O)-O(HH)-H(O)": Bend(stiffness=water.BEND, angle=water.ANGLE)},
    residual=0.0,
)
CHARGES = {"O": -0.82, "H": 0.41}


def model_of(elements, kind="explicit", bonded=None, **changes):
    given = {"kind": kind, "strides_fs": (2.0, 8.0), "network": NETWORK, "precision": "float64"}
    config = MapConfig(**given | changes)
    scales = Scales(energy=1e-3, length=0.3, stride_unit=0.1, temperature=300.0)
    return Model(
        build_map(config, scales, elements, jax.random.key(1)), config, scales, elements, {}, None, bonded
    )


def aluminium():
    atoms = bulk("Al", cubic=True) * (2, 2, 2)
    rng = np.random.default_rng(0)
    p = rng.normal(size=(32, 3)) * np.sqrt(27 * units.kB * 300)
    q = atoms.positions + 0.1 * rng.normal(size=p.shape)
    return Start(
        atoms.numbers, atoms.get_masses(), atoms.cell.array, atoms.pbc, q[None], p[None], 300.0, "here"
    )


def waters():
    system, z = water.lattice(jax.random.key(0), 2)
    cell, pbc = np.eye(3) * system.box, np.ones(3, bool)
    masses = np.tile([15.999, 1.008, 1.008], 8)
    return Start(
        np.tile([8, 1, 1], 8), masses, cell, pbc, np.asarray(z.q)[None], np.asarray(z.p)[None], 300.0, "here"
    )


CASES = {
    "s3": (lambda: model_of((13,), "s3", tolerance=1e-9), aluminium, 8.0),
    "bonds and charges": (lambda: model_of((1, 8), drift="bonded", bonded=SPC, charges=CHARGES), waters, 2.0),
}


@pytest.mark.parametrize("case", CASES)
def test_strides_of_a_run_whoever_wraps_the_atoms(case):
    make, begin, h = CASES[case]
    model, start = make(), begin()
    simulation = simulation_of(model, start, h, 2.0)
    z = Phase(jnp.asarray(start.positions[0]), jnp.asarray(start.momenta[0]))
    wanted, _, tally = simulation.advance(z, None, 6)
    held, wrapped = Strides(model, start, h), Strides(model, start, h)
    q1, p1 = q2, p2 = start.positions[0], start.momenta[0]
    rng = np.random.default_rng(1)
    for _ in range(6):
        q1, p1 = held.advance(q1, p1, start.cell)
        q2, p2 = wrapped.advance(q2 + rng.integers(-2, 3, q2.shape) @ start.cell, p2, start.cell)
    apart = (q2 - wanted.q) @ np.linalg.inv(start.cell)
    tolerance = 1e-7 if case == "s3" else 1e-11  # other first guesses
    np.testing.assert_allclose(q1, wanted.q, atol=tolerance)
    np.testing.assert_allclose(p1, wanted.p, atol=tolerance)
    np.testing.assert_allclose(apart, np.round(apart), atol=tolerance)
    np.testing.assert_allclose(p2, wanted.p, atol=tolerance)
    if case != "s3":
        assert held.gradients == int(tally.gradients[0]) == 12  # forces of the last stride begin the next
        assert wrapped.gradients == 12 + 5


def test_no_skin_and_no_wrapping_changes_a_trajectory():
    """Atoms of a sheared cell go through its faces, and lists are found anew many times, or hardly ever."""
    start, model = aluminium(), model_of((13,))
    shear = np.eye(3) + 0.15 * np.array([[0, 0, 0], [1, 0, 0], [-1, 1, 0]])
    cell, begun = start.cell @ shear, start.positions[0] @ shear
    start = replace(start, cell=cell, positions=begun[None])
    ends = []
    for skin, wrapped in ((0.3, False), (0.3, True), (4.0, True)):
        strides = Strides(model, start, 8.0, skin=skin)
        q, p, kinetic = begun, 2 * start.momenta[0], []
        for _ in range(20):
            if wrapped:
                q = q - np.floor(q @ np.linalg.inv(cell)) @ cell
            q, p = strides.advance(q, p, cell, 4)
            kinetic.append(np.sum(p**2 / start.masses[:, None]) / 2)
        ends.append((q, p, np.array(kinetic)))
    q, p, kinetic = ends[0]
    assert np.abs(np.floor(q @ np.linalg.inv(cell)) - np.floor(begun @ np.linalg.inv(cell))).max() >= 1
    assert np.abs(q - begun).max() > 6 * 0.3
    assert np.ptp(kinetic) > 1e-6
    for other in ends[1:]:
        apart = (other[0] - q) @ np.linalg.inv(cell)
        np.testing.assert_allclose(apart, np.round(apart), atol=1e-9)
        np.testing.assert_allclose(other[1], p, atol=1e-9)
        np.testing.assert_allclose(other[2], kinetic, atol=1e-9)


def test_molecules_stay_whole_wherever_they_are_shifted():
    """Half a cell on, atoms of one molecule would not round to the same image."""
    make, begin, h = CASES["bonds and charges"]
    model, start = make(), begin()
    plain, shifted = Strides(model, start, h), Strides(model, start, h)
    q1, p1 = q2, p2 = start.positions[0], start.momenta[0]
    far = np.zeros_like(q1)
    rng = np.random.default_rng(0)
    for shift in ([0.5, 0.49, -0.52], [1.3, 0, 0], [0.5, 0.5, 0.5]):
        q1, p1 = plain.advance(q1, p1, start.cell)
        far = far + np.array(shift) @ start.cell
        q2, p2 = shifted.advance(q2 + np.array(shift) @ start.cell, p2, start.cell)
        np.testing.assert_allclose(q2 - far, q1, atol=1e-10)
        np.testing.assert_allclose(p2, p1, atol=1e-10)
    molecules = q1.reshape(8, 3, 3)
    places = molecules.mean(axis=1, keepdims=True)  # each molecule to that of another
    apart = (molecules - places + np.roll(places, 3, axis=0)).reshape(-1, 3)
    torn = apart + rng.integers(-1, 2, apart.shape) @ start.cell
    fields = start.numbers, start.masses, start.cell, start.pbc, apart[None], p1[None], 300.0, "here"
    (_, a), (_, b) = (
        strides.advance(q, 0 * p1, start.cell)
        for strides, q in ((Strides(model, Start(*fields), h), apart), (plain, torn))
    )
    np.testing.assert_allclose(a, b, atol=1e-8)


def test_a_deformed_cell_is_the_system_begun_there():
    make, begin, h = CASES["bonds and charges"]
    model, start = make(), begin()
    strides = Strides(model, start, h)
    q, p = strides.advance(start.positions[0], start.momenta[0], start.cell)
    strain = np.eye(3) + 0.02 * np.array([[1, 0.5, 0], [0, -1, 0.3], [0, 0, 0.5]])
    got = strides.advance(q @ strain, p, start.cell @ strain, 2)
    fields = start.numbers, start.masses, start.cell @ strain, start.pbc
    anew = Strides(model, Start(*fields, (q @ strain)[None], p[None], 300.0, "here"), h)
    for a, b in zip(got, anew.advance(q @ strain, p, start.cell @ strain, 2), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-11)


def test_a_stride_that_fails_leaves_all_as_it_was():
    model, start = model_of((13,)), aluminium()
    strides = Strides(model, start, 8.0)
    q, p = strides.advance(start.positions[0], start.momenta[0], start.cell)
    with pytest.raises(SimulationError, match=r"moved .* Å within it"):
        strides.advance(q, 1000 * p, start.cell)
    with pytest.raises(SimulationError, match="momenta: hold NaN"):
        strides.advance(q, np.nan * p, start.cell)
    with pytest.raises(SimulationError, match=r"moved .* Å within it"):  # elsewhere, in another cell
        strides.advance(1.01 * q + 0.1, 1000 * p, 1.01 * start.cell)
    assert (strides.strides, strides.gradients) == (1, 2)
    again = Strides(model, start, 8.0)
    again.advance(start.positions[0], start.momenta[0], start.cell)
    np.testing.assert_array_equal(strides.advance(q, p, start.cell), again.advance(q, p, start.cell))


def test_strides_look_where_they_lead():
    model, start = load_model(SHIPPED), aluminium()
    q, p, cell = start.positions[0], start.momenta[0], start.cell

    def told(momenta, strides, **settings):
        """Warnings of so many strides, one by one, and where they ended."""
        given = Strides(model, start, **settings)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            at = q, momenta
            for _ in range(strides):
                at = given.advance(*at, cell)
        assert given.beyond == (strides if momenta is not p else 0)
        return [str(w.message) for w in seen if issubclass(w.category, SymstrideWarning)], at

    assert told(p, 8)[0] == []
    (warning,), fast = told(2 * p, 5)
    assert re.match(r"stride 1 led where atoms are unlike the training data, at \d.* % is to be", warning)
    stopping = Strides(model, start, guard="stop")
    stopping.advance(q, p, cell, 3)
    with pytest.raises(SimulationError, match="stride 4 of 32 fs leads where atoms are unlike"):
        stopping.advance(q, 2 * p, cell)
    assert stopping.strides == 3
    (_,), slow = told(2 * p, 5, guard="substep")
    assert 1e-4 < abs(slow[0] - fast[0]).max() < 0.1  # of the 2 Å that they went
    with pytest.raises(ConfigError, match="guard: halt is not right: warn, stop or substep"):
        Strides(model, start, guard="halt")
    with pytest.raises(ConfigError, match="guard: stop has nothing to go by: the model cannot tell"):
        Strides(model_of((13,)), start, 8.0, guard="stop")


def test_what_no_engine_can_run():
    with pytest.raises(ConfigError, match="without a processor"):
        Strides(model_of((13,), processor=NETWORK), aluminium())
    with pytest.raises(ConfigError, match="trained for 2 to 8 fs"):
        Strides(model_of((13,)), aluminium(), 16.0)


def test_a_map_taken_apart_is_itself_and_the_same_program_for_others_alike():
    map, other, s3 = (model_of((13,), kind=k).map for k in ("explicit", "explicit", "s3"))
    structure, arrays = taken_apart(map)
    whole = structure.with_arrays(arrays)
    assert jax.tree.structure(whole) == jax.tree.structure(map)
    assert all(a is b for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(map), strict=True))
    again, unlike = taken_apart(other)[0], taken_apart(s3)[0]
    assert structure == again
    assert hash(structure) == hash(again)
    assert structure != unlike
    softer = replace(map.kicks, energy=2 * map.kicks.energy)  # is no array, and so a part of the program
    assert taken_apart(replace(map, kicks=softer))[0] != structure
