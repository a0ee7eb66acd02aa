"""Strides of an exported model, with jax, numpy, and flatbuffers, with which jax reads its exports.

    symstride export models/aluminium-explicit.safetensors aluminium.zip
    python examples/portable.py aluminium.zip start.npz end.npz 100

start.npz holds q [N, 3] Å, p [N, 3] in u Å/t, t = Å√(u/eV) = 10.18 fs, masses [N] u, species [N] (int32,
places in the model's list of elements), cell [3, 3] Å, periodic, and bonds and angles if the model has them
(see `symstride.export`); end.npz the same, so many strides later.
"""

import json
import sys
import zipfile

import jax
import numpy as np
from jax import export

jax.config.update("jax_enable_x64", True)
SKIN = 2.0  # Å


def load(path):
    """The functions `begin` and `advance` of `symstride.export`, and what there is to know of the model."""
    with zipfile.ZipFile(path) as file:
        programs = [export.deserialize(bytearray(file.read(f"{name}.bin"))) for name in ("begin", "advance")]
        begin, advance = (jax.jit(program.call) for program in programs)
        return begin, advance, json.loads(file.read("model.json"))


def neighbours(q, cell, cutoff, spare=2):
    """The neighbour list of a periodic system at q, by trying all pairs, with slots to spare."""
    inverse = np.linalg.inv(cell)
    home = np.floor(q @ inverse) @ cell
    reach = cutoff + SKIN
    most = np.ceil(reach * np.linalg.norm(inverse, axis=0)).astype(int)
    images = (np.array(list(np.ndindex(*2 * most + 1))) - most) @ cell
    inside = q - home
    apart = inside[None, :, None] + images - inside[:, None, None]  # [N, N, images, 3]
    r = np.linalg.norm(apart, axis=-1).reshape(len(q), -1)
    near = (0 < r) & (r < reach)
    close = room((0 < r) & (r < cutoff), spare)
    slot = np.argsort(~near, axis=1, kind="stable")[:, : max(room(near, spare), close + 1)]
    index, image = np.divmod(slot, len(images))
    return {
        "index": index.astype(np.int32),
        "shift": images[image] + home[:, None] - home[index],
        "mask": np.take_along_axis(near, slot, axis=1),
        "origin": q,
        "close": np.zeros(close, np.int32),
    }


def room(pairs, spare):
    """Slots for the atom that has the most neighbours, in sixteens: each other number is compiled anew."""
    return -(-(pairs.sum(axis=1).max() + spare) // 16) * 16


def simulate(model, q, p, system, cell, strides):
    """q and p so many strides later; the list is found anew when an atom has gone half the skin."""
    begin, advance, about = model
    here = jax.devices()[0]
    if about["charges"]:
        waves = about["waves_per_angstrom"] * np.linalg.norm(cell, axis=1)
        waves = np.zeros(np.maximum(1, waves).astype(int), np.int32)
        system = system | {"cell": cell, "waves": waves}
    q, p, system = jax.device_put((q, p, system | neighbours(q, cell, about["cutoff"])), here)
    memory, spare = begin(q, p, system), 2
    while True:
        q, p, memory, done, sound, excursion = advance(q, p, memory, system, strides, SKIN / 2)
        strides -= int(done)
        if strides == 0:
            return np.asarray(q), np.asarray(p)
        if done == 0 and sound and np.isinf(excursion):  # an atom gets more neighbours than its slots
            spare += 16
        elif done == 0:
            why = f"an atom moved {excursion:.2f} Å" if sound else "it was not solved, or gave NaN"
            raise SystemExit(f"{strides} strides before the end: {why}")
        system |= jax.device_put(neighbours(np.asarray(q), cell, about["cutoff"], spare), here)


if __name__ == "__main__":
    model, start, end, strides = load(sys.argv[1]), *sys.argv[2:4], int(sys.argv[4])
    system = dict(np.load(start))
    q, p, cell = (system.pop(name) for name in ("q", "p", "cell"))
    q1, p1 = simulate(model, q, p, system, cell, strides)
    np.savez(end, q=q1, p=p1, cell=cell, **system)
