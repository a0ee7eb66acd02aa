"""Bonds and angles: perceived, fitted, and flown."""

import warnings
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from hypothesis import given, settings
from hypothesis import strategies as st

from symstride.data import h5md
from symstride.data.bonds import perceive
from symstride.data.pairs import Pairs, on_device
from symstride.data.trajectory import Trajectory
from symstride.errors import DataError, ModelError, SymstrideWarning
from symstride.hamiltonians import water
from symstride.hamiltonians.bonded import join
from symstride.hamiltonians.forcefield import Bend, ForceField, Stretch
from symstride.hamiltonians.reference import reference
from symstride.maps.bonded import BondedFlight
from symstride.maps.flight import FreeFlight
from symstride.maps.palindrome import Palindrome
from symstride.maps.splitting import PotentialKicks
from symstride.measure.structure import reversal_error, symplectic_defect, thermal_scales
from symstride.model import MapConfig, Model, Scales, build_map, flight, load_model, save_model
from symstride.phase import Particles, Phase, bodies
from symstride.simulate.plan import simulation_of
from symstride.train.bonds import check_bonds, fit_bonds
from symstride.train.config import TrainConfig
from symstride.train.dressing import find_bonds
from symstride.train.loop import _warn_of_distances, train
from symstride.train.objective import _force
from symstride.units import FS

jax.config.update("jax_enable_x64", True)

OH, HOH = "H(O)-O(HH)", "H(O)-O(HH)-H(O)"
SPC = ForceField(
    bonds={OH: Stretch(stiffness=water.BOND, length=water.LENGTH)},
    angles={HOH: Bend(stiffness=water.BEND, angle=water.ANGLE)},
    residual=0.0,
)


def waters(molecules, seed=0):
    """Numbers, Hamiltonian and state of a periodic box."""
    system, z = water.lattice(jax.random.key(seed), round(molecules ** (1 / 3)))
    return np.tile([8, 1, 1], molecules), system, z


def terms(numbers, system, q, field=SPC):
    found = field.terms(
        numbers, np.asarray(q), np.eye(3) * (system.box or 0), [system.box is not None] * 3, ""
    )
    return jax.tree.map(jnp.asarray, found)


def seen(atoms: Atoms):
    return perceive(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, "here")


# ---- perception

ASPIRIN = Atoms(  # PubChem's conformer of CID 2244
    "O4C9H8",
    [
        (1.2333, 0.5540, 0.7792), (-0.6952, -2.7148, -0.7502), (0.7958, -2.1843, 0.8685),
        (1.7813, 0.8105, -1.4821), (-0.0857, 0.6088, 0.4403), (-0.7927, -0.5515, 0.1244),
        (-0.7288, 1.8464, 0.4133), (-2.1426, -0.4741, -0.2184), (-2.0787, 1.9238, 0.0706),
        (-2.7855, 0.7636, -0.2453), (-0.1409, -1.8536, 0.1477), (2.1094, 0.6715, -0.3113),
        (3.5305, 0.5996, 0.1635), (-0.1851, 2.7545, 0.6593), (-2.7247, -1.3605, -0.4564),
        (-2.5797, 2.8872, 0.0506), (-3.8374, 0.8238, -0.5090), (3.7290, 1.4184, 0.8593),
        (4.2045, 0.6969, -0.6924), (3.7105, -0.3659, 0.6426), (-0.2555, -3.5916, -0.7337),
    ],
)  # fmt: skip


def test_molecules_are_perceived():
    ethanol = seen(molecule("CH3CH2OH"))
    assert len(ethanol.bond_types) == 8
    assert len(ethanol.angle_types) == 13  # 6 about each carbon, one about the oxygen
    assert sorted(set(ethanol.bond_types)) == [
        "C(CHHH)-C(CHHO)", "C(CHHH)-H(C)", "C(CHHO)-H(C)", "C(CHHO)-O(CH)", "H(O)-O(CH)",
    ]  # fmt: skip
    aspirin = seen(ASPIRIN)
    assert len(aspirin.bond_types) == 21  # 20 and one to close the ring
    assert {"H(O)-O(CH)", "C(COO)-O(C)", "C(COO)-O(CC)"} <= set(aspirin.bond_types)
    assert len(set(seen(molecule("CH4")).angle_types)) == 1
    assert seen(molecule("H2")).angles.shape == (3, 0)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000), st.booleans())
