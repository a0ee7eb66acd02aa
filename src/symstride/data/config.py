"""Configurations: YAML checked by pydantic, with errors a user can act on.

Paths in them are relative to the current directory.
"""

import difflib
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from symstride.errors import ConfigError


class Config(BaseModel):
    """Base of every configuration: no unknown keys, no change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)


class StructureConfig(Config):
    """A structure file that ASE reads, or a bulk crystal; `repeat` along each axis.

    Of a file with several frames all trajectories begin at the last, or with `frames: each` at their own.
    """

    file: Path | None = Field(default=None, description="a structure file that ASE reads")
    frames: Literal["each"] | None = Field(default=None, description="each: trajectory n begins at frame n")
    bulk: str | None = Field(default=None, description="a chemical symbol or formula, as for ase.build.bulk")
    cubic: bool = False
    a: PositiveFloat | None = Field(default=None, description="lattice constant, Å")
    repeat: tuple[PositiveInt, PositiveInt, PositiveInt] = (1, 1, 1)
    masses: dict[str, PositiveFloat] | None = Field(
        default=None, description="u by chemical symbol, of isotopes or repartitioned masses: `H: 2.014`"
    )

    @model_validator(mode="after")
    def _one_source(self) -> "StructureConfig":
        if (self.file is None) == (self.bulk is None):
            raise ValueError("give either `file: PATH` or `bulk: Al`")
        if self.file is not None and (self.cubic or self.a is not None):
            raise ValueError("`cubic` and `a` belong to `bulk`, not to `file`")
        if self.bulk is not None and self.frames:
            raise ValueError("`frames` belongs to `file`, not to `bulk`")
        return self


class CalculatorConfig(Config):
    """A calculator by built-in name, or any ASE calculator by import path, made with `arguments`."""

    name: Literal["emt", "lj", "tblite", "openmm"] | None = None
    import_: str | None = Field(
        default=None, alias="import", pattern=r"^[\w.]+:\w+$", description="package.module:Class"
    )
    arguments: dict[str, Any] = {}

    @model_validator(mode="after")
    def _one_source(self) -> "CalculatorConfig":
        if (self.name is None) == (self.import_ is None):
            raise ValueError("give either `name: emt|lj|tblite|openmm` or `import: package.module:Class`")
        return self


def _several(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


def _not_empty(value: tuple) -> tuple:
    if not value:
        raise ValueError("give at least one")
    return value


class ReferenceConfig(Config):
    """How true trajectories are made, whatever they begin with."""

    calculator: CalculatorConfig = Field(
        description="`name: emt|lj|tblite|openmm` or `import: package.module:Class`"
    )
    length_ps: PositiveFloat = Field(description="NVE length of each, after thermalisation")
    timestep_fs: PositiveFloat = Field(description="step of the reference's velocity Verlet")
    every: PositiveInt = Field(default=1, description="steps from one kept frame to the next")
    processes: PositiveInt = 1
    segment_frames: PositiveInt = Field(
        default=50, description="frames kept at a time; a kill loses fewer than these"
    )
    max_drift_mev_per_atom_per_ps: PositiveFloat = 0.1

    @model_validator(mode="after")
    def _one_frame(self) -> "ReferenceConfig":
        spacing = self.timestep_fs * self.every
        if 1000 * self.length_ps < spacing:
            raise ValueError(f"length_ps must be at least timestep_fs × every = {spacing:g} fs")
        return self

    @property
    def frames(self) -> int:
        """Frames of each trajectory, the one at time zero included."""
        return 1 + int(1000 * self.length_ps / (self.timestep_fs * self.every) + 1e-9)


class SampleConfig(ReferenceConfig):
    """What `symstride sample` makes: independent NVE trajectories of one system.

    With `momenta: kept` they begin with the momenta that the structure's file has, as they are: to go on
    with true forces from frames of a run, say. Then there is nothing to thermalise.
    """

    structure: StructureConfig = Field(description="`file: PATH` or `bulk: Al`")
    temperature_K: Annotated[
        tuple[PositiveFloat, ...], BeforeValidator(_several), AfterValidator(_not_empty)
    ] = Field(description="kelvin; one, or a list taken in turn by the trajectories")
    momenta: Literal["kept"] | None = Field(default=None, description="kept: those of the structure's file")
    trajectories: PositiveInt = Field(description="how many")
    thermalize_ps: float = Field(default=1.0, ge=0)
    seed: int = Field(default=0, ge=0)
    output: Path = Field(description="a directory")

    @model_validator(mode="after")
    def _momenta_of_a_file(self) -> "SampleConfig":
        if self.momenta and (self.structure.file is None or self.thermalize_ps):
            raise ValueError(
                "`momenta: kept` takes those of `structure.file`: give one, and thermalize_ps: 0"
            )
        return self

    @property
    def thermalize_steps(self) -> int:
        """Langevin steps before each trajectory."""
        return round(1000 * self.thermalize_ps / self.timestep_fs)


LARGEST = 2**20  # bytes of a configuration
DIGITS = 40  # of a number in one


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number (PyYAML follows YAML 1.1, where it is text).

    Aliases, with which a few lines can stand for millions, and endless numbers are errors.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases are not read", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_number(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > DIGITS:
            raise yaml.MarkedYAMLError(
                problem=f"a number of more than {DIGITS} digits", problem_mark=node.start_mark
            )
        return self.construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_number)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)

Model = TypeVar("Model", bound=BaseModel)


def differences(a: Any, b: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two nested dictionaries of settings differ: the key, and what each has there (None: nothing)."""
    if isinstance(a, dict) and isinstance(b, dict):
        for inner in sorted(a.keys() | b.keys()):
            yield from differences(a.get(inner), b.get(inner), f"{key}.{inner}".lstrip("."))
    elif a != b:
        yield key, a, b


