"""What an extension came to, as figures and as a picture."""

from pathlib import Path
from typing import Any

from symstride.data.files import replacing


def describe(record: dict[str, Any]) -> str:
    """The end of an extension, or where it stands, in one line."""
    first, last = record["rounds"][0], record["rounds"][-1]
    stride, trainings = f"{record['stride_fs']:g}", len(record["rounds"]) - 1
    errors = ", ".join(
        f"{domain} {100 * by[stride]['momentum']:.2f}/{100 * by[stride]['position']:.2f} %"
        for domain, by in last["errors"].items()
        if stride in by
    )
    state = "quiet" if record["status"] == "quiet" else "not quiet"
    return (
        f"{state} after {trainings} training{'s' * (trainings != 1)} and {last['reference_steps']} "
        f"reference steps: {last['alarms_per_ps']:.3g} alarms per ps (at first {first['alarms_per_ps']:.3g})"
        + (f"; momentum/position errors at {stride} fs: {errors}" if errors else "")
    )


def draw(record: dict[str, Any], path: Path) -> None:
    """Errors, and alarms beside them, against reference steps spent, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    rows, stride = record["rounds"], f"{record['stride_fs']:g}"
    for domain, color in (("old", "C0"), ("new", "C1")):
        for name, style in (("momentum", "o-"), ("position", "s--")):
            known = [(r["reference_steps"], r["errors"][domain]) for r in rows if domain in r["errors"]]
            points = [(steps, by[stride][name]) for steps, by in known if stride in by]
            left.plot(
                [n for n, _ in points], [e for _, e in points], style, color=color, label=f"{name}, {domain}"
            )
    left.set(yscale="log", xlabel="reference steps spent", ylabel=f"relative error at {stride} fs")
    left.legend(fontsize=8)
    right.plot([r["reference_steps"] for r in rows], [r["alarms_per_ps"] for r in rows], "o-", color="C3")
    right.set(ylim=(0, None), xlabel="reference steps spent", ylabel="alarms per ps")
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=150)
