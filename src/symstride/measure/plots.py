"""The report's figures, as SVG that takes its colours from the page (light, dark, print)."""

import io
import re
from collections.abc import Callable, Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from symstride.measure.format import scientific, uncertain
from symstride.measure.summary import Overlay, Plots
from symstride.measure.verdict import TOLERANCES

# Drawn in these colours, which then become the page's CSS variables.
COLOURS = {
    "#010203": "--ink",
    "#040506": "--muted",
    "#070809": "--line",
    "#0a0b0c": "--run",
    "#0d0e0f": "--reference",
    "#101112": "--good",
    "#131415": "--care",
    "#161718": "--bad",
}
INK, MUTED, LINE, RUN, REFERENCE, GOOD, CARE, BAD = COLOURS
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "lines.linewidth": 1.8,
}


def render(name: str, draw: Callable[[Figure], None], width: float = 7.6, height: float = 3.0) -> str:
    """An inline <svg>; `name` keeps its ids apart from those of the page's other figures."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{name}-", svg)
    for colour, variable in COLOURS.items():
        svg = svg.replace(colour, f"var({variable})")
    return re.sub(
        r'<svg ([^>]*?)width="[^"]*"', r'<svg role="img" \1', re.sub(r'height="[^"]*pt" ', "", svg, count=1)
    )


def energy(plots: Plots, report: Mapping[str, Any]) -> Callable[[Figure], None]:
    """True energy of every start against time, and the drift with its two-sigma fan."""
    drift = report.get("drift") or {}
    times, energies = plots.times_ps, plots.energies_mev
    assert times is not None
    assert energies is not None

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        stride = max(1, len(times) // 400)
        for index, series in enumerate(energies):
            label = "each start" if index == 0 else None
            axes.plot(times[::stride], series[::stride], color=RUN, lw=0.9, alpha=0.45, label=label)
        ends = np.array(
            (report.get("stability") or {}).get("first_failure_ps") or [None] * len(energies), float
        )
        stable = np.where(times < np.nan_to_num(ends, nan=np.inf)[:, None], energies, np.nan)
        low, high = np.nanmin(stable), np.nanmax(stable)
        margin = 0.08 * (high - low) + 1e-6
        axes.set_ylim(low - margin, high + margin)
        slope, stderr = drift.get("mev_per_atom_per_ps"), drift.get("stderr")
        if slope is not None and stderr is not None:
            common = np.isfinite(stable).all(axis=0)
            middle = times[common].mean()
            line = stable[:, common].mean() + slope * (times - middle)
            fan = 2 * stderr * np.abs(times - middle)
            axes.fill_between(times, line - fan, line + fan, color=REFERENCE, alpha=0.18, lw=0)
            label = f"drift {uncertain(slope, stderr)} meV/atom/ps"
            axes.plot(times, line, color=REFERENCE, lw=2.2, label=label)
        axes.set(xlabel="time (ps)", ylabel="true energy − first (meV/atom)", xlim=(times[0], times[-1]))
        _legend(figure)

    return draw


def temperature(report: Mapping[str, Any]) -> Callable[[Figure], None]:
    """Kinetic temperatures with one- and two-sigma bars, and the target."""
    species = report["equipartition"]
    rows = species if len(species) == 1 else {"all atoms": report["temperature"], **species}
    target = report.get("temperature_kelvin")

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for y, found in enumerate(rows.values()):
            value, stderr = found["kelvin"], found["stderr"] or 0.0
            colour = MUTED if y < len(rows) - len(species) else RUN
            axes.plot(
                [value - 2 * stderr, value + 2 * stderr], [y, y], color=colour, lw=1.6, solid_capstyle="butt"
            )
            axes.plot([value - stderr, value + stderr], [y, y], color=colour, lw=5, solid_capstyle="butt")
            axes.plot(value, y, "o", color=colour, ms=8)
            axes.annotate(
                f"{uncertain(value, stderr)} K",
                (value, y),
                (0, 9),
                textcoords="offset points",
                ha="center",
                fontsize=9.5,
            )
        if target:
            axes.axvline(target, color=REFERENCE, lw=1.6, label=f"target {target:.4g} K")
            _legend(figure)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set(xlabel="kinetic temperature (K)", ylim=(len(rows) - 0.45, -0.75))
        axes.margins(x=0.25)
        axes.grid(axis="y", visible=False)

    return draw


def structure(found: Mapping[str, Any]) -> Callable[[Figure], None]:
    """Defects on a logarithmic scale, each against its own tolerance."""
    names = {
        "symplectic_defect": "symplectic defect",
        "reversal_error_angstrom": "reversal error (Å)",
        "momentum_drift": "momentum drift",
    }
    rows = [key for key in names if found.get(key) is not None]
    tolerances = TOLERANCES | (found.get("tolerances") or {})
    floor = 10.0 ** np.floor(min(-17.0, *(np.log10(max(found[key], 1e-18)) - 0.5 for key in rows)))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for y, key in enumerate(rows):
            value, tolerance = found[key], tolerances[key]
            colour = GOOD if value <= tolerance else CARE if value <= 100 * tolerance else BAD
            axes.barh(y, max(value, floor), height=0.46, color=colour)
            axes.plot([tolerance] * 2, [y - 0.36, y + 0.36], color=INK, lw=2.2)
        axes.plot([], [], color=INK, lw=2.2, label="tolerance")
        top = 10 * max(max(found[key], tolerances[key]) for key in rows)
        axes.set(xscale="log", xlim=(floor, max(top, 1e-7)), ylim=(len(rows) - 0.4, -0.6))
        axes.set_yticks(range(len(rows)), [f"{names[key]}\n{scientific(found[key])}" for key in rows])
        axes.set_xlabel("smaller is better (1e−16 is rounding in double precision)")
        axes.grid(axis="y", visible=False)
        _legend(figure)

    return draw


def pairs(rdf: Mapping[str, Overlay]) -> Callable[[Figure], None]:
    """g(r) of each pair of species over the reference's."""

    def draw(figure: Figure) -> None:
        columns = min(3, len(rdf))
        grid = figure.subplots(-(-len(rdf) // columns), columns, squeeze=False, sharex=True)
        for axes in grid.flat[len(rdf) :]:
            axes.remove()
        for axes, (pair, overlay) in zip(grid.flat, rdf.items(), strict=False):
            _overlay(axes, overlay)
            axes.set(title=pair.replace("-", "–"), xlabel="r (Å)", ylabel="g(r)", ylim=(0, None))
            axes.set_xlim(0.5 * _onset(overlay), overlay.run.x[-1])
        _legend(figure)

    return draw


def spectrum(overlay: Overlay, nyquist: float) -> Callable[[Figure], None]:
    """Density of states over the reference's, and where the stride stops resolving."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        _overlay(axes, overlay)
        shown = overlay.reference or overlay.run
        total = np.cumsum(shown.value)
        last = shown.x[np.searchsorted(total, 0.998 * total[-1])]
        right = float(max(1.12 * last, 1.15 * nyquist if nyquist < 2 * last else 0.0))
        axes.axvspan(nyquist, max(right, nyquist), color=MUTED, alpha=0.14, lw=0)
        if nyquist < right:
            axes.axvline(nyquist, color=MUTED, lw=1.4, ls=(0, (4, 3)))
            axes.annotate(
                "Nyquist\nlimit",
                (nyquist, 0.97),
                (5, 0),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                va="top",
                fontsize=9,
            )
        axes.set(xlabel="wavenumber (cm⁻¹)", ylabel="density of states", xlim=(0, right), ylim=(0, None))
        axes.set_yticks([])
        _legend(figure)

    return draw


def potential(overlay: Overlay) -> Callable[[Figure], None]:
    """How often each potential energy occurs."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        _overlay(axes, overlay)
        axes.set(xlabel="true potential energy − reference mean (meV/atom)", ylabel="density", ylim=(0, None))
        axes.set_yticks([])
        _legend(figure)

    return draw


def _overlay(axes: Axes, overlay: Overlay) -> None:
    """The run as a line, the reference as a dashed line over it, each in its two-sigma band."""
    styles = [(overlay.run, RUN, "-", "this run"), (overlay.reference, REFERENCE, (0, (3, 2)), "reference")]
    for curve, colour, dashes, label in styles:
        if curve is not None:
            band = 2 * np.nan_to_num(curve.stderr)
            axes.fill_between(curve.x, curve.value - band, curve.value + band, color=colour, alpha=0.2, lw=0)
            axes.plot(curve.x, curve.value, color=colour, ls=dashes, label=label)


def _onset(overlay: Overlay) -> float:
    """Where a pair distribution first differs from zero."""
    filled = np.flatnonzero(overlay.run.value)
    return float(overlay.run.x[filled[0]]) if len(filled) else 0.0


def _legend(figure: Figure) -> None:
    """Above the axes, what the first of them shows."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=4, handlelength=1.8, borderaxespad=0.1)
