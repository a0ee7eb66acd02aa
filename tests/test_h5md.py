"""Trajectory files: exact round trips, H5MD as other programs read it, and damage that is noticed."""

import resource
from dataclasses import replace

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from symstride.data import h5md
from symstride.data.files import replacing
from symstride.data.importers import load
from symstride.data.segments import Segments
from symstride.data.trajectory import Trajectory
from symstride.errors import DataError
from symstride.units import FS


def make(frames=5, atoms=4, seed=0, **changes) -> Trajectory:
    """A trajectory in a triclinic cell, periodic along two directions, that passes every check."""
    rng = np.random.default_rng(seed)
    grid = 2.5 * np.arange(atoms)[:, None] * np.array([0, 0, 1])
    made = Trajectory(
        numbers=rng.integers(1, 90, atoms),
        masses=rng.uniform(1, 200, atoms),
        cell=np.array([[6.0, 0, 0], [2.9, 5.1, 0], [0, 0, 0]]),
        pbc=np.array([True, True, False]),
        times=2.0 * np.arange(frames),
        positions=grid + rng.uniform(-0.5, 0.5, (frames, atoms, 3)) + [40, -30, 0],
        momenta=rng.normal(size=(frames, atoms, 3)) * 10.0 ** rng.integers(-8, 4, (frames, atoms, 1)),
        energies=rng.normal(size=frames),
        forces=rng.normal(size=(frames, atoms, 3)),
        info={"calculator": {"name": "emt", "arguments": {"x": np.float64(1.5)}}, "seed": np.int64(3)},
    )
    return replace(made, **changes)


def same(a: Trajectory, b: Trajectory) -> None:
    for name in ("numbers", "masses", "cell", "pbc", "times", "positions", "energies", "forces"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)


@given(st.integers(1, 7), st.integers(1, 9), st.integers(0, 1000))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_round_trip(tmp_path, frames, atoms, seed):
    trajectory = make(frames, atoms, seed)
    h5md.write(tmp_path / "a.h5", trajectory)
    back = h5md.read(tmp_path / "a.h5")
    same(trajectory, back)
    np.testing.assert_allclose(back.momenta, trajectory.momenta, rtol=1e-14, atol=0)
    assert back.info == {"calculator": {"name": "emt", "arguments": {"x": 1.5}}, "seed": 3}


def test_optional_parts(tmp_path):
    energies = np.array([1.0, np.nan, np.nan, np.nan, 2.0])  # not computed in between
    h5md.write(tmp_path / "a.h5", make(energies=energies, forces=None))
    back = h5md.read(tmp_path / "a.h5")
    assert back.forces is None
    np.testing.assert_array_equal(back.energies, energies)
    h5md.write(tmp_path / "b.h5", make(energies=None, pbc=np.zeros(3, bool), cell=np.zeros((3, 3))))
    assert h5md.read(tmp_path / "b.h5").energies is None


def test_cells_that_change_with_time(tmp_path):
    """Each frame has its own, as H5MD has it; what is learned from has one."""
    trajectory = make(pbc=np.ones(3, bool), cell=np.diag([6.0, 7.0, 8.0]))
    cells = trajectory.cell + 0.1 * np.random.default_rng(0).normal(size=(5, 3, 3))
    changing = replace(trajectory, cell=cells[0], cells=cells)
    path = tmp_path / "a.h5"
    parts = [
        replace(
            changing, **{n: getattr(changing, n)[part] for n in ("times", "positions", "momenta", "cells")}
        )
        for part in (slice(2), slice(2, 5))
    ]
    h5md.write_parts(path, ((replace(p, energies=None, forces=None), {}) for p in parts))
    back = h5md.read(path)
    np.testing.assert_array_equal(back.cells, cells)
    np.testing.assert_array_equal(back.cell, cells[0])
    np.testing.assert_allclose(back.volumes, np.linalg.det(cells))
    with h5py.File(path) as h5:
        edges = h5["particles/all/box/edges"]
        assert edges["value"].attrs["unit"] == "Angstrom"
        assert edges["time"].attrs["unit"] == "fs"
        np.testing.assert_array_equal(edges["step"], np.arange(5))
    with pytest.raises(DataError, match="the cell changes with time; a map is learned at constant cell"):
        load(path)
    with h5py.File(path, "r+") as h5:
        h5["particles/all/box/edges/value"].resize(3, axis=0)
    with pytest.raises(DataError, match="holds 3 cells and 5 frames"):
        h5md.read(path)


