"""Draws docs/aluminium.png and fills README's tables from benchmarks/results/*.json."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent
STYLES = {
    "explicit": ("C0", "o", "explicit action"),
    "processed": ("C4", "P", "explicit action, processed"),
    "s3": ("C1", "s", "implicit action S³"),
    "corrected": ("C2", "D", "S³ from a predicted first guess"),
    "s3-dressed": ("C3", "v", "S³ dressed by the explicit action"),
    "verlet-rival": ("0.5", "^", "velocity Verlet, same network"),
}
MOLECULES = ("ethanol", "paracetamol", "dipeptide", "dipeptide-water")
TRANSFER = ("temperature", "composition", "strides", "masses")
VARYING = ("system", "atoms")  # columns of tables in which they are not all the same


def main() -> None:
    aluminium, water, baths, ghmc = map(results, ("aluminium", "water", "baths", "ghmc"))
    molecules = [r for name in MOLECULES for r in results(name)["rows"]]
    transfer = [results(f"transfer-{study}") for study in TRANSFER]
    fill_readme("aluminium", aluminium, [cells(r) for r in aluminium["rows"] if shown(r)])
    fill_readme("water", water, [cells(r) for r in water["rows"] if shown(r)])
    fill_readme("molecules", {"rows": molecules}, [cells(r) for r in molecules if shown(r)])
    fill_readme("baths", baths, [bath_cells(r) for r in baths["rows"]])
    fill_readme("ghmc", ghmc, [sampling_cells(r) for r in ghmc["rows"]])
    rows = [row for study in zip(TRANSFER, transfer, strict=True) for row in summary(*study)]
    fill_readme("transfer", {"rows": [r for found in transfer for r in found["rows"]]}, rows)
    draw(aluminium["rows"])


def results(name: str) -> dict:
    """With each row where and when it was made."""
    found = json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())
    made = {"processor": found["machine"]["processor"], "date": found["date"]}
    return found | {"rows": [made | r for r in found["rows"]]}


def fill_readme(name: str, document: dict, rows: list[dict[str, str]]) -> None:
    """Puts the rows between README's two comments."""
    columns = [c for c in rows[0] if any(r[c] for r in rows)]
    columns = [c for c in columns if c not in VARYING or len({r[c] for r in rows}) > 1]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(r[c] for c in columns) + " |" for r in rows]
    made = sorted({(r["processor"], r["date"]) for r in document["rows"]})
    where = ", and ".join(f"{processor}, {day}" for processor, day in made)
    lines += ["", f"{where}; one thread; with one standard error."]
    path, source = ROOT / "README.md", f"<!-- figures: benchmarks/{name}.py -->"
    table = f"{source}\n\n" + "\n".join(lines) + "\n\n<!-- end of figures -->"
    pattern = re.escape(source) + ".*?<!-- end of figures -->"
    path.write_text(re.sub(pattern, lambda _: table, path.read_text(), flags=re.DOTALL))


def shown(r: dict) -> bool:
    """Of methods that divide a stride those steps alone that say what the learned one is worth; walls of one
    system."""
    if "step_fs" not in r:
        return r.get("replicas", 1) == 1
    return r["step_fs"] in (0.5, 1.0) if r["method"].startswith("verlet") else r["gradients_per_stride"] == 2


def cells(r: dict) -> dict[str, str]:
    error = drift = ""
    if r.get("momentum_error") is not None:
        error = f"{100 * r['momentum_error']:.2f} / {100 * r['position_error']:.2f}"
    if r.get("drift_mev_per_atom_per_ps") is not None:
        drift = f"{r['drift_mev_per_atom_per_ps']:.4f} ± {r['drift_stderr']:.4f}"
    if r.get("failed"):
        drift += f" until it failed, after {r['failed']['ps']:.1f} ps"
    return {
        "system": r.get("system", ""),
        "atoms": str(r.get("n_atoms", "")),
        "method": r["method"],
        "stride, fs": f"{r['stride_fs']:g}",
        "step, fs": f"{r['step_fs']:g}" if "step_fs" in r else "",
        "gradients per ps": f"{r['gradients_per_ps']:.1f}",
        "wall, s/ps": f"{r['wall_s_per_ps']:.3f}" if "wall_s_per_ps" in r else "",
        "run": f"{r['starts']} × {r['length_ps']:.3g} ps" if "starts" in r else "",
        "error p / q, %": error,
        "torsions, σ": ", ".join(f"{k} {t['rms_sigma']:.2f}" for k, t in r.get("torsions", {}).items()),
        "drift, meV/atom/ps": drift,
        "T(H), K": kelvins(r, "H"),
        "T(O), K": kelvins(r, "O"),
    }


def kelvins(r: dict, element: str) -> str:
    found = (r.get("equipartition") or {}).get(element)
    return f"{found['kelvin']:.1f} ± {found['stderr']:.1f}" if found else ""