def test_water_wherever_its_atoms_are(seed, wrapped):
    """Hydrogen bonds are none; whole, cut by the cell, or in far images."""
    numbers, system, z = waters(8, seed)
    rng = np.random.default_rng(seed)
    q, cell = np.asarray(z.q) + 5 * rng.normal(size=3), np.eye(3) * system.box
    q = q % system.box if wrapped else q + rng.integers(-2, 3, q.shape) * system.box
    found = perceive(numbers, q, cell, np.ones(3, bool), "here")
    assert found.bond_types == (OH,) * 16
    assert found.angle_types == (HOH,) * 8
    assert set(map(tuple, found.bonds.T)) == {(o, o + h) for o in range(0, 24, 3) for h in (1, 2)}
    np.testing.assert_allclose(found.lengths(q), water.LENGTH, atol=1e-9)
    energy = terms(numbers, system, q).potential(jnp.asarray(q))
    assert float(energy) == pytest.approx(0, abs=1e-9)


def test_a_shared_proton_has_one_bond():
    sites = [(0, 0, 0), (-0.6, 0.76, 0), (-0.6, -0.76, 0), (2.4, 0, 0), (3, 0, 0.76), (3, 0, -0.76)]
    zundel = Atoms("OHHOHHH", [*sites, (1.19, 0, 0)])
    assert sorted(map(tuple, seen(zundel).bonds.T)) == [(0, 1), (0, 2), (0, 6), (3, 4), (3, 5)]


@pytest.mark.parametrize(
    ("atoms", "reason"),
    [
        (bulk("Al", cubic=True) * 2, r"32 atoms \(Al\) are metallic"),
        (Atoms("Al4", [(0, 0, 0), (2.7, 0, 0), (0, 2.7, 0), (0, 0, 2.7)]), "metallic"),
        (bulk("Si", cubic=True), r"8 atoms \(Si\) are joined to their own periodic images"),
        (bulk("C"), "joined to their own periodic images"),
        (bulk("NaCl", "rocksalt", a=5.64), "metallic"),
        (bulk("Ar", cubic=True), None),
    ],
)
def test_crystals_and_metals_have_no_molecules(atoms, reason):
    found = seen(atoms)
    assert found.bonds.shape == (2, 0)
    assert found.angles.shape == (3, 0)
    t = trajectory(atoms.numbers, atoms.positions[None], atoms.cell.array, atoms.pbc)
    with pytest.warns(SymstrideWarning, match=f"no molecules.*{reason or 'no two atoms'}.*free flights"):
        assert fit_bonds([t]) is None


def test_water_on_a_metal_keeps_its_bonds():
    slab = bulk("Cu", cubic=True) * (2, 2, 1)
    slab.set_cell([7.22, 7.22, 20])
    above = molecule("H2O")
    above.translate([3, 3, 5])
    wet = slab + above
    assert seen(wet).bond_types == (OH, OH)


def test_a_molecule_cut_in_two_without_a_cell_is_told():
    cut = molecule("H2O")
    cut.positions[1] += [9.0, 0, 0]
    with pytest.warns(SymstrideWarning, match=r"atom 1 \(H\) is bonded to nothing.*give the cell"):
        found = seen(cut)
    with pytest.raises(
        DataError, match=r"bond O 0–H 2 is of type H\(O\)-O\(H\), which the model does not know"
    ):
        SPC.terms_of(found, "here")


# ---- the fit


def trajectory(numbers, positions, cell=None, pbc=False, forces=None):
    masses, times = Atoms(numbers).get_masses(), np.arange(len(positions), dtype=float)
    cell, pbc = np.zeros((3, 3)) if cell is None else cell, np.broadcast_to(np.asarray(pbc, bool), 3)
    forces = np.zeros_like(positions) if forces is None else forces
    return Trajectory(numbers, masses, cell, pbc, times, positions, 0 * positions, forces=forces)


def shaken(q, frames=12, width=0.04, seed=0):
    return np.asarray(q) + width * np.random.default_rng(seed).normal(size=(frames, *np.shape(q)))


def forces_of(potential, q):
    force = jax.jit(jax.grad(lambda q: potential(q)))
    return np.array([-force(frame) for frame in q])


