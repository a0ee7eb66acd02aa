"""Sampling: the right ensemble, nothing lost to a kill, and an unphysical reference refused."""

import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.io import write as ase_write
from typer.testing import CliRunner

from symstride.cli import app
from symstride.data import h5md
from symstride.data.calculators import make_calculator
from symstride.data.checks import energy_drift
from symstride.data.config import CalculatorConfig, SampleConfig, StructureConfig
from symstride.data.files import locked
from symstride.data.reference import Stopped, build_structure, sample_one, shadow_energies, steps_in_all
from symstride.data.sample import sample
from symstride.errors import ConfigError, DataError
from symstride.units import FS, KB

HERE = Path(__file__).parent
MAIN = [sys.executable, "-c", "from symstride.cli import main; main()"]


class Springs(Calculator):
    """Atoms on springs; can fail, heat up or return NaN after a number of forces."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, k=1.0, fail_at=-1, nan_at=-1, push=0.0, fail_file=None):
        super().__init__()
        self.k, self.fail_at, self.nan_at, self.push, self.fail_file = k, fail_at, nan_at, push, fail_file
        self.calls = 0

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        assert atoms is not None
        self.calls += 1
        if self.calls == self.fail_at or (self.fail_file and Path(self.fail_file).exists()):
            raise RuntimeError("SCF did not\nconverge")
        start = np.zeros((len(atoms), 3))
        start[:, 0] = 3.0 * np.arange(len(atoms))
        moved = atoms.positions - start
        energy = 0.5 * self.k * np.sum(moved**2)
        forces = -self.k * moved + self.push * atoms.get_velocities()  # push is no gradient: it heats
        self.results = {"energy": np.nan if self.calls == self.nan_at else energy, "forces": forces}

    def todict(self):
        return {}


def config(tmp_path, **changes) -> SampleConfig:
    settings = {
        "structure": {"bulk": "Al", "cubic": True},
        "calculator": {"name": "emt"},
        "temperature_K": 300,
        "trajectories": 1,
        "thermalize_ps": 0.04,
        "length_ps": 0.08,
        "timestep_fs": 2,
        "every": 2,
        "segment_frames": 5,
        "output": tmp_path / "out",
    }
    return SampleConfig(**(settings | changes))


def springs(tmp_path, atoms=8, **arguments) -> dict:
    path = tmp_path / "chain.xyz"
    line = Atoms("Ar" * atoms, [[3.0 * i, 0, 0] for i in range(atoms)])
    if not path.exists():
        ase_write(path, line)
    return {
        "structure": {"file": path},
        "calculator": {"import": "test_sample:Springs", "arguments": arguments},
    }


def same(a: Path, b: Path) -> None:
    first, second = h5md.read(a), h5md.read(b)
    for field in fields(first):
        if field.name != "info":
            np.testing.assert_array_equal(getattr(first, field.name), getattr(second, field.name), field.name)
    assert first.info == second.info


def test_what_is_written(tmp_path):
    seen = []
    cfg = config(tmp_path, temperature_K=[200, 300], trajectories=3)
    paths = sample(cfg, lambda done, total: seen.append((done, total)))
    assert [p.name for p in paths] == ["0000.h5", "0001.h5", "0002.h5"]
    assert seen[-1] == (3 * steps_in_all(cfg), 3 * steps_in_all(cfg)) == (180, 180)
    assert sorted(p.name for p in cfg.output.iterdir()) == [*(p.name for p in paths), "sample.json"]
    trajectories = [h5md.read(p) for p in paths]
    assert [t.info["temperature_K"] for t in trajectories] == [200, 300, 200]
    assert trajectories[0].info["calculator"]["name"] == "emt"
    assert not np.allclose(trajectories[0].momenta, trajectories[2].momenta)
    first = trajectories[0]
    np.testing.assert_allclose(first.times, 4.0 * np.arange(21))
    assert np.abs(first.momenta.sum(1)).max() < 1e-12
    atoms = build_structure(cfg.structure)
    atoms.calc = make_calculator(cfg.calculator)
    atoms.positions = first.positions[7]
    np.testing.assert_allclose(atoms.get_forces(), first.forces[7], atol=1e-12)
    assert atoms.get_potential_energy() == pytest.approx(first.energies[7], abs=1e-12)


def test_masses_of_isotopes():
    structure = {"bulk": "Al", "cubic": True, "masses": {"Al": 26.0}}
    np.testing.assert_allclose(build_structure(StructureConfig.model_validate(structure)).get_masses(), 26.0)


def test_frames_are_verlets(tmp_path):
    """Positions and momenta obey velocity Verlet with the stored forces."""
    (path,) = sample(config(tmp_path, every=1, timestep_fs=3))
    t = h5md.read(path)
    h, m = 3 * FS, t.masses[:, None]
    half = t.momenta[:-1] + 0.5 * h * t.forces[:-1]
    np.testing.assert_allclose(t.positions[1:], t.positions[:-1] + h * half / m, atol=1e-12)
    np.testing.assert_allclose(t.momenta[1:], half + 0.5 * h * t.forces[1:], atol=1e-12)


def test_kept_momenta_are_those_of_the_file(tmp_path):
    frames = [Atoms("Ar2", [[0, 0, 0], [3.1, 0.1 * n, 0]], momenta=[[0, n, 1], [0, 0, 0]]) for n in (1, 2)]
    ase_write(tmp_path / "frames.traj", frames)
    given = springs(tmp_path) | {"structure": {"file": tmp_path / "frames.traj", "frames": "each"}}
    kept = config(tmp_path, **given, trajectories=2, momenta="kept", thermalize_ps=0)
    for path, atoms in zip(sample(kept), frames, strict=True):
        first = h5md.read(path)
        np.testing.assert_array_equal(first.positions[0], atoms.positions)
        np.testing.assert_allclose(first.momenta[0], atoms.get_momenta(), rtol=1e-14, atol=1e-15)
    at_rest = given | {"structure": {"file": tmp_path / "chain.xyz"}}
    with pytest.raises(DataError, match=r"chain.xyz: has no momenta to keep"):
        sample(config(tmp_path, **at_rest, momenta="kept", thermalize_ps=0, output=tmp_path / "rest"))
    with pytest.raises(ValueError, match="give one, and thermalize_ps: 0"):
        config(tmp_path, **given, momenta="kept")


def test_temperature_of_thermalised_springs(tmp_path):
    """64 free atoms on springs: kinetic and potential energy are 3/2 NkT each, in four standard errors."""
    cfg = config(tmp_path, **springs(tmp_path, 64), thermalize_ps=2, length_ps=0.02, timestep_fs=10, every=1)
    cfg = cfg.model_copy(update={"trajectories": 4, "segment_frames": 1000, "temperature_K": (300.0,)})
    kinetic, potential = [], []
    for path in sample(cfg):
        t = h5md.read(path)
        kinetic.append(t.kinetic_energies[0] / (0.5 * KB * (3 * 64 - 6)))  # no drift, no rotation
        potential.append(t.energies[0] / (1.5 * KB * 64))
    assert np.mean(kinetic) == pytest.approx(300, abs=4 * 300 * np.sqrt(2 / 186 / 4))
    assert np.mean(potential) == pytest.approx(300, abs=4 * 300 * np.sqrt(2 / 192 / 4))


def test_isolated_system_does_not_rotate(tmp_path):
    water = Atoms("OH2", [[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]])
    ase_write(tmp_path / "water.xyz", water)
    cfg = config(tmp_path, **springs(tmp_path), length_ps=0.004)
    cfg = cfg.model_copy(
        update={"structure": cfg.structure.model_copy(update={"file": tmp_path / "water.xyz"})}
    )
    t = h5md.read(sample(cfg)[0])
    q = t.positions[0] - np.average(t.positions[0], axis=0, weights=t.masses)
    assert np.abs(t.momenta[0].sum(0)).max() < 1e-13
    assert np.abs(np.cross(q, t.momenta[0]).sum(0)).max() < 1e-12


@pytest.mark.parametrize("steps", [0, 7, 19, 20, 21, 29, 47, 59])
def test_stopped_anywhere_and_resumed_is_uninterrupted(tmp_path, steps):
    whole = config(tmp_path / "whole")
    cut = config(tmp_path / "cut")
    done = [0]
    with pytest.raises(Stopped):
        sample_one(cut, 0, lambda n: done.__setitem__(0, n), lambda: done[0] >= steps)
    same(sample(cut)[0], sample(whole)[0])


def _started(path: Path, process: subprocess.Popen) -> None:
    end = time.monotonic() + 60
    while not path.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("processes", "reached"), [(1, "thermalize.npz"), (1, "000003.npz"), (2, "000002.npz")]
)
def test_kill_and_resume(tmp_path, processes, reached):
    """kill -9 of the whole command; what completed segments held is there, and resuming ends the same."""
    whole = config(tmp_path / "whole", trajectories=processes, segment_frames=2, length_ps=0.16)
    cut = whole.model_copy(update={"output": tmp_path / "cut", "processes": processes})
    (tmp_path / "cut.yaml").write_text(yaml.safe_dump(cut.model_dump(mode="json", exclude_none=True)))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, str(HERE)])}
    process = subprocess.Popen(
        [*MAIN, "sample", str(tmp_path / "cut.yaml")], env=environment, stdout=subprocess.DEVNULL
    )
    _started(cut.output / "0000.part" / reached, process)
    assert process.poll() is None, "it finished before it could be killed"
    process.kill()
    process.wait()
    assert (cut.output / "0000.part").exists()
    for a, b in zip(sample(cut.model_copy(update={"processes": 1})), sample(whole), strict=True):
        same(a, b)


def test_two_processes_do_not_write_the_same_trajectory(tmp_path, monkeypatch):
    cfg = config(tmp_path)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr("time.monotonic", iter(range(0, 1000, 2)).__next__)
    with locked(cfg.output / "0000.part"), pytest.raises(DataError, match="another process is writing here"):
        sample(cfg)


def test_control_c(tmp_path):
    cfg = config(tmp_path, segment_frames=2, length_ps=20)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(cfg.model_dump(mode="json", exclude_none=True)))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [*MAIN, "sample", str(tmp_path / "c.yaml")],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background jobs ignore Ctrl-C, and their children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    _started(cfg.output / "0000.part" / "000001.npz", process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == "symstride: stopped; run the same command again to go on\n"


def test_processes_give_the_same(tmp_path):
    alone = config(tmp_path / "a", trajectories=2)
    together = config(tmp_path / "b", trajectories=2, processes=2)
    for a, b in zip(sample(alone), sample(together), strict=True):
        same(a, b)


def test_finished_trajectories_are_kept(tmp_path):
    cfg = config(tmp_path)
    (path,) = sample(cfg)
    before = path.stat().st_mtime_ns
    more = sample(cfg.model_copy(update={"trajectories": 2, "processes": 1}))
    assert len(more) == 2
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"temperature_K": 400}, "temperature_K = .*300.*400"),
        ({"calculator": {"name": "lj", "arguments": {"sigma": 2.5, "epsilon": 0.1}}}, "calculator.arguments"),
        ({"structure": {"bulk": "Al", "cubic": True, "a": 4.1}}, "structure.a = None.*4.1"),
    ],
)
def test_other_configuration_is_refused(tmp_path, change, key):
    sample(config(tmp_path))
    with pytest.raises(ConfigError, match=f"was made with {key}"):
        sample(config(tmp_path, **change))


def test_changed_structure_file_is_refused(tmp_path):
    cfg = config(tmp_path, **springs(tmp_path))
    sample(cfg)
    ase_write(tmp_path / "chain.xyz", Atoms("Ar2", [[0, 0, 0], [3, 0, 0]]))
    with pytest.raises(ConfigError, match=r"structure\.sha256"):
        sample(cfg)


@pytest.mark.parametrize("processes", [1, 2])
def test_calculator_that_raises(tmp_path, processes):
    """It fails in the fourth segment of the first; what was there stays, the second is finished."""
    calculator = springs(tmp_path, fail_at=45)
    cfg = config(tmp_path, **calculator, trajectories=2, temperature_K=[300, 300], processes=processes)
    message = (
        r"trajectory \d: the calculator failed at step \d+ \(RuntimeError: SCF did not converge\);"
        r" what was sampled before is in .*\(1 more trajectories failed\)"
    )
    with pytest.raises(DataError, match=message) as error:
        sample(cfg)
    assert "\n" not in str(error.value)
    assert list(cfg.output.glob("*.part/000001.npz"))


def test_calculator_that_recovers(tmp_path):
    broken = tmp_path / "broken"
    cfg = config(tmp_path, **springs(tmp_path, fail_file=str(broken)))
    broken.write_text("")
    with pytest.raises(DataError, match="the calculator failed at step 0"):
        sample(cfg)
    broken.unlink()
    assert len(sample(cfg)) == 1


def test_drift_is_refused_and_kept(tmp_path):
    cfg = config(tmp_path, **springs(tmp_path, push=0.02), length_ps=0.4, thermalize_ps=0)
    with pytest.raises(
        DataError, match=r"drifts by [\d.e+]+ ± .* meV/atom/ps; the limit is 0.1; use a smaller"
    ):
        sample(cfg)
    assert not list(cfg.output.glob("0000.h5"))
    kept = h5md.read(cfg.output / "0000.refused.h5")
    assert len(kept.times) == cfg.frames
    with pytest.raises(DataError, match="refused"):  # again, without sampling again
        sample(cfg)
    raised = cfg.model_copy(update={"max_drift_mev_per_atom_per_ps": 1e6})
    assert sample(raised) == [cfg.output / "0000.h5"]


def test_coarse_step_is_refused(tmp_path):
    """ωh = 1.5: stable, no drift, and the total energy fluctuates as the kinetic does."""
    step = float(1.5 * np.sqrt(39.948) / FS)
    cfg = config(
        tmp_path, **springs(tmp_path), timestep_fs=step, every=1, length_ps=0.4 * step, thermalize_ps=0
    )
    with pytest.raises(DataError, match=r"fluctuates .* times as much as the kinetic energy"):
        sample(cfg)


@pytest.mark.parametrize("cause", [{"nan_at": 30}, {"push": 3.0}])
def test_blow_up_stops_early(tmp_path, cause):
    cfg = config(tmp_path, **springs(tmp_path, **cause), length_ps=4, thermalize_ps=0)
    with pytest.raises(DataError, match=r"trajectory 0 blew up before step \d+.*smaller timestep_fs"):
        sample(cfg)
    assert list(cfg.output.glob("0000.part/*.npz"))


@pytest.mark.parametrize("writes", [1, 2, 5, 8])
def test_full_disk_then_room_again(tmp_path, monkeypatch, writes):
    """The disk fills up at the n-th file; with room again, the result is the uninterrupted one."""
    whole, cut = config(tmp_path / "whole"), config(tmp_path / "cut")
    left = [2 * writes]  # a file is synced, then its folder

    def full(descriptor):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(DataError, match="No space left on device"):
            sample(cut)
    same(sample(cut)[0], sample(whole)[0])


def test_command_line_errors_are_one_line(tmp_path):
    for arguments in (
        ["sample", str(tmp_path / "none.yaml")],
        ["import", "none.xyz", "--out", str(tmp_path)],
    ):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 1
        assert len(done.stderr.splitlines()) == 1


def test_command_line_starts_without_jax():
    code = "import sys, symstride.cli; sys.exit(bool({'jax', 'ase', 'h5py'} & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


@pytest.mark.parametrize(
    ("structure", "says"),
    [
        ({"bulk": "Xx"}, "bulk Xx cannot be made"),
        ({"bulk": "Mg", "cubic": True}, "bulk Mg cannot be made"),
        ({"file": "no.xyz"}, "no.xyz cannot be made"),
        ({"file": "overlap.xyz"}, "atoms 0 and 1 of frame 0 are at one place"),
        ({"file": "flat.traj"}, "no length along a periodic direction"),
        ({"file": "charged.xyz"}, "charged.xyz: has initial_charges, which trajectories do not carry"),
        ({"bulk": "Al", "masses": {"H": 2.0, "D": 2.0}}, "masses: bulk Al has no D, H"),
    ],
)
def test_bad_structures(tmp_path, monkeypatch, structure, says):
    monkeypatch.chdir(tmp_path)
    ase_write("overlap.xyz", Atoms("Ar2", [[0, 0, 0], [0, 0, 0.01]]))
    ase_write("flat.traj", Atoms("Ar", pbc=True))
    ase_write("charged.xyz", Atoms("OH", [[0, 0, 0], [0, 0, 1]], charges=[-1, 0]))
    with pytest.raises((ConfigError, DataError), match=says):
        sample(config(tmp_path, structure=structure))


def test_argon_conserves_energy(tmp_path):
    argon = {"structure": {"bulk": "Ar", "cubic": True, "a": 5.4, "repeat": [2, 2, 2]}}
    lj = {"calculator": {"name": "lj", "arguments": {"sigma": 3.405, "epsilon": 0.01032, "rc": 8.0}}}
    cfg = config(tmp_path, **argon, **lj, temperature_K=40, thermalize_ps=0, length_ps=0.3, timestep_fs=5)
    t = h5md.read(sample(cfg)[0])
    total = t.energies + t.kinetic_energies
    assert total.std() < 0.01 * t.kinetic_energies.std()


def test_drift_estimate_is_honest():
    """Over many noisy lines with an oscillation, the slope's error has the size it claims."""
    rng = np.random.default_rng(0)
    times = np.arange(400.0)
    z = []
    for _ in range(300):
        noise = np.convolve(rng.normal(size=407), np.ones(8) / 8, "valid")[:400]
        slope, error = energy_drift(times, 0.7 * times / 1000 + noise + np.sin(times / 3 + rng.uniform(0, 6)))
        z.append((slope - 0.7) / error)
    assert abs(np.mean(z)) < 0.25
    assert 0.8 < np.std(z) < 1.4


