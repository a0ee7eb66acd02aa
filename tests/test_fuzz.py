"""Files from anywhere: what is damaged, forged or made to exhaust the machine is refused in one line."""

import io
import json
import resource
import struct
import zipfile
from pathlib import Path

import h5py
import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from symstride.data import h5md
from symstride.data.config import LARGEST, SampleConfig, load_config
from symstride.data.segments import Segments
from symstride.data.trajectory import Trajectory
from symstride.errors import ConfigError, DataError, ModelError
from symstride.model import MapConfig, Model, NetworkConfig, Scales, build_map, load_model, save_model
from symstride.train.config import TrainConfig

jax.config.update("jax_enable_x64", True)

MEMORY = 2**31  # bytes that reading may take, of address space
NASTY = (
    *(0, -1, 10**9, 10**18, 10**30, 10**400, 1e308, -1e-308, float("nan"), float("inf"), True, None),
    *("", "x\ny", "\ud800", "9" * 5000, [], [[]], {}, {"kind": "s3"}, [1e308] * 3, [10**9] * 9),
)
SAMPLE = """
structure: {bulk: Al, cubic: true, a: 4.0, repeat: [2, 2, 2]}
calculator: {name: emt}
temperature_K: [300, 5e2]
trajectories: 4
length_ps: 1
timestep_fs: 2
output: reference
"""


def fuzzed(examples: int):
    """The same examples each time."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )


@pytest.fixture(autouse=True)
def little_memory():
    """An allocation beyond what an honest file needs fails, also where its pages would never be touched."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def read(reader, path, kind, lines=1):
    """What a reader makes of a file: None if it refuses it as it should."""
    try:
        return reader(path)
    except kind as error:
        said = str(error)
    assert said.startswith(str(path))
    assert len(said.splitlines()) <= lines
    return None


@st.composite
def damage(draw, whole: bytes) -> bytes:
    """Cut off somewhere, or with some bytes changed, taken out or put in."""
    place = draw(st.integers(0, len(whole) - 1))
    if draw(st.booleans()):
        return whole[:place]
    taken, put = draw(st.integers(0, 8)), draw(st.binary(max_size=8))
    return whole[:place] + put + whole[place + taken :]


# models


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> bytes:
    """A model file: an implicit map dressed by an explicit one."""
    sizes = NetworkConfig(radial=4, channels=4, products=4, hidden=4, layers=1)
    scales = Scales(energy=1.0, length=0.3, stride_unit=0.1, temperature=300.0)
    made = None
    for kind in ("explicit", "s3"):
        config = MapConfig(kind=kind, strides_fs=(16.0,), network=sizes)
        built = build_map(config, scales, (13,), jax.random.key(0), made)
        made = Model(built, config, scales, (13,), {"temperature_K": [300.0, 300.0]}, made)
    path = tmp_path_factory.mktemp("model") / "a.safetensors"
    save_model(made, path)
    return path.read_bytes()


def parts(whole: bytes) -> tuple[dict, dict, bytes]:
    """The header of a safetensors file, the model's within it, and the arrays."""
    size = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + size])
    return header, json.loads(header["__metadata__"]["symstride"]), whole[8 + size :]


def joined(header: dict, told: dict | str, arrays: bytes) -> bytes:
    told = told if isinstance(told, str) else json.dumps(told)
    text = json.dumps(header | {"__metadata__": {"symstride": told}}).encode()
    return struct.pack("<Q", len(text)) + text + arrays


