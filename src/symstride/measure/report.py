"""report.json and report.html: what was measured, drawn and judged. One page, no network, no scripts."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from symstride.data.files import replacing
from symstride.measure import plots as draw
from symstride.measure.format import uncertain
from symstride.measure.summary import Plots
from symstride.measure.verdict import verdict

MARKS = {"good": "✓", "care": "!", "bad": "✕", "missing": "?"}
WORDS = {"good": "within its bar", "care": "with care", "bad": "outside", "missing": "not measured"}
SYMBOLS = {"trust": "good", "trust with care": "care", "do not trust": "bad"}


def write_report(folder: Path, report: Mapping[str, Any], plots: Plots) -> dict[str, Any]:
    """Writes report.json and report.html into `folder`, and returns the report with its verdict.

    `report` holds `summarise`'s sections and those of the caller: "structure", "cost", "validation",
    "solver", "provenance", "warnings" and a "title". Numbers that are not finite become null.
    """
    plain = _plain(report)
    plain["verdict"] = verdict(plain)
    page = html(plain, plots)
    for name, text in {
        "report.json": json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False),
        "report.html": page,
    }.items():
        with replacing(Path(folder) / name) as file:
            file.write(text.encode())
    return plain


def _plain(value: Any) -> Any:
    """Dicts, lists, strings, finite numbers and None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int) else str(value)


def html(report: Mapping[str, Any], plots: Plots) -> str:
    """The page, of a report that holds its verdict."""
    found = report["verdict"]
    template = Template(files("symstride.measure").joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(report.get("title") or "Verification"),
        facts=_facts(report),
        grade=SYMBOLS[found["level"]],
        level=escape(found["level"].capitalize()),
        mark=MARKS[SYMBOLS[found["level"]]],
        summary=escape(found["summary"]),
        criteria="\n".join(_criterion(reason) for reason in found["reasons"]),
        figures="\n".join(_figures(report, plots)),
        cost=_cost(report),
        notes=_notes(report),
        provenance=_definitions(report.get("provenance") or {}),
    )


def _facts(report: Mapping[str, Any]) -> str:
    """What was run, in one line of labelled figures."""
    validation = report.get("validation") or {}
    entries = {
        "method": report.get("method"),
        "stride": _number(report.get("stride_fs"), " fs"),
        "atoms": _number(report.get("n_atoms")),
        "run": f"{report.get('n_starts') or '?'} × {_number(report.get('duration_ps'), ' ps')}",
        "temperature": _number(report.get("temperature_kelvin"), " K"),
        "volume": _mean(report.get("volume"), "A3_per_atom", "Å³ an atom"),
        "density": _mean(report.get("density"), "g_per_cm3", "g/cm³"),
        "momentum error": _percent(validation.get("momentum_error")),
        "position error": _percent(validation.get("position_error")),
    }
    return "".join(f"<div><dt>{k}</dt><dd>{escape(str(v))}</dd></div>" for k, v in entries.items() if v)


def _criterion(reason: Mapping[str, str]) -> str:
    grade = reason["grade"]
    return (
        f'<tr><td class="mark {grade}"><span title="{WORDS[grade]}">{MARKS[grade]}</span></td>'
        f'<th scope="row">{escape(reason["criterion"])}</th><td>{escape(reason["measured"])}</td>'
        f'<td>{escape(reason["bar"])}</td><td class="meaning">{escape(reason["meaning"])}</td></tr>'
    )