@pytest.mark.parametrize(("part", "bond", "angle"), [("within", 1e-6, 1e-6), ("potential", 0.01, 0.15)])
def test_the_fit_recovers_bonds_and_angles(part, bond, angle):
    """Exactly from their own forces; beside those between molecules, the soft angles take some of these."""
    numbers, system, z = waters(27)
    q = shaken(z.q)
    data = trajectory(numbers, q, np.eye(3) * system.box, True, forces_of(getattr(system, part), q))
    fitted = fit_bonds([data])
    stretch, bend = fitted.bonds[OH], fitted.angles[HOH]
    assert stretch.steepness == 0
    assert stretch.stiffness == pytest.approx(water.BOND, rel=bond)
    assert stretch.length == pytest.approx(water.LENGTH, rel=bond)
    assert bend.stiffness == pytest.approx(water.BEND, rel=angle)
    assert bend.angle == pytest.approx(water.ANGLE, rel=angle / 5)


def test_morse_bonds_are_told_from_quadratic_ones():
    atoms = molecule("CH3CH2OH")
    found = seen(atoms)
    kinds = sorted(set(found.bond_types))
    bonds = {
        kind: Stretch(stiffness=20 + 5 * n, length=1.0 + 0.1 * n, steepness=1.5 + 0.2 * n)
        for n, kind in enumerate(kinds)
    }
    angles = {
        kind: Bend(stiffness=3 + 0.3 * n, angle=1.8 + 0.02 * n)
        for n, kind in enumerate(sorted(set(found.angle_types)))
    }
    true = ForceField(bonds=bonds, angles=angles, residual=0)
    q = shaken(atoms.positions, 60)
    fitted = fit_bonds(
        [trajectory(atoms.numbers, q, forces=forces_of(true.terms_of(found, "").potential, q))]
    )
    for kind in kinds:
        for name in ("stiffness", "length", "steepness"):
            assert getattr(fitted.bonds[kind], name) == pytest.approx(getattr(bonds[kind], name), rel=0.02)
    assert fitted.residual < 0.01


def test_a_bond_under_tension_is_quadratic():
    """With Morse's potential of its curvature there no length would have so strong a pull."""
    stiffness, steepness, tension = 15.0, 4.0, 4.0
    mean = 0.75
    x = np.linspace(-0.03, 0.03, 40)
    q = np.zeros((len(x), 2, 3))
    q[:, 1, 0] = mean + x
    e = np.exp(-steepness * x)
    pull = (stiffness * (1 - e) * e / steepness + tension)[:, None] * [1.0, 0, 0]
    fitted = fit_bonds([trajectory(np.array([1, 1]), q, forces=np.stack([pull, -pull], 1))])
    (found,) = fitted.bonds.values()
    assert found.steepness == 0
    assert found.stiffness == pytest.approx(stiffness, rel=0.1)
    assert found.length == pytest.approx(mean - tension / stiffness, rel=0.1)


def test_what_the_angles_of_a_carbon_leave_open_does_no_harm():
    """The six angles of methane add up: their common equilibrium is not determined; the forces are."""
    atoms, kinds = molecule("CH4"), ("C(HHHH)-H(C)", "H(C)-C(HHHH)-H(C)")
    true = ForceField(
        bonds={kinds[0]: Stretch(stiffness=30, length=1.09)},
        angles={kinds[1]: Bend(stiffness=2, angle=np.radians(109.47))},
        residual=0,
    )
    q = shaken(atoms.positions, 40)
    fitted = fit_bonds(
        [trajectory(atoms.numbers, q, forces=forces_of(true.terms_of(seen(atoms), "").potential, q))]
    )
    assert fitted.residual < 1e-3
    assert fitted.angles[kinds[1]].stiffness == pytest.approx(2, rel=0.02)


def test_a_bond_that_breaks_is_left_out_by_name():
    numbers, system, z = waters(8)
    q = shaken(z.q)
    q[7:, 4] += [0.0, 0.0, 1.2]
    data = trajectory(numbers, q, np.eye(3) * system.box, True, forces_of(system.within, q))
    said = r"H\(O\)-O\(HH\) is left out: bond O 3–H 4 breaks in .*, frame 7.*none are left.*free flights"
    with pytest.warns(SymstrideWarning, match=said):
        assert fit_bonds([data]) is None


