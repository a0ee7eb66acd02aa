"""OpenMM and tblite as samplers: right forces, one time for all of a frame, nothing lost to a kill."""

from pathlib import Path

import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import write as ase_write
from scipy.spatial.transform import Rotation

import symstride.data
from symstride.data import h5md
from symstride.data.calculators import make_calculator
from symstride.data.config import CalculatorConfig, SampleConfig
from symstride.data.dynamics import AseDynamics, make_dynamics
from symstride.data.reference import Stopped, build_structure, sample_one, shadow_energies
from symstride.data.sample import sample
from symstride.errors import ConfigError
from symstride.hamiltonians import water
from symstride.units import FS, KB
from test_sample import same

jax.config.update("jax_enable_x64", True)

FORCEFIELDS = Path(symstride.data.__file__).parent / "forcefields"


def flexible(folder: Path, side: int, periodic: bool, **settings) -> dict:
    """side³ waters of SPC/Fw on a lattice: structure and calculator of a configuration."""
    app = pytest.importorskip("openmm.app")
    system, start = water.lattice(jax.random.key(0), side, periodic=periodic)
    symbols = ["O", "H", "H"] * side**3
    atoms = Atoms(symbols, np.asarray(start.q), cell=[system.box] * 3 if periodic else None, pbc=periodic)
    folder.mkdir(exist_ok=True)
    ase_write(folder / "water.xyz", atoms)
    topology = app.Topology()
    chain = topology.addChain()
    for _ in range(side**3):
        residue = topology.addResidue("HOH", chain)
        o, *hydrogens = [
            topology.addAtom(name, app.Element.getBySymbol(name[0]), residue) for name in ("O", "H1", "H2")
        ]
        for h in hydrogens:
            topology.addBond(o, h)
    if periodic:
        topology.setPeriodicBoxVectors(np.asarray(atoms.cell) / 10)
        cutoff = {"nonbondedCutoff": 0.048 * system.box, "switchDistance": 0.038 * system.box}
        settings |= {"nonbondedMethod": "PME", "ewaldErrorTolerance": 1e-4} | cutoff
    app.PDBFile.writeFile(topology, atoms.positions, str(folder / "water.pdb"))
    files = {"forcefield": ["spcfw.xml"], "topology": str(folder / "water.pdb")}
    return {
        "structure": {"file": folder / "water.xyz"},
        "calculator": {"name": "openmm", "arguments": files | settings},
    }


def config(folder: Path, system: dict, **changes) -> SampleConfig:
    settings = {"temperature_K": 300, "trajectories": 1, "thermalize_ps": 0.05, "length_ps": 0.05}
    settings |= {"timestep_fs": 0.5, "every": 2, "segment_frames": 20, "output": folder / "out"}
    settings |= {"max_drift_mev_per_atom_per_ps": 10}  # in a twentieth of a picosecond none can be told
    return SampleConfig.model_validate(system | settings | changes)


def calculator_of(system: dict):
    return make_calculator(CalculatorConfig.model_validate(system["calculator"]))


def test_spcfw_is_ours(tmp_path):
    """The cluster's energy and forces are those of symstride's own SPC/Fw, to OpenMM's Coulomb constant."""
    system = flexible(tmp_path, 2, periodic=False, platform="Reference")
    atoms = build_structure(config(tmp_path, system).structure)
    atoms.positions += np.random.default_rng(1).normal(0, 0.05, atoms.positions.shape)
    atoms.calc = calculator_of(system)
    ours = water.Water(atoms.get_masses())
    assert atoms.get_potential_energy() == pytest.approx(float(ours.potential(atoms.positions)), abs=1e-6)
    forces = -np.asarray(jax.grad(ours.potential)(atoms.positions))
    np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-6 * np.abs(forces).max())


