"""The learning curve, in words and as a picture."""

from pathlib import Path

from symstride.data.files import replacing


def describe(entry: dict) -> str:
    """One validation in one line: momentum/position errors in percent of thermal size, by stride."""
    strides = ", ".join(
        f"{stride} fs {100 * e['momentum']:.2f}/{100 * e['position']:.2f} %"
        for stride, e in entry["strides_fs"].items()
        if "momentum" in e
    )
    force = f"force {100 * entry['force_error']:.2f} %"
    left_out = f"; {n} steps left out (gradient not finite)" if (n := entry.get("left_out")) else ""
    return f"step {entry['step']}, {entry['seconds']:.0f} s: momentum/position {strides}; {force}{left_out}"


def learning_curve(history: list[dict], path: Path) -> None:
    """Writes the errors against steps as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    steps = [entry["step"] for entry in history]
    for number, stride in enumerate(history[-1]["strides_fs"]):
        for name, style in (("momentum", "-"), ("position", "--")):
            errors = [entry["strides_fs"][stride].get(name, float("nan")) for entry in history]
            axes.plot(steps, errors, style, color=f"C{number}", label=f"{name}, {stride} fs")
    axes.plot(steps, [entry["force_error"] for entry in history], ":", color="gray", label="force")
    axes.set(yscale="log", xlabel="step", ylabel="relative error on validation trajectories")
    axes.legend(fontsize=8, ncols=2)
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=150)
