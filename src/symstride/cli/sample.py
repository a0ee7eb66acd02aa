"""`symstride sample`."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    config: Annotated[Path, typer.Argument(help="YAML: structure, calculator, lengths, output")],
) -> None:
    """Make short reference trajectories with any ASE calculator; run again to go on after a stop."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from symstride.data.config import SampleConfig, load_config
    from symstride.data.sample import sample

    settings = load_config(config, SampleConfig)
    columns = (
        TextColumn("sampling"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps,"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, TextColumn("left")) as bar:
        task = bar.add_task("", total=None)
        paths = sample(settings, lambda done, total: bar.update(task, completed=done, total=total))
    typer.echo(f"{len(paths)} trajectories of {settings.length_ps:g} ps in {settings.output}")
