"""Strides as ASE's molecular dynamics: the trajectories of the library, whatever ASE does about them."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixBondLength, FixCom, FixSubsetCom, Hookean
from ase.io import Trajectory, read
from ase.md import MDLogger
from ase.md.velocitydistribution import ZeroRotation

from symstride.data.config import CalculatorConfig
from symstride.engines.ase import CSVR, NPT, NVE, Langevin
from symstride.errors import ConfigError, SimulationError, SymstrideWarning
from symstride.model import MapConfig, Model, NetworkConfig, Scales, build_map, save_model
from symstride.phase import Phase
from symstride.simulate.plan import Plan, simulation_of
from symstride.simulate.pressure import with_volume_energy
from symstride.simulate.settings import RunSettings
from symstride.simulate.start import start_of

jax.config.update("jax_enable_x64", True)
FS = units.fs
CONFIG = MapConfig(
    kind="explicit",
    strides_fs=(4.0, 8.0),
    network=NetworkConfig(cutoff=3.4, nearest=0.8, radial=4, channels=4, products=4, hidden=8, layers=1),
    precision="float64",
)
SCALES = Scales(energy=0.3, length=0.3, stride_unit=0.1, temperature=300.0)


class Counting(EMT):
    """Counts how often it is asked."""

    calls = 0

    def calculate(self, *arguments):
        self.calls += 1
        super().calculate(*arguments)


@pytest.fixture(scope="module")
def model():
    return Model(build_map(CONFIG, SCALES, (13,), jax.random.key(1)), CONFIG, SCALES, (13,), {})


@pytest.fixture
def atoms():
    atoms = bulk("Al", cubic=True) * (2, 2, 2)
    rng = np.random.default_rng(0)
    p = rng.normal(size=(32, 3)) * np.sqrt(27 * units.kB * 100)
    atoms.set_momenta(p - p.mean(axis=0))
    atoms.positions += 0.03 * rng.normal(size=p.shape)
    return atoms


def native(model, atoms, strides):
    """Positions and momenta after so many strides of 8 fs."""
    z = Phase(jnp.asarray(atoms.get_positions()), jnp.asarray(atoms.get_momenta()))
    z, _, _ = simulation_of(model, start_of(atoms), 8.0, 2.0).advance(z, None, strides)
    return np.asarray(z.q), np.asarray(z.p)


def same(atoms, wanted, tolerance=1e-10):
    np.testing.assert_allclose(atoms.positions, wanted[0], atol=tolerance, rtol=0)
    np.testing.assert_allclose(atoms.get_momenta(), wanted[1], atol=tolerance, rtol=0)


def test_constant_energy_is_the_native_loop(model, atoms, tmp_path):
    wanted = native(model, atoms, 10)
    save_model(model, tmp_path / "al.safetensors")
    dynamics = NVE(atoms, tmp_path / "al.safetensors")  # the longest stride
    seen = []
    dynamics.attach(lambda: seen.append(dynamics.nsteps), interval=5)
    atoms.calc = Counting()
    began = atoms.positions.copy()
    dynamics.run(4)
    assert [done for done in dynamics.irun(6)] == [False] * 6 + [True]
    same(atoms, wanted)
    assert np.abs(atoms.positions - began).max() > 0.05
    assert seen == [0, 5, 10]
    assert atoms.calc.calls == 0
    assert dynamics.nsteps == 10
    assert dynamics.get_time() == pytest.approx(80 * FS)


@pytest.mark.parametrize("left", [False, True], ids=["none", "as read leaves it"])
def test_files_need_no_calculator(model, atoms, tmp_path, left):
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0) if left else None
    given = atoms.calc
    log = tmp_path / "md.log"
    with NVE(atoms, model, 8 * FS, trajectory=tmp_path / "md.traj", logfile=log, loginterval=2) as dynamics:
        dynamics.run(4)
    assert atoms.calc is given
    frames = Trajectory(tmp_path / "md.traj")
    assert len(frames) == 3
    np.testing.assert_array_equal(frames[-1].positions, atoms.positions)
    np.testing.assert_array_equal(frames[-1].get_momenta(), atoms.get_momenta())
    assert frames.description == dynamics.todict() | {"interval": 2}
    times, total, _, kinetic, kelvin = np.loadtxt(log, skiprows=1).T
    np.testing.assert_allclose(times, [0, 0.016, 0.032], atol=1e-4)
    assert np.isnan(total).all()
    assert kinetic[-1] == pytest.approx(atoms.get_kinetic_energy(), abs=1e-4)
    assert kelvin[-1] == pytest.approx(atoms.get_temperature(), abs=0.1)


def test_a_calculator_is_asked_for_energies_alone(model, atoms, tmp_path):
    atoms.calc = Counting()
    files = {"trajectory": tmp_path / "md.traj", "logfile": tmp_path / "md.log", "loginterval": 3}
    with NVE(atoms, model, 8 * FS, **files) as dynamics:
        dynamics.run(6)
    assert atoms.calc.calls == 3  # the logger's; the trajectory writes what it has found
    energies = [frame.get_potential_energy() for frame in read(files["trajectory"], ":")]
    np.testing.assert_allclose(np.loadtxt(files["logfile"], skiprows=1)[:, 2], energies, atol=1e-4)
    assert dynamics.get_conserved_energy() == atoms.get_total_energy()
    with Trajectory(tmp_path / "own.traj", "w", atoms, properties=["energy"]) as own:
        dynamics.attach(own, interval=2)
        dynamics.attach(MDLogger(dynamics, atoms, tmp_path / "own.log"), interval=2)
        dynamics.run(2)
    assert atoms.calc.calls == 4
    assert read(tmp_path / "own.traj").get_potential_energy() == atoms.get_potential_energy()


def test_what_is_changed_between_steps_is_honoured_or_refused(model, atoms):
    dynamics = NVE(atoms, model, 8 * FS)
    dynamics.run(2)
    atoms.set_momenta(1.1 * atoms.get_momenta())
    atoms.positions[3] += 0.05
    atoms.set_cell(1.01 * atoms.cell, scale_atoms=True)
    wanted = native(model, atoms, 2)
    atoms.wrap()
    dynamics.run(2)
    images = (atoms.positions - wanted[0]) @ np.linalg.inv(atoms.cell.array)
    np.testing.assert_allclose(images, np.round(images), atol=1e-10)
    np.testing.assert_allclose(atoms.get_momenta(), wanted[1], atol=1e-10)

    kept = atoms.get_positions(), atoms.get_momenta()
    atoms.set_momenta(1000 * kept[1])
    with pytest.raises(SimulationError, match=r"moved .* Å within it"):
        dynamics.step()
    np.testing.assert_array_equal(atoms.positions, kept[0])
    atoms.set_momenta(kept[1])
    dynamics.step()
    for name, change in {
        "masses": lambda: atoms.set_masses(atoms.get_masses() + 1),
        "pbc": lambda: atoms.set_pbc((True, True, False)),
        "numbers": lambda: atoms.append("Al"),
    }.items():
        change()
        with pytest.raises(ConfigError, match=f"{name}: changed since this NVE was made"):
            dynamics.run(1)
        atoms.set_masses()


def test_fixcom_is_kept_exactly_and_no_other_constraint(model, atoms):
    atoms.set_constraint(FixCom())
    atoms.set_momenta(atoms.get_momenta() + 0.3, apply_constraint=False)
    with pytest.warns(SymstrideWarning, match="FixCom: a total momentum of 16.6 "):
        dynamics = NVE(atoms, model, 8 * FS)
    center = atoms.get_center_of_mass()
    dynamics.run(10)
    np.testing.assert_allclose(atoms.get_center_of_mass(), center, atol=1e-12)
    np.testing.assert_allclose(atoms.get_momenta().sum(axis=0), 0, atol=1e-12)
    for constraint in (FixAtoms([0]), FixBondLength(0, 1), FixSubsetCom([0, 1]), Hookean(0, 1, 5.0, rt=3.0)):
        atoms.set_constraint([FixCom(), constraint])
        name = type(constraint).__name__
        for make in (lambda: NVE(atoms, model, 8 * FS), dynamics.step):
            with pytest.raises(ConfigError, match=f"constraints: {name} cannot be kept"):
                make()


BATHS = {"langevin": (Langevin, {"friction": 1 / (200 * FS)}), "csvr": (CSVR, {"taut": 200 * FS})}


@pytest.mark.parametrize("thermostat", BATHS)
def test_heat_baths_have_the_noise_of_a_run(model, atoms, thermostat):
    kind, coupling = BATHS[thermostat]
    bath = {"temperature_K": 400.0, "seed": 7}
    settings = RunSettings(thermostat=thermostat, thermostat_ps=0.2, **bath)
    z = Phase(jnp.asarray(atoms.get_positions()), jnp.asarray(atoms.get_momenta()))
    simulation = Plan.of(Path("al.safetensors"), model, start_of(atoms), settings).simulation
    z, memory, _ = simulation.advance(z, None, 10)
    atoms.calc = Counting()
    dynamics = kind(atoms, model, **bath, **coupling)
    dynamics.run(10)
    assert atoms.calc.calls == 0
    same(atoms, (z.q, z.p))
    heat = float(memory.heat[0])
    assert abs(heat) > 0.1
    assert dynamics.transferred_energy == pytest.approx(heat, abs=1e-10)
    assert dynamics.get_conserved_energy() == pytest.approx(atoms.get_total_energy() - heat, abs=1e-9)
    told = {"type": "molecular-dynamics", "md-type": kind.__name__, "timestep": 8 * FS, "map": "explicit"}
    assert json.loads(json.dumps(dynamics.todict())) == told | bath | coupling


@pytest.mark.filterwarnings("ignore:barostat. where the start is sheared")
@pytest.mark.parametrize("wrap", [False, True])
def test_constant_pressure_is_that_of_a_run(model, atoms, wrap):
    """Whoever wraps atoms; and a cell that somebody else changes is taken up."""
    bath = {"temperature_K": 400.0, "pressure_bar": 5000.0, "compressibility": 1e-6, "seed": 7}
    emt = CalculatorConfig(name="emt")
    settings = RunSettings(
        thermostat="langevin",
        thermostat_ps=0.2,
        barostat="flexible",
        barostat_ps=0.16,
        calculator=emt,
        **bath,
    )
    start = start_of(atoms)
    simulation = Plan.of(Path("al.safetensors"), model, start, settings).simulation
    z = Phase(jnp.asarray(atoms.get_positions()), jnp.asarray(atoms.get_momenta()))
    z, memory, _ = with_volume_energy(simulation, start, EMT()).advance(z, None, 10)
    atoms.calc = EMT()
    dynamics = NPT(atoms, model, friction=1 / (200 * FS), taup=160 * FS, flexible=True, **bath)
    for _ in range(5):
        dynamics.run(2)
        if wrap:
            atoms.wrap()
    cell = np.asarray(memory.cell[0])
    assert int(memory.accepted[0]) >= 1
    np.testing.assert_allclose(atoms.cell.array, cell, atol=1e-10)
    apart = (atoms.positions - np.asarray(z.q)) @ np.linalg.inv(cell)
    np.testing.assert_allclose(apart, np.round(apart), atol=1e-10)
    assert wrap == bool(np.abs(apart).max() > 0.5)
    np.testing.assert_allclose(atoms.get_momenta(), z.p, atol=1e-9)
    assert dynamics.transferred_energy == pytest.approx(float(memory.heat[0]), abs=1e-9)
    assert dynamics.todict().items() >= (bath | {"taup": 160 * FS, "flexible": True}).items()
    atoms.set_cell(1.01 * cell, scale_atoms=True)
    dynamics.run(1)
    assert np.linalg.det(atoms.cell.array) > 1.01 * np.linalg.det(cell)


def test_a_barostat_leaves_the_centre_of_mass_where_it_is_fixed(model, atoms):
    atoms.calc = EMT()
    atoms.set_constraint(FixCom())
    center, volume = atoms.get_center_of_mass(), atoms.get_volume()
    bath = {"temperature_K": 400.0, "pressure_bar": 5000.0, "compressibility": 1e-6, "seed": 7}
    NPT(atoms, model, friction=1 / (200 * FS), taup=160 * FS, **bath).run(5)
    assert atoms.get_volume() != volume
    np.testing.assert_allclose(atoms.get_center_of_mass(), center, atol=1e-12)


def test_the_box_of_what_is_not_periodic_is_left_alone(model, atoms):
    atoms.pbc = (True, True, False)
    atoms.cell[2] += [0.5, 0, 10]
    box = atoms.cell.array.copy()
    NVE(atoms, model, 8 * FS).run(2)
    np.testing.assert_array_equal(atoms.cell.array, box)


def test_constant_pressure_needs_energies_and_a_cell(model, atoms):
    given = {"temperature_K": 300.0, "friction": 0.01 / FS, "pressure_bar": 1.0, "taup": 100 * FS}
    with pytest.raises(ConfigError, match="atoms: have no calculator"):
        NPT(atoms, model, **given)
    atoms.calc = EMT()
    with pytest.raises(ConfigError, match=r"taup: 0\.0 is not right"):
        NPT(atoms, model, **given | {"taup": 0.0})
    atoms.pbc = (True, True, False)
    with pytest.raises(ConfigError, match="has no pressure"):
        NPT(atoms, model, **given)


def test_one_factor_for_all_momenta_gives_a_molecule_no_rotation(model):
    molecule = Atoms("Al4", np.random.default_rng(0).normal(size=(4, 3)) + 3 * np.eye(4, 3))
    bath = {"temperature_K": 300.0, "taut": 100 * FS}
    molecule.set_momenta(5 * np.random.default_rng(1).normal(size=(4, 3)))
    CSVR(molecule, model, 8 * FS, **bath)
    ZeroRotation(molecule)
    with pytest.raises(ConfigError, match="momenta: the atoms have no rotation"):
        CSVR(molecule, model, 8 * FS, **bath)
    molecule.set_cell(8 * np.eye(3))
    molecule.pbc = True
    CSVR(molecule, model, 8 * FS, **bath)


def test_what_makes_no_sense_is_named(model, atoms):
    with pytest.raises(ConfigError, match="stride_fs: 2 fs; the model was trained for 4 to 8 fs"):
        NVE(atoms, model, 2 * FS)
    with pytest.warns(SymstrideWarning, match="stride 5 fs: the model was trained for 4, 8 fs") as told:
        NVE(atoms, model, 5 * FS).run(0)
    ours = [warning.filename for warning in told if warning.category is SymstrideWarning]
    assert ours == [__file__]
    bath = {"temperature_K": 300.0, "friction": 0.01 / FS}
    seeds = {Langevin(atoms, model, **bath).todict()["seed"] for _ in range(3)}  # each has one of its own
    assert len(seeds) == 3
    for wrong in ({"friction": 0.0}, {"temperature_K": -1.0}, {"seed": -1}, {"seed": 2**63}):
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))}: .* is not right"):
            Langevin(atoms, model, **{"temperature_K": 300.0, "friction": 0.01 / FS} | wrong)
    atoms.set_momenta(np.zeros((32, 3)))
    with pytest.raises(ConfigError, match="momenta: all are zero"):
        CSVR(atoms, model, temperature_K=300.0, taut=100 * FS)
