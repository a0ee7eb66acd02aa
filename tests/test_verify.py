"""From a run to its report: every figure there, and structure as exact as the map claims."""

import json

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

from symstride.cli import app
from symstride.data.config import CalculatorConfig
from symstride.errors import DataError, ModelError
from symstride.simulate.output import Output
from symstride.simulate.run import run
from symstride.verify import verify
from test_run import NETWORK, lattice, make_model, models, settings  # noqa: F401

jax.config.update("jax_enable_x64", True)

SOFT = CalculatorConfig(name="lj", arguments={"sigma": 2.0, "epsilon": 1e-5})  # about what the map feels
BARS = {"symplectic_defect": 1e-11, "reversal_error_angstrom": 1e-9, "momentum_drift": 1e-11}


@pytest.fixture(scope="module", params=["s3", "processed"])
def done(request, lattice, tmp_path_factory):  # noqa: F811
    """A finished run in float32, two replicas, true energies; too soft and short for atoms to collide."""
    folder = tmp_path_factory.mktemp("run")
    kind, processor = request.param, None
    if kind == "processed":
        kind, processor = "explicit", NETWORK
    soft = make_model(folder / "soft.safetensors", kind, energy=1e-5, processor=processor)
    given = {"length_ps": 0.08, "stride_fs": 8, "calculator": SOFT, "replicas": 2, "precision": "float32"}
    return run(soft, lattice, folder / "out", settings(**given))


def test_report_has_every_figure(done):
    verify(done, Output(done).trajectories())
    report = json.loads((done / "report.json").read_text())
    for key, bar in BARS.items():
        assert 0 <= report["structure"][key] <= bar, key
    assert report["structure"]["reversal_strides"] == 100
    assert 100 <= report["structure"]["momentum_strides"] <= 1000
    assert report["stride_fs"] == 8
    assert report["n_atoms"] == 32
    assert report["validation"] == {"momentum_error": 0.004, "position_error": 0.003}
    gradients = report["cost"]["gradients_per_stride"]
    assert gradients == 2 if report["method"] == "explicit" else gradients >= 1
    assert report["cost"]["gradients_per_ps"] == pytest.approx(gradients * 125)
    assert report["cost"]["wall_s_per_ps"] > 0
    for section in (report["drift"], report["equipartition"]["Al"]):
        assert np.isfinite(section["stderr"])
    assert np.isfinite(report["drift"]["mev_per_atom_per_ps"])
    assert report["equipartition"]["Al"]["kelvin"] == pytest.approx(600, rel=0.05)  # hardly any forces
    assert report.get("solver", {"unconverged": 0})["unconverged"] == 0
    extra = report["cost"]["processor_gradients_per_output"]
    assert ("solver" in report) == (report["method"] == "s3" or extra is not None)
    assert extra is None or extra >= 2
    assert report["verdict"]["level"] in ("trust", "trust with care", "do not trust")
    assert "<svg" in (done / "report.html").read_text()


def test_incomplete_and_wrong(models, lattice, tmp_path):  # noqa: F811
    with pytest.raises(DataError, match=r"no run\.json"):
        verify(tmp_path)

    class Stopped(Exception):
        pass

    def stop(strides: int, *_) -> None:
        if strides >= 15:
            raise Stopped

    out = tmp_path / "out"
    with pytest.raises(Stopped):
        run(models["explicit"], lattice, out, settings(), stop)
    assert len(Output(out).segments.paths) == 3
    done = CliRunner().invoke(app, ["verify", str(out), "--out", str(tmp_path / "report")])
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["duration_ps"] == pytest.approx(0.24)
    assert any("not complete" in note for note in report["notes"])
    assert "drift" not in report  # no calculator
    other = make_model(tmp_path / "other.safetensors", orders=1)
    with pytest.raises(ModelError, match="not the model of this run"):
        verify(out, model=other)
    lost = CliRunner().invoke(app, ["verify", str(out), "--reference", str(tmp_path / "*.h5")])
    assert lost.exit_code == 1
    assert "no reference trajectories" in lost.output
