"""A learned map as the motion of an i-PI simulation: the run it is without, in i-PI's ensembles."""

from dataclasses import replace
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk

from symstride.errors import ConfigError, DataError, SymstrideWarning
from symstride.model import MapConfig, Model, NetworkConfig, Scales, build_map
from symstride.phase import Phase
from symstride.simulate.plan import simulation_of
from symstride.simulate.start import Start
from symstride.units import FS, KB

pytest.importorskip("ipi", reason="needs i-PI: pip install ipi")
from ipi.scripting import InteractiveSimulation  # pyright: ignore[reportMissingImports]
from ipi.utils.softexit import softexit  # pyright: ignore[reportMissingImports]

from symstride.engines import ipi

jax.config.update("jax_enable_x64", True)

H = 16.0  # fs
ATOMS = 8
NETWORK = NetworkConfig(cutoff=3.5, nearest=0.8, radial=4, channels=4, products=4, hidden=8, layers=1)
CONFIG = MapConfig(kind="explicit", strides_fs=(8.0, H), network=NETWORK, precision="float64")
SCALES = Scales(energy=1e-3, length=0.3, stride_unit=0.1, temperature=300.0)
MODEL = Model(build_map(CONFIG, SCALES, (13,), jax.random.key(1)), CONFIG, SCALES, (13,), {})
GAS = MODEL.with_map(jax.tree.map(lambda x: 0 * x if eqx.is_inexact_array(x) else x, MODEL.map))
LANGEVIN = "<thermostat mode='langevin'><tau units='femtosecond'> 40 </tau></thermostat>"
BAROSTAT = (
    LANGEVIN + "<barostat mode='isotropic'><tau units='femtosecond'> 100 </tau>" + LANGEVIN + "</barostat>"
)
PROPERTIES = """<properties filename='md' stride='1'>
[time{femtosecond}, conserved{electronvolt}, temperature{kelvin}, volume{angstrom3}] </properties>"""
OUTPUT = "<checkpoint stride='4' filename='chk' overwrite='False'/>"
XML = """
<simulation verbosity='quiet' safe_stride='{every}'>
<output prefix='out'>{output}</output>
<prng><seed> 1 </seed></prng>
<ffdirect name='ff'><pes> dummy </pes></ffdirect>
<system>
<initialize nbeads='{beads}'>
<positions mode='manual' bead='0'> {positions} </positions>
<momenta mode='manual' bead='0'> {momenta} </momenta>
<masses mode='manual'> {masses} </masses>
<labels mode='manual'> {labels} </labels>
<cell mode='manual'> {cell} </cell>
</initialize>
<forces><force forcefield='ff'/></forces>
<ensemble>
<temperature units='kelvin'> 300 </temperature> <pressure units='ase'> {pressure} </pressure> {bias}
</ensemble>
<motion mode='dynamics'>{fixed}<dynamics mode='{mode}' splitting='{splitting}'>
<timestep units='femtosecond'> {timestep} </timestep>{baths}</dynamics></motion>
</system></simulation>
"""


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """i-PI's files in a folder of their own, and no thread that waits for signals."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(softexit, "start", lambda timeout: None)
    monkeypatch.setattr(softexit, "flist", [])


@pytest.fixture(scope="module")
def start():
    """Aluminium in a cell as i-PI holds it, with angles that are not right ones."""
    atoms = bulk("Al", cubic=True) * (2, 1, 1)
    atoms.set_cell([[8.1, 0, 0], [0.6, 4.05, 0], [0.3, -0.4, 4.05]], scale_atoms=True)
    rng = np.random.default_rng(0)
    masses = atoms.get_masses()
    p = rng.normal(size=(ATOMS, 3)) * np.sqrt(masses * KB * 300)[:, None]
    q = atoms.positions + 0.1 * rng.normal(size=p.shape)
    return Start(
        atoms.numbers, masses, atoms.cell.array, atoms.pbc, q[None], (p - p.mean(0))[None], 300.0, "here"
    )


def simulation(start, mode="nve", **changes):
    def numbers(x):
        return np.asarray(x).ravel().tolist()

    given = {
        "every": 1,
        "output": "",
        "beads": 1,
        "positions": numbers(start.positions * ipi.LENGTH),
        "momenta": numbers(start.momenta * ipi.MOMENTUM),
        "masses": numbers(start.masses * ipi.MASS),
        "labels": "[" + ", ".join(["Al"] * len(start.masses)) + "]",
        "cell": numbers(start.cell.T * ipi.LENGTH),
        "pressure": 0.0,
        "bias": "",
        "fixed": "",
        "mode": mode,
        "splitting": "obabo",
        "timestep": H,
        "baths": "" if mode == "nve" else LANGEVIN,
    }
    return InteractiveSimulation(XML.format(**given | changes))


def counted(simulation) -> list:
    """One entry for each time that its forces are evaluated."""
    forcefield, calls = simulation.fflist["ff"], []
    driver = forcefield.driver
    forcefield.driver = lambda *arguments: calls.append(arguments) or driver(*arguments)
    return calls


def state(simulation) -> np.ndarray:
    """Positions and momenta [2, N, 3], ASE units."""
    beads = simulation.syslist[0].beads
    return np.stack([beads.q[0] / ipi.LENGTH, beads.p[0] / ipi.MOMENTUM]).reshape(2, -1, 3)


def test_constant_energy_is_the_run_without_an_engine(start):
    z = Phase(jnp.asarray(start.positions[0]), jnp.asarray(start.momenta[0]))
    wanted, _, _ = simulation_of(MODEL, start, H, 2.0).advance(z, None, 10)
    simulated = simulation(start)
    calls = counted(simulated)
    simulated.set_motion_step(ipi.nve(MODEL))
    simulated.run(4)
    simulated.run(6)
    assert not calls
    got = state(simulated)
    np.testing.assert_allclose(got, np.stack([wanted.q, wanted.p]), atol=1e-11)
    np.testing.assert_allclose(simulated.properties("time"), 10 * H * FS, rtol=1e-7)
    kinetic = np.sum(got[1] ** 2 / start.masses[:, None]) / 2
    np.testing.assert_allclose(simulated.properties("kinetic_md"), kinetic, rtol=1e-11)
    assert not calls
    assert simulated.properties("potential") == 0
    assert len(calls) == 1


def test_the_centre_of_mass_is_fixed_or_left_alone(start):
    moving = replace(start, momenta=start.momenta + 1.0)
    for fixed, total in (("True", 0.0), ("False", ATOMS)):
        simulated = simulation(moving, fixed=f"<fixcom> {fixed} </fixcom>")
        simulated.set_motion_step(ipi.nve(MODEL))
        simulated.run(3)
        np.testing.assert_allclose(state(simulated)[1].sum(axis=0), total, atol=1e-11)


def test_a_restart_goes_on_as_if_never_stopped(start):
    whole = simulation(start, "nvt", output=OUTPUT)
    whole.set_motion_step(ipi.nvt(MODEL))
    whole.run(10)
    again = InteractiveSimulation(Path("out.chk_1").read_text())
    assert again.step == 4
    again.set_motion_step(ipi.nvt(MODEL))
    again.run(10 - again.step)
    np.testing.assert_allclose(state(again), state(whole), atol=1e-11)
    assert again.properties("time") == pytest.approx(whole.properties("time"))
    assert again.properties("conserved") == pytest.approx(whole.properties("conserved"))


def test_the_thermostat_has_its_temperature_and_its_heat_is_counted(start):
    baths = LANGEVIN.replace("40", "16")
    simulated = simulation(start, "nvt", output=PROPERTIES, baths=baths)
    simulated.set_motion_step(ipi.nvt(GAS))  # that has no energy but the kinetic
    simulated.run(120)
    conserved, kelvins, _ = np.loadtxt("out.md")[:, 1:].T
    np.testing.assert_allclose(conserved, conserved[0], rtol=1e-8)
    kept = np.exp(-2 * H / 16)  # of K, from one stride to the next
    samples = 120 * (1 - kept) / (1 + kept)
    assert abs(kelvins[1:].mean() - 300) < 4 * 300 * np.sqrt(2 / (3 * ATOMS - 3) / samples)


def test_a_gas_under_pressure_has_its_volume(start):
    pressure = KB * 300 * ATOMS / 400  # eV/Å³
    simulated = simulation(start, "npt", output=PROPERTIES, pressure=pressure, baths=BAROSTAT)
    calls = counted(simulated)
    simulated.set_motion_step(ipi.npt(GAS))
    with pytest.warns(SymstrideWarning, match="stress"):
        simulated.run(10)
    assert len(calls) == 11  # one stress a stride, the first at the start
    simulated.run(490)
    conserved, _, volume = np.loadtxt("out.md")[:, 1:].T
    assert np.std(conserved) < 0.1 * KB * 300
    samples = 400 / 30  # its correlation time is some fifteen strides
    assert abs(volume[100:].mean() - 400) < 4 * 400 / np.sqrt(ATOMS) / np.sqrt(samples)


def test_a_volume_that_the_model_does_not_know_is_named_once(start):
    provenance = {"volume_A3_per_atom": [16.0, 16.8], "masses_u": [26.9815385], "temperature_K": [300, 300]}
    known = replace(GAS, provenance=provenance)
    simulated = simulation(start, "npt", pressure=0.0, baths=BAROSTAT)
    simulated.set_motion_step(ipi.npt(known))
    with pytest.warns(SymstrideWarning) as caught:
        simulated.run(60)
    about = [str(w.message).split()[0] for w in caught if w.category is SymstrideWarning]
    assert about == ["stress:", "volume"]


def test_what_the_model_was_not_trained_for(start):
    known = replace(MODEL, provenance={"masses_u": [26.9815385]})
    heavy = simulation(replace(start, masses=start.masses + 1))
    heavy.set_motion_step(ipi.nve(known))
    with pytest.warns(SymstrideWarning, match="mass of Al 27.9815 u: the model was trained for 26.9815 u"):
        heavy.run(1)


@pytest.mark.parametrize(
    ("labels", "problem"), [("Cu", "Cu: not among the model's elements"), ("Q", "Q: no chemical element")]
)
def test_atoms_that_no_model_knows(start, labels, problem):
    simulated = simulation(start, labels="[" + ", ".join([labels] * ATOMS) + "]")
    simulated.set_motion_step(ipi.nve(MODEL))
    with pytest.raises(DataError, match=problem):
        simulated.run(1)


CELL = "<h0 shape='(3, 3)'> [15, 0, 0, 0, 8, 0, 0, 0, 8] </h0></barostat>"
RGB = BAROSTAT.replace("isotropic", "anisotropic").replace("</barostat>", CELL)
OTHERS = {
    "timestep": (
        "nve",
        ipi.nve,
        {"timestep": 8.0},
        "simulation's is 8 fs and the stride 16 fs; set <timestep",
    ),
    "ensemble": ("nvt", ipi.nve, {}, "motion is dynamics mode='nvt'; .* <dynamics mode='nve'>"),
    "no bath": ("nve", ipi.nvt, {}, "motion is dynamics mode='nve'; .* <dynamics mode='nvt'>"),
    "splitting": ("nvt", ipi.nvt, {"splitting": "baoab"}, "set <dynamics splitting='obabo'>"),
    "barostat": ("npt", ipi.npt, {"baths": RGB}, "BaroRGB .* set <barostat mode='isotropic'>"),
    "beads": ("nve", ipi.nve, {"beads": 2}, "beads: 2; .* nbeads='1'"),
    "fixed atoms": ("nve", ipi.nve, {"fixed": "<fixatoms> [0] </fixatoms>"}, "remove <fixatoms>"),
    "bias": ("nve", ipi.nve, {"bias": "<bias><force forcefield='ff'/></bias>"}, "remove <bias>"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_simulations_that_strides_are_no_steps_of(start, case):
    mode, stepper, changes, problem = OTHERS[case]
    simulated = simulation(start, mode, **changes)
    before = state(simulated)
    simulated.set_motion_step(stepper(MODEL))
    with pytest.raises(ConfigError, match=problem):
        simulated.run(1)
    np.testing.assert_array_equal(state(simulated), before)
