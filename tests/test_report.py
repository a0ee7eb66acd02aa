"""The verdict follows from the figures; the files hold them; the page shows them, in a browser too."""

import copy
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from symstride.errors import DataError
from symstride.measure.observables import Curve
from symstride.measure.report import write_report
from symstride.measure.summary import Overlay, Plots
from symstride.measure.verdict import verdict

GOOD = {
    "title": "Sodium chloride <& friends>",
    "method": "explicit",
    "stride_fs": 16.0,
    "n_atoms": 64,
    "n_starts": 4,
    "duration_ps": 50.0,
    "temperature_kelvin": 300.0,
    "structure": {"symplectic_defect": 2e-15, "reversal_error_angstrom": 1e-12, "momentum_drift": 3e-15},
    "drift": {
        "mev_per_atom_per_ps": 0.004,
        "stderr": 0.001,
        "white_noise_estimate": 0.01,
        "ratio_to_white_noise": 0.4,
    },
    "stability": {"starts": 4, "failures": 0, "lower_ps": 66.0, "first_failure_ps": [None] * 4},
    "temperature": {"kelvin": 301.0, "stderr": 2.0},
    "equipartition": {
        "Na": {"kelvin": 301.5, "stderr": 2.5, "excess_kelvin": 0.5, "excess_stderr": 0.9},
        "Cl": {"kelvin": 300.5, "stderr": 2.5, "excess_kelvin": -0.5, "excess_stderr": 0.9},
    },
    "comparisons": [
        {
            "name": "Peak at 150 cm⁻¹",
            "unit": "cm⁻¹",
            "value": 150.4,
            "stderr": 0.3,
            "reference": 150.0,
            "reference_stderr": 0.4,
            "bar": 3.0,
        }
    ],
    "curves": {"RDF Na-Cl": {"difference": 0.01, "noise": 0.012, "rms_sigma": 0.9}},
    "spectrum": {
        "nyquist_cm1": 1042.0,
        "resolution_cm1": 15.0,
        "peaks_cm1": [{"value": 150.4, "stderr": 0.3}],
    },
    "cost": {"gradients_per_stride": 2, "gradients_per_ps": 125.0, "wall_s_per_ps": 0.4},
    "validation": {"momentum_error": 0.004, "position_error": 0.003},
    "notes": [],
}


def changed(**sections) -> dict:
    report = copy.deepcopy(GOOD)
    for path, value in sections.items():
        *parents, last = path.split("__")
        place = report
        for key in parents:
            place = place[key]
        place[last] = value
    return report


def example() -> Plots:
    rng = np.random.default_rng(0)
    x = np.linspace(0.05, 6, 100)
    g = Curve(x, np.exp(-((x - 3) ** 2)), np.full(100, 0.02))
    k = np.linspace(0, 1042, 200)
    dos = Curve(k, np.exp(-(((k - 150) / 30) ** 2)), np.full(200, 0.01))
    times = np.linspace(0, 50, 300)
    energies = 0.004 * times + 0.05 * rng.normal(size=(4, 300))
    return Plots(times, energies, {"Na-Cl": Overlay(g, g)}, Overlay(dos, dos), Overlay(g))


def grades(report: dict) -> dict[str, str]:
    return {reason["criterion"]: reason["grade"] for reason in verdict(report)["reasons"]}


def test_good_figures_are_trusted():
    found = verdict(GOOD)
    assert found["level"] == "trust"
    assert {reason["grade"] for reason in found["reasons"]} == {"good"}


@pytest.mark.parametrize(
    ("change", "criterion", "grade"),
    [
        ({"structure__symplectic_defect": 5e-10}, "Symplectic", "care"),
        ({"structure__symplectic_defect": 1e-2}, "Symplectic", "bad"),
        ({"structure__momentum_drift": None}, "Momentum", "missing"),
        ({"drift__mev_per_atom_per_ps": 0.06}, "Energy drift", "care"),
        ({"drift__mev_per_atom_per_ps": -0.5}, "Energy drift", "bad"),
        ({"drift__stderr": 0.05}, "Energy drift", "care"),
        ({"drift__ratio_to_white_noise": 8.0}, "Drift's cause", "care"),
        ({"drift": None}, "Energy drift", "missing"),
        ({"stability__failures": 1}, "Stable", "bad"),
        ({"solver": {"steps": 10_000, "unconverged": 1}}, "Solver", "care"),
        ({"solver": {"steps": 100, "unconverged": 5}}, "Solver", "bad"),
        ({"temperature__kelvin": 340.0}, "Temperature", "care"),
        ({"equipartition__Na__excess_kelvin": 5.0}, "Equipartition Na", "care"),
        ({"equipartition__Cl__excess_kelvin": -20.0}, "Equipartition Cl", "bad"),
        ({"equipartition__Cl__excess_stderr": 9.0}, "Equipartition Cl", "care"),
        ({"equipartition": {}}, "Equipartition", "missing"),
        ({"comparisons": [], "curves": {}}, "Observables", "missing"),
        ({"comparisons": [GOOD["comparisons"][0] | {"value": 170.0}]}, "Peak at 150 cm⁻¹", "bad"),
        ({"comparisons": [GOOD["comparisons"][0] | {"value": None}]}, "Peak at 150 cm⁻¹", "care"),
        ({"comparisons": [GOOD["comparisons"][0] | {"stderr": None}]}, "Peak at 150 cm⁻¹", "care"),
        ({"curves__RDF Na-Cl": {"difference": 0.3, "noise": 0.01, "rms_sigma": 9.0}}, "RDF Na-Cl", "bad"),
        ({"curves__RDF Na-Cl": {"difference": 0.3, "noise": 0.3, "rms_sigma": 1.0}}, "RDF Na-Cl", "care"),
        ({"warnings": ["the stride was not trained for"]}, "Use", "care"),
    ],
)
def test_each_figure_counts(change, criterion, grade):
    report = changed(**change)
    assert grades(report)[criterion] == grade
    assert verdict(report)["level"] == ("do not trust" if grade == "bad" else "trust with care")
    assert criterion in verdict(report)["summary"]


