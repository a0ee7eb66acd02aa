"""`symstride verify`."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    run: Annotated[Path, typer.Argument(help="the directory of a run")],
    reference: Annotated[
        str | None, typer.Option(help="reference trajectories to compare with, such as 'reference/*.h5'")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="the run's model, if it was moved")] = None,
    out: Annotated[
        Path | None, typer.Option(help="directory for the report; the run's own by default")
    ] = None,
) -> None:
    """Judge a run: report.json and report.html with a plain verdict."""
    from glob import glob

    from symstride.data import h5md
    from symstride.errors import DataError
    from symstride.verify import verify

    paths = sorted(glob(reference)) if reference else []
    if reference and not paths:
        raise DataError(f"{reference}: no reference trajectories there")
    report = verify(run, [h5md.read(Path(path)) for path in paths], model, out)
    verdict = report["verdict"]
    typer.echo(f"{verdict['level']}: {verdict['summary']}")
    typer.echo((out or run) / "report.html")