def test_other_bonds_stay_when_one_breaks():
    """Ethanol's hydroxyl hydrogen leaves; the model knows its type as one without terms."""
    atoms = molecule("CH3CH2OH")
    found = seen(atoms)
    q = shaken(atoms.positions, 40)
    broken = next(
        j if atoms.numbers[j] == 1 else i
        for (i, j), t in zip(found.bonds.T, found.bond_types, strict=True)
        if t == "H(O)-O(CH)"
    )
    q[20:, broken] *= 3
    field = ForceField(
        bonds={t: Stretch(stiffness=30, length=1.2) for t in found.bond_types},
        angles={t: Bend(stiffness=3, angle=1.9) for t in found.angle_types},
        residual=0,
    )
    with pytest.warns(SymstrideWarning, match=r"H\(O\)-O\(CH\) is left out"):
        fitted = fit_bonds(
            [trajectory(atoms.numbers, q, forces=forces_of(field.terms_of(found, "").potential, q))]
        )
    assert set(fitted.bonds) == set(found.bond_types) - {"H(O)-O(CH)"}
    assert fitted.terms_of(found, "here").bonds.shape == (2, 7)


def test_constrained_bonds_are_refused():
    numbers, system, z = waters(8)
    moved = np.asarray(z.q) + np.arange(5)[:, None, None] * 0.1
    with pytest.raises(DataError, match=r"bond O 0–H 1 keeps its length.*rigidWater=False, constraints=None"):
        fit_bonds([trajectory(numbers, moved, np.eye(3) * system.box, True)])


def test_all_data_are_looked_at_for_constraints_and_known_bonds_that_break():
    """Also where drifts are free, or bonds were fitted before."""
    numbers, system, z = waters(8)
    cell = np.eye(3) * system.box
    rigid = np.asarray(z.q) + np.arange(5)[:, None, None] * 0.1
    with pytest.raises(DataError, match="keeps its length"):
        check_bonds([trajectory(numbers, rigid, cell, True)])
    q = shaken(z.q)
    with warnings.catch_warnings(action="error"):
        check_bonds([trajectory(numbers, q, cell, True)], SPC)
    q[7:, 4] += [0.0, 0.0, 1.2]
    with pytest.warns(SymstrideWarning, match=r"bond O 3–H 4 breaks in .*, frame 7.*the terms stay"):
        check_bonds([trajectory(numbers, q, cell, True)], SPC)


def test_wrapped_positions_are_told():
    numbers, system, z = waters(8)
    q = shaken(z.q)
    q[5:, 10] -= [system.box, 0, 0]
    with pytest.raises(DataError, match=r"H 10 is .* in frame 5, longer than half the cell.*unwrapped"):
        fit_bonds([trajectory(numbers, q, np.eye(3) * system.box, True)])


def test_straight_angles_have_no_terms():
    atoms = molecule("CO2")
    q = shaken(atoms.positions, 40)
    with pytest.warns(SymstrideWarning, match="opens to"):
        fitted = fit_bonds([trajectory(atoms.numbers, q, forces=30 * (atoms.positions - q))])
    assert not fitted.angles


# ---- the Hamiltonian and its flow


def heavy(numbers):
    return np.where(numbers == 1, 2.014, Atoms(numbers).get_masses())


def test_forces_are_those_of_the_molecules():
    numbers, system, z = waters(8)
    q = jnp.asarray(shaken(z.q, 1)[0])
    force = terms(numbers, system, q).force(q)
    np.testing.assert_allclose(force, -jax.grad(system.within)(q), atol=1e-10)


def test_forces_have_derivatives():
    numbers, system, z = waters(8)
    q, v = jnp.asarray(shaken(z.q, 2))
    of = terms(numbers, system, q)
    ours, true = (jax.grad(lambda q, f=f: jnp.sum(f(q) ** 2))(q) for f in (of.force, jax.grad(system.within)))
    np.testing.assert_allclose(ours, true, rtol=1e-9, atol=1e-9)
    forward = jax.jvp(of.force, (q,), (v,))[1]
    np.testing.assert_allclose(
        forward, jax.jvp(jax.grad(system.within), (q,), (-v,))[1], rtol=1e-9, atol=1e-7
    )


@pytest.fixture(scope="module")
def box():
    """Eight waters at 300 K, shaken a little, and what a map must know of them."""
    numbers, system, z = waters(8)
    return numbers, system, Phase(jnp.asarray(shaken(z.q, 1, 0.02)[0]), z.p)