@pytest.mark.parametrize("hand", [1, -1])
def test_a_cell_may_be_turned_and_its_vectors_be_others_of_its_lattice(tmp_path, hand):
    """Energy, forces and dynamics turn with it; OpenMM itself takes none but reduced vectors, a along x."""
    system = flexible(tmp_path, 2, True, platform="Reference")
    atoms = build_structure(config(tmp_path, system).structure)
    rng = np.random.default_rng(0)
    atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
    atoms.set_momenta(rng.normal(size=atoms.positions.shape))
    turn = Rotation.random(random_state=1).as_matrix()
    turned = atoms.copy()
    turned.set_cell(hand * np.array([[1, 0, 0], [1, 1, 0], [1, -1, 1]]) @ atoms.cell.array @ turn)
    turned.positions = atoms.positions @ turn
    turned.set_momenta(atoms.get_momenta() @ turn)
    for each in (atoms, turned):
        each.calc = calculator_of(system)
    assert turned.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    np.testing.assert_allclose(turned.get_forces(), atoms.get_forces() @ turn, atol=1e-7)
    for each in (atoms, turned):
        dynamics = make_dynamics(each, 0.5)
        dynamics.verlet()(10)
        dynamics.read()
    np.testing.assert_allclose(turned.positions, atoms.positions @ turn, atol=1e-6)
    np.testing.assert_allclose(turned.get_momenta(), atoms.get_momenta() @ turn, atol=1e-5)


@pytest.mark.parametrize("platform", ["CPU", "Reference"])
def test_frames_are_verlets(tmp_path, platform):
    """Positions, momenta and forces are of one time: velocity Verlet leads from frame to frame."""
    cfg = config(tmp_path, flexible(tmp_path, 3, True, platform=platform), every=1, length_ps=0.02)
    t = h5md.read(sample(cfg)[0])
    h, m = cfg.timestep_fs * FS, t.masses[:, None]
    half = t.momenta[:-1] + 0.5 * h * t.forces[:-1]
    np.testing.assert_allclose(t.positions[1:], t.positions[:-1] + h * half / m, atol=1e-6)
    np.testing.assert_allclose(t.momenta[1:], half + 0.5 * h * t.forces[1:], atol=1e-5)
    rates = (t.positions[2:] - t.positions[:-2]) / (2 * h)  # Verlet's velocities are these differences
    np.testing.assert_allclose(rates, (t.momenta / m)[1:-1], atol=1e-5)
    assert np.abs(t.momenta.sum(1)).max() < 1e-3 * np.abs(t.momenta).max()  # all but PME's


def test_energy_is_kept_and_the_forces_are_its_gradient(tmp_path):
    """PME with a switched cutoff: the shadow energy stays within 1e-3 kT an atom, and work changes energy."""
    system = flexible(tmp_path, 3, True)
    cfg = config(tmp_path, system, timestep_fs=0.25, every=1, length_ps=0.1, thermalize_ps=0.2)
    t = h5md.read(sample(cfg)[0])
    assert np.ptp(shadow_energies(t, 0.25)) < 1e-3 * KB * 300 * t.n_atoms
    work = 0.5 * np.sum((t.forces[1:] + t.forces[:-1]) * np.diff(t.positions, axis=0), axis=(1, 2))
    change = -np.diff(t.energies)
    assert np.abs(work - change).max() < 0.02 * np.abs(change).max()


