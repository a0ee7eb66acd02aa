"""Draws docs/aluminium.png and fills README's table from benchmarks/results/aluminium.json."""

import json
import re
from pathlib import Path

from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent
STYLES = {
    "explicit": ("C0", "o", "explicit action"),
    "s3": ("C1", "s", "implicit action S³"),
    "verlet-rival": ("0.5", "^", "velocity Verlet, same network"),
}


def main() -> None:
    results = json.loads((ROOT / "benchmarks/results/aluminium.json").read_text())
    fill_readme(results)
    draw(results["rows"])


def fill_readme(results: dict) -> None:
    """Puts the rows between README's two comments."""
    columns = (
        "method",
        "stride, fs",
        "gradients per ps",
        "wall, s/ps",
        "error p / q, %",
        "drift, meV/atom/ps",
    )
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for r in results["rows"]:
        error = drift = ""
        if r.get("momentum_error") is not None:
            error = f"{100 * r['momentum_error']:.2f} / {100 * r['position_error']:.2f}"
        if r.get("drift_mev_per_atom_per_ps") is not None:
            drift = f"{r['drift_mev_per_atom_per_ps']:.4f} ± {r['drift_stderr']:.4f}"
        if r.get("failed"):
            drift = f"failed after {r['failed']['ps']:.1f} ps"
        figures = (f"{r['stride_fs']:g}", f"{r['gradients_per_ps']:.1f}", f"{r['wall_s_per_ps']:.3f}")
        lines.append("| " + " | ".join((r["method"], *figures, error, drift)) + " |")
    machine = results["machine"]["processor"]
    lines += ["", f"{machine}, one thread, {results['date']}; drift over four starts, one standard error."]
    path = ROOT / "README.md"
    table = "<!-- figures: benchmarks/aluminium.py -->\n\n" + "\n".join(lines) + "\n\n<!-- end of figures -->"
    text = re.sub(
        r"<!-- figures: .*?<!-- end of figures -->", lambda _: table, path.read_text(), flags=re.DOTALL
    )
    path.write_text(text)


def draw(rows: list[dict]) -> None:
    """Drift against cost."""
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
