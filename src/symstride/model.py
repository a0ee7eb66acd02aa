"""A trained map with all that is needed to use it, in one safetensors file. Loading one runs no code."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from pydantic import (
    BaseModel,
    Field,
    FiniteFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from symstride.actions.forecast import ParticleDirect
from symstride.actions.generator import LearnedAction
from symstride.actions.kicks import LearnedKicks
from symstride.actions.novelty import Novelty
from symstride.actions.particle import ParticleNetwork
from symstride.actions.processor import LearnedProcessor
from symstride.data.config import Config
from symstride.data.files import replacing
from symstride.errors import ConfigError, ModelError
from symstride.hamiltonians.ewald import LongRange
from symstride.hamiltonians.forcefield import ForceField
from symstride.maps.base import Map
from symstride.maps.bonded import BondedFlight
from symstride.maps.direct import Corrected
from symstride.maps.dressed import Dressed, Fixed
from symstride.maps.flight import FreeFlight
from symstride.maps.generating import Generated, Poincare
from symstride.maps.palindrome import Palindrome
from symstride.maps.processed import Processed
from symstride.solve import Anderson
from symstride.units import KB

FORMAT = 1
NOVELTY = "novelty"  # before the names of its arrays
IMPLICIT = ("s3", "corrected")  # kinds of map with an equation to solve


class NetworkConfig(Config):
    """The particle network's sizes."""

    cutoff: float = Field(default=5.5, gt=0, le=30, description="Å")
    radial: PositiveInt = Field(default=12, description="radial functions")
    decay: PositiveFloat = Field(
        default=8.0, description="Å; small resolves short bonds, large all distances alike"
    )
    nearest: PositiveFloat = Field(default=1.5, description="Å, below the closest pairs in the data")
    channels: PositiveInt = 16
    products: PositiveInt = 16
    hidden: PositiveInt = 64
    layers: Literal[1, 2] = Field(
        default=2, description="two: atoms feel neighbours of neighbours; one takes half the time"
    )


class OuterConfig(NetworkConfig):
    """Those of the network of the outermost kicks."""

    layers: Literal[1, 2] = 1