def with_terms(numbers, system, z, masses=None):
    of = bodies(system.masses if masses is None else masses)
    return Particles(of.species, of.masses, of.neighbors, 1, terms(numbers, system, z.q))


@pytest.mark.parametrize("mass", [lambda n: Atoms(n).get_masses(), heavy])
def test_the_flight_is_that_of_the_bonds(box, mass):
    """Against a Runge–Kutta solution of order eight; order two in the inner step. Light and heavy."""
    numbers, system, z = box
    of = with_terms(numbers, system, z, mass(numbers))
    time = 4 * FS

    class Molecules(water.Water):
        def potential(self, q):
            return self.within(q)

    exact = reference(Molecules(of.masses, system.box, system.cutoff), z, [time])
    errors = []
    for steps in (8, 16):
        end, _ = eqx.filter_jit(BondedFlight(steps))(z, time, of)
        errors.append(float(jnp.abs(end.q - exact.q[0]).max()))
    assert errors[1] < 1e-3
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.2)


def respa(box, masses=None):
    numbers, system, z = box

    class Slow(water.Water):
        def potential(self, q):
            return self.between(q)

    slow = Slow(system.masses, system.box, system.cutoff)
    return Palindrome(PotentialKicks(slow), drifts=1, flow=BondedFlight(8)), with_terms(
        numbers, system, z, masses
    )


def test_kicks_of_the_slow_forces_make_it_respa(box):
    """Against a loop of its own in numpy."""
    _, system, z = box
    one, of = respa(box)
    h, n, m = 2 * FS, 8, np.asarray(of.masses)[:, None]
    slow, fast = (jax.jit(jax.grad(f)) for f in (system.between, system.within))
    q, p = np.asarray(z.q), np.asarray(z.p)
    ours = z
    for _ in range(3):
        ours, _ = eqx.filter_jit(one)(ours, h, of)
        p = p - h / 2 * slow(q)
        for _ in range(n):
            q = q + h / n / 2 * p / m
            p = p - h / n * fast(q)
            q = q + h / n / 2 * p / m
        p = p - h / 2 * slow(q)
    np.testing.assert_allclose(ours.q, q, atol=1e-12)
    np.testing.assert_allclose(ours.p, p, atol=1e-11)


@pytest.mark.parametrize("drifts", [1, 2])
def test_symplectic_reversible_and_odd(box, drifts):
    _, _, z = box
    one, of = respa(box)
    one, h = Palindrome(one.kicks, drifts, flow=one.flow), 4 * FS
    compiled = eqx.filter_jit(one)

    def step(q, p):
        end, _ = one(Phase(q, p), h, of)
        return end.q, end.p

    def advance(q, p, n):
        for _ in range(n):
            end, _ = compiled(Phase(jnp.asarray(q), jnp.asarray(p)), jnp.asarray(h), of)
            q, p = end.q, end.p
        return q, p

    assert symplectic_defect(step, z.q, z.p, thermal_scales(of.masses, 300, 4)) < 1e-11
    assert reversal_error(advance, z.q, z.p, 20).largest < 1e-10
    q, p = advance(z.q, z.p, 1)
    back, _ = compiled(Phase(q, p), jnp.asarray(-h), of)
    np.testing.assert_allclose(back.q, z.q, atol=1e-12)
    q, p = advance(z.q, z.p, 50)
    np.testing.assert_allclose(p.sum(axis=0), z.p.sum(axis=0), atol=1e-12)


def test_replicas_side_by_side(box):
    numbers, system, z = box
    other = Phase(z.q + 3.0, -z.p)
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), z, other)
    parts = [SPC.terms(numbers, np.asarray(x.q), np.eye(3) * system.box, [True] * 3, "") for x in (z, other)]
    of = bodies(jnp.tile(system.masses, 2), 2)
    of = Particles(of.species, of.masses, of.neighbors, 2, jax.tree.map(jnp.asarray, join(parts)))
    end, _ = eqx.filter_jit(BondedFlight(4))(both, 1 * FS, of)
    for k, start in enumerate((z, other)):
        alone, _ = eqx.filter_jit(BondedFlight(4))(start, 1 * FS, with_terms(numbers, system, start))
        np.testing.assert_allclose(end.q[24 * k : 24 * k + 24], alone.q, atol=1e-12)


# ---- models