def load_config(path: Path, model: type[Model]) -> Model:
    """Reads a YAML file as `model`.

    Raises ConfigError with one line per problem: the file, the key, the value and what would be right.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LARGEST + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if len(text) > LARGEST:
        raise ConfigError(f"{path}: longer than {LARGEST} characters: no configuration")
    try:
        data = yaml.load(text, _Loader)  # a SafeLoader: builds plain values only
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: must be `key: value` lines; known keys are {', '.join(_keys(model))}")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        sentences = (" ".join(_sentence(problem, model).split()) for problem in problems)
        raise ConfigError("\n".join(f"{path}: {sentence}" for sentence in sentences)) from error


def _sentence(problem: Any, model: type[BaseModel]) -> str:
    """One pydantic problem as `key: what is wrong and what would be right`."""
    *parents, last = problem["loc"] or ("",)
    key = ".".join(str(part) for part in problem["loc"])
    owner = _model_at(model, parents)
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument") and owner:
        known = _keys(owner)
        near = difflib.get_close_matches(str(last), known, 1)
        return f"{key}: unknown key; " + (
            f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        )
    if problem["type"] == "missing" and owner and issubclass(owner, BaseModel):
        wanted = owner.model_fields[str(last)].description
        return f"{key}: missing" + (f"; it is {wanted}" if wanted else "")
    message = problem["msg"].removeprefix("Value error, ")
    if isinstance(problem["input"], dict):  # a rule that joins several keys
        return f"{key}: {message}" if key else message
    return f"{key}: {problem['input']!r} is not right: {message[0].lower()}{message[1:]}"


def _keys(model: type) -> list[str]:
    if is_dataclass(model):
        return [field.name for field in fields(model)]
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_at(model: type, loc: list) -> type | None:
    """The model, or the dataclass, that a key belongs to."""
    for part in loc:
        annotation = get_type_hints(model).get(str(part))
        if annotation is None:
            return None
        options = [annotation, *get_args(annotation)]
        inner = [t for t in options if isinstance(t, type) and (issubclass(t, BaseModel) or is_dataclass(t))]
        if not inner:
            return None
        model = inner[0]
    return model