def places(tree, at=()) -> list[tuple]:
    """Of all values in nested dictionaries and lists."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [at] * bool(at) + [place for key, value in inner for place in places(value, (*at, key))]


def changed(tree, place: tuple, value):
    """`tree` with another value there."""
    if not place:
        return value
    tree = tree.copy()
    tree[place[0]] = changed(tree[place[0]], place[1:], value)
    return tree


@given(st.data())
@fuzzed(60)
def test_damaged_models(tmp_path, model, data):
    path = tmp_path / "a.safetensors"
    path.write_bytes(data.draw(damage(model)))
    read(load_model, path, ModelError)


@given(st.data(), st.sampled_from(NASTY))
@fuzzed(150)
def test_forged_models(tmp_path, model, data, value):
    """Whatever the header says: of the network, or of the arrays' types, shapes and places."""
    header, told, arrays = parts(model)
    path = tmp_path / "a.safetensors"
    if data.draw(st.booleans()):
        told = changed(told, data.draw(st.sampled_from(places(told))), value)
    else:
        header = {k: v for k, v in header.items() if k != "__metadata__"}
        header = changed(header, data.draw(st.sampled_from(places(header))), value)
    path.write_bytes(joined(header, told, arrays))
    read(load_model, path, ModelError)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("config", "network", "cutoff"), 1000.0),
        (("provenance", "temperature_K"), "abc"),
        (("provenance", "fastest_cm1"), "x"),
        (("provenance", "volume_A3_per_atom"), 5),
        (("provenance", "masses_u"), ["x"]),
        (("provenance", "validation"), {"strides_fs": {"16": {"momentum": "x"}}}),
        (("provenance", "recipe"), {"data": 3}),
    ],
)
def test_what_a_run_reads_of_a_model_is_looked_at_before(tmp_path, model, place, value):
    header, told, arrays = parts(model)
    path = tmp_path / "a.safetensors"
    *within, last = place
    inner = told
    for key in within:
        inner = inner[key]
    inner[last] = value
    path.write_bytes(joined(header, told, arrays))
    with pytest.raises(ModelError, match=last):
        load_model(path)


@pytest.mark.parametrize("size", ["channels", "hidden", "radial", "products"])
def test_an_enormous_network_is_refused(tmp_path, model, size):
    header, told, arrays = parts(model)
    path = tmp_path / "a.safetensors"
    path.write_bytes(joined(header, changed(told, ("config", "network", size), 10**9), arrays))
    with pytest.raises(ModelError, match="has shape"):
        load_model(path)


def test_a_model_that_never_ends_is_refused(tmp_path, model):
    header, told, arrays = parts(model)
    path = tmp_path / "a.safetensors"
    for _ in range(300):
        told = told | {"dressing": told}
    path.write_bytes(joined(header, told, arrays))
    with pytest.raises(ModelError, match="only explicit models dress others"):
        load_model(path)
    path.write_bytes(joined(header, "[" * 10**6, arrays))
    with pytest.raises(ModelError, match="recursion"):
        load_model(path)
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(ModelError, match="not a readable model"):
        load_model(path)


# trajectories