class MapConfig(Config):
    """What kind of map, for which strides."""

    kind: Literal["explicit", "s3", "direct", "corrected", "verlet"] = Field(
        description="explicit, s3, direct (a predictor without structure), corrected (a predictor, then s3) "
        "or verlet (a plain potential)"
    )
    strides_fs: tuple[PositiveFloat, ...] = Field(min_length=1, description="the strides to learn, fs")
    drifts: int = Field(default=2, ge=1, le=4, description="of an explicit map: gradients a stride")
    shared: bool = Field(
        default=True, description="one network for all kicks of an explicit map, or one for each"
    )
    drift: Literal["free", "bonded"] = Field(
        default="free",
        description="of explicit and verlet maps: free flight, or that of bonds and angles found in the data "
        "and fitted to their forces",
    )
    inner_fs: float = Field(default=0.25, gt=0, le=1, description="longest inner step of bonded flights, fs")
    charges: dict[str, FiniteFloat] | None = Field(
        default=None,
        description="of explicit and verlet maps: the fixed charge of each element, e; Coulomb's law beyond "
        "the cutoff is then known, and what is within is learned",
    )
    corrections: PositiveInt | None = Field(
        default=None, description="of a corrected map: iterations of s3; none: until it is solved"
    )
    dressing: Literal["bonded"] | Path | None = Field(
        default=None,
        description="of s3, direct and corrected: an explicit model, over half the stride before and after, "
        "or bonded: the flight of bonds and angles; none: free flight",
    )
    processor: NetworkConfig | None = Field(
        default=None,
        description="of an explicit map, for long strides: the network of a change of coordinates, needed at "
        "the start and the outputs of a run alone; {} has the default sizes",
    )
    orders: PositiveInt = Field(default=2, description="powers of h² in the learned corrections")
    precision: Literal["float32", "float64"] = "float32"
    tolerance: PositiveFloat = Field(
        1e-5, description="of an implicit map's or a processor's solve, thermal units"
    )
    network: NetworkConfig = NetworkConfig()
    outer: OuterConfig | None = Field(
        default=None,
        description="of an explicit map whose kicks are not shared: a cheaper network for the outermost; {} "
        "has one layer, and what is not given is as in `network`",
    )

    @model_validator(mode="before")
    @classmethod
    def _outer_inherits(cls, given: Any) -> Any:
        if not isinstance(given, dict) or not isinstance(given.get("outer"), dict):
            return given
        network = given.get("network", {})
        network = network.model_dump() if isinstance(network, NetworkConfig) else network
        inherited = {key: network[key] for key in NetworkConfig.model_fields if key in network}
        inherited.pop("layers", None)
        return given | {"outer": inherited | given["outer"]}

    @model_validator(mode="after")
    def _parts_fit(self) -> "MapConfig":
        if self.drift == "bonded" and self.kind not in ("explicit", "verlet"):
            raise ValueError(f"a map of kind {self.kind} has no drifts: give `dressing: bonded`")
        if self.charges is not None and self.kind not in ("explicit", "verlet"):
            raise ValueError(
                f"a map of kind {self.kind} takes no `charges`; those of kind explicit and verlet do"
            )
        if unknown := sorted(set(self.charges or {}) - set(chemical_symbols[1:])):
            raise ValueError(f"charges: {', '.join(unknown)}: no chemical element; give symbols such as O")
        if self.processor is not None and self.kind != "explicit":
            raise ValueError(f"a map of kind {self.kind} takes no `processor`; those of kind explicit do")
        if self.outer is not None and (self.kind != "explicit" or self.shared or self.drifts == 1):
            raise ValueError(
                "`outer` is for the outermost kicks of a map of kind explicit with `shared: false` and two "
                "`drifts` or more"
            )
        for name, part in (("processor", self.processor), ("outer", self.outer)):
            if part is not None and part.cutoff > self.network.cutoff:
                raise ValueError(
                    f"{name}.cutoff is {part.cutoff:g} Å, beyond network.cutoff, "
                    f"{self.network.cutoff:g} Å: no pairs are found there"
                )
        return self

    @property
    def bonded(self) -> bool:
        """Whether bonds and angles are to be found in the data."""
        return "bonded" in (self.drift, self.dressing)

    def long_range(self, elements: Sequence[int]) -> LongRange | None:
        """Of the charges, if there are any. Raises ConfigError unless they are of these elements."""
        if self.charges is None:
            return None
        symbols = [chemical_symbols[n] for n in elements]
        for what, odd in (
            ("has none for {}, which the data hold", set(symbols) - set(self.charges)),
            ("names {}, which the data do not hold", set(self.charges) - set(symbols)),
        ):
            if odd:
                names = ", ".join(sorted(odd, key=atomic_numbers.__getitem__))
                raise ConfigError(
                    f"map.charges: {what.format(names)}; give one for each of {', '.join(symbols)}"
                )
        return LongRange.beyond(self.network.cutoff, tuple(self.charges[symbol] for symbol in symbols))

    def without_bonds(self) -> "MapConfig":
        """With free flight in place of flights of bonds and angles."""
        dressing = None if self.dressing == "bonded" else self.dressing
        return self.model_copy(update={"drift": "free", "dressing": dressing})


class Validation(BaseModel):
    """Errors of a stride on held-out data, by stride (fs) and kind; NaN where strides are too long."""

    strides_fs: dict[float, dict[str, float]] = {}


class Recipe(BaseModel):
    """What a training went by, as far as another goes on from it."""

    data: list[str]
    validation: FiniteFloat
    held_out: list[str] | None = None


class Provenance(BaseModel):
    """What is read of where a model comes from; whatever else is there is kept."""

    fastest_cm1: PositiveFloat | None = None
    temperature_K: tuple[FiniteFloat, FiniteFloat] | None = None
    volume_A3_per_atom: tuple[FiniteFloat, FiniteFloat] | None = None
    masses_u: list[FiniteFloat] | None = None
    validation: Validation | None = None
    recipe: Recipe | None = None


