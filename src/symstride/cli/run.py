"""`symstride run`."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def command(
    model: Annotated[Path, typer.Argument(help="a trained model, .safetensors")],
    structure: Annotated[
        Path,
        typer.Argument(help="a structure file, an H5MD trajectory, or a directory or 'pattern*.h5' of them"),
    ],
    out: Annotated[Path, typer.Option(help="directory for the trajectories")] = Path("run"),
    stride_fs: Annotated[float | None, typer.Option(help="the model's longest by default")] = None,
    length_ps: Annotated[float, typer.Option(help="of each replica")] = 10.0,
    temperature: Annotated[
        float | None, typer.Option(help="K; draws momenta (else those of the start are taken)")
    ] = None,
    replicas: Annotated[int | None, typer.Option(help="copies at once; as many as files by default")] = None,
    seed: Annotated[int, typer.Option(help="of the momenta drawn")] = 0,
    every: Annotated[int, typer.Option(help="strides from one kept frame to the next")] = 1,
    frame: Annotated[int, typer.Option(help="of the file to start from; −1 is its last")] = -1,
    calculator: Annotated[
        str | None, typer.Option(help="for true energies: emt, tblite, or FILE.yaml with name and arguments")
    ] = None,
    energies: Annotated[int, typer.Option(help="kept frames from one true energy to the next")] = 1,
    precision: Annotated[Literal["float32", "float64"] | None, typer.Option(help="the model's own")] = None,
    skin: Annotated[float | None, typer.Option(help="Å, of the neighbour lists")] = None,
    unsolved: Annotated[
        Literal["raise", "substep"],
        typer.Option(help="strides an implicit map does not solve: end, or divide"),
    ] = "raise",
    guard: Annotated[
        Literal["warn", "stop", "substep"],
        typer.Option(help="where atoms are unlike the training data: say so, end, or take small steps"),
    ] = "warn",
    thermostat: Annotated[
        Literal["langevin", "csvr", "ghmc"] | None,
        typer.Option(help="a heat bath of the given temperature; ghmc: strides accepted by true energies"),
    ] = None,
    thermostat_ps: Annotated[float, typer.Option(help="in which it forgets momenta")] = 1.0,
    ghmc_strides: Annotated[int, typer.Option(help="of ghmc: from one true energy to the next")] = 1,
    barostat: Annotated[
        Literal["isotropic", "flexible"] | None,
        typer.Option(help="constant pressure; the cell grows alike in all directions, or changes its shape"),
    ] = None,
    pressure_bar: Annotated[float, typer.Option(help="of the barostat")] = 1.0,
    barostat_ps: Annotated[float, typer.Option(help="in which it forgets volumes")] = 1.0,
    compressibility: Annotated[
        float, typer.Option(help="1/bar, about the system's: no average depends on it")
    ] = 4.5e-5,
    extxyz: Annotated[bool, typer.Option("--extxyz", help="write extended XYZ files too")] = False,
) -> None:
    """Run a model with long strides, at constant energy, or in a heat bath and at a pressure; run again to go
    on after a stop."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from symstride.simulate.output import Output
    from symstride.simulate.run import RunSettings, run

    settings = RunSettings(
        stride_fs=stride_fs,
        length_ps=length_ps,
        temperature_K=temperature,
        replicas=replicas,
        seed=seed,
        every=every,
        frame=frame,
        calculator=_calculator(calculator),
        energies=energies,
        precision=precision,
        skin=skin,
        unsolved=unsolved,
        guard=guard,
        thermostat=thermostat,
        thermostat_ps=thermostat_ps,
        ghmc_strides=ghmc_strides,
        barostat=barostat,
        pressure_bar=pressure_bar,
        barostat_ps=barostat_ps,
        compressibility=compressibility,
        extxyz=extxyz,
    )
    before = Output(out).record().get("status")
    columns = (
        TextColumn("running"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %, {task.fields[speed]}"),
    )
    with Progress(*columns, TimeRemainingColumn(), TextColumn("left")) as bar:
        task = bar.add_task("", total=None, speed="compiling")

        def report(done: int, total: int, speed: float) -> None:
            shown = f"{speed:.3g} ns/day" if speed == speed else "compiling"
            bar.update(task, completed=done, total=total, speed=shown)

        run(model, structure, out, settings, report)
    record = Output(out).record()
    if before == "finished":
        typer.echo(f"{out}: finished before, {record['length_ps']:g} ps; nothing to do")
        return
    rate, used = record["wall_s_per_ps"], record["settings"]
    extra = record["processor_gradients_per_output"]
    moves, independent = record["moves"], record.get("independent") or {}
    typer.echo(
        f"{out}: {used['replicas']} × {record['length_ps']:g} ps at {used['stride_fs']:g} fs, "
        f"{record['gradients_per_stride']:.3g} gradients a stride"
        + (f", {extra:.2g} more at an output" if extra is not None else "")
        + (f", {record['divided_strides']} strides divided" if used["unsolved"] == "substep" else "")
        + (f", {moves['acceptance']:.3g} of the moves accepted" if moves else "")
        + (", {true_energies_per_sample:.3g} energies a sample".format(**independent) if independent else "")
        + (f", {rate:.3g} s/ps" if rate else "")
    )


def _calculator(given: str | None):
    """A built-in name, or a YAML file with `name` or `import`, and `arguments`."""
    from symstride.data.config import CalculatorConfig, load_config
    from symstride.errors import ConfigError

    if given is None:
        return None
    if given in ("emt", "lj", "tblite", "openmm"):
        return CalculatorConfig.model_validate({"name": given})
    if not Path(given).exists():
        raise ConfigError(
            f"calculator: {given} is neither emt, lj, tblite, openmm nor a YAML file that is there"
        )
    return load_config(Path(given), CalculatorConfig)
