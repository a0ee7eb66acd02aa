"""Draws docs/aluminium.png from benchmarks/results/aluminium.json: cost and drift of a picosecond."""

import json
from pathlib import Path

from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent
STYLES = {
    "explicit": ("C0", "o", "explicit action"),
    "s3": ("C1", "s", "implicit action S³"),
    "verlet-rival": ("0.5", "^", "velocity Verlet, same network"),
}


def main() -> None:
    rows = json.loads((ROOT / "benchmarks/results/aluminium.json").read_text())["rows"]
    figure = Figure(figsize=(6.8, 4.2), layout="constrained")
    axes = figure.subplots()
    for method, (color, marker, label) in STYLES.items():
        found = [r for r in rows if r["method"] == method and r.get("drift_mev_per_atom_per_ps") is not None]
        cost = [r["gradients_per_ps"] for r in found]
        drift = [max(abs(r["drift_mev_per_atom_per_ps"]), 1e-5) for r in found]
        bars = [2 * r["drift_stderr"] for r in found]
        low = [min(b, 0.9 * d) for b, d in zip(bars, drift, strict=True)]
        axes.errorbar(cost, drift, (low, bars), fmt=marker, color=color, label=label, capsize=2)
        for r, x, y in zip(found, cost, drift, strict=True):
            axes.annotate(f"{r['stride_fs']:g} fs", (x, y), (5, 4), textcoords="offset points", fontsize=8)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="gradients a picosecond",
        ylabel="|drift of the true energy|, meV/atom/ps (2 standard errors)",
        title="Aluminium, 32 atoms, 300 K",
    )
    axes.legend(frameon=False)
    figure.savefig(ROOT / "docs/aluminium.png", dpi=160)


if __name__ == "__main__":
    main()