class Scales(Config):
    """Sizes measured in the training data, ASE units."""

    energy: PositiveFloat  # rms force × 1 Å, eV
    length: PositiveFloat  # thermal displacement in the longest stride, Å
    stride_unit: PositiveFloat  # h²/m of the longest stride and lightest atom
    temperature: PositiveFloat  # K


@dataclass(frozen=True)
class Model:
    """A map, the configuration and scales that build it, its elements, and where it comes from."""

    map: Map
    config: MapConfig
    scales: Scales
    elements: tuple[int, ...]  # atomic numbers, ascending
    provenance: dict
    dressing: "Model | None" = None  # the explicit model before and after, if there is one
    bonded: ForceField | None = None  # of the bonds and angles that some part of the map knows
    novelty: Novelty | None = None  # of the training data, if the map has features that tell

    @property
    def long_range(self) -> LongRange | None:
        """Of the charges that some part of the map knows."""
        return self.dressing.long_range if self.dressing else self.config.long_range(self.elements)

    def with_map(self, built: Any) -> "Model":
        """The same model with other weights."""
        dressing = self.dressing and self.dressing.with_map(built.dressing.map)
        return replace(self, map=built, dressing=dressing)

    def cast(self, precision: Literal["float32", "float64"]) -> "Model":
        """The same model computing in another precision."""
        dtype = jnp.dtype(precision)
        cast = jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, self.map)
        config = self.config.model_copy(update={"precision": precision})
        return replace(self.with_map(cast), config=config)

    def solved_to(self, tolerance: float) -> "Model":
        """The same model with its equation, if it has one, solved to another tolerance (thermal units)."""
        config = self.config.model_copy(update={"tolerance": tolerance})
        if not self.solves:
            return replace(self, config=config)
        solved = eqx.tree_at(lambda m: implicit_part(m).solver.tolerance, self.map, tolerance)
        return replace(self, map=solved, config=config)

    def expected_error(self, stride_fs: float, novelty: float) -> float | None:
        """Momentum error of a stride over thermal momentum, where atoms are so novel: the validation's, of
        the nearest stride trained, in proportion to the distance (how well that holds: experiments/alarm.py).
        None for a model that has no novelty or no such errors."""
        known = self.provenance.get("validation", {}).get("strides_fs", {})
        if self.novelty is None or not known:
            return None
        nearest = min(known, key=lambda stride: abs(float(stride) - stride_fs))
        return known[nearest]["momentum"] * novelty / float(self.novelty.usual)

    @property
    def solves(self) -> bool:
        """Whether there is an equation to solve: each stride, or at the outputs for a processor."""
        return self.config.kind in IMPLICIT or self.config.processor is not None

    @property
    def gradients_per_stride(self) -> int | None:
        """Of an explicit map, whose processor's are extra; an implicit one counts as it goes."""
        return {"explicit": self.config.drifts, "verlet": 1}.get(self.config.kind)


def implicit_part(built: Any) -> Generated:
    """The part of a dressed or processed map that is given by a generating function."""
    if isinstance(built, Processed):
        return built.processor
    return built.inner.implicit if isinstance(built.inner, Corrected) else built.inner


def build_map(
    config: MapConfig,
    scales: Scales,
    elements: tuple[int, ...],
    key: jax.Array,
    dressing: "Model | None" = None,
) -> Map:
    """A map with fresh weights, but for its dressing."""
    sizes: dict[str, Any] = config.network.model_dump() | {"species": len(elements)}
    dtype = jnp.dtype(config.precision)
    if config.kind in ("explicit", "verlet"):
        built: Map = _palindrome(config, scales, sizes, config.long_range(elements), key)
        if config.processor is not None:
            built = Processed(
                built, _processor(config.processor, config.tolerance, scales, len(elements), key)
            )
    else:
        around = flight(config) if dressing is None else Fixed(dressing.map)
        built = Dressed(around, _between(config, scales, sizes, key))
    return jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, built)


