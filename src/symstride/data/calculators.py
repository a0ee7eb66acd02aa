"""ASE calculators from configuration: by built-in name, or by import path."""

import importlib
from typing import Any

from ase.calculators.calculator import BaseCalculator

from symstride.data.config import CalculatorConfig
from symstride.data.provenance import installed_version
from symstride.errors import ConfigError

_BUILT_IN = {
    "emt": "ase.calculators.emt:EMT",
    "lj": "ase.calculators.lj:LennardJones",
    "tblite": "symstride.data.xtb:TBLite",
    "openmm": "symstride.data.openmm_system:OpenMM",
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "lj": {"smooth": True},
    # at tblite's accuracy of 1, ethanol cools by 0.2 meV/atom/ps; at 0.1 by 0.003
    "tblite": {"verbosity": 0, "accuracy": 0.1},
}
_REQUIRED = {"lj": {"sigma": "3.405 (Å, argon)", "epsilon": "0.01032 (eV, argon)"}}
_EXTRAS = {"tblite": "xtb", "openmm": "openmm"}  # import name → extra that installs it


def make_calculator(config: CalculatorConfig) -> BaseCalculator:
    """The calculator a configuration names.

    `lj` cuts off smoothly and needs `sigma` (Å) and `epsilon` (eV); for argon 3.405 and 0.01032. `openmm`
    needs `system`, or `forcefield` and `topology` (see `openmm_system.OpenMM`). Raises ConfigError if it is
    not installed, not found or does not take its arguments.
    """
    path = _BUILT_IN[config.name] if config.name else str(config.import_)
    for key, example in _REQUIRED.get(config.name or "", {}).items():
        if key not in config.arguments:
            raise ConfigError(f"calculator.arguments: {config.name} needs {key}, such as {key}: {example}")
    try:
        kind = _load(path)
        if config.name in ("emt", "lj", "tblite"):  # ASE's base class takes any argument without a word
            _check_arguments(config.arguments, kind.default_parameters)
        calculator = kind(**_DEFAULTS.get(config.name or "", {}) | config.arguments)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"calculator.arguments: {path} does not take {config.arguments} ({error})"
        ) from error
    if not (hasattr(calculator, "get_property") and hasattr(calculator, "reset")):
        raise ConfigError(f"calculator: {path} is not an ASE calculator")
    return calculator


def describe_calculator(config: CalculatorConfig) -> dict[str, Any]:
    """A JSON description: name or import path, arguments, and the version of the package it comes from."""
    path = _BUILT_IN[config.name] if config.name else str(config.import_)
    package = path.split(".", 1)[0].split(":")[0]
    provider = config.name if config.name in _EXTRAS else package
    return {
        "name": config.name or path,
        "class": path,
        "arguments": _DEFAULTS.get(config.name or "", {}) | config.arguments,
        "version": f"{provider} {installed_version(provider)}",
    }


def _check_arguments(arguments: dict[str, Any], known: dict[str, Any]) -> None:
    for key in arguments.keys() - known.keys():
        raise ConfigError(f"calculator.arguments.{key}: unknown; known are {', '.join(sorted(known))}")


def _load(path: str) -> Any:
    module_name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        extra = _EXTRAS.get((getattr(error, "name", None) or "").split(".")[0])
        remedy = f"pip install 'symstride[{extra}]'" if extra else "install it, or correct the import path"
        raise ConfigError(f"calculator: {module_name} cannot be imported ({error}); {remedy}") from error
    if not hasattr(module, attribute):
        raise ConfigError(f"calculator: {module_name} has no {attribute}")
    return getattr(module, attribute)
