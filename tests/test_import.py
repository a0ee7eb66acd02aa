"""Trajectories of other programs: what is taken over, and what is said when something is missing."""

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write as ase_write
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from symstride.cli import app
from symstride.data import h5md
from symstride.data.importers import load
from symstride.data.trajectory import Trajectory
from symstride.data.unwrap import unwrap
from symstride.errors import DataError
from symstride.units import FS

CELL = np.array([[6.0, 0, 0], [1.5, 5.5, 0], [-0.7, 0.4, 6.5]])


def vibrating(frames=40, spacing=2.0, atoms=6, seed=0, cell=CELL, pbc=(True, True, True)) -> Trajectory:
    """Free flight with a vibration of 100 fs on top: unwrapped, momenta exact, crossing many cells."""
    rng = np.random.default_rng(seed)
    numbers = rng.choice([13, 8], atoms)
    masses = np.where(numbers == 13, 26.981, 15.999)
    time = spacing * np.arange(frames)[:, None, None]
    velocity, axis = 0.04 * rng.normal(size=(2, atoms, 3))
    omega, phase = 2 * np.pi / 100, rng.uniform(0, 6, (atoms, 1))
    grid = np.array([[i, j, k] for i in range(2) for j in range(2) for k in range(2)])[:atoms] / 2 @ CELL
    pbc = np.array(pbc)
    return Trajectory(
        numbers=numbers,
        masses=masses,
        cell=np.where(pbc[:, None], cell, 0.0),
        pbc=pbc,
        times=time[:, 0, 0],
        positions=grid + velocity * time + axis / omega * np.sin(omega * time + phase),
        momenta=masses[:, None] * (velocity + axis * np.cos(omega * time + phase)) / FS,
    )


def wrapped(t: Trajectory) -> np.ndarray:
    inverse = np.linalg.pinv(t.cell)
    return t.positions - np.floor(t.positions @ inverse) @ t.cell


def frames_of(t: Trajectory, results=True, **changes) -> list[Atoms]:
    frames = []
    for index, (q, p) in enumerate(zip(wrapped(t), t.momenta, strict=True)):
        atoms = Atoms(t.numbers, q, cell=t.cell, pbc=t.pbc, momenta=p, masses=t.masses)
        if results:
            atoms.calc = SinglePointCalculator(atoms, energy=float(index), forces=np.full(q.shape, 0.5))
        for name, value in changes.items():
            getattr(atoms, f"set_{name}")(value)
        frames.append(atoms)
    return frames


def lammps(t: Trajectory, columns="id type element x y z vx vy vz", step=2, shuffle=True) -> str:
    """A text dump in metal units (Å/ps), rows in any order, box bounds as LAMMPS writes a tilted cell."""
    rng = np.random.default_rng(1)
    velocity = t.momenta / t.masses[:, None] * FS * 1000
    names = {13: "Al", 8: "O"}
    text = []
    for k, (q, v) in enumerate(zip(wrapped(t), velocity, strict=True)):
        lx, ly, lz = np.diag(t.cell)
        xy, xz, yz = t.cell[1, 0], t.cell[2, 0], t.cell[2, 1]
        xs = [0, xy, xz, xy + xz]
        text += ["ITEM: TIMESTEP", f"{step * k}", "ITEM: NUMBER OF ATOMS", f"{t.n_atoms}"]
        text += ["ITEM: BOX BOUNDS xy xz yz pp pp pp", f"{min(xs):.10f} {lx + max(xs):.10f} {xy}"]
        text += [f"{min(0, yz):.10f} {ly + max(0, yz):.10f} {xz}", f"0 {lz} {yz}", f"ITEM: ATOMS {columns}"]
        for i in rng.permutation(t.n_atoms) if shuffle else range(t.n_atoms):
            values = dict(zip("x y z vx vy vz".split(), (f"{x:.12f}" for x in (*q[i], *v[i])), strict=True))
            kind = 1 if t.numbers[i] == 13 else 2
            values |= {"id": i + 1, "type": kind, "element": names[t.numbers[i]], "mass": t.masses[i]}
            text.append(" ".join(str(values[c]) for c in columns.split()))
    return "\n".join(text) + "\n"


def equal(back: Trajectory, t: Trajectory, rtol=1e-7) -> None:
    """The same motion; the origin may be another image."""
    np.testing.assert_array_equal(back.numbers, t.numbers)
    np.testing.assert_allclose(back.masses, t.masses)
    np.testing.assert_allclose(back.cell, t.cell, atol=1e-6)
    np.testing.assert_allclose(back.times, t.times, atol=1e-9)
    np.testing.assert_allclose(back.positions - back.positions[0], t.positions - t.positions[0], atol=2e-6)
    np.testing.assert_allclose(back.momenta, t.momenta, rtol=rtol, atol=2e-7)


