"""`symstride train`."""

import warnings
from pathlib import Path
from typing import Annotated

import typer

from symstride.cli.progress import step_bar


def command(
    config: Annotated[Path, typer.Argument(help="YAML: data, map, schedule, output")],
    coordinator: Annotated[
        str | None, typer.Option(help="HOST:PORT of process 0, where srun or mpirun do not start them")
    ] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="how many train together")] = None,
    process: Annotated[int | None, typer.Option(min=0, help="which of them this is, from 0 on")] = None,
) -> None:
    """Learn a map from reference trajectories, in one process or in several; run again to go on after a
    stop."""
    from symstride.train.devices import leading, together

    with together(coordinator, processes, process):
        _train(config, quiet=not leading())


def _train(config: Path, quiet: bool) -> None:
    from symstride.data.config import load_config
    from symstride.train.config import TrainConfig
    from symstride.train.loop import train
    from symstride.train.plots import describe, learning_curve

    settings = load_config(config, TrainConfig)
    if quiet:
        with warnings.catch_warnings(action="ignore"):
            train(settings)
        return
    with step_bar("training") as bar, warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: bar.console.print(f"warning: {message}")
        task = bar.add_task("", total=None)

        def report(step: int, total: int, entry: dict | None) -> None:
            bar.update(task, completed=step, total=total)
            if entry:
                bar.console.print(describe(entry))

        model = train(settings, report)
    learning_curve(model.provenance["history"], settings.output.with_suffix(".png"))
    typer.echo(f"{settings.output}: {describe(model.provenance['validation'])}")
