"""`symstride sample`."""

from pathlib import Path
from typing import Annotated

import typer

from symstride.cli.progress import step_bar


def command(
    config: Annotated[Path, typer.Argument(help="YAML: structure, calculator, lengths, output")],
    cluster: Annotated[
        str | None,
        typer.Option(
            help="of dask: local, the address of a scheduler (tcp://host:8786), or the file it writes"
        ),
    ] = None,
) -> None:
    """Make short reference trajectories with any ASE calculator; run again to go on after a stop."""
    from symstride.data.config import SampleConfig, load_config
    from symstride.data.sample import sample

    settings = load_config(config, SampleConfig)
    with step_bar("sampling") as bar:
        task = bar.add_task("", total=None)
        paths = sample(settings, lambda done, total: bar.update(task, completed=done, total=total), cluster)
    typer.echo(f"{len(paths)} trajectories of {settings.length_ps:g} ps in {settings.output}")
