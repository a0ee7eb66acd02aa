"""A model as a program that needs jax and flatbuffers alone, for systems of any size, on CPU and CUDA.

A zip file, nothing of it pickled, of two programs as `jax.export` writes them (StableHLO; jax reads them for
six months and more) and what is to be known of them:

    begin.bin    begin(q, p, system) → memory, before the first stride and wherever q has been changed
    advance.bin  advance(q, p, memory, system, strides, reach) → q, p, memory, done, sound, excursion
    model.json   stride, elements, cutoff, units, types of bonds, shapes of all arguments, provenance

`q`, `p` [n, 3] are float64 in Å and u Å/t, t = Å√(u/eV); positions are not wrapped. `system` is a dictionary:

    species [n]         int32, places in the list of elements
    masses [n]          u
    index [n, k]        int32, the neighbours j of each atom i, both ways
    shift [n, k, 3]     Å, their periodic images: r = q_j + shift − q_i
    mask [n, k]         False in slots that hold no neighbour; their index is that of any atom
    origin [n, 3]       Å, the positions where the list was found: all pairs closer than cutoff and skin
    close [c]           int32, only its length counts: an atom's slots for neighbours within the cutoff, c < k

and of a model with flights of bonds and angles (see `symstride.hamiltonians.bonded`; b and a are at least 1:
a term of stiffness 0 is none)

    bonds [2, b], bond_shifts [b, 3], stretch [3, b], angles [3, a], angle_shifts [2, a, 3], bend [2, a]

and of a model with charges, whose systems are periodic in all directions and neutral (nothing checks it)

    cell [3, 3]         Å, its vectors in rows
    waves [u, v, w]     int32, only its shape counts: the highest wave number along each cell vector, its
                        length (Å) times the model's `waves_per_angstrom`, and at least 1

`advance` takes up to so many strides (int64) and tells how many are `done`. It stops before one that would
lead an atom farther than `reach` (Å, half the skin) from `origin` if it went as far as the last, and one that
does is not taken: `excursion` is how far, ∞ where an atom has more than c neighbours within the cutoff. The
list is to be found anew at q then; where even with a new one none is done, the simulation is at its end. Nor
is a stride taken that was not solved, or is not finite: `sound` is False then. Each n, k and c is compiled
anew, and each u, v, w.
"""

import hashlib
import json
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ase.data import chemical_symbols
from jax import export

from symstride import __version__
from symstride.data.files import replacing
from symstride.errors import ConfigError
from symstride.hamiltonians.bonded import Bonded
from symstride.hamiltonians.ewald import ROOM
from symstride.maps.processed import Processed
from symstride.model import Model, load_model
from symstride.neighbors import Neighbors
from symstride.phase import Particles, Phase
from symstride.simulate.familiar import check_stride
from symstride.simulate.record import TRAINED
from symstride.simulate.stretch import Last
from symstride.units import FS

FORMAT = 1
PLATFORMS = ("cpu", "cuda")
UNITS = {"length": "Å", "energy": "eV", "mass": "u", "time": "Å√(u/eV)"}
System = dict[str, Any]


def export_model(model: Path, out: Path, stride_fs: float | None = None) -> dict[str, Any]:
    """Writes strides of one length (None: the longest) of a model file, and returns what model.json says.

    Raises ConfigError for a stride that the model was not trained for, for processed models and where
    flatbuffers is missing, ModelError for what is no model, DataError where `out` cannot be written.
    """
    loaded = load_model(model)
    if isinstance(loaded.map, Processed):
        raise ConfigError(
            f"{model}: a processed model goes on in other coordinates than those of its frames: "
            "`symstride run` runs it; export a model without a processor"
        )
    stride_fs = check_stride(loaded, stride_fs)
    if find_spec("flatbuffers") is None:
        raise ConfigError("jax writes and reads exports with flatbuffers: pip install 'symstride[export]'")
    programs = programs_of(loaded, stride_fs)
    elements, charged = [chemical_symbols[n] for n in loaded.elements], loaded.long_range
    about = {
        "format": FORMAT,
        "kind": loaded.config.kind,
        "stride_fs": stride_fs,
        "elements": elements,
        "cutoff": loaded.config.network.cutoff,
        "bonded": loaded.bonded.model_dump() if _flies_bonded(loaded) and loaded.bonded else None,
        "charges": charged and dict(zip(elements, charged.charges, strict=True)),
        "waves_per_angstrom": charged and ROOM * charged.waves_per_length,
        "units": UNITS | {"femtosecond": FS},
        "arguments": {name: _shapes(program) for name, program in programs.items()},
        "model_sha256": hashlib.sha256(Path(model).read_bytes()).hexdigest(),
        "provenance": {key: loaded.provenance[key] for key in TRAINED if key in loaded.provenance},
        "versions": {"symstride": __version__, "jax": jax.__version__},
    }
    entries = {f"{name}.bin": bytes(program.serialize()) for name, program in programs.items()}
    entries["model.json"] = json.dumps(about, indent=1, ensure_ascii=False).encode()
    with replacing(Path(out)) as file, zipfile.ZipFile(file, "w") as archive:
        for name, data in entries.items():
            archive.writestr(zipfile.ZipInfo(name), data)  # dated 1980: the same model gives the same file
    return about


