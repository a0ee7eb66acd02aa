"""A trajectory that grows and outlives a kill: numbered segments in `NAME.part/`, each whole or not there."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from symstride.data import h5md
from symstride.data.files import load_arrays, save_arrays
from symstride.data.h5md import Observables
from symstride.data.provenance import to_json
from symstride.data.trajectory import Trajectory
from symstride.errors import DataError

_ARRAYS = [field.name for field in fields(Trajectory) if field.name != "info"]
_PER_FRAME = ("times", "positions", "momenta", "energies", "forces", "heat", "cells")


@dataclass(frozen=True)
class Segments:
    """The segments in `folder`; every value survives exactly, to the last bit."""

    folder: Path

    @property
    def paths(self) -> list[Path]:
        """Completed segments, in order."""
        return sorted(p for p in self.folder.glob("*.npz") if re.fullmatch(r"\d{6}", p.stem))

    def append(
        self,
        trajectory: Trajectory,
        state: Mapping[str, np.ndarray] | None = None,
        observables: Observables | None = None,
    ) -> None:
        """Adds frames that follow the last ones, with what a restart needs beyond them in `state`.

        Raises DataError, leaving the earlier segments as they are, if the disk does not take it.
        """
        arrays = {name: getattr(trajectory, name) for name in _ARRAYS}
        arrays = {name: np.asarray(values) for name, values in arrays.items() if values is not None}
        arrays |= {f"state:{name}": np.asarray(values) for name, values in (state or {}).items()}
        units = {name: unit for name, (_, unit) in (observables or {}).items()}
        arrays |= {
            f"observable:{name}": np.asarray(values) for name, (values, _) in (observables or {}).items()
        }
        arrays["json"] = np.array(to_json({"info": trajectory.info, "units": units}))
        save_arrays(self.folder / f"{len(self.paths):06d}.npz", arrays)

    def last(self) -> tuple[Trajectory, dict[str, np.ndarray]] | None:
        """The last completed segment and its state; None before the first."""
        if not self.paths:
            return None
        trajectory, _, state = _load(self.paths[-1])
        return trajectory, state

    def load(self) -> Trajectory:
        """All frames so far. Raises DataError if there are none or one segment is damaged."""
        parts = [part for part, _ in self.parts()]
        if not parts:
            raise DataError(f"{self.folder}: holds no frames yet")
        first = {name: getattr(parts[0], name) for name in (*_ARRAYS, "info")}
        for name in _PER_FRAME:
            if first[name] is not None:
                first[name] = np.concatenate([getattr(part, name) for part in parts])
        return Trajectory(**first)

    def merge(self, path: Path) -> Path:
        """Writes all of it as one H5MD file, then removes the segments; returns `path`."""
        if not self.paths:
            raise DataError(f"{self.folder}: holds no frames yet")
        h5md.write_parts(path, self.parts())
        self.remove()
        return path

    def remove(self) -> None:
        """Removes the segments and their folder, all of them at once for whoever reads them."""
        doomed = self.folder.with_suffix(".removed")
        shutil.rmtree(doomed, ignore_errors=True)
        with suppress(OSError):
            self.folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def parts(self) -> Iterator[tuple[Trajectory, Observables]]:
        """The segments one by one, in order."""
        for path in self.paths:
            trajectory, observables, _ = _load(path)
            yield trajectory, observables


def _load(path: Path) -> tuple[Trajectory, dict[str, tuple[np.ndarray, str]], dict[str, np.ndarray]]:
    arrays = load_arrays(path)
    try:
        described = json.loads(str(arrays["json"]))
        trajectory = Trajectory(**{n: arrays[n] for n in _ARRAYS if n in arrays}, info=described["info"])
        observables = {n: (arrays[f"observable:{n}"], unit) for n, unit in described["units"].items()}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not a trajectory segment ({error})") from error
    state = {name.removeprefix("state:"): v for name, v in arrays.items() if name.startswith("state:")}
    return trajectory, observables, state