def test_shadow_energy_of_verlet(tmp_path):
    """Oscillators: velocity Verlet keeps p²/2m + k(1 − (ωh)²/4)q²/2; the shadow follows it to h⁴."""
    cfg = config(tmp_path, **springs(tmp_path), timestep_fs=10, every=1, length_ps=1, thermalize_ps=0)
    t = h5md.read(sample(cfg)[0])
    assert t.energies is not None
    kept = t.kinetic_energies + (1 - (10 * FS) ** 2 / 39.948 / 4) * t.energies
    assert np.ptp(kept) < 1e-9 * kept.mean()
    total, shadow = t.energies + t.kinetic_energies, shadow_energies(t, 10)
    assert np.ptp(shadow) < 0.02 * np.ptp(total)


def test_openmm(tmp_path):
    openmm = pytest.importorskip("openmm")
    system = openmm.System()
    bond = openmm.HarmonicBondForce()
    for _ in range(2):
        system.addParticle(14.007)
    bond.addBond(0, 1, 0.11, 1e5)
    system.addForce(bond)
    (tmp_path / "n2.xml").write_text(openmm.XmlSerializer.serialize(system))
    atoms = Atoms("N2", [[0, 0, 0], [0, 0, 1.15]])
    atoms.calc = make_calculator(
        CalculatorConfig(name="openmm", arguments={"system": str(tmp_path / "n2.xml")})
    )
    assert atoms.get_potential_energy() == pytest.approx(0.5 * 1e5 * 0.005**2 * 0.01036427, rel=1e-6)
    assert atoms.get_forces()[0, 2] == pytest.approx(1e5 * 0.005 * 0.001036427, rel=1e-6)
    heavy = Atoms("N2", atoms.positions, masses=[15, 15], calculator=atoms.calc)
    heavy.calc.dynamics(heavy, 0.5).verlet()(1)
    heavy.calc.check(atoms)  # whose masses are not those that it moved last
    with pytest.raises(ConfigError, match="order or the masses differ"):
        Atoms("NO", atoms.positions, calculator=atoms.calc).get_forces()
    system.addConstraint(0, 1, 0.11)
    (tmp_path / "n2.xml").write_text(openmm.XmlSerializer.serialize(system))
    with pytest.raises(ConfigError, match="1 constraints"):
        make_calculator(CalculatorConfig(name="openmm", arguments={"system": str(tmp_path / "n2.xml")}))


def test_tblite(tmp_path):
    pytest.importorskip("tblite")
    ase_write(tmp_path / "h2.xyz", Atoms("H2", [[0, 0, 0], [0, 0, 0.77]]))
    tblite = {"structure": {"file": tmp_path / "h2.xyz"}, "calculator": {"name": "tblite"}}
    settings = {"thermalize_ps": 0.01, "length_ps": 0.01, "timestep_fs": 0.25, "every": 1}
    whole = config(tmp_path / "whole", **tblite, **settings)
    cut = config(tmp_path / "cut", **tblite, **settings)
    done = [0]
    with pytest.raises(Stopped):
        sample_one(cut, 0, lambda n: done.__setitem__(0, n), lambda: done[0] >= 60)
    same(sample(cut)[0], sample(whole)[0])
