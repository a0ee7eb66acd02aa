"""Hybrid Monte Carlo samples the true canonical ensemble, however bad the map that proposes."""

import json
from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import SCFError
from ase.calculators.emt import EMT
from ase.io import write as ase_write
from scipy import stats
from scipy.integrate import quad

from symstride.data import h5md
from symstride.data.config import CalculatorConfig
from symstride.errors import ConfigError, DataError
from symstride.hamiltonians.base import Separable
from symstride.maps.composition import Composition
from symstride.maps.midpoint import midpoint
from symstride.maps.mixed import Mixed, symmetric
from symstride.maps.palindrome import Palindrome
from symstride.maps.splitting import PotentialKicks
from symstride.maps.substepping import Substepping
from symstride.maps.thermostat import Langevin
from symstride.model import MapConfig, Scales, build_map
from symstride.phase import Phase
from symstride.simulate.energies import TrueEnergies
from symstride.simulate.ghmc import HybridMonteCarlo
from symstride.simulate.nve import Simulation
from symstride.simulate.proposal import check_proposal
from symstride.simulate.record import sampled
from symstride.simulate.run import RunSettings, run
from symstride.simulate.start import read_start
from symstride.solve import Anderson
from test_run import NETWORK, Stopped, make_model, same, stop

jax.config.update("jax_enable_x64", True)
KT, REPLICAS = 0.7, 200
MASSES = np.array([1.0, 2.0, 1.0, 3.0, 2.0])
BONDS = len(MASSES) - 1


class Chain(Separable):
    """An open chain of anharmonic springs: its bonds are independent, so averages are integrals over one."""

    masses: np.ndarray
    stiffness: float = 1.0
    quartic: float = 1.0

    def bond(self, r2):
        return self.stiffness * r2 / 2 + self.quartic * r2**2 / 4

    def potential(self, q):
        return jnp.sum(self.bond(jnp.sum(jnp.diff(q, axis=0) ** 2, -1)))


def exact(power: int) -> float:
    """⟨v^power⟩ of one bond in three dimensions."""
    chain = Chain(MASSES)

    def weighted(r, power):
        v = chain.bond(r**2)
        return r**2 * v**power * np.exp(-v / KT)

    return quad(weighted, 0, 10, args=(power,))[0] / quad(weighted, 0, 10, args=(0,))[0]


POTENTIAL = jax.jit(jax.vmap(Chain(MASSES).potential))


def sampler(map, h, strides=1, replicas=REPLICAS) -> HybridMonteCarlo:
    simulation = Simulation(
        *(Langevin(map, KT, 1.0, 3), h, np.zeros(5, np.int32), MASSES, np.zeros((3, 3)), np.zeros(3, bool)),
        *(1e-3, 20.0, replicas),  # no neighbours that anyone asks for
    )
    return HybridMonteCarlo(simulation, lambda: lambda q: np.asarray(POTENTIAL(q)), strides)


def beginning(replicas: int) -> Phase:
    rng = np.random.default_rng(0)
    p = rng.normal(size=(replicas, 5, 3)) * np.sqrt(KT * MASSES)[:, None]
    p -= MASSES[:, None] / MASSES.sum() * p.sum(1, keepdims=True)
    q = 0.7 * rng.normal(size=(replicas, 5, 3)).cumsum(1)
    return Phase(jnp.asarray(q.reshape(-1, 3)), jnp.asarray(p.reshape(-1, 3)))


def palindrome(**wrong):
    return Palindrome(PotentialKicks(Chain(MASSES, **wrong)), drifts=1)


CASES = {  # a sampler, its moves, bounds of its acceptance
    "good, three strides": (lambda: sampler(palindrome(), 0.35, strides=3), 120, (0.8, 1.0)),
    "bad": (lambda: sampler(palindrome(stiffness=6.0, quartic=0.0), 0.35), 300, (0.2, 0.6)),
    "some unsolved": (lambda: sampler(midpoint(Chain(MASSES), KT, 1e-6, 15), 0.4, 1, 20), 150, (0.5, 0.99)),
}