def test_layout_is_h5md(tmp_path):
    trajectory = make()
    h5md.write(tmp_path / "a.h5", trajectory, {"temperature": (np.arange(5.0), "K")})
    with h5py.File(tmp_path / "a.h5") as h5:
        assert list(h5["h5md"].attrs["version"]) == [1, 1]
        assert h5["h5md/creator"].attrs["name"] == "symstride"
        assert h5["h5md/author"].attrs["name"]
        particles = h5["particles/all"]
        assert particles["box"].attrs["dimension"] == 3
        assert list(particles["box"].attrs["boundary"]) == ["periodic", "periodic", "none"]
        units = {"position": "Angstrom", "velocity": "Angstrom fs-1", "force": "eV Angstrom-1"}
        for name, unit in units.items():
            assert particles[name]["value"].attrs["unit"] == unit
            assert particles[name]["time"].attrs["unit"] == "fs"
            np.testing.assert_array_equal(particles[name]["step"], np.arange(5))
        assert particles["mass"].attrs["unit"] == "u"
        assert particles["position"].attrs["unwrapped"]
        assert h5["observables/potential_energy/value"].attrs["unit"] == "eV"
        velocity = trajectory.momenta / trajectory.masses[:, None] * FS
        np.testing.assert_allclose(particles["velocity/value"], velocity, rtol=1e-15)
    values, unit = h5md.read_observables(tmp_path / "a.h5")["temperature"]
    assert unit == "K"
    np.testing.assert_array_equal(values, np.arange(5.0))


def test_units_and_images_of_other_programs(tmp_path):
    trajectory = make()
    path = tmp_path / "a.h5"
    h5md.write(path, trajectory)
    images = np.zeros((5, 4, 3), int)
    images[3, 1] = [1, -2, 0]
    with h5py.File(path, "r+") as h5:
        particles = h5["particles/all"]
        particles["position/value"][...] = (trajectory.positions - images @ trajectory.cell) / 10
        particles["position/value"].attrs["unit"] = "nm"
        particles["velocity/value"][...] *= 100
        particles["velocity/value"].attrs["unit"] = "nm ps-1"
        particles["image/value"] = images
    back = h5md.read(path)
    np.testing.assert_allclose(back.positions, trajectory.positions, atol=1e-12)
    np.testing.assert_allclose(back.momenta, trajectory.momenta, rtol=1e-13)


def _forge(path, name, **how):
    with h5py.File(path, "r+") as h5:
        del h5[name]
        if how:
            h5.create_dataset(name, **how).attrs["unit"] = "Angstrom"


def _set(name, index, value):
    def change(trajectory):
        array = np.array(getattr(trajectory, name), float)
        array[index] = value
        return replace(trajectory, **{name: array})

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("positions", (2, 3, 0), np.nan), "positions of atom 3 in frame 2"),
        (_set("momenta", (4, 0, 1), np.inf), "momenta of atom 0 in frame 4"),
        (_set("forces", (1, 2, 1), np.nan), "forces of atom 2 in frame 1"),
        (_set("energies", 3, np.inf), "energy of frame 3"),
        (_set("times", 3, 3.0), "time does not rise at frame 3"),
        (_set("times", 4, 9.0), "not equally spaced: 3 fs before frame 4, 2 fs elsewhere"),
        (_set("masses", 1, -1.0), "atom 1 has mass -1"),
        (_set("numbers", 2, 0), "atom 2 has atomic number 0"),
        (_set("cell", 1, [12, 0, 0]), "has no volume"),
        (_set("cell", 1, 0.0), "no length along a periodic direction"),
    ],
)
def test_faulty_contents(tmp_path, change, message):
    h5md.write(tmp_path / "a.h5", change(make()))
    with pytest.raises(DataError, match=message) as error:
        h5md.read(tmp_path / "a.h5")
    assert "a.h5" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("frame", [0, 4])
def test_two_atoms_on_one_place_through_the_cell(tmp_path, frame):
    trajectory = make()
    positions = trajectory.positions.copy()
    positions[frame, 2] = positions[frame, 0] + 3 * trajectory.cell[0] - 7 * trajectory.cell[1] + 0.03
    h5md.write(tmp_path / "a.h5", replace(trajectory, positions=positions))
    with pytest.raises(DataError, match=f"atoms 0 and 2 of frame {frame} are at one place"):
        h5md.read(tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("name", "how", "message"),
    [
        ("particles/all/velocity", {}, "has no velocities"),
        ("particles/all/box", {}, "box"),
        ("particles/all/mass", {}, "has no particles/all/mass"),
        ("particles", {}, "not an H5MD trajectory"),
        ("particles/all/position/value", {"shape": (10**12, 4, 3), "dtype": "f8"}, "truncated or forged"),
        (
            "particles/all/species",
            {"shape": (10**13,), "dtype": "i8", "chunks": (1024,)},
            "truncated or forged",
        ),
        (
            "particles/all/position/value",
            {"shape": (10**12, 4, 3), "dtype": "f8", "chunks": (64, 4, 3), "compression": "gzip"},
            "truncated or forged",
        ),
        ("particles/all/position/value", {"data": np.zeros((5, 3, 3))}, "it must be T × 4 × 3"),
        ("particles/all/position/value", {"data": np.full((5, 4, 3), b"x")}, "plain numbers"),
    ],
)
def test_forged_files(tmp_path, name, how, message):
    h5md.write(tmp_path / "a.h5", make())
    _forge(tmp_path / "a.h5", name, **how)
    with pytest.raises(DataError, match=message):
        h5md.read(tmp_path / "a.h5")


