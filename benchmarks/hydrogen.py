"""A system with hydrogen, from its reference to a table: what water.py and molecules.py share."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from one_stride import Pairs, learned, respa, verlet
from rows import canonical, judged, simulate, with_energies
from systems import make

SKIN = 2.0  # Å
POINTS = 32  # frames that errors of one stride are measured from
BATHED = 8  # true trajectories in a bath
FEW = 4  # runs of which every frame is kept, for the spectrum
BATH_PS = 1.0
LAG = 2000.0  # fs, from which on oxygen diffuses


@dataclass(frozen=True)
class Study:
    """One system: how its reference is made, what is learned of it, where its stages are kept."""

    system: str  # of systems.py
    title: str
    work: Path
    strides: tuple[float, ...]  # fs
    network: dict
    schedule: dict
    data: dict = field(default_factory=dict)  # changes of its sample.yaml
    temperature: float = 300.0  # K
    explicit: str = "explicit"  # the learned map's file, of these strides
    outer: dict | None = None  # the network of its outermost kicks, if it is another
    inner_fs: float = 0.25  # steps of the bonds
    spectrum_ps: float = 20.0

    def configuration(self) -> dict:
        """What its reference is sampled with."""
        import yaml

        folder = self.work / "system"
        if not (folder / "sample.yaml").exists():
            make(self.system, folder, self.data.get("trajectories", 12))
        return yaml.safe_load((folder / "sample.yaml").read_text()) | self.data

    def model(self, name: str | None = None):
        """The explicit map with bonded drifts and two kicks, a network each; `verlet`, a potential of that
        size; `respa`, one about bonded drifts."""
        from symstride.data.config import SampleConfig
        from symstride.data.sample import sample
        from symstride.model import load_model
        from symstride.train.config import TrainConfig
        from symstride.train.loop import train
        from symstride.train.plots import describe

        bonded = {"drift": "bonded", "inner_fs": self.inner_fs}
        maps = {
            "explicit": {"kind": "explicit", "shared": False, "outer": self.outer} | bonded,
            "verlet": {"kind": "verlet"},
            "respa": {"kind": "verlet"} | bonded,
        }
        name = name or self.explicit
        path = self.work / f"{name}.safetensors"
        if not path.exists():
            data = tuple(map(str, sample(SampleConfig.model_validate(self.configuration()))))
            settings = maps[name.split("-")[0]] | {"strides_fs": self.strides, "network": self.network}
            schedule = self.schedule | (
                {} if name == self.explicit else {"steps": self.schedule["steps"] // 4}
            )
            config = {"data": data, "map": settings, "schedule": schedule, "output": path}
            train(
                TrainConfig.model_validate(config),
                lambda *at: print(describe(at[2]), flush=True) if at[2] else None,
            )
        return load_model(path)

    def calculator(self):
        from symstride.data.calculators import make_calculator
        from symstride.data.config import CalculatorConfig

        return make_calculator(CalculatorConfig.model_validate(self.configuration()["calculator"]))

    def reference(self, trajectories: int, ps: float, masses: dict[str, float] | None = None):
        """Trajectories not trained on, a frame every 2 fs; of the same system with other `masses` (u by
        symbol), if they are given."""
        from symstride.data import h5md
        from symstride.data.config import SampleConfig
        from symstride.data.sample import sample

        configuration = self.configuration()
        every = round(2 / configuration["timestep_fs"])
        changes = {"temperature_K": self.temperature, "trajectories": trajectories, "length_ps": ps}
        output = self.work / ("other-masses" if masses else "long")
        changes |= {"every": every, "seed": 1000, "output": output, "segment_frames": 1000}
        changes |= {"structure": configuration["structure"] | {"masses": masses}}
        paths = sample(SampleConfig.model_validate(configuration | changes))
        return [h5md.read(path) for path in paths]

    def canonical(self, starts, ps: float, frame_fs: float, friction_ps: float = 0.1):
        """Langevin dynamics in steps of 0.5 fs on the true forces, from these starts."""
        settings = (self.temperature, ps, 0.5, frame_fs, self.work / f"bath-{friction_ps:g}", friction_ps)
        return canonical(self.calculator(), starts, *settings)

    def errors(self, reference, stride: float, steps, outer) -> list[dict]:
        """Rows of one stride: on the true forces with these `steps` of velocity Verlet and `outer` steps of
        r-RESPA, and learned."""
        pairs = Pairs.of(reference, stride, POINTS, self.temperature)
        calculator, explicit = self.calculator(), self.model()
        rows = []
        for step in parts(stride, steps):
            ends = verlet(calculator, pairs, step)
            rows.append(pairs.row("verlet-reference", step, round(stride / step), ends))
        for step in parts(stride, outer):
            ends = respa(calculator, explicit.bonded, pairs, step)
            rows.append(pairs.row("respa", step, round(stride / step), ends))
        rows.append(pairs.row("explicit", None, 2, learned(explicit, pairs, stride, SKIN)))
        return [self.named(r) for r in rows]

    def runs(
        self,
        name: str,
        stride: float,
        starts,
        ps: float,
        frame_fs: float,
        bath: Callable | None = None,
        model: str | None = None,
    ):
        """Each start by itself, so that one that fails stops no other; those done before are read."""
        from symstride.data import h5md
        from symstride.simulate.plan import simulation_of

        found, energy, learned_map = [], self.calculator(), self.model(model)
        slots = [
            simulation_of(learned_map, t, stride, SKIN).particles(t.positions[0]).neighbors.slots
            for t in starts
        ]
        room = type(slots[0])(*map(max, zip(*slots, strict=True)))
        for k, start in enumerate(starts):
            path = self.work / f"{name}-{stride:g}-{k:03d}.h5"
            if not path.exists():
                (run,), gradients, failed = simulate(
                    learned_map,
                    stride,
                    [start],
                    ps,
                    skin=SKIN,
                    frame_fs=frame_fs,
                    room=room,
                    bath=bath and bath(k),
                )
                (run,) = with_energies([run], energy, max(100, frame_fs))
                h5md.write(path, replace(run, info={"gradients": gradients, "failed": failed}))
            found.append(h5md.read(path))
            print(path, found[-1].times[-1] / 1000, found[-1].info["failed"], flush=True)
        return found

    def row(self, name: str, stride: float, reference, starts: int, ps: float, frame_fs: float) -> dict:
        """A row of many long runs: `nve`, `langevin` or `csvr`.

        At constant energy they begin in frames of the reference, and a few tell the spectrum. In a bath they
        begin in frames of true Langevin dynamics in one like it, and are judged by it: energy that stretches
        have to spare at the start stays there for tens of picoseconds.
        """
        bath = {"nve": None, "langevin": self.langevin, "csvr": self.csvr}[name]
        if bath is not None:
            length = float(reference[0].times[-1] / 1000)
            true = self.canonical(spread(reference[:BATHED], BATHED), length, frame_fs, BATH_PS)
            runs = self.runs(name, stride, spread(true, starts), ps, frame_fs, bath)
            slowed = true if name == "langevin" else reference  # diffusion is, by its friction
            return self.run_row(f"explicit-{name}", stride, runs, true) | diffusion(runs, slowed)
        runs = self.runs(name, stride, spread(reference, starts), ps, frame_fs, bath)
        few = self.runs("spectrum", stride, spread(reference[:FEW], FEW), self.spectrum_ps, stride)
        row = self.run_row(f"explicit-{name}", stride, runs, reference) | diffusion(runs, reference)
        return row | {"spectrum": self.run_row("spectrum", stride, few, reference).get("comparisons")}

    def run_row(self, name: str, stride: float, runs, reference) -> dict:
        """All measures of runs whose starts may have ended at different times."""
        failures = np.array([t.times[-1] if t.info["failed"] else np.inf for t in runs])
        last = max(len(t.times) for t in runs)
        longest = next(t.times for t in runs if len(t.times) == last)
        whole = [_filled(t, longest) for t in runs]
        gradients = float(np.mean([t.info["gradients"] for t in runs]))
        failed = next((t.info["failed"] for t in runs if t.info["failed"]), None)
        row = judged(self.model(), stride, whole, reference, gradients, failed, {}, failures)
        return self.named({"method": name} | row)

    def langevin(self, seed: int):
        """A Langevin bath of `BATH_PS`."""
        from symstride.maps.thermostat import Langevin

        return self._bath(Langevin, seed)

    def csvr(self, seed: int):
        """Stochastic velocity rescaling of `BATH_PS`."""
        from symstride.maps.thermostat import VelocityRescaling

        return self._bath(VelocityRescaling, seed)

    def _bath(self, kind, seed: int):
        from symstride.units import FS, KB

        return lambda map: kind(map, KB * self.temperature, 1000 * BATH_PS * FS, seed)

    def mover(
        self, name: str | None, start, stride: float, replicas: int = 1, strides: int = 40
    ) -> Callable[[], float]:
        """Takes a stretch at each call and tells its seconds a picosecond of one replica."""
        import jax.numpy as jnp

        from symstride.phase import Phase
        from symstride.simulate.plan import simulation_of

        z = Phase(*(jnp.tile(getattr(start, x)[0], (replicas, 1)) for x in ("positions", "momenta")))
        copies = replace(start, positions=np.asarray(z.q).reshape(replicas, -1, 3))
        simulation = simulation_of(self.model(name), copies, stride, SKIN, replicas)
        done = simulation.stretch(z, None, strides)
        done = simulation.stretch(done.z, done.memory, strides, slots=done.slots)

        def move() -> float:
            nonlocal done
            began = time.perf_counter()
            done = simulation.stretch(done.z, done.memory, strides, slots=done.slots)
            if done.failure:
                raise done.failure.error
            return (time.perf_counter() - began) / (strides * stride / 1000 * replicas)

        return move

    def drift_over_kick(self, start, stride: float) -> float:
        """What one drift costs, of one kick: the ratio of medians of five stretches."""
        import equinox as eqx
        import jax.numpy as jnp

        from symstride.maps.palindrome import Palindrome
        from symstride.phase import Phase
        from symstride.simulate.plan import simulation_of
        from symstride.units import FS

        simulation = simulation_of(self.model(), start, stride, SKIN)
        z = Phase(*(jnp.asarray(getattr(start, x)[0]) for x in ("positions", "momenta")))
        particles, map, h = simulation.particles(z.q), simulation.map, stride * FS
        assert isinstance(map, Palindrome)
        fraction = map.fractions[0]
        drift = eqx.filter_jit(lambda z: map.flow.step(z, None, fraction * h, particles)[0].q)
        kick = eqx.filter_jit(lambda z: map.kicks.force(1, z.q, h, particles))

        def wall(work) -> float:
            work(z).block_until_ready()
            taken = []
            for _ in range(5):
                began = time.perf_counter()
                for _ in range(20):
                    work(z).block_until_ready()
                taken.append(time.perf_counter() - began)
            return sorted(taken)[2]

        return wall(drift) / wall(kick)

    def named(self, row: dict) -> dict:
        """With its system."""
        return {"system": self.title} | row


def in_turn(movers: list[Callable[[], float]], rounds: int = 7) -> list[float]:
    """The median of each, one after the other in every round: what else the machine does slows all alike."""
    return np.median([[move() for move in movers] for _ in range(rounds)], axis=0).tolist()


def parts(stride: float, steps) -> list[float]:
    """Those that make up a stride."""
    return [s for s in steps if s <= stride and abs(stride / s - round(stride / s)) < 1e-6]


def spread(reference, count: int):
    """As many starts: frames of the trajectories, equally far apart from each other and from the ends."""
    each = -(-count // len(reference))
    starts = []
    for n in range(each):
        for t in reference:
            k = (n + 1) * len(t.times) // (each + 1)
            starts.append(replace(t, positions=t.positions[k : k + 1], momenta=t.momenta[k : k + 1]))
    return starts[:count]


def diffusion(runs, reference) -> dict:
    """Of a liquid's oxygen, Å²/ps, from ⟨r²⟩ between one and two `LAG`s; runs that failed are left out. None
    of trajectories shorter than four."""
    from symstride.measure.observables import mean_square_displacement

    def slope(starts) -> tuple[float, float]:
        found = np.array([_slope(mean_square_displacement([t], 2 * LAG)["O"]) for t in starts])
        return float(found.mean()), float(found.std(ddof=1) / np.sqrt(len(found)))

    sound = [t for t in runs if not t.info["failed"]]
    short = any(t.times[-1] - t.times[0] < 4 * LAG for t in (*sound, *reference))
    if len(sound) < 2 or short or not reference[0].pbc.any():
        return {}
    return {"diffusion": slope(sound), "diffusion_reference": slope(reference)}


def _slope(curve) -> float:
    return 1000 * float(np.polyfit(curve.x[curve.x >= LAG], curve.value[curve.x >= LAG], 1)[0]) / 6


def _filled(t, times):
    """A trajectory as long as the others: what is missing repeats its last frame, without an energy."""
    more = len(times) - len(t.times)
    held = {
        x: np.concatenate([getattr(t, x), np.repeat(getattr(t, x)[-1:], more, 0)])
        for x in ("positions", "momenta")
    }
    rest = {
        x: np.pad(getattr(t, x), (0, more), constant_values=np.nan)
        for x in ("energies", "heat")
        if getattr(t, x) is not None
    }
    return replace(t, times=times, **held, **rest)