def trajectory(**changes) -> Trajectory:
    rng = np.random.default_rng(0)
    plain = {
        "numbers": np.array([13, 13, 8]),
        "masses": np.array([27.0, 27.0, 16.0]),
        "cell": 6 * np.eye(3),
        "pbc": np.ones(3, bool),
        "times": 2.0 * np.arange(4),
        "positions": 2.0 * np.arange(3)[:, None] + rng.uniform(-0.5, 0.5, (4, 3, 3)),
        "momenta": rng.normal(size=(4, 3, 3)),
    }
    return Trajectory(**plain | changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("h5") / "a.h5"
    h5md.write(path, trajectory())
    return path.read_bytes()


@given(st.data())
@fuzzed(150)
def test_damaged_trajectories(tmp_path, whole, data):
    path = tmp_path / "a.h5"
    path.write_bytes(data.draw(damage(whole)))
    read(h5md.read, path, DataError)
    read(h5md.read_observables, path, DataError)


ALL = "particles/all"


def without(h5, *names):
    for name in names:
        del h5[name]


def links(h5):
    """To a file beside, whole and good."""
    without(h5, f"{ALL}/position")
    h5[f"{ALL}/position"] = h5py.ExternalLink("good.h5", f"{ALL}/position")


def linked_softly(h5):
    without(h5, f"{ALL}/mass")
    h5["elsewhere"] = h5py.ExternalLink("good.h5", "/")
    h5[f"{ALL}/mass"] = h5py.SoftLink(f"/elsewhere/{ALL}/mass")


def linked_in_circles(h5):
    without(h5, f"{ALL}/mass")
    h5[f"{ALL}/mass"] = h5py.SoftLink(f"/{ALL}/mass")


def virtual(h5):
    without(h5, f"{ALL}/mass")
    layout = h5py.VirtualLayout((3,), "f8")
    layout[:] = h5py.VirtualSource("good.h5", f"{ALL}/mass", (3,))
    h5.create_virtual_dataset(f"{ALL}/mass", layout)


def stored_outside(h5):
    without(h5, f"{ALL}/mass")
    h5.create_dataset(f"{ALL}/mass", (3,), "f8", external="good.h5")


def crowd_of_nobody(h5):
    """10¹² frames of no atoms, at equal times."""
    without(h5, f"{ALL}/species", f"{ALL}/mass", f"{ALL}/position", f"{ALL}/velocity")
    h5[f"{ALL}/species"] = np.zeros(0, int)
    for name in ("mass", "position/value", "velocity/value"):
        shape = (0,) if name == "mass" else (10**12, 0, 3)
        h5.create_dataset(
            f"{ALL}/{name}", shape, "f8", chunks=(1,) * len(shape), maxshape=(None,) * len(shape)
        )
        h5[f"{ALL}/{name}"].attrs["unit"] = "Angstrom"
    h5[f"{ALL}/position/time"] = 1.0
    h5[f"{ALL}/position/time"].attrs["unit"] = "fs"


def large_chunk(h5):
    """4 GB of zeros in a few MB."""
    without(h5, f"{ALL}/mass")
    h5.create_dataset(f"{ALL}/mass", (3,), "f8", chunks=(2**28,), maxshape=(None,), compression="gzip")
    h5[f"{ALL}/mass"].attrs["unit"] = "u"


def endless(name):
    """A dataset in the place of a group."""

    def forge(h5):
        attributes = dict(h5[name].attrs)
        without(h5, name)
        data = h5.create_dataset(name, (10**13,), "i8", chunks=(1024,), compression="gzip")
        data.attrs.update(attributes)

    return forge


def unit(text):
    def forge(h5):
        h5[f"{ALL}/mass"].attrs["unit"] = text

    return forge


def attribute(name, key, value):
    def forge(h5):
        h5[name].attrs[key] = value

    return forge


@pytest.mark.parametrize(
    ("forge", "says"),
    [
        (links, "link out of the file"),
        (linked_softly, "link out of the file"),
        (linked_in_circles, "too many links"),
        (virtual, "plain numbers"),
        (stored_outside, "plain numbers"),
        (crowd_of_nobody, "holds no atoms"),
        (large_chunk, "chunks larger than the file"),
        (endless("particles"), "not an H5MD trajectory"),
        (endless(f"{ALL}/box"), "box with its boundary"),
        (endless(f"{ALL}/box/edges"), "truncated or forged"),
        (endless(f"{ALL}/mass"), "it must be 3"),
        (unit("nm+999999999"), "damaged"),
        (unit("x\ud800".encode("utf-8", "surrogatepass")), "known are"),
        (unit(["u"] * 9), "has shape"),
        (attribute(f"{ALL}/box", "boundary", ["periodic"] * 1000), "has shape"),
        (attribute("parameters", "info", "[" * 60000), "damaged"),
        (attribute("parameters", "info", "9" * 5000), "damaged"),
        (attribute("parameters", "info", h5py.Empty("i8")), "has shape"),
    ],
)
def test_forged_trajectories(tmp_path, forge, says):
    h5md.write(tmp_path / "good.h5", trajectory())
    h5md.write(tmp_path / "a.h5", trajectory())
    with h5py.File(tmp_path / "a.h5", "r+") as h5:
        forge(h5)
    assert (tmp_path / "a.h5").stat().st_size < 10**6
    with pytest.raises(DataError, match=says) as error:
        h5md.read(tmp_path / "a.h5")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"cell": np.diag([6, 6, 1e-3])}, "longer than 1e.07 Å or thinner than 0.1 Å"),
        ({"cell": np.diag([1e9, 1e9, 1e9])}, "longer than 1e.07 Å or thinner than 0.1 Å"),
        (
            {"cell": np.array([[6, 0, 0], [6, 1e-4, 0], [0, 0, 6]])},
            "longer than 1e.07 Å or thinner than 0.1 Å",
        ),
        ({"positions": trajectory().positions * 1e300}, "farther than 1e.07 Å"),
        (
            {
                "numbers": np.full(10**5, 13),
                "masses": np.full(10**5, 27.0),
                "times": np.zeros(1),
                "positions": np.full((1, 10**5, 3), 1.0),
                "momenta": np.zeros((1, 10**5, 3)),
            },
            "atoms .* are at one place",
        ),
    ],
)
def test_systems_with_endless_neighbours(tmp_path, changes, says):
    """Whose pairs no memory holds, or whose positions no neighbour search can number."""
    h5md.write(tmp_path / "a.h5", trajectory(**changes))
    with pytest.raises(DataError, match=says):
        h5md.read(tmp_path / "a.h5")


