"""Exported models: the library's strides, without the library, of any number of atoms."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk
from jax import export
from typer.testing import CliRunner

from symstride.actions.particle import SMALL
from symstride.cli import app
from symstride.data.bonds import perceive
from symstride.errors import ConfigError
from symstride.export import export_model
from symstride.hamiltonians import water
from symstride.hamiltonians.forcefield import Bend, ForceField, Stretch
from symstride.model import MapConfig, Model, NetworkConfig, Scales, build_map, save_model
from symstride.neighbors import neighbor_list
from symstride.phase import Particles, Phase
from symstride.units import FS, KB

pytest.importorskip("flatbuffers", reason="jax writes and reads its exports with flatbuffers")
jax.config.update("jax_enable_x64", True)

EXAMPLE = Path(__file__).parents[1] / "examples" / "portable.py"
NETWORK = NetworkConfig(cutoff=3.5, nearest=0.8, radial=4, channels=4, products=4, hidden=8)
SPC = ForceField(
    bonds={"H(O)-O(HH)": Stretch(stiffness=water.BOND, length=water.LENGTH)},
    angles={"H(O)-O(HH)-H(O)": Bend(stiffness=water.BEND, angle=water.ANGLE)},
    residual=0.0,
)
OURS = {"symstride", "equinox", "optimistix", "lineax", "ase", "vesin", "safetensors", "pydantic", "h5py"}
ALONE = """
import runpy, sys
sys.modules["symstride"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
print(*(name for name, module in sys.modules.items() if module))
"""


def saved(path, elements, bonded=None, energy=1e-3, **changes):
    config = MapConfig(**{"strides_fs": (2.0, 8.0), "network": NETWORK, "precision": "float64"} | changes)
    scales = Scales(energy=energy, length=0.3, stride_unit=0.1, temperature=300.0)
    built = build_map(config, scales, elements, jax.random.key(1))
    save_model(Model(built, config, scales, elements, {"temperature_K": [300.0, 300.0]}, None, bonded), path)
    return built


def waters(side):
    """A lattice of side³ molecules: numbers, masses, cell, z."""
    system, z = water.lattice(jax.random.key(0), side)
    numbers, masses = np.tile([8, 1, 1], side**3), np.tile([15.999, 1.008, 1.008], side**3)
    return numbers, masses, np.eye(3) * system.box, z


def terms(numbers, cell, q):
    """The bonds and angles of a system, and the same as an exported model is given them."""
    bonded = SPC.terms_of(perceive(numbers, q, cell, np.ones(3, bool), "water"), "water")
    names = ("bonds", "bond_shifts", "stretch", "angles", "angle_shifts", "bend")
    found = {name: np.asarray(getattr(bonded, name)) for name in names}
    return bonded, {k: v.astype(np.int32) if v.dtype == int else v for k, v in found.items()}


def follow(built, z, particles, strides):
    """The library's own."""
    step, h = eqx.filter_jit(type(built).step), 8 * FS
    particles = jax.tree.map(jnp.asarray, particles)
    memory, status = eqx.filter_jit(type(built).begin)(built, z, h, particles), None
    for _ in range(strides):
        z, memory, status = step(built, z, memory, h, particles)
    return z, status


def listed(q, cell):
    """The library's neighbour list, and what an exported model is given of it."""
    pairs = neighbor_list(q, cell, np.ones(3, bool), 3.5, 1.0)
    room = 1 + max(0, pairs.close - pairs.index.shape[1])  # one slot more than those within the cutoff
    arrays = {name: getattr(pairs, name) for name in ("index", "shift", "mask")}
    arrays = {k: np.pad(v, ((0, 0), (0, room), (0, 0))[: v.ndim]) for k, v in arrays.items()}
    return pairs, arrays | {"origin": pairs.origin, "close": np.zeros(pairs.close, np.int32)}


def load(path):
    with zipfile.ZipFile(path) as file:
        programs = [export.deserialize(bytearray(file.read(f"{name}.bin"))) for name in ("begin", "advance")]
        return *(jax.jit(program.call) for program in programs), json.loads(file.read("model.json"))


def test_strides_without_the_library(tmp_path):
    """A process without any of the library's dependencies but jax makes its strides, of so many atoms that a
    CPU takes them by blocks."""
    known = {"drift": "bonded", "charges": {"O": -0.82, "H": 0.41}}
    built = saved(tmp_path / "a.safetensors", (1, 8), SPC, kind="explicit", drifts=1, **known)
    told = CliRunner().invoke(app, ["export", str(tmp_path / "a.safetensors"), str(tmp_path / "a.zip")])
    assert "explicit map of H, O, 8 fs" in told.stdout
    numbers, masses, cell, z = waters(5)
    assert len(numbers) > SMALL
    q, p = np.asarray(z.q), np.asarray(z.p)
    bonded, arrays = terms(numbers, cell, q)
    species = (numbers == 8).astype(np.int32)
    np.savez(tmp_path / "start.npz", q=q, p=p, masses=masses, species=species, cell=cell, **arrays)
    files = [tmp_path / name for name in ("a.zip", "start.npz", "end.npz")]
    command = [sys.executable, "-c", ALONE, EXAMPLE, *files, "2"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert not OURS & set(done.stdout.split())
    assert "jax" in done.stdout.split()
    end = np.load(tmp_path / "end.npz")
    waves = built.kicks.long_range.waves(np.ones(3, bool), cell)
    particles = Particles(species, masses, listed(q, cell)[0], 1, bonded, cell[None], waves)
    wanted, _ = follow(built, z, particles, 2)
    np.testing.assert_allclose(end["q"], wanted.q, atol=1e-11)
    np.testing.assert_allclose(end["p"], wanted.p, atol=1e-11)


def test_an_implicit_stride_says_whether_it_was_solved(tmp_path):
    built = saved(tmp_path / "a.safetensors", (13,), energy=10.0, kind="s3", tolerance=1e-9)
    export_model(tmp_path / "a.safetensors", tmp_path / "a.zip", 8.0)
    begin, advance, about = load(tmp_path / "a.zip")
    assert about["stride_fs"] == 8.0
    assert about["arguments"]["advance"]["system.shift"] == "float64[n,k,3]"
    atoms = bulk("Al", cubic=True) * (2, 2, 2)
    rng = np.random.default_rng(0)
    masses, cell = 10 * atoms.get_masses(), atoms.cell.array  # too stiff for atoms of aluminium's mass
    q = atoms.positions + 0.1 * rng.normal(size=(32, 3))
    p = rng.normal(size=q.shape) * np.sqrt(270 * KB * 300)
    pairs, arrays = listed(q, cell)
    system = {"species": np.zeros(32, np.int32), "masses": masses} | arrays
    particles = Particles(system["species"], masses, pairs)
    wanted, status = follow(built, Phase(jnp.asarray(q), jnp.asarray(p)), particles, 1)
    memory = begin(q, p, system)
    q1, p1, _, done, sound, excursion = advance(q, p, memory, system, 1, 0.5)
    assert sound
    assert done == 1
    np.testing.assert_allclose(q1, wanted.q, atol=1e-11)
    np.testing.assert_allclose(p1, wanted.p, atol=1e-11)
    np.testing.assert_allclose(excursion, status.excursion, atol=1e-11)
    for wrong in ((p, system | {"masses": masses / 10}), (np.nan * p, system)):
        q1, p1, _, done, sound, _ = advance(q, wrong[0], memory, wrong[1], 3, 0.5)
        assert not sound
        assert done == 0
        np.testing.assert_array_equal(q1, q)
        np.testing.assert_array_equal(p1, wrong[0])
    q1, _, _, done, sound, _ = advance(q, p, memory, system, 100, 0.2)
    assert sound
    assert 0 < done < 100
    assert 0.1 < np.linalg.norm(q1 - q, axis=1).max() <= 0.2


def test_what_cannot_be_exported(tmp_path):
    saved(tmp_path / "a.safetensors", (13,), kind="explicit", processor=NETWORK)
    with pytest.raises(ConfigError, match="export a model without a processor"):
        export_model(tmp_path / "a.safetensors", tmp_path / "a.zip")
    saved(tmp_path / "a.safetensors", (13,), kind="explicit")
    with pytest.raises(ConfigError, match="trained for 2 to 8 fs"):
        export_model(tmp_path / "a.safetensors", tmp_path / "a.zip", 16.0)
    assert not (tmp_path / "a.zip").exists()