@given(st.floats(0, 1), st.integers(1, 255))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_is_noticed(tmp_path, where, flip):
    """Truncation anywhere is an error; a changed byte is one, or it does not touch the numbers."""
    trajectory = make()
    path = tmp_path / "a.h5"
    h5md.write(path, trajectory)
    whole = path.read_bytes()
    cut = int(where * (len(whole) - 1))
    path.write_bytes(whole[:cut])
    with pytest.raises(DataError):
        h5md.read(path)
    path.write_bytes(whole[:cut] + bytes([whole[cut] ^ flip]) + whole[cut + 1 :])
    try:
        back = h5md.read(path)
    except DataError as error:
        assert "\n" not in str(error)  # noqa: PT017 (either outcome is right)
    else:
        np.testing.assert_array_equal(back.positions, trajectory.positions)


def test_not_a_file(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        h5md.read(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(DataError, match="not a whole HDF5 file"):
        h5md.read(tmp_path / "text.h5")


@pytest.fixture
def full_disk():
    """Calling it makes the kernel refuse to write any file beyond 3000 bytes, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_keeps_the_old_file(tmp_path, full_disk):
    path = tmp_path / "a.h5"
    h5md.write(path, make(seed=1))
    segments = Segments(tmp_path / "a.part")
    segments.append(make(seed=1))
    full_disk()
    with pytest.raises(DataError, match="File too large"):
        h5md.write(path, make(frames=50, seed=2))
    with pytest.raises(DataError, match="File too large"):
        segments.append(make(frames=50, seed=2))
    same(h5md.read(path), make(seed=1))
    same(segments.load(), make(seed=1))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5", "a.part"]
    assert [p.name for p in segments.folder.iterdir()] == ["000000.npz"]


def test_an_error_while_writing_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail():
        with replacing(path) as file:
            file.write(b"new")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        h5md.write(tmp_path / "file" / "a.h5", make())


def test_info_must_be_json(tmp_path):
    with pytest.raises(DataError, match="JSON"):
        h5md.write(tmp_path / "a.h5", make(info={"f": lambda: None}))
    assert not list(tmp_path.iterdir())


def _part(trajectory, begin, end):
    cut = {
        n: getattr(trajectory, n)[begin:end] for n in ("times", "positions", "momenta", "energies", "forces")
    }
    return replace(trajectory, **cut)


def test_segments(tmp_path):
    whole = make(frames=7)
    segments = Segments(tmp_path / "a.part")
    assert segments.last() is None
    for begin, end in ((0, 3), (3, 4), (4, 7)):
        state = {"key": np.array([begin], np.uint32)}
        segments.append(_part(whole, begin, end), state, {"solver": (np.arange(begin, end), "")})
    same(segments.load(), whole)
    np.testing.assert_array_equal(segments.load().momenta, whole.momenta)
    last = segments.last()
    assert last is not None
    assert last[1] == {"key": 4}
    (segments.folder / ".000003.npz.77.tmp").write_bytes(b"half a segm")  # a kill while writing
    same(segments.load(), whole)
    segments.merge(tmp_path / "a.h5")
    same(h5md.read(tmp_path / "a.h5"), whole)
    np.testing.assert_array_equal(h5md.read_observables(tmp_path / "a.h5")["solver"][0], np.arange(7))
    assert not segments.folder.exists()


def test_segments_are_removed_all_at_once(tmp_path, monkeypatch):
    """Killed while it removes them, what is left is not taken for the whole; and goes the next time."""
    segments = Segments(tmp_path / "a.part")
    segments.append(make())

    def killed(*_, **__):
        if segments.folder.with_suffix(".removed").exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            segments.remove()
    assert segments.last() is None
    segments.remove()
    assert not list(tmp_path.iterdir())


def test_damaged_segment(tmp_path):
    segments = Segments(tmp_path / "a.part")
    with pytest.raises(DataError, match="no frames yet"):
        segments.merge(tmp_path / "a.h5")
    segments.append(make())
    path = segments.paths[0]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"000000\.npz: cannot be read"):
        segments.load()
    assert not (tmp_path / "a.h5").exists()


def test_parts_that_differ(tmp_path):
    segments = Segments(tmp_path / "a.part")
    segments.append(_part(make(), 0, 2))
    segments.append(replace(_part(make(), 2, 5), forces=None))
    with pytest.raises(DataError, match="not every part of the trajectory has particles/all/force"):
        segments.merge(tmp_path / "a.h5")
    assert len(segments.paths) == 2