def flight(config: MapConfig) -> Map:
    """What is known of the motion: of an explicit map's drifts, or of a dressing without a model."""
    if not config.bonded:
        return FreeFlight()
    parts = {"explicit": config.drifts, "verlet": 1}.get(config.kind, 2)
    return BondedFlight(math.ceil(max(config.strides_fs) / parts / config.inner_fs - 1e-9))


def _palindrome(
    config: MapConfig,
    scales: Scales,
    sizes: dict[str, Any],
    long_range: LongRange | None,
    key: jax.Array,
) -> Map:
    drifts, orders = (1, 0) if config.kind == "verlet" else (config.drifts, config.orders)
    distinct = drifts // 2 + 1 if config.kind == "explicit" else 1
    shared = config.shared or config.kind == "verlet"
    outputs = LearnedKicks.outputs(orders, distinct, shared)
    keys = jax.random.split(key, 1 if shared else distinct)
    outer = sizes | (config.outer.model_dump() if config.outer else {})
    networks = tuple(ParticleNetwork(outputs, **(sizes if n else outer), key=k) for n, k in enumerate(keys))
    kicks = LearnedKicks(networks, scales.energy, scales.stride_unit, orders, distinct, long_range)
    return Palindrome(kicks, drifts, flow=flight(config))


def _processor(
    config: NetworkConfig, tolerance: float, scales: Scales, species: int, key: jax.Array
) -> Poincare:
    outputs, kT = LearnedProcessor.outputs(config.channels, config.layers), KB * scales.temperature
    key = jax.random.fold_in(key, 2)
    network = ParticleNetwork(outputs, **config.model_dump(), species=species, moving=True, key=key)
    action = LearnedProcessor.of(network, kT, scales.length, scales.stride_unit)
    return Poincare(action, Anderson(tolerance=tolerance), kT)  # pyright: ignore[reportCallIssue]


def _between(config: MapConfig, scales: Scales, sizes: dict[str, Any], key: jax.Array) -> Map:
    """What is learned between two dressings."""
    units = (scales.energy, scales.length, scales.stride_unit)
    network = ParticleNetwork(config.orders + 1, **sizes, moving=True, key=key)
    solver = Anderson(tolerance=config.tolerance, history=12)  # pyright: ignore[reportCallIssue]: the rest are properties
    implicit = Poincare(LearnedAction(network, *units, config.orders), solver, KB * scales.temperature)
    if config.kind == "s3":
        return implicit
    outputs = ParticleDirect.outputs(config.network.channels, config.network.layers)
    key = jax.random.fold_in(key, 1)
    network = ParticleNetwork(outputs, **sizes, moving=True, key=key)
    direct = ParticleDirect.of(network, config.network.channels, *units, jax.random.fold_in(key, 1))
    return direct if config.kind == "direct" else Corrected(direct, implicit, config.corrections)


def save_model(model: Model, path: Path) -> None:
    """Writes one safetensors file: the arrays by their place in the map, the rest as JSON in the header."""
    header = _header(model) | {"format": FORMAT}
    data = save({k: np.asarray(v) for k, v in _arrays(model).items()}, {"symstride": json.dumps(header)})
    with replacing(Path(path)) as file:
        file.write(data)


def _header(model: Model) -> dict:
    return {
        "config": model.config.model_dump(mode="json"),
        "scales": model.scales.model_dump(),
        "elements": list(model.elements),
        "provenance": model.provenance,
        "dressing": None if model.dressing is None else _header(model.dressing),
        "novelty": None if model.novelty is None else model.novelty.mean.shape[1],
    } | ({} if model.bonded is None else {"bonded": model.bonded.model_dump()})