def test_temperature_of_thermalised_molecules(tmp_path):
    """64 free N₂: 3 kT of kinetic energy and kT/2 of potential each, in four standard errors."""
    openmm = pytest.importorskip("openmm")
    system, bonds = openmm.System(), openmm.HarmonicBondForce()
    for i in range(64):
        system.addParticle(14.007)
        system.addParticle(14.007)
        bonds.addBond(2 * i, 2 * i + 1, 0.11, 1e5)
    system.addForce(bonds)
    (tmp_path / "n2.xml").write_text(openmm.XmlSerializer.serialize(system))
    z = np.arange(64)[:, None] * [0, 0, 5.0]
    atoms = Atoms("N2" * 64, np.stack([z, z + np.array([1.1, 0, 0])], axis=1).reshape(-1, 3))
    ase_write(tmp_path / "n2.xyz", atoms)
    arguments = {"system": str(tmp_path / "n2.xml"), "platform": "Reference"}
    files = {"structure": {"file": tmp_path / "n2.xyz"}, "calculator": {"name": "openmm"}}
    files["calculator"]["arguments"] = arguments
    cfg = config(tmp_path, files, trajectories=4, thermalize_ps=1, length_ps=0.001, segment_frames=1000)
    first = [h5md.read(path) for path in sample(cfg)]
    kinetic = np.mean([t.kinetic_energies[0] / (3 * 64 - 3) for t in first]) / KB
    potential = np.mean([t.energies[0] / (0.5 * 64) for t in first]) / KB
    assert kinetic == pytest.approx(300, abs=4 * 300 * np.sqrt(2 / (6 * 64 * 4)))
    assert potential == pytest.approx(300, abs=4 * 300 * np.sqrt(2 / (64 * 4)))


@pytest.mark.parametrize("platform", ["CPU", "Reference"])
@pytest.mark.parametrize("steps", [0, 60, 140])
def test_stopped_anywhere_and_resumed_is_uninterrupted(tmp_path, platform, steps):
    """In the thermalisation (a checkpoint every 40 steps), at its end, and in a segment."""
    system = flexible(tmp_path, 3, True, platform=platform)
    whole, cut = config(tmp_path / "whole", system), config(tmp_path / "cut", system)
    done = [0]
    with pytest.raises(Stopped):
        sample_one(cut, 0, lambda n: done.__setitem__(0, n), lambda: done[0] >= steps)
    same(sample(cut)[0], sample(whole)[0])


def test_heavy_water_has_the_masses_of_the_structure(tmp_path):
    """Same forces, and D₂O's velocities: the momenta kept are those that OpenMM moved by."""
    system = flexible(tmp_path, 3, True)
    atoms = build_structure(config(tmp_path, system).structure)
    atoms.set_masses(np.where(atoms.numbers == 1, 2.014, 15.999))
    ase_write(tmp_path / "water.xyz", atoms, columns=["symbols", "positions", "masses"])
    cfg = config(tmp_path, system, every=1, length_ps=0.01, trajectories=1)
    t = h5md.read(sample(cfg)[0])
    assert t.masses[1] == 2.014
    rates = (t.positions[2:] - t.positions[:-2]) / (2 * cfg.timestep_fs * FS)
    np.testing.assert_allclose(rates, (t.momenta / t.masses[:, None])[1:-1], atol=1e-5)


def test_trajectories_begin_at_their_own_frames(tmp_path):
    system = flexible(tmp_path, 2, False)
    first = build_structure(config(tmp_path, system).structure)
    second = first.copy()
    second.positions += 1.0
    ase_write(tmp_path / "water.xyz", [first, second])
    structure = {"file": tmp_path / "water.xyz", "frames": "each"}
    cfg = config(
        tmp_path, system | {"structure": structure}, trajectories=3, thermalize_ps=0, length_ps=0.001
    )
    starts = [h5md.read(path).positions[0] for path in sample(cfg)]
    np.testing.assert_allclose(starts[1] - starts[0], 1.0)
    np.testing.assert_array_equal(starts[2], starts[0])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"constraints": "HBonds"}, "constraints: a Hamiltonian map needs free bonds"),
        ({"rigidWater": True}, "rigidWater: a Hamiltonian map needs free bonds"),
        ({"nonbondedMethod": "PPPM"}, "PPPM is none of OpenMM's"),
        ({"nonbondedCutof": 0.6}, "'nonbondedCutof'.*never used"),
        ({"topology": "none.pdb"}, "none.pdb: not a PDB file"),
        ({"forcefield": "none.xml"}, "does not take.*none.xml"),
        ({"forcefield": None}, "openmm needs either system: system.xml, or forcefield"),
        ({"platform": "Abacus"}, "Abacus"),
    ],
)
def test_bad_arguments(tmp_path, change, says):
    system = flexible(tmp_path, 1, periodic=False)
    system["calculator"]["arguments"] |= change
    with pytest.raises(ConfigError, match=says):
        calculator_of(system)


