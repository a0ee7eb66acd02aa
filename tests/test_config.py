"""Configurations: what is right is read, what is wrong is named."""

import pytest

from symstride.data.calculators import make_calculator
from symstride.data.config import CalculatorConfig, SampleConfig, load_config
from symstride.errors import ConfigError
from symstride.extend.config import ExtendConfig

GOOD = """
structure: {bulk: Al, cubic: true, a: 4.0, repeat: [2, 2, 2]}
calculator: {name: emt}
temperature_K: [300, 5e2]
trajectories: 4
length_ps: 1
timestep_fs: 2
every: 4
output: reference
"""


def read(tmp_path, text):
    path = tmp_path / "sample.yaml"
    path.write_text(text)
    return load_config(path, SampleConfig)


def test_good(tmp_path):
    config = read(tmp_path, GOOD)
    assert config.temperature_K == (300.0, 500.0)
    assert config.frames == 126
    assert config.thermalize_steps == 500
    assert read(tmp_path, GOOD.replace("[300, 5e2]", "300")).temperature_K == (300.0,)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("timestep_fs: 2", "timestep_fs: -2", ["timestep_fs", "-2", "greater than 0"]),
        ("timestep_fs: 2", "timestep_fs: .inf", ["timestep_fs", "inf", "finite"]),
        ("timestep_fs: 2", "time_step_fs: 2", ["time_step_fs: unknown key; did you mean timestep_fs?"]),
        ("timestep_fs: 2", "", ["timestep_fs: missing; it is step of the reference"]),
        ("trajectories: 4", "trajectories: many", ["trajectories", "'many'", "integer"]),
        ("[300, 5e2]", "[300, 0]", ["temperature_K.1", "0", "greater than 0"]),
        ("[300, 5e2]", "[]", ["temperature_K", "at least one"]),
        ("length_ps: 1", "length_ps: 0.001", ["length_ps must be at least timestep_fs × every = 8 fs"]),
        ("cubic: true", "cubik: true", ["structure.cubik: unknown key; did you mean cubic?"]),
        ("bulk: Al, ", "", ["structure: give either `file: PATH` or `bulk: Al`"]),
        ("{name: emt}", "{name: emd}", ["calculator.name", "'emd'", "'emt', 'lj', 'tblite' or 'openmm'"]),
        ("{name: emt}", "{import: ase}", ["calculator.import", "'ase'", "pattern"]),
        ("{name: emt}", "{}", ["calculator: give either"]),
        ("{name: emt}", "emt", ["calculator", "'emt'"]),
        ("{name: emt}", "{name: emt", ["not YAML", "line"]),
    ],
)
def test_bad_values(tmp_path, old, new, says):
    assert old in GOOD
    with pytest.raises(ConfigError) as error:
        read(tmp_path, GOOD.replace(old, new))
    message = str(error.value)
    assert len(message.splitlines()) == (2 if "unknown key; did you mean timestep_fs?" in message else 1)
    for part in ("sample.yaml", *says):
        assert part in message


def test_keys_within_settings_of_a_run_are_told_too(tmp_path):
    path = tmp_path / "extend.yaml"
    path.write_text("run: {temperature: 600, calculator: {nam: emt}}\n")
    with pytest.raises(ConfigError) as error:
        load_config(path, ExtendConfig)
    assert "run.temperature: unknown key; did you mean temperature_K?" in str(error.value)
    assert "run.calculator.nam: unknown key; did you mean name?" in str(error.value)


def test_every_problem_has_a_line(tmp_path):
    with pytest.raises(ConfigError) as error:
        read(tmp_path, GOOD.replace("every: 4", "every: 0").replace("trajectories: 4", "trajectories: 0"))
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize("text", ["", "- 1", "hello"])
def test_not_keys_and_values(tmp_path, text):
    with pytest.raises(ConfigError, match="must be `key: value` lines; known keys are calculator, length_ps"):
        read(tmp_path, text)


def test_unreadable(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        load_config(tmp_path / "none.yaml", SampleConfig)


def test_code_in_yaml_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="not YAML"):
        read(tmp_path, GOOD.replace("seed: 0", "") + "seed: !!python/object/apply:os.getpid []\n")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"name": "lj"}, "lj needs sigma, such as sigma: 3.405"),
        (
            {"name": "emt", "arguments": {"asap": True}},
            "calculator.arguments.asap: unknown; known are asap_cutoff",
        ),
        ({"import": "no_such_package:Thing"}, "no_such_package cannot be imported"),
        ({"import": "ase.calculators.emt:EMD"}, "has no EMD"),
        ({"import": "pathlib:Path"}, "not an ASE calculator"),
    ],
)
def test_bad_calculators(config, says):
    with pytest.raises(ConfigError, match=says):
        make_calculator(CalculatorConfig(**config))


@pytest.mark.parametrize(("name", "extra"), [("tblite", "xtb"), ("openmm", "openmm")])
def test_missing_package_names_its_extra(monkeypatch, name, extra):
    import sys

    ours = {"symstride.data.openmm_system", "symstride.data.xtb"}
    for module in [m for m in sys.modules if m.split(".")[0] == name or m in ours]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    arguments = {"system": "a.xml"} if name == "openmm" else {}
    with pytest.raises(ConfigError, match=rf"pip install 'symstride\[{extra}\]'"):
        make_calculator(CalculatorConfig(name=name, arguments=arguments))
