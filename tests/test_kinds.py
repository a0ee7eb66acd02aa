"""Every kind of map from the configuration: it trains, keeps what it must, is saved and read again."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk

from symstride.data.config import SampleConfig
from symstride.data.pairs import Pairs, on_device
from symstride.data.sample import sample
from symstride.errors import ConfigError
from symstride.maps.direct import Corrected, Direct
from symstride.measure.structure import symplectic_defect, thermal_scales
from symstride.model import implicit_part, load_model
from symstride.neighbors import neighbor_list
from symstride.phase import Particles, Phase
from symstride.train.config import TrainConfig
from symstride.train.loop import train
from symstride.train.split import Split
from symstride.units import FS

jax.config.update("jax_enable_x64", True)

NETWORK = {"radial": 4, "channels": 4, "products": 4, "hidden": 8, "cutoff": 4.0, "layers": 1}
SCHEDULE = {"force_steps": 0, "steps": 100, "validate_every": 50, "validation_frames": 8, "frames": 4}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    settings = dict(structure={"bulk": "Al", "cubic": True}, calculator={"name": "emt"}, temperature_K=300)
    settings |= dict(trajectories=3, thermalize_ps=0.2, length_ps=0.24, timestep_fs=4, output=folder)
    sample(SampleConfig.model_validate(settings | {"max_drift_mev_per_atom_per_ps": 100}))
    return folder


def trained(kind, reference, folder, schedule=SCHEDULE, **changes):
    settings = {"kind": kind, "strides_fs": [16], "network": NETWORK, "precision": "float64"} | changes
    output = folder / f"{kind}.safetensors"
    config = dict(data=[f"{reference}/*.h5"], map=settings, schedule=schedule, output=output)
    return output, train(TrainConfig.model_validate(config))


@pytest.fixture(scope="module")
def explicit(reference, tmp_path_factory):
    path, _ = trained("explicit", reference, tmp_path_factory.mktemp("explicit"), strides_fs=[8, 16])
    return path


@pytest.fixture(scope="module")
def models(reference, explicit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    found = {
        "direct": trained("direct", reference, folder, SCHEDULE | {"steps": 300, "validate_every": 100}),
        "corrected": trained("corrected", reference, folder),
        "dressed": trained("s3", reference, folder, dressing=explicit),
    }
    return {kind: load_model(path) for kind, (path, _) in found.items()}


@pytest.fixture(scope="module")
def batch(reference):
    split = Split.of((f"{reference}/*.h5",), 0.3)
    return on_device(Pairs(split.validation, (16.0,), [13], 4.0).batch(np.random.default_rng(0), 4))


def test_predictions_and_corrections_are_learned(models, batch):
    """Of what there is to learn, dressed by free flight; the corrected map's sixty steps are few."""

    def last(kind):
        return models[kind].provenance["history"][-1]["strides_fs"]["16"]

    assert last("direct")["direct_momentum"] < 0.1
    assert last("direct")["direct_position"] < 0.3
    assert last("corrected")["direct_momentum"] < 0.9
    assert last("corrected")["generator_momentum"] < 0.2


def test_two_drifts_learn_more_than_one_could(explicit):
    last = load_model(explicit).provenance["history"][-1]["strides_fs"]["16"]
    assert last["momentum"] < 0.03
    assert last["position"] < 0.02  # one drift stays at 0.045


def test_what_a_dressing_leaves_is_small(models, batch):
    """Δ between the dressings is the explicit map's error, far below the stride's own change."""
    model = models["dressed"]
    a, b = jax.jit(lambda *ends: model.map.undress(*ends, batch.h, batch.particles))(batch.start, batch.end)
    left = jnp.sqrt(jnp.mean((b.p - a.p) ** 2)) / jnp.sqrt(jnp.mean((batch.end.p - batch.start.p) ** 2))
    assert left < 0.15
    assert model.dressing is not None
    assert model.dressing.config.kind == "explicit"
    assert model.scales.energy < 0.3 * model.dressing.scales.energy


def test_momentum_and_centre_are_kept_by_a_direct_predictor(models, batch):
    change = models["direct"].map.inner.change(batch.start, batch.h, batch.particles)
    assert float(jnp.abs(change.p).max()) > 1e-3
    np.testing.assert_allclose(change.p.reshape(4, -1, 3).sum(1), 0, atol=1e-12)
    np.testing.assert_allclose(change.q.reshape(4, -1, 3).sum(1), 0, atol=1e-12)


def test_direct_predictions_turn_with_the_system(models):
    atoms = bulk("Al", cubic=True) * (2, 1, 1)
    rng = np.random.default_rng(1)
    q, p = atoms.positions + 0.1 * rng.normal(size=(8, 3)), rng.normal(size=(8, 3))
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    direct, h = models["direct"].map.inner, jnp.full(8, 16 * FS)

    def change(turn):
        neighbors = neighbor_list(q @ turn, atoms.cell.array @ turn, atoms.pbc, 4.5)
        neighbors = jax.tree.map(jnp.asarray, neighbors)
        particles = Particles(jnp.zeros(8, int), jnp.asarray(atoms.get_masses()), neighbors, 1)
        return direct.change(Phase(jnp.asarray(q @ turn), jnp.asarray(p @ turn)), h, particles)

    one, other = change(np.eye(3)), change(turn)
    np.testing.assert_allclose(other.p, one.p @ turn, atol=1e-10)
    np.testing.assert_allclose(other.q, one.q @ turn, atol=1e-10)


def test_only_the_direct_map_lacks_structure(models, batch):
    z, h, particles = batch.start, batch.h, batch.particles
    scales = thermal_scales(particles.masses, 300, 16)
    defect = {}
    for kind, model in models.items():
        built = model.map if kind == "direct" else model.solved_to(1e-12).map
        step = lambda q, p, built=built: (lambda z: (z.q, z.p))(built(Phase(q, p), h, particles)[0])  # noqa: E731
        defect[kind] = symplectic_defect(step, z.q, z.p, scales)
    assert defect["direct"] > 1e-4
    assert defect["corrected"] < 1e-9
    assert defect["dressed"] < 1e-9


def test_a_prediction_saves_gradients_and_changes_nothing(models, batch):
    corrected = models["corrected"].solved_to(1e-10)
    plain = replace(corrected, map=type(corrected.map)(corrected.map.dressing, implicit_part(corrected.map)))
    ours, saved = corrected.map(batch.start, batch.h, batch.particles)
    theirs, spent = plain.map(batch.start, batch.h, batch.particles)
    np.testing.assert_allclose(ours.q, theirs.q, atol=1e-8)
    assert isinstance(corrected.map.inner, Corrected)
    assert isinstance(corrected.map.inner.predictor, Direct)
    assert np.all(np.asarray(saved.iterations) - 1 <= np.asarray(spent.iterations))


def test_a_dressing_must_fit(reference, explicit, tmp_path):
    with pytest.raises(ConfigError, match="a stride of 8 fs needs one for 4 fs"):
        trained("s3", reference, tmp_path, strides_fs=[8], dressing=explicit)
    with pytest.raises(ConfigError, match="have none"):
        trained("verlet", reference, tmp_path, dressing=explicit)
