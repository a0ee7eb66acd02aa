"""What a run leaves in its directory: segments while it goes on, a trajectory for each replica at its end."""

import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import write as ase_write

from symstride.data import h5md
from symstride.data.files import replacing
from symstride.data.segments import Segments
from symstride.data.trajectory import Trajectory
from symstride.errors import ConfigError, DataError

OTHERS = {"start_sha256": "from another structure or frame", "model_sha256": "of another model"}
LONGER = "; a longer run can begin where this one ends: give this directory as its structure"


@dataclass(frozen=True)
class Output:
    """`run.json` and, in `run.part`, segments of the flat graph of all replicas; then `000.h5` and so on."""

    folder: Path

    @property
    def segments(self) -> Segments:
        return Segments(self.folder / "run.part")

    def record(self) -> dict[str, Any]:
        """run.json; empty if there is none. Raises DataError if it is damaged."""
        path = self.folder / "run.json"
        if not path.exists():
            return {}
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(record, dict) or not isinstance(record.get("settings"), dict):
                raise ValueError("no settings in it")
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: damaged ({error}); use another directory") from error
        return record

    def write_record(self, record: dict[str, Any]) -> None:
        with replacing(self.folder / "run.json") as file:
            file.write(json.dumps(record, indent=1, ensure_ascii=False).encode())

    def claim(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The record of an earlier run with these settings, or an empty one. Refuses one with others."""
        record = self.record()
        for key, now in settings.items() if record else ():
            was = record["settings"].get(key)
            if was != now:
                held = OTHERS.get(key, f"with {key} = {was}, now it is {now}")
                longer = LONGER if key == "length_ps" and now > was else ""
                raise ConfigError(f"out: {self.folder} holds a run {held}; use another directory{longer}")
        return record

    def merge(self, infos: Sequence[dict[str, Any]], extxyz: bool) -> None:
        """Writes the trajectories of all replicas, each with its `info` besides; the segments remain."""
        for k, info in enumerate(infos):
            parts = ((replace(t, info=t.info | info), {}) for t in self._parts(k, len(infos)))
            h5md.write_parts(self.folder / f"{k:03d}.h5", parts)
            if extxyz:
                self._write_extxyz(k, len(infos))

    def trajectories(self) -> list[Trajectory]:
        """Of all replicas, also of an incomplete run. Raises DataError if there are no frames yet."""
        if self.segments.paths:
            flat = self.segments.load()
            replicas = int(self.record()["settings"]["replicas"])
            return [_replica(flat, k, replicas) for k in range(replicas)]
        paths = sorted(self.folder.glob("[0-9][0-9][0-9]*.h5"), key=lambda path: int(path.stem))
        if not paths:
            raise DataError(f"{self.folder}: holds no frames of a run")
        return [h5md.read(path) for path in paths]

    def energies(self) -> np.ndarray:
        """Potential energies [F, replicas] of a run's segments, all of whose frames have them."""
        found = (part.energies for part, _ in self.segments.parts() if len(part.times))
        return np.concatenate([energies for energies in found if energies is not None])

    def _parts(self, k: int, replicas: int) -> Iterator[Trajectory]:
        for flat, _ in self.segments.parts():
            if len(flat.times):
                yield _replica(flat, k, replicas)

    def _write_extxyz(self, k: int, replicas: int) -> None:
        with replacing(self.folder / f"{k:03d}.extxyz") as file:
            text = io.TextIOWrapper(file, encoding="utf-8")
            for t in self._parts(k, replicas):
                energies = np.full(len(t.times), np.nan) if t.energies is None else t.energies
                for n, (time, q, p) in enumerate(zip(t.times, t.positions, t.momenta, strict=True)):
                    atoms = Atoms(t.numbers, q, momenta=p, masses=t.masses, cell=t.cell_at(n), pbc=t.pbc)
                    atoms.info["time_fs"] = float(time)
                    if math.isfinite(energies[n]):
                        atoms.info["potential_energy_eV"] = float(energies[n])
                    ase_write(text, atoms, format="extxyz")
            text.flush()
            text.detach()


def flatten(
    one: Trajectory,
    times: np.ndarray,
    positions: np.ndarray,
    momenta: np.ndarray,
    energies: np.ndarray | None,
    heat: np.ndarray | None,
    cells: np.ndarray | None,
) -> Trajectory:
    """Frames [F, M, 3] of all replicas as one trajectory of M atoms; `energies`, `heat` are [F, replicas],
    `cells` [F, replicas, 3, 3]."""
    replicas = positions.shape[1] // one.n_atoms
    return replace(
        one,
        numbers=np.tile(one.numbers, replicas),
        masses=np.tile(one.masses, replicas),
        times=times,
        positions=positions,
        momenta=momenta,
        energies=energies,
        heat=heat,
        cells=cells,
    )


def _replica(flat: Trajectory, k: int, replicas: int) -> Trajectory:
    n = flat.n_atoms // replicas
    mine = slice(k * n, (k + 1) * n)
    return replace(
        flat,
        numbers=flat.numbers[mine],
        masses=flat.masses[mine],
        positions=flat.positions[:, mine],
        momenta=flat.momenta[:, mine],
        energies=None if flat.energies is None else flat.energies[:, k],
        heat=None if flat.heat is None else flat.heat[:, k],
        cells=None if flat.cells is None else flat.cells[:, k],
        info=flat.info | {"replica": k},
    )