@pytest.mark.parametrize("case", CASES)
def test_averages_are_exact_however_bad_the_map(case):
    """⟨V⟩ and ⟨V²⟩ within four standard errors of independent replicas, momenta as Maxwell has them."""
    make, moves, (lowest, highest) = CASES[case]
    chain = make()
    replicas = chain.simulation.replicas
    done = chain.stretch(beginning(replicas), None, chain.strides * moves, every=chain.strides)
    found = sampled(done.memory.moves)
    assert found["made"] == moves * replicas
    assert lowest < found["acceptance"] < highest
    assert (found["failed"] > 0) == (case == "some unsolved")
    later = done.energies[moves // 5 :]
    wanted = BONDS * exact(1), BONDS * exact(2) + BONDS * (BONDS - 1) * exact(1) ** 2
    for power, value in enumerate(wanted, 1):
        of_replicas = np.mean(later**power, 0)
        error = of_replicas.std() / np.sqrt(replicas)
        assert abs(of_replicas.mean() - value) < 4 * error
        assert error < 0.05 * value
    p = done.momenta.reshape(moves, replicas, 5, 3)
    assert np.abs(p.sum(2)).max() < 1e-10
    kinetic = np.sum(p**2 / MASSES[:, None], (2, 3))[-1] / 2
    assert stats.kstest(kinetic, stats.gamma(3 * BONDS / 2, scale=KT).cdf).pvalue > 1e-3
    total = done.energies[1:] + np.sum(p**2 / MASSES[:, None], (2, 3)) / 2 - done.heat
    accepted = np.abs(np.diff(done.energies[1:], axis=0)) > 0
    assert np.abs(np.diff(total, axis=0))[~accepted].max() < 1e-10  # what is rejected changes nothing


def test_where_a_path_leads_there_is_a_way_back():
    """Else a move would be made that is never made back, however well the averages look."""
    chain = sampler(midpoint(Chain(MASSES), KT, 1e-6, 15), 0.4, 1, 20)
    done = chain.stretch(beginning(20), None, 20)
    found = []
    for _ in range(60):
        particles = chain.particles(done.z.q)
        there = chain._propose(done.z, done.memory.inner, particles)
        back = chain._propose(there.z.reversed(), there.memory, particles)
        found.append((there.sound.all(), back.sound.all()))
        done = chain.stretch(done.z, done.memory, 1)
    assert {there for there, _ in found} == {True, False}
    assert all(back for there, back in found if there)


def test_in_equilibrium_the_weights_average_to_one():
    chain = sampler(palindrome(), 0.2)
    begun = chain.stretch(beginning(REPLICAS), None, 100)
    done = chain.stretch(begun.z, begun.memory, 100)
    moves = jax.tree.map(jnp.subtract, done.memory.moves, begun.memory.moves)
    weights = np.asarray(moves.weights / moves.judged)
    assert abs(weights.mean() - 1) < 4 * weights.std() / np.sqrt(REPLICAS)
    found = sampled(moves)
    assert found["acceptance"] == pytest.approx(found["normal_acceptance"], abs=0.05)


def test_what_cannot_be_a_proposal():
    for kind, changes, message in (
        ("direct", {}, "a direct predictor is neither reversible nor volume-preserving"),
        ("corrected", {"corrections": 3}, "a predictor with 3 corrections is neither"),
        ("s3", {"tolerance": 1e-4}, r"solved to 0.0001 .* up to 0.019 kT .* a tolerance of 5.2e-05"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_proposal(a_map(kind, **changes), 192)
    with pytest.raises(ConfigError, match="divided ones are not reversible"):
        check_proposal(Substepping(a_map("s3")), 192)
    for kind in ("explicit", "corrected", "s3"):
        check_proposal(a_map(kind, tolerance=1e-5), 192, strides=5)
    one, other = a_map("explicit"), a_map("explicit", drifts=1)
    half = Mixed(one, Anderson(tolerance=1e-9), KT)  # whatever its action, S² alone is not reversible
    for parts, fractions in (
        ((one, other), (0.5, 0.5)),
        ((one, one), (0.4, 0.6)),
        ((half, half), (0.5, 0.5)),
    ):
        with pytest.raises(ConfigError, match="a Composition that does not read the same backwards"):
            check_proposal(Composition(parts, fractions), 192)
    with pytest.raises(ConfigError, match="a Mixed that does not"):
        check_proposal(half, 192)
    check_proposal(Composition((one, other, one), (0.3, 0.4, 0.3)), 192)
    check_proposal(symmetric(half), 192)
    with pytest.raises(ConfigError, match=r"a tolerance of 8\.7e-06"):
        check_proposal(a_map("corrected", tolerance=1e-5), 192, strides=6)


def a_map(kind, **changes):
    config = MapConfig(**{"kind": kind, "strides_fs": (8.0,), "network": NETWORK} | changes)
    scales = Scales(energy=1e-3, length=0.5, stride_unit=0.1, temperature=300.0)
    return eqx.filter_eval_shape(build_map, config, scales, (13,), jax.random.key(0))


@pytest.fixture(scope="module")
def lattice(tmp_path_factory):
    path = tmp_path_factory.mktemp("structure") / "al.xyz"
    ase_write(path, bulk("Al", cubic=True) * (2, 2, 2))
    return path


def settings(**changes) -> RunSettings:
    """12 moves of two strides, three saves."""
    return RunSettings(
        **{
            "temperature_K": 300, "length_ps": 0.048, "stride_fs": 2, "every": 2, "chunk": 4, "replicas": 2,
            "thermostat": "ghmc", "ghmc_strides": 2, "calculator": CalculatorConfig(name="emt"),
        } | changes
    )  # fmt: skip


def test_a_run_stopped_goes_on_to_the_same_end(lattice, tmp_path):
    model = make_model(tmp_path / "model.safetensors", strides_fs=(2.0,))
    out, cut = tmp_path / "out", tmp_path / "cut"
    run(model, lattice, out, settings())
    with pytest.raises(Stopped):
        run(model, lattice, cut, settings(), stop)
    same(out, run(model, lattice, cut, settings()), 2)
    record, again = (json.loads((folder / "run.json").read_text()) for folder in (out, cut))
    assert record["moves"] == again["moves"]
    assert record["moves"]["made"] == 24
    assert 0 < record["moves"]["acceptance"] < 1
    assert record["independent"]["true_energies_per_sample"] > 0
    atoms = bulk("Al", cubic=True) * (2, 2, 2)
    atoms.calc = EMT()
    for k in range(2):
        t = h5md.read(out / f"{k:03d}.h5")
        np.testing.assert_allclose(t.times, 4.0 * np.arange(13))
        for n in range(13):
            atoms.positions = t.positions[n]
            assert t.energies[n] == pytest.approx(atoms.get_potential_energy(), abs=1e-9)


def test_bad_settings(lattice, tmp_path):
    with pytest.raises(ConfigError, match="calculator: give one; ghmc accepts and rejects"):
        settings(calculator=None)
    with pytest.raises(ConfigError, match=r"every: 3 is not right.*ghmc_strides = 2"):
        settings(every=3)
    direct = make_model(tmp_path / "direct.safetensors", "direct", strides_fs=(2.0,))
    with pytest.raises(ConfigError, match="a direct predictor is neither"):
        run(direct, lattice, tmp_path / "out", settings())
    assert not (tmp_path / "out" / "run.json").exists()


def test_a_calculation_that_fails_is_no_energy_and_a_broken_calculator_an_error(lattice):
    def failing(error):
        def energy(*_, **__):
            raise error

        return SimpleNamespace(reset=lambda: None, get_potential_energy=energy, implemented_properties=[])

    start = read_start(lattice, 1, draws=True)
    energies = TrueEnergies(failing(SCFError("not converged")), 1, start).of_replicas()
    assert energies(start.positions).tolist() == [np.inf]
    with pytest.raises(DataError, match=r"the calculator failed \(OSError: no licence\)"):
        TrueEnergies(failing(OSError("no licence")), 1, start).of_replicas()(start.positions)