def load_model(path: Path) -> Model:
    """Reads what `save_model` wrote. Raises ModelError if it is anything else."""
    path = Path(path)
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {}).get("symstride", "null"))
            if not isinstance(header, dict):
                raise ModelError(f"{path}: a safetensors file, but not a symstride model")
            if header.get("format") != FORMAT:
                raise ModelError(
                    f"{path}: model format {header.get('format')!r}, this version reads {FORMAT}"
                )
            model = _skeleton(header, path)
            wanted = _arrays(model)
            if set(wanted) != set(file.keys()):
                odd = sorted(set(wanted) ^ set(file.keys()))[0]
                raise ModelError(f"{path}: its arrays do not fit its configuration (first: {odd!r})")
            arrays = {}
            for name, want in wanted.items():
                got = file.get_slice(name)
                if tuple(got.get_shape()) != want.shape:
                    raise ModelError(
                        f"{path}: {name} has shape {got.get_shape()}, its configuration {want.shape}"
                    )
                arrays[name] = jnp.asarray(file.get_tensor(name))
                if arrays[name].dtype != want.dtype:
                    raise ModelError(
                        f"{path}: {name} is {arrays[name].dtype}, its configuration says {want.dtype}"
                    )
                if not bool(jnp.all(jnp.isfinite(arrays[name]))):
                    raise ModelError(f"{path}: {name} holds NaN or infinity")
            novelty = model.novelty and _filled(model.novelty, arrays, NOVELTY)
            return replace(model.with_map(_filled(model.map, arrays)), novelty=novelty)
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"]))
        raise ModelError(
            f"{path}: not a readable model (its header's {key or error.title} is not valid)"
        ) from None
    except ConfigError as error:
        raise ModelError(f"{path}: not a readable model ({error})") from None
    except KeyError as error:
        raise ModelError(f"{path}: not a readable model (its header has no {error})") from None
    except (OSError, SafetensorError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ModelError(f"{path}: not a readable model ({' '.join(str(error).split())})") from None


def _skeleton(header: dict, path: Path) -> Model:
    """The model a header tells of, with shapes in place of arrays."""
    config, scales = MapConfig.model_validate(header["config"]), Scales.model_validate(header["scales"])
    elements = tuple(int(n) for n in header["elements"])
    if not elements or list(elements) != sorted(set(elements)) or not 0 < elements[0] <= elements[-1] < 119:
        raise ModelError(f"{path}: its elements {elements} are not ascending atomic numbers")
    within = header.get("dressing")
    if within and (config.kind in ("explicit", "verlet") or within["config"]["kind"] != "explicit"):
        raise ModelError(f"{path}: only explicit models dress others, and they themselves have no dressing")
    dressing = _skeleton(within, path) if within else None
    bonded = ForceField.model_validate(header["bonded"]) if "bonded" in header else None
    if bonded is None and (config.bonded or (dressing and dressing.bonded)):
        raise ModelError(f"{path}: its configuration asks for bonds and angles, and it has none")
    built = eqx.filter_eval_shape(build_map, config, scales, elements, jax.random.key(0), dressing)
    novelty = None
    if features := header.get("novelty"):
        shapes = (len(elements), features), (len(elements), features, features), (), ()
        novelty = Novelty(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))  # pyright: ignore[reportArgumentType]
    Provenance.model_validate(header["provenance"])
    return Model(built, config, scales, elements, header["provenance"], dressing, bonded, novelty)


def _arrays(model: Model) -> dict:
    """All arrays of a model, or their shapes."""
    return _named(model.map) | _named(model.novelty, NOVELTY)


def _named(tree, prefix: str = "") -> dict:
    """Arrays by their place in a tree."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {prefix + jax.tree_util.keystr(path): leaf for path, leaf in leaves if hasattr(leaf, "shape")}


def _filled(tree, arrays: dict, prefix: str = ""):
    """A tree with arrays in the place of their shapes."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    filled = [arrays.get(prefix + jax.tree_util.keystr(path), leaf) for path, leaf in leaves]
    return jax.tree_util.tree_unflatten(structure, filled)