def _figures(report: Mapping[str, Any], plots: Plots) -> Iterable[str]:
    if plots.energies_mev is not None:
        yield _figure(
            "energy", "True energy", draw.energy(plots, report), _energy_caption(report), height=3.1
        )
    else:
        yield _absent("True energy", "The reference model's energy was not computed along this run.")
    if report.get("equipartition"):
        rows = len(report["equipartition"])
        caption = (
            "Energy spreads evenly over all motion, so every species has the temperature of the whole. "
            "Thick bars are one standard error, thin bars two."
        )
        yield _figure(
            "temperature", "Temperature", draw.temperature(report), caption, height=1.6 + 0.55 * rows
        )
    else:
        yield _absent("Temperature", "The run holds no momenta.")
    structure = report.get("structure") or {}
    if any(
        structure.get(key) is not None
        for key in ("symplectic_defect", "reversal_error_angstrom", "momentum_drift")
    ):
        yield _figure(
            "structure", "Structure", draw.structure(structure), _structure_caption(structure), height=2.3
        )
    else:
        yield _absent("Structure", "The map itself was not examined.")
    compared = any(overlay.reference is not None for overlay in plots.rdf.values())
    missing = "" if compared else " No reference was given to compare with."
    if plots.rdf:
        caption = "How often two atoms are a distance r apart, over what chance would give." + missing
        rows = -(-len(plots.rdf) // 3)
        yield _figure("rdf", "Pair distribution", draw.pairs(plots.rdf), caption, height=0.6 + 2.4 * rows)
    if plots.spectrum is not None:
        nyquist, resolution = report["spectrum"]["nyquist_cm1"], report["spectrum"]["resolution_cm1"]
        caption = (
            "At which frequencies the atoms vibrate. Frames this far apart resolve up to "
            f"{nyquist:.0f} cm⁻¹; faster motion is folded back to below it. Resolution {resolution:.0f} cm⁻¹."
            + missing
        )
        yield _figure("spectrum", "Vibrational spectrum", draw.spectrum(plots.spectrum, nyquist), caption)
    else:
        yield _absent("Vibrational spectrum", "The run is too short for one.")
    if plots.potential is not None:
        caption = (
            "Starts of different energy shift and widen this; a run that samples wrongly changes its shape."
            + missing
        )
        yield _figure("potential", "Potential energy", draw.potential(plots.potential), caption)


def _energy_caption(report: Mapping[str, Any]) -> str:
    drift = report.get("drift") or {}
    text = (
        "The energy of the reference model along the run, of every start. It should stay level; "
        "the band is two standard errors of the drift."
    )
    ratio, noise = drift.get("ratio_to_white_noise"), drift.get("white_noise_estimate")
    if ratio is not None:
        text += (
            f" A learning error of this size would heat by {noise:.2g} meV/atom/ps if it were white noise: "
            f"the drift is {uncertain(ratio, None)} times that."
        )
    return text


def _structure_caption(structure: Mapping[str, Any]) -> str:
    strides = structure.get("reversal_strides"), structure.get("momentum_strides")
    text = "What the map keeps by construction, measured."
    if strides[0]:
        text += f" Reversal after {strides[0]} strides there and {strides[0]} back."
    if strides[1]:
        text += f" Momentum after {strides[1]} strides."
    return text


def _figure(name: str, title: str, plot: Callable[[Figure], None], caption: str, height: float = 3.0) -> str:
    svg = draw.render(name, plot, height=height)
    return f"<figure><h2>{title}</h2>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _absent(title: str, why: str) -> str:
    return (
        f'<figure class="absent"><h2>{title}</h2><p>{MARKS["missing"]} Not shown: {escape(why)}</p></figure>'
    )


def _cost(report: Mapping[str, Any]) -> str:
    """This run and its rivals, by gradients and by wall time."""
    own = report.get("cost") or {}
    if not own:
        return _absent("Cost", "It was not recorded.")
    drift = report.get("drift") or {}
    this = {"method": f"{report.get('method') or 'this run'}", "stride_fs": report.get("stride_fs"), **own}
    this |= {
        "drift_mev_per_atom_per_ps": drift.get("mev_per_atom_per_ps"),
        "drift_stderr": drift.get("stderr"),
    }
    rows = [_cost_row(this, "this")] + [_cost_row(row, "") for row in own.get("rivals") or ()]
    alone = "" if own.get("rivals") else " No rival was timed beside it."
    divided = own.get("divided_strides")
    solved = f" {divided} strides were not solved and divided; their gradients count." if divided else ""
    processor = own.get("processor_gradients_per_output")
    if processor is not None:
        solved += f" Besides, the processor takes {processor:.2g} at each frame kept and the start."
    head = "".join(
        f"<th>{name}</th>"
        for name in (
            "method",
            "stride, fs",
            "gradients a stride",
            "gradients a ps",
            "wall, s a ps",
            "drift, meV/atom/ps",
        )
    )
    return (
        '<figure><h2>Cost</h2><div class="scroll"><table class="cost">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        "<figcaption>A gradient is one evaluation of a model's forces; wall time is this machine's."
        f"{solved}{alone}</figcaption></figure>"
    )


def _cost_row(row: Mapping[str, Any], kind: str) -> str:
    keys = ("stride_fs", "gradients_per_stride", "gradients_per_ps", "wall_s_per_ps")
    drift, stderr = row.get("drift_mev_per_atom_per_ps"), row.get("drift_stderr")
    last = "–" if drift is None else uncertain(drift, stderr)
    cells = "".join(f"<td>{_number(row.get(key)) or '–'}</td>" for key in keys)
    return f'<tr class="{kind}"><th scope="row">{escape(str(row["method"]))}</th>{cells}<td>{last}</td></tr>'


def _notes(report: Mapping[str, Any]) -> str:
    notes = report.get("notes") or []
    if not notes:
        return ""
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"<section><h2>Notes</h2><ul>{items}</ul></section>"


def _definitions(entries: Mapping[str, Any]) -> str:
    if not entries:
        return ""
    rows = "".join(
        f"<div><dt>{escape(str(k))}</dt><dd>{escape(str(v))}</dd></div>" for k, v in entries.items()
    )
    return f'<section><h2>Where it comes from</h2><dl class="provenance">{rows}</dl></section>'


def _number(value: float | None, unit: str = "") -> str:
    return "" if value is None else f"{value:.4g}{unit}"


def _mean(found: Mapping[str, float] | None, name: str, unit: str) -> str:
    return f"{uncertain(found[name], found['stderr'])} {unit}" if found else ""


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2g} %"