@pytest.mark.parametrize("name", ["a.extxyz", "a.traj"])
def test_ase_files(tmp_path, name):
    t = vibrating()
    ase_write(tmp_path / name, frames_of(t))
    (back,) = load(tmp_path / name, spacing_fs=2.0)
    equal(back, t)
    assert back.energies is not None
    assert back.forces is not None
    np.testing.assert_allclose(back.energies, np.arange(40))
    np.testing.assert_allclose(back.forces, 0.5)


def test_times_in_the_file_begin_trajectories_anew(tmp_path):
    t, other = vibrating(), vibrating(frames=10, seed=2)
    frames = [*frames_of(t), *frames_of(other)]
    for atoms, time in zip(frames, [*t.times, *other.times], strict=True):
        atoms.info["time"] = time
    ase_write(tmp_path / "a.extxyz", frames)
    first, second = load(tmp_path / "a.extxyz")
    equal(first, t)
    equal(second, other)
    with pytest.raises(DataError, match="2 fs apart by their own `time`, --spacing-fs says 1"):
        load(tmp_path / "a.extxyz", spacing_fs=1.0)


@pytest.mark.parametrize("columns", ["id type element x y z vx vy vz", "type vx vy vz x y z id mass"])
def test_lammps(tmp_path, columns):
    t = vibrating()
    if "mass" in columns:  # repartitioned masses are the trajectory's own
        t = replace(t, masses=t.masses + 1, momenta=t.momenta * ((t.masses + 1) / t.masses)[:, None])
    else:
        from ase.data import atomic_masses

        masses = atomic_masses[t.numbers]
        t = replace(t, masses=masses, momenta=t.momenta * (masses / t.masses)[:, None])
    (tmp_path / "a.lammpstrj").write_text(lammps(t, columns))
    types = None if "element" in columns else ["Al", "O"]
    (back,) = load(tmp_path / "a.lammpstrj", units="metal", timestep_fs=1.0, types=types)
    equal(back, t, rtol=1e-6)
    assert back.energies is None


def test_h5md(tmp_path):
    t = vibrating()
    h5md.write(tmp_path / "a.h5", replace(t, positions=wrapped(t)))
    (back,) = load(tmp_path / "a.h5")
    equal(back, t, rtol=1e-13)


@given(st.integers(0, 10**6), st.tuples(st.booleans(), st.booleans(), st.booleans()))
@settings(max_examples=40, deadline=None)
def test_unwrapping(seed, pbc):
    t = vibrating(seed=seed, pbc=pbc, spacing=4.0)
    back = unwrap(replace(t, positions=wrapped(t)), "it")
    np.testing.assert_allclose(back.positions - back.positions[0], t.positions - t.positions[0], atol=1e-10)
    assert unwrap(t, "it").positions.tobytes() == t.positions.tobytes()


@pytest.mark.parametrize("factor", [0.5, 2.0, 10.18, 1 / 10.18])
def test_momenta_in_other_units(factor):
    t = vibrating()
    with pytest.raises(
        DataError, match=r"it: atoms move [\d.]+ times as far between frames as their momenta say"
    ):
        unwrap(replace(t, momenta=t.momenta * factor), "it")


def test_frames_too_far_apart():
    t = vibrating(spacing=50.0)
    momenta = t.momenta.copy()
    momenta[1::2] *= -1  # uncorrelated from frame to frame
    with pytest.raises(
        DataError, match=r"atom \d moves too far from frame \d+ to \d+ to tell its periodic image"
    ):
        unwrap(replace(t, positions=wrapped(t), momenta=momenta), "it")


def _last(frames, change):
    change(frames[-1])
    return frames


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        ([Atoms("Al", cell=[4] * 3, pbc=True)] * 2, "frame 0 has no momenta"),
        (frames_of(replace(vibrating(), momenta=0 * vibrating().momenta)), "all momenta are zero"),
        (_last(frames_of(vibrating(5)), lambda a: a.set_cell(1.1 * CELL)), "the cell changes at frame 4"),
        (_last(frames_of(vibrating(5)), lambda a: a.set_pbc(False)), "the cell changes at frame 4"),
        (
            _last(frames_of(vibrating(5)), lambda a: a.set_atomic_numbers(a.numbers[::-1])),
            "frame 4 changes the order of its atoms",
        ),
        (_last(frames_of(vibrating(5)), lambda a: a.set_atomic_numbers([1] * 6)), "changes the species"),
        (_last(frames_of(vibrating(5)), lambda a: a.set_masses([1] * 6)), "frame 4 changes the masses"),
        (_last(frames_of(vibrating(5), False), lambda a: a.pop()), "frame 4 has 5 atoms, frame 0 has 6"),
    ],
)
def test_inconsistent_frames(tmp_path, frames, says):
    ase_write(tmp_path / "a.traj", frames)
    with pytest.raises(DataError, match=says):
        load(tmp_path / "a.traj", spacing_fs=2.0)