def test_an_implicit_map_is_judged_by_its_own_tolerance():
    structure = {
        "symplectic_defect": 3e-6,
        "reversal_error_angstrom": 1e-12,
        "momentum_drift": 1e-15,
        "tolerances": {"symplectic_defect": 1e-5},
    }
    assert grades(changed(structure=structure))["Symplectic"] == "good"


def test_an_empty_report_is_all_missing():
    found = verdict({})
    assert found["level"] == "trust with care"
    assert {reason["grade"] for reason in found["reasons"]} == {"missing"}


def test_json_is_strict(tmp_path):
    report = changed(drift__ratio_to_white_noise=np.inf, stability__mean_ps=float("nan"))
    report["cost"] = {"gradients_per_stride": np.int64(2), "wall_s_per_ps": np.float32(0.5)}
    written = write_report(tmp_path, report, example())

    def refuse(literal: str):
        raise AssertionError(literal)

    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    found = json.loads(text, parse_constant=refuse)
    assert found == written
    assert found["drift"]["ratio_to_white_noise"] is None
    assert found["cost"] == {"gradients_per_stride": 2, "wall_s_per_ps": 0.5}
    assert found["verdict"]["level"] == "trust"


class Page(HTMLParser):
    """Collects what matters: tags balance, ids are unique, nothing is fetched."""

    VOID = frozenset({"meta", "br", "path", "use", "rect"})

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self.handle_startendtag(tag, attrs)

    def handle_startendtag(self, tag, attrs):
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "src", "xlink:href"):
                self.links.append(value)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_page_is_whole_and_self_contained(tmp_path):
    write_report(tmp_path, GOOD, example())
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert not re.search(r"url\((?!#)|@import|<script|<link|<img", text)
    assert text.count("<svg") == 6
    assert "Sodium chloride &lt;&amp; friends&gt;" in text
    assert "Trust" in text
    assert not re.search(r"\bnan\b|\binf\b|None", text)


def test_what_is_missing_is_said(tmp_path):
    write_report(tmp_path, {"n_atoms": 2, "notes": ["Energy drift: no calculator."]}, Plots())
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("Not shown") == 5
    assert "Energy drift: no calculator." in text
    assert "Trust with care" in text


def test_divided_strides_are_told(tmp_path):
    write_report(tmp_path, changed(cost__divided_strides=7), example())
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "7 strides were not solved and divided" in text


def test_a_lone_map_needs_no_reference(tmp_path):
    x = np.linspace(0.1, 6, 50)
    alone = Overlay(Curve(x, np.ones(50), np.full(50, np.nan)))
    write_report(tmp_path, changed(comparisons=[], curves={}), Plots(rdf={"Na-Na": alone}, spectrum=alone))
    assert "No reference was given" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_an_old_report_survives_a_failed_write(tmp_path):
    write_report(tmp_path, GOOD, example())
    before = (tmp_path / "report.html").read_bytes()
    (tmp_path / "report.json").unlink()
    (tmp_path / "report.json").mkdir()  # cannot be replaced by a file
    with pytest.raises(DataError, match=r"report\.json"):
        write_report(tmp_path, changed(title="another"), example())
    assert (tmp_path / "report.html").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome is installed")
def test_a_browser_renders_it(tmp_path):
    write_report(tmp_path, GOOD, example())
    picture = tmp_path / "page.png"
    command = [
        *(str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *(f"--user-data-dir={tmp_path / 'profile'}", "--window-size=700,900", "--hide-scrollbars"),
        *(f"--screenshot={picture}", "--virtual-time-budget=2000", (tmp_path / "report.html").as_uri()),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    from matplotlib.image import imread

    pixels = imread(picture)
    assert pixels.shape[:2] == (900, 700)
    assert len(np.unique(pixels[..., :3].reshape(-1, 3), axis=0)) > 50  # text, not a blank or an error page
    dump = subprocess.run(
        [*command[:-3], "--dump-dom", command[-1]], check=True, capture_output=True, timeout=120, text=True
    )
    assert dump.stdout.count("<svg") == 6