def test_cells_of_all_frames_are_looked_at(tmp_path):
    cells = np.repeat(6 * np.eye(3)[None], 4, 0)
    for frame, cell, says in (
        (3, np.diag([6, 6, 1e-8]), "frame 3: the cell .* thinner than 0.1 Å"),
        (1, np.zeros((3, 3)), "frame 1: the cell .* no length"),
        (2, np.full((3, 3), np.nan), "box edges are not finite"),
    ):
        bad = cells.copy()
        bad[frame] = cell
        h5md.write(tmp_path / "a.h5", trajectory(cells=bad))
        with pytest.raises(DataError, match=says):
            h5md.read(tmp_path / "a.h5")


# segments and checkpoints


@pytest.fixture(scope="module")
def segment(tmp_path_factory) -> bytes:
    segments = Segments(tmp_path_factory.mktemp("segments"))
    segments.append(trajectory(), {"strides": np.arange(3), "q": np.ones((4, 3))})
    return segments.paths[0].read_bytes()


@given(st.data())
@fuzzed(150)
def test_damaged_segments(tmp_path, segment, data):
    path = tmp_path / "000000.npz"
    path.write_bytes(data.draw(damage(segment)))
    read(lambda path: Segments(path.parent).last(), path, DataError)


@given(st.integers(0, 10**6), st.integers(0, 7))
@fuzzed(300)
def test_segments_with_a_flipped_bit(tmp_path, segment, place, bit):
    path, turned = tmp_path / "000000.npz", bytearray(segment)
    turned[place % len(turned)] ^= 1 << bit
    path.write_bytes(turned)
    read(lambda path: Segments(path.parent).last(), path, DataError)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_forged_segments(tmp_path, compression):
    """An array that claims 8 TB, and one that is 4 GB of zeros."""
    path, header = tmp_path / "000000.npz", io.BytesIO()
    count = 10**12 if compression == zipfile.ZIP_STORED else 2**29
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (count,)})
    with zipfile.ZipFile(path, "w", compression) as archive, archive.open("times.npy", "w") as member:
        member.write(header.getvalue())
    assert path.stat().st_size < 10**3
    with pytest.raises(DataError, match="cannot be read"):
        Segments(tmp_path).last()


# configurations


@given(st.data())
@fuzzed(200)
def test_damaged_configurations(tmp_path, data):
    path = tmp_path / "a.yaml"
    path.write_bytes(data.draw(damage(SAMPLE.encode())))
    read(lambda path: load_config(path, SampleConfig), path, ConfigError, lines=50)


SCALARS = ["0x" + "f" * 10**4, "1" * 10**4, "1:" * 30 + "1", "2001-99-99", ".inf", "'\\0'", '"\\ud800"', "~"]
TAGS = [
    "int",
    "float",
    "bool",
    "null",
    "timestamp",
    "binary",
    "set",
    "omap",
    "pairs",
    "merge",
    "value",
    "map",
]


@given(
    st.sampled_from(list(SampleConfig.model_fields)), st.sampled_from(SCALARS), st.sampled_from(["", *TAGS])
)
@fuzzed(150)
def test_forged_configurations(tmp_path, key, scalar, tag):
    path = tmp_path / "a.yaml"
    path.write_text(f"{SAMPLE}\n{key}: {f'!!{tag} ' if tag else ''}{scalar}\n")
    read(lambda path: load_config(path, SampleConfig), path, ConfigError, lines=50)


LAUGHS = "a0: &a0 [ha]\n" + "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(12))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"{LAUGHS}data: *a12\n", "aliases are not read"),
        ("data: &a [*a]\n", "aliases are not read"),
        ("data: " + "[" * 10**5, "recursion"),
        ("data: " + "1" * 10**5, "more than 40 digits"),
        ("data: 0x" + "f" * 10**5, "more than 40 digits"),
        ("data: " + "x" * LARGEST, "no configuration"),
        ("data: !!python/object/apply:os.system [touch ran]\n", "could not determine a constructor"),
        ("data: !!python/name:os.system\n", "could not determine a constructor"),
        ("? [1, 2]\n: 3\n", "unhashable"),
    ],
)
def test_what_no_configuration_holds(tmp_path, monkeypatch, text, says):
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=says) as error:
        load_config(Path("a.yaml"), TrainConfig)
    assert len(str(error.value)) < 1000
    assert not Path("ran").exists()
    with pytest.raises(ConfigError, match="no configuration"):
        load_config(Path("/dev/zero"), TrainConfig)