def test_no_times(tmp_path):
    ase_write(tmp_path / "a.extxyz", frames_of(vibrating()))
    with pytest.raises(DataError, match="give --spacing-fs"):
        load(tmp_path / "a.extxyz")


def test_uneven_times(tmp_path):
    frames = frames_of(vibrating(4))
    for atoms, time in zip(frames, [0, 2, 4, 7], strict=True):
        atoms.info["time"] = time
    ase_write(tmp_path / "a.extxyz", frames)
    with pytest.raises(DataError, match="not equally spaced: 3 fs before frame 3"):
        load(tmp_path / "a.extxyz")


@pytest.mark.parametrize(
    ("columns", "options", "says"),
    [
        ("id element x y z vx vy vz", {"units": None}, "give --units metal or --units real"),
        ("id element x y z vx vy vz", {"units": "lj"}, "give --units metal or --units real"),
        ("id element x y z vx vy vz", {"timestep_fs": None}, "give --timestep-fs"),
        ("element x y z vx vy vz", {}, "no column 'id'"),
        ("id element x y z", {}, "has no momenta.*dump vx vy vz"),
        ("id type x y z vx vy vz", {}, "give --types"),
        ("id type x y z vx vy vz", {"types": ["Al"]}, "atom type 2; --types names 1"),
        ("id type x y z vx vy vz", {"types": ["Al", "Qq"]}, "Qq is not an element"),
        ("id element x y z vx vy vz", {"units": "real"}, "wrong units or time spacing"),
        (
            "id element x y z vx vy vz",
            {"timestep_fs": 5.0},
            "times as far between frames as their momenta say",
        ),
    ],
)
def test_lammps_that_lacks_something(tmp_path, columns, options, says):
    (tmp_path / "a.dump").write_text(lammps(vibrating(), columns))
    with pytest.raises(DataError, match=says) as error:
        load(tmp_path / "a.dump", **({"units": "metal", "timestep_fs": 1.0} | options))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a.dump", "a.extxyz", "a.traj"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.7, 0.995])
def test_truncated_files(tmp_path, name, part):
    path = tmp_path / name
    path.write_text(lammps(vibrating(6))) if name == "a.dump" else ase_write(path, frames_of(vibrating(6)))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(DataError) as error:
        load(path, spacing_fs=2.0 if name != "a.dump" else None, timestep_fs=1.0, units="metal")
    assert "\n" not in str(error.value)
    assert name in str(error.value)


def test_unknown_files(tmp_path):
    (tmp_path / "a.pdb").write_text("")
    with pytest.raises(DataError, match="unknown kind of file"):
        load(tmp_path / "a.pdb")
    with pytest.raises(DataError, match="no such file"):
        load(tmp_path / "a.xyz")


def test_command(tmp_path):
    t = vibrating()
    ase_write(tmp_path / "a.extxyz", frames_of(t))
    ase_write(tmp_path / "b.traj", frames_of(t))
    out = tmp_path / "out"
    arguments = ["import", str(tmp_path / "a.extxyz"), str(tmp_path / "b.traj"), "--out", str(out)]
    done = CliRunner().invoke(app, [*arguments, "--spacing-fs", "2"])
    assert done.exit_code == 0, done.output
    equal(h5md.read(out / "a.h5"), t)
    equal(h5md.read(out / "b.h5"), t)
    again = CliRunner().invoke(app, [*arguments, "--spacing-fs", "2"])
    assert again.exit_code == 1
    assert "a.h5 exists" in again.stderr


def test_command_writes_nothing_if_one_file_is_wrong(tmp_path):
    ase_write(tmp_path / "a.extxyz", frames_of(vibrating()))
    (tmp_path / "b.extxyz").write_text("rubbish\n")
    files = [str(tmp_path / "a.extxyz"), str(tmp_path / "b.extxyz")]
    done = CliRunner().invoke(app, ["import", *files, "--out", str(tmp_path / "out"), "--spacing-fs", "2"])
    assert done.exit_code == 1
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