def test_a_force_field_that_sees_no_images_is_refused_where_there_are_some(tmp_path):
    system = flexible(tmp_path, 2, periodic=True)
    for name in ("nonbondedMethod", "nonbondedCutoff", "switchDistance", "ewaldErrorTolerance"):
        del system["calculator"]["arguments"][name]
    with pytest.raises(ConfigError, match="sees no periodic images, the structure has them"):
        sample(config(tmp_path, system))


@pytest.mark.parametrize(("name", "more"), [("water.pdb", "REMARK another\n"), ("spc.xml", "<!-- -->\n")])
def test_changed_files_are_refused(tmp_path, name, more):
    system = flexible(tmp_path, 1, periodic=False)
    (tmp_path / "spc.xml").write_text((FORCEFIELDS / "spcfw.xml").read_text())
    system["calculator"]["arguments"]["forcefield"] = [str(tmp_path / "spc.xml")]
    cfg = config(tmp_path, system, length_ps=0.001, thermalize_ps=0)
    sample(cfg)
    with (tmp_path / name).open("a") as file:
        file.write(more)
    with pytest.raises(ConfigError, match=rf"calculator\.sha256.*{name}"):
        sample(cfg)


def test_a_force_field_of_something_else(tmp_path):
    system = flexible(tmp_path, 1, periodic=False)
    ase_write(tmp_path / "water.xyz", Atoms("HOH", [[0, 0, 0], [1, 0, 0], [1, 1, 0]]))
    with pytest.raises(ConfigError, match="the order or the masses differ"):
        sample(config(tmp_path, system))


def test_a_barostat_is_refused(tmp_path):
    openmm = pytest.importorskip("openmm")
    system = openmm.System()
    system.addParticle(39.948)
    system.addForce(openmm.CMMotionRemover())
    (tmp_path / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
    calculator = CalculatorConfig(name="openmm", arguments={"system": str(tmp_path / "system.xml")})
    assert make_calculator(calculator).system.getNumForces() == 0
    system.addForce(openmm.MonteCarloBarostat(1.0, 300.0))
    (tmp_path / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
    with pytest.raises(ConfigError, match="has a MonteCarloBarostat"):
        make_calculator(calculator)


def test_tblite_forgets_its_wave_function(tmp_path):
    """Its next SCF begins with the last one's, and `verlet` begins anew: the same energy to the last bit."""
    pytest.importorskip("tblite")
    atoms = molecule("CH3CH2OH")
    atoms.calc = make_calculator(CalculatorConfig(name="tblite", arguments={"accuracy": 10.0}))
    dynamics = make_dynamics(atoms, 0.5)
    assert isinstance(dynamics, AseDynamics)
    energies = []
    start = atoms.positions.copy()
    for positions in (start, start * 1.01, start):
        atoms.positions = positions
        energies.append(dynamics.read()[0])
    assert energies[2] != energies[0]
    assert energies[2] == pytest.approx(energies[0], abs=1e-3)
    dynamics.verlet()
    assert dynamics.read()[0] == energies[0]


def test_tblite_takes_its_settings():
    pytest.importorskip("tblite")
    atoms = molecule("H2O")
    energies = {}
    for arguments in ({}, {"electronic_temperature": 9000.0}, {"method": "GFN1-xTB"}):
        atoms.calc = make_calculator(CalculatorConfig(name="tblite", arguments=arguments))
        energies[str(arguments)] = atoms.get_potential_energy()
    assert len({round(e, 4) for e in energies.values()}) == 3
    atoms.calc = make_calculator(CalculatorConfig(name="tblite", arguments={"max_iterations": 1}))
    with pytest.raises(Exception, match="SCF"):
        atoms.get_potential_energy()