def programs_of(model: Model, stride_fs: float) -> dict[str, export.Exported]:
    """`begin` and `advance` of a model without a processor, with symbolic numbers of atoms, slots, bonds."""
    h, cutoff = jnp.asarray(stride_fs * FS), model.config.network.cutoff

    def begin(q, p, system: System):
        return model.map.begin(Phase(q, p), h, _particles(system, cutoff))

    def advance(q, p, memory, system: System, strides, reach):
        particles = _particles(system, cutoff)

        def go_on(carry):
            _, _, done, last = carry
            return last.accepted & ~last.outrun & (done < strides)

        def stride(carry):
            z, memory, done, before = carry
            *after, status = model.map.step(z, memory, h, particles)
            last = Last.of(z, after[0], status, particles, reach, before.excursion)
            chosen = jax.tree.map(lambda new, old: jnp.where(last.accepted, new, old), after, [z, memory])
            return *chosen, done + last.accepted, last

        start = Phase(q, p), memory, jnp.zeros((), int), Last.none(q, particles)
        z, memory, done, last = jax.lax.while_loop(go_on, stride, start)
        sound = ~last.unsolved[0] & jnp.isfinite(last.moved[0])
        return z.q, z.p, memory, done, sound, last.excursion

    system = _symbolic(_flies_bonded(model), model.long_range is not None)
    at = system["origin"]
    first = export.export(jax.jit(begin), platforms=PLATFORMS)(at, at, system)
    memory = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in first.out_avals]
    memory = first.out_tree.unflatten(memory)
    strides, reach = (jax.ShapeDtypeStruct((), kind) for kind in (jnp.int64, jnp.float64))
    rest = export.export(jax.jit(advance), platforms=PLATFORMS)(at, at, memory, system, strides, reach)
    return {"begin": first, "advance": rest}


def _flies_bonded(model: Model) -> bool:
    return model.config.bonded or (model.dressing is not None and model.dressing.config.bonded)


def _symbolic(bonded: bool, charged: bool) -> System:
    """The shapes of a system."""
    n, k, c, b, a, u, v, w = export.symbolic_shape("n, k, c, b, a, u, v, w", constraints=["k >= c + 1"])

    def real(*shape) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float64)

    def whole(*shape) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.int32)

    system = {
        "species": whole(n),
        "masses": real(n),
        "index": whole(n, k),
        "shift": real(n, k, 3),
        "mask": jax.ShapeDtypeStruct((n, k), jnp.bool_),
        "origin": real(n, 3),
        "close": whole(c),
    }
    terms = {
        "bonds": whole(2, b),
        "bond_shifts": real(b, 3),
        "stretch": real(3, b),
        "angles": whole(3, a),
        "angle_shifts": real(2, a, 3),
        "bend": real(2, a),
    }
    periods = {"cell": real(3, 3), "waves": whole(u, v, w)}
    return system | (terms if bonded else {}) | (periods if charged else {})


def _particles(system: System, cutoff: float) -> Particles:
    q = system["origin"]
    pairs = system["index"], system["shift"], system["mask"], q
    neighbors = Neighbors(*pairs, cutoff, system["close"].shape[0])
    bonded = None
    if "bonds" in system:
        bonds = system["bonds"], system["bond_shifts"], system["stretch"]
        bonded = Bonded(*bonds, system["angles"], system["angle_shifts"], system["bend"], q.shape[0])
    cells, waves = None, None
    if "waves" in system:
        cells, waves = system["cell"][None], system["waves"].shape
    return Particles(system["species"], system["masses"], neighbors, 1, bonded, cells, waves)


def _shapes(program: export.Exported) -> dict[str, str]:
    """`float64[n,3]` of each array among the arguments, by its place in them."""
    arguments, _ = program.in_tree.unflatten(program.in_avals)
    names = ("q", "p", "memory", "system", "strides", "reach")
    names = ("q", "p", "system") if len(arguments) == 3 else names
    places, _ = jax.tree_util.tree_flatten_with_path(dict(zip(names, arguments, strict=True)))
    return {jax.tree_util.keystr(place, simple=True, separator="."): a.str_short() for place, a in places}