def bath_cells(r: dict) -> dict[str, str]:
    def said(name: str, digits: int) -> str:
        return "{:.{n}f} ± {:.{n}f}".format(*r[name], n=digits) if name in r else ""

    return {
        "bath": r["method"],
        "barostat": r.get("barostat") or "",
        "stride, fs": f"{r['stride_fs']:g}",
        "run": f"{r['starts']} × {r['length_ps']:.3g} ps" if "starts" in r else "",
        "T, K": said("temperature_K", 1),
        "⟨V⟩, meV/atom": said("potential_mev_per_atom", 2),
        "⟨u²⟩, Å²": said("amplitude_A2", 5),
        "pressure, bar": said("mean_pressure_bar", 0),
        "volume, Å³/atom": said("volume_A3_per_atom", 4),
        "energy less heat, meV/atom/ps": said_drift(r.get("drift")),
    }


def said_drift(drift: dict | None) -> str:
    return "" if drift is None else f"{drift['mev_per_atom_per_ps']:.4f} ± {drift['stderr']:.4f}"


def sampling_cells(r: dict) -> dict[str, str]:
    cost = f"{r['true_energies_per_independent_sample']:.0f}"
    cost += f" ± {r['true_energies_stderr']:.0f}" if "true_energies_stderr" in r else ""
    return {
        "system": r["system"],
        "method": r["method"],
        "stride": f"{r['step_fs']:g} fs" if "step_fs" in r else f"{r['step']:g}",
        "strides a move": str(r.get("strides", "")),
        "accepted": f"{100 * r['acceptance']:.0f} %" if "acceptance" in r else "",
        "energies or gradients a sample": cost,
        "⟨V⟩, kT an atom": f"{r['potential_kT_per_atom']:.3f} ± {r['potential_stderr']:.3f}",
        "heat capacity, k an atom": f"{r['heat_capacity_k_per_atom']:.2f} ± {r['heat_capacity_stderr']:.2f}",
    }


def summary(study: str, results: dict) -> Iterator[dict[str, str]]:
    """Of each model at each stride: the range of its errors, and the largest drift."""
    rows = results["rows"]
    for model, stride in dict.fromkeys((r["model"], r["stride_fs"]) for r in rows):
        mine = [r for r in rows if (r["model"], r["stride_fs"]) == (model, stride)]
        sound = [r for r in mine if not r["failed"] and r.get("drift_mev_per_atom_per_ps") is not None]
        worst = max(sound, key=lambda r: abs(r["drift_mev_per_atom_per_ps"]), default=None)
        failed = [r["system"] for r in mine if r["failed"] or "unmeasured" in r]
        yield {
            "": study,
            "model of": model,
            "stride, fs": f"{stride:g}",
            "trained on: error p, %": errors(r for r in mine if r["seen"]),
            "not: error p, %": errors(r for r in mine if not r["seen"]),
            "largest drift, meV/atom/ps": "" if worst is None else drift(worst),
            "failed": ", ".join(failed),
        }


def drift(r: dict) -> str:
    return f"{r['drift_mev_per_atom_per_ps']:.3f} ± {r['drift_stderr']:.3f} ({r['system']})"


def errors(rows: Iterable[dict]) -> str:
    found = sorted((100 * r["momentum_error"], r["system"]) for r in rows)
    if len(found) < 2:
        return "".join(f"{error:.2f}" for error, _ in found)
    return f"{found[0][0]:.2f} – {found[-1][0]:.2f} ({found[-1][1]})"


def draw(rows: list[dict]) -> None:
    """Drift, and the bias of the fastest vibration, against cost; failed runs are hollow."""
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for method, (color, marker, label) in STYLES.items():
        for r in (r for r in rows if r["method"] == method):
            style = dict(fmt=marker, color=color, capsize=2, mfc="white" if r["failed"] else color)
            drift, error = abs(r["drift_mev_per_atom_per_ps"]), 2 * r["drift_stderr"]
            low = min(error, 0.9 * drift)
            peak = [c for c in r["comparisons"] if c["name"].startswith("Peak")][-1]
            bias = abs(peak["value"] - peak["reference"])
            spread = 2 * (peak["stderr"] ** 2 + peak["reference_stderr"] ** 2) ** 0.5
            for axes, y, bars in (
                (left, drift, ([low], [error])),
                (right, bias, ([min(spread, 0.9 * bias)], [spread])),
            ):
                axes.errorbar(r["gradients_per_ps"], y, bars, label=label, **style)
                axes.annotate(
                    f"{r['stride_fs']:g} fs", (r["gradients_per_ps"], y), (5, 4),
                    textcoords="offset points", fontsize=8,
                )  # fmt: skip
            label = None
    for axes, name in ((left, "|drift|, meV/atom/ps"), (right, "|bias of the fastest peak|, cm⁻¹")):
        axes.set(xscale="log", yscale="log", xlabel="gradients a picosecond", ylabel=name)
    left.legend(frameon=False, fontsize=8)
    figure.suptitle("Aluminium, 32 atoms, 300 K (bars: 2 standard errors; hollow: the run failed)")
    figure.savefig(ROOT / "docs/aluminium.png", dpi=160)


if __name__ == "__main__":
    main()
