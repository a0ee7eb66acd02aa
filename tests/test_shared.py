"""Replicas shared by devices move as on one of them."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk
from ase.io import write as ase_write

from symstride.data import h5md
from symstride.maps.barostat import CellRescaling, counted_from
from symstride.maps.thermostat import Langevin, split
from symstride.phase import Phase
from symstride.simulate.nve import Simulation
from symstride.simulate.run import RunSettings, run
from symstride.simulate.shared import Shared
from symstride.simulate.start import Start
from test_ghmc import KT, MASSES, beginning, palindrome
from test_run import make_model, watched

jax.config.update("jax_enable_x64", True)


def two_devices(code: str) -> None:
    """Functions of this file, where there are two."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    environment = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    environment |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    done = subprocess.run(
        [sys.executable, "-c", f"import test_shared as t; {code}"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


CASES = {  # what makes a model, settings, strides until it is stopped, how far rounding takes it
    "explicit": (partial(make_model, kind="verlet"), {"length_ps": 0.4}, 15, 1e-8),
    "all that a memory can hold": (
        partial(watched, kind="s3", energy=1e-2),
        {"unsolved": "substep", "length_ps": 0.16},
        5,
        1e-6,
    ),
}


def run_in_a_bath(case: str, home: Path) -> None:
    """Stopped, and gone on with."""
    _, changes, stopped, _ = CASES[case]
    bath = {"temperature_K": 300, "thermostat": "csvr"}
    settings = RunSettings(**{"chunk": 5, "skin": 1.0, "replicas": 3} | bath | changes)

    def stop(done: int, *_) -> None:
        if done == stopped:
            raise KeyboardInterrupt

    for progress in (stop, lambda *_: None):
        try:
            run(home.parent / "model.safetensors", home.parent / "al.xyz", home, settings, progress)
        except KeyboardInterrupt:
            assert progress is stop


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore::symstride.errors.SymstrideWarning")
def test_a_run_on_two_devices_is_that_on_one(case, tmp_path):
    """Three replicas, of which one device has two."""
    make, _, _, rounding = CASES[case]
    make(tmp_path / "model.safetensors")
    atoms = bulk("Al", cubic=True)
    atoms.rattle(0.05, seed=0)
    atoms.set_momenta(np.random.default_rng(0).normal(size=(4, 3)))  # none, and forces would be looked at
    ase_write(tmp_path / "al.xyz", atoms)
    home = tmp_path / "two"
    two_devices(f"t.run_in_a_bath({case!r}, t.Path({str(home)!r}))")
    run_in_a_bath(case, tmp_path / "one")
    one, two = ([h5md.read(tmp_path / n / f"{k:03d}.h5") for k in range(3)] for n in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.times, b.times)
        for part in ("positions", "momenta", "heat"):
            np.testing.assert_allclose(getattr(b, part), getattr(a, part), atol=rounding, err_msg=part)
    assert not np.allclose(one[0].heat, one[2].heat)
    a, b = (json.loads((tmp_path / n / "run.json").read_text()) for n in ("one", "two"))
    for key in ("settings", "strides"):
        assert a[key] == b[key]
    if case == "explicit":
        assert a["gradients_per_stride"] == b["gradients_per_stride"]
        return
    assert a["divided_strides"] == b["divided_strides"]
    assert a["novelty"]["strides_beyond"] == b["novelty"]["strides_beyond"]
    assert any(a["novelty"]["strides_beyond"])
    assert a["gradients_per_stride"] == pytest.approx(b["gradients_per_stride"], rel=0.01)


def chains(replicas: int, first: int, fast: bool) -> tuple[Simulation, Start]:
    """Anharmonic chains in a bath; of the fast ones one goes astray, the last but one."""
    z = beginning(4)
    q, p = (np.asarray(x).reshape(4, -1, 3) for x in (z.q, z.p))
    if fast:
        p = p * np.array([1, 1, 300, 1])[:, None, None]
    here = slice(first, first + replicas)
    cell, pbc = np.zeros((3, 3)), np.zeros(3, bool)
    start = Start(np.ones(5, int), MASSES, cell, pbc, q[here], p[here], 300.0, "chains")
    map = counted_from(Langevin(palindrome(), KT, 1.0, 3), first)
    return Simulation(map, 0.35, np.zeros(5, np.int32), MASSES, cell, pbc, 1e-3, 20.0, replicas), start


def check_chains(fast: bool) -> None:
    assert len(jax.local_devices()) == 2
    whole, start = chains(4, 0, fast)
    shared = Shared.of(whole, [chains(3, 0, fast)[0], chains(1, 3, fast)[0]], start)
    z = replace(beginning(4), p=jnp.asarray(start.momenta.reshape(-1, 3)))
    wanted, found = (s.stretch(z, None, 40, every=3, frames=14) for s in (whole, shared))
    assert found.strides == wanted.strides
    assert (found.strides < 40) == fast
    for part in ("positions", "momenta", "heat", "gradients"):
        np.testing.assert_allclose(getattr(found, part), getattr(wanted, part), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.z.q, wanted.z.q, rtol=1e-9)
    if fast:
        assert wanted.failure is not None
        assert found.failure is not None
        assert found.failure.replica == wanted.failure.replica == 2
        assert str(found.failure.error) == str(wanted.failure.error)
    else:
        again = shared.stretch(found.z, found.memory, 5)
        np.testing.assert_allclose(again.z.p, whole.stretch(wanted.z, wanted.memory, 5).z.p, atol=1e-9)


def check_keys() -> None:
    """No two noises are one: of replicas, of their barostats, of strides."""
    whole, _ = chains(4, 0, False)
    box = CellRescaling(whole.map, 0.0, 1.0, 1.0, 1, True, 3)
    z = beginning(4)
    particles = replace(whole, cell=9 * np.eye(3)).particles(z.q)
    memory = box.begin(z, whole.h, particles)
    seen = []
    for keys in (memory.key, memory.inner.key):
        for _ in range(3):
            seen.append(keys)
            keys, *used = split(keys)
            seen += used
    seen = np.concatenate(seen)
    assert len(np.unique(seen, axis=0)) == len(seen)


def check_boxes() -> None:
    """The memory of a barostat, apart and together again."""

    def barostat(simulation: Simulation) -> Simulation:
        map = CellRescaling(simulation.map, 0.0, 1.0, 1.0, 1, True, 3)
        return replace(simulation, map=map, cell=9 * np.eye(3))

    (whole, start), (one, _), (rest, _) = (chains(*part, False) for part in ((4, 0), (1, 0), (3, 1)))
    shares = [barostat(one), barostat(rest)]
    shared = Shared.of(barostat(whole), shares, start)
    z = beginning(4)
    memory = shared.begin(z, shared.particles(z.q))
    parts = shared._apart(memory)
    z = Phase(z.q[5:], z.p[5:])
    jax.tree.map(np.testing.assert_array_equal, parts[1], shares[1].begin(z, shares[1].particles(z.q)))
    jax.tree.map(np.testing.assert_array_equal, shared._together(parts), memory)


def test_a_replica_that_fails_ends_all_at_its_stride():
    two_devices("t.check_keys(); t.check_boxes(); t.check_chains(False); t.check_chains(True)")