NETWORK = {"radial": 4, "channels": 4, "products": 4, "hidden": 8, "cutoff": 3.0, "nearest": 0.7}
SCHEDULE = {"force_steps": 20, "steps": 20, "validate_every": 20, "validation_frames": 4, "frames": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two short trajectories of eight waters by velocity Verlet of 0.5 fs, a frame each 2 fs."""
    folder = tmp_path_factory.mktemp("waters")
    for seed in range(2):
        numbers, system, z = waters(8, seed)
        force, m = jax.jit(lambda q, system=system: system.force(q)), np.asarray(system.masses)[:, None]
        q, p, h, frames = np.asarray(z.q), np.asarray(z.p), 0.5 * FS, []
        f = np.asarray(force(q))
        for n in range(241):
            if n % 4 == 0:
                frames.append((q, p, f))
            p = p + h / 2 * f
            q = q + h * p / m
            f = np.asarray(force(q))
            p = p + h / 2 * f
        q, p, f = (np.array(x) for x in zip(*frames, strict=True))
        cell, times = np.eye(3) * system.box, 2.0 * np.arange(len(q))
        energies = np.zeros(len(q))
        t = Trajectory(
            numbers, m[:, 0], cell, np.ones(3, bool), times, q, p, energies, f, {"temperature_K": 300}
        )
        h5md.write(folder / f"{seed}.h5", t)
    return folder


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    """Trained for a little."""
    path = tmp_path_factory.mktemp("models") / "water.safetensors"
    changes = {"drift": "bonded", "inner_fs": 0.5, "drifts": 1}
    settings = {"kind": "explicit", "strides_fs": [4], "network": NETWORK, "precision": "float64"} | changes
    config = dict(data=[f"{data}/*.h5"], map=settings, schedule=SCHEDULE, output=path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SymstrideWarning)  # frames too few for a spectrum
        return path, train(TrainConfig.model_validate(config))


def test_a_model_with_bonds_learns_and_is_read_again(model):
    path, model = model
    first, *_, last = model.provenance["history"]
    assert last["force_error"] < first["force_error"] < 0.5  # without bonds it begins at 1
    assert last["strides_fs"]["4"]["momentum"] < 0.3
    assert model.bonded.bonds[OH].stiffness == pytest.approx(
        water.BOND, rel=0.01
    )  # though pulled from without
    again = load_model(path)
    assert again.bonded == model.bonded
    assert again.map.flow == BondedFlight(8)
    assert jax.tree.structure(again.map) == jax.tree.structure(model.map)


def test_networks_that_do_not_reach_the_closest_atoms_are_told(data):
    pairs = Pairs([h5md.read(data / "0.h5")], (4.0,), (1, 8), 3.0, SPC)
    batch = on_device(pairs.batch(np.random.default_rng(0), 1))
    settings = {"kind": "explicit", "strides_fs": [4], "shared": False}
    config = MapConfig.model_validate(settings | {"network": {"nearest": 0.8}, "outer": {"nearest": 1.5}})
    with pytest.warns(SymstrideWarning, match=r"map.outer.nearest is 1.5 Å.* close as 0.9.*nearest: 0.[89]"):
        _warn_of_distances(config, batch)
    _warn_of_distances(MapConfig.model_validate(settings | {"network": {"nearest": 0.8}, "outer": {}}), batch)


@pytest.mark.parametrize("kind", ["explicit", "s3"])
def test_forces_of_a_map_are_learned_ones_and_those_of_bonds(data, kind, tmp_path):
    """What training compares with reference forces is what a short stride pushes with."""
    wanted = {"drift": "bonded"} if kind == "explicit" else {"dressing": "bonded", "tolerance": 1e-10}
    wanted |= {"kind": kind, "strides_fs": [4], "network": NETWORK, "precision": "float64"}
    config = MapConfig.model_validate(wanted)
    pairs = Pairs([h5md.read(data / "0.h5")], (4.0,), (1, 8), 3.0, SPC)
    batch = on_device(pairs.batch(np.random.default_rng(0), 1))
    scales = Scales(energy=0.5, length=0.1, stride_unit=0.2, temperature=300)
    built = build_map(config, scales, (1, 8), jax.random.key(0))
    rest, h = Phase(batch.start.q, jnp.zeros_like(batch.start.p)), jnp.full(24, 1e-4)
    pushed, status = eqx.filter_jit(built)(rest, h, batch.particles)
    assert status.converged.all()
    expected = eqx.filter_jit(_force)(built, batch)
    assert expected is not None
    assert float(jnp.abs(expected - batch.particles.bonded.force(rest.q)).max()) > 1e-3
    np.testing.assert_allclose(pushed.p / 1e-4, expected, atol=1e-4)
    save_model(Model(built, config, scales, (1, 8), {}, bonded=SPC), tmp_path / kind)
    assert load_model(tmp_path / kind).bonded == SPC


def test_a_run_finds_the_bonds_of_another_size(model):
    """Of 27 waters; another molecule is refused by its type."""
    _, model = model
    numbers, system, z = waters(27)
    one = trajectory(numbers, np.asarray(z.q)[None], np.eye(3) * system.box, True)
    simulation = simulation_of(model, one, 4.0, 1.0)
    rest = np.asarray(z.q) + 0.01
    assert simulation.bonded.bonds.shape == (2, 54)
    assert np.abs(simulation.forces(jnp.asarray(rest))).max() < 5
    peroxide = molecule("H2O2")
    other = trajectory(peroxide.numbers, peroxide.positions[None])
    with pytest.raises(
        DataError, match=r"bond .* is of type .*, which the model does not know \(H\(O\)-O\(HH\)\)"
    ):
        simulation_of(model, other, 4.0, 1.0)


def test_the_header_is_validated(model, tmp_path):
    path, model = model
    broken = tmp_path / "broken.safetensors"
    save_model(replace(model, bonded=None), broken)
    with pytest.raises(ModelError, match="asks for bonds and angles, and it has none"):
        load_model(broken)
    text = path.read_bytes()
    place = text.index(b'\\"stiffness\\": ') + len(b'\\"stiffness\\": ')
    for wrong in (b"-", b"N"):
        broken.write_bytes(text[:place] + wrong + text[place + 1 :])
        with pytest.raises(ModelError, match="not a readable model"):
            load_model(broken)


def test_without_molecules_the_drift_is_free():
    crystal = bulk("Al", cubic=True)
    data = [trajectory(crystal.numbers, crystal.positions[None], crystal.cell.array, True)]
    for wanted in ({"kind": "explicit", "drift": "bonded"}, {"kind": "s3", "dressing": "bonded"}):
        with pytest.warns(
            SymstrideWarning, match=r"no molecules in the data \(4 atoms \(Al\) are metallic\)"
        ):
            config, field = find_bonds(MapConfig.model_validate(wanted | {"strides_fs": [4]}), data, None)
        assert field is None
        assert flight(config) == FreeFlight()


def test_only_maps_with_drifts_have_bonded_ones():
    with pytest.raises(ValueError, match="a map of kind s3 has no drifts: give `dressing: bonded`"):
        MapConfig.model_validate({"kind": "s3", "strides_fs": [4], "drift": "bonded"})


def test_systems_of_unlike_bonds_make_batches_of_one_shape():
    """Ethanol and dimethyl ether: the same atoms, other bonds."""
    made = []
    for name in ("CH3CH2OH", "CH3OCH3"):
        atoms = molecule(name)
        q = shaken(atoms.positions, 40, 0.03)
        made.append(trajectory(atoms.numbers, q, forces=-0.1 * (q - atoms.positions)))
    found = [seen(molecule(name)) for name in ("CH3CH2OH", "CH3OCH3")]
    field = ForceField(
        bonds={t: Stretch(stiffness=30, length=1.2) for f in found for t in f.bond_types},
        angles={t: Bend(stiffness=3, angle=1.9) for f in found for t in f.angle_types},
        residual=0,
    )
    pairs = Pairs(made, (1.0,), (1, 6, 8), 3.0, field)
    shapes, rng = set(), np.random.default_rng(0)
    for _ in range(4):
        batch = on_device(pairs.batch(rng, 2))
        shapes.add(str(jax.tree.map(jnp.shape, batch.particles.bonded)))
        force = batch.particles.bonded.force(batch.start.q)
        assert jnp.isfinite(force).all()
        for k in range(2):
            own = slice(9 * k, 9 * k + 9)
            which = np.argmin(
                [np.abs(t.positions - np.asarray(batch.start.q[own])).max((1, 2)).min() for t in made]
            )
            alone = field.terms_of(found[which], "").force(batch.start.q[own])
            np.testing.assert_allclose(force[own], alone, atol=1e-10)
    assert len(shapes) == 1
