"""A trained map with all that is needed to use it, in one safetensors file. Loading one runs no code."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from symstride.actions.generator import LearnedAction
from symstride.actions.kicks import LearnedKicks
from symstride.actions.particle import ParticleNetwork
from symstride.data.config import Config
from symstride.data.files import replacing
from symstride.errors import ModelError
from symstride.maps.base import Map
from symstride.maps.dressed import Dressed
from symstride.maps.flight import FreeFlight
from symstride.maps.generating import Poincare
from symstride.maps.palindrome import Palindrome
from symstride.solve import Anderson
from symstride.units import KB

FORMAT = 1


class NetworkConfig(Config):
    """The particle network's sizes."""

    cutoff: PositiveFloat = 5.5
    radial: PositiveInt = Field(default=12, description="radial functions")
    decay: PositiveFloat = Field(
        default=8.0, description="Å; small resolves short bonds, large all distances alike"
    )
    nearest: PositiveFloat = Field(default=1.5, description="Å, below the closest pairs in the data")
    channels: PositiveInt = 16
    products: PositiveInt = 16
    hidden: PositiveInt = 64


class MapConfig(Config):
    """What kind of map, for which strides."""

    kind: Literal["explicit", "s3", "verlet"] = Field(
        description="explicit, s3 or verlet (a plain potential)"
    )
    strides_fs: tuple[PositiveFloat, ...] = Field(min_length=1, description="the strides to learn, fs")
    drifts: int = Field(default=2, ge=1, le=4, description="of an explicit map: gradients a stride")
    shared: bool = Field(
        default=True, description="one network for all kicks of an explicit map, or one for each"
    )
    orders: PositiveInt = Field(default=2, description="powers of h² in the learned corrections")
    precision: Literal["float32", "float64"] = "float32"
    tolerance: PositiveFloat = Field(1e-5, description="of an implicit map's solve, thermal units")
    network: NetworkConfig = NetworkConfig()


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

    def cast(self, precision: Literal["float32", "float64"]) -> "Model":
        """The same model computing in another precision."""
        dtype = jnp.dtype(precision)
        cast = jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, self.map)
        config = self.config.model_copy(update={"precision": precision})
        return replace(self, map=cast, config=config)

    def solved_to(self, tolerance: float) -> "Model":
        """The same model with an implicit map solved to another tolerance (thermal units)."""
        config = self.config.model_copy(update={"tolerance": tolerance})
        skeleton = build_map(config, self.scales, self.elements, jax.random.key(0))
        arrays, _ = eqx.partition(self.map, eqx.is_array)
        built = eqx.combine(arrays, eqx.filter(skeleton, eqx.is_array, inverse=True))
        return replace(self, map=built, config=config)

    @property
    def gradients_per_stride(self) -> int | None:
        """Of an explicit map; an implicit one counts as it goes."""
        return {"explicit": self.config.drifts, "verlet": 1, "s3": None}[self.config.kind]


def build_map(config: MapConfig, scales: Scales, elements: tuple[int, ...], key: jax.Array) -> Map:
    """A map with fresh weights."""
    sizes: dict[str, Any] = config.network.model_dump() | {"species": len(elements)}
    if config.kind == "s3":
        network = ParticleNetwork(config.orders + 1, **sizes, moving=True, key=key)
        action = LearnedAction(network, scales.energy, scales.length, scales.stride_unit, config.orders)
        solver = Anderson(tolerance=config.tolerance, history=12)  # pyright: ignore[reportCallIssue]: the rest are properties
        built = Dressed(FreeFlight(), Poincare(action, solver, KB * scales.temperature))
    else:
        drifts, orders = (1, 0) if config.kind == "verlet" else (config.drifts, config.orders)
        distinct = drifts // 2 + 1 if config.kind == "explicit" else 1
        shared = config.shared or config.kind == "verlet"
        outputs = LearnedKicks.outputs(orders, distinct, shared)
        keys = jax.random.split(key, 1 if shared else distinct)
        networks = tuple(ParticleNetwork(outputs, **sizes, key=k) for k in keys)
        built = Palindrome(
            LearnedKicks(networks, scales.energy, scales.stride_unit, orders, distinct), drifts
        )
    dtype = jnp.dtype(config.precision)
    return jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, built)


def save_model(model: Model, path: Path) -> None:
    """Writes one safetensors file: the arrays by their place in the map, the rest as JSON in the header."""
    header = {
        "format": FORMAT,
        "config": model.config.model_dump(mode="json"),
        "scales": model.scales.model_dump(),
        "elements": list(model.elements),
        "provenance": model.provenance,
    }
    data = save({k: np.asarray(v) for k, v in _named(model.map).items()}, {"symstride": json.dumps(header)})
    with replacing(Path(path)) as file:
        file.write(data)


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
            config = MapConfig.model_validate(header["config"])
            scales = Scales.model_validate(header["scales"])
            elements = tuple(int(n) for n in header["elements"])
            if (
                not elements
                or list(elements) != sorted(set(elements))
                or not 0 < elements[0] <= elements[-1] < 119
            ):
                raise ModelError(f"{path}: its elements {elements} are not ascending atomic numbers")
            skeleton = eqx.filter_eval_shape(build_map, config, scales, elements, jax.random.key(0))
            wanted = _named(skeleton)
            if set(wanted) != set(file.keys()):
                odd = sorted(set(wanted) ^ set(file.keys()))[0]
                raise ModelError(f"{path}: its arrays do not fit its configuration (first: {odd})")
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
            leaves, structure = jax.tree_util.tree_flatten_with_path(skeleton)
            filled = [arrays.get(jax.tree_util.keystr(p), leaf) for p, leaf in leaves]
            built = jax.tree_util.tree_unflatten(structure, filled)
            return Model(built, config, scales, elements, dict(header["provenance"]))
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"]))
        raise ModelError(
            f"{path}: not a readable model (its header's {key or error.title} is not valid)"
        ) from None
    except KeyError as error:
        raise ModelError(f"{path}: not a readable model (its header has no {error})") from None
    except (OSError, SafetensorError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ModelError(f"{path}: not a readable model ({' '.join(str(error).split())})") from None


def _named(tree) -> dict:
    """The arrays of a map (or their shapes) by their place in it."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves if hasattr(leaf, "shape")}
